/* storaged/service/group_chunk.c - a ChunkAdd counts here only when exactly that record (body,
 * index, seal id) is durable on this disk; what is missing is pulled from the proposer. */
#include "common/base/hex.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define SKIP_FORMAT       2u
#define SKIP_BYTES        58u
#define PULL_TIMEOUT_MS   10000u
#define PULL_PAUSE_MS_MAX 1000u
#define PULL_TRIES_TOLD   10u /* 4 s or more */

struct look {
    const struct index_chunk_id *id;
    struct index_chunk *ret;
    struct err *err;
};

static enum rc look(void *arg, struct index *ix)
{
    struct look *l = arg;

    return index_chunk_get(ix, l->id, l->ret, l->err);
}

enum rc chunk_held(struct sd_group *g, const struct index_chunk_id *id, struct index_chunk *ret,
                   struct err *reterr)
{
    struct look l = {.id = id, .ret = ret, .err = reterr};
    struct stray_id stray = {id->body, id->seal_id, id->index};

    while (!stray_needed(&g->disk->stray, &stray))
        fiber_cond_wait(&g->disk->stray_cond);
    return disk_look(g->disk, look, &l);
}

struct decided {
    struct sd_group *g;
    const struct apply_chunk *c;
    bool yes;
};

static enum rc decided(void *arg, struct index *ix)
{
    struct decided *d = arg;
    struct index_chunk_id id = {d->c->body, d->c->index, d->c->seal_id};
    enum index_listing is;
    enum rc rc = index_chunk_listing(ix, &d->g->ix, d->c->placement_hash, &id, &is, NULL);

    d->yes = is == INDEX_DECIDED;
    return rc;
}

/* The committed state has a tombstone or another sealing, for ever: this one has no effect any
 * more, its bytes may have been dropped on every replica, and nobody waits for them. */
bool chunk_decided(struct sd_group *g, const struct apply_chunk *c)
{
    struct decided d = {.g = g, .c = c};

    return disk_look(g->disk, decided, &d) == RC_OK && d.yes;
}

/* ---- left out for good ----
 * A chunk that was decided when it should have been pulled is answered for without its bytes. The
 * state that decided may be another's, and after a power cut ours may be behind it: so the disk
 * remembers. What was decided once stays so, hence a note is right for ever; it goes when the state
 * here says it by itself (group_stray.c). Rare. */
static void chunk_skip_name(const struct index_chunk_id *id, char name[CHUNK_SKIP_NAME_BYTES])
{
    uint8_t text[36], digest[32];

    memcpy(text, id->body.b, 16);
    le_put32(text + 16, id->index);
    memcpy(text + 20, id->seal_id.b, 16);
    (void)SHA256(text, sizeof text, digest);
    memcpy(name, CHUNK_SKIP_PREFIX, 5);
    hex_encode(digest, 16, name + 5);
}

enum rc chunk_skipped(struct index *ix, const struct index_chunk_id *id, struct err *reterr)
{
    char name[CHUNK_SKIP_NAME_BYTES];
    uint8_t v[SKIP_BYTES];
    size_t n;

    chunk_skip_name(id, name);
    return index_note_get(ix, name, v, sizeof v, &n, reterr);
}

static void skip_encode(const struct index_group *g, uint64_t hash, const struct index_chunk_id *id,
                        uint8_t out[SKIP_BYTES])
{
    out[0] = SKIP_FORMAT;
    le_put32(out + 1, g->pool);
    out[5] = g->bits;
    le_put64(out + 6, g->prefix);
    le_put64(out + 14, hash);
    memcpy(out + 22, id->body.b, 16);
    le_put32(out + 38, id->index);
    memcpy(out + 42, id->seal_id.b, 16);
}

bool chunk_skip_decode(struct slice value, struct index_group *ret_group, uint64_t *ret_hash,
                       struct index_chunk_id *ret_id)
{
    if (value.n != SKIP_BYTES || value.p[0] != SKIP_FORMAT) return false;
    *ret_group = (struct index_group){le_get32(value.p + 1), value.p[5], le_get64(value.p + 6)};
    *ret_hash = le_get64(value.p + 14);
    memcpy(ret_id->body.b, value.p + 22, 16);
    ret_id->index = le_get32(value.p + 38);
    memcpy(ret_id->seal_id.b, value.p + 42, 16);
    return true;
}

struct skip {
    struct sd_group *g;
    struct index_chunk_id id;
    uint64_t hash;
    bool keep; /* else look */
    enum rc rc;
    struct err err;
};

static void skip_work(void *arg)
{
    struct skip *s = arg;
    struct index *ix = store_index(s->g->disk->store);
    char name[CHUNK_SKIP_NAME_BYTES];
    uint8_t value[SKIP_BYTES];

    s->rc = chunk_skipped(ix, &s->id, &s->err);
    if (!s->keep || s->rc != RC_NOTFOUND) return;
    chunk_skip_name(&s->id, name);
    skip_encode(&s->g->ix, s->hash, &s->id, value);
    s->rc = index_note_put(ix, name, (struct slice){value, sizeof value}, &s->err);
    if (s->rc == RC_OK) s->rc = index_sync(ix, &s->err);
}

static enum rc skip(struct sd_group *g, const struct apply_chunk *c, bool keep, struct err *reterr)
{
    struct skip s = {
        .g = g, .id = {c->body, c->index, c->seal_id}, .hash = c->placement_hash, .keep = keep};
    enum rc rc = fiber_work(skip_work, &s);

    if (rc == RC_OK) rc = s.rc;
    if (rc != RC_OK) *reterr = s.err;
    return rc;
}

/* ---- one pull ---- */
/* What a peer sent, checked against the GMAC of this pull, onto the disk. */
static enum rc pulled_write(struct sd_group *g, const struct apply_chunk *c, const struct ask *a,
                            const uint8_t key[32], struct bulk_buf *buf, struct err *reterr)
{
    const Mikura__Internal__V1__ChunkData *d =
        a->answer->kind_case == MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_DATA ? a->answer->data
                                                                               : NULL;
    uint32_t blocks = record_blocks(c->plain_bytes);
    struct record_block *rb = NULL;
    struct store_chunk sc = {.pool = g->id.pool,
                             .placement_hash = c->placement_hash,
                             .owner_hash = c->owner_hash,
                             .upload_id = c->upload_id,
                             .id = {c->body, c->index, c->seal_id},
                             .plain_bytes = c->plain_bytes,
                             .config = g->core.config,
                             .epoch = g->core.epoch,
                             .crc_known = true,
                             .urgent = true,
                             .payload = buf->p};
    struct store_append *w = NULL;
    uint8_t mac[16];
    enum rc rc;

    if (d == NULL || d->plain_bytes != c->plain_bytes || a->payload_n != c->plain_bytes ||
        a->payload != buf || d->tags.len != (size_t)blocks * RECORD_TAG_BYTES ||
        d->n_block_crc32c != blocks || d->mac.len != sizeof mac ||
        d->seal_id.len != sizeof c->seal_id ||
        memcmp(d->seal_id.data, c->seal_id.b, sizeof c->seal_id) != 0)
        return err_set(reterr, RC_CORRUPT, "a pulled chunk of an impossible shape");
    rc = bulk_gmac(key, buf->p, c->plain_bytes, mac);
    if (rc != RC_OK) return err_set(reterr, rc, "GMAC of a pulled chunk");
    if (!bulk_gmac_equal(mac, d->mac.data)) {
        sdm_add(SDM_CORRUPT, 1);
        return err_set(reterr, RC_CORRUPT, "a pulled chunk was changed on its way");
    }
    rb = calloc(blocks, sizeof *rb);
    w = calloc(1, sizeof *w);
    if (rb == NULL || w == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a pulled chunk");
        goto out;
    }
    for (uint32_t i = 0; i < blocks; i++) {
        rb[i].crc32c = d->block_crc32c[i];
        memcpy(rb[i].tag, d->tags.data + (size_t)i * RECORD_TAG_BYTES, RECORD_TAG_BYTES);
    }
    memcpy(sc.plain_digest, c->plain_digest, sizeof sc.plain_digest);
    sc.blocks = rb;
    rc = store_chunk_write_wait(g->disk->store, w, &sc);
    if (rc != RC_OK) (void)err_set(reterr, rc, "a pulled chunk: %s", w->err.msg);
out:
    free(rb);
    free(w);
    return rc;
}

static enum rc pull(struct sd_group *g, const struct apply_chunk *c, const struct id128 *from_disk,
                    struct err *reterr)
{
    Mikura__Internal__V1__BulkRequest req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Mikura__Internal__V1__ChunkPull pull = MIKURA__INTERNAL__V1__CHUNK_PULL__INIT;
    Mikura__Internal__V1__GroupRef group = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    Mikura__Internal__V1__ChunkRef ref = MIKURA__INTERNAL__V1__CHUNK_REF__INIT;
    struct sd_peer *p = peer_of_disk(g->sd, from_disk);
    struct id128 body = c->body, seal = c->seal_id;
    struct bulk_conn *conn;
    struct bulk_buf *buf = NULL;
    struct ask a = {0};
    uint8_t key[32];
    enum rc rc;

    if (p == NULL) return err_set(reterr, RC_UNAVAIL, "the holder of the chunk is unknown");
    rc = disk_payload(g->disk, CHUNK_POOL_PULL, c->plain_bytes, PULL_TIMEOUT_MS, &buf);
    if (rc != RC_OK) return err_set(reterr, rc, "no room for a pulled chunk");
    rc = peer_data(p, PULL_TIMEOUT_MS, &conn, reterr);
    if (rc != RC_OK) goto out;
    random_bytes(key, sizeof key);
    group.pool = g->id.pool;
    group.placement_hash = c->placement_hash;
    group.epoch = g->core.epoch;
    group.config = g->core.config;
    ref.body = (ProtobufCBinaryData){sizeof body, body.b};
    ref.index = c->index;
    ref.seal_id = (ProtobufCBinaryData){sizeof seal, seal.b};
    pull.group = &group;
    pull.chunk = &ref;
    pull.mac_key = (ProtobufCBinaryData){sizeof key, key};
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_PULL;
    req.pull = &pull;
    a.into = buf;
    rc = ask_start(&a, conn, &req, NULL, 0, 0, PULL_TIMEOUT_MS, reterr);
    if (rc == RC_OK) rc = ask_wait(&a, reterr);
    if (rc == RC_OK) rc = pulled_write(g, c, &a, key, buf, reterr);
    ask_clear(&a);
out:
    bulk_buf_unref(buf);
    return rc;
}

enum rc chunk_ensure(struct sd_group *g, const struct apply_chunk *c, const struct id128 *from_disk,
                     struct err *reterr)
{
    struct index_chunk_id id = {c->body, c->index, c->seal_id};
    struct index_chunk found;
    enum rc rc = chunk_held(g, &id, &found, reterr);

    if (rc != RC_NOTFOUND) return rc;
    if (c->plain_bytes == 0 || c->plain_bytes > RECORD_PAYLOAD_BYTES_MAX)
        return err_set(reterr, RC_CORRUPT, "a chunk of %u bytes", c->plain_bytes);
    fiber_sem_take(&g->disk->pulls, 1);
    rc = g->dead ? err_set(reterr, RC_CANCELED, "the replica left") : pull(g, c, from_disk, reterr);
    fiber_sem_give(&g->disk->pulls, 1);
    if (rc == RC_OK) sdm_add(SDM_PULLS, 1);
    return rc;
}

enum rc chunk_fetch(struct sd_group *g, const struct apply_chunk *c, struct err *reterr)
{
    struct group_set members = g->core.cfg.in_sync;
    enum rc rc = err_set(reterr, RC_UNAVAIL, "no other replica in sync");

    for (uint32_t i = 0; i < members.n && rc != RC_OK && !g->dead; i++) {
        if (!id128_eq(&members.disks[i], &g->disk->id))
            rc = chunk_ensure(g, c, &members.disks[i], reterr);
    }
    return rc;
}

/* ---- actions ---- */
struct chunk_job {
    struct list link;
    struct sd_group *g;
    struct apply_chunk c;
    struct id128 from;
    uint64_t epoch, index;
    bool superseded;
};

static void chunk_run(void *arg)
{
    struct chunk_job *j = arg;
    struct sd_group *g = j->g;
    struct replica_event ev = {.type = REPLICA_EV_CHUNK, .epoch = j->epoch, .index = j->index};
    uint64_t pause_ms = 10;
    uint32_t tries = 0;

    while (!g->dead && !j->superseded && g->forget_epoch <= j->epoch) {
        struct err err = {0};
        enum rc rc = chunk_ensure(g, &j->c, &j->from, &err);

        /* RC_PRECOND: decided in the state of the one that was asked, by an entry that is behind
         * this one in the log; nobody is in sync before it has that one, too */
        if (rc != RC_OK && (rc == RC_PRECOND || chunk_decided(g, &j->c)))
            rc = skip(g, &j->c, /* keep= */ true, &err);
        if (rc == RC_OK) {
            group_event(g, &ev);
            break;
        }
        tries++;
        if (tries == PULL_TRIES_TOLD) {
            log_warn("chunk_pull_stuck", "group=%s index=%llu rc=%s why=%s: goes on", g->name,
                     (unsigned long long)j->index, rc_name(rc), err.msg);
        }
        fiber_sleep_ms(pause_ms);
        pause_ms = MIN(pause_ms * 2, PULL_PAUSE_MS_MAX);
    }
    list_remove(&j->link);
    free(j);
}

void group_chunk(struct sd_group *g, const struct replica_action *a)
{
    struct chunk_job *j = calloc(1, sizeof *j);
    struct err err;

    LIST_FOREACH(it, &g->pulls)
    {
        struct chunk_job *o = CONTAINER_OF(it, struct chunk_job, link);

        if (o->index == a->first) o->superseded = true;
    }
    if (j == NULL || !apply_entry_chunk(a->entries[0].bytes, &j->c)) {
        (void)err_set(&err, j == NULL ? RC_NOMEM : RC_CORRUPT, "ChunkAdd %llu can't be followed",
                      (unsigned long long)a->first);
        free(j);
        group_fail(g, err.rc, &err);
        return;
    }
    j->g = g;
    j->from = a->peer;
    j->epoch = a->epoch;
    j->index = a->first;
    list_push_back(&g->pulls, &j->link);
    if (sd_spawn(g->sd, chunk_run, j) == RC_OK) return;
    list_remove(&j->link);
    free(j);
    (void)err_set(&err, RC_NOMEM, "no fiber for a chunk");
    group_fail(g, RC_NOMEM, &err); /* (2): nothing may be lost silently */
}

struct tail_job {
    struct sd_group *g;
    uint64_t epoch, first, last;
};

static void tail_run(void *arg)
{
    struct tail_job *t = arg;
    struct sd_group *g = t->g;
    struct replica_event ev = {.type = REPLICA_EV_TAIL, .epoch = t->epoch};
    uint64_t i = t->first;
    enum rc rc = RC_OK;

    while (i <= t->last && rc == RC_OK && !g->dead) {
        struct index_chunk found;
        struct apply_chunk c;
        struct entry *e;
        struct err err = {0};
        uint32_t n = 0;

        rc = group_entries(g, i, 1, 1, &e, &n);
        if (rc == RC_NOTFOUND) rc = RC_CORRUPT;
        if (rc != RC_OK) {
            (void)err_set(&err, rc, "entry %llu of the tail can't be read", (unsigned long long)i);
        } else if (apply_entry_adds_chunk((struct slice){e->p, e->n}) &&
                   apply_entry_chunk((struct slice){e->p, e->n}, &c)) {
            struct index_chunk_id id = {c.body, c.index, c.seal_id};

            rc = chunk_held(g, &id, &found, &err);
            if (rc == RC_NOTFOUND && chunk_decided(g, &c)) rc = RC_OK;
            if (rc == RC_NOTFOUND) rc = skip(g, &c, /* keep= */ false, &err);
        }
        if (n > 0) entry_unpin(e);
        if (rc == RC_NOTFOUND) break; /* its chunk is not here: the tail ends below it */
        if (rc != RC_OK) {
            group_fail(g, rc, &err);
            free(t);
            return;
        }
        i++;
    }
    ev.index = i - 1;
    group_event(g, &ev);
    free(t);
}

void group_check_tail(struct sd_group *g, const struct replica_action *a)
{
    struct tail_job *t = calloc(1, sizeof *t);
    struct err err;

    if (t != NULL) {
        *t = (struct tail_job){g, a->epoch, a->first, a->last};
        if (sd_spawn(g->sd, tail_run, t) == RC_OK) return;
        free(t);
    }
    (void)err_set(&err, RC_NOMEM, "no fiber to check the tail");
    group_fail(g, RC_NOMEM, &err);
}
