/* Inside of the Redis queue: the queue over its two links, and an operation, which is one call of queue.h under way.
 *
 *   queue_redis.c        connections, what a fresh Redis is, operations in general
 *   queue_redis_calls.c  the operations that are one Function call each
 *   queue_redis_claim.c  claim and takeover, which read entries
 *   queue_redis_keys.c   names of keys and the heads of commands */
#ifndef HIE_QUEUE_QUEUE_REDIS_H
#define HIE_QUEUE_QUEUE_REDIS_H

#include "link/redis_link.h"
#include "queue/queue.h"

#define QUEUE_REDIS_REVISION 4 /* of schemas/redis/hie1.lua */
#define QUEUE_REDIS_GROUP "workers"
#define QUEUE_REDIS_HEAD 8192u /* bytes of a command's name, keys and single arguments, at most */

struct registration;

struct queue_redis {
    struct queue base; /* first */
    struct loop *loop;
    struct queue_redis_options options; /* its texts are copies */
    struct redis_link *commands;
    struct redis_link *wakes; /* NULL without a consumer */

    bool greeted; /* the command link is up and the server is known: operations may go out */
    bool told_up; /* on_up was called, on_down not yet */
    bool told_down; /* since it was last up */
    bool told_fatal;
    bool freeing;
    bool fresh; /* not told yet */
    bool known; /* the three below are of the last server that we greeted */
    char run_id[64], replication_id[64], epoch[64];
    struct queue_greeting *greeting; /* under way */
    struct loop_timer epoch_timer;   /* the next look at the epoch key */

    STAILQ_HEAD(op_list, op) deferred; /* to be completed from the loop */
    struct loop_task deferred_task;
    struct registration *registrations; /* where our consumer stands among the idle: uthash */
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
            struct uuid id;
            struct slice body;
            int64_t ttl_ms;
        } reply;
        struct {
            const char *host, *items;
            int64_t pid, in_hand, ttl_ms;
        } heartbeat;
        struct {
            size_t max, found;
            int64_t min_idle_ms; /* takeover */
            bool wait, registered, created;
            unsigned rounds;
            char cursor[QUEUE_ENTRY_ID_MAX];
            struct redis_reply *first, *last;
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

/* ---- queue_redis_claim.c ---- */
void queue_redis_claim(struct queue *queue, struct queue_name name, const char *consumer,
                       size_t max, bool wait, queue_claim_done *done, void *arg);
void queue_redis_takeover(struct queue *queue, struct queue_name name, const char *consumer,
                          int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg);
/* A wake signal took our consumer from among the idle of this item and partition. */
void queue_redis_unregister(struct queue_redis *queue, const char *item, unsigned partition);
void queue_redis_unregister_all(struct queue_redis *queue);

/* ---- queue_redis_calls.c ---- */
extern const struct queue_ops queue_redis_ops;
void queue_redis_free(struct queue *queue); /* in queue_redis.c */

#endif
