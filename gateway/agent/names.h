/* gateway/agent/names.h - from a name to what has it: open addressing, no removal. The names are
 * borrowed: they live as long as the table. */
#pragma once
#include "common/base/rc.h"

struct names_slot {
    const char *name; /* NULL: free */
    void *value;
};
struct names {
    struct names_slot *slots;
    size_t n, cap; /* cap: 0 or a power of two */
};
void names_init(struct names *t);
void names_deinit(struct names *t);
void *names_get(const struct names *t, const char *name); /* NULL: none */
/* The name must not be there. RC_NOMEM. */
MUST_CHECK enum rc names_add(struct names *t, const char *name, void *value);
