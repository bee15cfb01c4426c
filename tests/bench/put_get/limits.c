/* tests/bench/put_get/limits.c - what this machine can do at best, measured beside the benchmark:
 * one loopback stream of TCP or of TLS 1.3 (both ends in this process, on two cores where there are
 * two), and the disk below a folder without the page cache.
 *
 * usage: bench_limits tcp SECONDS
 *        bench_limits tls SECONDS CERT KEY    a server's certificate and key; the cluster's suite
 *        bench_limits disk FILE MIB           two rows; FILE is made, written, read, deleted
 * Prints a JSON object a row, with put_get's fields: size (bytes a call), op (limit_tcp, limit_tls,
 * limit_disk_write, limit_disk_read), mb_s, ops_s, p50_ms and p99_ms of a call, cpu_s_per_gb (this
 * process: both ends), rss_mb. Errors: a line on stderr, exit 1. */
#include "common/base/clock.h"
#include "common/base/macros.h"
#include "common/base/strutil.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STREAM_BYTES (1u << 20) /* of a write: the API's largest message */
#define DISK_BYTES   (4u << 20) /* of a write: a segment log's group commit is of this order */
#define DISK_THREADS 4u         /* in flight: one does not fill a virtual disk */
#define FLUSH_EVERY  16u        /* writes a thread: 64 MiB between two fdatasync */
#define CALLS_MAX    (1u << 20)
#define BUFFER_BYTES DISK_BYTES
#define SECONDS_MAX  60u
#define DISK_MIB_MAX (1u << 20)

struct calls { /* how long each call took */
    double *ms;
    uint32_t n;
};

static void die(const char *what)
{
    (void)fprintf(stderr, "bench_limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double cpu_s(void)
{
    struct timespec t;

    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double wall_s(void)
{
    return (double)clock_boot_us() / 1e6;
}

/* Incompressible, 4096-aligned: some disks and hosts shorten zeros. */
static uint8_t *buffer_new(void)
{
    uint64_t x = UINT64_C(88172645463325252);
    uint8_t *p = aligned_alloc(4096, BUFFER_BYTES);

    CHECK(p != NULL);
    for (size_t i = 0; i < BUFFER_BYTES; i += sizeof(x)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(p + i, &x, sizeof(x));
    }
    return p;
}

static void calls_note(struct calls *c, double from_s)
{
    if (c->n < CALLS_MAX) c->ms[c->n++] = (wall_s() - from_s) * 1e3;
}

static int by_value(const void *x, const void *y)
{
    double p = *(const double *)x, q = *(const double *)y;

    return (p > q) - (p < q);
}

static void report(const char *op, uint32_t size, double bytes, double seconds, double cpu,
                   struct calls *c)
{
    struct rusage ru;

    qsort(c->ms, c->n, sizeof(*c->ms), by_value);
    CHECK(getrusage(RUSAGE_SELF, &ru) == 0 && c->n > 0);
    (void)printf("{\"size\":%u,\"op\":\"%s\",\"mb_s\":%.1f,\"ops_s\":%.1f,\"p50_ms\":%.3f,"
                 "\"p99_ms\":%.3f,\"cpu_s_per_gb\":%.3f,\"rss_mb\":%.1f}\n",
                 size, op, bytes / 1e6 / seconds, bytes / size / seconds, c->ms[c->n / 2],
                 c->ms[c->n - 1 - c->n / 100], cpu / (bytes / 1e9), (double)ru.ru_maxrss / 1024);
    (void)fflush(stdout);
}

/* ---- one loopback stream ---- */

struct stream {
    int listen_fd;
    SSL_CTX *server, *client; /* NULL: TCP */
    struct calls calls;       /* the sender's */
    atomic_bool stop;
};

static void pin(size_t core)
{
    cpu_set_t m;

    CPU_ZERO(&m);
    CPU_SET(core, &m);
    /* where it is forbidden, the scheduler chooses */
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        (void)pthread_setaffinity_np(pthread_self(), sizeof(m), &m);
    }
}

static void *sender(void *arg)
{
    struct stream *s = arg;
    uint8_t *buf = buffer_new();
    SSL *ssl = NULL;
    size_t off = 0;
    int fd;

    pin(1);
    fd = accept(s->listen_fd, NULL, NULL);
    if (fd < 0) die("accept");
    if (s->server != NULL) {
        ssl = SSL_new(s->server);
        CHECK(ssl != NULL && SSL_set_fd(ssl, fd) == 1);
        if (SSL_accept(ssl) != 1) die("TLS handshake, server");
    }
    while (!atomic_load(&s->stop)) {
        double from_s = wall_s();
        ssize_t n = ssl != NULL ? SSL_write(ssl, buf + off, STREAM_BYTES)
                                : send(fd, buf + off, STREAM_BYTES, MSG_NOSIGNAL);

        if (n <= 0) break; /* the reader closed */
        calls_note(&s->calls, from_s);
        off = (off + STREAM_BYTES) % BUFFER_BYTES;
    }
    SSL_free(ssl);
    (void)close(fd);
    free(buf);
    return NULL;
}

static void contexts_new(struct stream *s, const char *cert, const char *key)
{
    s->server = SSL_CTX_new(TLS_server_method());
    s->client = SSL_CTX_new(TLS_client_method());
    CHECK(s->server != NULL && s->client != NULL);
    CHECK(SSL_CTX_set_min_proto_version(s->server, TLS1_3_VERSION) == 1);
    if (SSL_CTX_use_certificate_file(s->server, cert, SSL_FILETYPE_PEM) != 1) die(cert);
    if (SSL_CTX_use_PrivateKey_file(s->server, key, SSL_FILETYPE_PEM) != 1) die(key);
}

static void stream_run(struct stream *s, const char *op, double seconds)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_n = sizeof(at);
    uint8_t *buf = malloc(STREAM_BYTES);
    double from_s, to_s, cpu_from_s, cpu, bytes = 0;
    SSL *ssl = NULL;
    pthread_t t;
    int fd;

    s->calls.ms = calloc(CALLS_MAX, sizeof(*s->calls.ms));
    s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(buf != NULL && s->calls.ms != NULL);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&at, at_n) != 0 ||
        listen(s->listen_fd, 1) != 0 ||
        getsockname(s->listen_fd, (struct sockaddr *)&at, &at_n) != 0) {
        die("listen");
    }
    CHECK(pthread_create(&t, NULL, sender, s) == 0);
    pin(0);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, at_n) != 0) die("connect");
    if (s->client != NULL) {
        ssl = SSL_new(s->client);
        CHECK(ssl != NULL && SSL_set_fd(ssl, fd) == 1);
        if (SSL_connect(ssl) != 1) die("TLS handshake, client");
    }
    from_s = wall_s();
    cpu_from_s = cpu_s();
    do {
        ssize_t n = ssl != NULL ? SSL_read(ssl, buf, STREAM_BYTES) : read(fd, buf, STREAM_BYTES);

        if (n <= 0) die("read");
        bytes += (double)n;
        to_s = wall_s();
    } while (to_s - from_s < seconds);
    cpu = cpu_s() - cpu_from_s;
    atomic_store(&s->stop, true);
    (void)shutdown(fd, SHUT_RDWR); /* wakes a sender that waits for room */
    CHECK(pthread_join(t, NULL) == 0);
    report(op, STREAM_BYTES, bytes, to_s - from_s, cpu, &s->calls);
    SSL_free(ssl);
    SSL_CTX_free(s->server);
    SSL_CTX_free(s->client);
    (void)close(fd);
    (void)close(s->listen_fd);
    free(s->calls.ms);
    free(buf);
}

/* ---- the disk ---- */

struct disk {
    const char *path;
    uint8_t *buf;
    bool write;
    uint32_t from, n; /* this thread's blocks of DISK_BYTES */
    struct calls calls;
};

static void *disk_thread(void *arg)
{
    struct disk *d = arg;
    int fd = open(d->path, (d->write ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC);

    if (fd < 0) die(d->path);
    for (uint32_t i = 0; i < d->n; i++) {
        off_t at = (off_t)(d->from + i) * DISK_BYTES;
        double from_s = wall_s();
        ssize_t n =
            d->write ? pwrite(fd, d->buf, DISK_BYTES, at) : pread(fd, d->buf, DISK_BYTES, at);

        if (n != DISK_BYTES) die(d->path);
        if (d->write && (i % FLUSH_EVERY == FLUSH_EVERY - 1 || i == d->n - 1)) {
            if (fdatasync(fd) != 0) die("fdatasync");
        }
        calls_note(&d->calls, from_s);
    }
    (void)close(fd);
    return NULL;
}

static void disk_pass(const char *path, bool write, uint32_t blocks)
{
    struct disk d[DISK_THREADS];
    struct calls all = {.ms = calloc(blocks, sizeof(double))};
    double from_s, cpu_from_s;
    pthread_t t[DISK_THREADS];

    CHECK(all.ms != NULL);
    for (uint32_t i = 0; i < DISK_THREADS; i++) {
        d[i] = (struct disk){.path = path,
                             .buf = buffer_new(),
                             .write = write,
                             .from = blocks / DISK_THREADS * i,
                             .n = blocks / DISK_THREADS,
                             .calls.ms = calloc(blocks, sizeof(double))};
        CHECK(d[i].calls.ms != NULL);
    }
    from_s = wall_s();
    cpu_from_s = cpu_s();
    for (uint32_t i = 0; i < DISK_THREADS; i++)
        CHECK(pthread_create(&t[i], NULL, disk_thread, &d[i]) == 0);
    for (uint32_t i = 0; i < DISK_THREADS; i++) {
        CHECK(pthread_join(t[i], NULL) == 0);
        memcpy(all.ms + all.n, d[i].calls.ms, d[i].calls.n * sizeof(double));
        all.n += d[i].calls.n;
        free(d[i].calls.ms);
        free(d[i].buf);
    }
    report(write ? "limit_disk_write" : "limit_disk_read", DISK_BYTES, (double)all.n * DISK_BYTES,
           wall_s() - from_s, cpu_s() - cpu_from_s, &all);
    free(all.ms);
}

static void disk_run(const char *path, uint64_t mib)
{
    uint32_t blocks = (uint32_t)ROUND_UP(mib / (DISK_BYTES >> 20), DISK_THREADS);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    /* preallocated, as a segment is */
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)blocks * DISK_BYTES) != 0 || fsync(fd) != 0) {
        die(path);
    }
    (void)close(fd);
    disk_pass(path, true, blocks);
    disk_pass(path, false, blocks);
    if (unlink(path) != 0) die(path);
}

int main(int argc, char **argv)
{
    struct stream s = {.listen_fd = -1};
    uint64_t n;

    (void)signal(SIGPIPE, SIG_IGN); /* SSL_write to a reader that has closed */
    if (argc == 3 && strcmp(argv[1], "tcp") == 0 && str_to_u64(argv[2], SECONDS_MAX, &n)) {
        stream_run(&s, "limit_tcp", (double)n);
    } else if (argc == 5 && strcmp(argv[1], "tls") == 0 && str_to_u64(argv[2], SECONDS_MAX, &n)) {
        contexts_new(&s, argv[3], argv[4]);
        stream_run(&s, "limit_tls", (double)n);
    } else if (argc == 4 && strcmp(argv[1], "disk") == 0 && str_to_u64(argv[3], DISK_MIB_MAX, &n)) {
        disk_run(argv[2], MAX(n, 1));
    } else {
        (void)fprintf(stderr, "usage: bench_limits tcp SECONDS | tls SECONDS CERT KEY | "
                              "disk FILE MIB\n");
        return 2;
    }
    return 0;
}
