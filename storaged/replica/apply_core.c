/* storaged/replica/apply_core.c - invariants: (1) an entry is decoded to its end before the map
 * changes; (2) conditions are evaluated on the state before the entry; (3) every stored row begins
 * with a format byte, and one that does not decode is corruption, never a default. */
#include "storaged/replica/apply_core.h"
#include "common/base/le.h"
#include "storaged/replica/mutant_core.h"

#define HEAD_BYTES       28u /* format, kind, 2 zero, client 16, sequence 8 */
#define CHUNK_BODY_BYTES 104u
#define CHUNK_ROW_BYTES  (2u + CHUNK_BODY_BYTES + 8u) /* format, state, chunk, index */
#define OUTCOME_BYTES    32u
#define CLIENT_BYTES     24u

/* ---- encoding: all integers little-endian, lengths before bytes ---- */

static enum rc over(struct err *reterr, const char *what, uint64_t have, uint64_t max)
{
    return err_set(reterr, RC_INVAL, "%s: %llu, at most %llu", what, (unsigned long long)have,
                   (unsigned long long)max);
}

static bool has_chunk(uint32_t kind)
{
    return kind == APPLY_CHUNK_ADD || kind == APPLY_CHUNK_DROP || kind == APPLY_CHUNK_TXN;
}

static bool has_txn(uint32_t kind)
{
    return kind == APPLY_TXN || kind == APPLY_CHUNK_TXN;
}

uint32_t apply_entry_bytes(const struct apply_entry *e, struct err *reterr)
{
    uint64_t n = HEAD_BYTES;

    if (has_chunk(e->kind)) n += CHUNK_BODY_BYTES;
    if (!has_txn(e->kind)) return (uint32_t)n;
    if (e->compares_n > APPLY_COMPARES_MAX || e->puts_n > APPLY_PUTS_MAX ||
        e->deletes_n > APPLY_DELETES_MAX) {
        (void)over(reterr, "conditions, puts or deletes in one transaction",
                   MAX(MAX(e->compares_n, e->puts_n), e->deletes_n), APPLY_PUTS_MAX);
        return 0;
    }
    n += 12;
    for (uint32_t i = 0; i < e->compares_n; i++) {
        n += 1 + 8 + 2 + 4 + e->compares[i].key.n + e->compares[i].value.n;
        if (e->compares[i].key.n > APPLY_KEY_BYTES_MAX ||
            e->compares[i].value.n > APPLY_VALUE_BYTES_MAX) {
            (void)over(reterr, "a condition's key", e->compares[i].key.n, APPLY_KEY_BYTES_MAX);
            return 0;
        }
    }
    for (uint32_t i = 0; i < e->puts_n; i++) {
        n += 2 + 4 + e->puts[i].key.n + e->puts[i].value.n;
        if (e->puts[i].key.n > APPLY_KEY_BYTES_MAX || e->puts[i].value.n > APPLY_VALUE_BYTES_MAX) {
            (void)over(reterr, "a put's key or value", MAX(e->puts[i].key.n, e->puts[i].value.n),
                       APPLY_VALUE_BYTES_MAX);
            return 0;
        }
    }
    for (uint32_t i = 0; i < e->deletes_n; i++) {
        n += 2 + e->deletes[i].n;
        if (e->deletes[i].n > APPLY_KEY_BYTES_MAX) {
            (void)over(reterr, "a delete's key", e->deletes[i].n, APPLY_KEY_BYTES_MAX);
            return 0;
        }
    }
    if (n > APPLY_ENTRY_BYTES_MAX) {
        (void)over(reterr, "bytes in one transaction", n, APPLY_ENTRY_BYTES_MAX);
        return 0;
    }
    return (uint32_t)n;
}

static uint8_t *put_bytes(uint8_t *p, struct slice s)
{
    if (s.n > 0) memcpy(p, s.p, s.n);
    return p + s.n;
}

static uint8_t *chunk_encode(uint8_t *p, const struct apply_chunk *c)
{
    le_put64(p, c->placement_hash);
    memcpy(p + 8, c->body.b, 16);
    le_put32(p + 24, c->index);
    memcpy(p + 28, c->seal_id.b, 16);
    le_put32(p + 44, c->plain_bytes);
    memcpy(p + 48, c->plain_digest, 32);
    le_put64(p + 80, c->owner_hash);
    memcpy(p + 88, c->upload_id.b, 16);
    return p + CHUNK_BODY_BYTES;
}

static void chunk_decode(const uint8_t *p, struct apply_chunk *c)
{
    c->placement_hash = le_get64(p);
    memcpy(c->body.b, p + 8, 16);
    c->index = le_get32(p + 24);
    memcpy(c->seal_id.b, p + 28, 16);
    c->plain_bytes = le_get32(p + 44);
    memcpy(c->plain_digest, p + 48, 32);
    c->owner_hash = le_get64(p + 80);
    memcpy(c->upload_id.b, p + 88, 16);
}

bool apply_entry_chunk(struct slice e, struct apply_chunk *ret_chunk)
{
    if (e.n < HEAD_BYTES + CHUNK_BODY_BYTES || e.p[0] != APPLY_FORMAT || !has_chunk(e.p[1]) ||
        (e.n > HEAD_BYTES + CHUNK_BODY_BYTES && !has_txn(e.p[1])))
        return false;
    chunk_decode(e.p + HEAD_BYTES, ret_chunk);
    return true;
}

bool apply_entry_drops(struct slice e, const struct apply_outcome *out,
                       struct apply_chunk *ret_chunk, bool *ret_all)
{
    if (out->rc != RC_OK || !apply_entry_chunk(e, ret_chunk)) return false;
    /* the outcome may be that of the same transaction sent alone, which names no sealing */
    if (e.p[1] == APPLY_CHUNK_TXN && out->repeated && !MUTANT(82)) return false;
    *ret_all = e.p[1] == APPLY_CHUNK_DROP;
    return true;
}

uint32_t apply_entry_encode(const struct apply_entry *e, uint8_t *out)
{
    uint8_t *p = out;

    memset(p, 0, HEAD_BYTES);
    p[0] = APPLY_FORMAT;
    p[1] = (uint8_t)e->kind;
    memcpy(p + 4, e->client.b, 16);
    le_put64(p + 20, e->sequence);
    p += HEAD_BYTES;
    if (has_chunk(e->kind)) p = chunk_encode(p, &e->chunk);
    if (!has_txn(e->kind)) return (uint32_t)(p - out);
    le_put32(p, e->compares_n);
    le_put32(p + 4, e->puts_n);
    le_put32(p + 8, e->deletes_n);
    p += 12;
    for (uint32_t i = 0; i < e->compares_n; i++) {
        const struct apply_compare *c = &e->compares[i];

        p[0] = (uint8_t)c->kind;
        le_put64(p + 1, c->number);
        le_put16(p + 9, (uint16_t)c->key.n);
        le_put32(p + 11, (uint32_t)c->value.n);
        p = put_bytes(put_bytes(p + 15, c->key), c->value);
    }
    for (uint32_t i = 0; i < e->puts_n; i++) {
        le_put16(p, (uint16_t)e->puts[i].key.n);
        le_put32(p + 2, (uint32_t)e->puts[i].value.n);
        p = put_bytes(put_bytes(p + 6, e->puts[i].key), e->puts[i].value);
    }
    for (uint32_t i = 0; i < e->deletes_n; i++) {
        le_put16(p, (uint16_t)e->deletes[i].n);
        p = put_bytes(p + 2, e->deletes[i]);
    }
    return (uint32_t)(p - out);
}

/* ---- decoding ---- */

struct reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static const uint8_t *take(struct reader *r, size_t n)
{
    const uint8_t *p = r->p;

    if (r->bad || n > r->left) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    r->left -= n;
    return p;
}

static struct slice take_slice(struct reader *r, size_t n, size_t max)
{
    struct slice s = {0};

    if (n > max) r->bad = true;
    s.p = take(r, n);
    s.n = s.p == NULL ? 0 : n;
    return s;
}

static struct apply_compare read_compare(struct reader *r)
{
    struct apply_compare c = {0};
    const uint8_t *h = take(r, 15);

    if (h == NULL) return c;
    c.kind = (enum apply_compare_kind)h[0];
    if (h[0] < APPLY_ABSENT || h[0] > APPLY_TICK_AT_MOST) r->bad = true;
    c.number = le_get64(h + 1);
    c.key = take_slice(r, le_get16(h + 9), APPLY_KEY_BYTES_MAX);
    c.value = take_slice(r, le_get32(h + 11), APPLY_VALUE_BYTES_MAX);
    return c;
}

static struct apply_put read_put(struct reader *r)
{
    struct apply_put u = {0};
    const uint8_t *h = take(r, 6);

    if (h == NULL) return u;
    u.key = take_slice(r, le_get16(h), APPLY_KEY_BYTES_MAX);
    u.value = take_slice(r, le_get32(h + 2), APPLY_VALUE_BYTES_MAX);
    return u;
}

static struct slice read_delete(struct reader *r)
{
    const uint8_t *h = take(r, 2);

    return h == NULL ? (struct slice){0} : take_slice(r, le_get16(h), APPLY_KEY_BYTES_MAX);
}

struct decoded {
    enum apply_kind kind;
    struct id128 client;
    uint64_t sequence;
    struct apply_chunk chunk;
    uint32_t compares_n, puts_n, deletes_n;
    struct reader txn; /* at the first condition */
};

static void txn_decode(struct reader *r, struct decoded *d)
{
    const uint8_t *h = take(r, 12);

    if (h == NULL) return;
    d->compares_n = le_get32(h);
    d->puts_n = le_get32(h + 4);
    d->deletes_n = le_get32(h + 8);
    d->txn = *r;
    if (d->compares_n > APPLY_COMPARES_MAX || d->puts_n > APPLY_PUTS_MAX ||
        d->deletes_n > APPLY_DELETES_MAX) {
        r->bad = true;
        return;
    }
    for (uint32_t i = 0; i < d->compares_n; i++)
        (void)read_compare(r);
    for (uint32_t i = 0; i < d->puts_n; i++)
        (void)read_put(r);
    for (uint32_t i = 0; i < d->deletes_n; i++)
        (void)read_delete(r);
}

static enum rc decode(struct slice entry, struct decoded *d, struct err *reterr)
{
    struct reader r = {entry.p, entry.n, false};
    const uint8_t *h = entry.n > APPLY_ENTRY_BYTES_MAX ? NULL : take(&r, HEAD_BYTES);

    if (h == NULL || h[0] != APPLY_FORMAT || h[2] != 0 || h[3] != 0) {
        return err_set(reterr, RC_CORRUPT, "log entry of %zu bytes: no entry of format %u", entry.n,
                       APPLY_FORMAT);
    }
    *d = (struct decoded){.kind = (enum apply_kind)h[1], .sequence = le_get64(h + 20)};
    memcpy(d->client.b, h + 4, 16);
    if ((d->sequence == 0) != id128_is_zero(&d->client)) r.bad = true;
    switch (h[1]) {
    case APPLY_NOOP:
    case APPLY_TICK:
        if (d->sequence != 0) r.bad = true;
        break;
    case APPLY_CHUNK_ADD:
    case APPLY_CHUNK_DROP:
    case APPLY_TXN:
        break;
    case APPLY_CHUNK_TXN: /* a transaction is never without a request's key */
        if (d->sequence == 0) r.bad = true;
        break;
    default:
        r.bad = true;
    }
    if (has_chunk(d->kind)) {
        h = take(&r, CHUNK_BODY_BYTES);
        if (h != NULL) chunk_decode(h, &d->chunk);
    }
    if (has_txn(d->kind)) txn_decode(&r, d);
    if (!r.bad && r.left == 0) return RC_OK;
    return err_set(reterr, RC_CORRUPT, "log entry of kind %d: malformed, %zu of %zu bytes read",
                   (int)d->kind, entry.n - r.left, entry.n);
}

enum rc apply_entry_check(struct slice entry, struct err *reterr)
{
    struct decoded d;

    return decode(entry, &d, reterr);
}

/* ---- rows ---- */

uint32_t apply_user_key(struct slice key, uint8_t out[APPLY_MAPKEY_BYTES_MAX])
{
    CHECK(key.n <= APPLY_KEY_BYTES_MAX);
    out[0] = 'd';
    (void)put_bytes(out + 1, key);
    return (uint32_t)(1 + key.n);
}

enum rc apply_user_value(struct slice stored, uint64_t *ret_version, struct slice *ret_value)
{
    if (stored.n < 9 || stored.p[0] != APPLY_FORMAT) return RC_CORRUPT;
    *ret_version = le_get64(stored.p + 1);
    *ret_value = (struct slice){stored.p + 9, stored.n - 9};
    return RC_OK;
}

void apply_chunk_key(uint64_t placement_hash, const struct id128 *body, uint32_t index,
                     uint8_t out[APPLY_CHUNK_KEY_BYTES])
{
    out[0] = 'c';
    be_put64(out + 1, placement_hash); /* big-endian: a group splits by key range */
    memcpy(out + 9, body->b, 16);
    be_put32(out + 25, index);
}

static void chunk_row_encode(const struct apply_chunk *c, bool dropped, uint64_t index,
                             uint8_t out[CHUNK_ROW_BYTES])
{
    out[0] = APPLY_FORMAT;
    out[1] = dropped ? 2 : 1;
    (void)chunk_encode(out + 2, c);
    le_put64(out + 2 + CHUNK_BODY_BYTES, index);
}

enum rc apply_chunk_row(struct slice stored, struct apply_chunk *ret_chunk, bool *ret_dropped,
                        uint64_t *ret_index)
{
    if (stored.n != CHUNK_ROW_BYTES || stored.p[0] != APPLY_FORMAT || stored.p[1] < 1 ||
        stored.p[1] > 2) {
        return RC_CORRUPT;
    }
    chunk_decode(stored.p + 2, ret_chunk);
    *ret_dropped = stored.p[1] == 2;
    *ret_index = le_get64(stored.p + 2 + CHUNK_BODY_BYTES);
    return RC_OK;
}

static struct slice key_of(const uint8_t *p, size_t n)
{
    return (struct slice){p, n};
}

static const uint8_t TICK_KEY[] = {'t'};

static enum rc tick_get(const struct apply_map *m, uint64_t *ret_tick)
{
    struct slice v;
    enum rc rc = m->get(m->ctx, key_of(TICK_KEY, 1), &v);

    *ret_tick = 0;
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    if (v.n != 9 || v.p[0] != APPLY_FORMAT) return RC_CORRUPT;
    *ret_tick = le_get64(v.p + 1);
    return RC_OK;
}

/* ---- clients and their windows: 'k' client -> highest, lowest kept - 1, last tick;
 * 'o' client sequence -> outcome ---- */

struct client {
    uint64_t highest; /* sequence executed */
    uint64_t floor;   /* sequences <= floor are never executed (again) */
    uint64_t tick;
};

static void client_key(const struct id128 *id, uint8_t out[17])
{
    out[0] = 'k';
    memcpy(out + 1, id->b, 16);
}

static void outcome_key(const struct id128 *id, uint64_t sequence, uint8_t out[25])
{
    out[0] = 'o';
    memcpy(out + 1, id->b, 16);
    be_put64(out + 17, sequence);
}

static enum rc client_decode(struct slice v, struct client *c)
{
    if (v.n != 1 + CLIENT_BYTES || v.p[0] != APPLY_FORMAT) return RC_CORRUPT;
    c->highest = le_get64(v.p + 1);
    c->floor = le_get64(v.p + 9);
    c->tick = le_get64(v.p + 17);
    return c->floor > c->highest || c->highest - c->floor > APPLY_WINDOW ? RC_CORRUPT : RC_OK;
}

static enum rc client_put(const struct apply_map *m, const struct id128 *id, const struct client *c)
{
    uint8_t key[17], v[1 + CLIENT_BYTES];

    client_key(id, key);
    v[0] = APPLY_FORMAT;
    le_put64(v + 1, c->highest);
    le_put64(v + 9, c->floor);
    le_put64(v + 17, c->tick);
    return m->put(m->ctx, key_of(key, sizeof(key)), key_of(v, sizeof(v)));
}

static enum rc client_get(const struct apply_map *m, const struct id128 *id, struct client *c)
{
    uint8_t key[17];
    struct slice v;
    enum rc rc;

    client_key(id, key);
    *c = (struct client){0};
    rc = m->get(m->ctx, key_of(key, sizeof(key)), &v);
    if (rc == RC_NOTFOUND) return RC_OK;
    return rc != RC_OK ? rc : client_decode(v, c);
}

/* Forget the outcomes of sequences in (c->floor, upto]: at most APPLY_WINDOW rows are there. */
static enum rc client_forget(const struct apply_map *m, const struct id128 *id, struct client *c,
                             uint64_t upto)
{
    uint8_t key[25];
    uint64_t last = MIN(upto, c->highest);

    for (uint64_t s = c->floor + 1; s <= last; s++) {
        enum rc rc;

        outcome_key(id, s, key);
        rc = m->del(m->ctx, key_of(key, sizeof(key)));
        if (rc != RC_OK) return rc;
    }
    c->floor = MAX(c->floor, upto);
    return RC_OK;
}

static enum rc outcome_put(const struct apply_map *m, const struct decoded *d,
                           const struct apply_outcome *o)
{
    uint8_t key[25], v[1 + OUTCOME_BYTES] = {APPLY_FORMAT};

    outcome_key(&d->client, d->sequence, key);
    v[1] = (uint8_t)rc_grpc(o->rc); /* the enum may be reordered, gRPC's numbers may not */
    v[2] = o->succeeded;
    le_put32(v + 5, o->failed_compare);
    le_put64(v + 9, o->index);
    memcpy(v + 17, o->seal_id.b, 16);
    return m->put(m->ctx, key_of(key, sizeof(key)), key_of(v, sizeof(v)));
}

static enum rc outcome_decode(struct slice v, struct apply_outcome *o)
{
    if (v.n != 1 + OUTCOME_BYTES || v.p[0] != APPLY_FORMAT || v.p[2] > 1) return RC_CORRUPT;
    o->rc = rc_from_grpc(v.p[1]);
    o->succeeded = v.p[2] == 1;
    o->failed_compare = le_get32(v.p + 5);
    o->index = le_get64(v.p + 9);
    memcpy(o->seal_id.b, v.p + 17, 16);
    o->repeated = true;
    return RC_OK;
}

/* RC_OK and *ret_done: the outcome is known already. */
static enum rc repeated(const struct apply_map *m, const struct decoded *d, const struct client *c,
                        struct apply_outcome *ret, bool *ret_done)
{
    uint8_t key[25];
    struct slice v;
    enum rc rc;

    *ret_done = true;
    if (d->sequence <= c->floor) {
        ret->rc = RC_ABORTED;
        return RC_OK;
    }
    outcome_key(&d->client, d->sequence, key);
    rc = m->get(m->ctx, key_of(key, sizeof(key)), &v);
    if (rc == RC_OK) return outcome_decode(v, ret);
    *ret_done = false; /* sequences may arrive out of order inside the window */
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

/* ---- effects ---- */

static enum rc compare_holds(const struct apply_map *m, const struct apply_compare *c,
                             uint64_t tick, bool *ret_holds)
{
    uint8_t key[APPLY_MAPKEY_BYTES_MAX];
    struct slice stored, value = {0};
    uint64_t version = 0;
    enum rc rc;

    if (c->kind == APPLY_TICK_AT_MOST) {
        *ret_holds = tick <= c->number;
        return RC_OK;
    }
    rc = m->get(m->ctx, key_of(key, apply_user_key(c->key, key)), &stored);
    if (rc == RC_OK) rc = apply_user_value(stored, &version, &value);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    switch (c->kind) {
    case APPLY_ABSENT:
        *ret_holds = rc == RC_NOTFOUND;
        break;
    case APPLY_PRESENT:
        *ret_holds = rc == RC_OK;
        break;
    case APPLY_VERSION:
        *ret_holds = version == c->number || MUTANT(56); /* 0 = absent */
        break;
    case APPLY_VALUE:
        *ret_holds = rc == RC_OK && value.n == c->value.n &&
                     (value.n == 0 || memcmp(value.p, c->value.p, value.n) == 0);
        break;
    case APPLY_TICK_AT_MOST:
        break;
    }
    return RC_OK;
}

static enum rc txn(const struct apply_map *m, const struct decoded *d, uint64_t index,
                   uint64_t tick, struct apply_outcome *ret)
{
    struct reader r = d->txn;
    uint8_t key[APPLY_MAPKEY_BYTES_MAX], *scratch = m->scratch;
    enum rc rc;

    for (uint32_t i = 0; i < d->compares_n; i++) {
        struct apply_compare c = read_compare(&r);
        bool holds = false;

        rc = compare_holds(m, &c, tick, &holds);
        if (rc != RC_OK) return rc;
        if (holds) continue;
        ret->failed_compare = i;
        return RC_OK;
    }
    for (uint32_t i = 0; i < d->puts_n; i++) {
        struct apply_put u = read_put(&r);

        scratch[0] = APPLY_FORMAT;
        le_put64(scratch + 1, index);
        (void)put_bytes(scratch + 9, u.value);
        rc =
            m->put(m->ctx, key_of(key, apply_user_key(u.key, key)), key_of(scratch, 9 + u.value.n));
        if (rc != RC_OK) return rc;
    }
    for (uint32_t i = 0; i < d->deletes_n; i++) {
        struct slice k = read_delete(&r);

        rc = m->del(m->ctx, key_of(key, apply_user_key(k, key)));
        if (rc != RC_OK) return rc;
    }
    ret->succeeded = true;
    ret->index = index;
    return RC_OK;
}

static enum rc chunk(const struct apply_map *m, const struct decoded *d, uint64_t index,
                     struct apply_outcome *ret)
{
    uint8_t key[APPLY_CHUNK_KEY_BYTES], row[CHUNK_ROW_BYTES];
    bool drop = d->kind == APPLY_CHUNK_DROP, dropped = false;
    struct apply_chunk have;
    struct slice v;
    uint64_t at;
    enum rc rc;

    apply_chunk_key(d->chunk.placement_hash, &d->chunk.body, d->chunk.index, key);
    rc = m->get(m->ctx, key_of(key, sizeof(key)), &v);
    if (rc == RC_OK) rc = apply_chunk_row(v, &have, &dropped, &at);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    if (rc == RC_NOTFOUND || (drop && !dropped) || (MUTANT(55) && !drop && dropped)) {
        /* The tombstone keeps what was dropped; of a chunk that never came it keeps the request's.
         */
        chunk_row_encode(rc == RC_OK ? &have : &d->chunk, drop, index, row);
        ret->seal_id = rc == RC_OK ? have.seal_id : d->chunk.seal_id;
        ret->succeeded = true;
        ret->index = index;
        return m->put(m->ctx, key_of(key, sizeof(key)), key_of(row, sizeof(row)));
    }
    ret->seal_id = have.seal_id;
    ret->index = at;
    if (drop) {
        ret->succeeded = true; /* dropped before */
    } else if (dropped) {
        ret->rc = RC_PRECOND;
    } else if (have.plain_bytes == d->chunk.plain_bytes &&
               memcmp(have.plain_digest, d->chunk.plain_digest, 32) == 0) {
        ret->succeeded = true; /* the first one won, with the same plaintext */
    } else {
        ret->rc = RC_EXISTS;
    }
    return RC_OK;
}

static enum rc tick_step(const struct apply_map *m, uint64_t tick)
{
    uint8_t v[9] = {APPLY_FORMAT}, from[17] = {'k'};
    enum rc rc;

    le_put64(v + 1, tick);
    rc = m->put(m->ctx, key_of(TICK_KEY, 1), key_of(v, sizeof(v)));
    while (rc == RC_OK) {
        struct slice key, value;
        struct client c;
        struct id128 id;

        rc = m->next(m->ctx, key_of(from, sizeof(from)), &key, &value);
        if (rc == RC_NOTFOUND || (rc == RC_OK && key.p[0] != 'k')) return RC_OK;
        if (rc != RC_OK) return rc;
        if (key.n != 17) return RC_CORRUPT;
        memcpy(id.b, key.p + 1, 16);
        rc = client_decode(value, &c);
        if (rc != RC_OK) return rc;
        if (c.floor < c.highest && c.tick + APPLY_CLIENT_IDLE_TICKS < tick) {
            rc = client_forget(m, &id, &c, c.highest);
            if (MUTANT(57)) c = (struct client){0}; /* idle clients dropped whole */
            if (rc == RC_OK) rc = client_put(m, &id, &c);
        }
        memcpy(from + 1, id.b, 16);
        for (int i = 16; i >= 1 && ++from[i] == 0; i--) {
            if (i == 1) return rc; /* that was the last id there can be */
        }
    }
    return rc;
}

enum rc apply_step(const struct apply_map *map, uint64_t index, struct slice entry,
                   struct apply_outcome *ret, struct err *reterr)
{
    struct apply_outcome out = {.rc = RC_OK};
    struct client client = {0};
    struct decoded d;
    uint64_t tick = 0;
    bool done = false;
    enum rc rc = decode(entry, &d, reterr);

    CHECK(index > 0);
    if (rc != RC_OK) return rc;
    rc = tick_get(map, &tick);
    if (rc == RC_OK && d.sequence != 0 && !MUTANT(54)) {
        rc = client_get(map, &d.client, &client);
        if (rc == RC_OK) rc = repeated(map, &d, &client, &out, &done);
    }
    if (rc == RC_OK && !done) {
        switch (d.kind) {
        case APPLY_NOOP:
            out.succeeded = true;
            out.index = index;
            break;
        case APPLY_TXN:
            rc = txn(map, &d, index, tick, &out);
            break;
        case APPLY_CHUNK_ADD:
        case APPLY_CHUNK_DROP:
            rc = chunk(map, &d, index, &out);
            break;
        case APPLY_CHUNK_TXN:
            rc = chunk(map, &d, index, &out);
            out.succeeded = false; /* the transaction's from here on */
            out.index = 0;
            if (rc == RC_OK && (out.rc == RC_OK || MUTANT(83)))
                rc = txn(map, &d, index, tick, &out);
            break;
        case APPLY_TICK:
            tick++;
            rc = tick_step(map, tick);
            out.succeeded = true;
            out.index = index;
            break;
        }
    }
    if (rc == RC_OK && !done && d.sequence != 0) {
        rc = outcome_put(map, &d, &out);
        if (rc == RC_OK && d.sequence > client.highest) {
            uint64_t upto = d.sequence > APPLY_WINDOW ? d.sequence - APPLY_WINDOW : 0;

            rc = client_forget(map, &d.client, &client, upto);
            client.highest = d.sequence;
        }
        client.tick = tick;
        if (rc == RC_OK) rc = client_put(map, &d.client, &client);
    }
    if (rc != RC_OK)
        return err_set(reterr, rc, "entry %llu of kind %d: the group's state: %s",
                       (unsigned long long)index, (int)d.kind, rc_text(rc));
    out.tick = tick;
    *ret = out;
    return RC_OK;
}
