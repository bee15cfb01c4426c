"""tests/cluster/recover/recover.py - etcd loses everything; the cluster's id, pools and groups come back from the disks.

Nothing is made anew meanwhile, nothing acknowledged is lost, and while disks that might know more are away nothing is
written.
"""
import os
import shutil

from mk import Api, Cluster, Proto, Refused, blob, check, collection, fail, grant, ready, until, v1

cluster = Cluster()
etcd_proto = Proto('etcd/rpc.proto')
PREFIX = '/mikura/local/'
MIB = 1 << 20
STORAGE = ['storaged-1', 'storaged-2', 'storaged-3']
kept = {}


def put(agent, n):
    for i in range(n):
        case = 'case-%d' % len(kept)
        agent.put('col', case, 'p', blob(case, (MIB, 3000)[i % 2]))
        kept[case] = (MIB, 3000)[i % 2]


def whole(when):
    reader = cluster.api('researcher/r')
    for case, size in kept.items():
        until('%s is there %s' % (case, when), 60, lambda case=case, size=size: reader.get('col', case, 'p') == blob(case, size))


def wipe():
    cluster('stop', 'etcd-1')
    shutil.rmtree(os.path.join(cluster.dir, 'etcd-1', 'data'))


def recover(api, apply=False):
    """Nodes and gateways of a running cluster write themselves into the new etcd meanwhile: then as the answer says."""
    for _ in range(20):
        try:
            return api.call('Admin.RecoverConfig', v1('RecoverConfigRequest', apply=apply), 30)
        except Refused as e:
            if e.code != 'ABORTED' or 'then repeat' not in e.text:
                raise
    fail('20 times ABORTED')
    return None


def etcd(method, request):
    """etcd itself, as a gateway's certificate may."""
    api = Api(cluster.address('etcd-1'), cluster.pki, 'node/gateway/gateway-1')
    path = '/etcdserverpb.KV/' + method
    got = api.channel.unary_unary(path, request_serializer=lambda m: m.SerializeToString(),
                                  response_deserializer=etcd_proto.methods[path][1].FromString)(request, timeout=20)
    api.close()
    return got


def etcd_put(key):
    def message(name, **fields):
        return etcd_proto.message('etcdserverpb.' + name, **fields)
    put = message('PutRequest', key=(PREFIX + key).encode(), value=b'x')
    etcd('Txn', message('TxnRequest', success=[message('RequestOp', request_put=put)]))


def below(prefix):
    key = (PREFIX + prefix).encode()
    got = etcd('Range', etcd_proto.message('etcdserverpb.RangeRequest', key=key, range_end=key[:-1] + b'0'))
    return {kv.key.decode()[len(PREFIX):] for kv in got.kvs}


def main():
    op, agent = cluster.api('operator/admin'), cluster.api('society/s/a1')
    ready(op)
    collection(op, 'col', 's')
    grant(op, 'col', 'r')
    put(agent, 12)
    was = op.call('Admin.Status', v1('StatusRequest'))
    seen = recover(op)
    check(seen.groups_there == seen.groups == 8 and seen.groups_made == seen.groups_refused == 0, 'nothing is lost, and yet: %s' % seen)
    check(not recover(op, apply=True).applied, 'something was written though nothing was lost')

    # ---- under a stopped cluster; one replica is older than the others ----
    cluster('kill', 'storaged-3')
    until('writes go on without storaged-3', 60, lambda: agent.put('col', 'later', 'p', blob('later', MIB)))
    kept['later'] = MIB
    put(agent, 8)
    for n in ['gateway-1'] + STORAGE:
        cluster('stop', n)
    wipe()
    cluster('start', 'etcd-1')
    for n in ('storaged-3', 'gateway-1'):  # the old one first, alone
        cluster('start', n, rc=None)
    op = cluster.api('operator/admin')
    until('a gateway that sees the old node', 60, lambda: recover(op).nodes == 1)
    alone = recover(op)
    check(alone.groups_refused == 8 and alone.groups_made == 0, 'the old replica alone: %s' % alone)
    code, text = op.code('Admin.RecoverConfig', v1('RecoverConfigRequest', apply=True))
    check(code == 'FAILED_PRECONDITION' and 'nothing was written' in text, 'apply with the old one alone: %s %s' % (code, text))
    ran = cluster.mikura('operator/admin', 'admin', 'recover-config', '--apply', rc=None)
    check(ran.returncode == 7 and 'start' in ran.stdout, 'the command: %d %s' % (ran.returncode, ran.stdout))
    ran = cluster.mikura('operator/admin', 'admin', 'recover-config', rc=None)
    check(ran.returncode == 2, 'neither --dry-run nor --apply: %d %s' % (ran.returncode, ran.stdout))
    for n in STORAGE[:2]:
        cluster('start', n)
    until('all nodes answer', 60, lambda: recover(op).nodes == 3)
    status = op.call('Admin.Status', v1('StatusRequest'))
    check(status.groups == 0 and any('recover-config' in r for r in status.reasons), 'groups were made anew, or nobody says what to do: %s' % status)
    dry = recover(op)
    check(dry.groups_made == 8 and dry.groups_refused == 0 and dry.cluster_id == was.cluster_id, 'the plan: %s' % dry)
    done = cluster.mikura('operator/admin', 'admin', 'recover-config', '--apply')
    check('made 8' in done.stdout, 'recovered: %s' % done.stdout)
    check('recovered rid=' in cluster.log('gateway-1') and 'by=mikura://operator/admin' in cluster.log('gateway-1'), 'no line says who did it')
    until('the gateway ends: it was started in another world', 30, lambda: not cluster.alive('gateway-1'))
    cluster('start', 'gateway-1')
    op, agent = cluster.api('operator/admin'), cluster.api('society/s/a1')
    ready(op)
    check(op.call('Admin.Status', v1('StatusRequest')).cluster_id == was.cluster_id, 'another cluster id')
    whole('after the recovery of a stopped cluster')
    put(agent, 6)

    # ---- under a running cluster ----
    wipe()
    cluster('start', 'etcd-1')
    until('all nodes are known again', 60, lambda: recover(op).nodes == 3)
    # another cluster's groups, with other prefix bits, and a pool of its own
    ours = {'pg/%d/2/%016x%s' % (pool, i << 62, wish) for pool in (1, 2) for i in range(4) for wish in ('', '/desired')}
    for k in ('pg/1/5/0800000000000000', 'pg/1/5/0800000000000000/desired', 'pg/7/0/0000000000000000', 'pools/7'):
        etcd_put(k)
    dry = recover(op)
    check(dry.groups_made == 8, 'the plan under a running cluster: %s' % dry)
    check(any('4 keys of another cluster' in r for r in dry.reasons), 'no word of what another cluster left: %s' % dry)
    check(recover(op, apply=True).applied, 'recovered under a running cluster')
    left = below('pg/')
    check(left == ours, 'groups in etcd after the recovery: %s' % sorted(left ^ ours))
    check(below('pools/') == {'pools/1', 'pools/2'}, 'pools after the recovery: %s' % below('pools/'))
    ready(op)
    check(op.call('Admin.Status', v1('StatusRequest')).cluster_id == was.cluster_id, 'another cluster id')
    whole('after the recovery of a running cluster')
    put(agent, 6)
    whole('at the end')
    print('recovered twice: %d objects are whole' % len(kept))


main()
