/* storaged/store/store_priv.h - the folder of a disk: what store_open finds there. Blocking. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"
#include "storaged/store/store_dir.h"

/* Makes DIR if missing, takes its LOCK, reads DIR/disk.id or makes it, makes DIR/segments.
 * *ret_lock_fd: close it to let go. RC_BUSY: another process has it. RC_PRECOND: another format, or
 * data without disk.id. RC_CORRUPT, RC_IO, RC_FULL, RC_DENIED, RC_NOTFOUND (parent). */
MUST_CHECK enum rc store_dir_open(const char *dir, int *ret_lock_fd, struct id128 *ret_disk_id,
                                  struct err *reterr);
/* store_ballast.c: blocks for a start on a full file system. false: not now, or not all of them. */
#define STORE_SPARE_BYTES (32u << 10) /* of a small one */
void store_ballast_drop(const char *dir);
MUST_CHECK bool store_ballast_there(const char *dir, uint64_t bytes);
MUST_CHECK bool store_ballast_make(const char *dir, uint64_t bytes);
MUST_CHECK bool store_spares_make(const char *dir, uint64_t large_bytes);
MUST_CHECK bool store_spares_enough(const char *dir); /* for an open that has no rows to write */
/* DIR/damaged: one line for each time that something promised was found missing. Durable. */
MUST_CHECK enum rc store_dir_damage_note(const char *dir, const char *line, struct err *reterr);
MUST_CHECK enum rc store_dir_damage_clear(const char *dir, struct err *reterr);
