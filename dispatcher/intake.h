/* The intake: takes a message that came in through a front to its answer.
 *
 *   intake_accept ─refused: -1, nothing kept
 *      │  │  └─its key is in hand─▶ FOLLOWING ──the first one's answer──────────────────────────▶ ANSWERED ─▶ freed
 *      │  └─no slot here─▶ RESERVING ─full, Redis away──────────────────────────────────────────▶   │
 *      │ admitted               │ admitted                                                          │
 *      ├────────────────────────┤                                                                   │
 *      ▼ by the WAL             ▼ by Redis alone                                                    │
 *   WRITING                  SENDING ──in the queue, refused, away──────────────────────────────▶   │
 *      │  │  └─refused, away,   │ link broke                                                        │
 *      │  │    a repeat──▶      ▼                                                                   │
 *      │  │                  UNSURE ──Redis is back──▶ RESENDING ──in the queue, link broke again─▶  │
 *      │  │                     ▲──────nothing was sent───┘                                         │
 *      │  └─link broke─▶ UNKNOWN ─not there, has a key─▶ REWRITING ──refused, a repeat──────────▶   │
 *      │                    │ │ ▲ └─not there yet─┐         │  │                                     │
 *      │                    │ │ └─────────────────┘◀─link broke, failed                            │
 *      │ written            │ there                         │ written                               │
 *      └───────────────▶ QUEUEING ◀─────────────────────────┘ ──queued, failed, or 50 ms────────▶   │
 *
 * By the WAL, the answer leaves after the commit and the enqueue; when the enqueue fails or is slow it leaves anyway, since the
 * row suffices: the reconciler brings the message into its queue. Past the item's ack_timeout the answer is ERR_OUTCOME_UNKNOWN
 * in every state that waits for a server (RESERVING, where Redis alone would keep it: ERR_UNAVAILABLE, nothing was done), whatever happens later.
 *
 * By Redis alone go the messages of items whose persistence has no WAL: the answer waits for the enqueue, which is all that keeps
 * them. PostgreSQL may be away for as long as this process's word from the fleet is fresh (fleet.h: some five seconds); after that nothing
 * is taken in. An enqueue whose outcome is unknown is repeated once, when Redis is back, unless the fleet may have left the queue
 * meanwhile. Of such items, two kinds of messages take the way by the WAL all the same: those of more than MESSAGE_INLINE_MAX bytes,
 * which Redis does not take, and those with a key of repeats, since the keys are in PostgreSQL.
 *
 * Repeats: while a message with a key is in hand, further ones with that key follow it. It keeps the key to itself until its
 * outcome is known, so no two rows of a batch share one. After an unknown outcome the look-up of its id decides; a message with a key
 * that is not there is written again, since it may have been left out as a repeat: the store then says of what. When the lost commit
 * came after all, the second writing fails or repeats itself. */
#ifndef HIE_INTAKE_H
#define HIE_INTAKE_H

#include "base/error.h"
#include "base/uuid.h"
#include "gate.h"
#include "link/batcher.h"
#include "link/loop.h"
#include "message/message.h"
#include "model/production.h"
#include "ops/metrics.h"
#include "queue/queue.h"
#include "store/fleet.h"
#include "store/store.h"

#include <sys/queue.h>

struct intake_request {
    const struct item *item;
    struct body body; /* copied */
    struct slice content_type, traceparent, ordering_key;
    int priority;        /* INTAKE_PRIORITY_BY_ITEM: the item's rule decides */
    int64_t delay_ms;    /* not to be run before */
    int64_t deadline_ms; /* wall clock, not to be started after; 0: none */
    bool reply;          /* leave the reply under its key */
    bool wait;           /* a caller waits here: the end is published to this dispatcher */
    struct slice chain;  /* ids of the items on the way here, separated by commas */
    /* A repeat of the same key within the window gets the first one's answer. UUID_NONE: it has none. */
    struct uuid dedup_key, dedup_fingerprint;
    int64_t dedup_window_ms;
    /* Exactly once, later, never from inside intake_accept. error->code ERR_NONE: accepted, or `repeats`: `id` is the first message's,
     * accepted before, of which nothing more is known here. */
    void (*answered)(void *arg, struct uuid id, bool repeats, const struct err *error);
    void *arg;
};

#define INTAKE_PRIORITY_BY_ITEM (-1)

enum intake_state {
    INTAKE_FOLLOWING,
    INTAKE_RESERVING,
    INTAKE_WRITING,
    INTAKE_UNKNOWN,
    INTAKE_REWRITING,
    INTAKE_QUEUEING,
    INTAKE_SENDING,
    INTAKE_UNSURE,
    INTAKE_RESENDING,
    INTAKE_ANSWERED,
    INTAKE_STATE_COUNT,
};

struct message_intake;
struct intake_item; /* what is gathered for one item */

/* Messages in hand by their key of repeats. */
struct intake_keys {
    LIST_HEAD(intake_key_list, message_intake) * buckets;
    size_t bucket_count, count; /* a power of two, or 0 */
    uint64_t seed;
};

/* Bytes of messages in hand and of frames that have not ended; shared by the intakes of one dispatcher. */
struct intake_budget {
    size_t bytes_in_hand, bytes_max;
};

/* One intake serves one version of the production; the one before ends what it has in hand beside it. What both have in hand keeps
 * its order: nothing of the next one is written before all that came in before has been written or refused, and what Redis alone keeps is
 * sent in the same way (intake_succession.c). */
struct intake {
    struct loop *loop;
    const struct production *production;
    const struct fleet *fleet; /* NULL: queues never change (tests) */
    struct queue *queue;
    struct store *store;
    const char
        *listener; /* id of this dispatcher, where replies are published; NULL: nobody can wait */
    struct gate gate;
    struct batcher wal;
    struct intake_item *items; /* by item index */
    /* By state; those of UNKNOWN by the time they are to be looked up, the others by the time they came in. ANSWERED: a batch
     * still holds them. */
    TAILQ_HEAD(intake_list, message_intake) lists[INTAKE_STATE_COUNT];
    struct intake_keys keys;
    struct loop_timer deadlines;
    int64_t least_ack_timeout_us, timeouts_checked_us;
    bool queue_up, store_up, asking_unknown;
    struct intake *held; /* the next one, while anything of it waits for ours; NULL: nothing does */
    struct loop_task let_go;
    bool sends_held; /* as wal.held, of what Redis alone keeps */
    size_t in_hand;  /* messages not yet freed */
    struct intake_budget *budget, own_budget;
    struct intake_metrics *metrics; /* by item index */
    void (*on_unqueued)(
        void *arg); /* a message is durable but not in its queue: nudge the reconciler */
    void *on_unqueued_arg;
};

void intake_init(struct intake *intake, struct loop *loop, const struct production *production,
                 struct queue *queue, struct store *store, struct metrics *metrics);
void intake_done(struct intake *intake);
/* `next` takes in from here on; `before` ends what it has in hand. `recount`: queues are changing. */
void intake_succeed(struct intake *next, struct intake *before, bool recount);
/* Also when nothing changed but Redis may have lost its data. */
void intake_link_changed(struct intake *intake, bool queue_up, bool store_up);

/* 0: taken, `answered` follows; *ret_id is its correlation id, or, when it follows another, that one's. -1: refused at the door with
 * ERR_NOT_FOUND (disabled), ERR_INVALID (empty, too long a field), ERR_NOT_HL7, ERR_UNSUPPORTED, ERR_KEY_REUSED, ERR_QUEUE_FULL,
 * ERR_UNAVAILABLE or ERR_TOO_LARGE. A full queue is usually found out later, by `answered` with ERR_QUEUE_FULL. */
int intake_accept(struct intake *intake, const struct intake_request *request, struct uuid *ret_id,
                  struct err *err);
/* A front holds `now` bytes of an unfinished frame, *held before. False when it is more and too much with all that is
 * in hand; nothing changes then. */
bool intake_hold(struct intake *intake, size_t *held, size_t now);
/* Counts a refusal that a front decided by itself. `item` may be NULL. */
void intake_count_rejected(struct intake *intake, const struct item *item, enum error_code code);
/* True when no message is in hand. */
bool intake_idle(const struct intake *intake);
/* … no call is under way, and the next one waits for nothing. */
bool intake_quiet(const struct intake *intake);

#endif
