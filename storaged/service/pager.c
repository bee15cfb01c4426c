/* storaged/service/pager.c - a group's state page by page, all pages of one RocksDB snapshot.
 *
 * The index offers one call that walks a snapshot; pages are wanted when somebody asks. So the walk
 * has a thread of its own that waits between pages (libuv's pool would be used up by slow readers);
 * SD_PAGERS_MAX bounds the threads and SD_PAGER_IDLE_MS their waits. */
#include "common/base/clock.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

struct pager {
    struct sd *sd;
    struct sd_group *g;
    uint8_t *from, *until;
    uint32_t from_n, until_n;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t cond;   /* the thread waits: a page is wanted, or closed */
    uv_async_t async; /* the fiber waits: a page is there, or the thread ends */
    struct fiber_event there;
    /* under lock */
    bool wanted, ready, closed, ended;
    struct pager_page page, given;
    uint8_t *buf;
    uint32_t buf_n;
    struct index_applied applied;
};

static void async_closed(uv_handle_t *h)
{
    struct pager *p = h->data;
    struct sd *sd = p->sd;

    uv_mutex_destroy(&p->lock);
    uv_cond_destroy(&p->cond);
    free(p->from);
    free(p->until);
    free(p->buf);
    free(p);
    sd->pagers_n--;
    sd_work_end(sd);
}

static void on_async(uv_async_t *h)
{
    struct pager *p = h->data;
    bool ended, closed;

    uv_mutex_lock(&p->lock);
    ended = p->ended;
    closed = p->closed;
    uv_mutex_unlock(&p->lock);
    fiber_event_set(&p->there);
    if (!ended || !closed || uv_is_closing((uv_handle_t *)h)) return;
    CHECK(uv_thread_join(&p->thread) == 0);
    uv_close((uv_handle_t *)h, async_closed);
}

/* In the thread: hand over what is collected, wait until more is wanted. False: closed. */
static bool hand_over(struct pager *p, bool done, enum rc rc, const struct err *e)
{
    bool go_on = true;

    uv_mutex_lock(&p->lock);
    while (!p->wanted && !p->closed)
        uv_cond_wait(&p->cond, &p->lock);
    if (p->closed) {
        go_on = false;
    } else {
        p->page = (struct pager_page){
            .p = p->buf, .n = p->buf_n, .done = done, .rc = rc, .index = p->applied.index};
        if (rc != RC_OK) p->page.err = *e;
        p->wanted = false;
        p->ready = true;
        CHECK(uv_async_send(&p->async) == 0);
        while (!done && !p->wanted && !p->closed) {
            /* the page is read until the next one is wanted; a reader that went away holds a
             * snapshot, so not for ever */
            if (uv_cond_timedwait(&p->cond, &p->lock, SD_PAGER_IDLE_MS * 1000000ull) != 0) break;
        }
        go_on = !done && p->wanted && !p->closed;
    }
    uv_mutex_unlock(&p->lock);
    p->buf_n = 0;
    return go_on;
}

static enum rc each(void *ctx, struct slice key, struct slice value)
{
    struct pager *p = ctx;

    if (replica_row_put(p->buf, REPLICA_SNAP_BYTES_MAX, &p->buf_n, key, value) &&
        (p->buf_n < SD_SCAN_BYTES))
        return RC_OK;
    if (p->buf_n < SD_SCAN_BYTES) { /* this row did not fit: a page before it */
        if (!hand_over(p, false, RC_OK, NULL)) return RC_CANCELED;
        CHECK(replica_row_put(p->buf, REPLICA_SNAP_BYTES_MAX, &p->buf_n, key, value));
        if (p->buf_n < SD_SCAN_BYTES) return RC_OK;
    }
    return hand_over(p, false, RC_OK, NULL) ? RC_OK : RC_CANCELED;
}

static void thread_main(void *arg)
{
    struct pager *p = arg;
    struct err err = {0};
    enum rc rc = index_state_scan(store_index(p->g->disk->store), &p->g->ix,
                                  (struct slice){p->from, p->from_n},
                                  (struct slice){p->until, p->until_n}, each, p, &p->applied, &err);

    if (rc != RC_CANCELED) {
        (void)hand_over(p, true, rc, &err);
    } else {
        (void)err_set(&err, RC_DEADLINE, "the reader of a scan took too long");
        uv_mutex_lock(&p->lock);
        p->page = (struct pager_page){.done = true, .rc = RC_DEADLINE, .err = err};
        p->ready = true;
        uv_mutex_unlock(&p->lock);
    }
    uv_mutex_lock(&p->lock);
    while (!p->closed)
        uv_cond_wait(&p->cond, &p->lock);
    p->ended = true;
    CHECK(uv_async_send(&p->async) == 0); /* under the lock: p may be gone right after */
    uv_mutex_unlock(&p->lock);
}

enum rc pager_open(struct sd_group *g, struct slice from, struct slice until,
                   struct pager **ret_pager)
{
    struct sd *sd = g->sd;
    struct pager *p;

    if (sd->pagers_n >= SD_PAGERS_MAX || sd->stopping) return RC_BUSY;
    p = calloc(1, sizeof *p);
    if (p == NULL) return RC_NOMEM;
    p->sd = sd;
    p->g = g;
    p->from = malloc(from.n + 1);
    p->until = malloc(until.n + 1);
    p->buf = malloc(REPLICA_SNAP_BYTES_MAX);
    if (p->from == NULL || p->until == NULL || p->buf == NULL) goto fail;
    if (from.n > 0) memcpy(p->from, from.p, from.n);
    if (until.n > 0) memcpy(p->until, until.p, until.n);
    p->from_n = (uint32_t)from.n;
    p->until_n = (uint32_t)until.n;
    CHECK(uv_mutex_init(&p->lock) == 0 && uv_cond_init(&p->cond) == 0);
    CHECK(uv_async_init(sd->loop, &p->async, on_async) == 0);
    p->async.data = p;
    sd->pagers_n++;
    sd->work_n++;
    if (uv_thread_create(&p->thread, thread_main, p) != 0) {
        uv_close((uv_handle_t *)&p->async, async_closed);
        return RC_NOMEM;
    }
    *ret_pager = p;
    return RC_OK;
fail:
    free(p->from);
    free(p->until);
    free(p->buf);
    free(p);
    return RC_NOMEM;
}

void pager_next(struct pager *p, const struct pager_page **ret_page)
{
    bool ready = false;

    uv_mutex_lock(&p->lock);
    if (!p->page.done) {
        p->ready = false;
        p->wanted = true;
    }
    uv_cond_signal(&p->cond);
    uv_mutex_unlock(&p->lock);
    while (!ready) {
        uv_mutex_lock(&p->lock);
        ready = p->ready;
        if (ready) p->given = p->page;
        uv_mutex_unlock(&p->lock);
        if (!ready) fiber_event_wait(&p->there);
    }
    *ret_page = &p->given;
}

void pager_close(struct pager *p)
{
    if (p == NULL) return;
    uv_mutex_lock(&p->lock);
    p->closed = true;
    uv_cond_signal(&p->cond);
    uv_mutex_unlock(&p->lock);
}
