/* gateway/cli/admin.c - operators: nodes, groups, keys, status. */
#include "common/base/clock.h"
#include "common/base/hex.h"
#include "common/base/strutil.h"
#include "common/crypto/keys.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SVC      "/mikura.v1.Admin/"
#define WATCH_MS 2000u

static int ended(struct cli *c, enum rc rc)
{
    if (rc == RC_OK) return EXIT_OK;
    if (c->err.msg[0] == 0) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    return cli_fail(c, rc);
}

static const char *health_text(Mikura__V1__Health h)
{
    switch (h) {
    case MIKURA__V1__HEALTH__HEALTH_OK:
        return "ok";
    case MIKURA__V1__HEALTH__HEALTH_DEGRADED:
        return "degraded: all data is there, some copies are missing";
    case MIKURA__V1__HEALTH__HEALTH_READ_ONLY:
        return "read-only: some groups accept no writes";
    case MIKURA__V1__HEALTH__HEALTH_UNAVAILABLE:
        return "unavailable: some groups serve nothing";
    default:
        return "unknown";
    }
}

struct groups {
    struct cli *c;
    struct table t;
};
static enum rc groups_each(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__ListGroupsResponse *r = (const Mikura__V1__ListGroupsResponse *)m;
    struct groups *g = data;
    char a[80];

    (void)reterr;
    for (size_t i = 0; i < r->n_groups; i++) {
        const Mikura__V1__Group *x = r->groups[i];

        if (g->c->json) {
            enum rc rc = out_json_message(&x->base);

            if (rc != RC_OK) return rc;
            continue;
        }
        table_cell(&g->t, "%u/%u/%016" PRIx64, x->pool, x->prefix_bits, x->prefix);
        table_cell(&g->t, "%.*s", (int)strcspn(health_text(x->health), ":"),
                   health_text(x->health));
        table_cell(&g->t, "%" PRIu64, x->config);
        table_cell(&g->t, "%" PRIu64, x->epoch);
        table_cell(&g->t, "%s", out_hex(x->primary_disk, a));
        table_cell(&g->t, "%zu", x->n_in_sync_disks);
        table_cell(&g->t, "%zu", x->n_learner_disks);
        table_cell(&g->t, "%s",
                   x->compared_unix_ms == 0 ? "not yet"
                                            : out_time((int64_t)x->compared_unix_ms, a));
        table_cell(&g->t, "%s", x->difference);
    }
    return RC_OK;
}

int cmd_group_ls(struct cli *c)
{
    static const char *const HEAD[] = {"GROUP",     "HEALTH",       ">CONFIG",
                                       ">EPOCH",    "PRIMARY DISK", ">IN SYNC",
                                       ">LEARNERS", "COMPARED",     "FOUND"};
    Mikura__V1__ListGroupsRequest m = MIKURA__V1__LIST_GROUPS_REQUEST__INIT;
    struct groups g = {.c = c};
    enum rc rc = cli_client(c, &c->err);

    table_init(&g.t, HEAD, ARRAY_N(HEAD));
    if (rc == RC_OK) {
        rc = mikura_stream(c->client, SVC "ListGroups", &m.base,
                           &mikura__v1__list_groups_response__descriptor, groups_each, &g, &c->err);
    }
    if (rc == RC_OK && !c->json) rc = table_print(&g.t, stdout);
    table_deinit(&g.t);
    return ended(c, rc);
}

/* ---- keys ---- */
static enum rc master_print(struct cli *c, const char *verb, const char *file,
                            const struct key_master *k)
{
    char hex[2 * KEY_FINGERPRINT_BYTES + 1], a[32];

    hex_encode(k->fingerprint, KEY_FINGERPRINT_BYTES, hex);
    if (c->json) {
        return out_json(json_pack("{s:s, s:s, s:I}", "file", file, "fingerprint", hex,
                                  "created_unix_ms", (json_int_t)k->created_unix_ms));
    }
    (void)printf("%s %s\n  fingerprint %s\n  created     %s\n", verb, file, hex,
                 out_time((int64_t)k->created_unix_ms, a));
    (void)printf("Whoever has this file can read everything; without it nothing can be read, ever. "
                 "Keep a copy off these machines.\n");
    return RC_OK;
}

int cmd_key_create(struct cli *c)
{
    struct key_master k;
    enum rc rc = key_master_create(c->args[0], clock_wall_ms(), &k, &c->err);

    if (rc == RC_OK) {
        rc = master_print(c, "made", c->args[0], &k);
        key_master_wipe(&k);
    }
    return ended(c, rc);
}

/* A copy with the same bytes and mode, checked by reading it back; never over another file. */
static enum rc export_to(const struct key_master *k, const char *to, struct err *reterr)
{
    uint8_t bytes[KEY_MASTER_FILE_BYTES];
    struct key_master back;
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
    enum rc rc = RC_OK;

    if (fd < 0) {
        rc = rc_from_errno(errno);
        return err_set(reterr, rc, "'%s': %s; an existing file is never overwritten", to,
                       strerror(errno));
    }
    key_master_encode(k, bytes);
    if (write(fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes || fsync(fd) != 0) {
        rc = err_set(reterr, RC_INTERNAL, "'%s': %s", to, strerror(errno));
    }
    if (close(fd) != 0 && rc == RC_OK) rc = err_set(reterr, RC_INTERNAL, "'%s': close failed", to);
    explicit_bzero(bytes, sizeof bytes);
    if (rc == RC_OK) rc = key_master_load(to, &back, reterr);
    if (rc == RC_OK) {
        if (memcmp(back.fingerprint, k->fingerprint, KEY_FINGERPRINT_BYTES) != 0) {
            rc = err_set(reterr, RC_CORRUPT, "'%s' does not read back as it was written", to);
        }
        key_master_wipe(&back);
    }
    return rc;
}

int cmd_key_export(struct cli *c)
{
    struct key_master k;
    enum rc rc = key_master_load(c->args[0], &k, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    rc = export_to(&k, c->args[1], &c->err);
    if (rc == RC_OK) rc = master_print(c, "copied to", c->args[1], &k);
    key_master_wipe(&k);
    return ended(c, rc);
}

int cmd_key_status(struct cli *c)
{
    Mikura__V1__KeyStatusRequest m = MIKURA__V1__KEY_STATUS_REQUEST__INIT;
    Mikura__V1__KeyStatusResponse *s = NULL;
    bool same = true;
    enum rc rc =
        cli_call(c, SVC "KeyStatus", &m.base, &mikura__v1__key_status_response__descriptor, &s);

    if (rc == RC_OK) same = strcmp(s->master_key_fingerprint, s->cluster_fingerprint) == 0;
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&s->base);
    } else if (rc == RC_OK) {
        (void)printf("master key in use    %s\ncluster was made with %s%s\n",
                     s->master_key_fingerprint, s->cluster_fingerprint,
                     same ? "" : "\nTHEY DIFFER: put the right master key file back");
        (void)printf("collections with keys %u\nreceipts signed by    %s\n", s->collections,
                     s->receipt_key_id);
    }
    mikura__v1__key_status_response__free_unpacked(s, NULL);
    if (rc == RC_OK && !same) return EXIT_UNHEALTHY;
    return ended(c, rc);
}

/* ---- status, health ---- */
static void status_print(const Mikura__V1__ClusterStatus *s)
{
    const char *red = out_color(stdout) ? "\033[1;31m" : "", *end = red[0] == 0 ? "" : "\033[0m";
    bool ok = s->health == MIKURA__V1__HEALTH__HEALTH_OK;
    char a[80], b[32];

    (void)printf("cluster   %s, version %s\n", out_hex(s->cluster_id, a), s->version);
    (void)printf("health    %s%s%s\n", ok ? "" : red, health_text(s->health), ok ? "" : end);
    for (size_t i = 0; i < s->n_reasons; i++)
        (void)printf("          - %s\n", s->reasons[i]);
    (void)printf("groups    %u, degraded %u, read-only %u, unavailable %u\n", s->groups,
                 s->groups_degraded, s->groups_read_only, s->groups_unavailable);
    (void)printf("storage   %s of %s used\n", str_from_bytes(s->bytes_used, a),
                 str_from_bytes(s->bytes_total, b));
    if (s->copies_to_make > 0 || s->groups_moving > 0)
        (void)printf("moving    %u copies to make, about %s; %u groups on their way%s\n",
                     s->copies_to_make, str_from_bytes(s->bytes_to_copy, a), s->groups_moving,
                     s->moves_held ? "; HELD" : "");
    (void)printf("manager   %s\n", s->manager[0] == 0 ? "none elected" : s->manager);
    (void)printf("cases     %" PRIu64 "\njobs      %u running\nmaster key %s\n", s->cases,
                 s->jobs_running, s->master_key_fingerprint);
    if (s->n_unchecked_collections > 0) {
        (void)printf("%sNOT CHECKED for identifying data: ", red);
        for (size_t i = 0; i < s->n_unchecked_collections; i++)
            (void)printf("%s%s", i == 0 ? "" : ", ", s->unchecked_collections[i]);
        (void)printf("%s\n", end);
    }
}

int cmd_status(struct cli *c)
{
    Mikura__V1__StatusRequest m = MIKURA__V1__STATUS_REQUEST__INIT;
    bool ok = true, again;
    enum rc rc;

    do {
        Mikura__V1__ClusterStatus *s = NULL;

        rc = cli_call(c, SVC "Status", &m.base, &mikura__v1__cluster_status__descriptor, &s);
        if (rc == RC_OK) {
            ok = s->health == MIKURA__V1__HEALTH__HEALTH_OK;
            if (c->json) {
                rc = out_json_message(&s->base);
            } else {
                status_print(s);
            }
        }
        again = rc == RC_OK && cli_flag(c, "watch") && (!ok || s->copies_to_make > 0);
        mikura__v1__cluster_status__free_unpacked(s, NULL);
        if (again) {
            rc = out_flush();
            if (!c->json) (void)printf("\n");
            fiber_sleep_ms(WATCH_MS);
        }
    } while (rc == RC_OK && again);
    return rc == RC_OK && !ok ? EXIT_UNHEALTHY : ended(c, rc);
}

struct health {
    struct cli *c;
    unsigned n, bad;
    enum rc out;
};
static void health_each(void *data, const char *address, enum rc rc, const char *reason)
{
    struct health *h = data;

    h->n++;
    h->bad += rc == RC_OK ? 0 : 1;
    if (!h->c->json) {
        (void)printf("%s %s%s%s\n", address, rc == RC_OK ? "serves" : "DOES NOT SERVE",
                     reason[0] == 0 ? "" : ": ", reason);
    } else if (h->out == RC_OK) {
        h->out = out_json(json_pack("{s:s, s:b, s:s}", "address", address, "serving", rc == RC_OK,
                                    "reason", reason));
    }
}

int cmd_health(struct cli *c)
{
    struct health h = {.c = c};
    enum rc rc = cli_client(c, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    mikura_client_health(c->client, health_each, &h);
    if (h.out != RC_OK) return ended(c, h.out);
    return h.bad == 0 ? EXIT_OK : h.bad < h.n ? EXIT_UNHEALTHY : EXIT_UNAVAIL;
}

int cmd_completion(struct cli *c)
{
    if (strcmp(c->args[0], "bash") != 0) return cli_usage(c, "completion '%s': bash", c->args[0]);
    cli_completion_bash(stdout);
    return EXIT_OK;
}
