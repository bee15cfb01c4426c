/* common/base/strutil.c - see strutil.h. */
#include "common/base/strutil.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool leading_u64(const char *s, const char **ret_end, uint64_t *ret_v)
{
    char *end;
    unsigned long long v;

    if (*s < '0' || *s > '9') return false; /* strtoull takes blanks and signs */
    errno = 0;
    v = strtoull(s, &end, 10);
    if (errno != 0) return false;
    *ret_end = end;
    *ret_v = v;
    return true;
}

bool str_to_u64(const char *s, uint64_t max, uint64_t *ret_v)
{
    const char *end;
    uint64_t v;

    if (!leading_u64(s, &end, &v) || *end != 0 || v > max) return false;
    *ret_v = v;
    return true;
}

static bool scaled(const char *s, const char *const *units, const uint64_t *factors, size_t units_n,
                   uint64_t *ret_v)
{
    const char *end;
    uint64_t v;

    if (!leading_u64(s, &end, &v)) return false;
    for (size_t i = 0; i < units_n; i++) {
        if (strcmp(end, units[i]) != 0) continue;
        return !__builtin_mul_overflow(v, factors[i], ret_v);
    }
    return false;
}

bool str_to_bytes(const char *s, uint64_t *ret_bytes)
{
    static const char *const units[] = {"",  "B",   "KiB", "K",  "MiB", "M", "GiB",
                                        "G", "TiB", "KB",  "MB", "GB",  "TB"};
    static const uint64_t factors[] = {1,       1,          1 << 10,         1 << 10,    1 << 20,
                                       1 << 20, 1 << 30,    1 << 30,         1ull << 40, 1000,
                                       1000000, 1000000000, 1000000000000ull};

    return scaled(s, units, factors, ARRAY_N(units), ret_bytes);
}

bool str_to_ms(const char *s, uint64_t *ret_ms)
{
    static const char *const units[] = {"ms", "s", "m", "h", "d"};
    static const uint64_t factors[] = {1, 1000, 60000, 3600000, 86400000};

    return scaled(s, units, factors, ARRAY_N(units), ret_ms);
}

const char *str_from_bytes(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)bytes;
    size_t u = 0;

    while (v >= 1024 && u + 1 < ARRAY_N(units)) {
        v /= 1024;
        u++;
    }
    if (u == 0) {
        (void)snprintf(text, 32, "%" PRIu64 " B", bytes);
    } else {
        (void)snprintf(text, 32, "%.1f %s", v, units[u]);
    }
    return text;
}

bool str_has_prefix(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}
