/* tests/bench/put_get/limits.c - what this machine can do at best, measured beside the benchmark:
 * one loopback stream of TCP or of TLS 1.3 (both ends in this process, on two cores where there are
 * two), and the disk below a folder without the page cache.
 *
 * usage: bench_limits tcp SECONDS
 *        bench_limits tls SECONDS CERT KEY    a server's certificate and key; the cluster's suite
 *        bench_limits disk FILE MIB           two rows; FILE is made, written, read, deleted
 * Prints a JSON object a row, with put_get's fields: size (bytes a call), op (limit_tcp, limit_tls,
 * limit_disk_write, limit_disk_read), mb_s, ops_s, p50_ms and p99_ms of a call, cpu_s_per_gb (this
 * process: both ends), rss_mb. Errors: a line on stderr, exit 1.
 *        bench_limits floor SECONDS CERT KEY FILE MIB
 * One row, op floor: the CPU that a byte stored under TLS and in three durable copies costs at
 * least, each primitive in a bare loop and as cheap as it is here: received over TLS (the reader's
 * thread alone), hashed, sealed by 64 KiB, sent and received over TCP three times (both ends),
 * three CRC32C, three O_DIRECT writes flushed each 8 MiB. Fields of their names, CPU-seconds per
 * 10^9 bytes with the three times counted; cpu_s_per_gb: their sum. */
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "common/base/macros.h"
#include "common/base/strutil.h"
#include "common/crypto/gcm.h"
#include "common/crypto/sha256.h"
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
#define FLUSH_FLOOR  2u         /* 8 MiB: a chunk's */
#define COPIES       3
#define SEAL_BYTES   65536u
#define LEAF_BYTES   (1u << 20) /* hashed in one */
#define CALLS_MAX    (1u << 20)
#define BUFFER_BYTES DISK_BYTES
#define SECONDS_MAX  60u
#define DISK_MIB_MAX (1u << 20)

struct calls { /* how long each call took */
    double *ms;
    uint32_t n;
};
struct cost {
    double bytes, seconds, cpu_s; /* of this process */
    double reader_cpu_s;          /* of a stream: of the thread that reads */
    struct calls calls;
};

static void die(const char *what)
{
    (void)fprintf(stderr, "bench_limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double clock_s(clockid_t clock)
{
    struct timespec t;

    CHECK(clock_gettime(clock, &t) == 0);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    return clock_s(CLOCK_PROCESS_CPUTIME_ID);
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

/* CPU-seconds per 10^9 bytes. */
static double per_gb(double seconds, const struct cost *of)
{
    return seconds / (of->bytes / 1e9);
}

/* Takes its calls. */
static void report(const char *op, uint32_t size, struct cost of)
{
    struct calls *c = &of.calls;
    struct rusage ru;

    qsort(c->ms, c->n, sizeof(*c->ms), by_value);
    CHECK(getrusage(RUSAGE_SELF, &ru) == 0 && c->n > 0);
    (void)printf("{\"size\":%u,\"op\":\"%s\",\"mb_s\":%.1f,\"ops_s\":%.1f,\"p50_ms\":%.3f,"
                 "\"p99_ms\":%.3f,\"cpu_s_per_gb\":%.3f,\"rss_mb\":%.1f}\n",
                 size, op, of.bytes / 1e6 / of.seconds, of.bytes / size / of.seconds,
                 c->ms[c->n / 2], c->ms[c->n - 1 - c->n / 100], per_gb(of.cpu_s, &of),
                 (double)ru.ru_maxrss / 1024);
    (void)fflush(stdout);
    free(c->ms);
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

/* Contexts of s are used up. */
static struct cost stream_run(struct stream *s, double seconds)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_n = sizeof(at);
    uint8_t *buf = malloc(STREAM_BYTES);
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    double from_s, to_s, cpu_from_s, reader_from_s;
    struct cost of = {0};
    SSL *ssl = NULL;
    pthread_t t;
    int fd;

    atomic_store(&s->stop, false);
    s->calls.n = 0;
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
    reader_from_s = clock_s(CLOCK_THREAD_CPUTIME_ID);
    do {
        ssize_t n = ssl != NULL ? SSL_read(ssl, buf, STREAM_BYTES) : read(fd, buf, STREAM_BYTES);

        if (n <= 0) die("read");
        of.bytes += (double)n;
        to_s = wall_s();
    } while (to_s - from_s < seconds);
    of.seconds = to_s - from_s;
    of.cpu_s = cpu_s() - cpu_from_s;
    of.reader_cpu_s = clock_s(CLOCK_THREAD_CPUTIME_ID) - reader_from_s;
    atomic_store(&s->stop, true);
    /* a reset: it wakes a sender that waits for room, which an orderly end does not always */
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
    (void)close(fd);
    CHECK(pthread_join(t, NULL) == 0);
    of.calls = s->calls;
    SSL_free(ssl);
    SSL_CTX_free(s->server);
    SSL_CTX_free(s->client);
    s->server = s->client = NULL;
    (void)close(s->listen_fd);
    free(buf);
    return of;
}

/* ---- the disk ---- */

struct disk {
    const char *path;
    uint8_t *buf;
    bool write;
    uint32_t from, n, flush_every; /* this thread's blocks of DISK_BYTES */
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
        if (d->write && (i % d->flush_every == d->flush_every - 1 || i == d->n - 1)) {
            if (fdatasync(fd) != 0) die("fdatasync");
        }
        calls_note(&d->calls, from_s);
    }
    (void)close(fd);
    return NULL;
}

/* flush_every: writes a thread between two fdatasync; 0: reads. */
static struct cost disk_pass(const char *path, uint32_t blocks, uint32_t flush_every)
{
    struct cost of = {.calls.ms = calloc(blocks, sizeof(double))};
    struct disk d[DISK_THREADS];
    double from_s, cpu_from_s;
    pthread_t t[DISK_THREADS];

    CHECK(of.calls.ms != NULL);
    for (uint32_t i = 0; i < DISK_THREADS; i++) {
        d[i] = (struct disk){.path = path,
                             .buf = buffer_new(),
                             .write = flush_every > 0,
                             .flush_every = flush_every,
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
        memcpy(of.calls.ms + of.calls.n, d[i].calls.ms, d[i].calls.n * sizeof(double));
        of.calls.n += d[i].calls.n;
        free(d[i].calls.ms);
        free(d[i].buf);
    }
    of.bytes = (double)of.calls.n * DISK_BYTES;
    of.seconds = wall_s() - from_s;
    of.cpu_s = cpu_s() - cpu_from_s;
    return of;
}

/* Its number of blocks. */
static uint32_t disk_file_new(const char *path, uint64_t mib)
{
    uint32_t blocks = (uint32_t)ROUND_UP(MAX(mib / (DISK_BYTES >> 20), 1), DISK_THREADS);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    /* preallocated, as a segment is */
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)blocks * DISK_BYTES) != 0 || fsync(fd) != 0) {
        die(path);
    }
    (void)close(fd);
    return blocks;
}

static void disk_run(const char *path, uint64_t mib)
{
    uint32_t blocks = disk_file_new(path, mib);

    report("limit_disk_write", DISK_BYTES, disk_pass(path, blocks, FLUSH_EVERY));
    report("limit_disk_read", DISK_BYTES, disk_pass(path, blocks, 0));
    if (unlink(path) != 0) die(path);
}

/* ---- what a stored byte costs at least ---- */

struct bytes { /* BUFFER_BYTES each */
    uint8_t *plain, *sealed;
    struct gcm *gcm;
};

static void hash_all(struct bytes *b)
{
    uint8_t digest[SHA256_BYTES];
    struct sha256 one, two;

    for (size_t at = 0; at < BUFFER_BYTES; at += 2 * LEAF_BYTES) {
        sha256_begin(&one);
        sha256_begin(&two);
        sha256_part_pair(&one, b->plain + at, &two, b->plain + at + LEAF_BYTES, LEAF_BYTES);
        sha256_end(&one, digest);
        sha256_end(&two, digest);
    }
}

static void seal_all(struct bytes *b)
{
    uint8_t nonce[GCM_NONCE_BYTES] = {0}, tag[GCM_TAG_BYTES];

    for (size_t at = 0; at < BUFFER_BYTES; at += SEAL_BYTES) {
        nonce[0]++; /* nobody sees what is sealed */
        CHECK(gcm_seal_begin(b->gcm, nonce, NULL, 0) == RC_OK);
        CHECK(gcm_seal_part(b->gcm, b->plain + at, b->sealed + at, SEAL_BYTES) == RC_OK);
        CHECK(gcm_seal_end(b->gcm, tag) == RC_OK);
    }
}

static void check_all(struct bytes *b)
{
    volatile uint32_t crc;

    for (size_t at = 0; at < BUFFER_BYTES; at += SEAL_BYTES)
        crc = crc32c(0, b->sealed + at, SEAL_BYTES);
    (void)crc;
}

static double loop_per_gb(struct bytes *b, void (*all)(struct bytes *), double seconds)
{
    double cpu_from_s, from_s;
    struct cost of = {0};

    all(b); /* warm */
    from_s = wall_s();
    cpu_from_s = cpu_s();
    do {
        all(b);
        of.bytes += BUFFER_BYTES;
    } while (wall_s() - from_s < seconds);
    return per_gb(cpu_s() - cpu_from_s, &of);
}

static void floor_run(struct stream *s, double seconds, const char *path, uint64_t mib)
{
    static const uint8_t KEY[32];
    struct bytes b = {.plain = buffer_new(), .sealed = buffer_new()};
    uint32_t blocks = disk_file_new(path, mib);
    struct cost of;
    double tls, tcp, disk, sha256, seal, crc;

    of = stream_run(s, seconds);
    tls = per_gb(of.reader_cpu_s, &of);
    free(of.calls.ms);
    of = stream_run(s, seconds); /* without TLS: its contexts are used up */
    tcp = COPIES * per_gb(of.cpu_s, &of);
    free(of.calls.ms);
    of = disk_pass(path, blocks, FLUSH_FLOOR);
    disk = COPIES * per_gb(of.cpu_s, &of);
    free(of.calls.ms);
    CHECK(gcm_new(KEY, &b.gcm) == RC_OK);
    sha256 = loop_per_gb(&b, hash_all, seconds / 2);
    seal = loop_per_gb(&b, seal_all, seconds / 2);
    crc = COPIES * loop_per_gb(&b, check_all, seconds / 2);
    (void)printf("{\"op\":\"floor\",\"tls\":%.3f,\"sha256\":%.3f,\"seal\":%.3f,\"tcp\":%.3f,"
                 "\"crc32c\":%.3f,\"disk\":%.3f,\"cpu_s_per_gb\":%.3f}\n",
                 tls, sha256, seal, tcp, crc, disk, tls + sha256 + seal + tcp + crc + disk);
    gcm_free(b.gcm);
    free(b.plain);
    free(b.sealed);
    if (unlink(path) != 0) die(path);
}

int main(int argc, char **argv)
{
    struct stream s = {.listen_fd = -1};
    uint64_t n, mib;

    (void)signal(SIGPIPE, SIG_IGN); /* SSL_write to a reader that has closed */
    if (argc == 3 && strcmp(argv[1], "tcp") == 0 && str_to_u64(argv[2], SECONDS_MAX, &n)) {
        report("limit_tcp", STREAM_BYTES, stream_run(&s, (double)n));
    } else if (argc == 5 && strcmp(argv[1], "tls") == 0 && str_to_u64(argv[2], SECONDS_MAX, &n)) {
        contexts_new(&s, argv[3], argv[4]);
        report("limit_tls", STREAM_BYTES, stream_run(&s, (double)n));
    } else if (argc == 4 && strcmp(argv[1], "disk") == 0 && str_to_u64(argv[3], DISK_MIB_MAX, &n)) {
        disk_run(argv[2], n);
    } else if (argc == 7 && strcmp(argv[1], "floor") == 0 && str_to_u64(argv[2], SECONDS_MAX, &n) &&
               str_to_u64(argv[6], DISK_MIB_MAX, &mib)) {
        contexts_new(&s, argv[3], argv[4]);
        floor_run(&s, (double)n, argv[5], mib);
    } else {
        (void)fprintf(stderr, "usage: bench_limits tcp SECONDS | tls SECONDS CERT KEY | "
                              "disk FILE MIB | floor SECONDS CERT KEY FILE MIB\n");
        return 2;
    }
    return 0;
}
