/* storaged/index/spares.cc - files that RocksDB makes while it is opened, on a file system without
 * one free block.
 *
 * Each open makes a manifest, a WAL and CURRENT, and tables of what the last WAL holds. Here such a
 * file is a spare one under a new name: it has its blocks, and nothing in it. So nobody can take
 * them in between, as he could if they were given back to the file system first. What a file does
 * not need is given back when it is closed. OPTIONS is not written (RocksDB goes on without), nor
 * its LOG: after a line of that which met the full file system, the next one ends the process. */
#include "storaged/index/rocksdb_rep.h"
#include <atomic>
#include <memory>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

extern "C" {
struct spares;
struct spares *spares_use(rocksdb_options_t *opts, const char *dir, unsigned large_n,
                          unsigned small_n);
void spares_end(struct spares *s);
void spares_free(struct spares *s);
}

namespace
{
using namespace rocksdb;

class NoLog : public Logger
{
  public:
    using Logger::Logv;
    void Logv(const char *, va_list) override {}
};

class Trimmed : public FSWritableFileOwnerWrapper
{
  public:
    Trimmed(std::unique_ptr<FSWritableFile> &&f, const std::string &path)
        : FSWritableFileOwnerWrapper(std::move(f)), path_(path)
    {
    }
    ~Trimmed() override /* CURRENT's is never closed but so */
    {
        struct stat st;

        /* its blocks behind the end; they stay, if not */
        if (stat(path_.c_str(), &st) == 0) (void)!truncate(path_.c_str(), st.st_size);
    }

  private:
    std::string path_;
};

class SpareFs : public FileSystemWrapper
{
  public:
    SpareFs(const char *dir, unsigned large_n, unsigned small_n)
        : FileSystemWrapper(FileSystem::Default()), dir_(dir), n_{large_n, small_n}
    {
    }
    const char *Name() const override { return "mikura spares"; }
    IOStatus NewWritableFile(const std::string &name, const FileOptions &o,
                             std::unique_ptr<FSWritableFile> *ret, IODebugContext *d) override
    {
        std::string base = name.substr(name.rfind('/') + 1);

        if (over_) return FileSystemWrapper::NewWritableFile(name, o, ret, d);
        if (base.compare(0, 8, "OPTIONS-") == 0) return IOStatus::NoSpace("no room for OPTIONS");
        for (int k = base.compare(0, 9, "MANIFEST-") == 0 ? 0 : 1, kinds = 0; kinds < 2;
             k = 1 - k, kinds++) {
            for (unsigned i = 0; i < n_[k]; i++) {
                std::string spare = dir_ + (k == 0 ? "/large-" : "/small-") + std::to_string(i);
                std::unique_ptr<FSWritableFile> f;

                if (access(spare.c_str(), F_OK) != 0 ||
                    !ReuseWritableFile(name, spare, o, &f, d).ok())
                    continue;
                ret->reset(new Trimmed(std::move(f), name));
                return IOStatus::OK();
            }
        }
        return FileSystemWrapper::NewWritableFile(name, o, ret, d);
    }
    void end() { over_ = true; }

  private:
    std::string dir_;
    unsigned n_[2];
    std::atomic<bool> over_{false};
};
} // namespace

struct spares {
    std::shared_ptr<SpareFs> fs;
    std::unique_ptr<rocksdb::Env> env;
};

/* The files dir/large-N (for a manifest) and dir/small-N are taken, until spares_end. */
struct spares *spares_use(rocksdb_options_t *opts, const char *dir, unsigned large_n,
                          unsigned small_n)
{
    struct spares *s = new struct spares;

    s->fs = std::make_shared<SpareFs>(dir, large_n, small_n);
    s->env = rocksdb::NewCompositeEnv(s->fs);
    opts->rep.env = s->env.get();
    opts->rep.info_log = std::make_shared<NoLog>();
    return s;
}

void spares_end(struct spares *s)
{
    s->fs->end();
}

/* After the database was closed and its options are gone. NULL is fine. */
void spares_free(struct spares *s)
{
    delete s;
}
