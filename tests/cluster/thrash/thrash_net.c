/* tests/cluster/thrash/thrash_net.c - the network between the daemons of a test, as one process.
 *
 *   thrash_net NODES SEED
 *
 * Makes NODES network namespaces, each with one interface (TUN), and is the only way between them:
 * node i has 10.77.0.(i + 1)/24; node 0 is the namespace that the program was started in. Packets
 * wait here, are lost, or go, by the rule of their directed link; so a cut one way, a delay, loss
 * and a narrow link are all the same thing, and what was in flight stays in order. Namespaces and
 * interfaces end with the process; others enter one by the path that it prints (/proc/PID/fd/N).
 *
 * Commands on standard input, one a line, node numbers or * for all:
 *   link FROM TO cut|DELAY_MS LOSS_PERMILLE KBYTES_PER_S   (0 0 0: as it was)
 * Answers "ok" or "bad". The end of the input ends the program.
 *
 * Loss comes from SEED; what is lost when depends on when packets come, so it is not replayed. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NODES_MAX 32
#define MTU       9000 /* few packets for chunks, many enough for loss to be felt */
#define LINK_BYTES_MAX                                                                             \
    (4u << 20) /* what waits on a link; above it packets are lost, as in a switch */

struct packet {
    struct packet *next;
    uint64_t due_us;
    size_t n;
    uint8_t bytes[];
};
struct wire {
    bool cut;
    uint32_t delay_ms, loss_permille, kbytes_s;
    uint64_t free_us; /* when a narrow link has sent what it took */
    struct packet *first, *last;
    size_t queued;
};
static struct wire wires[NODES_MAX][NODES_MAX];
static int tun[NODES_MAX];
static int nodes_n;
static uint64_t dice;

static void die(const char *what)
{
    (void)fprintf(stderr, "thrash_net: %s: %s\n", what, strerror(errno));
    exit(errno == EPERM || errno == ENOENT || errno == EACCES ? 77 : 1);
}

static uint64_t now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t roll(void) /* xorshift64 */
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return dice;
}

static void up(int s, const char *name)
{
    struct ifreq r = {0};

    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    if (ioctl(s, SIOCGIFFLAGS, &r) != 0) die(name);
    r.ifr_flags = (short)(r.ifr_flags | IFF_UP | IFF_RUNNING);
    if (ioctl(s, SIOCSIFFLAGS, &r) != 0) die(name);
}

/* In the namespace that this thread is in. */
static void interface_make(int i)
{
    struct ifreq r = {0};
    struct sockaddr_in a = {.sin_family = AF_INET};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (s < 0) die("socket");
    tun[i] = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun[i] < 0) die("/dev/net/tun");
    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "thrash0");
    r.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(tun[i], TUNSETIFF, &r) != 0) die("TUNSETIFF");
    a.sin_addr.s_addr = htonl(0x0a4d0001u + (uint32_t)i);
    memcpy(&r.ifr_addr, &a, sizeof a);
    if (ioctl(s, SIOCSIFADDR, &r) != 0) die("SIOCSIFADDR");
    a.sin_addr.s_addr = htonl(0xffffff00u);
    memcpy(&r.ifr_netmask, &a, sizeof a);
    if (ioctl(s, SIOCSIFNETMASK, &r) != 0) die("SIOCSIFNETMASK");
    r.ifr_mtu = MTU;
    if (ioctl(s, SIOCSIFMTU, &r) != 0) die("SIOCSIFMTU");
    up(s, "thrash0");
    up(s, "lo");
    (void)close(s);
}

static void nodes_make(void)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

    if (home < 0) die("/proc/self/ns/net");
    for (int i = 0; i < nodes_n; i++) {
        int ns;

        if (i > 0 && unshare(CLONE_NEWNET) != 0) die("unshare");
        interface_make(i);
        ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        if (ns < 0) die("/proc/self/ns/net");
        (void)printf("node %d 10.77.0.%d /proc/%d/fd/%d\n", i, i + 1, (int)getpid(), ns);
        if (setns(home, CLONE_NEWNET) != 0) die("setns");
    }
    (void)printf("ready\n");
    (void)fflush(stdout);
}

/* ---- packets ---- */
static void deliver(int to, const uint8_t *p, size_t n)
{
    (void)!write(tun[to], p, n); /* a full queue there loses it, as anywhere */
}

static void take(int from, const uint8_t *p, size_t n)
{
    uint32_t dst;
    struct wire *w;
    struct packet *q;
    uint64_t now = now_us();
    int to;

    if (n < 20 || (p[0] >> 4) != 4) return; /* IPv6 router solicitations */
    memcpy(&dst, p + 16, 4);
    to = (int)(ntohl(dst) - 0x0a4d0001u);
    if (to < 0 || to >= nodes_n) return;
    w = &wires[from][to];
    if (w->cut || (w->loss_permille > 0 && roll() % 1000 < w->loss_permille)) return;
    if (w->first == NULL && w->delay_ms == 0 && w->kbytes_s == 0) {
        deliver(to, p, n);
        return;
    }
    if (w->queued + n > LINK_BYTES_MAX) return;
    q = malloc(sizeof *q + n);
    if (q == NULL) return;
    memcpy(q->bytes, p, n);
    *q = (struct packet){.n = n, .due_us = now + (uint64_t)w->delay_ms * 1000};
    if (w->kbytes_s > 0) {
        w->free_us = (w->free_us > now ? w->free_us : now) + (uint64_t)n * 1000 / w->kbytes_s;
        q->due_us += w->free_us - now;
    }
    if (w->first == NULL) {
        w->first = q;
    } else {
        w->last->next = q;
        if (q->due_us < w->last->due_us) q->due_us = w->last->due_us; /* in order */
    }
    w->last = q;
    w->queued += n;
}

/* Sends what is due; returns when the next one is. */
static uint64_t send_due(void)
{
    uint64_t now = now_us(), next = UINT64_MAX;

    for (int from = 0; from < nodes_n; from++) {
        for (int to = 0; to < nodes_n; to++) {
            struct wire *w = &wires[from][to];

            while (w->first != NULL && (w->cut || w->first->due_us <= now)) {
                struct packet *q = w->first;

                if (!w->cut) deliver(to, q->bytes, q->n);
                w->first = q->next;
                w->queued -= q->n;
                free(q);
            }
            if (w->first != NULL && w->first->due_us < next) next = w->first->due_us;
        }
    }
    return next;
}

/* ---- commands ---- */
static bool parse_node(const char *text, int *ret_first, int *ret_last)
{
    char *end;
    long n = strtol(text, &end, 10);

    *ret_first = 0;
    *ret_last = nodes_n - 1;
    if (strcmp(text, "*") == 0) return true;
    *ret_first = *ret_last = (int)n;
    return end != text && *end == 0 && n >= 0 && n < nodes_n;
}

static bool command(const char *line)
{
    char from[8], to[8], first[8];
    unsigned loss = 0, rate = 0;
    int a, b, c, d;
    char *end;
    unsigned long delay = 0;

    if (sscanf(line, "link %7s %7s %7s %u %u", from, to, first, &loss, &rate) < 3) return false;
    if (!parse_node(from, &a, &b) || !parse_node(to, &c, &d) || loss > 1000) return false;
    if (strcmp(first, "cut") != 0) {
        delay = strtoul(first, &end, 10);
        if (*end != 0 || delay > 60000) return false;
    }
    for (int i = a; i <= b; i++) {
        for (int k = c; k <= d; k++) {
            struct wire *w = &wires[i][k];

            w->cut = strcmp(first, "cut") == 0;
            w->delay_ms = (uint32_t)delay;
            w->loss_permille = loss;
            w->kbytes_s = rate;
        }
    }
    return true;
}

/* false: the end of the input. */
static bool commands_read(void)
{
    static char in[4096];
    static size_t in_n;
    ssize_t n = read(STDIN_FILENO, in + in_n, sizeof in - 1 - in_n);
    char *line = in, *nl;

    if (n <= 0) return n < 0 && errno == EINTR;
    in_n += (size_t)n;
    in[in_n] = 0;
    while ((nl = strchr(line, '\n')) != NULL) {
        *nl = 0;
        (void)printf(command(line) ? "ok\n" : "bad\n");
        line = nl + 1;
    }
    (void)fflush(stdout);
    in_n -= (size_t)(line - in);
    memmove(in, line, in_n);
    return in_n < sizeof in - 1;
}

int main(int argc, char **argv)
{
    static uint8_t packet[MTU + 64];
    struct pollfd p[NODES_MAX + 1];

    nodes_n = argc == 3 ? (int)strtol(argv[1], NULL, 10) : 0;
    if (nodes_n < 1 || nodes_n > NODES_MAX) {
        (void)fprintf(stderr, "usage: thrash_net NODES SEED\n");
        return 2;
    }
    dice = strtoull(argv[2], NULL, 10) * 2654435769u + 88172645463325252u;
    nodes_make();
    for (int i = 0; i < nodes_n; i++)
        p[i] = (struct pollfd){.fd = tun[i], .events = POLLIN};
    p[nodes_n] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        uint64_t next = send_due(), now = now_us();
        int wait_ms = next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now) / 1000 + 1);

        if (poll(p, (nfds_t)nodes_n + 1, wait_ms) < 0 && errno != EINTR) die("poll");
        if (p[nodes_n].revents != 0 && !commands_read()) return 0;
        for (int i = 0; i < nodes_n; i++) {
            if (p[i].revents == 0) continue;
            for (int k = 0; k < 64; k++) {
                ssize_t n = read(tun[i], packet, sizeof packet);

                if (n <= 0) break;
                take(i, packet, (size_t)n);
            }
        }
    }
}
