/* An HTTP/1.1 server on the event loop: connections, parsing (http_parser), limits, keep-alive, answers. It knows
 * nothing of messages.
 *
 *   reading ──request whole──▶ handling ──http_answer──▶ writing ──▶ reading …
 *      │ bad, too large, slow       │ peer hung up: on_gone
 *      ▼ answered and closed        ▼
 *
 * One request of a connection is handled at a time; what is pipelined behind it waits unread. */
#ifndef HIE_LINK_HTTP_SERVER_H
#define HIE_LINK_HTTP_SERVER_H

#include "base/bytes.h"
#include "base/error.h"
#include "link/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct http_server;
struct http_request;

enum http_method { HTTP_METHOD_GET, HTTP_METHOD_POST, HTTP_METHOD_PUT, HTTP_METHOD_DELETE, HTTP_METHOD_HEAD, HTTP_METHOD_OTHER };

struct http_server_options {
    const char *listen;      /* "127.0.0.1:8080", "[::1]:0"; port 0 takes a free one */
    size_t max_body;         /* bytes; more is answered 413 */
    size_t max_head;         /* request line and headers; 0: 16 KiB; more is answered 431 */
    size_t memory_budget;    /* bytes of all unfinished requests and unsent answers together; past it new bodies, and answers with a
                              * large one, become 503; 0: 256 MiB */
    unsigned max_connections;/* 0: 20000; above it a connection is answered 503 and closed */
    int64_t read_timeout_ms; /* a whole request must arrive within it once its first byte did; 0: 30000; answered 408 */
    int64_t idle_timeout_ms; /* keep-alive without a request; 0: 75000 */
    void (*on_request)(void *arg, struct http_request *request); /* the request is whole; it must be answered once */
    /* The peer went away before the answer. The request is still to be answered, once (here already, too): the answer is
     * dropped, or sent when the peer only ended its sending, which cannot be told apart at first. Work that serves
     * nobody but this peer may be given up. May be NULL. */
    void (*on_gone)(void *arg, struct http_request *request);
    /* The server itself refused a request or a connection with this status, one call each. May be NULL. */
    void (*on_refused)(void *arg, int status);
    void *arg;
};

/* 0, or -1 with ERR_CONFIG for a bad address, ERR_IO when it cannot listen there. */
int http_server_start(struct loop *loop, const struct http_server_options *options,
                      struct http_server **ret_server, struct err *err);
/* Listens at another address from now on; open connections stay. The one before is given up once the new one is there. With `swap`, where
 * both are one port of this machine, it is given up first, and taken again if the new one is not to be had: connections that nobody has
 * accepted yet are reset. 0, or -1 as at the start: it listens where it did, or, if that was taken meanwhile, nowhere. */
int http_server_move(struct http_server *server, const char *listen, bool swap, struct err *err);
bool http_server_is_listening(const struct http_server *server);
/* Of requests that begin from now on. */
void http_server_set_max_body(struct http_server *server, size_t max_body);
/* The port it listens on. */
uint16_t http_server_port(const struct http_server *server);
unsigned http_server_connections(const struct http_server *server);
/* Closes the listening socket and idle connections; the others close after their answer ("Connection: close"). */
void http_server_drain(struct http_server *server);
/* True when no connection is left. */
bool http_server_idle(const struct http_server *server);
/* Not from inside its callbacks. Requests in hand stay valid until they are answered, to nobody. */
struct http_server *http_server_free(struct http_server *server);

/* ---- a request: valid until it is answered ---- */
enum http_method http_request_method(const struct http_request *request);
/* The path without query, percent-decoded; never holds a NUL. */
struct slice http_request_path(const struct http_request *request);
/* A query parameter, percent-decoded; false when absent. */
bool http_request_query(const struct http_request *request, const char *name, struct slice *ret_value);
/* A header's value, trimmed, name compared without case; false when absent. Repeats: the first. */
bool http_request_header(const struct http_request *request, const char *name, struct slice *ret_value);
/* All of its repeats, one a call: *at is 0 first, false when there are no more. */
bool http_request_next_header(const struct http_request *request, const char *name, unsigned *at,
                              struct slice *ret_value);
struct slice http_request_body(const struct http_request *request);
/* The caller's own pointer beside the request. */
void http_request_set_data(struct http_request *request, void *data);
void *http_request_data(const struct http_request *request);

/* ---- answers ---- */
struct http_header {
    const char *name;
    struct slice value; /* control bytes in it are replaced by blanks */
};
/* Copies what it is given; call exactly once for each request, also from inside on_request. A body of more than 8 KiB for which the
 * memory budget has no room is not sent: the answer is 503 with Retry-After, and with the X-Correlation-ID of `headers`. */
void http_answer(struct http_request *request, int status, const char *content_type, struct slice body,
                 const struct http_header *headers, size_t header_count);
/* RFC 9457: {"type":"about:blank","title":…,"status":…,"detail":…} with application/problem+json. `correlation_id`
 * may be NULL, else it is X-Correlation-ID as well; retry_after_s 0 leaves the header out. */
void http_answer_problem(struct http_request *request, int status, const char *detail,
                         const char *correlation_id, int retry_after_s);
/* The same with one header more, where it is not NULL. */
void http_answer_problem_with(struct http_request *request, int status, const char *detail,
                              const char *correlation_id, int retry_after_s,
                              const struct http_header *more);

#endif
