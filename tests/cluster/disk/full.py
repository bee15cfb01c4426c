"""tests/cluster/disk/full.py - one node's disk, filled by somebody else to the last byte before each start."""
import errno
import os
import sys

from mk import Cluster, Refused, blob, check, collection, grant, ready, until, v1

cluster = Cluster()
NODE = 'storaged-2'
FS = sys.argv[1]
OTHER = os.path.join(FS, 'other')
OBJECTS = [('o-%d' % i, 900000 if i % 4 == 0 else 200000) for i in range(12)]


def fill():
    with open(OTHER, 'ab', buffering=0) as f:
        for step in (1 << 20, 1 << 16, 4096):
            try:
                while True:
                    f.write(b'x' * step)
            except OSError as e:
                check(e.errno == errno.ENOSPC, str(e))
    os.sync()


def segments():
    return cluster.gauges(NODE)['mikura_disk_bytes{disk="0",of="segments"}']


def reads(api):
    for name, size in OBJECTS:
        check(api.get('full', name, 'p') == blob(name, size), 'object %s' % name)


def reasons(op):
    return list(op.call('Admin.Status', v1('StatusRequest'), 5).reasons)


def told_full(op):
    return any('is full (' in r and 'bytes free): delete objects, or what else' in r for r in reasons(op))


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/full/a1'), cluster.api('researcher/reader')
    ready(op)
    collection(op, 'full', 'full')
    grant(op, 'full', 'reader')
    for name, size in OBJECTS:
        agent.put('full', name, 'p', blob(name, size))
    for start in range(5):
        cluster('kill' if start in (0, 3) else 'stop', NODE)
        fill()
        cluster('start', NODE)
        fill()
        check(cluster.gauges(NODE)['mikura_disk_out{disk="0"}'] == 0, 'start %d: the disk is out' % start)
        until('status says so', 30, lambda: told_full(op))
    reads(reader)
    try:  # it is refused, or the others go on without that copy
        agent.put('full', 'more', 'p', blob('more', 900000), 10)
    except Refused as e:
        check(e.code == 'RESOURCE_EXHAUSTED', 'refused with %s' % e.code)

    os.remove(OTHER)
    os.sync()
    before = segments()
    for i in range(8):
        agent.put('full', 'after-%d' % i, 'p', blob('after %d' % i, 900000), 60)
        check(reader.get('full', 'after-%d' % i, 'p') == blob('after %d' % i, 900000), 'the object put after there was room')
    until('its disk takes writes, without another start', 60, lambda: segments() > before)
    until('all is well', 60, lambda: op.call('Admin.Status', v1('StatusRequest'), 5).health == 1)
    reads(reader)
    print('%d objects, 5 starts on a full file system' % len(OBJECTS), flush=True)


main()
