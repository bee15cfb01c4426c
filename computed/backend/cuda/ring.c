/* computed/backend/cuda/ring.c - see ring.h. A slot's event is recorded behind its transfer: who
 * wants the slot waits for it. */
#include "computed/backend/cuda/ring.h"
#include <stdlib.h>
#include <string.h>

#define SLOTS 4u

struct slot {
    uint8_t *p;
    struct cu_event *gone;
};
struct cu_ring {
    const struct cu_dev_ops *ops;
    struct cu_dev *dev;
    enum cu_stream at;
    struct slot slot[SLOTS];
    uint32_t next;
};

enum rc cu_ring_new(const struct cu_dev_ops *ops, struct cu_dev *dev, enum cu_stream at,
                    struct cu_ring **ret, struct err *reterr)
{
    struct cu_ring *r = calloc(1, sizeof(*r));
    enum rc rc = r == NULL ? err_set(reterr, RC_NOMEM, "ring") : RC_OK;

    if (r == NULL) return rc;
    r->ops = ops;
    r->dev = dev;
    r->at = at;
    for (uint32_t i = 0; rc == RC_OK && i < SLOTS; i++) {
        void *p;

        rc = ops->event_new(dev, &r->slot[i].gone, reterr);
        if (rc == RC_OK) rc = ops->pinned_alloc(dev, ops->slot_bytes, &p, reterr);
        if (rc == RC_OK) r->slot[i].p = p;
    }
    if (rc != RC_OK) {
        cu_ring_free(r);
        return rc;
    }
    *ret = r;
    return RC_OK;
}

void cu_ring_free(struct cu_ring *r)
{
    if (r == NULL) return;
    for (uint32_t i = 0; i < SLOTS; i++) {
        r->ops->pinned_free(r->dev, r->slot[i].p, r->ops->slot_bytes);
        r->ops->event_free(r->dev, r->slot[i].gone);
    }
    free(r);
}

enum rc cu_ring_up(struct cu_ring *r, void *to, const void *from, size_t n, struct err *reterr)
{
    const uint8_t *src = from;
    uint8_t *dst = to;
    enum rc rc = RC_OK;

    while (rc == RC_OK && n > 0) {
        struct slot *s = &r->slot[r->next++ % SLOTS];
        size_t k = MIN(n, r->ops->slot_bytes);

        rc = r->ops->event_sync(r->dev, s->gone, reterr);
        if (rc != RC_OK) break;
        memcpy(s->p, src, k);
        rc = r->ops->copy(r->dev, r->at, dst, s->p, k, reterr);
        if (rc == RC_OK) rc = r->ops->event_record(r->dev, s->gone, r->at, reterr);
        src += k;
        dst += k;
        n -= k;
    }
    return rc;
}

/* Up to SLOTS pieces are on their way while one is copied out. All slots are empty at the end. */
enum rc cu_ring_down(struct cu_ring *r, void *to, const void *from, size_t n, struct err *reterr)
{
    size_t asked = 0, got = 0, width = r->ops->slot_bytes;
    enum rc rc = RC_OK;

    while (rc == RC_OK && got < n) {
        struct slot *s = &r->slot[got / width % SLOTS];
        size_t k = MIN(n - got, width);

        while (rc == RC_OK && asked < n && asked < got + SLOTS * width) {
            struct slot *t = &r->slot[asked / width % SLOTS];
            size_t piece = MIN(n - asked, width);

            rc = r->ops->copy(r->dev, r->at, t->p, (const uint8_t *)from + asked, piece, reterr);
            if (rc == RC_OK) rc = r->ops->event_record(r->dev, t->gone, r->at, reterr);
            asked += piece;
        }
        if (rc == RC_OK) rc = r->ops->event_sync(r->dev, s->gone, reterr);
        if (rc != RC_OK) break;
        memcpy((uint8_t *)to + got, s->p, k);
        got += k;
    }
    return rc;
}
