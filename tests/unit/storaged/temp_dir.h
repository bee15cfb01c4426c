/* tests/unit/storaged/temp_dir.h - folders of tests on disks. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Makes /var/tmp/mikura-KIND-XXXXXX (with O_DIRECT; in_memory: in /dev/shm) and writes its path to
 * p. The last one made is locked as long as this process lives. The first call removes what tests
 * of that kind left that failed or were killed: what is unlocked and an hour old. */
void temp_dir_make(char *p, size_t cap, const char *kind, bool in_memory);
