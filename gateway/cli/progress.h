/* gateway/cli/progress.h - a line with rate and expected end, on a terminal only. */
#pragma once
#include "common/base/macros.h"
#include <stdio.h>

struct progress {
    FILE *f; /* NULL: nothing is shown */
    const char *what;
    uint64_t total, done, items_total, items_done; /* total bytes 0: items alone count */
    uint64_t start_ms, shown_ms;
    /* the rate of the last seconds, not of the whole: a break shows at once */
    uint64_t window_ms, window_done;
    double rate; /* units a second */
};
/* Shows nothing where f is no terminal or quiet is set. */
void progress_init(struct progress *p, FILE *f, const char *what, bool quiet);
/* Numbers are set in the struct; draws at most ten times a second. */
void progress_show(struct progress *p, uint64_t now_ms);
void progress_end(struct progress *p); /* clears the line */
/* The line's text for a terminal of `columns`; for tests. */
void progress_text(const struct progress *p, uint64_t now_ms, int64_t wall_s, unsigned columns,
                   char *text, size_t text_n);
