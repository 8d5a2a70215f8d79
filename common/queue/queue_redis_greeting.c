/* A link that comes up is greeted before operations go out: which server is it (run id, replication id), is our epoch key there,
 * does it have our Functions? An epoch key that is gone or another's means that the data is gone, also when the server
 * and the connection stayed (FLUSHALL); and a program of an earlier revision that started at the same moment may have put its Functions in
 * the place of ours. Both are looked at every EPOCH_MS. */
#include "base/embedded.h"
#include "base/mem.h"
#include "queue/queue_redis.h"

#include <stdio.h>
#include <stdlib.h>

#define EPOCH_MS 2000
#define LOADS_MAX 2u /* in a greeting; the next one goes on */

/* ---- Functions ---- */

static size_t library_len(void)
{
    size_t len = 0;
    for (size_t i = 0; i < redis_functions_count; i++)
        len += redis_functions[i].len;
    return len;
}

size_t queue_redis_library_size(void)
{
    return library_len() + QUEUE_REDIS_HEAD;
}

/* The library is its files, one behind the other. */
void queue_redis_build_load(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    (void)queue;
    (void)arg;
    char *text = mem_alloc(library_len() + 1);
    size_t len = 0;
    for (size_t i = 0; i < redis_functions_count; i++) {
        memcpy(text + len, redis_functions[i].text, redis_functions[i].len);
        len += redis_functions[i].len;
    }
    redis_put_array(out, 4);
    redis_put_text(out, "FUNCTION");
    redis_put_text(out, "LOAD");
    redis_put_text(out, "REPLACE");
    redis_put_bulk(out, slice_of(text, len));
    free(text);
}

/* ---- the questions ---- */

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
    bool whole; /* not only a look at the epoch key and the Functions */
    char run_id[64], replication_id[64], epoch[64], offer[64];
    bool epoch_was_missing, needs_load;
    unsigned loads;
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
        queue_redis_build_load(g->queue, NULL, out);
        break;
    }
}

static void on_greeted(struct redis_call *call, const struct err *err, struct redis_reply *reply);

static void greet_send(struct queue_greeting *g, enum step step)
{
    struct buffer *out = redis_link_open(g->queue->commands, queue_redis_library_size());
    if (!out) {
        err_set(&g->err, ERR_UNAVAILABLE, "redis: down");
        return;
    }
    greet_build(g, step, out);
    g->calls[step] = (struct greeting_call){.call = {.done = on_greeted}, .greeting = g};
    g->unanswered++;
    redis_link_send(g->queue->commands, &g->calls[step].call);
}

void queue_redis_greet(struct queue_redis *queue, bool whole)
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
    }
    greet_send(g, GREET_REVISION);
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
    if (g->needs_load && g->loads < LOADS_MAX) {
        g->loads++;
        greet_send(g, GREET_LOAD);
        greet_send(g, GREET_REVISION); /* an older one may have been faster */
    }
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
        queue_redis_tell_fatal(queue, &g->err);
    } else if (g->err.code != ERR_NONE) {
        queue->greeted = false;
        redis_link_reset(queue->commands, &g->err);
    } else if (g->whole) {
        greet_known(queue, g);
        loop_timer_set(&queue->epoch_timer, EPOCH_MS);
        queue_redis_tell_up(queue);
    } else if (strcmp(queue->epoch, g->epoch) != 0) {
        queue_redis_greet(queue, true);
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

void queue_redis_on_epoch_timer(void *arg)
{
    queue_redis_greet(arg, false);
}

void queue_redis_suspect(struct queue_redis *queue)
{
    loop_timer_set(&queue->epoch_timer, 0);
}
