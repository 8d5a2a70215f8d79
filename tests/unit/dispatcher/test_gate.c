/* Gates over one fake Redis, which counts slots as schemas/redis.md says, and a fake store. */
#include "gate.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "gate_check.h"
#include "run_loop.h"

#include <check.h>

#define GATES 2
#define WAITERS_MAX (GATE_WAITING_MAX + 10u)

static const char yaml[] =
    "production: {name: test}\n"
    "items:\n"
    "  - {id: Small, class: Echo, queue_type: unordered, queue_size: 3}\n"
    "  - {id: Large, class: Echo, queue_type: unordered, queue_size: 64000}\n"
    "  - {id: Mid, class: Echo, queue_type: unordered, queue_size: 640}\n";

static struct loop *loop;
static struct production *production;
static struct fake_queue queue;
static struct fake_store store;
static struct gate gates[GATES];
static const struct item *item; /* under test */
static struct waiting {
    struct gate_waiter waiter;
    unsigned told;
    enum gate_verdict verdict;
    int gate;
} waiters[WAITERS_MAX];
static size_t waiter_count, tells[GATE_AWAY + 1];

/* What Redis has of the item under test. */
static struct {
    int64_t depth, slots[GATES];
    int64_t other_depth; /* of its queue of another pattern */
    size_t calls;
} redis;

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    fake_queue_init(&queue);
    fake_store_init(&store);
    for (int i = 0; i < GATES; i++) {
        gate_init(&gates[i], loop, production, &queue.queue, &store.store);
        gate_link_changed(&gates[i], true, true);
    }
    fake_store_end(&store);
    memset(&redis, 0, sizeof(redis));
    memset(waiters, 0, sizeof(waiters));
    memset(tells, 0, sizeof(tells));
    waiter_count = 0;
}

static void check_gates(void)
{
    for (int i = 0; i < GATES; i++)
        gate_check(&gates[i]);
}

static void teardown(void)
{
    check_gates();
    fake_queue_end(&queue);
    fake_store_end(&store);
    check_gates();
    for (int i = 0; i < GATES; i++)
        gate_done(&gates[i]);
    loop_free(loop);
    production_free(production);
}

static void use(const char *id)
{
    item = production_find(production, slice_text(id));
}

static struct gate_item *gated(int gate)
{
    return &gates[gate].items[item->index];
}

static void on_told(struct gate_waiter *waiter, enum gate_verdict verdict)
{
    struct waiting *waiting = (struct waiting *)waiter;
    ck_assert_uint_eq(waiting->told++, 0);
    waiting->verdict = verdict;
    tells[verdict]++;
}

static enum gate_verdict ask(int gate)
{
    ck_assert_uint_lt(waiter_count, WAITERS_MAX);
    struct waiting *waiting = &waiters[waiter_count++];
    *waiting = (struct waiting){.waiter = {.told = on_told}, .gate = gate};
    return gate_admit(&gates[gate], item, &waiting->waiter);
}

static int gate_of(const char *holder)
{
    for (int i = 0; i < GATES; i++) {
        if (strcmp(gates[i].holder, holder) == 0)
            return i;
    }
    ck_abort_msg("an unknown holder");
    return -1;
}

/* Carries out the oldest call. */
static void serve_one(void)
{
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_SLOTS);
    ck_assert_str_eq(call->name.item, item->id);
    int own = gate_of(call->holder);
    int64_t others = 0;
    for (int i = 0; i < GATES; i++)
        others += i == own ? 0 : redis.slots[i];
    bool is_other = call->name.pattern == PATTERN_CONCURRENT_ASYNC;
    int64_t depth = is_other ? redis.other_depth : redis.depth;
    int64_t free_slots = call->limit - depth - others - call->held;
    int64_t granted = call->want < free_slots ? call->want : free_slots;
    if (granted < 0)
        granted = 0;
    redis.slots[own] = call->held + granted;
    redis.calls++;
    fake_queue_answer_slots(call, &fake_ok, granted, depth);
    check_gates();
}

static void serve(void)
{
    while (fake_queue_pending(&queue))
        serve_one();
}

/* An admitted message goes into the queue. */
static void enqueue(int gate)
{
    gate_sent(&gates[gate], item, 1);
    redis.depth++;
    gate_queued(&gates[gate], item, 1, redis.depth);
    check_gates();
}

static void run_ms(int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms;
    while (clock_mono_ms() < until_ms) {
        run_loop_once(loop);
        check_gates();
        serve();
    }
}

START_TEST(a_small_queue_is_shared_slot_by_slot)
{
    use("Small");
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(ask(i % 2), GATE_WAITS);
        serve();
    }
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3);
    ck_assert_uint_eq(tells[GATE_FULL], 2);
    ck_assert_uint_eq(redis.calls, 5); /* one round trip each, full or not */
    enqueue(0);
    enqueue(1);
    ck_assert_int_eq(ask(1), GATE_WAITS); /* two in the queue, one on its way */
    serve();
    ck_assert_uint_eq(tells[GATE_FULL], 3);
    redis.depth--; /* one ends */
    run_ms(60);    /* the other gate's call is fresh soon */
    ck_assert_int_eq(ask(1), GATE_WAITS);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 4);
}
END_TEST

START_TEST(what_an_enqueue_was_called_for_is_not_counted_twice)
{
    use("Small");
    ask(0);
    serve();
    gate_sent(&gates[0], item, 1);
    redis.depth = 1; /* carried out, its answer is on the way */
    ask(0);
    ask(0); /* gathers behind the call */
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3);
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_FULL], 1);
    gate_unsent(&gates[0], item, 1); /* it failed after all */
    redis.depth = 0;
    gate_unqueued(&gates[0], item, 1);
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_FULL], 2); /* durable, so it counts */
}
END_TEST

START_TEST(a_large_queue_is_reserved_in_blocks)
{
    use("Large");
    ask(0);
    serve();
    ck_assert_int_eq(gated(0)->free, 999); /* a 64th of 64,000 */
    size_t calls = redis.calls;
    for (int i = 0; i < 4000; i++) {
        ck_assert_int_eq(ask(0), GATE_ADMITTED); /* nobody waits: it asks ahead */
        enqueue(0);
        if (i % 100 == 0)
            serve();
    }
    ck_assert_uint_le(redis.calls - calls, 20);
    ck_assert_int_eq(redis.depth, 4000);
}
END_TEST

START_TEST(two_gates_never_admit_too_many)
{
    use("Mid");
    size_t admitted = 0;
    for (int i = 0; i < 1500; i++) {
        admitted += ask(i % 2) == GATE_ADMITTED;
        if (i % 3 == 0 && fake_queue_pending(&queue))
            serve_one();
    }
    serve();
    ck_assert_uint_eq(admitted + tells[GATE_ADMITTED],
                      640); /* exactly: nothing is hoarded at the end */
    ck_assert_uint_eq(tells[GATE_FULL], 1500 - 640);
    for (int i = 0; i < GATES; i++)
        ck_assert_int_eq(gated(i)->free, 0);
}
END_TEST

START_TEST(free_slots_are_given_back_when_it_is_quiet)
{
    use("Large");
    ask(0);
    serve();
    ck_assert_int_eq(redis.slots[0], 1000);
    run_ms(2200);
    ck_assert_int_eq(redis.slots[0], 1); /* the one on its way */
    ck_assert_int_eq(gated(0)->free, 0);
    enqueue(0);
    run_ms(2200);
    ck_assert_int_eq(redis.slots[0], 0);
}
END_TEST

START_TEST(what_is_held_is_renewed)
{
    use("Small");
    ask(0);
    serve();
    size_t calls = redis.calls;
    run_ms(2300);
    ck_assert_uint_ge(redis.calls, calls + 2);
    ck_assert_int_eq(redis.slots[0], 1);
}
END_TEST

START_TEST(ten_thousand_at_once_are_admitted)
{
    use("Large");
    for (unsigned i = 0; i < 10000; i++)
        ck_assert_int_eq(ask(0), GATE_WAITS);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 10000);
}
END_TEST

START_TEST(too_many_do_not_wait)
{
    use("Large");
    for (unsigned i = 0; i < GATE_WAITING_MAX; i++)
        ck_assert_int_eq(ask(0), GATE_WAITS);
    ck_assert_int_eq(ask(0), GATE_AWAY); /* not full: nobody knows */
    gate_leave(&gates[0], item, &waiters[5].waiter);
    ck_assert_int_eq(ask(0), GATE_WAITS);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], GATE_WAITING_MAX);
    ck_assert_uint_eq(waiters[5].told, 0);
}
END_TEST

static void answer_counts(int64_t unfinished)
{
    struct fake_store_call *call = fake_store_take(&store, FAKE_COUNTS);
    struct store_count count = {.item = item->id, .count = unfinished};
    ((store_counts_done *)call->done)(call->arg, &fake_ok, &count, 1);
    free(call);
}

/* Both links of the first gate, the second one's queue stays. */
static void links(bool queue_up, bool store_up)
{
    run_ms(5); /* counting takes its share of the time only */
    gate_link_changed(&gates[0], queue_up, store_up);
    check_gates();
}

START_TEST(while_redis_is_away_the_database_counts)
{
    use("Small");
    links(false, true);
    ck_assert_int_eq(ask(0), GATE_ADMITTED); /* its own, until the count is there */
    answer_counts(1);                        /* somebody else's */
    ck_assert_int_eq(ask(0), GATE_ADMITTED);
    ck_assert_int_eq(ask(0), GATE_FULL);
    struct waiting only = {.waiter = {.told = on_told, .queue_only = true}};
    ck_assert_int_eq(gate_admit(&gates[0], item, &only.waiter), GATE_AWAY);
    gate_cancelled(&gates[0], item);
    ck_assert_int_eq(ask(0), GATE_ADMITTED);
    ck_assert_uint_eq(redis.calls, 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0); /* counted again and again */
    gate_unqueued(&gates[0], item, 2);
    answer_counts(0); /* all has ended */
    ck_assert_int_eq(ask(0), GATE_ADMITTED);
}
END_TEST

START_TEST(a_call_that_fails_is_decided_here)
{
    static const struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    use("Small");
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(ask(0), GATE_WAITS);
    waiters[1].waiter.queue_only = true;
    fake_queue_answer_slots(fake_queue_take(&queue, FAKE_SLOTS), &lost, 0, 0);
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3);
    ck_assert_uint_eq(tells[GATE_AWAY], 1);
    ck_assert_int_eq(waiters[1].verdict, GATE_AWAY);
    ask(0);
    serve(); /* what it admitted counts in Redis now */
    ck_assert_int_eq(redis.slots[0], 3);
    ck_assert_uint_eq(tells[GATE_FULL], 1);
}
END_TEST

/* Another link to Redis than that of the calls may break alone. */
START_TEST(who_waits_when_redis_goes_away_comes_first)
{
    use("Small");
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(ask(0), GATE_WAITS);
    waiters[1].waiter.queue_only = true;
    gate_link_changed(&gates[0], false, true);
    check_gates();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3);
    ck_assert_uint_eq(tells[GATE_AWAY], 1);
    ck_assert_int_eq(ask(0), GATE_FULL);
    serve(); /* the call's answer comes all the same: what it granted is theirs */
    ck_assert_int_eq(gated(0)->free, 0);
    links(true, true);
    serve();
    ck_assert_int_eq(redis.slots[0], 3);
}
END_TEST

START_TEST(a_call_that_hangs_is_decided_here)
{
    use("Small");
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(ask(0), GATE_WAITS);
    waiters[1].waiter.queue_only = true;
    RUN_LOOP_UNTIL(loop, tells[GATE_ADMITTED] == 2);
    ck_assert_uint_eq(waiters[1].told, 0); /* it can only wait */
    ck_assert_int_eq(ask(0), GATE_WAITS);  /* behind it */
    RUN_LOOP_UNTIL(loop, tells[GATE_ADMITTED] == 3);
    ck_assert_int_eq(ask(0), GATE_WAITS);
    RUN_LOOP_UNTIL(loop, tells[GATE_FULL] == 1);
    serve(); /* it answers at last: for what was asked then */
    ck_assert_uint_eq(waiters[1].told, 1);
    ck_assert_int_eq(redis.slots[0] + redis.depth, 3);
}
END_TEST

START_TEST(what_redis_lost_counts_until_it_is_brought)
{
    use("Small");
    links(true, true); /* it lost its data: three are unfinished, none is in the queue */
    answer_counts(3);
    serve();
    ck_assert_int_eq(gate_used(&gates[0], item), 3);
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_FULL], 1);
    redis.depth = 3; /* the reconciler was there */
    RUN_LOOP_UNTIL(loop, (serve(), fake_store_pending(&store) > 0));
    answer_counts(3);
    serve();
    redis.depth = 2; /* one ends */
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 1);
}
END_TEST

START_TEST(what_was_left_unqueued_counts_until_it_is_brought)
{
    use("Small");
    ask(0);
    ask(0);
    serve();
    gate_unqueued(&gates[0], item, 2);
    ask(0);
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3);
    ck_assert_uint_eq(tells[GATE_FULL], 1);
    RUN_LOOP_UNTIL(loop, (serve(), fake_store_pending(&store) > 0));
    redis.depth = 1; /* one of the two was brought */
    answer_counts(3);
    serve();
    ck_assert_int_eq(gated(0)->unqueued, 1);
    ck_assert_int_eq(redis.slots[0], 3); /* as of the call; the next one says two */
    run_ms(60);
    ck_assert_int_eq(redis.slots[0], 2);
    ck_assert_int_eq(gate_used(&gates[0], item), 3);
}
END_TEST

START_TEST(others_on_their_way_are_not_taken_for_lost_ones_for_long)
{
    use("Small");
    links(true, true);
    answer_counts(2); /* two that another dispatcher brings in just now */
    serve();
    ck_assert_int_eq(gated(0)->nobodys, 2);
    redis.depth = 2;
    RUN_LOOP_UNTIL(loop, (serve(), fake_store_pending(&store) > 0));
    answer_counts(2);
    serve();
    ck_assert_int_eq(gated(0)->nobodys, 0);
    redis.depth = 0;
    ask(0);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 1);
}
END_TEST

START_TEST(a_link_that_flaps_keeps_the_books)
{
    use("Mid");
    for (int i = 0; i < 10; i++)
        ask(0);
    serve();
    for (int i = 0; i < 4; i++)
        enqueue(0);
    gate_sent(&gates[0], item, 3);
    gate_unsent(&gates[0], item, 3); /* lost with the link */
    gate_unqueued(&gates[0], item, 3);
    links(false, true);
    fake_store_end(&store);
    memset(redis.slots, 0, sizeof(redis.slots));
    links(true, true);
    serve();
    ck_assert_int_eq(redis.slots[0], 6); /* three on their way, three unqueued, nothing free */
    gate_cancelled(&gates[0], item);
    gate_cancelled(&gates[0], item);
    gate_cancelled(&gates[0], item);
    ck_assert_int_eq(gate_used(&gates[0], item), 7);
}
END_TEST

/* A reload: what the gate before had reserved is given back at once, what it left in no queue counts in the next. */
START_TEST(a_gate_is_succeeded)
{
    use("Mid");
    for (int i = 0; i < 5; i++)
        ask(0);
    serve();
    ck_assert_int_gt(redis.slots[0], 5); /* a block */
    gate_unqueued(&gates[0], item, 2);
    gate_succeed(&gates[1], &gates[0], false);
    ck_assert_int_eq(gated(1)->unqueued, 2);
    ck_assert_int_eq(gated(0)->unqueued, 0);
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 1);
    serve();
    ck_assert_int_eq(redis.slots[0], 3); /* those that are still on their way */
    ck_assert_int_eq(redis.slots[1], 2);
    fake_store_end(&store);
    ck_assert(!gate_is_over(&gates[0]) && gate_is_quiet(&gates[0]));
    gate_unqueued(&gates[0], item, 1);
    gate_cancelled(&gates[0], item);
    gate_sent(&gates[0], item, 1);
    gate_queued(&gates[0], item, 1, 1);
    redis.depth = 1;
    gate_hand_over(&gates[0], &gates[1]);
    ck_assert_int_eq(gated(1)->unqueued, 3);
    int64_t until_ms = clock_mono_ms() + 5000;
    while (!gate_is_over(&gates[0]) && clock_mono_ms() < until_ms) {
        run_loop_once(loop);
        serve();
        fake_store_end(&store);
    }
    ck_assert(gate_is_over(&gates[0]));
    ck_assert_int_eq(redis.slots[0], 0);
}
END_TEST

/* Its pattern changes: the next gate's queue is another one. */
START_TEST(what_is_in_the_queue_before_counts)
{
    static const char changed[] = "production: {name: test}\n"
                                  "items:\n"
                                  "  - {id: Small, class: Echo, queue_type: unordered, "
                                  "messaging_pattern: concurrent_async, queue_size: 3}\n";
    struct diagnostics diagnostics;
    struct production *next = production_parse(slice_text(changed), &diagnostics);
    diagnostics_done(&diagnostics);
    gate_done(&gates[1]);
    gate_init(&gates[1], loop, next, &queue.queue, &store.store);
    use("Small");
    ask(0);
    ask(0);
    serve();
    enqueue(0); /* one in the queue, one on its way */
    gate_succeed(&gates[1], &gates[0], false);
    item = &next->items[0];
    ck_assert_int_eq(gate_used(&gates[1], item), 1);
    run_ms(60); /* Redis counts one on its way for the gate before */
    ask(1);
    ask(1);
    serve();
    ck_assert_uint_eq(tells[GATE_ADMITTED], 3); /* one of the two */
    ck_assert_uint_eq(tells[GATE_FULL], 1);
    gate_cancelled(&gates[1], item);
    answer_counts(1); /* asked at once: the one in the queue before */
    serve();
    ck_assert_int_eq(gated(1)->nobodys, 1);
    use("Small");
    enqueue(0); /* the one on its way enters the queue before */
    gate_hand_over(&gates[0], &gates[1]);
    item = &next->items[0];
    ck_assert_int_eq(gate_used(&gates[1], item), 2);
    while (gate_used(&gates[1], item) == 2) { /* one has ended; the gate before asks, too */
        RUN_LOOP_UNTIL(loop, (serve(), fake_store_pending(&store) > 0));
        answer_counts(1);
        serve();
    }
    ck_assert_int_eq(gate_used(&gates[1], item), 1);
    use("Small");
    fake_store_end(&store);
    gate_done(&gates[1]);
    gate_init(&gates[1], loop, production, &queue.queue, &store.store);
    production_free(next);
}
END_TEST

/* One whose answer comes after its succession keeps nothing of it. */
START_TEST(a_block_that_comes_too_late)
{
    use("Mid");
    ask(0);
    gate_succeed(&gates[1], &gates[0], false);
    serve(); /* the one that waits is admitted all the same */
    ck_assert_uint_eq(tells[GATE_ADMITTED], 1);
    ck_assert_int_eq(gated(0)->free, 0);
    gate_cancelled(&gates[0], item);
    int64_t until_ms = clock_mono_ms() + 5000;
    while (!gate_is_over(&gates[0]) && clock_mono_ms() < until_ms) {
        run_loop_once(loop);
        serve();
        fake_store_end(&store);
    }
    ck_assert_int_eq(redis.slots[0], 0);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, a_small_queue_is_shared_slot_by_slot);
    tcase_add_test(cases, what_an_enqueue_was_called_for_is_not_counted_twice);
    tcase_add_test(cases, a_large_queue_is_reserved_in_blocks);
    tcase_add_test(cases, two_gates_never_admit_too_many);
    tcase_add_test(cases, free_slots_are_given_back_when_it_is_quiet);
    tcase_add_test(cases, what_is_held_is_renewed);
    tcase_add_test(cases, ten_thousand_at_once_are_admitted);
    tcase_add_test(cases, too_many_do_not_wait);
    tcase_add_test(cases, while_redis_is_away_the_database_counts);
    tcase_add_test(cases, a_call_that_fails_is_decided_here);
    tcase_add_test(cases, who_waits_when_redis_goes_away_comes_first);
    tcase_add_test(cases, a_call_that_hangs_is_decided_here);
    tcase_add_test(cases, what_redis_lost_counts_until_it_is_brought);
    tcase_add_test(cases, what_was_left_unqueued_counts_until_it_is_brought);
    tcase_add_test(cases, others_on_their_way_are_not_taken_for_lost_ones_for_long);
    tcase_add_test(cases, a_link_that_flaps_keeps_the_books);
    tcase_add_test(cases, a_gate_is_succeeded);
    tcase_add_test(cases, what_is_in_the_queue_before_counts);
    tcase_add_test(cases, a_block_that_comes_too_late);
}

int main(void)
{
    Suite *suite = suite_create("gate");
    TCase *cases = tcase_create("gate");
    tcase_set_timeout(cases, 30);
    tcase_add_checked_fixture(cases, setup, teardown);
    add(cases);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
