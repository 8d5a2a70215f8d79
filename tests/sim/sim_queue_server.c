/* What the fake Redis does with the calls of queue.h, and what it tells by itself. */
#include "sim_queue_call.h"

#include "base/mem.h"
#include "sim_check.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const op_words[] = {[OP_ENQUEUE] = "enqueue",
                                       [OP_CLAIM] = "claim",
                                       [OP_CLAIM_AGAIN] = "claim again",
                                       [OP_FETCH] = "fetch",
                                       [OP_TAKEOVER] = "takeover",
                                       [OP_INHERIT] = "inherit",
                                       [OP_PULL] = "pull",
                                       [OP_RENEW] = "renew",
                                       [OP_HAND_BACK] = "hand_back",
                                       [OP_FINISH] = "finish",
                                       [OP_RETRY] = "retry",
                                       [OP_PROMOTE] = "promote",
                                       [OP_BURY] = "bury",
                                       [OP_UNBURY] = "unbury",
                                       [OP_REPLIES] = "replies",
                                       [OP_READ_REPLIES] = "read_replies",
                                       [OP_SLOTS] = "slots",
                                       [OP_DEPTH] = "depth",
                                       [OP_MISSING] = "missing",
                                       [OP_HELD] = "held",
                                       [OP_COUNT_DEATHS] = "count_deaths",
                                       [OP_HEARTBEAT] = "heartbeat",
                                       [OP_LEAVE] = "leave"};

/* ---- a message of Redis's own: a wake signal, or a published reply ---- */

struct told {
    struct sim_call call; /* first */
    struct sim_queue *queue;
    struct queue_name name;
    char item[REDIS_NAME_MAX];
    struct queue_reply reply;
    struct redis_content *content; /* of the reply; NULL: it is a wake signal */
};

static void told_complete(struct sim_call *call, const struct err *err)
{
    struct told *told = (struct told *)call;
    const struct queue_redis_options *options = &told->queue->options;
    if (err->code != ERR_NONE)
        return;
    if (told->content)
        options->on_reply(options->arg, &told->reply);
    else
        options->on_wake(options->arg, told->item, told->name.pattern, told->name.partition);
}

static void told_free(struct sim_call *call)
{
    struct told *told = (struct told *)call;
    redis_content_unref(told->content);
    free(told);
}

static const struct sim_call_ops told_ops = {.complete = told_complete, .free = told_free};

bool sim_queue_wake(const char *consumer, const struct redis_stream *stream)
{
    struct sim_queue *client;
    TAILQ_FOREACH(client, &redis.clients, entry)
    {
        if (!client->link.open || !client->options.consumer ||
            strcmp(client->options.consumer, consumer) != 0)
            continue;
        struct told *told = mem_alloc(sizeof(*told));
        told->queue = client;
        told->name =
            (struct queue_name){.pattern = stream->pattern, .partition = stream->partition};
        snprintf(told->item, sizeof(told->item), "%s", stream->item);
        sim_link_tell(&client->link, &told->call, &told_ops);
        return true;
    }
    return false;
}

static void publish(const char *listener, const struct queue_reply *reply,
                    struct redis_content *content)
{
    struct sim_queue *client;
    TAILQ_FOREACH(client, &redis.clients, entry)
    {
        if (!client->link.open || !client->options.listener ||
            strcmp(client->options.listener, listener) != 0)
            continue;
        struct told *told = mem_alloc(sizeof(*told));
        told->queue = client;
        told->content = redis_content_ref(content);
        told->reply = *reply;
        told->reply.left_out = content->body.len > MESSAGE_INLINE_MAX;
        told->reply.body = told->reply.left_out ? body_of(NULL, 0) : content->body;
        sim_link_tell(&client->link, &told->call, &told_ops);
    }
}

/* ---- calls ---- */

const char *queue_status_word(int64_t status)
{
    static const char *const words[] = {"completed", "dead_lettered", "expired", "cancelled"};
    return words[status];
}

/* The dispatcher's id stands in the content's key, the status in due_ms, the lifetime in at_ms. */
static void execute_replies(struct queue_call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        const struct redis_given *given = &call->given[i];
        struct queue_reply reply = {.id = given->id, .status = queue_status_word(given->due_ms)};
        char listener[96];
        snprintf(listener, sizeof(listener), "%.*s", (int)given->content->key.len,
                 given->content->key.ptr);
        if (listener[0])
            publish(listener, &reply, given->content);
        if (given->at_ms)
            redis_leave_reply(given->id, given->content);
        check_published(call->item, given->id, reply.status, given->content->body);
    }
}

void queue_call_execute(struct sim_call *sim_call)
{
    struct queue_call *call = (struct queue_call *)sim_call;
    sim_say("redis %s %s/%u by %s, %zu", op_words[call->op], call->item, call->name.partition,
            call->client, call->count ? call->count : call->max);
    switch (call->op) {
    case OP_ENQUEUE:
        call->results[0] = redis_enqueue(call->name, call->given, call->count);
        check_admitted_unlogged(call->item, call->results[0]);
        break;
    case OP_CLAIM:
        call->claimed = redis_claim(call->name, call->consumer, call->max, call->wait,
                                    call->looks ? &call->after : NULL);
        break;
    case OP_CLAIM_AGAIN:
        call->claimed =
            redis_claim_again(call->name, call->consumer, call->max - call->before->count);
        break;
    case OP_FETCH:
        call->claimed = redis_fetch(call->name, call->consumer, call->before);
        break;
    case OP_TAKEOVER:
        call->claimed = redis_takeover(call->name, call->consumer, call->numbers[0], call->max);
        break;
    case OP_INHERIT:
        call->claimed = redis_inherit(call->name, call->consumer, call->max);
        break;
    case OP_PULL:
        call->claimed = redis_pull(call->name, call->consumer, call->given, call->count);
        break;
    case OP_RENEW:
        redis_renew(call->name, call->consumer, call->given, call->count);
        break;
    case OP_HAND_BACK:
        redis_hand_back(call->name, call->consumer, call->given, call->count);
        break;
    case OP_FINISH:
        redis_finish(call->name, call->given, call->count);
        break;
    case OP_RETRY:
        redis_retry(call->name, call->consumer, call->given, call->count);
        break;
    case OP_PROMOTE:
        call->results[0] =
            redis_promote(call->name, call->numbers[0], call->max, &call->results[1]);
        break;
    case OP_REPLIES:
        execute_replies(call);
        break;
    case OP_SLOTS:
        call->results[0] =
            redis_slots(call->name, (unsigned)call->max, call->consumer, call->numbers[0],
                        call->numbers[1], call->numbers[2], call->numbers[3], &call->results[1]);
        break;
    case OP_DEPTH:
        call->depth = redis_depth_of(call->name);
        break;
    case OP_MISSING:
    case OP_HELD:
        for (size_t i = 0; i < call->count; i++)
            call->flags[i] = call->op == OP_MISSING
                                 ? redis_is_missing(call->name, call->given[i].id)
                                 : redis_is_held(call->name, call->given[i].id);
        break;
    case OP_COUNT_DEATHS:
        for (size_t i = 0; i < call->count; i++)
            call->deaths[i] = redis_count_death(call->name, call->given[i].id);
        break;
    case OP_LEAVE:
        redis_leave(call->name, call->consumer);
        break;
    case OP_BURY:
    case OP_UNBURY:
    case OP_READ_REPLIES: /* looked at when the answer is there: it is the same */
    case OP_HEARTBEAT:
        break;
    }
    for (size_t i = 0; call->claimed && i < call->claimed->count; i++)
        sim_say("  %s as %s%s", sim_name(call->claimed->entries[i].id),
                call->claimed->entries[i].entry_id,
                call->claimed->entries[i].taken_over ? ", taken over" : "");
}
