"""tests/cluster/receipts/receipts.py - what a receipt proves, and what the gateway says of a sender's SHA-256.

`mikura put --receipts` and a stock client store; then the cluster ends, and the receipts are checked without it: by
`mikura receipt verify`, and by python3-cryptography from the format in common/crypto/README.md. Each line of the file is
then changed in each of its values: none passes.
"""
import hashlib
import json
import os
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mk import WORK, Cluster, Failed, blob, check, collection, grant, proto, ready, request_id, run, v1, BUILD

failed = Failed()
cluster = Cluster()
KIB, MIB = 1 << 10, 1 << 20
DATA = 13  # exit code (gateway/cli/cli.h)
MIKURA = os.path.join(BUILD, 'bin/mikura')


def putting(case, path, data, **spec):
    yield v1('PutObjectRequest', header=v1('PutObjectHeader', commit=True, request_id=request_id(), spec=v1(
        'UploadSpec', collection='receipts', case_id=case, path=path, size_bytes=len(data), **spec)))
    for i in range(0, len(data), MIB):
        yield v1('PutObjectRequest', data=data[i:i + MIB])


def body_of(receipt):
    return proto.message('mikura.v1.ReceiptBody').FromString(receipt.signed_bytes)


def sender_sha256(agent, reader):
    """One stream: verified, or refused. Chunks in any order: claimed. The receipt counts both."""
    for name, n in (('inline', 500), ('chunked', 9 * MIB + 5)):
        data = blob(name, n)
        right = hashlib.sha256(data).digest()
        got = agent.call('Objects.PutObject', putting(name, 'f.bin', data, sha256=right))
        digests = {d.kind: d for d in got.object.digests}
        failed.check(2 in digests and digests[2].value == right and digests[2].verified, '%s: PutObject answers %s' % (name, got.object.digests))
        body = body_of(got.receipt)
        failed.check((body.sha256_verified, body.sha256_claimed) == (1, 0), '%s: the receipt says %s' % (name, body))
        info = reader.call('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='receipts', case_id=name, path='f.bin')))
        failed.check({(d.kind, d.value, d.verified) for d in info.digests} >= {(2, right, True)}, '%s: Stat answers %s' % (name, info.digests))
        code, text = agent.code('Objects.PutObject', putting('wrong-' + name, 'f.bin', data, sha256=hashlib.sha256(b'x').digest()))
        failed.check(code == 'DATA_LOSS' and 'sha256' in text and 'again' in text, '%s: a wrong claim: %s %s' % (name, code, text))
    none = agent.call('Objects.PutObject', putting('none', 'f.bin', b'abc'))
    body = body_of(none.receipt)
    failed.check((body.sha256_verified, body.sha256_claimed) == (0, 0) and [d.kind for d in none.object.digests] == [1], 'without a claim: %s' % body)
    data = blob('session', 9 * MIB)
    claim = hashlib.sha256(data).digest()
    s = agent.call('Objects.BeginUpload', v1('BeginUploadRequest', request_id=request_id(), spec=v1(
        'UploadSpec', collection='receipts', case_id='session', path='f.bin', size_bytes=len(data), sha256=claim)))
    head = dict(collection='receipts', case_id='session', upload_id=s.upload_id)
    for index, part in ((1, data[8 * MIB:]), (0, data[:8 * MIB])):
        agent.call('Objects.PutChunk', [v1('PutChunkRequest', header=v1('ChunkHeader', index=index, length_bytes=len(part), **head))] + [
            v1('PutChunkRequest', data=part[i:i + MIB]) for i in range(0, len(part), MIB)])
    code, text = agent.code('Objects.Complete', v1('CompleteRequest', request_id=request_id(), expected=v1('Digest', kind=2, value=claim), **head))
    failed.check(code == 'INVALID_ARGUMENT' and 'PutObject' in text, 'a plain SHA-256 as what Complete should expect: %s %s' % (code, text))
    staged = agent.call('Objects.Complete', v1('CompleteRequest', request_id=request_id(), **head))
    failed.check({(d.kind, d.value, d.verified) for d in staged.digests} >= {(2, claim, False)}, 'a session: %s' % staged.digests)
    got = agent.call('Objects.CommitCase', v1('CommitCaseRequest', collection='receipts', case_id='session', count=1, request_id=request_id()))
    body = body_of(got.receipt)
    failed.check((body.sha256_verified, body.sha256_claimed) == (0, 1), 'a session: the receipt says %s' % body)
    names = {n[0] for n in reader.names('receipts')}
    failed.check(names == {'inline', 'chunked', 'none', 'session'}, 'stored: %s' % names)


def tree(data):
    """tree-sha256, common/crypto/tree_sha256.h."""
    def shape(nodes, tag):
        while len(nodes) > 1:
            nodes = [hashlib.sha256(bytes([tag]) + nodes[i] + nodes[i + 1]).digest() if i + 1 < len(nodes) else nodes[i]
                     for i in range(0, len(nodes), 2)]
        return nodes
    leaves = [hashlib.sha256(b'\0' + data[i:i + MIB]).digest() for i in range(0, max(len(data), 1), MIB)]
    top = shape(leaves, 1)[0]
    return hashlib.sha256(b'\2' + struct.pack('<Q', len(data)) + top).digest()


def root(lines):
    nodes = [hashlib.sha256(b'\x10' + struct.pack('<I', len(p.encode())) + p.encode() + struct.pack('<QQ', v, n) + d).digest()
             for p, v, n, d in sorted(lines, key=lambda x: (x[0].encode(), x[1]))]
    n = len(nodes)
    while len(nodes) > 1:
        nodes = [hashlib.sha256(b'\x11' + nodes[i] + nodes[i + 1]).digest() if i + 1 < len(nodes) else nodes[i] for i in range(0, len(nodes), 2)]
    return hashlib.sha256(b'\x12' + struct.pack('<Q', n) + b''.join(nodes)).digest()


def by_python(lines, keys, folder):
    """The format as the README has it, with nothing of mikura."""
    for k in [x for x in lines if x['type'] == 'case']:
        signed = bytes.fromhex(k['receipt']['signed_bytes'])
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[k['receipt']['key_id']]))
        try:
            public.verify(bytes.fromhex(k['receipt']['signature']), b'mikura receipt 1\0' + signed)
        except InvalidSignature:
            failed.check(False, '%s: the signature' % k['case_id'])
        body = proto.message('mikura.v1.ReceiptBody').FromString(signed)
        files = [x for x in lines if x['type'] == 'file' and x['case_id'] == k['case_id']]
        told = [(x['path'], x['version'], x['size_bytes'], bytes.fromhex(x['tree_sha256'])) for x in files]
        failed.check(body.merkle_root == root(told) and body.count == len(told), '%s: the Merkle root' % k['case_id'])
        for x in files:
            with open(x['file'], 'rb') as f:
                failed.check(tree(f.read()).hex() == x['tree_sha256'], '%s: tree-sha256' % x['file'])


def verify(lines, *more, rc=0, keys=None):
    path = os.path.join(WORK, 'try.json')
    with open(path, 'w') as f:
        for x in lines:
            f.write(json.dumps(x) + '\n')
    return run(MIKURA, 'receipt', 'verify', path, '--keys', keys or os.path.join(WORK, 'keys.json'), *more, rc=rc).stdout


def other(value):
    """Another value of the same kind."""
    if isinstance(value, int):
        return value + 1
    return ('0' if value[0] != '0' else '1') + value[1:]


def changed(lines):
    """(what, the same lines with one thing changed)."""
    for i, line in enumerate(lines):
        names = ['collection', 'case_id', 'generation', 'objects'] if line['type'] == 'case' else ['path', 'version', 'size_bytes', 'tree_sha256']
        for name in names:
            copy = json.loads(json.dumps(lines))
            copy[i][name] = other(line[name])
            yield '%s of line %d' % (name, i), copy
        if line['type'] == 'case':
            for name in ('signed_bytes', 'signature', 'key_id'):
                copy = json.loads(json.dumps(lines))
                copy[i]['receipt'][name] = other(line['receipt'][name])
                yield '%s of line %d' % (name, i), copy
        else:
            yield 'line %d left out' % i, lines[:i] + lines[i + 1:]
            yield 'line %d twice' % i, lines + [line]


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/receipts/a1'), cluster.api('researcher/reader')
    ready(op)
    collection(op, 'receipts', 'receipts')
    collection(op, 'kept', 'receipts')
    grant(op, 'receipts', 'reader')
    sender_sha256(agent, reader)

    folder, kept = os.path.join(WORK, 'files'), os.path.join(WORK, 'receipts.json')
    for case, sizes in (('one', [100]), ('three', [0, 70000, 3 * MIB + 1])):
        os.makedirs(os.path.join(folder, case))
        for i, n in enumerate(sizes):
            with open(os.path.join(folder, case, 'f%d.bin' % i), 'wb') as f:
                f.write(blob('%s %d' % (case, i), n))
    cluster.mikura('society/receipts/a1', 'put', folder, '--collection', 'kept', '--receipts', kept)
    told = cluster.mikura('society/receipts/a1', 'receipt', 'keys', '--json').stdout
    with open(os.path.join(WORK, 'keys.json'), 'w') as f:
        f.write(told)
    cluster.mikura('society/receipts/a1', 'receipt', 'verify', kept)  # with the cluster's own keys
    cluster('down')

    with open(kept) as f:
        lines = [json.loads(x) for x in f]
    failed.check(sorted((x['type'], x['case_id']) for x in lines) == [('case', 'one'), ('case', 'three'), ('file', 'one')] + [('file', 'three')] * 3,
                 'lines of the receipts: %s' % lines)
    keys = {k['key_id']: k['public_key'] for k in map(json.loads, told.splitlines())}
    by_python(lines, keys, folder)
    out = verify(lines, '--files')
    failed.check(out.count('good ') == 2 and 'BAD' not in out and '3 objects' in out, 'verify: %s' % out)
    n = 0
    for what, copy in changed(lines):
        out = verify(copy, rc=None)
        n += 1
        failed.check('BAD' in out, '%s was changed, and that passes: %s' % (what, out))
    failed.check(n > 25, 'only %d changes tried' % n)
    got = run(MIKURA, 'receipt', 'verify', kept, '--keys', os.path.join(WORK, 'keys.json'), rc=0)
    verify([x for x in lines if x['type'] == 'file'], rc=3)
    with open(os.path.join(WORK, 'other.json'), 'w') as f:
        k = json.loads(told.splitlines()[0])
        k['public_key'] = other(k['public_key'])
        f.write(json.dumps(k) + '\n')
    failed.check('not among the keys' in verify(lines, rc=DATA, keys=os.path.join(WORK, 'other.json')), 'another key')
    with open(os.path.join(folder, 'three', 'f1.bin'), 'r+b') as f:
        f.write(b'!')
    out = verify(lines, '--files', rc=DATA)
    failed.check('f1.bin' in out and 'other bytes' in out and out.count('good ') == 1, 'a file that was changed: %s' % out)
    verify(lines)
    with open(kept, 'a') as f:
        f.write('{"type": "ca')
    got = run(MIKURA, 'receipt', 'verify', kept, '--keys', os.path.join(WORK, 'keys.json'), rc=2)
    failed.check('--receipts' in got.stdout, 'a torn file: %s' % got.stdout)
    failed.end('receipts')


main()
