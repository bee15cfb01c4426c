/* storaged/service/store_rpc.c - mikura.internal.v1.Store: proposals and reads of a group at its
 * primary.
 *
 * `mikura-epoch` goes with every refusal whose reason is the group (not primary, no lease, another
 * epoch): the caller then looks at its map and asks again. A refusal of the request itself has
 * none. */
#include "common/base/clock.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS_MAX 60000u

typedef Mikura__Internal__V1__GroupRef GroupRef;
typedef Mikura__Internal__V1__Item Item;

/* ---- groups and refusals ---- */
static enum rc refuse(struct fcall *c, const struct sd_group *g, enum rc rc, struct err *reterr)
{
    char epoch[24];

    (void)snprintf(epoch, sizeof epoch, "%" PRIu64, g == NULL || !g->ready ? 0 : g->core.epoch);
    fcall_trailer(c, "mikura-epoch", epoch);
    if (rc == RC_STALE)
        return err_set(reterr, RC_STALE, "not the primary of this group (epoch %s)", epoch);
    if (rc == RC_UNAVAIL)
        return err_set(reterr, RC_UNAVAIL,
                       "group %s can't answer now (no lease, or too few replicas in sync); retry",
                       g == NULL ? "?" : g->name);
    return err_set(reterr, rc, "%s", rc_text(rc));
}

static enum rc group_for(struct fcall *c, const GroupRef *ref, struct sd_group **ret_g,
                         struct err *reterr)
{
    struct sd *sd = c->service;
    struct sd_group *g;

    if (ref == NULL) return err_set(reterr, RC_INVAL, "no group");
    g = group_of_hash(sd, ref->pool, ref->placement_hash);
    if (g == NULL || !g->ready || g->dead) return refuse(c, NULL, RC_STALE, reterr);
    if (ref->epoch > g->core.epoch) { /* the caller knows more: look */
        group_read_config(g);
        return refuse(c, g, RC_STALE, reterr);
    }
    *ret_g = g;
    return RC_OK;
}

/* An entry through the log; its outcome. Fiber. */
static enum rc propose(struct fcall *c, struct sd_group *g, const struct apply_entry *e,
                       struct apply_outcome *ret, struct err *reterr)
{
    enum rc rc = group_run(g, e, fcall_left_ms(c, WAIT_MS_MAX), ret, reterr);

    return rc == RC_OK || rc == RC_BUSY || rc == RC_INVAL || rc == RC_NOMEM || rc == RC_DEADLINE
               ? rc
               : refuse(c, g, rc, reterr);
}

static enum rc request_key(const Mikura__Internal__V1__RequestKey *k, struct apply_entry *e,
                           struct err *reterr)
{
    if (k == NULL || !id128_from_bytes(k->client_id.data, k->client_id.len, &e->client) ||
        id128_is_zero(&e->client) || k->sequence == 0)
        return err_set(reterr, RC_INVAL, "request: client_id of 16 bytes, sequence from 1");
    e->sequence = k->sequence;
    return RC_OK;
}

/* ---- reads of the state ---- */
struct get_job {
    struct sd_group *g;
    const ProtobufCBinaryData *keys, *prefixes;
    size_t keys_n, prefixes_n;
    struct buf *values; /* of keys, then of prefixes */
    struct buf *firsts; /* keys found for prefixes */
    uint64_t applied, tick;
    struct err err;
};

static enum rc get_one(struct get_job *j, struct index *ix, size_t i)
{
    bool prefix = i >= j->keys_n;
    const ProtobufCBinaryData *user = prefix ? &j->prefixes[i - j->keys_n] : &j->keys[i];
    uint8_t k[APPLY_MAPKEY_BYTES_MAX];
    struct slice key = {k, apply_user_key((struct slice){user->data, user->len}, k)};
    struct buf *first = prefix ? &j->firsts[i - j->keys_n] : NULL;
    enum rc rc;

    buf_deinit(&j->values[i]); /* of the first look */
    buf_init(&j->values[i], APPLY_SCRATCH_BYTES);
    if (prefix) {
        buf_deinit(first);
        buf_init(first, APPLY_MAPKEY_BYTES_MAX);
        rc = index_state_first(ix, &j->g->ix, key, first, &j->values[i], &j->err);
    } else {
        rc = index_state_get(ix, &j->g->ix, key, &j->values[i], &j->err);
    }
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

static enum rc get_look(void *arg, struct index *ix)
{
    struct get_job *j = arg;
    struct index_applied at = {0};
    uint8_t key = 't';
    struct buf tick;
    size_t bytes = 0;
    enum rc rc = index_applied_get(ix, &j->g->ix, &at, &j->err);

    j->applied = at.index;
    j->tick = 0;
    for (size_t i = 0; i < j->keys_n + j->prefixes_n && rc == RC_OK; i++) {
        rc = get_one(j, ix, i);
        bytes += j->values[i].n;
        if (bytes > SD_GET_BYTES_MAX)
            rc = err_set(&j->err, RC_RANGE, "more than %u bytes: ask for fewer keys",
                         SD_GET_BYTES_MAX);
    }
    if (rc != RC_OK) return rc;
    buf_init(&tick, 64);
    rc = index_state_get(ix, &j->g->ix, (struct slice){&key, 1}, &tick, &j->err);
    if (rc == RC_OK && tick.n == 9) j->tick = le_get64(tick.p + 1);
    buf_deinit(&tick);
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

static enum rc keys_check(const ProtobufCBinaryData *keys, size_t n, struct err *reterr)
{
    if (n > SD_GET_KEYS_MAX)
        return err_set(reterr, RC_INVAL, "%zu keys, at most %u", n, SD_GET_KEYS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (keys[i].len == 0 || keys[i].len > APPLY_KEY_BYTES_MAX)
            return err_set(reterr, RC_INVAL, "key %zu has %zu bytes", i, keys[i].len);
    }
    return RC_OK;
}

/* Items in the arena. */
static enum rc get_items(struct arena *a, struct get_job *j, Item ***ret_items, struct err *reterr)
{
    size_t n = j->keys_n + j->prefixes_n;
    Item **items = arena_alloc(a, (n + 1) * sizeof *items);
    enum rc rc;

    j->values = calloc(n + 1, sizeof *j->values);
    j->firsts = calloc(j->prefixes_n + 1, sizeof *j->firsts);
    if (items == NULL || j->values == NULL || j->firsts == NULL) {
        free(j->values);
        free(j->firsts);
        return err_set(reterr, RC_NOMEM, "a read");
    }
    rc = disk_look(j->g->disk, get_look, j);
    if (rc != RC_OK) (void)err_set(reterr, rc, "%s", j->err.msg);
    for (size_t i = 0; i < n && rc == RC_OK; i++) {
        struct slice value = {0};
        Item *it = arena_alloc(a, sizeof *it);

        if (it == NULL) {
            rc = err_set(reterr, RC_NOMEM, "a read");
            break;
        }
        mikura__internal__v1__item__init(it);
        items[i] = it;
        if (i < j->keys_n) it->key = j->keys[i];
        if (j->values[i].n == 0) continue;
        if (i >= j->keys_n) { /* without the byte that marks users' keys */
            const struct buf *k = &j->firsts[i - j->keys_n];

            it->key.len = k->n - 1;
            it->key.data = arena_copy(a, k->p + 1, k->n - 1);
            if (it->key.data == NULL) rc = err_set(reterr, RC_NOMEM, "a read");
            if (rc != RC_OK) break;
        }
        rc = apply_user_value((struct slice){j->values[i].p, j->values[i].n}, &it->version, &value);
        if (rc != RC_OK) {
            (void)err_set(reterr, rc, "a stored value does not decode");
            break;
        }
        it->value.data = arena_copy(a, value.p, value.n);
        it->value.len = value.n;
        if (it->value.data == NULL && value.n > 0) rc = err_set(reterr, RC_NOMEM, "a read");
    }
    for (size_t i = 0; i < n; i++)
        buf_deinit(&j->values[i]);
    for (size_t i = 0; i < j->prefixes_n; i++)
        buf_deinit(&j->firsts[i]);
    free(j->values);
    free(j->firsts);
    *ret_items = items;
    return rc;
}

/* ---- methods ---- */
enum rc txn_entry(struct arena *a, const Mikura__Internal__V1__TxnRequest *q, struct apply_entry *e,
                  struct err *reterr)
{
    struct apply_compare *compares = arena_alloc(a, (q->n_compares + 1) * sizeof *compares);
    struct apply_put *puts = arena_alloc(a, (q->n_puts + 1) * sizeof *puts);
    struct slice *deletes = arena_alloc(a, (q->n_deletes + 1) * sizeof *deletes);
    enum rc rc = keys_check(q->read_on_failure, q->n_read_on_failure, reterr);

    if (rc != RC_OK) return rc;
    if (compares == NULL || puts == NULL || deletes == NULL)
        return err_set(reterr, RC_NOMEM, "a transaction");
    if (q->n_compares > APPLY_COMPARES_MAX || q->n_puts > APPLY_PUTS_MAX ||
        q->n_deletes > APPLY_DELETES_MAX)
        return err_set(reterr, RC_INVAL, "%zu compares, %zu puts, %zu deletes: too many",
                       q->n_compares, q->n_puts, q->n_deletes);
    for (size_t i = 0; i < q->n_compares; i++) {
        const Mikura__Internal__V1__Compare *k = q->compares[i];

        if (k->kind < MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT ||
            k->kind > MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_TICK_AT_MOST)
            return err_set(reterr, RC_INVAL, "compare %zu has no known kind", i);
        /* the numbers of apply_core.h are those of store.proto */
        compares[i] = (struct apply_compare){.kind = (enum apply_compare_kind)k->kind,
                                             .key = {k->key.data, k->key.len},
                                             .value = {k->value.data, k->value.len},
                                             .number = k->number};
    }
    for (size_t i = 0; i < q->n_puts; i++)
        puts[i] = (struct apply_put){{q->puts[i]->key.data, q->puts[i]->key.len},
                                     {q->puts[i]->value.data, q->puts[i]->value.len}};
    for (size_t i = 0; i < q->n_deletes; i++)
        deletes[i] = (struct slice){q->deletes[i].data, q->deletes[i].len};
    e->compares = compares;
    e->puts = puts;
    e->deletes = deletes;
    e->compares_n = (uint32_t)q->n_compares;
    e->puts_n = (uint32_t)q->n_puts;
    e->deletes_n = (uint32_t)q->n_deletes;
    return request_key(q->request, e, reterr);
}

/* Too little room for new bytes; what only deletes may go on. A few entries more than the last look
 * allowed are what the log's own reserve is for. */
#define ROOM_MS 100u
enum rc txn_room(struct sd_group *g, bool deletes_only, struct err *reterr)
{
    uint64_t now_ms = clock_boot_ms();
    struct store_status st;

    if (deletes_only || now_ms < g->disk->room_until_ms) return RC_OK;
    store_status(g->disk->store, &st);
    if (st.log.entry_free_bytes > 2 * (uint64_t)SEGLOG_ENTRY_BYTES_MAX) {
        g->disk->room_until_ms = now_ms + ROOM_MS;
        return RC_OK;
    }
    return err_set(reterr, RC_FULL, "disk %s is nearly full: add a disk, or delete", g->disk->dir);
}

enum rc txn_answer(struct sd_group *g, struct arena *a, const Mikura__Internal__V1__TxnRequest *q,
                   const struct apply_outcome *out, Mikura__Internal__V1__TxnResponse *ret,
                   struct err *reterr)
{
    /* of a state at or after the entry, committed: what the caller may base its next try on */
    struct get_job j = {.g = g, .keys = q->read_on_failure, .keys_n = q->n_read_on_failure};
    enum rc rc;

    ret->succeeded = out->succeeded;
    ret->index = out->index;
    ret->tick = out->tick;
    ret->failed_compare = out->failed_compare;
    if (out->succeeded || j.keys_n == 0) return RC_OK;
    rc = get_items(a, &j, &ret->items, reterr);
    if (rc == RC_OK) ret->n_items = j.keys_n;
    return rc;
}

static enum rc do_txn(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__TxnRequest *q;
    Mikura__Internal__V1__TxnResponse a = MIKURA__INTERNAL__V1__TXN_RESPONSE__INIT;
    struct apply_entry e = {.kind = APPLY_TXN};
    struct apply_outcome out;
    struct sd_group *g;
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__txn_request__descriptor, (void *)&q, reterr);

    if (rc == RC_OK) rc = txn_entry(&c->arena, q, &e, reterr);
    if (rc == RC_OK) rc = group_for(c, q->group, &g, reterr);
    if (rc == RC_OK) rc = txn_room(g, e.puts_n == 0, reterr);
    if (rc == RC_OK) rc = propose(c, g, &e, &out, reterr);
    if (rc != RC_OK) return rc;
    if (out.rc != RC_OK) {
        return err_set(reterr, out.rc == RC_STALE ? RC_PRECOND : out.rc,
                       "older than the client's window: not executed");
    }
    rc = txn_answer(g, &c->arena, q, &out, &a, reterr);
    return rc != RC_OK ? rc : fcall_send(c, &a.base);
}

static enum rc do_get(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__GetRequest *q;
    Mikura__Internal__V1__GetResponse a = MIKURA__INTERNAL__V1__GET_RESPONSE__INIT;
    struct get_job j = {0};
    struct sd_group *g;
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__get_request__descriptor, (void *)&q, reterr);

    if (rc == RC_OK) rc = keys_check(q->keys, q->n_keys, reterr);
    if (rc == RC_OK) rc = keys_check(q->prefixes, q->n_prefixes, reterr);
    if (rc == RC_OK) rc = group_for(c, q->group, &g, reterr);
    if (rc != RC_OK) return rc;
    rc = replica_may_read(&g->core, clock_boot_ms());
    if (rc != RC_OK) return refuse(c, g, rc, reterr);
    j = (struct get_job){.g = g,
                         .keys = q->keys,
                         .prefixes = q->prefixes,
                         .keys_n = q->n_keys,
                         .prefixes_n = q->n_prefixes};
    rc = get_items(&c->arena, &j, &a.items, reterr);
    if (rc != RC_OK) return rc;
    a.n_items = j.keys_n + j.prefixes_n;
    a.applied_index = j.applied;
    a.tick = j.tick;
    rc = g->dead ? RC_STALE : replica_may_read(&g->core, clock_boot_ms()); /* (5) */
    return rc != RC_OK ? refuse(c, g, rc, reterr) : fcall_send(c, &a.base);
}

/* Rows of a page as items; *left counts down the caller's limit. */
static enum rc scan_page(struct fcall *c, struct sd_group *g, const struct pager_page *page,
                         bool keys_only, uint32_t *left, struct err *reterr)
{
    Mikura__Internal__V1__ScanResponse r = MIKURA__INTERNAL__V1__SCAN_RESPONSE__INIT;
    struct slice rows = {page->p, page->n}, k, v;
    size_t at = 0, n = 0;
    Item *items;
    enum rc rc;

    while ((rc = replica_row_next(rows, &at, &k, &v)) == RC_OK)
        n++;
    if (rc != RC_NOTFOUND) return err_set(reterr, rc, "a page");
    n = MIN(n, *left);
    items = calloc(n + 1, sizeof *items);
    r.items = calloc(n + 1, sizeof *r.items);
    rc = items == NULL || r.items == NULL ? err_set(reterr, RC_NOMEM, "a page") : RC_OK;
    for (at = 0; r.n_items < n && rc == RC_OK; r.n_items++) {
        Item *it = &items[r.n_items];
        struct slice value;

        CHECK(replica_row_next(rows, &at, &k, &v) == RC_OK);
        mikura__internal__v1__item__init(it);
        r.items[r.n_items] = it;
        rc = apply_user_value(v, &it->version, &value);
        if (rc != RC_OK) (void)err_set(reterr, rc, "a stored value does not decode");
        it->key = (ProtobufCBinaryData){k.n - 1, (uint8_t *)(uintptr_t)(k.p + 1)};
        if (!keys_only) it->value = (ProtobufCBinaryData){value.n, (uint8_t *)(uintptr_t)value.p};
    }
    r.applied_index = page->index;
    if (rc == RC_OK) {
        rc = g->dead ? RC_STALE : replica_may_read(&g->core, clock_boot_ms()); /* (5) */
        if (rc != RC_OK) (void)refuse(c, g, rc, reterr);
    }
    if (rc == RC_OK) rc = fcall_send(c, &r.base);
    *left -= (uint32_t)n;
    free(items);
    free(r.items);
    return rc;
}

static enum rc do_scan(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__ScanRequest *q;
    uint8_t from[APPLY_MAPKEY_BYTES_MAX], until[APPLY_MAPKEY_BYTES_MAX];
    uint32_t from_n, until_n, left;
    const struct pager_page *page;
    struct pager *p;
    struct sd_group *g;
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__scan_request__descriptor, (void *)&q, reterr);

    if (rc == RC_OK && (q->from.len > APPLY_KEY_BYTES_MAX || q->until.len > APPLY_KEY_BYTES_MAX))
        rc = err_set(reterr, RC_INVAL, "a key of more than %u bytes", APPLY_KEY_BYTES_MAX);
    if (rc == RC_OK) rc = group_for(c, q->group, &g, reterr);
    if (rc != RC_OK) return rc;
    rc = replica_may_read(&g->core, clock_boot_ms());
    if (rc != RC_OK) return refuse(c, g, rc, reterr);
    from_n = apply_user_key((struct slice){q->from.data, q->from.len}, from);
    until_n = apply_user_key((struct slice){q->until.data, q->until.len}, until);
    if (q->until.len == 0) until[0]++; /* past all users' keys, whose rows begin with that byte */
    left = q->limit == 0 ? UINT32_MAX : q->limit;
    rc = pager_open(g, (struct slice){from, from_n}, (struct slice){until, until_n}, &p);
    if (rc != RC_OK) return err_set(reterr, rc, "too many scans at once; retry");
    do {
        pager_next(p, &page);
        rc = page->rc;
        if (rc != RC_OK) {
            (void)err_set(reterr, rc, "%s", page->err.msg);
            break;
        }
        rc = scan_page(c, g, page, q->keys_only, &left, reterr);
    } while (rc == RC_OK && !page->done && left > 0);
    pager_close(p);
    return rc;
}

/* Rule 6: the bytes are durable here before the entry is proposed; if a chain missed this node,
 * another member has them. */
static enum rc bytes_here(struct sd_group *g, const struct apply_chunk *k, struct err *reterr)
{
    struct group_set members = g->core.cfg.in_sync;
    struct index_chunk_id id = {k->body, k->index, k->seal_id};
    struct index_chunk found;
    enum rc rc = chunk_held(g, &id, &found, reterr);

    for (uint32_t i = 0; i < members.n && rc != RC_OK && rc != RC_IO; i++) {
        if (!id128_eq(&members.disks[i], &g->disk->id))
            rc = chunk_ensure(g, k, &members.disks[i], reterr);
    }
    if (rc == RC_OK) rc = chunk_held(g, &id, &found, reterr);
    if (rc == RC_IO) return rc;
    if (rc != RC_OK && chunk_decided(g, k)) return RC_OK; /* the entry's outcome says how */
    if (rc != RC_OK)
        return err_set(reterr, RC_NOTFOUND, "the bytes of this chunk are not here: write them");
    if (found.loc.plain_bytes != k->plain_bytes ||
        memcmp(found.plain_digest, k->plain_digest, sizeof k->plain_digest) != 0)
        return err_set(reterr, RC_INVAL, "the record has %u bytes or another digest",
                       found.loc.plain_bytes);
    return RC_OK;
}

enum rc chunk_add_rc(const struct apply_outcome *out, struct err *reterr)
{
    /* a stored outcome has gRPC's number only */
    enum rc rc = out->rc == RC_STALE ? RC_PRECOND : out->rc;

    if (rc == RC_OK) return RC_OK;
    return err_set(reterr, rc, "%s",
                   rc == RC_EXISTS    ? "other content is there under this identity"
                   : rc == RC_PRECOND ? "this chunk was dropped; an id is never used again"
                                      : "older than the client's window: not executed");
}

static enum rc do_chunk_add(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__ChunkAddRequest *q;
    Mikura__Internal__V1__ChunkAddResponse a = MIKURA__INTERNAL__V1__CHUNK_ADD_RESPONSE__INIT;
    struct apply_entry e = {0};
    struct apply_outcome out;
    struct index_chunk_id id;
    struct stray_id stray;
    struct sd_group *g;
    bool held = false;
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__chunk_add_request__descriptor, (void *)&q, reterr);

    if (rc == RC_OK) rc = chunk_ref_decode(q->chunk, !q->drop, &id, reterr);
    if (rc == RC_OK) rc = request_key(q->request, &e, reterr);
    if (rc != RC_OK) return rc;
    e.kind = q->drop ? APPLY_CHUNK_DROP : APPLY_CHUNK_ADD;
    e.chunk = (struct apply_chunk){.body = id.body,
                                   .index = id.index,
                                   .seal_id = id.seal_id,
                                   .plain_bytes = q->plain_bytes,
                                   .owner_hash = q->owner_hash};
    if (!q->drop && (q->plain_digest.len != sizeof e.chunk.plain_digest || q->plain_bytes == 0 ||
                     q->plain_bytes > RECORD_PAYLOAD_BYTES_MAX))
        return err_set(reterr, RC_INVAL, "plain_bytes or plain_digest");
    if (q->plain_digest.len == sizeof e.chunk.plain_digest)
        memcpy(e.chunk.plain_digest, q->plain_digest.data, sizeof e.chunk.plain_digest);
    if (q->upload_id.len != 0 &&
        !id128_from_bytes(q->upload_id.data, q->upload_id.len, &e.chunk.upload_id))
        return err_set(reterr, RC_INVAL, "upload_id is not 16 bytes");
    rc = group_for(c, q->group, &g, reterr);
    if (rc != RC_OK) return rc;
    e.chunk.placement_hash = q->group->placement_hash;
    stray = (struct stray_id){id.body, id.seal_id, id.index};
    rc = replica_may_write(&g->core);
    if (rc == RC_BUSY) return err_set(reterr, rc, "too many requests of this group under way");
    if (rc != RC_OK) return refuse(c, g, rc, reterr);
    while (!q->drop && !held) { /* the same step proposes */
        uint64_t mark = stray_mark(&g->disk->stray);

        rc = bytes_here(g, &e.chunk, reterr);
        if (rc != RC_OK) return rc;
        held = stray_still(&g->disk->stray, &stray, mark);
    }
    rc = propose(c, g, &e, &out, reterr);
    if (rc != RC_OK) return rc;
    rc = chunk_add_rc(&out, reterr);
    if (rc != RC_OK) return rc;
    a.seal_id = (ProtobufCBinaryData){16, out.seal_id.b};
    a.index = out.index;
    return fcall_send(c, &a.base);
}

/* ---- the list of chunks ---- */
static enum rc chunk_row_take(struct fcall *c, const Mikura__Internal__V1__ChunkListRequest *q,
                              struct slice value, Mikura__Internal__V1__ChunkListResponse *a,
                              struct err *reterr)
{
    Mikura__Internal__V1__ChunkRow *r;
    struct apply_chunk chunk;
    uint64_t index;
    bool dropped;
    enum rc rc = apply_chunk_row(value, &chunk, &dropped, &index);

    if (rc != RC_OK) return err_set(reterr, rc, "a chunk's row does not decode");
    if (dropped || index <= q->above || index > q->upto) return RC_OK;
    r = arena_alloc(&c->arena, sizeof *r);
    if (r == NULL) return err_set(reterr, RC_NOMEM, "a list of chunks");
    mikura__internal__v1__chunk_row__init(r);
    r->placement_hash = chunk.placement_hash;
    r->body = (ProtobufCBinaryData){16, arena_copy(&c->arena, chunk.body.b, 16)};
    r->index = chunk.index;
    r->owner_hash = chunk.owner_hash;
    r->upload_id = (ProtobufCBinaryData){16, arena_copy(&c->arena, chunk.upload_id.b, 16)};
    r->log_index = index;
    if (r->body.data == NULL || r->upload_id.data == NULL)
        return err_set(reterr, RC_NOMEM, "a list of chunks");
    a->rows[a->n_rows++] = r;
    return RC_OK;
}

static enum rc chunk_page_take(struct fcall *c, const Mikura__Internal__V1__ChunkListRequest *q,
                               const struct pager_page *page,
                               Mikura__Internal__V1__ChunkListResponse *a, struct err *reterr)
{
    struct slice rows = {page->p, page->n}, k, v, last = {0};
    size_t at = 0;
    enum rc rc = RC_OK;

    while (rc == RC_OK && a->n_rows < q->limit &&
           (rc = replica_row_next(rows, &at, &k, &v)) == RC_OK) {
        last = k;
        rc = chunk_row_take(c, q, v, a, reterr);
    }
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    a->done = rc == RC_NOTFOUND && page->done;
    if (last.n == 0) return RC_OK;
    a->next = (ProtobufCBinaryData){last.n, arena_copy(&c->arena, last.p, last.n)};
    return a->next.data == NULL ? err_set(reterr, RC_NOMEM, "a list of chunks") : RC_OK;
}

static enum rc do_chunk_list(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__ChunkListRequest *q;
    Mikura__Internal__V1__ChunkListResponse a = MIKURA__INTERNAL__V1__CHUNK_LIST_RESPONSE__INIT;
    uint8_t from[APPLY_CHUNK_KEY_BYTES + 1] = {'c'};
    const uint8_t until = 'd';
    struct slice first = {from, 1};
    const struct pager_page *page;
    struct sd_group *g;
    struct pager *p;
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__chunk_list_request__descriptor, (void *)&q, reterr);

    if (rc == RC_OK && (q->limit == 0 || q->limit > SD_CHUNK_LIST_MAX))
        rc = err_set(reterr, RC_INVAL, "limit: 1 to %u", SD_CHUNK_LIST_MAX);
    if (rc == RC_OK && q->after.len != 0 &&
        (q->after.len != APPLY_CHUNK_KEY_BYTES || q->after.data[0] != 'c'))
        rc = err_set(reterr, RC_INVAL, "after: not a chunk's key");
    if (rc == RC_OK) rc = group_for(c, q->group, &g, reterr);
    if (rc != RC_OK) return rc;
    rc = replica_may_read(&g->core, clock_boot_ms());
    if (rc != RC_OK) return refuse(c, g, rc, reterr);
    a.rows = arena_alloc(&c->arena, q->limit * sizeof *a.rows);
    if (a.rows == NULL) return err_set(reterr, RC_NOMEM, "a list of chunks");
    if (q->after.len != 0) { /* the key behind it: with a zero byte */
        memcpy(from, q->after.data, q->after.len);
        first.n = sizeof from;
    }
    rc = pager_open(g, first, (struct slice){&until, 1}, &p);
    if (rc != RC_OK) return err_set(reterr, rc, "too many scans at once; retry");
    /* pages without a match are passed over, but not for ever: the caller has a deadline */
    for (uint32_t n = 0; n < SD_CHUNK_LIST_PAGES && rc == RC_OK && !a.done && a.n_rows < q->limit;
         n++) {
        pager_next(p, &page);
        rc = page->rc;
        if (rc != RC_OK) (void)err_set(reterr, rc, "%s", page->err.msg);
        if (rc == RC_OK) rc = chunk_page_take(c, q, page, &a, reterr);
    }
    pager_close(p);
    if (rc != RC_OK) return rc;
    rc = g->dead ? RC_STALE : replica_may_read(&g->core, clock_boot_ms()); /* (5) */
    return rc != RC_OK ? refuse(c, g, rc, reterr) : fcall_send(c, &a.base);
}

static void upkeep_status(const struct sd_disk *d, const struct store_status *st,
                          Mikura__Internal__V1__DiskStatus *m)
{
    struct scrub_stats s = {0};

    if (d->scrub != NULL) scrub_stats(d->scrub, &s);
    m->live_bytes = st->index.live_bytes;
    m->quarantined = st->index.quarantined_n;
    m->scrub_pass = s.pass;
    m->scrub_running = s.running;
    m->scrub_done_bytes = s.done_bytes;
    m->scrub_total_bytes = s.total_bytes;
    m->scrub_end_unix_ms = s.end_unix_ms;
}

static enum rc compared_list(struct fcall *c, Mikura__Internal__V1__NodeStatusResponse *a,
                             struct err *reterr)
{
    struct sd *sd = c->service;
    Mikura__Internal__V1__GroupCompared *all;

    a->compared = arena_alloc(&c->arena, (sd->groups_n + 1) * sizeof *a->compared);
    all = arena_alloc(&c->arena, (sd->groups_n + 1) * sizeof *all);
    if (a->compared == NULL || all == NULL) return err_set(reterr, RC_NOMEM, "a status");
    LIST_FOREACH(it, &sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);
        Mikura__Internal__V1__GroupCompared *m = &all[a->n_compared];

        if (!g->ready || g->dead || replica_role(&g->core) != REPLICA_PRIMARY ||
            g->compare.unix_ms == 0 || a->n_compared == sd->groups_n)
            continue;
        mikura__internal__v1__group_compared__init(m);
        m->pool = g->id.pool;
        m->prefix_bits = g->id.prefix_bits;
        m->prefix = g->id.prefix;
        m->unix_ms = g->compare.unix_ms;
        m->difference = g->compare.difference;
        a->compared[a->n_compared++] = m;
    }
    return RC_OK;
}

static enum rc do_node_status(struct fcall *c, struct err *reterr)
{
    struct sd *sd = c->service;
    Mikura__Internal__V1__NodeStatusRequest *q;
    Mikura__Internal__V1__NodeStatusResponse a = MIKURA__INTERNAL__V1__NODE_STATUS_RESPONSE__INIT;
    Mikura__Internal__V1__DiskStatus disks[SD_DISKS_MAX], *list[SD_DISKS_MAX];
    enum rc rc = fcall_request(c, &mikura__internal__v1__node_status_request__descriptor,
                               (void *)&q, reterr);

    if (rc != RC_OK) return rc;
    a.node = (ProtobufCBinaryData){16, sd->node_id.b};
    a.boot_id = (ProtobufCBinaryData){16, sd->boot_id.b};
    a.version = arena_str(&c->arena, "%s", MIKURA_VERSION);
    a.disks = list;
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct sd_disk *d = &sd->disks[i];
        struct store_status st;

        store_status(d->store, &st);
        mikura__internal__v1__disk_status__init(&disks[i]);
        list[i] = &disks[i];
        disks[i].id = (ProtobufCBinaryData){16, d->id.b};
        disks[i].path = d->dir;
        disks[i].total_bytes = st.log.total_bytes;
        disks[i].used_bytes = st.log.total_bytes - MIN(st.log.free_bytes, st.log.total_bytes);
        disks[i].engine = arena_str(&c->arena, "%s", st.engine);
        disks[i].engine_reason = arena_str(&c->arena, "%s", st.engine_reason);
        disks[i].state = arena_str(&c->arena, "%s",
                                   d->out       ? (st.rc != RC_OK ? st.err.msg : "out")
                                   : d->damaged ? "damaged: its replicas are rebuilt from others"
                                   : d->full || st.log.chunk_free_bytes < SD_FULL_BYTES ? "full"
                                                                                        : "ok");
        disks[i].groups = d->groups_n;
        upkeep_status(d, &st, &disks[i]);
        if (disks[i].engine == NULL || disks[i].engine_reason == NULL || disks[i].state == NULL)
            return err_set(reterr, RC_NOMEM, "a status");
    }
    for (uint32_t i = 0; i < sd->dark_n; i++) { /* without an id: it could not be asked */
        struct sd_dark *k = &sd->dark[i];
        Mikura__Internal__V1__DiskStatus *s = &disks[sd->disks_n + i];

        mikura__internal__v1__disk_status__init(s);
        list[sd->disks_n + i] = s;
        s->path = k->dir;
        s->state = arena_str(&c->arena, "%s", k->err.msg);
        if (s->state == NULL) return err_set(reterr, RC_NOMEM, "a status");
    }
    a.n_disks = sd->disks_n + sd->dark_n;
    if (a.version == NULL) return err_set(reterr, RC_NOMEM, "a status");
    rc = compared_list(c, &a, reterr);
    return rc != RC_OK ? rc : fcall_send(c, &a.base);
}

#define BYTES_MAX (4u << 20) /* an entry and its frame */
const struct fcall_method SD_STORE_METHODS[] = {
    {"/mikura.internal.v1.Store/Txn", false, BYTES_MAX, do_txn},
    {"/mikura.internal.v1.Store/Get", false, BYTES_MAX, do_get},
    {"/mikura.internal.v1.Store/Scan", false, 0, do_scan},
    {"/mikura.internal.v1.Store/ChunkAdd", false, 0, do_chunk_add},
    {"/mikura.internal.v1.Store/ChunkList", false, 0, do_chunk_list},
    {"/mikura.internal.v1.Store/Persisted", false, 0, persisted_tell},
    {"/mikura.internal.v1.Store/NodeStatus", false, 0, do_node_status},
    {0},
};
