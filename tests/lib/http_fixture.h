/* A server whose handler answers by path, for the tests of the HTTP server and client. */
#ifndef HIE_TESTS_HTTP_FIXTURE_H
#define HIE_TESTS_HTTP_FIXTURE_H

#include "http_peer.h"
#include "link/http_server_internal.h"

enum { HELD_MAX = 4096 };

struct fixture {
    struct loop *loop;
    struct http_server *server;
    uint16_t port;
    unsigned requests, gone;
    struct http_request *held[HELD_MAX]; /* of /hold, not yet answered */
    unsigned held_count;
    size_t big_len; /* length of /big */
    bool answer_when_gone;
};

/*  /echo  the body back      /hold  kept for fixture_release    /big  big_len bytes
 *  /dump  method, path, query a, header X-A and body as text
 *  else   204 */
static inline void fixture_request(void *arg, struct http_request *request)
{
    struct fixture *fixture = arg;
    struct slice path = http_request_path(request), body = http_request_body(request);
    fixture->requests++;
    if (slice_is(path, "/echo")) {
        http_answer(request, 200, "application/octet-stream", body, NULL, 0);
    } else if (slice_is(path, "/hold")) {
        ck_assert_uint_lt(fixture->held_count, HELD_MAX);
        http_request_set_data(request, fixture);
        fixture->held[fixture->held_count++] = request;
    } else if (slice_is(path, "/big")) {
        char *bytes = malloc(fixture->big_len);
        memset(bytes, 'x', fixture->big_len);
        struct http_header header = {"X-Correlation-ID", SLICE_LITERAL("an-id")};
        http_answer(request, 200, "text/plain", slice_of(bytes, fixture->big_len), &header, 1);
        free(bytes);
    } else if (path.len >= 5 && memcmp(path.ptr, "/dump", 5) == 0) {
        struct buffer out;
        struct slice query = SLICE_LITERAL("-"), header = SLICE_LITERAL("-");
        buffer_init(&out, 1 << 20);
        http_request_query(request, "a", &query);
        http_request_header(request, "x-a", &header);
        buffer_printf(&out, "%d|%.*s|%.*s|%.*s|%.*s", (int)http_request_method(request),
                      (int)path.len, path.ptr, (int)query.len, query.ptr, (int)header.len,
                      header.ptr, (int)body.len, body.ptr ? body.ptr : "");
        http_answer(request, 200, "text/plain", buffer_slice(&out), NULL, 0);
        buffer_done(&out);
    } else {
        http_answer(request, 204, NULL, slice_of(NULL, 0), NULL, 0);
    }
}

static inline void fixture_gone(void *arg, struct http_request *request)
{
    struct fixture *fixture = arg;
    fixture->gone++;
    ck_assert_ptr_eq(http_request_data(request), fixture);
    if (!fixture->answer_when_gone)
        return;
    for (unsigned i = 0; i < fixture->held_count; i++) {
        if (fixture->held[i] == request)
            fixture->held[i] = fixture->held[--fixture->held_count];
    }
    http_answer_problem(request, 503, "given up", NULL, 0);
}

/* Answers the first request held. */
static inline void fixture_release(struct fixture *fixture)
{
    ck_assert_uint_gt(fixture->held_count, 0);
    struct http_request *request = fixture->held[0];
    fixture->held_count--;
    memmove(fixture->held, fixture->held + 1, fixture->held_count * sizeof(fixture->held[0]));
    http_answer(request, 200, "text/plain", SLICE_LITERAL("released"), NULL, 0);
}

static inline struct fixture *fixture_new(const struct http_server_options *wanted)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct http_server_options options = *wanted;
    struct err err;
    if (!options.listen)
        options.listen = "127.0.0.1:0";
    if (!options.max_body)
        options.max_body = 1 << 20;
    options.on_request = fixture_request;
    options.on_gone = fixture_gone;
    options.arg = fixture;
    fixture->loop = loop_new();
    ck_assert_msg(http_server_start(fixture->loop, &options, &fixture->server, &err) == 0, "%s",
                  err.text);
    fixture->port = http_server_port(fixture->server);
    return fixture;
}

/* Every byte that was charged must be given back once all peers are gone. */
static inline void fixture_free(struct fixture *fixture)
{
    while (fixture->held_count)
        fixture_release(fixture);
    if (fixture->server) {
        wait_until(fixture->loop, http_server_idle(fixture->server));
        ck_assert_uint_eq(fixture->server->memory, 0);
        ck_assert(TAILQ_EMPTY(&fixture->server->requests));
    }
    http_server_free(fixture->server);
    loop_free(fixture->loop);
    free(fixture);
}

#endif
