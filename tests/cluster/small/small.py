"""tests/cluster/small/small.py ROW - what a small cluster can lose (deploy/README.md, "Small clusters"), a cluster a row.

Steps of a row: who is lost or comes back, and what holds then: reads of all that was acknowledged, writes.
"""
import os
import shutil
import sys
import threading

from mk import Cluster, Refused, blob, check, collection, grant, until, v1

KIB = 1 << 10
cluster = Cluster()
put = {}


class Row:
    def __init__(self, copies):
        self.copies = copies
        self.op, self.agent, self.reader = (cluster.api(w) for w in ('operator/admin', 'society/s/a1', 'researcher/r'))
        until('receipts', 60, lambda: self.op.call('Admin.KeyStatus', v1('KeyStatusRequest'), 5).receipt_key_id)
        self.whole()
        collection(self.op, 'small', 's')
        grant(self.op, 'small', 'r')

    def groups(self):
        return [g for m in self.op.call('Admin.ListGroups', v1('ListGroupsRequest'), 10) for g in m.groups]

    def whole(self):
        """Every group has all the copies that this cluster can hold."""
        until('all copies', 90, lambda: (lambda gs: gs and all(len(g.in_sync_disks) == self.copies for g in gs))(self.groups()))

    def writes(self, n=4):
        for _ in range(n):
            i = len(put)
            data = blob('small %d' % i, (3 * KIB, 300 * KIB)[i % 2])
            until('a write goes through', 60, lambda: self.agent.put('small', 'case-%d' % i, 'p', data, 20))
            put[i] = data

    def no_writes(self):
        """Into each group: none is acknowledged while so much is lost."""
        got = {}

        def one(i):
            got[i] = self.agent.code('Objects.PutObject', iter([
                v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=v1('RequestId', id=os.urandom(16)), spec=v1(
                    'UploadSpec', collection='small', case_id='never-%d' % i, path='p', size_bytes=4))), v1('PutObjectRequest', data=b'data')]), 3)
        all_of = [threading.Thread(target=one, args=(i,)) for i in range(8)]
        for t in all_of:
            t.start()
        for t in all_of:
            t.join()
        check(all(code in ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED') for code, _ in got.values()), 'writes that must be refused: %s' % got)

    def reads(self):
        for i, data in put.items():
            until('case %d is read' % i, 60, lambda i=i, data=data: self.reader.get('small', 'case-%d' % i, 'p', 10) == data)

    def no_reads(self):
        code, _ = self.reader.code('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='small', case_id='case-0', path='p')), 3)
        check(code in ('UNAVAILABLE', 'DEADLINE_EXCEEDED'), 'a read with nothing there: %s' % code)


def wipe(node, disk=1):
    shutil.rmtree(os.path.join(cluster.dir, node, 'disk-%d' % disk))


def fault(node, line):
    path = os.path.join(cluster.dir, 'faults')
    with open(path + '.new', 'w') as f:
        f.write(line + '\n')
    os.rename(path + '.new', path)
    until('the fault is in', 10, lambda: not os.path.exists(path))


def out(node, disk):
    return cluster.gauges(node)['mikura_disk_out{disk="%d"}' % disk] == 1


def row_machine():
    """One machine, three disks, three copies."""
    r = Row(3)
    r.writes()
    fault('storaged-1', '0 eio 1')
    until('the disk is out', 30, lambda: poke(r) or out('storaged-1', 0))
    r.writes()  # one disk lost: all goes on
    r.reads()
    cluster('stop', 'storaged-1')
    wipe('storaged-1', 1)
    cluster('start', 'storaged-1')  # an empty disk in its place
    r.reads()
    r.writes()
    cluster('kill', 'storaged-1')  # the machine: nothing is served, nothing is lost
    r.no_reads()
    cluster('start', 'storaged-1')
    r.reads()
    r.writes()
    # a second disk before the first is made again: one copy is left
    fault('storaged-1', '1 eio 1')
    until('the next disk is out', 30, lambda: poke(r) or out('storaged-1', 1))
    r.reads()


def poke(r):
    """Something is written to every disk, acknowledged or not."""
    for i in range(8):
        r.agent.code('Objects.PutObject', iter([v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=v1(
            'RequestId', id=os.urandom(16)), spec=v1('UploadSpec', collection='small', case_id='poke-%d' % i, path='p', size_bytes=4))),
            v1('PutObjectRequest', data=b'data')]), 2)
    return False


def row_two():
    """Two nodes, copies = 2, min_in_sync = 1: one is enough to go on."""
    r = Row(2)
    r.writes()
    cluster('kill', 'storaged-2')
    r.writes()
    r.reads()
    cluster('start', 'storaged-2')
    r.whole()
    cluster('kill', 'storaged-1')
    r.reads()
    r.writes()
    # the other one was behind, and comes back alone: it never serves what is older than what was acknowledged
    cluster('kill', 'storaged-2')
    cluster('start', 'storaged-1')
    r.no_reads()
    cluster('start', 'storaged-2')
    r.reads()
    r.whole()
    cluster('stop', 'storaged-2')
    wipe('storaged-2')
    cluster('start', 'storaged-2')
    r.reads()
    r.writes()


def row_two_safe():
    """Two nodes, copies = 2, min_in_sync = 2: nothing is acknowledged with one copy."""
    r = Row(2)
    r.writes()
    cluster('kill', 'storaged-1')
    r.reads()
    r.no_writes()
    cluster('start', 'storaged-1')
    r.writes()
    r.reads()


def row_three():
    """Three nodes, the defaults."""
    r = Row(3)
    r.writes()
    cluster('kill', 'storaged-3')
    r.writes()
    r.reads()
    cluster('kill', 'storaged-2')
    r.reads()  # the last copy is read
    r.no_writes()
    cluster('start', 'storaged-2')
    r.writes()
    cluster('start', 'storaged-3')
    r.whole()
    r.reads()


row = sys.argv[1]
globals()['row_' + row]()
print('%s: %d objects, all read back' % (row, len(put)), flush=True)
