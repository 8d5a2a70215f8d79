/* The gauges of queues over a fake queue and store. */
#include "queue_gauges.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>
#include <stdio.h>

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Fifo, class: Echo, queue_type: unordered}\n"
                           "  - {id: Plain, class: Echo, queue_type: unordered}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_queue queue;
static struct fake_store store;
static struct queue_gauges gauges;

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    production->items[0].queue_type = QUEUE_FIFO;
    production->items[0].partitions = 3;
    loop = loop_new();
    metrics = metrics_new();
    fake_queue_init(&queue);
    fake_store_init(&store);
    queue_gauges_init(&gauges, loop, NULL, production, &queue.queue, &store.store, metrics);
    gauges.queue_up = true;
}

static void teardown(void)
{
    fake_queue_end(&queue);
    fake_store_end(&store);
    queue_gauges_done(&gauges);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static double gauge_of(const char *name, const char *item)
{
    struct buffer out;
    char wanted[160];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted), "\n%s{item=\"%s\",pattern=\"async_reliable\"}", name, item);
    const char *line = strstr(out.data, wanted);
    double value = line ? atof(strchr(line, '}') + 1) : -1;
    buffer_done(&out);
    return value;
}

static void answer(const char *item, unsigned partition, const struct err *err,
                   struct queue_depth depth)
{
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_DEPTH);
    ck_assert_str_eq(call->name.item, item);
    ck_assert_uint_eq(call->name.partition, partition);
    ((queue_depth_done *)call->done)(call->arg, err, &depth);
    free(call);
}

static void count_dead(const char *item, int64_t dead_letters)
{
    struct store_count count = {.item = item, .count = dead_letters};
    gauges.store_up = true;
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    struct fake_store_call *call = fake_store_take(&store, FAKE_COUNTS);
    ((store_counts_done *)call->done)(call->arg, &fake_ok, &count, 1);
    free(call);
    gauges.store_up = false;
}

static void answer_round(const struct err *last, int64_t oldest_ms)
{
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 0);
    ck_assert_uint_eq(fake_queue_pending(&queue), 4);
    answer("Fifo", 0, &fake_ok, (struct queue_depth){.waiting = 1, .oldest_at_ms = oldest_ms});
    answer("Fifo", 1, &fake_ok, (struct queue_depth){.in_hand = 2, .oldest_at_ms = oldest_ms / 2});
    answer("Fifo", 2, last, (struct queue_depth){.delayed = 4});
    answer("Plain", 0, &fake_ok, (struct queue_depth){.waiting = 9});
}

START_TEST(a_gauge_is_of_all_partitions)
{
    int64_t now_ms = clock_wall_ms();
    answer_round(&fake_ok, now_ms);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Fifo"), 7);
    ck_assert_double_eq(gauge_of("hie_queue_in_hand", "Fifo"), 2);
    ck_assert_double_eq(gauge_of("hie_queue_delayed", "Fifo"), 4);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Plain"), 9);
    ck_assert_double_ge(gauge_of("hie_queue_oldest_seconds", "Fifo"), (double)(now_ms / 2) / 1000);
    ck_assert_double_eq(gauge_of("hie_queue_oldest_seconds", "Plain"), 0);
}
END_TEST

START_TEST(half_an_answer_changes_nothing)
{
    static const struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    answer_round(&fake_ok, 0);
    answer_round(&lost, 0);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Fifo"), 7);
    answer_round(&fake_ok, 0); /* from the start again */
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Fifo"), 7);
}
END_TEST

START_TEST(many_partitions_are_asked_in_turns)
{
    production->items[0].partitions = 1024;
    queue_gauges_follow(&gauges, production);
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 0);
    ck_assert_uint_eq(fake_queue_pending(&queue), 1024); /* an item's are asked together */
    fake_queue_end(&queue);
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 0);
    ck_assert_str_eq(TAILQ_FIRST(&queue.calls)->name.item, "Plain");
}
END_TEST

/* What was known of items that are still there stays known; of others nothing is left. */
START_TEST(another_production)
{
    struct diagnostics diagnostics;
    struct queue_depth depth;
    ck_assert(!queue_gauges_depth(&gauges, &production->items[1], &depth));
    answer_round(&fake_ok, 0);
    count_dead("Plain", 3);
    RUN_LOOP_UNTIL(loop, fake_queue_pending(&queue) > 0); /* under way */
    struct production *next = production_parse(
        SLICE_LITERAL("items:\n  - {id: New, class: Echo}\n"
                      "  - {id: Plain, class: Echo, queue_type: unordered, concurrency: 3}\n"),
        &diagnostics);
    diagnostics_done(&diagnostics);
    queue_gauges_follow(&gauges, next);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Fifo"), 0);
    ck_assert_double_eq(gauge_of("hie_dead_letters", "Plain"), 3);
    ck_assert_int_eq(queue_gauges_dead_letters(&gauges, &next->items[1]), 3);
    ck_assert(queue_gauges_depth(&gauges, &next->items[1], &depth));
    ck_assert_int_eq(depth.waiting, 9);
    ck_assert(!queue_gauges_depth(&gauges, &next->items[0], &depth));
    fake_queue_end(&queue); /* the answers of before */
    ck_assert_double_eq(gauge_of("hie_queue_depth", "Fifo"), 0);
    gauges.queue_up = false;
    ck_assert(!queue_gauges_depth(&gauges, &next->items[1], &depth));
    production_free(next);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue_gauges");
    TCase *cases = tcase_create("gauges");
    tcase_set_timeout(cases, 20);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_gauge_is_of_all_partitions);
    tcase_add_test(cases, half_an_answer_changes_nothing);
    tcase_add_test(cases, another_production);
    tcase_add_test(cases, many_partitions_are_asked_in_turns);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
