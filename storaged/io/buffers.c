/* storaged/io/buffers.c - see buffers.h. Runs of pages, out or free, fill the arena without a gap;
 * no two free ones are neighbours. Tags at both ends: a free finds its neighbours without a walk.
 */
#include "storaged/io/buffers.h"
#include "common/base/macros.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OUT 1u

static void tag(struct buffers *b, uint32_t at, uint32_t n, uint32_t out)
{
    b->tags[at] = b->tags[at + n - 1] = n << 1 | out;
}

enum rc buffers_init(struct buffers *b, size_t bytes)
{
    uint32_t n = (uint32_t)(ROUND_UP(bytes, DISK_ALIGN_BYTES) / DISK_ALIGN_BYTES);
    void *p = mmap(NULL, (size_t)n * DISK_ALIGN_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(b, 0, sizeof(*b));
    if (p == MAP_FAILED) return RC_NOMEM;
    b->base = p;
    b->pages_n = n;
    b->tags = calloc(n, sizeof(*b->tags));
    if (b->tags == NULL) {
        buffers_deinit(b);
        return RC_NOMEM;
    }
    /* huge pages, where the kernel has them to give: fewer segments a request */
    (void)madvise(p, buffers_bytes(b), MADV_HUGEPAGE);
    tag(b, 0, n, 0);
    return RC_OK;
}

void buffers_deinit(struct buffers *b)
{
    if (b->base != NULL) (void)munmap(b->base, buffers_bytes(b));
    free(b->tags);
    memset(b, 0, sizeof(*b));
}

size_t buffers_bytes(const struct buffers *b)
{
    return (size_t)b->pages_n * DISK_ALIGN_BYTES;
}

/* A run that has room for want pages, and in it the first page for them; false: there is none. */
static bool place(const struct buffers *b, size_t want, bool circle, bool top, uint32_t *ret_run,
                  uint32_t *ret_at)
{
    uint32_t window = b->pages_n - b->pages_n / 4, n;
    bool found = false;

    for (uint32_t run = 0; run < b->pages_n; run += n) {
        uint32_t at = MAX(run, b->next);

        n = b->tags[run] >> 1;
        if ((b->tags[run] & OUT) != 0 || n < want) continue;
        if (circle && at + want <= MIN(run + n, window)) {
            *ret_run = run;
            *ret_at = at;
            return true;
        }
        if (found && !top) continue;
        found = true; /* of a circle: where it begins again, or that has no room either */
        *ret_run = run;
        *ret_at = top ? run + n - (uint32_t)want : run;
        if (!circle && !top) break;
    }
    return found;
}

void *buffers_alloc(struct buffers *b, size_t bytes)
{
    size_t want = bytes / DISK_ALIGN_BYTES + (bytes % DISK_ALIGN_BYTES != 0);
    bool top = bytes >= BUFFERS_LARGE_BYTES, circle = bytes > BUFFERS_SMALL_BYTES && !top;
    uint32_t run = 0, at = 0, n, end;

    if (want == 0 || want > b->pages_n - b->used_n || !place(b, want, circle, top, &run, &at))
        return NULL;
    n = b->tags[run] >> 1;
    end = at + (uint32_t)want;
    if (at > run) tag(b, run, at - run, 0);
    if (end < run + n) tag(b, end, run + n - end, 0);
    tag(b, at, (uint32_t)want, OUT);
    b->used_n += (uint32_t)want;
    if (circle) b->next = end;
    return b->base + (size_t)at * DISK_ALIGN_BYTES;
}

void buffers_free(struct buffers *b, void *p)
{
    size_t page;
    uint32_t at, n;

    if (p == NULL) return;
    page = (size_t)((uint8_t *)p - b->base) / DISK_ALIGN_BYTES;
    CHECK(page < b->pages_n && (b->tags[page] & OUT) != 0);
    at = (uint32_t)page;
    n = b->tags[at] >> 1;
    CHECK(n <= b->pages_n - at && b->tags[at + n - 1] == b->tags[at]);
    b->used_n -= n;
    b->tags[at] = b->tags[at + n - 1] = 0; /* it may not come back twice */
    if (at + n < b->pages_n && (b->tags[at + n] & OUT) == 0) {
        uint32_t more = b->tags[at + n] >> 1;

        b->tags[at + n] = 0;
        n += more;
    }
    if (at > 0 && (b->tags[at - 1] & OUT) == 0) {
        uint32_t more = b->tags[at - 1] >> 1;

        b->tags[at - 1] = 0;
        at -= more;
        n += more;
    }
    tag(b, at, n, 0);
}
