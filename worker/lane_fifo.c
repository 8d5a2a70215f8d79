/* fifo: partitions of which each has one owner in the fleet, and in each of them strict order within each ordering key.
 *
 *   a partition:  owned ──store says another's──▶ lost ──nothing in hand──▶ freed
 *                   └──wanted elsewhere, drain──▶ leaving ──nothing in hand──▶ disowning ──▶ freed
 *
 * What is left of a lost partition settles nothing: its lease's token is another by then. How claims come in is in fifo_cycle.c, how
 * they take turns in fifo_line.c. */
#include "lane_fifo.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker.h"

#include <stdlib.h>

/* A partition is looked at in every tenth sweep. All that comes is told, so what is found then is rare: the signal was lost, a person
 * added it, or a claim of an owner before was carried out after ours, since the network held it up. */
#define SWEEPS 10

/* ---- partitions ---- */

struct lane_part *lane_part_find(struct lane *lane, unsigned number)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        if (part->number == number && !part->lost)
            return part;
    }
    return NULL;
}

static void on_told(void *arg, const struct err *err)
{
    (void)arg;
    (void)err; /* a wake signal that comes in vain costs the sender a second */
}

static void free_part(struct lane_part *part)
{
    struct lane *lane = part->lane;
    TAILQ_REMOVE(&lane->fifo->parts, part, link);
    free(part);
}

static void on_disowned(void *arg, const struct err *err)
{
    struct lane_part *part = arg;
    struct lane *lane = part->lane;
    (void)err; /* what was not given up lapses, or is told again as wanted */
    part->disowning = false;
    part->lost = true;
    free_part(part);
    lane_pump(lane);
}

static void leave_queue(struct lane_part *part)
{
    struct worker *worker = part->lane->worker;
    if (worker->queue_up && !worker->stopped)
        worker->queue->ops->leave(worker->queue, queue_name_of(part->lane->item, part->number),
                                  worker->id, on_told, NULL);
}

/* Gives a lease up. False: the store is away. */
static bool tell_store(struct lane *lane, const struct store_owned *owned, store_done *done,
                       void *arg)
{
    struct worker *worker = lane->worker;
    bool there = worker->store_up && !worker->stopped;
    if (there)
        worker->store->ops->disown(worker->store, worker->id, owned, 1, done, arg);
    return there;
}

void lane_part_settle(struct lane_part *part)
{
    if (part->held || part->in_cycle || part->disowning)
        return;
    if (part->lost) {
        free_part(part);
    } else if (part->leaving) {
        part->given_up = (struct store_owned){.item = part->lane->item->id,
                                              .pattern = part->lane->name.pattern,
                                              .partition = part->number,
                                              .token = part->token};
        part->disowning = true;
        leave_queue(part);
        if (!tell_store(part->lane, &part->given_up, on_disowned, part))
            on_disowned(part, &(const struct err){.code = ERR_UNAVAILABLE});
    }
}

/* Those that do not run yet go; `let_go` frees the claim. */
static void let_idle_go(struct lane_part *part, void (*let_go)(struct claim *))
{
    struct claim *claim, *next;
    part->in_cycle++; /* stays while its claims go */
    for (claim = TAILQ_FIRST(&part->claims); claim; claim = next) {
        next = TAILQ_NEXT(claim, in_part);
        if (claim->state == CLAIM_READY || claim->state == CLAIM_WAITING || claim->fetch_waits) {
            claim_cancel_timer(claim);
            let_go(claim);
        }
    }
    part->in_cycle--;
}

/* What they do would be recorded by nobody, and is done once more elsewhere. */
static void take_running_back(struct lane_part *part)
{
    struct claim *claim, *next;
    for (claim = TAILQ_FIRST(&part->claims); claim; claim = next) {
        next = TAILQ_NEXT(claim, in_part);
        if (claim->state == CLAIM_RUNNING)
            lane_take_back(claim);
    }
}

static void lose(struct lane_part *part)
{
    log_info("partition_lost", LOG_WORD("item", part->lane->item->id),
             LOG_INT("partition", part->number));
    part->lost = true;
    leave_queue(part);
    part->in_cycle++; /* stays while its claims go */
    let_idle_go(part, lane_line_drop);
    take_running_back(part);
    part->in_cycle--;
    lane_part_settle(part);
}

void lane_refused_by_lease(struct claim *claim)
{
    struct lane_part *part = claim->part;
    part->in_cycle++; /* stays while its claims go */
    if (!part->lost)
        lose(part); /* the store will say so */
    lane_line_drop(claim);
    part->in_cycle--;
    lane_part_settle(part);
}

static void leave(struct lane_part *part)
{
    if (part->leaving)
        return;
    part->leaving = true;
    let_idle_go(part, lane_return);
    lane_part_settle(part);
}

/* It is still ours. */
static void keep(struct lane_part *part, int64_t until_us)
{
    bool was_sure = lane_part_is_sure(part);
    part->until_us = until_us;
    if (!was_sure)
        lane_part_settle_keys(part); /* what stands before the gate may run again */
}

static void gain(struct lane *lane, const struct store_owned *owned, int64_t until_us)
{
    struct lane_part *part = mem_alloc(sizeof(*part));
    part->lane = lane;
    part->number = owned->partition;
    part->token = owned->token;
    part->until_us = until_us;
    part->woken = part->inheriting = true;
    part->look_back = lane_is_logged(lane);
    part->clear_seq = part->look_back ? 0 : INT64_MAX;
    TAILQ_INIT(&part->claims);
    TAILQ_INIT(&part->keys);
    TAILQ_INSERT_TAIL(&lane->fifo->parts, part, link);
    log_debug("partition_owned", LOG_WORD("item", lane->item->id),
              LOG_INT("partition", part->number));
}

static const struct store_owned *find_owned(const struct store_owned *owned, size_t count,
                                            const struct lane_part *part)
{
    for (size_t i = 0; i < count; i++) {
        if (owned[i].partition == part->number && owned[i].token == part->token)
            return &owned[i];
    }
    return NULL;
}

void lane_own(struct lane *lane, const struct store_owned *owned, size_t count, int64_t until_us)
{
    struct lane_fifo *fifo = lane->fifo;
    struct lane_part *part, *next;
    if (!fifo)
        return;
    for (part = TAILQ_FIRST(&fifo->parts); part; part = next) {
        next = TAILQ_NEXT(part, link);
        const struct store_owned *ours = find_owned(owned, count, part);
        if (part->lost || part->disowning)
            continue;
        if (!ours) {
            lose(part);
            continue;
        }
        keep(part, until_us); /* what is in hand goes on until it has gone */
        if (ours->wanted)
            leave(part);
    }
    for (size_t i = 0; i < count && !fifo->leaving; i++) {
        if (lane_part_find(lane, owned[i].partition))
            continue;
        if (owned[i].wanted)
            tell_store(lane, &owned[i], on_told, NULL); /* it did not hear of it */
        else
            gain(lane, &owned[i], until_us);
    }
    lane_pump(lane);
}

void lane_look_anew(struct lane *lane)
{
    struct lane_part *part;
    if (!lane->fifo)
        return;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->look_back = lane_is_logged(lane);
        part->clear_seq = part->look_back ? 0 : INT64_MAX;
        part->whole_seq = 0;
    }
}

bool lane_has_parts(const struct lane *lane)
{
    return lane->fifo && !TAILQ_EMPTY(&lane->fifo->parts);
}

bool lane_leaves_parts(const struct lane *lane)
{
    return lane->fifo && lane->fifo->leaving;
}

void lane_disown(struct lane *lane)
{
    struct lane_part *part, *next;
    if (!lane->fifo)
        return;
    lane->fifo->leaving = true;
    for (part = TAILQ_FIRST(&lane->fifo->parts); part; part = next) {
        next = TAILQ_NEXT(part, link);
        if (!part->lost)
            leave(part);
    }
}

/* ---- life ---- */

void lane_fifo_wake(struct lane *lane, unsigned partition)
{
    struct lane_part *part = lane_part_find(lane, partition);
    if (part)
        part->woken = true;
}

void lane_fifo_sweep(struct lane *lane)
{
    struct lane_fifo *fifo = lane->fifo;
    struct lane_part *part;
    fifo->sweeps++;
    TAILQ_FOREACH(part, &fifo->parts, link)
    {
        part->futile = false;
        if (part->lost || (fifo->sweeps + part->number) % SWEEPS)
            continue;
        part->woken = part->inheriting = true;
        lane_promote(lane, part->number);
    }
    lane_pump(lane);
}

void lane_fifo_wake_all(struct lane *lane)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->woken = true;
        part->futile = false;
    }
    lane_pump(lane);
}

/* Answers that the lost link owed us may have been claims. */
void lane_fifo_link_up(struct lane *lane)
{
    struct lane_part *part;
    TAILQ_FOREACH(part, &lane->fifo->parts, link)
    {
        part->inheriting = true;
        part->look_back = lane_is_logged(lane);
    }
    lane_fifo_wake_all(lane);
}

void lane_fifo_init(struct lane *lane)
{
    lane->fifo = mem_alloc(sizeof(*lane->fifo));
    TAILQ_INIT(&lane->fifo->parts);
    TAILQ_INIT(&lane->fifo->runnable);
    lane->fifo->sweeps = (unsigned)random_below(SWEEPS);
    loop_task_init(&lane->fifo->turn, lane->worker->loop, lane_fifo_turn, lane);
}

/* After the last claim is gone. */
void lane_fifo_done(struct lane *lane)
{
    struct lane_part *part;
    if (!lane->fifo)
        return;
    while ((part = TAILQ_FIRST(&lane->fifo->parts)))
        free_part(part);
    loop_task_done(&lane->fifo->turn);
    fifo_cycle_free(lane->fifo->cycle);
    free(lane->fifo);
    lane->fifo = NULL;
}

bool lane_fifo_quiet(const struct lane *lane)
{
    return !lane->fifo ||
           (!lane->fifo->cycle && (!lane->fifo->leaving || TAILQ_EMPTY(&lane->fifo->parts)));
}
