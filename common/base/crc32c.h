/* common/base/crc32c.h - CRC-32C (Castagnoli, RFC 3720 B.4), as in iSCSI and ext4. */
#pragma once
#include "common/base/macros.h"

/* crc32c(0, "123456789", 9) == 0xe3069283; pass the last result to continue. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
