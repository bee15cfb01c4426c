/* tests/cluster/thrash/lin/lin.h - is the history of one case linearizable?
 *
 * A case with one path, as proto/mikura/v1/objects.proto has it: `generation`, what is `visible`,
 * what is staged, and what a commit has closed but not yet published. An operation is one to three
 * steps, each of which takes effect at one moment between the operation's start and its end:
 *
 *   PUT      stage, close, publish     PutObject with commit
 *   STAGE    stage                     Complete
 *   COMMIT   close, publish            CommitCase with an expected generation
 *   REFUSED  nothing changes           CommitCase: the generation is not the expected one
 *   DELETE   visible goes              generation + 1
 *   GET      nothing changes           value and generation are the visible ones
 *   NONE     nothing changes           Read, List or Delete found nothing visible
 *
 * An operation whose outcome is unknown (end = LIN_UNKNOWN) takes effect at any later time, up to
 * any of its steps, or never.
 *
 * The search is Wing and Gong's with Lowe's memory of visited configurations (kept as 128-bit
 * fingerprints: a clash would be a false alarm, at 2^-70 for a million states); keys are checked
 * apart, since what is linearizable by key is linearizable. Four rules keep unknown outcomes from
 * doubling it each: a generation that some operation told of is made by no other; what changes
 * nothing and fits is taken at once; unknown PUTs whose value nobody saw are alike, so they stage
 * in the order of their start; STAGEs and DELETEs likewise. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIN_UNKNOWN UINT64_MAX
#define LIN_ANY     UINT64_MAX /* of generation: not told */

enum lin_kind {
    LIN_PUT = 1,
    LIN_STAGE,
    LIN_COMMIT,
    LIN_REFUSED,
    LIN_DELETE,
    LIN_GET,
    LIN_NONE,
};
struct lin_op {
    enum lin_kind kind;
    uint64_t start, end;
    uint64_t value;      /* PUT, STAGE, GET: not 0; each value is put once */
    uint64_t generation; /* PUT, COMMIT, DELETE: after it; GET: seen; or LIN_ANY */
    uint64_t expected;   /* COMMIT, REFUSED */
    uint32_t line;       /* where it came from, for people */
};
enum lin_verdict { LIN_GOOD, LIN_BAD, LIN_GAVE_UP };
struct lin_result {
    enum lin_verdict verdict;
    uint64_t states;
    uint32_t placed, needed; /* BAD: operations with an outcome, placed at best and in all */
    uint32_t *stuck; /* BAD: indexes of those that the best try could not place; free() it */
    uint32_t stuck_n;
};

/* ops: sorted by start here. naive: no memory, no rules, for tests of the search itself.
 * states_max: then LIN_GAVE_UP. Out of memory ends the program. */
void lin_check(struct lin_op *ops, uint32_t n, bool naive, uint64_t states_max,
               struct lin_result *ret);
