/* gateway/inspect/child.h - de-identification of local files through a mikura-inspect. Blocking:
 * for commands and the agent's workers; gateway/api/inspect.c is the gateway's own side.
 *
 * A child that dies, hangs (INSPECT_MS of its own time for one file) or says nonsense is killed and
 * replaced, and costs that file only: it is refused, with `malformed`, since nobody understood it.
 */
#pragma once
#include "common/image/deid/deid.h"
#include <sys/types.h>

struct inspect_child {
    char program[512];
    pid_t pid; /* 0: none */
    int fd;
    uint32_t limit_ms; /* of the child's time for one file: INSPECT_MS */
    bool served;       /* a file before: it may have ended since, of age */
};
/* program NULL: beside the running one. Started at the first job. */
void inspect_child_init(struct inspect_child *c, const char *program);
void inspect_child_deinit(struct inspect_child *c);
/* As deid_check (out NULL) or deid_clean, with the profile as text, parsed by the caller before.
 * reterr is filled when the child failed, too: RC_OK with DEID_REFUSED, and a message for people.
 * RC_IO: it cannot be started at all; any code of src and out. */
MUST_CHECK enum rc inspect_child_deid(struct inspect_child *c, const struct image_source *src,
                                      const char *profile, const struct deid_out *out,
                                      deid_finding_cb cb, void *data, enum deid_outcome *ret,
                                      struct err *reterr);
