/* What the parts of a lane need of each other. */
#ifndef HIE_LANE_PARTS_H
#define HIE_LANE_PARTS_H

#include "lane.h"

/* ---- lane_look_up.c: from a claimed entry to what is known of its message ---- */

/* Asks the store about new claims, at most QUEUE_BATCH_MAX; `done`, where it is not NULL, is told when they are on their way: ready to
 * run, or with the lane's order (fifo_line.c) when it is fifo. */
void lane_look_up(struct lane *lane, struct claim **claims, size_t count,
                  void (*done)(struct lane *lane, size_t count));
/* Nothing was recorded of it: asks the store why, and goes on with what was recorded before. */
void lane_look_again(struct claim *claim);
/* Makes claims of what came and looks them up; those that the lane holds already are left out. Returns how many. */
size_t lane_take(struct lane *lane, struct queue_claimed *claimed,
                 void (*done)(struct lane *lane, size_t count));

/* ---- lane_run.c: to the end of its handler ---- */

/* A row of a message that the store does not have. In the claim's memory, until its job is begun anew. */
struct store_message *lane_make_row(struct claim *claim);
/* It becomes a dead letter. */
void lane_bury(struct claim *claim, const char *reason);
/* Runs a claim, or ends it when its time is over, it is malformed, or it has killed too many. */
void lane_start(struct claim *claim);
void lane_check_timeouts(void *lane);
/* Asks its handler to give up: then it goes back to its queue. */
void lane_take_back(struct claim *claim);
/* The database refused the data of a good end (a child's, or the reply's): it becomes a dead letter. */
void lane_refused(struct claim *claim);

/* ---- lane_children.c ---- */

/* What the job sent, as rows of the outcome and entries of queues. A parent that the store knows nothing of has no rows, so each of its
 * children must go into a queue now: false with `err` where one is too large for one, or (retryable) its queue is changing or removed. */
bool lane_make_children(struct claim *claim, struct err *err);

/* ---- lane_fetch.c: large bodies come from the store, within a budget of bytes for the whole worker ---- */

/* lane_fetched follows. */
void lane_fetch(struct claim *claim);
/* The claim does without its body, or waits for none any more: its part of the budget is free. */
void lane_fetch_over(struct claim *claim);
/* Room in the budget, or the links changed: goes on with what waits; a drain gives it back to its queue. */
void lane_fetch_next(struct worker *worker);
/* lane_run.c: the body is here, or not in the store. */
void lane_fetched(struct claim *claim, bool found);

/* ---- lane.c ---- */

/* Looks for delayed entries that are due. */
void lane_promote(struct lane *lane, unsigned partition);
/* A delayed entry falls due then. */
void lane_promote_at(struct lane *lane, int64_t due_ms);

/* ---- lane_batches.c ---- */

void lane_batches_init(struct lane *lane);
void lane_batches_done(struct lane *lane);
/* Redis came or went: what failed before may have failed for that. */
void lane_batches_link_changed(struct lane *lane);

/* ---- lane_publish.c ---- */

/* How it ended is recorded, or needs no record. */
void lane_recorded(struct claim *claim);
/* These claims have their end in the store: what it says is published again, then they are finished. */
void lane_publish_ended(struct lane *lane, struct claim **claims, size_t count);
/* Nothing of it was recorded, since another claim has the message. */
void lane_superseded(struct claim *claim);
/* Hands the entry back to its queue. */
void lane_return(struct claim *claim);
/* One of its publications is over; the last one finishes it. */
void lane_published(struct claim *claim);

/* ---- lane_fifo.c, fifo_line.c, fifo_cycle.c: order; claim->part is NULL for claims of other lanes ---- */

/* A looked-up claim takes its place in the line of its key. */
void lane_line_up(struct claim *claim);
/* The next one of its key may run. Harmless for other claims and when said twice. */
void lane_turn_over(struct claim *claim);
/* Its large body came so late that the lease is given up, or may be another's: it goes back, waits in its line, or is dropped. False: it
 * may run. */
bool lane_stands_back(struct claim *claim);
/* Its large body did not come: it keeps its place and tries again soon. */
void lane_fetch_again(struct claim *claim);
/* Its lease is sure. Also for claims of other lanes. */
bool lane_may_start(const struct claim *claim);
/* Its attempt failed and is recorded: it keeps its key and runs again when its backoff is over. */
void lane_wait(struct claim *claim);
/* Its settle was refused, and not for what was recorded before: the lease is lost. */
void lane_refused_by_lease(struct claim *claim);
/* It goes back to its queue: nothing later of its partition runs before it is found again. */
void lane_gap(struct claim *claim);
/* It leaves the lane: its place in the line goes. */
void lane_line_leave(struct claim *claim);
void lane_fifo_init(struct lane *lane);
/* Claims from the partitions that have something, and runs what may run. */
void lane_fifo_pump(struct lane *lane);
void lane_fifo_wake(struct lane *lane, unsigned partition);
/* Any partition may have something. */
void lane_fifo_wake_all(struct lane *lane);
/* Once a second: looks at some partitions, whether there is something that nobody said. */
void lane_fifo_sweep(struct lane *lane);
/* Redis is back: answers that the lost link owed may have been claims. */
void lane_fifo_link_up(struct lane *lane);
/* The two below are for lanes of any kind. */
void lane_fifo_done(struct lane *lane);
bool lane_fifo_quiet(const struct lane *lane);

#endif
