/* Redis goes away, comes back, forgets, refuses: what the queue says and does then. Each test has a server of its own. */
#include "queue_fixture.h"

static struct peer door, alice;

static void setup(void)
{
    redis_server_start(&server);
    start_loop();
}

static void teardown(void)
{
    if (door.queue)
        peer_stop(&door);
    if (alice.queue)
        peer_stop(&alice);
    stop_loop();
    redis_server_stop(&server);
}

START_TEST(first_time_is_fresh_then_a_reconnect_is_not)
{
    peer_start(&alice, "alice");
    ck_assert_int_eq(alice.fresh_ups, 1);
    freeReplyObject(redis_server_command(&server, "CLIENT KILL TYPE normal SKIPME yes"));
    WAIT_FOR(alice.downs == 1);
    ck_assert(!queue_redis_is_up(alice.queue) || alice.ups == 2);
    WAIT_FOR(alice.ups == 2);
    ck_assert_int_eq(alice.fresh_ups, 1);
    /* The link of the wake signals alone counts as down as well: signals were lost. */
    freeReplyObject(redis_server_command(&server, "CLIENT KILL TYPE pubsub"));
    WAIT_FOR(alice.downs == 2 && alice.ups == 3);
    ck_assert_int_eq(alice.fresh_ups, 1);
    ck_assert_uint_eq(claim_count(&alice, ADT, 1, true), 0);
    enqueue_one(&alice, ADT, "x");
    WAIT_FOR(alice.wakes == 1);
}
END_TEST

START_TEST(restart_with_data_is_fresh)
{
    peer_start(&door, NULL);
    struct uuid id = enqueue_one(&door, ADT, "kept");
    freeReplyObject(redis_server_command(&server, "CONFIG SET appendfsync always"));
    redis_server_kill(&server, SIGKILL);
    WAIT_FOR(door.downs == 1);
    redis_server_restart(&server);
    WAIT_FOR(door.ups == 2);
    ck_assert_int_eq(door.fresh_ups, 2); /* another run id: it may have lost the latest second */
    ck_assert(!is_missing(&door, ADT, id));
}
END_TEST

START_TEST(restart_without_data)
{
    peer_start(&door, NULL);
    peer_start(&alice, "alice");
    struct uuid id = enqueue_one(&door, ADT, "lost");
    struct queue_claimed *held = claim(&alice, ADT, 5, true);
    redis_server_kill(&server, SIGKILL);
    redis_server_wipe(&server);
    WAIT_FOR(door.downs == 1 && alice.downs == 1);
    ck_assert(!queue_redis_is_up(door.queue));
    redis_server_restart(&server);
    WAIT_FOR(door.ups == 2 && alice.ups == 2);
    ck_assert_int_eq(door.fresh_ups, 2);
    ck_assert_int_eq(alice.fresh_ups, 2);
    /* The Functions are there again, a finish of what is gone is well, and the message can be enqueued anew. */
    ck_assert(is_missing(&door, ADT, id));
    finish(&alice, ADT, held);
    renew(&alice, ADT, held);
    hand_back(&alice, ADT, held);
    retry(&alice, ADT, held, 1);
    queue_claimed_unref(held);
    struct queue_entry again = entry_of("lost");
    again.id = id;
    ck_assert_int_eq(enqueue(&door, ADT, &again, 1), 1);
    ck_assert_uint_eq(claim_count(&alice, ADT, 5, true), 1);
}
END_TEST

START_TEST(flushed_under_a_connection)
{
    peer_start(&door, NULL);
    peer_start(&alice, "alice");
    enqueue_one(&door, ADT, "x");
    ck_assert_uint_eq(claim_count(&alice, ADT, 5, true), 1);
    flush_server();
    ck_assert_uint_eq(claim_count(&alice, ADT, 5, true), 0); /* stream and group are made anew */
    WAIT_FOR(alice.fresh_ups == 2 && door.fresh_ups == 2);
    ck_assert_int_eq(alice.downs + door.downs, 0);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:epoch"), 1);
    enqueue_one(&door, ADT, "y");
    WAIT_FOR(alice.wakes > 0);
    ck_assert_uint_eq(claim_count(&alice, ADT, 5, true), 1);
    run_for_ms(2500);
    ck_assert_int_eq(alice.fresh_ups, 2); /* told once */
}
END_TEST

START_TEST(functions_flushed_under_a_connection)
{
    peer_start(&alice, "alice");
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    enqueue_one(&alice, ADT, "x");
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    struct queue_claimed *claimed = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(claimed->count, 1);
    finish(&alice, ADT, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
}
END_TEST

static void load_revision(int revision)
{
    char text[256];
    snprintf(text, sizeof(text),
             "#!lua name=hie1\nredis.register_function{function_name='hie1_revision', "
             "callback=function() return %d end, flags={'no-writes'}}",
             revision);
    freeReplyObject(redis_server_command(&server, "FUNCTION LOAD REPLACE %s", text));
}

START_TEST(older_functions_are_replaced_and_newer_are_left)
{
    load_revision(0);
    peer_start(&door, NULL);
    enqueue_one(&door, ADT, "x");
    peer_stop(&door);
    load_revision(1000);
    peer_start(&door, NULL);
    ck_assert_int_eq(redis_server_integer(&server, "FCALL hie1_revision 0"), 1000);
}
END_TEST

/* An earlier program that started at the same moment was the last to load. */
START_TEST(functions_that_became_older_are_replaced)
{
    peer_start(&door, NULL);
    load_revision(0);
    WAIT_FOR(redis_server_integer(&server, "FCALL hie1_revision 0") > 0);
    enqueue_one(&door, ADT, "x");
    ck_assert_int_eq(door.downs, 0);
    ck_assert_int_eq(door.fresh_ups, 1);
}
END_TEST

START_TEST(calls_while_down)
{
    struct queue_entry entry = entry_of("x");
    peer_start(&door, NULL);
    redis_server_kill(&server, SIGKILL);
    WAIT_FOR(door.downs == 1);
    ck_assert_int_eq(door.down.code, ERR_UNAVAILABLE);
    struct result result = {0}, claimed = {0}, missing = {.flag_count = 1};
    door.queue->ops->enqueue(door.queue, ADT, &entry, 1, on_enqueued, &result);
    door.queue->ops->claim(door.queue, ADT, "alice", 5, true, on_claimed, &claimed);
    door.queue->ops->missing(door.queue, ADT, &entry.id, 1, on_missing, &missing);
    ck_assert_int_eq(result.ended + claimed.ended, 0); /* never from inside the call */
    WAIT_FOR(result.ended && claimed.ended && missing.ended);
    ck_assert_int_eq(result.err.code, ERR_UNAVAILABLE);
    ck_assert_int_eq(claimed.err.code, ERR_UNAVAILABLE);
    ck_assert_int_eq(missing.err.code, ERR_UNAVAILABLE);
    ck_assert_ptr_null(claimed.claimed);
}
END_TEST

START_TEST(server_comes_later)
{
    redis_server_kill(&server, SIGKILL);
    peer_start_at(&alice, "alice", server.url);
    run_for_ms(300);
    ck_assert_int_eq(alice.downs, 1); /* said once, however often it tries */
    ck_assert_int_eq(alice.ups + alice.fatals, 0);
    redis_server_restart(&server);
    WAIT_FOR(alice.ups == 1);
    ck_assert_int_eq(alice.fresh_ups, 1);
}
END_TEST

/* The server stands still: what was handed to the kernel may have been done, what was not was not, and what would take too
 * much memory is refused. */
START_TEST(broken_with_calls_under_way)
{
    char *body = mem_alloc(MESSAGE_INLINE_MAX + 1);
    memset(body, 'x', MESSAGE_INLINE_MAX);
    struct queue_entry *entries = mem_array(QUEUE_BATCH_MAX, sizeof(*entries));
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
        entries[i] = entry_of(body);
    peer_start(&door, NULL);
    kill(server.pid, SIGSTOP);
    struct result results[6] = {{0}};
    for (int i = 0; i < 6; i++) {
        door.queue->ops->enqueue(door.queue, ADT, entries, QUEUE_BATCH_MAX, on_enqueued,
                                 &results[i]);
        run_for_ms(20);
    }
    WAIT_FOR(results[5].ended == 1);
    ck_assert_int_eq(results[5].err.code, ERR_UNAVAILABLE);
    ck_assert(queue_redis_is_up(door.queue));
    ck_assert_int_eq(results[0].ended, 0);
    redis_server_kill(&server, SIGKILL);
    WAIT_FOR(door.downs == 1);
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(results[i].ended, 1);
    ck_assert_int_eq(results[0].err.code, ERR_OUTCOME_UNKNOWN);
    ck_assert_int_eq(results[3].err.code, ERR_UNAVAILABLE);
    redis_server_restart(&server);
    WAIT_FOR(door.ups == 2);
    ck_assert_int_eq(enqueue(&door, ADT, entries, QUEUE_BATCH_MAX), QUEUE_BATCH_MAX);
    free(entries);
    free(body);
}
END_TEST

START_TEST(silence_takes_the_link_down)
{
    peer_start(&alice, "alice");
    kill(server.pid, SIGSTOP);
    struct result result = {0};
    alice.queue->ops->depth(alice.queue, ADT, on_depth, &result);
    WAIT_FOR(alice.downs == 1);
    ck_assert_int_eq(result.ended, 1);
    ck_assert_int_eq(result.err.code, ERR_OUTCOME_UNKNOWN);
    kill(server.pid, SIGCONT);
    WAIT_FOR(alice.ups == 2);
    ck_assert_int_eq(alice.fresh_ups, 1);
}
END_TEST

START_TEST(a_replica_is_not_used)
{
    struct redis_server primary;
    redis_server_start(&primary);
    peer_start(&door, NULL);
    freeReplyObject(redis_server_command(&server, "REPLICAOF 127.0.0.1 %d", primary.port));
    struct queue_entry entry = entry_of("x");
    struct result result = {0};
    door.queue->ops->enqueue(door.queue, ADT, &entry, 1, on_enqueued, &result);
    WAIT_FOR(result.ended && door.downs == 1);
    ck_assert_int_eq(result.err.code, ERR_UNAVAILABLE);
    run_for_ms(500);
    ck_assert_int_eq(door.ups, 1);
    freeReplyObject(redis_server_command(&server, "REPLICAOF NO ONE"));
    WAIT_FOR(door.ups == 2);
    ck_assert_int_eq(door.fresh_ups, 2);
    redis_server_stop(&primary);
}
END_TEST

START_TEST(out_of_memory_still_finishes)
{
    peer_start(&alice, "alice");
    enqueue_one(&alice, ADT, "x");
    struct queue_claimed *claimed = claim(&alice, ADT, 5, false);
    freeReplyObject(redis_server_command(&server, "CONFIG SET maxmemory 1"));
    struct queue_entry entry = entry_of("y");
    struct result result = {0};
    alice.queue->ops->enqueue(alice.queue, ADT, &entry, 1, on_enqueued, &result);
    WAIT_FOR(result.ended);
    ck_assert_int_eq(result.err.code, ERR_UNAVAILABLE);
    ck_assert_str_eq(result.err.text, "redis answered OOM");
    finish(&alice, ADT, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    freeReplyObject(redis_server_command(&server, "CLIENT KILL TYPE normal SKIPME yes"));
    WAIT_FOR(alice.ups == 2); /* and a reconnect goes well */
}
END_TEST

START_TEST(error_texts_hold_no_arguments)
{
    peer_start(&door, NULL);
    freeReplyObject(redis_server_command(&server, "SET hie:{ADT}:async_reliable CANARY"));
    struct queue_entry entry = entry_of("CANARY");
    struct result result = {0};
    door.queue->ops->enqueue(door.queue, ADT, &entry, 1, on_enqueued, &result);
    WAIT_FOR(result.ended);
    ck_assert_str_eq(result.err.text, "redis answered WRONGTYPE");
}
END_TEST

START_TEST(freed_with_calls_under_way)
{
    peer_start(&door, NULL);
    struct queue_entry entry = entry_of("x");
    struct result sent = {0}, claimed = {0}, nothing = {0};
    door.queue->ops->enqueue(door.queue, ADT, &entry, 1, on_enqueued, &sent);
    door.queue->ops->claim(door.queue, ADT, "x", 5, true, on_claimed, &claimed);
    door.queue->ops->enqueue(door.queue, ADT, NULL, 0, on_enqueued, &nothing);
    peer_stop(&door);
    ck_assert_int_eq(sent.ended, 1);
    ck_assert_int_ne(sent.err.code, ERR_NONE);
    ck_assert_int_eq(claimed.ended, 1);
    ck_assert_int_eq(nothing.ended, 1);
}
END_TEST

static void check_fatal(const char *id, const char *url, enum error_code code)
{
    peer_start_at(&alice, id, url);
    WAIT_FOR(alice.fatals == 1);
    ck_assert_int_eq(alice.fatal.code, code);
    ck_assert_int_eq(error_class_of(alice.fatal.code), ERROR_FATAL);
    ck_assert_ptr_null(strstr(alice.fatal.text, "secret"));
    run_for_ms(200);
    ck_assert_int_eq(alice.fatals, 1);
    ck_assert_int_eq(alice.ups, 0);
    peer_stop(&alice);
}

START_TEST(refused_for_good)
{
    char url[128];
    snprintf(url, sizeof(url), "redis://127.0.0.1:%d/9999", server.port);
    check_fatal("alice", url, ERR_AUTH); /* no such database */
    snprintf(url, sizeof(url), "redis://:secret@127.0.0.1:%d/", server.port);
    check_fatal(NULL, url, ERR_AUTH); /* no password is set */
    check_fatal("alice", "http://x", ERR_CONFIG);
    check_fatal(NULL, "rediss://127.0.0.1", ERR_CONFIG);
    redis_server_stop(&server);
    redis_server_start_with_password(&server, "right");
    snprintf(url, sizeof(url), "redis://:secret@127.0.0.1:%d/", server.port);
    check_fatal("alice", url, ERR_AUTH);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%d", server.port);
    check_fatal("alice", url, ERR_AUTH);
    freeReplyObject(redis_server_command(
        &server, "ACL SETUSER reader on >pass%%40word ~* +@read +@connection"));
    snprintf(url, sizeof(url), "redis://reader:pass%%40word@127.0.0.1:%d", server.port);
    check_fatal("alice", url, ERR_AUTH);
}
END_TEST

START_TEST(password_user_and_database)
{
    redis_server_stop(&server);
    redis_server_start_with_password(&server, "right");
    char url[128];
    snprintf(url, sizeof(url), "redis://:right@127.0.0.1:%d/5", server.port);
    peer_start_at(&alice, "alice", url);
    WAIT_FOR(alice.ups == 1);
    enqueue_one(&alice, ADT, "x");
    peer_stop(&alice);
    redisReply *reply = redis_server_command(&server, "INFO keyspace");
    ck_assert_ptr_nonnull(strstr(reply->str, "db5:"));
    ck_assert_ptr_null(strstr(reply->str, "db0:"));
    freeReplyObject(reply);
    freeReplyObject(
        redis_server_command(&server, "ACL SETUSER hie on >p@ss/word ~hie:* &hie:* +@all"));
    snprintf(url, sizeof(url), "redis://hie:p%%40ss%%2Fword@127.0.0.1:%d", server.port);
    peer_start_at(&alice, "alice", url);
    WAIT_FOR(alice.ups == 1);
    enqueue_one(&alice, ADT, "x");
}
END_TEST

START_TEST(host_names)
{
    char url[128];
    snprintf(url, sizeof(url), "redis://localhost:%d", server.port);
    peer_start_at(&alice, "alice", url);
    WAIT_FOR(alice.ups == 1); /* also where localhost is ::1 first and nobody listens there */
    peer_stop(&alice);
    peer_start_at(&alice, "alice", "redis://no-such-host.invalid:1");
    run_for_ms(500);
    ck_assert_int_eq(alice.ups + alice.fatals, 0);
    peer_stop(&alice); /* perhaps with a look-up under way */
    run_for_ms(50);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue link");
    TCase *tests = tcase_create("link");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, first_time_is_fresh_then_a_reconnect_is_not);
    tcase_add_test(tests, restart_with_data_is_fresh);
    tcase_add_test(tests, restart_without_data);
    tcase_add_test(tests, flushed_under_a_connection);
    tcase_add_test(tests, functions_flushed_under_a_connection);
    tcase_add_test(tests, older_functions_are_replaced_and_newer_are_left);
    tcase_add_test(tests, functions_that_became_older_are_replaced);
    tcase_add_test(tests, calls_while_down);
    tcase_add_test(tests, server_comes_later);
    tcase_add_test(tests, broken_with_calls_under_way);
    tcase_add_test(tests, silence_takes_the_link_down);
    tcase_add_test(tests, a_replica_is_not_used);
    tcase_add_test(tests, out_of_memory_still_finishes);
    tcase_add_test(tests, error_texts_hold_no_arguments);
    tcase_add_test(tests, freed_with_calls_under_way);
    tcase_add_test(tests, refused_for_good);
    tcase_add_test(tests, password_user_and_database);
    tcase_add_test(tests, host_names);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
