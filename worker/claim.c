/* A claim's life. */
#include "claim.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "lane.h"
#include "lane_parts.h"
#include "worker.h"

#include <stdlib.h>

static const char *const state_words[] = {"looking",  "adopting",   "ready",
                                          "fetching", "running",    "settling",
                                          "waiting",  "publishing", "returning"};
static const uint32_t state_moves[] = {
    [CLAIM_LOOKING] = STATE_BIT(CLAIM_ADOPTING) | STATE_BIT(CLAIM_READY) |
                      STATE_BIT(CLAIM_FETCHING) | STATE_BIT(CLAIM_RUNNING) |
                      STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_WAITING) |
                      STATE_BIT(CLAIM_PUBLISHING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_ADOPTING] = STATE_BIT(CLAIM_READY) | STATE_BIT(CLAIM_RUNNING) |
                       STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_READY] = STATE_BIT(CLAIM_FETCHING) | STATE_BIT(CLAIM_RUNNING) |
                    STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_FETCHING] = STATE_BIT(CLAIM_READY) | STATE_BIT(CLAIM_RUNNING) |
                       STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_WAITING) |
                       STATE_BIT(CLAIM_RETURNING),
    [CLAIM_RUNNING] = STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_SETTLING] =
        STATE_BIT(CLAIM_PUBLISHING) | STATE_BIT(CLAIM_LOOKING) | STATE_BIT(CLAIM_WAITING),
    [CLAIM_WAITING] = STATE_BIT(CLAIM_READY) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_PUBLISHING] = 0,
    [CLAIM_RETURNING] = 0,
};
static const struct state_table states = {"claim", state_words, state_moves, CLAIM_STATE_COUNT};

/* On its way into a slot. */
static bool is_starting(unsigned state)
{
    return state == CLAIM_LOOKING || state == CLAIM_ADOPTING || state == CLAIM_FETCHING;
}

struct claim *claim_new(struct lane *lane, struct queue_claimed *claimed, struct queue_entry *entry)
{
    struct claim *claim = mem_alloc(sizeof(*claim));
    claim->lane = lane;
    claim->claimed = claimed;
    queue_claimed_ref(claimed);
    claim->entry = entry;
    claim->bereft = entry->taken_over && !lane->fifo;
    claim->state = CLAIM_LOOKING;
    claim->claimed_us = clock_mono_us();
    claim->outcome.id = entry->id;
    job_init(&claim->job);
    claim->job.item = lane->item;
    claim->job.id = entry->id;
    claim->job.body = entry->body;
    claim->job.ended = lane_job_ended;
    TAILQ_INSERT_TAIL(&lane->claims, claim, link);
    lane->held++;
    lane->starting++;
    return claim;
}

void claim_free(struct claim *claim)
{
    struct lane *lane = claim->lane;
    lane_line_leave(claim);
    TAILQ_REMOVE(&lane->claims, claim, link);
    lane->held--;
    lane->starting -= is_starting(claim->state);
    lane->fetching -= claim->state == CLAIM_FETCHING;
    lane_fetch_over(claim);
    job_clear(&claim->job);
    if (claim->timer) {
        loop_timer_done(claim->timer);
        free(claim->timer);
    }
    free(claim->published);
    free(claim->children);
    queue_claimed_unref(claim->claimed);
    free(claim);
    lane_slot_is_free(lane);
}

void claim_move(struct claim *claim, enum claim_state to)
{
    struct lane *lane = claim->lane;
    unsigned from = claim->state;
    state_move(&states, &claim->state, to);
    if (from == CLAIM_RUNNING) {
        TAILQ_REMOVE(&lane->running, claim, running);
        lane->running_count--;
        lane_slot_is_free(lane);
    }
    lane->starting += is_starting(to);
    lane->starting -= is_starting(from);
    lane->fetching += to == CLAIM_FETCHING;
    lane->fetching -= from == CLAIM_FETCHING;
    if (to == CLAIM_RUNNING) {
        TAILQ_INSERT_TAIL(&lane->running, claim, running);
        lane->running_count++;
    }
}

struct claim *claim_of_job(struct job *job)
{
    return (struct claim *)((char *)job - offsetof(struct claim, job));
}

void claim_set_timer(struct claim *claim, int64_t delay_ms, void (*fire)(void *claim))
{
    if (!claim->timer)
        claim->timer = mem_alloc(sizeof(*claim->timer));
    else
        loop_timer_done(claim->timer);
    loop_timer_init(claim->timer, claim->lane->worker->loop, fire, claim);
    loop_timer_set(claim->timer, delay_ms > 0 ? delay_ms : 0);
}

void claim_cancel_timer(struct claim *claim)
{
    if (claim->timer)
        loop_timer_cancel(claim->timer);
}
