/* The operations that are one Function call each: what is sent, and what its answer means. Arguments in the order of
 * schemas/redis/hie1.lua. */
#include "base/bug.h"
#include "base/clock.h"
#include "queue/queue_redis.h"

#define ID_SIZE (UUID_TEXT_LEN + REDIS_BULK_OVERHEAD)
#define NUMBER_SIZE (24u + REDIS_BULK_OVERHEAD)
#define ENTRY_ID_SIZE (QUEUE_ENTRY_ID_MAX + REDIS_BULK_OVERHEAD)

static const struct slice EMPTY = {"", 0};

static int64_t integer_at(const struct redis_reply *reply, size_t index)
{
    const struct redis_value *value = reply ? redis_item(&reply->root, index) : NULL;
    return value && value->kind == REDIS_KIND_INTEGER ? value->integer : 0;
}

static bool answer_done(struct op *op, const struct err *err, struct redis_reply *reply)
{
    (void)reply;
    op->done(op->arg, err);
    return true;
}

static size_t size_head(const struct op *op)
{
    (void)op;
    return QUEUE_REDIS_HEAD;
}

/* Starts a call over `count` things. */
static void start(struct op *op, size_t count)
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    op->count = count;
    if (count == 0)
        op_defer(op, &(const struct err){.code = ERR_NONE});
    else
        op_start(op);
}

/* ---- enqueue ---- */

static size_t enqueue_size(const struct op *op)
{
    size_t size = QUEUE_REDIS_HEAD;
    for (size_t i = 0; i < op->count; i++) {
        const struct queue_entry *entry = &op->entries[i];
        size += ID_SIZE + 3 * NUMBER_SIZE + 3 * REDIS_BULK_OVERHEAD + entry->key.len +
                entry->meta.len + entry->body.len;
    }
    return size;
}

static void enqueue_build(const struct op *op, struct buffer *out)
{
    const struct queue_redis *queue = op->queue;
    put_fcall(out, "hie1_enqueue", 5, 7 * op->count);
    put_stream(out, queue, op->name);
    put_index(out, queue, op->name);
    put_key(out, queue, op->name, "delayed", NULL);
    put_key(out, queue, op->name, "parked", NULL);
    put_key(out, queue, op->name, "idle", NULL);
    int64_t now = clock_wall_ms();
    for (size_t i = 0; i < op->count; i++) {
        const struct queue_entry *entry = &op->entries[i];
        put_id(out, entry->id);
        redis_put_int(out, entry->at_ms < 0 ? 0 : entry->at_ms);
        if (entry->due_ms > now)
            redis_put_int(out, entry->due_ms);
        else
            redis_put_bulk(out, EMPTY);
        if (entry->priority > 0)
            redis_put_int(out, entry->priority < 9 ? entry->priority : 9);
        else
            redis_put_bulk(out, EMPTY);
        redis_put_bulk(out, entry->key);
        redis_put_bulk(out, entry->meta);
        redis_put_bulk(out, body_slice(entry->body));
    }
}

static bool enqueue_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    op->enqueued(op->arg, err, integer_at(reply, 0));
    return true;
}

static void enqueue(struct queue *queue, struct queue_name name, const struct queue_entry *entries,
                    size_t count, queue_enqueued *done, void *arg)
{
    static const struct op_kind kind = {enqueue_size, enqueue_build, enqueue_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->entries = entries;
    op->enqueued = done;
    start(op, count);
}

/* ---- entries in hand ---- */

static size_t entry_ids_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + op->count * (ENTRY_ID_SIZE + ID_SIZE);
}

static void finish_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_finish", 2, 2 * op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    for (size_t i = 0; i < op->count; i++)
        redis_put_text(out, op->entry_pointers[i]->entry_id);
    for (size_t i = 0; i < op->count; i++)
        put_id(out, op->entry_pointers[i]->id);
}

static void finish(struct queue *queue, struct queue_name name,
                   const struct queue_entry *const *entries, size_t count, queue_done *done,
                   void *arg)
{
    static const struct op_kind kind = {entry_ids_size, finish_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->entry_pointers = entries;
    op->done = done;
    start(op, count);
}

static void renew_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_renew", 1, 1 + op->count);
    put_stream(out, op->queue, op->name);
    redis_put_text(out, op->consumer);
    for (size_t i = 0; i < op->count; i++)
        redis_put_text(out, op->entry_pointers[i]->entry_id);
}

static void renew(struct queue *queue, struct queue_name name, const char *consumer,
                  const struct queue_entry *const *entries, size_t count, queue_done *done,
                  void *arg)
{
    static const struct op_kind kind = {entry_ids_size, renew_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->entry_pointers = entries;
    op->done = done;
    start(op, count);
}

static void hand_back_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_hand_back", 3, 1 + 2 * op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
    for (size_t i = 0; i < op->count; i++) {
        redis_put_text(out, op->entry_pointers[i]->entry_id);
        put_id(out, op->entry_pointers[i]->id);
    }
}

static void hand_back(struct queue *queue, struct queue_name name, const char *consumer,
                      const struct queue_entry *const *entries, size_t count, queue_done *done,
                      void *arg)
{
    static const struct op_kind kind = {entry_ids_size, hand_back_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->entry_pointers = entries;
    op->done = done;
    start(op, count);
}

static size_t retry_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + op->count * (ENTRY_ID_SIZE + ID_SIZE + NUMBER_SIZE);
}

static void retry_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_retry", 4, 3 * op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_key(out, op->queue, op->name, "parked", NULL);
    for (size_t i = 0; i < op->count; i++) {
        redis_put_text(out, op->retries[i].entry_id);
        put_id(out, op->retries[i].id);
        redis_put_int(out, op->retries[i].due_ms < 0 ? 0 : op->retries[i].due_ms);
    }
}

static void retry(struct queue *queue, struct queue_name name, const struct queue_retry *retries,
                  size_t count, queue_done *done, void *arg)
{
    static const struct op_kind kind = {retry_size, retry_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->retries = retries;
    op->done = done;
    start(op, count);
}

/* ---- delayed entries ---- */

static void promote_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_promote", 3 + 2 * PATTERN_COUNT, 2);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_key(out, op->queue, op->name, "parked", NULL);
    put_key(out, op->queue, op->name, "idle", NULL);
    for (int i = 0; i < PATTERN_COUNT; i++) {
        struct queue_name name = op->name;
        name.pattern = (enum messaging_pattern)i;
        put_stream(out, op->queue, name);
        put_index(out, op->queue, name);
    }
    redis_put_int(out, op->promote.now_ms < 0 ? 0 : op->promote.now_ms);
    redis_put_int(out, (int64_t)op->promote.max);
}

static bool promote_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    op->promoted(op->arg, err, integer_at(reply, 0), reply ? integer_at(reply, 1) : -1);
    return true;
}

static void promote(struct queue *queue, struct queue_name name, int64_t now_ms, size_t max,
                    queue_promoted *done, void *arg)
{
    static const struct op_kind kind = {size_head, promote_build, promote_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->promote.now_ms = now_ms;
    op->promote.max = max < QUEUE_BATCH_MAX ? max : QUEUE_BATCH_MAX;
    op->promoted = done;
    start(op, op->promote.max);
}

/* ---- beside the queue ---- */

static size_t bury_size(const struct op *op)
{
    size_t size = QUEUE_REDIS_HEAD;
    for (size_t i = 0; i < op->count; i++) {
        const struct queue_dead *dead = &op->dead[i];
        size += ID_SIZE + 2 * NUMBER_SIZE + 3 * REDIS_BULK_OVERHEAD + slice_text(dead->error).len +
                dead->meta.len + dead->body.len;
    }
    return size;
}

static void bury_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_bury", 2, 6 * op->count);
    put_key(out, op->queue, op->name, "dead", NULL);
    put_key(out, op->queue, op->name, "dead", "index");
    for (size_t i = 0; i < op->count; i++) {
        const struct queue_dead *dead = &op->dead[i];
        put_id(out, dead->id);
        redis_put_int(out, dead->at_ms < 0 ? 0 : dead->at_ms);
        redis_put_int(out, dead->attempts < 0 ? 0 : dead->attempts);
        redis_put_text(out, dead->error);
        redis_put_bulk(out, dead->meta);
        redis_put_bulk(out, body_slice(dead->body));
    }
}

static void bury(struct queue *queue, const char *item, const struct queue_dead *dead, size_t count,
                 queue_done *done, void *arg)
{
    static const struct op_kind kind = {bury_size, bury_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->dead = dead;
    op->done = done;
    start(op, count);
}

static size_t reply_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + op->reply.body.len;
}

static void reply_build(const struct op *op, struct buffer *out)
{
    char id[UUID_TEXT_LEN + 1];
    uuid_format(op->reply.id, id);
    put_fcall(out, "hie1_reply", 1, 2);
    put_key(out, op->queue, op->name, "reply", id);
    redis_put_int(out, op->reply.ttl_ms);
    redis_put_bulk(out, op->reply.body);
}

static void reply(struct queue *queue, const char *item, struct uuid id, struct slice body,
                  int64_t ttl_ms, queue_done *done, void *arg)
{
    static const struct op_kind kind = {reply_size, reply_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->reply.id = id;
    op->reply.body = body;
    op->reply.ttl_ms = ttl_ms;
    op->done = done;
    start(op, ttl_ms > 0); /* no life, no key */
}

static void depth_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_depth", 2, 0);
    put_stream(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "delayed", NULL);
}

static bool depth_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    const struct queue_depth depth = {.waiting = integer_at(reply, 0),
                                      .in_hand = integer_at(reply, 1),
                                      .delayed = integer_at(reply, 2),
                                      .oldest_at_ms = integer_at(reply, 3)};
    op->depth_done(op->arg, err, &depth);
    return true;
}

static void depth(struct queue *queue, struct queue_name name, queue_depth_done *done, void *arg)
{
    static const struct op_kind kind = {size_head, depth_build, depth_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->depth_done = done;
    start(op, 1);
}

static void missing_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_missing", 4, op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "parked", NULL);
    put_key(out, op->queue, op->name, "delayed", NULL);
    for (size_t i = 0; i < op->count; i++)
        put_id(out, op->ids[i]);
}

static bool flags_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    bool flags[QUEUE_BATCH_MAX] = {false};
    for (size_t i = 0; i < op->count; i++)
        flags[i] = integer_at(reply, i) == 1;
    op->flags_done(op->arg, err, flags);
    return true;
}

static void missing(struct queue *queue, struct queue_name name, const struct uuid *ids,
                    size_t count, queue_flags_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, missing_build, flags_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->ids = ids;
    op->flags_done = done;
    start(op, count);
}

static void held_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_held", 2, op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    for (size_t i = 0; i < op->count; i++)
        put_id(out, op->ids[i]);
}

static void held(struct queue *queue, struct queue_name name, const struct uuid *ids, size_t count,
                 queue_flags_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, held_build, flags_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->ids = ids;
    op->flags_done = done;
    start(op, count);
}

/* ---- workers ---- */

static size_t heartbeat_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + slice_text(op->heartbeat.host).len +
           slice_text(op->heartbeat.items).len;
}

static void heartbeat_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_heartbeat", 1, 11);
    put_plain_key(out, op->queue, "worker", op->consumer);
    redis_put_int(out, op->heartbeat.ttl_ms);
    redis_put_text(out, "host");
    redis_put_text(out, op->heartbeat.host);
    redis_put_text(out, "pid");
    redis_put_int(out, op->heartbeat.pid);
    redis_put_text(out, "items");
    redis_put_text(out, op->heartbeat.items);
    redis_put_text(out, "in_hand");
    redis_put_int(out, op->heartbeat.in_hand);
    redis_put_text(out, "at");
    redis_put_int(out, clock_wall_ms());
}

static void heartbeat(struct queue *queue, const char *worker, const char *host, int64_t pid,
                      const char *items, int64_t in_hand, int64_t ttl_ms, queue_done *done,
                      void *arg)
{
    static const struct op_kind kind = {heartbeat_size, heartbeat_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = ""}, arg);
    op->consumer = worker;
    op->heartbeat.host = host;
    op->heartbeat.items = items;
    op->heartbeat.pid = pid;
    op->heartbeat.in_hand = in_hand;
    op->heartbeat.ttl_ms = ttl_ms;
    op->done = done;
    start(op, 1);
}

static void leave_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_leave", 2, 1);
    put_stream(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
}

static void build_forget_worker(const struct queue_redis *queue, const void *arg,
                                struct buffer *out)
{
    redis_put_array(out, 2);
    redis_put_text(out, "DEL");
    put_plain_key(out, queue, "worker", arg);
}

static void leave(struct queue *queue, struct queue_name name, const char *consumer,
                  queue_done *done, void *arg)
{
    static const struct op_kind kind = {size_head, leave_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->done = done;
    queue_redis_unregister(op->queue, name.item, name.partition);
    (void)queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_forget_worker,
                           consumer); /* else it expires */
    start(op, 1);
}

const struct queue_ops queue_redis_ops = {
    .enqueue = enqueue,
    .claim = queue_redis_claim,
    .takeover = queue_redis_takeover,
    .renew = renew,
    .hand_back = hand_back,
    .finish = finish,
    .retry = retry,
    .promote = promote,
    .bury = bury,
    .reply = reply,
    .depth = depth,
    .missing = missing,
    .held = held,
    .heartbeat = heartbeat,
    .leave = leave,
    .free = queue_redis_free,
};
