/* tests/sim/sim_gateway/sim_gateway.c - uploads, commits and jobs through gateways that crash and a
 * network that loses, delays and repeats; over the real apply_core. One seed, one run.
 *
 * Uploads: nothing acknowledged is lost (chunk, completed object, commit); Complete xor Abort; a
 * commit covers exactly the objects it counted, for ever; receipts keep their bytes.
 * Jobs: an item's result is written once and by the attempt that holds the task; every item ends
 * with a result; one that never succeeds is set aside. */
#include "gateway/ingest/upload_core.h"
#include "gateway/scheduler/scheduler_core.h"
#include "tests/sim/sim_gateway/sim_group.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t the_seed;
static const char *the_part;

/* Says which seed to replay, then stops. */
#define HOLDS(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            (void)fprintf(stderr, "%s: seed %llu: %s (line %d)\n", the_part,                       \
                          (unsigned long long)the_seed, #x, __LINE__);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* ---- uploads and commits ---- */

#define UPLOADS    5u
#define CHUNKS_MAX 3u
#define PUTS       2u
#define PUT_AGENTS (2u * PUTS)
#define AGENTS     (2u * UPLOADS + 2u /* aborts */ + 2u /* commits */ + PUT_AGENTS)
#define STEPS_MAX  60000u

struct gateway {
    struct id128 client;
    uint64_t sequence;
};
enum todo {
    DO_ENSURE,
    DO_BEGIN,
    DO_CHUNK,
    DO_COMPLETE,
    DO_ABORT,
    DO_COMMIT,
    DO_COMMIT_AGAIN,
    DO_PUBLISH, /* PutObject with commit */
    DO_PUT,     /* there is such a case: staged only */
    DO_END
};
struct agent {
    enum todo todo;
    uint32_t upload, chunk, commits;
    bool running, calm_only;
    uint32_t gateway, patience;
    uint64_t sequence; /* of the transaction under way */
    struct upload_request req;
    struct upload_core core;
    struct upload_action act;
    uint8_t *mem;
    struct record_index index;
    uint8_t manifest[256], receipt[64];
    bool lied; /* about the count */
};
struct upload {
    struct id128 id;
    char path[8];
    uint32_t chunks;
    bool chunk_acked[CHUNKS_MAX], completed, aborted;
    uint8_t state; /* of its row, as last seen */
    uint64_t version, stage;
};
/* PutObject: each tried by two agents at once, as a client that asks two gateways. */
struct one_put {
    struct id128 id;
    char path[8];
    struct record_session claim;
    bool published, completed;
    uint64_t version;
};
struct acked_commit {
    struct id128 request;
    uint64_t generation;
    uint8_t receipt[64];
    size_t receipt_n;
};
static struct sim_group g;
static struct gateway gateways[2];
static struct agent agents[AGENTS];
static struct upload uploads[UPLOADS];
static struct one_put one_puts[PUTS];
static struct acked_commit acked[64];
static uint32_t acked_n;
static struct record_anchor anchor;
static struct record_case new_case;

static struct id128 random_id(void)
{
    struct id128 id;

    for (int i = 0; i < 16; i++)
        id.b[i] = (uint8_t)sim_rand(&g, 256);
    id.b[0] |= 1;
    return id;
}

/* Newest versions with stage in (after, upto]: count, and a digest of their names. */
static uint64_t staged(uint64_t after, uint64_t upto, uint8_t root[32])
{
    uint8_t from[RECORD_KEY_BYTES_MAX];
    struct slice f = {from, record_key(&anchor, RECORD_INDEX, from)}, key, value, path;
    char last[8] = "";
    uint64_t count = 0, version;
    static struct record_index x;

    memset(root, 0, 32);
    while (sim_next(&g, f, &key, &value) &&
           record_key_parse_object(key, &path, &version) == RC_OK &&
           key.p[1 + RECORD_ANCHOR_BYTES] == RECORD_INDEX) {
        HOLDS(record_index_decode(value, &x, NULL) == RC_OK);
        if (x.stage > after && x.stage <= upto &&
            !(path.n == strlen(last) && memcmp(path.p, last, path.n) == 0)) {
            memcpy(last, path.p, path.n);
            last[path.n] = 0;
            count++;
            root[count % 32] = (uint8_t)(root[count % 32] + path.p[1] * 31u + version);
        }
        memcpy(from, key.p, key.n);
        from[key.n] = 0;
        f.n = key.n + 1;
    }
    return count;
}

static struct record_head head_now(void)
{
    uint8_t k[RECORD_KEY_BYTES_MAX];
    struct record_head h = {.state = RECORD_CASE_OPEN, .stage = 1};
    uint64_t version;
    struct slice v = sim_get(&g, (struct slice){k, record_key(&anchor, RECORD_HEAD, k)}, &version);

    if (version != 0) HOLDS(record_head_decode(v, &h, NULL) == RC_OK);
    return h;
}

/* Every entry that takes effect: a session that has ended stays so, and takes no chunk any more. */
static void upload_applied(void *ctx, struct slice entry)
{
    uint8_t k[RECORD_KEY_BYTES_MAX];

    (void)ctx;
    (void)entry;
    for (uint32_t i = 0; i < UPLOADS; i++) {
        struct upload *u = &uploads[i];
        struct slice key = {k, record_key_id(&anchor, RECORD_SESSION, &u->id, k)};
        struct record_session s;
        uint64_t version;
        struct slice v = sim_get(&g, key, &version);

        if (version == 0) continue;
        HOLDS(record_session_decode(v, &s, NULL) == RC_OK);
        HOLDS(u->state <= RECORD_SESSION_OPEN || s.state == u->state);
        u->state = s.state;
        for (uint32_t n = 0; n < u->chunks; n++) {
            key = (struct slice){k, record_key_chunk(&anchor, &u->id, n, k)};
            (void)sim_get(&g, key, &version);
            HOLDS(version != g.index || s.state == RECORD_SESSION_OPEN);
        }
    }
}

static void agent_start(struct agent *a)
{
    struct upload *u = &uploads[a->upload];
    struct record_head h = head_now();

    if (a->todo == DO_ABORT && !g.calm && !u->chunk_acked[0] && sim_rand(&g, 50) != 0) return;
    a->gateway = (uint32_t)sim_rand(&g, 2);
    a->patience = 1 + (uint32_t)sim_rand(&g, 6);
    if (a->todo == DO_PUBLISH || a->todo == DO_PUT) {
        struct one_put *p = &one_puts[a->upload];

        a->req = (struct upload_request){.op = a->todo == DO_PUT ? UPLOAD_COMPLETE : UPLOAD_PUBLISH,
                                         .anchor = anchor,
                                         .id = p->id,
                                         .one_shot = &p->claim,
                                         .new_case = &new_case};
    } else if (a->todo != DO_COMMIT_AGAIN) {
        a->req = (struct upload_request){.anchor = anchor, .id = u->id};
    }
    switch (a->todo) {
    case DO_ENSURE:
        a->req.op = UPLOAD_ENSURE;
        a->req.new_case = &new_case;
        break;
    case DO_BEGIN:
        a->req.op = UPLOAD_BEGIN;
        a->req.fingerprint[0] = (uint8_t)a->upload;
        break;
    case DO_CHUNK:
        a->req.op = UPLOAD_CHUNK;
        a->req.index = a->chunk;
        a->req.plain_bytes = 100;
        a->req.plain_digest[0] = (uint8_t)(a->upload * 16 + a->chunk);
        break;
    case DO_COMPLETE:
        a->req.op = UPLOAD_COMPLETE;
        break;
    case DO_ABORT:
        a->req.op = UPLOAD_ABORT;
        a->req.expire = a->upload % 2 == 1;
        break;
    case DO_COMMIT:
        a->req.op = UPLOAD_COMMIT;
        a->req.id = random_id();
        a->req.expected_generation = h.generation;
        a->req.count = staged(h.visible, h.stage, a->req.root);
        a->req.have_root = true;
        a->lied = sim_rand(&g, 5) == 0;
        a->req.count += a->lied;
        break;
    case DO_COMMIT_AGAIN:
    case DO_PUBLISH:
    case DO_PUT:
    case DO_END:
        break;
    }
    upload_start(&a->core, &a->req, a->mem, UPLOAD_MEM_BYTES, &a->act);
    a->sequence = 0;
    a->running = true;
}

static void check_session(const struct agent *a, enum record_session_state want)
{
    uint8_t k[RECORD_KEY_BYTES_MAX];
    struct slice key = {k, record_key_id(&anchor, RECORD_SESSION, &uploads[a->upload].id, k)};
    struct record_session s;
    uint64_t version;
    struct slice v = sim_get(&g, key, &version);

    HOLDS(version != 0 && record_session_decode(v, &s, NULL) == RC_OK && s.state == want);
}

static void check_claim(const struct one_put *p)
{
    uint8_t k[RECORD_KEY_BYTES_MAX];
    struct slice path = {(const uint8_t *)p->path, strlen(p->path)}, v;
    struct record_session s;
    uint64_t version;

    v = sim_get(&g, (struct slice){k, record_key_claim(record_anchor_hash(&anchor), &p->id, k)},
                &version);
    HOLDS(version != 0 && record_session_decode(v, &s, NULL) == RC_OK);
    HOLDS(s.state == RECORD_SESSION_COMPLETED && s.version == p->version);
    for (enum record_kind kind = RECORD_INDEX; kind <= RECORD_MANIFEST; kind++) {
        struct slice key = {k, record_key_object(&anchor, kind, path, p->version, k)};

        (void)sim_get(&g, key, &version);
        HOLDS(version != 0);
    }
}

static void ack_commit(const struct agent *a)
{
    struct acked_commit *k = &acked[acked_n];

    if (acked_n == ARRAY_N(acked)) return;
    acked_n++;
    k->request = a->req.id;
    k->generation = a->act.generation;
    k->receipt_n = a->act.commit->receipt.n;
    memcpy(k->receipt, a->act.commit->receipt.p, k->receipt_n);
}

/* All in one entry, or nothing of it. */
static void put_answered(struct agent *a)
{
    struct one_put *p = &one_puts[a->upload];
    enum rc rc = a->act.rc;

    if (a->todo == DO_PUBLISH && rc == RC_EXISTS) {
        HOLDS(head_now().stage != 0 && !p->published);
        a->todo = DO_PUT;
        return;
    }
    HOLDS(rc == RC_OK);
    HOLDS(!p->completed || p->version == a->act.version); /* one object, whoever is answered */
    p->completed = true;
    p->version = a->act.version;
    if (a->todo == DO_PUBLISH) {
        HOLDS(a->act.generation == 1 && a->act.version == 1);
        if (!p->published) ack_commit(a);
        p->published = true;
    }
    check_claim(p);
    if (a->todo == DO_PUBLISH && sim_rand(&g, 3) == 0) return; /* a client that lost the answer */
    a->todo = DO_END;
}

static void commit_answered(struct agent *a)
{
    const struct upload_action *act = &a->act;

    if (act->rc == RC_OK) {
        HOLDS(!a->lied && act->commit->receipt.n <= 64);
        for (uint32_t i = 0; i < acked_n; i++) {
            bool same = id128_eq(&acked[i].request, &a->req.id);

            HOLDS(same ==
                  (acked[i].generation == act->generation)); /* one commit, one generation */
            if (!same) continue;
            HOLDS(acked[i].receipt_n == act->commit->receipt.n &&
                  memcmp(acked[i].receipt, act->commit->receipt.p, acked[i].receipt_n) == 0);
        }
        if (a->todo == DO_COMMIT && acked_n < ARRAY_N(acked)) {
            ack_commit(a);
            a->todo = DO_COMMIT_AGAIN; /* a client that lost the answer */
            return;
        }
    } else {
        HOLDS(act->rc == RC_ABORTED || act->rc == RC_PRECOND || act->rc == RC_NOTFOUND);
        HOLDS(a->todo != DO_COMMIT_AGAIN);
    }
    a->todo = ++a->commits == 6 ? DO_END : DO_COMMIT;
}

static void answered(struct agent *a)
{
    struct upload *u = &uploads[a->upload];
    enum rc rc = a->act.rc;

    a->running = false;
    if ((a->todo == DO_PUBLISH || a->todo == DO_PUT) && rc != RC_ABORTED) {
        put_answered(a);
        return;
    }
    if (rc == RC_ABORTED && a->req.op != UPLOAD_COMMIT) return; /* lost many races: again */
    switch (a->todo) {
    case DO_ENSURE:
        HOLDS(rc == RC_OK);
        a->todo = DO_BEGIN;
        break;
    case DO_BEGIN:
        HOLDS(rc == RC_OK && a->act.session->chunks == u->chunks);
        a->todo = DO_CHUNK;
        a->chunk = (uint32_t)sim_rand(&g, u->chunks);
        break;
    case DO_CHUNK:
        if (rc != RC_OK) {
            HOLDS(rc == RC_PRECOND); /* completed by the twin, aborted, expired */
            a->todo = DO_COMPLETE;
            break;
        }
        u->chunk_acked[a->chunk] = true;
        for (uint32_t i = 0; i < u->chunks; i++) { /* any order */
            a->chunk = (a->chunk + 1) % u->chunks;
            if (!u->chunk_acked[a->chunk]) return;
        }
        a->todo = DO_COMPLETE;
        break;
    case DO_COMPLETE:
        if (rc == RC_OK) {
            HOLDS(!u->aborted);
            HOLDS(!u->completed || (u->version == a->act.version && u->stage == a->act.stage));
            u->completed = true;
            u->version = a->act.version;
            u->stage = a->act.stage;
            check_session(a, RECORD_SESSION_COMPLETED);
        } else {
            HOLDS(rc == RC_PRECOND && !u->completed);
        }
        a->todo = DO_END;
        break;
    case DO_ABORT:
        if (rc == RC_OK && !a->act.was_there) {
            HOLDS(!u->completed);
            u->aborted = true;
            check_session(a, RECORD_SESSION_ABORTED);
        }
        if (rc == RC_PRECOND && a->req.expire && g.tick < 30) break; /* not expired: later */
        if (rc == RC_OK && a->act.was_there && !u->aborted && !g.calm) break; /* not begun yet */
        a->todo = DO_END;
        break;
    case DO_COMMIT:
    case DO_COMMIT_AGAIN:
        commit_answered(a);
        break;
    case DO_PUBLISH:
    case DO_PUT:
    case DO_END:
        break;
    }
}

/* The shell's part: one action, one event. */
static void agent_txn(struct agent *a, struct upload_event *ev)
{
    struct apply_compare compares[UPLOAD_COMPARES_MAX];
    struct apply_put puts[UPLOAD_PUTS_MAX];
    struct gateway *gw = &gateways[a->gateway];
    struct apply_outcome out = {0};
    struct apply_entry e = {.kind = APPLY_TXN,
                            .client = gw->client,
                            .compares = compares,
                            .puts = puts,
                            .compares_n = a->act.compares_n,
                            .puts_n = a->act.puts_n};

    for (uint32_t i = 0; i < e.compares_n; i++) {
        const struct upload_compare *c = &a->act.compares[i];

        compares[i] =
            (struct apply_compare){(enum apply_compare_kind)c->kind, c->key, {0}, c->number};
    }
    for (uint32_t i = 0; i < e.puts_n; i++)
        puts[i] = (struct apply_put){a->act.puts[i].key, a->act.puts[i].value};
    HOLDS(a->act.retry == (a->sequence != 0));
    if (!a->act.retry) a->sequence = ++gw->sequence;
    e.sequence = a->sequence;
    ev->type = UPLOAD_EV_TXN;
    ev->rc = sim_txn(&g, &e, &out);
    ev->succeeded = out.succeeded;
    ev->index = out.index;
    ev->tick = out.tick;
    if (ev->rc != RC_DEADLINE) a->sequence = 0;
}

static void gather(struct agent *a, struct upload_event *ev)
{
    const struct record_session *s = a->act.session;
    struct record_out o = {.p = a->manifest, .cap = sizeof(a->manifest)};
    static struct record_manifest m;
    uint8_t k[RECORD_KEY_BYTES_MAX];
    uint64_t version;

    ev->type = UPLOAD_EV_GATHERED;
    for (uint32_t i = 0; i < s->chunks && a->req.one_shot == NULL; i++) {
        struct slice key = {k, record_key_chunk(&anchor, &a->req.id, i, k)};

        (void)sim_get(&g, key, &version);
        HOLDS(version != 0 || !uploads[a->upload].chunk_acked[i]); /* acknowledged: there */
        if (version == 0) ev->rc = RC_PRECOND;
    }
    if (ev->rc != RC_OK) return;
    m = (struct record_manifest){.size_bytes = s->size_bytes, .bodies_n = 1, .extents_n = 1};
    m.bodies[0] = (struct record_body){
        .id = s->body, .chunk_bytes = s->chunk_bytes, .size_bytes = s->size_bytes};
    m.extents[0].length = s->size_bytes;
    HOLDS(record_manifest_encode(&m, &o, NULL) == RC_OK);
    a->index = (struct record_index){.stage = a->act.stage, .size_bytes = s->size_bytes};
    ev->index_row = &a->index;
    ev->manifest = record_out_slice(&o);
    ev->root[1] = (uint8_t)(s->path.p[1] * 31u + a->act.version); /* as staged() does for one */
}

static void agent_step(struct agent *a)
{
    struct upload *u = &uploads[a->upload];
    struct upload_event ev = {0};
    struct upload_item items[UPLOAD_KEYS_MAX];
    struct record_session s;
    struct slice key, value, path;

    switch (a->act.type) {
    case UPLOAD_ACT_GET:
        ev.type = UPLOAD_EV_GOT;
        for (uint32_t i = 0; i < a->act.keys_n; i++)
            items[i].value = sim_get(&g, a->act.keys[i], &items[i].version);
        ev.items = items;
        ev.tick = g.tick;
        break;
    case UPLOAD_ACT_NEWEST:
        ev.type = UPLOAD_EV_NEWEST;
        key = (struct slice){0};
        if (sim_next(&g, a->act.keys[0], &key, &value) && key.n > a->act.keys[0].n &&
            memcmp(key.p, a->act.keys[0].p, a->act.keys[0].n) == 0) {
            HOLDS(record_key_parse_object(key, &path, &ev.newest) == RC_OK);
        }
        break;
    case UPLOAD_ACT_TXN:
        agent_txn(a, &ev);
        if (ev.rc == RC_DEADLINE && a->patience-- == 0) { /* the client's deadline: all forgotten */
            a->running = false;
            return;
        }
        break;
    case UPLOAD_ACT_MAKE:
        ev.type = UPLOAD_EV_MADE;
        s = (struct record_session){.path = {(uint8_t *)u->path, strlen(u->path)},
                                    .size_bytes = 100 * u->chunks,
                                    .chunk_bytes = 100,
                                    .chunks = u->chunks,
                                    .body = random_id(),
                                    .ttl_ticks = 20};
        ev.session = &s;
        break;
    case UPLOAD_ACT_WRITE:
        ev.type = UPLOAD_EV_WRITTEN;
        ev.seal_id = random_id();
        break;
    case UPLOAD_ACT_GATHER:
        gather(a, &ev);
        break;
    case UPLOAD_ACT_SUM:
        ev.type = UPLOAD_EV_SUMMED;
        ev.count = staged(a->act.stage_after, a->act.stage_upto, ev.root);
        break;
    case UPLOAD_ACT_SIGN:
        ev.type = UPLOAD_EV_SIGNED;
        for (size_t i = 0; i < sizeof(a->receipt); i++) /* time and signature differ each time */
            a->receipt[i] = (uint8_t)sim_rand(&g, 256);
        ev.receipt = (struct slice){a->receipt, sizeof(a->receipt)};
        break;
    case UPLOAD_ACT_ANSWER:
        answered(a);
        return;
    }
    upload_step(&a->core, &ev, &a->act);
}

static void check_commits(void)
{
    uint8_t k[RECORD_KEY_BYTES_MAX], root[32];
    struct record_head h = head_now();
    uint64_t after = 0, version;

    for (uint64_t n = 1; n <= h.generation; n++) {
        struct slice key = {k, record_key_number(&anchor, RECORD_COMMIT, n, k)};
        struct record_commit c;
        struct slice v = sim_get(&g, key, &version);

        HOLDS(version != 0 && record_commit_decode(v, &c, NULL) == RC_OK);
        HOLDS(c.stage_after == after && c.stage_upto > after);
        HOLDS(staged(c.stage_after, c.stage_upto, root) == c.count && c.count > 0);
        HOLDS(memcmp(root, c.root, 32) == 0);
        after = c.stage_upto;
        for (uint32_t i = 0; i < acked_n; i++) {
            if (acked[i].generation != n) continue;
            HOLDS(id128_eq(&acked[i].request, &c.request) && acked[i].receipt_n == c.receipt.n &&
                  memcmp(acked[i].receipt, c.receipt.p, c.receipt.n) == 0);
        }
    }
    HOLDS(h.visible == after);
    for (uint32_t i = 0; i < acked_n; i++)
        HOLDS(acked[i].generation <= h.generation);
}

static bool run_uploads(void)
{
    uint32_t steps = 0, published_n = 0;
    bool over = false;

    the_part = "uploads";
    sim_group_init(&g, the_seed);
    acked_n = 0;
    g.on_applied = upload_applied;
    for (size_t i = 0; i < ARRAY_N(anchor.b); i++)
        anchor.b[i] = (uint8_t)sim_rand(&g, 256);
    new_case = (struct record_case){.case_id = {(const uint8_t *)"c", 1}};
    for (uint32_t i = 0; i < 2; i++)
        gateways[i] = (struct gateway){.client = random_id()};
    for (uint32_t i = 0; i < UPLOADS; i++) {
        uploads[i] =
            (struct upload){.id = random_id(), .chunks = 1 + (uint32_t)sim_rand(&g, CHUNKS_MAX)};
        (void)snprintf(uploads[i].path, sizeof(uploads[i].path), "p%u", i % 3); /* some share one */
    }
    for (uint32_t i = 0; i < PUTS; i++) {
        struct one_put *p = &one_puts[i];

        *p = (struct one_put){.id = random_id()};
        (void)snprintf(p->path, sizeof(p->path), "q%u", i);
        p->claim = (struct record_session){.path = {(const uint8_t *)p->path, 2},
                                           .size_bytes = 100,
                                           .chunk_bytes = 100,
                                           .chunks = 1,
                                           .body = random_id()};
    }
    for (uint32_t i = 0; i < AGENTS; i++) {
        struct agent *a = &agents[i];
        uint8_t *mem = a->mem != NULL ? a->mem : malloc(UPLOAD_MEM_BYTES);

        CHECK(mem != NULL);
        memset(a, 0, sizeof(*a));
        a->mem = mem;
        a->upload = i % UPLOADS; /* each upload twice: a client that asks two gateways */
        if (i >= 2 * UPLOADS) a->todo = i < 2 * UPLOADS + 2 ? DO_ABORT : DO_COMMIT;
        if (i < AGENTS - PUT_AGENTS) continue;
        a->todo = DO_PUBLISH;
        a->upload = i % PUTS;
    }
    while (!over) {
        uint64_t dice = sim_rand(&g, 100);
        struct agent *a = &agents[sim_rand(&g, AGENTS)];

        HOLDS(++steps < STEPS_MAX);
        if (steps == 3000) g.calm = true;
        if (!g.calm && dice == 0) { /* a gateway dies with all it was doing; its packets live on */
            uint64_t dead = sim_rand(&g, 2);

            gateways[dead] = (struct gateway){.client = random_id()};
            for (uint32_t i = 0; i < AGENTS; i++)
                agents[i].running = agents[i].running && agents[i].gateway != dead;
        } else if (dice < 2) {
            sim_tick(&g);
        } else if (dice < 8) {
            sim_deliver_late(&g);
        } else if (!a->running && a->todo != DO_END) {
            agent_start(a);
        } else if (a->running) {
            agent_step(a);
        }
        if (steps % 256 == 0) check_commits();
        over = g.late_n == 0;
        for (uint32_t i = 0; i < AGENTS; i++)
            over = over && agents[i].todo == DO_END;
    }
    check_commits();
    for (uint32_t i = 0; i < UPLOADS; i++) {
        struct agent a = {.upload = i};
        uint8_t k[RECORD_KEY_BYTES_MAX];
        uint64_t version;
        struct slice path = {(const uint8_t *)uploads[i].path, strlen(uploads[i].path)};

        HOLDS(!(uploads[i].completed && uploads[i].aborted));
        if (uploads[i].aborted) check_session(&a, RECORD_SESSION_ABORTED);
        if (!uploads[i].completed) continue;
        for (uint32_t n = 0; n < i; n++) { /* no two are one version of a path */
            HOLDS(!uploads[n].completed || strcmp(uploads[n].path, uploads[i].path) != 0 ||
                  uploads[n].version != uploads[i].version);
        }
        check_session(&a, RECORD_SESSION_COMPLETED);
        for (enum record_kind kind = RECORD_INDEX; kind <= RECORD_MANIFEST; kind++) {
            struct slice key = {k, record_key_object(&anchor, kind, path, uploads[i].version, k)};

            (void)sim_get(&g, key, &version);
            HOLDS(version != 0);
        }
    }
    for (uint32_t i = 0; i < PUTS; i++) {
        HOLDS(one_puts[i].completed);
        check_claim(&one_puts[i]);
        published_n += one_puts[i].published;
    }
    HOLDS(published_n <= 1); /* only one can have made the case */
    over = acked_n > 0;
    sim_group_deinit(&g);
    return over;
}

/* ---- jobs ---- */

#define ITEMS   40u
#define WORKERS 4u
#define TOKENS  32u

enum item_kind { ITEM_GOOD, ITEM_BROKEN, ITEM_KILLER };
struct pending { /* a transaction of a scheduler, by token */
    bool used, sent;
    uint64_t sequence;
    struct sched_action act;
    uint8_t key[64], row[4096];
    uint32_t worker;
};
struct master {
    struct sched *s;
    void *mem;
    struct gateway net;
    struct pending pending[TOKENS];
};
enum worker_state { W_IDLE, W_ASKED, W_WORKS, W_REPORTED };
struct worker_sim {
    enum worker_state state;
    uint32_t master, attempt;
    uint64_t task, since;
    char name[16];
    struct record_task rec;
};
static struct master masters[2];
static struct worker_sim workers[WORKERS];
static enum item_kind kinds[ITEMS];
static struct record_anchor job_anchor;
static struct id128 job_id;
static uint32_t tasks_n;
static uint64_t now;
static const struct sched_limits limits = {
    .jobs = 2, .tasks = TOKENS, .workers = 8, .lease_ms = 300};

static struct record_task *task_row(uint64_t no, uint64_t *ret_version)
{
    static struct record_task t;
    uint8_t k[RECORD_KEY_BYTES_MAX];
    struct slice key = {k, record_key_number(&job_anchor, RECORD_TASK, no, k)};
    struct slice v = sim_get(&g, key, ret_version);

    HOLDS(*ret_version != 0 && record_task_decode(v, &t, NULL) == RC_OK);
    return &t;
}

/* Elected, or beaten: everything comes from the rows. */
static void master_load(struct master *m)
{
    struct sched_job_in in = {.id = job_id, .anchor = job_anchor, .owner = 1};
    uint64_t version;

    memset(m->pending, 0, sizeof(m->pending));
    m->s = sched_init(m->mem, &limits);
    HOLDS(sched_job_add(m->s, &in) == RC_OK);
    for (uint32_t t = 0; t < tasks_n; t++) {
        struct record_task *row = task_row(t, &version);

        HOLDS(sched_task_add(m->s, &job_id, t, row, version, now) == RC_OK);
    }
}

static void remember(struct master *m, const struct sched_action *act, uint32_t worker)
{
    struct pending *p = &m->pending[act->token];

    HOLDS(act->token < TOKENS && act->key.n <= sizeof(p->key) && act->row.n <= sizeof(p->row));
    HOLDS(act->retry == (p->used && p->sent));
    if (!act->retry) *p = (struct pending){.used = true, .worker = worker};
    p->act = *act;
    memcpy(p->key, act->key.p, act->key.n);
    memcpy(p->row, act->row.p, act->row.n);
    p->act.key.p = p->key;
    p->act.row.p = p->row;
}

/* The result of an item: who wrote it, under which attempt, and whether it was set aside. */
static size_t result_row(uint32_t attempt, bool aside, uint8_t *out, size_t cap)
{
    struct record_result r = {.attempt = attempt};
    struct record_out o = {.p = out, .cap = cap};

    if (aside) r.reason = (struct slice){(const uint8_t *)"failed three times", 18};
    if (!aside) r.label = (struct slice){(const uint8_t *)"usable", 6};
    HOLDS(record_result_encode(&r, &o, NULL) == RC_OK);
    return o.n;
}

static void master_send(struct master *m, uint32_t token)
{
    struct pending *p = &m->pending[token];
    static uint8_t keys[RECORD_TASK_ITEMS_MAX][64], values[RECORD_TASK_ITEMS_MAX][128];
    struct apply_put puts[1 + RECORD_TASK_ITEMS_MAX];
    struct apply_compare compare = {APPLY_VERSION, p->act.key, {0}, p->act.version};
    struct apply_entry e = {.kind = APPLY_TXN,
                            .client = m->net.client,
                            .compares = &compare,
                            .compares_n = 1,
                            .puts = puts,
                            .puts_n = 1};
    struct apply_outcome out = {0};
    struct sched_action act;
    struct worker_sim *w;
    enum rc rc;

    puts[0] = (struct apply_put){p->act.key, p->act.row};
    for (uint32_t i = 0; i < p->act.commits_n + p->act.asides_n; i++) {
        bool aside = i >= p->act.commits_n;
        uint32_t item = aside ? p->act.asides[i - p->act.commits_n] : p->act.commits[i];

        puts[e.puts_n++] = (struct apply_put){
            {keys[i], record_key_number(&job_anchor, RECORD_RESULT, item, keys[i])},
            {values[i], result_row(p->act.attempt, aside, values[i], sizeof(values[i]))}};
    }
    if (!p->sent) p->sequence = ++m->net.sequence;
    p->sent = true;
    e.sequence = p->sequence;
    rc = sim_txn(&g, &e, &out);
    sched_txn_done(m->s, token, rc, out.succeeded, out.index, now, &act);
    if (act.type == SCHED_ACT_TXN) {
        remember(m, &act, p->worker);
        return;
    }
    if (act.type == SCHED_ACT_RESYNC) {
        master_load(m);
        return;
    }
    p->used = false;
    if (p->worker == SCHED_NONE) return;
    w = &workers[p->worker];
    if (act.type == SCHED_ACT_HAND && w->state == W_ASKED) {
        w->state = W_WORKS;
        w->task = act.task;
        w->attempt = act.attempt;
        w->rec = *act.record;
    } else if (act.type == SCHED_ACT_DONE && w->state == W_REPORTED) {
        w->state = W_IDLE;
    }
}

static void worker_step(uint32_t n)
{
    struct worker_sim *w = &workers[n];
    struct sched_item_outcome outs[RECORD_TASK_ITEMS_MAX];
    struct sched_action act;
    uint32_t outs_n = 0;
    enum rc rc;

    switch (w->state) {
    case W_IDLE: {
        struct sched_worker_in in = {
            .name = {(uint8_t *)w->name, strlen(w->name)}, .host = n + 1, .cpu = true, .slots = 2};

        w->master = (uint32_t)sim_rand(&g, 2);
        if (sched_pull(masters[w->master].s, &in, now, &act) != RC_OK) return;
        if (act.type == SCHED_ACT_NONE) return;
        remember(&masters[w->master], &act, n);
        w->state = W_ASKED;
        w->since = now;
        return;
    }
    case W_ASKED:
    case W_REPORTED:
        if (now - w->since > 200) w->state = W_IDLE; /* no answer */
        return;
    case W_WORKS:
        break;
    }
    for (uint32_t i = 0; i < w->rec.items_n; i++) {
        const struct record_task_item *it = &w->rec.items[i];

        if (it->out == 0) continue;
        if (kinds[it->item] == ITEM_KILLER) { /* the process is gone, with all results */
            w->state = W_IDLE;
            return;
        }
        outs[outs_n++] = (struct sched_item_outcome){
            it->item, kinds[it->item] == ITEM_GOOD ? SCHED_ITEM_OK : SCHED_ITEM_FAILED};
    }
    if (sim_rand(&g, 2) == 0) w->master = (uint32_t)sim_rand(&g, 2); /* to the other one */
    (void)sched_renew(masters[w->master].s, &job_id, w->task, w->attempt, now);
    rc = sched_finish(masters[w->master].s, &job_id, w->task, w->attempt, outs, outs_n, now, &act);
    if (rc == RC_OK) {
        remember(&masters[w->master], &act, n);
        w->state = sim_rand(&g, 4) == 0 ? W_WORKS : W_REPORTED; /* sometimes it reports again */
        w->since = now;
    } else {
        HOLDS(rc == RC_PRECOND);
        w->state = W_IDLE; /* fenced */
    }
}

/* Every entry that takes effect: results are new, and carry the attempt in the task's row. */
static uint8_t result_seen[ITEMS];
static void job_applied(void *ctx, struct slice entry)
{
    uint8_t k[RECORD_KEY_BYTES_MAX];

    (void)ctx;
    (void)entry;
    for (uint32_t i = 0; i < ITEMS; i++) {
        struct slice key = {k, record_key_number(&job_anchor, RECORD_RESULT, i, k)};
        uint64_t version;
        struct slice v = sim_get(&g, key, &version);
        struct record_result r;
        bool fresh = version == g.index;

        if (version == 0) continue;
        HOLDS(record_result_decode(v, &r, NULL) == RC_OK);
        HOLDS(fresh == (result_seen[i] == 0)); /* written once */
        result_seen[i] = 1;
        HOLDS(kinds[i] == ITEM_GOOD || r.reason.n > 0);
        if (!fresh) continue;
        for (uint32_t t = 0; t < tasks_n; t++) {
            struct record_task *row = task_row(t, &version);

            for (uint32_t n = 0; n < row->items_n; n++) {
                if (row->items[n].item != i) continue;
                HOLDS(row->attempt == r.attempt && version == g.index);
            }
        }
    }
}

static void job_create(void)
{
    struct sched_cut_item items[ITEMS];
    uint32_t ends[ITEMS];

    for (uint32_t i = 0; i < ITEMS; i++) {
        uint64_t dice = sim_rand(&g, 12);

        kinds[i] = dice == 0 ? ITEM_BROKEN : dice == 1 ? ITEM_KILLER : ITEM_GOOD;
        items[i] = (struct sched_cut_item){.item = i,
                                           .host = 1 + (uint32_t)sim_rand(&g, 3),
                                           .rack = 1,
                                           .zone = 1,
                                           .bytes = sim_rand(&g, 100)};
    }
    tasks_n = sched_cut(items, ITEMS, 8, 300, ends);
    HOLDS(tasks_n <= TOKENS);
    for (uint32_t t = 0, at = 0; t < tasks_n; t++) {
        static struct record_task row;
        static uint8_t value[8192];
        struct record_out o = {.p = value, .cap = sizeof(value)};
        uint8_t k[RECORD_KEY_BYTES_MAX];
        struct apply_put put;
        struct apply_outcome out;
        struct apply_entry e = {.kind = APPLY_TXN, .puts = &put, .puts_n = 1};

        row = (struct record_task){.state = RECORD_TASK_OPEN, .host = items[at].host};
        for (; at < ends[t]; at++) {
            HOLDS(items[at].host == row.host);
            row.items[row.items_n++].item = items[at].item;
        }
        HOLDS(record_task_encode(&row, &o, NULL) == RC_OK);
        put = (struct apply_put){{k, record_key_number(&job_anchor, RECORD_TASK, t, k)},
                                 record_out_slice(&o)};
        HOLDS(sim_txn(&g, &e, &out) == RC_OK);
    }
}

static bool job_over(void)
{
    uint64_t version;

    for (uint32_t t = 0; t < tasks_n; t++) {
        if (task_row(t, &version)->state != RECORD_TASK_DONE) return false;
    }
    return true;
}

static void run_job(void)
{
    uint32_t steps = 0;

    the_part = "job";
    sim_group_init(&g, the_seed + 1000003);
    now = 0;
    job_id = random_id();
    memset(result_seen, 0, sizeof(result_seen));
    g.calm = true;
    job_create();
    g.calm = false;
    g.on_applied = job_applied;
    for (uint32_t i = 0; i < 2; i++) {
        if (masters[i].mem == NULL) masters[i].mem = aligned_alloc(16, sched_bytes(&limits));
        CHECK(masters[i].mem != NULL);
        masters[i].net = (struct gateway){.client = random_id()};
        master_load(&masters[i]);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker_sim){0};
        (void)snprintf(workers[i].name, sizeof(workers[i].name), "w%u", i);
    }
    while (!job_over()) {
        struct master *m = &masters[sim_rand(&g, 2)];
        uint64_t dice = sim_rand(&g, 100);
        uint32_t token = (uint32_t)sim_rand(&g, TOKENS);
        struct sched_action act;

        HOLDS(++steps < STEPS_MAX);
        if (steps == 4000) g.calm = true;
        now += sim_rand(&g, 10);
        if (!g.calm && dice == 0) { /* its gateway dies; another is elected and reads the rows */
            m->net = (struct gateway){.client = random_id()};
            master_load(m);
        } else if (!g.calm && dice == 1) {
            workers[sim_rand(&g, WORKERS)].state = W_IDLE; /* kill -9, and a new start */
        } else if (dice < 8) {
            sim_deliver_late(&g);
        } else if (dice < 16) {
            sched_tick(m->s, now, &act);
            if (act.type == SCHED_ACT_TXN) remember(m, &act, SCHED_NONE);
        } else if (dice < 40) {
            worker_step((uint32_t)sim_rand(&g, WORKERS));
        } else {
            for (uint32_t i = 0; i < TOKENS && !m->pending[token].used; i++)
                token = (token + 1) % TOKENS;
            if (m->pending[token].used) master_send(m, token);
        }
    }
    while (g.late_n > 0)
        sim_deliver_late(&g); /* the last packets of the dead change nothing */
    for (uint32_t i = 0; i < ITEMS; i++)
        HOLDS(result_seen[i] == 1);
    sim_group_deinit(&g);
}

int main(int argc, char **argv)
{
    uint64_t seeds = 20, first = 1, committed = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--first-seed") == 0) first = strtoull(argv[i + 1], NULL, 10);
    }
    for (the_seed = first; the_seed < first + seeds; the_seed++) {
        committed += run_uploads();
        run_job();
    }
    for (uint32_t i = 0; i < AGENTS; i++)
        free(agents[i].mem);
    for (uint32_t i = 0; i < 2; i++)
        free(masters[i].mem);
    (void)printf("%llu seeds hold; in %llu of them something was committed\n",
                 (unsigned long long)seeds, (unsigned long long)committed);
    return committed > 0 ? 0 : 1; /* a run that commits nothing has tested nothing */
}
