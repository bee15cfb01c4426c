/* gateway/cli/session.c - what commands share: the client, made at its first use, and how a command
 * fails. */
#include "common/base/strutil.h"
#include "gateway/cli/cli.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum rc cli_client(struct cli *c, struct err *reterr)
{
    static const struct {
        const char *opt;
        size_t offset;
    } GIVEN[] = {
        {"address", offsetof(struct mikura_profile, address)},
        {"ca", offsetof(struct mikura_profile, ca)},
        {"cert", offsetof(struct mikura_profile, cert)},
        {"key", offsetof(struct mikura_profile, key)},
    };
    const char *as = cli_value(c, "as"), *patience = cli_value(c, "patience");
    struct mikura_profile *p;
    uint64_t patience_ms = 0;
    enum rc rc;

    if (c->client != NULL) return RC_OK;
    if (patience != NULL &&
        (!str_to_ms(patience, &patience_ms) || patience_ms == 0 || patience_ms > 86400000u)) {
        return err_set(reterr, RC_INVAL, "--patience '%s': expected a time such as 30s or 5m",
                       patience);
    }
    p = malloc(sizeof *p);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "a profile");
    /* where --profile is the de-identification's, --connection names this one */
    rc = mikura_profile_load(cli_value(c, cli_own(c, "connection") ? "connection" : "profile"), p,
                             reterr);
    for (size_t i = 0; rc == RC_OK && i < ARRAY_N(GIVEN); i++) {
        const char *v = cli_value(c, GIVEN[i].opt);

        if (v == NULL) continue;
        if (strlen(v) >= MIKURA_PROFILE_VALUE_MAX) {
            rc = err_set(reterr, RC_INVAL, "--%s is too long", GIVEN[i].opt);
        } else {
            memcpy((char *)p + GIVEN[i].offset, v, strlen(v) + 1);
        }
    }
    if (rc == RC_OK && as != NULL) rc = mikura_profile_as(p, as, reterr);
    if (rc == RC_OK) rc = mikura_client_open(c->fs, p, (uint32_t)patience_ms, &c->client, reterr);
    free(p);
    return rc;
}

int cli_fail(struct cli *c, enum rc rc)
{
    if (c->json) {
        char *text = NULL;
        json_t *j = json_pack("{s:{s:s, s:i, s:s}}", "error", "code", rc_name(rc), "grpc_status",
                              rc_grpc(rc), "message", c->err.msg);

        if (j != NULL) text = json_dumps(j, JSON_COMPACT);
        json_decref(j);
        if (text != NULL) (void)fprintf(stderr, "%s\n", text);
        free(text);
        if (text != NULL) return cli_exit_of(rc);
    }
    (void)fprintf(stderr, "mikura: %s\n", c->err.msg[0] == 0 ? rc_text(rc) : c->err.msg);
    return cli_exit_of(rc);
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
    va_list ap;
    char text[400];

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)err_set(&c->err, RC_INVAL, "%s; see mikura %s --help", text, c->cmd->name);
    return cli_fail(c, RC_INVAL);
}

enum rc cli_call(struct cli *c, const char *path, const ProtobufCMessage *m,
                 const ProtobufCMessageDescriptor *desc, void *ret_answer)
{
    enum rc rc = cli_client(c, &c->err);

    return rc != RC_OK ? rc : mikura_unary(c->client, path, m, desc, ret_answer, &c->err);
}
