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
#ifndef HIE_CLAIM_H
#define HIE_CLAIM_H

#include "job.h"
#include "link/batcher.h"
#include "queue/queue.h"
#include "store/store.h"

enum claim_state {
    CLAIM_LOOKING,
    CLAIM_ADOPTING,
    CLAIM_FETCHING,
    CLAIM_RUNNING,
    CLAIM_SETTLING,
    CLAIM_PUBLISHING,
    CLAIM_RETURNING,
    CLAIM_STATE_COUNT,
};

struct lane;

/* A child on its way into its queue. */
struct claim_child {
    struct batch_item batch;
    struct claim *parent;
    struct queue_entry entry;
};

struct claim {
    TAILQ_ENTRY(claim) link; /* in lane->claims */
    TAILQ_ENTRY(claim)
    running;                 /* in lane->running, by start; in worker->fetch_waiting while
                                   FETCHING waits */
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
    char *fetched;      /* owned: a body from the store */
    int64_t claimed_us; /* monotonic */
    int64_t started_us; /* monotonic */
    struct job job;     /* what its handler sees */
    char error[sizeof(((struct err *)0)->text)];
    struct store_outcome outcome;
    struct store_message *children; /* owned: the outcome's */
    struct claim_child *published;  /* owned, one for each child */
    unsigned unpublished;           /* publications under way */
    char *stored_reply;             /* owned: of an end that was recorded before */
};

/* Makes a claim of a claimed entry; takes a reference on `claimed`. */
struct claim *claim_new(struct lane *lane, struct queue_claimed *claimed, struct queue_entry *entry,
                        bool taken_over);
void claim_free(struct claim *claim);
void claim_move(struct claim *claim, enum claim_state to);
struct claim *claim_of_job(struct job *job);

#endif
