/* A fifo partition: claims in the stream's order, what its next owner inherits, what it pulls out of turn. */
#include "queue_fixture.h"

#include "queue/queue_redis.h"

#define STREAM "hie:{ADT/2}:async_reliable"

static struct peer door, alice, bob;

static const struct queue_name FIFO = {
    .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .partition = 2, .type = QUEUE_FIFO};

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
    start_loop();
    flush_server();
    peer_start(&door, NULL);
    peer_start(&alice, "alice");
    peer_start(&bob, "bob");
}

static void teardown(void)
{
    peer_stop(&door);
    peer_stop(&alice);
    peer_stop(&bob);
    stop_loop();
}

static long long number(const char *command)
{
    return redis_server_integer(&server, command);
}

/* Entries "0", "1", …, which are kept in `ret`. */
static void add(struct queue_entry *ret, size_t count)
{
    static const char *const bodies[] = {"0", "1", "2", "3", "4", "5", "6", "7"};
    for (size_t i = 0; i < count; i++)
        ret[i] = entry_of(bodies[i]);
    enqueue(&door, FIFO, ret, count);
}

START_TEST(what_was_handed_back_is_inherited_in_order)
{
    struct queue_entry entries[6];
    add(entries, 6);
    struct queue_claimed *claimed = claim(&alice, FIFO, 5, false);
    struct queue_claimed two = {.entries = claimed->entries + 1, .count = 2};
    for (int i = 0; i < 2; i++)
        hand_back(&alice, FIFO, &two);
    ck_assert_int_eq(depth(&door, FIFO).in_hand, 5); /* in their places */
    ck_assert(is_held(&door, FIFO, entries[0].id));
    ck_assert(!is_held(&door, FIFO, entries[1].id));
    ck_assert(!is_missing(&door, FIFO, entries[1].id));
    ck_assert_uint_eq(claim_count(&bob, FIFO, 0, false), 0);
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), "!0 1 2 !3 !4 ");
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), ""); /* it has them */
    ck_assert_str_eq(bodies_of(claim(&bob, FIFO, 9, false)),
                     "0 1 2 3 4 5 "); /* he looks once at what is his */
    /* The former owner can do nothing to them. */
    hand_back(&alice, FIFO, claimed);
    renew(&alice, FIFO, claimed);
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), "");
    ck_assert_str_eq(bodies_of(inherit(&alice, FIFO, 9)), "!0 !1 !2 !3 !4 !5 ");
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(put_down_and_taken_up_again_is_put_down_no_more)
{
    struct queue_entry entries[2];
    add(entries, 2);
    struct queue_claimed *claimed = claim(&alice, FIFO, 2, false);
    hand_back(&alice, FIFO, claimed);
    queue_claimed_unref(claimed);
    queue_claimed_unref(inherit(&bob, FIFO, 1));
    ck_assert_str_eq(bodies_of(inherit(&alice, FIFO, 9)), "!0 ");
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), "!0 1 ");
}
END_TEST

/* What its owner handed back it claims again, and so does who owns a partition once more what it had left there. */
START_TEST(what_is_ours_is_claimed_again)
{
    struct queue_entry entries[4];
    struct queue_redis *queue = (struct queue_redis *)alice.queue;
    add(entries, 3);
    ck_assert_str_eq(queue_redis_unsure(queue, FIFO), "0-0");
    struct queue_claimed *claimed = claim(&alice, FIFO, 2, false);
    ck_assert_ptr_null(queue_redis_unsure(queue, FIFO));
    hand_back(&alice, FIFO, claimed);
    queue_claimed_unref(claimed);
    ck_assert_str_eq(bodies_of(inherit(&alice, FIFO, 9)), "");
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 1, false)), "0 ");
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 9, false)), "1 2 ");
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 9, false)), "");
    struct result left = {0};
    alice.queue->ops->leave(alice.queue, FIFO, "alice", on_done, &left);
    WAIT_FOR(left.ended == 1);
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 9, false)), "0 1 2 ");
    ck_assert_ptr_null(queue_redis_unsure(queue, FIFO));
}
END_TEST

/* More than one page of what is pending, most of it our own. */
START_TEST(a_long_inheritance)
{
    struct queue_entry *entries = mem_array(QUEUE_BATCH_MAX, sizeof(*entries));
    size_t total = 0;
    for (int i = 0; i < 20; i++) {
        for (size_t j = 0; j < QUEUE_BATCH_MAX; j++)
            entries[j] = entry_of("x");
        enqueue(&door, FIFO, entries, QUEUE_BATCH_MAX);
        ck_assert_uint_eq(claim_count(i < 18 ? &bob : &alice, FIFO, 256, false), 256);
    }
    queue_claimed_unref(inherit(&alice, FIFO, 1)); /* the first is ours, at the far end is more */
    for (int i = 0; i < 4; i++) {
        struct queue_claimed *claimed = inherit(&bob, FIFO, 200);
        for (size_t j = 1; j < claimed->count; j++)
            ck_assert_str_ne(claimed->entries[j - 1].entry_id, claimed->entries[j].entry_id);
        total += claimed->count;
        queue_claimed_unref(claimed);
    }
    ck_assert_uint_eq(total, 513);
    ck_assert_int_eq(depth(&door, FIFO).in_hand, 5120);
    free(entries);
}
END_TEST

START_TEST(inherit_from_nothing)
{
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), "");
    queue_claimed_unref(inherit(&bob, FIFO, 0));
    struct queue_entry entry;
    add(&entry, 1);
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), ""); /* no group yet */
    ck_assert_uint_eq(claim_count(&alice, FIFO, 9, false), 1);
    redisReply *first = redis_server_command(&server, "XRANGE " STREAM " - +");
    redis_server_integer(&server, "XDEL " STREAM " %s", first->element[0]->element[0]->str);
    freeReplyObject(first);
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), ""); /* deleted by a person */
    ck_assert_int_eq(depth(&door, FIFO).in_hand, 0);
}
END_TEST

static void on_deaths(void *arg, const struct err *err, const int *deaths)
{
    struct result *result = arg;
    result->err = *err;
    result->number = deaths[0];
    result->number2 = deaths[1];
    result->ended++;
}

START_TEST(deaths_are_counted_for_all_partitions)
{
    struct uuid ids[2] = {uuid_new(clock_wall_ms()), uuid_new(clock_wall_ms())};
    for (int i = 1; i <= 3; i++) {
        struct result result = {0};
        alice.queue->ops->count_deaths(alice.queue, FIFO, ids, i == 2 ? 1 : 2, on_deaths, &result);
        wait_ok(&result);
        ck_assert_int_eq(result.number, i);
        ck_assert_int_eq(result.number2, i == 2 ? 0 : i == 3 ? 2 : 1);
    }
    ck_assert_int_gt(number("PTTL hie:{ADT}:deaths"), 86000000);
}
END_TEST

START_TEST(pull_from_wherever_they_are)
{
    struct queue_entry entries[8];
    add(entries, 5);
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 2, false)), "0 1 ");
    struct queue_claimed *own = claim(&bob, FIFO, 1, false);      /* 2 */
    struct queue_claimed *fourth = claim(&alice, FIFO, 1, false); /* 3 */
    retry(&alice, FIFO, fourth, clock_wall_ms() + 60000);
    entries[5] = entry_of("5"); /* unknown to the queue */
    const struct queue_entry wanted[] = {entries[5], entries[3], entries[2],
                                         entries[4], entries[1], entries[5]};
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, wanted, 6)), "5 3 2 4 !1 ");
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, wanted, 6)),
                     "5 3 2 4 1 "); /* its answer was lost */
    struct queue_depth now = depth(&door, FIFO);
    ck_assert_int_eq(now.in_hand, 6);
    ck_assert_int_eq(now.delayed, 0);
    ck_assert_int_eq(number("EXISTS hie:{ADT/2}:parked"), 0);
    for (size_t i = 0; i < 6; i++)
        ck_assert(is_held(&door, FIFO, entries[i].id));
    /* Those behind the group's last entry come once more, to their owner. */
    ck_assert_str_eq(bodies_of(claim(&bob, FIFO, 9, false)), "4 5 3 ");
    ck_assert_str_eq(bodies_of(claim(&bob, FIFO, 9, false)), "");
    queue_claimed_unref(own);
    queue_claimed_unref(fourth);
}
END_TEST

START_TEST(pulled_ones_are_finished_like_others)
{
    struct queue_entry entry = entry_of("lacking");
    entry.key = SLICE_LITERAL("4711");
    struct queue_claimed *pulled = pull(&bob, FIFO, &entry, 1); /* makes stream and group */
    ck_assert_uint_eq(pulled->count, 1);
    ck_assert(uuid_equal(pulled->entries[0].id, entry.id));
    ck_assert(slice_equal(pulled->entries[0].key, entry.key));
    ck_assert(!pulled->entries[0].taken_over);
    ck_assert_int_eq(enqueue(&door, FIFO, &entry, 1), 1);
    finish(&bob, FIFO, pulled);
    ck_assert_int_eq(number("XLEN " STREAM), 0);
    ck_assert_int_eq(number("EXISTS " STREAM ":index"), 0);
    ck_assert_str_eq(bodies_of(claim(&bob, FIFO, 9, true)), "");
    queue_claimed_unref(pulled);
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, NULL, 0)), "");
}
END_TEST

/* The message entered the queue anew after its entry was lost: who finishes the lost one leaves the other. */
START_TEST(a_late_finish_leaves_the_successor)
{
    struct queue_entry entry = entry_of("again");
    ck_assert_int_eq(enqueue(&door, FIFO, &entry, 1), 1);
    struct queue_claimed *claimed = claim(&alice, FIFO, 1, false);
    flush_server();
    run_for_ms(5); /* another entry id */
    ck_assert_int_eq(enqueue(&door, FIFO, &entry, 1), 1);
    finish(&alice, FIFO, claimed);
    ck_assert_int_eq(number("XLEN " STREAM), 1);
    ck_assert_int_eq(enqueue(&door, FIFO, &entry, 1), 1); /* it is known */
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(pull_what_was_put_down_or_lost)
{
    struct queue_entry entries[3];
    add(entries, 3);
    struct queue_claimed *claimed = claim(&alice, FIFO, 3, false);
    hand_back(&alice, FIFO, claimed);
    redis_server_integer(&server, "XDEL " STREAM " %s", claimed->entries[1].entry_id);
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, entries, 3)), "0 1 2 ");
    flush_server();
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, entries, 3)), "0 1 2 ");
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    ck_assert_str_eq(bodies_of(pull(&alice, FIFO, entries, 2)), "!0 !1 ");
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(without_memory)
{
    struct queue_entry entries[3];
    add(entries, 2);
    struct queue_claimed *claimed = claim(&alice, FIFO, 1, false);
    fill_server(true);
    entries[2] = entry_of("2");
    hand_back(&alice, FIFO, claimed);
    ck_assert_str_eq(bodies_of(inherit(&bob, FIFO, 9)), "0 ");
    ck_assert_str_eq(bodies_of(pull(&bob, FIFO, entries, 3)), "0 1 2 "); /* or it stands for ever */
    fill_server(false);
    queue_claimed_unref(claimed);
}
END_TEST

/* A claim whose reply is lost leaves entries in a hand that does not know. The next claim looks. */
START_TEST(what_a_lost_reply_held_is_claimed_again)
{
    struct result result = {0};
    struct queue_entry entries[4];
    add(entries, 4);
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 3, false)), "0 1 2 ");
    kill(server.pid, SIGSTOP);
    alice.queue->ops->claim(alice.queue, FIFO, "alice", 1, false, on_claimed, &result);
    run_for_ms(50); /* it is written */
    redis_server_kill(&server, SIGKILL);
    WAIT_FOR(result.ended == 1);
    ck_assert_int_eq(result.err.code, ERR_OUTCOME_UNKNOWN);
    ck_assert_ptr_null(result.claimed);
    ck_assert_str_eq(queue_redis_unsure((struct queue_redis *)alice.queue, FIFO), "0-0");
    redis_server_restart(&server);
    WAIT_FOR(alice.ups == 2 && bob.ups == 2 && door.ups == 2);
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 2, false)), "0 1 ");
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 9, false)), "2 3 ");
    ck_assert_ptr_null(queue_redis_unsure((struct queue_redis *)alice.queue, FIFO));
    ck_assert_str_eq(bodies_of(claim(&alice, FIFO, 9, false)), "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue fifo");
    TCase *tests = tcase_create("fifo");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, what_was_handed_back_is_inherited_in_order);
    tcase_add_test(tests, put_down_and_taken_up_again_is_put_down_no_more);
    tcase_add_test(tests, what_is_ours_is_claimed_again);
    tcase_add_test(tests, a_long_inheritance);
    tcase_add_test(tests, inherit_from_nothing);
    tcase_add_test(tests, deaths_are_counted_for_all_partitions);
    tcase_add_test(tests, pull_from_wherever_they_are);
    tcase_add_test(tests, pulled_ones_are_finished_like_others);
    tcase_add_test(tests, a_late_finish_leaves_the_successor);
    tcase_add_test(tests, pull_what_was_put_down_or_lost);
    tcase_add_test(tests, without_memory);
    suite_add_tcase(suite, tests);
    TCase *lost = tcase_create("lost"); /* its server dies */
    tcase_add_checked_fixture(lost, setup_server, teardown_server);
    tcase_add_checked_fixture(lost, setup, teardown);
    tcase_set_timeout(lost, 120);
    tcase_add_test(lost, what_a_lost_reply_held_is_claimed_again);
    suite_add_tcase(suite, lost);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
