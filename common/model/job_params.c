/* common/model/job_params.c - see job_params.h. */
#include "common/model/job_params.h"
#include "common/base/strutil.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const KINDS[JOB_KIND_N] = {"quality", "classify", "segment"};
static const char *const PRECISIONS[JOB_PRECISION_N] = {"fp32", "tf32", "fp16", "bf16"};
static const char *const NO_YES[] = {"no", "yes"};
static const char *const APPLIES[] = {"softmax", "sigmoid", "none"};

enum rc job_params_init(struct job_params *ret, const char *kind, struct err *reterr)
{
    struct job_params p = {.tiles_max = 64, .crop_part = 1, .top = 5, .masks = true};

    for (uint32_t i = 0; i < JOB_KIND_N; i++) {
        if (strcmp(kind, KINDS[i]) != 0) continue;
        p.kind = (enum job_kind)i;
        *ret = p;
        return RC_OK;
    }
    return err_set(reterr, RC_INVAL,
                   "kind '%.64s': this cluster serves: quality, classify, segment", kind);
}

const char *job_precision_name(enum job_precision p)
{
    return PRECISIONS[p];
}

static bool word(const char *value, const char *const *words, uint32_t n, uint32_t *ret)
{
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(value, words[i]) != 0) continue;
        *ret = i;
        return true;
    }
    return false;
}

static bool number(const char *s, const char **ret_end, double *ret)
{
    size_t len = strspn(s, "0123456789.+-eE"); /* strtod takes "inf" and hex too */
    char *end;
    double v = strtod(s, &end);

    if (end == s || end > s + len || !isfinite(v) || fabs(v) > 1e6) return false;
    *ret_end = end;
    *ret = v;
    return true;
}

/* "0.485,0.456,0.406" */
static bool numbers(const char *s, double *ret, uint8_t *ret_n)
{
    uint8_t n = 0;

    for (;;) {
        if (n == JOB_CHANNELS_MAX || !number(s, &s, &ret[n++])) return false;
        if (*s == '\0') break;
        if (*s++ != ',') return false;
    }
    *ret_n = n;
    return n == 1 || n == JOB_CHANNELS_MAX;
}

/* "224x224", "64x128x128" */
static bool sides(const char *s, struct job_params *p)
{
    uint64_t all = 1;
    uint8_t n = 0;

    for (;;) {
        size_t len = strspn(s, "0123456789");
        uint32_t v = 0;

        if (n == 3 || len == 0 || len > 5) return false;
        for (size_t i = 0; i < len; i++)
            v = v * 10 + (uint32_t)(s[i] - '0');
        if (v == 0 || v > JOB_SIDE_MAX) return false;
        p->size[n++] = v;
        all *= v;
        s += len;
        if (*s == '\0') break;
        if (*s++ != 'x') return false;
    }
    p->size_n = n;
    return n >= 2 && all <= JOB_VOXELS_MAX;
}

static bool resize(const char *s, struct job_params *p)
{
    const char *end;

    p->crop = strncmp(s, "crop", 4) == 0;
    p->crop_part = 1;
    if (strcmp(s, "stretch") == 0 || strcmp(s, "crop") == 0) return true;
    return p->crop && s[4] == ':' && number(s + 5, &end, &p->crop_part) && *end == '\0' &&
           p->crop_part >= 0.1 && p->crop_part <= 1;
}

static bool window(const char *s, struct job_params *p)
{
    double center, width;

    if (!number(s, &s, &center) || *s++ != ',' || !number(s, &s, &width) || *s != '\0' || width < 1)
        return false;
    p->window = true;
    p->window_center = center;
    p->window_width = width;
    return true;
}

static bool positive(const double *v, uint8_t n)
{
    for (uint8_t i = 0; i < n; i++)
        if (v[i] < 1e-6) return false;
    return true;
}

static enum rc expected(const char *name, const char *value, const char *what, struct err *reterr)
{
    return err_set(reterr, RC_INVAL, "parameter %.32s '%.64s': expected %s", name, value, what);
}

enum rc job_params_set(struct job_params *p, const char *name, const char *value,
                       struct err *reterr)
{
    bool network = p->kind != JOB_QUALITY;
    uint32_t k = 0;
    uint64_t v;

    if (strcmp(name, "precision") == 0) {
        if (!word(value, PRECISIONS, JOB_PRECISION_N, &k))
            return expected(name, value, "fp32, tf32, fp16 or bf16", reterr);
        p->precision = (enum job_precision)k;
    } else if (!network && strcmp(name, "tiles_max") == 0) {
        if (!str_to_u64(value, JOB_TILES_MAX, &v) || v == 0)
            return expected(name, value, "a number from 1 to 4096", reterr);
        p->tiles_max = (uint32_t)v;
    } else if (network && strcmp(name, "size") == 0) {
        if (!sides(value, p))
            return expected(name, value,
                            "rows x columns (224x224) or slices x rows x columns, 2^24 in all",
                            reterr);
    } else if (network && strcmp(name, "resize") == 0) {
        if (!resize(value, p))
            return expected(name, value, "stretch, crop or crop:PART (0.1 to 1)", reterr);
    } else if (network && strcmp(name, "window") == 0) {
        if (!window(value, p))
            return expected(name, value, "CENTER,WIDTH, the width at least 1", reterr);
    } else if (network && strcmp(name, "mean") == 0) {
        if (!numbers(value, p->mean, &p->mean_n))
            return expected(name, value, "one number or three, with commas", reterr);
    } else if (network && strcmp(name, "std") == 0) {
        if (!numbers(value, p->std, &p->std_n) || !positive(p->std, p->std_n))
            return expected(name, value, "one number above 0 or three, with commas", reterr);
    } else if (p->kind == JOB_SEGMENT && strcmp(name, "masks") == 0) {
        if (!word(value, NO_YES, ARRAY_N(NO_YES), &k))
            return expected(name, value, "yes or no", reterr);
        p->masks = k == 1;
    } else if (p->kind == JOB_CLASSIFY && strcmp(name, "apply") == 0) {
        if (!word(value, APPLIES, ARRAY_N(APPLIES), &k))
            return expected(name, value, "softmax, sigmoid or none", reterr);
        p->apply = (enum job_apply)k;
    } else if (p->kind == JOB_CLASSIFY && strcmp(name, "top") == 0) {
        if (!str_to_u64(value, JOB_TOP_MAX, &v) || v == 0)
            return expected(name, value, "a number from 1 to 16", reterr);
        p->top = (uint32_t)v;
    } else {
        return err_set(reterr, RC_INVAL, "kind %s has no parameter '%.64s'; it has: precision, %s",
                       KINDS[p->kind], name,
                       p->kind == JOB_QUALITY    ? "tiles_max"
                       : p->kind == JOB_CLASSIFY ? "size, resize, window, mean, std, apply, top"
                                                 : "size, resize, window, mean, std, masks");
    }
    return RC_OK;
}
