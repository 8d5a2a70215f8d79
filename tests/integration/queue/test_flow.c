/* Every operation on entries against a real Redis, and each of them repeated. */
#include "queue_fixture.h"

static struct peer door, alice, bob;

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

static void check_body(const struct queue_entry *entry, const void *body, size_t len)
{
    ck_assert_uint_eq(entry->body.len, len);
    ck_assert(len == 0 || memcmp(entry->body.ptr, body, len) == 0);
}

START_TEST(enqueue_claim_finish)
{
    struct queue_entry entries[3] = {entry_of("one"), entry_of("two"), entry_of("three")};
    entries[1].priority = 7;
    entries[1].key = SLICE_LITERAL("4711^^^HOSP");
    ck_assert_int_eq(enqueue(&door, ADT, entries, 3), 3);
    struct queue_claimed *claimed = claim(&alice, ADT, 10, false);
    ck_assert_uint_eq(claimed->count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct queue_entry *entry = &claimed->entries[i];
        ck_assert(uuid_equal(entry->id, entries[i].id));
        ck_assert_int_eq(entry->at_ms, entries[i].at_ms);
        ck_assert_int_eq(entry->priority, entries[i].priority);
        ck_assert(slice_equal(entry->key, entries[i].key));
        ck_assert(slice_equal(entry->meta, entries[i].meta));
        ck_assert(!entry->malformed);
        check_body(entry, entries[i].body.ptr, entries[i].body.len);
    }
    ck_assert_uint_eq(claim_count(&bob, ADT, 10, false), 0);
    finish(&alice, ADT, claimed);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:async_reliable:index"), 0);
    struct queue_depth now = depth(&door, ADT);
    ck_assert_int_eq(now.in_hand, 0);
    ck_assert_int_eq(now.waiting, 0);
    finish(&alice, ADT, claimed); /* again */
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(enqueue_is_idempotent)
{
    struct queue_entry entries[3] = {entry_of("one"), entry_of("two"), entry_of("two again")};
    entries[2].id = entries[1].id;
    ck_assert_int_eq(enqueue(&door, ADT, entries, 3), 2);
    ck_assert_int_eq(enqueue(&door, ADT, entries, 3), 2);
    struct queue_claimed *claimed = claim(&alice, ADT, 10, false);
    ck_assert_uint_eq(claimed->count, 2);
    ck_assert_int_eq(enqueue(&door, ADT, entries, 3), 2); /* also while they are in hand */
    ck_assert_uint_eq(claim_count(&bob, ADT, 10, false), 0);
    finish(&alice, ADT, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(enqueue(&door, ADT, entries, 1), 1); /* a redrive has the same id */
}
END_TEST

START_TEST(bytes_stay_as_they_are)
{
    static const char odd[] = "\x0b$5\r\nMSH|^~\\&\0\r\n\x1c\r\xff\xfe*3\r\n";
    struct queue_entry entries[3] = {entry_of(""), entry_of(""), entry_of("")};
    char *large = mem_alloc(MESSAGE_INLINE_MAX);
    for (size_t i = 0; i < MESSAGE_INLINE_MAX; i++)
        large[i] = (char)(i * 31 + i / 253);
    entries[0].body = body_of(odd, sizeof(odd));
    entries[0].key = slice_of("a\0b\r\n", 5);
    entries[1].body = body_of(large, MESSAGE_INLINE_MAX);
    enqueue(&door, ADT, entries, 3);
    struct queue_claimed *claimed = claim(&alice, ADT, 3, false);
    ck_assert_uint_eq(claimed->count, 3);
    check_body(&claimed->entries[0], odd, sizeof(odd));
    ck_assert(slice_equal(claimed->entries[0].key, entries[0].key));
    check_body(&claimed->entries[1], large, MESSAGE_INLINE_MAX);
    check_body(&claimed->entries[2], "", 0);
    ck_assert(!claimed->entries[2].malformed); /* the dispatcher took an empty message */
    retry(&alice, ADT, claimed, 1);
    int64_t next;
    ck_assert_int_eq(promote(&door, ADT, 2, 10, &next), 3);
    queue_claimed_unref(claimed);
    claimed = claim(&bob, ADT, 3, false);
    ck_assert_uint_eq(claimed->count, 3);
    for (size_t i = 0; i < 3; i++) {
        bool is_odd = uuid_equal(claimed->entries[i].id, entries[0].id);
        bool is_large = uuid_equal(claimed->entries[i].id, entries[1].id);
        check_body(&claimed->entries[i], is_odd ? odd : large,
                   is_odd     ? sizeof(odd)
                   : is_large ? MESSAGE_INLINE_MAX
                              : 0);
    }
    queue_claimed_unref(claimed);
    free(large);
}
END_TEST

START_TEST(largest_batch)
{
    struct queue_entry *entries = mem_array(QUEUE_BATCH_MAX, sizeof(*entries));
    char *body = mem_alloc(MESSAGE_INLINE_MAX + 1);
    memset(body, 'x', MESSAGE_INLINE_MAX);
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
        entries[i] = entry_of(body);
    ck_assert_int_eq(enqueue(&door, ADT, entries, QUEUE_BATCH_MAX), QUEUE_BATCH_MAX);
    struct queue_claimed *claimed = claim(&alice, ADT, 1000, false);
    ck_assert_uint_eq(claimed->count, QUEUE_BATCH_MAX);
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
        ck_assert(uuid_equal(claimed->entries[i].id, entries[i].id));
    renew(&alice, ADT, claimed);
    hand_back(&alice, ADT, claimed);
    queue_claimed_unref(claimed);
    claimed = claim(&bob, ADT, 1000, false);
    ck_assert_uint_eq(claimed->count, QUEUE_BATCH_MAX);
    retry(&bob, ADT, claimed, 1);
    int64_t next;
    ck_assert_int_eq(promote(&door, ADT, 2, 1000, &next), QUEUE_BATCH_MAX);
    queue_claimed_unref(claimed);
    claimed = claim(&bob, ADT, QUEUE_BATCH_MAX, true);
    ck_assert_uint_eq(claimed->count, QUEUE_BATCH_MAX);
    finish(&bob, ADT, claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:async_reliable:index"), 0);
    free(entries);
    free(body);
}
END_TEST

START_TEST(calls_over_nothing)
{
    struct queue_claimed none = {.count = 0};
    enqueue(&door, ADT, NULL, 0);
    finish(&alice, ADT, &none);
    retry(&alice, ADT, &none, 0);
    renew(&alice, ADT, &none);
    hand_back(&alice, ADT, &none);
    ck_assert_uint_eq(claim_count(&alice, ADT, 0, true), 0);
    ck_assert_uint_eq(claim_count(&alice, ADT, 5, false), 0);
    struct queue_claimed *claimed = takeover(
        &alice, (struct queue_name){"NEW", PATTERN_SYNC_RELIABLE, 0, QUEUE_UNORDERED, 0}, 0, 5);
    ck_assert_uint_eq(claimed->count, 0); /* no stream, no group */
    queue_claimed_unref(claimed);
}
END_TEST

static void on_claimed_and_dropped(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    ((struct result *)arg)->number = (int64_t)claimed->count;
    queue_claimed_unref(claimed);
    on_done(arg, err);
}

/* The receiver owns what was claimed, from inside the completion on. */
START_TEST(dropped_at_once)
{
    static const enum queue_type types[] = {QUEUE_UNORDERED, QUEUE_PRIORITY, QUEUE_FIFO};
    struct queue_name name = ADT;
    for (size_t i = 0; i < 3; i++) {
        struct result result = {0};
        name.type = types[i];
        enqueue_one(&door, name, "x");
        alice.queue->ops->claim(alice.queue, name, "alice", 4, true, on_claimed_and_dropped,
                                &result);
        wait_ok(&result);
        /* A partition's owner looks once at what is hers. */
        ck_assert_int_eq(result.number, name.type == QUEUE_FIFO ? 3 : 1);
    }
}
END_TEST

START_TEST(partitions_and_patterns_are_apart)
{
    const struct queue_name third = {"ADT", PATTERN_ASYNC_RELIABLE, 3, QUEUE_UNORDERED, 0};
    const struct queue_name sync = {"ADT", PATTERN_SYNC_RELIABLE, 0, QUEUE_UNORDERED, 0};
    struct uuid one = enqueue_one(&door, ADT, "zero");
    struct uuid two = enqueue_one(&door, third, "three");
    struct uuid three = enqueue_one(&door, sync, "sync");
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT/3}:async_reliable"), 1);
    ck_assert(!is_missing(&door, ADT, one) && is_missing(&door, ADT, two));
    ck_assert(!is_missing(&door, third, two) && is_missing(&door, third, three));
    ck_assert(!is_missing(&door, sync, three));
    ck_assert_uint_eq(claim_count(&alice, ADT, 9, false), 1);
    ck_assert_uint_eq(claim_count(&alice, third, 9, false), 1);
    ck_assert_uint_eq(claim_count(&alice, sync, 9, false), 1);
}
END_TEST

START_TEST(takeover_and_renew)
{
    for (int i = 0; i < 5; i++)
        enqueue_one(&door, ADT, "x");
    struct queue_claimed *first = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(first->count, 5);
    struct queue_claimed *taken = takeover(&bob, ADT, 60000, 10);
    ck_assert_uint_eq(taken->count, 0); /* not idle for so long */
    queue_claimed_unref(taken);
    /* A minute goes by for four of them; two are renewed. */
    for (int i = 0; i < 4; i++)
        freeReplyObject(redis_server_command(
            &server, "XCLAIM hie:{ADT}:async_reliable workers alice 0 %s IDLE 60001",
            first->entries[i].entry_id));
    struct queue_claimed renewed = {.entries = first->entries, .count = 2};
    renew(&alice, ADT, &renewed);
    taken = takeover(&bob, ADT, 60000, 1);
    ck_assert_uint_eq(taken->count, 1);
    ck_assert(uuid_equal(taken->entries[0].id, first->entries[2].id));
    check_body(&taken->entries[0], "x", 1);
    queue_claimed_unref(taken);
    taken = takeover(&bob, ADT, 60000, 10);
    ck_assert_uint_eq(taken->count, 1);
    ck_assert(uuid_equal(taken->entries[0].id, first->entries[3].id));
    /* What bob has, alice neither renews nor hands back. */
    renew(&alice, ADT, first);
    hand_back(&alice, ADT, first);
    redisReply *held =
        redis_server_command(&server, "XPENDING hie:{ADT}:async_reliable workers - + 10 bob");
    ck_assert_uint_eq(held->elements, 2);
    freeReplyObject(held);
    ck_assert_uint_eq(claim_count(&bob, ADT, 10, false), 3);
    queue_claimed_unref(taken);
    queue_claimed_unref(first);
}
END_TEST

START_TEST(takeover_goes_through_a_long_list)
{
    struct queue_entry entries[QUEUE_BATCH_MAX];
    for (size_t i = 0; i < QUEUE_BATCH_MAX; i++)
        entries[i] = entry_of("x");
    for (int i = 0; i < 4; i++) {
        for (size_t j = 0; j < QUEUE_BATCH_MAX; j++)
            entries[j].id = uuid_new(clock_wall_ms());
        enqueue(&door, ADT, entries, QUEUE_BATCH_MAX);
        ck_assert_uint_eq(claim_count(&alice, ADT, QUEUE_BATCH_MAX, false), QUEUE_BATCH_MAX);
    }
    /* Only the last is idle: more than ten times the count stand before it. */
    redisReply *last =
        redis_server_command(&server, "XREVRANGE hie:{ADT}:async_reliable + - COUNT 1");
    freeReplyObject(redis_server_command(
        &server, "XCLAIM hie:{ADT}:async_reliable workers alice 0 %s IDLE 99999 JUSTID",
        last->element[0]->element[0]->str));
    struct queue_claimed *taken = takeover(&bob, ADT, 90000, 2);
    ck_assert_uint_eq(taken->count, 1);
    ck_assert_str_eq(taken->entries[0].entry_id, last->element[0]->element[0]->str);
    freeReplyObject(last);
    queue_claimed_unref(taken);
}
END_TEST

START_TEST(takeover_drops_deleted_entries)
{
    enqueue_one(&door, ADT, "gone");
    struct uuid kept = enqueue_one(&door, ADT, "kept");
    struct queue_claimed *first = claim(&alice, ADT, 5, false);
    freeReplyObject(redis_server_command(&server, "XDEL hie:{ADT}:async_reliable %s",
                                         first->entries[0].entry_id));
    struct queue_claimed *taken = takeover(&bob, ADT, 0, 5);
    ck_assert_uint_eq(taken->count, 1);
    ck_assert(uuid_equal(taken->entries[0].id, kept));
    struct queue_depth now = depth(&door, ADT);
    ck_assert_int_eq(now.in_hand, 1);
    queue_claimed_unref(first);
    queue_claimed_unref(taken);
}
END_TEST

START_TEST(hand_back_waits_again_once)
{
    struct uuid id = enqueue_one(&door, ADT, "x");
    struct queue_claimed *first = claim(&alice, ADT, 5, false);
    hand_back(&alice, ADT, first);
    hand_back(&alice, ADT, first);
    ck_assert(!is_missing(&door, ADT, id));
    struct queue_depth now = depth(&door, ADT);
    ck_assert_int_eq(now.waiting, 1);
    ck_assert_int_eq(now.in_hand, 0);
    struct queue_claimed *again = claim(&bob, ADT, 5, false);
    ck_assert_uint_eq(again->count, 1);
    ck_assert(uuid_equal(again->entries[0].id, id));
    ck_assert_str_ne(again->entries[0].entry_id, first->entries[0].entry_id);
    hand_back(&alice, ADT, first);
    finish(&bob, ADT, again);
    hand_back(&alice, ADT, first);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    ck_assert(is_missing(&door, ADT, id));
    queue_claimed_unref(first);
    queue_claimed_unref(again);
}
END_TEST

START_TEST(retry_and_promote)
{
    struct uuid id = enqueue_one(&door, ADT, "x");
    enqueue_one(&door, ADT, "later");
    struct queue_claimed *first = claim(&alice, ADT, 5, false);
    struct queue_claimed one = {.entries = first->entries, .count = 1};
    struct queue_claimed two = {.entries = first->entries + 1, .count = 1};
    retry(&alice, ADT, &one, 1000);
    retry(&alice, ADT, &one, 1000);
    retry(&alice, ADT, &two, 3000);
    struct queue_depth now = depth(&door, ADT);
    ck_assert_int_eq(now.waiting, 0);
    ck_assert_int_eq(now.in_hand, 0);
    ck_assert_int_eq(now.delayed, 2);
    ck_assert(!is_missing(&door, ADT, id));
    struct queue_entry repeat = entry_of("x");
    repeat.id = id;
    ck_assert_int_eq(enqueue(&door, ADT, &repeat, 1), 2); /* a delayed one is not added again */
    int64_t next;
    ck_assert_int_eq(promote(&door, ADT, 999, 10, &next), 0);
    ck_assert_int_eq(next, 1000);
    ck_assert_int_eq(promote(&door, ADT, 1000, 10, &next), 1);
    ck_assert_int_eq(next, 3000);
    ck_assert_int_eq(promote(&door, ADT, 1000, 10, &next), 0);
    struct queue_claimed *again = claim(&bob, ADT, 5, false);
    ck_assert_uint_eq(again->count, 1);
    ck_assert(uuid_equal(again->entries[0].id, id));
    ck_assert_int_eq(again->entries[0].at_ms, first->entries[0].at_ms);
    check_body(&again->entries[0], "x", 1);
    ck_assert(slice_equal(again->entries[0].meta, first->entries[0].meta));
    retry(&alice, ADT, &one, 1000); /* the late repeat of a call that ended long ago */
    ck_assert_int_eq(depth(&door, ADT).delayed, 1);
    ck_assert_int_eq(promote(&door, ADT, 5000, 10, &next), 1);
    ck_assert_int_eq(next, -1);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:parked"), 0);
    finish(&bob, ADT, again);
    queue_claimed_unref(first);
    queue_claimed_unref(again);
}
END_TEST

static const struct queue_name SYNC = {"ADT", PATTERN_SYNC_RELIABLE, 0, QUEUE_UNORDERED, 0};

/* The item's pattern has changed. */
START_TEST(what_other_patterns_have_enters_the_queue)
{
    enqueue_one(&door, ADT, "a");
    enqueue_one(&door, SYNC, "s");
    struct queue_claimed *a = claim(&alice, ADT, 5, false), *s = claim(&alice, SYNC, 5, false);
    enqueue_one(&door, ADT, "waits");
    freeReplyObject(redis_server_command(&server, "XADD hie:{ADT}:async_reliable * body raw"));
    retry(&alice, ADT, a, 1000);
    retry(&alice, SYNC, s, 1001);
    int64_t next;
    ck_assert_int_eq(promote(&door, SYNC, 2000, 1, &next), 3);
    ck_assert_int_eq(next, 1001);
    ck_assert_int_eq(promote(&door, SYNC, 2000, 10, &next), 1);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:async_reliable:index"), 0);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:parked"), 0);
    struct queue_claimed *claimed = claim(&bob, SYNC, 9, false);
    ck_assert_uint_eq(claimed->count, 4);
    check_body(&claimed->entries[0], "a", 1);
    ck_assert(uuid_equal(claimed->entries[0].id, a->entries[0].id));
    finish(&bob, SYNC, claimed);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:sync_reliable:index"), 0);
    queue_claimed_unref(claimed);
    queue_claimed_unref(a);
    queue_claimed_unref(s);
}
END_TEST

START_TEST(what_the_queue_knows_enters_it_once)
{
    struct queue_entry entries[2] = {entry_of("later"), entry_of("now")};
    entries[0].due_ms = clock_wall_ms() + 3600000;
    enqueue(&door, ADT, entries, 2);
    enqueue(&door, SYNC, entries, 2);
    int64_t next;
    ck_assert_int_eq(promote(&door, SYNC, entries[0].due_ms, 10, &next), 1);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:async_reliable:index"), 0);
    ck_assert_uint_eq(claim_count(&bob, SYNC, 5, false), 2);
    /* What is in a hand stays. */
    enqueue_one(&door, ADT, "held");
    struct queue_claimed *held = claim(&alice, ADT, 5, false);
    ck_assert_int_eq(promote(&door, SYNC, 1, 10, &next), 0);
    finish(&alice, ADT, held);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    queue_claimed_unref(held);
}
END_TEST

START_TEST(what_goes_elsewhere_is_withdrawn)
{
    struct queue_entry entries[3] = {entry_of("later"), entry_of("waits"), entry_of("held")};
    entries[0].due_ms = clock_wall_ms() + 3600000;
    enqueue(&door, ADT, &entries[2], 1);
    struct queue_claimed *held = claim(&alice, ADT, 5, false);
    enqueue(&door, ADT, entries, 2);
    ck_assert(withdraw(&door, ADT, entries[0].id));
    ck_assert(withdraw(&door, ADT, entries[1].id));
    ck_assert(!withdraw(&door, ADT, entries[2].id));
    ck_assert(withdraw(&door, ADT, entries[1].id)); /* again */
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 1);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:async_reliable:index"), 1);
    ck_assert_int_eq(redis_server_integer(&server, "EXISTS hie:{ADT}:parked hie:{ADT}:delayed"), 0);
    finish(&alice, ADT, held);
    queue_claimed_unref(held);
}
END_TEST

/* A finish whose answer was lost is repeated after the message was driven again. */
START_TEST(a_late_finish_leaves_the_next_run_its_place)
{
    struct queue_entry entry = entry_of("x");
    enqueue(&door, ADT, &entry, 1);
    struct queue_claimed *first = claim(&alice, ADT, 5, false);
    finish(&alice, ADT, first);
    enqueue(&door, ADT, &entry, 1);
    finish(&alice, ADT, first);
    ck_assert(!is_missing(&door, ADT, entry.id));
    ck_assert_int_eq(enqueue(&door, ADT, &entry, 1), 1); /* it is known */
    queue_claimed_unref(first);
}
END_TEST

/* A worker was paused; another runs what it held. */
START_TEST(only_its_holder_retries_an_entry)
{
    enqueue_one(&door, ADT, "x");
    struct queue_claimed *first = claim(&alice, ADT, 5, false), *then = takeover(&bob, ADT, 0, 5);
    ck_assert_uint_eq(then->count, 1);
    retry(&alice, ADT, first, 1000);
    ck_assert_int_eq(depth(&door, ADT).in_hand, 1);
    retry(&bob, ADT, then, 1000);
    ck_assert_int_eq(depth(&door, ADT).delayed, 1);
    ck_assert_int_eq(depth(&door, ADT).next_due_ms, 1000);
    queue_claimed_unref(first);
    queue_claimed_unref(then);
}
END_TEST

START_TEST(enqueue_with_a_delay)
{
    struct queue_entry entries[2] = {entry_of("later"), entry_of("now")};
    entries[0].due_ms = clock_wall_ms() + 3600000;
    entries[1].due_ms = clock_wall_ms() - 1000;
    ck_assert_int_eq(enqueue(&door, ADT, entries, 2), 2);
    ck_assert_int_eq(enqueue(&door, ADT, entries, 2), 2);
    struct queue_claimed *claimed = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(claimed->count, 1);
    ck_assert(uuid_equal(claimed->entries[0].id, entries[1].id));
    queue_claimed_unref(claimed);
    int64_t next;
    ck_assert_int_eq(promote(&door, ADT, clock_wall_ms(), 10, &next), 0);
    ck_assert_int_eq(next, entries[0].due_ms);
    ck_assert_int_eq(promote(&door, ADT, next, 10, &next), 1);
    claimed = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(claimed->count, 1);
    ck_assert(uuid_equal(claimed->entries[0].id, entries[0].id));
    ck_assert(slice_equal(claimed->entries[0].meta, entries[0].meta));
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(missing_sees_what_a_person_deleted)
{
    struct uuid id = enqueue_one(&door, ADT, "x");
    ck_assert(!is_missing(&door, ADT, id));
    ck_assert(is_missing(&door, ADT, uuid_new(clock_wall_ms())));
    struct queue_claimed *claimed = claim(&alice, ADT, 1, false);
    ck_assert(!is_missing(&door, ADT, id));
    freeReplyObject(redis_server_command(&server, "XDEL hie:{ADT}:async_reliable %s",
                                         claimed->entries[0].entry_id));
    ck_assert(is_missing(&door, ADT, id));
    struct queue_entry again = entry_of("x");
    again.id = id;
    enqueue(&door, ADT, &again, 1);
    ck_assert(!is_missing(&door, ADT, id));
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(held_tells_who_is_in_a_hand)
{
    struct uuid id = enqueue_one(&door, ADT, "x");
    ck_assert(!is_held(&door, ADT, id));
    struct queue_claimed *claimed = claim(&alice, ADT, 1, false);
    ck_assert(is_held(&door, ADT, id));
    retry(&alice, ADT, claimed, clock_wall_ms() + 60000);
    ck_assert(!is_held(&door, ADT, id));
    ck_assert(!is_held(&door, ADT, uuid_new(clock_wall_ms())));
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(depth_counts)
{
    struct queue_entry entries[3] = {entry_of("a"), entry_of("b"), entry_of("c")};
    struct queue_depth none = depth(&door, ADT);
    ck_assert_int_eq(none.waiting + none.in_hand + none.delayed + none.oldest_at_ms, 0);
    entries[0].at_ms = 1000;
    enqueue(&door, ADT, entries, 3);
    ck_assert_int_eq(depth(&door, ADT).waiting, 3); /* before there is a group */
    struct queue_claimed *claimed = claim(&alice, ADT, 2, false);
    struct queue_depth now = depth(&door, ADT);
    ck_assert_int_eq(now.waiting, 1);
    ck_assert_int_eq(now.in_hand, 2);
    ck_assert_int_eq(now.oldest_at_ms, 1000);
    queue_claimed_unref(claimed);
}
END_TEST

/* ---- what people add ---- */

START_TEST(added_by_hand)
{
    redisReply *added =
        redis_server_command(&server, "XADD hie:{ADT}:async_reliable * body %s", "MSH|x");
    struct queue_claimed *claimed = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(claimed->count, 1);
    const struct queue_entry *entry = &claimed->entries[0];
    ck_assert(!entry->malformed);
    ck_assert(!uuid_is_none(entry->id));
    ck_assert_int_eq(entry->at_ms, strtoll(added->str, NULL, 10));
    ck_assert_int_eq(uuid_wall_ms(entry->id), entry->at_ms);
    check_body(entry, "MSH|x", 5);
    ck_assert(!is_missing(&door, ADT, entry->id)); /* or the reconciler would add it again */
    struct queue_claimed *taken = takeover(&bob, ADT, 0, 5);
    ck_assert(uuid_equal(taken->entries[0].id, entry->id)); /* the same for everybody */
    retry(&bob, ADT, taken, 1);
    int64_t next;
    promote(&door, ADT, 1, 5, &next);
    struct queue_claimed *again = claim(&bob, ADT, 5, false);
    ck_assert_uint_eq(again->count, 1);
    ck_assert(uuid_equal(again->entries[0].id, entry->id)); /* also behind another entry id */
    ck_assert_int_eq(again->entries[0].at_ms, entry->at_ms);
    finish(&bob, ADT, again);
    ck_assert_int_eq(redis_server_integer(&server, "HLEN hie:{ADT}:async_reliable:index"), 0);
    freeReplyObject(added);
    queue_claimed_unref(claimed);
    queue_claimed_unref(taken);
    queue_claimed_unref(again);
}
END_TEST

START_TEST(malformed_entries)
{
    static const char *const fields[] = {
        "nothing x",
        "cid not-an-id body x",
        "at yesterday body x",
        "pri 11 body x",
        "pri -1 body x",
        "meta notmsgpack body x",
        "cid 0197a000-0000-7000-8000-000000000001 at 5",
        "meta \x81\xa6stored\x02 body x", /* a flag that is none */
    };
    size_t count = sizeof(fields) / sizeof(fields[0]);
    for (size_t i = 0; i < count; i++) {
        char command[128];
        snprintf(command, sizeof(command), "XADD hie:{ADT}:async_reliable * %s", fields[i]);
        redisReply *added = redis_server_command(&server, command);
        ck_assert_int_eq(added->type, REDIS_REPLY_STRING);
        freeReplyObject(added);
    }
    freeReplyObject(
        redis_server_command(&server, "XADD hie:{ADT}:async_reliable 9999999999999999-1 body x"));
    struct queue_claimed *claimed = claim(&alice, ADT, 20, false);
    ck_assert_uint_eq(claimed->count, count + 1);
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(claimed->entries[i].malformed, "%s", fields[i]);
        ck_assert(!uuid_is_none(claimed->entries[i].id));
        ck_assert_int_gt(claimed->entries[i].at_ms, 0);
    }
    ck_assert(!claimed->entries[count].malformed);
    finish(&alice, ADT, claimed);
    ck_assert_int_eq(redis_server_integer(&server, "XLEN hie:{ADT}:async_reliable"), 0);
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(stored_bodies_are_not_malformed)
{
    struct queue_entry entry = entry_of("");
    struct buffer packed;
    buffer_init(&packed, 256);
    meta_pack(&(const struct meta){.in_wal = true, .stored = true}, &packed);
    entry.meta = buffer_slice(&packed);
    enqueue(&door, ADT, &entry, 1);
    struct queue_claimed *claimed = claim(&alice, ADT, 5, false);
    ck_assert_uint_eq(claimed->count, 1);
    ck_assert(!claimed->entries[0].malformed);
    buffer_done(&packed);
    queue_claimed_unref(claimed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue flow");
    TCase *tests = tcase_create("flow");
    tcase_add_unchecked_fixture(tests, setup_server, teardown_server);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, enqueue_claim_finish);
    tcase_add_test(tests, enqueue_is_idempotent);
    tcase_add_test(tests, bytes_stay_as_they_are);
    tcase_add_test(tests, largest_batch);
    tcase_add_test(tests, calls_over_nothing);
    tcase_add_test(tests, dropped_at_once);
    tcase_add_test(tests, partitions_and_patterns_are_apart);
    tcase_add_test(tests, takeover_and_renew);
    tcase_add_test(tests, takeover_goes_through_a_long_list);
    tcase_add_test(tests, takeover_drops_deleted_entries);
    tcase_add_test(tests, hand_back_waits_again_once);
    tcase_add_test(tests, retry_and_promote);
    tcase_add_test(tests, what_other_patterns_have_enters_the_queue);
    tcase_add_test(tests, what_the_queue_knows_enters_it_once);
    tcase_add_test(tests, what_goes_elsewhere_is_withdrawn);
    tcase_add_test(tests, a_late_finish_leaves_the_next_run_its_place);
    tcase_add_test(tests, only_its_holder_retries_an_entry);
    tcase_add_test(tests, enqueue_with_a_delay);
    tcase_add_test(tests, missing_sees_what_a_person_deleted);
    tcase_add_test(tests, held_tells_who_is_in_a_hand);
    tcase_add_test(tests, depth_counts);
    tcase_add_test(tests, added_by_hand);
    tcase_add_test(tests, malformed_entries);
    tcase_add_test(tests, stored_bodies_are_not_malformed);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
