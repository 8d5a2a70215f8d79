/* The HTTP front with a fake store and queue, and real peers on the loopback. */
#include "http_front.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "http_peer.h"
#include "run_loop.h"

#include <check.h>

#define MESSAGE_ID "01970000-0000-7000-8000-000000000001"

static const char yaml[] = "production: {name: test}\n"
                           "dispatcher: {http: {listen: \"127.0.0.1:0\", max_body: 2048}}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered, "
                           "persistence: {ack_timeout: 60}}\n"
                           "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, "
                           "settings: {default: [Echo]}}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct health *health;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct callers callers;
static struct http_front front;
static struct peer *peer;

static void on_unqueued(void *arg)
{
    (void)arg;
}

static void setup(void)
{
    struct diagnostics diagnostics;
    struct err err;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    metrics = metrics_new();
    health = health_new(metrics);
    fake_store_init(&store);
    fake_queue_init(&queue);
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    callers_link_changed(&callers, true, true);
    intake_init(&intake, loop, production, &queue.queue, &store.store, metrics);
    intake.on_unqueued = on_unqueued;
    intake_link_changed(&intake, false, true);
    fake_store_end(&store); /* the gate's first questions */
    fake_queue_end(&queue);
    ck_assert_int_eq(
        http_front_start(&front, loop, production, &intake, &store.store, &callers, health, &err),
        0);
    peer = peer_open(loop, http_server_port(front.server));
}

static void teardown(void)
{
    peer_close(peer);
    fake_store_end(&store);
    fake_queue_end(&queue);
    http_front_free(&front);
    callers_done(&callers);
    intake_done(&intake);
    health_free(health);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static void post(const char *item, const char *headers, const char *body)
{
    char request[1024];
    snprintf(request, sizeof(request),
             "POST /v1/items/%s/messages HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s",
             item, headers, strlen(body), body);
    peer_send(peer, request);
}

/* Of messages of no item. */
static bool rejected_once(const char *reason)
{
    struct buffer out;
    char wanted[128];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted),
             "hie_messages_rejected_total{item=\"\",pattern=\"\",reason=\"%s\"} 1\n", reason);
    bool there = strstr(out.data, wanted) != NULL;
    buffer_done(&out);
    return there;
}

START_TEST(what_cannot_be_worked_with_is_told)
{
    post("Router", "", "BHS|^~\\&|A\rMSH|^~\\&|A\r");
    peer_expect(peer, 422);
    post("Router", "X-Callback-URL: http://x/\r\n", "MSH|^~\\&|A\r");
    peer_expect(peer, 400);
}
END_TEST

START_TEST(who_waits_where_and_until_when_goes_along)
{
    struct meta meta;
    struct err err;
    callers_link_changed(&callers, true, true);
    intake.listener = "dispatcher-7";
    for (int i = 0; i < 2; i++) {
        post("Echo",
             i ? "X-Call-Chain: Router\r\n"
               : "X-Call-Chain: Router, Other\r\nX-Timeout: 5000\r\nPrefer: wait=1\r\n",
             "x");
        wait_until(loop, fake_store_pending(&store) > 0);
        struct fake_store_call *call = fake_store_take(&store, FAKE_ACCEPT);
        ck_assert_int_eq(meta_unpack(call->messages[0]->meta, &meta, &err), 0);
        ck_assert(slice_is(meta.reply_to, i ? "" : "dispatcher-7"));
        ck_assert(slice_is(meta.chain, i ? "Router" : "Router,Other"));
        ck_assert_int_eq(meta.deadline_ms > clock_wall_ms(), i == 0);
        if (i == 0) {
            struct queue_reply reply = {.id = call->messages[0]->id, .status = "completed"};
            callers_replied(&callers, &reply);
        }
        fake_store_answer(call, &fake_ok);
        peer_expect(peer, i ? 202 : 200);
    }
}
END_TEST

START_TEST(refusals_of_the_server_count)
{
    peer_send(peer, "POST /v1/items/Echo/messages HTTP/1.1\r\nHost: x\r\n"
                    "Content-Length: 4096\r\n\r\n");
    peer_expect(peer, 413);
    ck_assert(rejected_once("too_large"));
    ck_assert(!rejected_once("unavailable"));
}
END_TEST

START_TEST(an_unknown_outcome_has_its_id)
{
    struct err unknown = {.code = ERR_OUTCOME_UNKNOWN};
    struct answer answer;
    post("Echo", "", "x");
    wait_until(loop, fake_store_pending(&store) > 0);
    fake_store_answer(fake_store_take(&store, FAKE_ACCEPT), &unknown);
    fake_store_answer_flags(fake_store_take(&store, FAKE_KNOWN), &fake_ok, (const bool[]){false});
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, 503);
    ck_assert_ptr_nonnull(strstr(answer.head, "\r\nX-Correlation-ID: "));
    ck_assert_ptr_nonnull(strstr(answer.body, "\"correlation_id\":\""));
    answer_done(&answer);
}
END_TEST

static void answer_unfinished(void)
{
    struct store_record record = {
        .state = "queued", .item = "Echo", .pattern = "async_reliable", .direction = "inbound"};
    struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
    ((store_found *)find->done)(find->arg, &fake_ok, &record);
    free(find);
}

START_TEST(a_long_poll_does_not_hold_the_drain)
{
    peer_send(peer, "GET /v1/messages/" MESSAGE_ID "?wait=300000 HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(loop, fake_store_pending(&store) > 0);
    answer_unfinished();
    wait_until(loop, fake_store_pending(&store) > 0);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok, (const bool[]){false});
    callers_drain(&callers);
    http_front_drain(&front);
    wait_until(loop, fake_store_pending(&store) > 0);
    answer_unfinished(); /* as things are */
    peer_expect(peer, 200);
    wait_until(loop, peer_ended(peer));
}
END_TEST

/* Whatever the item is today, its queue is the one that it was accepted for. */
START_TEST(who_has_it_is_asked_where_it_was_accepted)
{
    struct store_record record = {.state = "accepted",
                                  .item = "Echo",
                                  .pattern = "sync_reliable",
                                  .direction = "inbound",
                                  .queue_pattern = PATTERN_SYNC_RELIABLE};
    intake.queue_up = true;
    for (int partition = -1; partition < 6; partition += 6) {
        struct answer answer;
        record.partition = partition;
        peer_send(peer, "GET /v1/messages/" MESSAGE_ID " HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_until(loop, fake_store_pending(&store) > 0);
        struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
        ((store_found *)find->done)(find->arg, &fake_ok, &record);
        free(find);
        struct fake_queue_call *held = fake_queue_take(&queue, FAKE_HELD);
        ck_assert_int_eq(held->name.pattern, PATTERN_SYNC_RELIABLE);
        ck_assert_uint_eq(held->name.partition, partition < 0 ? 0 : (unsigned)partition);
        ((queue_flags_done *)held->done)(held->arg, &fake_ok, (const bool[]){true});
        free(held);
        peer_answer(peer, &answer);
        ck_assert_ptr_nonnull(strstr(answer.body, "\"status\":\"processing\""));
        answer_done(&answer);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http_front");
    TCase *cases = tcase_create("http_front");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, what_cannot_be_worked_with_is_told);
    tcase_add_test(cases, who_waits_where_and_until_when_goes_along);
    tcase_add_test(cases, refusals_of_the_server_count);
    tcase_add_test(cases, an_unknown_outcome_has_its_id);
    tcase_add_test(cases, a_long_poll_does_not_hold_the_drain);
    tcase_add_test(cases, who_has_it_is_asked_where_it_was_accepted);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
