/* Owns the way from bytes to the tree, over libyaml's events. Never waits. Fails by diagnostics:
 * what libyaml itself refuses and the bounds end the reading, everything else is noted and read on,
 * so that one run shows all. */
#include "model/yaml.h"

#include "base/mem.h"

#include <stdlib.h>
#include <yaml.h>

struct builder {
    yaml_parser_t parser;
    struct slice bytes;
    struct arena *arena;
    struct diagnostics *out;
    size_t node_count;
    unsigned depth;
    /* The collections that are open, outermost first; in a map, `key` waits for its value. */
    struct {
        struct yaml_node *node;
        struct slice key;
        size_t key_line;
        bool has_key;
    } open[YAML_DEPTH_MAX];
    struct yaml_node *root;
};

static size_t line_of(yaml_mark_t mark)
{
    return mark.line + 1;
}

/* libyaml tells a reader's problem (bad UTF-8, control characters) by byte offset only. */
static size_t line_at(struct slice bytes, size_t offset)
{
    size_t line = 1;
    for (size_t i = 0; i < offset && i < bytes.len; i++)
        line += bytes.ptr[i] == '\n';
    return line;
}

static void report_malformed(struct builder *b)
{
    const yaml_parser_t *parser = &b->parser;
    const char *problem = parser->problem ? parser->problem : "cannot be read";
    if (parser->error == YAML_READER_ERROR)
        diagnostics_error(b->out, line_at(b->bytes, parser->problem_offset), "malformed YAML: %s",
                          problem);
    else if (parser->context && parser->context_mark.line != parser->problem_mark.line)
        diagnostics_error(b->out, line_of(parser->problem_mark),
                          "malformed YAML: %s (%s that starts on line %zu)", problem,
                          parser->context, line_of(parser->context_mark));
    else if (parser->context)
        diagnostics_error(b->out, line_of(parser->problem_mark), "malformed YAML: %s (%s)", problem,
                          parser->context);
    else
        diagnostics_error(b->out, line_of(parser->problem_mark), "malformed YAML: %s", problem);
}

/* Hangs the node below the collection that is open. */
static void attach(struct builder *b, struct yaml_node *node)
{
    if (b->depth == 0) {
        b->root = node;
        return;
    }
    struct yaml_node *parent = b->open[b->depth - 1].node;
    if (parent->kind == YAML_MAP) {
        node->key = b->open[b->depth - 1].key;
        node->key_line = b->open[b->depth - 1].key_line;
        b->open[b->depth - 1].has_key = false;
    }
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
}

static bool wants_key(const struct builder *b)
{
    return b->depth && b->open[b->depth - 1].node->kind == YAML_MAP &&
           !b->open[b->depth - 1].has_key;
}

static void set_key(struct builder *b, struct slice text, size_t line)
{
    b->open[b->depth - 1].key = text;
    b->open[b->depth - 1].key_line = line;
    b->open[b->depth - 1].has_key = true;
}

static struct yaml_node *new_node(struct builder *b, enum yaml_kind kind, size_t line)
{
    struct yaml_node *node = arena_alloc(b->arena, sizeof(*node));
    node->kind = kind;
    node->line = line;
    b->node_count++;
    return node;
}

/* False when the tag or anchor was refused. */
static bool check_decoration(struct builder *b, const yaml_event_t *event)
{
    const yaml_char_t *anchor = event->type == YAML_SCALAR_EVENT ? event->data.scalar.anchor
                                : event->type == YAML_SEQUENCE_START_EVENT
                                    ? event->data.sequence_start.anchor
                                    : event->data.mapping_start.anchor;
    const yaml_char_t *tag = event->type == YAML_SCALAR_EVENT ? event->data.scalar.tag
                             : event->type == YAML_SEQUENCE_START_EVENT
                                 ? event->data.sequence_start.tag
                                 : event->data.mapping_start.tag;
    size_t line = line_of(event->start_mark);
    if (anchor)
        diagnostics_error(b->out, line, "anchors (&name) are not supported; write the value out");
    if (tag)
        diagnostics_error(b->out, line, "tags (!name) are not supported");
    return !anchor && !tag;
}

static void on_scalar(struct builder *b, const yaml_event_t *event)
{
    size_t line = line_of(event->start_mark);
    struct slice text = slice_of(event->data.scalar.value, event->data.scalar.length);
    bool good = check_decoration(b, event);
    if (text.len && memchr(text.ptr, 0, text.len)) {
        diagnostics_error(b->out, line, "a NUL character is not allowed");
        good = false;
        text = slice_of(text.ptr, strlen(text.ptr));
    }
    text = arena_copy(b->arena, text);
    if (wants_key(b)) {
        b->node_count++;
        set_key(b, text, line);
        return;
    }
    struct yaml_node *node = new_node(b, good ? YAML_SCALAR : YAML_REFUSED, line);
    node->text = text;
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    attach(b, node);
}

/* False ends the reading. */
static bool on_alias(struct builder *b, const yaml_event_t *event)
{
    size_t line = line_of(event->start_mark);
    diagnostics_error(b->out, line, "aliases (*name) are not supported; write the value out");
    if (wants_key(b))
        return false;
    attach(b, new_node(b, YAML_REFUSED, line));
    return true;
}

/* False ends the reading. */
static bool on_open(struct builder *b, const yaml_event_t *event)
{
    size_t line = line_of(event->start_mark);
    check_decoration(b, event);
    if (wants_key(b)) {
        diagnostics_error(b->out, line, "a key must be a text, not a list or a mapping");
        return false;
    }
    if (b->depth == YAML_DEPTH_MAX) {
        diagnostics_error(b->out, line, "nested deeper than %u levels", YAML_DEPTH_MAX);
        return false;
    }
    bool map = event->type == YAML_MAPPING_START_EVENT;
    struct yaml_node *node = new_node(b, map ? YAML_MAP : YAML_LIST, line);
    attach(b, node);
    b->open[b->depth].node = node;
    b->open[b->depth].has_key = false;
    b->depth++;
    return true;
}

static int by_key(const void *left, const void *right)
{
    const struct yaml_node *a = *(struct yaml_node *const *)left;
    const struct yaml_node *b = *(struct yaml_node *const *)right;
    size_t shorter = a->key.len < b->key.len ? a->key.len : b->key.len;
    int order = memcmp(a->key.ptr, b->key.ptr, shorter);
    if (order)
        return order;
    if (a->key.len != b->key.len)
        return a->key.len < b->key.len ? -1 : 1;
    return a->key_line < b->key_line ? -1 : a->key_line > b->key_line;
}

/* The first of equal keys counts; the others are reported and read no further. Sorted, so that a
 * hostile map of many keys costs n log n. */
static void check_duplicates(struct builder *b, struct yaml_node *map)
{
    if (map->count < 2)
        return;
    struct yaml_node **sorted = mem_array(map->count, sizeof(*sorted));
    size_t count = 0;
    for (struct yaml_node *member = map->first; member; member = member->next)
        sorted[count++] = member;
    qsort(sorted, count, sizeof(*sorted), by_key);
    const struct yaml_node *first = sorted[0];
    for (size_t i = 1; i < count; i++) {
        if (!slice_equal(sorted[i]->key, first->key)) {
            first = sorted[i];
            continue;
        }
        diagnostics_error(b->out, sorted[i]->key_line, "duplicate key %s (first on line %zu)",
                          QUOTE(sorted[i]->key), first->key_line);
        sorted[i]->kind = YAML_REFUSED;
    }
    free(sorted);
}

static void on_close(struct builder *b)
{
    struct yaml_node *node = b->open[--b->depth].node;
    if (node->kind == YAML_MAP)
        check_duplicates(b, node);
}

/* False ends the reading. */
static bool on_event(struct builder *b, const yaml_event_t *event)
{
    if (b->node_count > YAML_NODES_MAX) {
        diagnostics_error(b->out, line_of(event->start_mark), "more than %u values",
                          YAML_NODES_MAX);
        return false;
    }
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->root) {
            diagnostics_error(b->out, line_of(event->start_mark),
                              "a second document (---) is not allowed");
            return false;
        }
        return true;
    case YAML_SCALAR_EVENT:
        on_scalar(b, event);
        return true;
    case YAML_ALIAS_EVENT:
        return on_alias(b, event);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return on_open(b, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        on_close(b);
        return true;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return true;
    }
    return true;
}

/* False when reading stopped before the end. */
static bool read_events(struct builder *b)
{
    for (;;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&b->parser, &event)) {
            report_malformed(b);
            return false;
        }
        bool end = event.type == YAML_STREAM_END_EVENT;
        bool good = on_event(b, &event);
        yaml_event_delete(&event);
        if (!good)
            return false;
        if (end)
            return true;
    }
}

struct yaml_node *yaml_tree_parse(struct slice bytes, struct arena *arena, struct diagnostics *out)
{
    if (bytes.len > YAML_BYTES_MAX) {
        diagnostics_error(out, 0, "the text is larger than %u bytes", YAML_BYTES_MAX);
        return NULL;
    }
    struct builder *b = mem_alloc(sizeof(*b));
    *b = (struct builder){.bytes = bytes, .arena = arena, .out = out};
    struct yaml_node *root = NULL;
    if (!yaml_parser_initialize(&b->parser)) {
        diagnostics_error(out, 0, "not enough memory to read the file");
        goto free_builder;
    }
    yaml_parser_set_encoding(&b->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b->parser, (const unsigned char *)(bytes.len ? bytes.ptr : ""),
                                 bytes.len);
    if (!read_events(b))
        goto delete_parser;
    root = b->root;
    if (!root)
        diagnostics_error(out, 0, "the file is empty");
delete_parser:
    yaml_parser_delete(&b->parser);
free_builder:
    free(b);
    return root;
}

const struct yaml_node *yaml_member(const struct yaml_node *map, const char *key)
{
    if (map->kind != YAML_MAP)
        return NULL;
    for (const struct yaml_node *member = map->first; member; member = member->next) {
        if (slice_is(member->key, key))
            return member;
    }
    return NULL;
}

bool yaml_is_null(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && node->plain &&
           (node->text.len == 0 || slice_is(node->text, "~") || slice_is(node->text, "null") ||
            slice_is(node->text, "Null") || slice_is(node->text, "NULL"));
}
