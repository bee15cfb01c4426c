/* common/crypto/keys.h - the chain of keys: master > collection > case > body, and signing keys
 * under the master (DESIGN.md section 10).
 *
 * A wrapped key can be opened only as what it is: its kind, the id of the key that wraps it, and
 * its own id are authenticated, so that no record can be given another's key. Keys are random,
 * never derived from each other: destroying a wrapped key destroys what it sealed. Encodings:
 * README.md.
 *
 * Blocking where files are touched (start-up only); else any thread. Every struct key is wiped by
 * its owner with key_wipe. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define KEY_BYTES             32u
#define KEY_WRAPPED_BYTES     68u
#define KEY_FINGERPRINT_BYTES 32u
#define KEY_ID_BYTES_MAX      1024u

struct key {
    uint8_t b[KEY_BYTES];
};
/* A new random key. */
void key_random(struct key *ret_key);
void key_wipe(struct key *k);

/* ---- wrapping ---- */
enum key_kind {
    KEY_COLLECTION = 1, /* under the master key */
    KEY_CASE = 2,       /* under its collection's key */
    KEY_BODY = 3,       /* under its case's key */
    KEY_SIGNING = 4     /* an Ed25519 seed, under the master key */
};
/* What a wrapped key is. Ids are bytes that never change, 1 .. KEY_ID_BYTES_MAX; parent is empty
 * where the master key wraps. */
struct key_place {
    enum key_kind kind;
    uint32_t
        parent_epoch;    /* which of the parent's keys wraps (rotation); in clear, authenticated */
    struct slice parent; /* id of the collection (KEY_CASE) or the case (KEY_BODY) */
    struct slice self;   /* id of what the key belongs to; KEY_SIGNING: sign_key_id */
};
/* RC_INVAL (ids), RC_INTERNAL. Each call draws a new nonce: two wrappings of one key differ. At
 * most 2^32 wrappings under one parent key (random 96-bit nonces). */
MUST_CHECK enum rc key_wrap(const struct key *parent, const struct key_place *place,
                            const struct key *k, uint8_t ret_wrapped[KEY_WRAPPED_BYTES]);
/* place->parent_epoch is not asked: it is the one in the bytes (key_wrapped_epoch).
 * RC_CORRUPT: another parent, place, length or format; *ret_key is zeroed. */
MUST_CHECK enum rc key_unwrap(const struct key *parent, const struct key_place *place,
                              struct slice wrapped, struct key *ret_key);
/* Which parent key is needed, before unwrapping (unauthenticated). RC_CORRUPT: no wrapped key. */
MUST_CHECK enum rc key_wrapped_epoch(struct slice wrapped, uint32_t *ret_parent_epoch);

/* ---- the master key's file ---- */
struct key_master {
    struct key key;
    uint64_t created_unix_ms;
    uint8_t fingerprint[KEY_FINGERPRINT_BYTES]; /* tells keys apart, reveals nothing of them */
};
/* A new master key in a new file, mode 0400, durable (file and folder) before the call returns. The
 * file appears whole or not at all, and an existing one is never touched: RC_EXISTS. RC_IO,
 * RC_FULL, RC_DENIED, RC_NOTFOUND (no such folder). */
MUST_CHECK enum rc key_master_create(const char *path, uint64_t now_unix_ms,
                                     struct key_master *ret_master, struct err *reterr);
/* RC_NOTFOUND, RC_DENIED (not a plain file of this user or root, or readable by others: says the
 * command that mends it), RC_CORRUPT (not a master key file, or damaged), RC_IO. */
MUST_CHECK enum rc key_master_load(const char *path, struct key_master *ret_master,
                                   struct err *reterr);
void key_master_wipe(struct key_master *m);
/* The file's bytes; for tests, and for `mikura key export`. */
#define KEY_MASTER_FILE_BYTES 64u
void key_master_encode(const struct key_master *m, uint8_t ret_file[KEY_MASTER_FILE_BYTES]);
/* RC_CORRUPT, RC_INTERNAL. */
MUST_CHECK enum rc key_master_decode(struct slice file, struct key_master *ret_master,
                                     struct err *reterr);
