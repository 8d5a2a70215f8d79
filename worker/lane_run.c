/* From a claimed entry to the end of its handler: look up, adopt or fetch where needed, run. */
#include "lane_parts.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "hl7/message.h"
#include "model/item_class.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

/* Attempts that a worker's death may cost beyond max_attempts: one crash of ours must not make a dead letter, a message that
 * kills each worker must become one. */
#define DEATHS_MAX 4

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

/* ---- a row of a message that the store does not have ---- */

/* In the claim's memory, until its job is begun anew. */
static struct store_message *make_row(struct claim *claim)
{
    struct arena *arena = &claim->job.arena;
    struct store_message *row = arena_alloc(arena, sizeof(*row));
    struct hl7_summary *summary = arena_alloc(arena, sizeof(*summary));
    struct hl7_message message;
    struct err ignored;
    if (hl7_parse(body_slice(claim->job.body), &message, &ignored) == 0) {
        hl7_summary(&message, summary);
        hl7_done(&message);
    }
    int64_t received_us = claim->entry->at_ms * 1000, now_us = clock_wall_us();
    char packed[META_PACKED_MAX];
    struct buffer bytes = {.data = packed, .capacity = sizeof(packed), .max = sizeof(packed)};
    struct meta meta = claim->meta;
    meta.in_wal = true;
    meta.stored = claim->job.body.len > MESSAGE_INLINE_MAX;
    meta_pack(&meta, &bytes);
    *row = (struct store_message){
        .id = claim->entry->id,
        .parent = meta.parent,
        .item = claim->lane->item->id,
        .pattern = claim->lane->name.pattern,
        .direction = uuid_is_none(meta.parent)            ? DIRECTION_INBOUND
                     : claim->lane->item->class->outbound ? DIRECTION_OUTBOUND
                                                          : DIRECTION_INTERNAL,
        .received_us =
            received_us > 0 && received_us < now_us ? received_us : now_us, /* a producer's clock */
        .priority = claim->entry->priority,
        .partition = claim->part ? (int)claim->partition : -1,
        .version = claim->lane->worker->production->version,
        .ordering_key = claim->entry->key,
        .control_id = slice_text(summary->control_id),
        .message_type = slice_text(summary->message_type),
        .sender = slice_text(summary->sender),
        .content_type = meta.content_type,
        .meta = arena_copy(arena, buffer_slice(&bytes)),
        .body = claim->job.body,
    };
    return row;
}

/* ---- the end of a run ---- */

static void settle(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    const struct item *item = claim->lane->item;
    outcome->item = item->id;
    outcome->pattern = claim->lane->name.pattern;
    outcome->worker = claim->lane->worker->id;
    outcome->finished_us = clock_wall_us();
    if (!outcome->started_us)
        outcome->started_us = outcome->finished_us;
    for (size_t i = 0; i < claim->child_count; i++)
        claim->children[i].received_us = outcome->finished_us;
    outcome->forget = !item->persistence.store_enabled;
    if (claim->unwritten)
        outcome->message = make_row(claim);
    claim_move(claim, CLAIM_SETTLING);
    if (outcome->end == STORE_COMPLETED && !item->class->outbound)
        lane_turn_over(claim); /* the next one of its key need not wait for the commit */
    if (claim->unrecorded)
        lane_recorded(claim);
    else
        settler_add(&claim->lane->worker->settler, claim);
}

/* It ends without a reply and children. */
static void end_badly(struct claim *claim, enum store_end end)
{
    struct store_outcome *outcome = &claim->outcome;
    outcome->end = end;
    outcome->error = claim->error;
    outcome->child_count = claim->child_count = 0;
    outcome->reply = outcome->reply_content_type = slice_of(NULL, 0);
}

static void bury(struct claim *claim, const char *reason)
{
    snprintf(claim->error, sizeof(claim->error), "%s", reason);
    end_badly(claim, STORE_DEAD_LETTERED);
    settle(claim);
}

static void expire(struct claim *claim, const char *reason)
{
    snprintf(claim->error, sizeof(claim->error), "%s", reason);
    end_badly(claim, STORE_EXPIRED);
    settle(claim);
}

void lane_refused(struct claim *claim)
{
    bool once_more = claim->outcome.end != STORE_COMPLETED;
    snprintf(claim->error, sizeof(claim->error), "the database refused the data of %s",
             once_more ? "the message" : "its children or its reply");
    end_badly(claim, STORE_DEAD_LETTERED);
    if (once_more)
        claim->outcome.message = NULL; /* its end is all that is kept of it */
    settler_add(&claim->lane->worker->settler, claim);
}

/* Exponential, capped; half of it is random, so that what failed together does not return together. */
static int64_t backoff_ms(const struct item *item, int attempt)
{
    int64_t delay = item->retry.backoff_ms;
    for (int i = 1; i < attempt && delay < item->retry.max_backoff_ms; i++)
        delay *= 2;
    if (delay > item->retry.max_backoff_ms)
        delay = item->retry.max_backoff_ms;
    return delay / 2 + (int64_t)random_below((uint64_t)(delay - delay / 2) + 1);
}

/* Who redrives a message wants it to run, whenever it was due. */
static int64_t deadline_of(const struct claim *claim)
{
    return claim->outcome.run > 1 ? 0 : claim->meta.deadline_ms;
}

static void retry_or_bury(struct claim *claim, bool may_retry, int attempts_max)
{
    const struct item *item = claim->lane->item;
    int64_t deadline_ms = deadline_of(claim);
    if (!may_retry || claim->outcome.attempt >= attempts_max) {
        end_badly(claim, STORE_DEAD_LETTERED);
    } else {
        end_badly(claim, STORE_RETRY);
        claim->outcome.due_ms = clock_wall_ms() + backoff_ms(item, claim->outcome.attempt);
        if (deadline_ms && claim->outcome.due_ms >= deadline_ms)
            claim->outcome.end = STORE_EXPIRED; /* there is no time for another */
    }
    settle(claim);
}

static void failed(struct claim *claim, const struct err *error)
{
    const struct item *item = claim->lane->item;
    enum error_code code = error->code;
    if (claim->handed_back) {
        lane_return(claim);
        return;
    }
    if (claim->out_of_time && code == ERR_CANCELLED) {
        expire(claim, "its time was over while it ran");
        return;
    }
    if (claim->timed_out && code == ERR_CANCELLED) { /* else it had its own end meanwhile */
        code = ERR_TIMEOUT;
        snprintf(claim->error, sizeof(claim->error), "no end within %lld ms",
                 (long long)item->timeout_ms);
    } else {
        snprintf(claim->error, sizeof(claim->error), "%s", error->text);
    }
    retry_or_bury(claim, error_class_of(code) == ERROR_RETRY, (int)item->retry.max_attempts);
}

static void ended_well(struct claim *claim)
{
    struct err err;
    claim->outcome.end = STORE_COMPLETED;
    claim->outcome.error = NULL;
    claim->outcome.reply = claim->job.reply;
    claim->outcome.reply_content_type = claim->job.reply_content_type;
    if (lane_make_children(claim, &err))
        settle(claim);
    else
        failed(claim, &err);
}

void lane_job_ended(struct job *job, const struct err *error)
{
    struct claim *claim = claim_of_job(job);
    struct lane *lane = claim->lane;
    metric_add(lane->metrics.in_flight, -1);
    claim_cancel_timer(claim);
    if (job->unstarted) {
        lane_return(claim);
        return;
    }
    histogram_observe(lane->metrics.process_seconds, clock_mono_us() - claim->started_us);
    if (error)
        failed(claim, error);
    else
        ended_well(claim);
}

/* ---- run ---- */

static void cancel(struct claim *claim, bool *why)
{
    struct executor *executor = claim->lane->executor;
    *why = true; /* before: it may end inside */
    if (!executor->ops->cancel(executor, &claim->job))
        *why = false; /* its late end counts */
}

static void on_out_of_time(void *arg)
{
    struct claim *claim = arg;
    if (claim->state == CLAIM_RUNNING)
        cancel(claim, &claim->out_of_time);
}

static bool may_start(const struct job *job)
{
    return lane_may_start(claim_of_job((struct job *)job));
}

static void run(struct claim *claim)
{
    struct lane *lane = claim->lane;
    claim_move(claim, CLAIM_RUNNING);
    claim->started_us = clock_mono_us();
    claim->outcome.started_us = clock_wall_us();
    metric_add(lane->metrics.in_flight, 1);
    if (!lane->immediate && !loop_timer_pending(&lane->timeouts))
        loop_timer_set(&lane->timeouts, lane->item->timeout_ms);
    int64_t deadline_ms = deadline_of(claim);
    int64_t left_ms = deadline_ms - claim->outcome.started_us / 1000;
    if (deadline_ms && !lane->immediate && left_ms < lane->item->timeout_ms)
        claim_set_timer(claim, left_ms, on_out_of_time);
    claim->job.attempt = claim->outcome.attempt;
    claim->job.content_type = claim->meta.content_type;
    claim->job.chain = claim->meta.chain;
    claim->job.may_start = may_start;
    lane->executor->ops->start(lane->executor, &claim->job);
}

void lane_check_timeouts(void *arg)
{
    struct lane *lane = arg;
    int64_t now = clock_mono_us(), limit = lane->item->timeout_ms * 1000;
    struct claim *claim, *next;
    for (claim = TAILQ_FIRST(&lane->running); claim; claim = next) {
        next = TAILQ_NEXT(claim, running);
        int64_t left = claim->started_us + limit - now;
        if (left > 0) {
            loop_timer_set_us(&lane->timeouts, left);
            return;
        }
        if (!claim->timed_out)
            cancel(claim, &claim->timed_out);
    }
}

void lane_fetched(struct claim *claim, bool found)
{
    if (lane_stands_back(claim))
        return;
    if (found)
        run(claim);
    else
        bury(claim, "its body is not in the store");
}

static bool is_too_late(const struct claim *claim)
{
    int64_t deadline_ms = deadline_of(claim);
    return deadline_ms && clock_wall_ms() >= deadline_ms;
}

/* Nobody but the entry itself counts its deaths: they are written into it before it runs again. */
static bool must_count_death(const struct claim *claim)
{
    return claim->unrecorded && claim->entry->taken_over && !claim->part;
}

void lane_start(struct claim *claim)
{
    struct lane *lane = claim->lane;
    int deaths_max = (int)lane->item->retry.max_attempts + DEATHS_MAX;
    if (lane->worker->draining) {
        lane_return(claim);
    } else if (is_too_late(claim)) {
        expire(claim, "its time was over before it started");
    } else if (claim->outcome.attempt > deaths_max) {
        bury(claim,
             "given up: too many attempts, the last ones ended with the death of their worker");
    } else if (claim->entry->malformed) {
        bury(claim, "the queue's entry is malformed");
    } else if (must_count_death(claim)) {
        snprintf(claim->error, sizeof(claim->error), "its worker was lost");
        retry_or_bury(claim, true, deaths_max);
    } else if (claim->meta.stored && !claim->fetched) {
        lane_fetch(claim);
    } else {
        run(claim);
    }
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
            bury(claim, "the database refused the entry's data");
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
        adoption->rows[i] = make_row(claims[i]);
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
        bury(claim, "neither the message nor its body is in the store");
    else if (claim->unwritten)
        start_or_line_up(claim);
    else
        unknown[(*unknown_count)++] = claim;
}

static void on_looked_up(void *arg, const struct err *err)
{
    struct look_up *look_up = arg;
    struct lane *lane = look_up->lane;
    struct claim *ended[QUEUE_BATCH_MAX], *unknown[QUEUE_BATCH_MAX];
    size_t ended_count = 0, unknown_count = 0;
    worker_note(lane->worker, &lane->worker->look_up_trouble, err);
    for (size_t i = 0; i < look_up->asked; i++) {
        struct claim *claim = look_up->claims[i];
        const struct store_claim *row = &look_up->rows[i];
        claim->outcome.run = row->run;
        claim->outcome.attempt = row->attempt;
        set_seq(claim, row->seq);
        if (err->code != ERR_NONE) {
            lane_return(claim);
        } else if (row->ended) {
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

void lane_look_up(struct lane *lane, struct claim **claims, size_t count,
                  void (*done)(struct lane *lane, size_t count))
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    struct look_up *look_up = mem_alloc(sizeof(*look_up));
    struct claim *unrecorded[QUEUE_BATCH_MAX];
    size_t unrecorded_count = 0;
    look_up->lane = lane;
    look_up->done = done;
    look_up->count = count;
    for (size_t i = 0; i < count; i++) {
        struct claim *claim = claims[i];
        read_meta(claim);
        if (claim->unrecorded) {
            unrecorded[unrecorded_count++] = claim;
            continue;
        }
        look_up->claims[look_up->asked] = claim;
        look_up->rows[look_up->asked++] =
            (struct store_claim){.id = claim->entry->id,
                                 .taken_over = claim->entry->taken_over,
                                 .lease_token = claim->outcome.lease_token};
    }
    for (size_t i = 0; i < unrecorded_count; i++) {
        unrecorded[i]->outcome.run = 1;
        unrecorded[i]->outcome.attempt = unrecorded[i]->entry->attempts + 1;
        start_or_line_up(unrecorded[i]);
    }
    if (look_up->asked)
        lane->worker->store->ops->claim(lane->worker->store, lane->worker->id, look_up->rows,
                                        look_up->asked, on_looked_up, look_up);
    else
        on_looked_up(look_up, &(const struct err){.code = ERR_NONE});
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
    look->row = (struct store_claim){.id = claim->entry->id,
                                     .lease_token = claim->outcome.lease_token};
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

/* ---- drain ---- */

void lane_take_back(struct claim *claim)
{
    if (!claim->handed_back)
        cancel(claim, &claim->handed_back);
}

void lane_give_up(struct lane *lane)
{
    struct claim *claim, *next;
    for (claim = TAILQ_FIRST(&lane->running); claim; claim = next) {
        next = TAILQ_NEXT(claim, running);
        lane_take_back(claim);
    }
}
