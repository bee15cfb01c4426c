/* common/base/metrics.h - counters, gauges and histograms, printed in Prometheus' text format.
 *
 * A metric is a static struct, registered at its first use; adding is one relaxed atomic add, so
 * any thread may. Labels are part of the name's text: one struct per label value. */
#pragma once
#include "common/base/buf.h"
#include <stdatomic.h>

enum metric_type { METRIC_COUNTER, METRIC_GAUGE };
struct metric {
    const char *name;   /* "mikura_chunk_reads_total", unit last */
    const char *labels; /* "disk=\"0\"" or NULL */
    const char *help;
    enum metric_type type;
    _Atomic int64_t value;
    _Atomic bool registered;
    struct metric *next;
};
#define METRIC_COUNTER_INIT(n, l, h)                                                               \
    {                                                                                              \
        .name = (n), .labels = (l), .help = (h), .type = METRIC_COUNTER                            \
    }
#define METRIC_GAUGE_INIT(n, l, h)                                                                 \
    {                                                                                              \
        .name = (n), .labels = (l), .help = (h), .type = METRIC_GAUGE                              \
    }

void metric_register(struct metric *m); /* idempotent; done by metric_add */
void metric_add(struct metric *m, int64_t v);
void metric_set(struct metric *m, int64_t v);
int64_t metric_get(const struct metric *m);
/* Appends all registered metrics, grouped by name. */
void metrics_print(struct buf *out);

/* Latency histogram: log2 buckets in microseconds, 1 us .. 2^27 us (134 s). */
#define HIST_BUCKETS 28
struct hist {
    const char *name; /* "..._seconds" */
    const char *labels;
    const char *help;
    _Atomic uint64_t count[HIST_BUCKETS];
    _Atomic uint64_t sum_us;
    _Atomic bool registered;
    struct hist *next;
};
#define HIST_INIT(n, l, h)                                                                         \
    {                                                                                              \
        .name = (n), .labels = (l), .help = (h)                                                    \
    }
void hist_add_us(struct hist *h, uint64_t us);
