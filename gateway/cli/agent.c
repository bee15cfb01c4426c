/* gateway/cli/agent.c - agent run, status, retry, verify: the society's agent (gateway/agent) on
 * the command line and under systemd. */
#include "gateway/agent/agent.h"
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include "common/image/deid/deid.h"
#include "gateway/agent/journal.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "gateway/cli/progress.h"
#include "gateway/cli/receipt.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARGV_MAX 48
#define STOP_MS  4000u /* from a signal to the end, whatever gateways do; a probe takes 3 s */

/* Options of `agent run` that are settings of the agent: as its configuration file names them. */
static const struct {
    const char *opt, *key, *flag_value;
} SETTINGS[] = {
    {"collection", "collection", NULL},
    {"state", "state", NULL},
    {"case-by", "case_by", NULL},
    {"marker", "marker", NULL},
    {"list", "list", NULL},
    {"quiet-for", "quiet_for", NULL},
    {"rescan", "rescan", NULL},
    {"profile", "deid_profile", NULL},
    {"deidentify", "deidentify", "yes"},
    {"pseudonym-key", "pseudonym_key", NULL},
    {"partial", "partial", "yes"},
    {"inspect", "inspect", NULL},
    {"bandwidth", "bandwidth", NULL},
    {"parallel", "parallel", NULL},
    {"cases", "cases", NULL},
    {"once", "once", "yes"},
};

struct running {
    struct cli *c;
    struct agent *agent;
    struct progress progress;
    uv_signal_t on_int, on_term, on_hup;
    uv_timer_t late;
    bool ended;
    struct fiber_group drawing;
};

/* ---- settings ---- */
/* Words for agent_settings_load; they live until the process ends, as the settings do. */
static enum rc settings_of(struct cli *c, struct agent_settings *ret, struct err *reterr)
{
    char *argv[ARGV_MAX] = {strdup("mikura agent run")}, *folders = NULL;
    const char *config = cli_value(c, "config");
    int n = 1;

    if (config != NULL && asprintf(&argv[n++], "--config=%s", config) < 0)
        return err_set(reterr, RC_NOMEM, "settings");
    for (size_t i = 0; i < ARRAY_N(SETTINGS); i++) {
        const char *v = cli_value(c, SETTINGS[i].opt);

        if (v == NULL) continue;
        if (SETTINGS[i].flag_value != NULL) v = SETTINGS[i].flag_value;
        if (asprintf(&argv[n++], "--%s=%s", SETTINGS[i].key, v) < 0)
            return err_set(reterr, RC_NOMEM, "settings");
    }
    for (unsigned i = 0; i < c->args_n; i++) {
        char *longer;

        if (asprintf(&longer, "%s%s%s", folders == NULL ? "--watch=" : folders,
                     folders == NULL ? "" : ",", c->args[i]) < 0)
            return err_set(reterr, RC_NOMEM, "settings");
        free(folders);
        folders = longer;
    }
    if (folders != NULL) argv[n++] = folders;
    return agent_settings_load(n, argv, ret, reterr);
}

static enum rc on_reload(void *data, struct agent_settings *ret, struct err *reterr)
{
    struct running *r = data;

    return settings_of(r->c, ret, reterr);
}

/* ---- telling ---- */
/* On a terminal a line for people; else, and with --json, one JSON object a line. */
static void on_tell(void *data, const char *event, json_t *fields)
{
    struct running *r = data;
    json_t *j = fields == NULL ? json_object() : fields, *v;
    const char *key;
    char at[32];

    if (r->c->quiet && strcmp(event, "trouble") != 0) {
        json_decref(j);
        return;
    }
    if (r->progress.f != NULL && !r->c->json) {
        static const char *const QUIET[] = {"try", "sent", "cut", "answered"}; /* the bar tells */

        for (size_t i = 0; i < ARRAY_N(QUIET); i++) {
            if (strcmp(event, QUIET[i]) == 0) {
                json_decref(j);
                return;
            }
        }
        (void)fprintf(stderr, "\r\033[K%s", event);
        json_object_foreach(j, key, v)
        {
            if (json_is_string(v)) {
                (void)fprintf(stderr, "  %s %s", key, json_string_value(v));
            } else if (json_is_integer(v)) {
                (void)fprintf(stderr, "  %s %lld", key, (long long)json_integer_value(v));
            }
        }
        (void)fputc('\n', stderr);
    } else {
        (void)json_object_set_new(j, "event", json_string(event));
        (void)json_object_set_new(j, "at", json_string(clock_text(clock_wall_ms(), at)));
        (void)json_dumpf(j, stdout, JSON_COMPACT | JSON_SORT_KEYS);
        (void)fputc('\n', stdout);
        (void)fflush(stdout); /* a reader that has gone is seen at the end */
    }
    json_decref(j);
}

static void draw_fiber(void *arg)
{
    struct running *r = arg;
    const struct agent_counts *n = agent_counts(r->agent);

    while (!r->ended) {
        r->progress.total = n->bytes_total;
        r->progress.done = n->bytes_done;
        r->progress.items_total = n->files_total;
        r->progress.items_done = n->files_done;
        progress_show(&r->progress, clock_boot_ms());
        fiber_sleep_ms(100);
    }
}

/* ---- signals ---- */
/* A call that a silent gateway has would hold us until its deadline. Each step is in the journal
 * before it is made, so this is no worse than a kill. */
static void on_late(uv_timer_t *h)
{
    (void)h;
    (void)fprintf(stderr,
                  "mikura: a gateway does not answer; ended without it, the next run goes on\n");
    (void)fflush(NULL); /* we end either way */
    _exit(EXIT_OK);
}

static void on_signal(uv_signal_t *h, int signum)
{
    struct running *r = h->data;

    if (signum == SIGHUP) {
        agent_reload(r->agent);
    } else {
        agent_stop(r->agent);
        (void)uv_timer_start(&r->late, on_late, STOP_MS, 0); /* fails for closed handles only */
    }
}

static void signal_start(struct running *r, uv_signal_t *h, int signum)
{
    if (uv_signal_init(fibers_loop(r->c->fs), h) != 0) return;
    h->data = r;
    (void)uv_signal_start(h, on_signal, signum); /* without it the signal ends us, which is safe */
}

static void signals_close(struct running *r)
{
    uv_close((uv_handle_t *)&r->on_int, NULL);
    uv_close((uv_handle_t *)&r->on_term, NULL);
    uv_close((uv_handle_t *)&r->on_hup, NULL);
    uv_close((uv_handle_t *)&r->late, NULL);
}

/* The configuration file is looked at every second: a change counts as a SIGHUP. */
static bool file_changed(const char *file, struct timespec *seen)
{
    struct stat st;
    bool changed;

    if (file == NULL || stat(file, &st) != 0) return false;
    changed = seen->tv_sec != 0 &&
              (seen->tv_sec != st.st_mtim.tv_sec || seen->tv_nsec != st.st_mtim.tv_nsec);
    *seen = st.st_mtim;
    return changed;
}

static void config_fiber(void *arg)
{
    struct running *r = arg;
    const char *file = cli_value(r->c, "config");
    struct timespec seen = {0};

    while (!r->ended && file != NULL) {
        if (file_changed(file, &seen)) agent_reload(r->agent);
        for (int i = 0; i < 10 && !r->ended; i++)
            fiber_sleep_ms(100);
    }
}

static int agent_end(struct cli *c, struct running *r, enum rc rc)
{
    const struct agent_counts *n = agent_counts(r->agent);
    int code = rc == RC_OK ? EXIT_OK : cli_fail(c, rc);

    if (rc == RC_OK && n->cases_aside > 0) code = EXIT_PARTIAL;
    return code;
}

int cmd_agent_run(struct cli *c)
{
    struct running *r;
    struct agent_settings set;
    struct agent_conf conf = {.reload = on_reload, .tell = on_tell};
    enum rc rc;
    int code;

    if (cli_flag(c, "dry-run")) {
        if (c->args_n == 0) return cli_usage(c, "--dry-run needs files or folders");
        return deid_dry_run(c);
    }
    (void)umask(077); /* the state folder holds files' names, and copies for a while */
    r = calloc(1, sizeof *r);
    if (r == NULL) return cli_fail(c, RC_NOMEM);
    r->c = c;
    rc = settings_of(c, &set, &c->err);
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    progress_init(&r->progress, stderr, set.collection, c->quiet || c->json);
    conf.client = c->client;
    conf.data = r;
    if (rc == RC_OK) rc = agent_open(&set, &conf, &r->agent, &c->err);
    if (rc != RC_OK) {
        free(r);
        return cli_fail(c, rc);
    }
    (void)uv_timer_init(fibers_loop(c->fs), &r->late); /* never fails */
    signal_start(r, &r->on_int, SIGINT);
    signal_start(r, &r->on_term, SIGTERM);
    signal_start(r, &r->on_hup, SIGHUP);
    if (fiber_group_spawn(&r->drawing, draw_fiber, r) != RC_OK ||
        fiber_group_spawn(&r->drawing, config_fiber, r) != RC_OK) {
        /* without a picture, or without a look at the file: SIGHUP does it */
    }
    rc = agent_run(r->agent, &c->err);
    r->ended = true;
    fiber_group_wait(&r->drawing);
    progress_end(&r->progress);
    signals_close(r);
    code = agent_end(c, r, rc);
    agent_close(r->agent);
    fiber_sleep_ms(0); /* the handles close */
    free(r);
    return code;
}

/* ---- status ---- */
static const char *state_name(const struct jcase *k)
{
    switch (k->state) {
    case JCASE_OPEN:
        return "sending";
    case JCASE_COMMITTING:
        return "committing";
    case JCASE_DONE:
        return "committed";
    case JCASE_ASIDE:
        return "aside";
    case JCASE_NONE:
        break;
    }
    return "unknown";
}

struct tally {
    uint64_t cases[JCASE_ASIDE + 1], files, bytes, held;
};

static enum rc case_status(struct cli *c, const struct jcase *k, struct tally *t)
{
    uint64_t staged = 0, held = 0;

    for (size_t i = 0; i < k->files_n; i++) {
        staged += k->files[i]->state == JFILE_STAGED;
        held += k->files[i]->state == JFILE_HELD && !k->files[i]->looked;
    }
    t->cases[k->state]++;
    t->held += held;
    if (k->state == JCASE_DONE) {
        t->files += k->count;
        t->bytes += k->bytes;
    }
    if (c->json) {
        return out_json(json_pack(
            "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "type", "case", "case_id",
            k->case_id, "state", state_name(k), "folder", k->root == NULL ? "" : k->root,
            "generation", (json_int_t)k->generation, "files", (json_int_t)k->count, "bytes",
            (json_int_t)k->bytes, "staged", (json_int_t)staged, "held", (json_int_t)held, "why",
            k->state == JCASE_ASIDE && k->why != NULL ? k->why : ""));
    }
    if (k->state == JCASE_DONE) return RC_OK;
    (void)printf("%-10s %s: %llu files staged, %llu held%s%s\n", state_name(k), k->case_id,
                 (unsigned long long)staged, (unsigned long long)held,
                 k->state == JCASE_ASIDE ? ": " : "",
                 k->state == JCASE_ASIDE && k->why != NULL ? k->why : "");
    for (size_t i = 0; i < k->files_n; i++) {
        const struct jfile *f = k->files[i];

        if (f->state == JFILE_HELD && !f->looked)
            (void)printf("    %s: %s\n", f->path, f->why == NULL ? "" : f->why);
    }
    return RC_OK;
}

/* The journal of --state, as it is now. */
static enum rc journal_look(struct cli *c, struct journal **ret)
{
    const char *collection = cli_value(c, "collection"), *state = cli_value(c, "state");
    struct journal_conf jc = {
        .dir = state, .collection = collection == NULL ? "" : collection, .read_only = true};
    uint64_t cut;

    if (state == NULL)
        return err_set(&c->err, RC_INVAL, "--state DIR is needed: the agent's state folder");
    return journal_open(&jc, ret, &cut, &c->err);
}

int cmd_agent_status(struct cli *c)
{
    struct tally t = {0};
    struct journal *j = NULL;
    struct jcase *k;
    char a[32];
    enum rc rc = journal_look(c, &j);

    for (size_t i = 0; rc == RC_OK && (k = journal_at(j, i)) != NULL; i++)
        rc = case_status(c, k, &t);
    if (rc == RC_OK && c->json) {
        rc = out_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "type", "summary",
                                "committed", (json_int_t)t.cases[JCASE_DONE], "committing",
                                (json_int_t)t.cases[JCASE_COMMITTING], "sending",
                                (json_int_t)t.cases[JCASE_OPEN], "aside",
                                (json_int_t)t.cases[JCASE_ASIDE], "files", (json_int_t)t.files,
                                "bytes", (json_int_t)t.bytes, "held", (json_int_t)t.held));
    } else if (rc == RC_OK) {
        (void)printf("%llu cases committed (%llu files, %s), %llu committing, %llu sending, %llu "
                     "set aside\n",
                     (unsigned long long)t.cases[JCASE_DONE], (unsigned long long)t.files,
                     str_from_bytes(t.bytes, a), (unsigned long long)t.cases[JCASE_COMMITTING],
                     (unsigned long long)t.cases[JCASE_OPEN],
                     (unsigned long long)t.cases[JCASE_ASIDE]);
    }
    journal_close(j);
    if (rc != RC_OK) return cli_fail(c, rc);
    return t.cases[JCASE_ASIDE] > 0 ? EXIT_PARTIAL : EXIT_OK;
}

/* ---- retry ---- */
/* What the agent could only shake its head at is told here. */
static enum rc retry_check(struct cli *c, struct journal *j, const char *case_id, bool looked)
{
    const struct jcase *k = journal_case(j, case_id);
    size_t to_look = 0, refused = 0;

    if (k == NULL)
        return err_set(&c->err, RC_NOTFOUND,
                       "the agent knows no case '%s': see mikura agent status", case_id);
    for (size_t i = 0; i < k->files_n; i++) {
        const struct jfile *f = k->files[i];
        bool held = f->state == JFILE_HELD;

        to_look += held ? f->outcome == DEID_QUARANTINED
                        : f->state == JFILE_STAGED && f->result.quarantined;
        refused += held && f->outcome != DEID_QUARANTINED;
    }
    if (!looked || to_look > 0) return RC_OK;
    return err_set(&c->err, RC_PRECOND,
                   "case '%s': no file is held for its pixels, %zu are refused by other rules: "
                   "looking frees none of them; clean them (--deidentify) or take them out",
                   case_id, refused);
}

int cmd_agent_retry(struct cli *c)
{
    const char *state = cli_value(c, "state");
    bool looked = cli_flag(c, "looked");
    struct journal *j = NULL;
    enum rc rc;

    if (state == NULL) return cli_usage(c, "--state DIR is needed: the agent's state folder");
    if (c->args_n == 0 && looked && !cli_flag(c, "all"))
        return cli_usage(c, "--looked needs the cases that were looked at, or --all");
    rc = journal_look(c, &j);
    for (unsigned i = 0; rc == RC_OK && i < c->args_n; i++)
        rc = retry_check(c, j, c->args[i], looked);
    journal_close(j);
    if (rc == RC_OK && c->args_n == 0) rc = agent_request_retry(state, NULL, looked, &c->err);
    for (unsigned i = 0; rc == RC_OK && i < c->args_n; i++)
        rc = agent_request_retry(state, c->args[i], looked, &c->err);
    if (rc != RC_OK) return cli_fail(c, rc);
    if (!c->quiet)
        (void)fprintf(stderr, "the agent of '%s' tries again within a second, or when it starts\n",
                      state);
    return EXIT_OK;
}

/* ---- verify ---- */
struct verifying {
    struct cli *c;
    const char *collection;
    struct verify *keys;
    uint64_t good, bad;
};

static enum rc lines_compare(struct verifying *v, const struct jcase *k,
                             const struct receipt_file *f, struct err *reterr)
{
    for (size_t at = 0; at < f->lines_n; at += MIKURA_CHECK_MAX) {
        size_t n = MIN(f->lines_n - at, (size_t)MIKURA_CHECK_MAX);
        Mikura__V1__CheckCaseResponse *r = NULL;
        enum rc rc = mikura_case_check(v->c->client, v->collection, k->case_id,
                                       at == 0 ? k->generation : 0, f->lines + at, n, &r, reterr);

        if (rc == RC_OK && r->n_lines != n) rc = err_set(reterr, RC_INTERNAL, "an odd answer");
        for (size_t i = 0; rc == RC_OK && i < n; i++) {
            if (r->lines[i] == MIKURA__V1__CHECK_STATE__CHECK_PUBLISHED) continue;
            rc = err_set(reterr, RC_CORRUPT, "'%s' version %llu is %s", f->lines[at + i].path,
                         (unsigned long long)f->lines[at + i].version,
                         r->lines[i] == MIKURA__V1__CHECK_STATE__CHECK_GONE     ? "gone"
                         : r->lines[i] == MIKURA__V1__CHECK_STATE__CHECK_STAGED ? "not published"
                         : r->lines[i] == MIKURA__V1__CHECK_STATE__CHECK_HELD   ? "in quarantine"
                         : r->lines[i] == MIKURA__V1__CHECK_STATE__CHECK_DIFFERENT
                             ? "stored with other bytes"
                             : "unknown");
        }
        if (rc == RC_OK && at == 0 &&
            (r->receipt == NULL || r->receipt->signed_bytes.len != f->signed_n ||
             memcmp(r->receipt->signed_bytes.data, f->signed_bytes, f->signed_n) != 0))
            rc = err_set(reterr, RC_CORRUPT,
                         "the store's receipt of generation %llu is another one than ours",
                         (unsigned long long)k->generation);
        mikura__v1__check_case_response__free_unpacked(r, NULL);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

static enum rc case_verify(struct verifying *v, const struct jcase *k, struct err *reterr)
{
    char *path = agent_receipts_path(cli_value(v->c, "state"), k->case_id);
    struct receipt_file f = {0};
    enum rc rc;

    if (path == NULL) return err_set(reterr, RC_NOMEM, "a receipt");
    rc = receipt_file_check(v->keys, path, k->generation, &f, reterr);
    if (rc == RC_OK) rc = lines_compare(v, k, &f, reterr);
    receipt_file_free(&f);
    free(path);
    return rc;
}

int cmd_agent_verify(struct cli *c)
{
    struct verifying v = {.c = c, .collection = cli_value(c, "collection")};
    struct journal *j = NULL;
    struct jcase *k;
    enum rc rc;

    if (v.collection == NULL) return cli_usage(c, "--collection NAME is needed");
    rc = journal_look(c, &j);
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    if (rc == RC_OK) rc = receipt_keys_open(c, &v.keys);
    for (size_t i = 0; rc == RC_OK && (k = journal_at(j, i)) != NULL; i++) {
        struct err e = {0};
        enum rc one;

        if (k->generation == 0) continue;
        one = case_verify(&v, k, &e);
        if (one == RC_UNAVAIL || one == RC_DEADLINE || one == RC_UNAUTH || one == RC_DENIED) {
            c->err = e;
            rc = one;
            break;
        }
        v.good += one == RC_OK;
        v.bad += one != RC_OK;
        if (c->json) {
            rc = out_json(json_pack("{s:s, s:s, s:I, s:b, s:s}", "type", "case", "case_id",
                                    k->case_id, "generation", (json_int_t)k->generation, "valid",
                                    one == RC_OK, "reason", one == RC_OK ? "" : e.msg));
        } else if (one != RC_OK) {
            (void)printf("BAD  %s generation %llu: %s\n", k->case_id,
                         (unsigned long long)k->generation, e.msg);
        }
    }
    journal_close(j);
    receipt_keys_free(v.keys);
    if (rc != RC_OK) return cli_fail(c, rc);
    if (!c->json)
        (void)printf("%llu cases are stored as our receipts say, %llu are not\n",
                     (unsigned long long)v.good, (unsigned long long)v.bad);
    return v.bad > 0 ? EXIT_DATA : EXIT_OK;
}
