/* The fleet's side of a process: what it tells, what it follows, when it works. */
#include "fleet_fixture.h"

/* ---- joining ---- */

START_TEST(joins_and_publishes_first)
{
    ck_assert(!fleet_joined(fleet) && !health_ready(health));
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* the store is away */
    fleet_links_changed(fleet, false, true);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, -1);
    ck_assert_str_eq(call->name, "me");
    ck_assert_int_eq(memcmp(call->text.ptr, ITEMS A B, sizeof(ITEMS A B) - 1), 0);
    tell_production(call, 1, ITEMS A B);
    ck_assert(!fleet_joined(fleet)); /* it does not know yet whose queues are changing */
    ck_assert_int_eq(productions, 1);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet) && health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert_int_eq(gauge("hie_production_file_differs"), 0);
    ck_assert(fleet_route(fleet, "A", 0) ==
              production_find(fleet_production(fleet), slice_text("A")));
    ck_assert_ptr_null(fleet_route(fleet, "Unknown", 1));
}
END_TEST

START_TEST(the_fleets_version_goes_before_its_own_file)
{
    join(ITEMS A_FIFO B);
    const struct item *item = fleet_route(fleet, "A", 1);
    ck_assert_uint_eq(item->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(gauge("hie_production_file_differs"), 1);
    ck_assert(health_ready(health)); /* it says so, and works */
}
END_TEST

START_TEST(joins_when_the_store_answers)
{
    fleet_links_changed(fleet, true, true);
    lose(asked(FAKE_PUBLISH));
    ck_assert_int_eq(productions, 0);
    tell_production(asked(FAKE_PUBLISH), 3, ITEMS A B);
    lose(asked(FAKE_ATTEND));
    ck_assert(!fleet_joined(fleet));
    attend(3, 0, 3, 0, 3, NULL);
    ck_assert(fleet_joined(fleet));
}
END_TEST

START_TEST(a_version_that_it_cannot_use_keeps_it_out)
{
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 4, "items: [nonsense");
    ck_assert(!fleet_joined(fleet) && !health_ready(health));
    ck_assert_int_eq(productions, 0);
    tell_production(asked(FAKE_PUBLISH), 4, "items: [nonsense"); /* looks on */
    tell_production(asked(FAKE_PUBLISH), 5, ITEMS A);
    attend(5, 0, 5, 0, 5, NULL);
    ck_assert(fleet_joined(fleet) && health_ready(health));
}
END_TEST

/* Between its look at the production and its first attendance another was published, and an item is changing. */
START_TEST(joins_in_the_midst_of_a_change)
{
    struct store_change change = {.item = "A", .version = 7, .last_version = 8, .step = 12};
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 7, ITEMS A_FIFO B);
    attend(7, 0, 8, 13, 6, &change);
    ck_assert(!fleet_joined(fleet));
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 8);
    tell_production(call, 8, ITEMS A_FIFO);
    call = asked(FAKE_PRODUCTION_OF); /* whose queue is being finished */
    ck_assert_int_eq(call->number, 6);
    tell_production(call, 6, ITEMS A B);
    ck_assert(fleet_joined(fleet));
    struct fleet_shape shape = fleet_shape(fleet, "A");
    ck_assert_int_eq(shape.stage, FLEET_CLOSING);
    ck_assert_uint_eq(shape.old->queue_type, QUEUE_UNORDERED);
    ck_assert(fleet_route(fleet, "A", 6) == shape.old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 7));
    ck_assert_str_eq(shapes, "A closing, ");
    attend(8, 13, 8, 13, 8, NULL); /* at once: the others wait for its word */
    ck_assert_str_eq(shapes, "A closing, A open, ");
}
END_TEST

START_TEST(joins_where_an_old_version_is_gone_or_unreadable)
{
    struct store_change changes[] = {{.item = "A", .version = 5, .last_version = 5, .step = 2},
                                     {.item = "B", .version = 7, .last_version = 7, .step = 3}};
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 7, ITEMS A_FIFO B);
    tell_standing(asked(FAKE_ATTEND), 7, 3, 7, changes, 2);
    tell_production(asked(FAKE_PRODUCTION_OF), 4, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 6, "nonsense");
    ck_assert(fleet_joined(fleet));
    ck_assert_int_eq(fleet_shape(fleet, "A").stage, FLEET_CLOSING);
    ck_assert_ptr_null(fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 1));
    ck_assert_ptr_null(fleet_route(fleet, "B", 1));
    attend(7, 3, 7, 3, 7, NULL); /* and does not look itself whether it is finished */
}
END_TEST

/* ---- changes ---- */

START_TEST(settings_change_at_once)
{
    join(ITEMS A B);
    attend(1, 0, 2, 0, 1, NULL);
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 2);
    tell_production(call, 2, ITEMS "  - {id: A, class: Echo, concurrency: 9}\n" B);
    ck_assert_int_eq(productions, 2);
    ck_assert_str_eq(shapes, "");
    ck_assert(!fleet_is_changing(fleet));
    ck_assert_int_eq(fleet_route(fleet, "A", 1)->concurrency, 9);
    settled = false; /* something of version 1 is still in hand */
    attend(1, 0, 2, 0, 1, NULL);
    settled = true;
    attend(2, 0, 2, 0, 2, NULL);
    ck_assert_int_eq(gauge("hie_production_version"), 2);
}
END_TEST

static void change_a(struct store_change *change)
{
    *change = (struct store_change){.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert_str_eq(shapes, "A closing, ");
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_UNORDERED);
}

/* Attends, with nothing new, until rows are asked about. */
static struct fake_store_call *asked_older(int64_t version, int64_t step,
                                           const struct store_change *change)
{
    for (;;) {
        RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
        if (TAILQ_FIRST(&store.calls)->op == FAKE_OLDER)
            return fake_store_take(&store, FAKE_OLDER);
        attend(version, step, version, step, version, change);
    }
}

static void answer_call(struct fake_store_call *call, int64_t seq)
{
    ((store_older_done *)call->done)(call->arg, &fake_ok, seq);
    free(call);
}

START_TEST(a_queue_closes_and_opens)
{
    struct store_change change;
    change_a(&change);
    ck_assert(fleet_route(fleet, "A", 1) == fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 2));
    ck_assert_ptr_nonnull(fleet_route(fleet, "B", 2));
    attend(2, 1, 2, 1, 1, &change); /* another process has not applied it: nothing is looked for */
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, 7);
    struct fake_store_call *call = asked_older(2, 1, &change);
    ck_assert_int_eq(call->after_seq, 6); /* the same one first */
    answer_call(call, 0);
    call = asked(FAKE_OLDER);
    ck_assert_int_eq(call->after_seq, 0); /* then all of them */
    answer_call(call, 0);
    answer_empty("A");
    answer_close("A", 2);
    change.closed = true;
    change.step = 2;
    attend(2, 1, 2, 2, 2, &change);
    ck_assert_str_eq(shapes, "A closing, A closed, ");
    ck_assert_ptr_null(fleet_route(fleet, "A", 1));
    left = false; /* a claim is under way */
    attend(2, 1, 2, 2, 2, &change);
    left = true;
    attend(2, 2, 2, 2, 2, &change);
    attend(2, 2, 2, 2, 2, NULL);
    ck_assert_str_eq(shapes, "A closing, A closed, A open, ");
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(gauge("hie_queues_changing"), 0);
}
END_TEST

START_TEST(a_look_that_fails_closes_nothing)
{
    struct store_change change;
    change_a(&change);
    attend(2, 1, 2, 1, 2, &change);
    struct fake_store_call *call = asked(FAKE_OLDER);
    attend(2, 1, 2, 1, 2, &change); /* one look at a time */
    ((store_older_done *)call->done)(call->arg, &(const struct err){.code = ERR_UNAVAILABLE}, 0);
    free(call);
    call = asked_older(2, 1, &change);
    answer_call(call, 0);
    answer_empty("A");
    call = asked(FAKE_CLOSE_QUEUE);
    fake_store_answer(call, &(const struct err){.code = ERR_OUTCOME_UNKNOWN});
    answer_call(asked_older(2, 1, &change), 0);
    answer_empty("A");
    answer_close("A", 2);
}
END_TEST

/* A look at a long log is followed by a long pause. */
START_TEST(looking_takes_a_part_of_the_time)
{
    struct store_change change;
    change_a(&change);
    attend(2, 1, 2, 1, 2, &change);
    struct fake_store_call *call = asked(FAKE_OLDER);
    int64_t began = clock_mono_us();
    attend(2, 1, 2, 1, 2, &change);
    int64_t took = clock_mono_us() - began;
    answer_call(call, 9);
    call = asked_older(2, 1, &change);
    ck_assert_int_ge(clock_mono_us() - began, 10 * took);
    free(call);
}
END_TEST

/* What has no rows is in the queue only: messages that were accepted while the item had no WAL, direct producers' entries. */
START_TEST(messages_without_rows_are_waited_for)
{
    struct store_change change;
    change_a(&change);
    const struct queue_depth occupied[] = {
        {.waiting = 1}, {.in_hand = 1}, {.delayed = 1, .next_due_ms = clock_wall_ms() + 1000}};
    for (size_t i = 0; i < 3; i++) {
        answer_call(asked_older(2, 1, &change), 0);
        ck_assert(!fake_store_pending(&store));
        answer_depth("A", occupied[i]);
    }
    answer_call(asked_older(2, 1, &change), 0);
    answer_depth("A", (struct queue_depth){.delayed = 1, .next_due_ms = clock_wall_ms() + 60000});
    answer_close("A", 2);
}
END_TEST

START_TEST(an_item_that_is_removed_finishes_first)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS B);
    ck_assert_ptr_nonnull(fleet_route(fleet, "A", 1)); /* what it had */
    ck_assert_ptr_null(fleet_route(fleet, "A", 2));
    attend(2, 1, 2, 1, 2, NULL);
    ck_assert_ptr_null(fleet_route(fleet, "A", 1)); /* it waits until the item is back */
}
END_TEST

/* Two in a row while it is closing: one after the other where something came in between, else at one go. */
START_TEST(two_reloads_in_a_row)
{
    struct store_change change;
    change_a(&change);
    change.last_version = 3;
    change.step = 2;
    attend(2, 1, 3, 2, 2, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 3, ITEMS A B);
    ck_assert_str_eq(shapes, "A closing, "); /* the same change is under way */
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_UNORDERED);
    answer_older("A", 2, 0); /* not all know the second yet */
    answer_empty("A");
    answer_close("A", 2);
    answer_call(asked_older(3, 2, &change), 0);
    answer_empty("A");
    answer_older("A", 3, 5);
    answer_close("A", 2);
    answer_call(asked_older(3, 2, &change), 0);
    answer_empty("A");
    answer_older("A", 3, 0);
    answer_close("A", 3);
    /* It was closed below 2 by another process: the next change's turn. */
    change = (struct store_change){.item = "A", .version = 3, .last_version = 3, .step = 4};
    attend(3, 2, 3, 4, 3, &change);
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 2);
    tell_production(call, 2, ITEMS A_FIFO B);
    ck_assert_str_eq(shapes, "A closing, A closing, ");
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_FIFO);
    ck_assert(fleet_route(fleet, "A", 2) == fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 3));
}
END_TEST

START_TEST(a_version_that_it_cannot_use_leaves_it_as_it_was)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, "items: [nonsense");
    ck_assert(fleet_joined(fleet) && !health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert_ptr_nonnull(fleet_route(fleet, "A", 1));
    attend(1, 1, 2, 1, 1, &change); /* is not asked for again */
    attend(1, 1, 3, 2, 1, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 3, ITEMS B);
    ck_assert(health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 3);
}
END_TEST

START_TEST(a_store_that_goes_away_in_between)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    lose(asked(FAKE_PRODUCTION_OF));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert(!fleet_is_changing(fleet)); /* all of it is followed, or nothing */
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert(fleet_is_changing(fleet));
}
END_TEST

/* Silent for nearly as long as its membership lasts: it does not work until it has heard how things stand. */
START_TEST(who_was_silent_joins_anew)
{
    join(ITEMS A B);
    for (int i = 0; i < 12; i++) { /* each a second or so */
        if (!fleet_joined(fleet))
            break;
        lose(asked(FAKE_ATTEND));
    }
    ck_assert(!fleet_joined(fleet));
    struct reconciler_route route = fleet_reconciler_route(fleet);
    ck_assert_ptr_null(route.item(route.arg, "A", 1));
    struct fake_store_call *call = asked(FAKE_ATTEND);
    tell_standing(call, 5, 9, 5, NULL, 0); /* others have been through all of it */
    ck_assert(!fleet_joined(fleet));
    tell_production(asked(FAKE_PRODUCTION_OF), 5, ITEMS A_FIFO B);
    ck_assert(fleet_joined(fleet));
    ck_assert_str_eq(shapes, "");
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_FIFO);
}
END_TEST

START_TEST(another_database_begins_anew)
{
    join(ITEMS A_FIFO B);
    attend(1, 0, 0, 0, 0, NULL);
    ck_assert(!fleet_joined(fleet));
    tell_production(asked(FAKE_PUBLISH), 1, ITEMS A B);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet));
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_UNORDERED);
}
END_TEST

START_TEST(it_leaves)
{
    join(ITEMS A B);
    fleet_leave(fleet);
    struct fake_store_call *call = asked(FAKE_ATTEND);
    ck_assert_int_eq(call->ttl_ms, 0);
    lose(call);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fleet");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_test(all, joins_and_publishes_first);
    tcase_add_test(all, the_fleets_version_goes_before_its_own_file);
    tcase_add_test(all, joins_when_the_store_answers);
    tcase_add_test(all, a_version_that_it_cannot_use_keeps_it_out);
    tcase_add_test(all, joins_in_the_midst_of_a_change);
    tcase_add_test(all, joins_where_an_old_version_is_gone_or_unreadable);
    tcase_add_test(all, settings_change_at_once);
    tcase_add_test(all, a_queue_closes_and_opens);
    tcase_add_test(all, a_look_that_fails_closes_nothing);
    tcase_add_test(all, looking_takes_a_part_of_the_time);
    tcase_add_test(all, messages_without_rows_are_waited_for);
    tcase_add_test(all, an_item_that_is_removed_finishes_first);
    tcase_add_test(all, two_reloads_in_a_row);
    tcase_add_test(all, a_version_that_it_cannot_use_leaves_it_as_it_was);
    tcase_add_test(all, a_store_that_goes_away_in_between);
    tcase_add_test(all, who_was_silent_joins_anew);
    tcase_add_test(all, another_database_begins_anew);
    tcase_add_test(all, it_leaves);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
