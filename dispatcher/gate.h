/* The gate of each item: admits at most `queue_size` accepted and unfinished messages. Only the door refuses; children,
 * retries and redrives always enter, and count.
 *
 * used = what the queue held when we last heard of it + ours on the way there + ours that the queue does not hold
 * yet (Redis is away). The first only falls between two news, so one dispatcher never admits too many; several
 * may pass the limit by what they have on the way at one moment. */
#ifndef HIE_GATE_H
#define HIE_GATE_H

#include "link/loop.h"
#include "model/production.h"
#include "queue/queue.h"
#include "store/store.h"

struct gate_item {
    const struct item *item;
    int64_t queued;   /* in the queue, as last heard */
    int64_t on_way;   /* admitted, not yet known to be in the queue */
    int64_t unqueued; /* durable, but the queue did not take them: the reconciler brings them */
    bool asking;      /* a question for the depth is under way */
    struct gate *gate;
};

struct gate {
    const struct production *production;
    struct queue *queue;
    struct store *store;
    struct gate_item *items; /* by item index */
    struct loop_timer refresh;
    bool queue_up, store_up, counting;
    int64_t counted_us, count_after_us; /* monotonic */
    struct loop *loop;
};

void gate_init(struct gate *gate, struct loop *loop, const struct production *production,
               struct queue *queue, struct store *store);
void gate_done(struct gate *gate);
void gate_link_changed(struct gate *gate, bool queue_up, bool store_up);

/* False when the item is full. An admitted message must end in exactly one of the three below. */
bool gate_admit(struct gate *gate, const struct item *item);
void gate_cancelled(struct gate *gate, const struct item *item); /* not accepted after all */
void gate_queued(struct gate *gate, const struct item *item, int64_t count,
                 int64_t depth); /* in the queue now */
void gate_unqueued(struct gate *gate, const struct item *item, int64_t count); /* durable only */
int64_t gate_used(const struct gate *gate, const struct item *item);

#endif
