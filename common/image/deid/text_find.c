/* common/image/deid/text_find.c - see text_find.h.
 *
 * At each scale (1, 1/2, 1/4) and for light and dark letters: a white top-hat (the picture less its
 * opening by a box of BOX pixels) keeps only what is thinner than BOX, whatever lies behind it;
 * above a threshold its connected components are letters when their boxes are; letters of one size
 * on one line make a candidate. Three thresholds: a faint line drowns at the high one, a line on
 * noise at the low one. Letters of many parts (kanji) and outlined ones are smeared together first:
 * a bar of a line's form is a candidate too.
 *
 * Bounds: every pass is linear in the pixels but the pairing of letters, which looks at neighbours
 * within a letter's reach of at most GLYPHS_MAX letters. */
#include "common/image/deid/text_find.h"
#include <stdlib.h>
#include <string.h>

enum {
    BOX = 7, /* strokes up to 6 pixels; thicker ones are found at the next scale */
    RADIUS = BOX / 2,
    SCALES = 3,
    SIDE_MIN = 24,
    COMPONENTS_MAX = 32768,
    GLYPHS_MAX = 6000, /* noise has more: then there is no line to see at this threshold */
    GLYPH_HEIGHT_MIN = 7,
    GLYPH_HEIGHT_MAX = 28,
    LETTERS_MIN = 3,
    CROP_LETTER_HEIGHT = 32,
    CROP_WIDTH_MAX = 1200
};
static const uint8_t THRESHOLDS[] = {20, 48, 112}, SMEARED[] = {32, 80};

struct component {
    uint32_t parent; /* its own index: a root */
    uint32_t x0, y0, x1, y1, n;
};
struct span {
    uint32_t x0, x1, idx;
};
struct run { /* a line in the making */
    uint32_t letters, glyphs, x0, y0, x1, y1, heights, aligned;
    bool bar; /* one component, smeared together */
};
struct finder {
    uint32_t w, h; /* of this scale */
    bool dark;     /* grey is inverted: dark letters are searched */
    uint8_t *grey, *hat, *bars, *tmp;
    uint32_t comp_n, comp_max;
    struct component *comp; /* comp_max; after gathering the first glyph_n are letters */
    struct span *above, *here;
    struct text_lines *lines;
    struct run run[TEXT_LINES_MAX]; /* of lines->line; a crop is made when this scale is done */
};

static void min_row(const uint8_t *restrict in, uint8_t *restrict out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t v = in[i];

        for (uint32_t k = 1; k < BOX; k++)
            v = MIN(v, in[i + k]);
        out[i] = v;
    }
}

static void max_row(const uint8_t *restrict in, uint8_t *restrict out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t v = in[i];

        for (uint32_t k = 1; k < BOX; k++)
            v = MAX(v, in[i + k]);
        out[i] = v;
    }
}

static void min_into(uint8_t *restrict to, const uint8_t *restrict in, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = MIN(to[i], in[i]);
}

static void max_into(uint8_t *restrict to, const uint8_t *restrict in, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = MAX(to[i], in[i]);
}

/* Least (erosion) or greatest over a box, from in to out; edges are repeated outwards. */
static void box_filter(struct finder *f, const uint8_t *in, uint8_t *out, bool least)
{
    const uint32_t w = f->w, h = f->h;
    uint8_t *padded = f->tmp + (size_t)w * h; /* one row and its edges */

    for (uint32_t y = 0; y < h; y++) {
        const uint8_t *row = in + (size_t)y * w;

        memset(padded, row[0], RADIUS);
        memcpy(padded + RADIUS, row, w);
        memset(padded + RADIUS + w, row[w - 1], RADIUS);
        (least ? min_row : max_row)(padded, f->tmp + (size_t)y * w, w);
    }
    for (uint32_t y = 0; y < h; y++) {
        uint32_t from = y < RADIUS ? 0 : y - RADIUS, to = MIN(y + RADIUS, h - 1);
        uint8_t *row = out + (size_t)y * w;

        memcpy(row, f->tmp + (size_t)from * w, w);
        for (uint32_t k = from + 1; k <= to; k++)
            (least ? min_into : max_into)(row, f->tmp + (size_t)k * w, w);
    }
}

static void top_hat(struct finder *f)
{
    size_t n = (size_t)f->w * f->h;

    box_filter(f, f->grey, f->hat, true);
    box_filter(f, f->hat, f->hat, false);
    for (size_t i = 0; i < n; i++)
        f->hat[i] = (uint8_t)(f->grey[i] - f->hat[i]); /* an opening is never above */
}

/* ---- components ---- */

static uint32_t root_of(struct component *c, uint32_t i)
{
    while (c[i].parent != i) {
        c[i].parent = c[c[i].parent].parent;
        i = c[i].parent;
    }
    return i;
}

static uint32_t join(struct component *c, uint32_t a, uint32_t b)
{
    a = root_of(c, a);
    b = root_of(c, b);
    if (a == b) return a;
    c[b].parent = a;
    c[a].x0 = MIN(c[a].x0, c[b].x0);
    c[a].y0 = MIN(c[a].y0, c[b].y0);
    c[a].x1 = MAX(c[a].x1, c[b].x1);
    c[a].y1 = MAX(c[a].y1, c[b].y1);
    c[a].n += c[b].n;
    return a;
}

/* The components of what is >= threshold, corners touching. False: too many, it is noise. */
static bool components(struct finder *f, const uint8_t *of, uint8_t threshold)
{
    uint32_t above_n = 0;

    f->comp_n = 0;
    for (uint32_t y = 0; y < f->h; y++) {
        const uint8_t *row = of + (size_t)y * f->w;
        uint32_t here_n = 0, a = 0;
        struct span *swap;

        for (uint32_t x = 0; x < f->w;) {
            struct span s;

            if (row[x] < threshold) {
                x++;
                continue;
            }
            s.x0 = x;
            while (x < f->w && row[x] >= threshold)
                x++;
            s.x1 = x; /* behind its end */
            if (f->comp_n == f->comp_max) return false;
            s.idx = f->comp_n++;
            f->comp[s.idx] = (struct component){s.idx, s.x0, y, s.x1, y + 1, s.x1 - s.x0};
            while (a < above_n && f->above[a].x1 < s.x0)
                a++;
            for (uint32_t k = a; k < above_n && f->above[k].x0 <= s.x1; k++)
                s.idx = join(f->comp, f->above[k].idx, s.idx);
            f->here[here_n++] = s;
        }
        swap = f->above;
        f->above = f->here;
        f->here = swap;
        above_n = here_n;
    }
    return true;
}

static bool is_glyph(const struct component *c)
{
    uint32_t w = c->x1 - c->x0, h = c->y1 - c->y0;

    if (h < GLYPH_HEIGHT_MIN || h > GLYPH_HEIGHT_MAX || w > 8 * h) return false;
    if (c->n < h) return false;                            /* no stroke over its height */
    return 100u * c->n >= (w > 2 * h ? 22u : 14u) * w * h; /* a thin curve in a large box */
}

static int by_x(const void *a, const void *b)
{
    const struct component *l = a, *r = b;

    return l->x0 != r->x0 ? (l->x0 < r->x0 ? -1 : 1) : (l->y0 > r->y0) - (l->y0 < r->y0);
}

/* Packs the letters to the front, ordered by x; their number. */
static uint32_t gather(struct finder *f)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->comp_n; i++) {
        if (f->comp[i].parent != i || !is_glyph(&f->comp[i])) continue;
        f->comp[n++] = f->comp[i];
    }
    if (n > GLYPHS_MAX) return 0;
    qsort(f->comp, n, sizeof(f->comp[0]), by_x);
    for (uint32_t i = 0; i < n; i++)
        f->comp[i].parent = i;
    return n;
}

/* ---- lines ---- */

static bool neighbours(const struct component *l, const struct component *r)
{
    uint32_t lh = l->y1 - l->y0, rh = r->y1 - r->y0, h = MAX(lh, rh), slack = 1 + h / 6;
    int bottom = (int)l->y1 - (int)r->y1, top = (int)l->y0 - (int)r->y0;

    if (2 * h > 4 * MIN(lh, rh) + 2) return false;
    if ((int)r->x0 - (int)l->x1 > (int)h) return false;
    return (uint32_t)abs(bottom) <= slack || (uint32_t)abs(top) <= slack;
}

/* Unites letters of one line under the leftmost: the boxes stay the letters' own. */
static void pair_up(struct finder *f, uint32_t n)
{
    struct component *c = f->comp;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t reach = c[i].x1 + GLYPH_HEIGHT_MAX;

        for (uint32_t j = i + 1; j < n && c[j].x0 <= reach; j++) {
            if (!neighbours(&c[i], &c[j])) continue;
            uint32_t a = root_of(c, i), b = root_of(c, j);

            c[MAX(a, b)].parent = MIN(a, b);
        }
    }
}

/* How much like a line of letters it is; 0: not. */
static uint32_t run_score(const struct run *r)
{
    uint32_t mean = r->heights / r->glyphs;

    if (r->bar) return MIN(r->letters, 12u) * 16;
    if (r->letters < LETTERS_MIN || r->x1 - r->x0 < mean * 3 / 2) return 0;
    if (r->y1 - r->y0 > 2 * mean + 2) return 0; /* no line: a cluster */
    if (4 * r->aligned < 3 * r->glyphs) return 0;
    return MIN(r->letters, 12u) * 16 + r->aligned * 64 / r->glyphs;
}

struct tap { /* a place between two pixels: the first one, and the second one's share */
    int at;
    double share;
};

static struct tap tap_at(double s)
{
    int at = (int)(s < 0 ? s - 1 : s);

    return (struct tap){at, s - at};
}

/* What is outside of the picture counts as nothing. */
static double between(const struct finder *f, struct tap x, struct tap y)
{
    double v = 0;

    for (int j = 0; j < 2; j++) {
        double of_row = j != 0 ? y.share : 1 - y.share;
        const uint8_t *row;

        if (y.at + j < 0 || y.at + j >= (int)f->h) continue;
        row = f->hat + (size_t)(y.at + j) * f->w;
        if (x.at >= 0 && x.at < (int)f->w) v += (1 - x.share) * of_row * row[x.at];
        if (x.at + 1 >= 0 && x.at + 1 < (int)f->w) v += x.share * of_row * row[x.at + 1];
    }
    return v;
}

static void crop_make(const struct finder *f, const struct run *r, struct text_line *line)
{
    uint32_t mean = MAX(r->heights / r->glyphs, 1u), margin = MAX(mean / 2, 3u);
    double step = (double)mean / CROP_LETTER_HEIGHT, mid = (r->y0 + r->y1) / 2.0;
    double left = (double)r->x0 - margin, top;
    struct tap cols[CROP_WIDTH_MAX];
    uint32_t width;
    uint8_t most = 1;

    /* a line with long tails is made smaller, so that it fits */
    step = MAX(step, (double)(r->y1 - r->y0 + 2) / TEXT_CROP_HEIGHT);
    top = mid - step * TEXT_CROP_HEIGHT / 2;
    width = MIN((uint32_t)((r->x1 - r->x0 + 2 * margin) / step), (uint32_t)CROP_WIDTH_MAX);
    line->crop = malloc((size_t)width * TEXT_CROP_HEIGHT);
    line->crop_width = width;
    if (line->crop == NULL) return;
    for (uint32_t y = r->y0; y < r->y1; y++) {
        for (uint32_t x = r->x0; x < r->x1; x++)
            most = MAX(most, f->hat[(size_t)y * f->w + x]);
    }
    for (uint32_t x = 0; x < width; x++)
        cols[x] = tap_at(left + (x + 0.5) * step - 0.5);
    for (uint32_t y = 0; y < TEXT_CROP_HEIGHT; y++) {
        struct tap row = tap_at(top + (y + 0.5) * step - 0.5);

        for (uint32_t x = 0; x < width; x++) {
            double v = between(f, cols[x], row) * 255 / most;

            line->crop[(size_t)y * width + x] = (uint8_t)(255 - MIN(v, 255.0));
        }
    }
}

/* Two finds of one line. The gaps between light letters look like dark ones: both are kept. */
static bool same_line(const struct text_line *a, const struct text_line *b)
{
    uint32_t x0 = MAX(a->x, b->x), x1 = MIN(a->x + a->width, b->x + b->width);
    uint32_t y0 = MAX(a->y, b->y), y1 = MIN(a->y + a->height, b->y + b->height);
    uint64_t common = x1 > x0 && y1 > y0 ? (uint64_t)(x1 - x0) * (y1 - y0) : 0;

    if (a->dark != b->dark) return false;
    return 2 * common > MIN((uint64_t)a->width * a->height, (uint64_t)b->width * b->height);
}

/* Into the list when it is among the likeliest; one of two that lie over each other stays. */
static void offer(struct finder *f, const struct run *r, uint32_t scale)
{
    struct text_lines *t = f->lines;
    struct text_line line = {.x = r->x0 << scale,
                             .y = r->y0 << scale,
                             .width = (r->x1 - r->x0) << scale,
                             .height = (r->y1 - r->y0) << scale,
                             .dark = f->dark,
                             .score = run_score(r)};
    uint32_t at;

    if (line.score == 0) return;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!same_line(&t->line[i], &line)) continue;
        if (t->line[i].score >= line.score) return;
        free(t->line[i].crop);
        t->n--;
        memmove(&t->line[i], &t->line[i + 1], (t->n - i) * sizeof(line));
        memmove(&f->run[i], &f->run[i + 1], (t->n - i) * sizeof(*r));
        i--;
    }
    if (t->n == TEXT_LINES_MAX) {
        if (t->line[t->n - 1].score >= line.score) return;
        free(t->line[--t->n].crop);
    }
    for (at = t->n; at > 0 && t->line[at - 1].score < line.score; at--) {
        t->line[at] = t->line[at - 1];
        f->run[at] = f->run[at - 1];
    }
    t->line[at] = line;
    f->run[at] = *r;
    t->n++;
}

static void runs(struct finder *f, uint32_t n, uint32_t scale)
{
    struct component *c = f->comp;

    /* roots are leftmost, so each line's letters follow its root */
    for (uint32_t i = 0; i < n; i++) {
        struct run r = {.x0 = UINT32_MAX, .y0 = UINT32_MAX};
        uint32_t tops = 0, bottoms = 0;

        if (c[i].parent != i) continue;
        for (uint32_t j = i; j < n; j++) {
            uint32_t w = c[j].x1 - c[j].x0, h = c[j].y1 - c[j].y0, slack = 1 + h / 10;

            if (j > i && r.x1 + 2 * GLYPH_HEIGHT_MAX < c[j].x0) break;
            if (root_of(c, j) != i) continue;
            r.glyphs++;
            r.letters += MAX(1u, w * 3 / (2 * h)); /* those that touch count for more */
            r.heights += h;
            r.x0 = MIN(r.x0, c[j].x0);
            r.y0 = MIN(r.y0, c[j].y0);
            r.x1 = MAX(r.x1, c[j].x1);
            r.y1 = MAX(r.y1, c[j].y1);
            /* against the first letter: a line that climbs is none */
            tops += (uint32_t)abs((int)c[j].y0 - (int)c[i].y0) <= slack;
            bottoms += (uint32_t)abs((int)c[j].y1 - (int)c[i].y1) <= slack;
        }
        r.aligned = MAX(tops, bottoms);
        offer(f, &r, scale);
    }
}

/* Greatest over RADIUS pixels to each side and one up and down: parts of a letter and letters of a
 * line flow together, two lines rarely do. */
static void smear(struct finder *f)
{
    const uint32_t w = f->w, h = f->h;
    uint8_t *padded = f->tmp + (size_t)w * h;

    for (uint32_t y = 0; y < h; y++) {
        memset(padded, 0, w + BOX);
        memcpy(padded + RADIUS, f->hat + (size_t)y * w, w);
        max_row(padded, f->tmp + (size_t)y * w, w);
    }
    for (uint32_t y = 0; y < h; y++) {
        uint8_t *row = f->bars + (size_t)y * w;

        memcpy(row, f->tmp + (size_t)y * w, w);
        if (y > 0) max_into(row, f->tmp + (size_t)(y - 1) * w, w);
        if (y + 1 < h) max_into(row, f->tmp + (size_t)(y + 1) * w, w);
    }
}

/* Bars: as high as letters, long, and full. */
static void bars(struct finder *f, uint32_t scale)
{
    for (uint32_t i = 0; i < f->comp_n; i++) {
        const struct component *c = &f->comp[i];
        uint32_t w = c->x1 - c->x0, h = c->y1 - c->y0;
        struct run r = {.letters = w / h, .glyphs = 1, .heights = h - 2, .aligned = 0};

        if (c->parent != i || h < GLYPH_HEIGHT_MIN + 2 || h > GLYPH_HEIGHT_MAX + 2) continue;
        if (w < 2 * h || 100u * c->n < 55u * w * h) continue;
        r.letters = MAX(r.letters, (uint32_t)LETTERS_MIN);
        r.x0 = c->x0 + (w > BOX ? RADIUS : 0);
        r.x1 = c->x1 - (w > BOX ? RADIUS : 0);
        r.y0 = c->y0 + 1;
        r.y1 = c->y1 - 1;
        r.bar = true;
        offer(f, &r, scale);
    }
}

static enum rc find_at(struct finder *f, uint32_t scale, struct err *reterr)
{
    struct text_lines *t = f->lines;

    top_hat(f);
    for (size_t i = 0; i < ARRAY_N(THRESHOLDS); i++) {
        uint32_t n = components(f, f->hat, THRESHOLDS[i]) ? gather(f) : 0;

        pair_up(f, n);
        runs(f, n, scale);
    }
    smear(f);
    for (size_t i = 0; i < ARRAY_N(SMEARED); i++) {
        if (components(f, f->bars, SMEARED[i])) bars(f, scale);
    }
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->line[i].crop != NULL) continue;
        crop_make(f, &f->run[i], &t->line[i]);
        if (t->line[i].crop == NULL) return err_set(reterr, RC_NOMEM, "a line of text");
    }
    return RC_OK;
}

static void halve(struct finder *f)
{
    uint32_t w = f->w / 2, h = f->h / 2;

    for (uint32_t y = 0; y < h; y++) {
        const uint8_t *a = f->grey + (size_t)2 * y * f->w, *b = a + f->w;

        for (uint32_t x = 0; x < w; x++)
            f->grey[(size_t)y * w + x] =
                (uint8_t)((a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + 2) / 4);
    }
    f->w = w;
    f->h = h;
}

static void invert(struct finder *f)
{
    for (size_t i = 0; i < (size_t)f->w * f->h; i++)
        f->grey[i] = (uint8_t)(255 - f->grey[i]);
    f->dark = !f->dark;
}

enum rc text_find(const uint8_t *grey, uint32_t width, uint32_t height, struct text_lines *ret,
                  struct err *reterr)
{
    struct finder f = {.w = width, .h = height, .lines = ret};
    size_t n = (size_t)width * height;
    uint32_t row_max = width / 2 + 1; /* runs of pixels with a gap between two */
    enum rc rc = RC_OK;

    ret->n = 0;
    if (width < SIDE_MIN || height < SIDE_MIN) return RC_OK;
    f.grey = malloc(n);
    f.hat = malloc(n);
    f.bars = malloc(n);
    f.tmp = malloc(n + width + BOX);
    f.comp_max = (uint32_t)MIN((uint64_t)row_max * height, (uint64_t)COMPONENTS_MAX);
    f.comp = malloc(f.comp_max * sizeof(f.comp[0]));
    f.above = malloc(row_max * sizeof(f.above[0]));
    f.here = malloc(row_max * sizeof(f.here[0]));
    if (f.grey == NULL || f.hat == NULL || f.bars == NULL || f.tmp == NULL || f.comp == NULL ||
        f.above == NULL || f.here == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a search for text");
        goto out;
    }
    memcpy(f.grey, grey, n);
    for (uint32_t s = 0; s < SCALES && rc == RC_OK; s++) {
        rc = find_at(&f, s, reterr); /* light letters */
        invert(&f);
        if (rc == RC_OK) rc = find_at(&f, s, reterr); /* dark ones */
        invert(&f);
        if (f.w / 2 < SIDE_MIN || f.h / 2 < SIDE_MIN) break;
        halve(&f);
    }
out:
    free(f.grey);
    free(f.hat);
    free(f.bars);
    free(f.tmp);
    free(f.comp);
    free(f.above);
    free(f.here);
    return rc;
}

void text_lines_free(struct text_lines *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->line[i].crop);
    t->n = 0;
}
