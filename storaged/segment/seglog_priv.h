/* storaged/segment/seglog_priv.h - shared by seglog.c (running), seglog_open.c (start-up). */
#pragma once
#include "storaged/segment/seglog.h"

struct segment {
    struct list link; /* seglog.segments, by id */
    uint64_t id, generation, bytes;
    uint64_t end;      /* where the next record goes; of a sealed one: the end of its records */
    uint64_t durable;  /* all below is durable */
    uint64_t sequence; /* of the next record */
    struct seg_position prior; /* end of the segment before; zero: the first of its process */
    bool sealed, sealing, damaged;
    struct disk_file *file;
    struct seglog *log;
    struct disk_req seal_req;
    uint8_t *seal_page;
};
struct seglog {
    struct seglog_conf conf;
    struct disk *disk;
    struct list segments;
    struct segment *cur, *next;
    struct list waiting, placed; /* appends: not placed yet; placed, not durable */
    uint32_t appends_n, reads_n, seals_n;
    struct disk_req flush_req, create_req, close_req;
    bool flushing, creating, closing, close_due;
    uint32_t flush_n;
    struct segment *flush_seg;
    uint8_t *create_page;
    struct disk_file *create_file;
    struct err failed; /* a write or flush failed: nothing is appended any more */
    uint64_t id_next;
    struct seg_position durable;
    struct seglog_stats stats;
    void (*close_cb)(void *data);
    void *close_data;
};

void segment_name(uint64_t id, char name[DISK_NAME_BYTES]);
void segment_header_encode(const struct seglog *log, const struct segment *s, uint8_t *page);
void segment_seal_encode(const struct seglog *log, const struct segment *s, uint8_t *page);
struct segment *segment_find(struct seglog *log, uint64_t id);
