/* The Functions as a producer in another language calls them: what they refuse leaves nothing behind, what they do they do once. */
#include "queue_fixture.h"

#include "base/embedded.h"
#include "queue/queue_redis.h"

#define STREAM "hie:{ADT}:async_reliable"
#define KEYS5 STREAM " " STREAM ":index hie:{ADT}:delayed hie:{ADT}:parked hie:{ADT}:idle"
#define ID1 "0197a000-0000-7000-8000-000000000001"
#define ID2 "0197a000-0000-7000-8000-000000000002"

static void setup_server(void)
{
    redis_server_start(&server);
    struct buffer library; /* its files, one behind the other */
    buffer_init(&library, 1u << 20);
    for (size_t i = 0; i < redis_functions_count; i++)
        buffer_append(&library, redis_functions[i].text, redis_functions[i].len);
    redisReply *reply =
        redis_server_command(&server, "FUNCTION LOAD %b", library.data, library.len);
    buffer_done(&library);
    ck_assert_msg(reply->type == REDIS_REPLY_STRING, "%s", reply->str);
    freeReplyObject(reply);
    ck_assert_int_eq(redis_server_integer(&server, "FCALL hie1_revision 0"), QUEUE_REDIS_REVISION);
}

static void teardown_server(void)
{
    redis_server_stop(&server);
}

static void setup(void)
{
    flush_server();
}

/* Splits at blanks; "''" is an empty argument. */
static redisReply *run(const char *command)
{
    const char *args[600];
    size_t lens[600];
    int count = 0;
    for (const char *at = command; *at;) {
        size_t len = strcspn(at, " ");
        bool empty = len == 2 && memcmp(at, "''", 2) == 0;
        args[count] = at;
        lens[count++] = empty ? 0 : len;
        at += len + (at[len] == ' ');
    }
    redisContext *context = redis_server_connect(&server);
    redisReply *reply = redisCommandArgv(context, count, args, lens);
    ck_assert_ptr_nonnull(reply);
    redisFree(context);
    return reply;
}

static void refused(const char *command)
{
    redisReply *reply = run(command);
    ck_assert_msg(reply->type == REDIS_REPLY_ERROR, "not refused: %s", command);
    ck_assert_msg(strncmp(reply->str, "ERR ", 4) == 0, "%s: %s", command, reply->str);
    freeReplyObject(reply);
    ck_assert_msg(redis_server_integer(&server, "DBSIZE") == 0, "left something: %s", command);
}

static long long integer(const char *command)
{
    redisReply *reply = run(command);
    ck_assert_msg(reply->type == REDIS_REPLY_INTEGER, "%s: %s", command, reply->str);
    long long integer = reply->integer;
    freeReplyObject(reply);
    return integer;
}

/* The number at `index` of a list. */
static long long number_at(const char *command, size_t index)
{
    redisReply *reply = run(command);
    ck_assert_msg(reply->type == REDIS_REPLY_ARRAY && reply->elements > index, "%s: %s", command,
                  reply->str);
    long long integer = reply->element[index]->integer;
    freeReplyObject(reply);
    return integer;
}

START_TEST(enqueue_refuses)
{
    static const char *const wrong[] = {
        "FCALL hie1_enqueue 5 " KEYS5,
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' ''",             /* six arguments */
        "FCALL hie1_enqueue 4 a b c d " ID1 " 1 '' '' '' '' body",          /* four keys */
        "FCALL hie1_enqueue 5 nostream b c d e " ID1 " 1 '' '' '' '' body", /* no hash tag */
        "FCALL hie1_enqueue 5 hie:{ADT}:no_pattern b c d e " ID1 " 1 '' '' '' '' body",
        "FCALL hie1_enqueue 5 " STREAM " " STREAM
        ":index hie:{ORU}:delayed hie:{ADT}:parked hie:{ADT}:idle " ID1
        " 1 '' '' '' '' body", /* of two items */
        "FCALL hie1_enqueue 5 " KEYS5 " not-an-id 1 '' '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " 0197A000-0000-7000-8000-000000000001 1 '' '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " 0197a000-0000-7000-8000-0000000000011 1 '' '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " '' '' '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1e3 '' '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 -5 '' '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' 10 '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' x '' '' body",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' ''",
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' body " ID2
        " x '' '' '' '' body", /* the second */
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i]);
}
END_TEST

START_TEST(enqueue_refuses_a_body_that_is_too_large)
{
    const size_t most = 65536;
    struct buffer command;
    buffer_init(&command, 2 * most);
    buffer_append_text(&command, "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' ");
    for (size_t i = 0; i < most + 1; i++)
        buffer_append_byte(&command, 'x');
    buffer_append_byte(&command, '\0');
    refused(command.data);
    command.data[command.len - 2] = '\0'; /* one byte less */
    ck_assert_int_eq(number_at(command.data, 1), 1);
    buffer_done(&command);
}
END_TEST

START_TEST(others_refuse)
{
    static const char *const wrong[] = {
        "FCALL hie1_finish 1 " STREAM " 1-1 " ID1,
        "FCALL hie1_finish 2 " STREAM " " STREAM ":index",
        "FCALL hie1_finish 2 " STREAM " " STREAM ":index 1-1",
        "FCALL hie1_retry 4 " STREAM " b c d 1-1 " ID1,
        "FCALL hie1_retry 4 " STREAM " b c d 1-1 " ID1 " soon",
        "FCALL hie1_retry 4 " STREAM " b c d 1 " ID1 " 5",
        "FCALL hie1_retry 4 " STREAM " b c d 1-1 x 5",
        "FCALL hie1_retry 4 " STREAM " b c d w1",
        "FCALL hie1_retry 4 " STREAM " b c d w1 1-1 " ID1 " soon",
        "FCALL hie1_retry 4 " STREAM " b c d w1 1-1 " ID1,
        "FCALL hie1_withdraw 4 x b c d " ID1,
        "FCALL hie1_withdraw 4 " STREAM " b c d",
        "FCALL hie1_hand_back 3 " STREAM " b c w1",
        "FCALL hie1_hand_back 3 " STREAM " b c w1 1-1 x",
        "FCALL hie1_renew 1 " STREAM " w1 1",
        "FCALL hie1_renew 1 " STREAM,
        "FCALL hie1_promote 3 a b c 1 1",
        "FCALL hie1_promote 11 a b c d e f g h i j k x 1",
        "FCALL hie1_promote 11 a b c d e f g h i j k 1 1",
        "FCALL hie1_promote 11 d p i " STREAM " i1 hie:{ADT}:sync_reliable i2 "
        "hie:{ADT}:concurrent_async i3 hie:{ADT}:concurrent_sync i4 1 1 fifo",
        "FCALL hie1_bury 2 a b " ID1 " 1 1 no ''",
        "FCALL hie1_bury 2 a b x 1 1 no '' body",
        "FCALL hie1_bury 2 a b " ID1 " 1 -1 no '' body",
        "FCALL hie1_depth 1 " STREAM,
        "FCALL hie1_missing 4 " STREAM " b c d",
        "FCALL hie1_heartbeat 1 a",
        "FCALL hie1_heartbeat 1 a 100 x",
        "FCALL hie1_leave 2 a b",
        "FCALL hie1_tidy 1 a x",
        "FCALL hie1_retry 4 " STREAM " b c d 1-1 " ID1 " 5x",
        "FCALL hie1_claim 2 " STREAM " b w1 1 '' priority 0",
        "FCALL hie1_claim 3 x b c w1 1 '' priority 0",
        "FCALL hie1_claim 3 " STREAM " b c w1 0 '' priority 0",
        "FCALL hie1_claim 3 " STREAM " b c w1 257 '' priority 0",
        "FCALL hie1_claim 3 " STREAM " b c w1 1 '' fifo 0",
        "FCALL hie1_claim 3 " STREAM " b c w1 1 '' priority -1",
        "FCALL hie1_claim 3 " STREAM " b c w1 1 '' priority",
        "FCALL hie1_recover 3 " STREAM " b c soon 1",
        "FCALL hie1_recover 3 " STREAM " b c 1",
        "FCALL hie1_put_down 1 " STREAM " w1 x",
        "FCALL hie1_put_down 1 " STREAM " w1",
        "FCALL hie1_inherit 1 " STREAM " w1 5",
        "FCALL hie1_inherit 1 " STREAM " w1 many 0-0",
        "FCALL hie1_inherit 1 " STREAM " w1 5 x",
        "FCALL hie1_count_deaths 1 hie:{ADT}:deaths",
        "FCALL hie1_count_deaths 1 hie:{ADT}:deaths x",
        "FCALL hie1_pull 5 " KEYS5 " w1",
        "FCALL hie1_pull 5 " KEYS5 " w1 x 1 '' '' '' '' body",
        "FCALL hie1_pull 4 a b c d w1 " ID1 " 1 '' '' '' '' body",
        "FCALL hie1_unbury 2 a b",
        "FCALL hie1_unbury 2 a b x",
        "FCALL hie1_replies 1 hie:{ADT}:reply:x 5 body '' ''",
        "FCALL hie1_replies 1 hie:{ADT}:reply:x soon body '' '' ''",
        "FCALL hie1_replies 1 elsewhere 5 body '' '' ''",
        "FCALL hie1_replies 2 hie:{ADT}:reply:x hie:{ADT}:reply:y 5 body '' '' ''",
        "FCALL hie1_read_replies 0",
        "FCALL hie1_slots 1 a d1 1 1 1 1",
        "FCALL hie1_slots 2 a b d1 1 1 1 1",
        "FCALL hie1_slots 3 a b c d1 1 1 1",
        "FCALL hie1_slots 3 a b c '' 1 1 1 1",
        "FCALL hie1_slots 3 a b c d1 1 -1 1 1",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i]);
    char *command = mem_alloc(16384); /* 257 ids */
    strcpy(command, "FCALL hie1_missing 4 " STREAM " b c d");
    for (int i = 0; i < 257; i++)
        strcat(command, " " ID1);
    refused(command);
    free(command);
}
END_TEST

START_TEST(finish_with_a_wrong_entry_id_does_nothing)
{
    number_at("FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' body", 0);
    redisReply *reply = run("XRANGE " STREAM " - +");
    char command[512];
    snprintf(command, sizeof(command),
             "FCALL hie1_finish 2 " STREAM " " STREAM ":index %s x-1 " ID1 " " ID2,
             reply->element[0]->element[0]->str);
    freeReplyObject(reply);
    reply = run(command);
    ck_assert_int_eq(reply->type, REDIS_REPLY_ERROR);
    freeReplyObject(reply);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN " STREAM), 1);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN " STREAM ":index"), 1);
}
END_TEST

START_TEST(enqueue_returns_depth_and_added)
{
    static const char command[] = "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' 3 k '' body " ID2
                                  " 2 99999999999999 '' '' '' body2";
    ck_assert_int_eq(number_at(command, 0), 2);
    redisReply *reply = run(command);
    ck_assert_int_eq(reply->element[0]->integer, 2);
    ck_assert_int_eq(reply->element[1]->integer, 0);
    freeReplyObject(reply);
    reply = run("XRANGE " STREAM " - +");
    ck_assert_uint_eq(reply->elements, 1);
    static const char *const fields[] = {"cid", ID1,   "at", "1",    "pri",
                                         "3",   "key", "k",  "body", "body"};
    const redisReply *list = reply->element[0]->element[1];
    ck_assert_uint_eq(list->elements, 10);
    for (size_t i = 0; i < 10; i++)
        ck_assert_str_eq(list->element[i]->str, fields[i]);
    freeReplyObject(reply);
    reply = run("ZRANGE hie:{ADT}:delayed 0 -1");
    ck_assert_uint_eq(reply->elements, 1);
    ck_assert_str_eq(reply->element[0]->str, "async_reliable:" ID2);
    freeReplyObject(reply);
}
END_TEST

START_TEST(retry_takes_attempts_behind_the_due_time)
{
    number_at("FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' body", 0);
    redisReply *reply = run("XRANGE " STREAM " - +");
    redisReply *moved =
        redis_server_command(&server,
                             "FCALL hie1_retry 4 " STREAM " " STREAM
                             ":index hie:{ADT}:delayed hie:{ADT}:parked %s " ID1 " %s",
                             reply->element[0]->element[0]->str, "5 12");
    ck_assert_int_eq(moved->integer, 1);
    freeReplyObject(moved);
    freeReplyObject(reply);
    reply = run("ZSCORE hie:{ADT}:delayed async_reliable:" ID1);
    ck_assert_str_eq(reply->str, "5");
    freeReplyObject(reply);
    static const char promote[] =
        "FCALL hie1_promote 11 hie:{ADT}:delayed hie:{ADT}:parked hie:{ADT}:idle " STREAM " " STREAM
        ":index hie:{ADT}:sync_reliable i2 hie:{ADT}:concurrent_async i3 "
        "hie:{ADT}:concurrent_sync i4 10 100";
    ck_assert_int_eq(number_at(promote, 0), 1);
    reply = run("XRANGE " STREAM " - +");
    const redisReply *fields = reply->element[0]->element[1];
    ck_assert_str_eq(fields->element[fields->elements - 2]->str, "try");
    ck_assert_str_eq(fields->element[fields->elements - 1]->str, "12");
    freeReplyObject(reply);
}
END_TEST

/* A place that a person wrote into the index: missing, in nobody's hand. */
START_TEST(nonsense_in_the_index)
{
    integer("HSET " STREAM ":index " ID1 " nonsense");
    ck_assert_int_eq(number_at("FCALL hie1_held 2 " STREAM " " STREAM ":index " ID1, 0), 0);
    ck_assert_int_eq(number_at("FCALL hie1_missing 4 " STREAM " " STREAM
                               ":index hie:{ADT}:parked hie:{ADT}:delayed " ID1,
                               0),
                     1);
}
END_TEST

START_TEST(a_parked_entry_without_its_place_is_missing)
{
    integer("HSET hie:{ADT}:parked async_reliable:" ID1 " x");
    integer("HSET " STREAM ":index " ID1 " delayed");
    static const char missing[] =
        "FCALL hie1_missing 4 " STREAM " " STREAM ":index hie:{ADT}:parked hie:{ADT}:delayed " ID1;
    ck_assert_int_eq(number_at(missing, 0), 1); /* somebody deleted the zset */
    integer("HSET " STREAM ":index " ID1 " delayed");
    integer("ZADD hie:{ADT}:delayed 5 async_reliable:" ID1);
    ck_assert_int_eq(number_at(missing, 0), 0);
}
END_TEST

/* More fields than Lua can hand to a command: they stay behind when the entry moves. */
START_TEST(an_entry_of_many_fields_moves)
{
    enum { FIELDS = 4200 };
    size_t size = 64 + FIELDS * 12;
    char *command = mem_alloc(size);
    size_t len = (size_t)snprintf(command, size, "XADD " STREAM " 7-1 body poison");
    for (int i = 0; i < FIELDS; i++)
        len += (size_t)snprintf(command + len, size - len, " f%d v", i);
    freeReplyObject(redis_server_command(&server, command));
    free(command);
    integer("FCALL hie1_retry 4 " STREAM " " STREAM
            ":index hie:{ADT}:delayed hie:{ADT}:parked 7-1 " ID1 " 5");
    static const char promote[] =
        "FCALL hie1_promote 11 hie:{ADT}:delayed hie:{ADT}:parked hie:{ADT}:idle " STREAM " " STREAM
        ":index hie:{ADT}:sync_reliable i2 hie:{ADT}:concurrent_async i3 "
        "hie:{ADT}:concurrent_sync i4 10 100";
    ck_assert_int_eq(number_at(promote, 0), 1);
    ck_assert_int_eq(integer("XLEN " STREAM), 1);
}
END_TEST

START_TEST(a_parked_entry_without_fields_is_missing)
{
    integer("ZADD hie:{ADT}:delayed 5 async_reliable:" ID1);
    integer("HSET " STREAM ":index " ID1 " delayed");
    integer("ZADD hie:{ADT}:delayed 6 nonsense");
    ck_assert_int_eq(number_at("FCALL hie1_missing 4 " STREAM " " STREAM
                               ":index hie:{ADT}:parked hie:{ADT}:delayed " ID1,
                               0),
                     1);
    integer("HSET " STREAM ":index " ID1 " delayed");
    static const char promote[] =
        "FCALL hie1_promote 11 hie:{ADT}:delayed hie:{ADT}:parked hie:{ADT}:idle " STREAM " " STREAM
        ":index "
        "hie:{ADT}:sync_reliable i2 hie:{ADT}:concurrent_async i3 "
        "hie:{ADT}:concurrent_sync i4 10 100";
    ck_assert_int_eq(number_at(promote, 0), 0);
    ck_assert_int_eq(redis_server_integer(&server, "DBSIZE"), 0);
}
END_TEST

/* A key that somebody made with another type: an error, and the idle set may be anything. */
START_TEST(keys_of_other_types)
{
    static const char enqueue_command[] =
        "FCALL hie1_enqueue 5 " KEYS5 " " ID1 " 1 '' '' '' '' body";
    integer("LPUSH hie:{ADT}:idle x");
    ck_assert_int_eq(number_at(enqueue_command, 1), 1);
    flush_server();
    integer("LPUSH " STREAM " x");
    redisReply *reply = run(enqueue_command);
    ck_assert(strncmp(reply->str, "WRONGTYPE", 9) == 0);
    freeReplyObject(reply);
    ck_assert_int_eq(redis_server_integer(&server, "DBSIZE"), 1);
}
END_TEST

START_TEST(tidy_forgets_consumers_that_hold_nothing)
{
    ck_assert_int_eq(integer("FCALL hie1_tidy 1 " STREAM " 0"), 0);
    freeReplyObject(run("XGROUP CREATE " STREAM " workers 0 MKSTREAM"));
    freeReplyObject(run("XADD " STREAM " * body x"));
    freeReplyObject(run("XREADGROUP GROUP workers busy COUNT 1 STREAMS " STREAM " >"));
    freeReplyObject(run("XGROUP CREATECONSUMER " STREAM " workers dead"));
    ck_assert_int_eq(integer("FCALL hie1_tidy 1 " STREAM " 3600000"), 0);
    ck_assert_int_eq(integer("FCALL hie1_tidy 1 " STREAM " 0"), 1);
    redisReply *consumers = run("XINFO CONSUMERS " STREAM " workers");
    ck_assert_uint_eq(consumers->elements, 1);
    ck_assert_str_eq(consumers->element[0]->element[1]->str, "busy");
    freeReplyObject(consumers);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue functions");
    TCase *tests = tcase_create("functions");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, enqueue_refuses);
    tcase_add_test(tests, enqueue_refuses_a_body_that_is_too_large);
    tcase_add_test(tests, others_refuse);
    tcase_add_test(tests, finish_with_a_wrong_entry_id_does_nothing);
    tcase_add_test(tests, enqueue_returns_depth_and_added);
    tcase_add_test(tests, retry_takes_attempts_behind_the_due_time);
    tcase_add_test(tests, nonsense_in_the_index);
    tcase_add_test(tests, a_parked_entry_without_fields_is_missing);
    tcase_add_test(tests, a_parked_entry_without_its_place_is_missing);
    tcase_add_test(tests, an_entry_of_many_fields_moves);
    tcase_add_test(tests, keys_of_other_types);
    tcase_add_test(tests, tidy_forgets_consumers_that_hold_nothing);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
