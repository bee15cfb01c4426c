/* common/client/client.h - the client library: a cluster's public API through any of its gateways.
 *
 * Fibers on one libuv loop (common/fiber): every call here waits inside the fiber that makes it,
 * and any number of fibers may share one client. Calls are retried, at the next gateway, while the
 * outcome is unknown or nothing was done (UNAVAILABLE, DEADLINE_EXCEEDED, no connection), until
 * `patience_ms` is over; requests that change something carry a request id for that.
 * Error messages say which gateway answered what. */
#pragma once
#include "common/base/id128.h"
#include "common/crypto/tree_sha256.h"
#include "common/fiber/fiber.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <protobuf-c/protobuf-c.h>

/* ---- who calls whom ---- */
#define MIKURA_PROFILE_VALUE_MAX 1024u
struct mikura_profile {
    char address[MIKURA_PROFILE_VALUE_MAX]; /* host:port, several divided by commas */
    char ca[MIKURA_PROFILE_VALUE_MAX], cert[MIKURA_PROFILE_VALUE_MAX],
        key[MIKURA_PROFILE_VALUE_MAX]; /* PEM files */
};
/* `path` (NULL: $MIKURA_PROFILE, else ~/.config/mikura/profile if it is there): lines
 * `address|ca|cert|key = value`, '#' comments; relative files are beside it. Then the environment
 * wins: MIKURA_ADDRESS, MIKURA_CA, MIKURA_CERT, MIKURA_KEY. What nothing gives stays "".
 * RC_NOTFOUND, RC_INVAL (file and line), RC_IO. */
MUST_CHECK enum rc mikura_profile_load(const char *path, struct mikura_profile *ret_profile,
                                       struct err *reterr);
/* Takes another identity of the folder that holds the CA, as deploy/pki names its files:
 * "operator/admin", "researcher/sato", "society/endoscopy/agent-1". RC_INVAL, RC_NOTFOUND. */
MUST_CHECK enum rc mikura_profile_as(struct mikura_profile *p, const char *who, struct err *reterr);

struct mikura_client;
#define MIKURA_GATEWAYS_MAX 16u
#define MIKURA_PATIENCE_MS  60000u /* a lost storage node is replaced within 15 s */
/* Reads the certificates, opens no connection. RC_INVAL (nothing or nonsense in the profile: says
 * what to set), RC_NOTFOUND, RC_UNAUTH (expired, or of another CA). patience_ms: 0 = the default.
 */
MUST_CHECK enum rc mikura_client_open(struct fibers *fs, const struct mikura_profile *profile,
                                      uint32_t patience_ms, struct mikura_client **ret_client,
                                      struct err *reterr);
/* No new try is made any more: calls end with RC_CANCELED, those that wait for a gateway within its
 * probe (3 s), those that one works on when it answers or they fail. */
void mikura_client_cancel(struct mikura_client *c);
/* Waits until the connections are gone. No call may run. NULL is fine. */
void mikura_client_close(struct mikura_client *c);
/* Asks every gateway whether it serves; each(data, address, rc, reason). */
void mikura_client_health(struct mikura_client *c,
                          void (*each)(void *data, const char *address, enum rc rc,
                                       const char *reason),
                          void *data);

/* ---- calls ---- */
/* path "/mikura.v1.Jobs/Get". *ret_answer is freed with protobuf_c_message_free_unpacked(x, NULL).
 * Errors: the answer's status as rc (rc_from_grpc), with the server's message. */
MUST_CHECK enum rc mikura_unary(struct mikura_client *c, const char *path,
                                const ProtobufCMessage *request,
                                const ProtobufCMessageDescriptor *answer_desc, void *ret_answer,
                                struct err *reterr);
/* One answer message of a stream; what is not RC_OK stops the stream and is returned. */
typedef enum rc (*mikura_each_fn)(void *data, const ProtobufCMessage *m, struct err *reterr);
/* Server-streaming call; retried only while no message was delivered. It may last. */
MUST_CHECK enum rc mikura_stream(struct mikura_client *c, const char *path,
                                 const ProtobufCMessage *request,
                                 const ProtobufCMessageDescriptor *answer_desc, mikura_each_fn each,
                                 void *data, struct err *reterr);
/* AddModel: header, then the bytes of fd from its start. The whole call is retried. */
MUST_CHECK enum rc mikura_model_add(struct mikura_client *c, const char *name, int fd,
                                    void *ret_model, struct err *reterr);

/* ---- objects ---- */
#define MIKURA_ONE_CALL_BYTES_MAX (64u << 20) /* larger files go through a session of chunks */
#define MIKURA_PIECE_BYTES        (1u << 20)
typedef void (*mikura_progress_fn)(void *data, int64_t bytes); /* negative: a try began again */
/* Before so many bytes go: waits in the fiber as long as they should. Not RC_OK ends the upload. */
typedef enum rc (*mikura_pace_fn)(void *data, uint32_t bytes, struct err *reterr);
/* A gateway has these bytes of a chunk or a pack, and said so: none of them is sent again. */
typedef void (*mikura_answered_fn)(void *data, uint64_t bytes);

struct mikura_put {
    const char *collection, *case_id, *path, *media_type; /* media_type: "" = found by content */
    int fd;                      /* a plain file, read from its start; or a pipe */
    bool pipe;                   /* size unknown: one call without retry once bytes have gone */
    uint64_t size_bytes;         /* of a plain file */
    struct id128 request_id;     /* the same id goes on with a broken-off upload */
    uint32_t parallel;           /* chunks at a time; 0 = 4 */
    bool commit;                 /* publish, too: a case, or its next generation, of this object */
    bool chunked;                /* a session of chunks, however small: a break costs a chunk */
    mikura_progress_fn progress; /* or NULL */
    mikura_pace_fn pace;         /* or NULL */
    mikura_answered_fn answered; /* or NULL; of chunks only */
    void *data;
};
struct mikura_put_result {
    uint64_t version, size_bytes, stage;
    uint8_t tree_sha256[TREE_DIGEST_BYTES]; /* computed here and equal to the gateway's */
    bool quarantined; /* held back by the collection's profile: stored, neither staged nor committed
                       */
    /* commit: */
    uint64_t generation;
    Mikura__V1__Receipt *receipt; /* or NULL; freed by the caller */
};
/* Uploads and stages; nothing is visible until the case is committed (with `commit`: at once).
 * RC_CORRUPT: the gateway's digest is another (the file changed meanwhile, or bytes were damaged).
 * RC_ABORTED: the file changed its size. */
MUST_CHECK enum rc mikura_put(struct mikura_client *c, const struct mikura_put *put,
                              struct mikura_put_result *ret, struct err *reterr);

/* Several objects of a case in one call: all are staged, or none. At most 64 objects, together 16
 * MiB and the collection's chunk size. */
#define MIKURA_PACK_MAX 64u
struct mikura_pack_entry {
    const char *path;
    int fd; /* a plain file, read from its start */
    uint64_t size_bytes;
    /* out */
    uint8_t tree_sha256[TREE_DIGEST_BYTES]; /* computed here and equal to the gateway's */
    uint64_t version, stage;
    bool quarantined;
};
struct mikura_pack {
    const char *collection, *case_id;
    struct mikura_pack_entry *entries;
    size_t n;
    struct id128 request_id;
    bool again; /* an earlier run may have stored it: it is asked for before any byte goes */
    mikura_progress_fn progress; /* or NULL */
    mikura_pace_fn pace;         /* or NULL */
    mikura_answered_fn answered; /* or NULL */
    void *data;
};
/* As mikura_put. RC_EXISTS, RC_PRECOND: what an earlier try under this id was is of no use; take
 * another id. */
MUST_CHECK enum rc mikura_pack(struct mikura_client *c, const struct mikura_pack *pack,
                               struct err *reterr);

/* One staged object of a commit. */
struct mikura_staged {
    const char *path;
    uint64_t version, size_bytes;
    uint8_t tree_sha256[TREE_DIGEST_BYTES];
};
struct mikura_commit {
    const char *collection, *case_id;
    struct mikura_staged *staged; /* sorted here */
    size_t staged_n;
    struct id128 request_id;
    uint64_t expected_generation; /* the case's current one: mikura_case_generation */
};
/* The generation that a case stands at; 0: there is none yet. */
MUST_CHECK enum rc mikura_case_generation(struct mikura_client *c, const char *collection,
                                          const char *case_id, uint64_t *ret_generation,
                                          struct err *reterr);
/* Publishes, with the Merkle root computed here. The answer is freed by the caller. */
MUST_CHECK enum rc mikura_commit(struct mikura_client *c, const struct mikura_commit *commit,
                                 Mikura__V1__CommitCaseResponse **ret_answer, struct err *reterr);

/* Are these lines (at most 128) stored as they say? generation: whose receipt is wanted, or 0. The
 * answer is freed by the caller. RC_NOTFOUND: no such case. */
#define MIKURA_CHECK_MAX 128u
MUST_CHECK enum rc mikura_case_check(struct mikura_client *c, const char *collection,
                                     const char *case_id, uint64_t generation,
                                     const struct mikura_staged *lines, size_t n,
                                     Mikura__V1__CheckCaseResponse **ret_answer,
                                     struct err *reterr);
/* Forgets what is staged in a case and not published: of one path, or ("") all. OK when there is
 * nothing. */
MUST_CHECK enum rc mikura_staged_drop(struct mikura_client *c, const char *collection,
                                      const char *case_id, const char *path, struct err *reterr);

struct mikura_get {
    const char *collection, *case_id, *path;
    uint64_t version;                    /* 0 = the newest */
    uint64_t offset_bytes, length_bytes; /* length 0 = to the end */
    /* Bytes in order; called in the fiber. Not RC_OK stops. */
    enum rc (*write)(void *data, const uint8_t *p, size_t n, struct err *reterr);
    void *data;
};
/* Goes on at another gateway where a stream broke off, at the same version. A whole object is
 * checked against its tree-sha256: RC_CORRUPT. *ret_info (may be NULL) is freed by the caller. */
MUST_CHECK enum rc mikura_get(struct mikura_client *c, const struct mikura_get *get,
                              Mikura__V1__ObjectInfo **ret_info, struct err *reterr);
/* A collection's or (case_id not "") a case's objects; goes on where a stream broke off. */
MUST_CHECK enum rc mikura_list(struct mikura_client *c, const char *collection, const char *case_id,
                               const char *prefix,
                               enum rc (*each)(void *data, const Mikura__V1__ObjectInfo *info,
                                               struct err *reterr),
                               void *data, struct err *reterr);
