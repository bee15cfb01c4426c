/* gateway/agent/agent.h - the agent of a society: finds cases, checks them, sends them, proves what
 * arrived. See README.md.
 *
 * One agent a state folder; all calls in fibers of one loop. What happens is told as events: a name
 * and a JSON object, never a value of a file. */
#pragma once
#include "common/client/client.h"
#include <jansson.h>

struct agent_settings {
    const char *collection, *state, *watch;
    const char *case_by, *marker, *list; /* case_by: quiet, marker or list */
    uint64_t quiet_ms, rescan_ms;
    const char *deid_profile; /* "" = the collection's; "none" where that is unchecked */
    bool deidentify, partial, once;
    const char *pseudonym_key, *inspect, *bandwidth;
    uint64_t parallel, cases;
};
/* argv: --key=value and --config FILE, as common/base/conf.h. RC_INVAL names the key. */
MUST_CHECK enum rc agent_settings_load(int argc, char **argv, struct agent_settings *ret,
                                       struct err *reterr);

struct agent_counts {
    uint64_t bytes_total, bytes_done; /* of cases found complete; sent or known to be there */
    uint64_t bytes_sent;              /* handed to connections, sendings again too */
    uint64_t files_total, files_done;
    uint64_t cases_done, cases_waiting, cases_working, cases_aside, cases_known;
};
struct agent_conf {
    struct mikura_client *client;
    /* Loads the settings again (its file may have changed); the caller keeps them. */
    enum rc (*reload)(void *data, struct agent_settings *ret, struct err *reterr);
    /* fields: given; may be NULL */
    void (*tell)(void *data, const char *event, json_t *fields);
    void *data;
};
struct agent;
/* Opens the state folder and its journal. RC_BUSY: another agent; RC_CORRUPT: the journal. */
MUST_CHECK enum rc agent_open(const struct agent_settings *s, const struct agent_conf *conf,
                              struct agent **ret, struct err *reterr);
/* Until agent_stop, or with `once` until nothing is left to do. */
MUST_CHECK enum rc agent_run(struct agent *a, struct err *reterr);
void agent_close(struct agent *a);
/* From anywhere on the loop. */
void agent_stop(struct agent *a);   /* ends soon; what is under way goes on at the next start */
void agent_reload(struct agent *a); /* settings, and a look at the folders now */
const struct agent_counts *agent_counts(const struct agent *a);

/* ---- beside a running agent ---- */
/* Leaves a word for it: try again what is set aside; case_id NULL: all. looked: a person has looked
 * at what is held for its pixels. Blocking. */
MUST_CHECK enum rc agent_request_retry(const char *state, const char *case_id, bool looked,
                                       struct err *reterr);
/* Where the receipts of a case are: JSON lines as `mikura put --receipts` writes them. To be freed.
 */
char *agent_receipts_path(const char *state, const char *case_id);
