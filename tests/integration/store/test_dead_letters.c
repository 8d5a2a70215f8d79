/* Dead letters: listed, redriven, dismissed; what a redrive does to everything that knows a message's run. */
#include "listed.h"

struct ids {
    int calls;
    struct err err;
    size_t count, left;
    struct uuid next;
    struct uuid list[STORE_BATCH_MAX];
};

static void on_ids(void *arg, const struct err *err, const struct store_handled *handled)
{
    struct ids *answer = arg;
    answer->calls++;
    answer->err = *err;
    answer->count = handled->count;
    answer->left = handled->left;
    answer->next = handled->next;
    memcpy(answer->list, handled->ids, handled->count * sizeof(*handled->ids));
}

static size_t redrive(struct fixture *f, const char *item, const struct uuid *ids, size_t count)
{
    struct ids answer = {0};
    CALL(f, answer, redrive, item, ids, count, UUID_NONE, on_ids);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.count;
}

static size_t dismiss(struct fixture *f, const char *item, const struct uuid *ids, size_t count)
{
    struct ids answer = {0};
    CALL(f, answer, dismiss, item, ids, count, UUID_NONE, on_ids);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.count;
}

struct letters {
    int calls;
    struct err err;
    size_t count;
    struct store_dead_letter rows[8];
    char reasons[8][40], patterns[8][20], control_ids[8][20];
};

static void on_letters(void *arg, const struct err *err, const struct store_dead_letter *rows,
                       size_t count)
{
    struct letters *letters = arg;
    letters->calls++;
    letters->err = *err;
    ck_assert_uint_le(count, 8);
    letters->count = count;
    for (size_t i = 0; i < count; i++) {
        letters->rows[i] = rows[i];
        snprintf(letters->reasons[i], sizeof(letters->reasons[i]), "%s", rows[i].reason);
        snprintf(letters->patterns[i], sizeof(letters->patterns[i]), "%s", rows[i].pattern);
        snprintf(letters->control_ids[i], sizeof(letters->control_ids[i]), "%s",
                 rows[i].control_id);
    }
}

static struct letters letters_of(struct fixture *f, const char *item, struct uuid before,
                                 size_t limit)
{
    struct letters letters = {0};
    CALL(f, letters, dead_letters, item, before, limit, on_letters);
    ck_assert_int_eq(letters.err.code, ERR_NONE);
    return letters;
}

static struct store_message dead_letter(struct fixture *f, const char *item)
{
    struct store_message message = accepted_message(f, item);
    struct store_outcome dead = end_of(&message, STORE_DEAD_LETTERED, 1);
    ck_assert(settle_one(f, &dead));
    return message;
}

static const char *state_of(struct fixture *f, struct uuid id)
{
    return pg_server_sql(&server, f->database,
                         "SELECT state || ' ' || run || ' ' || attempts FROM hie.messages WHERE "
                         "correlation_id = '%s'",
                         id_text(id));
}

static struct store_outcome outcome_of_run(const struct store_message *message, enum store_end end,
                                           int run, int attempt)
{
    struct store_outcome outcome = end_of(message, end, attempt);
    outcome.run = run;
    return outcome;
}

/* From the dead letter through the low mark and a second run to its end. */
START_TEST(test_end_to_end)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    struct store_message m = accepted_message(&f, "In");
    struct store_outcome retry = end_of(&m, STORE_RETRY, 1),
                         dead = end_of(&m, STORE_DEAD_LETTERED, 2);
    ck_assert(settle_one(&f, &retry) && settle_one(&f, &dead));
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(mark_ok(&f, 0, 0), m.seq);
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 0);

    ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 1);
    ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 0);
    ck_assert_int_eq(mark_ok(&f, 0, 0), m.seq - 1);
    struct listed page = page_of(&f, 0, 10);
    ck_assert(page.count == 1 && uuid_equal(page.ids[0], m.id));
    ck_assert_int_eq(page.due_ms[0], 0); /* not that of the first run's retry */
    struct listed whole = {0};
    CALL(&f, whole, fetch, &m.id, 1, on_rows);
    ck_assert(whole.count == 1 && whole.due_ms[0] == 0);
    ck_assert_int_eq(mark_ok(&f, token, INT64_MAX), m.seq - 1);
    ck_assert_str_eq(state_of(&f, m.id), "accepted 2 0");
    ck_assert(!is_ended(&f, m.id));
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), 1);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.dead_letters"),
                     0);

    struct store_claim claim = claim_one(&f, m.id, false);
    ck_assert(claim.known && !claim.ended);
    ck_assert(claim.run == 2 && claim.attempt == 1 && claim.seq == m.seq);
    claim = claim_one(&f, m.id, true); /* its worker is lost */
    ck_assert(claim.run == 2 && claim.attempt == 2 && !claim.ended);
    /* Whoever still holds it from the first run has lost it. */
    struct store_outcome stale = end_of(&m, STORE_COMPLETED, 3), late = end_of(&m, STORE_RETRY, 3);
    ck_assert(!settle_one(&f, &stale) && !settle_one(&f, &late));
    struct store_outcome again = outcome_of_run(&m, STORE_RETRY, 2, 2),
                         end = outcome_of_run(&m, STORE_COMPLETED, 2, 3);
    ck_assert(settle_one(&f, &again));
    ck_assert_str_eq(state_of(&f, m.id), "retrying 2 2");
    ck_assert_int_eq(page_of(&f, 0, 10).due_ms[0], again.due_ms);
    ck_assert(settle_one(&f, &end));
    ck_assert_str_eq(state_of(&f, m.id), "completed 2 3");
    ck_assert(is_ended(&f, m.id) && claim_one(&f, m.id, false).ended);
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 0);
    ck_assert_int_eq(mark_ok(&f, token, INT64_MAX), m.seq);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers"),
                     0);
    ck_assert_str_eq(
        pg_server_sql(&server, f.database,
                      "SELECT string_agg(event || run, ' ' ORDER BY at, run) FROM hie.audit"),
        "accepted1 retried1 dead_lettered1 redriven1 taken_over2 retried2 completed2");
    close_store(&f);
}
END_TEST

struct told {
    int calls;
    struct err err;
    bool found;
    char text[40];
    int attempts;
};

static void on_told(void *arg, const struct err *err, const struct store_record *record)
{
    struct told *told = arg;
    told->calls++;
    told->err = *err;
    told->found = record != NULL;
    if (record) {
        snprintf(told->text, sizeof(told->text), "%s %s", record->state,
                 record->error ? record->error : "-");
        told->attempts = record->attempts;
    }
}

static void on_reply(void *arg, const struct err *err, struct body body, struct slice type,
                     bool found)
{
    struct told *told = arg;
    (void)type;
    told->calls++;
    told->err = *err;
    told->found = found;
    snprintf(told->text, sizeof(told->text), "%.*s", (int)body.len, body.len ? body.ptr : "");
}

/* Each dead run may be redriven; what is told is that of the last one. */
START_TEST(test_many_runs)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = dead_letter(&f, "In");
    char reply[8] = "";
    for (int run = 2; run < 5; run++) {
        struct told reply_told = {0}, told = {0};
        ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 1);
        CALL(&f, reply_told, reply, m.id, on_reply);
        ck_assert(!reply_told.found);
        CALL(&f, told, find, m.id, on_told);
        ck_assert_str_eq(told.text, "accepted -");
        ck_assert_int_eq(told.attempts, 0);
        ck_assert_int_eq(claim_one(&f, m.id, false).run, run);
        struct store_outcome end =
            outcome_of_run(&m, run == 4 ? STORE_COMPLETED : STORE_DEAD_LETTERED, run, 1);
        snprintf(reply, sizeof(reply), "run %d", run);
        end.reply = slice_text(reply);
        ck_assert(settle_one(&f, &end));
        struct told ended = {0}, replied = {0};
        CALL(&f, ended, find, m.id, on_told);
        ck_assert_str_eq(ended.text,
                         run == 4 ? "completed -" : "dead_lettered the receiver said no");
        CALL(&f, replied, reply, m.id, on_reply);
        ck_assert_str_eq(replied.text, reply);
    }
    ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 0);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.audit WHERE event = 'redriven'"),
                     3);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.messages"), 1);
    close_store(&f);
}
END_TEST

START_TEST(test_only_dead_letters)
{
    struct fixture f;
    open_store(&f);
    struct store_message dead = dead_letter(&f, "In"), other = dead_letter(&f, "Else"),
                         open = accepted_message(&f, "In"), done = accepted_message(&f, "In");
    struct store_outcome end = end_of(&done, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end));
    struct uuid ids[] = {other.id, open.id, done.id, dead.id, UUID_NONE, uuid_new(clock_wall_ms()),
                         dead.id};
    struct ids answer = {0};
    CALL(&f, answer, redrive, "In", ids, 7, UUID_NONE, on_ids);
    ck_assert_uint_eq(answer.count, 1);
    ck_assert(uuid_equal(answer.list[0], dead.id));
    ck_assert_uint_eq(dismiss(&f, "In", ids, 7), 0); /* it runs again */
    ck_assert_uint_eq(redrive(&f, "In", NULL, 0), 0);
    ck_assert_uint_eq(redrive(&f, "In", NULL, 10), 0);
    ck_assert_uint_eq(redrive(&f, "None", NULL, 10), 0);
    ck_assert_uint_eq(dismiss(&f, "In", ids, 0), 0);
    /* Without its message it cannot run again, but be taken off. */
    pg_server_sql(&server, f.database, "DELETE FROM hie.accepted WHERE correlation_id = '%s'",
                  id_text(other.id));
    ck_assert_uint_eq(redrive(&f, "Else", &other.id, 1), 0);
    ck_assert_uint_eq(dismiss(&f, "Else", &other.id, 1), 1);
    close_store(&f);
}
END_TEST

/* What cannot run again stays on the list and does not keep the others from it. */
START_TEST(test_rest_behind_lone_ones)
{
    struct fixture f;
    struct store_message m[5];
    open_store(&f);
    for (int i = 0; i < 5; i++) {
        m[i] = dead_letter(&f, "In");
        if (i < 3)
            pg_server_sql(&server, f.database,
                          "DELETE FROM hie.accepted WHERE correlation_id = '%s'", id_text(m[i].id));
    }
    struct ids first = {0}, second = {0}, third = {0};
    CALL(&f, first, redrive, "In", NULL, 2, UUID_NONE, on_ids);
    ck_assert(first.count == 0 && first.left == 2 && uuid_equal(first.next, m[1].id));
    CALL(&f, second, redrive, "In", NULL, 2, first.next, on_ids);
    ck_assert(second.count == 1 && second.left == 1 && uuid_equal(second.next, m[3].id));
    ck_assert(uuid_equal(second.list[0], m[3].id));
    CALL(&f, third, redrive, "In", NULL, 2, second.next, on_ids);
    ck_assert(third.count == 1 && third.left == 0 && uuid_is_none(third.next));
    ck_assert_uint_eq(letters_of(&f, "In", UUID_NONE, 8).count, 3);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers"),
                     2);
    struct ids named = {0};
    CALL(&f, named, redrive, "In", &m[0].id, 1, UUID_NONE, on_ids);
    ck_assert(named.count == 0 && named.left == 1 && uuid_is_none(named.next));
    ck_assert_uint_eq(dismiss(&f, "In", NULL, 8), 3);
    close_store(&f);
}
END_TEST

START_TEST(test_dismiss)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = dead_letter(&f, "In");
    ck_assert_uint_eq(dismiss(&f, "In", &m.id, 1), 1);
    ck_assert_uint_eq(dismiss(&f, "In", &m.id, 1), 0);
    ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 0);
    ck_assert_uint_eq(letters_of(&f, "In", UUID_NONE, 8).count, 0);
    ck_assert_str_eq(state_of(&f, m.id), "dead_lettered 1 1");
    ck_assert(is_ended(&f, m.id));
    struct store_claim claim = claim_one(&f, m.id, true);
    ck_assert(claim.ended && claim.run == 1);
    ck_assert_str_eq(
        pg_server_sql(&server, f.database,
                      "SELECT string_agg(event, ' ' ORDER BY at) FROM hie.audit WHERE item = 'In'"),
        "accepted dead_lettered dismissed");
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.dead_letters"),
                     0);
    close_store(&f);
}
END_TEST

/* Newest first, page by page; the oldest are redriven first. */
START_TEST(test_list)
{
    struct fixture f;
    struct store_message m[6];
    open_store(&f);
    for (int i = 0; i < 6; i++)
        m[i] = dead_letter(&f, "In");
    dead_letter(&f, "Else");
    struct letters page = letters_of(&f, "In", UUID_NONE, 4);
    ck_assert_uint_eq(page.count, 4);
    for (int i = 0; i < 4; i++)
        ck_assert(uuid_equal(page.rows[i].id, m[5 - i].id));
    ck_assert(page.rows[0].run == 1 && page.rows[0].attempts == 1);
    ck_assert_str_eq(page.reasons[0], "the receiver said no");
    ck_assert_str_eq(page.patterns[0], "async_reliable");
    ck_assert_str_eq(page.control_ids[0], "MSG1");
    ck_assert_int_eq(page.rows[0].received_us, m[5].received_us);
    ck_assert_int_gt(page.rows[0].at_us, page.rows[1].at_us);
    /* The place is kept when the last one of a page is gone. */
    ck_assert_uint_eq(dismiss(&f, "In", &m[2].id, 1), 1);
    page = letters_of(&f, "In", m[2].id, 4);
    ck_assert_uint_eq(page.count, 2);
    ck_assert(uuid_equal(page.rows[0].id, m[1].id) && uuid_equal(page.rows[1].id, m[0].id));
    ck_assert_uint_eq(letters_of(&f, "In", m[0].id, 4).count, 0);
    ck_assert_uint_eq(letters_of(&f, "In", uuid_new(clock_wall_ms()), 4).count, 0);

    struct ids answer = {0};
    CALL(&f, answer, redrive, "In", NULL, 3, UUID_NONE, on_ids);
    ck_assert_uint_eq(answer.count, 3);
    ck_assert(uuid_equal(answer.next, m[3].id));
    page = letters_of(&f, "In", UUID_NONE, 8);
    ck_assert_uint_eq(page.count, 2);
    ck_assert(uuid_equal(page.rows[0].id, m[5].id) && uuid_equal(page.rows[1].id, m[4].id));
    ck_assert_uint_eq(dismiss(&f, "In", NULL, STORE_BATCH_MAX), 2);
    close_store(&f);
}
END_TEST

/* Retention took their days, but not what was never dealt with. */
START_TEST(test_list_of_lone_ones)
{
    struct fixture f;
    struct store_message m[3];
    open_store(&f);
    for (int i = 0; i < 3; i++)
        m[i] = dead_letter(&f, "In");
    pg_server_sql(&server, f.database, "DELETE FROM hie.accepted");
    pg_server_sql(&server, f.database, "DELETE FROM hie.ended");
    struct letters page = letters_of(&f, "In", UUID_NONE, 2);
    ck_assert_uint_eq(page.count, 2);
    ck_assert_int_gt(page.rows[1].received_us, clock_wall_us() - 3600000000);
    page = letters_of(&f, "In", m[1].id, 2);
    ck_assert(page.count == 1 && uuid_equal(page.rows[0].id, m[0].id));
    close_store(&f);
}
END_TEST

struct counted {
    int calls;
    struct err err;
    int64_t count;
};

static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct counted *counted = arg;
    counted->calls++;
    counted->err = *err;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(counts[i].item, "In") == 0)
            counted->count = counts[i].count;
    }
}

START_TEST(test_counts)
{
    struct fixture f;
    struct store_message m[4];
    open_store(&f);
    for (int i = 0; i < 4; i++)
        m[i] = dead_letter(&f, "In");
    ck_assert_uint_eq(redrive(&f, "In", &m[0].id, 1), 1);
    ck_assert_uint_eq(dismiss(&f, "In", &m[1].id, 1), 1);
    struct counted unfinished = {0}, dead = {0};
    f.store->ops->counts(f.store, on_counts, &unfinished);
    f.store->ops->dead_counts(f.store, on_counts, &dead);
    run_until(f.loop, &dead.calls, 0);
    ck_assert(unfinished.err.code == ERR_NONE && dead.err.code == ERR_NONE);
    ck_assert_int_eq(unfinished.count, 1);
    ck_assert_int_eq(dead.count, 2);
    close_store(&f);
}
END_TEST

/* A child that is redriven is one of its parent's unfinished ones again. */
START_TEST(test_children)
{
    struct fixture f;
    open_store(&f);
    struct store_message parent = accepted_message(&f, "In"), children[2];
    struct store_outcome end = end_of(&parent, STORE_COMPLETED, 1);
    for (uint32_t i = 0; i < 2; i++) {
        children[i] = new_message("Out");
        children[i].id = uuid_child(parent.id, 1, 0, i);
        children[i].parent = parent.id;
    }
    end.children = children;
    end.child_count = 2;
    ck_assert(settle_one(&f, &end));
    for (int i = 0; i < 2; i++) {
        struct store_outcome dead = end_of(&children[i], STORE_DEAD_LETTERED, 1);
        ck_assert(settle_one(&f, &dead));
    }
    struct listed none = {0}, one = {0};
    CALL(&f, none, children, &parent.id, 1, on_rows);
    ck_assert_uint_eq(none.count, 0);
    ck_assert_uint_eq(redrive(&f, "Out", &children[1].id, 1), 1);
    CALL(&f, one, children, &parent.id, 1, on_rows);
    ck_assert(one.count == 1 && uuid_equal(one.ids[0], children[1].id));
    close_store(&f);
}
END_TEST

/* Redriven before the mark has passed it: found once, also where a page ends in between, and the mark goes on. */
START_TEST(test_above_mark)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    struct store_message m = dead_letter(&f, "In"), next = accepted_message(&f, "In");
    ck_assert_uint_eq(redrive(&f, "In", &m.id, 1), 1);
    for (int look = 1; look < 4; look++)
        ck_assert_int_eq(atol(pg_server_sql(&server, f.database,
                                            "SELECT count(seq) FROM hie.open_page(%lld, %d)",
                                            (long long)m.seq - 1, look)),
                         look < 3 ? 1 : 2);
    for (int passed = 0; passed < 2; passed++) {
        struct listed page = page_of(&f, 0, 10);
        ck_assert(page.count == 2 && page.end);
        ck_assert(uuid_equal(page.ids[0], m.id) && uuid_equal(page.ids[1], next.id));
        ck_assert_uint_eq(page_of(&f, page_of(&f, 0, 1).next_seq, 10).count, 1);
        ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), 2);
        for (int i = 0; i < 4; i++)
            mark_ok(&f, token, INT64_MAX);
        ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT low FROM hie.marks"), m.seq);
        ck_assert_int_eq(mark_ok(&f, 0, 0), m.seq - 1);
    }
    close_store(&f);
}
END_TEST

/* A straggler of the first run that is being redriven while the sweep goes over it stays. */
START_TEST(test_sweep)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    struct store_message m = dead_letter(&f, "In");
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.stragglers VALUES (%lld, '%s', 1, 0, NULL, 'In')",
                  (long long)m.seq, id_text(m.id));
    PGconn *raw = connect_raw(f.database);
    run_raw(raw, "BEGIN; SELECT hie.redrive('In', ARRAY['%s'::uuid], NULL, 1)", id_text(m.id));
    for (int i = 0; i < 4; i++) /* passes the row, whose first run is over */
        mark_ok(&f, token, INT64_MAX);
    run_raw(raw, "COMMIT");
    PQfinish(raw);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(mark_ok(&f, token, INT64_MAX), m.seq - 1);
    struct listed page = page_of(&f, 0, 10);
    ck_assert(page.count == 1 && uuid_equal(page.ids[0], m.id));
    struct store_outcome end = outcome_of_run(&m, STORE_COMPLETED, 2, 1);
    ck_assert(settle_one(&f, &end));
    mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers"),
                     0);
    close_store(&f);
}
END_TEST

/* Two redrive the same, in opposite orders: each letter once. */
START_TEST(test_race)
{
    enum { COUNT = 300 };
    struct fixture f, g;
    static struct store_message m[COUNT];
    struct store_message *rows[COUNT];
    static struct store_outcome dead[COUNT];
    struct store_outcome *outcomes[COUNT];
    static struct uuid ids[2][COUNT];
    static struct ids answers[3];
    memset(answers, 0, sizeof(answers));
    open_store(&f);
    open_beside(&g, &f);
    for (int i = 0; i < COUNT; i++) {
        m[i] = new_message("In");
        rows[i] = &m[i];
    }
    accept_ok(&f, rows, COUNT);
    for (int i = 0; i < COUNT; i++) {
        dead[i] = end_of(&m[i], STORE_DEAD_LETTERED, 1);
        outcomes[i] = &dead[i];
        ids[0][i] = ids[1][COUNT - 1 - i] = m[i].id;
    }
    settle_ok(&f, outcomes, COUNT);
    f.store->ops->redrive(f.store, "In", ids[0], COUNT, UUID_NONE, on_ids, &answers[0]);
    g.store->ops->redrive(g.store, "In", ids[1], COUNT, UUID_NONE, on_ids, &answers[1]);
    g.store->ops->redrive(g.store, "In", NULL, COUNT, UUID_NONE, on_ids, &answers[2]);
    size_t total = 0;
    for (int i = 0; i < 3; i++) {
        run_until(f.loop, &answers[i].calls, 0);
        ck_assert_int_eq(answers[i].err.code, ERR_NONE);
        total += answers[i].count;
    }
    ck_assert_uint_eq(total, COUNT);
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers WHERE run = 2"),
        COUNT);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), COUNT);
    close_beside(&g);
    close_store(&f);
}
END_TEST

/* Whatever isolation the database has by default: who waited for another sees what that did. */
START_TEST(test_isolation)
{
    struct fixture f;
    const char *database = pg_server_database(&server);
    pg_server_sql(&server, "postgres",
                  "ALTER DATABASE %s SET default_transaction_isolation = 'repeatable read'",
                  database);
    open_database(&f, database);
    struct store_message m = dead_letter(&f, "In");
    struct ids answer = {0};
    PGconn *raw = connect_raw(database);
    run_raw(raw, "BEGIN; SELECT hie.dismiss('In', ARRAY['%s'::uuid], NULL, 1)", id_text(m.id));
    f.store->ops->redrive(f.store, "In", &m.id, 1, UUID_NONE, on_ids, &answer);
    run_for_ms(f.loop, 200);
    ck_assert_int_eq(answer.calls, 0);
    run_raw(raw, "COMMIT");
    run_until(f.loop, &answer.calls, 0);
    ck_assert(answer.err.code == ERR_NONE && answer.count == 0);
    PQfinish(raw);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_dead_letters");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_end_to_end);
    tcase_add_test(all, test_many_runs);
    tcase_add_test(all, test_only_dead_letters);
    tcase_add_test(all, test_rest_behind_lone_ones);
    tcase_add_test(all, test_dismiss);
    tcase_add_test(all, test_list);
    tcase_add_test(all, test_list_of_lone_ones);
    tcase_add_test(all, test_counts);
    tcase_add_test(all, test_children);
    tcase_add_test(all, test_above_mark);
    tcase_add_test(all, test_sweep);
    tcase_add_test(all, test_race);
    tcase_add_test(all, test_isolation);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
