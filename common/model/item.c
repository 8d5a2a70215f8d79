/* Owns the reading of one item: its keys by the option table, then what two keys have to say to
 * each other. */
#include "model/reader.h"

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

int ordering_key_check(struct slice text, struct err *err)
{
    struct hl7_path path;
    if (hl7_path_parse(text, &path, err))
        return -1;
    if (path.occurrence == HL7_ANY || path.repetition == HL7_ANY)
        return err_set(err, ERR_CONFIG, "an ordering key is one value: [*] names several");
    return 0;
}

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

static void check_order(struct reader *reader, const struct item *item, const struct object *object)
{
    if (item->queue_type != QUEUE_FIFO || item->concurrency == 1 || item->ordering_key ||
        object_bad(object, "queue_type") || object_bad(object, "ordering_key"))
        return;
    size_t line = object_line(object, "queue_type");
    diagnostics_warning(reader->out, line ? line : item->line,
                        "queue_type fifo without an ordering_key handles one message after the "
                        "other: concurrency %" PRId64 " helps only messages that come with a key",
                        item->concurrency);
}

static void check_unordered(struct reader *reader, const struct item *item,
                            const struct object *object)
{
    static const char *const of_fifo[] = {"ordering_key", "partitions"};
    if (item->queue_type == QUEUE_FIFO || object_bad(object, "queue_type"))
        return;
    for (size_t i = 0; i < sizeof(of_fifo) / sizeof(of_fifo[0]); i++) {
        size_t line = object_line(object, of_fifo[i]);
        if (line)
            diagnostics_warning(reader->out, line, "%s has no effect with queue_type %s",
                                of_fifo[i], queue_type_words[item->queue_type]);
    }
}

void item_read(struct reader *reader, struct item *item, const struct yaml_node *node)
{
    item->line = node->line;
    reader->item = item;
    struct object object;
    object_read(reader, &object, SCOPE_ITEM, item, node, node->line);
    if (node->kind != YAML_MAP)
        return;
    settle_persistence(item, &object);
    check_retry(reader, item, &object);
    check_order(reader, item, &object);
    check_unordered(reader, item, &object);
    if (!object_line(&object, "partitions"))
        item->partitions = item->ordering_key ? 16 : 1;
    bool sync = item->messaging_pattern == PATTERN_SYNC_RELIABLE ||
                item->messaging_pattern == PATTERN_CONCURRENT_SYNC;
    if (!object_line(&object, "reply_ttl"))
        item->reply_ttl_ms = sync ? 60000 : 0;
    item_class_read(reader, node);
}
