/* tests/sim/model_steps.c - carries out a step's actions as a service would, and what a crash
 * leaves; checks what must hold as it goes. */
#include "tests/sim/model.h"
#include <string.h>

static struct replica_actions acts;

static struct id128 boot_of(int i, uint8_t starts)
{
    struct id128 b = {{0}};

    b.b[0] = (uint8_t)(i + 1);
    b.b[1] = starts;
    return b;
}

/* ---- what a restart would find ---- */

static struct rec on_disk(const struct mnode *n, uint64_t index)
{
    struct rec r = n->disk[index];

    if (index > n->promise.cut_index && r.epoch < n->promise.cut_epoch) r = (struct rec){0};
    return r;
}

static void check_acked(const struct state *s)
{
    const struct group_set *in = &s->record[s->records_n - 1].in_sync;

    for (uint32_t i = 0; i < in->n; i++) {
        for (uint64_t k = 1; k <= s->acked; k++) {
            if (on_disk(&s->n[node_of(&in->disks[i])], k).id != s->committed[k].id)
                broken("one in sync does not hold what is acknowledged");
        }
    }
}

/* ---- actions of a step ---- */

static void step(struct state *s, int i, struct replica_event ev);

static void log_add(struct mnode *n, uint64_t epoch, uint64_t index, uint8_t id)
{
    if (index >= LOG || n->fresh_n == 2 * LOG) broken("the log is longer than the model's");
    n->mem[index] = n->fresh[n->fresh_n] = (struct rec){(uint8_t)epoch, id};
    n->fresh_at[n->fresh_n++] = (uint8_t)index;
}

static uint8_t id_of(const struct replica_entry *e, uint64_t epoch)
{
    if (e->bytes.p[1] == APPLY_NOOP && e->bytes.n > 3) return (uint8_t)(100 + epoch);
    return e->bytes.p[2];
}

static void send(struct state *s, int i, const struct replica_msg *m)
{
    struct mnode *n = &s->n[i];
    int to = node_of(&m->to_disk);
    struct mmsg *slot = NULL, *oldest = NULL;

    if (m->epoch > n->promise.epoch || m->config > n->promise.config)
        broken("it speaks of what it has not promised yet");
    if (m->type == REPLICA_PREPARE) {
        if (id128_is_zero(&s->led[m->epoch])) s->led[m->epoch] = m->from_boot;
        if (!id128_eq(&s->led[m->epoch], &m->from_boot)) broken("two leaders act in one epoch");
    }
    for (uint64_t k = n->core.commit + 1; m->type == REPLICA_ANSWER && k <= m->durable; k++) {
        if (on_disk(n, k).id != n->mem[k].id) broken("it answers for what is not on its disk");
    }
    if (s->cut == i + 1 || s->cut == to + 1) return;
    for (uint32_t k = 0; k < model_slots; k++) {
        struct mmsg *x = &s->net[i][to][k];

        if (!x->there) slot = x;
        if (x->there && (oldest == NULL || x->order < oldest->order)) oldest = x;
    }
    if (slot == NULL) slot = oldest;
    *slot = (struct mmsg){.m = *m, .order = ++s->order, .there = true};
    slot->m.n = MIN(m->n, ARRAY_N(slot->e));
    slot->m.entries = NULL;
    for (uint32_t k = 0; k < slot->m.n; k++)
        slot->e[k] = n->mem[m->first + k];
}

static void commit_seen(struct state *s, int i)
{
    struct mnode *n = &s->n[i];

    for (uint64_t k = 1; k <= n->core.commit; k++) {
        if (s->committed[k].id == 0) s->committed[k] = n->mem[k];
        if (s->committed[k].id != n->mem[k].id) broken("committed logs differ");
    }
    for (uint64_t k = 1; k <= n->core.commit; k++) {
        if (n->waits[k] == 0) continue;
        if (n->waits[k] != n->mem[k].id) broken("another entry took the place of one that waits");
        n->waits[k] = 0;
        s->acked = MAX(s->acked, (uint8_t)k);
        check_acked(s);
    }
    if (n->core.epoch < n->promise.epoch || n->core.config < n->promise.config)
        broken("it forgot what it promised");
}

static void act(struct state *s, int i, const struct replica_action *a)
{
    struct mnode *n = &s->n[i];

    switch (a->type) {
    case REPLICA_PERSIST:
        if (a->durable.epoch < n->promise.epoch || a->durable.config < n->promise.config ||
            a->durable.commit < n->promise.commit)
            broken("promises go back");
        n->wanted = a->durable;
        n->wanted_id = a->id;
        break;
    case REPLICA_APPEND:
        for (uint32_t k = 0; k < a->n; k++)
            log_add(n, a->epoch, a->first + k, id_of(&a->entries[k], a->epoch));
        break;
    case REPLICA_REAPPEND:
        for (uint64_t k = a->first; k <= a->last; k++)
            log_add(n, a->epoch, k, n->mem[k].id);
        break;
    case REPLICA_SEND:
        send(s, i, &a->msg);
        break;
    case REPLICA_APPLY:
        n->applying = true;
        break;
    case REPLICA_PROPOSED:
        if (a->rc == RC_OK) n->waits[a->first] = (uint8_t)a->token;
        break;
    case REPLICA_ABANDON:
        for (uint64_t k = a->first; k < LOG; k++)
            n->waits[k] = 0;
        break;
    case REPLICA_CAS:
        s->cas[i] = (struct mcas){.cfg = a->config,
                                  .mod = a->mod_revision,
                                  .id = a->id,
                                  .starts = n->starts,
                                  .there = true};
        break;
    case REPLICA_READ_CONFIG: /* a record may be told at any time */
    case REPLICA_CHECK_TAIL:
    case REPLICA_FORGET:
    case REPLICA_ROLE:
        break;
    case REPLICA_CHUNK:
    case REPLICA_SNAPSHOT:
        broken("no chunks and no snapshots are in the model");
    }
}

/* What needs no other's leave is done at once: the state is applied, the tail has no chunks. */
static void step(struct state *s, int i, struct replica_event ev)
{
    struct mnode *n = &s->n[i];
    uint64_t tail_epoch = 0, tail = 0;

    ev.now_ms = n->now_ms;
    replica_step(&n->core, &ev, &acts);
    for (uint32_t k = 0; k < acts.n; k++) {
        act(s, i, &acts.a[k]);
        if (acts.a[k].type != REPLICA_CHECK_TAIL) continue;
        tail_epoch = acts.a[k].epoch;
        tail = acts.a[k].last;
    }
    commit_seen(s, i);
    if (tail != 0)
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_TAIL, .epoch = tail_epoch, .index = tail});
    while (n->applying) {
        n->applying = false;
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_APPLIED, .index = n->core.apply_asked});
    }
}

/* ---- events ---- */

void model_start(struct state *s, int i)
{
    struct mnode *n = &s->n[i];
    struct replica_conf conf = {.min_in_sync = 2,
                                .beacon_ms = 1,
                                .grace_ms = GRACE_MS,
                                .remove_ms = REMOVE_MS,
                                .lone_ms = 1u << 30,
                                .patience_ms = 1u << 30};
    struct replica_start st = {.now_ms = n->now_ms, .durable = n->promise, .log_first = 1};

    n->alive = true;
    n->starts++;
    conf.disk.b[0] = (uint8_t)(i + 1);
    conf.boot = boot_of(i, n->starts);
    memset(n->mem, 0, sizeof(n->mem));
    while (st.log_last + 1 < LOG && on_disk(n, st.log_last + 1).id != 0) {
        st.log_last++;
        n->mem[st.log_last] = on_disk(n, st.log_last);
        if (n->mem[st.log_last].epoch < st.log_epoch) continue;
        st.log_epoch = n->mem[st.log_last].epoch;
        st.epoch_last = st.log_last;
    }
    replica_core_init(&n->core, &conf, &st);
    commit_seen(s, i);
}

void model_durable(struct state *s, int i, bool tell)
{
    struct mnode *n = &s->n[i];
    struct rec last = {0};
    uint8_t at = 0;

    for (uint8_t k = 0; k < n->fresh_n; k++) {
        last = n->fresh[k];
        at = n->fresh_at[k];
        if (n->disk[at].epoch <= last.epoch) n->disk[at] = last;
    }
    n->fresh_n = 0;
    check_acked(s);
    if (tell && at != 0)
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_DURABLE, .epoch = last.epoch, .index = at});
}

void model_persisted(struct state *s, int i)
{
    struct mnode *n = &s->n[i];
    uint64_t id = n->wanted_id;

    n->promise = n->wanted;
    n->wanted_id = 0;
    check_acked(s);
    step(s, i, (struct replica_event){.type = REPLICA_EV_PERSISTED, .id = id});
}

/* Nobody waits for it any more; it may land yet. */
static void cas_adrift(struct state *s, int i)
{
    for (uint32_t k = 0; k < LATES && s->cas[i].there; k++) {
        if (s->late[k].there) continue;
        s->late[k] = s->cas[i];
        s->cas[i].there = false;
    }
    s->cas[i] = (struct mcas){0};
}

void model_crash(struct state *s, int i, bool log_kept, bool promise_kept)
{
    struct mnode *n = &s->n[i];

    if (log_kept) model_durable(s, i, false);
    n->fresh_n = 0;
    if (promise_kept && n->wanted_id != 0) n->promise = n->wanted;
    n->wanted_id = 0;
    cas_adrift(s, i);
    n->alive = n->applying = false;
    memset(n->waits, 0, sizeof(n->waits));
    memset(&n->core, 0, sizeof(n->core));
    check_acked(s);
}

static void deliver(struct state *s, int from, int to, uint32_t k)
{
    static const uint8_t kinds[] = {APPLY_TXN, APPLY_NOOP};
    struct mmsg x = s->net[from][to][k];
    struct replica_entry e[ARRAY_N(x.e)];
    uint8_t bytes[ARRAY_N(x.e)][4];

    s->net[from][to][k] = (struct mmsg){0};
    for (uint32_t j = 0; j < x.m.n; j++) {
        bytes[j][0] = 1;
        bytes[j][1] = kinds[x.e[j].id >= 100];
        bytes[j][2] = x.e[j].id;
        e[j] = (struct replica_entry){x.e[j].epoch, {bytes[j], 3}};
    }
    x.m.entries = x.m.n > 0 ? e : NULL;
    step(s, to, (struct replica_event){.type = REPLICA_EV_MESSAGE, .msg = &x.m});
}

/* At etcd: the newest record's place is its mod revision. */
static bool cas_land(struct state *s, const struct mcas *c)
{
    const struct group_config *have = &s->record[s->records_n - 1];

    if (c->mod != s->records_n) return false;
    if (group_config_check(&c->cfg, NULL) != RC_OK || c->cfg.config != have->config + 1)
        broken("a record that breaks the rules");
    if (!group_set_has(&have->in_sync, &c->cfg.primary)) broken("one leads that was not in sync");
    s->record[s->records_n++] = c->cfg;
    s->changes--;
    check_acked(s);
    return true;
}

static void cas_tell(struct state *s, int i, enum replica_cas cas)
{
    struct mcas c = s->cas[i];

    s->cas[i] = (struct mcas){0};
    if (!s->n[i].alive || c.starts != s->n[i].starts) return;
    step(s, i,
         (struct replica_event){
             .type = REPLICA_EV_CAS, .id = c.id, .cas = cas, .mod_revision = s->records_n});
}

void model_pass(struct state *s, int i, uint64_t ms, uint32_t silent)
{
    struct mnode *n = &s->n[i];

    n->now_ms += ms;
    for (uint32_t k = 0; k < n->core.peers_n; k++) {
        struct replica_peer *p = &n->core.peers[k];

        if (k == silent) continue;
        p->heard_ms = p->moved_ms = n->now_ms;
        if (p->stamp_ms != 0) p->stamp_ms = n->now_ms;
    }
    step(s, i, (struct replica_event){.type = REPLICA_EV_TICK});
}

void model_take(struct state *s, const struct option *o)
{
    struct mnode *n = &s->n[o->a < N ? o->a : 0];
    uint8_t bytes[3] = {1, APPLY_TXN, s->writes};
    struct mcas late;
    bool won;

    switch ((enum kind)o->kind) {
    case TELL:
        step(s, o->a,
             (struct replica_event){
                 .type = REPLICA_EV_CONFIG, .config = &s->record[o->b], .mod_revision = o->b + 1});
        break;
    case DELIVER:
        deliver(s, o->a, o->b, o->c);
        break;
    case SYNC:
        model_durable(s, o->a, true);
        break;
    case PERSIST:
        model_persisted(s, o->a);
        break;
    case LAND:
        won = cas_land(s, &s->cas[o->a]);
        cas_tell(s, o->a,
                 o->c == 0 ? REPLICA_CAS_UNKNOWN
                 : won     ? REPLICA_CAS_WON
                           : REPLICA_CAS_LOST);
        break;
    case UNKNOWN:
        late = s->cas[o->a];
        cas_adrift(s, o->a);
        s->cas[o->a] = late;
        cas_tell(s, o->a, REPLICA_CAS_UNKNOWN);
        break;
    case LATE:
        late = s->late[o->a];
        s->late[o->a] = (struct mcas){0};
        (void)cas_land(s, &late);
        break;
    case WRITE:
        s->writes--;
        step(s, o->a,
             (struct replica_event){
                 .type = REPLICA_EV_PROPOSE, .entry = {bytes, sizeof(bytes)}, .token = bytes[2]});
        break;
    case GRACE:
        s->timeouts--;
        model_pass(s, o->a, GRACE_MS, n->core.peers_n);
        break;
    case REMOVE:
        s->timeouts--;
        model_pass(s, o->a, REMOVE_MS, o->b);
        break;
    case BEACON:
        s->beacons--;
        model_pass(s, o->a, n->core.serve_ms > n->now_ms ? n->core.serve_ms - n->now_ms : 1,
                   n->core.peers_n);
        break;
    case RETRY:
        s->timeouts--;
        model_pass(s, o->a, RETRY_MS, n->core.peers_n);
        break;
    case CRASH:
        s->crashes--;
        model_crash(s, o->a, o->b != 0, o->c != 0);
        break;
    case START:
        model_start(s, o->a);
        break;
    case CUT:
        s->cuts--;
        s->cut = o->a + 1;
        break;
    case HEAL:
        s->cut = 0;
        break;
    }
}
