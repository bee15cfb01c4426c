/* common/model/model.c - a model's memory and the small questions about it. */
#include "common/model/model.h"
#include "common/model/model_priv.h"
#include <stdlib.h>
#include <string.h>

#define ALIGN       64
#define BLOCK_BYTES ((size_t)64 * 1024)

struct model_block {
    struct model_block *next;
    uint8_t pad[ALIGN - sizeof(void *)];
};
_Static_assert(sizeof(struct model_block) == ALIGN, "data after the head stays aligned");

void *model_alloc(struct model_priv *p, size_t bytes)
{
    struct model_block *b;
    size_t n;
    void *r;

    if (bytes > p->live_bytes_max) return NULL;
    bytes = ROUND_UP(MAX(bytes, 1), bytes < ALIGN ? (size_t)8 : (size_t)ALIGN);
    if (p->room_n > 0 && bytes >= ALIGN) { /* start at the next boundary of the block */
        size_t skip = (ALIGN - (uintptr_t)p->room % ALIGN) % ALIGN;

        skip = MIN(skip, p->room_n);
        p->room += skip;
        p->room_n -= skip;
    }
    if (bytes > p->room_n) {
        n = sizeof(*b) + MAX(bytes, BLOCK_BYTES);
        if (n > p->live_bytes_max - p->live_bytes) return NULL;
        b = aligned_alloc(ALIGN, ROUND_UP(n, ALIGN));
        if (b == NULL) return NULL;
        b->next = p->blocks;
        p->blocks = b;
        p->live_bytes += n;
        if (bytes > BLOCK_BYTES) { /* a block of its own; the older one keeps its room */
            memset(b + 1, 0, bytes);
            return b + 1;
        }
        p->room = (uint8_t *)(b + 1);
        p->room_n = BLOCK_BYTES;
    }
    r = p->room;
    p->room += bytes;
    p->room_n -= bytes;
    memset(r, 0, bytes);
    return r;
}

char *model_text(struct model_priv *p, const void *s, size_t n, size_t max)
{
    char *r = n > max ? NULL : model_alloc(p, n + 1);

    if (r == NULL) return NULL;
    if (n > 0) memcpy(r, s, n);
    return r;
}

void model_free(struct model *m)
{
    struct model_block *b, *next;

    if (m == NULL) return;
    for (b = m->priv == NULL ? NULL : m->priv->blocks; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    free(m->priv);
    free(m);
}

const char *model_prop_get(const struct model *m, const char *key)
{
    for (uint32_t i = 0; i < m->prop_n; i++)
        if (strcmp(m->prop[i].key, key) == 0) return m->prop[i].value;
    return NULL;
}

size_t model_dtype_bytes(enum model_dtype t)
{
    switch ((int)t) { /* from a file: any number */
    case MODEL_U8:
    case MODEL_BOOL:
        return 1;
    case MODEL_F32:
    case MODEL_I32:
        return 4;
    case MODEL_I64:
    case MODEL_F64:
        return 8;
    default:
        return 0;
    }
}

const char *model_dtype_name(enum model_dtype t)
{
    switch ((int)t) {
    case MODEL_F32:
        return "float32";
    case MODEL_U8:
        return "uint8";
    case MODEL_I32:
        return "int32";
    case MODEL_I64:
        return "int64";
    case MODEL_BOOL:
        return "bool";
    case MODEL_F64:
        return "float64";
    default:
        return "unknown";
    }
}
