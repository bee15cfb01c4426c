/* storaged/replica/replica_msg.c - bytes from a peer are never trusted: every length is checked
 * before it is used, every field that must be zero is. */
#include "storaged/replica/replica_msg.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"

#define FLAG_DAMAGED 1u
#define FLAG_DONE    2u

uint32_t replica_msg_bytes(const struct replica_msg *m)
{
    uint64_t n = REPLICA_MSG_HEAD_BYTES;

    for (uint32_t i = 0; i < m->n; i++)
        n += replica_entry_bytes(&m->entries[i]);
    return n <= REPLICA_MESSAGE_BYTES_MAX ? (uint32_t)n : 0;
}

static void head_encode(uint8_t *out, enum replica_msg_type type, uint8_t flags,
                        const struct id128 ids[3])
{
    memset(out, 0, REPLICA_MSG_HEAD_BYTES);
    out[0] = REPLICA_MSG_FORMAT;
    out[1] = (uint8_t)type;
    out[2] = flags;
    for (uint32_t i = 0; i < 3; i++)
        memcpy(out + 8 + 16 * i, ids[i].b, 16);
}

uint32_t replica_msg_encode(const struct replica_msg *m, uint8_t *out)
{
    const uint64_t words[10] = {m->config, m->epoch, m->stamp_ms, m->seq,     m->commit,
                                m->tail,   m->last,  m->first,    m->durable, m->want};
    const struct id128 ids[3] = {m->from_disk, m->from_boot, m->to_disk};
    uint8_t *p = out + REPLICA_MSG_HEAD_BYTES;

    CHECK(m->n <= REPLICA_BATCH);
    head_encode(out, m->type, m->damaged ? FLAG_DAMAGED : 0, ids);
    le_put32(out + 4, m->n);
    for (uint32_t i = 0; i < 10; i++)
        le_put64(out + 56 + 8 * i, words[i]);
    for (uint32_t i = 0; i < m->n; i++) {
        const struct replica_entry *e = &m->entries[i];

        le_put64(p, e->epoch);
        le_put32(p + 8, (uint32_t)e->bytes.n);
        p += REPLICA_ENTRY_HEAD_BYTES;
        if (e->bytes.n > 0) memcpy(p, e->bytes.p, e->bytes.n);
        p += e->bytes.n;
    }
    return (uint32_t)(p - out);
}

enum replica_msg_type replica_msg_type_of(struct slice bytes)
{
    if (bytes.n < REPLICA_MSG_HEAD_BYTES || bytes.p[0] != REPLICA_MSG_FORMAT) return 0;
    if (bytes.p[1] < REPLICA_PREPARE || bytes.p[1] > REPLICA_COMPARE_ODD) return 0;
    return (enum replica_msg_type)bytes.p[1];
}

static enum rc head_decode(struct slice bytes, uint8_t flags, struct id128 ids[3],
                           struct err *reterr)
{
    if (bytes.n < REPLICA_MSG_HEAD_BYTES)
        return err_set(reterr, RC_CORRUPT, "replica message of %zu bytes", bytes.n);
    if (bytes.p[0] != REPLICA_MSG_FORMAT)
        return err_set(reterr, RC_UNIMPL, "replica message of format %u, known is %u", bytes.p[0],
                       REPLICA_MSG_FORMAT);
    if (bytes.p[1] < REPLICA_PREPARE || bytes.p[1] > REPLICA_COMPARE_ODD ||
        (bytes.p[2] & ~flags) != 0 || bytes.n > REPLICA_MESSAGE_BYTES_MAX)
        return err_set(reterr, RC_CORRUPT, "replica message: type %u, flags %u, %zu bytes",
                       bytes.p[1], bytes.p[2], bytes.n);
    for (uint32_t i = 0; i < 3; i++)
        memcpy(ids[i].b, bytes.p + 8 + 16 * i, 16);
    return RC_OK;
}

enum rc replica_msg_decode(struct slice bytes, struct replica_msg *ret,
                           struct replica_entry entries[REPLICA_BATCH], struct err *reterr)
{
    struct replica_msg m = {0};
    uint64_t *words[10] = {&m.config, &m.epoch, &m.stamp_ms, &m.seq,     &m.commit,
                           &m.tail,   &m.last,  &m.first,    &m.durable, &m.want};
    size_t at = REPLICA_MSG_HEAD_BYTES;
    struct id128 ids[3];
    enum rc rc = head_decode(bytes, FLAG_DAMAGED, ids, reterr);

    if (rc != RC_OK) return rc;
    m.type = (enum replica_msg_type)bytes.p[1];
    if (m.type > REPLICA_NO_LOG || bytes.p[3] != 0)
        return err_set(reterr, RC_CORRUPT, "replica message: no message of the core");
    m.damaged = (bytes.p[2] & FLAG_DAMAGED) != 0;
    m.from_disk = ids[0];
    m.from_boot = ids[1];
    m.to_disk = ids[2];
    m.n = le_get32(bytes.p + 4);
    for (uint32_t i = 0; i < 10; i++)
        *words[i] = le_get64(bytes.p + 56 + 8 * i);
    if (m.n > REPLICA_BATCH || (m.n > 0 && (m.type != REPLICA_PREPARE || m.first == 0)))
        return err_set(reterr, RC_CORRUPT, "replica message: %u entries", m.n);
    for (uint32_t i = 0; i < m.n; i++) {
        uint32_t n;

        if (bytes.n - at < REPLICA_ENTRY_HEAD_BYTES)
            return err_set(reterr, RC_CORRUPT, "replica message: cut in entry %u", i);
        entries[i].epoch = le_get64(bytes.p + at);
        n = le_get32(bytes.p + at + 8);
        at += REPLICA_ENTRY_HEAD_BYTES;
        if (n > bytes.n - at)
            return err_set(reterr, RC_CORRUPT, "replica message: cut in entry %u", i);
        entries[i].bytes = (struct slice){bytes.p + at, n};
        at += n;
    }
    if (at != bytes.n)
        return err_set(reterr, RC_CORRUPT, "replica message: %zu bytes too many", bytes.n - at);
    m.entries = m.n > 0 ? entries : NULL;
    *ret = m;
    return RC_OK;
}

uint32_t replica_snap_bytes(const struct replica_snap *s)
{
    uint64_t n = REPLICA_MSG_HEAD_BYTES + (uint64_t)s->cursor.n + s->rows.n;

    return n <= REPLICA_MESSAGE_BYTES_MAX ? (uint32_t)n : 0;
}

uint32_t replica_snap_encode(const struct replica_snap *s, uint8_t *out)
{
    const struct id128 ids[3] = {s->from_disk, s->from_boot, s->to_disk};
    uint8_t *p = out + REPLICA_MSG_HEAD_BYTES;

    head_encode(out, s->type, s->done ? FLAG_DONE : 0, ids);
    out[3] = (uint8_t)rc_grpc(s->rc); /* the enum may be reordered, gRPC's numbers may not */
    le_put32(out + 4, (uint32_t)s->cursor.n);
    le_put64(out + 56, s->config);
    le_put64(out + 64, s->epoch);
    le_put64(out + 72, s->id);
    le_put64(out + 80, s->index);
    if (s->cursor.n > 0) memcpy(p, s->cursor.p, s->cursor.n);
    p += s->cursor.n;
    if (s->rows.n > 0) memcpy(p, s->rows.p, s->rows.n);
    return (uint32_t)(p - out + (ptrdiff_t)s->rows.n);
}

enum rc replica_snap_decode(struct slice bytes, struct replica_snap *ret, struct err *reterr)
{
    struct replica_snap s = {0};
    struct id128 ids[3];
    uint32_t cursor;
    enum rc rc = head_decode(bytes, FLAG_DONE, ids, reterr);

    if (rc != RC_OK) return rc;
    s.type = (enum replica_msg_type)bytes.p[1];
    cursor = le_get32(bytes.p + 4);
    if (s.type < REPLICA_SNAP_GET || s.type > REPLICA_SNAP_PAGE ||
        cursor > bytes.n - REPLICA_MSG_HEAD_BYTES)
        return err_set(reterr, RC_CORRUPT, "snapshot message: type %u, cursor of %u bytes",
                       bytes.p[1], cursor);
    s.done = (bytes.p[2] & FLAG_DONE) != 0;
    s.rc = bytes.p[3] == 0 ? RC_OK : rc_from_grpc(bytes.p[3]);
    s.from_disk = ids[0];
    s.from_boot = ids[1];
    s.to_disk = ids[2];
    s.config = le_get64(bytes.p + 56);
    s.epoch = le_get64(bytes.p + 64);
    s.id = le_get64(bytes.p + 72);
    s.index = le_get64(bytes.p + 80);
    s.cursor = (struct slice){bytes.p + REPLICA_MSG_HEAD_BYTES, cursor};
    s.rows = (struct slice){bytes.p + REPLICA_MSG_HEAD_BYTES + cursor,
                            bytes.n - REPLICA_MSG_HEAD_BYTES - cursor};
    *ret = s;
    return RC_OK;
}

bool replica_row_put(uint8_t *rows, uint32_t cap, uint32_t *n, struct slice key, struct slice value)
{
    uint8_t *p = rows + *n;

    if (key.n > UINT16_MAX || value.n > UINT32_MAX - 6u - key.n || 6u + key.n + value.n > cap - *n)
        return false;
    le_put16(p, (uint16_t)key.n);
    le_put32(p + 2, (uint32_t)value.n);
    if (key.n > 0) memcpy(p + 6, key.p, key.n);
    if (value.n > 0) memcpy(p + 6 + key.n, value.p, value.n);
    *n += (uint32_t)(6u + key.n + value.n);
    return true;
}

enum rc replica_row_next(struct slice rows, size_t *at, struct slice *ret_key,
                         struct slice *ret_value)
{
    size_t left = rows.n - *at, key_n, value_n;

    if (left == 0) return RC_NOTFOUND;
    if (left < 6) return RC_CORRUPT;
    key_n = le_get16(rows.p + *at);
    value_n = le_get32(rows.p + *at + 2);
    if (key_n + value_n > left - 6) return RC_CORRUPT;
    *ret_key = (struct slice){rows.p + *at + 6, key_n};
    *ret_value = (struct slice){rows.p + *at + 6 + key_n, value_n};
    *at += 6 + key_n + value_n;
    return RC_OK;
}

void replica_compare_encode(const struct replica_compare *m, uint8_t out[REPLICA_COMPARE_BYTES])
{
    const struct id128 ids[3] = {m->from_disk, m->from_boot, m->to_disk};
    const uint64_t words[7] = {m->config, m->epoch,    m->id,      m->index,
                               m->rows_n, m->lacked_n, m->mended_n};

    head_encode(out, m->type, 0, ids);
    out[3] = (uint8_t)rc_grpc(m->rc);
    for (uint32_t i = 0; i < 7; i++)
        le_put64(out + 56 + 8 * i, words[i]);
    memcpy(out + REPLICA_MSG_HEAD_BYTES, m->digest, REPLICA_DIGEST_BYTES);
}

enum rc replica_compare_decode(struct slice bytes, struct replica_compare *ret, struct err *reterr)
{
    struct replica_compare m = {0};
    uint64_t *words[7] = {&m.config, &m.epoch,    &m.id,      &m.index,
                          &m.rows_n, &m.lacked_n, &m.mended_n};
    struct id128 ids[3];
    enum rc rc = head_decode(bytes, 0, ids, reterr);

    if (rc != RC_OK) return rc;
    m.type = (enum replica_msg_type)bytes.p[1];
    if (m.type < REPLICA_COMPARE_GET || bytes.n != REPLICA_COMPARE_BYTES)
        return err_set(reterr, RC_CORRUPT, "comparison message: type %u, %zu bytes", bytes.p[1],
                       bytes.n);
    m.rc = bytes.p[3] == 0 ? RC_OK : rc_from_grpc(bytes.p[3]);
    m.from_disk = ids[0];
    m.from_boot = ids[1];
    m.to_disk = ids[2];
    for (uint32_t i = 0; i < 7; i++)
        *words[i] = le_get64(bytes.p + 56 + 8 * i);
    memcpy(m.digest, bytes.p + REPLICA_MSG_HEAD_BYTES, REPLICA_DIGEST_BYTES);
    *ret = m;
    return RC_OK;
}

static uint32_t like(const struct replica_compare *sums, uint32_t n, uint32_t i)
{
    uint32_t mask = 0;

    for (uint32_t k = 0; k < n; k++) {
        if (memcmp(sums[k].digest, sums[i].digest, REPLICA_DIGEST_BYTES) == 0) mask |= 1u << k;
    }
    return mask;
}

enum compare_verdict replica_compare_judge(const struct replica_compare *sums, uint32_t n,
                                           uint32_t min_in_sync, uint32_t *ret_odd)
{
    uint32_t all = (1u << n) - 1u;

    CHECK(n > 0 && n <= GROUP_MEMBERS_MAX);
    *ret_odd = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (sums[i].rc != RC_OK) return COMPARE_UNKNOWN;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t mask = like(sums, n, i), like_n = (uint32_t)__builtin_popcount(mask);

        if (mask == all) return COMPARE_EQUAL;
        if (2 * like_n <= n || like_n < min_in_sync) continue;
        *ret_odd = all & ~mask;
        return COMPARE_ODD;
    }
    return COMPARE_UNDECIDED;
}
