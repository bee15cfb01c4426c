/* gateway/agent/case_list.c - see case_list.h. */
#include "gateway/agent/case_list.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 32u

struct list {
    const char *name;
    case_list_row_fn each;
    void *data;
};

static enum rc row_tell(struct list *l, const char *case_id, const char *folder,
                        const char *facility, json_t *document, size_t row, struct err *reterr)
{
    struct case_list_row r = {case_id, folder, facility == NULL ? "" : facility, ""};
    char *text = NULL;
    enum rc rc;

    if (case_id == NULL || case_id[0] == 0)
        return err_set(reterr, RC_INVAL, "case list '%s', row %zu: no case_id", l->name, row);
    if (folder == NULL || folder[0] == 0) r.folder = case_id;
    if (document != NULL && json_object_size(document) > 0) {
        r.document = text = json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS);
        if (text == NULL) return err_set(reterr, RC_NOMEM, "a case list");
    }
    rc = l->each(l->data, &r, reterr);
    free(text);
    return rc;
}

static enum rc json_list(struct list *l, const char *text, size_t n, struct err *reterr)
{
    json_error_t why;
    json_t *all = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why), *row;
    size_t i;
    enum rc rc = RC_OK;

    if (!json_is_array(all)) {
        json_decref(all);
        return err_set(reterr, RC_INVAL,
                       "case list '%s', line %d: %s; expected an array of objects with case_id, "
                       "folder, facility, document",
                       l->name, why.line, all == NULL ? why.text : "no array");
    }
    json_array_foreach(all, i, row)
    {
        json_t *document = json_object_get(row, "document"), *own = NULL;

        if (document == NULL) {
            static const char *const KEYS[] = {"history", "labels"};

            document = own = json_object();
            for (size_t k = 0; k < ARRAY_N(KEYS); k++) {
                json_t *v = json_object_get(row, KEYS[k]);

                if (v != NULL) (void)json_object_set(own, KEYS[k], v); /* of memory: then no doc */
            }
        }
        rc = row_tell(l, json_string_value(json_object_get(row, "case_id")),
                      json_string_value(json_object_get(row, "folder")),
                      json_string_value(json_object_get(row, "facility")), document, i + 1, reterr);
        json_decref(own);
        if (rc != RC_OK) break;
    }
    json_decref(all);
    return rc;
}

/* One field of RFC 4180, unquoted in place; *at moves past the comma or to the line's end. */
static char *csv_field(char **at, bool *ret_last)
{
    char *p = *at, *from = p, *to;

    *ret_last = false;
    if (*p == '"') {
        for (from = to = ++p; *p != 0; p++) {
            if (*p == '"' && p[1] != '"') break;
            if (*p == '"') p++;
            *to++ = *p;
        }
        if (*p == '"') p++;
        while (*p != 0 && *p != ',' && *p != '\n')
            p++;
    } else {
        p += strcspn(p, ",\n");
        to = p;
        if (to > from && to[-1] == '\r') to--;
    }
    *ret_last = *p != ',';
    *at = *p == 0 ? p : p + 1;
    *to = 0;
    return from;
}

/* "a; b" or JSON. */
static json_t *labels_of(const char *text)
{
    json_t *j = json_loads(text, 0, NULL), *list;

    if (j != NULL) return j;
    list = json_array();
    for (const char *p = text; list != NULL && *p != 0;) {
        size_t n = strcspn(p, ";");
        const char *next = p[n] == 0 ? p + n : p + n + 1;

        while (n > 0 && *p == ' ')
            p++, n--;
        if (n > 0) (void)json_array_append_new(list, json_stringn(p, n)); /* not UTF-8: left out */
        p = next;
    }
    return list;
}

static enum rc csv_list(struct list *l, char *text, struct err *reterr)
{
    const char *names[COLUMNS_MAX], *value[COLUMNS_MAX];
    size_t cols = 0, row = 1;
    bool last = false;
    char *at = text;
    enum rc rc = RC_OK;

    while (!last && cols < COLUMNS_MAX)
        names[cols++] = csv_field(&at, &last);
    while (rc == RC_OK && *at != 0) {
        const char *case_id = NULL, *folder = NULL, *facility = NULL;
        json_t *doc = json_object();
        size_t n = 0;

        last = false;
        row++;
        while (!last && n < cols)
            value[n++] = csv_field(&at, &last);
        if (n == 1 && value[0][0] == 0) { /* an empty line */
            json_decref(doc);
            continue;
        }
        if (n != cols || !last) {
            rc = err_set(reterr, RC_INVAL, "case list '%s', row %zu: it has not %zu columns",
                         l->name, row, cols);
        }
        for (size_t i = 0; rc == RC_OK && i < n; i++) {
            if (strcmp(names[i], "case_id") == 0) {
                case_id = value[i];
            } else if (strcmp(names[i], "folder") == 0) {
                folder = value[i];
            } else if (strcmp(names[i], "facility") == 0) {
                facility = value[i];
            } else if (value[i][0] != 0) {
                json_t *v =
                    strcmp(names[i], "labels") == 0 ? labels_of(value[i]) : json_string(value[i]);

                if (v == NULL || json_object_set_new(doc, names[i], v) != 0)
                    rc = err_set(reterr, RC_INVAL, "case list '%s', row %zu: '%s' is not UTF-8",
                                 l->name, row, names[i]);
            }
        }
        if (rc == RC_OK) rc = row_tell(l, case_id, folder, facility, doc, row, reterr);
        json_decref(doc);
    }
    return rc;
}

enum rc case_list_parse(const char *name, bool json, char *text, size_t n, case_list_row_fn each,
                        void *data, struct err *reterr)
{
    struct list l = {name, each, data};

    if (strlen(text) != n) return err_set(reterr, RC_INVAL, "case list '%s' is no text", name);
    if (json) return json_list(&l, text, n, reterr);
    return csv_list(&l, strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text, reterr);
}
