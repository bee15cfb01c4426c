/* gateway/api/model_check.c - see model_check.h. One child per model: the bytes lie in a sealed
 * memory file, the answer comes through a pipe and is held against every limit of wire.h. */
#include "gateway/api/model_check.h"
#include "common/base/clock.h"
#include "common/base/le.h"
#include "gateway/model_check/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLASSES_MAX 4096u
#define NAME_MAX_N  1024u
#define RANK_MAX    8u

void gw_model_check_program(const char *set, char *path, size_t cap)
{
    char self[400];
    ssize_t n;

    if (set != NULL && set[0] != 0) {
        (void)snprintf(path, cap, "%s", set);
        return;
    }
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n < 0 ? 0 : n] = 0;
    if (strrchr(self, '/') != NULL) *strrchr(self, '/') = 0;
    (void)snprintf(path, cap, "%s/mikura-model-check", self);
}

/* ---- the child ---- */

/* The bytes as a file that nobody can change any more. */
static enum rc file_make(const uint8_t *bytes, size_t n, int *ret_fd, struct err *reterr)
{
    int fd = memfd_create("model", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) return err_set(reterr, RC_INTERNAL, "a memory file: %s", strerror(errno));
    for (size_t at = 0; at < n;) {
        ssize_t put = write(fd, bytes + at, n - at);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            enum rc rc = err_set(reterr, RC_NOMEM, "a memory file: %s", strerror(errno));

            (void)close(fd);
            return rc;
        }
        at += (size_t)put;
    }
    if (lseek(fd, 0, SEEK_SET) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
        (void)close(fd);
        return err_set(reterr, RC_INTERNAL, "a memory file: %s", strerror(errno));
    }
    *ret_fd = fd;
    return RC_OK;
}

static enum rc child_start(const char *program, int file, size_t n, pid_t *ret_pid, int *ret_fd,
                           struct err *reterr)
{
    char bytes[24], name[] = "mikura-model-check";
    char *const argv[] = {name, bytes, NULL}, *const envp[] = {NULL};
    posix_spawn_file_actions_t fa;
    int p[2], in, status;

    if (pipe2(p, O_CLOEXEC) != 0) return err_set(reterr, RC_INTERNAL, "pipe: %s", strerror(errno));
    /* out of the way of the numbers that the child gets */
    in = fcntl(p[1], F_DUPFD_CLOEXEC, 16);
    file = fcntl(file, F_DUPFD_CLOEXEC, 16);
    (void)close(p[1]);
    (void)snprintf(bytes, sizeof bytes, "%zu", n);
    status = posix_spawn_file_actions_init(&fa);
    if (status == 0) status = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&fa, 0, 1);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&fa, in, MODEL_CHECK_FD);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&fa, file, MODEL_CHECK_FILE_FD);
    if (status == 0) status = posix_spawn(ret_pid, program, &fa, NULL, argv, envp);
    (void)posix_spawn_file_actions_destroy(&fa);
    if (in >= 0) (void)close(in);
    if (file >= 0) (void)close(file);
    if (status != 0) {
        (void)close(p[0]);
        return err_set(reterr, RC_INTERNAL, "%s: %s", program, strerror(status));
    }
    *ret_fd = p[0];
    return RC_OK;
}

/* Until the child closes its end, or too much came, or the time is over. */
static enum rc answer_read(int fd, uint32_t timeout_ms, uint8_t *to, size_t *ret_n,
                           struct err *reterr)
{
    uint64_t until = clock_boot_ms() + timeout_ms;

    *ret_n = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = clock_boot_ms();
        ssize_t got;

        if (now >= until)
            return err_set(reterr, RC_INTERNAL, "checking took longer than %u ms", timeout_ms);
        if (poll(&p, 1, (int)(until - now)) <= 0) continue; /* looked at again */
        got = read(fd, to + *ret_n, MODEL_CHECK_ANSWER_MAX - *ret_n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_set(reterr, RC_INTERNAL, "its pipe: %s", strerror(errno));
        if (got == 0) return RC_OK;
        *ret_n += (size_t)got;
        if (*ret_n == MODEL_CHECK_ANSWER_MAX)
            return err_set(reterr, RC_INTERNAL, "it talks too much");
    }
}

/* One line, printable: a child's words go into our answers and logs. */
static void words(const uint8_t *p, size_t n, char *text, size_t cap)
{
    size_t k = 0;

    for (size_t i = 0; i < n && k + 1 < cap; i++)
        text[k++] = p[i] >= 0x20 && p[i] <= 0x7e ? (char)p[i] : '?';
    text[k] = 0;
}

enum rc gw_model_check(const char *program, const uint8_t *bytes, size_t n, uint32_t timeout_ms,
                       uint8_t **ret_answer, size_t *ret_n, struct err *reterr)
{
    uint8_t *answer = malloc(MODEL_CHECK_ANSWER_MAX);
    int file = -1, fd = -1, status = 0;
    size_t got = 0;
    pid_t pid = 0;
    enum rc rc;

    if (answer == NULL) return err_set(reterr, RC_NOMEM, "a model's description");
    rc = file_make(bytes, n, &file, reterr);
    if (rc == RC_OK) rc = child_start(program, file, n, &pid, &fd, reterr);
    if (rc == RC_OK) {
        rc = answer_read(fd, timeout_ms, answer, &got, reterr);
        if (rc != RC_OK) (void)kill(pid, SIGKILL);
        (void)close(fd); /* one that goes on writing ends by it */
        (void)waitpid(pid, &status, 0);
    }
    if (file >= 0) (void)close(file);
    if (rc == RC_OK && got == 0)
        rc = WIFSIGNALED(status)
                 ? err_set(reterr, RC_INTERNAL, "the checking process ended by signal %d",
                           WTERMSIG(status))
                 : err_set(reterr, RC_INTERNAL, "the checking process said nothing");
    if (rc == RC_OK && got >= 4 && answer[0] == 'R' && le_get16(answer + 2) <= got - 4) {
        char text[192];

        words(answer + 4, le_get16(answer + 2), text, sizeof text);
        rc = answer[1] == RC_NOMEM ? RC_NOMEM : RC_INVAL; /* a budget: the file's fault too */
        rc = err_set(reterr, rc, "%s", text);
    }
    if (rc != RC_OK) {
        free(answer);
        return rc;
    }
    *ret_answer = answer;
    *ret_n = got;
    return RC_OK;
}

/* ---- its answer ---- */
struct reader {
    const uint8_t *p;
    size_t n;
    struct arena *a;
    bool bad, nomem;
};

static const uint8_t *take(struct reader *r, size_t n)
{
    const uint8_t *p = r->p;

    if (r->bad || n > r->n) {
        r->bad = true;
        return NULL;
    }
    r->p += n;
    r->n -= n;
    return p;
}

static uint32_t take32(struct reader *r)
{
    const uint8_t *p = take(r, 4);

    return p == NULL ? 0 : le_get32(p);
}

/* UTF-8 without control characters (line ends and tabs when lines), as a string; protobuf texts
 * must be that. */
static char *take_text(struct reader *r, size_t n, bool lines)
{
    const uint8_t *p = take(r, n);
    char *s;

    if (p == NULL) return NULL;
    for (size_t i = 0; i < n;) {
        uint8_t c = p[i];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : 3;
        uint32_t v = more == 0 ? c : c & (0x3fu >> more);

        if ((c >= 0x80 && (c < 0xc2 || c > 0xf4)) || more > n - i - 1) r->bad = true;
        for (size_t k = 1; !r->bad && k <= more; k++) {
            if ((p[i + k] & 0xc0) != 0x80) r->bad = true;
            v = v << 6 | (p[i + k] & 0x3fu);
        }
        if (r->bad) return NULL;
        if ((more == 2 && (v < 0x800 || (v >= 0xd800 && v < 0xe000))) ||
            (more == 3 && (v < 0x10000 || v > 0x10ffff)) || v == 0x7f ||
            (v < 0x20 && !(lines && (v == '\n' || v == '\t' || v == '\r')))) {
            r->bad = true;
            return NULL;
        }
        i += 1 + more;
    }
    s = arena_str(r->a, "%.*s", (int)n, (const char *)p);
    r->nomem = r->nomem || s == NULL;
    return s;
}

static const char *type_name(uint8_t t)
{
    switch (t) { /* ONNX's numbers, those that common/model serves */
    case 1:
        return "float32";
    case 2:
        return "uint8";
    case 6:
        return "int32";
    case 7:
        return "int64";
    case 9:
        return "bool";
    default:
        return NULL;
    }
}

static Mikura__V1__Tensor *take_tensor(struct reader *r)
{
    Mikura__V1__Tensor *t = arena_alloc(r->a, sizeof *t);
    const uint8_t *p = take(r, 2), *dims;
    uint16_t name_n = p == NULL ? 0 : le_get16(p);

    if (t == NULL) {
        r->nomem = true;
        return NULL;
    }
    mikura__v1__tensor__init(t);
    if (name_n == 0 || name_n > NAME_MAX_N) r->bad = true;
    t->name = take_text(r, name_n, /* lines= */ false);
    p = take(r, 2);
    if (p == NULL || type_name(p[0]) == NULL || p[1] > RANK_MAX) {
        r->bad = true;
        return NULL;
    }
    t->type = arena_str(r->a, "%s", type_name(p[0]));
    t->n_shape = p[1];
    t->shape = arena_alloc(r->a, (t->n_shape + 1) * sizeof *t->shape);
    dims = take(r, 8 * t->n_shape);
    if (t->type == NULL || t->shape == NULL) r->nomem = true;
    for (size_t d = 0; !r->bad && !r->nomem && d < t->n_shape; d++) {
        t->shape[d] = (int64_t)le_get64(dims + 8 * d);
        if (t->shape[d] < -1 || t->shape[d] > INT32_MAX) r->bad = true;
    }
    return t;
}

static Mikura__V1__Tensor **take_tensors(struct reader *r, uint32_t n)
{
    Mikura__V1__Tensor **out = arena_alloc(r->a, (n + 1) * sizeof(Mikura__V1__Tensor *));

    if (out == NULL) r->nomem = true;
    for (uint32_t i = 0; i < n && !r->bad && !r->nomem; i++)
        out[i] = take_tensor(r);
    return out;
}

/* Metadata `classes`: names divided by commas, or a JSON list of plain texts. */
static void classes(struct reader *r, char *text, Mikura__V1__Model *m)
{
    char *save = NULL;

    m->classes = arena_alloc(r->a, CLASSES_MAX * sizeof *m->classes);
    if (m->classes == NULL) {
        r->nomem = true;
        return;
    }
    for (char *t = strtok_r(text, "[],\" \t\r\n", &save); t != NULL && m->n_classes < CLASSES_MAX;
         t = strtok_r(NULL, "[],\" \t\r\n", &save))
        m->classes[m->n_classes++] = t;
}

enum rc gw_model_answer(const uint8_t *answer, size_t n, struct arena *a, Mikura__V1__Model *m,
                        struct err *reterr)
{
    struct reader r = {.p = answer, .n = n, .a = a};
    const uint8_t *kind = take(&r, 1);
    uint32_t in_n, out_n, text_n;
    char *text;

    m->opset = take32(&r);
    in_n = take32(&r);
    out_n = take32(&r);
    if (kind == NULL || kind[0] != 'S' || m->opset > 1000 || in_n == 0 ||
        in_n > MODEL_CHECK_TENSORS || out_n == 0 || out_n > MODEL_CHECK_TENSORS)
        r.bad = true;
    if (!r.bad) m->inputs = take_tensors(&r, in_n);
    if (!r.bad && !r.nomem) m->outputs = take_tensors(&r, out_n);
    m->n_inputs = in_n;
    m->n_outputs = out_n;
    text_n = take32(&r);
    text = take_text(&r, text_n, /* lines= */ true);
    if (!r.bad && !r.nomem && text_n > 0) classes(&r, text, m);
    text_n = take32(&r);
    text = take_text(&r, text_n, /* lines= */ true);
    if (text_n > 0) m->limits = text;
    if (r.nomem) return err_set(reterr, RC_NOMEM, "a model's description");
    if (r.bad || r.n != 0)
        return err_set(reterr, RC_INTERNAL, "the checking process said nonsense");
    return RC_OK;
}
