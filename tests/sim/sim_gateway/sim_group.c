/* tests/sim/sim_gateway/sim_group.c - see sim_group.h. */
#include "tests/sim/sim_gateway/sim_group.h"
#include <stdlib.h>
#include <string.h>

static uint8_t scratch[APPLY_SCRATCH_BYTES], entry_bytes[APPLY_ENTRY_BYTES_MAX];

uint64_t sim_rand(struct sim_group *g, uint64_t n)
{
    uint64_t z = (g->rand += 0x9e3779b97f4a7c15ull); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % n;
}

static int cmp(struct slice a, const struct sim_row *r)
{
    size_t n = MIN(a.n, r->key_n);
    int c = n == 0 ? 0 : memcmp(a.p, r->key, n);

    return c != 0 ? c : (a.n > r->key_n) - (a.n < r->key_n);
}

static size_t lower(const struct sim_group *g, struct slice key)
{
    size_t lo = 0, hi = g->n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (cmp(key, &g->rows[mid]) > 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static enum rc map_next(void *ctx, struct slice from, struct slice *ret_key,
                        struct slice *ret_value)
{
    struct sim_group *g = ctx;
    size_t i = lower(g, from);

    if (i == g->n) return RC_NOTFOUND;
    *ret_key = (struct slice){g->rows[i].key, g->rows[i].key_n};
    *ret_value = (struct slice){g->rows[i].value, g->rows[i].value_n};
    return RC_OK;
}

static enum rc map_get(void *ctx, struct slice key, struct slice *ret_value)
{
    struct sim_group *g = ctx;
    size_t i = lower(g, key);

    if (i == g->n || cmp(key, &g->rows[i]) != 0) return RC_NOTFOUND;
    *ret_value = (struct slice){g->rows[i].value, g->rows[i].value_n};
    return RC_OK;
}

static uint8_t *dup_bytes(struct slice s)
{
    uint8_t *p = malloc(s.n + 1);

    CHECK(p != NULL);
    if (s.n > 0) memcpy(p, s.p, s.n);
    return p;
}

static enum rc map_put(void *ctx, struct slice key, struct slice value)
{
    struct sim_group *g = ctx;
    size_t i = lower(g, key);

    if (i < g->n && cmp(key, &g->rows[i]) == 0) {
        uint8_t *v = dup_bytes(value); /* the value may be a view of the old one */

        free(g->rows[i].value);
        g->rows[i].value = v;
        g->rows[i].value_n = value.n;
        return RC_OK;
    }
    if (g->n == g->cap) {
        g->cap = g->cap == 0 ? 64 : g->cap * 2;
        g->rows = realloc(g->rows, g->cap * sizeof(*g->rows));
        CHECK(g->rows != NULL);
    }
    memmove(&g->rows[i + 1], &g->rows[i], (g->n - i) * sizeof(*g->rows));
    g->rows[i] = (struct sim_row){dup_bytes(key), dup_bytes(value), key.n, value.n};
    g->n++;
    return RC_OK;
}

static enum rc map_del(void *ctx, struct slice key)
{
    struct sim_group *g = ctx;
    size_t i = lower(g, key);

    if (i == g->n || cmp(key, &g->rows[i]) != 0) return RC_OK;
    free(g->rows[i].key);
    free(g->rows[i].value);
    memmove(&g->rows[i], &g->rows[i + 1], (g->n - i - 1) * sizeof(*g->rows));
    g->n--;
    return RC_OK;
}

void sim_group_init(struct sim_group *g, uint64_t seed)
{
    *g = (struct sim_group){.rand = seed * 7919 + 1};
}

void sim_group_deinit(struct sim_group *g)
{
    for (size_t i = 0; i < g->n; i++) {
        free(g->rows[i].key);
        free(g->rows[i].value);
    }
    free(g->rows);
    for (uint32_t i = 0; i < g->late_n; i++)
        free(g->late[i].bytes);
}

static enum rc apply(struct sim_group *g, struct slice entry, struct apply_outcome *ret)
{
    struct apply_map map = {map_get, map_next, map_put, map_del, g, scratch};
    struct err err;

    CHECK(apply_step(&map, ++g->index, entry, ret, &err) == RC_OK);
    g->tick = ret->tick;
    if (ret->rc == RC_OK && ret->succeeded && !ret->repeated && g->on_applied != NULL) {
        g->on_applied(g->ctx, entry);
    }
    return ret->rc;
}

enum rc sim_txn(struct sim_group *g, const struct apply_entry *e, struct apply_outcome *ret)
{
    uint64_t dice = g->calm ? 0 : sim_rand(g, 100);
    struct slice entry = {entry_bytes, 0};
    struct apply_outcome out;

    CHECK(apply_entry_bytes(e, NULL) > 0);
    entry.n = apply_entry_encode(e, entry_bytes);
    if (dice >= 85 && g->late_n < ARRAY_N(g->late)) { /* a copy comes later, perhaps once more */
        g->late[g->late_n++] = (struct sim_late){dup_bytes(entry), entry.n};
        if (dice < 95) return RC_DEADLINE;
    }
    if (dice >= 60 && dice < 70) return RC_DEADLINE; /* the request was lost */
    *ret = (struct apply_outcome){0};
    (void)apply(g, entry, &out);
    if (dice >= 70 && dice < 85) return RC_DEADLINE; /* the answer was lost */
    *ret = out;
    return out.rc;
}

void sim_tick(struct sim_group *g)
{
    struct apply_entry e = {.kind = APPLY_TICK};
    struct slice entry = {entry_bytes, apply_entry_encode(&e, entry_bytes)};
    struct apply_outcome out;

    CHECK(apply(g, entry, &out) == RC_OK);
}

void sim_deliver_late(struct sim_group *g)
{
    struct apply_outcome out;
    struct sim_late l;
    uint64_t i;

    if (g->late_n == 0) return;
    i = sim_rand(g, g->late_n);
    l = g->late[i];
    g->late[i] = g->late[--g->late_n];
    (void)apply(g, (struct slice){l.bytes, l.n}, &out); /* nobody waits for this answer */
    free(l.bytes);
}

struct slice sim_get(struct sim_group *g, struct slice key, uint64_t *ret_version)
{
    uint8_t k[APPLY_MAPKEY_BYTES_MAX];
    struct slice stored, value = {0};

    *ret_version = 0;
    if (map_get(g, (struct slice){k, apply_user_key(key, k)}, &stored) != RC_OK) return value;
    CHECK(apply_user_value(stored, ret_version, &value) == RC_OK);
    return value;
}

bool sim_next(struct sim_group *g, struct slice from, struct slice *ret_key,
              struct slice *ret_value)
{
    uint8_t k[APPLY_MAPKEY_BYTES_MAX];
    struct slice key, stored;
    uint64_t version;

    if (map_next(g, (struct slice){k, apply_user_key(from, k)}, &key, &stored) != RC_OK ||
        key.p[0] != 'd') {
        return false;
    }
    CHECK(apply_user_value(stored, &version, ret_value) == RC_OK);
    *ret_key = (struct slice){key.p + 1, key.n - 1};
    return true;
}
