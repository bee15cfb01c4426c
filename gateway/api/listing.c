/* gateway/api/listing.c - pages of names from every group of a pool, sorted together.
 *
 * A page asks each group for its next PAGE names after the last one told, sorts them and tells
 * those that no group can still undercut: up to the smallest "last name" of the groups that had a
 * full page. So a name is told once and in order, however the groups are filled; memory is groups x
 * PAGE names. */
#include "gateway/api/listing.h"
#include <stdlib.h>

#define PAGE       256u
#define GROUPS_MAX 4096u

struct entry {
    struct slice name;
    struct record_list row;
    struct record_head head;
};
struct page {
    struct arena arena; /* of this page */
    struct entry *e;
    uint32_t n, max;
    uint32_t group_from; /* first entry of the group that is being read */
    struct err err;
};

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int d = memcmp(x->name.p, y->name.p, MIN(x->name.n, y->name.n));

    if (d != 0) return d;
    return x->name.n < y->name.n ? -1 : x->name.n > y->name.n;
}

static enum rc each_row(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct page *p = arg;
    uint64_t hash;
    struct slice name;
    struct entry *e;
    enum rc rc = record_list_parse(gw_bytes(item->key), &name, &hash);

    if (rc != RC_OK) return rc;
    if (p->n == p->max) {
        uint32_t max = p->max == 0 ? PAGE : p->max * 2;

        e = realloc(p->e, max * sizeof *e);
        if (e == NULL) return RC_NOMEM;
        p->e = e;
        p->max = max;
    }
    e = &p->e[p->n];
    memset(e, 0, sizeof *e);
    e->name.p = arena_copy(&p->arena, name.p, name.n);
    e->name.n = name.n;
    if (e->name.p == NULL) return RC_NOMEM;
    rc = record_list_decode(gw_bytes(item->value), &e->row, &p->err);
    if (rc == RC_OK) p->n++;
    return rc;
}

/* Heads of the cases that one group gave. */
static enum rc read_heads(struct gw *gw, struct page *p, uint32_t pool, uint64_t left_ms,
                          struct err *reterr)
{
    uint32_t n = p->n - p->group_from;
    uint8_t *keys = arena_alloc(&p->arena, (size_t)n * 64);
    struct slice *k = arena_alloc(&p->arena, n * sizeof *k);
    Mikura__Internal__V1__GetResponse *got;
    struct route_at at;
    enum rc rc;

    if (n == 0) return RC_OK;
    if (keys == NULL || k == NULL) return err_set(reterr, RC_NOMEM, "a page of cases");
    at = (struct route_at){pool, record_anchor_hash(&p->e[p->group_from].row.anchor)};
    for (uint32_t i = 0; i < n; i++) {
        uint8_t key[RECORD_KEY_BYTES_MAX];
        size_t len = record_key(&p->e[p->group_from + i].row.anchor, RECORD_HEAD, key);

        CHECK(len <= 64); /* 'r', anchor, kind */
        memcpy(keys + (size_t)i * 64, key, len);
        k[i] = (struct slice){keys + (size_t)i * 64, len};
    }
    rc = route_get(gw->route, at, k, n, left_ms, &p->arena, &got, reterr);
    for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
        if (got->items[i]->version == 0) continue; /* withdrawn meanwhile: an empty head */
        rc = record_head_decode(gw_bytes(got->items[i]->value), &p->e[p->group_from + i].head,
                                reterr);
    }
    return rc;
}

struct walk {
    struct gw *gw;
    uint32_t pool;
    const struct id128 *scope;
    const char *prefix;
    bool heads;
    uint64_t left_ms;
};

/* One page; *ret_more: some group has more. ret_bound: names up to it are complete (empty = all).
 */
static enum rc read_page(const struct walk *w, struct slice after, struct page *p, bool *ret_more,
                         struct slice *ret_bound, struct err *reterr)
{
    uint64_t hashes[GROUPS_MAX / 16];
    uint8_t from[RECORD_KEY_BYTES_MAX], until[RECORD_KEY_BYTES_MAX];
    size_t from_n, until_n;
    uint32_t groups_n = 0;
    enum rc rc;

    for (const struct cluster_group *g = cluster_group_next(w->gw->cluster, NULL); g != NULL;
         g = cluster_group_next(w->gw->cluster, g)) {
        if (g->group.pool != w->pool) continue;
        if (groups_n == ARRAY_N(hashes))
            return err_set(reterr, RC_BUSY, "a listing over more than %zu groups", ARRAY_N(hashes));
        hashes[groups_n++] = g->group.prefix;
    }
    until_n = record_list_prefix(w->scope, gw_text(w->prefix), until);
    memcpy(from, until, until_n);
    from_n = until_n;
    until_n = record_key_after(until, until_n);
    if (after.n > 0) { /* the first key behind every row of that name */
        from_n = record_list_prefix(w->scope, after, from);
        from[from_n++] = 1; /* names hold no byte below 0x20, rows go on with 0 */
    }
    *ret_more = false;
    *ret_bound = (struct slice){NULL, 0};
    for (uint32_t g = 0; g < groups_n; g++) {
        p->group_from = p->n;
        rc = route_scan(w->gw->route, (struct route_at){w->pool, hashes[g]},
                        (struct slice){from, from_n}, (struct slice){until, until_n}, PAGE,
                        w->left_ms, each_row, p, reterr);
        if (rc == RC_OK && w->heads) rc = read_heads(w->gw, p, w->pool, w->left_ms, reterr);
        if (rc != RC_OK) return rc;
        if (p->n - p->group_from == PAGE) {
            struct slice last = p->e[p->n - 1].name;
            struct entry a = {.name = last}, b = {.name = *ret_bound};

            if (!*ret_more || by_name(&a, &b) < 0) *ret_bound = last;
            *ret_more = true;
        }
    }
    if (p->n > 0) qsort(p->e, p->n, sizeof *p->e, by_name);
    return RC_OK;
}

static enum rc walk(const struct walk *w, const char *after_text,
                    enum rc (*each)(void *arg, const struct entry *e), void *arg,
                    struct err *reterr)
{
    uint8_t after_copy[RECORD_NAME_BYTES_MAX];
    struct slice after = gw_text(after_text);
    enum rc rc = RC_OK;
    bool more = true;

    if (after.n > sizeof after_copy)
        return err_set(reterr, RC_INVAL, "page_token: not one of ours; list again without it");
    while (more && rc == RC_OK) {
        struct page p = {0};
        struct slice bound;

        arena_init(&p.arena);
        rc = read_page(w, after, &p, &more, &bound, reterr);
        for (uint32_t i = 0; i < p.n && rc == RC_OK; i++) {
            struct entry b = {.name = bound};

            if (more && by_name(&p.e[i], &b) > 0) break;
            rc = each(arg, &p.e[i]);
            if (rc != RC_OK && rc != RC_RANGE) (void)err_set(reterr, rc, "%s", rc_text(rc));
        }
        if (more && rc == RC_OK) {
            memcpy(after_copy, bound.p, bound.n);
            after = (struct slice){after_copy, bound.n};
        }
        free(p.e);
        arena_deinit(&p.arena);
    }
    return rc == RC_RANGE ? RC_OK : rc;
}

struct name_each {
    enum rc (*each)(void *arg, struct slice name, const struct record_list *row);
    void *arg;
};
static enum rc tell_name(void *arg, const struct entry *e)
{
    struct name_each *n = arg;

    return n->each(n->arg, e->name, &e->row);
}

enum rc gw_list_names(struct gw *gw, uint32_t pool, const struct id128 *scope, const char *prefix,
                      const char *after, struct arena *a, uint64_t left_ms,
                      enum rc (*each)(void *arg, struct slice name, const struct record_list *row),
                      void *arg, struct err *reterr)
{
    struct walk w = {gw, pool, scope, prefix, false, left_ms};
    struct name_each n = {each, arg};

    (void)a;
    return walk(&w, after, tell_name, &n, reterr);
}

struct case_each {
    enum rc (*each)(void *arg, const struct gw_case_line *line);
    void *arg;
    uint32_t n, limit;
};
static enum rc tell_case(void *arg, const struct entry *e)
{
    struct case_each *c = arg;
    struct gw_case_line line = {.case_id = e->name, .anchor = e->row.anchor, .head = e->head};

    if (c->n == c->limit) return RC_RANGE;
    c->n++;
    return c->each(c->arg, &line);
}

enum rc gw_list_cases(struct gw *gw, const struct gw_collection *col, const char *prefix,
                      const char *after, uint32_t limit, struct arena *a, uint64_t left_ms,
                      enum rc (*each)(void *arg, const struct gw_case_line *line), void *arg,
                      uint32_t *ret_n, struct err *reterr)
{
    struct walk w = {gw,           col->rec.meta_pool == 0 ? gw->meta_pool : col->rec.meta_pool,
                     &col->rec.id, prefix,
                     true,         left_ms};
    struct case_each c = {each, arg, 0, limit};
    enum rc rc = walk(&w, after, tell_case, &c, reterr);

    (void)a;
    if (ret_n != NULL) *ret_n = c.n;
    return rc;
}
