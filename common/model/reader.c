/* Owns the reading of mappings by the option table: known keys into structs, defaults, environment
 * variables, and the words for what is wrong. Reports to the reader's diagnostics and goes on, so
 * that one run shows everything. */
#include "model/reader.h"

#include "base/bug.h"
#include "model/diagnostics.h"
#include "model/environment.h"

#include <stdio.h>

#define PATH_LEN_MAX 128

static size_t place_of(const struct option *option)
{
    return (size_t)(option - options);
}

static void report_subject(struct reader *reader, const char *subject, const struct yaml_node *node,
                           const char *expected)
{
    if (node->kind == YAML_REFUSED)
        return;
    if (yaml_is_null(node))
        diagnostics_error(reader->out, node->line, "%s has no value; expected %s", subject,
                          expected);
    else
        diagnostics_error(reader->out, node->line, "%s is %s; expected %s", subject,
                          node->kind == YAML_LIST  ? "a list"
                          : node->kind == YAML_MAP ? "a mapping"
                                                   : "a single value",
                          expected);
}

void report_kind(struct reader *reader, const char *name, const struct yaml_node *node,
                 const char *expected)
{
    report_subject(reader, QUOTE(slice_text(name)), node, expected);
}

bool scalar_read(struct reader *reader, const char *name, bool is_template,
                 const struct yaml_node *node, struct scalar *ret)
{
    if (node->kind != YAML_SCALAR || yaml_is_null(node)) {
        report_kind(reader, name, node, "a single value");
        return false;
    }
    struct scalar scalar = {.text = node->text, .plain = node->plain};
    struct err err;
    if (!is_template &&
        environment_expand(node->text, reader->scratch, &scalar.text, &scalar.replaced, &err)) {
        diagnostics_error(reader->out, node->line, "`%s`: %s", name, err.text);
        return false;
    }
    reader->replaced_bytes += scalar.replaced ? scalar.text.len : 0;
    if (reader->replaced_bytes > PRODUCTION_TEXT_MAX) {
        diagnostics_error(
            reader->out, node->line,
            "`%s`: the values with environment variables are larger than %u bytes together", name,
            PRODUCTION_TEXT_MAX);
        reader->replaced_bytes -= scalar.text.len;
        return false;
    }
    scalar.plain = scalar.plain || scalar.replaced;
    *ret = scalar;
    return true;
}

const struct yaml_node *scalars_of(struct reader *reader, const char *name,
                                   const struct yaml_node *node, size_t *ret_count)
{
    if (node->kind == YAML_SCALAR && !yaml_is_null(node)) {
        *ret_count = 1;
        return node;
    }
    if (node->kind != YAML_LIST) {
        report_kind(reader, name, node, "a single value or a list");
        return NULL;
    }
    if (node->count == 0) {
        diagnostics_error(reader->out, node->line, "`%s` is an empty list", name);
        return NULL;
    }
    *ret_count = node->count;
    return node->first;
}

/* ---- unknown keys ---- */

/* The part of a path below `prefix`, when it is the last one; NULL otherwise. */
static const char *last_part(const char *path, struct slice prefix)
{
    if (prefix.len) {
        if (strlen(path) <= prefix.len || memcmp(path, prefix.ptr, prefix.len) != 0 ||
            path[prefix.len] != '.')
            return NULL;
        path += prefix.len + 1;
    }
    return strchr(path, '.') ? NULL : path;
}

/* The one section of the scope in which the key would be known. */
static struct slice home_of(enum option_scope scope, struct slice key)
{
    struct slice home = {0};
    for (size_t i = 0; i < option_count; i++) {
        const char *dot = strrchr(options[i].path, '.');
        if (options[i].scope != scope || !dot || !slice_is(key, dot + 1))
            continue;
        if (home.len)
            return slice_of(NULL, 0); /* several */
        home = slice_of(options[i].path, (size_t)(dot - options[i].path));
    }
    return home;
}

static void report_unknown(struct reader *reader, const struct object *object, struct slice prefix,
                           const struct yaml_node *member)
{
    const char *near[2 * OPTION_MAX + 1];
    size_t count = 0;
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope != object->scope)
            continue;
        const char *part = last_part(options[i].path, prefix);
        if (part)
            near[count++] = part;
        if (prefix.len == 0 && options[i].flat)
            near[count++] = options[i].flat;
    }
    near[count] = NULL;
    char where[PATH_LEN_MAX + 3];
    if (prefix.len)
        snprintf(where, sizeof(where), "`%.*s`", (int)prefix.len, prefix.ptr);
    else
        snprintf(where, sizeof(where), "%s", option_scope_words(object->scope));
    struct slice home = home_of(object->scope, member->key);
    const char *word = nearest_word(member->key, near);
    if (!word && home.len)
        diagnostics_error(reader->out, member->key_line,
                          "unknown key %s in %s; it belongs in `%.*s`", QUOTE(member->key), where,
                          (int)home.len, home.ptr);
    else
        diagnostics_error(reader->out, member->key_line, "unknown key %s in %s%s",
                          QUOTE(member->key), where, did_you_mean(word).text);
}

/* ---- one key ---- */

static void report_value(struct reader *reader, const struct yaml_node *node,
                         const struct option *option, const char *key, const struct scalar *scalar,
                         const char *why)
{
    if (option->secret)
        diagnostics_error(reader->out, node->line, "`%s`: %s", key, why);
    else
        diagnostics_error(reader->out, node->line, "`%s` is %s: %s%s", key, QUOTE(node->text), why,
                          scalar->replaced ? " (after replacing environment variables)" : "");
}

/* A second value for an option that has a flat name as well. */
static void check_same(struct reader *reader, const struct object *object,
                       const struct option *option, const char *key, size_t line,
                       const struct option_value *value)
{
    size_t place = place_of(option);
    struct option_value first = option_load(option, object->base);
    if (object->given[place].bad || option_equal(option, &first, value))
        return;
    struct buffer text;
    buffer_init(&text, 1024);
    buffer_printf(&text, "%s: ", key);
    option_print(option, value, &text);
    buffer_printf(&text, " contradicts %s: ", object->given[place].key);
    option_print(option, &first, &text);
    diagnostics_error(reader->out, line, "%.*s on line %zu", (int)text.len, text.data,
                      object->given[place].line);
    buffer_done(&text);
}

static void read_value(struct reader *reader, struct object *object, const struct option *option,
                       const char *key, const struct yaml_node *node)
{
    size_t place = place_of(option);
    bool first = object->given[place].line == 0;
    struct scalar scalar;
    struct option_value value;
    struct err err;
    bool good = scalar_read(reader, key, option->is_template, node, &scalar);
    if (good && option_parse(option, scalar.text, scalar.plain, &value, &err)) {
        report_value(reader, node, option, key, &scalar, err.text);
        good = false;
    }
    if (good && !first)
        check_same(reader, object, option, key, node->line, &value);
    if (good && first)
        option_store(option, object->base, &value, reader->keep);
    if (first) {
        object->given[place].line = node->key_line;
        object->given[place].key = key;
        object->given[place].bad = !good;
    }
}

static void read_map(struct reader *reader, struct object *object, struct slice prefix,
                     const struct yaml_node *map);

static void read_member(struct reader *reader, struct object *object, struct slice prefix,
                        const struct yaml_node *member)
{
    char path[PATH_LEN_MAX];
    int len = snprintf(path, sizeof(path), "%.*s%s%s", (int)prefix.len, prefix.ptr,
                       prefix.len ? "." : "", member->key.ptr);
    const struct option *option = len > 0 && (size_t)len < sizeof(path)
                                      ? option_find(object->scope, slice_of(path, (size_t)len))
                                      : NULL;
    /* "retry.backoff" as one key is no way to write `backoff` of `retry`. */
    if (!option || memchr(member->key.ptr, '.', member->key.len)) {
        if (member->kind != YAML_REFUSED)
            report_unknown(reader, object, prefix, member);
        return;
    }
    const char *key =
        slice_is(slice_of(path, (size_t)len), option->path) ? option->path : option->flat;
    if (option->unbuilt) {
        if (member->kind != YAML_REFUSED)
            diagnostics_error(reader->out, member->key_line, "`%s` is not yet supported", key);
    } else if (option->type == OPTION_SECTION) {
        if (member->kind == YAML_MAP)
            read_map(reader, object, slice_text(option->path), member);
        else
            report_kind(reader, key, member, "a mapping");
    } else if (option->type != OPTION_CUSTOM) {
        read_value(reader, object, option, key, member);
    }
    if (option->type == OPTION_SECTION || option->type == OPTION_CUSTOM) {
        object->given[place_of(option)].line = member->key_line;
        object->given[place_of(option)].key = key;
    }
    if (option->read && !option->unbuilt && member->kind != YAML_REFUSED)
        option->read(reader, object, option, member);
}

static void read_map(struct reader *reader, struct object *object, struct slice prefix,
                     const struct yaml_node *map)
{
    for (const struct yaml_node *member = map->first; member; member = member->next)
        read_member(reader, object, prefix, member);
}

/* ---- defaults ---- */

static void use_variable(struct reader *reader, struct object *object, const struct option *option,
                         const char *variable)
{
    size_t place = place_of(option);
    const char *text = environment_get(variable);
    struct option_value value;
    struct err err;
    if (!text)
        return;
    if (option_parse(option, slice_text(text), true, &value, &err)) {
        if (!reader->variable_reported[place])
            diagnostics_error(reader->out, 0, "the environment variable %s, for `%s`: %s", variable,
                              option->path, err.text);
        reader->variable_reported[place] = true;
        return;
    }
    option_store(option, object->base, &value, reader->keep);
    object->given[place].variable = variable;
    object->given[place].bad = false;
}

static void use_fallback(struct reader *reader, struct object *object, const struct option *option)
{
    struct option_value value;
    struct err err;
    if (!option->fallback || option->type == OPTION_CUSTOM)
        return;
    int failed = option_parse(option, slice_text(option->fallback), true, &value, &err);
    BUG_ON(failed);
    option_store(option, object->base, &value, reader->keep);
}

static void complete(struct reader *reader, struct object *object, const struct option *option)
{
    size_t place = place_of(option);
    if (option->unbuilt)
        return;
    if (option->override)
        use_variable(reader, object, option, option->override);
    else if (option->environment && object->given[place].line == 0)
        use_variable(reader, object, option, option->environment);
    bool given = object->given[place].line || object->given[place].variable;
    if (!given && option->required)
        diagnostics_error(reader->out, object->line, "missing key `%s` in %s", option->path,
                          option_scope_words(object->scope));
    if (!given || object->given[place].bad)
        use_fallback(reader, object, option);
}

void object_read(struct reader *reader, struct object *object, enum option_scope scope, void *base,
                 const struct yaml_node *map, size_t line)
{
    *object = (struct object){.scope = scope, .base = base, .line = line};
    if (map && map->kind == YAML_MAP)
        read_map(reader, object, slice_text(""), map);
    else if (map)
        report_subject(reader, option_scope_words(scope), map, "a mapping");
    if (map && map->kind != YAML_MAP)
        return;
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope == scope)
            complete(reader, object, &options[i]);
    }
}

bool object_bad(const struct object *object, const char *path)
{
    const struct option *option = option_find(object->scope, slice_text(path));
    BUG_ON(!option);
    return object->given[place_of(option)].bad;
}

size_t object_line(const struct object *object, const char *path)
{
    const struct option *option = option_find(object->scope, slice_text(path));
    BUG_ON(!option);
    size_t place = place_of(option);
    return object->given[place].bad ? 0 : object->given[place].line;
}
