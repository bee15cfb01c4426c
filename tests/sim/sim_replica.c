/* tests/sim/sim_replica.c - whole groups of the real replica core and apply core in one process,
 * from one seed: virtual time, a bad network, crashing and pausing nodes, lost disks, wrong clocks,
 * an etcd that shows the defects of 3.4, and clients whose view is checked after every step.
 *   sim_replica --seeds N --first-seed S [--trace] [--mutant M]
 * Exit 0: all held. 1: an invariant broke (the seed is printed, and replays exactly). 2: usage. */
#include "tests/sim/sim_world.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FAULTS_MIN 20u

#ifdef REPLICA_MUTANTS
int replica_mutant;
#endif
struct sim w;
bool sim_tracing;
uint8_t sim_scratch[APPLY_SCRATCH_BYTES];
static uint64_t total_steps, total_acked, total_reads, total_faults, total_epochs, total_losses,
    total_strays, total_us, faults_least = UINT64_MAX;

void trace(const char *fmt, ...)
{
    va_list ap;

    if (!sim_tracing) return;
    (void)printf("%10.3f ", (double)w.now / 1e6);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)putchar('\n');
}

void fail(const char *fmt, ...)
{
    va_list ap;

    (void)printf("seed %llu FAILED at %.3f s: ", (unsigned long long)w.seed, (double)w.now / 1e6);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\nreplay: tests/sim/run --seeds 1 --first-seed %llu --trace\n",
                 (unsigned long long)w.seed);
    (void)fflush(stdout);
    _exit(1);
}

static void on_abort(int sig)
{
    (void)sig;
    (void)printf("seed %llu FAILED at %.3f s: a CHECK\n", (unsigned long long)w.seed,
                 (double)w.now / 1e6);
    (void)fflush(stdout);
    _exit(1);
}

uint64_t rnd(uint64_t n)
{
    return sim_rand(&w.rng, n);
}

bool chance(uint32_t per_10000)
{
    return sim_chance(&w.rng, per_10000);
}

uint64_t between(uint64_t lo, uint64_t hi)
{
    return lo + rnd(hi - lo + 1);
}

void later(int type, int node, uint64_t in_us, struct sim_event e)
{
    e.type = type;
    e.node = node;
    e.at_us = w.now + in_us;
    if (node >= 0) e.life = w.nodes[node].life;
    sim_push(&w.q, e);
}

uint64_t clock_of(const struct node *n)
{
    return n->clock_ms + (w.now - n->clock_us) * n->rate_ppm / 1000000u / MS;
}

/* ---- the loop ---- */

/* Whether a node's process is there to see it; while it is paused all waits, but its clock. */
static bool reaches(struct sim_event *e)
{
    struct node *n = &w.nodes[e->node];

    if (e->type == EV_CAS_AT_ETCD) return true;
    if (e->type == EV_RESTART) return !n->alive;
    if (!n->alive || (e->life != 0 && e->life != n->life)) return false;
    if (n->paused_us <= w.now) return true;
    e->at_us = n->paused_us;
    sim_push(&w.q, *e);
    return false;
}

static void dispatch(const struct sim_event *e)
{
    switch ((enum ev)e->type) {
    case EV_CAS_AT_ETCD:
    case EV_CAS_BACK:
    case EV_READ_AT_ETCD:
    case EV_WATCH:
    case EV_RELIST:
    case EV_MANAGER:
        etcd_event(e);
        break;
    case EV_CLIENT:
        client_event(e);
        break;
    case EV_PROPOSE:
    case EV_READ:
    case EV_READ_DONE:
        client_request(&w.nodes[e->node], e);
        break;
    case EV_FAULT:
    case EV_STRIKE:
        fault_event(e);
        break;
    default:
        node_event(&w.nodes[e->node], e);
        break;
    }
}

static void run_until(uint64_t until)
{
    struct sim_event e;

    while (w.q.n > 0 && w.q.e[0].at_us <= until && sim_pop(&w.q, &e)) {
        w.now = e.at_us;
        if (e.node < 0 || reaches(&e)) dispatch(&e);
    }
    w.now = MAX(w.now, until);
}

/* All healed: those wished for are to be in sync and equal, and the group to serve. */
static void settle(void)
{
    uint64_t asked;
    const char *why;

    heal();
    w.loss = w.slow = 0;
    w.ended = true;
    for (uint32_t i = 0; i < w.n; i++) {
        w.nodes[i].slow_us = 0;
        if (!w.nodes[i].alive) later(EV_RESTART, (int)i, 1 * MS, (struct sim_event){0});
    }
    manager_last_wish();
    trace("all healed for good");
    run_until(w.now + 1000 * MS);
    for (uint32_t i = 0; i < w.n && w.mad_clocks; i++) { /* their clocks, too */
        w.nodes[i].clock_ms = clock_of(&w.nodes[i]);
        w.nodes[i].clock_us = w.now;
        w.nodes[i].rate_ppm = 1000000;
    }
    w.end_us = w.now;
    while ((why = truth_settled()) != NULL) {
        if (w.now > w.end_us + 90000u * MS) fail("%s", why);
        run_until(w.now + 500 * MS);
    }
    w.ended = false; /* a little of all kinds of requests, without faults */
    for (uint32_t i = 0; i < CLIENTS; i++)
        later(EV_CLIENT, -1, between(0, 50 * MS), (struct sim_event){.a = i});
    asked = w.acked;
    do /* a slow disk may still be at what it was asked before */
        run_until(w.now + 1000 * MS);
    while (w.acked == asked && w.committed_n + 1024 <= INDEX_MAX && w.now < w.end_us + 30000 * MS);
    if (w.acked == asked && w.committed_n + 1024 <= INDEX_MAX)
        fail("nothing is acknowledged at the end");
    w.ended = true;
    w.end_us = w.now;
    while ((why = truth_settled()) != NULL) {
        if (w.now > w.end_us + 90000u * MS) fail("%s", why);
        run_until(w.now + 200 * MS);
    }
}

static void world_draw(uint64_t seed)
{
    memset(&w, 0, sizeof(w));
    w.seed = seed;
    w.rng.s = seed * 0x2545f4914f6cdd1du + 1;
    w.n = (uint32_t)(chance(800) ? 2 : between(3, NODES_MAX));
    w.copies = (uint32_t)(w.n > 3 && chance(3500) ? 4 : MIN(w.n, 3u));
    if (chance(1000)) w.copies = 2;
    w.min_in_sync = chance(500) ? 1 : w.copies == 4 && chance(5000) ? 3 : 2;
    w.loss = (uint32_t)(chance(4000) ? 0 : rnd(1000));
    w.slow = (uint32_t)(chance(4000) ? 0 : rnd(500));
    w.calm = (uint32_t)between(100, 1000);
    w.hooked = (uint32_t)(chance(4000) ? 0 : rnd(5000));
    w.ticks = (uint32_t)(chance(8500) ? 50 : between(2000, 9000));
    w.chunky = chance(1500) ? 60 : 10;
    w.mad_clocks = chance(700);
    w.odds = seed % 4 == 3; /* no draw: the other worlds stay as they were */
    w.strays = seed % 4 == 0;
    w.stray_rng.s = seed ^ 0x9e3779b97f4a7c15u;
    w.both = seed / 4 % 2 == 1;
    w.both_rng.s = seed ^ 0xbf58476d1ce4e5b9u;
    w.faults_left = (uint32_t)between(FAULTS_MIN, 2u * FAULTS_MIN);
    w.revision = (int64_t)between(1, 1000);
}

static void world(uint64_t seed)
{
    struct group_set first = {0};

    world_draw(seed);
    w.ops = calloc(OPS_MAX + 1, sizeof(*w.ops));
    CHECK(w.ops != NULL);
    for (uint32_t i = 0; i < w.n; i++) {
        w.nodes[i].disk.b[0] = (uint8_t)(i + 1);
        w.nodes[i].map.arena = w.nodes[i].flushed.arena = &w.arena;
        w.nodes[i].map.scratch = w.nodes[i].flushed.scratch = sim_scratch;
        w.nodes[i].log_base = 1;
    }
    for (uint32_t i = 0; i < w.copies; i++)
        group_set_add(&first, &w.nodes[i].disk);
    w.wish = w.wish_before = first;
    group_config_first(&first, &w.history[0].cfg);
    w.history[0].mod = w.revision;
    w.history_n = 1;
    for (uint32_t i = 0; i < w.n; i++)
        node_start(&w.nodes[i]);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        w.clients[i].id.b[0] = (uint8_t)(i + 1);
        later(EV_CLIENT, -1, between(0, 500 * MS), (struct sim_event){.a = i});
    }
    later(EV_FAULT, -1, between(100 * MS, 3000 * MS), (struct sim_event){0});
    if (chance(6000)) later(EV_MANAGER, -1, between(500 * MS, 6000 * MS), (struct sim_event){0});
    while (w.faults_left > 0)
        run_until(w.now + 100 * MS);
    settle();
    total_steps += w.steps;
    total_acked += w.acked;
    total_reads += w.reads;
    total_faults += w.faults;
    total_losses += w.losses;
    total_strays += w.strays_dropped;
    total_us += w.now;
    faults_least = MIN(faults_least, w.faults);
    total_epochs += etcd_now()->cfg.epoch;
    for (uint32_t i = 0; i < w.n; i++) {
        free(w.nodes[i].log);
        sim_map_free(&w.nodes[i].map);
        sim_map_free(&w.nodes[i].flushed);
    }
    for (uint32_t i = 0; i < KEYS; i++)
        free(w.changes[i]);
    free(w.ops);
    sim_queue_free(&w.q);
    sim_arena_free(&w.arena);
}

int main(int argc, char **argv)
{
    uint64_t seeds = 1, first = 1;

    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;

        if (strcmp(argv[i], "--trace") == 0) {
            sim_tracing = true;
        } else if (more && strcmp(argv[i], "--seeds") == 0) {
            seeds = strtoull(argv[++i], NULL, 10);
        } else if (more && strcmp(argv[i], "--first-seed") == 0) {
            first = strtoull(argv[++i], NULL, 10);
#ifdef REPLICA_MUTANTS
        } else if (more && strcmp(argv[i], "--mutant") == 0) {
            replica_mutant = (int)strtol(argv[++i], NULL, 10);
#endif
        } else {
            (void)fprintf(stderr, "usage: %s [--seeds N] [--first-seed S] [--trace]\n", argv[0]);
            return 2;
        }
    }
    (void)signal(SIGABRT, on_abort);
    for (uint64_t s = first; s < first + seeds; s++)
        world(s);
    (void)printf(
        "%llu seeds from %llu held: %llu steps, %.0f s, %llu faults (at least %llu a seed), "
        "%llu disks lost, %llu strays dropped, %llu epochs, %llu acknowledged writes, %llu reads\n",
        (unsigned long long)seeds, (unsigned long long)first, (unsigned long long)total_steps,
        (double)total_us / 1e6, (unsigned long long)total_faults, (unsigned long long)faults_least,
        (unsigned long long)total_losses, (unsigned long long)total_strays,
        (unsigned long long)total_epochs, (unsigned long long)total_acked,
        (unsigned long long)total_reads);
    return 0;
}
