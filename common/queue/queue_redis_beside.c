/* What stands beside the entries of a queue: dead letters, replies, room at the door, workers. Arguments in the order of the files in
 * schemas/redis. */
#include "base/clock.h"
#include "base/mem.h"
#include "queue/queue_redis.h"
#include "queue/queue_reply.h"

#include <stdlib.h>

#define KEY_SIZE (512u + REDIS_BULK_OVERHEAD) /* of one key, at most */
#define BATCH_BYTES (4u << 20)                /* of reply bodies in one command, about */
#define READ_AT_ONCE 16 /* replies in one command: each may be as large as an item lets it be */

/* ---- dead letters ---- */

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

void queue_redis_bury(struct queue *queue, const char *item, const struct queue_dead *dead,
                      size_t count, queue_done *done, void *arg)
{
    static const struct op_kind kind = {bury_size, bury_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->dead = dead;
    op->done = done;
    op_start_over(op, count);
}

static void unbury_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_unbury", 2, op->count);
    put_key(out, op->queue, op->name, "dead", NULL);
    put_key(out, op->queue, op->name, "dead", "index");
    for (size_t i = 0; i < op->count; i++)
        put_id(out, op->ids[i]);
}

static size_t ids_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + op->count * ID_SIZE;
}

void queue_redis_unbury(struct queue *queue, const char *item, const struct uuid *ids, size_t count,
                        queue_done *done, void *arg)
{
    static const struct op_kind kind = {ids_size, unbury_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->ids = ids;
    op->done = done;
    op_start_over(op, count);
}

/* ---- replies ---- */

/* A batch of replies may be large: it goes out in commands of about BATCH_BYTES, one after the other. */
static size_t batch_to(const struct op *op, size_t from)
{
    size_t bytes = 0, to = from;
    while (to < op->count && bytes < BATCH_BYTES)
        bytes += op->batch.replies[to++].body.len;
    return to;
}

static size_t replies_size(const struct op *op)
{
    size_t size = QUEUE_REDIS_HEAD;
    for (size_t i = op->batch.from; i < op->batch.to; i++) {
        const struct queue_reply *reply = &op->batch.replies[i];
        size += KEY_SIZE + NUMBER_SIZE + reply->body.len + reply->to.len + QUEUE_REPLY_HEAD_MAX +
                4 * REDIS_BULK_OVERHEAD;
    }
    return size;
}

static void put_reply_key(const struct op *op, struct uuid id, struct buffer *out)
{
    char text[UUID_TEXT_LEN + 1];
    uuid_format(id, text);
    put_key(out, op->queue, op->name, "reply", text);
}

static void put_reply(const struct queue_reply *reply, struct buffer *out)
{
    static const struct slice empty = {"", 0};
    char bytes[QUEUE_REPLY_HEAD_MAX];
    struct buffer head = {.data = bytes, .capacity = sizeof(bytes), .max = sizeof(bytes)};
    bool is_kept = reply->ttl_ms > 0 && !reply->left_out && strcmp(reply->status, "completed") == 0;
    bool is_whole = queue_reply_pack(reply, &head);
    bool is_published = reply->to.len > 0;
    if (is_kept)
        redis_put_int(out, reply->ttl_ms);
    else
        redis_put_bulk(out, empty);
    redis_put_bulk(out, is_kept || (is_published && is_whole) ? body_slice(reply->body) : empty);
    redis_put_bulk(out, reply->to);
    redis_put_bulk(out, is_published ? buffer_slice(&head) : empty);
    redis_put_text(out, is_whole ? "1" : "");
}

static void replies_build(const struct op *op, struct buffer *out)
{
    size_t count = op->batch.to - op->batch.from;
    put_fcall(out, "hie1_replies", count, 5 * count);
    for (size_t i = op->batch.from; i < op->batch.to; i++)
        put_reply_key(op, op->batch.replies[i].id, out);
    for (size_t i = op->batch.from; i < op->batch.to; i++)
        put_reply(&op->batch.replies[i], out);
}

/* Goes on with what is left of a batch; true: it has ended. */
static bool go_on(struct op *op, struct err *ret_err)
{
    err_clear(ret_err);
    if (op_send(op))
        return false;
    err_set(ret_err, ERR_UNAVAILABLE, "redis: down");
    return true;
}

static bool replies_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    struct err down = *err;
    if (reply && op->batch.to < op->count) {
        op->batch.from = op->batch.to;
        op->batch.to = batch_to(op, op->batch.from);
        if (!go_on(op, &down))
            return false;
    }
    op->done(op->arg, &down);
    return true;
}

void queue_redis_replies(struct queue *queue, const char *item, const struct queue_reply *replies,
                         size_t count, queue_done *done, void *arg)
{
    static const struct op_kind kind = {replies_size, replies_build, replies_answer, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->batch.replies = replies;
    op->count = count;
    op->batch.to = batch_to(op, 0);
    op->done = done;
    op_start_over(op, count);
}

static size_t read_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + (op->read.to - op->read.from) * KEY_SIZE;
}

static void read_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_read_replies", op->read.to - op->read.from, 0);
    for (size_t i = op->read.from; i < op->read.to; i++)
        put_reply_key(op, op->read.ids[i], out);
}

static size_t read_to(const struct op *op, size_t from)
{
    return op->count - from > READ_AT_ONCE ? from + READ_AT_ONCE : op->count;
}

static void keep_bodies(struct op *op, struct redis_reply *reply)
{
    bool any = false;
    for (size_t i = op->read.from; i < op->read.to; i++) {
        const struct redis_value *value = redis_item(&reply->root, i - op->read.from);
        if (value->kind != REDIS_KIND_TEXT)
            continue;
        any = true;
        op->read.bodies[i] = body_of(value->text.ptr, value->text.len);
    }
    if (!any)
        return;
    redis_reply_keep(reply);
    reply->next = op->read.kept;
    op->read.kept = reply;
}

static bool read_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    struct err down = *err;
    if (reply) {
        keep_bodies(op, reply);
        op->read.from = op->read.to;
        op->read.to = read_to(op, op->read.from);
        if (op->read.from < op->count && !go_on(op, &down))
            return false;
    }
    op->replies_read(op->arg, &down, op->read.bodies);
    redis_reply_free(op->read.kept);
    free(op->read.bodies);
    return true;
}

void queue_redis_read_replies(struct queue *queue, const char *item, const struct uuid *ids,
                              size_t count, queue_replies_read *done, void *arg)
{
    static const struct op_kind kind = {read_size, read_build, read_answer, NULL};
    struct op *op = op_new(queue, &kind, (struct queue_name){.item = item}, arg);
    op->read.ids = ids;
    op->read.bodies = mem_array(count, sizeof(*op->read.bodies));
    op->count = count;
    op->read.to = read_to(op, 0);
    op->replies_read = done;
    op_start_over(op, count);
}

/* ---- room at the door ---- */

static size_t slots_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + 2 * (size_t)op->slots.partitions * KEY_SIZE;
}

static void slots_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_slots", 1 + 2 * (size_t)op->slots.partitions, 5);
    struct queue_name name = op->name;
    name.partition = 0;
    put_key(out, op->queue, name, "slots", NULL);
    for (; name.partition < op->slots.partitions; name.partition++) {
        put_stream(out, op->queue, name);
        put_key(out, op->queue, name, "delayed", NULL);
    }
    redis_put_text(out, op->consumer);
    redis_put_int(out, op->slots.limit < 0 ? 0 : op->slots.limit);
    redis_put_int(out, op->slots.held < 0 ? 0 : op->slots.held);
    redis_put_int(out, op->slots.want < 0 ? 0 : op->slots.want);
    redis_put_int(out, op->slots.ttl_ms < 1 ? 1 : op->slots.ttl_ms);
}

static bool slots_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    op->slots_done(op->arg, err, integer_at(reply, 0), integer_at(reply, 1));
    return true;
}

void queue_redis_slots(struct queue *queue, struct queue_name name, unsigned partitions,
                       const char *holder, int64_t limit, int64_t held, int64_t want,
                       int64_t ttl_ms, queue_slots_done *done, void *arg)
{
    static const struct op_kind kind = {slots_size, slots_build, slots_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = holder;
    op->slots.partitions = partitions > 0 ? partitions : 1;
    op->slots.limit = limit;
    op->slots.held = held;
    op->slots.want = want;
    op->slots.ttl_ms = ttl_ms;
    op->slots_done = done;
    op_start_over(op, 1);
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

void queue_redis_heartbeat(struct queue *queue, const char *worker, const char *host, int64_t pid,
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
    op_start_over(op, 1);
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

/* Behind the answers of claims: should we own it again, we look. */
static bool leave_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    queue_redis_note_unsure(op->queue, op->name);
    return answer_done(op, err, reply);
}

void queue_redis_leave(struct queue *queue, struct queue_name name, const char *consumer,
                       queue_done *done, void *arg)
{
    static const struct op_kind kind = {size_head, leave_build, leave_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->done = done;
    queue_redis_unregister(op->queue, name.item, name.partition);
    (void)queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_forget_worker,
                           consumer); /* else it expires */
    op_start_over(op, 1);
}
