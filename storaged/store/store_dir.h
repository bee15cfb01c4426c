/* storaged/store/store_dir.h - the folder of a disk that nobody serves, for offline tools.
 * Blocking.
 */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

/* Takes the LOCK of a folder that is there and reads its disk.id; nothing is made.
 * *ret_lock_fd: close it to let go. RC_CORRUPT (disk.id): it is held all the same, *reterr says
 * what is wrong. RC_NOTFOUND (no disk of a storaged), RC_BUSY (served), RC_PRECOND (another
 * format), RC_IO, RC_DENIED: it is not. */
MUST_CHECK enum rc store_dir_lock(const char *dir, int *ret_lock_fd, struct id128 *ret_disk_id,
                                  struct err *reterr);
/* Notes in DIR/damaged that the index is made again, then moves DIR/index to DIR/index.old; both
 * durable. The caller has the LOCK. RC_EXISTS: an index.old is there. No index is fine. */
MUST_CHECK enum rc store_dir_index_away(const char *dir, struct err *reterr);
MUST_CHECK enum rc store_dir_damaged(const char *dir, bool *ret_damaged, struct err *reterr);
