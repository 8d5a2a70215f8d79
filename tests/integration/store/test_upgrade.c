/* A database that an earlier release made, with messages in it: brought up to date, read right, worked on. */
#include "base/embedded.h"
#include "listed.h"

#include <inttypes.h>

#define RELEASED                                                                                   \
    2 /* migrations of the earlier release: messages without runs, partitions and versions */

/* Applies the first migrations as a program of their time did. */
static const char *released_database(void)
{
    const char *database = pg_server_database(&server);
    PGconn *conn = connect_raw(database);
    run_raw(conn,
            "CREATE SCHEMA hie; CREATE TABLE hie.schema_versions (version integer PRIMARY KEY,"
            " name text NOT NULL, hash text NOT NULL, at timestamptz NOT NULL DEFAULT now())");
    for (size_t i = 0; i < RELEASED; i++) {
        const struct embedded_file *file = &sql_migrations[i];
        PGresult *result = PQexec(conn, file->text);
        ck_assert_int_eq(PQresultStatus(result), PGRES_COMMAND_OK);
        PQclear(result);
        run_raw(conn,
                "INSERT INTO hie.schema_versions (version, name, hash)"
                " VALUES (%zu, '%s', '%016" PRIx64 "')",
                i + 1, file->name, hash_bytes(HASH_SEED, file->text, file->len));
    }
    PQfinish(conn);
    return database;
}

static struct uuid old_message(PGconn *conn, const char *item)
{
    struct uuid id = uuid_new(clock_wall_ms());
    run_raw(conn,
            "INSERT INTO hie.accepted (received_at, correlation_id, pattern, direction, priority,"
            " item, control_id, content_type, body)"
            " VALUES (now(), '%s', 0, 0, 0, '%s', 'MSG1', 'text/plain', 'body')",
            id_text(id), item);
    return id;
}

static struct uuid old_end(PGconn *conn, const char *item, int status)
{
    struct uuid id = old_message(conn, item);
    run_raw(
        conn,
        "INSERT INTO hie.ended (at, correlation_id, run, attempt, status, pattern, item, worker,"
        " error, reply) VALUES (now(), '%s', 1, 3, %d, 0, '%s', 'old', %s, 'old reply')",
        id_text(id), status, item, status ? "'it said no'" : "NULL");
    return id;
}

static void old_attempt(PGconn *conn, struct uuid id, int attempt)
{
    run_raw(conn,
            "INSERT INTO hie.attempts (correlation_id, run, attempt, kind, at, due_at, error)"
            " VALUES ('%s', 1, %d, 0, now(), now(), 'not now')",
            id_text(id), attempt);
}

struct old_rows {
    struct uuid done, straggler, dead, dismissed, retrying, fresh;
};

static void fill(const char *database, struct old_rows *ret)
{
    PGconn *conn = connect_raw(database);
    ret->done = old_end(conn, "In", 0);
    ret->straggler = old_message(conn, "In");
    ret->dead = old_end(conn, "In", 1);
    ret->dismissed = old_end(conn, "In", 1);
    run_raw(conn,
            "INSERT INTO hie.stragglers (seq, correlation_id)"
            " SELECT seq, correlation_id FROM hie.accepted WHERE correlation_id = '%s'"
            " UNION ALL SELECT 1000000, gen_random_uuid()", /* of a day that is dropped */
            id_text(ret->straggler));
    run_raw(conn, "UPDATE hie.marks SET low = (SELECT max(seq) FROM hie.accepted)");
    ret->retrying = old_message(conn, "In");
    old_attempt(conn, ret->retrying, 1);
    old_attempt(conn, ret->retrying, 2);
    ret->fresh = old_message(conn, "In");
    run_raw(conn,
            "CREATE ROLE reader_%s; GRANT USAGE ON SCHEMA hie TO reader_%s;"
            "GRANT SELECT ON hie.messages, hie.dead_letters TO reader_%s",
            database, database, database);
    PQfinish(conn);
}

static const char *told_of(struct fixture *f, struct uuid id)
{
    return pg_server_sql(&server, f->database,
                         "SELECT concat_ws(' ', state, run, attempts, error, partition, version)"
                         " FROM hie.messages WHERE correlation_id = '%s'",
                         id_text(id));
}

static void on_handled(void *arg, const struct err *err, const struct store_handled *handled)
{
    on_number(arg, err, (int64_t)handled->count);
}

static void on_letters(void *arg, const struct err *err, const struct store_dead_letter *rows,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ck_assert_str_eq(rows[i].reason, "it said no");
        ck_assert_str_eq(rows[i].control_id, "MSG1");
        ck_assert_int_eq(rows[i].attempts, 3);
    }
    on_number(arg, err, (int64_t)count);
}

START_TEST(test_old_rows_are_read)
{
    struct fixture f;
    struct old_rows old;
    const char *database = released_database();
    fill(database, &old);
    open_database(&f, database);
    ck_assert_uint_eq(
        (size_t)pg_server_number(&server, database, "SELECT count(*) FROM hie.schema_versions"),
        sql_migrations_count);
    ck_assert_str_eq(told_of(&f, old.done), "completed 1 3");
    ck_assert_str_eq(told_of(&f, old.dead), "dead_lettered 1 3 it said no");
    ck_assert_str_eq(told_of(&f, old.straggler), "accepted 1 0");
    ck_assert_str_eq(told_of(&f, old.retrying), "retrying 1 2 not now");
    ck_assert_int_eq(pg_server_number(&server, database, "SELECT count(*) FROM hie.wal"), 3);
    ck_assert_int_eq(pg_server_number(&server, database, "SELECT count(*) FROM hie.dead_letters"),
                     2);
    ck_assert_int_eq(pg_server_number(&server, database, "SELECT count(*) FROM hie.audit"), 11);
    pg_server_sql(&server, database,
                  "SET ROLE reader_%s; SELECT count(*) FROM hie.dead_letters; SELECT count(*) FROM "
                  "hie.messages",
                  database);
    struct listed page = page_of(&f, 0, 10);
    ck_assert_uint_eq(page.count, 3);
    ck_assert(uuid_equal(page.ids[0], old.straggler) && uuid_equal(page.ids[1], old.retrying) &&
              uuid_equal(page.ids[2], old.fresh));
    for (size_t i = 0; i < 3; i++)
        ck_assert(page.partitions[i] == -1 && page.versions[i] == 0);
    struct answer letters = {0};
    CALL(&f, letters, dead_letters, "In", UUID_NONE, 10, on_letters);
    ck_assert_int_eq(letters.number, 2);
    close_store(&f);
}
END_TEST

START_TEST(test_old_rows_are_worked_on)
{
    struct fixture f;
    struct old_rows old;
    const char *database = released_database();
    fill(database, &old);
    open_database(&f, database);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    struct answer redriven = {0}, dismissed = {0};
    CALL(&f, redriven, redrive, "In", &old.dead, 1, UUID_NONE, on_handled);
    CALL(&f, dismissed, dismiss, "In", &old.dismissed, 1, UUID_NONE, on_handled);
    ck_assert(redriven.number == 1 && dismissed.number == 1);
    ck_assert_str_eq(told_of(&f, old.dead), "accepted 2 0");
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 4);

    struct uuid ids[] = {old.straggler, old.retrying, old.fresh, old.dead};
    const int runs[] = {1, 1, 1, 2}, attempts[] = {1, 3, 1, 1};
    for (int i = 0; i < 4; i++) {
        struct store_claim claim = claim_one(&f, ids[i], i == 1);
        ck_assert(claim.known && !claim.ended && claim.run == runs[i]);
        ck_assert_int_eq(claim.attempt, attempts[i] + (i == 1));
        struct store_message message = {.id = ids[i], .item = "In"};
        struct store_outcome end = end_of(&message, STORE_COMPLETED, claim.attempt);
        end.run = claim.run;
        ck_assert(settle_one(&f, &end));
    }
    ck_assert(claim_one(&f, old.done, true).ended && claim_one(&f, old.dismissed, true).ended);
    ck_assert_uint_eq(page_of(&f, 0, 10).count, 0);
    struct store_message next = accepted_message(&f, "In");
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(mark_ok(&f, 0, 0), next.seq - 1);
    ck_assert_int_eq(pg_server_number(&server, database, "SELECT count(*) FROM hie.stragglers"), 0);
    struct answer maintained = {0};
    f.store->ops->maintain(f.store, on_done, &maintained);
    run_until(f.loop, &maintained.calls, 0);
    ck_assert_int_eq(maintained.err.code, ERR_NONE);
    close_store(&f);
}
END_TEST

/* A migration that cannot have its locks lets those behind it through and comes again. */
START_TEST(test_migration_waits_briefly)
{
    struct fixture f;
    const char *database = released_database();
    PGconn *reader = connect_raw(database);
    run_raw(reader, "BEGIN; SELECT FROM hie.accepted");
    open_url(&f, pg_server_url(&server, database));
    f.database = database;
    run_until(f.loop, &f.downs, 0);
    ck_assert_int_eq(f.fatals, 0);
    ck_assert_int_eq(f.ups, 0);
    run_raw(reader, "COMMIT");
    run_until(f.loop, &f.ups, 0);
    PQfinish(reader);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_upgrade");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_old_rows_are_read);
    tcase_add_test(all, test_old_rows_are_worked_on);
    tcase_add_test(all, test_migration_waits_briefly);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
