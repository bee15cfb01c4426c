/* tests/fuzz/disk/fuzz_segment.c - a whole segment file of any content: the offline scan, the
 * start's recovery, replay, and reads of what is found. The input is a list of steps that build the
 * file (good records and payloads with right CRCs are rare in random bytes), then change it.
 *
 * Holds: no call fails but with RC_PRECOND (a header of another disk); every record that replay
 * gives reads with RC_OK or RC_CORRUPT; a second start replays as many. */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "storaged/segment/seglog.h"
#include "storaged/segment/seglog_scan.h"
#include "tests/fuzz/in.h"
#include <string.h>
#include <uv.h>

#define PAGES   10u
#define FOUND   16u
#define NAME    "0000000000000001.seg"
#define DISK_ID 7

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uv_loop_t loop;
static uint8_t image[PAGES * DISK_ALIGN_BYTES] __attribute__((aligned(DISK_ALIGN_BYTES)));
static struct seg_location found[FOUND];
static uint32_t found_n;

/* ---- input to image ---- */
static void page_head(uint8_t *page, bool seal, uint64_t a, uint64_t b)
{
    static const uint8_t zero[4];
    uint32_t crc;

    memcpy(page, seal ? "MIKURAE\x1a" : "MIKURAS\x1a", 8);
    le_put32(page + 8, 1 + (uint32_t)(b % SEGLOG_FORMAT));
    memset(page + 16, DISK_ID, 16);
    le_put64(page + 32, 1);
    le_put64(page + 40, 1);
    le_put64(page + 48, a);
    le_put64(page + 56, b);
    crc = crc32c(crc32c(0, page, 12), zero, 4);
    le_put32(page + 12, crc32c(crc, page + 16, DISK_ALIGN_BYTES - 16));
}

/* A small record's header, as earlier versions wrote it: a page of its own. */
static void as_before(uint8_t *p, bool moved)
{
    uint8_t head[RECORD_SMALL_HEADER_BYTES];

    memcpy(head, p, sizeof(head));
    memset(p, 0, DISK_ALIGN_BYTES);
    memcpy(p, head, sizeof(head));
    le_put32(p + 8, moved ? RECORD_FORMAT_MOVED : RECORD_FORMAT);
    le_put32(p + 12, DISK_ALIGN_BYTES);
    le_put32(p + 252, 0);
    le_put32(p + 252, crc32c(0, p, DISK_ALIGN_BYTES));
}

/* A record at page k; returns the pages that it takes. */
static uint32_t record_put(struct in *in, uint32_t k, uint64_t seq)
{
    struct record_block block = {0};
    uint32_t how = take(in, 1), plain = 1 + take(in, 2) % (3 * DISK_ALIGN_BYTES), pages, head_n;
    uint8_t *at = image + (size_t)k * DISK_ALIGN_BYTES;
    struct record_header h = {.type = how & 1 ? RECORD_CHUNK : RECORD_LOG_ENTRY,
                              .cipher_suite = how & 1,
                              .segment_id = how & 2 ? 1 + take(in, 1) % 2 : 1,
                              .segment_generation = how & 4 ? take(in, 1) % 3 : 1,
                              .sequence = how & 8 ? 1 + take(in, 1) : seq,
                              .flushed_upto = take(in, 1) % (PAGES + 2) * DISK_ALIGN_BYTES,
                              .pool = 1,
                              .plain_bytes = plain,
                              .log_index = seq};

    if (how & 16) {
        h.prior_segment_id = take(in, 1) % 3;
        h.prior_end = take(in, 1) * DISK_ALIGN_BYTES;
    }
    if (how & 32)
        h.moved_from =
            (struct record_source){1 + take(in, 1) % 3, 1, take(in, 1) * DISK_ALIGN_BYTES};
    head_n = how & 64 ? DISK_ALIGN_BYTES : record_header_bytes(plain);
    pages = record_bytes(head_n, plain) / DISK_ALIGN_BYTES;
    if (k + pages > PAGES) return 1;
    memset(at + head_n, (int)seq, plain);
    block.crc32c = crc32c(0, at + head_n, plain);
    if (record_encode(&h, &block, at, NULL) != RC_OK) return 1;
    if (head_n != record_header_bytes(plain)) as_before(at, h.moved_from.segment_id != 0);
    return pages;
}

static void build(struct in *in)
{
    uint32_t k = 2;
    uint64_t seq = 1;

    memset(image, 0, sizeof(image));
    page_head(image, false, sizeof(image), 0);
    while (k < PAGES && in->n > 0) {
        switch (take(in, 1) % 4) {
        case 0:
        case 1:
            k += record_put(in, k, seq++);
            break;
        case 2: /* a hole */
            k++;
            break;
        case 3:
            page_head(image + DISK_ALIGN_BYTES, true, take(in, 1) * DISK_ALIGN_BYTES, take(in, 1));
            break;
        }
        if (take(in, 1) % 8 == 0) break;
    }
    while (in->n >= 3) { /* what is left changes bytes */
        uint32_t at = take(in, 2) % sizeof(image);

        image[at] = (uint8_t)take(in, 1);
    }
}

/* ---- the disk ---- */
static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void on_created(struct disk_req *req, enum rc rc)
{
    CHECK(rc == RC_OK);
    *(bool *)req->data = true;
}

static struct disk *disk_up(struct disk_mem *mem)
{
    struct disk_conf conf = {
        .loop = &loop, .engine = DISK_MEMORY, .arena_bytes = 256u << 10, .mem = mem};
    struct disk *d;

    CHECK(disk_open(&conf, &d, NULL) == RC_OK);
    return d;
}

static void disk_down(struct disk *d)
{
    bool done = false;

    disk_close(d, on_closed, &done);
    while (!done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void image_put(struct disk *d)
{
    struct disk_req req = {0};
    struct disk_file *f;
    bool done = false;

    req.data = &done;
    CHECK(disk_create(d, &req, NAME, sizeof(image), 0, image, &f, on_created) == RC_OK);
    while (!done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    CHECK(disk_write_sync_now(f, 0, image, sizeof(image), NULL) == RC_OK);
    disk_file_close(f);
}

/* ---- checks ---- */
static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h,
                         const struct record_block *blocks, const uint8_t *payload,
                         struct err *reterr)
{
    (void)ctx;
    (void)blocks;
    (void)payload;
    (void)reterr;
    CHECK(loc->segment_id == 1 && h->plain_bytes == loc->plain_bytes);
    if (found_n < FOUND) found[found_n++] = *loc;
    return RC_OK;
}

static enum rc read_rc;
static void on_read(struct seglog_read *r, enum rc rc)
{
    read_rc = rc;
    *(bool *)r->data = true;
}

/* How many records are replayed; UINT32_MAX: the header is of another disk, segment or format. */
static uint32_t start(struct disk *d)
{
    struct seglog_conf conf = {.disk = d, .segment_bytes = SEGLOG_SEGMENT_BYTES_MIN};
    struct seglog_replay rp = {.record = on_record};
    struct err err = {0};
    struct seglog *log;
    bool done = false;
    enum rc rc;

    memset(conf.disk_id.b, DISK_ID, 16);
    rc = seglog_open(&conf, &log, &err);
    CHECK(rc == RC_OK || rc == RC_PRECOND);
    if (rc != RC_OK) return UINT32_MAX;
    found_n = 0;
    CHECK(seglog_replay(log, (struct seg_position){0, 0}, &rp, &err) == RC_OK);
    for (uint32_t i = 0; i < found_n; i++) {
        bool there = false;
        struct seglog_read rd = {.data = &there};
        size_t cap = record_payload_bytes(found[i].plain_bytes);
        void *buf = disk_buf_alloc(d, cap);

        CHECK(buf != NULL);
        CHECK(seglog_read(log, &rd, &found[i], 0, 0, buf, cap, on_read) == RC_OK);
        while (!there)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        CHECK(read_rc == RC_OK || read_rc == RC_CORRUPT);
        disk_buf_free(d, buf);
    }
    seglog_close(log, on_closed, &done);
    while (!done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    return found_n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool ready;
    struct disk_mem *mem = disk_mem_new(1, 1u << 20);
    struct seglog_scan scan = {.payloads = true};
    struct in in = {data, n};
    struct seg_position end = {0};
    struct id128 id;
    struct disk *d;
    uint32_t first;

    if (!ready) CHECK(uv_loop_init(&loop) == 0);
    ready = true;
    CHECK(mem != NULL);
    build(&in);
    d = disk_up(mem);
    image_put(d);
    memset(id.b, DISK_ID, 16);
    CHECK(seglog_scan(d, &id, &scan, &end, NULL) == RC_OK);
    first = start(d);
    if (first != UINT32_MAX) CHECK(start(d) == first);
    disk_down(d);
    disk_mem_free(mem);
    return 0;
}
