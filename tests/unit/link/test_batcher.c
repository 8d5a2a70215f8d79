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

START_TEST(a_group_bounds_its_part_and_takes_its_turn)
{
    struct batch_group one, two;
    batch_group_init(&one, 2, false);
    batch_group_init(&two, 3, false);
    for (int i = 0; i < 5; i++)
        batcher_add_to(&batcher, &one, &items[i], 1);
    for (int i = 5; i < 9; i++)
        batcher_add_to(&batcher, &two, &items[i], 1);
    batcher_add(&batcher, &items[9], 1);
    static const int order[][4] = {{0, 1, 5, 6}, {9, 2, 3, 7}, {4, 8, -1, -1}};
    for (size_t i = 0; i < 3; i++) {
        run_loop_turns(loop);
        ck_assert_uint_eq(batch_count, i + 1);
        ck_assert_uint_eq(last_count, i < 2 ? 4 : 2);
        for (size_t j = 0; j < last_count; j++)
            ck_assert_ptr_eq(last[j], &items[order[i][j]]);
        batcher_done(&batcher);
    }
    ck_assert_uint_eq(batcher.count, 0);
}
END_TEST

START_TEST(a_group_whose_item_does_not_fit_begins_the_next_batch)
{
    struct batch_group one, two;
    batch_group_init(&one, 2, false);
    batch_group_init(&two, 2, false);
    batcher_add_to(&batcher, &one, &items[0], 60);
    batcher_add_to(&batcher, &two, &items[1], 60);
    batcher_add_to(&batcher, &one, &items[2], 10);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 2);
    ck_assert_ptr_eq(last[1], &items[2]);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(last_count, 1);
    ck_assert_ptr_eq(last[0], &items[1]);
}
END_TEST

START_TEST(a_full_batch_does_not_keep_its_turn)
{
    struct batch_group busy, other;
    batch_group_init(&busy, 4, false);
    batch_group_init(&other, 4, false);
    for (int i = 0; i < 12; i++)
        batcher_add_to(&batcher, i == 11 ? &other : &busy, &items[i], 1);
    run_loop_turns(loop);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_ptr_eq(last[0], &items[11]);
}
END_TEST

START_TEST(patience_waits_for_company_and_not_for_ever)
{
    struct batch_group patient;
    batcher_set_patience(&batcher, loop, 20000);
    batch_group_init(&patient, 3, true);
    batcher_add_to(&batcher, &patient, &items[0], 1);
    batcher_add_to(&batcher, &patient, &items[1], 1);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 0);
    RUN_LOOP_UNTIL(loop, batch_count == 1);
    ck_assert_uint_eq(last_count, 2);
    batcher_done(&batcher);
    for (int i = 0; i < 3; i++)
        batcher_add_to(&batcher, &patient, &items[i], 1);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 2); /* it is full */
    batcher_add_to(&batcher, &patient, &items[3], 1);
    batcher_done(&batcher);
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 2);
    batcher_add(&batcher, &items[4], 1); /* has no patience */
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 3);
    ck_assert_uint_eq(last_count, 2);
    batcher_done(&batcher);
    struct batch_group others[2];
    for (int i = 0; i < 2; i++) { /* a whole batch of several groups, none of them full */
        batch_group_init(&others[i], 4, true);
        batcher_add_to(&batcher, &others[i], &items[5 + 2 * i], 1);
        batcher_add_to(&batcher, &others[i], &items[6 + 2 * i], 1);
    }
    run_loop_turns(loop);
    ck_assert_uint_eq(batch_count, 4);
    ck_assert_uint_eq(last_count, 4);
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
    tcase_add_test(cases, a_group_bounds_its_part_and_takes_its_turn);
    tcase_add_test(cases, a_group_whose_item_does_not_fit_begins_the_next_batch);
    tcase_add_test(cases, a_full_batch_does_not_keep_its_turn);
    tcase_add_test(cases, patience_waits_for_company_and_not_for_ever);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
