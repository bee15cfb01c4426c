/* gateway/agent/pace_core.h - how many bytes may leave the site now: a timetable and a bucket.
 *
 * A timetable is text, rules divided by ';', the first that fits counts; nothing fits: no limit.
 *   "mon-fri 08:00-18:00 2MiB/s; sat,sun off; 22:00-06:00 50MB/s; unlimited"
 * Days: mon..sun, ranges and lists; a span past midnight belongs to the day it begins on. Rates:
 * a size and "/s", "off", "unlimited". Pure: told the local weekday and minute. */
#pragma once
#include "common/base/rc.h"

#define PACE_RULES_MAX 32u
#define PACE_NO_LIMIT  UINT64_MAX
#define PACE_BURST_MS  250u /* so much may go at once */

struct pace_rule {
    uint8_t days;                 /* bit 0: Monday */
    uint16_t from_min, until_min; /* of the day; until <= from: past midnight */
    uint64_t bytes_per_s;         /* 0: nothing */
};
struct pace_table {
    uint32_t n;
    struct pace_rule rule[PACE_RULES_MAX];
};
/* RC_INVAL says which rule. "" is no limit. */
MUST_CHECK enum rc pace_parse(const char *text, struct pace_table *ret, struct err *reterr);
/* weekday 0: Monday. */
uint64_t pace_rate(const struct pace_table *t, uint32_t weekday, uint32_t minute);

struct pace_bucket {
    int64_t bytes; /* may be sent; negative: owed */
    uint64_t at_ms;
};
/* May n bytes go? True: they are taken, the next ones may have to wait for them. False: ask again
 * in *ret_wait_ms; the rate may be another by then. */
bool pace_take(struct pace_bucket *b, uint64_t bytes_per_s, uint64_t now_ms, uint32_t n,
               uint64_t *ret_wait_ms);
