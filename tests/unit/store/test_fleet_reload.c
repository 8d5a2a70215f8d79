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
    write_file("redis: {key_prefix: other}\n" ITEMS A_FIFO B);
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
    ck_assert_ptr_nonnull(strstr(reloaded.restart_keys, "redis.key_prefix"));
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

/* ---- sections ---- */

#define WAIT(ms) "worker: {drain_timeout: " #ms "}\n" ITEMS A B

/* The next version, as another process published it. */
static void hear(int64_t version, const char *file, int64_t since)
{
    const int64_t both[SECTION_COUNT] = {since, since};
    struct buffer text;
    published(file, &text);
    production_append_since(both, &text);
    buffer_append_byte(&text, '\0');
    fleet_hurry(fleet);
    attend(version - 1, 0, version, 0, version - 1, NULL);
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    struct store_production told = {
        .version = version, .text = slice_of(text.data, text.len - 1), .hash = SLICE_LITERAL("x")};
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    free(call);
    buffer_done(&text);
    ck_assert_int_eq(fleet_production(fleet)->version, version);
    attend(version, 0, version, 0, version, NULL);
}

static int64_t drains_ms(void)
{
    return fleet_section(fleet, SECTION_WORKER)->worker.drain_timeout_ms;
}

/* Our own file goes on saying what it did. */
START_TEST(a_section_follows_in_its_own_line)
{
    join(ITEMS A B);
    ck_assert_int_eq(drains_ms(), 30000);
    hear(2, WAIT(2), 0);
    ck_assert(drains_ms() == 2 && sections == 1);
    hear(3, WAIT(3), 3); /* from a process with a file of its own */
    ck_assert(drains_ms() == 2 && sections == 1);
    hear(4, WAIT(4), 3); /* and on from there */
    ck_assert(drains_ms() == 2 && sections == 1);
    hear(5, ITEMS A B, 5); /* what our file says */
    ck_assert(drains_ms() == 30000 && sections == 2);
    hear(6, WAIT(6), 5);
    ck_assert(drains_ms() == 6 && sections == 3);
}
END_TEST

START_TEST(a_section_of_its_own_is_kept)
{
    fleet_links_changed(fleet, true, true);
    struct buffer text;
    published(WAIT(1), &text); /* the fleet's, at our start */
    buffer_append_byte(&text, '\0');
    tell_production(asked(FAKE_PUBLISH), 1, text.data);
    attend(1, 0, 1, 0, 1, NULL);
    buffer_done(&text);
    ck_assert_int_eq(drains_ms(), 30000);
    hear(2, WAIT(2), 0);
    ck_assert_int_eq(drains_ms(), 30000);
    write_file(WAIT(3)); /* it sees the changed file by now */
    hear(3, WAIT(3), 0);
    ck_assert_int_eq(drains_ms(), 3);
    ck_assert_int_eq(sections, 1);
}
END_TEST

/* The file says what is in force: nothing is published, and this process goes by it. */
START_TEST(a_reload_takes_what_its_file_says)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    hear(2, WAIT(2), 2);
    ck_assert_int_eq(drains_ms(), 30000);
    write_file(WAIT(2));
    fleet_reload(fleet, on_reloaded, &reloaded);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    struct store_production told = {.version = 2, .text = call->text, .hash = call->hash};
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    free(call);
    ck_assert(reloaded.calls == 1 && !reloaded.changed && reloaded.version == 2);
    ck_assert(drains_ms() == 2 && sections == 1);
}
END_TEST

/* What it says of itself when it publishes. */
static void publishes(const char *file, int64_t dispatcher, int64_t worker)
{
    struct reloaded reloaded = {0};
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "\n#hie-since %lld %lld\n", (long long)dispatcher,
             (long long)worker);
    write_file(file);
    fleet_reload(fleet, on_reloaded, &reloaded);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    size_t len = strlen(wanted);
    ck_assert(call->text.len > len);
    ck_assert_msg(memcmp(call->text.ptr + call->text.len - len, wanted, len) == 0, "%.*s",
                  (int)call->text.len, call->text.ptr);
    lose(call);
    ck_assert_int_eq(reloaded.calls, 1);
}

START_TEST(it_says_where_its_sections_come_from)
{
    join(ITEMS A B);
    publishes(WAIT(5), 0, 0);
    hear(2, "dispatcher: {http: {max_body: 1MiB}}\n" ITEMS A B, 2);
    publishes(WAIT(5), 3, 2); /* the worker's is the fleet's, the dispatcher's is not */
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
    tcase_add_test(all, a_section_follows_in_its_own_line);
    tcase_add_test(all, a_section_of_its_own_is_kept);
    tcase_add_test(all, a_reload_takes_what_its_file_says);
    tcase_add_test(all, it_says_where_its_sections_come_from);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
