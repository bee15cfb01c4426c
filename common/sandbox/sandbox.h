/* common/sandbox/sandbox.h - locks the calling process in, for good: what it can still do is
 * compute, take memory within a limit, and talk over the descriptors it has.
 *
 * Deny by default: a seccomp filter (hand-written BPF) answers EPERM to every system call that is
 * not on the list: no file is opened, no socket made, no program or thread started. So a parser
 * that a hostile image took over holds no key, reaches no network and writes nowhere but to its
 * pipe. */
#pragma once
#include "common/base/rc.h"

struct sandbox_conf {
    uint64_t address_bytes_max; /* RLIMIT_AS; not set in sanitizer builds, which map terabytes */
    int keep_fd_max;            /* descriptors above it are closed */
    uint32_t cpu_s_max;         /* RLIMIT_CPU, of the process's whole life; 0: none */
    /* The process holds an open GPU: its driver talks by ioctl on descriptors that it opened
     * before, reserves terabytes of addresses, and has threads of its own (the filter is put on
     * them too). No address limit then, no descriptor is closed, and ioctl and poll are allowed;
     * files, sockets and new threads still are not. Written from documentation, not yet tried on a
     * GPU. */
    bool device;
};
/* Before it: everything that must be opened or loaded. One thread, but for a device's own. RC_IO
 * names the step: the caller must then not touch untrusted bytes. */
MUST_CHECK enum rc sandbox_enter(const struct sandbox_conf *conf, struct err *reterr);
