"""tests/cluster/rights/rights.py - every RPC x who x certificate, from outside.

ROWS says for each RPC whom it answers and how; whoever is not named there gets PERMISSION_DENIED.
The list of RPCs comes from the .proto files: an RPC without a row fails the test. Then all of them
again with expired certificates, with certificates of another CA and with none: no call gets through
the handshake. Each refusal of a valid certificate is a line in the daemon's log.
"""
import hashlib
import os
import shutil
import socket
import ssl

from mk import WORK, Api, Cluster, Failed, SOURCE, collection, grant, path_of, proto, ready, request_id, run, v1

DENIED = 'PERMISSION_DENIED'
WHO = {
    'agent': 'society/s1/a1',      # col-a is its society's
    'other': 'society/s2/a1',      # an agent of another society
    'reader': 'researcher/reader',  # with a grant on col-a
    'stranger': 'researcher/stranger',
    'op': 'operator/admin',
    'gw': 'node/gateway/gateway-1',
    'st': 'node/storaged/storaged-1',
    'co': 'node/computed/computed-1',
}
REF = v1('ObjectRef', collection='col-a', case_id='case-1', path='a.bin')
NO_REF = v1('ObjectRef', collection='col-a', case_id='case-1', path='none.bin')
SPEC = dict(collection='col-a', media_type='application/octet-stream')
serial = iter(range(1, 1 << 30))


def internal(name, /, **fields):
    return proto.message('mikura.internal.v1.' + name, **fields)


def at_case(name, **more):
    return lambda: v1(name, collection='col-a', case_id='case-1', upload_id=os.urandom(16), **more)


# RPC: (request, {who: code}); at the gateway. A tuple of codes: any of them
ROWS = {
    'Catalog.CreateCollection': (lambda: v1('CreateCollectionRequest', name='made-%d' % next(serial), request_id=request_id(),
                                            policy=v1('CollectionPolicy', kind='other', unchecked=True, society='s1')), dict(op='OK')),
    'Catalog.GetCollection': (lambda: v1('GetCollectionRequest', name='col-a'), dict(agent='OK', reader='OK', op='OK')),
    'Catalog.ListCollections': (lambda: v1('ListCollectionsRequest'), dict(agent='OK', other='OK', reader='OK', stranger='OK', op='OK')),
    'Catalog.Grant': (lambda: v1('GrantRequest', collection='col-a', grant=v1('GrantEntry', subject='mikura://researcher/third', role=1)),
                      dict(op='OK')),
    'Catalog.GetCase': (lambda: v1('GetCaseRequest', collection='col-a', case_id='case-1'), dict(agent='OK', reader='OK', op='OK')),
    'Catalog.ListCases': (lambda: v1('ListCasesRequest', collection='col-a'), dict(agent='OK', reader='OK', op='OK')),
    'Catalog.PutCaseDocument': (lambda: v1('PutCaseDocumentRequest', collection='col-a', case_id='doc-%d' % next(serial), document_json='{}',
                                           request_id=request_id()), dict(agent='OK')),
    'Catalog.Query': (lambda: v1('QueryRequest', expression='collection = col-a'), dict(reader='OK')),
    'Objects.BeginUpload': (lambda: v1('BeginUploadRequest', request_id=request_id(), spec=v1(
        'UploadSpec', case_id='case-2', path='b.bin', size_bytes=1 << 20, **SPEC)), dict(agent='OK')),
    'Objects.PutChunk': (lambda: v1('PutChunkRequest', data=b'x' * 16, header=v1(
        'ChunkHeader', collection='col-a', case_id='case-1', upload_id=os.urandom(16), length_bytes=16)), dict(agent='NOT_FOUND')),
    'Objects.ListChunks': (at_case('ListChunksRequest'), dict(agent='NOT_FOUND')),
    'Objects.Complete': (at_case('CompleteRequest'), dict(agent='NOT_FOUND')),
    'Objects.Abort': (at_case('AbortRequest'), dict(agent='OK')),
    'Objects.PutObject': (lambda: [v1('PutObjectRequest', header=v1('PutObjectHeader', request_id=request_id(), commit=True, spec=v1(
        'UploadSpec', case_id='put-%d' % next(serial), path='a.bin', size_bytes=4, **SPEC))), v1('PutObjectRequest', data=b'abcd')],
        dict(agent='OK')),
    'Objects.PutPack': (lambda: [v1('PutPackRequest', header=v1('PutPackHeader', request_id=request_id(), collection='col-a',
                        case_id='pack-%d' % next(serial), objects=[v1('PackEntry', path='a.bin', size_bytes=4)])),
                        v1('PutPackRequest', data=b'abcd')], dict(agent='OK')),
    'Objects.CheckCase': (lambda: v1('CheckCaseRequest', collection='col-a', case_id='case-1', generation=1), dict(agent='OK')),
    'Objects.DropStaged': (lambda: v1('DropStagedRequest', collection='col-a', case_id='case-1'), dict(agent='OK')),
    'Objects.CommitCase': (lambda: v1('CommitCaseRequest', collection='col-a', case_id='case-1', expected_generation=77, count=1,
                                      request_id=request_id()), dict(agent='ABORTED')),
    'Objects.ReceiptKeys': (lambda: v1('ReceiptKeysRequest'), dict(agent='OK', other='OK', reader='OK', stranger='OK', op='OK')),
    'Objects.Read': (lambda: v1('ReadRequest', object=REF), dict(reader='OK')),
    'Objects.Stat': (lambda: v1('StatRequest', object=REF), dict(reader='OK')),
    'Objects.List': (lambda: v1('ListRequest', collection='col-a'), dict(reader='OK', op='OK')),
    'Objects.Delete': (lambda: v1('DeleteRequest', object=NO_REF, request_id=request_id()), dict(op='NOT_FOUND')),
    'Objects.ListQuarantine': (lambda: v1('ListQuarantineRequest', collection='col-a'), dict(agent='OK', op='OK')),
    'Objects.ReleaseQuarantine': (lambda: v1('ReleaseQuarantineRequest', object=v1(
        'ObjectRef', collection='col-a', case_id='case-1', path='none', version=1)), dict(agent='NOT_FOUND')),
    'Models.Add': (lambda: v1('AddModelRequest', header=v1('AddModelHeader', name='Not A Name', size_bytes=1, sha256=bytes(32),
                                                           request_id=request_id())),
                   dict(reader='INVALID_ARGUMENT', stranger='INVALID_ARGUMENT', op='INVALID_ARGUMENT')),
    'Models.List': (lambda: v1('ListModelsRequest'), dict(reader='OK', stranger='OK', op='OK')),
    'Models.Get': (lambda: v1('GetModelRequest', name='none'), dict(reader='NOT_FOUND', stranger='NOT_FOUND', op='NOT_FOUND')),
    'Jobs.Submit': (lambda: v1('SubmitRequest', request_id=request_id(), kind='quality', model='quality',
                               cohort=v1('QueryRequest', expression='collection = col-a')), dict(reader='OK')),
    'Jobs.Watch': (lambda: v1('WatchRequest', id=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND', op='NOT_FOUND')),
    'Jobs.List': (lambda: v1('ListJobsRequest'), dict(reader='OK', stranger='OK', op='OK')),
    'Jobs.Get': (lambda: v1('GetJobRequest', id=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND', op='NOT_FOUND')),
    'Jobs.Cancel': (lambda: v1('CancelJobRequest', id=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND', op='NOT_FOUND')),
    'Jobs.Results': (lambda: v1('ResultsRequest', id=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND')),
    'Jobs.Mask': (lambda: v1('MaskRequest', job=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND')),
    'Jobs.Delete': (lambda: v1('DeleteJobRequest', id=os.urandom(16)), dict(reader='NOT_FOUND', stranger='NOT_FOUND')),
    'Admin.Status': (lambda: v1('StatusRequest'), dict(op='OK')),
    'Admin.ListNodes': (lambda: v1('ListNodesRequest'), dict(op='OK')),
    'Admin.ListGroups': (lambda: v1('ListGroupsRequest'), dict(op='OK')),
    'Admin.ChangeNode': (lambda: v1('ChangeNodeRequest', name='none', action=2), dict(op='NOT_FOUND')),
    'Admin.RecoverConfig': (lambda: v1('RecoverConfigRequest'), dict(op='OK')),
    'Admin.KeyStatus': (lambda: v1('KeyStatusRequest'), dict(op='OK')),
    '/mikura.internal.v1.Work/Pull': (lambda: internal('PullRequest', worker='mikura://node/computed/computed-1', devices=['cpu'], slots=1),
                                      dict(co='OK')),
    '/mikura.internal.v1.Work/Renew': (lambda: internal('RenewRequest', job=os.urandom(16), attempt=1), dict(co='OK')),
    '/mikura.internal.v1.Work/Finish': (lambda: internal('FinishRequest', job=os.urandom(16), attempt=1),
                                        dict(co=('NOT_FOUND', 'FAILED_PRECONDITION'))),
    '/mikura.internal.v1.Work/Slices': (lambda: internal('SlicesRequest', job=os.urandom(16), attempt=1), dict(co='NOT_FOUND')),
    '/mikura.internal.v1.Work/PutMask': (lambda: internal('PutMaskRequest', header=internal('PutMaskHeader', job=os.urandom(16), size_bytes=1)), dict(co='NOT_FOUND')),
    '/mikura.internal.v1.Work/FetchModel': (lambda: internal('FetchModelRequest', sha256=bytes(32)), dict(co='NOT_FOUND')),
}
# at a storage node. STALE: a group of no pool; the right was there
GROUP = lambda: internal('GroupRef', pool=4000000, placement_hash=1)
GONE = ('FAILED_PRECONDITION', 'NOT_FOUND', 'INVALID_ARGUMENT')
STORE_ROWS = {
    '/mikura.internal.v1.Store/Txn': (lambda: internal('TxnRequest', group=GROUP(), request=internal(
        'RequestKey', client_id=os.urandom(16), sequence=1)), dict(gw=GONE, st=GONE)),
    '/mikura.internal.v1.Store/Get': (lambda: internal('GetRequest', group=GROUP(), keys=[b'k']), dict(gw=GONE, st=GONE)),
    '/mikura.internal.v1.Store/Scan': (lambda: internal('ScanRequest', group=GROUP()), dict(gw=GONE, st=GONE)),
    '/mikura.internal.v1.Store/ChunkAdd': (lambda: internal('ChunkAddRequest', group=GROUP(), request=internal(
        'RequestKey', client_id=os.urandom(16), sequence=1)), dict(gw=GONE, st=GONE)),
    '/mikura.internal.v1.Store/ChunkList': (lambda: internal('ChunkListRequest', group=GROUP(), limit=1), dict(gw=GONE, st=GONE)),
    '/mikura.internal.v1.Store/Persisted': (lambda: internal('PersistedRequest'), dict(gw='OK', st='OK')),
    '/mikura.internal.v1.Store/NodeStatus': (lambda: internal('NodeStatusRequest'), dict(gw='OK', st='OK')),
}
HEALTH = '/grpc.health.v1.Health/Check'
ROWS = {path_of(k): v for k, v in ROWS.items()}
failed = Failed()
cluster = Cluster()
denials = {}  # who -> number of refusals that the gateway must have logged


def rows_are_complete():
    all_rpcs = {p for p in proto.methods if p.startswith('/mikura.')}
    failed.check(set(ROWS) | set(STORE_ROWS) == all_rpcs, 'RPCs without a row here, or rows without an RPC: %s' %
                 sorted(all_rpcs ^ (set(ROWS) | set(STORE_ROWS))))


def fits(code, want):
    return code in want if isinstance(want, tuple) else code == want


def walk(apis, rows, where):
    for path, (request, allowed) in sorted(rows.items()):
        for who, api in apis.items():
            want = allowed.get(who, DENIED)
            code, text = api.code(path, request())
            failed.check(fits(code, want), '%s of %s by %s: %s, not %s (%s)' % (path, where, who, code, want, text))
            if code == DENIED:
                failed.check(len(text) > 10, '%s by %s: denied without a reason' % (path, who))
                denials[where, who] = denials.get((where, who), 0) + 1


def other_doors(apis, rows, name):
    """What one daemon serves, another does not: neither answered nor executed."""
    for path, (request, _) in sorted(rows.items()):
        for who, api in apis.items():
            code, text = api.code(path, request())
            failed.check(code in ('UNIMPLEMENTED', DENIED), '%s at %s by %s: %s (%s)' % (path, name, who, code, text))


def content(apis):
    """What is seen by those who may call."""
    seen = {w: sorted(c.name for c in apis[w].call('Catalog.ListCollections', v1('ListCollectionsRequest')).collections
                      if c.name.startswith('col-')) for w in ('agent', 'other', 'reader', 'stranger', 'op')}
    want = dict(agent=['col-a'], other=['col-b'], reader=['col-a'], stranger=[], op=['col-a', 'col-b'])
    failed.check(seen == want, 'collections seen: %s, not %s' % (seen, want))
    case = apis['agent'].call('Catalog.GetCase', v1('GetCaseRequest', collection='col-a', case_id='case-1'))
    failed.check(case.document_json == '' and case.objects == 0 and case.generation == 1 and case.state == 2,
                 'an agent sees more (or less) of a case than its state: %s' % case)
    case = apis['reader'].call('Catalog.GetCase', v1('GetCaseRequest', collection='col-a', case_id='case-1'))
    failed.check(case.objects == 1 and case.document_json == '{"age":"60s"}', 'a reader does not see the case: %s' % case)
    case = apis['op'].call('Catalog.GetCase', v1('GetCaseRequest', collection='col-a', case_id='case-1'))
    failed.check(case.document_json == '', 'an operator reads a case document')
    for who in ('agent', 'reader'):
        c = apis[who].call('Catalog.GetCollection', v1('GetCollectionRequest', name='col-a'))
        failed.check(not c.grants, '%s sees who has grants' % who)
    # a query without a collection finds nothing beyond the grants
    got = {m.object.collection for r in apis['reader'].call('Catalog.Query', v1('QueryRequest', expression='')) for m in r.matches} \
        if apis['reader'].code('Catalog.Query', v1('QueryRequest', expression=''))[0] == 'OK' else {'col-a'}
    failed.check(got == {'col-a'}, 'a query over everything finds %s' % got)


def a_grant_taken_back(apis):
    grant(apis['op'], 'col-a', 'third')
    third = cluster.api('researcher/third')
    failed.check(third.code('Objects.Read', v1('ReadRequest', object=REF))[0] == 'OK', 'a new grant does not count')
    grant(apis['op'], 'col-a', 'third', role=0)
    code, text = third.code('Objects.Read', v1('ReadRequest', object=REF))
    failed.check(code == DENIED and 'mikura collection grant' in text, 'a grant that was taken back: %s (%s)' % (code, text))


def logged():
    """Each refusal is one line of the daemon's log, with whom."""
    for (where, who), n in sorted(denials.items()):
        part = WHO[who].split('/')
        uri = 'mikura://' + '/'.join(part[:2] + ['agent'] + part[2:] if part[0] == 'society' else part)
        lines = [line for line in cluster.log(where).splitlines() if 'denied' in line and 'peer=%s ' % uri in line + ' ']
        failed.check(len(lines) >= n, '%s logged %d of %d refusals of %s' % (where, len(lines), n, uri))


def bad_certificates():
    """[(kind, folder)]: folders like the cluster's pki with the same names."""
    old, foreign = os.path.join(WORK, 'expired'), os.path.join(WORK, 'foreign')
    os.mkdir(old)
    for n in ('ca.crt', 'ca.key'):
        shutil.copy(os.path.join(cluster.pki, n), old)
    run(os.path.join(SOURCE, 'deploy/pki'), 'ca', foreign)
    for who in WHO.values():
        cluster.certificate(who, old, '--expired')
        cluster.certificate(who, foreign)
    return [('expired', old), ('foreign', foreign)]


def alert(address, base):
    """What the server says after the handshake; TLS 1.3 clients learn it when they read."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.load_verify_locations(os.path.join(cluster.pki, 'ca.crt'))
    c.set_alpn_protocols(['h2'])
    if base:
        c.load_cert_chain(base + '.crt', base + '.key')
    host, port = address.split(':')
    try:
        with socket.create_connection((host, int(port)), timeout=10) as s, c.wrap_socket(s, server_hostname=host) as t:
            t.settimeout(10)
            return 'answered' if t.recv(1) else 'closed'
    except ssl.SSLError as e:
        return e.reason or str(e)
    except OSError as e:
        return type(e).__name__


def without_certificate(folders, rows, where):
    address = cluster.address(where)
    ca = os.path.join(cluster.pki, 'ca.crt')
    failed.check(alert(address, os.path.join(cluster.pki, 'operator-admin')) == 'answered', '%s does not answer a valid certificate' % where)
    for kind, folder, people, want in [(k, f, WHO, {'expired': 'CERTIFICATE_EXPIRED', 'foreign': 'UNKNOWN_CA'}[k]) for k, f in folders] + \
            [('none', None, {'nobody': None}, 'CERTIFICATE_REQUIRED')]:
        for who, name in people.items():
            base = name and os.path.join(folder, name.replace('node/', '', 1).replace('/', '-'))
            got = alert(address, base)
            failed.check(want in got, '%s with a certificate %s (%s): %s, not %s' % (where, kind, who, got, want))
            for path, (request, _) in sorted(rows.items()):
                api = Api(address, folder or cluster.pki, name, ca=ca)
                code, text = api.code(path, request())
                api.close()
                failed.check(code in ('UNAVAILABLE', 'UNAUTHENTICATED') and 'refused' not in text.lower(),
                             '%s of %s by %s, certificate %s: %s (%s)' % (path, where, who, kind, code, text))


def bulk_wire():
    """Nobody but nodes speaks the bulk wire: others are hung up on before they get a byte."""
    for who, name in WHO.items():
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.load_verify_locations(os.path.join(cluster.pki, 'ca.crt'))
        c.set_alpn_protocols(['mikura-bulk/1'])
        base = os.path.join(cluster.pki, name.replace('node/', '', 1).replace('/', '-'))
        c.load_cert_chain(base + '.crt', base + '.key')
        host, port = cluster.address('storaged-1').split(':')
        raw = socket.create_connection((host, int(port)), timeout=20)
        t = c.wrap_socket(raw, server_hostname=host)
        failed.check(t.selected_alpn_protocol() == 'mikura-bulk/1', 'storaged-1 does not speak the bulk wire')
        raw = socket.socket(fileno=t.detach())  # what follows the handshake is not TLS
        raw.settimeout(20)
        try:
            got = raw.recv(4096)
            if who not in ('gw', 'st', 'co'):
                while got and raw.recv(65536):  # a tag, a Hello that nobody can use: the end must come
                    pass
                got = b''
        except ConnectionError:
            got = b''
        except socket.timeout:
            got = b'silence'
        raw.close()
        if who in ('gw', 'st', 'co'):
            failed.check(got not in (b'', b'silence'), 'the bulk wire hangs up on %s' % name)
        else:
            failed.check(got == b'', 'the bulk wire does not hang up on %s' % name)


def main():
    rows_are_complete()
    apis = {who: cluster.api(name) for who, name in WHO.items()}
    ready(apis['op'])
    collection(apis['op'], 'col-a', 's1')
    collection(apis['op'], 'col-b', 's2')
    grant(apis['op'], 'col-a', 'reader')
    apis['agent'].call('Catalog.PutCaseDocument', v1('PutCaseDocumentRequest', collection='col-a', case_id='case-1', document_json='{"age":"60s"}',
                                                     request_id=request_id()))
    apis['agent'].put('col-a', 'case-1', 'a.bin', b'a' * 100000)
    model = open(os.path.join(SOURCE, 'deploy/models/quality.onnx'), 'rb').read()
    apis['op'].call('Models.Add', [v1('AddModelRequest', header=v1('AddModelHeader', name='quality', size_bytes=len(model),
                                                                   sha256=hashlib.sha256(model).digest(), request_id=request_id()), data=model)])
    walk(apis, ROWS, 'gateway-1')
    stores = {who: cluster.api(name, 'storaged-1') for who, name in WHO.items()}
    walk(stores, STORE_ROWS, 'storaged-1')
    other_doors(apis, STORE_ROWS, 'gateway-1')
    other_doors(stores, ROWS, 'storaged-1')
    for who, api in list(apis.items()) + list(stores.items()):
        code, text = api.code(HEALTH, proto.message('grpc.health.v1.HealthCheckRequest'))
        failed.check(code == 'OK', 'health for %s: %s (%s)' % (who, code, text))
    content(apis)
    a_grant_taken_back(apis)
    logged()
    folders = bad_certificates()
    without_certificate(folders, ROWS, 'gateway-1')
    without_certificate(folders, STORE_ROWS, 'storaged-1')
    bulk_wire()
    failed.check(apis['reader'].code('Objects.Stat', v1('StatRequest', object=REF))[0] == 'OK', 'the cluster no longer answers')
    failed.end('rights')


main()
