/* gateway/cli/main.c - the program `mikura`: one loop, one fiber that runs the command. */
#include "common/base/log.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include <signal.h>
#include <stdlib.h>

static void command_fiber(void *arg)
{
    struct cli *c = arg;

    c->exit_code = c->cmd->run(c);
    mikura_client_close(c->client);
    c->client = NULL;
    if (out_flush() != RC_OK && c->exit_code == EXIT_OK) {
        (void)fprintf(stderr, "mikura: stdout could not be written\n");
        c->exit_code = EXIT_BUG;
    }
}

static int command_run(struct cli *c)
{
    uv_loop_t loop;
    enum rc rc;

    if (uv_loop_init(&loop) != 0) {
        (void)err_set(&c->err, RC_NOMEM, "the event loop could not start");
        return cli_fail(c, RC_NOMEM);
    }
    rc = fibers_open(&loop, &c->fs);
    if (rc == RC_OK) rc = fiber_spawn(c->fs, command_fiber, c);
    if (rc != RC_OK) {
        (void)err_set(&c->err, rc, "the command could not start: %s", rc_text(rc));
        return cli_fail(c, rc);
    }
    while (fibers_running(c->fs) > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    fibers_close(c->fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop); /* the process ends here */
    return c->exit_code;
}

int main(int argc, char **argv)
{
    const char **storage = calloc(CLI_ARGS_MAX, sizeof *storage);
    struct cli *c = calloc(1, sizeof *c);
    enum cli_ask ask = CLI_HELP;
    int code = EXIT_OK;
    enum rc rc;

    if (storage == NULL || c == NULL) return EXIT_LIMIT;
    log_setup("mikura", LOG_ERROR);
    /* a peer or a reader of stdout that has gone is an error code, not the end */
    (void)signal(SIGPIPE, SIG_IGN);
    rc = cli_parse(c, argc, argv, storage, &ask, &c->err);
    if (rc != RC_OK) {
        code = cli_fail(c, rc);
    } else if (ask == CLI_HELP) {
        cli_help(stdout);
    } else if (ask == CLI_HELP_COMMAND) {
        cli_help_command(stdout, c->cmd);
    } else if (ask == CLI_VERSION) {
        (void)printf(c->json ? "{\"version\":\"%s\"}\n" : "mikura %s\n", MIKURA_VERSION);
    } else {
        code = command_run(c);
    }
    if (out_flush() != RC_OK && code == EXIT_OK) code = EXIT_BUG;
    free(storage);
    free(c);
    return code;
}
