/* gateway/cli/jobs.c - models, jobs and their results. */
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "gateway/cli/progress.h"
#include "gateway/ingest/name.h"
#include "proto/mikura/v1/jobs.pb-c.h"
#include "proto/mikura/v1/models.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SVC        "/mikura.v1.Jobs/"
#define SCORES_MAX 64u

static int ended(struct cli *c, enum rc rc)
{
    if (rc == RC_OK) return EXIT_OK;
    if (c->err.msg[0] == 0) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    return cli_fail(c, rc);
}

static ProtobufCBinaryData id_bytes(const struct id128 *id)
{
    return (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)id->b};
}

static enum rc job_id(struct cli *c, struct id128 *ret)
{
    if (id128_parse(c->args[0], ret)) return RC_OK;
    return err_set(&c->err, RC_INVAL,
                   "'%s' is no job id (32 hexadecimal digits); see mikura job ls", c->args[0]);
}

/* ---- models ---- */
static void tensors_print(const char *what, size_t n, Mikura__V1__Tensor *const *list)
{
    for (size_t i = 0; i < n; i++) {
        (void)printf("  %-8s %s %s [", what, list[i]->name, list[i]->type);
        for (size_t k = 0; k < list[i]->n_shape; k++)
            (void)printf("%s%" PRId64, k == 0 ? "" : ", ", list[i]->shape[k]);
        (void)printf("]\n");
    }
}

static void model_print(const Mikura__V1__Model *m)
{
    char a[80];

    (void)printf("%s@%" PRIu64 "\n  sha256   %s\n  bytes    %" PRIu64 "\n", m->name, m->version,
                 out_hex(m->sha256, a), m->size_bytes);
    tensors_print("input", m->n_inputs, m->inputs);
    tensors_print("output", m->n_outputs, m->outputs);
    for (size_t i = 0; i < m->n_classes; i++)
        (void)printf("%s%s", i == 0 ? "  classes  " : ", ", m->classes[i]);
    if (m->n_classes > 0) (void)printf("\n");
    if (m->limits[0] != 0) (void)printf("  limits   %s\n", m->limits);
}

int cmd_model_add(struct cli *c)
{
    const char *file = c->args[0], *name = cli_value(c, "name"), *base = strrchr(file, '/');
    Mikura__V1__Model *m = NULL;
    char own[64];
    enum rc rc;
    int fd;

    base = base == NULL ? file : base + 1;
    if (name == NULL) { /* quality.onnx is quality */
        (void)snprintf(own, sizeof own, "%.*s", (int)strcspn(base, "."), base);
        name = own;
    }
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        rc = rc_from_errno(errno);
        return ended(c, err_set(&c->err, rc, "'%s': %s", file, strerror(errno)));
    }
    rc = cli_client(c, &c->err);
    if (rc == RC_OK) rc = mikura_model_add(c->client, name, fd, &m, &c->err);
    (void)close(fd); /* was only read */
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&m->base);
    } else if (rc == RC_OK && !c->quiet) {
        model_print(m);
    }
    mikura__v1__model__free_unpacked(m, NULL);
    return ended(c, rc);
}

int cmd_model_ls(struct cli *c)
{
    static const char *const HEAD[] = {"MODEL", ">BYTES", "SHA256", "ADDED", "BY"};
    Mikura__V1__ListModelsRequest m = MIKURA__V1__LIST_MODELS_REQUEST__INIT;
    Mikura__V1__ListModelsResponse *list = NULL;
    struct table t;
    char a[80];
    enum rc rc = cli_call(c, "/mikura.v1.Models/List", &m.base,
                          &mikura__v1__list_models_response__descriptor, &list);

    table_init(&t, HEAD, ARRAY_N(HEAD));
    for (size_t i = 0; rc == RC_OK && i < list->n_models; i++) {
        const Mikura__V1__Model *x = list->models[i];

        if (c->json) {
            rc = out_json_message(&x->base);
            continue;
        }
        table_cell(&t, "%s@%" PRIu64, x->name, x->version);
        table_cell(&t, "%" PRIu64, x->size_bytes);
        table_cell(&t, "%s", out_hex(x->sha256, a));
        table_cell(&t, "%s", out_time(x->added_unix_ms, a));
        table_cell(&t, "%s", x->added_by);
    }
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    mikura__v1__list_models_response__free_unpacked(list, NULL);
    return ended(c, rc);
}

/* ---- one job ---- */
static const char *state_text(Mikura__V1__JobState s)
{
    switch (s) {
    case MIKURA__V1__JOB_STATE__JOB_QUEUED:
        return "queued";
    case MIKURA__V1__JOB_STATE__JOB_RUNNING:
        return "running";
    case MIKURA__V1__JOB_STATE__JOB_DONE:
        return "done";
    case MIKURA__V1__JOB_STATE__JOB_CANCELLED:
        return "cancelled";
    case MIKURA__V1__JOB_STATE__JOB_FAILED:
        return "failed";
    default:
        return "?";
    }
}

static const char *device_text(Mikura__V1__Device d)
{
    return d == MIKURA__V1__DEVICE__DEVICE_CPU   ? "cpu"
           : d == MIKURA__V1__DEVICE__DEVICE_GPU ? "gpu"
                                                 : "any";
}

static void job_print(const Mikura__V1__Job *j)
{
    char a[80];

    (void)printf("job %s\n  state      %s%s%s\n", out_hex(j->id, a), state_text(j->state),
                 j->message[0] == 0 ? "" : ": ", j->message);
    (void)printf("  items      %" PRIu64 ", done %" PRIu64 ", set aside %" PRIu64 "\n", j->items,
                 j->items_done, j->items_set_aside);
    (void)printf("  kind       %s\n  model      %s\n", j->kind, j->model);
    (void)printf("  model sha  %s\n", out_hex(j->model_sha256, a));
    for (size_t i = 0; i < j->n_parameters; i++)
        (void)printf("  parameter  %s = %s\n", j->parameters[i]->key, j->parameters[i]->value);
    (void)printf("  device     %s\n  cohort     %s\n  owner      %s\n", device_text(j->device),
                 j->cohort_expression, j->owner);
    (void)printf("  submitted  %s\n", out_time(j->submitted_unix_ms, a));
    (void)printf("  ended      %s\n", out_time(j->ended_unix_ms, a));
    if (j->bytes_read > 0) (void)printf("  read       %s\n", str_from_bytes(j->bytes_read, a));
    if (j->software[0] != 0) (void)printf("  software   %s\n", j->software);
}

struct watch {
    struct cli *c;
    struct progress progress;
    Mikura__V1__JobState state; /* the last one told */
    bool ended;
};
static enum rc watch_each(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__Job *j = (const Mikura__V1__Job *)m;
    struct watch *w = data;
    char a[80];

    (void)reterr;
    w->ended = j->state == MIKURA__V1__JOB_STATE__JOB_DONE ||
               j->state == MIKURA__V1__JOB_STATE__JOB_CANCELLED ||
               j->state == MIKURA__V1__JOB_STATE__JOB_FAILED;
    w->progress.items_total = j->items;
    w->progress.items_done = j->items_done + j->items_set_aside;
    progress_show(&w->progress, clock_boot_ms());
    if (w->c->json) {
        enum rc rc = out_json_message(m);

        /* who follows wants to see it now */
        if (rc == RC_OK) rc = out_flush();
        w->state = j->state;
        return rc;
    }
    if (j->state != w->state && w->progress.f == NULL && !w->c->quiet) {
        (void)fprintf(stderr, "job %s: %s, %" PRIu64 " of %" PRIu64 " items\n", out_hex(j->id, a),
                      state_text(j->state), w->progress.items_done, j->items);
    }
    w->state = j->state;
    return RC_OK;
}

/* Until the job ends, through as many gateways as it takes. Returns an exit code. */
static int watch(struct cli *c, const struct id128 *id)
{
    Mikura__V1__WatchRequest m = MIKURA__V1__WATCH_REQUEST__INIT;
    struct watch w = {.c = c};
    uint64_t patience_at = 0;
    enum rc rc;

    m.id = id_bytes(id);
    progress_init(&w.progress, stderr, "job", c->quiet);
    for (;;) {
        uint64_t before = clock_boot_ms();

        rc = mikura_stream(c->client, SVC "Watch", &m.base, &mikura__v1__job__descriptor,
                           watch_each, &w, &c->err);
        if (w.ended) rc = RC_OK;
        if (w.ended || (rc != RC_OK && rc != RC_UNAVAIL && rc != RC_DEADLINE)) break;
        /* a stream that broke off, or ended early (a gateway going down) */
        if (clock_boot_ms() - before > 1000) patience_at = 0;
        if (patience_at == 0) patience_at = clock_boot_ms() + MIKURA_PATIENCE_MS;
        if (clock_boot_ms() > patience_at) {
            if (rc == RC_OK) rc = err_set(&c->err, RC_UNAVAIL, "the watch ends again and again");
            break;
        }
        fiber_sleep_ms(200);
    }
    progress_end(&w.progress);
    if (rc != RC_OK) return cli_fail(c, rc);
    return w.state == MIKURA__V1__JOB_STATE__JOB_DONE ? EXIT_OK : EXIT_JOB;
}

static int get_and_print(struct cli *c, const struct id128 *id)
{
    Mikura__V1__GetJobRequest m = MIKURA__V1__GET_JOB_REQUEST__INIT;
    Mikura__V1__Job *job = NULL;
    enum rc rc;

    m.id = id_bytes(id);
    rc = cli_call(c, SVC "Get", &m.base, &mikura__v1__job__descriptor, &job);
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&job->base);
    } else if (rc == RC_OK) {
        job_print(job);
    }
    mikura__v1__job__free_unpacked(job, NULL);
    return ended(c, rc);
}

/* ---- results ---- */
struct results {
    struct cli *c;
    Mikura__V1__ResultsResponse **parts; /* table and CSV need the columns first */
    size_t n, cap;
};

static enum rc results_each(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    struct results *r = data;
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p;

    if (r->n == r->cap) {
        size_t cap = MAX(r->cap * 2, 64u);
        Mikura__V1__ResultsResponse **parts = realloc(r->parts, cap * sizeof *parts);

        if (parts == NULL) return err_set(reterr, RC_NOMEM, "results");
        r->parts = parts;
        r->cap = cap;
    }
    p = malloc(MAX(n, 1u));
    if (p == NULL) return err_set(reterr, RC_NOMEM, "results");
    (void)protobuf_c_message_pack(m, p);
    r->parts[r->n] = mikura__v1__results_response__unpack(NULL, n, p);
    free(p);
    if (r->parts[r->n] == NULL) return err_set(reterr, RC_NOMEM, "results");
    r->n++;
    return RC_OK;
}

struct names {
    const char *name[SCORES_MAX];
    unsigned n;
};
static unsigned name_idx(struct names *s, const char *name)
{
    for (unsigned i = 0; i < s->n; i++)
        if (strcmp(s->name[i], name) == 0) return i;
    if (s->n == SCORES_MAX) return SCORES_MAX; /* columns beyond are in --format json */
    s->name[s->n] = name;
    return s->n++;
}

static void item_names(const struct results *r, struct names *s)
{
    for (size_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < r->parts[i]->n_items; k++)
            for (size_t j = 0; j < r->parts[i]->items[k]->n_scores; j++)
                (void)name_idx(s, r->parts[i]->items[k]->scores[j]->name);
}

static void case_names(const struct results *r, struct names *s)
{
    for (size_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < r->parts[i]->n_cases; k++)
            for (size_t j = 0; j < r->parts[i]->cases[k]->n_counts; j++)
                (void)name_idx(s, r->parts[i]->cases[k]->counts[j]->name);
}

/* Values in the order of the columns. */
static void spread(struct names *s, size_t n, Mikura__V1__Score *const *scores,
                   const double *values[SCORES_MAX])
{
    memset(values, 0, SCORES_MAX * sizeof *values);
    for (size_t i = 0; i < n; i++) {
        unsigned at = name_idx(s, scores[i]->name);

        if (at < SCORES_MAX) values[at] = &scores[i]->value;
    }
}

static void csv_number(double v)
{
    char text[40];

    (void)snprintf(text, sizeof text, "%.17g", v);
    out_csv(stdout, text, false);
}

static void csv_u64(uint64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, v);
    out_csv(stdout, text, false);
}

/* One line a slice of each series, as stacked; an image that is no series has a line of its own. */
static void results_csv_slices(const struct results *r)
{
    (void)fputs("collection,case,series,slice,path,version,label,set_aside_reason\r\n", stdout);
    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_items; k++) {
            const Mikura__V1__ItemResult *x = r->parts[i]->items[k];
            size_t n = x->series == NULL ? 1 : x->series->n_slices;

            for (size_t j = 0; j < n && x->object != NULL; j++) {
                const Mikura__V1__SliceRef *s = x->series == NULL ? NULL : x->series->slices[j];

                out_csv(stdout, x->object->collection, true);
                out_csv(stdout, x->object->case_id, false);
                out_csv(stdout, s == NULL ? "" : x->series->uid, false);
                csv_u64(j + 1);
                out_csv(stdout, s == NULL ? x->object->path : s->path, false);
                csv_u64(s == NULL ? x->object->version : s->version);
                out_csv(stdout, x->label, false);
                out_csv(stdout, x->set_aside_reason, false);
                (void)fputs("\r\n", stdout);
            }
        }
    }
}

static void results_csv_items(const struct results *r)
{
    const double *values[SCORES_MAX];
    struct names s = {0};

    item_names(r, &s);
    (void)fputs("collection,case,path,version,label", stdout);
    for (unsigned i = 0; i < s.n; i++)
        out_csv(stdout, s.name[i], false);
    (void)fputs(",set_aside_reason,device,worker,attempt,series,slices,ordered_by\r\n", stdout);
    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_items; k++) {
            const Mikura__V1__ItemResult *x = r->parts[i]->items[k];

            out_csv(stdout, x->object == NULL ? "" : x->object->collection, true);
            out_csv(stdout, x->object == NULL ? "" : x->object->case_id, false);
            out_csv(stdout, x->object == NULL ? "" : x->object->path, false);
            csv_u64(x->object == NULL ? 0 : x->object->version);
            out_csv(stdout, x->label, false);
            spread(&s, x->n_scores, x->scores, values);
            for (unsigned j = 0; j < s.n; j++) {
                if (values[j] == NULL) {
                    out_csv(stdout, "", false);
                } else {
                    csv_number(*values[j]);
                }
            }
            out_csv(stdout, x->set_aside_reason, false);
            out_csv(stdout, x->device, false);
            out_csv(stdout, x->worker, false);
            csv_u64(x->attempt);
            out_csv(stdout, x->series == NULL ? "" : x->series->uid, false);
            csv_u64(x->series == NULL ? 0 : x->series->n_slices);
            out_csv(stdout, x->series == NULL ? "" : x->series->ordered_by, false);
            (void)fputs("\r\n", stdout);
        }
    }
}

static void results_csv_cases(const struct results *r)
{
    const double *values[SCORES_MAX];
    struct names s = {0};

    case_names(r, &s);
    (void)fputs("collection,case,label", stdout);
    for (unsigned i = 0; i < s.n; i++)
        out_csv(stdout, s.name[i], false);
    (void)fputs("\r\n", stdout);
    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_cases; k++) {
            const Mikura__V1__CaseResult *x = r->parts[i]->cases[k];

            out_csv(stdout, x->collection, true);
            out_csv(stdout, x->case_id, false);
            out_csv(stdout, x->label, false);
            spread(&s, x->n_counts, x->counts, values);
            for (unsigned j = 0; j < s.n; j++)
                csv_number(values[j] == NULL ? 0.0 : *values[j]);
            (void)fputs("\r\n", stdout);
        }
    }
}

/* The one device of all items, or NULL. */
static const char *one_device(const struct results *r)
{
    const char *device = NULL;

    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_items; k++) {
            const char *d = r->parts[i]->items[k]->device;

            if (d[0] == 0) continue; /* set aside */
            if (device != NULL && strcmp(device, d) != 0) return NULL;
            device = d;
        }
    }
    return device;
}

/* What an item is, beside its case. */
static const char *item_name(const Mikura__V1__ItemResult *x, char text[160])
{
    const Mikura__V1__Series *s = x->series;

    if (x->object == NULL) return "?";
    if (s == NULL) return x->object->path;
    (void)snprintf(text, 160, "series %s (%zu slices%s)", s->uid, s->n_slices,
                   strcmp(s->ordered_by, "instance number") == 0
                       ? ", ordered by InstanceNumber: they have no position"
                       : "");
    return text;
}

static enum rc results_table_items(const struct results *r)
{
    const char *head[SCORES_MAX + 3], *device = one_device(r);
    char title[SCORES_MAX][40];
    const double *values[SCORES_MAX];
    struct names s = {0};
    struct table t;
    unsigned n = 0;
    enum rc rc;

    item_names(r, &s);
    for (unsigned i = 0; i < s.n; i++) {
        (void)snprintf(title[i], sizeof title[i], ">%.38s", s.name[i]);
        head[n++] = title[i];
    }
    if (device == NULL) head[n++] = "DEVICE";
    head[n++] = "RESULT";
    head[n++] = "IMAGE";
    table_init(&t, head, n);
    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_items; k++) {
            const Mikura__V1__ItemResult *x = r->parts[i]->items[k];
            bool aside = x->label[0] == 0;
            char name[160];

            spread(&s, x->n_scores, x->scores, values);
            for (unsigned j = 0; j < s.n; j++) {
                if (values[j] == NULL) {
                    table_cell(&t, "-");
                } else {
                    table_cell(&t, "%.2f", *values[j]);
                }
            }
            if (device == NULL) table_cell(&t, "%s", x->device);
            table_cell(&t, "%s", aside ? "not analysed" : x->label);
            table_cell(&t, "%s/%s/%s%s%s", x->object == NULL ? "?" : x->object->collection,
                       x->object == NULL ? "?" : x->object->case_id, item_name(x, name),
                       aside ? ": " : "", aside ? x->set_aside_reason : "");
        }
    }
    rc = table_print(&t, stdout);
    table_deinit(&t);
    if (rc == RC_OK && device != NULL) (void)printf("all on %s\n", device);
    return rc;
}

static enum rc results_table_cases(const struct results *r)
{
    const char *head[SCORES_MAX + 2];
    char title[SCORES_MAX][40];
    const double *values[SCORES_MAX];
    struct names s = {0};
    struct table t;
    unsigned n = 0;
    enum rc rc;

    case_names(r, &s);
    head[n++] = "CASE";
    head[n++] = "RESULT";
    for (unsigned i = 0; i < s.n; i++) {
        (void)snprintf(title[i], sizeof title[i], ">%.38s", s.name[i]);
        head[n++] = title[i];
    }
    table_init(&t, head, n);
    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_cases; k++) {
            const Mikura__V1__CaseResult *x = r->parts[i]->cases[k];

            table_cell(&t, "%s/%s", x->collection, x->case_id);
            table_cell(&t, "%s", x->label);
            spread(&s, x->n_counts, x->counts, values);
            for (unsigned j = 0; j < s.n; j++)
                table_cell(&t, "%.0f", values[j] == NULL ? 0.0 : *values[j]);
        }
    }
    rc = table_print(&t, stdout);
    table_deinit(&t);
    return rc;
}

/* What the model must not be used for is told with every result. */
static void limits_print(struct cli *c, const struct id128 *id, FILE *f)
{
    Mikura__V1__GetJobRequest req = MIKURA__V1__GET_JOB_REQUEST__INIT;
    Mikura__V1__GetModelRequest model_req = MIKURA__V1__GET_MODEL_REQUEST__INIT;
    Mikura__V1__Model *model = NULL;
    Mikura__V1__Job *job = NULL;
    char *at;

    req.id = id_bytes(id);
    if (cli_call(c, SVC "Get", &req.base, &mikura__v1__job__descriptor, &job) != RC_OK) return;
    at = strchr(job->model, '@');
    if (at != NULL) {
        *at = 0;
        (void)str_to_u64(at + 1, UINT64_MAX, &model_req.version); /* 0, the newest, if it is none */
    }
    model_req.name = job->model;
    if (cli_call(c, "/mikura.v1.Models/Get", &model_req.base, &mikura__v1__model__descriptor,
                 &model) == RC_OK &&
        model->limits[0] != 0) {
        (void)fprintf(f, "\nlimits of model %s@%" PRIu64 ": %s\n", model->name, model->version,
                      model->limits);
    }
    mikura__v1__model__free_unpacked(model, NULL);
    mikura__v1__job__free_unpacked(job, NULL);
}

static enum rc results_json(const struct results *r)
{
    enum rc rc = RC_OK;

    for (size_t i = 0; rc == RC_OK && i < r->n; i++) {
        const Mikura__V1__ResultsResponse *p = r->parts[i];

        if (p->stored_at != NULL) {
            rc = out_json(json_pack("{s:s, s:o}", "type", "stored_at", "object",
                                    out_message(&p->stored_at->base)));
        }
        for (size_t k = 0; rc == RC_OK && k < p->n_items; k++) {
            json_t *j = out_message(&p->items[k]->base);

            if (j == NULL || json_object_set_new(j, "type", json_string("item")) != 0)
                return RC_NOMEM;
            rc = out_json(j);
        }
        for (size_t k = 0; rc == RC_OK && k < p->n_cases; k++) {
            json_t *j = out_message(&p->cases[k]->base);

            if (j == NULL || json_object_set_new(j, "type", json_string("case")) != 0)
                return RC_NOMEM;
            rc = out_json(j);
        }
    }
    return rc;
}

static enum rc results_table(struct cli *c, const struct results *r, const struct id128 *id)
{
    enum rc rc = results_table_items(r);

    if (rc == RC_OK && putchar('\n') == EOF) rc = RC_IO;
    if (rc == RC_OK) rc = results_table_cases(r);
    if (rc != RC_OK) return rc;
    for (size_t i = 0; i < r->n; i++) {
        const Mikura__V1__ObjectRef *o = r->parts[i]->stored_at;

        if (o == NULL) continue;
        if (o->collection[0] == 0) { /* a job's own results belong to no collection */
            (void)printf("\nresults are stored in the storehouse as %s/%s; `mikura job results` "
                         "reads them\n",
                         o->case_id, o->path);
            continue;
        }
        (void)printf("\nresults are stored as %s/%s/%s (version %" PRIu64 ")\n", o->collection,
                     o->case_id, o->path, o->version);
    }
    limits_print(c, id, stdout);
    return RC_OK;
}

/* ---- masks ---- */
struct mask_get {
    uint8_t *p;
    size_t n, max;
};
static enum rc mask_each(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__MaskResponse *r = (const Mikura__V1__MaskResponse *)m;
    struct mask_get *g = data;

    if (r->data.len > g->max - g->n)
        return err_set(reterr, RC_CORRUPT, "more bytes than the mask has");
    if (r->data.len > 0) memcpy(g->p + g->n, r->data.data, r->data.len);
    g->n += r->data.len;
    return RC_OK;
}

static enum rc mask_file(const Mikura__V1__ItemResult *x, const char *dir, char **ret,
                         struct err *reterr)
{
    const char *end = strcmp(x->mask->media_type, "image/png") == 0 ? ".png" : ".nii.gz";
    char name[160];
    const char *path = x->series == NULL ? x->object->path : name;
    enum rc rc;

    (void)snprintf(name, sizeof name, "series-%s", x->series == NULL ? "" : x->series->uid);
    rc = name_check_path((struct slice){(const uint8_t *)path, strlen(path)}, reterr);
    if (rc == RC_OK)
        rc = name_check_case(
            (struct slice){(const uint8_t *)x->object->case_id, strlen(x->object->case_id)},
            reterr);
    if (rc == RC_OK)
        rc = name_check_collection(
            (struct slice){(const uint8_t *)x->object->collection, strlen(x->object->collection)},
            reterr);
    if (rc != RC_OK) return rc;
    if (asprintf(ret, "%s/%s/%s/%s%s", dir, x->object->collection, x->object->case_id, path, end) <
        0)
        return err_set(reterr, RC_NOMEM, "a name");
    return cli_folders_make(*ret, reterr);
}

/* Under its name only when it is whole and has the digest that the result names. */
static enum rc mask_write(const char *file, const struct mask_get *g, struct err *reterr)
{
    char *part = NULL;
    FILE *f = NULL;
    enum rc rc = RC_OK;
    bool bad;

    if (asprintf(&part, "%s.part-%ld", file, (long)getpid()) < 0)
        return err_set(reterr, RC_NOMEM, "a name");
    f = fopen(part, "wb");
    bad = f == NULL || fwrite(g->p, 1, g->n, f) != g->n;
    if (f != NULL && fclose(f) != 0) bad = true;
    if (bad || rename(part, file) != 0) {
        rc = err_set(reterr, RC_INTERNAL, "'%s': %s", file, strerror(errno));
        (void)unlink(part);
    }
    free(part);
    return rc;
}

static enum rc mask_one(struct cli *c, const struct id128 *id, const Mikura__V1__ItemResult *x,
                        const char *dir, struct err *reterr)
{
    Mikura__V1__MaskRequest m = MIKURA__V1__MASK_REQUEST__INIT;
    struct mask_get g = {.max = (size_t)x->mask->size_bytes};
    uint8_t sha256[32];
    char *file = NULL;
    unsigned n = 32;
    enum rc rc = mask_file(x, dir, &file, reterr);

    m.job = id_bytes(id);
    m.item = x->item;
    if (rc == RC_OK) {
        g.p = malloc(MAX(g.max, 1u));
        if (g.p == NULL) rc = err_set(reterr, RC_NOMEM, "a mask of %zu bytes", g.max);
    }
    if (rc == RC_OK)
        rc = mikura_stream(c->client, SVC "Mask", &m.base, &mikura__v1__mask_response__descriptor,
                           mask_each, &g, reterr);
    if (rc == RC_OK && (EVP_Digest(g.p, g.n, sha256, &n, EVP_sha256(), NULL) != 1 ||
                        x->mask->sha256.len != 32 || memcmp(sha256, x->mask->sha256.data, 32) != 0))
        rc = err_set(reterr, RC_CORRUPT,
                     "the mask that came has another SHA-256 than the result "
                     "names");
    if (rc == RC_OK) rc = mask_write(file, &g, reterr);
    free(g.p);
    free(file);
    return rc;
}

static enum rc masks_get(struct cli *c, const struct id128 *id, const struct results *r,
                         const char *dir)
{
    uint64_t got = 0;

    for (size_t i = 0; i < r->n; i++) {
        for (size_t k = 0; k < r->parts[i]->n_items; k++) {
            const Mikura__V1__ItemResult *x = r->parts[i]->items[k];
            enum rc rc;

            if (x->mask == NULL || x->object == NULL) continue;
            rc = mask_one(c, id, x, dir, &c->err);
            if (rc != RC_OK) return rc;
            got++;
        }
    }
    if (!c->quiet) (void)fprintf(stderr, "%" PRIu64 " masks in %s\n", got, dir);
    return RC_OK;
}

static int results(struct cli *c, const struct id128 *id)
{
    Mikura__V1__ResultsRequest m = MIKURA__V1__RESULTS_REQUEST__INIT;
    const char *format = cli_value(c, "format"), *by = cli_value(c, "by");
    struct results r = {.c = c};
    enum rc rc = RC_OK;

    if (format == NULL) format = c->json ? "json" : "table";
    if (by == NULL) by = "item";
    if (strcmp(format, "table") != 0 && strcmp(format, "csv") != 0 && strcmp(format, "json") != 0) {
        return cli_usage(c, "--format '%s': table, csv or json", format);
    }
    if (strcmp(by, "item") != 0 && strcmp(by, "case") != 0 && strcmp(by, "slice") != 0) {
        return cli_usage(c, "--by '%s': item, case or slice", by);
    }
    m.id = id_bytes(id);
    m.partial = cli_flag(c, "partial");
    rc = cli_client(c, &c->err);
    if (rc == RC_OK) {
        rc = mikura_stream(c->client, SVC "Results", &m.base,
                           &mikura__v1__results_response__descriptor, results_each, &r, &c->err);
    }
    if (rc == RC_OK && strcmp(format, "json") == 0) {
        rc = results_json(&r);
    } else if (rc == RC_OK && strcmp(format, "csv") == 0) {
        if (strcmp(by, "case") == 0) {
            results_csv_cases(&r);
        } else if (strcmp(by, "slice") == 0) {
            results_csv_slices(&r);
        } else {
            results_csv_items(&r);
        }
        if (!c->quiet) limits_print(c, id, stderr);
    } else if (rc == RC_OK) {
        rc = results_table(c, &r, id);
    }
    if (rc == RC_OK && cli_value(c, "masks") != NULL)
        rc = masks_get(c, id, &r, cli_value(c, "masks"));
    for (size_t i = 0; i < r.n; i++)
        mikura__v1__results_response__free_unpacked(r.parts[i], NULL);
    free(r.parts);
    return ended(c, rc);
}

/* ---- commands ---- */
/* The cohort: an expression, or all of the collections named. */
static enum rc cohort_text(struct cli *c, struct buf *b)
{
    if ((c->args_n == 1) == (cli_value(c, "collection") != NULL)) {
        return err_set(&c->err, RC_INVAL,
                       "which images? Give a query, as in 'collection = endoscopy', or "
                       "--collection NAME (repeatable)");
    }
    if (c->args_n == 1) {
        buf_put_str(b, c->args[0]);
    } else {
        buf_put_str(b, "collection in (");
        for (unsigned i = 0; cli_value_at(c, "collection", i) != NULL; i++)
            buf_printf(b, "%s\"%s\"", i == 0 ? "" : ", ", cli_value_at(c, "collection", i));
        buf_put_str(b, ")");
    }
    return buf_rc(b) == RC_OK ? RC_OK : err_set(&c->err, RC_INVAL, "a query has at most 16 KiB");
}

static int submit(struct cli *c, Mikura__V1__SubmitRequest *m)
{
    Mikura__V1__Job *job = NULL;
    struct id128 id;
    char a[80];
    int code = EXIT_OK;
    enum rc rc = cli_call(c, SVC "Submit", &m->base, &mikura__v1__job__descriptor, &job);

    if (rc == RC_OK && !id128_from_bytes(job->id.data, job->id.len, &id)) {
        rc = err_set(&c->err, RC_INTERNAL, "the gateway's answer has no job id");
    }
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&job->base);
    } else if (rc == RC_OK) {
        (void)printf("job %s\n", out_hex(job->id, a));
        if (!c->quiet) {
            (void)fprintf(stderr, "%" PRIu64 " items, %s %s\n", job->items, job->kind, job->model);
        }
    }
    mikura__v1__job__free_unpacked(job, NULL);
    if (rc == RC_OK) rc = out_flush();
    if (rc != RC_OK) return ended(c, rc);
    if (cli_flag(c, "watch")) {
        code = watch(c, &id);
        if (code == EXIT_OK || code == EXIT_JOB) {
            int shown = code == EXIT_JOB ? get_and_print(c, &id) : results(c, &id);

            if (code == EXIT_OK) code = shown;
        }
    }
    return code;
}

int cmd_job_submit(struct cli *c)
{
    Mikura__V1__SubmitRequest m = MIKURA__V1__SUBMIT_REQUEST__INIT;
    Mikura__V1__QueryRequest cohort = MIKURA__V1__QUERY_REQUEST__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    Mikura__V1__SubmitRequest__ParametersEntry *entries, **list;
    const char *kind = cli_value(c, "kind"), *model = cli_value(c, "model"),
               *device = cli_value(c, "device");
    struct id128 request = id128_random();
    uint64_t limit = 0;
    struct buf text;
    char *keys[CLI_OPTS_MAX] = {0};
    int code;
    enum rc rc;

    if (model == NULL) return cli_usage(c, "--model is needed; see mikura model ls");
    if (device != NULL && strcmp(device, "any") != 0 && strcmp(device, "cpu") != 0 &&
        strcmp(device, "gpu") != 0) {
        return cli_usage(c, "--device '%s': any, cpu or gpu", device);
    }
    buf_init(&text, 16384);
    entries = calloc(CLI_OPTS_MAX, sizeof *entries);
    list = calloc(CLI_OPTS_MAX, sizeof(*list));
    rc = entries == NULL || list == NULL ? err_set(&c->err, RC_NOMEM, "a job") : RC_OK;
    if (rc == RC_OK) rc = cli_number(c, "limit", UINT32_MAX, &limit);
    if (rc == RC_OK) rc = cohort_text(c, &text);
    for (unsigned i = 0; rc == RC_OK && cli_value_at(c, "param", i) != NULL; i++) {
        const char *given = cli_value_at(c, "param", i), *eq = strchr(given, '=');

        if (eq == NULL || eq == given) {
            rc = err_set(&c->err, RC_INVAL, "--param '%s': expected NAME=VALUE", given);
            break;
        }
        keys[i] = strndup(given, (size_t)(eq - given));
        if (keys[i] == NULL) rc = err_set(&c->err, RC_NOMEM, "a job");
        mikura__v1__submit_request__parameters_entry__init(&entries[i]);
        entries[i].key = keys[i];
        entries[i].value = cli_text(eq + 1);
        list[m.n_parameters++] = &entries[i];
    }
    if (rc == RC_OK) {
        m.parameters = list;
        m.request_id = &id;
        id.id = id_bytes(&request);
        m.cohort = &cohort;
        cohort.expression = cli_text(buf_cstr(&text));
        cohort.limit = (uint32_t)limit;
        m.kind = cli_text(kind == NULL ? "quality" : kind);
        m.model = cli_text(model);
        if (device != NULL && strcmp(device, "cpu") == 0) m.device = MIKURA__V1__DEVICE__DEVICE_CPU;
        if (device != NULL && strcmp(device, "gpu") == 0) m.device = MIKURA__V1__DEVICE__DEVICE_GPU;
        code = submit(c, &m);
    } else {
        code = cli_fail(c, rc);
    }
    for (unsigned i = 0; i < CLI_OPTS_MAX; i++)
        free(keys[i]);
    free(entries);
    free(list);
    buf_deinit(&text);
    return code;
}

int cmd_job_watch(struct cli *c)
{
    struct id128 id;
    int code;
    enum rc rc = job_id(c, &id);

    if (rc == RC_OK) rc = cli_client(c, &c->err);
    if (rc != RC_OK) return cli_fail(c, rc);
    code = watch(c, &id);
    if ((code == EXIT_OK || code == EXIT_JOB) && !c->json && !c->quiet) (void)get_and_print(c, &id);
    return code;
}

int cmd_job_show(struct cli *c)
{
    struct id128 id;
    enum rc rc = job_id(c, &id);

    return rc == RC_OK ? get_and_print(c, &id) : cli_fail(c, rc);
}

int cmd_job_results(struct cli *c)
{
    struct id128 id;
    enum rc rc = job_id(c, &id);

    return rc == RC_OK ? results(c, &id) : cli_fail(c, rc);
}

int cmd_job_rm(struct cli *c)
{
    Mikura__V1__DeleteJobRequest m = MIKURA__V1__DELETE_JOB_REQUEST__INIT;
    Mikura__V1__DeleteJobResponse *answer = NULL;
    struct id128 id;
    enum rc rc = job_id(c, &id);

    if (rc == RC_OK) {
        m.id = id_bytes(&id);
        rc = cli_call(c, SVC "Delete", &m.base, &mikura__v1__delete_job_response__descriptor,
                      &answer);
    }
    if (rc == RC_OK && c->json)
        rc = out_json_message(&answer->base);
    else if (rc == RC_OK && !c->quiet)
        (void)printf("job %s: deleted, with its results and masks\n", c->args[0]);
    mikura__v1__delete_job_response__free_unpacked(answer, NULL);
    return ended(c, rc);
}

int cmd_job_cancel(struct cli *c)
{
    Mikura__V1__CancelJobRequest m = MIKURA__V1__CANCEL_JOB_REQUEST__INIT;
    Mikura__V1__Job *job = NULL;
    struct id128 id;
    enum rc rc = job_id(c, &id);

    if (rc == RC_OK) {
        m.id = id_bytes(&id);
        rc = cli_call(c, SVC "Cancel", &m.base, &mikura__v1__job__descriptor, &job);
    }
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&job->base);
    } else if (rc == RC_OK && !c->quiet) {
        (void)printf("job %s: %s, %" PRIu64 " of %" PRIu64 " items were done\n", c->args[0],
                     state_text(job->state), job->items_done, job->items);
    }
    mikura__v1__job__free_unpacked(job, NULL);
    return ended(c, rc);
}

int cmd_job_ls(struct cli *c)
{
    static const char *const HEAD[] = {"JOB",        "STATE",     ">ITEMS", ">DONE",
                                       ">SET ASIDE", "SUBMITTED", "MODEL",  "OWNER"};
    Mikura__V1__ListJobsRequest m = MIKURA__V1__LIST_JOBS_REQUEST__INIT;
    Mikura__V1__ListJobsResponse *page;
    char *token = NULL, a[80];
    struct table t;
    enum rc rc;

    table_init(&t, HEAD, ARRAY_N(HEAD));
    do {
        m.page_token = token == NULL ? cli_text("") : token;
        page = NULL;
        rc = cli_call(c, SVC "List", &m.base, &mikura__v1__list_jobs_response__descriptor, &page);
        for (size_t i = 0; rc == RC_OK && i < page->n_jobs; i++) {
            const Mikura__V1__Job *j = page->jobs[i];

            if (c->json) {
                rc = out_json_message(&j->base);
                continue;
            }
            table_cell(&t, "%s", out_hex(j->id, a));
            table_cell(&t, "%s", state_text(j->state));
            table_cell(&t, "%" PRIu64, j->items);
            table_cell(&t, "%" PRIu64, j->items_done);
            table_cell(&t, "%" PRIu64, j->items_set_aside);
            table_cell(&t, "%s", out_time(j->submitted_unix_ms, a));
            table_cell(&t, "%s", j->model);
            table_cell(&t, "%s", j->owner);
        }
        free(token);
        token = rc == RC_OK && page->next_page_token[0] != 0 ? strdup(page->next_page_token) : NULL;
        mikura__v1__list_jobs_response__free_unpacked(page, NULL);
    } while (rc == RC_OK && token != NULL);
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    return ended(c, rc);
}
