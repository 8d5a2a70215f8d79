/* A claim's life. */
#include "claim.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "lane.h"
#include "lane_parts.h"

#include <stdlib.h>

static const char *const state_words[] = {"looking",  "adopting",   "fetching", "running",
                                          "settling", "publishing", "returning"};
static const uint32_t state_moves[] = {
    [CLAIM_LOOKING] = STATE_BIT(CLAIM_ADOPTING) | STATE_BIT(CLAIM_FETCHING) |
                      STATE_BIT(CLAIM_RUNNING) | STATE_BIT(CLAIM_SETTLING) |
                      STATE_BIT(CLAIM_PUBLISHING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_ADOPTING] =
        STATE_BIT(CLAIM_RUNNING) | STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_FETCHING] =
        STATE_BIT(CLAIM_RUNNING) | STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_RUNNING] = STATE_BIT(CLAIM_SETTLING) | STATE_BIT(CLAIM_RETURNING),
    [CLAIM_SETTLING] = STATE_BIT(CLAIM_PUBLISHING) | STATE_BIT(CLAIM_LOOKING),
    [CLAIM_PUBLISHING] = 0,
    [CLAIM_RETURNING] = 0,
};
static const struct state_table states = {"claim", state_words, state_moves, CLAIM_STATE_COUNT};

struct claim *claim_new(struct lane *lane, struct queue_claimed *claimed, struct queue_entry *entry,
                        bool taken_over)
{
    struct claim *claim = mem_alloc(sizeof(*claim));
    claim->lane = lane;
    claim->claimed = claimed;
    queue_claimed_ref(claimed);
    claim->entry = entry;
    claim->state = CLAIM_LOOKING;
    claim->taken_over = taken_over;
    job_init(&claim->job);
    claim->job.item = lane->item;
    claim->job.id = entry->id;
    claim->job.body = entry->body;
    claim->job.ended = lane_job_ended;
    claim->claimed_us = clock_mono_us();
    claim->outcome.id = entry->id;
    TAILQ_INSERT_TAIL(&lane->claims, claim, link);
    lane->held++;
    lane->starting++;
    return claim;
}

void claim_free(struct claim *claim)
{
    struct lane *lane = claim->lane;
    bool was_starting = claim->state == CLAIM_LOOKING || claim->state == CLAIM_ADOPTING ||
                        claim->state == CLAIM_FETCHING;
    TAILQ_REMOVE(&lane->claims, claim, link);
    lane->held--;
    lane->starting -= was_starting;
    lane_fetch_over(claim);
    job_clear(&claim->job);
    free(claim->fetched);
    free(claim->stored_reply);
    free(claim->published);
    free(claim->children);
    queue_claimed_unref(claim->claimed);
    free(claim);
    lane_pump(lane);
}

void claim_move(struct claim *claim, enum claim_state to)
{
    struct lane *lane = claim->lane;
    enum claim_state from = claim->state;
    state_move(&states, &claim->state, to);
    if (from == CLAIM_RUNNING) {
        TAILQ_REMOVE(&lane->running, claim, running);
        lane->running_count--;
        lane_pump(lane); /* a slot is free */
    }
    bool was_starting = from == CLAIM_LOOKING || from == CLAIM_ADOPTING || from == CLAIM_FETCHING;
    bool is_starting = to == CLAIM_LOOKING || to == CLAIM_ADOPTING || to == CLAIM_FETCHING;
    lane->starting += is_starting;
    lane->starting -= was_starting;
    if (to == CLAIM_RUNNING) {
        TAILQ_INSERT_TAIL(&lane->running, claim, running);
        lane->running_count++;
    }
}

struct claim *claim_of_job(struct job *job)
{
    return (struct claim *)((char *)job - offsetof(struct claim, job));
}
