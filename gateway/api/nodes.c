/* gateway/api/nodes.c - which nodes there are, what they hold, and what an operator changes: a node
 * let in, emptied, given up.
 *
 * A change is a key in etcd (manager/intent.h) that any gateway may write; the elected manager acts
 * on it, and goes on after it or its successor died. Changes are made one after another: each
 * compares the key node-changes, so that two that are fine by themselves can't break a promise
 * together. What a change would do is foreseen by the manager's own planner. */
#include "gateway/api/nodes.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "gateway/manager/manager.h"
#include "gateway/manager/truth.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <stdlib.h>

#define SEEN_MS        2000u
#define SEEN_PAUSE_MS  10u
#define NODE_STATUS_MS 3000u
#define NOTES_MAX      16u

typedef Mikura__V1__ChangeNodeRequest Request;
typedef Mikura__V1__ChangeNodeResponse Response;

/* ---- looking ---- */
static void look(void *arg)
{
    struct node_look *l = arg;

    if (route_node_status(l->gw->route, l->node, NODE_STATUS_MS, &l->a, &l->status, &l->err) !=
        RC_OK) {
        l->status = NULL;
    }
}

enum rc nodes_look(struct gw *gw, struct arena *a, struct node_look **ret, uint32_t *ret_n,
                   struct err *reterr)
{
    struct fiber_group asking = {0};
    struct node_look *l;
    uint32_t n = 0, max = 0;
    enum rc rc = RC_OK;

    for (const struct cluster_node *it = cluster_node_next(gw->cluster, NULL); it != NULL;
         it = cluster_node_next(gw->cluster, it))
        max++;
    l = arena_alloc(a, max * sizeof *l);
    if (l == NULL) return err_set(reterr, RC_NOMEM, "the nodes");
    for (const struct cluster_node *it = cluster_node_next(gw->cluster, NULL);
         it != NULL && n < max; it = cluster_node_next(gw->cluster, it)) {
        l[n].gw = gw;
        l[n].node = arena_copy(a, it, sizeof *it);
        if (l[n].node == NULL) return err_set(reterr, RC_NOMEM, "the nodes");
        n++;
    }
    for (uint32_t i = 0; i < n; i++) {
        arena_init(&l[i].a);
        if (!l[i].node->alive || strcmp(l[i].node->kind, "storaged") != 0) continue;
        rc = fiber_group_spawn(&asking, look, &l[i]);
        if (rc != RC_OK) (void)err_set(&l[i].err, rc, "not asked: %s", rc_text(rc));
    }
    fiber_group_wait(&asking);
    *ret = l;
    *ret_n = n;
    return RC_OK;
}

void nodes_look_end(struct node_look *l, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        arena_deinit(&l[i].a);
}

ProtobufCBinaryData nodes_id(struct arena *a, const struct id128 *id)
{
    ProtobufCBinaryData b = {16, arena_copy(a, id->b, 16)};

    if (b.data == NULL) b.len = 0;
    return b;
}

static bool disks_of(struct arena *a, const struct node_look *l, Mikura__V1__Node *m)
{
    size_t n = l->status != NULL ? l->status->n_disks : l->node->disks_n;

    m->disks = arena_alloc(a, n * sizeof *m->disks);
    if (m->disks == NULL) return false;
    for (size_t i = 0; i < n; i++) {
        Mikura__V1__Disk *d = arena_alloc(a, sizeof *d);

        if (d == NULL) return false;
        mikura__v1__disk__init(d);
        if (l->status != NULL) {
            const Mikura__Internal__V1__DiskStatus *s = l->status->disks[i];

            d->id = s->id;
            d->path = s->path;
            d->total_bytes = s->total_bytes;
            d->used_bytes = s->used_bytes;
            d->engine = s->engine;
            d->engine_reason = s->engine_reason;
            d->state = s->state;
            d->groups = s->groups;
            d->live_bytes = s->live_bytes;
            d->quarantined = s->quarantined;
            d->scrub_pass = s->scrub_pass;
            d->scrub_running = s->scrub_running;
            d->scrub_done_bytes = s->scrub_done_bytes;
            d->scrub_total_bytes = s->scrub_total_bytes;
            d->scrub_end_unix_ms = s->scrub_end_unix_ms;
        } else {
            d->id = nodes_id(a, &l->node->disks[i].id);
            d->total_bytes = l->node->disks[i].total_bytes;
        }
        m->disks[m->n_disks++] = d;
    }
    return true;
}

/* ---- what moves ---- */
static uint64_t status_live(const struct node_look *l, uint32_t n, const struct id128 *disk)
{
    for (uint32_t i = 0; i < n; i++) {
        for (size_t d = 0; l[i].status != NULL && d < l[i].status->n_disks; d++) {
            const Mikura__Internal__V1__DiskStatus *s = l[i].status->disks[d];

            if (s->id.len == 16 && memcmp(s->id.data, disk->b, 16) == 0) return s->live_bytes;
        }
    }
    return UINT64_MAX;
}

static void foresee(struct moves *mv)
{
    planner_foresee(&mv->v.in, &mv->v.scratch, mv->in_n, mv->out_n, &mv->all);
}

enum rc nodes_moves(struct gw *gw, bool etcd, const struct node_look *l, uint32_t n,
                    struct arena *a, struct moves *ret, struct err *reterr)
{
    struct moves *mv = ret;
    uint64_t live = 0, copies = 0;
    enum rc rc = manager_view(gw->manager, etcd, a, &mv->v, reterr);

    if (rc != RC_OK) return rc;
    mv->in_n = arena_alloc(a, (mv->v.in.disks_n + 1) * sizeof *mv->in_n);
    mv->out_n = arena_alloc(a, (mv->v.in.disks_n + 1) * sizeof *mv->out_n);
    mv->copies_n = arena_alloc(a, (mv->v.in.disks_n + 1) * sizeof *mv->copies_n);
    mv->live_bytes = arena_alloc(a, (mv->v.in.disks_n + 1) * sizeof *mv->live_bytes);
    if (mv->in_n == NULL || mv->out_n == NULL || mv->copies_n == NULL || mv->live_bytes == NULL)
        return err_set(reterr, RC_NOMEM, "the moves");
    for (uint32_t d = 0; d < mv->v.in.disks_n; d++) {
        const struct id128 *id = &mv->v.disks[d].place.id;

        for (uint32_t g = 0; g < mv->v.in.groups_n; g++) {
            for (uint32_t k = 0; k < mv->v.groups[g].in_sync_n; k++)
                mv->copies_n[d] += id128_eq(&mv->v.groups[g].in_sync[k], id);
        }
        mv->live_bytes[d] = status_live(l, n, id);
        if (mv->live_bytes[d] == UINT64_MAX || mv->copies_n[d] == 0) continue;
        live += mv->live_bytes[d];
        copies += mv->copies_n[d];
    }
    mv->copy_bytes = copies == 0 ? 0 : live / copies;
    foresee(mv);
    return RC_OK;
}

static uint64_t out_bytes(const struct moves *mv, uint32_t d)
{
    if (mv->live_bytes[d] == UINT64_MAX || mv->copies_n[d] == 0)
        return mv->copy_bytes * mv->out_n[d];
    return (uint64_t)((unsigned __int128)mv->live_bytes[d] * mv->out_n[d] / mv->copies_n[d]);
}

struct node_sums {
    uint32_t copies, in_n, out_n;
    uint64_t in_bytes, out_bytes;
};
static struct node_sums sums_of(const struct moves *mv, const struct view_node *n)
{
    struct node_sums s = {0};

    for (uint32_t i = 0; i < n->disks_n; i++) {
        uint32_t d = n->disk_idx[i];

        s.copies += mv->copies_n[d];
        s.in_n += mv->in_n[d];
        s.out_n += mv->out_n[d];
        s.in_bytes += mv->copy_bytes * mv->in_n[d];
        s.out_bytes += out_bytes(mv, d);
    }
    return s;
}

/* State, and how far what was asked for has come. Rate and end are of the whole time since. */
static void progress(struct fcall *c, struct moves *mv, const char *name, Mikura__V1__Node *m)
{
    const struct view_node *n = view_node_of(&mv->v, name);
    struct node_sums s;
    int64_t now_ms = (int64_t)clock_wall_ms();
    uint64_t took_ms, done;

    if (n == NULL) return;
    s = sums_of(mv, n);
    m->groups = s.copies;
    m->moves_left = s.in_n + s.out_n;
    m->bytes_left = s.in_bytes + s.out_bytes;
    m->state = "in";
    if (n->intent.state == INTENT_NONE && n->disks_n > 0 && mv->v.disks[n->disk_idx[0]].fresh)
        m->state = "new";
    if (n->intent.state == INTENT_DRAIN) m->state = n->used ? "draining" : "drained";
    if (n->intent.state == INTENT_REMOVE) m->state = "removed";
    if (n->intent.state == INTENT_NONE) return;
    m->moves_total = MAX(n->intent.copies, m->moves_left);
    m->bytes_total = MAX(n->intent.bytes, m->bytes_left);
    m->since_unix_ms = n->intent.since_unix_ms;
    m->changed_by = arena_str(&c->arena, "%s", n->intent.by);
    if (m->changed_by == NULL) m->changed_by = "";
    if (now_ms <= m->since_unix_ms || m->moves_left == 0) return;
    took_ms = (uint64_t)(now_ms - m->since_unix_ms);
    done = m->moves_total - m->moves_left;
    m->bytes_per_s = (m->bytes_total - m->bytes_left) * 1000 / took_ms;
    if (done > 0) m->end_unix_ms = now_ms + (int64_t)(took_ms * m->moves_left / done);
}

/* ---- changing ---- */
struct change {
    struct fcall *c;
    const Request *req;
    struct moves mv;
    struct view_node *node, *by; /* by: REPLACE */
    struct planner_forecast was; /* without the change */
    Response *ret;
    char *names; /* of all storage nodes */
};

static void note(struct change *ch, const char *text)
{
    if (text != NULL && ch->ret->n_notes < NOTES_MAX)
        ch->ret->notes[ch->ret->n_notes++] = (char *)(uintptr_t)text;
}

static enum rc find(struct change *ch, const char *name, struct view_node **ret, struct err *reterr)
{
    struct gw *gw = ch->c->service;

    *ret = view_node_of(&ch->mv.v, name);
    if (*ret != NULL) return RC_OK;
    for (const struct cluster_node *n = cluster_node_next(gw->cluster, NULL); n != NULL;
         n = cluster_node_next(gw->cluster, n)) {
        if (strcmp(n->name, name) == 0)
            return err_set(reterr, RC_NOTFOUND,
                           "'%.64s' is a %s and holds no copies; storage nodes are: %.100s", name,
                           n->kind, ch->names);
    }
    return err_set(reterr, RC_NOTFOUND, "no storage node '%.64s'; there are: %.100s", name,
                   ch->names);
}

static enum rc let_in(struct view_node *n, struct err *reterr)
{
    if (n->intent.state == INTENT_DRAIN)
        return err_set(reterr, RC_PRECOND,
                       "'%s' is being drained; take that back: mikura node undrain %s", n->name,
                       n->name);
    if (!n->alive)
        return err_set(reterr, RC_PRECOND, "'%s' is away: start its storaged, then add it",
                       n->name);
    n->intent.state = INTENT_IN;
    return RC_OK;
}

static enum rc drain(struct view_node *n, struct err *reterr)
{
    if (n->intent.state == INTENT_REMOVE && !n->alive)
        return err_set(reterr, RC_PRECOND,
                       "'%s' was removed already; its copies are being made elsewhere", n->name);
    n->intent.state = INTENT_DRAIN;
    return RC_OK;
}

static enum rc undrain(struct view_node *n, struct err *reterr)
{
    if (n->intent.state == INTENT_NONE || (n->intent.state == INTENT_REMOVE && !n->alive))
        return err_set(reterr, RC_PRECOND, "'%s' is not being drained: nothing to take back",
                       n->name);
    n->intent.state = INTENT_IN;
    return RC_OK;
}

static enum rc removal(struct view_node *n, struct err *reterr)
{
    if (n->alive && n->used)
        return err_set(reterr, RC_PRECOND,
                       "'%s' runs and holds copies: empty it first (mikura node drain %s)", n->name,
                       n->name);
    if (n->alive)
        return err_set(reterr, RC_PRECOND, "'%s' still runs: stop its storaged, then remove it",
                       n->name);
    n->intent.state = INTENT_REMOVE;
    return RC_OK;
}

static enum rc replacement(struct change *ch, struct err *reterr)
{
    struct view_node *n = ch->node, *by = ch->by;

    if (n == by)
        return err_set(reterr, RC_INVAL,
                       "'%s' can't replace itself: give the new node a name of "
                       "its own",
                       n->name);
    if (by->used)
        return err_set(reterr, RC_PRECOND,
                       "'%s' holds copies already: a replacement is a new node; else drain or "
                       "remove '%s' alone",
                       by->name, n->name);
    if (let_in(by, reterr) != RC_OK) return reterr->rc;
    return n->alive ? drain(n, reterr) : removal(n, reterr);
}

static const char *const LEVELS[] = {"zones", "racks", "hosts", "disks"};

/* What was promised must hold afterwards. */
static enum rc promises(struct change *ch, struct err *reterr)
{
    const struct planner_forecast *f = &ch->mv.all;
    struct planner_in *in = &ch->mv.v.in;
    uint32_t left = 0, fresh = 0, copies = 0;
    enum placement_level level = PLACEMENT_DISK;
    const char *wait = NULL;

    for (uint32_t i = 0; i < in->disks_n; i++) {
        left += !in->disks[i].gone && !in->disks[i].drain && !in->disks[i].fresh;
        fresh += in->disks[i].fresh;
    }
    for (uint32_t i = 0; i < in->pools_n; i++) {
        copies = MAX(copies, in->pools[i].copies);
        level = MIN(level, in->pools[i].failure_domain);
    }
    for (uint32_t i = 0; i < ch->mv.v.nodes_n; i++) {
        const struct view_node *n = &ch->mv.v.nodes[i];

        if (n->disks_n > 0 && in->disks[n->disk_idx[0]].fresh) wait = n->name;
    }
    if (f->lost > ch->was.lost)
        return err_set(reterr, RC_PRECOND,
                       "%u groups have their only good copy on '%s': start it again; nothing was "
                       "changed",
                       f->lost - ch->was.lost, ch->node->name);
    if (f->stuck > 0 && wait != NULL)
        return err_set(reterr, RC_PRECOND,
                       "%u groups could not keep %u copies without '%s' (%u disks would be left); "
                       "'%.64s' waits to be let in: mikura node add %.64s",
                       f->stuck, copies, ch->node->name, left, wait, wait);
    if (f->stuck > 0)
        return err_set(reterr, RC_PRECOND,
                       "%u groups could not keep %u copies without '%s' (%u disks would be left): "
                       "start another storage node, let it in (mikura node add), then repeat",
                       f->stuck, copies, ch->node->name, left);
    if (f->narrower > ch->was.narrower && !ch->req->narrower)
        return err_set(reterr, RC_PRECOND,
                       "copies of %u groups would lie closer together without '%s' (they lie in "
                       "different %s where they can): add a node there first, or accept it with "
                       "--narrower",
                       f->narrower - ch->was.narrower, ch->node->name, LEVELS[level]);
    if (fresh > 0 && wait != NULL && ch->req->action != MIKURA__V1__NODE_ACTION__NODE_ACTION_ADD)
        note(ch, arena_str(&ch->c->arena,
                           "'%s' waits to be let in and takes no part: mikura node add %s", wait,
                           wait));
    return RC_OK;
}

static enum rc decide(struct change *ch, struct err *reterr)
{
    switch (ch->req->action) {
    case MIKURA__V1__NODE_ACTION__NODE_ACTION_ADD:
        return let_in(ch->node, reterr);
    case MIKURA__V1__NODE_ACTION__NODE_ACTION_DRAIN:
        return drain(ch->node, reterr);
    case MIKURA__V1__NODE_ACTION__NODE_ACTION_UNDRAIN:
        return undrain(ch->node, reterr);
    case MIKURA__V1__NODE_ACTION__NODE_ACTION_REMOVE:
        return removal(ch->node, reterr);
    case MIKURA__V1__NODE_ACTION__NODE_ACTION_REPLACE:
        return replacement(ch, reterr);
    default:
        return err_set(reterr, RC_INVAL, "action: add, drain, undrain, remove or replace");
    }
}

static enum rc tell(struct change *ch, struct err *reterr)
{
    struct moves *mv = &ch->mv;
    Response *r = ch->ret;
    struct arena *a = &ch->c->arena;

    r->groups = mv->all.groups;
    r->copies = mv->all.copies;
    r->nodes = arena_alloc(a, (mv->v.nodes_n + 1) * sizeof *r->nodes);
    if (r->nodes == NULL) return err_set(reterr, RC_NOMEM, "the moves");
    for (uint32_t i = 0; i < mv->v.nodes_n; i++) {
        const struct view_node *n = &mv->v.nodes[i];
        struct node_sums s = sums_of(mv, n);
        Mikura__V1__NodeMoves *m;

        r->bytes += s.in_bytes;
        if (s.in_n == 0 && s.out_n == 0) continue;
        m = arena_alloc(a, sizeof *m);
        if (m == NULL) return err_set(reterr, RC_NOMEM, "the moves");
        mikura__v1__node_moves__init(m);
        m->name = arena_str(a, "%s", n->name);
        m->groups = s.copies;
        m->groups_in = s.in_n;
        m->groups_out = s.out_n;
        m->bytes_in = s.in_bytes;
        m->bytes_out = s.out_bytes;
        r->nodes[r->n_nodes++] = m;
    }
    if (mv->all.short_n > 0)
        note(ch, arena_str(a,
                           "%u groups will have fewer copies than wanted until another storage "
                           "node is added",
                           mv->all.short_n));
    if (planner_hold(&mv->v.in))
        note(ch, "more than a quarter of the hosts are away: nothing moves until they are back, or "
                 "removed (mikura node remove)");
    return RC_OK;
}

/* The decided state of one node; what it was already keeps its beginning. */
static enum rc put(struct change *ch, const struct view_node *n, enum intent_state before,
                   struct etcd_op *op, struct err *reterr)
{
    struct gw *gw = ch->c->service;
    struct intent i = n->intent;
    struct node_sums s = sums_of(&ch->mv, n);
    char *key = arena_str(&ch->c->arena, "/mikura/%s/node-state/%s", gw->cluster_name, n->name);
    char *json, *kept;

    if (i.state != before || i.since_unix_ms == 0) {
        i.since_unix_ms = (int64_t)clock_wall_ms();
        (void)snprintf(i.by, sizeof i.by, "%.*s", (int)sizeof i.by - 1, fcall_peer(ch->c)->uri);
        i.copies = s.in_n + s.out_n;
        i.bytes = s.in_bytes + s.out_bytes;
    }
    json = intent_json(&i);
    kept = json == NULL ? NULL : arena_str(&ch->c->arena, "%s", json);
    free(json);
    if (key == NULL || kept == NULL) return err_set(reterr, RC_NOMEM, "a node's state");
    *op = (struct etcd_op){.kind = ETCD_PUT, .key = gw_text(key), .value = gw_text(kept)};
    log_info("node_change", "rid=%s node=%s state=%s before=%s by=%s copies=%u bytes=%llu",
             fcall_rid(ch->c), n->name, intent_state_name(i.state), intent_state_name(before),
             fcall_peer(ch->c)->uri, i.copies, (unsigned long long)i.bytes);
    return RC_OK;
}

/* What was just decided is seen by who asks this gateway next: its map comes by etcd's watch. */
static void seen_here(struct change *ch, const struct etcd_op *op)
{
    char *rest = arena_str(&ch->c->arena, "node-state/%s", ch->node->name);
    struct gw *gw = ch->c->service;
    struct slice now;

    for (uint32_t i = 0; rest != NULL && i < SEEN_MS / SEEN_PAUSE_MS; i++) {
        if (cluster_other(gw->cluster, rest, &now) && now.n == op->value.n &&
            memcmp(now.p, op->value.p, now.n) == 0)
            return;
        fiber_sleep_ms(SEEN_PAUSE_MS);
    }
}

static enum rc write_down(struct change *ch, enum intent_state before, enum intent_state by_before,
                          struct err *reterr)
{
    struct gw *gw = ch->c->service;
    char *key = arena_str(&ch->c->arena, "/mikura/%s/node-changes", gw->cluster_name);
    char *value = arena_str(&ch->c->arena, "%s %s", fcall_peer(ch->c)->uri, ch->node->name);
    struct etcd_compare same = {.kind = ETCD_MOD_EQ, .number = ch->mv.v.changes_revision};
    struct etcd_op ops[3] = {{.kind = ETCD_PUT}};
    struct etcd_txn t = {.compares = &same, .compares_n = 1, .then = ops, .then_n = 2};
    bool done;
    enum rc rc;

    if (key == NULL || value == NULL) return err_set(reterr, RC_NOMEM, "a node's state");
    same.key = ops[0].key = gw_text(key);
    ops[0].value = gw_text(value);
    rc = put(ch, ch->node, before, &ops[1], reterr);
    if (rc == RC_OK && ch->by != NULL) rc = put(ch, ch->by, by_before, &ops[t.then_n++], reterr);
    if (rc == RC_OK) rc = truth_txn(gw->etcd, &t, &done, reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED,
                     "nodes were changed by somebody else meanwhile: look (mikura node ls), then "
                     "repeat");
    if (rc == RC_OK) seen_here(ch, &ops[1]);
    return rc;
}

static enum rc change(struct change *ch, const struct node_look *l, uint32_t n, struct err *reterr)
{
    struct gw *gw = ch->c->service;
    enum intent_state before, by_before = INTENT_NONE;
    enum rc rc = nodes_moves(gw, true, l, n, &ch->c->arena, &ch->mv, reterr);

    ch->names = arena_str(&ch->c->arena, "%s", "");
    for (uint32_t i = 0; i < ch->mv.v.nodes_n && ch->names != NULL; i++)
        ch->names = arena_str(&ch->c->arena, "%s%s%s", ch->names, i == 0 ? "" : ", ",
                              ch->mv.v.nodes[i].name);
    if (rc == RC_OK && ch->names == NULL) rc = err_set(reterr, RC_NOMEM, "the nodes");
    if (rc == RC_OK) rc = find(ch, ch->req->name, &ch->node, reterr);
    if (rc == RC_OK && ch->req->action == MIKURA__V1__NODE_ACTION__NODE_ACTION_REPLACE)
        rc = find(ch, ch->req->by_name, &ch->by, reterr);
    if (rc != RC_OK) return rc;
    ch->was = ch->mv.all;
    before = ch->node->intent.state;
    if (ch->by != NULL) by_before = ch->by->intent.state;
    rc = decide(ch, reterr);
    if (rc != RC_OK) return rc;
    manager_judge(gw->manager, &ch->mv.v);
    foresee(&ch->mv);
    if (before == ch->node->intent.state)
        note(ch, arena_str(&ch->c->arena, "'%s' was told so before, by %s", ch->node->name,
                           ch->node->intent.by));
    rc = promises(ch, reterr);
    if (rc == RC_OK) rc = tell(ch, reterr);
    if (rc == RC_OK && !ch->req->dry_run) rc = write_down(ch, before, by_before, reterr);
    if (rc == RC_OK) ch->ret->applied = !ch->req->dry_run;
    return rc;
}

enum rc nodes_change(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    struct change *ch = arena_alloc(&c->arena, sizeof *ch);
    Response answer = MIKURA__V1__CHANGE_NODE_RESPONSE__INIT;
    struct node_look *l = NULL;
    Request *req;
    uint32_t n = 0;
    enum rc rc = fcall_request(c, &mikura__v1__change_node_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    answer.notes = arena_alloc(&c->arena, NOTES_MAX * sizeof *answer.notes);
    if (ch == NULL || answer.notes == NULL) return err_set(reterr, RC_NOMEM, "a change");
    if (!cluster_fresh(gw->cluster))
        return err_set(reterr, RC_UNAVAIL,
                       "etcd does not answer this gateway: nothing can be changed; check etcd");
    *ch = (struct change){.c = c, .req = req, .ret = &answer};
    rc = nodes_look(gw, &c->arena, &l, &n, reterr);
    if (rc != RC_OK) return rc;
    rc = change(ch, l, n, reterr);
    if (rc == RC_OK) rc = fcall_send(c, &answer.base);
    nodes_look_end(l, n);
    return rc;
}

/* ---- telling ---- */
enum rc nodes_list(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListNodesRequest *req;
    Mikura__V1__ListNodesResponse answer = MIKURA__V1__LIST_NODES_RESPONSE__INIT;
    struct node_look *l = NULL;
    struct moves *mv = arena_alloc(&c->arena, sizeof *mv);
    uint32_t n = 0;
    enum rc rc = fcall_request(c, &mikura__v1__list_nodes_request__descriptor, &req, reterr);

    if (rc == RC_OK && mv == NULL) rc = err_set(reterr, RC_NOMEM, "the nodes");
    if (rc == RC_OK) rc = nodes_look(gw, &c->arena, &l, &n, reterr);
    if (rc != RC_OK) return rc;
    rc = nodes_moves(gw, false, l, n, &c->arena, mv, reterr);
    if (rc != RC_OK) {
        nodes_look_end(l, n);
        return rc;
    }
    answer.nodes = arena_alloc(&c->arena, n * sizeof *answer.nodes);
    for (uint32_t i = 0; i < n && answer.nodes != NULL; i++) {
        Mikura__V1__Node *m = arena_alloc(&c->arena, sizeof *m);
        struct cluster_node *node = l[i].node;

        if (m == NULL || (mikura__v1__node__init(m), !disks_of(&c->arena, &l[i], m))) {
            answer.nodes = NULL;
            break;
        }
        m->id = nodes_id(&c->arena, &node->id);
        m->boot_id = nodes_id(&c->arena, &node->boot_id);
        m->name = node->name;
        m->kind = node->kind;
        m->address = node->host_address;
        m->zone = node->zone;
        m->rack = node->rack;
        m->host = node->host;
        m->alive = node->alive;
        m->version = node->version;
        m->devices = arena_alloc(&c->arena, node->devices_n * sizeof *m->devices);
        for (uint32_t d = 0; d < node->devices_n && m->devices != NULL; d++)
            m->devices[m->n_devices++] = node->devices[d];
        if (strcmp(node->kind, "storaged") == 0) progress(c, mv, node->name, m);
        answer.nodes[answer.n_nodes++] = m;
    }
    rc =
        answer.nodes == NULL ? err_set(reterr, RC_NOMEM, "the nodes") : fcall_send(c, &answer.base);
    nodes_look_end(l, n);
    return rc;
}
