/* common/base/clock.h - time for shells; cores are told the time. */
#pragma once
#include "common/base/macros.h"

uint64_t clock_boot_us(void); /* CLOCK_BOOTTIME: goes on in suspend; for leases and deadlines */
uint64_t clock_boot_ms(void);
uint64_t clock_wall_ms(void); /* Unix time in ms, UTC; for people and records, never for order */
/* "2026-11-23T09:00:00.123Z" */
const char *clock_text(uint64_t wall_ms, char text[32]);
