/* What the files of the HTTP server share; nobody else includes it but its tests.
 *
 *   http_server.c          listening, limits on connections, deadlines, drain
 *   http_server_conn.c     one connection's state machine
 *   http_server_parse.c    bytes to a request: strictness and limits
 *   http_server_request.c  what a handler asks of a request
 *   http_server_answer.c   answers
 */
#ifndef HIE_LINK_HTTP_SERVER_INTERNAL_H
#define HIE_LINK_HTTP_SERVER_INTERNAL_H

#include "base/arena.h"
#include "link/http_server.h"

/* The parser's header has an enum of the same tag as ours. */
#define http_method http_parser_method
#include <http_parser.h>
#undef http_method
#include <sys/queue.h>

struct bufferevent;
struct evconnlistener;

enum {
    HTTP_MAX_FIELDS = 100,       /* header fields of a request; more is answered 431 */
    HTTP_READ_AHEAD = 16 * 1024, /* that wait behind a request in hand; one read more at most */
    HTTP_BODY_STEP = 64 * 1024,  /* most that a Content-Length alone makes us allocate */
    HTTP_BACKLOG = 1024,         /* of the listening socket */
    HTTP_REFUSED_AT_ONCE =
        64, /* connections above the maximum that are told so, the rest is just closed */
    HTTP_WRITE_MS =
        30000, /* a peer must take HTTP_WRITE_LEAST bytes of its answer in each such time */
    HTTP_WRITE_LEAST = 32 * 1024,
    HTTP_LINGER_MS = 5000,        /* after the last answer, for the peer to read it and close */
    HTTP_LINGER_BYTES = 16 << 20, /* read and dropped meanwhile */
    HTTP_ACCEPT_PAUSE_MS = 100,   /* after accept failed for want of descriptors or memory */
    HTTP_REQUESTS_A_TURN =
        32, /* pipelined requests of one connection before the others have their turn */
};

/* See http_server_conn.c for the diagram. */
enum http_conn_state {
    CONN_IDLE,
    CONN_READING,
    CONN_HANDLING,
    CONN_WRITING,
    CONN_LINGERING,
    CONN_CLOSED,
};
enum { CONN_STATES = CONN_CLOSED + 1 };

TAILQ_HEAD(http_conns, http_conn);
TAILQ_HEAD(http_requests, http_request);

struct http_conn {
    TAILQ_ENTRY(http_conn) entry; /* in server->in[state] */
    TAILQ_ENTRY(http_conn) ready; /* in server->ready while is_ready */
    struct http_server *server;
    struct bufferevent *bev;      /* NULL once closed */
    struct http_request *request; /* while READING and HANDLING */
    int64_t deadline_ms;          /* monotonic; of the state, where it has one */
    size_t unsent;  /* WRITING: output when the deadline was set; LINGERING: bytes dropped */
    size_t charged; /* output counted in server->memory */
    int fd;
    unsigned state;
    bool is_ready;
    bool keep_alive; /* as the last answer said */
    bool peer_ended; /* the peer will send no more; it may still read */
};

struct http_server {
    struct http_server_options options; /* with defaults filled in; .listen is not kept */
    struct loop *loop;
    struct evconnlistener *listener;   /* NULL once draining */
    struct http_conns in[CONN_STATES]; /* by state, oldest first; CLOSED ones are freed by `reap` */
    struct http_conns ready;           /* IDLE with input of further requests */
    unsigned ready_count;
    struct http_requests
        requests;         /* all, from the first byte to the answer, also of peers that are gone */
    unsigned connections; /* not CLOSED */
    size_t memory;        /* bytes of requests and unsent answers */
    int64_t write_ms, linger_ms; /* HTTP_WRITE_MS, HTTP_LINGER_MS; shorter in tests */
    int64_t timer_at_ms;         /* when `deadlines` fires, if pending */
    struct loop_timer deadlines, accept_again;
    struct loop_task run_ready, reap;
    struct buffer scratch; /* an answer's head while it is written */
    int64_t date_s;        /* of `date` */
    char date[32];
    uint16_t port;
};

/* Where the last framing byte left us: the parser library may be built without its strict checks
 * (Debian's is), so line ends and control bytes are checked here. */
enum http_framing { FRAMING_LINE, FRAMING_LINE_START, FRAMING_CR, FRAMING_AFTER_CHUNK };

struct http_span {
    uint32_t at, len; /* in request->head */
};

struct http_field {
    struct http_span name, value;
};

struct http_request {
    TAILQ_ENTRY(http_request) entry;
    struct http_server *server; /* NULL once it is freed */
    struct http_conn *conn;     /* NULL once the peer is gone */
    void *data;
    struct buffer head; /* target, names and values, one after the other */
    struct buffer body;
    struct arena arena; /* decoded query values */
    struct http_span target, path, query;
    size_t charged;        /* counted in server->memory */
    size_t head_len;       /* bytes of the head on the wire, so far */
    size_t framing_len;    /* bytes after the head that are not body: chunk sizes, trailers */
    const char *unchecked; /* of the bytes being parsed: from here on framing is not checked yet */
    uint64_t line_tail;    /* the last bytes of the request line */
    struct http_parser parser;
    enum http_framing framing;
    enum http_method method;
    enum { PART_TARGET, PART_NAME, PART_VALUE } part; /* what the parser appended last */
    int refused;             /* status of the answer that ends a bad request, else 0 */
    const char *refused_why; /* its detail, a literal */
    unsigned field_count;
    bool in_request_line, head_done, whole;
    bool chunked, expects_continue, keep_alive;
    bool told_gone; /* on_gone was called */
    struct http_field fields[HTTP_MAX_FIELDS];
};

/* ---- http_server.c ---- */
/* Moves a connection to a state and its list, and sets the state's deadline. */
void http_conn_enter(struct http_conn *conn, enum http_conn_state state);
/* Takes over a connected, non-blocking descriptor, as accept does. */
void http_server_adopt(struct http_server *server, int fd);

/* ---- http_server_conn.c ---- */
extern const struct state_table http_conn_states;
/* NULL, with the descriptor closed, when there is no memory. */
struct http_conn *http_conn_new(struct http_server *server, int fd);
/* Goes on with the input, as far as the state allows. */
void http_conn_read(struct http_conn *conn);
/* The state's deadline has passed. */
void http_conn_expired(struct http_conn *conn);
/* Ends a request that is not whole, or a connection that is too much, with an error and closes. */
void http_conn_refuse(struct http_conn *conn, int status, const char *detail);
/* Writes an answer's head and body and goes on; the request is freed. */
void http_conn_answer(struct http_conn *conn, struct slice head, struct slice body,
                      bool keep_alive);
void http_conn_close(struct http_conn *conn);

/* ---- http_server_parse.c ---- */
enum http_parse_step {
    PARSE_MORE,    /* needs further bytes */
    PARSE_HEAD,    /* the head is whole and good; go on with what is left */
    PARSE_WHOLE,   /* the request is whole */
    PARSE_REFUSED, /* see request->refused */
};
struct http_request *http_request_new(struct http_conn *conn);
void http_request_free(struct http_request *request);
/* Parses the next bytes; *ret_used of them were taken. Not to be called again after WHOLE or
 * REFUSED. */
enum http_parse_step http_parse_feed(struct http_request *request, const char *data, size_t len,
                                     size_t *ret_used);
/* PARSE_REFUSED */
enum http_parse_step http_parse_refuse(struct http_request *request, int status, const char *why);

/* ---- http_server_request.c ---- */
/* Splits and decodes the target; false when it is malformed. */
bool http_request_set_target(struct http_request *request);
struct slice http_request_span(const struct http_request *request, struct http_span span);

/* ---- http_server_answer.c ---- */
/* An error as RFC 9457 has it, into `ret_body` (at least HTTP_PROBLEM_MAX). */
enum { HTTP_PROBLEM_MAX = 8192 };
void http_problem_body(struct buffer *ret_body, int status, const char *detail,
                       const char *correlation_id);
struct http_answer_head {
    int status;
    const char *content_type; /* may be NULL */
    size_t body_len;
    const struct http_header *headers;
    size_t header_count;
    bool keep_alive, http_1_0;
};
/* The head in server->scratch, until the next one. */
struct slice http_answer_compose(struct http_server *server, const struct http_answer_head *head);

#endif
