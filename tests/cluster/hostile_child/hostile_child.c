/* tests/cluster/hostile_child/hostile_child.c - stands in for mikura-inspect as a parser that a
 * hostile image took over: what it does is the word in the file `mode` beside it. */
#include "common/base/le.h"
#include "gateway/inspect/wire.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(const void *p, size_t n)
{
    if (write(INSPECT_FD, p, n) != (ssize_t)n) _exit(0);
}

static void fact(uint16_t name_n, uint16_t value_n, const void *bytes, size_t n)
{
    uint8_t head[5] = {'A'};

    le_put16(head + 1, name_n);
    le_put16(head + 3, value_n);
    say(head, sizeof(head));
    say(bytes, n);
}

static void ask(uint64_t off, uint32_t n)
{
    uint8_t a[13] = {'R'};

    le_put64(a + 1, off);
    le_put32(a + 9, n);
    say(a, sizeof(a));
}

static void act(const char *mode)
{
    static uint8_t junk[65536];

    memset(junk, 0xee, sizeof(junk));
    if (strcmp(mode, "die") == 0) _exit(1);
    if (strcmp(mode, "crash") == 0) (void)raise(SIGSEGV);
    if (strcmp(mode, "hang") == 0) (void)pause();
    if (strcmp(mode, "nonsense") == 0) say(junk, 1000);
    if (strcmp(mode, "outside") == 0) ask(UINT64_C(1) << 60, 4096);
    if (strcmp(mode, "wide") == 0) ask(0, UINT32_MAX);
    if (strcmp(mode, "length") == 0) fact(65535, 65535, junk, 100);
    if (strcmp(mode, "reason") == 0) say("E\xff\xff", 3);
    if (strcmp(mode, "many") == 0)
        for (int i = 0; i < 1000; i++)
            fact(1, 1, "ab", 2);
    if (strcmp(mode, "bytes") == 0) { /* the same bytes again and again */
        for (int i = 0; i < 100000; i++) {
            size_t got = 0;

            ask(0, INSPECT_READ_MAX);
            while (got < 4 + INSPECT_READ_MAX) {
                ssize_t n = read(INSPECT_FD, junk, MIN(sizeof(junk), 4 + INSPECT_READ_MAX - got));

                if (n <= 0) _exit(0);
                got += (size_t)n;
            }
        }
    }
    if (strcmp(mode, "text") == 0) { /* no ASCII, no number: neither may reach the index */
        fact(4, 6,
             "a\xff\n\x1b"
             "1e9999",
             10);
        fact(5, 3, "image\x80\x81\x82", 8);
        say("E\x00\x00", 3);
    }
}

int main(int argc, char **argv)
{
    char path[4096], mode[32] = "";
    char *slash;
    uint8_t job[9];
    int fd;

    (void)argc;
    slash = strrchr(argv[0], '/'); /* the gateway starts it by its path */
    if (slash == NULL || (size_t)(slash - argv[0]) > sizeof(path) - 8) return 2;
    memcpy(path, argv[0], (size_t)(slash - argv[0]));
    memcpy(path + (slash - argv[0]), "/mode", 6);
    while (read(INSPECT_FD, job, sizeof(job)) == (ssize_t)sizeof(job)) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, mode, sizeof(mode) - 1) <= 0) return 2;
        (void)close(fd);
        mode[strcspn(mode, "\n")] = '\0';
        act(mode);
    }
    return 0;
}
