/* gateway/cli/nodes.c - operators: which nodes there are, and what is to become of one. */
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SVC      "/mikura.v1.Admin/"
#define WATCH_MS 1000u

typedef Mikura__V1__ListNodesResponse Nodes;
typedef Mikura__V1__ChangeNodeResponse Change;

static enum rc nodes_get(struct cli *c, Nodes **ret)
{
    Mikura__V1__ListNodesRequest m = MIKURA__V1__LIST_NODES_REQUEST__INIT;

    return cli_call(c, SVC "ListNodes", &m.base, &mikura__v1__list_nodes_response__descriptor, ret);
}

static bool waits(const Mikura__V1__Node *x)
{
    return x->moves_left > 0 || strcmp(x->state, "draining") == 0;
}

/* "12 of 32 copies, 1.2 GiB, 34 MiB/s, ends about 01:02:03Z" */
static void moves_text(const Mikura__V1__Node *x, char *text, size_t n)
{
    char a[32], b[32], t[32];
    int w;

    text[0] = 0;
    if (x->moves_left == 0) return;
    w = x->moves_total > 0 ? snprintf(text, n, "%u of %u copies, about %s", x->moves_left,
                                      x->moves_total, str_from_bytes(x->bytes_left, a))
                           : snprintf(text, n, "%u copies, about %s", x->moves_left,
                                      str_from_bytes(x->bytes_left, a));
    if (w > 0 && (size_t)w < n && x->end_unix_ms > 0)
        (void)snprintf(text + w, n - (size_t)w, "; %s/s, ends about %s",
                       str_from_bytes(x->bytes_per_s, b), out_time(x->end_unix_ms, t));
}

static enum rc nodes_print(struct cli *c, const Nodes *list)
{
    static const char *const HEAD[] = {"NAME",           "KIND",  "UP",     "STATE",   "ADDRESS",
                                       "PLACE",          ">USED", ">TOTAL", ">GROUPS", "MOVES",
                                       "ENGINE / DEVICE"};
    struct table t;
    enum rc rc = RC_OK;

    table_init(&t, HEAD, ARRAY_N(HEAD));
    for (size_t i = 0; rc == RC_OK && i < list->n_nodes; i++) {
        const Mikura__V1__Node *x = list->nodes[i];
        const char *up = x->alive ? "up" : "DOWN", *what = "";
        uint64_t used = 0, total = 0;
        char a[32], b[32], moves[160];

        if (c->json) {
            rc = out_json_message(&x->base);
            continue;
        }
        for (size_t k = 0; k < x->n_disks; k++) {
            used += x->disks[k]->used_bytes;
            total += x->disks[k]->total_bytes;
            what = x->disks[k]->engine;
            if (x->alive && strcmp(x->disks[k]->state, "ok") != 0) up = x->disks[k]->state;
        }
        if (x->n_devices > 0) what = x->devices[0];
        moves_text(x, moves, sizeof moves);
        table_cell(&t, "%s", x->name);
        table_cell(&t, "%s", x->kind);
        table_cell(&t, "%s", up);
        table_cell(&t, "%s", x->state);
        table_cell(&t, "%s", x->address);
        table_cell(&t, "%s/%s/%s", x->zone, x->rack, x->host);
        table_cell(&t, "%s", x->n_disks == 0 ? "" : str_from_bytes(used, a));
        table_cell(&t, "%s", x->n_disks == 0 ? "" : str_from_bytes(total, b));
        table_cell(&t, "%.0u", x->groups);
        table_cell(&t, "%s", moves);
        table_cell(&t, "%s", what);
    }
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    return rc == RC_OK ? out_flush() : rc;
}

static int ended(struct cli *c, enum rc rc)
{
    if (rc == RC_OK) return EXIT_OK;
    if (c->err.msg[0] == 0) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    return cli_fail(c, rc);
}

int cmd_node_ls(struct cli *c)
{
    bool again;
    enum rc rc;

    do {
        Nodes *list = NULL;

        again = false;
        rc = nodes_get(c, &list);
        if (rc == RC_OK) rc = nodes_print(c, list);
        for (size_t i = 0; rc == RC_OK && i < list->n_nodes && cli_flag(c, "watch"); i++)
            again |= waits(list->nodes[i]);
        mikura__v1__list_nodes_response__free_unpacked(list, NULL);
        if (again) fiber_sleep_ms(2 * WATCH_MS);
    } while (rc == RC_OK && again);
    return ended(c, rc);
}

/* ---- changes ---- */
static enum rc plan_print(struct cli *c, const Change *r)
{
    static const char *const HEAD[] = {"NODE", ">GROUPS NOW", ">COME",
                                       ">GO",  ">BYTES IN",   ">BYTES OUT"};
    struct table t;
    char a[32], b[32];
    enum rc rc = RC_OK;

    if (c->json) return out_json_message(&r->base);
    (void)printf("%u groups move: %u copies to make, about %s\n", r->groups, r->copies,
                 str_from_bytes(r->bytes, a));
    table_init(&t, HEAD, ARRAY_N(HEAD));
    for (size_t i = 0; i < r->n_nodes; i++) {
        const Mikura__V1__NodeMoves *m = r->nodes[i];

        table_cell(&t, "%s", m->name);
        table_cell(&t, "%u", m->groups);
        table_cell(&t, "%u", m->groups_in);
        table_cell(&t, "%u", m->groups_out);
        table_cell(&t, "%s", str_from_bytes(m->bytes_in, a));
        table_cell(&t, "%s", str_from_bytes(m->bytes_out, b));
    }
    if (r->n_nodes > 0) rc = table_print(&t, stdout);
    table_deinit(&t);
    for (size_t i = 0; i < r->n_notes; i++)
        (void)printf("note: %s\n", r->notes[i]);
    return rc == RC_OK ? out_flush() : rc;
}

static enum rc ask(struct cli *c, const char *what, const char *name)
{
    char yes[16];

    if (cli_flag(c, "yes") || isatty(STDIN_FILENO) != 1) return RC_OK;
    (void)fprintf(stderr, "%s '%s'? [y/N] ", what, name);
    if (fgets(yes, sizeof yes, stdin) != NULL && (yes[0] == 'y' || yes[0] == 'Y')) return RC_OK;
    return err_set(&c->err, RC_INVAL, "nothing was changed");
}

/* Until nothing is left to move for these nodes. A gateway that goes away meanwhile is no reason to
 * end: the client asks the others. */
static enum rc follow(struct cli *c, const char *const names[2])
{
    bool more = true;
    enum rc rc = RC_OK;

    while (more && rc == RC_OK) {
        Nodes *list = NULL;
        char moves[160];

        more = false;
        fiber_sleep_ms(WATCH_MS);
        rc = nodes_get(c, &list);
        for (size_t i = 0; rc == RC_OK && i < list->n_nodes; i++) {
            const Mikura__V1__Node *x = list->nodes[i];

            if (strcmp(x->kind, "storaged") != 0 ||
                (strcmp(x->name, names[0]) != 0 && strcmp(x->name, names[1]) != 0))
                continue;
            more |= waits(x) || (strcmp(x->state, "removed") == 0 && x->groups > 0);
            moves_text(x, moves, sizeof moves);
            if (!c->json && !c->quiet)
                (void)printf("%s: %s%s%s\n", x->name, x->state, moves[0] == 0 ? "" : ": ", moves);
        }
        mikura__v1__list_nodes_response__free_unpacked(list, NULL);
        if (rc == RC_OK) rc = out_flush();
    }
    return rc;
}

static int change(struct cli *c, Mikura__V1__NodeAction action, const char *what)
{
    Mikura__V1__ChangeNodeRequest m = MIKURA__V1__CHANGE_NODE_REQUEST__INIT;
    const char *names[2] = {c->args[0], c->args_n > 1 ? c->args[1] : ""};
    bool dry = cli_flag(c, "dry-run");
    Change *r = NULL;
    enum rc rc;

    m.name = cli_text(c->args[0]);
    if (c->args_n > 1) m.by_name = cli_text(c->args[1]);
    m.action = action;
    m.narrower = cli_flag(c, "narrower");
    m.dry_run = true;
    rc = cli_call(c, SVC "ChangeNode", &m.base, &mikura__v1__change_node_response__descriptor, &r);
    if (rc == RC_OK && (dry || !c->json)) rc = plan_print(c, r);
    mikura__v1__change_node_response__free_unpacked(r, NULL);
    r = NULL;
    if (rc != RC_OK || dry) return ended(c, rc);
    rc = ask(c, what, c->args[0]);
    m.dry_run = false;
    if (rc == RC_OK)
        rc = cli_call(c, SVC "ChangeNode", &m.base, &mikura__v1__change_node_response__descriptor,
                      &r);
    if (rc == RC_OK && c->json) rc = plan_print(c, r);
    if (rc == RC_OK && !c->json && !c->quiet)
        (void)printf("%s: written down; it goes on by itself (mikura node ls --watch)\n", names[0]);
    mikura__v1__change_node_response__free_unpacked(r, NULL);
    if (rc == RC_OK && cli_flag(c, "watch")) rc = follow(c, names);
    return ended(c, rc);
}

int cmd_node_add(struct cli *c)
{
    return change(c, MIKURA__V1__NODE_ACTION__NODE_ACTION_ADD, "let in");
}

int cmd_node_drain(struct cli *c)
{
    return change(c, MIKURA__V1__NODE_ACTION__NODE_ACTION_DRAIN, "empty");
}

int cmd_node_undrain(struct cli *c)
{
    return change(c, MIKURA__V1__NODE_ACTION__NODE_ACTION_UNDRAIN, "keep");
}

int cmd_node_remove(struct cli *c)
{
    return change(c, MIKURA__V1__NODE_ACTION__NODE_ACTION_REMOVE, "give up");
}

int cmd_node_replace(struct cli *c)
{
    return change(c, MIKURA__V1__NODE_ACTION__NODE_ACTION_REPLACE, "replace");
}

int cmd_recover_config(struct cli *c)
{
    Mikura__V1__RecoverConfigRequest m = MIKURA__V1__RECOVER_CONFIG_REQUEST__INIT;
    Mikura__V1__RecoverConfigResponse *r = NULL;
    bool refused = false;
    char a[80];
    enum rc rc;

    m.apply = cli_flag(c, "apply");
    if (m.apply == cli_flag(c, "dry-run"))
        return cli_usage(c, "recover-config: one of --dry-run and --apply");
    rc = cli_call(c, SVC "RecoverConfig", &m.base, &mikura__v1__recover_config_response__descriptor,
                  &r);
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&r->base);
    } else if (rc == RC_OK) {
        (void)printf("cluster   %s\nnodes     %u answer, %u do not\n"
                     "groups    %u, there %u, %s %u, refused %u; %u replicas begin behind\n",
                     out_hex(r->cluster_id, a), r->nodes, r->nodes_silent, r->groups,
                     r->groups_there, r->applied ? "made" : "to be made", r->groups_made,
                     r->groups_refused, r->replicas_behind);
        for (size_t i = 0; i < r->n_reasons; i++)
            (void)printf("          - %s\n", r->reasons[i]);
    }
    if (rc == RC_OK) refused = r->groups_refused > 0;
    mikura__v1__recover_config_response__free_unpacked(r, NULL);
    return rc == RC_OK && refused ? EXIT_UNHEALTHY : ended(c, rc);
}
