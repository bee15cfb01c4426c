/* computed/worker/wire.c - bodies of the frames that hold more than one field. */
#include "computed/worker/wire.h"
#include "computed/analysis/series.h"
#include <math.h>
#include <string.h>

void wire_text(const uint8_t *p, uint32_t n, char *text, size_t cap)
{
    size_t k = 0;

    for (uint32_t i = 0; i < n && p[i] != 0 && k + 1 < cap; i++)
        text[k++] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
    text[k] = '\0';
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    le_put32(p, v);
    return p + 4;
}

static uint8_t *put_f64(uint8_t *p, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, 8);
    le_put64(p, bits);
    return p + 8;
}

static const uint8_t *get_f64(const uint8_t *p, double *ret)
{
    uint64_t bits = le_get64(p);

    memcpy(ret, &bits, 8);
    return p + 8;
}

uint32_t wire_job_encode(const struct job_params *j, uint8_t *buf)
{
    const uint32_t v[13] = {(uint32_t)j->kind,
                            (uint32_t)j->precision,
                            j->tiles_max,
                            j->size_n,
                            j->size[0],
                            j->size[1],
                            j->size[2],
                            j->crop,
                            (uint32_t)(j->mean_n | j->std_n << 8),
                            (uint32_t)j->apply,
                            j->top,
                            j->window,
                            j->masks};
    uint8_t *p = buf;

    for (uint32_t i = 0; i < ARRAY_N(v); i++)
        p = put32(p, v[i]);
    p = put_f64(p, j->crop_part);
    p = put_f64(p, j->window_center);
    p = put_f64(p, j->window_width);
    for (uint32_t i = 0; i < JOB_CHANNELS_MAX; i++) {
        p = put_f64(p, j->mean[i]);
        p = put_f64(p, j->std[i]);
    }
    CHECK(p - buf == WIRE_JOB_MAX);
    return WIRE_JOB_MAX;
}

void wire_job_decode(const uint8_t *p, struct job_params *ret)
{
    struct job_params j = {.kind = (enum job_kind)le_get32(p),
                           .precision = (enum job_precision)le_get32(p + 4),
                           .tiles_max = le_get32(p + 8),
                           .size_n = (uint8_t)le_get32(p + 12),
                           .size = {le_get32(p + 16), le_get32(p + 20), le_get32(p + 24)},
                           .crop = le_get32(p + 28) != 0,
                           .mean_n = p[32],
                           .std_n = p[33],
                           .apply = (enum job_apply)le_get32(p + 36),
                           .top = le_get32(p + 40),
                           .window = le_get32(p + 44) != 0,
                           .masks = le_get32(p + 48) != 0};

    p = get_f64(p + 52, &j.crop_part);
    p = get_f64(p, &j.window_center);
    p = get_f64(p, &j.window_width);
    for (uint32_t i = 0; i < JOB_CHANNELS_MAX; i++) {
        p = get_f64(p, &j.mean[i]);
        p = get_f64(p, &j.std[i]);
    }
    *ret = j;
}

uint32_t wire_result_encode(const struct analysis_result *r, uint8_t *buf)
{
    uint8_t *p = buf;

    CHECK(r->score_n <= ANALYSIS_SCORES_MAX);
    CHECK(r->slice_n <= ANALYSIS_SLICES_MAX);
    memset(buf, 0, WIRE_RESULT_MAX);
    memcpy(p, r->label, 32);
    p = put32(p + 32, r->score_n);
    for (uint32_t i = 0; i < r->score_n; i++) {
        memcpy(p, r->score[i].name, 32);
        p = put_f64(p + 32, r->score[i].value);
    }
    if (r->slice_n > 0) {
        p = put32(p, r->by);
        p = put32(p, r->slice_n);
    }
    for (uint32_t i = 0; i < r->slice_n; i++, p += 2)
        le_put16(p, r->order[i]);
    return (uint32_t)(p - buf);
}

/* by, n and the slices: each of [0, slice_n) once. */
static bool order_decode(const uint8_t *p, uint32_t slice_n, struct analysis_result *ret)
{
    bool seen[ANALYSIS_SLICES_MAX] = {false};

    ret->by = le_get32(p);
    ret->slice_n = slice_n;
    if (le_get32(p + 4) != slice_n ||
        (ret->by != SERIES_BY_POSITION && ret->by != SERIES_BY_NUMBER))
        return false;
    for (uint32_t i = 0; i < slice_n; i++) {
        uint16_t at = le_get16(p + 8 + 2 * (size_t)i);

        if (at >= slice_n || seen[at]) return false;
        seen[at] = true;
        ret->order[i] = at;
    }
    return true;
}

enum rc wire_result_decode(const uint8_t *p, uint32_t n, uint32_t slice_n,
                           struct analysis_result *ret)
{
    uint32_t order_bytes = slice_n == 0 ? 0 : 8 + 2 * slice_n;
    struct analysis_result r = {0};

    CHECK(slice_n <= ANALYSIS_SLICES_MAX);
    if (n < 36) return RC_CORRUPT;
    r.score_n = le_get32(p + 32);
    if (r.score_n > ANALYSIS_SCORES_MAX || n != 36 + r.score_n * WIRE_SCORE_BYTES + order_bytes)
        return RC_CORRUPT;
    wire_text(p, 32, r.label, sizeof(r.label));
    if (r.label[0] == '\0') return RC_CORRUPT;
    p += 36;
    for (uint32_t i = 0; i < r.score_n; i++, p += WIRE_SCORE_BYTES) {
        wire_text(p, 32, r.score[i].name, sizeof(r.score[i].name));
        (void)get_f64(p + 32, &r.score[i].value); /* where it ends is known */
        if (!isfinite(r.score[i].value)) return RC_CORRUPT;
    }
    if (slice_n > 0 && !order_decode(p, slice_n, &r)) return RC_CORRUPT;
    *ret = r;
    return RC_OK;
}
