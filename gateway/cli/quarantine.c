/* gateway/cli/quarantine.c - what the gate holds back, for the society: listed, and released after
 * a person looked at it. */
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SVC "/mikura.v1.Objects/"

static int ended(struct cli *c, enum rc rc)
{
    if (rc == RC_OK) return EXIT_OK;
    if (c->err.msg[0] == 0) (void)err_set(&c->err, rc, "output: %s", rc_text(rc));
    return cli_fail(c, rc);
}

static enum rc print_held(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const struct cli *c = data;
    const Mikura__V1__ListQuarantineResponse *r =
        (const Mikura__V1__ListQuarantineResponse *)(const void *)m;
    enum rc rc = RC_OK;

    (void)reterr; /* cmd says what an output's code means */
    for (size_t i = 0; i < r->n_objects && rc == RC_OK; i++) {
        const Mikura__V1__QuarantinedObject *o = r->objects[i];
        char at[32], until[32] = "never";

        if (c->json) {
            rc = out_json_message(&o->base);
            continue;
        }
        if (o->expires_unix_ms != 0) (void)out_time(o->expires_unix_ms, until);
        (void)printf("%s/%s/%s version %" PRIu64 ", %s%s, deleted: %s\n", o->object->collection,
                     o->object->case_id, o->object->path, o->object->version,
                     out_time(o->stored_unix_ms, at),
                     o->releasable ? ", to be looked at" : ", to be cleaned at the site", until);
        for (size_t k = 0; k < o->n_reasons; k++)
            (void)printf("    %s\n", o->reasons[k]);
    }
    return rc;
}

int cmd_quarantine_ls(struct cli *c)
{
    Mikura__V1__ListQuarantineRequest m = MIKURA__V1__LIST_QUARANTINE_REQUEST__INIT;
    struct cli_ref ref;
    enum rc rc = cli_ref_parse(c->args[0], &ref, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    if (ref.path[0] != 0) {
        cli_ref_free(&ref);
        return cli_usage(c, "a collection or a case, not an object");
    }
    m.collection = cli_text(ref.collection);
    m.case_id = cli_text(ref.case_id);
    rc = cli_client(c, &c->err);
    if (rc == RC_OK)
        rc = mikura_stream(c->client, SVC "ListQuarantine", &m.base,
                           &mikura__v1__list_quarantine_response__descriptor, print_held, c,
                           &c->err);
    cli_ref_free(&ref);
    return ended(c, rc);
}

/* Publishes what was released as the case's next generation. */
static enum rc commit(struct cli *c, const struct cli_ref *ref, const Mikura__V1__StagedObject *o,
                      uint64_t *ret_generation)
{
    struct mikura_staged staged = {
        .path = ref->path, .version = o->object->version, .size_bytes = o->size_bytes};
    struct mikura_commit m = {.collection = ref->collection,
                              .case_id = ref->case_id,
                              .staged = &staged,
                              .staged_n = 1,
                              .request_id = id128_random()};
    Mikura__V1__CommitCaseResponse *answer = NULL;
    enum rc rc;

    for (size_t i = 0; i < o->n_digests; i++) {
        if (o->digests[i]->kind == MIKURA__V1__DIGEST_KIND__TREE_SHA256 &&
            o->digests[i]->value.len == 32)
            memcpy(staged.tree_sha256, o->digests[i]->value.data, 32);
    }
    rc = mikura_case_generation(c->client, ref->collection, ref->case_id, &m.expected_generation,
                                &c->err);
    if (rc == RC_OK) rc = mikura_commit(c->client, &m, &answer, &c->err);
    if (rc == RC_OK) *ret_generation = answer->generation;
    if (answer != NULL) mikura__v1__commit_case_response__free_unpacked(answer, NULL);
    return rc;
}

int cmd_quarantine_release(struct cli *c)
{
    Mikura__V1__ReleaseQuarantineRequest m = MIKURA__V1__RELEASE_QUARANTINE_REQUEST__INIT;
    Mikura__V1__ObjectRef object = MIKURA__V1__OBJECT_REF__INIT;
    Mikura__V1__StagedObject *staged = NULL;
    struct cli_ref ref;
    uint64_t generation = 0;
    enum rc rc = cli_ref_parse(c->args[0], &ref, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    if (ref.path[0] == 0 || cli_value(c, "object-version") == NULL) {
        cli_ref_free(&ref);
        return cli_usage(c, "COLLECTION/CASE/PATH and --object-version, as quarantine ls tells");
    }
    object.collection = cli_text(ref.collection);
    object.case_id = cli_text(ref.case_id);
    object.path = cli_text(ref.path);
    m.object = &object;
    rc = cli_number(c, "object-version", UINT64_MAX, &object.version);
    if (rc == RC_OK)
        rc = cli_call(c, SVC "ReleaseQuarantine", &m.base, &mikura__v1__staged_object__descriptor,
                      &staged);
    if (rc == RC_OK) rc = commit(c, &ref, staged, &generation);
    if (rc == RC_OK && c->json) {
        rc = out_json(json_pack("{s:s, s:s, s:s, s:I, s:I}", "collection", ref.collection,
                                "case_id", ref.case_id, "path", ref.path, "version",
                                (json_int_t)object.version, "generation", (json_int_t)generation));
    } else if (rc == RC_OK) {
        (void)printf("%s/%s/%s is published, generation %" PRIu64 "\n", ref.collection, ref.case_id,
                     ref.path, generation);
    }
    if (staged != NULL) mikura__v1__staged_object__free_unpacked(staged, NULL);
    cli_ref_free(&ref);
    return ended(c, rc);
}
