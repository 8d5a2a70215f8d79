/* The reconciler: brings unfinished messages that the queue does not hold back into it. It may run in any process; a lease in
 * the database elects one of the fleet. What it enqueues is idempotent, so an old owner that goes on for a moment does no harm.
 *
 *   RESTING ──timer, nudge──▶ LEASING ──ours──▶ READING (a page of unfinished rows, in order of seq)
 *      ▲          ▲              │ somebody else's     │
 *      │          └──────────────┘                     ▼
 *      │                                            ASKING (which of them does the queue lack?)
 *      │                                               │ none ─▶ READING the next page
 *      │                                               ▼
 *      │                                            FETCHING (their bodies) ──enqueued──▶ READING the next page
 *      └──────── MARKING (all below is finished) ◀── the last page
 *
 * A full round begins at the mark below which all is finished. The rounds between two full ones go on where the last ended, so
 * that a row is looked at a few times and not once a second. Rows that this process first saw less than two seconds ago, by its
 * own clock, are left to those who bring them in just now; a round ends before them and then looks only how far the log
 * reaches by now, so an orphan is found after two to four seconds. The rows' own times decide nothing. After the loss of
 * Redis's data (`reconciler_compare`) a full round takes in the youngest too, and the pages follow each other without a pause.
 * Rows go to the partition that they were accepted for. Those that were accepted under other settings of their item (another pattern,
 * type or number of partitions) go where today's settings say, and leave the queue that they were accepted for, unless a worker has
 * them in hand there.
 *
 * An item whose queue refuses the calls is left out until the next full round; a link that breaks ends the round, which then
 * begins again at the mark. Memory is bounded by a page. */
#ifndef HIE_STORE_RECONCILER_H
#define HIE_STORE_RECONCILER_H

#include "link/loop.h"
#include "model/production.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/reconciler_split.h"
#include "store/store.h"

struct reconciler;

/* `holder` names this process in the lease; borrowed, like everything else. */
struct reconciler *reconciler_new(struct loop *loop, const struct reconciler_route *route,
                                  struct queue *queue, struct store *store, const char *holder,
                                  struct metrics *metrics);
struct reconciler *reconciler_free(struct reconciler *reconciler);
void reconciler_links_changed(struct reconciler *reconciler, bool queue_up, bool store_up);
/* A message is durable and not in its queue: look soon. */
void reconciler_nudge(struct reconciler *reconciler);
/* Redis may have lost its data: compare everything, at once. */
void reconciler_compare(struct reconciler *reconciler);
/* The process is about to end: gives the lease back, so that another goes on at once, and begins nothing more. Waits for
 * nothing. */
void reconciler_stop(struct reconciler *reconciler);

#endif
