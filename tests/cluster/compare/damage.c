/* tests/cluster/compare/damage.c - damages the index of a disk that nobody serves, as no correct
 * program would: in each group a row of the state (one put in, one changed or one taken away, in
 * turn), and of the chunks' places one in three is forgotten. Prints how many of each.
 *
 *   compare_damage DIR/index */
#include "storaged/index/index.h"
#include <stdio.h>
#include <stdlib.h>

struct groups {
    struct index_group g[256];
    uint32_t n;
};
static enum rc note_group(void *ctx, const struct index_group *g)
{
    struct groups *all = ctx;

    if (all->n == ARRAY_N(all->g)) return RC_RANGE;
    all->g[all->n++] = *g;
    return RC_OK;
}

/* The first row of a group's state that nobody reads or writes again: an outcome that a client got.
 */
struct row {
    uint8_t key[APPLY_MAPKEY_BYTES_MAX], value[4096];
    size_t key_n, value_n;
};
static enum rc note_row(void *ctx, struct slice key, struct slice value)
{
    struct row *r = ctx;

    if (key.p[0] != 'o' || value.n == 0 || value.n > sizeof r->value) return RC_OK;
    memcpy(r->key, key.p, key.n);
    memcpy(r->value, value.p, value.n);
    r->key_n = key.n;
    r->value_n = value.n;
    return RC_RANGE;
}

static enum rc damage_state(struct index *ix, const struct index_group *g, uint32_t turn,
                            struct err *err)
{
    static const uint8_t none[] = "";
    struct row *r = calloc(1, sizeof *r);
    struct index_batch *b = NULL;
    struct index_applied at;
    struct slice key = {(const uint8_t *)"o~never", 7}, value = {(const uint8_t *)"x", 1};
    enum rc rc = r == NULL ? RC_NOMEM : RC_OK;

    if (rc == RC_OK)
        rc = index_state_scan(ix, g, (struct slice){none, 0}, (struct slice){none, 0}, note_row, r,
                              &at, err);
    if (rc == RC_OK) rc = index_batch_new(ix, g, &b);
    if (rc == RC_OK && r->key_n > 0 && turn > 0) {
        key = (struct slice){r->key, r->key_n};
        r->value[r->value_n - 1] ^= 1;
        value = (struct slice){r->value, r->value_n};
    }
    if (rc == RC_OK) {
        const struct apply_map *m = index_batch_map(b);

        rc = turn == 2 && r->key_n > 0 ? m->del(m->ctx, key) : m->put(m->ctx, key, value);
    }
    if (rc == RC_OK) rc = index_batch_commit(b, at, err);
    index_batch_free(b);
    free(r);
    return rc;
}

struct chunks {
    struct index_chunk c[1024];
    uint32_t n, seen;
};
static enum rc note_chunk(void *ctx, const struct index_chunk *c)
{
    struct chunks *all = ctx;

    if (all->seen++ % 3 == 0 && all->n < ARRAY_N(all->c)) all->c[all->n++] = *c;
    return RC_OK;
}

int main(int argc, char **argv)
{
    struct index_conf conf = {.dir = argc == 2 ? argv[1] : NULL};
    struct groups *groups = calloc(1, sizeof *groups);
    struct chunks *chunks = calloc(1, sizeof *chunks);
    struct index *ix = NULL;
    struct err err = {0};
    uint32_t groups_n = 0;
    enum rc rc = RC_INVAL;

    if (conf.dir != NULL && groups != NULL && chunks != NULL) rc = index_open(&conf, &ix, &err);
    if (rc == RC_OK) rc = index_groups(ix, note_group, groups, &err);
    for (uint32_t i = 0; rc == RC_OK && i < groups->n; i++) {
        struct index_applied at;

        rc = index_applied_get(ix, &groups->g[i], &at, &err);
        if (rc != RC_OK || at.index == 0) continue;
        rc = damage_state(ix, &groups->g[i], groups_n++ % 3, &err);
    }
    if (rc == RC_OK) rc = index_chunks_each(ix, note_chunk, chunks, &err);
    for (uint32_t i = 0; rc == RC_OK && i < chunks->n; i++)
        rc = index_chunk_drop(ix, &chunks->c[i].id, NULL, &err);
    if (rc == RC_OK) rc = index_sync(ix, &err);
    if (rc != RC_OK) (void)fprintf(stderr, "compare_damage: %s %s\n", rc_name(rc), err.msg);
    if (rc == RC_OK) (void)printf("%u %u\n", groups_n, chunks->n);
    index_close(ix);
    free(groups);
    free(chunks);
    return rc == RC_OK ? 0 : 1;
}
