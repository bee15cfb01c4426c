"""tests/cluster/kill/kill.py - what kill -9 must not do.

  kill.py one      one storaged: reads of chunks go on at once, everything else within 15 s, writes
                   go on with two; when it is back all copies are whole, also on it
  kill.py all      every daemon at once, etcd too: all that was acknowledged is there, byte for byte
  kill.py rounds N a storaged under load, N times: nothing acknowledged is lost

The only times here are the limits that the project promises (15 s), measured from the kill.
"""
import random
import re
import sys
import threading
import time

import grpc

from mk import Cluster, Failed, Refused, blob, check, collection, grant, ready, request_id, sha, until, v1

KIB, MIB = 1 << 10, 1 << 20
SIZES = [1, 64 * KIB, 64 * KIB + 1, MIB, 8 * MIB, 8 * MIB + 1, 20 * MIB]
PROMISED_S = 15
RECOVERY_S = 180  # all copies whole again; only ends a hang
HEALTH_OK = 1
failed = Failed()
cluster = Cluster()


class Store:
    """What was acknowledged: (case, path) -> digest of the bytes."""

    def __init__(self):
        self.op = cluster.api('operator/admin')
        self.agent = cluster.api('society/kill/a1')
        self.reader = cluster.api('researcher/reader')
        self.known = {}
        self.lock = threading.Lock()

    def begin(self):
        ready(self.op)
        collection(self.op, 'kill', 'kill')
        grant(self.op, 'kill', 'reader')

    def put(self, case, path, data, timeout=60, rid=None):
        self.agent.put('kill', case, path, data, timeout, rid=rid)
        with self.lock:
            self.known[case, path] = sha(data)

    def put_all(self, tag, sizes=SIZES, limit=PROMISED_S, since=None):
        for i, n in enumerate(sizes):
            data, rid = blob('%s %d' % (tag, n), n), request_id()
            until('put of %d bytes' % n, limit, lambda: self.put('%s-%d' % (tag, i), 'f.bin', data, rid=rid) or True, since if i == 0 else None)

    def read(self, key, timeout=60):
        return sha(self.reader.get('kill', key[0], key[1], timeout)) == self.known[key]

    def read_all(self, what, limit=PROMISED_S, since=None):
        since = since or time.monotonic()
        for key in sorted(self.known):
            left = max(1.0, limit - (time.monotonic() - since)) if limit == PROMISED_S else 60
            failed.check(until('%s: %s/%s' % ((what,) + key), limit, lambda: self.same(key, left), since), '%s: %s differs' % (what, key))
        names = {(c, p) for c, p, _, _ in self.reader.names('kill')}
        failed.check(names >= set(self.known), '%s: not listed: %s' % (what, sorted(set(self.known) - names)[:5]))

    def same(self, key, timeout):
        got = self.reader.get('kill', key[0], key[1], timeout)
        check(sha(got) == self.known[key], '%s/%s differs: %d bytes came' % (key + (len(got),)))
        return True

    def status(self):
        return self.op.call('Admin.Status', v1('StatusRequest'), 5)

    def whole(self, what):
        # both at once: a node that died and came back within its lease is for a moment still in the lists of before
        until(what + ': all copies in place', RECOVERY_S, lambda: self.status().health == HEALTH_OK and self.in_sync())

    def groups(self):
        return [g for m in self.op.call('Admin.ListGroups', v1('ListGroupsRequest')) for g in m.groups]

    def in_sync(self):
        return all(len(g.in_sync_disks) == 3 for g in self.groups())

    def disks_of(self, node):
        for n in self.op.call('Admin.ListNodes', v1('ListNodesRequest')).nodes:
            if n.name == node:
                return {d.id for d in n.disks}
        check(False, 'no node %s in Admin.ListNodes' % node)


def leader(store):
    """The storaged that leads most groups: its end hurts most."""
    mine = {'storaged-%d' % i: store.disks_of('storaged-%d' % i) for i in (1, 2, 3)}
    count = {n: sum(g.primary_disk in ids for g in store.groups()) for n, ids in mine.items()}
    check(sum(count.values()) == len(store.groups()), 'groups are led by disks that no node has: %s' % count)
    return max(sorted(count), key=count.get)


def stream_survives(store, victim):
    """A read under way, its metadata known: the chunks still to come are read from other replicas."""
    key = ('long', 'f.bin')
    store.put(*key, blob('long', 64 * MIB))
    ref = v1('ObjectRef', collection='kill', case_id=key[0], path=key[1])
    answer = store.reader.stream('Objects.Read', v1('ReadRequest', object=ref))
    got = [next(answer).data]
    cluster('kill', victim)
    since = time.monotonic()
    try:
        slowest = 0.0
        last = since
        for m in answer:
            got.append(m.data)
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
    except grpc.RpcError as e:
        failed.check(False, 'a read under way broke off when %s died: %s %s' % (victim, e.code().name, e.details()))
        return since
    failed.check(sha(b''.join(got)) == store.known[key], 'a read under way when %s died gave other bytes' % victim)
    # "at once": not the 15 s that it takes to replace a leader
    failed.check(slowest < 5, 'reads of chunks stood for %.1f s when %s died' % (slowest, victim))
    print('  a read under way: longest wait %.2f s' % slowest, flush=True)
    return since


def degraded(store):
    s = store.status()
    return s.health == 2 and s.reasons and s.groups_degraded > 0 and not s.groups_read_only and not s.groups_unavailable


def alive(store, name):
    return {n.name: n.alive for n in store.op.call('Admin.ListNodes', v1('ListNodesRequest')).nodes}.get(name, True)


def come_and_gone(store):
    """Chunks that are put and dropped while a replica is away: it follows a log in which they come, and nobody has their bytes."""
    for i in range(4):
        store.agent.put('kill', 'gone-%d' % i, 'f.bin', blob('gone %d' % i, MIB))
    for i in range(4):
        store.op.call('Objects.Delete', v1('DeleteRequest', request_id=request_id(), object=v1(
            'ObjectRef', collection='kill', case_id='gone-%d' % i, path='f.bin')))
    until('the chunks are dropped', 60, lambda: sum(int(n) for n in re.findall(r' swept bodies=(\d+)', cluster.log('gateway-1'))) >= 4)


def one(store):
    store.begin()
    store.put_all('before')
    store.whole('before')
    victim = leader(store)
    since = stream_survives(store, victim)
    store.put_all('during', limit=PROMISED_S, since=since)
    print('  first write after %.1f s at most' % (time.monotonic() - since), flush=True)
    store.read_all('with %s dead' % victim, since=None)
    until('with %s dead: health DEGRADED, and why' % victim, PROMISED_S, lambda: degraded(store))
    until('%s shown as dead' % victim, PROMISED_S, lambda: not alive(store, victim))  # its lease in etcd runs out
    come_and_gone(store)
    cluster('start', victim)
    store.whole('after its return')
    # what was written while it was away is on it too: the two others go, one after the other
    for other in [n for n in ('storaged-1', 'storaged-2', 'storaged-3') if n != victim]:
        cluster('kill', other)
        store.read_all('with %s dead in its turn' % other, since=time.monotonic())
        cluster('start', other)
        store.whole('after the return of ' + other)
    failed.end('kill one')


def all_daemons(store):
    store.begin()
    store.put_all('first')
    for turn in range(2):
        for n in cluster.names():
            cluster('kill', n)
        cluster('up', '--wait', '60')
        store.read_all('after kill -9 of all, turn %d' % turn, limit=RECOVERY_S)
        store.put_all('turn-%d' % turn, [1, 8 * MIB + 1], limit=RECOVERY_S)
    store.whole('at the end')
    store.read_all('at the end')
    failed.end('kill all')


def rounds(store, n):
    store.begin()
    seed = random.randrange(1 << 30)
    print('  seed %d' % seed, flush=True)
    rnd = random.Random(seed)
    stop = threading.Event()
    acked = threading.Semaphore(0)
    refused = []

    def writer(w):
        agent = cluster.api('society/kill/a1')
        mine = random.Random('%d %d' % (seed, w))
        i = 0
        while not stop.is_set():
            i += 1
            size = mine.choice([1, 4096, 64 * KIB + 1, MIB, 3 * MIB, 8 * MIB + 1])
            case, data, rid = 'w%d-%d' % (w, i), blob('%d %d %d' % (seed, w, i), size), request_id()
            for _ in range(600):  # the same id: one effect, however often it is tried
                try:
                    agent.put('kill', case, 'f.bin', data, 30, rid=rid)
                except Refused as e:
                    if e.code not in ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION'):
                        refused.append('%s: %s' % (case, e))
                        stop.set()
                        return
                    if stop.wait(0.2):
                        return
                    continue
                with store.lock:
                    store.known[case, 'f.bin'] = sha(data)
                acked.release()
                break
        agent.close()

    threads = [threading.Thread(target=writer, args=(w,)) for w in range(3)]
    for t in threads:
        t.start()
    def acknowledged(n, what):
        """n writes, counted from now."""
        while acked.acquire(blocking=False):
            pass
        for _ in range(n):
            check(acked.acquire(timeout=60), '%s: no write is acknowledged any more; %s' % (what, refused))

    try:
        for r in range(n):
            victim = 'storaged-%d' % rnd.randint(1, 3)
            acknowledged(rnd.randint(3, 12), 'round %d' % r)
            cluster('kill', victim)
            acknowledged(rnd.randint(1, 8), 'round %d, %s dead' % (r, victim))
            cluster('start', victim)
            store.whole('round %d' % r)
            print('  round %d: %s, %d acknowledged so far' % (r, victim, len(store.known)), flush=True)
    finally:
        stop.set()
        for t in threads:
            t.join()
    failed.check(not refused, 'writes refused: %s' % refused)
    store.read_all('after %d rounds' % n, limit=RECOVERY_S)
    for i in (1, 2, 3):  # and from any two
        cluster('kill', 'storaged-%d' % i)
        store.read_all('with storaged-%d dead at the end' % i, limit=RECOVERY_S)
        cluster('start', 'storaged-%d' % i)
        store.whole('with storaged-%d back' % i)
    failed.end('kill rounds')


def main():
    store = Store()
    what = sys.argv[1]
    if what == 'one':
        one(store)
    elif what == 'all':
        all_daemons(store)
    else:
        rounds(store, int(sys.argv[2]))


main()
