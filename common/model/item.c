/* Owns the reading of one item: its keys by the option table, then what two keys have to say to
 * each other. */
#include "model/reader.h"

#include "base/bug.h"
#include "model/diagnostics.h"

#include <inttypes.h>

static bool all_of(struct slice text, const char *more)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (c == '\0' || !strchr(more, c)))
            return false;
    }
    return true;
}

int item_id_check(struct slice text, struct err *err)
{
    if (!all_of(text, "_.-"))
        return err_set(err, ERR_CONFIG, "an id is 1 to 64 of A-Z a-z 0-9 _ . -");
    return 0;
}

/* Braces would move the hash tag of a key. */
int key_prefix_check(struct slice text, struct err *err)
{
    if (!all_of(text, "_.:-"))
        return err_set(err, ERR_CONFIG, "a key prefix is 1 to 64 of A-Z a-z 0-9 _ . : -");
    return 0;
}

/* A path whose value is one or none: what orders a message cannot be any of several. */
int one_value_check(struct slice text, struct err *err)
{
    struct hl7_path path;
    if (hl7_path_parse(text, &path, err))
        return -1;
    if (path.occurrence == HL7_ANY || path.repetition == HL7_ANY)
        return err_set(err, ERR_CONFIG, "expected the path of one value: [*] names several");
    return 0;
}

/* ---- priority ---- */

#define PRIORITY_VALUES_MAX 256u
#define PRIORITY_VALUE_BYTES_MAX 199u

static void priority_value_read(struct reader *reader, struct item *item,
                                const struct yaml_node *node)
{
    static const struct option level = {.type = OPTION_INT, .min = 0, .max = 9};
    struct scalar scalar;
    struct option_value value;
    struct err err;
    if (node->key.len == 0 || node->key.len > PRIORITY_VALUE_BYTES_MAX) {
        diagnostics_error(reader->out, node->key_line,
                          "`priority.values` has the key %s: expected 1 to %u bytes of text",
                          QUOTE(node->key), PRIORITY_VALUE_BYTES_MAX);
        return;
    }
    if (!scalar_read(reader, node->key.ptr, false, node, &scalar))
        return;
    if (option_parse(&level, scalar.text, scalar.plain, &value, &err)) {
        diagnostics_error(reader->out, node->line, "the priority of %s is %s: %s", QUOTE(node->key),
                          QUOTE(node->text), err.text);
        return;
    }
    struct item_priority_value *next = &item->priority.values[item->priority.value_count++];
    next->value = arena_copy(reader->keep, node->key);
    next->priority = value.number;
}

void priority_values_read(struct reader *reader, struct object *object, const struct option *option,
                          const struct yaml_node *value)
{
    struct item *item = object->base;
    object->given[option - options].bad = true;
    if (value->kind != YAML_MAP) {
        report_kind(reader, option->path, value, "a mapping of texts to priorities");
        return;
    }
    if (value->count == 0 || value->count > PRIORITY_VALUES_MAX) {
        diagnostics_error(reader->out, value->line, "`%s` needs 1 to %u values", option->path,
                          PRIORITY_VALUES_MAX);
        return;
    }
    object->given[option - options].bad = false;
    item->priority.values =
        arena_alloc(reader->keep, value->count * sizeof(*item->priority.values));
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        if (node->kind != YAML_REFUSED)
            priority_value_read(reader, item, node);
    }
}

/* The rule needs both of its halves. */
static void check_priority(struct reader *reader, const struct object *object)
{
    static const char *const halves[] = {"priority.path", "priority.values"};
    for (size_t i = 0; i < 2; i++) {
        const char *half = halves[i], *other = halves[1 - i];
        if (object_line(object, half) && !object_line(object, other) && !object_bad(object, other))
            diagnostics_error(reader->out, object_line(object, half), "%s needs %s beside it", half,
                              other);
    }
}

/* ---- keys that have something to say to each other ---- */

static void settle_persistence(struct item *item, const struct object *object)
{
    unsigned mode = item->persistence.mode;
    if (!object_line(object, "persistence.wal_enabled"))
        item->persistence.wal_enabled = mode == PERSIST_WAL_ONLY || mode == PERSIST_WAL_AND_STORE;
    if (!object_line(object, "persistence.store_enabled"))
        item->persistence.store_enabled =
            mode == PERSIST_STORE_ONLY || mode == PERSIST_WAL_AND_STORE;
    bool wal = item->persistence.wal_enabled, store = item->persistence.store_enabled;
    item->persistence.mode = wal     ? (store ? PERSIST_WAL_AND_STORE : PERSIST_WAL_ONLY)
                             : store ? PERSIST_STORE_ONLY
                                     : PERSIST_NONE;
}

static void check_retry(struct reader *reader, const struct item *item, const struct object *object)
{
    if (item->retry.max_backoff_ms >= item->retry.backoff_ms)
        return;
    size_t line = object_line(object, "retry.max_backoff");
    if (!line)
        line = object_line(object, "retry.backoff");
    diagnostics_error(reader->out, line,
                      "retry.max_backoff %" PRId64 " is below retry.backoff %" PRId64,
                      item->retry.max_backoff_ms, item->retry.backoff_ms);
}

/* In the concurrent patterns messages without a key run side by side (item_is_fair). */
static void check_order(struct reader *reader, const struct item *item, const struct object *object)
{
    if (item->queue_type != QUEUE_FIFO || item->concurrency == 1 || item->ordering_key ||
        item_is_fair(item) || object_bad(object, "messaging_pattern") ||
        object_bad(object, "queue_type") || object_bad(object, "ordering_key"))
        return;
    size_t line = object_line(object, "queue_type");
    diagnostics_warning(reader->out, line ? line : item->line,
                        "queue_type fifo without an ordering_key handles one message after the "
                        "other: concurrency %" PRId64 " helps only messages that come with a key",
                        item->concurrency);
}

/* Keys that only one queue type reads. */
static void check_queue_type(struct reader *reader, const struct item *item,
                             const struct object *object)
{
    static const struct {
        const char *key;
        enum queue_type type;
    } only[] = {
        {"ordering_key", QUEUE_FIFO}, {"partitions", QUEUE_FIFO}, {"priority", QUEUE_PRIORITY}};
    if (object_bad(object, "queue_type"))
        return;
    for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++) {
        size_t line = object_line(object, only[i].key);
        if (line && item->queue_type != only[i].type)
            diagnostics_warning(reader->out, line, "%s has no effect with queue_type %s",
                                only[i].key, queue_type_words[item->queue_type]);
    }
}

static void settle_order(struct item *item, const struct object *object)
{
    struct err err;
    int failed = 0;
    if (item->ordering_key)
        failed = hl7_path_parse(slice_text(item->ordering_key), &item->ordering_path, &err);
    if (!failed && item->priority.path)
        failed = hl7_path_parse(slice_text(item->priority.path), &item->priority.parsed, &err);
    BUG_ON(failed); /* one_value_check took them */
    if (item->queue_type != QUEUE_FIFO)
        item->partitions = 1;
    else if (!object_line(object, "partitions"))
        item->partitions = item->ordering_key ? 16 : 1;
}

void item_settle_pattern(struct item *item)
{
    bool sync = item_pattern_is_sync(item->messaging_pattern);
    item->blocking.enabled = sync && !item->given.blocking_off;
    if (!item->given.reply_ttl)
        item->reply_ttl_ms = sync ? 60000 : 0;
}

/* A sender whose reply was published while its dispatcher was away finds it under the reply key or in the store. */
static void check_blocking(struct reader *reader, struct item *item, const struct object *object)
{
    bool sync = item_pattern_is_sync(item->messaging_pattern);
    size_t line = object_line(object, "blocking.enabled");
    if (line && !item->given.blocking_off && !sync && !object_bad(object, "messaging_pattern"))
        diagnostics_warning(reader->out, line,
                            "blocking.enabled has no effect with messaging_pattern %s",
                            messaging_pattern_words[item->messaging_pattern]);
    if (item->blocking.enabled && item->reply_ttl_ms == 0 && !item->persistence.store_enabled)
        diagnostics_warning(
            reader->out, object_line(object, "reply_ttl"),
            "reply_ttl 0 without the store: a sender that waits can miss its reply");
}

static void settle_reply(struct reader *reader, struct item *item, const struct object *object)
{
    item->given.blocking_off = object_line(object, "blocking.enabled") && !item->blocking.enabled;
    item->given.reply_ttl = object_line(object, "reply_ttl") != 0;
    item_settle_pattern(item);
    check_blocking(reader, item, object);
}

/* Of the tree as it is written: keys, values, what is quoted. */
static uint64_t hash_node(uint64_t hash, const struct yaml_node *node)
{
    unsigned char kind[2] = {(unsigned char)node->kind, node->plain};
    hash = hash_bytes(hash, kind, sizeof(kind));
    hash = hash_bytes(hash, node->text.ptr, node->text.len);
    for (const struct yaml_node *member = node->first; member; member = member->next) {
        hash = hash_bytes(hash, member->key.ptr, member->key.len);
        hash = hash_node(hash_bytes(hash, "", 1), member);
    }
    return hash_bytes(hash, "", 1);
}

void item_read(struct reader *reader, struct item *item, const struct yaml_node *node)
{
    item->line = node->line;
    item->text_hash = hash_node(HASH_SEED, node);
    reader->item = item;
    struct object object;
    object_read(reader, &object, SCOPE_ITEM, item, node, node->line);
    if (node->kind != YAML_MAP)
        return;
    settle_persistence(item, &object);
    settle_order(item, &object);
    settle_reply(reader, item, &object);
    check_retry(reader, item, &object);
    check_priority(reader, &object);
    check_order(reader, item, &object);
    check_queue_type(reader, item, &object);
    item_class_read(reader, node);
}
