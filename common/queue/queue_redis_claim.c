/* Claim, takeover, inherit, pull: what puts entries into a consumer's hand.
 *
 *   unordered, fifo: LOOK is XREADGROUP
 *
 *     (a reply was lost: MISSED) ─▶ LOOK ── enough ──▶ END
 *                                    │ short
 *                                    ▼        ids                        asked to wait
 *                                   TAKE ◀──────────▶ FETCH ─────▶ AGAIN ────────────▶ END
 *     TAKE asks for what an order still holds that the queue had under another type, and registers us as idle. An enqueue in between
 *     either leaves its entry to the second look (AGAIN) or finds us among the idle.
 *
 *   priority, lifo, inherit, pull:  TAKE ◀─▶ FETCH ──▶ END
 *     TAKE is a Function that puts entries into our hand and answers their ids; FETCH reads them, by an XCLAIM of what is ours
 *     already.
 *
 *   takeover: XAUTOCLAIM from its cursor until there are enough or the list is through; with an order, a Function. */
#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "queue/queue_redis.h"

#include <stdlib.h>

#define TAKEOVER_ROUNDS 64 /* XAUTOCLAIM looks at ten times as many entries as it may take */
#define TIDY_ONE_IN 64     /* takeovers that came to the end of the list */
#define CONSUMER_LIFE_MS                                                                           \
    86400000 /* one that holds nothing and was not heard of for so long is forgotten */
/* Who was stopped for longer between TAKE and FETCH may have lost to a takeover what he took. */
#define FETCH_MS 5000

static const struct err NO_ERROR = {.code = ERR_NONE};

static bool is_ordered(struct queue_name name)
{
    return name.type == QUEUE_PRIORITY || name.type == QUEUE_LIFO;
}

static size_t claim_size(const struct op *op)
{
    return QUEUE_REDIS_HEAD +
           (op->claim.pulled ? enqueue_args_size(op->claim.pulled, op->count) : 0) +
           (op->claim.step == STEP_FETCH ? op->claim.max * ENTRY_ID_SIZE : 0);
}

static void start_claim(struct op *op, size_t max)
{
    op->claim.max = max < QUEUE_BATCH_MAX ? max : QUEUE_BATCH_MAX;
    if (max == 0)
        op_defer(op, &NO_ERROR);
    else
        op_start(op);
}

/* ---- the end ---- */

/* A partition's owner has to look for what a lost reply put into his hand. */
static void note_lost(struct op *op, const struct err *err)
{
    if (err->code == ERR_OUTCOME_UNKNOWN && op->name.type == QUEUE_FIFO && !op->queue->freeing)
        queue_redis_note_unsure(op->queue, op->name);
}

/* What was found counts, also when a later look failed. */
static bool end_claim(struct op *op, const struct err *err)
{
    note_lost(op, err);
    if (err->code != ERR_NONE && op->claim.found == 0) {
        redis_reply_free(op->claim.first);
        op->claimed(op->arg, err, NULL);
        return true;
    }
    struct queue_claimed *claimed = queue_redis_read(op);
    if (op->claim.fills && claimed->count == op->claim.max)
        queue_redis_leave_idle(op);
    op->claimed(op->arg, &NO_ERROR, claimed);
    return true;
}

/* Keeps a reply for the end. */
static void keep(struct op *op, struct redis_reply *reply)
{
    redis_reply_keep(reply);
    if (op->claim.last)
        op->claim.last->next = reply;
    else
        op->claim.first = reply;
    op->claim.last = reply;
}

static size_t count_of(const struct redis_value *list)
{
    return list->kind == REDIS_KIND_LIST ? list->count : 0;
}

/* Keeps a reply that has entries, `entries`. How many. */
static size_t keep_entries(struct op *op, struct redis_reply *reply,
                           const struct redis_value *entries)
{
    size_t count = count_of(entries);
    if (count == 0)
        return 0;
    op->claim.found += count;
    keep(op, reply);
    return count;
}

/* ---- claim: commands ---- */

static void build_look(const struct op *op, const char *from, struct buffer *out)
{
    redis_put_array(out, 9);
    redis_put_text(out, "XREADGROUP");
    redis_put_text(out, "GROUP");
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, op->consumer);
    redis_put_text(out, "COUNT");
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
    redis_put_text(out, "STREAMS");
    put_stream(out, op->queue, op->name);
    redis_put_text(out, from);
}

static void build_fetch(const struct op *op, struct buffer *out)
{
    const struct redis_value *ids = op->claim.ids;
    redis_put_array(out, 5 + ids->count + 2);
    redis_put_text(out, "XCLAIM");
    put_stream(out, op->queue, op->name);
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, op->consumer);
    redis_put_text(out, "0");
    for (size_t i = 0; i < ids->count; i++)
        redis_put_bulk(out, ids->items[i].text);
    redis_put_text(out, "RETRYCOUNT");
    redis_put_text(out, "1");
}

static void build_take(const struct op *op, struct buffer *out)
{
    bool ordered = is_ordered(op->name);
    put_fcall(out, "hie1_claim", 3, 5);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "idle", NULL);
    redis_put_text(out, op->consumer);
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
    redis_put_text(out, op->claim.wait ? "1" : "");
    redis_put_text(out, ordered ? queue_type_words[op->name.type] : "");
    redis_put_int(
        out, op->name.type == QUEUE_PRIORITY && op->name.ageing_ms > 0 ? op->name.ageing_ms : 0);
}

static void claim_build(const struct op *op, struct buffer *out)
{
    switch (op->claim.step) {
    case STEP_MISSED:
        build_look(op, queue_redis_unsure(op->queue, op->name), out);
        break;
    case STEP_LOOK:
    case STEP_AGAIN:
        build_look(op, ">", out);
        break;
    case STEP_TAKE:
        op->claim.build_take(op, out);
        break;
    case STEP_FETCH:
    case STEP_END:
        build_fetch(op, out);
        break;
    }
}

/* ---- claim: answers ---- */

/* Sends the step's command. True: the operation has ended, since it could not. */
static bool go(struct op *op, enum claim_step step)
{
    struct err down;
    if (step == STEP_END)
        return end_claim(op, &NO_ERROR);
    op->claim.step = step;
    if (step == STEP_TAKE)
        op->claim.asked_ms = clock_mono_ms();
    if (op_send(op))
        return false;
    /* What a Function put into our hand is there. */
    err_set(&down, step == STEP_FETCH ? ERR_OUTCOME_UNKNOWN : ERR_UNAVAILABLE, "redis: down");
    return end_claim(op, &down);
}

static bool is_short(const struct op *op)
{
    return op->claim.found < op->claim.max;
}

/* Entries that we hold, the known ones too: who claims for a partition knows them again. */
static bool on_missed(struct op *op, struct redis_reply *reply)
{
    const struct redis_value *entries = redis_item(redis_item(&reply->root, 0), 1);
    char last[QUEUE_ENTRY_ID_MAX];
    int64_t ms;
    size_t count = keep_entries(op, reply, entries);
    if (is_short(op) ||
        !queue_redis_entry_id(redis_item(&entries->items[count - 1], 0)->text, last, &ms))
        queue_redis_note_sure(op->queue, op->name);
    else
        queue_redis_note_sure_to(op->queue, op->name, last);
    return go(op, is_short(op) ? STEP_LOOK : STEP_END);
}

/* Whether there are ids, all of them texts. */
static bool are_ids(const struct redis_value *ids)
{
    for (size_t i = 0; i < count_of(ids); i++) {
        if (ids->items[i].kind != REDIS_KIND_TEXT || ids->items[i].text.len >= QUEUE_ENTRY_ID_MAX)
            return false;
    }
    return count_of(ids) > 0 && ids->count <= QUEUE_BATCH_MAX;
}

static enum claim_step after_take(const struct op *op)
{
    if (!is_short(op))
        return STEP_END;
    if (op->claim.again)
        return STEP_TAKE;
    return op->claim.wait && !is_ordered(op->name) ? STEP_AGAIN : STEP_END;
}

static bool on_taken(struct op *op, struct redis_reply *reply)
{
    const struct redis_value *more = redis_item(&reply->root, 0);
    const struct redis_value *ids = redis_item(&reply->root, 2);
    const struct redis_value *cursor = redis_item(&reply->root, 3); /* of inherit */
    int64_t ms;
    op->claim.again = more->kind == REDIS_KIND_INTEGER && more->integer == 1;
    if (cursor->kind == REDIS_KIND_TEXT &&
        !queue_redis_entry_id(cursor->text, op->claim.cursor, &ms))
        op->claim.again = false;
    if (op->claim.wait && !op->claim.again && op->claim.found + count_of(ids) < op->claim.max)
        queue_redis_note_idle(op->queue, op->name);
    if (!are_ids(ids))
        return go(op, after_take(op));
    if (clock_mono_ms() - op->claim.asked_ms > FETCH_MS) {
        struct err late;
        err_set(&late, ERR_OUTCOME_UNKNOWN, "redis: claimed too long ago");
        return end_claim(op, &late);
    }
    op->claim.ids = ids;
    keep(op, reply);
    return go(op, STEP_FETCH);
}

static bool on_fetched(struct op *op, struct redis_reply *reply)
{
    op->claim.found += count_of(&reply->root);
    keep(op, reply); /* also an empty one: it belongs to the ids before it */
    return go(op, after_take(op));
}

static bool claim_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    struct err lost = *err;
    if (err->code != ERR_NONE || !reply) {
        if (err->code != ERR_NONE && op->claim.step == STEP_FETCH)
            lost.code = ERR_OUTCOME_UNKNOWN;
        return end_claim(op, &lost);
    }
    switch (op->claim.step) {
    case STEP_MISSED:
        return on_missed(op, reply);
    case STEP_LOOK:
        keep_entries(op, reply, redis_item(redis_item(&reply->root, 0), 1));
        return go(op, is_short(op) ? STEP_TAKE : STEP_END);
    case STEP_TAKE:
        return on_taken(op, reply);
    case STEP_FETCH:
        return on_fetched(op, reply);
    case STEP_AGAIN:
    case STEP_END:
        break;
    }
    keep_entries(op, reply, redis_item(redis_item(&reply->root, 0), 1));
    return end_claim(op, &NO_ERROR);
}

static void build_group(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    redis_put_array(out, 6);
    redis_put_text(out, "XGROUP");
    redis_put_text(out, "CREATE");
    put_stream(out, queue, op->name);
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, "0");
    redis_put_text(out, "MKSTREAM");
}

/* No stream or no group: a new item, or Redis lost its data. Somebody else may create it first, which is as good. */
static bool claim_recover(struct op *op, const struct redis_value *error)
{
    if (!redis_error_is(error, "NOGROUP") || op->claim.created)
        return false;
    op->claim.created = true;
    queue_redis_suspect(op->queue);
    return queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_group, op) && op_send(op);
}

static const struct op_kind claim_kind = {claim_size, claim_build, claim_answer, claim_recover};

static struct op *new_claim(struct queue *queue, struct queue_name name, const char *consumer,
                            queue_claim_done *done, void *arg)
{
    struct op *op = op_new(queue, &claim_kind, name, arg);
    op->consumer = consumer;
    op->claimed = done;
    op->claim.step = STEP_TAKE;
    op->claim.build_take = build_take;
    op->claim.asked_ms = clock_mono_ms();
    return op;
}

void queue_redis_claim(struct queue *queue, struct queue_name name, const char *consumer,
                       size_t max, bool wait, queue_claim_done *done, void *arg)
{
    struct op *op = new_claim(queue, name, consumer, done, arg);
    op->claim.wait = wait;
    op->claim.fills = true;
    if (name.type == QUEUE_FIFO && queue_redis_unsure(op->queue, name))
        op->claim.step = STEP_MISSED;
    else if (!is_ordered(name))
        op->claim.step = STEP_LOOK;
    start_claim(op, max);
}

/* ---- workers that are no more ---- */

static void build_tidy(const struct queue_redis *queue, const void *arg, struct buffer *out)
{
    const struct op *op = arg;
    put_fcall(out, "hie1_tidy", 1, 1);
    put_stream(out, queue, op->name);
    redis_put_int(out, CONSUMER_LIFE_MS);
}

static void tidy_sometimes(struct op *op)
{
    if (random_below(TIDY_ONE_IN) == 0)
        (void)queue_redis_tell(op->queue, QUEUE_REDIS_HEAD, build_tidy, op);
}

/* ---- inherit and pull ---- */

static void build_inherit(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_inherit", 1, 3);
    put_stream(out, op->queue, op->name);
    redis_put_text(out, op->consumer);
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
    redis_put_text(out, op->claim.cursor);
}

void queue_redis_inherit(struct queue *queue, struct queue_name name, const char *consumer,
                         size_t max, queue_claim_done *done, void *arg)
{
    struct op *op = new_claim(queue, name, consumer, done, arg);
    op->claim.build_take = build_inherit;
    memcpy(op->claim.cursor, "0-0", 4);
    tidy_sometimes(op);
    start_claim(op, max);
}

static void build_pull(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_pull", 5, 1 + 7 * op->count);
    put_enqueue_keys(op, out);
    redis_put_text(out, op->consumer);
    put_enqueue_args(op->claim.pulled, op->count, out);
}

void queue_redis_pull(struct queue *queue, struct queue_name name, const char *consumer,
                      const struct queue_entry *entries, size_t count, queue_claim_done *done,
                      void *arg)
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    struct op *op = new_claim(queue, name, consumer, done, arg);
    op->claim.build_take = build_pull;
    op->claim.pulled = entries;
    op->count = count;
    start_claim(op, count);
}

/* ---- takeover ---- */

static int64_t least_idle_ms(const struct op *op)
{
    return op->claim.min_idle_ms < 0 ? 0 : op->claim.min_idle_ms;
}

static void takeover_build(const struct op *op, struct buffer *out)
{
    redis_put_array(out, 8);
    redis_put_text(out, "XAUTOCLAIM");
    put_stream(out, op->queue, op->name);
    redis_put_text(out, QUEUE_REDIS_GROUP);
    redis_put_text(out, op->consumer);
    redis_put_int(out, least_idle_ms(op));
    redis_put_text(out, op->claim.cursor);
    redis_put_text(out, "COUNT");
    redis_put_int(out, (int64_t)(op->claim.max - op->claim.found));
}

/* Whether the list has more to look at; then from the cursor on. */
static bool has_more(struct op *op, const struct redis_reply *reply)
{
    const struct redis_value *cursor = redis_item(&reply->root, 0);
    int64_t ms;
    if (cursor->kind != REDIS_KIND_TEXT || slice_is(cursor->text, "0-0"))
        return false;
    return queue_redis_entry_id(cursor->text, op->claim.cursor, &ms);
}

static bool takeover_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    bool more = reply && has_more(op, reply);
    if (reply)
        keep_entries(op, reply, redis_item(&reply->root, 1));
    if (more && is_short(op) && ++op->claim.rounds < TAKEOVER_ROUNDS && op_send(op))
        return false;
    if (reply && !more)
        tidy_sometimes(op);
    return end_claim(op, err);
}

/* No stream or no group: nobody has anything in hand. */
static bool takeover_recover(struct op *op, const struct redis_value *error)
{
    if (!redis_error_is(error, "NOGROUP"))
        return false;
    end_claim(op, &NO_ERROR);
    free(op);
    return true;
}

/* With an order: they wait again, in their places. */
static void put_back_build(const struct op *op, struct buffer *out)
{
    put_fcall(out, "hie1_recover", 3, 2);
    put_stream(out, op->queue, op->name);
    put_index(out, op->queue, op->name);
    put_key(out, op->queue, op->name, "idle", NULL);
    redis_put_int(out, least_idle_ms(op));
    redis_put_int(out, (int64_t)op->claim.max);
}

static bool put_back_answer(struct op *op, const struct err *err, struct redis_reply *reply)
{
    if (reply)
        tidy_sometimes(op);
    return end_claim(op, err);
}

void queue_redis_takeover(struct queue *queue, struct queue_name name, const char *consumer,
                          int64_t min_idle_ms, size_t max, queue_claim_done *done, void *arg)
{
    static const struct op_kind kind = {claim_size, takeover_build, takeover_answer,
                                        takeover_recover};
    static const struct op_kind ordered = {claim_size, put_back_build, put_back_answer, NULL};
    struct op *op = op_new(queue, is_ordered(name) ? &ordered : &kind, name, arg);
    op->consumer = consumer;
    op->claimed = done;
    op->claim.min_idle_ms = min_idle_ms;
    op->claim.fills = true;
    memcpy(op->claim.cursor, "0-0", 4);
    start_claim(op, max);
}
