/* Which queue an unfinished row goes to: a page of the reconciler's, split by queue. */
#ifndef HIE_STORE_RECONCILER_SPLIT_H
#define HIE_STORE_RECONCILER_SPLIT_H

#include "model/production.h"
#include "queue/queue.h"
#include "store/store.h"

#include <limits.h>

#define RECONCILER_PAGE_ROWS 256u /* one queue call holds them all */
#define RECONCILER_NO_QUEUE UINT_MAX

struct reconciler_split {
    size_t count;
    struct reconciler_queue {
        struct queue_name name;
        /* The rows were accepted by settings that are not the item's any more. */
        bool misfit;
        struct queue_name from; /* misfits: the queue that they were accepted for */
        size_t rows;
    } queues[RECONCILER_PAGE_ROWS];
    unsigned of[RECONCILER_PAGE_ROWS]; /* by row; RECONCILER_NO_QUEUE: left alone */
};

/* The item under whose settings a message is handled that was accepted under that version of the production; NULL: it waits, for its
 * item or for its queue. */
struct reconciler_route {
    const struct item *(*item)(void *arg, const char *item_id, int64_t version);
    void *arg;
};

/* Where a whole row goes by the item's settings: the partition that it was accepted for, or, when it was accepted under others, that of
 * its key. */
unsigned reconciler_partition(const struct item *item, const struct store_message *message);

/* Rows without a route are left alone. `whole`: the rows have their keys, and misfits go where today's settings say; rows whose bodies
 * were left out of a large answer are left alone. Otherwise where a misfit goes cannot be said. */
void reconciler_split(struct reconciler_split *split, const struct reconciler_route *route,
                      const struct store_unfinished *rows, size_t count, bool whole);

#endif
