/* gateway/manager/planner_core.c - see planner_core.h. */
#include "gateway/manager/planner_core.h"

static bool has(const struct id128 *set, uint32_t n, const struct id128 *id)
{
    for (uint32_t i = 0; i < n; i++) {
        if (id128_eq(&set[i], id)) return true;
    }
    return false;
}

static bool moving(const struct planner_group *g)
{
    if (!g->exists) return false;
    for (uint32_t i = 0; i < g->desired_n; i++) {
        if (!has(g->in_sync, g->in_sync_n, &g->desired[i])) return true;
    }
    return g->in_sync_n != g->desired_n;
}

uint32_t planner_moving(const struct planner_in *in)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < in->groups_n; i++)
        n += moving(&in->groups[i]);
    return n;
}

static const struct planner_disk *disk_of(const struct planner_in *in, const struct id128 *id)
{
    for (uint32_t i = 0; i < in->disks_n; i++) {
        if (id128_eq(&in->disks[i].place.id, id)) return &in->disks[i];
    }
    return NULL;
}

static bool lost(const struct planner_in *in, const struct id128 *id)
{
    const struct planner_disk *d = disk_of(in, id);

    return d == NULL || d->gone;
}

/* The proposal of a group, with the least loaded of its disks first when it is new. */
static void ideal(const struct planner_in *in, const struct planner_group *g,
                  const struct placement_disk *places, struct planner_change *ch)
{
    uint32_t idx[PLACEMENT_COPIES_MAX];

    ch->desired_n = placement_propose(in->pool, &g->group, places, in->disks_n, idx, &ch->level);
    for (uint32_t i = 0; i < ch->desired_n; i++)
        ch->desired[i] = places[idx[i]].id;
}

static void first_least_loaded(const struct planner_in *in, uint32_t *load,
                               struct planner_change *ch)
{
    uint32_t best = 0, best_at = 0;

    for (uint32_t i = 0; i < ch->desired_n; i++) {
        for (uint32_t d = 0; d < in->disks_n; d++) {
            if (!id128_eq(&in->disks[d].place.id, &ch->desired[i])) continue;
            if (i == 0 || load[d] < load[best_at]) {
                best = i;
                best_at = d;
            }
        }
    }
    if (ch->desired_n == 0) return;
    if (best != 0) {
        struct id128 tmp = ch->desired[0];

        ch->desired[0] = ch->desired[best];
        ch->desired[best] = tmp;
    }
    load[best_at]++;
}

/* The old wish without lost disks (and, to balance, without one that is not in the ideal), filled
 * up from the ideal in its order. false: that is the old wish. */
static bool adjust(const struct planner_in *in, const struct planner_group *g, bool balance,
                   struct planner_change *ch)
{
    struct planner_change now = *ch;
    bool changed = false, dropped = false;

    now.desired_n = 0;
    for (uint32_t i = 0; i < g->desired_n; i++) {
        bool in_ideal = has(ch->desired, ch->desired_n, &g->desired[i]);

        if (lost(in, &g->desired[i]) || (balance && !dropped && !in_ideal)) {
            dropped |= !in_ideal;
            changed = true;
            continue;
        }
        now.desired[now.desired_n++] = g->desired[i];
    }
    for (uint32_t i = 0; i < ch->desired_n && now.desired_n < in->pool->copies; i++) {
        if (has(now.desired, now.desired_n, &ch->desired[i])) continue;
        now.desired[now.desired_n++] = ch->desired[i];
        changed = true;
    }
    if (now.desired_n == 0) return false; /* nothing better than a lost disk is left */
    *ch = now;
    return changed;
}

static enum planner_why need(const struct planner_in *in, const struct planner_group *g)
{
    if (!g->exists) return PLANNER_NEW;
    for (uint32_t i = 0; i < g->desired_n; i++) {
        if (lost(in, &g->desired[i])) return PLANNER_DISK_GONE;
    }
    return g->desired_n < in->pool->copies ? PLANNER_TOO_FEW : PLANNER_BALANCE;
}

uint32_t planner_plan(const struct planner_in *in, struct placement_disk *places, uint32_t *load,
                      struct planner_change *ret, uint32_t cap)
{
    uint32_t n = 0, under_way = planner_moving(in);

    for (uint32_t i = 0; i < in->disks_n; i++) {
        places[i] = in->disks[i].place;
        if (in->disks[i].gone) places[i].weight = 0;
        load[i] = 0;
    }
    for (uint32_t i = 0; i < in->groups_n; i++) {
        const struct planner_group *g = &in->groups[i];

        for (uint32_t d = 0; g->exists && g->desired_n > 0 && d < in->disks_n; d++)
            load[d] += id128_eq(&in->disks[d].place.id, &g->desired[0]);
    }
    for (int why = PLANNER_NEW; why <= PLANNER_BALANCE; why++) {
        for (uint32_t i = 0; i < in->groups_n && n < cap; i++) {
            const struct planner_group *g = &in->groups[i];
            struct planner_change *ch = &ret[n];
            bool was_moving = moving(g);

            if (need(in, g) != (enum planner_why)why) continue;
            *ch = (struct planner_change){.group_idx = i, .why = (enum planner_why)why};
            ideal(in, g, places, ch);
            if (why == PLANNER_NEW) {
                first_least_loaded(in, load, ch);
                n += ch->desired_n > 0;
                continue;
            }
            if (was_moving && why != PLANNER_DISK_GONE) continue;
            if (!was_moving && under_way >= in->moves_max) continue;
            if (!adjust(in, g, why == PLANNER_BALANCE, ch)) continue;
            under_way += !was_moving;
            n++;
        }
    }
    return n;
}
