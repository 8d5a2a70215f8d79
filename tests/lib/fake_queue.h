/* A queue for tests of state machines: keeps each call until the test answers it. */
#ifndef HIE_TESTS_FAKE_QUEUE_H
#define HIE_TESTS_FAKE_QUEUE_H

#include "base/mem.h"
#include "queue/queue.h"

#include <check.h>
#include <stdlib.h>
#include <sys/queue.h>

enum fake_queue_op {
    FAKE_ENQUEUE,
    FAKE_QUEUE_CLAIM,
    FAKE_TAKEOVER,
    FAKE_RENEW,
    FAKE_HAND_BACK,
    FAKE_FINISH,
    FAKE_RETRY,
    FAKE_PROMOTE,
    FAKE_BURY,
    FAKE_DEPTH,
    FAKE_MISSING,
    FAKE_HELD,
    FAKE_WITHDRAW,
    FAKE_COUNT_DEATHS,
    FAKE_INHERIT,
    FAKE_PULL,
    FAKE_UNBURY,
    FAKE_REPLIES,
    FAKE_READ_REPLIES,
    FAKE_SLOTS,
};

struct fake_queue_call {
    TAILQ_ENTRY(fake_queue_call) link;
    enum fake_queue_op op;
    struct queue_name name;
    const struct queue_entry *entries;
    const struct queue_entry *const *pointers;
    const struct queue_retry *retries;
    const struct queue_dead *dead;
    const struct queue_reply *replies;
    const struct uuid *ids;
    int64_t limit, held, want; /* of slots */
    const char *holder;        /* of slots */
    size_t count;
    void (*done)(void);
    void *arg;
};

struct fake_queue {
    struct queue queue;
    TAILQ_HEAD(, fake_queue_call) calls;
};

static struct fake_queue_call *fake_queue_add(struct queue *queue, enum fake_queue_op op,
                                              struct queue_name name, size_t count,
                                              void (*done)(void), void *arg)
{
    struct fake_queue *fake = (struct fake_queue *)queue;
    struct fake_queue_call *call = mem_alloc(sizeof(*call));
    call->op = op;
    call->name = name;
    call->count = count;
    call->done = done;
    call->arg = arg;
    TAILQ_INSERT_TAIL(&fake->calls, call, link);
    return call;
}

#define FAKE_QUEUE_DONE(done) ((void (*)(void))(done))

static inline void fake_enqueue(struct queue *queue, struct queue_name name,
                                const struct queue_entry *entries, size_t count,
                                queue_enqueued *done, void *arg)
{
    fake_queue_add(queue, FAKE_ENQUEUE, name, count, FAKE_QUEUE_DONE(done), arg)->entries = entries;
}

static inline void fake_queue_claim(struct queue *queue, struct queue_name name,
                                    const char *consumer, size_t max, bool wait,
                                    queue_claim_done *done, void *arg)
{
    (void)consumer;
    (void)wait;
    fake_queue_add(queue, FAKE_QUEUE_CLAIM, name, max, FAKE_QUEUE_DONE(done), arg);
}

static inline void fake_takeover(struct queue *queue, struct queue_name name, const char *consumer,
                                 int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg)
{
    (void)consumer;
    (void)min_idle_ms;
    fake_queue_add(queue, FAKE_TAKEOVER, name, max, FAKE_QUEUE_DONE(done), arg);
}

static inline void fake_renew(struct queue *queue, struct queue_name name, const char *consumer,
                              const struct queue_entry *const *entries, size_t count,
                              queue_done *done, void *arg)
{
    (void)consumer;
    fake_queue_add(queue, FAKE_RENEW, name, count, FAKE_QUEUE_DONE(done), arg)->pointers = entries;
}

static inline void fake_hand_back(struct queue *queue, struct queue_name name, const char *consumer,
                                  const struct queue_entry *const *entries, size_t count,
                                  queue_done *done, void *arg)
{
    (void)consumer;
    fake_queue_add(queue, FAKE_HAND_BACK, name, count, FAKE_QUEUE_DONE(done), arg)->pointers =
        entries;
}

static inline void fake_finish(struct queue *queue, struct queue_name name,
                               const struct queue_entry *const *entries, size_t count,
                               queue_done *done, void *arg)
{
    fake_queue_add(queue, FAKE_FINISH, name, count, FAKE_QUEUE_DONE(done), arg)->pointers = entries;
}

static inline void fake_retry(struct queue *queue, struct queue_name name, const char *consumer,
                              const struct queue_retry *retries, size_t count, queue_done *done,
                              void *arg)
{
    (void)consumer;
    fake_queue_add(queue, FAKE_RETRY, name, count, FAKE_QUEUE_DONE(done), arg)->retries = retries;
}

static inline void fake_promote(struct queue *queue, struct queue_name name, int64_t now_ms,
                                size_t max, queue_promoted *done, void *arg)
{
    (void)now_ms;
    fake_queue_add(queue, FAKE_PROMOTE, name, max, FAKE_QUEUE_DONE(done), arg);
}

static inline void fake_bury(struct queue *queue, const char *item, const struct queue_dead *dead,
                             size_t count, queue_done *done, void *arg)
{
    struct queue_name name = {.item = item};
    fake_queue_add(queue, FAKE_BURY, name, count, FAKE_QUEUE_DONE(done), arg)->dead = dead;
}

static inline void fake_unbury(struct queue *queue, const char *item, const struct uuid *ids,
                               size_t count, queue_done *done, void *arg)
{
    struct queue_name name = {.item = item};
    fake_queue_add(queue, FAKE_UNBURY, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_depth(struct queue *queue, struct queue_name name, queue_depth_done *done,
                              void *arg)
{
    fake_queue_add(queue, FAKE_DEPTH, name, 1, FAKE_QUEUE_DONE(done), arg);
}

static inline void fake_missing(struct queue *queue, struct queue_name name, const struct uuid *ids,
                                size_t count, queue_flags_done *done, void *arg)
{
    fake_queue_add(queue, FAKE_MISSING, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_held(struct queue *queue, struct queue_name name, const struct uuid *ids,
                             size_t count, queue_flags_done *done, void *arg)
{
    fake_queue_add(queue, FAKE_HELD, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_withdraw(struct queue *queue, struct queue_name name,
                                 const struct uuid *ids, size_t count, queue_flags_done *done,
                                 void *arg)
{
    fake_queue_add(queue, FAKE_WITHDRAW, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_count_deaths(struct queue *queue, struct queue_name name,
                                     const struct uuid *ids, size_t count, queue_deaths_done *done,
                                     void *arg)
{
    fake_queue_add(queue, FAKE_COUNT_DEATHS, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_inherit(struct queue *queue, struct queue_name name, const char *consumer,
                                size_t max, queue_claim_done *done, void *arg)
{
    (void)consumer;
    fake_queue_add(queue, FAKE_INHERIT, name, max, FAKE_QUEUE_DONE(done), arg);
}

static inline void fake_pull(struct queue *queue, struct queue_name name, const char *consumer,
                             const struct queue_entry *entries, size_t count,
                             queue_claim_done *done, void *arg)
{
    (void)consumer;
    fake_queue_add(queue, FAKE_PULL, name, count, FAKE_QUEUE_DONE(done), arg)->entries = entries;
}

static inline void fake_replies(struct queue *queue, const char *item,
                                const struct queue_reply *replies, size_t count, queue_done *done,
                                void *arg)
{
    struct queue_name name = {.item = item};
    fake_queue_add(queue, FAKE_REPLIES, name, count, FAKE_QUEUE_DONE(done), arg)->replies = replies;
}

static inline void fake_read_replies(struct queue *queue, const char *item, const struct uuid *ids,
                                     size_t count, queue_replies_read *done, void *arg)
{
    struct queue_name name = {.item = item};
    fake_queue_add(queue, FAKE_READ_REPLIES, name, count, FAKE_QUEUE_DONE(done), arg)->ids = ids;
}

static inline void fake_slots(struct queue *queue, struct queue_name name, unsigned partitions,
                              const char *holder, int64_t limit, int64_t held, int64_t want,
                              int64_t ttl_ms, queue_slots_done *done, void *arg)
{
    (void)ttl_ms;
    struct fake_queue_call *call =
        fake_queue_add(queue, FAKE_SLOTS, name, partitions, FAKE_QUEUE_DONE(done), arg);
    call->limit = limit;
    call->held = held;
    call->want = want;
    call->holder = holder;
}

static inline void fake_leave(struct queue *queue, struct queue_name name, const char *consumer,
                              queue_done *done, void *arg)
{
    (void)queue;
    (void)name;
    (void)consumer;
    (void)done; /* left unanswered */
    (void)arg;
}

static const struct queue_ops fake_queue_ops = {
    .leave = fake_leave,
    .enqueue = fake_enqueue,
    .claim = fake_queue_claim,
    .takeover = fake_takeover,
    .renew = fake_renew,
    .hand_back = fake_hand_back,
    .finish = fake_finish,
    .retry = fake_retry,
    .promote = fake_promote,
    .bury = fake_bury,
    .depth = fake_depth,
    .missing = fake_missing,
    .held = fake_held,
    .withdraw = fake_withdraw,
    .count_deaths = fake_count_deaths,
    .inherit = fake_inherit,
    .pull = fake_pull,
    .unbury = fake_unbury,
    .replies = fake_replies,
    .read_replies = fake_read_replies,
    .slots = fake_slots,
};

static inline void fake_queue_init(struct fake_queue *fake)
{
    *fake = (struct fake_queue){.queue = {.ops = &fake_queue_ops}};
    TAILQ_INIT(&fake->calls);
}

static inline size_t fake_queue_pending(struct fake_queue *fake)
{
    size_t count = 0;
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &fake->calls, link)
    count++;
    return count;
}

/* The oldest call of that kind, taken out; NULL when there is none. */
static inline struct fake_queue_call *fake_queue_find(struct fake_queue *fake,
                                                      enum fake_queue_op op)
{
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &fake->calls, link)
    {
        if (call->op == op) {
            TAILQ_REMOVE(&fake->calls, call, link);
            return call;
        }
    }
    return NULL;
}

/* The same, which must be there. */
static inline struct fake_queue_call *fake_queue_take(struct fake_queue *fake,
                                                      enum fake_queue_op op)
{
    struct fake_queue_call *call = fake_queue_find(fake, op);
    ck_assert_msg(call != NULL, "the queue was not called for operation %d", op);
    return call;
}

/* Answers finish, retry, renew, hand_back, bury, unbury, reply or replies. */
static inline void fake_queue_answer(struct fake_queue_call *call, const struct err *err)
{
    queue_done *done = (queue_done *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err);
}

static inline void fake_queue_answer_depth(struct fake_queue_call *call, const struct err *err,
                                           int64_t depth)
{
    queue_enqueued *done = (queue_enqueued *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err, depth);
}

/* Answers a claim, takeover, inherit or pull with entries of these ids (at most 16). */
static inline void fake_queue_answer_claim(struct fake_queue_call *call, const struct uuid *ids,
                                           size_t count)
{
    static const struct err ok = {.code = ERR_NONE};
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    claimed->entries = mem_array(count, sizeof(*claimed->entries));
    claimed->count = count;
    claimed->references = 1;
    for (size_t i = 0; i < count; i++) {
        claimed->entries[i].id = ids[i];
        claimed->entries[i].entry_id[0] = (char)('a' + i);
        claimed->entries[i].at_ms = uuid_wall_ms(ids[i]);
        claimed->entries[i].body = body_of("MSH|^~\\&|A|B", 12);
    }
    queue_claim_done *done = (queue_claim_done *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, &ok, claimed);
}

/* Answers missing or held. */
static inline void fake_queue_answer_flags(struct fake_queue_call *call, const struct err *err,
                                           const bool *flags)
{
    queue_flags_done *done = (queue_flags_done *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err, flags);
}

/* Answers read_replies. */
static inline void fake_queue_answer_replies(struct fake_queue_call *call, const struct err *err,
                                             const struct body *bodies)
{
    queue_replies_read *done = (queue_replies_read *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err, bodies);
}

static inline void fake_queue_answer_slots(struct fake_queue_call *call, const struct err *err,
                                           int64_t granted, int64_t depth)
{
    queue_slots_done *done = (queue_slots_done *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err, granted, depth);
}

/* Ends every call as a link does that is freed: outcome unknown. */
static inline void fake_queue_end(struct fake_queue *fake)
{
    static const struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    struct fake_queue_call *call;
    while ((call = TAILQ_FIRST(&fake->calls))) {
        TAILQ_REMOVE(&fake->calls, call, link);
        switch (call->op) {
        case FAKE_ENQUEUE:
            ((queue_enqueued *)call->done)(call->arg, &lost, 0);
            break;
        case FAKE_QUEUE_CLAIM:
        case FAKE_TAKEOVER:
        case FAKE_INHERIT:
        case FAKE_PULL:
            ((queue_claim_done *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_PROMOTE:
            ((queue_promoted *)call->done)(call->arg, &lost, 0, -1);
            break;
        case FAKE_DEPTH:
            ((queue_depth_done *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_MISSING:
        case FAKE_HELD:
        case FAKE_WITHDRAW:
            ((queue_flags_done *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_COUNT_DEATHS:
            ((queue_deaths_done *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_READ_REPLIES:
            ((queue_replies_read *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_SLOTS:
            ((queue_slots_done *)call->done)(call->arg, &lost, 0, 0);
            break;
        default:
            ((queue_done *)call->done)(call->arg, &lost);
        }
        free(call);
    }
}

#endif
