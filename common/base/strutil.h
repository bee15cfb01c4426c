/* common/base/strutil.h - numbers and sizes in text. All return false on anything left over. */
#pragma once
#include "common/base/macros.h"

bool str_to_u64(const char *s, uint64_t max, uint64_t *ret_v);
/* "8MiB", "64KiB", "1GB", "123": powers of 1024 with i, of 1000 without; B optional */
bool str_to_bytes(const char *s, uint64_t *ret_bytes);
/* "250ms", "5s", "10m", "2h", "14d"; a unit is needed */
bool str_to_ms(const char *s, uint64_t *ret_ms);
/* "1.5 GiB"; for people only */
const char *str_from_bytes(uint64_t bytes, char text[32]);
bool str_has_prefix(const char *s, const char *prefix);
