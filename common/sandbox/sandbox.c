/* common/sandbox/sandbox.c - see sandbox.h. The filter looks at the architecture, then at the
 * call's number alone; memory that is executable stays allowed, since oneDNN compiles its kernels.
 */
#include "common/sandbox/sandbox.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#else
#error "sandbox.c: add this architecture's AUDIT_ARCH and look through the list of calls"
#endif

static const uint32_t ALLOWED[] = {
    /* its descriptors */
    __NR_read, __NR_write, __NR_readv, __NR_writev, __NR_close, __NR_fstat, __NR_lseek,
    __NR_pread64,
    /* memory */
    __NR_mmap, __NR_munmap, __NR_mremap, __NR_mprotect, __NR_madvise, __NR_brk,
    /* itself */
    __NR_futex, __NR_rt_sigreturn, __NR_rt_sigprocmask, __NR_rt_sigaction, __NR_sigaltstack,
    __NR_exit, __NR_exit_group, __NR_sched_yield, __NR_sched_getaffinity, __NR_getpid, __NR_gettid,
    __NR_restart_syscall,
    /* time and chance */
    __NR_clock_gettime, __NR_clock_getres, __NR_gettimeofday, __NR_getrandom, __NR_getrusage};

/* What a GPU's driver asks for beyond that, see sandbox.h. */
static const uint32_t ALLOWED_DEVICE[] = {__NR_ioctl, __NR_ppoll, __NR_mincore};

#define CALLS_MAX (ARRAY_N(ALLOWED) + ARRAY_N(ALLOWED_DEVICE))
#define FILTER_N  (CALLS_MAX + 9)

static uint32_t filter_make(struct sock_filter *f, pid_t self, bool device)
{
    uint32_t n = 0;
    const uint32_t calls_n = (uint32_t)(device ? CALLS_MAX : ARRAY_N(ALLOWED));

    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                          (uint32_t)offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                          (uint32_t)offsetof(struct seccomp_data, nr));
    for (uint32_t i = 0; i < calls_n; i++) /* a hit jumps over all that follows but the last */
        f[n++] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K,
            i < ARRAY_N(ALLOWED) ? ALLOWED[i] : ALLOWED_DEVICE[i - ARRAY_N(ALLOWED)],
            (uint8_t)(calls_n - i + 3), 0);
    /* abort() sends itself a signal; nobody else gets one */
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_tgkill, 0, 2);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                          (uint32_t)offsetof(struct seccomp_data, args[0]));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)self, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    return n;
}

static enum rc limit(int what, const char *name, uint64_t v, struct err *reterr)
{
    struct rlimit l = {.rlim_cur = v, .rlim_max = v};

    if (setrlimit((__rlimit_resource_t)what, &l) != 0)
        return err_set(reterr, RC_IO, "sandbox: %s: %s", name, strerror(errno));
    return RC_OK;
}

enum rc sandbox_enter(const struct sandbox_conf *conf, struct err *reterr)
{
    struct sock_filter filter[FILTER_N];
    struct sock_fprog prog = {.filter = filter};
    enum rc rc;

    _Static_assert(CALLS_MAX < 250, "jumps of a filter are 8 bits");
    if (!conf->device && syscall(__NR_close_range, (unsigned)conf->keep_fd_max + 1, ~0u, 0) != 0)
        return err_set(reterr, RC_IO, "sandbox: close_range: %s", strerror(errno));
#ifndef __SANITIZE_ADDRESS__
    if (!conf->device) {
        rc = limit(RLIMIT_AS, "RLIMIT_AS", conf->address_bytes_max, reterr);
        if (rc != RC_OK) return rc;
    }
#endif
    rc = limit(RLIMIT_CORE, "RLIMIT_CORE", 0, reterr); /* a core file would hold pixels */
    if (rc == RC_OK) rc = limit(RLIMIT_FSIZE, "RLIMIT_FSIZE", 0, reterr);
    if (rc == RC_OK && conf->cpu_s_max > 0)
        rc = limit(RLIMIT_CPU, "RLIMIT_CPU", conf->cpu_s_max, reterr);
    if (rc == RC_OK)
        rc = limit(RLIMIT_NOFILE, "RLIMIT_NOFILE", (uint64_t)conf->keep_fd_max + 1, reterr);
    if (rc != RC_OK) return rc;
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(reterr, RC_IO, "sandbox: prctl: %s", strerror(errno));
    prog.len = (unsigned short)filter_make(filter, getpid(), conf->device);
    CHECK(prog.len <= FILTER_N);
    if (syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) != 0)
        return err_set(reterr, RC_IO,
                       "sandbox: the kernel refuses a seccomp filter (%s): images are not parsed "
                       "without one",
                       strerror(errno));
    return RC_OK;
}
