/* tests/sim/sim_base.c - memory is not what is tested here: running out of it ends the program. */
#include "tests/sim/sim_base.h"
#include <stdlib.h>

uint64_t sim_rand(struct sim_rng *r, uint64_t n)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15u); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return n == 0 ? 0 : (z ^ (z >> 31)) % n;
}

bool sim_chance(struct sim_rng *r, uint32_t per_10000)
{
    return sim_rand(r, 10000) < per_10000;
}

struct sim_block {
    struct sim_block *next;
    size_t used;
    uint8_t bytes[64u << 10];
};

void *sim_alloc(struct sim_arena *a, size_t n)
{
    struct sim_block *b = a->blocks;

    n = ROUND_UP(n, (size_t)16);
    CHECK(n <= sizeof(b->bytes));
    if (b == NULL || sizeof(b->bytes) - b->used < n) {
        b = calloc(1, sizeof(*b));
        CHECK(b != NULL);
        b->next = a->blocks;
        a->blocks = b;
    }
    b->used += n;
    return b->bytes + b->used - n;
}

void sim_arena_free(struct sim_arena *a)
{
    while (a->blocks != NULL) {
        struct sim_block *b = a->blocks;

        a->blocks = b->next;
        free(b);
    }
}

struct slice sim_copy(struct sim_arena *a, struct slice s)
{
    uint8_t *p = sim_alloc(a, s.n + 1);

    if (s.n > 0) memcpy(p, s.p, s.n);
    return (struct slice){p, s.n};
}

/* ---- a binary heap ---- */

static bool before(const struct sim_event *x, const struct sim_event *y)
{
    return x->at_us != y->at_us ? x->at_us < y->at_us : x->order < y->order;
}

void sim_push(struct sim_queue *q, struct sim_event e)
{
    size_t i = q->n;

    if (q->n == q->cap) {
        q->cap = q->cap == 0 ? 1024 : 2 * q->cap;
        q->e = realloc(q->e, q->cap * sizeof(*q->e));
        CHECK(q->e != NULL);
    }
    e.order = q->order++;
    q->n++;
    for (; i > 0 && before(&e, &q->e[(i - 1) / 2]); i = (i - 1) / 2)
        q->e[i] = q->e[(i - 1) / 2];
    q->e[i] = e;
}

bool sim_pop(struct sim_queue *q, struct sim_event *ret)
{
    struct sim_event last;
    size_t i = 0;

    if (q->n == 0) return false;
    *ret = q->e[0];
    last = q->e[--q->n];
    for (;;) {
        size_t kid = 2 * i + 1;

        if (kid >= q->n) break;
        if (kid + 1 < q->n && before(&q->e[kid + 1], &q->e[kid])) kid++;
        if (!before(&q->e[kid], &last)) break;
        q->e[i] = q->e[kid];
        i = kid;
    }
    if (q->n > 0) q->e[i] = last;
    return true;
}

void sim_queue_free(struct sim_queue *q)
{
    free(q->e);
}

/* ---- the map ---- */

static int slice_cmp(struct slice a, struct slice b)
{
    size_t n = MIN(a.n, b.n);
    int d = n == 0 ? 0 : memcmp(a.p, b.p, n);

    return d != 0 ? d : (a.n > b.n) - (a.n < b.n);
}

static size_t lower(const struct sim_map *m, struct slice key)
{
    size_t lo = 0, hi = m->n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (slice_cmp(m->rows[mid].key, key) < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static uint64_t row_hash(struct slice k, struct slice v)
{
    uint64_t h = 0xcbf29ce484222325u + k.n;

    for (size_t i = 0; i < k.n; i++)
        h = (h ^ k.p[i]) * 0x100000001b3u;
    for (size_t i = 0; i < v.n; i++)
        h = (h ^ v.p[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

static bool at_key(const struct sim_map *m, size_t i, struct slice key)
{
    return i < m->n && slice_cmp(m->rows[i].key, key) == 0;
}

static enum rc map_get(void *ctx, struct slice key, struct slice *ret)
{
    struct sim_map *m = ctx;
    size_t i = lower(m, key);

    if (!at_key(m, i, key)) return RC_NOTFOUND;
    *ret = m->rows[i].value;
    return RC_OK;
}

static enum rc map_next(void *ctx, struct slice from, struct slice *ret_key,
                        struct slice *ret_value)
{
    struct sim_map *m = ctx;
    size_t i = lower(m, from);

    if (i == m->n) return RC_NOTFOUND;
    *ret_key = m->rows[i].key;
    *ret_value = m->rows[i].value;
    return RC_OK;
}

static enum rc map_put(void *ctx, struct slice key, struct slice value)
{
    struct sim_map *m = ctx;
    size_t i = lower(m, key);

    if (at_key(m, i, key)) {
        m->hash ^= m->rows[i].hash;
    } else {
        if (m->n == m->cap) {
            m->cap = m->cap == 0 ? 64 : 2 * m->cap;
            m->rows = realloc(m->rows, m->cap * sizeof(*m->rows));
            CHECK(m->rows != NULL);
        }
        memmove(&m->rows[i + 1], &m->rows[i], (m->n - i) * sizeof(*m->rows));
        m->n++;
        m->rows[i].key = sim_copy(m->arena, key);
    }
    m->rows[i].value = sim_copy(m->arena, value);
    m->rows[i].hash = row_hash(m->rows[i].key, m->rows[i].value);
    m->hash ^= m->rows[i].hash;
    return RC_OK;
}

static enum rc map_del(void *ctx, struct slice key)
{
    struct sim_map *m = ctx;
    size_t i = lower(m, key);

    if (!at_key(m, i, key)) return RC_OK;
    m->hash ^= m->rows[i].hash;
    m->n--;
    memmove(&m->rows[i], &m->rows[i + 1], (m->n - i) * sizeof(*m->rows));
    return RC_OK;
}

struct apply_map sim_map_ops(struct sim_map *m)
{
    return (struct apply_map){.get = map_get,
                              .next = map_next,
                              .put = map_put,
                              .del = map_del,
                              .ctx = m,
                              .scratch = m->scratch};
}

void sim_map_copy(struct sim_map *to, const struct sim_map *from)
{
    if (to->cap < from->n) {
        to->cap = from->n;
        to->rows = realloc(to->rows, to->cap * sizeof(*to->rows));
        CHECK(to->rows != NULL);
    }
    if (from->n > 0) memcpy(to->rows, from->rows, from->n * sizeof(*to->rows));
    to->n = from->n;
    to->hash = from->hash;
    to->arena = from->arena;
    to->scratch = from->scratch;
}

void sim_map_free(struct sim_map *m)
{
    free(m->rows);
    *m = (struct sim_map){0};
}
