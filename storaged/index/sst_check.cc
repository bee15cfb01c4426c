/* storaged/index/sst_check.cc - one table file of RocksDB, every block of it against its checksum:
 * RocksDB's C interface has no call for that. */
#include <cstdio>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>

extern "C" int sst_check(const char *path, char *msg, size_t msg_n);

/* 0: good; 1: bad; 2: can't be read; 3: not there. */
int sst_check(const char *path, char *msg, size_t msg_n)
{
    rocksdb::Status s;

    for (bool direct :
         {true, false}) { /* from the disk, not from the page cache, where it can be */
        rocksdb::Options o;

        o.use_direct_reads = direct;
        rocksdb::SstFileReader r(o);
        s = r.Open(path);
        if (s.ok()) s = r.VerifyChecksum();
        if (s.ok() || s.IsCorruption() || s.IsNotFound() || s.IsPathNotFound()) break;
    }
    if (s.ok()) return 0;
    (void)snprintf(msg, msg_n, "%s", s.ToString().c_str());
    if (s.IsCorruption()) return 1;
    return s.IsNotFound() || s.IsPathNotFound() ? 3 : 2;
}
