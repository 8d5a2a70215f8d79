/* MLLP senders that wait for the end, repeats, and enhanced mode, with a fake intake and real peers on the loopback. */
#include "mllp_front.h"

#include "fake_intake.h"
#include "fake_queue.h"
#include "fake_store.h"
#include "http_peer.h"
#include "run_loop.h"

#include <check.h>

#define VT "\x0b"
#define FS "\x1c\r"
#define MESSAGE(id, more)                                                                          \
    VT "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|" id "|P|2.5" more "\rPID|1\r" FS
#define REPLY "MSH|^~\\&|R|F|APP|FAC|20260101||ACK^A01^ACK|X1|P|2.5\rMSA|AA|ONE|theirs\r"

static const char yaml[] = "production: {name: test}\n"
                           "dispatcher: {mllp: [{listen: \"127.0.0.1:0\", item: Echo, "
                           "max_frame: 64KiB}]}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct callers callers;
static struct mllp_front front;
static struct peer *peer;
static struct item *item;

static void set_links(bool queue_up, bool store_up)
{
    intake.queue_up = queue_up;
    intake.store_up = store_up;
    callers_link_changed(&callers, queue_up, store_up);
}

static void setup(void)
{
    struct diagnostics diagnostics;
    struct err err;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    item = &production->items[0];
    item->messaging_pattern = PATTERN_SYNC_RELIABLE;
    item->blocking.enabled = true;
    item->blocking.max_wait_time_ms = 30000;
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    intake = (struct intake){.production = production,
                             .queue = &queue.queue,
                             .store = &store.store,
                             .own_budget = {.bytes_max = 1 << 20},
                             .budget = &intake.own_budget};
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    set_links(true, true);
    struct mllp_listener *listener = &production->dispatcher.mllp[0];
    listener->item = item;
    listener->duplicate_window_ms = 5000;
    ck_assert_int_eq(mllp_front_start(&front, loop, listener, &intake, &callers, metrics, &err), 0);
    peer = peer_open(loop, stream_server_port(front.server));
}

static void teardown(void)
{
    peer_close(peer);
    set_links(false, false);
    fake_store_end(&store);
    fake_queue_end(&queue);
    mllp_front_free(&front);
    ck_assert_uint_eq(callers.count, 0);
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
    fake_intake_end();
    callers_done(&callers);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static struct uuid send_message(struct peer *by, const char *bytes)
{
    size_t before = fake_intake_pending();
    peer_send(by, bytes);
    wait_until(loop, fake_intake_pending() > before);
    return fake_intake_last()->id;
}

static void publish(struct uuid id, const char *status, const char *error, const char *body)
{
    struct queue_reply reply = {
        .id = id, .status = status, .error = error, .body = body_of(body, strlen(body))};
    callers_replied(&callers, &reply);
}

/* The answers so far are these bytes. */
static void expect_bytes(const char *bytes)
{
    size_t len = strlen(bytes);
    wait_until(loop, (peer_receive(peer), peer->in.len >= len));
    ck_assert_msg(peer->in.len == len && memcmp(peer->in.data, bytes, len) == 0, "got %.*s",
                  (int)peer->in.len, peer->in.data);
    buffer_clear(&peer->in);
}

/* One frame that holds both; it is taken. */
static void expect_frame(const char *first, const char *second)
{
    wait_until(loop, peer_has(peer, FS));
    ck_assert_msg(peer_has(peer, first), "no %s in %.*s", first, (int)peer->in.len, peer->in.data);
    ck_assert_msg(peer_has(peer, second), "no %s in %.*s", second, (int)peer->in.len,
                  peer->in.data);
    const char *end = find_bytes(&peer->in, FS);
    buffer_consume(&peer->in, (size_t)(end - peer->in.data) + 2);
}

static void expect_nothing(void)
{
    for (int i = 0; i < 30; i++)
        run_loop_once(loop);
    peer_receive(peer);
    ck_assert_uint_eq(peer->in.len, 0);
}

static void expect_id(struct uuid id)
{
    char text[UUID_TEXT_LEN + 1];
    uuid_format(id, text);
    expect_frame("MSA|A", text);
}

/* ---- original mode ---- */

START_TEST(the_reply_is_handed_on_as_it_is)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", ""));
    ck_assert(fake_intake_last()->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    expect_nothing();
    publish(id, "completed", NULL, REPLY);
    expect_bytes(VT REPLY FS);
    ck_assert_uint_eq(callers.count, 0);
}
END_TEST

START_TEST(any_other_reply_is_acknowledged)
{
    static const char *const replies[] = {"", "plain", "PID|1\r"};
    for (size_t i = 0; i < 3; i++) {
        struct uuid id = send_message(peer, MESSAGE("ONE", ""));
        fake_intake_answer(ERR_NONE, NULL);
        publish(id, "completed", NULL, replies[i]);
        expect_frame("MSA|AA|ONE\r", "ACK^A01^ACK");
    }
}
END_TEST

START_TEST(what_cannot_be_framed_is_an_error)
{
    char *large = malloc(70000);
    memset(large, 'x', 70000);
    memcpy(large, "MSH|^~\\&|", 9);
    large[69999] = '\0';
    const char *const replies[] = {"MSH|^~\\&|A" VT "\r", "MSH|^~\\&|A\x1c\r", large};
    for (size_t i = 0; i < 3; i++) {
        struct uuid id = send_message(peer, MESSAGE("ONE", ""));
        fake_intake_answer(ERR_NONE, NULL);
        publish(id, "completed", NULL, replies[i]);
        expect_frame("MSA|AE|ONE\r", "it has completed, but its reply");
    }
    free(large);
}
END_TEST

START_TEST(replies_that_wait_for_their_turn_are_in_the_budget)
{
    static const char other[] = "MSH|^~\\&|OTHER\r";
    struct uuid first = send_message(peer, MESSAGE("ONE", ""));
    struct uuid second = send_message(peer, MESSAGE("TWO", ""));
    struct uuid third = send_message(peer, MESSAGE("THREE", ""));
    for (int i = 0; i < 3; i++)
        fake_intake_answer(ERR_NONE, NULL);
    publish(third, "completed", NULL, other);
    ck_assert_uint_eq(intake.budget->bytes_in_hand, strlen(other));
    intake.budget->bytes_max = intake.budget->bytes_in_hand;
    publish(second, "completed", NULL, REPLY); /* no room */
    expect_nothing();
    publish(first, "completed", NULL, "");
    expect_frame("MSA|AA|ONE\r", "ACK^A01^ACK");
    expect_frame("MSA|AE|TWO\r", "no room");
    expect_bytes(VT "MSH|^~\\&|OTHER\r" FS);
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
}
END_TEST

/* A peer that reads nothing: what was written to it stays in the budget, also when it is out of its row. */
START_TEST(replies_that_nobody_reads_are_in_the_budget)
{
    size_t len = 60000;
    char *reply = malloc(len + 1);
    memset(reply, 'x', len);
    memcpy(reply, "MSH|", 4);
    reply[len] = '\0';
    unsigned count = 0;
    do {
        send(peer->fd, MESSAGE("ONE", ""), strlen(MESSAGE("ONE", "")), MSG_NOSIGNAL);
        wait_until(loop, fake_intake_pending() == 1);
        struct uuid id = fake_intake_last()->id;
        fake_intake_answer(ERR_NONE, NULL);
        publish(id, "completed", NULL, reply);
        run_loop_turns(loop);
        ck_assert_uint_lt(++count, 1000);
    } while (intake.budget->bytes_in_hand < len); /* until one does not leave */
    wait_until(loop, (peer_receive(peer), intake.budget->bytes_in_hand == 0));
    free(reply);
}
END_TEST

START_TEST(other_ends_are_errors)
{
    static const struct {
        const char *status, *error, *msa, *text;
    } cases[] = {
        {"dead_lettered", "the receiver said no", "MSA|AE|ONE\r", "the receiver said no"},
        {"dead_lettered", NULL, "MSA|AE|ONE\r", "the handler failed"},
        {"cancelled", NULL, "MSA|AE|ONE\r", "cancelled"},
        {"expired", NULL, "MSA|AR|ONE\r", "expired"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct uuid id = send_message(peer, MESSAGE("ONE", ""));
        fake_intake_answer(ERR_NONE, NULL);
        publish(id, cases[i].status, cases[i].error, "");
        wait_until(loop, peer_has(peer, FS));
        ck_assert(peer_has(peer, "ERR|||207^"));
        expect_frame(cases[i].msa, cases[i].text);
    }
}
END_TEST

START_TEST(the_time_is_up_with_the_id)
{
    item->blocking.max_wait_time_ms = 100;
    struct uuid id = send_message(peer, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_NONE, NULL);
    set_links(false, false);
    wait_until(loop, peer_has(peer, FS));
    ck_assert(peer_has(peer, "MSA|AR|ONE\r"));
    ck_assert(peer_has(peer, "max_wait_time"));
    expect_id(id);
    publish(id, "completed", NULL, REPLY); /* too late */
    expect_nothing();
}
END_TEST

START_TEST(late_in_the_intake_is_told_when_there_is_a_message)
{
    struct uuid first = uuid_new(1000);
    item->blocking.max_wait_time_ms = 60;
    send_message(peer, MESSAGE("ONE", ""));
    wait_until(loop, callers.count == 0);
    fake_intake_answer(ERR_QUEUE_FULL, NULL);
    expect_frame("MSA|AR|ONE\r", "the intake said no");
    send_message(peer, MESSAGE("TWO", ""));
    wait_until(loop, callers.count == 0);
    expect_nothing();
    fake_intake_answer(ERR_NONE, &first);
    wait_until(loop, peer_has(peer, "max_wait_time"));
    expect_id(first); /* its own never exists */
}
END_TEST

START_TEST(without_redis_nobody_can_wait)
{
    set_links(false, true);
    peer_send(peer, MESSAGE("ONE", ""));
    expect_frame("MSA|AR|ONE\r", "Redis is away");
    ck_assert_uint_eq(fake_intake_rejected[ERR_UNAVAILABLE], 1);
    ck_assert_uint_eq(fake_intake_pending(), 0);
    item->blocking.enabled = false;
    item->messaging_pattern = PATTERN_ASYNC_RELIABLE;
    send_message(peer, MESSAGE("TWO", ""));
    ck_assert(!fake_intake_last()->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    expect_frame("MSA|AA|TWO\r", "ACK^A01^ACK");
}
END_TEST

START_TEST(the_intakes_errors_are_told)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_OUTCOME_UNKNOWN, NULL);
    expect_id(id);
    send_message(peer, MESSAGE("TWO", ""));
    fake_intake_answer(ERR_UNAVAILABLE, NULL);
    expect_frame("MSA|AR|TWO\r", "the intake said no");
    ck_assert_uint_eq(callers.count, 0);
    err_set(&fake_intake_refusal, ERR_QUEUE_FULL, "full");
    peer_send(peer, MESSAGE("THREE", ""));
    expect_frame("MSA|AR|THREE\r", "full");
    fake_intake_refusal.code = ERR_NONE;
}
END_TEST

START_TEST(answers_leave_in_the_order_of_the_frames)
{
    enum { COUNT = 50 };
    struct uuid ids[COUNT];
    char body[64];
    for (size_t i = 0; i < COUNT; i++)
        ids[i] = send_message(peer, MESSAGE("ONE", ""));
    for (size_t i = COUNT; i-- > 1;) { /* some before the intake is done with them */
        snprintf(body, sizeof(body), "MSH|^~\\&|%zu|\r", i);
        if (i % 2)
            publish(ids[i], "completed", NULL, body);
    }
    for (size_t i = 0; i < COUNT; i++)
        fake_intake_answer(ERR_NONE, NULL);
    for (size_t i = COUNT; i-- > 1;) {
        snprintf(body, sizeof(body), "MSH|^~\\&|%zu|\r", i);
        if (i % 2 == 0)
            publish(ids[i], "completed", NULL, body);
    }
    expect_nothing();
    publish(ids[0], "completed", NULL, "MSH|^~\\&|0|\r");
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(body, sizeof(body), "MSH|^~\\&|%zu|\r", i);
        wait_until(loop, peer_has(peer, FS));
        ck_assert_int_eq(memcmp(peer->in.data + 1, body, strlen(body)), 0);
        buffer_consume(&peer->in, strlen(body) + 3);
    }
    expect_nothing();
}
END_TEST

/* ---- repeats ---- */

START_TEST(repeats_have_the_same_key)
{
    struct intake_request list[6];
    static const char *const messages[] = {
        MESSAGE("ONE", ""),
        MESSAGE("ONE", ""),
        MESSAGE("TWO", ""),
        VT "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|ONE|P|2.5\rPID|2\r" FS,
        VT "MSH|^~\\&|APP2|FAC|R|F|20260101||ADT^A01|ONE|P|2.5\rPID|1\r" FS,
        VT "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01||P|2.5\rPID|1\r" FS,
    };
    for (size_t i = 0; i < 6; i++) {
        send_message(peer, messages[i]);
        list[i] = fake_intake_last()->request;
    }
    ck_assert(!uuid_is_none(list[0].dedup_key));
    ck_assert_int_eq(list[0].dedup_window_ms, 5000);
    ck_assert(uuid_equal(list[0].dedup_key, list[1].dedup_key));
    ck_assert(uuid_equal(list[0].dedup_fingerprint, list[1].dedup_fingerprint));
    for (size_t i = 2; i < 5; i++)
        ck_assert(!uuid_equal(list[0].dedup_key, list[i].dedup_key));
    ck_assert(uuid_is_none(list[5].dedup_key)); /* no MSH-10 */
    production->dispatcher.mllp[0].duplicate_window_ms = 0;
    send_message(peer, MESSAGE("ONE", ""));
    ck_assert(uuid_is_none(fake_intake_last()->request.dedup_key));
}
END_TEST

START_TEST(a_repeat_gets_the_first_ones_answer)
{
    struct uuid first = uuid_new(1000);
    struct store_record record = {.state = "completed", .finished_us = 1};
    static const struct err ok = {.code = ERR_NONE};
    send_message(peer, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_NONE, &first);
    wait_until(loop, fake_store_pending(&store) > 0);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ENDED);
    ck_assert(uuid_equal(call->ids[0], first));
    fake_store_answer_flags(call, &ok, (const bool[]){true});
    call = fake_store_take(&store, FAKE_FIND);
    ((store_found *)call->done)(call->arg, &ok, &record);
    free(call);
    call = fake_store_take(&store, FAKE_REPLY);
    ((store_body_done *)call->done)(call->arg, &ok, body_of(REPLY, strlen(REPLY)),
                                    slice_of(NULL, 0), true);
    free(call);
    expect_bytes(VT REPLY FS);
    item->blocking.enabled = false;
    item->messaging_pattern = PATTERN_ASYNC_RELIABLE;
    send_message(peer, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_NONE, &first);
    expect_frame("MSA|AA|ONE\r", "ACK^A01^ACK");
}
END_TEST

/* ---- enhanced mode ---- */

START_TEST(enhanced_mode_commits_first)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", "|||AL|AL"));
    ck_assert(fake_intake_last()->request.wait);
    publish(id, "completed", NULL, REPLY); /* before the commit is acknowledged */
    expect_nothing();
    fake_intake_answer(ERR_NONE, NULL);
    expect_frame("MSA|CA|ONE\r", "ACK^A01^ACK");
    expect_bytes(VT REPLY FS);
    id = send_message(peer, MESSAGE("ONE", "|||AL|AL"));
    fake_intake_answer(ERR_NONE, NULL);
    expect_frame("MSA|CA|ONE\r", "ACK^A01^ACK");
    publish(id, "dead_lettered", "no rule holds", "");
    expect_frame("MSA|AE|ONE\r", "no rule holds");
    send_message(peer, MESSAGE("ONE", "|||AL|NE")); /* nobody waits */
    ck_assert(!fake_intake_last()->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    expect_frame("MSA|CA|ONE\r", "ACK^A01^ACK");
    ck_assert_uint_eq(callers.count, 0);
}
END_TEST

START_TEST(a_refused_commit_has_no_application_acknowledgement)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", "|||AL|AL"));
    fake_intake_answer(ERR_UNAVAILABLE, NULL);
    expect_frame("MSA|CR|ONE\r", "the intake said no");
    publish(id, "completed", NULL, REPLY);
    expect_nothing();
    ck_assert_uint_eq(callers.count, 0);
}
END_TEST

START_TEST(a_repeat_in_enhanced_mode_is_told_the_first_ones_end)
{
    struct uuid first = uuid_new(1000);
    send_message(peer, MESSAGE("ONE", "|||AL|AL"));
    fake_intake_answer(ERR_NONE, &first);
    expect_frame("MSA|CA|ONE\r", "ACK^A01^ACK");
    publish(first, "completed", NULL, REPLY);
    expect_bytes(VT REPLY FS);
}
END_TEST

/* ---- hang-ups and ends ---- */

START_TEST(a_connection_that_closes_frees_its_places)
{
    struct peer *goes = peer_open(loop, stream_server_port(front.server));
    send_message(goes, MESSAGE("ONE", ""));
    send_message(goes, MESSAGE("TWO", "|||AL|AL"));
    fake_intake_answer(ERR_NONE, NULL); /* one waits for its end, one is in the intake */
    struct uuid third = send_message(goes, MESSAGE("THREE", ""));
    publish(third, "completed", NULL, REPLY); /* one is answered, not at the head */
    ck_assert_uint_eq(callers.count, 2);
    peer_reset(goes);
    wait_until(loop, callers.count == 0);
    fake_intake_answer(ERR_NONE, NULL);
    fake_intake_answer(_i ? ERR_UNAVAILABLE : ERR_NONE, NULL);
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
    wait_until(loop, stream_server_connections(front.server) == 1);
}
END_TEST

START_TEST(a_half_closed_peer_gets_what_it_is_owed)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_NONE, NULL);
    ck_assert_int_eq(shutdown(peer->fd, SHUT_WR), 0);
    expect_nothing();
    publish(id, "completed", NULL, REPLY);
    wait_until(loop, peer_ended(peer));
    expect_bytes(VT REPLY FS);
}
END_TEST

START_TEST(a_half_closed_peer_gets_its_application_acknowledgements)
{
    struct uuid id = send_message(peer, MESSAGE("ONE", "|||AL|AL"));
    ck_assert_int_eq(shutdown(peer->fd, SHUT_WR), 0);
    fake_intake_answer(ERR_NONE, NULL);
    expect_frame("MSA|CA|ONE\r", "ACK^A01^ACK");
    expect_nothing();
    ck_assert(!peer_ended(peer));
    publish(id, "completed", NULL, REPLY);
    wait_until(loop, peer_ended(peer));
    expect_bytes(VT REPLY FS);
}
END_TEST

START_TEST(a_drain_lets_senders_wait_and_a_stop_tells_them)
{
    struct peer *other = peer_open(loop, stream_server_port(front.server));
    struct uuid id = send_message(other, MESSAGE("ONE", ""));
    fake_intake_answer(ERR_NONE, NULL);
    struct uuid late = send_message(peer, MESSAGE("TWO", ""));
    fake_intake_answer(ERR_NONE, NULL);
    mllp_front_drain(&front);
    callers_drain(&callers);
    expect_nothing();
    publish(id, "completed", NULL, REPLY);
    wait_until(loop, peer_has(other, VT REPLY FS) && peer_ended(other));
    callers_stop(&callers);
    wait_until(loop, peer_has(peer, "MSA|AR|TWO\r"));
    expect_id(late);
    wait_until(loop, mllp_front_idle(&front) || (peer_ended(peer), false));
    peer_close(other);
}
END_TEST

START_TEST(what_is_left_is_freed)
{
    send_message(peer, MESSAGE("ONE", ""));
    send_message(peer, MESSAGE("TWO", ""));
    fake_intake_answer(ERR_NONE, NULL);
    send_message(peer, MESSAGE("THREE", "|||AL|AL")); /* teardown frees, with these in hand */
    ck_assert_uint_eq(callers.count, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mllp_sync");
    TCase *cases = tcase_create("mllp_sync");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, the_reply_is_handed_on_as_it_is);
    tcase_add_test(cases, any_other_reply_is_acknowledged);
    tcase_add_test(cases, what_cannot_be_framed_is_an_error);
    tcase_add_test(cases, replies_that_wait_for_their_turn_are_in_the_budget);
    tcase_add_test(cases, replies_that_nobody_reads_are_in_the_budget);
    tcase_add_test(cases, other_ends_are_errors);
    tcase_add_test(cases, the_time_is_up_with_the_id);
    tcase_add_test(cases, late_in_the_intake_is_told_when_there_is_a_message);
    tcase_add_test(cases, without_redis_nobody_can_wait);
    tcase_add_test(cases, the_intakes_errors_are_told);
    tcase_add_test(cases, answers_leave_in_the_order_of_the_frames);
    tcase_add_test(cases, repeats_have_the_same_key);
    tcase_add_test(cases, a_repeat_gets_the_first_ones_answer);
    tcase_add_test(cases, enhanced_mode_commits_first);
    tcase_add_test(cases, a_refused_commit_has_no_application_acknowledgement);
    tcase_add_test(cases, a_repeat_in_enhanced_mode_is_told_the_first_ones_end);
    tcase_add_loop_test(cases, a_connection_that_closes_frees_its_places, 0, 2);
    tcase_add_test(cases, a_half_closed_peer_gets_what_it_is_owed);
    tcase_add_test(cases, a_half_closed_peer_gets_its_application_acknowledgements);
    tcase_add_test(cases, a_drain_lets_senders_wait_and_a_stop_tells_them);
    tcase_add_test(cases, what_is_left_is_freed);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
