#include "sim_redis.h"

#include "base/bug.h"
#include "base/mem.h"
#include "sim_check.h"

#include <stdio.h>
#include <stdlib.h>

#define DELETED_ONE_IN 1000 /* between taking and reading */

struct redis redis;

/* ---- contents ---- */

struct redis_content *redis_content_new(struct slice key, struct slice meta, struct body body)
{
    struct redis_content *content = mem_alloc(sizeof(*content) + key.len + meta.len + body.len);
    char *at = content->bytes;
    content->references = 1;
    content->key = slice_of(at, key.len);
    content->meta = slice_of(at + key.len, meta.len);
    content->body = body_of(at + key.len + meta.len, body.len);
    if (key.len)
        memcpy(at, key.ptr, key.len);
    if (meta.len)
        memcpy(at + key.len, meta.ptr, meta.len);
    if (body.len)
        memcpy(at + key.len + meta.len, body.ptr, body.len);
    return content;
}

struct redis_content *redis_content_ref(struct redis_content *content)
{
    content->references++;
    return content;
}

void redis_content_unref(struct redis_content *content)
{
    if (content && --content->references == 0)
        free(content);
}

/* ---- streams ---- */

static struct redis_stream *stream_of(struct queue_name name)
{
    struct redis_stream *stream;
    TAILQ_FOREACH(stream, &redis.data.streams, link)
    {
        if (strcmp(stream->item, name.item) == 0 && stream->pattern == name.pattern &&
            stream->partition == name.partition)
            return stream;
    }
    stream = mem_alloc(sizeof(*stream));
    snprintf(stream->item, sizeof(stream->item), "%s", name.item);
    stream->pattern = name.pattern;
    stream->partition = name.partition;
    TAILQ_INIT(&stream->entries);
    TAILQ_INIT(&stream->delayed);
    TAILQ_INSERT_TAIL(&redis.data.streams, stream, link);
    return stream;
}

static struct redis_index *find_index(struct redis_stream *stream, struct uuid id)
{
    struct redis_index *index;
    HASH_FIND(hh, stream->index, &id, sizeof(id), index);
    return index;
}

static void set_index(struct redis_stream *stream, struct uuid id, int64_t number)
{
    struct redis_index *index = find_index(stream, id);
    if (!index) {
        index = mem_alloc(sizeof(*index));
        index->id = id;
        HASH_ADD(hh, stream->index, id, sizeof(id), index);
    }
    index->number = number;
}

static void drop_index(struct redis_stream *stream, struct uuid id)
{
    struct redis_index *index = find_index(stream, id);
    if (index) {
        HASH_DEL(stream->index, index);
        free(index);
    }
}

static struct redis_entry *find_entry(struct redis_stream *stream, int64_t number)
{
    struct redis_entry *entry;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        if (entry->number == number)
            return entry;
    }
    return NULL;
}

static struct redis_entry *find_delayed(struct redis_stream *stream, struct uuid id)
{
    struct redis_entry *entry;
    TAILQ_FOREACH(entry, &stream->delayed, link)
    {
        if (uuid_equal(entry->id, id))
            return entry;
    }
    return NULL;
}

static void free_entry(struct redis_entries *list, struct redis_entry *entry)
{
    TAILQ_REMOVE(list, entry, link);
    redis_content_unref(entry->content);
    free(entry);
}

/* At the end of the stream, in nobody's hand. */
static void append(struct redis_stream *stream, struct redis_entry *entry)
{
    entry->number = ++redis.last_number;
    entry->consumer[0] = '\0';
    entry->put_down = entry->dropped = false;
    TAILQ_INSERT_TAIL(&stream->entries, entry, link);
    set_index(stream, entry->id, entry->number);
}

static void into_hand(struct redis_entry *entry, const char *consumer)
{
    snprintf(entry->consumer, sizeof(entry->consumer), "%s", consumer);
    entry->since_us = sim.now_us;
    entry->put_down = entry->dropped = false;
}

static bool is_in_hand_of(const struct redis_entry *entry, const char *consumer)
{
    return entry->consumer[0] && strcmp(entry->consumer, consumer) == 0;
}

/* Wakes up to `count` idle workers; who does not listen is passed over. */
static void wake(struct redis_stream *stream, size_t count)
{
    while (count && stream->idle_count) {
        size_t at = random_below(stream->idle_count);
        char consumer[REDIS_NAME_MAX];
        memcpy(consumer, stream->idle[at], sizeof(consumer));
        memcpy(stream->idle[at], stream->idle[--stream->idle_count], sizeof(consumer));
        count -= sim_queue_wake(consumer, stream);
    }
}

static void set_idle(struct redis_stream *stream, const char *consumer)
{
    for (size_t i = 0; i < stream->idle_count; i++) {
        if (strcmp(stream->idle[i], consumer) == 0)
            return;
    }
    BUG_ON(stream->idle_count == REDIS_IDLE_MAX);
    snprintf(stream->idle[stream->idle_count++], REDIS_NAME_MAX, "%s", consumer);
}

void redis_leave(struct queue_name name, const char *consumer)
{
    struct redis_stream *stream = stream_of(name);
    for (size_t i = 0; i < stream->idle_count; i++) {
        if (strcmp(stream->idle[i], consumer) == 0)
            memcpy(stream->idle[i], stream->idle[--stream->idle_count], REDIS_NAME_MAX);
    }
}

/* ---- what is claimed ---- */

static void release(void *replies)
{
    struct redis_content **contents = replies;
    for (size_t i = 0; contents[i]; i++)
        redis_content_unref(contents[i]);
    free(contents);
}

static struct queue_claimed *claimed_new(size_t max)
{
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    claimed->entries = mem_array(max ? max : 1, sizeof(*claimed->entries));
    claimed->references = 1;
    claimed->replies = mem_array(max + 1, sizeof(struct redis_content *));
    claimed->release = release;
    return claimed;
}

static void add_claimed(struct queue_claimed *claimed, const struct redis_entry *entry,
                        bool taken_over)
{
    struct redis_content **contents = claimed->replies;
    contents[claimed->count] = redis_content_ref(entry->content);
    struct queue_entry *to = &claimed->entries[claimed->count++];
    *to = (struct queue_entry){.id = entry->id,
                               .at_ms = entry->at_ms,
                               .priority = entry->priority,
                               .key = entry->content->key,
                               .meta = entry->content->meta,
                               .body = entry->content->body,
                               .attempts = entry->attempts,
                               .taken_over = taken_over};
    snprintf(to->entry_id, sizeof(to->entry_id), "%lld-0", (long long)entry->number);
}

/* ---- claims ---- */

/* schemas/redis.md: the order of priority and lifo. Lowest first; lifo: highest. */
static int64_t score(const struct queue_name *name, const struct redis_entry *entry)
{
    if (name->type == QUEUE_LIFO)
        return entry->at_ms;
    if (name->ageing_ms)
        return entry->at_ms - entry->priority * name->ageing_ms;
    return ((int64_t)(9 - entry->priority) << 44) + entry->at_ms;
}

/* Does `a` go before `b`, which is before it in the stream? */
static bool goes_before(const struct queue_name *name, const struct redis_entry *a,
                        const struct redis_entry *b)
{
    return name->type == QUEUE_LIFO ? score(name, a) >= score(name, b)
                                    : score(name, a) < score(name, b);
}

static bool is_ordered(struct queue_name name)
{
    return name.type == QUEUE_PRIORITY || name.type == QUEUE_LIFO;
}

static struct redis_entry *next_in_order(const struct queue_name *name, struct redis_stream *stream)
{
    struct redis_entry *entry, *best = NULL;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        if (!entry->consumer[0] && (!best || goes_before(name, entry, best)))
            best = entry;
    }
    return best;
}

static struct redis_entry *next_waiting(const struct queue_name *name, struct redis_stream *stream)
{
    struct redis_entry *entry;
    if (is_ordered(*name))
        return next_in_order(name, stream);
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        if (entry->number > stream->last) { /* what was pulled out of turn is handed out again */
            stream->last = entry->number;
            return entry;
        }
    }
    return NULL;
}

static void tell_check(const struct redis_stream *stream, const char *consumer,
                       const struct queue_claimed *claimed)
{
    struct uuid taken[QUEUE_BATCH_MAX], left[1024];
    const struct redis_entry *entry;
    size_t count = 0;
    for (size_t i = 0; i < claimed->count; i++)
        taken[i] = claimed->entries[i].id;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        BUG_ON(count == sizeof(left) / sizeof(left[0]));
        if (!entry->consumer[0])
            left[count++] = entry->id;
    }
    if (claimed->count)
        check_claimed(stream->item, consumer, taken, claimed->count, left, count);
}

/* XREADGROUP of what is in its hand. */
static void claim_held(struct redis_stream *stream, struct queue_claimed *claimed,
                       const char *consumer, size_t max, int64_t *after)
{
    struct redis_entry *entry;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        if (entry->number <= *after || !is_in_hand_of(entry, consumer))
            continue;
        into_hand(entry, consumer);
        add_claimed(claimed, entry, false);
        if (claimed->count == max) {
            *after = entry->number;
            return;
        }
    }
    *after = -1;
}

static void claim_waiting(const struct queue_name *name, struct redis_stream *stream,
                          struct queue_claimed *claimed, const char *consumer, size_t max)
{
    struct redis_entry *entry;
    while (claimed->count < max && (entry = next_waiting(name, stream))) {
        bool dropped = entry->dropped;
        into_hand(entry, consumer);
        add_claimed(claimed, entry, dropped);
    }
}

struct queue_claimed *redis_claim(struct queue_name name, const char *consumer, size_t max,
                                  bool wait, int64_t *after)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(max);
    if (after && max)
        claim_held(stream, claimed, consumer, max, after);
    claim_waiting(&name, stream, claimed, consumer, max);
    if (is_ordered(name)) {
        tell_check(stream, consumer, claimed);
        if (claimed->count < max && wait)
            set_idle(stream, consumer);
    }
    return claimed;
}

struct queue_claimed *redis_claim_again(struct queue_name name, const char *consumer, size_t max)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(max);
    set_idle(stream, consumer);
    claim_waiting(&name, stream, claimed, consumer, max);
    return claimed;
}

static void copy_claimed(struct queue_claimed *to, const struct queue_claimed *from)
{
    struct redis_content **contents = to->replies, *const *of = from->replies;
    for (size_t i = 0; i < from->count; i++) {
        contents[to->count] = redis_content_ref(of[i]);
        to->entries[to->count++] = from->entries[i];
    }
}

struct queue_claimed *redis_join(const struct queue_claimed *first,
                                 const struct queue_claimed *second)
{
    struct queue_claimed *claimed = claimed_new(first->count + second->count);
    copy_claimed(claimed, first);
    copy_claimed(claimed, second);
    return claimed;
}

struct queue_claimed *redis_fetch(struct queue_name name, const char *consumer,
                                  const struct queue_claimed *taken)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(taken->count);
    for (size_t i = 0; i < taken->count; i++) {
        int64_t number = strtoll(taken->entries[i].entry_id, NULL, 10);
        struct redis_entry *entry = find_entry(stream, number);
        if (!entry)
            continue;
        if (check_is_logged(entry->id) && sim_one_in(DELETED_ONE_IN)) {
            sim_count(SIM_ENTRY_DELETED);
            drop_index(stream, entry->id); /* or it would stay there, once its message has ended */
            free_entry(&stream->entries, entry);
            continue;
        }
        into_hand(entry, consumer);
        add_claimed(claimed, entry, taken->entries[i].taken_over);
    }
    return claimed;
}

struct queue_claimed *redis_takeover(struct queue_name name, const char *consumer,
                                     int64_t min_idle_ms, size_t max)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(max);
    struct redis_entry *entry;
    size_t moved = 0;
    BUG_ON(name.type == QUEUE_FIFO);
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        bool idle = entry->consumer[0] && sim.now_us - entry->since_us >= min_idle_ms * SIM_MS;
        if (!idle || claimed->count + moved == max)
            continue;
        check_taken_over(entry->id, entry->number, entry->consumer);
        if (name.type == QUEUE_UNORDERED) {
            into_hand(entry, consumer);
            add_claimed(claimed, entry, true);
        } else {
            entry->consumer[0] = '\0';
            entry->dropped = true;
            moved++;
        }
    }
    wake(stream, moved);
    return claimed;
}

struct queue_claimed *redis_inherit(struct queue_name name, const char *consumer, size_t max)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(max);
    struct redis_entry *entry;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        if (!entry->consumer[0] || claimed->count == max || is_in_hand_of(entry, consumer))
            continue;
        bool taken_over = !entry->put_down;
        into_hand(entry, consumer);
        add_claimed(claimed, entry, taken_over);
    }
    return claimed;
}

static struct redis_entry *entry_from(const struct redis_given *given)
{
    struct redis_entry *entry = mem_alloc(sizeof(*entry));
    entry->id = given->id;
    entry->at_ms = given->at_ms;
    entry->due_ms = given->due_ms;
    entry->priority = given->priority;
    entry->attempts = given->attempts;
    entry->content = redis_content_ref(given->content);
    return entry;
}

struct queue_claimed *redis_pull(struct queue_name name, const char *consumer,
                                 const struct redis_given *given, size_t count)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_claimed *claimed = claimed_new(count);
    for (size_t i = 0; i < count; i++) {
        struct redis_index *index = find_index(stream, given[i].id);
        struct redis_entry *entry = NULL;
        if (index && index->number)
            entry = find_entry(stream, index->number);
        if (index && !index->number && (entry = find_delayed(stream, given[i].id))) {
            TAILQ_REMOVE(&stream->delayed, entry, link);
            append(stream, entry);
        }
        if (!entry) {
            entry = entry_from(&given[i]);
            append(stream, entry);
        }
        bool taken_over = entry->consumer[0] && !is_in_hand_of(entry, consumer) && !entry->put_down;
        into_hand(entry, consumer);
        add_claimed(claimed, entry, taken_over);
    }
    return claimed;
}

/* ---- what happens to entries ---- */

int64_t redis_enqueue(struct queue_name name, const struct redis_given *given, size_t count)
{
    struct redis_stream *stream = stream_of(name);
    size_t waiting = 0;
    for (size_t i = 0; i < count; i++) {
        if (find_index(stream, given[i].id))
            continue;
        struct redis_entry *entry = entry_from(&given[i]);
        if (given[i].due_ms) {
            TAILQ_INSERT_TAIL(&stream->delayed, entry, link);
            set_index(stream, entry->id, 0);
        } else {
            append(stream, entry);
            waiting++;
        }
    }
    wake(stream, waiting);
    struct queue_depth depth = redis_depth_of(name);
    return depth.waiting + depth.in_hand + depth.delayed;
}

void redis_renew(struct queue_name name, const char *consumer, const struct redis_given *given,
                 size_t count)
{
    struct redis_stream *stream = stream_of(name);
    for (size_t i = 0; i < count; i++) {
        struct redis_entry *entry = find_entry(stream, given[i].number);
        if (entry && is_in_hand_of(entry, consumer))
            into_hand(entry, consumer);
    }
}

void redis_hand_back(struct queue_name name, const char *consumer, const struct redis_given *given,
                     size_t count)
{
    struct redis_stream *stream = stream_of(name);
    size_t waiting = 0;
    for (size_t i = 0; i < count; i++) {
        struct redis_entry *entry = find_entry(stream, given[i].number);
        if (!entry || !is_in_hand_of(entry, consumer))
            continue;
        if (name.type == QUEUE_FIFO) {
            entry->put_down = true;
            continue;
        }
        if (name.type == QUEUE_UNORDERED) {
            TAILQ_REMOVE(&stream->entries, entry, link);
            append(stream, entry);
        }
        entry->consumer[0] = '\0';
        waiting++;
    }
    wake(stream, waiting);
}

void redis_finish(struct queue_name name, const struct redis_given *given, size_t count)
{
    struct redis_stream *stream = stream_of(name);
    for (size_t i = 0; i < count; i++) {
        struct redis_entry *entry = find_entry(stream, given[i].number);
        struct redis_index *index = find_index(stream, given[i].id);
        if (entry)
            free_entry(&stream->entries, entry);
        if (index && index->number == given[i].number)
            drop_index(stream, given[i].id);
        check_finished(given[i].id);
    }
}

void redis_retry(struct queue_name name, const char *consumer, const struct redis_given *given,
                 size_t count)
{
    struct redis_stream *stream = stream_of(name);
    for (size_t i = 0; i < count; i++) {
        struct redis_entry *entry = find_entry(stream, given[i].number);
        if (!entry || !is_in_hand_of(entry, consumer))
            continue;
        TAILQ_REMOVE(&stream->entries, entry, link);
        entry->due_ms = given[i].due_ms;
        if (given[i].attempts)
            entry->attempts = given[i].attempts;
        TAILQ_INSERT_TAIL(&stream->delayed, entry, link);
        set_index(stream, entry->id, 0);
    }
}

int64_t redis_promote(struct queue_name name, int64_t now_ms, size_t max, int64_t *ret_next_ms)
{
    struct redis_stream *stream = stream_of(name);
    struct redis_entry *entry, *next;
    size_t moved = 0;
    *ret_next_ms = -1;
    for (entry = TAILQ_FIRST(&stream->delayed); entry; entry = next) {
        next = TAILQ_NEXT(entry, link);
        if (entry->due_ms <= now_ms && moved < max) {
            TAILQ_REMOVE(&stream->delayed, entry, link);
            append(stream, entry);
            moved++;
        } else if (*ret_next_ms < 0 || entry->due_ms < *ret_next_ms) {
            *ret_next_ms = entry->due_ms;
        }
    }
    wake(stream, moved);
    return (int64_t)moved;
}

/* ---- questions ---- */

struct queue_depth redis_depth_of(struct queue_name name)
{
    struct redis_stream *stream = stream_of(name);
    struct queue_depth depth = {0};
    struct redis_entry *entry;
    TAILQ_FOREACH(entry, &stream->entries, link)
    {
        depth.in_hand += entry->consumer[0] != '\0';
        depth.waiting += entry->consumer[0] == '\0';
    }
    TAILQ_FOREACH(entry, &stream->delayed, link)
    {
        depth.delayed++;
    }
    return depth;
}

bool redis_is_missing(struct queue_name name, struct uuid id)
{
    struct redis_stream *stream = stream_of(name);
    struct redis_index *index = find_index(stream, id);
    if (!index)
        return true;
    if (index->number ? find_entry(stream, index->number) != NULL
                      : find_delayed(stream, id) != NULL)
        return false;
    drop_index(stream, id);
    return true;
}

bool redis_is_held(struct queue_name name, struct uuid id)
{
    struct redis_stream *stream = stream_of(name);
    struct redis_index *index = find_index(stream, id);
    struct redis_entry *entry = index && index->number ? find_entry(stream, index->number) : NULL;
    return entry && entry->consumer[0];
}

/* Of one that is gone nobody asks again. */
int redis_count_death(struct queue_name name, struct uuid id)
{
    struct redis_stream *stream;
    TAILQ_FOREACH(stream, &redis.data.streams, link)
    {
        struct redis_index *index =
            strcmp(stream->item, name.item) == 0 ? find_index(stream, id) : NULL;
        struct redis_entry *entry =
            index && index->number ? find_entry(stream, index->number) : NULL;
        if (entry)
            return ++entry->deaths;
    }
    return 1;
}

int64_t redis_slots(struct queue_name name, unsigned partitions, const char *holder, int64_t limit,
                    int64_t held, int64_t want, int64_t ttl_ms, int64_t *ret_depth)
{
    int64_t depth = 0, others = 0;
    struct redis_holder *each, *mine = NULL;
    for (name.partition = 0; name.partition < partitions; name.partition++) {
        struct queue_depth part = redis_depth_of(name);
        depth += part.waiting + part.in_hand + part.delayed;
    }
    TAILQ_FOREACH(each, &redis.data.holders, link)
    {
        if (strcmp(each->item, name.item) != 0)
            continue;
        if (strcmp(each->holder, holder) == 0)
            mine = each;
        else if (each->until_us > sim.now_us)
            others += each->count;
    }
    if (!mine) {
        mine = mem_alloc(sizeof(*mine));
        snprintf(mine->item, sizeof(mine->item), "%s", name.item);
        snprintf(mine->holder, sizeof(mine->holder), "%s", holder);
        TAILQ_INSERT_TAIL(&redis.data.holders, mine, link);
    }
    int64_t free_slots = limit - depth - others - held;
    int64_t granted = free_slots < 0 ? 0 : free_slots < want ? free_slots : want;
    mine->count = held + granted;
    mine->until_us = sim.now_us + ttl_ms * SIM_MS;
    *ret_depth = depth;
    return granted;
}

/* ---- replies ---- */

void redis_leave_reply(struct uuid id, struct redis_content *content)
{
    struct redis_reply *reply;
    HASH_FIND(hh, redis.data.replies, &id, sizeof(id), reply);
    if (reply)
        return;
    reply = mem_alloc(sizeof(*reply));
    reply->id = id;
    reply->content = redis_content_ref(content);
    HASH_ADD(hh, redis.data.replies, id, sizeof(id), reply);
}

struct body redis_read_reply(struct uuid id)
{
    struct redis_reply *reply;
    HASH_FIND(hh, redis.data.replies, &id, sizeof(id), reply);
    return reply ? reply->content->body : body_of(NULL, 0);
}
