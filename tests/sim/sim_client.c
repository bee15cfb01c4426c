/* tests/sim/sim_client.c - clients: one operation at a time each, tried again until its outcome is
 * known or six tries were in vain (then it stays unknown); now and then a request is also delivered
 * much later, by another way. */
#include "tests/sim/sim_world.h"
#include "common/base/le.h"

#define BODY_AT (28u + 8u) /* of a ChunkAdd or ChunkDrop: README.md of storaged/replica */
#define SEAL_AT (28u + 28u)

uint32_t chunk_of(struct slice entry)
{
    return le_get32(entry.p + SEAL_AT);
}

uint32_t body_of(struct slice entry)
{
    return le_get32(entry.p + BODY_AT) - 1;
}

struct op *op_of_entry(struct slice entry)
{
    uint8_t client = entry.p[4];
    uint64_t seq = le_get64(entry.p + 20);

    if (client == 0) return NULL;
    return &w.ops[w.clients[client - 1].op_of[seq] - 1];
}

void client_again(const struct op *op, uint64_t in_us)
{
    later(EV_CLIENT, -1, in_us, (struct sim_event){.a = op->client});
}

static uint32_t pick_node(void)
{
    if (chance(7000)) {
        for (uint32_t i = 0; i < w.n; i++) {
            if (w.nodes[i].alive && w.nodes[i].core.role == REPLICA_PRIMARY && chance(7000))
                return i;
        }
    }
    return (uint32_t)rnd(w.n);
}

static struct slice entry_make(const struct op *op, const struct client *c, enum op_kind kind)
{
    uint8_t key = (uint8_t)('a' + op->key), value[12];
    struct slice k = {&key, 1};
    struct apply_put put = {.key = k, .value = {value, sizeof(value)}};
    struct apply_compare cmp = {.kind = APPLY_VERSION, .key = k, .number = op->cond};
    struct apply_entry e = {.kind = APPLY_TXN, .client = c->id};
    uint32_t n;
    uint8_t *p;

    if (!id128_is_zero(&c->id)) e.sequence = op->seq;
    le_put32(value, op->client);
    le_put64(value + 4, op->seq);
    e.chunk.placement_hash = HASH;
    e.chunk.plain_bytes = 4096;
    le_put32(e.chunk.body.b, op->body + 1);
    le_put32(e.chunk.seal_id.b, op->chunk);
    if (kind == OP_CHUNK_ADD) e.kind = APPLY_CHUNK_ADD;
    if (kind == OP_CHUNK_DROP) e.kind = APPLY_CHUNK_DROP;
    if (kind == OP_CHUNK_TXN) e.kind = APPLY_CHUNK_TXN;
    if (kind == OP_PUT || kind == OP_PUT_IF || kind == OP_CHUNK_TXN) {
        e.puts = &put;
        e.puts_n = 1;
    }
    if (kind == OP_PUT_IF || kind == OP_CHUNK_TXN) {
        e.compares = &cmp;
        e.compares_n = 1;
    }
    if (kind == OP_DELETE) {
        e.deletes = &k;
        e.deletes_n = 1;
    }
    n = apply_entry_bytes(&e, NULL);
    p = sim_alloc(&w.arena, n);
    (void)apply_entry_encode(&e, p);
    return (struct slice){p, n};
}

static const struct client NOBODY;

static enum op_kind pick_kind(void)
{
    uint64_t r = rnd(100);

    if (r < w.chunky && w.chunks_n + 1 < CHUNKS_MAX)
        return w.both && sim_chance(&w.both_rng, 5000) ? OP_CHUNK_TXN : OP_CHUNK_ADD;
    r = rnd(90);
    if (r < 33) return OP_READ;
    if (r < 36 && w.bodies_n > 0) return OP_CHUNK_DROP;
    if (r < 42) return OP_DELETE;
    if (r < 55) return OP_PUT_IF;
    return OP_PUT;
}

static struct op *op_new(uint32_t client)
{
    struct client *c = &w.clients[client];
    struct op *op = &w.ops[w.ops_n++];
    const struct change *seen;

    *op = (struct op){.client = client, .key = (uint32_t)rnd(KEYS), .losses = w.losses};
    op->seq = ++c->seq;
    op->kind = pick_kind();
    op->floor = w.seen[op->key];
    c->op = c->op_of[op->seq] = w.ops_n;
    if (op->kind == OP_READ) return op;
    if (op->kind == OP_PUT_IF || op->kind == OP_CHUNK_TXN) {
        seen = truth_change(op->key, op->floor);
        op->cond = seen == NULL || !seen->there ? 0 : seen->index;
    }
    if (op_adds_chunk(op) || op->kind == OP_CHUNK_DROP) {
        bool again = op->kind == OP_CHUNK_DROP || (w.bodies_n > 0 && chance(3000));

        op->body = again ? (uint32_t)rnd(w.bodies_n) : w.bodies_n++;
        op->chunk = op_adds_chunk(op) ? w.chunks_n++ : 0;
        if (op_adds_chunk(op)) w.chunk_body[op->chunk] = op->body;
    }
    op->entry = entry_make(op, c, op->kind);
    if (op->kind == OP_CHUNK_TXN) {
        op->alone = entry_make(op, c, OP_PUT_IF);
        op->bare = entry_make(op, &NOBODY, OP_CHUNK_ADD);
    }
    if (chance(300))
        later(EV_PROPOSE, (int)rnd(w.n), between(0, 6000 * MS),
              (struct sim_event){.a = w.ops_n - 1, .b = 1});
    return op;
}

static void do_client(uint32_t client)
{
    struct client *c = &w.clients[client];
    struct op *op = c->op == 0 ? NULL : &w.ops[c->op - 1];
    int i;

    if (w.ended) return;
    if (op != NULL && !op->done && ++op->tries > 6) op = NULL; /* its outcome stays unknown */
    if (op == NULL || op->done) {
        if (w.committed_n + 1024 > INDEX_MAX || w.ops_n == OPS_MAX || c->seq + 1 == OPS_MAX) return;
        op = op_new(client);
    }
    i = (int)pick_node();
    later(op->kind == OP_READ ? EV_READ : EV_PROPOSE, i, between(50, 3 * MS),
          (struct sim_event){.a = (uint64_t)(op - w.ops)});
    /* If the node dies on the way nobody answers. */
    later(EV_CLIENT, -1, between(300 * MS, 3000 * MS),
          (struct sim_event){.a = client, .b = (uint64_t)(op - w.ops) + 1, .c = op->tries});
}

void client_event(const struct sim_event *e)
{
    /* b: a timeout of that operation's try c */
    if (e->b != 0 &&
        (w.clients[e->a].op != e->b || w.ops[e->b - 1].done || w.ops[e->b - 1].tries != e->c))
        return;
    do_client((uint32_t)e->a);
}

/* ---- at a node ---- */

/* What a sender does that does not know whether chunk and transaction took effect: the chunk by
 * itself (which needs no key), and when that is there the transaction, under the key it had. */
static struct slice entry_again(const struct op *op)
{
    uint64_t r;

    if (op->kind != OP_CHUNK_TXN || op->tries < 2) return op->entry;
    r = sim_rand(&w.both_rng, 3);
    if (r == 1) return op->bare;
    return r == 2 && w.body_won[op->body] != 0 ? op->alone : op->entry;
}

static void propose(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];
    struct slice entry = entry_again(op);
    bool late = (e->b & 1) != 0, bytes_sent = (e->b & 2) != 0;
    uint64_t mark = stray_mark(&n->stray);

    if (op->done && !late) return;
    if (is_chunk(entry) && bytes_sent) {
        struct stray_id id = stray_id_of(op->chunk);

        if (!stray_still(&n->stray, &id, e->c)) {
            if (!late) client_again(op, 10 * MS);
            return;
        }
    } else if (is_chunk(entry)) { /* bytes first: on the proposer, and mostly on the others */
        if (!MUTANT(47)) node_chunk_put(n, op->chunk);
        for (uint32_t i = 0; i < w.n; i++) {
            if (chance(7000) && w.nodes[i].alive)
                later(EV_CHUNK_COPY, (int)i, between(0, 20 * MS),
                      (struct sim_event){.a = op->chunk});
        }
        if (w.strays) { /* a while passes before the entry; at times it never comes */
            uint64_t in_us = sim_rand(&w.stray_rng, 100 * MS);

            if (sim_chance(&w.stray_rng, 9000))
                later(EV_PROPOSE, node_idx(n), in_us,
                      (struct sim_event){.a = e->a, .b = e->b | 2, .c = mark});
            return;
        }
    }
    node_step(n, (struct replica_event){.type = REPLICA_EV_PROPOSE,
                                        .entry = entry,
                                        .token = late || entry.p == op->bare.p ? OPS_MAX : e->a});
}

/* The index of the newest change that n's state shows of that key. */
static uint64_t state_shows(struct node *n, const struct op *op)
{
    uint8_t key[APPLY_MAPKEY_BYTES_MAX], k = (uint8_t)('a' + op->key);
    struct apply_map ops = sim_map_ops(&n->map);
    const struct change *c = truth_change(op->key, n->applied);
    uint64_t version = 0;
    struct slice v, value = {0};
    bool there;

    there = ops.get(ops.ctx, (struct slice){key, apply_user_key((struct slice){&k, 1}, key)}, &v) ==
            RC_OK;
    if (there && (apply_user_value(v, &version, &value) != RC_OK || value.n != 12))
        fail("a stored value is broken");
    if (there != (c != NULL && c->there) || (there && version != c->index) ||
        (there &&
         (le_get32(value.p) != w.ops[c->op].client || le_get64(value.p + 4) != w.ops[c->op].seq)))
        fail("n%d's state at %llu is not what its entries say", node_idx(n),
             (unsigned long long)n->applied);
    return c == NULL ? 0 : c->index;
}

/* The lease is asked before the answer is built and when it is sent, in the same epoch (rule 5). */
static void read_begin(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];

    if (op->done) return;
    if (replica_may_read(&n->core, clock_of(n)) != RC_OK && !MUTANT(48)) {
        client_again(op, between(1 * MS, 80 * MS));
        return;
    }
    later(EV_READ_DONE, node_idx(n), chance(w.slow) ? between(0, 900 * MS) : rnd(2 * MS),
          (struct sim_event){.a = e->a, .b = state_shows(n, op), .c = n->core.epoch});
}

static void read_end(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];

    if (op->done) return;
    if ((e->c != n->core.epoch && !MUTANT(48)) ||
        replica_may_read(&n->core, clock_of(n)) != RC_OK) {
        client_again(op, between(1 * MS, 80 * MS));
        return;
    }
    truth_acts(n, n->core.epoch, &n->boot, "reads");
    w.reads++;
    truth_chunks_read(n);
    if (e->b < op->floor && !w.mad_clocks)
        fail("a read of key %u at n%d shows change %llu, but %llu was seen before it began",
             op->key, node_idx(n), (unsigned long long)e->b, (unsigned long long)op->floor);
    w.seen[op->key] = MAX(w.seen[op->key], e->b);
    op->done = true;
    client_again(op, between(0, 40 * MS));
}

void client_request(struct node *n, const struct sim_event *e)
{
    switch ((enum ev)e->type) {
    case EV_PROPOSE:
        propose(n, e);
        break;
    case EV_READ:
        read_begin(n, e);
        break;
    default:
        read_end(n, e);
        break;
    }
}

void client_acked(struct node *n, struct op *op, uint64_t index, const struct apply_outcome *out)
{
    uint32_t copies;
    bool writes = op->kind == OP_PUT || op->kind == OP_PUT_IF || op->kind == OP_DELETE;

    if (op->done) return; /* a second try already told */
    op->done = true;
    client_again(op, chance(100) ? between(1000 * MS, 8000 * MS) : between(0, 60 * MS));
    if (out->rc == RC_ABORTED) return; /* beyond the window: told, not done */
    w.acked++;
    w.acked_max = MAX(w.acked_max, index);
    truth_acked_held("acknowledged");
    copies = truth_copies(index);
    if (copies < w.min_in_sync && op->losses == w.losses)
        fail("entry %llu acknowledged by n%d with %u durable copies", (unsigned long long)index,
             node_idx(n), copies);
    trace("n%d: ack of entry %llu, %u copies", node_idx(n), (unsigned long long)index, copies);
    if (!writes || !out->succeeded) return;
    if (op->executed != out->index || out->index <= op->floor)
        fail(
            "a write of key %u took effect at %llu (said: %llu), but %llu was seen before it began",
            op->key, (unsigned long long)op->executed, (unsigned long long)out->index,
            (unsigned long long)op->floor);
    if (op->kind != OP_DELETE) w.seen[op->key] = MAX(w.seen[op->key], out->index);
}
