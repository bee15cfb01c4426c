/* storaged/service/metrics.c - the daemon's counters, and gauges read when somebody asks. */
#include "storaged/service/service.h"
#include <string.h>

static struct metric counters[SDM_N] = {
    [SDM_WRITES] = METRIC_COUNTER_INIT("mikura_chunk_writes_total", NULL, "chunks written"),
    [SDM_WRITE_BYTES] = METRIC_COUNTER_INIT("mikura_chunk_write_bytes_total", NULL, "their bytes"),
    [SDM_READS] = METRIC_COUNTER_INIT("mikura_chunk_reads_total", NULL, "chunk reads answered"),
    [SDM_READ_BYTES] = METRIC_COUNTER_INIT("mikura_chunk_read_bytes_total", NULL,
                                           "bytes of reads and pulls answered"),
    [SDM_PULLS] = METRIC_COUNTER_INIT("mikura_chunk_pulls_total", NULL,
                                      "chunks that were missing here and pulled from a peer"),
    [SDM_PULLS_SERVED] =
        METRIC_COUNTER_INIT("mikura_chunk_pulls_served_total", NULL, "pulls answered"),
    [SDM_CORRUPT] = METRIC_COUNTER_INIT("mikura_corrupt_total", NULL,
                                        "checksums that did not fit, on disk or on the wire"),
    [SDM_BUSY] = METRIC_COUNTER_INIT("mikura_busy_total", NULL, "bulk requests refused at a limit"),
    [SDM_PROPOSED] =
        METRIC_COUNTER_INIT("mikura_entries_proposed_total", NULL, "log entries proposed here"),
    [SDM_APPLIED] = METRIC_COUNTER_INIT("mikura_entries_applied_total", NULL, "entries applied"),
    [SDM_MESSAGES_SENT] =
        METRIC_COUNTER_INIT("mikura_replica_messages_sent_total", NULL, "replica messages sent"),
    [SDM_MESSAGES_DROPPED] = METRIC_COUNTER_INIT("mikura_replica_messages_dropped_total", NULL,
                                                 "replica messages for lack of a connection"),
    [SDM_MESSAGES_RECEIVED] = METRIC_COUNTER_INIT("mikura_replica_messages_received_total", NULL,
                                                  "replica messages received"),
    [SDM_DENIED] = METRIC_COUNTER_INIT("mikura_denied_total", NULL, "requests refused by rights"),
    [SDM_FORWARD_FAILED] = METRIC_COUNTER_INIT("mikura_chunk_forward_failed_total", NULL,
                                               "writes whose rest of the chain failed"),
    [SDM_SNAPSHOTS] =
        METRIC_COUNTER_INIT("mikura_snapshots_given_total", NULL, "group states given to peers"),
    [SDM_QUARANTINED] = METRIC_COUNTER_INIT("mikura_chunks_quarantined_total", NULL,
                                            "chunks found bad and not served any more"),
    [SDM_REPAIRED] = METRIC_COUNTER_INIT("mikura_chunks_repaired_total", NULL,
                                         "quarantined chunks with a good copy again"),
    [SDM_REPAIR_FAILED] = METRIC_COUNTER_INIT("mikura_chunk_repairs_failed_total", NULL,
                                              "tries to repair that go on later"),
    [SDM_DISKS_OUT] = METRIC_COUNTER_INIT("mikura_disks_out_total", NULL,
                                          "disks that failed a write or flush, or did not open"),
    [SDM_LOOKS_DISK] = METRIC_COUNTER_INIT("mikura_index_looks_disk_total", NULL,
                                           "index look-ups that had to go to the disk"),
    [SDM_COMPARES] = METRIC_COUNTER_INIT("mikura_compares_total", NULL,
                                         "groups whose replicas were compared, asked here"),
    [SDM_COMPARES_FAILED] = METRIC_COUNTER_INIT("mikura_compares_failed_total", NULL,
                                                "comparisons that were given up and come again"),
    [SDM_COMPARE_ODD] = METRIC_COUNTER_INIT("mikura_compare_odd_total", NULL,
                                            "replicas with another state than the majority's"),
    [SDM_COMPARE_UNDECIDED] =
        METRIC_COUNTER_INIT("mikura_compare_undecided_total", NULL,
                            "comparisons that differ and have no majority: an operator must look"),
    [SDM_COMPARE_LACKED] = METRIC_COUNTER_INIT("mikura_compare_chunks_lacked_total", NULL,
                                               "chunks that a comparison found missing or wrong"),
    [SDM_COMPARE_MENDED] = METRIC_COUNTER_INIT("mikura_compare_chunks_mended_total", NULL,
                                               "those of them with a good copy again"),
    [SDM_STRAYS] = METRIC_COUNTER_INIT("mikura_strays_dropped_total", NULL,
                                       "chunk bytes dropped whose ChunkAdd never came"),
};

void sdm_add(enum sd_metric m, int64_t v)
{
    metric_add(&counters[m], v);
}

static void gauge(struct buf *out, const char *name, const char *help, uint64_t v)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %llu\n", name, help, name, name,
               (unsigned long long)v);
}

static void of_disk(struct buf *out, const char *name, uint32_t disk, const char *of, uint64_t v)
{
    if (of == NULL) {
        buf_printf(out, "%s{disk=\"%u\"} %llu\n", name, disk, (unsigned long long)v);
    } else {
        buf_printf(out, "%s{disk=\"%u\",of=\"%s\"} %llu\n", name, disk, of, (unsigned long long)v);
    }
}

struct disk_gauges {
    struct store_status st;
    struct reclaim_stats reclaim;
    struct scrub_stats scrub;
};

/* One family after the other, as the format wants it. */
static void disks_print(struct sd *sd, struct buf *out, uint64_t *ret_flushes, uint64_t *ret_damage)
{
    static const struct {
        const char *name, *help, *of;
        size_t offset;
    } ROWS[] = {
#define ROW(n, h, o, f) {"mikura_" n, h, o, offsetof(struct disk_gauges, f)}
        ROW("disk_bytes", "room of a disk, by class", "total", st.log.total_bytes),
        ROW("disk_bytes", NULL, "free", st.log.free_bytes),
        ROW("disk_bytes", NULL, "free_for_chunks", st.log.chunk_free_bytes),
        ROW("disk_bytes", NULL, "free_for_entries", st.log.entry_free_bytes),
        ROW("disk_bytes", NULL, "index", st.log.others_used),
        ROW("disk_bytes", NULL, "segments", st.log.segment_bytes),
        ROW("disk_bytes", NULL, "live", st.index.live_bytes),
        ROW("disk_segments", "segment files", NULL, st.log.segments_n),
        ROW("disk_queue", "records that wait: for room, to be durable, for rows; reads; requests",
            "waiting", st.log.waiting_n),
        ROW("disk_queue", NULL, "appends", st.log.appending_n),
        ROW("disk_queue", NULL, "rows", st.rows_waiting_n),
        ROW("disk_queue", NULL, "reads", st.log.reads_n),
        ROW("disk_queue", NULL, "requests", st.load.requests_n),
        ROW("disk_queue", NULL, "requests_begun", st.load.running_n),
        ROW("disk_buffer_bytes", "aligned memory of a disk", "used", st.load.arena_used),
        ROW("disk_buffer_bytes", NULL, "total", st.load.arena_bytes),
        ROW("disk_log", "records, flushes and batches of rows since the start", "flushes",
            st.log.flushes_n),
        ROW("disk_log", NULL, "records", st.log.appends_n),
        ROW("disk_log", NULL, "records_a_flush_max", st.log.flushed_records_max),
        ROW("disk_log", NULL, "flush_us", st.log.flush_us),
        ROW("disk_log", NULL, "flush_us_max", st.log.flush_us_max),
        ROW("disk_log", NULL, "row_batches", st.row_batches_n),
        ROW("disk_log", NULL, "rows", st.rows_n),
        ROW("disk_log", NULL, "rows_a_batch_max", st.rows_batch_max),
        ROW("disk_log", NULL, "row_batches_us", st.row_batches_us),
        ROW("disk_headers", "headers of records: reads of a part that had one in memory, or not",
            "hits", st.log.header_hits_n),
        ROW("disk_headers", NULL, "misses", st.log.header_misses_n),
        ROW("disk_headers", NULL, "bytes", st.log.header_bytes),
        ROW("disk_damage", "found since the start", "stretches", st.log.damage_n),
        ROW("disk_damage", NULL, "heads_mended", st.log.heads_mended_n),
        ROW("disk_quarantined", "chunks found bad and not repaired yet", NULL,
            st.index.quarantined_n),
        ROW("reclaim", "dead space given back since the start", "segments", reclaim.segments_n),
        ROW("reclaim", NULL, "bytes", reclaim.bytes),
        ROW("reclaim", NULL, "copied_records", reclaim.copied_n),
        ROW("reclaim", NULL, "copied_bytes", reclaim.copied_bytes),
        ROW("reclaim", NULL, "stuck", reclaim.stuck_n),
        ROW("reclaim", NULL, "yields", reclaim.yields_n),
        ROW("scrub", "the pass that runs or ran last, and what was found since the start", "pass",
            scrub.pass),
        ROW("scrub", NULL, "done_bytes", scrub.done_bytes),
        ROW("scrub", NULL, "total_bytes", scrub.total_bytes),
        ROW("scrub", NULL, "started_unix_ms", scrub.started_unix_ms),
        ROW("scrub", NULL, "end_unix_ms", scrub.end_unix_ms),
        ROW("scrub", NULL, "next_unix_ms", scrub.next_unix_ms),
        ROW("scrub", NULL, "records", scrub.records_n),
        ROW("scrub", NULL, "bad_chunks", scrub.bad_chunks_n),
        ROW("scrub", NULL, "bad_entries", scrub.bad_entries_n),
        ROW("scrub", NULL, "bad_dead", scrub.bad_dead_n),
        ROW("scrub", NULL, "bad_heads", scrub.bad_heads_n),
        ROW("scrub", NULL, "bad_files", scrub.bad_files_n),
        ROW("scrub", NULL, "unreadable_pages", scrub.unreadable_n),
        ROW("scrub", NULL, "orphans", scrub.orphans_n),
        ROW("scrub", NULL, "yields", scrub.yields_n),
#undef ROW
    };
    struct disk_gauges g[SD_DISKS_MAX] = {0};

    for (uint32_t i = 0; i < sd->disks_n; i++) {
        const struct sd_disk *d = &sd->disks[i];

        store_status(d->store, &g[i].st);
        if (d->reclaim != NULL) reclaim_stats(d->reclaim, &g[i].reclaim);
        if (d->scrub != NULL) scrub_stats(d->scrub, &g[i].scrub);
        *ret_flushes += g[i].st.log.flushes_n;
        *ret_damage += g[i].st.log.damage_n;
    }
    for (size_t r = 0; r < ARRAY_N(ROWS); r++) {
        if (ROWS[r].help != NULL)
            buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", ROWS[r].name, ROWS[r].help,
                       ROWS[r].name);
        for (uint32_t i = 0; i < sd->disks_n; i++) {
            uint64_t v;

            memcpy(&v, (const char *)&g[i] + ROWS[r].offset, sizeof v);
            of_disk(out, ROWS[r].name, sd->disks[i].no, ROWS[r].of, v);
        }
    }
    buf_printf(out, "# HELP mikura_disk_out 1: failed, or did not open; its replicas left\n"
                    "# TYPE mikura_disk_out gauge\n");
    for (uint32_t i = 0; i < sd->disks_n; i++)
        of_disk(out, "mikura_disk_out", sd->disks[i].no, NULL, sd->disks[i].out);
    for (uint32_t i = 0; i < sd->dark_n; i++)
        of_disk(out, "mikura_disk_out", sd->dark[i].no, NULL, 1);
}

void sd_metrics_print(struct sd *sd, struct buf *out)
{
    uint64_t roles[REPLICA_PRIMARY + 1] = {0}, dead = 0, appends = 0, flushes = 0, damage = 0;

    for (uint32_t i = 0; i < SDM_N; i++)
        metric_register(&counters[i]);
    metrics_print(out);
    LIST_FOREACH(it, &sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        appends += g->appends_n;
        if (g->dead || !g->ready) {
            dead++;
        } else {
            roles[replica_role(&g->core)]++;
        }
    }
    buf_printf(out, "# HELP mikura_replicas replicas by role\n# TYPE mikura_replicas gauge\n");
    for (int r = 0; r <= REPLICA_PRIMARY; r++)
        buf_printf(out, "mikura_replicas{role=\"%s\"} %llu\n",
                   replica_role_name((enum replica_role)r), (unsigned long long)roles[r]);
    buf_printf(out, "mikura_replicas{role=\"out\"} %llu\n", (unsigned long long)dead);
    disks_print(sd, out, &flushes, &damage);
    gauge(out, "mikura_flushes", "flushes of all disks since the start", flushes);
    gauge(out, "mikura_log_damage", "bad stretches of the logs found", damage);
    gauge(out, "mikura_appends_waiting", "log entries not yet durable", appends);
    gauge(out, "mikura_entry_cache_bytes", "log entries in memory", sd->cache.bytes);
    gauge(out, "mikura_chunk_memory_bytes", "payloads in memory", chunk_pool_used(&sd->pool));
    gauge(out, "mikura_bulk_connections", "open bulk connections", sd->conns_n);
    gauge(out, "mikura_fibers", "requests and jobs under way", fibers_running(sd->fs));
    gauge(out, "mikura_scans", "scans and snapshots that hold a thread", sd->pagers_n);
}
