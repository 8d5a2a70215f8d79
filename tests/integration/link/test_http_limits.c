/* The HTTP server over real sockets: limits, deadlines, peers that go away, drain. */
#include "http_fixture.h"

#include <sys/resource.h>

static struct fixture *fixture;
static struct peer *peer;

static void start(const struct http_server_options *options)
{
    fixture = fixture_new(options);
    peer = peer_open(fixture->loop, fixture->port);
}

static void setup(void)
{
    start(&(struct http_server_options){.max_body = 100000});
}

static void teardown(void)
{
    if (peer)
        peer_close(peer);
    fixture_free(fixture);
}

static void restart(const struct http_server_options *options)
{
    teardown();
    start(options);
}

static void turns(unsigned count)
{
    while (count--) {
        turn(fixture->loop);
        poll(NULL, 0, 1);
    }
}

static void expect_body(struct peer *from, const char *body)
{
    struct answer answer;
    peer_answer(from, &answer);
    ck_assert_int_eq(answer.status, 200);
    ck_assert_str_eq(answer.body, body);
    answer_done(&answer);
}

/* ---- sizes ---- */

/* The peer goes on sending its body and still gets to read why it was refused. */
START_TEST(too_large_by_length)
{
    char bytes[65536] = {0};
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n");
    for (int i = 0; i < 70 && !peer->ended; i++)
        peer_try_send(peer, bytes, sizeof(bytes));
    peer_expect(peer, 413);
    peer_expect_end(peer);
    ck_assert_uint_eq(fixture->requests, 0);
}
END_TEST

/* The same peer, which does not read before it has sent everything: no reset may take the answer from it. */
START_TEST(too_large_and_not_reading)
{
    char bytes[65536] = {0};
    size_t sent = 0;
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n");
    while (sent < 5000000) {
        ssize_t len = send(peer->fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
        ck_assert_msg(len > 0 || errno == EAGAIN, "%s", strerror(errno));
        sent += len > 0 ? (size_t)len : 0;
        turn(fixture->loop);
    }
    peer_expect(peer, 413);
    peer_expect_end(peer);
}
END_TEST

/* A peer that goes on for ever is cut off. */
START_TEST(too_large_without_end)
{
    char bytes[65536] = {0};
    size_t sent = 0;
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n\r\n");
    while (!http_server_idle(fixture->server)) {
        ssize_t len = send(peer->fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
        sent += len > 0 ? (size_t)len : 0;
        ck_assert_uint_lt(sent, 4u * HTTP_LINGER_BYTES);
        turn(fixture->loop);
    }
}
END_TEST

START_TEST(too_large_in_chunks)
{
    char bytes[1000 + 7];
    memcpy(bytes, "3e8\r\n", 5);
    memset(bytes + 5, 'x', 1000);
    memcpy(bytes + 1005, "\r\n", 2);
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 100; i++)
        peer_send_bytes(peer, bytes, sizeof(bytes));
    turns(20);
    ck_assert(!peer_ended(peer)); /* exactly the maximum so far */
    peer_send(peer, "1\r\n");
    peer_expect(peer, 413);
    peer_expect_end(peer);
    ck_assert_uint_eq(fixture->requests, 0);
}
END_TEST

START_TEST(head_too_large)
{
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 2000 && !peer->ended; i++)
        peer_try_send(peer, "X-Header: value\r\n", 17);
    peer_expect(peer, 431);
    peer_expect_end(peer);
}
END_TEST

/* Bodies together stay within the budget; requests without a body are still served. */
START_TEST(memory_budget)
{
    restart(&(struct http_server_options){.max_body = 1 << 20, .memory_budget = 300000});
    char bytes[50000] = {0};
    struct peer *others[5];
    unsigned refused = 0, waiting = 0;
    for (int i = 0; i < 5; i++) {
        others[i] = peer_open(fixture->loop, fixture->port);
        peer_send(others[i], "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
        peer_try_send(others[i], bytes, sizeof(bytes));
        turns(10);
        ck_assert_uint_le(fixture->server->memory, 300000);
    }
    for (int i = 0; i < 5; i++) {
        struct answer answer;
        peer_receive(others[i]);
        if (!others[i]->ended) {
            waiting++;
            continue;
        }
        refused++;
        peer_answer(others[i], &answer);
        ck_assert_int_eq(answer.status, 503);
        ck_assert(answer_has(&answer, "Retry-After: 1"));
        answer_done(&answer);
    }
    ck_assert_uint_gt(refused, 0);
    ck_assert_uint_gt(waiting, 0);
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(peer, "");
    for (int i = 0; i < 5; i++)
        peer_close(others[i]);
    wait_until(fixture->loop, fixture->server->memory == 0); /* given back */
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok");
    expect_body(peer, "ok");
}
END_TEST

/* ---- deadlines ---- */

/* A byte now and then does not keep a request alive: the deadline is of the whole request. */
START_TEST(slow_request)
{
    static const char *const starts[] = {
        "GET /echo HTTP/1.1\r\nHost: x\r\nX: ",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n15f90\r\n",
    };
    restart(&(struct http_server_options){.max_body = 100000, .read_timeout_ms = 300});
    peer_send(peer, starts[_i]);
    wait_until(fixture->loop, peer_ended(peer) || (peer_try_send(peer, "x", 1), false));
    peer_expect(peer, 408);
    peer_expect_end(peer);
    ck_assert_uint_eq(fixture->requests, 0);
}
END_TEST

START_TEST(idle_connection)
{
    restart(&(struct http_server_options){.idle_timeout_ms = 200, .read_timeout_ms = 60000});
    peer_expect_end(peer); /* silently: there is no request to answer */
    peer_close(peer);
    peer = peer_open(fixture->loop, fixture->port);
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(peer, "");
    peer_expect_end(peer);
}
END_TEST

/* Waiting for an answer is not idleness. */
START_TEST(handling_has_no_deadline)
{
    restart(&(struct http_server_options){.idle_timeout_ms = 50, .read_timeout_ms = 50});
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    turns(200);
    fixture_release(fixture);
    expect_body(peer, "released");
}
END_TEST

START_TEST(peer_does_not_read)
{
    fixture->server->write_ms = 300;
    fixture->big_len = (size_t)32 << 20;
    peer_send(peer, "GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    ck_assert_uint_ge(fixture->server->memory, fixture->big_len / 2); /* counted while unsent */
    int64_t until = clock_mono_ms() + PEER_WAIT_MS;
    while (!http_server_idle(fixture->server)) { /* not one byte is read */
        ck_assert_int_lt(clock_mono_ms(), until);
        turn(fixture->loop);
        poll(NULL, 0, 1);
    }
    ck_assert_uint_eq(fixture->requests, 1); /* one answer at a time */
    ck_assert_uint_eq(fixture->server->memory, 0);
}
END_TEST

/* What they do not read is in the budget: others are told to come again, and small answers still go out. */
START_TEST(peers_do_not_read)
{
    struct answer answer;
    restart(&(struct http_server_options){.max_body = 1 << 20, .memory_budget = 24u << 20});
    fixture->big_len = (size_t)16 << 20;
    struct peer *other = peer_open(fixture->loop, fixture->port);
    static const char get[] = "GET /big HTTP/1.1\r\nHost: x\r\n\r\n";
    send(peer->fd, get, strlen(get), MSG_NOSIGNAL);
    wait_until(fixture->loop, fixture->server->memory > (8u << 20));
    peer_send(other, get);
    peer_answer(other, &answer);
    ck_assert_int_eq(answer.status, 503);
    ck_assert(answer_has(&answer, "Retry-After: 1"));
    ck_assert(answer_has(&answer, "X-Correlation-ID: an-id"));
    answer_done(&answer);
    peer_send(other, "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_answer_kind(other, &answer, true);
    ck_assert_int_eq(answer.status, 200);
    answer_done(&answer);
    peer_send(other, "GET /dump HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_expect(other, 200);
    peer_expect(peer, 200); /* read at last */
    peer_send(other, get);
    peer_expect(other, 200);
    peer_close(other);
}
END_TEST

/* A slow reader that makes progress is not cut off. */
START_TEST(peer_reads_slowly)
{
    fixture->server->write_ms = 200;
    fixture->big_len = (size_t)16 << 20;
    char bytes[65536];
    size_t got = 0;
    peer_send(peer, "GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    got = peer->in.len;
    int64_t began = clock_mono_ms();
    while (got < fixture->big_len) {
        ssize_t len = recv(peer->fd, bytes, sizeof(bytes), 0);
        ck_assert(len > 0 || (len < 0 && errno == EAGAIN));
        got += len > 0 ? (size_t)len : 0;
        turns(2);
    }
    ck_assert_int_gt(clock_mono_ms() - began, fixture->server->write_ms);
}
END_TEST

START_TEST(peer_never_closes)
{
    fixture->server->linger_ms = 100;
    peer_send(peer, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    expect_body(peer, "");
    peer_expect_end(peer);
    wait_until(fixture->loop, http_server_idle(fixture->server));
}
END_TEST

/* ---- peers that go away ---- */

START_TEST(cut_off_is_no_request)
{
    static const char *const starts[] = {
        "GET /echo HTTP/1.1\r\nHost: x\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "",
    };
    for (int half = 0; half < 2; half++) {
        struct peer *other = peer_open(fixture->loop, fixture->port);
        wait_until(fixture->loop, http_server_connections(fixture->server) == 2);
        peer_send(other, starts[_i]);
        turns(5);
        if (half)
            shutdown(other->fd, SHUT_WR);
        else
            peer_close(other);
        wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
        if (half) {
            peer_expect_end(other); /* no answer either */
            peer_close(other);
        }
    }
    ck_assert_uint_eq(fixture->requests, 0);
    ck_assert_uint_eq(fixture->gone, 0);
    ck_assert_uint_eq(fixture->server->memory, 0);
}
END_TEST

/* 0 closes, 1 resets */
START_TEST(gone_while_handled)
{
    struct peer *other = peer_open(fixture->loop, fixture->port);
    peer_send(other, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    _i ? peer_reset(other) : peer_close(other);
    wait_until(fixture->loop, fixture->gone == 1);
    turns(5);
    ck_assert_uint_eq(fixture->gone, 1);
    fixture_release(fixture); /* to nobody */
    wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
}
END_TEST

START_TEST(answered_inside_on_gone)
{
    fixture->answer_when_gone = true;
    for (int i = 0; i < 2; i++) {
        struct peer *other = peer_open(fixture->loop, fixture->port);
        peer_send(other, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_until(fixture->loop, fixture->held_count == 1);
        i ? peer_reset(other) : peer_close(other);
        wait_until(fixture->loop, fixture->held_count == 0);
    }
    ck_assert_uint_eq(fixture->gone, 2);
    wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
}
END_TEST

/* A peer that only ended its sending still gets its answers. */
START_TEST(half_closed)
{
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
                    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n2"
                    "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    shutdown(peer->fd, SHUT_WR);
    wait_until(fixture->loop, fixture->gone == 1);
    fixture_release(fixture);
    expect_body(peer, "released");
    expect_body(peer, "2");
    wait_until(fixture->loop, fixture->held_count == 1);
    fixture_release(fixture);
    expect_body(peer, "released");
    peer_expect_end(peer);
}
END_TEST

/* ---- many ---- */

START_TEST(two_thousand_at_once)
{
    enum { MANY = 2000 };
    struct rlimit limit;
    struct peer **many = calloc(MANY, sizeof(*many));
    getrlimit(RLIMIT_NOFILE, &limit);
    ck_assert_uint_ge(limit.rlim_max, 2 * MANY + 100);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < MANY; i++) {
        many[i] = peer_open(fixture->loop, fixture->port);
        turn(fixture->loop);
    }
    wait_until(fixture->loop, http_server_connections(fixture->server) == MANY + 1);
    for (int i = 0; i < MANY; i++)
        peer_send(many[i], "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(fixture->loop, fixture->held_count == MANY);
    for (int i = 0; i < MANY; i++)
        fixture_release(fixture);
    for (int i = 0; i < MANY; i++) {
        expect_body(many[i], "released");
        peer_close(many[i]);
    }
    free(many);
    wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
}
END_TEST

/* ---- another address, other limits ---- */

static void expect_echo(struct peer *from)
{
    peer_send(from, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(from, "");
}

START_TEST(it_moves)
{
    struct err err;
    uint16_t before = fixture->port;
    struct fixture *other = fixture_new(&(struct http_server_options){.max_body = 10});
    char taken[32], all[32];
    snprintf(taken, sizeof(taken), "127.0.0.1:%d", other->port);
    expect_echo(peer);
    ck_assert_int_eq(http_server_move(fixture->server, taken, true, &err), -1);
    ck_assert_int_eq(err.code, ERR_IO);
    ck_assert_uint_eq(http_server_port(fixture->server), before);
    fixture_free(other);
    ck_assert_int_eq(http_server_move(fixture->server, taken, true, &err), 0);
    struct peer *there = peer_open(fixture->loop, http_server_port(fixture->server));
    expect_echo(there);
    expect_echo(peer); /* an open connection stays */
    /* The same port on all addresses: only one of them can be listened on. */
    snprintf(all, sizeof(all), "0.0.0.0:%d", http_server_port(fixture->server));
    ck_assert_int_eq(http_server_move(fixture->server, all, false, &err), -1);
    expect_echo(there);
    ck_assert_int_eq(http_server_move(fixture->server, all, true, &err), 0);
    peer_close(there);
    there = peer_open(fixture->loop, http_server_port(fixture->server));
    expect_echo(there);
    ck_assert_int_eq(http_server_move(fixture->server, "127.0.0.1", true, &err), -1);
    ck_assert_int_eq(err.code, ERR_CONFIG);
    peer_close(there);
    there = peer_open(fixture->loop, http_server_port(fixture->server));
    expect_echo(there);
    peer_close(there);
}
END_TEST

START_TEST(another_max_body)
{
    http_server_set_max_body(fixture->server, 4);
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345");
    peer_expect(peer, 413);
    peer_close(peer);
    http_server_set_max_body(fixture->server, 5);
    peer = peer_open(fixture->loop, fixture->port);
    peer_send(peer, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345");
    expect_body(peer, "12345");
}
END_TEST

START_TEST(too_many_connections)
{
    restart(&(struct http_server_options){.max_connections = 3});
    struct peer *more[3];
    for (int i = 0; i < 3; i++) {
        more[i] = peer_open(fixture->loop, fixture->port);
        turns(3);
    }
    peer_expect(more[2], 503);
    peer_expect_end(more[2]);
    peer_send(more[1], "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(more[1], "");
    for (int i = 0; i < 3; i++)
        peer_close(more[i]);
    wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
    more[0] = peer_open(fixture->loop, fixture->port);
    peer_send(more[0], "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_body(more[0], "");
    peer_close(more[0]);
}
END_TEST

/* Refusals are bounded, too: beyond them connections are just closed. */
START_TEST(flood_of_connections)
{
    restart(&(struct http_server_options){.max_connections = 1});
    struct peer *flood[2 * HTTP_REFUSED_AT_ONCE];
    for (int i = 0; i < 2 * HTTP_REFUSED_AT_ONCE; i++) {
        flood[i] = peer_open(fixture->loop, fixture->port);
        turn(fixture->loop);
    }
    turns(20);
    ck_assert_uint_le(http_server_connections(fixture->server), 1 + HTTP_REFUSED_AT_ONCE);
    wait_until(fixture->loop, peer_ended(flood[2 * HTTP_REFUSED_AT_ONCE - 1]));
    for (int i = 0; i < 2 * HTTP_REFUSED_AT_ONCE; i++)
        peer_close(flood[i]);
    wait_until(fixture->loop, http_server_connections(fixture->server) == 1);
}
END_TEST

START_TEST(out_of_descriptors)
{
    struct rlimit before, tight;
    struct peer *more[8];
    turns(5);
    for (int i = 0; i < 8; i++)
        more[i] = peer_open(fixture->loop, fixture->port);
    int probe = dup(0); /* the lowest free one */
    close(probe);
    getrlimit(RLIMIT_NOFILE, &before);
    tight = before;
    tight.rlim_cur = (rlim_t)probe + 3;
    setrlimit(RLIMIT_NOFILE, &tight);
    wait_until(fixture->loop, loop_timer_pending(&fixture->server->accept_again));
    ck_assert_uint_eq(http_server_connections(fixture->server), 4);
    peer_send(more[0], "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"); /* others go on */
    expect_body(more[0], "");
    setrlimit(RLIMIT_NOFILE, &before);
    for (int i = 0; i < 8; i++) {
        peer_send(more[i], "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
        expect_body(more[i], "");
        peer_close(more[i]);
    }
}
END_TEST

/* ---- the end ---- */

START_TEST(drain)
{
    struct peer *holds = peer_open(fixture->loop, fixture->port);
    struct peer *half = peer_open(fixture->loop, fixture->port);
    struct answer answer;
    peer_send(holds, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_send(half, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\no");
    wait_until(fixture->loop, fixture->held_count == 1);
    turns(5);
    ck_assert_uint_eq(http_server_connections(fixture->server), 3);
    http_server_drain(fixture->server);
    peer_expect_end(peer); /* was idle */
    ck_assert_uint_eq(http_server_connections(fixture->server), 2);
    ck_assert(!http_server_idle(fixture->server));

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(fixture->port),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    ck_assert_int_ne(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    close(fd);

    fixture_release(fixture);
    peer_answer(holds, &answer);
    ck_assert(answer_has(&answer, "Connection: close"));
    answer_done(&answer);
    peer_send(half, "k");
    peer_answer(half, &answer);
    ck_assert_str_eq(answer.body, "ok");
    ck_assert(answer_has(&answer, "Connection: close"));
    answer_done(&answer);
    peer_close(holds);
    peer_close(half);
    wait_until(fixture->loop, http_server_idle(fixture->server));
}
END_TEST

START_TEST(freed_with_requests_in_hand)
{
    struct peer *half = peer_open(fixture->loop, fixture->port);
    peer_send(peer, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_send(half, "GET /hold HTTP/1.1\r\n");
    wait_until(fixture->loop, fixture->held_count == 1);
    fixture->server = http_server_free(fixture->server);
    ck_assert_ptr_null(fixture->server);
    ck_assert(slice_is(http_request_path(fixture->held[0]), "/hold")); /* valid until answered */
    fixture_release(fixture);
    ck_assert_uint_eq(fixture->gone, 0);
    wait_until(fixture->loop, peer_ended(peer));
    peer_close(half);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http limits");
    TCase *tests = tcase_create("limits");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, too_large_by_length);
    tcase_add_test(tests, too_large_and_not_reading);
    tcase_add_test(tests, too_large_without_end);
    tcase_add_test(tests, too_large_in_chunks);
    tcase_add_test(tests, head_too_large);
    tcase_add_test(tests, memory_budget);
    tcase_add_loop_test(tests, slow_request, 0, 3);
    tcase_add_test(tests, idle_connection);
    tcase_add_test(tests, handling_has_no_deadline);
    tcase_add_test(tests, peer_does_not_read);
    tcase_add_test(tests, peers_do_not_read);
    tcase_add_test(tests, peer_reads_slowly);
    tcase_add_test(tests, peer_never_closes);
    tcase_add_loop_test(tests, cut_off_is_no_request, 0, 4);
    tcase_add_loop_test(tests, gone_while_handled, 0, 2);
    tcase_add_test(tests, answered_inside_on_gone);
    tcase_add_test(tests, half_closed);
    tcase_add_test(tests, two_thousand_at_once);
    tcase_add_test(tests, it_moves);
    tcase_add_test(tests, another_max_body);
    tcase_add_test(tests, too_many_connections);
    tcase_add_test(tests, flood_of_connections);
    tcase_add_test(tests, out_of_descriptors);
    tcase_add_test(tests, drain);
    tcase_add_test(tests, freed_with_requests_in_hand);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
