/* Application acknowledgements of enhanced mode with a fake store. */
#include "application_ack.h"

#include "fake_store.h"
#include "run_loop.h"

#include <check.h>

static const char header[] = "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL7|P|2.5|||AL|AL";

static struct loop *loop;
static struct fake_store store;
static struct waiters waiters;
static struct application_acks acks;
static char written[HL7_ACK_MAX + 8];
static size_t write_count, over_count;

static void on_write(void *arg, struct slice frame)
{
    (void)arg;
    write_count++;
    memcpy(written, frame.ptr, frame.len);
    written[frame.len] = '\0';
}

static void on_over(void *arg)
{
    (void)arg;
    over_count++;
}

static void setup(void)
{
    loop = loop_new();
    fake_store_init(&store);
    waiters_init(&waiters, loop, &store.store);
    application_acks_init(&acks, &waiters, &store.store, on_write, on_over, NULL);
    write_count = over_count = 0;
}

static void teardown(void)
{
    application_acks_drop(&acks);
    fake_store_end(&store);
    waiters_done(&waiters);
    loop_free(loop);
}

static void add(enum hl7_ack_when when)
{
    application_acks_add(&acks, uuid_new(1000), slice_text(header), when);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
}

static struct fake_store_call *ended(void)
{
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok, (const bool[]){true});
    return fake_store_take(&store, FAKE_FIND);
}

static void answer(struct fake_store_call *find, const char *state, const char *error)
{
    struct store_record record = {.state = state, .error = error, .finished_us = 1};
    ((store_found *)find->done)(find->arg, &fake_ok, &record);
    free(find);
}

START_TEST(a_completed_message_is_accepted)
{
    add(HL7_AL);
    answer(ended(), "completed", NULL);
    ck_assert_uint_eq(write_count, 1);
    ck_assert_ptr_nonnull(strstr(written, "MSA|AA|CTL7"));
    ck_assert_uint_eq(acks.count, 0);
}
END_TEST

START_TEST(a_dead_letter_is_an_error_with_its_reason)
{
    add(HL7_AL);
    answer(ended(), "dead_lettered", "no rule holds");
    ck_assert_ptr_nonnull(strstr(written, "MSA|AE|CTL7"));
    ck_assert_ptr_nonnull(strstr(written, "no rule holds"));
}
END_TEST

START_TEST(only_what_was_asked_for_is_written)
{
    add(HL7_ER);
    answer(ended(), "completed", NULL);
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 1); /* its place is free, though nothing was written */
    add(HL7_SU);
    answer(ended(), "dead_lettered", "x");
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 2);
    ck_assert_uint_eq(acks.count, 0);
}
END_TEST

START_TEST(a_database_that_is_away_is_asked_again)
{
    struct err away = {.code = ERR_UNAVAILABLE};
    add(HL7_AL);
    struct fake_store_call *find = ended();
    ((store_found *)find->done)(find->arg, &away, NULL);
    free(find);
    ck_assert_uint_eq(write_count + over_count, 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    answer(ended(), "completed", NULL);
    ck_assert_uint_eq(write_count, 1);
    ck_assert_uint_eq(over_count, 1);
}
END_TEST

START_TEST(when_the_time_is_up_nothing_is_told)
{
    add(HL7_AL);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &fake_ok, (const bool[]){false});
    waiters_drain(&waiters);
    RUN_LOOP_UNTIL(loop, over_count == 1);
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(acks.count, 0);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_message_without_record_is_over)
{
    add(HL7_AL);
    struct fake_store_call *find = ended();
    ((store_found *)find->done)(find->arg, &fake_ok, NULL);
    free(find);
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 1);
}
END_TEST

START_TEST(a_connection_that_is_gone_is_told_nothing)
{
    add(HL7_AL);
    application_acks_drop(&acks); /* while it waits */
    add(HL7_AL);
    struct fake_store_call *flags = fake_store_take(&store, FAKE_ENDED);
    fake_store_answer_flags(flags, &fake_ok, (const bool[]){false});
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1);
    struct fake_store_call *find = ended();
    application_acks_drop(&acks); /* while it is looked up */
    answer(find, "completed", NULL);
    ck_assert_uint_eq(write_count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("application_ack");
    TCase *cases = tcase_create("application_ack");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_completed_message_is_accepted);
    tcase_add_test(cases, a_dead_letter_is_an_error_with_its_reason);
    tcase_add_test(cases, only_what_was_asked_for_is_written);
    tcase_add_test(cases, a_database_that_is_away_is_asked_again);
    tcase_add_test(cases, when_the_time_is_up_nothing_is_told);
    tcase_add_test(cases, a_message_without_record_is_over);
    tcase_add_test(cases, a_connection_that_is_gone_is_told_nothing);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
