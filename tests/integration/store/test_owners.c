/* Owners of fifo partitions: even shares as workers come, go, and die; nobody in two hands, nothing to and fro. */
#include "harness.h"

#define WORKERS 8
#define PARTS 48 /* of all items together, at most */

struct worker {
    char name[24];
    struct fixture *f;
    int calls;
    struct err err;
    size_t count, wanted;
    struct store_owned owned[PARTS];
    char items[PARTS][16];
};

static void on_owned(void *arg, const struct err *err, const struct store_owned *owned,
                     size_t count)
{
    struct worker *w = arg;
    w->calls++;
    w->err = *err;
    ck_assert_uint_le(count, PARTS);
    w->count = count;
    w->wanted = 0;
    for (size_t i = 0; i < count; i++) {
        snprintf(w->items[i], sizeof(w->items[i]), "%s", owned[i].item);
        w->owned[i] = owned[i];
        w->owned[i].item = w->items[i];
        w->wanted += owned[i].wanted;
    }
}

static void own_start(struct worker *w, const struct store_share *shares, size_t count,
                      int64_t ttl_ms)
{
    w->calls = 0;
    w->f->store->ops->own(w->f->store, w->name, shares, count, ttl_ms, on_owned, w);
}

static void own(struct worker *w, const struct store_share *shares, size_t count, int64_t ttl_ms)
{
    own_start(w, shares, count, ttl_ms);
    run_until(w->f->loop, &w->calls, 0);
    ck_assert_int_eq(w->err.code, ERR_NONE);
}

static void disown_wanted(struct worker *w)
{
    struct store_owned given[PARTS];
    size_t count = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (w->owned[i].wanted)
            given[count++] = w->owned[i];
    }
    if (count == 0)
        return;
    struct answer answer = {0};
    CALL(w->f, answer, disown, w->name, given, count, on_done);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
}

static void leave(struct worker *w)
{
    struct answer answer = {0};
    CALL(w->f, answer, disown, w->name, NULL, 0, on_done);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    w->count = 0;
}

static void name_workers(struct worker *workers, struct fixture *f, size_t count)
{
    memset(workers, 0, count * sizeof(*workers));
    for (size_t i = 0; i < count; i++) {
        snprintf(workers[i].name, sizeof(workers[i].name), "w%zu", i);
        workers[i].f = f;
    }
}

static size_t count_of(const struct worker *w, const char *item)
{
    size_t count = 0;
    for (size_t i = 0; i < w->count; i++)
        count += strcmp(w->items[i], item) == 0;
    return count;
}

/* Calls until nothing moves: then each has its even share of the item. Tokens stay, and nobody wants anything. */
static void settle_down(struct worker *workers, size_t count, const struct store_share *share)
{
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < count; i++) {
            own(&workers[(i * 3 + (size_t)round) % count], share, 1, 60000);
            disown_wanted(&workers[(i * 3 + (size_t)round) % count]);
        }
    }
    size_t total = 0, low = share->partitions / count, high = low + (share->partitions % count > 0);
    for (size_t i = 0; i < count; i++) {
        struct worker before = workers[i];
        own(&workers[i], share, 1, 60000);
        size_t have = count_of(&workers[i], share->item);
        ck_assert_msg(have >= low && have <= high, "%s has %zu of %u, %zu workers", workers[i].name,
                      have, share->partitions, count);
        ck_assert_uint_eq(workers[i].wanted, 0);
        ck_assert_uint_eq(before.count, workers[i].count);
        for (size_t j = 0; j < before.count; j++)
            ck_assert_int_eq(before.owned[j].token, workers[i].owned[j].token);
        total += have;
    }
    ck_assert_uint_eq(total, share->partitions);
}

START_TEST(test_even_shares)
{
    static const unsigned partitions[] = {1, 3, 5, 16, 17};
    struct fixture f;
    struct worker workers[WORKERS];
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, partitions[_i]};
    /* 7 and 5 do not share factors with 3, so the order of calls goes through all. */
    static const size_t crews[] = {1, 2, 4, 7, 8, 5, 2, 1};
    open_store(&f);
    name_workers(workers, &f, WORKERS);
    size_t crew = 0;
    for (size_t c = 0; c < sizeof(crews) / sizeof(crews[0]); c++) {
        while (crew > crews[c])
            leave(&workers[--crew]);
        crew = crews[c];
        settle_down(workers, crew, &share);
    }
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.partitions WHERE worker = 'w0' AND "
                                      "expires_at > now() AND pattern = 'async_reliable'"),
                     share.partitions);
    close_store(&f);
}
END_TEST

/* A late joiner gets its share although those above it have no more than the rounded-up one. */
START_TEST(test_no_to_and_fro)
{
    struct fixture f;
    struct worker w[3];
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 16};
    open_store(&f);
    name_workers(w, &f, 3);
    own(&w[0], &share, 1, 60000);
    ck_assert_uint_eq(w[0].count, 16);
    ck_assert_uint_eq(w[0].wanted, 0);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].count, 0);
    own(&w[0], &share, 1, 60000);
    ck_assert_uint_eq(w[0].wanted, 8);
    /* Not given yet: it stays so, for the same ones. */
    struct worker before = w[0];
    own(&w[0], &share, 1, 60000);
    for (size_t i = 0; i < 16; i++)
        ck_assert(before.owned[i].wanted == w[0].owned[i].wanted);
    disown_wanted(&w[0]);
    own(&w[0], &share, 1, 60000); /* it does not take back what it gave */
    ck_assert_uint_eq(w[0].count, 8);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].count, 8);
    own(&w[2], &share, 1, 60000); /* five each, one has six */
    own(&w[0], &share, 1, 60000);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[0].wanted + w[1].wanted, 5);
    disown_wanted(&w[0]);
    disown_wanted(&w[1]);
    own(&w[0], &share, 1, 60000);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[0].count + w[1].count, 11);
    own(&w[2], &share, 1, 60000);
    ck_assert_uint_eq(w[2].count, 5);
    settle_down(w, 3, &share);
    close_store(&f);
}
END_TEST

START_TEST(test_expiry)
{
    struct fixture f;
    struct worker w[2];
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 4};
    open_store(&f);
    name_workers(w, &f, 2);
    own(&w[0], &share, 1, 50);
    int64_t token = w[0].owned[0].token;
    run_for_ms(f.loop, 100);
    own(&w[0], &share, 1, 50); /* late, but nobody took it */
    ck_assert_uint_eq(w[0].count, 4);
    ck_assert_int_eq(w[0].owned[0].token, token);
    run_for_ms(f.loop, 100);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].count, 4);
    ck_assert_int_gt(w[1].owned[0].token, token);
    own(&w[0], &share, 1, 60000); /* all gone */
    ck_assert_uint_eq(w[0].count, 0);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].wanted, 2);
    disown_wanted(&w[1]);
    own(&w[0], &share, 1, 60000);
    ck_assert_uint_eq(w[0].count, 2);
    for (size_t i = 0; i < 2; i++) /* a new one each time */
        ck_assert_int_gt(w[0].owned[i].token, w[1].owned[3].token);
    /* A time to live of nothing owns nothing. */
    own(&w[0], &share, 1, 0);
    ck_assert_uint_eq(w[0].count, 0);
    close_store(&f);
}
END_TEST

/* Who leaves keeps what he has until he gives it up, and counts for no share. */
START_TEST(test_leaving)
{
    struct fixture f;
    struct worker w[2];
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 4}, left = share;
    left.leaves = true;
    open_store(&f);
    name_workers(w, &f, 2);
    own(&w[0], &share, 1, 60000);
    own(&w[0], &left, 1, 60000);
    ck_assert_uint_eq(w[0].count, 4);
    ck_assert_uint_eq(w[0].wanted, 4);
    own(&w[1], &share, 1, 60000); /* nobody takes it from him */
    ck_assert_uint_eq(w[1].count, 0);
    w[0].count = 3;
    disown_wanted(&w[0]);
    own(&w[0], &left, 1, 60000); /* nor does he take it back */
    ck_assert_uint_eq(w[0].count, 1);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].count, 3);
    own(&w[0], &left, 1, 60000);
    ck_assert_uint_eq(w[0].count, 1);
    disown_wanted(&w[0]);
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].count, 4);
    own(&w[0], &share, 1, 60000); /* or he stays after all */
    own(&w[1], &share, 1, 60000);
    ck_assert_uint_eq(w[1].wanted, 2);
    close_store(&f);
}
END_TEST

/* Items come and go, their partitions grow fewer; patterns are apart. */
START_TEST(test_named)
{
    struct fixture f;
    struct worker w[2];
    struct store_share shares[] = {{"A", PATTERN_ASYNC_RELIABLE, 8},
                                   {"B", PATTERN_ASYNC_RELIABLE, 4},
                                   {"A", PATTERN_SYNC_RELIABLE, 2}};
    open_store(&f);
    name_workers(w, &f, 2);
    own(&w[0], shares, 3, 60000);
    ck_assert_uint_eq(w[0].count, 14);
    shares[0].partitions = 3;
    own(&w[0], shares, 2, 60000);
    ck_assert_uint_eq(count_of(&w[0], "A"), 3);
    ck_assert_uint_eq(count_of(&w[0], "B"), 4);
    /* B is another one's alone now; both count where both name it. */
    own(&w[1], shares + 1, 1, 60000);
    own(&w[0], shares, 1, 60000);
    ck_assert_uint_eq(w[0].count, 3);
    own(&w[1], shares + 1, 1, 60000);
    ck_assert_uint_eq(count_of(&w[1], "B"), 4);
    own(&w[0], NULL, 0, 60000);
    ck_assert_uint_eq(w[0].count, 0);
    ck_assert_int_eq(pg_server_number(&server, f.database,
                                      "SELECT count(*) FROM hie.partition_leases WHERE item = 'A'"),
                     0);
    close_store(&f);
}
END_TEST

/* Eight workers with a store each call at once, in various orders, some leave and come back: no deadlock, and in the end the
 * even share. At no time does the table have a partition twice, whose key is the partition; a token is one worker's. */
START_TEST(test_all_at_once)
{
    enum { ROUNDS = 60 };
    struct fixture f, beside[WORKERS];
    struct worker workers[WORKERS];
    struct store_share mixed[WORKERS][3];
    struct store_share shares[] = {{"A", PATTERN_ASYNC_RELIABLE, 16},
                                   {"B", PATTERN_CONCURRENT_ASYNC, 5},
                                   {"C", PATTERN_SYNC_RELIABLE, 11}};
    open_store(&f);
    name_workers(workers, &f, WORKERS);
    for (int i = 0; i < WORKERS; i++) {
        open_beside(&beside[i], &f);
        workers[i].f = &beside[i];
    }
    for (int round = 0; round < ROUNDS; round++) {
        bool calm = round > ROUNDS - 8;
        for (size_t i = 0; i < WORKERS; i++) {
            struct worker *w = &workers[(i * 3 + (size_t)round) % WORKERS];
            for (size_t j = 0; j < 3; j++)
                mixed[i][j] = shares[(j + i + (size_t)round) % 3];
            /* a short life now and then: its leases may be taken */
            own_start(w, mixed[i], 3, !calm && random_below(5) == 0 ? 1 : 60000);
        }
        for (size_t i = 0; i < WORKERS; i++) {
            run_until(f.loop, &workers[i].calls, 0);
            ck_assert_int_eq(workers[i].err.code, ERR_NONE);
        }
        for (size_t i = 0; i < WORKERS; i++) {
            if (!calm && random_below(10) == 0)
                leave(&workers[i]);
            else
                disown_wanted(&workers[i]);
        }
    }
    ck_assert(!log_has("deadlock detected"));
    for (size_t s = 0; s < 3; s++) {
        size_t total = 0, low = shares[s].partitions / WORKERS;
        for (size_t i = 0; i < WORKERS; i++) {
            size_t have = count_of(&workers[i], shares[s].item);
            ck_assert_msg(have >= low && have <= low + 1, "%s: %zu", shares[s].item, have);
            ck_assert_uint_eq(workers[i].wanted, 0);
            total += have;
        }
        ck_assert_uint_eq(total, shares[s].partitions);
    }
    for (int i = 0; i < WORKERS; i++)
        close_beside(&beside[i]);
    close_store(&f);
}
END_TEST

/* Workers that have been gone for a day leave nothing behind. */
START_TEST(test_gone)
{
    struct fixture f;
    struct worker w[2];
    struct store_share share = {"Fifo", PATTERN_ASYNC_RELIABLE, 4};
    open_store(&f);
    name_workers(w, &f, 2);
    own(&w[0], &share, 1, 60000);
    pg_server_sql(&server, f.database,
                  "UPDATE hie.partition_workers SET expires_at = now() - interval '25 hours'");
    struct answer maintained = {0};
    f.store->ops->maintain(f.store, on_done, &maintained);
    run_until(f.loop, &maintained.calls, 0);
    ck_assert_int_eq(maintained.err.code, ERR_NONE);
    ck_assert_int_eq(
        pg_server_number(&server, f.database,
                         "SELECT (SELECT count(*) FROM hie.partition_leases) + (SELECT "
                         "count(*) FROM hie.partition_shares) + (SELECT count(*) FROM "
                         "hie.partition_workers)"),
        0);
    close_store(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_owners");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, test_even_shares, 0, 5);
    tcase_add_test(all, test_no_to_and_fro);
    tcase_add_test(all, test_expiry);
    tcase_add_test(all, test_leaving);
    tcase_add_test(all, test_named);
    tcase_add_test(all, test_all_at_once);
    tcase_add_test(all, test_gone);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
