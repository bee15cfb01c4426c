/* computed/worker/worker.h - pulls tasks, runs their items in child processes, reports outcomes.
 *
 * `slots` fibers each hold one task at a time and one child for it. A task's lease is renewed at a
 * third of its length; when it is lost, by the gateway's word or by our own clock, the task is
 * dropped without a report: another attempt owns it. So kill -9 loses nothing: leases expire.
 *
 * Memory: a slot takes its child (address_bytes_max at most) and here FETCH_WINDOWS windows, the
 * frame of WIRE_READ_MAX and the task's message (inline objects: 64 KiB each). */
#pragma once
#include "computed/fetch/fetch.h"
#include "computed/worker/gateways.h"
#include "computed/worker/models.h"
#include "computed/worker/runner.h"

#define WORKER_SLOTS_MAX 64u
#define WORKER_POLL_MS   10000u

struct worker;
struct worker_conf {
    struct fibers *fs;
    struct gateways *gateways;
    struct fetch *fetch;
    struct models *models;
    struct runner_conf runner;
    const char *uri; /* of our certificate */
    const char *zone, *rack, *host;
    const char *device; /* "cpu (oneDNN 2.6.3)"; not "cpu...": a GPU */
    uint32_t slots;
};
/* Strings are borrowed until worker_close. Slots start at once. */
MUST_CHECK enum rc worker_open(const struct worker_conf *conf, struct worker **ret_worker,
                               struct err *reterr);
/* From a fiber: pulls no more, gives what runs grace_ms to end, cancels the rest, returns when all
 * slots have ended, and frees it. NULL: nothing. */
void worker_close(struct worker *w, uint64_t grace_ms);
