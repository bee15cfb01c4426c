/* common/image/sniff.c - media type from the first bytes. Names and extensions are not asked: the
 * same bytes get the same type whatever they are called. */
#include "common/base/le.h"
#include "common/image/image_priv.h"

struct magic {
    size_t off, n;
    const char *bytes, *type;
};

static const struct magic magics[] = {
    /* first: its preamble may pose as another format (PS3.10 7.1, dual-personality files) */
    {128, 4, "DICM", "application/dicom"},
    {0, 3, "\xff\xd8\xff", "image/jpeg"}, /* before what looks behind the first four bytes */
    {0, 8, "\x89PNG\r\n\x1a\n", "image/png"},
    {0, 4, "II*\0", "image/tiff"},
    {0, 4, "MM\0*", "image/tiff"},
    {0, 4, "II+\0", "image/tiff"}, /* BigTIFF */
    {0, 4, "MM\0+", "image/tiff"},
    {0, 12, "\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"},
    {0, 4, "\xff\x4f\xff\x51", "image/jp2"}, /* a bare codestream */
    {0, 6, "GIF87a", "image/gif"},
    {0, 6, "GIF89a", "image/gif"},
    {8, 4, "WEBP", "image/webp"},
    {8, 4, "AVI ", "video/x-msvideo"},
    {4, 4, "ftyp", "video/mp4"},
    {0, 5, "%PDF-", "application/pdf"},
    {0, 4, "PK\3\4", "application/zip"},
    {0, 2, "\x1f\x8b", "application/gzip"},
};

/* JPEG and JPEG-LS differ in the frame header only: walk the markers that are in sight. */
static const char *sniff_jpeg(const uint8_t *p, size_t n)
{
    size_t at = 2;

    while (at + 4 <= n && p[at] == 0xff) {
        if (p[at + 1] == 0xf7) return "image/jls";
        if (p[at + 1] == 0xff) {
            at++;
            continue;
        }
        at += 2 + (size_t)be_get(p + at + 2, 2);
    }
    return "image/jpeg";
}

/* A data set without preamble starts with an element of group 2 or 8: (gggg,eeee), then a
 * two-letter VR, or a 4-byte length that is even and small. */
static bool sniff_bare_dicom(const uint8_t *p, size_t n)
{
    uint16_t group, elem;

    if (n < 16) return false;
    group = le_get16(p);
    elem = le_get16(p + 2);
    if (group == 0x0800 && p[4] >= 'A' && p[4] <= 'Z' && p[5] >= 'A' && p[5] <= 'Z') return true;
    if (group != 0x0002 && group != 0x0008) return false;
    if (elem > 0x1200) return false;
    if (p[4] >= 'A' && p[4] <= 'Z' && p[5] >= 'A' && p[5] <= 'Z') return true;
    return le_get32(p + 4) <= 256 && le_get32(p + 4) % 2 == 0;
}

static bool is_text(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] < 32 && p[i] != '\n' && p[i] != '\r' && p[i] != '\t' && p[i] != '\f') return false;
        if (p[i] == 127) return false;
    }
    return n > 0;
}

const char *image_sniff(const uint8_t *head, size_t n)
{
    size_t at = 0;

    for (size_t i = 0; i < ARRAY_N(magics); i++) {
        const struct magic *m = &magics[i];

        if (n < m->off + m->n || memcmp(head + m->off, m->bytes, m->n) != 0) continue;
        if (m->off == 8 && memcmp(head, "RIFF", 4) != 0) continue;
        return strcmp(m->type, "image/jpeg") == 0 ? sniff_jpeg(head, n) : m->type;
    }
    if (n >= 14 && head[0] == 'B' && head[1] == 'M' && le_get32(head + 6) == 0) return "image/bmp";
    if (sniff_bare_dicom(head, n)) return "application/dicom";
    if (is_text(head, n)) {
        while (at < n && (head[at] == ' ' || head[at] == '\n' || head[at] == '\r'))
            at++;
        return at < n && (head[at] == '{' || head[at] == '[') ? "application/json" : "text/plain";
    }
    return "application/octet-stream";
}

enum rc image_sniff_source(const struct image_source *src, const char **ret_type,
                           struct err *reterr)
{
    uint8_t head[IMAGE_SNIFF_BYTES];
    size_t n = (size_t)MIN(src->size, (uint64_t)sizeof(head));
    enum rc rc = image_source_read(src, 0, head, n, reterr);

    if (rc == RC_OK) *ret_type = image_sniff(head, n);
    return rc;
}
