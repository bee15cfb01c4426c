/* tests/cluster/thrash/lin/main.c - the program `lin`: histories in, a verdict out.
 *
 *   lin [--states N] FILE...      checks every key; exit 0: linearizable, 1: not, 3: gave up
 *
 * A line is one operation; the END "-" is an unknown outcome, the GENERATION "-" one not told:
 *   KEY START END put VALUE GENERATION        KEY START END stage VALUE
 *   KEY START END commit EXPECTED GENERATION  KEY START END refused EXPECTED
 *   KEY START END delete GENERATION           KEY START END get VALUE GENERATION
 *   KEY START END none
 * '#' begins a comment. */
#include "tests/cluster/thrash/lin/lin_file.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void explain(const struct lin_key *k, const struct lin_result *r, const char *file)
{
    (void)printf("%s: not linearizable: %u of %u operations with an outcome fit in an order; these "
                 "do not:\n",
                 k->name, r->placed, r->needed);
    for (uint32_t i = 0; i < r->stuck_n && i < 20; i++)
        (void)printf("  %s:%u: %s\n", file, k->ops[r->stuck[i]].line,
                     lin_kind_name(k->ops[r->stuck[i]].kind));
}

int main(int argc, char **argv)
{
    uint64_t states_max = 20000000, states = 0, ops = 0;
    uint32_t keys = 0;
    int code = 0, first = 1;

    if (argc > 2 && strcmp(argv[1], "--states") == 0) {
        states_max = strtoull(argv[2], NULL, 10);
        first = 3;
    }
    if (first >= argc) {
        (void)fprintf(stderr, "usage: lin [--states N] FILE...\n");
        return 2;
    }
    for (int a = first; a < argc; a++) {
        struct lin_file f;
        char why[128];

        if (!lin_file_read(argv[a], &f, why, sizeof why)) {
            (void)fprintf(stderr, "lin: %s: %s\n", argv[a], why);
            return 2;
        }
        for (uint32_t i = 0; i < f.keys_n; i++) {
            struct lin_result r;

            lin_check(f.keys[i].ops, f.keys[i].ops_n, /* naive= */ false, states_max, &r);
            states += r.states;
            ops += f.keys[i].ops_n;
            if (r.verdict == LIN_BAD) {
                explain(&f.keys[i], &r, argv[a]);
                code = 1;
            } else if (r.verdict == LIN_GAVE_UP) {
                (void)printf("%s: gave up after %" PRIu64 " states\n", f.keys[i].name, r.states);
                if (code == 0) code = 3;
            }
            free(r.stuck);
        }
        keys += f.keys_n;
        lin_file_free(&f);
    }
    (void)printf("%s: %u keys, %" PRIu64 " operations, %" PRIu64 " states\n",
                 code == 0   ? "linearizable"
                 : code == 1 ? "NOT linearizable"
                             : "undecided",
                 keys, ops, states);
    return code;
}
