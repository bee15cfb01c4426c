"""tests/cluster/thrash/thrash.py - breaks a cluster of real processes every two seconds, then asks what is left of it.

thrash.py --faults N --seed S [--every SECONDS] [--only KIND,...]; run by `thrash`, in a network and mount namespace of its own.

Every daemon has a network namespace; thrash_net is the only way between them. A fault begins every two seconds and ends by
itself; several hold at a time, within the limits of `Thrasher.room`: enough may be away that nothing can be written for a
while, but a disk is wiped only when every group has its copies elsewhere, by etcd's own record and with the node dead.
After the last one all is healed; then within CLEAN_S every group has all its copies and every gateway says so, every case
is read through every gateway, and the histories (load.py) go to lin.
"""
import argparse
import glob
import heapq
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import load
from mk import BUILD, SOURCE, WORK, Api, Cluster, Proto, Refused, check, collection, grant, ready, v1

STORAGE, GATEWAYS, ETCD, CLIENTS = 5, 3, 3, 4
CLEAN_S = 120
LOOP_DISKS = ('storaged-1', 'storaged-2')  # on a small ext4, which can be filled
LOOP_BYTES = 3 << 30
HERE = os.path.dirname(os.path.abspath(__file__))
cluster = Cluster()
etcd_proto = Proto('etcd/rpc.proto')


class Log:
    def __init__(self, path):
        self.file, self.begun = open(path, 'w', buffering=1), time.monotonic()

    def __call__(self, text):
        line = '%8.3f %s' % (time.monotonic() - self.begun, text)
        self.file.write(line + '\n')
        print(line, flush=True)


class Net:
    """thrash_net: node 0 is this namespace."""

    def __init__(self, names, seed):
        self.number = {n: i + 1 for i, n in enumerate(names)}
        self.p = subprocess.Popen([os.path.join(BUILD, 'bin/thrash_net'), str(len(names) + 1), str(seed)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = []
        for line in self.p.stdout:
            if line == 'ready\n':
                break
            lines.append(line.split())
        if len(lines) != len(names) + 1:
            self.p.wait()
            print('skipped: thrash_net made no namespaces (root and /dev/net/tun are needed)')
            sys.exit(77)
        with open(os.path.join(WORK, 'places'), 'w') as f:
            for n, i in self.number.items():
                f.write('%s %s %s\n' % (n, lines[i][2], lines[i][3]))

    def link(self, a, b, what):
        """a, b: names or '*' ; what: 'cut' or 'DELAY_MS LOSS_PERMILLE KBYTES_PER_S'."""
        self.p.stdin.write('link %s %s %s\n' % (self.number.get(a, a), self.number.get(b, b), what))
        self.p.stdin.flush()
        check(self.p.stdout.readline() == 'ok\n', 'thrash_net refused: link %s %s %s' % (a, b, what))


class Truth:
    """Groups' records in etcd, as etcd has them now."""

    def __init__(self):
        self.apis = [Api(cluster.address(n), cluster.pki, 'node/gateway/gateway-1') for n in names('etcd')]
        prefix = b'/mikura/local/pg/'
        self.request = etcd_proto.message('etcdserverpb.RangeRequest', key=prefix, range_end=prefix[:-1] + b'0')
        self.answer = etcd_proto.methods['/etcdserverpb.KV/Range'][1]

    def groups(self):
        """[(name, in sync, learners, wished)], disk ids, or None: etcd does not answer."""
        for api in self.apis:
            call = api.channel.unary_unary('/etcdserverpb.KV/Range', request_serializer=lambda m: m.SerializeToString(), response_deserializer=self.answer.FromString)
            try:
                rows = {kv.key: kv.value for kv in call(self.request, timeout=2).kvs}
            except Exception:  # grpc's own kind is private; the next member may answer
                continue
            got = []
            for key, v in rows.items():
                if key.endswith(b'/desired'):
                    continue
                disks = [v[56 + 16 * i:72 + 16 * i] for i in range(v[1] + v[2] + v[3])]  # common/placement/README.md
                wish = rows.get(key + b'/desired', b'\x01\x00')
                got.append((key[len(b'/mikura/local/pg/'):].decode(), set(disks[:v[1]]), set(disks[v[1]:v[1] + v[2]]), {wish[4 + 16 * i:20 + 16 * i] for i in range(wish[1])}))
            return got
        return None


def names(kind):
    return [n for n in cluster.names() if n.startswith(kind)]


class Thrasher:
    def __init__(self, seed, log, net):
        self.rnd, self.log, self.net, self.truth = random.Random(seed), log, net, Truth()
        self.away = {}    # daemon -> the fault that holds it
        self.rules = {}   # (a, b) -> rules that hold, the last one counts
        self.ends = []    # heap of (when, number, function)
        self.number = 0
        self.jobs = []    # starts under way
        self.died = []
        self.count = {}

    # ---- processes ----
    def kill(self, name):
        cluster('kill', name)

    def start(self, name):
        """Without waiting: a node that is cut off may never answer."""
        self.jobs.append(subprocess.Popen([os.path.join(SOURCE, 'deploy/cluster'), 'start', name, '--wait', '0', '--dir', cluster.dir],
                                          stdout=subprocess.DEVNULL))

    def settle(self):
        for j in self.jobs:
            if j.wait() != 0:  # it ended at once, e.g. on a full disk: look() starts it again
                self.log('%s does not start' % j.args[2])
        self.jobs = []

    def look(self):
        """What ended although nobody killed it. Not an error where it says why it could not start: etcd was away."""
        self.settle()
        for n in cluster.names():
            if n in self.away or cluster.alive(n):
                continue
            last = cluster.log(n).splitlines()[-40:]
            told = any('start_failed' in line for line in last) or n.startswith('etcd')
            self.log('%s ended by itself%s' % (n, ': ' + last[-1][:200] if last else ''))
            if not told:
                self.died.append((n, last))
            self.start(n)

    # ---- faults: each returns what it does, for the log, and what ends it ----
    def holds(self, kind):
        return sum(n.startswith(kind) for n in self.away)

    def room(self, kind, n=1):
        """Two of five storage nodes, two of three gateways, one of three members (two now and then)."""
        return self.holds(kind) + n <= {'storaged': 2, 'gateway': 2, 'etcd': 1}[kind]

    def pick(self, kind):
        free = [n for n in names(kind) if n not in self.away]
        return self.rnd.choice(free) if free and self.room(kind) else None

    def pick_any(self):
        return self.pick(self.rnd.choices(['storaged', 'gateway', 'etcd'], [6, 2, 2])[0])

    def back(self, name):
        def end():
            self.start(name)
            del self.away[name]
        return end

    def fault_kill(self, name=None):
        name = name or self.pick_any()
        if name is None:
            return None
        self.away[name] = 'kill'
        self.kill(name)
        return 'kill -9 %s' % name, self.rnd.uniform(0.5, 8), self.back(name)

    def fault_kill_etcd_leader(self):
        if not self.room('etcd'):
            return None
        for n in names('etcd'):
            host, port = cluster.address(n).split(':')
            try:
                got = subprocess.run(['curl', '-s', '-m', '1', 'http://%s:%d/metrics' % (host, int(port) + 2)], stdout=subprocess.PIPE, text=True).stdout
            except OSError:
                return None
            if 'etcd_server_is_leader 1' in got and n not in self.away:
                what, seconds, end = self.fault_kill(n)
                return what + ' (leads)', seconds, end
        return None

    def fault_kill_all(self):
        """All storage nodes at once: a power cut."""
        if self.holds('storaged'):
            return None
        for n in names('storaged'):
            self.away[n] = 'kill'
        for n in names('storaged'):
            self.kill(n)

        def end():
            for n in names('storaged'):
                self.start(n)
                del self.away[n]
        return 'kill -9 all storaged', self.rnd.uniform(0.1, 2), end

    def fault_stop(self):
        name = self.pick_any()
        if name is None:
            return None
        pid = cluster.pid(name)
        self.away[name] = 'stop'
        os.kill(pid, signal.SIGSTOP)

        def end():
            os.kill(pid, signal.SIGCONT)
            del self.away[name]
        return 'SIGSTOP %s' % name, self.rnd.uniform(0.3, 7), end

    def daemons(self):
        return [n for n in cluster.names() if not n.startswith('computed')]

    def rule(self, pairs, what):
        for p in pairs:
            self.rules.setdefault(p, []).append(what)
            self.net.link(p[0], p[1], what)

        def end():
            for p in pairs:
                self.rules[p].remove(what)
                self.net.link(p[0], p[1], self.rules[p][-1] if self.rules[p] else '0 0 0')
        return end

    def fault_cut(self):
        a, b = self.rnd.sample(self.daemons(), 2)
        both = self.rnd.random() < 0.5
        end = self.rule([(a, b), (b, a)] if both else [(a, b)], 'cut')
        return 'cut %s %s %s' % (a, 'and' if both else 'to', b), self.rnd.uniform(1, 8), end

    def fault_alone(self):
        """A node that nobody reaches, or that reaches nobody, or both; clients still do."""
        name = self.pick_any()
        if name is None:
            return None
        others = [n for n in self.daemons() if n != name]
        pairs = self.rnd.choice([[(name, o) for o in others], [(o, name) for o in others],
                                 [p for o in others for p in ((name, o), (o, name))]])
        end = self.rule(pairs, 'cut')
        self.away[name] = 'alone'

        def back():
            end()
            del self.away[name]
        how = 'from and to all' if len(pairs) > len(others) else 'to all' if pairs[0][0] == name else 'from all'
        return 'cut %s %s' % (name, how), self.rnd.uniform(1, 8), back

    def fault_split(self):
        """Two sides."""
        side = set(self.rnd.sample(self.daemons(), self.rnd.randint(2, 5)))
        if self.holds('storaged') or self.holds('etcd'):
            return None
        end = self.rule([p for a in side for b in self.daemons() if b not in side for p in ((a, b), (b, a))], 'cut')
        held = {n: 'split' for n in side if n not in self.away}
        self.away.update(held)

        def back():
            end()
            for n in held:
                del self.away[n]
        return 'split off %s' % ' '.join(sorted(side)), self.rnd.uniform(1, 6), back

    def fault_poor_link(self):
        name, kind = self.rnd.choice(self.daemons()), self.rnd.randrange(3)
        what = ('%d 0 0' % self.rnd.randint(20, 600), '0 %d 0' % self.rnd.randint(10, 200), '0 0 %d' % self.rnd.randint(100, 4000))[kind]
        others = [n for n in self.daemons() if n != name]
        end = self.rule([p for o in others for p in ((name, o), (o, name))], what)
        return '%s has a link of %s' % (name, ('delay', 'loss', 'little width')[kind] + ' ' + what), self.rnd.uniform(1, 8), end

    def disk_fault(self, name, line):
        path = os.path.join(cluster.dir, 'faults-' + name)
        with open(path + '.new', 'w') as f:
            f.write(line + '\n')
        os.rename(path + '.new', path)

    def fault_slow_disk(self):
        name, ms = self.rnd.choice([n for n in names('storaged') if n not in self.away] or [None]), self.rnd.choice([20, 100, 400, 1500])
        if name is None:
            return None
        self.disk_fault(name, '0 slow %d' % ms)
        return 'disk of %s slow by %d ms' % (name, ms), self.rnd.uniform(2, 8), lambda: self.disk_fault(name, '0 slow 0')

    def fault_failing_disk(self):
        """The n-th write fails: the disk is out until the next start."""
        name = self.pick('storaged')
        if name is None:
            return None
        self.away[name] = 'eio'
        self.disk_fault(name, '0 eio %d' % self.rnd.randint(1, 20))

        def end():
            if cluster.alive(name):
                self.kill(name)
            self.back(name)()
        return 'disk of %s fails a write' % name, self.rnd.uniform(2, 8), end

    def fault_full_disk(self):
        free = [n for n in LOOP_DISKS if n not in self.away and self.mounted(n)]
        if not free or not self.room('storaged'):
            return None
        name = self.rnd.choice(free)
        d = os.path.join(cluster.dir, name, 'disk-1')
        st = os.statvfs(d)
        left = self.rnd.choice([0, 1 << 20, 16 << 20, 64 << 20])
        n = max(4096, st.f_bavail * st.f_frsize - left)
        self.away[name] = 'full'
        fill = os.path.join(cluster.dir, name, 'disk-1', 'lost+found', 'filler')
        with open(fill, 'wb') as f:
            try:
                os.posix_fallocate(f.fileno(), 0, n)
            except OSError:
                pass  # somebody was faster: it is full, too

        def end():
            os.unlink(fill)
            del self.away[name]
        return 'disk of %s full but for %d MiB' % (name, left >> 20), self.rnd.uniform(2, 8), end

    def mounted(self, name):
        return os.path.ismount(os.path.join(cluster.dir, name, 'disk-1'))

    def fault_wipe(self):
        """An empty disk in place of a good one."""
        name = self.pick('storaged')
        d = os.path.join(cluster.dir, name or '', 'disk-1')
        if name is None or self.holds('etcd') or not os.path.exists(os.path.join(d, 'disk.id')):
            return None
        with open(os.path.join(d, 'disk.id')) as f:  # "mikura-disk 1 ID"
            mine = bytes.fromhex(f.read().split()[2])
        self.away[name] = 'wipe'
        self.kill(name)
        # what is acknowledged is on every disk in sync; this one adds nothing any more
        groups = self.truth.groups()
        safe = groups is not None and groups and all(len(s - {mine}) >= 2 for _, s, _, _ in groups)
        if safe:
            for e in os.listdir(d):
                p = os.path.join(d, e)
                if e == 'lost+found':
                    continue
                shutil.rmtree(p) if os.path.isdir(p) else os.unlink(p)
        return 'wipe the disk of %s%s' % (name, '' if safe else ': not now, only a kill'), self.rnd.uniform(0.5, 4), self.back(name)

    # ---- one after the other ----
    KINDS = {'kill': 20, 'stop': 14, 'cut': 12, 'alone': 8, 'split': 3, 'poor_link': 8, 'slow_disk': 6, 'failing_disk': 5,
             'full_disk': 4, 'kill_etcd_leader': 6, 'kill_all': 2, 'wipe': 5}

    def fault(self, only):
        kinds = {k: w for k, w in self.KINDS.items() if not only or k in only}
        for _ in range(100):
            kind = self.rnd.choices(list(kinds), list(kinds.values()))[0]
            got = getattr(self, 'fault_' + kind)()
            if got is None:
                continue
            self.number += 1
            self.count[kind] = self.count.get(kind, 0) + 1
            what, seconds, end = got
            self.log('fault %d: %s, for %.1f s' % (self.number, what, seconds))
            heapq.heappush(self.ends, (time.monotonic() + seconds, self.number, what, end))
            return
        self.log('no fault has room now')

    def end_due(self, until):
        while self.ends and self.ends[0][0] <= until:
            when, number, what, end = heapq.heappop(self.ends)
            time.sleep(max(0.0, when - time.monotonic()))
            end()
            self.log('end of %d: %s' % (number, what))

    def run(self, faults, every, only):
        start = time.monotonic()
        for i in range(faults):
            due = start + i * every
            self.end_due(due)
            time.sleep(max(0.0, due - time.monotonic()))
            self.look()
            self.fault(only)

    def heal(self):
        for _, number, what, end in sorted(self.ends, key=lambda e: e[:2]):
            end()
            self.log('end of %d: %s' % (number, what))
        self.ends = []
        self.net.link('*', '*', '0 0 0')
        self.look()
        self.settle()


def out_disks():
    """Storage nodes whose disk is out (a full file system can do it: storaged/service/README.md)."""
    got = []
    for n in names('storaged'):
        try:
            if cluster.gauges(n).get('mikura_disk_out{disk="0"}'):
                got.append(n)
        except OSError:
            pass
    return got


def clean(truth):
    """None, or what is not clean yet."""
    groups = truth.groups()
    if not groups:
        return 'etcd does not answer'
    for name, s, learners, wish in groups:
        if s != wish or learners:
            return 'group %s has %d of %d wished copies in sync, %d learners' % (name, len(s & wish), len(wish), len(learners))
        if len(s) != 3:
            return 'group %s wishes for %d copies' % (name, len(wish))
    for g in names('gateway'):
        api = Api(cluster.address(g), cluster.pki, 'operator/admin')
        try:
            s = api.call('Admin.Status', v1('StatusRequest'), 5)
        except Refused as e:
            return '%s: %s' % (g, e)
        finally:
            api.close()
        if s.health != 1:
            return '%s: health %d: %s' % (g, s.health, '; '.join(s.reasons))
    return None


def loop_disk(name):
    d, image = os.path.join(cluster.dir, name, 'disk-1'), os.path.join(WORK, name + '.img')
    os.makedirs(d)
    with open(image, 'wb') as f:
        f.truncate(LOOP_BYTES)
    made = subprocess.run(['mkfs.ext4', '-q', '-F', '-m', '0', image]).returncode == 0 and \
        subprocess.run(['mount', '-o', 'loop', image, d]).returncode == 0
    return made


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--faults', type=int, required=True)
    p.add_argument('--seed', type=int, required=True)
    p.add_argument('--every', type=float, default=2.0)
    p.add_argument('--only', default='')
    a = p.parse_args()
    out = os.path.join(WORK, 'out')
    os.makedirs(out)
    os.makedirs(cluster.dir)
    log = Log(os.path.join(out, 'log'))
    daemons = ['etcd-%d' % (i + 1) for i in range(ETCD)] + ['storaged-%d' % (i + 1) for i in range(STORAGE)] + \
        ['gateway-%d' % (i + 1) for i in range(GATEWAYS)]
    net = Net(daemons, a.seed)
    for n in daemons:
        if n.startswith('storaged'):
            with open(os.path.join(cluster.dir, n + '.extra'), 'w') as f:
                f.write('segment_bytes = 32MiB\nfaults = %s\n' % os.path.join(cluster.dir, 'faults-' + n))
    with open(os.path.join(cluster.dir, 'gateway.extra'), 'w') as f:
        f.write('disk_patience = 5s\nprefix_bits = 2\n')
    loops = [n for n in LOOP_DISKS if loop_disk(n)]
    if len(loops) < len(LOOP_DISKS):
        log('no loop-mounted ext4 here: no full disks')
    cluster('up', '--storage', str(STORAGE), '--gateways', str(GATEWAYS), '--etcd', str(ETCD), '--workers', '0', '--build', BUILD,
            '--places', os.path.join(WORK, 'places'), '--wait', '60')
    for who in ('society/thrash/a1', 'researcher/reader'):
        cluster.certificate(who)
    op = cluster.api('operator/admin')
    ready(op)
    collection(op, load.COLLECTION, 'thrash')
    grant(op, load.COLLECTION, 'reader')
    log('up: %s; seed %d' % (' '.join(daemons), a.seed))

    t = Thrasher(a.seed, log, net)
    clients = []
    for i in range(CLIENTS):
        work = os.path.join(WORK, 'client-%d' % i)
        os.makedirs(work)
        clients.append(subprocess.Popen(['/usr/bin/python3', os.path.join(HERE, 'load.py'), str(i), str(a.seed)], stdin=subprocess.PIPE,
                                        env=dict(os.environ, MIKURA_WORK=work, THRASH_DIR=cluster.dir, THRASH_OUT=out)))
    time.sleep(2)  # load first
    t.run(a.faults, a.every, set(a.only.split(',')) - {''})
    for c in clients:
        c.stdin.close()
    t.heal()
    healed = time.monotonic()
    log('healed; faults: %s' % json.dumps(t.count))
    while True:
        why = clean(t.truth)
        if why is None or time.monotonic() - healed > CLEAN_S:
            break
        for n in out_disks():
            log('the disk of %s is out: started again' % n)
            t.kill(n)
            t.start(n)
            t.settle()
        t.look()
        time.sleep(0.5)
    for c in clients:
        check(c.wait(60) == 0, 'a client ended with %s' % c.returncode)
    log('clean %.1f s after the last fault' % (time.monotonic() - healed) if why is None else 'NOT clean: ' + why)
    bad = [] if why is None else ['not clean within %d s: %s' % (CLEAN_S, why)]
    bad += ['%s died: %s' % (n, '\n'.join(last)) for n, last in t.died]
    bad += last_look(log, out)
    bad += judge(log, out)
    if bad:
        for b in bad:
            log('FAILED: ' + b)
        sys.exit(1)
    log('passed: %d faults, seed %d' % (t.number, a.seed))


def last_look(log, out):
    """Every case through every gateway, as reads of the histories."""
    cases = sorted({line.split()[0] for f in glob.glob(os.path.join(out, 'history-*')) for line in open(f)})
    bad, n, size = [], 0, 0
    with open(os.path.join(out, 'history-last'), 'w') as f:
        for g in names('gateway'):
            api = cluster.api('researcher/reader', g)
            for case in cases:
                start, got, why = time.monotonic_ns(), None, None
                for _ in range(5):
                    try:
                        got, why = load.Reader.read(api, case, timeout=20), None
                        break
                    except (Refused, load.Wrong) as e:
                        why = e
                        time.sleep(0.3)
                if why is not None:
                    bad.append('%s through %s: %s' % (case, g, why))
                    continue
                f.write('%s %d %d %s\n' % (case, start, time.monotonic_ns(), 'none' if got is None else 'get %d %d' % got))
                n += got is not None
            api.close()
    log('%d cases, %d reads of what is there, through %d gateways' % (len(cases), n, len(names('gateway'))))
    return bad


def judge(log, out):
    bad = ['%s: %s' % (os.path.basename(f), line.strip()) for f in sorted(glob.glob(os.path.join(out, 'wrong-*'))) for line in open(f)]
    every = os.path.join(out, 'histories')
    with open(every, 'w') as f:
        for h in sorted(glob.glob(os.path.join(out, 'history-*'))):
            with open(h) as one:
                shutil.copyfileobj(one, f)
    got = subprocess.run([os.path.join(BUILD, 'bin/lin'), every], stdout=subprocess.PIPE, text=True)
    log(got.stdout.strip())
    if got.returncode != 0:
        bad.append('histories: see %s' % every)
    bad += lists_judge(log, out, every)
    return bad


def lists_judge(log, out, every):
    """A listing of the collection has each name that was there before it began and not deleted before it ended exactly once."""
    put, gone, first = {}, {}, {}
    kinds = {'put': put, 'commit': put, 'delete': gone}
    for line in open(every):
        case, start, end, kind = line.split()[:4]
        start = int(start)
        if kind in ('put', 'commit', 'stage'):
            first[case] = min(first.get(case, start), start)
        if kind == 'delete' or (kind in kinds and end != '-'):
            kinds[kind].setdefault(case, []).append((start, int(end) if end != '-' else None))
    bad, n = [], 0
    for f in sorted(glob.glob(os.path.join(out, 'lists-*'))):
        for line in open(f):
            start, end, *found = line.split()
            start, end, n = int(start), int(end), n + 1
            if len(set(found)) != len(found):
                bad.append('a listing has a name twice: %s' % sorted(c for c in set(found) if found.count(c) > 1))
            for case, puts in put.items():
                if any(e < start for _, e in puts) and not any(s < end for s, _ in gone.get(case, [])) and case not in found:
                    bad.append('%s is not in a listing of %d to %d' % (case, start, end))
            bad += ['%s is in a listing before it was put' % c for c in found if first.get(c, end) >= end]
    log('%d listings of the collection, %d wrong' % (n, len(bad)))
    return bad


main()
