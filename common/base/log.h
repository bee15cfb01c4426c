/* common/base/log.h - one structured line per event on standard error.
 *
 *   log_warn("chunk_crc_mismatch", "rid=%s chunk=%s want=%08x got=%08x", ...);
 *   2026-11-23T09:00:00.123Z WARN storaged/s1 chunk_crc_mismatch rid=... chunk=... want=... got=...
 *
 * The event name is constant. Never pixel data, attribute values, keys or tokens. Thread-safe. */
#pragma once
#include "common/base/macros.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_setup(const char *daemon_name, enum log_level min); /* name is copied, 63 bytes at most */
bool log_level_parse(const char *text, enum log_level *ret_level);
void log_event(enum log_level level, const char *event, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define log_debug(event, ...) log_event(LOG_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...)  log_event(LOG_INFO, event, __VA_ARGS__)
#define log_warn(event, ...)  log_event(LOG_WARN, event, __VA_ARGS__)
#define log_error(event, ...) log_event(LOG_ERROR, event, __VA_ARGS__)
