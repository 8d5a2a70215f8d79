#include "link/stream_server.h"

#include "base/bug.h"
#include "base/mem.h"
#include "link/address.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>

#define ACCEPT_PAUSE_MS 100 /* after accept failed for want of descriptors */
#define READ_CHUNK (64u * 1024u)
#define LINGER_MS 2000
#define LINGER_BYTES (64u << 20)

struct stream {
    LIST_ENTRY(stream) link;
    struct stream_server *server;
    struct bufferevent *bev;
    void *data;
    struct loop_task gone; /* frees in a later turn, outside of libevent's callbacks */
    struct loop_timer linger;
    size_t lingered; /* bytes dropped */
    bool closing;    /* stream_close was called */
    bool lingering;  /* everything has left, our half is shut */
    bool ended;      /* the peer shut its half */
};

struct stream_server {
    struct stream_server_options options;
    struct loop *loop;
    struct evconnlistener *listener;
    struct loop_timer accept_again;
    uint16_t port;
    unsigned connections;
    LIST_HEAD(, stream) streams;
};

static void free_stream(void *arg)
{
    struct stream *stream = arg;
    struct stream_server *server = stream->server;
    LIST_REMOVE(stream, link);
    server->connections--;
    bufferevent_free(stream->bev);
    loop_task_done(&stream->gone);
    loop_timer_done(&stream->linger);
    if (stream->data)
        server->options.on_gone(stream->data);
    free(stream);
}

static void end_stream(void *arg)
{
    struct stream *stream = arg;
    bufferevent_disable(stream->bev, EV_READ | EV_WRITE);
    loop_task_set(&stream->gone);
}

static void start_linger(struct stream *stream)
{
    if (stream->ended) {
        end_stream(stream);
        return;
    }
    stream->lingering = true;
    shutdown(bufferevent_getfd(stream->bev), SHUT_WR);
    loop_timer_set(&stream->linger, LINGER_MS);
    bufferevent_enable(stream->bev, EV_READ);
}

static void on_readable(struct bufferevent *bev, void *arg)
{
    struct stream *stream = arg;
    struct evbuffer *input = bufferevent_get_input(bev);
    size_t have;
    while ((have = evbuffer_get_contiguous_space(input)) > 0 && !stream->closing) {
        unsigned char *bytes = evbuffer_pullup(input, (ssize_t)have);
        stream->server->options.on_bytes(stream->data, slice_of(bytes, have));
        evbuffer_drain(input, have);
    }
    if (stream->closing) {
        stream->lingered += evbuffer_get_length(input);
        evbuffer_drain(input, evbuffer_get_length(input));
        if (stream->lingered > LINGER_BYTES)
            end_stream(stream);
    }
}

static void on_written(struct bufferevent *bev, void *arg)
{
    struct stream *stream = arg;
    if (evbuffer_get_length(bufferevent_get_output(bev)) != 0 || stream->lingering)
        return;
    if (stream->closing)
        start_linger(stream);
    else
        stream->server->options.on_drained(stream->data);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct stream *stream = arg;
    (void)bev;
    if ((what & BEV_EVENT_EOF) && !stream->closing && !stream->ended) {
        stream->ended = true; /* half closed: answers may still go out */
        stream->server->options.on_end(stream->data);
        return;
    }
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        end_stream(stream);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer,
                      int len, void *arg)
{
    struct stream_server *server = arg;
    (void)listener;
    (void)peer;
    (void)len;
    struct bufferevent *bev = NULL;
    if (server->connections < server->options.max_connections)
        bev = bufferevent_socket_new(loop_base(server->loop), fd, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) {
        evutil_closesocket(fd);
        if (server->options.on_refused)
            server->options.on_refused(server->options.arg);
        return;
    }
    int on = 1, idle = 60, interval = 30, probes = 4; /* under the 180 s that firewalls tolerate */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));

    struct stream *stream = mem_alloc(sizeof(*stream));
    stream->server = server;
    stream->bev = bev;
    loop_task_init(&stream->gone, server->loop, free_stream, stream);
    loop_timer_init(&stream->linger, server->loop, end_stream, stream);
    LIST_INSERT_HEAD(&server->streams, stream, link);
    server->connections++;
    int64_t ms = server->options.write_timeout_ms;
    struct timeval timeout = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    bufferevent_set_timeouts(bev, NULL, &timeout);
    bufferevent_setcb(bev, on_readable, on_written, on_event, stream);
    bufferevent_setwatermark(bev, EV_READ, 0, READ_CHUNK);
    server->options.on_open(server->options.arg, stream);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static void on_accept_again(void *arg)
{
    struct stream_server *server = arg;
    if (server->listener)
        evconnlistener_enable(server->listener);
}

static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    struct stream_server *server = arg;
    evconnlistener_disable(
        listener); /* out of descriptors: do not spin on the waiting connection */
    loop_timer_set(&server->accept_again, ACCEPT_PAUSE_MS);
}

int stream_server_start(struct loop *loop, const struct stream_server_options *options,
                        struct stream_server **ret_server, struct err *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    if (address_parse(options->listen, &address, &len, err))
        return -1;
    struct stream_server *server = mem_alloc(sizeof(*server));
    server->options = *options;
    server->loop = loop;
    LIST_INIT(&server->streams);
    loop_timer_init(&server->accept_again, loop, on_accept_again, server);
    server->listener =
        evconnlistener_new_bind(loop_base(loop), on_accept, server,
                                LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC,
                                1024, (struct sockaddr *)&address, (int)len);
    if (!server->listener) {
        int code = errno;
        stream_server_free(server);
        return err_set(err, ERR_IO, "cannot listen on %s: %s", options->listen, strerror(code));
    }
    evconnlistener_set_error_cb(server->listener, on_accept_error);
    server->port = address_port_of_socket(evconnlistener_get_fd(server->listener));
    *ret_server = server;
    return 0;
}

uint16_t stream_server_port(const struct stream_server *server)
{
    return server->port;
}

unsigned stream_server_connections(const struct stream_server *server)
{
    return server->connections;
}

void stream_server_close(struct stream_server *server)
{
    if (server->listener)
        evconnlistener_free(server->listener);
    server->listener = NULL;
}

struct stream_server *stream_server_free(struct stream_server *server)
{
    if (!server)
        return NULL;
    stream_server_close(server);
    while (!LIST_EMPTY(&server->streams))
        free_stream(LIST_FIRST(&server->streams));
    loop_timer_done(&server->accept_again);
    free(server);
    return NULL;
}

void stream_set_data(struct stream *stream, void *data)
{
    stream->data = data;
}

void stream_write(struct stream *stream, struct slice bytes)
{
    int failed = bufferevent_write(stream->bev, bytes.ptr, bytes.len);
    BUG_ON(failed);
}

size_t stream_unsent(const struct stream *stream)
{
    return evbuffer_get_length(bufferevent_get_output(stream->bev));
}

void stream_read_pause(struct stream *stream, bool paused)
{
    if (stream->closing || stream->ended)
        return;
    if (paused)
        bufferevent_disable(stream->bev, EV_READ);
    else
        bufferevent_enable(stream->bev, EV_READ);
}

void stream_close(struct stream *stream)
{
    if (stream->closing)
        return;
    stream->closing = true;
    if (stream_unsent(stream) == 0)
        start_linger(stream);
}
