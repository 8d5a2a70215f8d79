#include "link/batcher.h"

#include "base/bug.h"
#include "base/clock.h"

static bool is_free(const struct batcher *batcher)
{
    return batcher->count && !batcher->held && batcher->under_way < batcher->max_under_way;
}

/* What is left of the time that those waiting may still wait; 0: none. */
static int64_t patience_left_us(const struct batcher *batcher)
{
    if (batcher->urgent || batcher->full || batcher->count >= batcher->max_count)
        return 0;
    int64_t left_us = batcher->since_us + batcher->patience_us - clock_mono_us();
    return left_us > 0 ? left_us : 0;
}

static void wake(struct batcher *batcher)
{
    if (!is_free(batcher))
        return;
    int64_t left_us = patience_left_us(batcher);
    if (left_us == 0)
        loop_task_set(&batcher->task);
    else if (!loop_timer_pending(&batcher->patience))
        loop_timer_set_us(&batcher->patience, left_us);
}

static void on_patience(void *arg)
{
    wake(arg);
}

/* ---- groups ---- */

static void count_in(struct batcher *batcher, struct batch_group *group)
{
    if (batcher->count++ == 0 && group->patient)
        batcher->since_us = clock_mono_us();
    if (group->count++ == 0)
        TAILQ_INSERT_TAIL(&batcher->groups, group, link);
    if (!group->patient)
        batcher->urgent++;
    else if (group->count == group->max_count)
        batcher->full++;
}

/* The first item of a group; the group keeps its place, also when it is empty now. */
static struct batch_item *take_from(struct batcher *batcher, struct batch_group *group)
{
    struct batch_item *item = STAILQ_FIRST(&group->waiting);
    STAILQ_REMOVE_HEAD(&group->waiting, link);
    batcher->count--;
    if (!group->patient)
        batcher->urgent--;
    else if (group->count == group->max_count)
        batcher->full--;
    group->count--;
    return item;
}

struct gathered {
    struct batch_item *items[BATCHER_MAX_COUNT];
    size_t count, bytes;
};

/* One group's part of a batch; one that is patient goes along when a batch starts anyway. False when not even its first item fits. */
static bool gather_group(struct batcher *batcher, struct batch_group *group, struct gathered *batch)
{
    size_t taken = 0;
    struct batch_item *first;
    while (taken < group->max_count && batch->count < batcher->max_count &&
           (first = STAILQ_FIRST(&group->waiting))) {
        if (batch->count && batch->bytes + first->bytes > batcher->max_bytes)
            break;
        batch->bytes += first->bytes;
        batch->items[batch->count++] = take_from(batcher, group);
        taken++;
    }
    return taken > 0;
}

static void gather(struct batcher *batcher, struct batch_group *last, struct gathered *batch)
{
    struct batch_group *group = NULL;
    while (group != last && batch->count < batcher->max_count) {
        group = TAILQ_FIRST(&batcher->groups);
        if (!gather_group(batcher, group, batch))
            return; /* the next batch begins with it */
        TAILQ_REMOVE(&batcher->groups, group, link);
        if (group->count)
            TAILQ_INSERT_TAIL(&batcher->groups, group, link);
    }
}

static void start_batches(void *arg)
{
    struct batcher *batcher = arg;
    while (is_free(batcher) && patience_left_us(batcher) == 0) {
        struct gathered batch;
        batch.count = batch.bytes = 0;
        gather(batcher, TAILQ_LAST(&batcher->groups, batch_groups), &batch);
        batcher->under_way++;
        batcher->start(batcher->arg, batch.items, batch.count);
    }
    wake(batcher);
}

void batch_group_init(struct batch_group *group, size_t max_count, bool patient)
{
    BUG_ON(max_count == 0);
    *group = (struct batch_group){.max_count = max_count, .patient = patient};
    STAILQ_INIT(&group->waiting);
}

/* ---- the batcher ---- */

void batcher_init(struct batcher *batcher, struct loop *loop, size_t max_count, size_t max_bytes,
                  void (*start)(void *, struct batch_item **, size_t), void *arg)
{
    BUG_ON(max_count == 0 || max_count > BATCHER_MAX_COUNT);
    *batcher = (struct batcher){.max_count = max_count,
                                .max_bytes = max_bytes,
                                .max_under_way = 1,
                                .start = start,
                                .arg = arg};
    TAILQ_INIT(&batcher->groups);
    batch_group_init(&batcher->rest, max_count, false);
    loop_task_init(&batcher->task, loop, start_batches, batcher);
}

void batcher_free(struct batcher *batcher)
{
    loop_task_done(&batcher->task);
    loop_timer_done(&batcher->patience);
}

void batcher_set_patience(struct batcher *batcher, struct loop *loop, int64_t patience_us)
{
    BUG_ON(batcher->patience_us || batcher->count);
    batcher->patience_us = patience_us;
    loop_timer_init(&batcher->patience, loop, on_patience, batcher);
}

void batcher_add(struct batcher *batcher, struct batch_item *item, size_t bytes)
{
    batcher_add_to(batcher, &batcher->rest, item, bytes);
}

void batcher_add_to(struct batcher *batcher, struct batch_group *group, struct batch_item *item,
                    size_t bytes)
{
    BUG_ON(group->patient && !batcher->patience_us);
    item->bytes = bytes;
    item->group = group;
    STAILQ_INSERT_TAIL(&group->waiting, item, link);
    count_in(batcher, group);
    wake(batcher);
}

void batcher_put_back(struct batcher *batcher, struct batch_item *item)
{
    struct batch_group *group = item->group;
    STAILQ_INSERT_HEAD(&group->waiting, item, link);
    count_in(batcher, group);
    wake(batcher);
}

void batcher_done(struct batcher *batcher)
{
    BUG_ON(batcher->under_way == 0);
    batcher->under_way--;
    wake(batcher);
}

bool batcher_idle(const struct batcher *batcher)
{
    return batcher->count == 0 && batcher->under_way == 0;
}

void batcher_hold(struct batcher *batcher, bool held)
{
    batcher->held = held;
    wake(batcher);
}
