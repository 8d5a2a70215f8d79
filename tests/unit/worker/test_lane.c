/* The lane with a fake store and queue: claiming, looking up, running, settling, publishing. */
#include "lane.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"
#include "worker.h"

#include <check.h>

static const char yaml[] =
    "production: {name: test}\n"
    "items:\n"
    "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, settings: {default: [Slow, "
    "Fast]}}\n"
    "  - {id: Slow, class: Echo, queue_type: unordered, concurrency: 2, timeout: 80,\n"
    "     retry: {max_attempts: 2, backoff: 10, max_backoff: 20}, settings: {delay: 30}}\n"
    "  - {id: Fast, class: Echo, queue_type: unordered, settings: {reject_matching: MSH}}\n"
    "  - {id: Stuck, class: Echo, queue_type: unordered, concurrency: 2, timeout: 50, settings: "
    "{delay: 60000}}\n"
    "  - {id: Mixed, class: HL7RoutingEngine, queue_type: unordered, settings: {default: Loose}}\n"
    "  - {id: Loose, class: HL7RoutingEngine, queue_type: unordered, persistence: {mode: none},\n"
    "     settings: {default: Fast}}\n";

static struct worker worker;
static struct production *production;
static struct fake_store store;
static struct fake_queue queue;

static struct lane *lane(const char *id)
{
    return worker_lane(&worker, id);
}

static struct production *parse(void)
{
    struct diagnostics diagnostics;
    struct production *parsed = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(parsed);
    return parsed;
}

static void setup(void)
{
    struct err err;
    production = parse();
    fake_store_init(&store);
    fake_queue_init(&queue);
    worker = (struct worker){.production = production,
                             .id = "test",
                             .loop = loop_new(),
                             .metrics = metrics_new(),
                             .queue = &queue.queue,
                             .store = &store.store};
    worker.env.handler.loop = worker.loop;
    worker.health = health_new(worker.metrics);
    worker.look_up_trouble.what = "look_up";
    worker.settle_trouble.what = "settle";
    worker.publish_trouble.what = "publish";
    TAILQ_INIT(&worker.fetch_waiting);
    settler_init(&worker.settler, worker.loop, &store.store);
    ownership_init(&worker.ownership, &worker);
    ck_assert_int_eq(arrange_init(&worker, &err), 0);
    worker.queue_up = worker.store_up = true;
    settler_store_changed(&worker.settler, true);
    for (size_t i = 0; i < production->item_count; i++)
        lane_links_changed(worker.lanes[i]);
    run_loop_turns(worker.loop);
}

static void teardown(void)
{
    worker.draining = worker.stopped = true;
    fake_store_end(&store);
    fake_queue_end(&queue);
    arrange_done(&worker);
    ownership_done(&worker.ownership);
    settler_done(&worker.settler);
    health_free(worker.health);
    metrics_free(worker.metrics);
    loop_free(worker.loop);
    production_free(production);
}

/* The claim that the lane of `id` has under way; the others are dropped. */
static struct fake_queue_call *claim_of(const char *id)
{
    struct fake_queue_call *call, *found = NULL;
    while ((call = fake_queue_find(&queue, FAKE_QUEUE_CLAIM))) {
        if (!found && strcmp(call->name.item, id) == 0)
            found = call;
        else
            free(call);
    }
    ck_assert_msg(found != NULL, "no claim for %s", id);
    return found;
}

/* Claims `count` entries for the lane; answers its look-up: known, not ended, that attempt. */
static void claim(const char *id, const struct uuid *ids, size_t count, int attempt)
{
    fake_queue_answer_claim(claim_of(id), ids, count);
    run_loop_turns(worker.loop);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    ck_assert_uint_eq(look_up->count, count);
    for (size_t i = 0; i < count; i++) {
        look_up->claims[i].known = true;
        look_up->claims[i].run = 1;
        look_up->claims[i].attempt = attempt;
    }
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
}

static struct fake_store_call *settled(void)
{
    RUN_LOOP_UNTIL(worker.loop, fake_store_pending(&store) > 0);
    return fake_store_take(&store, FAKE_SETTLE);
}

static void record(struct fake_store_call *call, bool recorded)
{
    for (size_t i = 0; i < call->count; i++)
        call->outcomes[i]->recorded = recorded;
    fake_store_answer(call, &fake_ok);
    run_loop_turns(worker.loop);
}

START_TEST(children_enter_before_the_parent_is_finished)
{
    struct uuid id = uuid_new(5000);
    claim("Router", &id, 1, 1);
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_COMPLETED);
    ck_assert_uint_eq(settle->outcomes[0]->child_count, 2);
    ck_assert_str_eq(settle->outcomes[0]->children[0].item, "Slow");
    ck_assert(uuid_equal(settle->outcomes[0]->children[1].parent, id));
    record(settle, true);
    struct fake_queue_call *slow = fake_queue_take(&queue, FAKE_ENQUEUE);
    struct fake_queue_call *fast = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_FINISH));
    fake_queue_answer_depth(slow, &fake_ok, 1);
    fake_queue_answer_depth(fast, &fake_ok, 1);
    run_loop_turns(worker.loop);
    struct fake_queue_call *finish = fake_queue_take(&queue, FAKE_FINISH);
    ck_assert(uuid_equal(finish->pointers[0]->id, id));
    fake_queue_answer(finish, &fake_ok);
    ck_assert_uint_eq(lane("Router")->held, 0);
}
END_TEST

/* The lane is of an older version than the one under which the handler ended; that one goes before the settle. */
START_TEST(children_outlive_the_version_they_were_made_under)
{
    struct uuid id = uuid_new(5000);
    struct err away = {.code = ERR_UNAVAILABLE};
    worker.production = parse();
    claim("Router", &id, 1, 1);
    fake_store_answer(settled(), &away); /* it is encoded anew below */
    production_free(worker.production);
    worker.production = production;
    struct fake_store_call *settle = settled();
    ck_assert_str_eq(settle->outcomes[0]->children[0].item, "Slow");
    record(settle, true);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert_str_eq(enqueue->name.item, "Slow");
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
}
END_TEST

START_TEST(claims_no_more_than_free_slots)
{
    struct uuid ids[2] = {uuid_new(5000), uuid_new(5000)};
    struct fake_queue_call *call = claim_of("Slow");
    ck_assert_uint_eq(call->count, 2); /* concurrency */
    fake_queue_answer_claim(call, ids, 2);
    lane_wake(lane("Slow"), 0);
    run_loop_turns(worker.loop);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_QUEUE_CLAIM));
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    for (size_t i = 0; i < 2; i++)
        look_up->claims[i] =
            (struct store_claim){.id = ids[i], .known = true, .run = 1, .attempt = 1};
    fake_store_answer(look_up, &fake_ok);
    lane_wake(lane("Slow"), 0);
    run_loop_turns(worker.loop);
    ck_assert_uint_eq(lane("Slow")->running_count, 2);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_QUEUE_CLAIM));
    struct fake_store_call *settle = settled(); /* a slot is free, though nothing is recorded */
    run_loop_turns(worker.loop);
    struct fake_queue_call *next = claim_of("Slow");
    ck_assert_uint_ge(next->count, 1);
    ck_assert_uint_le(next->count, 2);
    fake_queue_answer_claim(next, NULL, 0);
    record(settle, true);
}
END_TEST

/* The oldest of that kind for the lane of `id`; NULL: there is none. */
static struct fake_queue_call *call_for(enum fake_queue_op op, const char *id)
{
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &queue.calls, link)
    {
        if (call->op == op && strcmp(call->name.item, id) == 0)
            break;
    }
    return call;
}

START_TEST(a_take_over_leaves_room_for_a_claim_under_way)
{
    struct uuid ids[2] = {uuid_new(5000), uuid_new(5000)};
    struct fake_queue_call *call = claim_of("Slow");
    RUN_LOOP_UNTIL(worker.loop, call_for(FAKE_PROMOTE, "Slow")); /* the sweep */
    run_loop_turns(worker.loop);
    ck_assert_ptr_null(call_for(FAKE_TAKEOVER, "Slow"));
    fake_queue_answer_claim(call, ids, 1);
    run_loop_turns(worker.loop);
    RUN_LOOP_UNTIL(worker.loop, call_for(FAKE_TAKEOVER, "Slow"));
    ck_assert_uint_eq(call_for(FAKE_TAKEOVER, "Slow")->count, 1);
}
END_TEST

START_TEST(a_final_error_is_a_dead_letter)
{
    struct uuid id = uuid_new(5000);
    claim("Fast", &id, 1, 1);
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_DEAD_LETTERED);
    ck_assert_ptr_nonnull(settle->outcomes[0]->error);
    record(settle, true);
    fake_queue_answer(fake_queue_take(&queue, FAKE_BURY), &fake_ok);
    run_loop_turns(worker.loop);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(lane("Fast")->held, 0);
}
END_TEST

START_TEST(a_timeout_is_retried_then_buried)
{
    struct uuid id = uuid_new(5000);
    claim("Stuck", &id, 1, 1);
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_RETRY);
    ck_assert_int_gt(settle->outcomes[0]->due_ms, clock_wall_ms());
    record(settle, true);
    struct fake_queue_call *retry = fake_queue_take(&queue, FAKE_RETRY);
    ck_assert(uuid_equal(retry->retries[0].id, id));
    fake_queue_answer(retry, &fake_ok);
    ck_assert_uint_eq(lane("Stuck")->held, 0);
}
END_TEST

START_TEST(the_last_attempt_is_a_dead_letter)
{
    struct uuid id = uuid_new(5000);
    claim("Stuck", &id, 1, 5);
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_DEAD_LETTERED);
    record(settle, true);
}
END_TEST

START_TEST(a_death_of_ours_makes_no_dead_letter)
{
    struct uuid id = uuid_new(5000);
    claim("Slow", &id, 1, 3); /* of two: its workers died */
    ck_assert_uint_eq(lane("Slow")->running_count, 1);
    record(settled(), true);
}
END_TEST

START_TEST(poison_is_not_run_again)
{
    struct uuid id = uuid_new(5000);
    claim("Slow", &id, 1, 2 + 4 + 1); /* they died again and again */
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_DEAD_LETTERED);
    record(settle, true);
}
END_TEST

START_TEST(children_of_a_parent_with_rows_are_rows)
{
    struct uuid id = uuid_new(5000);
    struct meta meta;
    struct err err;
    claim("Mixed", &id, 1, 1);
    struct fake_store_call *settle = settled();
    ck_assert_uint_eq(settle->outcomes[0]->child_count, 1); /* though Loose keeps nothing */
    ck_assert_int_eq(meta_unpack(settle->outcomes[0]->children[0].meta, &meta, &err), 0);
    ck_assert(meta.in_wal);
    record(settle, true);
}
END_TEST

/* One of an item that keeps nothing, whose child then waits to be enqueued. */
static struct fake_queue_call *claim_loose(const struct uuid *id)
{
    fake_queue_answer_claim(claim_of("Loose"), id, 1);
    run_loop_turns(worker.loop);
    return fake_queue_take(&queue, FAKE_ENQUEUE);
}

static struct fake_queue_call *next_enqueue(void)
{
    struct fake_queue_call *call = NULL;
    RUN_LOOP_UNTIL(worker.loop, call || (call = fake_queue_find(&queue, FAKE_ENQUEUE)));
    return call;
}

START_TEST(children_without_rows_are_never_given_up)
{
    struct uuid id = uuid_new(5000);
    struct err full = {.code = ERR_UNAVAILABLE, .text = "redis answered OOM"};
    struct fake_queue_call *enqueue = claim_loose(&id);
    for (int i = 0; i < 13; i++) {
        fake_queue_answer_depth(enqueue, &full, 0);
        enqueue = next_enqueue();
        ck_assert_ptr_null(fake_queue_find(&queue, FAKE_FINISH));
    }
    ck_assert(!health_ready(worker.health));
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    run_loop_turns(worker.loop);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(lane("Loose")->held, 0);
}
END_TEST

static void break_link(void)
{
    for (int up = 0; up <= 1; up++) {
        worker.queue_up = up;
        for (size_t i = 0; i < production->item_count; i++)
            lane_links_changed(worker.lanes[i]);
    }
    run_loop_turns(worker.loop);
}

START_TEST(a_broken_link_is_no_reason_to_give_up)
{
    struct uuid id = uuid_new(5000);
    struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    claim("Router", &id, 1, 1);
    record(settled(), true);
    for (int i = 0; i < 20; i++) {
        fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
        fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &lost, 0);
        break_link();
    }
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_FINISH));
}
END_TEST

START_TEST(a_superseded_end_publishes_nothing)
{
    struct uuid id = uuid_new(5000);
    claim("Router", &id, 1, 1);
    record(settled(), false);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_ENQUEUE));
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_FINISH));
    ck_assert_uint_eq(lane("Router")->held, 0);
}
END_TEST

START_TEST(what_has_its_end_is_not_run_again)
{
    struct uuid id = uuid_new(5000), child = uuid_child(id, 1, 0, 0);
    fake_queue_answer_claim(claim_of("Router"), &id, 1);
    run_loop_turns(worker.loop);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    look_up->claims[0].known = look_up->claims[0].ended = true;
    fake_store_answer(look_up, &fake_ok);
    /* Its child may not have been published. */
    struct fake_store_call *children = fake_store_take(&store, FAKE_CHILDREN);
    struct store_unfinished row = {
        .message = {.id = child, .parent = id, .item = "Fast", .body = body_of("x", 1)},
        .body_len = 1};
    store_rows *done = (store_rows *)children->done;
    done(children->arg, &fake_ok, &row, 1);
    free(children);
    run_loop_turns(worker.loop);
    struct fake_queue_call *enqueue = fake_queue_take(&queue, FAKE_ENQUEUE);
    ck_assert(uuid_equal(enqueue->entries[0].id, child));
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
    run_loop_turns(worker.loop);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(lane("Router")->held, 0);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_direct_producers_entry_is_adopted_first)
{
    struct uuid id = uuid_new(5000);
    fake_queue_answer_claim(claim_of("Router"), &id, 1);
    run_loop_turns(worker.loop);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    look_up->claims[0].run = look_up->claims[0].attempt = 1;
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
    struct fake_store_call *adopt = fake_store_take(&store, FAKE_ADOPT);
    ck_assert(uuid_equal(adopt->messages[0]->id, id));
    ck_assert_str_eq(adopt->messages[0]->item, "Router");
    fake_store_answer(adopt, &fake_ok);
    record(settled(), true);
}
END_TEST

START_TEST(a_settle_that_failed_is_repeated)
{
    struct uuid id = uuid_new(5000);
    struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    claim("Router", &id, 1, 1);
    fake_store_answer(settled(), &lost);
    record(settled(), true);
    fake_queue_answer_depth(fake_queue_take(&queue, FAKE_ENQUEUE), &fake_ok, 1);
}
END_TEST

/* Makes the entries of a claim say that their bodies are in the store. */
static void answer_stored_claim(const char *id, const struct uuid *ids, size_t count)
{
    static char packed[64];
    static struct buffer meta;
    meta = (struct buffer){.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    meta_pack(&(struct meta){.in_wal = true, .stored = true}, &meta);
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    claimed->entries = mem_array(count, sizeof(*claimed->entries));
    claimed->count = count;
    claimed->references = 1;
    for (size_t i = 0; i < count; i++)
        claimed->entries[i] = (struct queue_entry){
            .id = ids[i], .entry_id = {(char)('a' + i)}, .meta = buffer_slice(&meta)};
    struct fake_queue_call *call = claim_of(id);
    ((queue_claim_done *)call->done)(call->arg, &fake_ok, claimed);
    free(call);
    run_loop_turns(worker.loop);
}

START_TEST(a_stored_body_nobody_knows_is_a_dead_letter)
{
    struct uuid id = uuid_new(5000);
    answer_stored_claim("Fast", &id, 1);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    look_up->claims[0].run = look_up->claims[0].attempt = 1; /* not known */
    fake_store_answer(look_up, &fake_ok);
    struct fake_store_call *settle = settled();
    ck_assert_int_eq(settle->outcomes[0]->end, STORE_DEAD_LETTERED);
    record(settle, true);
}
END_TEST

START_TEST(large_bodies_wait_for_room)
{
    struct uuid ids[8];
    for (size_t i = 0; i < 8; i++)
        ids[i] = uuid_new(5000);
    answer_stored_claim("Fast", ids, 8);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    for (size_t i = 0; i < 8; i++)
        look_up->claims[i] =
            (struct store_claim){.id = ids[i], .known = true, .run = 1, .attempt = 1};
    fake_store_answer(look_up, &fake_ok);
    size_t asked = fake_store_pending(&store);
    ck_assert_uint_eq(asked, 4); /* 64 MiB hold four of the largest */
    for (size_t i = 0; i < 8; i++) {
        struct fake_store_call *call = fake_store_take(&store, FAKE_BODY);
        ((store_body_done *)call->done)(call->arg, &fake_ok, body_of("x", 1), slice_of(NULL, 0),
                                        true);
        free(call);
    }
    struct fake_store_call *settle = settled();
    ck_assert_uint_eq(settle->count, 8);
    record(settle, true);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(worker.fetch_bytes, 0);
}
END_TEST

/* A settle whose answer is lost, though it was recorded; then the look-up that follows the refused repeat. */
static struct fake_store_call *settle_twice(void)
{
    struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    fake_store_answer(settled(), &lost);
    record(settled(), false);
    return fake_store_take(&store, FAKE_CLAIM);
}

/* Answers what is asked about a message that has its end. */
static void answer_ended(struct fake_store_call *look_up, const char *state)
{
    struct store_record found = {.state = state, .attempts = 1, .error = "a reason"};
    look_up->claims[0].known = look_up->claims[0].ended = true;
    fake_store_answer(look_up, &fake_ok);
    struct fake_store_call *children = fake_store_take(&store, FAKE_CHILDREN);
    ((store_rows *)children->done)(children->arg, &fake_ok, NULL, 0);
    free(children);
    struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
    ((store_found *)find->done)(find->arg, &fake_ok, &found);
    free(find);
    run_loop_turns(worker.loop);
}

static bool completed_is(const char *item, const char *status, int count)
{
    struct buffer out;
    char line[200];
    snprintf(line, sizeof(line),
             "hie_messages_completed_total{item=\"%s\",pattern=\"async_reliable\",status=\"%s\"} %d\n",
             item, status, count);
    buffer_init(&out, 1u << 20);
    metrics_print(worker.metrics, &out);
    buffer_append_byte(&out, '\0');
    bool found = strstr(out.data, line) != NULL;
    buffer_done(&out);
    return found;
}

START_TEST(a_repeated_settle_finds_its_end)
{
    struct uuid id = uuid_new(5000);
    claim("Slow", &id, 1, 1);
    answer_ended(settle_twice(), "completed");
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(lane("Slow")->held, 0);
    ck_assert_uint_eq(lane("Slow")->starting, 0);
    ck_assert(completed_is("Slow", "completed", 1));
}
END_TEST

START_TEST(a_repeated_settle_finds_its_dead_letter)
{
    struct uuid id = uuid_new(5000);
    claim("Fast", &id, 1, 1);
    answer_ended(settle_twice(), "dead_lettered");
    struct fake_queue_call *bury = fake_queue_take(&queue, FAKE_BURY);
    ck_assert_str_eq(bury->dead[0].error, "a reason");
    fake_queue_answer(bury, &fake_ok);
    run_loop_turns(worker.loop);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &fake_ok);
    ck_assert_uint_eq(lane("Fast")->held, 0);
    ck_assert(completed_is("Fast", "dead_lettered", 1));
}
END_TEST

START_TEST(a_repeated_settle_finds_its_retry)
{
    struct uuid id = uuid_new(5000);
    claim("Stuck", &id, 1, 1);
    struct fake_store_call *look_up = settle_twice();
    look_up->claims[0].known = true;
    look_up->claims[0].run = 1;
    look_up->claims[0].attempt = 2;
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
    struct fake_queue_call *retry = fake_queue_take(&queue, FAKE_RETRY);
    ck_assert(uuid_equal(retry->retries[0].id, id));
    fake_queue_answer(retry, &fake_ok);
    ck_assert_uint_eq(lane("Stuck")->held, 0);
}
END_TEST

START_TEST(a_repeated_settle_finds_another_hand)
{
    struct uuid id = uuid_new(5000);
    claim("Stuck", &id, 1, 1);
    struct fake_store_call *look_up = settle_twice();
    look_up->claims[0] = (struct store_claim){.id = id, .known = true, .run = 1, .attempt = 3};
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
    ck_assert_ptr_null(fake_queue_find(&queue, FAKE_RETRY));
    ck_assert_uint_eq(lane("Stuck")->held, 0);
}
END_TEST

START_TEST(a_key_of_the_wrong_type_does_not_stop_the_lane)
{
    struct uuid id = uuid_new(5000);
    struct err wrong = {.code = ERR_OUTCOME_UNKNOWN, .text = "WRONGTYPE"};
    claim("Router", &id, 1, 1);
    record(settled(), true);
    struct fake_queue_call *finish = NULL;
    for (int i = 0; i < 40 && !finish; i++) { /* its children are the reconciler's in the end */
        struct fake_queue_call *enqueue;
        RUN_LOOP_UNTIL(worker.loop, fake_queue_pending(&queue) > 0);
        while ((enqueue = fake_queue_find(&queue, FAKE_ENQUEUE)))
            fake_queue_answer_depth(enqueue, &wrong, 0);
        run_loop_turns(worker.loop);
        finish = fake_queue_find(&queue, FAKE_FINISH);
        while ((enqueue = fake_queue_find(&queue, FAKE_QUEUE_CLAIM)))
            fake_queue_answer_claim(enqueue, NULL, 0);
        fake_queue_end(&queue);
    }
    ck_assert_ptr_nonnull(finish);
    ck_assert(worker.publish_trouble.on);
    ck_assert(!health_ready(worker.health));
    fake_queue_answer(finish, &fake_ok);
    ck_assert(!worker.publish_trouble.on);
    ck_assert_uint_eq(lane("Router")->held, 0);
}
END_TEST

START_TEST(everything_is_renewed_when_redis_is_back)
{
    struct uuid id = uuid_new(5000);
    claim("Stuck", &id, 1, 1);
    fake_queue_end(&queue);
    lane_links_changed(lane("Stuck"));
    struct fake_queue_call *renew = fake_queue_take(&queue, FAKE_RENEW);
    ck_assert_uint_eq(renew->count, 1);
    fake_queue_answer(renew, &fake_ok);
    record(settled(), true); /* its timeout */
}
END_TEST

START_TEST(a_finish_that_failed_is_repeated)
{
    struct uuid id = uuid_new(5000);
    struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    claim("Slow", &id, 1, 1);
    record(settled(), true);
    fake_queue_answer(fake_queue_take(&queue, FAKE_FINISH), &lost);
    struct fake_queue_call *again = NULL;
    RUN_LOOP_UNTIL(worker.loop, again || (again = fake_queue_find(&queue, FAKE_FINISH)) != NULL);
    fake_queue_answer(again, &fake_ok);
    ck_assert_uint_eq(lane("Slow")->held, 0);
}
END_TEST

START_TEST(nothing_is_claimed_while_a_link_is_down)
{
    fake_queue_end(&queue);
    struct lane *slow = lane("Slow");
    worker.store_up = false;
    lane_links_changed(slow);
    lane_wake(slow, 0);
    run_loop_turns(worker.loop);
    ck_assert(!lane_is_claiming(slow));
}
END_TEST

static void end_unstarted(struct executor *executor, struct job *job)
{
    struct err err = {.code = ERR_UNAVAILABLE};
    (void)executor;
    job->unstarted = true;
    job->ended(job, &err);
}

START_TEST(what_no_handler_could_be_had_for_goes_back)
{
    struct uuid id = uuid_new(5000);
    static struct executor_ops ops;
    ops = *lane("Slow")->executor->ops;
    ops.start = end_unstarted;
    lane("Slow")->executor->ops = &ops;
    claim("Slow", &id, 1, 2); /* of two */
    fake_queue_answer(fake_queue_take(&queue, FAKE_HAND_BACK), &fake_ok);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
}
END_TEST

START_TEST(a_drain_hands_back_what_was_not_started)
{
    struct uuid id = uuid_new(5000);
    fake_queue_answer_claim(claim_of("Slow"), &id, 1);
    worker.draining = true;
    run_loop_turns(worker.loop);
    struct fake_store_call *look_up = fake_store_take(&store, FAKE_CLAIM);
    look_up->claims[0] = (struct store_claim){.id = id, .known = true, .run = 1, .attempt = 1};
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
    struct fake_queue_call *back = fake_queue_take(&queue, FAKE_HAND_BACK);
    ck_assert_uint_eq(back->count, 1);
    fake_queue_answer(back, &fake_ok);
    ck_assert_uint_eq(lane("Slow")->held, 0);
}
END_TEST

START_TEST(what_still_runs_at_the_end_of_a_drain_goes_back)
{
    struct uuid id = uuid_new(5000);
    claim("Slow", &id, 1, 1);
    worker.draining = true;
    lane_give_up(lane("Slow"));
    run_loop_turns(worker.loop);
    fake_queue_answer(fake_queue_take(&queue, FAKE_HAND_BACK), &fake_ok);
    ck_assert_uint_eq(lane("Slow")->held, 0);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* no attempt was counted */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lane");
    TCase *cases = tcase_create("lane");
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, children_enter_before_the_parent_is_finished);
    tcase_add_test(cases, children_outlive_the_version_they_were_made_under);
    tcase_add_test(cases, claims_no_more_than_free_slots);
    tcase_add_test(cases, a_take_over_leaves_room_for_a_claim_under_way);
    tcase_add_test(cases, a_final_error_is_a_dead_letter);
    tcase_add_test(cases, a_timeout_is_retried_then_buried);
    tcase_add_test(cases, the_last_attempt_is_a_dead_letter);
    tcase_add_test(cases, a_death_of_ours_makes_no_dead_letter);
    tcase_add_test(cases, poison_is_not_run_again);
    tcase_add_test(cases, a_stored_body_nobody_knows_is_a_dead_letter);
    tcase_add_test(cases, large_bodies_wait_for_room);
    tcase_add_test(cases, a_repeated_settle_finds_its_end);
    tcase_add_test(cases, a_repeated_settle_finds_its_dead_letter);
    tcase_add_test(cases, a_repeated_settle_finds_its_retry);
    tcase_add_test(cases, a_repeated_settle_finds_another_hand);
    tcase_add_test(cases, a_key_of_the_wrong_type_does_not_stop_the_lane);
    tcase_add_test(cases, children_of_a_parent_with_rows_are_rows);
    tcase_add_test(cases, children_without_rows_are_never_given_up);
    tcase_add_test(cases, a_broken_link_is_no_reason_to_give_up);
    tcase_add_test(cases, everything_is_renewed_when_redis_is_back);
    tcase_add_test(cases, a_superseded_end_publishes_nothing);
    tcase_add_test(cases, what_has_its_end_is_not_run_again);
    tcase_add_test(cases, a_direct_producers_entry_is_adopted_first);
    tcase_add_test(cases, a_settle_that_failed_is_repeated);
    tcase_add_test(cases, a_finish_that_failed_is_repeated);
    tcase_add_test(cases, nothing_is_claimed_while_a_link_is_down);
    tcase_add_test(cases, what_no_handler_could_be_had_for_goes_back);
    tcase_add_test(cases, a_drain_hands_back_what_was_not_started);
    tcase_add_test(cases, what_still_runs_at_the_end_of_a_drain_goes_back);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
