/* tests/cluster/agent/killer.c - LD_PRELOAD: kill -9 of the process at its nth fsync, fdatasync or
 * rename, before (MIKURA_KILL_AT=n) or after it (MIKURA_KILL_AT=-n): every step of a journal, one
 * after the other. */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static void at(int after)
{
    static atomic_long count;
    const char *want = getenv("MIKURA_KILL_AT");
    long n = want == NULL ? 0 : strtol(want, NULL, 10), now;

    if (n == 0) return;
    now = after ? atomic_load(&count) : atomic_fetch_add(&count, 1) + 1;
    if (now == (after ? -n : n)) (void)kill(getpid(), SIGKILL);
}

int fsync(int fd);
int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync"), rc;

    at(0);
    rc = real(fd);
    at(1);
    return rc;
}

int fdatasync(int fd);
int fdatasync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync"), rc;

    at(0);
    rc = real(fd);
    at(1);
    return rc;
}

int rename(const char *from, const char *to);
int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) =
        (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"),
                                         rc;

    at(0);
    rc = real(from, to);
    at(1);
    return rc;
}
