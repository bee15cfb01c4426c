/* tests/unit/gateway/agent/test_scan.c - which files make which case. */
#include "gateway/agent/scan.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/mikura-scan-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static void put(const char *path, const char *content)
{
    char full[256], *slash;
    FILE *f;

    (void)snprintf(full, sizeof full, "%s/%s", dir, path);
    for (slash = strchr(full + strlen(dir) + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(full, 0700);
        *slash = '/';
    }
    f = fopen(full, "w");
    assert_non_null(f);
    (void)fputs(content, f);
    assert_int_equal(fclose(f), 0);
}

/* All cases as text: "id[path,path]!bad", joined by spaces. */
static enum rc look(const struct scan_conf *conf, char *text, size_t cap, struct err *e)
{
    struct scan_case *c;
    struct scan *s;
    size_t at = 0;
    enum rc rc = scan_open(conf, &s, e);

    text[0] = 0;
    if (rc != RC_OK) return rc;
    while ((rc = scan_next(s, &c, e)) == RC_OK) {
        at += (size_t)snprintf(text + at, cap - at, "%s%s[", at == 0 ? "" : " ", c->case_id);
        for (size_t i = 0; i < c->files_n; i++)
            at +=
                (size_t)snprintf(text + at, cap - at, "%s%s", i == 0 ? "" : ",", c->files[i].path);
        at += (size_t)snprintf(
            text + at, cap - at, "]%s%s%s%s%s%s", c->marker ? "+" : "", c->bad != NULL ? "!" : "",
            c->facility != NULL ? "@" : "", c->facility != NULL ? c->facility : "",
            c->document != NULL ? "=" : "", c->document != NULL ? c->document : "");
        scan_case_free(c);
    }
    scan_close(s);
    return rc == RC_RANGE ? RC_OK : rc;
}

static void folders(void **state)
{
    struct scan_conf conf = {dir, "_COMPLETE", ""};
    char text[1000];
    struct err e;

    (void)state;
    put("b/2.dcm", "x");
    put("b/sub/1.dcm", "y");
    put("b/.hidden", "z");
    put("b/_COMPLETE", "");
    put("a/only", "");
    put("single.tar.gz", "q");
    put(".work/x", "r");
    put("bad\\name/ok", "");
    assert_int_equal(look(&conf, text, sizeof text, &e), RC_OK);
    assert_non_null(strstr(text, "a[only]"));
    assert_non_null(strstr(text, "b[2.dcm,sub/1.dcm]+"));
    assert_non_null(strstr(text, "single.tar[single.tar.gz]"));
    assert_null(strstr(text, "hidden"));
    assert_null(strstr(text, "work"));
}

static void links(void **state)
{
    struct scan_conf conf = {dir, "", ""};
    char text[1000], from[128];
    struct err e;

    (void)state;
    put("a/file", "x");
    (void)snprintf(from, sizeof from, "%s/a/link", dir);
    assert_int_equal(symlink("/etc/passwd", from), 0);
    assert_int_equal(look(&conf, text, sizeof text, &e), RC_OK);
    assert_string_equal(text, "a[file]!");
    conf.folders = "/nowhere/at/all";
    assert_int_equal(look(&conf, text, sizeof text, &e), RC_NOTFOUND);
    assert_non_null(strstr(e.msg, "/nowhere/at/all"));
}

static void prints(void **state)
{
    struct scan_conf conf = {dir, "", ""};
    uint8_t before[32];
    struct scan_case *c;
    struct scan *s;
    struct err e;

    (void)state;
    put("a/x", "1");
    for (int i = 0; i < 3; i++) {
        if (i == 2) put("a/x", "22");
        assert_int_equal(scan_open(&conf, &s, &e), RC_OK);
        assert_int_equal(scan_next(s, &c, &e), RC_OK);
        if (i == 1) assert_memory_equal(before, c->print, 32);
        if (i == 2) assert_memory_not_equal(before, c->print, 32);
        memcpy(before, c->print, 32);
        scan_case_free(c);
        scan_close(s);
    }
}

static void lists(void **state)
{
    char text[2000], csv[128], json[128];
    struct scan_conf conf = {dir, "", csv};
    struct err e;

    (void)state;
    put("raw/one/a", "x");
    put("raw/two/b", "y");
    put("cases.csv", "\xef\xbb\xbf"
                     "case_id,folder,facility,history,labels\r\n"
                     "colon-1,raw/one,H07,\"said \"\"no\"\", twice\",polyp; adenoma\r\n"
                     "\r\n"
                     "colon-2,raw/two,,,\n"
                     "colon-3,raw/none,,,\n");
    (void)snprintf(csv, sizeof csv, "%s/cases.csv", dir);
    assert_int_equal(look(&conf, text, sizeof text, &e), RC_OK);
    assert_string_equal(
        text, "colon-1[a]@H07={\"history\":\"said \\\"no\\\", twice\",\"labels\":[\"polyp\","
              "\"adenoma\"]} colon-2[b] colon-3[]!");
    put("cases.json", "[{\"case_id\": \"j1\", \"folder\": \"raw/one\", \"document\": {\"k\": 1}},"
                      " {\"case_id\": \"j2\", \"folder\": \"raw/two\", \"labels\": [3]}]");
    (void)snprintf(json, sizeof json, "%s/cases.json", dir);
    conf.list = json;
    assert_int_equal(look(&conf, text, sizeof text, &e), RC_OK);
    assert_string_equal(text, "j1[a]={\"k\":1} j2[b]={\"labels\":[3]}");
}

static void lists_refused(void **state)
{
    static const struct {
        const char *name, *content, *why;
    } BAD[] = {
        {"x.csv", "case_id,folder\na,b,c\n", "row 2"},
        {"x.csv", "folder\nb\n", "no case_id"},
        {"x.json", "{\"case_id\": \"a\"}", "no array"},
        {"x.json", "[{\"folder\": \"a\"}]", "no case_id"},
        {"x.json", "[", "line 1"},
    };
    char text[1000], file[128];
    struct scan_conf conf = {dir, "", file};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(BAD); i++) {
        struct err e = {0};

        put(BAD[i].name, BAD[i].content);
        (void)snprintf(file, sizeof file, "%s/%s", dir, BAD[i].name);
        assert_int_equal(look(&conf, text, sizeof text, &e), RC_INVAL);
        if (strstr(e.msg, BAD[i].why) == NULL) fail_msg("%zu: %s", i, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(folders, setup, teardown),
        cmocka_unit_test_setup_teardown(links, setup, teardown),
        cmocka_unit_test_setup_teardown(prints, setup, teardown),
        cmocka_unit_test_setup_teardown(lists, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
