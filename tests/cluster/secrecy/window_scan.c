/* tests/cluster/secrecy/window_scan.c - are there 32 bytes of these in those?
 *
 *   window_scan NEEDLES HAYSTACK...
 * Every window of 32 bytes with at least 12 distinct values that lies in a file of the folder
 * NEEDLES is looked for in every file below each HAYSTACK, at every offset. Prints what it finds
 * and how much it looked at. Exit 0: nothing found, 1: found, 2: something could not be read.
 *
 * A window's 64-bit polynomial hash rolls over the bytes; needles' hashes lie in a table behind a
 * bit map. Two windows with one hash: about 1 in 10^5 runs over 1 GB, and then the test fails, not
 * passes. Holes of sparse files are skipped, other file types are not followed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW       32u
#define DISTINCT_MIN 12u
#define MAP_BITS     28u
#define BLOCK_BYTES  (1u << 20)
#define ZEROS        4096
#define HITS_TOLD    20u

static uint64_t value_of[256]; /* a random word for each byte value */
static uint64_t out_factor;    /* FACTOR^31: of the byte that leaves */
#define FACTOR 0x9e3779b97f4a7c15ull

struct table {
    uint64_t *slot; /* open addressing; 0 = empty */
    uint64_t mask, n;
    uint8_t *map;
};
struct roll {
    uint8_t ring[WINDOW];
    uint64_t hash, seen;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    x ^= x >> 33;
    return x | 1; /* never 0, which means empty */
}

static inline void roll_push(struct roll *r, uint8_t b)
{
    uint8_t *at = &r->ring[r->seen++ % WINDOW];

    if (r->seen > WINDOW) r->hash -= value_of[*at] * out_factor;
    *at = b;
    r->hash = r->hash * FACTOR + value_of[b];
}

static unsigned distinct(const struct roll *r)
{
    uint64_t have[4] = {0};
    unsigned n = 0;

    for (unsigned i = 0; i < WINDOW; i++)
        have[r->ring[i] >> 6] |= 1ull << (r->ring[i] & 63);
    for (unsigned i = 0; i < 4; i++)
        n += (unsigned)__builtin_popcountll(have[i]);
    return n;
}

static void table_add(struct table *t, uint64_t h)
{
    uint64_t i = h & t->mask;

    while (t->slot[i] != 0) {
        if (t->slot[i] == h) return;
        i = (i + 1) & t->mask;
    }
    if (++t->n > t->mask / 2) {
        (void)fprintf(stderr, "window_scan: needles of more than their size\n");
        exit(2);
    }
    t->slot[i] = h;
    t->map[h >> (64 - MAP_BITS) >> 3] |= (uint8_t)(1u << (h >> (64 - MAP_BITS) & 7));
}

static inline bool table_has(const struct table *t, uint64_t h)
{
    uint64_t i = h & t->mask;

    if ((t->map[h >> (64 - MAP_BITS) >> 3] >> (h >> (64 - MAP_BITS) & 7) & 1) == 0) return false;
    for (; t->slot[i] != 0; i = (i + 1) & t->mask) {
        if (t->slot[i] == h) return true;
    }
    return false;
}

static int trouble(const char *what, const char *path)
{
    (void)fprintf(stderr, "window_scan: %s '%s': %s\n", what, path, strerror(errno));
    return 2;
}

/* ---- walking ---- */
struct walk {
    struct table *t;
    bool adding;
    uint64_t files, bytes, hits, windows;
};

static void window_seen(struct walk *w, const struct roll *r, const char *path, uint64_t end)
{
    uint64_t h = mix(r->hash);

    if (w->adding) {
        if (distinct(r) < DISTINCT_MIN) return;
        w->windows++;
        table_add(w->t, h);
    } else if (table_has(w->t, h) && distinct(r) >= DISTINCT_MIN) {
        if (w->hits++ < HITS_TOLD) printf("found: %s at byte %" PRIu64 "\n", path, end - WINDOW);
    }
}

/* Of p[0, WINDOW + ZEROS). */
static bool all_zero(const uint8_t *p)
{
    return p[0] == 0 && memcmp(p, p + 1, WINDOW + ZEROS - 1) == 0;
}

static int file_scan(struct walk *w, const char *path)
{
    static uint8_t buf[BLOCK_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct roll r = {.seen = 0};
    off_t at = 0;
    int rc = 0;

    if (fd < 0) return errno == ENOENT ? 0 : trouble("open", path); /* gone since it was listed */
    w->files++;
    for (;;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        ssize_t n;

        if (data < 0) {
            if (errno != ENXIO) rc = trouble("seek", path);
            break;
        }
        if (data > at) memset(&r, 0, sizeof r); /* a hole: no window goes across */
        n = pread(fd, buf, sizeof buf, data);
        if (n < 0) rc = trouble("read", path);
        if (n <= 0) break;
        for (ssize_t i = 0; i < n; i++) {
            /* after a window of zeros, more of them change nothing */
            if (i >= WINDOW && i % ZEROS == 0 && n - i >= ZEROS && all_zero(buf + i - WINDOW)) {
                i += ZEROS - 1;
                continue;
            }
            roll_push(&r, buf[i]);
            if (r.seen >= WINDOW) window_seen(w, &r, path, (uint64_t)(data + i) + 1);
        }
        at = data + n;
        w->bytes += (uint64_t)n;
    }
    (void)close(fd);
    return rc;
}

static int walk_path(struct walk *w, const char *path)
{
    struct stat st;
    struct dirent *e;
    DIR *d;
    int rc = 0;

    if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : trouble("stat", path);
    if (S_ISREG(st.st_mode)) return file_scan(w, path);
    if (!S_ISDIR(st.st_mode)) return 0;
    d = opendir(path);
    if (d == NULL) return errno == ENOENT ? 0 : trouble("open", path);
    while (rc == 0 && (e = readdir(d)) != NULL) {
        char *child;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (asprintf(&child, "%s/%s", path, e->d_name) < 0) {
            rc = 2;
            break;
        }
        rc = walk_path(w, child);
        free(child);
    }
    (void)closedir(d);
    return rc;
}

static uint64_t folder_bytes(const char *path)
{
    struct dirent *e;
    struct stat st;
    uint64_t n = 0;
    DIR *d = opendir(path);

    while (d != NULL && (e = readdir(d)) != NULL) {
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            n += (uint64_t)st.st_size;
    }
    if (d != NULL) (void)closedir(d);
    return n;
}

int main(int argc, char **argv)
{
    struct table t = {.slot = NULL};
    struct walk add = {.t = &t, .adding = true}, look = {.t = &t};
    uint64_t seed = 1, slots = 1024;
    int rc;

    if (argc < 3) {
        (void)fprintf(stderr, "usage: window_scan NEEDLES HAYSTACK...\n");
        return 2;
    }
    for (unsigned i = 0; i < 256; i++)
        value_of[i] = mix(seed += FACTOR);
    out_factor = 1;
    for (unsigned i = 0; i + 1 < WINDOW; i++)
        out_factor *= FACTOR;
    while (slots < folder_bytes(argv[1]) * 2)
        slots *= 2;
    t.slot = calloc(slots, sizeof *t.slot);
    t.map = calloc(1, (1ull << MAP_BITS) / 8);
    t.mask = slots - 1;
    if (t.slot == NULL || t.map == NULL) return trouble("memory for", argv[1]);
    rc = walk_path(&add, argv[1]);
    if (rc == 0 && add.windows == 0) {
        (void)fprintf(stderr, "window_scan: nothing to look for in '%s'\n", argv[1]);
        rc = 2;
    }
    for (int i = 2; i < argc && rc == 0; i++)
        rc = walk_path(&look, argv[i]);
    printf("%" PRIu64 " windows of %" PRIu64 " files; looked at %" PRIu64 " files, %" PRIu64
           " bytes: %" PRIu64 " found\n",
           add.windows, add.files, look.files, look.bytes, look.hits);
    free(t.slot);
    free(t.map);
    return rc != 0 ? rc : look.hits > 0 ? 1 : 0;
}
