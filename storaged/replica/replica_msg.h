/* storaged/replica/replica_msg.h - messages between replicas of a group: encode, decode. Bytes:
 * README.md. They travel as ReplicaMessage.body on BULK_CONTROL (bulk.proto), which names the group
 * and protects them; the sender's identity is checked there (a storage node's certificate, the boot
 * id of its Hello must be from_boot), not here. */
#pragma once
#include "storaged/replica/replica_core.h"

#define REPLICA_MSG_FORMAT       1u
#define REPLICA_MSG_HEAD_BYTES   136u
#define REPLICA_ENTRY_HEAD_BYTES 12u
#define REPLICA_SNAP_BYTES_MAX   (2u << 20) /* rows of one page: one row of 1 MiB always fits */

/* Bytes that entry e adds to a PREPARE: stop filling before REPLICA_MESSAGE_BYTES_MAX. */
static inline uint64_t replica_entry_bytes(const struct replica_entry *e)
{
    return REPLICA_ENTRY_HEAD_BYTES + (uint64_t)e->bytes.n;
}
/* 0: longer than REPLICA_MESSAGE_BYTES_MAX. */
uint32_t replica_msg_bytes(const struct replica_msg *m);
/* out holds replica_msg_bytes(m), not 0. */
uint32_t replica_msg_encode(const struct replica_msg *m, uint8_t *out);
/* The type of a message without decoding it (to tell SNAP_* from the core's); 0 = none. */
enum replica_msg_type replica_msg_type_of(struct slice bytes);
/* ret->entries = entries, whose bytes borrow from `bytes`. RC_CORRUPT, RC_UNIMPL (newer format). */
MUST_CHECK enum rc replica_msg_decode(struct slice bytes, struct replica_msg *ret,
                                      struct replica_entry entries[REPLICA_BATCH],
                                      struct err *reterr);

/* Snapshot of a group's state, pulled page by page (the service's; see REPLICA_SNAPSHOT). The
 * learner sends GET with an empty cursor, then with the last key received; the giver keeps one
 * RocksDB snapshot per id (a random number of the learner's) for as long as pages are asked
 * (seconds; then RC_NOTFOUND, begin again). All pages of an id are of one applied index. */
struct replica_snap {
    enum replica_msg_type type; /* SNAP_GET, SNAP_PAGE */
    struct id128 from_disk, from_boot, to_disk;
    uint64_t config, epoch;
    uint64_t id;
    uint64_t index; /* GET: the least applied index that helps. PAGE: the state's */
    bool done;      /* PAGE: the last one */
    enum rc rc;     /* PAGE: RC_OK, RC_NOTFOUND, RC_STALE (not at that index), RC_IO, RC_BUSY */
    struct slice cursor; /* GET: keys above this; PAGE: the one asked, echoed */
    struct slice rows;   /* PAGE: replica_row_* */
};
uint32_t replica_snap_bytes(const struct replica_snap *s); /* 0: too long */
uint32_t replica_snap_encode(const struct replica_snap *s, uint8_t *out);
MUST_CHECK enum rc replica_snap_decode(struct slice bytes, struct replica_snap *ret,
                                       struct err *reterr);
/* Rows in a page, in key order. put: false = it does not fit any more. next: RC_NOTFOUND at the
 * end, RC_CORRUPT; *at begins at 0. */
bool replica_row_put(uint8_t *rows, uint32_t cap, uint32_t *n, struct slice key,
                     struct slice value);
MUST_CHECK enum rc replica_row_next(struct slice rows, size_t *at, struct slice *ret_key,
                                    struct slice *ret_value);

/* Replicas of a group beside each other (storaged/service/compare.c). GET: primary -> in-sync,
 * "stop at `index`, tell me your state there"; SUM: back; ODD: primary -> one whose state is
 * another than most others'. */
#define REPLICA_DIGEST_BYTES 32u
struct replica_compare {
    enum replica_msg_type type; /* COMPARE_* */
    struct id128 from_disk, from_boot, to_disk;
    uint64_t config, epoch; /* GET, ODD: the primary's; SUM: echoed */
    uint64_t id;            /* random, of the comparison */
    uint64_t index;
    enum rc rc; /* SUM: RC_OK, or why there is no digest: RC_STALE (applied above index), RC_BUSY,
                   RC_UNAVAIL (did not get there), RC_IO, RC_CORRUPT */
    uint64_t rows_n;             /* SUM, RC_OK: of the state */
    uint64_t lacked_n, mended_n; /* chunks that it lists and that were not here, or wrong */
    uint8_t digest[REPLICA_DIGEST_BYTES]; /* SHA-256 of all rows as replica_row_put writes them */
};
#define REPLICA_COMPARE_BYTES (REPLICA_MSG_HEAD_BYTES + REPLICA_DIGEST_BYTES)
void replica_compare_encode(const struct replica_compare *m, uint8_t out[REPLICA_COMPARE_BYTES]);
MUST_CHECK enum rc replica_compare_decode(struct slice bytes, struct replica_compare *ret,
                                          struct err *reterr);

/* What the sums of all in-sync replicas mean. sums[i] is of in_sync member i. */
enum compare_verdict {
    COMPARE_EQUAL = 1,
    COMPARE_ODD,       /* *ret_odd: bit i = member i differs from more than half of all members, and
                          without those that do min_in_sync are left */
    COMPARE_UNDECIDED, /* they differ and nobody can tell who is right */
    COMPARE_UNKNOWN,   /* one could not tell */
};
enum compare_verdict replica_compare_judge(const struct replica_compare *sums, uint32_t n,
                                           uint32_t min_in_sync, uint32_t *ret_odd);
