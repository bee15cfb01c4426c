/* storaged/tools/dump.c - headers as lines of text or JSON objects. Ids, tags of records, sizes and
 * places; never a byte of a payload, of a digest or of an authentication tag. */
#include "storaged/segment/seglog_scan.h"
#include "storaged/tools/tools.h"
#include <inttypes.h>
#include <stdio.h>

static enum rc on_segment(void *ctx, const struct seglog_scan_segment *s)
{
    const struct tool_args *a = ctx;

    (void)printf(a->json ? "{\"segment\":\"%016" PRIx64 "\",\"generation\":%" PRIu64
                           ",\"file_bytes\":%" PRIu64 ",\"end\":%" PRIu64 ",\"sealed\":%s}\n"
                         : "segment %016" PRIx64 " generation=%" PRIu64 " file_bytes=%" PRIu64
                           " end=%" PRIu64 " sealed=%s\n",
                 s->id, s->generation, s->file_bytes, s->end, s->sealed ? "true" : "false");
    return RC_OK;
}

static void chunk_print(bool json, const struct record_header *h)
{
    char body[ID128_TEXT_BYTES], seal[ID128_TEXT_BYTES], upload[ID128_TEXT_BYTES];

    (void)printf(
        json ? ",\"body\":\"%s\",\"index\":%" PRIu32 ",\"seal_id\":\"%s\",\"upload\":\"%s\","
               "\"placement\":\"%016" PRIx64 "\",\"owner\":\"%016" PRIx64 "\",\"suite\":%" PRIu32
             : " body=%s index=%" PRIu32 " seal_id=%s upload=%s placement=%016" PRIx64
               " owner=%016" PRIx64 " suite=%" PRIu32,
        id128_text(&h->body, body), h->index, id128_text(&h->seal_id, seal),
        id128_text(&h->upload_id, upload), h->placement_hash, h->owner_hash, h->cipher_suite);
}

static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h)
{
    const struct tool_args *a = ctx;
    bool chunk = h->type == RECORD_CHUNK;

    (void)printf(a->json ? "{\"record\":\"%s\",\"segment\":\"%016" PRIx64 "\",\"offset\":%" PRIu64
                           ",\"sequence\":%" PRIu64 ",\"flushed_upto\":%" PRIu64
                           ",\"header_bytes\":%" PRIu32 ",\"plain_bytes\":%" PRIu32
                           ",\"pool\":%" PRIu32 ",\"config\":%" PRIu64 ",\"epoch\":%" PRIu64
                         : "  %s segment=%016" PRIx64 " offset=%" PRIu64 " sequence=%" PRIu64
                           " flushed_upto=%" PRIu64 " header_bytes=%" PRIu32 " plain_bytes=%" PRIu32
                           " pool=%" PRIu32 " config=%" PRIu64 " epoch=%" PRIu64,
                 chunk ? "chunk" : "entry", loc->segment_id, loc->offset, h->sequence,
                 h->flushed_upto, loc->header_bytes, loc->plain_bytes, h->pool, h->config,
                 h->epoch);
    if (chunk) {
        chunk_print(a->json, h);
    } else {
        (void)printf(a->json ? ",\"group\":\"%016" PRIx64 "/%" PRIu32 "\",\"log_index\":%" PRIu64
                             : " group=%016" PRIx64 "/%" PRIu32 " log_index=%" PRIu64,
                     h->placement_hash, h->index, h->log_index);
    }
    (void)puts(a->json ? "}" : "");
    return RC_OK;
}

static void on_fault(void *ctx, uint64_t segment_id, uint64_t from, uint64_t until,
                     const char *what)
{
    const struct tool_args *a = ctx;

    if (a->json) {
        (void)printf("{\"fault\":");
        tool_json_text(what);
        (void)printf(",\"segment\":\"%016" PRIx64 "\",\"from\":%" PRIu64 ",\"until\":%" PRIu64
                     "}\n",
                     segment_id, from, until);
    } else {
        (void)printf("  FAULT segment=%016" PRIx64 " from=%" PRIu64 " until=%" PRIu64 ": %s\n",
                     segment_id, from, until, what);
    }
}

int tool_dump(const struct tool_args *args)
{
    struct seglog_scan scan = {.segment = args->segment,
                               .on_segment = on_segment,
                               .on_record = on_record,
                               .on_fault = on_fault,
                               .ctx = (void *)(uintptr_t)args}; /* only read */
    struct seg_position end;
    struct tool_disk d;
    struct err err = {0};
    enum rc rc = tool_disk_open(args->dir, &d, &err);

    if (rc == RC_OK) rc = seglog_scan(d.disk, &d.id, &scan, &end, &err);
    if (rc == RC_OK || d.lock_fd >= 0) tool_disk_close(&d);
    if (rc == RC_OK) return TOOL_OK;
    (void)fprintf(stderr, "storaged dump: %s\n", err.msg);
    return TOOL_REFUSED;
}
