/* tests/unit/gateway/agent/test_journal.c - the journal on a disk: what a restart knows, a cut-off
 * write, damage, a second agent, compaction. */
#include "gateway/agent/journal.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static uv_loop_t loop;
static struct fibers *fs;
static char dir[64];

static void in_fiber(void (*fn)(void *arg))
{
    assert_int_equal(fiber_spawn(fs, fn, NULL), RC_OK);
    while (fibers_running(fs) > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/mikura-journal-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(fibers_open(&loop, &fs), RC_OK);
    return 0;
}

static int teardown(void **state)
{
    static const char *const FILES[] = {"journal", "journal.new", "lock"};
    char path[128];

    (void)state;
    fibers_close(fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    for (size_t i = 0; i < ARRAY_N(FILES); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, FILES[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static struct journal *open_it(bool read_only)
{
    struct journal_conf conf = {.dir = dir, .collection = "col", .read_only = read_only};
    struct journal *j = NULL;
    uint64_t cut;
    struct err e;

    if (journal_open(&conf, &j, &cut, &e) != RC_OK) fail_msg("%s", e.msg);
    return j;
}

static enum rc try_open(uint64_t *ret_cut, struct err *e)
{
    struct journal_conf conf = {.dir = dir, .collection = "col"};
    struct journal *j;
    enum rc rc = journal_open(&conf, &j, ret_cut, e);

    if (rc == RC_OK) journal_close(j);
    return rc;
}

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void add(struct journal *j, const char *case_id, enum journal_kind kind, uint32_t n,
                uint8_t id)
{
    struct journal_rec *r = calloc(1, sizeof *r);
    char paths[4][16];
    struct err e;

    r->kind = kind;
    r->case_id = text(case_id);
    r->root = text("/in");
    r->text = text("a reason");
    r->id.b[0] = id;
    r->print[0] = id;
    r->generation = 3;
    r->files_n = n;
    for (uint32_t i = 0; i < n; i++) {
        (void)snprintf(paths[i], sizeof paths[i], "f%u", n - i); /* not in order */
        r->files[i] = (struct journal_file){text(paths[i]), 10 + i, 5, 6, 7};
        r->results[i] = (struct journal_result){.version = 100 + i, .size_bytes = 10 + i};
    }
    if (journal_add(j, r, &e) != RC_OK) fail_msg("%s", e.msg);
    free(r);
}

static void check(struct journal *j)
{
    struct jcase *k = journal_case(j, "one");

    assert_non_null(k);
    assert_int_equal(k->state, JCASE_OPEN);
    assert_int_equal(k->files_n, 4);
    assert_int_equal(jcase_file(k, "f3")->state, JFILE_STAGED);
    assert_int_equal(jcase_file(k, "f3")->result.version, 100);
    assert_int_equal(jcase_file(k, "f2")->result.version, 101);
    assert_int_equal(jcase_file(k, "f1")->result.version, 102);
    assert_int_equal(jcase_file(k, "f4")->state, JFILE_SENDING);
    assert_int_equal(journal_case(j, "two")->state, JCASE_DONE);
    assert_int_equal(journal_case(j, "two")->generation, 3);
    assert_int_equal(journal_case(j, "two")->files_n, 0);
    assert_int_equal(journal_case(j, "three")->state, JCASE_COMMITTING);
    assert_int_equal(journal_case(j, "three")->commit_id.b[0], 9);
    assert_int_equal(journal_case(j, "four")->state, JCASE_ASIDE);
    assert_string_equal(journal_case(j, "four")->why, "a reason");
    assert_true(jcase_file(journal_case(j, "four"), "f1")->looked);
    assert_null(journal_case(j, "five"));
}

static void fill(struct journal *j)
{
    add(j, "one", JOURNAL_CASE, 0, 1);
    add(j, "one", JOURNAL_UPLOAD, 4, 2);
    add(j, "one", JOURNAL_UPLOAD, 3, 3); /* three of them anew, in another order */
    add(j, "one", JOURNAL_STAGED, 3, 3);
    add(j, "two", JOURNAL_CASE, 0, 4);
    add(j, "two", JOURNAL_UPLOAD, 2, 5);
    add(j, "two", JOURNAL_STAGED, 2, 5);
    add(j, "two", JOURNAL_COMMIT, 0, 6);
    add(j, "two", JOURNAL_DONE, 0, 4);
    add(j, "three", JOURNAL_CASE, 0, 7);
    add(j, "three", JOURNAL_UPLOAD, 1, 8);
    add(j, "three", JOURNAL_STAGED, 1, 8);
    add(j, "three", JOURNAL_COMMIT, 0, 9);
    add(j, "four", JOURNAL_CASE, 0, 10);
    add(j, "four", JOURNAL_HELD, 1, 0);
    add(j, "four", JOURNAL_LOOKED, 1, 0);
    add(j, "four", JOURNAL_ASIDE, 0, 0);
}

static void again_run(void *arg)
{
    struct journal *j = open_it(false);
    struct err e;

    (void)arg;
    fill(j);
    check(j);
    journal_close(j);
    j = open_it(false);
    check(j);
    assert_int_equal(journal_compact(j, true, &e), RC_OK);
    check(j);
    add(j, "one", JOURNAL_HELD, 1, 0);
    add(j, "one", JOURNAL_UPLOAD, 3, 3);
    add(j, "one", JOURNAL_STAGED, 3, 3);
    check(j);
    journal_close(j);
    j = open_it(true);
    check(j);
    journal_close(j);
}
static void again(void **state)
{
    (void)state;
    in_fiber(again_run);
}

static void second_run(void *arg)
{
    struct journal *j = open_it(false), *beside;
    uint64_t cut;
    struct err e;
    char pid[32];

    (void)arg;
    assert_int_equal(try_open(&cut, &e), RC_BUSY);
    (void)snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(e.msg, pid));
    beside = open_it(true);
    journal_close(beside);
    journal_close(j);
    assert_int_equal(try_open(&cut, &e), RC_OK);
}
static void second(void **state)
{
    (void)state;
    in_fiber(second_run);
}

static size_t load(uint8_t *p, size_t cap)
{
    char path[128];
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof path, "%s/journal", dir);
    fd = open(path, O_RDONLY);
    n = read(fd, p, cap);
    (void)close(fd);
    assert_true(n > 0 && (size_t)n < cap);
    return (size_t)n;
}

static void store(const uint8_t *p, size_t n)
{
    char path[128];
    int fd;

    (void)snprintf(path, sizeof path, "%s/journal", dir);
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    (void)close(fd);
}

/* Cut at every byte it opens with what was whole; a bit that flips in a durable record is refused,
 * and the file stays as it is. */
static void damage_run(void *arg)
{
    static uint8_t bytes[65536], now[65536];
    struct journal *j = open_it(false);
    uint64_t cut;
    struct err e;
    size_t n;

    (void)arg;
    fill(j);
    journal_close(j);
    n = load(bytes, sizeof bytes);
    for (size_t at = JOURNAL_MAGIC_BYTES + 100; at < n; at += 7) {
        store(bytes, at);
        if (try_open(&cut, &e) != RC_OK) fail_msg("cut at %zu: %s", at, e.msg);
        assert_int_equal(load(now, sizeof now) + cut, at);
    }
    for (size_t at = JOURNAL_MAGIC_BYTES; at < n - 200; at += 11) {
        bytes[at] ^= 4;
        store(bytes, n);
        if (try_open(&cut, &e) != RC_CORRUPT) fail_msg("a flipped bit at %zu was taken", at);
        assert_non_null(strstr(e.msg, "damaged"));
        assert_int_equal(load(now, sizeof now), n);
        bytes[at] ^= 4;
    }
    store((const uint8_t *)"something else, longer than a magic", 35);
    assert_int_equal(try_open(&cut, &e), RC_CORRUPT);
}
static void damage(void **state)
{
    (void)state;
    in_fiber(damage_run);
}

static void other_run(void *arg)
{
    struct journal_conf conf = {.dir = dir, .collection = "another"};
    struct journal *j = open_it(false);
    uint64_t cut;
    struct err e;

    (void)arg;
    journal_close(j);
    assert_int_equal(journal_open(&conf, &j, &cut, &e), RC_PRECOND);
    assert_non_null(strstr(e.msg, "'col'"));
}
static void other(void **state)
{
    (void)state;
    in_fiber(other_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(again, setup, teardown),
        cmocka_unit_test_setup_teardown(second, setup, teardown),
        cmocka_unit_test_setup_teardown(damage, setup, teardown),
        cmocka_unit_test_setup_teardown(other, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
