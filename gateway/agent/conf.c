/* gateway/agent/conf.c - the agent's settings. */
#include "common/base/conf.h"
#include "gateway/agent/agent_priv.h"
#include "gateway/ingest/name.h"

#define AT(f) offsetof(struct agent_settings, f)
static const struct conf_opt OPTS[] = {
    {"collection", CONF_STR, AT(collection), NULL, "NAME", "where to"},
    {"state", CONF_STR, AT(state), NULL, "DIR", "journal, receipts, quarantine; on a local disk"},
    {"watch", CONF_STR, AT(watch), "", "DIR,...", "folders whose entries are cases"},
    {"case_by", CONF_STR, AT(case_by), "quiet", "quiet|marker|list", "when a case is complete"},
    {"marker", CONF_STR, AT(marker), "_COMPLETE", "NAME", "file that completes its case's folder"},
    {"list", CONF_STR, AT(list), "", "FILE", "case list, .csv or .json"},
    {"quiet_for", CONF_MS, AT(quiet_ms), "60s", "TIME", "without a change: complete"},
    {"rescan", CONF_MS, AT(rescan_ms), "5m", "TIME", "look at all folders again"},
    {"deid_profile", CONF_STR, AT(deid_profile), "", "NAME|FILE|none", "the collection's"},
    {"deidentify", CONF_BOOL, AT(deidentify), "no", "", "clean what cleaning mends"},
    {"pseudonym_key", CONF_STR, AT(pseudonym_key), "", "FILE", "mikura deid key"},
    {"partial", CONF_BOOL, AT(partial), "no", "", "send a case without the files that are held"},
    {"inspect", CONF_STR, AT(inspect), "", "FILE", "mikura-inspect (beside this program)"},
    {"bandwidth", CONF_STR, AT(bandwidth), "", "RULES", "'mon-fri 08:00-18:00 2MiB/s; ...'"},
    {"parallel", CONF_U64, AT(parallel), "4", "N", "chunks at a time"},
    {"cases", CONF_U64, AT(cases), "2", "N", "cases at a time"},
    {"once", CONF_BOOL, AT(once), "no", "", "end when all is done"},
    {0},
};

enum rc agent_settings_load(int argc, char **argv, struct agent_settings *ret, struct err *reterr)
{
    struct pace_table pace;
    enum recog_by by;
    enum rc rc;

    *ret = (struct agent_settings){0};
    rc = conf_load(OPTS, argc, argv, ret, reterr);
    if (rc == RC_OK)
        rc = name_check_collection(
            (struct slice){(const uint8_t *)ret->collection, strlen(ret->collection)}, reterr);
    if (rc == RC_OK) rc = pace_parse(ret->bandwidth, &pace, reterr);
    if (rc == RC_OK) rc = agent_case_by(ret, &by, reterr);
    if (rc != RC_OK) return rc;
    if (by == RECOG_LIST ? ret->list[0] == 0 : ret->watch[0] == 0) {
        return err_set(reterr, RC_INVAL,
                       by == RECOG_LIST ? "case_by list needs a list" : "no folder to watch");
    }
    if (ret->parallel == 0 || ret->parallel > AGENT_PARALLEL_MAX || ret->cases == 0 ||
        ret->cases > AGENT_PARALLEL_MAX) {
        return err_set(reterr, RC_INVAL, "parallel and cases: 1 to %u", AGENT_PARALLEL_MAX);
    }
    if (ret->deidentify && ret->pseudonym_key[0] == 0) {
        return err_set(reterr, RC_INVAL,
                       "deidentify needs pseudonym_key: mikura deid key makes one; without the "
                       "same key a patient's later files get another pseudonym");
    }
    return RC_OK;
}

enum rc agent_case_by(const struct agent_settings *s, enum recog_by *ret, struct err *reterr)
{
    if (strcmp(s->case_by, "quiet") == 0) {
        *ret = RECOG_QUIET;
    } else if (strcmp(s->case_by, "marker") == 0) {
        *ret = RECOG_MARKER;
    } else if (strcmp(s->case_by, "list") == 0 || s->list[0] != 0) {
        *ret = RECOG_LIST;
    } else {
        return err_set(reterr, RC_INVAL, "case_by '%s': expected quiet, marker or list",
                       s->case_by);
    }
    if (s->list[0] != 0) *ret = RECOG_LIST;
    return RC_OK;
}
