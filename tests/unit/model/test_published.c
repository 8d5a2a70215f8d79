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
    ck_assert(item_is_sync(a));
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

START_TEST(lines_that_are_not_ours_change_nothing)
{
    static const char strange[] = "items: [{id: A, class: Echo, queue_type: lifo}]\n"
                                  "#hie-queue Other async_reliable fifo 1\n"
                                  "#hie-queue A async_reliable heap 1\n"
                                  "#hie-queue A async_reliable fifo 0\n"
                                  "#hie-queue A async_reliable fifo 1 NOT-A-PATH\n"
                                  "#hie-queue A\n#hie-queue \n#hie-queue";
    struct production *production = parse(slice_text(strange), true);
    ck_assert_uint_eq(find(production, "A")->queue_type, QUEUE_LIFO);
    production_free(production);
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
    tcase_add_test(tests, the_publishers_environment_shapes_queues);
    tcase_add_test(tests, lines_that_are_not_ours_change_nothing);
    tcase_add_test(tests, the_last_owner_frees);
    tcase_add_test(tests, an_item_is_the_same_while_its_text_is);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
