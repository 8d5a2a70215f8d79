/* Messages that Redis alone keeps: items whose persistence has no WAL. */
#include "intake_fixture.h"

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Light, class: Echo, queue_type: unordered, queue_size: 1000, "
                           "persistence: {ack_timeout: 150}}\n";

static void adjust(void)
{
    item_of("Light")->persistence.wal_enabled = false;
}

static void setup(void)
{
    fixture_setup(yaml, adjust);
}

/* `count` messages in an enqueue under way. */
static struct fake_queue_call *sent(size_t count)
{
    take_requests("Light", count);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* no commit */
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(call->count, count);
    return call;
}

static int64_t used(void)
{
    return gate_used(&intake.gate, item_of("Light"));
}

START_TEST(the_answer_waits_for_the_enqueue)
{
    struct err err;
    struct meta meta;
    struct fake_queue_call *call = sent(2);
    ck_assert_int_eq(meta_unpack(call->entries[0].meta, &meta, &err), 0);
    ck_assert(!meta.in_wal && !meta.stored);
    ck_assert_uint_eq(call->entries[0].body.len, strlen(hl7));
    int64_t until_ms = clock_mono_ms() + 80; /* longer than the wait for an enqueue by the WAL */
    while (clock_mono_ms() < until_ms)
        run_loop_once(loop);
    ck_assert_uint_eq(answer_count, 0);
    fake_queue_answer_depth(call, &fake_ok, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert_int_eq(used(), 2);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(the_database_is_not_needed)
{
    intake_link_changed(&intake, true, false);
    fake_queue_answer_depth(sent(1), &fake_ok, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
}
END_TEST

START_TEST(refused_while_redis_is_away)
{
    struct err err;
    intake_link_changed(&intake, false, true);
    ck_assert_int_eq(accept_body("Light", "x", &err), -1);
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    ck_assert(intake_idle(&intake));
    intake_link_changed(&intake, true, true);
    ck_assert_int_eq(accept_body("Light", "x", &err), 0);
    fake_queue_answer_slots(fake_queue_take(&queue, FAKE_SLOTS), &lost, 0, 0);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE); /* no counting without it */
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(an_enqueue_that_was_not_made_is_refused)
{
    fake_queue_answer_depth(sent(2), &away, 0);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE);
    ck_assert_int_eq(used(), 0);
    ck_assert_uint_eq(unqueued_count, 0);
    ck_assert(intake_idle(&intake));
}
END_TEST

static void lose_redis(void)
{
    fake_queue_end(&queue);
    intake_link_changed(&intake, false, true);
    run_loop_turns(loop);
}

START_TEST(an_unknown_outcome_is_tried_once_more)
{
    take_requests("Light", 1);
    lose_redis();
    ck_assert_uint_eq(answer_count, 0);
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    struct fake_queue_call *again = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(again->count, 1);
    fake_queue_answer_depth(again, &fake_ok, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert_int_eq(used(), 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_second_unknown_outcome_is_told)
{
    take_requests("Light", 1);
    lose_redis();
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    lose_redis();
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(what_was_not_sent_again_may_be_sent_later)
{
    take_requests("Light", 1);
    lose_redis();
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &away, 0);
    ck_assert_uint_eq(answer_count, 0);
    RUN_LOOP_UNTIL(loop, is_enqueueing());
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
}
END_TEST

START_TEST(a_redis_that_stays_away_is_told_at_ack_timeout)
{
    take_requests("Light", 1);
    lose_redis();
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert_int_eq(used(), 0); /* if it is there, the queue's depth says so */
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(ack_timeout_bounds_the_wait_for_a_slot)
{
    struct err err;
    ck_assert_int_eq(accept_body("Light", "x", &err), 0);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE); /* nothing was done */
    ck_assert(intake_idle(&intake));
    fake_queue_answer_slots(fake_queue_take(&queue, FAKE_SLOTS), &fake_ok, 1, 0);
    ck_assert_uint_eq(answer_count, 1);
}
END_TEST

START_TEST(ack_timeout_bounds_the_enqueue)
{
    static const struct err *const late[] = {&fake_ok, &away, &lost};
    static const int64_t left[] = {1, 0, 0};
    for (size_t i = 0; i < 3; i++) {
        struct fake_queue_call *call = sent(1);
        int64_t before = used() - 1;
        answer_count = 0;
        RUN_LOOP_UNTIL(loop, answer_count == 1);
        ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
        ck_assert(!intake_idle(&intake)); /* the call still holds it */
        fake_queue_answer_depth(call, late[i], before + 1);
        ck_assert_uint_eq(answer_count, 1);
        ck_assert_int_eq(used(), before + left[i]);
        ck_assert(intake_idle(&intake));
        fake_queue_end(&queue);
        fake_store_end(&store);
    }
}
END_TEST

START_TEST(an_enqueue_again_that_outlasts_ack_timeout_is_told)
{
    take_requests("Light", 1);
    lose_redis();
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    struct fake_queue_call *again = fake_queue_take(&queue, FAKE_ENQUEUE);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    fake_queue_answer_depth(again, &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(large_ones_and_those_with_a_key_go_by_the_wal)
{
    struct err err;
    struct meta meta;
    char *body = malloc(MESSAGE_INLINE_MAX + 1);
    memset(body, 'x', MESSAGE_INLINE_MAX + 1);
    struct intake_request large = {.item = item_of("Light"),
                                   .body = body_of(body, MESSAGE_INLINE_MAX + 1)};
    struct intake_request keyed = {.item = item_of("Light"),
                                   .body = body_of("x", 1),
                                   .dedup_key = uuid_new(1),
                                   .dedup_window_ms = 1000};
    ck_assert_int_eq(accept_request(large, &err), 0);
    ck_assert_int_eq(accept_request(keyed, &err), 0);
    grant_slots();
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 2);
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(meta_unpack(call->messages[i]->meta, &meta, &err), 0);
        ck_assert(meta.in_wal && meta.stored == (i == 0));
    }
    fake_store_answer(call, &fake_ok);
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
    ck_assert_uint_eq(answer_count, 2); /* the rows suffice */
    ck_assert_int_eq(last_code, ERR_NONE);
    intake_link_changed(&intake, true, false);
    ck_assert_int_eq(accept_request(large, &err), -1); /* they need the database */
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    ck_assert_int_eq(accept_request(keyed, &err), -1);
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    intake_link_changed(&intake, false, true); /* … and not Redis */
    ck_assert_int_eq(accept_request(keyed, &err), 0);
    free(body);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, the_answer_waits_for_the_enqueue);
    tcase_add_test(cases, the_database_is_not_needed);
    tcase_add_test(cases, refused_while_redis_is_away);
    tcase_add_test(cases, an_enqueue_that_was_not_made_is_refused);
    tcase_add_test(cases, an_unknown_outcome_is_tried_once_more);
    tcase_add_test(cases, a_second_unknown_outcome_is_told);
    tcase_add_test(cases, what_was_not_sent_again_may_be_sent_later);
    tcase_add_test(cases, a_redis_that_stays_away_is_told_at_ack_timeout);
    tcase_add_test(cases, ack_timeout_bounds_the_wait_for_a_slot);
    tcase_add_test(cases, ack_timeout_bounds_the_enqueue);
    tcase_add_test(cases, an_enqueue_again_that_outlasts_ack_timeout_is_told);
    tcase_add_test(cases, large_ones_and_those_with_a_key_go_by_the_wal);
}

int main(void)
{
    return run_cases("intake_alone", add, setup, fixture_teardown);
}
