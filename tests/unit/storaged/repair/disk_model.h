/* tests/unit/storaged/repair/disk_model.h - a store with chunks and log entries, and what must be
 * true of it: shared by the tests of reclaim and scrub. One loop, one store at a time. */
#pragma once
#include "common/fiber/fiber.h"
#include "storaged/store/store.h"
#include <setjmp.h>
#include <stdarg.h>
#include <uv.h>
#include <cmocka.h>

#define MODEL_SEGMENT   (256u << 10)
#define MODEL_CHUNKS    160u
#define MODEL_ENTRIES   60u
#define MODEL_CHUNK_MAX 500000u

struct model {
    char base[64], dir[120];
    enum disk_engine engine;
    struct disk_mem *mem;
    uint64_t limit_bytes, segment_bytes, cache_bytes; /* 0: none, MODEL_SEGMENT, 8 MiB */
    uint32_t chunk_bytes;                             /* of every chunk; 0: as model_bytes says */
    struct store *store;
    bool chunk[MODEL_CHUNKS]; /* written and acknowledged, not dropped */
    bool gone[MODEL_CHUNKS];  /* dropped: may not be served by a store that was not rebuilt */
    uint64_t first, last;     /* of the group's log */
};
extern uv_loop_t loop;
extern struct fibers *fs;
extern const struct index_group MODEL_GROUP;

void loop_begin(void);
void loop_end(void);
void model_init(struct model *m, enum disk_engine engine, struct disk_mem *mem);
void model_deinit(struct model *m); /* closed; removes its folder */
void model_open(struct model *m);
enum rc model_try_open(struct model *m, struct err *err);
void model_close(struct model *m);
uint32_t model_bytes(const struct model *m, uint32_t i);
struct index_chunk_id model_id(uint32_t i);
enum rc model_write(struct model *m, uint32_t i);      /* chunk i, waits */
enum rc model_append(struct model *m, uint64_t index); /* a log entry, waits */
void model_fill(struct model *m, uint32_t from, uint32_t until, uint32_t entries);
void model_drop(struct model *m, uint32_t i); /* as an applied ChunkDrop does */
void model_trim(struct model *m, uint64_t first);
enum rc model_read(struct model *m, uint32_t i); /* RC_OK: and it is right */
enum rc model_read_from(struct model *m, uint32_t i, uint32_t block);
enum rc model_read_entry(struct model *m, uint64_t index);
/* All that is there is right, what was dropped is not served, and the sums are those of the rows.
 */
void model_check(struct model *m, bool rebuilt);
/* fn(arg) in a fiber; returns when it did. */
void in_fiber(void (*fn)(void *arg), void *arg);
