/* tests/cluster/thrash/lin/lin_file.h - histories as text (main.c), by key. */
#pragma once
#include "tests/cluster/thrash/lin/lin.h"

struct lin_key {
    char name[96];
    struct lin_op *ops;
    uint32_t ops_n, ops_max;
};
struct lin_file {
    struct lin_key *keys;
    uint32_t keys_n, keys_max;
};
/* One line into f; false: it is none of ours. */
bool lin_file_line(struct lin_file *f, const char *line, uint32_t number);
/* false: why says what is wrong, and nothing is to be freed. */
bool lin_file_read(const char *path, struct lin_file *ret, char *why, size_t why_bytes);
void lin_file_free(struct lin_file *f);
const char *lin_kind_name(enum lin_kind k);
