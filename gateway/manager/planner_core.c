/* gateway/manager/planner_core.c - see planner_core.h. */
#include "gateway/manager/planner_core.h"

#define STEPS_MAX                                                                                  \
    (2u * PLACEMENT_COPIES_MAX) /* changes of one group until it is where it belongs */

static bool has(const struct id128 *set, uint32_t n, const struct id128 *id)
{
    for (uint32_t i = 0; i < n; i++) {
        if (id128_eq(&set[i], id)) return true;
    }
    return false;
}

/* disks_n: not known, which is as bad as gone */
static uint32_t disk_idx(const struct planner_in *in, const struct id128 *id)
{
    uint32_t i = 0;

    while (i < in->disks_n && !id128_eq(&in->disks[i].place.id, id))
        i++;
    return i;
}

static bool lost(const struct planner_in *in, const struct id128 *id)
{
    uint32_t i = disk_idx(in, id);

    return i == in->disks_n || in->disks[i].gone;
}

static bool present(const struct planner_in *in, const struct id128 *id)
{
    uint32_t i = disk_idx(in, id);

    return i < in->disks_n && !in->disks[i].gone && !in->disks[i].away;
}

static bool drains(const struct planner_in *in, const struct id128 *id)
{
    uint32_t i = disk_idx(in, id);

    return i < in->disks_n && in->disks[i].drain;
}

static const struct placement_pool *pool_of(const struct planner_in *in,
                                            const struct planner_group *g)
{
    for (uint32_t i = 0; i < in->pools_n; i++) {
        if (in->pools[i].id == g->group.pool) return &in->pools[i];
    }
    return NULL;
}

static bool moving(const struct planner_in *in, const struct planner_group *g)
{
    if (!g->exists) return false;
    for (uint32_t i = 0; i < g->desired_n; i++) {
        if (!has(g->in_sync, g->in_sync_n, &g->desired[i]) && present(in, &g->desired[i]))
            return true;
    }
    for (uint32_t i = 0; i < g->in_sync_n; i++) {
        if (!has(g->desired, g->desired_n, &g->in_sync[i]) && present(in, &g->in_sync[i]))
            return true;
    }
    return false;
}

uint32_t planner_moving(const struct planner_in *in)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < in->groups_n; i++)
        n += moving(in, &in->groups[i]);
    return n;
}

bool planner_hold(const struct planner_in *in)
{
    bool one_host = true;
    uint32_t all = 0, away = 0;

    for (uint32_t i = 1; i < in->disks_n; i++)
        one_host &=
            in->disks[i].place.domain[PLACEMENT_HOST] == in->disks[0].place.domain[PLACEMENT_HOST];
    for (uint32_t i = 0; i < in->disks_n; i++) {
        bool counted = false, any_there = false;

        if (in->disks[i].removed) continue;
        for (uint32_t k = 0; k < in->disks_n; k++) {
            bool same = one_host ? k == i
                                 : in->disks[k].place.domain[PLACEMENT_HOST] ==
                                       in->disks[i].place.domain[PLACEMENT_HOST];

            if (!same || in->disks[k].removed) continue;
            counted |= k < i;
            any_there |= !in->disks[k].gone;
        }
        all += !counted;
        away += !counted && !any_there;
    }
    return away >= 2 && away * 4 > all;
}

/* ---- one group's next set ---- */
/* The disks of a proposal by what they may be used for. */
static void places_of(const struct planner_in *in, bool repair, struct placement_disk *places)
{
    for (uint32_t i = 0; i < in->disks_n; i++) {
        const struct planner_disk *d = &in->disks[i];

        places[i] = d->place;
        if (d->gone || d->drain || (d->fresh && !repair)) places[i].weight = 0;
    }
}

static uint32_t live_n(const struct planner_in *in, const struct planner_group *g)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->in_sync_n; i++)
        n += present(in, &g->in_sync[i]);
    return n;
}

static enum planner_why need(const struct planner_in *in, const struct planner_group *g)
{
    bool drain = false;

    if (!g->exists) return PLANNER_NEW;
    for (uint32_t i = 0; i < g->desired_n; i++) {
        if (lost(in, &g->desired[i])) return PLANNER_DISK_GONE;
        drain |= drains(in, &g->desired[i]);
    }
    if (g->desired_n < pool_of(in, g)->copies) return PLANNER_TOO_FEW;
    return drain ? PLANNER_DRAIN : PLANNER_BALANCE;
}

/* Two copies on one host are as good as one that is missing: where a disk that was not let in yet
 * can part them, it may. */
static uint32_t ideal_of(const struct planner_in *in, const struct placement_pool *pool,
                         const struct planner_group *g, struct placement_disk *places,
                         uint32_t ideal[PLACEMENT_COPIES_MAX])
{
    uint32_t all[PLACEMENT_COPIES_MAX], all_n;
    enum placement_level level, wider;
    uint32_t n = placement_propose(pool, &g->group, places, in->disks_n, ideal, &level);
    bool fresh = false;

    for (uint32_t i = 0; i < in->disks_n; i++)
        fresh |= in->disks[i].fresh;
    if (!fresh || level < PLACEMENT_DISK || pool->failure_domain == PLACEMENT_DISK) return n;
    places_of(in, true, places);
    all_n = placement_propose(pool, &g->group, places, in->disks_n, all, &wider);
    if (all_n < n || wider >= level) return n;
    memcpy(ideal, all, sizeof all);
    return all_n;
}

/* The old wish without lost disks and, for a drain or a balance, without one that is to be emptied
 * or not in the ideal set; filled up. false: nothing better can be had. */
static bool adjust(const struct planner_in *in, const struct planner_group *g, enum planner_why why,
                   struct placement_disk *places, struct planner_change *ch)
{
    const struct placement_pool *pool = pool_of(in, g);
    uint32_t ideal[PLACEMENT_COPIES_MAX], idx[PLACEMENT_COPIES_MAX], ideal_n = 0, kept = 0, n;
    bool changed = false, dropped = false;
    enum placement_level level;

    places_of(in, why <= PLANNER_TOO_FEW, places);
    if (why == PLANNER_BALANCE) ideal_n = ideal_of(in, pool, g, places, ideal);
    for (uint32_t i = 0; i < g->desired_n; i++) {
        uint32_t d = disk_idx(in, &g->desired[i]);
        bool drop = d == in->disks_n || in->disks[d].gone;

        if (!drop && !dropped && why == PLANNER_DRAIN) drop = dropped = in->disks[d].drain;
        if (!drop && !dropped && why == PLANNER_BALANCE) {
            drop = true;
            for (uint32_t k = 0; k < ideal_n; k++)
                drop &= ideal[k] != d;
            dropped = drop;
        }
        changed |= drop;
        if (!drop) idx[kept++] = d;
    }
    if (why == PLANNER_BALANCE && !dropped) return false;
    n = kept;
    if (why == PLANNER_BALANCE) { /* the first of the ideal that is not there yet */
        for (uint32_t k = 0; k < ideal_n && n < g->desired_n; k++) {
            bool there = false;

            for (uint32_t i = 0; i < n; i++)
                there |= idx[i] == ideal[k];
            if (!there) idx[n++] = ideal[k];
        }
    } else if (kept < pool->copies) {
        n = placement_extend(pool, &g->group, places, in->disks_n, kept, idx, &level);
    }
    if (n == 0 || (dropped && n < g->desired_n)) return false; /* no copy is given up for nothing */
    for (uint32_t i = kept; i < n; i++) {
        if (in->disks[idx[i]].away) return false; /* later, when it is there */
    }
    ch->desired_n = n;
    for (uint32_t i = 0; i < n; i++)
        ch->desired[i] = in->disks[idx[i]].place.id;
    return changed || n > kept;
}

/* ---- new groups ---- */
static void make_new(const struct planner_in *in, const struct planner_group *g,
                     const struct planner_scratch *s, struct planner_change *ch)
{
    uint32_t idx[PLACEMENT_COPIES_MAX], best = 0;
    enum placement_level level;

    places_of(in, true, s->places);
    for (uint32_t i = 0; i < in->disks_n; i++) {
        if (in->disks[i].away) s->places[i].weight = 0; /* it could not lead */
    }
    ch->desired_n =
        placement_propose(pool_of(in, g), &g->group, s->places, in->disks_n, idx, &level);
    for (uint32_t i = 1; i < ch->desired_n; i++) {
        if (s->load[idx[i]] < s->load[idx[best]]) best = i;
    }
    if (ch->desired_n == 0) return;
    s->load[idx[best]]++;
    for (uint32_t i = 0; i < ch->desired_n; i++) /* the least loaded first */
        ch->desired[i] = in->disks[idx[i == 0 ? best : i == best ? 0 : i]].place.id;
}

/* ---- limits ---- */
static void busy_add(const struct planner_in *in, const struct planner_group *g,
                     const struct id128 *desired, uint32_t desired_n, uint32_t *busy)
{
    uint32_t d;

    for (uint32_t i = 0; i < desired_n; i++) {
        if (has(g->in_sync, g->in_sync_n, &desired[i])) continue;
        d = disk_idx(in, &desired[i]);
        if (d < in->disks_n) busy[d]++;
        d = disk_idx(in, &g->primary);
        if (d < in->disks_n) busy[d]++;
    }
}

static bool room(const struct planner_in *in, const struct planner_group *g,
                 const struct planner_change *ch, const uint32_t *busy)
{
    uint32_t p = disk_idx(in, &g->primary);

    for (uint32_t i = 0; i < ch->desired_n; i++) {
        uint32_t d = disk_idx(in, &ch->desired[i]);

        if (has(g->in_sync, g->in_sync_n, &ch->desired[i])) continue;
        if (busy[d] >= in->disk_moves_max) return false;
        if (p < in->disks_n && busy[p] >= in->disk_moves_max) return false;
    }
    return true;
}

struct planning {
    const struct planner_in *in;
    const struct planner_scratch *s;
    struct planner_change *ret;
    uint32_t cap, n, under_way;
};

static void plan_group(struct planning *p, uint32_t i, enum planner_why why)
{
    const struct planner_group *g = &p->in->groups[i];
    struct planner_change *ch = &p->ret[p->n];
    bool was_moving = moving(p->in, g);

    *ch = (struct planner_change){.group_idx = i, .why = why};
    if (why == PLANNER_NEW) {
        make_new(p->in, g, p->s, ch);
        p->n += ch->desired_n > 0;
        return;
    }
    if (was_moving && why != PLANNER_DISK_GONE) return;
    if (!was_moving && p->under_way >= p->in->moves_max) return;
    if (!adjust(p->in, g, why, p->s->places, ch)) return;
    if (!was_moving && !room(p->in, g, ch, p->s->busy)) return;
    if (!was_moving) busy_add(p->in, g, ch->desired, ch->desired_n, p->s->busy);
    p->under_way += !was_moving;
    p->n++;
}

static void begin(const struct planner_in *in, const struct planner_scratch *s)
{
    for (uint32_t i = 0; i < in->disks_n; i++)
        s->load[i] = s->busy[i] = 0;
    for (uint32_t i = 0; i < in->groups_n; i++) {
        const struct planner_group *g = &in->groups[i];
        uint32_t d = g->exists && g->desired_n > 0 ? disk_idx(in, &g->desired[0]) : in->disks_n;

        if (d < in->disks_n) s->load[d]++;
        if (moving(in, g)) busy_add(in, g, g->desired, g->desired_n, s->busy);
    }
}

uint32_t planner_plan(const struct planner_in *in, const struct planner_scratch *s,
                      struct planner_change *ret, uint32_t cap)
{
    struct planning p = {in, s, ret, cap, 0, planner_moving(in)};
    bool hold = planner_hold(in);

    begin(in, s);
    for (uint32_t i = 0; i < in->groups_n && p.n < cap; i++) {
        if (!in->groups[i].exists) plan_group(&p, i, PLANNER_NEW);
    }
    if (hold) return p.n;
    for (uint32_t copies = 0; copies <= PLACEMENT_COPIES_MAX; copies++) {
        for (uint32_t i = 0; i < in->groups_n && p.n < cap; i++) {
            enum planner_why why = need(in, &in->groups[i]);

            if ((why == PLANNER_DISK_GONE || why == PLANNER_TOO_FEW) &&
                live_n(in, &in->groups[i]) == copies)
                plan_group(&p, i, why);
        }
    }
    for (int why = PLANNER_DRAIN; why <= PLANNER_BALANCE; why++) {
        for (uint32_t i = 0; i < in->groups_n && p.n < cap; i++) {
            if (need(in, &in->groups[i]) == (enum planner_why)why)
                plan_group(&p, i, (enum planner_why)why);
        }
    }
    return p.n;
}

/* ---- where it ends ---- */
static enum placement_level level_of(const struct planner_in *in, const struct id128 *set,
                                     uint32_t n, struct placement_disk *places)
{
    uint32_t idx[PLACEMENT_COPIES_MAX], k = 0;

    for (uint32_t i = 0; i < in->disks_n; i++)
        places[i] = in->disks[i].place;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t d = disk_idx(in, &set[i]);

        if (d < in->disks_n) idx[k++] = d;
    }
    return placement_level_of(places, idx, k);
}

static void foresee_group(const struct planner_in *in, const struct planner_scratch *s,
                          const struct planner_group *g, uint32_t *in_n, uint32_t *out_n,
                          struct planner_forecast *ret)
{
    struct planner_group end = *g;
    struct planner_change ch = {0};
    bool stays = true;

    for (uint32_t step = 0; step < STEPS_MAX; step++) {
        if (!adjust(in, &end, need(in, &end), s->places, &ch)) break;
        end.desired_n = ch.desired_n;
        memcpy(end.desired, ch.desired, sizeof end.desired);
    }
    for (uint32_t i = 0; i < end.desired_n; i++) {
        uint32_t d = disk_idx(in, &end.desired[i]);

        if (has(g->in_sync, g->in_sync_n, &end.desired[i])) continue;
        stays = false;
        ret->copies++;
        if (d < in->disks_n) in_n[d]++;
    }
    for (uint32_t i = 0; i < g->in_sync_n; i++) {
        uint32_t d = disk_idx(in, &g->in_sync[i]);

        if (has(end.desired, end.desired_n, &g->in_sync[i])) continue;
        stays = false;
        if (d < in->disks_n) out_n[d]++;
    }
    ret->groups += !stays;
    for (uint32_t i = 0; i < end.desired_n; i++) {
        if (!drains(in, &end.desired[i])) continue;
        ret->stuck++;
        break;
    }
    ret->short_n += end.desired_n < pool_of(in, g)->copies;
    ret->narrower += end.desired_n > 1 && level_of(in, end.desired, end.desired_n, s->places) >
                                              level_of(in, g->desired, g->desired_n, s->places);
    stays = false;
    for (uint32_t i = 0; i < g->in_sync_n; i++)
        stays |= !lost(in, &g->in_sync[i]);
    ret->lost += !stays;
}

void planner_foresee(const struct planner_in *in, const struct planner_scratch *s, uint32_t *in_n,
                     uint32_t *out_n, struct planner_forecast *ret)
{
    *ret = (struct planner_forecast){0};
    for (uint32_t i = 0; i < in->disks_n; i++)
        in_n[i] = out_n[i] = 0;
    for (uint32_t i = 0; i < in->groups_n; i++) {
        if (in->groups[i].exists) foresee_group(in, s, &in->groups[i], in_n, out_n, ret);
    }
}
