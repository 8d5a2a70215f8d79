/* A Redis of its own and queues on it, each call made to wait for its completion. */
#ifndef HIE_TESTS_QUEUE_FIXTURE_H
#define HIE_TESTS_QUEUE_FIXTURE_H

#include "base/clock.h"
#include "base/mem.h"
#include "queue/queue.h"
#include "redis_server.h"

#include <check.h>
#include <event2/event.h>

static struct redis_server server;
static struct loop *loop;
static struct loop_timer ticker;

static const struct queue_name ADT = {
    .item = "ADT", .pattern = PATTERN_ASYNC_RELIABLE, .type = QUEUE_UNORDERED};

/* What a queue told its owner. */
struct peer {
    struct queue *queue;
    const char *id;
    int ups, fresh_ups, downs, fatals, wakes, replies;
    char wake[128];
    struct {
        struct uuid id;
        char status[32], error[128], content_type[64];
        bool has_error, left_out;
        struct buffer body;
    } reply; /* the last */
    struct err down, fatal;
};

static void tick(void *arg)
{
    (void)arg;
    loop_timer_set(&ticker, 2);
}

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        int64_t until_ms_ = clock_mono_ms() + 20000;                                               \
        while (!(condition) && clock_mono_ms() < until_ms_)                                        \
            event_base_loop(loop_base(loop), EVLOOP_ONCE);                                         \
        ck_assert_msg((condition), "never came true: %s", #condition);                             \
    } while (0)

/* Lets things happen that must not. */
static inline void run_for_ms(int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms;
    while (clock_mono_ms() < until_ms)
        event_base_loop(loop_base(loop), EVLOOP_ONCE);
}

static inline void start_loop(void)
{
    loop = loop_new();
    loop_timer_init(&ticker, loop, tick, NULL);
    loop_timer_set(&ticker, 2);
}

static inline void stop_loop(void)
{
    loop_timer_done(&ticker);
    loop = loop_free(loop);
}

static void peer_wake(void *arg, const char *item, enum messaging_pattern pattern,
                      unsigned partition)
{
    struct peer *peer = arg;
    peer->wakes++;
    snprintf(peer->wake, sizeof(peer->wake), "%s %s %u", item, messaging_pattern_words[pattern],
             partition);
}

static void peer_up(void *arg, bool fresh)
{
    struct peer *peer = arg;
    peer->ups++;
    peer->fresh_ups += fresh;
}

static void peer_down(void *arg, const struct err *err)
{
    struct peer *peer = arg;
    peer->downs++;
    peer->down = *err;
}

static void peer_fatal(void *arg, const struct err *err)
{
    struct peer *peer = arg;
    peer->fatals++;
    peer->fatal = *err;
}

static void peer_reply(void *arg, const struct queue_reply *reply)
{
    struct peer *peer = arg;
    peer->replies++;
    peer->reply.id = reply->id;
    peer->reply.left_out = reply->left_out;
    peer->reply.has_error = reply->error != NULL;
    snprintf(peer->reply.status, sizeof(peer->reply.status), "%s", reply->status);
    snprintf(peer->reply.error, sizeof(peer->reply.error), "%s", reply->error ? reply->error : "");
    snprintf(peer->reply.content_type, sizeof(peer->reply.content_type), "%.*s",
             (int)reply->content_type.len, reply->content_type.ptr ? reply->content_type.ptr : "");
    buffer_done(&peer->reply.body);
    buffer_init(&peer->reply.body, MESSAGE_INLINE_MAX);
    buffer_append(&peer->reply.body, reply->body.ptr, reply->body.len);
}

/* With an id it is a worker, else a dispatcher. */
static inline void peer_start_at(struct peer *peer, const char *id, const char *url)
{
    *peer = (struct peer){.id = id};
    const struct queue_redis_options options = {.url = url,
                                                .key_prefix = "hie",
                                                .consumer = id,
                                                .on_wake = peer_wake,
                                                .on_up = peer_up,
                                                .on_down = peer_down,
                                                .on_fatal = peer_fatal,
                                                .arg = peer};
    peer->queue = queue_redis_new(loop, &options);
}

static inline void peer_start(struct peer *peer, const char *id)
{
    peer_start_at(peer, id, server.url);
    WAIT_FOR(peer->ups == 1);
    ck_assert(queue_redis_is_up(peer->queue));
}

/* A dispatcher to whom replies are published. */
static inline void peer_start_listener(struct peer *peer, const char *listener)
{
    *peer = (struct peer){.id = NULL};
    const struct queue_redis_options options = {.url = server.url,
                                                .key_prefix = "hie",
                                                .listener = listener,
                                                .on_reply = peer_reply,
                                                .on_up = peer_up,
                                                .on_down = peer_down,
                                                .on_fatal = peer_fatal,
                                                .arg = peer};
    peer->queue = queue_redis_new(loop, &options);
    WAIT_FOR(peer->ups == 1);
}

static inline void peer_stop(struct peer *peer)
{
    peer->queue->ops->free(peer->queue);
    peer->queue = NULL;
    buffer_done(&peer->reply.body);
}

/* The result of one call. */
struct result {
    int ended;
    struct err err;
    int64_t number, number2;
    struct queue_claimed *claimed;
    struct queue_depth depth;
    bool flags[QUEUE_BATCH_MAX];
    size_t flag_count;
};

static void on_done(void *arg, const struct err *err)
{
    struct result *result = arg;
    result->ended++;
    result->err = *err;
}

static void on_enqueued(void *arg, const struct err *err, int64_t depth)
{
    on_done(arg, err);
    ((struct result *)arg)->number = depth;
}

static void on_claimed(void *arg, const struct err *err, struct queue_claimed *claimed)
{
    on_done(arg, err);
    ((struct result *)arg)->claimed = claimed;
}

static void on_promoted(void *arg, const struct err *err, int64_t moved, int64_t next_due_ms)
{
    on_done(arg, err);
    ((struct result *)arg)->number = moved;
    ((struct result *)arg)->number2 = next_due_ms;
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    on_done(arg, err);
    ((struct result *)arg)->depth = *depth;
}

static void on_missing(void *arg, const struct err *err, const bool *missing)
{
    struct result *result = arg;
    on_done(arg, err);
    memcpy(result->flags, missing, result->flag_count);
}

/* Runs the loop until the call has ended; it must not have ended inside the call, and well. */
static inline void wait_ok(struct result *result)
{
    ck_assert_int_eq(result->ended, 0);
    WAIT_FOR(result->ended > 0);
    ck_assert_int_eq(result->ended, 1);
    ck_assert_msg(result->err.code == ERR_NONE, "%s: %s", error_word(result->err.code),
                  result->err.text);
}

static inline int64_t enqueue(struct peer *peer, struct queue_name name,
                              const struct queue_entry *entries, size_t count)
{
    struct result result = {0};
    peer->queue->ops->enqueue(peer->queue, name, entries, count, on_enqueued, &result);
    wait_ok(&result);
    return result.number;
}

static inline struct queue_claimed *claim(struct peer *peer, struct queue_name name, size_t max,
                                          bool wait)
{
    struct result result = {0};
    peer->queue->ops->claim(peer->queue, name, peer->id, max, wait, on_claimed, &result);
    wait_ok(&result);
    ck_assert_ptr_nonnull(result.claimed);
    return result.claimed;
}

/* Claims and drops what it got; how many there were. */
static inline size_t claim_count(struct peer *peer, struct queue_name name, size_t max, bool wait)
{
    struct queue_claimed *claimed = claim(peer, name, max, wait);
    size_t count = claimed->count;
    queue_claimed_unref(claimed);
    return count;
}

static inline struct queue_claimed *takeover(struct peer *peer, struct queue_name name,
                                             int64_t min_idle_ms, size_t max)
{
    struct result result = {0};
    peer->queue->ops->takeover(peer->queue, name, peer->id, min_idle_ms, max, on_claimed, &result);
    wait_ok(&result);
    ck_assert_ptr_nonnull(result.claimed);
    return result.claimed;
}

static inline struct queue_claimed *inherit(struct peer *peer, struct queue_name name, size_t max)
{
    struct result result = {0};
    peer->queue->ops->inherit(peer->queue, name, peer->id, max, on_claimed, &result);
    wait_ok(&result);
    ck_assert_ptr_nonnull(result.claimed);
    return result.claimed;
}

static inline struct queue_claimed *pull(struct peer *peer, struct queue_name name,
                                         const struct queue_entry *entries, size_t count)
{
    struct result result = {0};
    peer->queue->ops->pull(peer->queue, name, peer->id, entries, count, on_claimed, &result);
    wait_ok(&result);
    ck_assert_ptr_nonnull(result.claimed);
    return result.claimed;
}

typedef void in_hand_call(struct queue *, struct queue_name, const char *,
                          const struct queue_entry *const *, size_t, queue_done *, void *);

static inline void pointers_of(const struct queue_claimed *claimed, const struct queue_entry **ret)
{
    for (size_t i = 0; i < claimed->count; i++)
        ret[i] = &claimed->entries[i];
}

static inline void with_entries(struct peer *peer, in_hand_call *call, struct queue_name name,
                                const struct queue_claimed *claimed)
{
    struct result result = {0};
    const struct queue_entry *entries[QUEUE_BATCH_MAX];
    pointers_of(claimed, entries);
    call(peer->queue, name, peer->id, entries, claimed->count, on_done, &result);
    wait_ok(&result);
}

static inline void renew(struct peer *peer, struct queue_name name,
                         const struct queue_claimed *claimed)
{
    with_entries(peer, peer->queue->ops->renew, name, claimed);
}

static inline void hand_back(struct peer *peer, struct queue_name name,
                             const struct queue_claimed *claimed)
{
    with_entries(peer, peer->queue->ops->hand_back, name, claimed);
}

static inline void finish(struct peer *peer, struct queue_name name,
                          const struct queue_claimed *claimed)
{
    struct result result = {0};
    const struct queue_entry *entries[QUEUE_BATCH_MAX];
    pointers_of(claimed, entries);
    peer->queue->ops->finish(peer->queue, name, entries, claimed->count, on_done, &result);
    wait_ok(&result);
}

static inline void retry(struct peer *peer, struct queue_name name,
                         const struct queue_claimed *claimed, int64_t due_ms)
{
    struct result result = {0};
    struct queue_retry retries[QUEUE_BATCH_MAX];
    for (size_t i = 0; i < claimed->count; i++) {
        retries[i] = (struct queue_retry){.id = claimed->entries[i].id, .due_ms = due_ms};
        memcpy(retries[i].entry_id, claimed->entries[i].entry_id, QUEUE_ENTRY_ID_MAX);
    }
    peer->queue->ops->retry(peer->queue, name, peer->id, retries, claimed->count, on_done, &result);
    wait_ok(&result);
}

static inline int64_t promote(struct peer *peer, struct queue_name name, int64_t now_ms, size_t max,
                              int64_t *ret_next)
{
    struct result result = {0};
    peer->queue->ops->promote(peer->queue, name, now_ms, max, on_promoted, &result);
    wait_ok(&result);
    *ret_next = result.number2;
    return result.number;
}

static inline struct queue_depth depth(struct peer *peer, struct queue_name name)
{
    struct result result = {0};
    peer->queue->ops->depth(peer->queue, name, on_depth, &result);
    wait_ok(&result);
    return result.depth;
}

static inline bool is_missing(struct peer *peer, struct queue_name name, struct uuid id)
{
    struct result result = {.flag_count = 1};
    peer->queue->ops->missing(peer->queue, name, &id, 1, on_missing, &result);
    wait_ok(&result);
    return result.flags[0];
}

static inline bool is_held(struct peer *peer, struct queue_name name, struct uuid id)
{
    struct result result = {.flag_count = 1};
    peer->queue->ops->held(peer->queue, name, &id, 1, on_missing, &result);
    wait_ok(&result);
    return result.flags[0];
}

/* It is not in the queue any more. */
static inline bool withdraw(struct peer *peer, struct queue_name name, struct uuid id)
{
    struct result result = {.flag_count = 1};
    peer->queue->ops->withdraw(peer->queue, name, &id, 1, on_missing, &result);
    wait_ok(&result);
    return result.flags[0];
}

/* Entries as the dispatcher makes them. The bodies are texts. */
static inline struct queue_entry entry_of(const char *body)
{
    static char meta[64]; /* {"in_wal": 1} */
    static struct buffer packed;
    if (!packed.data) {
        buffer_init(&packed, sizeof(meta));
        meta_pack(&(const struct meta){.in_wal = true}, &packed);
        memcpy(meta, packed.data, packed.len);
        free(packed.data);
        packed.data = meta;
    }
    int64_t now = clock_wall_ms();
    return (struct queue_entry){.id = uuid_new(now),
                                .at_ms = now,
                                .meta = buffer_slice(&packed),
                                .body = body_of(body, strlen(body))};
}

static inline struct uuid enqueue_one(struct peer *peer, struct queue_name name, const char *body)
{
    struct queue_entry entry = entry_of(body);
    enqueue(peer, name, &entry, 1);
    return entry.id;
}

/* The bodies of a claim, each with a blank behind it, `!` before those that were taken over. Gives the claim up. */
static inline const char *bodies_of(struct queue_claimed *claimed)
{
    static char text[8192];
    size_t len = 0;
    text[0] = '\0';
    for (size_t i = 0; i < claimed->count; i++) {
        const struct queue_entry *entry = &claimed->entries[i];
        len +=
            (size_t)snprintf(text + len, sizeof(text) - len, "%s%.*s ",
                             entry->taken_over ? "!" : "", (int)entry->body.len, entry->body.ptr);
        ck_assert_uint_lt(len, sizeof(text));
    }
    queue_claimed_unref(claimed);
    return text;
}

/* What runs without memory to spare, and what does not. */
static inline void fill_server(bool is_full)
{
    freeReplyObject(redis_server_command(&server, "CONFIG SET maxmemory %s", is_full ? "1" : "0"));
}

static inline void flush_server(void)
{
    freeReplyObject(redis_server_command(&server, "FLUSHALL"));
}

#endif
