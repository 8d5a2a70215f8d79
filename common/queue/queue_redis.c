/* Owns the links, one for commands and one for each channel; waits for replies; fails by completing operations with what their
 * link said. */
#include "queue/queue_redis.h"
#include "queue/queue_reply.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define MESSAGE_MAX (4u << 20) /* on a channel: anybody may publish */

static const struct err NO_ERROR = {.code = ERR_NONE};

/* ---- telling ---- */

struct told {
    struct redis_call call; /* first */
};

static void on_told(struct redis_call *call, const struct err *err, struct redis_reply *reply)
{
    (void)err;
    (void)reply;
    free(call);
}

bool queue_redis_tell(struct queue_redis *queue, size_t size,
                      void (*build)(const struct queue_redis *, const void *, struct buffer *),
                      const void *arg)
{
    struct buffer *out = queue->greeted ? redis_link_open(queue->commands, size) : NULL;
    if (!out)
        return false;
    struct told *told = mem_alloc(sizeof(*told));
    told->call.done = on_told;
    build(queue, arg, out);
    redis_link_send(queue->commands, &told->call);
    return true;
}

/* ---- operations ---- */

static void on_answer(struct redis_call *call, const struct err *err, struct redis_reply *reply);

struct op *op_new(struct queue *queue, const struct op_kind *kind, struct queue_name name,
                  void *arg)
{
    struct op *op = mem_alloc(sizeof(*op));
    op->call.done = on_answer;
    op->queue = (struct queue_redis *)queue;
    op->kind = kind;
    op->name = name;
    if (name.item) {
        int len = snprintf(op->item, sizeof(op->item), "%s", name.item);
        BUG_ON(len < 0 ||
               (size_t)len >= sizeof(op->item)); /* ids are bounded where they are read */
        op->name.item = op->item;
    }
    op->arg = arg;
    return op;
}

bool op_send(struct op *op)
{
    struct queue_redis *queue = op->queue;
    struct buffer *out =
        queue->greeted ? redis_link_open(queue->commands, op->kind->size(op)) : NULL;
    if (!out)
        return false;
    op->kind->build(op, out);
    redis_link_send(queue->commands, &op->call);
    return true;
}

void op_defer(struct op *op, const struct err *err)
{
    if (op->queue->freeing) {
        free(op);
        return;
    }
    op->deferred_error = *err;
    STAILQ_INSERT_TAIL(&op->queue->deferred, op, deferred);
    loop_task_set(&op->queue->deferred_task);
}

void op_start(struct op *op)
{
    struct err err;
    if (op_send(op))
        return;
    if (redis_link_is_up(op->queue->commands))
        err_set(&err, ERR_UNAVAILABLE, "redis: too much waits to be written");
    else
        err_set(&err, ERR_UNAVAILABLE, "redis: down");
    op_defer(op, &err);
}

static void end_op(struct op *op, const struct err *err, struct redis_reply *reply)
{
    if (op->kind->answer(op, err, reply))
        free(op);
}

static void on_deferred(void *arg)
{
    struct queue_redis *queue = arg;
    struct op_list ops = STAILQ_HEAD_INITIALIZER(ops);
    struct op *op;
    STAILQ_CONCAT(&ops, &queue->deferred);
    while ((op = STAILQ_FIRST(&ops))) {
        STAILQ_REMOVE_HEAD(&ops, deferred);
        end_op(op, &op->deferred_error, NULL);
    }
}

/* Somebody flushed the Functions: loads them and goes on. */
static bool load_and_repeat(struct op *op, const struct redis_value *error)
{
    if (op->loaded || !redis_error_is(error, "ERR Function not found"))
        return false;
    op->loaded = true;
    return queue_redis_tell(op->queue, queue_redis_library_size(), queue_redis_build_load, NULL) &&
           op_send(op);
}

static void on_answer(struct redis_call *call, const struct err *err, struct redis_reply *reply)
{
    struct op *op = (struct op *)call;
    if (err->code != ERR_NONE) {
        end_op(op, err, NULL);
        return;
    }
    if (reply->root.kind != REDIS_KIND_ERROR) {
        end_op(op, &NO_ERROR, reply);
        return;
    }
    if (load_and_repeat(op, &reply->root) ||
        (op->kind->recover && op->kind->recover(op, &reply->root)))
        return;
    struct err why;
    redis_error_read(&reply->root, &why);
    end_op(op, &why, NULL);
}

/* ---- up and down ---- */

bool queue_redis_is_up(const struct queue *queue)
{
    const struct queue_redis *redis = (const struct queue_redis *)queue;
    return redis->greeted && redis_link_is_up(redis->commands) &&
           (!redis->wakes || redis_link_is_up(redis->wakes)) &&
           (!redis->replies || redis_link_is_up(redis->replies));
}

void queue_redis_tell_up(struct queue_redis *queue)
{
    if (!queue_redis_is_up(&queue->base) || (queue->told_up && !queue->fresh))
        return;
    bool fresh = queue->fresh;
    queue->fresh = false;
    queue->told_up = true;
    queue->told_down = false;
    queue->options.on_up(queue->options.arg, fresh);
}

static void tell_down(struct queue_redis *queue, const struct err *err)
{
    if (!queue->told_up && queue->told_down)
        return;
    queue->told_up = false;
    queue->told_down = true;
    queue->options.on_down(queue->options.arg, err);
}

void queue_redis_tell_fatal(void *arg, const struct err *err)
{
    struct queue_redis *queue = arg;
    if (queue->told_fatal)
        return;
    queue->told_fatal = true;
    queue->options.on_fatal(queue->options.arg, err);
}

/* ---- the links' events ---- */

static void on_commands_up(void *arg)
{
    queue_redis_greet(arg, true);
}

static void on_commands_down(void *arg, const struct err *err)
{
    struct queue_redis *queue = arg;
    queue->greeted = false;
    loop_timer_cancel(&queue->epoch_timer);
    queue_redis_unregister_all(queue);
    queue_redis_note_all_unsure(queue);
    tell_down(queue, err);
}

static void on_channel_up(void *arg)
{
    queue_redis_tell_up(arg);
}

static void on_channel_down(void *arg, const struct err *err)
{
    tell_down(arg, err);
}

static struct slice next_word(struct slice *rest)
{
    const char *space = rest->len ? memchr(rest->ptr, ' ', rest->len) : NULL;
    struct slice word = slice_of(rest->ptr, space ? (size_t)(space - rest->ptr) : rest->len);
    rest->ptr += word.len + (space != NULL);
    rest->len -= word.len + (space != NULL);
    return word;
}

/* "<pattern> <partition> <item>" */
static void on_wake(void *arg, struct slice message)
{
    struct queue_redis *queue = arg;
    struct slice pattern = next_word(&message), partition = next_word(&message);
    int64_t number;
    if (!slice_to_int(partition, 0, 1 << 20, &number) || message.len == 0)
        return;
    char item[256];
    if (message.len >= sizeof(item))
        return;
    memcpy(item, message.ptr, message.len);
    item[message.len] = '\0';
    for (int i = 0; i < PATTERN_COUNT; i++) {
        if (!slice_is(pattern, messaging_pattern_words[i]))
            continue;
        queue_redis_unregister(queue, item, (unsigned)number);
        queue->options.on_wake(queue->options.arg, item, (enum messaging_pattern)i,
                               (unsigned)number);
    }
}

static void on_reply(void *arg, struct slice message)
{
    struct queue_redis *queue = arg;
    struct queue_reply reply;
    char error[QUEUE_REPLY_ERROR_MAX];
    if (queue_reply_unpack(message, error, &reply))
        queue->options.on_reply(queue->options.arg, &reply);
}

/* ---- life ---- */

static struct redis_link *subscribe(struct queue_redis *queue, const char *what, const char *id,
                                    void (*on_message)(void *arg, struct slice message))
{
    char *channel = mem_printf("%s:%s:%s", queue->options.key_prefix, what, id);
    struct redis_link_options options = {.url = queue->options.url,
                                         .channel = channel,
                                         .input_max = MESSAGE_MAX,
                                         .on_up = on_channel_up,
                                         .on_down = on_channel_down,
                                         .on_fatal = queue_redis_tell_fatal,
                                         .on_message = on_message,
                                         .arg = queue};
    struct redis_link *link = redis_link_new(queue->loop, &options);
    free(channel);
    return link;
}

static void start_links(struct queue_redis *queue)
{
    struct redis_link_options commands = {.url = queue->options.url,
                                          .on_up = on_commands_up,
                                          .on_down = on_commands_down,
                                          .on_fatal = queue_redis_tell_fatal,
                                          .arg = queue};
    queue->commands = redis_link_new(queue->loop, &commands);
    if (queue->options.consumer)
        queue->wakes = subscribe(queue, "wake", queue->options.consumer, on_wake);
    if (queue->options.listener)
        queue->replies = subscribe(queue, "reply", queue->options.listener, on_reply);
}

struct queue *queue_redis_new(struct loop *loop, const struct queue_redis_options *options)
{
    struct queue_redis *queue = mem_alloc(sizeof(*queue));
    queue->base.ops = &queue_redis_ops;
    queue->loop = loop;
    queue->options = *options;
    queue->options.url = mem_strdup(options->url);
    queue->options.key_prefix = mem_strdup(options->key_prefix);
    queue->options.consumer = mem_strdup(options->consumer);
    queue->options.listener = mem_strdup(options->listener);
    STAILQ_INIT(&queue->deferred);
    loop_task_init(&queue->deferred_task, loop, on_deferred, queue);
    loop_timer_init(&queue->epoch_timer, loop, queue_redis_on_epoch_timer, queue);
    start_links(queue);
    return &queue->base;
}

void queue_redis_free(struct queue *queue)
{
    struct queue_redis *redis = (struct queue_redis *)queue;
    redis->freeing = true;
    redis->greeted = false;
    redis->told_up = false;
    redis->told_down = true; /* nothing is told from here on but the ends of operations */
    redis->told_fatal = true;
    redis->wakes = redis_link_free(redis->wakes);
    redis->replies = redis_link_free(redis->replies);
    redis->commands = redis_link_free(redis->commands);
    on_deferred(redis);
    queue_redis_unregister_all(redis);
    queue_redis_note_all_unsure(redis);
    loop_task_done(&redis->deferred_task);
    loop_timer_done(&redis->epoch_timer);
    free((char *)redis->options.url);
    free((char *)redis->options.key_prefix);
    free((char *)redis->options.consumer);
    free((char *)redis->options.listener);
    free(redis);
}
