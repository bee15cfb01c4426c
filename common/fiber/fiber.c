/* common/fiber/fiber.c - see fiber.h.
 *
 * ucontext does the switch: two sigprocmask calls each, about 0.3 us, which is nothing beside a
 * request. Invariants: a fiber is on the ready list, or running, or waits in exactly one place.
 * Stacks are kept for reuse (STACKS_KEPT). The sanitizers are told of each switch. */
#include "common/fiber/fiber.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define STACKS_KEPT 64u

struct fiber {
    struct list link; /* ready list, or a cond's waiters */
    struct fibers *fs;
    ucontext_t ctx;
    uint8_t *stack; /* guard page first */
    size_t stack_bytes;
    void (*fn)(void *arg);
    void *arg;
    bool ready, done, timed_out;
    struct fiber_group *group;
#ifdef __SANITIZE_ADDRESS__
    void *fake;
#endif
#ifdef __SANITIZE_THREAD__
    void *tsan;
#endif
};
struct fibers {
    uv_loop_t *loop;
    uv_check_t check;
    uv_prepare_t prepare;
    uv_idle_t idle;
    bool idle_on;
    struct list ready;
    struct list kept; /* finished fibers with their stacks */
    uint32_t kept_n, running_n;
    ucontext_t main_ctx;
    uint32_t handles_open;
#ifdef __SANITIZE_ADDRESS__
    void *main_fake;
    const void *main_bottom;
    size_t main_size;
#endif
#ifdef __SANITIZE_THREAD__
    void *main_tsan;
#endif
};
static _Thread_local struct fiber *current;

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void fiber_free(struct fiber *f)
{
#ifdef __SANITIZE_THREAD__
    __tsan_destroy_fiber(f->tsan);
#endif
    munmap(f->stack, f->stack_bytes);
    free(f);
}

static struct fiber *fiber_alloc(struct fibers *fs)
{
    struct fiber *f;

    if (!list_empty(&fs->kept)) {
        f = CONTAINER_OF(fs->kept.next, struct fiber, link);
        list_remove(&f->link);
        fs->kept_n--;
        return f;
    }
    f = calloc(1, sizeof *f);
    if (f == NULL) return NULL;
    f->stack_bytes = FIBER_STACK_BYTES + page_bytes();
    f->stack = mmap(NULL, f->stack_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (f->stack == MAP_FAILED) {
        free(f);
        return NULL;
    }
    if (mprotect(f->stack, page_bytes(), PROT_NONE) != 0) {
        munmap(f->stack, f->stack_bytes);
        free(f);
        return NULL;
    }
#ifdef __SANITIZE_THREAD__
    f->tsan = __tsan_create_fiber(0);
#endif
    list_init(&f->link);
    return f;
}

/* From a fiber to the loop. */
static void switch_out(struct fiber *f)
{
    struct fibers *fs = f->fs;

    current = NULL;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(f->done ? NULL : &f->fake, fs->main_bottom, fs->main_size);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(fs->main_tsan, 0);
#endif
    CHECK(swapcontext(&f->ctx, &fs->main_ctx) == 0);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f->fake, &fs->main_bottom, &fs->main_size);
#endif
    current = f;
}

static void entry(unsigned hi, unsigned lo)
{
    struct fiber *f = (struct fiber *)(((uintptr_t)hi << 32) | (uintptr_t)lo);

#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(NULL, &f->fs->main_bottom, &f->fs->main_size);
#endif
    current = f;
    f->fn(f->arg);
    f->done = true;
    switch_out(f);
    CHECK(!f->done); /* never comes here: a finished fiber is not switched to */
}

static void switch_in(struct fiber *f)
{
    struct fibers *fs = f->fs;

#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fs->main_fake, f->stack + page_bytes(), FIBER_STACK_BYTES);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(f->tsan, 0);
#endif
    CHECK(swapcontext(&fs->main_ctx, &f->ctx) == 0);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fs->main_fake, NULL, NULL);
#endif
    current = NULL;
}

static void idle_cb(uv_idle_t *h)
{
    (void)h; /* its being active keeps the poll from blocking */
}

static void idle_set(struct fibers *fs, bool on)
{
    if (on == fs->idle_on) return;
    fs->idle_on = on;
    if (on) {
        CHECK(uv_idle_start(&fs->idle, idle_cb) == 0);
    } else {
        CHECK(uv_idle_stop(&fs->idle) == 0);
    }
}

/* Runs what was ready when it began: a fiber that yields to itself can't starve the loop. */
static void run_ready(struct fibers *fs)
{
    struct list batch;

    CHECK(current == NULL);
    if (list_empty(&fs->ready)) {
        idle_set(fs, false);
        return;
    }
    batch = fs->ready;
    batch.next->prev = &batch;
    batch.prev->next = &batch;
    list_init(&fs->ready);
    while (!list_empty(&batch)) {
        struct fiber *f = CONTAINER_OF(batch.next, struct fiber, link);
        struct fiber_group *g;

        list_remove(&f->link);
        f->ready = false;
        switch_in(f);
        if (!f->done) continue;
        g = f->group;
        fs->running_n--;
        if (fs->kept_n < STACKS_KEPT) {
            list_push_front(&fs->kept, &f->link);
            fs->kept_n++;
        } else {
            fiber_free(f);
        }
        if (g != NULL && --g->running == 0) fiber_event_set(&g->done);
    }
    idle_set(fs, !list_empty(&fs->ready));
}

static void check_cb(uv_check_t *h)
{
    run_ready(h->data);
}

static void prepare_cb(uv_prepare_t *h)
{
    run_ready(h->data);
}

enum rc fibers_open(uv_loop_t *loop, struct fibers **ret_fibers)
{
    struct fibers *fs = calloc(1, sizeof *fs);

    if (fs == NULL) return RC_NOMEM;
    fs->loop = loop;
    list_init(&fs->ready);
    list_init(&fs->kept);
    CHECK(uv_check_init(loop, &fs->check) == 0);
    CHECK(uv_prepare_init(loop, &fs->prepare) == 0);
    CHECK(uv_idle_init(loop, &fs->idle) == 0);
    fs->check.data = fs->prepare.data = fs->idle.data = fs;
    fs->handles_open = 3;
    CHECK(uv_check_start(&fs->check, check_cb) == 0);
    CHECK(uv_prepare_start(&fs->prepare, prepare_cb) == 0);
    /* They alone do not keep a loop running; a ready fiber's idle handle does. */
    uv_unref((uv_handle_t *)&fs->check);
    uv_unref((uv_handle_t *)&fs->prepare);
#ifdef __SANITIZE_THREAD__
    fs->main_tsan = __tsan_get_current_fiber();
#endif
    *ret_fibers = fs;
    return RC_OK;
}

static void closed_cb(uv_handle_t *h)
{
    struct fibers *fs = h->data;

    if (--fs->handles_open == 0) free(fs);
}

void fibers_close(struct fibers *fs)
{
    if (fs == NULL) return;
    CHECK(fs->running_n == 0);
    while (!list_empty(&fs->kept)) {
        struct fiber *f = CONTAINER_OF(fs->kept.next, struct fiber, link);

        list_remove(&f->link);
        fiber_free(f);
    }
    uv_close((uv_handle_t *)&fs->check, closed_cb);
    uv_close((uv_handle_t *)&fs->prepare, closed_cb);
    uv_close((uv_handle_t *)&fs->idle, closed_cb);
}

uint32_t fibers_running(const struct fibers *fs)
{
    return fs->running_n;
}

uv_loop_t *fibers_loop(const struct fibers *fs)
{
    return fs->loop;
}

struct fiber *fiber_self(void)
{
    return current;
}

struct fibers *fiber_fibers(void)
{
    CHECK(current != NULL);
    return current->fs;
}

static void make_ready(struct fiber *f)
{
    CHECK(!f->ready && !f->done);
    f->ready = true;
    list_push_back(&f->fs->ready, &f->link);
    idle_set(f->fs, true);
}

/* Apart, since getcontext may return twice as far as a compiler knows. */
static void context_init(struct fiber *f)
{
    CHECK(getcontext(&f->ctx) == 0);
    f->ctx.uc_stack.ss_sp = f->stack + page_bytes();
    f->ctx.uc_stack.ss_size = FIBER_STACK_BYTES;
    f->ctx.uc_link = NULL;
    makecontext(&f->ctx, (void (*)(void))(void *)entry, 2, (unsigned)((uintptr_t)f >> 32),
                (unsigned)((uintptr_t)f & 0xffffffffu));
}

static enum rc spawn(struct fibers *fs, void (*fn)(void *arg), void *arg, struct fiber_group *g)
{
    struct fiber *f;

    if (fs->running_n >= FIBERS_MAX) return RC_BUSY;
    f = fiber_alloc(fs);
    if (f == NULL) return RC_NOMEM;
    f->fs = fs;
    f->fn = fn;
    f->arg = arg;
    f->done = f->ready = false;
    f->group = g;
    context_init(f);
    fs->running_n++;
    make_ready(f);
    return RC_OK;
}

enum rc fiber_spawn(struct fibers *fs, void (*fn)(void *arg), void *arg)
{
    return spawn(fs, fn, arg, NULL);
}

void fiber_event_set(struct fiber_event *e)
{
    struct fiber *f = e->waiter;

    e->set = true;
    if (f == NULL) return;
    e->waiter = NULL;
    make_ready(f);
}

void fiber_event_wait(struct fiber_event *e)
{
    enum rc rc = fiber_event_wait_ms(e, UINT64_MAX);

    CHECK(rc == RC_OK);
}

/* A timeout is an own heap handle, since libuv closes later than we may return. */
struct timeout {
    uv_timer_t timer;
    struct fiber *f; /* NULL: the wait has ended */
    struct fiber_event *event;
};

static void timeout_closed(uv_handle_t *h)
{
    free(h->data);
}

static void timeout_cb(uv_timer_t *h)
{
    struct timeout *t = h->data;

    if (t->f == NULL) return;
    if (t->event != NULL) t->event->waiter = NULL;
    if (!t->f->ready) {
        list_remove(&t->f->link); /* from a cond's waiters, or from nothing */
        t->f->timed_out = true;
        make_ready(t->f);
    }
    t->f = NULL;
}

static struct timeout *timeout_start(struct fiber *f, struct fiber_event *e, uint64_t ms)
{
    struct timeout *t = calloc(1, sizeof *t);

    if (t == NULL) return NULL;
    t->f = f;
    t->event = e;
    CHECK(uv_timer_init(f->fs->loop, &t->timer) == 0);
    t->timer.data = t;
    CHECK(uv_timer_start(&t->timer, timeout_cb, ms, 0) == 0);
    return t;
}

static void timeout_stop(struct timeout *t)
{
    t->f = NULL;
    uv_close((uv_handle_t *)&t->timer, timeout_closed);
}

enum rc fiber_event_wait_ms(struct fiber_event *e, uint64_t timeout_ms)
{
    struct fiber *f = current;
    struct timeout *t = NULL;

    CHECK(f != NULL && e->waiter == NULL);
    if (!e->set) {
        if (timeout_ms != UINT64_MAX) {
            t = timeout_start(f, e, timeout_ms);
            if (t == NULL) return RC_DEADLINE; /* no memory for a timer: do not wait for ever */
        }
        f->timed_out = false;
        e->waiter = f;
        switch_out(f);
        if (t != NULL) timeout_stop(t);
        if (!e->set) {
            CHECK(f->timed_out);
            return RC_DEADLINE;
        }
    }
    e->set = false;
    return RC_OK;
}

void fiber_cond_init(struct fiber_cond *c)
{
    list_init(&c->waiters);
}

enum rc fiber_cond_wait_ms(struct fiber_cond *c, uint64_t timeout_ms)
{
    struct fiber *f = current;
    struct timeout *t = NULL;

    CHECK(f != NULL);
    if (timeout_ms != UINT64_MAX) {
        t = timeout_start(f, NULL, timeout_ms);
        if (t == NULL) return RC_DEADLINE;
    }
    f->timed_out = false;
    list_push_back(&c->waiters, &f->link);
    switch_out(f);
    if (t != NULL) timeout_stop(t);
    return f->timed_out ? RC_DEADLINE : RC_OK;
}

void fiber_cond_wait(struct fiber_cond *c)
{
    enum rc rc = fiber_cond_wait_ms(c, UINT64_MAX);

    CHECK(rc == RC_OK);
}

void fiber_cond_broadcast(struct fiber_cond *c)
{
    while (!list_empty(&c->waiters)) {
        struct fiber *f = CONTAINER_OF(c->waiters.next, struct fiber, link);

        list_remove(&f->link);
        make_ready(f);
    }
}

void fiber_sem_init(struct fiber_sem *s, uint64_t units)
{
    s->free = units;
    s->next_ticket = s->serving = 0;
    fiber_cond_init(&s->cond);
}

void fiber_sem_take(struct fiber_sem *s, uint64_t units)
{
    uint64_t ticket = s->next_ticket++;

    while (ticket != s->serving || s->free < units)
        fiber_cond_wait(&s->cond);
    s->serving++;
    s->free -= units;
    fiber_cond_broadcast(&s->cond); /* the next ticket may fit too */
}

void fiber_sem_give(struct fiber_sem *s, uint64_t units)
{
    s->free += units;
    fiber_cond_broadcast(&s->cond);
}

enum rc fiber_group_spawn(struct fiber_group *g, void (*fn)(void *arg), void *arg)
{
    enum rc rc = spawn(fiber_fibers(), fn, arg, g);

    if (rc == RC_OK) g->running++;
    return rc;
}

void fiber_group_wait(struct fiber_group *g)
{
    while (g->running > 0)
        fiber_event_wait(&g->done);
    g->done.set = false;
}

void fiber_yield(void)
{
    CHECK(current != NULL);
    make_ready(current);
    switch_out(current);
}

void fiber_sleep_ms(uint64_t ms)
{
    struct fiber_event never = {0};
    enum rc rc = fiber_event_wait_ms(&never, ms);

    CHECK(rc == RC_DEADLINE); /* nobody else knows this event */
}

struct work {
    uv_work_t req;
    void (*fn)(void *arg);
    void *arg;
    struct fiber_event done;
};

static void work_cb(uv_work_t *r)
{
    struct work *w = r->data;

    w->fn(w->arg);
}

static void work_done(uv_work_t *r, int status)
{
    struct work *w = r->data;

    CHECK(status == 0); /* never cancelled */
    fiber_event_set(&w->done);
}

enum rc fiber_work(void (*fn)(void *arg), void *arg)
{
    struct work w = {.fn = fn, .arg = arg};

    w.req.data = &w;
    if (uv_queue_work(fiber_fibers()->loop, &w.req, work_cb, work_done) != 0) return RC_NOMEM;
    fiber_event_wait(&w.done);
    return RC_OK;
}
