/* Two productions side by side: their text, their queues, what takes a restart. */
#include "production_data.h"

#include <unistd.h>

/* ---- text and hash ---- */

START_TEST(text_of_a_file)
{
    static const char path[] = DATA "good/environment.yaml";
    struct buffer text;
    struct err err;
    size_t len;
    char *expected = file_text(path, &len);
    ck_assert_int_eq(production_read(path, &text, &err), 0);
    ck_assert_uint_eq(text.len, len);
    ck_assert_int_eq(memcmp(text.data, expected, len), 0);

    /* The published text gives what the file gives. */
    struct diagnostics all;
    struct production *parsed = production_parse(buffer_slice(&text), &all);
    struct production *loaded = load(path);
    ck_assert_ptr_nonnull(parsed);
    ck_assert_uint_eq(all.count, 0);
    ck_assert_str_eq(parsed->name, loaded->name);
    ck_assert_uint_eq(parsed->item_count, loaded->item_count);
    ck_assert_str_eq(parsed->hash, loaded->hash);
    ck_assert_int_eq(parsed->version, 0);
    diagnostics_done(&all);
    production_free(parsed);
    production_free(loaded);
    buffer_done(&text);
    free(expected);
}
END_TEST

START_TEST(unreadable_text)
{
    struct buffer text = {.max = 77};
    struct err err;
    ck_assert_int_eq(production_read("/nonexistent/x.yaml", &text, &err), -1);
    ck_assert_str_eq(err.text, "cannot be read: No such file or directory");
    ck_assert_int_eq(err.code, ERR_CONFIG);
    ck_assert_int_eq(production_read("/", &text, &err), -1);
    ck_assert_str_eq(err.text, "cannot be read: Is a directory");
    ck_assert_int_eq(production_read("/dev/zero", &text, &err), -1);
    ck_assert_str_eq(err.text, "the file is larger than 4194304 bytes");
    ck_assert_uint_eq(text.max, 77); /* untouched */
}
END_TEST

START_TEST(text_is_bounded)
{
    for (size_t size = PRODUCTION_TEXT_MAX; size <= PRODUCTION_TEXT_MAX + 1; size++) {
        char path[] = "/tmp/hie-test-read-XXXXXX";
        int fd = mkstemp(path);
        struct buffer text;
        struct err err;
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
        close(fd);
        int failed = production_read(path, &text, &err);
        ck_assert_int_eq(failed, size > PRODUCTION_TEXT_MAX ? -1 : 0);
        if (!failed) {
            ck_assert_uint_eq(text.len, size);
            buffer_done(&text);
        }
        unlink(path);
    }
}
END_TEST

START_TEST(hashes)
{
    char hash[PRODUCTION_HASH_SIZE], other[PRODUCTION_HASH_SIZE];
    /* Published by one version, compared by another: these never change. */
    production_hash(SLICE_LITERAL(""), hash);
    ck_assert_str_eq(hash, "cbf29ce4842223259e3779b97f4a7c15");
    production_hash(SLICE_LITERAL("items: []\n"), hash);
    production_hash(SLICE_LITERAL("items: []\n "), other);
    ck_assert_uint_eq(strlen(hash), 32);
    ck_assert_str_ne(hash, other);

    /* Of the text, whatever the variables hold. */
    static const char yaml[] =
        "items: [{id: A, class: Echo, queue_type: lifo, concurrency: '${HIE_TEST_NUMBER}'}]\n";
    struct production *first = expect(yaml, "");
    setenv("HIE_TEST_NUMBER", "13", 1);
    struct production *second = expect(yaml, "");
    ck_assert_int_ne(first->items[0].concurrency, second->items[0].concurrency);
    ck_assert_str_eq(first->hash, second->hash);
    production_hash(slice_text(yaml), hash);
    ck_assert_str_eq(first->hash, hash);
    production_free(first);
    production_free(second);
    clean_environment();
}
END_TEST

/* ---- queues ---- */

START_TEST(same_queues)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"queue_type: fifo", "concurrency: 1", true},
        {"queue_type: lifo", "queue_type: lifo, concurrency: 3, queue_size: 5, timeout: 1", true},
        {"queue_type: lifo", "queue_type: lifo, execution_mode: multi_process", true},
        {"queue_type: lifo", "queue_type: lifo, persistence_mode: none", true},
        {"queue_type: lifo", "queue_type: lifo, enabled: false", true},
        {"queue_type: lifo", "queue_type: lifo, settings: {delay: 5}", true},
        {"queue_type: lifo", "queue_type: priority", false},
        {"queue_type: lifo", "queue_type: lifo, messaging_pattern: concurrent_async", false},
        {"queue_type: lifo", "queue_type: lifo, messaging_pattern: sync_reliable", false},
        {"queue_type: lifo, class: Echo", "queue_type: lifo, class: FileWriter", false},
        {"queue_type: lifo", "queue_type: lifo, ordering_key: PID-3.1, partitions: 9", true},
        {"queue_type: priority", "queue_type: priority, priority: {default: 9}", true},
        {"ordering_key: PID-3.1", "ordering_key: 'PID-3[1].1', partitions: 16", true},
        {"ordering_key: PID-3.1", "ordering_key: PID-3.2", false},
        {"ordering_key: PID-3.1", "partitions: 16", false},
        {"queue_type: fifo", "persistence_mode: wal_only", true},
        {"queue_type: fifo", "persistence_mode: store_only", false},
        {"persistence_mode: none", "persistence_mode: store_only", true},
        {"persistence_mode: none", "persistence_mode: wal_only", false},
        {"ordering_key: PID-3.1", "ordering_key: PID-3.1, partitions: 8", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct item *items[2];
        struct production *productions[2];
        for (size_t j = 0; j < 2; j++) {
            const char *keys = j ? cases[i].b : cases[i].a;
            char *messages;
            char *yaml = mem_printf("items: [{id: A, %s%s}]\n", keys,
                                    strstr(keys, "FileWriter") ? ", settings: {folder: f}"
                                    : strstr(keys, "class")    ? ""
                                                               : ", class: Echo");
            productions[j] = parse(yaml, &messages);
            ck_assert_msg(productions[j] != NULL, "%s: %s", yaml, messages);
            items[j] = &productions[j]->items[0];
            free(messages);
            free(yaml);
        }
        ck_assert_msg(item_same_queue(items[0], items[1]) == cases[i].same, "%s | %s", cases[i].a,
                      cases[i].b);
        ck_assert_msg(item_same_queue(items[1], items[0]) == cases[i].same, "%s | %s", cases[i].b,
                      cases[i].a);
        production_free(productions[0]);
        production_free(productions[1]);
    }
}
END_TEST

/* ---- what takes a restart ---- */

#define ITEMS                                                                                      \
    "items: [{id: A, class: Echo, queue_type: lifo}, {id: B, class: Echo, queue_type: lifo}]\n"
#define LISTENER "dispatcher: {mllp: [{listen: '127.0.0.1:1', item: A}]}\n"

static void restart_keys(const char *running, const char *next, const char *expected)
{
    struct production *a = expect(running, ""), *b = expect(next, "");
    struct buffer text;
    buffer_init(&text, 4096);
    production_restart_keys(a, b, &text);
    ck_assert_msg(slice_is(buffer_slice(&text), expected), "%s%s: %.*s", running, next,
                  (int)text.len, text.data ? text.data : "");
    buffer_done(&text);
    production_free(a);
    production_free(b);
}

START_TEST(keys_that_take_a_restart)
{
    restart_keys(ITEMS, ITEMS, "");
    restart_keys(ITEMS, "production: {name: other}\n" ITEMS, "");
    restart_keys(ITEMS, "items: [{id: C, class: Echo, queue_type: lifo}]\n", "");
    restart_keys(ITEMS, "redis: {url: 'redis://127.0.0.1:6379/0'}\n" ITEMS, ""); /* the default */
    restart_keys(ITEMS, "redis: {url: 'redis://:hunter2@h/0', key_prefix: x}\n" ITEMS,
                 "redis.url, redis.key_prefix");
    restart_keys(ITEMS,
                 "worker: {drain_timeout: 1}\npostgres: {url: 'postgres://h/'}\n"
                 "dispatcher: {http: {max_body: 1MiB, listen: '127.0.0.1:1'}}\n" ITEMS,
                 "postgres.url");
    restart_keys(ITEMS, LISTENER ITEMS, "");
}
END_TEST

/* ---- sections ---- */

/* Which of the two sections are the same. */
static void sections(const char *left, const char *right, bool dispatcher, bool worker)
{
    struct production *a = expect(left, ""), *b = expect(right, "");
    ck_assert_msg(production_same_section(SECTION_DISPATCHER, a, b) == dispatcher, "%s%s", left,
                  right);
    ck_assert_msg(production_same_section(SECTION_WORKER, a, b) == worker, "%s%s", left, right);
    production_free(a);
    production_free(b);
}

START_TEST(same_sections)
{
    sections(ITEMS, "redis: {key_prefix: x}\nproduction: {name: x}\n" ITEMS, true, true);
    sections(ITEMS, "worker: {listen: '127.0.0.1:9090', drain_timeout: 30000}\n" ITEMS, true, true);
    sections(ITEMS, "worker: {drain_timeout: 1}\n" ITEMS, true, false);
    sections(ITEMS, "worker: {insecure: true}\n" ITEMS, true, false);
    sections(ITEMS, "dispatcher: {http: {max_body: 16777216}, mllp: []}\n" ITEMS, true, true);
    sections(ITEMS, "dispatcher: {http: {max_body: 1MiB}}\n" ITEMS, false, true);
    sections(LISTENER ITEMS, LISTENER ITEMS, true, true);
    sections(ITEMS, LISTENER ITEMS, false, true);
    sections(LISTENER ITEMS, "dispatcher: {mllp: [{listen: '127.0.0.1:1', item: B}]}\n" ITEMS,
             false, true);
    sections(LISTENER ITEMS,
             "dispatcher: {mllp: [{listen: '127.0.0.1:1', item: A, duplicate_window: 0}]}\n" ITEMS,
             false, true);
    setenv("HIE_HTTP_LISTEN", "127.0.0.1:7", 1); /* what it overrides does not count */
    sections(ITEMS, "dispatcher: {http: {listen: '127.0.0.1:5'}}\n" ITEMS, true, true);
    unsetenv("HIE_HTTP_LISTEN");
}
END_TEST

/* Who had what the fleet had goes with it, unless the publisher came from elsewhere since. */
START_TEST(who_follows)
{
    static const struct {
        bool had;
        int64_t before, since;
        bool follows;
    } cases[] = {{true, 1, 0, true},  {true, 3, 2, true},  {true, 3, 3, true},
                 {true, 3, 4, false}, {true, 1, 2, false}, {false, 3, 0, false}};
    struct production *next = expect("worker: {drain_timeout: 9}\n" ITEMS, "");
    struct production *before = expect(ITEMS, ""),
                      *other = expect("worker: {drain_timeout: 1}\n" ITEMS, "");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        before->version = cases[i].before;
        next->since[SECTION_WORKER] = cases[i].since;
        const struct production *mine = cases[i].had ? before : other;
        ck_assert_msg(production_follows(SECTION_WORKER, mine, before, next) == cases[i].follows,
                      "case %zu", i);
    }
    ck_assert(production_follows(SECTION_DISPATCHER, other, before, next));
    production_free(before);
    production_free(next);
    production_free(other);
}
END_TEST

int main(void)
{
    clean_environment();
    Suite *suite = suite_create("compare");
    TCase *tests = tcase_create("compare");
    tcase_add_test(tests, text_of_a_file);
    tcase_add_test(tests, unreadable_text);
    tcase_add_test(tests, text_is_bounded);
    tcase_add_test(tests, hashes);
    tcase_add_test(tests, same_queues);
    tcase_add_test(tests, keys_that_take_a_restart);
    tcase_add_test(tests, same_sections);
    tcase_add_test(tests, who_follows);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
