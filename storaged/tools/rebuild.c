/* storaged/tools/rebuild.c - the index made again from the segments alone: by the start itself,
 * after the old one was moved away. Can be repeated after a crash: a start without an index does
 * the same.
 */
#include "storaged/store/store.h"
#include "storaged/store/store_dir.h"
#include "storaged/tools/tools.h"
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static enum rc reopen(const char *dir, uint64_t *ret_n, struct err *reterr)
{
    uv_loop_t loop;
    struct store_conf conf = {.loop = &loop, .dir = dir, .engine = DISK_PREAD};
    struct store_status st;
    struct store *store;
    bool closed = false;
    enum rc rc;

    CHECK(uv_loop_init(&loop) == 0);
    rc = store_open(&conf, &store, reterr);
    if (rc == RC_OK) {
        store_status(store, &st);
        *ret_n = st.replayed_n;
        store_close(store, on_closed, &closed);
        while (!closed)
            (void)uv_run(&loop, UV_RUN_ONCE);
    }
    CHECK(uv_loop_close(&loop) == 0);
    return rc;
}

int tool_rebuild(const struct tool_args *args)
{
    struct err err = {0};
    struct id128 id;
    uint64_t n = 0;
    int lock_fd = -1;
    enum rc rc = store_dir_lock(args->dir, &lock_fd, &id, &err);

    if (rc == RC_OK) rc = store_dir_index_away(args->dir, &err);
    if (lock_fd >= 0) (void)close(lock_fd); /* the start takes it again */
    if (rc == RC_OK) {
        rc = reopen(args->dir, &n, &err);
        if (rc != RC_OK)
            (void)fprintf(stderr,
                          "the index is in '%s/index.old': move it back before another try\n",
                          args->dir);
    }
    if (rc != RC_OK) {
        (void)fprintf(stderr, "storaged rebuild-index: %s\n", err.msg);
        return TOOL_REFUSED;
    }
    (void)printf("rebuilt from %" PRIu64 " records; the old index is in '%s/index.old': remove it "
                 "when the disk's replicas are in sync again\n",
                 n, args->dir);
    return TOOL_OK;
}
