/* gateway/cli/catalog.c - collections, listings, queries, deletion. */
#include "common/base/strutil.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SVC "/mikura.v1.Catalog/"

static int ended(struct cli *c, enum rc rc)
{
    if (rc == RC_OK) return EXIT_OK;
    if (c->err.msg[0] == 0) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    return cli_fail(c, rc);
}

static ProtobufCBinaryData id_bytes(const struct id128 *id)
{
    return (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)id->b};
}

/* ---- collections ---- */
static enum rc collection_print(struct cli *c, const Mikura__V1__Collection *m)
{
    const Mikura__V1__CollectionPolicy *p = m->policy;
    char a[32], id[80];

    if (c->json) return out_json_message(&m->base);
    (void)printf("%s\n  id            %s\n  created       %s\n", m->name, out_hex(m->id, id),
                 out_time(m->created_unix_ms, a));
    (void)printf("  cases         %" PRIu64 "\n  objects       %" PRIu64 "\n  stored        %s\n",
                 m->cases, m->objects, str_from_bytes(m->bytes_stored, a));
    if (p != NULL) {
        (void)printf("  kind          %s\n  society       %s\n  chunk         %s\n", p->kind,
                     p->society, str_from_bytes(p->chunk_bytes, a));
        (void)printf("  de-identified %s\n", p->unchecked
                                                 ? "NOT CHECKED: nothing inspects what is stored"
                                                 : p->deid_profile);
        if (p->quota_bytes > 0)
            (void)printf("  quota         %s\n", str_from_bytes(p->quota_bytes, a));
        if (p->target_cases > 0)
            (void)printf("  target        %" PRIu64 " cases of %u hospitals\n", p->target_cases,
                         p->target_hospitals);
    }
    for (size_t i = 0; i < m->n_grants; i++)
        (void)printf("  grant         %s %s\n",
                     m->grants[i]->role == MIKURA__V1__GRANT_ROLE__GRANT_READ ? "read" : "none",
                     m->grants[i]->subject);
    return RC_OK;
}

int cmd_collection_create(struct cli *c)
{
    Mikura__V1__CreateCollectionRequest m = MIKURA__V1__CREATE_COLLECTION_REQUEST__INIT;
    Mikura__V1__CollectionPolicy policy = MIKURA__V1__COLLECTION_POLICY__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    struct id128 request = id128_random();
    Mikura__V1__Collection *col = NULL;
    const char *kind = cli_value(c, "kind"), *society = cli_value(c, "society"),
               *profile = cli_value(c, "deid-profile");
    uint64_t chunk = 0, hospitals = 0;
    char *fields[CLI_OPTS_MAX];
    enum rc rc;

    m.name = cli_text(c->args[0]);
    m.policy = &policy;
    m.request_id = &id;
    id.id = id_bytes(&request);
    policy.kind = cli_text(kind == NULL ? "other" : kind);
    policy.society = cli_text(society == NULL ? c->args[0] : society);
    policy.unchecked = cli_flag(c, "unchecked");
    if (profile != NULL) policy.deid_profile = cli_text(profile);
    for (unsigned i = 0; cli_value_at(c, "index", i) != NULL; i++)
        fields[policy.n_index_fields++] = cli_text(cli_value_at(c, "index", i));
    policy.index_fields = fields;
    rc = cli_bytes(c, "chunk", &chunk);
    if (rc == RC_OK) rc = cli_bytes(c, "quota", &policy.quota_bytes);
    if (rc == RC_OK) rc = cli_number(c, "target-cases", UINT64_MAX, &policy.target_cases);
    if (rc == RC_OK) rc = cli_number(c, "target-hospitals", UINT32_MAX, &hospitals);
    if (rc == RC_OK && chunk > 64u << 20) {
        rc = err_set(&c->err, RC_INVAL, "--chunk: at most 64MiB");
    }
    if (rc == RC_OK) {
        policy.chunk_bytes = (uint32_t)chunk;
        policy.target_hospitals = (uint32_t)hospitals;
        rc =
            cli_call(c, SVC "CreateCollection", &m.base, &mikura__v1__collection__descriptor, &col);
    }
    if (rc == RC_OK && !c->json && !c->quiet) {
        (void)printf("created %s for the agents of society %s%s\n", col->name,
                     col->policy == NULL ? "?" : col->policy->society,
                     policy.unchecked ? " (de-identification is NOT checked)" : "");
    } else if (rc == RC_OK && c->json) {
        rc = collection_print(c, col);
    }
    if (col != NULL) mikura__v1__collection__free_unpacked(col, NULL);
    return ended(c, rc);
}

int cmd_collection_grant(struct cli *c)
{
    Mikura__V1__GrantRequest m = MIKURA__V1__GRANT_REQUEST__INIT;
    Mikura__V1__GrantEntry g = MIKURA__V1__GRANT_ENTRY__INIT;
    Mikura__V1__Collection *col = NULL;
    const char *who = c->args[1];
    char uri[300];
    int n;
    enum rc rc;

    /* researcher/sato and sato stand for mikura://researcher/sato */
    if (strncmp(who, "mikura://", 9) == 0) {
        n = snprintf(uri, sizeof uri, "%s", who);
    } else if (strchr(who, '/') != NULL) {
        n = snprintf(uri, sizeof uri, "mikura://%s", who);
    } else {
        n = snprintf(uri, sizeof uri, "mikura://researcher/%s", who);
    }
    if (n < 0 || (size_t)n >= sizeof uri) return cli_usage(c, "the subject's name is too long");
    m.collection = cli_text(c->args[0]);
    m.grant = &g;
    g.subject = uri;
    g.role = cli_flag(c, "remove") ? MIKURA__V1__GRANT_ROLE__GRANT_NONE
                                   : MIKURA__V1__GRANT_ROLE__GRANT_READ;
    rc = cli_call(c, SVC "Grant", &m.base, &mikura__v1__collection__descriptor, &col);
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&col->base);
    } else if (rc == RC_OK && !c->quiet) {
        (void)printf(cli_flag(c, "remove") ? "%s: taken from %s\n" : "%s: read granted to %s\n",
                     c->args[0], uri);
    }
    if (col != NULL) mikura__v1__collection__free_unpacked(col, NULL);
    return ended(c, rc);
}

int cmd_collection_ls(struct cli *c)
{
    static const char *const HEAD[] = {"NAME",     "KIND",    "SOCIETY",      ">CASES",
                                       ">OBJECTS", ">STORED", "DE-IDENTIFIED"};
    Mikura__V1__ListCollectionsRequest m = MIKURA__V1__LIST_COLLECTIONS_REQUEST__INIT;
    Mikura__V1__ListCollectionsResponse *page = NULL;
    struct table t;
    char *token = NULL, size[32];
    enum rc rc;

    table_init(&t, HEAD, ARRAY_N(HEAD));
    do {
        m.page_token = token == NULL ? cli_text("") : token;
        page = NULL;
        rc = cli_call(c, SVC "ListCollections", &m.base,
                      &mikura__v1__list_collections_response__descriptor, &page);
        for (size_t i = 0; rc == RC_OK && i < page->n_collections; i++) {
            const Mikura__V1__Collection *col = page->collections[i];
            const Mikura__V1__CollectionPolicy *p = col->policy;

            if (c->json) {
                rc = out_json_message(&col->base);
                continue;
            }
            table_cell(&t, "%s", col->name);
            table_cell(&t, "%s", p == NULL ? "" : p->kind);
            table_cell(&t, "%s", p == NULL ? "" : p->society);
            table_cell(&t, "%" PRIu64, col->cases);
            table_cell(&t, "%" PRIu64, col->objects);
            table_cell(&t, "%s", str_from_bytes(col->bytes_stored, size));
            table_cell(&t, "%s", p == NULL ? "" : p->unchecked ? "not checked" : p->deid_profile);
        }
        free(token);
        token = rc == RC_OK && page->next_page_token[0] != 0 ? strdup(page->next_page_token) : NULL;
        if (page != NULL) mikura__v1__list_collections_response__free_unpacked(page, NULL);
    } while (rc == RC_OK && token != NULL);
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    return ended(c, rc);
}

int cmd_collection_show(struct cli *c)
{
    Mikura__V1__GetCollectionRequest m = MIKURA__V1__GET_COLLECTION_REQUEST__INIT;
    Mikura__V1__Collection *col = NULL;
    enum rc rc;

    m.name = cli_text(c->args[0]);
    rc = cli_call(c, SVC "GetCollection", &m.base, &mikura__v1__collection__descriptor, &col);
    if (rc == RC_OK) rc = collection_print(c, col);
    if (col != NULL) mikura__v1__collection__free_unpacked(col, NULL);
    return ended(c, rc);
}

/* ---- ls ---- */
static const char *case_state(Mikura__V1__CaseState s)
{
    switch (s) {
    case MIKURA__V1__CASE_STATE__CASE_OPEN:
        return "open";
    case MIKURA__V1__CASE_STATE__CASE_PUBLISHED:
        return "published";
    case MIKURA__V1__CASE_STATE__CASE_WITHDRAWN:
        return "withdrawn";
    default:
        return "?";
    }
}

static int ls_cases(struct cli *c, const char *collection)
{
    static const char *const HEAD[] = {"CASE",    "STATE",     ">GENERATION", ">OBJECTS",
                                       ">STORED", "COMMITTED", "FACILITY"};
    Mikura__V1__ListCasesRequest m = MIKURA__V1__LIST_CASES_REQUEST__INIT;
    Mikura__V1__ListCasesResponse *page;
    const char *prefix = cli_value(c, "prefix");
    char *token = NULL, a[32];
    struct table t;
    enum rc rc;

    table_init(&t, HEAD, ARRAY_N(HEAD));
    m.collection = cli_text(collection);
    if (prefix != NULL) m.prefix = cli_text(prefix);
    do {
        m.page_token = token == NULL ? cli_text("") : token;
        page = NULL;
        rc = cli_call(c, SVC "ListCases", &m.base, &mikura__v1__list_cases_response__descriptor,
                      &page);
        for (size_t i = 0; rc == RC_OK && i < page->n_cases; i++) {
            const Mikura__V1__Case *k = page->cases[i];

            if (c->json) {
                rc = out_json_message(&k->base);
                continue;
            }
            table_cell(&t, "%s", k->case_id);
            table_cell(&t, "%s", case_state(k->state));
            table_cell(&t, "%" PRIu64, k->generation);
            table_cell(&t, "%" PRIu64, k->objects);
            table_cell(&t, "%s", str_from_bytes(k->bytes_stored, a));
            table_cell(&t, "%s", out_time(k->committed_unix_ms, a));
            table_cell(&t, "%s", k->facility);
        }
        free(token);
        token = rc == RC_OK && page->next_page_token[0] != 0 ? strdup(page->next_page_token) : NULL;
        if (page != NULL) mikura__v1__list_cases_response__free_unpacked(page, NULL);
    } while (rc == RC_OK && token != NULL);
    if (rc == RC_OK && !c->json) rc = table_print(&t, stdout);
    table_deinit(&t);
    return ended(c, rc);
}

struct ls {
    struct cli *c;
    struct table t;
    bool with_case;
};
static enum rc ls_object(void *data, const Mikura__V1__ObjectInfo *info, struct err *reterr)
{
    struct ls *l = data;
    char a[32];

    (void)reterr;
    if (l->c->json) return out_json_message(&info->base);
    if (info->object == NULL) return RC_OK;
    if (l->with_case) table_cell(&l->t, "%s", info->object->case_id);
    table_cell(&l->t, "%s", info->object->path);
    table_cell(&l->t, "%" PRIu64, info->object->version);
    table_cell(&l->t, "%" PRIu64, info->size_bytes);
    table_cell(&l->t, "%s", info->media_type);
    table_cell(&l->t, "%s", out_time(info->stored_unix_ms, a));
    return RC_OK;
}

int cmd_ls(struct cli *c)
{
    static const char *const HEAD[] = {"CASE", "PATH", ">VERSION", ">BYTES", "TYPE", "STORED"};
    struct ls l = {.c = c};
    struct cli_ref ref;
    const char *prefix = cli_value(c, "prefix");
    enum rc rc;

    if (c->args_n == 0) return cmd_collection_ls(c);
    rc = cli_ref_parse(c->args[0], &ref, &c->err);
    if (rc != RC_OK) return cli_fail(c, rc);
    if (ref.case_id[0] == 0 && !cli_flag(c, "r")) {
        int code = ls_cases(c, ref.collection);

        cli_ref_free(&ref);
        return code;
    }
    l.with_case = ref.case_id[0] == 0;
    if (prefix == NULL) prefix = ref.path;
    table_init(&l.t, l.with_case ? HEAD : HEAD + 1, ARRAY_N(HEAD) - (l.with_case ? 0u : 1u));
    rc = cli_client(c, &c->err);
    if (rc == RC_OK) {
        rc = mikura_list(c->client, ref.collection, ref.case_id, prefix, ls_object, &l, &c->err);
    }
    if (rc == RC_OK && !c->json) rc = table_print(&l.t, stdout);
    table_deinit(&l.t);
    cli_ref_free(&ref);
    return ended(c, rc);
}

/* ---- stat, rm ---- */
static void attributes_print(const char *what, size_t n, Mikura__V1__Attribute *const *list)
{
    for (size_t i = 0; i < n; i++) {
        const Mikura__V1__Attribute *a = list[i];

        (void)printf("  %-9s %s = ", what, a->name);
        switch (a->value_case) {
        case MIKURA__V1__ATTRIBUTE__VALUE_TEXT:
            (void)printf("%s\n", a->text);
            break;
        case MIKURA__V1__ATTRIBUTE__VALUE_INTEGER:
            (void)printf("%" PRId64 "\n", a->integer);
            break;
        case MIKURA__V1__ATTRIBUTE__VALUE_REAL:
            (void)printf("%g\n", a->real);
            break;
        default:
            (void)printf("\n");
        }
    }
}

static enum rc info_print(struct cli *c, const Mikura__V1__ObjectInfo *m)
{
    char a[80], b[32];

    if (c->json) return out_json_message(&m->base);
    if (m->object != NULL) {
        (void)printf("%s/%s/%s\n  version   %" PRIu64 "\n", m->object->collection,
                     m->object->case_id, m->object->path, m->object->version);
    }
    (void)printf("  bytes     %" PRIu64 " (%s)\n  type      %s\n  stored    %s\n  in case's "
                 "generation %" PRIu64 "\n",
                 m->size_bytes, str_from_bytes(m->size_bytes, b), m->media_type,
                 out_time(m->stored_unix_ms, a), m->case_generation);
    for (size_t i = 0; i < m->n_digests; i++) {
        (void)printf("  %s %s (%s)\n",
                     m->digests[i]->kind == MIKURA__V1__DIGEST_KIND__TREE_SHA256 ? "tree-sha256"
                                                                                 : "sha256",
                     out_hex(m->digests[i]->value, a),
                     m->digests[i]->verified ? "verified" : "claimed by the sender");
    }
    attributes_print("attribute", m->n_attributes, m->attributes);
    attributes_print("metadata", m->n_user_metadata, m->user_metadata);
    return RC_OK;
}

static enum rc stat_case(struct cli *c, const struct cli_ref *ref)
{
    Mikura__V1__GetCaseRequest m = MIKURA__V1__GET_CASE_REQUEST__INIT;
    Mikura__V1__Case *k = NULL;
    char a[32];
    enum rc rc;

    m.collection = cli_text(ref->collection);
    m.case_id = cli_text(ref->case_id);
    rc = cli_call(c, SVC "GetCase", &m.base, &mikura__v1__case__descriptor, &k);
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&k->base);
    } else if (rc == RC_OK) {
        (void)printf("%s/%s\n  state      %s\n  generation %" PRIu64 "\n  objects    %" PRIu64
                     "\n  stored     %s\n",
                     k->collection, k->case_id, case_state(k->state), k->generation, k->objects,
                     str_from_bytes(k->bytes_stored, a));
        (void)printf("  committed  %s\n", out_time(k->committed_unix_ms, a));
        if (k->facility[0] != 0) (void)printf("  facility   %s\n", k->facility);
        if (k->document_json[0] != 0) (void)printf("  document   %s\n", k->document_json);
    }
    if (k != NULL) mikura__v1__case__free_unpacked(k, NULL);
    return rc;
}

int cmd_stat(struct cli *c)
{
    Mikura__V1__StatRequest m = MIKURA__V1__STAT_REQUEST__INIT;
    Mikura__V1__ObjectRef ref_m = MIKURA__V1__OBJECT_REF__INIT;
    Mikura__V1__ObjectInfo *info = NULL;
    struct cli_ref ref;
    enum rc rc = cli_ref_parse(c->args[0], &ref, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    if (ref.case_id[0] == 0) {
        int code = cmd_collection_show(c);

        cli_ref_free(&ref);
        return code;
    }
    if (ref.path[0] == 0) {
        rc = stat_case(c, &ref);
    } else {
        m.object = &ref_m;
        ref_m.collection = cli_text(ref.collection);
        ref_m.case_id = cli_text(ref.case_id);
        ref_m.path = cli_text(ref.path);
        rc = cli_number(c, "object-version", UINT64_MAX, &ref_m.version);
        if (rc == RC_OK) {
            rc = cli_call(c, "/mikura.v1.Objects/Stat", &m.base,
                          &mikura__v1__object_info__descriptor, &info);
        }
        if (rc == RC_OK) rc = info_print(c, info);
        if (info != NULL) mikura__v1__object_info__free_unpacked(info, NULL);
    }
    cli_ref_free(&ref);
    return ended(c, rc);
}

int cmd_rm(struct cli *c)
{
    Mikura__V1__DeleteRequest m = MIKURA__V1__DELETE_REQUEST__INIT;
    Mikura__V1__ObjectRef ref_m = MIKURA__V1__OBJECT_REF__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    Mikura__V1__DeleteResponse *answer = NULL;
    struct id128 request = id128_random();
    struct cli_ref ref;
    char yes[16];
    enum rc rc = cli_ref_parse(c->args[0], &ref, &c->err);

    if (rc == RC_OK && ref.path[0] == 0) {
        rc = err_set(&c->err, RC_INVAL, "rm removes one object: COLLECTION/CASE/PATH, not '%s'",
                     c->args[0]);
    }
    if (rc == RC_OK) rc = cli_number(c, "object-version", UINT64_MAX, &ref_m.version);
    if (rc == RC_OK && !cli_flag(c, "yes") && isatty(STDIN_FILENO) == 1) {
        (void)fprintf(stderr,
                      "%s: its key is destroyed, nobody can bring it back. Remove it? [y/N] ",
                      c->args[0]);
        if (fgets(yes, sizeof yes, stdin) == NULL || (yes[0] != 'y' && yes[0] != 'Y')) {
            rc = err_set(&c->err, RC_INVAL, "not removed");
        }
    }
    if (rc == RC_OK) {
        m.object = &ref_m;
        ref_m.collection = cli_text(ref.collection);
        ref_m.case_id = cli_text(ref.case_id);
        ref_m.path = cli_text(ref.path);
        m.request_id = &id;
        id.id = id_bytes(&request);
        rc = cli_call(c, "/mikura.v1.Objects/Delete", &m.base,
                      &mikura__v1__delete_response__descriptor, &answer);
    }
    if (rc == RC_OK && c->json) {
        rc = out_json_message(&answer->base);
    } else if (rc == RC_OK && !c->quiet) {
        (void)printf("%s: %" PRIu64 " versions removed, the case is at generation %" PRIu64 "\n",
                     c->args[0], answer->versions_deleted, answer->case_generation);
    }
    if (answer != NULL) mikura__v1__delete_response__free_unpacked(answer, NULL);
    cli_ref_free(&ref);
    return ended(c, rc);
}

/* ---- query ---- */
struct query {
    struct cli *c;
    struct table t;
    uint64_t n, bytes;
};
static enum rc query_each(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__QueryResponse *r = (const Mikura__V1__QueryResponse *)m;
    struct query *q = data;

    (void)reterr;
    for (size_t i = 0; i < r->n_matches; i++) {
        const Mikura__V1__QueryMatch *x = r->matches[i];

        q->n++;
        q->bytes += x->size_bytes;
        if (q->c->json) {
            enum rc rc = out_json_message(&x->base);

            if (rc != RC_OK) return rc;
            continue;
        }
        if (x->object == NULL) continue;
        table_cell(&q->t, "%s/%s/%s", x->object->collection, x->object->case_id, x->object->path);
        table_cell(&q->t, "%" PRIu64, x->object->version);
        table_cell(&q->t, "%" PRIu64, x->size_bytes);
        table_cell(&q->t, "%s", x->media_type);
    }
    return RC_OK;
}

int cmd_query(struct cli *c)
{
    static const char *const HEAD[] = {"OBJECT", ">VERSION", ">BYTES", "TYPE"};
    Mikura__V1__QueryRequest m = MIKURA__V1__QUERY_REQUEST__INIT;
    struct query q = {.c = c};
    uint64_t limit = 0;
    char size[32];
    enum rc rc = cli_number(c, "limit", UINT32_MAX, &limit);

    table_init(&q.t, HEAD, ARRAY_N(HEAD));
    m.expression = cli_text(c->args[0]);
    m.limit = (uint32_t)limit;
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    if (rc == RC_OK) {
        rc = mikura_stream(c->client, SVC "Query", &m.base, &mikura__v1__query_response__descriptor,
                           query_each, &q, &c->err);
    }
    if (rc == RC_OK && !c->json) rc = table_print(&q.t, stdout);
    if (rc == RC_OK && !c->quiet && !c->json) {
        (void)fprintf(stderr, "%" PRIu64 " objects, %s\n", q.n, str_from_bytes(q.bytes, size));
    }
    table_deinit(&q.t);
    return ended(c, rc);
}
