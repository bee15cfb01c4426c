/* common/base/conf.c - see conf.h. */
#include "common/base/conf.h"
#include "common/base/strutil.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTS_MAX 64

/* Values read from files, reachable for as long as the process lives. */
struct kept {
    struct kept *next;
    char text[];
};
static struct kept *kept_values;

static const char *keep(const char *value)
{
    size_t n = strlen(value) + 1;
    struct kept *k = malloc(sizeof(*k) + n);

    if (k == NULL) return NULL;
    memcpy(k->text, value, n);
    k->next = kept_values;
    kept_values = k;
    return k->text;
}

static const struct conf_opt *find(const struct conf_opt *opts, const char *key, size_t n,
                                   size_t *ret_idx)
{
    for (size_t i = 0; opts[i].key != NULL; i++) {
        if (strlen(opts[i].key) == n && strncmp(opts[i].key, key, n) == 0) {
            *ret_idx = i;
            return &opts[i];
        }
    }
    return NULL;
}

static enum rc set(const struct conf_opt *o, const char *value, void *settings, struct err *reterr)
{
    void *field = (char *)settings + o->offset;
    bool ok = true;

    switch (o->type) {
    case CONF_STR:
        *(const char **)field = value;
        break;
    case CONF_U64:
        ok = str_to_u64(value, UINT64_MAX, field);
        break;
    case CONF_BYTES:
        ok = str_to_bytes(value, field);
        break;
    case CONF_MS:
        ok = str_to_ms(value, field);
        break;
    case CONF_BOOL:
        *(bool *)field = strcmp(value, "true") == 0 || strcmp(value, "yes") == 0;
        ok = *(bool *)field || strcmp(value, "false") == 0 || strcmp(value, "no") == 0;
        break;
    }
    if (ok) return RC_OK;
    return err_set(reterr, RC_INVAL, "--%s: '%s' is not a valid %s", o->key, value, o->unit);
}

static void help(const struct conf_opt *opts, const char *program)
{
    (void)printf("usage: %s [--config FILE] [--key VALUE | --key=VALUE]...\n\n", program);
    for (; opts->key != NULL; opts++) {
        (void)printf("  --%-24s %s (%s)\n", opts->key, opts->help,
                     opts->fallback == NULL ? "required" : opts->fallback);
    }
}

static enum rc load_file(const struct conf_opt *opts, const char *path, bool *seen, void *settings,
                         struct err *reterr)
{
    FILE *f = fopen(path, "re");
    char line[4096];
    enum rc rc = RC_OK;
    unsigned line_no = 0;

    if (f == NULL) {
        return err_set(reterr, rc_from_errno(errno), "--config %s: %s", path, strerror(errno));
    }
    while (rc == RC_OK && fgets(line, sizeof(line), f) != NULL) {
        char *key = line + strspn(line, " \t"), *eq, *end;
        const struct conf_opt *o;
        size_t idx, n;

        line_no++;
        key[strcspn(key, "\r\n")] = 0;
        if (*key == 0 || *key == '#') continue;
        eq = strchr(key, '=');
        if (eq == NULL) {
            rc = err_set(reterr, RC_INVAL, "%s:%u: no '=' in '%s'", path, line_no, key);
            break;
        }
        n = (size_t)(eq - key);
        while (n > 0 && (key[n - 1] == ' ' || key[n - 1] == '\t'))
            n--;
        eq++;
        eq += strspn(eq, " \t");
        end = eq + strlen(eq);
        while (end > eq && (end[-1] == ' ' || end[-1] == '\t'))
            *--end = 0;
        o = find(opts, key, n, &idx);
        if (o == NULL) {
            rc = err_set(reterr, RC_INVAL, "%s:%u: unknown key '%.*s'", path, line_no, (int)n, key);
        } else if (!seen[idx]) {
            const char *copy = keep(eq);

            rc = copy == NULL ? err_set(reterr, RC_NOMEM, "settings")
                              : set(o, copy, settings, reterr);
            seen[idx] = true;
        }
    }
    (void)fclose(f);
    return rc;
}

enum rc conf_load(const struct conf_opt *opts, int argc, char **argv, void *settings,
                  struct err *reterr)
{
    bool seen[OPTS_MAX] = {0};
    const char *file = NULL;
    enum rc rc;

    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *eq, *value;
        const struct conf_opt *o;
        size_t n, idx = 0;
        bool is_file;

        if (strcmp(arg, "--help") == 0) {
            help(opts, argv[0]);
            exit(0);
        }
        if (strcmp(arg, "--version") == 0) {
            (void)printf("%s %s\n", argv[0], MIKURA_VERSION);
            exit(0);
        }
        if (!str_has_prefix(arg, "--")) {
            return err_set(reterr, RC_INVAL, "'%s' is no option; see --help", arg);
        }
        arg += 2;
        eq = strchr(arg, '=');
        n = eq == NULL ? strlen(arg) : (size_t)(eq - arg);
        is_file = n == 6 && strncmp(arg, "config", 6) == 0;
        o = is_file ? NULL : find(opts, arg, n, &idx);
        if (!is_file && o == NULL) {
            return err_set(reterr, RC_INVAL, "unknown option --%.*s; see --help", (int)n, arg);
        }
        if (eq == NULL && i + 1 >= argc) {
            return err_set(reterr, RC_INVAL, "--%.*s needs a value", (int)n, arg);
        }
        value = eq != NULL ? eq + 1 : argv[++i];
        if (is_file) {
            file = value;
            continue;
        }
        CHECK(idx < OPTS_MAX);
        rc = set(o, value, settings, reterr);
        if (rc != RC_OK) return rc;
        seen[idx] = true;
    }
    if (file != NULL) {
        rc = load_file(opts, file, seen, settings, reterr);
        if (rc != RC_OK) return rc;
    }
    for (size_t i = 0; opts[i].key != NULL; i++) {
        if (seen[i]) continue;
        if (opts[i].fallback == NULL) {
            return err_set(reterr, RC_INVAL, "--%s (%s) is needed: %s", opts[i].key, opts[i].unit,
                           opts[i].help);
        }
        rc = set(&opts[i], opts[i].fallback, settings, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}
