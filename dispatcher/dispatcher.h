/* One dispatcher process: its links, fronts, intake and health. It keeps nothing that another dispatcher would miss. */
#ifndef HIE_DISPATCHER_H
#define HIE_DISPATCHER_H

#include "http_front.h"
#include "intake.h"
#include "mllp_front.h"
#include "ops/health.h"
#include "queue_gauges.h"
#include "store/reconciler.h"

struct dispatcher {
    struct loop *loop;
    const struct production *production;
    char id[96];
    struct queue *queue;
    struct store *store;
    bool queue_up, store_up;
    bool was_up; /* PostgreSQL has been there */
    struct reconciler *reconciler;
    struct metrics *metrics;
    struct health *health;
    struct intake intake;
    struct callers callers;
    struct http_front http;
    struct mllp_front *mllp; /* by listener */
    size_t mllp_started;
    struct queue_gauges gauges;
    struct loop_timer drain_timer;
    struct loop_watch sigterm, sigint, sighup;
    bool draining, stopping; /* stopping: the drain's time is up, callers were told so */
    int64_t drain_until_us;
    int exit_code;
};

/* 0, or -1 with ERR_CONFIG or ERR_IO (it cannot listen). */
int dispatcher_init(struct dispatcher *dispatcher, const struct production *production,
                    struct err *err);
/* Runs until drained; the exit code. */
int dispatcher_run(struct dispatcher *dispatcher);
void dispatcher_done(struct dispatcher *dispatcher);

#endif
