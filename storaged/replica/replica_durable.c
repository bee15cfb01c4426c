/* storaged/replica/replica_durable.c - bytes of what a replica has promised. */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "storaged/replica/replica_core.h"

#define DURABLE_FORMAT 1u

void replica_durable_encode(const struct replica_durable *d, uint8_t out[REPLICA_DURABLE_BYTES])
{
    memset(out, 0, REPLICA_DURABLE_BYTES);
    out[0] = DURABLE_FORMAT;
    out[1] = d->damaged;
    le_put64(out + 8, d->epoch);
    le_put64(out + 16, d->config);
    le_put64(out + 24, d->commit);
    le_put64(out + 32, d->cut_index);
    le_put64(out + 40, d->cut_epoch);
    le_put32(out + 52, crc32c(0, out, 52));
}

enum rc replica_durable_decode(struct slice bytes, struct replica_durable *ret, struct err *reterr)
{
    const uint8_t *p = bytes.p;

    if (bytes.n != REPLICA_DURABLE_BYTES || le_get32(p + 52) != crc32c(0, p, 52) || p[1] > 1)
        return err_set(reterr, RC_CORRUPT, "a replica's promises: length or checksum");
    if (p[0] != DURABLE_FORMAT)
        return err_set(reterr, RC_UNIMPL, "a replica's promises: format %u", p[0]);
    *ret = (struct replica_durable){
        .epoch = le_get64(p + 8),
        .config = le_get64(p + 16),
        .commit = le_get64(p + 24),
        .cut_index = le_get64(p + 32),
        .cut_epoch = le_get64(p + 40),
        .damaged = p[1] == 1,
    };
    return RC_OK;
}
