/* gateway/inspect/wire.h - what a parent (gateway, command) and mikura-inspect say to each other
 * over a socketpair (descriptor 3 of the child). Integers little-endian.
 *
 *   job       parent -> child  'A' attributes, 'D' check, 'C' clean; size u64; for D and C: length
 * u16
 *                              (.. 8192) of the profile's text, the text
 *   ask       child -> parent  'R', offset u64, n u32 (1 .. INSPECT_READ_MAX)
 *   bytes     parent -> child  n u32 as asked, or 0: not readable; the bytes
 *   fact      child -> parent  'A', name length u16 (1 .. 128), value length u16 (.. 1024), both
 *   finding   child -> parent  'F', rule u8, place u8, change u8, path_n u8 (.. 6), 6 x u32
 *   copy      child -> parent  'Y', offset u64, n u64: the cleaned file goes on with this range
 *   data      child -> parent  'W', n u32 (1 .. INSPECT_READ_MAX), the bytes it goes on with
 *   pseudonym child -> parent  'P', kind u8, n u16 (.. 1024), the value; answer: 32 bytes
 *   verdict   child -> parent  'V', outcome u8
 *   end       child -> parent  'E', length u16 (.. 255) of a reason, or 0
 *
 * The child is not trusted: each length is held against its limit, each range against the object,
 * each message against the job; numbers in findings name places, never values. */
#pragma once
#include "common/base/macros.h"

#define INSPECT_FD             3
#define INSPECT_READ_MAX       65536u
#define INSPECT_NAME_MAX       128u
#define INSPECT_VALUE_MAX      1024u
#define INSPECT_REASON_MAX     255u
#define INSPECT_FACTS_MAX      64u
#define INSPECT_FINDINGS_MAX   256u
#define INSPECT_FINDING_BYTES  28u
#define INSPECT_BYTES_MAX      (64u << 20)  /* read for the attributes of one object */
#define INSPECT_DEID_BYTES_MAX (4ull << 30) /* read to check or clean one */
#define INSPECT_MS             10000u       /* for one object */
/* Of address space: libraries and dictionary take about 60 MiB of it, an inflated DICOM at most
 * 256 while it grows (common/image/deid/dicom.c). */
#define INSPECT_MEMORY_MAX (512ull << 20)
/* A child that has used so many CPU seconds ends after its object, and the next one gets a fresh
 * child; so the kernel's limit, which leaves room for two more objects, is met by none that is
 * well. */
#define INSPECT_CPU_S     60u
#define INSPECT_CPU_S_MAX (INSPECT_CPU_S + 2 * INSPECT_MS / 1000)
