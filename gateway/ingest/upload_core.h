/* gateway/ingest/upload_core.h - one request about an upload or a commit, as a pure state machine.
 *
 * All state lies in rows of the case's group (records_core.h); a core lives for one request at one
 * gateway and may vanish at any step: the client's retry, here or elsewhere, finds the rows.
 *
 *   ENSURE    makes the case's HEAD, CASE and list row, if absent
 *   BEGIN     opens a session under the client's request id, which is the upload's id
 *   CHUNK     one chunk: bytes durable in their own group first, then its CHUNK row
 *   COMPLETE  OPEN -> COMPLETED together with the INDEX and MANIFEST rows, in one entry
 *   ABORT     OPEN -> ABORTED together with a TOMB row, in one entry; also for expiry
 *   COMMIT    closes a stage, has it counted, publishes it with the receipt, in two entries
 *   PUBLISH   a case that does not exist yet, of one object whose bytes are durable: all its rows
 *             and the receipt in one entry. RC_EXISTS: there is such a case; nothing was changed,
 *             COMPLETE (one_shot) and COMMIT do it
 *
 * A `one_shot` upload (PutObject) has a CLAIM row instead of a SESSION row, which appears in the
 * entry that completes it. Its key needs only what a chunk's record tells (owner's hash, upload
 * id): whoever finds chunks without an owner puts an ABORTED claim there (again, if there is one:
 * its version counts), and a try that began before then completes nothing.
 *
 * COMPLETE and ABORT exclude each other, and CHUNK both, because each entry compares the version
 * of the SESSION row. An expired session (the group's tick is past expire_tick) completes nothing:
 * entries carry TICK_AT_MOST. COMPLETE compares the version of HEAD, which COMMIT changes when it
 * closes a stage, so what was counted is what gets published.
 *
 * The shell starts with upload_start(), performs the one action returned, and feeds its outcome to
 * upload_step() until UPLOAD_ACT_ANSWER. Slices in an action live until the next step.
 * Unknown outcomes (RC_DEADLINE, RC_UNAVAIL, RC_IO from a TXN): the action comes again with
 * `retry` set: the shell sends the same bytes under the same request key, as long as the client's
 * deadline allows; then it drops the core. Memory is passed in. */
#pragma once
#include "gateway/ingest/records_core.h"

#define UPLOAD_TRIES_MAX    32u /* lost races of one request, then RC_ABORTED */
#define UPLOAD_KEYS_MAX     3u
#define UPLOAD_COMPARES_MAX 5u
#define UPLOAD_PUTS_MAX     7u
/* Enough for every op: 8 keys, a session row with the largest spec, small rows. */
#define UPLOAD_MEM_BYTES (8u * RECORD_KEY_BYTES_MAX + RECORD_SEALED_MAX + 96u * 1024u)

enum upload_op {
    UPLOAD_ENSURE = 1,
    UPLOAD_BEGIN,
    UPLOAD_CHUNK,
    UPLOAD_COMPLETE,
    UPLOAD_ABORT,
    UPLOAD_COMMIT,
    UPLOAD_PUBLISH,
};
struct upload_request { /* borrowed until the answer */
    enum upload_op op;
    struct record_anchor anchor; /* of the case */
    struct id128 id;             /* upload id (= the request id of BEGIN); COMMIT: request id */
    /* ENSURE, PUBLISH */
    const struct record_case *new_case; /* used if there is none */
    /* BEGIN */
    uint8_t fingerprint[32];
    /* CHUNK */
    uint32_t index, plain_bytes;
    uint8_t plain_digest[32]; /* keyed; known only once all bytes are in: then start the core */
    struct slice sealed_leaves;
    /* COMPLETE, PUBLISH: PutObject: the claim to write, COMPLETED by the core. */
    const struct record_session *one_shot;
    uint64_t claim_version; /* of its claim when this try began: 0, or of an ABORTED one */
    /* ABORT */
    bool expire; /* only if the tick is past expire_tick; RC_PRECOND otherwise */
    /* COMMIT */
    uint64_t expected_generation, count;
    bool have_root;
    uint8_t root[32];
    int64_t now_unix_ms; /* for people; goes into the rows */
};

enum upload_compare_kind { /* as in store.proto */
                           UPLOAD_ABSENT = 1,
                           UPLOAD_PRESENT = 2,
                           UPLOAD_VERSION = 3,
                           UPLOAD_TICK_AT_MOST = 5,
};
struct upload_compare {
    enum upload_compare_kind kind;
    struct slice key;
    uint64_t number;
};
struct upload_put {
    struct slice key, value;
};
enum upload_act_type {
    UPLOAD_ACT_GET = 1, /* keys -> EV_GOT */
    UPLOAD_ACT_NEWEST,  /* scan keys[0].. limit 1, keys only -> EV_NEWEST */
    UPLOAD_ACT_TXN,     /* compares, puts -> EV_TXN */
    UPLOAD_ACT_MAKE,    /* BEGIN: make the session's row with the case's key -> EV_MADE */
    UPLOAD_ACT_WRITE,   /* CHUNK: seal, write to the replicas, ChunkAdd -> EV_WRITTEN */
    UPLOAD_ACT_GATHER, /* COMPLETE, PUBLISH: check chunks, size, digest; make INDEX and MANIFEST for
                          `version` and `stage` -> EV_GATHERED */
    UPLOAD_ACT_SUM,    /* COMMIT: count and root of newest versions with stage in (stage_after,
                          stage_upto] -> EV_SUMMED */
    UPLOAD_ACT_SIGN,   /* COMMIT, PUBLISH: receipt for `generation`, count, root -> EV_SIGNED */
    UPLOAD_ACT_ANSWER, /* the end: rc, msg and the fields below */
};
struct upload_action {
    enum upload_act_type type;
    bool retry; /* TXN: same request key as before */
    struct slice keys[UPLOAD_KEYS_MAX];
    uint32_t keys_n, compares_n, puts_n;
    struct upload_compare compares[UPLOAD_COMPARES_MAX];
    struct upload_put puts[UPLOAD_PUTS_MAX];
    const struct record_case *the_case;   /* MAKE: as committed */
    const struct record_session *session; /* WRITE, GATHER; ANSWER where there is one */
    uint64_t version, stage;              /* GATHER; ANSWER of COMPLETE, PUBLISH */
    uint64_t stage_after, stage_upto;     /* SUM */
    uint64_t generation, count;           /* SIGN; ANSWER of COMMIT: generation */
    const uint8_t *root;                  /* SIGN */
    const struct record_commit *commit;   /* ANSWER of COMMIT, PUBLISH: receipt, signature, ... */
    bool was_there;                       /* ANSWER of CHUNK, ABORT */
    enum rc rc;
    const char *msg; /* ANSWER, rc != RC_OK: static text that says what to do */
};
struct upload_item {
    struct slice value;
    uint64_t version; /* 0 = absent */
};
enum upload_ev_type {
    UPLOAD_EV_GOT = 1,
    UPLOAD_EV_NEWEST,
    UPLOAD_EV_TXN,
    UPLOAD_EV_MADE,
    UPLOAD_EV_WRITTEN,
    UPLOAD_EV_GATHERED,
    UPLOAD_EV_SUMMED,
    UPLOAD_EV_SIGNED,
};
struct upload_event { /* slices and records are borrowed during the step only */
    enum upload_ev_type type;
    enum rc rc;      /* other than RC_OK ends the request with it, but TXN's unknown outcomes */
    const char *msg; /* with rc; static, or lives until the answer */
    const struct upload_item *items;         /* GOT: as many as keys, in their order */
    uint64_t tick;                           /* GOT, TXN */
    uint64_t newest;                         /* NEWEST: version, 0 = none */
    uint64_t index;                          /* TXN: of the entry that took effect */
    bool succeeded;                          /* TXN */
    const struct record_session *session;    /* MADE */
    struct id128 seal_id;                    /* WRITTEN: the winner's */
    bool was_there;                          /* WRITTEN */
    const struct record_index *index_row;    /* GATHERED; its stage is the action's; kept by the
                                                shell until the answer */
    struct slice manifest;                   /* GATHERED: encoded, MAC in place; kept by the
                                                shell until the answer */
    uint64_t count;                          /* SUMMED */
    uint64_t objects, bytes_stored;          /* SUMMED: visible after the commit */
    uint8_t root[32];                        /* SUMMED; GATHERED for PUBLISH: of the one line */
    struct slice receipt, signature, key_id; /* SIGNED: copied */
    int64_t committed_unix_ms;               /* SIGNED */
};

struct upload_core { /* private; caller's memory */
    const struct upload_request *req;
    uint8_t *mem;
    size_t mem_n, used, mark;
    int state;
    uint32_t tries;
    struct upload_action act; /* the last one, for `retry` */
    struct record_head head;
    struct record_case rec_case;
    struct record_session session;
    struct record_commit commit;
    uint64_t head_version, session_version, tick;
    uint64_t version;                     /* of the object under way */
    uint64_t generation;                  /* of the COMMIT row to read or write */
    const struct record_index *index_row; /* PUBLISH: the shell's, until the answer */
    struct slice manifest;                /* likewise */
    uint64_t objects, bytes_stored;
    bool was_there, written;
    struct id128 seal_id;
};

/* mem: UPLOAD_MEM_BYTES, borrowed until the answer, as is req. */
void upload_start(struct upload_core *c, const struct upload_request *req, uint8_t *mem,
                  size_t mem_bytes, struct upload_action *ret);
/* ev is the outcome of the last action: CHECKed. */
void upload_step(struct upload_core *c, const struct upload_event *ev, struct upload_action *ret);

/* ListChunks: sets the bit of a CHUNK row's key in a bitmap of (chunks + 7) / 8 bytes. RC_CORRUPT:
 * not a chunk of it. */
MUST_CHECK enum rc upload_bitmap_add(struct slice chunk_key, uint32_t chunks, uint8_t *bitmap);
/* Chunks of an object, and the length of one; RC_INVAL: too many or no such chunk. */
MUST_CHECK enum rc upload_chunk_count(uint64_t size_bytes, uint32_t chunk_bytes,
                                      uint32_t *ret_chunks);
uint32_t upload_chunk_length(const struct record_session *s, uint32_t index);
