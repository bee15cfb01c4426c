/* storaged/service/main.c - the program `storaged`: settings, signals, exit codes (0 stopped, 1
 * could not start, 2 bad settings); or one of storaged/tools, when its name is the first argument.
 */
#include "common/base/log.h"
#include "storaged/service/service.h"
#include "storaged/tools/tools.h"
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OPT(k, t, f, d, u, h)                                                                      \
    {                                                                                              \
        (k), (t), offsetof(struct sd_settings, f), (d), (u), (h)                                   \
    }
static const struct conf_opt OPTS[] = {
    OPT("name", CONF_STR, name, NULL, "NAME", "name in the cluster, as in the certificate"),
    OPT("listen", CONF_STR, listen, "127.0.0.1:27010", "HOST:PORT", "the one listener"),
    OPT("advertise", CONF_STR, advertise, "", "HOST:PORT", "under which others dial it"),
    OPT("ca", CONF_STR, ca, NULL, "FILE", "the cluster's CA, PEM"),
    OPT("cert", CONF_STR, cert, NULL, "FILE", "this node's certificate, PEM"),
    OPT("key", CONF_STR, key, NULL, "FILE", "its key, PEM"),
    OPT("etcd", CONF_STR, etcd, "127.0.0.1:27080", "HOST:PORT,...", "etcd's members"),
    OPT("cluster", CONF_STR, cluster, "local", "NAME", "keys below /mikura/NAME/"),
    OPT("zone", CONF_STR, zone, "z1", "NAME", "failure domain"),
    OPT("rack", CONF_STR, rack, "r1", "NAME", "failure domain"),
    OPT("host", CONF_STR, host, "", "NAME", "failure domain; empty: the name"),
    OPT("disks", CONF_STR, disks, NULL, "DIR,...", "one folder a disk"),
    OPT("data", CONF_STR, data, "", "DIR", "not used: all state lies on the disks"),
    OPT("log_level", CONF_STR, log_level, "info", "LEVEL", "debug, info, warn or error"),
    OPT("engine", CONF_STR, engine, "auto", "ENGINE", "auto, io_uring or pread"),
    OPT("faults", CONF_STR, faults, "", "FILE",
        "tests: faults of disks, read each second; lines DISK eio N, DISK slow MS"),
    OPT("segment_bytes", CONF_BYTES, segment_bytes, "0", "BYTES", "of a segment; 0 = 256MiB"),
    OPT("reserve_bytes", CONF_BYTES, reserve_bytes, "0", "BYTES",
        "new chunks are refused below this, repair below two thirds of it, log entries and so "
        "deletes below a third, reclaim never; 0 = 3 segments"),
    OPT("limit_bytes", CONF_BYTES, limit_bytes, "0", "BYTES",
        "what a disk may use; 0 = its file system"),
    OPT("chunk_bytes", CONF_BYTES, chunk_bytes, "48MiB", "BYTES", "memory for payloads"),
    OPT("index_bytes", CONF_BYTES, index_bytes, "32MiB", "BYTES",
        "memory of a disk's index: half memtables, half blocks"),
    OPT("entry_bytes", CONF_BYTES, entry_bytes, "12MiB", "BYTES",
        "log entries kept in memory, all groups"),
    OPT("log_keep", CONF_U64, log_keep, "20000", "N", "entries a group keeps for laggards"),
    OPT("reclaim_dead", CONF_U64, reclaim_dead, "25", "PERCENT",
        "a segment is emptied when that much of it is dead; less when the disk is nearly full"),
    OPT("reclaim_rate", CONF_BYTES, reclaim_rate, "64MiB", "BYTES",
        "copied a second and disk, foreground first; 0 = no limit"),
    OPT("scrub_period", CONF_MS, scrub_period_ms, "14d", "TIME",
        "everything is read and checked once in this time; 0 = never"),
    OPT("scrub_rate", CONF_BYTES, scrub_rate, "64MiB", "BYTES",
        "read a second and disk at most, foreground first; 0 = no limit"),
    OPT("compare_period", CONF_MS, compare_period_ms, "1d", "TIME",
        "the replicas of each group are compared once in this time; 0 = never"),
    OPT("compare_rate", CONF_BYTES, compare_rate, "16MiB", "BYTES",
        "of metadata read a second and comparison; 0 = no limit"),
    OPT("rebuild_rate", CONF_BYTES, rebuild_rate, "128MiB", "BYTES",
        "of chunks pulled a second and disk to make lost or moved copies, foreground first; 0 = no "
        "limit"),
    OPT("stray_grace", CONF_MS, stray_grace_ms, "1h", "TIME",
        "chunk bytes that nothing made exist are dropped by the scrub when they are older"),
    OPT("retire_after", CONF_MS, retire_ms, "30s", "TIME",
        "a copy that the group has moved away from is deleted after this"),
    OPT("session_tick", CONF_MS, tick_ms, "1h", "TIME", "how often upload sessions age"),
    {0},
};

static struct sd the_sd; /* large, and one a process */

static void on_signal(uv_signal_t *h, int signum)
{
    (void)signum;
    sd_stop(&the_sd);
    uv_close((uv_handle_t *)h, NULL);
}

int main(int argc, char **argv)
{
    struct sd_settings conf;
    struct err err = {0};
    enum log_level level;
    uv_signal_t term, intr;
    uv_loop_t loop;
    int code;
    enum rc rc;

    if (argc > 1 && tool_run(argc - 1, argv + 1, &code)) return code;
    /* a heap a thread would keep what RocksDB's flushes and compactions freed: 20 MB a node */
    (void)mallopt(M_ARENA_MAX, 2);
    /* RocksDB and digests wait on these, not on the loop */
    (void)setenv("UV_THREADPOOL_SIZE", "8", /* overwrite= */ 0);
    (void)signal(SIGPIPE, SIG_IGN);
    rc = conf_load(OPTS, argc, argv, &conf, &err);
    if (rc == RC_OK && !log_level_parse(conf.log_level, &level))
        rc = err_set(&err, RC_INVAL, "--log_level: '%s'", conf.log_level);
    if (rc != RC_OK) {
        (void)fprintf(stderr, "storaged: %s\n", err.msg);
        return 2;
    }
    log_setup(conf.name, level);
    CHECK(uv_loop_init(&loop) == 0);
    rc = sd_open(&the_sd, &conf, &loop, &err);
    if (rc != RC_OK) {
        log_error("start_failed", "rc=%s why=%s", rc_name(rc), err.msg);
        _exit(1); /* what is open, the kernel closes; nothing was promised yet */
    }
    CHECK(uv_signal_init(&loop, &term) == 0 && uv_signal_start(&term, on_signal, SIGTERM) == 0);
    CHECK(uv_signal_init(&loop, &intr) == 0 && uv_signal_start(&intr, on_signal, SIGINT) == 0);
    uv_unref((uv_handle_t *)&term);
    uv_unref((uv_handle_t *)&intr);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    if (!uv_is_closing((uv_handle_t *)&term)) uv_close((uv_handle_t *)&term, NULL);
    if (!uv_is_closing((uv_handle_t *)&intr)) uv_close((uv_handle_t *)&intr, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&loop) == 0);
    return 0;
}
