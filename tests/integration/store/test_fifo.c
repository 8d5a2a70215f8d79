/* fifo: what comes before a claimed message, and settles under a lease that another took. */
#include "harness.h"

#define EARLIER_MAX 64

struct earlier {
    int calls;
    struct err err;
    size_t count;
    bool full;
    struct store_earlier rows[EARLIER_MAX];
    int64_t whole_seq;
};

static void on_earlier(void *arg, const struct err *err, const struct store_earlier *rows,
                       size_t count, bool full, int64_t whole_seq)
{
    struct earlier *earlier = arg;
    earlier->whole_seq = whole_seq;
    earlier->calls++;
    earlier->err = *err;
    ck_assert_uint_le(count, EARLIER_MAX);
    earlier->count = count;
    earlier->full = full;
    memcpy(earlier->rows, rows, count * sizeof(*rows));
}

static struct earlier earlier_of(struct fixture *f, const struct store_before *parts, size_t count,
                                 size_t limit)
{
    struct earlier earlier = {0};
    CALL(f, earlier, earlier, "Fifo", PATTERN_ASYNC_RELIABLE, parts, count, limit, on_earlier);
    ck_assert_int_eq(earlier.err.code, ERR_NONE);
    return earlier;
}

static struct store_message fifo_message(struct fixture *f, int partition)
{
    struct store_message message = new_message("Fifo"), *row = &message;
    message.partition = partition;
    accept_ok(f, &row, 1);
    return message;
}

/* A row whose transaction is open may still appear: the log is not whole up to it, whether nobody commits after it or somebody. */
START_TEST(test_how_far_the_log_is_whole)
{
    struct fixture f;
    struct store_before part = {.partition = 0, .upto_seq = INT64_MAX, .most = 10};
    open_store(&f);
    PGconn *conn = connect_raw(f.database);
    int64_t last = fifo_message(&f, 0).seq, whole = 0;
    for (int round = 0; round < 2; round++) {
        run_raw(conn, "BEGIN; SELECT pg_current_xact_id(); INSERT INTO hie.accepted (received_at, "
                      "correlation_id, pattern, direction, priority, partition, item, body)"
                      " VALUES (now(), gen_random_uuid(), 0, 0, 0, 0, 'Fifo', 'x')");
        int64_t open = last + 1;
        last = round ? fifo_message(&f, 0).seq : open;
        for (int i = 0; i < 8; i++)
            whole = earlier_of(&f, &part, 1, 10).whole_seq;
        ck_assert_int_lt(whole, open);
        run_raw(conn, "COMMIT");
        for (int i = 0; i < 8; i++)
            whole = earlier_of(&f, &part, 1, 10).whole_seq;
        ck_assert_int_ge(whole, last);
    }
    ck_assert_uint_eq(earlier_of(&f, &part, 1, 10).count, 4);
    PQfinish(conn);
    close_store(&f);
}
END_TEST

START_TEST(test_earlier)
{
    struct fixture f;
    struct store_message m[12], other = new_message("Fifo"), elsewhere = new_message("Else"),
                                *rows[] = {&other, &elsewhere};
    open_store(&f);
    for (int i = 0; i < 12; i++)
        m[i] = fifo_message(&f, i % 3);
    other.pattern = PATTERN_SYNC_RELIABLE;
    other.partition = elsewhere.partition = 0;
    accept_ok(&f, rows, 2);
    accepted_message(&f, "Fifo"); /* of none */
    struct store_outcome end = end_of(&m[3], STORE_COMPLETED, 1),
                         retry = end_of(&m[0], STORE_RETRY, 1);
    ck_assert(settle_one(&f, &end) && settle_one(&f, &retry));

    struct store_before zero[] = {{0, 0, m[9].seq, 10}}, all[] = {{0, 0, INT64_MAX, 10}};
    struct earlier got = earlier_of(&f, zero, 1, 10);
    ck_assert_uint_eq(got.count, 2);
    ck_assert(uuid_equal(got.rows[0].id, m[0].id) && uuid_equal(got.rows[1].id, m[6].id));
    ck_assert_int_eq(got.rows[1].seq, m[6].seq);
    ck_assert(!got.full);
    got = earlier_of(&f, all, 1, 10);
    ck_assert_uint_eq(got.count, 3);
    struct store_before two[] = {{2, m[2].seq, m[11].seq, 10}, {1, m[1].seq - 1, m[7].seq + 1, 10}};
    got = earlier_of(&f, two, 2, 10);
    ck_assert_uint_eq(got.count, 5); /* in the order of seq, whatever the partition */
    const int expected[] = {1, 4, 5, 7, 8};
    for (int i = 0; i < 5; i++) {
        ck_assert(uuid_equal(got.rows[i].id, m[expected[i]].id));
        ck_assert_uint_eq(got.rows[i].partition, (unsigned)expected[i] % 3);
    }
    got = earlier_of(&f, two, 2, 4);
    ck_assert(got.count == 4 && got.full);
    ck_assert(uuid_equal(got.rows[3].id, m[7].id));
    got = earlier_of(&f, two, 2, 5);
    ck_assert(got.count == 5 && !got.full);
    two[1].most = 1;
    got = earlier_of(&f, two, 2, 5);
    ck_assert(got.count == 3 && !got.full);
    ck_assert(uuid_equal(got.rows[0].id, m[1].id) && uuid_equal(got.rows[2].id, m[8].id));
    ck_assert_uint_eq(earlier_of(&f, two, 0, 5).count, 0);
    struct store_before none[] = {{9, 0, INT64_MAX, 10}};
    ck_assert_uint_eq(earlier_of(&f, none, 1, 5).count, 0);
    close_store(&f);
}
END_TEST

static void on_redriven(void *arg, const struct err *err, const struct store_handled *handled)
{
    on_number(arg, err, (int64_t)handled->count);
}

/* What was accepted under later versions is for another queue; under none, for any. A redriven one has the version of its acceptance. */
START_TEST(test_earlier_versions)
{
    struct fixture f;
    struct store_message m[4], *rows[4];
    open_store(&f);
    for (int i = 0; i < 4; i++) {
        m[i] = new_message("Fifo");
        m[i].partition = 0;
        m[i].version = i == 0 ? 0 : 6 - i; /* none, 5, 4, 3 */
        rows[i] = &m[i];
    }
    accept_ok(&f, rows, 4);
    struct store_before part = {.upto_seq = INT64_MAX, .most = 10};
    ck_assert_uint_eq(earlier_of(&f, &part, 1, 10).count, 4);
    part.below_version = 5;
    struct earlier got = earlier_of(&f, &part, 1, 10);
    ck_assert_uint_eq(got.count, 3);
    ck_assert(uuid_equal(got.rows[0].id, m[0].id) && uuid_equal(got.rows[1].id, m[2].id));
    part.below_version = 1;
    ck_assert_uint_eq(earlier_of(&f, &part, 1, 10).count, 1);

    struct store_outcome dead = end_of(&m[3], STORE_DEAD_LETTERED, 1);
    ck_assert(settle_one(&f, &dead));
    struct answer redriven = {0};
    CALL(&f, redriven, redrive, "Fifo", NULL, 10, UUID_NONE, on_redriven);
    ck_assert_int_eq(redriven.number, 1);
    part.below_version = 4;
    ck_assert_uint_eq(earlier_of(&f, &part, 1, 10).count, 2);
    part.below_version = 3;
    ck_assert_uint_eq(earlier_of(&f, &part, 1, 10).count, 1);
    close_store(&f);
}
END_TEST

/* Rows far below the mark are found when they are stragglers, and only then looked at. */
START_TEST(test_earlier_stragglers)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.accepted (correlation_id, received_at, pattern, direction, "
                  "priority, partition, item, body)"
                  " SELECT (left(hie.id_floor(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), "
                  "12, '0'))::uuid, now(), 0, 0, 0, n %% 2, 'Fifo', '' FROM generate_series(1, "
                  "20000) n");
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.ended (at, correlation_id, run, attempt, status, pattern, item)"
                  " SELECT now(), correlation_id, 1, 1, 0, 0, item FROM hie.accepted WHERE seq NOT "
                  "IN (10, 11, 12, 15000)");
    for (int i = 0; i < 5; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT low FROM hie.marks"), 20000);
    struct store_message late = fifo_message(&f, 0);
    struct store_before both[] = {{0, 0, INT64_MAX, 10}, {1, 0, INT64_MAX, 10}},
                        after[] = {{0, 11, 15001, 10}};
    struct earlier got = earlier_of(&f, both, 2, 10);
    ck_assert_uint_eq(got.count, 5);
    const int64_t seqs[] = {10, 11, 12, 15000, late.seq};
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(got.rows[i].seq, seqs[i]);
    got = earlier_of(&f, after, 1, 10);
    ck_assert_uint_eq(got.count, 2);
    ck_assert_int_eq(got.rows[0].seq, 12);
    got = earlier_of(&f, both, 2, 2);
    ck_assert(got.count == 2 && got.full && got.rows[1].seq == 11);
    close_store(&f);
}
END_TEST

/* ---- settles under a lease ---- */

struct owned {
    int calls;
    struct err err;
    int64_t tokens[4];
};

static void on_owned(void *arg, const struct err *err, const struct store_owned *owned,
                     size_t count)
{
    struct owned *answer = arg;
    answer->calls++;
    answer->err = *err;
    for (size_t i = 0; i < count; i++)
        answer->tokens[owned[i].partition] = owned[i].token;
}

static struct owned own(struct fixture *f, const char *worker, int64_t ttl_ms)
{
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 4};
    struct owned owned = {0};
    CALL(f, owned, own, worker, &share, 1, ttl_ms, on_owned);
    ck_assert_int_eq(owned.err.code, ERR_NONE);
    return owned;
}

/* Lets `other` take everything from a worker that no longer renews. */
static struct owned take_all(struct fixture *f, const char *other)
{
    struct owned owned = {0};
    for (int i = 0; i < 300 && !(owned.tokens[0] && owned.tokens[3]); i++) {
        run_for_ms(f->loop, 10);
        owned = own(f, other, 60000);
    }
    ck_assert(owned.tokens[0] && owned.tokens[3]);
    return owned;
}

START_TEST(test_fencing)
{
    struct fixture f, g;
    struct store_message m[6];
    open_store(&f);
    open_beside(&g, &f);
    struct owned mine = own(&f, "one", 100);
    for (int i = 0; i < 6; i++)
        m[i] = fifo_message(&f, i % 4);
    run_for_ms(f.loop, 150);
    /* Expired, but nobody took it. */
    struct store_outcome end = end_of(&m[0], STORE_COMPLETED, 1);
    end.lease_token = mine.tokens[0];
    ck_assert(settle_one(&f, &end));
    struct owned theirs = take_all(&g, "two");
    for (int i = 0; i < 4; i++)
        ck_assert_int_gt(theirs.tokens[i], mine.tokens[i]);

    struct store_message children[2] = {new_message("Out"), new_message("Out")};
    struct store_outcome late[5], *list[5];
    for (int i = 1; i < 6; i++) {
        late[i - 1] = end_of(&m[i], i == 4 ? STORE_RETRY : STORE_COMPLETED, 1);
        late[i - 1].lease_token = mine.tokens[i % 4];
        list[i - 1] = &late[i - 1];
    }
    settle_ok(&f, list, 3); /* ends alone: all refused, and no error */
    for (int i = 0; i < 3; i++)
        ck_assert(!late[i].recorded && late[i].error_code == ERR_NONE);
    for (int i = 0; i < 2; i++) {
        children[i].id = uuid_child(late[i].id, 1, 0, 0);
        children[i].parent = late[i].id;
        late[i].children = &children[i];
        late[i].child_count = 1;
    }
    late[1].lease_token = theirs.tokens[2];
    late[2].lease_token = 0;
    settle_ok(&f, list, 5); /* with children and a retry: those of the old tokens are refused */
    ck_assert(!late[0].recorded && late[1].recorded && late[2].recorded && !late[3].recorded &&
              !late[4].recorded);
    ck_assert_int_eq(children[0].seq, 0);
    ck_assert_int_gt(children[1].seq, 0);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.attempts"), 0);
    late[3].lease_token = theirs.tokens[0];
    ck_assert(settle_one(&g, &late[3]));
    ck_assert(!settle_one(&g, &late[3]));
    close_beside(&g);
    close_store(&f);
}
END_TEST

/* A settle that meets a taking under way waits for its commit. */
START_TEST(test_settle_waits_for_taking)
{
    struct fixture f;
    open_store(&f);
    struct owned mine = own(&f, "one", 60000);
    PGconn *thief = connect_raw(f.database);
    for (int commits = 0; commits < 2; commits++) {
        struct store_message m = fifo_message(&f, 1);
        struct store_outcome end = end_of(&m, STORE_COMPLETED, 1), *row = &end;
        struct answer answer = {0};
        end.lease_token = mine.tokens[1];
        run_raw(thief,
                "BEGIN; UPDATE hie.partition_leases SET holder = 'thief',"
                " token = nextval('hie.lease_token') WHERE token = %lld",
                (long long)mine.tokens[1]);
        f.store->ops->settle(f.store, &row, 1, on_done, &answer);
        run_for_ms(f.loop, 150);
        ck_assert_int_eq(answer.calls, 0);
        run_raw(thief, commits ? "COMMIT" : "ROLLBACK");
        run_until(f.loop, &answer.calls, 0);
        ck_assert_int_eq(answer.err.code, ERR_NONE);
        ck_assert(end.recorded == !commits);
    }
    PQfinish(thief);
    close_store(&f);
}
END_TEST

/* A taking that meets a settle under way passes that lease over; a renewal does not care. */
START_TEST(test_taking_passes_settle)
{
    struct fixture f;
    open_store(&f);
    struct owned mine = own(&f, "one", 100);
    PGconn *settle = connect_raw(f.database);
    run_raw(settle, "BEGIN; SELECT FROM hie.partition_leases WHERE token = %lld FOR KEY SHARE",
            (long long)mine.tokens[2]);
    ck_assert_int_eq(own(&f, "one", 100).tokens[2], mine.tokens[2]);
    run_for_ms(f.loop, 150);
    struct owned theirs = own(&f, "two", 60000);
    ck_assert(theirs.tokens[0] && theirs.tokens[1] && !theirs.tokens[2] && theirs.tokens[3]);
    run_raw(settle, "COMMIT");
    PQfinish(settle);
    theirs = own(&f, "two", 60000);
    ck_assert_int_gt(theirs.tokens[2], mine.tokens[2]);
    close_store(&f);
}
END_TEST

/* Settles of one who lost its leases, and takings and givings of the same, at the same time: no deadlock, no error. */
START_TEST(test_settles_and_takings)
{
    enum { ROUNDS = 60, BATCH = 40 };
    struct fixture f, g;
    open_store(&f);
    open_beside(&g, &f);
    struct owned one = own(&f, "one", 20), two = {0};
    for (int round = 0; round < ROUNDS; round++) {
        struct store_message m[BATCH], *rows[BATCH];
        struct store_outcome ends[BATCH], *list[BATCH];
        for (int i = 0; i < BATCH; i++) {
            m[i] = new_message("Fifo");
            m[i].partition = i % 4;
            rows[i] = &m[i];
        }
        accept_ok(&f, rows, BATCH);
        for (int i = 0; i < BATCH; i++) {
            ends[i] = end_of(&m[i], STORE_COMPLETED, 1);
            ends[i].lease_token = one.tokens[i % 4] ? one.tokens[i % 4] : 1;
            list[round % 2 ? i : BATCH - 1 - i] = &ends[i];
        }
        struct answer settled = {0}, disowned = {0};
        struct owned again = {0};
        struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 4};
        f.store->ops->settle(f.store, list, BATCH, on_done, &settled);
        g.store->ops->own(g.store, "two", &share, 1, 20, on_owned, &again);
        if (round % 3 == 0)
            g.store->ops->disown(g.store, "two", NULL, 0, on_done, &disowned);
        run_until(f.loop, &settled.calls, 0);
        run_until(f.loop, &again.calls, 0);
        if (round % 3 == 0)
            run_until(f.loop, &disowned.calls, 0);
        ck_assert_int_eq(settled.err.code, ERR_NONE);
        ck_assert_int_eq(again.err.code, ERR_NONE);
        ck_assert_int_eq(disowned.err.code, ERR_NONE);
        two = again;
        one = own(&f, "one", 20);
        for (int i = 0; i < 4; i++)
            ck_assert(one.tokens[i] == 0 || one.tokens[i] != two.tokens[i]);
    }
    ck_assert(!log_has("deadlock detected"));
    close_beside(&g);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_fifo");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_how_far_the_log_is_whole);
    tcase_add_test(all, test_earlier);
    tcase_add_test(all, test_earlier_versions);
    tcase_add_test(all, test_earlier_stragglers);
    tcase_add_test(all, test_fencing);
    tcase_add_test(all, test_settle_waits_for_taking);
    tcase_add_test(all, test_taking_passes_settle);
    tcase_add_test(all, test_settles_and_takings);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
