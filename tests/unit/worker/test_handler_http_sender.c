/* HTTPSender against a real receiver (a thread with plain sockets): what is sent, and what each answer leads to. */
#include "fake_job.h"

#include "handlers/classes.h"
#include "link/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_MAX = 1 << 22 };

/* ---- the receiver: one request a connection, answered with one text ---- */

static struct receiver {
    int listener, port;
    int stop[2]; /* closing the pipe's end ends the thread */
    pthread_t thread;
    const char *answer; /* NULL: cut off when the request is read; "": never answer */
    size_t answer_len;
    char *request; /* of the last request, NUL-terminated */
    size_t request_len;
    int requests;
} receiver;

static bool wait_readable(int fd)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                            {.fd = receiver.stop[0], .events = POLLIN}};
    return poll(fds, 2, -1) > 0 && !fds[1].revents;
}

static bool is_whole(void)
{
    char *end = memmem(receiver.request, receiver.request_len, "\r\n\r\n", 4);
    if (!end)
        return false;
    char *length = strcasestr(receiver.request, "\r\nContent-Length:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    return receiver.request_len >= (size_t)(end + 4 - receiver.request) + body;
}

static void serve(int fd)
{
    receiver.request_len = 0;
    receiver.request[0] = '\0';
    while (!is_whole()) {
        if (!wait_readable(fd))
            return;
        ssize_t n =
            read(fd, receiver.request + receiver.request_len, REQUEST_MAX - receiver.request_len);
        if (n <= 0)
            return;
        receiver.request_len += (size_t)n;
        receiver.request[receiver.request_len] = '\0';
    }
    receiver.requests++;
    if (!receiver.answer)
        return;
    if (!receiver.answer_len) {
        wait_readable(fd); /* until the sender hangs up */
        return;
    }
    for (size_t sent = 0; sent < receiver.answer_len;) {
        ssize_t n = send(fd, receiver.answer + sent, receiver.answer_len - sent, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        sent += (size_t)n;
    }
}

static void *receive(void *arg)
{
    (void)arg;
    while (wait_readable(receiver.listener)) {
        int fd = accept(receiver.listener, NULL, NULL);
        if (fd < 0)
            continue;
        serve(fd);
        shutdown(fd, SHUT_WR);
        close(fd);
    }
    return NULL;
}

static void receiver_listen(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    receiver.request = mem_alloc(REQUEST_MAX + 1);
    receiver.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(receiver.listener, 0);
    ck_assert_int_eq(bind(receiver.listener, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(listen(receiver.listener, 16), 0);
    ck_assert_int_eq(getsockname(receiver.listener, (struct sockaddr *)&address, &len), 0);
    receiver.port = ntohs(address.sin_port);
}

static void receiver_start(const char *answer)
{
    receiver.answer = answer;
    receiver.answer_len = answer ? strlen(answer) : 0;
    ck_assert_int_eq(pipe(receiver.stop), 0);
    ck_assert_int_eq(pthread_create(&receiver.thread, NULL, receive, NULL), 0);
}

/* After it the test may look at what was received. */
static void receiver_stop(void)
{
    if (!receiver.thread)
        return;
    close(receiver.stop[1]);
    pthread_join(receiver.thread, NULL);
    close(receiver.stop[0]);
    receiver.thread = 0;
}

static bool received(const char *text)
{
    return strstr(receiver.request, text) != NULL;
}

/* ---- the sender ---- */

static struct loop *loop;
static struct http_client *http;
static char url[100], *headers[4];
static struct http_sender_settings settings;
static struct item item;
static void *state;

static void setup(void)
{
    memset(&receiver, 0, sizeof(receiver));
    receiver_listen();
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/in?x=1", receiver.port);
    memset(headers, 0, sizeof(headers));
    settings = (struct http_sender_settings){
        .url = url, .method = (char *)"POST", .headers = headers, .timeout_ms = 15000};
    settings.retry_status[429] = settings.retry_status[503] = true;
    item = (struct item){.id = (char *)"Sender", .settings = &settings};
    loop = loop_new();
    http = http_client_new(loop);
    state = NULL;
}

static void teardown(void)
{
    if (state)
        http_sender_class.close(state);
    http = http_client_free(http);
    loop = loop_free(loop);
    receiver_stop();
    close(receiver.listener);
    free(receiver.request);
}

static struct job *start(struct job *job)
{
    const struct handler_env env = {.loop = loop, .http = http};
    if (!state)
        ck_assert_int_eq(http_sender_class.open(&env, &item, &state, NULL), 0);
    http_sender_class.start(state, job);
    return job;
}

static struct job *sent(struct slice body)
{
    struct job *job = start(fake_job_new(&item, body));
    ck_assert_int_eq(job->ends, 0); /* never from inside start */
    fake_job_wait(loop, job);
    return job;
}

/* The end of a message that gets this answer. Frees the job. */
static enum error_code answered(const char *answer, char ret_text[static 240])
{
    receiver_start(answer);
    struct job *job = sent(SLICE_LITERAL("body"));
    receiver_stop();
    enum error_code code = job->error.code;
    snprintf(ret_text, 240, "%s", job->error.text);
    ck_assert_int_eq(job->good, code == ERR_NONE);
    fake_job_free(job);
    return code;
}

/* ---- what is sent ---- */

START_TEST(sends_the_body_and_replies_the_answer)
{
    ck_assert_ptr_null(http_sender_class.immediate);
    receiver_start(
        "HTTP/1.1 200 OK\r\nContent-Type: text/x-answer\r\nContent-Length: 5\r\n\r\nhello");
    struct job *job = fake_job_new(&item, slice_of("a\0\r\n\xff", 5));
    char id[UUID_TEXT_LEN + 1], line[100];
    uuid_format(job->id, id);
    start(job);
    fake_job_wait(loop, job);
    receiver_stop();
    ck_assert(job->good);
    ck_assert_str_eq(job->reply, "hello");
    ck_assert_str_eq(job->reply_type, "text/x-answer");
    ck_assert_int_eq(strncmp(receiver.request, "POST /in?x=1 HTTP/1.1\r\n", 23), 0);
    ck_assert_mem_eq(receiver.request + receiver.request_len - 5, "a\0\r\n\xff", 5);
    ck_assert(received("\r\nContent-Length: 5\r\n"));
    ck_assert(received("\r\nContent-Type: application/hl7-v2\r\n"));
    snprintf(line, sizeof(line), "\r\nIdempotency-Key: %s\r\n", id);
    ck_assert(received(line));
    snprintf(line, sizeof(line), "\r\nX-Correlation-ID: %s\r\n", id);
    ck_assert(received(line));
    ck_assert(received("\r\nX-Call-Chain: Sender\r\n"));
    fake_job_free(job);
}
END_TEST

/* What is sent as the chain of a message that came along `chain`. */
static bool sends_chain(const char *chain, const char *line)
{
    receiver_start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    struct job *job = fake_job_new(&item, SLICE_LITERAL("body"));
    job->chain = chain;
    start(job);
    fake_job_wait(loop, job);
    receiver_stop();
    ck_assert(job->good);
    fake_job_free(job);
    return received(line);
}

START_TEST(the_call_chain_grows_and_smuggles_nothing_in)
{
    ck_assert(sends_chain("In,Router_1.b-c", "\r\nX-Call-Chain: In,Router_1.b-c,Sender\r\n"));
    ck_assert(sends_chain("In\r\nX-Evil: 1", "\r\nX-Call-Chain: Sender\r\n"));
    ck_assert(!received("X-Evil"));
    ck_assert(sends_chain("a b", "\r\nX-Call-Chain: Sender\r\n"));
    char own[] = "x-call-chain: mine";
    headers[0] = own;
    http_sender_class.close(state);
    state = NULL;
    ck_assert(sends_chain("In", "\r\nx-call-chain: mine\r\n"));
    ck_assert(!received("In,Sender"));
}
END_TEST

START_TEST(put_with_configured_headers)
{
    char put[] = "PUT", source[] = "X-Source: hie", type[] = "content-type: text/special",
         key[] = "Idempotency-Key: fixed";
    settings.method = put;
    headers[0] = source;
    headers[1] = type;
    headers[2] = key;
    receiver_start("HTTP/1.1 204 No Content\r\n\r\n");
    struct job *job = sent(SLICE_LITERAL("body"));
    receiver_stop();
    ck_assert(job->good);
    ck_assert_uint_eq(job->reply_len, 0);
    ck_assert_int_eq(strncmp(receiver.request, "PUT ", 4), 0);
    ck_assert(received("\r\nX-Source: hie\r\n"));
    ck_assert(received("\r\ncontent-type: text/special\r\n"));
    ck_assert(!received("application/hl7-v2"));
    ck_assert(received("\r\nIdempotency-Key: fixed\r\n"));
    ck_assert(received("\r\nX-Correlation-ID: "));
    fake_job_free(job);
}
END_TEST

START_TEST(a_content_type_smuggles_nothing_in)
{
    static const char *const types[] = {"text/plain\r\nX-Evil: 1", "text/plain\n", "", "a\x01",
                                        "\x7f"};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        receiver_start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        struct job *job = fake_job_new(&item, SLICE_LITERAL("body"));
        fake_job_content_type(job, types[i]);
        start(job);
        fake_job_wait(loop, job);
        receiver_stop();
        ck_assert(job->good);
        ck_assert(received("\r\nContent-Type: application/octet-stream\r\n"));
        ck_assert(!received("X-Evil"));
        fake_job_free(job);
    }
    char longest[600];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    receiver_start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    struct job *job = fake_job_new(&item, SLICE_LITERAL("body"));
    fake_job_content_type(job, longest);
    start(job);
    fake_job_wait(loop, job);
    receiver_stop();
    ck_assert(received("\r\nContent-Type: application/octet-stream\r\n"));
    fake_job_free(job);
}
END_TEST

START_TEST(empty_and_large_bodies)
{
    receiver_start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    struct job *job = sent(slice_of(NULL, 0));
    receiver_stop();
    ck_assert(job->good);
    ck_assert(received("\r\nContent-Length: 0\r\n"));
    fake_job_free(job);

    size_t len = 3 << 20;
    char *body = mem_alloc(len);
    for (size_t i = 0; i < len; i++)
        body[i] = (char)(i * 11);
    receiver_start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    job = sent(slice_of(body, len));
    receiver_stop();
    ck_assert(job->good);
    ck_assert_mem_eq(receiver.request + receiver.request_len - len, body, len);
    free(body);
    fake_job_free(job);
}
END_TEST

/* ---- answers ---- */

START_TEST(answers_that_are_success)
{
    char text[240];
    ck_assert_int_eq(answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", text), ERR_NONE);
    ck_assert_int_eq(answered("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", text), ERR_NONE);
    ck_assert_int_eq(answered("HTTP/1.1 299 So\r\nContent-Length: 0\r\n\r\n", text), ERR_NONE);
    ck_assert_int_eq(
        answered("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", text),
        ERR_NONE);
}
END_TEST

START_TEST(answers_that_are_retried)
{
    char text[240];
    ck_assert_int_eq(answered("HTTP/1.1 503 Away\r\nContent-Length: 6\r\n\r\nsecret", text),
                     ERR_RECEIVER);
    ck_assert_str_eq(text, "receiver answered 503");
    ck_assert_int_eq(answered("HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", text),
                     ERR_RECEIVER);
    ck_assert_int_eq(error_class_of(ERR_RECEIVER), ERROR_RETRY);
}
END_TEST

START_TEST(answers_that_are_final)
{
    char text[240];
    ck_assert_int_eq(answered("HTTP/1.1 400 Bad\r\nContent-Length: 6\r\n\r\nsecret", text),
                     ERR_REJECTED);
    ck_assert_str_eq(text, "receiver answered 400");
    ck_assert_int_eq(
        answered("HTTP/1.1 500 Not in retry_on here\r\nContent-Length: 0\r\n\r\n", text),
        ERR_REJECTED);
    ck_assert_int_eq(error_class_of(ERR_REJECTED), ERROR_REJECT);
}
END_TEST

START_TEST(redirects_are_not_followed)
{
    char text[240], answer[200];
    snprintf(answer, sizeof(answer),
             "HTTP/1.1 307 Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", url);
    ck_assert_int_eq(answered(answer, text), ERR_REJECTED);
    ck_assert_str_eq(text, "receiver answered 307");
    ck_assert_int_eq(receiver.requests, 1);
}
END_TEST

START_TEST(too_long_an_answer_of_success_is_success)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n";
    char *answer = mem_alloc(sizeof(head) + 2000000);
    strcpy(answer, head);
    memset(answer + sizeof(head) - 1, 'x', 2000000);
    char text[240];
    ck_assert_int_eq(answered(answer, text), ERR_NONE);
    memcpy(answer + 9, "503", 3);
    ck_assert_int_eq(answered(answer, text), ERR_RECEIVER);
    memcpy(answer + 9, "400", 3);
    ck_assert_int_eq(answered(answer, text), ERR_REJECTED);
    free(answer);
}
END_TEST

/* ---- no answer ---- */

static void ck_retried(enum error_code code)
{
    ck_assert_int_eq(error_class_of(code), ERROR_RETRY);
    ck_assert_int_ne(code, ERR_RECEIVER);
}

START_TEST(cut_off_timed_out_refused)
{
    char text[240];
    ck_retried(answered(NULL, text));
    settings.timeout_ms = 50;
    ck_retried(answered("", text));
    settings.timeout_ms = 15000;
    ck_retried(answered("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", text));
    close(receiver.listener);
    receiver.listener = -1;
    struct job *job = sent(SLICE_LITERAL("body"));
    ck_assert(!job->good);
    ck_retried(job->error.code);
    fake_job_free(job);
}
END_TEST

START_TEST(no_such_url)
{
    strcpy(url, "gopher://x/");
    struct job *job = sent(SLICE_LITERAL("body"));
    ck_assert(!job->good);
    ck_assert_int_eq(error_class_of(job->error.code), ERROR_REJECT);
    fake_job_free(job);
}
END_TEST

START_TEST(cancelled_and_closed)
{
    receiver_start("");
    struct job *jobs[3];
    for (int i = 0; i < 3; i++)
        jobs[i] = start(fake_job_new(&item, SLICE_LITERAL("body")));
    fake_idle(loop, 30);
    http_sender_class.cancel(state, jobs[1]);
    ck_assert_int_eq(jobs[1]->error.code, ERR_CANCELLED);
    http_sender_class.cancel(state, jobs[1]);
    fake_idle(loop, 10);
    ck_assert_int_eq(jobs[0]->ends + jobs[2]->ends, 0);
    http_sender_class.close(state);
    state = NULL;
    fake_idle(loop, 10);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(jobs[i]->error.code, ERR_CANCELLED);
        fake_job_free(jobs[i]);
    }
}
END_TEST

START_TEST(cancelled_at_once)
{
    struct job *job = start(fake_job_new(&item, SLICE_LITERAL("body")));
    http_sender_class.cancel(state, job);
    fake_idle(loop, 20);
    ck_assert_int_eq(job->error.code, ERR_CANCELLED);
    fake_job_free(job);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http sender");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, sends_the_body_and_replies_the_answer);
    tcase_add_test(tests, the_call_chain_grows_and_smuggles_nothing_in);
    tcase_add_test(tests, put_with_configured_headers);
    tcase_add_test(tests, a_content_type_smuggles_nothing_in);
    tcase_add_test(tests, empty_and_large_bodies);
    tcase_add_test(tests, answers_that_are_success);
    tcase_add_test(tests, answers_that_are_retried);
    tcase_add_test(tests, answers_that_are_final);
    tcase_add_test(tests, redirects_are_not_followed);
    tcase_add_test(tests, too_long_an_answer_of_success_is_success);
    tcase_add_test(tests, cut_off_timed_out_refused);
    tcase_add_test(tests, no_such_url);
    tcase_add_test(tests, cancelled_and_closed);
    tcase_add_test(tests, cancelled_at_once);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
