/* tests/unit/proto/test_roundtrip.c - protobuf-c reads back what it wrote, refuses what is cut, and
 * puts the payload at the end of a data message. */
#include "common/base/macros.h"
#include "proto/mikura/internal/v1/bulk.pb-c.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void test_payload_is_last(void **state)
{
    Mikura__V1__PutChunkRequest req = MIKURA__V1__PUT_CHUNK_REQUEST__INIT, *back;
    Mikura__V1__ChunkHeader h = MIKURA__V1__CHUNK_HEADER__INIT;
    uint8_t data[] = "payload bytes", id[16] = {1, 2, 3}, out[256];
    size_t n;

    (void)state;
    h.collection = (char *)(uintptr_t) "radiology";
    h.case_id = (char *)(uintptr_t) "case-1";
    h.upload_id = (ProtobufCBinaryData){sizeof(id), id};
    h.index = 7;
    req.header = &h;
    req.data = (ProtobufCBinaryData){sizeof(data), data};
    n = mikura__v1__put_chunk_request__pack(&req, out);
    assert_true(n < sizeof(out));
    assert_memory_equal(out + n - sizeof(data), data, sizeof(data));
    back = mikura__v1__put_chunk_request__unpack(NULL, n, out);
    assert_non_null(back);
    assert_string_equal(back->header->case_id, "case-1");
    assert_int_equal(back->header->index, 7);
    assert_int_equal(back->header->upload_id.len, 16);
    mikura__v1__put_chunk_request__free_unpacked(back, NULL);
    assert_null(mikura__v1__put_chunk_request__unpack(NULL, n - 1, out));
}

static void test_oneof_presence(void **state)
{
    Mikura__Internal__V1__BulkRequest req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT, *back;
    Mikura__Internal__V1__ChunkRead read = MIKURA__INTERNAL__V1__CHUNK_READ__INIT;
    uint8_t out[64];
    size_t n;

    (void)state;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ;
    req.read = &read;
    n = mikura__internal__v1__bulk_request__pack(&req, out);
    back = mikura__internal__v1__bulk_request__unpack(NULL, n, out);
    assert_non_null(back);
    assert_int_equal(back->kind_case, MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ);
    assert_null(back->read->group);
    mikura__internal__v1__bulk_request__free_unpacked(back, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_payload_is_last),
                                       cmocka_unit_test(test_oneof_presence)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
