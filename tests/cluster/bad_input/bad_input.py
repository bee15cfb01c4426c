"""tests/cluster/bad_input/bad_input.py - what is refused, how, and that nothing is left behind.

Each row: what is done, the gRPC status (or exit code) that it must give, and words that its message must
hold: which thing is wrong, or what to do. After each group of rows lists, sizes and queues are as before.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import time

from mk import BUILD, SOURCE, WORK, Cluster, Failed, Refused, blob, check, collection, grant, ready, request_id, run, until, v1

failed = Failed()
cluster = Cluster()
KIB, MIB = 1 << 10, 1 << 20
# exit codes of the command (gateway/cli/cli.h)
USAGE, NONE, NOT_ALLOWED, UNAUTH, STATE, LIMIT, PARTIAL, UNAVAIL = 2, 3, 4, 5, 7, 8, 9, 10


def rpc(what, api, method, request, code, *words):
    got, text = api.code(method, request)
    codes = code if isinstance(code, tuple) else (code,)
    failed.check(got in codes, '%s: %s, not %s (%s)' % (what, got, code, text))
    for w in words:
        failed.check(w.lower() in text.lower(), '%s: no "%s" in: %s' % (what, w, text))


def cli(what, who, args, code, *words, env=None):
    got = cluster.mikura(who, *args, rc=None, cluster_env=env)
    failed.check(got.returncode == code, '%s: exit %d, not %d: %s' % (what, got.returncode, code, got.stdout.strip()))
    for w in words:
        failed.check(w.lower() in got.stdout.lower(), '%s: no "%s" in: %s' % (what, w, got.stdout.strip()))
    return got.stdout


def daemon(what, program, conf, changes, words, wait_log=False):
    """A daemon that must not start: exit 1 and a reason. wait_log: it waits instead, and says for what."""
    args = [os.path.join(BUILD, 'bin', program), '--config=' + conf] + ['--%s=%s' % c for c in changes.items()]
    if not wait_log:
        try:
            got = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        except subprocess.TimeoutExpired as e:
            failed.check(False, '%s: it runs: %s' % (what, e.stdout))
            return
        failed.check(got.returncode == 1, '%s: exit %d, not 1: %s' % (what, got.returncode, got.stdout))
        text = got.stdout
    else:
        p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        text = ''
        for line in p.stdout:  # ends with the process; CTest's TIMEOUT ends a hang
            text += line
            if all(w.lower() in text.lower() for w in words):
                break
        failed.check(p.poll() is None, '%s: it ended: %s' % (what, text))
        p.kill()
        p.wait()
    for w in words:
        failed.check(w.lower() in text.lower(), '%s: no "%s" in: %s' % (what, w, text))


class State:
    """What must be as before."""

    def __init__(self, op, reader):
        self.op, self.reader = op, reader

    def take(self):
        c = self.op.call('Catalog.GetCollection', v1('GetCollectionRequest', name='bad'))
        return dict(names=self.reader.names('bad'), cases=c.cases, objects=c.objects, stored=c.bytes_stored,
                    ls=cluster.mikura('researcher/reader', 'ls', '-r', 'bad').stdout)

    def same(self, what, before):
        after = self.take()
        failed.check(after == before, '%s left something behind:\n  %s\n  %s' % (what, before, after))
        empty = lambda: not any(cluster.queues().values())
        until('%s: empty queues' % what, 60, empty)


def spec(case='c', path='p', size=4, **more):
    return v1('UploadSpec', **dict(dict(collection='bad', case_id=case, path=path, size_bytes=size), **more))


def putting(data=b'abcd', rid=None, commit=True, **more):
    def messages():
        yield v1('PutObjectRequest', header=v1('PutObjectHeader', request_id=rid or request_id(), commit=commit,
                                               spec=spec(**dict(dict(size=len(data)), **more))))
        for i in range(0, len(data), MIB):
            yield v1('PutObjectRequest', data=data[i:i + MIB])
    return messages()


def raw_path(path):
    """A PutObject header whose path is no UTF-8: written by hand, Python refuses to."""
    one = v1('PutObjectRequest', header=v1('PutObjectHeader', request_id=request_id(), commit=True, spec=spec(path='@' * len(path))))
    return iter([one.SerializeToString().replace(b'@' * len(path), path), v1('PutObjectRequest', data=b'abcd')])


def names(agent, op):
    put = 'Objects.PutObject'
    for path, words in (('', ['path', 'empty']), ('a//b', ['path', 'empty segment']), ('/a', ['empty segment']), ('a/', ['empty segment']),
                        ('.', ["'.'"]), ('a/../b', ["'..'"]), ('a\nb', ['control character', 'U+000A']), ('a\x7f', ['U+007F']),
                        ('cafe\u0301.jpg', ['NFC']), ('x' * 1025, ['1025', '1024'])):
        rpc('path %r' % path[:20], agent, put, putting(path=path), 'INVALID_ARGUMENT', *words)
    # protobuf's own parser may refuse it first
    rpc('path that is no UTF-8', agent, put, raw_path(b'a\xff\xfeb'), ('INVALID_ARGUMENT',))
    for case, words in (('', ['case id', 'empty']), ('a/b', ['case id', "'/'"]), ('..', ["'..'"]), ('a\tb', ['control character']),
                        ('x' * 1025, ['1024']), ('A\u030a', ['NFC'])):
        rpc('case %r' % case[:20], agent, put, putting(case=case), 'INVALID_ARGUMENT', *words)
    for name in ('', 'Upper', '1st', 'a_b', 'a b', 'x' * 64, 'caf\u00e9', '../x'):
        rpc('collection %r' % name, op, 'Catalog.CreateCollection', v1(
            'CreateCollectionRequest', name=name, request_id=request_id(), policy=v1('CollectionPolicy', kind='other', unchecked=True, society='s')),
            'INVALID_ARGUMENT', 'name')
    rpc('a policy without unchecked', op, 'Catalog.CreateCollection', v1(
        'CreateCollectionRequest', name='other', request_id=request_id(), policy=v1('CollectionPolicy', kind='other', society='s')),
        'FAILED_PRECONDITION', 'unchecked')
    rpc('another policy', op, 'Catalog.CreateCollection', v1(
        'CreateCollectionRequest', name='bad', request_id=request_id(), policy=v1('CollectionPolicy', kind='other', unchecked=True, society='else')),
        'ALREADY_EXISTS', 'bad', 'mikura collection show')
    rpc('a grant to no certificate', op, 'Catalog.Grant', v1('GrantRequest', collection='bad', grant=v1('GrantEntry', subject='alice', role=1)),
        'INVALID_ARGUMENT', 'alice', 'mikura://researcher/')
    rpc('no request id', agent, put, iter([v1('PutObjectRequest', header=v1('PutObjectHeader', spec=spec()))]), 'INVALID_ARGUMENT', 'request_id')
    rpc('no header', agent, put, iter([v1('PutObjectRequest', data=b'abcd')]), 'INVALID_ARGUMENT', 'header')


def packs(agent):
    put = 'Objects.PutPack'

    def pack(objects, data=b'', rid=None, case='c', collection='bad', header=True, more=()):
        """objects: (path, bytes)..."""
        head = v1('PutPackHeader', collection=collection, case_id=case, objects=[v1('PackEntry', path=p, size_bytes=n) for p, n in objects])
        if rid is not False:
            head.request_id.CopyFrom(rid or request_id())
        if header:
            yield v1('PutPackRequest', header=head)
        for i in range(0, len(data), MIB):
            yield v1('PutPackRequest', data=data[i:i + MIB])
        yield from more

    rpc('no header, pack', agent, put, pack([], b'abcd', header=False), 'INVALID_ARGUMENT', 'header')
    rpc('no request id, pack', agent, put, pack([('a', 1)], b'a', rid=False), 'INVALID_ARGUMENT', 'request_id')
    rpc('an empty pack', agent, put, pack([]), 'INVALID_ARGUMENT', '1 to 64')
    rpc('65 objects', agent, put, pack([('p%d' % i, 1) for i in range(65)], blob('65', 65)), 'INVALID_ARGUMENT', '1 to 64')
    rpc('one path twice', agent, put, pack([('a', 1), ('b', 1), ('a', 1)], b'abc'), 'INVALID_ARGUMENT', "'a'", 'twice')
    for path, word in (('', 'empty'), ('/a', 'empty segment'), ('a/../b', "'..'"), ('a\nb', 'control character'), ('cafe\u0301', 'NFC'), ('x' * 1025, '1024')):
        rpc('a pack with %r' % path[:20], agent, put, pack([('good', 1), (path, 1)], b'ab'), 'INVALID_ARGUMENT', word)
    rpc('a case of a pack', agent, put, pack([('a', 1)], b'a', case='a/b'), 'INVALID_ARGUMENT', 'case id')
    rpc('a collection of a pack', agent, put, pack([('a', 1)], b'a', collection='nope'), 'NOT_FOUND', 'nope')
    rpc('a pack beyond its limit', agent, put, pack([('a', 9 * MIB), ('b', 9 * MIB)]), 'OUT_OF_RANGE', 'upload', 'alone')
    rpc('sizes that wrap around', agent, put, pack([('a', (1 << 64) - 1), ('b', 2)], b'a'), 'OUT_OF_RANGE', 'alone')
    for have in (0, 1, 9, 11, MIB):
        rpc('%d bytes in a pack of 10' % have, agent, put, pack([('a', 3), ('none', 0), ('b', 7)], blob('pack', have)),
            'INVALID_ARGUMENT' if have < 10 else 'OUT_OF_RANGE', '10')
    rpc('bytes for empty objects', agent, put, pack([('a', 0), ('b', 0)], b'x'), 'OUT_OF_RANGE', 'declared 0')
    rpc('two headers', agent, put, pack([('a', 2)], b'a', more=pack([('a', 2)])), 'INVALID_ARGUMENT', 'later message')
    rpc('bytes that are no message', agent, put, iter([b'\xff' * 40]), ('INVALID_ARGUMENT', 'INTERNAL'))
    rid = request_id()
    agent.call(put, pack([('a', 3), ('b', 3)], b'abcdef', rid=rid, case='pack'))
    rpc('a request id for another pack', agent, put, pack([('a', 3), ('c', 3)], b'abcdef', rid=rid, case='pack'), 'ALREADY_EXISTS', 'request id')
    again = agent.call(put, pack([('a', 3), ('b', 3)], b'abcdef', rid=rid, case='pack'))
    failed.check(again.was_there and len(again.objects) == 2, 'the same pack again: %s' % again)
    dropped = agent.call('Objects.DropStaged', v1('DropStagedRequest', collection='bad', case_id='pack')).versions_dropped
    failed.check(dropped == 2, 'a refused pack staged something: %d' % dropped)


def unknown(agent, op, reader):
    gone = v1('ObjectRef', collection='nope', case_id='c', path='p')
    rpc('unknown collection, put', agent, 'Objects.PutObject', putting(collection='nope'), 'NOT_FOUND', 'nope')
    rpc('unknown collection, read', reader, 'Objects.Read', v1('ReadRequest', object=gone), 'NOT_FOUND', 'nope')
    rpc('unknown collection, list', reader, 'Objects.List', v1('ListRequest', collection='nope'), 'NOT_FOUND', 'nope')
    rpc('unknown collection, grant', op, 'Catalog.Grant', v1('GrantRequest', collection='nope', grant=v1(
        'GrantEntry', subject='mikura://researcher/x', role=1)), 'NOT_FOUND', 'nope')
    rpc('unknown case', reader, 'Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='bad', case_id='nope', path='p')),
        'NOT_FOUND', 'nope')
    rpc('unknown object', reader, 'Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='bad', case_id='good', path='nope')),
        'NOT_FOUND', 'nope')
    rpc('a query that is none', reader, 'Catalog.Query', v1('QueryRequest', expression='collection = bad and and'), 'INVALID_ARGUMENT', 'column')
    one = os.path.join(WORK, 'one.bin')
    with open(one, 'wb') as f:
        f.write(b'one')
    cli('put into an unknown collection', 'society/bad/a1', ['put', one, '--collection', 'nope'], NONE, 'nope')
    cli('ls of an unknown collection', 'researcher/reader', ['ls', 'nope'], NONE, 'nope')
    cli('get of an unknown object', 'researcher/reader', ['get', 'bad/good/nope', '-o', '-'], NONE, 'nope')
    cli('an unknown command', 'researcher/reader', ['fly'], USAGE, 'fly', '--help')
    cli('an unknown option', 'researcher/reader', ['ls', '--fly'], USAGE, '--fly', '--help')
    cli('a file that is not there', 'society/bad/a1', ['put', '/nonexistent', '--collection', 'bad'], NONE, '/nonexistent')


def tokens(op, reader):
    """Page tokens that no listing gave. Those that one gave are places in the order of names, so none is ever too old."""
    pages = reader.call('Objects.List', v1('ListRequest', collection='bad', limit=1))
    good = pages[-1].page_token
    failed.check(good != '', 'a page of one has no token')
    for what, token in (('garbled', 'xyz'), ('cut', good[:-1]), ('half', good[:6]), ('no hex', good[:-2] + 'QQ'), ('a name', 'good'),
                        ('another case id', '2f2f00' + '61'), ('no path', (b'good\0').hex()), ('long', 'ab' * 5000)):
        rpc('a token that is %s' % what, reader, 'Objects.List', v1('ListRequest', collection='bad', page_token=token),
            'INVALID_ARGUMENT', 'page_token', 'list again without it')
    rpc('a token of another case', reader, 'Objects.List', v1('ListRequest', collection='bad', case_id='other', page_token=good),
        'INVALID_ARGUMENT', 'page_token', 'another case')
    rpc('a token that is no case', reader, 'Catalog.ListCases', v1('ListCasesRequest', collection='bad', page_token='a/b'),
        'INVALID_ARGUMENT', 'page_token', 'list again without it')
    rpc('a token that is no collection', op, 'Catalog.ListCollections', v1('ListCollectionsRequest', page_token=good + 'X'),
        'INVALID_ARGUMENT', 'page_token', 'list again without it')
    # of an object that is not there (deleted, or never): goes on behind its place
    rest = [o.object.path for m in reader.call('Objects.List', v1('ListRequest', collection='bad', page_token=(b'good\0a').hex())) for o in m.objects]
    failed.check(rest == [n[1] for n in reader.names('bad') if (n[0], n[1]) > ('good', 'a')], 'a token of a name that is gone: %s' % rest)


def sizes(agent, reader):
    put = 'Objects.PutObject'
    for n in (100, 200 * KIB, 9 * MIB):
        rpc('%d bytes of %d' % (n // 2, n), agent, put, putting(blob(n, n // 2), size=n), 'INVALID_ARGUMENT', 'declared', str(n))
        rpc('%d bytes of %d' % (n + 50, n), agent, put, putting(blob(n, n + 50), size=n), ('OUT_OF_RANGE', 'INVALID_ARGUMENT'), 'declared', str(n))
        rpc('%d bytes with a wrong sha256' % n, agent, put, putting(blob(n, n), size=n, sha256=bytes(32)), 'DATA_LOSS', 'sha256', 'again')
    rpc('half a sha256 of an object', agent, put, putting(sha256=bytes(16)), 'INVALID_ARGUMENT', '32 bytes')
    rpc('an upload beyond 16 TiB', agent, 'Objects.BeginUpload', v1('BeginUploadRequest', request_id=request_id(), spec=spec(size=(1 << 44) + 1)),
        'INVALID_ARGUMENT', '16 TiB')
    rpc('a read past the end', reader, 'Objects.Read', v1('ReadRequest', object=v1('ObjectRef', collection='bad', case_id='good', path='a.bin'),
                                                          offset_bytes=1 << 30), 'OUT_OF_RANGE', 'past the end')
    # a session: chunks out of range, other bytes, a wrong digest; then it is aborted
    data = blob('session', 9 * MIB)
    s = agent.call('Objects.BeginUpload', v1('BeginUploadRequest', request_id=request_id(), spec=spec(case='s', size=len(data))))
    head = dict(collection='bad', case_id='s', upload_id=s.upload_id)

    def chunk(index, bytes_, length=None, **more):
        yield v1('PutChunkRequest', header=v1('ChunkHeader', index=index, length_bytes=len(bytes_) if length is None else length, **head, **more))
        for i in range(0, len(bytes_), MIB):
            yield v1('PutChunkRequest', data=bytes_[i:i + MIB])
    failed.check(s.chunks == 2, '9 MiB are %d chunks' % s.chunks)
    rpc('chunk 2 of 2', agent, 'Objects.PutChunk', chunk(2, data[:MIB]), 'OUT_OF_RANGE', 'chunk 2')
    rpc('a short chunk', agent, 'Objects.PutChunk', chunk(1, data[:100]), 'OUT_OF_RANGE', 'chunk 1')
    rpc('fewer bytes than the chunk has', agent, 'Objects.PutChunk', chunk(1, data[:100], MIB), 'INVALID_ARGUMENT', '100')
    rpc('more bytes than the chunk has', agent, 'Objects.PutChunk', chunk(1, data[:MIB + 1], MIB), 'OUT_OF_RANGE', 'declared')
    rpc('a wrong sha256 of a chunk', agent, 'Objects.PutChunk', chunk(1, data[8 * MIB:], sha256=bytes(32)), 'DATA_LOSS', 'sha256', 'again')
    rpc('half a sha256', agent, 'Objects.PutChunk', chunk(1, data[8 * MIB:], sha256=bytes(16)), 'INVALID_ARGUMENT', '32 bytes')
    rpc('complete with nothing there', agent, 'Objects.Complete', v1('CompleteRequest', request_id=request_id(), **head), 'FAILED_PRECONDITION', 'chunk')
    agent.call('Objects.PutChunk', chunk(1, data[8 * MIB:], sha256=hashlib.sha256(data[8 * MIB:]).digest()))
    rpc('complete without the first chunk', agent, 'Objects.Complete', v1('CompleteRequest', request_id=request_id(), **head),
        'FAILED_PRECONDITION', 'chunk 0 is missing')
    agent.call('Objects.PutChunk', chunk(0, data[:8 * MIB]))
    failed.check(agent.call('Objects.PutChunk', chunk(0, data[:8 * MIB])).was_there, 'the same chunk again is not "was there"')
    rpc('other bytes for a chunk', agent, 'Objects.PutChunk', chunk(0, b'\0' + data[1:8 * MIB]), 'ALREADY_EXISTS')
    rpc('a wrong digest', agent, 'Objects.Complete', v1('CompleteRequest', request_id=request_id(), expected=v1('Digest', kind=1, value=bytes(32)), **head),
        'FAILED_PRECONDITION', 'tree-sha256', 'again')
    agent.call('Objects.Abort', v1('AbortRequest', **head))
    rpc('a chunk of an aborted upload', agent, 'Objects.PutChunk', chunk(1, data[8 * MIB:]), ('FAILED_PRECONDITION', 'NOT_FOUND'))
    # a commit of what is not staged
    rpc('a commit of nothing', agent, 'Objects.CommitCase', v1('CommitCaseRequest', collection='bad', case_id='good', expected_generation=1, count=3,
                                                               request_id=request_id()), 'FAILED_PRECONDITION')
    rpc('a commit of another generation', agent, 'Objects.CommitCase', v1(
        'CommitCaseRequest', collection='bad', case_id='good', expected_generation=7, count=1, request_id=request_id()), 'ABORTED')


def oversize(agent, reader):
    rpc('a message of 3 MiB', agent, 'Objects.PutObject', iter([
        v1('PutObjectRequest', header=v1('PutObjectHeader', request_id=request_id(), commit=True, spec=spec(size=3 * MIB))),
        v1('PutObjectRequest', data=bytes(3 * MIB))]), 'RESOURCE_EXHAUSTED', 'message')
    rpc('a unary message of 3 MiB', agent, 'Catalog.PutCaseDocument', v1(
        'PutCaseDocumentRequest', collection='bad', case_id='good', document_json='{"a":"%s"}' % ('x' * 3 * MIB), request_id=request_id()),
        'RESOURCE_EXHAUSTED', 'message')
    rpc('a document of 1 MiB', agent, 'Catalog.PutCaseDocument', v1(
        'PutCaseDocumentRequest', collection='bad', case_id='good', document_json='{"a":"%s"}' % ('x' * MIB), request_id=request_id()),
        'RESOURCE_EXHAUSTED', 'document')
    rpc('a document that is no JSON', agent, 'Catalog.PutCaseDocument', v1(
        'PutCaseDocumentRequest', collection='bad', case_id='good', document_json='{"a":', request_id=request_id()), 'INVALID_ARGUMENT', 'line')
    rpc('a query of 17 KiB', reader, 'Catalog.Query', v1('QueryRequest', expression='collection = "%s"' % ('x' * 17 * KIB)), 'INVALID_ARGUMENT')
    rpc('bytes that are no message', reader, 'Objects.Stat', b'\xff\xff\xff\xff\xff', 'INVALID_ARGUMENT')
    rpc('65 user attributes', agent, 'Objects.PutObject', putting(user_metadata=[v1('Attribute', name='n%d' % i, text='x') for i in range(65)]),
        'INVALID_ARGUMENT', '64')


def people():
    """Certificates and grants, as the user sees them."""
    one = os.path.join(WORK, 'one.bin')
    old, foreign = os.path.join(WORK, 'old'), os.path.join(WORK, 'foreign')
    os.mkdir(old)
    for n in ('ca.crt', 'ca.key'):
        shutil.copy(os.path.join(cluster.pki, n), old)
    run(os.path.join(SOURCE, 'deploy/pki'), 'ca', foreign)
    cluster.certificate('researcher/reader', old, '--expired')
    cluster.certificate('researcher/reader', foreign)

    def with_(folder, **more):
        base = os.path.join(folder, 'researcher-reader')
        return dict(MIKURA_CERT=base + '.crt', MIKURA_KEY=base + '.key', **more)
    cli('an expired certificate', 'researcher/reader', ['ls', 'bad'], UNAUTH, 'expired', 'deploy/pki', env=with_(old))
    cli('a certificate of another CA', 'researcher/reader', ['ls', 'bad'], UNAUTH, 'CA', env=with_(foreign))
    # who trusts the foreign CA as well learns that the gateway is not of it
    cli('a gateway of another CA', 'researcher/reader', ['ls', 'bad', '--patience', '5s'], UNAUTH, 'certificate',
        env=with_(foreign, MIKURA_CA=os.path.join(foreign, 'ca.crt')))
    cli('a certificate file that is not there', 'researcher/reader', ['ls', 'bad'], NONE, '/nonexistent', env={'MIKURA_CERT': '/nonexistent'})
    cli('no certificate', 'researcher/reader', ['ls', 'bad'], USAGE, 'MIKURA_CERT', env={'MIKURA_CERT': ''})
    cli('no gateway there', 'researcher/reader', ['ls', 'bad', '--patience', '2s'], UNAVAIL, '127.0.0.1:1', env={'MIKURA_ADDRESS': '127.0.0.1:1'})
    cli('no grant', 'researcher/stranger', ['ls', 'bad'], NOT_ALLOWED, 'mikura collection grant bad')
    cli('no grant, get', 'researcher/stranger', ['get', 'bad/good/a.bin', '-o', '-'], NOT_ALLOWED, 'mikura collection grant bad')
    cli('no grant, job', 'researcher/stranger', ['job', 'submit', 'collection = bad', '--model', 'quality'], NOT_ALLOWED, 'bad')
    cli('an agent of another society', 'society/else/a1', ['put', one, '--collection', 'bad'], NOT_ALLOWED, "another society")
    cli('an agent that reads', 'society/bad/a1', ['get', 'bad/good/a.bin', '-o', '-'], NOT_ALLOWED, 'agent')
    cli('an operator that reads', 'operator/admin', ['get', 'bad/good/a.bin', '-o', '-'], NOT_ALLOWED, 'operator')
    cli('a researcher that writes', 'researcher/reader', ['put', one, '--collection', 'bad'], NOT_ALLOWED, 'researcher')
    cli('a gpu that nobody has', 'researcher/reader', ['job', 'submit', 'collection = bad', '--model', 'quality', '--device', 'gpu'], STATE, 'gpu')


def files():
    """mikura put of files with names that cannot be: those are named, the others stored."""
    folder = os.path.join(WORK, 'files')
    os.mkdir(folder)
    for n in (b'good.bin', b'with\nnewline.bin', b'no-utf8-\xff.bin', 'cafe\u0301.bin'.encode()):
        with open(os.path.join(folder.encode(), n), 'wb') as f:
            f.write(b'x' * 100)
    out = cli('files with bad names', 'society/bad/a1', ['put', folder, '--collection', 'bad'], PARTIAL, 'control character', 'UTF-8', 'NFC',
              '1 stored', '3 refused')
    failed.check(out.count('refused') >= 3, 'not each file is named: %s' % out)
    got = cluster.mikura('researcher/reader', 'ls', '-r', 'bad').stdout
    failed.check('good.bin' in got and 'newline' not in got and 'cafe' not in got, 'stored: %s' % got)
    cluster.mikura('operator/admin', 'rm', 'bad/good/good.bin', '--yes')


def truncated(op, agent, reader):
    """Broken images are stored as they are, and set aside by a job, each with its reason; the job finishes."""
    samples = os.path.join(WORK, 'samples')
    run(os.path.join(SOURCE, 'deploy/samples/make'), samples)
    collection(op, 'broken', 'broken')
    grant(op, 'broken', 'reader')
    folder = os.path.join(WORK, 'broken')
    os.mkdir(folder)
    all_files = sorted(os.path.join(r, n) for r, _, ns in os.walk(samples) for n in ns)
    kinds = {}
    for f in all_files:
        kinds.setdefault(os.path.splitext(f)[1], f)
    failed.check(set(kinds) >= {'.jpg', '.png', '.tif', '.dcm'}, 'kinds of samples: %s' % sorted(kinds))
    for ext, f in kinds.items():
        with open(f, 'rb') as src:
            data = src.read()
        with open(os.path.join(folder, 'cut' + ext[1:] + ext), 'wb') as to:
            to.write(data[:len(data) // 3])
        shutil.copy(f, os.path.join(folder, 'whole' + ext[1:] + ext))
    with open(os.path.join(folder, 'empty.jpg'), 'wb'):
        pass
    with open(os.path.join(folder, 'noise.dcm'), 'wb') as to:
        to.write(blob('noise', 5000))
    # one case for all: the name of a broken DICOM's study cannot be read
    got = cluster.mikura('society/broken/a1', 'put', folder, '--collection', 'broken', '--case', 'c', rc=None)
    failed.check(got.returncode in (0, PARTIAL), 'put of broken images: exit %d: %s' % (got.returncode, got.stdout))
    stored = reader.names('broken')
    refused = got.stdout.count('refused ')
    failed.check(len(stored) + refused == len(os.listdir(folder)), '%d files: %d stored, %d refused: %s' % (
        len(os.listdir(folder)), len(stored), refused, got.stdout))
    for case, path, _, _ in stored:
        with open(os.path.join(folder, os.path.basename(path)), 'rb') as f:
            failed.check(reader.get('broken', case, path) == f.read(), '%s came back with other bytes' % path)
    job = reader.call('Jobs.Submit', v1('SubmitRequest', request_id=request_id(), kind='quality', model='quality',
                                        cohort=v1('QueryRequest', expression='collection = broken')))
    last = reader.call('Jobs.Watch', v1('WatchRequest', id=job.id), 300)[-1]
    failed.check(last.state == 3, 'the job did not finish: %s' % last)
    items = {i.object.path: i for m in reader.call('Jobs.Results', v1('ResultsRequest', id=job.id)) for i in m.items}
    failed.check(len(items) == len(stored), 'the job has %d items of %d objects' % (len(items), len(stored)))
    for path, i in sorted(items.items()):
        whole = os.path.basename(path).startswith('whole')
        failed.check(bool(i.label) == whole and bool(i.set_aside_reason) != whole, '%s: label %r, set aside for %r' % (
            path, i.label, i.set_aside_reason))
    failed.check(last.items_set_aside == sum(bool(i.set_aside_reason) for i in items.values()), 'set aside: %d' % last.items_set_aside)


def daemons():
    """Taken port, wrong master key, etcd away at the start, no certificate: a daemon says why it does not start."""
    conf = {k: os.path.join(cluster.dir, '%s-1' % k, '%s.conf' % k) for k in ('gateway', 'storaged', 'computed')}
    for k in conf:
        address = cluster.address(k + '-1')
        changes = {'listen': address}
        if k == 'storaged':  # disks of its own: the lock of the others would be found first
            disk = os.path.join(WORK, 'disk')
            os.mkdir(disk)
            changes['disks'] = disk
        daemon('taken port, ' + k, k, conf[k], changes, [address.split(':')[1], 'pid %d' % cluster.pid(k + '-1')])
    free = '127.0.0.1:%d' % (int(cluster.conf['port-base']) + 9)
    daemon('a disk in use', 'storaged', conf['storaged'], {'listen': free}, [os.path.join(cluster.dir, 'storaged-1/disk-1')])
    key = os.path.join(WORK, 'other.key')
    run(os.path.join(BUILD, 'bin/mikura'), 'key', 'create', key)
    daemon('a wrong master key', 'gateway', conf['gateway'], {'listen': free, 'master_key': key}, [key, 'fingerprint', 'nothing was changed'])
    daemon('no master key', 'gateway', conf['gateway'], {'listen': free, 'master_key': '/nonexistent'}, ['/nonexistent', 'copy'])
    cut = os.path.join(WORK, 'cut.key')
    with open(key, 'rb') as f, open(cut, 'wb') as to:
        to.write(f.read()[:20])
    os.chmod(cut, 0o400)
    daemon('half a master key', 'gateway', conf['gateway'], {'listen': free, 'master_key': cut}, [cut])
    open_key = os.path.join(WORK, 'open.key')
    shutil.copy(os.path.join(cluster.dir, 'master.key'), open_key)
    os.chmod(open_key, 0o644)
    daemon('a master key for everybody', 'gateway', conf['gateway'], {'listen': free, 'master_key': open_key}, [open_key, '0400'])
    got = run(os.path.join(BUILD, 'bin/mikura'), 'key', 'create', key, rc=None)
    failed.check(got.returncode != 0 and key in got.stdout, 'mikura key create overwrites: %s' % got.stdout)
    old = os.path.join(WORK, 'old')
    for k in ('gateway', 'storaged', 'computed'):
        cluster.certificate('node/%s/%s-1' % (k, k), old, '--expired')
        changes = {'listen': free, 'cert': os.path.join(old, '%s-%s-1.crt' % (k, k)), 'key': os.path.join(old, '%s-%s-1.key' % (k, k))}
        if k == 'storaged':
            changes['disks'] = os.path.join(WORK, 'disk')
        daemon('an expired certificate, ' + k, k, conf[k], changes, ['expired', 'deploy/pki'])
    daemon('etcd away at the start', 'gateway', conf['gateway'], {'listen': free, 'etcd': '127.0.0.1:1'}, ['127.0.0.1:1'], wait_log=True)
    for k in ('gateway', 'storaged'):
        with open(os.path.join(WORK, 'wrong.conf'), 'w') as f:
            f.write(open(conf[k]).read() + 'no_such_setting = 1\n')
        got = run(os.path.join(BUILD, 'bin', k), '--config=' + os.path.join(WORK, 'wrong.conf'), rc=None)
        failed.check(got.returncode in (1, 2) and 'no_such_setting' in got.stdout, '%s with an unknown setting: exit %d: %s' % (
            k, got.returncode, got.stdout))


def etcd_away(agent, reader, state):
    """Data goes on without etcd; what cannot is refused with its name; all is well when it is back."""
    before = state.take()
    cluster('kill', 'etcd-1')
    failed.check(reader.get('bad', 'good', 'a.bin') == blob('good', 300000), 'a read while etcd is away')
    agent.put('bad', 'while-away', 'a.bin', blob('away', 200000))
    got = cluster.mikura('operator/admin', 'status', rc=None)
    failed.check('etcd' in got.stdout, 'status does not say that etcd is away: %s' % got.stdout)
    cluster('start', 'etcd-1')
    until('health after etcd is back', 120, lambda: state.op.call('Admin.Status', v1('StatusRequest'), 10).health == 1)
    failed.check(reader.get('bad', 'while-away', 'a.bin') == blob('away', 200000), 'what was written while etcd was away')
    state.op.call('Objects.Delete', v1('DeleteRequest', object=v1('ObjectRef', collection='bad', case_id='while-away', path='a.bin'),
                                       request_id=request_id()))
    after = state.take()
    failed.check(after['names'] == before['names'], 'lists after etcd was away: %s' % after)


def deletes(agent, op):
    """A deletion that is repeated answers as it did and takes nothing more; no version number comes twice."""
    def delete(rid, path='d.bin', version=0):
        return op.call('Objects.Delete', v1('DeleteRequest', request_id=rid, object=v1(
            'ObjectRef', collection='bad', case_id='good', path=path, version=version)))
    api = cluster.api('researcher/reader')
    for i in range(2):
        agent.put('bad', 'good', 'd.bin', blob('d%d' % i, 5000))
    agent.put('bad', 'good', 'other.bin', blob('other', 5000))
    first, second = request_id(), request_id()
    was = delete(first, version=2)
    failed.check(was.versions_deleted == 1, 'one version deleted: %s' % was)
    agent.put('bad', 'good', 'd.bin', blob('d2', 5000))  # above the one that was deleted
    failed.check(delete(first, version=2) == was, 'a repeated deletion answers otherwise')
    code, text = api.code('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='bad', case_id='good', path='d.bin', version=2)))
    failed.check(code == 'NOT_FOUND', 'version 2, which was deleted: %s %s' % (code, text))
    failed.check(api.get('bad', 'good', 'd.bin') == blob('d2', 5000), 'a repeated deletion took a newer version')
    was = delete(second)
    failed.check(was.versions_deleted == 2, 'all versions deleted: %s' % was)
    agent.put('bad', 'good', 'd.bin', blob('d3', 5000))
    failed.check(delete(second) == was, 'a repeated deletion of all answers otherwise')
    for version in (1, 2, 3):
        code, text = api.code('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection='bad', case_id='good', path='d.bin', version=version)))
        failed.check(code == 'NOT_FOUND', 'version %d came again: %s %s' % (version, code, text))
    failed.check(api.get('bad', 'good', 'd.bin') == blob('d3', 5000), 'the object after its deletion')
    code, text = op.code('Objects.Delete', v1('DeleteRequest', request_id=second, object=v1(
        'ObjectRef', collection='bad', case_id='good', path='other.bin')))
    failed.check(code == 'ALREADY_EXISTS' and 'request id' in text, 'a request id for another object: %s %s' % (code, text))
    for path in ('d.bin', 'other.bin'):
        delete(request_id(), path)


def full_disk(state, agent, reader):
    """Disks that are full refuse, say so, serve what they hold, and take again what is deleted."""
    before = state.take()
    put = 'Objects.PutObject'
    n = 0
    while True:
        code, text = agent.code(put, putting(blob('full %d' % n, 16 * MIB), case='full-%d' % n), 120)
        if code != 'OK':
            break
        n += 1
        check(n < 200, 'the disks do not fill')
    failed.check(code == 'RESOURCE_EXHAUSTED', 'a full disk: %s (%s)' % (code, text))
    failed.check('full' in text.lower(), 'a full disk is not named: %s' % text)
    failed.check(n > 0, 'the disks were full at once')
    one = os.path.join(WORK, 'big.bin')
    with open(one, 'wb') as f:
        f.write(blob('big', 16 * MIB))
    cli('a full disk', 'society/bad/a1', ['put', one, '--collection', 'bad', '--patience', '10s'], LIMIT, 'full')
    failed.check(reader.get('bad', 'good', 'a.bin') == blob('good', 300000), 'a read from a full disk')
    failed.check(reader.get('bad', 'full-0', 'p') == blob('full 0', 16 * MIB), 'a read from a full disk')
    got = cluster.mikura('operator/admin', 'status', rc=None)
    failed.check('full' in got.stdout, 'status does not say that disks are full: %s' % got.stdout)
    for i in range(n):
        state.op.call('Objects.Delete', v1('DeleteRequest', object=v1('ObjectRef', collection='bad', case_id='full-%d' % i, path='p'),
                                           request_id=request_id()))
    failed.check(state.take()['names'] == before['names'], 'a full disk left something behind')


def main():
    op, agent, reader = cluster.api('operator/admin'), cluster.api('society/bad/a1'), cluster.api('researcher/reader')
    ready(op)
    collection(op, 'bad', 'bad')
    grant(op, 'bad', 'reader')
    agent.put('bad', 'good', 'a.bin', blob('good', 300000))
    with open(os.path.join(SOURCE, 'deploy/models/quality.onnx'), 'rb') as f:
        model = f.read()
    op.call('Models.Add', [v1('AddModelRequest', header=v1('AddModelHeader', name='quality', size_bytes=len(model),
                                                           sha256=hashlib.sha256(model).digest(), request_id=request_id()), data=model)])
    state = State(op, reader)
    before = state.take()
    rows = [
        ('names', lambda: names(agent, op)), ('packs', lambda: packs(agent)), ('unknown', lambda: unknown(agent, op, reader)), ('tokens', lambda: tokens(op, reader)),
        ('sizes', lambda: sizes(agent, reader)), ('deletes', lambda: deletes(agent, op)),
        ('oversize', lambda: oversize(agent, reader)), ('people', people), ('files', files), ('truncated', lambda: truncated(op, agent, reader)),
        ('daemons', daemons), ('etcd_away', lambda: etcd_away(agent, reader, state)), ('full_disk', lambda: full_disk(state, agent, reader)),
    ]
    only = sys.argv[1:]
    for name, row in rows:
        if only and name not in only:
            continue
        print('-- ' + name, flush=True)
        begin = time.monotonic()
        try:
            row()
            if name not in ('packs', 'files', 'etcd_away', 'full_disk'):  # those write and delete
                state.same(name, before)
            else:
                until('%s: empty queues' % name, 60, lambda: not any(cluster.queues().values()))
                before = state.take()
        except Refused as e:
            failed.check(False, '%s ended: %s' % (name, e))
        print('   %.1f s' % (time.monotonic() - begin), flush=True)
    failed.end('bad input')


main()
