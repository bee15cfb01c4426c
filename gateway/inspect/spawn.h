/* gateway/inspect/spawn.h - starts a mikura-inspect. */
#pragma once
#include "common/base/rc.h"
#include <sys/types.h>

/* Where it is: given, or (NULL, "") beside the running program. */
void inspect_program(const char *given, char path[512]);
/* RC_IO names the program. The descriptor is ours to close, the process ours to wait for. */
MUST_CHECK enum rc inspect_spawn(const char *program, pid_t *ret_pid, int *ret_fd,
                                 struct err *reterr);
