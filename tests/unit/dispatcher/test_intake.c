/* The intake machine with a fake store and queue: every way from accept to answer. */
#include "intake.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>
#include <stdio.h>

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered, queue_size: 3, "
                           "persistence: {ack_timeout: 60}}\n"
                           "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, "
                           "settings: {default: [Echo]}}\n"
                           "  - {id: Off, class: Echo, queue_type: unordered, enabled: false}\n";
static const char hl7[] = "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL1|P|2.5\rPID|1||42\r";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static size_t answer_count, unqueued_count;
static struct err last_error;
static struct uuid last_id;

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    (void)repeats;
    (void)arg;
    answer_count++;
    last_id = id;
    last_error = *error;
}

static void on_unqueued(void *arg)
{
    (void)arg;
    unqueued_count++;
}

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    intake_init(&intake, loop, production, &queue.queue, &store.store, metrics);
    intake.on_unqueued = on_unqueued;
    intake_link_changed(&intake, true, true);
    fake_store_end(&store); /* the gate's first questions */
    fake_queue_end(&queue);
    answer_count = unqueued_count = 0;
}

static void teardown(void)
{
    fake_store_end(&store);
    fake_queue_end(&queue);
    intake_done(&intake);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static int accept_body(const char *item, const char *body, struct err *err)
{
    struct intake_request request = {.item = production_find(production, slice_text(item)),
                                     .body = body_of(body, strlen(body)),
                                     .answered = on_answered};
    struct uuid id;
    ck_assert_ptr_nonnull(request.item);
    return intake_accept(&intake, &request, &id, err);
}

static struct fake_store_call *accepted(const char *item, size_t count)
{
    struct err err;
    for (size_t i = 0; i < count; i++)
        ck_assert_int_eq(accept_body(item, hl7, &err), 0);
    run_loop_turns(loop);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, count);
    return call;
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
    ck_assert_int_eq(last_error.code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(gathers_while_a_commit_is_under_way)
{
    struct fake_store_call *first = accepted("Echo", 1);
    struct err err;
    ck_assert_int_eq(accept_body("Echo", "a", &err), 0);
    ck_assert_int_eq(accept_body("Echo", "b", &err), 0);
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    fake_store_answer(first, &fake_ok);
    run_loop_turns(loop);
    struct fake_store_call *second = fake_store_take(&store, FAKE_ACCEPT);
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

START_TEST(admits_queue_size_and_no_more)
{
    struct err err;
    struct fake_store_call *call = accepted("Echo", 3);
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1);
    ck_assert_int_eq(err.code, ERR_QUEUE_FULL);
    fake_store_answer(call, &fake_ok);
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 3);
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1);
    /* One ends; the gate hears of it. */
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 0);
    struct fake_queue_call *depth = fake_queue_take(&queue, FAKE_DEPTH);
    queue_depth_done *done = (queue_depth_done *)depth->done;
    done(depth->arg, &fake_ok, &(struct queue_depth){.waiting = 1, .in_hand = 1});
    free(depth);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1);
}
END_TEST

START_TEST(a_database_that_is_away_writes_nothing)
{
    struct err away = {.code = ERR_UNAVAILABLE};
    fake_store_answer(accepted("Echo", 3), &away);
    ck_assert_uint_eq(answer_count, 3);
    ck_assert_int_eq(last_error.code, ERR_UNAVAILABLE);
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
    ck_assert_int_eq(last_error.code, ERR_INVALID);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(enqueue->count, 1);
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 2);
}
END_TEST

START_TEST(an_unknown_outcome_is_looked_up)
{
    struct err unknown = {.code = ERR_OUTCOME_UNKNOWN};
    fake_store_answer(accepted("Router", 2), &unknown);
    ck_assert_uint_eq(answer_count, 0);
    struct fake_store_call *known = fake_store_take(&store, FAKE_KNOWN);
    ck_assert_uint_eq(known->count, 2);
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true, false});
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_error.code, ERR_NONE);
    /* The lost link's commit comes late. */
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    known = fake_store_take(&store, FAKE_KNOWN);
    ck_assert_uint_eq(known->count, 1);
    fake_store_answer_flags(known, &fake_ok, (const bool[]){true});
    run_loop_turns(loop);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 2);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_error.code, ERR_NONE);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(what_stays_unknown_is_answered_so)
{
    struct err unknown = {.code = ERR_OUTCOME_UNKNOWN};
    const struct item *item = production_find(production, SLICE_LITERAL("Echo"));
    fake_store_answer(accepted("Echo", 1), &unknown);
    fake_store_answer_flags(fake_store_take(&store, FAKE_KNOWN), &fake_ok, (const bool[]){false});
    ck_assert_uint_eq(answer_count, 0); /* not known is not refused */
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_error.code, ERR_OUTCOME_UNKNOWN);
    ck_assert(!uuid_is_none(last_id));
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
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_error.code, ERR_OUTCOME_UNKNOWN);
    run_loop_turns(loop);
    ck_assert_uint_eq(answer_count, 1);
    fake_store_answer(call, &fake_ok);
}
END_TEST

START_TEST(all_bytes_in_hand_have_one_budget)
{
    struct err err;
    size_t held = 0, other = 0;
    intake.bytes_max = 100000;
    ck_assert(intake_hold(&intake, &held, 60000));
    ck_assert(!intake_hold(&intake, &other, 60000));
    ck_assert_uint_eq(other, 0);
    ck_assert(intake_hold(&intake, &other, 39900));
    ck_assert_int_eq(accept_body("Echo", "x", &err), -1); /* no room for its structure */
    ck_assert_int_eq(err.code, ERR_UNAVAILABLE);
    ck_assert(intake_hold(&intake, &held, 0));
    ck_assert(intake_hold(&intake, &other, 0));
    ck_assert_uint_eq(intake.bytes_in_hand, 0);
    ck_assert_int_eq(accept_body("Echo", "x", &err), 0);
    ck_assert_uint_gt(intake.bytes_in_hand, sizeof(struct store_message));
}
END_TEST

START_TEST(ack_timeout_bounds_the_wait)
{
    struct fake_store_call *call = accepted("Echo", 1);
    RUN_LOOP_UNTIL(loop, answer_count == 1);
    ck_assert_int_eq(last_error.code, ERR_OUTCOME_UNKNOWN);
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
    ck_assert_int_eq(last_error.code, ERR_NONE);
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
    ck_assert_int_eq(last_error.code, ERR_NONE);
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
    struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
    ck_assert_uint_eq(answer_count, 2);
    ck_assert_int_eq(last_error.code, ERR_NONE);
    ck_assert_uint_eq(unqueued_count, 1);
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
    run_loop_turns(loop);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ACCEPT);
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

int main(void)
{
    Suite *suite = suite_create("intake");
    TCase *cases = tcase_create("machine");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, answers_after_commit_and_enqueue);
    tcase_add_test(cases, gathers_while_a_commit_is_under_way);
    tcase_add_test(cases, refuses_at_the_door);
    tcase_add_test(cases, admits_queue_size_and_no_more);
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
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
