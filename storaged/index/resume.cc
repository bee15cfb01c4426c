/* storaged/index/resume.cc - RocksDB's background errors: told, and ended once there is room. Its C
 * interface has no call for either. */
#include "storaged/index/rocksdb_rep.h"
#include <cstdio>
#include <memory>
#include <rocksdb/listener.h>
#include <rocksdb/transaction_log.h>

extern "C" {
void resume_listen(rocksdb_options_t *opts, void (*full)(void *ctx, int of_wal), void *ctx);
int resume_now(rocksdb_t *db, char *msg, size_t msg_n);
unsigned long long resume_wal(rocksdb_t *db);
}

namespace
{
class Listener : public rocksdb::EventListener
{
  public:
    Listener(void (*full)(void *, int), void *ctx) : full_(full), ctx_(ctx) {}
    void OnBackgroundError(rocksdb::BackgroundErrorReason why, rocksdb::Status *s) override
    {
        if (s->IsNoSpace()) full_(ctx_, why == rocksdb::BackgroundErrorReason::kWriteCallback);
    }

  private:
    void (*full_)(void *, int);
    void *ctx_;
};
} // namespace

/* full: on any of RocksDB's threads, a moment before the database stops. ctx outlives it. */
void resume_listen(rocksdb_options_t *opts, void (*full)(void *ctx, int of_wal), void *ctx)
{
    opts->rep.listeners.push_back(std::make_shared<Listener>(full, ctx));
}

/* 0: it writes again; 1: there is still no room; 2: it never will. */
int resume_now(rocksdb_t *db, char *msg, size_t msg_n)
{
    rocksdb::Status s = db->rep->Resume();

    if (s.ok()) return 0;
    (void)snprintf(msg, msg_n, "%s", s.ToString().c_str());
    return s.IsNoSpace() || s.IsBusy() ? 1 : 2;
}

/* The number of the WAL that is written to; 0: it can't be told. */
unsigned long long resume_wal(rocksdb_t *db)
{
    std::unique_ptr<rocksdb::LogFile> f;

    return db->rep->GetCurrentWalFile(&f).ok() ? f->LogNumber() : 0;
}
