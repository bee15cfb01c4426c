/* tests/unit/storaged/tools/test_tools.c - check finds what was changed and nothing else, dump
 * shows each record and no payload, rebuild-index brings back every acknowledged chunk. */
#include "storaged/tools/tools.h"
#include "store_recs.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char out[1 << 20]; /* what the tool printed, both streams */

/* Runs a tool in this process and keeps its output. */
static int tool(const char *line, const char *dir)
{
    char text[256], *argv[8];
    char file[] = "/var/tmp/mikura-tool-XXXXXX";
    int argc = 0, code = -1, fd = mkstemp(file), keep_out = dup(1), keep_err = dup(2);
    ssize_t n;

    assert_true(fd >= 0 && keep_out >= 0 && keep_err >= 0);
    (void)snprintf(text, sizeof(text), "%s", line);
    for (char *p = strtok(text, " "); p != NULL; p = strtok(NULL, " "))
        argv[argc++] = p;
    argv[argc++] = (char *)(uintptr_t) "--dir";
    argv[argc++] = (char *)(uintptr_t)dir; /* only read */
    (void)fflush(stdout);
    assert_true(dup2(fd, 1) == 1 && dup2(fd, 2) == 2);
    assert_true(tool_run(argc, argv, &code));
    (void)fflush(stdout);
    assert_true(dup2(keep_out, 1) == 1 && dup2(keep_err, 2) == 2);
    n = pread(fd, out, sizeof(out) - 1, 0);
    assert_true(n >= 0);
    out[n] = 0;
    (void)close(fd);
    (void)close(keep_out);
    (void)close(keep_err);
    (void)unlink(file);
    return code;
}

static void expect(int want, int got, const char *says)
{
    if (want != got || strstr(out, says) == NULL)
        fail_msg("exit code %d, not %d, or not '%s' in:\n%s", got, want, says, out);
}

static uint32_t times(const char *what)
{
    uint32_t n = 0;

    for (const char *p = out; (p = strstr(p, what)) != NULL; p++)
        n++;
    return n;
}

static void shell(const char *fmt, const char *dir)
{
    char cmd[512];

    (void)snprintf(cmd, sizeof(cmd), "d='%s'; %s", dir, fmt);
    assert_int_equal(system(cmd), 0);
}

/* Flips a bit of DIR/name. */
static void flip(const char *dir, const char *name, off_t at)
{
    char path[256];
    uint8_t b = 0;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &b, 1, at) == 1);
    b ^= 4;
    assert_true(pwrite(fd, &b, 1, at) == 1);
    assert_int_equal(close(fd), 0);
}

static void flip_segment(const char *dir, uint64_t id, off_t at)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "segments/%016llx.seg", (unsigned long long)id);
    flip(dir, name, at);
}

static void test_check(void **state)
{
    static const struct {
        const char *line, *says;
    } BAD[] = {{"check --nonsense", "usage"}, {"dump --segment xyz", "16 hex digits"}};
    struct seg_location loc, last;
    char dir[64];

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    write_range(0, 40);
    assert_int_equal(locate(9, &loc), RC_OK);
    assert_int_equal(locate(39, &last), RC_OK);
    expect(TOOL_REFUSED, tool("check", dir), "served by a running storaged: stop that first");
    expect(TOOL_REFUSED, tool("dump", dir), "stop that first");
    expect(TOOL_REFUSED, tool("rebuild-index", dir), "stop that first");
    must_close();
    for (size_t i = 0; i < ARRAY_N(BAD); i++)
        expect(TOOL_USAGE, tool(BAD[i].line, dir), BAD[i].says);
    expect(TOOL_REFUSED, tool("check", "/var/tmp/mikura-no-such"), "No such file");
    expect(TOOL_REFUSED, tool("check", "/var/tmp"), "no disk of a storaged");
    shell("cp -r $d $d.as-it-was", dir);
    expect(TOOL_OK, tool("check", dir), "0 faults");
    expect(TOOL_OK, tool("check --json", dir), "{\"faults\":0,");
    expect(TOOL_OK, tool("check", dir), " 30 chunks, 10 log entries");
    shell("rm $d.as-it-was/index/LOG* $d/index/LOG* && diff -r $d.as-it-was $d", dir);

    flip_segment(dir, loc.segment_id, (off_t)loc.offset + 64); /* a header: its row is left alone */
    expect(TOOL_FAULTS, tool("check", dir), "no valid record");
    expect(TOOL_FAULTS, tool("check", dir), "no such record lies there");
    flip_segment(dir, loc.segment_id, (off_t)loc.offset + 64);
    flip_segment(dir, loc.segment_id, (off_t)loc.offset + 4096 + 70000);
    expect(TOOL_FAULTS, tool("check --json", dir), "payload block fails its CRC");
    expect(TOOL_FAULTS, tool("check", dir), "1 faults");
    flip_segment(dir, loc.segment_id, (off_t)loc.offset + 4096 + 70000);
    flip_segment(dir, loc.segment_id,
                 (off_t)loc.offset + 4096 + record_payload_bytes(loc.plain_bytes) - 1);
    expect(TOOL_FAULTS, tool("check", dir), "padding is not zero");
    flip_segment(dir, loc.segment_id,
                 (off_t)loc.offset + 4096 + record_payload_bytes(loc.plain_bytes) - 1);
    flip_segment(dir, loc.segment_id, 100);
    expect(TOOL_FAULTS, tool("check", dir), "CRC");
    flip_segment(dir, loc.segment_id, 100);
    flip_segment(dir, loc.segment_id, 4096 + 50);
    expect(TOOL_FAULTS, tool("check", dir), "the seal is bad");
    flip_segment(dir, loc.segment_id, 4096 + 50);
    flip_segment(dir, last.segment_id,
                 (off_t)last.offset + 12); /* no end of the log: it is sealed */
    expect(TOOL_FAULTS, tool("check", dir), "no valid record");
    flip_segment(dir, last.segment_id, (off_t)last.offset + 12);
    flip(dir, "disk.id", 20);
    expect(TOOL_FAULTS, tool("check", dir), "disk id");
    flip(dir, "disk.id", 20);
    flip(dir, "disk.id", 3);
    expect(TOOL_FAULTS, tool("check", dir), "bytes 16 to 31 of any of its segments");
    flip(dir, "disk.id", 3);
    shell("mv $d/segments $d/away", dir);
    expect(TOOL_REFUSED, tool("rebuild-index", dir), "nothing to make it from");
    shell("[ -d $d/index ] && mv $d/away $d/segments", dir);
    shell("echo x >$d/damaged", dir);
    expect(TOOL_FAULTS, tool("check", dir), "noted losses");
    shell("rm $d/damaged; mv $d/index/CURRENT $d/C", dir);
    expect(TOOL_FAULTS, tool("check", dir), "FAULT index");
    shell("mv $d/C $d/index/CURRENT; for f in $d/index/*.log; do truncate -s -3 $f; done", dir);
    (void)tool("check", dir); /* a torn WAL: no rows are missing that a replay does not bring */
    shell("rm -r $d/index", dir);
    expect(TOOL_FAULTS, tool("check", dir), "there is none");
    shell("rm -r $d && mv $d.as-it-was $d", dir);
    expect(TOOL_OK, tool("check", dir), "0 faults");
    remove_dir(dir);
}

static void test_dump(void **state)
{
    struct seg_location loc;
    char dir[64], line[64], text[80];

    (void)state;
    temp_dir(dir, sizeof(dir));
    must_open(dir, DISK_AUTO);
    write_range(0, 40);
    assert_int_equal(locate(9, &loc), RC_OK);
    must_close();
    expect(TOOL_OK, tool("dump", dir), "segment 0000000000000001 generation=1");
    assert_int_equal(times("  chunk "), 30);
    assert_int_equal(times("  entry "), 10);
    assert_int_equal(times("group=a000000000000000/4 log_index="), 10);
    expect(TOOL_OK, tool("dump --json", dir), "{\"record\":\"chunk\",\"segment\":");
    assert_int_equal(times("\"record\":\"entry\""), 10);
    (void)snprintf(line, sizeof(line), "dump --segment %016llx",
                   (unsigned long long)loc.segment_id);
    (void)snprintf(text, sizeof(text), "offset=%llu ", (unsigned long long)loc.offset);
    expect(TOOL_OK, tool(line, dir), text);
    assert_int_equal(times("segment 0"), 1);
    flip_segment(dir, loc.segment_id, (off_t)loc.offset + 9);
    expect(TOOL_OK, tool(line, dir), "FAULT");
    remove_dir(dir);
}

/* The index is deleted, or bad: all that was acknowledged is there again. */
static void test_rebuild(void **state)
{
    const uint32_t n = 480;
    char dir[64];

    (void)state;
    for (int how = 0; how < 3; how++) {
        temp_dir(dir, sizeof(dir));
        must_open(dir, DISK_AUTO);
        for (uint32_t i = 0; i < n; i += 24)
            write_range(i, i + 24);
        must_close();
        if (how == 1) shell("rm -r $d/index", dir);
        if (how == 2) shell("echo nonsense >$d/index/CURRENT", dir);
        expect(TOOL_OK, tool("rebuild-index", dir), "rebuilt from 480 records");
        if (how != 1) {
            expect(TOOL_REFUSED, tool("rebuild-index", dir), "index.old");
            shell("rm -r $d/index.old", dir);
        }
        expect(TOOL_FAULTS, tool("check", dir), "1 faults"); /* the note of it */
        must_open(dir, DISK_AUTO);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(read_back(i), RC_OK);
        must_close();
        remove_dir(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_check), cmocka_unit_test(test_dump),
                                       cmocka_unit_test(test_rebuild)};
    int bad;

    if (uv_loop_init(&loop) != 0) return 1;
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    return uv_loop_close(&loop) != 0 ? 1 : bad;
}
