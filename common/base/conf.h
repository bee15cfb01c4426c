/* common/base/conf.h - a daemon's settings: `--key=value` or `--key value` on the command line, or
 * `key = value` lines ('#' comments) of the file that --config names. The command line wins.
 *
 *   static const struct conf_opt OPTS[] = {
 *       {"listen", CONF_STR, offsetof(struct settings, listen), "127.0.0.1:27100", "HOST:PORT",
 * "..."}, {0}}; rc = conf_load(OPTS, argc, argv, &settings, &err);
 *
 * --help and --version print and exit 0. Strings live as long as the process. */
#pragma once
#include "common/base/rc.h"

enum conf_type { CONF_STR, CONF_U64, CONF_BYTES, CONF_MS, CONF_BOOL };
struct conf_opt {
    const char *key;
    enum conf_type type;  /* field: const char *, uint64_t, uint64_t, uint64_t, bool */
    size_t offset;        /* of the field in the settings struct */
    const char *fallback; /* default as text; NULL = the option must be given */
    const char *unit;     /* shown in --help: "HOST:PORT", "BYTES", ... */
    const char *help;
};

/* RC_INVAL names the bad key, its value and what is expected. */
MUST_CHECK enum rc conf_load(const struct conf_opt *opts, int argc, char **argv, void *settings,
                             struct err *reterr);
