/* The HTTP server over real sockets: how requests come in and answers go out. */
#include "http_fixture.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>

static struct fixture *fixture;
static struct peer *peer;

static void start(const struct http_server_options *options)
{
    fixture = fixture_new(options);
    peer = peer_open(fixture->loop, fixture->port);
}

static void setup(void)
{
    start(&(struct http_server_options){0});
}

static void teardown(void)
{
    if (peer)
        peer_close(peer);
    fixture_free(fixture);
}

static void expect_body(int status, const char *body)
{
    struct answer answer;
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, status);
    ck_assert_str_eq(answer.body, body);
    answer_done(&answer);
}

START_TEST(keep_alive_by_default)
{
    for (int i = 0; i < 3; i++) {
        struct answer answer;
        peer_send(peer, "POST /dump/a%20b?a=%31 HTTP/1.1\r\nHost: x\r\nX-A: v\r\nContent-Length: "
                        "4\r\n\r\nbody");
        peer_answer(peer, &answer);
        ck_assert_int_eq(answer.status, 200);
        ck_assert_str_eq(answer.body, "1|/dump/a b|1|v|body");
        ck_assert(answer_has(&answer, "Content-Type: text/plain"));
        ck_assert(!answer_has(&answer, "Connection: close"));
        ck_assert_ptr_nonnull(strstr(answer.head, "\r\nDate: "));
        ck_assert_ptr_nonnull(strstr(answer.head, " GMT\r\n"));
        answer_done(&answer);
    }
    ck_assert_uint_eq(http_server_connections(fixture->server), 1);
}
END_TEST

START_TEST(close_when_asked)
{
    struct answer answer;
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    peer_answer(peer, &answer);
    ck_assert(answer_has(&answer, "Connection: close"));
    ck_assert(answer_has(&answer, "Content-Length: 0"));
    answer_done(&answer);
    peer_expect_end(peer);
}
END_TEST

START_TEST(http_1_0)
{
    struct answer answer;
    peer_send(peer, "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    peer_answer(peer, &answer);
    ck_assert(answer_has(&answer, "Connection: keep-alive"));
    answer_done(&answer);
    peer_send(peer, "GET /echo HTTP/1.0\r\n\r\n");
    peer_answer(peer, &answer);
    ck_assert(answer_has(&answer, "Connection: close"));
    answer_done(&answer);
    peer_expect_end(peer);
}
END_TEST

START_TEST(byte_by_byte)
{
    static const char bytes[] =
        "\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n";
    for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
        peer_send_bytes(peer, bytes + i, 1);
        ck_assert(i == sizeof(bytes) - 2 || fixture->requests == 0);
        poll(NULL, 0, 1);
    }
    expect_body(200, "abcde");
}
END_TEST

/* Answers come in the order of the requests, also when handlers take their time. */
START_TEST(pipelined)
{
    struct buffer bytes;
    buffer_init(&bytes, 1 << 20);
    for (int i = 0; i < 50; i++)
        buffer_printf(&bytes,
                      i % 10 == 5
                          ? "GET /hold?%d HTTP/1.1\r\nHost: x\r\n\r\n"
                          : "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d",
                      i);
    peer_send_bytes(peer, bytes.data, bytes.len);
    buffer_done(&bytes);
    for (int i = 0; i < 50; i++) {
        char wanted[16];
        snprintf(wanted, sizeof(wanted), "%02d", i);
        if (i % 10 == 5) {
            wait_until(fixture->loop, fixture->held_count == 1);
            for (int j = 0; j < 20; j++)
                turn(fixture->loop);
            ck_assert_uint_eq(fixture->requests, (unsigned)i + 1); /* what follows waits */
            fixture_release(fixture);
        }
        expect_body(200, i % 10 == 5 ? "released" : wanted);
    }
}
END_TEST

/* What is pipelined behind a request in hand stays unread, and bounded. */
START_TEST(pipelined_flood_is_bounded)
{
    char bytes[4096];
    size_t sent = 0;
    memset(bytes, '\n',
           sizeof(bytes)); /* blank lines before a request are skipped, once it is read */
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    int64_t until = clock_mono_ms() + 300;
    while (clock_mono_ms() < until && sent < (size_t)64 << 20) {
        ssize_t len = send(peer->fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
        sent += len > 0 ? (size_t)len : 0;
        turn(fixture->loop);
    }
    ck_assert_msg(sent < (size_t)64 << 20, "everything was read");
    struct http_conn *conn = TAILQ_FIRST(&fixture->server->in[CONN_HANDLING]);
    ck_assert_ptr_nonnull(conn);
    ck_assert_uint_lt(evbuffer_get_length(bufferevent_get_input(conn->bev)), 4 * HTTP_READ_AHEAD);
    ck_assert_uint_eq(fixture->gone, 0);
    fixture_release(fixture);
    expect_body(200, "released");
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(200, "");
}
END_TEST

START_TEST(head_has_no_body)
{
    struct answer answer;
    fixture->big_len = 1000;
    peer_send(peer, "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_answer_kind(peer, &answer, true);
    ck_assert_int_eq(answer.status, 200);
    ck_assert(answer_has(&answer, "Content-Length: 1000"));
    answer_done(&answer);
    expect_body(200, "");
}
END_TEST

START_TEST(no_content_has_no_length)
{
    struct answer answer;
    peer_send(peer, "GET /none HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, 204);
    ck_assert_ptr_null(strcasestr(answer.head, "Content-Length"));
    answer_done(&answer);
}
END_TEST

START_TEST(continue_before_the_body)
{
    peer_send(
        peer,
        "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
    wait_until(fixture->loop, peer_has(peer, "\r\n\r\n"));
    ck_assert(slice_is(buffer_slice(&peer->in), "HTTP/1.1 100 Continue\r\n\r\n"));
    buffer_clear(&peer->in);
    peer_send(peer, "ok");
    expect_body(200, "ok");
    /* none where no body follows */
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n");
    expect_body(200, "");
}
END_TEST

START_TEST(no_continue_for_an_unwanted_body)
{
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
                    "2000000\r\n\r\n");
    peer_expect(peer, 413);
    peer_expect_end(peer);
    ck_assert_uint_eq(fixture->requests, 0);
}
END_TEST

START_TEST(large_bodies_both_ways)
{
    size_t len = 900000;
    char *bytes = malloc(len), head[100];
    struct answer answer;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 >> 3);
    for (int i = 0; i < 3; i++) {
        snprintf(head, sizeof(head),
                 "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", len);
        peer_send(peer, head);
        peer_send_bytes(peer, bytes, len);
        peer_answer(peer, &answer);
        ck_assert_uint_eq(answer.body_len, len);
        ck_assert_int_eq(memcmp(answer.body, bytes, len), 0);
        answer_done(&answer);
    }
    free(bytes);
    ck_assert_uint_eq(fixture->server->memory, 0); /* nothing is kept for an idle connection */
}
END_TEST

/* Bad bytes are answered and closed, after whole requests before them, and nothing behind them is a request. */
START_TEST(smuggling)
{
    static const char *const attempts[] = {
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0b"
        "chunked\r\n\r\n0\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: x\r\nX: y\r\n folded: z\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
        "chunked\r\n\r\n1;\n\r\nx\r\n0\r\n\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
        "\x80\x81\x82\r\n\r\n",
    };
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1");
    expect_body(200, "1");
    peer_try_send(peer, attempts[_i], strlen(attempts[_i]));
    static const char hidden[] = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    peer_try_send(peer, hidden, sizeof(hidden) - 1);
    peer_expect(peer, 400);
    peer_expect_end(peer);
    ck_assert_uint_eq(fixture->requests, 1);
}
END_TEST

START_TEST(other_refusals)
{
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\nContent-Length: 1\r\n\r\nx", 417},
    };
    peer_send(peer, cases[_i].request);
    peer_expect(peer, cases[_i].status);
    peer_expect_end(peer);
}
END_TEST

START_TEST(an_error_to_head_has_no_body)
{
    struct answer answer;
    peer_send(peer, "HEAD / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n");
    peer_answer_kind(peer, &answer, true);
    ck_assert_int_eq(answer.status, 400);
    answer_done(&answer);
    peer_expect_end(peer);
}
END_TEST

START_TEST(header_values_cannot_split_an_answer)
{
    struct answer answer;
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    struct http_header header = {.name = "X-Test", .value = SLICE_LITERAL("a\r\nSet-Cookie: b\0c")};
    http_answer(fixture->held[--fixture->held_count], 200, "a/b\r\nX: y", SLICE_LITERAL("ok"),
                &header, 1);
    peer_answer(peer, &answer);
    ck_assert(answer_has(&answer, "X-Test: a  Set-Cookie: b c"));
    ck_assert(answer_has(&answer, "Content-Type: a/b  X: y"));
    ck_assert_str_eq(answer.body, "ok");
    answer_done(&answer);
}
END_TEST

START_TEST(problems)
{
    struct answer answer;
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    http_answer_problem(fixture->held[--fixture->held_count], 429, "the \"queue\" is full",
                        "some-id", 7);
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, 429);
    ck_assert(answer_has(&answer, "Retry-After: 7"));
    ck_assert(answer_has(&answer, "X-Correlation-ID: some-id"));
    ck_assert(answer_has(&answer, "Content-Type: application/problem+json"));
    ck_assert_str_eq(answer.body,
                     "{\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429,"
                     "\"detail\":\"the \\\"queue\\\" is full\",\"correlation_id\":\"some-id\"}");
    answer_done(&answer);
    peer_send(peer,
              "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"); /* an error of the handler does not close */
    expect_body(200, "");
}
END_TEST

START_TEST(ipv6)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool usable = probe >= 0 && bind(probe, (struct sockaddr *)&to, sizeof(to)) == 0;
    if (probe >= 0)
        close(probe);
    if (!usable) {
        fprintf(stderr, "no IPv6 on this machine: not tested\n");
        return;
    }
    struct fixture *other = fixture_new(&(struct http_server_options){.listen = "[::1]:0"});
    to.sin6_port = htons(other->port);
    struct peer *over = calloc(1, sizeof(*over));
    over->loop = other->loop;
    over->fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    buffer_init(&over->in, 10000);
    ck_assert_int_eq(connect(over->fd, (struct sockaddr *)&to, sizeof(to)), 0);
    fcntl(over->fd, F_SETFL, O_NONBLOCK);
    peer_send(over, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_expect(over, 204);
    peer_close(over);
    fixture_free(other);
}
END_TEST

START_TEST(bad_addresses)
{
    struct http_server_options options = {.max_body = 1, .on_request = fixture_request};
    struct http_server *server = NULL;
    struct err err;
    static const char *const bad[] = {"", "127.0.0.1", "127.0.0.1:99999", "nowhere:80", "[::1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        options.listen = bad[i];
        ck_assert_int_eq(http_server_start(fixture->loop, &options, &server, &err), -1);
        ck_assert_int_eq(err.code, ERR_CONFIG);
    }
    char taken[32];
    snprintf(taken, sizeof(taken), "127.0.0.1:%u", fixture->port);
    options.listen = taken;
    ck_assert_int_eq(http_server_start(fixture->loop, &options, &server, &err), -1);
    ck_assert_int_eq(err.code, ERR_IO);
    ck_assert_ptr_null(server);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http server");
    TCase *tests = tcase_create("requests and answers");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, keep_alive_by_default);
    tcase_add_test(tests, close_when_asked);
    tcase_add_test(tests, http_1_0);
    tcase_add_test(tests, byte_by_byte);
    tcase_add_test(tests, pipelined);
    tcase_add_test(tests, pipelined_flood_is_bounded);
    tcase_add_test(tests, head_has_no_body);
    tcase_add_test(tests, no_content_has_no_length);
    tcase_add_test(tests, continue_before_the_body);
    tcase_add_test(tests, no_continue_for_an_unwanted_body);
    tcase_add_test(tests, large_bodies_both_ways);
    tcase_add_loop_test(tests, smuggling, 0, 9);
    tcase_add_loop_test(tests, other_refusals, 0, 3);
    tcase_add_test(tests, an_error_to_head_has_no_body);
    tcase_add_test(tests, header_values_cannot_split_an_answer);
    tcase_add_test(tests, problems);
    tcase_add_test(tests, ipv6);
    tcase_add_test(tests, bad_addresses);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
