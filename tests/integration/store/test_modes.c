/* Messages that are written with their end only (store_only), and such as go with a good end (wal_only). */
#include "listed.h"

struct told {
    int calls;
    struct err err;
    bool found, forgotten;
    char text[80];
    int64_t received_us;
};

static void on_told(void *arg, const struct err *err, const struct store_record *record)
{
    struct told *told = arg;
    told->calls++;
    told->err = *err;
    told->found = record != NULL;
    told->forgotten = record && record->forgotten;
    if (!record)
        return;
    told->received_us = record->received_us;
    snprintf(told->text, sizeof(told->text), "%s %s %s %s %d", record->item, record->pattern,
             record->direction, record->state, record->attempts);
}

static struct told find(struct fixture *f, struct uuid id)
{
    struct told told = {0};
    CALL(f, told, find, id, on_told);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    return told;
}

static void on_body(void *arg, const struct err *err, struct body body, struct slice type,
                    bool found)
{
    struct told *told = arg;
    (void)type;
    told->calls++;
    told->err = *err;
    told->found = found;
    snprintf(told->text, sizeof(told->text), "%.*s", (int)body.len, body.len ? body.ptr : "");
}

static long accepted_rows(struct fixture *f)
{
    return pg_server_number(&server, f->database, "SELECT count(*) FROM hie.accepted");
}

static struct store_outcome whole_end(const struct store_message *message, enum store_end end,
                                      int attempt)
{
    struct store_outcome outcome = end_of(message, end, attempt);
    outcome.message = message;
    return outcome;
}

START_TEST(test_store_only)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = new_message("In");
    struct store_claim claim = claim_one(&f, m.id, false);
    ck_assert(!claim.known && !claim.ended && claim.attempt == 1);
    ck_assert(!find(&f, m.id).found);
    struct store_outcome end = whole_end(&m, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end));
    ck_assert(is_known(&f, m.id) && is_ended(&f, m.id));
    ck_assert_str_eq(find(&f, m.id).text, "In async_reliable inbound completed 1");
    ck_assert_int_eq(find(&f, m.id).received_us, m.received_us);
    struct told body = {0}, reply = {0};
    CALL(&f, body, body, m.id, on_body);
    CALL(&f, reply, reply, m.id, on_body);
    ck_assert_str_eq(body.text, "MSH|^~\\&|");
    ck_assert_str_eq(reply.text, "MSA|AA");
    ck_assert(!settle_one(&f, &end));
    ck_assert_int_eq(accepted_rows(&f), 1);
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 0);
    ck_assert_int_gt(claim_one(&f, m.id, false).seq, 0);
    close_store(&f);
}
END_TEST

/* Lost workers are counted before the store has the message; a failed attempt writes it. */
START_TEST(test_store_only_attempts)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = new_message("In");
    ck_assert_int_eq(claim_one(&f, m.id, true).attempt, 2);
    struct store_claim claim = claim_one(&f, m.id, true);
    ck_assert(!claim.known && claim.attempt == 3);
    struct store_outcome stale = whole_end(&m, STORE_COMPLETED, 2),
                         retry = whole_end(&m, STORE_RETRY, 3),
                         dead = whole_end(&m, STORE_DEAD_LETTERED, 4);
    ck_assert(!settle_one(&f, &stale));
    ck_assert_int_eq(accepted_rows(&f), 0);
    ck_assert(settle_one(&f, &retry));
    ck_assert_str_eq(find(&f, m.id).text, "In async_reliable inbound retrying 3");
    struct listed page = page_of(&f, 0, 10);
    ck_assert(page.count == 1 && page.due_ms[0] == retry.due_ms);
    claim = claim_one(&f, m.id, false);
    ck_assert(claim.known && claim.attempt == 4);
    ck_assert(settle_one(&f, &dead)); /* it brings the message again, which is there */
    ck_assert_int_eq(accepted_rows(&f), 1);
    ck_assert_str_eq(
        pg_server_sql(&server, f.database,
                      "SELECT string_agg(event || coalesce(attempt::text, ''), ' ' "
                      "ORDER BY at, attempt) FROM hie.audit WHERE event <> 'accepted'"),
        "taken_over1 taken_over2 retried3 dead_lettered4");
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.dead_letters"),
                     1);
    close_store(&f);
}
END_TEST

/* In one batch with others: ends, a retry, children, one that is refused, and under a lease that is lost. */
START_TEST(test_store_only_mixed)
{
    enum { COUNT = 8 };
    struct fixture f;
    struct store_message m[COUNT], child = new_message("Out");
    struct store_outcome outcomes[COUNT], *list[COUNT];
    open_store(&f);
    for (int i = 0; i < COUNT; i++) {
        m[i] = new_message("In");
        outcomes[i] = whole_end(&m[i], i % 3 == 1 ? STORE_RETRY : STORE_COMPLETED, 1);
        list[COUNT - 1 - i] = &outcomes[i];
    }
    struct store_message *row = &m[0];
    accept_ok(&f, &row, 1);
    outcomes[0].message = NULL;
    child.id = uuid_child(m[2].id, 1, 0, 0);
    child.parent = m[2].id;
    outcomes[2].children = &child;
    outcomes[2].child_count = 1;
    ck_assert_int_eq(claim_one(&f, m[3].id, true).attempt, 2); /* 3 is overtaken */
    outcomes[5].lease_token = 12345;                           /* of nobody */
    settle_ok(&f, list, COUNT);
    for (int i = 0; i < COUNT; i++) {
        bool refused = i == 3 || i == 5;
        ck_assert_msg(outcomes[i].recorded == !refused, "%d", i);
        ck_assert_msg(is_known(&f, m[i].id) == !refused, "%d", i);
        ck_assert_int_eq(outcomes[i].error_code, ERR_NONE);
    }
    ck_assert_int_gt(child.seq, 0);
    ck_assert_int_eq(accepted_rows(&f), COUNT - 2 + 1);
    /* A repeat changes nothing. */
    outcomes[3].attempt = 2;
    settle_ok(&f, list, COUNT);
    for (int i = 0; i < COUNT; i++)
        ck_assert(outcomes[i].recorded == (i == 3));
    ck_assert_int_eq(accepted_rows(&f), COUNT - 1 + 1);
    close_store(&f);
}
END_TEST

/* One that the database refuses does not take the others with it. */
START_TEST(test_store_only_poison)
{
    struct fixture f;
    struct store_message m[3];
    struct store_outcome outcomes[3], *list[3];
    open_store(&f);
    for (int i = 0; i < 3; i++) {
        m[i] = new_message("In");
        outcomes[i] = whole_end(&m[i], STORE_COMPLETED, 1);
        list[i] = &outcomes[i];
    }
    m[1].received_us = 0;
    settle_ok(&f, list, 3);
    ck_assert(outcomes[0].recorded && !outcomes[1].recorded && outcomes[2].recorded);
    ck_assert_int_eq(outcomes[1].error_code, ERR_INVALID);
    ck_assert(!is_ended(&f, m[1].id));
    close_store(&f);
}
END_TEST

START_TEST(test_wal_only)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    struct store_message m = accepted_message(&f, "In"), kept = accepted_message(&f, "In");
    struct store_outcome end = end_of(&m, STORE_COMPLETED, 1),
                         dead = end_of(&kept, STORE_DEAD_LETTERED, 1), *list[] = {&dead, &end};
    end.forget = dead.forget = true;
    settle_ok(&f, list, 2);
    ck_assert(end.recorded && dead.recorded);
    ck_assert_int_eq(accepted_rows(&f), 1);
    ck_assert(is_known(&f, m.id) && is_ended(&f, m.id));
    struct store_claim claim = claim_one(&f, m.id, true);
    ck_assert(claim.known && claim.ended && claim.seq == 0);
    struct told told = find(&f, m.id), body = {0}, reply = {0};
    ck_assert_str_eq(told.text, "In async_reliable  completed 1");
    ck_assert_int_eq(told.received_us, uuid_wall_ms(m.id) * 1000);
    ck_assert(told.forgotten && !find(&f, kept.id).forgotten);
    CALL(&f, body, body, m.id, on_body);
    CALL(&f, reply, reply, m.id, on_body);
    ck_assert(!body.found && !reply.found);
    ck_assert_str_eq(
        pg_server_sql(
            &server, f.database,
            "SELECT state || ' ' || (received_at = hie.id_time(correlation_id)) || ' ' || "
            "coalesce(request_content_type, '-') FROM hie.messages WHERE "
            "correlation_id = '%s'",
            id_text(m.id)),
        "completed true -");
    ck_assert_str_eq(pg_server_sql(&server, f.database,
                                   "SELECT string_agg(event, ' ') FROM hie.audit WHERE "
                                   "correlation_id = '%s'",
                                   id_text(m.id)),
                     "completed");
    ck_assert(!settle_one(&f, &end));
    /* A bad end keeps it, to be redriven. */
    ck_assert_str_eq(find(&f, kept.id).text, "In async_reliable inbound dead_lettered 1");
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.messages"), 2);
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(mark_ok(&f, 0, 0), kept.seq);
    close_store(&f);
}
END_TEST

/* Adopted once more after its end: it has its end all the same, and is one message. */
START_TEST(test_forgotten_and_adopted)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = accepted_message(&f, "In"), *row = &m;
    struct store_outcome end = end_of(&m, STORE_COMPLETED, 1);
    end.forget = true;
    ck_assert(settle_one(&f, &end));
    ck_assert_int_eq(try_adopt(&f, &row, 1), ERR_NONE);
    ck_assert(claim_one(&f, m.id, false).ended);
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 0);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.messages"), 1);
    close_store(&f);
}
END_TEST

/* Neither log nor store: the end is all that stays. With children, and a retry of a like one. */
START_TEST(test_neither)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = new_message("In"), other = new_message("In"),
                         child = new_message("Out");
    struct store_outcome end = whole_end(&m, STORE_COMPLETED, 1),
                         retry = whole_end(&other, STORE_RETRY, 1), *list[] = {&end, &retry};
    end.forget = retry.forget = true;
    child.id = uuid_child(m.id, 1, 0, 0);
    child.parent = m.id;
    end.children = &child;
    end.child_count = 1;
    settle_ok(&f, list, 2);
    ck_assert(end.recorded && retry.recorded);
    ck_assert_int_gt(child.seq, 0);
    ck_assert_int_eq(accepted_rows(&f), 2); /* the child, and the one that failed */
    ck_assert(find(&f, m.id).found && is_known(&f, other.id));
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_modes");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_store_only);
    tcase_add_test(all, test_store_only_attempts);
    tcase_add_test(all, test_store_only_mixed);
    tcase_add_test(all, test_store_only_poison);
    tcase_add_test(all, test_wal_only);
    tcase_add_test(all, test_forgotten_and_adopted);
    tcase_add_test(all, test_neither);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
