/* The table of waiting callers with a fake store and queue: told by publications, found by looking, gone in any state. */
#include "callers.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>
#include <poll.h>

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: A, class: Echo, queue_type: unordered}\n"
                           "  - {id: B, class: Echo, queue_type: unordered}\n";

struct one {
    struct caller caller;
    unsigned told;
    enum caller_outcome outcome;
    char status[24], error[64], type[64], body[64];
    bool left_out;
    struct one *removes; /* when it is told */
};

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct callers callers;
static const struct item *item_a, *item_b;
static size_t told_count;

static void copy(char *to, size_t size, struct slice from)
{
    ck_assert_uint_lt(from.len, size);
    if (from.len)
        memcpy(to, from.ptr, from.len);
    to[from.len] = '\0';
}

static void on_done(struct caller *caller, enum caller_outcome outcome,
                    const struct queue_reply *end)
{
    struct one *one = (struct one *)caller;
    told_count++;
    one->told++;
    one->outcome = outcome;
    ck_assert(!caller_waits(caller));
    ck_assert_int_eq(outcome == CALLER_ENDED, end != NULL);
    if (end) {
        copy(one->status, sizeof(one->status), slice_text(end->status));
        copy(one->error, sizeof(one->error), slice_text(end->error));
        copy(one->type, sizeof(one->type), end->content_type);
        copy(one->body, sizeof(one->body), body_slice(end->body));
        one->left_out = end->left_out;
    }
    if (one->removes)
        callers_remove(&callers, &one->removes->caller);
}

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    item_a = production_find(production, SLICE_LITERAL("A"));
    item_b = production_find(production, SLICE_LITERAL("B"));
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    callers_link_changed(&callers, true, true);
    told_count = 0;
}

static void teardown(void)
{
    callers.store_up = callers.queue_up = false; /* nothing more is asked */
    fake_store_end(&store);
    fake_queue_end(&queue);
    ck_assert_uint_eq(callers.count, 0);
    callers_done(&callers);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static struct uuid add(struct one *one, enum caller_kind kind, int64_t wait_ms)
{
    struct uuid id = uuid_new(clock_wall_ms());
    *one = (struct one){0};
    callers_add(&callers, &one->caller, item_a, id, wait_ms, kind, on_done);
    return id;
}

static struct queue_reply completed(struct uuid id, const char *body)
{
    return (struct queue_reply){.id = id,
                                .status = "completed",
                                .content_type = SLICE_LITERAL("text/plain"),
                                .body = body_of(body, strlen(body))};
}

static void publish(struct uuid id, const char *body)
{
    struct queue_reply reply = completed(id, body);
    callers_replied(&callers, &reply);
}

/* Nothing is remembered of a message that nobody waits for. */
static void expect_forgotten(void)
{
    ck_assert_uint_eq(callers.count, 0);
    ck_assert_ptr_null(callers.table);
}

static int64_t printed(const char *name)
{
    struct buffer out;
    char wanted[96];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted), "\n%s ", name);
    const char *line = strstr(out.data, wanted);
    ck_assert_ptr_nonnull(line);
    int64_t value = atoll(line + strlen(wanted));
    buffer_done(&out);
    return value;
}

/* ---- what is asked of the servers, and their answers ---- */

static struct fake_store_call *asked(enum fake_store_op op)
{
    RUN_LOOP_UNTIL(loop, !TAILQ_EMPTY(&store.calls));
    return fake_store_take(&store, op);
}

static void say_ended(bool ended)
{
    bool flags[CALLERS_LOOK_MAX];
    for (size_t i = 0; i < CALLERS_LOOK_MAX; i++)
        flags[i] = ended;
    fake_store_answer_flags(asked(FAKE_ENDED), &fake_ok, flags);
}

static void say_found(struct fake_store_call *call, const struct err *err, const char *state,
                      const char *error)
{
    struct store_record record = {.state = state, .error = error, .finished_us = 1};
    ((store_found *)call->done)(call->arg, err, state ? &record : NULL);
    free(call);
}

static void say_reply(struct fake_store_call *call, const char *body)
{
    ((store_body_done *)call->done)(call->arg, &fake_ok, body_of(body, body ? strlen(body) : 0),
                                    SLICE_LITERAL("text/x"), body != NULL);
    free(call);
}

static struct fake_queue_call *keys_read(void)
{
    RUN_LOOP_UNTIL(loop, !TAILQ_EMPTY(&queue.calls));
    return fake_queue_take(&queue, FAKE_READ_REPLIES);
}

static void say_keys(const char *body)
{
    struct body bodies[CALLERS_LOOK_MAX];
    for (size_t i = 0; i < CALLERS_LOOK_MAX; i++)
        bodies[i] = body_of(body, body ? strlen(body) : 0);
    fake_queue_answer_replies(keys_read(), &fake_ok, bodies);
}

static void turn_for(int64_t ms)
{
    int64_t until = clock_mono_ms() + ms;
    while (clock_mono_ms() < until) {
        run_loop_once(loop);
        poll(NULL, 0, 1);
    }
}

/* ---- publications ---- */

START_TEST(a_publication_tells_all_who_wait)
{
    struct one first, second, other;
    struct uuid id = add(&first, CALLER_TOLD, 60000);
    add(&other, CALLER_TOLD, 60000);
    second = (struct one){0};
    callers_add(&callers, &second.caller, item_a, id, 60000, CALLER_TOLD, on_done);
    ck_assert_int_eq(printed("hie_callers_waiting"), 3);
    publish(id, "the reply");
    ck_assert_str_eq(first.body, "the reply");
    ck_assert_str_eq(first.type, "text/plain");
    ck_assert_str_eq(second.body, "the reply");
    ck_assert_uint_eq(other.told, 0);
    publish(id, "a repeat"); /* nobody waits any more */
    publish(uuid_new(1), "of somebody else");
    ck_assert_uint_eq(told_count, 2);
    ck_assert_int_eq(printed("hie_callers_waiting"), 1);
    ck_assert_int_eq(printed("hie_replies_found_total"), 0);
    callers_remove(&callers, &other.caller);
    callers_remove(&callers, &other.caller); /* waits for nothing: nothing happens */
    expect_forgotten();
    turn_for(50);
    ck_assert_uint_eq(fake_store_pending(&store) + fake_queue_pending(&queue), 0);
}
END_TEST

START_TEST(a_failure_is_told_with_its_reason)
{
    struct one one;
    struct queue_reply reply = {.status = "dead_lettered", .error = "no rule holds"};
    reply.id = add(&one, CALLER_TOLD, 60000);
    callers_replied(&callers, &reply);
    ck_assert_str_eq(one.status, "dead_lettered");
    ck_assert_str_eq(one.error, "no rule holds");
    expect_forgotten();
}
END_TEST

START_TEST(a_reply_left_out_of_its_publication_is_fetched_at_once)
{
    struct one one;
    struct uuid id = add(&one, CALLER_TOLD, 60000);
    struct queue_reply reply = {.id = id, .status = "completed", .left_out = true};
    callers_replied(&callers, &reply);
    ck_assert_uint_eq(told_count, 0);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "a large one");
    ck_assert_str_eq(one.body, "a large one");
    ck_assert_str_eq(one.type, "text/x");
    fake_queue_end(&queue);
    expect_forgotten();
}
END_TEST

START_TEST(one_left_out_while_it_is_looked_for_is_looked_for_again)
{
    struct one one;
    struct uuid id = add(&one, CALLER_LOOKS, 60000);
    struct queue_reply reply = {.id = id, .status = "completed", .left_out = true};
    struct fake_store_call *early = asked(FAKE_ENDED);
    callers_replied(&callers, &reply);
    fake_store_answer_flags(early, &fake_ok, (const bool[]){false}); /* asked before its end */
    say_keys(NULL);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "x");
    ck_assert_uint_eq(one.told, 1);
    expect_forgotten();
}
END_TEST

START_TEST(telling_one_may_remove_another)
{
    struct one pair[2], stranger;
    struct uuid id = add(&pair[0], CALLER_TOLD, 60000);
    pair[1] = (struct one){0};
    callers_add(&callers, &pair[1].caller, item_a, id, 60000, CALLER_TOLD, on_done);
    pair[0].removes = &pair[1];
    pair[1].removes = &pair[0];
    publish(id, "x");
    ck_assert_uint_eq(told_count, 1);
    expect_forgotten();
    /* The same when their time is up, and across messages. */
    add(&pair[0], CALLER_TOLD, 0);
    add(&pair[1], CALLER_TOLD, 0);
    add(&stranger, CALLER_TOLD, 60000);
    pair[0].removes = &pair[1];
    pair[1].removes = &pair[0];
    RUN_LOOP_UNTIL(loop, told_count == 2);
    turn_for(50);
    ck_assert_uint_eq(told_count, 2);
    callers_remove(&callers, &stranger.caller);
    fake_store_end(&store);
    fake_queue_end(&queue);
}
END_TEST

/* ---- what was missed ---- */

START_TEST(a_last_look_finds_what_was_missed)
{
    struct one one;
    add(&one, CALLER_TOLD, 1000);
    say_ended(true);
    ck_assert_uint_eq(told_count, 0);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "found");
    ck_assert_int_eq(one.outcome, CALLER_ENDED);
    ck_assert_str_eq(one.body, "found");
    ck_assert_int_eq(printed("hie_replies_found_total"), 1);
    expect_forgotten();
}
END_TEST

START_TEST(a_failure_that_was_missed_has_its_reason)
{
    struct one one;
    add(&one, CALLER_TOLD, 200);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "dead_lettered", "the receiver said no");
    ck_assert_str_eq(one.status, "dead_lettered");
    ck_assert_str_eq(one.error, "the receiver said no");
    expect_forgotten();
}
END_TEST

START_TEST(without_a_reply_it_is_empty)
{
    struct one one;
    add(&one, CALLER_LOOKS, 60000);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), NULL);
    ck_assert_str_eq(one.status, "completed");
    ck_assert_str_eq(one.body, "");
    ck_assert(!one.left_out);
}
END_TEST

START_TEST(the_key_serves_what_the_store_does_not_have)
{
    struct one one;
    add(&one, CALLER_TOLD, 200);
    say_ended(false);
    say_keys("under its key");
    ck_assert_str_eq(one.body, "under its key");
    ck_assert_str_eq(one.type, "");
    expect_forgotten();
}
END_TEST

START_TEST(the_key_serves_while_the_database_is_away)
{
    struct one one;
    callers_link_changed(&callers, true, false);
    add(&one, CALLER_TOLD, 200);
    say_keys("under its key");
    ck_assert_str_eq(one.body, "under its key");
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    expect_forgotten();
}
END_TEST

START_TEST(of_a_forgotten_message_the_key_is_read)
{
    struct one kept, lost;
    add(&kept, CALLER_LOOKS, 60000);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, NULL, NULL);
    say_keys("kept");
    ck_assert_str_eq(kept.body, "kept");
    add(&lost, CALLER_LOOKS, 60000);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, NULL, NULL);
    say_keys(NULL);
    ck_assert_str_eq(lost.status, "completed");
    ck_assert(lost.left_out);
    expect_forgotten();
}
END_TEST

/* A look that finds the end alone, and what is under its key. The worker's clock is far behind ours. */
static void look_at_end(const char *key)
{
    struct store_record record = {
        .state = "completed", .forgotten = true, .finished_us = clock_wall_us() - 3600000000};
    say_ended(true);
    struct fake_store_call *call = asked(FAKE_FIND);
    ((store_found *)call->done)(call->arg, &fake_ok, &record);
    free(call);
    say_keys(key);
}

/* The end alone is left, and the key is written behind it. */
START_TEST(of_an_end_alone_the_key_is_read)
{
    struct one one;
    add(&one, CALLER_LOOKS, 60000);
    look_at_end(NULL); /* not there yet */
    look_at_end(NULL);
    ck_assert_uint_eq(one.told, 0);
    look_at_end("under its key");
    ck_assert_str_eq(one.body, "under its key");
    ck_assert(!one.left_out);
    expect_forgotten();
    int64_t before_ms = clock_mono_ms();
    add(&one, CALLER_LOOKS, 60000);
    while (!one.told)
        look_at_end(NULL);
    ck_assert_int_ge(clock_mono_ms() - before_ms, 2900);
    ck_assert_str_eq(one.status, "completed");
    ck_assert(one.left_out);
    expect_forgotten();
}
END_TEST

START_TEST(after_redis_was_away_all_are_looked_for)
{
    struct one told, over;
    struct uuid id = add(&told, CALLER_TOLD, 60000);
    add(&over, CALLER_TOLD, 60000);
    callers_link_changed(&callers, false, true);
    turn_for(50);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    callers_link_changed(&callers, true, true);
    struct fake_store_call *call = asked(FAKE_ENDED);
    ck_assert_uint_eq(call->count, 2);
    bool flags[2] = {uuid_equal(call->ids[0], id), uuid_equal(call->ids[1], id)};
    fake_store_answer_flags(call, &fake_ok, flags);
    say_keys(NULL);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "x");
    ck_assert_uint_eq(told.told, 1);
    ck_assert_uint_eq(over.told, 0);
    callers_remove(&callers, &over.caller);
    expect_forgotten();
}
END_TEST

START_TEST(who_waits_for_long_is_looked_for_more_and_more_rarely)
{
    struct one one;
    int64_t from = clock_mono_ms();
    add(&one, CALLER_TOLD, 60000);
    turn_for(500);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* most are told within that */
    say_ended(false);
    say_keys(NULL);
    ck_assert_int_ge(clock_mono_ms() - from, 900);
    turn_for(500);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "x");
    ck_assert_uint_eq(one.told, 1);
}
END_TEST

START_TEST(whom_nobody_tells_is_looked_for_soon_and_often)
{
    struct one one;
    int64_t from = clock_mono_ms();
    struct uuid id = add(&one, CALLER_LOOKS, 60000);
    for (int i = 0; i < 4; i++) {
        say_ended(false);
        say_keys(NULL);
    }
    ck_assert_int_lt(clock_mono_ms() - from, 900);
    publish(id, "x");
    ck_assert_uint_eq(one.told, 1); /* a publication may come all the same */
    ck_assert_int_eq(printed("hie_replies_found_total"), 0);
}
END_TEST

START_TEST(who_only_wants_the_end_gets_no_reply)
{
    struct one one;
    add(&one, CALLER_ENDS, 60000);
    say_ended(true);
    ck_assert_uint_eq(one.told, 1);
    ck_assert_int_eq(one.outcome, CALLER_ENDED);
    fake_queue_end(&queue);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    expect_forgotten();
}
END_TEST

START_TEST(an_item_that_is_no_more_has_no_key)
{
    struct one one = {0};
    callers_add(&callers, &one.caller, NULL, uuid_new(1), 100, CALLER_LOOKS, on_done);
    say_ended(false);
    ck_assert_uint_eq(fake_queue_pending(&queue), 0);
    fake_store_end(&store);
    RUN_LOOP_UNTIL(loop, one.told == 1 || (fake_store_end(&store), false));
    ck_assert_int_eq(one.outcome, CALLER_LATE);
}
END_TEST

START_TEST(keys_are_read_item_by_item)
{
    struct one list[6];
    struct body none[CALLERS_LOOK_MAX] = {{0}};
    size_t seen = 0;
    for (size_t i = 0; i < 6; i++) {
        list[i] = (struct one){0};
        callers_add(&callers, &list[i].caller, i % 2 ? item_b : item_a, uuid_new(1), 60000,
                    CALLER_LOOKS, on_done);
    }
    bool flags[6] = {true, true};
    struct uuid ended[2];
    struct fake_store_call *call = asked(FAKE_ENDED);
    ck_assert_uint_eq(call->count, 6);
    ended[0] = call->ids[0];
    ended[1] = call->ids[1];
    fake_store_answer_flags(call, &fake_ok, flags);
    ck_assert_uint_eq(fake_queue_pending(&queue), 2);
    for (int i = 0; i < 2; i++) {
        struct fake_queue_call *keys = fake_queue_take(&queue, FAKE_READ_REPLIES);
        seen += keys->count;
        for (size_t j = 0; j < keys->count; j++)
            ck_assert(!uuid_equal(keys->ids[j], ended[0]) && !uuid_equal(keys->ids[j], ended[1]));
        fake_queue_answer_replies(keys, &fake_ok, none);
    }
    ck_assert_uint_eq(seen, 4);
    for (int i = 0; i < 2; i++) {
        struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
        ck_assert(uuid_equal(find->id, ended[0]) || uuid_equal(find->id, ended[1]));
        say_found(find, &fake_ok, "expired", "x");
    }
    ck_assert_uint_eq(told_count, 2);
    for (size_t i = 0; i < 6; i++)
        callers_remove(&callers, &list[i].caller);
}
END_TEST

/* ---- time ---- */

START_TEST(with_everything_away_the_time_is_up_all_the_same)
{
    struct one one, early;
    callers_link_changed(&callers, false, false);
    int64_t from = clock_mono_ms();
    add(&one, CALLER_TOLD, 300);
    add(&early, CALLER_LOOKS, 0);
    RUN_LOOP_UNTIL(loop, one.told == 1);
    ck_assert_int_eq(one.outcome, CALLER_LATE);
    ck_assert_int_eq(early.outcome, CALLER_LATE);
    ck_assert_int_ge(clock_mono_ms() - from, 300);
    ck_assert_uint_eq(fake_store_pending(&store) + fake_queue_pending(&queue), 0);
    expect_forgotten();
    publish(uuid_new(1), "late");
}
END_TEST

START_TEST(a_server_that_does_not_answer_holds_nobody)
{
    struct one one;
    add(&one, CALLER_TOLD, 200);
    struct fake_store_call *call = asked(FAKE_ENDED);
    RUN_LOOP_UNTIL(loop, one.told == 1);
    ck_assert_int_eq(one.outcome, CALLER_LATE);
    fake_store_answer_flags(call, &fake_ok, (const bool[]){true}); /* too late */
    ck_assert_uint_eq(fake_store_pending(&store) + fake_queue_pending(&queue), 0);
    ck_assert_uint_eq(one.told, 1);
    expect_forgotten();
}
END_TEST

/* 21 s lie in the same slot of the wheel as half a second. */
START_TEST(a_long_time_is_not_a_short_one)
{
    struct one one;
    callers_link_changed(&callers, false, false);
    add(&one, CALLER_ENDS, CALLERS_SLOTS * CALLERS_SLOT_US / 1000 + 300);
    turn_for(600);
    ck_assert_uint_eq(one.told, 0);
    callers_remove(&callers, &one.caller);
}
END_TEST

START_TEST(errors_in_a_look_leave_the_caller_waiting)
{
    struct err away = {.code = ERR_UNAVAILABLE};
    struct one one;
    add(&one, CALLER_LOOKS, 60000);
    fake_store_answer_flags(asked(FAKE_ENDED), &away, NULL);
    fake_queue_answer_replies(keys_read(), &away, NULL);
    say_ended(true);
    say_found(asked(FAKE_FIND), &away, NULL, NULL);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    struct fake_store_call *call = asked(FAKE_REPLY);
    ((store_body_done *)call->done)(call->arg, &away, body_of(NULL, 0), slice_of(NULL, 0), false);
    free(call);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, NULL, NULL);
    fake_queue_answer_replies(keys_read(), &away, NULL);
    ck_assert_uint_eq(one.told, 0);
    say_ended(true);
    say_found(asked(FAKE_FIND), &fake_ok, "completed", NULL);
    say_reply(asked(FAKE_REPLY), "at last");
    ck_assert_str_eq(one.body, "at last");
    expect_forgotten();
}
END_TEST

/* ---- hang-ups, and publications, in each state of a look ---- */

enum moment { WHILE_ASKED, WHILE_KEYS, WHILE_FOUND, WHILE_REPLY, WHILE_KEY, MOMENTS };

/* Brings the look to the moment, lets `event` happen, and answers the rest. */
static void in_moment(enum moment moment, struct uuid id, void (*event)(struct uuid id))
{
    bool ends = moment >= WHILE_FOUND;
    struct fake_store_call *call = asked(FAKE_ENDED);
    if (moment == WHILE_ASKED)
        event(id);
    fake_store_answer_flags(call, &fake_ok, &ends);
    if (!ends) {
        struct fake_queue_call *keys = keys_read();
        if (moment == WHILE_KEYS)
            event(id);
        fake_queue_answer_replies(keys, &fake_ok, &(struct body){"x", 1});
        return;
    }
    call = asked(FAKE_FIND);
    if (moment == WHILE_FOUND)
        event(id);
    say_found(call, &fake_ok, moment == WHILE_KEY ? NULL : "completed", NULL);
    if (moment == WHILE_KEY) {
        struct fake_queue_call *keys = keys_read();
        event(id);
        fake_queue_answer_replies(keys, &fake_ok, &(struct body){"x", 1});
        return;
    }
    call = asked(FAKE_REPLY);
    if (moment == WHILE_REPLY)
        event(id);
    say_reply(call, "x");
}

static struct one moment_one;

static void hang_up(struct uuid id)
{
    (void)id;
    callers_remove(&callers, &moment_one.caller);
}

static void publish_now(struct uuid id)
{
    publish(id, "published");
}

START_TEST(who_hangs_up_is_told_nothing)
{
    struct uuid id = add(&moment_one, CALLER_LOOKS, 60000);
    in_moment((enum moment)_i, id, hang_up);
    ck_assert_uint_eq(told_count, 0);
    expect_forgotten();
}
END_TEST

START_TEST(what_is_published_during_a_look_is_told_once)
{
    struct uuid id = add(&moment_one, CALLER_TOLD, 200);
    in_moment((enum moment)_i, id, publish_now);
    ck_assert_uint_eq(told_count, 1);
    ck_assert_str_eq(moment_one.body, "published");
    ck_assert_int_eq(printed("hie_replies_found_total"), 0);
    expect_forgotten();
}
END_TEST

static struct one moment_other;

static void join(struct uuid id)
{
    hang_up(id);
    moment_other = (struct one){0};
    callers_add(&callers, &moment_other.caller, item_a, id, 60000, CALLER_LOOKS, on_done);
}

START_TEST(who_comes_during_a_look_gets_its_result)
{
    struct uuid id = add(&moment_one, CALLER_LOOKS, 60000);
    in_moment((enum moment)_i, id, join);
    ck_assert_uint_eq(moment_one.told, 0);
    ck_assert_uint_eq(moment_other.told, 1);
    expect_forgotten();
}
END_TEST

/* ---- ends of the dispatcher ---- */

START_TEST(a_drain_ends_long_polls_alone)
{
    struct one poll_one, waits, late;
    struct uuid id = add(&waits, CALLER_TOLD, 60000);
    add(&poll_one, CALLER_ENDS, 60000);
    callers_drain(&callers);
    ck_assert_uint_eq(told_count, 0); /* never from inside */
    RUN_LOOP_UNTIL(loop, poll_one.told == 1);
    ck_assert_int_eq(poll_one.outcome, CALLER_STOPPED);
    add(&late, CALLER_ENDS, 60000);
    ck_assert_uint_eq(late.told, 0);
    RUN_LOOP_UNTIL(loop, late.told == 1);
    ck_assert_int_eq(late.outcome, CALLER_STOPPED);
    publish(id, "x");
    ck_assert_str_eq(waits.body, "x");
    fake_store_end(&store);
    fake_queue_end(&queue);
}
END_TEST

START_TEST(a_stop_tells_everybody)
{
    struct one list[3], late;
    for (size_t i = 0; i < 3; i++)
        add(&list[i], CALLER_TOLD, 60000);
    callers_drain(&callers);
    turn_for(50);
    ck_assert_uint_eq(told_count, 0);
    callers_stop(&callers);
    RUN_LOOP_UNTIL(loop, told_count == 3);
    ck_assert_int_eq(list[0].outcome, CALLER_STOPPED);
    add(&late, CALLER_TOLD, 60000);
    RUN_LOOP_UNTIL(loop, late.told == 1);
    ck_assert_int_eq(late.outcome, CALLER_STOPPED);
    expect_forgotten();
}
END_TEST

/* ---- ten thousand ---- */

enum { MANY = 10000 };

START_TEST(ten_thousand_wait_and_each_gets_its_own)
{
    struct one *list = mem_array(MANY, sizeof(*list));
    struct uuid *ids = mem_array(MANY, sizeof(*ids));
    for (size_t i = 0; i < MANY; i++)
        ids[i] = add(&list[i], CALLER_TOLD, 30000 + (int64_t)i);
    ck_assert_int_eq(printed("hie_callers_waiting"), MANY);
    for (size_t i = 0; i < MANY; i += 3)
        callers_remove(&callers, &list[i].caller);
    for (size_t i = MANY; i-- > 0;) {
        char body[24];
        snprintf(body, sizeof(body), "%zu", i);
        publish(ids[i], body);
        ck_assert_uint_eq(list[i].told, i % 3 != 0);
        if (i % 3)
            ck_assert_str_eq(list[i].body, body);
    }
    expect_forgotten();
    free(list);
    free(ids);
}
END_TEST

START_TEST(ten_thousand_missed_are_found_in_batches)
{
    struct one *list = mem_array(MANY, sizeof(*list));
    bool flags[CALLERS_LOOK_MAX];
    struct fake_store_call *call;
    for (size_t i = 0; i < CALLERS_LOOK_MAX; i++)
        flags[i] = true;
    for (size_t i = 0; i < MANY; i++)
        add(&list[i], CALLER_TOLD, 60000);
    callers_link_changed(&callers, false, true);
    callers_link_changed(&callers, true, true);
    RUN_LOOP_UNTIL(loop, !TAILQ_EMPTY(&store.calls));
    while ((call = TAILQ_FIRST(&store.calls))) { /* the next follows at once */
        TAILQ_REMOVE(&store.calls, call, link);
        ck_assert_uint_le(fake_store_pending(&store), CALLERS_LOOK_MAX);
        if (call->op == FAKE_ENDED) {
            ck_assert_uint_eq(fake_store_pending(&store), 0); /* one look at a time */
            ck_assert_uint_le(call->count, CALLERS_LOOK_MAX);
            fake_store_answer_flags(call, &fake_ok, flags);
        } else if (call->op == FAKE_FIND) {
            say_found(call, &fake_ok, "completed", NULL);
        } else {
            say_reply(call, "found");
        }
    }
    ck_assert_uint_eq(told_count, MANY);
    ck_assert_int_eq(printed("hie_replies_found_total"), MANY);
    expect_forgotten();
    free(list);
}
END_TEST

START_TEST(ten_thousand_are_late_together)
{
    struct one *list = mem_array(MANY, sizeof(*list));
    callers_link_changed(&callers, false, false);
    for (size_t i = 0; i < MANY; i++)
        add(&list[i], i % 2 ? CALLER_TOLD : CALLER_LOOKS, 100);
    RUN_LOOP_UNTIL(loop, told_count == MANY);
    for (size_t i = 0; i < MANY; i++)
        ck_assert(list[i].told == 1 && list[i].outcome == CALLER_LATE);
    expect_forgotten();
    free(list);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("callers");
    TCase *cases = tcase_create("callers");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_publication_tells_all_who_wait);
    tcase_add_test(cases, a_failure_is_told_with_its_reason);
    tcase_add_test(cases, a_reply_left_out_of_its_publication_is_fetched_at_once);
    tcase_add_test(cases, one_left_out_while_it_is_looked_for_is_looked_for_again);
    tcase_add_test(cases, telling_one_may_remove_another);
    tcase_add_test(cases, a_last_look_finds_what_was_missed);
    tcase_add_test(cases, a_failure_that_was_missed_has_its_reason);
    tcase_add_test(cases, without_a_reply_it_is_empty);
    tcase_add_test(cases, the_key_serves_what_the_store_does_not_have);
    tcase_add_test(cases, the_key_serves_while_the_database_is_away);
    tcase_add_test(cases, of_a_forgotten_message_the_key_is_read);
    tcase_add_test(cases, of_an_end_alone_the_key_is_read);
    tcase_add_test(cases, after_redis_was_away_all_are_looked_for);
    tcase_add_test(cases, who_waits_for_long_is_looked_for_more_and_more_rarely);
    tcase_add_test(cases, whom_nobody_tells_is_looked_for_soon_and_often);
    tcase_add_test(cases, who_only_wants_the_end_gets_no_reply);
    tcase_add_test(cases, an_item_that_is_no_more_has_no_key);
    tcase_add_test(cases, keys_are_read_item_by_item);
    tcase_add_test(cases, with_everything_away_the_time_is_up_all_the_same);
    tcase_add_test(cases, a_server_that_does_not_answer_holds_nobody);
    tcase_add_test(cases, a_long_time_is_not_a_short_one);
    tcase_add_test(cases, errors_in_a_look_leave_the_caller_waiting);
    tcase_add_loop_test(cases, who_hangs_up_is_told_nothing, 0, MOMENTS);
    tcase_add_loop_test(cases, what_is_published_during_a_look_is_told_once, 0, MOMENTS);
    tcase_add_loop_test(cases, who_comes_during_a_look_gets_its_result, 0, MOMENTS);
    tcase_add_test(cases, a_drain_ends_long_polls_alone);
    tcase_add_test(cases, a_stop_tells_everybody);
    tcase_add_test(cases, ten_thousand_wait_and_each_gets_its_own);
    tcase_add_test(cases, ten_thousand_missed_are_found_in_batches);
    tcase_add_test(cases, ten_thousand_are_late_together);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
