/* gateway/manager/intent.h - what an operator decided for a storage node: etcd's key
 * node-state/<name>, JSON. It outlives managers, so what was begun goes on. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

enum intent_state {
    INTENT_NONE,   /* nothing decided */
    INTENT_IN,     /* let in: groups may move onto it */
    INTENT_DRAIN,  /* to be emptied */
    INTENT_REMOVE, /* does not come back: its copies are made elsewhere now */
};
struct intent {
    enum intent_state state;
    char by[160];          /* certificate URI */
    int64_t since_unix_ms; /* when it was decided; what had to be moved then: */
    uint32_t copies;       /* copies of groups */
    uint64_t bytes;
};
const char *intent_state_name(enum intent_state s); /* "in", "drain", "remove"; "" */
/* free() it; NULL: out of memory. */
char *intent_json(const struct intent *i);
/* RC_CORRUPT */
MUST_CHECK enum rc intent_parse(struct slice json, struct intent *ret, struct err *reterr);
