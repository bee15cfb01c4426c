#!/usr/bin/python3
"""Debian's python3-grpcio against a running cluster: client.py GENERATED PKI ADDRESS MODEL IMAGE"""
import hashlib
import json
import os
import random
import sys

import grpc

gen, pki, address, model_path, image_path = sys.argv[1:6]
sys.path.insert(0, gen)
from mikura.v1 import catalog_pb2 as cat, catalog_pb2_grpc, common_pb2 as com  # noqa: E402
from mikura.v1 import jobs_pb2 as jobs, jobs_pb2_grpc, models_pb2 as mod, models_pb2_grpc  # noqa: E402
from mikura.v1 import objects_pb2 as obj, objects_pb2_grpc  # noqa: E402

NAME, SECONDS, MIB = 'interoppython', 120, 1 << 20


def load(path):
    with open(path, 'rb') as f:
        return f.read()


# UNAVAILABLE says retry (proto/mikura/v1/common.proto), as a gateway does in its first second
RETRY = json.dumps({'methodConfig': [{'name': [{}], 'retryPolicy': {
    'maxAttempts': 5, 'initialBackoff': '1s', 'maxBackoff': '5s', 'backoffMultiplier': 2,
    'retryableStatusCodes': ['UNAVAILABLE']}}]})


def channel(who):
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(
        load(f'{pki}/ca.crt'), load(f'{pki}/{who}.key'), load(f'{pki}/{who}.crt')),
        options=[('grpc.service_config', RETRY)])


def rid():
    return com.RequestId(id=os.urandom(16))


def refused(code, call):
    try:
        call()
    except grpc.RpcError as e:
        assert e.code() == code, (e.code(), e.details())
        return
    raise AssertionError(f'no {code}')


def pieces(header, data):
    yield header
    for i in range(0, len(data), MIB):
        yield type(header)(data=data[i:i + MIB])


def get(objects, path, offset=0, length=0):
    q = obj.ReadRequest(object=com.ObjectRef(collection=NAME, case_id='c1', path=path),
                        offset_bytes=offset, length_bytes=length)
    return b''.join(m.data for m in objects.Read(q, timeout=SECONDS))


operator, agent, alice = channel('operator-admin'), channel(f'society-{NAME}-agent-1'), channel('researcher-alice')
catalog = catalog_pb2_grpc.CatalogStub(operator)
col = catalog.CreateCollection(cat.CreateCollectionRequest(
    name=NAME, request_id=rid(),
    policy=cat.CollectionPolicy(kind='other', unchecked=True, society=NAME, chunk_bytes=MIB,
                                index_fields=['image.width'])), timeout=SECONDS)
assert col.name == NAME and col.policy.chunk_bytes == MIB

# put: a whole object in one stream, and one by a session with its chunks in any order
put, image = objects_pb2_grpc.ObjectsStub(agent), load(image_path)
data = random.Random(1).randbytes(2 * MIB + MIB // 2 + 3)
staged = put.PutObject(pieces(obj.PutObjectRequest(header=obj.PutObjectHeader(
    spec=obj.UploadSpec(collection=NAME, case_id='c1', path='御蔵/image.png', size_bytes=len(image),
                        sha256=hashlib.sha256(image).digest()), request_id=rid())), image), timeout=SECONDS)
assert staged.object.size_bytes == len(image)
session = put.BeginUpload(obj.BeginUploadRequest(request_id=rid(), spec=obj.UploadSpec(
    collection=NAME, case_id='c1', path='bytes', size_bytes=len(data))), timeout=SECONDS)
assert (session.chunk_bytes, session.chunks) == (MIB, 3)
for i in (2, 0, 1):
    part = data[i * MIB:(i + 1) * MIB]
    a = put.PutChunk(pieces(obj.PutChunkRequest(header=obj.ChunkHeader(
        collection=NAME, case_id='c1', upload_id=session.upload_id, index=i, length_bytes=len(part))), part), timeout=SECONDS)
    assert a.index == i and not a.was_there
key = {'collection': NAME, 'case_id': 'c1', 'upload_id': session.upload_id}
assert put.ListChunks(obj.ListChunksRequest(**key), timeout=SECONDS).have_bitmap == b'\7'
done = put.Complete(obj.CompleteRequest(request_id=rid(), **key), timeout=SECONDS)
assert done.size_bytes == len(data)
r = put.CommitCase(obj.CommitCaseRequest(collection=NAME, case_id='c1', expected_generation=0, count=2,
                                         request_id=rid()), timeout=SECONDS)
body = obj.ReceiptBody.FromString(r.receipt.signed_bytes)
assert (r.generation, body.count, body.case_id, len(r.receipt.signature)) == (1, 2, 'c1', 64)
print('ok python put')

# get: nothing without a grant; then the whole, and ranges
read = objects_pb2_grpc.ObjectsStub(alice)
refused(grpc.StatusCode.PERMISSION_DENIED, lambda: get(read, 'bytes'))
catalog.Grant(cat.GrantRequest(collection=NAME, grant=cat.GrantEntry(
    subject='mikura://researcher/alice', role=cat.GRANT_READ)), timeout=SECONDS)
assert get(read, 'bytes') == data and get(read, '御蔵/image.png') == image
for at, n in ((0, 1), (65535, 2), (MIB - 1, 2), (1000003, 700001), (len(data) - 1, 1), (65536, 65536)):
    assert get(read, 'bytes', at, n) == data[at:at + n], (at, n)
assert get(read, 'bytes', 2 * MIB) == data[2 * MIB:]
refused(grpc.StatusCode.OUT_OF_RANGE, lambda: get(read, 'bytes', len(data) + 1, 1))
refused(grpc.StatusCode.NOT_FOUND, lambda: get(read, 'none'))
refused(grpc.StatusCode.PERMISSION_DENIED, lambda: get(put, 'bytes'))  # agents never read back
print('ok python get')

expression = f'collection = {NAME} and media_type = "image/png"'
query = catalog_pb2_grpc.CatalogStub(alice).Query
found = [m for a in query(cat.QueryRequest(expression=expression), timeout=SECONDS) for m in a.matches]
assert [m.object.path for m in found] == ['御蔵/image.png'] and found[0].size_bytes == len(image), found
refused(grpc.StatusCode.INVALID_ARGUMENT,
        lambda: list(query(cat.QueryRequest(expression='collection ='), timeout=SECONDS)))
print('ok python query')

model = load(model_path)
models_pb2_grpc.ModelsStub(operator).Add(pieces(mod.AddModelRequest(header=mod.AddModelHeader(
    name='quality', size_bytes=len(model), sha256=hashlib.sha256(model).digest(), request_id=rid())), model),
    timeout=SECONDS)
js = jobs_pb2_grpc.JobsStub(alice)
job = js.Submit(jobs.SubmitRequest(request_id=rid(), cohort=cat.QueryRequest(expression=expression),
                                   kind='quality', model='quality'), timeout=SECONDS)
assert job.items == 1 and job.model.startswith('quality@')
last = list(js.Watch(jobs.WatchRequest(id=job.id), timeout=SECONDS))[-1]
assert last.state == jobs.JOB_DONE and last.items_done == 1 and last.items_set_aside == 0, last
rows = [i for a in js.Results(jobs.ResultsRequest(id=job.id), timeout=SECONDS) for i in a.items]
assert len(rows) == 1 and rows[0].label and rows[0].object.path == '御蔵/image.png', rows
print('ok python job', rows[0].label)
