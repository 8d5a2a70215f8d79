/* Callers who wait for a message's end: entries of a table by correlation id, none holding a thread, a connection to Redis or one to
 * PostgreSQL. A front embeds a `struct caller` in what it answers.
 *
 * Who is told by publication (CALLER_TOLD) costs nothing while waiting; what was published and missed is found by looking: after Redis
 * was away, shortly before a caller's time is up, and, for those who wait for a second and longer, in a rhythm that slows down. Who
 * waits for a message that nobody publishes to us (CALLER_LOOKS, CALLER_ENDS) has a faster rhythm from the start.
 *
 * A message that is waited for:
 *
 *     callers_add ──▶ WAITING ──its turn──▶ ASKED ──has ended──▶ FETCHING
 *                        ▲                    │                     │
 *                        └───not ended, away──┴──away, no reply─────┘
 *
 * From each state a publication tells its callers; from ASKED and FETCHING so does what was found. A message nobody waits for any
 * more is forgotten in WAITING; in the other states first the answer is awaited.
 *
 * A look is one question at a time over at most CALLERS_LOOK_MAX messages: the store first, since what is published was committed
 * there before; then the reply keys, which serve where the store is away or has nothing. Keys are read, never taken. */
#ifndef HIE_CALLERS_H
#define HIE_CALLERS_H

#include "base/uuid.h"
#include "link/loop.h"
#include "model/production.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/store.h"

#include <stdbool.h>
#include <sys/queue.h>

#define CALLERS_LOOK_MAX 256u /* messages in one look: a batch of the queue and of the store */
#define CALLERS_SLOTS 1024u
#define CALLERS_SLOT_US 20000 /* so exact are deadlines */

enum caller_kind {
    CALLER_TOLD,  /* the message names this dispatcher: its end is published to us */
    CALLER_LOOKS, /* it may have ended already, or names nobody */
    CALLER_ENDS,  /* the same, and only the end is of interest, not the reply */
};

enum caller_outcome {
    CALLER_ENDED,   /* `end` says how */
    CALLER_LATE,    /* its time is up */
    CALLER_STOPPED, /* this dispatcher stops */
};

struct waited; /* a message that is waited for */

struct caller {              /* embed it; the front owns it */
    LIST_ENTRY(caller) same; /* those who wait for the same message */
    LIST_ENTRY(caller) slot; /* in the wheel */
    struct waited *waited;   /* NULL: waits for nothing */
    enum caller_kind kind;
    int64_t due_us, until_us; /* monotonic: when the wheel is to act, when its time is up */
    /* Once, unless removed; never from inside callers_add. The caller is out of the table by then and may be freed. `end` (with
     * CALLER_ENDED, valid during the call): left_out says that the reply is not to be had any more. For CALLER_ENDS only its id is set. */
    void (*done)(struct caller *caller, enum caller_outcome outcome, const struct queue_reply *end);
};

LIST_HEAD(caller_list, caller);
TAILQ_HEAD(waited_list, waited);

#define CALLERS_RHYTHMS 8

struct look;

struct callers {
    struct queue *queue;
    struct store *store;
    bool queue_up, store_up;
    bool draining, stopped;
    struct waited *table; /* uthash by id */
    size_t count;         /* callers */
    struct caller_list wheel[CALLERS_SLOTS], due;
    int64_t turned; /* number of the slot that was looked at last */
    struct loop_timer tick;
    /* Messages in WAITING, by how soon they are to be looked for; each list is in the order of look_us. */
    struct waited_list rhythms[CALLERS_RHYTHMS];
    struct look *look; /* under way; NULL: none */
    int64_t look_after_us, look_started_us;
    struct metric *waiting, *found;
    struct metrics *metrics;
};

void callers_init(struct callers *callers, struct loop *loop, const struct production *production,
                  struct queue *queue, struct store *store, struct metrics *metrics);
/* Callers that are left are told nothing. A look may still be under way when its links are gone. */
void callers_done(struct callers *callers);

/* Waits for the end of message `id` of `item` (NULL: not one of the production), at most wait_ms. */
void callers_add(struct callers *callers, struct caller *caller, const struct item *item,
                 struct uuid id, int64_t wait_ms, enum caller_kind kind,
                 void (*done)(struct caller *, enum caller_outcome, const struct queue_reply *));
/* The caller hung up. Nothing happens when it waits for nothing. */
void callers_remove(struct callers *callers, struct caller *caller);
bool caller_waits(const struct caller *caller);

/* A reply was published to this dispatcher. */
void callers_replied(struct callers *callers, const struct queue_reply *reply);
void callers_link_changed(struct callers *callers, bool queue_up, bool store_up);
/* A drain begins: those of CALLER_ENDS are told CALLER_STOPPED, now and in the next turn when they come later. */
void callers_drain(struct callers *callers);
/* The drain's time is up: so are all. */
void callers_stop(struct callers *callers);
/* Counts an answer that said that the time was up. */
void callers_count_late(struct callers *callers, const struct item *item);

#endif
