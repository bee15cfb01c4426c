/* tests/sim/sim_etcd.c - etcd as 3.4.23 may behave (etcd-v3.md 5.1): reads that lag, watch events
 * lost, doubled, late or of the past, transactions whose outcome is unknown, that land seconds
 * later or twice, no member reachable for a while; node leases that expire under a live node or
 * outlive a dead one, which is all that the managers (at times two at once) go by. */
#include "tests/sim/sim_world.h"

const struct record *etcd_now(void)
{
    return &w.history[w.history_n - 1];
}

bool etcd_reached(int node)
{
    return w.etcd_down <= w.now && w.cut_etcd[node] <= w.now;
}

static void tell_record(struct node *n, const struct record *r)
{
    node_step(n, (struct replica_event){
                     .type = REPLICA_EV_CONFIG, .config = &r->cfg, .mod_revision = r->mod});
}

static void watch_tell(int to, struct record *r)
{
    uint32_t copies = w.ended ? 1 : chance(1000) ? 0 : chance(500) ? 2 : 1;

    for (uint32_t i = 0; i < copies; i++)
        later(EV_WATCH, to, chance(500) ? between(0, 4000 * MS) : between(200, 30 * MS),
              (struct sim_event){.p = r});
}

void etcd_replay_watch(int to)
{
    uint32_t from = (uint32_t)rnd(w.history_n);

    for (uint32_t i = from; i < w.history_n && i < from + 4; i++)
        watch_tell(to, &w.history[i]);
}

/* ---- transactions ---- */

static void record_check(const struct group_config *o, const struct group_config *c)
{
    if (group_config_check(c, NULL) != RC_OK || c->config != o->config + 1 ||
        (c->epoch != o->epoch && c->epoch != o->epoch + 1))
        fail("a record that breaks the rules");
    if ((c->epoch == o->epoch) !=
        (id128_eq(&c->primary, &o->primary) && id128_eq(&c->primary_boot, &o->primary_boot)))
        fail("epoch and primary do not change together");
    if (!group_set_has(&o->in_sync, &c->primary)) fail("one leads that was not in sync");
    for (uint32_t i = 0; i < c->in_sync.n; i++) {
        if (!group_set_has(&o->in_sync, &c->in_sync.disks[i]) &&
            !group_set_has(&o->learners, &c->in_sync.disks[i]))
            fail("one is in sync that was no learner");
    }
    if (!group_set_eq(&c->last_serving,
                      c->in_sync.n >= w.min_in_sync ? &c->in_sync : &o->last_serving))
        fail("last_serving is not the latest in-sync set that may serve");
}

static void cas_at_etcd(const struct sim_event *e)
{
    struct cas_request *r = e->p;
    const struct record *have = etcd_now();
    bool won = have->mod == r->mod || MUTANT(46);
    struct sim_event back = {
        .type = EV_CAS_BACK, .node = e->node, .life = e->life, .b = won, .p = r};

    w.cas_flying--;
    if (won) {
        struct record *next = &w.history[w.history_n++];
        const struct group_config *c = &r->cfg;

        if (w.history_n == CONFIGS_MAX) fail("too many configurations");
        record_check(&have->cfg, c);
        *next = (struct record){.cfg = *c, .mod = w.revision += (int64_t)between(1, 3)};
        back.c = (uint64_t)next->mod;
        trace("etcd: config %llu epoch %llu primary %d in_sync %u learners %u serving %u",
              (unsigned long long)c->config, (unsigned long long)c->epoch, node_of(&c->primary),
              c->in_sync.n, c->learners.n, c->last_serving.n);
        truth_acked_held("the record changed");
        for (uint32_t i = 0; i < w.n; i++)
            watch_tell((int)i, next);
    }
    if (!etcd_reached(e->node) || chance(w.loss))
        return; /* the answer is lost, the change is not */
    back.at_us =
        w.now + (chance(w.slow) || e->b != 0 ? between(5 * MS, 800 * MS) : between(200, 8 * MS));
    sim_push(&w.q, back);
}

void etcd_cas(struct node *n, const struct replica_action *a)
{
    struct cas_request *r = sim_alloc(&w.arena, sizeof(*r));
    uint8_t bytes[GROUP_CONFIG_BYTES_MAX];
    int i = node_idx(n);
    uint32_t len = group_config_encode(&a->config, bytes);
    uint32_t copies = !w.ended && chance(200) ? 2 : 1;
    bool hooked;

    r->mod = a->mod_revision;
    r->id = a->id;
    if (group_config_decode((struct slice){bytes, len}, &r->cfg, NULL) != RC_OK)
        fail("a record does not decode");
    trace("n%d: cas %llu config %llu epoch %llu in_sync %u", i, (unsigned long long)a->id,
          (unsigned long long)r->cfg.config, (unsigned long long)r->cfg.epoch, r->cfg.in_sync.n);
    later(EV_CAS_BACK, i, 600 * MS, (struct sim_event){.b = 2, .p = r});
    if (!etcd_reached(i) || chance(w.loss)) return;
    hooked = w.faults_left > 0 && chance(w.hooked);
    for (uint32_t k = 0; k < copies; k++) {
        w.cas_flying++;
        later(EV_CAS_AT_ETCD, i,
              k > 0 || chance(400) ? between(100 * MS, 5000 * MS) : between(200, 8 * MS),
              (struct sim_event){.p = r, .b = hooked});
    }
    fault_hook(i, &r->cfg);
}

static void cas_back(struct node *n, const struct sim_event *e)
{
    struct cas_request *r = e->p;
    enum replica_cas cas = e->b == 2   ? REPLICA_CAS_UNKNOWN
                           : e->b == 1 ? REPLICA_CAS_WON
                                       : REPLICA_CAS_LOST;

    if (r->told) return;
    r->told = true;
    node_step(n,
              (struct replica_event){
                  .type = REPLICA_EV_CAS, .id = r->id, .cas = cas, .mod_revision = (int64_t)e->c});
}

/* ---- reads ---- */

/* Whom a read reaches may lag (3.4's stale reads). */
static const struct record *etcd_read(uint32_t stale)
{
    uint32_t back = !w.ended && chance(stale) ? (uint32_t)rnd(4) : 0;

    return &w.history[w.history_n - 1 - MIN(back, w.history_n - 1)];
}

void etcd_read_config(struct node *n)
{
    int i = node_idx(n);

    if (!etcd_reached(i) || chance(w.loss)) return;
    later(EV_READ_AT_ETCD, i, between(200, 20 * MS), (struct sim_event){0});
}

static void relist(struct node *n)
{
    int i = node_idx(n);

    later(EV_RELIST, i, between(500 * MS, 3000 * MS), (struct sim_event){0});
    if (!etcd_reached(i)) return;
    node_step(n,
              (struct replica_event){.type = REPLICA_EV_WISH,
                                     .wish = !w.ended && chance(2000) ? &w.wish_before : &w.wish});
    tell_record(n, etcd_read(2000));
}

/* ---- the manager ---- */

/* By its lease: 5 s late for those that died, and at times plainly wrong, both ways. */
static bool believed_alive(uint32_t i)
{
    const struct node *n = &w.nodes[i];
    bool lives = n->alive && n->paused_us < w.now + 2000 * MS && etcd_reached((int)i);

    return chance(1500) ? !lives : lives;
}

static void wish_fill(struct group_set *s, bool members, bool alive)
{
    uint32_t at = (uint32_t)rnd(w.n);

    for (uint32_t k = 0; k < w.n && s->n < w.copies; k++) {
        uint32_t i = (at + k) % w.n;
        const struct id128 *d = &w.nodes[i].disk;

        if (members && !group_set_has(&etcd_now()->cfg.in_sync, d)) continue;
        if (alive && !believed_alive(i)) continue;
        group_set_add(s, d);
    }
}

static void manager(void)
{
    struct group_set s = {0};

    later(EV_MANAGER, -1, between(500 * MS, 8000 * MS), (struct sim_event){0});
    if (w.ended) return;
    if (chance(6000)) wish_fill(&s, true, true); /* else a rebalance: anybody */
    wish_fill(&s, false, true);
    wish_fill(&s, false, false);
    w.wish_before = w.wish;
    w.wish = s;
}

void manager_last_wish(void)
{
    struct group_set s = {0};
    bool keep = chance(5000);

    for (uint32_t i = 0; i < w.n && s.n < w.copies && keep; i++) {
        if (whole_member(&etcd_now()->cfg.in_sync, &w.nodes[i]))
            group_set_add(&s, &w.nodes[i].disk);
    }
    wish_fill(&s, false, false);
    w.wish = w.wish_before = s;
}

void etcd_event(const struct sim_event *e)
{
    struct node *n = e->node >= 0 ? &w.nodes[e->node] : NULL;

    switch ((enum ev)e->type) {
    case EV_CAS_AT_ETCD:
        cas_at_etcd(e);
        break;
    case EV_CAS_BACK:
        cas_back(n, e);
        break;
    case EV_READ_AT_ETCD:
        tell_record(n, etcd_read(500));
        break;
    case EV_WATCH:
        if (etcd_reached(e->node)) tell_record(n, e->p);
        break;
    case EV_RELIST:
        relist(n);
        break;
    case EV_MANAGER:
        manager();
        break;
    default:
        fail("event %d is not etcd's", e->type);
    }
}
