/* tests/unit/storaged/store/test_store.c - over real files: what was acknowledged is found and
 * right, after a close, after kill -9 in the middle of writes, on each engine. */
#include "common/base/buf.h"
#include "store_recs.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>
#define DEPTH 8u /* records under way in the child */
static char self[1024];

/* Write, read, reopen twice. Nothing is replayed twice and the disk keeps its id. */
static void suite(enum disk_engine engine)
{
    char dir[64];
    struct store_status st;
    struct id128 id;

    temp_dir(dir, sizeof(dir));
    must_open(dir, engine);
    id = store_disk_id(store);
    must_close();
    for (int again = 0; again < 2; again++) { /* empty is not damaged */
        must_open(dir, engine);
        store_status(store, &st);
        assert_false(st.damaged);
        assert_true(id128_eq(&id, &st.disk_id));
        if (again == 0) must_close();
    }
    write_range(0, 32);
    for (uint32_t i = 0; i < 32; i++)
        assert_int_equal(read_back(i), RC_OK);
    assert_int_equal(read_back(32), RC_NOTFOUND);
    must_close();
    must_open(dir, engine);
    write_range(32, 48);
    must_close();
    must_open(dir, engine);
    store_status(store, &st);
    assert_true(id128_eq(&id, &st.disk_id));
    assert_int_equal(st.replayed_n, 0);
    assert_int_equal(st.rc, RC_OK);
    assert_false(st.damaged);
    for (uint32_t i = 0; i < 48; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    remove_dir(dir);
}
static void test_auto(void **state)
{
    (void)state;
    suite(DISK_AUTO);
}
static void test_pread(void **state)
{
    (void)state;
    suite(DISK_PREAD);
}

/* ---- kill -9 ---- */
/* The child: writes records from..until, DEPTH at a time, and puts the number of each acknowledged
 * one into the pipe (a write of 4 bytes is atomic). */
static int child(const char *dir, enum disk_engine engine, uint32_t from, uint32_t until)
{
    static struct rec recs[DEPTH];
    struct err err = {0};
    uint32_t next = from, acked = from;

    if (open_store(dir, engine, &err) != RC_OK) {
        (void)fprintf(stderr, "child: %s\n", err.msg);
        return 2;
    }
    while (acked < until) {
        for (uint32_t k = 0; k < DEPTH && next < until; k++) {
            if (recs[k].busy || recs[k].done) continue;
            if (start(&recs[k], next) != RC_OK) return 3;
            next++;
        }
        (void)uv_run(&loop, UV_RUN_ONCE);
        for (uint32_t k = 0; k < DEPTH; k++) {
            if (!recs[k].done) continue;
            if (recs[k].rc != RC_OK || write(STDOUT_FILENO, &recs[k].i, 4) != 4) return 4;
            recs[k].done = false;
            acked++;
        }
    }
    return 0; /* no close: that is a crash too */
}
/* RocksDB's threads do not survive a fork: the child is this program again. */
static pid_t spawn(const char *dir, enum disk_engine engine, uint32_t from, uint32_t until,
                   int *ret_fd)
{
    char e[16], a[16], b[16];
    int p[2];
    pid_t pid;

    (void)snprintf(e, sizeof(e), "%d", (int)engine);
    (void)snprintf(a, sizeof(a), "%u", from);
    (void)snprintf(b, sizeof(b), "%u", until);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (dup2(p[1], STDOUT_FILENO) < 0) _exit(5);
        (void)execl(self, self, "child", dir, e, a, b, (char *)NULL);
        _exit(6);
    }
    (void)close(p[1]);
    *ret_fd = p[0];
    return pid;
}
static void test_kill(void **state)
{
    static bool acked[20000];
    const uint32_t until = sizeof(acked) / sizeof(acked[0]);
    char dir[64];
    uint32_t from = 0, acked_n = 0;
    struct id128 id = {0};

    (void)state;
    temp_dir(dir, sizeof(dir));
    for (uint32_t round = 0; round < 6; round++) {
        enum disk_engine engine = round % 2 == 0 ? DISK_AUTO : DISK_PREAD;
        uint32_t i, got = 0, most = from, want = 5 + round * 17;
        struct store_status st;
        int fd, status = 0;
        pid_t pid = spawn(dir, engine, from, until, &fd);

        while (read(fd, &i, 4) == 4) { /* to the end: what was told before it died counts */
            assert_true(i < until && !acked[i]);
            acked[i] = true;
            most = i > most ? i : most;
            if (++got == want) assert_int_equal(kill(pid, SIGKILL), 0);
        }
        (void)close(fd);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        acked_n += got;
        must_open(dir, engine);
        store_status(store, &st);
        if (round == 0) id = st.disk_id;
        assert_true(id128_eq(&id, &st.disk_id));
        assert_false(st.damaged);
        assert_int_equal(st.log.damage_n, 0);
        for (i = 0; i < most + DEPTH + 1; i++) { /* the unacknowledged: whole or absent */
            enum rc rc = read_back(i);

            assert_true(rc == RC_OK || (rc == RC_NOTFOUND && !acked[i]));
        }
        must_close();
        from = (most + 2 * DEPTH) / 4 * 4; /* holes are fine: they were never acknowledged */
    }
    assert_true(acked_n >= 6 * 5);
    remove_dir(dir);
}

/* The whole index is gone: all of it comes back from the log. */
static void test_rebuild(void **state)
{
    char dir[64], cmd[128];
    struct store_status st;

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 1200; i += 24) /* more than one batch of rows */
        write_range(i, i + 24);
    must_close();
    (void)snprintf(cmd, sizeof(cmd), "rm -r '%s/index'", dir);
    assert_int_equal(system(cmd), 0);
    must_open(dir, DISK_AUTO);
    store_status(store, &st);
    assert_int_equal(st.replayed_n, 1200);
    assert_true(st.damaged); /* what its replicas had promised is gone */
    for (uint32_t i = 0; i < 1200; i += 7)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    remove_dir(dir);
}

/* A power cut takes the index back to an earlier moment: what is missing comes from the log, no
 * more and no less, and what is written then goes on behind it. */
static void test_index_behind(void **state)
{
    char dir[64], cmd[256];
    struct store_status st;

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    write_range(0, 10);
    must_close();
    (void)snprintf(cmd, sizeof(cmd), "cp -r '%s/index' '%s/earlier'", dir, dir);
    assert_int_equal(system(cmd), 0);
    must_open(dir, DISK_AUTO);
    write_range(10, 40);
    must_close();
    (void)snprintf(cmd, sizeof(cmd), "rm -r '%s/index' && mv '%s/earlier' '%s/index'", dir, dir,
                   dir);
    assert_int_equal(system(cmd), 0);
    must_open(dir, DISK_AUTO);
    store_status(store, &st);
    assert_int_equal(st.replayed_n, 30);
    assert_false(st.damaged);
    write_range(40, 48);
    must_close();
    must_open(dir, DISK_AUTO);
    store_status(store, &st);
    assert_int_equal(st.replayed_n, 0);
    for (uint32_t i = 0; i < 48; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    remove_dir(dir);
}

/* The newest WAL of RocksDB. */
static void wal_path(const char *dir, char *out, size_t n)
{
    char path[128];
    unsigned long newest = 0;
    struct dirent *e;
    DIR *d;

    (void)snprintf(path, sizeof(path), "%s/index", dir);
    d = opendir(path);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char *end;
        unsigned long k = strtoul(e->d_name, &end, 10);

        if (end != e->d_name && strcmp(end, ".log") == 0 && k > newest) newest = k;
    }
    (void)closedir(d);
    assert_true(newest > 0);
    (void)snprintf(out, n, "%s/%06lu.log", path, newest);
}
static void apply_number(uint64_t i)
{
    const struct slice key = {(const uint8_t *)"n", 1};
    struct index_batch *b;
    const struct apply_map *m;
    struct err err;

    assert_int_equal(index_batch_new(store_index(store), &GROUP, &b), RC_OK);
    m = index_batch_map(b);
    assert_int_equal(m->put(m->ctx, key, (struct slice){(uint8_t *)&i, sizeof(i)}), RC_OK);
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, i}, &err), RC_OK);
    index_batch_free(b);
}
static uint64_t applied_number(void)
{
    struct index_applied at;
    struct err err;
    struct buf v;
    uint64_t i = 0;
    enum rc rc;

    assert_int_equal(index_applied_get(store_index(store), &GROUP, &at, &err), RC_OK);
    buf_init(&v, 64);
    rc = index_state_get(store_index(store), &GROUP, (struct slice){(const uint8_t *)"n", 1}, &v,
                         &err);
    if (rc == RC_OK) memcpy(&i, v.p, sizeof(i));
    buf_deinit(&v);
    assert_true(rc == RC_OK || (rc == RC_NOTFOUND && at.index == 0));
    assert_int_equal(at.index, i); /* state and position fit together */
    return at.index;
}
/* A power cut anywhere in RocksDB's unsynced WAL: cut off, or its rest torn to zeros. Each record
 * is found, and each group's state is that of its position. */
static void test_wal_cut(void **state)
{
    char dir[64], copy[80], cmd[256], wal[160];
    uint64_t applied_most = 0, applied_least = UINT64_MAX, replayed = 0;
    struct stat st;

    (void)state;
    temp_dir(dir, sizeof(dir));
    (void)snprintf(copy, sizeof(copy), "%s-cut", dir);
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 60; i += 4) {
        write_range(i, i + 4);
        apply_number(i / 4 + 1);
    }
    must_close();
    for (uint32_t cut = 0; cut < 12; cut++) {
        struct store_status now;
        off_t at;

        (void)snprintf(cmd, sizeof(cmd), "cp -r '%s' '%s'", dir, copy);
        assert_int_equal(system(cmd), 0);
        wal_path(copy, wal, sizeof(wal));
        assert_int_equal(stat(wal, &st), 0);
        at = st.st_size * (off_t)(cut + 4) / 16 + (off_t)cut; /* the front was synced by the open */
        assert_int_equal(truncate(wal, at), 0);
        if (cut % 2 == 1) assert_int_equal(truncate(wal, st.st_size), 0);
        must_open(copy, DISK_AUTO);
        store_status(store, &now);
        assert_false(now.damaged);
        replayed += now.replayed_n;
        applied_most = MAX(applied_most, applied_number());
        applied_least = MIN(applied_least, applied_number());
        for (uint32_t i = 0; i < 60; i++)
            assert_int_equal(read_back(i), RC_OK);
        must_close();
        (void)snprintf(cmd, sizeof(cmd), "rm -r '%s'", copy);
        assert_int_equal(system(cmd), 0);
    }
    assert_true(replayed > 60 && applied_least < applied_most); /* the cuts did cut */
    remove_dir(dir);
}

/* ---- what can be wrong with a folder ---- */
static void put_file(const char *dir, const char *name, const char *text)
{
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}
static void expect_open(const char *dir, enum rc want, const char *says)
{
    struct err err = {0};

    assert_int_equal(open_store(dir, DISK_AUTO, &err), want);
    if (strstr(err.msg, says) == NULL) fail_msg("'%s' says not '%s'", err.msg, says);
}
static void test_folder(void **state)
{
    struct store *first;
    char dir[64], path[128];

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    first = store;
    expect_open(dir, RC_BUSY, "another process");
    store = first;
    write_range(0, 8);
    must_close();
    put_file(dir, "index/CURRENT", "nonsense");
    expect_open(dir, RC_CORRUPT, "rebuild-index --dir");
    (void)snprintf(path, sizeof(path), "rm -r %s/index", dir);
    assert_int_equal(system(path), 0); /* as it says */
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    put_file(dir, "disk.id", "mikura-disk 2 00112233445566778899aabbccddeeff\n");
    expect_open(dir, RC_PRECOND, "another format");
    put_file(dir, "disk.id", "mikura-disk 1 00112233445566778899aabbccddeeff\n");
    expect_open(dir, RC_CORRUPT, "disk id"); /* segments of another disk */
    put_file(dir, "disk.id", "mikura-disk 1 00112233445566778899aabbccddee\n");
    expect_open(dir, RC_CORRUPT, "disk.id");
    put_file(dir, "disk.id", "");
    expect_open(dir, RC_CORRUPT, "disk.id");
    (void)snprintf(path, sizeof(path), "%s/disk.id", dir);
    assert_int_equal(unlink(path), 0);
    expect_open(dir, RC_PRECOND, "disk.id");
    assert_int_equal(access(path, F_OK), -1); /* none was made */
    expect_open("/var/tmp/mikura-no-such/disk", RC_NOTFOUND, "mkdir");
    expect_open("/dev/shm/mikura-test-store", RC_PRECOND, "ext4");
    assert_int_equal(system("rm -rf /dev/shm/mikura-test-store"), 0);
    remove_dir(dir);
}

/* A log shorter than what was promised is damage, at each open until cleared; the disk goes on. */
static void test_damage(void **state)
{
    char dir[64], path[160];
    struct store_status st;
    struct seg_location loc;
    struct err err;

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    write_range(1, 4); /* chunks: the last place is one's */
    assert_int_equal(locate(3, &loc), RC_OK);
    must_close();
    (void)snprintf(path, sizeof(path), "%s/segments/%016llx.seg", dir,
                   (unsigned long long)loc.segment_id);
    assert_int_equal(truncate(path, (off_t)loc.offset), 0);
    for (uint32_t again = 0; again < 2; again++) {
        must_open(dir, DISK_AUTO);
        store_status(store, &st);
        assert_true(st.damaged);
        assert_int_equal(st.rc, RC_OK);
        assert_int_equal(read_back(1), RC_OK);
        assert_int_not_equal(read_back(3), RC_OK);
        write_range(again * 8 + 8, again * 8 + 16);
        assert_int_equal(read_back(9), RC_OK);
        must_close();
    }
    must_open(dir, DISK_AUTO);
    assert_int_equal(store_damage_clear(store, &err), RC_OK);
    must_close();
    must_open(dir, DISK_AUTO);
    store_status(store, &st);
    assert_false(st.damaged);
    assert_int_equal(read_back(9), RC_OK);
    assert_int_equal(read_back(22), RC_OK);
    must_close();
    remove_dir(dir);
}

/* ---- failures: files must not grow beyond a limit, for a while ---- */
static void limit_files(uint64_t bytes)
{
    struct rlimit l;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    l.rlim_cur = bytes == 0 ? l.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}
static void expect_out(const char *says)
{
    struct store_status st;
    struct rec r = {0};

    store_status(store, &st);
    assert_int_equal(st.rc, RC_IO);
    if (strstr(st.err.msg, says) == NULL) fail_msg("'%s' says not '%s'", st.err.msg, says);
    assert_int_equal(start(&r, 100), RC_IO);
    assert_int_equal(start(&r, 101), RC_IO);
}
/* A write of the log fails: RC_IO for it and for ever; reads go on, the next open has all that was
 * acknowledged. */
static void log_fails(enum disk_engine engine)
{
    struct rec r = {0}, s = {0};
    char dir[64];

    temp_dir(dir, sizeof(dir));
    must_open(dir, engine);
    write_range(0, 5);
    limit_files(40u << 10); /* the preallocated segment: writes behind that place fail */
    assert_int_equal(start(&r, 7), RC_OK);
    assert_int_equal(start(&s, 8), RC_OK);
    while (!r.done || !s.done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    limit_files(0);
    assert_int_equal(r.rc, RC_IO);
    assert_int_equal(s.rc, RC_IO);
    expect_out("");
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    must_open(dir, engine);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(read_back(i), RC_OK);
    write_range(7, 9);
    assert_int_equal(read_back(7), RC_OK);
    must_close();
    remove_dir(dir);
}
static void test_log_fails(void **state)
{
    (void)state;
    log_fails(DISK_AUTO);
    log_fails(DISK_PREAD);
}
/* The index can not be written: durable in the log is not enough for RC_OK. */
static void test_index_fails(void **state)
{
    static uint8_t value[500000];
    struct rec r = {0}, s = {0};
    struct index_batch *b;
    struct err err;
    char dir[64];

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    write_range(0, 5);
    limit_files(SEGMENT);
    assert_int_equal(index_batch_new(store_index(store), &GROUP, &b), RC_OK);
    for (uint64_t i = 1;; i++) {
        const struct apply_map *m = index_batch_map(b);

        assert_true(i < 10);
        assert_int_equal(m->put(m->ctx, (struct slice){value, 1}, (struct slice){value, 500000}),
                         RC_OK);
        if (index_batch_commit(b, (struct index_applied){1, i}, &err) == RC_IO) break;
    }
    index_batch_free(b);
    assert_int_equal(start(&r, 5), RC_OK); /* the log does not know yet */
    assert_int_equal(start(&s, 6), RC_OK);
    while (!r.done || !s.done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    limit_files(0);
    assert_int_equal(r.rc, RC_IO);
    assert_int_equal(s.rc, RC_IO);
    expect_out("index");
    assert_int_equal(read_back(4), RC_OK);
    must_close();
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 7; i++) /* 5 and 6 were in the log: unknown outcome, found now */
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    remove_dir(dir);
}

/* Closed with work under way: each callback fires once, before the close's; what was told OK is
 * there. */
static void test_close_pending(void **state)
{
    struct rec *recs = calloc(24, sizeof(*recs));
    struct rec late = {0};
    char dir[64];

    (void)state;
    assert_non_null(recs);
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 24; i++)
        assert_int_equal(start(&recs[i], i), RC_OK);
    closed = false;
    store_close(store, on_closed, NULL);
    assert_int_equal(start(&late, 25), RC_CANCELED);
    while (!closed)
        (void)uv_run(&loop, UV_RUN_ONCE);
    must_open(dir, DISK_AUTO);
    for (uint32_t i = 0; i < 24; i++) {
        assert_true(recs[i].done);
        assert_true(recs[i].rc == RC_OK || recs[i].rc == RC_CANCELED);
        if (recs[i].rc == RC_OK) assert_int_equal(read_back(i), RC_OK);
    }
    must_close();
    free(recs);
    remove_dir(dir);
}

/* No room for rows: what is durable in the log waits, in its order, nothing new is taken, and
 * nobody calls the disk out; with room it goes on. Closed before there is some: unknown, and
 * replayed. */
static void test_no_room(void **state)
{
    struct rec *recs = calloc(24, sizeof(*recs));
    struct rec late = {0};
    struct store_status st;
    char dir[64];

    (void)state;
    assert_non_null(recs);
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    for (uint32_t round = 0; round < 2; round++) {
        index_room_keep(store_index(store), UINT64_MAX);
        for (uint32_t i = 0; i < 12; i++)
            assert_int_equal(start(&recs[round * 12 + i], round * 12 + i), RC_OK);
        do {
            (void)uv_run(&loop, UV_RUN_ONCE);
            store_status(store, &st);
        } while (!st.rows_full || st.log.appending_n > 0);
        assert_int_equal(start(&late, 100), RC_FULL);
        assert_int_equal(st.rc, RC_OK);
        for (uint32_t i = 0; i < 12; i++)
            assert_false(recs[round * 12 + i].done);
        assert_int_equal(read_back(0), round == 0 ? RC_NOTFOUND : RC_OK);
        if (round == 1) break;
        index_room_keep(store_index(store), 0);
        while (!recs[11].done)
            (void)uv_run(&loop, UV_RUN_ONCE);
        for (uint32_t i = 0; i < 12; i++) {
            assert_true(recs[i].done);
            assert_int_equal(recs[i].rc, RC_OK);
            assert_int_equal(read_back(i), RC_OK);
        }
    }
    must_close();
    for (uint32_t i = 12; i < 24; i++) {
        assert_true(recs[i].done);
        assert_int_equal(recs[i].rc, RC_CANCELED);
    }
    must_open(dir, DISK_AUTO);
    store_status(store, &st);
    assert_int_equal(st.replayed_n, 12);
    assert_false(st.damaged);
    for (uint32_t i = 0; i < 24; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    free(recs);
    remove_dir(dir);
}

/* More than the limit is refused at once, and callbacks come in the order of the calls. */
static uint32_t order_next;
static void on_ordered(struct store_append *a, enum rc rc)
{
    assert_int_equal(rc, RC_OK);
    assert_int_equal((uintptr_t)a->data, order_next);
    order_next++;
}
static void test_limit(void **state)
{
    struct store_append *all = calloc(SEGLOG_APPENDS_MAX + 1, sizeof(*all));
    uint32_t n = 0;
    char dir[64];

    (void)state;
    assert_non_null(all);
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    for (enum rc rc = RC_OK; n <= SEGLOG_APPENDS_MAX; n++) {
        all[n].data = (void *)(uintptr_t)n;
        rc = store_log_append(store, &all[n], &GROUP, 1, 1, n + 1,
                              (struct slice){(const uint8_t *)"x", 1}, on_ordered);
        if (rc == RC_OK) continue;
        assert_int_equal(rc, RC_BUSY);
        break;
    }
    assert_true(n > 100 && n <= SEGLOG_APPENDS_MAX);
    while (order_next < n)
        (void)uv_run(&loop, UV_RUN_ONCE);
    must_close();
    free(all);
    remove_dir(dir);
}

/* ---- io_uring refused: as in many containers ---- */
static int child_refused(const char *dir)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = sizeof(f) / sizeof(f[0]), .filter = f};
    struct store_status st;
    struct err err = {0};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0) {
        return 77;
    }
    if (open_store(dir, DISK_URING, &err) == RC_OK) return 10; /* asked for by name: no fallback */
    if (open_store(dir, DISK_AUTO, &err) != RC_OK) return 11;
    store_status(store, &st);
    if (strcmp(st.engine, "pread") != 0 || strstr(st.engine_reason, "io_uring") == NULL) return 12;
    write_range(0, 16);
    for (uint32_t i = 0; i < 16; i++)
        if (read_back(i) != RC_OK) return 13;
    must_close();
    return 0;
}
static void test_uring_refused(void **state)
{
    char dir[64];
    int status = 0;
    pid_t pid;

    (void)state;
    temp_dir(dir, sizeof(dir));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl(self, self, "refused", dir, (char *)NULL);
        _exit(6);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        remove_dir(dir);
        print_message("skipped: no seccomp filters here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    must_open(dir, DISK_AUTO); /* and another engine reads it */
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(read_back(i), RC_OK);
    must_close();
    remove_dir(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto),          cmocka_unit_test(test_pread),
        cmocka_unit_test(test_kill),          cmocka_unit_test(test_rebuild),
        cmocka_unit_test(test_index_behind),  cmocka_unit_test(test_wal_cut),
        cmocka_unit_test(test_folder),        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_log_fails),     cmocka_unit_test(test_index_fails),
        cmocka_unit_test(test_close_pending), cmocka_unit_test(test_limit),
        cmocka_unit_test(test_no_room),       cmocka_unit_test(test_uring_refused)};
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    int bad;

    if (n < 0 || uv_loop_init(&loop) != 0) return 1;
    if (argc == 6 && strcmp(argv[1], "child") == 0) {
        return child(argv[2], (enum disk_engine)strtoul(argv[3], NULL, 10),
                     (uint32_t)strtoul(argv[4], NULL, 10), (uint32_t)strtoul(argv[5], NULL, 10));
    }
    if (argc == 3 && strcmp(argv[1], "refused") == 0) return child_refused(argv[2]);
    (void)signal(SIGXFSZ, SIG_IGN); /* limit_files: an error, not the end */
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    return uv_loop_close(&loop) != 0 ? 1 : bad;
}
