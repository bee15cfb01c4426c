"""tests/cluster/breaks/breaks.py [ROW...] - connections and processes that end in the middle of something.

  ready      when deploy/cluster up has returned, a first commit goes through; without storage a gateway says so
  cancel     clients that go away in the middle of a read, a put, a chunk, a watch leave nothing behind
  keepalive  a client that answers no ping is dropped
  expiry     a client's certificate ends: its connections end with it, busy or idle, and no new one begins
  node       a storage node's certificate ends: so do its bulk connections and all others; writes go on without it
  worker     kill -9 of a worker during a job: the job finishes, each item once
  gateway    kill -9 of the gateway that schedules, during a job and a put: both finish through the other one
"""
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

import grpc
from PIL import Image

from mk import BUILD, SOURCE, WORK, Api, Cluster, Failed, Refused, blob, check, collection, grant, ready, request_id, run, sha, until, v1

KIB, MIB = 1 << 10, 1 << 20
PROMISED_S = 15  # without one storage node all goes on
IMAGES = 48
ADDRESSES = ['--address', '127.0.0.1', '--address', 'localhost']  # as deploy/cluster has them
failed = Failed()
cluster = Cluster()


def quiet(what):
    until(what + ': empty queues', 30, lambda: not any(cluster.queues().values()))


# ---- ready ----
def row_ready(op, agent, reader):
    # the first call of all, without retry
    code, text = agent.code('Objects.PutObject', putting('first', blob('first', 100 * KIB)))
    failed.check(code == 'OK', 'the first put after deploy/cluster up: %s %s' % (code, text))
    for n in ('gateway-1', 'gateway-2'):
        status, text = cluster.http('operator/admin', n, '/healthz')
        failed.check(status == 200, '/healthz of %s: %d %s' % (n, status, text))


# ---- cancel ----
def putting(case, data, n=None, path='f.bin', wait=None):
    """A PutObject of data; only its first n bytes if n is given, and then `wait` is waited for."""
    yield v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=request_id(), spec=v1(
        'UploadSpec', collection='breaks', case_id=case, path=path, size_bytes=len(data))))
    for i in range(0, len(data) if n is None else n, MIB):
        yield v1('PutObjectRequest', data=data[i:i + MIB])
    if wait is not None:
        wait.wait(60)


def row_cancel(op, agent, reader):
    data = blob('cancel', 40 * MIB)
    agent.put('breaks', 'cancel', 'f.bin', data)
    before = reader.names('breaks')
    ref = v1('ObjectRef', collection='breaks', case_id='cancel', path='f.bin')
    for i in range(8):
        answer = reader.stream('Objects.Read', v1('ReadRequest', object=ref))
        next(answer)
        answer.cancel()
    quiet('reads that were cancelled')
    for i in range(4):
        gone = threading.Event()
        call = agent.channel.stream_unary('/mikura.v1.Objects/PutObject', request_serializer=lambda m: m.SerializeToString()).future(
            putting('never-%d' % i, data, 20 * MIB, wait=gone), timeout=60)
        until('a put is under way', 30, lambda: cluster.gauges('gateway-1')['mikura_calls_inflight{service="objects"}'] > 0)
        call.cancel()
        gone.set()
        quiet('a put that was cancelled')
    s = agent.call('Objects.BeginUpload', v1('BeginUploadRequest', request_id=request_id(), spec=v1(
        'UploadSpec', collection='breaks', case_id='chunk', path='f.bin', size_bytes=16 * MIB)))
    head = dict(collection='breaks', case_id='chunk', upload_id=s.upload_id)
    gone = threading.Event()

    def chunk(i, n, wait=None):
        yield v1('PutChunkRequest', header=v1('ChunkHeader', index=i, length_bytes=8 * MIB, **head))
        for at in range(0, n, MIB):
            yield v1('PutChunkRequest', data=data[i * 8 * MIB + at:i * 8 * MIB + at + MIB])
        if wait is not None:
            wait.wait(60)
    call = agent.channel.stream_unary('/mikura.v1.Objects/PutChunk', request_serializer=lambda m: m.SerializeToString()).future(
        chunk(0, 4 * MIB, gone), timeout=60)
    until('a chunk is under way', 30, lambda: cluster.gauges('gateway-1')['mikura_calls_inflight{service="objects"}'] > 0)
    call.cancel()
    gone.set()
    quiet('a chunk that was cancelled')
    failed.check(agent.call('Objects.ListChunks', v1('ListChunksRequest', **head)).have_bitmap == b'\0', 'half a chunk is listed as there')
    agent.call('Objects.PutChunk', chunk(0, 8 * MIB))
    agent.call('Objects.PutChunk', chunk(1, 8 * MIB))
    agent.call('Objects.Complete', v1('CompleteRequest', request_id=request_id(), **head))
    agent.call('Objects.CommitCase', v1('CommitCaseRequest', collection='breaks', case_id='chunk', count=1, request_id=request_id()))
    failed.check(sha(reader.get('breaks', 'chunk', 'f.bin')) == sha(data[:16 * MIB]), 'a chunk sent again after a break has other bytes')
    job = submit(reader)
    watch = reader.stream('Jobs.Watch', v1('WatchRequest', id=job.id))
    next(watch)
    watch.cancel()
    failed.check(finished(reader, job), 'a job whose watcher went away')
    quiet('a watch that was cancelled')
    names = [n for n in reader.names('breaks') if n[0] != 'chunk']
    failed.check(names == before, 'cancelled puts are listed: %s' % sorted(set(names) ^ set(before)))


# ---- keepalive ----
def tls(who, pki=None):
    base = os.path.join(pki or cluster.pki, who.replace('/', '-'))
    c = ssl.create_default_context(cafile=os.path.join(cluster.pki, 'ca.crt'))
    c.load_cert_chain(base + '.crt', base + '.key')
    c.set_alpn_protocols(['h2'])
    host, port = cluster.address('gateway-1').split(':')
    t = c.wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname=host)
    t.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # SETTINGS, empty
    return t


def ends_after(t, alive=False):
    """Seconds until the other side hangs up; whatever it says before, nothing is answered. alive: pings all the time."""
    since = time.monotonic()
    t.settimeout(0.3)
    try:
        while time.monotonic() - since < 30:
            try:
                if not t.recv(4096):
                    break
            except socket.timeout:
                if alive:
                    t.sendall(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b'mikura??')
        else:
            return None
    except OSError:
        pass
    return time.monotonic() - since


def row_keepalive(op, agent, reader):
    took = ends_after(tls('researcher/reader'))
    failed.check(took is not None, 'a client that answers no ping is kept for 30 s; keepalive is 1 s')
    print('  a silent client is dropped after %.1f s' % (took or 0), flush=True)
    # one that does answer is not: the same connection, idle for longer, still serves (grpcio answers pings)
    failed.check(reader.code('Objects.List', v1('ListRequest', collection='breaks'))[0] == 'OK', 'an idle client')


# ---- expiry ----
def brief(who, seconds):
    """A folder like the cluster's pki where `who` has a certificate for so long; when it ends (time.time)."""
    folder = os.path.join(WORK, 'brief-%s' % who.replace('/', '-'))
    os.mkdir(folder)
    for n in ('ca.crt', 'ca.key'):
        shutil.copy(os.path.join(cluster.pki, n), folder)
    cluster.certificate(who, folder, '--seconds', str(seconds))
    end = run('openssl', 'x509', '-in', os.path.join(folder, who.replace('/', '-') + '.crt'), '-noout', '-enddate').stdout
    return folder, ssl.cert_time_to_seconds(end.split('=')[1].strip())


def row_expiry(op, agent, reader):
    folder, end = brief('researcher/reader', 5)
    address = cluster.address('gateway-1')
    # idle: a connection without calls
    idle = tls('researcher/reader', folder)
    # in the middle of an answer, taken slowly
    slow = Api(address, folder, 'researcher/reader')
    answer = slow.stream('Objects.Read', v1('ReadRequest', object=v1('ObjectRef', collection='breaks', case_id='long', path='f.bin')))
    # busy: call after call over one connection
    busy = Api(address, folder, 'researcher/reader')
    told = {}

    def slowly():
        try:
            for _ in answer:
                time.sleep(0.4)  # 64 messages: longer than the certificate lives
            told['slow'] = (time.time(), 'OK', '')
        except grpc.RpcError as e:
            told['slow'] = (time.time(), e.code().name, e.details())

    def busily():
        while True:
            code, text = busy.code('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='breaks', case_id='long', path='f.bin')), 5)
            if code != 'OK':
                told['busy'] = (time.time(), code, text)
                return
    threads = [threading.Thread(target=slowly), threading.Thread(target=busily)]
    for t in threads:
        t.start()
    failed.check(ends_after(idle, alive=True) is not None, 'an idle connection outlives its certificate')
    told['idle'] = (time.time(), 'closed', '')
    for t in threads:
        t.join()
    for name, (at, code, text) in sorted(told.items()):
        print('  %s: %s %.1f s after the end of the certificate: %s' % (name, code, at - end, text), flush=True)
        failed.check(code in ('closed', 'UNAVAILABLE', 'UNAUTHENTICATED'), 'the %s connection: %s %s' % (name, code, text))
        failed.check(at >= end - 1.5, 'the %s connection ended %.1f s before its certificate' % (name, end - at))
        # what was under way in the client's own buffers is still read: 4 messages of 0.4 s at most
        failed.check(at <= end + 4, 'the %s connection ended %.1f s after its certificate' % (name, at - end))
    code, text = Api(address, folder, 'researcher/reader').code('Objects.List', v1('ListRequest', collection='breaks'), 5)
    failed.check(code == 'UNAVAILABLE', 'a new connection with a certificate that has ended: %s %s' % (code, text))
    quiet('connections that ended with their certificates')


# ---- node ----
def connections(port):
    """Established connections to or from a port, as the kernel lists them."""
    with open('/proc/net/tcp') as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sum(r[3] == '01' and any(int(a.split(':')[1], 16) == port for a in r[1:3]) for r in rows)


def in_sync(op):
    return min(len(g.in_sync_disks) for m in op.call('Admin.ListGroups', v1('ListGroupsRequest'), 5) for g in m.groups)


def row_node(op, agent, reader):
    name = 'storaged-3'
    port = int(cluster.address(name).split(':')[1])
    cluster('stop', name)
    cluster.certificate('node/storaged/' + name, cluster.pki, *ADDRESSES, '--force', '--seconds', '12')
    end = time.time() + 12
    cluster('start', name)
    until('%s is back' % name, 60, lambda: connections(port) > 3 and 'joined' in cluster.log(name) and in_sync(op) == 3)
    stop = threading.Event()
    wrong, slowest = [], [0.0]

    def writing():
        i = 0
        while not stop.is_set():
            i += 1
            since = time.monotonic()
            data, rid = blob('node %d' % i, 300 * KIB), request_id()
            while True:
                try:
                    agent.put('breaks', 'node-%d' % i, 'f.bin', data, 20, rid=rid)
                    break
                except Refused as e:
                    if e.code not in ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED') or time.monotonic() - since > 2 * PROMISED_S:
                        wrong.append(str(e))
                        return
                    time.sleep(0.1)
            slowest[0] = max(slowest[0], time.monotonic() - since)
    w = threading.Thread(target=writing)
    w.start()
    time.sleep(max(0.0, end - time.time()))
    failed.check(time.time() - end < 5, 'the test began too late')
    # connections of a moment are new ones that are refused
    until('the connections of %s end with its certificate' % name, 5, lambda: connections(port) == 0)
    print('  no connection %.1f s after the end of the certificate' % (time.time() - end), flush=True)
    until('%s is left out' % name, PROMISED_S, lambda: in_sync(op) == 2)
    stop.set()
    w.join()
    failed.check(not wrong, 'writes while a node lost its certificate: %s' % wrong)
    failed.check(slowest[0] < PROMISED_S, 'a write took %.1f s' % slowest[0])
    print('  slowest write %.1f s' % slowest[0], flush=True)
    # each says so at its next try, not at once
    until('a log of a neighbour says that the certificate of %s has expired' % name, PROMISED_S, lambda: any(
        'expired' in cluster.log(n) for n in cluster.names() if n != name and not n.startswith('etcd')))
    until('its own log says what to do', PROMISED_S,
          lambda: 'own certificate has expired: renew it with deploy/pki' in cluster.log(name))
    cluster('stop', name)
    cluster.certificate('node/storaged/' + name, cluster.pki, *ADDRESSES, '--force')
    cluster('start', name)
    until('%s is back with a new certificate' % name, 60, lambda: in_sync(op) == 3)
    quiet('a node whose certificate ended')


# ---- jobs ----
def images_put():
    """A case of many images, and the model."""
    folder = os.path.join(WORK, 'images')
    os.mkdir(folder)
    one = os.path.join(WORK, 'one.jpg')
    # few bytes, something to compute
    Image.frombytes('RGB', (40, 30), blob('image', 40 * 30 * 3)).resize((640, 480), Image.BICUBIC).save(one, quality=60)
    with open(one, 'rb') as f:
        data = f.read()
    for i in range(IMAGES):
        with open(os.path.join(folder, 'i%03d.jpg' % i), 'wb') as f:
            f.write(data + b'%d' % i)  # behind the end of the image
    cluster.mikura('society/breaks/a1', 'put', folder, '--collection', 'images', '--case', 'many')
    cluster.mikura('operator/admin', 'model', 'add', os.path.join(SOURCE, 'deploy/models/quality.onnx'))


def submit(reader):
    return reader.call('Jobs.Submit', v1('SubmitRequest', request_id=request_id(), kind='quality', model='quality',
                                         cohort=v1('QueryRequest', expression='collection = images')))


def finished(reader, job, limit=180):
    """Waits for the end; each item has exactly one result."""
    def ended():
        j = reader.call('Jobs.Get', v1('GetJobRequest', id=job.id), 5)
        return j if j.state >= 3 else None
    j = until('the end of the job', limit, ended)
    items = [i for m in reader.call('Jobs.Results', v1('ResultsRequest', id=job.id)) for i in m.items]
    failed.check(j.state == 3 and j.items == IMAGES and j.items_done == IMAGES and j.items_set_aside == 0, 'the job: %s' % j)
    failed.check(sorted(i.object.path for i in items) == ['i%03d.jpg' % n for n in range(IMAGES)], '%d results of %d items, %d different' % (
        len(items), IMAGES, len({i.object.path for i in items})))
    failed.check(all(i.label and not i.set_aside_reason for i in items), 'set aside: %s' % [i for i in items if not i.label][:2])
    j.ClearField('bytes_read')
    return items


def tasks(worker):
    """How many tasks it has taken."""
    return sum(float(line.split()[1]) for line in cluster.http('operator/admin', worker, '/metrics')[1].splitlines()
               if line.startswith('mikura_worker_tasks_total'))


def submit_and_see(reader):
    """A job, and a worker that has a task of it."""
    workers = ('computed-1', 'computed-2')
    before = {w: tasks(w) for w in workers}
    job = submit(reader)
    return job, until('the job is under way', 60, lambda: next((w for w in workers if tasks(w) > before[w]), None))


def row_worker(op, agent, reader):
    job, victim = submit_and_see(reader)
    cluster('kill', victim)
    since = time.monotonic()
    items = finished(reader, job)
    print('  finished %.1f s after the kill; %d items at a second attempt' % (time.monotonic() - since, sum(i.attempt > 1 for i in items)), flush=True)
    again = [i for i in items if i.attempt > 1]
    failed.check(again and not any(i.worker.endswith('/' + victim) for i in again), 'second attempts: %s' % {i.worker for i in again})
    cluster('start', victim)
    quiet('a worker that was killed')


def elected(what):
    """The gateway that was elected last, by the logs."""
    last = []
    for n in cluster.names():
        if n.startswith('gateway'):
            last += [(line.split()[0], n) for line in cluster.log(n).splitlines() if ' %s_elected ' % what in line]
    return max(last)[1]


def row_gateway(op, agent, reader):
    victim = elected('scheduler')
    other = {'gateway-1': 'gateway-2', 'gateway-2': 'gateway-1'}[victim]
    there, sums = cluster.api('researcher/reader', other), {}
    folder = os.path.join(WORK, 'put')
    os.mkdir(folder)
    for i, n in enumerate((150 * MIB, 20 * MIB, 30 * KIB, 5 * MIB)):
        data = blob('gateway %d' % i, n)
        sums['f%d.bin' % i] = sha(data)
        with open(os.path.join(folder, 'f%d.bin' % i), 'wb') as f:
            f.write(data)
    base = os.path.join(cluster.pki, 'society-breaks-a1')
    put = subprocess.Popen([os.path.join(BUILD, 'bin/mikura'), 'put', folder, '--collection', 'breaks', '--case', 'through', '--quiet'],
                           env=dict(os.environ, MIKURA_ADDRESS='%s,%s' % (cluster.address(victim), cluster.address(other)), HOME=WORK,
                                    MIKURA_CA=os.path.join(cluster.pki, 'ca.crt'), MIKURA_CERT=base + '.crt', MIKURA_KEY=base + '.key'),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    job, _ = submit_and_see(there)
    until('the put is under way', 30, lambda: cluster.gauges(victim)['mikura_calls_inflight{service="objects"}'] > 0)
    failed.check(put.poll() is None, 'the put ended before anything was killed')
    cluster('kill', victim)
    since = time.monotonic()
    told = put.communicate()[0]
    failed.check(put.returncode == 0, 'a put whose gateway was killed: exit %d: %s' % (put.returncode, told))
    print('  the put ended %.1f s after the kill' % (time.monotonic() - since), flush=True)
    for name, want in sorted(sums.items()):
        failed.check(sha(there.get('breaks', 'through', name)) == want, '%s came back with other bytes' % name)
    items = finished(there, job)
    print('  the job ended %.1f s after the kill; %d items at a second attempt' % (
        time.monotonic() - since, sum(i.attempt > 1 for i in items)), flush=True)
    failed.check(elected('scheduler') == other, 'nobody took the scheduler over')
    cluster('start', victim)
    again = cluster.api('researcher/reader', victim)
    failed.check([i.object.path for m in again.call('Jobs.Results', v1('ResultsRequest', id=job.id)) for i in m.items] ==
                 [i.object.path for i in items], 'the results differ at the gateway that is back')
    quiet('a gateway that was killed')


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/breaks/a1'), cluster.api('researcher/reader')
    for name in ('breaks', 'images'):
        collection(op, name, 'breaks')
        grant(op, name, 'reader')
    rows = ['ready', 'cancel', 'keepalive', 'expiry', 'node', 'worker', 'gateway']
    only = sys.argv[1:] or rows
    for row in rows:
        if row in only:
            if row != 'ready' and not os.path.exists(os.path.join(WORK, 'images')):
                ready(op)
                images_put()
                agent.put('breaks', 'long', 'f.bin', blob('long', 64 * MIB))
            print('-- ' + row, flush=True)
            begin = time.monotonic()
            try:
                globals()['row_' + row](op, agent, reader)
            except Refused as e:
                failed.check(False, '%s ended: %s' % (row, e))
            print('   %.1f s' % (time.monotonic() - begin), flush=True)
    failed.end('breaks')


main()
