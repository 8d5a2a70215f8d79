/* Natural batching: what gathers while a batch is under way, limits, putting back, holding. */
#include "link/batcher.h"

#include "run_loop.h"

#include <check.h>

static struct loop *loop;
static struct batcher batcher;
static struct batch_item items[16];
static size_t batch_count, last_count;
static struct batch_item *last[BATCHER_MAX_COUNT];

static void on_start(void *arg, struct batch_item **list, size_t count)
{
    (void)arg;
    batch_count++;
    last_count = count;
    for (size_t i = 0; i < count; i++)
        last[i] = list[i];
}

static void setup(void)
{
    loop = loop_new();
    batcher_init(&batcher, loop, 4, 100, on_start, NULL);
    batch_count = last_count = 0;
}

static void teardown(void)
{
    batcher_free(&batcher);
    loop_free(loop);
}

START_TEST(one_turn_makes_one_batch)
{
    for (int i = 0; i < 3; i++)
        batcher_add(&batcher, &items[i], 1);
    ck_assert_uint_eq(batch_count, 0); /* never from inside the call */
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 1);
    ck_assert_uint_eq(last_count, 3);
    ck_assert_ptr_eq(last[0], &items[0]);
}
END_TEST

START_TEST(the_next_gathers_while_one_is_under_way)
{
    batcher_add(&batcher, &items[0], 1);
    run_loop_turns(loop);
    for (int i = 1; i < 8; i++)
        batcher_add(&batcher, &items[i], 1);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 1);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 2);
    ck_assert_uint_eq(last_count, 4);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 3);
}
END_TEST

START_TEST(bytes_bound_a_batch_and_a_large_item_goes_alone)
{
    batcher_add(&batcher, &items[0], 60);
    batcher_add(&batcher, &items[1], 60);
    batcher_add(&batcher, &items[2], 1000);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 1);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 1);
    ck_assert_ptr_eq(last[0], &items[1]);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 1);
    ck_assert_ptr_eq(last[0], &items[2]);
}
END_TEST

START_TEST(what_is_put_back_keeps_its_place)
{
    batcher_add(&batcher, &items[0], 1);
    batcher_add(&batcher, &items[1], 1);
    run_loop_turns(loop);
    batcher_add(&batcher, &items[2], 1);
    batcher_hold(&batcher, true);
    batcher_put_back(&batcher, &items[1]);
    batcher_put_back(&batcher, &items[0]);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 1);
    batcher_hold(&batcher, false);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_ptr_eq(last[i], &items[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batcher");
    TCase *cases = tcase_create("batcher");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, one_turn_makes_one_batch);
    tcase_add_test(cases, the_next_gathers_while_one_is_under_way);
    tcase_add_test(cases, bytes_bound_a_batch_and_a_large_item_goes_alone);
    tcase_add_test(cases, what_is_put_back_keeps_its_place);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
