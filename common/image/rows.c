/* common/image/rows.c - random rectangles from a decoder that only knows "the next row".
 *
 * A ring of the last cap_n rows is kept. Invariant: rows [first, next_row) are valid, row y lies in
 * slot y mod cap_n. A rectangle above the window starts the decoder again; a failed decoder is
 * started again by the next call, so an error is repeated, never turned into stale rows. */
#include "common/image/image_priv.h"
#include <stdlib.h>

void rows_init(struct rows *r, uint64_t memory_bytes)
{
    uint64_t row = mul_sat(r->width, r->channel_n), fit = row == 0 ? 1 : memory_bytes / row;

    r->cap_n = MAX(1, MIN(r->height, fit));
    r->first = r->next_row = 0;
    r->started = false;
    r->p = NULL;
}

void rows_deinit(struct rows *r)
{
    free(r->p);
    r->p = NULL;
}

static enum rc rows_advance(struct rows *r, uint64_t y, struct err *reterr)
{
    size_t row = (size_t)(r->width * r->channel_n);
    enum rc rc = RC_OK;

    if (!r->started || y < r->first) {
        r->started = false;
        r->first = r->next_row = 0;
        rc = r->ops->start(r->d, reterr);
        r->started = rc == RC_OK;
    }
    while (rc == RC_OK && r->next_row <= y) {
        /* the slot's old row is gone from here on */
        if (r->next_row - r->first == r->cap_n) r->first++;
        rc = r->ops->next(r->d, r->p + (size_t)(r->next_row % r->cap_n) * row, reterr);
        if (rc == RC_OK) r->next_row++;
    }
    if (rc != RC_OK) r->started = false;
    return rc;
}

enum rc rows_read(struct rows *r, struct image_rect rect, uint8_t *out, struct err *reterr)
{
    size_t row = (size_t)(r->width * r->channel_n), n = (size_t)rect.width * r->channel_n;
    enum rc rc;

    if (r->p == NULL) r->p = malloc((size_t)r->cap_n * row);
    if (r->p == NULL) return err_set(reterr, RC_NOMEM, "rows of %zu bytes", row);
    for (uint32_t i = 0; i < rect.height; i++) {
        uint64_t y = rect.y + i;

        rc = rows_advance(r, y, reterr);
        if (rc != RC_OK) return rc;
        memcpy(out + (size_t)i * n,
               r->p + (size_t)(y % r->cap_n) * row + (size_t)rect.x * r->channel_n, n);
    }
    return RC_OK;
}
