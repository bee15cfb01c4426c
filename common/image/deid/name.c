/* common/image/deid/name.c - file and folder names as they would be stored.
 *
 * A name that is not plain ASCII is refused: a Japanese folder is a person's more often than not,
 * in whichever of UTF-8, Shift_JIS or EUC-JP it is written. So is one with a day in it. */
#include "common/image/deid/deid_priv.h"
#include <ctype.h>

static bool digits(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
    }
    return true;
}

static int number(const char *s, size_t n)
{
    int v = 0;

    for (size_t i = 0; i < n; i++)
        v = v * 10 + (s[i] - '0');
    return v;
}

static bool day_fits(int y, int m, int d)
{
    return y >= 1900 && y <= 2099 && m >= 1 && m <= 12 && d >= 1 && d <= 31;
}

/* YYYYMMDD alone among its neighbours, or YYYY-MM-DD with - _ . or blank between. */
static bool is_day(const char *s, bool digit_before)
{
    size_t n = strlen(s);

    if (digit_before) return false;
    if (n >= 8 && digits(s, 8) && (n == 8 || !isdigit((unsigned char)s[8])))
        return day_fits(number(s, 4), number(s + 4, 2), number(s + 6, 2));
    if (n >= 10 && digits(s, 4) && digits(s + 5, 2) && digits(s + 8, 2) && s[4] == s[7] &&
        strchr("-_. ", s[4]) != NULL)
        return day_fits(number(s, 4), number(s + 5, 2), number(s + 8, 2));
    return false;
}

static bool identifies(const char *path)
{
    /* 'NAME^GIVEN' is how DICOM writes a person */
    for (const char *s = path; *s != '\0'; s++) {
        if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e || *s == '^') return true;
        if (is_day(s, s > path && isdigit((unsigned char)s[-1]))) return true;
    }
    return false;
}

void deid_check_name(const char *path, const struct deid_profile *p, deid_finding_cb cb, void *data)
{
    struct deid_finding f = {.rule = DEID_NAME, .place = DEID_AT_FILE};

    if (!p->names_any && identifies(path)) cb(data, &f);
}
