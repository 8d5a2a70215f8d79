/* After the end: children enter their queues, the reply its key, a dead letter its mirror; then the entry is
 * finished. Each of these may be repeated, and whoever takes over a claim that died here repeats them. While Redis is away
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

static struct claim *claim_of(struct batch_item *item)
{
    return (struct claim *)((char *)item - offsetof(struct claim, batch));
}

static struct claim_child *child_of(struct batch_item *item)
{
    return (struct claim_child *)((char *)item - offsetof(struct claim_child, batch));
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

static void published(struct claim *claim)
{
    BUG_ON(claim->unpublished == 0);
    if (--claim->unpublished == 0)
        batcher_add(&claim->lane->settled, &claim->batch, 0);
}

/* ---- finish, retry, hand back ---- */

static void on_claim_batch_done(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    bool well = went_well(publication, err);
    for (size_t i = 0; well && i < publication->count; i++)
        claim_free(claim_of(publication->items[i]));
    end_publication(publication);
}

static void start_finish(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->settled, items, count);
    for (size_t i = 0; i < count; i++)
        publication->entry_pointers[i] = claim_of(items[i])->entry;
    lane->worker->queue->ops->finish(lane->worker->queue, lane->name, publication->entry_pointers,
                                     count, on_claim_batch_done, publication);
}

static void on_retried(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    for (size_t i = 0; err->code == ERR_NONE && i < publication->count; i++)
        lane_promote_at(publication->lane, claim_of(publication->items[i])->outcome.due_ms);
    on_claim_batch_done(arg, err);
}

static void start_retry(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->retried, items, count);
    for (size_t i = 0; i < count; i++) {
        struct claim *claim = claim_of(items[i]);
        publication->retries[i] =
            (struct queue_retry){.id = claim->entry->id, .due_ms = claim->outcome.due_ms};
        memcpy(publication->retries[i].entry_id, claim->entry->entry_id,
               sizeof(claim->entry->entry_id));
    }
    lane->worker->queue->ops->retry(lane->worker->queue, lane->name, publication->retries, count,
                                    on_retried, publication);
}

static void start_return(void *arg, struct batch_item **items, size_t count)
{
    struct lane *lane = arg;
    struct publication *publication = new_publication(lane, &lane->returned, items, count);
    for (size_t i = 0; i < count; i++)
        publication->entry_pointers[i] = claim_of(items[i])->entry;
    lane->worker->queue->ops->hand_back(lane->worker->queue, lane->name, lane->worker->id,
                                        publication->entry_pointers, count, on_claim_batch_done,
                                        publication);
}

void lane_return(struct claim *claim)
{
    claim->lane->not_before_us = clock_mono_us() + RETURN_REST_US;
    claim_move(claim, CLAIM_RETURNING);
    batcher_add(&claim->lane->returned, &claim->batch, 0);
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

static void publish_child(struct claim *claim, size_t at, const struct store_message *message)
{
    struct claim_child *child = &claim->published[at];
    child->parent = claim;
    child->entry = entry_of(message);
    claim->unpublished++;
    batcher_add(&worker_lane(claim->lane->worker, message->item)->children, &child->batch,
                message->body.len);
}

/* ---- replies and dead letters ---- */

static void on_replied(void *arg, const struct err *err)
{
    (void)err; /* while Redis is away the store has the reply */
    published(arg);
}

static void publish_reply(struct claim *claim, struct slice reply)
{
    struct lane *lane = claim->lane;
    int64_t ttl_ms = lane->item->reply_ttl_ms ? lane->item->reply_ttl_ms : REPLY_TTL_MS;
    claim->unpublished++;
    lane->worker->queue->ops->reply(lane->worker->queue, lane->item->id, claim->entry->id, reply,
                                    ttl_ms, on_replied, claim);
}

static void on_buried(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    bool well = went_well(publication, err);
    for (size_t i = 0; well && i < publication->count; i++)
        published(claim_of(publication->items[i]));
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
        struct claim *claim = claim_of(items[i]);
        publication->dead[i] = (struct queue_dead){.id = claim->entry->id,
                                                   .at_ms = claim->outcome.finished_us / 1000,
                                                   .attempts = claim->outcome.attempt,
                                                   .error = claim->error,
                                                   .meta = claim->entry->meta,
                                                   .body = mirrored(claim->entry->body)};
    }
    lane->worker->queue->ops->bury(lane->worker->queue, lane->item->id, publication->dead, count,
                                   on_buried, publication);
}

/* ---- what was settled ---- */

static void count_end(struct claim *claim)
{
    struct lane *lane = claim->lane;
    const struct store_outcome *outcome = &claim->outcome;
    if (outcome->end == STORE_RETRY) {
        metric_add(lane->metrics.retried, 1);
        log_debug("retrying", LOG_ID(outcome->id), LOG_WORD("item", lane->item->id),
                  LOG_INT("attempt", outcome->attempt), LOG_WORD("reason", claim->error));
        return;
    }
    if (outcome->end == STORE_DEAD_LETTERED)
        log_warn("dead_lettered", LOG_ID(outcome->id), LOG_WORD("item", lane->item->id),
                 LOG_INT("attempt", outcome->attempt), LOG_WORD("reason", claim->error));
    metric_add(lane->metrics.completed[outcome->end], 1);
    int64_t ms = clock_wall_ms() - claim->entry->at_ms;
    histogram_observe(lane->metrics.end_to_end_seconds, ms > 0 ? ms * 1000 : 0);
}

/* Another claim has the message: the entry is its holder's, and is found by its idle time if that one is gone. */
void lane_superseded(struct claim *claim)
{
    metric_add(claim->lane->metrics.superseded, 1);
    log_info("superseded", LOG_ID(claim->entry->id), LOG_WORD("item", claim->lane->item->id),
             LOG_INT("attempt", claim->outcome.attempt));
    claim_free(claim);
}

void lane_settled(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    if (outcome->error_code != ERR_NONE && outcome->end == STORE_COMPLETED) {
        lane_refused(claim);
        return;
    }
    if (!outcome->recorded && claim->settle_repeated && outcome->end != STORE_RETRY) {
        claim_move(claim,
                   CLAIM_LOOKING); /* it may have been recorded by the try whose answer was lost */
        lane_look_up(claim->lane, &claim, 1, false);
        return;
    }
    if (!outcome->recorded) {
        lane_superseded(claim);
        return;
    }
    claim_move(claim, CLAIM_PUBLISHING);
    count_end(claim);
    if (outcome->end == STORE_RETRY) {
        batcher_add(&claim->lane->retried, &claim->batch, 0);
        return;
    }
    claim->unpublished = 1; /* our own, so that it is not finished under our hands */
    claim->published = mem_array(outcome->child_count, sizeof(*claim->published));
    for (size_t i = 0; i < outcome->child_count; i++)
        publish_child(claim, i, &outcome->children[i]);
    if (outcome->end == STORE_DEAD_LETTERED) {
        claim->unpublished++;
        batcher_add(&claim->lane->buried, &claim->batch, claim->entry->body.len);
    } else if (claim->meta.reply || claim->lane->item->reply_ttl_ms) {
        publish_reply(claim, outcome->reply);
    }
    published(claim);
}

/* ---- claims whose end was recorded before ---- */

struct ended_batch {
    size_t count;
    struct claim *claims[QUEUE_BATCH_MAX];
    struct uuid ids[QUEUE_BATCH_MAX];
};

static void on_ended_reply(void *arg, const struct err *err, struct body body,
                           struct slice content_type, bool found)
{
    struct claim *claim = arg;
    (void)content_type;
    if (err->code == ERR_NONE && found) {
        claim->stored_reply = mem_strndup(body.ptr, body.len);
        publish_reply(claim, slice_of(claim->stored_reply, body.len));
    }
    published(claim);
}

/* Copies the row's bytes, which are the callback's. */
static void copy_child(struct claim *claim, size_t at, const struct store_message *row)
{
    struct store_message message = *row;
    message.ordering_key = arena_copy(&claim->job.arena, row->ordering_key);
    message.meta = arena_copy(&claim->job.arena, row->meta);
    struct slice body = arena_copy(&claim->job.arena, body_slice(row->body));
    message.body = body_of(body.ptr, body.len);
    publish_child(claim, at, &message);
}

static void publish_again(struct claim *claim, const struct store_unfinished *rows, size_t count)
{
    size_t own = 0;
    for (size_t i = 0; i < count; i++)
        own += uuid_equal(rows[i].message.parent, claim->entry->id);
    claim->unpublished = 1;
    claim->published = mem_array(own, sizeof(*claim->published));
    for (size_t i = 0, at = 0; i < count; i++) {
        bool left_out = rows[i].message.body.len == 0 && rows[i].body_len > 0 &&
                        rows[i].body_len <= MESSAGE_INLINE_MAX; /* the reconciler brings it */
        if (uuid_equal(rows[i].message.parent, claim->entry->id) && !left_out &&
            worker_lane(claim->lane->worker, rows[i].message.item))
            copy_child(claim, at++, &rows[i].message);
    }
    struct store *store = claim->lane->worker->store;
    if (claim->meta.reply || claim->lane->item->reply_ttl_ms)
        store->ops->reply(store, claim->entry->id, on_ended_reply, claim);
    else
        published(claim);
}

static void on_ended_children(void *arg, const struct err *err, const struct store_unfinished *rows,
                              size_t count)
{
    struct ended_batch *batch = arg;
    for (size_t i = 0; i < batch->count; i++) {
        struct claim *claim = batch->claims[i];
        if (err->code != ERR_NONE)
            lane_return(claim);
        else {
            claim_move(claim, CLAIM_PUBLISHING);
            publish_again(claim, rows, count);
        }
    }
    free(batch);
}

void lane_publish_ended(struct lane *lane, struct claim **claims, size_t count)
{
    struct ended_batch *batch = mem_alloc(sizeof(*batch));
    batch->count = count;
    for (size_t i = 0; i < count; i++) {
        batch->claims[i] = claims[i];
        batch->ids[i] = claims[i]->entry->id;
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
