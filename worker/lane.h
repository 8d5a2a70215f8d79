/* The lane of one item in this worker: claims entries of its queue, runs them, and hands what ended to the settler.
 *
 *            wake, slot free, sweep                 claimed
 *   RESTING ────────────────────────▶ CLAIMING ────────────▶ LOOKING ──looked up──▶ RESTING, or
 *      ▲                                  │ nothing there                            CLAIMING at once when the
 *      └──────────────────────────────────┘                                          claim was full
 *
 * A claim asks for no more than there are free slots, also with what a claim or take-over under way may bring and what a lane that
 * retires still holds of them, unless the item's handler never waits: then it asks for a batch. A
 * claim that finds less than it asked for has registered this worker as idle, so the next enqueue wakes it: nobody
 * polls. A slow sweep covers lost signals, delayed entries that fell due and a dead worker's entries; a fifo partition, of which there may be thousands, is
 * swept more slowly (lane_fifo.c).
 *
 *   lane.c           claiming, sweep, life          lane_children.c  what a handler sent, as rows
 *   lane_fifo.c      the same for fifo, in order    lane_publish.c   what follows an end
 *   lane_look_up.c   what the store knows, adopt    lane_batches.c   the queue is told, in batches
 *   lane_run.c       run, end                       lane_fetch.c     large bodies */
#ifndef HIE_LANE_H
#define HIE_LANE_H

#include "claim.h"
#include "executor.h"
#include "link/batcher.h"
#include "link/loop.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/store.h"

struct worker;

/* What is told to the queue in batches (lane_batches.c). */
enum lane_batch {
    BATCH_FINISH,
    BATCH_RETRY,
    BATCH_RETURN,
    BATCH_CHILDREN, /* of claims of any lane, for this item */
    BATCH_BURY,
    BATCH_REPLY,
    BATCH_COUNT,
};

struct lane {
    struct worker *worker;
    const struct item *item;
    struct executor *executor; /* NULL: this worker does not claim for it */
    struct queue_name name;    /* of partition 0 */
    bool immediate;
    bool runs; /* this worker claims for it; children are sent to any item */
    bool open; /* it may claim by now */
    int64_t
        below_version; /* it finishes what was accepted below it (fleet.h); 0: whatever there is */
    bool cannot_start; /* its handler */
    bool retiring;     /* another takes its place: it ends what it holds */
    struct production *production; /* the item's; a reference */
    TAILQ_ENTRY(lane) in_worker;
    unsigned state;
    bool woken;    /* there is something to claim, or may be; of fifo its partitions are */
    bool hungry;   /* there was more than slots, or no slot */
    size_t taking; /* entries that the take-over under way asked for; 0: none is */
    unsigned promoting, renewing; /* calls under way */
    size_t asked;                 /* entries that the last claim asked for */
    unsigned claimed_in,
        taken_in;          /* the membership (fleet.h) in which a claim, a take-over was begun */
    int64_t not_before_us; /* monotonic: an entry went back for want of the store, let it rest */
    int64_t due_ms;        /* what the timer `due` waits for */
    TAILQ_HEAD(, claim) claims;
    TAILQ_HEAD(, claim) running; /* by start */
    size_t held, starting, fetching, running_count;
    unsigned failures[BATCH_COUNT]; /* of starts, in a row */
    bool repeats[BATCH_COUNT];      /* what failed and is put back; not yet one of `failures` */
    struct batcher batches[BATCH_COUNT];
    struct loop_task pump;
    struct loop_timer sweep, timeouts, due, again;
    int64_t renew_at_us;
    struct lane_fifo *fifo; /* NULL: it is not fifo */
    struct {
        struct metric *completed[4]; /* by enum store_end */
        struct metric *retried, *in_flight,
            /* a reload's two lanes of one item share it */ *superseded, *taken_over;
        struct histogram *process_seconds, *end_to_end_seconds;
    } metrics;
};

/* Takes the reference on the item's production. */
void lane_init(struct lane *lane, struct worker *worker, struct production *production,
               const struct item *item, bool runs);
/* Claims no more; over once nothing of it is in hand and nobody's children are under way through it. */
void lane_retire(struct lane *lane);
bool lane_is_over(const struct lane *lane);
/* Of one that is over: its handler's threads and children go. Called until they are gone (true), so that lane_done waits for nothing. */
bool lane_leave(struct lane *lane);
/* Ends what still runs. Of all lanes before the first lane_done, since what ends joins batches of others. */
void lane_close(struct lane *lane);
void lane_done(struct lane *lane);
/* Looks for something to claim in a later loop turn. */
void lane_pump(struct lane *lane);
/* One of its `concurrency` is free: for itself, or for the lane that takes its place. */
void lane_slot_is_free(struct lane *lane);
/* Something waits, or may wait, in that partition. */
void lane_wake(struct lane *lane, unsigned partition);
/* May it claim? */
bool lane_may_claim(const struct lane *lane);
void lane_links_changed(struct lane *lane);
/* fifo: these partitions are this worker's until then, monotonic (store.h: own); others that it had are lost. */
void lane_own(struct lane *lane, const struct store_owned *owned, size_t count, int64_t until_us);
/* fifo: other versions' messages are its own now (below_version): it looks for earlier ones from the start. */
void lane_look_anew(struct lane *lane);
/* fifo: it has partitions, if only to give them back. */
bool lane_has_parts(const struct lane *lane);
/* fifo: it gives all of them back, see below. */
bool lane_leaves_parts(const struct lane *lane);
/* fifo: gives all partitions back as soon as nothing of them runs; no more are taken. */
void lane_disown(struct lane *lane);
/* No claim or take-over is under way. */
bool lane_quiet(const struct lane *lane);
/* An answer is awaited that may be claims. */
bool lane_is_claiming(const struct lane *lane);
/* Gives up what still runs: it goes back to its queue. */
void lane_give_up(struct lane *lane);

/* 0, or -1 with ERR_CONFIG or ERR_IO: its handler cannot start. */
int lane_open(struct lane *lane, struct err *err);
/* job->ended of a claim's job. */
void lane_job_ended(struct job *job, const struct err *error);
/* The settler's answer: recorded or superseded. */
void lane_settled(struct claim *claim);

#endif
