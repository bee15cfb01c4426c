/* tests/unit/storaged/store/store_recs.h - records whose content follows from their number, written
 * to a store in a temporary folder and read back. For tests of one process: all is global. */
#pragma once
#include "storaged/store/store.h"
#include <uv.h>

#define SEGMENT   (1u << 20)
#define CHUNK_MAX 300000u

struct rec {
    struct store_append a;
    struct record_block blocks[CHUNK_MAX / RECORD_BLOCK_BYTES + 1];
    uint8_t *payload;
    uint32_t i;
    enum rc rc;
    bool busy, done;
};
extern const struct index_group GROUP;
extern uv_loop_t loop; /* the test's main() initialises it */
extern struct store *store;
extern bool closed;
void on_closed(void *data); /* sets it */

/* Record i is a chunk, or for i % 4 == 0 the group's log entry i / 4 + 1. */
bool is_chunk(uint32_t i);
uint32_t bytes_of(uint32_t i);
void fill(uint32_t i, uint8_t *p, uint32_t n);
struct store_chunk chunk_of(uint32_t i);

enum rc open_store(const char *dir, enum disk_engine engine, struct err *err);
void must_open(const char *dir, enum disk_engine engine);
void must_close(void);
/* r->done when it is told. */
enum rc start(struct rec *r, uint32_t i);
enum rc locate(uint32_t i, struct seg_location *ret);
/* RC_OK: it is there, and byte for byte what was written (else the test fails). */
enum rc read_back(uint32_t i);
void write_range(uint32_t from, uint32_t until); /* all at once, until all are durable */
void temp_dir(char *dir, size_t n);              /* below /var/tmp; not made yet */
void remove_dir(const char *dir);
