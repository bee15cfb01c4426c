/* storaged/service/compare.c - the replicas of a group beside each other, regularly: is the state
 * the same everywhere at one index of the log, and is every chunk that it lists here?
 *
 * The primary names the end of its log as the index and asks before anything else is proposed, on
 * the connection that entries take. So nobody has applied more when the question comes; each
 * applies up to there, waits until a snapshot of RocksDB is open (milliseconds), and goes on. Then
 * all rows are read once, slowly, into one SHA-256. A chunk that is listed and not held is pulled
 * at once (chunk_fetch). Who differs from the majority is told so: its core gives itself up and is
 * rebuilt as a learner (REPLICA_EV_ODD). Where nobody has a majority, nothing is changed, only
 * told. Chunk bytes are the scrub's business.
 *
 * When: a group's moments are fixed by its name (no two groups of a node at once, no state to keep
 * over restarts); one that failed or found something comes again sooner. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARRIVE_MS     10000u   /* until that index is applied: else this replica can't tell */
#define ASK_AGAIN_MS  5000u    /* messages may be lost */
#define ALL_MS        1800000u /* a comparison that takes longer is given up */
#define LOOK_MS       250u     /* between looks whether it is still wanted */
#define AGAIN_MS      60000u /* after a failure, or when a replica is being rebuilt; or the period */
#define AGAIN_LONG_MS 3600000u /* after a difference that stays */
#define LACK_MAX      256u     /* chunks of one page that are looked at again */

/* ---- one replica's part ---- */
struct part {
    struct sd_group *g;
    struct pager *pager;
    const struct pager_page *page;
    EVP_MD_CTX *md;
    struct replica_compare sum; /* that becomes g->compare.sum */
    struct apply_chunk lacking[LACK_MAX];
    uint32_t lacking_n;
    struct index_chunk_id wrong;
    struct seg_location wrong_loc;
    enum rc rc;
    struct err err;
};

static bool unwanted(const struct part *p)
{
    return p->g->dead || p->g->sd->stopping || p->g->core.epoch != p->sum.epoch;
}

static bool fits(const struct index_chunk *found, const struct apply_chunk *c)
{
    return found->loc.plain_bytes == c->plain_bytes &&
           memcmp(found->plain_digest, c->plain_digest, sizeof c->plain_digest) == 0;
}

static enum rc chunk_look(struct part *p, struct slice value)
{
    struct index_chunk found;
    struct apply_chunk c;
    uint64_t index;
    bool dropped;
    enum rc rc = apply_chunk_row(value, &c, &dropped, &index);

    if (rc != RC_OK || dropped) return RC_OK; /* a row that rotted: the digest tells */
    rc = index_chunk_get(store_index(p->g->disk->store),
                         &(struct index_chunk_id){c.body, c.index, c.seal_id}, &found, &p->err);
    if (rc == RC_OK && fits(&found, &c)) return RC_OK;
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    if (p->lacking_n < LACK_MAX) p->lacking[p->lacking_n++] = c; /* the rest: next time */
    return RC_OK;
}

static void page_work(void *arg)
{
    struct part *p = arg;
    struct slice rows = {p->page->p, p->page->n}, k, v;
    size_t at = 0;

    p->rc = RC_OK;
    p->lacking_n = 0;
    if (rows.n > 0 && EVP_DigestUpdate(p->md, rows.p, rows.n) != 1) p->rc = RC_INTERNAL;
    while (p->rc == RC_OK && (p->rc = replica_row_next(rows, &at, &k, &v)) == RC_OK) {
        p->sum.rows_n++;
        if (k.n == APPLY_CHUNK_KEY_BYTES && k.p[0] == 'c') p->rc = chunk_look(p, v);
    }
    if (p->rc == RC_NOTFOUND) p->rc = RC_OK;
}

static void wrong_work(void *arg)
{
    struct part *p = arg;

    p->rc = index_chunk_drop(store_index(p->g->disk->store), &p->wrong, &p->wrong_loc, &p->err);
}

/* Look again: what has happened since that index is no fault. */
static void mend_one(struct part *p, const struct apply_chunk *c)
{
    struct sd_group *g = p->g;
    struct index_chunk_id id = {c->body, c->index, c->seal_id};
    struct index_chunk found;
    char body[ID128_TEXT_BYTES];
    struct err err = {0};
    enum rc rc = chunk_held(g, &id, &found, &err);

    if ((rc == RC_OK && fits(&found, c)) || chunk_decided(g, c)) return;
    p->sum.lacked_n++;
    sdm_add(SDM_COMPARE_LACKED, 1);
    if (rc == RC_OK) { /* a row of another record than the group's: it is in the way */
        p->wrong = id;
        p->wrong_loc = found.loc;
        rc = fiber_work(wrong_work, p);
        if (rc == RC_OK) rc = p->rc;
        err = p->err;
    }
    if (rc == RC_OK || rc == RC_NOTFOUND) rc = chunk_fetch(g, c, &err);
    if (rc != RC_OK) {
        log_error("compare_chunk_lacking",
                  "group=%s body=%s index=%u rc=%s why=%s: it is tried again", g->name,
                  id128_text(&c->body, body), c->index, rc_name(rc), err.msg);
        return;
    }
    p->sum.mended_n++;
    sdm_add(SDM_COMPARE_MENDED, 1);
    log_warn("compare_chunk_mended", "group=%s body=%s index=%u", g->name,
             id128_text(&c->body, body), c->index);
}

/* Until exactly that index is applied and a snapshot of it is open. */
static enum rc stop_there(struct part *p)
{
    struct sd_group *g = p->g;
    uint64_t until_ms = clock_boot_ms() + ARRIVE_MS;
    enum rc rc;

    while (g->applied < p->sum.index || g->state_busy) {
        if (unwanted(p)) return err_set(&p->err, RC_STALE, "not wanted any more");
        if (clock_boot_ms() > until_ms)
            return err_set(&p->err, RC_UNAVAIL, "applied up to %llu, %llu is asked",
                           (unsigned long long)g->applied, (unsigned long long)p->sum.index);
        (void)!fiber_cond_wait_ms(&g->state_cond, LOOK_MS); /* either way: look */
    }
    if (g->applied > p->sum.index) return err_set(&p->err, RC_STALE, "applied beyond it");
    rc = pager_open(g, (struct slice){0}, (struct slice){0}, &p->pager);
    if (rc != RC_OK) return err_set(&p->err, rc, "too many scans at once");
    pager_next(p->pager, &p->page);
    return RC_OK;
}

static void hold_end(struct sd_group *g)
{
    g->compare.hold = 0;
    fiber_cond_broadcast(&g->state_cond);
}

static void pause_for(struct part *p, uint64_t bytes)
{
    uint64_t rate = p->g->sd->conf.compare_rate;
    uint64_t ms = rate == 0 ? 0 : bytes * 1000 / rate;

    while (ms > 0 && !unwanted(p)) {
        fiber_sleep_ms(MIN(ms, LOOK_MS));
        ms -= MIN(ms, LOOK_MS);
    }
}

static enum rc rows_all(struct part *p)
{
    unsigned n = 0;
    enum rc rc = RC_OK;

    for (;;) {
        bool done = p->page->done;

        if (p->page->rc != RC_OK) return err_set(&p->err, p->page->rc, "%s", p->page->err.msg);
        if (p->page->index != p->sum.index)
            return err_set(&p->err, RC_STALE, "the state was replaced");
        rc = fiber_work(page_work, p);
        if (rc == RC_OK) rc = p->rc;
        for (uint32_t i = 0; i < p->lacking_n && rc == RC_OK && !unwanted(p); i++)
            mend_one(p, &p->lacking[i]);
        if (rc == RC_OK && unwanted(p)) rc = err_set(&p->err, RC_STALE, "not wanted any more");
        if (rc != RC_OK || done) break;
        pause_for(p, p->page->n);
        pager_next(p->pager, &p->page);
    }
    if (rc == RC_OK && EVP_DigestFinal_ex(p->md, p->sum.digest, &n) != 1) rc = RC_INTERNAL;
    return rc;
}

static void sum_send(struct sd_group *g)
{
    uint8_t body[REPLICA_COMPARE_BYTES];

    replica_compare_encode(&g->compare.sum, body);
    group_send_raw(g, &g->compare.sum.to_disk, (struct slice){body, sizeof body});
}

static void sum_take(struct sd_group *g, const struct replica_compare *m);

static void part_end(struct sd_group *g, const struct replica_compare *sum)
{
    g->compare.sum = *sum;
    g->compare.running = false;
    if (id128_eq(&sum->to_disk, &g->disk->id)) {
        sum_take(g, sum);
    } else {
        sum_send(g);
    }
}

static void part_run(void *arg)
{
    struct part *p = arg;
    struct sd_group *g = p->g;
    enum rc rc;

    p->md = EVP_MD_CTX_new();
    rc = p->md != NULL && EVP_DigestInit_ex(p->md, EVP_sha256(), NULL) == 1 ? RC_OK : RC_NOMEM;
    if (rc == RC_OK) rc = stop_there(p);
    hold_end(g);
    if (rc == RC_OK) rc = rows_all(p);
    pager_close(p->pager);
    EVP_MD_CTX_free(p->md);
    if (rc != RC_OK)
        log_info("compare_not_told", "group=%s index=%llu rc=%s why=%s", g->name,
                 (unsigned long long)p->sum.index, rc_name(rc), p->err.msg);
    p->sum.rc = rc;
    part_end(g, &p->sum);
    g->sd->compare_parts_n--;
    free(p);
}

/* From now on nothing above m->index is applied, until the part has its snapshot. */
static void part_start(struct sd_group *g, const struct replica_compare *m)
{
    struct sd *sd = g->sd;
    struct part *p = NULL;
    struct replica_compare sum = *m;

    sum.type = REPLICA_COMPARE_SUM;
    sum.to_disk = m->from_disk;
    sum.from_disk = g->disk->id;
    sum.from_boot = sd->boot_id;
    sum.rc = g->applied > m->index ? RC_STALE : RC_BUSY;
    if (sum.rc == RC_BUSY && sd->compare_parts_n < SD_COMPARE_PARTS_MAX) p = calloc(1, sizeof *p);
    if (p != NULL) {
        p->g = g;
        p->sum = sum;
        g->compare.sum.id = m->id;
        g->compare.hold = m->index;
        g->compare.running = true;
        sd->compare_parts_n++;
        if (sd_spawn(sd, part_run, p) == RC_OK) return;
        sd->compare_parts_n--;
        g->compare.hold = 0;
        free(p);
    }
    part_end(g, &sum);
}

/* ---- the primary's ---- */
struct comparison {
    struct sd_group *g;
    struct replica_compare get;
    struct group_set members;
    struct replica_compare sums[GROUP_MEMBERS_MAX];
    uint32_t told; /* bit of each member */
    struct fiber_event news;
};

static void sum_take(struct sd_group *g, const struct replica_compare *m)
{
    struct comparison *a = g->compare.ask;

    if (a == NULL || m->id != a->get.id || m->epoch != a->get.epoch) return;
    for (uint32_t i = 0; i < a->members.n; i++) {
        if (!id128_eq(&a->members.disks[i], &m->from_disk)) continue;
        a->sums[i] = *m;
        a->told |= 1u << i;
    }
    fiber_event_set(&a->news);
}

static void tell(struct comparison *a, enum replica_msg_type type, uint32_t i)
{
    struct replica_compare m = a->get;
    uint8_t body[REPLICA_COMPARE_BYTES];

    m.type = type;
    m.to_disk = a->members.disks[i];
    replica_compare_encode(&m, body);
    group_send_raw(a->g, &m.to_disk, (struct slice){body, sizeof body});
}

static bool is_self(const struct comparison *a, uint32_t i)
{
    return id128_eq(&a->members.disks[i], &a->g->disk->id);
}

/* Of the same reign and the same record, with nothing that could change it. */
static bool same_record(const struct comparison *a)
{
    const struct replica_core *c = &a->g->core;

    return !a->g->dead && !a->g->sd->stopping && c->role == REPLICA_PRIMARY &&
           c->epoch == a->get.epoch && c->cfg.config == a->get.config &&
           c->cas_state == REPLICA_CAS_NONE;
}

static void get_send(struct comparison *a)
{
    for (uint32_t i = 0; i < a->members.n; i++) {
        if ((a->told >> i & 1u) == 0 && !is_self(a, i)) tell(a, REPLICA_COMPARE_GET, i);
    }
}

static enum rc gather(struct comparison *a, struct err *reterr)
{
    uint64_t now_ms = clock_boot_ms(), until_ms = now_ms + ALL_MS, again_ms = now_ms + ASK_AGAIN_MS;
    uint32_t all = (1u << a->members.n) - 1u;

    get_send(a);
    part_start(a->g, &a->get);
    while (a->told != all) {
        (void)!fiber_event_wait_ms(&a->news, LOOK_MS); /* either way: look */
        now_ms = clock_boot_ms();
        if (!same_record(a)) return err_set(reterr, RC_STALE, "the group changed meanwhile");
        if (now_ms > until_ms) return err_set(reterr, RC_DEADLINE, "not all replicas answered");
        if (now_ms > again_ms) {
            get_send(a);
            again_ms = now_ms + ASK_AGAIN_MS;
        }
    }
    for (uint32_t i = 0; i < a->members.n; i++) {
        if (a->sums[i].rc != RC_OK)
            return err_set(reterr, RC_UNAVAIL, "disk %u of %u: %s", i + 1, a->members.n,
                           rc_text(a->sums[i].rc));
    }
    return RC_OK;
}

static void odd_tell(struct comparison *a, uint32_t odd)
{
    struct sd_group *g = a->g;
    struct replica_event ev = {.type = REPLICA_EV_ODD, .epoch = a->get.epoch, .id = a->get.config};

    sdm_add(SDM_COMPARE_ODD, __builtin_popcount(odd));
    for (uint32_t i = 0; i < a->members.n; i++) {
        if ((odd >> i & 1u) != 0 && !is_self(a, i)) tell(a, REPLICA_COMPARE_ODD, i);
    }
    for (uint32_t i = 0; i < a->members.n; i++) {
        if ((odd >> i & 1u) != 0 && is_self(a, i)) group_event(g, &ev);
    }
}

/* What a person reads of it, into g->compare.difference. Empty: all is well. */
static void judge(struct comparison *a)
{
    struct sd_group *g = a->g;
    char *text = g->compare.difference, disk[ID128_TEXT_BYTES];
    const size_t cap = sizeof g->compare.difference;
    uint64_t lacked = 0, mended = 0;
    uint32_t odd;
    enum compare_verdict v =
        replica_compare_judge(a->sums, a->members.n, g->core.conf.min_in_sync, &odd);

    text[0] = 0;
    for (uint32_t i = 0; i < a->members.n; i++) {
        lacked += a->sums[i].lacked_n;
        mended += a->sums[i].mended_n;
    }
    if (lacked > mended)
        (void)snprintf(text, cap, "%llu chunks are missing on a disk and no good copy came",
                       (unsigned long long)(lacked - mended));
    if (v == COMPARE_ODD) {
        (void)snprintf(text, cap, "the metadata on %d of %u disks differs: it is rebuilt",
                       __builtin_popcount(odd), a->members.n);
        odd_tell(a, odd);
    } else if (v != COMPARE_EQUAL) {
        sdm_add(SDM_COMPARE_UNDECIDED, 1);
        (void)snprintf(text, cap,
                       "the metadata on its %u disks differs and no majority says which is right",
                       a->members.n);
    }
    for (uint32_t i = 0; i < a->members.n && v != COMPARE_EQUAL; i++)
        log_error("compare_differs",
                  "group=%s index=%llu disk=%s digest=%02x%02x%02x%02x rows=%llu %s", g->name,
                  (unsigned long long)a->get.index, id128_text(&a->members.disks[i], disk),
                  a->sums[i].digest[0], a->sums[i].digest[1], a->sums[i].digest[2],
                  a->sums[i].digest[3], (unsigned long long)a->sums[i].rows_n,
                  v != COMPARE_ODD       ? "undecided"
                  : (odd >> i & 1u) != 0 ? "odd: rebuilt from the others"
                                         : "as the majority");
    g->compare.again_ms = clock_boot_ms() + MIN(v == COMPARE_ODD ? AGAIN_MS : AGAIN_LONG_MS,
                                                g->sd->conf.compare_period_ms);
}

static void ask_run(void *arg)
{
    struct comparison *a = arg;
    struct sd_group *g = a->g;
    struct sd *sd = g->sd;
    struct err err = {0};
    enum rc rc;

    a->members = g->core.cfg.in_sync;
    a->get = (struct replica_compare){.type = REPLICA_COMPARE_GET,
                                      .from_disk = g->disk->id,
                                      .from_boot = sd->boot_id,
                                      .config = g->core.cfg.config,
                                      .epoch = g->core.epoch,
                                      .index = g->core.log_last};
    random_bytes(&a->get.id, sizeof a->get.id);
    rc = same_record(a) && !g->compare.running ? gather(a, &err)
                                               : err_set(&err, RC_STALE, "the group is changing");
    if (rc == RC_OK) {
        judge(a);
        g->compare.unix_ms = clock_wall_ms();
        sdm_add(SDM_COMPARES, 1);
        log_debug("compared", "group=%s index=%llu rows=%llu difference=%s", g->name,
                  (unsigned long long)a->get.index, (unsigned long long)a->sums[0].rows_n,
                  g->compare.difference);
    } else {
        sdm_add(SDM_COMPARES_FAILED, 1);
        log_info("compare_failed", "group=%s index=%llu rc=%s why=%s", g->name,
                 (unsigned long long)a->get.index, rc_name(rc), err.msg);
        g->compare.again_ms = clock_boot_ms() + MIN(AGAIN_MS, sd->conf.compare_period_ms);
    }
    g->compare.ask = NULL;
    sd->comparing = false;
    free(a);
    compare_look(sd);
}

/* The periods since the group's own moment of the day, as a number that grows. */
static uint64_t slot_of(const struct sd_group *g)
{
    uint64_t period = g->sd->conf.compare_period_ms;
    uint64_t at = ((g->id.prefix >> 16) ^ g->id.pool) * 0x9e3779b97f4a7c15u >> 20;

    return (clock_wall_ms() + at % period) / period;
}

static bool due(struct sd_group *g)
{
    struct sd *sd = g->sd;
    uint64_t slot;

    if (g->dead || !g->ready || replica_role(&g->core) != REPLICA_PRIMARY || g->disk->out)
        return false;
    slot = slot_of(g);
    if (g->compare.epoch != g->core.epoch) { /* a new reign: not at once everywhere */
        g->compare.epoch = g->core.epoch;
        g->compare.slot = slot;
        g->compare.again_ms = g->compare.unix_ms = 0;
        g->compare.difference[0] = 0;
    }
    if (replica_may_read(&g->core, clock_boot_ms()) != RC_OK) return false;
    return sd->conf.compare_period_ms != 0 &&
           (g->compare.slot != slot ||
            (g->compare.again_ms != 0 && clock_boot_ms() >= g->compare.again_ms));
}

/* Of those that are due the one that waits longest. */
void compare_look(struct sd *sd)
{
    struct sd_group *best = NULL;
    struct comparison *a;

    if (sd->comparing || sd->stopping) return;
    LIST_FOREACH(it, &sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        if (due(g) && (best == NULL || g->compare.begun_ms < best->compare.begun_ms)) best = g;
    }
    a = best == NULL ? NULL : calloc(1, sizeof *a);
    if (a == NULL) return; /* with the next look */
    a->g = best;
    if (sd_spawn(sd, ask_run, a) != RC_OK) {
        free(a);
        return;
    }
    sd->comparing = true;
    best->compare.ask = a;
    best->compare.begun_ms = clock_boot_ms();
    best->compare.slot = slot_of(best);
    best->compare.again_ms = 0;
}

/* ---- messages ---- */
static bool from_leader(const struct sd_group *g, const struct replica_compare *m)
{
    const struct replica_core *c = &g->core;

    return m->epoch == c->epoch && id128_eq(&m->from_disk, &c->leader) &&
           id128_eq(&m->from_boot, &c->leader_boot) && replica_role(c) == REPLICA_BACKUP;
}

void compare_arrived(struct sd_group *g, const struct replica_compare *m)
{
    struct replica_event ev = {.type = REPLICA_EV_ODD, .epoch = m->epoch, .id = m->config};

    if (m->type == REPLICA_COMPARE_SUM) {
        sum_take(g, m);
        return;
    }
    if (!from_leader(g, m)) return;
    if (m->type == REPLICA_COMPARE_ODD) {
        log_error("replica_odd",
                  "group=%s index=%llu why=its metadata is another than the "
                  "majority's: it is rebuilt from the others",
                  g->name, (unsigned long long)m->index);
        group_event(g, &ev);
    } else if (g->compare.running) {
        return; /* this one, or one that is given up: asked again */
    } else if (g->compare.sum.id == m->id) {
        sum_send(g); /* it was lost */
    } else {
        part_start(g, m);
    }
}
