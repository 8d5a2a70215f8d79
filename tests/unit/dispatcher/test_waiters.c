/* Waiting callers with a fake store: asked for together, answered once, removed in any moment. */
#include "waiters.h"

#include "fake_store.h"
#include "run_loop.h"

#include <check.h>

static struct loop *loop;
static struct fake_store store;
static struct waiters waiters;
static size_t ended_count, late_count;

static void on_done(struct waiter *waiter, bool ended)
{
    (void)waiter;
    if (ended)
        ended_count++;
    else
        late_count++;
}

static void setup(void)
{
    loop = loop_new();
    fake_store_init(&store);
    waiters_init(&waiters, loop, &store.store);
    ended_count = late_count = 0;
}

static void teardown(void)
{
    waiters_done(&waiters);
    fake_store_end(&store);
    loop_free(loop);
}

START_TEST(all_are_asked_for_in_one_call)
{
    struct waiter list[3];
    for (size_t i = 0; i < 3; i++)
        waiters_add(&waiters, &list[i], uuid_new(1000), 10000, on_done);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ENDED);
    ck_assert_uint_eq(call->count, 3);
    fake_store_answer_flags(call, &fake_ok, (const bool[]){false, true, true});
    ck_assert_uint_eq(ended_count, 2);
    RUN_LOOP_UNTIL(loop,
                   fake_store_pending(&store) == 1); /* asked again for the one that is left */
    call = fake_store_take(&store, FAKE_ENDED);
    ck_assert_uint_eq(call->count, 1);
    fake_store_answer_flags(call, &fake_ok, (const bool[]){true});
    ck_assert_uint_eq(ended_count, 3);
    ck_assert_uint_eq(late_count, 0);
}
END_TEST

START_TEST(time_runs_out)
{
    struct waiter waiter;
    waiters_add(&waiters, &waiter, uuid_new(1000), 50, on_done);
    RUN_LOOP_UNTIL(loop, late_count == 1);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ENDED);
    fake_store_answer_flags(call, &fake_ok, (const bool[]){true}); /* too late: told once */
    ck_assert_uint_eq(ended_count, 0);
    ck_assert_uint_eq(late_count, 1);
}
END_TEST

START_TEST(a_removed_one_is_told_nothing)
{
    struct waiter gone, stays;
    waiters_add(&waiters, &gone, uuid_new(1000), 10000, on_done);
    waiters_add(&waiters, &stays, uuid_new(1000), 10000, on_done);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    waiters_remove(&waiters, &gone); /* while it is asked for */
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok,
                            (const bool[]){true, true});
    ck_assert_uint_eq(ended_count, 1);
}
END_TEST

START_TEST(a_database_that_is_away_is_asked_again)
{
    struct waiter waiter;
    struct err away = {.code = ERR_UNAVAILABLE};
    waiters_add(&waiters, &waiter, uuid_new(1000), 10000, on_done);
    for (int i = 0; i < 3; i++) {
        RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
        fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &away, NULL);
    }
    ck_assert_uint_eq(ended_count + late_count, 0);
    waiters_remove(&waiters, &waiter);
}
END_TEST

START_TEST(more_than_a_batch_all_get_their_turn)
{
    enum { COUNT = STORE_BATCH_MAX + 100 };
    struct waiter *list = mem_array(COUNT, sizeof(*list));
    bool flags[STORE_BATCH_MAX];
    for (size_t i = 0; i < COUNT; i++)
        waiters_add(&waiters, &list[i], uuid_new(1000), 60000, on_done);
    for (size_t i = 0; i < STORE_BATCH_MAX; i++)
        flags[i] = true;
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok, flags);
    ck_assert_uint_eq(ended_count, STORE_BATCH_MAX);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok, flags);
    ck_assert_uint_eq(ended_count, COUNT);
    free(list);
}
END_TEST

static struct waiter pair[2];

/* Two requests of one caller that goes when the first is answered. */
static void on_done_remove_other(struct waiter *waiter, bool ended)
{
    on_done(waiter, ended);
    waiters_remove(&waiters, waiter == &pair[0] ? &pair[1] : &pair[0]);
}

START_TEST(done_may_remove_another)
{
    waiters_add(&waiters, &pair[0], uuid_new(1000), 10000, on_done_remove_other);
    waiters_add(&waiters, &pair[1], uuid_new(1000), 10000, on_done_remove_other);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok,
                            (const bool[]){true, true});
    ck_assert_uint_eq(ended_count, 1);
    ck_assert(TAILQ_EMPTY(&waiters.list));
    waiters_add(&waiters, &pair[0], uuid_new(1000), 0, on_done_remove_other);
    waiters_add(&waiters, &pair[1], uuid_new(1000), 0, on_done_remove_other);
    RUN_LOOP_UNTIL(loop, late_count == 1);
    ck_assert(TAILQ_EMPTY(&waiters.list));
}
END_TEST

START_TEST(new_ones_do_not_overtake)
{
    enum { COUNT = STORE_BATCH_MAX + 1 };
    struct waiter *list = mem_array(COUNT, sizeof(*list)), late;
    bool flags[STORE_BATCH_MAX] = {false};
    for (size_t i = 0; i < COUNT; i++)
        waiters_add(&waiters, &list[i], uuid_new(1000), 60000, on_done);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    struct fake_store_call *call = fake_store_take(&store, FAKE_ENDED);
    ck_assert(uuid_equal(call->ids[0], list[0].id));
    waiters_add(&waiters, &late, uuid_new(1000), 60000, on_done);
    fake_store_answer_flags(call, &fake_ok, flags);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    call = fake_store_take(&store, FAKE_ENDED);
    ck_assert(uuid_equal(call->ids[0], list[COUNT - 1].id));
    ck_assert(uuid_equal(call->ids[1], late.id));
    ck_assert(uuid_equal(call->ids[2], list[0].id));
    fake_store_answer_flags(call, &fake_ok, flags);
    free(list);
}
END_TEST

START_TEST(a_drain_answers_all)
{
    struct waiter list[2];
    waiters_add(&waiters, &list[0], uuid_new(1000), 60000, on_done);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    waiters_drain(&waiters);
    RUN_LOOP_UNTIL(loop, late_count == 1);
    waiters_add(&waiters, &list[1], uuid_new(1000), 60000, on_done);
    RUN_LOOP_UNTIL(loop, late_count == 2);
    ck_assert_uint_eq(ended_count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("waiters");
    TCase *cases = tcase_create("waiters");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, all_are_asked_for_in_one_call);
    tcase_add_test(cases, time_runs_out);
    tcase_add_test(cases, a_removed_one_is_told_nothing);
    tcase_add_test(cases, a_database_that_is_away_is_asked_again);
    tcase_add_test(cases, more_than_a_batch_all_get_their_turn);
    tcase_add_test(cases, done_may_remove_another);
    tcase_add_test(cases, new_ones_do_not_overtake);
    tcase_add_test(cases, a_drain_answers_all);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
