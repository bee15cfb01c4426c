/* tests/sim/sim_fault.c - what goes wrong. A fault comes by the clock, or, in part of the worlds,
 * right when something is at stake (a transaction under way, a take-over, a snapshot): then a few
 * at once, at those concerned. All cuts and pauses end by themselves. */
#include "tests/sim/sim_world.h"

enum strike {
    CRASH,
    CRASH_ALL,
    WIPE,
    DAMAGE,
    PAUSE,
    CUT,
    CUT_BACK,
    ISOLATE,
    SPLIT,
    HALF,
    ETCD_CUT,
    ETCD_DOWN,
    ETCD_PAST,
    NET,
    DISK_SLOW,
    CLOCK,
    HEAL,
    LINK,
    ODD, /* the last: only where w.odds */
    STRIKES
};

void heal(void)
{
    memset(w.cut, 0, sizeof(w.cut));
    memset(w.cut_etcd, 0, sizeof(w.cut_etcd));
    w.etcd_down = 0;
    trace("healed");
}

static void crash_for(uint32_t i, uint64_t us)
{
    if (!w.nodes[i].alive) return;
    node_crash(&w.nodes[i]);
    later(EV_RESTART, (int)i, us, (struct sim_event){0});
}

/* One good copy stays: of what the record counts as in sync, and no other record is under way. */
static bool can_lose(uint32_t i)
{
    const struct group_set *s = &etcd_now()->cfg.in_sync;
    uint32_t whole = 0;

    for (uint32_t k = 0; k < w.n; k++)
        whole += k != i && whole_member(s, &w.nodes[k]) && !w.nodes[k].odd;
    return w.cas_flying == 0 && (whole > 0 || !whole_member(s, &w.nodes[i]));
}

static void lose(uint32_t i, bool whole, uint64_t us)
{
    if (!can_lose(i)) return;
    if (w.nodes[i].alive) node_crash(&w.nodes[i]);
    node_wipe(&w.nodes[i], whole);
    trace("n%u: its disk %s", i, whole ? "is lost, another put in" : "is damaged");
    later(EV_RESTART, (int)i, us, (struct sim_event){0});
}

/* Its state is told to be another than the others'. It is not: so all that was acknowledged must be
 * kept all the same, and it must come back. A backup hears it, late, from the primary, which is
 * right; a primary says it to itself. */
static void odd(uint32_t i, uint64_t us)
{
    struct node *n = &w.nodes[i], *p = &w.nodes[node_of(&etcd_now()->cfg.primary)];

    if (!n->alive || n->odds_coming > 0 || !can_lose(i)) return;
    if (p == n) {
        node_step(n, (struct replica_event){
                         .type = REPLICA_EV_ODD, .epoch = n->core.epoch, .id = n->core.cfg.config});
        n->odd = n->core.damaged;
    } else if (p->alive && p->core.role == REPLICA_PRIMARY && !p->odd &&
               p->core.epoch == n->core.epoch) {
        n->odd = true;
        n->odds_coming = 1;
        later(EV_ODD, (int)i, us % (1500 * MS),
              (struct sim_event){.a = p->core.epoch, .b = p->core.cfg.config});
    }
}

static void clock_set(uint32_t i, uint64_t us)
{
    struct node *n = &w.nodes[i];

    n->clock_ms = clock_of(n);
    n->clock_us = w.now;
    n->rate_ppm = w.mad_clocks ? between(100000, 4000000) : between(880000, 1120000);
    if (w.mad_clocks && chance(5000)) n->clock_ms += us / MS;
}

static void strike(enum strike kind, uint32_t a, uint32_t b, uint64_t us)
{
    uint64_t until = w.now + us;

    w.faults++;
    w.faults_left -= w.faults_left > 0;
    trace("fault %d at n%u, n%u until %.3f", (int)kind, a, b, (double)until / 1e6);
    switch (kind) {
    case CRASH:
        crash_for(a, us);
        break;
    case CRASH_ALL:
        for (uint32_t i = 0; i < w.n; i++)
            crash_for(i, between(1 * MS, 2000 * MS));
        break;
    case WIPE:
    case DAMAGE:
        lose(a, kind == WIPE, us);
        break;
    case ODD:
        odd(a, us);
        break;
    case PAUSE:
        w.nodes[a].paused_us = MAX(w.nodes[a].paused_us, until);
        break;
    case CUT:
        w.cut[a][b] = until;
        break;
    case CUT_BACK:
        w.cut[b][a] = until;
        break;
    case ISOLATE:
        for (uint32_t i = 0; i < w.n; i++)
            w.cut[a][i] = w.cut[i][a] = i != a ? until : 0;
        break;
    case SPLIT: /* two sides */
        for (uint32_t i = 0; i < w.n; i++) {
            for (uint32_t k = 0; k < w.n; k++) {
                if (((us >> i ^ us >> k) & 1u) != 0) w.cut[i][k] = until;
            }
        }
        break;
    case HALF: /* b will take a's place; the others still hear a, which hears neither b nor etcd */
        w.cut[a][b] = w.cut[b][a] = w.cut_etcd[a] = MAX(until, w.now + 2500 * MS);
        break;
    case ETCD_CUT:
        w.cut_etcd[a] = until;
        break;
    case ETCD_DOWN:
        w.etcd_down = until;
        break;
    case ETCD_PAST:
        etcd_replay_watch((int)a);
        break;
    case NET:
        w.loss = (uint32_t)(chance(5000) ? 0 : rnd(1500));
        w.slow = (uint32_t)(chance(5000) ? 0 : rnd(800));
        break;
    case DISK_SLOW:
        w.nodes[a].slow_us = until;
        break;
    case CLOCK:
        clock_set(a, us);
        break;
    case HEAL:
        heal();
        break;
    case LINK: /* these two hear each other */
        w.cut[a][b] = w.cut[b][a] = w.nodes[b].paused_us = 0;
        break;
    case STRIKES:
        break;
    }
}

static uint64_t duration(void)
{
    return chance(5000) ? between(1 * MS, 400 * MS) : between(400 * MS, 6000 * MS);
}

static void by_the_clock(void)
{
    static const uint8_t weights[STRIKES] = {
        [CRASH] = 20,    [CRASH_ALL] = 2, [WIPE] = 3,      [DAMAGE] = 4,    [ODD] = 15,
        [PAUSE] = 9,     [CUT] = 9,       [CUT_BACK] = 3,  [ISOLATE] = 6,   [SPLIT] = 5,
        [HALF] = 5,      [ETCD_CUT] = 6,  [ETCD_DOWN] = 2, [ETCD_PAST] = 4, [NET] = 8,
        [DISK_SLOW] = 4, [CLOCK] = 3,     [HEAL] = 16};
    const uint32_t kinds_n = w.odds ? STRIKES : ODD;
    uint32_t a = (uint32_t)rnd(w.n), b = (uint32_t)rnd(w.n), at, sum = 0, kind = 0;

    if (w.faults_left == 0) return;
    later(EV_FAULT, -1, between(1 * MS, w.calm * MS), (struct sim_event){0});
    if (chance(4500)) a = (uint32_t)node_of(&etcd_now()->cfg.primary); /* where it hurts */
    for (uint32_t i = 0; i < kinds_n; i++)
        sum += weights[i];
    for (at = (uint32_t)rnd(sum); at >= weights[kind]; kind++)
        at -= weights[kind];
    strike((enum strike)kind, a, b, duration());
}

static void strike_at(enum strike kind, uint32_t a, uint32_t b, uint64_t in_us, uint64_t us)
{
    later(EV_STRIKE, -1, in_us,
          (struct sim_event){.a = kind | (uint64_t)a << 8 | (uint64_t)b << 16, .c = us});
}

static void strike_soon(enum strike kind, uint32_t a, uint32_t b)
{
    strike_at(kind, a, b, chance(4000) ? 0 : between(0, 900 * MS), duration());
}

/* Somebody whom the change concerns: a new member, else any. */
static uint32_t concerned(const struct group_config *target)
{
    for (uint32_t i = 0; target != NULL && i < target->in_sync.n; i++) {
        const struct id128 *d = &target->in_sync.disks[i];

        if (!group_set_has(&etcd_now()->cfg.in_sync, d)) return (uint32_t)node_of(d);
    }
    return (uint32_t)rnd(w.n);
}

void fault_hook(int node, const struct group_config *target)
{
    static const enum strike kinds[] = {CRASH, CRASH,    PAUSE,  CUT,       CUT_BACK, ISOLATE,
                                        CUT,   ETCD_CUT, DAMAGE, DISK_SLOW, ODD};
    uint32_t a = (uint32_t)node, x = concerned(target);

    if (w.faults_left == 0 || !chance(w.hooked)) return;
    trace("n%d: something is at stake", node);
    if (w.odds && chance(4000)) strike_at(ODD, x, a, 0, between(0, 40 * MS));
    if (chance(5000)) strike_soon(CUT, a, x);
    if (chance(5000)) strike_soon(chance(5000) ? CRASH : ISOLATE, a, x);
    for (uint32_t i = 0; i < w.n; i++) { /* so that another one is next */
        if (i != a && i != x && chance(2500)) strike_soon(chance(5000) ? CRASH : PAUSE, i, a);
    }
    if (chance(3000)) strike_soon(kinds[rnd(ARRAY_N(kinds) - !w.odds)], (uint32_t)rnd(w.n), x);
}

/* A kill between two writes: the log may have the new epoch and the promise not. Then it starts
 * without a word from etcd, and hears of whom it took over from, who knows nothing either. */
void fault_hook_promise(int node)
{
    const struct record *was = &w.history[w.history_n - MIN(w.history_n, 2u)];
    uint32_t a = (uint32_t)node, old = (uint32_t)node_of(&was->cfg.primary);

    if (w.faults_left == 0 || !chance(w.hooked / 4)) return;
    strike_at(CRASH, a, old, between(0, 6 * MS), between(1 * MS, 60 * MS));
    if (chance(3000)) return;
    strike_at(ETCD_CUT, a, old, 0, 2000 * MS);
    strike_at(ETCD_CUT, old, a, 0, 2000 * MS);
    strike_at(LINK, a, old, between(0, 80 * MS), 0);
}

void fault_event(const struct sim_event *e)
{
    if (e->type == EV_FAULT) {
        by_the_clock();
    } else if (w.faults_left > 0) {
        strike((enum strike)(e->a & 0xff), (uint32_t)(e->a >> 8 & 0xff),
               (uint32_t)(e->a >> 16 & 0xff), e->c);
    }
}
