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
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
