/* Keys: schemas/redis.md. Everything of an item's partition has one hash tag, {item} or {item/partition}. */
#include "base/bug.h"
#include "queue/queue_redis.h"

#include <stdio.h>

void put_fcall(struct buffer *out, const char *function, size_t keys, size_t args)
{
    redis_put_array(out, 3 + keys + args);
    redis_put_text(out, "FCALL");
    redis_put_text(out, function);
    redis_put_int(out, (int64_t)keys);
}

void put_key(struct buffer *out, const struct queue_redis *queue, struct queue_name name,
             const char *what, const char *more)
{
    char key[512], partition[16] = "";
    if (name.partition > 0)
        snprintf(partition, sizeof(partition), "/%u", name.partition);
    int len = snprintf(key, sizeof(key), "%s:{%s%s}:%s%s%s", queue->options.key_prefix, name.item,
                       partition, what, more ? ":" : "", more ? more : "");
    BUG_ON(len < 0 ||
           (size_t)len >= sizeof(key)); /* prefix and item ids are bounded where they are read */
    redis_put_bulk(out, slice_of(key, (size_t)len));
}

void put_stream(struct buffer *out, const struct queue_redis *queue, struct queue_name name)
{
    put_key(out, queue, name, messaging_pattern_words[name.pattern], NULL);
}

void put_index(struct buffer *out, const struct queue_redis *queue, struct queue_name name)
{
    put_key(out, queue, name, messaging_pattern_words[name.pattern], "index");
}

void put_plain_key(struct buffer *out, const struct queue_redis *queue, const char *what,
                   const char *id)
{
    char key[512];
    int len = snprintf(key, sizeof(key), "%s:%s%s%s", queue->options.key_prefix, what,
                       id ? ":" : "", id ? id : "");
    BUG_ON(len < 0 || (size_t)len >= sizeof(key));
    redis_put_bulk(out, slice_of(key, (size_t)len));
}

void put_id(struct buffer *out, struct uuid id)
{
    char text[UUID_TEXT_LEN + 1];
    uuid_format(id, text);
    redis_put_bulk(out, slice_of(text, UUID_TEXT_LEN));
}
