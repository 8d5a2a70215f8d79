/* The guarantees of ARCHITECTURE.md 1 to 4, checked while a run goes on and at its end. What is wrong goes to sim_fail.
 *
 *   1  what was acknowledged has its end: check_all
 *   2  one end, one set of children, a reply only of the end that is recorded: check_settled, check_published, check_all
 *   3  order: check_run_started, check_settled, check_claimed
 *   4  every caller has an answer in time: sim_senders.c */
#ifndef HIE_SIM_CHECK_H
#define HIE_SIM_CHECK_H

#include "sim_postgres.h"

void check_begin(const struct production *production);
void check_end(void);

/* The sender of a message was told that it is accepted. `good`: nothing but the end of its workers can make it fail. */
void check_acknowledged(struct uuid id, const struct item *item, bool good, bool wants_reply);
/* A worker's handler starts with a message, or is over with it. */
void check_run_started(const char *worker, const struct item *item, struct uuid id, int attempt);
void check_run_ended(const char *worker, struct uuid id, bool well);
/* The database recorded the end of an attempt. */
void check_settled(struct pg_row *row, const struct pg_outcome *outcome);
void check_published(const char *item, struct uuid id, const char *status, struct body body);
/* A priority or lifo queue gave an entry out; those in nobody's hand were left. */
void check_claimed(const struct queue_name *name, const struct redis_stream *stream,
                   const struct redis_entry *entry);
/* Everything has settled. */
void check_all(void);

#endif
