/* tests/fuzz/agent/fuzz_list.c - any text is a case list, whose rows have a name and a document of
 * JSON, or is refused with the row. The first byte, 'J' or not, says whether it is JSON. */
#include "gateway/agent/case_list.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static enum rc row(void *data, const struct case_list_row *r, struct err *reterr)
{
    size_t *rows = data;

    (void)reterr;
    CHECK(r->case_id[0] != 0 && r->folder[0] != 0 && r->facility != NULL);
    if (r->document[0] != 0) {
        json_t *j = json_loads(r->document, 0, NULL);

        CHECK(json_is_object(j));
        json_decref(j);
    }
    return ++*rows < 4096 ? RC_OK : RC_BUSY;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err err = {0};
    size_t rows = 0;
    char *text;
    enum rc rc;

    if (n == 0) return 0;
    text = malloc(n); /* as long as it is */
    if (text == NULL) return 0;
    memcpy(text, data + 1, n - 1);
    text[n - 1] = 0;
    rc = case_list_parse("list", data[0] == 'J', text, n - 1, row, &rows, &err);
    CHECK(rc == RC_OK || rc == RC_BUSY || (rc == RC_INVAL && err.msg[0] != 0));
    free(text);
    return 0;
}
