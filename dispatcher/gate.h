/* The gate of each item: admits at most `queue_size` accepted and unfinished messages. Only the door refuses; children,
 * retries and redrives always enter, and count.
 *
 * While Redis is there the count is exact over all dispatchers: what the item's queue holds + what each dispatcher has
 * reserved, in one call (queue.h, `slots`), which reserves a block ahead so that few messages wait for it:
 *
 *   gate_admit ──a free slot here──▶ admitted ──▶ in the queue (gate_queued) ─ the queue's depth counts it
 *      │  ▲                            │  └──▶ durable, but in no queue (gate_unqueued): counts here until it is brought
 *      │  └──granted──┐                └─────▶ not accepted after all (gate_cancelled)
 *      └──none──▶ waits for `slots` ──not granted──▶ full
 *
 * A block is a 64th of queue_size, and no more than an eighth of what is free, so a queue that is nearly full is shared slot by slot.
 * What a dispatcher has reserved and does not use is given back after a second; one that dies is forgotten after SLOTS_TTL_MS. It
 * is relied on that the queue carries out one dispatcher's calls in the order in which they were made: what an enqueue has been
 * called for no longer counts here.
 *
 * After a link came back the database's count is compared with the queue: rows that are in no queue and nobody's here (Redis lost
 * them) count too, until the reconciler has brought them.
 *
 * While Redis is away, or has not answered for SLOTS_SLOW_MS: used = what the database counts + ours since it was asked. Several
 * dispatchers may pass the limit by what they accept between two counts. Messages that only the queue would keep are refused then. Who
 * waits when Redis goes away is decided on at once, before anybody new.
 *
 * Each message counts once: in `on_way` from its admission until it is queued (then in `depth`), left out of its queue (then in
 * `unqueued`, until the database and the queue say that it was brought) or cancelled. So, of each item, outside of the calls below:
 *
 *   used = depth + on_way + unqueued + nobodys, and without `nobodys` nothing is admitted past queue_size while Redis is there
 *   held = on_way − sent + unqueued + free is what Redis is to count for us; `recorded` is what it does, or is not known
 *   0 ≤ sent ≤ on_way ≤ since_asked ≤ since, 0 ≤ unqueued_asked ≤ unqueued; none of the others is negative but for "not known"
 *   who waits is in a row, waiting_count long, and there is a call under way, and no free slot; nobody waits while Redis is away
 *   settling: `counted` is known
 *
 * tests/lib/gate_check.h holds us to that. */
#ifndef HIE_GATE_H
#define HIE_GATE_H

#include "link/loop.h"
#include "model/production.h"
#include "queue/queue.h"
#include "store/store.h"

#include <sys/queue.h>

#define GATE_WAITING_MAX 32768u /* of an item; nobody knows whether there is room for more */

enum gate_verdict {
    GATE_ADMITTED,
    GATE_WAITS, /* told later */
    GATE_FULL,
    GATE_AWAY, /* Redis is needed, or too many wait for it */
};

struct gate_waiter { /* embed it; the caller owns it */
    TAILQ_ENTRY(gate_waiter) link;
    bool queue_only; /* only the queue would keep its message */
    bool asked;      /* the call under way asks for it */
    /* Exactly once after GATE_WAITS, later, unless it leaves: GATE_ADMITTED, GATE_FULL or GATE_AWAY. */
    void (*told)(struct gate_waiter *waiter, enum gate_verdict verdict);
};

struct gate_item {
    struct gate *gate;
    const struct item *item;
    TAILQ_HEAD(gate_waiters, gate_waiter) waiting; /* in the order they came; then `free` is 0 */
    size_t waiting_count;
    bool asking;       /* a call is under way */
    bool settling;     /* `counted` is to be compared with the next depth */
    bool settling_new; /* … and says what is nobody's; else that only falls */
    bool left;         /* the next gate does not read all of its queue */
    int64_t free;      /* reserved, for those who come next */
    int64_t on_way;    /* admitted, not yet known to be in the queue */
    int64_t sent;      /* of them, those that an enqueue was called for */
    int64_t unqueued;  /* durable, but the queue did not take them: the reconciler brings them */
    int64_t unqueued_asked;        /* … when the database was asked for its count */
    int64_t nobodys;               /* durable, in no queue, reserved by nobody */
    int64_t depth;                 /* of the queue, as last heard */
    int64_t unslotted;             /* admitted without a slot since the call under way was made */
    int64_t recorded;              /* what Redis counts for us; -1: not known */
    int64_t reported;              /* by the call under way */
    int64_t counted;               /* unfinished in the database; -1: not known */
    int64_t since, since_asked;    /* ours that `counted`, or the count under way, may lack */
    int64_t asked_us, admitted_us; /* monotonic, the last time */
};

struct gate {
    const struct production *production;
    struct queue *queue;
    struct store *store;
    struct gate_item *items; /* by item index */
    char holder[40];         /* names this gate in Redis */
    struct loop_timer refresh;
    struct loop_timer impatience; /* set while anybody waits */
    bool queue_up, store_up;
    bool soon;      /* the next refresh comes soon */
    bool succeeded; /* by another: what it has reserved and does not use is given back at once */
    bool counting;  /* a question to the database is under way */
    bool recount;   /* a link changed: its answer is wanted anew */
    bool counting_new;
    int64_t counted_us, count_after_us; /* monotonic */
    struct loop *loop;
};

void gate_init(struct gate *gate, struct loop *loop, const struct production *production,
               struct queue *queue, struct store *store);
void gate_done(struct gate *gate);
/* Also when nothing changed but Redis may have lost its data. */
void gate_link_changed(struct gate *gate, bool queue_up, bool store_up);

/* An admitted message must end in exactly one of gate_cancelled, gate_queued and gate_unqueued. Those of an item that wait are
 * admitted in the order they came. */
enum gate_verdict gate_admit(struct gate *gate, const struct item *item,
                             struct gate_waiter *waiter);
/* It waits no more. */
void gate_leave(struct gate *gate, const struct item *item, struct gate_waiter *waiter);
/* An enqueue is being called for them; then either gate_queued or gate_unsent, after which they are as before. */
void gate_sent(struct gate *gate, const struct item *item, int64_t count);
void gate_unsent(struct gate *gate, const struct item *item, int64_t count);
/* In the queue now. `depth` is of the partition they went to. */
void gate_queued(struct gate *gate, const struct item *item, int64_t count, int64_t depth);
void gate_unqueued(struct gate *gate, const struct item *item, int64_t count); /* durable only */
void gate_cancelled(struct gate *gate, const struct item *item); /* not accepted after all */
/* `next` goes on for the items that both have, as things are known to be. `before` admits no more but those that wait, and what it
 * learns to be in no queue is to be moved on by gate_hand_over. Where `next` does not read all of an item's queue (its pattern is
 * another, or it has fewer partitions), what is in it counts as nobody's, and what still enters it as in no queue, until the database says
 * more; it is asked at once, as with `recount`. */
void gate_succeed(struct gate *next, struct gate *before, bool recount);
void gate_hand_over(struct gate *before, struct gate *next);
/* No call of it is under way, and Redis counts nothing for it. */
bool gate_is_over(const struct gate *gate);
/* The same, but what Redis counts is left to lapse. */
bool gate_is_quiet(const struct gate *gate);
/* As far as this dispatcher knows. */
int64_t gate_used(const struct gate *gate, const struct item *item);

#endif
