/* A call of a simulated queue: made by sim_queue.c, carried out by sim_queue_server.c. */
#ifndef HIE_SIM_QUEUE_CALL_H
#define HIE_SIM_QUEUE_CALL_H

#include "sim_queue.h"

enum queue_op {
    OP_ENQUEUE,
    OP_CLAIM,
    OP_CLAIM_AGAIN,
    OP_FETCH,
    OP_TAKEOVER,
    OP_INHERIT,
    OP_PULL,
    OP_RENEW,
    OP_HAND_BACK,
    OP_FINISH,
    OP_RETRY,
    OP_PROMOTE,
    OP_BURY,
    OP_UNBURY,
    OP_REPLIES,
    OP_READ_REPLIES,
    OP_SLOTS,
    OP_DEPTH,
    OP_MISSING,
    OP_HELD,
    OP_COUNT_DEATHS,
    OP_HEARTBEAT,
    OP_LEAVE,
};

struct queue_call {
    struct sim_call call; /* first */
    struct sim_queue *queue;
    enum queue_op op;
    struct queue_name name; /* item: copied below */
    char item[REDIS_NAME_MAX], consumer[48];
    char client[16]; /* for the trace */
    size_t max;
    bool wait;
    bool looks; /* for what it holds, behind `after` */
    int64_t after;
    int64_t asked_us;             /* a claim's: monotonic */
    struct queue_claimed *before; /* what the step before it gave: read, or only taken; owned */
    int64_t numbers[4];
    struct redis_given *given; /* owned */
    size_t count;
    void (*done)(void);
    void *arg;
    /* what came of it */
    struct queue_claimed *claimed; /* NULL once given away */
    int64_t results[2];
    bool *flags;
    int *deaths;
    struct queue_depth depth;
};

void queue_call_execute(struct sim_call *call); /* sim_link.h */
const char *queue_status_word(int64_t status);  /* of enum store_end */

#endif
