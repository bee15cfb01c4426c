/* tests/unit/common/image/test_sniff.c - media types by content, and sources. */
#include "common/image/image_priv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static void test_types(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *type;
    } rows[] = {
        {"\x89PNG\r\n\x1a\n", 8, "image/png"},
        {"\x89PNG\r\n\x1a", 7, "application/octet-stream"},
        {"II*\0\x08\0\0\0", 8, "image/tiff"},
        {"MM\0+\0\x08\0\0", 8, "image/tiff"},
        {"\xff\xd8\xff\xe0\0\x04xx\xff\xc0\0\x0b", 12, "image/jpeg"},
        {"\xff\xd8\xff\xe0\0\x04xx\xff\xf7\0\x0b", 12, "image/jls"},
        {"\0\0\0\x18"
         "ftypmp42",
         12, "video/mp4"},
        {"RIFF\0\0\0\0WEBP", 12, "image/webp"},
        {"\xff\xd8\xff\xfe\0\xffJFWEBP", 12, "image/jpeg"}, /* inside a comment */
        {"\xff\xd8\xff\xe0"
         "ftyp\0\0\0\0",
         12, "image/jpeg"},
        {"RAFF\0\0\0\0WEBP", 12, "application/octet-stream"},
        {"\x08\0\x05\0CS\x0a\0ISO_IR 1", 16, "application/dicom"},
        {"\x08\0\x05\0\x0a\0\0\0ISO_IR 1", 16, "application/dicom"},
        {"\x08\0\x05\0\x0a\0\0\x10ISO_IR 1", 16, "application/octet-stream"},
        {" {\"a\":1}", 8, "application/json"},
        {"hello\n", 6, "text/plain"},
        {"", 0, "application/octet-stream"},
    };
    uint8_t dicom[132] = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        assert_string_equal(image_sniff((const uint8_t *)rows[i].bytes, rows[i].n), rows[i].type);
    }
    memcpy(dicom + 128, "DICM", 4);
    assert_string_equal(image_sniff(dicom, sizeof(dicom)), "application/dicom");
    assert_string_equal(image_sniff(dicom, sizeof(dicom) - 1), "application/octet-stream");
}

static void test_sources(void **state)
{
    char path[] = "/tmp/mikura-source-XXXXXX", back[8];
    int fd = mkstemp(path);
    struct image_source src;
    struct image_source_mem mem;
    struct err err;

    (void)state;
    assert_true(fd >= 0 && write(fd, "01234567", 8) == 8);
    assert_int_equal(image_source_file_open(path, &src, &err), RC_OK);
    assert_int_equal(src.size, 8);
    assert_int_equal(image_source_read(&src, 3, back, 5, &err), RC_OK);
    assert_memory_equal(back, "34567", 5);
    assert_int_equal(image_source_read(&src, 3, back, 6, &err), RC_CORRUPT);
    assert_non_null(strstr(err.msg, "ends early"));
    assert_int_equal(image_source_read(&src, UINT64_MAX, back, 6, &err), RC_CORRUPT);
    assert_int_equal(ftruncate(fd, 2), 0);
    assert_int_equal(image_source_read(&src, 0, back, 8, &err), RC_IO);
    image_source_file_close(&src);
    assert_int_equal(image_source_file_open("/nonexistent/x", &src, &err), RC_NOTFOUND);
    assert_int_equal(image_source_file_open("/tmp", &src, &err), RC_INVAL);
    image_source_mem_init(&mem, "abc", 3, &src);
    assert_int_equal(image_source_read(&src, 1, back, 2, &err), RC_OK);
    assert_memory_equal(back, "bc", 2);
    assert_int_equal(image_source_read(&src, 1, back, 3, &err), RC_CORRUPT);
    (void)close(fd);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types),
                                       cmocka_unit_test(test_sources)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
