/* The option table against what is written about it: schemas/production.md and schemas/production.schema.json say every
 * option, no other, and the same. `unit_model_options --print` prints the tables for the page. */
#include "production_data.h"

#include "model/option.h"
#include "model/yaml.h"

#include <inttypes.h>

static const char *const scope_names[SCOPE_COUNT] = {
    [SCOPE_FILE] = "file",
    [SCOPE_LISTENER] = "listener",
    [SCOPE_ITEM] = "item",
    [SCOPE_ROUTING] = "routing",
    [SCOPE_RULE] = "rule",
    [SCOPE_HTTP_SENDER] = "http_sender",
    [SCOPE_FILE_WRITER] = "file_writer",
    [SCOPE_ECHO] = "echo",
};

static void print_table(enum option_scope scope, struct buffer *out)
{
    buffer_printf(out, "<!-- table: %s -->\n", scope_names[scope]);
    buffer_append_text(out, "| key | also | type | default | reload | supported | meaning |\n"
                            "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope == scope)
            option_print_row(&options[i], out);
    }
    buffer_append_text(out, "<!-- end -->\n");
}

/* ---- the table itself ---- */

START_TEST(table_is_sound)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        ck_assert_msg(option->description && *option->description, "%s: no description",
                      option->path);
        ck_assert_ptr_eq(option_find(option->scope, slice_text(option->path)), option);
        if (option->flat)
            ck_assert_ptr_eq(option_find(option->scope, slice_text(option->flat)), option);
        ck_assert_msg(option->type != OPTION_WORD || option->words, "%s: no words", option->path);
        ck_assert_msg(option->type != OPTION_CUSTOM || option->shape, "%s: no shape", option->path);
        ck_assert_msg(option->min <= option->max, "%s: empty range", option->path);
        const char *dot = strrchr(option->path, '.');
        if (!dot)
            continue;
        const struct option *section =
            option_find(option->scope, slice_of(option->path, (size_t)(dot - option->path)));
        ck_assert_msg(section && section->type == OPTION_SECTION, "%s: no section", option->path);
    }
}
END_TEST

/* A default is a value that the option itself accepts and that prints as it was written. */
START_TEST(defaults_are_values)
{
    size_t checked = 0;
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        struct option_value value;
        struct err err;
        if (!option->fallback || option->type == OPTION_CUSTOM)
            continue;
        ck_assert_msg(option_parse(option, slice_text(option->fallback), true, &value, &err) == 0,
                      "%s: %s", option->path, err.text);
        struct buffer text;
        buffer_init(&text, 4096);
        option_print(option, &value, &text);
        ck_assert_msg(slice_is(buffer_slice(&text), option->fallback), "%s prints as %.*s",
                      option->path, (int)text.len, text.data);
        buffer_done(&text);
        checked++;
    }
    ck_assert_uint_gt(checked, 30);
}
END_TEST

/* What holds for a section holds for all in it; a reload changes everything but the servers. */
START_TEST(what_takes_a_restart)
{
    size_t restarts = 0;
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        bool stays = option->scope == SCOPE_FILE && (strncmp(option->path, "redis", 5) == 0 ||
                                                     strncmp(option->path, "postgres", 8) == 0);
        ck_assert_msg(option_restarts(option) == stays, "%s", option->path);
        restarts += stays;
    }
    ck_assert_uint_eq(restarts, 5);
}
END_TEST

/* What is stored comes back, by every option that has a place. */
START_TEST(store_and_load)
{
    char *yaml;
    size_t len, checked = 0;
    yaml = file_text(HIE_SOURCE_DIR "/tests/data/production/good/full.yaml", &len);
    struct diagnostics all;
    struct production *production = production_parse(slice_of(yaml, len), &all);
    const struct item *item = production_find(production, slice_text("Router"));
    static const struct {
        const char *path, *text;
    } expected[] = {{"id", "Router"},
                    {"enabled", "false"},
                    {"queue_type", "fifo"},
                    {"concurrency", "1"},
                    {"persistence.mode", "wal_only"},
                    {"persistence.batch_size", "50"},
                    {"blocking.max_wait_time", "1000"},
                    {"ordering_key", "PID-3[2].1"}};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct option *option = option_find(SCOPE_ITEM, slice_text(expected[i].path));
        struct option_value value = option_load(option, item);
        struct buffer text;
        buffer_init(&text, 4096);
        option_print(option, &value, &text);
        ck_assert_msg(slice_is(buffer_slice(&text), expected[i].text), "%s", expected[i].path);
        buffer_done(&text);
        checked++;
    }
    ck_assert_uint_eq(checked, 8);
    diagnostics_done(&all);
    production_free(production);
    free(yaml);
}
END_TEST

/* ---- the reference page ---- */

START_TEST(page_has_the_tables)
{
    size_t len;
    char *page = file_text(HIE_SOURCE_DIR "/schemas/production.md", &len);
    for (unsigned scope = 0; scope < SCOPE_COUNT; scope++) {
        struct buffer table;
        buffer_init(&table, 1u << 20);
        print_table(scope, &table);
        buffer_append_byte(&table, '\0');
        ck_assert_msg(strstr(page, table.data) != NULL,
                      "schemas/production.md lacks this table (unit_model_options --print):\n%s",
                      table.data);
        buffer_done(&table);
    }
    unsigned tables = 0;
    for (const char *at = page; (at = strstr(at, "<!-- table: ")); at++)
        tables++;
    ck_assert_uint_eq(tables, SCOPE_COUNT); /* and no others */
    free(page);
}
END_TEST

/* ---- the JSON Schema: JSON is YAML ---- */

struct schema {
    char *text;
    struct arena arena;
    const struct yaml_node *root;
};

static void schema_open(struct schema *schema)
{
    size_t len;
    struct diagnostics all = {0};
    schema->text = file_text(HIE_SOURCE_DIR "/schemas/production.schema.json", &len);
    arena_init(&schema->arena);
    schema->root = yaml_tree_parse(slice_of(schema->text, len), &schema->arena, &all);
    ck_assert_uint_eq(all.count, 0);
    ck_assert_ptr_nonnull(schema->root);
    diagnostics_done(&all);
}

static void schema_close(struct schema *schema)
{
    arena_done(&schema->arena);
    free(schema->text);
}

static const struct yaml_node *member(const struct yaml_node *node, const char *key)
{
    return node ? yaml_member(node, key) : NULL;
}

static const struct yaml_node *schema_of_scope(const struct schema *schema, unsigned scope)
{
    if (scope == SCOPE_FILE)
        return schema->root;
    return member(member(schema->root, "definitions"), scope_names[scope]);
}

static const struct yaml_node *schema_of_path(const struct yaml_node *node, const char *path)
{
    char *copy = mem_strdup(path), *rest = copy, *part;
    while ((part = strsep(&rest, ".")))
        node = member(member(node, "properties"), part);
    free(copy);
    return node;
}

/* The first alternative of anyOf, or the schema itself. */
static const struct yaml_node *plain_form(const struct yaml_node *node)
{
    const struct yaml_node *any = member(node, "anyOf");
    return any ? any->first : node;
}

static void check_number(const struct option *option, const struct yaml_node *node, const char *key,
                         int64_t number)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRId64, number);
    const struct yaml_node *bound = member(plain_form(node), key);
    ck_assert_msg(bound && slice_is(bound->text, text), "schema of %s: %s is not %s", option->path,
                  key, text);
}

static void check_words(const struct option *option, const struct yaml_node *node)
{
    const struct yaml_node *list = member(plain_form(node), "enum");
    ck_assert_msg(list != NULL, "schema of %s: no enum", option->path);
    const struct yaml_node *word = list->first;
    for (size_t i = 0; option->words[i]; i++, word = word->next)
        ck_assert_msg(word && slice_is(word->text, option->words[i]), "schema of %s: enum",
                      option->path);
    ck_assert_ptr_null(word);
}

static void check_default(const struct option *option, const struct yaml_node *node)
{
    const struct yaml_node *given = member(node, "default");
    bool wanted = option->fallback != NULL;
    ck_assert_msg((given != NULL) == wanted, "schema of %s: default", option->path);
    if (given && given->kind == YAML_SCALAR)
        ck_assert_msg(slice_is(given->text, option->fallback), "schema of %s: default",
                      option->path);
    else if (given)
        ck_assert_str_eq(option->path, "retry_on"); /* the only list */
}

static bool is_required(const struct yaml_node *object, const char *key)
{
    const struct yaml_node *list = member(object, "required");
    for (const struct yaml_node *one = list ? list->first : NULL; one; one = one->next) {
        if (slice_is(one->text, key))
            return true;
    }
    return false;
}

static void check_option(const struct option *option, const struct yaml_node *scope)
{
    const struct yaml_node *node = schema_of_path(scope, option->path);
    ck_assert_msg(node != NULL, "schema: no %s", option->path);
    const struct yaml_node *text = member(node, "description");
    ck_assert_msg(text && slice_is(text->text, option->description), "schema of %s: description",
                  option->path);
    check_default(option, node);
    if (option->words)
        check_words(option, node);
    if (option->type == OPTION_INT || option->type == OPTION_DURATION ||
        option->type == OPTION_SIZE) {
        check_number(option, node, "minimum", option->min);
        check_number(option, node, "maximum", option->max);
    }
    if (!strchr(option->path, '.'))
        ck_assert_msg(is_required(scope, option->path) == option->required,
                      "schema of %s: required", option->path);
    if (option->flat)
        ck_assert_msg(schema_of_path(scope, option->flat) != NULL, "schema: no %s", option->flat);
}

START_TEST(schema_has_every_option)
{
    struct schema schema;
    schema_open(&schema);
    for (size_t i = 0; i < option_count; i++)
        check_option(&options[i], schema_of_scope(&schema, options[i].scope));
    schema_close(&schema);
    printf("%zu options\n", option_count);
}
END_TEST

/* Every property below `node` is an option of the scope; returns how many there are. */
static size_t count_properties(unsigned scope, const struct yaml_node *node, const char *prefix)
{
    size_t count = 0;
    const struct yaml_node *properties = member(node, "properties");
    const struct yaml_node *closed = member(node, "additionalProperties");
    if (!properties)
        return 0;
    ck_assert_msg(closed && slice_is(closed->text, "false"), "schema: %s %s takes unknown keys",
                  scope_names[scope], prefix);
    for (const struct yaml_node *one = properties->first; one; one = one->next) {
        char *path = mem_printf("%s%s%s", prefix, *prefix ? "." : "", one->key.ptr);
        ck_assert_msg(option_find(scope, slice_text(path)) != NULL, "schema: %s is no option of %s",
                      path, scope_names[scope]);
        count += 1 + count_properties(scope, one, path);
        free(path);
    }
    return count;
}

START_TEST(schema_has_no_other)
{
    struct schema schema;
    size_t found = 0, expected = option_count;
    schema_open(&schema);
    for (unsigned scope = 0; scope < SCOPE_COUNT; scope++)
        found += count_properties(scope, schema_of_scope(&schema, scope), "");
    for (size_t i = 0; i < option_count; i++)
        expected += options[i].flat != NULL;
    ck_assert_uint_eq(found, expected);
    schema_close(&schema);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        for (unsigned scope = 0; scope < SCOPE_COUNT; scope++) {
            struct buffer table;
            buffer_init(&table, 1u << 20);
            print_table(scope, &table);
            printf("%.*s\n", (int)table.len, table.data);
            buffer_done(&table);
        }
        return 0;
    }
    clean_environment();
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("options");
    tcase_add_test(tests, table_is_sound);
    tcase_add_test(tests, defaults_are_values);
    tcase_add_test(tests, what_takes_a_restart);
    tcase_add_test(tests, store_and_load);
    tcase_add_test(tests, page_has_the_tables);
    tcase_add_test(tests, schema_has_every_option);
    tcase_add_test(tests, schema_has_no_other);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
