/* common/crypto/keys.c - a wrapped key: version u8 = 1 | kind u8 | 0 u16 | parent epoch u32 |
 * nonce 12 | ciphertext 32 | tag 16, AES-256-GCM under HKDF(parent, "mikura wrap key 1" | kind),
 * AAD = the first 8 bytes | u32 length of parent | parent | u32 length of self | self. */
#include "common/crypto/keys.h"
#include "common/base/crc32c.h"
#include "common/base/hex.h"
#include "common/base/le.h"
#include "common/crypto/crypto_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRAP_VERSION    1u
#define WRAP_HEAD_BYTES 8u
#define WRAP_AAD_PARTS  5u

static const uint8_t MASTER_MAGIC[8] = {'m', 'i', 'k', 'u', 'r', 'a', 'k', 'm'};
#define MASTER_VERSION 1u

void key_random(struct key *ret_key)
{
    random_bytes(ret_key->b, sizeof(ret_key->b));
}

void key_wipe(struct key *k)
{
    OPENSSL_cleanse(k->b, sizeof(k->b));
}

static bool place_valid(const struct key_place *p)
{
    bool under_master = p->kind == KEY_COLLECTION || p->kind == KEY_SIGNING;

    if (p->kind < KEY_COLLECTION || p->kind > KEY_SIGNING) return false;
    if (p->self.n == 0 || p->self.n > KEY_ID_BYTES_MAX) return false;
    return under_master ? p->parent.n == 0 : p->parent.n > 0 && p->parent.n <= KEY_ID_BYTES_MAX;
}

struct wrap_aad {
    struct slice parts[WRAP_AAD_PARTS];
    uint8_t parent_n[4], self_n[4];
};

static void wrap_aad_set(struct wrap_aad *a, const uint8_t *head, const struct key_place *p)
{
    le_put32(a->parent_n, (uint32_t)p->parent.n);
    le_put32(a->self_n, (uint32_t)p->self.n);
    a->parts[0] = (struct slice){head, WRAP_HEAD_BYTES};
    a->parts[1] = (struct slice){a->parent_n, 4};
    a->parts[2] = p->parent;
    a->parts[3] = (struct slice){a->self_n, 4};
    a->parts[4] = p->self;
}

static enum rc wrapping_key(const struct key *parent, enum key_kind kind, uint8_t out[32])
{
    uint8_t k = (uint8_t)kind;

    return crypto_derive(parent->b, "mikura wrap key 1", (struct slice){&k, 1}, out);
}

enum rc key_wrap(const struct key *parent, const struct key_place *place, const struct key *k,
                 uint8_t ret_wrapped[KEY_WRAPPED_BYTES])
{
    uint8_t out[KEY_WRAPPED_BYTES] = {WRAP_VERSION, (uint8_t)place->kind}, wrap[32];
    struct wrap_aad aad;
    enum rc rc;

    if (!place_valid(place)) return RC_INVAL;
    le_put32(out + 4, place->parent_epoch);
    random_bytes(out + 8, 12);
    wrap_aad_set(&aad, out, place);
    rc = wrapping_key(parent, place->kind, wrap);
    if (rc == RC_OK) {
        rc = crypto_gcm_seal(wrap, out + 8, aad.parts, WRAP_AAD_PARTS, (struct slice){k->b, 32},
                             out + 20, out + 52);
    }
    OPENSSL_cleanse(wrap, sizeof(wrap));
    if (rc == RC_OK) memcpy(ret_wrapped, out, sizeof(out));
    return rc;
}

enum rc key_wrapped_epoch(struct slice wrapped, uint32_t *ret_parent_epoch)
{
    if (wrapped.n != KEY_WRAPPED_BYTES || wrapped.p[0] != WRAP_VERSION || wrapped.p[2] != 0 ||
        wrapped.p[3] != 0) {
        return RC_CORRUPT;
    }
    *ret_parent_epoch = le_get32(wrapped.p + 4);
    return RC_OK;
}

enum rc key_unwrap(const struct key *parent, const struct key_place *place, struct slice wrapped,
                   struct key *ret_key)
{
    struct wrap_aad aad;
    uint8_t wrap[32];
    uint32_t epoch;
    enum rc rc;

    key_wipe(ret_key);
    rc = key_wrapped_epoch(wrapped, &epoch);
    if (rc != RC_OK) return rc;
    if (!place_valid(place)) return RC_INVAL;
    if (wrapped.p[1] != (uint8_t)place->kind) return RC_CORRUPT;
    wrap_aad_set(&aad, wrapped.p, place);
    rc = wrapping_key(parent, place->kind, wrap);
    if (rc == RC_OK) {
        rc = crypto_gcm_open(wrap, wrapped.p + 8, aad.parts, WRAP_AAD_PARTS,
                             (struct slice){wrapped.p + 20, 32}, wrapped.p + 52, ret_key->b);
    }
    OPENSSL_cleanse(wrap, sizeof(wrap));
    return rc;
}

/* ---- the master key's file ---- */

/* SHA-256 of a derived value: no step back to the key, and none to any other derived key. */
static enum rc fingerprint(struct key_master *m)
{
    uint8_t derived[32];
    struct slice part = {derived, sizeof(derived)};
    enum rc rc = crypto_derive(m->key.b, "mikura fingerprint 1", (struct slice){NULL, 0}, derived);

    if (rc == RC_OK) rc = crypto_sha256(&part, 1, m->fingerprint);
    OPENSSL_cleanse(derived, sizeof(derived));
    return rc;
}

void key_master_wipe(struct key_master *m)
{
    key_wipe(&m->key);
}

void key_master_encode(const struct key_master *m, uint8_t ret_file[KEY_MASTER_FILE_BYTES])
{
    memset(ret_file, 0, KEY_MASTER_FILE_BYTES);
    memcpy(ret_file, MASTER_MAGIC, 8);
    le_put32(ret_file + 8, MASTER_VERSION);
    le_put64(ret_file + 16, m->created_unix_ms);
    memcpy(ret_file + 24, m->key.b, 32);
    le_put32(ret_file + 60, crc32c(0, ret_file, 60));
}

enum rc key_master_decode(struct slice file, struct key_master *ret_master, struct err *reterr)
{
    struct key_master m;
    enum rc rc;

    if (file.n != KEY_MASTER_FILE_BYTES || memcmp(file.p, MASTER_MAGIC, 8) != 0) {
        return err_set(reterr, RC_CORRUPT, "not a mikura master key file (%zu bytes)", file.n);
    }
    if (le_get32(file.p + 60) != crc32c(0, file.p, 60)) {
        return err_set(reterr, RC_CORRUPT,
                       "the master key file is damaged (CRC); restore it from its backup");
    }
    if (le_get32(file.p + 8) != MASTER_VERSION) {
        return err_set(reterr, RC_CORRUPT, "master key file of version %u; this program knows %u",
                       le_get32(file.p + 8), MASTER_VERSION);
    }
    m.created_unix_ms = le_get64(file.p + 16);
    memcpy(m.key.b, file.p + 24, 32);
    rc = fingerprint(&m);
    if (rc == RC_OK) *ret_master = m;
    key_master_wipe(&m);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "OpenSSL gives no HKDF-SHA256");
}

static enum rc fail_errno(struct err *e, const char *what, const char *path)
{
    int saved = errno;
    char text[128];

    /* the GNU form returns the text */
    return err_set(e, rc_from_errno(saved), "%s '%s': %s", what, path,
                   strerror_r(saved, text, sizeof(text)));
}

static bool write_all(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t got = write(fd, p, n);

        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

/* The folder of path, "." where it has none; caller frees. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL) return strdup(".");
    if (slash == path) return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

/* Written beside its place under a random name, then linked: link(2) refuses an existing name, and
 * a crash leaves either no key file or a whole one. */
static enum rc write_new(const char *path, const char *folder, const uint8_t *p, size_t n,
                         struct err *reterr)
{
    struct id128 id = id128_random();
    char text[ID128_TEXT_BYTES], temp[4096];
    int fd = -1, dir = -1;
    enum rc rc = RC_OK;

    if (snprintf(temp, sizeof(temp), "%s/.master-%s", folder, id128_text(&id, text)) >=
        (int)sizeof(temp)) {
        return err_set(reterr, RC_INVAL, "path of the master key is too long");
    }
    fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
    if (fd < 0) return fail_errno(reterr, "cannot create the master key in", folder);
    if (fchmod(fd, 0400) != 0 || !write_all(fd, p, n) || fsync(fd) != 0) {
        rc = fail_errno(reterr, "cannot write the master key", temp);
        goto out;
    }
    if (link(temp, path) != 0) {
        rc = errno == EEXIST ? err_set(reterr, RC_EXISTS,
                                       "'%s' exists; a master key is never overwritten", path)
                             : fail_errno(reterr, "cannot create the master key", path);
        goto out;
    }
out:
    (void)unlink(temp); /* a left-over holds nothing that path does not */
    (void)close(fd);    /* fsync told all there is to tell */
    if (rc != RC_OK) return rc;
    dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fsync(dir) != 0) {
        rc = fail_errno(reterr, "cannot make the master key durable in", folder);
    }
    if (dir >= 0) (void)close(dir);
    return rc;
}

enum rc key_master_create(const char *path, uint64_t now_unix_ms, struct key_master *ret_master,
                          struct err *reterr)
{
    uint8_t file[KEY_MASTER_FILE_BYTES];
    struct key_master m = {.created_unix_ms = now_unix_ms};
    char *folder = folder_of(path);
    enum rc rc;

    if (folder == NULL) return err_set(reterr, RC_NOMEM, "master key");
    key_random(&m.key);
    rc = fingerprint(&m);
    if (rc != RC_OK) {
        rc = err_set(reterr, rc, "OpenSSL gives no HKDF-SHA256");
        goto out;
    }
    key_master_encode(&m, file);
    rc = write_new(path, folder, file, sizeof(file), reterr);
    OPENSSL_cleanse(file, sizeof(file));
    if (rc == RC_OK) *ret_master = m;
out:
    key_master_wipe(&m);
    free(folder);
    return rc;
}

static enum rc load_checked(int fd, const char *path, struct key_master *ret_master,
                            struct err *reterr)
{
    uint8_t file[KEY_MASTER_FILE_BYTES + 1]; /* one more, to see that it ends */
    size_t n = 0;
    struct stat st;
    enum rc rc;

    if (fstat(fd, &st) != 0) return fail_errno(reterr, "cannot read the master key", path);
    if (!S_ISREG(st.st_mode)) {
        return err_set(reterr, RC_DENIED, "master key '%s' is no plain file", path);
    }
    if (st.st_uid != geteuid() && st.st_uid != 0) {
        return err_set(reterr, RC_DENIED, "master key '%s' belongs to user %u, not to %u or root",
                       path, (unsigned)st.st_uid, (unsigned)geteuid());
    }
    if ((st.st_mode & 077) != 0) {
        return err_set(reterr, RC_DENIED,
                       "master key '%s' is open to others (mode %04o): chmod 0400 '%s'", path,
                       (unsigned)(st.st_mode & 07777), path);
    }
    while (n < sizeof(file)) {
        ssize_t got = read(fd, file + n, sizeof(file) - n);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(reterr, "cannot read the master key", path);
        if (got == 0) break;
        n += (size_t)got;
    }
    rc = key_master_decode((struct slice){file, n}, ret_master, reterr);
    OPENSSL_cleanse(file, sizeof(file));
    return rc == RC_OK ? RC_OK : err_prefix(reterr, "'%s'", path);
}

enum rc key_master_load(const char *path, struct key_master *ret_master, struct err *reterr)
{
    /* O_NONBLOCK: a FIFO put there must not hang the start; it is refused as no plain file. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    enum rc rc;

    if (fd < 0) return fail_errno(reterr, "cannot open the master key", path);
    rc = load_checked(fd, path, ret_master, reterr);
    (void)close(fd); /* only read */
    return rc;
}
