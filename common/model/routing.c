/* Owns the settings of HL7RoutingEngine: rules, their conditions (paths, values, regular
 * expressions) and targets. Targets are names until references_resolve. */
#include "model/reader.h"

#include "model/diagnostics.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define PATTERN_BYTES_MAX 1024u

static struct slice keep_text(struct reader *reader, struct slice text)
{
    return arena_copy(reader->keep, text);
}

/* ---- conditions ---- */

static void one_of_read(struct reader *reader, struct hl7_condition *condition, const char *path,
                        const struct yaml_node *value)
{
    size_t count;
    const struct yaml_node *node = scalars_of(reader, path, value, &count);
    if (!node)
        return;
    condition->kind = CONDITION_ONE_OF;
    condition->values = arena_alloc(reader->keep, count * sizeof(*condition->values));
    for (; count; node = node->next, count--) {
        struct scalar scalar;
        if (!scalar_read(reader, path, false, node, &scalar))
            continue;
        if (scalar.text.len == 0)
            diagnostics_error(reader->out, node->line,
                              "`%s` is compared with an empty text; write {exists: false} for an "
                              "absent or empty value",
                              path);
        condition->values[condition->value_count++] = keep_text(reader, scalar.text);
    }
}

#define PATTERNS_BYTES_MAX (16u * 1024u * 1024u) /* compiled, of the whole file */

static void keep_within_budget(struct reader *reader, struct hl7_condition *condition, size_t line)
{
    size_t size = 0;
    pcre2_pattern_info(condition->pattern, PCRE2_INFO_SIZE, &size);
    reader->pattern_bytes += size;
    if (reader->pattern_bytes <= PATTERNS_BYTES_MAX)
        return;
    diagnostics_error(reader->out, line,
                      "the regular expressions of the file are too large together");
    reader->pattern_bytes -= size;
    pcre2_code_free(condition->pattern);
    condition->pattern = NULL;
}

/* Over bytes, since a message's character set is its sender's. NEVER_UTF keeps the pattern from
 * changing that, and
 * `$` is the very end, not also before a line break. */
static void matches_read(struct reader *reader, struct hl7_condition *condition, const char *path,
                         const struct yaml_node *value)
{
    struct scalar scalar;
    if (!scalar_read(reader, path, false, value, &scalar))
        return;
    condition->kind = CONDITION_MATCHES;
    if (scalar.text.len == 0 || scalar.text.len > PATTERN_BYTES_MAX) {
        diagnostics_error(reader->out, value->line,
                          "`matches` is a regular expression of 1 to %u bytes", PATTERN_BYTES_MAX);
        return;
    }
    int code;
    PCRE2_SIZE offset;
    condition->pattern = pcre2_compile((PCRE2_SPTR)scalar.text.ptr, scalar.text.len,
                                       PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C |
                                           PCRE2_DOLLAR_ENDONLY | PCRE2_USE_OFFSET_LIMIT,
                                       &code, &offset, NULL);
    if (condition->pattern) {
        keep_within_budget(reader, condition, value->line);
        return;
    }
    PCRE2_UCHAR message[160];
    if (pcre2_get_error_message(code, message, sizeof(message)) < 0)
        memcpy(message, "not valid", sizeof("not valid"));
    diagnostics_error(reader->out, value->line, "`matches` is %s: %s at character %zu",
                      QUOTE(value->text), (const char *)message, (size_t)offset + 1);
}

static void exists_read(struct reader *reader, struct hl7_condition *condition, const char *path,
                        const struct yaml_node *value)
{
    static const struct option flag = {.type = OPTION_BOOL};
    struct scalar scalar;
    struct option_value result;
    struct err err;
    if (!scalar_read(reader, path, false, value, &scalar))
        return;
    condition->kind = CONDITION_EXISTS;
    if (option_parse(&flag, scalar.text, scalar.plain, &result, &err))
        diagnostics_error(reader->out, value->line, "`exists` is %s: %s", QUOTE(value->text),
                          err.text);
    else
        condition->exists = result.number != 0;
}

static void test_read(struct reader *reader, struct hl7_condition *condition, const char *path,
                      const struct yaml_node *map)
{
    static const char *const tests[] = {"equals", "matches", "exists", NULL};
    const struct yaml_node *test = map->first;
    if (map->count != 1) {
        diagnostics_error(reader->out, map->line,
                          "`%s` needs exactly one of `equals`, `matches` and `exists`", path);
        return;
    }
    if (slice_is(test->key, "equals"))
        one_of_read(reader, condition, path, test);
    else if (slice_is(test->key, "matches"))
        matches_read(reader, condition, path, test);
    else if (slice_is(test->key, "exists"))
        exists_read(reader, condition, path, test);
    else
        diagnostics_error(reader->out, test->key_line,
                          "unknown test %s; expected `equals`, `matches` or `exists`%s",
                          QUOTE(test->key), did_you_mean(nearest_word(test->key, tests)).text);
}

static void condition_read(struct reader *reader, struct hl7_condition *condition,
                           const struct yaml_node *node)
{
    struct err err;
    char path[HL7_PATH_TEXT_SIZE] = "";
    if (hl7_path_parse(node->key, &condition->path, &err))
        diagnostics_error(reader->out, node->key_line, "%s is no HL7 path: %s", QUOTE(node->key),
                          err.text);
    else
        hl7_path_format(&condition->path, path);
    /* The value is checked all the same. */
    const char *name = path[0] ? path : "when";
    if (node->kind == YAML_MAP)
        test_read(reader, condition, name, node);
    else
        one_of_read(reader, condition, name, node);
}

void rule_when_read(struct reader *reader, struct object *object, const struct option *option,
                    const struct yaml_node *value)
{
    struct hl7_rule *rule = object->base;
    if (value->kind != YAML_MAP) {
        report_kind(reader, option->path, value, "a mapping of HL7 paths to conditions");
        return;
    }
    rule->conditions = arena_alloc(reader->keep, value->count * sizeof(*rule->conditions));
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        if (node->kind != YAML_REFUSED)
            condition_read(reader, &rule->conditions[rule->condition_count++], node);
    }
}

/* ---- targets ---- */

static bool already_named(struct slice *ids, size_t count, struct slice id)
{
    for (size_t i = 0; i < count; i++) {
        if (slice_equal(ids[i], id))
            return true;
    }
    return false;
}

#define TARGETS_MAX 256u

static void targets_read(struct reader *reader, const char *name, const struct yaml_node *value,
                         const struct item ***ret_targets, size_t *ret_count)
{
    size_t count, found = 0;
    const struct yaml_node *node = scalars_of(reader, name, value, &count);
    if (!node)
        return;
    if (count > TARGETS_MAX) {
        diagnostics_error(reader->out, value->line, "`%s` names more than %u items", name,
                          TARGETS_MAX);
        return;
    }
    struct slice ids[TARGETS_MAX];
    const struct item **targets = arena_alloc(reader->keep, count * sizeof(*targets));
    for (; count; node = node->next, count--) {
        struct scalar scalar;
        if (!scalar_read(reader, name, false, node, &scalar))
            continue;
        if (already_named(ids, found, scalar.text)) {
            diagnostics_error(reader->out, node->line, "`%s` names %s twice", name,
                              QUOTE(node->text));
            continue;
        }
        ids[found] = scalar.text;
        reference_add(reader, &targets[found++], scalar.text, node->line, reader->item);
    }
    *ret_targets = targets;
    *ret_count = found;
}

void rule_to_read(struct reader *reader, struct object *object, const struct option *option,
                  const struct yaml_node *value)
{
    struct hl7_rule *rule = object->base;
    targets_read(reader, option->path, value, &rule->targets, &rule->target_count);
}

void routing_default_read(struct reader *reader, struct object *object, const struct option *option,
                          const struct yaml_node *value)
{
    struct hl7_routing_settings *settings = object->base;
    targets_read(reader, option->path, value, &settings->fallback, &settings->fallback_count);
}

/* ---- rules ---- */

void rules_read(struct reader *reader, struct object *object, const struct option *option,
                const struct yaml_node *value)
{
    struct hl7_routing_settings *settings = object->base;
    if (value->kind != YAML_LIST) {
        report_kind(reader, option->path, value, "a list of rules");
        object->given[option - options].bad = true;
        return;
    }
    settings->rules = arena_alloc(reader->keep, value->count * sizeof(*settings->rules));
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        struct hl7_rule *rule = &settings->rules[settings->rule_count++];
        struct object one;
        object_read(reader, &one, SCOPE_RULE, rule, node, node->line);
        if (rule->name)
            continue;
        struct buffer name;
        buffer_init(&name, 64);
        buffer_printf(&name, "rule %zu", settings->rule_count);
        rule->name = arena_strdup(reader->keep, buffer_slice(&name));
        buffer_done(&name);
    }
}

void routing_settings_check(struct reader *reader, const struct object *object)
{
    const struct hl7_routing_settings *settings = object->base;
    if (settings->rule_count == 0 && !object_line(object, "default") &&
        !object_bad(object, "rules"))
        diagnostics_error(reader->out, object->line,
                          "HL7RoutingEngine needs `rules` or a `default` in its settings");
}

void routing_settings_done(struct hl7_routing_settings *settings)
{
    for (size_t i = 0; i < settings->rule_count; i++) {
        for (size_t j = 0; j < settings->rules[i].condition_count; j++)
            pcre2_code_free(settings->rules[i].conditions[j].pattern);
    }
}
