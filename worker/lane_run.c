/* From a claim that was looked up to the end of its handler. */
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

/* ---- a row of a message that the store does not have ---- */

struct store_message *lane_make_row(struct claim *claim)
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
        outcome->message = lane_make_row(claim);
    claim_move(claim, CLAIM_SETTLING);
    /* The next one of its key need not wait for the commit; but whose death is it, should the worker be lost again? */
    if (outcome->end == STORE_COMPLETED && !item->class->outbound && !claim->bereft)
        lane_turn_over(claim);
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

void lane_bury(struct claim *claim, const char *reason)
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
        lane_bury(claim, "its body is not in the store");
}

static bool is_too_late(const struct claim *claim)
{
    int64_t deadline_ms = deadline_of(claim);
    return deadline_ms && clock_wall_ms() >= deadline_ms;
}

/* Nobody but the entry itself counts its deaths: they are written into it before it runs again. (One of a fifo keeps its place:
 * count_deaths.) */
static bool must_count_death(const struct claim *claim)
{
    return claim->unrecorded && claim->bereft && !claim->part;
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
        lane_bury(
            claim,
            "given up: too many attempts, the last ones ended with the death of their worker");
    } else if (claim->entry->malformed) {
        lane_bury(claim, "the queue's entry is malformed");
    } else if (must_count_death(claim)) {
        snprintf(claim->error, sizeof(claim->error), "its worker was lost");
        retry_or_bury(claim, true, deaths_max);
    } else if (claim->meta.stored && !claim->fetched) {
        lane_fetch(claim);
    } else {
        run(claim);
    }
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
