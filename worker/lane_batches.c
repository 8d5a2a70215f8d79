/* What a lane tells its queue, in batches: finish, retry, hand back, enqueue children, mirror dead letters, publish replies. A
 * batch becomes one call for each partition in it. While Redis is away batches wait; one that failed is repeated.
 *
 *   batcher_add ──▶ gathers ──▶ calls, one a partition ──went well──▶ each item's end
 *                           ▲                 │
 *                           └──── failed ─────┘   (what others can do instead is given up after some tries; not for a lost link) */
#include "lane_parts.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

#define AGAIN_MS 200
#define TRIES_MAX 10u /* in a row, of what is given up then */

/* What is under way of one batcher: the calls of one start. */
struct batch_run {
    struct lane *lane;
    enum lane_batch kind;
    unsigned calls;
    bool failed;   /* one of them */
    bool put_back; /* something of it is to be repeated */
};

/* One call. */
struct publication {
    struct batch_run *run;
    struct queue_name name;
    size_t count;
    struct batch_item *items[QUEUE_BATCH_MAX];
    union {
        struct queue_entry entries[QUEUE_BATCH_MAX];
        const struct queue_entry *entry_pointers[QUEUE_BATCH_MAX];
        struct queue_retry retries[QUEUE_BATCH_MAX];
        struct queue_dead dead[QUEUE_BATCH_MAX];
        struct queue_reply replies[QUEUE_BATCH_MAX];
    };
};

static struct claim *claim_of(struct batch_item *item)
{
    return (struct claim *)((char *)item - offsetof(struct claim, batch));
}

static struct claim *claim_of_reply(struct batch_item *item)
{
    return (struct claim *)((char *)item - offsetof(struct claim, reply_batch));
}

static struct claim_child *child_of(struct batch_item *item)
{
    return (struct claim_child *)((char *)item - offsetof(struct claim_child, batch));
}

static unsigned partition_of(enum lane_batch kind, struct batch_item *item)
{
    switch (kind) {
    case BATCH_CHILDREN:
        return child_of(item)->partition;
    case BATCH_BURY:
    case BATCH_REPLY:
        return 0; /* of the item as a whole */
    case BATCH_FINISH:
    case BATCH_RETRY:
    case BATCH_RETURN:
    case BATCH_COUNT:
        break;
    }
    return claim_of(item)->partition;
}

/* ---- the end of a call ---- */

/* Others can do it instead, so that a key of the wrong type or a full Redis does not stop the lane: the reconciler brings
 * children that have rows, the mirror of dead letters is only a mirror, a reply is in the store. */
static bool has_others(enum lane_batch kind, struct batch_item *item)
{
    if (kind == BATCH_CHILDREN)
        return !child_of(item)->parent->unrecorded;
    return kind == BATCH_BURY || kind == BATCH_REPLY;
}

static void end_item(struct publication *publication, struct batch_item *item)
{
    struct claim *claim;
    switch (publication->run->kind) {
    case BATCH_FINISH:
        claim = claim_of(item);
        if (claim->found_again)
            batcher_add(&claim->lane->batches[BATCH_FINISH], item, 0);
        else
            claim_free(claim);
        return;
    case BATCH_RETURN:
        claim_free(claim_of(item));
        return;
    case BATCH_RETRY:
        claim = claim_of(item);
        lane_promote_at(claim->lane, claim->outcome.due_ms);
        claim_free(claim);
        return;
    case BATCH_CHILDREN:
        lane_published(child_of(item)->parent);
        return;
    case BATCH_BURY:
        lane_published(claim_of(item));
        return;
    case BATCH_REPLY:
        lane_published(claim_of_reply(item));
        return;
    case BATCH_COUNT:
        BUG_ON(true);
    }
}

/* To be repeated, but for what is given up. */
static void put_back(struct publication *publication)
{
    struct batch_run *run = publication->run;
    bool gives_up = run->lane->worker->queue_up && run->lane->failures[run->kind] >= TRIES_MAX;
    run->failed = true;
    for (size_t i = publication->count; i-- > 0;) {
        struct batch_item *item = publication->items[i];
        if (gives_up && has_others(run->kind, item)) {
            end_item(publication, item);
        } else {
            batcher_put_back(&run->lane->batches[run->kind], item);
            run->put_back = true;
        }
    }
}

static void end_run(struct batch_run *run)
{
    struct lane *lane = run->lane;
    struct batcher *batcher = &lane->batches[run->kind];
    if (!run->failed)
        lane->failures[run->kind] = 0;
    if (run->put_back) {
        batcher_hold(batcher, true);
        lane->repeats[run->kind] = true;
        loop_timer_set(&lane->again, AGAIN_MS);
    }
    batcher_done(batcher);
    free(run);
}

static void on_done(void *arg, const struct err *err)
{
    struct publication *publication = arg;
    struct batch_run *run = publication->run;
    worker_note(run->lane->worker, &run->lane->worker->publish_trouble, err);
    if (err->code == ERR_NONE) {
        for (size_t i = 0; i < publication->count; i++)
            end_item(publication, publication->items[i]);
    } else {
        put_back(publication);
    }
    free(publication);
    if (--run->calls == 0)
        end_run(run);
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    (void)depth;
    on_done(arg, err);
}

/* ---- a call ---- */

/* The mirror is to be looked at: a large body is in the store. */
static struct body mirrored(struct body body)
{
    return body.len <= MESSAGE_INLINE_MAX ? body : body_of(NULL, 0);
}

static void fill(struct publication *publication, size_t i)
{
    struct batch_item *item = publication->items[i];
    switch (publication->run->kind) {
    case BATCH_FINISH:
        claim_of(item)->found_again = false;
        publication->entry_pointers[i] = claim_of(item)->entry;
        return;
    case BATCH_RETURN:
        publication->entry_pointers[i] = claim_of(item)->entry;
        return;
    case BATCH_RETRY: {
        struct claim *claim = claim_of(item);
        publication->retries[i] =
            (struct queue_retry){.id = claim->entry->id,
                                 .due_ms = claim->outcome.due_ms,
                                 .attempts = claim->unrecorded ? claim->outcome.attempt : 0};
        memcpy(publication->retries[i].entry_id, claim->entry->entry_id,
               sizeof(claim->entry->entry_id));
        return;
    }
    case BATCH_CHILDREN:
        publication->entries[i] = child_of(item)->entry;
        return;
    case BATCH_BURY: {
        struct claim *claim = claim_of(item);
        publication->dead[i] = (struct queue_dead){.id = claim->entry->id,
                                                   .at_ms = claim->outcome.finished_us / 1000,
                                                   .attempts = claim->outcome.attempt,
                                                   .error = claim->error,
                                                   .meta = claim->entry->meta,
                                                   .body = mirrored(claim->entry->body)};
        return;
    }
    case BATCH_REPLY:
        publication->replies[i] = claim_of_reply(item)->reply;
        return;
    case BATCH_COUNT:
        BUG_ON(true);
    }
}

static void submit(struct publication *publication)
{
    struct batch_run *run = publication->run;
    struct worker *worker = run->lane->worker;
    struct queue *queue = worker->queue;
    size_t count = publication->count;
    for (size_t i = 0; i < count; i++)
        fill(publication, i);
    switch (run->kind) {
    case BATCH_FINISH:
        queue->ops->finish(queue, publication->name, publication->entry_pointers, count, on_done,
                           publication);
        return;
    case BATCH_RETRY:
        queue->ops->retry(queue, publication->name, worker->id, publication->retries, count,
                          on_done, publication);
        return;
    case BATCH_RETURN:
        queue->ops->hand_back(queue, publication->name, worker->id, publication->entry_pointers,
                              count, on_done, publication);
        return;
    case BATCH_CHILDREN:
        queue->ops->enqueue(queue, publication->name, publication->entries, count, on_enqueued,
                            publication);
        return;
    case BATCH_BURY:
        queue->ops->bury(queue, publication->name.item, publication->dead, count, on_done,
                         publication);
        return;
    case BATCH_REPLY:
        queue->ops->replies(queue, publication->name.item, publication->replies, count, on_done,
                            publication);
        return;
    case BATCH_COUNT:
        BUG_ON(true);
    }
}

/* The items of the first one's partition, taken out of `items`; those left stay in their order. */
static struct publication *gather(struct batch_run *run, struct batch_item **items, size_t *count)
{
    struct publication *publication = malloc(sizeof(*publication));
    BUG_ON(!publication);
    unsigned partition = partition_of(run->kind, items[0]);
    size_t left = 0;
    publication->run = run;
    publication->count = 0;
    publication->name = queue_name_of(run->lane->item, partition);
    for (size_t i = 0; i < *count; i++) {
        if (partition_of(run->kind, items[i]) == partition)
            publication->items[publication->count++] = items[i];
        else
            items[left++] = items[i];
    }
    *count = left;
    return publication;
}

static void start(struct lane *lane, enum lane_batch kind, struct batch_item **items, size_t count)
{
    struct batch_run *run = mem_alloc(sizeof(*run));
    *run = (struct batch_run){.lane = lane, .kind = kind, .calls = 1}; /* our own */
    while (count) {
        run->calls++;
        submit(gather(run, items, &count));
    }
    run->calls--;
}

/* ---- life ---- */

#define STARTER(kind)                                                                              \
    static void start_##kind(void *lane, struct batch_item **items, size_t count)                  \
    {                                                                                              \
        start(lane, kind, items, count);                                                           \
    }
STARTER(BATCH_FINISH)
STARTER(BATCH_RETRY)
STARTER(BATCH_RETURN)
STARTER(BATCH_CHILDREN)
STARTER(BATCH_BURY)
STARTER(BATCH_REPLY)

static void hold(struct lane *lane, bool held)
{
    for (size_t i = 0; i < BATCH_COUNT; i++) {
        lane->repeats[i] = false;
        batcher_hold(&lane->batches[i], held);
    }
}

/* What failed did so with the link there: else we would have been told meanwhile. */
static void on_again(void *arg)
{
    struct lane *lane = arg;
    for (size_t i = 0; i < BATCH_COUNT; i++)
        lane->failures[i] += lane->repeats[i];
    hold(lane, !lane->worker->queue_up);
}

void lane_batches_init(struct lane *lane)
{
    void (*const starters[BATCH_COUNT])(void *, struct batch_item **, size_t) = {
        [BATCH_FINISH] = start_BATCH_FINISH,     [BATCH_RETRY] = start_BATCH_RETRY,
        [BATCH_RETURN] = start_BATCH_RETURN,     [BATCH_BURY] = start_BATCH_BURY,
        [BATCH_CHILDREN] = start_BATCH_CHILDREN, [BATCH_REPLY] = start_BATCH_REPLY};
    for (size_t i = 0; i < BATCH_COUNT; i++)
        batcher_init(&lane->batches[i], lane->worker->loop, QUEUE_BATCH_MAX, STORE_BATCH_BYTES,
                     starters[i], lane);
    hold(lane, true);
    loop_timer_init(&lane->again, lane->worker->loop, on_again, lane);
}

void lane_batches_done(struct lane *lane)
{
    for (size_t i = 0; i < BATCH_COUNT; i++)
        batcher_free(&lane->batches[i]);
    loop_timer_done(&lane->again);
}

void lane_batches_link_changed(struct lane *lane)
{
    hold(lane, !lane->worker->queue_up);
}
