/* tests/unit/storaged/replica/test_replica_core.c - the core's own steps, one replica at a time:
 * what each event does in each role, what is refused, and that malformed messages change nothing
 * that counts. Whole groups: tests/sim. */
#include "storaged/replica/apply_core.h"
#include "storaged/replica/replica_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { A = 1, B = 2, C = 3, D = 4 };
static struct replica_core core;
static struct replica_actions acts;
static uint64_t now;
static struct group_config record; /* as etcd has it */

static struct id128 disk(int n)
{
    return (struct id128){{(uint8_t)n}};
}

static struct id128 boot(int n)
{
    return (struct id128){{(uint8_t)n, 9}};
}

/* ---- one step, and what it said ---- */

static void feed(struct replica_event ev)
{
    ev.now_ms = now;
    replica_step(&core, &ev, &acts);
}

static uint32_t count(enum replica_act_type type)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < acts.n; i++)
        n += acts.a[i].type == type;
    return n;
}

static const struct replica_action *only(enum replica_act_type type)
{
    const struct replica_action *a = NULL;

    assert_int_equal(count(type), 1);
    for (uint32_t i = 0; i < acts.n; i++) {
        if (acts.a[i].type == type) a = &acts.a[i];
    }
    return a;
}

static const struct replica_msg *sent(enum replica_msg_type type, int to)
{
    for (uint32_t i = 0; i < acts.n; i++) {
        const struct replica_action *a = &acts.a[i];

        if (a->type == REPLICA_SEND && a->msg.type == type && a->msg.to_disk.b[0] == to)
            return &a->msg;
    }
    return NULL;
}

static void tick(uint64_t ms)
{
    now += ms;
    feed((struct replica_event){.type = REPLICA_EV_TICK});
}

static void persisted(void)
{
    feed((struct replica_event){.type = REPLICA_EV_PERSISTED, .id = core.persist_id});
}

static void durable(uint64_t epoch, uint64_t index)
{
    feed((struct replica_event){.type = REPLICA_EV_DURABLE, .epoch = epoch, .index = index});
}

static void applied(uint64_t index)
{
    feed((struct replica_event){.type = REPLICA_EV_APPLIED, .index = index});
}

static void config(const struct group_config *c)
{
    feed((struct replica_event){
        .type = REPLICA_EV_CONFIG, .config = c, .mod_revision = (int64_t)c->config * 10});
}

static enum rc propose(struct slice entry)
{
    const struct replica_action *a;

    feed((struct replica_event){.type = REPLICA_EV_PROPOSE, .entry = entry, .token = 77});
    a = only(REPLICA_PROPOSED);
    assert_int_equal(a->token, 77);
    if (a->rc != RC_OK) assert_int_equal(acts.n, 1); /* a refusal does nothing else */
    return a->rc;
}

static struct slice txn(void)
{
    static const uint8_t b[] = {1, APPLY_TXN, 0};

    return (struct slice){b, sizeof(b)};
}

static struct slice chunk_add(void)
{
    static const uint8_t b[] = {1, APPLY_CHUNK_ADD, 0};

    return (struct slice){b, sizeof(b)};
}

static struct replica_msg msg(enum replica_msg_type type, int from, uint64_t epoch, uint64_t cfg)
{
    return (struct replica_msg){.type = type,
                                .from_disk = disk(from),
                                .from_boot = boot(from),
                                .to_disk = core.conf.disk,
                                .config = cfg,
                                .epoch = epoch};
}

static void deliver(struct replica_msg m)
{
    feed((struct replica_event){.type = REPLICA_EV_MESSAGE, .msg = &m});
}

/* n entries from `first`, all alike. */
static void prepare(int from, uint64_t epoch, uint64_t cfg, uint64_t first, uint32_t n,
                    struct slice e, uint64_t commit, uint64_t tail)
{
    struct replica_entry entries[REPLICA_BATCH];
    struct replica_msg m = msg(REPLICA_PREPARE, from, epoch, cfg);

    for (uint32_t i = 0; i < n; i++)
        entries[i] = (struct replica_entry){epoch, e};
    m.stamp_ms = 500;
    m.seq = 5;
    m.first = first;
    m.n = n;
    m.entries = n > 0 ? entries : NULL;
    m.commit = commit;
    m.tail = tail;
    deliver(m);
}

/* What `from` answers to the primary here: all up to `upto` is durable there. */
static void answer(int from, uint64_t upto, uint64_t stamp)
{
    struct replica_msg m = msg(REPLICA_ANSWER, from, core.epoch, core.config);

    m.stamp_ms = stamp;
    m.seq = core.seq;
    m.durable = m.last = upto;
    m.want = upto + 1;
    deliver(m);
}

/* ---- roles to begin with ---- */

static void begin_as(int n, const struct replica_start *start)
{
    struct replica_conf conf = {.disk = disk(n), .boot = boot(n), .min_in_sync = 2};
    struct replica_start s = start != NULL ? *start : (struct replica_start){0};
    struct group_set set = {.n = 3, .disks = {disk(A), disk(B), disk(C)}};

    now = 100000;
    s.now_ms = now;
    replica_core_init(&core, &conf, &s);
    group_config_first(&set, &record);
}

/* A leads in epoch 2, config 2. */
static void led_by(int n)
{
    record.config = 2;
    record.epoch = 2;
    record.primary = disk(n);
    record.primary_boot = boot(n);
}

static void begin_backup(void)
{
    begin_as(B, NULL);
    led_by(A);
    config(&record);
    persisted();
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
}

static void begin_candidate(void)
{
    begin_as(A, NULL);
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_CANDIDATE);
}

static void cas(enum replica_cas outcome)
{
    feed((struct replica_event){
        .type = REPLICA_EV_CAS, .id = core.cas_id, .cas = outcome, .mod_revision = 20});
}

static void begin_takeover(void)
{
    begin_candidate();
    cas(REPLICA_CAS_WON);
    persisted();
    assert_int_equal(replica_role(&core), REPLICA_TAKEOVER);
}

/* Its first entry (index 1) is everywhere. */
static void begin_primary(void)
{
    begin_takeover();
    durable(2, 1);
    tick(200);
    answer(B, 1, now);
    answer(C, 1, now);
    applied(1);
    persisted();
    assert_int_equal(replica_role(&core), REPLICA_PRIMARY);
    assert_int_equal(core.commit, 1);
}

static void begin_learner(void)
{
    begin_as(D, NULL);
    led_by(A);
    group_set_add(&record.learners, &(struct id128){{D}});
    config(&record);
    persisted();
    assert_int_equal(replica_role(&core), REPLICA_LEARNER);
}

static void begin_none(void)
{
    begin_as(D, NULL);
}

/* ---- beginning, candidacy, take-over ---- */

static void first_primary(void **state)
{
    const struct replica_action *a;

    (void)state;
    begin_as(A, NULL);
    assert_int_equal(replica_role(&core), REPLICA_NONE);
    tick(0);
    (void)only(REPLICA_READ_CONFIG);
    tick(50);
    assert_int_equal(count(REPLICA_READ_CONFIG), 0); /* not oftener than each 200 ms */
    config(&record);
    a = only(REPLICA_CAS);
    assert_int_equal(a->mod_revision, 10);
    assert_int_equal(a->config.config, 2);
    assert_int_equal(a->config.epoch, 2);
    assert_memory_equal(&a->config.primary_boot, &core.conf.boot, 16);
    assert_int_equal(a->config.in_sync.n, 3);
    cas(REPLICA_CAS_WON);
    assert_int_equal(replica_role(&core), REPLICA_TAKEOVER);
    a = only(REPLICA_APPEND);
    assert_int_equal(a->first, 1);
    assert_int_equal(a->epoch, 2);
    assert_int_equal(a->entries[0].bytes.p[1], APPLY_NOOP);
    assert_int_equal(count(REPLICA_SEND), 0); /* the new epoch is not on the disk yet */
    tick(200);
    assert_int_equal(count(REPLICA_SEND), 0);
    persisted();
    tick(200);
    assert_non_null(sent(REPLICA_PREPARE, B));
    assert_non_null(sent(REPLICA_PREPARE, C));
    durable(2, 1);
    answer(B, 1, now);
    assert_int_equal(core.commit, 0); /* every one in sync, not most */
    answer(C, 1, now);
    assert_int_equal(only(REPLICA_APPLY)->last, 1);
    assert_int_equal(replica_may_read(&core, now), RC_UNAVAIL); /* applied counts */
    assert_int_equal(propose(txn()), RC_UNAVAIL);
    applied(1);
    assert_int_equal(replica_role(&core), REPLICA_PRIMARY);
    assert_int_equal(replica_may_read(&core, now), RC_OK);
    assert_int_equal(replica_may_write(&core), RC_OK);
    assert_string_equal(replica_role_name(REPLICA_PRIMARY), "primary");
    assert_string_equal(replica_role_name((enum replica_role)99), "?");
}

static void candidacy_after_grace(void **state)
{
    const struct replica_action *a;

    (void)state;
    begin_backup();
    tick(1300 + 99); /* second in line: half a beacon later */
    assert_int_equal(count(REPLICA_CAS), 0);
    tick(1);
    a = only(REPLICA_CAS);
    assert_int_equal(a->config.epoch, 3);
    assert_false(group_set_has(&a->config.in_sync, &(struct id128){{A}}));
    assert_int_equal(replica_role(&core), REPLICA_CANDIDATE);
    prepare(A, 2, 2, 0, 0, txn(), 0, 0); /* whose epoch it wants to end gets no answer */
    assert_int_equal(count(REPLICA_SEND), 0);
    persisted();
    assert_int_equal(count(REPLICA_SEND), 0);
    assert_int_equal(propose(txn()), RC_STALE);
    cas(REPLICA_CAS_WON);
    assert_int_equal(replica_role(&core), REPLICA_TAKEOVER);
    /* The grace before covers what may be left of A's lease. */
    assert_true(core.serve_ms <= now);
}

static void word_puts_it_off(void **state)
{
    (void)state;
    begin_backup();
    tick(1000);
    prepare(A, 2, 2, 0, 0, txn(), 0, 0);
    tick(1399);
    assert_int_equal(count(REPLICA_CAS), 0);
    tick(1);
    assert_int_equal(count(REPLICA_CAS), 1);
}

static void who_never_stands(void **state)
{
    struct replica_start damaged = {.damaged = true};

    (void)state;
    begin_learner();
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);
    begin_none();
    led_by(A);
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_NONE);
    assert_int_equal(replica_may_read_chunk(&core), RC_STALE);
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);
    begin_as(B, &damaged);
    led_by(A);
    config(&record);
    persisted();
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);
    begin_backup(); /* a record that it has not seen exists */
    deliver(msg(REPLICA_REFUSE, C, 2, 3));
    persisted();
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);
    assert_int_equal(count(REPLICA_READ_CONFIG), 1);
}

/* P1: the process that led is gone, its successor on the same disk wins a new epoch first. */
static void restarted_primary(void **state)
{
    struct replica_start s = {
        .durable = {.epoch = 2, .config = 2}, .log_first = 1, .log_last = 3, .log_epoch = 2};

    (void)state;
    s.epoch_last = 3;
    begin_as(A, &s);
    led_by(A);
    record.primary_boot = boot(50);
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_CANDIDATE);
    assert_int_equal(only(REPLICA_CAS)->config.epoch, 3);
    assert_int_equal(only(REPLICA_CAS)->config.in_sync.n, 3);
    assert_int_equal(count(REPLICA_SEND), 0);
    cas(REPLICA_CAS_WON);
    assert_int_equal(only(REPLICA_CHECK_TAIL)->first, 1);
    assert_int_equal(only(REPLICA_CHECK_TAIL)->last, 3);
    assert_int_equal(count(REPLICA_APPEND), 0); /* not before its chunks are known to be there */
    feed((struct replica_event){.type = REPLICA_EV_TAIL, .epoch = 2, .index = 3});
    assert_int_equal(acts.n, 0); /* of another epoch */
    feed((struct replica_event){.type = REPLICA_EV_TAIL, .epoch = 3, .index = 2});
    assert_int_equal(only(REPLICA_REAPPEND)->first, 1); /* P2: under the new epoch */
    assert_int_equal(only(REPLICA_REAPPEND)->last, 2);
    assert_int_equal(only(REPLICA_REAPPEND)->epoch, 3);
    assert_int_equal(only(REPLICA_APPEND)->first, 3); /* in the place of the entry without chunk */
    assert_int_equal(core.log_last, 3);
    persisted();
    durable(3, 3);
    answer(B, 3, now);
    answer(C, 3, now);
    applied(3);
    assert_int_equal(replica_role(&core), REPLICA_PRIMARY);
    assert_int_equal(replica_may_read(&core, now), RC_UNAVAIL); /* the wait counts from the start */
    assert_int_equal(propose(txn()), RC_UNAVAIL);
    tick(1300);
    answer(B, 3, now);
    answer(C, 3, now);
    assert_int_equal(replica_may_read(&core, now), RC_OK);
}

/* ---- transactions ---- */

static void outcomes(void **state)
{
    uint64_t id;

    (void)state;
    begin_candidate();
    id = core.cas_id;
    feed((struct replica_event){.type = REPLICA_EV_CAS, .id = id + 5, .cas = REPLICA_CAS_WON});
    assert_int_equal(replica_role(&core), REPLICA_CANDIDATE); /* of no transaction of this one */
    cas(REPLICA_CAS_UNKNOWN);
    assert_int_equal(count(REPLICA_CAS), 0);
    tick(200);
    assert_int_equal(only(REPLICA_CAS)->config.config, 2); /* the same again */
    feed((struct replica_event){.type = REPLICA_EV_CAS, .id = id, .cas = REPLICA_CAS_LOST});
    assert_int_equal(acts.n, 0); /* late, of the first try */
    cas(REPLICA_CAS_LOST);
    (void)only(REPLICA_READ_CONFIG); /* the first try may have won */
    config(&record);
    assert_int_equal(core.cas_state, REPLICA_CAS_DOUBT); /* a stale read settles nothing */
    tick(200);
    (void)only(REPLICA_READ_CONFIG);
    led_by(A);
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_TAKEOVER);
    assert_int_equal(core.cas_state, REPLICA_CAS_NONE);
}

static void records_only_go_on(void **state)
{
    struct group_config old;

    (void)state;
    begin_backup();
    old = record;
    record.config = 5;
    record.epoch = 4;
    record.primary = disk(C);
    config(&record);
    assert_int_equal(core.epoch, 4);
    (void)only(REPLICA_FORGET);
    assert_true(only(REPLICA_PERSIST)->durable.epoch == 4);
    config(&old);
    assert_int_equal(acts.n, 0);
    assert_int_equal(core.cfg.config, 5);
    assert_int_equal(replica_leader(&core).b[0], C);
    group_set_remove(&record.in_sync, &(struct id128){{B}});
    record.config = 6;
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_NONE);
}

/* ---- following ---- */

static void follows(void **state)
{
    const struct replica_msg *m;

    (void)state;
    begin_backup();
    prepare(A, 2, 2, 1, 3, txn(), 2, 1);
    assert_int_equal(only(REPLICA_APPEND)->first, 1);
    assert_int_equal(only(REPLICA_APPEND)->n, 3);
    assert_int_equal(count(REPLICA_APPLY), 0);
    assert_null(sent(REPLICA_ANSWER, A)); /* when they are on the disk: nobody waits for less */
    prepare(A, 2, 2, 0, 0, txn(), 2, 1);  /* a beacon is answered at once */
    m = sent(REPLICA_ANSWER, A);
    assert_non_null(m);
    assert_int_equal(m->durable, 0); /* not on the disk yet */
    assert_int_equal(m->want, 4);
    assert_int_equal(m->stamp_ms, 500); /* echoed */
    assert_int_equal(m->seq, 5);
    durable(1, 3); /* what became durable under another epoch is nothing here */
    assert_int_equal(acts.n, 0);
    durable(2, 2);
    assert_int_equal(sent(REPLICA_ANSWER, A)->durable, 2);
    assert_int_equal(only(REPLICA_APPLY)->last, 2);
    durable(2, 3);
    assert_int_equal(sent(REPLICA_ANSWER, A)->durable, 3);
    assert_int_equal(core.commit, 2);
    prepare(A, 2, 2, 0, 0, txn(), 99, 1);
    assert_int_equal(core.commit, 3); /* never above what is held */
    assert_int_equal(replica_may_read(&core, now), RC_STALE);
    assert_int_equal(replica_may_read_chunk(&core), RC_OK);
    assert_int_equal(replica_log_needed(&core), 4);
    prepare(A, 2, 2, 4, REPLICA_BATCH, txn(), 99, 1); /* as many as fit: there may be more */
    assert_int_equal(sent(REPLICA_ANSWER, A)->want, 4 + REPLICA_BATCH);
}

static void refuses(void **state)
{
    struct replica_msg m;

    (void)state;
    begin_backup();
    prepare(A, 2, 2, 5, 1, txn(), 0, 1); /* a gap */
    assert_int_equal(count(REPLICA_APPEND), 0);
    assert_int_equal(sent(REPLICA_ANSWER, A)->want, 1);
    prepare(A, 1, 9, 1, 1, txn(), 0, 1); /* an older epoch */
    assert_int_equal(acts.n, 1);
    assert_int_equal(sent(REPLICA_REFUSE, A)->epoch, 2);
    prepare(A, 2, 1, 1, 1, txn(), 0, 1); /* an older config */
    assert_int_equal(acts.n, 1);
    assert_non_null(sent(REPLICA_REFUSE, A));
    prepare(C, 2, 2, 1, 1, txn(), 0, 1); /* not who leads in this epoch */
    assert_int_equal(acts.n, 0);
    m = msg(REPLICA_PREPARE, A, 2, 2);
    m.from_boot = boot(60); /* nor another process of it */
    deliver(m);
    assert_int_equal(acts.n, 0);
    m = msg(REPLICA_PREPARE, A, 9, 9);
    m.to_disk = disk(C); /* to another disk */
    deliver(m);
    assert_int_equal(core.epoch, 2);
    m = msg(REPLICA_PREPARE, B, 9, 9); /* from itself */
    deliver(m);
    assert_int_equal(core.epoch, 2);
    prepare(A, 2, 2, 1, 2, (struct slice){(const uint8_t *)"x", 1}, 0, 0); /* no entry at all */
    assert_int_equal(count(REPLICA_APPEND), 0);
    for (int t = REPLICA_ANSWER; t <= REPLICA_SNAP_PAGE; t++) {
        if (t == REPLICA_JOIN) continue;
        deliver(msg((enum replica_msg_type)t, A, 2, 2)); /* for primaries, learners, services */
        assert_int_equal(acts.n, 0);
    }
    assert_int_equal(core.log_last, 0);
    assert_int_equal(propose(txn()), RC_STALE);
}

static void higher_epoch_by_message(void **state)
{
    (void)state;
    begin_backup();
    prepare(A, 2, 2, 1, 4, txn(), 2, 1);
    durable(2, 4);
    prepare(C, 5, 7, 0, 0, txn(), 0, 0);
    assert_int_equal(core.epoch, 5);
    assert_int_equal(core.verified, 2);       /* from what is committed on, anew */
    assert_int_equal(count(REPLICA_SEND), 0); /* the promise first */
    (void)only(REPLICA_READ_CONFIG);
    persisted();
    assert_int_equal(sent(REPLICA_ANSWER, C)->epoch, 5);
    assert_int_equal(sent(REPLICA_ANSWER, C)->durable, 2);
    prepare(C, 5, 7, 3, 1, txn(), 2, 3); /* its own first entry: what was above is cut */
    assert_int_equal(core.log_last, 3);
    assert_int_equal(core.durable.cut_index, 3);
    assert_int_equal(core.durable.cut_epoch, 5);
}

/* Mutant 69: it answered for 90 entries of this epoch, and starts anew within it. */
static void restart_within_an_epoch(void **state)
{
    struct replica_start s = {.durable = {.epoch = 2, .config = 2},
                              .log_first = 1,
                              .log_last = 95,
                              .log_epoch = 2,
                              .epoch_last = 90};

    (void)state;
    begin_as(B, &s);
    led_by(A);
    config(&record);
    prepare(A, 2, 2, 1, 64, txn(), 0, 1);
    assert_int_equal(core.log_last, 90); /* but not the older ones above */
    assert_int_equal(core.verified, 64);
    tick(1400);
    cas(REPLICA_CAS_WON);
    assert_int_equal(only(REPLICA_CHECK_TAIL)->last, 90);
}

/* Mutant 70: a record of epoch 3 is on the disk, the promise is not. */
static void record_before_promise(void **state)
{
    struct replica_start s = {.durable = {.epoch = 2, .config = 2},
                              .log_first = 1,
                              .log_last = 2,
                              .log_epoch = 3,
                              .epoch_last = 2};

    (void)state;
    begin_as(B, &s);
    assert_int_equal(core.epoch, 3);
    prepare(A, 2, 2, 1, 2, txn(), 0, 1);
    assert_int_equal(only(REPLICA_PERSIST)->durable.epoch, 3);
    assert_int_equal(count(REPLICA_APPEND), 0);
    assert_int_equal(count(REPLICA_SEND), 0);
    persisted();
    prepare(A, 2, 2, 1, 2, txn(), 0, 1);
    assert_int_equal(sent(REPLICA_REFUSE, A)->epoch, 3);
}

static void chunks_are_awaited(void **state)
{
    const struct replica_action *a;

    (void)state;
    begin_backup();
    prepare(A, 2, 2, 1, 1, chunk_add(), 0, 1);
    a = only(REPLICA_CHUNK);
    assert_int_equal(a->first, 1);
    assert_int_equal(a->epoch, 2);
    assert_int_equal(a->peer.b[0], A);
    durable(2, 1);
    assert_null(sent(REPLICA_ANSWER, A)); /* the entry is here, its bytes are not */
    feed((struct replica_event){.type = REPLICA_EV_CHUNK, .epoch = 1, .index = 1});
    assert_int_equal(acts.n, 0);
    feed((struct replica_event){.type = REPLICA_EV_CHUNK, .epoch = 2, .index = 1});
    assert_int_equal(sent(REPLICA_ANSWER, A)->durable, 1);
}

/* ---- damage, learning ---- */

static void damaged_starts(void **state)
{
    struct replica_start behind = {
        .durable = {.epoch = 2, .config = 2, .commit = 10}, .log_first = 1, .log_last = 5};
    struct replica_start hole = {.applied = 3, .log_first = 6, .log_last = 9};
    struct replica_start told = {.durable = {.damaged = true}};
    struct replica_start whole = {.applied = 3, .log_first = 4, .log_last = 9};
    struct replica_start ahead = {.applied = 9, .log_first = 4, .log_last = 6};

    (void)state;
    begin_as(B, &behind);
    assert_true(core.damaged);
    led_by(A);
    config(&record);
    persisted();
    prepare(A, 2, 2, 1, 1, txn(), 1, 1);
    assert_int_equal(count(REPLICA_APPEND), 0);
    assert_true(sent(REPLICA_ANSWER, A)->damaged);
    assert_int_equal(count(REPLICA_APPLY), 0);
    begin_as(B, &hole);
    assert_true(core.damaged);
    begin_as(B, &told);
    assert_true(core.damaged);
    begin_as(B, &whole);
    assert_false(core.damaged);
    begin_as(B, &ahead); /* the state may be further than the log: it was flushed, the log lost */
    assert_false(core.damaged);
    assert_int_equal(core.log_last, 9);
}

static void learns_by_snapshot(void **state)
{
    struct replica_msg m;

    (void)state;
    begin_learner();
    m = msg(REPLICA_NO_LOG, A, 2, 2);
    m.commit = 1; /* late: nothing is missing here */
    deliver(m);
    assert_int_equal(acts.n, 0);
    m.commit = 40;
    m.from_boot = boot(60); /* not who leads */
    deliver(m);
    assert_int_equal(acts.n, 0);
    m.from_boot = boot(A);
    deliver(m);
    assert_int_equal(only(REPLICA_SNAPSHOT)->first, 40);
    assert_int_equal(only(REPLICA_SNAPSHOT)->peer.b[0], A);
    deliver(m);
    assert_int_equal(acts.n, 0); /* one at a time */
    prepare(A, 2, 2, 1, 1, txn(), 1, 1);
    assert_int_equal(count(REPLICA_APPEND), 0); /* the state is being replaced */
    feed((struct replica_event){.type = REPLICA_EV_SNAPSHOT, .epoch = 2, .rc = RC_UNAVAIL});
    assert_int_equal(acts.n, 0);
    deliver(m);
    (void)only(REPLICA_SNAPSHOT); /* and again */
    feed((struct replica_event){.type = REPLICA_EV_SNAPSHOT, .epoch = 2, .rc = RC_OK, .index = 50});
    assert_int_equal(only(REPLICA_PERSIST)->durable.commit, 50);
    assert_int_equal(only(REPLICA_PERSIST)->durable.cut_index, 50);
    assert_int_equal(count(REPLICA_SEND), 0);
    persisted();
    assert_int_equal(sent(REPLICA_ANSWER, A)->durable, 50);
    assert_int_equal(sent(REPLICA_ANSWER, A)->want, 51);
    assert_int_equal(core.applied, 50);
}

static void joins(void **state)
{
    (void)state;
    begin_none();
    led_by(A);
    config(&record);
    persisted();
    tick(0);
    assert_non_null(sent(REPLICA_JOIN, A));
    tick(100);
    assert_int_equal(count(REPLICA_SEND), 0); /* each half second */
    tick(400);
    assert_non_null(sent(REPLICA_JOIN, A));
}

/* ---- leading ---- */

static void leases(void **state)
{
    uint64_t at;

    (void)state;
    begin_primary();
    at = now;
    tick(500);
    answer(B, 1, now);
    assert_int_equal(replica_may_read(&core, at + 999), RC_OK);
    assert_int_equal(replica_may_read(&core, at + 1000), RC_UNAVAIL); /* C's, from the sending */
    answer(C, 1, at + 200);
    assert_int_equal(replica_may_read(&core, at + 1199), RC_OK);
    assert_int_equal(replica_may_read(&core, at + 1200), RC_UNAVAIL);
    answer(C, 1, now + 5); /* a stamp that was never sent */
    assert_int_equal(replica_may_read(&core, at + 1200), RC_UNAVAIL);
}

static void commits(void **state)
{
    (void)state;
    begin_primary();
    assert_int_equal(propose(txn()), RC_OK);
    assert_int_equal(only(REPLICA_APPEND)->first, 2);
    assert_int_equal(sent(REPLICA_PREPARE, B)->first, 2);
    assert_int_equal(only(REPLICA_PROPOSED)->first, 2);
    answer(B, 2, now);
    answer(C, 2, now);
    assert_int_equal(core.commit, 1); /* not on its own disk yet */
    durable(2, 2);
    assert_int_equal(only(REPLICA_APPLY)->last, 2);
    answer(C, 9, now); /* more than there is */
    assert_int_equal(core.commit, 2);
    assert_int_equal(propose((struct slice){(const uint8_t *)"x", 1}), RC_INVAL);
    for (uint32_t i = 0; i < REPLICA_WINDOW; i++)
        assert_int_equal(propose(txn()), RC_OK);
    assert_int_equal(propose(txn()), RC_BUSY);
    assert_int_equal(replica_log_needed(&core), 2 + 1);
}

/* Remove before add: without B nothing is committed until etcd has said so. */
static void removes_the_silent(void **state)
{
    struct group_config want;

    (void)state;
    begin_primary();
    assert_int_equal(propose(txn()), RC_OK);
    durable(2, 2);
    tick(500);
    answer(C, 2, now);
    assert_int_equal(count(REPLICA_CAS), 0);
    tick(500);
    want = only(REPLICA_CAS)->config;
    assert_int_equal(want.config, 3);
    assert_int_equal(want.epoch, 2);
    assert_int_equal(want.in_sync.n, 2);
    assert_int_equal(want.last_serving.n, 2);
    answer(C, 2, now);
    assert_int_equal(core.commit, 1);
    cas(REPLICA_CAS_UNKNOWN);
    answer(C, 2, now);
    assert_int_equal(core.commit, 1);
    assert_int_equal(propose(txn()), RC_UNAVAIL);
    assert_int_equal(replica_may_read(&core, now), RC_UNAVAIL);
    tick(200);
    cas(REPLICA_CAS_WON);
    assert_int_equal(core.commit, 2);
    persisted();
    tick(1000); /* C, too: below min_in_sync that takes longer */
    assert_int_equal(count(REPLICA_CAS), 0);
    tick(4000);
    assert_int_equal(only(REPLICA_CAS)->config.in_sync.n, 1);
    assert_int_equal(only(REPLICA_CAS)->config.last_serving.n, 2);
    cas(REPLICA_CAS_WON);
    (void)only(REPLICA_ABANDON);
    assert_int_equal(propose(txn()), RC_UNAVAIL);
    persisted();
    assert_int_equal(replica_may_read(&core, now), RC_OK); /* a sole survivor reads */
}

static void steps_down(void **state)
{
    (void)state;
    begin_primary();
    assert_int_equal(propose(txn()), RC_OK);
    deliver(msg(REPLICA_REFUSE, B, 3, 3));
    assert_int_equal(only(REPLICA_ABANDON)->first, 2);
    (void)only(REPLICA_READ_CONFIG);
    assert_int_equal(replica_may_read(&core, now), RC_STALE);
    assert_int_equal(propose(txn()), RC_STALE);
}

static void takes_in(void **state)
{
    struct group_set wish = {.n = 3, .disks = {disk(B), disk(C), disk(D)}};
    struct replica_msg m;
    struct group_config want;

    (void)state;
    begin_primary();
    m = msg(REPLICA_JOIN, D, 0, 0);
    deliver(m);
    tick(50);
    assert_int_equal(count(REPLICA_CAS), 0); /* nobody wished for it */
    feed((struct replica_event){.type = REPLICA_EV_WISH, .wish = &wish});
    deliver(m);
    deliver(msg(REPLICA_JOIN, D + 1, 0, 0)); /* one that left asks, too: it is in nobody's way */
    tick(50);
    assert_true(group_set_has(&only(REPLICA_CAS)->config.learners, &(struct id128){{D}}));
    cas(REPLICA_CAS_WON);
    persisted();
    tick(200);
    assert_non_null(sent(REPLICA_PREPARE, D));
    answer(B, 1, now);
    answer(C, 1, now);
    answer(D, 0, now);
    tick(50);
    assert_int_equal(count(REPLICA_CAS), 0); /* it does not hold what is committed */
    feed((struct replica_event){.type = REPLICA_EV_TRIMMED, .index = 2});
    answer(D, 0, now);
    assert_int_equal(sent(REPLICA_NO_LOG, D)->commit, 2);
    answer(D, 1, now);
    tick(50);
    want = only(REPLICA_CAS)->config;
    assert_int_equal(want.in_sync.n, 4);
    assert_int_equal(propose(txn()), RC_OK);
    durable(2, 2);
    answer(B, 2, now);
    answer(C, 2, now);
    assert_int_equal(core.commit, 1); /* the new one counts from the transaction on */
    answer(D, 2, now);
    assert_int_equal(core.commit, 2);
    cas(REPLICA_CAS_WON);
    persisted();
    applied(2);
    tick(50); /* A is not wished any more: it hands over, to a process that it knows */
    want = only(REPLICA_CAS)->config;
    assert_int_equal(want.primary.b[0], B);
    assert_int_equal(want.primary_boot.b[0] * 10 + want.primary_boot.b[1], B * 10 + 9);
    assert_int_equal(want.epoch, 3);
    assert_int_equal(want.in_sync.n, 4);
    cas(REPLICA_CAS_WON);
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
    (void)only(REPLICA_ABANDON);
}

static void retires(void **state)
{
    struct group_set wish = {.n = 2, .disks = {disk(A), disk(B)}};

    (void)state;
    begin_primary();
    feed((struct replica_event){.type = REPLICA_EV_WISH, .wish = &wish});
    tick(50);
    assert_int_equal(only(REPLICA_CAS)->config.in_sync.n, 2);
    assert_false(group_set_has(&only(REPLICA_CAS)->config.in_sync, &(struct id128){{C}}));
}

static void a_damaged_backup_goes(void **state)
{
    struct replica_msg m;

    (void)state;
    begin_primary();
    m = msg(REPLICA_ANSWER, B, core.epoch, core.config);
    m.from_boot = boot(61); /* started again, and what it held is gone */
    m.stamp_ms = now;
    m.want = 1;
    deliver(m);
    tick(50);
    assert_false(group_set_has(&only(REPLICA_CAS)->config.in_sync, &(struct id128){{B}}));
    assert_true(group_set_has(&only(REPLICA_CAS)->config.learners, &(struct id128){{B}}));
}

static void odd(uint64_t epoch)
{
    feed((struct replica_event){.type = REPLICA_EV_ODD, .epoch = epoch, .id = core.cfg.config});
}

/* What the comparison of replicas says: by a backup it is promised and told, and only a snapshot
 * heals. */
static void an_odd_backup_counts_no_more(void **state)
{
    struct replica_msg m;

    (void)state;
    begin_learner();
    odd(2); /* it may just be promoted for what it answered */
    assert_int_equal(acts.n, 0);
    begin_backup();
    prepare(A, 2, 2, 1, 3, txn(), 2, 1);
    durable(2, 3);
    odd(1); /* of another reign */
    assert_int_equal(acts.n, 0);
    odd(2);
    assert_true(only(REPLICA_PERSIST)->durable.damaged);
    assert_int_equal(count(REPLICA_SEND), 0);
    odd(2);
    assert_int_equal(acts.n, 0);
    persisted();
    assert_true(sent(REPLICA_ANSWER, A)->damaged);
    prepare(A, 2, 2, 4, 1, txn(), 4, 1);
    assert_int_equal(count(REPLICA_APPEND), 0);
    assert_int_equal(count(REPLICA_APPLY), 0);
    assert_true(sent(REPLICA_ANSWER, A)->damaged);
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0); /* it does not stand */
    group_set_remove(&record.in_sync, &(struct id128){{B}});
    group_set_add(&record.learners, &(struct id128){{B}});
    record.config = 3;
    config(&record);
    m = msg(REPLICA_NO_LOG, A, 2, 3);
    m.commit = 1; /* its log does not help */
    deliver(m);
    assert_int_equal(only(REPLICA_SNAPSHOT)->first, core.commit + 1);
    odd(2); /* told once more, while it heals */
    assert_int_equal(acts.n, 0);
    feed((struct replica_event){.type = REPLICA_EV_SNAPSHOT, .epoch = 2, .rc = RC_OK, .index = 9});
    assert_false(only(REPLICA_PERSIST)->durable.damaged);
    persisted();
    assert_false(sent(REPLICA_ANSWER, A)->damaged);
    assert_int_equal(sent(REPLICA_ANSWER, A)->want, 10);
}

static void an_odd_primary_steps_down(void **state)
{
    struct group_set wish = {.n = 4, .disks = {disk(A), disk(B), disk(C), disk(D)}};

    (void)state;
    begin_primary();
    assert_int_equal(propose(txn()), RC_OK);
    odd(core.epoch);
    assert_int_equal(only(REPLICA_ABANDON)->first, 2);
    assert_true(only(REPLICA_PERSIST)->durable.damaged);
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
    assert_int_equal(replica_may_read(&core, now), RC_STALE);
    assert_int_equal(propose(txn()), RC_STALE);
    persisted();
    tick(500);
    assert_int_equal(count(REPLICA_SEND), 0); /* silent, so that others take over */
    answer(B, 2, now);
    assert_int_equal(core.commit, 1);
    config(&record); /* what it led by */
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);

    /* while a change of the record is under way it waits to be told again */
    begin_primary();
    feed((struct replica_event){.type = REPLICA_EV_WISH, .wish = &wish});
    deliver(msg(REPLICA_JOIN, D, 0, 0));
    tick(50);
    (void)only(REPLICA_CAS);
    odd(core.epoch);
    assert_int_equal(acts.n, 0);
    cas(REPLICA_CAS_WON);
    odd(core.epoch);
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
}

/* The primary hands over to one that was just told that it is odd. */
static void an_odd_backup_is_handed_to(void **state)
{
    (void)state;
    begin_backup();
    odd(2);
    persisted();
    record.config = 3;
    record.epoch = 3;
    record.primary = disk(B);
    record.primary_boot = boot(B);
    config(&record);
    assert_int_equal(replica_role(&core), REPLICA_BACKUP);
    persisted();
    tick(60000);
    assert_int_equal(count(REPLICA_CAS), 0);
}

/* It may have replaced that by a snapshot of less: only answers under the new record count. */
static void who_leaves_in_sync_begins_anew(void **state)
{
    struct replica_msg m;

    (void)state;
    begin_primary();
    assert_int_equal(propose(txn()), RC_OK);
    durable(2, 2);
    answer(B, 2, now);
    answer(C, 2, now);
    applied(2);
    assert_int_equal(core.commit, 2);
    m = msg(REPLICA_ANSWER, B, core.epoch, core.config);
    m.stamp_ms = now;
    m.seq = core.seq;
    m.want = 3;
    m.last = 2;
    m.damaged = true; /* the same process: it was told that it is odd */
    deliver(m);
    tick(50);
    assert_true(group_set_has(&only(REPLICA_CAS)->config.learners, &(struct id128){{B}}));
    cas(REPLICA_CAS_WON);
    persisted();
    tick(200);
    m.damaged = false; /* one from before, late */
    m.durable = 2;
    deliver(m);
    tick(50);
    assert_int_equal(count(REPLICA_CAS), 0);
    answer(B, 1, now); /* after its snapshot */
    tick(50);
    assert_int_equal(count(REPLICA_CAS), 0);
    answer(B, 2, now);
    tick(50);
    assert_true(group_set_has(&only(REPLICA_CAS)->config.in_sync, &(struct id128){{B}}));
}

/* ---- everything in every role ---- */

static void (*const beginnings[])(void) = {begin_none,      begin_learner,  begin_backup,
                                           begin_candidate, begin_takeover, begin_primary};

static uint64_t rng;

static uint64_t rnd(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static struct replica_msg any_message(struct replica_entry *entries)
{
    struct replica_msg m =
        msg((enum replica_msg_type)(1 + rnd(7)), (int)(1 + rnd(4)), rnd(6), rnd(8));

    if (rnd(4) == 0) m.from_boot = boot((int)rnd(90));
    m.stamp_ms = rnd(3) == 0 ? rnd(UINT32_MAX) : now - rnd(3000);
    m.seq = rnd(40);
    m.commit = rnd(20);
    m.tail = rnd(20);
    m.last = rnd(20);
    m.durable = rnd(20);
    m.want = rnd(20);
    m.damaged = rnd(10) == 0;
    if (m.type == REPLICA_PREPARE) {
        m.first = 1 + rnd(20);
        m.n = (uint32_t)rnd(5);
        m.entries = m.n > 0 ? entries : NULL;
    }
    return m;
}

/* No peer's message, no late or false event of the service (but of what was asked for) brings down
 * a replica or what it promised; nothing is sent past a promise. */
static void any_event_in_any_role(void **state)
{
    struct replica_entry entries[5];
    struct group_set wish = {.n = 2, .disks = {disk(B), disk(D)}};

    (void)state;
    for (uint32_t i = 0; i < 5; i++)
        entries[i] = (struct replica_entry){1, i == 3 ? chunk_add() : txn()};
    for (uint32_t run = 0; run < 6000; run++) {
        rng = run;
        beginnings[run % ARRAY_N(beginnings)]();
        for (uint32_t k = 0; k < 60; k++) {
            struct replica_core was = core;
            struct replica_msg m = any_message(entries);
            struct replica_event ev = {.index = rnd(12), .epoch = rnd(6), .id = rnd(8)};

            ev.type = (enum replica_ev_type)(1 + rnd(REPLICA_EV_PERSISTED));
            if (rnd(2) == 0) ev.type = REPLICA_EV_MESSAGE;
            if (rnd(100) == 0) {
                ev.type = REPLICA_EV_ODD;
                ev.id = core.cfg.config - rnd(2);
            }
            ev.msg = &m;
            ev.config = &record;
            ev.mod_revision = (int64_t)record.config * 10;
            ev.wish = &wish;
            ev.entry = txn();
            if (ev.type == REPLICA_EV_CAS) continue; /* outcomes: below */
            if (ev.type == REPLICA_EV_TAIL) ev.index = core.commit;
            if (ev.type == REPLICA_EV_APPLIED) ev.index = core.apply_asked;
            if (ev.type == REPLICA_EV_DURABLE && ev.index > core.log_last) continue;
            now += rnd(300);
            feed(ev);
            assert_true(core.epoch >= was.epoch && core.config >= was.config);
            assert_true(core.commit >= was.commit);
            assert_true(core.commit <= core.log_last || core.damaged);
            assert_true(core.applied <= core.apply_asked && core.apply_asked <= core.commit);
            if (core.persisted_id < core.gate_id) assert_int_equal(count(REPLICA_SEND), 0);
            if (ev.type == REPLICA_EV_PROPOSE) (void)only(REPLICA_PROPOSED);
            for (uint32_t i = 0; i < acts.n; i++) {
                if (acts.a[i].type == REPLICA_PERSIST)
                    assert_true(acts.a[i].durable.epoch >= was.durable.epoch);
                if (acts.a[i].type != REPLICA_CAS) continue;
                assert_int_equal(group_config_check(&acts.a[i].config, NULL), RC_OK);
                if (rnd(2) == 0) continue;
                record = acts.a[i].config; /* it won, and is seen at some time */
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_primary),
        cmocka_unit_test(candidacy_after_grace),
        cmocka_unit_test(word_puts_it_off),
        cmocka_unit_test(who_never_stands),
        cmocka_unit_test(restarted_primary),
        cmocka_unit_test(outcomes),
        cmocka_unit_test(records_only_go_on),
        cmocka_unit_test(follows),
        cmocka_unit_test(refuses),
        cmocka_unit_test(higher_epoch_by_message),
        cmocka_unit_test(restart_within_an_epoch),
        cmocka_unit_test(record_before_promise),
        cmocka_unit_test(chunks_are_awaited),
        cmocka_unit_test(damaged_starts),
        cmocka_unit_test(learns_by_snapshot),
        cmocka_unit_test(joins),
        cmocka_unit_test(leases),
        cmocka_unit_test(commits),
        cmocka_unit_test(removes_the_silent),
        cmocka_unit_test(steps_down),
        cmocka_unit_test(takes_in),
        cmocka_unit_test(retires),
        cmocka_unit_test(a_damaged_backup_goes),
        cmocka_unit_test(an_odd_backup_counts_no_more),
        cmocka_unit_test(an_odd_primary_steps_down),
        cmocka_unit_test(an_odd_backup_is_handed_to),
        cmocka_unit_test(who_leaves_in_sync_begins_anew),
        cmocka_unit_test(any_event_in_any_role),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
