/* Redrives: dead letters of an item enter its queue again, as their next run, in batches until they are through.
 *
 *   REVIVING (the store starts their next run) ──some──▶ FETCHING ──▶ ENQUEUEING ──▶ REVIVING the next batch
 *      │ none left, or all that were named                    │ fails: the reconciler brings them
 *      ▼                                                      ▼
 *     told ◀──────────────────────────────────────────────────┘ goes on
 *
 * The store's word is what counts; the enqueue only saves the wait for the reconciler. A dismissal takes dead letters off the list
 * in the same rhythm. Each is looked at once, in the order of their ids. */
#ifndef HIE_REDRIVE_H
#define HIE_REDRIVE_H

#include "base/uuid.h"
#include "model/production.h"
#include "queue/queue.h"
#include "store/fleet.h"
#include "store/store.h"

struct redrive_request {
    struct queue *queue;
    struct store *store;
    const struct fleet *fleet; /* NULL: queues never change (tests) */
    const struct item *item;   /* held until the end */
    bool dismiss;              /* instead of driving them again */
    const struct uuid *ids;    /* copied; NULL: all that the item has now */
    size_t id_count;           /* at most STORE_BATCH_MAX */
    /* Exactly once, later. count: how many it were; err other than ERR_NONE: of those before the store failed. left: how many
     * cannot run again, since their message is gone. */
    void (*done)(void *arg, const struct err *err, size_t count, size_t left);
    void *arg;
};

void redrive_start(const struct redrive_request *request);

#endif
