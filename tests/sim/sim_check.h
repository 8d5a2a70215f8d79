/* The guarantees of ARCHITECTURE.md 1 to 4, checked while a run goes on and at its end. What is wrong goes to sim_fail.
 *
 *   1  what was acknowledged has its end: check_all
 *   2  one end, one set of children, a reply only of the end that is recorded: check_settled, check_published, check_all
 *   3  order: check_run_started, check_settled; sim_check_order.c
 *   4  every caller has an answer in time: sim_senders.c
 *   5  no more is admitted than there is room for: check_admitted
 *
 * What the fakes tell is what happened, not whether it is right: that is judged by what the senders sent and the rows that the
 * database has. */
#ifndef HIE_SIM_CHECK_H
#define HIE_SIM_CHECK_H

#include "sim_postgres.h"

void check_begin(const struct production *production);
void check_end(void);

/* What a sender sent, as far as a check needs it. */
struct check_sending {
    const struct item *item;
    int priority;
    int64_t at_ms;              /* when it was taken in, by the clock of who took it */
    struct uuid key_of_repeats; /* UUID_NONE: it has none */
    bool by_hand;
    bool good;       /* nothing but the end of its workers can make it fail */
    bool good_again; /* … from its second run on */
};
/* It was taken in under this id: an answer follows, or it is in the queue. */
void check_sent(struct uuid id, const struct check_sending *sending);
/* Its sender was told that it is accepted. */
void check_acknowledged(struct uuid id, bool wants_reply);

/* A worker's handler starts with a message. */
struct check_start {
    const char *worker;
    const struct item *item;
    struct uuid id;
    int run, attempt;
    int64_t lease_token; /* of its claim; 0: it has none */
    int64_t claimed_us;
};
void check_run_started(const struct check_start *start);
/* … or is over with it. */
void check_run_ended(const char *worker, struct uuid id, bool well);
/* The database took in what came through the door: there was room. */
void check_admitted(const char *item);
/* The same where only Redis has it: so many are in the queue with it. */
void check_admitted_unlogged(const char *item, int64_t depth);
/* The database recorded the end of an attempt. */
void check_settled(struct pg_row *row, const struct pg_outcome *outcome);
/* It refused the data of one's end. */
void check_refused(struct uuid id);
/* It counted an attempt that ended with its worker. */
void check_died(struct uuid id);
/* An entry was taken from this worker, as from one that fell silent. */
void check_taken_over(struct uuid id, int64_t number, const char *worker);
void check_published(const char *item, struct uuid id, const char *status, struct body body);
/* Who waited for it since then was told of this end, or that the time was up. */
void check_told(struct uuid id, const char *status, int64_t since_us);
void check_told_late(struct uuid id);
/* Its entry left the queue for good. */
void check_finished(struct uuid id);
/* A priority or lifo queue gave entries out; the others waited, in nobody's hand. */
void check_claimed(const char *item, const char *consumer, const struct uuid *taken,
                   size_t taken_count, const struct uuid *left, size_t left_count);
/* The log has it, to be brought again when its entry is gone. */
bool check_is_logged(struct uuid id);
/* Everything has settled. */
void check_all(void);

#endif
