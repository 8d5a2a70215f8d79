/* The HTTP client against our own server and against raw ones that misbehave. */
#include "http_fixture.h"
#include "link/http_client.h"

static struct fixture *fixture;
static struct http_client *client;

static void setup(void)
{
    fixture = fixture_new(&(struct http_server_options){.max_body = 4 << 20});
    client = http_client_new(fixture->loop);
}

static void teardown(void)
{
    client = http_client_free(client);
    fixture_free(fixture);
}

/* One call and what came of it. */
struct outcome {
    unsigned count;
    struct err err;
    int status;
    char content_type[64];
    char body[1024]; /* its first bytes */
    size_t body_len;
    struct http_call *cancel; /* by the callback */
    bool free_client;
};

static void on_done(void *arg, const struct http_call_result *result)
{
    struct outcome *outcome = arg;
    outcome->count++;
    outcome->err = result->err;
    outcome->status = result->status;
    outcome->body_len = result->body.len;
    snprintf(outcome->content_type, sizeof(outcome->content_type), "%.*s",
             (int)result->content_type.len,
             result->content_type.ptr ? result->content_type.ptr : "");
    snprintf(outcome->body, sizeof(outcome->body), "%.*s",
             (int)(result->body.len < 1000 ? result->body.len : 1000),
             result->body.ptr ? result->body.ptr : "");
    if (outcome->cancel)
        http_call_cancel(outcome->cancel);
    if (outcome->free_client)
        client = http_client_free(client);
}

static const char *url_of(uint16_t port, const char *path)
{
    static char url[256];
    snprintf(url, sizeof(url), "http://127.0.0.1:%u%s", port, path);
    return url;
}

static struct http_call *start(const struct http_call_request *wanted, struct outcome *outcome)
{
    struct http_call_request request = *wanted;
    if (!request.method)
        request.method = request.body.len ? "POST" : "GET";
    if (!request.timeout_ms)
        request.timeout_ms = 10000;
    if (!request.max_answer)
        request.max_answer = 1 << 20;
    *outcome = (struct outcome){0};
    struct http_call *call = http_client_start(client, &request, on_done, outcome);
    ck_assert_uint_eq(outcome->count, 0); /* never from inside */
    return call;
}

static void run(const struct http_call_request *wanted, struct outcome *outcome)
{
    start(wanted, outcome);
    wait_until(fixture->loop, outcome->count > 0);
    for (int i = 0; i < 5; i++)
        turn(fixture->loop);
    ck_assert_uint_eq(outcome->count, 1);
}

/* ---- a raw server: one listening socket, a script for each connection ---- */

static int raw_listen(uint16_t *ret_port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    ck_assert_int_eq(listen(fd, 16), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static struct peer *raw_accept(int listener)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    peer->loop = fixture->loop;
    buffer_init(&peer->in, 1 << 20);
    wait_until(fixture->loop, (peer->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    return peer;
}

static void raw_expect(struct peer *peer, const char *text)
{
    wait_until(fixture->loop, peer_has(peer, text));
    buffer_clear(&peer->in);
}

/* ---- good answers ---- */

START_TEST(methods_headers_and_bodies)
{
    struct outcome outcome;
    const char *headers[] = {"X-A: hello", NULL};
    const char *url = url_of(fixture->port, "/dump?a=b%20c");
    static const struct {
        const char *method, *body, *dump;
    } cases[] = {
        {"GET", "", "0|/dump|b c|hello|"},           {"POST", "text", "1|/dump|b c|hello|text"},
        {"POST", "", "1|/dump|b c|hello|"},          {"PUT", "text", "2|/dump|b c|hello|text"},
        {"PUT", "", "2|/dump|b c|hello|"},           {"DELETE", "", "3|/dump|b c|hello|"},
        {"PATCH", "text", "5|/dump|b c|hello|text"}, {"HEAD", "", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        run(&(struct http_call_request){.method = cases[i].method,
                                        .url = url,
                                        .headers = headers,
                                        .body = slice_text(cases[i].body)},
            &outcome);
        ck_assert_msg(outcome.err.code == ERR_NONE, "%s: %s", cases[i].method, outcome.err.text);
        ck_assert_int_eq(outcome.status, 200);
        ck_assert_str_eq(outcome.content_type, "text/plain");
        ck_assert_str_eq(outcome.body, cases[i].dump);
    }
}
END_TEST

/* What goes out is what was asked for: no Expect, no content type of curl's own. */
START_TEST(bytes_of_a_request)
{
    uint16_t port;
    int listener = raw_listen(&port);
    struct outcome outcome;
    start(&(struct http_call_request){.url = url_of(port, "/x"), .body = SLICE_LITERAL("a\0b")},
          &outcome);
    struct peer *peer = raw_accept(listener);
    wait_until(fixture->loop, peer_has(peer, "\r\n\r\na"));
    ck_assert_ptr_nonnull(find_bytes(&peer->in, "POST /x HTTP/1.1\r\n"));
    ck_assert_ptr_nonnull(find_bytes(&peer->in, "\r\nContent-Length: 3\r\n"));
    ck_assert_ptr_null(find_bytes(&peer->in, "Expect"));
    ck_assert_ptr_null(find_bytes(&peer->in, "Content-Type"));
    ck_assert_int_eq(memcmp(peer->in.data + peer->in.len - 3, "a\0b", 3), 0);
    peer_send(peer,
              "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_int_eq(outcome.status, 302); /* not followed */
    peer_close(peer);
    close(listener);
}
END_TEST

START_TEST(statuses_are_answers)
{
    struct outcome outcome;
    run(&(struct http_call_request){.url = url_of(fixture->port, "/dump"),
                                    .method = "GET",
                                    .headers = (const char *const[]){"Expect: x", NULL}},
        &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_NONE);
    ck_assert_int_eq(outcome.status, 417);
    ck_assert_str_eq(outcome.content_type, "application/problem+json");
}
END_TEST

START_TEST(large_bodies)
{
    struct outcome outcome;
    size_t len = 3 << 20;
    char *bytes = malloc(len);
    memset(bytes, 'x', len);
    run(&(struct http_call_request){.url = url_of(fixture->port, "/echo"),
                                    .body = slice_of(bytes, len),
                                    .max_answer = len},
        &outcome);
    ck_assert_msg(outcome.err.code == ERR_NONE, "%s", outcome.err.text);
    ck_assert_uint_eq(outcome.body_len, len);
    free(bytes);
}
END_TEST

START_TEST(proxies_of_the_environment_are_ignored)
{
    struct outcome outcome;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    run(&(struct http_call_request){.url = url_of(fixture->port, "/echo")}, &outcome);
    ck_assert_msg(outcome.err.code == ERR_NONE, "%s", outcome.err.text);
}
END_TEST

/* ---- connections ---- */

START_TEST(connections_are_kept)
{
    struct outcome outcome;
    for (int i = 0; i < 1000; i++) {
        run(&(struct http_call_request){.url = url_of(fixture->port, "/echo"),
                                        .body = SLICE_LITERAL("x")},
            &outcome);
        ck_assert_int_eq(outcome.err.code, ERR_NONE);
        ck_assert_uint_eq(http_server_connections(fixture->server), 1);
    }
    ck_assert_uint_eq(fixture->requests, 1000);
}
END_TEST

START_TEST(connections_are_bounded)
{
    enum { MANY = 300 };
    struct outcome *outcomes = calloc(MANY, sizeof(*outcomes));
    for (int i = 0; i < MANY; i++)
        start(&(struct http_call_request){.url = url_of(fixture->port, "/hold")}, &outcomes[i]);
    wait_until(fixture->loop, fixture->held_count == 64);
    for (int i = 0; i < 50; i++)
        turn(fixture->loop);
    ck_assert_uint_eq(http_server_connections(fixture->server), 64);
    for (int i = 0; i < MANY; i++) {
        wait_until(fixture->loop, fixture->held_count > 0);
        fixture_release(fixture);
    }
    for (int i = 0; i < MANY; i++) {
        wait_until(fixture->loop, outcomes[i].count == 1);
        ck_assert_msg(outcomes[i].err.code == ERR_NONE, "%s", outcomes[i].err.text);
        ck_assert_uint_le(http_server_connections(fixture->server), 64);
    }
    free(outcomes);
}
END_TEST

/* ---- failures ---- */

START_TEST(nobody_listens)
{
    uint16_t port;
    struct outcome outcome;
    char url[200];
    close(raw_listen(&port));
    snprintf(url, sizeof(url), "http://user:secret@127.0.0.1:%u/path?patient=4711", port);
    run(&(struct http_call_request){.url = url, .body = SLICE_LITERAL("content")}, &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(outcome.err.text, "127.0.0.1"));
    static const char *const private[] = {"user", "secret", "path", "patient", "4711", "content"};
    for (size_t i = 0; i < sizeof(private) / sizeof(private[0]); i++)
        ck_assert_ptr_null(strstr(outcome.err.text, private[i]));
}
END_TEST

START_TEST(no_answer_in_time)
{
    struct outcome outcome;
    run(&(struct http_call_request){.url = url_of(fixture->port, "/hold"),
                                    .body = SLICE_LITERAL("x"),
                                    .timeout_ms = 200},
        &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_TIMEOUT);
    wait_until(fixture->loop, fixture->gone == 1);
}
END_TEST

/* The backlog is full: the connection is never made, so nothing was sent. */
START_TEST(no_connection_in_time)
{
    uint16_t port;
    struct outcome outcome;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = raw_listen(&port), fds[8];
    ck_assert_int_eq(listen(listener, 0), 0);
    to.sin_port = htons(port);
    for (int i = 0; i < 8; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        ck_assert(connect(fds[i], (struct sockaddr *)&to, sizeof(to)) == 0 || errno == EINPROGRESS);
    }
    run(&(struct http_call_request){.url = url_of(port, "/"),
                                    .body = SLICE_LITERAL("x"),
                                    .timeout_ms = 300},
        &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_UNAVAILABLE);
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    close(listener);
}
END_TEST

START_TEST(cut_off_after_sending)
{
    static const char *const answers[] = {
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "this is not HTTP\r\n\r\n",
    };
    uint16_t port;
    int listener = raw_listen(&port);
    struct outcome outcome;
    start(&(struct http_call_request){.url = url_of(port, "/"), .body = SLICE_LITERAL("content")},
          &outcome);
    struct peer *peer = raw_accept(listener);
    raw_expect(peer, "content");
    peer_send(peer, answers[_i]);
    peer_close(peer);
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_msg(outcome.err.code == ERR_OUTCOME_UNKNOWN, "%s", outcome.err.text);
    ck_assert_uint_eq(outcome.body_len, 0);
    close(listener);
}
END_TEST

/* A kept connection dies under a request: the request may have been acted on, so it is not sent a second time. */
START_TEST(not_sent_twice)
{
    static const char *const bodies[] = {"content", ""};
    uint16_t port;
    int listener = raw_listen(&port);
    struct outcome outcome;
    const struct http_call_request first = {.url = url_of(port, "/"), .method = "GET"};
    start(&first, &outcome);
    struct peer *peer = raw_accept(listener);
    raw_expect(peer, "\r\n\r\n");
    peer_send(peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_int_eq(outcome.err.code, ERR_NONE);

    start(&(struct http_call_request){.url = url_of(port, "/"),
                                      .method = "POST",
                                      .body = slice_text(bodies[_i])},
          &outcome);
    struct peer *second =
        _i == 0 ? peer : raw_accept(listener); /* without a body: a connection of its own */
    raw_expect(second, _i == 0 ? "content" : "\r\n\r\n");
    peer_close(second);
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_msg(outcome.err.code == ERR_OUTCOME_UNKNOWN, "%s", outcome.err.text);
    for (int i = 0; i < 50; i++)
        turn(fixture->loop);
    int again = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (again >= 0) { /* a connection may have been made, nothing may have come over it */
        char byte;
        ck_assert_int_le(recv(again, &byte, 1, 0), 0);
        close(again);
    }
    if (_i == 1)
        peer_close(peer);
    close(listener);
}
END_TEST

/* Nobody listens any more when libcurl wants to connect anew: the first sending still counts. */
START_TEST(receiver_dies_under_a_request)
{
    uint16_t port;
    int listener = raw_listen(&port);
    struct outcome outcome;
    start(&(struct http_call_request){.url = url_of(port, "/")}, &outcome);
    struct peer *peer = raw_accept(listener);
    raw_expect(peer, "\r\n\r\n");
    peer_send(peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wait_until(fixture->loop, outcome.count == 1);
    start(&(struct http_call_request){.url = url_of(port, "/"),
                                      .method = _i ? "POST" : "GET",
                                      .body = slice_text(_i ? "content" : "")},
          &outcome);
    raw_expect(peer, _i ? "content" : "\r\n\r\n");
    close(listener);
    peer_close(peer);
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_msg(outcome.err.code == ERR_OUTCOME_UNKNOWN, "%s", outcome.err.text);
}
END_TEST

START_TEST(answer_too_large)
{
    struct outcome outcome;
    fixture->big_len = 1000;
    const struct http_call_request request = {.url = url_of(fixture->port, "/big"),
                                              .max_answer = 1000};
    run(&request, &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_NONE);
    fixture->big_len = 1001;
    run(&request, &outcome);
    ck_assert_int_eq(outcome.err.code, ERR_TOO_LARGE);
    ck_assert_uint_eq(outcome.body_len, 0);
}
END_TEST

START_TEST(answer_too_large_without_length)
{
    uint16_t port;
    int listener = raw_listen(&port);
    struct outcome outcome;
    start(&(struct http_call_request){.url = url_of(port, "/"), .max_answer = 10}, &outcome);
    struct peer *peer = raw_accept(listener);
    raw_expect(peer, "\r\n\r\n");
    peer_send(peer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789");
    for (int i = 0; i < 20; i++)
        turn(fixture->loop);
    ck_assert_uint_eq(outcome.count, 0);
    peer_send(peer, "!");
    wait_until(fixture->loop, outcome.count == 1);
    ck_assert_int_eq(outcome.err.code, ERR_TOO_LARGE);
    peer_close(peer);
    close(listener);
}
END_TEST

START_TEST(bad_requests)
{
    static const char *const urls[] = {"",
                                       "nonsense",
                                       "http://",
                                       "ftp://127.0.0.1/",
                                       "file:///etc/hostname",
                                       "http://127.0.0.1:99999/",
                                       "http://127.0.0.1/a\r\nb",
                                       "gopher://a/"};
    struct outcome outcome;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        run(&(struct http_call_request){.url = urls[i]}, &outcome);
        ck_assert_msg(outcome.err.code == ERR_INVALID, "%s: %s", urls[i], outcome.err.text);
    }
    static const char *const lines[] = {"X: a\r\nY: b", "X: a\nb", "no colon"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        run(&(struct http_call_request){.url = url_of(fixture->port, "/echo"),
                                        .headers = (const char *const[]){lines[i], NULL}},
            &outcome);
        ck_assert_int_eq(outcome.err.code, ERR_INVALID);
    }
    ck_assert_uint_eq(fixture->requests, 0);
}
END_TEST

/* ---- cancelling ---- */

START_TEST(cancelled)
{
    struct outcome at_once, bad, in_flight;
    http_call_cancel(
        start(&(struct http_call_request){.url = url_of(fixture->port, "/hold")}, &at_once));
    http_call_cancel(start(&(struct http_call_request){.url = "nonsense"}, &bad));
    struct http_call *call =
        start(&(struct http_call_request){.url = url_of(fixture->port, "/hold")}, &in_flight);
    wait_until(fixture->loop, fixture->held_count == 1);
    http_call_cancel(call);
    wait_until(fixture->loop, fixture->gone == 1);
    for (int i = 0; i < 50; i++)
        turn(fixture->loop);
    ck_assert_uint_eq(at_once.count + bad.count + in_flight.count, 0);
}
END_TEST

/* A callback cancels a call that has ended and waits for its own. */
START_TEST(cancelled_by_another_callback)
{
    struct outcome first, second;
    start(&(struct http_call_request){.url = "nonsense"}, &first);
    first.cancel = start(&(struct http_call_request){.url = "nonsense"}, &second);
    wait_until(fixture->loop, first.count == 1);
    for (int i = 0; i < 20; i++)
        turn(fixture->loop);
    ck_assert_uint_eq(second.count, 0);
}
END_TEST

START_TEST(client_freed_by_a_callback)
{
    struct outcome outcomes[3];
    for (int i = 0; i < 3; i++)
        start(&(struct http_call_request){.url = url_of(fixture->port, i == 2 ? "/hold" : "/echo")},
              &outcomes[i]);
    outcomes[0].free_client = outcomes[1].free_client = true;
    wait_until(fixture->loop, client == NULL);
    wait_until(fixture->loop, fixture->gone == 1);
    ck_assert_uint_eq(outcomes[0].count + outcomes[1].count, 1);
    ck_assert_uint_eq(outcomes[2].count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http client");
    TCase *tests = tcase_create("calls");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, methods_headers_and_bodies);
    tcase_add_test(tests, bytes_of_a_request);
    tcase_add_test(tests, statuses_are_answers);
    tcase_add_test(tests, large_bodies);
    tcase_add_test(tests, proxies_of_the_environment_are_ignored);
    tcase_add_test(tests, connections_are_kept);
    tcase_add_test(tests, connections_are_bounded);
    tcase_add_test(tests, nobody_listens);
    tcase_add_test(tests, no_answer_in_time);
    tcase_add_test(tests, no_connection_in_time);
    tcase_add_loop_test(tests, cut_off_after_sending, 0, 6);
    tcase_add_loop_test(tests, not_sent_twice, 0, 2);
    tcase_add_loop_test(tests, receiver_dies_under_a_request, 0, 2);
    tcase_add_test(tests, answer_too_large);
    tcase_add_test(tests, answer_too_large_without_length);
    tcase_add_test(tests, bad_requests);
    tcase_add_test(tests, cancelled);
    tcase_add_test(tests, cancelled_by_another_callback);
    tcase_add_test(tests, client_freed_by_a_callback);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
