/* gateway/manager/recover_core.c - see recover_core.h. */
#include "gateway/manager/recover_core.h"

static const struct recover_report *report_of(const struct recover_report *r, uint32_t n,
                                              const struct id128 *disk)
{
    for (uint32_t i = 0; i < n; i++) {
        if (id128_eq(&r[i].disk, disk)) return &r[i];
    }
    return NULL;
}

static bool empty(const struct recover_report *r)
{
    return r->log_last == 0;
}

/* Is a's log further than b's? */
static bool further(const struct recover_report *a, const struct recover_report *b)
{
    return a->log_epoch != b->log_epoch ? a->log_epoch > b->log_epoch : a->log_last > b->log_last;
}

static void note_missing(const struct recover_report *r, uint32_t n, const struct group_set *s,
                         struct group_set *missing)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (report_of(r, n, &s->disks[i]) == NULL) group_set_add(missing, &s->disks[i]);
    }
}

/* Nobody ever led: the group is as it was made. */
static void decide_fresh(const struct recover_report *r, uint32_t n,
                         const struct group_config *newest, struct recover_decision *ret)
{
    ret->verdict = ret->missing.n == 0 ? RECOVER_OK : RECOVER_MISSING;
    for (uint32_t i = 0; i < n; i++) {
        if (r[i].damaged) ret->verdict = RECOVER_NO_GOOD;
    }
    ret->record = *newest;
    ret->record.learners.n = 0;
}

void recover_decide(const struct recover_report *r, uint32_t n, uint32_t min_in_sync,
                    struct recover_decision *ret)
{
    const struct group_config *newest = NULL;
    const struct recover_report *best = NULL, *furthest = NULL;
    uint64_t epoch = 0, config = 0, commit = 0;

    CHECK(n <= RECOVER_REPORTS_MAX && min_in_sync >= 1);
    *ret = (struct recover_decision){.verdict = RECOVER_NOTHING};
    for (uint32_t i = 0; i < n; i++) {
        const struct recover_report *x = &r[i];

        epoch = MAX(MAX(epoch, x->epoch), x->log_epoch);
        config = MAX(config, x->config);
        commit = MAX(commit, x->commit);
        if (report_of(r, i, &x->disk) != NULL) ret->verdict = RECOVER_CONFLICT;
        if (!x->damaged && (furthest == NULL || further(x, furthest))) furthest = x;
        if (!x->has_record) continue;
        epoch = MAX(epoch, x->record.epoch);
        config = MAX(config, x->record.config);
        if (newest != NULL && newest->config == x->record.config &&
            !group_config_eq(newest, &x->record))
            ret->verdict = RECOVER_CONFLICT; /* a transaction has one winner */
        if (newest == NULL || x->record.config > newest->config) newest = &x->record;
    }
    if (newest == NULL || ret->verdict == RECOVER_CONFLICT) return;
    for (uint32_t i = 0; i < n; i++) {
        if (!r[i].has_record) continue;
        note_missing(r, n, &r[i].record.in_sync, &ret->missing);
        note_missing(r, n, &r[i].record.learners, &ret->missing);
        note_missing(r, n, &r[i].record.last_serving, &ret->missing);
    }
    ret->wish = newest->in_sync;
    if (furthest == NULL || empty(furthest)) {
        if (newest->config == 1 && commit == 0) {
            decide_fresh(r, n, newest, ret);
        } else {
            ret->verdict = RECOVER_NO_GOOD;
        }
        return;
    }
    if (ret->missing.n >= min_in_sync) {
        ret->verdict = RECOVER_MISSING;
        return;
    }
    for (uint32_t i = 0; i < newest->in_sync.n; i++) {
        const struct recover_report *x = report_of(r, n, &newest->in_sync.disks[i]);

        if (x == NULL || x->damaged || empty(x)) continue;
        if (best == NULL || further(x, best) ||
            (!further(best, x) && id128_eq(&x->disk, &newest->primary)))
            best = x;
    }
    ret->verdict = RECOVER_NO_GOOD;
    if (best == NULL || best->log_last < commit) return;
    if (further(furthest, best)) { /* who is not in sync by the newest record may lag, never lead */
        if (furthest->log_epoch > best->log_epoch) ret->verdict = RECOVER_CONFLICT;
        if (!group_set_has(&newest->learners, &furthest->disk)) return;
        if (furthest->log_epoch > best->log_epoch) return;
    }
    ret->verdict = RECOVER_OK;
    ret->record = (struct group_config){
        .config = config + RECOVER_GAP, .epoch = epoch + RECOVER_GAP, .primary = best->disk};
    for (uint32_t i = 0; i < newest->in_sync.n; i++) {
        const struct recover_report *x = report_of(r, n, &newest->in_sync.disks[i]);

        if (x == NULL) continue;
        if (x->damaged || empty(x) || further(best, x)) {
            group_set_add(&ret->record.learners, &x->disk);
            ret->behind_n++;
        } else {
            group_set_add(&ret->record.in_sync, &x->disk);
        }
    }
    ret->record.last_serving =
        ret->record.in_sync.n >= min_in_sync ? ret->record.in_sync : newest->last_serving;
}

const char *recover_text(enum recover_verdict v)
{
    switch (v) {
    case RECOVER_OK:
        return "can be made again";
    case RECOVER_NOTHING:
        return "no disk that answers kept a record of it: start the storage nodes that had it";
    case RECOVER_CONFLICT:
        return "disks contradict each other (a copied disk, another cluster's?): take away the "
               "wrong one";
    case RECOVER_MISSING:
        return "disks that do not answer could have gone on without the others: start their nodes";
    case RECOVER_NO_GOOD:
        return "nobody who answers is known to have every acknowledged write: start the missing "
               "nodes";
    }
    return "?";
}
