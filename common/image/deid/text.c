/* common/image/deid/text.c - is there text in the pixels of a file that is clean otherwise?
 *
 * text_find offers lines, the reader has the last word. Whatever keeps the pixels from being looked
 * at is a finding too: what nobody looked at is not cleared. */
#include "common/image/deid/dicom_deid.h"
#include "common/image/deid/text_find.h"
#include <time.h>

enum {
    PIXELS_MAX = 26000000,     /* 4 bytes each while searching; a camera of 24 megapixels passes */
    LEVEL_PIXELS_MIN = 1000000 /* of a pyramid, the smallest level that shows text of a viewer */
};
#define DECODER_BYTES_MAX (160u << 20)

struct search {
    const struct deid_reader *reader;
    deid_finding_cb cb;
    void *data;
    uint64_t until_ms;
    bool found;
};

static uint64_t cpu_ms(void)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* always there on Linux */
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void tell(struct search *s, uint32_t frame, enum deid_seen seen)
{
    struct deid_finding f = {
        .rule = DEID_PIXELS, .place = DEID_AT_FRAME, .path_n = 2, .path = {frame, (uint32_t)seen}};

    s->found = true;
    s->cb(s->data, &f);
}

static enum rc read_lines(struct search *s, const struct text_lines *lines, uint32_t frame,
                          struct err *reterr)
{
    for (uint32_t i = 0; i < lines->n; i++) {
        const struct text_line *l = &lines->line[i];
        bool text = false;
        enum rc rc;

        if (cpu_ms() > s->until_ms) {
            tell(s, frame, DEID_SEEN_TOO_SLOW);
            return RC_OK;
        }
        rc = s->reader->read(s->reader->ctx, l->crop, l->crop_width, TEXT_CROP_HEIGHT, &text,
                             reterr);
        if (rc != RC_OK) return rc;
        if (text) {
            tell(s, frame, DEID_SEEN_TEXT);
            return RC_OK;
        }
    }
    return RC_OK;
}

static enum rc look_at(struct search *s, struct image *img, uint32_t frame, struct err *reterr)
{
    const struct image_info *in = image_info(img);
    uint32_t level = frame == 0 ? in->level_n - 1 : 0; /* other frames have the first only */
    struct text_lines lines = {0};
    struct image_rect r = {0};
    uint64_t pixels;
    uint8_t *grey;
    enum rc rc;

    while (level > 0 && mul_sat(in->level[level].width, in->level[level].height) < LEVEL_PIXELS_MIN)
        level--;
    pixels = mul_sat(in->level[level].width, in->level[level].height);
    if (pixels > PIXELS_MAX) {
        tell(s, frame, DEID_SEEN_TOO_LARGE);
        return RC_OK;
    }
    if (cpu_ms() > s->until_ms) {
        tell(s, frame, DEID_SEEN_TOO_SLOW);
        return RC_OK;
    }
    r.width = (uint32_t)in->level[level].width;
    r.height = (uint32_t)in->level[level].height;
    grey = malloc((size_t)pixels);
    if (grey == NULL) return err_set(reterr, RC_NOMEM, "a frame");
    rc = image_read(img, level, frame, r, IMAGE_GREY8, grey, reterr);
    if (rc == RC_CORRUPT || rc == RC_UNIMPL || rc == RC_BUSY) {
        tell(s, frame, DEID_SEEN_NOT_DECODED);
        rc = RC_OK;
        goto out;
    }
    if (rc == RC_OK) rc = text_find(grey, r.width, r.height, &lines, reterr);
    if (rc == RC_OK && lines.n > 0 && s->reader == NULL) tell(s, frame, DEID_SEEN_NO_READER);
    if (rc == RC_OK && s->reader != NULL) rc = read_lines(s, &lines, frame, reterr);
out:
    text_lines_free(&lines);
    free(grey);
    return rc;
}

/* DICOM: an image that somebody may have written into? */
static enum rc dicom_needs(const struct image_source *src, const struct deid_profile *p,
                           bool *ret_needs, struct err *reterr)
{
    struct dcm *d = calloc(1, sizeof(*d));
    char sop_class[65], type[128];
    enum rc rc;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "DICOM reader");
    rc = dcm_parse(d, src, DECODER_BYTES_MAX, reterr);
    *ret_needs = true; /* what breaks here is not decoded later */
    if (rc == RC_OK) {
        dcm_text(d, DCM_TAG(0x0008, 0x0016), sop_class, sizeof(sop_class));
        dcm_text(d, DCM_TAG(0x0008, 0x0008), type, sizeof(type));
        *ret_needs = dcm_find(d, DCM_TAG(0x7fe0, 0x0010)) != NULL &&
                     !dicom_is_computed(sop_class) &&
                     !(p->text == DEID_LOOK_DOUBTFUL && dicom_is_original(sop_class, type));
    }
    dcm_deinit(d);
    free(d);
    return rc == RC_CORRUPT || rc == RC_UNIMPL || rc == RC_BUSY ? RC_OK : rc;
}

/* Of plain files: pictures; slides only where all is looked at. Where plain pictures go to
 * quarantine, a TIFF that was accepted is a slide. */
static bool file_needs(const char *type, const struct deid_profile *p, const struct image_info *in)
{
    if (p->text == DEID_LOOK_ALL || strcmp(type, "image/tiff") != 0) return true;
    return p->plain == DEID_PIXELS_ACCEPT && strcmp(in->kind, "slide") != 0;
}

enum rc deid_text(const struct image_source *src, const struct deid_profile *p,
                  const struct deid_reader *reader, deid_finding_cb cb, void *data,
                  enum deid_outcome *io_outcome, struct err *reterr)
{
    const struct image_limits limits = {.memory_bytes_max = DECODER_BYTES_MAX,
                                        .pixels_max = 2 * PIXELS_MAX};
    struct search s = {
        .reader = reader, .cb = cb, .data = data, .until_ms = cpu_ms() + DEID_TEXT_CPU_MS};
    struct image *img = NULL;
    const char *type = "";
    bool needs = true;
    enum rc rc;

    if (*io_outcome != DEID_ACCEPTED || p->text == DEID_LOOK_NEVER) return RC_OK;
    rc = image_sniff_source(src, &type, reterr);
    if (rc != RC_OK) return rc;
    if (strcmp(type, "application/dicom") == 0) {
        rc = dicom_needs(src, p, &needs, reterr);
    } else {
        needs = strncmp(type, "image/", 6) == 0;
    }
    if (rc != RC_OK || !needs) return rc;
    rc = image_open(src, type, &limits, &img, reterr);
    if (rc == RC_CORRUPT || rc == RC_UNIMPL || rc == RC_BUSY) {
        tell(&s, 0, rc == RC_BUSY ? DEID_SEEN_TOO_LARGE : DEID_SEEN_NOT_DECODED);
        rc = RC_OK;
    } else if (rc == RC_OK && file_needs(type, p, image_info(img))) {
        uint32_t frame_n = image_info(img)->frame_n, n = MIN(frame_n, (uint32_t)DEID_TEXT_FRAMES);

        for (uint32_t i = 0; i < n && rc == RC_OK && !s.found; i++) {
            uint32_t frame = n == 1 ? 0 : (uint32_t)((uint64_t)i * (frame_n - 1) / (n - 1));

            rc = look_at(&s, img, frame, reterr);
        }
    }
    image_close(img);
    if (rc == RC_OK && s.found) *io_outcome = DEID_QUARANTINED;
    return rc;
}
