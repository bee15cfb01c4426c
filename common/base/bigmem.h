/* common/base/bigmem.h - large buffers that are used again.
 *
 * malloc gives buffers of a message's or a chunk's size back to the kernel, which clears each page
 * again at its next use: a tenth of a gateway's CPU. Freed ones are kept here, by size, up to
 * limits for the process (bigmem_limit; BIGMEM_KEPT_DEFAULT). They are mapped each by itself, so
 * that what is not kept goes back to the kernel, whatever malloc's heap holds behind it. Contents
 * are not cleared. Any thread. */
#pragma once
#include <stddef.h>

#define BIGMEM_MIN_BYTES    (64u << 10) /* below: malloc does as well */
#define BIGMEM_KEPT_DEFAULT (16u << 20)

/* 4096-aligned from BIGMEM_MIN_BYTES on, below as malloc. n >= 1. NULL: out of memory. */
void *bigmem_alloc(size_t n);
void bigmem_free(void *p, size_t n); /* n as allocated; p may be NULL */
size_t bigmem_kept(void);
size_t bigmem_used(void); /* rounded as they are mapped */
/* From the next call on: how much is kept at most, and with what is used at most. What is used is
 * never refused: beyond `all` nothing is kept. */
void bigmem_limit(size_t kept, size_t all);
