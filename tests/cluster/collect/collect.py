"""tests/cluster/collect/collect.py - chunks that nobody refers to are dropped through their groups' logs, others never.

Live bytes (what rows point to) of all nodes tell: they come back to what the kept objects need.
"""
import os
import signal
import threading

import grpc

from mk import Cluster, Refused, blob, check, collection, grant, ready, request_id, until, v1

cluster = Cluster()
MIB = 1 << 20
NODES = ['storaged-1', 'storaged-2', 'storaged-3']


def live():
    """Chunk bytes that rows point to, the node with most; log entries are small beside a chunk."""
    return max(cluster.gauges(n)['mikura_disk_bytes{disk="0",of="live"}'] for n in NODES)


class SlowPut(threading.Thread):
    """A PutObject that sends `sent` MiB, then waits until it is told to go on with the rest."""

    def __init__(self, at, case, sent, size, rid=None):
        super().__init__(daemon=True)
        self.api, self.case, self.sent, self.size = cluster.api('society/s/a1', at), case, sent, size
        self.rid = rid or request_id()
        self.go, self.waits, self.code, self.text = threading.Event(), threading.Event(), None, ''
        self.data = blob(case, size * MIB)

    def messages(self):
        yield v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=self.rid, spec=v1(
            'UploadSpec', collection='col', case_id=self.case, path='p', size_bytes=len(self.data))))
        for i in range(self.size):
            if i == self.sent:
                self.waits.set()
                self.go.wait()
            yield v1('PutObjectRequest', data=self.data[i * MIB:(i + 1) * MIB])

    def run(self):
        try:
            self.api.stream('Objects.PutObject', self.messages(), 120)
            self.code = 'OK'
        except grpc.RpcError as e:
            self.code, self.text = e.code().name, e.details() or ''


def main():
    op, agent, reader = (cluster.api(w, 'gateway-2') for w in ('operator/admin', 'society/s/a1', 'researcher/r'))
    ready(op)
    collection(op, 'col', 's')
    grant(op, 'col', 'r')
    model = os.path.join(os.environ['MIKURA_SOURCE'], 'deploy/models/quality.onnx')
    cluster.mikura('operator/admin', 'model', 'add', model)
    kept = {'kept-%d' % i: blob('kept %d' % i, 3 * MIB) for i in range(4)}
    for case, data in kept.items():
        agent.put('col', case, 'p', data)
    base = live()

    # an upload in parts that its sender forgets
    spec = v1('UploadSpec', collection='col', case_id='parts', path='p', size_bytes=24 * MIB)
    upload = agent.call('Objects.BeginUpload', v1('BeginUploadRequest', request_id=request_id(), spec=spec)).upload_id
    data = blob('parts', 8 * MIB)

    def chunk(index):
        header = v1('ChunkHeader', collection='col', case_id='parts', upload_id=upload, index=index, length_bytes=len(data))
        yield v1('PutChunkRequest', header=header)
        for i in range(0, len(data), MIB):
            yield v1('PutChunkRequest', data=data[i:i + MIB])
    for index in (0, 2):
        agent.call('Objects.PutChunk', chunk(index))
    check(live() >= base + 16 * MIB, 'the chunks of an upload take no room')

    # a put whose gateway dies in the middle, and one whose gateway sleeps for longer than the grace
    dies, sleeps = SlowPut('gateway-3', 'dies', 18, 30), SlowPut('gateway-1', 'sleeps', 18, 30)
    again = sleeps.rid
    for p in (dies, sleeps):
        p.start()
    for p in (dies, sleeps):
        p.waits.wait()
    until('the first chunks of both are there', 20, lambda: live() >= base + 32 * MIB)
    os.kill(cluster.pid('gateway-1'), signal.SIGSTOP)
    cluster('kill', 'gateway-3')
    until('the manager is another', 60, lambda: op.call('Admin.Status', v1('StatusRequest'), 10).manager == cluster.address('gateway-2'))
    until('all three give their room back', 60, lambda: live() < base + 6 * MIB)
    code, text = agent.code('Objects.PutChunk', chunk(1))
    check(code == 'FAILED_PRECONDITION' and 'expired' in text, 'a chunk for an expired upload: %s %s' % (code, text))
    os.kill(cluster.pid('gateway-1'), signal.SIGCONT)
    sleeps.go.set()
    sleeps.join(60)
    check(sleeps.code in ('ABORTED', 'FAILED_PRECONDITION', 'UNAVAILABLE'), 'a put whose chunks were dropped: %s %s' % (sleeps.code, sleeps.text))
    code, _ = reader.code('Objects.Read', v1('ReadRequest', object=v1('ObjectRef', collection='col', case_id='sleeps', path='p')))
    check(code == 'NOT_FOUND', 'an object without its bytes is visible: %s' % code)
    until('and what it wrote afterwards', 60, lambda: live() < base + 6 * MIB)
    agent.put('col', 'sleeps', 'p', sleeps.data, rid=again)  # the same request, sent again, is welcome
    kept['sleeps'] = sleeps.data

    # what is referred to stays, through many looks
    for case, data in kept.items():
        check(reader.get('col', case, 'p') == data, '%s is damaged' % case)
    print('collected: a session, a put whose gateway slept, one whose gateway died; %d objects are whole' % len(kept))


main()
