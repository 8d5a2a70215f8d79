/* Reloads: reading, publishing, what is said of them. */
#include "fleet_fixture.h"

struct reloaded {
    int calls;
    struct err err;
    bool refused, changed;
    int64_t version;
    size_t errors;
    char restart_keys[128], first[128];
};

static void on_reloaded(void *arg, const struct err *err, const struct fleet_reloaded *result)
{
    struct reloaded *reloaded = arg;
    reloaded->calls++;
    reloaded->err = *err;
    if (!result)
        return;
    reloaded->refused = result->refused;
    reloaded->changed = result->changed;
    reloaded->version = result->version;
    snprintf(reloaded->restart_keys, sizeof(reloaded->restart_keys), "%.*s",
             (int)result->restart_keys.len,
             result->restart_keys.len ? result->restart_keys.ptr : "");
    if (result->diagnostics) {
        reloaded->errors = result->diagnostics->error_count;
        snprintf(reloaded->first, sizeof(reloaded->first), "%s",
                 result->diagnostics->list[0].message);
    }
}

START_TEST(a_reload_publishes_and_is_in_force)
{
    struct reloaded reloaded = {0};
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    write_file("worker: {drain_timeout: 7000, listen: '127.0.0.1:9999'}\n" ITEMS A_FIFO B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    ck_assert_int_eq(reloaded.calls, 0);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 1);
    ck_assert(slice_is(call->changed, "A"));
    struct store_production told = {.version = 2, .text = call->text, .hash = call->hash};
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    free(call);
    ck_assert_int_eq(reloaded.calls, 0);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert_int_eq(reloaded.calls, 1);
    ck_assert_int_eq(reloaded.err.code, ERR_NONE);
    ck_assert(reloaded.changed && !reloaded.refused && reloaded.version == 2);
    ck_assert_ptr_nonnull(strstr(reloaded.restart_keys, "worker.listen"));
}
END_TEST

START_TEST(the_same_file_changes_nothing)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_uint_eq(call->changed.len, 0);
    tell_production(call, 1, ITEMS A B);
    ck_assert_int_eq(reloaded.calls, 1);
    ck_assert(!reloaded.changed && reloaded.version == 1);
    ck_assert_str_eq(reloaded.restart_keys, "");
}
END_TEST

/* Somebody else published meanwhile: what changes is seen against that. */
START_TEST(another_was_faster)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS A_FIFO B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    tell_production(asked(FAKE_PUBLISH), 2, ITEMS A_FIFO);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 2);
    ck_assert_uint_eq(call->changed.len, 0); /* B is new */
    tell_production(call, 3, ITEMS "  - {id: C, class: Echo}\n");
    call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 3);
    ck_assert(slice_is(call->changed, "C"));
    tell_production(call, 4, ITEMS A_FIFO B);
    attend(1, 0, 4, 0, 1, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 4, ITEMS A_FIFO B);
    ck_assert(reloaded.calls == 1 && reloaded.changed && reloaded.version == 4);
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS "  - {id: A, class: Echo, concurrency: 0}\n  - {id: A, class: None}\n");
    fleet_reload(fleet, on_reloaded, &reloaded);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 1);
    ck_assert(reloaded.refused && reloaded.version == 1 && reloaded.errors >= 2);
    ck_assert_ptr_nonnull(strstr(reloaded.first, "concurrency"));
    unlink(path);
    fleet_reload(fleet, on_reloaded, &reloaded);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 2);
    ck_assert(reloaded.refused && reloaded.errors == 1);
    ck_assert_ptr_nonnull(strstr(reloaded.first, "cannot be read"));
    ck_assert_int_eq(productions, 1);
}
END_TEST

START_TEST(a_reload_that_cannot_be)
{
    struct reloaded reloaded = {0}, second = {0};
    fleet_reload(fleet, on_reloaded, &reloaded);
    fleet_reload(fleet, on_reloaded, &second);
    ck_assert(second.calls == 1 && second.err.code == ERR_UNAVAILABLE);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 1);
    ck_assert_int_eq(reloaded.err.code, ERR_UNAVAILABLE); /* the store is away */
    join(ITEMS A B);
    write_file(ITEMS A);
    fleet_reload(fleet, on_reloaded, &reloaded);
    lose(asked(FAKE_PUBLISH));
    ck_assert(reloaded.calls == 2 && reloaded.err.code == ERR_UNAVAILABLE);
    fleet_reload(fleet, on_reloaded, &reloaded);
    free(asked(FAKE_PUBLISH)); /* never answered: the process ends */
    fleet = fleet_free(fleet);
    ck_assert(reloaded.calls == 3 && reloaded.err.code == ERR_UNAVAILABLE);
}
END_TEST

/* It is published; that it is in force here is not waited for without end. */
START_TEST(a_reload_is_answered_in_bounded_time)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS A);
    fleet_reload(fleet, on_reloaded, &reloaded);
    tell_production(asked(FAKE_PUBLISH), 2, ITEMS A);
    for (int i = 0; i < 12 && !reloaded.calls; i++) {
        RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0 || reloaded.calls);
        if (fake_store_pending(&store))
            lose(fake_store_take(&store, FAKE_ATTEND));
    }
    ck_assert(reloaded.calls == 1 && reloaded.err.code == ERR_NONE && reloaded.version == 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fleet_reload");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_test(all, a_reload_publishes_and_is_in_force);
    tcase_add_test(all, the_same_file_changes_nothing);
    tcase_add_test(all, another_was_faster);
    tcase_add_test(all, what_is_wrong_is_refused);
    tcase_add_test(all, a_reload_that_cannot_be);
    tcase_add_test(all, a_reload_is_answered_in_bounded_time);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
