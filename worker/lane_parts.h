/* What the parts of a lane need of each other: lane.c, lane_run.c, lane_publish.c. */
#ifndef HIE_LANE_PARTS_H
#define HIE_LANE_PARTS_H

#include "lane.h"

/* lane_run.c: asks the store about new claims; lane_looked_up follows for those of a claim. */
void lane_look_up(struct lane *lane, struct claim **claims, size_t count, bool of_claim);
void lane_check_timeouts(void *lane);
/* The database refused the data of a good end (a child's, or the reply's): it becomes a dead letter. */
void lane_refused(struct claim *claim);

/* lane_children.c: what the job sent, as rows of the outcome. */
void lane_make_children(struct claim *claim);

/* lane_fetch.c: large bodies come from the store, within a budget of bytes for the whole worker. lane_fetched follows. */
void lane_fetch(struct claim *claim);
/* The claim gives its part of the budget back. */
void lane_fetch_over(struct claim *claim);
/* Room in the budget, or the links changed: goes on with what waits; a drain gives it back to its queue. */
void lane_fetch_next(struct worker *worker);
/* lane_run.c: the body is here (NULL: it is not in the store). */
void lane_fetched(struct claim *claim, bool found);

/* lane.c: a claim's claims are looked up and on their way. */
void lane_looked_up(struct lane *lane, size_t count);
/* A delayed entry falls due then. */
void lane_promote_at(struct lane *lane, int64_t due_ms);

/* lane_publish.c */
void lane_publish_init(struct lane *lane);
void lane_publish_done(struct lane *lane);
void lane_publish_hold(struct lane *lane, bool held);
/* These claims have their end in the store: what it says is published again, then they are finished. */
void lane_publish_ended(struct lane *lane, struct claim **claims, size_t count);
/* Nothing of it was recorded, since another claim has the message. */
void lane_superseded(struct claim *claim);
/* Hands the entry back to its queue. */
void lane_return(struct claim *claim);

#endif
