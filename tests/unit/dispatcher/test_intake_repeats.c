/* Repeats: followers of what is in hand, and what the store says of keys. */
#include "intake_fixture.h"

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered, queue_size: 1000, "
                           "persistence: {ack_timeout: 400}}\n"
                           "  - {id: Hasty, class: Echo, queue_type: unordered, queue_size: 1000, "
                           "persistence: {ack_timeout: 60}}\n";
static struct uuid key, print;

static void setup(void)
{
    fixture_setup(yaml, NULL);
    key = uuid_new(1);
    print = uuid_new(2);
}

static int send_keyed(const char *item, struct uuid dedup_key, struct uuid fingerprint,
                      struct err *err)
{
    return accept_request((struct intake_request){.item = item_of(item),
                                                  .body = body_of("x", 1),
                                                  .dedup_key = dedup_key,
                                                  .dedup_fingerprint = fingerprint,
                                                  .dedup_window_ms = 60000},
                          err);
}

/* A first one and its repeats; the commit of the first one alone. */
static struct fake_store_call *with_followers(const char *item, size_t followers)
{
    struct err err;
    for (size_t i = 0; i <= followers; i++)
        ck_assert_int_eq(send_keyed(item, key, print, &err), 0);
    grant_slots();
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 1);
    return call;
}

static void check_all(size_t count, enum error_code code, struct uuid id)
{
    ck_assert_uint_eq(answer_count, count);
    for (size_t i = 0; i < count; i++) {
        ck_assert(answers[i].told);
        ck_assert_int_eq(answers[i].code, code);
        ck_assert(uuid_equal(answers[i].id, id));
        if (i > 0)
            ck_assert(answers[i].repeats);
    }
    ck_assert(intake_idle(&intake));
    ck_assert_uint_eq(intake.keys.count, 0);
}

static void enqueued(void)
{
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
}

START_TEST(followers_get_the_first_answer)
{
    struct fake_store_call *call = with_followers("Echo", 2);
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &fake_ok);
    struct err err;
    ck_assert_int_eq(send_keyed("Echo", key, print, &err), 0); /* durable, not yet answered */
    enqueued();
    check_all(4, ERR_NONE, id);
    ck_assert(!answers[0].repeats);
    ck_assert_int_eq(counter_of("hie_messages_accepted_total", "Echo"), 1);
    ck_assert_int_eq(counter_of("hie_messages_repeated_total", "Echo"), 3);
}
END_TEST

START_TEST(followers_get_the_first_error)
{
    struct fake_store_call *call = with_followers("Echo", 2);
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &away);
    check_all(3, ERR_UNAVAILABLE, id);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0);
}
END_TEST

START_TEST(followers_of_one_that_waits_for_a_slot_are_refused_with_it)
{
    struct err err;
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(send_keyed("Echo", key, print, &err), 0);
    struct fake_queue_call *slots = fake_queue_take(&queue, FAKE_SLOTS);
    ck_assert_int_le(slots->want, 1000 / 64); /* they take no slots */
    fake_queue_answer_slots(slots, &fake_ok, 0, 1000);
    check_all(3, ERR_QUEUE_FULL, answers[0].id);
}
END_TEST

START_TEST(another_message_with_the_key_is_refused)
{
    struct err err;
    struct fake_store_call *call = with_followers("Echo", 0);
    ck_assert_int_eq(send_keyed("Echo", key, uuid_new(3), &err), -1);
    ck_assert_int_eq(err.code, ERR_KEY_REUSED);
    ck_assert_int_eq(send_keyed("Echo", uuid_new(4), print, &err), 0); /* another key */
    fake_store_answer(call, &away);
    ck_assert_uint_eq(answer_count, 1);
}
END_TEST

START_TEST(the_store_knows_earlier_ones)
{
    struct uuid first = uuid_new(77);
    struct fake_store_call *call = with_followers("Echo", 1);
    call->messages[0]->repeats = first;
    fake_store_answer(call, &fake_ok);
    ck_assert(answers[0].repeats);
    check_all(2, ERR_NONE, first);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0); /* its slot is free */
    ck_assert_int_eq(counter_of("hie_messages_accepted_total", "Echo"), 0);
    ck_assert_int_eq(counter_of("hie_messages_repeated_total", "Echo"), 2);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_ENQUEUE));
}
END_TEST

START_TEST(the_store_knows_the_key_with_another_message)
{
    struct fake_store_call *call = with_followers("Echo", 1);
    call->messages[0]->repeats = uuid_new(77);
    call->messages[0]->repeats_otherwise = true;
    struct uuid first = call->messages[0]->repeats;
    fake_store_answer(call, &fake_ok);
    check_all(2, ERR_KEY_REUSED, first);
}
END_TEST

START_TEST(an_unknown_outcome_that_is_known_answers_all)
{
    struct fake_store_call *call = with_followers("Echo", 1);
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &lost);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){true});
    enqueued();
    check_all(2, ERR_NONE, id);
}
END_TEST

/* The first commit was lost and the look-up does not find the row: the second writing, under way. */
static struct fake_store_call *written_again(const char *item, size_t followers)
{
    fake_store_answer(with_followers(item, followers), &lost);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){false});
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 1);
    return call;
}

START_TEST(a_key_that_is_not_there_is_written_again)
{
    struct fake_store_call *call = written_again("Echo", 1);
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &fake_ok);
    enqueued();
    check_all(2, ERR_NONE, id);
}
END_TEST

START_TEST(a_row_that_was_left_out_as_a_repeat_is_found_out)
{
    struct uuid first = uuid_new(77);
    struct fake_store_call *call = written_again("Echo", 1);
    call->messages[0]->repeats = first;
    fake_store_answer(call, &fake_ok);
    check_all(2, ERR_NONE, first);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0);
}
END_TEST

START_TEST(a_lost_commit_that_came_after_all_repeats_itself)
{
    struct fake_store_call *call = written_again("Echo", 1);
    struct uuid id = call->messages[0]->id;
    call->messages[0]->repeats = id;
    fake_store_answer(call, &fake_ok);
    enqueued();
    check_all(2, ERR_NONE, id);
    ck_assert_int_eq(counter_of("hie_messages_accepted_total", "Echo"), 1);
}
END_TEST

START_TEST(writing_again_while_the_store_is_away_is_still_unknown)
{
    static const struct err *const ends[] = {&away, &lost};
    struct fake_store_call *call = written_again("Echo", 1);
    struct uuid id = call->messages[0]->id;
    for (size_t i = 0; i < 2; i++) {
        fake_store_answer(call, ends[i]);
        ck_assert_uint_eq(answer_count, 0);
        GRANT_UNTIL(fake_store_pending(&store) > 0 || answer_count > 0);
        if (answer_count)
            break; /* a slow machine: ack_timeout came first */
        fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){false});
        run_loop_turns(loop);
        call = take_store(FAKE_ACCEPT);
    }
    if (!answer_count) {
        RUN_LOOP_UNTIL(loop, answer_count == 2);
        fake_store_answer(call, &lost);
    } else {
        RUN_LOOP_UNTIL(loop, answer_count == 2);
    }
    check_all(2, ERR_OUTCOME_UNKNOWN, id);
}
END_TEST

START_TEST(a_refusal_of_its_data_after_all_is_told)
{
    struct fake_store_call *call = written_again("Echo", 1);
    struct uuid id = call->messages[0]->id;
    call->messages[0]->error = ERR_INVALID;
    fake_store_answer(call, &fake_ok);
    ck_assert_uint_eq(answer_count, 0); /* the lost commit may have come before it */
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){false});
    check_all(2, ERR_INVALID, id);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Echo")), 0);
}
END_TEST

START_TEST(a_lost_commit_that_makes_the_second_fail_is_found)
{
    static const struct err there = {.code = ERR_INVALID}; /* the id is there already */
    struct fake_store_call *call = written_again("Echo", 1);
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &there);
    ck_assert_uint_eq(answer_count, 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    fake_store_answer_flags(take_store(FAKE_KNOWN), &fake_ok, (const bool[]){true});
    enqueued();
    check_all(2, ERR_NONE, id);
}
END_TEST

START_TEST(writing_again_is_a_commit_of_its_own)
{
    struct err err;
    struct fake_store_call *again = written_again("Echo", 0);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0); /* does not wait for it */
    grant_slots();
    run_loop_turns(loop);
    struct fake_store_call *other = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(other->count, 1);
    fake_store_answer(again, &lost);
    fake_store_answer(other, &away);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert(answers[1].told);
}
END_TEST

/* The first one is answered as unknown, and its commit still holds the key; a repeat then waits for that commit. */
static struct fake_store_call *timed_out_then_followed(void)
{
    struct err err;
    struct fake_store_call *call = with_followers("Hasty", 0);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert_int_eq(send_keyed("Hasty", key, print, &err), 0);
    run_loop_turns(loop);
    ck_assert_uint_eq(answer_count, 1);
    return call;
}

START_TEST(a_late_commit_answers_those_who_came_after)
{
    struct fake_store_call *call = timed_out_then_followed();
    struct uuid id = call->messages[0]->id;
    fake_store_answer(call, &fake_ok);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert(answers[1].repeats && uuid_equal(answers[1].id, id));
    ck_assert_uint_eq(unqueued_count, 1);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_late_repeat_answers_those_who_came_after)
{
    struct uuid first = uuid_new(77);
    struct fake_store_call *call = timed_out_then_followed();
    call->messages[0]->repeats = first;
    call->messages[0]->repeats_otherwise = true;
    fake_store_answer(call, &fake_ok);
    ck_assert_int_eq(last_code, ERR_KEY_REUSED);
    ck_assert(uuid_equal(answers[1].id, first));
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Hasty")), 0);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_late_unknown_end_leaves_those_who_came_after_unknown)
{
    struct fake_store_call *call = timed_out_then_followed();
    fake_store_answer(call, &lost);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(intake_idle(&intake));
    ck_assert_uint_eq(intake.keys.count, 0);
}
END_TEST

START_TEST(a_follower_has_its_own_ack_timeout)
{
    struct fake_store_call *call = timed_out_then_followed();
    RUN_LOOP_UNTIL(loop, answer_count == 2);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert(uuid_equal(answers[1].id, call->messages[0]->id));
    fake_store_answer(call, &fake_ok);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(a_look_up_that_ends_late_answers_those_who_came_after)
{
    struct err err;
    fake_store_answer(with_followers("Hasty", 0), &lost);
    struct fake_store_call *known = take_store(FAKE_KNOWN);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(send_keyed("Hasty", key, print, &err), 0);
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true});
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

static size_t chained;

/* A front goes on with its next message from inside an answer. */
static void on_answered_goes_on(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    struct err err;
    on_answered(arg, id, repeats, error);
    if (chained++ == 0)
        ck_assert_int_eq(send_keyed("Echo", key, print, &err), 0);
}

START_TEST(an_answer_may_bring_the_next_one)
{
    struct err err;
    struct uuid id;
    struct intake_request request = {.item = item_of("Echo"),
                                     .body = body_of("x", 1),
                                     .dedup_key = key,
                                     .dedup_fingerprint = print,
                                     .dedup_window_ms = 60000,
                                     .answered = on_answered_goes_on,
                                     .arg = &answers[ANSWERS_MAX - 1]};
    chained = 0;
    ck_assert_int_eq(intake_accept(&intake, &request, &id, &err), 0);
    ck_assert_int_eq(send_keyed("Echo", key, print, &err), 0);
    grant_slots();
    run_loop_turns(loop);
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
    ck_assert_uint_eq(answer_count, 2); /* the next one is a first one again */
    run_loop_turns(loop);
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
    ck_assert_uint_eq(answer_count, 3);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(many_keys_are_found)
{
    struct err err;
    enum { COUNT = 60 };
    struct uuid keys[COUNT];
    for (int i = 0; i < COUNT; i++) {
        keys[i] = uuid_new(i);
        ck_assert_int_eq(send_keyed("Echo", keys[i], print, &err), 0);
    }
    struct intake_request request = {
        .item = item_of("Echo"), .body = body_of("x", 1), .answered = on_answered};
    static struct answer more[200];
    for (int i = 0; i < 200; i++) { /* grows the table */
        struct uuid id;
        request.dedup_key = uuid_new(1000 + i);
        request.arg = &more[i];
        ck_assert_int_eq(intake_accept(&intake, &request, &id, &err), 0);
    }
    for (int i = 0; i < COUNT; i++) {
        ck_assert_int_eq(send_keyed("Echo", keys[i], uuid_new(9), &err), -1);
        ck_assert_int_eq(err.code, ERR_KEY_REUSED);
    }
    ck_assert_uint_eq(intake.keys.count, COUNT + 200);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, followers_get_the_first_answer);
    tcase_add_test(cases, followers_get_the_first_error);
    tcase_add_test(cases, followers_of_one_that_waits_for_a_slot_are_refused_with_it);
    tcase_add_test(cases, another_message_with_the_key_is_refused);
    tcase_add_test(cases, the_store_knows_earlier_ones);
    tcase_add_test(cases, the_store_knows_the_key_with_another_message);
    tcase_add_test(cases, an_unknown_outcome_that_is_known_answers_all);
    tcase_add_test(cases, a_key_that_is_not_there_is_written_again);
    tcase_add_test(cases, a_row_that_was_left_out_as_a_repeat_is_found_out);
    tcase_add_test(cases, a_lost_commit_that_came_after_all_repeats_itself);
    tcase_add_test(cases, writing_again_while_the_store_is_away_is_still_unknown);
    tcase_add_test(cases, a_refusal_of_its_data_after_all_is_told);
    tcase_add_test(cases, a_lost_commit_that_makes_the_second_fail_is_found);
    tcase_add_test(cases, writing_again_is_a_commit_of_its_own);
    tcase_add_test(cases, a_late_commit_answers_those_who_came_after);
    tcase_add_test(cases, a_late_repeat_answers_those_who_came_after);
    tcase_add_test(cases, a_late_unknown_end_leaves_those_who_came_after_unknown);
    tcase_add_test(cases, a_follower_has_its_own_ack_timeout);
    tcase_add_test(cases, a_look_up_that_ends_late_answers_those_who_came_after);
    tcase_add_test(cases, an_answer_may_bring_the_next_one);
    tcase_add_test(cases, many_keys_are_found);
}

int main(void)
{
    return run_cases("intake_repeats", add, setup, fixture_teardown);
}
