/* One claimed entry on its way through the worker.
 *
 *   LOOKING ──has its end──────────────────────────┐
 *      │ ├─unknown─▶ ADOPTING ─┐                   │
 *      │ ├─large───▶ FETCHING ─┤                   │
 *      ▼ ▼                     ▼                   ▼
 *     RUNNING ──handler ended──▶ SETTLING ──recorded──▶ PUBLISHING ──finished in Redis──▶ freed
 *      │ (drain)                     ├── superseded by another claim ──▶ freed
 *      └──▶ RETURNING ─▶ freed       └── refused after a repeat: LOOKING once more, has it its end?
 */
#ifndef HIE_JOB_H
#define HIE_JOB_H

#include "handler.h"
#include "link/batcher.h"
#include "queue/queue.h"
#include "store/store.h"

enum job_state {
    JOB_LOOKING,
    JOB_ADOPTING,
    JOB_FETCHING,
    JOB_RUNNING,
    JOB_SETTLING,
    JOB_PUBLISHING,
    JOB_RETURNING,
    JOB_STATE_COUNT,
};

struct lane;

/* A child on its way into its queue. */
struct job_child {
    struct batch_item batch;
    struct job *parent;
    struct queue_entry entry;
};

struct job {
    TAILQ_ENTRY(job) link; /* in lane->jobs */
    TAILQ_ENTRY(job)
    running; /* in lane->running, by start; in worker->fetch_waiting while FETCHING waits */
    struct batch_item batch; /* in one batcher at a time */
    struct lane *lane;
    struct queue_claimed *claimed; /* owns what entry borrows */
    struct queue_entry *entry;
    unsigned state;
    bool taken_over;
    bool timed_out, handed_back;
    bool fetch_waits;     /* it is in worker->fetch_waiting */
    bool settle_repeated; /* the outcome of a settle was unknown: it may be recorded already */
    size_t fetch_bytes;   /* of the worker's budget for large bodies */
    struct meta meta;
    struct body body;   /* of the entry, or fetched */
    char *fetched;      /* owned: a body from the store */
    int64_t claimed_us; /* monotonic */
    int64_t started_us; /* monotonic */
    void *handler_data;
    char error[sizeof(((struct err *)0)->text)];
    struct store_outcome outcome; /* its children are grown by job_send */
    size_t child_capacity;
    char *reply;                 /* owned */
    struct job_child *published; /* owned, one for each child */
    unsigned unpublished;        /* publications under way */
    struct arena *arena;         /* owned, for what children borrow; NULL until needed */
};

/* Makes a job of a claimed entry; takes a reference on `claimed`. */
struct job *job_new(struct lane *lane, struct queue_claimed *claimed, struct queue_entry *entry,
                    bool taken_over);
void job_free(struct job *job);
void job_move(struct job *job, enum job_state to);

#endif
