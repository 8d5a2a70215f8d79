/* The intake machine with a fake store and queue: every way by the WAL from accept to answer. */
#include "intake_fixture.h"

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered, queue_size: 3, "
                           "persistence: {ack_timeout: 60}}\n"
                           "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, "
                           "settings: {default: [Echo]}}\n"
                           "  - {id: Off, class: Echo, queue_type: unordered, enabled: false}\n";
static void setup(void)
{
    fixture_setup(yaml, NULL);
}

START_TEST(answers_after_commit_and_enqueue)
{
    struct fake_store_call *call = accepted("Router", 2);
    ck_assert_uint_eq(answer_count, 0);
    ck_assert_str_eq(call->messages[0]->item, "Router");
    ck_assert(slice_is(call->messages[0]->control_id, "CTL1"));
    ck_assert(slice_is(call->messages[0]->message_type, "ADT^A01"));
    fake_store_answer(call, &fake_ok);
    run_loop_turns(loop);
    ck_assert_uint_eq(answer_count, 0);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(enqueue->count, 2);
    fake_queue_answer_depth(enqueue, &fake_ok, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(gathers_while_a_commit_is_under_way)
{
    struct fake_store_call *first = accepted("Echo", 1);
    struct err err;
    ck_assert_int_eq(accept_body("Echo", "a", &err), 0);
    ck_assert_int_eq(accept_body("Echo", "b", &err), 0);
    grant_slots();
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    fake_store_answer(first, &fake_ok);
    run_loop_turns(loop);
    struct fake_store_call *second = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(second->count, 2);
    fake_store_answer(second, &fake_ok);
}
END_TEST

START_TEST(refuses_at_the_door)
{
    struct err err;
    ck_assert_int_eq(accept_body("Off", "x", &err), -1);
    ck_assert_int_eq(err.code, ERR_NOT_FOUND);
    ck_assert_int_eq(accept_body("Echo", "", &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(accept_body("Router", "not hl7", &err), -1);
    ck_assert_int_eq(err.code, ERR_NOT_HL7);
    ck_assert_int_eq(accept_body("Router", "BHS|^~\\&|A\rMSH|^~\\&|A\r", &err), -1);
    ck_assert_int_eq(err.code, ERR_UNSUPPORTED);
    intake_link_changed(&intake, true, false);
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1);
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    ck_assert(intake_idle(&intake));
    ck_assert_uint_eq(answer_count, 0);
}
END_TEST

START_TEST(a_database_that_is_away_writes_nothing)
{
    fake_store_answer(accepted("Echo", 3), &away);
    ck_assert_uint_eq(answer_count, 3);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE);
    ck_assert(intake_idle(&intake));
    fake_store_answer(accepted("Echo", 3), &away); /* its slots are free again */
}
END_TEST

START_TEST(a_refused_row_is_refused_alone)
{
    struct fake_store_call *call = accepted("Echo", 2);
    call->messages[0]->error = ERR_INVALID;
    fake_store_answer(call, &fake_ok);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_INVALID);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(enqueue->count, 1);
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 2);
}
END_TEST

START_TEST(an_unknown_outcome_is_looked_up)
{
    fake_store_answer(accepted("Router", 2), &lost);
    ck_assert_uint_eq(answer_count, 0);
    struct fake_store_call *known = take_store(FAKE_KNOWN);
    ck_assert_uint_eq(known->count, 2);
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true, false});
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
    /* The lost link's commit comes late. */
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    known = take_store(FAKE_KNOWN);
    ck_assert_uint_eq(known->count, 1);
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true});
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(what_stays_unknown_is_answered_so)
{
    const struct item *item = production_find(production, SLICE_LITERAL("Echo"));
    fake_store_answer(accepted("Echo", 1), &lost);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){false});
    ck_assert_uint_eq(answer_count, 0); /* not known is not refused */
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(!uuid_is_none(answers[0].id));
    ck_assert_uint_eq(unqueued_count, 1);
    ck_assert_int_eq(gate_used(&intake.gate, item), 1); /* it may be there */
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(each_has_its_own_ack_timeout)
{
    struct err err;
    struct fake_store_call *call = accepted("Router", 1);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0); /* behind the one that may wait longer */
    grant_slots();
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    run_loop_turns(loop);
    ck_assert_uint_eq(answer_count, 1);
    fake_store_answer(call, &fake_ok);
}
END_TEST

START_TEST(all_bytes_in_hand_have_one_budget)
{
    struct err err;
    size_t held = 0, other = 0;
    intake.budget->bytes_max = 100000;
    ck_assert(intake_hold(&intake, &held, 60000));
    ck_assert(!intake_hold(&intake, &other, 60000));
    ck_assert_uint_eq(other, 0);
    ck_assert(intake_hold(&intake, &other, 39900));
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1); /* no room for its structure */
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    ck_assert(intake_hold(&intake, &held, 0));
    ck_assert(intake_hold(&intake, &other, 0));
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    ck_assert_uint_gt(intake.budget->bytes_in_hand, sizeof(struct store_message));
}
END_TEST

START_TEST(ack_timeout_bounds_the_wait)
{
    struct fake_store_call *call = accepted("Echo", 1);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(!intake_idle(&intake));  /* the commit still holds it */
    fake_store_answer(call, &fake_ok); /* accepted after all: the reconciler brings it */
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_uint_eq(unqueued_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_slow_enqueue_does_not_hold_the_answer)
{
    fake_store_answer(accepted("Echo", 1), &fake_ok);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_NONE);
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(redis_away_does_not_hold_the_answer)
{
    intake_link_changed(&intake, false, true);
    fake_store_answer(accepted("Echo", 3), &fake_ok);
    ck_assert_uint_eq(answer_count, 3);
    ck_assert_int_eq(last_code, ERR_NONE);
    struct err err;
    ck_assert_int_eq(accept_body("Echo", "x", &err),
                     -1); /* counted against queue_size all the same */
    ck_assert_int_eq(err.code, ERR_QUEUE_FULL);
}
END_TEST

START_TEST(a_failed_enqueue_is_the_reconcilers)
{
    fake_store_answer(accepted("Echo", 2), &fake_ok);
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert_uint_eq(unqueued_count, 2);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 2);
}
END_TEST

START_TEST(a_large_body_stays_in_the_store)
{
    char *body = malloc(MESSAGE_INLINE_MAX + 2);
    memset(body, 'x', MESSAGE_INLINE_MAX + 1);
    body[MESSAGE_INLINE_MAX + 1] = '\0';
    struct err err;
    ck_assert_int_eq(accept_body("Echo", body, &err), 0);
    free(body);
    grant_slots();
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->messages[0]->body.len, MESSAGE_INLINE_MAX + 1);
    fake_store_answer(call, &fake_ok);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    struct meta meta;
    ck_assert_uint_eq(enqueue->entries[0].body.len, 0);
    ck_assert_int_eq(meta_unpack(enqueue->entries[0].meta, &meta, &err), 0);
    ck_assert(meta.stored && meta.in_wal);
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
}
END_TEST

START_TEST(a_lost_commit_is_looked_up_when_the_database_is_back)
{
    take_requests("Router", 1);
    fake_store_end(&store); /* between commit and reply; the look-up is lost too */
    intake_link_changed(&intake, true, false);
    run_loop_turns(loop);
    ck_assert_uint_eq(answer_count, 0);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* nobody is asked while it is away */
    intake_link_changed(&intake, true, true);
    fake_store_end(&store); /* the gate's count */
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){true});
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_database_that_stays_away_is_told_at_ack_timeout)
{
    take_requests("Echo", 1);
    fake_store_end(&store);
    intake_link_changed(&intake, true, false);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_look_up_that_outlasts_ack_timeout_frees_its_message)
{
    fake_store_answer(accepted("Echo", 1), &lost);
    struct fake_store_call *known = take_store(FAKE_KNOWN);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(!intake_idle(&intake));
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true});
    ck_assert_uint_eq(answer_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_commit_that_fails_after_ack_timeout_gives_the_slot_back)
{
    struct fake_store_call *call = accepted("Echo", 1);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 1);
    fake_store_answer(call, &away);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(an_enqueue_that_fails_after_the_answer_is_the_reconcilers)
{
    fake_store_answer(accepted("Echo", 1), &fake_ok);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert(!intake_idle(&intake));
    fake_queue_answer_depth(enqueue, &away, 0);
    ck_assert_uint_eq(unqueued_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

/* ---- RESERVING ---- */

START_TEST(waits_for_a_slot_and_keeps_the_order)
{
    struct err err;
    ck_assert_int_eq(accept_body("Router", hl7, &err), 0);
    ck_assert_int_eq(accept_body("Router", hl7, &err), 0);
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    struct fake_queue_call *slots = fake_queue_take(&queue, FAKE_SLOTS);
    ck_assert_int_eq(accept_body("Router", hl7, &err), 0); /* after the call, before its answer */
    fake_queue_answer_slots(slots, &fake_ok, 5, 0);
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 3);
    for (size_t i = 1; i < 3; i++)
        ck_assert_int_lt(memcmp(&call->messages[i - 1]->id, &call->messages[i]->id, 16), 0);
    fake_store_answer(call, &fake_ok);
}
END_TEST

START_TEST(a_full_queue_is_told_after_one_round_trip)
{
    struct err err;
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    struct fake_queue_call *slots = fake_queue_take(&queue, FAKE_SLOTS);
    ck_assert_int_eq(slots->want, 1); /* called for the first; the others gather */
    fake_queue_answer_slots(slots, &fake_ok, 0, 3);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_QUEUE_FULL);
    slots = fake_queue_take(&queue, FAKE_SLOTS);
    ck_assert_int_eq(slots->want, 2);
    fake_queue_answer_slots(slots, &fake_ok, 1, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert(answers[2].told && !answers[1].told); /* the earlier one has the slot */
    run_loop_turns(loop);
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_slot_that_redis_cannot_give_is_counted_here)
{
    struct err err;
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    fake_queue_answer_slots(fake_queue_take(&queue, FAKE_SLOTS), &lost, 0, 0);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_QUEUE_FULL);
    ck_assert(answers[3].told);
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 3);
    fake_store_answer(call, &away);
}
END_TEST

START_TEST(a_slow_answer_about_a_slot_is_not_waited_for)
{
    struct err err;
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 3);
    ck_assert(answers[3].told);
    ck_assert_int_eq(last_code, ERR_QUEUE_FULL); /* by what is known here */
    fake_store_answer(call, &away);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0); /* at once, while the call hangs */
    run_loop_turns(loop);
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_slot_that_comes_when_the_database_is_gone_is_given_back)
{
    struct err err;
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    intake_link_changed(&intake, true, false);
    grant_slots();
    run_loop_turns(loop);
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, answers_after_commit_and_enqueue);
    tcase_add_test(cases, gathers_while_a_commit_is_under_way);
    tcase_add_test(cases, refuses_at_the_door);
    tcase_add_test(cases, a_database_that_is_away_writes_nothing);
    tcase_add_test(cases, a_refused_row_is_refused_alone);
    tcase_add_test(cases, an_unknown_outcome_is_looked_up);
    tcase_add_test(cases, what_stays_unknown_is_answered_so);
    tcase_add_test(cases, each_has_its_own_ack_timeout);
    tcase_add_test(cases, all_bytes_in_hand_have_one_budget);
    tcase_add_test(cases, ack_timeout_bounds_the_wait);
    tcase_add_test(cases, a_slow_enqueue_does_not_hold_the_answer);
    tcase_add_test(cases, redis_away_does_not_hold_the_answer);
    tcase_add_test(cases, a_failed_enqueue_is_the_reconcilers);
    tcase_add_test(cases, a_large_body_stays_in_the_store);
    tcase_add_test(cases, a_lost_commit_is_looked_up_when_the_database_is_back);
    tcase_add_test(cases, a_database_that_stays_away_is_told_at_ack_timeout);
    tcase_add_test(cases, a_look_up_that_outlasts_ack_timeout_frees_its_message);
    tcase_add_test(cases, a_commit_that_fails_after_ack_timeout_gives_the_slot_back);
    tcase_add_test(cases, an_enqueue_that_fails_after_the_answer_is_the_reconcilers);
    tcase_add_test(cases, waits_for_a_slot_and_keeps_the_order);
    tcase_add_test(cases, a_full_queue_is_told_after_one_round_trip);
    tcase_add_test(cases, a_slot_that_redis_cannot_give_is_counted_here);
    tcase_add_test(cases, a_slow_answer_about_a_slot_is_not_waited_for);
    tcase_add_test(cases, a_slot_that_comes_when_the_database_is_gone_is_given_back);
}

int main(void)
{
    return run_cases("intake", add, setup, fixture_teardown);
}
