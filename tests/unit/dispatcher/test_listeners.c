/* The doors of a dispatcher as sections come and go, with real peers on the loopback. */
#include "listeners.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "http_peer.h"
#include "run_loop.h"

#include <check.h>
#include <errno.h>

#define VT "\x0b"
#define FS "\x1c\r"
#define MESSAGE VT "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL1|P|2.5\r" FS

static struct loop *loop;
static struct metrics *metrics;
static struct health *health;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct callers callers;
static struct listeners listeners;
static struct production *first, *section; /* the intake's; in force */
static struct err err;

static void on_unqueued(void *arg)
{
    (void)arg;
}

static void on_request(void *arg, struct http_request *request)
{
    (void)arg;
    http_answer(request, 204, NULL, slice_of(NULL, 0), NULL, 0);
}

/* `mllp`: the listeners, as a YAML list holds them. */
static struct production *parse(const char *mllp)
{
    struct diagnostics diagnostics;
    struct buffer yaml;
    buffer_init(&yaml, 8192);
    buffer_printf(&yaml,
                  "dispatcher: {http: {listen: '127.0.0.1:0'}, mllp: [%s]}\nitems:\n"
                  "  - {id: A, class: Echo, queue_type: unordered}\n"
                  "  - {id: B, class: Echo, queue_type: unordered}\n",
                  mllp);
    struct production *production = production_parse(buffer_slice(&yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    buffer_done(&yaml);
    return production;
}

static void change(const char *mllp)
{
    struct production *before = section;
    section = parse(mllp);
    listeners_change(&listeners, section);
    production_free(before); /* who uses it has a reference */
}

static void start(const char *mllp)
{
    struct listeners_options options = {.loop = loop,
                                        .intake = &intake,
                                        .callers = &callers,
                                        .store = &store.store,
                                        .health = health,
                                        .metrics = metrics};
    section = parse(mllp);
    intake_init(&intake, loop, section, &queue.queue, &store.store, metrics);
    intake.on_unqueued = on_unqueued;
    intake_link_changed(&intake, true, true);
    callers_init(&callers, loop, section, &queue.queue, &store.store, metrics);
    callers_link_changed(&callers, true, true);
    fake_store_end(&store); /* the gate's first questions */
    fake_queue_end(&queue);
    first = production_ref(section);
    ck_assert_int_eq(listeners_start(&listeners, &options, section, &err), 0);
}

static void setup(void)
{
    loop = loop_new();
    metrics = metrics_new();
    health = health_new(metrics);
    fake_store_init(&store);
    fake_queue_init(&queue);
}

static void teardown(void)
{
    fake_store_end(&store);
    fake_queue_end(&queue);
    listeners_free(&listeners);
    callers_done(&callers);
    intake_done(&intake);
    health_free(health);
    metrics_free(metrics);
    loop_free(loop);
    production_free(first);
    production_free(section);
}

/* A port that nobody has: of a server that is gone by now. */
static uint16_t free_port(void)
{
    struct http_server *server;
    struct http_server_options options = {.listen = "127.0.0.1:0", .on_request = on_request};
    ck_assert_int_eq(http_server_start(loop, &options, &server, &err), 0);
    uint16_t port = http_server_port(server);
    http_server_free(server);
    return port;
}

static const char *listener(uint16_t port, const char *more)
{
    static char texts[4][128];
    static unsigned next;
    char *text = texts[next++ % 4];
    snprintf(text, sizeof(texts[0]), "{listen: '127.0.0.1:%d', %s}", port, more);
    return text;
}

static bool listens(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int failed = connect(fd, (struct sockaddr *)&address, sizeof(address));
    ck_assert(!failed || errno == ECONNREFUSED);
    close(fd);
    return !failed;
}

static bool ready_says(const char *text)
{
    struct peer *peer = peer_open(loop, http_server_port(listeners.http.server));
    struct answer answer;
    peer_send(peer, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, 200);
    bool there = strstr(answer.body, text) != NULL;
    answer_done(&answer);
    peer_close(peer);
    return there;
}

/* The item of the message that is being accepted; it is answered. */
static const char *accepted(void)
{
    static char item[65];
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ACCEPT);
    snprintf(item, sizeof(item), "%s", call->messages[0]->item);
    fake_store_answer(call, &fake_ok);
    return item;
}

START_TEST(doors_come_and_go)
{
    uint16_t one = free_port();
    start("");
    ck_assert(!listens(one));
    change(listener(one, "item: A"));
    ck_assert(listens(one));
    struct peer *peer = peer_open(loop, one);
    peer_send(peer, MESSAGE);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    change("");
    ck_assert(!listens(one));
    ck_assert(!TAILQ_EMPTY(&listeners.doors)); /* it owes an answer */
    run_loop_turns(loop);
    ck_assert(!peer_ended(peer));
    change(listener(one, "item: B")); /* it is back, while the one before still closes */
    ck_assert_str_eq(accepted(), "A");
    fake_queue_end(&queue);
    wait_until(loop, peer_ended(peer));
    ck_assert(peer_has(peer, "MSA|A"));
    peer_close(peer);
    ck_assert(listens(one));
    change("");
    RUN_LOOP_UNTIL(loop, TAILQ_EMPTY(&listeners.doors));
}
END_TEST

START_TEST(an_open_connection_goes_to_the_new_item)
{
    uint16_t one = free_port();
    start(listener(one, "item: A, duplicate_window: 0"));
    struct peer *peer = peer_open(loop, one);
    peer_send(peer, MESSAGE);
    ck_assert_str_eq(accepted(), "A");
    change(listener(one, "item: B, duplicate_window: 0"));
    peer_send(peer, MESSAGE);
    ck_assert_str_eq(accepted(), "B");
    change(listener(one, "item: B, max_frame: 1KiB"));
    peer_send(peer, VT);
    for (int i = 0; i < 300; i++)
        peer_send(peer, "12345678");
    wait_until(loop, peer_ended(peer));
    peer_close(peer);
}
END_TEST

START_TEST(a_taken_address_is_tried_again)
{
    struct http_server *other;
    struct http_server_options options = {.listen = "127.0.0.1:0", .on_request = on_request};
    uint16_t one = free_port();
    ck_assert_int_eq(http_server_start(loop, &options, &other, &err), 0);
    uint16_t taken = http_server_port(other);
    char both[256], condition[64];
    start(listener(one, "item: A"));
    snprintf(condition, sizeof(condition), "listen 127.0.0.1:%d", taken);
    snprintf(both, sizeof(both), "%s, %s", listener(one, "item: A"), listener(taken, "item: B"));
    change(both);
    ck_assert(ready_says(condition) && ready_says("cannot listen"));
    change(listener(one, "item: A"));
    ck_assert(!ready_says(condition));
    change(both);
    ck_assert(ready_says(condition));
    http_server_free(other);
    wait_until(loop, listens(taken));
    ck_assert(!ready_says(condition));
    listeners_drain(&listeners);
    ck_assert(!listens(taken) && !listens(one));
    RUN_LOOP_UNTIL(loop, listeners_idle(&listeners));
}
END_TEST

START_TEST(at_the_start_it_is_an_error)
{
    struct http_server *other;
    struct http_server_options options = {.listen = "127.0.0.1:0", .on_request = on_request};
    uint16_t one = free_port();
    start("");
    listeners_free(&listeners);
    ck_assert_int_eq(http_server_start(loop, &options, &other, &err), 0);
    struct listeners_options again = listeners.options;
    struct production *bad = parse(listener(http_server_port(other), "item: A"));
    ck_assert_int_eq(listeners_start(&listeners, &again, bad, &err), -1);
    ck_assert_int_eq(err.code, ERR_IO);
    listeners_free(&listeners);
    http_server_free(other);
    production_free(bad);
    ck_assert(!listens(one));
    ck_assert_int_eq(listeners_start(&listeners, &again, section, &err), 0);
}
END_TEST

START_TEST(ports_that_are_free_are_told_apart_by_their_place)
{
    start("{listen: '127.0.0.1:0', item: A}, {listen: '127.0.0.1:0', item: A}");
    change("{listen: '127.0.0.1:0', item: A}, {listen: '127.0.0.1:0', item: B}, "
           "{listen: '127.0.0.1:0', item: B}");
    struct door *door = TAILQ_FIRST(&listeners.doors);
    ck_assert_ptr_nonnull(door);
    change("{listen: '127.0.0.1:0', item: B}");
    ck_assert_ptr_eq(TAILQ_FIRST(&listeners.doors), door);
    RUN_LOOP_UNTIL(loop, !loop_timer_pending(&listeners.reap));
    ck_assert_ptr_eq(TAILQ_FIRST(&listeners.doors), door);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("listeners");
    TCase *cases = tcase_create("listeners");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, doors_come_and_go);
    tcase_add_test(cases, an_open_connection_goes_to_the_new_item);
    tcase_add_test(cases, a_taken_address_is_tried_again);
    tcase_add_test(cases, at_the_start_it_is_an_error);
    tcase_add_test(cases, ports_that_are_free_are_told_apart_by_their_place);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
