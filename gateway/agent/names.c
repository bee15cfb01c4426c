/* gateway/agent/names.c - see names.h. */
#include "gateway/agent/names.h"
#include <stdlib.h>
#include <string.h>

void names_init(struct names *t)
{
    *t = (struct names){0};
}

void names_deinit(struct names *t)
{
    free(t->slots);
    names_init(t);
}

static size_t place(const char *name, size_t cap)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */

    for (; *name != 0; name++)
        h = (h ^ (uint8_t)*name) * 1099511628211u;
    return (size_t)(h ^ h >> 32) & (cap - 1);
}

static struct names_slot *slot_of(struct names_slot *slots, size_t cap, const char *name)
{
    size_t i = place(name, cap);

    while (slots[i].name != NULL && strcmp(slots[i].name, name) != 0)
        i = (i + 1) & (cap - 1);
    return &slots[i];
}

void *names_get(const struct names *t, const char *name)
{
    return t->cap == 0 ? NULL : slot_of(t->slots, t->cap, name)->value;
}

enum rc names_add(struct names *t, const char *name, void *value)
{
    if (t->n * 2 >= t->cap) {
        size_t cap = MAX(t->cap * 2, 64u);
        struct names_slot *slots = calloc(cap, sizeof *slots);

        if (slots == NULL) return RC_NOMEM;
        for (size_t i = 0; i < t->cap; i++) {
            if (t->slots[i].name != NULL) *slot_of(slots, cap, t->slots[i].name) = t->slots[i];
        }
        free(t->slots);
        t->slots = slots;
        t->cap = cap;
    }
    *slot_of(t->slots, t->cap, name) = (struct names_slot){name, value};
    t->n++;
    return RC_OK;
}
