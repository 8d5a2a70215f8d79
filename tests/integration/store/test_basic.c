/* Accept, adopt, claim, settle and the look-ups, one after the other, against a real PostgreSQL. */
#include "harness.h"

#define BATCH 512

START_TEST(test_accept_in_order)
{
    struct fixture f;
    struct store_message rows[BATCH], *list[BATCH];
    open_store(&f);
    for (size_t i = 0; i < BATCH; i++) {
        rows[i] = new_message("In");
        list[i] = &rows[i];
    }
    /* Ids that do not rise: the order is that of the rows. */
    struct uuid first = rows[0].id;
    rows[0].id = rows[BATCH - 1].id;
    rows[BATCH - 1].id = first;
    accept_ok(&f, list, BATCH);
    for (size_t i = 0; i < BATCH; i++) {
        ck_assert_int_eq(rows[i].error, ERR_NONE);
        ck_assert_int_gt(rows[i].seq, i ? rows[i - 1].seq : 0);
    }
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), BATCH);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.audit WHERE event = 'accepted'"),
                     BATCH);
    close_store(&f);
}
END_TEST

START_TEST(test_known_and_adopt)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In"), b = new_message("In"),
                         c = new_message("In");
    ck_assert(is_known(&f, a.id));
    ck_assert(!is_known(&f, b.id));
    struct store_message again = a, *rows[] = {&b, &again, &c};
    ck_assert_int_eq(try_adopt(&f, rows, 3), ERR_NONE);
    ck_assert_int_gt(b.seq, a.seq);
    ck_assert_int_eq(again.seq, 0);
    ck_assert_int_eq(again.error, ERR_NONE);
    ck_assert_int_gt(c.seq, b.seq);
    ck_assert_int_eq(try_adopt(&f, rows, 3), ERR_NONE);
    ck_assert_int_eq(b.seq, 0);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.messages"), 3);
    close_store(&f);
}
END_TEST

START_TEST(test_settle_once)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In");
    struct store_claim claim = claim_one(&f, a.id, false);
    ck_assert(claim.known && !claim.ended);
    ck_assert_int_eq(claim.seq, a.seq);
    ck_assert_int_eq(claim.run, 1);
    ck_assert_int_eq(claim.attempt, 1);
    ck_assert(!is_ended(&f, a.id));

    struct store_outcome end = end_of(&a, STORE_COMPLETED, 1),
                         repeat = end_of(&a, STORE_DEAD_LETTERED, 1);
    ck_assert(settle_one(&f, &end));
    ck_assert(!settle_one(&f, &end));
    ck_assert(!settle_one(&f, &repeat));
    ck_assert(is_ended(&f, a.id));
    ck_assert(claim_one(&f, a.id, false).ended);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.audit WHERE event IN "
                                      "('completed','dead_lettered','expired','cancelled')"),
                     1);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), 0);
    close_store(&f);
}
END_TEST

START_TEST(test_retries)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In");
    struct store_outcome first = end_of(&a, STORE_RETRY, 1), late = end_of(&a, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &first));
    ck_assert(!settle_one(&f, &first));
    /* Whoever holds the first attempt still has lost it. */
    ck_assert(!settle_one(&f, &late));
    ck_assert_int_eq(claim_one(&f, a.id, false).attempt, 2);
    struct store_outcome second = end_of(&a, STORE_RETRY, 2);
    ck_assert(settle_one(&f, &second));
    ck_assert_int_eq(claim_one(&f, a.id, false).attempt, 3);
    struct store_outcome last = end_of(&a, STORE_DEAD_LETTERED, 3);
    ck_assert(settle_one(&f, &last));
    struct store_outcome beyond = end_of(&a, STORE_RETRY, 4);
    ck_assert(!settle_one(&f, &beyond));
    ck_assert_str_eq(pg_server_sql(&server, f.database,
                                   "SELECT string_agg(event || coalesce(attempt::text, ''), ' ' "
                                   "ORDER BY at, attempt) FROM hie.audit"),
                     "accepted retried1 retried2 dead_lettered3");
    ck_assert_str_eq(
        pg_server_sql(&server, f.database,
                      "SELECT item || ' ' || reason || ' ' || attempts FROM hie.dead_letters"),
        "In the receiver said no 3");
    close_store(&f);
}
END_TEST

START_TEST(test_take_over)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In"), b = accepted_message(&f, "In");
    struct store_outcome b_end = end_of(&b, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &b_end));
    struct store_claim claims[3] = {{.id = b.id, .taken_over = true},
                                    {.id = a.id, .taken_over = true},
                                    {.id = uuid_new(clock_wall_ms()), .taken_over = true}};
    claim_ok(&f, claims, 3);
    ck_assert(claims[0].known && claims[0].ended);
    ck_assert(claims[1].known && !claims[1].ended);
    ck_assert_int_eq(claims[1].attempt, 2);
    ck_assert(!claims[2].known && !claims[2].ended);
    ck_assert_int_eq(claims[2].attempt, 2); /* not written yet, but tried */
    ck_assert_int_eq(claims[1].seq, a.seq);
    ck_assert_int_eq(claims[2].seq, 0);
    /* The one that was taken for lost wakes up. */
    struct store_outcome late = end_of(&a, STORE_COMPLETED, 1), retry = end_of(&a, STORE_RETRY, 1);
    ck_assert(!settle_one(&f, &late));
    ck_assert(!settle_one(&f, &retry));
    ck_assert_int_eq(claim_one(&f, a.id, true).attempt, 3);
    struct store_outcome now = end_of(&a, STORE_COMPLETED, 3);
    ck_assert(settle_one(&f, &now));
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.audit WHERE event = 'taken_over' "
                                      "AND item = 'In' AND worker = 'worker'"),
                     2);
    close_store(&f);
}
END_TEST

/* One batch with everything in it: an end, a refused end, a retry, children of both. */
START_TEST(test_settle_mixed)
{
    struct fixture f;
    open_store(&f);
    struct store_message m[4];
    for (int i = 0; i < 4; i++)
        m[i] = accepted_message(&f, "In");
    struct store_outcome done_before = end_of(&m[1], STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &done_before));

    struct store_message children[4][2];
    struct store_outcome outcomes[4], *list[4];
    for (int i = 0; i < 4; i++) {
        outcomes[i] = end_of(&m[i], i == 2 ? STORE_RETRY : STORE_COMPLETED, 1);
        for (uint32_t j = 0; j < 2; j++) {
            children[i][j] = new_message("Out");
            children[i][j].id = uuid_child(m[i].id, 1, 0, j);
            children[i][j].parent = m[i].id;
        }
        outcomes[i].children = children[i];
        outcomes[i].child_count = i == 2 ? 0 : 2;
        list[3 - i] = &outcomes[i]; /* not in the order of the ids */
    }
    settle_ok(&f, list, 4);
    ck_assert(outcomes[0].recorded && !outcomes[1].recorded && outcomes[2].recorded &&
              outcomes[3].recorded);
    ck_assert_int_eq(children[1][0].seq, 0);
    ck_assert_int_gt(children[3][0].seq, 0);
    ck_assert_int_gt(children[3][1].seq, children[3][0].seq);
    ck_assert_int_gt(children[0][0].seq, children[3][1].seq);
    ck_assert_int_gt(children[0][1].seq, children[0][0].seq);
    /* A repeat makes no second child. */
    settle_ok(&f, list, 4);
    for (int i = 0; i < 4; i++)
        ck_assert(!outcomes[i].recorded);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.messages WHERE item = 'Out'"),
                     4);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.messages WHERE state = 'retrying'"),
                     1);
    close_store(&f);
}
END_TEST

struct found {
    int calls;
    struct err err;
    bool known;
    struct store_record record;
    char state[20], error[64], control_id[20], item[20], pattern[20], direction[20];
    struct uuid children[4];
};

static void on_found(void *arg, const struct err *err, const struct store_record *record)
{
    struct found *found = arg;
    found->calls++;
    found->err = *err;
    found->known = record;
    if (!record)
        return;
    found->record = *record;
    snprintf(found->state, sizeof(found->state), "%s", record->state);
    snprintf(found->error, sizeof(found->error), "%s", record->error ? record->error : "-");
    snprintf(found->control_id, sizeof(found->control_id), "%s", record->control_id);
    snprintf(found->item, sizeof(found->item), "%s", record->item);
    snprintf(found->pattern, sizeof(found->pattern), "%s", record->pattern);
    snprintf(found->direction, sizeof(found->direction), "%s", record->direction);
    ck_assert_uint_le(record->child_count, 4);
    memcpy(found->children, record->children, record->child_count * sizeof(struct uuid));
}

static struct found find(struct fixture *f, struct uuid id)
{
    struct found found = {0};
    CALL(f, found, find, id, on_found);
    ck_assert_int_eq(found.err.code, ERR_NONE);
    return found;
}

START_TEST(test_find)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In");
    struct found found = find(&f, a.id);
    ck_assert(found.known);
    ck_assert_str_eq(found.state, "accepted");
    ck_assert_str_eq(found.item, "In");
    ck_assert_str_eq(found.pattern, "async_reliable");
    ck_assert_str_eq(found.direction, "inbound");
    ck_assert_str_eq(found.control_id, "MSG1");
    ck_assert_str_eq(found.error, "-");
    ck_assert_int_eq(found.record.attempts, 0);
    ck_assert_int_eq(found.record.received_us, a.received_us);
    ck_assert_int_eq(found.record.finished_us, 0);
    ck_assert(uuid_is_none(found.record.parent));
    ck_assert(found.record.queue_pattern == PATTERN_ASYNC_RELIABLE && found.record.partition == -1);

    struct store_outcome retry = end_of(&a, STORE_RETRY, 1);
    ck_assert(settle_one(&f, &retry));
    found = find(&f, a.id);
    ck_assert_str_eq(found.state, "retrying");
    ck_assert_int_eq(found.record.attempts, 1);
    ck_assert_str_eq(found.error, "the receiver said no");

    struct store_message child = new_message("Out");
    child.id = uuid_child(a.id, 1, 0, 0);
    child.parent = a.id;
    child.pattern = PATTERN_SYNC_RELIABLE;
    child.partition = 3;
    struct store_outcome end = end_of(&a, STORE_COMPLETED, 2);
    end.children = &child;
    end.child_count = 1;
    ck_assert(settle_one(&f, &end));
    found = find(&f, child.id);
    ck_assert(found.record.queue_pattern == PATTERN_SYNC_RELIABLE && found.record.partition == 3);
    found = find(&f, a.id);
    ck_assert_str_eq(found.state, "completed");
    ck_assert_int_eq(found.record.attempts, 2);
    ck_assert_str_eq(found.error, "-");
    ck_assert_int_eq(found.record.finished_us, end.finished_us);
    ck_assert_uint_eq(found.record.child_count, 1);
    ck_assert(uuid_equal(found.children[0], child.id));
    found = find(&f, child.id);
    ck_assert(uuid_equal(found.record.parent, a.id));
    ck_assert(!find(&f, uuid_new(clock_wall_ms())).known);

    const enum store_end ends[] = {STORE_DEAD_LETTERED, STORE_EXPIRED, STORE_CANCELLED};
    const char *const words[] = {"dead_lettered", "expired", "cancelled"};
    for (int i = 0; i < 3; i++) {
        struct store_message m = accepted_message(&f, "In");
        struct store_outcome o = end_of(&m, ends[i], 1);
        ck_assert(settle_one(&f, &o));
        ck_assert_str_eq(find(&f, m.id).state, words[i]);
    }
    close_store(&f);
}
END_TEST

struct body_found {
    int calls;
    struct err err;
    bool found;
    char *bytes;
    size_t len;
    char type[40];
};

static void on_body(void *arg, const struct err *err, struct body body, struct slice content_type,
                    bool found)
{
    struct body_found *answer = arg;
    answer->calls++;
    answer->err = *err;
    answer->found = found;
    answer->bytes = mem_strndup(body.ptr, body.len);
    answer->len = body.len;
    snprintf(answer->type, sizeof(answer->type), "%.*s", (int)content_type.len, content_type.ptr);
}

START_TEST(test_bodies)
{
    struct fixture f;
    open_store(&f);
    size_t len = 20u << 20;
    char *big = mem_alloc(len);
    for (size_t i = 0; i < len; i++)
        big[i] = (char)random_u64();
    struct store_message small = accepted_message(&f, "In"), large = new_message("In"),
                         *rows[] = {&large};
    large.body = body_of(big, len);
    accept_ok(&f, rows, 1);

    struct body_found body = {0}, request = {0}, none = {0}, reply = {0}, empty = {0};
    CALL(&f, body, body, large.id, on_body);
    ck_assert(body.found);
    ck_assert_uint_eq(body.len, len);
    ck_assert(memcmp(body.bytes, big, len) == 0);
    CALL(&f, request, body, small.id, on_body);
    ck_assert(request.found);
    ck_assert_uint_eq(request.len, 9);
    ck_assert_str_eq(request.type, "text/plain");
    CALL(&f, none, reply, small.id, on_body);
    ck_assert(!none.found);
    struct store_outcome end = end_of(&small, STORE_COMPLETED, 1),
                         end_large = end_of(&large, STORE_COMPLETED, 1);
    end.reply = slice_of("a\0b", 3);
    end_large.reply = slice_of(NULL, 0);
    ck_assert(settle_one(&f, &end) && settle_one(&f, &end_large));
    CALL(&f, reply, reply, small.id, on_body);
    ck_assert(reply.found);
    ck_assert_uint_eq(reply.len, 3);
    ck_assert(memcmp(reply.bytes, "a\0b", 3) == 0);
    CALL(&f, empty, reply, large.id, on_body);
    ck_assert(empty.found);
    ck_assert_uint_eq(empty.len, 0);
    free(body.bytes);
    free(request.bytes);
    free(none.bytes);
    free(reply.bytes);
    free(empty.bytes);
    free(big);
    close_store(&f);
}
END_TEST

/* Text that no UTF-8 database takes as it is, and rows that it cannot take at all. */
START_TEST(test_poison)
{
    struct fixture f;
    open_store(&f);
    struct store_message before = accepted_message(&f, "In");
    struct store_message rows[64], *list[64];
    for (size_t i = 0; i < 64; i++) {
        rows[i] = new_message("In");
        list[i] = &rows[i];
    }
    const char latin1[] = {'M', (char)0xfc, 'l', 'l', 'e', 'r', '\0', (char)0xc3};
    rows[3].control_id = slice_of(latin1, sizeof(latin1));
    char longer[300];
    memset(longer, 'x', sizeof(longer));
    rows[4].sender = slice_of(longer, sizeof(longer));
    rows[17].id = before.id;   /* there already */
    rows[40].id = rows[41].id; /* twice in the batch */
    rows[50].received_us = 0;  /* no such thing */
    accept_ok(&f, list, 64);
    int64_t last = before.seq;
    for (size_t i = 0; i < 64; i++) {
        bool refused = i == 17 || i == 41 || i == 50;
        ck_assert_msg(rows[i].error == (refused ? ERR_INVALID : ERR_NONE), "row %zu", i);
        ck_assert(refused ? rows[i].seq == 0 : rows[i].seq > last);
        last = refused ? last : rows[i].seq;
    }
    char id[UUID_TEXT_LEN + 1];
    uuid_format(rows[3].id, id);
    ck_assert_str_eq(
        pg_server_sql(&server, f.database,
                      "SELECT control_id FROM hie.messages WHERE correlation_id = '%s'", id),
        "M?ller?");
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT max(length(sender)) FROM hie.messages"), 199);
    /* An outcome of the same kind. */
    struct store_outcome ends[3] = {end_of(&rows[0], STORE_COMPLETED, 1),
                                    end_of(&rows[1], STORE_COMPLETED, 1),
                                    end_of(&rows[2], STORE_COMPLETED, 1)};
    struct store_outcome *end_list[] = {&ends[0], &ends[1], &ends[2]};
    ends[1].finished_us = 0;
    settle_ok(&f, end_list, 3);
    ck_assert(ends[0].recorded && !ends[1].recorded && ends[2].recorded);
    ck_assert_int_eq(ends[1].error_code, ERR_INVALID);
    ck_assert_int_eq(ends[2].error_code, ERR_NONE);
    close_store(&f);
}
END_TEST

START_TEST(test_empty_batches)
{
    struct fixture f;
    open_store(&f);
    ck_assert_int_eq(try_accept(&f, NULL, 0), ERR_NONE);
    ck_assert_int_eq(try_settle(&f, NULL, 0), ERR_NONE);
    ck_assert_int_eq(try_claim(&f, NULL, 0), ERR_NONE);
    close_store(&f);
}
END_TEST

static void free_store(void *arg, const struct err *err)
{
    struct fixture *f = arg;
    ck_assert_int_eq(err->code, ERR_NONE);
    f->store->ops->free(f->store);
    f->store = NULL;
    f->downs++;
}

/* With calls under way, and from inside a completion. */
START_TEST(test_free)
{
    struct fixture f;
    struct answer never = {0};
    struct store_message rows[3], *list[3];
    for (int i = 0; i < 3; i++) {
        rows[i] = new_message("In");
        list[i] = &rows[i];
    }
    open_store(&f);
    for (int i = 0; i < 3; i++)
        f.store->ops->accept(f.store, &list[i], 1, on_done, &never);
    close_store(&f);
    ck_assert_int_eq(never.calls, 0);

    open_store(&f);
    f.store->ops->accept(f.store, &list[0], 1, free_store, &f);
    for (int i = 1; i < 3; i++)
        f.store->ops->accept(f.store, &list[i], 1, on_done, &never);
    run_until(f.loop, &f.downs, 0);
    run_for_ms(f.loop, 50);
    ck_assert_int_eq(never.calls, 0);
    loop_free(f.loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_basic");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_accept_in_order);
    tcase_add_test(all, test_known_and_adopt);
    tcase_add_test(all, test_settle_once);
    tcase_add_test(all, test_retries);
    tcase_add_test(all, test_take_over);
    tcase_add_test(all, test_settle_mixed);
    tcase_add_test(all, test_find);
    tcase_add_test(all, test_bodies);
    tcase_add_test(all, test_poison);
    tcase_add_test(all, test_empty_batches);
    tcase_add_test(all, test_free);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
