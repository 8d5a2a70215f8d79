/* Application acknowledgements of enhanced mode: what is told, and when. */
#include "application_ack.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>

static const char header[] = "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL7|P|2.5|||AL|AL";
static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: A, class: Echo, queue_type: unordered}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct callers callers;
static struct application_acks acks;
static char written[HL7_ACK_MAX + 8];
static size_t write_count, over_count, room;

static bool on_write(void *arg, struct slice frame)
{
    (void)arg;
    if (frame.len > room)
        return false;
    write_count++;
    ck_assert_uint_lt(frame.len, sizeof(written));
    memcpy(written, frame.ptr, frame.len);
    written[frame.len] = '\0';
    ck_assert_int_eq(written[0], '\v');
    ck_assert_str_eq(written + frame.len - 2, "\x1c\r");
    return true;
}

static void on_over(void *arg)
{
    (void)arg;
    over_count++;
}

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    callers_link_changed(&callers, true, true);
    application_acks_init(&acks, &callers, on_write, on_over, NULL);
    write_count = over_count = 0;
    room = SIZE_MAX;
}

static void teardown(void)
{
    application_acks_drop(&acks);
    ck_assert_uint_eq(callers.count, 0);
    callers_link_changed(&callers, false, false);
    fake_store_end(&store);
    fake_queue_end(&queue);
    callers_done(&callers);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static struct application_ack *hold(enum hl7_ack_when when, struct uuid *ret_id)
{
    *ret_id = uuid_new(1000);
    return application_acks_add(&acks, &production->items[0], *ret_id, slice_text(header), when);
}

static struct uuid add(enum hl7_ack_when when)
{
    struct uuid id;
    application_ack_release(hold(when, &id));
    return id;
}

static void end(struct uuid id, const char *status, const char *error, const char *body)
{
    struct queue_reply reply = {
        .id = id, .status = status, .error = error, .body = body_of(body, strlen(body))};
    callers_replied(&callers, &reply);
}

START_TEST(a_completed_message_is_accepted)
{
    end(add(HL7_AL), "completed", NULL, "");
    ck_assert_uint_eq(write_count, 1);
    ck_assert_ptr_nonnull(strstr(written, "MSA|AA|CTL7"));
    ck_assert_uint_eq(acks.count, 0);
    ck_assert_uint_eq(over_count, 1);
}
END_TEST

START_TEST(other_ends_are_errors_with_their_reason)
{
    end(add(HL7_AL), "dead_lettered", "no rule holds", "");
    ck_assert_ptr_nonnull(strstr(written, "MSA|AE|CTL7"));
    ck_assert_ptr_nonnull(strstr(written, "no rule holds"));
    end(add(HL7_AL), "expired", NULL, "");
    ck_assert_ptr_nonnull(strstr(written, "MSA|AE|CTL7"));
    ck_assert_ptr_nonnull(strstr(written, "expired"));
}
END_TEST

START_TEST(only_what_was_asked_for_is_written)
{
    end(add(HL7_ER), "completed", NULL, "");
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 1); /* its place is free, though nothing was written */
    end(add(HL7_SU), "dead_lettered", "x", "");
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 2);
    ck_assert_uint_eq(acks.count, 0);
}
END_TEST

#define REPLY(code, id) "MSH|^~\\&|R|F|APP|FAC|20260101||ACK|X1|P|2.5\rMSA|" code "|" id "|theirs\r"

START_TEST(a_reply_that_acknowledges_is_used)
{
    end(add(HL7_AL), "completed", NULL, REPLY("AE", "CTL7"));
    ck_assert_str_eq(written, "\v" REPLY("AE", "CTL7") "\x1c\r");
    end(add(HL7_SU), "completed", NULL, REPLY("AE", "CTL7")); /* it is an error */
    ck_assert_uint_eq(write_count, 1);
    end(add(HL7_ER), "completed", NULL, REPLY("AR", "CTL7"));
    ck_assert_uint_eq(write_count, 2);
}
END_TEST

START_TEST(a_reply_without_room_is_told_by_one_of_ours)
{
    room = 1000;
    char reply[2000];
    snprintf(reply, sizeof(reply), "%sNTE|1||%01500d\r", REPLY("AE", "CTL7"), 0);
    end(add(HL7_AL), "completed", NULL, reply);
    ck_assert_uint_eq(write_count, 1);
    ck_assert_ptr_nonnull(strstr(written, "MSA|AE|CTL7\r")); /* its code */
    ck_assert_ptr_null(strstr(written, "NTE"));
    ck_assert_uint_eq(over_count, 1);
}
END_TEST

START_TEST(any_other_reply_is_not)
{
    static const char *const replies[] = {
        REPLY("AA", "CTL8"),
        REPLY("CA", "CTL7"),
        REPLY("", "CTL7"),
        "MSH|^~\\&|R|F|APP|FAC|20260101||ADT^A01|X1|P|2.5\rPID|1\r",
        "plain text",
        "MSH|",
        REPLY("AA", "CTL7") REPLY("AA", "CTL7"),
        REPLY("AA", "CTL7") "NTE|\x1c\r",
        ""};
    for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
        end(add(HL7_AL), "completed", NULL, replies[i]);
        ck_assert_uint_eq(write_count, i + 1);
        ck_assert_ptr_nonnull(strstr(written, "MSA|AA|CTL7\r"));
        ck_assert_ptr_null(strstr(written, "theirs"));
    }
}
END_TEST

START_TEST(nothing_is_written_before_the_commit_acknowledgement)
{
    struct uuid id;
    struct application_ack *ack = hold(HL7_AL, &id);
    end(id, "completed", NULL, REPLY("AA", "CTL7"));
    ck_assert_uint_eq(write_count + over_count, 0);
    application_ack_release(ack);
    ck_assert_str_eq(written, "\v" REPLY("AA", "CTL7") "\x1c\r");
    ck_assert_uint_eq(over_count, 1);
    ack = hold(HL7_ER, &id);
    end(id, "completed", NULL, "");
    application_ack_release(ack);
    ck_assert_uint_eq(write_count, 1);
    ck_assert_uint_eq(over_count, 2);
}
END_TEST

START_TEST(a_repeat_is_told_the_first_ones_end)
{
    struct uuid id, first = uuid_new(500);
    struct application_ack *ack = hold(HL7_AL, &id);
    application_ack_repeats(ack, first);
    application_ack_release(ack);
    end(id, "completed", NULL, "");
    ck_assert_uint_eq(write_count, 0);
    end(first, "completed", NULL, "");
    ck_assert_ptr_nonnull(strstr(written, "MSA|AA|CTL7"));
}
END_TEST

START_TEST(a_refused_message_has_none)
{
    struct uuid id;
    application_ack_refused(hold(HL7_AL, &id));
    end(id, "completed", NULL, "");
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(over_count, 1);
    ck_assert_uint_eq(acks.count, 0);
}
END_TEST

START_TEST(when_the_dispatcher_stops_nothing_is_told)
{
    struct uuid id;
    struct application_ack *held = hold(HL7_AL, &id);
    add(HL7_AL);
    callers_stop(&callers);
    RUN_LOOP_UNTIL(loop, over_count == 1);
    application_ack_repeats(held, uuid_new(1)); /* too late: nothing happens */
    application_ack_release(held);
    ck_assert_uint_eq(over_count, 2);
    ck_assert_uint_eq(write_count, 0);
    ck_assert_uint_eq(acks.count, 0);
}
END_TEST

START_TEST(a_connection_that_is_gone_is_told_nothing)
{
    struct uuid waits = add(HL7_AL), held, kept;
    hold(HL7_AL, &held);
    hold(HL7_AL, &kept);
    end(kept, "completed", NULL, "");
    application_acks_drop(&acks);
    end(waits, "completed", NULL, "");
    end(held, "completed", NULL, "");
    ck_assert_uint_eq(write_count + over_count, 0);
    ck_assert_uint_eq(callers.count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("application_ack");
    TCase *cases = tcase_create("application_ack");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_completed_message_is_accepted);
    tcase_add_test(cases, other_ends_are_errors_with_their_reason);
    tcase_add_test(cases, only_what_was_asked_for_is_written);
    tcase_add_test(cases, a_reply_that_acknowledges_is_used);
    tcase_add_test(cases, a_reply_without_room_is_told_by_one_of_ours);
    tcase_add_test(cases, any_other_reply_is_not);
    tcase_add_test(cases, nothing_is_written_before_the_commit_acknowledgement);
    tcase_add_test(cases, a_repeat_is_told_the_first_ones_end);
    tcase_add_test(cases, a_refused_message_has_none);
    tcase_add_test(cases, when_the_dispatcher_stops_nothing_is_told);
    tcase_add_test(cases, a_connection_that_is_gone_is_told_nothing);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
