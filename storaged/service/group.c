/* storaged/service/group.c - one replica's core among its actions: steps it, carries out what it
 * says, in order, and nothing else. Holds no policy.
 *
 * Invariants: steps never nest (sd.stepping); nothing called from here delivers an event before the
 * step's actions are all carried out (their results come from callbacks, fibers or the idle
 * handle). A dead group (its disk is out, an entry does not decode, the daemon stops) gets no more
 * events. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

static void carry_out(struct sd_group *g, const struct replica_action *a)
{
    switch (a->type) {
    case REPLICA_PERSIST:
        group_persist(g, a);
        break;
    case REPLICA_APPEND:
        group_append(g, a);
        break;
    case REPLICA_REAPPEND:
        group_reappend(g, a);
        break;
    case REPLICA_SEND:
        group_send(g, a);
        break;
    case REPLICA_APPLY:
        group_apply(g, a->last);
        break;
    case REPLICA_PROPOSED:
        LIST_FOREACH_SAFE(it, &g->fresh)
        {
            struct waiter *w = CONTAINER_OF(it, struct waiter, link);

            if (w->token != a->token) continue;
            list_remove(&w->link);
            w->rc = a->rc;
            w->index = a->first;
            if (a->rc == RC_OK) list_push_back(&g->waiters, &w->link);
        }
        break;
    case REPLICA_ABANDON:
        group_abandon(g, a->first);
        break;
    case REPLICA_CAS:
        group_cas(g, a);
        break;
    case REPLICA_READ_CONFIG:
        group_read_config(g);
        break;
    case REPLICA_CHUNK:
        group_chunk(g, a);
        break;
    case REPLICA_CHECK_TAIL:
        group_check_tail(g, a);
        break;
    case REPLICA_SNAPSHOT:
        group_snapshot(g, a);
        break;
    case REPLICA_FORGET:
        g->forget_epoch = MAX(g->forget_epoch, a->epoch);
        break;
    case REPLICA_ROLE:
        log_info("group_role", "group=%s role=%s epoch=%llu config=%llu", g->name,
                 replica_role_name(replica_role(&g->core)), (unsigned long long)g->core.epoch,
                 (unsigned long long)g->core.config);
        g->tick_ms = clock_boot_ms();
        break;
    }
}

void group_event(struct sd_group *g, struct replica_event *ev)
{
    struct sd *sd = g->sd;

    if (!g->ready || g->dead) return;
    CHECK(!sd->stepping);
    sd->stepping = true;
    ev->now_ms = clock_boot_ms();
    replica_step(&g->core, ev, &sd->actions);
    for (uint32_t i = 0; i < sd->actions.n && !g->dead; i++)
        carry_out(g, &sd->actions.a[i]);
    sd->stepping = false;
    if (g->core.cfg.config > g->record_kept) group_record_keep(g);
}

static void idle_cb(uv_idle_t *h)
{
    groups_dirty_run(h->data);
}

void group_dirty(struct sd_group *g)
{
    struct sd *sd = g->sd;

    if (g->dirty) return;
    g->dirty = true;
    list_push_back(&sd->dirty, &g->dirty_link);
    if (sd->idle_on) return;
    sd->idle_on = true;
    CHECK(uv_idle_start(&sd->idle, idle_cb) == 0);
}

/* News of one loop turn are told together: an answer to the primary for 64 entries, not 64. */
void groups_dirty_run(struct sd *sd)
{
    while (!list_empty(&sd->dirty)) {
        struct sd_group *g = CONTAINER_OF(sd->dirty.next, struct sd_group, dirty_link);

        list_remove(&g->dirty_link);
        g->dirty = false;
        if (g->durable_news) {
            struct replica_event ev = {
                .type = REPLICA_EV_DURABLE, .epoch = g->durable_epoch, .index = g->durable_index};

            g->durable_news = false;
            group_event(g, &ev);
        }
        group_appends_issue(g);
    }
    sd->idle_on = false;
    CHECK(uv_idle_stop(&sd->idle) == 0);
}

void group_leave(struct sd_group *g)
{
    if (g->dead) return;
    g->dead = true;
    waiters_settle(g, 0, RC_UNAVAIL);
    group_appends_drop(g);
    fiber_cond_broadcast(&g->state_cond);
}

void group_fail(struct sd_group *g, enum rc rc, const struct err *e)
{
    if (g->dead) return;
    if (rc == RC_IO || rc == RC_FULL) { /* the index can't write: nothing here can go on */
        disk_out(g->disk, rc, e);
        return;
    }
    log_error("replica_stopped", "group=%s rc=%s why=%s", g->name, rc_name(rc), e->msg);
    group_leave(g);
}

/* ---- requests ---- */
enum rc group_propose(struct sd_group *g, struct slice entry, struct waiter *w)
{
    struct replica_event ev = {.type = REPLICA_EV_PROPOSE, .entry = entry};

    *w = (struct waiter){.token = ++g->sd->next_token, .rc = RC_STALE};
    list_init(&w->link);
    if (!g->ready || g->dead) return RC_STALE;
    list_push_back(&g->fresh, &w->link);
    ev.token = w->token;
    group_event(g, &ev);
    if (w->rc != RC_OK) list_remove(&w->link);
    if (w->rc == RC_OK) sdm_add(SDM_PROPOSED, 1);
    if (w->rc == RC_OK && w->settled) return RC_OK;
    return w->rc;
}

enum rc group_run(struct sd_group *g, const struct apply_entry *e, uint64_t left_ms,
                  struct apply_outcome *ret, struct err *reterr)
{
    uint32_t n = apply_entry_bytes(e, reterr);
    struct waiter w;
    uint8_t *bytes;
    enum rc rc;

    if (n == 0) return RC_INVAL;
    bytes = malloc(n);
    if (bytes == NULL) return err_set(reterr, RC_NOMEM, "an entry of %u bytes", n);
    rc = group_propose(g, (struct slice){bytes, apply_entry_encode(e, bytes)}, &w);
    free(bytes);
    if (rc == RC_BUSY) return err_set(reterr, RC_BUSY, "too many requests of this group under way");
    if (rc != RC_OK) return rc;
    while (!w.settled) {
        if (fiber_event_wait_ms(&w.done, left_ms) == RC_OK) continue;
        waiter_drop(&w);
        return err_set(reterr, RC_DEADLINE, "no outcome in time; it may still take effect");
    }
    if (w.rc == RC_OK) *ret = w.outcome;
    return w.rc;
}

void waiter_drop(struct waiter *w)
{
    list_remove(&w->link);
}

/* rc other than RC_OK: nobody knows the outcome of what was proposed at from or above. */
void waiters_settle(struct sd_group *g, uint64_t from, enum rc rc)
{
    LIST_FOREACH_SAFE(it, &g->waiters)
    {
        struct waiter *w = CONTAINER_OF(it, struct waiter, link);

        if (w->index < from) continue;
        list_remove(&w->link);
        w->rc = rc;
        w->settled = true;
        fiber_event_set(&w->done);
    }
}

void group_abandon(struct sd_group *g, uint64_t first)
{
    waiters_settle(g, first, RC_UNAVAIL);
}

/* ---- ticks ---- */
static void propose_hour(struct sd_group *g)
{
    struct apply_entry e = {.kind = APPLY_TICK};
    struct replica_event ev = {.type = REPLICA_EV_PROPOSE};
    uint8_t bytes[64];

    CHECK(apply_entry_bytes(&e, NULL) > 0 && apply_entry_bytes(&e, NULL) <= sizeof bytes);
    ev.entry = (struct slice){bytes, apply_entry_encode(&e, bytes)};
    ev.token = ++g->sd->next_token; /* nobody waits: the next one comes in an hour anyway */
    group_event(g, &ev);
    g->tick_ms = clock_boot_ms();
}

void group_tick(struct sd_group *g)
{
    struct replica_event ev = {.type = REPLICA_EV_TICK};

    if (!g->ready || g->dead) return;
    group_event(g, &ev);
    if (replica_role(&g->core) == REPLICA_PRIMARY &&
        clock_boot_ms() - g->tick_ms >= g->sd->conf.tick_ms)
        propose_hour(g);
}

/* ---- messages ---- */
static struct sd_disk *disk_of(struct sd *sd, const struct id128 *id)
{
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        if (id128_eq(&sd->disks[i].id, id)) return &sd->disks[i];
    }
    return NULL;
}

void group_message(struct sd *sd, struct bulk_conn *c,
                   const Mikura__Internal__V1__ReplicaMessage *m)
{
    struct slice body = {m->body.data, m->body.len};
    enum replica_msg_type type = replica_msg_type_of(body);
    struct placement_group id = {
        .pool = m->pool, .prefix_bits = m->prefix_bits, .prefix = m->prefix};
    struct replica_msg msg = {0};
    struct replica_event ev = {.type = REPLICA_EV_MESSAGE, .msg = &msg};
    struct replica_snap snap;
    struct replica_compare cmp;
    const struct id128 *to = &msg.to_disk, *boot = &msg.from_boot;
    struct sd_group *g;
    struct err err;
    enum rc rc;

    sdm_add(SDM_MESSAGES_RECEIVED, 1);
    if (type == REPLICA_SNAP_GET || type == REPLICA_SNAP_PAGE) {
        rc = replica_snap_decode(body, &snap, &err);
        to = &snap.to_disk;
        boot = &snap.from_boot;
    } else if (type >= REPLICA_COMPARE_GET) {
        rc = replica_compare_decode(body, &cmp, &err);
        to = &cmp.to_disk;
        boot = &cmp.from_boot;
    } else {
        rc = replica_msg_decode(body, &msg, sd->entries, &err);
    }
    if (rc != RC_OK) {
        log_warn("replica_message_bad", "from=%s rc=%s why=%s", bulk_conn_peer(c)->name,
                 rc_name(rc), err.msg);
        return;
    }
    if (!id128_eq(boot, &bulk_conn_hello(c)->boot_id)) {
        log_warn("replica_message_foreign", "from=%s why=its boot id is not the connection's",
                 bulk_conn_peer(c)->name);
        sdm_add(SDM_DENIED, 1);
        return;
    }
    if (disk_of(sd, to) == NULL) return;
    g = group_find(sd, &id, to);
    if (g == NULL || !g->ready || g->dead) return;
    if (type == REPLICA_SNAP_GET) {
        snap_get_arrived(g, body);
    } else if (type == REPLICA_SNAP_PAGE) {
        snap_page_arrived(g, body);
    } else if (type >= REPLICA_COMPARE_GET) {
        compare_arrived(g, &cmp);
    } else {
        group_event(g, &ev);
    }
}
