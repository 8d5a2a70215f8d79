/* A job's life and what a handler may ask of it (handler.h). */
#include "job.h"

#include "base/arena.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "hl7/message.h"
#include "lane.h"
#include "lane_parts.h"
#include "model/item_class.h"

#include <stdlib.h>

static const char *const state_words[] = {"looking",  "adopting",   "fetching", "running",
                                          "settling", "publishing", "returning"};
static const uint32_t state_moves[] = {
    [JOB_LOOKING] = STATE_BIT(JOB_ADOPTING) | STATE_BIT(JOB_FETCHING) | STATE_BIT(JOB_RUNNING) |
                    STATE_BIT(JOB_SETTLING) | STATE_BIT(JOB_PUBLISHING) | STATE_BIT(JOB_RETURNING),
    [JOB_ADOPTING] = STATE_BIT(JOB_RUNNING) | STATE_BIT(JOB_SETTLING) | STATE_BIT(JOB_RETURNING),
    [JOB_FETCHING] = STATE_BIT(JOB_RUNNING) | STATE_BIT(JOB_SETTLING) | STATE_BIT(JOB_RETURNING),
    [JOB_RUNNING] = STATE_BIT(JOB_SETTLING) | STATE_BIT(JOB_RETURNING),
    [JOB_SETTLING] = STATE_BIT(JOB_PUBLISHING) | STATE_BIT(JOB_LOOKING),
    [JOB_PUBLISHING] = 0,
    [JOB_RETURNING] = 0,
};
static const struct state_table states = {"job", state_words, state_moves, JOB_STATE_COUNT};

struct job *job_new(struct lane *lane, struct queue_claimed *claimed, struct queue_entry *entry,
                    bool taken_over)
{
    struct job *job = mem_alloc(sizeof(*job));
    job->lane = lane;
    job->claimed = claimed;
    queue_claimed_ref(claimed);
    job->entry = entry;
    job->state = JOB_LOOKING;
    job->taken_over = taken_over;
    job->body = entry->body;
    job->claimed_us = clock_mono_us();
    job->outcome.id = entry->id;
    TAILQ_INSERT_TAIL(&lane->jobs, job, link);
    lane->held++;
    lane->starting++;
    return job;
}

void job_free(struct job *job)
{
    struct lane *lane = job->lane;
    bool was_starting =
        job->state == JOB_LOOKING || job->state == JOB_ADOPTING || job->state == JOB_FETCHING;
    TAILQ_REMOVE(&lane->jobs, job, link);
    lane->held--;
    lane->starting -= was_starting;
    lane_fetch_over(job);
    if (job->arena) {
        arena_done(job->arena);
        free(job->arena);
    }
    free(job->fetched);
    free(job->reply);
    free(job->published);
    free(job->outcome.children);
    queue_claimed_unref(job->claimed);
    free(job);
    lane_pump(lane);
}

void job_move(struct job *job, enum job_state to)
{
    struct lane *lane = job->lane;
    enum job_state from = job->state;
    state_move(&states, &job->state, to);
    if (from == JOB_RUNNING) {
        TAILQ_REMOVE(&lane->running, job, running);
        lane->running_count--;
        lane_pump(lane); /* a slot is free */
    }
    bool was_starting = from == JOB_LOOKING || from == JOB_ADOPTING || from == JOB_FETCHING;
    bool is_starting = to == JOB_LOOKING || to == JOB_ADOPTING || to == JOB_FETCHING;
    lane->starting += is_starting;
    lane->starting -= was_starting;
    if (to == JOB_RUNNING) {
        TAILQ_INSERT_TAIL(&lane->running, job, running);
        lane->running_count++;
    }
}

struct body job_body(const struct job *job)
{
    return job->body;
}

struct slice job_content_type(const struct job *job)
{
    return job->meta.content_type;
}

struct uuid job_id(const struct job *job)
{
    return job->entry->id;
}

const struct item *job_item(const struct job *job)
{
    return job->lane->item;
}

int job_attempt(const struct job *job)
{
    return job->outcome.attempt;
}

void job_set_data(struct job *job, void *data)
{
    job->handler_data = data;
}

void *job_data(const struct job *job)
{
    return job->handler_data;
}

static bool is_own_body(const struct job *job, const char *ptr, size_t len)
{
    return ptr == job->body.ptr && len == job->body.len;
}

static void read_summary(struct arena *arena, struct store_message *child)
{
    struct hl7_message message;
    struct err err;
    if (hl7_parse(body_slice(child->body), &message, &err))
        return;
    struct hl7_summary *summary = arena_alloc(arena, sizeof(*summary));
    hl7_summary(&message, summary);
    child->control_id = slice_text(summary->control_id);
    child->message_type = slice_text(summary->message_type);
    child->sender = slice_text(summary->sender);
    hl7_done(&message);
}

void job_send(struct job *job, const struct item *target, struct slice content_type,
              struct body body)
{
    BUG_ON(job->state != JOB_RUNNING);
    struct store_outcome *outcome = &job->outcome;
    if (!job->arena) {
        job->arena = mem_alloc(sizeof(*job->arena));
        arena_init(job->arena);
    }
    if (outcome->child_count == job->child_capacity) {
        job->child_capacity = job->child_capacity ? job->child_capacity * 2 : 2;
        outcome->children =
            mem_resize(outcome->children, job->child_capacity, sizeof(*outcome->children));
    }
    struct store_message *child = &outcome->children[outcome->child_count];
    *child = (struct store_message){
        .id = uuid_child(outcome->id, (uint32_t)outcome->run, 0, (uint32_t)outcome->child_count),
        .parent = outcome->id,
        .item = target->id,
        .pattern = target->messaging_pattern,
        .direction = target->class->outbound ? DIRECTION_OUTBOUND : DIRECTION_INTERNAL,
        .priority = job->entry->priority,
        .ordering_key = job->entry->key,
        .content_type = arena_copy(job->arena, content_type),
    };
    if (is_own_body(job, body.ptr, body.len)) {
        child->body = job->body;
        if (outcome->child_count) { /* the header of the same bytes was read for the first */
            child->control_id = outcome->children[0].control_id;
            child->message_type = outcome->children[0].message_type;
            child->sender = outcome->children[0].sender;
        }
    } else {
        struct slice copy = arena_copy(job->arena, body_slice(body));
        child->body = body_of(copy.ptr, copy.len);
    }
    if (!child->control_id.ptr)
        read_summary(job->arena, child);
    char packed[META_PACKED_MAX];
    struct buffer meta = {.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    meta_pack(&(struct meta){.content_type = content_type,
                             .traceparent = job->meta.traceparent,
                             .parent = outcome->id,
                             .in_wal = true,
                             .stored = body.len > MESSAGE_INLINE_MAX},
              &meta);
    child->meta = arena_copy(job->arena, buffer_slice(&meta));
    outcome->child_count++;
}

void job_done(struct job *job, struct slice content_type, struct slice reply)
{
    BUG_ON(job->state != JOB_RUNNING);
    struct store_outcome *outcome = &job->outcome;
    outcome->end = STORE_COMPLETED;
    if (is_own_body(job, reply.ptr, reply.len)) {
        outcome->reply = reply;
        job->reply = mem_strndup(content_type.ptr, content_type.len);
        outcome->reply_content_type = slice_of(job->reply, content_type.len);
    } else {
        job->reply = mem_alloc(reply.len + content_type.len + 1);
        if (reply.len)
            memcpy(job->reply, reply.ptr, reply.len);
        if (content_type.len)
            memcpy(job->reply + reply.len, content_type.ptr, content_type.len);
        outcome->reply = slice_of(job->reply, reply.len);
        outcome->reply_content_type = slice_of(job->reply + reply.len, content_type.len);
    }
    lane_ended(job);
}

void job_fail(struct job *job, const struct err *error)
{
    BUG_ON(job->state != JOB_RUNNING);
    lane_failed(job, error);
}
