/* gateway/inspect/wire.h - what the gateway and mikura-inspect say to each other over a socketpair
 * (descriptor 3 of the child). Integers little-endian.
 *
 *   job     gateway -> child   size u64
 *   ask     child -> gateway   'R', offset u64, n u32 (1 .. INSPECT_READ_MAX)
 *   bytes   gateway -> child   n u32 as asked, or 0: not readable; the bytes
 *   fact    child -> gateway   'A', name length u16 (1 .. 128), value length u16 (.. 1024), both
 *   end     child -> gateway   'E', length u16 (.. 255) of a reason, or 0
 *
 * The child is not trusted: each length is held against its limit, each range against the object.
 */
#pragma once
#include "common/base/macros.h"

#define INSPECT_FD         3
#define INSPECT_READ_MAX   65536u
#define INSPECT_NAME_MAX   128u
#define INSPECT_VALUE_MAX  1024u
#define INSPECT_REASON_MAX 255u
#define INSPECT_FACTS_MAX  64u
#define INSPECT_BYTES_MAX  (64u << 20) /* read for one object */
#define INSPECT_MS         10000u      /* for one object */
#define INSPECT_MEMORY_MAX (1ull << 30)
