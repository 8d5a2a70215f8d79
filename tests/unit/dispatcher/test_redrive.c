/* Redrives and dismissals over a fake queue and store. */
#include "redrive.h"

#include "fake_queue.h"
#include "fake_store.h"

#include <check.h>
#include <stdlib.h>

static struct fake_queue queue;
static struct fake_store store;
static struct production *production;
static int told;
static size_t told_count, told_left;
static enum error_code told_code;

static void setup(void)
{
    static const char yaml[] = "production: {name: test}\nitems:\n  - {id: In, class: Echo}\n";
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    fake_queue_init(&queue);
    fake_store_init(&store);
    told = 0;
}

static void teardown(void)
{
    fake_queue_end(&queue);
    fake_store_end(&store);
    production_free(production);
}

static void on_done(void *arg, const struct err *err, size_t count, size_t left)
{
    (void)arg;
    told++;
    told_code = err->code;
    told_count = count;
    told_left = left;
}

static void start(bool dismiss, const struct uuid *ids, size_t count)
{
    redrive_start(&(struct redrive_request){.queue = &queue.queue,
                                            .store = &store.store,
                                            .item = &production->items[0],
                                            .dismiss = dismiss,
                                            .ids = ids,
                                            .id_count = count,
                                            .done = on_done});
}

/* The store's answer to a batch that had to begin behind `after`. */
static void answer(enum fake_store_op op, struct uuid after, struct store_handled handled)
{
    struct fake_store_call *call = fake_store_take(&store, op);
    ck_assert(uuid_equal(call->id, after));
    ((store_handled_done *)call->done)(call->arg, &(struct err){.code = ERR_NONE}, &handled);
    free(call);
}

/* What was redriven or dismissed leaves the mirror. */
static void unbury(size_t count)
{
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_UNBURY);
    ck_assert_uint_eq(call->count, count);
    fake_queue_answer(call, &(struct err){.code = ERR_NONE});
}

/* A batch of which none could run again, and a short one, are not the end: what the store says is. */
START_TEST(all_goes_on_to_the_end)
{
    struct uuid ids[] = {uuid_new(1), uuid_new(2), uuid_new(3)};
    start(false, NULL, 0);
    answer(FAKE_REDRIVE, UUID_NONE,
           (struct store_handled){.ids = ids, .left = 512, .next = ids[0]});
    answer(FAKE_REDRIVE, ids[0],
           (struct store_handled){.ids = &ids[1], .count = 1, .left = 511, .next = ids[1]});
    unbury(1);
    struct fake_store_call *fetch = fake_store_take(&store, FAKE_FETCH);
    ((store_rows *)fetch->done)(fetch->arg, &(struct err){.code = ERR_UNAVAILABLE}, NULL, 0);
    free(fetch);
    ck_assert_int_eq(told, 0);
    answer(FAKE_REDRIVE, ids[1], (struct store_handled){.ids = ids, .left = 2});
    ck_assert(told == 1 && told_code == ERR_NONE);
    ck_assert(told_count == 1 && told_left == 1025);
}
END_TEST

START_TEST(named_ones_are_one_batch)
{
    struct uuid ids[] = {uuid_new(1), uuid_new(2)};
    start(true, ids, 2);
    answer(FAKE_DISMISS, UUID_NONE, (struct store_handled){.ids = ids, .count = 2});
    ck_assert_int_eq(told, 0);
    unbury(2);
    ck_assert(told == 1 && told_count == 2 && told_left == 0);
}
END_TEST

START_TEST(a_store_that_goes_away_ends_it)
{
    struct uuid ids[] = {uuid_new(1)};
    start(true, NULL, 0);
    answer(FAKE_DISMISS, UUID_NONE, (struct store_handled){.ids = ids, .count = 1, .next = ids[0]});
    unbury(1);
    struct fake_store_call *call = fake_store_take(&store, FAKE_DISMISS);
    ((store_handled_done *)call->done)(call->arg, &(struct err){.code = ERR_UNAVAILABLE},
                                       &(struct store_handled){.count = 0});
    free(call);
    ck_assert(told == 1 && told_code == ERR_UNAVAILABLE && told_count == 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redrive");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, all_goes_on_to_the_end);
    tcase_add_test(all, named_ones_are_one_batch);
    tcase_add_test(all, a_store_that_goes_away_ends_it);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
