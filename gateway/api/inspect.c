/* gateway/api/inspect.c - see inspect.h. Here: the media type, from the table of magic numbers over
 * the first bytes. */
#include "gateway/api/inspect.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include <stdio.h>
#include <stdlib.h>

struct gw_inspector {
    struct gw *gw;
    char program[256];
};

enum rc gw_inspector_open(struct gw *gw, const char *program, struct gw_inspector **ret,
                          struct err *reterr)
{
    struct gw_inspector *in = calloc(1, sizeof *in);

    if (in == NULL) return err_set(reterr, RC_NOMEM, "the inspector");
    in->gw = gw;
    (void)snprintf(in->program, sizeof in->program, "%s", program);
    *ret = in;
    return RC_OK;
}

void gw_inspector_close(struct gw_inspector *in)
{
    free(in);
}

struct head {
    uint8_t p[IMAGE_SNIFF_BYTES];
    size_t n;
};
static enum rc take_head(void *arg, const struct object_piece *piece)
{
    struct head *h = arg;
    size_t n = MIN((size_t)piece->n, sizeof h->p - h->n);

    memcpy(h->p + h->n, piece->p, n);
    h->n += n;
    piece->owner_free(piece->owner);
    return RC_OK;
}

enum rc gw_inspect(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                   const struct slice *plain, struct arena *a, uint64_t left_ms,
                   struct gw_facts *ret, struct err *reterr)
{
    struct head *h = arena_alloc(a, sizeof *h);
    enum rc rc = RC_OK;

    if (h == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    if (plain != NULL) {
        h->n = MIN(plain->n, sizeof h->p);
        memcpy(h->p, plain->p, h->n);
    } else {
        rc = gw_object_bytes(gw, cs, o, 0, MIN(o->manifest.size_bytes, sizeof h->p), left_ms,
                             take_head, h, reterr);
    }
    if (rc != RC_OK) return rc;
    (void)snprintf(ret->media_type, sizeof ret->media_type, "%s", image_sniff(h->p, h->n));
    return RC_OK;
}
