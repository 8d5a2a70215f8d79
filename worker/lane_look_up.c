/* What new claims are: the store is asked for the whole batch whether they have ended, which attempt this is, and, of a fifo, which
 * seq they have. What it does not know came from a direct producer and is adopted.
 *
 *   LOOKING ──known──▶ lane_start, or into its line          fifo, taken over: asked a second time, with those
 *      │ └──ended──▶ lane_publish_ended                      that ran when their worker was lost
 *      └──unknown──▶ ADOPTING ──a row──▶ the same */
#include "lane_fifo.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

static void start_or_line_up(struct claim *claim)
{
    if (claim->part)
        lane_line_up(claim);
    else
        lane_start(claim);
}

/* Where the log does not have all of an item's messages, their order is that of the stream. */
static void set_seq(struct claim *claim, int64_t seq)
{
    claim->seq = claim->lane->item->persistence.wal_enabled ? seq : 0;
}

/* ---- adopt: an entry of a direct producer enters the WAL before it runs ---- */

struct adoption {
    size_t count;
    struct claim *claims[QUEUE_BATCH_MAX];
    struct store_message *rows[QUEUE_BATCH_MAX];
};

static void on_adopted(void *arg, const struct err *err)
{
    struct adoption *adoption = arg;
    for (size_t i = 0; i < adoption->count; i++) {
        struct claim *claim = adoption->claims[i];
        set_seq(claim, adoption->rows[i]->seq);
        if (err->code != ERR_NONE)
            lane_return(claim); /* claimed again after a rest */
        else if (adoption->rows[i]->error != ERR_NONE)
            lane_bury(claim, "the database refused the entry's data");
        else if (claim->part && !adoption->rows[i]->seq)
            lane_return(claim); /* it was there already: its seq is still to be asked for */
        else
            start_or_line_up(claim);
    }
    free(adoption);
}

static void adopt(struct lane *lane, struct claim **claims, size_t count)
{
    struct adoption *adoption = mem_alloc(sizeof(*adoption));
    adoption->count = count;
    for (size_t i = 0; i < count; i++) {
        claim_move(claims[i], CLAIM_ADOPTING);
        adoption->claims[i] = claims[i];
        adoption->rows[i] = lane_make_row(claims[i]);
    }
    lane->worker->store->ops->adopt(lane->worker->store, adoption->rows, count, on_adopted,
                                    adoption);
}

/* ---- look up ---- */

struct look_up {
    struct lane *lane;
    void (*done)(struct lane *lane, size_t count);
    size_t count; /* of all that came */
    size_t asked; /* of those that the store is asked about */
    struct claim *claims[QUEUE_BATCH_MAX];
    struct store_claim rows[QUEUE_BATCH_MAX];
    /* fifo: those that the store knows nothing of line up with the others. */
    size_t unrecorded_count;
    struct claim *unrecorded[QUEUE_BATCH_MAX];
    bool counted;        /* the deaths of workers that had them */
    size_t bereft_count; /* of those whose deaths the queue counts */
    struct claim *bereft[QUEUE_BATCH_MAX];
    struct uuid bereft_ids[QUEUE_BATCH_MAX];
};

static void read_meta(struct claim *claim)
{
    struct err err;
    struct meta *meta = &claim->meta;
    if (meta_unpack(claim->entry->meta, meta, &err)) {
        *meta = (struct meta){0};
        claim->entry->malformed = true;
    }
    if (meta->content_type.len > META_CONTENT_TYPE_MAX ||
        meta->traceparent.len > META_TRACEPARENT_MAX || meta->reply_to.len > META_REPLY_TO_MAX) {
        *meta = (struct meta){.in_wal = meta->in_wal, .stored = meta->stored};
        claim->entry->malformed = true;
    }
    const struct item *item = claim->lane->item;
    bool unlogged = !item->persistence.wal_enabled && !meta->in_wal;
    claim->unrecorded = unlogged && !item->persistence.store_enabled;
    claim->unwritten = unlogged && item->persistence.store_enabled;
}

static void answer_unknown(struct claim *claim, struct claim **unknown, size_t *unknown_count)
{
    if (claim->meta.stored)
        lane_bury(claim, "neither the message nor its body is in the store");
    else if (claim->unwritten)
        start_or_line_up(claim);
    else
        unknown[(*unknown_count)++] = claim;
}

static void start_unrecorded(struct look_up *look_up, const struct err *err)
{
    for (size_t i = 0; i < look_up->unrecorded_count; i++) {
        if (err && err->code != ERR_NONE)
            lane_return(look_up->unrecorded[i]); /* what stands before it may not be known */
        else
            start_or_line_up(look_up->unrecorded[i]);
    }
    look_up->unrecorded_count = 0;
}

static void end_look_up(struct look_up *look_up, const struct err *err)
{
    struct lane *lane = look_up->lane;
    struct claim *ended[QUEUE_BATCH_MAX], *unknown[QUEUE_BATCH_MAX];
    size_t ended_count = 0, unknown_count = 0;
    start_unrecorded(look_up, err);
    for (size_t i = 0; i < look_up->asked; i++) {
        struct claim *claim = look_up->claims[i];
        const struct store_claim *row = &look_up->rows[i];
        if (err->code != ERR_NONE) {
            lane_return(claim);
        } else if (claim->ended) {
            ended[ended_count++] = claim;
        } else if (row->known) {
            claim->unwritten = false;
            start_or_line_up(claim);
        } else {
            answer_unknown(claim, unknown, &unknown_count);
        }
    }
    if (ended_count)
        lane_publish_ended(lane, ended, ended_count);
    if (unknown_count)
        adopt(lane, unknown, unknown_count);
    if (look_up->done)
        look_up->done(lane, look_up->count);
    free(look_up);
}

/* Of a key only the first one that has no end can have run when its owner was lost: the others stood behind it. */
static bool may_have_run(const struct claim *claim)
{
    const struct lane *lane = claim->lane;
    const struct claim *other;
    struct slice key = claim->entry->key;
    if (!claim->entry->taken_over || claim->ended)
        return false;
    if (key.len == 0 && item_is_fair(lane->item))
        return true;
    TAILQ_FOREACH(other, &claim->part->claims, in_part)
    {
        bool unknown = lane_is_logged(lane) && other->seq == 0;
        if (!other->ended && !unknown && slice_equal(other->entry->key, key) &&
            lane_comes_before(other, claim))
            return false;
    }
    return true;
}

/* Whether there are any. */
static bool find_bereft(struct look_up *look_up)
{
    bool found = false;
    for (size_t i = 0; i < look_up->asked; i++) {
        struct claim *claim = look_up->claims[i];
        claim->bereft = may_have_run(claim);
        look_up->rows[i].taken_over = claim->bereft;
        found |= claim->bereft;
    }
    for (size_t i = 0; i < look_up->unrecorded_count; i++) {
        struct claim *claim = look_up->unrecorded[i];
        claim->bereft = may_have_run(claim);
        if (!claim->bereft)
            continue;
        look_up->bereft_ids[look_up->bereft_count] = claim->entry->id;
        look_up->bereft[look_up->bereft_count++] = claim;
    }
    return found || look_up->bereft_count > 0;
}

static void ask_store(struct look_up *look_up);

static void on_deaths_counted(void *arg, const struct err *err, const int *deaths)
{
    struct look_up *look_up = arg;
    for (size_t i = 0; err->code == ERR_NONE && i < look_up->bereft_count; i++)
        look_up->bereft[i]->outcome.attempt += deaths[i];
    if (err->code == ERR_NONE)
        ask_store(look_up);
    else
        end_look_up(look_up, err);
}

/* fifo: asked once more, with those that ran when their worker was lost. */
static void count_deaths(struct look_up *look_up)
{
    struct lane *lane = look_up->lane;
    look_up->counted = true;
    if (look_up->bereft_count)
        lane->worker->queue->ops->count_deaths(lane->worker->queue, lane->name, look_up->bereft_ids,
                                               look_up->bereft_count, on_deaths_counted, look_up);
    else
        ask_store(look_up);
}

static void note_row(struct claim *claim, const struct store_claim *row)
{
    claim->outcome.run = row->run;
    claim->outcome.attempt = row->attempt;
    claim->ended = row->ended;
    set_seq(claim, row->seq);
}

static void on_looked_up(void *arg, const struct err *err)
{
    struct look_up *look_up = arg;
    struct worker *worker = look_up->lane->worker;
    worker_note(worker, &worker->look_up_trouble, err);
    for (size_t i = 0; i < look_up->asked; i++)
        note_row(look_up->claims[i], &look_up->rows[i]);
    if (err->code == ERR_NONE && look_up->lane->fifo && !look_up->counted && find_bereft(look_up))
        count_deaths(look_up);
    else
        end_look_up(look_up, err);
}

static void ask_store(struct look_up *look_up)
{
    struct worker *worker = look_up->lane->worker;
    if (look_up->asked)
        worker->store->ops->claim(worker->store, worker->id, look_up->rows, look_up->asked,
                                  on_looked_up, look_up);
    else
        on_looked_up(look_up, &(const struct err){.code = ERR_NONE});
}

void lane_look_up(struct lane *lane, struct claim **claims, size_t count,
                  void (*done)(struct lane *lane, size_t count))
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    struct look_up *look_up = mem_alloc(sizeof(*look_up));
    look_up->lane = lane;
    look_up->done = done;
    look_up->count = count;
    for (size_t i = 0; i < count; i++) {
        struct claim *claim = claims[i];
        read_meta(claim);
        if (claim->unrecorded) {
            claim->outcome.run = 1;
            claim->outcome.attempt = claim->entry->attempts + 1;
            look_up->unrecorded[look_up->unrecorded_count++] = claim;
            continue;
        }
        look_up->claims[look_up->asked] = claim;
        look_up->rows[look_up->asked++] =
            (struct store_claim){.id = claim->entry->id,
                                 .taken_over = claim->bereft,
                                 .lease_token = claim->outcome.lease_token};
    }
    if (!lane->fifo)
        start_unrecorded(look_up, NULL);
    ask_store(look_up);
}

/* ---- the second look, after a settle that was refused ---- */

struct second_look {
    struct claim *claim;
    struct store_claim row;
};

/* It was recorded by a try before, whose answer was lost; or another hand has the message. */
static void on_looked_again(void *arg, const struct err *err)
{
    struct second_look *look = arg;
    struct claim *claim = look->claim;
    struct store_outcome *outcome = &claim->outcome;
    const struct store_claim row = look->row;
    free(look);
    worker_note(claim->lane->worker, &claim->lane->worker->look_up_trouble, err);
    if (err->code != ERR_NONE) {
        claim_move(claim, CLAIM_SETTLING);
        settler_add(&claim->lane->worker->settler, claim);
    } else if (row.ended) {
        lane_publish_ended(claim->lane, &claim, 1);
    } else if (outcome->end == STORE_RETRY && row.attempt == outcome->attempt + 1) {
        lane_recorded(claim);
    } else if (claim->part) {
        lane_refused_by_lease(claim);
    } else {
        lane_superseded(claim);
    }
}

void lane_look_again(struct claim *claim)
{
    struct store *store = claim->lane->worker->store;
    struct second_look *look = mem_alloc(sizeof(*look));
    claim_move(claim, CLAIM_LOOKING);
    look->claim = claim;
    look->row =
        (struct store_claim){.id = claim->entry->id, .lease_token = claim->outcome.lease_token};
    store->ops->claim(store, claim->lane->worker->id, &look->row, 1, on_looked_again, look);
}

/* Walks over what the lane holds only for what came a second time: it is looked for when a process slept so long that it finds its
 * own entry. */
static bool is_held(const struct lane *lane, const struct queue_entry *entry)
{
    const struct claim *claim;
    if (!entry->taken_over)
        return false;
    TAILQ_FOREACH(claim, &lane->claims, link)
    {
        if (strcmp(claim->entry->entry_id, entry->entry_id) == 0)
            return true;
    }
    return false;
}

size_t lane_take(struct lane *lane, struct queue_claimed *claimed,
                 void (*done)(struct lane *lane, size_t count))
{
    struct claim *claims[QUEUE_BATCH_MAX];
    size_t count = 0;
    for (size_t i = 0; i < claimed->count && count < QUEUE_BATCH_MAX; i++) {
        if (!is_held(lane, &claimed->entries[i]))
            claims[count++] = claim_new(lane, claimed, &claimed->entries[i]);
    }
    if (count)
        lane_look_up(lane, claims, count, done);
    return count;
}
