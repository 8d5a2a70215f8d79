/* Owns the two links and what is known of the server behind them; waits for replies; fails by completing operations with what
 * their link said.
 *
 * A link that comes up is greeted before operations go out: which server is it (run id, replication id), is our epoch key there,
 * does it have our Functions? An epoch key that is gone or another's means that the data is gone, also when the server
 * and the connection stayed (FLUSHALL): it is looked at every EPOCH_MS. */
#include "queue/queue_redis.h"

#include "base/bug.h"
#include "base/embedded.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define EPOCH_MS 2000

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

/* ---- Functions ---- */

static size_t library_size(void)
{
    return redis_functions[0].len + QUEUE_REDIS_HEAD;
}

static void build_load(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    (void)queue;
    (void)arg;
    BUG_ON(redis_functions_count != 1);
    redis_put_array(out, 4);
    redis_put_text(out, "FUNCTION");
    redis_put_text(out, "LOAD");
    redis_put_text(out, "REPLACE");
    redis_put_bulk(out, slice_of(redis_functions[0].text, redis_functions[0].len));
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
    return queue_redis_tell(op->queue, library_size(), build_load, NULL) && op_send(op);
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
           (!redis->wakes || redis_link_is_up(redis->wakes));
}

static void tell_up(struct queue_redis *queue)
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

static void tell_fatal(void *arg, const struct err *err)
{
    struct queue_redis *queue = arg;
    if (queue->told_fatal)
        return;
    queue->told_fatal = true;
    queue->options.on_fatal(queue->options.arg, err);
}

/* ---- the greeting ---- */

enum step {
    GREET_SERVER,
    GREET_REPLICATION,
    GREET_EPOCH,
    GREET_REVISION,
    GREET_SET_EPOCH,
    GREET_LOAD,
    GREET_STEPS
};

struct queue_greeting;
struct greeting_call {
    struct redis_call call; /* first */
    struct queue_greeting *greeting;
};

/* Asks, and where the epoch or the Functions are missing, gives; the calls are answered in order. */
struct queue_greeting {
    struct queue_redis *queue;
    struct greeting_call calls[GREET_STEPS];
    unsigned unanswered;
    bool whole; /* not only a look at the epoch key */
    char run_id[64], replication_id[64], epoch[64], offer[64];
    bool epoch_was_missing, needs_load;
    struct err err; /* ERR_NONE: well so far */
};

static void copy_text(struct slice text, char *ret, size_t size)
{
    size_t len = text.len < size ? text.len : size - 1;
    memcpy(ret, text.ptr, len);
    ret[len] = '\0';
}

/* The value of a "name:value" line of INFO. */
static void read_info(const struct redis_value *info, const char *name, char *ret, size_t size)
{
    struct slice rest = info->kind == REDIS_KIND_TEXT ? info->text : slice_of("", 0);
    size_t name_len = strlen(name);
    while (rest.len > 0) {
        const char *line_end = memchr(rest.ptr, '\n', rest.len);
        size_t len = line_end ? (size_t)(line_end - rest.ptr) : rest.len;
        if (len > name_len && memcmp(rest.ptr, name, name_len) == 0 && rest.ptr[name_len] == ':') {
            size_t value_len = len - name_len - 1;
            while (value_len > 0 && rest.ptr[name_len + value_len] == '\r')
                value_len--;
            copy_text(slice_of(rest.ptr + name_len + 1, value_len), ret, size);
            return;
        }
        len += line_end != NULL;
        rest = slice_of(rest.ptr + len, rest.len - len);
    }
}

static void greet_read(struct queue_greeting *g, enum step step, const struct redis_value *value)
{
    char role[16] = "";
    switch (step) {
    case GREET_SERVER:
        read_info(value, "run_id", g->run_id, sizeof(g->run_id));
        return; /* a hosted Redis may keep INFO to itself: then the epoch decides alone */
    case GREET_REPLICATION:
        read_info(value, "master_replid", g->replication_id, sizeof(g->replication_id));
        read_info(value, "role", role, sizeof(role));
        if (strcmp(role, "slave") == 0)
            err_set(&g->err, ERR_UNAVAILABLE, "redis: it is a replica");
        return;
    case GREET_EPOCH:
        if (value->kind == REDIS_KIND_TEXT)
            copy_text(value->text, g->epoch, sizeof(g->epoch));
        break;
    case GREET_REVISION:
        g->needs_load =
            redis_error_is(value, "ERR Function not found") ||
            (value->kind == REDIS_KIND_INTEGER && value->integer < QUEUE_REDIS_REVISION);
        if (g->needs_load)
            return;
        if (redis_error_is(value, "ERR unknown command")) {
            err_set(&g->err, ERR_CONFIG,
                    "redis: it has no Functions; version 7 or newer is needed");
            return;
        }
        break;
    case GREET_SET_EPOCH:
    case GREET_LOAD:
    case GREET_STEPS:
        break;
    }
    if (value->kind == REDIS_KIND_ERROR && g->err.code == ERR_NONE) {
        redis_error_read(value, &g->err);
        if (redis_error_is(value, "NOPERM"))
            g->err.code = ERR_AUTH;
    }
}

static void greet_build(const struct queue_greeting *g, enum step step, struct buffer *out)
{
    switch (step) {
    case GREET_SERVER:
    case GREET_REPLICATION:
        redis_put_array(out, 2);
        redis_put_text(out, "INFO");
        redis_put_text(out, step == GREET_SERVER ? "server" : "replication");
        break;
    case GREET_EPOCH:
        redis_put_array(out, 2);
        redis_put_text(out, "GET");
        put_plain_key(out, g->queue, "epoch", NULL);
        break;
    case GREET_REVISION:
        put_fcall(out, "hie1_revision", 0, 0);
        break;
    case GREET_SET_EPOCH:
        redis_put_array(out, 4);
        redis_put_text(out, "SET");
        put_plain_key(out, g->queue, "epoch", NULL);
        redis_put_text(out, g->offer);
        redis_put_text(out, "NX");
        break;
    case GREET_LOAD:
    case GREET_STEPS:
        build_load(g->queue, NULL, out);
        break;
    }
}

static void on_greeted(struct redis_call *call, const struct err *err, struct redis_reply *reply);

static void greet_send(struct queue_greeting *g, enum step step)
{
    struct buffer *out = redis_link_open(g->queue->commands, library_size());
    if (!out) {
        err_set(&g->err, ERR_UNAVAILABLE, "redis: down");
        return;
    }
    greet_build(g, step, out);
    g->calls[step] = (struct greeting_call){.call = {.done = on_greeted}, .greeting = g};
    g->unanswered++;
    redis_link_send(g->queue->commands, &g->calls[step].call);
}

/* Sends a greeting: `whole` for a connection that came up, else a look at the epoch key only. */
static void greet(struct queue_redis *queue, bool whole)
{
    if (queue->greeting)
        return;
    struct queue_greeting *g = mem_alloc(sizeof(*g));
    g->queue = queue;
    g->whole = whole;
    snprintf(g->offer, sizeof(g->offer), "%016llx%016llx", (unsigned long long)random_u64(),
             (unsigned long long)random_u64());
    if (whole) {
        greet_send(g, GREET_SERVER);
        greet_send(g, GREET_REPLICATION);
        greet_send(g, GREET_REVISION);
    }
    greet_send(g, GREET_EPOCH);
    if (g->unanswered == 0) {
        free(g); /* the link is going down, or has too much to write */
        loop_timer_set(&queue->epoch_timer, EPOCH_MS);
        return;
    }
    queue->greeting = g;
}

/* What the server lacked. */
static void greet_give(struct queue_greeting *g)
{
    if (g->needs_load)
        greet_send(g, GREET_LOAD);
    g->needs_load = false;
    if (g->whole && g->epoch[0] == '\0' && !g->epoch_was_missing) {
        g->epoch_was_missing = true;
        greet_send(g, GREET_SET_EPOCH);
        greet_send(g, GREET_EPOCH); /* another process may have been first */
    }
}

static void greet_known(struct queue_redis *queue, const struct queue_greeting *g)
{
    if (!queue->known || g->epoch_was_missing || strcmp(queue->run_id, g->run_id) != 0 ||
        strcmp(queue->replication_id, g->replication_id) != 0 ||
        strcmp(queue->epoch, g->epoch) != 0)
        queue->fresh = true;
    queue->known = true;
    memcpy(queue->run_id, g->run_id, sizeof(queue->run_id));
    memcpy(queue->replication_id, g->replication_id, sizeof(queue->replication_id));
    memcpy(queue->epoch, g->epoch, sizeof(queue->epoch));
    queue->greeted = true;
}

static void finish_greeting(struct queue_redis *queue, const struct queue_greeting *g)
{
    if (error_class_of(g->err.code) == ERROR_FATAL) {
        tell_fatal(queue, &g->err);
    } else if (g->err.code != ERR_NONE) {
        queue->greeted = false;
        redis_link_reset(queue->commands, &g->err);
    } else if (g->whole) {
        greet_known(queue, g);
        loop_timer_set(&queue->epoch_timer, EPOCH_MS);
        tell_up(queue);
    } else if (strcmp(queue->epoch, g->epoch) != 0) {
        greet(queue, true);
    } else {
        loop_timer_set(&queue->epoch_timer, EPOCH_MS);
    }
}

static void on_greeted(struct redis_call *call, const struct err *err, struct redis_reply *reply)
{
    struct greeting_call *which = (struct greeting_call *)call;
    struct queue_greeting *g = which->greeting;
    struct queue_redis *queue = g->queue;
    g->unanswered--;
    if (err->code != ERR_NONE)
        g->err = *err; /* with the link: the others come as well */
    else
        greet_read(g, (enum step)(which - g->calls), &reply->root);
    if (g->unanswered == 0 && g->err.code == ERR_NONE)
        greet_give(g);
    if (g->unanswered > 0)
        return;
    queue->greeting = NULL;
    finish_greeting(queue, g);
    free(g);
}

static void on_epoch_timer(void *arg)
{
    greet(arg, false);
}

void queue_redis_suspect(struct queue_redis *queue)
{
    loop_timer_set(&queue->epoch_timer, 0);
}

/* ---- the links' events ---- */

static void on_commands_up(void *arg)
{
    greet(arg, true);
}

static void on_commands_down(void *arg, const struct err *err)
{
    struct queue_redis *queue = arg;
    queue->greeted = false;
    loop_timer_cancel(&queue->epoch_timer);
    queue_redis_unregister_all(queue);
    tell_down(queue, err);
}

static void on_wakes_up(void *arg)
{
    tell_up(arg);
}

static void on_wakes_down(void *arg, const struct err *err)
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
static void on_message(void *arg, struct slice message)
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

/* ---- life ---- */

static void start_links(struct queue_redis *queue)
{
    struct redis_link_options commands = {.url = queue->options.url,
                                          .on_up = on_commands_up,
                                          .on_down = on_commands_down,
                                          .on_fatal = tell_fatal,
                                          .arg = queue};
    queue->commands = redis_link_new(queue->loop, &commands);
    if (!queue->options.consumer)
        return;
    char *channel = mem_printf("%s:wake:%s", queue->options.key_prefix, queue->options.consumer);
    struct redis_link_options wakes = {.url = queue->options.url,
                                       .channel = channel,
                                       .on_up = on_wakes_up,
                                       .on_down = on_wakes_down,
                                       .on_fatal = tell_fatal,
                                       .on_message = on_message,
                                       .arg = queue};
    queue->wakes = redis_link_new(queue->loop, &wakes);
    free(channel);
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
    STAILQ_INIT(&queue->deferred);
    loop_task_init(&queue->deferred_task, loop, on_deferred, queue);
    loop_timer_init(&queue->epoch_timer, loop, on_epoch_timer, queue);
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
    redis->commands = redis_link_free(redis->commands);
    on_deferred(redis);
    queue_redis_unregister_all(redis);
    loop_task_done(&redis->deferred_task);
    loop_timer_done(&redis->epoch_timer);
    free((char *)redis->options.url);
    free((char *)redis->options.key_prefix);
    free((char *)redis->options.consumer);
    free(redis);
}
