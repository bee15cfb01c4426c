/* gateway/scheduler/scheduler_core.c - see scheduler_core.h.
 *
 * Invariants: a task's `row` is what storage holds at `version`; `next` is what the transaction
 * under way would make of it, and nothing else about the task changes until its outcome is known;
 * an item's state never leaves DONE or ASIDE. */
#include "gateway/scheduler/scheduler_core.h"

enum doing { IDLE = 0, HANDING, FINISHING, LOSING };
struct user {
    uint64_t id;    /* 0 = free */
    uint64_t vtime; /* items handed out */
    uint32_t jobs;
};
struct job {
    bool used;
    struct sched_job_in in;
    uint32_t user;
};
struct worker {
    uint32_t name_n; /* 0 = free */
    uint8_t name[SCHED_WORKER_BYTES];
    uint32_t out; /* tasks out or going out */
};
struct task {
    uint32_t job; /* SCHED_NONE = free */
    uint64_t no, version, lease_until_ms;
    enum doing doing;
    uint32_t worker, next_worker; /* SCHED_NONE: none, or not seen since the election */
    struct record_task row, next;
    uint32_t commits_n, asides_n;
    uint32_t commits[RECORD_TASK_ITEMS_MAX], asides[RECORD_TASK_ITEMS_MAX];
};
struct sched {
    struct sched_limits l;
    struct user *users; /* as many as jobs */
    struct job *jobs;
    struct worker *workers;
    struct task *tasks;
    uint32_t tasks_top; /* from here on never used, nor set */
    uint8_t key[RECORD_KEY_BYTES_MAX], bytes[16384];
};

static size_t part(size_t n, size_t size)
{
    return ROUND_UP(n * size, (size_t)16);
}

size_t sched_bytes(const struct sched_limits *l)
{
    return part(1, sizeof(struct sched)) + part(l->jobs, sizeof(struct user)) +
           part(l->jobs, sizeof(struct job)) + part(l->workers, sizeof(struct worker)) +
           part(l->tasks, sizeof(struct task));
}

struct sched *sched_init(void *mem, const struct sched_limits *l)
{
    struct sched_limits limits = *l;
    struct sched *s = mem;
    uint8_t *p = mem;

    /* not the tasks, some 30 MB: each is set when it is first used (tasks_top) */
    memset(mem, 0, sched_bytes(&limits) - part(limits.tasks, sizeof(struct task)));
    s->l = limits;
    p += part(1, sizeof(struct sched));
    s->users = (void *)p;
    p += part(limits.jobs, sizeof(struct user));
    s->jobs = (void *)p;
    p += part(limits.jobs, sizeof(struct job));
    s->workers = (void *)p;
    p += part(limits.workers, sizeof(struct worker));
    s->tasks = (void *)p;
    return s;
}

static uint32_t job_find(const struct sched *s, const struct id128 *id)
{
    for (uint32_t i = 0; i < s->l.jobs; i++) {
        if (s->jobs[i].used && id128_eq(&s->jobs[i].in.id, id)) return i;
    }
    return SCHED_NONE;
}

static struct task *task_find(struct sched *s, const struct id128 *job, uint64_t no)
{
    uint32_t j = job_find(s, job);

    for (uint32_t i = 0; j != SCHED_NONE && i < s->tasks_top; i++) {
        if (s->tasks[i].job == j && s->tasks[i].no == no) return &s->tasks[i];
    }
    return NULL;
}

static uint32_t worker_find(struct sched *s, struct slice name, bool add)
{
    uint32_t spare = SCHED_NONE;

    if (name.n == 0 || name.n >= SCHED_WORKER_BYTES) return SCHED_NONE;
    for (uint32_t i = 0; i < s->l.workers; i++) {
        struct worker *w = &s->workers[i];

        if (w->name_n == name.n && memcmp(w->name, name.p, name.n) == 0) return i;
        if (spare == SCHED_NONE && w->out == 0) spare = i; /* free, or with nothing to remember */
    }
    if (!add || spare == SCHED_NONE) return SCHED_NONE;
    s->workers[spare].name_n = (uint32_t)name.n;
    memcpy(s->workers[spare].name, name.p, name.n);
    return spare;
}

static void worker_less(struct sched *s, uint32_t w)
{
    if (w == SCHED_NONE) return;
    CHECK(s->workers[w].out > 0);
    s->workers[w].out--;
}

enum rc sched_job_add(struct sched *s, const struct sched_job_in *in)
{
    uint32_t at = SCHED_NONE, u = SCHED_NONE, spare = SCHED_NONE;
    uint64_t least = UINT64_MAX;

    CHECK(in->owner != 0);
    if (job_find(s, &in->id) != SCHED_NONE) return RC_EXISTS;
    for (uint32_t i = 0; i < s->l.jobs; i++) {
        if (at == SCHED_NONE && !s->jobs[i].used) at = i;
        if (s->users[i].id == in->owner) u = i;
        if (s->users[i].jobs > 0) least = MIN(least, s->users[i].vtime);
        if (spare == SCHED_NONE && s->users[i].jobs == 0) spare = i;
    }
    if (at == SCHED_NONE) return RC_BUSY;
    if (u == SCHED_NONE) { /* at most as many users with jobs as jobs: one is free */
        u = spare;
        s->users[u] = (struct user){.id = in->owner};
    }
    if (s->users[u].jobs == 0 && least != UINT64_MAX) {
        s->users[u].vtime = MAX(s->users[u].vtime, least);
    }
    s->users[u].jobs++;
    s->jobs[at] = (struct job){true, *in, u};
    return RC_OK;
}

enum rc sched_task_add(struct sched *s, const struct id128 *job, uint64_t no,
                       const struct record_task *row, uint64_t version, uint64_t now_ms)
{
    uint32_t j = job_find(s, job);

    if (j == SCHED_NONE) return RC_NOTFOUND;
    if (task_find(s, job, no) != NULL) return RC_EXISTS;
    for (uint32_t i = 0; i < s->l.tasks; i++) {
        struct task *t = &s->tasks[i];

        if (i == s->tasks_top) {
            *t = (struct task){.job = SCHED_NONE};
            s->tasks_top++;
        }
        if (t->job != SCHED_NONE) continue;
        t->job = j;
        t->no = no;
        t->version = version;
        t->doing = IDLE;
        t->row = *row;
        t->worker = t->next_worker = SCHED_NONE;
        t->lease_until_ms = now_ms + s->l.lease_ms;
        if (row->state == RECORD_TASK_OUT) {
            t->worker = worker_find(s, row->worker, true);
            if (t->worker != SCHED_NONE) s->workers[t->worker].out++;
        }
        t->row.worker = (struct slice){0}; /* borrowed; the table has it */
        return RC_OK;
    }
    return RC_BUSY;
}

void sched_job_remove(struct sched *s, const struct id128 *job)
{
    uint32_t j = job_find(s, job);

    if (j == SCHED_NONE) return;
    for (uint32_t i = 0; i < s->tasks_top; i++) {
        struct task *t = &s->tasks[i];

        if (t->job != j) continue;
        if (t->row.state == RECORD_TASK_OUT) worker_less(s, t->worker);
        if (t->doing == HANDING) worker_less(s, t->next_worker);
        t->job = SCHED_NONE;
        t->doing = IDLE;
    }
    s->users[s->jobs[j].user].jobs--;
    s->jobs[j].used = false;
}

void sched_cancel(struct sched *s, const struct id128 *job)
{
    uint32_t j = job_find(s, job);

    if (j != SCHED_NONE) s->jobs[j].in.cancelled = true;
}

bool sched_progress(const struct sched *s, const struct id128 *job, struct sched_progress *ret)
{
    uint32_t j = job_find(s, job);

    if (j == SCHED_NONE) return false;
    *ret = (struct sched_progress){.cancelled = s->jobs[j].in.cancelled};
    for (uint32_t i = 0; i < s->tasks_top; i++) {
        const struct task *t = &s->tasks[i];

        if (t->job != j) continue;
        ret->tasks++;
        ret->tasks_done += t->row.state == RECORD_TASK_DONE;
        ret->tasks_out += t->row.state == RECORD_TASK_OUT || t->doing != IDLE;
        ret->items += t->row.items_n;
        for (uint32_t k = 0; k < t->row.items_n; k++) {
            ret->items_done += t->row.items[k].state == RECORD_ITEM_DONE;
            ret->items_aside += t->row.items[k].state == RECORD_ITEM_ASIDE;
        }
    }
    ret->ended = ret->cancelled ? ret->tasks_out == 0 : ret->tasks_done == ret->tasks;
    return true;
}

/* ---- transitions ---- */

static void ask(struct sched *s, struct task *t, struct sched_action *ret)
{
    struct record_out o = {.p = s->bytes, .cap = sizeof(s->bytes)};
    const struct job *j = &s->jobs[t->job];

    *ret = (struct sched_action){.type = SCHED_ACT_TXN,
                                 .token = (uint32_t)(t - s->tasks),
                                 .job = j->in.id,
                                 .task = t->no,
                                 .version = t->version,
                                 .record = &t->next,
                                 .attempt = t->next.attempt,
                                 .commits_n = t->commits_n,
                                 .asides_n = t->asides_n};
    memcpy(ret->commits, t->commits, t->commits_n * sizeof(ret->commits[0]));
    memcpy(ret->asides, t->asides, t->asides_n * sizeof(ret->asides[0]));
    t->next.worker = (struct slice){0};
    if (t->next.state == RECORD_TASK_OUT) {
        const struct worker *w = &s->workers[t->next_worker];

        t->next.worker = (struct slice){w->name, w->name_n};
    }
    /* 256 items of 7 bytes, a worker's name: it fits */
    CHECK(record_task_encode(&t->next, &o, NULL) == RC_OK);
    ret->row = record_out_slice(&o);
    ret->key = (struct slice){s->key, record_key_number(&j->in.anchor, RECORD_TASK, t->no, s->key)};
}

static void begin(struct task *t, enum doing doing)
{
    CHECK(t->doing == IDLE);
    t->doing = doing;
    t->next = t->row;
    t->commits_n = t->asides_n = 0;
}

static void fail(struct task *t, struct record_task_item *it)
{
    if (it->failures < UINT8_MAX) it->failures++;
    if (it->failures < SCHED_FAILURES_MAX) return;
    it->state = RECORD_ITEM_ASIDE;
    t->asides[t->asides_n++] = it->item;
}

/* After an attempt: nothing is out; done when no item is open. */
static void settle(struct record_task *r)
{
    r->state = RECORD_TASK_DONE;
    for (uint32_t i = 0; i < r->items_n; i++) {
        r->items[i].out = 0;
        if (r->items[i].state == RECORD_ITEM_OPEN) r->state = RECORD_TASK_OPEN;
    }
}

static uint32_t distance(const struct record_task *t, const struct sched_worker_in *w)
{
    if (t->host == 0 || t->host == w->host) return 0;
    if (t->rack != 0 && t->rack == w->rack) return 1;
    return t->zone != 0 && t->zone == w->zone ? 2 : 3;
}

static bool fits(const struct job *j, const struct sched_worker_in *w)
{
    if (j->in.cancelled) return false;
    switch (j->in.device) {
    case SCHED_CPU:
        return w->cpu;
    case SCHED_GPU:
        return w->gpu;
    default:
        return w->cpu || w->gpu;
    }
}

/* Least served user, then the oldest job, then the nearest task, then the lowest number. */
static bool better(const struct sched *s, const struct task *a, const struct task *b,
                   const struct sched_worker_in *w)
{
    const struct job *ja = &s->jobs[a->job], *jb = &s->jobs[b->job];
    uint64_t va = s->users[ja->user].vtime, vb = s->users[jb->user].vtime;
    uint32_t da = distance(&a->row, w), db = distance(&b->row, w);

    if (ja->user != jb->user) return va != vb ? va < vb : ja->in.order < jb->in.order;
    if (ja != jb) return ja->in.order < jb->in.order;
    return da != db ? da < db : a->no < b->no;
}

enum rc sched_pull(struct sched *s, const struct sched_worker_in *w, uint64_t now_ms,
                   struct sched_action *ret)
{
    uint32_t at = worker_find(s, w->name, true), open_n = 0, n, given = 0;
    struct task *best = NULL;

    (void)now_ms;
    *ret = (struct sched_action){0};
    if (at == SCHED_NONE) return RC_BUSY;
    if (s->workers[at].out >= MIN(MAX(w->slots, 1u), SCHED_BACKLOG_MAX)) return RC_BUSY;
    for (uint32_t i = 0; i < s->tasks_top; i++) {
        struct task *t = &s->tasks[i];

        if (t->job == SCHED_NONE || t->doing != IDLE || t->row.state != RECORD_TASK_OPEN ||
            !fits(&s->jobs[t->job], w)) {
            continue;
        }
        if (best == NULL || better(s, t, best, w)) best = t;
    }
    if (best == NULL) return RC_OK;
    begin(best, HANDING);
    for (uint32_t i = 0; i < best->row.items_n; i++)
        open_n += best->row.items[i].state == RECORD_ITEM_OPEN;
    n = MAX(open_n >> MIN(best->row.losses, 31u), 1u);
    for (uint32_t i = 0; i < best->next.items_n && given < n; i++) {
        if (best->next.items[i].state != RECORD_ITEM_OPEN) continue;
        best->next.items[i].out = 1;
        given++;
    }
    best->next.state = RECORD_TASK_OUT;
    best->next.attempt++;
    best->next_worker = at;
    s->workers[at].out++;
    s->users[s->jobs[best->job].user].vtime += given;
    ask(s, best, ret);
    return RC_OK;
}

bool sched_renew(struct sched *s, const struct id128 *job, uint64_t task, uint32_t attempt,
                 uint64_t now_ms)
{
    struct task *t = task_find(s, job, task);

    if (t == NULL || t->row.state != RECORD_TASK_OUT || t->row.attempt != attempt ||
        t->doing == LOSING || s->jobs[t->job].in.cancelled) {
        return false;
    }
    t->lease_until_ms = now_ms + s->l.lease_ms;
    return true;
}

enum rc sched_finish(struct sched *s, const struct id128 *job, uint64_t task, uint32_t attempt,
                     const struct sched_item_outcome *outcomes, uint32_t n, uint64_t now_ms,
                     struct sched_action *ret)
{
    struct task *t = task_find(s, job, task);

    (void)now_ms;
    *ret = (struct sched_action){0};
    if (t == NULL || t->row.state != RECORD_TASK_OUT || t->row.attempt != attempt ||
        t->doing != IDLE) {
        return RC_PRECOND;
    }
    begin(t, FINISHING);
    for (uint32_t i = 0; i < n; i++) {
        struct record_task_item *it = NULL;

        for (uint32_t k = 0; k < t->next.items_n; k++) {
            if (t->next.items[k].item == outcomes[i].item && t->next.items[k].out == 1) {
                it = &t->next.items[k];
            }
        }
        if (it == NULL || outcomes[i].outcome < SCHED_ITEM_OK ||
            outcomes[i].outcome > SCHED_ITEM_UNFIT) {
            t->doing = IDLE;
            return RC_INVAL;
        }
        it->out = 0; /* a second outcome for it is refused */
        if (outcomes[i].outcome == SCHED_ITEM_OK || outcomes[i].outcome == SCHED_ITEM_UNFIT) {
            it->state = outcomes[i].outcome == SCHED_ITEM_OK ? RECORD_ITEM_DONE : RECORD_ITEM_ASIDE;
            t->commits[t->commits_n++] = it->item;
        } else {
            fail(t, it);
        }
    }
    settle(&t->next);
    ask(s, t, ret);
    return RC_OK;
}

void sched_tick(struct sched *s, uint64_t now_ms, struct sched_action *ret)
{
    *ret = (struct sched_action){0};
    for (uint32_t i = 0; i < s->tasks_top; i++) {
        struct task *t = &s->tasks[i];
        struct record_task_item *only = NULL;
        uint32_t out_n = 0;

        if (t->job == SCHED_NONE || t->doing != IDLE || t->row.state != RECORD_TASK_OUT ||
            now_ms < t->lease_until_ms) {
            continue;
        }
        begin(t, LOSING);
        t->next.losses++;
        for (uint32_t k = 0; k < t->next.items_n; k++) {
            if (t->next.items[k].out == 0) continue;
            only = &t->next.items[k];
            out_n++;
        }
        if (out_n == 1) fail(t, only);
        settle(&t->next);
        ask(s, t, ret);
        return;
    }
}

static bool job_ended(const struct sched *s, const struct task *t)
{
    struct sched_progress p;

    return sched_progress(s, &s->jobs[t->job].in.id, &p) && p.ended;
}

void sched_txn_done(struct sched *s, uint32_t token, enum rc rc, bool succeeded, uint64_t index,
                    uint64_t now_ms, struct sched_action *ret)
{
    struct task *t;
    enum doing did;

    *ret = (struct sched_action){0};
    CHECK(token < s->tasks_top);
    t = &s->tasks[token];
    if (t->job == SCHED_NONE || t->doing == IDLE) return; /* the job was removed meanwhile */
    did = t->doing;
    if (rc == RC_DEADLINE || rc == RC_UNAVAIL || rc == RC_IO || rc == RC_STALE) {
        ask(s, t, ret);
        ret->retry = true;
        return;
    }
    if (rc != RC_OK || !succeeded) {
        ret->type = SCHED_ACT_RESYNC;
        return;
    }
    if (did != HANDING) worker_less(s, t->worker);
    t->worker = did == HANDING ? t->next_worker : SCHED_NONE;
    t->row = t->next;
    t->version = index;
    t->doing = IDLE;
    ret->job = s->jobs[t->job].in.id;
    ret->task = t->no;
    ret->attempt = t->row.attempt;
    ret->record = &t->row;
    if (did == HANDING) {
        t->lease_until_ms = now_ms + s->l.lease_ms;
        ret->type = SCHED_ACT_HAND;
        ret->lease_ms = s->l.lease_ms;
    } else {
        ret->type = SCHED_ACT_DONE;
        ret->job_ended = job_ended(s, t);
    }
}

/* ---- cutting ---- */

static bool before(const struct sched_cut_item *a, const struct sched_cut_item *b)
{
    if (a->zone != b->zone) return a->zone < b->zone;
    if (a->rack != b->rack) return a->rack < b->rack;
    return a->host != b->host ? a->host < b->host : a->item < b->item;
}

/* Heapsort: in place, no worst case, no library call in a core. */
static void sift(struct sched_cut_item *v, uint32_t root, uint32_t n)
{
    for (;;) {
        uint32_t child = 2 * root + 1;
        struct sched_cut_item tmp;

        if (child >= n) return;
        if (child + 1 < n && before(&v[child], &v[child + 1])) child++;
        if (!before(&v[root], &v[child])) return;
        tmp = v[root];
        v[root] = v[child];
        v[child] = tmp;
        root = child;
    }
}

uint32_t sched_cut(struct sched_cut_item *items, uint32_t n, uint32_t items_max, uint64_t bytes_max,
                   uint32_t *ends)
{
    uint32_t tasks = 0, from = 0;
    uint64_t bytes = 0;

    items_max = MIN(MAX(items_max, 1u), RECORD_TASK_ITEMS_MAX);
    for (uint32_t i = n / 2; i-- > 0;)
        sift(items, i, n);
    for (uint32_t i = n; i-- > 1;) {
        struct sched_cut_item tmp = items[0];

        items[0] = items[i];
        items[i] = tmp;
        sift(items, 0, i);
    }
    for (uint32_t i = 0; i < n; i++) {
        bool other =
            i > from && (items[i].host != items[from].host || items[i].rack != items[from].rack ||
                         items[i].zone != items[from].zone);

        if (i > from && (other || i - from == items_max || items[i].bytes > bytes_max ||
                         bytes > bytes_max - items[i].bytes)) {
            ends[tasks++] = i;
            from = i;
            bytes = 0;
        }
        bytes = items[i].bytes > UINT64_MAX - bytes ? UINT64_MAX : bytes + items[i].bytes;
    }
    if (n > from) ends[tasks++] = n;
    return tasks;
}
