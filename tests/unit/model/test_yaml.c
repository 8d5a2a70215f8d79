/* The YAML tree: lines, kinds, bounds, and what is refused. */
#include "production_data.h"

#include "model/diagnostics.h"
#include "model/yaml.h"

static struct arena arena;
static struct diagnostics all;

static struct yaml_node *tree(struct slice bytes)
{
    arena_done(&arena);
    diagnostics_done(&all);
    return yaml_tree_parse(bytes, &arena, &all);
}

static void setup(void)
{
    arena_init(&arena);
    all = (struct diagnostics){0};
}

static void teardown(void)
{
    arena_done(&arena);
    diagnostics_done(&all);
}

START_TEST(lines_and_kinds)
{
    const struct yaml_node *root = tree(slice_text("# one\n"
                                                   "a: x\n"
                                                   "b:\n"
                                                   "  - 1\n"
                                                   "  - \"2\"\n"
                                                   "\n"
                                                   "  - {c: [], d: ~}\n"
                                                   "e: |\n"
                                                   "  text\n"));
    ck_assert_uint_eq(all.count, 0);
    ck_assert_int_eq(root->kind, YAML_MAP);
    ck_assert_uint_eq(root->line, 2);
    ck_assert_uint_eq(root->count, 3);
    const struct yaml_node *a = yaml_member(root, "a"), *b = yaml_member(root, "b");
    ck_assert(slice_is(a->text, "x") && a->plain && slice_is(a->key, "a"));
    ck_assert_int_eq(b->kind, YAML_LIST);
    ck_assert_uint_eq(b->key_line, 3);
    ck_assert_uint_eq(b->count, 3);
    ck_assert_uint_eq(b->first->line, 4);
    ck_assert(!b->first->next->plain);
    ck_assert_uint_eq(b->last->line, 7);
    ck_assert_int_eq(yaml_member(b->last, "c")->kind, YAML_LIST);
    ck_assert(yaml_is_null(yaml_member(b->last, "d")));
    ck_assert(!yaml_is_null(a));
    ck_assert(slice_is(yaml_member(root, "e")->text, "text\n"));
    ck_assert_ptr_null(yaml_member(root, "z"));
    ck_assert_ptr_null(yaml_member(b, "a"));
}
END_TEST

START_TEST(quoted_nothing_is_text)
{
    const struct yaml_node *root = tree(slice_text("[~, null, , \"\", '~', nul]"));
    /* A flow list has no empty member between commas: libyaml says so. */
    ck_assert_ptr_null(root);
    root = tree(slice_text("[~, null, \"\", '~', nul]"));
    const struct yaml_node *one = root->first;
    ck_assert(yaml_is_null(one));
    ck_assert(yaml_is_null(one = one->next));
    ck_assert(!yaml_is_null(one = one->next));
    ck_assert(!yaml_is_null(one = one->next));
    ck_assert(!yaml_is_null(one = one->next));
}
END_TEST

static void expect_tree(struct slice bytes, bool tree_comes, const char *messages)
{
    const struct yaml_node *root = tree(bytes);
    char *text = diagnostics_text(&all);
    ck_assert_str_eq(text, messages);
    ck_assert_int_eq(root != NULL, tree_comes);
    free(text);
}

START_TEST(refused)
{
    expect_tree(slice_text(""), false, "0: the file is empty\n");
    expect_tree(slice_of(NULL, 0), false, "0: the file is empty\n");
    expect_tree(slice_text("a: 1\n---\nb: 1\n"), false,
                "2: a second document (---) is not allowed\n");
    expect_tree(slice_text("a: &x 1\nb: *x\n"), true,
                "1: anchors (&name) are not supported; write the value out\n"
                "2: aliases (*name) are not supported; write the value out\n");
    expect_tree(slice_text("a: !!int 1\n"), true, "1: tags (!name) are not supported\n");
    expect_tree(slice_text("a: 1\nb: 2\na: 3\na: 4\n"), true,
                "3: duplicate key `a` (first on line 1)\n4: duplicate key `a` (first on line 1)\n");
    expect_tree(slice_text("a: \"x\\0y\"\n"), true, "1: a NUL character is not allowed\n");
    expect_tree(slice_text("? [a]\n: 1\n"), false,
                "1: a key must be a text, not a list or a mapping\n");
    expect_tree(slice_of("a: 1\nb: \0\n", 10), false,
                "2: malformed YAML: control characters are not allowed\n");
    expect_tree(
        slice_text("a: [1\nb: 2\n"), false,
        "2: malformed YAML: did not find expected ',' or ']' (while parsing a flow sequence "
        "that starts on line 1)\n");
}
END_TEST

START_TEST(depth_is_bounded)
{
    char text[3 * YAML_DEPTH_MAX];
    for (unsigned depth = YAML_DEPTH_MAX; depth <= YAML_DEPTH_MAX + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        ck_assert_int_eq(tree(slice_of(text, 2 * depth)) != NULL, depth == YAML_DEPTH_MAX);
        ck_assert_uint_eq(all.count, depth > YAML_DEPTH_MAX);
    }
    ck_assert_str_eq(all.list[0].message, "nested deeper than 32 levels");
}
END_TEST

START_TEST(nodes_are_bounded)
{
    char *text = mem_alloc(4 * YAML_NODES_MAX);
    size_t len = 0;
    for (size_t i = 0; i < YAML_NODES_MAX - 1; i++, len += 4)
        memcpy(text + len, "- a\n", 4);
    ck_assert_ptr_nonnull(tree(slice_of(text, len)));
    memcpy(text + len, "- a\n", 4);
    ck_assert_ptr_null(tree(slice_of(text, len + 4)));
    ck_assert_str_eq(all.list[0].message, "more than 100000 values");
    free(text);
}
END_TEST

START_TEST(bytes_are_bounded)
{
    char *text = mem_alloc(YAML_BYTES_MAX + 1);
    memset(text, ' ', YAML_BYTES_MAX + 1);
    text[0] = 'a';
    ck_assert_ptr_nonnull(tree(slice_of(text, YAML_BYTES_MAX)));
    ck_assert_ptr_null(tree(slice_of(text, YAML_BYTES_MAX + 1)));
    ck_assert_str_eq(all.list[0].message, "the text is larger than 8388608 bytes");
    free(text);
}
END_TEST

/* A map of many keys costs n log n, duplicates included. */
START_TEST(many_duplicates)
{
    struct buffer text;
    buffer_init(&text, YAML_BYTES_MAX);
    for (unsigned i = 0; i < 40000; i++)
        buffer_printf(&text, "k%u: 1\n", i % 20000);
    ck_assert_ptr_nonnull(tree(buffer_slice(&text)));
    ck_assert_uint_eq(all.error_count, 20000);
    buffer_done(&text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("yaml");
    TCase *tests = tcase_create("yaml");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, lines_and_kinds);
    tcase_add_test(tests, quoted_nothing_is_text);
    tcase_add_test(tests, refused);
    tcase_add_test(tests, depth_is_bounded);
    tcase_add_test(tests, nodes_are_bounded);
    tcase_add_test(tests, bytes_are_bounded);
    tcase_add_test(tests, many_duplicates);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
