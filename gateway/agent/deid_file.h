/* gateway/agent/deid_file.h - local files under a de-identification profile: checked, or cleaned
 * into another file that is then checked as a stranger's. Blocking; for commands and the agent's
 * workers.
 *
 * This process reads bytes and names only; content is parsed by mikura-inspect, which gets neither
 * files nor the pseudonym key. Nothing here holds a value of a file: rules, places, sizes, names.
 */
#pragma once
#include "gateway/inspect/child.h"

#define DEID_KEY_BYTES    32u
#define DEID_REPORTED_MAX 256u

struct deid_findings {
    uint32_t n;
    struct deid_finding f[DEID_REPORTED_MAX + 1]; /* and one of a child that broke */
};
void deid_remember(void *data, const struct deid_finding *f); /* data: struct deid_findings */
/* The first `most` rules with their places; then how many more. */
void deid_why(const struct deid_findings *t, uint32_t most, char *text, size_t cap);

struct deid_rules { /* shared by workers, unchanged */
    char *text;
    struct deid_profile profile;
    uint8_t key[DEID_KEY_BYTES];
};
/* profile: a shipped one's name or a file's path. key_file NULL: a random key, for outcomes only.
 * RC_INVAL, RC_NOTFOUND, RC_IO, ... */
MUST_CHECK enum rc deid_rules_load(const char *profile, const char *key_file,
                                   struct deid_rules *ret, struct err *reterr);
void deid_rules_wipe(struct deid_rules *r);

struct deid_subject { /* what was found in one file */
    enum deid_outcome outcome;
    bool cleaned;
    struct deid_findings reasons, changes;
    struct err why; /* of a child that broke */
};
/* The whole content, and the name that it would be stored under (path; NULL: not looked at). */
MUST_CHECK enum rc deid_file_check(const struct deid_rules *r, struct inspect_child *child,
                                   const struct image_source *src, const char *path,
                                   struct deid_subject *ret, struct err *reterr);
/* Cleans into fd, which file names; ret tells of what was written. A name is not cleaned here. */
MUST_CHECK enum rc deid_file_clean(const struct deid_rules *r, struct inspect_child *child,
                                   const struct image_source *src, int fd, const char *file,
                                   struct deid_subject *ret, struct err *reterr);
/* "mk-" and hex digits from the key and the text, with the same ending: a name by a pseudonym. */
MUST_CHECK enum rc deid_name_clean(const struct deid_rules *r, const char *text, char name[64],
                                   struct err *reterr);
