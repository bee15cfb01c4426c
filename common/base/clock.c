/* common/base/clock.c - see clock.h. */
#include "common/base/clock.h"
#include <stdio.h>
#include <time.h>

static uint64_t read_us(clockid_t id)
{
    struct timespec ts;

    CHECK(clock_gettime(id, &ts) == 0);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t clock_boot_us(void)
{
    return read_us(CLOCK_BOOTTIME);
}

uint64_t clock_boot_ms(void)
{
    return clock_boot_us() / 1000;
}

uint64_t clock_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

const char *clock_text(uint64_t wall_ms, char text[32])
{
    time_t s = (time_t)(wall_ms / 1000);
    struct tm tm;
    size_t n;

    (void)gmtime_r(&s, &tm);
    n = strftime(text, 24, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text + n, 32 - n, ".%03uZ", (unsigned)(wall_ms % 1000));
    return text;
}
