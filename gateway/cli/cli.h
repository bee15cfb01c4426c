/* gateway/cli/cli.h - the `mikura` command: its options, its exit codes, and what commands share.
 *
 * A command is a function in a fiber; it returns an exit code. Results go to stdout, all else to
 * stderr. With --json every result is one JSON object a line, with the names of proto/. */
#pragma once
#include "common/client/client.h"
#include <jansson.h>
#include <stdio.h>

/* Documented in README.md and `mikura --help`; never renumbered. */
enum cli_exit {
    EXIT_OK = 0,
    EXIT_BUG = 1,    /* INTERNAL, UNKNOWN, or a file of this machine could not be read or written */
    EXIT_USAGE = 2,  /* the command line; INVALID_ARGUMENT, OUT_OF_RANGE */
    EXIT_NONE = 3,   /* NOT_FOUND */
    EXIT_DENIED = 4, /* PERMISSION_DENIED */
    EXIT_UNAUTH = 5, /* UNAUTHENTICATED: no valid certificate */
    EXIT_EXISTS = 6, /* ALREADY_EXISTS */
    EXIT_STATE = 7,  /* FAILED_PRECONDITION, ABORTED */
    EXIT_LIMIT = 8,  /* RESOURCE_EXHAUSTED */
    EXIT_PARTIAL = 9, /* put, get, deid: some files were refused or failed, others are done */
    EXIT_UNAVAIL = 10,
    EXIT_DEADLINE = 11,
    EXIT_UNIMPL = 12,
    EXIT_DATA = 13,      /* DATA_LOSS: bytes differ from their digest */
    EXIT_JOB = 14,       /* the job failed or was cancelled */
    EXIT_UNHEALTHY = 15, /* status, health: it answers, and not all is well */
};
/* The one place where result codes become exit codes. */
int cli_exit_of(enum rc rc);

struct cli_opt {
    const char *name;  /* "collection" for --collection; one letter: also -x */
    const char *value; /* its kind in the help ("NAME"); NULL = a flag */
    const char *help;
};
struct cli;
struct command {
    const char *name; /* "collection create" */
    const char *args; /* "NAME", "REF [FILE]" */
    unsigned args_min, args_max;
    const char *summary;
    const struct cli_opt *opts; /* ended by a NULL name; may be NULL */
    const char *more;           /* explanation and examples */
    int (*run)(struct cli *c);
};
extern const struct command COMMANDS[]; /* ended by a NULL name */
extern const struct cli_opt GLOBAL_OPTS[];

#define CLI_ARGS_MAX 65536u /* a shell's glob over a folder of slices */
#define CLI_OPTS_MAX 256u
struct cli {
    const struct command *cmd;
    const char **args;
    unsigned args_n;
    struct {
        const char *name, *value;
    } opts[CLI_OPTS_MAX];
    unsigned opts_n;
    bool json, quiet;
    struct fibers *fs;
    struct mikura_client *client;
    struct err err;
    int exit_code;
};

/* What the command line asks for. */
enum cli_ask { CLI_RUN, CLI_HELP, CLI_HELP_COMMAND, CLI_VERSION };
/* RC_INVAL says what is wrong and which help to read. c->args points into storage. */
MUST_CHECK enum rc cli_parse(struct cli *c, int argc, char **argv, const char **storage,
                             enum cli_ask *ret_ask, struct err *reterr);
void cli_help(FILE *f);
void cli_help_command(FILE *f, const struct command *cmd);
void cli_completion_bash(FILE *f);

const char *cli_value(const struct cli *c, const char *name); /* the last one given, or NULL */
const char *cli_value_at(const struct cli *c, const char *name, unsigned nth); /* or NULL */
bool cli_flag(const struct cli *c, const char *name);
bool cli_own(const struct cli *c, const char *name); /* the command has such an option itself */
/* Numbers: RC_INVAL names the option. Unset when it was not given. */
MUST_CHECK enum rc cli_number(struct cli *c, const char *name, uint64_t max, uint64_t *v);
MUST_CHECK enum rc cli_bytes(struct cli *c, const char *name, uint64_t *v);

/* Connects at the first use. */
MUST_CHECK enum rc cli_client(struct cli *c, struct err *reterr);
/* Prints c->err and returns the exit code for rc. */
int cli_fail(struct cli *c, enum rc rc);
int cli_usage(struct cli *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Unary call on the connected client; the answer is freed by the caller. */
MUST_CHECK enum rc cli_call(struct cli *c, const char *path, const ProtobufCMessage *m,
                            const ProtobufCMessageDescriptor *desc, void *ret_answer);

/* protobuf-c's fields are not const; packing only reads. */
static inline char *cli_text(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* COLLECTION[/CASE[/PATH]]; parts point into text, which is cut. RC_INVAL. */
struct cli_ref {
    char *text;
    const char *collection, *case_id, *path; /* "" where not given */
};
MUST_CHECK enum rc cli_ref_parse(const char *arg, struct cli_ref *ret, struct err *reterr);
void cli_ref_free(struct cli_ref *r);
/* mkdir -p of all before the file's last slash. RC_INTERNAL. */
MUST_CHECK enum rc cli_folders_make(char *file, struct err *reterr);

/* ---- commands, by file ---- */
int cmd_collection_create(struct cli *c); /* catalog.c */
int cmd_collection_grant(struct cli *c);
int cmd_collection_ls(struct cli *c);
int cmd_collection_show(struct cli *c);
int cmd_ls(struct cli *c);
int cmd_stat(struct cli *c);
int cmd_rm(struct cli *c);
int cmd_query(struct cli *c);
int cmd_put(struct cli *c);       /* put.c */
int cmd_get(struct cli *c);       /* get.c */
int cmd_model_add(struct cli *c); /* jobs.c */
int cmd_model_ls(struct cli *c);
int cmd_job_submit(struct cli *c);
int cmd_job_watch(struct cli *c);
int cmd_job_ls(struct cli *c);
int cmd_job_show(struct cli *c);
int cmd_job_results(struct cli *c);
int cmd_job_cancel(struct cli *c);
int cmd_job_rm(struct cli *c);
int cmd_receipt_keys(struct cli *c); /* receipt.c */
int cmd_receipt_verify(struct cli *c);
int cmd_node_ls(struct cli *c); /* nodes.c */
int cmd_node_add(struct cli *c);
int cmd_node_drain(struct cli *c);
int cmd_node_undrain(struct cli *c);
int cmd_node_remove(struct cli *c);
int cmd_node_replace(struct cli *c);
int cmd_recover_config(struct cli *c);
int cmd_group_ls(struct cli *c); /* admin.c */
int cmd_key_create(struct cli *c);
int cmd_key_status(struct cli *c);
int cmd_key_export(struct cli *c);
int cmd_status(struct cli *c);
int cmd_health(struct cli *c);
int cmd_completion(struct cli *c);
int cmd_quarantine_ls(struct cli *c); /* quarantine.c */
int cmd_quarantine_release(struct cli *c);
int cmd_deid_check(struct cli *c); /* deid.c */
int cmd_deid_clean(struct cli *c);
int cmd_deid_key(struct cli *c);
int cmd_deid_profile(struct cli *c);
int deid_dry_run(struct cli *c);
int cmd_agent_run(struct cli *c); /* agent.c */
int cmd_agent_status(struct cli *c);
int cmd_agent_retry(struct cli *c);
int cmd_agent_verify(struct cli *c);
struct cases;
/* put --deid-profile: refuses what the profile does not accept, before anything is sent. */
MUST_CHECK enum rc deid_check_cases(struct cli *c, struct cases *cs, struct err *reterr);
