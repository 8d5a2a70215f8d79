/* What stands beside the queues: dead letters, replies, workers. */
#include "queue_fixture.h"

static struct peer door, alice;

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
}

static void teardown(void)
{
    peer_stop(&door);
    peer_stop(&alice);
    stop_loop();
}

static void bury(const struct queue_dead *dead, size_t count)
{
    struct result result = {0};
    door.queue->ops->bury(door.queue, "ADT", dead, count, on_done, &result);
    wait_ok(&result);
}

START_TEST(dead_letters)
{
    struct queue_dead dead = {.id = uuid_new(clock_wall_ms()),
                              .at_ms = 1234,
                              .attempts = 5,
                              .error = "receiver answered 500",
                              .meta = SLICE_LITERAL("\x80"),
                              .body = body_of("MSH|\r\n", 6)};
    bury(&dead, 1);
    bury(&dead, 1);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:dead"), 1);
    redisReply *all = redis_server_command(&server, "XRANGE hie:{ADT}:dead - +");
    redisReply *fields = all->element[0]->element[1];
    static const char *const names[] = {"cid", "at", "attempts", "error", "meta", "body"};
    ck_assert_uint_eq(fields->elements, 12);
    for (size_t i = 0; i < 6; i++)
        ck_assert_str_eq(fields->element[2 * i]->str, names[i]);
    ck_assert_str_eq(fields->element[3]->str, "1234");
    ck_assert_str_eq(fields->element[5]->str, "5");
    ck_assert_str_eq(fields->element[7]->str, "receiver answered 500");
    ck_assert_str_eq(fields->element[11]->str, "MSH|\r\n");
    freeReplyObject(all);
    dead.at_ms = 5678; /* dead once more, after a redrive */
    bury(&dead, 1);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:dead"), 1);
}
END_TEST

START_TEST(dead_letters_are_capped)
{
    struct queue_dead dead[QUEUE_BATCH_MAX];
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
            dead[i] = (struct queue_dead){.id = uuid_new(clock_wall_ms()),
                                          .at_ms = round,
                                          .error = "no",
                                          .body = body_of("x", 1)};
        bury(dead, QUEUE_BATCH_MAX);
    }
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:dead"), 1000);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:dead:index"), 1000);
    bury(dead, QUEUE_BATCH_MAX);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:dead"), 1000);
}
END_TEST

START_TEST(heartbeat_and_leave)
{
    struct result result = {0};
    alice.queue->ops->heartbeat(alice.queue, "alice", "host-1", 77, "ADT,ORU", 3, 60000, on_done,
                                &result);
    wait_ok(&result);
    redisReply *fields =
        redis_server_command(&server, "HMGET hie:worker:alice host pid items in_hand");
    ck_assert_str_eq(fields->element[0]->str, "host-1");
    ck_assert_str_eq(fields->element[1]->str, "77");
    ck_assert_str_eq(fields->element[2]->str, "ADT,ORU");
    ck_assert_str_eq(fields->element[3]->str, "3");
    freeReplyObject(fields);
    ck_assert_int_gt(redis_server_integer(&server, "PTTL hie:worker:alice"), 0);

    enqueue_one(&door, ADT, "x");
    struct queue_claimed *claimed = claim(&alice, ADT, 2, true);
    ck_assert_int_eq(redis_server_integer(&server, "SISMEMBER hie:{ADT}:idle alice"), 1);
    result = (struct result){0};
    alice.queue->ops->leave(alice.queue, ADT, "alice", on_done, &result);
    wait_ok(&result);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:worker:alice"), 0);
    ck_assert_int_eq(redis_server_integer(&server, "SISMEMBER hie:{ADT}:idle alice"), 0);
    redisReply *consumers =
        redis_server_command(&server, "XINFO CONSUMERS hie:{ADT}:async_reliable workers");
    ck_assert_uint_eq(consumers->elements, 1); /* it still holds an entry */
    freeReplyObject(consumers);
    finish(&alice, ADT, claimed);
    for (int i = 0; i < 2; i++) {
        result = (struct result){0};
        alice.queue->ops->leave(alice.queue, ADT, "alice", on_done, &result);
        wait_ok(&result);
    }
    consumers = redis_server_command(&server, "XINFO CONSUMERS hie:{ADT}:async_reliable workers");
    ck_assert_uint_eq(consumers->elements, 0);
    freeReplyObject(consumers);
    result = (struct result){0};
    alice.queue->ops->leave(alice.queue, (struct queue_name){.item = "NEVER"}, "alice", on_done,
                            &result);
    wait_ok(&result);
    queue_claimed_unref(claimed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue beside");
    TCase *tests = tcase_create("beside");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, dead_letters);
    tcase_add_test(tests, dead_letters_are_capped);
    tcase_add_test(tests, heartbeat_and_leave);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
