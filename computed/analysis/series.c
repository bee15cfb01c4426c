/* computed/analysis/series.c - see series.h. Slices are named in messages by their InstanceNumber,
 * where they have one, else by where they stand among the item's objects. */
#include "computed/analysis/series.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values are decimal strings that vendors round to 5 or 6 digits; rows of one gantry differ by less
 * than a thousandth. */
#define SAME     1e-3
#define GAP_PART 0.1

struct placed {
    double at; /* mm along the normal, or the InstanceNumber */
    uint16_t idx;
};

static const char *slice_name(const struct image_slice *s, uint32_t idx, char text[48])
{
    if (s->has_number)
        (void)snprintf(text, 48, "slice with InstanceNumber %lld", (long long)s->number);
    else
        (void)snprintf(text, 48, "slice %u by path", idx + 1);
    return text;
}

static bool near(const double *a, const double *b, uint32_t n, double part)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= part * fmax(1, fabs(b[i])))) return false;
    return true;
}

/* All like the first; whether all have a place is another question. */
static enum rc check_alike(const struct image_slice *s, uint32_t n, struct err *reterr)
{
    char name[48];

    for (uint32_t i = 1; i < n; i++) {
        if (strcmp(s[i].series, s[0].series) != 0)
            return err_set(reterr, RC_INVAL, "a mixed series: %s is of another SeriesInstanceUID",
                           slice_name(&s[i], i, name));
        if (s[i].width != s[0].width || s[i].height != s[0].height)
            return err_set(
                reterr, RC_INVAL, "a mixed series: %s has %u x %u pixels, the first %u x %u",
                slice_name(&s[i], i, name), s[i].width, s[i].height, s[0].width, s[0].height);
        if (s[i].channel_n != s[0].channel_n)
            return err_set(reterr, RC_INVAL, "a mixed series: %s is %s, the first is not",
                           slice_name(&s[i], i, name), s[i].channel_n == 1 ? "grey" : "in colour");
        if (s[i].has_spacing != s[0].has_spacing ||
            (s[0].has_spacing && !near(s[i].spacing, s[0].spacing, 2, SAME)))
            return err_set(reterr, RC_INVAL,
                           "a mixed series: %s has another PixelSpacing than the first",
                           slice_name(&s[i], i, name));
        if (s[i].has_orientation && s[0].has_orientation &&
            !near(s[i].orientation, s[0].orientation, 6, SAME))
            return err_set(reterr, RC_INVAL,
                           "a mixed series: %s has another ImageOrientationPatient than the first "
                           "(a localizer?)",
                           slice_name(&s[i], i, name));
    }
    return RC_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->at < y->at) return -1;
    if (x->at > y->at) return 1;
    return x->idx < y->idx ? -1 : x->idx > y->idx;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* p: sorted. Distances must be alike. */
static enum rc check_gaps(const struct image_slice *s, const struct placed *p, uint32_t n,
                          struct err *reterr)
{
    double *d = calloc(n, sizeof(*d)), median;
    char a[48], b[48];

    if (d == NULL) return err_set(reterr, RC_NOMEM, "a series of %u slices", n);
    for (uint32_t i = 1; i < n; i++) {
        d[i - 1] = p[i].at - p[i - 1].at;
        if (d[i - 1] >= 1e-3) continue;
        free(d);
        return err_set(
            reterr, RC_INVAL, "several volumes in one series: %s and %s lie at the same place",
            slice_name(&s[p[i - 1].idx], p[i - 1].idx, a), slice_name(&s[p[i].idx], p[i].idx, b));
    }
    qsort(d, n - 1, sizeof(*d), by_value);
    median = d[(n - 1) / 2];
    free(d);
    for (uint32_t i = 1; i < n; i++) {
        double apart = p[i].at - p[i - 1].at;

        if (fabs(apart - median) <= GAP_PART * median) continue;
        return err_set(reterr, RC_INVAL,
                       "an incomplete series: %s and %s are %.6g mm apart, the others %.6g mm",
                       slice_name(&s[p[i - 1].idx], p[i - 1].idx, a),
                       slice_name(&s[p[i].idx], p[i].idx, b), apart, median);
    }
    return RC_OK;
}

static enum rc place_all(const struct image_slice *s, uint32_t n, struct placed *p,
                         struct err *reterr)
{
    const double *r = s[0].orientation, *c = r + 3;
    double normal[3] = {r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2],
                        r[0] * c[1] - r[1] * c[0]};
    double length = sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);

    if (!(fabs(length - 1) < 0.01))
        return err_set(reterr, RC_INVAL,
                       "ImageOrientationPatient is no pair of orthogonal unit vectors");
    for (uint32_t i = 0; i < n; i++) {
        p[i].idx = (uint16_t)i;
        for (uint32_t k = 0; k < 3; k++)
            p[i].at += s[i].position[k] * normal[k] / length;
        if (!isfinite(p[i].at))
            return err_set(reterr, RC_INVAL, "ImagePositionPatient is no finite number");
    }
    return RC_OK;
}

static enum rc number_all(const struct image_slice *s, uint32_t n, struct placed *p,
                          struct err *reterr)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!s[i].has_number)
            return err_set(reterr, RC_INVAL,
                           "slices have no ImagePositionPatient with ImageOrientationPatient, and "
                           "not all have an InstanceNumber: their order is not known");
        p[i] = (struct placed){(double)s[i].number, (uint16_t)i};
    }
    qsort(p, n, sizeof(*p), by_place);
    for (uint32_t i = 1; i < n; i++) {
        long long a = (long long)s[p[i - 1].idx].number, b = (long long)s[p[i].idx].number;

        if (a == b)
            return err_set(reterr, RC_INVAL,
                           "two slices have InstanceNumber %lld, and none has a position", a);
        if (b != a + 1)
            return err_set(reterr, RC_INVAL,
                           "an incomplete series: no slice has InstanceNumber %lld", a + 1);
    }
    return RC_OK;
}

enum rc series_order(const struct image_slice *s, uint32_t n, uint16_t *order,
                     enum series_by *ret_by, struct err *reterr)
{
    enum series_by by = SERIES_BY_POSITION;
    uint32_t placed_n = 0;
    struct placed *p;
    enum rc rc;

    CHECK(n <= UINT16_MAX);
    if (n < 2) return err_set(reterr, RC_INVAL, "a series of one slice: the model takes volumes");
    rc = check_alike(s, n, reterr);
    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < n; i++)
        placed_n += s[i].has_position && s[i].has_orientation;
    if (placed_n > 0 && placed_n < n)
        return err_set(reterr, RC_INVAL, "%u of %u slices have no ImagePositionPatient",
                       n - placed_n, n);
    p = calloc(n, sizeof(*p));
    if (p == NULL) return err_set(reterr, RC_NOMEM, "a series of %u slices", n);
    if (placed_n == n) {
        rc = place_all(s, n, p, reterr);
        qsort(p, n, sizeof(*p), by_place);
        if (rc == RC_OK) rc = check_gaps(s, p, n, reterr);
    } else {
        by = SERIES_BY_NUMBER;
        rc = number_all(s, n, p, reterr);
    }
    for (uint32_t i = 0; i < n && rc == RC_OK; i++)
        order[i] = p[i].idx;
    if (rc == RC_OK) *ret_by = by;
    free(p);
    return rc;
}

bool series_affine(const struct image_slice *s, uint32_t n, const uint16_t *order,
                   enum series_by by, double ret[12])
{
    const struct image_slice *first = &s[order[0]], *last = &s[order[n - 1]];

    if (by != SERIES_BY_POSITION || !first->has_spacing) return false;
    for (uint32_t k = 0; k < 3; k++) {
        ret[4 * k] = first->orientation[k] * first->spacing[1];
        ret[4 * k + 1] = first->orientation[3 + k] * first->spacing[0];
        ret[4 * k + 2] = (last->position[k] - first->position[k]) / (n - 1);
        ret[4 * k + 3] = first->position[k];
    }
    return true;
}
