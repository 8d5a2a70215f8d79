/* How much is in an item's queue, over all its partitions: one question to Redis for each. */
#ifndef HIE_QUEUE_SUM_H
#define HIE_QUEUE_SUM_H

#include "queue/queue.h"
#include "store/fleet.h"

/* While an item's queue changes it has two: `before` is the one that is being finished. They share what is delayed, in the
 * partitions that both have. */
struct queue_pair {
    const struct item *now,
        *before; /* NULL: the item was removed; its queue is none that is being finished, or the same stream */
    unsigned now_partitions, before_partitions;
};

/* `fleet` NULL: nothing changes. */
struct queue_pair queue_pair_of(const struct fleet *fleet, const struct item *now,
                                const char *item_id);

struct queue_sum {
    struct queue_depth depth;
    bool failed; /* one of them was not answered */
    unsigned unanswered;
    struct queue_sum_part {
        struct queue_sum *sum;
        bool without_delayed;
    } parts[2]; /* partitions whose delayed ones count, and those whose do not */
    void (*done)(void *arg);
    void *arg;
};

/* Asks about partitions 0 to `partitions` - 1 of the item's stream; what is delayed in the first `shared` of them is not counted.
 * `done` comes later; `sum` stays until then. */
void queue_sum_ask(struct queue_sum *sum, struct queue *queue, const struct item *item,
                   unsigned partitions, unsigned shared, void (*done)(void *arg), void *arg);
/* `sum` and `more` together. */
struct queue_depth queue_depth_add(struct queue_depth sum, struct queue_depth more);

#endif
