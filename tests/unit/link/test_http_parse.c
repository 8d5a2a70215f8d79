/* Bytes to requests, without a socket: each case whole, byte by byte, and cut in two at every place. */
#include "link/http_server_internal.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#define HOST "Host: a\r\n"
#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

static struct http_server server;
static struct http_conn conn;

static void setup(void)
{
    server = (struct http_server){
        .options = {.max_body = 64, .max_head = 256, .memory_budget = 1 << 20}};
    TAILQ_INIT(&server.requests);
    conn = (struct http_conn){.server = &server};
}

static const struct parse_case {
    const char *bytes;
    int refused;      /* 0: a good request */
    const char *body; /* of a good one */
    size_t left;      /* bytes behind it that stay */
} cases[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", 0, "", 0},
    {"GET / HTTP/1.0\r\n\r\n", 0, "", 0},
    {"GET http://a/b HTTP/1.1\r\n" HOST "\r\n", 0, "", 0},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 0, "", 0},
    {"GET / HTTP/1.1\r\n" HOST "\r\nGET ", 0, "", 4},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", 0, "hello", 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhelloGET", 0, "hello", 3},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\n\n\n\r", 0, "\n\n\r", 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 0, "", 0},
    {CHUNKED "0\r\n\r\n", 0, "", 0},
    {CHUNKED "5\r\nhello\r\n0\r\n\r\n", 0, "hello", 0},
    {CHUNKED "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGE", 0, "hello!", 2},
    {CHUNKED "2;name=\"x\"\r\n\n\r\r\n0\r\nTrailer: x\r\n\r\n", 0, "\n\r", 0},
    /* an offer to upgrade, as some clients send with every first request, is not taken up */
    {"POST / HTTP/1.1\r\n" HOST
     "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
     0, "ok", 0},
    /* the request line */
    {"GET / HXXX/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505, NULL, 0},
    {"GET / HTTP/1.7\r\n" HOST "\r\n", 505, NULL, 0},
    {"GET / HTTP/1.x\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET /\r\n\r\n", 400, NULL, 0},
    {"BREW / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"get / HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"\x16\x03\x01\x02\x00\x01", 400, NULL, 0},
    {"GET /%00 HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET /%4 HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET /?a=%zz HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"GET * HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    {"CONNECT a:443 HTTP/1.1\r\n" HOST "\r\n", 400, NULL, 0},
    /* header fields */
    {"GET / HTTP/1.1\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "A b: c\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n " HOST "\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "A: b\x7f\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\n" HOST "\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "A: b\rX: c\r\n\r\n", 400, NULL, 0},
    {"GET / HTTP/1.1\r\n" HOST "\rX", 400, NULL, 0},
    /* two ways to read where the body ends */
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
     400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1 1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length : 1\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\nx", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b"
     "chunked\r\n\r\n0\r\n\r\n",
     400, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501, NULL, 0},
    {"POST / HTTP/1.1\r\n" HOST
     "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     501, NULL, 0},
    {"POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, NULL, 0},
    /* chunks */
    {CHUNKED "g\r\n", 400, NULL, 0},
    {CHUNKED "\r\n", 400, NULL, 0},
    {CHUNKED "-1\r\n", 400, NULL, 0},
    {CHUNKED "0x1\r\n", 400, NULL, 0},
    {CHUNKED "1\nx\r\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "1;a\nb\r\nx\r\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "1;a\rb\r\nx\r\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "1\r\nxy\r\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "1\r\nx\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "1\r\nx0\r\n0\r\n\r\n", 400, NULL, 0},
    {CHUNKED "0\r\nA: b\n\r\n", 400, NULL, 0},
    {CHUNKED "ffffffffffffff\r\n", 413, NULL, 0},
    {CHUNKED "fffffffffffffffff\r\n", 400, NULL, 0},
    /* sizes: max_body is 64 */
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 65\r\n\r\n", 413, NULL, 0},
    {CHUNKED "41\r\n", 413, NULL, 0},
    {CHUNKED "1\r\nx\r\n40\r\n", 413, NULL, 0},
    /* expectations */
    {"POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417, NULL, 0},
    {"POST / HTTP/1.0\r\n" HOST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 0, "x", 0},
};

/* Feeds pieces that end at the given places; what a step leaves is offered again with the next piece. */
static enum http_parse_step feed(struct http_request *request, const char *bytes,
                                 const size_t *ends, size_t count, size_t *ret_used)
{
    enum http_parse_step step = PARSE_MORE;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        while (at < ends[i]) {
            size_t used;
            char *exact = malloc(ends[i] - at); /* so that a read past the end is seen */
            memcpy(exact, bytes + at, ends[i] - at);
            step = http_parse_feed(request, exact, ends[i] - at, &used);
            free(exact);
            at += used;
            *ret_used = at;
            if (step == PARSE_WHOLE || step == PARSE_REFUSED)
                return step;
            ck_assert(used > 0 || step == PARSE_HEAD);
        }
    }
    return step;
}

static void check_case(const struct parse_case *wanted, const size_t *ends, size_t count)
{
    struct http_request *request = http_request_new(&conn);
    size_t used = 0, len = ends[count - 1];
    enum http_parse_step step = feed(request, wanted->bytes, ends, count, &used);
    ck_assert_msg(request->refused == wanted->refused, "%s: %d, cut at %zu of %zu", wanted->bytes,
                  request->refused, ends[0], len);
    if (wanted->refused) {
        ck_assert_int_eq(step, PARSE_REFUSED);
    } else {
        ck_assert_msg(step == PARSE_WHOLE, "not whole: %s", wanted->bytes);
        ck_assert(slice_is(http_request_body(request), wanted->body));
        ck_assert_uint_eq(used, len - wanted->left);
    }
    http_request_free(request);
    ck_assert_uint_eq(server.memory, 0);
}

START_TEST(every_case_at_every_cut)
{
    const struct parse_case *wanted = &cases[_i];
    size_t len = strlen(wanted->bytes), ends[1024];
    if (wanted->bytes[0] == '\x16')
        len = 6;
    check_case(wanted, (size_t[]){len}, 1);
    for (size_t cut = 1; cut < len; cut++)
        check_case(wanted, (size_t[]){cut, len}, 2);
    for (size_t i = 0; i < len; i++)
        ends[i] = i + 1;
    check_case(wanted, ends, len);
}
END_TEST

START_TEST(nul_anywhere_in_the_head)
{
    static const char good[] = "GET /a?b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    for (size_t at = 0; at < sizeof(good) - 1; at++) {
        char bytes[sizeof(good)];
        memcpy(bytes, good, sizeof(good));
        bytes[at] = '\0';
        struct http_request *request = http_request_new(&conn);
        size_t used = 0;
        enum http_parse_step step = feed(request, bytes, (size_t[]){sizeof(good) - 1}, 1, &used);
        ck_assert_int_eq(step, PARSE_REFUSED);
        ck_assert_int_eq(request->refused, 400);
        http_request_free(request);
    }
}
END_TEST

START_TEST(head_limit_is_exact)
{
    /* A head of exactly max_head bytes is fine, one more is not. */
    for (size_t extra = 0; extra < 2; extra++) {
        char bytes[300];
        const char *start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        size_t len = strlen(start), padded = server.options.max_head - 4 + extra;
        memcpy(bytes, start, len);
        memset(bytes + len, 'x', padded - len);
        memcpy(bytes + padded, "\r\n\r\n", 4);
        for (size_t cut = 1; cut <= padded + 4; cut++) {
            struct http_request *request = http_request_new(&conn);
            size_t used = 0;
            enum http_parse_step step = feed(request, bytes, (size_t[]){cut, padded + 4}, 2, &used);
            if (extra == 0)
                ck_assert_int_eq(step, PARSE_WHOLE);
            ck_assert_int_eq(request->refused, extra ? 431 : 0);
            http_request_free(request);
        }
    }
}
END_TEST

START_TEST(too_many_fields)
{
    server.options.max_head = 16 * 1024;
    struct buffer bytes;
    buffer_init(&bytes, 1 << 16);
    buffer_append_text(&bytes, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < HTTP_MAX_FIELDS; i++)
        buffer_append_text(&bytes, "A: b\r\n");
    struct http_request *request = http_request_new(&conn);
    size_t used;
    ck_assert_int_eq(http_parse_feed(request, bytes.data, bytes.len, &used), PARSE_REFUSED);
    ck_assert_int_eq(request->refused, 431);
    http_request_free(request);
    buffer_done(&bytes);
}
END_TEST

/* Chunk extensions and trailers are no way around the limits. */
START_TEST(framing_is_bounded)
{
    static const char *const parts[] = {CHUNKED "1;", CHUNKED "0\r\nT: "};
    struct http_request *request = http_request_new(&conn);
    size_t used, fed = 0;
    const char *start = parts[_i];
    size_t len = strlen(start);
    enum http_parse_step step = PARSE_MORE;
    while (len && step <= PARSE_HEAD) {
        step = http_parse_feed(request, start, len, &used);
        start += used;
        len -= used;
    }
    while (step == PARSE_MORE && fed < 10000) {
        step = http_parse_feed(request, "xxxxxxxxxx", 10, &used);
        fed += 10;
    }
    ck_assert_int_eq(step, PARSE_REFUSED);
    ck_assert_int_eq(request->refused, 400);
    ck_assert_uint_lt(fed, 2 * server.options.max_head);
    http_request_free(request);
}
END_TEST

/* What a Content-Length claims is not allocated before it arrives. */
START_TEST(memory_follows_the_bytes)
{
    static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n";
    char piece[1000] = {0};
    server.options.max_body = 16 << 20;
    server.options.memory_budget = 64 << 20;
    struct http_request *request = http_request_new(&conn);
    size_t used, at = 0;
    while (at < sizeof(head) - 1) {
        http_parse_feed(request, head + at, sizeof(head) - 1 - at, &used);
        at += used;
    }
    ck_assert_uint_eq(request->body.capacity, 0);
    http_parse_feed(request, piece, sizeof(piece), &used);
    ck_assert_uint_le(request->body.capacity, HTTP_BODY_STEP);
    for (int i = 1; i < 10000; i++) {
        enum http_parse_step step = http_parse_feed(request, piece, sizeof(piece), &used);
        ck_assert_uint_eq(used, sizeof(piece));
        ck_assert_int_eq(step, i == 9999 ? PARSE_WHOLE : PARSE_MORE);
        ck_assert(request->body.capacity <= HTTP_BODY_STEP ||
                  request->body.capacity <= 2 * request->body.len);
    }
    ck_assert_uint_eq(request->body.capacity, 10000000);
    ck_assert_uint_ge(server.memory, 10000000);
    http_request_free(request);
    ck_assert_uint_eq(server.memory, 0);
}
END_TEST

START_TEST(over_the_memory_budget)
{
    server.options.max_body = 1 << 20;
    server.options.memory_budget = 64 << 10;
    static const char *const heads[] = {
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", CHUNKED "fffff\r\n"};
    char piece[1000] = {0};
    struct http_request *request = http_request_new(&conn);
    enum http_parse_step step = PARSE_MORE;
    size_t used, at = 0, fed = 0;
    while (at < strlen(heads[_i]) && step <= PARSE_HEAD) {
        step = http_parse_feed(request, heads[_i] + at, strlen(heads[_i]) - at, &used);
        at += used;
    }
    while (step == PARSE_MORE && fed < 200000) {
        step = http_parse_feed(request, piece, sizeof(piece), &used);
        fed += used;
    }
    ck_assert_int_eq(step, PARSE_REFUSED);
    ck_assert_int_eq(request->refused, 503);
    ck_assert_uint_le(server.memory, server.options.memory_budget);
    http_request_free(request);
}
END_TEST

static const struct target_case {
    const char *target, *path, *query_a; /* NULL: there is no parameter `a` */
} targets[] = {
    {"/", "/", NULL},
    {"/a%2fb%20c", "/a/b c", NULL},
    {"/x?a=1", "/x", "1"},
    {"/x?b=2&a=1&a=3", "/x", "1"},
    {"/x?a", "/x", ""},
    {"/x?a=", "/x", ""},
    {"/x?aa=1&A=2", "/x", NULL},
    {"/x?a=%41%3D+b%2B", "/x", "A= b+"},
    {"/x?%61=1", "/x", "1"},
    {"/x?&&a=1", "/x", "1"},
    {"/x?a=1=2", "/x", "1=2"},
    {"/x?a=?", "/x", "?"},
    {"/x#y?a=1", "/x", NULL},
    {"http://h:1/x?a=1", "/x", "1"},
    {"HTTPS://h/x?a=1", "/x", "1"},
};

START_TEST(targets_are_split_and_decoded)
{
    char bytes[200];
    const struct target_case *wanted = &targets[_i];
    snprintf(bytes, sizeof(bytes),
             "GET %s HTTP/1.1\r\nHost: a\r\nX-One:  1 \r\nx-one: 2\r\nEmpty:\r\n\r\n",
             wanted->target);
    struct http_request *request = http_request_new(&conn);
    struct slice value = SLICE_LITERAL("untouched");
    size_t used;
    ck_assert_int_eq(feed(request, bytes, (size_t[]){strlen(bytes)}, 1, &used), PARSE_WHOLE);
    ck_assert_msg(slice_is(http_request_path(request), wanted->path), "%s", wanted->target);
    if (http_request_query(request, "a", &value))
        ck_assert_msg(wanted->query_a && slice_is(value, wanted->query_a), "%s", wanted->target);
    else
        ck_assert(!wanted->query_a && slice_is(value, "untouched"));
    ck_assert(http_request_header(request, "X-ONE", &value));
    ck_assert(slice_is(value, "1"));
    ck_assert(http_request_header(request, "empty", &value));
    ck_assert(slice_is(value, ""));
    ck_assert(!http_request_header(request, "x-on", &value));
    http_request_free(request);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http parse");
    TCase *tests = tcase_create("parse");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, every_case_at_every_cut, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_test(tests, nul_anywhere_in_the_head);
    tcase_add_test(tests, head_limit_is_exact);
    tcase_add_test(tests, too_many_fields);
    tcase_add_loop_test(tests, framing_is_bounded, 0, 2);
    tcase_add_test(tests, memory_follows_the_bytes);
    tcase_add_loop_test(tests, over_the_memory_budget, 0, 2);
    tcase_add_loop_test(tests, targets_are_split_and_decoded, 0,
                        sizeof(targets) / sizeof(targets[0]));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
