"""tests/bench/failover/failover.py - what the loss of a storage node costs whoever writes and reads meanwhile.

  failover.py gap KILLS     how long nobody's write to a group is acknowledged when its primary is killed
  failover.py rebuild MIB   a node is lost for good: how fast its copies come back, and what foreground feels of it
  failover.py cost PUTS     replica messages and flushes a write

One JSON object a line.
"""
import json
import os
import shutil
import sys
import threading
import time

from mk import Cluster, Refused, blob, check, collection, grant, ready, request_id, until, v1

WRITERS = 8
cluster = Cluster()
NAME = 'failover'


class Load(threading.Thread):
    """Puts (or reads) one after the other; when each was answered, and how long it took."""

    def __init__(self, api, number, size, reads=None, pause=0.0):
        super().__init__(daemon=True)
        self.api, self.number, self.size, self.reads, self.pause = api, number, size, reads, pause
        self.stop, self.done = False, []

    def run(self):
        n = 0
        data = blob('failover %d' % self.number, self.size)
        while not self.stop:
            start, rid, n = time.monotonic(), request_id(), n + 1
            while not self.stop:
                try:
                    if self.reads is None:
                        self.api.put(NAME, 'w%d-%d-%d' % (self.number, self.size, n), 'p', data, 20, rid=rid)
                    else:
                        self.api.get(NAME, self.reads[n % len(self.reads)], 'p', 20)
                    now = time.monotonic()
                    self.done.append((now, now - start))
                    break
                except Refused:
                    time.sleep(0.005)
            time.sleep(self.pause)

    def gap(self, since, until_):
        """The longest time without an answer that touches [since, until_]."""
        at = [t for t, _ in self.done if t >= since - 2]
        return max((b - a for a, b in zip(at, at[1:]) if b > since and a < until_), default=0.0)


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))] if values else 0.0


def groups(op):
    return [g for m in op.call('Admin.ListGroups', v1('ListGroupsRequest')) for g in m.groups]


def disks(op):
    return {d.id: n.name for n in op.call('Admin.ListNodes', v1('ListNodesRequest')).nodes for d in n.disks}


def whole(op, what):
    until(what, 120, lambda: op.call('Admin.Status', v1('StatusRequest'), 5).health == 1 and
          all(len(g.in_sync_disks) == 3 and not g.learner_disks for g in groups(op)))


def begin(size, writers=WRITERS, pause=0.0):
    op = cluster.api('operator/admin')
    ready(op)
    collection(op, NAME, 'failover')
    grant(op, NAME, 'reader')
    cluster.certificate('society/failover/a1')
    load = [Load(cluster.api('society/failover/a1'), i, size, pause=pause) for i in range(writers)]
    return op, load


def gap(kills):
    """Each writer's cases go to any group, so the longest pause of all of them is that of the groups whose primary was killed."""
    op, load = begin(4096, pause=0.01)
    for w in load:
        w.start()
    got, led = [], []
    for i in range(kills):
        whole(op, 'kill %d: all copies' % i)
        names = disks(op)
        leads = [names.get(g.primary_disk) for g in groups(op)]
        victim = max(sorted(set(leads)), key=leads.count)
        time.sleep(1)
        since = time.monotonic()
        os.kill(cluster.pid(victim), 9)
        time.sleep(5)
        got.append(max(w.gap(since, since + 5) for w in load))
        led.append(leads.count(victim))
        cluster('start', victim)
    for w in load:
        w.stop = True
    print(json.dumps({'figure': 'write gap at the kill of a primary', 'kills': kills, 'groups_led': sum(led) / len(led),
                      'median_s': round(percentile(got, 50), 2), 'worst_s': round(max(got), 2), 'all_s': [round(g, 2) for g in sorted(got)]}), flush=True)


def figures(load, since, end):
    """Of what was answered in that window, all threads of one kind together."""
    took = [d for f in load for t, d in f.done if since <= t <= end]
    return {'n': len(took), 'p50_ms': round(1000 * percentile(took, 50), 1), 'p99_ms': round(1000 * percentile(took, 99), 1),
            'worst_ms': round(1000 * max(took, default=0), 1)}


def rebuild(mib):
    """The same load all the time: with all nodes; when one is lost and others lead its groups, before disk_patience is over, so
    that nothing moves; and while its copies are made again. The second window is what the third is to be compared with."""
    op, load = begin(4 << 20, writers=4)
    per = mib // 4 // len(load)
    for w in load:
        w.start()
    until('%d MiB' % mib, 200, lambda: all(len(w.done) >= per for w in load))
    for w in load:
        w.stop = True
    for w in load:
        w.join()
    whole(op, 'all copies')
    reads = ['w%d-%d-%d' % (w.number, w.size, n + 1) for w in load for n in range(per)]
    puts = [Load(cluster.api('society/failover/a1'), 100 + i, 65536, pause=0.01) for i in range(3)]
    gets = [Load(cluster.api('researcher/reader'), 200 + i, 0, reads=reads[i::3], pause=0.01) for i in range(3)]
    for f in puts + gets:
        f.start()
    time.sleep(10)
    calm = time.monotonic()
    victim = 'storaged-4'
    bytes_ = cluster.gauges(victim)['mikura_disk_bytes{disk="0",of="live"}']
    cluster('kill', victim)
    shutil.rmtree(os.path.join(cluster.dir, victim, 'disk-1'))
    lost = time.monotonic()
    until('others lead its groups', 60, lambda: all(g.primary_disk and len(g.in_sync_disks) >= 2 and victim not in (disks(op).get(d) for d in g.in_sync_disks) for g in groups(op)))
    time.sleep(1)
    without = time.monotonic()
    time.sleep(6)
    cluster('start', victim)
    until('work on the lost copies', 60, lambda: any(g.learner_disks for g in groups(op)))
    since = time.monotonic()
    whole(op, 'all copies after the loss')
    end = time.monotonic()
    for f in puts + gets:
        f.stop = True
    row = {'figure': 'rebuild of a lost node', 'mb': round(bytes_ / 1e6), 'seconds': round(end - since, 1), 'mb_s': round(bytes_ / 1e6 / (end - since), 1),
           'lost_to_first_learner_s': round(since - lost, 1)}
    for name, f in (('put_64k', puts), ('get_4m', gets)):
        row[name] = {'all_nodes': figures(f, calm - 10, calm), 'one_lost': figures(f, without, without + 6), 'rebuild': figures(f, since, end)}
    print(json.dumps(row), flush=True)


def counters():
    """Sums over the storage nodes."""
    got = {}
    for n in cluster.names():
        if not n.startswith('storaged'):
            continue
        status, text = cluster.http('operator/admin', n, '/metrics')
        check(status == 200, '/metrics of %s: %d' % (n, status))
        for line in text.splitlines():
            key = line.split(' ')[0]
            if key in ('mikura_replica_messages_sent_total', 'mikura_flushes', 'mikura_entries_proposed_total'):
                got[key] = got.get(key, 0) + float(line.split()[-1])
    return got


def cost(puts):
    """What idle groups send is measured first, and taken off."""
    for size, writers in ((4096, 1), (4096, WRITERS), (1 << 20, 1), (1 << 20, WRITERS)):
        op, load = (cost.op, [Load(cost.api(), 1000 * writers + i, size) for i in range(writers)])
        whole(op, 'all copies')
        a, start = counters(), time.monotonic()
        time.sleep(4)
        b, mid = counters(), time.monotonic()
        for w in load:
            w.start()
        until('puts', 120, lambda: sum(len(w.done) for w in load) >= puts)
        for w in load:
            w.stop = True
        for w in load:
            w.join()
        n, c, end = sum(len(w.done) for w in load), counters(), time.monotonic()
        row = {'figure': 'a put', 'bytes': size, 'writers': writers, 'puts_s': round(n / (end - mid), 1)}
        for key, name in (('mikura_replica_messages_sent_total', 'messages'), ('mikura_flushes', 'flushes'), ('mikura_entries_proposed_total', 'entries')):
            idle = (b[key] - a[key]) / (mid - start)
            row[name] = round((c[key] - b[key] - idle * (end - mid)) / n, 2)
        row['idle_messages_s'] = round((b['mikura_replica_messages_sent_total'] - a['mikura_replica_messages_sent_total']) / (mid - start), 1)
        print(json.dumps(row), flush=True)


what, n = sys.argv[1], int(sys.argv[2])
if what == 'gap':
    gap(n)
elif what == 'rebuild':
    rebuild(n)
else:
    cost.op, _ = begin(4096, writers=0)
    cost.api = lambda: cluster.api('society/failover/a1')
    cost(n)
