/* storaged/store/store_wait.c - see store_wait.h. */
#include "storaged/store/store_wait.h"
#include "common/fiber/fiber.h"

struct wait {
    struct fiber_event done;
    enum rc rc;
};

static void done(struct wait *w, enum rc rc)
{
    w->rc = rc;
    fiber_event_set(&w->done);
}

static void on_read(struct seglog_read *r, enum rc rc)
{
    done(r->data, rc);
}

static void on_append(struct store_append *a, enum rc rc)
{
    done(a->data, rc);
}

/* rc: of the call. */
static enum rc outcome(struct wait *w, enum rc rc)
{
    if (rc != RC_OK) return rc;
    fiber_event_wait(&w->done);
    return w->rc;
}

enum rc store_read_wait(struct store *s, struct seglog_read *r, const struct seg_location *loc,
                        uint32_t first, uint32_t n, void *buf, size_t cap)
{
    struct wait w = {0};

    r->data = &w;
    return outcome(&w, store_read(s, r, loc, first, n, buf, cap, on_read));
}

enum rc store_chunk_write_wait(struct store *s, struct store_append *a, const struct store_chunk *c)
{
    struct wait w = {0};

    a->data = &w;
    return outcome(&w, store_chunk_write(s, a, c, on_append));
}

enum rc store_log_append_wait(struct store *s, struct store_append *a, const struct index_group *g,
                              uint64_t config, uint64_t epoch, uint64_t index, struct slice entry)
{
    struct wait w = {0};

    a->data = &w;
    return outcome(&w, store_log_append(s, a, g, config, epoch, index, entry, on_append));
}
