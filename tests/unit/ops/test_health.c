/* /healthz, /readyz and /metrics, over a real server. */
#include "http_peer.h"
#include "ops/health.h"

static struct loop *loop;
static struct http_server *server;
static struct metrics *metrics;
static struct health *health;
static struct peer *peer;
static struct metric *refreshed;

static void on_request(void *arg, struct http_request *request)
{
    (void)arg;
    if (!health_handle(health, request))
        http_answer(request, 404, NULL, slice_of(NULL, 0), NULL, 0);
}

static void setup(void)
{
    struct err err;
    const struct http_server_options options = {
        .listen = "127.0.0.1:0", .max_body = 1000, .on_request = on_request};
    loop = loop_new();
    metrics = metrics_new();
    health = health_new(metrics);
    ck_assert_int_eq(http_server_start(loop, &options, &server, &err), 0);
    peer = peer_open(loop, http_server_port(server));
}

static void teardown(void)
{
    peer_close(peer);
    http_server_free(server);
    health = health_free(health);
    ck_assert_ptr_null(health);
    metrics_free(metrics);
    loop_free(loop);
}

static void get(const char *path, int status, struct answer *ret)
{
    char request[100];
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    peer_send(peer, request);
    peer_answer(peer, ret);
    ck_assert_int_eq(ret->status, status);
}

static void expect(const char *path, int status, const char *body)
{
    struct answer answer;
    get(path, status, &answer);
    ck_assert_str_eq(answer.body, body);
    ck_assert(answer_has(&answer, "Content-Type: application/json"));
    answer_done(&answer);
}

START_TEST(readiness)
{
    expect("/readyz", 200, "{\"status\":\"ready\",\"checks\":[]}\n");
    health_set(health, "redis", false, "not \"yet\" connected");
    health_set(health, "postgres", true, NULL);
    ck_assert(!health_ready(health));
    expect(
        "/readyz", 503,
        "{\"status\":\"not ready\",\"checks\":[{\"name\":\"redis\",\"ok\":false,\"reason\":\"not "
        "\\\"yet\\\" connected\"},{\"name\":\"postgres\",\"ok\":true,\"reason\":\"\"}]}\n");
    expect("/healthz", 200, "{\"status\":\"ok\"}\n"); /* whatever is away */
    health_set(health, "redis", true, "");
    ck_assert(health_ready(health));
    expect("/readyz?verbose", 200,
           "{\"status\":\"ready\",\"checks\":[{\"name\":\"redis\",\"ok\":true,\"reason\":\"\"},"
           "{\"name\":\"postgres\",\"ok\":true,\"reason\":\"\"}]}\n");
}
END_TEST

START_TEST(draining)
{
    struct answer answer;
    health_set(health, "redis", true, NULL);
    health_drain(health);
    get("/readyz", 503, &answer);
    ck_assert_ptr_nonnull(strstr(answer.body, "{\"status\":\"draining\","));
    answer_done(&answer);
    expect("/healthz", 200, "{\"status\":\"ok\"}\n");
    health_set(health, "redis", true, NULL);
    ck_assert(!health_ready(health));
}
END_TEST

static void refresh(void *arg)
{
    ck_assert_ptr_eq(arg, refreshed);
    metric_set(arg, 17);
}

START_TEST(metrics_text)
{
    struct answer answer;
    refreshed = metrics_gauge(metrics, "hie_depth", "Depth.", NULL, 0);
    health_on_metrics(health, refresh, refreshed);
    get("/metrics", 200, &answer);
    ck_assert(answer_has(&answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    ck_assert_ptr_nonnull(strstr(answer.body, "\n# TYPE hie_depth gauge\nhie_depth 17\n"));
    ck_assert_ptr_nonnull(strstr(answer.body, "\nprocess_open_fds "));
    answer_done(&answer);
}
END_TEST

START_TEST(only_get_and_head)
{
    static const char *const paths[] = {"/healthz", "/readyz", "/metrics"};
    static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS"};
    struct answer answer;
    char request[100];
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 4; j++) {
            snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", methods[j],
                     paths[i]);
            peer_send(peer, request);
            peer_answer(peer, &answer);
            ck_assert_int_eq(answer.status, 405);
            ck_assert(answer_has(&answer, "Allow: GET, HEAD"));
            ck_assert(answer_has(&answer, "Content-Type: application/problem+json"));
            answer_done(&answer);
        }
        snprintf(request, sizeof(request), "HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n", paths[i]);
        peer_send(peer, request);
        peer_answer_kind(peer, &answer, true);
        ck_assert_int_eq(answer.status, 200);
        ck_assert(!answer_has(&answer, "Content-Length: 0"));
        answer_done(&answer);
    }
}
END_TEST

START_TEST(other_paths_are_not_ours)
{
    static const char *const paths[] = {"/",        "/healthz/",  "/health",
                                        "/readyzz", "/metrics/x", "/Healthz"};
    struct answer answer;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        get(paths[i], 404, &answer);
        answer_done(&answer);
    }
}
END_TEST

/* Texts that are too long are cut, never written past their place. */
START_TEST(long_texts)
{
    char name[200], reason[1000];
    struct answer answer;
    memset(name, 'n', sizeof(name) - 1);
    memset(reason, 'r', sizeof(reason) - 1);
    name[sizeof(name) - 1] = reason[sizeof(reason) - 1] = '\0';
    health_set(health, name, true, reason);
    health_set(health, name, false, reason); /* the same condition */
    get("/readyz", 503, &answer);
    ck_assert_ptr_nonnull(strstr(answer.body, "nnn"));
    ck_assert_ptr_null(strstr(answer.body, "true"));
    ck_assert_uint_lt(answer.body_len, 500);
    answer_done(&answer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("health");
    TCase *tests = tcase_create("health");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, readiness);
    tcase_add_test(tests, draining);
    tcase_add_test(tests, metrics_text);
    tcase_add_test(tests, only_get_and_head);
    tcase_add_test(tests, other_paths_are_not_ours);
    tcase_add_test(tests, long_texts);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
