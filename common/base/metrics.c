/* common/base/metrics.c - see metrics.h. */
#include "common/base/metrics.h"
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric *metrics; /* sorted by name, so that equal names print together */
static struct hist *hists;

void metric_register(struct metric *m)
{
    if (atomic_load_explicit(&m->registered, memory_order_acquire)) return;
    (void)pthread_mutex_lock(&lock);
    if (!atomic_load(&m->registered)) {
        struct metric **at = &metrics;

        while (*at != NULL && strcmp((*at)->name, m->name) <= 0)
            at = &(*at)->next;
        m->next = *at;
        *at = m;
        atomic_store_explicit(&m->registered, true, memory_order_release);
    }
    (void)pthread_mutex_unlock(&lock);
}

void metric_add(struct metric *m, int64_t v)
{
    metric_register(m);
    atomic_fetch_add_explicit(&m->value, v, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t v)
{
    metric_register(m);
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

int64_t metric_get(const struct metric *m)
{
    return atomic_load_explicit(&m->value, memory_order_relaxed);
}

static void print_head(struct buf *out, const char *name, const char *help, const char *type,
                       const char **last)
{
    if (*last != NULL && strcmp(*last, name) == 0) return;
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    *last = name;
}

void hist_add_us(struct hist *h, uint64_t us)
{
    unsigned b = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);

    if (!atomic_load_explicit(&h->registered, memory_order_acquire)) {
        (void)pthread_mutex_lock(&lock);
        if (!atomic_load(&h->registered)) {
            struct hist **at = &hists;

            while (*at != NULL && strcmp((*at)->name, h->name) <= 0)
                at = &(*at)->next;
            h->next = *at;
            *at = h;
            atomic_store_explicit(&h->registered, true, memory_order_release);
        }
        (void)pthread_mutex_unlock(&lock);
    }
    atomic_fetch_add_explicit(&h->count[MIN(b, HIST_BUCKETS - 1)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

static void print_hist(struct buf *out, struct hist *h)
{
    const char *l = h->labels == NULL ? "" : h->labels, *comma = h->labels == NULL ? "" : ",";
    uint64_t total = 0;

    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        total += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", h->name, l, comma,
                   (double)(1ull << i) / 1e6, total);
    }
    buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", h->name, l, comma, total);
    buf_printf(out, "%s_sum%s%s%s %g\n", h->name, *l ? "{" : "", l, *l ? "}" : "",
               (double)atomic_load(&h->sum_us) / 1e6);
    buf_printf(out, "%s_count%s%s%s %" PRIu64 "\n", h->name, *l ? "{" : "", l, *l ? "}" : "",
               total);
}

void metrics_print(struct buf *out)
{
    const char *last = NULL;

    (void)pthread_mutex_lock(&lock);
    for (struct metric *m = metrics; m != NULL; m = m->next) {
        print_head(out, m->name, m->help, m->type == METRIC_COUNTER ? "counter" : "gauge", &last);
        if (m->labels != NULL) {
            buf_printf(out, "%s{%s} %" PRId64 "\n", m->name, m->labels, metric_get(m));
        } else {
            buf_printf(out, "%s %" PRId64 "\n", m->name, metric_get(m));
        }
    }
    last = NULL;
    for (struct hist *h = hists; h != NULL; h = h->next) {
        print_head(out, h->name, h->help, "histogram", &last);
        print_hist(out, h);
    }
    (void)pthread_mutex_unlock(&lock);
}
