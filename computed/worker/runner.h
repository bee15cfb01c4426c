/* computed/worker/runner.h - the daemon's side of one child process (child.h): starts it, gives it
 * images, serves its reads, ends it.
 *
 * A child that crashes, is killed for memory, stays silent for RUNNER_SILENT_MS or takes longer
 * than RUNNER_ITEM_MS costs its item alone; the caller starts another. Calls belong to fibers. */
#pragma once
#include "common/fiber/fiber.h"
#include "computed/analysis/mask.h"
#include "computed/worker/wire.h"

/* Between two messages of a child: reading a tile and scoring it takes well under a second,
 * decoding the largest picture that is allowed some seconds; times 20 for a busy machine. */
#define RUNNER_SILENT_MS 120000u
#define RUNNER_ITEM_MS   1800000u /* of a slide with thousands of tiles, read from a slow disk */

struct runner;
struct runner_conf {
    struct fibers *fs;
    const char *backend;      /* "cpu" */
    const char *backends_dir; /* NULL: beside the program */
    struct job_params job;
    uint64_t address_bytes_max;
};
/* model_fd: borrowed, an open file, read from its current place. Waits until the model is loaded.
 * RC_INVAL: the child refused the model; others: the process could not be started. */
MUST_CHECK enum rc runner_open(const struct runner_conf *conf, int model_fd,
                               struct runner **ret_runner, struct err *reterr);
/* Kills it and waits for its end. NULL: nothing. */
void runner_close(struct runner *r);
/* From any fiber: what runs ends soon, with RC_CANCELED. */
void runner_cancel(struct runner *r);
const char *runner_device(const struct runner *r);
int runner_pid(const struct runner *r);

struct runner_item {
    uint64_t size;
    const char *media_type;
    const uint64_t *slice_size; /* a series: of each of slice_n objects, instead of size */
    uint32_t slice_n;           /* 0: an image; at most ANALYSIS_SLICES_MAX */
    /* Called in the fiber of runner_item_run. slice: 0 of an image. */
    enum rc (*read)(void *data, uint32_t slice, uint64_t off, uint8_t *out, uint32_t n,
                    struct err *reterr);
    void *data;
};
/* The label map that came with the last RUNNER_RESULT, or NULL. Until the next item or close. Its
 * bytes are a stranger's. */
const struct mask *runner_mask(const struct runner *r);
enum runner_end {
    RUNNER_RESULT,
    RUNNER_ASIDE,   /* the image can't be analysed: reason in reterr */
    RUNNER_TROUBLE, /* ours: reason in reterr; again later */
    RUNNER_LOST,    /* the child is gone (reason in reterr): close it; the item is suspect */
};
MUST_CHECK enum runner_end runner_item_run(struct runner *r, const struct runner_item *item,
                                           struct analysis_result *ret, struct err *reterr);
