/* common/base/id128.c - see id128.h. */
#include "common/base/id128.h"
#include "common/base/hex.h"
#include <errno.h>
#include <sys/random.h>

void random_bytes(void *p, size_t n)
{
    uint8_t *at = p;

    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);

        if (got < 0 && errno == EINTR) continue;
        CHECK(got > 0);
        at += got;
        n -= (size_t)got;
    }
}

struct id128 id128_random(void)
{
    struct id128 id;

    random_bytes(id.b, sizeof(id.b));
    return id;
}

const char *id128_text(const struct id128 *id, char text[ID128_TEXT_BYTES])
{
    hex_encode(id->b, sizeof(id->b), text);
    return text;
}

bool id128_parse(const char *text, struct id128 *ret_id)
{
    struct id128 id;

    if (strlen(text) != 32 || !hex_decode(text, 32, id.b)) return false;
    *ret_id = id;
    return true;
}

bool id128_from_bytes(const void *p, size_t n, struct id128 *ret_id)
{
    if (n != 16) return false;
    memcpy(ret_id->b, p, 16);
    return true;
}
