/* The command line: words, options in any place, what is refused and how; profiles; exit codes. */
#include "gateway/cli/cli.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const char *storage[64];
static struct cli cli;
static enum cli_ask ask;

static enum rc parse(struct err *e, ...)
{
    char *argv[32] = {(char *)(uintptr_t) "mikura"};
    int argc = 1;
    const char *a;
    va_list ap;

    va_start(ap, e);
    while ((a = va_arg(ap, const char *)) != NULL)
        argv[argc++] = (char *)(uintptr_t)a;
    va_end(ap);
    memset(&cli, 0, sizeof cli);
    memset(e, 0, sizeof *e);
    return cli_parse(&cli, argc, argv, storage, &ask, e);
}

static void words(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(parse(&e, "--as", "researcher/sato", "job", "--json", "submit", "q = 1",
                           "--model=quality", "--param", "a=b", "--param", "c=d=e", NULL),
                     RC_OK);
    assert_int_equal(ask, CLI_RUN);
    assert_string_equal(cli.cmd->name, "job submit");
    assert_int_equal(cli.args_n, 1);
    assert_string_equal(cli.args[0], "q = 1");
    assert_string_equal(cli_value(&cli, "model"), "quality");
    assert_string_equal(cli_value(&cli, "as"), "researcher/sato");
    assert_string_equal(cli_value_at(&cli, "param", 1), "c=d=e");
    assert_null(cli_value_at(&cli, "param", 2));
    assert_true(cli.json);
    assert_int_equal(parse(&e, "put", "--collection", "c", "--", "--odd name", "-", NULL), RC_OK);
    assert_int_equal(cli.args_n, 2);
    assert_string_equal(cli.args[0], "--odd name");
    assert_string_equal(cli.args[1], "-");
    assert_int_equal(parse(&e, "get", "a/b/c", "-o", "-", NULL), RC_OK);
    assert_string_equal(cli_value(&cli, "o"), "-");
    assert_int_equal(parse(&e, "ls", NULL), RC_OK);
    /* options between a command's two words */
    assert_int_equal(parse(&e, "agent", "--as", "society/s/a", "--state", "d", "status", NULL),
                     RC_OK);
    assert_string_equal(cli.cmd->name, "agent status");
    assert_int_equal(cli.args_n, 0);
    assert_string_equal(cli_value(&cli, "as"), "society/s/a");
    assert_string_equal(cli_value(&cli, "state"), "d");
    assert_int_equal(parse(&e, "put", "--help", NULL), RC_OK);
    assert_int_equal(ask, CLI_HELP_COMMAND);
    assert_int_equal(parse(&e, "help", "job", "submit", NULL), RC_OK);
    assert_int_equal(ask, CLI_HELP_COMMAND);
    assert_string_equal(cli.cmd->name, "job submit");
    assert_int_equal(parse(&e, "--version", NULL), RC_OK);
    assert_int_equal(ask, CLI_VERSION);
}

static void refused(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(parse(&e, NULL), RC_INVAL);
    assert_int_equal(parse(&e, "frobnicate", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "frobnicate"));
    assert_int_equal(parse(&e, "job", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "submit, watch"));
    assert_int_equal(parse(&e, "job", "frob", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "'frob' is none of"));
    assert_int_equal(parse(&e, "agent", "--as", "X", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "which of run, status"));
    assert_int_equal(parse(&e, "agent", "--as", NULL), RC_INVAL);
    assert_int_equal(parse(&e, "ls", "--frob", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "--frob"));
    assert_int_equal(parse(&e, "get", "--length", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "needs a value"));
    assert_int_equal(parse(&e, "ls", "--json=yes", NULL), RC_INVAL);
    assert_int_equal(parse(&e, "get", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "too few"));
    assert_int_equal(parse(&e, "rm", "a/b/c", "d/e/f", NULL), RC_INVAL);
    assert_non_null(strstr(e.msg, "too many"));
    /* an option of another command */
    assert_int_equal(parse(&e, "ls", "--offset", "1", NULL), RC_INVAL);
}

static void values(void **state)
{
    uint64_t v = 7;
    struct err e;

    (void)state;
    assert_int_equal(parse(&e, "get", "a/b/c", "--offset", "2MiB", "--length", "x", NULL), RC_OK);
    assert_int_equal(cli_bytes(&cli, "offset", &v), RC_OK);
    assert_int_equal(v, 2u << 20);
    assert_int_equal(cli_bytes(&cli, "length", &v), RC_INVAL);
    assert_non_null(strstr(cli.err.msg, "--length"));
    assert_int_equal(cli_number(&cli, "parallel", 64, &v), RC_OK);
    assert_int_equal(v, 2u << 20); /* not given: untouched */
}

static void refs(void **state)
{
    struct cli_ref r;
    struct err e;

    (void)state;
    assert_int_equal(cli_ref_parse("endoscopy/colon-1/a/b.jpg", &r, &e), RC_OK);
    assert_string_equal(r.collection, "endoscopy");
    assert_string_equal(r.case_id, "colon-1");
    assert_string_equal(r.path, "a/b.jpg");
    cli_ref_free(&r);
    assert_int_equal(cli_ref_parse("endoscopy", &r, &e), RC_OK);
    assert_string_equal(r.case_id, "");
    cli_ref_free(&r);
    assert_int_equal(cli_ref_parse("endoscopy/c/", &r, &e), RC_OK);
    assert_string_equal(r.case_id, "c");
    assert_string_equal(r.path, "");
    cli_ref_free(&r);
    assert_int_equal(cli_ref_parse("/x", &r, &e), RC_INVAL);
    assert_int_equal(cli_ref_parse("", &r, &e), RC_INVAL);
}

/* Each gRPC status has a code of its own kind, as --help says; none is 0. */
static void exit_codes(void **state)
{
    static const int WANT[17] = {
        [1] = 10, [3] = 2,  [4] = 11,  [5] = 3,  [6] = 6,   [7] = 4,   [8] = 8,  [9] = 7,
        [10] = 7, [11] = 2, [12] = 12, [13] = 1, [14] = 10, [15] = 13, [16] = 5, [2] = 1};

    (void)state;
    for (int s = 1; s <= 16; s++) {
        assert_int_equal(cli_exit_of(rc_from_grpc(s)), WANT[s]);
    }
    for (int rc = 1; rc < RC_N; rc++)
        assert_int_not_equal(cli_exit_of((enum rc)rc), 0);
}

/* What the help promises about each command can be typed. */
static void help_is_whole(void **state)
{
    (void)state;
    for (const struct command *k = COMMANDS; k->name != NULL; k++) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        assert_non_null(f);
        assert_non_null(k->run);
        assert_non_null(k->more);
        assert_non_null(strstr(k->more, "example"));
        assert_non_null(strstr(k->more, k->name));
        cli_help_command(f, k);
        assert_int_equal(fclose(f), 0);
        assert_non_null(strstr(text, k->summary));
        for (const struct cli_opt *o = k->opts; o != NULL && o->name != NULL; o++)
            assert_non_null(strstr(text, o->name));
        free(text);
    }
}

static void profile(void **state)
{
    char path[] = "/tmp/mikura-profile-XXXXXX";
    struct mikura_profile *p = calloc(1, sizeof *p);
    struct err e = {0};
    int fd = mkstemp(path);
    static const char text[] = "# mine\n address = gw1:27000,gw2:27000 \n\nca = pki/ca.crt\n"
                               "cert=/abs/me.crt\nkey = pki/me.key\n";

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    (void)unsetenv("MIKURA_ADDRESS");
    (void)unsetenv("MIKURA_CA");
    (void)unsetenv("MIKURA_CERT");
    (void)setenv("MIKURA_KEY", "/env/key", 1);
    assert_int_equal(mikura_profile_load(path, p, &e), RC_OK);
    assert_string_equal(p->address, "gw1:27000,gw2:27000");
    assert_string_equal(p->ca, "/tmp/pki/ca.crt"); /* beside the profile */
    assert_string_equal(p->cert, "/abs/me.crt");
    assert_string_equal(p->key, "/env/key"); /* the environment wins */
    /* other identities lie beside the CA */
    assert_int_equal(mikura_profile_as(p, "researcher/nobody", &e), RC_NOTFOUND);
    assert_non_null(strstr(e.msg, "/tmp/pki/researcher-nobody.crt"));
    assert_int_equal(mikura_profile_as(p, "researcher", &e), RC_INVAL);
    assert_int_equal(mikura_profile_as(p, "society/x", &e), RC_INVAL);
    assert_int_equal(mikura_profile_as(p, "node/gateway/g1", &e), RC_INVAL);
    assert_int_equal(write(fd, "adress = x\n", 11), 11);
    assert_int_equal(mikura_profile_load(path, p, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "line 7"));
    assert_non_null(strstr(e.msg, "adress"));
    (void)close(fd);
    (void)unlink(path);
    assert_int_equal(mikura_profile_load(path, p, &e), RC_NOTFOUND);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),   cmocka_unit_test(refused),    cmocka_unit_test(values),
        cmocka_unit_test(refs),    cmocka_unit_test(exit_codes), cmocka_unit_test(help_is_whole),
        cmocka_unit_test(profile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
