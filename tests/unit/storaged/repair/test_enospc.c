/* tests/unit/storaged/repair/test_enospc.c - a real file system that is really full: a small ext4
 * on a loop device, with segments and index on it. Needs root and loop devices; skipped aloud
 * without. */
#include "disk_model.h"
#include "storaged/repair/reclaim.h"
#include "temp_dir.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define FS_MIB 96
#define DIED   77 /* exit status of a child that did what it was to do */

static char base[40], mnt[48];

static const char *mount_fs(void)
{
    char cmd[640];

    temp_dir_make(base, sizeof(base), "enospc", false);
    (void)snprintf(mnt, sizeof(mnt), "%s/mnt", base);
    if (geteuid() != 0) return "mounting needs root";
    if (access("/dev/loop-control", F_OK) != 0) return "no loop devices here";
    (void)snprintf(cmd, sizeof(cmd),
                   "mkdir %s && truncate -s %dM %s/fs.img && mkfs.ext4 -q -m 0 %s/fs.img && "
                   "mount -o loop %s/fs.img %s && rm %s/fs.img",
                   mnt, FS_MIB, base, base, base, mnt, base);
    return system(cmd) == 0 ? NULL : "mkfs.ext4 or mount -o loop is refused here";
}
static int unmount_fs(void **state)
{
    char cmd[256];

    (void)snprintf(cmd, sizeof(cmd),
                   "if mountpoint -q %s; then umount -l %s; fi; rm -rf --one-file-system %s", mnt,
                   mnt, base);
    (void)state;
    return system(cmd);
}
static uint64_t fs_free(void)
{
    struct statvfs s;

    assert_int_equal(statvfs(mnt, &s), 0);
    return (uint64_t)s.f_bavail * s.f_frsize;
}
static void settle(void)
{
    int fd = open(mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(syncfs(fd), 0);
    (void)close(fd);
}
static void expect_works(struct model *m)
{
    struct store_status st;

    store_status(m->store, &st);
    if (st.rc != RC_OK) fail_msg("the disk is out: %s", st.err.msg);
    assert_int_equal(st.log.damage_n, 0);
    assert_false(st.damaged);
}

struct all {
    struct reclaim *r;
    uint64_t n;
    enum rc rc;
    struct err err;
};
static void run_all(void *arg)
{
    struct all *a = arg;
    uint64_t id;

    /* the index grew since it was measured last: as reclaim_run does, again after a while */
    for (uint32_t tries = 0; tries < 30; tries += a->rc == RC_FULL) {
        id = 0;
        a->rc = reclaim_once(a->r, &id, &a->err);
        if (a->rc == RC_FULL) fiber_sleep_ms(100);
        if (a->rc == RC_OK && id != 0) a->n++;
        if (a->rc != RC_FULL && id == 0) break;
    }
}
static uint64_t reclaim_all(struct model *m)
{
    struct reclaim_conf conf = {.store = m->store, .dead_percent = 20, .pause_ms = 10};
    struct all a = {0};

    assert_int_equal(reclaim_new(&conf, &a.r), RC_OK);
    in_fiber(run_all, &a);
    if (a.rc != RC_OK) fail_msg("%s: %s", rc_name(a.rc), a.err.msg);
    reclaim_free(a.r);
    return a.n;
}

/* Chunk i again and again under new ids, until the disk refuses. The model knows MODEL_CHUNKS of
 * them; the disk is made small enough for that. */
static uint32_t fill_until_full(struct model *m, uint32_t from)
{
    for (uint32_t i = from; i < MODEL_CHUNKS; i++) {
        enum rc rc = model_write(m, i);

        if (rc == RC_FULL) return i;
        assert_int_equal(rc, RC_OK);
    }
    fail_msg("the disk did not fill");
    return 0;
}

/* As the service does: what RocksDB's compaction takes for a moment comes back. */
static void append_patiently(struct model *m)
{
    enum rc rc = model_append(m, m->last + 1);

    for (uint32_t tries = 0; rc == RC_FULL && tries < 300; tries++) {
        (void)usleep(10000);
        settle();
        rc = model_append(m, m->last + 1);
    }
    assert_int_equal(rc, RC_OK);
}

/* To the last byte. */
static void fill_rest(int fd)
{
    static uint8_t page[1 << 20];

    for (size_t step = sizeof(page); step >= 4096; step /= 16) {
        ssize_t w;

        do {
            w = write(fd, page, step);
        } while (w > 0);
        assert_true(w == 0 || errno == ENOSPC);
    }
}

/* RocksDB may give back a file of its own meanwhile: then that is filled too. */
static void expect_full(struct model *m, int fd)
{
    enum rc rc = model_write(m, 2);

    for (uint32_t tries = 0; rc == RC_OK && tries < 20; tries++) {
        settle();
        fill_rest(fd);
        rc = model_write(m, 2);
    }
    assert_int_equal(rc, RC_FULL);
}

/* A record that was accepted before RocksDB's own work took the last of the room waits for room. */
struct relief {
    struct model *m;
    int fd;
    uint32_t n;
};
static void on_relief(uv_timer_t *t)
{
    struct relief *r = t->data;
    struct store_status st;
    off_t end = lseek(r->fd, 0, SEEK_END);

    store_status(r->m->store, &st);
    if (!st.rows_full || end < (1 << 20)) return;
    r->n++;
    assert_int_equal(ftruncate(r->fd, end - (1 << 20)), 0);
    settle();
}

/* ---- the index alone: RocksDB meets ENOSPC in the middle of its work ---- */
#define NOTE_BYTES 4096u

static void note_name(uint32_t i, char name[16])
{
    (void)snprintf(name, 16, "row-%u", i);
}
static void note_fill(uint32_t i, uint8_t p[NOTE_BYTES]) /* nothing that could be compressed */
{
    uint64_t x = i + 1;

    for (uint32_t k = 0; k < NOTE_BYTES; k++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        p[k] = (uint8_t)(x >> 56);
    }
}
static enum rc note_put(struct index *ix, uint32_t i, struct err *err)
{
    uint8_t v[NOTE_BYTES];
    char name[16];

    note_name(i, name);
    note_fill(i, v);
    return index_note_put(ix, name, (struct slice){v, sizeof(v)}, err);
}
static void notes_check(struct index *ix, uint32_t n)
{
    uint8_t v[NOTE_BYTES], want[NOTE_BYTES];
    char name[16];
    size_t got = 0;

    for (uint32_t i = 0; i < n; i++) {
        note_name(i, name);
        note_fill(i, want);
        assert_int_equal(index_note_get(ix, name, v, sizeof(v), &got, NULL), RC_OK);
        assert_int_equal(got, sizeof(v));
        assert_memory_equal(v, want, sizeof(v));
    }
}
/* What is left is less than the memtables: writing them out must fail. */
static void fill_but(int fd, uint64_t bytes)
{
    settle();
    if (fs_free() > bytes) assert_int_equal(posix_fallocate(fd, 0, (off_t)(fs_free() - bytes)), 0);
    settle();
}

static void fs_or_skip(void)
{
    const char *why = mount_fs();

    if (why == NULL) return;
    print_message("skipped: %s\n", why);
    skip();
}

static void index_full(uint64_t keep_bytes, uint64_t left_bytes)
{
    struct index_conf conf = {.cache_bytes = 8u << 20};
    struct index *ix = NULL;
    struct err err = {0};
    char dir[96], path[96];
    uint32_t n = 0;
    enum rc rc = RC_OK;
    int fd;

    fs_or_skip();
    (void)snprintf(dir, sizeof(dir), "%s/ix", mnt);
    (void)snprintf(path, sizeof(path), "%s/other", mnt);
    conf.dir = dir;
    assert_int_equal(index_open(&conf, &ix, &err), RC_OK);
    index_room_keep(ix, keep_bytes);
    for (; n < 600; n++) /* of the 4 MiB that make a flush */
        assert_int_equal(note_put(ix, n, &err), RC_OK);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    fill_but(fd, left_bytes);
    for (; n < 20000 && (rc = note_put(ix, n, &err)) == RC_OK; n++) {
    }
    for (uint32_t i = 0; i < 40 && rc == RC_FULL; i++) { /* told so as long as it is so */
        (void)usleep(5000);
        rc = note_put(ix, n, &err);
        n += rc == RC_OK;
        if (rc == RC_OK) rc = RC_FULL; /* RocksDB gave back a file of its own */
    }
    notes_check(ix, n);
    assert_true(rc == RC_FULL || (rc == RC_IO && keep_bytes == 0));
    (void)close(fd);
    assert_int_equal(unlink(path), 0);
    for (uint32_t tries = 0; rc == RC_FULL && tries < 500; tries++) {
        (void)usleep(10000);
        settle();
        rc = note_put(ix, n, &err);
    }
    if (keep_bytes > 0 && rc != RC_OK) fail_msg("%s: %s", rc_name(rc), err.msg);
    n += rc == RC_OK;
    for (uint32_t i = 0; rc == RC_OK && i < 2000; i++, n++) /* and goes on: more flushes */
        assert_int_equal(note_put(ix, n, &err), RC_OK);
    notes_check(ix, n);
    index_close(ix);
    assert_int_equal(index_open(&conf, &ix, &err), RC_OK);
    notes_check(ix, n);
    assert_int_equal(note_put(ix, n, &err), RC_OK);
    index_close(ix);
}
static void test_index_resumes(void **state)
{
    (void)state;
    index_full(/* keep_bytes= */ 1u << 20, /* left_bytes= */ 3u << 20);
}
/* Nothing kept, as when somebody eats it between the look and the write: RocksDB's WAL may meet it
 * too. Then it is an error, once and for all; it never ends the process, and nothing is lost. */
static void test_index_nothing_kept(void **state)
{
    (void)state;
    index_full(/* keep_bytes= */ 0, /* left_bytes= */ 16u << 10);
}

static void model_on(struct model *m)
{
    model_init(m, DISK_AUTO, NULL);
    model_deinit(m); /* its own folder is not used */
    (void)snprintf(m->base, sizeof(m->base), "%s", base);
    (void)snprintf(m->dir, sizeof(m->dir), "%s/disk", mnt);
    m->segment_bytes = 2u << 20;
    m->chunk_bytes = 500000;
    m->cache_bytes = 2u << 20; /* RocksDB's files in proportion */
}
static int other_open(void)
{
    char path[160];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/other", mnt);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}
static void other_gone(int fd)
{
    char path[160];

    (void)close(fd);
    (void)snprintf(path, sizeof(path), "%s/other", mnt);
    assert_int_equal(unlink(path), 0);
    settle(); /* ext4 frees with its next commit */
}

/* Looked for when somebody asks for the status, ten times a second. */
static void reserves_back(struct model *m)
{
    static const char *const names[] = {"ballast", "spare/large-0", "spare/large-3",
                                        "spare/small-0", "spare/small-23"};
    struct store_status st;
    char path[160];

    for (uint32_t i = 0; i < ARRAY_N(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", m->dir, names[i]);
        for (uint32_t tries = 0; tries < 500 && access(path, F_OK) != 0; tries++) {
            (void)usleep(10000);
            store_status(m->store, &st);
        }
        assert_int_equal(access(path, F_OK), 0);
    }
}

/* ---- starts on a full file system ---- */
/* What is there is read, and nothing is taken. */
static void expect_reads_only(struct model *m)
{
    expect_works(m);
    model_check(m, false);
    assert_int_equal(model_write(m, 20), RC_FULL);
    assert_int_equal(model_append(m, m->last + 1), RC_FULL);
}

/* Another process: what it had not given to the kernel is lost with it, and nothing is closed. */
static void die_after(struct model *m, uint32_t entries)
{
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        loop_begin(); /* its own */
        model_open(m);
        for (uint32_t i = 0; i < entries; i++)
            append_patiently(m);
        _exit(DIED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DIED);
    m->last += entries;
}

/* Somebody who takes every block that becomes free, at once. */
static pid_t greedy_begin(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        char path[160];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/greedy", mnt);
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        while (fd >= 0 && getppid() != 1)
            fill_rest(fd);
        _exit(0);
    }
    return pid;
}
static void greedy_end(pid_t pid)
{
    char path[160];

    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    (void)snprintf(path, sizeof(path), "%s/greedy", mnt);
    assert_int_equal(unlink(path), 0);
    settle();
}

/* Open, on the small file system, with a dozen chunks. */
static void model_some(struct model *m)
{
    fs_or_skip();
    model_on(m);
    model_open(m);
    model_fill(m, 0, 12, 30);
}

/* Started again and again on a file system that somebody else fills to the last byte before each
 * start and when it has begun; in the end there is room, and no further start is needed. died: the
 * last one was killed, and the log has entries that the index does not know. */
static void starts_full(bool died)
{
    struct model m;
    int fd;

    model_some(&m);
    for (uint32_t round = 0; round < (died ? 1u : 2u); round++) {
        for (uint32_t i = 0; i < 200; i++) /* rows that are in the WAL only */
            append_patiently(&m);
        model_close(&m);
        if (died) die_after(&m, 20);
        fd = other_open();
        for (uint32_t start = 0; start < 5; start++) {
            fill_rest(fd);
            model_open(&m);
            expect_reads_only(&m);
            settle();
            fill_rest(fd); /* what the start gave back */
            expect_reads_only(&m);
            if (start == 4) break;
            model_close(&m);
        }
        other_gone(fd);
        for (uint32_t i = 0; i < 20; i++)
            append_patiently(&m);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(model_write(&m, 20 + 3 * round + i), RC_OK);
        expect_works(&m);
        model_check(&m, false);
        reserves_back(&m);
    }
    model_close(&m);
    model_open(&m);
    model_check(&m, false);
    model_close(&m);
}
static void test_starts_full(void **state)
{
    (void)state;
    starts_full(/* died= */ false);
}
static void test_starts_full_died(void **state)
{
    (void)state;
    starts_full(/* died= */ true);
}

/* An index that is older than the log (a power cut): its rows are written by the start. */
static void test_starts_full_replays(void **state)
{
    struct model m;
    char cmd[512];
    int fd;

    (void)state;
    model_some(&m);
    model_close(&m);
    (void)snprintf(cmd, sizeof(cmd), "cp -a %s/index %s/index", m.dir, base);
    assert_int_equal(system(cmd), 0);
    model_open(&m);
    for (uint32_t i = 0; i < 300; i++)
        append_patiently(&m);
    model_close(&m);
    (void)snprintf(cmd, sizeof(cmd), "rm -r %s/index && mv %s/index %s/", m.dir, base, m.dir);
    assert_int_equal(system(cmd), 0);
    fd = other_open();
    for (uint32_t start = 0; start < 3; start++) {
        settle();
        fill_rest(fd);
        model_open(&m);
        expect_reads_only(&m);
        if (start < 2) model_close(&m);
    }
    other_gone(fd);
    append_patiently(&m);
    model_check(&m, false);
    model_close(&m);
}

/* A segment is gone: that is told on a full file system, too, and not forgotten. */
static void test_starts_full_damaged(void **state)
{
    struct model m;
    struct store_status st;
    char cmd[512];
    int fd;

    (void)state;
    model_some(&m);
    model_close(&m);
    (void)snprintf(cmd, sizeof(cmd), "rm %s/segments/0000000000000001.seg", m.dir);
    assert_int_equal(system(cmd), 0);
    fd = other_open();
    for (uint32_t start = 0; start < 3; start++) {
        settle();
        fill_rest(fd);
        model_open(&m);
        store_status(m.store, &st);
        assert_int_equal(st.rc, RC_OK);
        assert_true(st.damaged);
        assert_int_equal(model_read(&m, 0), RC_NOTFOUND);
        assert_int_equal(model_read(&m, 11), RC_OK);
        model_close(&m);
    }
    (void)snprintf(cmd, sizeof(cmd), "grep -q 'segment 0000000000000001 from' %s/damaged", m.dir);
    assert_int_equal(system(cmd), 0);
    (void)close(fd);
}

/* A disk with chunks, full, after a start that found it so: no rows are in its WAL. */
static int full_once(struct model *m)
{
    int fd;

    fs_or_skip();
    model_on(m);
    model_open(m);
    model_fill(m, 0, 12, 30);
    model_close(m);
    fd = other_open();
    fill_rest(fd);
    model_open(m);
    model_close(m);
    return fd;
}

/* The first start writes what the WAL holds, before somebody takes all that it leaves; three more
 * beside him, who has every block that becomes free. */
static void test_starts_beside_greedy(void **state)
{
    struct model m;
    pid_t pid;
    int fd;

    (void)state;
    fd = full_once(&m);
    pid = greedy_begin();
    for (uint32_t start = 0; start < INDEX_SPARES_LARGE - 1; start++) {
        model_open(&m);
        expect_reads_only(&m);
        if (start + 2 < INDEX_SPARES_LARGE) model_close(&m);
    }
    greedy_end(pid);
    other_gone(fd);
    for (uint32_t i = 0; i < 20; i++)
        append_patiently(&m);
    model_check(&m, false);
    reserves_back(&m);
    model_close(&m);
}

/* Between full and roomy: no row is taken that a start could not write to a table. */
static void test_no_rows_without_ballast(void **state)
{
    struct model m;
    char path[160];
    uint32_t ok_n = 0, full_n = 0;
    int fd;

    (void)state;
    fd = full_once(&m);
    (void)snprintf(path, sizeof(path), "%s/ballast", m.dir);
    assert_int_equal(unlink(path), 0);
    settle();
    fill_rest(fd);
    model_open(&m);
    expect_reads_only(&m);
    for (uint32_t i = 0; i < 28; i++) { /* room comes back bit by bit */
        off_t end = lseek(fd, 0, SEEK_END);
        struct store_status st;
        struct err err;
        enum rc rc;

        rc = note_put(store_index(m.store), i, &err);
        assert_true(rc == RC_OK || rc == RC_FULL);
        ok_n += rc == RC_OK;
        full_n += rc == RC_FULL;
        if (rc == RC_OK) assert_int_equal(access(path, F_OK), 0); /* first that, then rows */
        assert_true(end > (768 << 10));
        assert_int_equal(ftruncate(fd, end - (768 << 10)), 0);
        settle();
        (void)usleep(110000); /* it looks ten times a second */
        store_status(m.store, &st);
    }
    assert_true(ok_n > 0);
    assert_true(full_n > 3); /* up to 1 MiB, which is enough for rows, and 4 MiB */
    for (uint32_t i = 0; i < 100; i++)
        append_patiently(&m);
    model_close(&m);
    fill_rest(fd);
    model_open(&m);
    expect_reads_only(&m);
    model_close(&m);
    (void)close(fd);
}

static void test_full(void **state)
{
    struct model m;
    uint32_t n;
    uint64_t kept;
    struct relief relief;
    uv_timer_t timer;
    int fd;

    (void)state;
    fs_or_skip();
    model_on(&m);
    model_open(&m);
    n = fill_until_full(&m, 0);
    /* the log's reserve, of which two segments may be made already, and the index's quarter of an
     * eighth */
    kept = fs_free();
    assert_true(kept > m.segment_bytes + (FS_MIB << 20) / 40);
    expect_works(&m);
    /* deletes are entries: more than it takes to drop all */
    for (uint64_t i = 0; i < 100; i++)
        append_patiently(&m);
    for (uint32_t i = 0; i < n; i++)
        if (i % 3 != 0) model_drop(&m, i);
    assert_true(reclaim_all(&m) > 10);
    settle();
    expect_works(&m);
    model_check(&m, false);
    assert_true(fs_free() > kept + (20u << 20));
    for (uint32_t i = 1; i < 40; i += 3) /* and there is room, without a restart */
        assert_int_equal(model_write(&m, i), RC_OK);

    /* somebody else fills the file system to the last byte */
    fd = other_open();
    fill_rest(fd);
    assert_true(fs_free() < 65536);
    relief = (struct relief){.m = &m, .fd = fd};
    timer.data = &relief;
    assert_int_equal(uv_timer_init(&loop, &timer), 0);
    assert_int_equal(uv_timer_start(&timer, on_relief, 50, 50), 0);
    for (int i = 0; i < 50; i++) {
        enum rc rc;

        expect_full(&m, fd);
        rc = model_append(&m, m.last + 1);
        assert_true(rc == RC_FULL || rc == RC_OK); /* RocksDB gave back a file of its own */
    }
    uv_close((uv_handle_t *)&timer, NULL);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    expect_works(&m);
    model_check(&m, false);
    other_gone(fd);
    for (uint32_t i = 0; i < 60; i++)
        append_patiently(&m);
    assert_int_equal(model_write(&m, 2), RC_OK);
    expect_works(&m);
    model_check(&m, false);
    model_close(&m);
    model_open(&m);
    model_check(&m, false);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_index_resumes, unmount_fs),
        cmocka_unit_test_teardown(test_index_nothing_kept, unmount_fs),
        cmocka_unit_test_teardown(test_starts_full, unmount_fs),
        cmocka_unit_test_teardown(test_starts_full_died, unmount_fs),
        cmocka_unit_test_teardown(test_starts_full_replays, unmount_fs),
        cmocka_unit_test_teardown(test_starts_full_damaged, unmount_fs),
        cmocka_unit_test_teardown(test_starts_beside_greedy, unmount_fs),
        cmocka_unit_test_teardown(test_no_rows_without_ballast, unmount_fs),
        cmocka_unit_test_teardown(test_full, unmount_fs)};
    int bad;

    /* mounts of this process's own: they, the loop device and its file go with it, if it is killed
     */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        print_message("no mount namespace: %s\n",
                      strerror(errno)); /* mounting will not go, either */
    loop_begin();
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    if (bad == 0) loop_end(); /* else something is still open, and would be waited for */
    return bad;
}
