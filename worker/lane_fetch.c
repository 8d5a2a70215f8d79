/* Large bodies, which stay in PostgreSQL until their handler is about to start. How large one is shows when it comes, so each
 * that is under way holds room for the largest that the doors let in; what waits for room waits in the order of its
 * claim. A body over all of the budget goes alone. */
#include "lane_parts.h"

#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

#define BUDGET_BYTES (64u << 20)

static size_t largest_body(const struct production *production)
{
    size_t most = (size_t)production->dispatcher.http_max_body;
    for (size_t i = 0; i < production->dispatcher.mllp_count; i++) {
        size_t frame = (size_t)production->dispatcher.mllp[i].max_frame;
        most = frame > most ? frame : most;
    }
    return most;
}

static void give(struct claim *claim, size_t bytes)
{
    struct worker *worker = claim->lane->worker;
    worker->fetch_bytes += bytes;
    worker->fetch_bytes -= claim->fetch_bytes;
    claim->fetch_bytes = bytes;
}

static void on_body(void *arg, const struct err *err, struct body body, struct slice content_type,
                    bool found)
{
    struct claim *claim = arg;
    struct worker *worker = claim->lane->worker;
    (void)content_type; /* meta has it */
    bool here = err->code == ERR_NONE && found && !worker->draining;
    give(claim, here ? body.len : 0);
    if (here) {
        claim->fetched = malloc(body.len ? body.len : 1);
        if (claim->fetched && body.len)
            memcpy(claim->fetched, body.ptr, body.len);
        claim->job.body = body_of(claim->fetched, body.len);
    }
    bool failed = err->code != ERR_NONE || (here && !claim->fetched);
    if (worker->draining || (failed && !claim->part))
        lane_return(claim);
    else if (failed)
        lane_fetch_again(claim);
    else
        lane_fetched(claim, found);
    lane_fetch_next(worker);
}

void lane_fetch_next(struct worker *worker)
{
    size_t largest = largest_body(worker->production);
    struct claim *claim;
    while ((claim = TAILQ_FIRST(&worker->fetch_waiting))) {
        bool room = worker->fetch_bytes == 0 || worker->fetch_bytes + largest <= BUDGET_BYTES;
        if (!worker->draining && (!room || !worker->store_up))
            return;
        TAILQ_REMOVE(&worker->fetch_waiting, claim, running);
        claim->fetch_waits = false;
        if (worker->draining) {
            lane_return(claim);
            continue;
        }
        give(claim, largest);
        worker->store->ops->body(worker->store, claim->entry->id, on_body, claim);
    }
}

void lane_fetch(struct claim *claim)
{
    struct worker *worker = claim->lane->worker;
    claim_move(claim, CLAIM_FETCHING);
    claim->fetch_waits = true;
    TAILQ_INSERT_TAIL(&worker->fetch_waiting, claim, running);
    lane_fetch_next(worker);
}

void lane_fetch_over(struct claim *claim)
{
    struct worker *worker = claim->lane->worker;
    if (claim->fetch_waits)
        TAILQ_REMOVE(&worker->fetch_waiting, claim, running);
    claim->fetch_waits = false;
    if (claim->fetched)
        claim->job.body = claim->entry->body;
    free(claim->fetched);
    claim->fetched = NULL;
    if (!claim->fetch_bytes)
        return;
    give(claim, 0);
    if (!worker->stopped)
        lane_fetch_next(worker);
}
