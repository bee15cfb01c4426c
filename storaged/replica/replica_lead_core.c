/* storaged/replica/replica_lead_core.c - the primary's part.
 *
 * Invariants: (1) nothing of an epoch is sent before its tail was checked and appended again under
 * it; (2) while a transaction of its own is under way, commits and reads need the members of before
 * and of after, and while its outcome is unknown there are none; (3) commit never passes what every
 * one of them has durably; (4) below min_in_sync nothing is accepted, and what waited is given up
 * as unknown, though it may still be committed: the sole survivor's log is the group's log. */
#include "storaged/replica/replica_core_priv.h"
#include "storaged/replica/apply_core.h"

static struct replica_peer *peer_of(struct replica_core *c, const struct id128 *disk)
{
    for (uint32_t i = 0; i < c->peers_n; i++) {
        if (id128_eq(&c->peers[i].disk, disk)) return &c->peers[i];
    }
    return NULL;
}

static const struct replica_peer *peer_look(const struct replica_core *c, const struct id128 *disk)
{
    for (uint32_t i = 0; i < c->peers_n; i++) {
        if (id128_eq(&c->peers[i].disk, disk)) return &c->peers[i];
    }
    return NULL;
}

/* Peers are the record's members; those that stay keep what is known of them. One that goes from
 * in_sync to the learners begins anew: it may replace what it has answered for by a snapshot of
 * less, so only answers under this record or a later one count. */
static void peers_update(struct replica_core *c)
{
    const struct group_set *sets[2] = {&c->cfg.in_sync, &c->cfg.learners};
    uint32_t kept = 0;

    for (uint32_t i = 0; i < c->peers_n; i++) {
        if (group_set_has(&c->cfg.in_sync, &c->peers[i].disk) ||
            (group_set_has(&c->cfg.learners, &c->peers[i].disk) && !c->peers[i].in_sync))
            c->peers[kept++] = c->peers[i];
    }
    c->peers_n = kept;
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t i = 0; i < sets[s]->n; i++) {
            const struct id128 *d = &sets[s]->disks[i];

            if (id128_eq(d, &c->conf.disk) || peer_of(c, d) != NULL) continue;
            CHECK(c->peers_n < REPLICA_PEERS_MAX);
            c->peers[c->peers_n++] = (struct replica_peer){
                .disk = *d,
                .since_config = c->cfg.config,
                .heard_ms = c->now_ms,
                .moved_ms = c->now_ms,
            };
        }
    }
    for (uint32_t i = 0; i < c->peers_n; i++)
        c->peers[i].in_sync = group_set_has(&c->cfg.in_sync, &c->peers[i].disk);
}

static void beacons(struct replica_core *c, struct replica_actions *out)
{
    c->beacon_ms = c->now_ms;
    for (uint32_t i = 0; i < c->peers_n; i++) {
        struct replica_msg *m = replica_send(c, out, REPLICA_PREPARE, &c->peers[i].disk);

        if (m == NULL) return;
        m->stamp_ms = c->now_ms;
        m->seq = ++c->seq;
        m->commit = c->commit;
        m->tail = c->tail;
    }
}

/* At most one message of entries to each peer a step; its answer asks for more. */
static void replicate(struct replica_core *c, struct replica_actions *out, struct replica_peer *p)
{
    uint64_t n;
    struct replica_msg *m;

    if (c->tail == 0 || p->next == 0 || p->next > c->log_last || p->next < c->log_first) return;
    if (p->next > p->match + 2u * REPLICA_WINDOW) return;
    n = MIN(c->log_last - p->next + 1, REPLICA_BATCH);
    m = replica_send(c, out, REPLICA_PREPARE, &p->disk);
    if (m == NULL) return;
    m->stamp_ms = c->now_ms;
    m->seq = p->sent_seq = ++c->seq;
    m->commit = c->commit;
    m->tail = c->tail;
    m->first = p->next;
    m->n = (uint32_t)n;
    p->next += n;
}

static void replicate_all(struct replica_core *c, struct replica_actions *out)
{
    for (uint32_t i = 0; i < c->peers_n; i++)
        replicate(c, out, &c->peers[i]);
}

/* ---- take-over ---- */

void replica_lead_start(struct replica_core *c, struct replica_actions *out)
{
    c->leader = c->conf.disk;
    c->leader_boot = c->conf.boot;
    c->peers_n = 0;
    c->seq = 0;
    c->tail = 0;
    c->log_durable = c->commit;
    peers_update(c);
    /* A predecessor's lease rests on an answer of this disk: of this process (answer_ms) or of one
     * before it (start_ms, from where answer_ms begins). */
    c->serve_ms = c->fresh || MUTANT(6) ? c->now_ms : c->answer_ms + c->conf.grace_ms;
    replica_role_set(c, out, REPLICA_TAKEOVER);
    if (MUTANT(3)) c->log_last = c->commit;
    c->tail_checking = true;
    if (c->log_last > c->commit && !MUTANT(28)) {
        struct replica_action *a = replica_act(out, REPLICA_CHECK_TAIL);

        a->epoch = c->epoch;
        a->first = c->commit + 1;
        a->last = c->log_last;
    } else {
        replica_lead_tail(c, out, c->log_last);
    }
    beacons(c, out);
}

/* Entries up to `upto` are whole here. One whose chunk this disk never got it never answered for,
 * so nobody was told that it, or what follows it, is committed. */
void replica_lead_tail(struct replica_core *c, struct replica_actions *out, uint64_t upto)
{
    struct apply_entry noop = {.kind = APPLY_NOOP};
    struct replica_action *a;
    uint32_t n = apply_entry_bytes(&noop, NULL);

    CHECK(upto >= c->commit && upto <= c->log_last && n <= sizeof(c->noop));
    c->tail_checking = false;
    c->log_last = upto;
    if (upto > c->commit) {
        a = replica_act(out, REPLICA_REAPPEND);
        a->epoch = c->epoch;
        a->first = c->commit + 1;
        a->last = upto;
    }
    c->noop_entry.epoch = c->epoch;
    c->noop_entry.bytes = (struct slice){c->noop, apply_entry_encode(&noop, c->noop)};
    c->tail = ++c->log_last;
    a = replica_act(out, REPLICA_APPEND);
    a->epoch = c->epoch;
    a->first = c->tail;
    a->n = 1;
    a->entries = &c->noop_entry;
    c->durable.cut_index = c->tail;
    c->durable.cut_epoch = c->epoch;
    replica_persist(c, out, /* gate= */ false);
}

/* The record changed under this reign: by its own transaction, there is no other writer. */
void replica_lead_config(struct replica_core *c, struct replica_actions *out)
{
    peers_update(c);
    if (c->cfg.in_sync.n < c->conf.min_in_sync)
        replica_act(out, REPLICA_ABANDON)->first = c->commit + 1;
}

/* ---- commit and leases ---- */

/* Who must agree: the record's in-sync members, and those of the record under way. */
static struct group_set required(const struct replica_core *c)
{
    struct group_set s = c->cfg.in_sync;

    if (c->cas_state == REPLICA_CAS_NONE || MUTANT(9)) return s;
    if (MUTANT(29)) return c->cas_cfg.in_sync; /* the removed no more, before etcd said so */
    for (uint32_t i = 0; i < c->cas_cfg.in_sync.n; i++) {
        CHECK(s.n < GROUP_MEMBERS_MAX || group_set_has(&s, &c->cas_cfg.in_sync.disks[i]));
        group_set_add(&s, &c->cas_cfg.in_sync.disks[i]);
    }
    return s;
}

void replica_lead_advance(struct replica_core *c, struct replica_actions *out)
{
    uint64_t upto = replica_held(c);
    struct group_set need = required(c);

    if (c->tail == 0 || c->cas_state == REPLICA_CAS_DOUBT) return;
    if (MUTANT(23)) upto = c->log_last; /* own disk not waited for */
    for (uint32_t i = 0; i < need.n; i++) {
        const struct replica_peer *p = peer_look(c, &need.disks[i]);

        if (id128_eq(&need.disks[i], &c->conf.disk)) continue;
        if (p == NULL) return;
        if (MUTANT(1) && i + 1 == need.n) continue;
        upto = MIN(upto, p->match);
    }
    if (upto > c->commit) {
        c->commit = upto;
        if (c->commit >= c->durable.commit + REPLICA_PERSIST_EVERY)
            replica_persist(c, out, /* gate= */ false);
    }
    if (c->role == REPLICA_TAKEOVER && (c->applied >= c->tail || MUTANT(24)))
        replica_role_set(c, out, REPLICA_PRIMARY);
}

static bool lease_holds(const struct replica_core *c, const struct replica_peer *p, uint64_t now_ms)
{
    if (MUTANT(30)) return p->stamp_ms != 0;
    if (MUTANT(2)) return p->stamp_ms != 0 && now_ms < p->heard_ms + c->conf.lease_ms;
    return p->stamp_ms != 0 && now_ms < p->stamp_ms + c->conf.lease_ms;
}

static enum rc serving(const struct replica_core *c, uint64_t now_ms)
{
    if (MUTANT(31) && c->role == REPLICA_BACKUP) return RC_OK;
    if (!replica_leads(c)) return RC_STALE;
    if (c->role != REPLICA_PRIMARY || now_ms < c->serve_ms || c->config != c->cfg.config ||
        c->cas_state == REPLICA_CAS_DOUBT)
        return RC_UNAVAIL;
    return RC_OK;
}

enum rc replica_may_read(const struct replica_core *c, uint64_t now_ms)
{
    struct group_set need = required(c);
    enum rc rc = serving(c, now_ms);

    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < need.n; i++) {
        const struct replica_peer *p = peer_look(c, &need.disks[i]);

        if (id128_eq(&need.disks[i], &c->conf.disk)) continue;
        if (MUTANT(49) && i > 1) break;
        if (p == NULL || !lease_holds(c, p, now_ms)) return RC_UNAVAIL;
    }
    return RC_OK;
}

enum rc replica_may_write(const struct replica_core *c)
{
    enum rc rc = serving(c, c->now_ms);

    if (rc != RC_OK) return rc;
    if (c->cfg.in_sync.n < c->conf.min_in_sync && !MUTANT(32)) return RC_UNAVAIL;
    if (c->cas_state != REPLICA_CAS_NONE && c->cas_cfg.in_sync.n < c->conf.min_in_sync)
        return RC_UNAVAIL;
    return c->log_last - c->commit < REPLICA_WINDOW ? RC_OK : RC_BUSY;
}

void replica_lead_propose(struct replica_core *c, struct replica_actions *out,
                          const struct replica_event *ev)
{
    enum rc rc = replica_may_write(c);
    struct replica_action *a;

    if (rc == RC_OK && ev->entry.n < 2) rc = RC_INVAL;
    if (rc == RC_OK) {
        c->proposed = (struct replica_entry){.epoch = c->epoch, .bytes = ev->entry};
        c->log_last++;
        a = replica_act(out, REPLICA_APPEND);
        a->epoch = c->epoch;
        a->first = c->log_last;
        a->n = 1;
        a->entries = &c->proposed;
    }
    a = replica_act(out, REPLICA_PROPOSED);
    a->token = ev->token;
    a->rc = rc;
    a->first = c->log_last;
    if (rc == RC_OK) replicate_all(c, out);
}

/* ---- peers ---- */

void replica_lead_answer(struct replica_core *c, struct replica_actions *out,
                         const struct replica_msg *m)
{
    struct replica_peer *p = peer_of(c, &m->from_disk);

    if (p == NULL || (m->config < p->since_config && !MUTANT(8)) || m->stamp_ms > c->now_ms ||
        m->seq > c->seq || m->durable > c->log_last || m->want == 0)
        return;
    if (!id128_eq(&p->boot, &m->from_boot)) {
        /* Started again: what it had promised must still be there. */
        p->damaged = !id128_is_zero(&p->boot) && m->last < p->match;
        p->boot = m->from_boot;
        p->match = 0;
        p->next = 0;
    }
    p->damaged = p->damaged || m->damaged;
    if (m->durable >= p->match && !m->damaged) {
        if (m->durable > p->match) p->moved_ms = c->now_ms;
        p->match = m->durable;
    }
    if (p->match >= c->log_last) p->moved_ms = c->now_ms;
    p->stamp_ms = MAX(p->stamp_ms, m->stamp_ms);
    p->heard_ms = c->now_ms;
    if (m->damaged || m->want < c->log_first) {
        if (c->role == REPLICA_PRIMARY && group_set_has(&c->cfg.learners, &p->disk)) {
            struct replica_msg *r = replica_send(c, out, REPLICA_NO_LOG, &p->disk);

            if (r != NULL) r->commit = c->log_first;
        }
        p->next = 0;
        return;
    }
    if (!m->damaged && group_set_has(&c->cfg.learners, &p->disk)) p->damaged = false; /* healed */
    if (p->next == 0 || m->want > p->next || m->seq >= p->sent_seq) p->next = m->want;
    replicate(c, out, p);
}

/* Those that left ask as often as one that is wished for: they must not take its place. */
void replica_lead_join(struct replica_core *c, const struct replica_msg *m)
{
    if (!group_set_has(&c->wish, &m->from_disk)) return;
    c->joiner = m->from_disk;
    c->joiner_ms = c->now_ms;
}

/* ---- the record, as the primary wishes it ---- */

static void set_serving(const struct replica_core *c, struct group_config *want)
{
    if (want->in_sync.n >= c->conf.min_in_sync) want->last_serving = want->in_sync;
}

static bool gone(const struct replica_core *c, const struct replica_peer *p, uint32_t left_n)
{
    uint64_t silent = c->now_ms - p->heard_ms;

    if (p->damaged) return true;
    if (silent >= (left_n < c->conf.min_in_sync ? c->conf.lone_ms : c->conf.remove_ms)) return true;
    return c->now_ms >= p->moved_ms + c->conf.patience_ms;
}

/* Members to take away: silent, damaged, not getting on. Those that still talk become learners. */
static bool want_removal(const struct replica_core *c, struct group_config *want)
{
    uint32_t left_n = want->in_sync.n;
    bool changed = false;

    for (uint32_t i = 0; i < c->peers_n; i++) {
        const struct replica_peer *p = &c->peers[i];

        if (group_set_has(&c->cfg.in_sync, &p->disk) &&
            c->now_ms - p->heard_ms >= c->conf.remove_ms)
            left_n--;
    }
    for (uint32_t i = 0; i < c->peers_n; i++) {
        const struct replica_peer *p = &c->peers[i];

        if (group_set_has(&c->cfg.in_sync, &p->disk)) {
            if (!gone(c, p, left_n)) continue;
            group_set_remove(&want->in_sync, &p->disk);
            if (c->now_ms - p->heard_ms < c->conf.remove_ms)
                group_set_add(&want->learners, &p->disk);
            changed = true;
        } else if (c->now_ms - p->heard_ms >= 2u * c->conf.lone_ms ||
                   (c->wish.n > 0 && !group_set_has(&c->wish, &p->disk))) {
            group_set_remove(&want->learners, &p->disk);
            changed = true;
        }
    }
    return changed;
}

/* One learner that has all that is committed; from the transaction's start it must have all else
 * too (required()), so nothing slips between. */
static bool want_promotion(const struct replica_core *c, struct group_config *want)
{
    if (want->in_sync.n >= GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < c->peers_n; i++) {
        const struct replica_peer *p = &c->peers[i];

        if (!group_set_has(&want->learners, &p->disk) || p->damaged || p->next == 0) continue;
        if (!lease_holds(c, p, c->now_ms) || (p->match < c->commit && !MUTANT(8))) continue;
        group_set_remove(&want->learners, &p->disk);
        group_set_add(&want->in_sync, &p->disk);
        return true;
    }
    return false;
}

static bool want_learner(const struct replica_core *c, struct group_config *want)
{
    if (id128_is_zero(&c->joiner) || c->now_ms >= c->joiner_ms + 2u * REPLICA_JOIN_MS) return false;
    if (!group_set_has(&c->wish, &c->joiner) || group_set_has(&want->in_sync, &c->joiner) ||
        group_set_has(&want->learners, &c->joiner) || want->learners.n >= GROUP_MEMBERS_MAX)
        return false;
    group_set_add(&want->learners, &c->joiner);
    return true;
}

static bool wish_in_sync(const struct replica_core *c)
{
    for (uint32_t i = 0; i < c->wish.n; i++) {
        if (!group_set_has(&c->cfg.in_sync, &c->wish.disks[i])) return false;
    }
    return c->wish.n > 0;
}

/* A member that is no longer wished goes when all that are wished are in sync. */
static bool want_retirement(const struct replica_core *c, struct group_config *want)
{
    if (!wish_in_sync(c)) return false;
    for (uint32_t i = 0; i < want->in_sync.n; i++) {
        struct id128 d = want->in_sync.disks[i];

        if (group_set_has(&c->wish, &d) || id128_eq(&d, &c->conf.disk)) continue;
        if (want->in_sync.n - 1 < c->conf.min_in_sync) return false;
        group_set_remove(&want->in_sync, &d);
        return true;
    }
    return false;
}

/* Last of all the primary itself: it hands over to a wished member, stays as a backup and is
 * retired by that one. The record names the other's process: if that started anew meanwhile it is
 * not led by it, but by what its start does (P1). Reads and commits here go on until the record is
 * known: they need that one's answers, which end as soon as it leads. */
static bool want_handover(const struct replica_core *c, struct group_config *want)
{
    if (!wish_in_sync(c) || group_set_has(&c->wish, &c->conf.disk)) return false;
    for (uint32_t i = 0; i < c->peers_n; i++) {
        const struct replica_peer *p = &c->peers[i];

        if (!group_set_has(&c->wish, &p->disk) || p->damaged || p->match < c->commit ||
            !lease_holds(c, p, c->now_ms))
            continue;
        want->primary = p->disk;
        want->primary_boot = p->boot;
        if (!MUTANT(53)) want->epoch++;
        return true;
    }
    return false;
}

void replica_lead_tick(struct replica_core *c, struct replica_actions *out)
{
    struct group_config want = c->cfg;

    if (c->now_ms >= c->beacon_ms + c->conf.beacon_ms) beacons(c, out);
    replicate_all(c, out);
    if (c->cas_state != REPLICA_CAS_NONE || c->config != c->cfg.config) return;
    if (want_removal(c, &want) ||
        (c->role == REPLICA_PRIMARY && (want_promotion(c, &want) || want_learner(c, &want) ||
                                        want_retirement(c, &want) || want_handover(c, &want)))) {
        want.config++;
        set_serving(c, &want);
        replica_cas(c, out, &want);
    }
}

uint64_t replica_log_needed(const struct replica_core *c)
{
    uint64_t from = c->commit + 1;

    if (!replica_leads(c)) return from;
    for (uint32_t i = 0; i < c->peers_n; i++) {
        if (c->peers[i].match != 0) from = MIN(from, c->peers[i].match + 1);
    }
    return from;
}
