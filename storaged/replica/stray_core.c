/* storaged/replica/stray_core.c - see the header: it has the argument. */
#include "storaged/replica/stray_core.h"
#include "storaged/replica/mutant_core.h"

void stray_begin(struct stray_core *s, const struct stray_id *id, uint64_t log_top)
{
    CHECK(s->state == STRAY_IDLE);
    s->state = STRAY_WAITS;
    s->id = *id;
    s->fence = log_top;
}

enum stray_verdict stray_look(struct stray_core *s, uint64_t applied, bool may)
{
    CHECK(s->state != STRAY_DROPS);
    if (!may) s->state = STRAY_IDLE;
    if (s->state == STRAY_IDLE) return STRAY_OVER;
    if (applied < s->fence && !MUTANT(77)) return STRAY_AGAIN;
    s->state = STRAY_DROPS;
    s->drops_n++;
    return STRAY_DROP;
}

void stray_end(struct stray_core *s)
{
    CHECK(s->state == STRAY_DROPS);
    s->state = STRAY_IDLE;
}

bool stray_needed(struct stray_core *s, const struct stray_id *id)
{
    if (s->state == STRAY_IDLE || s->id.index != id->index || !id128_eq(&s->id.body, &id->body) ||
        !id128_eq(&s->id.seal_id, &id->seal_id))
        return true;
    if (s->state == STRAY_DROPS) return MUTANT(79);
    if (!MUTANT(78)) s->state = STRAY_IDLE;
    return true;
}

uint64_t stray_mark(const struct stray_core *s)
{
    return s->drops_n;
}

bool stray_still(struct stray_core *s, const struct stray_id *id, uint64_t mark)
{
    return stray_needed(s, id) && (s->drops_n == mark || MUTANT(80));
}
