"""tests/cluster/thrash/load.py - one client process of the load: load.py NUMBER SEED, until its standard input ends.

Each of its threads does one operation after the other, through whichever gateway, and writes what it did into
$THRASH_OUT/history-NUMBER (lines of tests/cluster/thrash/lin/main.c) and, for listings of the collection, lists-NUMBER.
What a client may not assume it does not record: an error after which an operation may still take effect is an unknown
outcome; an error of a read says nothing. Wrong bytes go into wrong-NUMBER and fail the run.

A value is a number that each put has for itself. The bytes say which one (lines of 16: number, line number), and so
does the size: one of BASES plus the number.
"""
import array
import os
import random
import sys
import threading
import time

from mk import Api, Cluster, Refused, request_id, v1

COLLECTION, PATH = 'thrash', 'p'
THREADS, VALUES = 2, 100000
BASES = [0, VALUES, 4 * VALUES, 12 * VALUES, 88 * VALUES]  # inline; one chunk; 400 KB; 1.2 MB; two chunks
WEIGHTS = [50, 30, 12, 6, 2]
SLOTS, TURN_S = 5, 7  # cases that are changed at a time, and how long
AGAIN = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED', 'UNKNOWN', 'RESOURCE_EXHAUSTED', 'INTERNAL')
PATIENCE_S = 8


def content(value, first, n):
    """Bytes first .. first + n of a value."""
    line, lines = first // 16, (first + n + 15) // 16 - first // 16
    a = array.array('Q', [value]) * (2 * lines)
    a[1::2] = array.array('Q', range(line, line + lines))
    return a.tobytes()[first - 16 * line:][:n]


def value_of(size):
    return size - max(b for b in BASES if b <= size)


class Wrong(Exception):
    pass


class Reader:
    """What a read told, checked against what the value's bytes must be. Used by the last look, too."""

    @staticmethod
    def read(api, case, offset=0, length=0, timeout=PATIENCE_S):
        """(value, generation), or None: nothing visible."""
        ref = v1('ObjectRef', collection=COLLECTION, case_id=case, path=PATH)
        info, got = None, []
        try:
            for m in api.stream('Objects.Read', v1('ReadRequest', object=ref, offset_bytes=offset, length_bytes=length), timeout):
                if m.HasField('info'):
                    info = m.info
                got.append(m.data)
        except Exception as e:  # grpc's own kind is private
            code = getattr(e, 'code', lambda: None)()
            if code is None:
                raise
            if code.name == 'NOT_FOUND' and info is None:
                return None
            raise Refused(code.name, e.details() or '') from None
        data = b''.join(got)
        value = value_of(info.size_bytes)
        want = info.size_bytes - offset if length == 0 else min(length, info.size_bytes - offset)
        if len(data) != want or data != content(value, offset, want):
            raise Wrong('%s: bytes of value %d (size %d) from %d: %d came, %d wanted%s' % (
                case, value, info.size_bytes, offset, len(data), want, '' if len(data) != want else ', other bytes'))
        return value, info.case_generation


class Client(threading.Thread):
    def __init__(self, number, seed, apis, files, stop):
        super().__init__()
        self.number, self.rnd, self.apis, self.stop = number, random.Random('%d %d' % (seed, number)), apis, stop
        self.history, self.lists, self.wrong = files
        self.next_value = number
        self.begun = time.monotonic()
        self.generation = {}  # of cases, as last heard

    # ---- what is recorded ----
    def note(self, case, start, end, text):
        self.history.write('%s %d %s %s\n' % (case, start, '-' if end is None else end, text))

    @staticmethod
    def now():
        return time.monotonic_ns()

    def api(self, who):
        return self.rnd.choice(self.apis[who])

    def case(self, old=0.15):
        turn = int((time.monotonic() - self.begun) / TURN_S)
        if turn > 0 and self.rnd.random() < old:
            turn = self.rnd.randrange(turn)
        return 'c%d-%d' % (self.rnd.randrange(SLOTS), turn)

    def value(self, sizes=len(BASES)):
        self.next_value += 64
        if self.next_value >= VALUES:
            raise Wrong('more puts than values')
        return self.next_value, self.rnd.choices(BASES[:sizes], WEIGHTS[:sizes])[0] + self.next_value

    # ---- operations ----
    def put(self):
        case, (value, size), rid = self.case(old=0.03), self.value(), request_id()
        data, start, until = content(value, 0, size), self.now(), time.monotonic() + PATIENCE_S
        while True:
            try:
                g = self.api('agent').put(COLLECTION, case, PATH, data, max(1, until - time.monotonic()), rid=rid).generation
                self.generation[case] = g
                return self.note(case, start, self.now(), 'put %d %d' % (value, g))
            except Refused as e:
                # ABORTED too: what is staged goes with the next commit, whosever it is
                if e.code == 'DATA_LOSS' or e.code == 'INVALID_ARGUMENT':
                    raise Wrong('put of %s: %s' % (case, e)) from None
                if e.code not in AGAIN or time.monotonic() > until - 1 or self.rnd.random() < 0.3:
                    return self.note(case, start, None, 'put %d -' % value)
                time.sleep(0.1)

    def conditional_put(self):
        """Stages, then commits only if the case is as it was when last heard of."""
        case, (value, size), api = self.case(old=0.03), self.value(sizes=4), self.api('agent')  # of one chunk
        expected = self.generation.get(case, 0)
        data = content(value, 0, size)
        rid = request_id()
        s = api.call('Objects.BeginUpload', v1('BeginUploadRequest', request_id=rid, spec=v1(
            'UploadSpec', collection=COLLECTION, case_id=case, path=PATH, size_bytes=size)), PATIENCE_S)
        header = v1('ChunkHeader', collection=COLLECTION, case_id=case, upload_id=s.upload_id, index=0, length_bytes=size)
        api.call('Objects.PutChunk', [v1('PutChunkRequest', header=header)] + [
            v1('PutChunkRequest', data=data[i:i + (1 << 20)]) for i in range(0, size, 1 << 20)], PATIENCE_S)
        start = self.now()
        try:
            api.call('Objects.Complete', v1('CompleteRequest', collection=COLLECTION, case_id=case, upload_id=s.upload_id,
                                            request_id=request_id()), PATIENCE_S)
            self.note(case, start, self.now(), 'stage %d' % value)
        except Refused:
            return self.note(case, start, None, 'stage %d' % value)
        rid, first = request_id(), self.now()
        for again in (True, False):
            start = self.now()
            try:
                g = self.api('agent').call('Objects.CommitCase', v1('CommitCaseRequest', collection=COLLECTION, case_id=case,
                                           expected_generation=expected, count=1, request_id=rid), PATIENCE_S).generation
                self.generation[case] = g
                return self.note(case, first, self.now(), 'commit %d %d' % (expected, g))
            except Refused as e:
                if e.code == 'ABORTED' and 'generation is' in e.text:
                    self.generation.pop(case, None)
                    return self.note(case, start, self.now(), 'refused %d' % expected)
                if e.code == 'FAILED_PRECONDITION' and again:
                    return None  # nothing was staged any more: another commit had published it
                if e.code not in AGAIN or not again or self.rnd.random() < 0.3:
                    return self.note(case, first, None, 'commit %d -' % expected)

    def delete(self):
        case, start = self.case(), self.now()
        ref = v1('ObjectRef', collection=COLLECTION, case_id=case, path=PATH)
        try:
            g = self.api('operator').call('Objects.Delete', v1('DeleteRequest', object=ref, request_id=request_id()), PATIENCE_S).case_generation
            self.note(case, start, self.now(), 'delete %d' % g)
        except Refused as e:
            if e.code == 'NOT_FOUND':
                return self.note(case, start, self.now(), 'none')
            self.note(case, start, None, 'delete -')

    def read(self, offset=0, length=0):
        case, start = self.case(), self.now()
        got = Reader.read(self.api('reader'), case, offset, length)
        if got is None:
            return self.note(case, start, self.now(), 'none')
        self.generation[case] = got[1]
        self.note(case, start, self.now(), 'get %d %d' % got)

    def read_range(self):
        base = self.rnd.choices(BASES, WEIGHTS)[0]
        self.read(self.rnd.randrange(max(self.next_value, 2) if base == 0 else base), 1 + self.rnd.randrange(200000))

    def stat(self):
        case, start = self.case(), self.now()
        try:
            o = self.api('reader').call('Objects.Stat', v1('StatRequest', object=v1('ObjectRef', collection=COLLECTION, case_id=case, path=PATH)), PATIENCE_S)
        except Refused as e:
            if e.code == 'NOT_FOUND':
                return self.note(case, start, self.now(), 'none')
            raise
        self.generation[case] = o.case_generation
        self.note(case, start, self.now(), 'get %d %d' % (value_of(o.size_bytes), o.case_generation))

    def list_case(self):
        case, start = self.case(), self.now()
        try:
            found = [o for m in self.api('reader').call('Objects.List', v1('ListRequest', collection=COLLECTION, case_id=case), PATIENCE_S) for o in m.objects]
        except Refused as e:
            if e.code == 'NOT_FOUND':
                return self.note(case, start, self.now(), 'none')
            raise
        if len(found) > 1 or any(o.object.path != PATH for o in found):
            raise Wrong('list of %s: %s' % (case, [(o.object.path, o.object.version) for o in found]))
        self.note(case, start, self.now(), 'get %d -' % value_of(found[0].size_bytes) if found else 'none')

    def list_all(self):
        start = self.now()
        found = [o.object.case_id for m in self.api('reader').call('Objects.List', v1('ListRequest', collection=COLLECTION), 2 * PATIENCE_S) for o in m.objects]
        self.lists.write('%d %d %s\n' % (start, self.now(), ' '.join(found)))

    def run(self):
        work = [(self.put, 30), (self.conditional_put, 12), (self.delete, 6), (self.read, 24), (self.read_range, 10),
                (self.stat, 6), (self.list_case, 10), (self.list_all, 2)]
        while not self.stop.is_set():
            try:
                self.rnd.choices([f for f, _ in work], [w for _, w in work])[0]()
            except Refused as e:
                # a read that failed says nothing; but this may not be said of anything
                if e.code in ('DATA_LOSS', 'PERMISSION_DENIED', 'UNAUTHENTICATED', 'UNIMPLEMENTED', 'INVALID_ARGUMENT') or \
                        'no such collection' in e.text:
                    self.wrong.write('%s\n' % e)
            except Exception as e:  # Wrong, and what this file did not expect
                self.wrong.write('%s: %s\n' % (type(e).__name__, e))
            time.sleep(self.rnd.random() * 0.12)


def main():
    number, seed = int(sys.argv[1]), int(sys.argv[2])
    cluster, out = Cluster(os.environ['THRASH_DIR']), os.environ['THRASH_OUT']
    gateways = [n for n in cluster.names() if n.startswith('gateway')]
    apis = {who: [Api(cluster.address(g), cluster.pki, name) for g in gateways] for who, name in (
        ('agent', 'society/thrash/a1'), ('operator', 'operator/admin'), ('reader', 'researcher/reader'))}
    stop = threading.Event()
    # a line is written whole and at once: the process may be asked to end at any time
    files = [open(os.path.join(out, '%s-%d' % (n, number)), 'w', buffering=1) for n in ('history', 'lists', 'wrong')]
    clients = [Client(number * THREADS + i + 1, seed, apis, files, stop) for i in range(THREADS)]
    for c in clients:
        c.start()
    sys.stdin.read()
    stop.set()
    for c in clients:
        c.join()


if __name__ == '__main__':
    main()
