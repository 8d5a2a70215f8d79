#include "ownership.h"

#include "base/clock.h"
#include "base/mem.h"
#include "lane.h"
#include "worker.h"

#include <stdlib.h>

#define LEASE_MS 6000
#define MARGIN_MS                                                                                  \
    500 /* for clocks that do not run alike, and for what lies between a look at one and a handler's start */
#define RENEW_MS 1000

/* One that retires, or drains, keeps its leases while it holds something: what runs there is not to be refused for want of them. Of an item and
 * pattern there is one lane at a time: the next one opens when the one before it is gone. */
static bool has_share(const struct lane *lane)
{
    const struct fleet *fleet = lane->worker->fleet;
    bool may_have =
        lane->open && (!fleet || fleet_joined(fleet)); /* another lane may be the open one */
    return lane->runs && lane->fifo && (may_have || lane_has_parts(lane));
}

/* What is owned of one lane's partitions. */
static void tell_lane(struct lane *lane, const struct store_owned *owned, size_t count,
                      int64_t until_us)
{
    struct store_owned *own = mem_array(count, sizeof(*own));
    size_t own_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (owned[i].pattern == lane->name.pattern && strcmp(owned[i].item, lane->item->id) == 0)
            own[own_count++] = owned[i];
    }
    lane_own(lane, own, own_count, until_us);
    free(own);
}

static void on_owned(void *arg, const struct err *err, const struct store_owned *owned,
                     size_t count)
{
    struct ownership *ownership = arg;
    struct worker *worker = ownership->worker;
    int64_t until_us = ownership->asked_us + (LEASE_MS - MARGIN_MS) * 1000;
    ownership->asking = false;
    struct lane *lane;
    if (err->code != ERR_NONE || ownership->stale) /* other lanes are open: it is asked anew */
        return;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (has_share(lane))
            tell_lane(lane, owned, count, until_us);
    }
}

static void free_shares(struct ownership *ownership)
{
    for (size_t i = 0; i < ownership->share_count; i++)
        free((char *)ownership->shares[i].item);
    free(ownership->shares);
    ownership->share_count = 0;
}

/* A question under way borrows the shares, and may outlive their lanes. */
static void make_shares(struct ownership *ownership)
{
    struct worker *worker = ownership->worker;
    struct lane *lane;
    size_t count = 0;
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        count++;
    }
    free_shares(ownership);
    ownership->shares = mem_array(count, sizeof(*ownership->shares));
    TAILQ_FOREACH(lane, &worker->all_lanes, in_worker)
    {
        if (has_share(lane))
            ownership->shares[ownership->share_count++] =
                (struct store_share){.item = mem_strdup(lane->item->id),
                                     .pattern = lane->name.pattern,
                                     .partitions = (unsigned)lane->item->partitions,
                                     .leaves = lane_leaves_parts(lane)};
    }
}

static void ask(void *arg)
{
    struct ownership *ownership = arg;
    struct worker *worker = ownership->worker;
    loop_timer_set(&ownership->timer, RENEW_MS);
    if (ownership->asking || !worker->store_up || worker->leaving)
        return;
    bool had_some = ownership->share_count > 0;
    if (ownership->stale)
        make_shares(ownership);
    ownership->stale = false;
    if (ownership->share_count == 0 && !had_some)
        return;
    ownership->asking = true;
    ownership->asked_us = clock_mono_us();
    worker->store->ops->own(worker->store, worker->id, ownership->shares, ownership->share_count,
                            LEASE_MS, on_owned, ownership);
}

void ownership_init(struct ownership *ownership, struct worker *worker)
{
    *ownership = (struct ownership){.worker = worker};
    loop_timer_init(&ownership->timer, worker->loop, ask, ownership);
}

void ownership_refresh(struct ownership *ownership)
{
    ownership->stale = true;
    loop_timer_set(&ownership->timer, 0);
}

void ownership_done(struct ownership *ownership)
{
    loop_timer_done(&ownership->timer);
    free_shares(ownership);
}

void ownership_nudge(struct ownership *ownership)
{
    loop_timer_set(&ownership->timer, 0);
}

static void on_left(void *arg, const struct err *err)
{
    (void)arg;
    (void)err; /* what was not given up lapses */
}

void ownership_leave(struct ownership *ownership)
{
    struct worker *worker = ownership->worker;
    if (ownership->share_count && worker->store_up)
        worker->store->ops->disown(worker->store, worker->id, NULL, 0, on_left, NULL);
}
