/* What the checks know of a message, as it is seen from outside. */
#ifndef HIE_SIM_CHECKED_H
#define HIE_SIM_CHECKED_H

#include "sim_check.h"

#define RUNS_MAX 64

/* A handler's start with it. */
struct check_run {
    char worker[REDIS_NAME_MAX];
    int run, attempt;
    int64_t token; /* of the claim's lease; 0: it has none */
    int64_t started_us, ended_us;
    bool over, well;
};

struct checked {
    struct uuid id;
    UT_hash_handle hh;
    bool sent; /* by one of ours: `sending` says what it is */
    struct check_sending sending;
    bool acknowledged, wants_reply, finished, refused;
    unsigned published, deaths;
    int64_t published_us;
    int ended_run; /* the last one that has its end */
    struct check_run runs[RUNS_MAX];
    size_t run_count;
    const struct check_run *recorded; /* the one that ended its current run */
};

extern struct checked *checked_all;
extern const struct production *checked_production;

struct checked *checked_of(struct uuid id);
const struct item *checked_item(const char *id);

/* sim_check_order.c */
void check_order_end(void);
void check_order_start(const char *worker, struct checked *checked, const struct item *item);
void check_fifo_start(const char *worker, const struct pg_row *row, int64_t token);
void check_fifo_end(const struct pg_row *row);

#endif
