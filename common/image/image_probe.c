/* common/image/image_probe.c - prints what the readers make of files, one row each; for people and
 * tests. image_probe [--attributes] [--dump DIR] [--rss-max-mib N] FILE...
 *   decoded|unimpl|corrupt|busy  media type  kind  size  levels  frames  mean grey | reason  file
 * All frames of all levels are decoded, tile by tile. --dump writes the smallest level that has at
 * least 512 columns, of the middle frame, as a PPM file. Exit code 0 when every file got a row;
 * 1 for a file that could not be read, 2 when the process took more than N MiB. */
#include "common/base/strutil.h"
#include "common/image/image.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { READ_PIXELS_MAX = 16 << 20 };

struct sums {
    uint64_t sum, n;
};

static enum rc walk_level(struct image *img, uint32_t level, uint32_t frame, struct sums *s,
                          struct err *err)
{
    const struct image_level *l = &image_info(img)->level[level];
    uint32_t tw = l->tile_width, th = MAX(1, MIN(l->tile_height, (uint32_t)READ_PIXELS_MAX / tw));
    uint8_t *p = malloc((size_t)tw * th);
    enum rc rc = p == NULL ? err_set(err, RC_NOMEM, "tile") : RC_OK;

    for (uint64_t y = 0; rc == RC_OK && y < l->height; y += th) {
        for (uint64_t x = 0; rc == RC_OK && x < l->width; x += tw) {
            struct image_rect r = {.x = x,
                                   .y = y,
                                   .width = (uint32_t)MIN((uint64_t)tw, l->width - x),
                                   .height = (uint32_t)MIN((uint64_t)th, l->height - y)};

            rc = image_read(img, level, frame, r, IMAGE_GREY8, p, err);
            for (size_t i = 0; rc == RC_OK && i < (size_t)r.width * r.height; i++)
                s->sum += p[i];
            s->n += (uint64_t)r.width * r.height;
        }
    }
    free(p);
    return rc;
}

static void dump(struct image *img, const char *dir, const char *path)
{
    const struct image_info *in = image_info(img);
    const char *base = strrchr(path, '/');
    uint32_t level = 0, frame = in->frame_n / 2;
    struct image_rect r;
    struct err err;
    char name[4096];
    uint8_t *p;
    FILE *f;

    while (level + 1 < in->level_n && in->level[level + 1].width >= 512)
        level++;
    r = (struct image_rect){.width = (uint32_t)in->level[level].width,
                            .height = (uint32_t)in->level[level].height};
    p = malloc((size_t)r.width * r.height * 3);
    (void)snprintf(name, sizeof(name), "%s/%s.ppm", dir, base == NULL ? path : base + 1);
    f = fopen(name, "wb");
    if (p != NULL && f != NULL &&
        image_read(img, level, level == 0 ? frame : 0, r, IMAGE_RGB8, p, &err) == RC_OK) {
        (void)fprintf(f, "P6\n%u %u\n255\n", r.width, r.height);
        (void)fwrite(p, 3, (size_t)r.width * r.height, f);
    } else {
        (void)fprintf(stderr, "%s: not written\n", name);
    }
    if (f != NULL) (void)fclose(f);
    free(p);
}

static enum rc print_attribute(void *data, const char *name, const char *value)
{
    (void)data;
    (void)printf("  %s=%s\n", name, value);
    return RC_OK;
}

static int probe(const char *path, bool attributes, const char *dump_dir)
{
    struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    struct image_source src;
    struct image *img = NULL;
    const char *type = "?";
    struct sums s = {0};
    struct err err = {.rc = RC_OK};
    enum rc rc = image_source_file_open(path, &src, &err);

    if (rc == RC_OK) rc = image_sniff_source(&src, &type, &err);
    if (rc != RC_OK) {
        (void)fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    rc = image_open(&src, NULL, &limits, &img, &err);
    if (rc == RC_OK) {
        const struct image_info *in = image_info(img);

        for (uint32_t f = 0; rc == RC_OK && f < in->frame_n; f++)
            rc = walk_level(img, 0, f, &s, &err);
        for (uint32_t l = 1; rc == RC_OK && l < in->level_n; l++)
            rc = walk_level(img, l, 0, &s, &err);
        if (rc == RC_OK) {
            (void)printf("decoded  %-18s %-10s %llux%llux%u levels=%u frames=%u associated=%u "
                         "mean=%.1f  %s\n",
                         type, in->kind, (unsigned long long)in->level[0].width,
                         (unsigned long long)in->level[0].height, in->channel_n, in->level_n,
                         in->frame_n, in->associated_n, (double)s.sum / (double)MAX(s.n, 1), path);
            if (dump_dir != NULL) dump(img, dump_dir, path);
        }
    }
    if (rc != RC_OK) {
        (void)printf("%-8s %-18s %s  %s\n", rc_name(rc) + 3, type, err.msg, path);
    }
    image_close(img);
    if (attributes && image_attributes(&src, print_attribute, NULL, &err) != RC_OK) {
        (void)printf("  attributes: %s\n", err.msg);
    }
    image_source_file_close(&src);
    return 0;
}

int main(int argc, char **argv)
{
    const char *dump_dir = NULL;
    bool attributes = false;
    uint64_t rss_mib_max = UINT64_MAX;
    struct rusage ru;
    int bad = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--attributes") == 0) {
            attributes = true;
        } else if (strcmp(argv[i], "--dump") == 0 && i + 1 < argc) {
            dump_dir = argv[++i];
        } else if (strcmp(argv[i], "--rss-max-mib") == 0 && i + 1 < argc &&
                   str_to_u64(argv[i + 1], 1 << 30, &rss_mib_max)) {
            i++;
        } else {
            bad |= probe(argv[i], attributes, dump_dir);
        }
    }
    if (getrusage(RUSAGE_SELF, &ru) == 0 && (uint64_t)ru.ru_maxrss / 1024 > rss_mib_max) {
        (void)fprintf(stderr, "took %ld MiB of memory, %llu are allowed\n", ru.ru_maxrss / 1024,
                      (unsigned long long)rss_mib_max);
        return 2;
    }
    return bad;
}
