/* tests/cluster/thrash/lin/lin_file.c - see lin_file.h. */
#include "tests/cluster/thrash/lin/lin_file.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const KIND[] = {
    [LIN_PUT] = "put",         [LIN_STAGE] = "stage",   [LIN_COMMIT] = "commit",
    [LIN_REFUSED] = "refused", [LIN_DELETE] = "delete", [LIN_GET] = "get",
    [LIN_NONE] = "none",
};

const char *lin_kind_name(enum lin_kind k)
{
    return KIND[k];
}

/* A larger array when it is full. */
static void *room(void *p, uint32_t n, uint32_t *max, size_t bytes)
{
    if (n < *max) return p;
    *max = *max == 0 ? 64 : 2 * *max;
    p = realloc(p, *max * bytes);
    if (p == NULL) {
        (void)fprintf(stderr, "lin: out of memory\n");
        exit(2);
    }
    return p;
}

static struct lin_key *key_of(struct lin_file *f, const char *name)
{
    for (uint32_t i = f->keys_n; i > 0; i--) /* mostly the last ones */
        if (strcmp(f->keys[i - 1].name, name) == 0) return &f->keys[i - 1];
    f->keys = room(f->keys, f->keys_n, &f->keys_max, sizeof *f->keys);
    f->keys[f->keys_n] = (struct lin_key){0};
    (void)snprintf(f->keys[f->keys_n].name, sizeof f->keys[0].name, "%s", name);
    return &f->keys[f->keys_n++];
}

static bool number(const char *text, uint64_t if_dash, uint64_t *ret)
{
    char *end;

    *ret = if_dash;
    if (strcmp(text, "-") == 0) return true;
    *ret = strtoull(text, &end, 10);
    return end != text && *end == 0 && *ret != UINT64_MAX;
}

bool lin_file_line(struct lin_file *f, const char *line, uint32_t line_number)
{
    struct lin_op o = {.generation = LIN_ANY, .line = line_number};
    char key[96], start[24], end[24], kind[12], arg[2][24] = {"", ""};
    struct lin_key *k;
    uint64_t number_arg[2];
    int n;

    if (line[strspn(line, " \t\n")] == 0 || line[0] == '#') return true;
    n = sscanf(line, "%95s %23s %23s %11s %23s %23s", key, start, end, kind, arg[0], arg[1]);
    for (size_t i = 1; n >= 4 && i < sizeof KIND / sizeof *KIND; i++)
        if (strcmp(kind, KIND[i]) == 0) o.kind = (enum lin_kind)i;
    if (o.kind == 0 || !number(start, LIN_UNKNOWN, &o.start) || !number(end, LIN_UNKNOWN, &o.end))
        return false;
    if (o.start > o.end || o.start == LIN_UNKNOWN) return false;
    for (int i = 0; i < n - 4; i++)
        if (!number(arg[i], LIN_ANY, &number_arg[i])) return false;
    switch (o.kind) {
    case LIN_PUT:
    case LIN_GET:
        if (n != 6) return false;
        o.value = number_arg[0];
        o.generation = number_arg[1];
        break;
    case LIN_STAGE:
        if (n != 5) return false;
        o.value = number_arg[0];
        break;
    case LIN_COMMIT:
        if (n != 6) return false;
        o.expected = number_arg[0];
        o.generation = number_arg[1];
        break;
    case LIN_REFUSED:
    case LIN_DELETE:
        if (n != 5) return false;
        *(o.kind == LIN_REFUSED ? &o.expected : &o.generation) = number_arg[0];
        break;
    case LIN_NONE:
        if (n != 4) return false;
        break;
    }
    k = key_of(f, key);
    k->ops = room(k->ops, k->ops_n, &k->ops_max, sizeof *k->ops);
    k->ops[k->ops_n++] = o;
    return true;
}

bool lin_file_read(const char *path, struct lin_file *ret, char *why, size_t why_bytes)
{
    struct lin_file f = {0};
    FILE *in = fopen(path, "re");
    char line[256];
    uint32_t n = 0;

    if (in == NULL) {
        (void)snprintf(why, why_bytes, "%s", strerror(errno));
        return false;
    }
    while (fgets(line, sizeof line, in) != NULL) {
        n++;
        if (lin_file_line(&f, line, n)) continue;
        (void)snprintf(why, why_bytes, "line %u is no operation", n);
        (void)fclose(in);
        lin_file_free(&f);
        return false;
    }
    (void)fclose(in);
    *ret = f;
    return true;
}

void lin_file_free(struct lin_file *f)
{
    for (uint32_t i = 0; i < f->keys_n; i++)
        free(f->keys[i].ops);
    free(f->keys);
}
