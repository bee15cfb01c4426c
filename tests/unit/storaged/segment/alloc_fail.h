/* tests/unit/storaged/segment/alloc_fail.h - the n-th allocation of the code under test (and of the
 * test's own) fails. The program is linked with --wrap (CMakeLists.txt); libraries that are
 * linked dynamically (RocksDB, libuv, libc) are not touched. Any thread. */
#pragma once
#include "common/base/macros.h"

void alloc_fail_at(uint64_t n); /* 1 = the next one; once */
/* From here on none fails. True: the one has failed. */
bool alloc_fail_off(void);
