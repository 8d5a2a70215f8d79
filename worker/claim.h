/* One claimed entry on its way through the worker.
 *
 *   LOOKING ──has its end──────────────────────────────────────────┐
 *      ├─unknown─▶ ADOPTING ─┐                                     │
 *      ├─────────────────────┤                                     │
 *      │    fifo             ▼                                     │
 *      ├──────────────▶ READY (in the line of its key)             │
 *      ▼                     │ its turn                            │
 *   (start) ──large──▶ FETCHING ─┐                                 ▼
 *      └────────────▶ RUNNING ◀──┘ ──handler ended──▶ SETTLING ──recorded──▶ PUBLISHING ──finished in Redis──▶ freed
 *                      │ ▲  (drain)                      │ ├── superseded by another claim ──▶ freed
 *                      │ └─── WAITING ◀──fifo, retried───┘ └── refused after a repeat: LOOKING once more, has it its end?
 *                      ▼
 *                   RETURNING ──▶ freed
 */
#ifndef HIE_CLAIM_H
#define HIE_CLAIM_H

#include "job.h"
#include "link/batcher.h"
#include "queue/queue.h"
#include "store/store.h"

#include <uthash.h>

enum claim_state {
    CLAIM_LOOKING,
    CLAIM_ADOPTING,
    CLAIM_READY,
    CLAIM_FETCHING,
    CLAIM_RUNNING,
    CLAIM_SETTLING,
    CLAIM_WAITING,
    CLAIM_PUBLISHING,
    CLAIM_RETURNING,
    CLAIM_STATE_COUNT,
};

struct lane;
struct lane_part;
struct lane_key;

/* A child on its way into its queue. */
struct claim_child {
    struct batch_item batch;
    struct claim *parent;
    unsigned partition;
    struct queue_entry entry;
};

struct claim {
    TAILQ_ENTRY(claim) link; /* in lane->claims */
    TAILQ_ENTRY(claim)
    running;                 /* in lane->running, by start; in worker->fetch_waiting while
                                   FETCHING waits */
    struct batch_item batch; /* in one batcher at a time */
    struct batch_item reply_batch;
    struct lane *lane;
    struct queue_claimed *claimed; /* owns what entry borrows */
    struct queue_entry *entry;
    unsigned state;
    unsigned partition;
    bool unrecorded; /* persistence `none`: the store knows nothing of it */
    bool unwritten;  /* persistence `store_only`: the store gets it with its end */
    bool ended;      /* the store has its end */
    bool bereft;     /* its worker was lost, perhaps while it ran */
    bool timed_out, handed_back;
    bool out_of_time;     /* its deadline passed while it ran */
    bool fetch_waits;     /* it is in worker->fetch_waiting */
    bool found_again;     /* its entry is another since its finish was called */
    bool settle_repeated; /* the outcome of a settle was unknown: it may be recorded already */
    size_t fetch_bytes;   /* of the worker's budget for large bodies */
    struct meta meta;
    char *fetched;      /* owned: a body from the store */
    int64_t claimed_us; /* monotonic */
    int64_t started_us; /* monotonic */
    struct loop_timer *
        timer; /* owned: its deadline while RUNNING, its backoff while WAITING; NULL until needed */
    struct job job; /* what its handler sees */
    char error[sizeof(((struct err *)0)->text)];
    struct store_outcome outcome;
    struct store_message *children; /* owned; the outcome's, but where the store knows nothing */
    size_t child_count;
    struct claim_child *published; /* owned, one for each child */
    unsigned unpublished;          /* publications under way */
    struct queue_reply reply;

    /* fifo only (lane_fifo.c) */
    struct lane_part *part; /* NULL: of another lane */
    struct lane_key *key;   /* while it is in its line, or the line waits for it */
    int64_t seq;            /* 0: not known */
    TAILQ_ENTRY(claim) in_part, in_line;
    UT_hash_handle by_id; /* of part->by_id */
};

/* Makes a claim of a claimed entry; takes a reference on `claimed`. */
struct claim *claim_new(struct lane *lane, struct queue_claimed *claimed,
                        struct queue_entry *entry);
void claim_free(struct claim *claim);
void claim_move(struct claim *claim, enum claim_state to);
struct claim *claim_of_job(struct job *job);
/* Sets the claim's timer. */
void claim_set_timer(struct claim *claim, int64_t delay_ms, void (*fire)(void *claim));
void claim_cancel_timer(struct claim *claim);

#endif
