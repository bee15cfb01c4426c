/* common/fiber/fiber.h - stackful fibers on one libuv loop, so that a request that waits for the
 * network five times is written as one function.
 *
 * A fiber runs on the loop's thread until it waits; nothing else runs meanwhile, so state needs no
 * lock but may have changed after every wait. Waking puts a fiber on the loop's ready list; it runs
 * from the loop, never inside the call that woke it. Pure cores stay cores: fibers are for shells.
 *
 * Each fiber has FIBER_STACK_BYTES with a guard page below it: no large arrays on the stack. */
#pragma once
#include "common/base/list.h"
#include "common/base/rc.h"
#include <uv.h>

#ifdef __SANITIZE_ADDRESS__
#define FIBER_STACK_BYTES (512u << 10) /* instrumented frames are several times larger */
#else
#define FIBER_STACK_BYTES (128u << 10)
#endif
#define FIBERS_MAX 16384u

struct fiber;
struct fibers; /* of one loop */

MUST_CHECK enum rc fibers_open(uv_loop_t *loop, struct fibers **ret_fibers);
/* No fiber may be left; releases the loop's handles (the loop must run once more). */
void fibers_close(struct fibers *fs);
uint32_t fibers_running(const struct fibers *fs);
uv_loop_t *fibers_loop(const struct fibers *fs);

/* Starts fn(arg) from the loop's ready list, later. RC_NOMEM, RC_BUSY (FIBERS_MAX). */
MUST_CHECK enum rc fiber_spawn(struct fibers *fs, void (*fn)(void *arg), void *arg);
struct fiber *fiber_self(void);    /* NULL outside of fibers */
struct fibers *fiber_fibers(void); /* of the running fiber; CHECKs that there is one */

/* A flag that one fiber waits for. Zero-initialised. Set may come before the wait. */
struct fiber_event {
    struct fiber *waiter;
    bool set;
};
void fiber_event_set(struct fiber_event *e);
void fiber_event_wait(struct fiber_event *e); /* clears the flag */
/* RC_OK, or RC_DEADLINE after timeout_ms; UINT64_MAX = none. */
MUST_CHECK enum rc fiber_event_wait_ms(struct fiber_event *e, uint64_t timeout_ms);

/* A place where any number wait until something may have changed. */
struct fiber_cond {
    struct list waiters;
};
void fiber_cond_init(struct fiber_cond *c);
void fiber_cond_wait(struct fiber_cond *c);
MUST_CHECK enum rc fiber_cond_wait_ms(struct fiber_cond *c, uint64_t timeout_ms);
void fiber_cond_broadcast(struct fiber_cond *c);

/* Counted units of something scarce, first come first served. */
struct fiber_sem {
    uint64_t free;
    struct fiber_cond cond;
    uint64_t next_ticket, serving;
};
void fiber_sem_init(struct fiber_sem *s, uint64_t units);
void fiber_sem_take(struct fiber_sem *s, uint64_t units);
void fiber_sem_give(struct fiber_sem *s, uint64_t units);

/* Children that a fiber waits for. Zero-initialised. */
struct fiber_group {
    uint32_t running;
    struct fiber_event done;
};
/* fn runs in its own fiber; the group must outlive fiber_group_wait. */
MUST_CHECK enum rc fiber_group_spawn(struct fiber_group *g, void (*fn)(void *arg), void *arg);
void fiber_group_wait(struct fiber_group *g);

void fiber_yield(void); /* lets those that are ready run first */
void fiber_sleep_ms(uint64_t ms);
/* fn(arg) on libuv's thread pool; returns when it did. RC_NOMEM: fn was not called. */
MUST_CHECK enum rc fiber_work(void (*fn)(void *arg), void *arg);
