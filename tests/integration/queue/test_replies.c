/* Replies that are published and left under their keys, who hears and reads them; room at the door. */
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
    peer_start_listener(&door, "d1");
    peer_start(&alice, "alice");
}

static void teardown(void)
{
    peer_stop(&door);
    peer_stop(&alice);
    stop_loop();
}

static void send_replies(const struct queue_reply *replies, size_t count)
{
    struct result result = {0};
    alice.queue->ops->replies(alice.queue, "ADT", replies, count, on_done, &result);
    wait_ok(&result);
}

static struct queue_reply reply_of(const char *body, const char *to)
{
    return (struct queue_reply){.id = uuid_new(clock_wall_ms()),
                                .status = "completed",
                                .content_type = SLICE_LITERAL("text/plain"),
                                .body = body_of(body, strlen(body)),
                                .to = slice_text(to),
                                .ttl_ms = 60000};
}

/* ---- reading ---- */

struct read {
    int ended;
    struct err err;
    size_t count;
    struct buffer bodies[QUEUE_BATCH_MAX]; /* max 0: there is none */
};

static void on_read(void *arg, const struct err *err, const struct body *bodies)
{
    struct read *read = arg;
    read->ended++;
    read->err = *err;
    for (size_t i = 0; i < read->count && err->code == ERR_NONE; i++) {
        if (!bodies[i].ptr)
            continue;
        buffer_init(&read->bodies[i], bodies[i].len + 1);
        buffer_append(&read->bodies[i], bodies[i].ptr, bodies[i].len);
    }
}

static void read_ids(struct read *read, const struct uuid *ids, size_t count)
{
    *read = (struct read){.count = count};
    door.queue->ops->read_replies(door.queue, "ADT", ids, count, on_read, read);
    ck_assert_int_eq(read->ended, 0);
    WAIT_FOR(read->ended == 1);
    ck_assert_msg(read->err.code == ERR_NONE, "%s", read->err.text);
}

static void read_done(struct read *read)
{
    for (size_t i = 0; i < read->count; i++)
        buffer_done(&read->bodies[i]);
}

/* The text under the key; "none" when there is none. */
static const char *read_one(struct uuid id)
{
    static char text[256];
    struct read read;
    read_ids(&read, &id, 1);
    ck_assert_uint_lt(read.bodies[0].len, sizeof(text));
    if (read.bodies[0].max == 0)
        strcpy(text, "none");
    else
        snprintf(text, sizeof(text), "%.*s", (int)read.bodies[0].len,
                 read.bodies[0].data ? read.bodies[0].data : "");
    read_done(&read);
    return text;
}

START_TEST(published_and_left_under_the_key)
{
    struct queue_reply reply = reply_of("MSA|AA", "d1");
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
    ck_assert(uuid_equal(door.reply.id, reply.id));
    ck_assert_str_eq(door.reply.status, "completed");
    ck_assert(!door.reply.has_error && !door.reply.left_out);
    ck_assert_str_eq(door.reply.content_type, "text/plain");
    ck_assert(slice_is(buffer_slice(&door.reply.body), "MSA|AA"));
    ck_assert_str_eq(read_one(reply.id), "MSA|AA");
    ck_assert_str_eq(read_one(reply.id), "MSA|AA"); /* reading takes nothing away */
    send_replies(&reply, 1);                        /* again: told again, left once */
    WAIT_FOR(door.replies == 2);
    char text[UUID_TEXT_LEN + 1];
    uuid_format(reply.id, text);
    ck_assert_int_eq(redis_server_integer(&server, "LLEN hie:{ADT}:reply:%s", text), 1);
    long long ttl = redis_server_integer(&server, "PTTL hie:{ADT}:reply:%s", text);
    ck_assert(ttl > 0 && ttl <= 60000);
}
END_TEST

START_TEST(ends_without_success_leave_no_key)
{
    struct queue_reply reply = reply_of("", "d1");
    reply.status = "dead_lettered";
    reply.error = "receiver answered 500";
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
    ck_assert_str_eq(door.reply.status, "dead_lettered");
    ck_assert_str_eq(door.reply.error, "receiver answered 500");
    ck_assert_str_eq(read_one(reply.id), "none");
}
END_TEST

START_TEST(nobody_waits_or_no_key)
{
    struct queue_reply replies[] = {reply_of("a", ""), reply_of("b", "d1"), reply_of("c", "other"),
                                    reply_of("", "d1")};
    replies[1].ttl_ms = 0;
    send_replies(replies, 4);
    WAIT_FOR(door.replies == 2);
    run_for_ms(50);
    ck_assert_int_eq(door.replies, 2);
    ck_assert_str_eq(read_one(replies[0].id), "a");
    ck_assert_str_eq(read_one(replies[1].id), "none");
    ck_assert_str_eq(read_one(replies[2].id), "c");
    ck_assert_str_eq(read_one(replies[3].id), ""); /* an empty reply is one */
    send_replies(NULL, 0);
}
END_TEST

START_TEST(large_ones_are_left_out)
{
    char *bytes = mem_alloc(MESSAGE_INLINE_MAX + 2);
    memset(bytes, 'x', MESSAGE_INLINE_MAX + 1);
    struct queue_reply replies[] = {reply_of(bytes, "d1"), reply_of(bytes, "d1"),
                                    reply_of("gone", "d1")};
    replies[0].body.len = MESSAGE_INLINE_MAX;
    replies[2].left_out = true; /* the sender has it no more */
    send_replies(&replies[0], 1);
    WAIT_FOR(door.replies == 1);
    ck_assert(!door.reply.left_out);
    ck_assert_uint_eq(door.reply.body.len, MESSAGE_INLINE_MAX);
    send_replies(&replies[1], 2);
    WAIT_FOR(door.replies == 3);
    ck_assert(door.reply.left_out);
    struct uuid ids[] = {replies[0].id, replies[1].id, replies[2].id};
    struct read read;
    read_ids(&read, ids, 3);
    ck_assert_uint_eq(read.bodies[0].len, MESSAGE_INLINE_MAX);
    ck_assert_uint_eq(read.bodies[1].len, MESSAGE_INLINE_MAX + 1);
    ck_assert_uint_eq(read.bodies[2].max, 0);
    read_done(&read);
    free(bytes);
}
END_TEST

/* 256 of them, of 256 KiB each: sixteen commands and as many to read them. */
START_TEST(largest_batch)
{
    enum { LEN = 256 * 1024 };
    char *bytes = mem_alloc(LEN + 1);
    memset(bytes, 'x', LEN);
    struct queue_reply *replies = mem_array(QUEUE_BATCH_MAX, sizeof(*replies));
    struct uuid ids[QUEUE_BATCH_MAX];
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++) {
        replies[i] = reply_of(bytes, "d1");
        replies[i].body.len = LEN - i;
        ids[i] = replies[i].id;
    }
    for (int i = 0; i < 2; i++) {
        send_replies(replies, QUEUE_BATCH_MAX);
        WAIT_FOR(door.replies == (i + 1) * QUEUE_BATCH_MAX);
    }
    struct read *read = mem_alloc(sizeof(*read));
    read_ids(read, ids, QUEUE_BATCH_MAX);
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
        ck_assert_uint_eq(read->bodies[i].len, LEN - i);
    read_done(read);
    free(read);
    free(replies);
    free(bytes);
}
END_TEST

START_TEST(reading_what_others_made)
{
    struct uuid ids[2] = {uuid_new(1000), uuid_new(1000)};
    char text[UUID_TEXT_LEN + 1];
    uuid_format(ids[0], text);
    freeReplyObject(redis_server_command(&server, "SET hie:{ADT}:reply:%s x", text));
    struct read read;
    read_ids(&read, ids, 2);
    ck_assert_uint_eq(read.bodies[0].max + read.bodies[1].max, 0);
    read_ids(&read, ids, 0);
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    read_ids(&read, ids, 2);
    struct queue_reply reply = reply_of("a", "d1");
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
}
END_TEST

START_TEST(replies_without_memory)
{
    struct queue_reply reply = reply_of("a", "d1");
    fill_server(true);
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
    ck_assert_str_eq(read_one(reply.id), "a"); /* the entry that it answers leaves next */
    fill_server(false);
}
END_TEST

START_TEST(nonsense_on_the_channel)
{
    static const char *const messages[] = {"", "x", "\x80", "\x81\xa3", "\xdf\xff\xff\xff\xff"};
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
        ck_assert_int_eq(redis_server_integer(&server, "PUBLISH hie:reply:d1 %s", messages[i]), 1);
    char *large = mem_alloc(1u << 20);
    memset(large, 0x91, 1u << 20);
    ck_assert_int_eq(
        redis_server_integer(&server, "PUBLISH hie:reply:d1 %b", large, (size_t)1 << 20), 1);
    free(large);
    struct queue_reply reply = reply_of("a", "d1");
    send_replies(&reply, 1);
    WAIT_FOR(door.replies > 0);
    ck_assert_int_eq(door.replies, 1);
    ck_assert(queue_redis_is_up(door.queue));
    ck_assert_int_eq(door.downs, 0);
}
END_TEST

/* It is not gathered up in memory: the link goes down and comes up again. */
START_TEST(a_message_without_end)
{
    enum { LEN = 16 << 20 };
    char *bytes = mem_alloc(LEN);
    ck_assert_int_eq(redis_server_integer(&server, "PUBLISH hie:reply:d1 %b", bytes, (size_t)LEN),
                     1);
    free(bytes);
    WAIT_FOR(door.downs == 1 && door.ups == 2);
    struct queue_reply reply = reply_of("a", "d1");
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
}
END_TEST

/* Up is when all links are: a queue that cannot hear its replies is down. */
START_TEST(the_listeners_link_counts)
{
    redisReply *killed = redis_server_command(&server, "CLIENT KILL TYPE pubsub");
    ck_assert_int_ge(killed->integer, 2);
    freeReplyObject(killed);
    WAIT_FOR(door.downs == 1);
    WAIT_FOR(door.ups == 2);
    struct queue_reply reply = reply_of("a", "d1");
    send_replies(&reply, 1);
    WAIT_FOR(door.replies == 1);
}
END_TEST

/* ---- room at the door ---- */

struct granted {
    int ended;
    struct err err;
    int64_t granted, depth;
};

static void on_slots(void *arg, const struct err *err, int64_t granted, int64_t depth)
{
    struct granted *result = arg;
    result->ended++;
    result->err = *err;
    result->granted = granted;
    result->depth = depth;
}

static struct granted slots(const char *holder, int64_t limit, int64_t held, int64_t want,
                            int64_t ttl_ms)
{
    struct granted result = {0};
    const struct queue_name name = {
        .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .type = QUEUE_FIFO};
    door.queue->ops->slots(door.queue, name, 3, holder, limit, held, want, ttl_ms, on_slots,
                           &result);
    WAIT_FOR(result.ended == 1);
    ck_assert_msg(result.err.code == ERR_NONE, "%s", result.err.text);
    return result;
}

START_TEST(slots_are_shared)
{
    struct queue_name third = {
        .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .partition = 2, .type = QUEUE_FIFO};
    enqueue_one(&door, third, "x");
    third.partition = 0;
    struct queue_entry later = entry_of("later");
    later.due_ms = clock_wall_ms() + 60000;
    enqueue(&door, third, &later, 1);
    struct granted one = slots("d1", 100, 0, 60, 60000);
    ck_assert_int_eq(one.granted, 60);
    ck_assert_int_eq(one.depth, 2);
    ck_assert_int_eq(slots("d1", 100, 0, 60, 60000).granted, 60); /* a repeat: not on top */
    ck_assert_int_eq(slots("d2", 100, 0, 60, 60000).granted, 38); /* 100 - 2 - 60 */
    ck_assert_int_eq(slots("d3", 100, 0, 60, 60000).granted, 0);
    ck_assert_int_eq(slots("d1", 100, 50, 60, 60000).granted, 10); /* 100 - 2 - 38 - 50 */
    ck_assert_int_eq(slots("d1", 100, 20, 0, 60000).granted, 0);   /* gives 40 back */
    ck_assert_int_eq(slots("d2", 100, 38, 60, 60000).granted, 40);
    ck_assert_int_eq(slots("d2", 10, 38, 60, 60000).granted, 0); /* a smaller limit since */
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:slots"), 2);
    slots("d2", 100, 0, 0, 60000);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:slots"), 1);
}
END_TEST

START_TEST(silent_holders_count_no_more)
{
    ck_assert_int_eq(slots("d1", 10, 0, 10, 30).granted, 10);
    ck_assert_int_eq(slots("d2", 10, 0, 10, 60000).granted, 0);
    run_for_ms(50);
    ck_assert_int_eq(slots("d2", 10, 0, 10, 40).granted, 10);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:slots"), 1);
    run_for_ms(60);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:slots"), 0);
}
END_TEST

START_TEST(slots_in_bad_times)
{
    freeReplyObject(redis_server_command(
        &server, "HSET hie:{ADT}:slots a nonsense b 99999999999999999999 c %s", "5 x"));
    fill_server(true);
    ck_assert_int_eq(slots("d1", 10, 0, 4, 60000).granted, 4);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:slots"), 1);
    fill_server(false);
    flush_server();
    ck_assert_int_eq(slots("d1", 10, 4, 4, 60000).granted, 4); /* held ones count again */
    ck_assert_int_eq(slots("d2", 10, 0, 4, 60000).granted, 2);
    freeReplyObject(redis_server_command(&server, "FUNCTION FLUSH"));
    ck_assert_int_eq(slots("d2", 10, 0, 4, 60000).granted, 2);
}
END_TEST

/* ---- dead letters ---- */

START_TEST(unbury_takes_the_mirrors_away)
{
    struct queue_dead dead[3];
    struct uuid ids[3];
    for (int i = 0; i < 3; i++) {
        dead[i] = (struct queue_dead){
            .id = uuid_new(clock_wall_ms()), .at_ms = 5, .error = "no", .body = body_of("x", 1)};
        ids[i] = dead[i].id;
    }
    ids[2] = uuid_new(clock_wall_ms()); /* has none */
    struct result result = {0};
    alice.queue->ops->bury(alice.queue, "ADT", dead, 3, on_done, &result);
    wait_ok(&result);
    fill_server(true);
    for (int i = 0; i < 2; i++) {
        result = (struct result){0};
        door.queue->ops->unbury(door.queue, "ADT", ids, 3, on_done, &result);
        wait_ok(&result);
        ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:dead"), 1);
        ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:dead:index"), 1);
    }
    fill_server(false);
    result = (struct result){0};
    door.queue->ops->unbury(door.queue, "ADT", ids, 0, on_done, &result);
    wait_ok(&result);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue replies");
    TCase *tests = tcase_create("replies");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, published_and_left_under_the_key);
    tcase_add_test(tests, ends_without_success_leave_no_key);
    tcase_add_test(tests, nobody_waits_or_no_key);
    tcase_add_test(tests, large_ones_are_left_out);
    tcase_add_test(tests, largest_batch);
    tcase_add_test(tests, reading_what_others_made);
    tcase_add_test(tests, replies_without_memory);
    tcase_add_test(tests, nonsense_on_the_channel);
    tcase_add_test(tests, a_message_without_end);
    tcase_add_test(tests, the_listeners_link_counts);
    tcase_add_test(tests, slots_are_shared);
    tcase_add_test(tests, silent_holders_count_no_more);
    tcase_add_test(tests, slots_in_bad_times);
    tcase_add_test(tests, unbury_takes_the_mirrors_away);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
