/* storaged/tools/tools.c - arguments, and what the tools share. */
#include "storaged/tools/tools.h"
#include "storaged/store/store_dir.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct tool {
    const char *name, *args, *help;
    int (*run)(const struct tool_args *args);
    bool segment, json;
} TOOLS[] = {
    {"check", "--dir DIR [--json]",
     "reads every byte of a disk's segments and index and changes nothing; exit code 0: all is as "
     "it was written, 1: faults were found, 3: it could not look",
     tool_check, .json = true},
    {"dump", "--dir DIR [--segment ID] [--json]",
     "prints the headers of segments and records, never their payload; exit code 0, or 3",
     tool_dump, .segment = true, .json = true},
    {"rebuild-index", "--dir DIR",
     "moves DIR/index to DIR/index.old and makes it again from the segments alone; its replicas "
     "then rejoin as damaged and take their state from the others; exit code 0, or 3",
     tool_rebuild, .json = false},
};

static int usage(const struct tool *t, const char *why)
{
    if (why != NULL) (void)fprintf(stderr, "storaged %s: %s\n", t->name, why);
    (void)fprintf(why != NULL ? stderr : stdout, "usage: storaged %s %s\n  %s\n", t->name, t->args,
                  t->help);
    return why != NULL ? TOOL_USAGE : TOOL_OK;
}

static int run(const struct tool *t, int argc, char **argv)
{
    struct tool_args a = {0};

    for (int i = 1; i < argc; i++) {
        char *end;

        if (strcmp(argv[i], "--help") == 0) return usage(t, NULL);
        if (t->json && strcmp(argv[i], "--json") == 0) {
            a.json = true;
        } else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
            a.dir = argv[++i];
        } else if (t->segment && strcmp(argv[i], "--segment") == 0 && i + 1 < argc) {
            a.segment = strtoull(argv[++i], &end, 16);
            if (a.segment == 0 || (*end != 0 && strcmp(end, ".seg") != 0))
                return usage(t, "--segment wants a segment's number, 16 hex digits");
        } else {
            return usage(t, "an argument that it does not know");
        }
    }
    if (a.dir == NULL) return usage(t, "--dir is needed: the folder of one disk");
    return t->run(&a);
}

bool tool_run(int argc, char **argv, int *ret_exit)
{
    for (size_t i = 0; i < ARRAY_N(TOOLS); i++) {
        if (strcmp(argv[0], TOOLS[i].name) != 0) continue;
        *ret_exit = run(&TOOLS[i], argc, argv);
        return true;
    }
    return false;
}

enum rc tool_disk_open(const char *dir, struct tool_disk *ret_d, struct err *reterr)
{
    char path[1024];
    struct disk_conf conf = {.dir = path, .engine = DISK_PREAD, .read_only = true};
    int n = snprintf(path, sizeof(path), "%s/segments", dir);
    enum rc rc;

    *ret_d = (struct tool_disk){.lock_fd = -1};
    if (n < 0 || (size_t)n >= sizeof(path)) return err_set(reterr, RC_INVAL, "'%s': too long", dir);
    rc = store_dir_lock(dir, &ret_d->lock_fd, &ret_d->id, reterr);
    if (rc != RC_OK) return rc;
    CHECK(uv_loop_init(&ret_d->loop) == 0);
    conf.loop = &ret_d->loop;
    rc = disk_open(&conf, &ret_d->disk, reterr);
    if (rc == RC_OK) return RC_OK;
    CHECK(uv_loop_close(&ret_d->loop) == 0);
    (void)close(ret_d->lock_fd);
    ret_d->lock_fd = -1;
    return rc == RC_CORRUPT ? RC_IO : rc;
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

void tool_disk_close(struct tool_disk *d)
{
    bool closed = d->disk == NULL;

    if (d->disk != NULL) {
        disk_close(d->disk, on_closed, &closed);
        while (!closed)
            (void)uv_run(&d->loop, UV_RUN_ONCE);
        CHECK(uv_loop_close(&d->loop) == 0);
    }
    if (d->lock_fd >= 0) (void)close(d->lock_fd);
}

void tool_json_text(const char *text)
{
    (void)putchar('"');
    for (const char *p = text; *p != 0; p++) {
        if (*p == '"' || *p == '\\') {
            (void)printf("\\%c", *p);
        } else if ((unsigned char)*p < 0x20) {
            (void)printf("\\u%04x", (unsigned)(unsigned char)*p);
        } else {
            (void)putchar(*p);
        }
    }
    (void)putchar('"');
}
