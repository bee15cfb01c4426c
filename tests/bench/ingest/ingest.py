"""tests/bench/ingest/ingest.py - DICOM instances of 512 KiB through the agent, beside Orthanc; see README.md."""
import argparse
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

from mk import BUILD, WORK, Cluster, check, collection, fail, ready, run, until, v1

HZ = os.sysconf('SC_CLK_TCK')
MARK = b'1987654321'
ROOT = '1.2.826.0.1.3680043.10.1338.'


def template(case, patient):
    """A 512 x 512 CT slice of noise; its instance UID ends in MARK."""
    import numpy
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian
    m = FileMetaDataset()
    m.MediaStorageSOPClassUID, m.MediaStorageSOPInstanceUID = '1.2.840.10008.5.1.4.1.1.2', ROOT + '9.' + MARK.decode()
    m.TransferSyntaxUID, m.ImplementationClassUID = ExplicitVRLittleEndian, ROOT + '1'
    path = os.path.join(WORK, 'template.dcm')
    d = FileDataset(path, {}, file_meta=m, preamble=b'\0' * 128)
    d.is_little_endian, d.is_implicit_VR = True, False
    d.SOPClassUID, d.SOPInstanceUID = m.MediaStorageSOPClassUID, m.MediaStorageSOPInstanceUID
    d.PatientName, d.PatientID = patient, 'P%d' % case
    d.StudyInstanceUID, d.SeriesInstanceUID = ROOT + '2.%d' % case, ROOT + '3.%d' % case
    d.Modality, d.SeriesNumber, d.InstanceNumber = 'CT', case, 1
    d.ImageType = ['ORIGINAL', 'PRIMARY', 'AXIAL']
    d.Rows = d.Columns = 512
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 16, 16, 15, 0, 1
    d.PhotometricInterpretation = 'MONOCHROME2'
    d.PixelData = numpy.random.default_rng(case).integers(0, 65536, 512 * 512, dtype=numpy.uint16).tobytes()
    d.save_as(path, write_like_original=False)
    return path


def make(folder, instances, cases, cleaned=None):
    total = 0
    for c in range(cases):
        where = os.path.join(folder, 'case-%02d' % c)
        os.makedirs(where)
        path = template(c, 'Bench^Peer')
        if cleaned is not None:
            out = os.path.join(WORK, 'clean-%d' % c)
            run(os.path.join(BUILD, 'bin/mikura'), 'deid', 'clean', path, '--profile', cleaned, '--pseudonym-key',
                os.path.join(WORK, 'key'), '-o', out, '--quiet')
            path = os.path.join(out, os.listdir(out)[0])
        with open(path, 'rb') as f:
            data = f.read()
        for i in range(c, instances, cases):
            with open(os.path.join(where, '%06d.dcm' % i), 'wb') as f:
                f.write(data.replace(MARK, b'%010d' % i))
                # no two instances hold the same pixels
                f.seek(-16, os.SEEK_END)
                f.write(b'%016d' % i)
            total += len(data)
    os.sync()
    return total


# ---- what processes cost ----
def stat_of(pid):
    with open('/proc/%d/stat' % pid) as f:
        part = f.read().rsplit(') ', 1)[1].split()
    return int(part[1]), sum(int(v) for v in part[11:15])  # parent; own and reaped children's ticks


def family(pids):
    """The processes and all below them."""
    parent = {}
    for n in os.listdir('/proc'):
        if n.isdigit():
            try:
                parent[int(n)] = stat_of(int(n))[0]
            except (OSError, IndexError):
                pass
    got = set(pids)
    while True:
        more = {p for p, up in parent.items() if up in got} - got
        if not more:
            return got
        got |= more


def cpu_s(pids):
    total = 0
    for p in family(pids):
        try:
            total += stat_of(p)[1]
        except OSError:
            pass
    return total / HZ


def peak_mb(pids):
    total = 0
    for p in pids:
        with open('/proc/%d/status' % p) as f:
            total += next(int(line.split()[1]) for line in f if line.startswith('VmHWM'))
    return total // 1024


def measured(op, instances, size, pids, work):
    """work() runs processes; their CPU is the client's."""
    before, client = cpu_s(pids), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    mine = after.ru_utime + after.ru_stime - client.ru_utime - client.ru_stime
    daemons = cpu_s(pids) - before
    return {'op': op, 'instances': instances, 'bytes': size, 'seconds': round(seconds, 2), 'instances_s': round(instances / seconds, 1),
            'mb_s': round(size / seconds / 1e6, 1), 'cpu_s_per_gb': round(daemons / size * 1e9, 2),
            'client_cpu_s_per_gb': round(mine / size * 1e9, 2), 'instances_per_cpu_s': round(instances / daemons, 1),
            'instances_per_cpu_s_with_client': round(instances / (daemons + mine), 1), 'rss_mb': peak_mb(pids)}


# ---- mikura ----
def agent_row(cluster, pids, op, name, folder, instances, size, profile):
    cluster.certificate('society/bench/a1')
    base = os.path.join(cluster.pki, 'society-bench-a1')
    env = dict(os.environ, MIKURA_ADDRESS=cluster.address('gateway-1'), MIKURA_CA=os.path.join(cluster.pki, 'ca.crt'),
               MIKURA_CERT=base + '.crt', MIKURA_KEY=base + '.key', HOME=WORK)
    peak = [0]

    def work():
        p = subprocess.Popen([os.path.join(BUILD, 'bin/mikura'), 'agent', 'run', folder, '--collection', name, '--state',
                              os.path.join(WORK, 'state-' + name), '--once', '--json'] + profile, env=env,
                             stdout=open(os.path.join(WORK, op + '.json'), 'wb'), stderr=subprocess.STDOUT)
        while p.poll() is None:
            try:
                peak[0] = max(peak[0], peak_mb([p.pid]))
            except (OSError, StopIteration):
                pass
            time.sleep(0.1)  # between looks at its memory
        check(p.returncode == 0, 'the agent ended with %d: %s' % (p.returncode, open(os.path.join(WORK, op + '.json')).read()[-1000:]))
    row = measured(op, instances, size, pids, work)
    row['agent_rss_mb'] = peak[0]
    return row


def floor_row(cluster, instances, size, quick):
    """What the bytes of an instance cost at the least, in this run on this disk: tests/bench/put_get/limits.c."""
    cert = os.path.join(cluster.pki, 'gateway-gateway-1')
    row = json.loads(run(os.path.join(BUILD, 'bin/bench_limits'), 'floor', '1' if quick else '3', cert + '.crt', cert + '.key',
                         os.path.join(WORK, 'floor'), '64' if quick else '1024').stdout)
    return dict(row, instances=instances, bytes=size, instances_per_cpu_s=round(instances / (row['cpu_s_per_gb'] * size / 1e9), 1))


def mikura_rows(a, show):
    cluster = Cluster()
    op = cluster.api('operator/admin')
    ready(op)
    pids = [cluster.pid(n) for n in cluster.names()]
    collection(op, 'plain', 'bench')
    op.call('Catalog.CreateCollection', v1('CreateCollectionRequest', name='checked', request_id=v1('RequestId', id=os.urandom(16)), policy=v1(
        'CollectionPolicy', kind='radiology', deid_profile='radiology', society='bench')))
    folder = os.path.join(WORK, 'in')
    size = make(folder, a.instances, a.cases)
    floor = show(floor_row(cluster, a.instances, size, a.quick))
    rows = [show(agent_row(cluster, pids, 'agent', 'plain', folder, a.instances, size, ['--profile', 'none']))]
    n = sum(o.objects for o in [op.call('Catalog.GetCollection', v1('GetCollectionRequest', name='plain'))])
    if n not in (0, a.instances):
        fail('the collection shows %d objects' % n)
    shutil.rmtree(folder)
    run(os.path.join(BUILD, 'bin/mikura'), 'deid', 'key', os.path.join(WORK, 'key'))
    size = make(folder, a.instances, a.cases, 'radiology')
    rows.append(show(agent_row(cluster, pids, 'agent_checked', 'checked', folder, a.instances, size, [])))
    shutil.rmtree(folder)
    return floor, rows


# ---- Orthanc ----
def port_free():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def orthanc_row(a, show, tls):
    program = shutil.which('Orthanc') or next((p for p in ('/usr/sbin/Orthanc',) if os.path.exists(p)), None)
    if program is None or shutil.which('storescu') is None:
        print('skipped: Orthanc: deploy/packages compare installs it', file=sys.stderr)
        return None
    op = 'orthanc_cstore_tls' if tls else 'orthanc_cstore'
    db, http, dicom = os.path.join(WORK, op), port_free(), port_free()
    os.makedirs(db)
    secure, options = {}, []
    if tls:  # dcmtk's profile has no ECDSA, so its certificates are not the cluster's
        key, cert = db + '.key', db + '.crt'
        run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=localhost')
        secure = {'DicomTlsEnabled': True, 'DicomTlsCertificate': cert, 'DicomTlsPrivateKey': key, 'DicomTlsTrustedCertificates': cert}
        options = ['+tls', key, cert, '+cf', cert]
    with open(db + '.json', 'w') as f:  # as ../shared/peers/orthanc.sh: fsync of stored files on, one copy
        json.dump(dict(secure, **{'Name': 'bench', 'StorageDirectory': db, 'IndexDirectory': db, 'HttpPort': http, 'DicomPort': dicom, 'DicomAet': 'ORTHANC',
                   'DicomCheckCalledAet': False, 'DicomAlwaysAllowStore': True, 'RemoteAccessAllowed': False, 'AuthenticationEnabled': False,
                   'SyncStorageArea': True, 'MaximumPduLength': 131072, 'TcpNoDelay': True}), f)
    env = dict(os.environ, TCP_NODELAY='1')
    server = subprocess.Popen([program, db + '.json'], env=env, stdout=open(db + '.log', 'wb'), stderr=subprocess.STDOUT)

    def answers():
        check(server.poll() is None, 'Orthanc ended: ' + open(db + '.log').read()[-800:])
        with socket.socket() as s:
            return s.connect_ex(('127.0.0.1', dicom)) == 0
    until('Orthanc answers', 60, answers)
    folder = os.path.join(WORK, 'in')
    size = make(folder, a.instances, a.cases)

    def work():
        groups = [[os.path.join(folder, 'case-%02d' % c) for c in range(k, a.cases, 4)] for k in range(4)]
        clients = [subprocess.Popen(['storescu'] + options + ['-aec', 'ORTHANC', '--max-send-pdu', '131072', '+sd', '127.0.0.1', str(dicom)] + g, env=env,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) for g in groups if g]
        check(all(c.wait() == 0 for c in clients), 'storescu failed')
    row = measured(op, a.instances, size, [server.pid], work)
    server.send_signal(signal.SIGTERM)
    server.wait()
    shutil.rmtree(folder)
    shutil.rmtree(db)
    return show(row)


COLUMNS = ['op', 'instances', 'seconds', 'instances_s', 'mb_s', 'cpu_s_per_gb', 'client_cpu_s_per_gb', 'instances_per_cpu_s',
           'instances_per_cpu_s_with_client', 'rss_mb', 'agent_rss_mb', 'of_floor', 'of_orthanc', 'of_orthanc_with_client', 'goal']


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--json', action='store_true')
    p.add_argument('--instances', type=int, default=5000)
    p.add_argument('--cases', type=int, default=10)
    p.add_argument('--no-orthanc', action='store_true')
    p.add_argument('--quick', action='store_true')
    a = p.parse_args()

    def show(row):
        print(json.dumps(row) if a.json else '| ' + ' | '.join(str(row.get(c, '')) for c in COLUMNS) + ' |', flush=True)
        return row
    if not a.json:
        print('| ' + ' | '.join(COLUMNS) + ' |\n|' + '---|' * len(COLUMNS))
    floor, rows = mikura_rows(a, show)
    peers = [] if a.no_orthanc else [p for p in (orthanc_row(a, show, tls) for tls in (False, True)) if p]
    for r in rows + peers:
        show({'op': r['op'] + '_of_floor', 'of_floor': round(r['instances_per_cpu_s'] / floor['instances_per_cpu_s'], 2)})
    for p in peers:
        for r in [floor] + rows:  # the floor's: what can be reached at most
            row = {'op': '%s_of_%s' % (r['op'], p['op'].replace('_cstore', '')),
                   'of_orthanc': round(r['instances_per_cpu_s'] / p['instances_per_cpu_s'], 2), 'goal': 5}
            if r is not floor:
                row['of_orthanc_with_client'] = round(r['instances_per_cpu_s_with_client'] / p['instances_per_cpu_s_with_client'], 2)
            show(row)


main()
