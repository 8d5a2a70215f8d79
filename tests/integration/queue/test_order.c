/* priority and lifo: what is claimed next, whatever came into the stream on whatever way, through repeats, recoveries, changes of the
 * type and losses. */
#include "queue_fixture.h"

#define STREAM "hie:{ADT}:async_reliable"

static struct peer door, alice, bob;

static const struct queue_name PRI = {
    .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .type = QUEUE_PRIORITY};
static const struct queue_name AGED = {
    .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .type = QUEUE_PRIORITY, .ageing_ms = 1000};
static const struct queue_name LIFO = {
    .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .type = QUEUE_LIFO};

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

static struct uuid add(struct queue_name name, const char *body, int priority, int64_t at_ms)
{
    struct queue_entry entry = entry_of(body);
    entry.priority = priority;
    entry.at_ms = at_ms;
    enqueue(&door, name, &entry, 1);
    return entry.id;
}

static long long number(const char *command)
{
    return redis_server_integer(&server, command);
}

static void tell(const char *command)
{
    redisReply *reply = redis_server_command(&server, command);
    ck_assert_msg(reply->type != REDIS_REPLY_ERROR, "%s: %s", command, reply->str);
    freeReplyObject(reply);
}

/* Makes the shape known, so that what follows is put in place at once. */
static void claim_nothing(struct queue_name name)
{
    ck_assert_uint_eq(claim_count(&alice, name, 5, false), 0);
}

static void add_mixed(struct queue_name name)
{
    add(name, "a5", 5, 1000);
    add(name, "b9", 9, 2000);
    add(name, "c0", 0, 500);
    add(name, "d5", 5, 900);
    add(name, "e5", 5, 1000);
}

/* Once with the shape known before, once found by the claim. */
START_TEST(priority_goes_first)
{
    if (_i == 0)
        claim_nothing(PRI);
    add_mixed(PRI);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 2, false)), "b9 d5 ");
    add(PRI, "f9", 9, 3000);
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, false)), "f9 a5 e5 c0 ");
    ck_assert_uint_eq(claim_count(&bob, PRI, 9, false), 0);
    ck_assert_int_eq(depth(&door, PRI).in_hand, 6);
    ck_assert_int_eq(depth(&door, PRI).waiting, 0);
}
END_TEST

/* One level is worth a second. */
START_TEST(ageing_lifts_what_waits)
{
    if (_i == 0)
        claim_nothing(AGED);
    add(AGED, "old0", 0, 10000);
    add(AGED, "new1", 1, 11001);
    add(AGED, "new2", 2, 11999);
    add(AGED, "new9", 9, 19001);
    ck_assert_str_eq(bodies_of(claim(&alice, AGED, 9, false)), "new2 old0 new1 new9 ");
}
END_TEST

START_TEST(lifo_takes_the_newest)
{
    if (_i == 0)
        claim_nothing(LIFO);
    add(LIFO, "a", 9, 1000);
    add(LIFO, "b", 0, 3000);
    add(LIFO, "c", 0, 2000);
    add(LIFO, "d", 0, 3000);
    ck_assert_str_eq(bodies_of(claim(&alice, LIFO, 2, false)), "d b ");
    add(LIFO, "e", 0, 1500);
    ck_assert_str_eq(bodies_of(claim(&alice, LIFO, 9, false)), "c e a ");
}
END_TEST

/* Entries of one millisecond, more than nine of them: numbers of one and of two digits. */
START_TEST(equals_stand_in_the_streams_order)
{
    char command[128], expected[256] = "";
    claim_nothing(PRI);
    for (int i = 0; i < 24; i++) {
        snprintf(command, sizeof(command), "XADD " STREAM " 99-%d at 7 body b%d", i, i);
        tell(command);
        snprintf(expected + strlen(expected), 16, "b%d ", i);
    }
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 99, false)), expected);
}
END_TEST

START_TEST(added_by_hand_stands_in_its_place)
{
    claim_nothing(PRI);
    add(PRI, "a5", 5, 1000);
    tell("XADD " STREAM " * pri 7 at 1 body raw7");
    add(PRI, "b9", 9, 1000); /* behind one that nobody has put in place */
    tell("XADD " STREAM " * body raw0");
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, false)), "b9 ");
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, false)), "raw7 a5 raw0 ");
}
END_TEST

START_TEST(hostile_entries)
{
    tell("XADD " STREAM " 5-1 body x at 99999999999999999999 pri 5");
    tell("XADD " STREAM " 5-2 body x at -1 pri 77");
    tell("XADD " STREAM " 5-3 nothing y");
    tell("XADD " STREAM " 5-4 pri 9 at 999999999999999 body late9");
    tell("XADD " STREAM " 5-5 pri 8 at 1 body first8 try many");
    tell("XADD " STREAM " 18446744073709551615-5 pri 9 at 1 body last9");
    tell("ZADD " STREAM ":order -1 nonsense -2 z99999999999999999999999-a1 -3 a1-a1 -4 ''");
    struct queue_claimed *claimed = claim(&alice, PRI, 20, true);
    ck_assert_uint_eq(claimed->count, 6);
    ck_assert_str_eq(claimed->entries[0].entry_id, "18446744073709551615-5");
    ck_assert_str_eq(claimed->entries[1].entry_id, "5-4");
    ck_assert_str_eq(claimed->entries[2].entry_id, "5-5");
    ck_assert(claimed->entries[2].malformed); /* its try is no number */
    finish(&alice, PRI, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(number("XLEN " STREAM), 0);
    ck_assert_int_eq(number("EXISTS " STREAM ":order"), 0);
    ck_assert_int_eq(number("HLEN " STREAM ":index"), 1); /* the order's state */
}
END_TEST

/* Members of the order that lead nowhere cost rounds, no claim. */
START_TEST(many_ghosts)
{
    char command[4096];
    claim_nothing(PRI);
    add(PRI, "real", 0, 1000);
    for (int i = 0; i < 40; i++) {
        size_t len = (size_t)snprintf(command, sizeof(command), "ZADD " STREAM ":order");
        for (int j = 0; j < 100; j++)
            len += (size_t)snprintf(command + len, sizeof(command) - len, " %d a1-d%d", j,
                                    1000 + i * 100 + j);
        tell(command);
    }
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 256, true)), "real ");
    ck_assert_int_eq(number("EXISTS " STREAM ":order"), 0);
    ck_assert_int_eq(number("SISMEMBER hie:{ADT}:idle alice"), 1);
}
END_TEST

START_TEST(repeats)
{
    claim_nothing(PRI);
    struct queue_entry entries[2] = {entry_of("a"), entry_of("b")};
    entries[1].priority = 3;
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(enqueue(&door, PRI, entries, 2), 2);
    struct queue_claimed *claimed = claim(&alice, PRI, 9, false);
    ck_assert_uint_eq(claimed->count, 2);
    ck_assert_int_eq(enqueue(&door, PRI, entries, 2), 2); /* while they are in hand */
    ck_assert_uint_eq(claim_count(&bob, PRI, 9, false), 0);
    for (int i = 0; i < 2; i++)
        hand_back(&alice, PRI, claimed);
    ck_assert_int_eq(depth(&door, PRI).waiting, 2);
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 2);
    struct queue_claimed *again = claim(&bob, PRI, 9, false);
    ck_assert_uint_eq(again->count, 2);
    ck_assert_str_eq(again->entries[0].entry_id, claimed->entries[0].entry_id);
    hand_back(&alice, PRI, claimed); /* bob's */
    ck_assert_int_eq(depth(&door, PRI).in_hand, 2);
    for (int i = 0; i < 2; i++)
        finish(&bob, PRI, again);
    ck_assert(is_missing(&door, PRI, entries[0].id));
    ck_assert_int_eq(number("XLEN " STREAM), 0);
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 0);
    queue_claimed_unref(claimed);
    queue_claimed_unref(again);
}
END_TEST

START_TEST(hand_back_goes_to_its_place)
{
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 3, false); /* b9 d5 a5 */
    struct queue_claimed two = {.entries = claimed->entries + 1, .count = 2};
    hand_back(&alice, PRI, &two);
    ck_assert(!is_held(&door, PRI, claimed->entries[1].id));
    ck_assert(!is_missing(&door, PRI, claimed->entries[1].id));
    ck_assert(is_held(&door, PRI, claimed->entries[0].id));
    ck_assert_int_eq(depth(&door, PRI).waiting, 4);
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, false)), "d5 a5 e5 c0 ");
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(retry_and_promote_keep_the_place)
{
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, false); /* b9 d5 */
    struct result result = {0};
    struct queue_retry retries[2];
    for (size_t i = 0; i < 2; i++) {
        retries[i] =
            (struct queue_retry){.id = claimed->entries[i].id, .due_ms = 1, .attempts = (int)i * 3};
        memcpy(retries[i].entry_id, claimed->entries[i].entry_id, QUEUE_ENTRY_ID_MAX);
    }
    alice.queue->ops->retry(alice.queue, PRI, alice.id, retries, 2, on_done, &result);
    wait_ok(&result);
    ck_assert_int_eq(depth(&door, PRI).delayed, 2);
    int64_t next;
    ck_assert_int_eq(promote(&door, PRI, 5, 9, &next), 2);
    ck_assert_int_eq(promote(&door, PRI, 5, 9, &next), 0);
    queue_claimed_unref(claimed);
    claimed = claim(&bob, PRI, 3, false);
    ck_assert_int_eq(claimed->entries[0].attempts, 0);
    ck_assert_int_eq(claimed->entries[1].attempts, 3);
    ck_assert_int_eq(claimed->entries[2].attempts, 0);
    hand_back(&bob, PRI, claimed);
    queue_claimed_unref(claimed);
    claimed = claim(&bob, PRI, 3, false);
    ck_assert_int_eq(claimed->entries[1].attempts, 3); /* it stays with the entry */
    ck_assert_str_eq(bodies_of(claimed), "b9 d5 a5 ");
}
END_TEST

START_TEST(takeover_puts_back)
{
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 3, false); /* b9 d5 a5 */
    queue_claimed_unref(takeover(&bob, PRI, 60000, 9));
    ck_assert_int_eq(depth(&door, PRI).in_hand, 3); /* not idle for so long */
    struct queue_claimed one = {.entries = claimed->entries, .count = 1};
    run_for_ms(30);
    renew(&alice, PRI, &one);
    queue_claimed_unref(takeover(&bob, PRI, 25, 1)); /* one of the two, then the other */
    ck_assert_int_eq(depth(&door, PRI).in_hand, 2);
    queue_claimed_unref(takeover(&bob, PRI, 25, 9));
    ck_assert_int_eq(depth(&door, PRI).in_hand, 1);
    ck_assert_str_eq(bodies_of(claim(&bob, AGED, 9, true)), "d5 a5 e5 c0 "); /* another shape */
    ck_assert_int_eq(depth(&door, PRI).in_hand, 5);
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(recovered_entries_are_marked)
{
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, false); /* b9 d5 */
    run_for_ms(20);
    ck_assert_uint_eq(claim_count(&bob, PRI, 9, true), 3); /* the others; now bob is idle */
    struct queue_claimed *taken = takeover(&bob, PRI, 15, 9);
    ck_assert_uint_eq(taken->count, 0);
    queue_claimed_unref(taken);
    WAIT_FOR(bob.wakes == 1);
    ck_assert_int_eq(depth(&door, PRI).waiting, 2);
    ck_assert(!is_held(&door, PRI, claimed->entries[0].id));
    /* The paused one wakes up: none of it does anything. */
    renew(&alice, PRI, claimed);
    hand_back(&alice, PRI, claimed);
    ck_assert_int_eq(depth(&door, PRI).waiting, 2);
    add(PRI, "g9", 9, 1);
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, false)), "g9 !b9 !d5 ");
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(a_paused_worker_finishes_what_waits_again)
{
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 5, false);
    queue_claimed_unref(takeover(&bob, PRI, 0, 9));
    struct queue_claimed two = {.entries = claimed->entries, .count = 2};
    finish(&alice, PRI, &two);
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 3);
    struct queue_claimed one = {.entries = claimed->entries + 2, .count = 1};
    retry(&alice, PRI, &one, 1); /* it is not hers any more */
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 3);
    ck_assert_int_eq(depth(&door, PRI).delayed, 0);
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, false)), "!a5 !e5 !c0 ");
    finish(&alice, PRI, claimed);
    queue_claimed_unref(claimed);
}
END_TEST

/* The stream was deleted and is another; the index is still there. */
START_TEST(an_order_without_its_stream)
{
    add_mixed(PRI);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, false)), "b9 ");
    number("HSET " STREAM ":index :order 'priority 0 99999999999999-0'");
    number("DEL " STREAM);
    add(PRI, "n9", 9, 1);
    ck_assert_int_eq(depth(&door, PRI).waiting, 1);
}
END_TEST

START_TEST(a_change_of_shape_builds_the_order_anew)
{
    add_mixed(PRI);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, false)), "b9 ");
    ck_assert_str_eq(bodies_of(claim(&alice, LIFO, 1, false)), "e5 ");
    add(LIFO, "f", 0, 10000);
    ck_assert_str_eq(bodies_of(claim(&alice, AGED, 1, false)), "d5 ");
    add(PRI, "g9", 9, 1);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, false)), "g9 a5 c0 f ");
    ck_assert_int_eq(depth(&door, PRI).in_hand, 7);
}
END_TEST

/* What was taken over under an order, or handed back, waits for the plain claim as well, and nothing twice. */
START_TEST(from_an_order_to_none_and_back)
{
    claim_nothing(PRI);
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, false); /* b9 d5 */
    hand_back(&alice, PRI, claimed);
    add(ADT, "f", 0, 9000); /* put in place, but behind the group's last entry */
    ck_assert_str_eq(bodies_of(claim(&alice, ADT, 9, _i == 0)), "f b9 d5 a5 e5 c0 ");
    ck_assert_uint_eq(claim_count(&bob, ADT, 9, true), 0);
    ck_assert_int_eq(number("EXISTS " STREAM ":order"), 0);
    ck_assert_int_eq(number("HEXISTS " STREAM ":index :order"), 0);
    add(ADT, "h", 0, 1);
    ck_assert_int_eq(number("EXISTS " STREAM ":order"), 0);
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, false)), "h ");
    ck_assert_int_eq(depth(&door, PRI).in_hand, 7);
    queue_claimed_unref(claimed);
}
END_TEST

/* Two workers that disagree about the type for a while: nothing is in two hands, nothing is lost. */
START_TEST(two_types_at_once)
{
    size_t claimed = 0;
    for (int i = 0; i < 40; i++) {
        add(PRI, "x", i % 10, 1000 + i);
        if (i % 3 == 0)
            claimed += claim_count(&alice, PRI, 1, false);
        if (i % 4 == 0)
            claimed += claim_count(&bob, ADT, i % 8 ? 1 : 2, true);
        if (i % 5 == 0)
            claimed += claim_count(&alice, LIFO, 1, true);
    }
    for (int i = 0; i < 20; i++) {
        claimed += claim_count(&alice, i % 2 ? PRI : LIFO, 2, false);
        claimed += claim_count(&bob, ADT, 2, false);
    }
    ck_assert_uint_eq(claimed, 40);
    ck_assert_int_eq(depth(&door, PRI).in_hand, 40);
}
END_TEST

START_TEST(largest_batch)
{
    struct queue_entry *entries = mem_array(QUEUE_BATCH_MAX, sizeof(*entries));
    char *body = mem_alloc(MESSAGE_INLINE_MAX + 1);
    memset(body, 'x', MESSAGE_INLINE_MAX);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < QUEUE_BATCH_MAX; i++) {
            entries[i] = entry_of(body);
            entries[i].priority = (int)(i % 10);
        }
        enqueue(&door, PRI, entries, QUEUE_BATCH_MAX); /* first unknown, then in place at once */
        struct queue_claimed *claimed = claim(&alice, PRI, 1000, true);
        ck_assert_uint_eq(claimed->count, QUEUE_BATCH_MAX);
        for (size_t i = 1; i < claimed->count; i++)
            ck_assert_int_ge(claimed->entries[i - 1].priority, claimed->entries[i].priority);
        renew(&alice, PRI, claimed);
        hand_back(&alice, PRI, claimed);
        queue_claimed_unref(claimed);
        claimed = claim(&bob, PRI, 1000, true);
        queue_claimed_unref(takeover(&bob, PRI, 0, 1000));
        queue_claimed_unref(claimed);
        claimed = claim(&bob, PRI, 1000, true);
        ck_assert_uint_eq(claimed->count, QUEUE_BATCH_MAX);
        ck_assert(claimed->entries[0].taken_over && claimed->entries[255].taken_over);
        finish(&bob, PRI, claimed);
        queue_claimed_unref(claimed);
    }
    ck_assert_int_eq(number("XLEN " STREAM), 0);
    free(entries);
    free(body);
}
END_TEST

/* More than one step's worth came past the Functions, the highest last. */
START_TEST(a_long_stream_is_put_in_place_in_steps)
{
    char command[128];
    redisContext *context = redis_server_connect(&server);
    for (int i = 0; i < 2500; i++) {
        snprintf(command, sizeof(command), "XADD " STREAM " * at %d pri %d body b%d", i, i / 250,
                 i);
        redisAppendCommand(context, command);
    }
    for (int i = 0; i < 2500; i++) {
        redisReply *reply = NULL;
        ck_assert_int_eq(redisGetReply(context, (void **)&reply), REDIS_OK);
        freeReplyObject(reply);
    }
    redisFree(context);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 3, true)), "b2250 b2251 b2252 ");
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 2497);
    ck_assert_str_eq(bodies_of(claim(&alice, LIFO, 2, true)), "b2499 b2498 ");
}
END_TEST

START_TEST(lost_keys)
{
    claim_nothing(PRI);
    add_mixed(PRI);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, false)), "b9 ");
    tell("DEL " STREAM ":order"); /* the order alone */
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, true)), "d5 ");
    tell("HDEL " STREAM ":index :order"); /* its state alone */
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, true)), "a5 ");
    tell("HSET " STREAM ":index :order nonsense");
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 1, true)), "e5 ");
    tell("XGROUP DESTROY " STREAM " workers"); /* all wait again */
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, true)), "c0 b9 d5 a5 e5 ");
    flush_server();
    ck_assert_uint_eq(claim_count(&alice, PRI, 9, true), 0);
    add(PRI, "new", 0, 1);
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, true)), "new ");
    tell("FUNCTION FLUSH");
    add(PRI, "newer", 0, 1);
    tell("FUNCTION FLUSH");
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, true)), "newer ");
    tell("FUNCTION FLUSH");
    queue_claimed_unref(takeover(&bob, PRI, 0, 9));
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, true)), "!new !newer ");
}
END_TEST

/* A person's deletion while it waits, and while it is in hand. */
START_TEST(deleted_by_hand)
{
    claim_nothing(PRI);
    add_mixed(PRI);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, false); /* b9 d5 */
    redis_server_integer(&server, "XDEL " STREAM " %s", claimed->entries[0].entry_id);
    redisReply *first = redis_server_command(&server, "XRANGE " STREAM " - + COUNT 1");
    redis_server_integer(&server, "XDEL " STREAM " %s",
                         first->element[0]->element[0]->str); /* a5 */
    freeReplyObject(first);
    queue_claimed_unref(takeover(&bob, PRI, 0, 9));
    ck_assert_str_eq(bodies_of(claim(&bob, PRI, 9, true)), "!d5 e5 c0 ");
    ck_assert_int_eq(number("XLEN " STREAM), 3);
    ck_assert_int_eq(depth(&door, PRI).in_hand, 3);
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(without_memory)
{
    claim_nothing(PRI);
    add_mixed(PRI);
    tell("XADD " STREAM " * pri 1 at 1 body raw1");
    fill_server(true);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, true);
    hand_back(&alice, PRI, claimed);
    queue_claimed_unref(claimed);
    ck_assert_uint_eq(claim_count(&alice, PRI, 2, true), 2);
    queue_claimed_unref(takeover(&bob, PRI, 0, 9));
    claimed = claim(&bob, PRI, 9, true);
    ck_assert_uint_eq(claimed->count, 6);
    finish(&bob, PRI, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(number("XLEN " STREAM), 0);
    fill_server(false);
}
END_TEST

START_TEST(waking)
{
    ck_assert_uint_eq(claim_count(&alice, PRI, 2, true), 0);
    ck_assert_int_eq(number("SISMEMBER hie:{ADT}:idle alice"), 1);
    add(PRI, "a", 0, 1);
    WAIT_FOR(alice.wakes == 1);
    struct queue_claimed *claimed = claim(&alice, PRI, 2, true);
    ck_assert_uint_eq(claimed->count, 1);
    ck_assert_int_eq(number("SISMEMBER hie:{ADT}:idle alice"), 1); /* it has room for one more */
    hand_back(&alice, PRI, claimed);
    queue_claimed_unref(claimed);
    WAIT_FOR(alice.wakes == 2);
    add(PRI, "b", 0, 1);
    ck_assert_uint_eq(claim_count(&bob, PRI, 1, true), 1);
    ck_assert_int_eq(number("SCARD hie:{ADT}:idle"), 0);
    ck_assert_uint_eq(claim_count(&bob, PRI, 1, true), 1);
    ck_assert_uint_eq(claim_count(&bob, PRI, 1, true), 0);
    ck_assert_int_eq(number("SISMEMBER hie:{ADT}:idle bob"), 1);
    add(PRI, "c", 0, 1);
    WAIT_FOR(bob.wakes == 1);
}
END_TEST

START_TEST(a_claim_takes_nothing_from_a_hand)
{
    claim_nothing(PRI);
    add(PRI, "a", 0, 1);
    redisReply *read = redis_server_command(
        &server, "XREADGROUP GROUP workers carol COUNT 1 STREAMS " STREAM " >");
    ck_assert_int_eq(read->type, REDIS_REPLY_ARRAY); /* by a person, past the order */
    freeReplyObject(read);
    ck_assert_uint_eq(claim_count(&alice, PRI, 9, true), 0);
    ck_assert_int_eq(number("ZCARD " STREAM ":order"), 0);
    queue_claimed_unref(takeover(&bob, PRI, 0, 9));
    ck_assert_str_eq(bodies_of(claim(&alice, PRI, 9, true)), "!a ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue order");
    TCase *tests = tcase_create("order");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, priority_goes_first, 0, 2);
    tcase_add_loop_test(tests, ageing_lifts_what_waits, 0, 2);
    tcase_add_loop_test(tests, lifo_takes_the_newest, 0, 2);
    tcase_add_test(tests, equals_stand_in_the_streams_order);
    tcase_add_test(tests, added_by_hand_stands_in_its_place);
    tcase_add_test(tests, hostile_entries);
    tcase_add_test(tests, many_ghosts);
    tcase_add_test(tests, repeats);
    tcase_add_test(tests, hand_back_goes_to_its_place);
    tcase_add_test(tests, retry_and_promote_keep_the_place);
    tcase_add_test(tests, takeover_puts_back);
    tcase_add_test(tests, recovered_entries_are_marked);
    tcase_add_test(tests, a_paused_worker_finishes_what_waits_again);
    tcase_add_test(tests, a_change_of_shape_builds_the_order_anew);
    tcase_add_test(tests, an_order_without_its_stream);
    tcase_add_loop_test(tests, from_an_order_to_none_and_back, 0, 2);
    tcase_add_test(tests, two_types_at_once);
    tcase_add_test(tests, largest_batch);
    tcase_add_test(tests, a_long_stream_is_put_in_place_in_steps);
    tcase_add_test(tests, lost_keys);
    tcase_add_test(tests, deleted_by_hand);
    tcase_add_test(tests, without_memory);
    tcase_add_test(tests, waking);
    tcase_add_test(tests, a_claim_takes_nothing_from_a_hand);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
