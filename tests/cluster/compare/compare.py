"""tests/cluster/compare/compare.py - one replica's index is damaged in every group (rows of the metadata, places of
chunks): the regular comparison finds each, as primary or as backup, and it is mended from the others while writes go on.
Then two of two differ: told, and nothing is changed."""
import glob
import os
import sys
import time

from mk import BUILD, Cluster, blob, check, collection, grant, ready, run, until, v1

KIB = 1 << 10
VICTIM = 'storaged-2'
NODES = ['storaged-1', 'storaged-2', 'storaged-3']
cluster = Cluster()


def counters(name):
    got = 0
    for node in NODES:
        if cluster.alive(node):
            for line in cluster.http('operator/admin', node, '/metrics')[1].splitlines():
                if line.startswith(name + ' '):
                    got += int(line.split()[1])
    return got


def groups(op):
    return [g for m in op.call('Admin.ListGroups', v1('ListGroupsRequest'), 10) for g in m.groups]


def all_compared(op, what, since):
    def done():
        all_of = groups(op)
        return all_of and all(g.compared_unix_ms > since and not g.difference and len(g.in_sync_disks) == 3 for g in all_of)
    until(what, 90, done)


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/s/a1'), cluster.api('researcher/r')
    ready(op)
    collection(op, 'cmp', 's')
    grant(op, 'cmp', 'r')
    put = {}

    def write(n):
        for i in range(len(put), len(put) + n):
            put[i] = (3 * KIB, 300 * KIB)[i % 2]
            until('a write', 30, lambda i=i: agent.put('cmp', 'case-%d' % i, 'p', blob('cmp %d' % i, put[i])))
    write(40)
    all_compared(op, 'all groups are compared and equal', 0)
    check(counters('mikura_compare_odd_total') == 0 and counters('mikura_compare_chunks_lacked_total') == 0, 'a fault where nobody made one')

    for node in NODES:  # all, so that some groups are led by the damaged one
        cluster('stop', node)
    index, = glob.glob(os.path.join(cluster.dir, VICTIM, 'disk-*', 'index'))
    said = run(os.path.join(BUILD, 'bin/compare_damage'), index).stdout.split()
    states, chunks = int(said[0]), int(said[1])
    check(states >= 4 and chunks >= 4, 'only %s were damaged' % said)
    since = int(time.time() * 1000)
    for node in NODES:
        cluster('start', node)
    write(10)  # while it is found and mended
    until('every damaged state is found', 90, lambda: counters('mikura_compare_odd_total') >= states)
    found = [t for t in (cluster.log(n) for n in NODES)]
    check(sum(t.count('compare_differs') for t in found) >= 3 * states, 'the log does not name the disks')
    all_compared(op, 'all are whole and equal again', since)
    until('no chunk is missing', 30, lambda: counters('mikura_compare_chunks_mended_total') == counters('mikura_compare_chunks_lacked_total') > 0)
    # by word of its leader, or by itself where it led
    said = cluster.log(VICTIM)
    check('replica_odd' in said or 'odd: rebuilt' in said, 'the odd one did not say so')
    check(not any('is rebuilt' in r for r in op.call('Admin.Status', v1('StatusRequest'), 10).reasons), 'status tells of what is over')
    write(10)
    # the mended one alone with one more: everything is there
    cluster('stop', 'storaged-1')
    for i, size in put.items():
        until('case %d' % i, 60, lambda i=i, size=size: reader.get('cmp', 'case-%d' % i, 'p') == blob('cmp %d' % i, size))
    print('%d states and %d chunks damaged on one disk, all found and mended; %d chunks by the comparison itself' % (
        states, chunks, counters('mikura_compare_chunks_mended_total')), flush=True)

    # two left, one of them damaged again: nobody can tell which
    cluster('stop', 'storaged-3')
    cluster('stop', VICTIM)
    run(os.path.join(BUILD, 'bin/compare_damage'), index)
    before = {n: os.path.getsize(os.path.join(cluster.dir, 'logs', n + '.log')) for n in NODES}
    cluster('start', VICTIM)
    cluster('start', 'storaged-3')

    def told():
        s = op.call('Admin.Status', v1('StatusRequest'), 10)
        return any('no majority' in r for r in s.reasons) and any('no majority' in g.difference for g in groups(op))
    until('it is told that two differ', 90, told)
    check('no majority' in cluster.mikura('operator/admin', 'group', 'ls').stdout, 'group ls does not say so')
    check('replica_odd' not in cluster.log(VICTIM)[before[VICTIM]:] and 'replica_odd' not in cluster.log('storaged-3')[before['storaged-3']:],
          'one was rebuilt without a majority')
    print('two that differ are told, and left', flush=True)


main()
sys.exit(0)
