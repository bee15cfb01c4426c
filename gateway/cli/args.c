/* gateway/cli/args.c - the command line, its help and the shell's completion, all from COMMANDS. */
#include "common/base/strutil.h"
#include "gateway/cli/cli.h"
#include <stdlib.h>
#include <string.h>

static const char *const EXIT_TEXT[] = {
    [EXIT_OK] = "done",
    [EXIT_BUG] = "an unexpected answer, or a file of this machine could not be read or written",
    [EXIT_USAGE] = "wrong command line or value (INVALID_ARGUMENT, OUT_OF_RANGE)",
    [EXIT_NONE] = "no such thing (NOT_FOUND)",
    [EXIT_DENIED] = "the certificate's role or grants do not allow it (PERMISSION_DENIED)",
    [EXIT_UNAUTH] = "no valid certificate (UNAUTHENTICATED)",
    [EXIT_EXISTS] = "exists already with other content (ALREADY_EXISTS)",
    [EXIT_STATE] = "the state does not allow it (FAILED_PRECONDITION, ABORTED)",
    [EXIT_LIMIT] = "a limit or quota is reached (RESOURCE_EXHAUSTED)",
    [EXIT_PARTIAL] = "put, get: some files done, others refused or failed; each is named",
    [EXIT_UNAVAIL] = "no gateway or too few storage nodes answer (UNAVAILABLE); try again",
    [EXIT_DEADLINE] = "no answer in time (DEADLINE_EXCEEDED); the same command again is safe",
    [EXIT_UNIMPL] = "not served by this cluster (UNIMPLEMENTED)",
    [EXIT_DATA] = "bytes differ from their digest (DATA_LOSS)",
    [EXIT_JOB] = "the job failed or was cancelled",
    [EXIT_UNHEALTHY] = "status, health: it answers, and not all is well",
};

const struct cli_opt GLOBAL_OPTS[] = {
    {"json", NULL, "one JSON object a line, with the names of proto/mikura/v1"},
    {"as", "WHO",
     "another identity beside the CA: operator/NAME, researcher/NAME, society/S/AGENT"},
    {"address", "HOST:PORT,...", "gateways; else MIKURA_ADDRESS, else the profile"},
    {"ca", "FILE", "the cluster's CA; else MIKURA_CA, else the profile"},
    {"cert", "FILE", "your certificate; else MIKURA_CERT, else the profile"},
    {"key", "FILE", "its key; else MIKURA_KEY, else the profile"},
    {"profile", "FILE", "else MIKURA_PROFILE, else ~/.config/mikura/profile"},
    {"patience", "TIME", "how long to try while nothing answers (60s)"},
    {"quiet", NULL, "no progress, no notes on stderr"},
    {"help", NULL, "this text; of a command: mikura COMMAND --help"},
    {"version", NULL, "the version"},
    {0},
};

int cli_exit_of(enum rc rc)
{
    switch (rc) {
    case RC_OK:
        return EXIT_OK;
    case RC_INVAL:
    case RC_RANGE:
        return EXIT_USAGE;
    case RC_NOTFOUND:
        return EXIT_NONE;
    case RC_DENIED:
        return EXIT_DENIED;
    case RC_UNAUTH:
        return EXIT_UNAUTH;
    case RC_EXISTS:
        return EXIT_EXISTS;
    case RC_STALE:
    case RC_PRECOND:
    case RC_ABORTED:
        return EXIT_STATE;
    case RC_NOMEM:
    case RC_BUSY:
    case RC_FULL:
        return EXIT_LIMIT;
    case RC_UNAVAIL:
    case RC_CANCELED:
        return EXIT_UNAVAIL;
    case RC_DEADLINE:
        return EXIT_DEADLINE;
    case RC_UNIMPL:
        return EXIT_UNIMPL;
    case RC_CORRUPT:
        return EXIT_DATA;
    case RC_INTERNAL:
    case RC_IO:
    case RC_N:
        return EXIT_BUG;
    }
    return EXIT_BUG;
}

/* ---- parsing ---- */
static const struct cli_opt *opt_in(const struct cli_opt *opts, const char *name, size_t n)
{
    for (; opts != NULL && opts->name != NULL; opts++) {
        if (strlen(opts->name) == n && strncmp(opts->name, name, n) == 0) return opts;
    }
    return NULL;
}

static const struct command *command_find(const char *first, const char *second)
{
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        size_t n = strlen(first);

        if (strncmp(k->name, first, n) != 0) continue;
        if (k->name[n] == 0) return k;
        if (k->name[n] == ' ' && second != NULL && strcmp(k->name + n + 1, second) == 0) return k;
    }
    return NULL;
}

static bool group_exists(const char *first)
{
    size_t n = strlen(first);

    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        if (strncmp(k->name, first, n) == 0 && k->name[n] == ' ') return true;
    }
    return false;
}

static void group_list(const char *first, char *text, size_t text_n)
{
    size_t n = strlen(first), at = 0;

    text[0] = 0;
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        int w;

        if (strncmp(k->name, first, n) != 0 || k->name[n] != ' ') continue;
        w = snprintf(text + at, text_n - at, "%s%s", at == 0 ? "" : ", ", k->name + n + 1);
        if (w < 0 || (size_t)w >= text_n - at) return;
        at += (size_t)w;
    }
}

/* The command's words: the first one or two arguments that are no options. */
static enum rc command_take(struct cli *c, unsigned *ret_words, struct err *reterr)
{
    const char *second = c->args_n > 1 ? c->args[1] : NULL;
    char list[200];

    c->cmd = command_find(c->args[0], second);
    if (c->cmd != NULL) {
        *ret_words = strchr(c->cmd->name, ' ') == NULL ? 1 : 2;
        return RC_OK;
    }
    if (!group_exists(c->args[0])) {
        return err_set(reterr, RC_INVAL, "unknown command '%s'; see mikura --help", c->args[0]);
    }
    group_list(c->args[0], list, sizeof list);
    if (second == NULL) {
        return err_set(reterr, RC_INVAL, "mikura %s: which of %s?", c->args[0], list);
    }
    return err_set(reterr, RC_INVAL, "mikura %s: '%s' is none of %s", c->args[0], second, list);
}

struct raw_opt { /* as written; looked up when the command is known */
    const char *name, *inline_value;
    size_t name_n;
};

static enum rc opt_take(struct cli *c, const char *arg, const char *next, bool *ret_used_next,
                        struct err *reterr)
{
    bool is_long = arg[1] == '-';
    const char *name = arg + (is_long ? 2 : 1), *eq = is_long ? strchr(name, '=') : NULL;
    size_t n = eq == NULL ? strlen(name) : (size_t)(eq - name);
    const struct cli_opt *o = NULL;

    *ret_used_next = false;
    if (!is_long && strcmp(arg, "-h") == 0) {
        name = "help";
        n = 4;
    }
    if (c->cmd != NULL) o = opt_in(c->cmd->opts, name, n);
    if (o == NULL) o = opt_in(GLOBAL_OPTS, name, n);
    if (o == NULL) {
        return err_set(reterr, RC_INVAL, "unknown option '%.*s'; see mikura %s%s--help",
                       (int)((size_t)(name - arg) + n), arg, c->cmd == NULL ? "" : c->cmd->name,
                       c->cmd == NULL ? "" : " ");
    }
    if (o->value == NULL && eq != NULL) {
        return err_set(reterr, RC_INVAL, "--%s takes no value", o->name);
    }
    if (o->value != NULL && eq == NULL) {
        if (next == NULL) {
            return err_set(reterr, RC_INVAL, "%s needs a value: %s", arg, o->value);
        }
        *ret_used_next = true;
    }
    if (c->opts_n == CLI_OPTS_MAX) {
        return err_set(reterr, RC_INVAL, "more than %u options", CLI_OPTS_MAX);
    }
    c->opts[c->opts_n].name = o->name;
    c->opts[c->opts_n++].value = o->value == NULL ? "" : eq != NULL ? eq + 1 : next;
    return RC_OK;
}

static bool is_option(const char *arg)
{
    return arg[0] == '-' && arg[1] != 0; /* a lone "-" is stdin or stdout */
}

/* Whether an option before the command is known takes the next argument: a global one, or behind a
 * group's name (first, else NULL) one of its commands'. */
static bool takes_next(const char *arg, const char *first)
{
    size_t n = first == NULL ? 0 : strlen(first);
    const struct cli_opt *o;

    if (arg[1] != '-' || strchr(arg, '=') != NULL) return false;
    o = opt_in(GLOBAL_OPTS, arg + 2, strlen(arg + 2));
    for (const struct command *k = COMMANDS; o == NULL && n > 0 && k->name != NULL; k++) {
        if (strncmp(k->name, first, n) == 0 && k->name[n] == ' ')
            o = opt_in(k->opts, arg + 2, strlen(arg + 2));
    }
    return o != NULL && o->value != NULL;
}

enum rc cli_parse(struct cli *c, int argc, char **argv, const char **storage, enum cli_ask *ret_ask,
                  struct err *reterr)
{
    unsigned words = 0, at = 0;
    bool only_args = false;
    enum rc rc;

    c->args = storage;
    /* the command's words first, so that its options are known */
    for (int i = 1; i < argc && c->args_n < 2; i++) {
        if (is_option(argv[i])) {
            if (strcmp(argv[i], "--") == 0) break;
            if (c->args_n == 1 && command_find(c->args[0], NULL) != NULL) break;
            if (takes_next(argv[i], c->args_n == 0 ? NULL : c->args[0])) i++;
            continue;
        }
        storage[c->args_n++] = argv[i];
    }
    if (c->args_n > 0) {
        bool help = strcmp(c->args[0], "help") == 0;

        if (help && c->args_n == 1) {
            *ret_ask = CLI_HELP;
            return RC_OK;
        }
        if (help) {
            c->args++;
            c->args_n--;
            if (argc > 3 && !is_option(argv[argc - 1]) && c->args_n == 1) {
                storage[2] = argv[argc - 1];
                c->args_n = 2;
            }
        }
        rc = command_take(c, &words, reterr);
        if (rc != RC_OK) return rc;
        if (help) {
            *ret_ask = CLI_HELP_COMMAND;
            return RC_OK;
        }
    }
    c->args = storage;
    c->args_n = 0;
    for (int i = 1; i < argc; i++) {
        bool used;

        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
            continue;
        }
        if (only_args || !is_option(argv[i])) {
            if (at++ < words) continue; /* the command itself */
            if (c->args_n == CLI_ARGS_MAX) {
                return err_set(reterr, RC_INVAL, "more than %u arguments: give their folder",
                               CLI_ARGS_MAX);
            }
            storage[c->args_n++] = argv[i];
            continue;
        }
        rc = opt_take(c, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &used, reterr);
        if (rc != RC_OK) return rc;
        if (used) i++;
    }
    c->json = cli_flag(c, "json");
    c->quiet = cli_flag(c, "quiet");
    if (cli_flag(c, "version")) {
        *ret_ask = CLI_VERSION;
        return RC_OK;
    }
    if (cli_flag(c, "help")) {
        *ret_ask = c->cmd == NULL ? CLI_HELP : CLI_HELP_COMMAND;
        return RC_OK;
    }
    if (c->cmd == NULL) return err_set(reterr, RC_INVAL, "no command; see mikura --help");
    if (c->args_n < c->cmd->args_min || c->args_n > c->cmd->args_max) {
        return err_set(reterr, RC_INVAL, "%s arguments; usage: mikura %s %s",
                       c->args_n < c->cmd->args_min ? "too few" : "too many", c->cmd->name,
                       c->cmd->args);
    }
    *ret_ask = CLI_RUN;
    return RC_OK;
}

/* ---- values ---- */
const char *cli_value_at(const struct cli *c, const char *name, unsigned nth)
{
    for (unsigned i = 0; i < c->opts_n; i++) {
        if (strcmp(c->opts[i].name, name) == 0 && nth-- == 0) return c->opts[i].value;
    }
    return NULL;
}

const char *cli_value(const struct cli *c, const char *name)
{
    const char *v = NULL;

    for (unsigned i = 0; i < c->opts_n; i++) {
        if (strcmp(c->opts[i].name, name) == 0) v = c->opts[i].value;
    }
    return v;
}

bool cli_own(const struct cli *c, const char *name)
{
    return opt_in(c->cmd->opts, name, strlen(name)) != NULL;
}

bool cli_flag(const struct cli *c, const char *name)
{
    return cli_value_at(c, name, 0) != NULL;
}

enum rc cli_number(struct cli *c, const char *name, uint64_t max, uint64_t *v)
{
    const char *text = cli_value(c, name);

    if (text == NULL || str_to_u64(text, max, v)) return RC_OK;
    return err_set(&c->err, RC_INVAL, "--%s '%s': expected a number from 0 to %llu", name, text,
                   (unsigned long long)max);
}

enum rc cli_bytes(struct cli *c, const char *name, uint64_t *v)
{
    const char *text = cli_value(c, name);

    if (text == NULL || str_to_bytes(text, v)) return RC_OK;
    return err_set(&c->err, RC_INVAL, "--%s '%s': expected a size such as 4096, 512KiB or 8MiB",
                   name, text);
}

enum rc cli_ref_parse(const char *arg, struct cli_ref *ret, struct err *reterr)
{
    char *slash;

    *ret = (struct cli_ref){.case_id = "", .path = ""};
    if (arg[0] == 0 || arg[0] == '/') {
        return err_set(reterr, RC_INVAL,
                       "'%s' is not COLLECTION, COLLECTION/CASE or "
                       "COLLECTION/CASE/PATH",
                       arg);
    }
    ret->text = strdup(arg);
    if (ret->text == NULL) return err_set(reterr, RC_NOMEM, "a name");
    ret->collection = ret->text;
    slash = strchr(ret->text, '/');
    if (slash == NULL) return RC_OK;
    *slash = 0;
    ret->case_id = slash + 1;
    slash = strchr(slash + 1, '/');
    if (slash == NULL) return RC_OK;
    *slash = 0;
    ret->path = slash + 1;
    return RC_OK;
}

void cli_ref_free(struct cli_ref *r)
{
    free(r->text);
    *r = (struct cli_ref){0};
}

/* ---- help ---- */
static void opts_print(FILE *f, const struct cli_opt *opts)
{
    for (; opts != NULL && opts->name != NULL; opts++) {
        int w = fprintf(f, "  %s%s%s%s", opts->name[1] == 0 ? "-" : "--", opts->name,
                        opts->value == NULL ? "" : " ", opts->value == NULL ? "" : opts->value);

        (void)fprintf(f, "%*s%s\n", w < 26 ? 26 - w : 1, "", opts->help);
    }
}

void cli_help(FILE *f)
{
    (void)fputs("usage: mikura COMMAND ... [--json] [--as WHO]\n\n"
                "a storehouse for medical images with computers inside\n\n",
                f);
    for (const struct command *k = COMMANDS; k->name != NULL; k++)
        (void)fprintf(f, "  %-20s %s\n", k->name, k->summary);
    (void)fputs("\noptions of every command:\n", f);
    opts_print(f, GLOBAL_OPTS);
    (void)fputs(
        "\nenvironment: MIKURA_ADDRESS, MIKURA_CA, MIKURA_CERT, MIKURA_KEY; they win over the "
        "profile,\n  a file of `address|ca|cert|key = value` lines\n"
        "names: COLLECTION, COLLECTION/CASE or COLLECTION/CASE/PATH\n\nexit codes:\n",
        f);
    for (size_t i = 0; i < ARRAY_N(EXIT_TEXT); i++)
        (void)fprintf(f, "  %2zu  %s\n", i, EXIT_TEXT[i]);
    (void)fputs("\nexamples:\n"
                "  mikura collection create endoscopy --society endoscopy --unchecked\n"
                "  mikura put ./endoscopy --collection endoscopy --as society/endoscopy/agent-1\n"
                "  mikura query 'collection = endoscopy and image.width >= 512' --as "
                "researcher/sato\n"
                "  mikura job submit 'collection = endoscopy' --model quality --watch --as "
                "researcher/sato\n",
                f);
}

void cli_help_command(FILE *f, const struct command *cmd)
{
    (void)fprintf(f, "usage: mikura %s%s%s [OPTIONS]\n\n%s\n", cmd->name,
                  cmd->args[0] == 0 ? "" : " ", cmd->args, cmd->summary);
    if (cmd->opts != NULL) {
        (void)fputs("\noptions:\n", f);
        opts_print(f, cmd->opts);
    }
    if (cmd->more != NULL) (void)fprintf(f, "\n%s", cmd->more);
    (void)fputs("\noptions of every command, environment, exit codes: mikura --help\n", f);
}

/* ---- completion ---- */
static void words_print(FILE *f, const struct cli_opt *opts)
{
    for (; opts != NULL && opts->name != NULL; opts++)
        (void)fprintf(f, " %s%s", opts->name[1] == 0 ? "-" : "--", opts->name);
}

void cli_completion_bash(FILE *f)
{
    (void)fputs("# mikura completion bash: source it, or put it into "
                "/etc/bash_completion.d/mikura\n"
                "_mikura() {\n"
                "    local cur=${COMP_WORDS[COMP_CWORD]} w i cmd='' words=''\n"
                "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                "        w=${COMP_WORDS[i]}\n"
                "        case $w in -*) continue ;; esac\n"
                "        cmd=${cmd:+$cmd }$w\n"
                "    done\n"
                "    case $cmd in\n",
                f);
    (void)fputs("    '') words='help", f);
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        size_t n = strcspn(k->name, " ");

        if (k > COMMANDS && strncmp(k[-1].name, k->name, n) == 0 &&
            (k[-1].name[n] == ' ' || k[-1].name[n] == 0))
            continue; /* its group is there */
        (void)fprintf(f, " %.*s", (int)n, k->name);
    }
    (void)fputs("' ;;\n", f);
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        size_t n = strcspn(k->name, " ");

        if (k->name[n] == 0) continue;
        if (k > COMMANDS && strncmp(k[-1].name, k->name, n + 1) == 0) continue;
        (void)fprintf(f, "    %.*s) words='", (int)n, k->name);
        for (const struct command *j = k; j->name != NULL && strncmp(j->name, k->name, n + 1) == 0;
             j++)
            (void)fprintf(f, "%s%s", j == k ? "" : " ", j->name + n + 1);
        (void)fputs("' ;;\n", f);
    }
    (void)fputs("    esac\n    if [[ $cur == -* ]]; then\n        words='", f);
    words_print(f, GLOBAL_OPTS);
    (void)fputs("'\n        case $cmd in\n", f);
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        if (k->opts == NULL) continue;
        (void)fprintf(f, "        '%s'*) words+='", k->name);
        words_print(f, k->opts);
        (void)fputs("' ;;\n", f);
    }
    (void)fputs("        esac\n    fi\n"
                "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
                "    if [ ${#COMPREPLY[@]} -eq 0 ]; then compopt -o default; fi\n"
                "}\n"
                "complete -F _mikura mikura\n",
                f);
}
