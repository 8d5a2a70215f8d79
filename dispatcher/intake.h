/* The intake: takes a message that came in through a front to its answer.
 *
 *   intake_accept ─refused: -1, nothing kept
 *        │ admitted
 *        ▼
 *     WRITING ──written──▶ QUEUEING ──queued, or 50 ms──▶ ANSWERED ─▶ freed
 *        │  │                  ▲
 *        │  └─link broke─▶ UNKNOWN ──the row is there────┘ (and back to QUEUEING)
 *        │                   │ ▲ │ not yet: the lost link's commit may still come
 *        │        ack_timeout│ └─┘
 *        └─refused, away─────┴──▶ ANSWERED ─▶ freed
 *
 * The answer leaves after the WAL commit and the enqueue; when the enqueue fails or is slow it leaves anyway, since
 * the row suffices: the reconciler brings the message into its queue. Past the item's ack_timeout the answer is
 * ERR_OUTCOME_UNKNOWN, whatever happens later. */
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
#include "store/store.h"

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

struct intake_queue; /* what is gathered for one item's queue */
struct message_intake;

struct intake {
    struct loop *loop;
    const char *listener; /* this dispatcher's id, to which replies are published */
    const struct production *production;
    struct queue *queue;
    struct store *store;
    struct gate gate;
    struct batcher wal;
    struct intake_queue *queues; /* by item index */
    /* By state. Those of WRITING and QUEUEING by the time they came in, those of UNKNOWN by the time they are to be looked
     * up. */
    TAILQ_HEAD(intake_list, message_intake) writing, queueing, unknown;
    struct loop_timer deadlines;
    int64_t least_ack_timeout_us, timeouts_checked_us;
    bool queue_up, store_up, asking_unknown;
    size_t in_hand;                  /* messages not yet freed */
    size_t bytes_in_hand, bytes_max; /* theirs, and of frames that have not ended */
    struct intake_metrics *metrics;  /* by item index */
    void (*on_unqueued)(
        void *arg); /* a message is durable but not in its queue: nudge the reconciler */
    void *on_unqueued_arg;
};

void intake_init(struct intake *intake, struct loop *loop, const struct production *production,
                 struct queue *queue, struct store *store, struct metrics *metrics);
void intake_done(struct intake *intake);
void intake_link_changed(struct intake *intake, bool queue_up, bool store_up);

/* 0: admitted, `answered` follows; *ret_id is its correlation id. -1: refused at the door with ERR_NOT_FOUND (disabled), ERR_INVALID (empty),
 * ERR_NOT_HL7, ERR_QUEUE_FULL, ERR_UNAVAILABLE or ERR_TOO_LARGE. */
int intake_accept(struct intake *intake, const struct intake_request *request, struct uuid *ret_id,
                  struct err *err);
/* A front holds `now` bytes of an unfinished frame, *held before. False when it is more and too much with all that is
 * in hand; nothing changes then. */
bool intake_hold(struct intake *intake, size_t *held, size_t now);
/* Counts a refusal that a front decided by itself. `item` may be NULL. */
void intake_count_rejected(struct intake *intake, const struct item *item, enum error_code code);
/* True when no message is in hand. */
bool intake_idle(const struct intake *intake);

#endif
