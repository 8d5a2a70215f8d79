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

static struct told publish(struct fixture *f, const char *text, const char *hash, int64_t base,
                           const char *changed)
{
    struct told told = {0};
    struct store_publication publication = {.text = slice_text(text),
                                            .hash = slice_text(hash),
                                            .by = "me",
                                            .base = base,
                                            .changed = slice_text(changed)};
    CALL(f, told, publish, &publication, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    return told;
}

static struct told version_of(struct fixture *f, int64_t version)
{
    struct told told = {0};
    CALL(f, told, production_of, version, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    return told;
}

START_TEST(test_publish)
{
    struct fixture f;
    open_store(&f);
    ck_assert_int_eq(version_of(&f, 1).version, 0);
    struct told first = publish(&f, "items: []", "h1", -1, "");
    ck_assert_int_eq(first.version, 1);
    ck_assert_str_eq(first.text, "items: []");
    ck_assert_int_gt(first.at_us, 0);
    struct told other = publish(&f, "items: [a]", "h2", -1, ""); /* there is one */
    ck_assert_int_eq(other.version, 1);
    ck_assert_str_eq(other.text, "items: []");
    ck_assert_str_eq(other.hash, "h1");
    ck_assert_int_eq(publish(&f, "items: []", "h1", 1, "").version, 1); /* says the same */
    ck_assert_int_eq(publish(&f, "items: [a]", "h2", 1, "").version, 2);
    other =
        publish(&f, "items: [b]", "h3", 1, ""); /* on top of what is not the last one any more */
    ck_assert_int_eq(other.version, 2);
    ck_assert_str_eq(other.text, "items: [a]");
    ck_assert_int_eq(publish(&f, "items: []", "h1", 2, "").version, 3); /* back again */
    ck_assert_str_eq(version_of(&f, 2).text, "items: [a]");
    ck_assert_str_eq(version_of(&f, 3).hash, "h1");
    ck_assert_int_eq(version_of(&f, 4).version, 0);
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
    struct store_publication long_one = {
        .text = slice_of(text, len), .hash = slice_of("\0\xff", 2), .by = "me"};
    struct store_publication empty = {.hash = SLICE_LITERAL("x"), .by = "M\xfcller", .base = 1};
    CALL(&f, told, publish, &long_one, on_production);
    ck_assert_int_eq(told.err.code, ERR_NONE);
    ck_assert_uint_eq(told.text_len, len);
    CALL(&f, none, publish, &empty, on_production);
    ck_assert_int_eq(none.err.code, ERR_NONE);
    ck_assert(none.version == 2 && none.text_len == 0);
    free(text);
    close_store(&f);
}
END_TEST

/* Of reloads at the same moment on one base one is the next; the others hear which. */
START_TEST(test_publish_race)
{
    enum { COUNT = 20 };
    struct fixture f, g;
    struct told told[COUNT];
    struct store_publication publications[COUNT];
    char texts[COUNT][16];
    memset(told, 0, sizeof(told));
    open_store(&f);
    open_beside(&g, &f);
    publish(&f, "first", "first", -1, "");
    for (int i = 0; i < COUNT; i++) {
        struct store *store = i % 2 ? f.store : g.store;
        snprintf(texts[i], sizeof(texts[i]), "text %d", i);
        publications[i] = (struct store_publication){
            .text = slice_text(texts[i]), .hash = slice_text(texts[i]), .by = "me", .base = 1};
        store->ops->publish(store, &publications[i], on_production, &told[i]);
    }
    int ours = 0;
    for (int i = 0; i < COUNT; i++) {
        run_until(f.loop, &told[i].calls, 0);
        ck_assert_int_eq(told[i].err.code, ERR_NONE);
        ck_assert_int_eq(told[i].version, 2);
        ours += strcmp(told[i].text, texts[i]) == 0;
    }
    ck_assert_int_eq(ours, 1);
    close_beside(&g);
    close_store(&f);
}
END_TEST

/* ---- members and changes ---- */

struct standing {
    int calls;
    struct err err;
    int64_t version, step, all_applied;
    char changes[256]; /* "A 2-3 closed, B 2-2" */
};

static void on_attended(void *arg, const struct err *err, const struct store_standing *told)
{
    struct standing *standing = arg;
    size_t len = 0;
    standing->calls++;
    standing->err = *err;
    standing->version = told->version;
    standing->step = told->step;
    standing->all_applied = told->all_applied;
    standing->changes[0] = '\0';
    for (size_t i = 0; i < told->count; i++) {
        const struct store_change *change = &told->changes[i];
        len += (size_t)snprintf(standing->changes + len, sizeof(standing->changes) - len,
                                "%s%s %lld-%lld%s", i ? ", " : "", change->item,
                                (long long)change->version, (long long)change->last_version,
                                change->closed ? " closed" : "");
        ck_assert_int_le(change->step, told->step);
    }
}

static struct standing attend_at(struct fixture *f, const char *id, int64_t version, int64_t step,
                                 int64_t ttl_ms)
{
    struct standing standing = {0};
    CALL(f, standing, attend, id, "worker", version, step, ttl_ms, on_attended);
    ck_assert_int_eq(standing.err.code, ERR_NONE);
    return standing;
}

static int64_t attend(struct fixture *f, const char *id, int64_t version, int64_t ttl_ms)
{
    return attend_at(f, id, version, 0, ttl_ms).all_applied;
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
    attend(&f, "c", 5, 0); /* it leaves */
    ck_assert_int_eq(attend(&f, "a", 6, 60000), 6);
    ck_assert_int_eq(attend_at(&f, "a", 6, 0, 60000).version, 0); /* nothing is published */
    close_store(&f);
}
END_TEST

static void close_queue(struct fixture *f, const char *item, int64_t below)
{
    struct answer answer = {0};
    CALL(f, answer, close_queue, item, below, on_done);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
}

/* One item's way from one queue to the next, with two processes. */
START_TEST(test_change)
{
    struct fixture f;
    open_store(&f);
    publish(&f, "1", "1", -1, "Never"); /* the first one changes nothing */
    struct standing a = attend_at(&f, "a", 1, 0, 60000);
    attend_at(&f, "b", 1, 0, 60000);
    ck_assert(a.version == 1 && a.step == 0);
    ck_assert_str_eq(a.changes, "");
    publish(&f, "2", "2", 1, "In,Out");
    a = attend_at(&f, "a", 2, 0, 60000);
    ck_assert(a.version == 2 && a.all_applied == 1 && a.step > 0);
    ck_assert_str_eq(a.changes, "In 2-2, Out 2-2");
    close_queue(&f, "In", 2); /* b may still bring older ones */
    struct standing b = attend_at(&f, "b", 2, a.step, 60000);
    ck_assert_int_eq(b.all_applied, 2);
    ck_assert_str_eq(b.changes, "In 2-2, Out 2-2");
    close_queue(&f, "In", 3); /* none of its versions */
    close_queue(&f, "Else", 2);
    ck_assert_str_eq(attend_at(&f, "a", 2, a.step, 60000).changes, "In 2-2, Out 2-2");
    close_queue(&f, "In", 2);
    close_queue(&f, "In", 2); /* once more */
    a = attend_at(&f, "a", 2, a.step, 60000);
    ck_assert_str_eq(a.changes, "In 2-2 closed, Out 2-2");
    ck_assert_str_eq(attend_at(&f, "a", 2, a.step, 60000).changes,
                     "In 2-2 closed, Out 2-2"); /* b does not follow yet */
    b = attend_at(&f, "b", 2, b.step, 60000);
    b = attend_at(&f, "b", 2, b.step, 60000); /* now it does: In is open, whatever Out does */
    ck_assert_str_eq(b.changes, "Out 2-2");
    ck_assert_str_eq(attend_at(&f, "a", 2, a.step, 60000).changes, "Out 2-2");
    close_store(&f);
}
END_TEST

/* Changed again before it is through: one change after the other, or both at one go. */
START_TEST(test_change_again)
{
    struct fixture f;
    open_store(&f);
    publish(&f, "1", "1", -1, "");
    publish(&f, "2", "2", 1, "In,Out");
    publish(&f, "3", "3", 2, "In,Out");
    publish(&f, "4", "4", 3, "Out");
    struct standing a = attend_at(&f, "a", 4, 0, 60000);
    ck_assert_str_eq(a.changes, "In 2-3, Out 2-4");
    close_queue(&f, "In", 2);
    close_queue(&f, "Out", 4);
    a = attend_at(&f, "a", 4, a.step, 60000);
    ck_assert_str_eq(a.changes, "In 2-3 closed, Out 4-4 closed");
    publish(&f, "5", "5", 4,
            "Out"); /* after it was closed: not open for those who have not heard */
    ck_assert_str_eq(attend_at(&f, "a", 4, a.step, 60000).changes, "In 3-3, Out 4-5 closed");
    a = attend_at(&f, "a", 5, a.step, 60000);
    a = attend_at(&f, "a", 5, a.step, 60000);
    ck_assert_str_eq(a.changes, "In 3-3, Out 5-5");
    close_queue(&f, "In", 3);
    close_queue(&f, "Out", 5);
    a = attend_at(&f, "a", 5, a.step, 60000);
    ck_assert_str_eq(attend_at(&f, "a", 5, a.step, 60000).changes, "");
    close_store(&f);
}
END_TEST

/* A process that comes in the midst holds up what is closed until it follows; one that goes holds up nothing. */
START_TEST(test_change_join)
{
    struct fixture f;
    open_store(&f);
    publish(&f, "1", "1", -1, "");
    publish(&f, "2", "2", 1, "In");
    struct standing a = attend_at(&f, "a", 2, 0, 60000);
    close_queue(&f, "In", 2);
    struct standing late = attend_at(&f, "late", 1, 0, 60000);
    ck_assert_str_eq(late.changes, "In 2-2 closed");
    a = attend_at(&f, "a", 2, a.step, 60000);
    a = attend_at(&f, "a", 2, a.step, 60000);
    ck_assert_str_eq(a.changes, "In 2-2 closed");
    attend_at(&f, "late", 1, late.step, 60000); /* it follows, but has not applied it */
    ck_assert_str_eq(attend_at(&f, "a", 2, a.step, 60000).changes, "In 2-2 closed");
    attend_at(&f, "late", 1, late.step, 0);
    ck_assert_str_eq(attend_at(&f, "a", 2, a.step, 60000).changes, "");
    close_store(&f);
}
END_TEST

struct first {
    int calls;
    struct err err;
    int64_t seq;
};

static void on_older(void *arg, const struct err *err, int64_t seq)
{
    struct first *answer = arg;
    answer->calls++;
    answer->err = *err;
    answer->seq = seq;
}

static int64_t first_older(struct fixture *f, const char *item, int64_t version, int64_t after_seq)
{
    struct first answer = {0};
    CALL(f, answer, older, item, version, after_seq, on_older);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.seq;
}

static bool any_older(struct fixture *f, const char *item, int64_t version)
{
    return first_older(f, item, version, 0) != 0;
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
    ck_assert_int_eq(first_older(&f, "In", 9, 0), m[0].seq);
    ck_assert_int_eq(first_older(&f, "In", 9, m[0].seq - 1), m[0].seq);
    ck_assert_int_eq(first_older(&f, "In", 9, m[0].seq), m[1].seq);
    ck_assert_int_eq(first_older(&f, "In", 9, m[2].seq), 0);
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

/* What is not due yet keeps nobody waiting, but for a place in a fifo queue. */
START_TEST(test_older_delayed)
{
    struct fixture f;
    open_store(&f);
    struct store_message m = new_message("In"), *row = &m;
    m.version = 1;
    m.due_ms = clock_wall_ms() + 60000;
    accept_ok(&f, &row, 1);
    ck_assert(!any_older(&f, "In", 2));
    m = new_message("In");
    m.version = 1;
    m.partition = 3;
    m.due_ms = clock_wall_ms() + 60000;
    accept_ok(&f, &row, 1);
    ck_assert(any_older(&f, "In", 2));
    m = new_message("Retried");
    m.version = 1;
    accept_ok(&f, &row, 1);
    ck_assert(any_older(&f, "Retried", 2));
    struct store_outcome failed = end_of(&m, STORE_RETRY, 1);
    failed.due_ms = clock_wall_ms() + 60000;
    ck_assert(settle_one(&f, &failed));
    ck_assert(!any_older(&f, "Retried", 2));
    failed.attempt = 2;
    failed.due_ms = clock_wall_ms();
    ck_assert(settle_one(&f, &failed));
    ck_assert(any_older(&f, "Retried", 2));
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

/* The last hundred are kept, and what the first of a queue's changes begins from. */
START_TEST(test_old_productions)
{
    struct fixture f;
    open_store(&f);
    pg_server_sql(&server, f.database,
                  "INSERT INTO hie.productions (version, by, hash, text)"
                  " SELECT v, 'me', '', '' FROM generate_series(1, 130) v;"
                  "INSERT INTO hie.queue_changes VALUES ('A', '{21,40}', false, 1)");
    for (int changing = 1; changing >= 0; changing--) {
        struct answer maintained = {0};
        f.store->ops->maintain(f.store, on_done, &maintained);
        run_until(f.loop, &maintained.calls, 0);
        ck_assert_int_eq(maintained.err.code, ERR_NONE);
        ck_assert_int_eq(
            pg_server_number(&server, f.database, "SELECT min(version) FROM hie.productions"),
            changing ? 20 : 31);
        pg_server_sql(&server, f.database, "DELETE FROM hie.queue_changes");
    }
    ck_assert_int_eq(pg_server_number(&server, f.database, "SELECT count(*) FROM hie.productions"),
                     100);
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
    tcase_add_test(all, test_change);
    tcase_add_test(all, test_change_again);
    tcase_add_test(all, test_change_join);
    tcase_add_test(all, test_older);
    tcase_add_test(all, test_older_delayed);
    tcase_add_test(all, test_older_far);
    tcase_add_test(all, test_gone);
    tcase_add_test(all, test_old_productions);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
