#include "gate.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>

#define REFRESH_MS 1000
#define COUNT_SHARE                                                                                \
    20 /* counting in the database walks the backlog: at most this part of the time */
#define REFRESH_FULL_MS 20 /* while something is full, so that a freed slot is seen soon */

static int64_t used(const struct gate_item *item)
{
    return item->queued + item->on_way + item->unqueued;
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct gate_item *item = arg;
    item->asking = false;
    if (err->code == ERR_NONE)
        item->queued = depth->waiting + depth->in_hand + depth->delayed;
}

static void ask(struct gate_item *item)
{
    struct gate *gate = item->gate;
    if (item->asking || !gate->queue_up)
        return;
    item->asking = true;
    struct queue_name name = {.item = item->item->id, .pattern = item->item->messaging_pattern};
    gate->queue->ops->depth(gate->queue, name, on_depth, item);
}

/* What the database counts beyond the queue is on its way there or waits for the reconciler. */
static void on_counts(void *arg, const struct err *err, const struct store_count *counts,
                      size_t count)
{
    struct gate *gate = arg;
    int64_t now = clock_mono_us();
    gate->counting = false;
    gate->count_after_us = now + (now - gate->counted_us) * COUNT_SHARE;
    if (err->code != ERR_NONE)
        return;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        struct gate_item *item = &gate->items[i];
        int64_t unfinished = 0;
        for (size_t j = 0; j < count; j++) {
            if (strcmp(counts[j].item, item->item->id) == 0)
                unfinished = counts[j].unfinished;
        }
        int64_t beyond = unfinished - item->queued - item->on_way;
        item->unqueued = beyond > 0 ? beyond : 0;
    }
}

static void count(struct gate *gate)
{
    int64_t now = clock_mono_us();
    if (gate->counting || !gate->store_up || now < gate->count_after_us)
        return;
    gate->counting = true;
    gate->counted_us = now;
    gate->store->ops->counts(gate->store, on_counts, gate);
}

static void on_refresh(void *arg)
{
    struct gate *gate = arg;
    bool full = false, unqueued = false;
    for (size_t i = 0; i < gate->production->item_count; i++) {
        struct gate_item *item = &gate->items[i];
        full |= used(item) >= item->item->queue_size;
        unqueued |= item->unqueued > 0;
        if (used(item) > 0)
            ask(item);
    }
    if (unqueued && gate->queue_up)
        count(gate);
    loop_timer_set(&gate->refresh, full && !unqueued ? REFRESH_FULL_MS : REFRESH_MS);
}

void gate_init(struct gate *gate, struct loop *loop, const struct production *production,
               struct queue *queue, struct store *store)
{
    *gate = (struct gate){.production = production, .queue = queue, .store = store, .loop = loop};
    gate->items = mem_array(production->item_count, sizeof(*gate->items));
    for (size_t i = 0; i < production->item_count; i++) {
        gate->items[i].item = &production->items[i];
        gate->items[i].gate = gate;
    }
    loop_timer_init(&gate->refresh, loop, on_refresh, gate);
    loop_timer_set(&gate->refresh, REFRESH_MS);
}

void gate_done(struct gate *gate)
{
    loop_timer_done(&gate->refresh);
    free(gate->items);
}

void gate_link_changed(struct gate *gate, bool queue_up, bool store_up)
{
    bool news = (queue_up && !gate->queue_up) || (store_up && !gate->store_up);
    gate->queue_up = queue_up;
    gate->store_up = store_up;
    if (!news)
        return;
    for (size_t i = 0; i < gate->production->item_count; i++)
        ask(&gate->items[i]);
    count(gate);
}

bool gate_admit(struct gate *gate, const struct item *item)
{
    struct gate_item *gated = &gate->items[item->index];
    if (used(gated) >= item->queue_size) {
        if (!gated->unqueued)
            loop_timer_set(&gate->refresh, REFRESH_FULL_MS);
        return false;
    }
    gated->on_way++;
    return true;
}

void gate_cancelled(struct gate *gate, const struct item *item)
{
    struct gate_item *gated = &gate->items[item->index];
    BUG_ON(gated->on_way < 1);
    gated->on_way--;
}

void gate_queued(struct gate *gate, const struct item *item, int64_t entered, int64_t depth)
{
    struct gate_item *gated = &gate->items[item->index];
    BUG_ON(gated->on_way < entered);
    gated->on_way -= entered;
    gated->queued = depth;
}

void gate_unqueued(struct gate *gate, const struct item *item, int64_t left)
{
    struct gate_item *gated = &gate->items[item->index];
    BUG_ON(gated->on_way < left);
    gated->on_way -= left;
    gated->unqueued += left;
}

int64_t gate_used(const struct gate *gate, const struct item *item)
{
    return used(&gate->items[item->index]);
}
