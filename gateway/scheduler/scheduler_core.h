/* gateway/scheduler/scheduler_core.h - which worker computes which task, as a pure state machine.
 *
 * The TASK rows (gateway/ingest/records_core.h) are the truth; this is a view of them with leases
 * beside it. Every change is a transaction that compares the row's version, so of two schedulers
 * that both believe to be elected one loses (SCHED_ACT_RESYNC) and reads again; nothing rests on a
 * clock but how soon a silent worker's task is given away.
 *
 *   task: OPEN --pull--> OUT(attempt + 1) --finish, items left--> OPEN
 *                         |  '--finish, none left--> DONE
 *                         '--lease over: losses + 1--> OPEN
 *
 * The attempt is the fence: results are put in the same transaction as the task's row, so a worker
 * that was thought dead changes nothing. An item fails by the worker's word or, when it went out
 * alone, by the loss of its worker; three failures set it aside. After a loss a task goes out in
 * halves, so that one input that kills workers ends up alone.
 *
 * Each call gives at most one action; the shell performs it and reports a TXN's outcome with
 * sched_txn_done(). Between the two the task is busy. Memory is passed in. Fair share: users by
 * items handed out (a user who comes late starts level with the others, not with a credit). */
#pragma once
#include "gateway/ingest/records_core.h"

#define SCHED_FAILURES_MAX 3u
#define SCHED_BACKLOG_MAX  16u /* tasks at one worker */
#define SCHED_WORKER_BYTES 256u
#define SCHED_NONE         UINT32_MAX

enum sched_device { SCHED_ANY = 0, SCHED_CPU = 1, SCHED_GPU = 2 }; /* Device of jobs.proto */
struct sched_limits {
    uint32_t jobs, tasks, workers;
    uint64_t lease_ms;
};
struct sched_job_in {
    struct id128 id;
    struct record_anchor anchor;
    uint64_t owner; /* any number that names the user, not 0 */
    enum sched_device device;
    bool cancelled;
    uint64_t order; /* lower = submitted earlier */
};
struct sched_worker_in {       /* with each pull */
    struct slice name;         /* node URI, at most SCHED_WORKER_BYTES - 1 */
    uint32_t host, rack, zone; /* numbers as in the task rows; 0 = unknown */
    bool cpu, gpu;
    uint32_t slots; /* tasks it wants at once; 0 = 1 */
};
enum sched_outcome {
    SCHED_ITEM_OK = 1,
    SCHED_ITEM_FAILED = 2,
    SCHED_ITEM_RETRY = 3,
    SCHED_ITEM_UNFIT = 4,
};
struct sched_item_outcome {
    uint32_t item;
    /* OK: a result, final. UNFIT: not analysable, final: set aside with the reason reported.
     * FAILED: counts towards SCHED_FAILURES_MAX. RETRY: the worker's own trouble; counts too, else
     * a bad disk would loop for ever. */
    enum sched_outcome outcome;
};
enum sched_act_type {
    SCHED_ACT_NONE = 0,
    SCHED_ACT_TXN,    /* compare the TASK row's version; put row, and the RESULT rows of `commits`
                         (results as reported) and of `asides` (their reason) */
    SCHED_ACT_HAND,   /* answer the pull: task, attempt, items with `out` set */
    SCHED_ACT_DONE,   /* FINISH is committed: answer the worker */
    SCHED_ACT_RESYNC, /* the rows changed under us: forget everything, read again */
};
struct sched_action {
    enum sched_act_type type;
    uint32_t token; /* TXN: names it in sched_txn_done */
    bool retry;     /* TXN: same request key as before */
    struct id128 job;
    uint64_t task;
    struct slice key, row;            /* TXN; valid until the next call */
    uint64_t version;                 /* TXN: of the row, compared */
    const struct record_task *record; /* TXN, HAND: the task as it will be, is */
    uint32_t attempt;
    uint64_t lease_ms; /* HAND */
    uint32_t commits_n, asides_n;
    uint32_t commits[RECORD_TASK_ITEMS_MAX], asides[RECORD_TASK_ITEMS_MAX]; /* items */
    bool job_ended; /* HAND, DONE: the job's last task is done: write the JOB row */
};
struct sched_progress {
    uint32_t tasks, tasks_done, tasks_out;
    uint32_t items, items_done, items_aside;
    bool cancelled, ended; /* ended: all tasks DONE; cancelled: none is out */
};
struct sched;

size_t sched_bytes(const struct sched_limits *l);
/* mem: sched_bytes(l), aligned to 16, the caller's for as long as it is used. Also to forget all.
 */
struct sched *sched_init(void *mem, const struct sched_limits *l);

/* From the rows: at submission and after an election. RC_BUSY: the limits; RC_EXISTS; RC_NOTFOUND
 * (no such job). A task that is OUT keeps its attempt and gets a whole lease from now. */
MUST_CHECK enum rc sched_job_add(struct sched *s, const struct sched_job_in *job);
MUST_CHECK enum rc sched_task_add(struct sched *s, const struct id128 *job, uint64_t task,
                                  const struct record_task *row, uint64_t version, uint64_t now_ms);
void sched_job_remove(struct sched *s, const struct id128 *job); /* ended, and written so */
void sched_cancel(struct sched *s, const struct id128 *job);     /* no-op for unknown jobs */
bool sched_progress(const struct sched *s, const struct id128 *job, struct sched_progress *ret);

/* TXN or NONE (nothing for this worker now). RC_BUSY: its backlog is full, or too many workers. */
MUST_CHECK enum rc sched_pull(struct sched *s, const struct sched_worker_in *w, uint64_t now_ms,
                              struct sched_action *ret);
/* May the attempt go on? Renews its lease. */
bool sched_renew(struct sched *s, const struct id128 *job, uint64_t task, uint32_t attempt,
                 uint64_t now_ms);
/* TXN. RC_PRECOND: another attempt owns the task; RC_INVAL: an outcome for an item that is not
 * out. Items that are out and have no outcome are open again, without blame. */
MUST_CHECK enum rc sched_finish(struct sched *s, const struct id128 *job, uint64_t task,
                                uint32_t attempt, const struct sched_item_outcome *outcomes,
                                uint32_t n, uint64_t now_ms, struct sched_action *ret);
/* One lease that is over: TXN; else NONE. Call until NONE. */
void sched_tick(struct sched *s, uint64_t now_ms, struct sched_action *ret);
/* rc: of the call; RC_DEADLINE, RC_UNAVAIL, RC_IO, RC_STALE = unknown: the TXN comes again.
 * index: the row's new version. */
void sched_txn_done(struct sched *s, uint32_t token, enum rc rc, bool succeeded, uint64_t index,
                    uint64_t now_ms, struct sched_action *ret);

/* ---- cutting a job into tasks, at submission ---- */
struct sched_cut_item {
    uint32_t item;
    uint32_t host, rack, zone; /* where most of its bytes lie; 0 = anywhere */
    uint64_t bytes;
};
/* Sorts items by place, then number, and gives the tasks' ends: task t holds items [ends[t - 1],
 * ends[t]). A task has one place, at most items_max items and, unless it has only one item,
 * bytes_max bytes. ends holds n. Returns the number of tasks. */
uint32_t sched_cut(struct sched_cut_item *items, uint32_t n, uint32_t items_max, uint64_t bytes_max,
                   uint32_t *ends);
