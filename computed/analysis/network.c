/* computed/analysis/network.c - see network.h. The image is read in bands of rows, each row is
 * resampled across, then added with its weight to the rows of the input tensor that it touches: so
 * a picture of any size needs one band and the tensor. */
#include "computed/analysis/network.h"
#include "computed/analysis/series.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAND_BYTES  ((size_t)8 << 20)
#define CLASSES_MAX 65536

struct network {
    const struct model *m;
    struct session *s;
    struct job_params p;
    uint32_t channels, depth, height, width; /* depth 1: pictures */
    bool volume;
    float *x; /* the input: [channels][depth][height][width] */
    size_t x_n;
    const char *classes; /* metadata, or NULL */
    struct mask mask;    /* p NULL: none */
};

/* ---- resampling ---- */
static double step_of(const struct resample *r)
{
    return (r->to - r->from) / r->out_n;
}

static double support_of(const struct resample *r)
{
    return fmax(step_of(r), 1);
}

uint32_t resample_taps_max(const struct resample *r)
{
    return (uint32_t)(2 * support_of(r)) + 3;
}

void resample_taps(const struct resample *r, uint32_t o, double *w, uint32_t *ret_lo,
                   uint32_t *ret_n)
{
    double support = support_of(r), at = r->from + (o + 0.5) * step_of(r), sum = 0;
    double lo = fmax(floor(at - support), 0), hi = fmin(ceil(at + support), r->in_n);
    uint32_t n = 0;

    *ret_lo = (uint32_t)lo;
    for (double i = lo; i < hi; i++) {
        double k = 1 - fabs(i + 0.5 - at) / support;

        w[n] = fmax(k, 0);
        sum += w[n++];
    }
    for (uint32_t i = 0; i < n; i++)
        w[i] /= sum; /* at lies within the row: the nearest place has a weight of at least half */
    *ret_n = n;
}

/* ---- the model ---- */
static enum rc side(const struct network *n, uint8_t dim, uint32_t *ret, struct err *reterr)
{
    const struct model_shape *s = &n->m->value[n->m->input[0]].shape;
    int64_t fixed = s->dim[2 + dim];
    uint8_t given = n->p.size_n;

    if (given > 0) {
        *ret = n->p.size[dim];
        if (fixed < 0 || fixed == (int64_t)*ret) return RC_OK;
        return err_set(reterr, RC_INVAL,
                       "parameter size: the model's input has %lld in place of %u",
                       (long long)fixed, *ret);
    }
    if (fixed < 0)
        return err_set(reterr, RC_INVAL,
                       "the model leaves its input's size open: give parameter size, e.g. 224x224");
    if (fixed == 0 || fixed > JOB_SIDE_MAX)
        return err_set(reterr, RC_INVAL, "the model's input has a side of %lld; 1 to %d are served",
                       (long long)fixed, JOB_SIDE_MAX);
    *ret = (uint32_t)fixed;
    return RC_OK;
}

static enum rc input_fits(struct network *n, struct err *reterr)
{
    const struct model_value *v = &n->m->value[n->m->input[0]];
    const struct model_shape *s = &v->shape;
    uint8_t dims = (uint8_t)(s->rank - 2);
    uint32_t sides[3];
    char text[128];
    enum rc rc = RC_OK;

    if (n->m->input_n != 1 || v->dtype != MODEL_F32 || (s->rank != 4 && s->rank != 5) ||
        (s->dim[1] != 1 && s->dim[1] != 3) || (s->dim[0] != 1 && s->dim[0] >= 0))
        return err_set(
            reterr, RC_INVAL,
            "one float32 input [N, 1 or 3, (slices,) rows, columns] is needed; the model "
            "has %u, the first %s",
            n->m->input_n, model_shape_text(s, text));
    if (n->p.size_n > 0 && n->p.size_n != dims)
        return err_set(reterr, RC_INVAL,
                       "parameter size has %u numbers; the model's input takes %u", n->p.size_n,
                       dims);
    for (uint8_t i = 0; rc == RC_OK && i < dims; i++)
        rc = side(n, i, &sides[i], reterr);
    if (rc != RC_OK) return rc;
    n->channels = (uint32_t)s->dim[1];
    n->volume = dims == 3;
    n->depth = n->volume ? sides[0] : 1;
    n->height = sides[dims - 2];
    n->width = sides[dims - 1];
    if ((uint64_t)n->depth * n->height * n->width > JOB_VOXELS_MAX)
        return err_set(reterr, RC_INVAL, "the model's input has more than %u places",
                       JOB_VOXELS_MAX);
    if ((n->p.mean_n > 1 && n->p.mean_n != n->channels) ||
        (n->p.std_n > 1 && n->p.std_n != n->channels))
        return err_set(reterr, RC_INVAL,
                       "parameters mean and std: one number, or one a channel; the model's input "
                       "has %u",
                       n->channels);
    return RC_OK;
}

static uint32_t class_count(const struct network *n)
{
    uint32_t k = 1;

    for (const char *c = n->classes; *c != '\0'; c++)
        k += *c == ',';
    return k;
}

/* classes: how many values an output has for each place. */
static enum rc classes_fit(const struct network *n, int64_t k, struct err *reterr)
{
    if (k < 1 || k > CLASSES_MAX)
        return err_set(reterr, RC_INVAL,
                       "the model's first output has %lld classes; 1 to %d are "
                       "served",
                       (long long)k, CLASSES_MAX);
    if (n->classes != NULL && class_count(n) != (uint64_t)k)
        return err_set(reterr, RC_INVAL,
                       "the model's metadata names %u classes, its first output has %lld",
                       class_count(n), (long long)k);
    if (k == 1 && n->p.kind == JOB_CLASSIFY && n->p.apply == JOB_APPLY_SOFTMAX)
        return err_set(reterr, RC_INVAL,
                       "the model gives one number, of which a softmax is always 1: give parameter "
                       "apply=sigmoid or none");
    return RC_OK;
}

static enum rc output_fits(const struct network *n, struct err *reterr)
{
    const struct model_value *v = &n->m->value[n->m->output[0]];
    uint8_t rank = n->p.kind == JOB_CLASSIFY ? 2 : n->volume ? 5 : 4;
    char text[128];

    if (v->dtype != MODEL_F32 || v->shape.rank != rank)
        return err_set(reterr, RC_INVAL, "%s needs float32 %s; the model's first output is %s %s",
                       n->p.kind == JOB_CLASSIFY ? "classify" : "segment",
                       rank == 2   ? "[N, classes]"
                       : rank == 4 ? "[N, classes, rows, columns]"
                                   : "[N, classes, slices, rows, columns]",
                       model_dtype_name(v->dtype), model_shape_text(&v->shape, text));
    return v->shape.dim[1] < 0 ? RC_OK : classes_fit(n, v->shape.dim[1], reterr);
}

enum rc network_open(struct engine *e, const struct model *m, const struct job_params *p,
                     struct network **ret_n, struct err *reterr)
{
    struct network *n = calloc(1, sizeof(*n));
    enum rc rc;

    if (n == NULL) return err_set(reterr, RC_NOMEM, "network");
    n->m = m;
    n->p = *p;
    n->classes = model_prop_get(m, "classes");
    rc = input_fits(n, reterr);
    if (rc == RC_OK) rc = output_fits(n, reterr);
    if (rc == RC_OK) {
        n->x_n = (size_t)n->channels * n->depth * n->height * n->width;
        n->x = calloc(n->x_n, sizeof(*n->x));
        if (n->x == NULL) rc = err_set(reterr, RC_NOMEM, "input of %zu values", n->x_n);
    }
    if (rc == RC_OK) rc = session_open(e, m, &n->s, reterr);
    if (rc != RC_OK) {
        network_close(n);
        return rc;
    }
    *ret_n = n;
    return RC_OK;
}

static void mask_forget(struct network *n)
{
    free(n->mask.p);
    n->mask.p = NULL;
}

void network_close(struct network *n)
{
    if (n == NULL) return;
    session_close(n->s);
    if (n->x != NULL) memset(n->x, 0, n->x_n * sizeof(*n->x)); /* image memory */
    mask_forget(n);
    free(n->x);
    free(n);
}

/* ---- the input ---- */
struct taps { /* of every place of one side of the input: `max` weights each */
    double *w;
    uint32_t *lo, *n, max;
};
struct scaler {
    struct resample across, down;
    struct taps x, y;
    uint32_t level, frame, rows_max; /* rows_max: of a band */
    uint8_t *band;
    size_t band_bytes;
    double *row; /* a row resampled across: [width][channels] */
};

static void taps_free(struct taps *t)
{
    free(t->w);
    free(t->lo);
    free(t->n);
}

static bool taps_make(const struct resample *r, struct taps *t)
{
    t->max = resample_taps_max(r);
    t->w = calloc((size_t)r->out_n * t->max, sizeof(*t->w));
    t->lo = calloc(r->out_n, sizeof(*t->lo));
    t->n = calloc(r->out_n, sizeof(*t->n));
    if (t->w == NULL || t->lo == NULL || t->n == NULL) return false;
    for (uint32_t o = 0; o < r->out_n; o++)
        resample_taps(r, o, t->w + (size_t)o * t->max, &t->lo[o], &t->n[o]);
    return true;
}

/* Which part of the image is taken, in pixels of the level. */
static void window(const struct network *n, const struct image_level *l, struct resample *across,
                   struct resample *down)
{
    double w = (double)l->width, h = (double)l->height;

    *across = (struct resample){0, w, (uint32_t)l->width, n->width};
    *down = (struct resample){0, h, (uint32_t)l->height, n->height};
    if (n->p.crop) {
        double k = fmin(w / n->width, h / n->height) * n->p.crop_part;
        double cw = k * n->width, ch = k * n->height;

        across->from = (w - cw) / 2;
        across->to = (w + cw) / 2;
        down->from = (h - ch) / 2;
        down->to = (h + ch) / 2;
    }
}

static void scaler_free(struct scaler *s)
{
    if (s->band != NULL) memset(s->band, 0, s->band_bytes);
    free(s->band);
    free(s->row);
    taps_free(&s->x);
    taps_free(&s->y);
}

static enum rc scaler_make(const struct network *n, const struct image_info *in, struct scaler *s,
                           struct err *reterr)
{
    const struct image_level *l;
    size_t row_bytes;

    while (s->level + 1 < in->level_n && in->level[s->level + 1].width >= n->width &&
           in->level[s->level + 1].height >= n->height)
        s->level++;
    l = &in->level[s->level];
    if (l->width == 0 || l->height == 0 || l->width > INT32_MAX || l->height > INT32_MAX)
        return err_set(reterr, RC_INVAL, "%llu x %llu pixels", (unsigned long long)l->width,
                       (unsigned long long)l->height);
    window(n, l, &s->across, &s->down);
    row_bytes = (size_t)l->width * n->channels;
    s->rows_max = (uint32_t)MAX(MIN(BAND_BYTES / row_bytes, (size_t)MAX(l->tile_height, 1)), 1);
    s->band_bytes = row_bytes * s->rows_max;
    s->band = malloc(s->band_bytes);
    s->row = calloc((size_t)n->width * n->channels, sizeof(*s->row));
    if (s->band == NULL || s->row == NULL || !taps_make(&s->across, &s->x) ||
        !taps_make(&s->down, &s->y))
        return err_set(reterr, RC_NOMEM, "a band of %zu bytes", s->band_bytes);
    return RC_OK;
}

static void row_across(const struct network *n, const struct scaler *s, const uint8_t *p)
{
    uint32_t c_n = n->channels;

    for (uint32_t o = 0; o < n->width; o++) {
        const double *w = s->x.w + (size_t)o * s->x.max;
        const uint8_t *from = p + (size_t)s->x.lo[o] * c_n;

        for (uint32_t c = 0; c < c_n; c++) {
            double sum = 0;

            for (uint32_t k = 0; k < s->x.n[o]; k++)
                sum += w[k] * from[(size_t)k * c_n + c];
            s->row[(size_t)o * c_n + c] = sum;
        }
    }
}

/* Row y of the image goes into every row of the slice that it touches; those lie together. */
static void row_down(const struct network *n, const struct scaler *s, uint32_t y, uint32_t *first,
                     uint32_t slice)
{
    size_t plane = (size_t)n->height * n->width;
    const struct taps *t = &s->y;

    while (*first < n->height && t->lo[*first] + t->n[*first] <= y)
        ++*first;
    for (uint32_t o = *first; o < n->height && t->lo[o] <= y; o++) {
        double w = y - t->lo[o] < t->n[o] ? t->w[(size_t)o * t->max + (y - t->lo[o])] : 0;

        for (uint32_t c = 0; c < n->channels && w > 0; c++) {
            float *to = n->x + ((size_t)c * n->depth + slice) * plane + (size_t)o * n->width;

            for (uint32_t i = 0; i < n->width; i++)
                to[i] += (float)(w * s->row[(size_t)i * n->channels + c]);
        }
    }
}

static enum rc slice_read(struct network *n, struct scaler *s, struct image *img, uint32_t slice,
                          struct err *reterr)
{
    enum image_format format = n->channels == 1 ? IMAGE_GREY8 : IMAGE_RGB8;
    uint32_t first = 0, top = s->y.lo[0];
    uint32_t end = s->y.lo[n->height - 1] + s->y.n[n->height - 1];
    uint32_t width = s->across.in_n;

    for (uint32_t y = top - top % s->rows_max; y < end;) { /* whole tiles */
        uint32_t rows = MIN(s->rows_max, s->down.in_n - y);
        struct image_rect r = {.x = 0, .y = y, .width = width, .height = rows};
        enum rc rc = image_read(img, s->level, s->frame, r, format, s->band, reterr);

        if (rc != RC_OK) return rc;
        for (uint32_t k = 0; k < rows; k++) {
            if (y + k < top || y + k >= end) continue;
            row_across(n, s, s->band + (size_t)k * width * n->channels);
            row_down(n, s, y + k, &first, slice);
        }
        y += rows;
    }
    return RC_OK;
}

static void normalise(struct network *n)
{
    size_t plane = (size_t)n->depth * n->height * n->width;

    for (uint32_t c = 0; c < n->channels; c++) {
        double mean = n->p.mean_n == 0 ? 0 : n->p.mean[n->p.mean_n == 1 ? 0 : c];
        double std = n->p.std_n == 0 ? 1 : n->p.std[n->p.std_n == 1 ? 0 : c];
        float *x = n->x + c * plane;

        for (size_t i = 0; i < plane; i++)
            x[i] = (float)(((double)x[i] / 255 - mean) / std);
    }
}

/* Frames in order: of one image, or one a slice. */
struct stack {
    struct image *one; /* NULL: a series */
    const struct network_slices *slices;
    const uint16_t *order;
    uint32_t n;
    struct image *open; /* of a series: the slice at hand */
    uint32_t open_idx;
    bool windowed; /* all through this one */
    struct image_window window;
    bool placed; /* affine: of the slices' own pixels */
    double affine[12];
    struct resample across, down; /* out: which part was taken */
};

static void stack_end(struct stack *k)
{
    image_close(k->open);
    k->open = NULL;
}

static enum rc stack_at(struct stack *k, uint32_t idx, struct image **ret_img, uint32_t *ret_frame,
                        struct err *reterr)
{
    enum rc rc = RC_OK;

    *ret_frame = k->one != NULL ? idx : 0;
    *ret_img = k->one;
    if (k->one != NULL) return RC_OK;
    if (k->open == NULL || k->open_idx != idx) {
        stack_end(k);
        rc = k->slices->open(k->slices->data, k->order[idx], &k->open, reterr);
        if (rc != RC_OK) return rc;
        k->open_idx = idx;
        if (k->windowed) image_window_set(k->open, &k->window);
    }
    *ret_img = k->open;
    return RC_OK;
}

/* Which frame becomes slice d of the input. */
static uint32_t frame_of(const struct network *n, const struct stack *k, uint32_t d)
{
    return (uint32_t)(((uint64_t)2 * d + 1) * k->n / ((uint64_t)2 * n->depth));
}

/* From the least to the greatest value of the frames that are taken. */
static enum rc window_over(const struct network *n, struct stack *k, struct image_window *ret,
                           struct err *reterr)
{
    double lo = INFINITY, hi = -INFINITY;

    for (uint32_t d = 0; d < n->depth; d++) {
        struct image_window w;
        struct image *img;
        uint32_t frame;
        enum rc rc;

        if (d > 0 && frame_of(n, k, d) == frame_of(n, k, d - 1)) continue;
        rc = stack_at(k, frame_of(n, k, d), &img, &frame, reterr);
        if (rc == RC_OK) rc = image_window_frame(img, frame, &w, reterr);
        if (rc != RC_OK) return rc;
        lo = fmin(lo, w.center - 0.5 - (w.width - 1) / 2);
        hi = fmax(hi, w.center - 0.5 + (w.width - 1) / 2);
    }
    *ret = (struct image_window){(lo + hi) / 2 + 0.5, hi - lo + 1};
    return RC_OK;
}

/* Frames that were each stretched on their own would be no volume. */
static enum rc stack_window(const struct network *n, struct stack *k, struct err *reterr)
{
    enum image_window_from from;
    struct image_window w;
    struct image *img;
    uint32_t frame;
    enum rc rc = stack_at(k, k->n / 2, &img, &frame, reterr);

    if (rc != RC_OK) return rc;
    from = image_window_get(img, &w);
    if (n->p.window) {
        w = (struct image_window){n->p.window_center, n->p.window_width};
    } else if (from == IMAGE_WINDOW_FRAME && n->volume) {
        rc = window_over(n, k, &w, reterr);
        if (rc != RC_OK) return rc;
    } else if (from != IMAGE_WINDOW_OWN) {
        return RC_OK;
    }
    k->windowed = true;
    k->window = w;
    if (k->one != NULL) image_window_set(k->one, &w);
    stack_end(k); /* opened again, it has the window */
    return RC_OK;
}

static enum rc input_make(struct network *n, struct stack *k, struct err *reterr)
{
    struct scaler s = {0};
    struct image *img;
    enum rc rc;

    if (n->volume && k->n < 2)
        return err_set(reterr, RC_INVAL, "one frame: the model takes volumes");
    memset(n->x, 0, n->x_n * sizeof(*n->x));
    rc = stack_window(n, k, reterr);
    if (rc == RC_OK) rc = stack_at(k, frame_of(n, k, 0), &img, &s.frame, reterr);
    if (rc == RC_OK) rc = scaler_make(n, image_info(img), &s, reterr);
    for (uint32_t d = 0; rc == RC_OK && d < n->depth; d++) {
        rc = stack_at(k, frame_of(n, k, d), &img, &s.frame, reterr);
        if (rc == RC_OK) rc = slice_read(n, &s, img, d, reterr);
    }
    k->across = s.across;
    k->down = s.down;
    scaler_free(&s);
    if (rc == RC_OK) normalise(n);
    return rc;
}

/* ---- the answer ---- */
static void class_name(const struct network *n, uint32_t k, char name[32])
{
    const char *c = n->classes;
    size_t len;

    if (c == NULL) {
        (void)snprintf(name, 32, "class_%u", k);
        return;
    }
    for (uint32_t i = 0; i < k; i++)
        c += strcspn(c, ",") + 1;
    len = MIN(strcspn(c, ","), (size_t)31);
    (void)snprintf(name, 32, "%.*s", (int)len, c);
    if (len == 0) (void)snprintf(name, 32, "class_%u", k);
}

/* The `top` largest of v, in order; ties by the lower number. Consumes v. */
static void best_take(const struct network *n, double *v, uint32_t k, uint32_t top,
                      struct analysis_result *ret)
{
    ret->score_n = MIN(top, k);
    for (uint32_t i = 0; i < ret->score_n; i++) {
        uint32_t best = 0;

        for (uint32_t j = 1; j < k; j++)
            if (v[j] > v[best]) best = j;
        class_name(n, best, ret->score[i].name);
        ret->score[i].value = v[best];
        v[best] = -INFINITY;
    }
}

static void apply(enum job_apply how, double *v, uint32_t k)
{
    double top = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < k; i++) {
        if (how == JOB_APPLY_SIGMOID) v[i] = 1 / (1 + exp(-v[i]));
        top = fmax(top, v[i]);
    }
    if (how != JOB_APPLY_SOFTMAX) return;
    for (uint32_t i = 0; i < k; i++) {
        v[i] = exp(v[i] - top);
        sum += v[i];
    }
    for (uint32_t i = 0; i < k; i++)
        v[i] /= sum;
}

static enum rc not_finite(struct err *reterr)
{
    return err_set(reterr, RC_INVAL,
                   "the model gives no finite number for this image: do mean and std fit it?");
}

static enum rc classify(const struct network *n, const float *y, double *v, uint32_t k,
                        struct analysis_result *ret, struct err *reterr)
{
    for (uint32_t i = 0; i < k; i++) {
        if (!isfinite(y[i])) return not_finite(reterr);
        v[i] = (double)y[i];
    }
    apply(n->p.apply, v, k);
    best_take(n, v, k, n->p.top, ret);
    memcpy(ret->label, ret->score[0].name, sizeof(ret->label));
    return RC_OK;
}

static enum rc segment(const struct network *n, const float *y, uint64_t places, double *v,
                       uint32_t k, uint8_t *labels, struct analysis_result *ret, struct err *reterr)
{
    uint32_t best = k > 1 ? 1 : 0;

    for (uint64_t i = 0; i < places; i++) {
        uint32_t top = 0;

        for (uint32_t c = 0; c < k; c++) {
            float f = y[c * places + i];

            if (!isfinite(f)) return not_finite(reterr);
            if (f > y[top * places + i]) top = c;
        }
        if (k > 1 || y[i] > 0) v[top]++;
        if (labels != NULL) labels[i] = (uint8_t)(k > 1 ? top : y[i] > 0);
    }
    for (uint32_t c = 0; c < k; c++) {
        v[c] /= (double)places;
        if (c > 0 && v[c] > v[best]) best = c;
    }
    if (k == 1) { /* foreground, and what is left */
        double fore = v[0];

        ret->score_n = 2;
        class_name(n, 0, ret->score[0].name);
        if (n->classes == NULL) memcpy(ret->score[0].name, "foreground", 11);
        ret->score[0].value = fore;
        memcpy(ret->score[1].name, "background", 11);
        ret->score[1].value = 1 - fore;
        memcpy(ret->label, ret->score[fore > 0 ? 0 : 1].name, sizeof(ret->label));
        return RC_OK;
    }
    class_name(n, v[best] > 0 ? best : 0, ret->label);
    best_take(n, v, k, ANALYSIS_SCORES_MAX, ret);
    return RC_OK;
}

/* From voxels of the model's output to millimetres: those of the slices' pixels, resampled. */
static void affine_scale(const struct network *n, const struct stack *k, double ret[12])
{
    const double step[3] = {step_of(&k->across), step_of(&k->down), (double)k->n / n->depth};
    const double from[3] = {k->across.from, k->down.from, 0};

    for (uint32_t r = 0; r < 3; r++) {
        const double *a = k->affine + 4 * (size_t)r;

        ret[4 * r + 3] = a[3];
        for (uint32_t i = 0; i < 3;
             i++) { /* centre of voxel 0: from + step / 2, less half a pixel */
            ret[4 * r + i] = a[i] * step[i];
            ret[4 * r + 3] += a[i] * (from[i] + step[i] / 2 - 0.5);
        }
    }
}

/* labels: as the model gave them. */
static enum rc mask_make(struct network *n, const struct stack *k, const struct session_out *out,
                         const uint8_t *labels, struct err *reterr)
{
    const int64_t *dim = out->shape.dim + 2;
    double affine[12];
    char text[256];

    if (n->volume) {
        /* a model whose output has another size than its input: its places are not known here */
        bool same = dim[0] == n->depth && dim[1] == n->height && dim[2] == n->width;

        if (k->placed && same) affine_scale(n, k, affine);
        return mask_nifti(labels, (uint32_t)dim[0], (uint32_t)dim[1], (uint32_t)dim[2],
                          k->placed && same ? affine : NULL, &n->mask, reterr);
    }
    (void)snprintf(text, sizeof(text),
                   "labels by the model's classes; of an image of %u x %u pixels, columns %.2f to "
                   "%.2f, rows %.2f to %.2f",
                   k->across.in_n, k->down.in_n, k->across.from, k->across.to, k->down.from,
                   k->down.to);
    return mask_png(labels, (uint32_t)dim[0], (uint32_t)dim[1], text, &n->mask, reterr);
}

const struct mask *network_mask(const struct network *n)
{
    return n->mask.p == NULL ? NULL : &n->mask;
}

static enum rc run(struct network *n, struct stack *k, struct analysis_result *ret,
                   struct err *reterr)
{
    struct model_shape shape = {.rank = n->volume ? 5 : 4, .dim = {1, n->channels}};
    struct session_out out[64]; /* at least common/model's IO_MAX */
    struct analysis_result r = {0};
    const void *x = n->x;
    uint64_t places = 1;
    uint8_t *labels = NULL;
    double *v;
    int64_t c;
    enum rc rc;

    mask_forget(n);
    rc = input_make(n, k, reterr);
    stack_end(k);

    if (rc != RC_OK) return rc;
    if (n->volume) shape.dim[2] = n->depth;
    shape.dim[shape.rank - 2] = n->height;
    shape.dim[shape.rank - 1] = n->width;
    CHECK(n->m->output_n <= ARRAY_N(out));
    rc = session_run(n->s, &shape, &x, out, reterr);
    if (rc != RC_OK) return rc;
    c = out[0].shape.dim[1];
    rc = classes_fit(n, c, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 2; i < out[0].shape.rank; i++)
        places *= (uint64_t)out[0].shape.dim[i];
    if (out[0].shape.dim[0] != 1 || places == 0)
        return err_set(reterr, RC_INVAL, "the model's first output has no place, or several rows");
    v = calloc((size_t)c, sizeof(*v));
    if (v == NULL) return err_set(reterr, RC_NOMEM, "%lld classes", (long long)c);
    if (n->p.kind == JOB_SEGMENT && n->p.masks && c <= MASK_CLASSES_MAX) {
        labels = malloc(places);
        if (labels == NULL)
            rc = err_set(reterr, RC_NOMEM, "a mask of %llu places", (unsigned long long)places);
    }
    if (rc == RC_OK)
        rc = n->p.kind == JOB_CLASSIFY
                 ? classify(n, out[0].data, v, (uint32_t)c, &r, reterr)
                 : segment(n, out[0].data, places, v, (uint32_t)c, labels, &r, reterr);
    if (rc == RC_OK && labels != NULL) rc = mask_make(n, k, &out[0], labels, reterr);
    free(labels);
    free(v);
    r.tile_n = 1;
    if (rc == RC_OK) *ret = r;
    return rc;
}

enum rc network_image(struct network *n, struct image *img, struct analysis_result *ret,
                      struct err *reterr)
{
    struct stack k = {.one = img, .n = image_info(img)->frame_n};

    return run(n, &k, ret, reterr);
}

static enum rc headers_read(const struct network_slices *s, struct image_slice *out,
                            struct err *reterr)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; i < s->n && rc == RC_OK; i++) {
        struct image *img;

        rc = s->open(s->data, i, &img, reterr);
        if (rc != RC_OK) break;
        rc = image_slice_get(img, &out[i], reterr);
        image_close(img);
    }
    return rc;
}

enum rc network_series(struct network *n, const struct network_slices *slices,
                       struct analysis_result *ret, struct err *reterr)
{
    struct image_slice *header;
    struct analysis_result r = {0};
    uint16_t order[ANALYSIS_SLICES_MAX];
    struct stack k = {.slices = slices, .order = order, .n = slices->n};
    enum series_by by = SERIES_BY_POSITION;
    enum rc rc;

    CHECK(slices->n <= ANALYSIS_SLICES_MAX);
    if (!n->volume)
        return err_set(reterr, RC_INVAL, "a series of slices: the model takes single pictures");
    header = calloc(MAX(slices->n, 1u), sizeof(*header));
    if (header == NULL) return err_set(reterr, RC_NOMEM, "a series of %u slices", slices->n);
    rc = headers_read(slices, header, reterr);
    if (rc == RC_OK) rc = series_order(header, slices->n, order, &by, reterr);
    if (rc == RC_OK) k.placed = series_affine(header, slices->n, order, by, k.affine);
    free(header);
    if (rc == RC_OK) rc = run(n, &k, &r, reterr);
    if (rc != RC_OK) return rc;
    r.slice_n = slices->n;
    r.by = by;
    memcpy(r.order, order, slices->n * sizeof(*order));
    *ret = r;
    return RC_OK;
}
