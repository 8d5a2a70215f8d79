/* The fake Redis: what queue.h's calls do to streams, groups and keys, as schemas/redis.md has it. It never waits and never fails;
 * the network in front of it does (sim_queue.c). */
#ifndef HIE_SIM_REDIS_H
#define HIE_SIM_REDIS_H

#include "queue/queue.h"
#include "sim_link.h"

#include <uthash.h>

#define REDIS_NAME_MAX 32
#define REDIS_IDLE_MAX 32

/* The bytes of an entry, shared by all who look at them. */
struct redis_content {
    unsigned references;
    struct slice key, meta;
    struct body body;
    char bytes[];
};
struct redis_content *redis_content_new(struct slice key, struct slice meta, struct body body);
struct redis_content *redis_content_ref(struct redis_content *content);
void redis_content_unref(struct redis_content *content);

struct redis_entry {
    TAILQ_ENTRY(redis_entry) link; /* in stream->entries, or in stream->delayed */
    int64_t number;                /* its place: the entry id */
    struct uuid id;
    int64_t at_ms, due_ms;
    int priority, attempts, deaths;
    struct redis_content *content;
    char consumer[REDIS_NAME_MAX]; /* in whose hand; "": nobody's */
    int64_t since_us;              /* … without renewal */
    bool put_down;                 /* fifo: handed back, stays in its hand by name */
    bool dropped;                  /* priority, lifo: it was in the hand of one who fell silent */
};

struct redis_index {
    struct uuid id;
    int64_t number; /* of its entry; 0: delayed */
    UT_hash_handle hh;
};

TAILQ_HEAD(redis_entries, redis_entry);

struct redis_stream {
    TAILQ_ENTRY(redis_stream) link;
    char item[REDIS_NAME_MAX];
    enum messaging_pattern pattern;
    unsigned partition;
    struct redis_entries entries, delayed;
    struct redis_index *index;
    int64_t last; /* what unordered and fifo delivered last */
    char idle[REDIS_IDLE_MAX][REDIS_NAME_MAX];
    size_t idle_count;
};
TAILQ_HEAD(redis_streams, redis_stream);

struct redis_reply {
    struct uuid id;
    struct redis_content *content;
    UT_hash_handle hh;
};

struct redis_holder { /* of slots */
    TAILQ_ENTRY(redis_holder) link;
    char item[REDIS_NAME_MAX], holder[48];
    int64_t count, until_us;
};

/* What FLUSHALL takes away. */
struct redis_data {
    struct redis_streams streams;
    struct redis_reply *replies;
    TAILQ_HEAD(, redis_holder) holders;
};

struct sim_queue;
struct redis {
    struct sim_server server;
    struct redis_data data;
    struct redis_data *saved; /* what the disk has; NULL: nothing is kept aside */
    int64_t last_number;
    uint64_t epoch;
    int64_t silent_until_us; /* nobody could reach it */
    TAILQ_HEAD(, sim_queue) clients;
};
extern struct redis redis;

void redis_init(void);
void redis_done(void);
void redis_flush(void);
/* Keeps a copy; redis_go_back makes it what there is. */
void redis_save(void);
void redis_go_back(void);
/* The first stream that holds anything, for a message about it; NULL: none does. */
const struct redis_stream *redis_first_left(void);
void redis_say_left(void); /* in the trace */

/* An entry as a caller gives it. */
struct redis_given {
    struct uuid id;
    int64_t number; /* 0: it does not name one */
    int64_t at_ms, due_ms;
    int priority, attempts;
    struct redis_content *content; /* NULL: not given */
};

int64_t redis_enqueue(struct queue_name name, const struct redis_given *given, size_t count);
/* `after`: first what it holds behind that one; set to where that came to, or to -1 when it is through. NULL: not. */
struct queue_claimed *redis_claim(struct queue_name name, const char *consumer, size_t max,
                                  bool wait, int64_t *after);
/* unordered, fifo: it found fewer than it wanted. So it is idle from here on, and looks once more. */
struct queue_claimed *redis_claim_again(struct queue_name name, const char *consumer, size_t max);
struct queue_claimed *redis_join(const struct queue_claimed *first,
                                 const struct queue_claimed *second);
/* What it was told to have taken, as far as that is there: into its hand once more, whoever took it since. */
struct queue_claimed *redis_fetch(struct queue_name name, const char *consumer,
                                  const struct queue_claimed *taken);
struct queue_claimed *redis_takeover(struct queue_name name, const char *consumer,
                                     int64_t min_idle_ms, size_t max);
struct queue_claimed *redis_inherit(struct queue_name name, const char *consumer, size_t max);
struct queue_claimed *redis_pull(struct queue_name name, const char *consumer,
                                 const struct redis_given *given, size_t count);
void redis_renew(struct queue_name name, const char *consumer, const struct redis_given *given,
                 size_t count);
void redis_hand_back(struct queue_name name, const char *consumer, const struct redis_given *given,
                     size_t count);
void redis_finish(struct queue_name name, const struct redis_given *given, size_t count);
void redis_retry(struct queue_name name, const char *consumer, const struct redis_given *given,
                 size_t count);
int64_t redis_promote(struct queue_name name, int64_t now_ms, size_t max, int64_t *ret_next_ms);
struct queue_depth redis_depth_of(struct queue_name name);
bool redis_is_missing(struct queue_name name, struct uuid id);
bool redis_is_held(struct queue_name name, struct uuid id);
int redis_count_death(struct queue_name name, struct uuid id);
void redis_leave(struct queue_name name, const char *consumer);
int64_t redis_slots(struct queue_name name, unsigned partitions, const char *holder, int64_t limit,
                    int64_t held, int64_t want, int64_t ttl_ms, int64_t *ret_depth);
void redis_leave_reply(struct uuid id, struct redis_content *content);
struct body redis_read_reply(struct uuid id);

/* sim_queue.c: true when the consumer hears it. */
bool sim_queue_wake(const char *consumer, const struct redis_stream *stream);

#endif
