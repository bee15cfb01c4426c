/* tests/deid/text/text_probe.c - FILE...: "text|none|other MILLISECONDS FILE" a file: is text found
 * in the first frame's pixels? Without a sandbox and whatever the class; for measure. */
#include "common/base/clock.h"
#include "common/image/deid/deid.h"
#include "common/image/deid/text_reader.h"
#include <stdio.h>
#include <string.h>

static const char *seen;

static enum rc line_read(void *ctx, const uint8_t *grey, uint32_t width, uint32_t height,
                         bool *ret_text, struct err *reterr)
{
    return text_reader_read(ctx, grey, width, height, ret_text, reterr);
}

static void finding(void *data, const struct deid_finding *f)
{
    (void)data;
    seen = f->path[1] == DEID_SEEN_TEXT ? "text" : "other";
}

int main(int argc, char **argv)
{
    static const struct deid_profile profile = {.text = DEID_LOOK_ALL};
    struct text_reader *reader = NULL;
    struct deid_reader lines = {.read = line_read};
    struct err err = {0};

    if (text_reader_open(NULL, &reader, &err) != RC_OK) {
        (void)fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    lines.ctx = reader;
    for (int i = 1; i < argc; i++) {
        enum deid_outcome outcome = DEID_ACCEPTED;
        struct image_source src;
        uint64_t since = clock_boot_ms();

        seen = "none";
        if (image_source_file_open(argv[i], &src, &err) != RC_OK ||
            deid_text(&src, &profile, &lines, finding, NULL, &outcome, &err) != RC_OK) {
            (void)fprintf(stderr, "%s: %s\n", argv[i], err.msg);
            return 1;
        }
        image_source_file_close(&src);
        (void)printf("%s %llu %s\n", seen, (unsigned long long)(clock_boot_ms() - since), argv[i]);
    }
    text_reader_close(reader);
    return 0;
}
