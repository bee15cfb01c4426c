/* gateway/ingest/upload_core.c - see upload_core.h.
 *
 * Invariants: (1) a decision is made on rows read by this request and put under conditions on the
 * versions of the rows it was made on; (2) a lost race starts again from reading, so a retry of
 * something that has happened finds it; (3) what a transaction holds does not change while its
 * outcome is unknown. */
#include "gateway/ingest/upload_core.h"
#include "common/base/le.h"

enum {
    ST_READ = 1,
    ST_NEWEST,
    ST_MAKE,
    ST_WRITE,
    ST_GATHER,
    ST_SUM,
    ST_SIGN,
    ST_OLD_COMMIT,
    ST_TXN,
    ST_CLOSE,
    ST_REOPEN,
    ST_DONE
};

/* A touch is written once in half a day: else each chunk would change the session's row and lose
 * the others their race. */
#define TOUCH_TICKS 12u

static struct slice keep(struct upload_core *c, struct slice s)
{
    uint8_t *p = c->mem + c->used;

    CHECK(s.n <= c->mem_n - c->used);
    if (s.n > 0) memcpy(p, s.p, s.n);
    c->used += s.n;
    return (struct slice){p, s.n};
}

static uint8_t *key_room(struct upload_core *c)
{
    CHECK(c->mem_n - c->used >= RECORD_KEY_BYTES_MAX);
    return c->mem + c->used;
}

static struct slice key_done(struct upload_core *c, size_t n)
{
    struct slice s = {c->mem + c->used, n};

    c->used += n;
    return s;
}

static struct slice key(struct upload_core *c, enum record_kind kind)
{
    const struct upload_request *r = c->req;
    uint8_t *p = key_room(c);

    switch (kind) {
    case RECORD_SESSION:
        if (r->one_shot != NULL)
            return key_done(c, record_key_claim(record_anchor_hash(&r->anchor), &r->id, p));
        return key_done(c, record_key_id(&r->anchor, kind, &r->id, p));
    case RECORD_CHUNK:
        return key_done(c, record_key_chunk(&r->anchor, &r->id, r->index, p));
    case RECORD_INDEX:
    case RECORD_MANIFEST:
        return key_done(c, record_key_object(&r->anchor, kind, c->session.path, c->version, p));
    case RECORD_TOMB:
        return key_done(c, record_key_id(&r->anchor, kind, &c->session.body, p));
    case RECORD_COMMIT:
        return key_done(c, record_key_number(&r->anchor, kind, c->generation, p));
    default:
        return key_done(c, record_key(&r->anchor, kind, p));
    }
}

static void new_action(struct upload_core *c, enum upload_act_type type)
{
    c->act = (struct upload_action){.type = type};
}

static void answer(struct upload_core *c, enum rc rc, const char *msg)
{
    new_action(c, UPLOAD_ACT_ANSWER);
    c->state = ST_DONE;
    c->act.rc = rc;
    c->act.msg = msg;
    c->act.was_there = c->was_there;
    if (rc != RC_OK) return;
    switch (c->req->op) {
    case UPLOAD_BEGIN:
    case UPLOAD_CHUNK:
        c->act.session = &c->session;
        break;
    case UPLOAD_COMPLETE:
        c->act.session = &c->session;
        c->act.version = c->session.version;
        c->act.stage = c->session.stage;
        break;
    case UPLOAD_PUBLISH:
        c->act.session = &c->session;
        c->act.version = c->session.version;
        c->act.stage = c->session.stage;
        /* fall through */
    case UPLOAD_COMMIT:
        c->act.commit = &c->commit;
        c->act.generation = c->commit.generation;
        break;
    default:
        break;
    }
}

static void read_rows(struct upload_core *c)
{
    if (++c->tries > UPLOAD_TRIES_MAX) {
        answer(c, RC_ABORTED, "lost against concurrent changes of the same case; try again");
        return;
    }
    new_action(c, UPLOAD_ACT_GET);
    c->state = ST_READ;
    c->used = c->mark = 0;
    c->was_there = false;
    if (c->req->op != UPLOAD_CHUNK && c->req->op != UPLOAD_ABORT) {
        c->act.keys[c->act.keys_n++] = key(c, RECORD_HEAD);
    }
    if (c->req->op != UPLOAD_ENSURE && c->req->op != UPLOAD_COMMIT) {
        c->act.keys[c->act.keys_n++] = key(c, RECORD_SESSION);
    }
    if (c->req->op == UPLOAD_BEGIN) c->act.keys[c->act.keys_n++] = key(c, RECORD_CASE);
    if (c->req->op == UPLOAD_CHUNK) c->act.keys[c->act.keys_n++] = key(c, RECORD_CHUNK);
}

static void txn(struct upload_core *c, int state)
{
    c->used = c->mark;
    new_action(c, UPLOAD_ACT_TXN);
    c->state = state;
}

static void when(struct upload_core *c, enum upload_compare_kind kind, struct slice k,
                 uint64_t number)
{
    CHECK(c->act.compares_n < UPLOAD_COMPARES_MAX);
    c->act.compares[c->act.compares_n++] = (struct upload_compare){kind, k, number};
}

/* The row's version as read; absent when it was. */
static void when_row(struct upload_core *c, struct slice k, uint64_t version)
{
    when(c, version == 0 ? UPLOAD_ABSENT : UPLOAD_VERSION, k, version);
}

static void put(struct upload_core *c, struct slice k, struct slice value)
{
    CHECK(c->act.puts_n < UPLOAD_PUTS_MAX);
    c->act.puts[c->act.puts_n++] = (struct upload_put){k, value};
}

static struct record_out out_start(struct upload_core *c)
{
    return (struct record_out){.p = c->mem + c->used, .cap = c->mem_n - c->used};
}

/* Ends an encoding into the arena. false: the request was answered. */
static bool put_encoded(struct upload_core *c, struct slice k, const struct record_out *o,
                        enum rc rc)
{
    if (rc != RC_OK) {
        answer(c, rc, "a field of the request is over its limit");
        return false;
    }
    c->used += o->n;
    put(c, k, record_out_slice(o));
    return true;
}

static bool put_head(struct upload_core *c, const struct record_head *h)
{
    struct slice k = key(c, RECORD_HEAD);
    struct record_out o = out_start(c);

    return put_encoded(c, k, &o, record_head_encode(h, &o, NULL));
}

static bool put_session(struct upload_core *c, const struct record_session *s)
{
    struct slice k = key(c, RECORD_SESSION);
    struct record_out o = out_start(c);

    return put_encoded(c, k, &o, record_session_encode(s, &o, NULL));
}

/* ---- reading ---- */

/* Rows in the arena, decoded; false: answered. */
static bool take_session(struct upload_core *c, const struct upload_item *it)
{
    c->session_version = it->version;
    if (it->version == 0) return true;
    if (it->value.n > RECORD_SEALED_MAX + 8192u ||
        record_session_decode(keep(c, it->value), &c->session, NULL) != RC_OK) {
        answer(c, RC_CORRUPT, "the upload's record is damaged");
        return false;
    }
    return true;
}

static bool take_head(struct upload_core *c, const struct upload_item *it)
{
    c->head_version = it->version;
    if (it->version == 0) {
        if (c->req->op == UPLOAD_ENSURE || c->req->op == UPLOAD_PUBLISH) return true;
        answer(c, RC_NOTFOUND, "no such case");
        return false;
    }
    if (record_head_decode(it->value, &c->head, NULL) != RC_OK) {
        answer(c, RC_CORRUPT, "the case's record is damaged");
        return false;
    }
    if (c->head.state == RECORD_CASE_WITHDRAWN) {
        answer(c, RC_PRECOND, "the case was withdrawn");
        return false;
    }
    return true;
}

/* Is the session there and alive? false: answered. */
static bool alive(struct upload_core *c)
{
    if (c->session_version == 0) {
        answer(c, RC_NOTFOUND, "no such upload; begin a new one");
    } else if (c->session.state == RECORD_SESSION_COMPLETED) {
        answer(c, RC_PRECOND, "the upload is complete already");
    } else if (c->session.state == RECORD_SESSION_ABORTED) {
        answer(c, RC_PRECOND,
               c->session.expired ? "the upload has expired; begin a new one"
                                  : "the upload was aborted; begin a new one");
    } else if (c->tick > c->session.expire_tick) {
        answer(c, RC_PRECOND, "the upload has expired; begin a new one");
    } else {
        return true;
    }
    return false;
}

/* CASE and list row of a new case. false: answered. */
static bool put_case(struct upload_core *c)
{
    const struct record_case *nc = c->req->new_case;
    struct record_list l = {c->req->anchor, nc->created_unix_ms};
    struct slice k = key(c, RECORD_CASE);
    struct record_out o = out_start(c);

    if (!put_encoded(c, k, &o, record_case_encode(nc, &o, NULL))) return false;
    k = key_done(c, record_list_key(&nc->collection, nc->case_id,
                                    record_anchor_hash(&c->req->anchor), key_room(c)));
    o = out_start(c);
    return put_encoded(c, k, &o, record_list_encode(&l, &o, NULL));
}

static void ensure_read(struct upload_core *c)
{
    struct record_head h = {.state = RECORD_CASE_OPEN, .stage = 1};

    if (c->head_version != 0) {
        c->was_there = true;
        answer(c, RC_OK, NULL);
        return;
    }
    txn(c, ST_TXN);
    when(c, UPLOAD_ABSENT, key(c, RECORD_HEAD), 0);
    when(c, UPLOAD_ABSENT, key(c, RECORD_CASE), 0);
    if (put_head(c, &h)) (void)put_case(c);
}

static void begin_read(struct upload_core *c, const struct upload_item *case_row)
{
    if (c->session_version != 0) {
        if (memcmp(c->session.fingerprint, c->req->fingerprint, 32) != 0) {
            answer(c, RC_EXISTS, "this request id belongs to another request");
            return;
        }
        c->was_there = true;
        answer(c, RC_OK, NULL);
        return;
    }
    if (case_row->version == 0 || case_row->value.n > RECORD_KEY_BYTES_MAX + 1024u ||
        record_case_decode(keep(c, case_row->value), &c->rec_case, NULL) != RC_OK) {
        answer(c, RC_CORRUPT, "the case's record is damaged");
        return;
    }
    c->mark = c->used;
    new_action(c, UPLOAD_ACT_MAKE);
    c->act.the_case = &c->rec_case;
    c->state = ST_MAKE;
}

static void chunk_txn(struct upload_core *c)
{
    const struct upload_request *r = c->req;
    struct record_chunk row = {
        .plain_bytes = r->plain_bytes, .seal_id = c->seal_id, .sealed_leaves = r->sealed_leaves};
    struct record_session touched = c->session;
    struct record_out o;
    struct slice k;

    memcpy(row.plain_digest, r->plain_digest, 32);
    txn(c, ST_TXN);
    when(c, UPLOAD_VERSION, key(c, RECORD_SESSION), c->session_version);
    when(c, UPLOAD_ABSENT, key(c, RECORD_CHUNK), 0);
    when(c, UPLOAD_TICK_AT_MOST, (struct slice){0}, c->session.expire_tick);
    k = key(c, RECORD_CHUNK);
    o = out_start(c);
    if (!put_encoded(c, k, &o, record_chunk_encode(&row, &o, NULL))) return;
    touched.expire_tick = c->tick + c->session.ttl_ticks;
    if (touched.expire_tick >= c->session.expire_tick + TOUCH_TICKS) (void)put_session(c, &touched);
}

static void chunk_read(struct upload_core *c, const struct upload_item *row)
{
    const struct upload_request *r = c->req;
    struct record_chunk have;

    if (row->version != 0) { /* before the session's state: a retry may come after Complete */
        if (record_chunk_decode(row->value, &have, NULL) != RC_OK) {
            answer(c, RC_CORRUPT, "the chunk's record is damaged");
        } else if (have.plain_bytes != r->plain_bytes ||
                   memcmp(have.plain_digest, r->plain_digest, 32) != 0) {
            answer(c, RC_EXISTS, "this chunk arrived before with other bytes");
        } else {
            c->was_there = true;
            answer(c, RC_OK, NULL);
        }
        return;
    }
    if (!alive(c)) return;
    if (r->index >= c->session.chunks) {
        answer(c, RC_RANGE, "the chunk lies past the declared size");
        return;
    }
    if (c->session.size_unknown ? r->plain_bytes == 0 || r->plain_bytes > c->session.chunk_bytes
                                : r->plain_bytes != upload_chunk_length(&c->session, r->index)) {
        answer(c, RC_INVAL, "the chunk's length is not what its place in the object asks for");
        return;
    }
    c->mark = c->used;
    if (c->written) {
        chunk_txn(c);
        return;
    }
    new_action(c, UPLOAD_ACT_WRITE);
    c->act.session = &c->session;
    c->state = ST_WRITE;
}

/* A one-shot upload whose claim is ABORTED: a try that began before it was put completes nothing;
 * one that began after, and so has written its bytes after, goes on. true: answered. */
static bool given_up(struct upload_core *c)
{
    if (c->req->one_shot == NULL || c->session_version == 0 ||
        c->session.state != RECORD_SESSION_ABORTED || c->session_version == c->req->claim_version)
        return false;
    answer(c, RC_ABORTED, "the upload took too long and was given up; send it again");
    return true;
}

static void complete_read(struct upload_core *c)
{
    const struct record_session *one = c->req->one_shot;

    if (given_up(c)) return;
    if (c->session_version != 0 && one != NULL && c->session.state != RECORD_SESSION_ABORTED &&
        (c->session.state != RECORD_SESSION_COMPLETED ||
         memcmp(c->session.fingerprint, one->fingerprint, 32) != 0)) {
        answer(c, RC_EXISTS, "this request id belongs to another request");
        return;
    }
    if (c->session_version != 0 && c->session.state == RECORD_SESSION_COMPLETED) {
        c->was_there = true;
        answer(c, RC_OK, NULL);
        return;
    }
    if (one != NULL) {
        c->session = *one;
    } else if (!alive(c)) {
        return;
    }
    c->mark = c->used;
    c->version = 0;
    new_action(c, UPLOAD_ACT_NEWEST);
    c->act.keys[c->act.keys_n++] = key(c, RECORD_INDEX);
    c->state = ST_NEWEST;
}

static void abort_read(struct upload_core *c)
{
    struct record_session s = c->session;
    struct record_tomb t = {.upload = c->req->id,
                            .pool = s.data_pool,
                            .chunks = s.chunks,
                            .owner_hash = record_anchor_hash(&c->req->anchor),
                            .since_unix_ms = c->req->now_unix_ms};
    struct record_list l = {c->req->anchor, c->req->now_unix_ms};
    struct record_out o;
    struct slice k;

    if (c->session_version == 0 || s.state == RECORD_SESSION_ABORTED) {
        c->was_there = true;
        answer(c, RC_OK, NULL);
        return;
    }
    if (s.state == RECORD_SESSION_COMPLETED) {
        answer(c, RC_PRECOND, "the upload is complete; delete the object instead");
        return;
    }
    if (c->req->expire && c->tick <= s.expire_tick) {
        answer(c, RC_PRECOND, "the upload has not expired");
        return;
    }
    s.state = RECORD_SESSION_ABORTED;
    s.expired = c->req->expire;
    s.sealed_spec = (struct slice){0};
    c->mark = c->used;
    txn(c, ST_TXN);
    when(c, UPLOAD_VERSION, key(c, RECORD_SESSION), c->session_version);
    if (!put_session(c, &s) || s.chunks == 0) return;
    k = key(c, RECORD_TOMB);
    o = out_start(c);
    if (!put_encoded(c, k, &o, record_tomb_encode(&t, &o, NULL))) return;
    k = key_done(c, record_tomb_list_key(&c->req->anchor, &s.body, key_room(c)));
    o = out_start(c);
    (void)put_encoded(c, k, &o, record_list_encode(&l, &o, NULL));
}

/* ---- committing a case ---- */

static void sum(struct upload_core *c)
{
    c->mark = c->used = 0;
    new_action(c, UPLOAD_ACT_SUM);
    c->act.stage_after = c->head.visible;
    c->act.stage_upto = c->head.closing;
    c->state = ST_SUM;
}

static void old_commit(struct upload_core *c, uint64_t generation)
{
    c->generation = generation;
    new_action(c, UPLOAD_ACT_GET);
    c->act.keys[c->act.keys_n++] = key(c, RECORD_COMMIT);
    c->state = ST_OLD_COMMIT;
}

static void commit_read(struct upload_core *c)
{
    const struct upload_request *r = c->req;

    /* PutObject knows its generation from the head alone, and a retry finds a later head */
    if (c->head.generation > 0 && id128_eq(&c->head.last_request, &r->id)) {
        old_commit(c, c->head.generation);
        return;
    }
    if (c->head.generation > r->expected_generation) { /* perhaps by this very request */
        old_commit(c, r->expected_generation + 1);
        return;
    }
    if (c->head.generation < r->expected_generation) {
        answer(c, RC_ABORTED, "the case's generation is lower than the expected one");
        return;
    }
    if (c->head.closing != 0 && id128_eq(&c->head.closing_request, &r->id)) {
        sum(c);
        return;
    }
    /* Takes over from a commit that stands still; that one's publishing then fails. */
    c->head.closing = c->head.stage++;
    c->head.closing_request = r->id;
    txn(c, ST_CLOSE);
    when(c, UPLOAD_VERSION, key(c, RECORD_HEAD), c->head_version);
    (void)put_head(c, &c->head);
}

static void old_commit_got(struct upload_core *c, const struct upload_item *it)
{
    bool publish = c->req->op == UPLOAD_PUBLISH;

    c->used = publish ? c->mark : 0; /* the claim stays */
    if (it->version == 0 && !publish && c->generation > 1 && c->tries++ < UPLOAD_TRIES_MAX &&
        id128_eq(&c->head.last_request, &c->req->id)) {
        old_commit(c, c->generation - 1); /* deletions made the generations since */
    } else if (it->version == 0) { /* staged by another way; or a deletion made that generation */
        answer(c, publish ? RC_EXISTS : RC_ABORTED,
               publish ? "there is such a case"
                       : "the case's generation is higher than the expected one");
    } else if (it->value.n > 16384 ||
               record_commit_decode(keep(c, it->value), &c->commit, NULL) != RC_OK) {
        answer(c, RC_CORRUPT, "the commit's record is damaged");
    } else if (!id128_eq(&c->commit.request, &c->req->id)) {
        answer(c, publish ? RC_EXISTS : RC_ABORTED,
               "the case's generation is higher than the expected one");
    } else {
        c->was_there = true;
        answer(c, RC_OK, NULL);
    }
}

static void summed(struct upload_core *c, const struct upload_event *ev)
{
    const struct upload_request *r = c->req;

    c->generation = r->expected_generation + 1;
    c->commit = (struct record_commit){.request = r->id,
                                       .generation = c->generation,
                                       .stage_after = c->head.visible,
                                       .stage_upto = c->head.closing,
                                       .count = ev->count};
    memcpy(c->commit.root, ev->root, 32);
    c->objects = ev->objects;
    c->bytes_stored = ev->bytes_stored;
    if (ev->count == 0 || ev->count != r->count ||
        (r->have_root && memcmp(ev->root, r->root, 32) != 0)) {
        c->head.closing = 0;
        c->head.closing_request = (struct id128){0};
        txn(c, ST_REOPEN);
        when(c, UPLOAD_VERSION, key(c, RECORD_HEAD), c->head_version);
        (void)put_head(c, &c->head);
        return;
    }
    new_action(c, UPLOAD_ACT_SIGN);
    c->act.generation = c->commit.generation;
    c->act.count = ev->count;
    c->act.root = c->commit.root;
    c->state = ST_SIGN;
}

static bool put_commit(struct upload_core *c)
{
    struct slice k = key(c, RECORD_COMMIT);
    struct record_out o = out_start(c);

    return put_encoded(c, k, &o, record_commit_encode(&c->commit, &o, NULL));
}

/* The rows of an object as it is completed: CLAIM or SESSION, INDEX, MANIFEST. false: answered. */
static bool put_object(struct upload_core *c, const struct record_index *idx, struct slice manifest)
{
    struct slice k;
    struct record_out o;

    if (!put_session(c, &c->session)) return false;
    k = key(c, RECORD_INDEX);
    o = out_start(c);
    if (!put_encoded(c, k, &o, record_index_encode(idx, &o, NULL))) return false;
    put(c, key(c, RECORD_MANIFEST), manifest);
    return true;
}

static void sealed_receipt(struct upload_core *c, const struct upload_event *ev)
{
    bool new_case = c->req->op == UPLOAD_PUBLISH;
    struct record_head h = c->head;

    if (ev->receipt.n > 8192 || ev->signature.n > 256 || ev->key_id.n > 256) {
        answer(c, RC_INTERNAL, "the receipt is over its limit");
        return;
    }
    c->used = 0;
    c->commit.receipt = keep(c, ev->receipt);
    c->commit.signature = keep(c, ev->signature);
    c->commit.key_id = keep(c, ev->key_id);
    c->commit.committed_unix_ms = ev->committed_unix_ms;
    c->mark = c->used;
    h.state = RECORD_CASE_PUBLISHED;
    h.generation = c->commit.generation;
    h.visible = c->commit.stage_upto;
    h.closing = 0;
    h.closing_request = (struct id128){0};
    h.last_request = c->req->id;
    h.objects = c->objects;
    h.bytes_stored = c->bytes_stored;
    h.committed_unix_ms = ev->committed_unix_ms;
    txn(c, ST_TXN);
    when_row(c, key(c, RECORD_HEAD), c->head_version);
    when(c, UPLOAD_ABSENT, key(c, RECORD_COMMIT), 0);
    if (new_case) {
        when_row(c, key(c, RECORD_SESSION), c->req->claim_version);
        when(c, UPLOAD_ABSENT, key(c, RECORD_CASE), 0);
        if (!put_case(c) || !put_object(c, c->index_row, c->manifest)) return;
    }
    if (put_head(c, &h)) (void)put_commit(c);
}

/* ---- a new case of one object ---- */

static void gather(struct upload_core *c)
{
    new_action(c, UPLOAD_ACT_GATHER);
    c->act.session = &c->session;
    c->act.version = c->version;
    c->act.stage = c->head.stage;
    c->act.generation = c->head.generation + 1;
    c->state = ST_GATHER;
}

/* Nothing is read first: the entry's conditions tell, and mostly they hold. */
static void publish_start(struct upload_core *c)
{
    c->tries++;
    c->used = c->mark = 0;
    c->head = (struct record_head){.stage = 1};
    c->head_version = 0;
    c->session = *c->req->one_shot;
    c->session_version = 0;
    c->version = 1;
    gather(c);
}

static void publish_gathered(struct upload_core *c, const struct upload_event *ev)
{
    c->index_row = ev->index_row;
    c->manifest = ev->manifest;
    c->session.state = RECORD_SESSION_COMPLETED;
    c->session.version = c->version;
    c->session.stage = c->head.stage;
    c->session.sealed_spec = (struct slice){0};
    c->head.stage = 2;
    c->generation = 1;
    c->objects = 1;
    c->bytes_stored = ev->index_row->size_bytes;
    c->commit = (struct record_commit){
        .request = c->req->id, .generation = 1, .stage_after = 0, .stage_upto = 1, .count = 1};
    memcpy(c->commit.root, ev->root, 32);
    new_action(c, UPLOAD_ACT_SIGN);
    c->act.generation = 1;
    c->act.count = 1;
    c->act.root = c->commit.root;
    c->state = ST_SIGN;
}

/* The entry did not take effect, or did and its answer was lost. */
static void publish_read(struct upload_core *c)
{
    if (given_up(c)) return;
    if (c->head_version == 0) { /* the case is not there, and the claim neither, or as it was */
        publish_start(c);
    } else if (c->session_version != 0 && c->session.state == RECORD_SESSION_COMPLETED &&
               memcmp(c->session.fingerprint, c->req->one_shot->fingerprint, 32) == 0) {
        old_commit(c, 1);
    } else {
        answer(c, RC_EXISTS, "there is such a case");
    }
}

/* ---- outcomes ---- */

static void got(struct upload_core *c, const struct upload_event *ev)
{
    uint32_t i = 0;
    enum upload_op op = c->req->op;

    c->tick = ev->tick;
    c->used = 0;
    if (op != UPLOAD_CHUNK && op != UPLOAD_ABORT && !take_head(c, &ev->items[i++])) return;
    if (op != UPLOAD_ENSURE && op != UPLOAD_COMMIT && !take_session(c, &ev->items[i++])) return;
    c->mark = c->used;
    switch (op) {
    case UPLOAD_ENSURE:
        ensure_read(c);
        break;
    case UPLOAD_BEGIN:
        begin_read(c, &ev->items[i]);
        break;
    case UPLOAD_CHUNK:
        chunk_read(c, &ev->items[i]);
        break;
    case UPLOAD_COMPLETE:
        complete_read(c);
        break;
    case UPLOAD_ABORT:
        abort_read(c);
        break;
    case UPLOAD_COMMIT:
        commit_read(c);
        break;
    case UPLOAD_PUBLISH:
        publish_read(c);
        break;
    }
}

/* Whoever looks for sessions that expired finds it by this row; he takes it away, too. */
static bool put_open(struct upload_core *c)
{
    struct record_list l = {c->req->anchor, c->req->now_unix_ms};
    char name[ID128_TEXT_BYTES];
    struct slice k, n = {(const uint8_t *)id128_text(&c->req->id, name), ID128_TEXT_BYTES - 1};
    struct record_out o;

    k = key_done(c, record_list_key(&record_scope_sessions, n, record_anchor_hash(&c->req->anchor),
                                    key_room(c)));
    o = out_start(c);
    return put_encoded(c, k, &o, record_list_encode(&l, &o, NULL));
}

static void made(struct upload_core *c, const struct upload_event *ev)
{
    struct record_session s = *ev->session;
    struct record_out o;
    struct slice k;

    s.state = RECORD_SESSION_OPEN;
    s.expire_tick = c->tick + s.ttl_ticks;
    memcpy(s.fingerprint, c->req->fingerprint, 32);
    txn(c, ST_TXN);
    when(c, UPLOAD_VERSION, key(c, RECORD_HEAD), c->head_version);
    when(c, UPLOAD_ABSENT, key(c, RECORD_SESSION), 0);
    k = key(c, RECORD_SESSION);
    o = out_start(c);
    if (!put_encoded(c, k, &o, record_session_encode(&s, &o, NULL))) return;
    if (!put_open(c)) return;
    /* Answered from the row's own bytes: the shell's copy need not outlive the step. */
    CHECK(record_session_decode(record_out_slice(&o), &c->session, NULL) == RC_OK);
}

static void gathered(struct upload_core *c, const struct upload_event *ev)
{
    bool one = c->req->one_shot != NULL;

    if (c->req->op == UPLOAD_PUBLISH) {
        publish_gathered(c, ev);
        return;
    }
    c->session.state = RECORD_SESSION_COMPLETED;
    c->session.version = c->version;
    c->session.stage = ev->index_row->stage;
    c->session.sealed_spec = (struct slice){0};
    txn(c, ST_TXN);
    when(c, UPLOAD_VERSION, key(c, RECORD_HEAD), c->head_version);
    when_row(c, key(c, RECORD_SESSION), c->session_version);
    when(c, UPLOAD_ABSENT, key(c, RECORD_INDEX), 0);
    if (!one) when(c, UPLOAD_TICK_AT_MOST, (struct slice){0}, c->session.expire_tick);
    if (ev->index_row->stage != c->head.stage && ev->index_row->stage != RECORD_STAGE_QUARANTINE) {
        answer(c, RC_INTERNAL, "the index row was made for another stage");
        return;
    }
    (void)put_object(c, ev->index_row, ev->manifest);
}

static void txn_done(struct upload_core *c, const struct upload_event *ev)
{
    switch (ev->rc) {
    case RC_OK:
        break;
    case RC_DEADLINE:
    case RC_UNAVAIL:
    case RC_IO:
    case RC_STALE: /* sent to the wrong node: the shell finds the right one */
        c->act.retry = true;
        return;
    case RC_ABORTED: /* fell out of the window: it ran, or never will; the rows tell */
        read_rows(c);
        return;
    default:
        answer(c, ev->rc, ev->msg);
        return;
    }
    if (c->state == ST_REOPEN) {
        answer(c, RC_PRECOND, "count or Merkle root differ from what is staged");
    } else if (!ev->succeeded) {
        read_rows(c);
    } else if (c->state == ST_CLOSE) {
        c->head_version = ev->index;
        sum(c);
    } else {
        answer(c, RC_OK, NULL);
    }
}

void upload_start(struct upload_core *c, const struct upload_request *req, uint8_t *mem,
                  size_t mem_bytes, struct upload_action *ret)
{
    CHECK(mem_bytes >= UPLOAD_MEM_BYTES);
    memset(c, 0, sizeof(*c));
    c->req = req;
    c->mem = mem;
    c->mem_n = mem_bytes;
    if (req->op == UPLOAD_ENSURE || req->op == UPLOAD_PUBLISH) CHECK(req->new_case != NULL);
    if (req->op == UPLOAD_PUBLISH) {
        CHECK(req->one_shot != NULL);
        publish_start(c);
    } else {
        read_rows(c);
    }
    *ret = c->act;
}

void upload_step(struct upload_core *c, const struct upload_event *ev, struct upload_action *ret)
{
    static const int waits[][3] = {
        {UPLOAD_EV_GOT, ST_READ, ST_OLD_COMMIT},
        {UPLOAD_EV_NEWEST, ST_NEWEST, 0},
        {UPLOAD_EV_MADE, ST_MAKE, 0},
        {UPLOAD_EV_WRITTEN, ST_WRITE, 0},
        {UPLOAD_EV_GATHERED, ST_GATHER, 0},
        {UPLOAD_EV_SUMMED, ST_SUM, 0},
        {UPLOAD_EV_SIGNED, ST_SIGN, 0},
    };

    if (ev->type == UPLOAD_EV_TXN) {
        CHECK(c->act.type == UPLOAD_ACT_TXN);
        txn_done(c, ev);
        *ret = c->act;
        return;
    }
    for (size_t i = 0; i < ARRAY_N(waits); i++) {
        if (waits[i][0] == (int)ev->type) CHECK(c->state == waits[i][1] || c->state == waits[i][2]);
    }
    if (ev->rc != RC_OK) {
        answer(c, ev->rc, ev->msg);
        *ret = c->act;
        return;
    }
    switch (ev->type) {
    case UPLOAD_EV_GOT:
        if (c->state == ST_OLD_COMMIT) {
            old_commit_got(c, &ev->items[0]);
        } else {
            got(c, ev);
        }
        break;
    case UPLOAD_EV_NEWEST:
        c->version = MAX(ev->newest, c->head.version_floor) + 1;
        gather(c);
        break;
    case UPLOAD_EV_MADE:
        made(c, ev);
        break;
    case UPLOAD_EV_WRITTEN:
        c->written = true;
        c->seal_id = ev->seal_id;
        chunk_txn(c);
        break;
    case UPLOAD_EV_GATHERED:
        gathered(c, ev);
        break;
    case UPLOAD_EV_SUMMED:
        summed(c, ev);
        break;
    case UPLOAD_EV_SIGNED:
        sealed_receipt(c, ev);
        break;
    case UPLOAD_EV_TXN:
        break;
    }
    *ret = c->act;
}

enum rc upload_bitmap_add(struct slice chunk_key, uint32_t chunks, uint8_t *bitmap)
{
    uint64_t i;

    if (chunk_key.n != 2 + RECORD_ANCHOR_BYTES + 20 ||
        record_key_parse_number(chunk_key, &i) != RC_OK || i >= chunks) {
        return RC_CORRUPT;
    }
    bitmap[i / 8] = (uint8_t)(bitmap[i / 8] | 1u << (i % 8));
    return RC_OK;
}

enum rc upload_chunk_count(uint64_t size_bytes, uint32_t chunk_bytes, uint32_t *ret_chunks)
{
    uint64_t n;

    if (chunk_bytes == 0) return RC_INVAL;
    n = size_bytes / chunk_bytes + (size_bytes % chunk_bytes != 0);
    if (n > UINT32_MAX) return RC_INVAL;
    *ret_chunks = (uint32_t)n;
    return RC_OK;
}

uint32_t upload_chunk_length(const struct record_session *s, uint32_t index)
{
    uint64_t from = (uint64_t)index * s->chunk_bytes;

    CHECK(from < s->size_bytes);
    return (uint32_t)MIN((uint64_t)s->chunk_bytes, s->size_bytes - from);
}
