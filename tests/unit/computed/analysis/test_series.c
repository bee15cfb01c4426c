/* tests/unit/computed/analysis/test_series.c - in which order slices make a volume, and which make
 * none. */
#include "computed/analysis/series.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define N 9u

/* Oblique planes 2.5 mm apart; slice k of the volume is slices[SHUFFLED[k]]; numbers run the other
 * way. */
static const uint16_t SHUFFLED[N] = {4, 0, 7, 2, 8, 1, 3, 6, 5};

static void volume(struct image_slice s[N])
{
    const double row[3] = {0.8, 0.6, 0}, column[3] = {0, 0, -1}, normal[3] = {-0.6, 0.8, 0};

    memset(s, 0, N * sizeof(*s));
    for (uint32_t k = 0; k < N; k++) {
        struct image_slice *t = &s[SHUFFLED[k]];

        memcpy(t->series, "1.2.3", 6);
        t->width = 64;
        t->height = 48;
        t->channel_n = 1;
        t->has_position = t->has_orientation = t->has_spacing = t->has_number = true;
        for (uint32_t i = 0; i < 3; i++) {
            t->orientation[i] = row[i];
            t->orientation[3 + i] = column[i];
            /* rounded as vendors do, and shifted within the plane, as a tilted gantry does */
            t->position[i] =
                rint(1e3 * (7 - 2.5 * (double)(N - k) * normal[i] + 0.3 * k * row[i])) / 1e3;
        }
        t->spacing[0] = t->spacing[1] = 0.7;
        t->number = 100 - k;
    }
}

static void order_is_volume(const struct image_slice s[N], enum series_by by)
{
    uint16_t order[N];
    enum series_by got;
    struct err e;

    if (series_order(s, N, order, &got, &e) != RC_OK) fail_msg("%s", e.msg);
    assert_int_equal(got, by);
    assert_memory_equal(order, SHUFFLED, sizeof(order));
}

static void refused(const struct image_slice *s, uint32_t n, const char *reason)
{
    uint16_t order[N];
    enum series_by by;
    struct err e;

    assert_int_equal(series_order(s, n, order, &by, &e), RC_INVAL);
    if (strstr(e.msg, reason) == NULL) fail_msg("'%s' has no '%s'", e.msg, reason);
}

static void test_order(void **state)
{
    struct image_slice s[N];

    (void)state;
    volume(s);
    order_is_volume(s, SERIES_BY_POSITION);
    for (uint32_t i = 0; i < N; i++) /* numbers are not needed, nor the spacing */
        s[i].has_number = s[i].has_spacing = false;
    order_is_volume(s, SERIES_BY_POSITION);
    for (uint32_t i = 0; i < N; i++) /* one distance in ten off by a little: rounding */
        s[i].position[1] += i == 3 ? 0.2 : 0;
    order_is_volume(s, SERIES_BY_POSITION);

    volume(s);
    for (uint32_t k = 0; k < N; k++) {
        s[SHUFFLED[k]].has_position = false;
        s[SHUFFLED[k]].number = (int64_t)k - 3;
    }
    order_is_volume(s, SERIES_BY_NUMBER);
    for (uint32_t i = 0; i < N; i++)
        s[i].has_orientation = false;
    order_is_volume(s, SERIES_BY_NUMBER);
}

static void test_refused(void **state)
{
    struct image_slice s[N];

    (void)state;
    volume(s);
    refused(s, 1, "one slice");
    refused(s, 0, "one slice");
    s[0] = s[1]; /* one is gone, its neighbour but three is twice */
    refused(s, N, "at the same place");
    volume(s);
    s[SHUFFLED[3]] = s[N - 1]; /* SHUFFLED[3], one of the inner ones, is missing */
    refused(s, N - 1,
            "an incomplete series: slice with InstanceNumber 98 and slice with "
            "InstanceNumber 96 are 5 mm apart, the others 2.5 mm");
    volume(s);
    s[5].width = 63;
    refused(s, N, "a mixed series: slice with InstanceNumber 92 has 63 x 48 pixels");
    volume(s);
    s[5].channel_n = 3;
    refused(s, N, "in colour");
    volume(s);
    s[5].spacing[1] = 0.71;
    refused(s, N, "another PixelSpacing");
    s[5].has_spacing = false;
    refused(s, N, "another PixelSpacing");
    volume(s);
    s[5].orientation[0] = 0.79;
    refused(s, N, "another ImageOrientationPatient");
    volume(s);
    s[5].has_number = false;
    s[5].series[0] = '9';
    refused(s, N, "slice 6 by path is of another SeriesInstanceUID");
    volume(s);
    s[5].has_position = false;
    refused(s, N, "1 of 9 slices have no ImagePositionPatient");
    volume(s);
    for (uint32_t i = 0; i < N; i++)
        s[i].orientation[3] = s[i].orientation[0];
    refused(s, N, "no pair of orthogonal unit vectors");
    for (uint32_t i = 0; i < N; i++) /* also what is no number */
        s[i].orientation[4] = (double)NAN;
    refused(s, N, "");
}

static void test_numbers(void **state)
{
    struct image_slice s[N];

    (void)state;
    volume(s);
    for (uint32_t i = 0; i < N; i++)
        s[i].has_position = false;
    s[2].number += 100;
    refused(s, N, "an incomplete series: no slice has InstanceNumber");
    s[2].number = s[3].number;
    refused(s, N, "and none has a position");
    s[2].has_number = false;
    refused(s, N, "their order is not known");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
