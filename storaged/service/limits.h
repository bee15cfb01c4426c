/* storaged/service/limits.h - every bound of the daemon, with its arithmetic. */
#pragma once

#define SD_DISKS_MAX         16u
#define SD_GROUPS_MAX        8192u /* 4,096 groups of a cluster, two disks holding all of them */
#define SD_GROUP_BUCKETS     2048u
#define SD_BATCH_ENTRIES     128u       /* entries of one apply batch ... */
#define SD_BATCH_BYTES       (4u << 20) /* ... and their bytes */
#define SD_CATCHUPS_MAX      4u         /* reads of old entries for laggards, a group */
#define SD_PULLS_MAX         8u         /* chunk pulls a disk */
#define SD_REBUILD_TURN      (8u << 20) /* bytes pulled for copies between two looks at the pace ... */
#define SD_REBUILD_CHUNK     (64u << 10)  /* ... for which a chunk counts at least */
#define SD_REBUILD_ROOM      8u           /* MiB of them under way at once */
#define SD_PAGERS_MAX        16u          /* scans and snapshots that hold a thread */
#define SD_PAGER_IDLE_MS     15000u       /* a page not asked for in this time ends its scan */
#define SD_SCAN_BYTES        (768u << 10) /* of a Scan message: below 1 MiB with its framing */
#define SD_GET_KEYS_MAX      256u
#define SD_GET_BYTES_MAX     (3u << 20) /* gateways accept messages of 4 MiB */
#define SD_CHUNK_LIST_MAX    1024u      /* rows of 100 bytes in an answer */
#define SD_CHUNK_LIST_PAGES  16u        /* of SD_SCAN_BYTES, looked through for one answer */
#define SD_REQUESTS_MAX      4096u      /* Store calls at once */
#define SD_CONNS_MAX         1024u
#define SD_SUSPECTS_MAX      8u /* records read once more because a read failed, a disk */
#define SD_MOVED_TRIES       4u /* a look-up and a read, when reclaim gives segments back in between */
#define SD_ROOM_PAUSE_MS     200u  /* between tries of what found its disk's file system full */
#define SD_UPKEEP_MS         1000u /* between looks whether reclaim or a scrub is due */
#define SD_COMPARE_PARTS_MAX 8u    /* replicas that are read for a comparison at once: pagers */
#define SD_SIGNING_MAX       64u
#define SD_FULL_BYTES                                                                              \
    ((8u << 20) + (64u << 10)) /* no room for a chunk of the default size: "full" */
#define SD_TICK_MS     50u     /* REPLICA_TICK_MS */
#define SD_DIAL_MS     100u    /* first pause between dials, doubles to ... */
#define SD_DIAL_MS_MAX 2000u
#define SD_FORWARD_MS  3000u /* the rest of a chain; then it is left to pull */
