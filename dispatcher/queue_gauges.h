/* What operators scale and alarm on, for each item over all its partitions: depth, age of the oldest, in flight, dead letters. Read
 * from Redis and PostgreSQL in a slow rhythm, kept as gauges: once a second, or so much slower that no more than some
 * hundred partitions are asked a second. */
#ifndef HIE_QUEUE_GAUGES_H
#define HIE_QUEUE_GAUGES_H

#include "link/loop.h"
#include "model/production.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/store.h"

struct queue_gauge;

struct queue_gauges {
    const struct production *production;
    struct queue *queue;
    struct store *store;
    struct queue_gauge *list; /* by item index */
    size_t next;              /* the item to go on with */
    struct loop_timer timer;
    bool queue_up, store_up, counting, retired;
    int64_t counted_us, count_after_us; /* monotonic */
};

void queue_gauges_init(struct queue_gauges *gauges, struct loop *loop,
                       const struct production *production, struct queue *queue,
                       struct store *store, struct metrics *metrics);
/* Reads no more; what the next production does not have any more shows as empty. */
void queue_gauges_retire(struct queue_gauges *gauges, const struct production *next);
void queue_gauges_done(struct queue_gauges *gauges);
/* No question of it is under way. */
bool queue_gauges_quiet(const struct queue_gauges *gauges);
/* As last read; 0 for an item of another production that this one does not have. */
int64_t queue_gauges_dead_letters(const struct queue_gauges *gauges, const struct item *item);

#endif
