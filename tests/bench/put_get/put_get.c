/* tests/bench/put_get/put_get.c - one row of the benchmark: objects of one size put or got by some
 * clients at once, each with a connection of its own, through common/client.
 *
 * usage: put_get put|get COLLECTION SIZE COUNT CONNECTIONS FILE [PID ...]
 * FILE holds SIZE incompressible bytes. The objects are committed, one a case, within the time that
 * is measured. Prints a JSON object: rates, latencies, CPU seconds per GB of user data (utime +
 * stime) of the named processes with their children, of kernel threads and of this client, and the
 * processes' memory: the sum of each one's peak during the row. */
#include "common/base/clock.h"
#include "common/base/macros.h"
#include "common/base/strutil.h"
#include "common/client/client.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256u
#define PIDS_MAX        64u

static struct {
    bool get;
    const char *collection, *file;
    uint64_t size_bytes;
    uint32_t count, next, conns;
    double *took_ms;
    pid_t pids[PIDS_MAX];
    uint32_t pids_n;
    struct mikura_profile profile;
    struct fibers *fs;
    bool failed;
} b;

/* A row of /proc/PID/stat. */
struct proc {
    pid_t pid, ppid;
    uint64_t ticks; /* utime + stime, with those of children that have ended and been waited for */
    bool counted;   /* one of the named processes, or a descendant */
};
struct procs {
    struct proc *row;
    size_t n, cap;
};

static bool proc_read(const char *pid, struct proc *ret)
{
    uint64_t ppid, user, system, user_dead, system_dead, id;
    char path[64], text[1024];
    const char *at;
    FILE *f;
    size_t n;

    if (!str_to_u64(pid, INT32_MAX, &id)) return false;
    (void)snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    f = fopen(path, "r");
    if (f == NULL) return false; /* it has ended */
    n = fread(text, 1, sizeof(text) - 1, f);
    (void)fclose(f);
    text[n] = 0;
    at = strrchr(text, ')'); /* the name in parentheses may hold anything */
    if (at == NULL || sscanf(at + 2,
                             "%*c %" SCNu64 " %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64
                             " %" SCNu64 " %" SCNu64 " %" SCNu64,
                             &ppid, &user, &system, &user_dead, &system_dead) != 5) {
        return false;
    }
    *ret = (struct proc){
        .pid = (pid_t)id, .ppid = (pid_t)ppid, .ticks = user + system + user_dead + system_dead};
    return true;
}

/* All processes, those of the daemons marked. */
static void procs_read(struct procs *ps)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    bool more = true;

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        struct proc one;

        if (!proc_read(e->d_name, &one)) continue;
        if (ps->n == ps->cap) {
            ps->cap = ps->cap * 2 + 64;
            ps->row = realloc(ps->row, ps->cap * sizeof(*ps->row));
            CHECK(ps->row != NULL);
        }
        for (uint32_t i = 0; i < b.pids_n; i++)
            one.counted = one.counted || one.pid == b.pids[i];
        ps->row[ps->n++] = one;
    }
    (void)closedir(d);
    while (more) { /* a child may stand before its parent */
        more = false;
        for (size_t i = 0; i < ps->n; i++) {
            for (size_t j = 0; j < ps->n && !ps->row[i].counted; j++) {
                if (ps->row[j].pid != ps->row[i].ppid || !ps->row[j].counted) continue;
                ps->row[i].counted = more = true;
            }
        }
    }
}

struct cpu {
    double daemons_s, kernel_s, client_s;
};

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* Kernel threads are children of kthreadd; none is seen inside a PID namespace. */
static struct cpu cpu_now(void)
{
    double hz = (double)sysconf(_SC_CLK_TCK);
    struct procs ps = {0};
    struct cpu ret = {0};
    struct rusage ru;

    procs_read(&ps);
    for (size_t i = 0; i < ps.n; i++) {
        if (ps.row[i].counted) ret.daemons_s += (double)ps.row[i].ticks / hz;
        if (ps.row[i].ppid == 2) ret.kernel_s += (double)ps.row[i].ticks / hz;
    }
    free(ps.row);
    CHECK(getrusage(RUSAGE_SELF, &ru) == 0);
    ret.client_s = seconds_of(ru.ru_utime) + seconds_of(ru.ru_stime);
    return ret;
}

/* Let the kernel count each daemon's peak anew (proc(5), clear_refs: 5). */
static void rss_peak_reset(void)
{
    struct procs ps = {0};

    procs_read(&ps);
    for (size_t i = 0; i < ps.n; i++) {
        char path[64];
        FILE *f;

        if (!ps.row[i].counted) continue;
        (void)snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)ps.row[i].pid);
        f = fopen(path, "w");
        if (f == NULL || fputs("5", f) < 0 || fclose(f) != 0) {
            (void)fprintf(stderr, "put_get: cannot write %s: rss_mb is since its start\n", path);
        }
    }
    free(ps.row);
}

/* Sum of VmHWM (each process's own peak) in MiB. */
static double rss_peak_mb(void)
{
    struct procs ps = {0};
    uint64_t kb = 0, one;

    procs_read(&ps);
    for (size_t i = 0; i < ps.n; i++) {
        char path[64], line[256];
        FILE *f;

        if (!ps.row[i].counted) continue;
        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)ps.row[i].pid);
        f = fopen(path, "r");
        while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
            if (sscanf(line, "VmHWM: %" SCNu64, &one) == 1) kb += one;
        }
        if (f != NULL) (void)fclose(f);
    }
    free(ps.row);
    return (double)kb / 1024;
}

static void fail(const char *what, const struct err *e)
{
    if (!b.failed) (void)fprintf(stderr, "put_get: %s: %s\n", what, e->msg);
    b.failed = true;
}

static enum rc put_one(struct mikura_client *c, const char *case_id, int fd, struct err *reterr)
{
    struct mikura_put put = {.collection = b.collection,
                             .case_id = case_id,
                             .path = "o",
                             .media_type = "application/octet-stream",
                             .fd = fd,
                             .size_bytes = b.size_bytes,
                             .request_id = id128_random(),
                             .commit = true};
    struct mikura_put_result r;
    enum rc rc = mikura_put(c, &put, &r, reterr);

    if (rc == RC_OK) mikura__v1__receipt__free_unpacked(r.receipt, NULL);
    return rc;
}

static enum rc on_bytes(void *data, const uint8_t *p, size_t n, struct err *reterr)
{
    uint64_t *got = data;

    (void)p;
    (void)reterr;
    *got += n;
    return RC_OK;
}

static enum rc get_one(struct mikura_client *c, const char *case_id, struct err *reterr)
{
    uint64_t got = 0;
    struct mikura_get get = {.collection = b.collection,
                             .case_id = case_id,
                             .path = "o",
                             .write = on_bytes,
                             .data = &got};
    enum rc rc = mikura_get(c, &get, NULL, reterr);

    if (rc == RC_OK && got != b.size_bytes)
        return err_set(reterr, RC_CORRUPT, "%" PRIu64 " bytes came", got);
    return rc;
}

static void connection(void *arg)
{
    struct mikura_client *c = NULL;
    struct err e = {0};
    int fd = open(b.file, O_RDONLY | O_CLOEXEC);

    (void)arg;
    if (fd < 0) {
        (void)err_set(&e, RC_IO, "cannot open '%s'", b.file);
        fail("file", &e);
        return;
    }
    if (mikura_client_open(b.fs, &b.profile, 0, &c, &e) != RC_OK) fail("connect", &e);
    while (!b.failed && b.next < b.count) {
        uint32_t i = b.next++;
        uint64_t from_us = clock_boot_us();
        char case_id[64];
        enum rc rc;

        (void)snprintf(case_id, sizeof(case_id), "s%" PRIu64 "-%u", b.size_bytes, i);
        rc = b.get ? get_one(c, case_id, &e) : put_one(c, case_id, fd, &e);
        if (rc != RC_OK) fail(case_id, &e);
        b.took_ms[i] = (double)(clock_boot_us() - from_us) / 1e3;
    }
    mikura_client_close(c);
    (void)close(fd);
}

static int by_value(const void *x, const void *y)
{
    double p = *(const double *)x, q = *(const double *)y;

    return (p > q) - (p < q);
}

/* The value that a share q of all does not exceed. */
static double quantile(double q)
{
    uint32_t i = (uint32_t)(q * b.count);

    return b.took_ms[MIN(i, b.count - 1)];
}

static void report(double seconds, const struct cpu *from, const struct cpu *to)
{
    double gb = (double)b.size_bytes * b.count / 1e9;

    qsort(b.took_ms, b.count, sizeof(*b.took_ms), by_value);
    (void)printf("{\"size\":%" PRIu64 ",\"op\":\"%s\",\"n\":%u,\"connections\":%u,\"mb_s\":%.2f,"
                 "\"ops_s\":%.2f,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"cpu_s_per_gb\":%.3f,"
                 "\"kernel_cpu_s_per_gb\":%.3f,\"client_cpu_s_per_gb\":%.3f,\"rss_mb\":%.1f}\n",
                 b.size_bytes, b.get ? "get" : "put", b.count, b.conns, gb * 1e3 / seconds,
                 b.count / seconds, quantile(0.5), quantile(0.99),
                 (to->daemons_s - from->daemons_s) / gb, (to->kernel_s - from->kernel_s) / gb,
                 (to->client_s - from->client_s) / gb, rss_peak_mb());
}

static bool args_read(int argc, char **argv)
{
    uint64_t count, conns, pid;

    if (argc < 7) return false;
    b.get = strcmp(argv[1], "get") == 0;
    b.collection = argv[2];
    b.file = argv[6];
    if ((!b.get && strcmp(argv[1], "put") != 0) ||
        !str_to_u64(argv[3], UINT64_C(1) << 44, &b.size_bytes) ||
        !str_to_u64(argv[4], 1u << 24, &count) || !str_to_u64(argv[5], CONNECTIONS_MAX, &conns) ||
        b.size_bytes == 0 || count == 0 || conns == 0) {
        return false;
    }
    for (int i = 7; i < argc; i++) {
        if (b.pids_n == PIDS_MAX || !str_to_u64(argv[i], INT32_MAX, &pid)) return false;
        b.pids[b.pids_n++] = (pid_t)pid;
    }
    b.count = (uint32_t)count;
    b.conns = (uint32_t)MIN(conns, count);
    return true;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    uint64_t from_us;
    double took_s;
    struct cpu from, to;
    uv_loop_t loop;

    if (!args_read(argc, argv)) {
        (void)fprintf(stderr, "usage: put_get put|get COLLECTION SIZE COUNT CONNECTIONS FILE "
                              "[PID...]\n");
        return 2;
    }
    if (mikura_profile_load(NULL, &b.profile, &e) != RC_OK) {
        (void)fprintf(stderr, "put_get: %s\n", e.msg);
        return 1;
    }
    b.took_ms = calloc(b.count, sizeof(*b.took_ms));
    CHECK(b.took_ms != NULL && uv_loop_init(&loop) == 0 && fibers_open(&loop, &b.fs) == RC_OK);
    rss_peak_reset();
    from = cpu_now();
    from_us = clock_boot_us();
    for (uint32_t i = 0; i < b.conns; i++)
        CHECK(fiber_spawn(b.fs, connection, NULL) == RC_OK);
    while (fibers_running(b.fs) > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    took_s = (double)(clock_boot_us() - from_us) / 1e6;
    to = cpu_now();
    if (!b.failed) report(took_s, &from, &to);
    fibers_close(b.fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&loop) == 0);
    free(b.took_ms);
    return b.failed ? 1 : 0;
}
