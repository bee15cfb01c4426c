/* tests/unit/storaged/rot/rot.c - one random fault in one file of a disk's folder, again and again.
 *
 *   rot [--faults N] [--seed S] [--json]
 *
 * Faults: a flipped bit, a zeroed sector, a stale one (what lay there earlier), a misdirected one
 * (what belongs elsewhere); sectors of 512 B and 4 KiB. In every file of the folder: segments
 * (their headers, seals, records' headers, payloads, unwritten space), all of RocksDB's, disk.id,
 * damaged. Each fault is made in a copy of its own, which is checked (storaged check), opened, and
 * read:
 *
 *   - nothing that differs from what was written is ever served;
 *   - found: check, the start, or a read says so; else harmless, which is proven: every record,
 *     every row of state and every promise is there and right.
 *
 * A fault that is neither is a failure; its seed replays it. */
#include "common/base/buf.h"
#include "storaged/store/store_dir.h"
#include "storaged/tools/tools.h"
#include "store_recs.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORDS    28u
#define FILES_MAX  64u
#define PATH_BYTES 160u

enum kind {
    HEADER,
    SEAL,
    RECORDS_PAGE,
    SST,
    WAL,
    MANIFEST,
    CURRENT,
    OPTIONS,
    INDEX_OTHER,
    DISK_ID,
    DAMAGED,
    KIND_N
};
static const char *const KINDS[KIND_N] = {"segment header",
                                          "seal",
                                          "records, payload",
                                          "SST",
                                          "WAL",
                                          "MANIFEST",
                                          "CURRENT",
                                          "OPTIONS",
                                          "RocksDB's IDENTITY, LOG; our mark",
                                          "disk.id",
                                          "damaged"};
enum how { FLIP, ZERO, STALE, MISDIRECTED, HOW_N };
static const char *const HOWS[HOW_N] = {"flip", "zeroed", "stale", "misdirected"};

struct file {
    char name[96];
    off_t bytes;
};
static struct file files[FILES_MAX];
static uint32_t files_n;
static char base[64], old[PATH_BYTES], work[PATH_BYTES];
static uint64_t rng, found_n[KIND_N][2], by_check, by_open, by_read;
static const char NOTE[] = "segment 0000000000000002 from 8192 until 12288\n";
static const struct slice STATE_KEY = {(const uint8_t *)"n", 1};

static uint64_t draw(uint64_t below)
{
    uint64_t z = (rng += 0x9e3779b97f4a7c15ull); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
}

static void shell(const char *fmt, const char *a, const char *b)
{
    char cmd[1024];

    (void)snprintf(cmd, sizeof(cmd), "a='%s' b='%s'; %s", a, b, fmt);
    CHECK(system(cmd) == 0);
}

/* ---- what the index holds besides rows ---- */
static void state_write(uint64_t i)
{
    uint8_t blob[64];
    const struct apply_map *m;
    struct index_batch *batch;
    struct err err;

    CHECK(index_batch_new(store_index(store), &GROUP, &batch) == RC_OK);
    m = index_batch_map(batch);
    CHECK(m->put(m->ctx, STATE_KEY, (struct slice){(uint8_t *)&i, sizeof(i)}) == RC_OK);
    CHECK(index_batch_commit(batch, (struct index_applied){1, i}, &err) == RC_OK);
    index_batch_free(batch);
    memset(blob, (int)i, sizeof(blob));
    CHECK(index_persist(store_index(store), &GROUP, (struct slice){blob, sizeof(blob)}, &err) ==
          RC_OK);
}

/* RC_OK: state, position and promise are those of i; RC_NOTFOUND: older ones or none (lost);
 * others: found. Mixed ones would be served wrong. */
static enum rc state_read(uint64_t want)
{
    uint8_t blob[64] = {0}, same[64];
    struct index_applied at = {0};
    struct err err = {0};
    struct buf v;
    uint64_t i = 0;
    size_t n = 0;
    enum rc rc = index_applied_get(store_index(store), &GROUP, &at, &err), rc2, rc3;

    buf_init(&v, 64);
    rc2 = index_state_get(store_index(store), &GROUP, STATE_KEY, &v, &err);
    if (rc2 == RC_OK) memcpy(&i, v.p, MIN(sizeof(i), v.n));
    buf_deinit(&v);
    rc3 = index_persisted(store_index(store), &GROUP, blob, sizeof(blob), &n, &err);
    if (rc != RC_OK || (rc2 != RC_OK && rc2 != RC_NOTFOUND) || (rc3 != RC_OK && rc3 != RC_NOTFOUND))
        return RC_CORRUPT;
    CHECK(at.index == i && i <= want); /* state and position fit together, always */
    memset(same, blob[0], sizeof(same));
    CHECK(rc3 != RC_OK || (n == sizeof(blob) && memcmp(blob, same, n) == 0 && blob[0] <= want));
    return i == want && rc3 == RC_OK && blob[0] == want ? RC_OK : RC_NOTFOUND;
}

/* ---- the folder ---- */
static void files_list(const char *sub)
{
    char path[512], inner[300];
    struct dirent *e;
    DIR *d;

    (void)snprintf(path, sizeof(path), "%s%.64s", base, sub);
    d = opendir(path);
    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        struct stat st;

        if (e->d_name[0] == '.') continue;
        (void)snprintf(inner, sizeof(inner), "%.30s/%.60s", sub, e->d_name);
        (void)snprintf(path, sizeof(path), "%s%s", base, inner);
        CHECK(stat(path, &st) == 0);
        if (S_ISDIR(st.st_mode)) {
            files_list(inner);
        } else if (st.st_size > 0) { /* reserves have blocks and no bytes */
            CHECK(files_n < FILES_MAX);
            (void)snprintf(files[files_n].name, sizeof(files[0].name), "%.95s", inner);
            files[files_n++].bytes = st.st_size;
        }
    }
    (void)closedir(d);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct file *)a)->name, ((const struct file *)b)->name);
}

static void base_make(void)
{
    temp_dir(base, sizeof(base));
    (void)snprintf(old, sizeof(old), "%s.old", base);
    (void)snprintf(work, sizeof(work), "%s.work", base);
    must_open(base, DISK_AUTO);
    write_range(0, RECORDS / 3);
    state_write(1);
    must_close();
    shell("cp -r $a $b", base, old);
    must_open(base, DISK_AUTO); /* its rows go into an SST now */
    write_range(RECORDS / 3, RECORDS * 2 / 3);
    state_write(2);
    must_close();
    must_open(base, DISK_AUTO);
    write_range(RECORDS * 2 / 3, RECORDS); /* these are in the WAL */
    state_write(3);
    must_close();
    files_list("");
    files[files_n++] = (struct file){"/damaged", sizeof(NOTE) - 1};
    qsort(files, files_n, sizeof(files[0]), by_name);
}

static enum kind kind_of(const struct file *f, off_t at)
{
    const char *n = f->name;

    if (strncmp(n, "/segments/", 10) == 0) {
        return at < 4096 ? HEADER : at < 8192 ? SEAL : RECORDS_PAGE;
    }
    if (strcmp(n, "/disk.id") == 0) return DISK_ID;
    if (strcmp(n, "/damaged") == 0) return DAMAGED;
    n += strlen("/index/");
    if (strstr(n, ".sst") != NULL) return SST;
    if (strstr(n, ".log") != NULL) return WAL;
    if (strncmp(n, "MANIFEST", 8) == 0) return MANIFEST;
    if (strcmp(n, "CURRENT") == 0) return CURRENT;
    return strncmp(n, "OPTIONS", 7) == 0 ? OPTIONS : INDEX_OTHER;
}

static void copy_file(const char *from, const char *to)
{
    static uint8_t buf[1 << 20];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n;

    CHECK(in >= 0 && out >= 0);
    while ((n = read(in, buf, sizeof(buf))) > 0)
        CHECK(write(out, buf, (size_t)n) == n);
    CHECK(n == 0 && close(in) == 0 && close(out) == 0);
}

static void note_write(void)
{
    char path[512];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/damaged", work);
    f = fopen(path, "we");
    CHECK(f != NULL && fputs(NOTE, f) >= 0 && fclose(f) == 0);
}

/* Files that a start never writes in place are shared with the base. */
static void work_make(const struct file *hit)
{
    char from[1024], to[1024];

    (void)snprintf(to, sizeof(to), "%s/segments", work);
    CHECK(mkdir(work, 0700) == 0 && mkdir(to, 0700) == 0);
    (void)snprintf(to, sizeof(to), "%s/index", work);
    CHECK(mkdir(to, 0700) == 0);
    for (uint32_t i = 0; i < files_n; i++) {
        const struct file *f = &files[i];
        bool shared = f != hit && strstr(f->name, ".sst") != NULL;

        if (strcmp(f->name, "/damaged") == 0) { /* only where it is hit: its being there is news */
            if (f == hit) note_write();
            continue;
        }

        (void)snprintf(from, sizeof(from), "%s%s", base, f->name);
        (void)snprintf(to, sizeof(to), "%s%s", work, f->name);
        if (!shared || link(from, to) != 0) copy_file(from, to);
    }
    (void)snprintf(to, sizeof(to), "%s/LOCK", work);
    CHECK(close(open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
}

static void work_drop(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    char sub[1024];

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        (void)snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
        if (unlink(sub) != 0) work_drop(sub);
    }
    (void)closedir(d);
    CHECK(rmdir(path) == 0);
}

/* n bytes of DIR/name at `at`, short at its end; -1: no such file. */
static ssize_t bytes_of_file(const char *dir, const char *name, off_t at, uint8_t *p, size_t n)
{
    char path[1024];
    ssize_t got;
    int fd;

    (void)snprintf(path, sizeof(path), "%s%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    got = pread(fd, p, n, at);
    (void)close(fd);
    return got;
}

/* False: nothing would change. */
static bool fault_make(const struct file *f, enum how how, off_t at, size_t sector, char *says,
                       size_t says_n)
{
    uint8_t is[4096], becomes[4096] = {0};
    char path[1024];
    ssize_t n, m = 0;
    int fd;

    at -= how == FLIP ? 0 : at % (off_t)sector;
    n = bytes_of_file(work, f->name, at, is, how == FLIP ? 1 : sector);
    CHECK(n > 0);
    if (how == FLIP) {
        becomes[0] = is[0] ^ (uint8_t)(1u << draw(8));
    } else if (how == STALE) {
        m = bytes_of_file(old, f->name, at, becomes, (size_t)n);
        if (m < 0) return false;
    } else if (how == MISDIRECTED) {
        const struct file *other = &files[draw(files_n)];
        off_t from = (off_t)draw((uint64_t)other->bytes) / (off_t)sector * (off_t)sector;

        m = bytes_of_file(base, other->name, from, becomes, (size_t)n); /* -1: zeros */
    }
    if (memcmp(is, becomes, (size_t)n) == 0) return false;
    (void)snprintf(path, sizeof(path), "%s%s", work, f->name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && pwrite(fd, becomes, (size_t)n, at) == n && close(fd) == 0);
    (void)snprintf(says, says_n, "%s %s: %zd bytes at %lld", HOWS[how], f->name, n, (long long)at);
    return true;
}

/* ---- one fault ---- */
static uint64_t one_seed;

static void one(bool quiet)
{
    struct tool_args args = {.dir = work};
    struct store_status st;
    struct err err = {0};
    const struct file *f;
    char says[160];
    bool checked, opened, noted = false, whole = true, refused = false;
    enum kind kind, want;
    off_t at;

    rng = one_seed * 0x2545f4914f6cdd1dull;
    do { /* kinds alike often, whatever their sizes */
        want = (enum kind)draw(KIND_N);
        f = &files[draw(files_n)];
        at = (off_t)draw((uint64_t)f->bytes);
        if (want == HEADER) at %= 4096;
        if (want == SEAL) at = 4096 + at % 4096;
        kind = kind_of(f, MIN(at, f->bytes - 1));
    } while (kind != want || at >= f->bytes);
    work_make(f);
    if (!fault_make(f, (enum how)draw(HOW_N), at, draw(2) == 0 ? 512 : 4096, says, sizeof(says))) {
        work_drop(work);
        return;
    }
    checked = tool_check(&args) != TOOL_OK;
    opened = open_store(work, DISK_AUTO, &err) == RC_OK;
    if (opened) {
        store_status(store, &st);
        noted = st.damaged || st.log.damage_n > 0;
        if (kind == DAMAGED) { /* its being there counts, no byte of it is read */
            CHECK(st.damaged);
            noted = checked = false;
        }
        for (uint32_t i = 0; i < RECORDS; i++) {
            enum rc rc = read_back(i); /* fails itself if other bytes are served */

            whole = whole && rc == RC_OK;
            refused = refused || (rc != RC_OK && rc != RC_NOTFOUND);
        }
        switch (state_read(3)) {
        case RC_OK:
            break;
        case RC_NOTFOUND:
            whole = false;
            break;
        default:
            whole = false;
            refused = true;
        }
        must_close();
    }
    work_drop(work);
    by_check += checked;
    by_open += !opened || noted;
    by_read += refused;
    if (!checked && opened && !noted && !refused && !whole) {
        (void)fprintf(stderr,
                      "FAILED: lost and nobody says so: %s; again: rot --faults 1 --seed %" PRIu64
                      "\n",
                      says, one_seed);
        if (!quiet) exit(1);
        found_n[kind][1] += 1000000;
    } else {
        found_n[kind][checked || !opened || noted || refused ? 0 : 1]++;
    }
}

static void report(uint64_t faults, uint64_t seed, bool json)
{
    uint64_t found = 0, harmless = 0;

    for (uint32_t k = 0; k < KIND_N; k++) {
        found += found_n[k][0];
        harmless += found_n[k][1];
        if (json) {
            (void)printf("{\"kind\":\"%s\",\"found\":%" PRIu64 ",\"harmless\":%" PRIu64 "}\n",
                         KINDS[k], found_n[k][0], found_n[k][1]);
        } else {
            (void)printf("  %-32s %6" PRIu64 " found, %6" PRIu64 " harmless\n", KINDS[k],
                         found_n[k][0], found_n[k][1]);
        }
    }
    (void)printf("%" PRIu64 " faults from seed %" PRIu64 ": %" PRIu64 " found (%" PRIu64
                 " by check, %" PRIu64 " by the start, %" PRIu64 " by reads), %" PRIu64
                 " harmless, none served wrong, none missed\n",
                 faults, seed, found, by_check, by_open, by_read, harmless);
}

int main(int argc, char **argv)
{
    uint64_t faults = 50, seed = 1, done = 0;
    bool json = false, quiet = false;
    int out, null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--go-on") == 0) {
            quiet = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--faults") == 0) {
            faults = strtoull(argv[++i], NULL, 10);
        } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[++i], NULL, 10);
        } else {
            (void)fprintf(stderr, "usage: rot [--faults N] [--seed S] [--json] [--go-on]\n");
            return 2;
        }
    }
    CHECK(uv_loop_init(&loop) == 0 && null >= 0);
    base_make();
    out = dup(1);
    CHECK(out >= 0 && dup2(null, 1) == 1); /* what check prints */
    for (one_seed = seed; done < faults; one_seed++) {
        one(quiet);
        done = 0;
        for (uint32_t k = 0; k < KIND_N; k++)
            done += found_n[k][0] + found_n[k][1] % 1000000;
    }
    (void)fflush(stdout);
    CHECK(dup2(out, 1) == 1);
    report(done, seed, json);
    shell("rm -rf $a $b", base, old);
    shell("rmdir \"$(dirname $a)\"", base, old);
    CHECK(uv_loop_close(&loop) == 0);
    return 0;
}
