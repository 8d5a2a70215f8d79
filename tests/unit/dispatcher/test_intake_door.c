/* What the intake makes of a request: the row, the entry, its queue and its commit. */
#include "intake_fixture.h"
#include "intake_internal.h"

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: Fifo, class: Echo, queue_type: unordered}\n"
                           "  - {id: Urgent, class: Echo, queue_type: unordered}\n"
                           "  - {id: Small, class: Echo, queue_type: unordered}\n"
                           "  - {id: Patient, class: Echo, queue_type: unordered}\n";
static struct item_priority_value urgent = {{"ADT", 3}, 7};

static void adjust(void)
{
    struct err err;
    struct item *fifo = item_of("Fifo"), *priority = item_of("Urgent");
    fifo->queue_type = QUEUE_FIFO;
    fifo->ordering_key = (char *)"PID-3.1";
    ck_assert_int_eq(hl7_path_parse(slice_text("PID-3.1"), &fifo->ordering_path, &err), 0);
    fifo->partitions = 1024;
    priority->queue_type = QUEUE_PRIORITY;
    priority->priority.path = (char *)"MSH-9.1";
    ck_assert_int_eq(hl7_path_parse(slice_text("MSH-9.1"), &priority->priority.parsed, &err), 0);
    priority->priority.values = &urgent;
    priority->priority.value_count = 1;
    priority->priority.fallback = 2;
    item_of("Small")->persistence.batch_size = 2;
    item_of("Patient")->persistence.batch_size = 3;
    item_of("Patient")->persistence.batch_writes = true;
    production->version = 41;
}

static void setup(void)
{
    fixture_setup(yaml, adjust);
}

static struct fake_store_call *commit_of(struct intake_request request)
{
    struct err err;
    ck_assert_int_eq(accept_request(request, &err), 0);
    grant_slots();
    run_loop_turns(loop);
    return take_store(FAKE_ACCEPT);
}

START_TEST(a_row_holds_what_the_request_says)
{
    struct err err;
    struct meta meta;
    struct uuid key = uuid_new(1), fingerprint = uuid_new(2);
    intake.listener = "dispatcher-1";
    struct fake_store_call *call = commit_of((struct intake_request){
        .item = item_of("Urgent"),
        .body = body_of(hl7, strlen(hl7)),
        .content_type = SLICE_LITERAL("text/plain"),
        .ordering_key = SLICE_LITERAL("K"),
        .priority = 4,
        .deadline_ms = 123456789,
        .wait = true,
        .chain = SLICE_LITERAL("A,B"),
        .dedup_key = key,
        .dedup_fingerprint = fingerprint,
        .dedup_window_ms = INT64_MAX,
    });
    const struct store_message *row = call->messages[0];
    ck_assert_int_eq(row->priority, 4);
    ck_assert_int_eq(row->partition, -1);
    ck_assert_int_eq(row->version, 41);
    ck_assert(slice_is(row->ordering_key, "K"));
    ck_assert(uuid_equal(row->dedup_key, key) && uuid_equal(row->dedup_fingerprint, fingerprint));
    ck_assert_int_eq(row->dedup_window_ms, STORE_DEDUP_MAX_MS);
    ck_assert_int_eq(meta_unpack(row->meta, &meta, &err), 0);
    ck_assert(slice_is(meta.reply_to, "dispatcher-1") && slice_is(meta.chain, "A,B"));
    ck_assert(meta.in_wal && !meta.stored);
    ck_assert_int_eq(meta.deadline_ms, 123456789);
    fake_store_answer(call, &away);
}
END_TEST

START_TEST(the_item_says_what_the_request_leaves_open)
{
    struct err err;
    struct meta meta;
    struct intake_request request = {.item = item_of("Urgent"),
                                     .body = body_of(hl7, strlen(hl7)),
                                     .priority = INTAKE_PRIORITY_BY_ITEM};
    struct fake_store_call *call = commit_of(request);
    ck_assert_int_eq(call->messages[0]->priority, 7);
    ck_assert_uint_eq(call->messages[0]->ordering_key.len, 0);
    ck_assert_int_eq(meta_unpack(call->messages[0]->meta, &meta, &err), 0);
    ck_assert_uint_eq(meta.reply_to.len, 0); /* nobody waits */
    fake_store_answer(call, &away);
    request.body = body_of("no hl7", 6);
    call = commit_of(request);
    ck_assert_int_eq(call->messages[0]->priority, 2);
    fake_store_answer(call, &away);
    char fifo[] = "MSH|^~\\&|A|B|C|D|1||ADT^A01|1|P|2.5\rPID|1||4711^X\r";
    request = (struct intake_request){.item = item_of("Fifo"), .body = body_of(fifo, strlen(fifo))};
    call = commit_of(request);
    ck_assert(slice_is(call->messages[0]->ordering_key, "4711"));
    ck_assert_int_eq(call->messages[0]->partition,
                     (int)item_partition(request.item, SLICE_LITERAL("4711"), UUID_NONE));
    fake_store_answer(call, &away);
    request.ordering_key = SLICE_LITERAL("own"); /* wins */
    call = commit_of(request);
    ck_assert(slice_is(call->messages[0]->ordering_key, "own"));
    fake_store_answer(call, &away);
}
END_TEST

START_TEST(what_comes_with_a_message_is_bounded)
{
    struct err err;
    char *large = malloc(META_CHAIN_MAX + 1);
    memset(large, 'x', META_CHAIN_MAX + 1);
    struct intake_request request = {.item = item_of("Small"), .body = body_of("x", 1)}, bad;
    bad = request;
    bad.chain = slice_of(large, META_CHAIN_MAX + 1);
    ck_assert_int_eq(accept_request(bad, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    bad = request;
    bad.content_type = slice_of(large, META_CONTENT_TYPE_MAX + 1);
    ck_assert_int_eq(accept_request(bad, &err), -1);
    bad = request;
    bad.traceparent = slice_of(large, META_TRACEPARENT_MAX + 1);
    ck_assert_int_eq(accept_request(bad, &err), -1);
    bad = request;
    bad.ordering_key = slice_of(large, ITEM_ORDERING_KEY_MAX + 1);
    ck_assert_int_eq(accept_request(bad, &err), -1);
    request.chain = slice_of(large, META_CHAIN_MAX); /* all at their largest */
    request.content_type = slice_of(large, META_CONTENT_TYPE_MAX);
    request.traceparent = slice_of(large, META_TRACEPARENT_MAX);
    request.ordering_key = slice_of(large, ITEM_ORDERING_KEY_MAX);
    fake_store_answer(commit_of(request), &away);
    free(large);
}
END_TEST

START_TEST(each_partition_has_its_own_queue)
{
    struct err err;
    ck_assert_ptr_null(intake.items[item_of("Fifo")->index].queues); /* unused: no memory */
    static const char *const keys[] = {"a", "b", "c", "a"};
    for (size_t i = 0; i < 4; i++) {
        struct intake_request request = {
            .item = item_of("Fifo"), .body = body_of("x", 1), .ordering_key = slice_text(keys[i])};
        ck_assert_int_eq(accept_request(request, &err), 0);
    }
    grant_slots();
    run_loop_turns(loop);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 4);
    fake_store_answer(call, &fake_ok);
    run_loop_turns(loop);
    struct fake_queue_call *enqueue;
    size_t calls = 0, entries = 0;
    while ((enqueue = fake_queue_find(&queue, FAKE_ENQUEUE))) {
        ck_assert_int_eq(enqueue->name.type, QUEUE_FIFO);
        for (size_t i = 0; i < enqueue->count; i++)
            ck_assert_uint_eq(enqueue->name.partition,
                              item_partition(item_of("Fifo"), enqueue->entries[i].key, UUID_NONE));
        calls++;
        entries += enqueue->count;
        fake_queue_answer_depth(enqueue, &fake_ok, 1);
    }
    ck_assert_uint_eq(calls, 3);
    ck_assert_uint_eq(entries, 4);
    ck_assert_uint_eq(answer_count, 4);
    ck_assert_int_eq(gate_used(&intake.gate, item_of("Fifo")), 4); /* over all of them */
}
END_TEST

START_TEST(a_commit_holds_at_most_batch_size_of_an_item)
{
    struct err err;
    for (size_t i = 0; i < 5; i++)
        ck_assert_int_eq(accept_body("Small", "x", &err), 0);
    ck_assert_int_eq(accept_body("Urgent", "x", &err), 0);
    static const size_t counts[] = {3, 2, 1};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 3; j++)
            grant_slots();
        run_loop_turns(loop);
        struct fake_store_call *call = take_store(FAKE_ACCEPT);
        ck_assert_uint_eq(call->count, counts[i]);
        ck_assert_uint_eq(fake_store_pending(&store), 0);
        fake_store_answer(call, &away);
    }
    ck_assert_uint_eq(answer_count, 6);
}
END_TEST

START_TEST(a_commit_waits_for_company)
{
    take_requests("Patient", 1);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    take_requests("Patient", 1);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    take_requests("Patient", 1); /* batch_size */
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 3);
    fake_store_answer(call, &away);
    take_requests("Patient", 1);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) == 1); /* not for ever */
    fake_store_answer(take_store(FAKE_ACCEPT), &away);
}
END_TEST

START_TEST(an_item_without_patience_starts_the_commit)
{
    take_requests("Patient", 1);
    ck_assert_uint_eq(fake_store_pending(&store), 0);
    take_requests("Urgent", 2);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, 3); /* all of them */
    fake_store_answer(call, &away);
}
END_TEST

static void add(TCase *cases)
{
    tcase_add_test(cases, a_row_holds_what_the_request_says);
    tcase_add_test(cases, the_item_says_what_the_request_leaves_open);
    tcase_add_test(cases, what_comes_with_a_message_is_bounded);
    tcase_add_test(cases, each_partition_has_its_own_queue);
    tcase_add_test(cases, a_commit_holds_at_most_batch_size_of_an_item);
    tcase_add_test(cases, a_commit_waits_for_company);
    tcase_add_test(cases, an_item_without_patience_starts_the_commit);
}

int main(void)
{
    return run_cases("intake_door", add, setup, fixture_teardown);
}
