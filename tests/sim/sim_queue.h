/* queue.h's calls over the simulated network to the fake Redis. queue_redis_new makes one for the process that is being started. */
#ifndef HIE_SIM_QUEUE_H
#define HIE_SIM_QUEUE_H

#include "sim_redis.h"

#define SIM_HANDS_MAX 128

struct sim_queue {
    struct queue queue;           /* first */
    TAILQ_ENTRY(sim_queue) entry; /* in redis.clients */
    struct sim_link link;
    struct queue_redis_options options;
    uint64_t epoch;        /* of Redis, as last seen; 0: never */
    struct sim_event look; /* at the epoch key */
    /* fifo: partitions that it looked into since the link came up, for what it holds; -1: through, else behind which entry that goes on */
    struct sim_hand {
        char item[REDIS_NAME_MAX];
        unsigned partition;
        int64_t after;
    } hands[SIM_HANDS_MAX];
    size_t hand_count;
};

/* Its process ends; see sim_link_end. */
bool sim_queue_end(struct sim_queue *queue);
void sim_queue_done(struct sim_queue *queue);
/* The data is gone while links stay: clients find out within two seconds. */
void sim_queue_flushed(void);

#endif
