/* storaged/replica/replica_core_priv.h - shared by replica_core.c (following) and
 * replica_lead_core.c (leading), and by nobody else. */
#pragma once
#include "storaged/replica/mutant_core.h"
#include "storaged/replica/replica_core.h"

#define REPLICA_RETRY_MS 200u /* READ_CONFIG, a transaction in doubt */
#define REPLICA_JOIN_MS  500u
#define CHUNK_RING       (4u * REPLICA_WINDOW)

struct replica_action *replica_act(struct replica_actions *out, enum replica_act_type type);
/* NULL: nothing may be sent now, a promise is not on the disk yet. */
struct replica_msg *replica_send(struct replica_core *c, struct replica_actions *out,
                                 enum replica_msg_type type, const struct id128 *to);
void replica_persist(struct replica_core *c, struct replica_actions *out, bool gate);
void replica_role_set(struct replica_core *c, struct replica_actions *out, enum replica_role role);
void replica_read_config(struct replica_core *c, struct replica_actions *out);
void replica_cas(struct replica_core *c, struct replica_actions *out,
                 const struct group_config *want);
/* Highest index such that all up to it is durable here in this epoch, chunks too. */
uint64_t replica_held(const struct replica_core *c);
void replica_chunk_await(struct replica_core *c, struct replica_actions *out, uint64_t index,
                         const struct replica_entry *e, const struct id128 *from);
bool replica_leads(const struct replica_core *c); /* TAKEOVER or PRIMARY */

/* replica_lead_core.c */
void replica_lead_start(struct replica_core *c, struct replica_actions *out);
void replica_lead_config(struct replica_core *c, struct replica_actions *out);
void replica_lead_tail(struct replica_core *c, struct replica_actions *out, uint64_t upto);
void replica_lead_answer(struct replica_core *c, struct replica_actions *out,
                         const struct replica_msg *m);
void replica_lead_join(struct replica_core *c, const struct replica_msg *m);
void replica_lead_propose(struct replica_core *c, struct replica_actions *out,
                          const struct replica_event *ev);
void replica_lead_advance(struct replica_core *c, struct replica_actions *out);
void replica_lead_tick(struct replica_core *c, struct replica_actions *out);
