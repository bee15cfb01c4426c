/* gateway/cli/progress.c - see progress.h. */
#include "gateway/cli/progress.h"
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DRAW_MS   100u
#define WINDOW_MS 2000u
#define BAR       20u

void progress_init(struct progress *p, FILE *f, const char *what, bool quiet)
{
    *p = (struct progress){.what = what, .start_ms = clock_boot_ms()};
    p->window_ms = p->start_ms;
    if (!quiet && isatty(fileno(f)) == 1) p->f = f;
}

static uint64_t now_of(const struct progress *p)
{
    return p->total > 0 ? p->done : p->items_done;
}

static void rate_step(struct progress *p, uint64_t now_ms)
{
    uint64_t done = now_of(p), span = now_ms - p->window_ms;
    double r;

    if (span < WINDOW_MS && p->rate > 0) return;
    if (span < 200) return;
    r = done > p->window_done ? (double)(done - p->window_done) * 1000.0 / (double)span : 0;
    p->rate = p->rate > 0 ? 0.5 * p->rate + 0.5 * r : r;
    if (span >= WINDOW_MS) {
        p->window_ms = now_ms;
        p->window_done = done;
    }
}

void progress_text(const struct progress *p, uint64_t now_ms, int64_t wall_s, unsigned columns,
                   char *text, size_t text_n)
{
    uint64_t total = p->total > 0 ? p->total : p->items_total, done = MIN(now_of(p), total), left_s;
    unsigned percent = total == 0 ? 0 : (unsigned)((double)done * 100.0 / (double)total), filled;
    char bar[BAR + 1], a[32], b[32], c[32], size[80] = "", rate[48] = "", end[64] = "";

    filled = percent * BAR / 100;
    memset(bar, '#', filled);
    memset(bar + filled, '.', BAR - filled);
    bar[BAR] = 0;
    if (p->total > 0) {
        (void)snprintf(size, sizeof size, "  %s of %s", str_from_bytes(done, a),
                       str_from_bytes(total, b));
        if (p->rate > 0)
            (void)snprintf(rate, sizeof rate, "  %s/s", str_from_bytes((uint64_t)p->rate, c));
    } else if (p->rate > 0) {
        (void)snprintf(rate, sizeof rate, "  %.1f/s", p->rate);
    }
    if (p->rate > 0 && done < total) {
        time_t at;
        struct tm tm;

        left_s = (uint64_t)((double)(total - done) / p->rate) + 1;
        at = (time_t)(wall_s + (int64_t)left_s);
        if (left_s < 400000 && localtime_r(&at, &tm) != NULL) {
            (void)snprintf(end, sizeof end, "  ends %02d:%02d:%02d (%llu:%02llu left)", tm.tm_hour,
                           tm.tm_min, tm.tm_sec, (unsigned long long)(left_s / 60),
                           (unsigned long long)(left_s % 60));
        }
    }
    (void)now_ms;
    (void)snprintf(text, text_n, "%s [%s] %3u%%  %llu/%llu%s%s%s", p->what, bar, percent,
                   (unsigned long long)p->items_done, (unsigned long long)p->items_total, size,
                   rate, end);
    if (columns > 0 && strlen(text) >= columns) text[MIN(text_n, columns) - 1] = 0;
}

void progress_show(struct progress *p, uint64_t now_ms)
{
    struct winsize ws;
    char text[400];

    if (p->f == NULL || (p->shown_ms != 0 && now_ms - p->shown_ms < DRAW_MS)) return;
    rate_step(p, now_ms);
    p->shown_ms = now_ms;
    if (ioctl(fileno(p->f), TIOCGWINSZ, &ws) != 0) ws.ws_col = 80;
    progress_text(p, now_ms, (int64_t)(clock_wall_ms() / 1000), ws.ws_col, text, sizeof text);
    (void)fprintf(p->f, "\r\033[K%s", text);
    (void)fflush(p->f);
}

void progress_end(struct progress *p)
{
    if (p->f == NULL || p->shown_ms == 0) return;
    (void)fputs("\r\033[K", p->f);
    (void)fflush(p->f);
    p->f = NULL;
}
