/* storaged/replica/apply_core.h - what a committed log entry does to its group's state.
 *
 * A group's state is a sorted map of byte keys, the same on every replica after the same entries:
 * the outcome depends on the map and the entry alone. Entries are validated when they are proposed
 * and again when they are applied (bytes from a peer or a disk are never trusted); one that does
 * not decode is RC_CORRUPT and stops its replica.
 *
 * Idempotence: a request is (client id, sequence); the outcomes of a client's last 1,024 sequences
 * are part of the state. The same request again gets the stored outcome; an older one RC_ABORTED.
 * The window of a client that was silent for APPLY_CLIENT_IDLE_TICKS is dropped, its highest
 * sequence is kept.
 *
 * Formats (version 1) are in README.md. Pure: memory and the map are passed in. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define APPLY_FORMAT            1u
#define APPLY_WINDOW            1024u /* DESIGN.md section 5 */
#define APPLY_CLIENT_IDLE_TICKS 48u   /* hours; a request lives for minutes */
#define APPLY_KEY_BYTES_MAX     2048u /* a user's key, as store.proto says */
#define APPLY_VALUE_BYTES_MAX   (1u << 20)
#define APPLY_ENTRY_BYTES_MAX   (3u << 20) /* 2 MiB of puts, keys and conditions beside them */
#define APPLY_COMPARES_MAX      128u
#define APPLY_PUTS_MAX          1024u
#define APPLY_DELETES_MAX       1024u
#define APPLY_SCRATCH_BYTES                                                                        \
    (9u + APPLY_VALUE_BYTES_MAX) /* a stored value: format, version, bytes */
#define APPLY_MAPKEY_BYTES_MAX (1 + APPLY_KEY_BYTES_MAX)

enum apply_kind {
    APPLY_NOOP = 1, /* a new primary's own first entry */
    APPLY_TXN = 2,
    APPLY_CHUNK_ADD = 3,
    APPLY_CHUNK_DROP = 4,
    APPLY_TICK = 5,      /* hourly; ages sessions and clients */
    APPLY_CHUNK_TXN = 6, /* a ChunkAdd, and if that is RC_OK a TXN: one round for both */
};
enum apply_compare_kind {
    APPLY_ABSENT = 1,
    APPLY_PRESENT = 2,
    APPLY_VERSION = 3,
    APPLY_VALUE = 4,
    APPLY_TICK_AT_MOST = 5,
};
struct apply_compare {
    enum apply_compare_kind kind;
    struct slice key, value;
    uint64_t number;
};
struct apply_put {
    struct slice key, value;
};
struct apply_chunk {
    uint64_t placement_hash;
    struct id128 body;
    uint32_t index;
    struct id128 seal_id;
    uint32_t plain_bytes;
    uint8_t plain_digest[32]; /* keyed: equal bytes only for equal plaintext of one body */
    uint64_t owner_hash;
    struct id128 upload_id;
};
/* An entry to encode; slices are borrowed. Zero client: no idempotence (NOOP and TICK have none).
 */
struct apply_entry {
    enum apply_kind kind;
    struct id128 client;
    uint64_t sequence; /* from 1 */
    const struct apply_compare *compares;
    const struct apply_put *puts;
    const struct slice *deletes;
    uint32_t compares_n, puts_n, deletes_n;
    struct apply_chunk chunk;
};

/* The map. get and next borrow: key and value stay valid until the next call with the same map.
 *   get   RC_OK, RC_NOTFOUND, RC_IO, RC_CORRUPT
 *   next  the first key >= from; RC_NOTFOUND past the last one
 *   put, del  RC_OK, RC_NOMEM, RC_IO; seen by later gets of the same entry; del of an absent key is
 * OK */
struct apply_map {
    enum rc (*get)(void *ctx, struct slice key, struct slice *ret_value);
    enum rc (*next)(void *ctx, struct slice from, struct slice *ret_key, struct slice *ret_value);
    enum rc (*put)(void *ctx, struct slice key, struct slice value);
    enum rc (*del)(void *ctx, struct slice key);
    void *ctx;
    uint8_t *scratch; /* APPLY_SCRATCH_BYTES of the caller's, undefined after each step */
};

/* What the proposer answers. rc: RC_OK; RC_ABORTED (older than the window); for chunks RC_EXISTS
 * (other plaintext), RC_PRECOND (dropped: an id is never used again). CHUNK_TXN: rc and seal_id are
 * the ChunkAdd's, the rest the TXN's; with another rc than RC_OK there was none. */
struct apply_outcome {
    enum rc rc;
    bool succeeded;          /* TXN: all conditions held */
    bool repeated;           /* a stored outcome, nothing was done now */
    uint32_t failed_compare; /* TXN, not succeeded */
    uint64_t index;          /* of the entry that took effect: the version of what it put */
    uint64_t tick;           /* of the group, after the entry; not stored */
    struct id128 seal_id;    /* chunks: the winner's */
};

/* Bytes that e takes, or 0 when it breaks a limit (reterr says which). */
uint32_t apply_entry_bytes(const struct apply_entry *e, struct err *reterr);
/* out holds apply_entry_bytes(e), which must not be 0. Returns the bytes written. */
uint32_t apply_entry_encode(const struct apply_entry *e, uint8_t *out);
/* What a ChunkAdd (with a transaction or without) or ChunkDrop is about; false: it is neither. */
bool apply_entry_chunk(struct slice entry, struct apply_chunk *ret_chunk);
/* By its kind alone: it counts on a disk only with the chunk's bytes. */
static inline bool apply_entry_adds_chunk(struct slice entry)
{
    return entry.n >= 2 && (entry.p[1] == APPLY_CHUNK_ADD || entry.p[1] == APPLY_CHUNK_TXN);
}
/* Which bytes an entry with this outcome makes superfluous; false: none. *ret_all: every sealing of
 * ret_chunk's body and index (it was dropped); else every one but out->seal_id (it won). */
bool apply_entry_drops(struct slice entry, const struct apply_outcome *out,
                       struct apply_chunk *ret_chunk, bool *ret_all);
/* Full check without applying. RC_CORRUPT says where. */
MUST_CHECK enum rc apply_entry_check(struct slice entry, struct err *reterr);
/* Apply entry `index` (> 0, growing). RC_OK: *ret is the outcome, whatever it is; the map has the
 * effect. RC_CORRUPT, RC_IO, RC_NOMEM: the entry had no outcome and the map's batch must be thrown
 * away. */
MUST_CHECK enum rc apply_step(const struct apply_map *map, uint64_t index, struct slice entry,
                              struct apply_outcome *ret, struct err *reterr);

/* Reads by the service. Map key of a user's key, and a user's value inside a stored one. */
uint32_t apply_user_key(struct slice key, uint8_t out[APPLY_MAPKEY_BYTES_MAX]);
MUST_CHECK enum rc apply_user_value(struct slice stored, uint64_t *ret_version,
                                    struct slice *ret_value);
#define APPLY_CHUNK_KEY_BYTES 29u /* 'c', placement hash, body, index */
void apply_chunk_key(uint64_t placement_hash, const struct id128 *body, uint32_t index,
                     uint8_t out[APPLY_CHUNK_KEY_BYTES]);
/* dropped: a tombstone. RC_CORRUPT. */
MUST_CHECK enum rc apply_chunk_row(struct slice stored, struct apply_chunk *ret_chunk,
                                   bool *ret_dropped, uint64_t *ret_index);
