/* The operations that are one Function call each: what is sent, and what its answer means. Arguments in the order of
 * the files in schemas/redis. */
#include "base/bug.h"
#include "base/clock.h"
#include "queue/queue_redis.h"

#include <limits.h>
#include <stdio.h>

static const struct slice EMPTY = {"", 0};

int64_t integer_at(const struct redis_reply *reply, size_t index)
{
    const struct redis_value *value = reply ? redis_item(&reply->root, index) : NULL;
    return value && value->kind == REDIS_KIND_INTEGER ? value->integer : 0;
}

bool answer_done(struct op *op, const struct err *err, struct redis_reply *reply)
{
    (void)reply;
    op->done(op->arg, err);
    return true;
}

size_t size_head(const struct op *op)
{
    (void)op;
    return QUEUE_REDIS_HEAD;
}

void op_start_over(struct op *op, size_t count)
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    op->count = count;
    if (count == 0)
        op_defer(op, &(const struct err){.code = ERR_NONE});
    else
        op_start(op);
}

/* ---- enqueue ---- */

size_t enqueue_args_size(const struct queue_entry *entries, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += ID_SIZE + 3 * NUMBER_SIZE + 3 * REDIS_BULK_OVERHEAD + entries[i].key.len +
                entries[i].meta.len + entries[i].body.len;
    return size;
}

void put_enqueue_keys(const struct op *op, struct buffer *out)
{
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_key(out, op->queue, op->name, "parked", NULL);
    put_key(out, op->queue, op->name, "idle", NULL);
}

void put_enqueue_args(const struct queue_entry *entries, size_t count, struct buffer *out)
{
    int64_t now = clock_wall_ms();
    for (size_t i = 0; i < count; i++) {
        const struct queue_entry *entry = &entries[i];
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

static size_t enqueue_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + enqueue_args_size(op->entries, op->count);
}

static void enqueue_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_enqueue", 5, 7 * op->count);
    put_enqueue_keys(op, out);
    put_enqueue_args(op->entries, op->count, out);
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
    op_start_over(op, count);
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
    op_start_over(op, count);
}

static void put_held(const struct op *op, const char *function, struct buffer *out)
{
    put_fcall(out, function, 1, 1 + op->count);
    put_stream(out, op->queue, op->name);
    redis_put_text(out, op->consumer);
    for (size_t i = 0; i < op->count; i++)
        redis_put_text(out, op->entry_pointers[i]->entry_id);
}

static void renew_build(const struct op *op, struct buffer *out)
{
    put_held(op, "hie1_renew", out);
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
    op_start_over(op, count);
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

/* fifo: they stay where they are, for the next owner. */
static void put_down_build(const struct op *op, struct buffer *out)
{
    put_held(op, "hie1_put_down", out);
}

/* They are in our hand by name, and known to nobody. */
static bool put_down_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    queue_redis_note_unsure(op->queue, op->name);
    return answer_done(op, err, reply);
}

static void hand_back(struct queue *queue, struct queue_name name, const char *consumer,
                      const struct queue_entry *const *entries, size_t count, queue_done *done,
                      void *arg)
{
    static const struct op_kind kind = {entry_ids_size, hand_back_build, answer_done, NULL};
    static const struct op_kind fifo = {entry_ids_size, put_down_build, put_down_answer, NULL};
    struct op *op = op_new(queue, name.type == QUEUE_FIFO ? &fifo : &kind, name, arg);
    op->consumer = consumer;
    op->entry_pointers = entries;
    op->done = done;
    op_start_over(op, count);
}

static size_t retry_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD + op->count * (ENTRY_ID_SIZE + ID_SIZE + 2 * NUMBER_SIZE);
}

/* "due", or "due attempts" */
static void put_due(const struct queue_retry *retry, struct buffer *out)
{
    char text[48];
    int64_t due_ms = retry->due_ms < 0 ? 0 : retry->due_ms;
    if (retry->attempts <= 0) {
        redis_put_int(out, due_ms);
        return;
    }
    int len = snprintf(text, sizeof(text), "%lld %d", (long long)due_ms, retry->attempts);
    redis_put_bulk(out, slice_of(text, (size_t)len));
}

static void retry_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_retry", 4, 1 + 3 * op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_key(out, op->queue, op->name, "parked", NULL);
    redis_put_text(out, op->consumer);
    for (size_t i = 0; i < op->count; i++) {
        redis_put_text(out, op->retries[i].entry_id);
        put_id(out, op->retries[i].id);
        put_due(&op->retries[i], out);
    }
}

static void retry(struct queue *queue, struct queue_name name, const char *consumer,
                  const struct queue_retry *retries, size_t count, queue_done *done, void *arg)
{
    static const struct op_kind kind = {retry_size, retry_build, answer_done, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->consumer = consumer;
    op->retries = retries;
    op->done = done;
    op_start_over(op, count);
}

/* ---- delayed entries ---- */

static void promote_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_promote", 3 + 2 * PATTERN_COUNT, 3);
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
    redis_put_text(out, messaging_pattern_words[op->name.pattern]);
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
    op_start_over(op, op->promote.max);
}

/* ---- what is seen ---- */

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
                                      .oldest_at_ms = integer_at(reply, 3),
                                      .next_due_ms = integer_at(reply, 4)};
    op->depth_done(op->arg, err, &depth);
    return true;
}

static void depth(struct queue *queue, struct queue_name name, queue_depth_done *done, void *arg)
{
    static const struct op_kind kind = {size_head, depth_build, depth_answer, NULL};
    struct op *op = op_new(queue, &kind, name, arg);
    op->depth_done = done;
    op_start_over(op, 1);
}

static void put_ids(const struct op *op, struct buffer *out)
{
    for (size_t i = 0; i < op->count; i++)
        put_id(out, op->ids[i]);
}

static void missing_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_missing", 4, op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "parked", NULL);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_ids(op, out);
}

static bool flags_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    bool flags[QUEUE_BATCH_MAX] = {false};
    for (size_t i = 0; i < op->count; i++)
        flags[i] = integer_at(reply, i) == 1;
    op->flags_done(op->arg, err, flags);
    return true;
}

static void held_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_held", 2, op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_ids(op, out);
}

static void withdraw_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_withdraw", 4, op->count);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "delayed", NULL);
    put_key(out, op->queue, op->name, "parked", NULL);
    put_ids(op, out);
}

static void start_flags(struct queue *queue, const struct op_kind *kind, struct queue_name name,
                        const struct uuid *ids, size_t count, queue_flags_done *done, void *arg)
{
    struct op *op = op_new(queue, kind, name, arg);
    op->ids = ids;
    op->flags_done = done;
    op_start_over(op, count);
}

static void missing(struct queue *queue, struct queue_name name, const struct uuid *ids,
                    size_t count, queue_flags_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, missing_build, flags_answer, NULL};
    start_flags(queue, &kind, name, ids, count, done, arg);
}

static void held(struct queue *queue, struct queue_name name, const struct uuid *ids, size_t count,
                 queue_flags_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, held_build, flags_answer, NULL};
    start_flags(queue, &kind, name, ids, count, done, arg);
}

static void withdraw(struct queue *queue, struct queue_name name, const struct uuid *ids,
                     size_t count, queue_flags_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, withdraw_build, flags_answer, NULL};
    start_flags(queue, &kind, name, ids, count, done, arg);
}

static void deaths_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_count_deaths", 1, op->count);
    put_key(out, op->queue, op->name, "deaths", NULL);
    put_ids(op, out);
}

static bool deaths_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    int deaths[QUEUE_BATCH_MAX] = {0};
    for (size_t i = 0; i < op->count; i++) {
        int64_t number = integer_at(reply, i);
        deaths[i] = number < 0 ? 0 : number > INT_MAX ? INT_MAX : (int)number;
    }
    op->deaths_done(op->arg, err, deaths);
    return true;
}

static void count_deaths(struct queue *queue, struct queue_name name, const struct uuid *ids,
                         size_t count, queue_deaths_done *done, void *arg)
{
    static const struct op_kind kind = {entry_ids_size, deaths_build, deaths_answer, NULL};
    name.partition = 0;
    struct op *op = op_new(queue, &kind, name, arg);
    op->ids = ids;
    op->deaths_done = done;
    op_start_over(op, count);
}

const struct queue_ops queue_redis_ops = {
    .enqueue = enqueue,
    .claim = queue_redis_claim,
    .takeover = queue_redis_takeover,
    .inherit = queue_redis_inherit,
    .pull = queue_redis_pull,
    .renew = renew,
    .hand_back = hand_back,
    .finish = finish,
    .retry = retry,
    .promote = promote,
    .bury = queue_redis_bury,
    .unbury = queue_redis_unbury,
    .replies = queue_redis_replies,
    .read_replies = queue_redis_read_replies,
    .slots = queue_redis_slots,
    .depth = depth,
    .missing = missing,
    .held = held,
    .count_deaths = count_deaths,
    .withdraw = withdraw,
    .heartbeat = queue_redis_heartbeat,
    .leave = queue_redis_leave,
    .free = queue_redis_free,
};
