"""tests/cluster/operate/operate.py - what operators do to storage nodes, under load and while others die.

Writers and a reader work all the time: nothing acknowledged is lost or wrong, whatever moves. Copies are counted
while they move. Refusals: exit code, gRPC status and the words that say what to do, a row each.
"""
import functools
import json
import os
import signal
import sys
import threading
import time

from mk import Cluster, Failed, Refused, blob, check, collection, grant, ready, until, v1

KIB = 1 << 10
cluster = Cluster()
failed = Failed()
ADD, DRAIN, UNDRAIN, REMOVE, REPLACE = range(1, 6)


class Load(threading.Thread):
    """Puts small and chunked objects, reads back what was acknowledged."""

    def __init__(self):
        super().__init__(daemon=True)  # a failed row ends the process
        self.stop, self.acked, self.wrong, self.reads = False, {}, [], 0

    def run(self):
        agents = [cluster.api('society/s/a1', 'gateway-%d' % i) for i in (1, 2)]
        readers = [cluster.api('researcher/r', 'gateway-%d' % i) for i in (1, 2)]
        n = 0
        while not self.stop:
            n += 1
            size = (700 * KIB, 3 * KIB, 150 * KIB)[n % 3]
            try:
                agents[n % 2].put('ops', 'case-%d' % n, 'p', blob('ops %d' % n, size), timeout=20)
                self.acked[n] = size
            except Refused:
                pass  # not acknowledged: nothing was promised
            self.look(readers[n % 2], 1 + n * 7919 % 100003 % n)
            time.sleep(0.02)  # a load, not a benchmark

    def look(self, api, i, timeout=20):
        if i not in self.acked:
            return
        try:
            if api.get('ops', 'case-%d' % i, 'p', timeout) != blob('ops %d' % i, self.acked[i]):
                self.wrong.append('case %d has other bytes' % i)
            self.reads += 1
        except Refused as e:
            if e.code in ('NOT_FOUND', 'DATA_LOSS'):
                self.wrong.append('case %d: %s' % (i, e))

    def end(self):
        self.stop = True
        self.join()
        api = cluster.api('researcher/r', 'gateway-2')
        for i in self.acked:
            until('case %d is there' % i, 60, lambda i=i: api.get('ops', 'case-%d' % i, 'p') == blob('ops %d' % i, self.acked[i]))
        check(not self.wrong, 'wrong reads: %s' % self.wrong[:5])
        check(len(self.acked) > 20 and self.reads > 20, 'only %d writes, %d reads' % (len(self.acked), self.reads))
        return '%d objects written and read back, %d reads meanwhile' % (len(self.acked), self.reads)


class Lister(threading.Thread):
    """Lists all the time, a few names a page, each page at the other gateway: what was acknowledged before the first page
    comes exactly once, nothing comes twice, all in order, whatever moves meanwhile."""

    def __init__(self, load):
        super().__init__(daemon=True)
        self.stop, self.load, self.wrong, self.lists, self.pages = False, load, [], 0, 0
        self.apis = [cluster.api('researcher/r', 'gateway-%d' % i) for i in (1, 2)]

    def page(self, method, request):
        while not self.stop:
            self.pages += 1
            try:
                return self.apis[self.pages % 2].call(method, request, 20)
            except Refused as e:
                if e.code not in ('UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED', 'FAILED_PRECONDITION', 'RESOURCE_EXHAUSTED'):
                    self.wrong.append('%s: %s' % (method, e))
                    return None
                time.sleep(0.05)
        return None

    def cases(self):
        token, got = '', []
        while True:
            m = self.page('Catalog.ListCases', v1('ListCasesRequest', collection='ops', page_size=9, page_token=token))
            if m is None:
                return None
            got += [c.case_id for c in m.cases]
            token = m.next_page_token
            if not token:
                return got

    def objects(self):
        token, got = '', []
        while True:
            m = self.page('Objects.List', v1('ListRequest', collection='ops', limit=9, page_token=token))
            if m is None:
                return None
            page = [o.object.case_id for x in m for o in x.objects]
            got += page
            token = m[-1].page_token if m else ''
            if not page or not token:
                return got

    def run(self):
        while not self.stop:
            before = {'case-%d' % n for n in list(self.load.acked)}
            got = self.objects() if self.lists % 2 else self.cases()
            if got is None:
                continue
            self.lists += 1
            if not before <= set(got) or len(set(got)) != len(got) or got != sorted(got):
                self.wrong.append('listing %d: %d of %d are missing, %d come twice' % (
                    self.lists, len(before - set(got)), len(before), len(got) - len(set(got))))

    def end(self):
        self.stop = True
        self.join()
        check(not self.wrong, 'wrong listings: %s' % self.wrong[:5])
        check(self.lists >= 10, 'only %d listings' % self.lists)
        return '%d listings of %d pages meanwhile, every name once' % (self.lists, self.pages)


@functools.lru_cache
def op(at='gateway-1'):
    return cluster.api('operator/admin', at)


def nodes(api):
    return {n.name: n for n in api.call('Admin.ListNodes', v1('ListNodesRequest'), 10).nodes if n.kind == 'storaged'}


def state_of(api, name):
    n = nodes(api).get(name)
    return n.state if n else 'unknown'


def groups(api):
    return [g for m in api.call('Admin.ListGroups', v1('ListGroupsRequest'), 10) for g in m.groups]


def fewest(api):
    return min(len(g.in_sync_disks) for g in groups(api))


def change(api, name, action, **more):
    return api.call('Admin.ChangeNode', v1('ChangeNodeRequest', name=name, action=action, **more), 20)


def refused(what, name, action, code, exit_code, *words, command=None, **more):
    """By gRPC and by the command: nothing is changed."""
    got, text = op().code('Admin.ChangeNode', v1('ChangeNodeRequest', name=name, action=action, **more))
    failed.check(got == code, '%s: %s, not %s (%s)' % (what, got, code, text))
    ran = cluster.mikura('operator/admin', 'node', *command, rc=None) if command else None
    failed.check(ran is None or ran.returncode == exit_code, '%s: exit %s, not %d' % (what, ran and ran.returncode, exit_code))
    for w in words:
        failed.check(w in text, '%s: no "%s" in: %s' % (what, w, text))
        failed.check(ran is None or w in ran.stdout, '%s: no "%s" in: %s' % (what, w, ran and ran.stdout))


def settled(what, api, want=3, seconds=60):
    """All copies are made, and those that are one too many have left their groups."""
    def done():
        s = api.call('Admin.Status', v1('StatusRequest'), 10)
        return s.copies_to_make == 0 and s.groups_moving == 0 and fewest(api) >= want
    until(what, seconds, done)


def manager():
    """The gateway that plans."""
    for at in ('gateway-1', 'gateway-2'):
        if cluster.alive(at):
            address = until('a manager', 30, lambda at=at: op(at).call('Admin.Status', v1('StatusRequest'), 10).manager)
            return [g for g in ('gateway-1', 'gateway-2') if cluster.address(g) == address][0]
    return None


def other(gateway):
    return 'gateway-2' if gateway == 'gateway-1' else 'gateway-1'


def kill_manager():
    """kill -9 of it; the other one goes on. Answers with the other's API."""
    dead = manager()
    cluster('kill', dead)
    return dead, op(other(dead))


# ---- rows, in order ----
def row_refusals():
    refused('unknown node', 'storaged-9', DRAIN, 'NOT_FOUND', 3, 'no storage node', 'storaged-1', command=('drain', 'storaged-9'))
    refused('a gateway', 'gateway-1', DRAIN, 'NOT_FOUND', 3, 'is a gateway', command=('drain', 'gateway-1'))
    refused('fewer copies than promised', 'storaged-1', DRAIN, 'FAILED_PRECONDITION', 7, '3 copies', 'mikura node add', command=('drain', 'storaged-1'))
    refused('not drained', 'storaged-1', UNDRAIN, 'FAILED_PRECONDITION', 7, 'not being drained', command=('undrain', 'storaged-1'))
    refused('it runs', 'storaged-1', REMOVE, 'FAILED_PRECONDITION', 7, 'empty it first', 'mikura node drain storaged-1', command=('remove', 'storaged-1'))
    refused('replaced by nobody', 'storaged-1', REPLACE, 'NOT_FOUND', 3, 'no storage node', by_name='storaged-9', command=('replace', 'storaged-1', 'storaged-9'))
    refused('replaced by itself', 'storaged-1', REPLACE, 'INVALID_ARGUMENT', 2, 'replace itself', by_name='storaged-1', command=('replace', 'storaged-1', 'storaged-1'))
    refused('replaced by one in use', 'storaged-1', REPLACE, 'FAILED_PRECONDITION', 7, 'holds copies already', by_name='storaged-2', command=('replace', 'storaged-1', 'storaged-2'))
    refused('no action', 'storaged-1', 0, 'INVALID_ARGUMENT', 2, 'drain, undrain, remove or replace')
    ran = cluster.mikura('operator/admin', 'node', 'drain', rc=None)
    failed.check(ran.returncode == 2, 'drain without a name: exit %d' % ran.returncode)
    ran = cluster.mikura('researcher/r', 'node', 'drain', 'storaged-1', rc=None)
    failed.check(ran.returncode == 4, 'drain by a researcher: exit %d: %s' % (ran.returncode, ran.stdout))


def row_add():
    """A new node waits until it is let in; what is foreseen comes; the manager's gateway dies in the middle."""
    api = op()
    time.sleep(max(0, began + 1 - time.monotonic()))  # who comes within `admit` of the first groups is let in without a word
    cluster('up', '--storage', '4')
    until('storaged-4 is known as new', 20, lambda: state_of(api, 'storaged-4') == 'new')
    refused('drain, with one that waits', 'storaged-1', DRAIN, 'FAILED_PRECONDITION', 7, 'mikura node add storaged-4', command=('drain', 'storaged-1'))
    seen = json.loads(cluster.mikura('operator/admin', 'node', 'add', 'storaged-4', '--dry-run', '--json').stdout)
    come = [n for n in seen['nodes'] if n['name'] == 'storaged-4'][0]['groups_in']
    check(come > 0 and seen['copies'] == come and not seen.get('applied'), 'the plan of an add: %s' % seen)
    check(nodes(api)['storaged-4'].state == 'new', 'a dry run let it in')
    check(change(api, 'storaged-4', ADD).applied, 'add')
    dead, api = kill_manager()
    until('storaged-4 has what was foreseen', 60, lambda: nodes(api)['storaged-4'].groups == come and nodes(api)['storaged-4'].moves_left == 0)
    settled('all copies', api)
    until('the other gateway is the manager', 30, lambda: manager() == other(dead))
    cluster('start', dead)
    return 'add: %d groups moved, as foreseen; kill -9 of the manager in the middle' % come


def row_drain():
    """Every copy is kept: no group is ever seen with fewer than three."""
    api = op()
    before = nodes(api)['storaged-1'].groups
    check(before > 0, 'storaged-1 holds nothing')
    seen = change(api, 'storaged-1', DRAIN, dry_run=True)
    check(seen.copies == before, 'a drain of %d groups foresees %s; there are %s' % (before, seen, [
        (n.name, n.groups, n.moves_left, n.alive) for n in nodes(api).values()]))
    check(nodes(api)['storaged-1'].state == 'in', 'a dry run drained')
    change(api, 'storaged-1', DRAIN)
    low = 3

    def drained():
        nonlocal low
        low = min(low, fewest(api))
        n = nodes(api)['storaged-1']
        check(n.state == 'drained' or (n.state == 'draining' and n.moves_total >= n.moves_left), 'storaged-1 is %s' % n)
        return n.state == 'drained'
    until('storaged-1 is drained', 90, drained)
    check(low >= 3, 'a group had %d copies while a node was drained' % low)
    until('its copies are deleted', 30, lambda: sum(d.groups for d in nodes(api)['storaged-1'].disks) == 0)
    # two who drain at once, and one who asks again
    check(any('told so before' in x for x in change(api, 'storaged-1', DRAIN).notes), 'a second drain is not noticed')
    refused('drained, but it runs', 'storaged-1', REMOVE, 'FAILED_PRECONDITION', 7, 'stop its storaged', command=('remove', 'storaged-1'))
    refused('add while drained', 'storaged-1', ADD, 'FAILED_PRECONDITION', 7, 'mikura node undrain storaged-1', command=('add', 'storaged-1'))
    refused('a second drain would take copies', 'storaged-2', DRAIN, 'FAILED_PRECONDITION', 7, '3 copies', command=('drain', 'storaged-2'))
    change(api, 'storaged-1', UNDRAIN)
    until('undrained: it holds copies again', 60, lambda: nodes(api)['storaged-1'].groups > 0 and nodes(api)['storaged-1'].moves_left == 0)
    settled('all copies', api)
    return 'drain: %d groups, never fewer than 3 copies, room given back, undrained' % before


def row_kills():
    """The manager's gateway, the draining node, and one that learns, die in the middle: the drain goes on and ends."""
    api = op(manager())
    change(api, 'storaged-2', DRAIN)
    left = nodes(api)['storaged-2'].moves_left
    check(left > 0, 'the drain was over before the manager could be killed')
    dead, api = kill_manager()
    for victim in ('storaged-2', 'storaged-4'):
        cluster('kill', victim)
        cluster('start', victim)
    until('storaged-2 is drained', 90, lambda: nodes(api)['storaged-2'].state == 'drained')
    settled('all copies', api)
    # a drain may end before the lease of the killed one does: its wishes were written already
    until('the other gateway is the manager', 30, lambda: manager() == other(dead))
    cluster('start', dead)
    cluster('stop', 'storaged-2')
    until('storaged-2 is away', 30, lambda: not nodes(api)['storaged-2'].alive)
    cluster.mikura('operator/admin', 'node', 'remove', 'storaged-2', '--yes')
    until('storaged-2 is forgotten', 30, lambda: 'storaged-2' not in nodes(api))
    return 'kills: drained while the manager (%d groups were left), the node and a learner were killed; removed and forgotten' % left


def row_replace():
    """A dead node is replaced by a new one: rebuilt at once, without waiting for disk_patience."""
    api = op()
    cluster('up', '--storage', '5')  # storaged-2 starts too: empty, it waits to be let in
    until('storaged-5 is new', 20, lambda: state_of(api, 'storaged-5') == 'new')
    cluster('kill', 'storaged-3')
    until('storaged-3 is away', 30, lambda: not nodes(api)['storaged-3'].alive)
    cluster.mikura('operator/admin', 'node', 'replace', 'storaged-3', 'storaged-5', '--yes', '--watch')
    until('storaged-3 is forgotten', 60, lambda: 'storaged-3' not in nodes(api))
    settled('all copies', api)
    check(nodes(api)['storaged-5'].groups > 0, 'storaged-5 holds nothing')
    return 'replace: a dead node rebuilt onto a new one and forgotten'


def row_two_managers():
    """The manager is stopped for longer than its lease: the other one plans; when the first goes on, it writes nothing."""
    first = manager()
    second = other(first)
    os.kill(cluster.pid(first), signal.SIGSTOP)
    api = op(second)
    until('the other one is elected', 40, lambda: api.call('Admin.Status', v1('StatusRequest'), 10).manager == cluster.address(second))
    change(api, 'storaged-2', ADD)
    os.kill(cluster.pid(first), signal.SIGCONT)
    until('storaged-2 holds copies again', 60, lambda: nodes(api)['storaged-2'].groups > 0 and nodes(api)['storaged-2'].moves_left == 0)
    settled('all copies', api)
    until('the first one knows that it is not the manager', 30, lambda: 'manager_lost' in cluster.log(first))
    return 'two managers: the one that lost its lease writes nothing'


def row_etcd():
    """etcd stops in the middle of a drain, for longer than all leases: data goes on, and so does the drain afterwards."""
    api = op()
    before = len(load.acked)
    change(api, 'storaged-1', DRAIN)
    cluster('stop', 'etcd-1')
    got, text = api.code('Admin.ChangeNode', v1('ChangeNodeRequest', name='storaged-1', action=UNDRAIN), 30)
    failed.check(got in ('UNAVAILABLE', 'DEADLINE_EXCEEDED'), 'a change without etcd: %s (%s)' % (got, text))
    until('writes go on without etcd', 60, lambda: len(load.acked) > before + 20)
    time.sleep(12)  # leases are 10 s
    cluster('start', 'etcd-1')
    until('storaged-1 is drained', 90, lambda: nodes(api)['storaged-1'].state == 'drained')
    settled('all copies', api)
    change(api, 'storaged-1', UNDRAIN)
    settled('all copies', api)
    return 'etcd: away for 12 s in the middle of a drain'


def row_hold():
    """Two of five hosts vanish at once: no storm. The operator who knows better goes on."""
    api = op()
    for n in ('storaged-4', 'storaged-5'):
        cluster('kill', n)
    held = until('the manager holds', 60, lambda: (lambda s: s if s.moves_held else None)(api.call('Admin.Status', v1('StatusRequest'), 10)))
    check(any('node remove' in r for r in held.reasons), 'no word of what to do: %s' % held.reasons)
    check(fewest(api) < 3, 'copies were made all the same')
    cluster('start', 'storaged-4')
    until('with one of them back it goes on', 60, lambda: not api.call('Admin.Status', v1('StatusRequest'), 10).moves_held)
    settled('copies of the other are made elsewhere', api)
    return 'hold: two of five hosts gone at once move nothing'


ROWS = {r.__name__[4:]: r for r in (row_refusals, row_add, row_drain, row_kills, row_replace, row_two_managers, row_etcd, row_hold)}
USUAL = ('refusals', 'add', 'drain', 'kills')
load, began = None, 0


def main():
    global load, began
    api = op()
    ready(api)
    began = time.monotonic()
    collection(api, 'ops', 's')
    grant(api, 'ops', 'r')
    for who in ('society/s/a1', 'researcher/r'):  # before threads ask for the same one
        cluster.certificate(who)
    load = Load()
    load.start()
    lister = Lister(load)
    lister.start()
    for name in ROWS if sys.argv[1:] == ['all'] else sys.argv[1:] or USUAL:
        start = time.monotonic()
        said = ROWS[name]()
        print('%s (%.1f s)' % (said or name, time.monotonic() - start), flush=True)
    print(lister.end(), flush=True)
    print(load.end(), flush=True)
    failed.end('refusals')


main()
