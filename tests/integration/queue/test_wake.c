/* Waking: an enqueue wakes as many idle workers as it added entries, nobody else, and no dead one. */
#include "queue_fixture.h"

static struct peer door, workers[3];

static void setup_server(void)
{
    redis_server_start(&server);
}

static void teardown_server(void)
{
    redis_server_stop(&server);
}

static void setup(void)
{
    static const char *const ids[] = {"w0", "w1", "w2"};
    start_loop();
    flush_server();
    peer_start(&door, NULL);
    for (int i = 0; i < 3; i++)
        peer_start(&workers[i], ids[i]);
}

static void teardown(void)
{
    peer_stop(&door);
    for (int i = 0; i < 3; i++) {
        if (workers[i].queue)
            peer_stop(&workers[i]);
    }
    stop_loop();
}

static int wakes(void)
{
    return workers[0].wakes + workers[1].wakes + workers[2].wakes;
}

static long long idle(void)
{
    return redis_server_integer(&server, "SCARD hie:{ADT}:idle");
}

static void all_wait(void)
{
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(claim_count(&workers[i], ADT, 4, true), 0);
    ck_assert_int_eq(idle(), 3);
}

START_TEST(one_entry_wakes_one)
{
    all_wait();
    enqueue_one(&door, ADT, "x");
    WAIT_FOR(wakes() == 1);
    run_for_ms(100);
    ck_assert_int_eq(wakes(), 1);
    ck_assert_int_eq(idle(), 2);
    for (int i = 0; i < 3; i++) {
        if (workers[i].wakes)
            ck_assert_str_eq(workers[i].wake, "ADT async_reliable 0");
    }
}
END_TEST

START_TEST(entries_wake_as_many)
{
    struct queue_entry entries[2] = {entry_of("a"), entry_of("b")};
    all_wait();
    enqueue(&door, ADT, entries, 2);
    WAIT_FOR(wakes() == 2);
    enqueue(&door, ADT, entries, 2); /* nothing new: nobody */
    run_for_ms(100);
    ck_assert_int_eq(wakes(), 2);
}
END_TEST

START_TEST(dead_workers_are_passed_over)
{
    all_wait();
    peer_stop(&workers[0]);
    freeReplyObject(
        redis_server_command(&server, "SADD hie:{ADT}:idle ghost1 ghost2 ghost3 ghost4"));
    WAIT_FOR(redis_server_integer(&server, "PUBLISH hie:wake:w0 x") == 0);
    for (int i = 0; i < 2; i++)
        enqueue_one(&door, ADT, "x");
    WAIT_FOR(workers[1].wakes == 1 && workers[2].wakes == 1);
    enqueue_one(&door, ADT, "x");
    ck_assert_int_eq(idle(), 0);
}
END_TEST

START_TEST(a_worker_without_free_slots_is_not_idle)
{
    struct queue_entry entries[4] = {entry_of("a"), entry_of("b"), entry_of("c"), entry_of("d")};
    ck_assert_uint_eq(claim_count(&workers[0], ADT, 4, true), 0);
    ck_assert_int_eq(idle(), 1);
    enqueue(&door, ADT, entries, 2);
    WAIT_FOR(wakes() == 1);
    ck_assert_uint_eq(claim_count(&workers[0], ADT, 4, true), 2); /* two slots are left */
    ck_assert_int_eq(idle(), 1);
    /* Nobody hears of these two, so that it finds them by itself. */
    freeReplyObject(redis_server_command(&server, "SREM hie:{ADT}:idle w0"));
    enqueue(&door, ADT, entries + 2, 2);
    freeReplyObject(redis_server_command(&server, "SADD hie:{ADT}:idle w0"));
    ck_assert_uint_eq(claim_count(&workers[0], ADT, 2, true), 2);
    WAIT_FOR(idle() == 0);
    ck_assert_int_eq(wakes(), 1);
}
END_TEST

START_TEST(a_claim_that_does_not_wait_does_not_register)
{
    ck_assert_uint_eq(claim_count(&workers[0], ADT, 4, false), 0);
    ck_assert_int_eq(idle(), 0);
}
END_TEST

START_TEST(partitions_wake_their_own)
{
    const struct queue_name second = {"ADT", PATTERN_CONCURRENT_SYNC, 2, QUEUE_UNORDERED, 0};
    all_wait();
    ck_assert_uint_eq(claim_count(&workers[1], second, 1, true), 0);
    enqueue_one(&door, second, "x");
    WAIT_FOR(wakes() == 1);
    ck_assert_str_eq(workers[1].wake, "ADT concurrent_sync 2");
    run_for_ms(50);
    ck_assert_int_eq(wakes(), 1);
}
END_TEST

START_TEST(hand_back_and_promote_wake)
{
    enqueue_one(&door, ADT, "x");
    struct queue_claimed *claimed = claim(&workers[0], ADT, 1, false);
    ck_assert_uint_eq(claim_count(&workers[1], ADT, 1, true), 0);
    hand_back(&workers[0], ADT, claimed);
    queue_claimed_unref(claimed);
    WAIT_FOR(workers[1].wakes == 1);
    claimed = claim(&workers[1], ADT, 1, true);
    ck_assert_uint_eq(claimed->count, 1);
    retry(&workers[1], ADT, claimed, 10);
    queue_claimed_unref(claimed);
    ck_assert_uint_eq(claim_count(&workers[2], ADT, 1, true), 0);
    int64_t next;
    ck_assert_int_eq(promote(&door, ADT, 10, 5, &next), 1);
    WAIT_FOR(workers[2].wakes == 1);
    ck_assert_str_eq(workers[2].wake, "ADT async_reliable 0");
}
END_TEST

START_TEST(nonsense_on_the_channel)
{
    static const char *const messages[] = {
        "",
        "x",
        "async_reliable",
        "async_reliable 0",
        "async_reliable x ADT",
        "async_reliable -1 ADT",
        "no_pattern 0 ADT",
        "async_reliable 99999999999 ADT",
    };
    char *longest = mem_alloc(100000);
    memset(longest, 'x', 99999);
    memcpy(longest, "async_reliable 0 ", 17);
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
        ck_assert_int_eq(redis_server_integer(&server, "PUBLISH hie:wake:w0 %s", messages[i]), 1);
    ck_assert_int_eq(redis_server_integer(&server, "PUBLISH hie:wake:w0 %s", longest), 1);
    ck_assert_int_eq(
        redis_server_integer(&server, "PUBLISH hie:wake:w0 %s", "async_reliable 3 ADT"), 1);
    WAIT_FOR(workers[0].wakes > 0);
    ck_assert_int_eq(workers[0].wakes, 1);
    ck_assert_str_eq(workers[0].wake, "ADT async_reliable 3");
    free(longest);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue wake");
    TCase *tests = tcase_create("wake");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, one_entry_wakes_one);
    tcase_add_test(tests, entries_wake_as_many);
    tcase_add_test(tests, dead_workers_are_passed_over);
    tcase_add_test(tests, a_worker_without_free_slots_is_not_idle);
    tcase_add_test(tests, a_claim_that_does_not_wait_does_not_register);
    tcase_add_test(tests, partitions_wake_their_own);
    tcase_add_test(tests, hand_back_and_promote_wake);
    tcase_add_test(tests, nonsense_on_the_channel);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
