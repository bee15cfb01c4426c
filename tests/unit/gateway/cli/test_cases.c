/* Which file becomes which object of which case, on real folders and a real DICOM header. */
#include "gateway/cli/cases.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char root[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/mikura-cases-XXXXXX");
    return mkdtemp(root) == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    char cmd[100];

    (void)state;
    (void)snprintf(cmd, sizeof cmd, "rm -rf '%s'", root);
    return system(cmd) == 0 ? 0 : -1;
}

static void write_file(const char *rel, const void *p, size_t n)
{
    char path[1024];
    FILE *f;

    (void)snprintf(path, sizeof path, "%s/%s", root, rel);
    for (char *at = path + strlen(root) + 1; *at != 0; at++) {
        if (*at != '/') continue;
        *at = 0;
        (void)mkdir(path, 0777);
        *at = '/';
    }
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void text_file(const char *rel)
{
    write_file(rel, "no image", 8);
}

/* Explicit little-endian: meta header, then StudyInstanceUID. */
static void dicom_file(const char *rel, const char *study)
{
    uint8_t b[512] = {0};
    size_t n = 128, len = strlen(study) + strlen(study) % 2;
    static const char syntax[] = "1.2.840.10008.1.2.1"; /* 19 and a zero */

    memcpy(b + n, "DICM", 4);
    n += 4;
    memcpy(b + n, "\x02\x00\x00\x00UL\x04\x00\x1c\x00\x00\x00", 12);
    n += 12;
    memcpy(b + n, "\x02\x00\x10\x00UI\x14\x00", 8);
    n += 8;
    memcpy(b + n, syntax, 20);
    n += 20;
    memcpy(b + n, "\x20\x00\x0d\x00UI", 6);
    n += 6;
    b[n++] = (uint8_t)len;
    b[n++] = 0;
    memcpy(b + n, study, strlen(study));
    n += len;
    write_file(rel, b, n);
}

static const struct case_file *find(const struct cases *cs, const char *rel)
{
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/%s", root, rel);
    for (size_t i = 0; i < cs->n; i++)
        if (strcmp(cs->files[i].file, path) == 0) return &cs->files[i];
    fail_msg("%s is not in the plan", rel);
    return NULL;
}

static void expect(const struct cases *cs, const char *rel, const char *case_id, const char *path)
{
    const struct case_file *f = find(cs, rel);

    if (f->refused != NULL) fail_msg("%s is refused: %s", rel, f->refused);
    assert_string_equal(f->case_id, case_id);
    assert_string_equal(f->path, path);
}

static void expect_refused(const struct cases *cs, const char *rel, const char *word)
{
    const struct case_file *f = find(cs, rel);

    if (f->refused == NULL) fail_msg("%s is not refused", rel);
    if (strstr(f->refused, word) == NULL) fail_msg("%s: '%s' has no '%s'", rel, f->refused, word);
}

static void plan(struct cases *cs, const char *case_name)
{
    struct err e = {0};

    cases_init(cs);
    assert_int_equal(cases_add(cs, root, case_name, &e), RC_OK);
    assert_int_equal(cases_sort(cs, &e), RC_OK);
}

static void by_rules(void **state)
{
    struct cases cs;

    (void)state;
    text_file("slide-1.tif");
    text_file("slide-1.png"); /* the same stem: the same case */
    text_file(".hidden");     /* no stem before the dot */
    text_file("no-suffix");
    text_file("colon-1/a.jpg");
    text_file("colon-1/deep/b.jpg");
    dicom_file("ct/001.dcm", "1.2.3");
    dicom_file("other/002", "1.2.3");
    dicom_file("ct/003.dcm", "1.2.34");
    plan(&cs, NULL);
    assert_int_equal(cs.n, 9);
    assert_int_equal(cs.refused_n, 0);
    expect(&cs, "slide-1.tif", "slide-1", "slide-1.tif");
    expect(&cs, "slide-1.png", "slide-1", "slide-1.png");
    expect(&cs, ".hidden", ".hidden", ".hidden");
    expect(&cs, "no-suffix", "no-suffix", "no-suffix");
    expect(&cs, "colon-1/a.jpg", "colon-1", "a.jpg");
    expect(&cs, "colon-1/deep/b.jpg", "colon-1~deep", "b.jpg");
    expect(&cs, "ct/001.dcm", "1.2.3", "ct/001.dcm");
    expect(&cs, "other/002", "1.2.3", "other/002");
    expect(&cs, "ct/003.dcm", "1.2.34", "ct/003.dcm");
    /* files of one case stand together, in order of their paths */
    for (size_t i = 1; i < cs.n; i++) {
        int d = strcmp(cs.files[i - 1].case_id, cs.files[i].case_id);

        assert_true(d < 0 || (d == 0 && strcmp(cs.files[i - 1].path, cs.files[i].path) < 0));
    }
    cases_deinit(&cs);
}

static void by_name(void **state)
{
    struct cases cs;

    (void)state;
    text_file("x.jpg");
    dicom_file("ct/001.dcm", "1.2.3");
    plan(&cs, "case-7");
    expect(&cs, "x.jpg", "case-7", "x.jpg");
    expect(&cs, "ct/001.dcm", "case-7", "ct/001.dcm");
    assert_int_equal(cs.bytes, cs.files[0].size_bytes + cs.files[1].size_bytes);
    cases_deinit(&cs);
}

static void bad_names(void **state)
{
    char path[200];
    struct cases cs;

    (void)state;
    text_file("good.jpg");
    text_file("tab\there.jpg");
    text_file("nfd-e\xcc\x81.jpg"); /* e and a combining acute: not NFC */
    text_file("nfc-\xc3\xa9.jpg");  /* the same in NFC */
    text_file("latin-\xe9.jpg");    /* not UTF-8 */
    (void)snprintf(path, sizeof path, "%s/gone", root);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    (void)snprintf(path, sizeof path, "%s/link-to-folder", root);
    assert_int_equal(symlink("/tmp", path), 0);
    (void)snprintf(path, sizeof path, "%s/pipe", root);
    assert_int_equal(mkfifo(path, 0600), 0);
    plan(&cs, NULL);
    assert_int_equal(cs.n, 8);
    assert_int_equal(cs.refused_n, 6);
    expect(&cs, "good.jpg", "good", "good.jpg");
    expect(&cs, "nfc-\xc3\xa9.jpg", "nfc-\xc3\xa9", "nfc-\xc3\xa9.jpg");
    expect_refused(&cs, "tab\there.jpg", "control character");
    expect_refused(&cs, "nfd-e\xcc\x81.jpg", "NFC");
    expect_refused(&cs, "latin-\xe9.jpg", "UTF-8");
    expect_refused(&cs, "gone", "No such file");
    expect_refused(&cs, "link-to-folder", "link to a folder");
    expect_refused(&cs, "pipe", "neither a file nor a folder");
    assert_int_equal(cs.bytes, 16); /* of the two planned ones */
    cases_deinit(&cs);
}

static void clashes(void **state)
{
    struct cases cs;
    struct err e = {0};
    char path[100];

    (void)state;
    text_file("a/b/x.jpg");
    text_file("a~b/y.jpg"); /* the folder a/b is the case a~b already */
    text_file("one/z.jpg");
    plan(&cs, NULL);
    expect(&cs, "a/b/x.jpg", "a~b", "x.jpg");
    expect_refused(&cs, "a~b/y.jpg", "same case name");
    cases_deinit(&cs);
    /* two arguments with one name in one case; and a file given twice */
    cases_init(&cs);
    (void)snprintf(path, sizeof path, "%s/a/b", root);
    assert_int_equal(cases_add(&cs, path, "k", &e), RC_OK);
    text_file("one/x.jpg");
    (void)snprintf(path, sizeof path, "%s/one", root);
    assert_int_equal(cases_add(&cs, path, "k", &e), RC_OK);
    assert_int_equal(cases_add(&cs, path, "k", &e), RC_OK);
    assert_int_equal(cases_sort(&cs, &e), RC_OK);
    assert_int_equal(cs.n, 5);
    assert_int_equal(cs.refused_n, 3);
    assert_int_equal(cs.bytes, 16);
    cases_deinit(&cs);
}

static void no_such_argument(void **state)
{
    struct cases cs;
    struct err e = {0};

    (void)state;
    cases_init(&cs);
    assert_int_equal(cases_add(&cs, "/nowhere/at/all", NULL, &e), RC_NOTFOUND);
    assert_non_null(strstr(e.msg, "/nowhere/at/all"));
    cases_deinit(&cs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(by_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_names, setup, teardown),
        cmocka_unit_test_setup_teardown(clashes, setup, teardown),
        cmocka_unit_test(no_such_argument),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
