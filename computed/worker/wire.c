/* computed/worker/wire.c - bodies of the frames that hold more than one field. */
#include "computed/worker/wire.h"
#include <math.h>
#include <string.h>

void wire_text(const uint8_t *p, uint32_t n, char *text, size_t cap)
{
    size_t k = 0;

    for (uint32_t i = 0; i < n && p[i] != 0 && k + 1 < cap; i++)
        text[k++] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
    text[k] = '\0';
}

uint32_t wire_result_encode(const struct quality_result *r, uint8_t *buf)
{
    uint8_t *p = buf;

    CHECK(r->score_n <= QUALITY_SCORES_MAX);
    memset(buf, 0, WIRE_RESULT_MAX);
    memcpy(p, r->label, 32);
    le_put32(p + 32, r->score_n);
    p += 36;
    for (uint32_t i = 0; i < r->score_n; i++, p += WIRE_SCORE_BYTES) {
        uint64_t bits;

        memcpy(p, r->score[i].name, 32);
        memcpy(&bits, &r->score[i].value, 8);
        le_put64(p + 32, bits);
    }
    return (uint32_t)(p - buf);
}

enum rc wire_result_decode(const uint8_t *p, uint32_t n, struct quality_result *ret)
{
    struct quality_result r = {0};

    if (n < 36) return RC_CORRUPT;
    r.score_n = le_get32(p + 32);
    if (r.score_n > QUALITY_SCORES_MAX || n != 36 + r.score_n * WIRE_SCORE_BYTES) return RC_CORRUPT;
    wire_text(p, 32, r.label, sizeof(r.label));
    if (r.label[0] == '\0') return RC_CORRUPT;
    p += 36;
    for (uint32_t i = 0; i < r.score_n; i++, p += WIRE_SCORE_BYTES) {
        uint64_t bits = le_get64(p + 32);

        wire_text(p, 32, r.score[i].name, sizeof(r.score[i].name));
        memcpy(&r.score[i].value, &bits, 8);
        if (!isfinite(r.score[i].value)) return RC_CORRUPT;
    }
    *ret = r;
    return RC_OK;
}
