/* The HTTP server as a whole. Owns the listening socket, the connections by state and the requests;
 * waits for connections and for the earliest deadline of each state; when accepting fails for want
 * of descriptors or memory it pauses and tries again. */
#include "link/http_server_internal.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "link/address.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- states and deadlines ---- */

/* Milliseconds a connection may be in a state, 0 for no limit of ours. One time for each state, so
 * that a state's list is sorted by deadline as it grows. */
static int64_t state_ms(const struct http_server *server, unsigned state)
{
    switch ((enum http_conn_state)state) {
    case CONN_IDLE:
        return server->options.idle_timeout_ms;
    case CONN_READING:
        return server->options.read_timeout_ms;
    case CONN_WRITING:
        return server->write_ms;
    case CONN_LINGERING:
        return server->linger_ms;
    case CONN_HANDLING:
    case CONN_CLOSED:
        break;
    }
    return 0;
}

static void set_timer(struct http_server *server, int64_t at_ms, int64_t now_ms)
{
    server->timer_at_ms = at_ms;
    loop_timer_set(&server->deadlines, at_ms - now_ms);
}

static void leave_ready(struct http_conn *conn)
{
    if (!conn->is_ready)
        return;
    conn->is_ready = false;
    TAILQ_REMOVE(&conn->server->ready, conn, ready);
    conn->server->ready_count--;
}

void http_conn_enter(struct http_conn *conn, enum http_conn_state state)
{
    struct http_server *server = conn->server;
    TAILQ_REMOVE(&server->in[conn->state], conn, entry);
    state_move(&http_conn_states, &conn->state, state);
    TAILQ_INSERT_TAIL(&server->in[state], conn, entry);
    if (state == CONN_CLOSED) {
        leave_ready(conn);
        server->connections--;
        loop_task_set(&server->reap);
    }
    int64_t ms = state_ms(server, state);
    if (ms == 0)
        return;
    int64_t now = clock_mono_ms();
    conn->deadline_ms = now + ms;
    if (!loop_timer_pending(&server->deadlines) || conn->deadline_ms < server->timer_at_ms)
        set_timer(server, conn->deadline_ms, now);
}

static void on_deadlines(void *arg)
{
    struct http_server *server = arg;
    int64_t now = clock_mono_ms();
    int64_t next = INT64_MAX;
    for (unsigned state = 0; state < CONN_STATES; state++) {
        struct http_conn *conn;
        if (state_ms(server, state) == 0)
            continue;
        while ((conn = TAILQ_FIRST(&server->in[state])) && conn->deadline_ms <= now)
            http_conn_expired(conn);
        if (conn && conn->deadline_ms < next)
            next = conn->deadline_ms;
    }
    if (next < INT64_MAX && (!loop_timer_pending(&server->deadlines) || next < server->timer_at_ms))
        set_timer(server, next, now);
}

/* ---- work for later in the turn ---- */

static void on_ready(void *arg)
{
    struct http_server *server = arg;
    struct http_conn *conn;
    for (unsigned left = server->ready_count; left > 0 && (conn = TAILQ_FIRST(&server->ready));
         left--) {
        leave_ready(conn);
        http_conn_read(conn);
    }
}

static void on_reap(void *arg)
{
    struct http_server *server = arg;
    struct http_conn *conn;
    while ((conn = TAILQ_FIRST(&server->in[CONN_CLOSED]))) {
        TAILQ_REMOVE(&server->in[CONN_CLOSED], conn, entry);
        free(conn);
    }
}

/* ---- accepting ---- */

static void set_socket_options(int fd)
{
    int on = 1, idle_s = 60, interval_s = 30, probes = 4;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    /* Finds a peer that vanished while its request waits for an answer. */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

void http_server_adopt(struct http_server *server, int fd)
{
    unsigned most = server->options.max_connections;
    if (server->connections >= most + HTTP_REFUSED_AT_ONCE) {
        close(fd);
        if (server->options.on_refused)
            server->options.on_refused(server->options.arg, 503);
        return;
    }
    set_socket_options(fd);
    struct http_conn *conn = http_conn_new(server, fd);
    if (!conn)
        return;
    TAILQ_INSERT_TAIL(&server->in[CONN_IDLE], conn, entry);
    server->connections++;
    int64_t now = clock_mono_ms();
    conn->deadline_ms = now + server->options.idle_timeout_ms;
    if (!loop_timer_pending(&server->deadlines) || conn->deadline_ms < server->timer_at_ms)
        set_timer(server, conn->deadline_ms, now);
    if (server->connections > most)
        http_conn_refuse(conn, 503, "too many connections");
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer,
                      int peer_len, void *arg)
{
    (void)listener;
    (void)peer;
    (void)peer_len;
    http_server_adopt(arg, fd);
}

/* Out of descriptors or memory: the waiting connection stays readable, so listening on would spin.
 */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    struct http_server *server = arg;
    evconnlistener_disable(listener);
    loop_timer_set(&server->accept_again, HTTP_ACCEPT_PAUSE_MS);
}

static void on_accept_again(void *arg)
{
    struct http_server *server = arg;
    if (server->listener)
        evconnlistener_enable(server->listener);
}

/* ---- life ---- */

static void fill_defaults(struct http_server_options *options)
{
    if (!options->max_head)
        options->max_head = 16 * 1024;
    if (!options->memory_budget)
        options->memory_budget = (size_t)256 << 20;
    if (!options->max_connections)
        options->max_connections = 20000;
    if (!options->read_timeout_ms)
        options->read_timeout_ms = 30000;
    if (!options->idle_timeout_ms)
        options->idle_timeout_ms = 75000;
    options->listen = NULL;
}

static struct http_server *server_new(struct loop *loop, const struct http_server_options *options)
{
    struct http_server *server = mem_alloc(sizeof(*server));
    server->options = *options;
    fill_defaults(&server->options);
    server->loop = loop;
    server->write_ms = HTTP_WRITE_MS;
    server->linger_ms = HTTP_LINGER_MS;
    for (unsigned state = 0; state < CONN_STATES; state++)
        TAILQ_INIT(&server->in[state]);
    TAILQ_INIT(&server->ready);
    TAILQ_INIT(&server->requests);
    loop_timer_init(&server->deadlines, loop, on_deadlines, server);
    loop_timer_init(&server->accept_again, loop, on_accept_again, server);
    loop_task_init(&server->run_ready, loop, on_ready, server);
    loop_task_init(&server->reap, loop, on_reap, server);
    buffer_init(&server->scratch, (size_t)1 << 20);
    /* The library's own limit is one for the whole process and lower than an operator may set ours.
     */
    http_parser_set_max_header_size(INT32_MAX);
    return server;
}

/* NULL with errno when it cannot listen there. */
static struct evconnlistener *listen_at(struct http_server *server,
                                        const struct sockaddr_storage *address, socklen_t len)
{
    struct evconnlistener *listener =
        evconnlistener_new_bind(loop_base(server->loop), on_accept, server,
                                LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
                                HTTP_BACKLOG, (const struct sockaddr *)address, (int)len);
    if (listener)
        evconnlistener_set_error_cb(listener, on_accept_error);
    return listener;
}

static void stop_listening(struct http_server *server)
{
    if (server->listener)
        evconnlistener_free(server->listener);
    server->listener = NULL;
}

static void listens(struct http_server *server, struct evconnlistener *listener)
{
    stop_listening(server);
    server->listener = listener;
    server->port = address_port_of_socket(evconnlistener_get_fd(listener));
}

int http_server_start(struct loop *loop, const struct http_server_options *options,
                      struct http_server **ret_server, struct err *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    BUG_ON(!options->on_request);
    if (address_parse(options->listen, &address, &len, err))
        return -1;
    struct http_server *server = server_new(loop, options);
    struct evconnlistener *listener = listen_at(server, &address, len);
    if (!listener) {
        err_set(err, ERR_IO, "cannot listen on %.100s: %s", options->listen, strerror(errno));
        http_server_free(server);
        return -1;
    }
    listens(server, listener);
    *ret_server = server;
    return 0;
}

/* 127.0.0.1:8080 and 0.0.0.0:8080 cannot be listened on both: the one before is given up first, and taken again where the other cannot be
 * had. */
static struct evconnlistener *swap_for(struct http_server *server,
                                       const struct sockaddr_storage *address, socklen_t len)
{
    struct sockaddr_storage before;
    socklen_t before_len = sizeof(before);
    if (!server->listener || getsockname(evconnlistener_get_fd(server->listener),
                                         (struct sockaddr *)&before, &before_len))
        return NULL;
    stop_listening(server);
    struct evconnlistener *listener = listen_at(server, address, len);
    int code = errno;
    if (!listener)
        server->listener = listen_at(server, &before, before_len);
    errno = code;
    return listener;
}

int http_server_move(struct http_server *server, const char *listen, bool swap, struct err *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    if (address_parse(listen, &address, &len, err))
        return -1;
    struct evconnlistener *listener = listen_at(server, &address, len);
    /* The port is at the same place in both families. */
    if (!listener && swap && ntohs(((struct sockaddr_in *)&address)->sin_port) == server->port)
        listener = swap_for(server, &address, len);
    if (!listener)
        return err_set(err, ERR_IO, "cannot listen on %.100s: %s", listen, strerror(errno));
    listens(server, listener);
    return 0;
}

bool http_server_is_listening(const struct http_server *server)
{
    return server->listener;
}

void http_server_set_max_body(struct http_server *server, size_t max_body)
{
    server->options.max_body = max_body;
}

uint16_t http_server_port(const struct http_server *server)
{
    return server->port;
}

unsigned http_server_connections(const struct http_server *server)
{
    return server->connections;
}

void http_server_drain(struct http_server *server)
{
    struct http_conn *conn, *next;
    stop_listening(server);
    for (conn = TAILQ_FIRST(&server->in[CONN_IDLE]); conn; conn = next) {
        next = TAILQ_NEXT(conn, entry);
        if (!conn->is_ready) /* else its next request has already arrived */
            http_conn_close(conn);
    }
}

bool http_server_idle(const struct http_server *server)
{
    return server->connections == 0;
}

struct http_server *http_server_free(struct http_server *server)
{
    if (!server)
        return NULL;
    stop_listening(server);
    server->options.on_gone = NULL;
    for (unsigned state = 0; state < CONN_CLOSED; state++) {
        struct http_conn *conn;
        while ((conn = TAILQ_FIRST(&server->in[state])))
            http_conn_close(conn);
    }
    on_reap(server);
    struct http_request *request;
    while ((request = TAILQ_FIRST(&server->requests))) { /* still to be answered, to nobody */
        TAILQ_REMOVE(&server->requests, request, entry);
        request->server = NULL;
    }
    loop_timer_done(&server->deadlines);
    loop_timer_done(&server->accept_again);
    loop_task_done(&server->run_ready);
    loop_task_done(&server->reap);
    buffer_done(&server->scratch);
    free(server);
    return NULL;
}
