/* The intake's enqueues: of messages that are durable already, and of those that Redis alone keeps. */
#include "intake_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>

#define BATCH_BYTES (4u << 20)
#define UNDER_WAY 4 /* pipelined: a Redis round trip need not end first */

struct queue_batch {
    struct intake_queue *queue;
    STAILQ_ENTRY(queue_batch) link; /* in queue->refused */
    struct message_intake **list;
    size_t sent, count; /* the first ones are sent, the others refused */
    struct queue_entry entries[];
};

/* The first enqueue's outcome is unknown, or nothing came of repeating it. An error of the server's own is an answer. */
static bool is_unsure(const struct message_intake *message, enum error_code code)
{
    return (message->state == INTAKE_SENDING && code == ERR_OUTCOME_UNKNOWN) ||
           (message->state == INTAKE_RESENDING && code == ERR_UNAVAILABLE);
}

static void failed_alone(struct message_intake *message, const struct err *err)
{
    struct intake *intake = message->intake;
    if (is_unsure(message, err->code)) {
        intake_move(message, INTAKE_UNSURE);
        return;
    }
    gate_cancelled(&intake->gate, message->item); /* if it is there, the queue's depth counts it */
    if (message->state == INTAKE_ANSWERED) {
        intake_release(message);
    } else if (message->state == INTAKE_RESENDING) {
        intake_finish(message, &intake_unknown_error);
    } else {
        struct err error;
        err_set(&error, ERR_UNAVAILABLE, "the queue did not take the message");
        intake_finish(message, &error);
    }
}

static void ended(struct message_intake *message, const struct err *err)
{
    message->in_batch = false;
    if (err->code != ERR_NONE && !message->by_wal) {
        failed_alone(message, err);
        return;
    }
    if (err->code != ERR_NONE)
        intake_left_unqueued(message);
    if (message->state == INTAKE_ANSWERED)
        intake_release(message);
    else
        intake_finish(message, &intake_no_error);
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    static const struct err refused = {.code = ERR_UNAVAILABLE};
    struct queue_batch *batch = arg;
    struct gate *gate = &batch->queue->intake->gate;
    if (err->code == ERR_NONE)
        gate_queued(gate, batch->queue->item, (int64_t)batch->sent, depth);
    else
        gate_unsent(gate, batch->queue->item, (int64_t)batch->sent);
    for (size_t i = 0; i < batch->count; i++)
        ended(batch->list[i], i < batch->sent ? err : &refused);
    batcher_done(&batch->queue->batcher);
    free(batch);
}

static void on_refused(void *arg)
{
    struct intake_queue *queue = arg;
    struct queue_batch *batch;
    while ((batch = STAILQ_FIRST(&queue->refused))) {
        STAILQ_REMOVE_HEAD(&queue->refused, link);
        on_enqueued(batch, &(const struct err){.code = ERR_UNAVAILABLE}, 0);
    }
}

/* Since this process was silent for too long the queue may have been left by the fleet, also when it is a member again. */
static bool may_be_left(const struct message_intake *message)
{
    const struct fleet *fleet = message->intake->fleet;
    return fleet && fleet_membership(fleet) != message->membership;
}

static struct queue_entry entry_of(const struct message_intake *message)
{
    bool inline_body = message->row.body.len <= MESSAGE_INLINE_MAX;
    return (struct queue_entry){.id = message->row.id,
                                .at_ms = message->row.received_us / 1000,
                                .priority = message->row.priority,
                                .due_ms = message->row.due_ms,
                                .key = message->row.ordering_key,
                                .meta = message->row.meta,
                                .body = inline_body ? message->row.body : body_of(NULL, 0)};
}

static void start_enqueue(void *arg, struct batch_item **items, size_t count)
{
    struct intake_queue *queue = arg;
    struct intake *intake = queue->intake;
    struct queue_batch *batch =
        mem_alloc(sizeof(*batch) + count * (sizeof(batch->entries[0]) + sizeof(batch->list[0])));
    size_t refused = 0;
    batch->queue = queue;
    batch->count = count;
    batch->list = (struct message_intake **)(batch->entries + count);
    for (size_t i = 0; i < count; i++) {
        struct message_intake *message = intake_of_batch_item(items[i]);
        if (may_be_left(message)) {
            batch->list[count - ++refused] = message;
        } else {
            batch->list[batch->sent] = message;
            batch->entries[batch->sent++] = entry_of(message);
        }
    }
    gate_sent(&intake->gate, queue->item, (int64_t)batch->sent);
    if (batch->sent == 0) {
        STAILQ_INSERT_TAIL(&queue->refused, batch, link);
        loop_task_set(&queue->refusal);
        return;
    }
    intake->queue->ops->enqueue(intake->queue, queue_name_of(queue->item, queue->partition),
                                batch->entries, batch->sent, on_enqueued, batch);
}

/* Its messages are Redis's alone, but for large ones and those with a key of repeats. */
static bool is_held(const struct intake_queue *queue)
{
    return queue->intake->sends_held && !queue->item->persistence.wal_enabled;
}

static struct intake_queue *queue_of(struct message_intake *message)
{
    struct intake *intake = message->intake;
    const struct item *item = message->item;
    struct intake_item *own = &intake->items[item->index];
    unsigned partition = message->row.partition > 0 ? (unsigned)message->row.partition : 0;
    if (!own->queues)
        own->queues = mem_array((size_t)item->partitions, sizeof(*own->queues));
    struct intake_queue *queue = own->queues[partition];
    if (!queue) {
        queue = own->queues[partition] = mem_alloc(sizeof(*queue));
        queue->intake = intake;
        queue->item = item;
        queue->partition = partition;
        batcher_init(&queue->batcher, intake->loop, QUEUE_BATCH_MAX, BATCH_BYTES, start_enqueue,
                     queue);
        queue->batcher.max_under_way = UNDER_WAY;
        STAILQ_INIT(&queue->refused);
        loop_task_init(&queue->refusal, intake->loop, on_refused, queue);
        batcher_hold(&queue->batcher, is_held(queue));
    }
    return queue;
}

void intake_send(struct message_intake *message)
{
    message->in_batch = true;
    batcher_add(&queue_of(message)->batcher, &message->batch, message->size);
}

/* While its item's queue changes a message waits in the WAL, and when it has changed, or this process has been silent for so long that
 * it may have; the reconciler brings it when the queue is open. */
static bool has_queue(const struct message_intake *message)
{
    const struct fleet *fleet = message->intake->fleet;
    if (!fleet)
        return true;
    const struct item *item = fleet_route(fleet, message->item->id, message->row.version);
    return fleet_joined(fleet) && item && item_same_queue(item, message->item);
}

void intake_start_queueing(struct message_intake *message)
{
    struct intake *intake = message->intake;
    intake_move(message, INTAKE_QUEUEING);
    message->queueing_us = clock_mono_us();
    if (intake->queue_up && has_queue(message)) {
        message->membership = intake->fleet ? fleet_membership(intake->fleet) : 0;
        intake_send(message);
    } else {
        gate_unqueued(&intake->gate, message->item, 1);
        intake_finish(message, &intake_no_error);
    }
}

void intake_resend_unsure(struct intake *intake)
{
    struct message_intake *message;
    while (intake->queue_up && (message = TAILQ_FIRST(&intake->lists[INTAKE_UNSURE]))) {
        if (may_be_left(message)) {
            gate_cancelled(&intake->gate, message->item);
            intake_finish(message, &intake_unknown_error);
            continue;
        }
        intake_move(message, INTAKE_RESENDING);
        intake_send(message);
    }
}

static void for_each_queue(struct intake *intake, void (*act)(struct intake_queue *queue))
{
    for (size_t i = 0; i < intake->production->item_count; i++) {
        struct intake_item *own = &intake->items[i];
        for (int64_t j = 0; own->queues && j < intake->production->items[i].partitions; j++) {
            if (own->queues[j])
                act(own->queues[j]);
        }
    }
}

static void hold_or_not(struct intake_queue *queue)
{
    batcher_hold(&queue->batcher, is_held(queue));
}

void intake_hold_sends(struct intake *intake, bool held)
{
    intake->sends_held = held;
    for_each_queue(intake, hold_or_not);
}

static void free_queue(struct intake_queue *queue)
{
    struct queue_batch *batch;
    while ((batch = STAILQ_FIRST(&queue->refused))) {
        STAILQ_REMOVE_HEAD(&queue->refused, link);
        free(batch);
    }
    loop_task_done(&queue->refusal);
    batcher_free(&queue->batcher);
    free(queue);
}

void intake_free_queues(struct intake *intake)
{
    for_each_queue(intake, free_queue);
    for (size_t i = 0; i < intake->production->item_count; i++)
        free(intake->items[i].queues);
}
