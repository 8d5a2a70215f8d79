/* Owns what an item says about a message: its priority, its ordering key, its partition. */
#include "hl7/message.h"
#include "model/production.h"

#include <stdio.h>

bool item_pattern_is_sync(unsigned pattern)
{
    return pattern == PATTERN_SYNC_RELIABLE || pattern == PATTERN_CONCURRENT_SYNC;
}

bool item_senders_wait(const struct item *item)
{
    return item->blocking.enabled;
}

bool item_is_fair(const struct item *item)
{
    return item->queue_type == QUEUE_FIFO && !item->ordering_key &&
           (item->messaging_pattern == PATTERN_CONCURRENT_ASYNC ||
            item->messaging_pattern == PATTERN_CONCURRENT_SYNC);
}

int item_priority(const struct item *item, const struct hl7_message *message)
{
    char bytes[256];
    struct buffer scratch = {.data = bytes, .capacity = sizeof(bytes), .max = sizeof(bytes)};
    struct slice text;
    if (!item->priority.path || !message)
        return (int)item->priority.fallback;
    struct hl7_value value = hl7_get(message, &item->priority.parsed);
    if (value.presence != HL7_VALUE ||
        !hl7_unescape(&message->separators, value.raw, &scratch, &text))
        return (int)item->priority.fallback;
    for (size_t i = 0; i < item->priority.value_count; i++) {
        if (slice_equal(item->priority.values[i].value, text))
            return (int)item->priority.values[i].priority;
    }
    return (int)item->priority.fallback;
}

/* What PostgreSQL, Redis and a log would tell alike. */
static bool is_plain(struct slice key)
{
    for (size_t i = 0; i < key.len; i++) {
        if (key.ptr[i] < 0x20 || key.ptr[i] > 0x7e)
            return false;
    }
    return key.len <= ITEM_ORDERING_KEY_MAX;
}

size_t ordering_key_clean(struct slice key, char ret[static ITEM_ORDERING_KEY_MAX])
{
    if (is_plain(key)) {
        if (key.len)
            memcpy(ret, key.ptr, key.len);
        return key.len;
    }
    char hashed[34];
    snprintf(hashed, sizeof(hashed), "~%016llx%016llx",
             (unsigned long long)hash_bytes(HASH_SEED, key.ptr, key.len),
             (unsigned long long)hash_bytes(0x9e3779b97f4a7c15u, key.ptr, key.len));
    memcpy(ret, hashed, 33);
    return 33;
}

size_t item_ordering_key(const struct item *item, const struct hl7_message *message,
                         char ret[static ITEM_ORDERING_KEY_MAX])
{
    if (!item->ordering_key || !message)
        return 0;
    struct hl7_value value = hl7_get(message, &item->ordering_path);
    return value.presence == HL7_VALUE ? ordering_key_clean(value.raw, ret) : 0;
}

unsigned item_partition(const struct item *item, struct slice key, struct uuid id)
{
    if (item->partitions <= 1)
        return 0;
    uint64_t hash = hash_bytes(HASH_SEED, key.ptr, key.len);
    if (key.len == 0 && item_is_fair(item))
        hash = hash_bytes(HASH_SEED, id.bytes, sizeof(id.bytes));
    return (unsigned)(hash % (uint64_t)item->partitions);
}
