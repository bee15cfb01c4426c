/* tests/unit/computed/worker/test_runner.c - the sandboxed reader: what it can't do, what it
 * answers, and what its end costs. The program is its own child: `test_runner --child ref BYTES`.
 */
#include "computed/analysis/series.h"
#include "computed/worker/child.h"
#include "computed/worker/models.h"
#include "computed/worker/runner.h"
#include "common/sandbox/sandbox.h"
#include "common/base/hex.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define SIDE 96u

/* ---- the sandbox ---- */
/* In a forked process: which of the forbidden things worked, as bits. */
static int escape(int outside_fd, bool device)
{
    struct sandbox_conf conf = {
        .address_bytes_max = (uint64_t)1 << 40, .keep_fd_max = 4, .device = device};
    struct err e;
    char c;
    int bits = 0;

    if (sandbox_enter(&conf, &e) != RC_OK) return 128;
    if (open("/etc/passwd", O_RDONLY) >= 0) bits |= 1;
    if (open("/tmp/mikura-escape", O_WRONLY | O_CREAT, 0600) >= 0) bits |= 2;
    if (socket(AF_INET, SOCK_STREAM, 0) >= 0) bits |= 4;
    if (kill(getppid(), 0) == 0) bits |= 8;
    if (!device && read(outside_fd, &c, 1) >= 0) bits |= 16; /* it was closed */
    if (fork() >= 0) bits |= 32;
    if (execl("/bin/true", "true", (char *)NULL) == 0) bits |= 64;
    return bits;
}

static void test_sandbox(void **state)
{
    int fd = open("/etc/passwd", O_RDONLY), status;

    (void)state;
    assert_true(fd > 4 || dup2(fd, 9) == 9);
    for (int device = 0; device < 2; device++) {
        pid_t pid = fork();

        if (pid == 0) _exit(escape(fd > 4 ? fd : 9, device != 0));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    (void)close(fd);
    (void)close(9);
}

/* ---- a child ---- */
struct scene {
    uv_loop_t loop;
    struct fibers *fs;
    uint8_t tiff[8 + 2 + 10 * 12 + 4 + 8 + 3 * SIDE * SIDE];
    uint32_t tiff_n;
    uint64_t size; /* told to the child */
    uint32_t reads;
    uint32_t fail_read; /* this read (from 1) fails; 0: none */
    uint32_t kill_read; /* at this read the child is killed */
    uint32_t cancel_read;
    struct runner *r;
    bool ran;
    const char *backend;
    enum job_precision precision;
};

static uint32_t entry(uint8_t *p, uint16_t tag, uint16_t type, uint32_t n, uint32_t v)
{
    le_put16(p, tag);
    le_put16(p + 2, type);
    le_put32(p + 4, n);
    le_put32(p + 8, v);
    return 12;
}

/* Squares with hard edges, as an uncompressed RGB TIFF of one strip. */
static void tiff_make(struct scene *s)
{
    uint8_t *p = s->tiff;
    uint32_t at = 8, bits = 8 + 2 + 10 * 12 + 4, pixels = bits + 8;

    memset(p, 0, sizeof(s->tiff));
    memcpy(p, "II*\0", 4);
    le_put32(p + 4, 8);
    le_put16(p + at, 10);
    at += 2;
    at += entry(p + at, 256, 4, 1, SIDE);
    at += entry(p + at, 257, 4, 1, SIDE);
    at += entry(p + at, 258, 3, 3, bits);
    at += entry(p + at, 259, 3, 1, 1);
    at += entry(p + at, 262, 3, 1, 2);
    at += entry(p + at, 273, 4, 1, pixels);
    at += entry(p + at, 277, 3, 1, 3);
    at += entry(p + at, 278, 4, 1, SIDE);
    at += entry(p + at, 279, 4, 1, 3 * SIDE * SIDE);
    (void)entry(p + at, 284, 3, 1, 1);
    for (uint32_t i = 0; i < 3; i++)
        le_put16(p + bits + 2 * i, 8);
    for (uint32_t i = 0; i < SIDE * SIDE; i++) {
        bool on = (i % SIDE / 7 + i / SIDE / 7) % 2 == 0;

        p[pixels + 3 * i] = on ? 190 : 80;
        p[pixels + 3 * i + 1] = on ? 150 : 70;
        p[pixels + 3 * i + 2] = on ? 140 : 60;
    }
    s->tiff_n = pixels + 3 * SIDE * SIDE;
    s->size = s->tiff_n;
}

static enum rc scene_read(void *data, uint32_t slice, uint64_t off, uint8_t *out, uint32_t n,
                          struct err *reterr)
{
    struct scene *s = data;

    assert_int_equal(slice, 0);
    s->reads++;
    if (s->reads == s->fail_read) return err_set(reterr, RC_UNAVAIL, "no replica");
    if (s->reads == s->kill_read) assert_int_equal(kill(runner_pid(s->r), SIGSEGV), 0);
    if (s->reads == s->cancel_read) runner_cancel(s->r);
    assert_true(off <= sizeof(s->tiff) && n <= sizeof(s->tiff) - off);
    memcpy(out, s->tiff + off, n);
    return RC_OK;
}

static int model_open(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static enum rc child_open(struct scene *s, const char *model, struct err *e)
{
    struct runner_conf conf = {.fs = s->fs,
                               .backend = s->backend,
                               .job = {.tiles_max = 16, .precision = s->precision},
                               .backends_dir = BACKENDS,
                               .address_bytes_max = (uint64_t)4 << 30};
    int fd = model_open(model);
    enum rc rc = runner_open(&conf, fd, &s->r, e);

    (void)close(fd);
    if (rc != RC_OK) print_message("child: %s\n", e->msg);
    return rc;
}

static enum runner_end ask(struct scene *s, struct analysis_result *q, struct err *e)
{
    struct runner_item item = {
        .size = s->size, .media_type = "image/tiff", .read = scene_read, .data = s};

    s->reads = 0;
    return runner_item_run(s->r, &item, q, e);
}

#define MODEL MIKURA_SOURCE_DIR "/deploy/models/quality.onnx"

static void fiber_items(void *arg)
{
    struct scene *s = arg;
    struct analysis_result q;
    struct err e;

    tiff_make(s);
    assert_int_equal(child_open(s, MODEL, &e), RC_OK);
    assert_memory_equal(runner_device(s->r), s->backend, 3);
    assert_int_equal(ask(s, &q, &e), RUNNER_RESULT);
    assert_string_equal(q.label, "usable");
    assert_true(q.score_n >= 9 && q.tile_n == 0 /* not sent */ && s->reads > 0);

    s->tiff[30] ^= 0xff; /* a directory entry's type: the image's own fault */
    s->size = s->tiff_n / 2;
    assert_int_equal(ask(s, &q, &e), RUNNER_ASIDE);
    assert_true(strlen(e.msg) > 5);
    s->size = 0;
    assert_int_equal(ask(s, &q, &e), RUNNER_ASIDE);
    tiff_make(s);
    s->fail_read = 2; /* ours */
    assert_int_equal(ask(s, &q, &e), RUNNER_TROUBLE);
    s->fail_read = 0;
    assert_int_equal(ask(s, &q, &e), RUNNER_RESULT); /* it goes on */
    runner_close(s->r);
    s->ran = true;
}

static void fiber_losses(void *arg)
{
    struct scene *s = arg;
    struct analysis_result q;
    struct err e;

    tiff_make(s);
    assert_int_equal(child_open(s, MODEL, &e), RC_OK);
    s->kill_read = 2;
    assert_int_equal(ask(s, &q, &e), RUNNER_LOST);
    assert_non_null(strstr(e.msg, "signal 11"));
    runner_close(s->r);
    s->kill_read = 0;
    assert_int_equal(child_open(s, MODEL, &e), RC_OK);
    s->cancel_read = 1;
    assert_int_equal(ask(s, &q, &e), RUNNER_LOST);
    assert_int_equal(e.rc, RC_CANCELED);
    runner_close(s->r);
    /* a model that is none */
    assert_int_equal(child_open(s, MIKURA_SOURCE_DIR "/deploy/models/README.md", &e), RC_INVAL);
    s->ran = true;
}

static void scene_run(void (*fn)(void *arg), const char *backend)
{
    struct scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    s->backend = backend;
    assert_int_equal(uv_loop_init(&s->loop), 0);
    assert_int_equal(fibers_open(&s->loop, &s->fs), RC_OK);
    assert_int_equal(fiber_spawn(s->fs, fn, s), RC_OK);
    while (fibers_running(s->fs) > 0)
        (void)uv_run(&s->loop, UV_RUN_ONCE);
    assert_true(s->ran);
    fibers_close(s->fs);
    (void)uv_run(&s->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s->loop), 0);
    free(s);
}

static void test_items(void **state)
{
    (void)state;
    scene_run(fiber_items, "ref");
    scene_run(fiber_items, "cpu"); /* oneDNN compiles its kernels inside the sandbox */
}

/* The job's precision is what runs and what the result says; or it is refused, never ignored. */
static void fiber_precision(void *arg)
{
    struct scene *s = arg;
    struct analysis_result q;
    struct err e = {0};

    tiff_make(s);
    s->precision = JOB_BF16;
    assert_int_equal(child_open(s, MODEL, &e), RC_OK);
    assert_non_null(strstr(runner_device(s->r), ", bf16"));
    switch (ask(s, &q, &e)) {
    case RUNNER_RESULT:
        assert_true(q.score_n > 0);
        break;
    case RUNNER_ASIDE: /* this machine */
        if (strstr(e.msg, "bf16") == NULL) fail_msg("%s", e.msg);
        break;
    default:
        fail_msg("%s", e.msg);
    }
    runner_close(s->r);
    s->ran = true;
}

static void test_precision(void **state)
{
    (void)state;
    scene_run(fiber_precision, "cpu");
}

static void test_losses(void **state)
{
    (void)state;
    scene_run(fiber_losses, "ref");
}

/* ---- frames ---- */
static void test_wire(void **state)
{
    struct analysis_result q = {.label = "usable", .score_n = 2}, r;
    uint8_t p[WIRE_RESULT_MAX];
    uint32_t n;
    char text[8];

    (void)state;
    memcpy(q.score[0].name, "usable", 7);
    q.score[0].value = 0.75;
    memcpy(q.score[1].name, "x\nSPOOFED", 10);
    n = wire_result_encode(&q, p);
    assert_int_equal(wire_result_decode(p, n, 0, &r), RC_OK);
    assert_string_equal(r.label, "usable");
    assert_true(memcmp(&r.score[0].value, &q.score[0].value, 8) == 0);
    assert_string_equal(r.score[1].name, "x?SPOOFED"); /* no line of its own in a log */
    for (uint32_t k = 0; k < n; k++)
        assert_int_equal(wire_result_decode(p, k, 0, &r), RC_CORRUPT);
    assert_int_equal(wire_result_decode(p, n, 3, &r), RC_CORRUPT); /* of a series: no order */
    memset(p + 36 + 32, 0xff, 8);                                  /* NaN */
    assert_int_equal(wire_result_decode(p, n, 0, &r), RC_CORRUPT);
    le_put32(p + 32, ANALYSIS_SCORES_MAX + 1);
    assert_int_equal(wire_result_decode(p, n, 0, &r), RC_CORRUPT);
    q.slice_n = 3; /* of a series: each slice once */
    q.by = SERIES_BY_NUMBER;
    memcpy(q.order, (const uint16_t[]){2, 0, 1}, 6);
    n = wire_result_encode(&q, p);
    assert_int_equal(wire_result_decode(p, n, 3, &r), RC_OK);
    assert_true(r.slice_n == 3 && r.by == SERIES_BY_NUMBER && r.order[0] == 2 && r.order[2] == 1);
    assert_int_equal(wire_result_decode(p, n, 2, &r), RC_CORRUPT);
    assert_int_equal(wire_result_decode(p, n, 0, &r), RC_CORRUPT);
    le_put16(p + n - 2, 0); /* twice */
    assert_int_equal(wire_result_decode(p, n, 3, &r), RC_CORRUPT);
    le_put16(p + n - 2, 3); /* not there */
    assert_int_equal(wire_result_decode(p, n, 3, &r), RC_CORRUPT);
    wire_text((const uint8_t *)"ab\x1b[2Jc", 7, text, sizeof(text));
    assert_string_equal(text, "ab?[2Jc");
}

static void test_wire_job(void **state)
{
    struct job_params p, q;
    uint8_t buf[WIRE_JOB_MAX];
    struct err e;

    (void)state;
    assert_int_equal(job_params_init(&p, "classify", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "size", "4x5x6", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "resize", "crop:0.875", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "mean", "0.5", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "window", "40,400.5", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "std", "0.1,0.2,0.3", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "apply", "none", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "top", "7", &e), RC_OK);
    assert_int_equal(job_params_set(&p, "precision", "bf16", &e), RC_OK);
    assert_int_equal(wire_job_encode(&p, buf), WIRE_JOB_MAX);
    wire_job_decode(buf, &q);
    assert_true(q.kind == p.kind && q.precision == p.precision && q.tiles_max == p.tiles_max);
    assert_true(q.size_n == 3 && memcmp(q.size, p.size, sizeof(p.size)) == 0 && q.crop);
    assert_true(memcmp(&q.crop_part, &p.crop_part, sizeof(double)) == 0);
    assert_true(q.masks && q.window && q.window_center >= 40 && q.window_center <= 40 &&
                memcmp(&q.window_width, &p.window_width, sizeof(double)) == 0);
    assert_true(q.mean_n == 1 && q.std_n == 3 && memcmp(q.mean, p.mean, sizeof(double)) == 0 &&
                memcmp(q.std, p.std, sizeof(p.std)) == 0);
    assert_true(q.apply == JOB_APPLY_NONE && q.top == 7);
}

/* ---- the cache of models ---- */
struct shop {
    char dir[64];
    const char *content;
    uint32_t fetches;
    bool ran;
};

static enum rc shop_fetch(void *data, const uint8_t sha256[32], int fd, struct err *reterr)
{
    struct shop *s = data;

    (void)sha256;
    s->fetches++;
    if (s->content == NULL) return err_set(reterr, RC_NOTFOUND, "no such model");
    assert_int_equal(write(fd, s->content, strlen(s->content)), (ssize_t)strlen(s->content));
    return RC_OK;
}

static void fiber_models(void *arg)
{
    struct scene *sc = arg;
    struct shop s = {.content = "abc"};
    struct models *m;
    uint8_t abc[32], two[32];
    char got[8] = "", path[200], hex[65];
    struct err e;
    int fd;

    assert_true(
        hex_decode("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 64, abc));
    assert_true(
        hex_decode("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", 64, two));
    (void)snprintf(s.dir, sizeof(s.dir), "/tmp/mikura-models-XXXXXX");
    assert_non_null(mkdtemp(s.dir));
    assert_int_equal(models_open(s.dir, /* bytes_max= */ 57, shop_fetch, &s, &m, &e), RC_OK);
    assert_int_equal(models_get(m, abc, &fd, &e), RC_OK);
    assert_int_equal(read(fd, got, sizeof(got)), 3);
    assert_string_equal(got, "abc");
    (void)close(fd);
    assert_int_equal(models_get(m, abc, &fd, &e), RC_OK);
    (void)close(fd);
    assert_int_equal(s.fetches, 1);
    /* another file under its name: fetched again */
    hex_encode(abc, 32, hex);
    (void)snprintf(path, sizeof(path), "%s/%s", s.dir, hex);
    fd = open(path, O_WRONLY);
    assert_int_equal(write(fd, "x", 1), 1);
    (void)close(fd);
    assert_int_equal(models_get(m, abc, &fd, &e), RC_OK);
    (void)close(fd);
    assert_int_equal(s.fetches, 2);
    /* a gateway that gives other bytes */
    assert_int_equal(models_get(m, two, &fd, &e), RC_CORRUPT);
    /* 56 bytes: there is no room for both */
    s.content = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    assert_int_equal(models_get(m, two, &fd, &e), RC_OK);
    (void)close(fd);
    assert_int_equal(access(path, F_OK), -1);
    s.content = NULL;
    assert_int_equal(models_get(m, abc, &fd, &e), RC_NOTFOUND);
    models_close(m);
    hex_encode(two, 32, hex);
    (void)snprintf(path, sizeof(path), "%s/%s", s.dir, hex);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(s.dir), 0); /* nothing half is left */
    sc->ran = true;
}

static void test_models(void **state)
{
    (void)state;
    scene_run(fiber_models, "ref");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sandbox),   cmocka_unit_test(test_items),
        cmocka_unit_test(test_precision), cmocka_unit_test(test_losses),
        cmocka_unit_test(test_wire),      cmocka_unit_test(test_models),
        cmocka_unit_test(test_wire_job)};

    if (argc == 4 && strcmp(argv[1], CHILD_FLAG) == 0) return child_main(argv[2], argv[3]);
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
