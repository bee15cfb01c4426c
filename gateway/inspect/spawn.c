/* gateway/inspect/spawn.c - the child gets one end of a socketpair, /dev/null and no environment
 * but what keeps tesseract from starting threads, which it may not. */
#include "gateway/inspect/spawn.h"
#include "gateway/inspect/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void inspect_program(const char *given, char path[512])
{
    char self[400];
    ssize_t n;

    if (given != NULL && given[0] != 0) {
        (void)snprintf(path, 512, "%s", given);
        return;
    }
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n < 0 ? 0 : n] = 0;
    if (strrchr(self, '/') != NULL) *strrchr(self, '/') = 0;
    (void)snprintf(path, 512, "%s/mikura-inspect", self);
}

enum rc inspect_spawn(const char *program, pid_t *ret_pid, int *ret_fd, struct err *reterr)
{
    char path[512];
    char threads[] = "OMP_THREAD_LIMIT=1";
    char *const argv[] = {path, NULL}, *const envp[] = {threads, NULL};
    posix_spawn_file_actions_t fa;
    int sv[2], status;

    (void)snprintf(path, sizeof path, "%s", program);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0)
        return err_set(reterr, rc_from_errno(errno), "socketpair: %s", strerror(errno));
    status = posix_spawn_file_actions_init(&fa);
    if (status == 0) status = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&fa, 0, 1);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&fa, sv[1], INSPECT_FD);
    if (status == 0) status = posix_spawn(ret_pid, path, &fa, NULL, argv, envp);
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)close(sv[1]);
    if (status != 0) {
        (void)close(sv[0]);
        return err_set(reterr, RC_IO, "%s: %s", path, strerror(status));
    }
    *ret_fd = sv[0];
    return RC_OK;
}
