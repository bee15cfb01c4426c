/* tests/fuzz/deid/fuzz_look.c - whatever a file says of its pictures, what decoders answer, what a
 * search offers and a reader says: nothing is cleared that was not looked at, to the last frame
 * and line that should be, and nothing is asked for outside of a picture.
 *
 * common/image/deid/text.c stands between stand-ins for decoders, search, reader and clock, which
 * draw their answers from the input; the search has a target of its own (fuzz_text), so has the
 * reader (fuzz_reader). */
#include "common/image/deid/dicom_deid.h"
#include "common/image/deid/text_find.h"
#include "tests/fuzz/in.h"
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);

static struct in answers;
static struct image_info info;
static uint64_t spent_ms;
static unsigned opened, crops; /* not given back yet */
/* what was looked at, and what forbids to clear it */
static uint32_t looked_n, looked[DEID_TEXT_FRAMES], unread, found_n;
static bool picture, passes, must_find, text_said;

static bool one_in(uint32_t n)
{
    return take(&answers, 1) % n == n - 1;
}

/* Mostly fine; else a code that is one's own, or of the system. */
static enum rc answer(struct err *reterr)
{
    static const enum rc CODES[] = {RC_CORRUPT, RC_UNIMPL, RC_BUSY, RC_IO, RC_NOMEM};

    if (!one_in(16)) return RC_OK;
    return err_set(reterr, CODES[take(&answers, 1) % ARRAY_N(CODES)], "as the input says");
}

static bool of_content(enum rc rc)
{
    return rc == RC_CORRUPT || rc == RC_UNIMPL || rc == RC_BUSY;
}

/* ---- stand-ins ---- */
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    CHECK(clock == CLOCK_PROCESS_CPUTIME_ID);
    if (one_in(32)) spent_ms += take(&answers, 2) % (2 * DEID_TEXT_CPU_MS);
    *ret = (struct timespec){(time_t)(spent_ms / 1000), (long)(spent_ms % 1000 * 1000000)};
    return 0;
}

enum rc image_sniff_source(const struct image_source *src, const char **ret_type,
                           struct err *reterr)
{
    static const char *const TYPES[] = {"application/dicom", "image/jpeg", "image/png",
                                        "image/tiff",        "video/mp4",  "application/pdf"};

    enum rc rc = answer(reterr);

    (void)src;
    *ret_type = TYPES[take(&answers, 1) % ARRAY_N(TYPES)];
    picture = strcmp(*ret_type, "application/dicom") == 0 || strncmp(*ret_type, "image/", 6) == 0;
    return of_content(rc) ? RC_IO : rc; /* it has the source's only */
}

enum rc dcm_parse(struct dcm *d, const struct image_source *src, uint64_t memory_bytes_max,
                  struct err *reterr)
{
    CHECK(memory_bytes_max > 0);
    d->src = *src;
    opened++;
    return answer(reterr);
}

void dcm_deinit(struct dcm *d)
{
    (void)d;
    CHECK(opened-- > 0);
}

void dcm_text(struct dcm *d, uint32_t tag, char *ret, size_t cap)
{
    size_t n = take(&answers, 1) % cap;

    (void)d;
    CHECK(tag == DCM_TAG(0x0008, 0x0016) || tag == DCM_TAG(0x0008, 0x0008));
    memset(ret, 'x', n);
    ret[n] = 0;
}

const struct dcm_elem *dcm_find(const struct dcm *d, uint32_t tag)
{
    CHECK(tag == DCM_TAG(0x7fe0, 0x0010));
    passes = one_in(8);
    return passes ? NULL : &d->elem[0];
}

bool dicom_is_computed(const char *sop_class)
{
    CHECK(strlen(sop_class) < 65);
    passes = one_in(8);
    return passes;
}

bool dicom_is_original(const char *sop_class, const char *image_type)
{
    CHECK(strlen(sop_class) < 65 && strlen(image_type) < 128);
    passes = one_in(4);
    return passes;
}

static uint64_t side(void)
{
    uint32_t how = take(&answers, 1);

    if (how < 240) return 1 + how % 32;
    /* a level that is preferred, at the least cost; and what is too large, whatever the other is */
    return how < 248 ? 1024 : ((uint64_t)take(&answers, 4) << 8 | how) << 20;
}

enum rc image_open(const struct image_source *src, const char *media_type,
                   const struct image_limits *limits, struct image **ret_img, struct err *reterr)
{
    static const char *const KINDS[] = {"slide", "image", "multiframe", "unknown"};
    enum rc rc;

    (void)src;
    CHECK(media_type[0] != 0 && limits->memory_bytes_max > 0 && limits->pixels_max > 0);
    rc = answer(reterr);
    must_find |= of_content(rc);
    if (rc != RC_OK) return rc;
    info = (struct image_info){.media_type = media_type,
                               .kind = KINDS[take(&answers, 1) % ARRAY_N(KINDS)],
                               .level_n = one_in(4) ? 1 + take(&answers, 1) % IMAGE_LEVELS_MAX : 1,
                               .frame_n = one_in(2) ? 1 + take(&answers, 4) % UINT32_MAX : 1};
    for (uint32_t i = 0; i < info.level_n; i++)
        info.level[i] = (struct image_level){.width = side(), .height = side()};
    opened++;
    *ret_img = (struct image *)&info;
    return RC_OK;
}

void image_close(struct image *img)
{
    if (img != NULL) CHECK(opened-- > 0);
}

const struct image_info *image_info(const struct image *img)
{
    CHECK((const void *)img == &info);
    return &info;
}

/* Which level of a pyramid shows what a viewer's text would be on: the smallest of a million
 * pixels, the largest where none has them. */
static uint32_t level_of(uint32_t frame)
{
    uint32_t level = 0;

    for (uint32_t i = 1; frame == 0 && i < info.level_n; i++) {
        if ((double)info.level[i].width * (double)info.level[i].height >= 1e6) level = i;
    }
    return level;
}

enum rc image_read(struct image *img, uint32_t level_idx, uint32_t frame_idx,
                   struct image_rect rect, enum image_format format, uint8_t *out,
                   struct err *reterr)
{
    const struct image_level *l = &info.level[level_idx];
    enum rc rc = answer(reterr);

    CHECK((void *)img == &info && level_idx == level_of(frame_idx) && frame_idx < info.frame_n);
    CHECK(rect.x == 0 && rect.y == 0 && rect.width == l->width && rect.height == l->height);
    CHECK(format == IMAGE_GREY8 && (uint64_t)rect.width * rect.height <= 26000000);
    CHECK(looked_n < DEID_TEXT_FRAMES && (looked_n == 0 || looked[looked_n - 1] < frame_idx));
    looked[looked_n++] = frame_idx;
    out[0] = 1;
    out[(size_t)rect.width * rect.height - 1] = 1; /* it has room */
    must_find |= of_content(rc);
    return rc;
}

enum rc text_find(const uint8_t *grey, uint32_t width, uint32_t height, struct text_lines *ret,
                  struct err *reterr)
{
    enum rc rc = answer(reterr);

    CHECK(grey[0] == 1 && grey[(size_t)width * height - 1] == 1);
    if (of_content(rc)) rc = RC_NOMEM; /* it has no other */
    ret->n = take(&answers, 1) % (TEXT_LINES_MAX + 1);
    for (uint32_t i = 0; i < ret->n; i++) {
        ret->line[i] = (struct text_line){.crop_width = 1 + take(&answers, 1) % 8};
        ret->line[i].crop = calloc(ret->line[i].crop_width, TEXT_CROP_HEIGHT);
        if (ret->line[i].crop == NULL) abort();
    }
    crops += ret->n;
    unread += ret->n;
    return rc;
}

void text_lines_free(struct text_lines *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->line[i].crop);
    crops -= t->n;
    t->n = 0;
}

static enum rc read_line(void *ctx, const uint8_t *grey, uint32_t width, uint32_t height,
                         bool *ret_text, struct err *reterr)
{
    enum rc rc = answer(reterr);

    CHECK(ctx == &info && height == TEXT_CROP_HEIGHT && !text_said && unread > 0);
    CHECK(grey[0] == 0 && grey[(size_t)width * height - 1] == 0); /* it is there */
    unread--;
    if (of_content(rc)) rc = RC_INTERNAL;
    if (rc == RC_OK) *ret_text = text_said = one_in(16);
    return rc;
}

/* ---- the target ---- */
static void on_finding(void *data, const struct deid_finding *f)
{
    CHECK(data == &info && deid_finding_valid(f) && f->rule == DEID_PIXELS);
    found_n++;
}

/* May it stay as it is without a look? deid.h says of what. */
static bool passes_unseen(const struct deid_profile *p)
{
    if (p->text == DEID_LOOK_NEVER || passes || !picture) return true;
    if (info.media_type == NULL) return false;
    if (p->text == DEID_LOOK_ALL || strcmp(info.media_type, "image/tiff") != 0) return false;
    return p->plain == DEID_PIXELS_QUARANTINE || strcmp(info.kind, "slide") == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const struct deid_reader reader = {&info, read_line};
    const struct image_source src = {0};
    struct deid_profile p = {0};
    enum deid_outcome outcome;
    struct err err = {0};
    enum rc rc;

    answers = (struct in){data, n};
    p.text = take(&answers, 1) % 8 != 0 ? (enum deid_look)(take(&answers, 1) % 2) : DEID_LOOK_NEVER;
    p.plain = take(&answers, 1) % 2 != 0 ? DEID_PIXELS_ACCEPT : DEID_PIXELS_QUARANTINE;
    outcome = one_in(16) ? (enum deid_outcome)(take(&answers, 1) % DEID_OUTCOME_N) : DEID_ACCEPTED;
    info = (struct image_info){0};
    spent_ms = looked_n = unread = found_n = 0;
    picture = passes = must_find = text_said = false;
    if (outcome != DEID_ACCEPTED) { /* nothing can be won by a look */
        enum deid_outcome before = outcome;

        rc = deid_text(&src, &p, &reader, on_finding, &info, &outcome, &err);
        CHECK(rc == RC_OK && outcome == before && found_n == 0 && looked_n == 0);
        return 0;
    }
    rc = deid_text(&src, &p, one_in(8) ? NULL : &reader, on_finding, &info, &outcome, &err);
    CHECK(opened == 0 && crops == 0 && found_n <= 1);
    if (rc != RC_OK) {
        CHECK(!of_content(rc));                             /* that is a verdict */
        CHECK(err.msg[0] != 0 && outcome == DEID_ACCEPTED); /* the caller does not take it */
        return 0;
    }
    CHECK(outcome == (found_n > 0 ? DEID_QUARANTINED : DEID_ACCEPTED));
    if (found_n > 0) return 0;
    CHECK(!must_find && !text_said && unread == 0);
    if (passes_unseen(&p)) return 0;
    CHECK(looked_n > 0); /* of no picture at all, too */
    CHECK(looked_n == MIN(info.frame_n, (uint32_t)DEID_TEXT_FRAMES));
    CHECK(looked[0] == 0 && looked[looked_n - 1] == info.frame_n - 1);
    return 0;
}
