/* gateway/query/query.c - recursive descent into a flat array of nodes; see query.h.
 *
 * Invariants: depth and nodes are bounded before they are used; every slice points into the copy
 * of the text (strings are unescaped in place); a node's children have lower numbers. */
#include "gateway/query/query.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum op {
    OP_AND,
    OP_OR,
    OP_NOT,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_CONTAINS,
    OP_PREFIX,
    OP_EXISTS,
    OP_VALUE
};
struct node {
    enum op op;
    uint32_t a, b;            /* AND, OR, NOT; comparison: a = first value, b = values */
    struct slice name;        /* comparisons */
    struct query_value value; /* VALUE */
};
struct query {
    uint32_t root, n;
    char *text;
    struct node nodes[QUERY_NODES_MAX];
};

enum tok { T_END, T_WORD, T_STRING, T_NUMBER, T_PUNCT, T_BAD };
struct parser {
    struct query *q;
    char *p, *end;
    char *start; /* of the token */
    enum tok tok;
    struct slice text; /* WORD, STRING (unescaped), PUNCT */
    struct query_value number;
    uint32_t depth;
    uint32_t column; /* of the error, 0 = none */
    struct err *err;
};

static bool fail_at(struct parser *p, const char *at, const char *what)
{
    if (p->column != 0) return false;
    p->column = (uint32_t)(at - p->q->text) + 1;
    (void)err_set(p->err, RC_INVAL, "query, column %u: %s", p->column, what);
    return false;
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void lex_string(struct parser *p)
{
    char *w = ++p->p;

    p->text.p = (uint8_t *)w;
    while (p->p < p->end && *p->p != '"') {
        if (*p->p == '\\') {
            p->p++;
            if (p->p == p->end || (*p->p != '"' && *p->p != '\\')) {
                (void)fail_at(p, p->p - 1, "only \\\" and \\\\ may follow a backslash");
                p->tok = T_BAD;
                return;
            }
        }
        *w++ = *p->p++;
    }
    if (p->p == p->end) {
        (void)fail_at(p, p->start, "string without its closing quote");
        p->tok = T_BAD;
        return;
    }
    p->p++;
    p->text.n = (size_t)(w - (char *)(uintptr_t)p->text.p);
    p->tok = T_STRING;
}

/* A word that reads as a number is one: 512, -3, 0.5, 1e3. Another, "1.2.840", is a word. */
static void lex_word(struct parser *p)
{
    char num[64], *stop;
    size_t n;
    bool real = false;

    while (p->p < p->end && (is_word(*p->p) || (*p->p == '+' && p->p[-1] == 'e')))
        p->p++;
    n = (size_t)(p->p - p->start);
    p->text = (struct slice){(uint8_t *)p->start, n};
    p->tok = T_WORD;
    if (n >= sizeof(num) ||
        !(is_digit(p->start[0]) || (p->start[0] == '-' && n > 1 && is_digit(p->start[1])))) {
        return;
    }
    memcpy(num, p->start, n);
    num[n] = 0;
    for (size_t i = 0; i < n; i++) {
        if (num[i] == 'x' || num[i] == 'X') return; /* no hexadecimal: "0x10" is a word */
        real |= num[i] == '.' || num[i] == 'e' || num[i] == 'E';
    }
    errno = 0;
    if (real) {
        p->number = (struct query_value){.type = QUERY_REAL, .real = strtod(num, &stop)};
    } else {
        p->number = (struct query_value){.type = QUERY_INT, .integer = strtoll(num, &stop, 10)};
    }
    if (*stop == 0 && errno == 0) p->tok = T_NUMBER;
}

static void next(struct parser *p)
{
    while (p->p < p->end && (*p->p == ' ' || *p->p == '\t' || *p->p == '\n' || *p->p == '\r'))
        p->p++;
    p->start = p->p;
    if (p->p == p->end) {
        p->tok = T_END;
        return;
    }
    if (*p->p == '"') {
        lex_string(p);
    } else if (is_word(*p->p)) {
        lex_word(p);
    } else if (memchr("()=<>!,", *p->p, 7) != NULL) {
        bool two = p->end - p->p > 1 && p->p[1] == '=' && memchr("<>!", *p->p, 3) != NULL;

        p->p += two ? 2 : 1;
        p->text = (struct slice){(uint8_t *)p->start, (size_t)(p->p - p->start)};
        p->tok = T_PUNCT;
    } else {
        (void)fail_at(p, p->p, "unexpected character");
        p->tok = T_BAD;
    }
}

static bool is(const struct parser *p, enum tok tok, const char *s)
{
    return p->tok == tok && p->text.n == strlen(s) && memcmp(p->text.p, s, p->text.n) == 0;
}

static bool eat(struct parser *p, enum tok tok, const char *s)
{
    if (!is(p, tok, s)) return false;
    next(p);
    return true;
}

static bool add(struct parser *p, struct node n, uint32_t *ret)
{
    if (p->q->n == QUERY_NODES_MAX) return fail_at(p, p->start, "too many terms");
    *ret = p->q->n;
    p->q->nodes[p->q->n++] = n;
    return true;
}

static bool parse_value(struct parser *p, uint32_t *ret)
{
    struct node n = {.op = OP_VALUE};

    if (p->tok == T_NUMBER) {
        n.value = p->number;
        n.value.text = p->text;
    } else if (p->tok == T_STRING || p->tok == T_WORD) {
        n.value = (struct query_value){.type = QUERY_TEXT, .text = p->text};
    } else {
        return fail_at(p, p->start, "expected a value: text, \"text\" or a number");
    }
    next(p);
    return p->tok != T_BAD && add(p, n, ret);
}

static bool parse_comparison(struct parser *p, uint32_t *ret)
{
    static const struct {
        enum tok tok;
        const char *text;
        enum op op;
    } ops[] = {
        {T_PUNCT, "=", OP_EQ},         {T_PUNCT, "!=", OP_NE},
        {T_PUNCT, "<", OP_LT},         {T_PUNCT, "<=", OP_LE},
        {T_PUNCT, ">", OP_GT},         {T_PUNCT, ">=", OP_GE},
        {T_WORD, "in", OP_IN},         {T_WORD, "contains", OP_CONTAINS},
        {T_WORD, "prefix", OP_PREFIX}, {T_WORD, "exists", OP_EXISTS},
    };
    struct node n = {.name = p->text};
    uint32_t v;
    size_t i;

    if (p->tok != T_WORD) return fail_at(p, p->start, "expected an attribute's name");
    if (n.name.n > 128) return fail_at(p, p->start, "a name has at most 128 bytes");
    next(p);
    for (i = 0; i < ARRAY_N(ops) && !is(p, ops[i].tok, ops[i].text); i++)
        ;
    if (i == ARRAY_N(ops)) {
        return fail_at(p, p->start, "expected = != < <= > >= in, contains, prefix or exists");
    }
    n.op = ops[i].op;
    next(p);
    if (n.op == OP_EXISTS) return p->tok != T_BAD && add(p, n, ret);
    if (n.op == OP_IN) {
        if (!eat(p, T_PUNCT, "(")) return fail_at(p, p->start, "expected '(' after in");
        do {
            if (!parse_value(p, &v)) return false;
            if (n.b++ == 0) n.a = v; /* the values stand one after another */
        } while (eat(p, T_PUNCT, ","));
        if (!eat(p, T_PUNCT, ")")) return fail_at(p, p->start, "expected ',' or ')'");
    } else {
        if (!parse_value(p, &n.a)) return false;
        n.b = 1;
        if ((n.op == OP_CONTAINS || n.op == OP_PREFIX) &&
            p->q->nodes[n.a].value.type != QUERY_TEXT) {
            p->q->nodes[n.a].value.type = QUERY_TEXT; /* `path prefix 12`: its digits */
        }
    }
    return p->tok != T_BAD && add(p, n, ret);
}

static bool parse_or(struct parser *p, uint32_t *ret);

static bool parse_unary(struct parser *p, uint32_t *ret)
{
    struct node n = {.op = OP_NOT};
    bool ok;

    if (p->depth == QUERY_DEPTH_MAX) return fail_at(p, p->start, "nested too deeply");
    p->depth++;
    if (eat(p, T_WORD, "not")) {
        ok = parse_unary(p, &n.a) && add(p, n, ret);
    } else if (eat(p, T_PUNCT, "(")) {
        ok = parse_or(p, ret) &&
             (eat(p, T_PUNCT, ")") || fail_at(p, p->start, "expected ')', and, or"));
    } else {
        ok = parse_comparison(p, ret);
    }
    p->depth--;
    return ok;
}

static bool parse_chain(struct parser *p, uint32_t *ret, bool is_or)
{
    struct node n = {.op = is_or ? OP_OR : OP_AND};

    if (!(is_or ? parse_chain(p, ret, false) : parse_unary(p, ret))) return false;
    while (eat(p, T_WORD, is_or ? "or" : "and")) {
        n.a = *ret;
        if (!(is_or ? parse_chain(p, &n.b, false) : parse_unary(p, &n.b))) return false;
        if (!add(p, n, ret)) return false;
    }
    return p->tok != T_BAD;
}

static bool parse_or(struct parser *p, uint32_t *ret)
{
    return parse_chain(p, ret, true);
}

enum rc query_parse(struct slice text, struct query **ret_query, uint32_t *ret_column,
                    struct err *reterr)
{
    struct parser p = {.err = reterr};
    struct query *q;

    if (text.n > QUERY_BYTES_MAX) {
        if (ret_column != NULL) *ret_column = QUERY_BYTES_MAX + 1;
        return err_set(reterr, RC_INVAL, "query of %zu bytes, at most %u", text.n, QUERY_BYTES_MAX);
    }
    q = malloc(sizeof(*q) + text.n + 1);
    if (q == NULL) return err_set(reterr, RC_NOMEM, "query");
    q->n = 0;
    q->text = (char *)(q + 1);
    if (text.n > 0) memcpy(q->text, text.p, text.n);
    q->text[text.n] = 0;
    p.q = q;
    p.p = q->text;
    p.end = q->text + text.n;
    next(&p);
    if (parse_or(&p, &q->root) &&
        (p.tok == T_END || fail_at(&p, p.start, "expected and, or, end"))) {
        *ret_query = q;
        return RC_OK;
    }
    CHECK(p.column != 0);
    if (ret_column != NULL) *ret_column = p.column;
    query_free(q);
    return RC_INVAL;
}

void query_free(struct query *q)
{
    free(q);
}

/* ---- evaluation ---- */

static int cmp_bytes(struct slice a, struct slice b)
{
    size_t n = MIN(a.n, b.n);
    int c = n == 0 ? 0 : memcmp(a.p, b.p, n);

    return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

static double as_real(const struct query_value *v)
{
    return v->type == QUERY_INT ? (double)v->integer : v->real;
}

/* -1, 0, 1; 2 = not comparable (text with number, not a number). */
static int cmp_values(const struct query_value *have, const struct query_value *want)
{
    if (have->type == QUERY_TEXT) { /* `case = 0012`: a number's own digits stand for text */
        int c = cmp_bytes(have->text, want->text);

        return (c > 0) - (c < 0);
    }
    if (want->type == QUERY_TEXT) return 2;
    if (have->type == QUERY_INT && want->type == QUERY_INT) {
        return (have->integer > want->integer) - (have->integer < want->integer);
    } else {
        double a = as_real(have), b = as_real(want);

        if (a < b) return -1;
        if (a > b) return 1;
        return a >= b ? 0 : 2;
    }
}

static bool contains(struct slice have, struct slice want)
{
    return want.n == 0 || (have.n > 0 && memmem(have.p, have.n, want.p, want.n) != NULL);
}

static bool test(const struct query *q, const struct node *n, query_get get, void *ctx)
{
    struct query_value have = get(ctx, n->name);
    const struct query_value *want = &q->nodes[n->a].value;
    int c;

    if (have.type == QUERY_ABSENT) return false; /* also for != : use `not` to include the rest */
    switch (n->op) {
    case OP_EXISTS:
        return true;
    case OP_CONTAINS:
        return have.type == QUERY_TEXT && contains(have.text, want->text);
    case OP_PREFIX:
        return have.type == QUERY_TEXT && have.text.n >= want->text.n &&
               (want->text.n == 0 || memcmp(have.text.p, want->text.p, want->text.n) == 0);
    case OP_IN:
        for (uint32_t i = 0; i < n->b; i++) {
            if (cmp_values(&have, &want[0]) == 0) return true;
            want = &q->nodes[n->a + i + 1].value;
        }
        return false;
    default:
        break;
    }
    c = cmp_values(&have, want);
    if (c == 2) return false;
    switch (n->op) {
    case OP_EQ:
        return c == 0;
    case OP_NE:
        return c != 0;
    case OP_LT:
        return c < 0;
    case OP_LE:
        return c <= 0;
    case OP_GT:
        return c > 0;
    default:
        return c >= 0;
    }
}

/* Children have lower numbers and are evaluated before: no recursion, so a long chain of `and`
 * needs no stack. */
bool query_match(const struct query *q, query_get get, void *ctx)
{
    bool v[QUERY_NODES_MAX];

    for (uint32_t i = 0; i < q->n; i++) {
        const struct node *n = &q->nodes[i];

        switch (n->op) {
        case OP_VALUE:
            v[i] = false;
            break;
        case OP_AND:
            v[i] = v[n->a] && v[n->b];
            break;
        case OP_OR:
            v[i] = v[n->a] || v[n->b];
            break;
        case OP_NOT:
            v[i] = !v[n->a];
            break;
        default:
            v[i] = test(q, n, get, ctx);
        }
    }
    return v[q->root];
}

/* bound: matches only objects of the collections named below it. */
bool query_collections(const struct query *q, void (*add_name)(void *ctx, struct slice name),
                       void *ctx)
{
    bool bound[QUERY_NODES_MAX];

    for (uint32_t i = 0; i < q->n; i++) {
        const struct node *n = &q->nodes[i];
        bool named = n->name.n == 10 && memcmp(n->name.p, "collection", 10) == 0;

        bound[i] = false;
        if (n->op == OP_AND) bound[i] = bound[n->a] || bound[n->b];
        if (n->op == OP_OR) bound[i] = bound[n->a] && bound[n->b];
        if (!named || (n->op != OP_EQ && n->op != OP_IN)) continue;
        bound[i] = true;
        for (uint32_t k = 0; k < n->b; k++)
            add_name(ctx, q->nodes[n->a + k].value.text);
    }
    return bound[q->root];
}
