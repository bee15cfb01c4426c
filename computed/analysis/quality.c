/* computed/analysis/quality.c - see quality.h. Sums are kept in the order of
 * the tiles, in double, so the same regions give the same answer. */
#include "computed/analysis/quality.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Below this sum of `content` nothing in the image speaks for itself (a blank
 * or black picture) and all tiles count alike: the content of one tile with a
 * mean gradient of a third of a grey level. */
#define CONTENT_MIN 0.05

struct quality {
    const struct model *m;
    struct session *s;
    char name[ANALYSIS_SCORES_MAX][32];
    uint32_t class_n, measure_n, content_idx; /* of the measures */
    uint32_t scores_out, measures_out;        /* which outputs of the model */
    uint32_t slide_out;                       /* scores of slides; may be scores_out */
    bool slide;
    uint8_t least[3], most[3]; /* of each channel over all pixels seen */
    float *planes;             /* tiles that wait for their run: 3 planes each */
    uint32_t batch, waiting, wait_w, wait_h;
    double plain[ANALYSIS_SCORES_MAX], weighted[ANALYSIS_SCORES_MAX], weight;
    uint32_t tile_n;
};

static enum rc names_split(const char *list, const char *what, char name[][32], uint32_t max,
                           uint32_t *ret_n, struct err *reterr)
{
    uint32_t n = 0;

    while (list != NULL && *list != '\0') {
        size_t len = strcspn(list, ",");

        if (n == max || len == 0 || len >= 32)
            return err_set(reterr, RC_INVAL,
                           "the model's metadata '%s' is not a list of 1 to %u short names", what,
                           max);
        (void)snprintf(name[n++], 32, "%.*s", (int)len, list);
        list += len;
        if (*list == ',') list++;
    }
    if (n == 0) return err_set(reterr, RC_INVAL, "the model has no metadata '%s'", what);
    *ret_n = n;
    return RC_OK;
}

static enum rc output_find(const struct model *m, const char *name, uint32_t width, uint32_t *ret,
                           struct err *reterr)
{
    for (uint32_t i = 0; i < m->output_n; i++) {
        const struct model_value *v = &m->value[m->output[i]];

        if (strcmp(v->name, name) != 0) continue;
        if (v->dtype != MODEL_F32 || v->shape.rank != 2 || v->shape.dim[1] != (int64_t)width)
            return err_set(reterr, RC_INVAL, "output '%s' is not float32 [N, %u]", name, width);
        *ret = i;
        return RC_OK;
    }
    return err_set(reterr, RC_INVAL, "the model has no output '%s'", name);
}

static enum rc quality_fits(struct quality *q, struct err *reterr)
{
    const struct model *m = q->m;
    const struct model_value *x = &m->value[m->input[0]];
    enum rc rc;

    if (m->input_n != 1 || x->dtype != MODEL_F32 || x->shape.rank != 4 || x->shape.dim[1] != 3 ||
        x->shape.dim[2] >= 0 || x->shape.dim[3] >= 0)
        return err_set(reterr, RC_INVAL, "a quality model has one input, float32 [N, 3, any, any]");
    rc = names_split(model_prop_get(m, "classes"), "classes", q->name, QUALITY_CLASSES_MAX,
                     &q->class_n, reterr);
    if (rc == RC_OK)
        rc = names_split(model_prop_get(m, "measures"), "measures", q->name + q->class_n,
                         ANALYSIS_SCORES_MAX - q->class_n, &q->measure_n, reterr);
    if (rc == RC_OK) rc = output_find(m, "scores", q->class_n, &q->scores_out, reterr);
    if (rc == RC_OK) {
        q->slide_out = q->scores_out; /* a model without makes no difference */
        for (uint32_t i = 0; i < m->output_n && rc == RC_OK; i++)
            if (strcmp(m->value[m->output[i]].name, "scores_slide") == 0)
                rc = output_find(m, "scores_slide", q->class_n, &q->slide_out, reterr);
    }
    if (rc == RC_OK) rc = output_find(m, "measures", q->measure_n, &q->measures_out, reterr);
    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < q->measure_n; i++) {
        if (strcmp(q->name[q->class_n + i], "content") != 0) continue;
        q->content_idx = i;
        return RC_OK;
    }
    return err_set(reterr, RC_INVAL, "the model has no measure 'content'");
}

static size_t planes_bytes(const struct quality *q)
{
    return (size_t)q->batch * 3 * QUALITY_TILE_PX * QUALITY_TILE_PX * sizeof(float);
}

enum rc quality_open(struct engine *e, const struct model *m, struct quality **ret_q,
                     struct err *reterr)
{
    struct quality *q = calloc(1, sizeof(*q));
    enum rc rc;

    if (q == NULL) return err_set(reterr, RC_NOMEM, "quality");
    q->m = m;
    q->batch = engine_batch(e);
    q->planes = malloc(planes_bytes(q));
    rc = q->planes == NULL ? err_set(reterr, RC_NOMEM, "quality") : quality_fits(q, reterr);
    if (rc == RC_OK) rc = session_open(e, m, &q->s, reterr);
    if (rc != RC_OK) {
        quality_close(q);
        return rc;
    }
    *ret_q = q;
    return RC_OK;
}

void quality_close(struct quality *q)
{
    if (q == NULL) return;
    session_close(q->s);
    if (q->planes != NULL) /* image memory is zeroed before it goes */
        memset(q->planes, 0, planes_bytes(q));
    free(q->planes);
    free(q);
}

const char *quality_limits(const struct quality *q)
{
    const char *s = model_prop_get(q->m, "limits");

    return s == NULL ? "" : s;
}

void quality_begin(struct quality *q, bool slide)
{
    q->slide = slide;
    memset(q->least, 255, sizeof(q->least));
    memset(q->most, 0, sizeof(q->most));
    memset(q->plain, 0, sizeof(q->plain));
    memset(q->weighted, 0, sizeof(q->weighted));
    q->weight = 0;
    q->tile_n = q->waiting = 0;
}

/* Runs the tiles that wait and adds them up, in their order. */
static enum rc tiles_run(struct quality *q, struct err *reterr)
{
    struct model_shape shape = {.rank = 4, .dim = {q->waiting, 3, q->wait_h, q->wait_w}};
    struct session_out out[64]; /* at least common/model's IO_MAX */
    const void *in = q->planes;
    uint32_t n = q->waiting;
    enum rc rc;

    if (n == 0) return RC_OK;
    q->waiting = 0;
    CHECK(q->m->output_n <= ARRAY_N(out));
    rc = session_run_rows(q->s, &shape, &in, out, reterr);
    if (rc != RC_OK) return rc;
    for (uint32_t t = 0; t < n; t++) {
        const float *scores =
            (const float *)out[q->slide ? q->slide_out : q->scores_out].data + t * q->class_n;
        const float *measures = (const float *)out[q->measures_out].data + t * q->measure_n;
        double content = (double)measures[q->content_idx];

        for (uint32_t i = 0; i < q->class_n + q->measure_n; i++) {
            double v = (double)(i < q->class_n ? scores[i] : measures[i - q->class_n]);

            q->plain[i] += v;
            q->weighted[i] += v * content;
        }
        q->weight += content;
        q->tile_n++;
    }
    return RC_OK;
}

static enum rc tile_add(struct quality *q, const uint8_t *rgb, uint32_t width, uint32_t height,
                        size_t stride, struct err *reterr)
{
    size_t plane = (size_t)width * height;
    float *planes;
    enum rc rc = RC_OK;

    if (q->waiting > 0 && (q->wait_w != width || q->wait_h != height)) rc = tiles_run(q, reterr);
    if (rc != RC_OK) return rc;
    q->wait_w = width;
    q->wait_h = height;
    planes = q->planes + q->waiting * 3 * plane;
    for (uint32_t y = 0; y < height; y++) {
        const uint8_t *row = rgb + y * stride;
        float *p = planes + (size_t)y * width;

        for (uint32_t x = 0; x < width; x++)
            for (uint32_t c = 0; c < 3; c++) {
                uint8_t v = row[3 * x + c];

                q->least[c] = MIN(q->least[c], v);
                q->most[c] = MAX(q->most[c], v);
                p[c * plane + x] = (float)v / 255.0f;
            }
    }
    return ++q->waiting == q->batch ? tiles_run(q, reterr) : RC_OK;
}

/* A side in equal tiles: how many, and how wide each; they overlap by less than
 * their number. */
static uint32_t cut(uint64_t side, uint64_t *ret_n)
{
    *ret_n = (side + QUALITY_TILE_PX - 1) / QUALITY_TILE_PX;
    return (uint32_t)((side + *ret_n - 1) / *ret_n);
}

static uint64_t cut_at(uint64_t side, uint64_t n, uint32_t tile, uint64_t i)
{
    return n == 1 ? 0 : i * (side - tile) / (n - 1);
}

enum rc quality_add(struct quality *q, const uint8_t *rgb, uint32_t width, uint32_t height,
                    size_t stride, struct err *reterr)
{
    uint64_t nx, ny;
    uint32_t w, h;

    if (width < QUALITY_SIDE_MIN_PX || height < QUALITY_SIDE_MIN_PX) return RC_OK;
    w = cut(width, &nx);
    h = cut(height, &ny);
    for (uint64_t j = 0; j < ny; j++) {
        for (uint64_t i = 0; i < nx; i++) {
            const uint8_t *p =
                rgb + cut_at(height, ny, h, j) * stride + 3 * cut_at(width, nx, w, i);
            enum rc rc = tile_add(q, p, w, h, stride, reterr);

            if (rc != RC_OK) return rc;
        }
    }
    return RC_OK;
}

enum rc quality_end(struct quality *q, struct analysis_result *ret, struct err *reterr)
{
    enum rc rc = tiles_run(q, reterr);
    bool speaks = q->weight >= CONTENT_MIN;
    struct analysis_result r = {.score_n = q->class_n + q->measure_n, .tile_n = q->tile_n};
    uint32_t best = 0;

    if (rc != RC_OK) return rc;
    if (q->tile_n == 0)
        return err_set(reterr, RC_INVAL, "smaller than %d x %d pixels", QUALITY_SIDE_MIN_PX,
                       QUALITY_SIDE_MIN_PX);
    if (memcmp(q->least, q->most, sizeof(q->least)) == 0)
        return err_set(reterr, RC_INVAL,
                       "no contrast: not analysable (all pixels have one colour)");
    for (uint32_t i = 0; i < r.score_n; i++) {
        bool content =
            i == q->class_n + q->content_idx; /* weighed by itself it would say nothing */

        r.score[i].value =
            speaks && !content ? q->weighted[i] / q->weight : q->plain[i] / q->tile_n;
        (void)snprintf(r.score[i].name, sizeof(r.score[i].name), "%s", q->name[i]);
        if (i < q->class_n && r.score[i].value > r.score[best].value) best = i;
    }
    (void)snprintf(r.label, sizeof(r.label), "%s", q->name[best]);
    *ret = r;
    return RC_OK;
}

enum rc quality_image(struct quality *q, uint64_t width, uint64_t height, bool slide,
                      uint32_t tiles_max, quality_read_cb read, void *data,
                      struct analysis_result *ret, struct err *reterr)
{
    uint64_t nx, ny, step = 1;
    uint8_t *rgb = NULL;
    enum rc rc = RC_OK;
    uint32_t w, h;

    if (width < QUALITY_SIDE_MIN_PX || height < QUALITY_SIDE_MIN_PX)
        return err_set(reterr, RC_INVAL, "smaller than %d x %d pixels", QUALITY_SIDE_MIN_PX,
                       QUALITY_SIDE_MIN_PX);
    if (width > UINT32_MAX || height > UINT32_MAX || tiles_max == 0)
        return err_set(reterr, RC_INVAL, "%llu x %llu pixels", (unsigned long long)width,
                       (unsigned long long)height);
    w = cut(width, &nx);
    h = cut(height, &ny);
    while (((nx + step - 1) / step) * ((ny + step - 1) / step) > tiles_max)
        step++; /* at most max(nx, ny): below 2^23 */
    rgb = malloc((size_t)3 * w * h);
    if (rgb == NULL) return err_set(reterr, RC_NOMEM, "tile");
    quality_begin(q, slide);
    for (uint64_t j = (ny - 1) % step / 2; j < ny; j += step) {
        for (uint64_t i = (nx - 1) % step / 2; i < nx; i += step) {
            rc = read(data, cut_at(width, nx, w, i), cut_at(height, ny, h, j), w, h, rgb, reterr);
            if (rc == RC_OK) rc = tile_add(q, rgb, w, h, (size_t)3 * w, reterr);
            if (rc != RC_OK) goto out;
        }
    }
    rc = quality_end(q, ret, reterr);
out:
    memset(rgb, 0, (size_t)3 * w * h);
    free(rgb);
    return rc;
}
