/* HTTP tests in one process and one thread: a server on a loop, and raw peers whose waiting turns that loop. Every wait
 * is bounded by PEER_WAIT_MS and fails the test when it is over. */
#ifndef HIE_TESTS_HTTP_PEER_H
#define HIE_TESTS_HTTP_PEER_H

#include "base/bytes.h"
#include "base/clock.h"
#include "link/loop.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEER_WAIT_MS = 20000 };

static inline void turn(struct loop *loop)
{
    event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
}

/* Turns the loop until `condition` holds. */
#define wait_until(loop, condition)                                                                \
    do {                                                                                           \
        int64_t until_ = clock_mono_ms() + PEER_WAIT_MS;                                           \
        while (!(condition)) {                                                                     \
            ck_assert_msg(clock_mono_ms() < until_, "waited in vain: %s", #condition);             \
            turn(loop);                                                                            \
            poll(NULL, 0, 1);                                                                      \
        }                                                                                          \
    } while (0)

struct peer {
    struct loop *loop;
    int fd;
    struct buffer in; /* received and not yet looked at */
    bool ended;       /* the server closed its half */
    bool reset;
};

struct answer {
    int status;
    char *head, *body; /* NUL-terminated */
    size_t body_len;
};

static inline int connect_to(uint16_t port)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static inline struct peer *peer_open(struct loop *loop, uint16_t port)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    peer->loop = loop;
    peer->fd = connect_to(port);
    buffer_init(&peer->in, (size_t)64 << 20);
    return peer;
}

static inline void peer_close(struct peer *peer)
{
    close(peer->fd);
    buffer_done(&peer->in);
    free(peer);
}

/* Closes with a reset, as a crashed machine's would be. */
static inline void peer_reset(struct peer *peer)
{
    struct linger now = {.l_onoff = 1};
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    peer_close(peer);
}

/* Takes what has arrived. */
static inline void peer_receive(struct peer *peer)
{
    char bytes[16384];
    ssize_t len;
    while (!peer->ended && !peer->reset) {
        len = recv(peer->fd, bytes, sizeof(bytes), 0);
        if (len < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (len > 0)
            buffer_append(&peer->in, bytes, (size_t)len);
        peer->ended = len == 0;
        peer->reset = len < 0;
    }
}

/* Sends all, receiving meanwhile; false when the server no longer takes it. */
static inline bool peer_try_send(struct peer *peer, const void *bytes, size_t len)
{
    int64_t until = clock_mono_ms() + PEER_WAIT_MS;
    while (len) {
        ssize_t sent = send(peer->fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return false;
        if (sent > 0) {
            bytes = (const char *)bytes + sent;
            len -= (size_t)sent;
        }
        turn(peer->loop);
        peer_receive(peer);
        if (peer->ended || peer->reset)
            return len == 0;
        ck_assert_msg(clock_mono_ms() < until, "the server does not read");
    }
    return true;
}

static inline void peer_send_bytes(struct peer *peer, const void *bytes, size_t len)
{
    ck_assert(peer_try_send(peer, bytes, len));
}

static inline void peer_send(struct peer *peer, const char *text)
{
    peer_send_bytes(peer, text, strlen(text));
}

static inline const char *find_bytes(const struct buffer *in, const char *text)
{
    return in->len ? memmem(in->data, in->len, text, strlen(text)) : NULL;
}

static inline bool peer_has(struct peer *peer, const char *text)
{
    peer_receive(peer);
    return find_bytes(&peer->in, text) != NULL;
}

static inline bool peer_ended(struct peer *peer)
{
    peer_receive(peer);
    return peer->ended || peer->reset;
}

/* True when a header line of the answer is exactly "name: value". */
static inline bool answer_has(const struct answer *answer, const char *line)
{
    char wanted[512];
    snprintf(wanted, sizeof(wanted), "\r\n%s\r\n", line);
    return strstr(answer->head, wanted) != NULL;
}

static inline void answer_done(struct answer *answer)
{
    free(answer->head);
    free(answer->body);
    *answer = (struct answer){0};
}

/* The next answer; `no_body` for HEAD. */
static inline void peer_answer_kind(struct peer *peer, struct answer *ret, bool no_body)
{
    wait_until(peer->loop, peer_has(peer, "\r\n\r\n") || peer_ended(peer));
    const char *end = find_bytes(&peer->in, "\r\n\r\n");
    ck_assert_msg(end != NULL, "closed without an answer%s", peer->reset ? " (reset)" : "");
    size_t head_len = (size_t)(end - peer->in.data) + 4, body_len = 0;
    ret->head = strndup(peer->in.data, head_len);
    ck_assert_int_eq(sscanf(ret->head, "HTTP/1.1 %d ", &ret->status), 1);
    const char *length = strcasestr(ret->head, "\r\nContent-Length: ");
    if (length && !no_body)
        body_len = strtoul(length + strlen("\r\nContent-Length: "), NULL, 10);
    wait_until(peer->loop, (peer_receive(peer), peer->in.len >= head_len + body_len));
    ret->body = strndup("", 0);
    ret->body = realloc(ret->body, body_len + 1);
    memcpy(ret->body, peer->in.data + head_len, body_len);
    ret->body[body_len] = '\0';
    ret->body_len = body_len;
    buffer_consume(&peer->in, head_len + body_len);
}

static inline void peer_answer(struct peer *peer, struct answer *ret)
{
    peer_answer_kind(peer, ret, false);
}

/* The next answer has this status; its body is JSON of RFC 9457 when it is an error. */
static inline void peer_expect(struct peer *peer, int status)
{
    struct answer answer;
    char wanted[32];
    peer_answer(peer, &answer);
    ck_assert_msg(answer.status == status, "%d expected, got %d %s", status, answer.status,
                  answer.body);
    if (status >= 400) {
        snprintf(wanted, sizeof(wanted), "\"status\":%d", status);
        ck_assert(answer_has(&answer, "Content-Type: application/problem+json"));
        ck_assert_ptr_nonnull(strstr(answer.body, wanted));
        ck_assert_ptr_nonnull(strstr(answer.body, "\"title\":\""));
    }
    answer_done(&answer);
}

/* The server closes in order, after all it had to say was taken. */
static inline void peer_expect_end(struct peer *peer)
{
    wait_until(peer->loop, peer_ended(peer));
    ck_assert_msg(!peer->reset, "reset");
    ck_assert_uint_eq(peer->in.len, 0);
}

#endif
