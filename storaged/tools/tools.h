/* storaged/tools/tools.h - what an operator runs on the folder of a disk while no storaged serves
 * it: `storaged check`, `dump` and `rebuild-index`. Blocking; they print to standard output. */
#pragma once
#include "storaged/segment/seglog.h"
#include <uv.h>

#define TOOL_OK      0
#define TOOL_FAULTS  1 /* check: something is not as it was written */
#define TOOL_USAGE   2
#define TOOL_REFUSED 3 /* it could not be done: standard error says why */

struct tool_args {
    const char *dir;
    uint64_t segment; /* dump: only this one; 0 = all */
    bool json;
};
/* argv[0] is the command. *ret_exit: the process's exit code. False: no tool's name. */
bool tool_run(int argc, char **argv, int *ret_exit);

int tool_check(const struct tool_args *args);
int tool_dump(const struct tool_args *args);
int tool_rebuild(const struct tool_args *args);

/* The folder's lock and its segments, read-only. */
struct tool_disk {
    uv_loop_t loop;
    struct disk *disk;
    struct id128 id;
    int lock_fd;
};
/* RC_CORRUPT: disk.id is bad; the lock is held, there is no disk. Others: nothing is held. */
MUST_CHECK enum rc tool_disk_open(const char *dir, struct tool_disk *ret_d, struct err *reterr);
void tool_disk_close(struct tool_disk *d);
/* "text" with what JSON wants escaped. */
void tool_json_text(const char *text);
