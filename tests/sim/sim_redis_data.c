/* What a fake Redis loses, keeps and goes back to. */
#include "sim_redis.h"

#include "base/mem.h"

#include <stdlib.h>

static void init_data(struct redis_data *data)
{
    *data = (struct redis_data){0};
    TAILQ_INIT(&data->streams);
    TAILQ_INIT(&data->holders);
}

static void free_entries(struct redis_entries *list)
{
    struct redis_entry *entry;
    while ((entry = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, entry, link);
        redis_content_unref(entry->content);
        free(entry);
    }
}

static void free_stream(struct redis_stream *stream)
{
    struct redis_index *index, *next;
    free_entries(&stream->entries);
    free_entries(&stream->delayed);
    HASH_ITER(hh, stream->index, index, next)
    {
        HASH_DEL(stream->index, index);
        free(index);
    }
    free(stream);
}

static void free_data(struct redis_data *data)
{
    struct redis_stream *stream;
    struct redis_reply *reply, *next;
    struct redis_holder *holder;
    while ((stream = TAILQ_FIRST(&data->streams))) {
        TAILQ_REMOVE(&data->streams, stream, link);
        free_stream(stream);
    }
    HASH_ITER(hh, data->replies, reply, next)
    {
        HASH_DEL(data->replies, reply);
        redis_content_unref(reply->content);
        free(reply);
    }
    while ((holder = TAILQ_FIRST(&data->holders))) {
        TAILQ_REMOVE(&data->holders, holder, link);
        free(holder);
    }
}

static void copy_entries(struct redis_entries *to, const struct redis_entries *from)
{
    const struct redis_entry *entry;
    TAILQ_FOREACH(entry, from, link)
    {
        struct redis_entry *copy = mem_alloc(sizeof(*copy));
        *copy = *entry;
        redis_content_ref(copy->content);
        TAILQ_INSERT_TAIL(to, copy, link);
    }
}

static void copy_stream(struct redis_data *to, const struct redis_stream *from)
{
    struct redis_stream *copy = mem_alloc(sizeof(*copy));
    const struct redis_index *index;
    *copy = *from;
    copy->index = NULL;
    TAILQ_INIT(&copy->entries);
    TAILQ_INIT(&copy->delayed);
    copy_entries(&copy->entries, &from->entries);
    copy_entries(&copy->delayed, &from->delayed);
    for (index = from->index; index; index = index->hh.next) {
        struct redis_index *own = mem_alloc(sizeof(*own));
        own->id = index->id;
        own->number = index->number;
        HASH_ADD(hh, copy->index, id, sizeof(own->id), own);
    }
    TAILQ_INSERT_TAIL(&to->streams, copy, link);
}

static void copy_data(struct redis_data *to, const struct redis_data *from)
{
    const struct redis_stream *stream;
    const struct redis_reply *reply;
    init_data(to);
    TAILQ_FOREACH(stream, &from->streams, link)
    {
        copy_stream(to, stream);
    }
    for (reply = from->replies; reply; reply = reply->hh.next) {
        struct redis_reply *copy = mem_alloc(sizeof(*copy));
        copy->id = reply->id;
        copy->content = redis_content_ref(reply->content);
        HASH_ADD(hh, to->replies, id, sizeof(copy->id), copy);
    }
}

void redis_init(void)
{
    redis = (struct redis){.epoch = 1};
    sim_server_init(&redis.server);
    TAILQ_INIT(&redis.clients);
    init_data(&redis.data);
}

static void forget_saved(void)
{
    if (redis.saved)
        free_data(redis.saved);
    free(redis.saved);
    redis.saved = NULL;
}

void redis_done(void)
{
    free_data(&redis.data);
    forget_saved();
}

void redis_flush(void)
{
    free_data(&redis.data);
    init_data(&redis.data);
    redis.epoch++;
}

void redis_save(void)
{
    forget_saved();
    redis.saved = mem_alloc(sizeof(*redis.saved));
    copy_data(redis.saved, &redis.data);
}

void redis_go_back(void)
{
    free_data(&redis.data);
    init_data(&redis.data);
    TAILQ_CONCAT(&redis.data.streams, &redis.saved->streams, link);
    redis.data.replies = redis.saved->replies;
    free(redis.saved);
    redis.saved = NULL;
    redis.epoch++; /* another run id */
}

void redis_say_left(void)
{
    const struct redis_stream *stream;
    const struct redis_entry *entry;
    const struct redis_index *index;
    TAILQ_FOREACH(stream, &redis.data.streams, link)
    {
        TAILQ_FOREACH(entry, &stream->entries, link)
        {
            sim_say("left in %s/%u: %s as %lld, last %lld, in the hand of '%s'%s", stream->item,
                    stream->partition, sim_name(entry->id), (long long)entry->number,
                    (long long)stream->last, entry->consumer, entry->put_down ? ", put down" : "");
        }
        TAILQ_FOREACH(entry, &stream->delayed, link)
        {
            sim_say("left in %s/%u: %s, due in %lld ms", stream->item, stream->partition,
                    sim_name(entry->id), (long long)(entry->due_ms - sim_wall_us() / SIM_MS));
        }
        for (index = stream->index; index; index = index->hh.next)
            sim_say("left in the index of %s/%u: %s as %lld", stream->item, stream->partition,
                    sim_name(index->id), (long long)index->number);
    }
}

const struct redis_stream *redis_first_left(void)
{
    const struct redis_stream *stream;
    TAILQ_FOREACH(stream, &redis.data.streams, link)
    {
        if (!TAILQ_EMPTY(&stream->entries) || !TAILQ_EMPTY(&stream->delayed) ||
            HASH_COUNT(stream->index))
            return stream;
    }
    return NULL;
}
