/* tests/fuzz/deid/fuzz_reader.c - whatever a recogniser answers, a line gets a verdict, by no more
 * than what was answered: letters that both models read, digits, kanji.
 *
 * tesseract is replaced behind its C interface by a stand-in that draws its answers from the input
 * and keeps what it gave, so that nothing of it may be left or given back twice. Input: flags (may
 * it be made, does it start, is a line read), the line's width, then symbols of the two models. */
#include "common/image/deid/text_find.h"
#include "common/image/deid/text_reader.h"
#include "tests/fuzz/in.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tesseract/capi.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define SEEN_MAX 128u                                          /* symbols of a line that count */
#define MORE_MAX 512u                                          /* that the stand-in has at most */
#define STAND_IN MIKURA_SOURCE_DIR "/tests/fuzz/deid/stand_in" /* its language data: a letter */

struct TessBaseAPI {
    unsigned lang; /* 0 English, 1 Japanese */
    const uint8_t *grey;
};
struct TessResultIterator {
    float confidence;
    char *text; /* its zero is the last byte of room: what reads past it is seen. NULL: none */
    char room[8];
};

static struct in answers;
static unsigned apis, iterators, texts; /* not given back yet */
static uint32_t shown_width;
static struct seen { /* what a model said, as the verdict may use it */
    uint32_t asked, n, digits, kanji, letters[128];
} seen[2];

enum { NO_ENGINE = 1, NO_START = 2, NOT_READ = 4, NO_RESULT = 8 }; /* << 4: of the second model */
static uint8_t flags;

static bool fails(unsigned lang, unsigned how)
{
    return ((unsigned)flags >> (4 * lang) & how) != 0;
}

/* ---- the stand-in ---- */
TessBaseAPI *TessBaseAPICreate(void); /* capi.h declares it in the manner of C++ */

TessBaseAPI *TessBaseAPICreate(void)
{
    TessBaseAPI *api;

    if (fails(apis, NO_ENGINE)) return NULL; /* English is made first */
    api = malloc(sizeof *api);
    if (api == NULL) abort();
    *api = (TessBaseAPI){.lang = apis++};
    return api;
}

void TessBaseAPIDelete(TessBaseAPI *api)
{
    CHECK(apis-- > 0);
    free(api);
}

int TessBaseAPIInit5(TessBaseAPI *api, const char *data, int data_size, const char *language,
                     TessOcrEngineMode mode, char **configs, int configs_size, char **vars_vec,
                     char **vars_values, size_t vars_vec_size, BOOL set_only_non_debug_params)
{
    (void)configs;
    (void)set_only_non_debug_params;
    CHECK(data_size == 1 && data[0] == language[0] && mode == OEM_LSTM_ONLY && configs_size == 0);
    for (size_t i = 0; i < vars_vec_size; i++)
        CHECK(vars_vec[i][0] != 0 && vars_values[i][0] != 0);
    return fails(api->lang, NO_START) ? -1 : 0;
}

void TessBaseAPISetPageSegMode(TessBaseAPI *api, TessPageSegMode mode)
{
    CHECK(api != NULL && mode == PSM_SINGLE_LINE);
}

void TessBaseAPISetImage(TessBaseAPI *api, const unsigned char *grey, int width, int height,
                         int bytes_per_pixel, int bytes_per_line)
{
    CHECK(bytes_per_pixel == 1 && bytes_per_line == width && height == TEXT_CROP_HEIGHT);
    CHECK((uint32_t)width == shown_width);
    api->grey = grey;
}

void TessBaseAPISetSourceResolution(TessBaseAPI *api, int ppi)
{
    CHECK(api->grey != NULL && ppi >= 70 && ppi <= 2400); /* else it guesses */
}

int TessBaseAPIRecognize(TessBaseAPI *api, ETEXT_DESC *monitor)
{
    CHECK(api->grey != NULL && monitor == NULL);
    return fails(api->lang, NOT_READ) ? -1 : 0;
}

void TessBaseAPIClear(TessBaseAPI *api)
{
    api->grey = NULL;
}

/* A symbol: its confidence, a kind, its bytes. Kinds: a letter or digit that both models have
 * often, a kanji, any bytes, none. */
static void next_symbol(TessResultIterator *it)
{
    static const float ODD[] = {NAN, INFINITY, -INFINITY, -1};
    uint32_t c = take(&answers, 1), kind = take(&answers, 1);
    char text[sizeof it->room] = {0};
    size_t n;

    it->confidence = c < 252 ? (float)c / 2 : ODD[c - 252];
    if (kind < 128) {
        text[0] = "0123456789abcXYZ"[kind % 16];
    } else if (kind < 192) {
        text[0] = (char)(0xe0 + kind % 16);
        text[1] = (char)0xb8;
        text[2] = (char)(0x80 + kind % 64);
    } else {
        for (uint32_t i = 0; i <= kind % 7; i++)
            text[i] = (char)take(&answers, 1);
    }
    n = strlen(text) + 1;
    it->text = kind < 248 ? memcpy(it->room + sizeof it->room - n, text, n) : NULL;
}

/* The iterator is the model's: which one, is what the reader asks first and second. */
static struct seen *now;
static uint32_t left;

TessResultIterator *TessBaseAPIGetIterator(TessBaseAPI *api)
{
    TessResultIterator *it;

    CHECK(api->grey != NULL);
    if (fails(api->lang, NO_RESULT)) return NULL;
    it = malloc(sizeof *it);
    if (it == NULL) abort();
    now = &seen[api->lang];
    left = take(&answers, 1) % 16 != 0 ? take(&answers, 1) % 16 : take(&answers, 2) % MORE_MAX;
    next_symbol(it);
    iterators++;
    return it;
}

char *TessResultIteratorGetUTF8Text(const TessResultIterator *it, TessPageIteratorLevel level)
{
    CHECK(level == RIL_SYMBOL);
    now->asked++;
    if (it->text == NULL) return NULL;
    CHECK(now->n < SEEN_MAX);
    texts++;
    return it->text;
}

float TessResultIteratorConfidence(const TessResultIterator *it, TessPageIteratorLevel level)
{
    unsigned char c = (unsigned char)it->text[0];

    CHECK(level == RIL_SYMBOL);
    now->n++;
    if (c < 128 && isalnum(c) && it->text[1] == 0) now->letters[tolower(c)]++;
    now->digits += isdigit(c) && it->text[1] == 0 && it->confidence >= 85;
    now->kanji += c >= 0xe4 && c <= 0xe9 && it->confidence >= 85;
    return it->confidence;
}

BOOL TessResultIteratorNext(TessResultIterator *it, TessPageIteratorLevel level)
{
    CHECK(level == RIL_SYMBOL);
    if (left == 0) return 0;
    left--;
    next_symbol(it);
    return 1;
}

void TessResultIteratorDelete(TessResultIterator *it)
{
    CHECK(iterators-- > 0);
    free(it);
}

void TessDeleteText(const char *text)
{
    CHECK(texts-- > 0 && text != NULL);
}

/* ---- the target ---- */

static void verdict_check(bool text, uint32_t width)
{
    const struct seen *eng = &seen[0], *jpn = &seen[1];
    uint32_t common = 0;

    for (size_t c = 0; c < ARRAY_N(eng->letters); c++)
        common += MIN(eng->letters[c], jpn->letters[c]);
    if (common < 3 && eng->digits < 5 && jpn->kanji < 2) CHECK(!text);
    if (eng->n > 0 && eng->digits >= 5 && eng->digits == eng->n) CHECK(text);
    if (jpn->kanji >= 3 && jpn->kanji * 70 >= width) CHECK(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *grey;
    struct text_reader *reader = NULL;
    struct err err = {0};
    bool text = true;

    answers = (struct in){data, n};
    flags = (uint8_t)take(&answers, 1);
    if (flags % 4 == 3) flags = 0; /* mostly all goes well */
    shown_width = 1 + take(&answers, 1);
    grey = malloc((size_t)shown_width * TEXT_CROP_HEIGHT);
    if (grey == NULL) return 0;
    CHECK(text_reader_open(STAND_IN, &reader, &err) == RC_OK);
    for (int again = 0; again < 2; again++) { /* what did not start is tried again */
        enum rc rc;

        memset(seen, 0, sizeof seen);
        rc = text_reader_read(reader, grey, shown_width, TEXT_CROP_HEIGHT, &text, &err);
        CHECK(iterators == 0 && texts == 0);
        if (rc == RC_OK) {
            CHECK(apis == 2);
            verdict_check(text, shown_width);
        } else {
            CHECK((rc == RC_NOMEM || rc == RC_INTERNAL) && err.msg[0] != 0);
            CHECK(!again);
        }
        flags &= (uint8_t) ~(NO_ENGINE | NO_START | (NO_ENGINE | NO_START) << 4);
    }
    text_reader_close(reader);
    CHECK(apis == 0);
    free(grey);
    return 0;
}
