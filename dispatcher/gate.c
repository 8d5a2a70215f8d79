#include "gate.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define SLOTS_TTL_MS 10000
#define SLOTS_SLOW_MS 50 /* an answer that takes longer is not waited for */
#define SLOW_TICK_MS 10
#define BLOCK_SHARE 64 /* a block is this part of queue_size … */
#define BLOCK_MAX 1024
#define ROOM_SHARE 8 /* … and at most this part of what is free */
#define REFRESH_MS 1000
#define SOON_MS 20      /* where others may wait for what is no longer ours */
#define OLD_US 900000   /* nothing was asked for so long: a refresh asks */
#define IDLE_US 1000000 /* nobody was admitted for so long: what is free is given back */
#define COUNT_SHARE                                                                                \
    20 /* counting in the database walks the backlog: at most this part of the time */

static struct gate_item *gated_of(const struct gate *gate, const struct item *item)
{
    return &gate->items[item->index];
}

/* What is to count for us in Redis. */
static int64_t held(const struct gate_item *gated)
{
    return gated->on_way - gated->sent + gated->unqueued + gated->free;
}

static int64_t used(const struct gate_item *gated)
{
    return gated->depth + gated->on_way + gated->unqueued + gated->nobodys;
}

static int64_t room(const struct gate_item *gated)
{
    return gated->item->queue_size - used(gated) - gated->free;
}

/* ---- reserving ---- */

static bool is_tight(const struct gate_item *gated)
{
    int64_t least = gated->item->queue_size / ROOM_SHARE;
    return room(gated) < (least > ROOM_SHARE ? least : ROOM_SHARE);
}

/* Less is ours than Redis counts: others may be refused for it when little is left. */
static void changed(struct gate_item *gated)
{
    struct gate *gate = gated->gate;
    if (gate->soon || !gate->queue_up || gated->recorded == held(gated) ||
        !(gate->succeeded || is_tight(gated)))
        return;
    gate->soon = true;
    loop_timer_set(&gate->refresh, SOON_MS);
}

/* Slots to reserve for those who have not come yet. */
static int64_t block_of(const struct gate_item *gated)
{
    int64_t block = gated->item->queue_size / BLOCK_SHARE, share = room(gated) / ROOM_SHARE;
    if (block < 1)
        block = 1;
    if (block > BLOCK_MAX)
        block = BLOCK_MAX;
    if (block > share)
        block = share;
    return block > 0 ? block : 0;
}

static void admit(struct gate_item *gated)
{
    gated->on_way++;
    gated->since++;
    gated->since_asked++;
    gated->admitted_us = clock_mono_us();
}

static enum gate_verdict admit_while_away(struct gate_item *gated, const struct gate_waiter *waiter)
{
    int64_t now = gated->counted >= 0 ? gated->counted + gated->since : used(gated);
    if (waiter->queue_only)
        return GATE_AWAY;
    if (now >= gated->item->queue_size)
        return GATE_FULL;
    gated->unslotted++;
    admit(gated);
    return GATE_ADMITTED;
}

static void remove_waiter(struct gate_item *gated, struct gate_waiter *waiter)
{
    TAILQ_REMOVE(&gated->waiting, waiter, link);
    gated->waiting_count--;
}

static void tell(struct gate_waiters *waiters, enum gate_verdict verdict)
{
    struct gate_waiter *waiter;
    while ((waiter = TAILQ_FIRST(waiters))) {
        TAILQ_REMOVE(waiters, waiter, link);
        waiter->told(waiter, verdict);
    }
}

/* Its call hangs: who can go by the database does. */
static bool is_slow(const struct gate_item *gated)
{
    return gated->asking && clock_mono_us() - gated->asked_us >= SLOTS_SLOW_MS * 1000;
}

enum slots_answer { SLOTS_TOLD, SLOTS_FAILED, SLOTS_SLOW };

/* The decisions first, for all; then they are told, the admitted ones before any that calls back into the fronts. */
static void decide(struct gate_item *gated, enum slots_answer answer)
{
    struct gate_waiters by_verdict[GATE_AWAY + 1];
    for (unsigned i = 0; i <= GATE_AWAY; i++)
        TAILQ_INIT(&by_verdict[i]);
    struct gate_waiter *waiter, *next;
    for (waiter = TAILQ_FIRST(&gated->waiting); waiter; waiter = next) {
        next = TAILQ_NEXT(waiter, link);
        enum gate_verdict verdict = GATE_FULL;
        if (answer == SLOTS_SLOW && waiter->queue_only)
            continue; /* it has no other way than to wait */
        if (answer != SLOTS_TOLD) {
            verdict = admit_while_away(gated, waiter);
        } else if (gated->free > 0) {
            gated->free--;
            admit(gated);
            verdict = GATE_ADMITTED;
        } else if (!waiter->asked) {
            break; /* they came after the call was made, and all behind them */
        }
        remove_waiter(gated, waiter);
        TAILQ_INSERT_TAIL(&by_verdict[verdict], waiter, link);
    }
    tell(&by_verdict[GATE_ADMITTED], GATE_ADMITTED);
    tell(&by_verdict[GATE_FULL], GATE_FULL);
    tell(&by_verdict[GATE_AWAY], GATE_AWAY);
}

/* What the database counted and nobody's queue or gate does was lost by Redis, or waits for the reconciler. Others' messages on
 * their way look the same for a moment: so it only falls until the next change of a link. */
static void settle(struct gate_item *gated)
{
    int64_t beyond = gated->counted - gated->depth - gated->on_way;
    if (beyond < 0)
        beyond = 0;
    int64_t ours = beyond < gated->unqueued_asked ? beyond : gated->unqueued_asked;
    gated->unqueued -= gated->unqueued_asked - ours;
    gated->unqueued_asked = ours;
    if (gated->settling_new || gated->nobodys > beyond - ours)
        gated->nobodys = beyond - ours;
    gated->settling = gated->settling_new = false;
    gated->counted = -1;
}

static void ask(struct gate_item *gated, int64_t want);

static void on_slots(void *arg, const struct err *err, int64_t granted, int64_t depth)
{
    struct gate_item *gated = arg;
    gated->asking = false;
    if (err->code == ERR_NONE) {
        gated->free += granted > gated->unslotted ? granted - gated->unslotted : 0;
        gated->recorded = gated->reported + granted;
        gated->depth = depth;
        if (gated->settling)
            settle(gated);
    } else {
        gated->recorded = -1;
    }
    decide(gated, err->code == ERR_NONE ? SLOTS_TOLD : SLOTS_FAILED);
    if (gated->gate->succeeded)
        gated->free = 0; /* nobody comes any more */
    if (gated->waiting_count)
        ask(gated, 0);
    else if (err->code == ERR_NONE)
        changed(gated);
}

/* At least for all who wait. */
static void ask(struct gate_item *gated, int64_t want)
{
    struct gate *gate = gated->gate;
    const struct item *item = gated->item;
    if (gated->asking || !gate->queue_up)
        return;
    struct gate_waiter *waiter;
    TAILQ_FOREACH_REVERSE(waiter, &gated->waiting, gate_waiters, link)
    {
        if (waiter->asked)
            break;
        waiter->asked = true;
    }
    if (want < (int64_t)gated->waiting_count)
        want = (int64_t)gated->waiting_count;
    int64_t limit = item->queue_size - gated->nobodys;
    gated->asking = true;
    gated->asked_us = clock_mono_us();
    gated->reported = held(gated);
    gated->unslotted = 0;
    gate->queue->ops->slots(gate->queue, queue_name_of(item, 0), (unsigned)item->partitions,
                            gate->holder, limit > 0 ? limit : 0, gated->reported, want,
                            SLOTS_TTL_MS, on_slots, gated);
}

enum gate_verdict gate_admit(struct gate *gate, const struct item *item, struct gate_waiter *waiter)
{
    struct gate_item *gated = gated_of(gate, item);
    if (!gate->queue_up)
        return admit_while_away(gated, waiter);
    if (gated->free > 0) {
        gated->free--;
        admit(gated);
        int64_t block = block_of(gated);
        if (gated->free * 2 < block)
            ask(gated, block);
        return GATE_ADMITTED;
    }
    if (!gated->waiting_count && !waiter->queue_only && is_slow(gated))
        return admit_while_away(gated, waiter);
    if (gated->waiting_count == GATE_WAITING_MAX)
        return GATE_AWAY;
    waiter->asked = false;
    TAILQ_INSERT_TAIL(&gated->waiting, waiter, link);
    gated->waiting_count++;
    if (!loop_timer_pending(&gate->impatience))
        loop_timer_set(&gate->impatience, SLOTS_SLOW_MS);
    ask(gated, block_of(gated));
    return GATE_WAITS;
}

void gate_leave(struct gate *gate, const struct item *item, struct gate_waiter *waiter)
{
    remove_waiter(gated_of(gate, item), waiter);
}

static void on_impatience(void *arg)
{
    struct gate *gate = arg;
    bool waits = false;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        struct gate_item *gated = &gate->items[i];
        if (gated->waiting_count && is_slow(gated))
            decide(gated, SLOTS_SLOW);
        waits |= gated->waiting_count > 0;
    }
    if (waits)
        loop_timer_set(&gate->impatience, SLOW_TICK_MS);
}

/* ---- counting in the database ---- */

static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct gate *gate = arg;
    int64_t now = clock_mono_us();
    gate->counting = false;
    gate->count_after_us = now + (now - gate->counted_us) * COUNT_SHARE;
    if (err->code != ERR_NONE) {
        gate->recount |= gate->counting_new;
        return;
    }
    for (size_t i = 0; i < gate->production->item_count; i++) {
        gate->items[i].counted = 0;
        gate->items[i].since = gate->items[i].since_asked;
    }
    for (size_t i = 0; i < count; i++) {
        const struct item *item = production_find(gate->production, slice_text(counts[i].item));
        if (item)
            gated_of(gate, item)->counted = counts[i].count;
    }
    for (size_t i = 0; gate->queue_up && i < gate->production->item_count; i++) {
        struct gate_item *gated = &gate->items[i];
        gated->settling = true;
        gated->settling_new = gate->counting_new;
        if (gated->counted == 0 && used(gated) == gated->depth)
            settle(gated);
        else
            ask(gated, 0);
    }
}

static void count(struct gate *gate)
{
    int64_t now = clock_mono_us();
    if (gate->counting || !gate->store_up || now < gate->count_after_us)
        return;
    gate->counting = true;
    gate->counted_us = now;
    gate->counting_new = gate->recount;
    gate->recount = false;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        gate->items[i].since_asked = gate->items[i].on_way;
        gate->items[i].unqueued_asked = gate->items[i].unqueued;
    }
    gate->store->ops->counts(gate->store, on_counts, gate);
}

/* ---- in a slow rhythm ---- */

static void on_refresh(void *arg)
{
    struct gate *gate = arg;
    int64_t now = clock_mono_us();
    bool wanted = gate->recount || !gate->queue_up;
    gate->soon = false;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        struct gate_item *gated = &gate->items[i];
        if (!gated->waiting_count && now - gated->admitted_us >= IDLE_US)
            gated->free = 0;
        bool stale = gated->recorded != held(gated), old = now - gated->asked_us >= OLD_US;
        if ((stale && (old || is_tight(gated) || gate->succeeded)) || (old && used(gated) > 0))
            ask(gated, 0);
        wanted |= gated->unqueued > 0 || gated->nobodys > 0 || is_slow(gated);
    }
    if (wanted)
        count(gate);
    if (!gate->soon)
        loop_timer_set(&gate->refresh, REFRESH_MS);
}

/* ---- life ---- */

void gate_init(struct gate *gate, struct loop *loop, const struct production *production,
               struct queue *queue, struct store *store)
{
    *gate = (struct gate){.production = production, .queue = queue, .store = store, .loop = loop};
    snprintf(gate->holder, sizeof(gate->holder), "door-%016llx", (unsigned long long)random_u64());
    gate->items = mem_array(production->item_count, sizeof(*gate->items));
    for (size_t i = 0; i < production->item_count; i++) {
        struct gate_item *gated = &gate->items[i];
        gated->item = &production->items[i];
        gated->gate = gate;
        gated->counted = -1;
        TAILQ_INIT(&gated->waiting);
    }
    loop_timer_init(&gate->refresh, loop, on_refresh, gate);
    loop_timer_set(&gate->refresh, REFRESH_MS);
    loop_timer_init(&gate->impatience, loop, on_impatience, gate);
}

void gate_done(struct gate *gate)
{
    loop_timer_done(&gate->impatience);
    loop_timer_done(&gate->refresh);
    free(gate->items);
}

void gate_link_changed(struct gate *gate, bool queue_up, bool store_up)
{
    gate->queue_up = queue_up;
    gate->store_up = store_up;
    gate->recount = true;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        struct gate_item *gated = &gate->items[i];
        if (!queue_up) {
            gated->free = 0;
            gated->counted = -1; /* it may be an hour old */
            gated->settling = false;
            decide(gated, SLOTS_FAILED); /* before anybody new is admitted */
        } else if (used(gated) + gated->free > 0 || gated->recorded != 0) {
            gated->recorded = -1; /* Redis may have lost it */
            ask(gated, 0);
        }
    }
    count(gate);
}

void gate_sent(struct gate *gate, const struct item *item, int64_t made)
{
    gated_of(gate, item)->sent += made;
}

void gate_unsent(struct gate *gate, const struct item *item, int64_t ended)
{
    struct gate_item *gated = gated_of(gate, item);
    BUG_ON(gated->sent < ended);
    gated->sent -= ended;
}

/* ---- another production ---- */

/* The same item in the other gate's production; NULL: it has none. */
static struct gate_item *same_item(const struct gate *other, const struct gate_item *gated)
{
    const struct item *item = production_find(other->production, slice_text(gated->item->id));
    return item ? gated_of(other, item) : NULL;
}

void gate_hand_over(struct gate *before, struct gate *next)
{
    for (size_t i = 0; i < before->production->item_count; i++) {
        struct gate_item *old = &before->items[i], *new = same_item(next, old);
        if (old->unqueued == 0)
            continue;
        if (new) {
            new->unqueued += old->unqueued;
            changed(new);
        }
        old->unqueued = old->unqueued_asked = 0;
        changed(old);
    }
}

static bool reads_all(const struct item *next, const struct item *before)
{
    return next->messaging_pattern == before->messaging_pattern &&
           next->partitions >= before->partitions;
}

static void go_on_from(struct gate_item *new, struct gate_item *old)
{
    old->left = !reads_all(new->item, old->item);
    new->gate->recount |= old->left;
    new->depth = old->left ? 0 : old->depth;
    new->nobodys = old->nobodys + (old->left ? old->depth : 0);
    new->counted = old->counted;
    new->since = old->since;
}

void gate_succeed(struct gate *next, struct gate *before, bool recount)
{
    next->queue_up = before->queue_up;
    next->store_up = before->store_up;
    next->recount = recount || before->recount;
    for (size_t i = 0; i < before->production->item_count; i++) {
        struct gate_item *old = &before->items[i], *new = same_item(next, old);
        if (new)
            go_on_from(new, old);
        old->nobodys = old->free = 0;
        old->settling = false;
    }
    before->succeeded = true;
    for (size_t i = 0; i < before->production->item_count; i++)
        changed(&before->items[i]);
    gate_hand_over(before, next);
    if (next->recount)
        count(next);
}

bool gate_is_quiet(const struct gate *gate)
{
    bool quiet = !gate->counting;
    for (size_t i = 0; i < gate->production->item_count; i++)
        quiet = quiet && !gate->items[i].asking;
    return quiet;
}

bool gate_is_over(const struct gate *gate)
{
    bool over = gate_is_quiet(gate);
    for (size_t i = 0; i < gate->production->item_count; i++)
        over = over && gate->items[i].recorded == 0 && held(&gate->items[i]) == 0;
    return over;
}

/* They are ours no more. */
static struct gate_item *leave(struct gate *gate, const struct item *item, int64_t left)
{
    struct gate_item *gated = gated_of(gate, item);
    BUG_ON(gated->on_way < left);
    gated->on_way -= left;
    return gated;
}

void gate_cancelled(struct gate *gate, const struct item *item)
{
    struct gate_item *gated = leave(gate, item, 1);
    gated->since -= gated->since > 0;
    gated->since_asked -= gated->since_asked > 0;
    changed(gated);
}

void gate_queued(struct gate *gate, const struct item *item, int64_t entered, int64_t depth)
{
    gate_unsent(gate, item, entered);
    struct gate_item *gated = leave(gate, item, entered);
    gated->depth = item->partitions > 1 ? gated->depth + entered : depth;
    if (gated->left)
        gated->unqueued += entered;
    changed(gated);
}

void gate_unqueued(struct gate *gate, const struct item *item, int64_t left)
{
    leave(gate, item, left)->unqueued += left;
}

int64_t gate_used(const struct gate *gate, const struct item *item)
{
    return used(gated_of(gate, item));
}
