/* Callers who wait for a message's end: entries of a table, none holding a thread or a link. The database is asked for
 * all of them together, in a rhythm that grows with what an answer costs; when they are more than one question holds, those
 * asked for go to the back, so that all get their turn. */
#ifndef HIE_WAITERS_H
#define HIE_WAITERS_H

#include "base/uuid.h"
#include "link/loop.h"
#include "store/store.h"

#include <stdbool.h>
#include <sys/queue.h>

struct waiter { /* embed it; the caller owns it */
    TAILQ_ENTRY(waiter) link;
    struct uuid id;
    int64_t until_us; /* monotonic */
    bool asked;       /* a question for it is under way */
    /* Exactly once unless removed: the message has ended, or the time is up. */
    void (*done)(struct waiter *waiter, bool ended);
};

struct waiters {
    struct store *store;
    TAILQ_HEAD(waiter_list, waiter) list; /* the one to be asked for next first */
    struct waiter *next_due;              /* where the walk over deadlines goes on */
    bool draining;                        /* nobody waits any more */
    struct loop_timer timer;
    struct waiter *asked[STORE_BATCH_MAX];
    struct uuid ids[STORE_BATCH_MAX];
    size_t asked_count;
    int64_t asked_at_us, pause_ms;
};

void waiters_init(struct waiters *waiters, struct loop *loop, struct store *store);
void waiters_done(struct waiters *waiters);
void waiters_add(struct waiters *waiters, struct waiter *waiter, struct uuid id, int64_t wait_ms,
                 void (*done)(struct waiter *, bool));
/* For a waiter that was told and waits on, until the same time: its `done` is called once more. */
void waiters_add_again(struct waiters *waiters, struct waiter *waiter);
/* Tells all that the time is up, and those who come later at once. */
void waiters_drain(struct waiters *waiters);
/* The caller is gone. */
void waiters_remove(struct waiters *waiters, struct waiter *waiter);

#endif
