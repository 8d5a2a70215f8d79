/* One connection. Owns its bufferevent and the request being read; waits for bytes, for the
 * handler, for the peer to take its answer; fails by closing, with an answer first where one can be
 * given.
 *
 *                 ┌────────────────── answer has left, keep-alive ──────────────────┐
 *                 ▼                                                                 │
 *   new ──▶ IDLE ──first byte──▶ READING ──whole──▶ HANDLING ──http_answer──▶ WRITING ──answer has
 * left──▶ LINGERING │                     │                                          ▲ │ shutdown,
 * then drop what comes  │ └─ too many ──────────┴── refused: 4xx, 5xx ─────────────────────┘ │ │
 *   any ──▶ CLOSED: the peer is gone, a deadline has passed, or all is done
 * ◀────┴─────────────────────────────────┘
 *
 * Deadlines: IDLE idle_timeout_ms, READING read_timeout_ms from the first byte, WRITING some
 * progress every HTTP_WRITE_MS, LINGERING HTTP_LINGER_MS. HANDLING has the handler's own.
 *
 * While a request is in hand, reading goes on up to HTTP_READ_AHEAD bytes, so that a hang-up is
 * seen; a peer that sent more than that first is noticed when its answer is written. An end of the
 * peer's sending may be a half close, so on_gone is told and the answer is still sent. */
#include "link/http_server_internal.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const words[CONN_STATES] = {
    [CONN_IDLE] = "idle",       [CONN_READING] = "reading",     [CONN_HANDLING] = "handling",
    [CONN_WRITING] = "writing", [CONN_LINGERING] = "lingering", [CONN_CLOSED] = "closed",
};

static const uint32_t moves[CONN_STATES] = {
    [CONN_IDLE] = STATE_BIT(CONN_READING) | STATE_BIT(CONN_WRITING) | STATE_BIT(CONN_CLOSED),
    [CONN_READING] = STATE_BIT(CONN_HANDLING) | STATE_BIT(CONN_WRITING) | STATE_BIT(CONN_CLOSED),
    [CONN_HANDLING] = STATE_BIT(CONN_WRITING) | STATE_BIT(CONN_CLOSED),
    [CONN_WRITING] = STATE_BIT(CONN_IDLE) | STATE_BIT(CONN_LINGERING) | STATE_BIT(CONN_CLOSED) |
                     STATE_BIT(CONN_WRITING), /* anew, after progress */
    [CONN_LINGERING] = STATE_BIT(CONN_CLOSED),
    [CONN_CLOSED] = 0,
};

const struct state_table http_conn_states = {
    .machine = "http connection", .words = words, .moves = moves, .count = CONN_STATES};

static struct evbuffer *input_of(struct http_conn *conn)
{
    return bufferevent_get_input(conn->bev);
}

static size_t unsent(struct http_conn *conn)
{
    return evbuffer_get_length(bufferevent_get_output(conn->bev));
}

/* ---- closing ---- */

static void charge_output(struct http_conn *conn, size_t len)
{
    conn->server->memory += len - conn->charged;
    conn->charged = len;
}

static void tell_gone(struct http_server *server, struct http_request *request)
{
    if (request->told_gone || !server->options.on_gone)
        return;
    request->told_gone = true;
    server->options.on_gone(server->options.arg, request);
}

/* The connection's memory stays until the next turn, for callers further up. */
void http_conn_close(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    struct http_request *request = conn->request;
    bool handling = conn->state == CONN_HANDLING;
    if (conn->state == CONN_CLOSED)
        return;
    http_conn_enter(conn, CONN_CLOSED);
    charge_output(conn, 0);
    bufferevent_free(conn->bev);
    conn->bev = NULL;
    conn->request = NULL;
    if (!request)
        return;
    request->conn = NULL;
    if (handling)
        tell_gone(server, request);
    else
        http_request_free(request);
}

static void linger_drop(struct http_conn *conn)
{
    size_t len = evbuffer_get_length(input_of(conn));
    evbuffer_drain(input_of(conn), len);
    conn->unsent += len;
    if (conn->unsent > HTTP_LINGER_BYTES)
        http_conn_close(conn);
}

/* Closing at once would make the kernel answer late bytes with a reset, which can take the answer
 * from the peer. */
static void linger(struct http_conn *conn)
{
    if (conn->peer_ended || shutdown(conn->fd, SHUT_WR)) {
        http_conn_close(conn);
        return;
    }
    http_conn_enter(conn, CONN_LINGERING);
    conn->unsent = 0;
    linger_drop(conn);
}

/* ---- writing ---- */

/* What the socket takes goes out in one call, without a turn of the loop; the rest follows through
 * the bufferevent. */
static bool write_out(struct http_conn *conn, struct slice head, struct slice body)
{
    struct iovec parts[2] = {{.iov_base = (void *)head.ptr, .iov_len = head.len},
                             {.iov_base = (void *)body.ptr, .iov_len = body.len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = body.len ? 2 : 1};
    size_t sent = 0;
    if (unsent(conn) == 0) {
        ssize_t done = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return false;
        sent = done > 0 ? (size_t)done : 0;
    }
    size_t from_head = sent < head.len ? sent : head.len;
    size_t from_body = sent - from_head;
    if (from_head < head.len &&
        bufferevent_write(conn->bev, head.ptr + from_head, head.len - from_head))
        return false;
    return from_body == body.len ||
           bufferevent_write(conn->bev, body.ptr + from_body, body.len - from_body) == 0;
}

static void read_on(struct http_conn *conn)
{
    if (!conn->peer_ended && !(bufferevent_get_enabled(conn->bev) & EV_READ))
        bufferevent_enable(conn->bev, EV_READ);
}

/* The answer has left. */
static void written(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    charge_output(conn, 0);
    read_on(conn);
    if (!conn->keep_alive) {
        linger(conn);
        return;
    }
    http_conn_enter(conn, CONN_IDLE);
    if (evbuffer_get_length(input_of(conn)) > 0) {
        if (!conn->is_ready) {
            conn->is_ready = true;
            TAILQ_INSERT_TAIL(&server->ready, conn, ready);
            server->ready_count++;
        }
        loop_task_set(&server->run_ready);
    } else if (conn->peer_ended) {
        http_conn_close(conn);
    }
}

/* Moves to WRITING and on. The request, if any, is freed: `head` and `body` may lie in it until
 * then. */
static void send_answer(struct http_conn *conn, struct slice head, struct slice body,
                        bool keep_alive)
{
    struct http_request *request = conn->request;
    conn->keep_alive = keep_alive;
    http_conn_enter(conn, CONN_WRITING);
    bool ok = write_out(conn, head, body);
    conn->request = NULL;
    if (request)
        http_request_free(request);
    if (!ok) {
        http_conn_close(conn);
        return;
    }
    conn->unsent = unsent(conn);
    charge_output(conn, conn->unsent);
    if (conn->unsent == 0)
        written(conn);
}

void http_conn_answer(struct http_conn *conn, struct slice head, struct slice body, bool keep_alive)
{
    BUG_ON(conn->state != CONN_HANDLING);
    send_answer(conn, head, body, keep_alive);
}

void http_conn_refuse(struct http_conn *conn, int status, const char *detail)
{
    struct http_request *request = conn->request;
    bool head_only = request && request->head_done && request->parser.method == HTTP_HEAD;
    struct buffer body;
    buffer_init(&body, HTTP_PROBLEM_MAX);
    http_problem_body(&body, status, detail, NULL);
    struct http_header retry = {.name = "Retry-After", .value = SLICE_LITERAL("1")};
    struct http_answer_head head = {
        .status = status,
        .content_type = "application/problem+json",
        .body_len = body.len,
        .headers = &retry,
        .header_count = status == 503,
        .http_1_0 = request && request->head_done && request->parser.http_minor == 0,
    };
    if (conn->server->options.on_refused)
        conn->server->options.on_refused(conn->server->options.arg, status);
    struct slice composed = http_answer_compose(conn->server, &head);
    send_answer(conn, composed, head_only ? slice_of(NULL, 0) : buffer_slice(&body), false);
    buffer_done(&body);
}

/* ---- reading ---- */

/* Length of the blank lines that some clients send between requests. */
static size_t blank_len(const struct evbuffer_iovec *piece)
{
    const char *bytes = piece->iov_base;
    size_t len = 0;
    while (len < piece->iov_len && (bytes[len] == '\r' || bytes[len] == '\n'))
        len++;
    return len;
}

static void send_continue(struct http_conn *conn)
{
    if (!write_out(conn, SLICE_LITERAL("HTTP/1.1 100 Continue\r\n\r\n"), slice_of(NULL, 0)))
        http_conn_close(conn);
}

/* Takes one contiguous piece of the input; true when a request was handed out. */
static bool read_piece(struct http_conn *conn)
{
    struct evbuffer *input = input_of(conn);
    struct evbuffer_iovec piece;
    size_t used = 0;
    if (evbuffer_peek(input, -1, NULL, &piece, 1) < 1)
        return false;
    if (conn->state == CONN_IDLE && (used = blank_len(&piece)) > 0) {
        evbuffer_drain(input, used);
        return false;
    }
    if (conn->state == CONN_IDLE) {
        conn->request = http_request_new(conn);
        http_conn_enter(conn, CONN_READING);
    }
    struct http_request *request = conn->request;
    enum http_parse_step step = http_parse_feed(request, piece.iov_base, piece.iov_len, &used);
    evbuffer_drain(input, used);
    switch (step) {
    case PARSE_MORE:
        break;
    case PARSE_HEAD:
        if (request->expects_continue)
            send_continue(conn);
        break;
    case PARSE_REFUSED:
        http_conn_refuse(conn, request->refused, request->refused_why);
        break;
    case PARSE_WHOLE:
        http_conn_enter(conn, CONN_HANDLING);
        conn->server->options.on_request(conn->server->options.arg, request);
        return true;
    }
    return false;
}

void http_conn_read(struct http_conn *conn)
{
    unsigned handed_out = 0;
    while ((conn->state == CONN_IDLE || conn->state == CONN_READING) &&
           evbuffer_get_length(input_of(conn)) > 0) {
        if (handed_out == HTTP_REQUESTS_A_TURN)
            return; /* `written` has put it on the ready list */
        handed_out += read_piece(conn);
    }
    if (conn->state == CONN_LINGERING)
        linger_drop(conn);
    else if (conn->peer_ended && (conn->state == CONN_IDLE || conn->state == CONN_READING))
        http_conn_close(conn); /* a request cut off is none */
}

/* ---- events ---- */

/* Bounded here and not by a high watermark: libevent 2.1 calls back again and again while input stands at that. */
static void on_readable(struct bufferevent *bev, void *arg)
{
    struct http_conn *conn = arg;
    http_conn_read(conn);
    if ((conn->state == CONN_HANDLING || conn->state == CONN_WRITING) &&
        evbuffer_get_length(input_of(conn)) >= HTTP_READ_AHEAD)
        bufferevent_disable(bev, EV_READ);
}

static void on_drained(struct bufferevent *bev, void *arg)
{
    struct http_conn *conn = arg;
    (void)bev;
    if (conn->state == CONN_WRITING && unsent(conn) == 0)
        written(conn);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct http_conn *conn = arg;
    (void)bev;
    if (what != (BEV_EVENT_EOF | BEV_EVENT_READING) || conn->state == CONN_LINGERING) {
        http_conn_close(conn);
        return;
    }
    conn->peer_ended = true;
    if (conn->state == CONN_HANDLING)
        tell_gone(conn->server, conn->request);
    else
        http_conn_read(conn);
}

void http_conn_expired(struct http_conn *conn)
{
    size_t left;
    switch ((enum http_conn_state)conn->state) {
    case CONN_READING:
        http_conn_refuse(conn, 408, "the request did not arrive in time");
        return;
    case CONN_WRITING:
        left = unsent(conn);
        if (left + HTTP_WRITE_LEAST <= conn->unsent) {
            conn->unsent = left;
            charge_output(conn, left);
            http_conn_enter(conn, CONN_WRITING);
            return;
        }
        break;
    case CONN_IDLE:
    case CONN_LINGERING:
    case CONN_HANDLING:
    case CONN_CLOSED:
        break;
    }
    http_conn_close(conn);
}

struct http_conn *http_conn_new(struct http_server *server, int fd)
{
    struct bufferevent *bev =
        bufferevent_socket_new(loop_base(server->loop), fd, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) {
        close(fd);
        return NULL;
    }
    struct http_conn *conn = mem_alloc(sizeof(*conn));
    conn->server = server;
    conn->bev = bev;
    conn->fd = fd;
    conn->state = CONN_IDLE;
    bufferevent_setcb(bev, on_readable, on_drained, on_event, conn);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
    return conn;
}
