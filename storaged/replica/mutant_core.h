/* storaged/replica/mutant_core.h - MUTANT(n): bug number n is put back. Only in tests/sim's mutant
 * build (it alone defines REPLICA_MUTANTS); elsewhere false at compile time. tests/sim/mutants.txt
 * says what each one is. */
#pragma once
#include <stdbool.h>

#ifdef REPLICA_MUTANTS
extern int replica_mutant;
#define MUTANT(n) (replica_mutant == (n))
#else
#define MUTANT(n) false
#endif
