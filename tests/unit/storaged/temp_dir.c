/* tests/unit/storaged/temp_dir.c - see temp_dir.h. */
#include "temp_dir.h"
#include "common/base/macros.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LEFT_S 3600

static void sweep(const char *where, const char *prefix)
{
    DIR *d = opendir(where);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        char cmd[512];
        struct stat st;
        int fd;

        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0) continue;
        fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) continue;
        if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && st.st_mtime < time(NULL) - LEFT_S &&
            flock(fd, LOCK_EX | LOCK_NB) == 0) {
            (void)snprintf(cmd, sizeof(cmd), "rm -rf --one-file-system '%s/%s'", where, e->d_name);
            if (system(cmd) != 0) (void)fprintf(stderr, "failed: %s\n", cmd);
        }
        (void)close(fd);
    }
    if (d != NULL) (void)closedir(d);
}

void temp_dir_make(char *p, size_t cap, const char *kind, bool in_memory)
{
    static int lock_fd = -1;
    static bool swept;
    const char *where = in_memory ? "/dev/shm" : "/var/tmp";
    char prefix[40];

    (void)snprintf(prefix, sizeof(prefix), "mikura-%s-", kind);
    if (!swept) sweep(where, prefix);
    swept = true;
    CHECK((size_t)snprintf(p, cap, "%s/%sXXXXXX", where, prefix) < cap);
    CHECK(mkdtemp(p) != NULL);
    if (lock_fd >= 0) (void)close(lock_fd);
    lock_fd = open(p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(lock_fd >= 0);
    CHECK(flock(lock_fd, LOCK_SH) == 0);
}
