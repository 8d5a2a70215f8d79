/* What an item says: its patterns and persistence, the priority and the key of a message, its settings in force. */
#include "production_data.h"

#include "hl7/message.h"

/* ---- patterns, order, persistence ---- */

START_TEST(combinations)
{
    static const struct {
        const char *id;
        bool waits, fair;
        int64_t partitions, reply_ttl_ms;
        enum persistence_mode mode;
    } cases[] = {
        {"A1", false, false, 1, 0, PERSIST_WAL_AND_STORE},
        {"A3", false, false, 1, 0, PERSIST_WAL_AND_STORE},
        {"B1", true, false, 16, 60000, PERSIST_WAL_AND_STORE},
        {"B2", true, false, 1, 60000, PERSIST_WAL_AND_STORE},
        {"B3", false, false, 1, 60000, PERSIST_WAL_AND_STORE},
        {"B4", true, false, 1, 60000, PERSIST_WAL_AND_STORE},
        {"C1", false, true, 8, 0, PERSIST_WAL_AND_STORE},
        {"C2", false, false, 1, 0, PERSIST_WAL_AND_STORE},
        {"D1", true, true, 1, 60000, PERSIST_WAL_AND_STORE},
        {"D4", true, false, 1, 60000, PERSIST_WAL_AND_STORE},
        {"W1", false, false, 1, 0, PERSIST_WAL_ONLY},
        {"W2", false, false, 1, 0, PERSIST_STORE_ONLY},
        {"W3", false, false, 1, 0, PERSIST_NONE},
        {"W4", false, false, 1, 0, PERSIST_WAL_ONLY},
        {"W5", false, false, 1, 0, PERSIST_STORE_ONLY},
        {"W6", false, false, 1, 0, PERSIST_NONE},
    };
    struct production *production = load(DATA "good/combinations.yaml");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct item *item = find(production, cases[i].id);
        ck_assert_msg(item_senders_wait(item) == cases[i].waits, "%s: waits", item->id);
        ck_assert_msg(item_is_fair(item) == cases[i].fair, "%s: fair", item->id);
        ck_assert_msg(item->partitions == cases[i].partitions, "%s: partitions", item->id);
        ck_assert_msg(item->reply_ttl_ms == cases[i].reply_ttl_ms, "%s: reply_ttl", item->id);
        ck_assert_msg(item->persistence.mode == cases[i].mode, "%s: persistence", item->id);
        ck_assert(item->persistence.wal_enabled ==
                  (cases[i].mode == PERSIST_WAL_ONLY || cases[i].mode == PERSIST_WAL_AND_STORE));
        ck_assert(item->persistence.store_enabled ==
                  (cases[i].mode == PERSIST_STORE_ONLY || cases[i].mode == PERSIST_WAL_AND_STORE));
    }
    production_free(production);
}
END_TEST

START_TEST(idle_keys_do_nothing)
{
    struct production *production = load(DATA "good/no-effect.yaml");
    ck_assert_int_eq(find(production, "A")->partitions, 1);
    ck_assert_int_eq(find(production, "B")->partitions, 1);
    ck_assert(!item_senders_wait(find(production, "E")));
    ck_assert(!item_senders_wait(find(production, "F")));
    ck_assert(item_senders_wait(find(production, "G")));
    production_free(production);
}
END_TEST

static int priority_of(const struct item *item, const char *bytes)
{
    struct hl7_message message;
    struct err err;
    struct slice text = slice_text(bytes);
    ck_assert_int_eq(hl7_parse(text, &message, &err), 0);
    return item_priority(item, &message);
}

START_TEST(priorities)
{
    struct production *production = load(DATA "good/full.yaml");
    const struct item *item = find(production, "Echo");
    ck_assert_str_eq(item->priority.path, "PV1-2");
    ck_assert_str_eq(item->priority.parsed.segment, "PV1");
    ck_assert_int_eq(item->priority.ageing_ms, 60000);
    ck_assert_uint_eq(item->priority.value_count, 4);
    ck_assert(slice_is(item->priority.values[3].value, "a.b"));
    ck_assert_int_eq(item->priority.values[3].priority, 0);
#define MSH "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\r"
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|E\r"), 9);
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|\\X45\\\r"), 9); /* unescaped first */
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|U\r"), 7);
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|0010\r"), 1);
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|a.b\r"), 0);
    ck_assert_int_eq(priority_of(item, MSH "PV1|1|e\r"), 2);
    ck_assert_int_eq(priority_of(item, MSH "PV1|1\r"), 2);
    ck_assert_int_eq(priority_of(item, MSH), 2);
    ck_assert_int_eq(item_priority(item, NULL), 2);
    ck_assert_int_eq(priority_of(find(production, "Files"), MSH "PV1|1|E\r"), 0);
    production_free(production);
}
END_TEST

START_TEST(priority_values_are_bounded)
{
    for (unsigned count = 256; count <= 257; count++) {
        struct buffer yaml;
        buffer_init(&yaml, 1u << 20);
        buffer_append_text(&yaml, "items:\n  - id: A\n    class: Echo\n    queue_type: priority\n"
                                  "    priority: {path: PV1-2, values: {");
        for (unsigned i = 0; i < count; i++)
            buffer_printf(&yaml, "%sv%u: %u", i ? ", " : "", i, i % 10);
        buffer_append_text(&yaml, "}}\n");
        buffer_append_byte(&yaml, '\0');
        struct production *production =
            expect(yaml.data, count > 256 ? "5: `priority.values` needs 1 to 256 values\n" : "");
        if (production)
            ck_assert_int_eq(find(production, "A")->priority.values[255].priority, 5);
        production_free(production);
        buffer_done(&yaml);
    }
}
END_TEST

START_TEST(ordering_keys)
{
    struct production *production = load(DATA "good/full.yaml");
    const struct item *item = find(production, "Router");
    char key[ITEM_ORDERING_KEY_MAX];
    struct hl7_message message;
    struct err err;
    static const char bytes[] = MSH "PID|1||4711^^^A~4712^^^B\r";
    ck_assert_int_eq(hl7_parse(slice_text(bytes), &message, &err), 0);
    size_t len = item_ordering_key(item, &message, key);
    ck_assert(slice_is(slice_of(key, len), "4712"));
    ck_assert_uint_eq(item_ordering_key(item, NULL, key), 0);
    unsigned partition = item_partition(item, slice_of(key, len), UUID_NONE);
    ck_assert_uint_lt(partition, 32);
    ck_assert_uint_eq(item_partition(item, SLICE_LITERAL("4712"), uuid_new(1)), partition);
    ck_assert_uint_eq(item_partition(find(production, "Echo"), SLICE_LITERAL("4712"), UUID_NONE),
                      0);
    production_free(production);
}
END_TEST

/* A key of a megabyte, of bytes that no database takes, of none: at most 199 printable bytes. */
START_TEST(ordering_keys_are_clean)
{
    char key[ITEM_ORDERING_KEY_MAX], again[ITEM_ORDERING_KEY_MAX];
    char *big = mem_alloc(1u << 20);
    memset(big, 'k', 1u << 20);
    ck_assert_uint_eq(ordering_key_clean(slice_of(big, 199), key), 199);
    ck_assert_uint_eq(ordering_key_clean(slice_of(big, 200), key), 33);
    ck_assert_uint_eq(ordering_key_clean(slice_of(big, 1u << 20), again), 33);
    ck_assert_int_ne(memcmp(key, again, 33), 0);
    for (size_t i = 0; i < 33; i++)
        ck_assert(again[i] > ' ' && again[i] <= '~');
    free(big);
    ck_assert_uint_eq(ordering_key_clean(slice_of("\0\xff", 2), key), 33);
    ck_assert_uint_eq(ordering_key_clean(slice_of("\0\xff", 2), again), 33);
    ck_assert_int_eq(memcmp(key, again, 33), 0);
    ck_assert_uint_eq(ordering_key_clean(slice_of(NULL, 0), key), 0);
}
END_TEST

/* ---- settings in force ---- */

static void tell(void *arg, const char *section, const char *key, struct slice value, bool is_text)
{
    buffer_printf(arg, "%s%s%s=%s%.*s%s\n", section, *section ? "/" : "", key, is_text ? "'" : "",
                  (int)value.len, value.ptr, is_text ? "'" : "");
}

static void settings_are(const struct item *item, const char *expected)
{
    struct buffer text;
    buffer_init(&text, 1u << 16);
    item_each_setting(item, tell, &text);
    buffer_append_byte(&text, '\0');
    ck_assert_str_eq(text.data, expected);
    buffer_done(&text);
}

START_TEST(settings_in_force)
{
    struct production *production = load(DATA "good/full.yaml");
    settings_are(find(production, "Echo"), "id='Echo'\n"
                                           "class='Echo'\n"
                                           "enabled=true\n"
                                           "messaging_pattern='concurrent_async'\n"
                                           "execution_mode='thread_pool'\n"
                                           "concurrency=8\n"
                                           "queue_type='priority'\n"
                                           "queue_size=10000\n"
                                           "timeout=30000\n"
                                           "partitions=1\n"
                                           "priority/path='PV1-2'\n"
                                           "priority.values/E=9\n"
                                           "priority.values/U=7\n"
                                           "priority.values/0010=1\n"
                                           "priority.values/a.b=0\n"
                                           "priority/default=2\n"
                                           "priority/ageing=60000\n"
                                           "idempotency_window=86400000\n"
                                           "reply_ttl=0\n"
                                           "retry/max_attempts=5\n"
                                           "retry/backoff=500\n"
                                           "retry/max_backoff=60000\n"
                                           "persistence/mode='wal_and_store'\n"
                                           "persistence/wal_enabled=true\n"
                                           "persistence/store_enabled=true\n"
                                           "persistence/ack_timeout=5000\n"
                                           "persistence/batch_writes=false\n"
                                           "persistence/batch_size=100\n"
                                           "blocking/enabled=false\n"
                                           "blocking/max_wait_time=30000\n"
                                           "blocking/deadlock_detection=true\n"
                                           "settings/delay=5\n"
                                           "settings/fail_attempts=2\n"
                                           "settings/reject_matching='reject me'\n");
    production_free(production);
}
END_TEST

START_TEST(settings_hold_no_secret)
{
    struct production *production = load(DATA "good/full.yaml");
    struct buffer text;
    buffer_init(&text, 1u << 16);
    for (size_t i = 0; i < production->item_count; i++)
        item_each_setting(&production->items[i], tell, &text);
    buffer_append_byte(&text, '\0');
    ck_assert_ptr_nonnull(strstr(text.data, "ordering_key='PID-3[2].1'\npartitions=32\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "settings/folder='/var/spool/hie'\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "settings/method='PUT'\nsettings/timeout=1000\n"));
    ck_assert_ptr_null(strstr(text.data, "password"));
    ck_assert_ptr_null(strstr(text.data, "Bearer"));
    ck_assert_ptr_null(strstr(text.data, "url"));
    buffer_done(&text);
    production_free(production);
}
END_TEST

int main(void)
{
    clean_environment();
    Suite *suite = suite_create("item");
    TCase *tests = tcase_create("item");
    tcase_add_test(tests, combinations);
    tcase_add_test(tests, idle_keys_do_nothing);
    tcase_add_test(tests, priorities);
    tcase_add_test(tests, priority_values_are_bounded);
    tcase_add_test(tests, ordering_keys);
    tcase_add_test(tests, ordering_keys_are_clean);
    tcase_add_test(tests, settings_in_force);
    tcase_add_test(tests, settings_hold_no_secret);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
