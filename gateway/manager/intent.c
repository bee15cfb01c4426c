/* gateway/manager/intent.c - see intent.h. */
#include "gateway/manager/intent.h"
#include <jansson.h>
#include <string.h>

static const char *const NAMES[] = {"", "in", "drain", "remove"};

const char *intent_state_name(enum intent_state s)
{
    return NAMES[s];
}

char *intent_json(const struct intent *i)
{
    json_t *j = json_pack("{s:i, s:s, s:s, s:I, s:i, s:I}", "format", 1, "state", NAMES[i->state],
                          "by", i->by, "since_unix_ms", (json_int_t)i->since_unix_ms, "copies",
                          (int)i->copies, "bytes", (json_int_t)i->bytes);
    char *out = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);

    json_decref(j);
    return out;
}

enum rc intent_parse(struct slice json, struct intent *ret, struct err *reterr)
{
    json_t *j = json_loadb((const char *)json.p, json.n, 0, NULL);
    const char *state = json_string_value(json_object_get(j, "state")),
               *by = json_string_value(json_object_get(j, "by"));
    struct intent i = {0};

    for (uint32_t s = INTENT_IN; s <= INTENT_REMOVE && state != NULL; s++) {
        if (strcmp(state, NAMES[s]) == 0) i.state = (enum intent_state)s;
    }
    (void)snprintf(i.by, sizeof i.by, "%s", by == NULL ? "" : by);
    i.since_unix_ms = json_integer_value(json_object_get(j, "since_unix_ms"));
    i.copies = (uint32_t)json_integer_value(json_object_get(j, "copies"));
    i.bytes = (uint64_t)json_integer_value(json_object_get(j, "bytes"));
    json_decref(j);
    if (i.state == INTENT_NONE)
        return err_set(reterr, RC_CORRUPT, "a node's state: %.*s", (int)MIN(json.n, 100),
                       (const char *)json.p);
    *ret = i;
    return RC_OK;
}
