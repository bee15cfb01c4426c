"""tests/cluster/disk_out/disk_out.py - one of two disks of a node gets slow, then fails a write."""
import os
import threading
import time

from mk import Cluster, Refused, blob, check, collection, grant, ready, until, v1

cluster = Cluster()
NODE = 'storaged-2'
SLOW_MS = 150


def fault(line):
    path = os.path.join(cluster.dir, 'faults-2')
    with open(path + '.new', 'w') as f:
        f.write(line + '\n')
    os.rename(path + '.new', path)
    until('the fault is in', 10, lambda: not os.path.exists(path))


def out(disk):
    return cluster.gauges(NODE)['mikura_disk_out{disk="%d"}' % disk]


class Writer(threading.Thread):
    """Puts small and larger objects all the time; what was acknowledged is remembered."""

    def __init__(self, api):
        super().__init__()
        self.api, self.stop, self.acked, self.refused = api, False, [], set()

    def run(self):
        n = 0
        while not self.stop:
            size = 3000 if n % 3 else 400000
            try:
                self.api.put('disks', 'w-%d' % n, 'p', blob('w %d' % n, size), 60)
                self.acked.append((n, size))
            except Refused as e:
                self.refused.add(e.code)
            n += 1


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/disks/a1'), cluster.api('researcher/reader')
    ready(op)
    collection(op, 'disks', 'disks')
    grant(op, 'disks', 'reader')
    writer = Writer(agent)
    writer.start()
    until('writes', 30, lambda: len(writer.acked) >= 10)

    fault('0 slow %d' % SLOW_MS)
    at = len(writer.acked)
    until('writes on a slow disk', 60, lambda: len(writer.acked) >= at + 10)
    check(out(0) == 0, 'a slow disk is no failed disk')
    fault('0 slow 0')

    fault('0 eio 1')
    begun = time.monotonic()
    until('the disk is out', 20, lambda: out(0) == 1)
    print('out %.1f s after the fault' % (time.monotonic() - begun), flush=True)
    check(out(1) == 0, 'the other disk went, too')
    at = len(writer.acked)
    until('writes go on', 30, lambda: len(writer.acked) >= at + 20)
    path = os.path.join(cluster.dir, NODE, 'disk-1')
    reasons = list(op.call('Admin.Status', v1('StatusRequest')).reasons)
    check(any(path in r and 'is out (write of' in r and 'replace it' in r for r in reasons), 'status does not name the disk: %s' % reasons)
    state = [d.state for n in op.call('Admin.ListNodes', v1('ListNodesRequest')).nodes if n.name == NODE for d in n.disks]
    check(state[0] != 'ok' and state[1] == 'ok', 'node ls: %s' % state)
    status, text = cluster.http('operator/admin', NODE, '/healthz')
    check(status == 200 and '1 of 2 disks' in text, 'healthz: %d %s' % (status, text))
    check('disk_out dir=%s' % path in cluster.log(NODE), 'the log does not say that the disk is out')

    writer.stop = True
    writer.join()
    check(writer.refused <= {'UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED'}, 'refused with %s' % writer.refused)
    for n, size in writer.acked:
        check(reader.get('disks', 'w-%d' % n, 'p') == blob('w %d' % n, size), 'object %d' % n)
    # a start with a disk that can't be opened: told, and the node goes on with the other
    cluster('stop', NODE)
    with open(os.path.join(path, 'disk.id'), 'r+') as f:
        disk_id = f.read()
        f.seek(0)
        f.write('?' * len(disk_id))
    cluster('start', NODE)
    check(out(0) == 1 and out(1) == 0, 'disks that are out: %d %d' % (out(0), out(1)))
    check('disk_dark dir=%s' % path in cluster.log(NODE), 'the log does not say that the disk did not open')
    until('status names it', 30, lambda: any(path in r and 'disk.id is no disk id' in r for r in op.call('Admin.Status', v1('StatusRequest'), 5).reasons))
    status, text = cluster.http('operator/admin', NODE, '/healthz')
    check(status == 200 and '1 of 2 disks' in text, 'healthz: %d %s' % (status, text))
    agent.put('disks', 'dark', 'p', blob('dark', 5000), 60)
    # faults and text were put there on purpose: with the next start the disk is good, all copies come again
    cluster('stop', NODE)
    with open(os.path.join(path, 'disk.id'), 'w') as f:
        f.write(disk_id)
    cluster('start', NODE)
    until('full copies', 60, lambda: op.call('Admin.Status', v1('StatusRequest'), 5).health == 1)
    check(out(0) == 0 and out(1) == 0, 'a disk is out after the restart')
    check(reader.get('disks', 'dark', 'p') == blob('dark', 5000), 'object "dark"')
    print('%d objects acknowledged, none lost; refused meanwhile: %s' % (len(writer.acked), sorted(writer.refused)), flush=True)


main()
