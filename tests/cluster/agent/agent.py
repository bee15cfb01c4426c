"""tests/cluster/agent/agent.py - an ingest over a line that breaks, with agents and gateways that are killed.

  agent.py FILES CASES CUTS AGENT_KILLS GATEWAY_KILLS [SEED]

All breaks happen while bytes flow, spread over the ingest: each when so many bytes are answered for. Afterwards every
case is committed exactly once (generation 1, all its files), the receipts verify without and with the cluster, what a
researcher reads is what was put, and next to nothing was sent again beyond the chunks that were cut.

Bytes sent again are counted in two ways. What gateways have answered for, by the agent's events, less the files: a byte
that was answered for and sent again, whatever its upload is called then. And what the relays counted, less the files,
less the chunks and packs under way at each break, by the agent's count of what it gave to the connection: anything else.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time

from mk import BUILD, WORK, Cluster, Failed, check, collection, fail, grant, ready, run, until, v1

MIB = 1 << 20
CHUNK = MIB  # what an operator gives a society whose line breaks often: a break costs no more
HERE = os.path.dirname(os.path.abspath(__file__))
failed = Failed()
cluster = Cluster()
STATE = os.path.join(WORK, 'state')
IN = os.path.join(WORK, 'in')


class Line:
    """The relays, and what passed."""

    def __init__(self, seed):
        base = int(cluster.conf['port-base'])
        pairs = ['%d:%s' % (base + 70 + i, cluster.address('gateway-%d' % (i + 1)).split(':')[1]) for i in range(2)]
        self.address = ','.join('127.0.0.1:' + p.split(':')[0] for p in pairs)
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, 'relay.py'), str(seed)] + pairs,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        check(self.process.stdout.readline() == 'ready\n', 'the relay did not start')

    def say(self, *words):
        self.process.stdin.write(' '.join(map(str, words)) + '\n')
        self.process.stdin.flush()
        up, cuts, connections = map(int, self.process.stdout.readline().split())
        return up, cuts, connections

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Agent:
    """`mikura agent run`, again and again over one state folder; its events are kept."""

    def __init__(self, address, *more):
        base = os.path.join(cluster.pki, 'society-ag-a1')
        cluster.certificate('society/ag/a1')
        self.env = dict(os.environ, MIKURA_ADDRESS=address, MIKURA_CA=os.path.join(cluster.pki, 'ca.crt'),
                        MIKURA_CERT=base + '.crt', MIKURA_KEY=base + '.key', HOME=WORK)
        self.command = [os.path.join(BUILD, 'bin/mikura'), 'agent', 'run', IN, '--collection', 'ag', '--state', STATE,
                        '--once', '--profile', 'none', '--json', '--patience', '20s'] + list(more)
        self.log = os.path.join(WORK, 'agent.json')
        self.process = None
        self.starts = self.at = self.answered = 0

    def start(self):
        self.starts += 1
        self.process = subprocess.Popen(self.command, env=self.env, stdout=open(self.log, 'ab'), stderr=open(self.log + '.err', 'ab'))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with open(self.log, 'ab') as f:  # a line may be half written
            f.write(b'\n{"event":"killed"}\n')

    def progress(self):
        """Bytes that gateways have answered for, so far."""
        with open(self.log, 'rb') as f:
            f.seek(self.at)
            for line in f:
                if not line.endswith(b'\n'):
                    break
                self.at += len(line)
                if b'"answered"' in line:
                    try:
                        self.answered += json.loads(line)['bytes']
                    except ValueError:
                        pass  # half a line of one that was killed
        return self.answered

    def events(self):
        with open(self.log, errors='replace') as f:
            for line in f:
                try:
                    e = json.loads(line)
                except ValueError:
                    continue
                yield e


def make_files(files, cases, rng):
    """Mostly small ones, one in a hundred of several chunks."""
    total = 0
    pool = rng.randbytes(32 * MIB)
    for i in range(files):
        n = rng.choice([1, 700, 20000, 65536, 65537, 200000, 524288]) if i % 100 else rng.randrange(2 * MIB, 30 * MIB)
        if i % 97 == 3:
            n = 0
        folder = os.path.join(IN, 'case-%04d' % (i % cases), 'sub' if i % 3 == 0 else '.')
        os.makedirs(folder, exist_ok=True)
        off = rng.randrange(0, len(pool) - n) if n else 0
        with open(os.path.join(folder, 'f%05d.bin' % i), 'wb') as f:
            f.write(b'%016d' % i if n >= 16 else b'')  # no two are alike
            f.write(pool[off:off + max(0, n - 16 if n >= 16 else n)])
        total += n
    return total


def ingest(line, agent, total, cuts, agent_kills, gateway_kills, rng):
    """Breaks in their order of progress; then waits for the end."""
    breaks = sorted([(rng.uniform(0, 0.9), 'cut') for _ in range(cuts)] +
                    [(rng.uniform(0.02, 0.9), 'agent') for _ in range(agent_kills)] +
                    [(rng.uniform(0.02, 0.9), 'gateway') for _ in range(gateway_kills)])
    made = {'cut': 0, 'agent': 0, 'gateway': 0}
    agent.start()
    while agent.process.poll() is None:
        time.sleep(0.003)  # between looks at other processes
        if not breaks or agent.progress() < breaks[0][0] * total:
            continue
        kind = breaks.pop(0)[1]
        made[kind] += 1
        if kind == 'cut':
            line.say('cut', 400000)
        elif kind == 'agent':
            agent.kill()
            agent.start()
        else:
            g = 'gateway-%d' % rng.choice([1, 2])
            cluster('kill', g)
            cluster('start', g)
    check(agent.process.returncode == 0, 'the agent ended with %d: %s' % (
        agent.process.returncode, [e for e in agent.events() if e.get('event') in ('aside', 'trouble')] or
        open(agent.log + '.err').read()[-2000:] + open(agent.log).read()[-1500:]))
    # what came too late in a small run: before or after is as good
    for _, kind in breaks:
        if kind == 'agent':
            made[kind] += 1
            agent.start()
            time.sleep(rng.uniform(0, 0.05))
            agent.kill()
    agent.start()
    check(agent.process.wait() == 0, 'the last run of the agent ended with %d' % agent.process.returncode)
    return made


def sent_again(agent, up, total, connections):
    """Bytes on the way up that are neither new, nor of a chunk that was cut by a break or a kill."""
    out, size, answered, sent, cut, killed, again, cuts = {}, {}, {}, set(), 0, 0, 0, 0
    for e in agent.events():
        name = e.get('event')
        if name == 'try':
            again += e['id'] in sent
            out[e['id']] = size[e['id']] = e['bytes']
        elif name == 'answered':
            out[e['id']] -= e['bytes']
            answered[e['id']] = answered.get(e['id'], 0) + e['bytes']
        elif name == 'sent':
            sent.add(e['id'])
            out.pop(e['id'], None)
        elif name == 'cut':
            cut += e['bytes']
            cuts += 1
        elif name == 'killed':
            killed += sum(min(n, 4 * CHUNK) for n in out.values())  # of a large file its chunks under way
            out = {}
    failed.check(again == 0, '%d uploads were sent again after their answer was journalled' % again)
    # each file is of one upload that ended (an agent may be killed before it says so); what was answered for of
    # others, or in one twice, or the files of two, went again. Less is known of an upload that an earlier run began.
    ended = [i for i in size if i in sent or answered.get(i, 0) >= size[i]]
    twice = sum(max(0, answered.get(i, 0) - size[i]) for i in ended) + max(0, sum(size[i] for i in ended) - total) + \
        sum(n for i, n in answered.items() if i not in ended)
    # framing of many tiny calls and handshakes count too: of a small run they are more than a hundredth
    beyond = max(0, up - total * 1.004 - cut - killed - 8192 * (connections + agent.starts))
    print('  %.1f MiB of files, %.1f MiB on the way up; answered for and sent again: %d bytes, %.2f %%; %d chunks and packs cut '
          'by breaks: %.1f MiB, under way at kills at most %.1f MiB; beyond: %.2f %%' % (
              total / MIB, up / MIB, twice, 100 * twice / total, cuts, cut / MIB, killed / MIB, 100 * beyond / total), flush=True)
    failed.check(twice <= 0.01 * total, 'sent again although answered for: %d bytes' % twice)
    failed.check(beyond <= 0.01 * total, 'sent again beyond the cut chunks: %d bytes' % beyond)


def main():
    files, cases, cuts, agent_kills, gateway_kills = map(int, sys.argv[1:6])
    seed = int(sys.argv[6]) if len(sys.argv) > 6 else 1
    rng = random.Random(seed)
    op = cluster.api('operator/admin')
    ready(op)
    collection(op, 'ag', 'ag', chunk_bytes=CHUNK)
    grant(op, 'ag', 'reader')
    total = make_files(files, cases, rng)
    line = Line(seed)
    agent = Agent(line.address)
    began = time.monotonic()
    made = ingest(line, agent, total, cuts, agent_kills, gateway_kills, rng)
    up, cuts_made, connections = line.say('count')
    print('  %d files in %d cases in %.0f s: %d cuts of %d connections, %d kills of the agent (%d starts), %d of gateways' % (
        files, cases, time.monotonic() - began, cuts_made, connections, made['agent'], agent.starts, made['gateway']), flush=True)
    sent_again(agent, up, total, connections)

    # exactly once
    api = cluster.api('society/ag/a1')
    for i in range(cases):
        c = until('case-%04d' % i, 60, lambda: api.call('Catalog.GetCase', v1('GetCaseRequest', collection='ag', case_id='case-%04d' % i)))
        failed.check(c.generation == 1, 'case-%04d has generation %d' % (i, c.generation))
    committed = [e['case_id'] for e in agent.events() if e.get('event') == 'committed']
    failed.check(len(committed) == len(set(committed)), 'committed twice: %s' % sorted(committed))
    # receipts: offline, then against the store
    keys = os.path.join(WORK, 'keys.json')
    with open(keys, 'w') as f:
        f.write(cluster.mikura('society/ag/a1', 'receipt', 'keys', '--json').stdout)
    receipts = os.path.join(STATE, 'receipts')
    failed.check(len(os.listdir(receipts)) == cases, '%d receipts' % len(os.listdir(receipts)))
    for name in os.listdir(receipts):
        run(os.path.join(BUILD, 'bin/mikura'), 'receipt', 'verify', os.path.join(receipts, name), '--keys', keys, '--quiet')
    got = cluster.mikura('society/ag/a1', 'agent', 'verify', '--state', STATE, '--collection', 'ag', rc=None)
    failed.check(got.returncode == 0 and '%d cases are stored' % cases in got.stdout, 'agent verify: ' + got.stdout)
    # and what is there
    out = os.path.join(WORK, 'out')
    cluster.mikura('researcher/reader', 'get', 'ag', '-o', out, '--quiet')
    run('diff', '-rq', IN, out)
    # the same again: no upload
    up = line.say('count')[0]
    agent.start()
    check(agent.process.wait() == 0, 'a run with nothing to do ended with %d' % agent.process.returncode)
    failed.check(line.say('count')[0] - up < 65536, 'a run with nothing to do sent %d bytes' % (line.say('count')[0] - up))
    line.close()
    failed.end('agent faults')


if __name__ == '__main__':
    if len(sys.argv) < 6:
        fail('usage: agent.py FILES CASES CUTS AGENT_KILLS GATEWAY_KILLS [SEED]')
    main()
