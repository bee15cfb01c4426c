/* common/image/deid/vol.c - Heidelberg's raw export of OCT volumes (HSF-OCT-1xx): a header of 2,048
 * bytes with fixed fields, then pixels. Cleaning zeroes the fields. */
#include "common/image/deid/deid_priv.h"

enum { VOL_HEADER_BYTES = 2048 };

static bool zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) return false;
    }
    return true;
}

enum rc deid_vol(struct deid_run *r, struct err *reterr)
{
    uint8_t h[VOL_HEADER_BYTES];
    enum rc rc;

    if (r->src->size < sizeof(h)) {
        run_find_file(r, DEID_FORMAT);
        return RC_OK;
    }
    rc = image_source_read(r->src, 0, h, sizeof(h), reterr);
    if (rc != RC_OK) return rc;
    if (memcmp(h, "HSF-OCT-", 8) != 0 && memcmp(h, "ep-v", 4) != 0) { /* eyepy writes it too */
        run_find_file(r, DEID_FORMAT);
        return RC_OK;
    }
    for (uint32_t i = 0; deid_vol_at(i) != NULL; i++) {
        const struct deid_vol_field_at *f = deid_vol_at(i);

        if (zero(h + f->off, f->n)) continue;
        if (f->rule == DEID_DATE && r->p->dates == DEID_DATES_KEEP) continue;
        run_find(r, f->rule, DEID_EMPTIED, DEID_AT_VOL, &i, 1);
        memset(h + f->off, 0, f->n);
    }
    rc = run_data(r, h, sizeof(h), reterr);
    return rc == RC_OK ? run_copy(r, sizeof(h), r->src->size - sizeof(h), reterr) : rc;
}
