/* The published form: queues are shaped by what the publisher's environment said, whatever the reader's says. */
#include "model/production.h"

#include <check.h>
#include <stdlib.h>

static const char FILE_TEXT[] =
    "items:\n"
    "  - {id: A, class: Echo, concurrency: 1}\n"
    "  - {id: B, class: Echo, queue_type: fifo, ordering_key: PID-3.1, partitions: 7}\n"
    "# the end";

static struct production *parse(struct slice text, bool published)
{
    struct diagnostics diagnostics;
    struct production *production = published ? production_parse_published(text, &diagnostics)
                                              : production_parse(text, &diagnostics);
    ck_assert_uint_eq(diagnostics.error_count, 0);
    diagnostics_done(&diagnostics);
    return production;
}

static const struct item *find(const struct production *production, const char *id)
{
    const struct item *item = production_find(production, slice_text(id));
    ck_assert_ptr_nonnull(item);
    return item;
}

START_TEST(the_publishers_environment_shapes_queues)
{
    struct buffer text;
    buffer_init(&text, PRODUCTION_TEXT_MAX);
    setenv("QUEUE_TYPE", "lifo", 1);
    setenv("MESSAGING_PATTERN", "concurrent_sync", 1);
    struct production *ours = parse(slice_text(FILE_TEXT), false);
    production_publishable(ours, slice_text(FILE_TEXT), &text);
    setenv("QUEUE_TYPE", "priority", 1);
    setenv("MESSAGING_PATTERN", "async_reliable", 1);
    struct production *theirs = parse(buffer_slice(&text), true);
    const struct item *a = find(theirs, "A"), *b = find(theirs, "B");
    ck_assert_uint_eq(a->queue_type, QUEUE_LIFO);
    ck_assert_uint_eq(a->messaging_pattern, PATTERN_CONCURRENT_SYNC);
    ck_assert(item_senders_wait(a));
    ck_assert(item_same_queue(b, find(ours, "B")));
    ck_assert_int_eq(b->partitions, 7);
    ck_assert_str_eq(b->ordering_key, "PID-3.1");
    ck_assert_str_eq(b->ordering_path.segment, "PID");
    buffer_done(&text);
    production_free(ours);
    production_free(theirs);
    unsetenv("QUEUE_TYPE");
    unsetenv("MESSAGING_PATTERN");
}
END_TEST

static void with_pattern(const char *pattern)
{
    if (pattern)
        setenv("MESSAGING_PATTERN", pattern, 1);
    else
        unsetenv("MESSAGING_PATTERN");
}

/* What follows from the pattern does, unless the file says it. */
START_TEST(the_pattern_brings_what_follows_from_it)
{
    static const char file[] =
        "items:\n"
        "  - {id: A, class: Echo}\n"
        "  - {id: B, class: Echo, blocking: {enabled: false}, reply_ttl: 7}\n";
    static const char *const patterns[] = {"sync_reliable", NULL};
    for (int sync = 0; sync < 2; sync++) {
        struct buffer text;
        buffer_init(&text, PRODUCTION_TEXT_MAX);
        with_pattern(patterns[!sync]);
        struct production *ours = parse(slice_text(file), false);
        production_publishable(ours, slice_text(file), &text);
        with_pattern(patterns[sync]);
        struct production *theirs = parse(buffer_slice(&text), true);
        const struct item *a = find(theirs, "A"), *b = find(theirs, "B");
        ck_assert_int_eq(a->blocking.enabled, sync);
        ck_assert_int_eq(a->reply_ttl_ms, sync ? 60000 : 0);
        ck_assert(!b->blocking.enabled);
        ck_assert_int_eq(b->reply_ttl_ms, 7);
        buffer_done(&text);
        production_free(ours);
        production_free(theirs);
    }
    with_pattern(NULL);
}
END_TEST

static void publish(struct slice file, struct buffer *ret)
{
    struct production *production = parse(file, false);
    buffer_init(ret, PRODUCTION_PUBLISHED_MAX);
    production_publishable(production, file, ret);
    production_free(production);
}

/* An operator exports what was published, and edits it or not. */
START_TEST(lines_of_an_exported_version_do_not_count)
{
    static const char fifo[] = "items: [{id: A, class: Echo, queue_type: fifo, partitions: 3}]\n";
    static const char lifo[] = "items: [{id: A, class: Echo, queue_type: lifo}]\n";
    struct buffer first, again, edited, file, out;
    publish(SLICE_LITERAL(fifo), &first);
    publish(buffer_slice(&first), &again);
    ck_assert(slice_equal(buffer_slice(&first), buffer_slice(&again)));

    buffer_init(&file, 4096);
    buffer_append_text(&file, lifo);
    buffer_append(&file, first.data + sizeof(fifo) - 1, first.len - (sizeof(fifo) - 1));
    publish(buffer_slice(&file), &edited);
    buffer_init(&out, 4096);
    production_changed_queues(buffer_slice(&first), buffer_slice(&edited), &out);
    ck_assert(slice_is(buffer_slice(&out), "A"));
    struct production *production = parse(buffer_slice(&edited), true);
    ck_assert_uint_eq(find(production, "A")->queue_type, QUEUE_LIFO);
    production_free(production);
    buffer_done(&first);
    buffer_done(&again);
    buffer_done(&edited);
    buffer_done(&file);
    buffer_done(&out);
}
END_TEST

/* What is published of the largest file can be read. */
START_TEST(a_file_of_any_size_can_be_published)
{
    struct buffer file, text;
    buffer_init(&file, PRODUCTION_TEXT_MAX);
    buffer_append_text(&file, "items:\n  - {id: b, class: Echo}\n");
    for (int i = 1; i < 10000; i++)
        buffer_printf(&file,
                      "  - {id: a-rather-long-name-of-an-item-%d, class: HL7RoutingEngine, "
                      "settings: {default: b}}\n",
                      i);
    while (file.len < PRODUCTION_TEXT_MAX)
        buffer_append_byte(&file, '#');
    publish(buffer_slice(&file), &text);
    ck_assert_uint_gt(text.len, PRODUCTION_TEXT_MAX);
    struct production *production = parse(buffer_slice(&text), true);
    ck_assert_uint_eq(production->item_count, 10000);
    production_free(production);
    buffer_done(&file);
    buffer_done(&text);
}
END_TEST

START_TEST(lines_that_are_not_ours_change_nothing)
{
    static const char strange[] = "items: [{id: A, class: Echo, queue_type: lifo}]\n"
                                  "#hie-queue Other async_reliable fifo 1 Echo logged\n"
                                  "#hie-queue A async_reliable heap 1 Echo logged\n"
                                  "#hie-queue A async_reliable fifo 0 Echo logged\n"
                                  "#hie-queue A async_reliable fifo 1 Echo logged NOT-A-PATH\n"
                                  "#hie-queue A async_reliable fifo 1 Echo somewhere\n"
                                  "#hie-queue A\n#hie-queue \n#hie-queue";
    struct production *production = parse(slice_text(strange), true);
    ck_assert_uint_eq(find(production, "A")->queue_type, QUEUE_LIFO);
    production_free(production);
}
END_TEST

static void changed(const char *before, const char *after, const char *wanted)
{
    struct buffer texts[2], out;
    const char *files[] = {before, after};
    buffer_init(&out, 4096);
    for (int i = 0; i < 2; i++) {
        struct production *production = parse(slice_text(files[i]), false);
        buffer_init(&texts[i], PRODUCTION_TEXT_MAX);
        production_publishable(production, slice_text(files[i]), &texts[i]);
        production_free(production);
    }
    production_changed_queues(buffer_slice(&texts[0]), buffer_slice(&texts[1]), &out);
    ck_assert_msg(slice_is(buffer_slice(&out), wanted), "%.*s instead of %s", (int)out.len,
                  out.data ? out.data : "", wanted);
    buffer_done(&texts[0]);
    buffer_done(&texts[1]);
    buffer_done(&out);
}

START_TEST(changed_queues_are_named)
{
#define A "{id: A, class: Echo}"
#define FIFO(rest) "items: [{id: A, class: Echo, queue_type: fifo" rest "}]"
    changed("items: [" A "]", "items: [" A "]", "");
    changed("items: [" A "]", "items: [{id: A, class: Echo, concurrency: 3, timeout: 9}]", "");
    changed("items: [" A "]", "items: [{id: New, class: Echo}, " A "]", "");
    changed("items: [{id: Z, class: Echo}, " A "]", "items: [{id: B, class: Echo}]", "A,Z");
    changed("items: [" A "]", "items: [{id: a, class: Echo}]", "A");
    changed("items: [" A "]", "items: [{id: A, class: Echo, messaging_pattern: sync_reliable}]",
            "A");
    changed("items: [" A "]", "items: [{id: A, class: Echo, queue_type: lifo}]", "A");
    changed("items: [" A "]", "items: [{id: A, class: FileWriter, settings: {folder: x, name: y}}]",
            "A");
    changed(FIFO(", ordering_key: PID-3, partitions: 4"),
            FIFO(", ordering_key: PID-3, partitions: 5"), "A");
    changed(FIFO(", ordering_key: PID-3"), FIFO(", ordering_key: PID-5"), "A");
    changed(FIFO(", ordering_key: PID-3, partitions: 1"), FIFO(", partitions: 1"), "A");
    changed(FIFO(", ordering_key: PID-3"), FIFO(", ordering_key: 'PID-3[1]'"), "");
    changed(FIFO(""), FIFO(", persistence: {mode: none}"), "A");
    changed(FIFO(", persistence: {mode: wal_only}"), FIFO(""), "");
    changed("items: [" A "]",
            "items: [{id: A, class: Echo, queue_type: lifo, persistence: {mode: none}}]", "A");
    changed("items: [{id: A, class: Echo, queue_type: lifo}]",
            "items: [{id: A, class: Echo, queue_type: lifo, persistence: {mode: none}}]", "");
}
END_TEST

/* Texts that no version of ours wrote. */
START_TEST(odd_lines_change_what_they_say)
{
    struct buffer out;
    buffer_init(&out, 4096);
    production_changed_queues(slice_of(NULL, 0), SLICE_LITERAL("#hie-queue A x y 1 Z"), &out);
    ck_assert_uint_eq(out.len, 0);
    production_changed_queues(SLICE_LITERAL("#hie-queue A\n#hie-queue B x\n#hie-queue \n"),
                              SLICE_LITERAL("x\n#hie-queue A y\n #hie-queue B x"), &out);
    ck_assert(slice_is(buffer_slice(&out), "A,B"));
    buffer_done(&out);
}
END_TEST

/* Its last line says where the sections come from, and counts for no hash. */
START_TEST(sections_go_back_to_a_version)
{
    static const int64_t since[SECTION_COUNT] = {[SECTION_DISPATCHER] = 3, [SECTION_WORKER] = 12};
    struct buffer text;
    char hash[PRODUCTION_HASH_SIZE];
    buffer_init(&text, 4096);
    buffer_append_text(&text, "items: [{id: A, class: Echo}]\n");
    production_hash(buffer_slice(&text), hash);
    struct production *without = parse(buffer_slice(&text), true);
    ck_assert_str_eq(without->hash, hash);
    ck_assert(without->since[SECTION_DISPATCHER] == 0 && without->since[SECTION_WORKER] == 0);
    production_append_since(since, &text);
    struct production *with = parse(buffer_slice(&text), true);
    ck_assert_str_eq(with->hash, hash);
    ck_assert(slice_equal(with->text, buffer_slice(&text)));
    ck_assert(with->since[SECTION_DISPATCHER] == 3 && with->since[SECTION_WORKER] == 12);
    buffer_append_text(&text, "#\n"); /* no last line any more */
    struct production *behind = parse(buffer_slice(&text), true);
    ck_assert_str_ne(behind->hash, hash);
    ck_assert_int_eq(behind->since[SECTION_WORKER], 0);
    buffer_done(&text);
    production_free(without);
    production_free(with);
    production_free(behind);
}
END_TEST

START_TEST(the_last_owner_frees)
{
    struct production *production = parse(slice_text(FILE_TEXT), false);
    production_ref(production);
    ck_assert_ptr_null(production_free(production));
    ck_assert_ptr_nonnull(find(production, "A"));
    ck_assert_ptr_null(production_free(production));
}
END_TEST

START_TEST(an_item_is_the_same_while_its_text_is)
{
    struct production *one =
        parse(SLICE_LITERAL("items: [{id: A, class: Echo, settings: {delay: 1}}]"), false);
    struct production *same =
        parse(SLICE_LITERAL(
                  "production: {name: x}\nitems:\n - {id: A, class: Echo, settings: {delay: 1}}"),
              false);
    struct production *other =
        parse(SLICE_LITERAL("items: [{id: A, class: Echo, settings: {delay: 2}}]"), false);
    ck_assert(find(one, "A")->text_hash == find(same, "A")->text_hash);
    ck_assert(find(one, "A")->text_hash != find(other, "A")->text_hash);
    production_free(one);
    production_free(same);
    production_free(other);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("published");
    TCase *tests = tcase_create("published");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, the_publishers_environment_shapes_queues);
    tcase_add_test(tests, the_pattern_brings_what_follows_from_it);
    tcase_add_test(tests, lines_of_an_exported_version_do_not_count);
    tcase_add_test(tests, a_file_of_any_size_can_be_published);
    tcase_add_test(tests, lines_that_are_not_ours_change_nothing);
    tcase_add_test(tests, changed_queues_are_named);
    tcase_add_test(tests, odd_lines_change_what_they_say);
    tcase_add_test(tests, sections_go_back_to_a_version);
    tcase_add_test(tests, the_last_owner_frees);
    tcase_add_test(tests, an_item_is_the_same_while_its_text_is);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
