/* One worker process: its links, its lanes, its health. */
#ifndef HIE_WORKER_H
#define HIE_WORKER_H

#include "arrange.h"
#include "lane.h"
#include "link/http_client.h"
#include "offload.h"
#include "ops/health.h"
#include "ops/http_door.h"
#include "ops/identity.h"
#include "ops/metrics.h"
#include "ownership.h"
#include "settler.h"
#include "store/fleet.h"
#include "store/reconciler.h"

struct worker {
    struct loop *loop;
    struct production *production; /* in force; a reference */
    const char *items;             /* --items; NULL: all */
    char id[IDENTITY_SIZE];        /* the consumer's name in every group */
    char host[IDENTITY_HOST_SIZE];
    char *item_names; /* for the heartbeat */
    struct queue *queue;
    struct store *store;
    bool queue_up, store_up;
    bool was_up; /* PostgreSQL has been there */
    struct reconciler *reconciler;
    struct executor_env env;
    struct metrics *metrics;
    struct health *health;
    struct http_door http;
    bool insecure;                /* was warned of: its listener is open to other machines */
    struct lane **lanes;          /* one for each item of the production, by index */
    TAILQ_HEAD(, lane) all_lanes; /* and those that are closing or retiring */
    struct loop_timer reap;
    struct fleet *fleet; /* NULL: the production never changes (tests) */
    struct settler settler;
    struct ownership ownership;
    struct loop_timer heartbeat, drain_timer;
    struct loop_watch sigterm, sigint, sighup;
    bool draining, given_up, leaving;
    bool stopped;                      /* the loop is over: only freeing is left */
    int64_t queue_up_us;               /* monotonic: since when Redis is there */
    TAILQ_HEAD(, claim) fetch_waiting; /* for room in the budget of large bodies */
    size_t fetch_bytes;                /* of that budget in use */
    struct worker_trouble {
        const char *what; /* a name for log and readiness */
        bool on;
    } look_up_trouble, settle_trouble, publish_trouble;
    int64_t drain_until_us;
    int exit_code;
};

/* `config`: the production's file. `items`: NULL for all, or a list "A,B" of those to claim for. 0, or -1 with ERR_CONFIG (unknown item), ERR_IO. */
int worker_init(struct worker *worker, struct production *production, const char *config,
                const char *items, struct err *err);
/* Runs until drained; the exit code. */
int worker_run(struct worker *worker);
void worker_done(struct worker *worker);

/* The lane of an item of the production in force; NULL: there is no such item. */
struct lane *worker_lane(struct worker *worker, const char *item_id);
/* The lane whose queue a message belongs into that was accepted under `version`; NULL: it waits in the WAL, or belongs nowhere. */
struct lane *worker_route(struct worker *worker, const char *item_id, int64_t version);
/* The same by what was heard of the fleet last, however long ago: for what worker_route was asked about in this turn of the loop. */
struct lane *worker_last_route(struct worker *worker, const char *item_id, int64_t version);
/* What keeps failing though its server is there shows in the log once, and in readiness until it goes well again. */
void worker_note(struct worker *worker, struct worker_trouble *trouble, const struct err *err);

#endif
