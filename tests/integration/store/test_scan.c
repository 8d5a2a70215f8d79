/* Unfinished messages, children, counts, the low mark, leases, partitions, against a real PostgreSQL. */
#include "listed.h"

START_TEST(test_unfinished)
{
    struct fixture f;
    struct store_message m[10];
    open_store(&f);
    struct listed none = page_of(&f, 0, 10);
    ck_assert_uint_eq(none.count, 0);
    ck_assert(none.end);
    for (int i = 0; i < 10; i++)
        m[i] = accepted_message(&f, "In");
    for (int i = 0; i < 10; i += 2) {
        struct store_outcome end = end_of(&m[i], STORE_COMPLETED, 1);
        ck_assert(settle_one(&f, &end));
    }
    struct store_outcome retry = end_of(&m[3], STORE_RETRY, 1);
    ck_assert(settle_one(&f, &retry));
    struct listed first = page_of(&f, 0, 3);
    ck_assert_uint_eq(first.count, 3);
    ck_assert(!first.end);
    ck_assert_int_eq(first.next_seq, m[5].seq);
    ck_assert(uuid_equal(first.ids[0], m[1].id));
    ck_assert_int_eq(first.seqs[1], m[3].seq);
    ck_assert_int_eq(first.due_ms[1], retry.due_ms);
    ck_assert_int_eq(first.due_ms[0], 0);
    ck_assert_str_eq(first.items[0], "In");
    struct listed second = page_of(&f, first.next_seq, 3);
    ck_assert_uint_eq(second.count, 2);
    ck_assert(second.end);
    ck_assert(uuid_equal(second.ids[1], m[9].id));
    close_store(&f);
}
END_TEST

START_TEST(test_fetch)
{
    struct fixture f;
    open_store(&f);
    char *big = mem_alloc(MESSAGE_INLINE_MAX + 1);
    struct store_message m[4], *rows[4];
    for (int i = 0; i < 4; i++) {
        m[i] = new_message("In");
        m[i].ordering_key = SLICE_LITERAL("key");
        m[i].partition = i == 3 ? -1 : i;
        m[i].version = i == 3 ? 0 : 7;
        rows[i] = &m[i];
    }
    m[1].body = body_of(big, MESSAGE_INLINE_MAX + 1);
    m[2].body = body_of(big, MESSAGE_INLINE_MAX);
    accept_ok(&f, rows, 4);
    struct store_outcome end = end_of(&m[0], STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end));
    struct uuid ids[] = {m[3].id, m[1].id, m[0].id, uuid_new(clock_wall_ms()), m[2].id};
    struct listed listed = {0};
    CALL(&f, listed, fetch, ids, 5, on_rows);
    ck_assert_int_eq(listed.err.code, ERR_NONE);
    ck_assert_uint_eq(listed.count, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(listed.seqs[i], m[i + 1].seq);
    ck_assert_uint_eq(listed.inline_lens[0], 0);
    ck_assert_uint_eq(listed.body_lens[0], MESSAGE_INLINE_MAX + 1);
    ck_assert_uint_eq(listed.inline_lens[1], MESSAGE_INLINE_MAX);
    ck_assert_uint_eq(listed.inline_lens[2], 9);
    ck_assert_str_eq(listed.keys[2], "key");
    ck_assert(listed.partitions[0] == 1 && listed.partitions[2] == -1);
    ck_assert(listed.versions[1] == 7 && listed.versions[2] == 0);
    listed = page_of(&f, 0, 2);
    ck_assert(listed.partitions[0] == 1 && listed.partitions[1] == 2);
    free(big);
    close_store(&f);
}
END_TEST

START_TEST(test_children)
{
    struct fixture f;
    open_store(&f);
    struct store_message parents[3], children[3][2];
    for (int i = 0; i < 3; i++) {
        parents[i] = accepted_message(&f, "In");
        struct store_outcome end = end_of(&parents[i], STORE_COMPLETED, 1);
        for (uint32_t j = 0; j < 2; j++) {
            children[i][j] = new_message("Out");
            children[i][j].id = uuid_child(parents[i].id, 1, 0, j);
            children[i][j].parent = parents[i].id;
        }
        end.children = children[i];
        end.child_count = 2;
        ck_assert(settle_one(&f, &end));
    }
    struct store_outcome child_end = end_of(&children[0][1], STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &child_end));
    struct uuid ids[2] = {parents[2].id, parents[0].id};
    struct listed listed = {0};
    CALL(&f, listed, children, ids, 2, on_rows);
    ck_assert_int_eq(listed.err.code, ERR_NONE);
    ck_assert_uint_eq(listed.count, 3);
    ck_assert(uuid_equal(listed.ids[0], children[0][0].id));
    ck_assert(uuid_equal(listed.ids[1], children[2][0].id));
    ck_assert(uuid_equal(listed.ids[2], children[2][1].id));
    close_store(&f);
}
END_TEST

struct counted {
    int calls;
    struct err err;
    int64_t of_a;
    size_t items;
};

static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct counted *counted = arg;
    counted->calls++;
    counted->err = *err;
    counted->items = count;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(counts[i].item, "A") == 0)
            counted->of_a = counts[i].count;
    }
}

/* SQL that accepts rows first..last of item A, without ends. */
static void fill(struct fixture *f, int first, int last)
{
    pg_server_sql(&server, f->database,
                  "INSERT INTO hie.accepted (correlation_id, received_at, pattern, direction, "
                  "priority, item, body)"
                  " SELECT (left(hie.id_floor(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), "
                  "12, '0'))::uuid,"
                  " now(), 0, 0, 0, 'A', '' FROM generate_series(%d, %d) n",
                  first, last);
}

static void end_all_but(struct fixture *f, const char *condition)
{
    pg_server_sql(
        &server, f->database,
        "INSERT INTO hie.ended (at, correlation_id, run, attempt, status, pattern, item)"
        " SELECT now(), correlation_id, 1, 1, 0, 0, item FROM hie.accepted a WHERE NOT (%s)"
        " ON CONFLICT DO NOTHING",
        condition);
}

START_TEST(test_counts)
{
    struct fixture f;
    open_store(&f);
    fill(&f, 1, 12000);
    struct store_message b = accepted_message(&f, "B"), a = accepted_message(&f, "A");
    struct store_outcome dead = end_of(&a, STORE_DEAD_LETTERED, 1);
    ck_assert(settle_one(&f, &dead));
    struct counted counted = {0}, died = {0};
    f.store->ops->counts(f.store, on_counts, &counted);
    run_until(f.loop, &counted.calls, 0);
    ck_assert_int_eq(counted.err.code, ERR_NONE);
    ck_assert_uint_eq(counted.items, 2);
    ck_assert_int_eq(counted.of_a, 12000);
    end_all_but(&f, "false");
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.ended (at, correlation_id, run, attempt, status, pattern, item)"
                  " SELECT now(), correlation_id, 2, 1, 1, 0, item FROM hie.accepted a"
                  " WHERE correlation_id NOT IN (SELECT d.correlation_id FROM hie.dead_letters d)");
    f.store->ops->dead_counts(f.store, on_counts, &died);
    run_until(f.loop, &died.calls, 0);
    ck_assert_int_eq(died.err.code, ERR_NONE);
    ck_assert_uint_eq(died.items, 2);
    ck_assert_int_eq(died.of_a, 12001);
    ck_assert(is_known(&f, b.id));
    close_store(&f);
}
END_TEST

START_TEST(test_low_mark)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    ck_assert_int_gt(token, 0);
    ck_assert_int_eq(mark_ok(&f, 0, 0), 0);
    /* A writer that drew the lower seq and has not committed. */
    PGconn *slow = PQconnectdb(pg_server_url(&server, f.database));
    PQclear(PQexec(
        slow, "BEGIN; INSERT INTO hie.accepted (correlation_id, received_at, pattern, direction, "
              "priority, item, body) VALUES (gen_random_uuid(), now(), 0, 0, 0, 'A', '')"));
    struct store_message a = accepted_message(&f, "A"), b = accepted_message(&f, "A");
    struct store_outcome end = end_of(&a, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end));
    for (int i = 0; i < 4; i++)
        ck_assert_int_lt(mark_ok(&f, token, INT64_MAX), a.seq - 1);
    PQclear(PQexec(slow, "COMMIT"));
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_lt(mark_ok(&f, token, INT64_MAX), a.seq - 1); /* its row is unfinished */
    end_all_but(&f, "a.seq > (SELECT min(seq) FROM hie.accepted)");
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(mark_ok(&f, token, INT64_MAX), b.seq - 1);
    ck_assert_int_eq(mark_ok(&f, token + 1, INT64_MAX), b.seq - 1); /* not the holder's token */
    struct store_outcome end_b = end_of(&b, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end_b));
    ck_assert_int_eq(mark_ok(&f, token + 1, INT64_MAX), b.seq - 1);
    ck_assert_int_eq(mark_ok(&f, token, INT64_MAX), b.seq);
    ck_assert_int_eq(mark_ok(&f, token, 1), b.seq); /* never down */
    ck_assert_int_eq(mark_ok(&f, 0, 0), b.seq);
    PQfinish(slow);
    close_store(&f);
}
END_TEST

/* However many are unfinished, the mark follows; what has ended meanwhile leaves the stragglers quickly. */
START_TEST(test_many_stragglers)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    fill(&f, 1, 100000);
    end_all_but(&f, "seq % 5 = 0");
    for (int i = 0; i < 8; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT low FROM hie.marks"), 70004);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers"),
                     14000);
    ck_assert_int_eq(mark_ok(&f, 0, 0), 4);
    ck_assert_int_eq(page_of(&f, 0, 10).seqs[0], 5);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), 20000);
    end_all_but(&f, "seq = 39000");
    for (int i = 0; i < 4; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT low FROM hie.marks"), 100000);
    ck_assert_int_eq(mark_ok(&f, 0, 0), 38999);
    close_store(&f);
}
END_TEST

/* A few old unfinished messages do not hold the mark for all, and are not forgotten either. */
START_TEST(test_stragglers)
{
    struct fixture f;
    open_store(&f);
    int64_t token = lease_ok(&f, "reconciler", "me", 60000);
    fill(&f, 1, 25000);
    end_all_but(&f, "a.seq IN (7, 9000, 15000)");
    for (int i = 0; i < 5; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT low FROM hie.marks"), 25000);
    ck_assert_int_eq(mark_ok(&f, 0, 0), 6);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.wal"), 3);
    fill(&f, 25001, 25003);
    struct listed listed = page_of(&f, 0, 4);
    ck_assert_uint_eq(listed.count, 4);
    ck_assert_int_eq(listed.seqs[0], 7);
    ck_assert_int_eq(listed.seqs[2], 15000);
    ck_assert_int_eq(listed.seqs[3], 25001);
    listed = page_of(&f, 15000, 4);
    ck_assert_uint_eq(listed.count, 3);
    ck_assert(listed.end);
    end_all_but(&f, "a.seq IN (15000, 25002)");
    for (int i = 0; i < 3; i++)
        mark_ok(&f, token, INT64_MAX);
    ck_assert_int_eq(mark_ok(&f, 0, 0), 14999);
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.stragglers"),
                     1);
    listed = page_of(&f, 0, 10);
    ck_assert_uint_eq(listed.count, 2);
    close_store(&f);
}
END_TEST

/* A long finished prefix: pages are empty, but they come to an end. */
START_TEST(test_long_prefix)
{
    struct fixture f;
    open_store(&f);
    fill(&f, 1, 50000);
    end_all_but(&f, "a.seq = 49999");
    int64_t after = 0;
    int pages = 0;
    struct listed listed;
    do {
        listed = page_of(&f, after, 10);
        ck_assert_int_gt(listed.next_seq, after);
        after = listed.next_seq;
        ck_assert_int_lt(++pages, 40);
    } while (listed.count == 0);
    ck_assert_int_eq(listed.seqs[0], 49999);
    ck_assert_int_eq(pages, (50000 + STORE_LOOK_MAX - 1) / STORE_LOOK_MAX);
    close_store(&f);
}
END_TEST

START_TEST(test_leases)
{
    struct fixture f, g;
    open_store(&f);
    open_database(&g, f.database);
    int64_t first = lease_ok(&f, "a", "one", 60000);
    ck_assert_int_gt(first, 0);
    ck_assert_int_eq(lease_ok(&g, "a", "two", 60000), 0);
    ck_assert_int_eq(lease_ok(&f, "a", "one", 300), first); /* renewed, and soon over */
    ck_assert_int_gt(lease_ok(&g, "b", "two", 60000), first);
    int64_t second = 0;
    for (int i = 0; i < 200 && second == 0; i++) {
        run_for_ms(g.loop, 20);
        second = lease_ok(&g, "a", "two", 60000);
    }
    ck_assert_int_gt(second, first);
    ck_assert_int_eq(lease_ok(&f, "a", "one", 60000), 0);
    struct answer wrong = {0}, right = {0};
    CALL(&f, wrong, release, "a", "one", on_done);
    ck_assert_int_eq(lease_ok(&f, "a", "one", 60000), 0);
    CALL(&g, right, release, "a", "two", on_done);
    ck_assert_int_gt(lease_ok(&f, "a", "one", 60000), second);
    close_store(&g);
    close_store(&f);
}
END_TEST

/* A clock that is a month ahead: the default partition takes it, and gives it back when the day comes. */
START_TEST(test_partitions)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = new_message("In"), *row = &m;
    m.id = uuid_new(clock_wall_ms() + (int64_t)30 * 86400 * 1000);
    accept_ok(&f, &row, 1);
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.accepted_default"), 1);
    struct store_outcome end = end_of(&m, STORE_COMPLETED, 1);
    ck_assert(settle_one(&f, &end));
    ck_assert(is_known(&f, m.id) && is_ended(&f, m.id));
    pg_server_sql(&server, f.database,
                  "SELECT hie.make_partitions((now() AT TIME ZONE 'UTC')::date + 29, (now() AT "
                  "TIME ZONE 'UTC')::date + 31)");
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.accepted_default"), 0);
    ck_assert_int_eq(
        pg_server_number(&server, f.database, "SELECT count(*) FROM hie.ended_default"), 0);
    ck_assert(is_known(&f, m.id) && is_ended(&f, m.id));
    pg_server_sql(&server, f.database, "DROP TABLE hie.accepted_%s", "default");
    struct answer maintained = {0};
    f.store->ops->maintain(f.store, on_done, &maintained);
    run_until(f.loop, &maintained.calls, 0);
    ck_assert_int_eq(maintained.err.code, ERR_NONE); /* nothing was missing */
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_scan");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_unfinished);
    tcase_add_test(all, test_fetch);
    tcase_add_test(all, test_children);
    tcase_add_test(all, test_counts);
    tcase_add_test(all, test_low_mark);
    tcase_add_test(all, test_stragglers);
    tcase_add_test(all, test_many_stragglers);
    tcase_add_test(all, test_long_prefix);
    tcase_add_test(all, test_leases);
    tcase_add_test(all, test_partitions);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
