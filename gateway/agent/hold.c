/* gateway/agent/hold.c - DIR/quarantine: why a file does not travel, one JSON file each. The file
 * itself stays where it is: another copy of what may name a patient helps nobody. */
#include "gateway/agent/agent_priv.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *hold_folder(struct agent *a, const char *case_id)
{
    char digest[33], *quarantine = agent_folder(a, "quarantine"), *folder = NULL, name[64];

    if (quarantine == NULL || agent_digest_name(case_id, digest) != RC_OK) goto out;
    (void)snprintf(name, sizeof name, "quarantine/%s", digest);
    folder = agent_folder(a, name);
out:
    free(quarantine);
    return folder;
}

enum rc hold_write(struct agent *a, const char *case_id, const char *root, const char *path,
                   const char *outcome, const char *why, struct err *reterr)
{
    char digest[33], *folder = hold_folder(a, case_id), *file = NULL;
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s}", "case_id", case_id, "folder", root, "file",
                          path, "outcome", outcome, "reasons", why);
    enum rc rc = agent_digest_name(path, digest);

    if (rc != RC_OK || folder == NULL || j == NULL ||
        asprintf(&file, "%s/%s.json", folder, digest) < 0) {
        rc = err_set(reterr, RC_NOMEM, "the quarantine folder");
    } else if (json_dump_file(j, file, JSON_INDENT(1)) != 0) {
        rc = err_set(reterr, RC_IO, "'%s': %s", file, strerror(errno));
    }
    json_decref(j);
    free(folder);
    free(file);
    return rc;
}

void hold_clear(struct agent *a, const char *case_id)
{
    char *folder = hold_folder(a, case_id);
    struct dirent *d;
    DIR *h = folder == NULL ? NULL : opendir(folder);

    while (h != NULL && (d = readdir(h)) != NULL) {
        if (d->d_name[0] != '.')
            (void)unlinkat(dirfd(h), d->d_name, 0); /* told again if it stays */
    }
    if (h != NULL) (void)closedir(h);
    if (folder != NULL) (void)rmdir(folder);
    free(folder);
}
