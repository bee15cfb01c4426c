#!/usr/bin/python3
"""Debian's python3-grpcio against echo_server: client.py GENERATED PKI PORT"""
import queue
import sys
import threading

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

gen, pki, port = sys.argv[1:4]
sys.path.insert(0, gen)
from grpc_gen.health.v1 import health_pb2 as health  # noqa: E402
from grpc_gen.reflection.v1 import reflection_pb2 as reflection  # noqa: E402
from mikura.v1 import objects_pb2 as objects  # noqa: E402

Piece, Header = objects.PutChunkRequest, objects.ChunkHeader
BIG = [('grpc.max_receive_message_length', 8 << 20), ('grpc.max_send_message_length', 8 << 20)]
SECONDS = 60  # ends a hang, nothing else


def read(name):
    with open(f'{pki}/{name}', 'rb') as f:
        return f.read()


def channel(ca='pki/ca', who='pki/researcher-alice', **kw):
    cred = grpc.ssl_channel_credentials(read(f'{ca}.crt'), read(f'{who}.key'), read(f'{who}.crt'))
    return grpc.secure_channel(f'127.0.0.1:{port}', cred, options=BIG, **kw)


def method(ch, kind, path, request=Piece, answer=Piece):
    return getattr(ch, kind)(path, request_serializer=request.SerializeToString,
                             response_deserializer=answer.FromString)


def unary(ch):
    return method(ch, 'unary_unary', '/mikura.test.Echo/Unary')


def ask(what, **kw):
    return Piece(header=Header(collection=what), **kw)


def refused(code, call):
    try:
        call()
    except grpc.RpcError as e:
        assert e.code() == code, (e.code(), e.details())
        return e
    raise AssertionError(f'no {code}')


def test_unary(ch):
    for n in (0, 1, 16384, 1500000):
        m = Piece(header=Header(case_id='御蔵', index=n), data=bytes(range(256)) * (n // 256) + b'x' * (n % 256))
        assert unary(ch)(m, timeout=SECONDS) == m


def test_up(ch):
    a = method(ch, 'stream_unary', '/mikura.test.Echo/Up')(
        (Piece(data=b'a' * 1500000) for _ in range(20)), timeout=SECONDS)
    assert (a.header.index, a.header.length_bytes) == (20, 30000000)
    a = method(ch, 'stream_unary', '/mikura.test.Echo/Up')(iter(()), timeout=SECONDS)
    assert a.header.index == 0


def test_down(ch):
    n = 0
    for a in method(ch, 'unary_stream', '/mikura.test.Echo/Down')(
            Piece(header=Header(index=20, length_bytes=1500000)), timeout=SECONDS):
        assert a.header.index == n and a.data == bytes([n]) * 1500000
        n += 1
    assert n == 20


def test_both(ch):
    q = queue.Queue()
    answers = method(ch, 'stream_stream', '/mikura.test.Echo/Both')(iter(q.get, None), timeout=SECONDS)
    for n in list(range(100)) + [1500000, 1500000]:  # each is answered before the next is sent
        q.put(Piece(data=b'z' * n))
        assert next(answers).data == b'z' * n
    q.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def test_error_text(ch):
    e = refused(grpc.StatusCode.NOT_FOUND, lambda: unary(ch)(ask('fail'), timeout=SECONDS))
    assert e.details() == '御蔵: 100% weg\nZeile zwei, é', e.details()


def test_unknown_method(ch):
    refused(grpc.StatusCode.UNIMPLEMENTED,
            lambda: method(ch, 'unary_unary', '/mikura.test.Echo/Nothing')(Piece(), timeout=SECONDS))


def test_not_protobuf(ch):
    bad = ch.unary_unary('/mikura.test.Echo/Unary')
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: bad(b'\xff\xff\xff', timeout=SECONDS))


def test_oversize(ch):
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED,
            lambda: unary(ch)(Piece(data=b'q' * (3 << 20)), timeout=SECONDS))
    assert unary(ch)(Piece(data=b'1'), timeout=SECONDS).data == b'1'  # the connection lives


def held(ch, n):  # a held call's end reaches the server by itself; ask until it has
    while unary(ch)(ask('held'), timeout=SECONDS).header.index < n:
        pass


def test_deadline_cancel(ch):
    before = unary(ch)(ask('held'), timeout=SECONDS).header.index
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: unary(ch)(ask('hang'), timeout=0.2))
    held(ch, before + 1)
    f = unary(ch).future(ask('hang'), timeout=SECONDS)
    unary(ch)(Piece(), timeout=SECONDS)
    f.cancel()
    assert f.cancelled()
    # a stream that is left in its middle
    s = method(ch, 'unary_stream', '/mikura.test.Echo/Down')(
        Piece(header=Header(index=1000, length_bytes=1500000)), timeout=SECONDS)
    next(s)
    s.cancel()
    refused(grpc.StatusCode.CANCELLED, lambda: list(s))
    unary(ch)(Piece(), timeout=SECONDS)


def test_metadata_bin(ch):
    for n in range(9):  # every padding
        blob = bytes((0, 255, 17, 44, 10, 13, 0, 128, 7))[:n]
        a, call = unary(ch).with_call(ask('metadata'), metadata=(('x-blob-bin', blob),), timeout=SECONDS)
        assert a.data == blob, (blob, a.data)
        assert dict(call.trailing_metadata())['x-blob-bin'] == blob


def test_gzip(ch):
    for kw in ({'compression': grpc.Compression.Gzip}, {'compression': grpc.Compression.Deflate}):
        with channel(**kw) as zipped:
            e = refused(grpc.StatusCode.UNIMPLEMENTED,
                        lambda c=zipped: unary(c)(Piece(data=b'a' * 100000), timeout=SECONDS))
            assert 'identity' in e.details(), e.details()


def test_health(ch):
    check = method(ch, 'unary_unary', '/grpc.health.v1.Health/Check',
                   health.HealthCheckRequest, health.HealthCheckResponse)
    watch = method(ch, 'unary_stream', '/grpc.health.v1.Health/Watch',
                   health.HealthCheckRequest, health.HealthCheckResponse)
    S = health.HealthCheckResponse
    mine = health.HealthCheckRequest(service='mikura.test.Echo')
    assert check(health.HealthCheckRequest(), timeout=SECONDS).status == S.SERVING
    assert check(mine, timeout=SECONDS).status == S.SERVING
    refused(grpc.StatusCode.NOT_FOUND,
            lambda: check(health.HealthCheckRequest(service='none'), timeout=SECONDS))
    w, none = watch(mine, timeout=SECONDS), watch(health.HealthCheckRequest(service='none'), timeout=SECONDS)
    assert next(w).status == S.SERVING and next(none).status == S.SERVICE_UNKNOWN
    unary(ch)(ask('down'), timeout=SECONDS)
    assert next(w).status == S.NOT_SERVING
    assert check(mine, timeout=SECONDS).status == S.NOT_SERVING
    unary(ch)(ask('up'), timeout=SECONDS)
    assert next(w).status == S.SERVING
    w.cancel()
    none.cancel()


def reflect(ch, version, *requests):
    call = method(ch, 'stream_stream', f'/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo',
                  reflection.ServerReflectionRequest, reflection.ServerReflectionResponse)
    return list(call(iter(requests), timeout=SECONDS))


def test_reflection(ch):
    R = reflection.ServerReflectionRequest
    for version in ('v1', 'v1alpha'):
        names = [s.name for s in reflect(ch, version, R(list_services=''))[0].list_services_response.service]
        for want in ('mikura.test.Echo', 'mikura.v1.Objects', 'grpc.health.v1.Health',
                     f'grpc.reflection.{version}.ServerReflection'):
            assert want in names, names
        # whoever knows nothing but the server: files of a symbol, then what they import
        pool, files, todo = descriptor_pool.DescriptorPool(), {}, []
        first = reflect(ch, version, R(file_containing_symbol='mikura.v1.Objects'))[0]
        assert first.original_request.file_containing_symbol == 'mikura.v1.Objects'
        todo.append(first)
        while todo:
            for raw in todo.pop().file_descriptor_response.file_descriptor_proto:
                f = descriptor_pb2.FileDescriptorProto.FromString(raw)
                if f.name not in files:
                    files[f.name] = f
                    if f.dependency:
                        todo += reflect(ch, version, *[R(file_by_filename=d) for d in f.dependency])

        def add(f):
            for d in f.dependency:
                add(files[d])
            pool.Add(f)
        add(files['mikura/v1/objects.proto'])
        m = pool.FindServiceByName('mikura.v1.Objects').FindMethodByName('Stat')
        factory = message_factory.MessageFactory(pool)
        Request, Answer = factory.GetPrototype(m.input_type), factory.GetPrototype(m.output_type)
        q = Request()
        q.object.path = 'a/b'
        a = method(ch, 'unary_unary', '/mikura.v1.Objects/Stat', Request, Answer)(q, timeout=SECONDS)
        assert a.object.path == 'a/b' and a.size_bytes == 2**64 - 2
        # symbols of every kind, and what is not there
        for symbol in ('mikura.v1.Objects.PutChunk', 'mikura.v1.ChunkHeader', 'mikura.v1.GrantRole'):
            assert reflect(ch, version, R(file_containing_symbol=symbol))[0].HasField('file_descriptor_response')
        no, no2 = reflect(ch, version, R(file_containing_symbol='mikura.v1.None'), R(file_by_filename='none.proto'))
        assert no.error_response.error_code == no2.error_response.error_code == 5


def test_wrong_certificates(ch):
    del ch
    for kw in ({'who': 'foreign/researcher-alice'}, {'who': 'pki/researcher-old'}, {'ca': 'foreign/ca'}):
        with channel(**kw) as bad:
            refused(grpc.StatusCode.UNAVAILABLE, lambda c=bad: unary(c)(Piece(), timeout=SECONDS))
    with grpc.secure_channel(f'127.0.0.1:{port}', grpc.ssl_channel_credentials(read('pki/ca.crt'))) as none:
        refused(grpc.StatusCode.UNAVAILABLE, lambda: unary(none)(Piece(), timeout=SECONDS))


def test_many(ch):
    failed = []

    def worker(k):
        try:
            for n in range(50):
                m = Piece(header=Header(index=n), data=bytes([k]) * (n * 997))
                assert unary(ch)(m, timeout=SECONDS) == m
        except Exception as e:  # noqa: BLE001
            failed.append(e)
    threads = [threading.Thread(target=worker, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed


with channel() as c:
    tests = [(n, f) for n, f in list(globals().items()) if n.startswith('test_')]
    for n, f in tests:
        f(c)
        print('ok python', n, flush=True)
