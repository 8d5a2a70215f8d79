/* A reload: the intake of the next production takes in while the one before still has messages in hand. */
#include "intake_fixture.h"

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered, queue_size: 1000, "
                           "persistence: {ack_timeout: 2000}}\n"
                           "  - {id: Light, class: Echo, queue_type: unordered, queue_size: 1000, "
                           "persistence: {ack_timeout: 2000}}\n";

static struct intake next[2]; /* `intake` is the first one */

static void adjust(void)
{
    item_of("Light")->persistence.wal_enabled = false;
}

static void setup(void)
{
    fixture_setup(yaml, adjust);
    for (int i = 0; i < 2; i++) {
        intake_init(&next[i], loop, production, &queue.queue, &store.store, metrics);
        next[i].on_unqueued = on_unqueued;
    }
}

static void teardown(void)
{
    fake_store_end(&store);
    fake_queue_end(&queue);
    fake_store_end(&store);
    for (int i = 0; i < 2; i++)
        intake_done(&next[i]);
    fixture_teardown();
}

static void succeed(int i)
{
    intake_succeed(&next[i], i == 0 ? &intake : &next[i - 1], false);
}

static void send_to(struct intake *to, const char *item)
{
    struct uuid id;
    struct err err;
    ck_assert_int_eq(intake_accept(to,
                                   &(struct intake_request){.item = item_of(item),
                                                            .body = body_of(hl7, strlen(hl7)),
                                                            .answered = on_answered,
                                                            .arg = &answers[request_count++]},
                                   &id, &err),
                     0);
}

static void turn(void)
{
    run_loop_turns(loop);
    grant_slots();
    run_loop_turns(loop);
}

static bool is_committing(void)
{
    struct fake_store_call *call;
    TAILQ_FOREACH(call, &store.calls, link)
    {
        if (call->op == FAKE_ACCEPT)
            return true;
    }
    return false;
}

START_TEST(what_waits_behind_a_commit_goes_first)
{
    struct fake_store_call *first = accepted("Echo", 1);
    send_to(&intake, "Echo");
    turn();
    succeed(0);
    send_to(&next[0], "Echo");
    send_to(&next[0], "Echo");
    turn();
    ck_assert(!is_committing());
    fake_store_answer(first, &fake_ok);
    turn();
    struct fake_store_call *second = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(second->count, 1); /* the one before alone */
    ck_assert(!is_committing());
    fake_store_answer(second, &fake_ok);
    turn();
    struct fake_store_call *third = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(third->count, 2);
    fake_store_answer(third, &fake_ok);
    RUN_LOOP_UNTIL(loop, answer_count == 4);
    ck_assert_int_eq(last_code, ERR_NONE);
}
END_TEST

START_TEST(what_waits_at_the_gate_goes_first)
{
    send_to(&intake, "Echo");
    struct fake_queue_call *slots = fake_queue_take(&queue, FAKE_SLOTS);
    succeed(0);
    send_to(&next[0], "Echo");
    turn(); /* the next one's gate has its slots */
    ck_assert(!is_committing());
    fake_queue_answer_slots(slots, &fake_ok, 1, 0);
    turn();
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 1);
    fake_store_answer(call, &fake_ok);
    turn();
    fake_store_answer(take_store(FAKE_ACCEPT), &fake_ok);
}
END_TEST

START_TEST(what_is_looked_up_goes_first)
{
    struct fake_store_call *call = accepted("Echo", 1);
    succeed(0);
    send_to(&next[0], "Echo");
    turn();
    fake_store_answer(call, &lost);
    turn();
    call = take_store(FAKE_KNOWN);
    ck_assert(!is_committing());
    fake_store_answer_flags(call, &fake_ok, (const bool[]){true});
    turn();
    fake_store_answer(take_store(FAKE_ACCEPT), &fake_ok);
}
END_TEST

START_TEST(what_was_looked_for_in_vain_holds_up_nobody)
{
    struct fake_store_call *call = accepted("Echo", 1);
    succeed(0);
    send_to(&next[0], "Echo");
    turn();
    fake_store_answer(call, &lost);
    turn();
    call = take_store(FAKE_KNOWN);
    ck_assert(!is_committing());
    fake_store_answer_flags(call, &fake_ok, (const bool[]){false});
    turn();
    fake_store_answer(take_store(FAKE_ACCEPT), &fake_ok);
}
END_TEST

START_TEST(nothing_waits_for_nothing)
{
    succeed(0);
    ck_assert(intake_quiet(&intake));
    send_to(&next[0], "Echo");
    turn();
    ck_assert(is_committing());
}
END_TEST

START_TEST(each_waits_for_all_before_it)
{
    struct fake_store_call *call = accepted("Echo", 1);
    succeed(0);
    succeed(1); /* nothing came in between */
    send_to(&next[1], "Echo");
    turn();
    ck_assert(!is_committing());
    ck_assert(!intake_quiet(&intake) && !intake_quiet(&next[0]));
    fake_store_answer(call, &fake_ok);
    turn();
    fake_store_answer(take_store(FAKE_ACCEPT), &fake_ok);
    RUN_LOOP_UNTIL(loop, answer_count == 2);
    ck_assert(!intake.held && !next[0].held);
}
END_TEST

START_TEST(what_redis_alone_keeps_is_sent_in_order)
{
    take_requests("Light", 1);
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
    succeed(0);
    send_to(&next[0], "Light");
    send_to(&next[0], "Echo"); /* by the WAL: nothing is before it */
    turn();
    ck_assert(is_committing());
    ck_assert(!is_enqueueing());
    fake_queue_answer_depth(call, &fake_ok, 1);
    turn();
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
}
END_TEST

START_TEST(what_is_refused_holds_up_nothing)
{
    struct fake_store_call *call = accepted("Echo", 1);
    succeed(0);
    send_to(&next[0], "Echo");
    turn();
    fake_store_answer(call, &away);
    turn();
    ck_assert_uint_eq(answer_count, 1);
    ck_assert(is_committing());
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, what_waits_behind_a_commit_goes_first);
    tcase_add_test(cases, what_waits_at_the_gate_goes_first);
    tcase_add_test(cases, what_is_looked_up_goes_first);
    tcase_add_test(cases, what_was_looked_for_in_vain_holds_up_nobody);
    tcase_add_test(cases, nothing_waits_for_nothing);
    tcase_add_test(cases, each_waits_for_all_before_it);
    tcase_add_test(cases, what_redis_alone_keeps_is_sent_in_order);
    tcase_add_test(cases, what_is_refused_holds_up_nothing);
}

int main(void)
{
    return run_cases("intake succession", add, setup, teardown);
}
