/* common/image/deid/text_reader.c - see text_reader.h. What was read is compared and forgotten: no
 * text leaves this file. */
#include "common/image/deid/text_reader.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <tesseract/capi.h>

#define TESSDATA "/usr/share/tesseract-ocr/5/tessdata"
enum {
    DATA_BYTES_MAX = 32 << 20, /* Debian's files are 2.4 and 4 MiB */
    SURE = 85,                 /* of 100, of one symbol */
    SYMBOLS_MAX = 128,
    AGREE_MIN = 3,
    DIGITS_MIN = 5,
    KANJI_WIDTH_MAX = 70, /* pixels of a crop: its kanji are about 32 wide */
    DPI = 300             /* of the crops: a letter of 32 pixels is one of 8 points */
};

struct language {
    const char *name, *package;
    char *data;
    size_t n;
    TessBaseAPI *api; /* NULL until it is needed */
};
struct text_reader {
    struct language lang[2];
};

static enum rc load(const char *dir, struct language *l, struct err *reterr)
{
    char path[512];
    struct stat st;
    FILE *f;
    enum rc rc = RC_OK;

    (void)snprintf(path, sizeof(path), "%s/%s.traineddata", dir, l->name);
    f = fopen(path, "rb");
    if (f == NULL)
        return err_set(reterr, RC_NOTFOUND, "%s: %s; install %s", path, strerror(errno),
                       l->package);
    if (fstat(fileno(f), &st) != 0 || st.st_size <= 0 || st.st_size > DATA_BYTES_MAX) {
        rc = err_set(reterr, RC_IO, "%s: no language data of at most %d bytes", path,
                     DATA_BYTES_MAX);
        goto out;
    }
    l->n = (size_t)st.st_size;
    l->data = malloc(l->n);
    if (l->data == NULL) {
        rc = err_set(reterr, RC_NOMEM, "%s", path);
    } else if (fread(l->data, 1, l->n, f) != l->n) {
        rc = err_set(reterr, RC_IO, "%s: it cannot be read to its end", path);
    }
out:
    (void)fclose(f); /* only read */
    return rc;
}

enum rc text_reader_open(const char *dir, struct text_reader **ret, struct err *reterr)
{
    struct text_reader *r = calloc(1, sizeof(*r));
    enum rc rc;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "a reader");
    if (dir == NULL) dir = TESSDATA;
    r->lang[0] = (struct language){.name = "eng", .package = "tesseract-ocr-eng"};
    r->lang[1] = (struct language){.name = "jpn", .package = "tesseract-ocr-jpn"};
    rc = load(dir, &r->lang[0], reterr);
    if (rc == RC_OK) rc = load(dir, &r->lang[1], reterr);
    if (rc != RC_OK) {
        text_reader_close(r);
        return rc;
    }
    *ret = r;
    return RC_OK;
}

void text_reader_close(struct text_reader *r)
{
    if (r == NULL) return;
    for (size_t i = 0; i < ARRAY_N(r->lang); i++) {
        if (r->lang[i].api != NULL) TessBaseAPIDelete(r->lang[i].api);
        free(r->lang[i].data);
    }
    free(r);
}

static enum rc start(struct language *l, struct err *reterr)
{
    /* names and numbers stand in no dictionary; polarity is settled before */
    char *names[] = {"load_system_dawg", "load_freq_dawg", "load_punc_dawg", "load_number_dawg",
                     "tessedit_do_invert"};
    char *values[] = {"0", "0", "0", "0", "0"};

    l->api = TessBaseAPICreate();
    if (l->api == NULL) return err_set(reterr, RC_NOMEM, "tesseract");
    if (TessBaseAPIInit5(l->api, l->data, (int)l->n, l->name, OEM_LSTM_ONLY, NULL, 0, names, values,
                         ARRAY_N(names), 0) != 0) {
        TessBaseAPIDelete(l->api);
        l->api = NULL;
        return err_set(reterr, RC_INTERNAL, "tesseract does not start with '%s'", l->name);
    }
    TessBaseAPISetPageSegMode(l->api, PSM_SINGLE_LINE);
    return RC_OK;
}

struct reading { /* forgotten at the end of text_reader_read */
    uint32_t n;  /* symbols, at most SYMBOLS_MAX */
    struct symbol {
        char latin; /* a lower-case letter or digit; 0: other */
        bool kanji, sure;
    } s[SYMBOLS_MAX];
};

static struct symbol symbol_of(const char *text, float confidence)
{
    struct symbol s = {.sure = confidence >= (float)SURE};
    unsigned char c = (unsigned char)text[0];

    if (text[0] != 0 && text[1] == 0 && isalnum(c)) s.latin = (char)tolower(c);
    s.kanji = c >= 0xe4 && c <= 0xe9; /* U+4000 .. U+9FFF in UTF-8 */
    return s;
}

static void readings(TessBaseAPI *api, struct reading *ret)
{
    TessResultIterator *it = TessBaseAPIGetIterator(api);

    if (it == NULL) return; /* nothing was read */
    do {
        char *text = TessResultIteratorGetUTF8Text(it, RIL_SYMBOL);

        if (text == NULL) continue;
        ret->s[ret->n++] = symbol_of(text, TessResultIteratorConfidence(it, RIL_SYMBOL));
        TessDeleteText(text);
    } while (ret->n < SYMBOLS_MAX && TessResultIteratorNext(it, RIL_SYMBOL));
    TessResultIteratorDelete(it);
}

/* The longest common subsequence of letters and digits. */
static uint32_t agreement(const struct reading *a, const struct reading *b)
{
    uint8_t row[SYMBOLS_MAX + 1] = {0};

    for (uint32_t i = 0; i < a->n; i++) {
        uint8_t corner = 0; /* of the row above */

        for (uint32_t j = 0; j < b->n; j++) {
            uint8_t above = row[j + 1];

            row[j + 1] = a->s[i].latin != 0 && a->s[i].latin == b->s[j].latin
                             ? (uint8_t)(corner + 1)
                             : MAX(above, row[j]);
            corner = above;
        }
    }
    return row[b->n];
}

/* Two models that were trained apart imagine different letters in a texture, and read the same ones
 * in a text. A run of digits, or kanji that fill the line, do with one. */
static bool is_text(const struct reading *eng, const struct reading *jpn, uint32_t width)
{
    uint32_t digits = 0, kanji = 0;

    for (uint32_t i = 0; i < eng->n; i++)
        digits += eng->s[i].sure && eng->s[i].latin >= '0' && eng->s[i].latin <= '9';
    for (uint32_t i = 0; i < jpn->n; i++)
        kanji += jpn->s[i].sure && jpn->s[i].kanji;
    if (agreement(eng, jpn) >= AGREE_MIN) return true;
    if (digits >= DIGITS_MIN && 10 * digits >= 6 * eng->n) return true;
    return (kanji >= 3 && kanji * KANJI_WIDTH_MAX >= width) || (kanji == 2 && jpn->n <= 3);
}

enum rc text_reader_read(struct text_reader *r, const uint8_t *grey, uint32_t width,
                         uint32_t height, bool *ret_text, struct err *reterr)
{
    struct reading got[ARRAY_N(r->lang)] = {0};

    for (size_t i = 0; i < ARRAY_N(r->lang); i++) {
        struct language *l = &r->lang[i];

        if (l->api == NULL) {
            enum rc rc = start(l, reterr);

            if (rc != RC_OK) return rc;
        }
        TessBaseAPISetImage(l->api, grey, (int)width, (int)height, 1, (int)width);
        TessBaseAPISetSourceResolution(l->api, DPI);
        if (TessBaseAPIRecognize(l->api, NULL) == 0) readings(l->api, &got[i]);
        TessBaseAPIClear(l->api);
    }
    *ret_text = is_text(&got[0], &got[1], width);
    return RC_OK;
}
