/* gateway/agent/watch.c - inotify on the watched folders and the cases in them: any event only
 * means "look again soon". Network file systems give none, and there is a limit of watches: the
 * rescan does not depend on any of this. */
#include "gateway/agent/agent_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <uv.h>

#define WATCHES_MAX 4096u

struct watch {
    struct agent *a;
    int fd;
    uint32_t n;
    uv_poll_t poll;
};

static void on_events(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    char buf[4096];
    ssize_t n;

    (void)status;
    (void)events;
    do {
        n = read(w->fd, buf, sizeof buf); /* which file does not matter */
        if (n > 0) w->a->rescan = true;
    } while (n > 0);
    if (w->a->rescan) fiber_event_set(&w->a->wake);
}

enum rc watch_open(struct agent *a, struct watch **ret, struct err *reterr)
{
    struct watch *w = calloc(1, sizeof *w);

    if (w == NULL) return err_set(reterr, RC_NOMEM, "a watch");
    w->a = a;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0 || uv_poll_init(fibers_loop(fiber_fibers()), &w->poll, w->fd) != 0) {
        if (w->fd >= 0) (void)close(w->fd);
        free(w);
        return err_set(reterr, RC_UNIMPL, "no inotify: folders are looked at every rescan");
    }
    w->poll.data = w;
    (void)uv_poll_start(&w->poll, UV_READABLE, on_events); /* fails for a bad descriptor only */
    *ret = w;
    return RC_OK;
}

void watch_folder(struct watch *w, const char *folder)
{
    if (w == NULL || w->n >= WATCHES_MAX) return;
    /* the same folder again is the same watch */
    if (inotify_add_watch(w->fd, folder,
                          IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                              IN_MODIFY | IN_ONLYDIR) >= 0)
        w->n++;
}

static void on_closed(uv_handle_t *h)
{
    struct watch *w = h->data;

    (void)close(w->fd);
    free(w);
}

void watch_close(struct watch *w)
{
    if (w == NULL) return;
    uv_close((uv_handle_t *)&w->poll, on_closed);
}
