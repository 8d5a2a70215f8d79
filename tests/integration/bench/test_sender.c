/* The load generator against a server that misbehaves on purpose: what it counts, and when latency
 * starts. */
#include "base/clock.h"
#include "lib/sender.h"

#include <arpa/inet.h>
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define RUN "TESTRUN0"
#define CONNECTIONS_MAX 64

/* One thread, one poll loop. What it does with the n-th message (from 0), of all connections: */
static struct script {
    bool mllp;
    bool replies;     /* with the message's own header */
    int reject_every; /* 429 / AR */
    int close_at;     /* closes instead of answering, once */
    int mute_at;      /* never answers, once */
    int wrong_at;     /* MSA-2 of another message, once */
    int stall_at;     /* sleeps stall_ms before it answers */
    int stall_ms;
} script;

static struct server {
    int listener;
    char port[8];
    pthread_t thread;
    atomic_bool stop;
    atomic_int messages; /* read */
    struct pollfd fds[1 + CONNECTIONS_MAX];
    struct buffer in[1 + CONNECTIONS_MAX];
    nfds_t count;
} server;

static const struct script HARMLESS = {
    .close_at = -1, .mute_at = -1, .wrong_at = -1, .stall_at = -1};

/* The length of the whole message at the front, 0 when there is none; its MSH-10 in `control`. */
static size_t whole_message(const struct buffer *in, struct slice *control)
{
    const char *body = in->data;
    size_t len;
    if (script.mllp) {
        const char *end = in->len ? memchr(in->data, '\x1c', in->len) : NULL;
        len = end ? (size_t)(end - in->data) + 2 : 0;
    } else {
        const char *end = memmem(in->data, in->len, "\r\n\r\n", 4);
        const char *length = end ? memmem(in->data, in->len, "Content-Length: ", 16) : NULL;
        body = end ? end + 4 : NULL;
        len = length ? (size_t)(body - in->data) + strtoul(length + 16, NULL, 10) : 0;
    }
    if (len == 0 || len > in->len)
        return 0;
    const char *at = memmem(body, in->len - (size_t)(body - in->data), RUN, strlen(RUN));
    ck_assert_ptr_nonnull(at);
    *control = slice_of(at, STENCIL_CONTROL_LEN);
    return len;
}

static void answer(int fd, int number, struct slice control)
{
    char text[512];
    bool reject = script.reject_every && number % script.reject_every == 0;
    if (number == script.wrong_at)
        control = SLICE_LITERAL("another");
    if (script.replies && !reject && script.mllp)
        snprintf(text, sizeof(text), "\x0bMSH|^~\\&|A|B|C|D|2026||ADT^A01|%.*s|P|2.5\r\x1c\r",
                 (int)control.len, control.ptr);
    else if (script.replies && !reject)
        snprintf(
            text, sizeof(text),
            "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\nMSH|^~\\&|A|B|C|D|2026||ADT^A01|%.*s|P",
            33 + control.len, (int)control.len, control.ptr);
    else if (script.mllp)
        snprintf(text, sizeof(text), "\x0bMSH|^~\\&|A|B|C|D|2026||ACK|1|P|2.5\rMSA|%s|%.*s\r\x1c\r",
                 reject ? "AR" : "AA", (int)control.len, control.ptr);
    else
        snprintf(text, sizeof(text),
                 "HTTP/1.1 %s\r\nX-Correlation-ID: id-%.*s\r\nContent-Length: 2\r\n\r\n{}",
                 reject ? "429 Too Many Requests" : "202 Accepted", (int)control.len, control.ptr);
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* False: the connection is to be closed. */
static bool serve(nfds_t i)
{
    char piece[65536];
    ssize_t n = read(server.fds[i].fd, piece, sizeof(piece));
    if (n <= 0)
        return false;
    buffer_append(&server.in[i], piece, (size_t)n);
    struct slice control;
    size_t len;
    while ((len = whole_message(&server.in[i], &control)) > 0) {
        int number = atomic_fetch_add(&server.messages, 1);
        if (number == script.close_at)
            return false;
        if (number == script.stall_at)
            usleep((useconds_t)script.stall_ms * 1000);
        if (number != script.mute_at)
            answer(server.fds[i].fd, number, control);
        buffer_consume(&server.in[i], len);
    }
    return true;
}

static void *serve_all(void *arg)
{
    (void)arg;
    while (!atomic_load(&server.stop)) {
        poll(server.fds, server.count, 20);
        for (nfds_t i = server.count; i-- > 1;) {
            if (!server.fds[i].revents || serve(i))
                continue;
            close(server.fds[i].fd);
            buffer_done(&server.in[i]);
            server.count--;
            server.fds[i] = server.fds[server.count];
            server.in[i] = server.in[server.count];
        }
        if (server.fds[0].revents && server.count <= CONNECTIONS_MAX) {
            int fd = accept(server.listener, NULL, NULL);
            server.fds[server.count] = (struct pollfd){.fd = fd, .events = POLLIN};
            buffer_init(&server.in[server.count++], 1 << 22);
        }
    }
    return NULL;
}

static void server_start(struct script wanted)
{
    memset(&server, 0, sizeof(server));
    script = wanted;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    server.listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(server.listener, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(listen(server.listener, CONNECTIONS_MAX), 0);
    ck_assert_int_eq(getsockname(server.listener, (struct sockaddr *)&address, &len), 0);
    snprintf(server.port, sizeof(server.port), "%u", ntohs(address.sin_port));
    server.fds[server.count++] = (struct pollfd){.fd = server.listener, .events = POLLIN};
    ck_assert_int_eq(pthread_create(&server.thread, NULL, serve_all, NULL), 0);
}

static void server_stop(void)
{
    atomic_store(&server.stop, true);
    pthread_join(server.thread, NULL);
    for (nfds_t i = 0; i < server.count; i++) {
        close(server.fds[i].fd);
        buffer_done(&server.in[i]);
    }
}

/* ---- the sender's side --------------------------------------------------------------------------
 */

static struct stencil stencil;
static struct sender_result result;
static struct err err;

static void http_head(void *arg, size_t body_len, struct buffer *out)
{
    (void)arg;
    buffer_printf(out, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", body_len);
}

static void mllp_head(void *arg, size_t body_len, struct buffer *out)
{
    (void)arg;
    (void)body_len;
    buffer_append_byte(out, '\x0b');
}

static struct sender_options options(bool mllp, size_t size)
{
    struct stencil_wrap wrap = {.head = http_head};
    if (mllp)
        wrap = (struct stencil_wrap){.head = mllp_head, .tail = SLICE_LITERAL("\x1c\r")};
    const char *text = "MSH|^~\\&|A|B|C|D|{time}||ADT^A01|{control}|P|2.5\nPID|||{patient}|{pad}\n";
    struct stencil_spread spread = {.patients = 10};
    ck_assert_int_eq(stencil_parse(&stencil, slice_text(text), size, spread, RUN, &wrap, &err), 0);
    return (struct sender_options){
        .mllp = mllp,
        .host = "127.0.0.1",
        .port = server.port,
        .connections = 8,
        .depth = 1,
        .timeout_ms = 5000,
        .run = RUN,
        .templates = &stencil,
        .template_count = 1,
    };
}

static void run(const struct sender_options *wanted)
{
    ck_assert_msg(sender_run(wanted, &result, &err) == 0, "%s", err.text);
    stencil_done(&stencil);
    server_stop();
    ck_assert_uint_eq(result.accepted + result.rejected + result.lost, result.sent);
    ck_assert_uint_eq(result.latency.count, result.accepted);
}

static uint64_t code(const char *text)
{
    for (size_t i = 0; i < result.code_count; i++)
        if (strcmp(result.codes[i].code, text) == 0)
            return result.codes[i].count;
    return 0;
}

START_TEST(every_message_is_sent_once_and_counted)
{
    struct script wanted = HARMLESS;
    wanted.mllp = _i & 1;
    wanted.reject_every = 10;
    server_start(wanted);
    struct sender_options opts = options(wanted.mllp, 700);
    opts.count = 5000;
    opts.depth = _i & 2 ? 5 : 1;
    run(&opts);
    ck_assert_int_eq(atomic_load(&server.messages), 5000);
    ck_assert_uint_eq(result.sent, 5000);
    ck_assert_uint_eq(result.rejected, 500);
    ck_assert_uint_eq(result.lost, 0);
    ck_assert_uint_eq(code(wanted.mllp ? "AR" : "429"), 500);
    ck_assert_uint_eq(code(wanted.mllp ? "AA" : "202"), 4500);
    ck_assert_uint_eq(result.closed_by_peer + result.bad_answers + result.timeouts, 0);
    ck_assert_uint_eq(result.body_len, 700);
    sender_result_done(&result);
}
END_TEST

START_TEST(replies_belong_to_their_messages)
{
    struct script wanted = HARMLESS;
    wanted.mllp = _i & 1;
    wanted.replies = true;
    wanted.wrong_at = 50;
    wanted.reject_every = 100;
    server_start(wanted);
    struct sender_options opts = options(wanted.mllp, 700);
    opts.count = 1000;
    opts.replies = true;
    run(&opts);
    ck_assert_uint_eq(result.rejected, 10);
    ck_assert_uint_eq(result.wrong_control, 1);
    ck_assert_uint_eq(result.lost, 1);
    ck_assert_uint_eq(code(wanted.mllp ? "MSG" : "200"), 989);
    sender_result_done(&result);
}
END_TEST

/* The item is not what its sender believes. */
START_TEST(a_mere_acknowledgement_is_no_reply)
{
    struct script wanted = HARMLESS;
    wanted.mllp = _i & 1;
    server_start(wanted);
    struct sender_options opts = options(wanted.mllp, 700);
    opts.count = 100;
    opts.replies = true;
    run(&opts);
    ck_assert_uint_eq(result.accepted, 0);
    ck_assert_uint_eq(result.rejected, 100);
    sender_result_done(&result);
}
END_TEST

START_TEST(accepted_ids_are_written)
{
    struct script wanted = HARMLESS;
    wanted.reject_every = 2; /* 0, 2, 4 … are refused */
    server_start(wanted);
    struct sender_options opts = options(false, 0);
    opts.count = 100;
    opts.connections = 1;
    opts.ids = tmpfile();
    run(&opts);
    rewind(opts.ids);
    for (unsigned i = 1; i < 100; i += 2) {
        char line[128], expected[128];
        ck_assert_ptr_nonnull(fgets(line, sizeof(line), opts.ids));
        snprintf(expected, sizeof(expected), RUN "%012u id-" RUN "%012u\n", i, i);
        ck_assert_str_eq(line, expected);
    }
    ck_assert_int_eq(fgetc(opts.ids), EOF);
    fclose(opts.ids);
    sender_result_done(&result);
}
END_TEST

START_TEST(a_closed_connection_loses_what_was_unanswered)
{
    struct script wanted = HARMLESS;
    wanted.close_at = 50;
    server_start(wanted);
    struct sender_options opts = options(false, 700);
    opts.count = 1000;
    run(&opts);
    ck_assert_uint_eq(result.lost, 1);
    ck_assert_uint_eq(result.closed_by_peer, 1);
    ck_assert_uint_eq(result.accepted, 999);
    sender_result_done(&result);
}
END_TEST

START_TEST(an_answer_to_another_message_is_no_answer)
{
    struct script wanted = HARMLESS;
    wanted.mllp = true;
    wanted.wrong_at = 50;
    server_start(wanted);
    struct sender_options opts = options(true, 700);
    opts.count = 1000;
    run(&opts);
    ck_assert_uint_eq(result.wrong_control, 1);
    ck_assert_uint_eq(result.bad_answers, 0);
    ck_assert_uint_eq(result.lost, 1);
    ck_assert_uint_eq(result.accepted, 999);
    sender_result_done(&result);
}
END_TEST

START_TEST(a_late_answer_ends_its_connection)
{
    struct script wanted = HARMLESS;
    wanted.mute_at = 20;
    server_start(wanted);
    struct sender_options opts = options(false, 700);
    opts.count = 200;
    opts.timeout_ms = 1500;
    run(&opts);
    ck_assert_uint_eq(result.timeouts, 1);
    ck_assert_uint_eq(result.lost, 1);
    ck_assert_uint_eq(result.accepted, 199);
    sender_result_done(&result);
}
END_TEST

/* 1,000 messages a second, 600 ms of stall in the middle: six tenths of a second of messages
 * waited, half of them for more than 300 ms. A generator that only sends when it got its answer
 * would see eight slow ones. */
START_TEST(a_stall_is_charged_to_all_who_had_to_wait)
{
    struct script wanted = HARMLESS;
    wanted.stall_at = 500;
    wanted.stall_ms = 600;
    server_start(wanted);
    struct sender_options opts = options(false, 700);
    opts.rate = 1000;
    opts.seconds = 2;
    opts.window = 0.5;
    run(&opts);
    ck_assert_uint_eq(result.sent, 2000);
    ck_assert_uint_eq(result.accepted, 2000);
    ck_assert_uint_eq(result.unsent, 0);
    ck_assert_int_ge(histogram_percentile(&result.latency, 86), 250000);
    ck_assert_int_ge(result.latency.max, 590000);
    ck_assert_uint_ge(result.peak_backlog, 500);
    ck_assert_uint_ge(result.window_count, 3);
    sender_result_done(&result);
}
END_TEST

START_TEST(large_messages_go_out_in_pieces)
{
    server_start(HARMLESS);
    struct sender_options opts = options(false, 2000000);
    opts.count = 20;
    opts.connections = 2;
    run(&opts);
    ck_assert_uint_eq(result.accepted, 20);
    sender_result_done(&result);
}
END_TEST

START_TEST(nobody_there_and_bad_options)
{
    server_start(HARMLESS);
    struct sender_options opts = options(false, 700);
    ck_assert_int_eq(sender_run(&opts, &result, &err), -1); /* neither count nor seconds */
    ck_assert_int_eq(err.code, ERR_INVALID);
    opts.count = 1;
    opts.depth = 0;
    ck_assert_int_eq(sender_run(&opts, &result, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    opts.depth = 1;
    opts.timeout_ms = 200;
    server_stop();
    ck_assert_int_eq(sender_run(&opts, &result, &err), -1);
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    stencil_done(&stencil);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sender");
    TCase *tcase = tcase_create("sender");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, every_message_is_sent_once_and_counted, 0, 4);
    tcase_add_loop_test(tcase, replies_belong_to_their_messages, 0, 2);
    tcase_add_loop_test(tcase, a_mere_acknowledgement_is_no_reply, 0, 2);
    tcase_add_test(tcase, accepted_ids_are_written);
    tcase_add_test(tcase, a_closed_connection_loses_what_was_unanswered);
    tcase_add_test(tcase, an_answer_to_another_message_is_no_answer);
    tcase_add_test(tcase, a_late_answer_ends_its_connection);
    tcase_add_test(tcase, a_stall_is_charged_to_all_who_had_to_wait);
    tcase_add_test(tcase, large_messages_go_out_in_pieces);
    tcase_add_test(tcase, nobody_there_and_bad_options);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
