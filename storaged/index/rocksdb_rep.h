/* storaged/index/rocksdb_rep.h - what RocksDB's C handles hold, for the few things that its C
 * interface has no call for. As in its db/c.cc (unchanged since 2013; test_enospc fails if they
 * ever differ). */
#pragma once
#include <rocksdb/db.h>
#include <rocksdb/options.h>

struct rocksdb_t {
    rocksdb::DB *rep;
};
struct rocksdb_options_t {
    rocksdb::Options rep;
};
