/* common/fiber/worker.c - two lists under one mutex.
 *
 * The thread sleeps only when `todo` is empty, so the loop signals only then; uv_async_send folds
 * what is done while the loop is busy into one wake-up. */
#include "common/fiber/worker.h"
#include "common/fiber/fiber.h"
#include <stdlib.h>

struct worker {
    uv_async_t async;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t cond;
    struct list todo, done; /* under lock */
    bool sleeping, stop;    /* likewise */
    uint32_t pending_n;     /* the loop's: queued, done not called yet */
};

static void run(void *arg)
{
    struct worker *w = arg;

    uv_mutex_lock(&w->lock);
    for (;;) {
        struct worker_job *job;

        while (list_empty(&w->todo) && !w->stop) {
            w->sleeping = true;
            uv_cond_wait(&w->cond, &w->lock);
            w->sleeping = false;
        }
        if (list_empty(&w->todo)) break;
        job = CONTAINER_OF(w->todo.next, struct worker_job, link);
        list_remove(&job->link);
        uv_mutex_unlock(&w->lock);
        job->fn(job);
        uv_mutex_lock(&w->lock);
        list_push_back(&w->done, &job->link);
        CHECK(uv_async_send(&w->async) == 0);
    }
    uv_mutex_unlock(&w->lock);
}

static void on_done(uv_async_t *async)
{
    struct worker *w = async->data;
    struct list done;

    list_init(&done);
    uv_mutex_lock(&w->lock);
    while (!list_empty(&w->done)) {
        struct list *it = w->done.next;

        list_remove(it);
        list_push_back(&done, it);
    }
    uv_mutex_unlock(&w->lock);
    while (!list_empty(&done)) {
        struct worker_job *job = CONTAINER_OF(done.next, struct worker_job, link);

        list_remove(&job->link);
        w->pending_n--;
        job->done(job);
    }
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

enum rc worker_open(uv_loop_t *loop, struct worker **ret_worker)
{
    struct worker *w = calloc(1, sizeof *w);

    if (w == NULL) return RC_NOMEM;
    list_init(&w->todo);
    list_init(&w->done);
    if (uv_mutex_init(&w->lock) != 0) goto no_lock;
    if (uv_cond_init(&w->cond) != 0) goto no_cond;
    w->async.data = w;
    if (uv_async_init(loop, &w->async, on_done) != 0) goto no_async;
    if (uv_thread_create(&w->thread, run, w) != 0) {
        uv_mutex_destroy(&w->lock);
        uv_cond_destroy(&w->cond);
        uv_close((uv_handle_t *)&w->async, on_closed);
        return RC_NOMEM;
    }
    *ret_worker = w;
    return RC_OK;
no_async:
    uv_cond_destroy(&w->cond);
no_cond:
    uv_mutex_destroy(&w->lock);
no_lock:
    free(w);
    return RC_NOMEM;
}

void worker_queue(struct worker *w, struct worker_job *job)
{
    bool wake;

    w->pending_n++;
    uv_mutex_lock(&w->lock);
    CHECK(!w->stop);
    list_push_back(&w->todo, &job->link);
    wake = w->sleeping;
    uv_mutex_unlock(&w->lock);
    if (wake) uv_cond_signal(&w->cond);
}

struct waiting {
    struct worker_job job;
    void (*fn)(void *arg);
    void *arg;
    struct fiber_event done;
};

static void waiting_run(struct worker_job *job)
{
    struct waiting *x = CONTAINER_OF(job, struct waiting, job);

    x->fn(x->arg);
}

static void waiting_done(struct worker_job *job)
{
    fiber_event_set(&CONTAINER_OF(job, struct waiting, job)->done);
}

void worker_run(struct worker *w, void (*fn)(void *arg), void *arg)
{
    struct waiting x = {.job = {.fn = waiting_run, .done = waiting_done}, .fn = fn, .arg = arg};

    worker_queue(w, &x.job);
    fiber_event_wait(&x.done);
}

void worker_close(struct worker *w)
{
    if (w == NULL) return;
    CHECK(w->pending_n == 0);
    uv_mutex_lock(&w->lock);
    w->stop = true;
    uv_mutex_unlock(&w->lock);
    uv_cond_signal(&w->cond);
    CHECK(uv_thread_join(&w->thread) == 0);
    uv_mutex_destroy(&w->lock);
    uv_cond_destroy(&w->cond);
    uv_close((uv_handle_t *)&w->async, on_closed);
}
