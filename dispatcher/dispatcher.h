/* One dispatcher process: its links, fronts, intake and health. It keeps nothing that another dispatcher would miss. */
#ifndef HIE_DISPATCHER_H
#define HIE_DISPATCHER_H

#include "intake.h"
#include "listeners.h"
#include "ops/health.h"
#include "ops/identity.h"
#include "queue_gauges.h"
#include "store/fleet.h"
#include "store/reconciler.h"

/* What serves one version of the production. The one before stays until what it has in hand is over. */
struct generation {
    STAILQ_ENTRY(generation) link; /* in dispatcher->retired */
    int64_t retired_us;            /* monotonic */
    struct production *production; /* a reference */
    struct intake intake;
};

struct dispatcher {
    struct loop *loop;
    struct production *own; /* of this process's file: servers */
    struct fleet *fleet;
    struct generation *now;
    STAILQ_HEAD(, generation) retired;
    struct loop_timer reap;
    struct queue_gauges gauges;
    struct intake_budget budget;
    char id[IDENTITY_SIZE];
    struct queue *queue;
    struct store *store;
    bool queue_up, store_up;
    bool was_up; /* PostgreSQL has been there */
    struct reconciler *reconciler;
    struct metrics *metrics;
    struct health *health;
    struct callers callers;
    struct listeners listeners;
    struct loop_timer drain_timer;
    struct loop_watch sigterm, sigint, sighup;
    bool draining, stopping; /* stopping: the drain's time is up, callers were told so */
    bool leaving;            /* one tick more, for the fleet to hear that we leave */
    int64_t drain_until_us;
    int exit_code;
};

/* 0, or -1 with ERR_CONFIG or ERR_IO (it cannot listen). */
int dispatcher_init(struct dispatcher *dispatcher, struct production *production,
                    const char *config, struct err *err);
/* Runs until drained; the exit code. */
int dispatcher_run(struct dispatcher *dispatcher);
void dispatcher_done(struct dispatcher *dispatcher);

#endif
