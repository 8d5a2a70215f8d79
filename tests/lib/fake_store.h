/* A store for tests of state machines: keeps each call until the test answers it. */
#ifndef HIE_TESTS_FAKE_STORE_H
#define HIE_TESTS_FAKE_STORE_H

#include "base/mem.h"
#include "store/store.h"

#include <check.h>
#include <stdlib.h>
#include <sys/queue.h>

enum fake_store_op {
    FAKE_ACCEPT,
    FAKE_ADOPT,
    FAKE_KNOWN,
    FAKE_CLAIM,
    FAKE_SETTLE,
    FAKE_FIND,
    FAKE_BODY,
    FAKE_REPLY,
    FAKE_ENDED,
    FAKE_CHILDREN,
    FAKE_UNFINISHED,
    FAKE_FETCH,
    FAKE_LEASE,
    FAKE_LOW_MARK,
    FAKE_COUNTS,
    FAKE_RELEASE,
    FAKE_EARLIER,
    FAKE_OWN,
    FAKE_DISOWN,
    FAKE_DEAD_LETTERS,
    FAKE_REDRIVE,
    FAKE_DISMISS,
    FAKE_PUBLISH,
    FAKE_PRODUCTION_OF,
    FAKE_ATTEND,
    FAKE_OLDER,
    FAKE_CLOSE_QUEUE,
};

struct fake_store_call {
    TAILQ_ENTRY(fake_store_call) link;
    enum fake_store_op op;
    struct store_message *const *messages;
    struct store_claim *claims;
    struct store_outcome *const *outcomes;
    const struct uuid *ids;
    struct uuid id;
    const struct store_before *parts;
    const struct store_share *shares;
    const struct store_owned *owned;
    const char *name;  /* item, holder's or member's name, who published */
    struct slice text; /* of a production */
    size_t count;
    int64_t number; /* after_seq, new_low, ttl_ms, limit, version, base */
    int64_t step, ttl_ms, after_seq;
    struct slice hash, changed; /* of a production */
    void (*done)(void);
    void *arg;
};

struct fake_store {
    struct store store;
    TAILQ_HEAD(, fake_store_call) calls;
    int64_t seq;
    unsigned maintain_calls;
    store_done *maintained;
    void *maintained_arg;
};

static const struct err fake_ok = {.code = ERR_NONE};

static struct fake_store_call *fake_store_add(struct store *store, enum fake_store_op op,
                                              size_t count, void (*done)(void), void *arg)
{
    struct fake_store *fake = (struct fake_store *)store;
    struct fake_store_call *call = mem_alloc(sizeof(*call));
    call->op = op;
    call->count = count;
    call->done = done;
    call->arg = arg;
    TAILQ_INSERT_TAIL(&fake->calls, call, link);
    return call;
}

#define FAKE_DONE(done) ((void (*)(void))(done))

static inline void fake_accept(struct store *store, struct store_message *const *rows, size_t count,
                               store_done *done, void *arg)
{
    fake_store_add(store, FAKE_ACCEPT, count, FAKE_DONE(done), arg)->messages = rows;
}

static inline void fake_adopt(struct store *store, struct store_message *const *rows, size_t count,
                              store_done *done, void *arg)
{
    fake_store_add(store, FAKE_ADOPT, count, FAKE_DONE(done), arg)->messages = rows;
}

static inline void fake_known(struct store *store, const struct uuid *ids, size_t count,
                              store_ended *done, void *arg)
{
    fake_store_add(store, FAKE_KNOWN, count, FAKE_DONE(done), arg)->ids = ids;
}

static inline void fake_claim_rows(struct store *store, const char *worker,
                                   struct store_claim *rows, size_t count, store_done *done,
                                   void *arg)
{
    (void)worker;
    fake_store_add(store, FAKE_CLAIM, count, FAKE_DONE(done), arg)->claims = rows;
}

static inline void fake_settle(struct store *store, struct store_outcome *const *rows, size_t count,
                               store_done *done, void *arg)
{
    fake_store_add(store, FAKE_SETTLE, count, FAKE_DONE(done), arg)->outcomes = rows;
}

static inline void fake_find(struct store *store, struct uuid id, store_found *done, void *arg)
{
    fake_store_add(store, FAKE_FIND, 1, FAKE_DONE(done), arg)->id = id;
}

static inline void fake_body(struct store *store, struct uuid id, store_body_done *done, void *arg)
{
    fake_store_add(store, FAKE_BODY, 1, FAKE_DONE(done), arg)->id = id;
}

static inline void fake_store_reply(struct store *store, struct uuid id, store_body_done *done,
                                    void *arg)
{
    fake_store_add(store, FAKE_REPLY, 1, FAKE_DONE(done), arg)->id = id;
}

static inline void fake_ended(struct store *store, const struct uuid *ids, size_t count,
                              store_ended *done, void *arg)
{
    fake_store_add(store, FAKE_ENDED, count, FAKE_DONE(done), arg)->ids = ids;
}

static inline void fake_children(struct store *store, const struct uuid *ids, size_t count,
                                 store_rows *done, void *arg)
{
    fake_store_add(store, FAKE_CHILDREN, count, FAKE_DONE(done), arg)->ids = ids;
}

static inline void fake_unfinished(struct store *store, int64_t after_seq, size_t limit,
                                   store_page *done, void *arg)
{
    fake_store_add(store, FAKE_UNFINISHED, limit, FAKE_DONE(done), arg)->number = after_seq;
}

static inline void fake_fetch(struct store *store, const struct uuid *ids, size_t count,
                              store_rows *done, void *arg)
{
    fake_store_add(store, FAKE_FETCH, count, FAKE_DONE(done), arg)->ids = ids;
}

static inline void fake_lease(struct store *store, const char *name, const char *holder,
                              int64_t ttl_ms, store_leased *done, void *arg)
{
    (void)name;
    (void)holder;
    fake_store_add(store, FAKE_LEASE, 1, FAKE_DONE(done), arg)->number = ttl_ms;
}

static inline void fake_release(struct store *store, const char *name, const char *holder,
                                store_done *done, void *arg)
{
    (void)name;
    (void)holder;
    fake_store_add(store, FAKE_RELEASE, 1, FAKE_DONE(done), arg);
}

static inline void fake_low_mark(struct store *store, int64_t token, int64_t new_low,
                                 store_mark_done *done, void *arg)
{
    (void)token;
    fake_store_add(store, FAKE_LOW_MARK, 1, FAKE_DONE(done), arg)->number = new_low;
}

static inline void fake_counts(struct store *store, store_counts_done *done, void *arg)
{
    fake_store_add(store, FAKE_COUNTS, 0, FAKE_DONE(done), arg);
}

static inline void fake_maintain(struct store *store, store_done *done, void *arg)
{
    struct fake_store *fake = (struct fake_store *)store;
    fake->maintain_calls++;
    fake->maintained = done; /* the test may answer the last one */
    fake->maintained_arg = arg;
}

static inline void fake_earlier(struct store *store, const char *item,
                                enum messaging_pattern pattern, const struct store_before *parts,
                                size_t part_count, size_t limit, store_earlier_done *done,
                                void *arg)
{
    struct fake_store_call *call =
        fake_store_add(store, FAKE_EARLIER, part_count, FAKE_DONE(done), arg);
    (void)pattern;
    call->name = item;
    call->parts = parts;
    call->number = (int64_t)limit;
}

static inline void fake_own(struct store *store, const char *worker,
                            const struct store_share *shares, size_t count, int64_t ttl_ms,
                            store_owned_done *done, void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_OWN, count, FAKE_DONE(done), arg);
    call->name = worker;
    call->shares = shares;
    call->number = ttl_ms;
}

static inline void fake_disown(struct store *store, const char *worker,
                               const struct store_owned *owned, size_t count, store_done *done,
                               void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_DISOWN, count, FAKE_DONE(done), arg);
    call->name = worker;
    call->owned = owned;
}

static inline void fake_dead_letters(struct store *store, const char *item, struct uuid before,
                                     size_t limit, store_dead_letters_done *done, void *arg)
{
    struct fake_store_call *call =
        fake_store_add(store, FAKE_DEAD_LETTERS, limit, FAKE_DONE(done), arg);
    call->name = item;
    call->id = before;
}

static inline void fake_redrive(struct store *store, const char *item, const struct uuid *ids,
                                size_t count, struct uuid after, store_handled_done *done,
                                void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_REDRIVE, count, FAKE_DONE(done), arg);
    call->id = after;
    call->name = item;
    call->ids = ids;
}

static inline void fake_dismiss(struct store *store, const char *item, const struct uuid *ids,
                                size_t count, struct uuid after, store_handled_done *done,
                                void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_DISMISS, count, FAKE_DONE(done), arg);
    call->id = after;
    call->name = item;
    call->ids = ids;
}

static inline void fake_publish(struct store *store, const struct store_publication *publication,
                                store_production_done *done, void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_PUBLISH, 1, FAKE_DONE(done), arg);
    call->name = publication->by;
    call->text = publication->text;
    call->hash = publication->hash;
    call->changed = publication->changed;
    call->number = publication->base;
}

static inline void fake_production_of(struct store *store, int64_t version,
                                      store_production_done *done, void *arg)
{
    fake_store_add(store, FAKE_PRODUCTION_OF, 1, FAKE_DONE(done), arg)->number = version;
}

static inline void fake_attend(struct store *store, const char *id, const char *kind,
                               int64_t version, int64_t step, int64_t ttl_ms, store_attended *done,
                               void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_ATTEND, 1, FAKE_DONE(done), arg);
    (void)kind;
    call->name = id;
    call->number = version;
    call->step = step;
    call->ttl_ms = ttl_ms;
}

static inline void fake_close_queue(struct store *store, const char *item, int64_t below,
                                    store_done *done, void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_CLOSE_QUEUE, 1, FAKE_DONE(done), arg);
    call->name = item;
    call->number = below;
}

static inline void fake_older(struct store *store, const char *item, int64_t version,
                              int64_t after_seq, store_older_done *done, void *arg)
{
    struct fake_store_call *call = fake_store_add(store, FAKE_OLDER, 1, FAKE_DONE(done), arg);
    call->name = item;
    call->number = version;
    call->after_seq = after_seq;
}

static const struct store_ops fake_store_ops = {
    .accept = fake_accept,
    .adopt = fake_adopt,
    .known = fake_known,
    .claim = fake_claim_rows,
    .settle = fake_settle,
    .find = fake_find,
    .body = fake_body,
    .reply = fake_store_reply,
    .ended = fake_ended,
    .children = fake_children,
    .unfinished = fake_unfinished,
    .fetch = fake_fetch,
    .lease = fake_lease,
    .release = fake_release,
    .low_mark = fake_low_mark,
    .counts = fake_counts,
    .dead_counts = fake_counts,
    .maintain = fake_maintain,
    .earlier = fake_earlier,
    .own = fake_own,
    .disown = fake_disown,
    .dead_letters = fake_dead_letters,
    .redrive = fake_redrive,
    .dismiss = fake_dismiss,
    .publish = fake_publish,
    .production_of = fake_production_of,
    .attend = fake_attend,
    .close_queue = fake_close_queue,
    .older = fake_older,
};

static inline void fake_store_init(struct fake_store *fake)
{
    *fake = (struct fake_store){.store = {.ops = &fake_store_ops}};
    TAILQ_INIT(&fake->calls);
}

static inline size_t fake_store_pending(struct fake_store *fake)
{
    size_t count = 0;
    struct fake_store_call *call;
    TAILQ_FOREACH(call, &fake->calls, link)
    count++;
    return count;
}

/* The oldest call, which must be `op`; the test answers it through `done` and frees it. */
static inline struct fake_store_call *fake_store_take(struct fake_store *fake,
                                                      enum fake_store_op op)
{
    struct fake_store_call *call = TAILQ_FIRST(&fake->calls);
    ck_assert_msg(call != NULL, "the store was not called");
    ck_assert_int_eq(call->op, op);
    TAILQ_REMOVE(&fake->calls, call, link);
    return call;
}

/* Answers accept, adopt, claim or settle as they are filled in. */
static inline void fake_store_answer(struct fake_store_call *call, const struct err *err)
{
    store_done *done = (store_done *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err);
}

static inline void fake_store_answer_flags(struct fake_store_call *call, const struct err *err,
                                           const bool *flags)
{
    store_ended *done = (store_ended *)call->done;
    void *arg = call->arg;
    free(call);
    done(arg, err, flags);
}

/* Ends the ops whose completions are of their own kind; false: it is none of them. */
static inline bool fake_store_lose_more(const struct fake_store_call *call, const struct err *lost)
{
    const struct store_production none = {.version = 0};
    const struct store_standing nowhere = {.version = 0};
    switch (call->op) {
    case FAKE_EARLIER:
        ((store_earlier_done *)call->done)(call->arg, lost, NULL, 0, false, 0);
        return true;
    case FAKE_OWN:
        ((store_owned_done *)call->done)(call->arg, lost, NULL, 0);
        return true;
    case FAKE_DEAD_LETTERS:
        ((store_dead_letters_done *)call->done)(call->arg, lost, NULL, 0);
        return true;
    case FAKE_REDRIVE:
    case FAKE_DISMISS:
        ((store_handled_done *)call->done)(call->arg, lost,
                                           &(const struct store_handled){.count = 0});
        return true;
    case FAKE_PUBLISH:
    case FAKE_PRODUCTION_OF:
        ((store_production_done *)call->done)(call->arg, lost, &none);
        return true;
    case FAKE_ATTEND:
        ((store_attended *)call->done)(call->arg, lost, &nowhere);
        return true;
    case FAKE_OLDER:
        ((store_older_done *)call->done)(call->arg, lost, 0);
        return true;
    default:
        return false;
    }
}

/* Ends every call as a link does that is freed: outcome unknown. */
static inline void fake_store_end(struct fake_store *fake)
{
    static const struct err lost = {.code = ERR_OUTCOME_UNKNOWN};
    struct fake_store_call *call;
    while ((call = TAILQ_FIRST(&fake->calls))) {
        TAILQ_REMOVE(&fake->calls, call, link);
        switch (call->op) {
        case FAKE_KNOWN:
        case FAKE_ENDED:
            ((store_ended *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_FIND:
            ((store_found *)call->done)(call->arg, &lost, NULL);
            break;
        case FAKE_BODY:
        case FAKE_REPLY:
            ((store_body_done *)call->done)(call->arg, &lost, body_of(NULL, 0), slice_of(NULL, 0),
                                            false);
            break;
        case FAKE_CHILDREN:
        case FAKE_FETCH:
            ((store_rows *)call->done)(call->arg, &lost, NULL, 0);
            break;
        case FAKE_UNFINISHED:
            ((store_page *)call->done)(call->arg, &lost, NULL, 0, 0, true);
            break;
        case FAKE_LEASE:
        case FAKE_LOW_MARK:
            ((store_leased *)call->done)(call->arg, &lost, 0);
            break;
        case FAKE_COUNTS:
            ((store_counts_done *)call->done)(call->arg, &lost, NULL, 0);
            break;
        default:
            if (!fake_store_lose_more(call, &lost))
                ((store_done *)call->done)(call->arg, &lost);
        }
        free(call);
    }
}

#endif
