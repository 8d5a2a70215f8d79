/* From a claimed entry to the end of its handler: look up, adopt or fetch where needed, run. */
#include "lane_parts.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "hl7/message.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

/* Attempts that a worker's death may cost beyond max_attempts: one crash of ours must not make a dead letter, a message that
 * kills each worker must become one. */
#define DEATHS_MAX 4

struct look_up {
    struct lane *lane;
    bool of_claim;
    size_t count;
    struct claim *claims[QUEUE_BATCH_MAX];
    struct store_claim rows[QUEUE_BATCH_MAX];
};

/* ---- the end of a run ---- */

static void settle(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    outcome->item = claim->lane->item->id;
    outcome->pattern = claim->lane->name.pattern;
    outcome->worker = claim->lane->worker->id;
    outcome->finished_us = clock_wall_us();
    if (!outcome->started_us)
        outcome->started_us = outcome->finished_us;
    for (size_t i = 0; i < outcome->child_count; i++)
        outcome->children[i].received_us = outcome->finished_us;
    claim_move(claim, CLAIM_SETTLING);
    settler_add(&claim->lane->worker->settler, claim);
}

static void bury(struct claim *claim, const char *reason)
{
    snprintf(claim->error, sizeof(claim->error), "%s", reason);
    claim->outcome.error = claim->error;
    claim->outcome.end = STORE_DEAD_LETTERED;
    claim->outcome.child_count = 0;
    settle(claim);
}

void lane_refused(struct claim *claim)
{
    struct store_outcome *outcome = &claim->outcome;
    snprintf(claim->error, sizeof(claim->error),
             "the database refused the data of its children or its reply");
    outcome->error = claim->error;
    outcome->end = STORE_DEAD_LETTERED;
    outcome->child_count = 0;
    outcome->reply = outcome->reply_content_type = slice_of(NULL, 0);
    settler_add(&claim->lane->worker->settler, claim);
}

static void count_run(struct claim *claim)
{
    histogram_observe(claim->lane->metrics.process_seconds, clock_mono_us() - claim->started_us);
    metric_set(claim->lane->metrics.in_flight, (double)(claim->lane->running_count - 1));
}

static void ended_well(struct claim *claim)
{
    claim->outcome.end = STORE_COMPLETED;
    claim->outcome.reply = claim->job.reply;
    claim->outcome.reply_content_type = claim->job.reply_content_type;
    lane_make_children(claim);
    settle(claim);
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

static void failed(struct claim *claim, const struct err *error)
{
    const struct item *item = claim->lane->item;
    if (claim->handed_back) {
        lane_return(claim);
        return;
    }
    enum error_code code = error->code;
    if (claim->timed_out) {
        code = ERR_TIMEOUT;
        snprintf(claim->error, sizeof(claim->error), "no end within %lld ms",
                 (long long)item->timeout_ms);
    } else {
        snprintf(claim->error, sizeof(claim->error), "%s", error->text);
    }
    if (error_class_of(code) != ERROR_RETRY || claim->outcome.attempt >= item->retry.max_attempts) {
        claim->outcome.end = STORE_DEAD_LETTERED;
    } else {
        claim->outcome.end = STORE_RETRY;
        claim->outcome.due_ms = clock_wall_ms() + backoff_ms(item, claim->outcome.attempt);
    }
    claim->outcome.error = claim->error;
    claim->outcome.child_count = 0;
    settle(claim);
}

void lane_job_ended(struct job *job, const struct err *error)
{
    struct claim *claim = claim_of_job(job);
    count_run(claim);
    if (error)
        failed(claim, error);
    else
        ended_well(claim);
}

/* ---- run ---- */

static void run(struct claim *claim)
{
    struct lane *lane = claim->lane;
    claim_move(claim, CLAIM_RUNNING);
    claim->started_us = clock_mono_us();
    claim->outcome.started_us = clock_wall_us();
    metric_set(lane->metrics.in_flight, (double)lane->running_count);
    if (!lane->immediate && !loop_timer_pending(&lane->timeouts))
        loop_timer_set(&lane->timeouts, lane->item->timeout_ms);
    claim->job.attempt = claim->outcome.attempt;
    claim->job.content_type = claim->meta.content_type;
    claim->job.chain = claim->meta.chain;
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
        if (!claim->timed_out) {
            claim->timed_out = true; /* before: it may end inside */
            claim->timed_out = lane->executor->ops->cancel(lane->executor, &claim->job);
        }
    }
}

void lane_fetched(struct claim *claim, bool found)
{
    if (found)
        run(claim);
    else
        bury(claim, "its body is not in the store");
}

static void start(struct claim *claim)
{
    struct lane *lane = claim->lane;
    if (lane->worker->draining) {
        lane_return(claim);
    } else if (claim->outcome.attempt > lane->item->retry.max_attempts + DEATHS_MAX) {
        bury(claim,
             "given up: too many attempts, the last ones ended with the death of their worker");
    } else if (claim->entry->malformed) {
        bury(claim, "the queue's entry is malformed");
    } else if (claim->meta.stored) {
        lane_fetch(claim);
    } else {
        run(claim);
    }
}

/* ---- adopt: an entry of a direct producer enters the WAL before it runs ---- */

struct adoption {
    struct lane *lane;
    size_t count;
    struct claim *claims[QUEUE_BATCH_MAX];
    struct store_message rows[QUEUE_BATCH_MAX];
    struct store_message *row_pointers[QUEUE_BATCH_MAX];
    struct hl7_summary summaries[QUEUE_BATCH_MAX];
    char metas[QUEUE_BATCH_MAX][META_PACKED_MAX];
};

static void on_adopted(void *arg, const struct err *err)
{
    struct adoption *adoption = arg;
    for (size_t i = 0; i < adoption->count; i++) {
        struct claim *claim = adoption->claims[i];
        if (err->code != ERR_NONE)
            lane_return(claim); /* claimed again after a rest */
        else if (adoption->rows[i].error != ERR_NONE)
            bury(claim, "the database refused the entry's data");
        else
            start(claim);
    }
    free(adoption);
}

static void fill_adopted(struct adoption *adoption, size_t i)
{
    struct claim *claim = adoption->claims[i];
    struct hl7_summary *summary = &adoption->summaries[i];
    struct hl7_message message;
    struct err ignored;
    if (hl7_parse(body_slice(claim->job.body), &message, &ignored) == 0) {
        hl7_summary(&message, summary);
        hl7_done(&message);
    }
    int64_t received_us = claim->entry->at_ms * 1000, now_us = clock_wall_us();
    struct meta meta = claim->meta;
    meta.in_wal = true;
    meta.stored = claim->job.body.len > MESSAGE_INLINE_MAX;
    struct buffer packed = {.data = adoption->metas[i],
                            .capacity = sizeof(adoption->metas[i]),
                            .max = sizeof(adoption->metas[i])};
    meta_pack(&meta, &packed);
    adoption->rows[i] = (struct store_message){
        .id = claim->entry->id,
        .item = claim->lane->item->id,
        .pattern = claim->lane->name.pattern,
        .direction = DIRECTION_INBOUND,
        .received_us =
            received_us > 0 && received_us < now_us ? received_us : now_us, /* a producer's clock */
        .priority = claim->entry->priority,
        .ordering_key = claim->entry->key,
        .control_id = slice_text(summary->control_id),
        .message_type = slice_text(summary->message_type),
        .sender = slice_text(summary->sender),
        .content_type = meta.content_type,
        .meta = buffer_slice(&packed),
        .body = claim->job.body,
    };
    adoption->row_pointers[i] = &adoption->rows[i];
}

static void adopt(struct lane *lane, struct claim **claims, size_t count)
{
    struct adoption *adoption = mem_alloc(sizeof(*adoption));
    adoption->lane = lane;
    adoption->count = count;
    for (size_t i = 0; i < count; i++) {
        adoption->claims[i] = claims[i];
        claim_move(claims[i], CLAIM_ADOPTING);
        fill_adopted(adoption, i);
    }
    lane->worker->store->ops->adopt(lane->worker->store, adoption->row_pointers, count, on_adopted,
                                    adoption);
}

/* ---- look up ---- */

static void read_meta(struct claim *claim)
{
    struct err err;
    if (meta_unpack(claim->entry->meta, &claim->meta, &err)) {
        claim->meta = (struct meta){0};
        claim->entry->malformed = true;
    }
    if (claim->meta.content_type.len > META_CONTENT_TYPE_MAX ||
        claim->meta.traceparent.len > META_TRACEPARENT_MAX ||
        claim->meta.reply_to.len > META_REPLY_TO_MAX) {
        claim->meta = (struct meta){.in_wal = claim->meta.in_wal, .stored = claim->meta.stored};
        claim->entry->malformed = true;
    }
}

static void on_looked_up(void *arg, const struct err *err)
{
    struct look_up *look_up = arg;
    struct lane *lane = look_up->lane;
    struct claim *ended[QUEUE_BATCH_MAX], *unknown[QUEUE_BATCH_MAX];
    size_t ended_count = 0, unknown_count = 0;
    worker_note(lane->worker, &lane->worker->look_up_trouble, err);
    for (size_t i = 0; i < look_up->count; i++) {
        struct claim *claim = look_up->claims[i];
        const struct store_claim *row = &look_up->rows[i];
        if (!claim->settle_repeated) {
            claim->outcome.run = row->run;
            claim->outcome.attempt = row->attempt;
            read_meta(claim);
        }
        if (err->code != ERR_NONE && claim->settle_repeated)
            lane_superseded(claim);
        else if (err->code != ERR_NONE)
            lane_return(claim);
        else if (row->ended)
            ended[ended_count++] = claim;
        else if (claim->settle_repeated)
            lane_superseded(claim);
        else if (!row->known && claim->meta.stored)
            bury(claim, "neither the message nor its body is in the store");
        else if (!row->known)
            unknown[unknown_count++] = claim;
        else
            start(claim);
    }
    if (ended_count)
        lane_publish_ended(lane, ended, ended_count);
    if (unknown_count)
        adopt(lane, unknown, unknown_count);
    if (look_up->of_claim)
        lane_looked_up(lane, look_up->count);
    free(look_up);
}

void lane_look_up(struct lane *lane, struct claim **claims, size_t count, bool of_claim)
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    struct look_up *look_up = mem_alloc(sizeof(*look_up));
    look_up->lane = lane;
    look_up->of_claim = of_claim;
    look_up->count = count;
    for (size_t i = 0; i < count; i++) {
        look_up->claims[i] = claims[i];
        look_up->rows[i] =
            (struct store_claim){.id = claims[i]->entry->id, .taken_over = claims[i]->taken_over};
    }
    lane->worker->store->ops->claim(lane->worker->store, lane->worker->id, look_up->rows, count,
                                    on_looked_up, look_up);
}

/* ---- drain ---- */

void lane_give_up(struct lane *lane)
{
    struct claim *claim, *next;
    for (claim = TAILQ_FIRST(&lane->running); claim; claim = next) {
        next = TAILQ_NEXT(claim, running);
        if (!claim->handed_back) {
            claim->handed_back = true;
            lane->executor->ops->cancel(lane->executor, &claim->job);
        }
    }
}
