/* storaged/replica/replica_core.c - events, promises, configuration, following. Leading is in
 * replica_lead_core.c.
 *
 * Invariants: (1) epoch and config never go down, nor across a restart: a change is persisted
 * before anything that rests on it is sent; (2) commit <= held <= verified <= log_last for a
 * follower, so what is applied is durable here; (3) a candidate answers no primary of the epoch it
 * wants to end; (4) `verified` begins anew at commit in each epoch: entries of older epochs count
 * for nothing until this epoch's primary sent them again. */
#include "storaged/replica/replica_core_priv.h"
#include "storaged/replica/apply_core.h"

struct replica_action *replica_act(struct replica_actions *out, enum replica_act_type type)
{
    struct replica_action *a = &out->a[out->n];

    CHECK(out->n < REPLICA_ACTIONS_MAX);
    out->n++;
    *a = (struct replica_action){.type = type};
    return a;
}

struct replica_msg *replica_send(struct replica_core *c, struct replica_actions *out,
                                 enum replica_msg_type type, const struct id128 *to)
{
    struct replica_action *a;

    if (c->persisted_id < c->gate_id) return NULL;
    a = replica_act(out, REPLICA_SEND);
    a->peer = *to;
    a->msg.type = type;
    a->msg.from_disk = c->conf.disk;
    a->msg.from_boot = c->conf.boot;
    a->msg.to_disk = *to;
    a->msg.config = c->config;
    a->msg.epoch = c->epoch;
    a->msg.last = c->log_last;
    return &a->msg;
}

void replica_persist(struct replica_core *c, struct replica_actions *out, bool gate)
{
    struct replica_action *a = replica_act(out, REPLICA_PERSIST);

    c->durable.epoch = c->epoch;
    c->durable.config = c->config;
    c->durable.commit = MUTANT(58) ? c->log_last : c->commit;
    c->durable.damaged = c->damaged;
    a->id = ++c->persist_id;
    a->durable = c->durable;
    if (gate && !MUTANT(20)) c->gate_id = c->persist_id;
}

void replica_role_set(struct replica_core *c, struct replica_actions *out, enum replica_role role)
{
    if (c->role == role) return;
    c->role = role;
    (void)replica_act(out, REPLICA_ROLE);
}

bool replica_leads(const struct replica_core *c)
{
    return c->role == REPLICA_TAKEOVER || c->role == REPLICA_PRIMARY;
}

void replica_read_config(struct replica_core *c, struct replica_actions *out)
{
    if (c->read_ms != 0 && c->now_ms < c->read_ms + REPLICA_RETRY_MS) return;
    c->read_ms = c->now_ms;
    (void)replica_act(out, REPLICA_READ_CONFIG);
}

/* ---- chunks awaited ---- */

static bool chunk_waits(const struct replica_core *c, uint64_t index)
{
    return (c->chunk_wait[index % CHUNK_RING / 64] >> (index % 64) & 1) != 0;
}

static void chunk_mark(struct replica_core *c, uint64_t index, bool waits)
{
    uint64_t bit = 1ull << (index % 64), *w = &c->chunk_wait[index % CHUNK_RING / 64];

    *w = waits ? *w | bit : *w & ~bit;
    if (waits) c->chunks_awaited = true;
}

static void chunks_clear(struct replica_core *c)
{
    if (c->chunks_awaited) memset(c->chunk_wait, 0, sizeof(c->chunk_wait));
    c->chunks_awaited = false;
}

void replica_chunk_await(struct replica_core *c, struct replica_actions *out, uint64_t index,
                         const struct replica_entry *e, const struct id128 *from)
{
    struct replica_action *a;

    chunk_mark(c, index, false);
    if (!apply_entry_adds_chunk(e->bytes) || (MUTANT(84) && e->bytes.p[1] == APPLY_CHUNK_TXN))
        return;
    chunk_mark(c, index, true);
    a = replica_act(out, REPLICA_CHUNK);
    a->epoch = c->epoch;
    a->first = index;
    a->peer = *from;
    a->entries = e;
    a->n = 1;
}

uint64_t replica_held(const struct replica_core *c)
{
    uint64_t upto = replica_leads(c) ? c->log_durable : MIN(c->verified, c->log_durable);

    if (MUTANT(7) && !replica_leads(c)) upto = c->verified;
    if (!c->chunks_awaited || MUTANT(10)) return upto;
    for (uint64_t i = c->commit + 1; i <= upto; i++) {
        if (chunk_waits(c, i)) return i - 1;
    }
    return upto;
}

/* ---- configuration ---- */

void replica_cas(struct replica_core *c, struct replica_actions *out,
                 const struct group_config *want)
{
    struct replica_action *a = replica_act(out, REPLICA_CAS);

    if (want != &c->cas_cfg) {
        CHECK(c->cas_state == REPLICA_CAS_NONE);
        CHECK(group_config_check(want, NULL) == RC_OK);
        c->cas_cfg = *want;
        c->cas_mod_revision = c->mod_revision;
        c->cas_state = REPLICA_CAS_SENT;
    }
    c->cas_lost = false;
    c->cas_ms = c->now_ms;
    a->id = ++c->cas_id;
    a->config = c->cas_cfg;
    a->mod_revision = c->cas_mod_revision;
}

static void cas_end(struct replica_core *c)
{
    c->cas_state = REPLICA_CAS_NONE;
    c->cas_id++; /* a late result is of no interest */
}

/* What the newest record makes of this replica, leading apart. */
static enum replica_role follower_role(const struct replica_core *c)
{
    if (c->cfg.config == 0) return REPLICA_NONE;
    if (group_set_has(&c->cfg.in_sync, &c->conf.disk))
        return c->cas_state == REPLICA_CAS_NONE ? REPLICA_BACKUP : REPLICA_CANDIDATE;
    if (group_set_has(&c->cfg.learners, &c->conf.disk)) return REPLICA_LEARNER;
    return REPLICA_NONE;
}

/* A higher epoch was seen, by record or message: whatever was under way here is over. */
static void epoch_begin(struct replica_core *c, struct replica_actions *out, uint64_t epoch)
{
    if (replica_leads(c)) replica_act(out, REPLICA_ABANDON)->first = c->commit + 1;
    c->epoch = epoch;
    c->leader = c->leader_boot = (struct id128){{0}};
    if (!MUTANT(17)) c->verified = c->log_durable = c->commit;
    if (MUTANT(62)) c->verified = c->log_durable = c->log_last; /* P7 */
    c->epoch_last = 0;
    c->tail = 0;
    c->tail_checking = false;
    c->leader_commit = 0;
    if (!MUTANT(34)) c->stamp_ms = c->seq = 0;
    c->word_ms = c->now_ms; /* the new primary gets its grace */
    c->peers_n = 0;
    chunks_clear(c);
    replica_act(out, REPLICA_FORGET)->epoch = epoch;
    if (c->cas_state != REPLICA_CAS_NONE && c->cas_cfg.epoch <= epoch) cas_end(c);
    replica_role_set(c, out, follower_role(c));
}

static void see(struct replica_core *c, struct replica_actions *out, uint64_t epoch,
                uint64_t config)
{
    bool news = epoch > c->epoch || config > c->config;

    c->config = MAX(c->config, config);
    if (epoch > c->epoch) epoch_begin(c, out, epoch);
    if (news) replica_persist(c, out, /* gate= */ true);
}

/* In sync and sane. Not also of last_serving: where in_sync is below min_in_sync, one that was
 * promoted since holds all that the others hold, and if they are lost it is the one good copy. P4:
 * never a learner. */
static bool may_lead(const struct replica_core *c)
{
    if (MUTANT(60) && !group_set_has(&c->cfg.last_serving, &c->conf.disk)) return false;
    return !c->damaged && !c->snapshot_running && c->cas_state == REPLICA_CAS_NONE &&
           c->cfg.epoch == c->epoch && c->cfg.config == c->config &&
           (c->role == REPLICA_BACKUP || (MUTANT(14) && c->role == REPLICA_LEARNER));
}

static void candidacy(struct replica_core *c, struct replica_actions *out)
{
    struct group_config want = c->cfg;

    want.config++;
    if (!MUTANT(39)) want.epoch++;
    if (!id128_eq(&want.primary, &c->conf.disk)) group_set_remove(&want.in_sync, &want.primary);
    want.primary = c->conf.disk;
    want.primary_boot = c->conf.boot;
    if (want.in_sync.n >= c->conf.min_in_sync) want.last_serving = want.in_sync;
    c->fresh = id128_is_zero(&c->cfg.primary_boot);
    if (MUTANT(61) && !group_set_has(&c->wish, &c->cfg.primary)) c->fresh = c->wish.n > 0;
    replica_cas(c, out, &want);
    replica_role_set(c, out, REPLICA_CANDIDATE);
}

/* The record as etcd has or had it. */
static void adopt(struct replica_core *c, struct replica_actions *out,
                  const struct group_config *cfg, int64_t mod_revision)
{
    bool was_member = group_set_has(&c->cfg.in_sync, &c->conf.disk);

    if (cfg->config <= c->cfg.config) {
        if (MUTANT(18) && cfg->config == c->cfg.config && c->cas_state == REPLICA_CAS_DOUBT)
            cas_end(c);
        return;
    }
    c->cfg = *cfg;
    c->mod_revision = mod_revision;
    /* The revision moved: what was under way has won (this is it) or can't any more. */
    if (c->cas_state != REPLICA_CAS_NONE) cas_end(c);
    see(c, out, cfg->epoch, cfg->config);
    if (cfg->epoch == c->epoch) {
        c->leader = cfg->primary;
        c->leader_boot = cfg->primary_boot;
    }
    if (!was_member) c->word_ms = c->now_ms;
    if (cfg->epoch == c->epoch && id128_eq(&cfg->primary, &c->conf.disk) &&
        (id128_eq(&cfg->primary_boot, &c->conf.boot) || MUTANT(4)) &&
        !c->damaged) { /* handed over to, and found odd before it knew */
        if (replica_leads(c)) {
            replica_lead_config(c, out);
        } else {
            replica_lead_start(c, out);
        }
        return;
    }
    replica_role_set(c, out, follower_role(c));
    /* This disk led, or shall be the first, but this process did not win: P1. */
    if (id128_eq(&cfg->primary, &c->conf.disk) && may_lead(c)) candidacy(c, out);
}

static void on_cas(struct replica_core *c, struct replica_actions *out,
                   const struct replica_event *ev)
{
    struct group_config won = c->cas_cfg;

    if (c->cas_state == REPLICA_CAS_NONE || (ev->id != c->cas_id && !MUTANT(35))) return;
    switch (ev->cas) {
    case REPLICA_CAS_WON:
        adopt(c, out, &won, ev->mod_revision);
        break;
    case REPLICA_CAS_LOST:
        if (MUTANT(11)) {
            cas_end(c);
            break;
        }
        /* An earlier try of the same may have won, or somebody else: only the record tells. */
        c->cas_state = REPLICA_CAS_DOUBT;
        c->cas_lost = true;
        c->read_ms = 0;
        replica_read_config(c, out);
        break;
    case REPLICA_CAS_UNKNOWN:
        if (MUTANT(11) || MUTANT(33)) {
            cas_end(c);
            break;
        }
        c->cas_state = REPLICA_CAS_DOUBT;
        break;
    }
}

/* ---- following ---- */

static void answer(struct replica_core *c, struct replica_actions *out)
{
    struct replica_msg *m;

    if (id128_is_zero(&c->leader) || c->stamp_ms == 0) return;
    m = replica_send(c, out, REPLICA_ANSWER, &c->leader);
    if (m == NULL) return;
    m->stamp_ms = c->stamp_ms;
    m->seq = c->seq;
    m->durable = c->answered = replica_held(c);
    m->want = c->verified + 1;
    m->damaged = c->damaged;
}

static void follow_advance(struct replica_core *c, struct replica_actions *out)
{
    uint64_t held = replica_held(c);
    uint64_t upto = MIN(c->leader_commit, MUTANT(25) ? c->log_last : held);

    if (upto > c->commit) {
        c->commit = upto;
        if (c->commit >= c->durable.commit + REPLICA_PERSIST_EVERY)
            replica_persist(c, out, /* gate= */ false);
    }
}

static void follow_entries(struct replica_core *c, struct replica_actions *out,
                           const struct replica_msg *m)
{
    uint64_t from = c->verified + 1, upto = c->verified, held = replica_held(c);
    struct replica_action *a;

    if (MUTANT(36) && m->first > from) {
        from = m->first;
        upto = from - 1;
    }
    if (m->first > from) return; /* a gap: the answer says what is wanted */
    while (upto + 1 < m->first + m->n && upto + 1 < held + CHUNK_RING &&
           m->entries[upto + 1 - m->first].bytes.n >= 2)
        upto++;
    while (MUTANT(13) && from <= upto && from <= c->log_last) /* P2: what is there is kept */
        c->verified = from++;
    if (upto < from) return;
    a = replica_act(out, REPLICA_APPEND);
    a->epoch = c->epoch;
    a->first = from;
    a->n = (uint32_t)(upto - from + 1);
    a->entries = &m->entries[from - m->first];
    c->verified = upto;
    c->epoch_last = MAX(c->epoch_last, upto);
    c->log_last = MAX(c->log_last, upto);
    for (uint64_t i = from; i <= upto; i++)
        replica_chunk_await(c, out, i, &m->entries[i - m->first], &c->leader);
    if (m->tail != 0 && upto >= m->tail) {
        /* The new primary's own first entry is here, so all that it re-proposed is: what lies above
         * from older epochs it never had, hence nobody was told that it is committed. Not so what
         * lies above from this epoch: this disk answered for it before its process started anew. */
        c->log_last = MUTANT(69) ? upto : MAX(upto, c->epoch_last);
        if (c->durable.cut_epoch < c->epoch) {
            c->durable.cut_epoch = c->epoch;
            c->durable.cut_index = m->tail;
            replica_persist(c, out, /* gate= */ false);
        }
    }
}

static void on_prepare(struct replica_core *c, struct replica_actions *out,
                       const struct replica_msg *m)
{
    uint64_t verified = c->verified;

    if (id128_is_zero(&c->leader)) {
        c->leader = m->from_disk;
        c->leader_boot = m->from_boot;
    }
    if (!id128_eq(&c->leader, &m->from_disk) || !id128_eq(&c->leader_boot, &m->from_boot)) return;
    if (replica_leads(c) || c->role == REPLICA_CANDIDATE) return;
    c->word_ms = c->answer_ms = c->now_ms;
    c->stamp_ms = MAX(c->stamp_ms, m->stamp_ms);
    c->seq = MAX(c->seq, m->seq);
    c->leader_commit = MAX(c->leader_commit, m->commit);
    if (!c->damaged && !c->snapshot_running) {
        if (m->n > 0) follow_entries(c, out, m);
        follow_advance(c, out);
    }
    /* The last of what the leader has is answered when it is durable (at the latest to the next
     * beacon): another answer before would say nothing that it waits for. */
    if (c->verified > verified && m->n < REPLICA_BATCH && replica_held(c) < c->verified) return;
    answer(c, out);
}

static void on_no_log(struct replica_core *c, struct replica_actions *out,
                      const struct replica_msg *m)
{
    struct replica_action *a;

    if (c->role != REPLICA_LEARNER || c->snapshot_running || c->cfg.epoch != c->epoch ||
        !id128_eq(&c->leader, &m->from_disk) || !id128_eq(&c->leader_boot, &m->from_boot))
        return;
    if (!c->damaged && m->commit <= c->verified + 1) return; /* late: it is here by now */
    c->word_ms = c->now_ms;
    c->snapshot_running = true;
    a = replica_act(out, REPLICA_SNAPSHOT);
    a->epoch = c->epoch;
    a->peer = c->leader;
    a->first = MAX(m->commit, c->commit + 1);
}

static void on_snapshot(struct replica_core *c, struct replica_actions *out,
                        const struct replica_event *ev)
{
    c->snapshot_running = false;
    if (ev->rc != RC_OK) return;
    CHECK(ev->index >= c->commit || c->damaged);
    c->applied = c->apply_asked = c->commit = c->verified = c->log_durable = ev->index;
    c->log_first = ev->index + 1;
    c->log_last = ev->index;
    c->damaged = false;
    c->durable.cut_index = ev->index;
    c->durable.cut_epoch = c->epoch; /* of what was here before nothing above counts */
    chunks_clear(c);
    replica_persist(c, out, /* gate= */ true);
    answer(c, out);
}

/* As a disk that is found damaged at a start. A leader also falls silent: its backups take over
 * when their grace is over, and take it out of in_sync with that. What is committed they hold. Not
 * while a transaction is under way: it may make this one the last in sync, then dark for ever. A
 * backup of this epoch that wants nothing has its primary, a good copy, in the record; and the next
 * comparison will say it again. */
static void on_odd(struct replica_core *c, struct replica_actions *out,
                   const struct replica_event *ev)
{
    if (ev->epoch != c->epoch || ev->id != c->cfg.config) return; /* healed since, maybe */
    if (c->role != REPLICA_BACKUP && !replica_leads(c)) return; /* a learner may just be promoted */
    if (c->damaged || (c->cas_state != REPLICA_CAS_NONE && !MUTANT(72))) return;
    c->damaged = true;
    if (replica_leads(c) && !MUTANT(71)) {
        replica_act(out, REPLICA_ABANDON)->first = c->commit + 1;
        c->peers_n = 0;
        c->tail = 0;
        c->tail_checking = false;
        c->verified = c->log_durable = c->commit;
        c->word_ms = c->now_ms;
        replica_role_set(c, out, follower_role(c));
    }
    replica_persist(c, out, /* gate= */ true);
}

static void on_message(struct replica_core *c, struct replica_actions *out,
                       const struct replica_msg *m)
{
    struct replica_msg *r;

    if (!id128_eq(&m->to_disk, &c->conf.disk) || id128_eq(&m->from_disk, &c->conf.disk)) return;
    if (m->type == REPLICA_JOIN) {
        /* Not from a member: its epoch may be of a record that this one is yet to see. */
        if (m->config > c->config || m->epoch > c->epoch) replica_read_config(c, out);
        if (replica_leads(c)) replica_lead_join(c, m);
        return;
    }
    if (m->epoch < c->epoch || (m->epoch == c->epoch && m->config < c->config)) {
        if (MUTANT(5) && m->type == REPLICA_PREPARE && !replica_leads(c)) {
            c->leader = m->from_disk;
            c->leader_boot = m->from_boot;
            on_prepare(c, out, m);
            return;
        }
        if (m->type == REPLICA_PREPARE) {
            r = replica_send(c, out, REPLICA_REFUSE, &m->from_disk);
            (void)r; /* its head says all */
        }
        if (m->type == REPLICA_ANSWER && m->epoch == c->epoch && replica_leads(c))
            replica_lead_answer(c, out, m); /* its since_config decides */
        return;
    }
    see(c, out, m->epoch, m->config);
    if (c->epoch > c->cfg.epoch || c->config > c->cfg.config) replica_read_config(c, out);
    switch (m->type) {
    case REPLICA_PREPARE:
        on_prepare(c, out, m);
        break;
    case REPLICA_ANSWER:
        if (replica_leads(c)) replica_lead_answer(c, out, m);
        break;
    case REPLICA_NO_LOG:
        on_no_log(c, out, m);
        break;
    case REPLICA_REFUSE:
    case REPLICA_JOIN:
    case REPLICA_SNAP_GET:
    case REPLICA_SNAP_PAGE:
    case REPLICA_COMPARE_GET:
    case REPLICA_COMPARE_SUM:
    case REPLICA_COMPARE_ODD:
        break;
    }
}

static void on_tick(struct replica_core *c, struct replica_actions *out)
{
    if (c->cas_state == REPLICA_CAS_DOUBT && c->now_ms >= c->cas_ms + REPLICA_RETRY_MS) {
        /* The same transaction again: it wins, or its loss is certain and the record tells why. So
         * a first try that is still on its way can't land after we went on. */
        if (c->cas_lost) {
            replica_read_config(c, out);
        } else {
            replica_cas(c, out, &c->cas_cfg);
        }
    }
    if (c->cfg.config == 0 || c->epoch > c->cfg.epoch || c->config > c->cfg.config)
        replica_read_config(c, out);
    if (replica_leads(c)) {
        replica_lead_tick(c, out);
        return;
    }
    if (c->role == REPLICA_NONE && c->cfg.config != 0 && c->now_ms >= c->join_ms) {
        struct replica_msg *m = replica_send(c, out, REPLICA_JOIN, &c->cfg.primary);

        c->join_ms = c->now_ms + REPLICA_JOIN_MS;
        if (m != NULL) m->want = c->verified + 1;
        if (m != NULL) m->damaged = c->damaged;
    }
    if (may_lead(c)) {
        uint64_t rank = 0;

        /* Candidates come one after another, so that rarely two transactions race. */
        while (rank + 1 < c->cfg.in_sync.n && !id128_eq(&c->cfg.in_sync.disks[rank], &c->conf.disk))
            rank++;
        if (id128_eq(&c->cfg.primary, &c->conf.disk) ||
            (MUTANT(61) && c->wish.n > 0 && !group_set_has(&c->wish, &c->cfg.primary)) || /* P9 */
            c->now_ms >= c->word_ms + (MUTANT(6) ? c->conf.beacon_ms : c->conf.grace_ms) +
                             rank * c->conf.beacon_ms / 2)
            candidacy(c, out);
    }
}

/* ---- the outside ---- */

static uint32_t or_default(uint32_t v, uint32_t def)
{
    return v != 0 ? v : def;
}

void replica_core_init(struct replica_core *c, const struct replica_conf *conf,
                       const struct replica_start *s)
{
    *c = (struct replica_core){.conf = *conf};
    CHECK(conf->min_in_sync >= 1 && !id128_is_zero(&conf->disk) && !id128_is_zero(&conf->boot));
    c->conf.beacon_ms = or_default(conf->beacon_ms, 200);
    c->conf.lease_ms = or_default(conf->lease_ms, 1000);
    c->conf.grace_ms = or_default(conf->grace_ms, 1300);
    c->conf.remove_ms = or_default(conf->remove_ms, 1000);
    c->conf.lone_ms = or_default(conf->lone_ms, 5000);
    c->conf.patience_ms = or_default(conf->patience_ms, 15000);
    CHECK(c->conf.beacon_ms < c->conf.lease_ms && c->conf.lease_ms < c->conf.grace_ms);
    c->now_ms = c->start_ms = c->word_ms = c->answer_ms = s->now_ms;
    c->durable = s->durable;
    /* A record may have become durable before the promise of its epoch did: it is one, too. Else an
     * older primary's entries would be answered for and hidden by it at the next start. */
    c->epoch = MUTANT(70) ? s->durable.epoch : MAX(s->durable.epoch, s->log_epoch);
    if (MUTANT(21)) c->epoch = 0;
    c->config = MUTANT(21) ? 0 : s->durable.config;
    c->applied = c->apply_asked = s->applied;
    c->log_first = s->log_last == 0 ? s->applied + 1 : s->log_first;
    c->log_last = MAX(s->log_last, s->applied);
    c->epoch_last = s->log_epoch == c->epoch ? s->epoch_last : 0;
    c->commit = MAX(s->durable.commit, s->applied);
    if (MUTANT(12)) c->commit = c->log_last;
    /* P5, rule 7: what is damaged stays, counts for nothing and is replaced by a snapshot. */
    c->damaged = s->damaged || s->durable.damaged || c->commit > c->log_last ||
                 (s->log_last > s->applied && c->log_first > s->applied + 1);
    if (MUTANT(15)) c->damaged = false; /* P5 */
    if (c->damaged) c->commit = c->applied;
    c->verified = c->log_durable = c->commit;
}

void replica_step(struct replica_core *c, const struct replica_event *ev,
                  struct replica_actions *out)
{
    uint64_t held;

    out->n = 0;
    c->now_ms = MAX(c->now_ms, ev->now_ms);
    held = c->answered;
    if (c->persist_id == 0 && c->durable.epoch < c->epoch)
        replica_persist(c, out, /* gate= */ true);
    switch (ev->type) {
    case REPLICA_EV_TICK:
        on_tick(c, out);
        break;
    case REPLICA_EV_CONFIG:
        adopt(c, out, ev->config, ev->mod_revision);
        break;
    case REPLICA_EV_WISH:
        c->wish = *ev->wish;
        break;
    case REPLICA_EV_CAS:
        on_cas(c, out, ev);
        break;
    case REPLICA_EV_MESSAGE:
        on_message(c, out, ev->msg);
        break;
    case REPLICA_EV_DURABLE:
        if (ev->epoch == c->epoch || MUTANT(26)) c->log_durable = MAX(c->log_durable, ev->index);
        break;
    case REPLICA_EV_CHUNK:
        if (ev->epoch == c->epoch) chunk_mark(c, ev->index, false);
        break;
    case REPLICA_EV_TAIL:
        if (ev->epoch == c->epoch && c->tail_checking) replica_lead_tail(c, out, ev->index);
        break;
    case REPLICA_EV_PROPOSE:
        replica_lead_propose(c, out, ev);
        break;
    case REPLICA_EV_APPLIED:
        c->applied = MAX(c->applied, ev->index);
        break;
    case REPLICA_EV_PERSISTED:
        c->persisted_id = MAX(c->persisted_id, ev->id);
        if (!replica_leads(c) && c->role != REPLICA_CANDIDATE) answer(c, out);
        break;
    case REPLICA_EV_SNAPSHOT:
        on_snapshot(c, out, ev);
        break;
    case REPLICA_EV_TRIMMED:
        c->log_first = MAX(c->log_first, ev->index);
        break;
    case REPLICA_EV_ODD:
        on_odd(c, out, ev);
        break;
    }
    if (ev->type == REPLICA_EV_DURABLE || ev->type == REPLICA_EV_CHUNK) {
        if (!replica_leads(c) && c->role != REPLICA_CANDIDATE && !c->damaged) {
            follow_advance(c, out);
            if (replica_held(c) > held) answer(c, out);
        }
    }
    if (replica_leads(c)) replica_lead_advance(c, out);
    if (c->apply_asked < c->commit && !c->snapshot_running && !c->damaged) {
        c->apply_asked = c->commit;
        replica_act(out, REPLICA_APPLY)->last = c->commit;
    }
}

enum replica_role replica_role(const struct replica_core *c)
{
    return c->role;
}

const char *replica_role_name(enum replica_role role)
{
    static const char *const names[] = {"none",      "learner",  "backup",
                                        "candidate", "takeover", "primary"};

    return (size_t)role < ARRAY_N(names) ? names[role] : "?";
}

enum rc replica_may_read_chunk(const struct replica_core *c)
{
    return c->role == REPLICA_NONE ? RC_STALE : RC_OK;
}

struct id128 replica_leader(const struct replica_core *c)
{
    return c->cfg.epoch == c->epoch ? c->cfg.primary : c->leader;
}
