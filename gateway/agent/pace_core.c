/* gateway/agent/pace_core.c - see pace_core.h. */
#include "gateway/agent/pace_core.h"
#include <string.h>

#define DAY_MIN 1440u
#define WAIT_MS 1000u /* at most, so that a change of the timetable is seen */

static const char DAYS[7][4] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

struct text {
    const char *p, *end;
};

static bool word_is(struct text w, const char *s)
{
    return (size_t)(w.end - w.p) == strlen(s) && memcmp(w.p, s, strlen(s)) == 0;
}

static bool number(struct text *w, uint64_t max, uint64_t *ret)
{
    const char *from = w->p;
    uint64_t v = 0;

    while (w->p < w->end && *w->p >= '0' && *w->p <= '9') {
        v = v * 10 + (uint64_t)(*w->p++ - '0');
        if (v > max) return false;
    }
    *ret = v;
    return w->p > from;
}

static bool day_take(struct text *w, uint32_t *ret)
{
    for (uint32_t i = 0; i < 7; i++) {
        if (w->end - w->p < 3 || memcmp(w->p, DAYS[i], 3) != 0) continue;
        w->p += 3;
        *ret = i;
        return true;
    }
    return false;
}

static bool days_parse(struct text w, uint8_t *ret)
{
    uint8_t days = 0;
    uint32_t from, to;

    for (;;) {
        if (!day_take(&w, &from)) return false;
        to = from;
        if (w.p < w.end && *w.p == '-') {
            w.p++;
            if (!day_take(&w, &to)) return false;
        }
        for (uint32_t d = from;; d = (d + 1) % 7) {
            days = (uint8_t)(days | 1u << d);
            if (d == to) break;
        }
        if (w.p == w.end) break;
        if (*w.p++ != ',') return false;
    }
    *ret = days;
    return true;
}

static bool clock_take(struct text *w, uint16_t *ret)
{
    uint64_t h, m;

    if (!number(w, 24, &h) || w->p == w->end || *w->p++ != ':' || !number(w, 59, &m) ||
        h * 60 + m > DAY_MIN)
        return false;
    *ret = (uint16_t)(h * 60 + m);
    return true;
}

static bool span_parse(struct text w, struct pace_rule *r)
{
    if (!clock_take(&w, &r->from_min) || w.p == w.end || *w.p++ != '-') return false;
    return clock_take(&w, &r->until_min) && w.p == w.end && r->from_min != r->until_min;
}

static bool rate_parse(struct text w, uint64_t *ret)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } UNITS[] = {{"KiB/s", 1u << 10}, {"MiB/s", 1u << 20}, {"GiB/s", 1u << 30},  {"KB/s", 1000},
                 {"kB/s", 1000},      {"MB/s", 1000000},   {"GB/s", 1000000000}, {"B/s", 1}};
    uint64_t v;

    if (word_is(w, "off")) {
        *ret = 0;
        return true;
    }
    if (word_is(w, "unlimited")) {
        *ret = PACE_NO_LIMIT;
        return true;
    }
    if (!number(&w, 1000000000u, &v) || v == 0) return false;
    for (size_t i = 0; i < ARRAY_N(UNITS); i++) {
        if (!word_is(w, UNITS[i].unit)) continue;
        *ret = v * UNITS[i].bytes;
        return true;
    }
    return false;
}

static bool rule_parse(struct text r, struct pace_rule *ret)
{
    bool days = false, span = false, rate = false;

    *ret = (struct pace_rule){.days = 0x7f, .until_min = DAY_MIN};
    while (r.p < r.end) {
        struct text w = r;

        while (w.end > w.p && memchr(w.p, ' ', (size_t)(w.end - w.p)) != NULL)
            w.end = memchr(w.p, ' ', (size_t)(w.end - w.p));
        r.p = w.end;
        while (r.p < r.end && *r.p == ' ')
            r.p++;
        if (rate) return false; /* it stands last */
        if (!days && !span && days_parse(w, &ret->days)) {
            days = true;
        } else if (!span && span_parse(w, ret)) {
            span = true;
        } else if (rate_parse(w, &ret->bytes_per_s)) {
            rate = true;
        } else {
            return false;
        }
    }
    return rate;
}

enum rc pace_parse(const char *text, struct pace_table *ret, struct err *reterr)
{
    struct pace_table t = {0};

    for (const char *p = text; *p != 0;) {
        const char *end = p + strcspn(p, ";");
        struct text r = {p, end};

        while (r.p < r.end && *r.p == ' ')
            r.p++;
        while (r.end > r.p && r.end[-1] == ' ')
            r.end--;
        p = *end == 0 ? end : end + 1;
        if (r.p == r.end) continue;
        if (t.n == PACE_RULES_MAX)
            return err_set(reterr, RC_INVAL, "more than %u bandwidth rules", PACE_RULES_MAX);
        if (!rule_parse(r, &t.rule[t.n])) {
            return err_set(reterr, RC_INVAL,
                           "bandwidth rule '%.*s': expected [DAYS] [HH:MM-HH:MM] RATE, as in "
                           "'mon-fri 08:00-18:00 2MiB/s', 'off' or 'unlimited'",
                           (int)MIN(r.end - r.p, 80), r.p);
        }
        t.n++;
    }
    *ret = t;
    return RC_OK;
}

static bool on_day(const struct pace_rule *r, uint32_t weekday)
{
    return ((unsigned)r->days >> weekday & 1u) != 0;
}

uint64_t pace_rate(const struct pace_table *t, uint32_t weekday, uint32_t minute)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct pace_rule *r = &t->rule[i];

        if (r->until_min > r->from_min) {
            if (on_day(r, weekday) && minute >= r->from_min && minute < r->until_min)
                return r->bytes_per_s;
        } else if ((on_day(r, weekday) && minute >= r->from_min) ||
                   (on_day(r, (weekday + 6) % 7) && minute < r->until_min)) {
            return r->bytes_per_s;
        }
    }
    return PACE_NO_LIMIT;
}

bool pace_take(struct pace_bucket *b, uint64_t bytes_per_s, uint64_t now_ms, uint32_t n,
               uint64_t *ret_wait_ms)
{
    uint64_t gone_ms = now_ms > b->at_ms ? MIN(now_ms - b->at_ms, 60000u) : 0;
    int64_t most;

    b->at_ms = now_ms;
    if (bytes_per_s == PACE_NO_LIMIT) {
        b->bytes = 0;
        return true;
    }
    /* a rate of gigabytes a second times a minute stays below 2^63 */
    bytes_per_s = MIN(bytes_per_s, 1ull << 40);
    most = (int64_t)(bytes_per_s * PACE_BURST_MS / 1000) + 1;
    b->bytes = MIN(b->bytes + (int64_t)(bytes_per_s * gone_ms / 1000), most);
    if (bytes_per_s > 0 && b->bytes > 0) {
        b->bytes -= n;
        return true;
    }
    *ret_wait_ms = WAIT_MS;
    if (bytes_per_s > 0)
        *ret_wait_ms = MIN((uint64_t)(1 - b->bytes) * 1000 / bytes_per_s + 1, (uint64_t)WAIT_MS);
    return false;
}
