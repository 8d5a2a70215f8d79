/* What the store does when PostgreSQL, or another process, misbehaves: deaths in the middle, refused logins, wrong schemas,
 * races between workers. */
#include "harness.h"

#define MANY 20

static void set_hba(const char *lines)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/data/pg_hba.conf", server.dir);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fprintf(file, "%slocal all all trust\nhost all all 127.0.0.1/32 trust\n", lines);
    fclose(file);
    pg_server_sql(&server, "postgres", "SELECT pg_reload_conf()");
}

/* Polls a query that answers t or f, 20 s at most, while the loop goes on. */
static void poll_until_true(struct fixture *f, const char *sql)
{
    for (int i = 0; i < 400; i++) {
        if (strcmp(pg_server_sql(&server, f->database, "%s", sql), "t") == 0)
            return;
        run_for_ms(f->loop, 50);
    }
    ck_abort_msg("never true: %s", sql);
}

START_TEST(test_killed_in_the_middle)
{
    struct fixture f;
    struct store_message rows[MANY], *list[MANY];
    struct answer answers[MANY];
    memset(answers, 0, sizeof(answers));
    open_store(&f);
    PGconn *blocker = connect_raw(f.database);
    run_raw(blocker, "BEGIN; LOCK TABLE hie.accepted IN EXCLUSIVE MODE");
    for (int i = 0; i < MANY; i++) {
        rows[i] = new_message("In");
        list[i] = &rows[i];
        f.store->ops->accept(f.store, &list[i], 1, on_done, &answers[i]);
    }
    poll_until_true(&f, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted");
    pg_server_end(&server, SIGKILL);
    PQfinish(blocker);
    run_until(f.loop, &f.downs, 0);
    ck_assert(!store_pg_is_up(f.store));
    for (int i = 0; i < MANY; i++) {
        run_until(f.loop, &answers[i].calls, 0); /* the other link may be the first to notice */
        /* Sixteen were on their way, the rest was never sent. */
        ck_assert_int_eq(answers[i].calls, 1);
        ck_assert_int_eq(answers[i].err.code, i < 16 ? ERR_OUTCOME_UNKNOWN : ERR_UNAVAILABLE);
    }
    struct answer away = {0};
    CALL(&f, away, accept, list, 1, on_done);
    ck_assert_int_eq(away.err.code, ERR_UNAVAILABLE);
    pg_server_run(&server);
    run_until(f.loop, &f.ups, 1);
    ck_assert(!is_known(&f, rows[0].id));
    accept_ok(&f, list, MANY);
    ck_assert(is_known(&f, rows[0].id));
    close_store(&f);
}
END_TEST

/* The server commits, waits for a standby that is not there, and dies before it answers. */
START_TEST(test_committed_and_unanswered)
{
    struct fixture f;
    struct answer answer = {0};
    open_store(&f);
    struct store_message message = new_message("In"), *row = &message;
    pg_server_sql(&server, "postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    pg_server_sql(&server, "postgres", "SELECT pg_reload_conf()");
    usleep(200000);
    f.store->ops->accept(f.store, &row, 1, on_done, &answer);
    poll_until_true(&f, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    ck_assert_int_eq(answer.calls, 0);
    PGconn *other = connect_raw(f.database);
    run_raw(other, "SET synchronous_commit = local");
    run_raw(other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    run_until(f.loop, &answer.calls, 0);
    ck_assert_int_eq(answer.err.code, ERR_OUTCOME_UNKNOWN);
    run_raw(other, "ALTER SYSTEM RESET synchronous_standby_names");
    run_raw(other, "SELECT pg_reload_conf()");
    PQfinish(other);
    run_until(f.loop, &f.ups, 1);
    ck_assert(is_known(&f, message.id));
    close_store(&f);
}
END_TEST

START_TEST(test_restart)
{
    struct fixture f;
    open_store(&f);
    for (int i = 0; i < 3; i++) {
        struct store_message a = accepted_message(&f, "In");
        pg_server_end(&server, SIGINT);
        run_until(f.loop, &f.downs, i);
        pg_server_run(&server);
        run_until(f.loop, &f.ups, i + 1);
        ck_assert(is_known(&f, a.id));
        struct store_outcome end = end_of(&a, STORE_COMPLETED, 1);
        ck_assert(settle_one(&f, &end));
        ck_assert_int_eq(f.downs, i + 1);
    }
    ck_assert_int_eq(f.fatals, 0);
    close_store(&f);
}
END_TEST

static void expect_fatal(const char *url, enum error_code code)
{
    struct fixture f;
    open_url(&f, url);
    run_until(f.loop, &f.fatals, 0);
    ck_assert_int_eq(f.fatal.code, code);
    ck_assert_ptr_null(strstr(f.fatal.text, "secret"));
    run_for_ms(f.loop, 50);
    ck_assert_int_eq(f.fatals, 1);
    ck_assert_int_eq(f.ups, 0);
    close_store(&f);
}

START_TEST(test_logins)
{
    char url[160];
    pg_server_sql(&server, "postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'");
    set_hba("host all locked 127.0.0.1/32 scram-sha-256\n");
    snprintf(url, sizeof(url), "postgresql://locked:secret@127.0.0.1:%d/postgres", server.port);
    expect_fatal(url, ERR_AUTH);
    snprintf(url, sizeof(url), "postgresql://locked@127.0.0.1:%d/postgres", server.port);
    expect_fatal(url, ERR_AUTH);
    snprintf(url, sizeof(url), "postgresql://absent@127.0.0.1:%d/postgres", server.port);
    expect_fatal(url, ERR_AUTH);
    expect_fatal(pg_server_url(&server, "absent"), ERR_AUTH);
    expect_fatal("postgresql://[secret", ERR_CONFIG);
    set_hba("");
}
END_TEST

/* Nobody there, no room, no writing: all of that passes. */
START_TEST(test_waiting)
{
    struct fixture f;
    char url[160];
    snprintf(url, sizeof(url), "postgresql://hie@127.0.0.1:%d/x", pg_server_free_port());
    open_url(&f, url);
    run_until(f.loop, &f.downs, 0);
    run_for_ms(f.loop, 500); /* it tries again, and tells once */
    ck_assert_int_eq(f.downs, 1);
    ck_assert_int_eq(f.fatals, 0);
    ck_assert_int_eq(f.down.code, ERR_UNAVAILABLE);
    close_store(&f);

    const char *database = pg_server_database(&server);
    pg_server_sql(&server, "postgres", "CREATE ROLE busy LOGIN CONNECTION LIMIT 0");
    snprintf(url, sizeof(url), "postgresql://busy@127.0.0.1:%d/%s", server.port, database);
    open_url(&f, url);
    run_until(f.loop, &f.downs, 0);
    run_for_ms(f.loop, 500); /* it tries again, and tells once */
    ck_assert_int_eq(f.downs, 1);
    ck_assert_int_eq(f.fatals, 0);
    ck_assert_ptr_nonnull(strstr(f.down.text, "53300"));
    /* It may connect now, but not make the schema. */
    pg_server_sql(&server, "postgres", "ALTER ROLE busy CONNECTION LIMIT -1");
    run_until(f.loop, &f.fatals, 0);
    ck_assert_int_eq(f.fatal.code, ERR_SCHEMA);
    close_store(&f);

    pg_server_sql(&server, "postgres", "ALTER DATABASE %s SET default_transaction_read_only = on",
                  database);
    open_url(&f, pg_server_url(&server, database));
    run_until(f.loop, &f.downs, 0);
    run_for_ms(f.loop, 500); /* it tries again, and tells once */
    ck_assert_int_eq(f.downs, 1);
    ck_assert_int_eq(f.fatals, 0);
    PGconn *conn = connect_raw(database);
    run_raw(conn, "SET default_transaction_read_only = off");
    run_raw(conn, "ALTER DATABASE %s SET default_transaction_read_only = off", database);
    PQfinish(conn);
    run_until(f.loop, &f.ups, 0);
    close_store(&f);
}
END_TEST

START_TEST(test_ten_migrate_at_once)
{
    const char *database = pg_server_database(&server);
    const char *url = pg_server_url(&server, database);
    pid_t pids[10];
    for (int i = 0; i < 10; i++) {
        pids[i] = fork();
        ck_assert_int_ge(pids[i], 0);
        if (pids[i])
            continue;
        struct fixture f;
        open_url(&f, url);
        run_until(f.loop, &f.ups, 0);
        _exit(f.fatals ? 1 : 0);
    }
    for (int i = 0; i < 10; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
    ck_assert_int_gt(
        pg_server_number(&server, database, "SELECT count(*) FROM hie.schema_versions"), 0);
    ck_assert_str_eq(
        pg_server_sql(&server, database, "SELECT count(*) = max(version) FROM hie.schema_versions"),
        "t");
}
END_TEST

START_TEST(test_other_schemas)
{
    struct fixture f;
    open_store(&f);
    close_store(&f);
    pg_server_sql(&server, f.database,
                  "UPDATE hie.schema_versions SET hash = 'x' WHERE version = 2");
    expect_fatal(pg_server_url(&server, f.database), ERR_SCHEMA);
    open_store(&f);
    close_store(&f);
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.schema_versions (version, name, hash) "
                  "SELECT max(version) + 1, 'later', 'x' FROM hie.schema_versions");
    expect_fatal(pg_server_url(&server, f.database), ERR_SCHEMA);
}
END_TEST

/* What the server says of itself is not the rows' fault: nothing is split, nothing refused. */
START_TEST(test_server_errors)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = new_message("In"), b = new_message("In"), *rows[] = {&a, &b};
    pg_server_sql(&server, f.database,
                  "CREATE SEQUENCE hie.tries; CREATE FUNCTION fail() RETURNS trigger LANGUAGE "
                  "plpgsql AS $$BEGIN "
                  "IF TG_ARGV[0] <> '40P01' OR nextval('hie.tries') = 1 THEN "
                  "RAISE EXCEPTION 'secret' USING ERRCODE = TG_ARGV[0]; END IF; RETURN NEW; END$$;"
                  "CREATE TRIGGER fail BEFORE INSERT ON hie.accepted FOR EACH ROW "
                  "EXECUTE FUNCTION fail('53100')");
    struct answer full = {0};
    CALL(&f, full, accept, rows, 2, on_done);
    ck_assert_int_eq(full.err.code, ERR_UNAVAILABLE);
    ck_assert_msg(strstr(full.err.text, "53100") != NULL, "%s", full.err.text);
    ck_assert_ptr_null(strstr(full.err.text, "secret"));
    ck_assert_int_eq(a.error, ERR_NONE);
    ck_assert_int_eq(a.seq, 0);
    pg_server_sql(
        &server, f.database,
        "DROP TRIGGER fail ON hie.accepted; CREATE TRIGGER fail BEFORE INSERT ON hie.accepted "
        "FOR EACH ROW EXECUTE FUNCTION fail('40P01')");
    accept_ok(&f, rows, 2); /* a deadlock is tried again */
    ck_assert_int_gt(b.seq, a.seq);
    close_store(&f);
}
END_TEST

/* Two workers settle the same messages at the same time, in opposite orders. */
START_TEST(test_settle_race)
{
    struct fixture f, g;
    enum { COUNT = 200 };
    struct store_message rows[COUNT], *list[COUNT];
    struct store_outcome ends[2][COUNT], *end_list[2][COUNT];
    struct store_message children[2][COUNT];
    open_store(&f);
    open_database(&g, f.database);
    for (int i = 0; i < COUNT; i++) {
        rows[i] = new_message("In");
        list[i] = &rows[i];
    }
    accept_ok(&f, list, COUNT);
    for (int who = 0; who < 2; who++) {
        for (int i = 0; i < COUNT; i++) {
            ends[who][i] = end_of(&rows[i], STORE_COMPLETED, 1);
            children[who][i] = new_message("Out");
            children[who][i].id = uuid_child(rows[i].id, 1, 0, 0);
            children[who][i].parent = rows[i].id;
            ends[who][i].children = &children[who][i];
            ends[who][i].child_count = 1;
            end_list[who][who ? COUNT - 1 - i : i] = &ends[who][i];
        }
    }
    struct answer answers[2] = {{0}, {0}};
    f.store->ops->settle(f.store, end_list[0], COUNT, on_done, &answers[0]);
    f.store->ops->settle(f.store, end_list[0] + COUNT / 2, COUNT / 2, on_done, &answers[0]);
    g.store->ops->settle(g.store, end_list[1], COUNT, on_done, &answers[1]);
    while (answers[0].calls < 2 || answers[1].calls < 1) {
        run_for_ms(f.loop, 2);
        run_for_ms(g.loop, 2);
    }
    ck_assert_int_eq(answers[1].err.code, ERR_NONE);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.ended"),
                     COUNT);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.messages WHERE item = 'Out'"),
                     COUNT);
    close_store(&g);
    close_store(&f);
}
END_TEST

/* A claim that takes over waits for settles under way, and sees what they did. */
START_TEST(test_take_over_waits)
{
    struct fixture f;
    open_store(&f);
    struct store_message a = accepted_message(&f, "In"), b = accepted_message(&f, "In");
    PGconn *settle = connect_raw(f.database);
    run_raw(settle,
            "BEGIN; INSERT INTO hie.ended (at, correlation_id, run, attempt, status, pattern, item)"
            " VALUES (now(), '%s', 1, 1, 0, 0, 'In')",
            id_text(a.id));
    struct store_claim claims[2] = {{.id = a.id, .taken_over = true},
                                    {.id = b.id, .taken_over = true}};
    struct answer answer = {0};
    f.store->ops->claim(f.store, "worker", claims, 2, on_done, &answer);
    run_for_ms(f.loop, 200);
    ck_assert_int_eq(answer.calls, 0);
    run_raw(settle, "COMMIT");
    PQfinish(settle);
    run_until(f.loop, &answer.calls, 0);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    ck_assert(claims[0].ended && !claims[1].ended);
    ck_assert_int_eq(claims[1].attempt, 2);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_faults");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_killed_in_the_middle);
    tcase_add_test(all, test_committed_and_unanswered);
    tcase_add_test(all, test_restart);
    tcase_add_test(all, test_logins);
    tcase_add_test(all, test_waiting);
    tcase_add_test(all, test_ten_migrate_at_once);
    tcase_add_test(all, test_other_schemas);
    tcase_add_test(all, test_server_errors);
    tcase_add_test(all, test_settle_race);
    tcase_add_test(all, test_take_over_waits);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
