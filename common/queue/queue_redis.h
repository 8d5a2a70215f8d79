/* Inside of the Redis queue: the queue over its links, and an operation, which is one call of queue.h under way.
 *
 *   queue_redis.c          connections, operations in general
 *   queue_redis_greeting.c what a fresh Redis is, loading the Functions
 *   queue_redis_calls.c    the operations on entries that are one Function call each
 *   queue_redis_beside.c   the same for what stands beside the entries: dead letters, replies, slots, workers
 *   queue_redis_claim.c    claim, takeover, inherit, pull
 *   queue_redis_entries.c  the entries that those find
 *   queue_redis_idle.c     where our consumer stands among the idle, and what it may hold unknown
 *   queue_redis_keys.c     names of keys and the heads of commands */
#ifndef HIE_QUEUE_QUEUE_REDIS_H
#define HIE_QUEUE_QUEUE_REDIS_H

#include "link/redis_link.h"
#include "queue/queue.h"

#define QUEUE_REDIS_REVISION 7 /* of schemas/redis/hie1-1-base.lua */
#define QUEUE_REDIS_GROUP "workers"
#define QUEUE_REDIS_HEAD 8192u /* bytes of a command's name, keys and single arguments, at most */

struct registration;
struct hand;

/* See queue_redis_claim.c. */
enum claim_step { STEP_MISSED, STEP_LOOK, STEP_TAKE, STEP_FETCH, STEP_AGAIN, STEP_END };

struct queue_redis {
    struct queue base; /* first */
    struct loop *loop;
    struct queue_redis_options options; /* its texts are copies */
    struct redis_link *commands;
    struct redis_link *wakes;   /* NULL without a consumer */
    struct redis_link *replies; /* NULL without a listener */

    bool greeted;   /* the command link is up and the server is known: operations may go out */
    bool told_up;   /* on_up was called, on_down not yet */
    bool told_down; /* since it was last up */
    bool told_fatal;
    bool freeing;
    bool fresh; /* not told yet */
    bool known; /* the three below are of the last server that we greeted */
    char run_id[64], replication_id[64], epoch[64];
    struct queue_greeting *greeting; /* under way */
    struct loop_timer epoch_timer;   /* the next look at the epoch key and the Functions */

    STAILQ_HEAD(op_list, op) deferred; /* to be completed from the loop */
    struct loop_task deferred_task;
    struct registration *registrations; /* where our consumer stands among the idle: uthash */
    struct hand *hands;                 /* queues where we know what we hold: uthash */
};

struct op;
struct op_kind {
    size_t (*size)(const struct op *op); /* of the command, at most */
    void (*build)(const struct op *op, struct buffer *out);
    /* The end, or an answer: reply is NULL when err is not ERR_NONE (and after a call over nothing). False: it sent another
     * command and goes on. */
    bool (*answer)(struct op *op, const struct err *err, struct redis_reply *reply);
    /* An error reply that is none here: true when another command was sent, or the operation was ended and freed. May be
     * NULL. */
    bool (*recover)(struct op *op, const struct redis_value *error);
};

struct op {
    struct redis_call call; /* first */
    struct queue_redis *queue;
    const struct op_kind *kind;
    struct queue_name name;
    char item[65];        /* name.item: the caller's may be gone by the answer */
    const char *consumer; /* or a worker, or NULL */
    STAILQ_ENTRY(op) deferred;
    struct err deferred_error;
    bool loaded; /* the Functions were loaded for it once */
    void *arg;
    size_t count;
    union {
        queue_done *done;
        queue_enqueued *enqueued;
        queue_claim_done *claimed;
        queue_promoted *promoted;
        queue_depth_done *depth_done;
        queue_flags_done *flags_done;
        queue_deaths_done *deaths_done;
        queue_replies_read *replies_read;
        queue_slots_done *slots_done;
    };
    union {
        const struct queue_entry *entries;
        const struct queue_entry *const *entry_pointers;
        const struct queue_retry *retries;
        const struct queue_dead *dead;
        const struct uuid *ids;
        struct {
            int64_t now_ms;
            size_t max;
        } promote;
        struct {
            const struct queue_reply *replies;
            size_t from, to; /* of the command under way */
        } batch;
        struct {
            const struct uuid *ids;
            size_t from, to;
            struct body *bodies; /* owned */
            struct redis_reply *kept;
        } read;
        struct {
            unsigned partitions;
            int64_t limit, held, want, ttl_ms;
        } slots;
        struct {
            const char *host, *items;
            int64_t pid, in_hand, ttl_ms;
        } heartbeat;
        struct {
            size_t max, found;
            int64_t min_idle_ms; /* takeover */
            bool fills;          /* max is all that the consumer has room for */
            bool wait, created, again;
            unsigned rounds;
            char cursor[QUEUE_ENTRY_ID_MAX];
            enum claim_step step;
            int64_t asked_ms; /* STEP_TAKE, monotonic */
            void (*build_take)(const struct op *op, struct buffer *out);
            const struct queue_entry *pulled;
            const struct redis_value *ids;    /* STEP_FETCH; in `last` */
            struct redis_reply *first, *last; /* with entries, or the ids of those in the next */
        } claim;
    };
};

/* ---- queue_redis.c ---- */
struct op *op_new(struct queue *queue, const struct op_kind *kind, struct queue_name name,
                  void *arg);
/* Sends it, or completes it later with why not. */
void op_start(struct op *op);
/* Sends its command once more; false: the link is down. */
bool op_send(struct op *op);
/* Completes it later, without asking Redis: a call over nothing. */
void op_defer(struct op *op, const struct err *err);
/* Sends what `build` makes and forgets the reply. `arg` is used during the call only. False: not sent. */
bool queue_redis_tell(struct queue_redis *queue, size_t size,
                      void (*build)(const struct queue_redis *, const void *arg,
                                    struct buffer *out),
                      const void *arg);
/* Something hints at lost data: look at the epoch key now. */
void queue_redis_suspect(struct queue_redis *queue);

/* ---- queue_redis_keys.c ---- */
/* "FCALL name count-of-keys", for so many keys and arguments that follow. */
void put_fcall(struct buffer *out, const char *function, size_t keys, size_t args);
/* "prefix:{item/partition}:what", with ":more" when it is not NULL. */
void put_key(struct buffer *out, const struct queue_redis *queue, struct queue_name name,
             const char *what, const char *more);
void put_stream(struct buffer *out, const struct queue_redis *queue, struct queue_name name);
void put_index(struct buffer *out, const struct queue_redis *queue, struct queue_name name);
/* "prefix:what:id" */
void put_plain_key(struct buffer *out, const struct queue_redis *queue, const char *what,
                   const char *id);
void put_id(struct buffer *out, struct uuid id);

/* ---- queue_redis_greeting.c ---- */
size_t queue_redis_library_size(void);
void queue_redis_build_load(const struct queue_redis *queue, const void *arg, struct buffer *out);
/* Sends a greeting: `whole` for a connection that came up, else a look at the epoch key and the Functions. */
void queue_redis_greet(struct queue_redis *queue, bool whole);
void queue_redis_on_epoch_timer(void *arg);
/* In queue_redis.c: the server is known, and whether it is another or empty; or it refuses for good. */
void queue_redis_tell_up(struct queue_redis *queue);
void queue_redis_tell_fatal(void *arg, const struct err *err);

/* ---- queue_redis_entries.c ---- */
/* "1700000000000-3": its milliseconds; false when it is none. */
bool queue_redis_entry_id(struct slice text, char ret[static QUEUE_ENTRY_ID_MAX], int64_t *ret_ms);
/* What is in the replies that the operation kept. */
struct queue_claimed *queue_redis_read(struct op *op);

/* ---- queue_redis_idle.c ---- */
void queue_redis_note_idle(struct queue_redis *queue, struct queue_name name);
/* Who has all that it asked for leaves the idle, or it would be woken in place of one that can work. */
void queue_redis_leave_idle(struct op *op);
/* fifo: where a look at what we hold has to begin, or to go on: an entry id; NULL: we know it. */
const char *queue_redis_unsure(const struct queue_redis *queue, struct queue_name name);
void queue_redis_note_sure(struct queue_redis *queue, struct queue_name name);
void queue_redis_note_sure_to(struct queue_redis *queue, struct queue_name name, const char *from);
void queue_redis_note_unsure(struct queue_redis *queue, struct queue_name name);
void queue_redis_note_all_unsure(struct queue_redis *queue);
/* A wake signal took our consumer from among the idle of this item and partition. */
void queue_redis_unregister(struct queue_redis *queue, const char *item, unsigned partition);
void queue_redis_unregister_all(struct queue_redis *queue);

/* ---- queue_redis_claim.c ---- */
void queue_redis_claim(struct queue *queue, struct queue_name name, const char *consumer,
                       size_t max, bool wait, queue_claim_done *done, void *arg);
void queue_redis_takeover(struct queue *queue, struct queue_name name, const char *consumer,
                          int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg);
void queue_redis_inherit(struct queue *queue, struct queue_name name, const char *consumer,
                         size_t max, queue_claim_done *done, void *arg);
void queue_redis_pull(struct queue *queue, struct queue_name name, const char *consumer,
                      const struct queue_entry *entries, size_t count, queue_claim_done *done,
                      void *arg);

/* ---- queue_redis_beside.c ---- */
void queue_redis_bury(struct queue *queue, const char *item, const struct queue_dead *dead,
                      size_t count, queue_done *done, void *arg);
void queue_redis_unbury(struct queue *queue, const char *item, const struct uuid *ids, size_t count,
                        queue_done *done, void *arg);
void queue_redis_replies(struct queue *queue, const char *item, const struct queue_reply *replies,
                         size_t count, queue_done *done, void *arg);
void queue_redis_read_replies(struct queue *queue, const char *item, const struct uuid *ids,
                              size_t count, queue_replies_read *done, void *arg);
void queue_redis_slots(struct queue *queue, struct queue_name name, unsigned partitions,
                       const char *holder, int64_t limit, int64_t held, int64_t want,
                       int64_t ttl_ms, queue_slots_done *done, void *arg);
void queue_redis_heartbeat(struct queue *queue, const char *worker, const char *host, int64_t pid,
                           const char *items, int64_t in_hand, int64_t ttl_ms, queue_done *done,
                           void *arg);
void queue_redis_leave(struct queue *queue, struct queue_name name, const char *consumer,
                       queue_done *done, void *arg);

/* ---- queue_redis_calls.c ---- */
#define ID_SIZE (UUID_TEXT_LEN + REDIS_BULK_OVERHEAD)
#define NUMBER_SIZE (24u + REDIS_BULK_OVERHEAD)
#define ENTRY_ID_SIZE (QUEUE_ENTRY_ID_MAX + REDIS_BULK_OVERHEAD)

extern const struct queue_ops queue_redis_ops;
int64_t integer_at(const struct redis_reply *reply, size_t index);
bool answer_done(struct op *op, const struct err *err, struct redis_reply *reply);
size_t size_head(const struct op *op);
/* Starts a call over `count` things. */
void op_start_over(struct op *op, size_t count);
/* The five keys and seven arguments an entry of hie1_enqueue, and what they take. */
size_t enqueue_args_size(const struct queue_entry *entries, size_t count);
void put_enqueue_keys(const struct op *op, struct buffer *out);
void put_enqueue_args(const struct queue_entry *entries, size_t count, struct buffer *out);
void queue_redis_free(struct queue *queue); /* in queue_redis.c */

#endif
