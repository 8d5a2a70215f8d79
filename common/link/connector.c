/* Owns a look-up and the socket of one attempt; waits for both; fails when no address is left to try. */
#include "link/connector.h"

#include "base/mem.h"

#include <errno.h>
#include <event2/dns.h>
#include <event2/event.h>
#include <event2/util.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A look-up outlives a cancelled connector by a loop turn. */
struct lookup {
    struct connector *connector; /* NULL: cancelled */
};

struct connector {
    struct loop *loop;
    char *host, *port;
    void (*done)(void *arg, int fd, const struct err *err);
    void *arg;
    struct loop_task step; /* begin, later try_next: never from inside a call or the resolver */
    struct evdns_base *dns;
    struct evdns_getaddrinfo_request *request;
    struct lookup *lookup;
    struct evutil_addrinfo *addresses, *next;
    int fd;
    struct event *writable;
    struct err err; /* of the latest attempt */
};

static void free_connector(struct connector *c)
{
    if (c->lookup) {
        c->lookup->connector = NULL;
        evdns_getaddrinfo_cancel(c->request);
    }
    if (c->dns)
        evdns_base_free(c->dns, 1);
    if (c->addresses)
        evutil_freeaddrinfo(c->addresses);
    if (c->writable)
        event_free(c->writable);
    if (c->fd >= 0)
        close(c->fd);
    loop_task_done(&c->step);
    free(c->host);
    free(c->port);
    free(c);
}

static void finish(struct connector *c)
{
    void (*done)(void *, int, const struct err *) = c->done;
    void *arg = c->arg;
    int fd = c->fd;
    const struct err err = c->err;
    c->fd = -1;
    free_connector(c);
    done(arg, fd, &err);
}

static void set_options(int fd)
{
    const int on = 1, idle_s = 60, interval_s = 10, probes = 3;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static void on_connected(evutil_socket_t fd, short what, void *arg);

/* Begins with the next address that lets us; ends when there is none. */
static void try_next(void *arg)
{
    struct connector *c = arg;
    while (c->next) {
        const struct evutil_addrinfo *address = c->next;
        c->next = address->ai_next;
        c->fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
        if (c->fd >= 0) {
            set_options(c->fd);
            if (connect(c->fd, address->ai_addr, (socklen_t)address->ai_addrlen) == 0 ||
                errno == EINPROGRESS) {
                c->writable = event_new(loop_base(c->loop), c->fd, EV_WRITE, on_connected, c);
                if (c->writable && event_add(c->writable, NULL) == 0)
                    return;
            }
        }
        err_set(&c->err, ERR_UNAVAILABLE, "connect: %s", strerror(errno));
        if (c->writable)
            event_free(c->writable);
        c->writable = NULL;
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
    }
    finish(c);
}

static void on_connected(evutil_socket_t fd, short what, void *arg)
{
    struct connector *c = arg;
    int error = 0;
    socklen_t len = sizeof(error);
    (void)what;
    event_free(c->writable);
    c->writable = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0) {
        err_clear(&c->err);
        finish(c);
        return;
    }
    err_set(&c->err, ERR_UNAVAILABLE, "connect: %s", strerror(error ? error : errno));
    close(c->fd);
    c->fd = -1;
    try_next(c);
}

static void on_resolved(int result, struct evutil_addrinfo *addresses, void *arg)
{
    struct lookup *lookup = arg;
    struct connector *c = lookup->connector;
    free(lookup);
    if (!c) {
        if (addresses)
            evutil_freeaddrinfo(addresses);
        return;
    }
    c->lookup = NULL;
    c->request = NULL;
    c->addresses = c->next = addresses;
    err_set(&c->err, ERR_UNAVAILABLE, "name: %s",
            result ? evutil_gai_strerror(result) : "no address");
    c->step.fire = try_next;
    loop_task_set(&c->step);
}

static void begin(void *arg)
{
    struct connector *c = arg;
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_NUMERICHOST};
    if (evutil_getaddrinfo(c->host, c->port, &hints, &c->addresses) == 0) {
        c->next = c->addresses;
        try_next(c);
        return;
    }
    c->addresses = NULL;
    hints.ai_flags = EVUTIL_AI_ADDRCONFIG;
    c->dns = evdns_base_new(loop_base(c->loop), 0);
    if (!c->dns) {
        err_set(&c->err, ERR_UNAVAILABLE, "name: no resolver");
        finish(c);
        return;
    }
    /* Read anew for each connector, so a changed resolv.conf counts; without one /etc/hosts is left. */
    (void)evdns_base_resolv_conf_parse(c->dns, DNS_OPTIONS_ALL, "/etc/resolv.conf");
    struct lookup *lookup = mem_alloc(sizeof(*lookup));
    lookup->connector = c;
    c->lookup = lookup;
    struct evdns_getaddrinfo_request *request =
        evdns_getaddrinfo(c->dns, c->host, c->port, &hints, on_resolved, lookup);
    if (request)
        c->request = request; /* else it has called back already */
}

struct connector *connector_start(struct loop *loop, const char *host, const char *port,
                                  void (*done)(void *, int, const struct err *), void *arg)
{
    struct connector *c = mem_alloc(sizeof(*c));
    c->loop = loop;
    c->host = mem_strdup(host);
    c->port = mem_strdup(port);
    c->done = done;
    c->arg = arg;
    c->fd = -1;
    loop_task_init(&c->step, loop, begin, c);
    loop_task_set(&c->step);
    return c;
}

struct connector *connector_cancel(struct connector *connector)
{
    if (connector)
        free_connector(connector);
    return NULL;
}
