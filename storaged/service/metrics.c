/* storaged/service/metrics.c - the daemon's counters, and gauges read when somebody asks. */
#include "storaged/service/service.h"

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
    buf_printf(out, "# HELP mikura_disk_bytes room of a disk\n# TYPE mikura_disk_bytes gauge\n");
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct store_status st;

        store_status(sd->disks[i].store, &st);
        flushes += st.log.flushes_n;
        damage += st.log.damage_n;
        buf_printf(out, "mikura_disk_bytes{disk=\"%u\",of=\"total\"} %llu\n", i,
                   (unsigned long long)st.log.total_bytes);
        buf_printf(out, "mikura_disk_bytes{disk=\"%u\",of=\"free\"} %llu\n", i,
                   (unsigned long long)st.log.free_bytes);
        buf_printf(out, "mikura_disk_out{disk=\"%u\"} %d\n", i, sd->disks[i].out);
    }
    gauge(out, "mikura_flushes", "flushes of all disks since the start", flushes);
    gauge(out, "mikura_log_damage", "bad stretches of the logs found", damage);
    gauge(out, "mikura_appends_waiting", "log entries not yet durable", appends);
    gauge(out, "mikura_entry_cache_bytes", "log entries in memory", sd->cache.bytes);
    gauge(out, "mikura_chunk_memory_bytes", "payloads in memory", chunk_pool_used(&sd->pool));
    gauge(out, "mikura_bulk_connections", "open bulk connections", sd->conns_n);
    gauge(out, "mikura_fibers", "requests and jobs under way", fibers_running(sd->fs));
    gauge(out, "mikura_scans", "scans and snapshots that hold a thread", sd->pagers_n);
}
