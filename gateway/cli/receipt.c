/* gateway/cli/receipt.c - `mikura receipt`: the public keys of receipts, and receipts checked
 * without a cluster.
 *
 * A receipt file is what `mikura put --json` or `--receipts FILE` writes: a JSON object a line, of
 * type "case" with the receipt, of type "file" with the digests that were computed here. What is
 * checked: the signature; that the signed body names the case and generation; that the Merkle root
 * over the file lines is the signed one. With --files also that those files still have these
 * digests. Keys come from --keys FILE (the output of `mikura receipt keys --json`), else from the
 * cluster, whose certificate vouches for them. */
#include "common/base/hex.h"
#include "common/crypto/digest.h"
#include "common/crypto/sign.h"
#include "gateway/cli/out.h"
#include "gateway/cli/receipt.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEYS_MAX 64u

struct receipt_key {
    struct sign_public pub;
    char id[ID128_TEXT_BYTES];
    uint8_t cluster[16];
};
struct verify {
    struct cli *c;
    struct receipt_key keys[KEYS_MAX];
    unsigned keys_n;
    json_t *lines; /* an array: all that the file holds */
    unsigned good_n, bad_n;
};

/* ---- keys ---- */
static enum rc key_add(struct verify *v, ProtobufCBinaryData pub, ProtobufCBinaryData cluster,
                       struct err *reterr)
{
    struct receipt_key *k = &v->keys[v->keys_n];
    enum rc rc;

    if (v->keys_n == KEYS_MAX) return err_set(reterr, RC_BUSY, "more than %u keys", KEYS_MAX);
    rc = sign_public_load((struct slice){pub.data, pub.len}, &k->pub);
    if (rc != RC_OK || cluster.len != sizeof k->cluster)
        return err_set(reterr, RC_INVAL, "a key of receipts is not of 32 bytes, its cluster of 16");
    (void)id128_text(&k->pub.id, k->id);
    memcpy(k->cluster, cluster.data, sizeof k->cluster);
    v->keys_n++;
    return RC_OK;
}

static enum rc keys_ask(struct cli *c, Mikura__V1__ReceiptKeysResponse **ret)
{
    Mikura__V1__ReceiptKeysRequest m = MIKURA__V1__RECEIPT_KEYS_REQUEST__INIT;

    return cli_call(c, "/mikura.v1.Objects/ReceiptKeys", &m.base,
                    &mikura__v1__receipt_keys_response__descriptor, ret);
}

/* A hexadecimal member of j. False: absent, or no hex of n bytes (n 0: of any length up to cap). */
static bool hex_member(const json_t *j, const char *name, size_t n, uint8_t *to, size_t cap,
                       size_t *ret_n)
{
    const char *text = json_string_value(json_object_get(j, name));
    size_t digits = text == NULL ? 0 : strlen(text);

    if (digits == 0 || digits % 2 != 0 || digits / 2 > cap || (n != 0 && digits / 2 != n))
        return false;
    if (ret_n != NULL) *ret_n = digits / 2;
    return hex_decode(text, digits, to);
}

static enum rc lines_load(const char *path, json_t **ret, struct err *reterr)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    json_t *all = json_array(), *one;
    json_error_t why;
    enum rc rc = RC_OK;
    int ch;

    if (f == NULL) {
        rc = rc_from_errno(errno);
        rc = err_set(reterr, rc, "'%s': %s", path, strerror(errno));
    } else if (all == NULL) {
        rc = err_set(reterr, RC_NOMEM, "'%s'", path);
    }
    for (unsigned n = 1; rc == RC_OK; n++) {
        do {
            ch = getc(f);
        } while (ch == ' ' || ch == '\n' || ch == '\r' || ch == '\t');
        if (ch == EOF) break;
        (void)ungetc(ch, f);
        one = json_loadf(f, JSON_DISABLE_EOF_CHECK, &why);
        if (one == NULL) {
            rc = err_set(reterr, RC_INVAL,
                         "'%s': object %u is no JSON (%s); expected the output of mikura with "
                         "--json, or of --receipts",
                         path, n, why.text);
        } else if (json_array_append_new(all, one) != 0) {
            rc = err_set(reterr, RC_NOMEM, "'%s'", path);
        }
    }
    if (f != NULL && f != stdin) (void)fclose(f); /* was only read */
    if (rc == RC_OK) {
        *ret = all;
    } else {
        json_decref(all);
    }
    return rc;
}

static enum rc keys_load(struct verify *v, const char *path, struct err *reterr)
{
    json_t *lines = NULL, *j;
    size_t i;
    enum rc rc = lines_load(path, &lines, reterr);

    if (rc != RC_OK) return rc;
    json_array_foreach(lines, i, j)
    {
        uint8_t pub[SIGN_PUBLIC_BYTES], cluster[16];

        if (!hex_member(j, "public_key", sizeof pub, pub, sizeof pub, NULL) ||
            !hex_member(j, "cluster_id", sizeof cluster, cluster, sizeof cluster, NULL)) {
            rc = err_set(reterr, RC_INVAL,
                         "'%s': expected the output of: mikura receipt keys --json", path);
            break;
        }
        rc = key_add(v, (ProtobufCBinaryData){sizeof pub, pub},
                     (ProtobufCBinaryData){sizeof cluster, cluster}, reterr);
        if (rc != RC_OK) break;
    }
    if (rc == RC_OK && v->keys_n == 0) rc = err_set(reterr, RC_NOTFOUND, "'%s': no keys", path);
    json_decref(lines);
    return rc;
}

static enum rc keys_of_cluster(struct verify *v)
{
    Mikura__V1__ReceiptKeysResponse *r = NULL;
    enum rc rc = keys_ask(v->c, &r);

    for (size_t i = 0; rc == RC_OK && i < r->n_keys; i++)
        rc = key_add(v, r->keys[i]->public_key, r->cluster_id, &v->c->err);
    mikura__v1__receipt_keys_response__free_unpacked(r, NULL);
    return rc;
}

int cmd_receipt_keys(struct cli *c)
{
    static const char *const HEAD[] = {"KEY", "PUBLIC KEY (Ed25519)", "CLUSTER"};
    Mikura__V1__ReceiptKeysResponse *r = NULL;
    struct table t;
    char a[80], b[80];
    enum rc rc = keys_ask(c, &r);

    table_init(&t, HEAD, ARRAY_N(HEAD));
    for (size_t i = 0; rc == RC_OK && i < r->n_keys; i++) {
        const Mikura__V1__ReceiptKey *k = r->keys[i];

        if (c->json) {
            rc = out_json(json_pack("{s:s, s:s, s:s}", "key_id", k->key_id, "public_key",
                                    out_hex(k->public_key, a), "cluster_id",
                                    out_hex(r->cluster_id, b)));
            continue;
        }
        table_cell(&t, "%s", k->key_id);
        table_cell(&t, "%s", out_hex(k->public_key, a));
        table_cell(&t, "%s", out_hex(r->cluster_id, b));
    }
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    mikura__v1__receipt_keys_response__free_unpacked(r, NULL);
    return rc == RC_OK ? EXIT_OK : cli_fail(c, rc);
}

/* ---- one receipt ---- */
static const char *text_of(const json_t *j, const char *name)
{
    const char *s = json_string_value(json_object_get(j, name));

    return s == NULL ? "" : s;
}

static uint64_t number_of(const json_t *j, const char *name)
{
    json_int_t v = json_integer_value(json_object_get(j, name));

    return v < 0 ? 0 : (uint64_t)v;
}

struct line {
    struct commit_line line;
    const char *file;
};
static int line_cmp(const void *x, const void *y)
{
    const struct commit_line *a = &((const struct line *)x)->line,
                             *b = &((const struct line *)y)->line;
    int d = memcmp(a->path.p, b->path.p, MIN(a->path.n, b->path.n));

    if (d != 0) return d;
    if (a->path.n != b->path.n) return a->path.n < b->path.n ? -1 : 1;
    return (a->version > b->version) - (a->version < b->version);
}

/* Does the file here have this digest? */
static enum rc file_check(const struct line *l, struct err *reterr)
{
    int fd = open(l->file, O_RDONLY | O_CLOEXEC);
    uint8_t *p = malloc(MIKURA_PIECE_BYTES), digest[TREE_DIGEST_BYTES];
    struct tree_stream *t = NULL;
    ssize_t n = 0;
    enum rc rc = p == NULL ? RC_NOMEM : tree_stream_new(&t);

    if (fd < 0) {
        rc = err_set(reterr, RC_NOTFOUND, "'%s': %s", l->file, strerror(errno));
        goto out;
    }
    while (rc == RC_OK && (n = read(fd, p, MIKURA_PIECE_BYTES)) > 0)
        rc = tree_stream_update(t, p, (size_t)n);
    if (rc == RC_OK && n < 0) {
        rc = err_set(reterr, RC_IO, "'%s': %s", l->file, strerror(errno));
        goto out;
    }
    if (rc == RC_OK) rc = tree_stream_digest(t, digest);
    if (rc != RC_OK) {
        rc = err_set(reterr, rc, "'%s': its digest", l->file);
    } else if (memcmp(digest, l->line.tree_sha256, sizeof digest) != 0) {
        rc = err_set(reterr, RC_CORRUPT, "'%s' has other bytes than were stored", l->file);
    }
out:
    tree_stream_free(t);
    free(p);
    if (fd >= 0) (void)close(fd); /* was only read */
    return rc;
}

/* The file lines of the case's generation: their number and Merkle root, and the files themselves.
 */
static enum rc lines_check(const struct verify *v, const json_t *k,
                           const Mikura__V1__ReceiptBody *body, struct err *reterr)
{
    struct line *all = calloc(json_array_size(v->lines), sizeof *all);
    struct commit_root *root = calloc(1, sizeof *root);
    uint8_t digest[DIGEST_BYTES];
    const json_t *j;
    size_t n = 0, i;
    enum rc rc = RC_OK;

    if (all == NULL || root == NULL) {
        rc = err_set(reterr, RC_NOMEM, "the lines of a case");
        goto out;
    }
    json_array_foreach(v->lines, i, j)
    {
        struct commit_line *l = &all[n].line;

        if (strcmp(text_of(j, "type"), "file") != 0 || strcmp(text_of(j, "state"), "stored") != 0 ||
            strcmp(text_of(j, "collection"), body->collection) != 0 ||
            strcmp(text_of(j, "case_id"), body->case_id) != 0 ||
            number_of(j, "generation") != body->generation) {
            continue;
        }
        if (!hex_member(j, "tree_sha256", sizeof l->tree_sha256, l->tree_sha256,
                        sizeof l->tree_sha256, NULL)) {
            rc = err_set(reterr, RC_INVAL, "the line of '%s' has no tree_sha256",
                         text_of(j, "path"));
            goto out;
        }
        l->path = (struct slice){(const uint8_t *)text_of(j, "path"), strlen(text_of(j, "path"))};
        l->version = number_of(j, "version");
        l->size_bytes = number_of(j, "size_bytes");
        all[n++].file = text_of(j, "file");
    }
    if (n != body->count || n != number_of(k, "objects")) {
        rc = err_set(reterr, RC_CORRUPT,
                     "the receipt is for %" PRIu64 " objects, the file has lines of %zu",
                     body->count, n);
        goto out;
    }
    qsort(all, n, sizeof *all, line_cmp);
    commit_root_init(root);
    for (i = 0; rc == RC_OK && i < n; i++)
        rc = commit_root_add(root, &all[i].line);
    if (rc == RC_OK) rc = commit_root_final(root, digest);
    if (rc != RC_OK) {
        rc = err_set(reterr, rc, "the Merkle root: %s", rc_text(rc));
        goto out;
    }
    if (body->merkle_root.len != sizeof digest ||
        memcmp(body->merkle_root.data, digest, sizeof digest) != 0) {
        rc = err_set(reterr, RC_CORRUPT,
                     "names, sizes or digests are not the ones that were signed");
        goto out;
    }
    for (i = 0; rc == RC_OK && i < n && cli_flag(v->c, "files"); i++)
        rc = file_check(&all[i], reterr);
out:
    free(root);
    free(all);
    return rc;
}

static enum rc receipt_check(const struct verify *v, const json_t *k, const json_t *receipt,
                             Mikura__V1__ReceiptBody **ret_body, struct err *reterr)
{
    const char *key_id = text_of(receipt, "key_id");
    uint8_t bytes[4096], signature[SIGN_SIGNATURE_BYTES];
    const struct receipt_key *key = NULL;
    Mikura__V1__ReceiptBody *body;
    size_t n;
    enum rc rc;

    for (unsigned i = 0; i < v->keys_n; i++)
        if (strcmp(v->keys[i].id, key_id) == 0) key = &v->keys[i];
    if (key == NULL)
        return err_set(reterr, RC_NOTFOUND, "signed by key '%s', which is not among the keys",
                       key_id);
    if (!hex_member(receipt, "signed_bytes", 0, bytes, sizeof bytes, &n) ||
        !hex_member(receipt, "signature", sizeof signature, signature, sizeof signature, NULL)) {
        return err_set(reterr, RC_INVAL, "no signed_bytes or signature in hexadecimal");
    }
    rc = sign_verify(&key->pub, SIGN_RECEIPT, (struct slice){bytes, n},
                     (struct slice){signature, sizeof signature});
    if (rc != RC_OK) return err_set(reterr, RC_CORRUPT, "the signature is not of key %s", key_id);
    body = mikura__v1__receipt_body__unpack(NULL, n, bytes);
    if (body == NULL) return err_set(reterr, RC_CORRUPT, "what was signed is no receipt");
    *ret_body = body;
    if (body->format != 1)
        return err_set(reterr, RC_UNIMPL, "a receipt of format %u; this program knows 1",
                       body->format);
    if (body->cluster_id.len != sizeof key->cluster ||
        memcmp(body->cluster_id.data, key->cluster, sizeof key->cluster) != 0 ||
        strcmp(body->collection, text_of(k, "collection")) != 0 ||
        strcmp(body->case_id, text_of(k, "case_id")) != 0 ||
        body->generation != number_of(k, "generation")) {
        return err_set(reterr, RC_CORRUPT,
                       "signed for %s/%s generation %" PRIu64 ", perhaps of another cluster",
                       body->collection, body->case_id, body->generation);
    }
    return lines_check(v, k, body, reterr);
}

static enum rc case_check(struct verify *v, const json_t *k)
{
    const json_t *receipt = json_object_get(k, "receipt");
    const char *collection = text_of(k, "collection"), *case_id = text_of(k, "case_id");
    Mikura__V1__ReceiptBody *body = NULL;
    struct err e = {0};
    char time[32];
    enum rc out = RC_OK, rc = json_is_object(receipt)
                                  ? receipt_check(v, k, receipt, &body, &e)
                                  : err_set(&e, RC_NOTFOUND, "the line has no receipt");

    v->good_n += rc == RC_OK;
    v->bad_n += rc != RC_OK;
    if (v->c->json) {
        out = out_json(
            json_pack("{s:s, s:s, s:I, s:b, s:s, s:I, s:I, s:I}", "collection", collection,
                      "case_id", case_id, "generation", (json_int_t)number_of(k, "generation"),
                      "valid", rc == RC_OK, "reason", rc == RC_OK ? "" : e.msg, "sha256_verified",
                      (json_int_t)(body == NULL ? 0 : body->sha256_verified), "sha256_claimed",
                      (json_int_t)(body == NULL ? 0 : body->sha256_claimed), "committed_unix_ms",
                      (json_int_t)(body == NULL ? 0 : body->committed_unix_ms)));
    } else if (rc != RC_OK) {
        (void)printf("BAD  %s/%s: %s\n", collection, case_id, e.msg);
    } else if (!v->c->quiet) {
        (void)printf("good %s/%s: generation %" PRIu64 ", %" PRIu64 " objects, committed %s",
                     collection, case_id, body->generation, body->count,
                     out_time(body->committed_unix_ms, time));
        if (body->sha256_verified + body->sha256_claimed > 0) {
            (void)printf("; sender's SHA-256: %" PRIu64 " verified, %" PRIu64 " claimed only",
                         body->sha256_verified, body->sha256_claimed);
        }
        (void)printf("\n");
    }
    mikura__v1__receipt_body__free_unpacked(body, NULL);
    return out;
}

/* ---- of one case, for other commands ---- */
enum rc receipt_keys_open(struct cli *c, struct verify **ret)
{
    struct verify *v = calloc(1, sizeof *v);
    enum rc rc;

    if (v == NULL) return err_set(&c->err, RC_NOMEM, "receipts");
    v->c = c;
    rc = keys_of_cluster(v);
    if (rc != RC_OK) {
        free(v);
    } else {
        *ret = v;
    }
    return rc;
}

void receipt_keys_free(struct verify *v)
{
    free(v);
}

void receipt_file_free(struct receipt_file *f)
{
    json_decref(f->json);
    free(f->lines);
}

enum rc receipt_file_check(struct verify *v, const char *path, uint64_t generation,
                           struct receipt_file *ret, struct err *reterr)
{
    const json_t *j;
    bool seen = false;
    size_t i;
    enum rc rc = lines_load(path, &v->lines, reterr);

    if (rc != RC_OK) return rc;
    ret->json = v->lines;
    ret->lines = calloc(json_array_size(v->lines), sizeof *ret->lines);
    if (ret->lines == NULL) rc = err_set(reterr, RC_NOMEM, "receipts");
    for (i = 0; rc == RC_OK && i < json_array_size(v->lines); i++) {
        Mikura__V1__ReceiptBody *body = NULL;

        j = json_array_get(v->lines, i);
        if (strcmp(text_of(j, "type"), "case") == 0) {
            const json_t *receipt = json_object_get(j, "receipt");

            rc = receipt_check(v, j, receipt, &body, reterr);
            mikura__v1__receipt_body__free_unpacked(body, NULL);
            if (rc == RC_OK && number_of(j, "generation") == generation) {
                seen = hex_member(receipt, "signed_bytes", 0, ret->signed_bytes,
                                  sizeof ret->signed_bytes, &ret->signed_n);
            }
        } else if (strcmp(text_of(j, "type"), "file") == 0) {
            struct mikura_staged *l = &ret->lines[ret->lines_n++];

            *l = (struct mikura_staged){.path = text_of(j, "path"),
                                        .version = number_of(j, "version"),
                                        .size_bytes = number_of(j, "size_bytes")};
            if (!hex_member(j, "tree_sha256", sizeof l->tree_sha256, l->tree_sha256,
                            sizeof l->tree_sha256, NULL))
                rc = err_set(reterr, RC_CORRUPT, "the line of '%s' has no tree_sha256", l->path);
        }
    }
    v->lines = NULL;
    if (rc == RC_OK && !seen)
        rc = err_set(reterr, RC_NOTFOUND, "'%s' has no receipt of generation %" PRIu64, path,
                     generation);
    return rc;
}

int cmd_receipt_verify(struct cli *c)
{
    struct verify *v = calloc(1, sizeof *v);
    const char *keys = cli_value(c, "keys");
    const json_t *j;
    size_t i;
    int code;
    enum rc rc = v == NULL ? err_set(&c->err, RC_NOMEM, "receipts") : RC_OK;

    if (rc != RC_OK) return cli_fail(c, rc);
    v->c = c;
    rc = lines_load(c->args[0], &v->lines, &c->err);
    if (rc == RC_OK) rc = keys != NULL ? keys_load(v, keys, &c->err) : keys_of_cluster(v);
    if (rc == RC_OK) {
        json_array_foreach(v->lines, i, j)
        {
            if (strcmp(text_of(j, "type"), "case") == 0) rc = case_check(v, j);
            if (rc != RC_OK) break;
        }
        if (rc != RC_OK) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    }
    if (rc == RC_OK && v->good_n + v->bad_n == 0)
        rc = err_set(&c->err, RC_NOTFOUND, "'%s' holds no receipt", c->args[0]);
    code = rc != RC_OK ? cli_fail(c, rc) : v->bad_n > 0 ? EXIT_DATA : EXIT_OK;
    json_decref(v->lines);
    free(v);
    return code;
}
