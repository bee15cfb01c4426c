/* tests/unit/gateway/ingest/test_upload.c - steps of upload_core that tests/sim/sim_gateway does
 * not reach: it deletes nothing. */
#include "gateway/ingest/upload_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct record_head head;
static struct upload_core core;
static struct upload_action act;
static uint8_t mem[UPLOAD_MEM_BYTES];

static void got(struct slice value, uint64_t version)
{
    struct upload_item item = {value, version};
    struct upload_event ev = {.type = UPLOAD_EV_GOT, .items = &item};

    assert_int_equal(act.type, UPLOAD_ACT_GET);
    upload_step(&core, &ev, &act);
}

/* A case of generation 3 and a commit that expected 1. */
static void begin(const struct upload_request *req, struct id128 last)
{
    uint8_t value[256];
    struct record_out out = {.p = value, .cap = sizeof value};

    head = (struct record_head){.state = RECORD_CASE_PUBLISHED,
                                .generation = 3,
                                .stage = 3,
                                .visible = 1,
                                .last_request = last};
    assert_int_equal(record_head_encode(&head, &out, NULL), RC_OK);
    upload_start(&core, req, mem, sizeof mem, &act);
    got(record_out_slice(&out), 9);
}

/* Version numbers that were deleted are not given again: jobs and receipts name them. */
static void test_version_behind_a_deletion(void **unused)
{
    static const struct {
        uint64_t newest, floor, given;
    } rows[] = {{0, 0, 1}, {4, 0, 5}, {0, 6, 7}, {2, 6, 7}, {8, 6, 9}};
    uint8_t value[256], session[1024];

    (void)unused;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        struct record_session one = {.state = RECORD_SESSION_OPEN,
                                     .path = {(const uint8_t *)"p", 1}};
        struct upload_request req = {.op = UPLOAD_COMPLETE, .id = {{7}}};
        struct upload_item items[2];
        struct upload_event ev = {.type = UPLOAD_EV_GOT, .items = items};
        struct record_out out = {.p = value, .cap = sizeof value},
                          out2 = {.p = session, .cap = sizeof session};

        head = (struct record_head){.state = RECORD_CASE_OPEN, .stage = 1};
        head.version_floor = rows[i].floor;
        one.expire_tick = 10;
        assert_int_equal(record_head_encode(&head, &out, NULL), RC_OK);
        assert_int_equal(record_session_encode(&one, &out2, NULL), RC_OK);
        upload_start(&core, &req, mem, sizeof mem, &act);
        assert_int_equal(act.type, UPLOAD_ACT_GET);
        assert_int_equal(act.keys_n, 2);
        items[0] = (struct upload_item){record_out_slice(&out), 9};
        items[1] = (struct upload_item){record_out_slice(&out2), 8};
        upload_step(&core, &ev, &act);
        assert_int_equal(act.type, UPLOAD_ACT_NEWEST);
        ev = (struct upload_event){.type = UPLOAD_EV_NEWEST, .newest = rows[i].newest};
        upload_step(&core, &ev, &act);
        assert_int_equal(act.type, UPLOAD_ACT_GATHER);
        assert_int_equal(act.version, rows[i].given);
    }
}

/* A deletion, too, makes a new generation of its case, and no commit's record: a commit that
 * expected the one before it has lost against it, nothing is damaged. */
static void test_commit_behind_a_deletion(void **unused)
{
    struct upload_request req = {
        .op = UPLOAD_COMMIT, .id = {{7}}, .expected_generation = 1, .count = 1};

    (void)unused;
    begin(&req, (struct id128){{8}});
    got((struct slice){0}, 0); /* no record of generation 2 */
    assert_int_equal(act.type, UPLOAD_ACT_ANSWER);
    assert_int_equal(act.rc, RC_ABORTED);
}

/* It had taken effect, and then there was a deletion: its repetition gets the receipt. */
static void test_commit_before_a_deletion(void **unused)
{
    struct upload_request req = {
        .op = UPLOAD_COMMIT, .id = {{7}}, .expected_generation = 1, .count = 1};
    struct record_commit commit = {
        .request = req.id, .generation = 2, .stage_upto = 1, .count = 1, .receipt = {mem, 0}};
    uint8_t value[512];
    struct record_out out = {.p = value, .cap = sizeof value};

    (void)unused;
    assert_int_equal(record_commit_encode(&commit, &out, NULL), RC_OK);
    begin(&req, req.id);
    got((struct slice){0}, 0); /* of generation 3: the deletion's */
    got(record_out_slice(&out), 5);
    assert_int_equal(act.type, UPLOAD_ACT_ANSWER);
    assert_int_equal(act.rc, RC_OK);
    assert_int_equal(act.commit->generation, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_version_behind_a_deletion),
                                       cmocka_unit_test(test_commit_behind_a_deletion),
                                       cmocka_unit_test(test_commit_before_a_deletion)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
