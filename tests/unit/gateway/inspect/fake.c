/* tests/unit/gateway/inspect/fake.c - stands in for a mikura-inspect that a hostile file took over.
 */
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static void say(const void *p, size_t n)
{
    (void)!write(3, p, n); /* the parent may have hung up: that is the test */
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *name = slash == NULL ? "" : slash + 1;
    uint8_t job[65536];

    (void)!read(3, job, sizeof job);
    if (strcmp(name, "crash") == 0) (void)raise(SIGSEGV);
    if (strcmp(name, "hang") == 0) (void)pause();
    if (strcmp(name, "silent") == 0) return 0;
    if (strcmp(name, "noise") == 0) say("Zzzz", 4);
    if (strcmp(name, "outside") == 0) say("R\xff\xff\xff\xff\xff\xff\xff\x7f\x10\0\0\0", 13);
    if (strcmp(name, "rule") == 0) say("F\xff\0\0\0________________________", 29);
    if (strcmp(name, "verdict") == 0) say("V\x09", 2);
    if (strcmp(name, "tired") == 0) { /* one file, then it ends */
        say("V\1E\0\0", 5);
        return 0;
    }
    if (strcmp(name, "none") == 0) say("E\0\0", 3);
    if (strcmp(name, "writes") == 0) say("W\1\0\0\0x", 6); /* in a check */
    if (strcmp(name, "flood") == 0) {
        uint8_t f[29] = "F";

        for (int i = 0; i < 100000; i++)
            say(f, sizeof f);
    }
    (void)pause();
    return 0;
}
