/* gateway/agent/agent_priv.h - what the agent's files share. */
#pragma once
#include "gateway/agent/agent.h"
#include "gateway/agent/backoff_core.h"
#include "gateway/agent/deid_file.h"
#include "gateway/agent/journal.h"
#include "gateway/agent/pace_core.h"
#include "gateway/agent/recog_core.h"
#include "gateway/agent/scan.h"
#include <stdio.h>

#define AGENT_PARALLEL_MAX 32u
#define AGENT_CHILDREN     2u
#define AGENT_TRY_MS       1000u   /* first wait after a failure */
#define AGENT_TRY_MAX_MS   300000u /* longest */
#define AGENT_REASON_BYTES 2048u

/* A place that was seen holding a case; kept as long as the agent runs. */
struct tracked {
    char *root;
    struct recog recog;
    bool working;
    bool told; /* its trouble, once a print */
};
/* A complete case on its way. */
struct job {
    struct list link;
    struct tracked *t;
    struct scan_case *c;
};
struct child_slot {
    struct inspect_child child;
    bool busy;
};
struct agent {
    struct agent_settings set;
    struct agent_conf conf;
    struct mikura_client *client;
    struct journal *journal;
    enum recog_by by;
    struct pace_table pace;
    struct pace_bucket bucket;
    bool rules_loaded;
    struct deid_rules rules; /* of no use when the profile is "none" */
    bool check;              /* there are rules */
    uint32_t chunk_bytes;    /* of the collection */
    struct child_slot children[AGENT_CHILDREN];
    struct fiber_cond child_free;
    uint32_t sending; /* chunks and packs under way */
    struct fiber_cond send_free;
    struct names tracked; /* by root */
    struct list jobs;
    uint32_t jobs_n, working_n;
    struct fiber_cond changed; /* jobs, working_n, stop */
    struct fiber_event wake;   /* the watcher */
    struct fiber_group workers;
    bool stop, reload, rescan;
    uint64_t spool_n;
    FILE *record; /* what cleaning changed; or NULL */
    enum rc rc;   /* why it ends */
    struct err err;
    struct agent_counts counts, shown;
    struct watch *watch;
};

MUST_CHECK enum rc agent_case_by(const struct agent_settings *s, enum recog_by *ret,
                                 struct err *reterr);
/* Event with fields as json_pack; "" for none. */
void agent_tell(struct agent *a, const char *event, const char *fmt, ...);
/* All ends with this. */
void agent_fail(struct agent *a, enum rc rc, const struct err *e);
/* Worth waiting and trying again, without end? A right that is missing too, unless `once`. */
bool agent_transient(const struct agent *a, enum rc rc);
/* Waits before the next try; false: stopped. */
bool agent_wait(struct agent *a, struct backoff *b);
MUST_CHECK enum rc agent_stopped(const struct agent *a, struct err *reterr);
struct slice agent_slice(const char *s);
/* DIR/NAME, made with mode 0700. To be freed; NULL: no memory or errno. */
char *agent_folder(const struct agent *a, const char *name);
/* 32 hex digits that stand for a text in file names. */
MUST_CHECK enum rc agent_digest_name(const char *text, char ret[33]);

/* ---- one case (case.c); its files as they will be sent (stage.c, send.c) ---- */
struct known_line { /* what the last receipt says of a path */
    char *path;
    uint64_t version, size_bytes, source_bytes, ino;
    int64_t mtime_ns;
    uint8_t tree_sha256[32];
};
struct source { /* a file of the case */
    const struct scan_file *f;
    char *name;                     /* to open: the file itself, or its cleaned copy */
    char *path;                     /* in the store */
    bool cleaned, held, same, done; /* same: as the receipt says; done: staged */
    uint64_t size_bytes;            /* of what is sent */
    const struct known_line *line;
};
struct work {
    struct agent *a;
    struct job *job;
    struct scan_case *c;
    char *case_id;               /* as stored: perhaps a pseudonym */
    struct jcase *k;             /* after its CASE record */
    struct names by_path;        /* struct known_line */
    uint64_t receipt_generation; /* of the newest receipt; 0: none */
    struct source *sources;
    size_t n, held_n;
    /* stage */
    struct fiber_group group;
    struct fiber_cond cond;
    uint32_t checking;
    size_t next;
    bool changed; /* a file is not what was seen: look again */
    enum rc rc;   /* the first failure */
    struct err err;
    uint64_t counted_bytes, counted_files;
};
/* In a fiber of its own; frees job. */
void case_work(struct agent *a, struct job *job);
MUST_CHECK enum rc stage_check(struct work *w, struct err *reterr); /* rules, cleaning */
MUST_CHECK enum rc stage_send(struct work *w, struct err *reterr);
/* Is the file itself, whichever copy is sent, still what was seen? */
bool stage_unchanged(const struct work *w, const struct source *s);
/* ---- receipts.c ---- */
MUST_CHECK enum rc receipts_load(struct work *w, struct err *reterr);
MUST_CHECK enum rc receipts_add(struct work *w, const Mikura__V1__Receipt *r, uint64_t generation,
                                struct err *reterr);
/* ---- retry.c ---- */
MUST_CHECK enum rc requests_take(struct agent *a, struct err *reterr);
/* ---- hold.c: DIR/quarantine, a file for each one that is held ---- */
MUST_CHECK enum rc hold_write(struct agent *a, const char *case_id, const char *root,
                              const char *path, const char *outcome, const char *why,
                              struct err *reterr);
void hold_clear(struct agent *a, const char *case_id); /* all of a case */
/* ---- watch.c: inotify, where it helps ---- */
MUST_CHECK enum rc watch_open(struct agent *a, struct watch **ret, struct err *reterr);
void watch_folder(struct watch *w, const char *folder); /* best effort */
void watch_close(struct watch *w);
