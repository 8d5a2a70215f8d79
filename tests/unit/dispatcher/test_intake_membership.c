/* Messages that Redis alone keeps, of a process that was silent for so long that the fleet may have left their queue. */
#include "intake_fixture.h"

static const char yaml[] =
    "production: {name: test}\n"
    "items:\n"
    "  - {id: Light, class: Echo, queue_type: unordered, queue_size: 1000}\n";

/* The fleet, as the intake sees it. */
static unsigned membership; /* 0: it is not a member */

unsigned fleet_membership(const struct fleet *fleet)
{
    (void)fleet;
    return membership;
}

bool fleet_joined(const struct fleet *fleet)
{
    return fleet_membership(fleet) != 0;
}

const struct item *fleet_route(const struct fleet *fleet, const char *item_id, int64_t version)
{
    (void)fleet;
    (void)version;
    return item_of(item_id);
}

static void adjust(void)
{
    item_of("Light")->persistence.wal_enabled = false;
}

static void setup(void)
{
    fixture_setup(yaml, adjust);
    intake.fleet = (const struct fleet *)&membership; /* any pointer: nobody looks behind it */
    membership = 1;
}

/* Its first enqueue's outcome is unknown, and Redis is away. */
static void make_unsure(void)
{
    take_requests("Light", 1);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
    intake_link_changed(&intake, false, true);
    ck_assert_uint_eq(answer_count, 0);
}

START_TEST(a_member_sends_again)
{
    make_unsure();
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    ck_assert(is_enqueueing());
}
END_TEST

START_TEST(who_was_silent_does_not_send_again)
{
    make_unsure();
    membership = _i ? 2 : 0; /* a member anew, or silent still */
    intake_link_changed(&intake, true, true);
    run_loop_turns(loop);
    ck_assert(!is_enqueueing());
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_OUTCOME_UNKNOWN);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Light")), 0);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(what_waits_for_its_turn_is_refused)
{
    struct err err;
    struct fake_queue_call *calls[4];
    for (int i = 0; i < 4; i++) { /* as many as may be under way */
        take_requests("Light", 1);
        calls[i] = fake_queue_take(&queue, FAKE_ENQUEUE);
    }
    ck_assert_int_eq(accept_body("Light", "before", &err), 0);
    grant_slots();
    membership = 2;
    ck_assert_int_eq(accept_body("Light", "after", &err), 0);
    grant_slots();
    for (int i = 0; i < 4; i++)
        fake_queue_answer_depth(calls[i], &fake_ok, i + 1);
    run_loop_turns(loop);
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_uint_eq(call->count, 1); /* the one of today */
    ck_assert_uint_eq(call->entries[0].body.len, strlen("after"));
    fake_queue_answer_depth(call, &fake_ok, 5);
    ck_assert_uint_eq(answer_count, 6);
    ck_assert_int_eq(answers[4].code, ERR_UNAVAILABLE);
    ck_assert_int_eq(answers[5].code, ERR_NONE);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Light")), 5);
    ck_assert(intake_idle(&intake));
}
END_TEST

START_TEST(nothing_is_sent_in_silence)
{
    struct err err;
    ck_assert_int_eq(accept_body("Light", "x", &err), 0);
    grant_slots();
    membership = 0;
    run_loop_turns(loop);
    ck_assert(!is_enqueueing());
    ck_assert_uint_eq(answer_count, 1);
    ck_assert_int_eq(last_code, ERR_UNAVAILABLE);
    ck_assert_int_eq(accept_body("Light", "x", &err), -1);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, a_member_sends_again);
    tcase_add_loop_test(cases, who_was_silent_does_not_send_again, 0, 2);
    tcase_add_test(cases, what_waits_for_its_turn_is_refused);
    tcase_add_test(cases, nothing_is_sent_in_silence);
}

int main(void)
{
    return run_cases("intake membership", add, setup, fixture_teardown);
}
