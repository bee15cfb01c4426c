/* common/fiber/worker.h - one thread that does a loop's blocking work in order.
 *
 * libuv's pool wakes a thread, and the loop, for each piece of work; here both are woken once for
 * whatever has gathered. Calls from the loop's thread only; callbacks come from the loop, in the
 * order of the calls, never inside one. */
#pragma once
#include "common/base/list.h"
#include "common/base/rc.h"
#include <uv.h>

struct worker;
/* The caller's memory until done was called. */
struct worker_job {
    void (*fn)(struct worker_job *job);   /* on the thread */
    void (*done)(struct worker_job *job); /* on the loop; may free the job, may queue others */
    struct list link;
};
/* Holds the loop open until it is closed. RC_NOMEM: no memory or no thread. */
MUST_CHECK enum rc worker_open(uv_loop_t *loop, struct worker **ret_worker);
void worker_queue(struct worker *w, struct worker_job *job);
/* fn(arg) there; the fiber waits for it. */
void worker_run(struct worker *w, void (*fn)(void *arg), void *arg);
/* Nothing may be queued any more; waits for the thread. NULL is fine. */
void worker_close(struct worker *w);
