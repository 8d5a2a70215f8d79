/* The fleet's production and who runs by which version of it. */
#include "harness.h"

struct told {
    int calls;
    struct err err;
    int64_t version, at_us;
    char text[64], hash[16];
    size_t text_len;
};

static void on_production(void *arg, const struct err *err, const struct store_production *p)
{
    struct told *told = arg;
    told->calls++;
    told->err = *err;
    told->version = p->version;
    told->at_us = p->at_us;
    told->text_len = p->text.len;
    snprintf(told->text, sizeof(told->text), "%.*s", (int)p->text.len,
             p->text.len ? p->text.ptr : "");
    snprintf(told->hash, sizeof(told->hash), "%.*s", (int)p->hash.len,
             p->hash.len ? p->hash.ptr : "");
}

static struct told publish(struct fixture *f, const char *text, const char *hash, bool only_first)
{
    struct told told = {0};
    CALL(f, told, publish, slice_text(text), slice_text(hash), "me", only_first, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    return told;
}

static struct told current(struct fixture *f, int64_t known)
{
    struct told told = {0};
    CALL(f, told, production, known, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    return told;
}

START_TEST(test_publish)
{
    struct fixture f;
    open_store(&f);
    ck_assert_int_eq(current(&f, 0).version, 0);
    struct told first = publish(&f, "items: []", "h1", true);
    ck_assert_int_eq(first.version, 1);
    ck_assert_str_eq(first.text, "items: []");
    ck_assert_int_gt(first.at_us, 0);
    struct told other = publish(&f, "items: [a]", "h2", true); /* there is one */
    ck_assert_int_eq(other.version, 1);
    ck_assert_str_eq(other.text, "items: []");
    ck_assert_str_eq(other.hash, "h1");
    ck_assert_int_eq(publish(&f, "items: []", "h1", false).version, 1);
    ck_assert_int_eq(publish(&f, "items: [a]", "h2", false).version, 2);
    ck_assert_int_eq(publish(&f, "items: []", "h1", false).version, 3); /* back again */
    struct told now = current(&f, 2);
    ck_assert_int_eq(now.version, 3);
    ck_assert_str_eq(now.text, "items: []");
    now = current(&f, 3);
    ck_assert(now.version == 3 && now.text_len == 0);
    ck_assert_str_eq(now.hash, "h1");
    ck_assert_str_eq(pg_server_sql(&server, f.database,
                                   "SELECT string_agg(by || version, ' ' ORDER BY version) FROM "
                                   "hie.productions"),
                     "me1 me2 me3");
    close_store(&f);
}
END_TEST

/* Bytes that are no text, and a long one. */
START_TEST(test_odd_texts)
{
    struct fixture f;
    open_store(&f);
    size_t len = 3u << 20;
    char *text = mem_alloc(len);
    memset(text, 0xff, len);
    struct told told = {0}, none = {0};
    CALL(&f, told, publish, slice_of(text, len), slice_of("\0\xff", 2), "me", false, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    ck_assert_uint_eq(told.text_len, len);
    CALL(&f, none, publish, slice_of(NULL, 0), slice_of("x", 1), "M\xfcller", false, on_production);
    ck_assert_int_eq(none.err.code, ERR_NONE);
    ck_assert(none.version == 2 && none.text_len == 0);
    free(text);
    close_store(&f);
}
END_TEST

/* Reloads at the same moment get versions in a row. */
START_TEST(test_publish_race)
{
    enum { COUNT = 20 };
    struct fixture f, g;
    struct told told[COUNT];
    char texts[COUNT][16];
    memset(told, 0, sizeof(told));
    open_store(&f);
    open_beside(&g, &f);
    for (int i = 0; i < COUNT; i++) {
        struct store *store = i % 2 ? f.store : g.store;
        snprintf(texts[i], sizeof(texts[i]), "text %d", i);
        store->ops->publish(store, slice_text(texts[i]), slice_text(texts[i]), "me", false,
                            on_production, &told[i]);
    }
    bool seen[COUNT + 1] = {false};
    for (int i = 0; i < COUNT; i++) {
        run_until(f.loop, &told[i].calls, 0);
        ck_assert_int_eq(told[i].err.code, ERR_NONE);
        ck_assert(told[i].version >= 1 && told[i].version <= COUNT && !seen[told[i].version]);
        seen[told[i].version] = true;
        ck_assert_str_eq(told[i].text, texts[i]);
    }
    close_beside(&g);
    close_store(&f);
}
END_TEST

static int64_t attend(struct fixture *f, const char *id, int64_t version, int64_t ttl_ms)
{
    struct answer answer = {0};
    CALL(f, answer, attend, id, "worker", version, ttl_ms, on_number);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.number;
}

START_TEST(test_attend)
{
    struct fixture f;
    open_store(&f);
    ck_assert_int_eq(attend(&f, "a", 3, 60000), 3);
    ck_assert_int_eq(attend(&f, "b", 2, 100), 2);
    ck_assert_int_eq(attend(&f, "a", 4, 60000), 2);
    run_for_ms(f.loop, 150);
    ck_assert_int_eq(attend(&f, "a", 4, 60000), 4); /* b is gone */
    ck_assert_int_eq(attend(&f, "c", 0, 60000), 0); /* it has applied none */
    ck_assert_int_eq(attend(&f, "a", 4, 60000), 0);
    ck_assert_int_eq(attend(&f, "c", 5, 60000), 4);
    ck_assert_int_eq(attend(&f, "a", 6, 60000), 5);
    ck_assert_int_eq(attend(&f, "c", 5, 0), 6); /* it leaves */
    ck_assert_int_eq(attend(&f, "a", 6, 60000), 6);
    close_store(&f);
}
END_TEST

struct any {
    int calls;
    struct err err;
    bool any;
};

static void on_older(void *arg, const struct err *err, bool any)
{
    struct any *answer = arg;
    answer->calls++;
    answer->err = *err;
    answer->any = any;
}

static bool any_older(struct fixture *f, const char *item, int64_t version)
{
    struct any answer = {0};
    CALL(f, answer, older, item, version, on_older);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.any;
}

START_TEST(test_older)
{
    struct fixture f;
    open_store(&f);
    ck_assert(!any_older(&f, "In", INT64_MAX));
    struct store_message m[3], *rows[3];
    for (int i = 0; i < 3; i++) {
        m[i] = new_message("In");
        m[i].version = i + 2;
        rows[i] = &m[i];
    }
    accept_ok(&f, rows, 3);
    ck_assert(!any_older(&f, "In", 2) && any_older(&f, "In", 3) && !any_older(&f, "Else", 9));
    struct store_outcome end = end_of(&m[0], STORE_COMPLETED, 1),
                         dead = end_of(&m[1], STORE_DEAD_LETTERED, 1);
    ck_assert(settle_one(&f, &end));
    ck_assert(!any_older(&f, "In", 3) && any_older(&f, "In", 4));
    ck_assert(settle_one(&f, &dead));
    ck_assert(!any_older(&f, "In", 4));
    accepted_message(&f, "In"); /* under none */
    ck_assert(any_older(&f, "In", 1));
    close_store(&f);
}
END_TEST

/* Behind many others. */
START_TEST(test_older_far)
{
    struct fixture f;
    open_store(&f);
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.accepted (correlation_id, received_at, pattern, direction, "
                  "priority, version, item, body)"
                  " SELECT (left(hie.id_floor(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), "
                  "12, '0'))::uuid, now(), 0, 0, 0, 5, 'In', '' FROM generate_series(1, 12000) n");
    ck_assert(!any_older(&f, "In", 5));
    struct store_message m = new_message("In"), *row = &m;
    m.version = 4;
    accept_ok(&f, &row, 1);
    ck_assert(any_older(&f, "In", 5));
    close_store(&f);
}
END_TEST

START_TEST(test_gone)
{
    struct fixture f;
    open_store(&f);
    attend(&f, "a", 1, 60000);
    attend(&f, "b", 1, 60000);
    pg_server_sql(&server, f.database,
                  "UPDATE hie.members SET expires_at = now() - interval '25 hours' WHERE id = 'a'");
    struct answer maintained = {0};
    f.store->ops->maintain(f.store, on_done, &maintained);
    run_until(f.loop, &maintained.calls, 0);
    ck_assert_int_eq(maintained.err.code, ERR_NONE);
    ck_assert_str_eq(
        pg_server_sql(&server, f.database, "SELECT string_agg(id, '') FROM hie.members"), "b");
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_fleet");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, test_publish);
    tcase_add_test(all, test_odd_texts);
    tcase_add_test(all, test_publish_race);
    tcase_add_test(all, test_attend);
    tcase_add_test(all, test_older);
    tcase_add_test(all, test_older_far);
    tcase_add_test(all, test_gone);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
