/* gateway/api/auth.c - who may call what. Default deny: a method that is not in RIGHTS is refused.
 *
 * Here the certificate's role is held against the method; what a role may do in one collection
 * (grants, the agent's own society) is gw_allowed(), which every handler calls.
 * tests/cluster/rights walks this table from outside. */
#include "common/base/log.h"
#include "gateway/api/gw.h"

#define A   (1u << TLS_AGENT)
#define R   (1u << TLS_RESEARCHER)
#define O   (1u << TLS_OPERATOR)
#define C   (1u << 8) /* node/computed */
#define ANY (A | R | O | C | (1u << TLS_NODE))

struct right {
    const char *path;
    uint32_t roles;
};
static const struct right RIGHTS[] = {
    {"/mikura.v1.Catalog/CreateCollection", O},
    {"/mikura.v1.Catalog/GetCollection", O | R | A},
    {"/mikura.v1.Catalog/ListCollections", O | R | A},
    {"/mikura.v1.Catalog/Grant", O},
    {"/mikura.v1.Catalog/GetCase", O | R | A},
    {"/mikura.v1.Catalog/ListCases", O | R | A},
    {"/mikura.v1.Catalog/PutCaseDocument", A},
    {"/mikura.v1.Catalog/Query", R},
    {"/mikura.v1.Objects/BeginUpload", A},
    {"/mikura.v1.Objects/PutChunk", A},
    {"/mikura.v1.Objects/ListChunks", A},
    {"/mikura.v1.Objects/Complete", A},
    {"/mikura.v1.Objects/Abort", A},
    {"/mikura.v1.Objects/PutObject", A},
    {"/mikura.v1.Objects/PutPack", A},
    {"/mikura.v1.Objects/CheckCase", A},
    {"/mikura.v1.Objects/DropStaged", A},
    {"/mikura.v1.Objects/CommitCase", A},
    {"/mikura.v1.Objects/ReceiptKeys", O | R | A},
    {"/mikura.v1.Objects/Read", R},
    {"/mikura.v1.Objects/Stat", R},
    {"/mikura.v1.Objects/List", R | O},
    {"/mikura.v1.Objects/Delete", O},
    {"/mikura.v1.Objects/ListQuarantine", A | O},
    {"/mikura.v1.Objects/ReleaseQuarantine", A},
    {"/mikura.v1.Models/Add", R | O},
    {"/mikura.v1.Models/List", R | O},
    {"/mikura.v1.Models/Get", R | O},
    {"/mikura.v1.Jobs/Submit", R},
    {"/mikura.v1.Jobs/Watch", R | O},
    {"/mikura.v1.Jobs/List", R | O},
    {"/mikura.v1.Jobs/Get", R | O},
    {"/mikura.v1.Jobs/Cancel", R | O},
    {"/mikura.v1.Jobs/Results", R},
    {"/mikura.v1.Jobs/Mask", R},
    {"/mikura.v1.Jobs/Delete", R},
    {"/mikura.v1.Admin/Status", O},
    {"/mikura.v1.Admin/ListNodes", O},
    {"/mikura.v1.Admin/ListGroups", O},
    {"/mikura.v1.Admin/KeyStatus", O},
    {"/mikura.v1.Admin/ChangeNode", O},
    {"/mikura.v1.Admin/RecoverConfig", O},
    {"/mikura.internal.v1.Work/Pull", C},
    {"/mikura.internal.v1.Work/Renew", C},
    {"/mikura.internal.v1.Work/Finish", C},
    {"/mikura.internal.v1.Work/Slices", C},
    {"/mikura.internal.v1.Work/PutMask", C},
    {"/mikura.internal.v1.Work/FetchModel", C},
    {"/grpc.health.v1.Health/Check", ANY},
    {"/grpc.health.v1.Health/Watch", ANY},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANY},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANY},
};

static const char *role_name(const struct tls_identity *peer)
{
    switch (peer->role) {
    case TLS_NODE:
        return "node";
    case TLS_AGENT:
        return "agent";
    case TLS_RESEARCHER:
        return "researcher";
    case TLS_OPERATOR:
        return "operator";
    }
    return "unknown";
}

enum rc gw_gate(void *data, const struct rpc_method *m, const struct tls_identity *peer,
                struct err *reterr)
{
    uint32_t role;

    (void)data;
    role = 1u << peer->role;
    if (peer->role == TLS_NODE && strcmp(peer->kind, "computed") == 0) role |= C;
    if (m == NULL) return RC_OK; /* plain HTTP: its routes hold no images and no records */
    for (size_t i = 0; i < ARRAY_N(RIGHTS); i++) {
        if (strcmp(RIGHTS[i].path, m->path) != 0) continue;
        if ((RIGHTS[i].roles & role) != 0) return RC_OK;
        break;
    }
    log_warn("denied", "peer=%s method=%s why=role", peer->uri, m->path);
    return err_set(reterr, RC_DENIED, "a certificate of the role '%s' (%s) may not call %s",
                   role_name(peer), peer->uri, m->path);
}

enum rc gw_allowed(struct fcall *c, const struct gw_collection *col, enum gw_right right,
                   struct err *reterr)
{
    const struct tls_identity *p = fcall_peer(c);
    bool granted = false, own, ok = false;
    char *name = gw_dup(&c->arena, col->rec.name);

    own = p->role == TLS_AGENT && gw_slice_is(col->rec.society, p->kind);
    for (uint32_t i = 0; i < col->rec.grants_n && p->role == TLS_RESEARCHER; i++) {
        if (gw_slice_is(col->rec.grants[i].subject, p->uri)) {
            granted = col->rec.grants[i].role == MIKURA__V1__GRANT_ROLE__GRANT_READ;
        }
    }
    switch (right) {
    case GW_READ:
        ok = granted;
        break;
    case GW_WRITE:
        ok = own;
        break;
    case GW_ADMIN:
        ok = p->role == TLS_OPERATOR;
        break;
    case GW_SEE:
        ok = granted || own || p->role == TLS_OPERATOR;
        break;
    }
    if (ok) return RC_OK;
    log_warn("denied", "rid=%s peer=%s collection=%s why=grant", fcall_rid(c), p->uri,
             name == NULL ? "?" : name);
    if (p->role == TLS_RESEARCHER) {
        return err_set(reterr, RC_DENIED,
                       "no grant on collection '%s' for %s; an operator gives one with `mikura "
                       "collection grant %s %s`",
                       name == NULL ? "?" : name, p->uri, name == NULL ? "?" : name, p->uri);
    }
    if (p->role == TLS_AGENT) {
        return err_set(reterr, RC_DENIED, "collection '%s' belongs to another society than '%s'",
                       name == NULL ? "?" : name, p->kind);
    }
    return err_set(reterr, RC_DENIED, "%s has no such right on collection '%s'", p->uri,
                   name == NULL ? "?" : name);
}
