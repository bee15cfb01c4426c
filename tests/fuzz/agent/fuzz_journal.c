/* tests/fuzz/agent/fuzz_journal.c - any bytes are a journal's records up to an end, a cut or
 * damage; what was read is written back as the same bytes, and no record takes a case where it
 * cannot be.
 *
 * An input is lengths (one byte) and bodies, framed here with their checksums, so that bodies are
 * reached; where a length is 255 the rest stands as it is. */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "gateway/agent/journal_core.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t frame(uint8_t *to, const uint8_t *data, size_t n)
{
    uint64_t seq = 7;
    size_t at = 0, len = 0;

    while (at < n && data[at] != 255) {
        size_t body = MIN((size_t)data[at], n - at - 1);

        le_put32(to + len, (uint32_t)body);
        le_put64(to + len + 8, seq);
        le_put64(to + len + 16, seq - 1);
        memcpy(to + len + JOURNAL_FRAME_BYTES, data + at + 1, body);
        le_put32(to + len + 4, crc32c(0, to + len + 8, JOURNAL_FRAME_BYTES - 8 + body));
        len += JOURNAL_FRAME_BYTES + body;
        at += 1 + body;
        seq++;
    }
    if (at + 1 < n) {
        memcpy(to + len, data + at + 1, n - at - 1);
        len += n - at - 1;
    }
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct journal_rec rec;
    static uint8_t again[JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX];
    enum journal_state state = JCASE_NONE, to;
    size_t len, at = 0, one, back;
    uint64_t seq = 7, got;
    uint8_t *all = malloc(n * (JOURNAL_FRAME_BYTES + 1) + 1), *p;
    enum rc rc;

    if (all == NULL) return 0;
    len = frame(all, data, n);
    p = malloc(MAX(len, (size_t)1)); /* as long as it is */
    if (p == NULL) abort();
    memcpy(p, all, len);
    free(all);
    while ((rc = journal_next(p + at, len - at, seq, &rec, &got, &one)) == RC_OK) {
        CHECK(got == seq && one >= JOURNAL_FRAME_BYTES && one <= len - at);
        CHECK(rec.kind > 0 && rec.kind < JOURNAL_KIND_N);
        CHECK((rec.kind != JOURNAL_UPLOAD && rec.kind != JOURNAL_STAGED) ||
              (rec.files_n > 0 && rec.files_n <= JOURNAL_FILES_MAX));
        CHECK(journal_encode(&rec, seq, le_get64(p + at + 16), again, sizeof again, &back) ==
              RC_OK);
        CHECK(back == one && memcmp(again, p + at, one) == 0);
        if (journal_step(state, rec.kind, &to) == RC_OK) state = to;
        CHECK(state <= JCASE_ASIDE);
        at += one;
        seq++;
    }
    CHECK(rc == RC_ABORTED || rc == RC_CORRUPT || (rc == RC_RANGE && at == len));
    free(p);
    return 0;
}
