"""tests/cluster/secrecy/secrecy.py sealed|unsealed SCANNER DATA - stored pixels are nowhere in clear: not between daemons, not on disks.

All files of DATA's societies are stored, read back and analysed while everything on the cluster's ports is recorded; then the recording and
all of the cluster's folders (disks, indexes, logs, etcd) are searched for windows of 32 bytes with at least 12 distinct
values of the files' pixel data. The search itself is tested: what is planted on a port and on a disk must be found; and
with `unsealed`, on a cluster whose gateway leaves a block of each chunk in clear (unsealed.c), the same search must find
that block, on the wire and on the disks.
"""
import os
import random
import shutil
import signal
import socket
import subprocess
import sys

import pixels
from mk import SOURCE, WORK, Cluster, Refused, check, collection, fail, grant, ready, request_id, sha, v1

mode, scanner, samples = sys.argv[1], sys.argv[2], sys.argv[3]
SOCIETIES = ('endoscopy', 'ophthalmology', 'pathology', 'radiology')
cluster = Cluster()
needles = os.path.join(WORK, 'needles-' + mode)
recording = os.path.join(WORK, 'recording-' + mode)


def scan(*where, rc=None):
    got = subprocess.run([scanner, needles] + list(where), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(got.returncode in (0, 1), 'the scan failed: ' + got.stdout)
    if rc is not None:
        check(got.returncode == rc, 'scan of %s: %s, expected %s\n%s' % (
            ', '.join(where), 'found' if got.returncode else 'nothing found', 'to find' if rc else 'nothing', got.stdout))
    return got.stdout


def listed():
    """{(society, case, name): path}; a file in the society's own folder is a case by itself."""
    files = {}
    for society in [s for s in SOCIETIES if os.path.isdir(os.path.join(samples, s))]:
        for root, _, names in os.walk(os.path.join(samples, society)):
            for n in sorted(names):
                case = os.path.relpath(root, os.path.join(samples, society)).replace('/', '-')
                files[society, os.path.splitext(n)[0] if case == '.' else case, n] = os.path.join(root, n)
    return files


def needles_make(files):
    os.mkdir(needles)
    total = without = 0
    for i, (key, path) in enumerate(sorted(files.items())):
        p = pixels.of(path)
        if p is None or len(p) < 32:
            without += 1
            print('  no pixels in ' + path, flush=True)
            continue
        with open(os.path.join(needles, str(i)), 'wb') as f:
            f.write(p)
        total += len(p)
    print('%d files, %d bytes of pixels; %d without pixels' % (len(files), total, without), flush=True)
    check(without * 8 < len(files), 'too many files without pixels')
    # they are in the files, so the scan can find what it looks for
    scan(*[os.path.join(samples, s) for s in SOCIETIES if os.path.isdir(os.path.join(samples, s))], rc=1)


def store(files):
    op, reader = cluster.api('operator/admin'), cluster.api('researcher/reader')
    ready(op)
    for society in sorted({k[0] for k in files}):
        collection(op, society, society)
        grant(op, society, 'reader')
        agent = cluster.api('society/%s/a1' % society)
        cases = {}
        for (s, case, name), path in files.items():
            if s == society:
                cases.setdefault(case, []).append((name, path))
        for case, items in sorted(cases.items()):
            for name, path in items:
                with open(path, 'rb') as f:
                    data = f.read()

                def messages():
                    yield v1('PutObjectRequest', header=v1('PutObjectHeader', request_id=request_id(), spec=v1(
                        'UploadSpec', collection=society, case_id=case, path=name, size_bytes=len(data))))
                    for i in range(0, len(data), 1 << 20):
                        yield v1('PutObjectRequest', data=data[i:i + (1 << 20)])
                agent.call('Objects.PutObject', messages())
            agent.call('Objects.CommitCase', v1('CommitCaseRequest', collection=society, case_id=case, expected_generation=0, count=len(items),
                                                request_id=request_id()))
    for (society, case, name), path in files.items():
        with open(path, 'rb') as f:
            check(sha(reader.get(society, case, name)) == sha(f.read()), '%s/%s/%s came back with other bytes' % (society, case, name))
    return op, reader


def analyse(op, reader, n):
    import hashlib
    with open(os.path.join(SOURCE, 'deploy/models/quality.onnx'), 'rb') as f:
        model = f.read()
    op.call('Models.Add', [v1('AddModelRequest', header=v1('AddModelHeader', name='quality', size_bytes=len(model),
                                                           sha256=hashlib.sha256(model).digest(), request_id=request_id()), data=model)])
    job = reader.call('Jobs.Submit', v1('SubmitRequest', request_id=request_id(), kind='quality', model='quality',
                                        cohort=v1('QueryRequest', expression='collection in (endoscopy, ophthalmology, pathology, radiology)')))
    check(job.items > 0, 'a job without items')
    last = reader.call('Jobs.Watch', v1('WatchRequest', id=job.id), 300)[-1]
    check(last.state == 3 and last.items_done > 0, 'the job ended otherwise: %s' % last)
    print('job: %d items, %d set aside, %d bytes read by workers' % (last.items, last.items_set_aside, last.bytes_read), flush=True)


def plant_on_wire(port, secret):
    """A stranger's plain TCP on a port of the range: the recording must show it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(('127.0.0.1', port))
        listener.listen(1)
        with socket.create_connection(('127.0.0.1', port)) as c:
            a, _ = listener.accept()
            with a:
                c.sendall(os.urandom(333) + secret + os.urandom(333))
                c.shutdown(socket.SHUT_WR)
                while a.recv(4096):
                    pass


def a_secret():
    """A window that counts: 32 bytes of pixels with at least 12 values."""
    rnd = random.Random(1)
    data = open(os.path.join(needles, sorted(os.listdir(needles))[0]), 'rb').read()
    while True:
        i = rnd.randrange(len(data) - 32)
        if len(set(data[i:i + 32])) >= 12:
            return data[i:i + 32]


def plant_on_disk(secret):
    """One block left unsealed in a copy of the largest file of a storage node's disk."""
    files = [os.path.join(r, n) for r, _, ns in os.walk(os.path.join(cluster.dir, 'storaged-1')) for n in ns]
    check(files, 'storaged-1 has no files')
    largest = max(files, key=lambda f: os.stat(f).st_blocks)
    check(os.stat(largest).st_blocks * 512 > 1 << 20, 'storaged-1 holds no data: %s' % largest)
    copy = os.path.join(WORK, 'copy')
    os.mkdir(copy)
    to = os.path.join(copy, 'segment')
    subprocess.run(['cp', '--sparse=always', largest, to], check=True)
    scan(copy, rc=0)
    with open(to, 'r+b') as f:
        f.seek(4096 * 5 + 77)
        f.write(secret)
    scan(copy, rc=1)
    shutil.rmtree(copy)


def store_bare():
    """One object that is nothing but pixels: no program looks for attributes in it. No reader can open its first block."""
    op, agent = cluster.api('operator/admin'), cluster.api('society/endoscopy/a1')
    ready(op)
    collection(op, 'endoscopy', 'endoscopy')
    largest = max((os.path.join(needles, n) for n in os.listdir(needles)), key=os.path.getsize)
    with open(largest, 'rb') as f:
        data = f.read()
    check(len(data) > 128 << 10, 'the largest sample has only %d bytes of pixels: it would lie in a manifest' % len(data))
    agent.put('endoscopy', 'bare', 'pixels.bin', data, media_type='application/octet-stream')


def unsealed():
    """The same search, where there is something to find."""
    print('a block left unsealed: on the wire: ' + scan(recording, rc=1).splitlines()[-1])
    for node in ('storaged-1', 'storaged-2', 'storaged-3'):
        print('at %s: %s' % (node, scan(os.path.join(cluster.dir, node), rc=1).splitlines()[-1]))


def main():
    files = listed()
    needles_make(files)
    base = int(cluster.conf['port-base'])
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        print('skipped: a packet socket needs CAP_NET_RAW')
        sys.exit(77)
    recorder = subprocess.Popen(['/usr/bin/python3', os.path.join(os.path.dirname(os.path.abspath(__file__)), 'capture.py'), str(base),
                                 str(base + 99), recording], stdout=subprocess.PIPE, text=True)
    try:
        check(recorder.stdout.readline() == 'ready\n', 'the recorder does not start')
        if mode == 'sealed':
            op, reader = store(files)
            analyse(op, reader, len(files))
        else:
            store_bare()
        secret = a_secret()
        plant_on_wire(base + 99, secret)
    except Refused as e:
        fail(str(e))
    finally:
        recorder.send_signal(signal.SIGTERM)
        told = recorder.stdout.read()
        recorder.wait()
    print('recorded: ' + told.strip(), flush=True)
    check(recorder.returncode == 0, 'the recording is not whole: ' + told)
    if mode == 'unsealed':
        unsealed()
        return
    stored = sum(os.path.getsize(p) for p in files.values())
    # gateway to three replicas, and back at least once: less means that the wrong wire was tapped
    check(os.path.getsize(recording) > 4 * stored, 'only %d bytes recorded of %d stored' % (os.path.getsize(recording), stored))
    scan(recording + '.control', rc=1)
    print('between daemons: ' + scan(recording, rc=0).strip(), flush=True)
    print('in the cluster\'s folders: ' + scan(cluster.dir, rc=0).strip(), flush=True)
    cluster('down')  # what is flushed at the end
    print('after its end: ' + scan(cluster.dir, rc=0).strip(), flush=True)
    plant_on_disk(secret)
    print('secrecy: nothing in clear')


main()
