/* common/base/check.c - failed CHECKs and the ring of trace lines they print. */
#include "common/base/macros.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_LINES      1024
#define TRACE_LINE_BYTES 160

static char trace_ring[TRACE_LINES][TRACE_LINE_BYTES];
static unsigned trace_next;
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

void trace_note(const char *fmt, ...)
{
    va_list ap;

    (void)pthread_mutex_lock(&trace_lock);
    va_start(ap, fmt);
    (void)vsnprintf(trace_ring[trace_next % TRACE_LINES], TRACE_LINE_BYTES, fmt, ap);
    va_end(ap);
    trace_next++;
    (void)pthread_mutex_unlock(&trace_lock);
}

void check_failed(const char *expr, const char *file, int line, const char *func)
{
    unsigned first = trace_next > TRACE_LINES ? trace_next - TRACE_LINES : 0;

    for (unsigned i = first; i < trace_next; i++) {
        (void)fprintf(stderr, "trace %s\n", trace_ring[i % TRACE_LINES]);
    }
    (void)fprintf(stderr, "CHECK failed: %s at %s:%d in %s\n", expr, file, line, func);
    abort();
}
