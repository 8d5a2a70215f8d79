/* What operators scale and alarm on, for each item over all its partitions: depth, age of the oldest, in flight, dead letters. Read
 * from Redis and PostgreSQL in a slow rhythm, kept as gauges: once a second, or so much slower that no more than some
 * hundred partitions are asked a second. A queue that is being finished under another pattern has its own until it is empty. */
#ifndef HIE_QUEUE_GAUGES_H
#define HIE_QUEUE_GAUGES_H

#include "link/loop.h"
#include "model/production.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/fleet.h"
#include "store/store.h"

struct queue_gauge;

struct queue_gauges {
    struct production *production; /* a reference */
    struct fleet *fleet;           /* NULL: nothing changes */
    struct queue *queue;
    struct store *store;
    struct metrics *metrics;
    /* By item index, and behind them those of queues that are being finished. */
    struct queue_gauge **list;
    size_t count;
    size_t next; /* the one to go on with */
    struct loop_timer timer;
    bool queue_up, store_up, counting;
    bool rearrange;                     /* a queue has moved on */
    int64_t counted_us, count_after_us; /* monotonic */
};

void queue_gauges_init(struct queue_gauges *gauges, struct loop *loop, struct fleet *fleet,
                       struct production *production, struct queue *queue, struct store *store,
                       struct metrics *metrics);
/* Another production is in force. What it does not have any more shows as empty. */
void queue_gauges_follow(struct queue_gauges *gauges, struct production *production);
/* A queue begins to change, or has changed. */
void queue_gauges_shape(struct queue_gauges *gauges);
/* After the queue and the store have ended their calls. */
void queue_gauges_done(struct queue_gauges *gauges);

/* As counted last, of an item of the production in force. */
int64_t queue_gauges_dead_letters(const struct queue_gauges *gauges, const struct item *item);
/* As read last, with what is being finished; false: not read yet, or Redis is away. */
bool queue_gauges_depth(const struct queue_gauges *gauges, const struct item *item,
                        struct queue_depth *ret);

#endif
