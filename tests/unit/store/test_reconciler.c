/* The reconciler with a fake store and queue. */
#include "store/reconciler.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: One, class: Echo, queue_type: unordered}\n"
                           "  - {id: Two, class: Echo, queue_type: unordered}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct reconciler *reconciler;

static const struct item *route_row(void *arg, const char *item_id, int64_t version)
{
    (void)arg;
    (void)version;
    return production_find(production, slice_text(item_id));
}
static const struct reconciler_route route = {.item = route_row};

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    reconciler = reconciler_new(loop, &route, &queue.queue, &store.store, "me", metrics);
}

static void teardown(void)
{
    fake_store_end(&store);
    fake_queue_end(&queue);
    reconciler_free(reconciler);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static struct fake_store_call *wait_store(enum fake_store_op op)
{
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    return fake_store_take(&store, op);
}

static void answer_lease(int64_t token)
{
    struct fake_store_call *call = wait_store(FAKE_LEASE);
    ((store_leased *)call->done)(call->arg, &fake_ok, token);
    free(call);
}

static void answer_mark(int64_t low)
{
    struct fake_store_call *call = wait_store(FAKE_LOW_MARK);
    ((store_mark_done *)call->done)(call->arg, &fake_ok, low);
    free(call);
}

static struct store_unfinished row_of(struct uuid id, const char *item, int64_t seq, int64_t age_ms)
{
    return (struct store_unfinished){.message = {.id = id,
                                                 .item = item,
                                                 .seq = seq,
                                                 .received_us = clock_wall_us() - age_ms * 1000,
                                                 .body = body_of("x", 1)},
                                     .body_len = 1};
}

static size_t last_limit; /* of the page that was answered last */

static void answer_page(int64_t after_seq, const struct store_unfinished *rows, size_t count,
                        int64_t next_seq, bool end)
{
    struct fake_store_call *call = wait_store(FAKE_UNFINISHED);
    ck_assert_int_eq(call->number, after_seq);
    last_limit = call->count;
    ((store_page *)call->done)(call->arg, &fake_ok, rows, count, next_seq, end);
    free(call);
}

static void answer_missing(const char *item, const bool *missing, size_t count)
{
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_MISSING);
    ck_assert_str_eq(call->name.item, item);
    ck_assert_uint_eq(call->count, count);
    ((queue_flags_done *)call->done)(call->arg, &fake_ok, missing);
    free(call);
}

START_TEST(enqueues_what_the_queue_lacks)
{
    struct store_unfinished rows[] = {
        row_of(uuid_new(1), "One", 11, 60000), row_of(uuid_new(2), "Two", 12, 60000),
        row_of(uuid_new(3), "One", 13, 60000), row_of(uuid_new(4), "Unknown", 14, 60000)};
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 4, 14, true);
    answer_missing("One", (const bool[]){false, true}, 2);
    answer_missing("Two", (const bool[]){false}, 1);
    struct fake_store_call *fetch = fake_store_take(&store, FAKE_FETCH);
    ck_assert_uint_eq(fetch->count, 1);
    ck_assert(uuid_equal(fetch->ids[0], rows[2].message.id));
    ((store_rows *)fetch->done)(fetch->arg, &fake_ok, &rows[2], 1);
    free(fetch);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(enqueue->count, 1);
    ck_assert(uuid_equal(enqueue->entries[0].id, rows[2].message.id));
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    answer_mark(10);
    answer_lease(7); /* the next round */
}
END_TEST

/* One that fails is not made again in each round: others queue behind the locks that it takes. */
START_TEST(maintenance_that_fails_backs_off)
{
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    for (int round = 0; round < 2; round++) {
        answer_lease(7);
        answer_mark(10);
        answer_page(10, NULL, 0, 10, true);
        answer_mark(10);
        ck_assert_uint_eq(store.maintain_calls, 1);
        store.maintained(store.maintained_arg, &(struct err){.code = ERR_UNAVAILABLE});
    }
}
END_TEST

/* Rounds over a log of these rows until the queue is asked for some; how many rounds left them alone before. */
static unsigned rounds_until_asked(const struct store_unfinished *rows, size_t count)
{
    for (unsigned rounds = 0; rounds < 8; rounds++) {
        answer_lease(7);
        answer_mark(10);
        struct fake_store_call *call = wait_store(FAKE_UNFINISHED);
        size_t first = 0;
        while (first < count && rows[first].message.seq <= call->number)
            first++;
        int64_t next_seq = first < count ? rows[count - 1].message.seq : call->number;
        ((store_page *)call->done)(call->arg, &fake_ok, rows + first, count - first, next_seq,
                                   true);
        free(call);
        if (fake_queue_pending(&queue))
            return rounds;
        answer_mark(10);
    }
    ck_abort_msg("never asked");
    return 0;
}

START_TEST(leaves_the_youngest_to_their_owners)
{
    struct store_unfinished rows[] = {row_of(uuid_new(1), "One", 11, 60000),
                                      row_of(uuid_new(2), "One", 12, 60000)};
    int64_t began_us = clock_mono_us();
    reconciler_links_changed(reconciler, true, true);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 1, 11, false);
    ck_assert_uint_eq(last_limit, STORE_LOOK_MAX); /* it looks only how far the log reaches */
    answer_page(11, NULL, 0, 11, true);
    answer_mark(10);
    ck_assert_uint_ge(rounds_until_asked(rows, 2), 1);
    ck_assert_int_ge(clock_mono_us() - began_us, 2000000);
    answer_missing("One", (const bool[]){false}, 1); /* the later one is still young */
    answer_mark(10);
    rounds_until_asked(&rows[1], 1); /* it was not passed over */
    answer_missing("One", (const bool[]){false}, 1);
}
END_TEST

START_TEST(a_clock_that_is_ahead_keeps_no_row_young)
{
    struct store_unfinished rows[] = {row_of(uuid_new(1), "One", 11, -86400000),
                                      row_of(uuid_new(2), "One", 12, 60000)};
    reconciler_links_changed(reconciler, true, true);
    rounds_until_asked(rows, 2);
    answer_missing("One", (const bool[]){true, false}, 2);
    free(fake_store_take(&store, FAKE_FETCH));
}
END_TEST

START_TEST(compares_the_youngest_too_when_redis_lost_its_data)
{
    struct store_unfinished rows[] = {row_of(uuid_new(2), "One", 12, 100)};
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 1, 12, true);
    answer_missing("One", (const bool[]){false}, 1);
    answer_mark(10);
}
END_TEST

START_TEST(goes_on_page_by_page)
{
    reconciler_links_changed(reconciler, true, true);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, NULL, 0, 500, false);
    answer_page(500, NULL, 0, 900, false);
    answer_page(900, NULL, 0, 950, true);
    answer_mark(950);
}
END_TEST

START_TEST(an_item_whose_queue_refuses_holds_up_no_other)
{
    static const struct err refused = {.code = ERR_OUTCOME_UNKNOWN};
    struct store_unfinished rows[] = {row_of(uuid_new(1), "One", 11, 100),
                                      row_of(uuid_new(2), "Two", 12, 100)};
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 2, 12, false);
    struct fake_queue_call *one = fake_queue_take(&queue, FAKE_MISSING);
    ck_assert_str_eq(one->name.item, "One");
    ((queue_flags_done *)one->done)(one->arg, &refused, NULL);
    free(one);
    answer_missing("Two", (const bool[]){true}, 1);
    struct fake_store_call *fetch = wait_store(FAKE_FETCH);
    ck_assert_uint_eq(fetch->count, 1);
    ck_assert(uuid_equal(fetch->ids[0], rows[1].message.id));
    ((store_rows *)fetch->done)(fetch->arg, &fake_ok, &rows[1], 1);
    free(fetch);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &refused, 0);
    answer_page(12, NULL, 0, 12, true); /* the round goes on, and to its end */
    answer_mark(10);
}
END_TEST

START_TEST(the_end_of_the_process_gives_the_lease_back)
{
    reconciler_stop(reconciler); /* nothing to give back */
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    reconciler_free(reconciler);
    reconciler = reconciler_new(loop, &route, &queue.queue, &store.store, "me", metrics);
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    reconciler_stop(reconciler);
    answer_page(10, NULL, 0, 20, false);
    reconciler_stop(reconciler); /* once is enough */
    struct fake_store_call *call = fake_store_take(&store, FAKE_RELEASE);
    ((store_done *)call->done)(call->arg, &fake_ok);
    free(call);
    reconciler_compare(reconciler);
    reconciler_links_changed(reconciler, true, true);
    int64_t until_ms = clock_mono_ms() + 1500;
    while (clock_mono_ms() < until_ms)
        run_loop_once(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_lease_on_its_way_is_given_back_too)
{
    reconciler_links_changed(reconciler, true, true);
    struct fake_store_call *lease = wait_store(FAKE_LEASE);
    reconciler_stop(reconciler);
    ((store_leased *)lease->done)(lease->arg, &fake_ok, 7);
    free(lease);
    free(fake_store_take(&store, FAKE_RELEASE));
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_round_goes_on_where_the_last_ended)
{
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler); /* takes all rows */
    answer_lease(7);
    answer_mark(10);
    answer_page(10, NULL, 0, 500, true);
    answer_mark(20);
    answer_lease(7);
    answer_mark(20);
    answer_page(500, NULL, 0, 600,
                true); /* not from the mark: that comes with the next full round */
    answer_mark(20);
    answer_lease(
        8); /* the lease was lost in between: others looked, and what they saw is not known */
    answer_mark(30);
    answer_page(30, NULL, 0, 600, true);
}
END_TEST

START_TEST(another_owner_is_left_alone)
{
    reconciler_links_changed(reconciler, true, true);
    answer_lease(0);
    answer_lease(0);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_comparison_that_failed_begins_again)
{
    struct store_unfinished rows[] = {row_of(uuid_new(2), "One", 12, 100)};
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 1, 12, false);
    fake_queue_end(&queue); /* Redis is lost again; the calls end first */
    reconciler_links_changed(reconciler, false, true);
    run_loop_turns(loop);
    reconciler_links_changed(reconciler, true, true);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, 1, 12, true); /* from the start, the young row too */
    answer_missing("One", (const bool[]){false}, 1);
}
END_TEST

START_TEST(rests_while_a_link_is_down)
{
    reconciler_links_changed(reconciler, false, true);
    reconciler_compare(reconciler);
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    reconciler_links_changed(reconciler, true, true);
    answer_lease(7);
}
END_TEST

/* ---- partitions ---- */

/* The first item becomes fifo with four partitions. */
static void make_fifo(void)
{
    production->items[0].queue_type = QUEUE_FIFO;
    production->items[0].partitions = 4;
}

static struct store_unfinished row_at(struct uuid id, int64_t seq, enum messaging_pattern pattern,
                                      int partition)
{
    struct store_unfinished row = row_of(id, "One", seq, 60000);
    row.message.pattern = pattern;
    row.message.partition = partition;
    return row;
}

static void begin_page(const struct store_unfinished *rows, size_t count)
{
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, count, 100, true);
}

static void answer_flags(enum fake_queue_op op, enum messaging_pattern pattern, unsigned partition,
                         const bool *flags, size_t count)
{
    struct fake_queue_call *call = fake_queue_take(&queue, op);
    ck_assert_str_eq(call->name.item, "One");
    ck_assert_int_eq(call->name.pattern, pattern);
    ck_assert_uint_eq(call->name.partition, partition);
    ck_assert_uint_eq(call->count, count);
    ((queue_flags_done *)call->done)(call->arg, &fake_ok, flags);
    free(call);
}

static void answer_fetch(const struct store_unfinished *rows, size_t count)
{
    struct fake_store_call *fetch = fake_store_take(&store, FAKE_FETCH);
    ck_assert_uint_eq(fetch->count, count);
    ((store_rows *)fetch->done)(fetch->arg, &fake_ok, rows, count);
    free(fetch);
}

START_TEST(asks_and_enqueues_by_partition)
{
    make_fifo();
    struct store_unfinished rows[] = {row_at(uuid_new(1), 11, PATTERN_ASYNC_RELIABLE, 2),
                                      row_at(uuid_new(2), 12, PATTERN_ASYNC_RELIABLE, 0),
                                      row_at(uuid_new(3), 13, PATTERN_ASYNC_RELIABLE, 2)};
    begin_page(rows, 3);
    answer_flags(FAKE_MISSING, PATTERN_ASYNC_RELIABLE, 2, (const bool[]){true, true}, 2);
    answer_flags(FAKE_MISSING, PATTERN_ASYNC_RELIABLE, 0, (const bool[]){true}, 1);
    rows[0].message.ordering_key = SLICE_LITERAL("anything"); /* its partition was told */
    rows[0].message.priority = 5;
    struct store_unfinished whole[] = {rows[0], rows[1], rows[2]};
    answer_fetch(whole, 3);
    struct fake_queue_call *two = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(two->name.partition, 2);
    ck_assert_int_eq(two->name.type, QUEUE_FIFO);
    ck_assert_uint_eq(two->count, 2);
    ck_assert(uuid_equal(two->entries[0].id, rows[0].message.id));
    ck_assert(uuid_equal(two->entries[1].id, rows[2].message.id));
    ck_assert_int_eq(two->entries[0].priority, 5);
    ck_assert(slice_is(two->entries[0].key, "anything"));
    struct fake_queue_call *zero = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(zero->name.partition, 0);
    fake_queue_answer_depth(two, &fake_ok, 2);
    fake_queue_answer_depth(zero, &fake_ok, 1);
    answer_mark(10);
}
END_TEST

/* A key whose partition is another than that which the message was accepted for. */
static struct slice elsewhere(const struct store_message *message)
{
    static const char keys[] = "abcdefgh";
    int before = message->partition > 0 ? message->partition : 0;
    for (size_t i = 0;; i++) {
        ck_assert_uint_lt(i, sizeof(keys) - 1);
        struct slice key = slice_of(keys + i, 1);
        if ((int)item_partition(&production->items[0], key, message->id) != before)
            return key;
    }
}

/* Its key's partition is the one that it is in. */
START_TEST(a_row_that_stays_where_it_is_is_not_withdrawn)
{
    make_fifo();
    struct store_unfinished row = row_at(uuid_new(1), 11, PATTERN_ASYNC_RELIABLE, -1);
    begin_page(&row, 1);
    char key[2] = "a";
    while (item_partition(&production->items[0], slice_of(key, 1), row.message.id) != 0)
        key[0]++;
    row.message.ordering_key = slice_of(key, 1);
    answer_fetch(&row, 1);
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(call->name.partition, 0);
    fake_queue_answer_depth(call, &fake_ok, 1);
    answer_mark(10);
}
END_TEST

START_TEST(rows_of_other_settings_go_where_todays_say)
{
    make_fifo();
    struct store_unfinished rows[] = {row_at(uuid_new(1), 11, PATTERN_ASYNC_RELIABLE, 9),
                                      row_at(uuid_new(2), 12, PATTERN_SYNC_RELIABLE, 1),
                                      row_at(uuid_new(3), 13, PATTERN_ASYNC_RELIABLE, -1)};
    begin_page(rows, 3);
    struct store_unfinished whole[] = {rows[0], rows[1], rows[2]};
    for (size_t i = 0; i < 3; i++)
        whole[i].message.ordering_key = elsewhere(&whole[i].message);
    answer_fetch(whole, 3);
    answer_flags(FAKE_WITHDRAW, PATTERN_ASYNC_RELIABLE, 9, (const bool[]){true}, 1);
    answer_flags(FAKE_WITHDRAW, PATTERN_SYNC_RELIABLE, 1, (const bool[]){false}, 1); /* being run */
    answer_flags(FAKE_WITHDRAW, PATTERN_ASYNC_RELIABLE, 0, (const bool[]){true}, 1);
    for (size_t i = 0; i < 3; i += 2) {
        struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
        ck_assert_int_eq(call->name.pattern, PATTERN_ASYNC_RELIABLE);
        ck_assert_uint_eq(call->name.partition,
                          item_partition(&production->items[0], whole[i].message.ordering_key,
                                         whole[i].message.id));
        fake_queue_answer_depth(call, &fake_ok, 1);
    }
    answer_mark(10);
}
END_TEST

START_TEST(rows_of_a_fifo_item_that_is_none_any_more_go_to_its_queue)
{
    struct store_unfinished rows[] = {row_at(uuid_new(1), 11, PATTERN_ASYNC_RELIABLE, 3),
                                      row_at(uuid_new(2), 12, PATTERN_ASYNC_RELIABLE, 0),
                                      row_at(uuid_new(3), 13, PATTERN_ASYNC_RELIABLE, -1)};
    begin_page(rows, 3);
    answer_flags(FAKE_MISSING, PATTERN_ASYNC_RELIABLE, 0, (const bool[]){false, false}, 2);
    answer_fetch(rows, 1);
    answer_flags(FAKE_WITHDRAW, PATTERN_ASYNC_RELIABLE, 3, (const bool[]){true}, 1);
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(call->name.partition, 0);
    ck_assert_int_eq(call->name.type, QUEUE_UNORDERED);
    fake_queue_answer_depth(call, &fake_ok, 1);
    answer_mark(10);
}
END_TEST

START_TEST(a_page_of_as_many_queues_as_rows)
{
    enum { COUNT = 256 };
    static struct store_unfinished rows[COUNT];
    make_fifo();
    production->items[0].partitions = 1024;
    for (int i = 0; i < COUNT; i++)
        rows[i] = row_at(uuid_new(i), 11 + i, PATTERN_ASYNC_RELIABLE, i * 4);
    reconciler_links_changed(reconciler, true, true);
    reconciler_compare(reconciler);
    answer_lease(7);
    answer_mark(10);
    answer_page(10, rows, COUNT, 1000, true);
    for (int i = 0; i < COUNT; i++)
        answer_flags(FAKE_MISSING, PATTERN_ASYNC_RELIABLE, (unsigned)i * 4, (const bool[]){true},
                     1);
    answer_fetch(rows, COUNT);
    for (int i = 0; i < COUNT; i++)
        fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
    answer_mark(10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reconciler");
    TCase *cases = tcase_create("reconciler");
    tcase_set_timeout(cases, 20);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, enqueues_what_the_queue_lacks);
    tcase_add_test(cases, maintenance_that_fails_backs_off);
    tcase_add_test(cases, leaves_the_youngest_to_their_owners);
    tcase_add_test(cases, a_clock_that_is_ahead_keeps_no_row_young);
    tcase_add_test(cases, compares_the_youngest_too_when_redis_lost_its_data);
    tcase_add_test(cases, goes_on_page_by_page);
    tcase_add_test(cases, an_item_whose_queue_refuses_holds_up_no_other);
    tcase_add_test(cases, the_end_of_the_process_gives_the_lease_back);
    tcase_add_test(cases, a_lease_on_its_way_is_given_back_too);
    tcase_add_test(cases, a_round_goes_on_where_the_last_ended);
    tcase_add_test(cases, another_owner_is_left_alone);
    tcase_add_test(cases, a_comparison_that_failed_begins_again);
    tcase_add_test(cases, rests_while_a_link_is_down);
    tcase_add_test(cases, asks_and_enqueues_by_partition);
    tcase_add_test(cases, rows_of_other_settings_go_where_todays_say);
    tcase_add_test(cases, a_row_that_stays_where_it_is_is_not_withdrawn);
    tcase_add_test(cases, rows_of_a_fifo_item_that_is_none_any_more_go_to_its_queue);
    tcase_add_test(cases, a_page_of_as_many_queues_as_rows);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
