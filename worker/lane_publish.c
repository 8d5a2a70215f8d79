/* After the end: children enter their queues, the reply its key, a dead letter its mirror; then the entry is
 * finished. Each of these may be repeated, and whoever takes over a job that died here repeats them. While Redis is away
 * they wait. */
#include "lane_parts.h"

#include "base/arena.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

#define AGAIN_MS 200
#define TRIES_MAX 10u         /* of what is given up then */
#define RETURN_REST_US 500000 /* so that what cannot start now is not claimed in a circle */
#define REPLY_TTL_MS 60000    /* where a sender asked for the reply and its item leaves none */

static struct job *job_of(struct batch_item *item)
{
    return (struct job *)((char *)item - offsetof(struct job, batch));
}

static struct job_child *child_of(struct batch_item *item)
{
    return (struct job_child *)((char *)item - offsetof(struct job_child, batch));
}

/* A batch of one of the four kinds under way. */
struct publication {
    struct lane *lane;
    struct batcher *batcher;
    size_t count;
    struct batch_item *items[QUEUE_BATCH_MAX];
    union {
        struct queue_entry entries[QUEUE_BATCH_MAX];
        const struct queue_entry *entry_pointers[QUEUE_BATCH_MAX];
        struct queue_retry retries[QUEUE_BATCH_MAX];
        struct queue_dead dead[QUEUE_BATCH_MAX];
    };
};

static struct publication *new_publication(struct lane *lane, struct batcher *batcher,
                                           struct batch_item **items, size_t count)
{
    struct publication *publication = malloc(sizeof(*publication));
    BUG_ON(!publication);
    publication->lane = lane;
    publication->batcher = batcher;
    publication->count = count;
    memcpy(publication->items, items, count * sizeof(*items));
    return publication;
}

/* False: it failed; its items wait for the next try. What others can do instead is given up after some tries, so that a key of the
 * wrong type or a full Redis does not stop the lane: the reconciler brings children, the mirror of dead letters is only a
 * mirror. */
static bool went_well(struct publication *publication, const struct err *err)
{
    struct lane *lane = publication->lane;
    bool mirror = publication->batcher == &lane->buried;
    bool dispensable =
        mirror || (publication->batcher == &lane->children && lane->failures >= TRIES_MAX);
    worker_note(lane->worker, &lane->worker->publish_trouble, err);
    if (err->code == ERR_NONE) {
        lane->failures = 0;
        return true;
    }
    lane->failures++;
    if (lane->worker->queue_up && dispensable)
        return true;
    batcher_hold(publication->batcher, true);
    for (size_t i = publication->count; i-- > 0;)
        batcher_put_back(publication->batcher, publication->items[i]);
    loop_timer_set(&lane->again, AGAIN_MS);
    return false;
}

static void end_publication(struct publication *publication)
{
    batcher_done(publication->batcher);
    free(publication);
}

static void published(struct job *job)
{
    BUG_ON(job->unpublished == 0);
    if (--job->unpublished == 0)
        batcher_add(&job->lane->settled, &job->batch, 0);
}

/* ---- finish, retry, hand back ---- */

static void on_job_batch_done(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    bool well = went_well(publication, err);
    for (size_t i = 0; well && i < publication->count; i++)
        job_free(job_of(publication->items[i]));
    end_publication(publication);
}

static void start_finish(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->settled, items, count);
    for (size_t i = 0; i < count; i++)
        publication->entry_pointers[i] = job_of(items[i])->entry;
    lane->worker->queue->ops->finish(lane->worker->queue, lane->name, publication->entry_pointers,
                                     count, on_job_batch_done, publication);
}

static void on_retried(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    for (size_t i = 0; err->code == ERR_NONE && i < publication->count; i++)
        lane_promote_at(publication->lane, job_of(publication->items[i])->outcome.due_ms);
    on_job_batch_done(arg, err);
}

static void start_retry(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->retried, items, count);
    for (size_t i = 0; i < count; i++) {
        struct job *job = job_of(items[i]);
        publication->retries[i] =
            (struct queue_retry){.id = job->entry->id, .due_ms = job->outcome.due_ms};
        memcpy(publication->retries[i].entry_id, job->entry->entry_id,
               sizeof(job->entry->entry_id));
    }
    lane->worker->queue->ops->retry(lane->worker->queue, lane->name, publication->retries, count,
                                    on_retried, publication);
}

static void start_return(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->returned, items, count);
    for (size_t i = 0; i < count; i++)
        publication->entry_pointers[i] = job_of(items[i])->entry;
    lane->worker->queue->ops->hand_back(lane->worker->queue, lane->name, lane->worker->id,
                                        publication->entry_pointers, count, on_job_batch_done,
                                        publication);
}

void lane_return(struct job *job)
{
    job->lane->not_before_us = clock_mono_us() + RETURN_REST_US;
    job_move(job, JOB_RETURNING);
    batcher_add(&job->lane->returned, &job->batch, 0);
}

/* ---- children, for the lane of their item ---- */

static void on_children(void *arg, const struct err *err, int64_t depth)
{
    struct publication *publication = arg;
    (void)depth;
    bool well = went_well(publication, err);
    for (size_t i = 0; well && i < publication->count; i++)
        published(child_of(publication->items[i])->parent);
    end_publication(publication);
}

static void start_children(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->children, items, count);
    for (size_t i = 0; i < count; i++)
        publication->entries[i] = child_of(items[i])->entry;
    lane->worker->queue->ops->enqueue(lane->worker->queue, lane->name, publication->entries, count,
                                      on_children, publication);
}

static struct queue_entry entry_of(const struct store_message *message)
{
    bool inline_body = message->body.len <= MESSAGE_INLINE_MAX;
    return (struct queue_entry){.id = message->id,
                                .at_ms = message->received_us / 1000,
                                .priority = message->priority,
                                .key = message->ordering_key,
                                .meta = message->meta,
                                .body = inline_body ? message->body : body_of(NULL, 0)};
}

static void publish_child(struct job *job, size_t at, const struct store_message *message)
{
    struct job_child *child = &job->published[at];
    child->parent = job;
    child->entry = entry_of(message);
    job->unpublished++;
    batcher_add(&worker_lane(job->lane->worker, message->item)->children, &child->batch,
                message->body.len);
}

/* ---- replies and dead letters ---- */

static void on_replied(void *arg, const struct err *err)
{
    (void)err; /* while Redis is away the store has the reply */
    published(arg);
}

static void publish_reply(struct job *job, struct slice reply)
{
    struct lane *lane = job->lane;
    int64_t ttl_ms = lane->item->reply_ttl_ms ? lane->item->reply_ttl_ms : REPLY_TTL_MS;
    job->unpublished++;
    lane->worker->queue->ops->reply(lane->worker->queue, lane->item->id, job->entry->id, reply,
                                    ttl_ms, on_replied, job);
}

static void on_buried(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    bool well = went_well(publication, err);
    for (size_t i = 0; well && i < publication->count; i++)
        published(job_of(publication->items[i]));
    end_publication(publication);
}

/* The mirror is to be looked at: a large body is in the store. */
static struct body mirrored(struct body body)
{
    return body.len <= MESSAGE_INLINE_MAX ? body : body_of(NULL, 0);
}

static void start_bury(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->buried, items, count);
    for (size_t i = 0; i < count; i++) {
        struct job *job = job_of(items[i]);
        publication->dead[i] = (struct queue_dead){.id = job->entry->id,
                                                   .at_ms = job->outcome.finished_us / 1000,
                                                   .attempts = job->outcome.attempt,
                                                   .error = job->error,
                                                   .meta = job->entry->meta,
                                                   .body = mirrored(job->entry->body)};
    }
    lane->worker->queue->ops->bury(lane->worker->queue, lane->item->id, publication->dead, count,
                                   on_buried, publication);
}

/* ---- what was settled ---- */

static void count_end(struct job *job)
{
    struct lane *lane = job->lane;
    const struct store_outcome *outcome = &job->outcome;
    if (outcome->end == STORE_RETRY) {
        metric_add(lane->metrics.retried, 1);
        log_debug("retrying", LOG_ID(outcome->id), LOG_WORD("item", lane->item->id),
                  LOG_INT("attempt", outcome->attempt), LOG_WORD("reason", job->error));
        return;
    }
    if (outcome->end == STORE_DEAD_LETTERED)
        log_warn("dead_lettered", LOG_ID(outcome->id), LOG_WORD("item", lane->item->id),
                 LOG_INT("attempt", outcome->attempt), LOG_WORD("reason", job->error));
    metric_add(lane->metrics.completed[outcome->end], 1);
    int64_t ms = clock_wall_ms() - job->entry->at_ms;
    histogram_observe(lane->metrics.end_to_end_seconds, ms > 0 ? ms * 1000 : 0);
}

/* Another claim has the message: the entry is its holder's, and is found by its idle time if that one is gone. */
void lane_superseded(struct job *job)
{
    metric_add(job->lane->metrics.superseded, 1);
    log_info("superseded", LOG_ID(job->entry->id), LOG_WORD("item", job->lane->item->id),
             LOG_INT("attempt", job->outcome.attempt));
    job_free(job);
}

void lane_settled(struct job *job)
{
    struct store_outcome *outcome = &job->outcome;
    if (outcome->error_code != ERR_NONE && outcome->end == STORE_COMPLETED) {
        lane_refused(job);
        return;
    }
    if (!outcome->recorded && job->settle_repeated && outcome->end != STORE_RETRY) {
        job_move(job, JOB_LOOKING); /* it may have been recorded by the try whose answer was lost */
        lane_look_up(job->lane, &job, 1, false);
        return;
    }
    if (!outcome->recorded) {
        lane_superseded(job);
        return;
    }
    job_move(job, JOB_PUBLISHING);
    count_end(job);
    if (outcome->end == STORE_RETRY) {
        batcher_add(&job->lane->retried, &job->batch, 0);
        return;
    }
    job->unpublished = 1; /* our own, so that it is not finished under our hands */
    job->published = mem_array(outcome->child_count, sizeof(*job->published));
    for (size_t i = 0; i < outcome->child_count; i++)
        publish_child(job, i, &outcome->children[i]);
    if (outcome->end == STORE_DEAD_LETTERED) {
        job->unpublished++;
        batcher_add(&job->lane->buried, &job->batch, job->entry->body.len);
    } else if (job->meta.reply || job->lane->item->reply_ttl_ms) {
        publish_reply(job, outcome->reply);
    }
    published(job);
}

/* ---- jobs whose end was recorded before ---- */

struct ended_batch {
    size_t count;
    struct job *jobs[QUEUE_BATCH_MAX];
    struct uuid ids[QUEUE_BATCH_MAX];
};

static void on_ended_reply(void *arg, const struct err *err, struct body body,
                           struct slice content_type, bool found)
{
    struct job *job = arg;
    (void)content_type;
    if (err->code == ERR_NONE && found) {
        job->reply = mem_strndup(body.ptr, body.len);
        publish_reply(job, slice_of(job->reply, body.len));
    }
    published(job);
}

/* Copies the row's bytes, which are the callback's. */
static void copy_child(struct job *job, size_t at, const struct store_message *row)
{
    struct store_message message = *row;
    if (!job->arena) {
        job->arena = mem_alloc(sizeof(*job->arena));
        arena_init(job->arena);
    }
    message.ordering_key = arena_copy(job->arena, row->ordering_key);
    message.meta = arena_copy(job->arena, row->meta);
    struct slice body = arena_copy(job->arena, body_slice(row->body));
    message.body = body_of(body.ptr, body.len);
    publish_child(job, at, &message);
}

static void publish_again(struct job *job, const struct store_unfinished *rows, size_t count)
{
    size_t own = 0;
    for (size_t i = 0; i < count; i++)
        own += uuid_equal(rows[i].message.parent, job->entry->id);
    job->unpublished = 1;
    job->published = mem_array(own, sizeof(*job->published));
    for (size_t i = 0, at = 0; i < count; i++) {
        bool left_out = rows[i].message.body.len == 0 && rows[i].body_len > 0 &&
                        rows[i].body_len <= MESSAGE_INLINE_MAX; /* the reconciler brings it */
        if (uuid_equal(rows[i].message.parent, job->entry->id) && !left_out &&
            worker_lane(job->lane->worker, rows[i].message.item))
            copy_child(job, at++, &rows[i].message);
    }
    struct store *store = job->lane->worker->store;
    if (job->meta.reply || job->lane->item->reply_ttl_ms)
        store->ops->reply(store, job->entry->id, on_ended_reply, job);
    else
        published(job);
}

static void on_ended_children(void *arg, const struct err *err, const struct store_unfinished *rows,
                              size_t count)
{
    struct ended_batch *batch = arg;
    for (size_t i = 0; i < batch->count; i++) {
        struct job *job = batch->jobs[i];
        if (err->code != ERR_NONE)
            lane_return(job);
        else {
            job_move(job, JOB_PUBLISHING);
            publish_again(job, rows, count);
        }
    }
    free(batch);
}

void lane_publish_ended(struct lane *lane, struct job **jobs, size_t count)
{
    struct ended_batch *batch = mem_alloc(sizeof(*batch));
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        batch->jobs[i] = jobs[i];
        batch->ids[i] = jobs[i]->entry->id;
    }
    lane->worker->store->ops->children(lane->worker->store, batch->ids, count, on_ended_children,
                                       batch);
}

/* ---- life ---- */

static void on_again(void *arg)
{
    struct lane *lane = arg;
    lane_publish_hold(lane, !lane->worker->queue_up);
}

void lane_publish_init(struct lane *lane)
{
    struct {
        struct batcher *batcher;
        void (*start)(void *, struct batch_item **, size_t);
    } const kinds[] = {{&lane->settled, start_finish},
                       {&lane->retried, start_retry},
                       {&lane->returned, start_return},
                       {&lane->children, start_children},
                       {&lane->buried, start_bury}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        batcher_init(kinds[i].batcher, lane->worker->loop, QUEUE_BATCH_MAX, STORE_BATCH_BYTES,
                     kinds[i].start, lane);
        batcher_hold(kinds[i].batcher, true);
    }
    loop_timer_init(&lane->again, lane->worker->loop, on_again, lane);
}

void lane_publish_done(struct lane *lane)
{
    batcher_free(&lane->settled);
    batcher_free(&lane->retried);
    batcher_free(&lane->returned);
    batcher_free(&lane->children);
    batcher_free(&lane->buried);
    loop_timer_done(&lane->again);
}

void lane_publish_hold(struct lane *lane, bool held)
{
    batcher_hold(&lane->settled, held);
    batcher_hold(&lane->retried, held);
    batcher_hold(&lane->returned, held);
    batcher_hold(&lane->children, held);
    batcher_hold(&lane->buried, held);
}
