/* Results as JSON, tables and CSV; the progress line. */
#include "gateway/cli/out.h"
#include "gateway/cli/progress.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include "proto/mikura/v1/jobs.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void json_of_messages(void **state)
{
    Mikura__V1__Job job = MIKURA__V1__JOB__INIT;
    Mikura__V1__Job__ParametersEntry entry = MIKURA__V1__JOB__PARAMETERS_ENTRY__INIT, *entries[1];
    Mikura__V1__Attribute attr = MIKURA__V1__ATTRIBUTE__INIT;
    Mikura__V1__Group group = MIKURA__V1__GROUP__INIT;
    Mikura__V1__QueryMatch match = MIKURA__V1__QUERY_MATCH__INIT;
    uint8_t id[16] = {0xab, 1};
    json_t *j;

    (void)state;
    job.id = (ProtobufCBinaryData){16, id};
    job.state = MIKURA__V1__JOB_STATE__JOB_DONE;
    job.items = 123456789012ull;
    entry.key = (char *)(uintptr_t) "tiles_max";
    entry.value = (char *)(uintptr_t) "64";
    entries[0] = &entry;
    job.n_parameters = 1;
    job.parameters = entries;
    j = out_message(&job.base);
    assert_string_equal(json_string_value(json_object_get(j, "id")),
                        "ab010000000000000000000000000000");
    assert_string_equal(json_string_value(json_object_get(j, "state")), "JOB_DONE");
    assert_int_equal(json_integer_value(json_object_get(j, "items")), 123456789012ll);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(j, "parameters"), "tiles_max")), "64");
    json_decref(j);
    /* one of several: the one that is there */
    attr.name = (char *)(uintptr_t) "image.width";
    attr.value_case = MIKURA__V1__ATTRIBUTE__VALUE_INTEGER;
    attr.integer = -5;
    j = out_message(&attr.base);
    assert_int_equal(json_integer_value(json_object_get(j, "integer")), -5);
    assert_null(json_object_get(j, "text"));
    assert_null(json_object_get(j, "real"));
    json_decref(j);
    group.prefix = 0xf000000000000000ull;
    j = out_message(&group.base);
    assert_string_equal(json_string_value(json_object_get(j, "prefix")), "f000000000000000");
    assert_int_equal(json_array_size(json_object_get(j, "in_sync_disks")), 0);
    json_decref(j);
    /* an absent message is absent */
    j = out_message(&match.base);
    assert_null(json_object_get(j, "object"));
    json_decref(j);
}

static void tables(void **state)
{
    static const char *const HEAD[] = {"NAME", ">N", "LAST"};
    struct table t;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    (void)state;
    table_init(&t, HEAD, 3);
    table_cell(&t, "%s", "\xe5\x86\x85\xe8\xa6\x96\xe9\x8f\xa1"); /* three wide characters */
    table_cell(&t, "%d", 7);
    table_cell(&t, "%s", "x");
    table_cell(&t, "%s", "ab");
    table_cell(&t, "%d", 1234);
    table_cell(&t, "%s", "");
    assert_int_equal(table_print(&t, f), RC_OK);
    assert_int_equal(fclose(f), 0);
    assert_string_equal(text, "NAME       N  LAST\n"
                              "\xe5\x86\x85\xe8\xa6\x96\xe9\x8f\xa1     7  x\n"
                              "ab      1234  \n");
    free(text);
    table_deinit(&t);
}

static void csv(void **state)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    (void)state;
    out_csv(f, "plain", true);
    out_csv(f, "a,b", false);
    out_csv(f, "say \"x\"", false);
    out_csv(f, "", false);
    out_csv(f, "two\nlines", false);
    assert_int_equal(fclose(f), 0);
    assert_string_equal(text, "plain,\"a,b\",\"say \"\"x\"\"\",,\"two\nlines\"");
    free(text);
}

static void progress(void **state)
{
    struct progress p = {.what = "put", .total = 1000, .done = 250, .items_total = 4};
    char text[300];

    (void)state;
    (void)setenv("TZ", "UTC", 1);
    p.items_done = 1;
    p.rate = 250;
    /* 750 bytes at 250 a second: 3 s and one for rounding */
    progress_text(&p, 0, 3600, 0, text, sizeof text);
    assert_non_null(strstr(text, "[#####...............]  25%  1/4"));
    assert_non_null(strstr(text, "250 B/s"));
    assert_non_null(strstr(text, "ends 01:00:04 (0:04 left)"));
    progress_text(&p, 0, 3600, 20, text, sizeof text);
    assert_int_equal(strlen(text), 19);
    /* nothing known yet: no rate, no end, no division by zero */
    p = (struct progress){.what = "job"};
    progress_text(&p, 0, 0, 0, text, sizeof text);
    assert_null(strstr(text, "ends"));
    assert_non_null(strstr(text, "  0%  0/0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_of_messages),
        cmocka_unit_test(tables),
        cmocka_unit_test(csv),
        cmocka_unit_test(progress),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
