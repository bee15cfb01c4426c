/* gateway/agent/run.c - the agent's loop: looks at folders, hands complete cases to workers, takes
 * requests and new settings.
 *
 * One fiber looks (the thread pool does the looking), `cases` fibers work. A look ahead of the
 * workers is bounded: JOBS_MAX cases are held in memory at a time, whatever the folders hold. */
#include "common/base/clock.h"
#include "common/base/hex.h"
#include "gateway/agent/agent_priv.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOBS_MAX 2u    /* complete cases that wait for a worker */
#define TICK_MS  1000u /* looks for requests, and at cases that get quiet */
#define LOOK_MIN 10u   /* a look that took n ms is not made again within 10 n */

/* ---- small things that all files use ---- */
struct slice agent_slice(const char *s)
{
    return (struct slice){(const uint8_t *)s, s == NULL ? 0 : strlen(s)};
}

void agent_tell(struct agent *a, const char *event, const char *fmt, ...)
{
    json_t *j = NULL;
    va_list ap;

    if (fmt[0] != 0) {
        va_start(ap, fmt);
        j = json_vpack_ex(NULL, 0, fmt, ap); /* a name that is not UTF-8: no fields */
        va_end(ap);
    }
    a->conf.tell(a->conf.data, event, j);
}

void agent_fail(struct agent *a, enum rc rc, const struct err *e)
{
    if (a->rc == RC_OK) {
        a->rc = rc;
        a->err = *e;
    }
    agent_stop(a);
}

bool agent_transient(const struct agent *a, enum rc rc)
{
    if (rc == RC_DENIED) return !a->set.once;
    return rc == RC_UNAVAIL || rc == RC_DEADLINE || rc == RC_BUSY || rc == RC_IO ||
           rc == RC_CANCELED;
}

bool agent_wait(struct agent *a, struct backoff *b)
{
    uint32_t random;
    uint64_t until_ms;

    random_bytes(&random, sizeof random);
    until_ms = clock_boot_ms() + backoff_next_ms(b, random);
    while (!a->stop && clock_boot_ms() < until_ms)
        fiber_sleep_ms(MIN(until_ms - clock_boot_ms() + 1, 500u));
    return !a->stop;
}

enum rc agent_stopped(const struct agent *a, struct err *reterr)
{
    return a->stop ? err_set(reterr, RC_CANCELED, "stopped") : RC_OK;
}

char *agent_folder(const struct agent *a, const char *name)
{
    char *path;

    if (asprintf(&path, "%s%s%s", a->set.state, name[0] == 0 ? "" : "/", name) < 0) return NULL;
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return path;
    free(path);
    return NULL;
}

enum rc agent_digest_name(const char *text, char ret[33])
{
    uint8_t digest[TREE_DIGEST_BYTES];
    struct tree_stream *t = NULL;
    enum rc rc = tree_stream_new(&t);

    if (rc == RC_OK) rc = tree_stream_update(t, text, strlen(text));
    if (rc == RC_OK) rc = tree_stream_digest(t, digest);
    tree_stream_free(t);
    if (rc == RC_OK) hex_encode(digest, 16, ret);
    return rc;
}

/* ---- opening ---- */
static bool on_full(void *data)
{
    struct agent *a = data;

    agent_tell(a, "state_full", "{s:s}", "why",
               "the disk of the journal is full: nothing is sent until there is room");
    return a->stop;
}

static void spool_empty(struct agent *a)
{
    char *spool = agent_folder(a, "spool");
    struct dirent *d;
    DIR *h = spool == NULL ? NULL : opendir(spool);

    while (h != NULL && (d = readdir(h)) != NULL) {
        if (d->d_name[0] != '.') (void)unlinkat(dirfd(h), d->d_name, 0); /* made anew if needed */
    }
    if (h != NULL) (void)closedir(h);
    free(spool);
}

static enum rc folders_make(struct agent *a, struct err *reterr)
{
    static const char *const NAMES[] = {"", "receipts", "quarantine", "requests", "spool"};

    for (size_t i = 0; i < ARRAY_N(NAMES); i++) {
        char *path = agent_folder(a, NAMES[i]);

        if (path == NULL) {
            return err_set(reterr, rc_from_errno(errno), "state folder '%s/%s': %s", a->set.state,
                           NAMES[i], strerror(errno));
        }
        free(path);
    }
    return RC_OK;
}

enum rc agent_open(const struct agent_settings *s, const struct agent_conf *conf,
                   struct agent **ret, struct err *reterr)
{
    struct agent *a = calloc(1, sizeof *a);
    struct journal_conf jc = {
        .dir = s->state, .collection = s->collection, .full = on_full, .data = a};
    uint64_t cut = 0;
    char *record = NULL;
    enum rc rc;

    if (a == NULL) return err_set(reterr, RC_NOMEM, "an agent");
    a->set = *s;
    a->conf = *conf;
    a->client = conf->client;
    list_init(&a->jobs);
    fiber_cond_init(&a->changed);
    fiber_cond_init(&a->child_free);
    fiber_cond_init(&a->send_free);
    names_init(&a->tracked);
    for (uint32_t i = 0; i < AGENT_CHILDREN; i++)
        inspect_child_init(&a->children[i].child, s->inspect[0] == 0 ? NULL : s->inspect);
    rc = agent_case_by(s, &a->by, reterr);
    if (rc == RC_OK) rc = pace_parse(s->bandwidth, &a->pace, reterr);
    if (rc == RC_OK) rc = folders_make(a, reterr);
    if (rc == RC_OK) rc = journal_open(&jc, &a->journal, &cut, reterr);
    if (rc == RC_OK) {
        spool_empty(a);
        if (asprintf(&record, "%s/deid-record.json", s->state) < 0 ||
            (a->record = fopen(record, "ae")) == NULL)
            rc = err_set(reterr, rc_from_errno(errno), "'%s/deid-record.json': %s", s->state,
                         strerror(errno));
        free(record);
    }
    if (rc == RC_OK && cut > 0) agent_tell(a, "journal_cut", "{s:I}", "bytes", (json_int_t)cut);
    if (rc != RC_OK) {
        agent_close(a);
    } else {
        *ret = a;
    }
    return rc;
}

void agent_close(struct agent *a)
{
    if (a == NULL) return;
    for (size_t i = 0; i < a->tracked.cap; i++) {
        struct tracked *t = a->tracked.slots[i].name == NULL ? NULL : a->tracked.slots[i].value;

        if (t != NULL) free(t->root);
        free(t);
    }
    names_deinit(&a->tracked);
    for (uint32_t i = 0; i < AGENT_CHILDREN; i++)
        inspect_child_deinit(&a->children[i].child);
    if (a->rules_loaded) deid_rules_wipe(&a->rules);
    if (a->record != NULL) (void)fclose(a->record); /* every line was flushed and checked */
    journal_close(a->journal);
    free(a);
}

void agent_stop(struct agent *a)
{
    a->stop = true;
    mikura_client_cancel(a->client); /* all that was done is in the journal */
    fiber_cond_broadcast(&a->changed);
    fiber_cond_broadcast(&a->send_free);
    fiber_event_set(&a->wake);
}

void agent_reload(struct agent *a)
{
    a->reload = a->rescan = true;
    fiber_event_set(&a->wake);
}

const struct agent_counts *agent_counts(const struct agent *a)
{
    return &a->counts;
}

/* ---- the collection and its rules ---- */
static enum rc rules_choose(struct agent *a, const Mikura__V1__Collection *col, struct err *reterr)
{
    const Mikura__V1__CollectionPolicy *p = col->policy;
    const char *profile = a->set.deid_profile;
    enum rc rc;

    if (p == NULL) return err_set(reterr, RC_INTERNAL, "the collection has no policy");
    a->chunk_bytes = p->chunk_bytes == 0 ? 8u << 20 : p->chunk_bytes;
    if (profile[0] == 0) profile = p->unchecked ? "default" : p->deid_profile;
    if (strcmp(profile, "none") == 0) {
        if (!p->unchecked) {
            return err_set(reterr, RC_PRECOND,
                           "deid_profile none: the collection has profile '%s', so its files are "
                           "checked before they leave",
                           p->deid_profile);
        }
        return RC_OK;
    }
    if (a->rules_loaded) return RC_OK;
    rc = deid_rules_load(profile, a->set.pseudonym_key[0] == 0 ? NULL : a->set.pseudonym_key,
                         &a->rules, reterr);
    if (rc == RC_OK) a->rules_loaded = a->check = true;
    return rc;
}

/* A researcher sees the collection, too, and may send nothing: told before any file is looked at. A
 * call that only agents of its society may make, of a case that is hardly there. */
static enum rc sender_ask(struct agent *a, struct err *reterr)
{
    Mikura__V1__CheckCaseResponse *r = NULL;
    struct err why;
    enum rc rc = mikura_case_check(a->client, a->set.collection, "-", 0, NULL, 0, &r, &why);

    mikura__v1__check_case_response__free_unpacked(r, NULL);
    if (rc == RC_OK || rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_DENIED) return err_set(reterr, rc, "%s", why.msg);
    return err_set(reterr, rc,
                   "sending to '%s' needs its society's certificate "
                   "(mikura://society/SOCIETY/agent/NAME): %s",
                   a->set.collection, why.msg);
}

static enum rc collection_ask(struct agent *a, struct err *reterr)
{
    Mikura__V1__GetCollectionRequest m = MIKURA__V1__GET_COLLECTION_REQUEST__INIT;
    Mikura__V1__Collection *col = NULL;
    struct backoff wait = {AGENT_TRY_MS, AGENT_TRY_MAX_MS, 0};
    enum rc rc;

    m.name = (char *)(uintptr_t)a->set.collection;
    for (;;) {
        rc = mikura_unary(a->client, "/mikura.v1.Catalog/GetCollection", &m.base,
                          &mikura__v1__collection__descriptor, &col, reterr);
        if (rc == RC_OK) {
            rc = sender_ask(a, reterr);
            if (rc == RC_OK || rc == RC_DENIED) break; /* another role: waiting changes nothing */
            mikura__v1__collection__free_unpacked(col, NULL);
            col = NULL;
        }
        if (a->set.once || a->stop || !agent_transient(a, rc)) break;
        agent_tell(a, "waiting", "{s:s, s:s}", "code", rc_name(rc), "why", reterr->msg);
        if (!agent_wait(a, &wait)) break;
    }
    if (rc == RC_OK) rc = rules_choose(a, col, reterr);
    mikura__v1__collection__free_unpacked(col, NULL);
    return rc;
}

/* ---- workers ---- */
static void worker(void *arg)
{
    struct agent *a = arg;

    while (!a->stop) {
        struct job *j;

        while (list_empty(&a->jobs) && !a->stop)
            fiber_cond_wait(&a->changed);
        if (a->stop) break;
        j = CONTAINER_OF(a->jobs.next, struct job, link);
        list_remove(&j->link);
        a->jobs_n--;
        a->working_n++;
        fiber_cond_broadcast(&a->changed);
        case_work(a, j);
        a->working_n--;
        fiber_cond_broadcast(&a->changed);
        fiber_event_set(&a->wake);
    }
}

/* ---- looking ---- */
struct look {
    struct scan_conf conf;
    struct scan *s;
    struct scan_case *c;
    enum rc rc;
    struct err err;
};

static void look_open(void *arg)
{
    struct look *l = arg;

    l->rc = scan_open(&l->conf, &l->s, &l->err);
}

static void look_next(void *arg)
{
    struct look *l = arg;

    l->rc = scan_next(l->s, &l->c, &l->err);
}

static struct tracked *tracked_of(struct agent *a, const char *root)
{
    struct tracked *t = names_get(&a->tracked, root);

    if (t != NULL) return t;
    t = calloc(1, sizeof *t);
    if (t == NULL || (t->root = strdup(root)) == NULL ||
        names_add(&a->tracked, t->root, t) != RC_OK) {
        if (t != NULL) free(t->root);
        free(t);
        return NULL;
    }
    return t;
}

/* Journalled under its own name, or under a pseudonym: by its place then. */
static const struct jcase *known_case(struct agent *a, const struct scan_case *c)
{
    const struct jcase *k = journal_case(a->journal, c->case_id);

    if (k == NULL && a->set.deidentify && a->check) {
        char name[64];
        struct err e;

        if (deid_name_clean(&a->rules, c->case_id, name, &e) == RC_OK)
            k = journal_case(a->journal, name);
    }
    return k;
}

/* *ret_job: it is to be worked on; else it is counted, and freed by the caller. */
static bool case_seen(struct agent *a, struct tracked *t, const struct scan_case *c)
{
    const struct jcase *k = known_case(a, c);
    bool complete = recog_see(&t->recog, a->by, a->set.once ? 0 : a->set.quiet_ms, c->marker,
                              c->print, clock_boot_ms());

    if (k != NULL && memcmp(k->print, c->print, sizeof k->print) == 0) {
        if (k->state == JCASE_DONE) {
            a->shown.cases_known++;
            return false;
        }
        if (k->state == JCASE_ASIDE) {
            a->shown.cases_aside++;
            return false;
        }
    }
    if (c->files_n == 0 && c->bad == NULL) return false; /* an empty folder is no case yet */
    if (!complete) a->shown.cases_waiting++;
    return complete;
}

static enum rc hand_out(struct agent *a, struct tracked *t, struct scan_case *c, struct err *reterr)
{
    struct job *j = calloc(1, sizeof *j);

    if (j == NULL) {
        scan_case_free(c);
        return err_set(reterr, RC_NOMEM, "a case");
    }
    *j = (struct job){.t = t, .c = c};
    t->working = true;
    while (a->jobs_n >= JOBS_MAX && !a->stop)
        fiber_cond_wait(&a->changed);
    list_push_back(&a->jobs, &j->link);
    a->jobs_n++;
    fiber_cond_broadcast(&a->changed);
    return RC_OK;
}

static enum rc look_all(struct agent *a, struct look *l, struct err *reterr)
{
    enum rc rc = RC_OK;

    while (rc == RC_OK && !a->stop) {
        struct tracked *t;

        rc = fiber_work(look_next, l);
        if (rc == RC_OK) rc = l->rc;
        if (rc == RC_RANGE) return RC_OK;
        if (rc != RC_OK) return err_set(reterr, rc, "looking at folders: %s", l->err.msg);
        t = tracked_of(a, l->c->root);
        if (t == NULL) {
            scan_case_free(l->c);
            return err_set(reterr, RC_NOMEM, "a case");
        }
        if (!l->c->single) watch_folder(a->watch, l->c->root);
        if (t->working) {
            a->shown.cases_working++;
            scan_case_free(l->c);
        } else if (!case_seen(a, t, l->c)) {
            scan_case_free(l->c);
        } else {
            a->shown.cases_working++;
            rc = hand_out(a, t, l->c, reterr);
        }
    }
    return rc;
}

/* A folder that is not there now (a mount that is away) is no reason to end. */
static enum rc look(struct agent *a, struct err *reterr)
{
    struct look *l = calloc(1, sizeof *l);
    enum rc rc;

    if (l == NULL) return err_set(reterr, RC_NOMEM, "a look at folders");
    l->conf = (struct scan_conf){.folders = a->set.watch,
                                 .marker = a->by == RECOG_MARKER ? a->set.marker : "",
                                 .list = a->set.list};
    memset(&a->shown, 0, sizeof a->shown);
    rc = fiber_work(look_open, l);
    if (rc == RC_OK) rc = l->rc;
    if (rc == RC_OK) {
        rc = look_all(a, l, reterr);
        scan_close(l->s);
    } else {
        *reterr = l->err;
        if (rc != RC_NOMEM && !a->set.once) {
            agent_tell(a, "trouble", "{s:s}", "why", l->err.msg);
            rc = RC_OK;
        }
    }
    a->counts.cases_known = a->shown.cases_known;
    a->counts.cases_aside = a->shown.cases_aside;
    a->counts.cases_waiting = a->shown.cases_waiting;
    a->counts.cases_working = a->shown.cases_working;
    free(l);
    return rc;
}

/* Commits whose outcome is unknown are finished first, also where the files are gone by now. */
static enum rc commits_resume(struct agent *a, struct err *reterr)
{
    const struct jcase *k;
    enum rc rc = RC_OK;

    for (size_t i = 0; rc == RC_OK && !a->stop && (k = journal_at(a->journal, i)) != NULL; i++) {
        struct scan_case *c;
        struct tracked *t;

        if (k->state != JCASE_COMMITTING || k->root == NULL) continue;
        t = tracked_of(a, k->root);
        c = calloc(1, sizeof *c);
        if (c != NULL) {
            c->case_id = strdup(k->case_id);
            c->root = strdup(k->root);
            memcpy(c->print, k->print, sizeof c->print);
        }
        if (t == NULL || c == NULL || c->case_id == NULL || c->root == NULL) {
            scan_case_free(c);
            return err_set(reterr, RC_NOMEM, "a case");
        }
        rc = hand_out(a, t, c, reterr);
    }
    return rc;
}

static void watch_roots(struct agent *a)
{
    char *all = strdup(a->set.watch), *at = all;

    while (at != NULL && *at != 0) {
        char *one = at;

        at = strchr(at, ',');
        if (at != NULL) *at++ = 0;
        watch_folder(a->watch, one);
    }
    free(all);
}

/* What may change while it runs; the rest waits for a restart, and is told. */
static void settings_reload(struct agent *a)
{
    struct agent_settings s;
    struct err e = {0};
    enum rc rc = a->conf.reload == NULL ? RC_UNIMPL : a->conf.reload(a->conf.data, &s, &e);

    a->reload = false;
    if (rc == RC_UNIMPL) return;
    if (rc == RC_OK) rc = pace_parse(s.bandwidth, &a->pace, &e);
    if (rc != RC_OK) {
        agent_tell(a, "settings_refused", "{s:s}", "why", e.msg);
        return;
    }
    if (strcmp(s.collection, a->set.collection) != 0 || strcmp(s.state, a->set.state) != 0 ||
        strcmp(s.watch, a->set.watch) != 0 || strcmp(s.deid_profile, a->set.deid_profile) != 0 ||
        s.deidentify != a->set.deidentify || s.cases != a->set.cases) {
        agent_tell(a, "settings_need_restart", "{s:s}", "why",
                   "collection, state, watch, deid_profile, deidentify and cases change at a "
                   "restart");
    }
    a->set.bandwidth = s.bandwidth;
    a->set.parallel = s.parallel;
    a->set.quiet_ms = s.quiet_ms;
    a->set.rescan_ms = s.rescan_ms;
    a->set.partial = s.partial;
    agent_tell(a, "settings", "{s:s, s:I}", "bandwidth", s.bandwidth, "parallel",
               (json_int_t)s.parallel);
}

static bool idle(const struct agent *a)
{
    return a->jobs_n == 0 && a->working_n == 0;
}

static void wait_idle(struct agent *a)
{
    while (!idle(a) && !a->stop)
        fiber_cond_wait(&a->changed);
}

static enum rc watch_loop(struct agent *a, struct err *reterr)
{
    uint64_t next_ms = 0;
    enum rc rc = RC_OK;

    while (rc == RC_OK && !a->stop) {
        uint64_t now_ms = clock_boot_ms(), took_ms, wait_ms;

        if (a->reload) settings_reload(a);
        rc = requests_take(a, reterr);
        if (rc == RC_OK) rc = journal_compact(a->journal, false, reterr);
        if (rc != RC_OK) break;
        if (a->rescan || now_ms >= next_ms) {
            a->rescan = false;
            rc = look(a, reterr);
            took_ms = clock_boot_ms() - now_ms;
            /* what is getting quiet is looked at again when it may be */
            wait_ms = a->counts.cases_waiting > 0 && a->by == RECOG_QUIET
                          ? MIN(a->set.quiet_ms, a->set.rescan_ms)
                          : a->set.rescan_ms;
            next_ms = clock_boot_ms() + MAX(wait_ms, took_ms * LOOK_MIN);
            if (rc == RC_OK && a->set.once) {
                wait_idle(a);
                if (a->counts.cases_working == 0) break; /* nothing new came meanwhile */
                next_ms = 0;
                continue;
            }
        }
        (void)!fiber_event_wait_ms(&a->wake, TICK_MS); /* either way it is time to look around */
        if (a->rescan && !a->stop) fiber_sleep_ms(TICK_MS); /* events come in swarms */
    }
    return rc;
}

enum rc agent_run(struct agent *a, struct err *reterr)
{
    struct err e = {0};
    enum rc rc = collection_ask(a, reterr);

    if (rc != RC_OK) return rc;
    if (watch_open(a, &a->watch, &e) == RC_OK) {
        watch_roots(a);
    } else {
        agent_tell(a, "trouble", "{s:s}", "why", e.msg);
    }
    agent_tell(a, "started", "{s:s, s:s, s:b, s:I}", "collection", a->set.collection, "state",
               a->set.state, "checked", a->check, "journal_bytes",
               (json_int_t)journal_bytes(a->journal));
    for (uint64_t i = 0; rc == RC_OK && i < a->set.cases; i++)
        rc = fiber_group_spawn(&a->workers, worker, a);
    if (rc != RC_OK) rc = err_set(reterr, rc, "the agent's workers");
    if (rc == RC_OK) rc = commits_resume(a, reterr);
    if (rc == RC_OK) rc = watch_loop(a, reterr);
    agent_stop(a);
    fiber_group_wait(&a->workers);
    while (!list_empty(&a->jobs)) {
        struct job *j = CONTAINER_OF(a->jobs.next, struct job, link);

        list_remove(&j->link);
        scan_case_free(j->c);
        free(j);
    }
    watch_close(a->watch);
    if (rc == RC_OK && a->rc != RC_OK) {
        rc = a->rc;
        *reterr = a->err;
    }
    agent_tell(a, "stopped", "{s:I, s:I, s:I}", "cases_done", (json_int_t)a->counts.cases_done,
               "files_done", (json_int_t)a->counts.files_done, "bytes_sent",
               (json_int_t)a->counts.bytes_sent);
    return rc;
}
