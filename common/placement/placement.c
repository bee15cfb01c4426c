/* common/placement/placement.c - score of a disk for a group: weight / -log2(u), u a uniform hash
 * of both (Schindelhauer and Schomaker, 2005; Wang and Ravishankar's rendezvous hashing with
 * weights). A disk's score depends on nothing but itself and the group, so adding or removing one
 * moves only its own share. */
#include "common/placement/placement.h"
#include "common/base/le.h"

enum rc placement_pool_check(const struct placement_pool *p, struct err *reterr)
{
    if (p->id == 0 || p->id > UINT16_MAX) {
        return err_set(reterr, RC_INVAL, "pool id %u; 1 to 65535 are allowed", p->id);
    }
    if (p->prefix_bits > PLACEMENT_PREFIX_BITS_MAX) {
        return err_set(reterr, RC_INVAL, "pool %u: %u prefix bits; at most %u", p->id,
                       p->prefix_bits, PLACEMENT_PREFIX_BITS_MAX);
    }
    if (p->copies == 0 || p->copies > PLACEMENT_COPIES_MAX) {
        return err_set(reterr, RC_INVAL, "pool %u: %u copies; 1 to %u are allowed", p->id,
                       p->copies, PLACEMENT_COPIES_MAX);
    }
    if (p->min_in_sync == 0 || p->min_in_sync > p->copies) {
        return err_set(reterr, RC_INVAL, "pool %u: min_in_sync %u must be 1 to copies (%u)", p->id,
                       p->min_in_sync, p->copies);
    }
    if (p->failure_domain > PLACEMENT_DISK) {
        return err_set(reterr, RC_INVAL, "pool %u: failure domain must be zone, rack, host or disk",
                       p->id);
    }
    return RC_OK;
}

static uint64_t mask(uint32_t bits)
{
    return bits == 0 ? 0 : ~0ull << (64 - bits); /* a shift by 64 is undefined */
}

struct placement_group placement_group_of(const struct placement_pool *p, uint64_t hash)
{
    return (struct placement_group){p->id, p->prefix_bits, hash & mask(p->prefix_bits)};
}

bool placement_pools_alike(const struct placement_pool *a, const struct placement_pool *b)
{
    return a->copies == b->copies && a->min_in_sync == b->min_in_sync &&
           a->failure_domain == b->failure_domain;
}

bool placement_group_has(const struct placement_group *g, uint64_t hash)
{
    return (hash & mask(g->prefix_bits)) == g->prefix;
}

void placement_group_range(const struct placement_group *g, uint64_t *ret_first, uint64_t *ret_last)
{
    *ret_first = g->prefix;
    *ret_last = g->prefix | ~mask(g->prefix_bits);
}

enum rc placement_group_split(const struct placement_group *g, struct placement_group ret[2])
{
    if (g->prefix_bits >= PLACEMENT_PREFIX_BITS_MAX) return RC_RANGE;
    ret[0] = ret[1] = *g;
    ret[0].prefix_bits = ret[1].prefix_bits = g->prefix_bits + 1;
    ret[1].prefix |= 1ull << (63 - g->prefix_bits);
    return RC_OK;
}

static uint64_t mix(uint64_t x) /* splitmix64's finaliser (Steele, Lea, Flood 2014) */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* -log2(u) with 32 fractional bits, u = (h | 1) / 2^64 in (0, 1). */
static uint64_t neg_log2_q32(uint64_t h)
{
    uint64_t m, log;
    unsigned top;

    h |= 1;
    top = 63 - (unsigned)__builtin_clzll(h);
    m = h << (63 - top); /* mantissa in [1, 2), 63 fractional bits */
    log = (uint64_t)top << 32;
    for (unsigned bit = 32; bit-- > 0;) { /* squaring doubles the logarithm: one bit a turn */
        unsigned __int128 sq = (unsigned __int128)m * m;

        if ((sq >> 127) != 0) {
            log |= 1ull << bit;
            m = (uint64_t)(sq >> 64);
        } else {
            m = (uint64_t)(sq >> 63);
        }
    }
    log = (64ull << 32) - log;
    return log == 0 ? 1 : log;
}

static uint64_t cost(const struct placement_group *g, const struct placement_disk *d)
{
    uint64_t x = mix(((uint64_t)g->pool << 32 | g->prefix_bits) + 0x9e3779b97f4a7c15ull);

    x = mix(x ^ g->prefix);
    x = mix(x ^ be_get64(d->id.b));
    return neg_log2_q32(mix(x ^ be_get64(d->id.b + 8)));
}

/* Is a better than b for the group? Smaller cost / weight; equal ones by id, so that no order of
 * the input matters. */
static bool better(uint64_t cost_a, const struct placement_disk *a, uint64_t cost_b,
                   const struct placement_disk *b)
{
    unsigned __int128 x = (unsigned __int128)cost_a * b->weight,
                      y = (unsigned __int128)cost_b * a->weight;

    return x != y ? x < y : id128_cmp(&a->id, &b->id) < 0;
}

static bool clashes(const struct placement_disk *disks, const uint32_t *idx, uint32_t n,
                    uint32_t cand, enum placement_level level)
{
    for (uint32_t i = 0; i < n; i++) {
        if (idx[i] == cand) return true;
        if (level < PLACEMENT_DISK && disks[idx[i]].domain[level] == disks[cand].domain[level])
            return true;
    }
    return false;
}

enum placement_level placement_level_of(const struct placement_disk *disks, const uint32_t *idx,
                                        uint32_t n)
{
    enum placement_level level = PLACEMENT_ZONE;

    for (uint32_t i = 1; i < n; i++) {
        while (level < PLACEMENT_DISK && clashes(disks, idx, i, idx[i], level))
            level++;
    }
    return level;
}

uint32_t placement_extend(const struct placement_pool *pool, const struct placement_group *g,
                          const struct placement_disk *disks, uint32_t n, uint32_t kept_n,
                          uint32_t idx[PLACEMENT_COPIES_MAX], enum placement_level *ret_level)
{
    enum placement_level level = pool->failure_domain;
    uint32_t got = kept_n;

    CHECK(pool->copies <= PLACEMENT_COPIES_MAX && level <= PLACEMENT_DISK);
    while (got < pool->copies) {
        uint64_t best_cost = 0;
        uint32_t best = n;

        for (uint32_t i = 0; i < n; i++) {
            uint64_t c;

            if (disks[i].weight == 0 || clashes(disks, idx, got, i, level)) continue;
            c = cost(g, &disks[i]);
            if (best < n && !better(c, &disks[i], best_cost, &disks[best])) continue;
            best = i;
            best_cost = c;
        }
        if (best < n) {
            idx[got++] = best;
        } else if (level < PLACEMENT_DISK) {
            level++; /* too few domains: the next narrower one still separates something */
        } else {
            break;
        }
    }
    *ret_level = level;
    return got;
}

uint32_t placement_propose(const struct placement_pool *pool, const struct placement_group *g,
                           const struct placement_disk *disks, uint32_t n,
                           uint32_t ret_idx[PLACEMENT_COPIES_MAX], enum placement_level *ret_level)
{
    return placement_extend(pool, g, disks, n, 0, ret_idx, ret_level);
}
