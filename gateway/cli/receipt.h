/* gateway/cli/receipt.h - receipts of one case, for commands other than `mikura receipt`. */
#pragma once
#include "gateway/cli/cli.h"

struct verify; /* the keys */
/* Asks the cluster for the keys that receipts are signed with. Given; NULL is fine for free. */
MUST_CHECK enum rc receipt_keys_open(struct cli *c, struct verify **ret);
void receipt_keys_free(struct verify *v);

struct receipt_file {
    json_t *json;                /* holds the texts of all else */
    struct mikura_staged *lines; /* of all generations */
    size_t lines_n;
    uint8_t signed_bytes[4096]; /* of the generation asked for */
    size_t signed_n;
};
/* All receipts of the file: signatures, names, Merkle roots over its lines. RC_NOTFOUND: no file,
 * or none of that generation; RC_CORRUPT. */
MUST_CHECK enum rc receipt_file_check(struct verify *v, const char *path, uint64_t generation,
                                      struct receipt_file *ret, struct err *reterr);
void receipt_file_free(struct receipt_file *f);
