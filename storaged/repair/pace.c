/* storaged/repair/pace.c - waits in steps of at most a second, so that a stop is seen. */
#include "storaged/repair/pace.h"
#include "common/base/clock.h"
#include "common/fiber/fiber.h"

#define STEP_MS 1000u

void pace_take(struct pace *p, uint64_t bytes)
{
    uint64_t now;

    for (uint32_t i = 0; i < PACE_YIELDS && !*p->stop && seglog_busy(store_log(p->store)); i++) {
        p->yields_n++;
        fiber_sleep_ms(PACE_YIELD_MS);
    }
    if (p->bytes_per_s == 0) return;
    now = clock_boot_us();
    if (p->due_us < now) p->due_us = now; /* what was not used is not saved up */
    while (!*p->stop && p->due_us > now) {
        fiber_sleep_ms(MIN((p->due_us - now) / 1000 + 1, STEP_MS));
        now = clock_boot_us();
    }
    p->due_us += bytes * 1000000 / p->bytes_per_s;
}
