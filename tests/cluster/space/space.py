"""tests/cluster/space/space.py - put, delete: the disks get their room back; flip bytes on one replica:
the scrub finds them, reads are never wrong, the copy is repaired from the others."""
import json
import threading

from mk import Cluster, Refused, blob, check, collection, grant, ready, request_id, until, v1

cluster = Cluster()
MIB = 1 << 20
NODES = ['storaged-1', 'storaged-2', 'storaged-3']
VICTIM = 'storaged-2'
BIG = 18               # objects of 6 MiB
KEPT = (0, 5, 10, 15)  # those that stay: in a segment with others


def gauge(node, name, of=None):
    return cluster.gauges(node)['mikura_%s{disk="0"%s}' % (name, ',of="%s"' % of if of else '')]


def used(node):
    return gauge(node, 'disk_bytes', 'segments')


class Reader(threading.Thread):
    """Reads what stays, all the time: right or refused for a moment, never wrong."""

    def __init__(self, api):
        super().__init__()
        self.api, self.stop, self.reads, self.wrong = api, False, 0, []

    def run(self):
        while not self.stop:
            for i in KEPT:
                try:
                    if self.api.get('space', 'big-%d' % i, 'p') != blob('big %d' % i, 6 * MIB):
                        self.wrong.append(i)
                    self.reads += 1
                except Refused as e:
                    if e.code not in ('UNAVAILABLE', 'ABORTED'):
                        self.wrong.append((i, str(e)))


MOVED = ('disk_log:flushes', 'disk_log:records', 'disk_log:records_a_flush_max', 'disk_log:flush_us', 'disk_log:flush_us_max', 'disk_log:row_batches',
         'disk_log:rows', 'disk_log:rows_a_batch_max', 'disk_log:row_batches_us', 'disk_bytes:total', 'disk_bytes:free', 'disk_bytes:free_for_chunks',
         'disk_bytes:free_for_entries', 'disk_bytes:index', 'disk_bytes:segments', 'disk_bytes:live', 'disk_segments', 'disk_buffer_bytes:total',
         'scrub:pass', 'scrub:total_bytes', 'scrub:started_unix_ms', 'scrub:records')
THERE = ('disk_queue:waiting', 'disk_queue:appends', 'disk_queue:rows', 'disk_queue:reads', 'disk_queue:requests', 'disk_queue:requests_begun',
         'disk_buffer_bytes:used', 'disk_damage:stretches', 'disk_damage:heads_mended', 'disk_quarantined', 'disk_out', 'reclaim:stuck', 'reclaim:yields',
         'scrub:done_bytes', 'scrub:end_unix_ms', 'scrub:next_unix_ms', 'scrub:bad_chunks', 'scrub:bad_entries', 'scrub:bad_dead', 'scrub:bad_heads',
         'scrub:bad_files', 'scrub:unreadable_pages', 'scrub:orphans', 'scrub:yields')


def metrics_move(node):
    """Queues, flushes, sizes of batches, scrub and classes of space, after puts."""
    def still():
        return [name for name in MOVED if gauge(node, *name.split(':')) == 0]
    until('%s: none of these metrics stands at 0: %s' % (node, still()), 60, lambda: not still()) # the first scrub may be to come
    got = {name: gauge(node, *name.split(':')) for name in MOVED + THERE}
    check(got['disk_bytes:free_for_chunks'] < got['disk_bytes:free_for_entries'] <= got['disk_bytes:free'] < got['disk_bytes:total'], 'classes of free: %s' % got)
    check(got['disk_bytes:live'] <= got['disk_bytes:segments'], 'live: %s' % got)
    check(got['disk_log:rows'] >= got['disk_log:row_batches'] and got['disk_log:records'] >= got['disk_log:records_a_flush_max'], 'batches: %s' % got)


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/space/a1'), cluster.api('researcher/reader')
    ready(op)
    collection(op, 'space', 'space')
    grant(op, 'space', 'reader')
    empty = {n: used(n) for n in NODES}
    for i in range(BIG):
        agent.put('space', 'big-%d' % i, 'p', blob('big %d' % i, 6 * MIB))
    full = {n: used(n) for n in NODES}
    for n in NODES:
        check(full[n] - empty[n] >= BIG * 5 * MIB, '%s: %d bytes of segments before, %d after' % (n, empty[n], full[n]))

    for n in NODES:
        metrics_move(n)

    for i in (k for k in range(BIG) if k not in KEPT):
        op.call('Objects.Delete', v1('DeleteRequest', object=v1('ObjectRef', collection='space', case_id='big-%d' % i, path='p'),
                                     request_id=request_id()))
    # what stays, the segment that is written, the next one, and one that holds a little of what stays
    room = len(KEPT) * 6 * MIB + 4 * 16 * MIB
    for n in NODES:
        until('%s gives back what was deleted' % n, 60, lambda n=n: used(n) <= room)
        check(gauge(n, 'reclaim', 'segments') > 0 and gauge(n, 'reclaim', 'copied_bytes') > 0, '%s: nothing was reclaimed by copying' % n)
        print('%s: %d MiB of segments, %d with all, %d after the deletion; %d MiB copied' % (
            n, empty[n] / MIB, full[n] / MIB, used(n) / MIB, gauge(n, 'reclaim', 'copied_bytes') / MIB), flush=True)
    for i in KEPT:
        check(reader.get('space', 'big-%d' % i, 'p') == blob('big %d' % i, 6 * MIB), 'object %d after reclaim' % i)

    looking = Reader(cluster.api('researcher/reader'))
    looking.start()
    flipped = cluster.flip_chunks(VICTIM)
    check(flipped >= len(KEPT), 'only %d chunk records were found' % flipped)
    until('what rotted is found', 60, lambda: cluster.counter(VICTIM, 'mikura_chunks_quarantined_total') >= len(KEPT))
    until('and repaired', 60, lambda: gauge(VICTIM, 'disk_quarantined') == 0 and
          cluster.counter(VICTIM, 'mikura_chunks_repaired_total') == cluster.counter(VICTIM, 'mikura_chunks_quarantined_total'))
    found, at = cluster.counter(VICTIM, 'mikura_chunks_quarantined_total'), gauge(VICTIM, 'scrub', 'pass')
    until('two more passes', 60, lambda: gauge(VICTIM, 'scrub', 'pass') >= at + 2)  # one of them began after the repair
    check(cluster.counter(VICTIM, 'mikura_chunks_quarantined_total') == found, 'a later pass found more')
    looking.stop = True
    looking.join()
    check(not looking.wrong, 'wrong reads: %s' % looking.wrong)
    check(looking.reads >= len(KEPT), 'only %d reads' % looking.reads)
    for n in NODES:
        if n != VICTIM:
            check(cluster.counter(n, 'mikura_chunks_quarantined_total') == 0, '%s: found what nobody broke' % n)

    # what an operator sees
    for node in (json.loads(line) for line in cluster.mikura('operator/admin', 'node', 'ls', '--json').stdout.splitlines()):
        if node['kind'] == 'storaged':
            d = node['disks'][0]
            check(int(d['scrub_pass']) > 0 and int(d['scrub_total_bytes']) > 0 and int(d['live_bytes']) > 0, 'node ls: %s' % d)
    print('%d records broken, %d live ones found and repaired, %d reads meanwhile' % (flipped, found, looking.reads), flush=True)


main()
