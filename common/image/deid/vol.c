/* common/image/deid/vol.c - Heidelberg's raw export of OCT volumes (HSF-OCT-1xx): a header of 2,048
 * bytes with fixed fields, then pixels. Cleaning zeroes the fields. */
#include "common/image/deid/deid_priv.h"

enum { VOL_HEADER_BYTES = 2048 };
static const struct {
    uint16_t off, n;
    enum deid_rule rule;
    const char *name;
} FIELDS[] = {{88, 8, DEID_DATE, "ExamTime"},          {104, 16, DEID_IDENTITY, "ID"},
              {120, 16, DEID_IDENTITY, "ReferenceID"}, {136, 4, DEID_IDENTITY, "PID"},
              {140, 24, DEID_IDENTITY, "PatientID"},   {164, 8, DEID_IDENTITY, "DOB"},
              {172, 4, DEID_IDENTITY, "VID"},          {176, 24, DEID_IDENTITY, "VisitID"},
              {200, 8, DEID_DATE, "VisitDate"},        {216, 1832, DEID_UNKNOWN, "Spare"}};

const char *deid_vol_field(uint32_t idx)
{
    return idx < ARRAY_N(FIELDS) ? FIELDS[idx].name : NULL;
}

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
    for (uint32_t i = 0; i < ARRAY_N(FIELDS); i++) {
        if (zero(h + FIELDS[i].off, FIELDS[i].n)) continue;
        if (FIELDS[i].rule == DEID_DATE && r->p->dates == DEID_DATES_KEEP) continue;
        run_find(r, FIELDS[i].rule, DEID_EMPTIED, DEID_AT_VOL, &i, 1);
        memset(h + FIELDS[i].off, 0, FIELDS[i].n);
    }
    rc = run_data(r, h, sizeof(h), reterr);
    return rc == RC_OK ? run_copy(r, sizeof(h), r->src->size - sizeof(h), reterr) : rc;
}
