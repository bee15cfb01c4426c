/* common/placement/group_config.c - invariant: what decode returns, encode gives back byte for
 * byte, so that two replicas that compare records compare meanings. */
#include "common/placement/group_config.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"

#define HEAD_BYTES 56u /* format, 3 counts, 4 zero, config, epoch, primary, primary_boot */

bool group_set_has(const struct group_set *s, const struct id128 *disk)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (id128_eq(&s->disks[i], disk)) return true;
    }
    return false;
}

void group_set_add(struct group_set *s, const struct id128 *disk)
{
    if (s->n < GROUP_MEMBERS_MAX && !group_set_has(s, disk)) s->disks[s->n++] = *disk;
}

void group_set_remove(struct group_set *s, const struct id128 *disk)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        if (!id128_eq(&s->disks[i], disk)) s->disks[kept++] = s->disks[i];
    }
    s->n = kept;
}

bool group_set_eq(const struct group_set *a, const struct group_set *b)
{
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++) {
        if (!id128_eq(&a->disks[i], &b->disks[i])) return false;
    }
    return true;
}

bool group_config_eq(const struct group_config *a, const struct group_config *b)
{
    return a->config == b->config && a->epoch == b->epoch && id128_eq(&a->primary, &b->primary) &&
           id128_eq(&a->primary_boot, &b->primary_boot) && group_set_eq(&a->in_sync, &b->in_sync) &&
           group_set_eq(&a->learners, &b->learners) &&
           group_set_eq(&a->last_serving, &b->last_serving);
}

void group_config_first(const struct group_set *desired, struct group_config *ret)
{
    CHECK(desired->n >= 1 && desired->n <= GROUP_MEMBERS_MAX);
    *ret = (struct group_config){
        .config = 1,
        .epoch = 1,
        .primary = desired->disks[0],
        .in_sync = *desired,
        .last_serving = *desired,
    };
}

static bool set_ok(const struct group_set *s)
{
    if (s->n > GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < s->n; i++) {
        if (id128_is_zero(&s->disks[i])) return false;
        for (uint32_t j = 0; j < i; j++) {
            if (id128_eq(&s->disks[i], &s->disks[j])) return false;
        }
    }
    return true;
}

enum rc group_config_check(const struct group_config *c, struct err *reterr)
{
    if (c->config == 0 || c->epoch == 0)
        return err_set(reterr, RC_INVAL, "config and epoch count from 1");
    if (!set_ok(&c->in_sync) || !set_ok(&c->learners) || !set_ok(&c->last_serving))
        return err_set(reterr, RC_INVAL, "a member twice, a zero disk id or more than %u members",
                       GROUP_MEMBERS_MAX);
    if (!group_set_has(&c->in_sync, &c->primary))
        return err_set(reterr, RC_INVAL, "the primary is not in sync");
    if (c->last_serving.n == 0) return err_set(reterr, RC_INVAL, "last_serving is empty");
    for (uint32_t i = 0; i < c->learners.n; i++) {
        if (group_set_has(&c->in_sync, &c->learners.disks[i]))
            return err_set(reterr, RC_INVAL, "a learner is in sync");
    }
    return RC_OK;
}

static uint8_t *set_encode(uint8_t *p, const struct group_set *s)
{
    for (uint32_t i = 0; i < s->n; i++, p += 16)
        memcpy(p, s->disks[i].b, 16);
    return p;
}

static const uint8_t *set_decode(const uint8_t *p, uint32_t n, struct group_set *s)
{
    s->n = n;
    for (uint32_t i = 0; i < n; i++, p += 16)
        memcpy(s->disks[i].b, p, 16);
    return p;
}

uint32_t group_config_encode(const struct group_config *c, uint8_t out[GROUP_CONFIG_BYTES_MAX])
{
    uint8_t *p = out + HEAD_BYTES;

    CHECK(group_config_check(c, NULL) == RC_OK);
    memset(out, 0, HEAD_BYTES);
    out[0] = GROUP_CONFIG_FORMAT;
    out[1] = (uint8_t)c->in_sync.n;
    out[2] = (uint8_t)c->learners.n;
    out[3] = (uint8_t)c->last_serving.n;
    le_put64(out + 8, c->config);
    le_put64(out + 16, c->epoch);
    memcpy(out + 24, c->primary.b, 16);
    memcpy(out + 40, c->primary_boot.b, 16);
    p = set_encode(p, &c->in_sync);
    p = set_encode(p, &c->learners);
    p = set_encode(p, &c->last_serving);
    le_put32(p, crc32c(0, out, (size_t)(p - out)));
    return (uint32_t)(p - out) + 4;
}

enum rc group_config_decode(struct slice bytes, struct group_config *ret, struct err *reterr)
{
    struct group_config c = {0};
    const uint8_t *b = bytes.p, *p;
    size_t want;

    if (bytes.n < HEAD_BYTES + 4)
        return err_set(reterr, RC_CORRUPT, "group record of %zu bytes", bytes.n);
    if (b[0] != GROUP_CONFIG_FORMAT)
        return err_set(reterr, RC_UNIMPL, "group record of format %u, known is %u", b[0],
                       GROUP_CONFIG_FORMAT);
    want = HEAD_BYTES + 16u * ((size_t)b[1] + b[2] + b[3]) + 4;
    if (b[1] > GROUP_MEMBERS_MAX || b[2] > GROUP_MEMBERS_MAX || b[3] > GROUP_MEMBERS_MAX ||
        le_get32(b + 4) != 0 || bytes.n != want)
        return err_set(reterr, RC_CORRUPT, "group record: counts and length do not agree");
    if (le_get32(b + want - 4) != crc32c(0, b, want - 4))
        return err_set(reterr, RC_CORRUPT, "group record: checksum");
    c.config = le_get64(b + 8);
    c.epoch = le_get64(b + 16);
    memcpy(c.primary.b, b + 24, 16);
    memcpy(c.primary_boot.b, b + 40, 16);
    p = set_decode(b + HEAD_BYTES, b[1], &c.in_sync);
    p = set_decode(p, b[2], &c.learners);
    (void)set_decode(p, b[3], &c.last_serving);
    if (group_config_check(&c, reterr) != RC_OK) {
        (void)err_prefix(reterr, "group record");
        return RC_CORRUPT;
    }
    *ret = c;
    return RC_OK;
}

uint32_t group_wish_encode(const struct group_set *desired, uint8_t out[GROUP_WISH_BYTES_MAX])
{
    uint8_t *p;

    CHECK(set_ok(desired) && desired->n > 0);
    memset(out, 0, 4);
    out[0] = GROUP_CONFIG_FORMAT;
    out[1] = (uint8_t)desired->n;
    p = set_encode(out + 4, desired);
    le_put32(p, crc32c(0, out, (size_t)(p - out)));
    return (uint32_t)(p - out) + 4;
}

enum rc group_wish_decode(struct slice bytes, struct group_set *ret, struct err *reterr)
{
    struct group_set s = {0};
    const uint8_t *b = bytes.p;

    if (bytes.n < 4) return err_set(reterr, RC_CORRUPT, "desired: %zu bytes", bytes.n);
    if (b[0] != GROUP_CONFIG_FORMAT)
        return err_set(reterr, RC_UNIMPL, "desired of format %u, known is %u", b[0],
                       GROUP_CONFIG_FORMAT);
    if (b[1] == 0 || b[1] > GROUP_MEMBERS_MAX || b[2] != 0 || b[3] != 0 ||
        bytes.n != 8u + 16u * b[1] || le_get32(b + bytes.n - 4) != crc32c(0, b, bytes.n - 4))
        return err_set(reterr, RC_CORRUPT, "desired: length or checksum");
    (void)set_decode(b + 4, b[1], &s);
    if (!set_ok(&s)) return err_set(reterr, RC_CORRUPT, "desired: a member twice or a zero id");
    *ret = s;
    return RC_OK;
}
