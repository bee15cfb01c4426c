/* tests/cluster/thrash/lin/lin.c - see lin.h. */
#include "tests/cluster/thrash/lin/lin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAIVE_AGAIN_MAX 3u
#define UNSEEN          1u /* all values that nobody saw; values proper begin at 2 */

struct state {
    uint64_t generation;
    uint32_t visible, staged, closed; /* values, 0 = none */
    uint32_t closer;                  /* operation + 1 whose close holds; 0 = nobody's */
};
struct op {
    const struct lin_op *o;
    uint32_t value, steps;
    bool must;       /* its outcome is known */
    uint32_t before; /* operation + 1 that is alike and started before; 0 = none */
};
struct finger {
    uint64_t a, b;
};
struct search {
    struct op *ops;
    uint8_t *claimed; /* by generation: an operation with an outcome made it */
    uint64_t claimed_n;
    uint8_t *done; /* steps, by operation */
    uint32_t n, low, left, best;
    uint8_t *best_done;
    bool naive;
    uint32_t again_n; /* closes made again on the way here */
    struct state st;
    struct finger sum; /* of done[] */
    struct finger *seen;
    uint64_t seen_n, seen_max, states, states_max;
};

static void *must(void *p)
{
    if (p != NULL) return p;
    (void)fprintf(stderr, "lin: out of memory\n");
    exit(2);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- the memory ---- */
static struct finger finger_of(const struct search *s)
{
    const uint64_t part[] = {s->sum.a, s->sum.b, s->st.generation,
                             ((uint64_t)s->st.visible << 32) | s->st.staged,
                             ((uint64_t)s->st.closed << 32) | s->st.closer};
    struct finger f = {0x9e3779b97f4a7c15u, 0xd1b54a32d192ed03u};

    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        f.a = mix(f.a + part[i]);
        f.b = mix((f.b ^ part[i]) + 0x2545f4914f6cdd1du);
    }
    if (f.a == 0) f.a = 1; /* 0 is an empty place */
    return f;
}

static bool seen_add(struct search *s, struct finger f)
{
    if (2 * (s->seen_n + 1) > s->seen_max) {
        uint64_t max = s->seen_max == 0 ? 1024 : 2 * s->seen_max;
        struct finger *t = must(calloc(max, sizeof *t));

        for (uint64_t i = 0; i < s->seen_max; i++) {
            uint64_t k = s->seen[i].b & (max - 1);

            if (s->seen[i].a == 0) continue;
            while (t[k].a != 0)
                k = (k + 1) & (max - 1);
            t[k] = s->seen[i];
        }
        free(s->seen);
        s->seen = t;
        s->seen_max = max;
    }
    for (uint64_t k = f.b & (s->seen_max - 1);; k = (k + 1) & (s->seen_max - 1)) {
        if (s->seen[k].a == f.a && s->seen[k].b == f.b) return false;
        if (s->seen[k].a != 0) continue;
        s->seen[k] = f;
        s->seen_n++;
        return true;
    }
}

static void done_set(struct search *s, uint32_t i, uint8_t to)
{
    const uint8_t steps[] = {s->done[i], to};

    for (int k = 0; k < 2; k++) { /* the old number out, the new one in */
        uint64_t h = mix(((uint64_t)i << 8 | steps[k]) + 1);

        if (steps[k] == 0) continue;
        s->sum.a ^= h;
        s->sum.b ^= mix(h + 0x632be59bd9b4e019u);
    }
    s->done[i] = to;
}

/* ---- what a step does ---- */
static bool changes_nothing(enum lin_kind k)
{
    return k == LIN_GET || k == LIN_NONE || k == LIN_REFUSED;
}

static bool close_case(struct state *st, uint32_t i, const struct lin_op *o)
{
    uint64_t expected = o->kind == LIN_COMMIT      ? o->expected
                        : o->generation != LIN_ANY ? o->generation - 1
                                                   : st->generation;

    if (st->generation != expected || st->closer == i + 1) return false;
    if (st->staged != 0) st->closed = st->staged;
    st->staged = 0;
    st->closer = i + 1;
    return true;
}

static bool publish(struct state *st, uint32_t i, const struct lin_op *o)
{
    if (st->closer != i + 1 || st->closed == 0) return false;
    if (o->generation != LIN_ANY && o->generation != st->generation + 1) return false;
    st->visible = st->closed;
    st->closed = st->closer = 0;
    st->generation++;
    return true;
}

/* The operation's next step on *st; false: it does not fit. again: a close that another took over
 * is made once more. */
static bool step(const struct op *op, uint32_t i, uint8_t done, bool again, struct state *st,
                 uint8_t *ret_done)
{
    const struct lin_op *o = op->o;

    *ret_done = (uint8_t)(done + 1);
    switch (o->kind) {
    case LIN_PUT:
    case LIN_STAGE:
        if (done == 0) {
            st->staged = op->value;
            return true;
        }
        done--;
        break;
    case LIN_COMMIT:
        break;
    case LIN_REFUSED:
        return st->generation != o->expected;
    case LIN_DELETE:
        if (st->visible == 0) return false;
        if (o->generation != LIN_ANY && o->generation != st->generation + 1) return false;
        st->visible = 0;
        st->closer = 0; /* the head has changed: a commit under way starts again */
        st->generation++;
        return true;
    case LIN_GET:
        return st->visible == op->value &&
               (o->generation == LIN_ANY || o->generation == st->generation);
    case LIN_NONE:
        return st->visible == 0;
    }
    if (done == 0) return close_case(st, i, o);
    if (!again) return publish(st, i, o);
    *ret_done = (uint8_t)(*ret_done - 1);
    return close_case(st, i, o);
}

/* ---- the search ---- */
static bool finished(const struct search *s, uint32_t i)
{
    return s->done[i] == s->ops[i].steps;
}

/* No operation that starts later than this can come next: another has ended by then. */
static uint64_t horizon(struct search *s)
{
    uint64_t end = LIN_UNKNOWN;

    while (s->low < s->n && finished(s, s->low))
        s->low++;
    for (uint32_t i = s->low; i < s->n && s->ops[i].o->start <= end; i++) {
        if (s->ops[i].must && !finished(s, i) && s->ops[i].o->end < end) end = s->ops[i].o->end;
    }
    return end;
}

static bool may_step(const struct search *s, uint32_t i)
{
    const struct op *op = &s->ops[i];

    if (finished(s, i)) return false;
    return s->naive || s->done[i] > 0 || op->before == 0 || s->done[op->before - 1] > 0;
}

static bool explore(struct search *s);

/* A close that another took over may be made again. */
static bool closes_again(const struct op *op, uint8_t done)
{
    return (op->o->kind == LIN_PUT || op->o->kind == LIN_COMMIT) && done + 1u == op->steps;
}

/* The next generation is of an operation that told so: one without an outcome neither makes it nor
 * (which is good for nothing else) closes the case to make it. */
static bool taken(const struct search *s, uint32_t i)
{
    enum lin_kind k = s->ops[i].o->kind;
    uint64_t next = s->st.generation + 1;

    if (s->naive || s->ops[i].must || next >= s->claimed_n || s->claimed[next] == 0) return false;
    return k == LIN_DELETE || k == LIN_COMMIT || (k == LIN_PUT && s->done[i] > 0);
}

/* *ret_fits: whether it can come next at all. */
static bool try_step(struct search *s, uint32_t i, bool again, bool *ret_fits)
{
    struct state was = s->st;
    uint8_t done = s->done[i], now;
    uint32_t low = s->low;

    /* without a memory two of them would take over from each other for ever */
    if (again && s->naive && s->again_n == NAIVE_AGAIN_MAX) return *ret_fits = false;
    *ret_fits = (!again || closes_again(&s->ops[i], done)) && !taken(s, i) &&
                step(&s->ops[i], i, done, again, &s->st, &now);
    if (!*ret_fits) {
        s->st = was;
        return false;
    }
    done_set(s, i, now);
    s->again_n += again;
    if (finished(s, i)) s->left -= s->ops[i].must;
    if (explore(s)) return true;
    s->again_n -= again;
    if (finished(s, i)) s->left += s->ops[i].must;
    done_set(s, i, done);
    s->low = low;
    s->st = was;
    return false;
}

/* true: a whole order was found, or the limit was reached. */
static bool explore(struct search *s)
{
    uint64_t end;
    bool fits;

    if (s->left < s->best) {
        s->best = s->left;
        memcpy(s->best_done, s->done, s->n);
    }
    if (s->left == 0 || s->states == s->states_max) return true;
    end = horizon(s);
    for (uint32_t i = s->low; i < s->n && !s->naive && s->ops[i].o->start <= end; i++) {
        if (!changes_nothing(s->ops[i].o->kind) || finished(s, i)) continue;
        if (try_step(s, i, false, &fits)) return true;
        if (fits) return false; /* to take it later is no better */
    }
    s->states++;
    if (!s->naive && !seen_add(s, finger_of(s))) return false;
    for (int must_be = 1; must_be >= 0; must_be--) {
        for (uint32_t i = s->low; i < s->n && s->ops[i].o->start <= end; i++) {
            if (s->ops[i].must != must_be || !may_step(s, i)) continue;
            if (try_step(s, i, false, &fits) || try_step(s, i, true, &fits)) return true;
        }
    }
    return false;
}

/* ---- a history ---- */
static int by_start(const void *a, const void *b)
{
    const struct lin_op *x = a, *y = b;

    if (x->start != y->start) return x->start < y->start ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Values that were seen, as small numbers from 2. */
static void ops_make(struct search *s, const struct lin_op *ops)
{
    uint64_t *seen = must(calloc(s->n + 1, sizeof *seen));
    uint32_t seen_n = 0, last[LIN_NONE + 1] = {0}; /* of those that are alike */

    for (uint32_t i = 0; i < s->n; i++)
        if (ops[i].kind == LIN_GET) seen[seen_n++] = ops[i].value;
    qsort(seen, seen_n, sizeof *seen, by_number);
    for (uint32_t i = 0; i < s->n; i++) {
        const struct lin_op *o = &ops[i];
        const uint64_t *at = bsearch(&o->value, seen, seen_n, sizeof *seen, by_number);
        struct op *op = &s->ops[i];

        op->o = o;
        op->value = at == NULL ? UNSEEN : 2;
        for (const uint64_t *p = seen; at != NULL && *p != o->value; p++)
            op->value++; /* equal ones get the number of the first */
        op->steps = o->kind == LIN_PUT ? 3 : o->kind == LIN_COMMIT ? 2 : 1;
        op->must = o->end != LIN_UNKNOWN;
        s->left += op->must;
        if (op->must && o->kind != LIN_GET && o->generation < s->claimed_n)
            s->claimed[o->generation] = 1;
        if (op->must) continue;
        if (changes_nothing(o->kind)) op->steps = 0; /* nobody heard what it saw */
        if (o->kind == LIN_DELETE || (at == NULL && (o->kind == LIN_PUT || o->kind == LIN_STAGE))) {
            op->before = last[o->kind];
            last[o->kind] = i + 1;
        }
    }
    free(seen);
}

void lin_check(struct lin_op *ops, uint32_t n, bool naive, uint64_t states_max,
               struct lin_result *ret)
{
    struct search s = {.n = n, .naive = naive, .states_max = states_max};

    qsort(ops, n, sizeof *ops, by_start);
    s.ops = must(calloc(n + 1, sizeof *s.ops));
    s.done = must(calloc(n + 1, 1));
    s.best_done = must(calloc(n + 1, 1));
    s.claimed_n = 3ull * n + 2; /* more there cannot be */
    s.claimed = must(calloc(s.claimed_n, 1));
    ops_make(&s, ops);
    s.best = s.left + 1;
    *ret = (struct lin_result){.needed = s.left};
    ret->verdict = explore(&s) ? LIN_GOOD : LIN_BAD;
    if (ret->verdict == LIN_GOOD && s.left > 0) ret->verdict = LIN_GAVE_UP;
    ret->states = s.states;
    ret->placed = ret->needed - s.best;
    if (ret->verdict == LIN_BAD) {
        ret->stuck = must(calloc(n + 1, sizeof *ret->stuck));
        for (uint32_t i = 0; i < n; i++)
            if (s.ops[i].must && s.best_done[i] != s.ops[i].steps) ret->stuck[ret->stuck_n++] = i;
    }
    free(s.ops);
    free(s.done);
    free(s.best_done);
    free(s.claimed);
    free(s.seen);
}
