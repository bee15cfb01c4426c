/* gateway/agent/recog_core.h - when is a case complete, and how do its files travel?
 *
 *   WAIT --its marker is there, or it is on a list, or it did not change for quiet_ms--> COMPLETE
 *
 * `print` stands for the names, sizes, times and inodes of all files of a case: another print is
 * another case's content. Quiet is what this agent saw itself: a copy that keeps the files' times
 * says nothing by them. Pure. */
#pragma once
#include "common/base/rc.h"
#include <string.h>

#define RECOG_PRINT_BYTES 32u

enum recog_by { RECOG_QUIET, RECOG_MARKER, RECOG_LIST };
struct recog { /* of one case */
    uint8_t print[RECOG_PRINT_BYTES];
    uint64_t since_ms; /* seen with this print since */
    bool seen;
};
/* A look at the case at now_ms. True: it is complete as it stands. */
static inline bool recog_see(struct recog *r, enum recog_by by, uint64_t quiet_ms, bool marker,
                             const uint8_t print[RECOG_PRINT_BYTES], uint64_t now_ms)
{
    if (!r->seen || memcmp(r->print, print, RECOG_PRINT_BYTES) != 0) {
        memcpy(r->print, print, RECOG_PRINT_BYTES);
        r->since_ms = now_ms;
        r->seen = true;
    }
    switch (by) {
    case RECOG_LIST:
        return true;
    case RECOG_MARKER:
        return marker;
    case RECOG_QUIET:
        break;
    }
    return now_ms - r->since_ms >= quiet_ms;
}

/* How many of the next n files go together: as many as fit into one chunk; 1 and *ret_alone: the
 * first is larger and goes as a session of chunks. */
static inline uint32_t recog_pack(const uint64_t *sizes, size_t n, uint64_t bytes_max,
                                  uint32_t files_max, bool *ret_alone)
{
    uint64_t bytes = 0;
    uint32_t k = 0;

    *ret_alone = n > 0 && sizes[0] > bytes_max;
    if (*ret_alone) return 1;
    while (k < n && k < files_max && sizes[k] <= bytes_max - bytes)
        bytes += sizes[k++];
    return k;
}
