"""tests/cluster/lib/mk.py - a stock gRPC client, and the cluster's processes, for tests on real processes.

Messages come from the .proto files at run time (protoc, a descriptor pool), so that a test sees
every service, method and field that the project declares. Nothing of mikura's own code is used.
"""
import glob
import hashlib
import http.client
import os
import random
import ssl
import struct
import subprocess
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SOURCE = os.environ['MIKURA_SOURCE']
BUILD = os.environ['MIKURA_BUILD']
WORK = os.environ['MIKURA_WORK']
DIR = os.path.join(WORK, 'c')

FILES = ['mikura/v1/%s.proto' % n for n in ('common', 'catalog', 'objects', 'models', 'jobs', 'admin')] + \
        ['mikura/internal/v1/%s.proto' % n for n in ('store', 'work', 'bulk')] + ['grpc/health/v1/health.proto']


def fail(text):
    print('FAILED: ' + text, file=sys.stderr, flush=True)
    sys.exit(1)


def check(condition, text):
    if not condition:
        fail(text)


class Failed:
    """Collects failures, so that one run names them all."""

    def __init__(self):
        self.all = []
        self.checked = 0

    def check(self, condition, text):
        self.checked += 1
        if not condition:
            self.all.append(text)
            print('  wrong: ' + text, file=sys.stderr, flush=True)

    def end(self, what):
        if self.all:
            fail('%s: %d of %d checks' % (what, len(self.all), self.checked))
        print('%s: %d checks' % (what, self.checked), flush=True)


class Proto:
    def __init__(self, *more):
        declared = set(more)
        for base in ('mikura/v1', 'mikura/internal/v1'):
            for n in os.listdir(os.path.join(SOURCE, 'proto', base)):
                if n.endswith('.proto'):
                    declared.add('%s/%s' % (base, n))
        out = os.path.join(WORK, 'api.desc')
        subprocess.run(['protoc', '-I', os.path.join(SOURCE, 'proto'), '--include_imports', '--descriptor_set_out=' + out] +
                       sorted(declared | set(FILES)), check=True)
        self.set = descriptor_pb2.FileDescriptorSet()
        with open(out, 'rb') as f:
            self.set.ParseFromString(f.read())
        self.pool = descriptor_pool.DescriptorPool()
        for f in self.set.file:
            self.pool.Add(f)
        self.factory = message_factory.MessageFactory(self.pool)
        self.methods = {}  # '/mikura.v1.Catalog/Grant' -> (input, output, client streams, server streams)
        for f in self.set.file:
            for s in f.service:
                for m in s.method:
                    d = self.pool.FindMethodByName('%s.%s.%s' % (f.package, s.name, m.name))
                    self.methods['/%s.%s/%s' % (f.package, s.name, m.name)] = (
                        self.factory.GetPrototype(d.input_type), self.factory.GetPrototype(d.output_type),
                        m.client_streaming, m.server_streaming)

    def message(self, name, /, **fields):
        """message('mikura.v1.GrantRequest', collection='x')"""
        return self.factory.GetPrototype(self.pool.FindMessageTypeByName(name))(**fields)


proto = Proto()


def v1(name, /, **fields):
    return proto.message('mikura.v1.' + name, **fields)


def request_id():
    return v1('RequestId', id=os.urandom(16))


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__('%s: %s' % (code, text))
        self.code = code
        self.text = text


def path_of(method):
    return method if method.startswith('/') else '/mikura.v1.' + method.replace('.', '/')


class Api:
    """One identity at one address. who: 'operator/admin', 'researcher/x', 'society/s/agent', 'node/gateway/gateway-1', None."""

    def __init__(self, address, pki, who, ca=None):
        cert = key = None
        if who is not None:
            base = os.path.join(pki, (who[5:] if who.startswith('node/') else who).replace('/', '-'))
            cert = open(base + '.crt', 'rb').read()
            key = open(base + '.key', 'rb').read()
        with open(ca or os.path.join(pki, 'ca.crt'), 'rb') as f:
            credentials = grpc.ssl_channel_credentials(f.read(), key, cert)
        self.channel = grpc.secure_channel(address, credentials, options=[
            ('grpc.use_local_subchannel_pool', 1), ('grpc.max_reconnect_backoff_ms', 500),
            ('grpc.initial_reconnect_backoff_ms', 100),
            ('grpc.min_reconnect_backoff_ms', 2000),  # the time of a handshake, too
            ('grpc.max_send_message_length', -1), ('grpc.enable_retries', 0)])

    def close(self):
        self.channel.close()

    def stream(self, method, requests, timeout=60):
        """Starts a call; the answer is iterated. requests: a message, or an iterable of them."""
        path = path_of(method)
        _, answer, client_streams, server_streams = proto.methods[path]
        kind = ('stream' if client_streams else 'unary') + '_' + ('stream' if server_streams else 'unary')
        stub = getattr(self.channel, kind)(path, request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
                                           response_deserializer=answer.FromString)
        if client_streams and not hasattr(requests, '__next__'):
            requests = iter(requests if isinstance(requests, (list, tuple)) else [requests])
        return stub(requests, timeout=timeout) if server_streams else stub.with_call(requests, timeout=timeout)[0]

    def call(self, method, requests, timeout=60):
        """The answer; of a server stream the list of its messages. Raises Refused."""
        try:
            got = self.stream(method, requests, timeout)
            return list(got) if proto.methods[path_of(method)][3] else got
        except grpc.RpcError as e:
            raise Refused(e.code().name, e.details() or '') from None

    def code(self, method, requests, timeout=60):
        """('OK', '') or the gRPC code and its text."""
        try:
            self.call(method, requests, timeout)
            return 'OK', ''
        except Refused as e:
            return e.code, e.text

    # ---- objects ----
    def put(self, collection, case, path, data, timeout=60, rid=None, size=None, **spec):
        """PutObject with commit: a case of one object, published."""
        def messages():
            yield v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=rid or request_id(), spec=v1(
                'UploadSpec', collection=collection, case_id=case, path=path, size_bytes=len(data) if size is None else size, **spec)))
            for i in range(0, len(data), 1 << 20):
                yield v1('PutObjectRequest', data=data[i:i + (1 << 20)])
        return self.call('Objects.PutObject', messages(), timeout)

    def get(self, collection, case, path, timeout=60, **more):
        ref = v1('ObjectRef', collection=collection, case_id=case, path=path)
        return b''.join(m.data for m in self.call('Objects.Read', v1('ReadRequest', object=ref, **more), timeout))

    def names(self, collection):
        """(case, path, version, size) of all visible objects."""
        return sorted((o.object.case_id, o.object.path, o.object.version, o.size_bytes)
                      for m in self.call('Objects.List', v1('ListRequest', collection=collection)) for o in m.objects)


def until(what, seconds, fn, since=None):
    """Calls fn until it answers something true; UNAVAILABLE and the like mean not yet. Fails after `seconds`."""
    start = since if since is not None else time.monotonic()
    last = None
    while True:
        try:
            got = fn()
            if got:
                return got
            last = 'not yet'
        except Refused as e:
            if e.code not in ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'FAILED_PRECONDITION', 'CANCELLED', 'RESOURCE_EXHAUSTED'):
                raise
            last = str(e)
        if time.monotonic() - start > seconds:
            fail('%s: not within %s s; last: %s' % (what, seconds, last))
        time.sleep(0.1)  # between polls of another process


def run(*command, rc=0, env=None):
    got = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         errors='backslashreplace', env=dict(os.environ, **env) if env else None)
    if rc is not None:
        check(got.returncode == rc, 'exit %d, not %d: %s\n%s' % (got.returncode, rc, ' '.join(map(str, command)), got.stdout))
    return got


def chunk_records(path):
    """(offset, header bytes, plain bytes) of the chunk records in a segment: storaged/segment/README.md."""
    with open(path, 'rb') as f:
        data = f.read()
    at = 8192
    while at + 4096 <= len(data) and data[at:at + 8] == b'MIKURAR\x1a':
        header, kind = struct.unpack_from('<II', data, at + 12)
        plain = struct.unpack_from('<I', data, at + 128)[0]
        if kind == 1:
            yield at, header, plain
        at += (header + plain + 4095) // 4096 * 4096


class Cluster:
    """deploy/cluster on $MIKURA_WORK/c."""

    def __init__(self, directory=DIR):
        self.dir = directory
        self.pki = os.path.join(directory, 'pki')
        self.conf = {}
        self.places = {}
        self.made = set()  # certificates that are there
        if os.path.exists(os.path.join(directory, 'cluster.conf')):
            self.load()

    def load(self):
        with open(os.path.join(self.dir, 'cluster.conf')) as f:
            self.conf = dict(line.rstrip('\n').split('=', 1) for line in f if '=' in line)
        places = os.path.join(self.dir, 'places')
        if os.path.exists(places):
            with open(places) as f:
                self.places = dict(line.split()[:2] for line in f if line.strip())

    def __call__(self, command, *more, rc=0):
        got = run(os.path.join(SOURCE, 'deploy/cluster'), command, '--dir', self.dir, *more, rc=rc)
        self.load()
        return got.stdout

    def address(self, name):
        kind, i = name.rsplit('-', 1)
        return '%s:%d' % (self.places.get(name, '127.0.0.1'), int(self.conf['port-base']) +
                          {'gateway': 0, 'storaged': 10, 'computed': 50, 'etcd': 80}[kind] + (int(i) - 1) * (3 if kind == 'etcd' else 1))

    def names(self):
        return ['%s-%d' % (kind, i + 1) for kind, key in (('etcd', 'etcd'), ('storaged', 'storage'), ('gateway', 'gateways'), ('computed', 'workers'))
                for i in range(int(self.conf[key]))]

    def certificate(self, who, pki=None, *more):
        """Makes it in deploy/pki's way; who as in Api."""
        if pki is None and not more:
            if who in self.made:
                return
            self.made.add(who)
        pki = pki or self.pki
        part = who.split('/')
        more = list(more) + (['--address', '127.0.0.1'] if part[0] == 'node' and '--address' not in more else [])
        run(os.path.join(SOURCE, 'deploy/pki'), part[0], pki, *part[1:], *more)

    def api(self, who, at='gateway-1'):
        if who is not None and not who.startswith('node/'):
            self.certificate(who)
        return Api(self.address(at), self.pki, who)

    def http(self, who, at, path):
        """GET over HTTP/1.1: (status, text)."""
        c = ssl.create_default_context(cafile=os.path.join(self.pki, 'ca.crt'))
        base = os.path.join(self.pki, who.replace('node/', '', 1).replace('/', '-'))
        c.load_cert_chain(base + '.crt', base + '.key')
        host, port = self.address(at).split(':')
        h = http.client.HTTPSConnection(host, int(port), context=c, timeout=20)
        h.request('GET', path)
        r = h.getresponse()
        text = r.read().decode()
        h.close()
        return r.status, text

    def counter(self, at, name):
        for line in self.http('operator/admin', at, '/metrics')[1].splitlines():
            if line.startswith(name + ' '):
                return int(line.split()[1])
        return 0

    def flip_chunks(self, node):
        """One bit in the payload of each chunk's record on the node's first disk; how many there were."""
        n = 0
        for path in glob.glob(os.path.join(self.dir, node, 'disk-1', 'segments', '*.seg')):
            for at, header, plain in list(chunk_records(path)):
                with open(path, 'r+b', buffering=0) as f:
                    place = at + header + (n * 7919) % plain
                    f.seek(place)
                    b = f.read(1)
                    f.seek(place)
                    f.write(bytes([b[0] ^ (1 << n % 8)]))
                    os.fsync(f.fileno())
                n += 1
        return n

    def gauges(self, at):
        """What /metrics of a daemon shows now, by name with labels; counters left out."""
        status, text = self.http('operator/admin', at, '/metrics')
        check(status == 200, '/metrics of %s: %d %s' % (at, status, text))
        kind, got = {}, {}
        for line in text.splitlines():
            part = line.split()
            if line.startswith('# TYPE'):
                kind[part[2]] = part[3]
            elif part and not line.startswith('#') and kind.get(part[0].split('{')[0]) == 'gauge':
                got[part[0]] = float(part[1])
        return got

    def queues(self):
        """What waits, runs or is held in memory, over all daemons; a worker's open Pull is not counted."""
        got = {}
        for n in self.names():
            if n.startswith('etcd') or not self.alive(n):
                continue
            mine = {'%s %s' % (n, k): v for k, v in self.gauges(n).items()
                    if any(w in k for w in ('waiting', 'queue', 'inflight', 'memory_bytes', 'scans')) and 'work"' not in k}
            check(mine or n.startswith('computed'), '%s shows no queue in /metrics' % n)
            got.update(mine)
        return got

    def alive(self, name):
        try:
            os.kill(self.pid(name), 0)
            return True
        except (OSError, ValueError):
            return False

    def log(self, name):
        with open(os.path.join(self.dir, 'logs', name + '.log'), errors='replace') as f:
            return f.read()

    def pid(self, name):
        with open(os.path.join(self.dir, 'run', name + '.pid')) as f:
            return int(f.read().split()[0])

    def mikura(self, who, *args, rc=0, cluster_env=None):
        """The user's command, as who."""
        part = who.split('/')
        self.certificate(who)
        base = os.path.join(self.pki, '-'.join(part))
        env = {'MIKURA_ADDRESS': self.address('gateway-1'), 'MIKURA_CA': os.path.join(self.pki, 'ca.crt'),
               'MIKURA_CERT': base + '.crt', 'MIKURA_KEY': base + '.key', 'HOME': WORK}
        env.update(cluster_env or {})
        return run(os.path.join(BUILD, 'bin/mikura'), *args, rc=rc, env=env)


def ready(op):
    """Daemons that listen are not yet a cluster that writes: groups find their members, a gateway the key of receipts."""
    until('a cluster with all copies', 60, lambda: op.call('Admin.Status', v1('StatusRequest'), 5).health == 1)
    until('a key for receipts', 60, lambda: op.call('Admin.KeyStatus', v1('KeyStatusRequest'), 5).receipt_key_id)


def collection(op, name, society, **policy):
    return op.call('Catalog.CreateCollection', v1('CreateCollectionRequest', name=name, request_id=request_id(), policy=v1(
        'CollectionPolicy', kind='other', unchecked=True, society=society, **policy)))


def grant(op, name, researcher, role=1):
    op.call('Catalog.Grant', v1('GrantRequest', collection=name, grant=v1(
        'GrantEntry', subject='mikura://researcher/' + researcher, role=role)))


def blob(seed, n):
    """n bytes that no two calls share."""
    return random.Random(seed).randbytes(n)


def sha(data):
    return hashlib.sha256(data).hexdigest()
