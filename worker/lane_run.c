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
    struct job *jobs[QUEUE_BATCH_MAX];
    struct store_claim rows[QUEUE_BATCH_MAX];
};

/* ---- the end of a run ---- */

static void settle(struct job *job)
{
    struct store_outcome *outcome = &job->outcome;
    outcome->item = job->lane->item->id;
    outcome->pattern = job->lane->name.pattern;
    outcome->worker = job->lane->worker->id;
    outcome->finished_us = clock_wall_us();
    if (!outcome->started_us)
        outcome->started_us = outcome->finished_us;
    for (size_t i = 0; i < outcome->child_count; i++)
        outcome->children[i].received_us = outcome->finished_us;
    job_move(job, JOB_SETTLING);
    settler_add(&job->lane->worker->settler, job);
}

static void bury(struct job *job, const char *reason)
{
    snprintf(job->error, sizeof(job->error), "%s", reason);
    job->outcome.error = job->error;
    job->outcome.end = STORE_DEAD_LETTERED;
    job->outcome.child_count = 0;
    settle(job);
}

void lane_refused(struct job *job)
{
    struct store_outcome *outcome = &job->outcome;
    snprintf(job->error, sizeof(job->error),
             "the database refused the data of its children or its reply");
    outcome->error = job->error;
    outcome->end = STORE_DEAD_LETTERED;
    outcome->child_count = 0;
    outcome->reply = outcome->reply_content_type = slice_of(NULL, 0);
    settler_add(&job->lane->worker->settler, job);
}

static void count_run(struct job *job)
{
    histogram_observe(job->lane->metrics.process_seconds, clock_mono_us() - job->started_us);
    metric_set(job->lane->metrics.in_flight, (double)(job->lane->running_count - 1));
}

void lane_ended(struct job *job)
{
    count_run(job);
    settle(job);
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

void lane_failed(struct job *job, const struct err *error)
{
    const struct item *item = job->lane->item;
    count_run(job);
    if (job->handed_back) {
        lane_return(job);
        return;
    }
    enum error_code code = error->code;
    if (job->timed_out) {
        code = ERR_TIMEOUT;
        snprintf(job->error, sizeof(job->error), "no end within %lld ms",
                 (long long)item->timeout_ms);
    } else {
        snprintf(job->error, sizeof(job->error), "%s", error->text);
    }
    if (error_class_of(code) != ERROR_RETRY || job->outcome.attempt >= item->retry.max_attempts) {
        job->outcome.end = STORE_DEAD_LETTERED;
    } else {
        job->outcome.end = STORE_RETRY;
        job->outcome.due_ms = clock_wall_ms() + backoff_ms(item, job->outcome.attempt);
    }
    job->outcome.error = job->error;
    job->outcome.child_count = 0;
    settle(job);
}

/* ---- run ---- */

static void run(struct job *job)
{
    struct lane *lane = job->lane;
    job_move(job, JOB_RUNNING);
    job->started_us = clock_mono_us();
    job->outcome.started_us = clock_wall_us();
    metric_set(lane->metrics.in_flight, (double)lane->running_count);
    if (!lane->immediate && !loop_timer_pending(&lane->timeouts))
        loop_timer_set(&lane->timeouts, lane->item->timeout_ms);
    lane->handler->start(lane->handler_state, job);
}

void lane_check_timeouts(void *arg)
{
    struct lane *lane = arg;
    int64_t now = clock_mono_us(), limit = lane->item->timeout_ms * 1000;
    struct job *job, *next;
    for (job = TAILQ_FIRST(&lane->running); job; job = next) {
        next = TAILQ_NEXT(job, running);
        int64_t left = job->started_us + limit - now;
        if (left > 0) {
            loop_timer_set_us(&lane->timeouts, left);
            return;
        }
        if (!job->timed_out && lane->handler->cancel) {
            job->timed_out = true;
            lane->handler->cancel(lane->handler_state, job); /* ends with job_fail */
        }
    }
}

void lane_fetched(struct job *job, bool found)
{
    if (found)
        run(job);
    else
        bury(job, "its body is not in the store");
}

static void start(struct job *job)
{
    struct lane *lane = job->lane;
    if (lane->worker->draining) {
        lane_return(job);
    } else if (job->outcome.attempt > lane->item->retry.max_attempts + DEATHS_MAX) {
        bury(job,
             "given up: too many attempts, the last ones ended with the death of their worker");
    } else if (job->entry->malformed) {
        bury(job, "the queue's entry is malformed");
    } else if (job->meta.stored) {
        lane_fetch(job);
    } else {
        run(job);
    }
}

/* ---- adopt: an entry of a direct producer enters the WAL before it runs ---- */

struct adoption {
    struct lane *lane;
    size_t count;
    struct job *jobs[QUEUE_BATCH_MAX];
    struct store_message rows[QUEUE_BATCH_MAX];
    struct store_message *row_pointers[QUEUE_BATCH_MAX];
    struct hl7_summary summaries[QUEUE_BATCH_MAX];
    char metas[QUEUE_BATCH_MAX][META_PACKED_MAX];
};

static void on_adopted(void *arg, const struct err *err)
{
    struct adoption *adoption = arg;
    for (size_t i = 0; i < adoption->count; i++) {
        struct job *job = adoption->jobs[i];
        if (err->code != ERR_NONE)
            lane_return(job); /* claimed again after a rest */
        else if (adoption->rows[i].error != ERR_NONE)
            bury(job, "the database refused the entry's data");
        else
            start(job);
    }
    free(adoption);
}

static void fill_adopted(struct adoption *adoption, size_t i)
{
    struct job *job = adoption->jobs[i];
    struct hl7_summary *summary = &adoption->summaries[i];
    struct hl7_message message;
    struct err ignored;
    if (hl7_parse(body_slice(job->body), &message, &ignored) == 0) {
        hl7_summary(&message, summary);
        hl7_done(&message);
    }
    int64_t received_us = job->entry->at_ms * 1000, now_us = clock_wall_us();
    struct meta meta = job->meta;
    meta.in_wal = true;
    meta.stored = job->body.len > MESSAGE_INLINE_MAX;
    struct buffer packed = {.data = adoption->metas[i],
                            .capacity = sizeof(adoption->metas[i]),
                            .max = sizeof(adoption->metas[i])};
    meta_pack(&meta, &packed);
    adoption->rows[i] = (struct store_message){
        .id = job->entry->id,
        .item = job->lane->item->id,
        .pattern = job->lane->name.pattern,
        .direction = DIRECTION_INBOUND,
        .received_us =
            received_us > 0 && received_us < now_us ? received_us : now_us, /* a producer's clock */
        .priority = job->entry->priority,
        .ordering_key = job->entry->key,
        .control_id = slice_text(summary->control_id),
        .message_type = slice_text(summary->message_type),
        .sender = slice_text(summary->sender),
        .content_type = meta.content_type,
        .meta = buffer_slice(&packed),
        .body = job->body,
    };
    adoption->row_pointers[i] = &adoption->rows[i];
}

static void adopt(struct lane *lane, struct job **jobs, size_t count)
{
    struct adoption *adoption = mem_alloc(sizeof(*adoption));
    adoption->lane = lane;
    adoption->count = count;
    for (size_t i = 0; i < count; i++) {
        adoption->jobs[i] = jobs[i];
        job_move(jobs[i], JOB_ADOPTING);
        fill_adopted(adoption, i);
    }
    lane->worker->store->ops->adopt(lane->worker->store, adoption->row_pointers, count, on_adopted,
                                    adoption);
}

/* ---- look up ---- */

static void read_meta(struct job *job)
{
    struct err err;
    if (meta_unpack(job->entry->meta, &job->meta, &err)) {
        job->meta = (struct meta){0};
        job->entry->malformed = true;
    }
    if (job->meta.content_type.len > META_CONTENT_TYPE_MAX ||
        job->meta.traceparent.len > META_TRACEPARENT_MAX ||
        job->meta.reply_to.len > META_REPLY_TO_MAX) {
        job->meta = (struct meta){.in_wal = job->meta.in_wal, .stored = job->meta.stored};
        job->entry->malformed = true;
    }
}

static void on_looked_up(void *arg, const struct err *err)
{
    struct look_up *look_up = arg;
    struct lane *lane = look_up->lane;
    struct job *ended[QUEUE_BATCH_MAX], *unknown[QUEUE_BATCH_MAX];
    size_t ended_count = 0, unknown_count = 0;
    worker_note(lane->worker, &lane->worker->look_up_trouble, err);
    for (size_t i = 0; i < look_up->count; i++) {
        struct job *job = look_up->jobs[i];
        const struct store_claim *row = &look_up->rows[i];
        if (!job->settle_repeated) {
            job->outcome.run = row->run;
            job->outcome.attempt = row->attempt;
            read_meta(job);
        }
        if (err->code != ERR_NONE && job->settle_repeated)
            lane_superseded(job);
        else if (err->code != ERR_NONE)
            lane_return(job);
        else if (row->ended)
            ended[ended_count++] = job;
        else if (job->settle_repeated)
            lane_superseded(job);
        else if (!row->known && job->meta.stored)
            bury(job, "neither the message nor its body is in the store");
        else if (!row->known)
            unknown[unknown_count++] = job;
        else
            start(job);
    }
    if (ended_count)
        lane_publish_ended(lane, ended, ended_count);
    if (unknown_count)
        adopt(lane, unknown, unknown_count);
    if (look_up->of_claim)
        lane_looked_up(lane, look_up->count);
    free(look_up);
}

void lane_look_up(struct lane *lane, struct job **jobs, size_t count, bool of_claim)
{
    BUG_ON(count > QUEUE_BATCH_MAX);
    struct look_up *look_up = mem_alloc(sizeof(*look_up));
    look_up->lane = lane;
    look_up->of_claim = of_claim;
    look_up->count = count;
    for (size_t i = 0; i < count; i++) {
        look_up->jobs[i] = jobs[i];
        look_up->rows[i] =
            (struct store_claim){.id = jobs[i]->entry->id, .taken_over = jobs[i]->taken_over};
    }
    lane->worker->store->ops->claim(lane->worker->store, lane->worker->id, look_up->rows, count,
                                    on_looked_up, look_up);
}

/* ---- drain ---- */

void lane_give_up(struct lane *lane)
{
    struct job *job, *next;
    for (job = TAILQ_FIRST(&lane->running); job; job = next) {
        next = TAILQ_NEXT(job, running);
        if (!job->handed_back && lane->handler->cancel) {
            job->handed_back = true;
            lane->handler->cancel(lane->handler_state, job);
        }
    }
}
