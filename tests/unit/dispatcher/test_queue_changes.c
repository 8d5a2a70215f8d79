/* The gauges of a queue that changes, over a fleet with a fake store. */
#include "queue_gauges.h"

#include "../store/fleet_fixture.h"

#define A_SYNC "  - {id: A, class: Echo, messaging_pattern: sync_reliable, queue_type: unordered}\n"
#define A_WIDE "  - {id: A, class: Echo, queue_type: fifo, partitions: 9}\n"

static struct queue_gauges gauges;

static double gauge_of(const char *name, const char *pattern)
{
    struct buffer out;
    char wanted[160];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted), "\n%s{item=\"A\",pattern=\"%s\"}", name, pattern);
    const char *line = strstr(out.data, wanted);
    double value = line ? atof(strchr(line, '}') + 1) : -1;
    buffer_done(&out);
    return value;
}

static bool is_about(const struct fake_queue_call *call, enum messaging_pattern pattern)
{
    return call->op == FAKE_DEPTH && strcmp(call->name.item, "A") == 0 &&
           call->name.pattern == pattern;
}

static unsigned asked_about(enum messaging_pattern pattern)
{
    unsigned count = 0;
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &queue.calls, link)
    {
        count += is_about(call, pattern);
    }
    return count;
}

static void tell_depth(struct fake_queue_call *call, const struct queue_depth *depth)
{
    TAILQ_REMOVE(&queue.calls, call, link);
    ((queue_depth_done *)call->done)(call->arg, &fake_ok, depth);
    free(call);
}

/* What is asked about A: one waits in each partition, two are delayed. Returns how many partitions that were. */
static unsigned answer_all(enum messaging_pattern pattern)
{
    unsigned count = 0;
    struct fake_queue_call *call, *next;
    struct queue_depth depth = {.waiting = 1, .delayed = 2};
    RUN_LOOP_UNTIL(loop, asked_about(pattern) > 0);
    for (call = TAILQ_FIRST(&queue.calls); call; call = next) {
        next = TAILQ_NEXT(call, link);
        if (!is_about(call, pattern))
            continue;
        tell_depth(call, &depth);
        count++;
    }
    return count;
}

/* What was asked before the change. */
static void answer_earlier(void)
{
    struct fake_queue_call *call;
    struct queue_depth empty = {0};
    while ((call = TAILQ_FIRST(&queue.calls))) {
        ck_assert_int_eq(call->op, FAKE_DEPTH);
        tell_depth(call, &empty);
    }
}

/* A is changed from what `before` says to what `after` says; nothing else is. */
static void change(const char *before, const char *after, bool is_open)
{
    struct store_change moved = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(before);
    queue_gauges_init(&gauges, loop, fleet, fleet_production(fleet), &queue.queue, &store.store,
                      metrics);
    gauges.queue_up = true;
    attend(1, 0, 2, 1, 1, &moved);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, after);
    queue_gauges_follow(&gauges, fleet_production(fleet));
    if (is_open) {
        attend(2, 1, 2, 2, 1, NULL);
        queue_gauges_shape(&gauges);
    }
    answer_earlier();
}

static void end(void)
{
    fake_queue_end(&queue);
    queue_gauges_done(&gauges);
}

START_TEST(another_pattern)
{
    struct queue_depth depth;
    change(ITEMS A B, ITEMS A_SYNC B, false);
    ck_assert_uint_eq(answer_all(PATTERN_ASYNC_RELIABLE), 1);
    ck_assert_uint_eq(answer_all(PATTERN_SYNC_RELIABLE), 1);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "async_reliable"), 1);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "sync_reliable"), 3);
    const struct item *a = production_find(fleet_production(fleet), SLICE_LITERAL("A"));
    ck_assert(queue_gauges_depth(&gauges, a, &depth));
    ck_assert_int_eq(depth.waiting, 2);
    ck_assert_int_eq(depth.delayed, 2); /* once */
    end();
}
END_TEST

START_TEST(fewer_partitions)
{
    change(ITEMS A_WIDE B, ITEMS A B, false);
    ck_assert_uint_eq(answer_all(PATTERN_ASYNC_RELIABLE), 9);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "async_reliable"), 27);
    end();
}
END_TEST

START_TEST(a_removed_item)
{
    change(ITEMS A B, ITEMS B, false);
    ck_assert_uint_eq(answer_all(PATTERN_ASYNC_RELIABLE), 1);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "async_reliable"), 3);
    end();
}
END_TEST

START_TEST(it_is_through)
{
    change(ITEMS A B, ITEMS A_SYNC B, true);
    ck_assert_uint_eq(answer_all(PATTERN_SYNC_RELIABLE), 1);
    ck_assert_uint_eq(asked_about(PATTERN_ASYNC_RELIABLE), 0);
    ck_assert_double_eq(gauge_of("hie_queue_depth", "async_reliable"), 0);
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue_changes");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_test(all, another_pattern);
    tcase_add_test(all, fewer_partitions);
    tcase_add_test(all, a_removed_item);
    tcase_add_test(all, it_is_through);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
