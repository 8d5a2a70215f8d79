/* Productions from bytes and files: the golden files, every value, defaults, environment, references, memory. */
#include "production_data.h"

#include "model/item_class.h"

#include <glob.h>
#include <unistd.h>

/* ---- golden files ---- */

static char *expected_of(const char *path)
{
    char name[1024];
    size_t len;
    snprintf(name, sizeof(name), "%.*s.expected", (int)(strlen(path) - strlen(".yaml")), path);
    return access(name, R_OK) == 0 ? file_text(name, &len) : mem_strdup("");
}

static size_t check_golden(const char *pattern, bool good)
{
    glob_t files;
    ck_assert_int_eq(glob(pattern, 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i];
        struct diagnostics all;
        struct production *production = production_load(path, &all);
        char *found = diagnostics_text(&all), *expected = expected_of(path);
        ck_assert_msg(strcmp(found, expected) == 0, "%s: expected\n%sfound\n%s", path, expected,
                      found);
        ck_assert_msg((production != NULL) == good, "%s is not %s", path, good ? "good" : "bad");
        ck_assert_msg(strstr(found, "hunter2") == NULL, "%s: a secret in a message", path);
        free(found);
        free(expected);
        diagnostics_done(&all);
        production_free(production);
    }
    size_t count = files.gl_pathc;
    globfree(&files);
    printf("%zu files %s\n", count, pattern);
    return count;
}

START_TEST(golden_files)
{
    ck_assert_uint_ge(check_golden(DATA "good/*.yaml", true), 6);
    ck_assert_uint_ge(check_golden(DATA "bad/*.yaml", false), 40);
    ck_assert_uint_ge(check_golden(HIE_SOURCE_DIR "/compose/examples/*.yaml", true), 3);
    ck_assert_uint_eq(check_golden(HIE_SOURCE_DIR "/compose/production.yaml", true), 1);
}
END_TEST

/* ---- values ---- */

START_TEST(defaults)
{
    struct production *production = load(DATA "good/minimal.yaml");
    ck_assert_str_eq(production->name, "hie");
    ck_assert_str_eq(production->redis.url, "redis://127.0.0.1:6379/0");
    ck_assert_str_eq(production->redis.key_prefix, "hie");
    ck_assert_str_eq(production->postgres.url, "postgresql://hie@127.0.0.1:5432/hie");
    ck_assert_str_eq(production->dispatcher.http_listen, "127.0.0.1:8080");
    ck_assert_int_eq(production->dispatcher.http_max_body, 16 * 1024 * 1024);
    ck_assert(!production->dispatcher.http_insecure && !production->worker.insecure);
    ck_assert_uint_eq(production->dispatcher.mllp_count, 0);
    ck_assert_str_eq(production->worker.listen, "127.0.0.1:9090");
    ck_assert_int_eq(production->worker.drain_timeout_ms, 30000);
    ck_assert_uint_eq(production->item_count, 1);

    const struct item *item = find(production, "Echo");
    ck_assert(item->enabled);
    ck_assert_uint_eq(item->messaging_pattern, PATTERN_ASYNC_RELIABLE);
    ck_assert_uint_eq(item->execution_mode, MODE_ASYNC);
    ck_assert_uint_eq(item->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(item->concurrency, 8);
    ck_assert_int_eq(item->queue_size, 10000);
    ck_assert_int_eq(item->timeout_ms, 30000);
    ck_assert_ptr_null(item->ordering_key);
    ck_assert_int_eq(item->partitions, 1);
    ck_assert_ptr_null(item->priority.path);
    ck_assert_uint_eq(item->priority.value_count, 0);
    ck_assert_int_eq(item->priority.fallback, 0);
    ck_assert_int_eq(item->priority.ageing_ms, 0);
    ck_assert_int_eq(item->idempotency_window_ms, 86400000);
    ck_assert_int_eq(item->reply_ttl_ms, 0);
    ck_assert_int_eq(item->retry.max_attempts, 5);
    ck_assert_int_eq(item->retry.backoff_ms, 500);
    ck_assert_int_eq(item->retry.max_backoff_ms, 60000);
    ck_assert_uint_eq(item->persistence.mode, PERSIST_WAL_AND_STORE);
    ck_assert(item->persistence.wal_enabled && item->persistence.store_enabled);
    ck_assert(!item->persistence.batch_writes);
    ck_assert_int_eq(item->persistence.batch_size, 100);
    ck_assert_int_eq(item->persistence.ack_timeout_ms, 5000);
    ck_assert(!item->blocking.enabled && item->blocking.deadlock_detection);
    ck_assert_int_eq(item->blocking.max_wait_time_ms, 30000);
    ck_assert_uint_eq(item->line, 2);
    ck_assert_uint_eq(item->index, 0);
    ck_assert_int_eq(production->version, 0);
    const struct echo_settings *echo = item->settings;
    ck_assert_int_eq(echo->delay_ms, 0);
    ck_assert_int_eq(echo->fail_attempts, 0);
    ck_assert_str_eq(echo->reject_matching, "");
    ck_assert_ptr_null(production_free(production));
}
END_TEST

START_TEST(every_value)
{
    struct production *production = load(DATA "good/full.yaml");
    ck_assert_str_eq(production->name, "St. Mary's, north wing");
    ck_assert_str_eq(production->redis.url, "redis://hie:secret@redis.example:6380/3");
    ck_assert_str_eq(production->redis.key_prefix, "north");
    ck_assert_str_eq(production->dispatcher.http_listen, "[::1]:0");
    ck_assert_int_eq(production->dispatcher.http_max_body, 65536);
    ck_assert_uint_eq(production->dispatcher.mllp_count, 3);
    const struct mllp_listener *mllp = production->dispatcher.mllp;
    ck_assert_str_eq(mllp[0].listen, "127.0.0.1:2575");
    ck_assert_str_eq(mllp[0].item_id, "Router");
    ck_assert_ptr_eq(mllp[0].item, find(production, "Router"));
    ck_assert_int_eq(mllp[0].max_frame, 1048576);
    ck_assert_int_eq(mllp[0].duplicate_window_ms, 0);
    ck_assert_int_eq(mllp[1].max_frame, 16 * 1024 * 1024);
    ck_assert_int_eq(mllp[1].duplicate_window_ms, 86400000);
    ck_assert_int_eq(mllp[2].duplicate_window_ms, 300000);
    ck_assert(!mllp[0].insecure && mllp[1].insecure);
    ck_assert_str_eq(production->worker.listen, "127.9.9.9:0");
    ck_assert_int_eq(production->worker.drain_timeout_ms, 0);
    ck_assert(production->worker.insecure);

    const struct item *item = find(production, "Router");
    ck_assert(!item->enabled);
    ck_assert_uint_eq(item->messaging_pattern, PATTERN_SYNC_RELIABLE);
    ck_assert_uint_eq(item->execution_mode, MODE_MULTI_PROCESS);
    ck_assert_uint_eq(item->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(item->concurrency, 1);
    ck_assert_int_eq(item->queue_size, 1);
    ck_assert_int_eq(item->timeout_ms, 1);
    ck_assert_str_eq(item->ordering_key, "PID-3[2].1");
    ck_assert_str_eq(item->ordering_path.segment, "PID");
    ck_assert_uint_eq(item->ordering_path.field, 3);
    ck_assert_uint_eq(item->ordering_path.repetition, 2);
    ck_assert_uint_eq(item->ordering_path.component, 1);
    ck_assert_int_eq(item->partitions, 32);
    ck_assert_int_eq(item->idempotency_window_ms, 1000);
    ck_assert_int_eq(item->reply_ttl_ms, 1000);
    ck_assert_int_eq(item->retry.max_attempts, 1);
    ck_assert_int_eq(item->retry.backoff_ms, 0);
    ck_assert_int_eq(item->retry.max_backoff_ms, 0);
    ck_assert_int_eq(item->persistence.ack_timeout_ms, 100);
    ck_assert_int_eq(item->persistence.batch_size, 50);
    ck_assert(item->persistence.batch_writes);
    ck_assert_uint_eq(item->persistence.mode, PERSIST_WAL_ONLY);
    ck_assert(item->persistence.wal_enabled && !item->persistence.store_enabled);
    ck_assert_int_eq(item->blocking.max_wait_time_ms, 1000);
    ck_assert(item->blocking.enabled && !item->blocking.deadlock_detection);
    ck_assert_str_eq(item->class->name, "HL7RoutingEngine");
    ck_assert(item->class->needs_hl7 && !item->class->outbound);
    ck_assert_ptr_null(production_find(production, slice_text("router")));
    ck_assert_ptr_null(production_find(production, slice_text("")));
    production_free(production);
}
END_TEST

static void check_value(const struct hl7_condition *condition, size_t index, const char *text)
{
    ck_assert_int_eq(condition->kind, CONDITION_ONE_OF);
    ck_assert_uint_lt(index, condition->value_count);
    ck_assert_msg(slice_is(condition->values[index], text), "expected %s, found %.*s", text,
                  (int)condition->values[index].len, condition->values[index].ptr);
}

START_TEST(routing_settings)
{
    struct production *production = load(DATA "good/full.yaml");
    const struct hl7_routing_settings *routing = find(production, "Router")->settings;
    ck_assert_uint_eq(routing->rule_count, 2);
    ck_assert_uint_eq(routing->fallback_count, 1);
    ck_assert_ptr_eq(routing->fallback[0], find(production, "Files"));
    const struct hl7_rule *rule = &routing->rules[0];
    ck_assert_str_eq(rule->name, "admissions");
    ck_assert_uint_eq(rule->target_count, 2);
    ck_assert_ptr_eq(rule->targets[0], find(production, "Files"));
    ck_assert_ptr_eq(rule->targets[1], find(production, "Sender"));
    ck_assert_uint_eq(rule->condition_count, 7);
    const struct hl7_condition *when = rule->conditions;
    ck_assert_str_eq(when[0].path.segment, "MSH");
    ck_assert_uint_eq(when[0].path.field, 9);
    ck_assert_uint_eq(when[0].path.component, 1);
    check_value(&when[0], 0, "ADT");
    ck_assert_uint_eq(when[1].value_count, 3);
    check_value(&when[1], 2, "A08");
    ck_assert_int_eq(when[2].kind, CONDITION_MATCHES);
    ck_assert_ptr_nonnull(when[2].pattern);
    ck_assert_int_eq(when[3].kind, CONDITION_EXISTS);
    ck_assert(when[3].exists);
    ck_assert_uint_eq(when[4].path.occurrence, HL7_ANY);
    check_value(&when[4], 0, "0010"); /* as written, no number */
    check_value(&when[4], 1, "1.50");
    check_value(&when[4], 2, "true");
    check_value(&when[5], 0, "F");
    ck_assert_int_eq(when[6].kind, CONDITION_EXISTS);
    ck_assert(!when[6].exists);
    ck_assert_str_eq(routing->rules[1].name, "rule 2");
    ck_assert_uint_eq(routing->rules[1].condition_count, 0);
    ck_assert_ptr_eq(routing->rules[1].targets[0], find(production, "Echo"));
    production_free(production);
}
END_TEST

START_TEST(other_settings)
{
    struct production *production = load(DATA "good/full.yaml");
    const struct file_writer_settings *files = find(production, "Files")->settings;
    ck_assert(find(production, "Files")->class->outbound);
    ck_assert_str_eq(files->folder, "/var/spool/hie");
    ck_assert_uint_gt(files->name.part_count, 2);
    ck_assert_int_eq(files->name.parts[0].kind, HL7_TEMPLATE_PATH);
    ck_assert_str_eq(files->name.parts[0].path.segment, "PID");
    ck_assert_int_eq(files->name.parts[files->name.part_count - 1].kind, HL7_TEMPLATE_NAME);

    const struct http_sender_settings *sender = find(production, "Sender")->settings;
    ck_assert_str_eq(sender->url, "https://user:password@[2001:db8::1]:8443/in?x=1");
    ck_assert_str_eq(sender->method, "PUT");
    ck_assert_str_eq(sender->headers[0], "X-Source: hie");
    ck_assert_str_eq(sender->headers[1], "Authorization: Bearer x");
    ck_assert_str_eq(sender->headers[2], "X-Number: 7");
    ck_assert_ptr_null(sender->headers[3]);
    ck_assert_int_eq(sender->timeout_ms, 1000);
    for (int status = 0; status < 600; status++)
        ck_assert_int_eq(sender->retry_status[status],
                         status == 408 || status >= 500 || (status >= 300 && status < 400));
    const struct echo_settings *echo = find(production, "Echo")->settings;
    ck_assert_int_eq(echo->delay_ms, 5);
    ck_assert_int_eq(echo->fail_attempts, 2);
    ck_assert_str_eq(echo->reject_matching, "reject me");
    production_free(production);
}
END_TEST

START_TEST(settings_defaults)
{
    struct production *production = expect(
        "items:\n"
        "  - {id: S, class: HTTPSender, queue_type: unordered, settings: {url: 'http://h'}}\n"
        "  - {id: N, class: HTTPSender, queue_type: unordered,"
        " settings: {url: 'http://h', retry_on: []}}\n"
        "  - {id: F, class: FileWriter, queue_type: unordered, settings: {folder: f}}\n",
        "");
    const struct http_sender_settings *sender = find(production, "S")->settings;
    ck_assert_str_eq(sender->method, "POST");
    ck_assert_ptr_nonnull(sender->headers);
    ck_assert_ptr_null(sender->headers[0]);
    ck_assert_int_eq(sender->timeout_ms, 5000);
    for (int status = 0; status < 600; status++)
        ck_assert_int_eq(sender->retry_status[status],
                         status == 408 || status == 425 || status == 429 || status >= 500);
    sender = find(production, "N")->settings;
    for (int status = 0; status < 600; status++)
        ck_assert(!sender->retry_status[status]);
    const struct file_writer_settings *files = find(production, "F")->settings;
    ck_assert_uint_eq(files->name.part_count, 1);
    ck_assert_int_eq(files->name.parts[0].kind, HL7_TEMPLATE_NAME);
    ck_assert_str_eq(files->name.parts[0].text, "correlation_id");
    production_free(production);
}
END_TEST

START_TEST(flat_names)
{
    struct production *production = load(DATA "good/flat-names.yaml");
    const struct item *a = find(production, "A"), *b = find(production, "B");
    ck_assert(!a->blocking.enabled && b->blocking.enabled);
    ck_assert_int_eq(a->blocking.max_wait_time_ms, 1500);
    ck_assert_int_eq(b->blocking.max_wait_time_ms, 1500);
    ck_assert_int_eq(a->persistence.batch_size, 50);
    ck_assert_int_eq(b->persistence.batch_size, 60);
    ck_assert(a->persistence.batch_writes && !b->persistence.batch_writes);
    ck_assert_uint_eq(a->persistence.mode, PERSIST_WAL_ONLY); /* the flags win over the mode */
    ck_assert_uint_eq(b->persistence.mode, PERSIST_NONE);
    production_free(production);
}
END_TEST

/* ---- environment ---- */

#define ONE_ITEM "items: [{id: A, class: Echo, queue_type: unordered}]\n"

START_TEST(environment_in_values)
{
    struct production *production = load(DATA "good/environment.yaml");
    ck_assert_str_eq(production->name, "a: [b");
    ck_assert_str_eq(production->dispatcher.http_listen, "127.0.0.1:8081");
    const struct item *item = find(production, "e-12");
    ck_assert_int_eq(item->concurrency, 12);
    ck_assert_int_eq(item->queue_size, 1120);
    ck_assert(!item->enabled);
    const struct echo_settings *echo = item->settings;
    ck_assert_str_eq(echo->reject_matching, "${HIE_TEST_TEXT} costs 5$ a: [b");
    ck_assert_int_eq(find(production, "second")->concurrency, 3);
    production_free(production);
}
END_TEST

START_TEST(environment_wins_over_the_file)
{
    setenv("HIE_REDIS_URL", "redis://r:1/2", 1);
    setenv("HIE_POSTGRES_URL", "postgres://p/q", 1);
    setenv("HIE_HTTP_LISTEN", "127.0.0.1:81", 1);
    setenv("HIE_WORKER_LISTEN", "[::1]:91", 1);
    struct production *production = expect("redis: {url: 'redis://x:5/1'}\n" ONE_ITEM, "");
    ck_assert_str_eq(production->redis.url, "redis://r:1/2");
    ck_assert_str_eq(production->postgres.url, "postgres://p/q");
    ck_assert_str_eq(production->dispatcher.http_listen, "127.0.0.1:81");
    ck_assert_str_eq(production->worker.listen, "[::1]:91");
    production_free(production);
    setenv("HIE_REDIS_URL", "", 1); /* empty is unset */
    production = expect("redis: {url: 'redis://x:5/1'}\n" ONE_ITEM, "");
    ck_assert_str_eq(production->redis.url, "redis://x:5/1");
    production_free(production);

    setenv("HIE_REDIS_URL", "http://hunter2@x", 1);
    setenv("HIE_POSTGRES_URL", "hunter2", 1);
    setenv("HIE_HTTP_LISTEN", "0.0.0.0:80", 1);
    setenv("HIE_WORKER_LISTEN", "hunter2", 1);
    ck_assert_ptr_null(expect(
        ONE_ITEM,
        "0: the environment variable HIE_REDIS_URL, for `redis.url`: the URL must start with "
        "redis://\n"
        "0: the environment variable HIE_POSTGRES_URL, for `postgres.url`: the URL must start "
        "with postgresql://\n"
        "0: the environment variable HIE_WORKER_LISTEN, for `worker.listen`: expected "
        "address:port, as in 127.0.0.1:8080 or [::1]:8080\n"
        "0: the environment variable HIE_HTTP_LISTEN is not a loopback address, and without TLS "
        "and access tokens everybody who reaches it could send and read patient data; listen on "
        "127.0.0.1, or set `insecure: true` in `dispatcher.http`\n"));
    clean_environment();
    setenv("HIE_HTTP_LISTEN", "0.0.0.0:80", 1);
    production = expect("dispatcher: {http: {insecure: true}}\n" ONE_ITEM, "");
    production_free(production);
    clean_environment();
}
END_TEST

START_TEST(environment_gives_item_defaults)
{
    setenv("CONCURRENCY", "3", 1);
    setenv("QUEUE_TYPE", "unordered", 1);
    setenv("EXECUTION_MODE", "async", 1);
    setenv("MESSAGING_PATTERN", "async_reliable", 1);
    struct production *production =
        expect("items:\n  - {id: A, class: Echo}\n  - {id: B, class: Echo, concurrency: 4}\n", "");
    ck_assert_int_eq(find(production, "A")->concurrency, 3);
    ck_assert_int_eq(find(production, "B")->concurrency, 4);
    ck_assert_uint_eq(find(production, "A")->queue_type, QUEUE_UNORDERED);
    production_free(production);

    setenv("EXECUTION_MODE", "multi_process", 1);
    setenv("MESSAGING_PATTERN", "sync_reliable", 1);
    setenv("QUEUE_TYPE", "lifo", 1);
    production = expect("items:\n"
                        "  - {id: A, class: Echo}\n"
                        "  - {id: B, class: Echo, execution_mode: async}\n",
                        "");
    ck_assert_uint_eq(find(production, "A")->execution_mode, MODE_MULTI_PROCESS);
    ck_assert_uint_eq(find(production, "B")->execution_mode, MODE_ASYNC);
    ck_assert(item_senders_wait(find(production, "A")));
    ck_assert_int_eq(find(production, "A")->reply_ttl_ms, 60000);
    production_free(production);
    setenv("EXECUTION_MODE", "asink", 1);
    setenv("CONCURRENCY", "0", 1);
    ck_assert_ptr_null(
        expect("items:\n  - {id: A, class: Echo}\n  - {id: B, class: Echo}\n",
               "0: the environment variable EXECUTION_MODE, for `execution_mode`: expected async, "
               "multi_process or thread_pool; did you mean `async`?\n"
               "0: the environment variable CONCURRENCY, for `concurrency`: expected a whole "
               "number from 1 to 4096\n"));
    clean_environment();
}
END_TEST

START_TEST(expansion_is_bounded)
{
    char *big = mem_alloc(60001);
    memset(big, 'x', 60000);
    setenv("HIE_TEST_TEXT", big, 1);
    ck_assert_ptr_null(expect("production: {name: '${HIE_TEST_TEXT}${HIE_TEST_TEXT}'}\n" ONE_ITEM,
                              "1: `production.name`: longer than 65536 bytes\n"));
    free(big);
    clean_environment();
}
END_TEST

START_TEST(expansion_of_the_whole_file_is_bounded)
{
    char *big = mem_alloc(60001);
    memset(big, 'x', 60000);
    setenv("HIE_TEST_TEXT", big, 1);
    struct buffer yaml;
    buffer_init(&yaml, 1u << 20);
    buffer_append_text(&yaml, "items:\n");
    for (unsigned i = 0; i < 200; i++)
        buffer_printf(&yaml, "  - {id: i%u, class: '${HIE_TEST_TEXT}', queue_type: unordered}\n",
                      i);
    struct diagnostics all;
    ck_assert_ptr_null(production_parse(buffer_slice(&yaml), &all));
    ck_assert_uint_eq(all.error_count, 200);
    ck_assert_str_eq(all.list[0].message, "unknown class `${HIE_TEST_TEXT}`");
    ck_assert_str_eq(all.list[199].message, "`class`: the values with environment variables are "
                                            "larger than 4194304 bytes together");
    diagnostics_done(&all);
    buffer_done(&yaml);
    free(big);
    clean_environment();
}
END_TEST

START_TEST(patterns_of_the_whole_file_are_bounded)
{
    struct buffer yaml;
    buffer_init(&yaml, 4u << 20);
    buffer_append_text(&yaml, "items:\n"
                              "  - {id: out, class: Echo, queue_type: unordered}\n"
                              "  - id: in\n"
                              "    class: HL7RoutingEngine\n"
                              "    queue_type: unordered\n"
                              "    settings:\n"
                              "      rules:\n");
    for (unsigned i = 0; i < 2000; i++)
        buffer_printf(&yaml, "      - {when: {PID-3: {matches: '((abc){90}){15}'}}, to: out}\n");
    struct diagnostics all;
    ck_assert_ptr_null(production_parse(buffer_slice(&yaml), &all));
    ck_assert_uint_gt(all.error_count, 0);
    ck_assert_uint_lt(all.error_count, 2000); /* some fit */
    ck_assert_str_eq(all.list[0].message,
                     "the regular expressions of the file are too large together");
    diagnostics_done(&all);
    buffer_done(&yaml);
}
END_TEST

/* ---- references ---- */

START_TEST(many_items_and_long_chains)
{
    struct buffer yaml;
    buffer_init(&yaml, 4u << 20);
    buffer_append_text(&yaml, "items:\n");
    const unsigned count = 5000;
    for (unsigned i = 0; i < count; i++)
        buffer_printf(&yaml,
                      "  - {id: i%u, class: HL7RoutingEngine, queue_type: unordered, settings: "
                      "{default: i%u}}\n",
                      i, (i + 1) % count);
    struct diagnostics all;
    struct production *production = production_parse(buffer_slice(&yaml), &all);
    ck_assert_ptr_nonnull(production);
    ck_assert_uint_eq(all.count, 1);
    ck_assert_str_eq(all.list[0].message,
                     "items route in a circle: i0 → i1 → i2 → i3 → i4 → i5 → i6 → i7 → … → i0");
    for (unsigned i = 0; i < count; i++) {
        char id[16];
        snprintf(id, sizeof(id), "i%u", i);
        ck_assert_uint_eq(find(production, id)->index, i);
    }
    diagnostics_done(&all);
    production_free(production);
    buffer_done(&yaml);
}
END_TEST

START_TEST(diamond_is_no_circle)
{
    struct production *production = expect(
        "items:\n"
        "  - {id: A, class: HL7RoutingEngine, queue_type: unordered, settings: {default: "
        "[B, C]}}\n"
        "  - {id: B, class: HL7RoutingEngine, queue_type: unordered, settings: {default: D}}\n"
        "  - {id: C, class: HL7RoutingEngine, queue_type: unordered, settings: {default: D}}\n"
        "  - {id: D, class: Echo, queue_type: unordered}\n",
        "");
    production_free(production);
}
END_TEST

/* ---- files ---- */

START_TEST(unreadable_files)
{
    struct diagnostics all;
    ck_assert_ptr_null(production_load("/nonexistent/x.yaml", &all));
    ck_assert_uint_eq(all.error_count, 1);
    ck_assert_str_eq(all.list[0].message, "cannot be read: No such file or directory");
    diagnostics_done(&all);
    ck_assert_ptr_null(production_load("/", &all));
    ck_assert_str_eq(all.list[0].message, "cannot be read: Is a directory");
    diagnostics_done(&all);
    ck_assert_ptr_null(production_load("/dev/zero", &all));
    ck_assert_str_eq(all.list[0].message, "the file is larger than 4194304 bytes");
    diagnostics_done(&all);
    ck_assert_ptr_null(production_free(NULL));
}
END_TEST

START_TEST(printing)
{
    struct diagnostics all;
    char path[] = "/tmp/hie-test-print-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_null(production_parse(slice_text("items: 1\nfoo: 1\n"), &all));
    all.list[0].line = 0;
    all.list[1].warning = true;
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    diagnostics_print(&all, "x.yaml");
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    size_t len;
    char *text = file_text(path, &len);
    ck_assert_str_eq(text, "x.yaml: `items` is a single value; expected a list of items\n"
                           "x.yaml:2: warning: unknown key `foo` in the file\n");
    unlink(path);
    free(text);
    diagnostics_done(&all);
}
END_TEST

int main(void)
{
    clean_environment();
    Suite *suite = suite_create("production");
    TCase *tests = tcase_create("production");
    tcase_add_test(tests, golden_files);
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, every_value);
    tcase_add_test(tests, routing_settings);
    tcase_add_test(tests, other_settings);
    tcase_add_test(tests, settings_defaults);
    tcase_add_test(tests, flat_names);
    tcase_add_test(tests, environment_in_values);
    tcase_add_test(tests, environment_wins_over_the_file);
    tcase_add_test(tests, environment_gives_item_defaults);
    tcase_add_test(tests, expansion_is_bounded);
    tcase_add_test(tests, expansion_of_the_whole_file_is_bounded);
    tcase_add_test(tests, patterns_of_the_whole_file_are_bounded);
    tcase_add_test(tests, many_items_and_long_chains);
    tcase_add_test(tests, diamond_is_no_circle);
    tcase_add_test(tests, unreadable_files);
    tcase_add_test(tests, printing);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
