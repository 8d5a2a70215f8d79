/* Repeats of a key within its window: who is first, until when, across midnight, and two at the same moment. */
#include "harness.h"

#define DAY_MS 86400000
#define SHORT_MS 300000

static struct uuid key_of(uint64_t number)
{
    return uuid_named(0, slice_of(&number, sizeof(number)));
}

static struct store_message keyed(uint64_t key, uint8_t print, int64_t window_ms)
{
    struct store_message message = new_message("In");
    message.dedup_key = key_of(key);
    message.dedup_fingerprint.bytes[0] = print;
    message.dedup_window_ms = window_ms;
    return message;
}

static struct store_message accept_keyed(struct fixture *f, uint64_t key, uint8_t print,
                                         int64_t window_ms)
{
    struct store_message message = keyed(key, print, window_ms), *row = &message;
    accept_ok(f, &row, 1);
    ck_assert_int_eq(message.error, ERR_NONE);
    ck_assert((message.seq == 0) == !uuid_is_none(message.repeats));
    return message;
}

static long rows_of(struct fixture *f)
{
    return pg_server_number(&server, f->database, "SELECT count(*) FROM hie.accepted");
}

START_TEST(test_repeats)
{
    const int64_t window_ms = _i ? DAY_MS : SHORT_MS;
    struct fixture f;
    open_store(&f);
    struct store_message first = accept_keyed(&f, 1, 7, window_ms);
    ck_assert_int_gt(first.seq, 0);
    struct store_message again = accept_keyed(&f, 1, 7, window_ms);
    ck_assert(uuid_equal(again.repeats, first.id) && !again.repeats_otherwise);
    struct store_message other = accept_keyed(&f, 1, 8, window_ms);
    ck_assert(uuid_equal(other.repeats, first.id) && other.repeats_otherwise);
    ck_assert(!is_known(&f, other.id));
    /* In one batch: without key, repeats, new ones; order is kept. */
    struct store_message rows[] = {keyed(5, 1, window_ms), new_message("In"),
                                   keyed(1, 7, window_ms), keyed(4, 1, window_ms),
                                   new_message("In")};
    struct store_message *list[] = {&rows[0], &rows[1], &rows[2], &rows[3], &rows[4]};
    accept_ok(&f, list, 5);
    ck_assert(uuid_equal(rows[2].repeats, first.id) && rows[2].seq == 0);
    ck_assert(rows[0].seq > first.seq && rows[1].seq > rows[0].seq && rows[3].seq > rows[1].seq &&
              rows[4].seq > rows[3].seq);
    ck_assert(uuid_is_none(rows[0].repeats) && uuid_is_none(rows[1].repeats));
    ck_assert_int_eq(rows_of(&f), 5);
    struct store_message late = accept_keyed(&f, 4, 1, window_ms);
    ck_assert(uuid_equal(late.repeats, rows[3].id));
    close_store(&f);
}
END_TEST

/* Two of one key in a batch, and rows that are refused: a refused row's key is free. */
START_TEST(test_bad_batches)
{
    struct fixture f;
    open_store(&f);
    struct store_message rows[] = {keyed(1, 1, SHORT_MS), keyed(2, 1, SHORT_MS),
                                   keyed(1, 2, SHORT_MS), keyed(3, 1, SHORT_MS),
                                   keyed(4, 1, SHORT_MS), keyed(1, 1, SHORT_MS)};
    struct store_message *list[] = {&rows[0], &rows[1], &rows[2], &rows[3], &rows[4], &rows[5]};
    rows[3].received_us = 0; /* no such thing */
    accept_ok(&f, list, 6);
    ck_assert(rows[0].seq && rows[1].seq && !rows[2].seq && !rows[3].seq && rows[4].seq);
    ck_assert(uuid_equal(rows[2].repeats, rows[0].id) && rows[2].repeats_otherwise);
    ck_assert(uuid_equal(rows[5].repeats, rows[0].id) && !rows[5].repeats_otherwise);
    ck_assert_int_eq(rows[3].error, ERR_INVALID);
    ck_assert_int_gt(accept_keyed(&f, 3, 1, SHORT_MS).seq, 0);
    /* The same message once more: its row is there. */
    struct store_message same = rows[0], *row = &same;
    accept_ok(&f, &row, 1);
    ck_assert(same.error == ERR_INVALID && same.seq == 0);
    close_store(&f);
}
END_TEST

START_TEST(test_expiry)
{
    struct fixture f;
    open_store(&f);
    struct store_message first = accept_keyed(&f, 1, 1, 400);
    ck_assert(uuid_equal(accept_keyed(&f, 1, 1, SHORT_MS).repeats, first.id));
    run_for_ms(f.loop, 450);
    struct store_message second = accept_keyed(&f, 1, 1, SHORT_MS);
    ck_assert_int_gt(second.seq, first.seq);
    ck_assert(uuid_equal(accept_keyed(&f, 1, 1, SHORT_MS).repeats, second.id));
    /* A window of nothing. */
    ck_assert_int_gt(accept_keyed(&f, 2, 1, 0).seq, 0);
    ck_assert_int_gt(accept_keyed(&f, 2, 1, 0).seq, 0);
    close_store(&f);
}
END_TEST

static void set_first_day(struct fixture *f, const char *sql)
{
    pg_server_sql(&server, f->database,
                  "CREATE OR REPLACE FUNCTION hie.dedup_first_day() RETURNS date LANGUAGE sql "
                  "STABLE AS $$ SELECT %s $$",
                  sql);
}

/* Yesterday's keys hold for a day. */
START_TEST(test_yesterday)
{
    struct fixture f;
    open_store(&f);
    set_first_day(&f, "hie.dedup_day()"); /* whatever the hour */
    struct store_message first = accept_keyed(&f, 1, 1, DAY_MS),
                         over = accept_keyed(&f, 2, 1, DAY_MS);
    pg_server_sql(&server, f.database, "UPDATE hie.dedup_keys SET day = hie.dedup_first_day() - 1");
    pg_server_sql(&server, f.database,
                  "UPDATE hie.dedup_keys SET expires_at = now() WHERE correlation_id = '%s'",
                  id_text(over.id));
    for (int i = 0; i < 2; i++) { /* the second time it stands in today's row too */
        struct store_message again = accept_keyed(&f, 1, 2, DAY_MS);
        ck_assert(uuid_equal(again.repeats, first.id) && again.repeats_otherwise);
    }
    struct store_message second = accept_keyed(&f, 2, 1, DAY_MS);
    ck_assert_int_gt(second.seq, 0);
    ck_assert(uuid_equal(accept_keyed(&f, 2, 1, DAY_MS).repeats, second.id));
    close_store(&f);
}
END_TEST

/* One writer is under way: the other waits for its end, and repeats it or is the first. */
START_TEST(test_waits)
{
    const int64_t window_ms = _i ? DAY_MS : SHORT_MS;
    struct fixture f;
    open_store(&f);
    PGconn *first = connect_raw(f.database);
    for (int commits = 0; commits < 2; commits++) {
        struct store_message m = keyed(10 + (uint64_t)commits, 1, window_ms), *row = &m;
        struct uuid id = uuid_new(clock_wall_ms());
        struct answer answer = {0};
        run_raw(first,
                "BEGIN; INSERT INTO hie.dedup_keys VALUES (now() + interval '1 hour',"
                " hie.dedup_day(), '%s', '%s', '%s')",
                id_text(m.dedup_key), id_text(m.dedup_fingerprint), id_text(id));
        f.store->ops->accept(f.store, &row, 1, on_done, &answer);
        run_for_ms(f.loop, 150);
        ck_assert_int_eq(answer.calls, 0);
        run_raw(first, commits ? "COMMIT" : "ROLLBACK");
        run_until(f.loop, &answer.calls, 0);
        ck_assert_int_eq(answer.err.code, ERR_NONE);
        ck_assert(commits ? uuid_equal(m.repeats, id) && m.seq == 0 : m.seq > 0);
    }
    PQfinish(first);
    close_store(&f);
}
END_TEST

/* Three stores accept the same keys at the same moment, in various orders: one of each is written, the others repeat it. */
START_TEST(test_race)
{
    enum { WHO = 3, COUNT = 120, ROUNDS = 5 };
    static struct store_message rows[WHO][COUNT], *list[WHO][COUNT];
    struct fixture f[WHO];
    open_store(&f[0]);
    open_beside(&f[1], &f[0]);
    open_beside(&f[2], &f[0]);
    for (int round = 0; round < ROUNDS; round++) {
        struct answer answers[WHO] = {{0}, {0}, {0}};
        for (int who = 0; who < WHO; who++) {
            for (size_t i = 0; i < COUNT; i++) {
                uint64_t number = (uint64_t)round * 1000 + i;
                /* Half of the rounds by the careful statement from the start. */
                rows[who][i] = keyed(number, (uint8_t)who, round % 2 ? DAY_MS : SHORT_MS);
                size_t at = who == 0 ? i : who == 1 ? COUNT - 1 - i : (i + COUNT / 2) % COUNT;
                list[who][at] = &rows[who][i];
            }
        }
        for (int who = 0; who < WHO; who++)
            f[who].store->ops->accept(f[who].store, list[who], COUNT, on_done, &answers[who]);
        for (int who = 0; who < WHO; who++) {
            run_until(f[0].loop, &answers[who].calls, 0);
            ck_assert_int_eq(answers[who].err.code, ERR_NONE);
        }
        for (size_t i = 0; i < COUNT; i++) {
            int winner = -1;
            for (int who = 0; who < WHO; who++) {
                ck_assert_int_eq(rows[who][i].error, ERR_NONE);
                ck_assert(rows[who][i].seq == 0 || winner < 0);
                winner = rows[who][i].seq ? who : winner;
            }
            ck_assert_int_ge(winner, 0);
            for (int who = 0; who < WHO; who++)
                ck_assert(who == winner || (uuid_equal(rows[who][i].repeats, rows[winner][i].id) &&
                                            rows[who][i].repeats_otherwise));
        }
    }
    ck_assert_int_eq(rows_of(&f[0]), COUNT * ROUNDS);
    ck_assert(!log_has("deadlock detected"));
    close_beside(&f[2]);
    close_beside(&f[1]);
    close_store(&f[0]);
}
END_TEST

/* Who began before midnight and is not over is met by who begins after; and so is, after the first hour, who began in it. */
START_TEST(test_midnight)
{
    const int64_t window_ms = _i ? DAY_MS : SHORT_MS;
    struct fixture f;
    open_store(&f);
    PGconn *before = connect_raw(f.database);
    set_first_day(&f, "hie.dedup_day() - 1"); /* as in the first hour */
    struct store_message m = keyed(1, 1, window_ms), *row = &m;
    struct uuid id = uuid_new(clock_wall_ms());
    struct answer answer = {0};
    run_raw(before,
            "BEGIN; INSERT INTO hie.dedup_keys VALUES (now() + interval '5 minutes',"
            " hie.dedup_day() - 1, '%s', '%s', '%s')",
            id_text(m.dedup_key), id_text(m.dedup_fingerprint), id_text(id));
    f.store->ops->accept(f.store, &row, 1, on_done, &answer);
    run_for_ms(f.loop, 150);
    ck_assert_int_eq(answer.calls, 0);
    run_raw(before, "COMMIT");
    run_until(f.loop, &answer.calls, 0);
    ck_assert(uuid_equal(m.repeats, id));
    PQfinish(before);
    /* Within the hour, and after it. */
    struct store_message second = accept_keyed(&f, 2, 1, window_ms);
    ck_assert_int_gt(second.seq, 0);
    ck_assert(uuid_equal(accept_keyed(&f, 2, 1, window_ms).repeats, second.id));
    set_first_day(&f, "hie.dedup_day()");
    ck_assert(uuid_equal(accept_keyed(&f, 1, 1, window_ms).repeats, id));
    ck_assert(uuid_equal(accept_keyed(&f, 2, 1, window_ms).repeats, second.id));
    ck_assert_int_gt(accept_keyed(&f, 3, 1, window_ms).seq, 0);
    close_store(&f);
}
END_TEST

/* Days come and go; the default partition takes what has no day. */
START_TEST(test_partitions)
{
    struct fixture f;
    open_store(&f);
    pg_server_sql(&server, f.database,
                  "SELECT hie.make_dedup_partitions(hie.dedup_day() - 9, hie.dedup_day() - 8)");
    pg_server_sql(
        &server, f.database, "DROP TABLE hie.dedup_keys_%s",
        pg_server_sql(&server, f.database, "SELECT to_char(hie.dedup_day(), 'YYYYMMDD')"));
    struct store_message first = accept_keyed(&f, 1, 1, SHORT_MS);
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.dedup_keys_default"), 1);
    struct answer maintained = {0};
    f.store->ops->maintain(f.store, on_done, &maintained);
    run_until(f.loop, &maintained.calls, 0);
    ck_assert_int_eq(maintained.err.code, ERR_NONE);
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.dedup_keys_default"), 0);
    ck_assert(uuid_equal(accept_keyed(&f, 1, 1, SHORT_MS).repeats, first.id));
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM pg_inherits WHERE inhparent = "
                                      "'hie.dedup_keys'::regclass"),
                     1 + 9); /* yesterday to a week from now, and the default one */
    close_store(&f);
}
END_TEST

/* Without its locks it gives up before those who write behind it notice. */
START_TEST(test_maintenance_gives_up)
{
    struct fixture f;
    open_store(&f);
    pg_server_sql(&server, f.database,
                  "SELECT hie.make_dedup_partitions(hie.dedup_day() - 9, hie.dedup_day() - 8)");
    pg_server_sql(
        &server, f.database, "DROP TABLE hie.dedup_keys_%s",
        pg_server_sql(&server, f.database, "SELECT to_char(hie.dedup_day() + 7, 'YYYYMMDD')"));
    PGconn *reader = connect_raw(f.database);
    run_raw(reader, "BEGIN; SELECT count(*) FROM hie.dedup_keys_default");
    for (int tries = 0; tries < 2; tries++) {
        struct answer maintained = {0};
        f.store->ops->maintain(f.store, on_done, &maintained);
        run_until(f.loop, &maintained.calls, 0);
        ck_assert_int_eq(maintained.err.code, tries ? ERR_NONE : ERR_UNAVAILABLE);
        ck_assert_int_eq(pg_server_number(&server, f.database,
                                          "SELECT count(*) FROM pg_inherits WHERE inhparent = "
                                          "'hie.dedup_keys'::regclass"),
                         tries ? 10 : 11);
        run_raw(reader, "COMMIT");
    }
    PQfinish(reader);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_dedup");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, test_repeats, 0, 2);
    tcase_add_test(all, test_bad_batches);
    tcase_add_test(all, test_expiry);
    tcase_add_test(all, test_yesterday);
    tcase_add_loop_test(all, test_waits, 0, 2);
    tcase_add_test(all, test_race);
    tcase_add_loop_test(all, test_midnight, 0, 2);
    tcase_add_test(all, test_partitions);
    tcase_add_test(all, test_maintenance_gives_up);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
