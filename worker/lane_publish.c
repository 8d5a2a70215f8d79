/* After the end: children enter their queues, who waits gets the reply, a dead letter its mirror; then the entry is finished. Each of
 * these may be repeated, and whoever takes over a claim that died here repeats them. While Redis is away they wait. */
#include "lane_parts.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

#define RETURN_REST_US 500000 /* so that what cannot start now is not claimed in a circle */
#define REPLY_TTL_MS 60000    /* where a sender asked for the reply and its item leaves none */

static const char *const end_words[] = {[STORE_COMPLETED] = "completed",
                                        [STORE_DEAD_LETTERED] = "dead_lettered",
                                        [STORE_EXPIRED] = "expired",
                                        [STORE_CANCELLED] = "cancelled"};

void lane_published(struct claim *claim)
{
    BUG_ON(claim->unpublished == 0);
    if (--claim->unpublished == 0)
        batcher_add(&claim->lane->batches[BATCH_FINISH], &claim->batch, 0);
}

void lane_return(struct claim *claim)
{
    claim->lane->not_before_us = clock_mono_us() + RETURN_REST_US;
    claim_move(claim, CLAIM_RETURNING);
    lane_fetch_over(claim);
    lane_gap(claim);
    lane_turn_over(claim);
    batcher_add(&claim->lane->batches[BATCH_RETURN], &claim->batch, 0);
}

/* ---- children ---- */

static void publish_child(struct claim *claim, size_t at, const struct store_message *message)
{
    struct worker *worker = claim->lane->worker;
    struct lane *lane = claim->unrecorded
                            ? worker_last_route(worker, message->item, message->version)
                            : worker_route(worker, message->item, message->version);
    if (!lane)
        return; /* it waits in the WAL: for its queue to open, or for its item to come back */
    struct claim_child *child = &claim->published[at];
    bool inline_body = message->body.len <= MESSAGE_INLINE_MAX;
    child->parent = claim;
    child->partition = message->partition > 0 ? (unsigned)message->partition : 0;
    child->entry = (struct queue_entry){.id = message->id,
                                        .at_ms = message->received_us / 1000,
                                        .priority = message->priority,
                                        .key = message->ordering_key,
                                        .meta = message->meta,
                                        .body = inline_body ? message->body : body_of(NULL, 0)};
    claim->unpublished++;
    batcher_add(&lane->batches[BATCH_CHILDREN], &child->batch, message->body.len);
}

static void publish_children(struct claim *claim)
{
    claim->published = mem_array(claim->child_count, sizeof(*claim->published));
    for (size_t i = 0; i < claim->child_count; i++)
        publish_child(claim, i, &claim->children[i]);
}

/* ---- replies ---- */

static bool wants_reply(const struct claim *claim, enum store_end end)
{
    bool key = claim->meta.reply || claim->lane->item->reply_ttl_ms;
    return claim->meta.reply_to.len || (end == STORE_COMPLETED && key);
}

static void publish_reply(struct claim *claim, enum store_end end, struct slice content_type,
                          struct slice reply)
{
    int64_t ttl_ms = claim->lane->item->reply_ttl_ms;
    if (ttl_ms == 0 && claim->meta.reply)
        ttl_ms = REPLY_TTL_MS;
    claim->reply = (struct queue_reply){.id = claim->entry->id,
                                        .status = end_words[end],
                                        .error = end == STORE_COMPLETED ? NULL : claim->error,
                                        .content_type = content_type,
                                        .body = body_of(reply.ptr, reply.len),
                                        .to = claim->meta.reply_to,
                                        .ttl_ms = end == STORE_COMPLETED ? ttl_ms : 0};
    claim->unpublished++;
    batcher_add(&claim->lane->batches[BATCH_REPLY], &claim->reply_batch, reply.len);
}

/* ---- dead letters ---- */

static void mirror(struct claim *claim)
{
    claim->unpublished++;
    batcher_add(&claim->lane->batches[BATCH_BURY], &claim->batch, claim->entry->body.len);
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

static void publish(struct claim *claim)
{
    const struct store_outcome *outcome = &claim->outcome;
    claim_move(claim, CLAIM_PUBLISHING);
    lane_turn_over(claim);
    claim->unpublished = 1; /* our own, so that it is not finished under our hands */
    publish_children(claim);
    if (outcome->end == STORE_DEAD_LETTERED)
        mirror(claim);
    if (wants_reply(claim, outcome->end))
        publish_reply(claim, outcome->end, outcome->reply_content_type, outcome->reply);
    lane_published(claim);
}

void lane_recorded(struct claim *claim)
{
    count_end(claim);
    if (claim->outcome.end != STORE_RETRY) {
        publish(claim);
    } else if (claim->part) {
        lane_wait(claim);
    } else {
        claim_move(claim, CLAIM_PUBLISHING);
        batcher_add(&claim->lane->batches[BATCH_RETRY], &claim->batch, 0);
    }
}

void lane_settled(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    bool can_leave_out = outcome->end == STORE_COMPLETED || outcome->message;
    if (outcome->error_code != ERR_NONE && can_leave_out) {
        lane_refused(claim);
    } else if (outcome->recorded) {
        lane_recorded(claim);
    } else if (claim->part || claim->settle_repeated) {
        lane_look_again(claim);
    } else {
        lane_superseded(claim);
    }
}

/* ---- claims whose end was recorded before: what it says is published again ---- */

struct ended_batch {
    size_t count;
    struct claim *claims[QUEUE_BATCH_MAX];
    struct uuid ids[QUEUE_BATCH_MAX];
};

static void on_ended_reply(void *arg, const struct err *err, struct body body,
                           struct slice content_type, bool found)
{
    struct claim *claim = arg;
    if (err->code == ERR_NONE && found) {
        struct slice type = arena_copy(&claim->job.arena, content_type);
        struct slice reply = arena_copy(&claim->job.arena, body_slice(body));
        publish_reply(claim, STORE_COMPLETED, type, reply);
    }
    lane_published(claim);
}

/* It ended otherwise than well. */
static void publish_bad_end(struct claim *claim, enum store_end end,
                            const struct store_record *record)
{
    snprintf(claim->error, sizeof(claim->error), "%s", record->error ? record->error : "");
    claim->outcome.attempt = record->attempts;
    claim->outcome.finished_us = record->finished_us;
    if (wants_reply(claim, end))
        publish_reply(claim, end, slice_of(NULL, 0), slice_of(NULL, 0));
    if (end == STORE_DEAD_LETTERED)
        mirror(claim);
}

static enum store_end end_of(const struct store_record *record)
{
    enum store_end end = STORE_COMPLETED;
    while (end < STORE_RETRY && strcmp(record->state, end_words[end]) != 0)
        end++;
    return end; /* STORE_RETRY: it was redriven meanwhile */
}

static void on_ended_found(void *arg, const struct err *err, const struct store_record *record)
{
    struct claim *claim = arg;
    struct store *store = claim->lane->worker->store;
    enum store_end end =
        err->code == ERR_NONE && record ? end_of(record) : STORE_RETRY; /* not known */
    if (end == STORE_COMPLETED && wants_reply(claim, end)) {
        store->ops->reply(store, claim->entry->id, on_ended_reply, claim);
    } else {
        if (end != STORE_COMPLETED && end != STORE_RETRY)
            publish_bad_end(claim, end, record);
        lane_published(claim); /* where nothing was found, who waits looks into the store by itself */
    }
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
        if (uuid_equal(rows[i].message.parent, claim->entry->id) && !left_out)
            copy_child(claim, at++, &rows[i].message);
    }
    struct store *store = claim->lane->worker->store;
    if (wants_reply(claim, STORE_COMPLETED) || claim->settle_repeated || claim->entry->taken_over)
        store->ops->find(store, claim->entry->id, on_ended_found, claim);
    else
        lane_published(claim);
}

static void on_ended_children(void *arg, const struct err *err, const struct store_unfinished *rows,
                              size_t count)
{
    struct ended_batch *batch = arg;
    for (size_t i = 0; i < batch->count; i++) {
        struct claim *claim = batch->claims[i];
        if (err->code != ERR_NONE) {
            lane_return(claim);
        } else {
            claim_move(claim, CLAIM_PUBLISHING);
            lane_turn_over(claim);
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
        if (claims[i]->settle_repeated && claims[i]->outcome.end != STORE_RETRY)
            count_end(claims[i]); /* by its own settle, as a rule, whose answer was lost */
    }
    lane->worker->store->ops->children(lane->worker->store, batch->ids, count, on_ended_children,
                                       batch);
}
