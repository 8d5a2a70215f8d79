/* The queue of an item and pattern: a Redis Stream with the consumer group `workers`, and what stands beside it. PostgreSQL holds
 * the truth; everything here can be rebuilt from it. Keys and Functions: schemas/redis.md.
 *
 *   enqueue ──▶ waiting ──claim──▶ in hand ──finish──▶ gone
 *                  ▲  ▲              │  │
 *                  │  └──hand_back───┘  ├──retry──▶ delayed ──promote──▶ waiting
 *                  └─────takeover (idle too long)
 *
 * All calls are asynchronous over batches; completions come later, exactly once, never from inside the call. A batch
 * completes as a whole: err->code is ERR_NONE, ERR_UNAVAILABLE (nothing was sent) or ERR_OUTCOME_UNKNOWN (the link broke
 * before the reply). All of them are safe to repeat. What a call borrows stays valid until its completion.
 *
 * The functions are a table so that a simulation can put its own queue behind the same machines. */
#ifndef HIE_QUEUE_QUEUE_H
#define HIE_QUEUE_QUEUE_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "link/loop.h"
#include "message/message.h"
#include "model/production.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUE_BATCH_MAX 256   /* entries in one call */
#define QUEUE_ENTRY_ID_MAX 44 /* "milliseconds-number" and a NUL */

/* Which queue: keys are built from item, pattern and partition; type says how its entries are claimed. */
struct queue_name {
    const char *item;
    enum messaging_pattern pattern;
    unsigned partition; /* 0 for all but fifo */
    enum queue_type type;
    int64_t ageing_ms; /* priority: waiting for so long counts as one level more; 0: never */
};

struct queue_name queue_name_of(const struct item *item, unsigned partition);

struct queue_entry {
    struct uuid id;
    char entry_id[QUEUE_ENTRY_ID_MAX]; /* in the stream; set by a claim */
    int64_t at_ms;                     /* accepted, wall clock */
    int priority;
    struct slice key;  /* ordering key */
    struct slice meta; /* packed, message/message.h */
    struct body body;
    int64_t due_ms;  /* for enqueue, wall clock: not to be claimed before; 0: at once */
    int attempts;    /* that are over, where no store counts them (field `try`); set by a claim */
    bool malformed;  /* set by a claim: an entry that a person added and that cannot be used */
    bool taken_over; /* set by a claim: it was in the hand of one who fell silent */
};

/* Entries of one claim. The holder owns a reference; the slices borrow from it. */
struct queue_claimed {
    struct queue_entry *entries;
    size_t count;
    unsigned references;
    void *replies; /* the implementation's, freed by release (NULL: nothing to free) */
    void (*release)(void *replies);
};

struct queue;
typedef void queue_done(void *arg, const struct err *err);
typedef void queue_enqueued(void *arg, const struct err *err,
                            int64_t depth); /* entries in stream and delayed, after */
typedef void
queue_claim_done(void *arg, const struct err *err,
                 struct queue_claimed *claimed); /* NULL on error; the receiver owns it */
typedef void queue_promoted(void *arg, const struct err *err, int64_t moved,
                            int64_t next_due_ms); /* next -1: none */

struct queue_retry {
    struct uuid id;
    char entry_id[QUEUE_ENTRY_ID_MAX];
    int64_t due_ms; /* wall clock */
    int attempts;   /* that are over: the entry's field `try`; 0: left out, the store counts them */
};

/* How a message ended, for those who wait: on a dispatcher's channel, under the reply key, or both. */
struct queue_reply {
    struct uuid id;
    const char *status; /* completed dead_lettered expired cancelled */
    const char *error;  /* NULL: none; holds no message content */
    struct slice content_type;
    struct body body; /* the reply; published only up to MESSAGE_INLINE_MAX, else `left_out` */
    bool
        left_out; /* set where it was published without its body: it is under its key or in the store */
    struct slice to; /* id of the dispatcher that waits; empty: nobody */
    int64_t ttl_ms;  /* of the reply key; 0: none. Only a completed message leaves one */
};

struct queue_dead {
    struct uuid id;
    int64_t at_ms;
    int attempts;
    const char *error; /* holds no message content */
    struct slice meta;
    struct body body;
};

struct queue_depth {
    int64_t waiting, in_hand,
        delayed;          /* entries; waiting excludes those in hand; delayed: of all patterns */
    int64_t oldest_at_ms; /* accepted time of the oldest entry by its id; 0: none */
    int64_t next_due_ms;  /* of the delayed */
};
typedef void queue_depth_done(void *arg, const struct err *err, const struct queue_depth *depth);
/* flags[i] answers for ids[i]. */
typedef void queue_flags_done(void *arg, const struct err *err, const bool *flags);
typedef void queue_deaths_done(void *arg, const struct err *err, const int *deaths);
/* bodies[i] is under the reply key of ids[i]; ptr NULL: there is none. Valid during the call. */
typedef void queue_replies_read(void *arg, const struct err *err, const struct body *bodies);
/* granted: free slots that are this holder's now; depth: entries in all partitions of the item. */
typedef void queue_slots_done(void *arg, const struct err *err, int64_t granted, int64_t depth);

struct queue_ops {
    /* Idempotent by id. Creates nothing twice; wakes up to `count` idle workers. An entry with a due_ms in the future goes to the
     * delayed ones. */
    void (*enqueue)(struct queue *, struct queue_name, const struct queue_entry *entries,
                    size_t count, queue_enqueued *done, void *arg);
    /* Claims up to max waiting entries for `consumer`. Creates stream and group when they are missing. With `wait`, a claim
     * that finds fewer than max first registers the consumer as idle for this queue and looks once more, so that the next enqueue
     * wakes it. fifo: what was pulled may come once more, and with the first claim after the link came up, a reply was
     * lost, entries were handed back, or `leave`, all that the consumer holds: who claims knows it again. */
    void (*claim)(struct queue *, struct queue_name, const char *consumer, size_t max, bool wait,
                  queue_claim_done *done, void *arg);
    /* Takes entries that have been in somebody's hand for min_idle_ms without renewal. priority and lifo: they go back among
     * the waiting ones instead, in their place, and the claim is empty; idle workers are woken. Not for fifo. */
    void (*takeover)(struct queue *, struct queue_name, const char *consumer, int64_t min_idle_ms,
                     size_t max, queue_claim_done *done, void *arg);
    /* fifo, by the partition's owner: takes what other consumers hold, in the stream's order, whatever its idle time. What was handed
     * back does not count as taken over. */
    void (*inherit)(struct queue *, struct queue_name, const char *consumer, size_t max,
                    queue_claim_done *done, void *arg);
    /* fifo, by the partition's owner: puts these into its hand, out of turn, from wherever they are; adds those that the queue lacks.
     * The claim holds all of them, those too that were in its hand before: who pulls knows them again. */
    void (*pull)(struct queue *, struct queue_name, const char *consumer,
                 const struct queue_entry *entries, size_t count, queue_claim_done *done,
                 void *arg);
    /* Keeps entries in hand from being taken over. What another consumer has taken over stays with it. */
    void (*renew)(struct queue *, struct queue_name, const char *consumer,
                  const struct queue_entry *const *entries, size_t count, queue_done *done,
                  void *arg);
    /* Gives entries in hand back at once: they wait again, for anybody's claim (unordered: at the end; priority, lifo: in their
     * place; fifo: for the same owner's next claim, or another's `inherit`); wakes idle workers. What another consumer has taken over stays with it. */
    void (*hand_back)(struct queue *, struct queue_name, const char *consumer,
                      const struct queue_entry *const *entries, size_t count, queue_done *done,
                      void *arg);
    /* Removes ended entries. Already removed ones are success. */
    void (*finish)(struct queue *, struct queue_name, const struct queue_entry *const *entries,
                   size_t count, queue_done *done, void *arg);
    /* Moves entries in hand to the delayed ones. What another consumer has taken over stays with it. */
    void (*retry)(struct queue *, struct queue_name, const char *consumer,
                  const struct queue_retry *retries, size_t count, queue_done *done, void *arg);
    /* Moves delayed entries that are due at now_ms back to the waiting ones; wakes idle workers. Whatever other patterns have in the
     * item's partition, waiting or due, enters this queue: nobody claims it there any more. */
    void (*promote)(struct queue *, struct queue_name, int64_t now_ms, size_t max,
                    queue_promoted *done, void *arg);
    /* Mirrors dead letters (newest 1,000 an item). */
    void (*bury)(struct queue *, const char *item, const struct queue_dead *dead, size_t count,
                 queue_done *done, void *arg);
    /* Takes the mirrors of these away: redriven or deleted. */
    void (*unbury)(struct queue *, const char *item, const struct uuid *ids, size_t count,
                   queue_done *done, void *arg);
    /* Publishes replies and leaves them under their keys. A repeat publishes once more, but does not add a second element. */
    void (*replies)(struct queue *, const char *item, const struct queue_reply *replies,
                    size_t count, queue_done *done, void *arg);
    /* Reads reply keys without taking them: others may wait for them too. */
    void (*read_replies)(struct queue *, const char *item, const struct uuid *ids, size_t count,
                         queue_replies_read *done, void *arg);
    /* Reserves room at the door. Afterwards `holder` counts for held + granted slots of the item, granted being what of `want` is free
     * below `limit` with all that is in the queue's partitions and all that other holders count for. A holder that is not
     * heard of for ttl_ms counts no more. */
    void (*slots)(struct queue *, struct queue_name, unsigned partitions, const char *holder,
                  int64_t limit, int64_t held, int64_t want, int64_t ttl_ms, queue_slots_done *done,
                  void *arg);
    void (*depth)(struct queue *, struct queue_name, queue_depth_done *done, void *arg);
    /* Which of these does the queue lack? */
    void (*missing)(struct queue *, struct queue_name, const struct uuid *ids, size_t count,
                    queue_flags_done *done, void *arg);
    /* Which of these are in a worker's hand? */
    void (*held)(struct queue *, struct queue_name, const struct uuid *ids, size_t count,
                 queue_flags_done *done, void *arg);
    /* Takes these out of the queue, for another one, but for those in a worker's hand. flags: it is not here any more. */
    void (*withdraw)(struct queue *, struct queue_name, const struct uuid *ids, size_t count,
                     queue_flags_done *done, void *arg);
    /* Counts one more death of a worker that may have run these, where no store counts; for all partitions of the item. deaths[i]: how many by now. */
    void (*count_deaths)(struct queue *, struct queue_name, const struct uuid *ids, size_t count,
                         queue_deaths_done *done, void *arg);
    /* The heartbeat of a live worker: hash hie:worker:<id>, expires after ttl_ms. */
    void (*heartbeat)(struct queue *, const char *worker, const char *host, int64_t pid,
                      const char *items, int64_t in_hand, int64_t ttl_ms, queue_done *done,
                      void *arg);
    /* Removes the worker's heartbeat and its idle registration here; deletes its consumer from the queue only when nothing is
     * in its hand. */
    void (*leave)(struct queue *, struct queue_name, const char *consumer, queue_done *done,
                  void *arg);
    void (*free)(struct queue *);
};

struct queue {
    const struct queue_ops *ops;
};

/* Below 0: `a` stands before `b` in the stream. Of ids as Redis writes them. */
int queue_entry_id_compare(const char *a, const char *b);

void queue_claimed_ref(struct queue_claimed *claimed);
/* Frees it with the last reference. */
void queue_claimed_unref(struct queue_claimed *claimed);

struct queue_redis_options {
    const char *url;        /* redis://[user:password@]host[:port][/db] */
    const char *key_prefix; /* "hie" */
    const char
        *consumer; /* this worker's id, subscribes to its wake channel; NULL in a dispatcher */
    /* A wake signal: entries wait in this queue. Only with a consumer. Signals are lost while the queue is down: after on_up
     * claim from all queues. */
    void (*on_wake)(void *arg, const char *item, enum messaging_pattern pattern,
                    unsigned partition);
    const char *listener; /* a dispatcher's id: replies to it are told; NULL in a worker */
    /* A reply to this listener was published. Lost while the queue is down: after on_up read what is waited for. */
    void (*on_reply)(void *arg, const struct queue_reply *reply);
    /* The link came up (also the first time) or went down (also told at the first failure to connect). `fresh`: Redis may have lost data since it was last up (its run id,
     * replication id or our epoch key changed, or this is the first time): compare with the WAL. Also called with `fresh` while
     * it is up, when the epoch key vanishes (FLUSHALL). */
    void (*on_up)(void *arg, bool fresh);
    void (*on_down)(void *arg, const struct err *err);
    /* Redis refuses for good (wrong password, a Redis without Functions, a wrong URL): the process ends with exit code 100. */
    void (*on_fatal)(void *arg, const struct err *err);
    void *arg;
};
/* Connects in the background and reconnects by itself with backoff and jitter. Its `free` ends the calls that are under way first
 * (outcome unknown); what they then submit is dropped. Not from inside a completion. */
struct queue *queue_redis_new(struct loop *loop, const struct queue_redis_options *options);
bool queue_redis_is_up(const struct queue *queue);

#endif
