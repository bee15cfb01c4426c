/* common/client/profile.c - where the gateways are and who the caller is. */
#include "common/client/client.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_LINE_MAX 2048

static const struct {
    const char *key, *env;
    size_t offset;
    bool file;
} FIELDS[] = {
    {"address", "MIKURA_ADDRESS", offsetof(struct mikura_profile, address), false},
    {"ca", "MIKURA_CA", offsetof(struct mikura_profile, ca), true},
    {"cert", "MIKURA_CERT", offsetof(struct mikura_profile, cert), true},
    {"key", "MIKURA_KEY", offsetof(struct mikura_profile, key), true},
};

static char *field(struct mikura_profile *p, size_t i)
{
    return (char *)p + FIELDS[i].offset;
}

static bool put(char *to, const char *dir, size_t dir_n, const char *value)
{
    int n = snprintf(to, MIKURA_PROFILE_VALUE_MAX, "%.*s%s", (int)dir_n, dir, value);

    return n >= 0 && n < (int)MIKURA_PROFILE_VALUE_MAX;
}

static char *trim(char *s)
{
    size_t n;

    s += strspn(s, " \t");
    n = strlen(s);
    while (n > 0 && strchr(" \t\r\n", s[n - 1]) != NULL)
        s[--n] = 0;
    return s;
}

static enum rc line_take(struct mikura_profile *p, char *line, const char *path, unsigned no,
                         struct err *reterr)
{
    const char *slash = strrchr(path, '/');
    size_t dir_n = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    char *eq, *key, *value;

    line = trim(line);
    if (line[0] == 0 || line[0] == '#') return RC_OK;
    eq = strchr(line, '=');
    if (eq == NULL) {
        return err_set(reterr, RC_INVAL, "%s, line %u: expected `key = value`", path, no);
    }
    *eq = 0;
    key = trim(line);
    value = trim(eq + 1);
    for (size_t i = 0; i < ARRAY_N(FIELDS); i++) {
        if (strcmp(key, FIELDS[i].key) != 0) continue;
        if (!put(field(p, i), path, FIELDS[i].file && value[0] != '/' ? dir_n : 0, value)) {
            return err_set(reterr, RC_INVAL, "%s, line %u: longer than %u bytes", path, no,
                           MIKURA_PROFILE_VALUE_MAX - 1);
        }
        return RC_OK;
    }
    return err_set(reterr, RC_INVAL,
                   "%s, line %u: unknown key '%s'; there are address, ca, cert, key", path, no,
                   key);
}

enum rc mikura_profile_load(const char *path, struct mikura_profile *ret_profile,
                            struct err *reterr)
{
    struct mikura_profile p = {0};
    char own[MIKURA_PROFILE_VALUE_MAX], line[FILE_LINE_MAX];
    const char *home = getenv("HOME");
    bool must = true;
    enum rc rc = RC_OK;
    unsigned no = 0;
    FILE *f;

    if (path == NULL || path[0] == 0) path = getenv("MIKURA_PROFILE");
    if (path == NULL || path[0] == 0) {
        must = false;
        if (!put(own, home == NULL ? "" : home, home == NULL ? 0 : strlen(home),
                 "/.config/mikura/profile"))
            return err_set(reterr, RC_INVAL, "$HOME is too long");
        path = own;
    }
    f = fopen(path, "re");
    if (f == NULL && (must || (errno != ENOENT && errno != ENOTDIR && errno != EACCES))) {
        return err_set(reterr, rc_from_errno(errno), "profile '%s': %s", path, strerror(errno));
    }
    while (f != NULL && rc == RC_OK && fgets(line, sizeof line, f) != NULL)
        rc = line_take(&p, line, path, ++no, reterr);
    if (f != NULL) (void)fclose(f); /* was only read */
    if (rc != RC_OK) return rc;
    for (size_t i = 0; i < ARRAY_N(FIELDS); i++) {
        const char *v = getenv(FIELDS[i].env);

        if (v == NULL || v[0] == 0) continue;
        if (!put(field(&p, i), "", 0, v)) {
            return err_set(reterr, RC_INVAL, "%s is longer than %u bytes", FIELDS[i].env,
                           MIKURA_PROFILE_VALUE_MAX - 1);
        }
    }
    *ret_profile = p;
    return RC_OK;
}

enum rc mikura_profile_as(struct mikura_profile *p, const char *who, struct err *reterr)
{
    const char *slash = strrchr(p->ca, '/');
    size_t dir_n = slash == NULL ? 0 : (size_t)(slash - p->ca) + 1;
    char name[256];
    unsigned parts = 1;
    int n = snprintf(name, sizeof name, "%s", who);

    for (char *at = name; *at != 0; at++) {
        if (*at != '/') continue;
        *at = '-';
        parts++;
    }
    if (n < 0 || n >= (int)sizeof name ||
        !((parts == 2 &&
           (strncmp(who, "operator/", 9) == 0 || strncmp(who, "researcher/", 11) == 0)) ||
          (parts == 3 && strncmp(who, "society/", 8) == 0))) {
        return err_set(
            reterr, RC_INVAL,
            "--as '%s': expected operator/NAME, researcher/NAME or society/SOCIETY/AGENT", who);
    }
    if (p->ca[0] == 0) {
        return err_set(reterr, RC_INVAL,
                       "--as needs to know the CA (MIKURA_CA, or `ca` in the profile): the other "
                       "certificates lie beside it");
    }
    if (!put(p->cert, p->ca, dir_n, name) || !put(p->key, p->ca, dir_n, name) ||
        strlen(p->cert) + 5 > MIKURA_PROFILE_VALUE_MAX) {
        return err_set(reterr, RC_INVAL, "the CA's path is too long");
    }
    memcpy(p->cert + strlen(p->cert), ".crt", 5);
    memcpy(p->key + strlen(p->key), ".key", 5);
    if (access(p->cert, R_OK) != 0) {
        return err_set(reterr, RC_NOTFOUND,
                       "no certificate of %s: '%s': %s; make it with deploy/pki", who, p->cert,
                       strerror(errno));
    }
    return RC_OK;
}
