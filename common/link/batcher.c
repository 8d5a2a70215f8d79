#include "link/batcher.h"

#include "base/bug.h"

static void wake(struct batcher *batcher)
{
    if (batcher->count && !batcher->held && batcher->under_way < batcher->max_under_way)
        loop_task_set(&batcher->task);
}

static void start_batches(void *arg)
{
    struct batcher *batcher = arg;
    while (batcher->count && !batcher->held && batcher->under_way < batcher->max_under_way) {
        struct batch_item *items[BATCHER_MAX_COUNT];
        size_t count = 0, bytes = 0;
        struct batch_item *first;
        while (count < batcher->max_count && (first = STAILQ_FIRST(&batcher->waiting))) {
            if (count && bytes + first->bytes > batcher->max_bytes)
                break;
            bytes += first->bytes;
            items[count++] = batcher_take(batcher);
        }
        batcher->under_way++;
        batcher->start(batcher->arg, items, count);
    }
}

void batcher_init(struct batcher *batcher, struct loop *loop, size_t max_count, size_t max_bytes,
                  void (*start)(void *, struct batch_item **, size_t), void *arg)
{
    BUG_ON(max_count == 0 || max_count > BATCHER_MAX_COUNT);
    *batcher = (struct batcher){.max_count = max_count,
                                .max_bytes = max_bytes,
                                .max_under_way = 1,
                                .start = start,
                                .arg = arg};
    STAILQ_INIT(&batcher->waiting);
    loop_task_init(&batcher->task, loop, start_batches, batcher);
}

void batcher_free(struct batcher *batcher)
{
    loop_task_done(&batcher->task);
}

void batcher_add(struct batcher *batcher, struct batch_item *item, size_t bytes)
{
    item->bytes = bytes;
    STAILQ_INSERT_TAIL(&batcher->waiting, item, link);
    batcher->count++;
    wake(batcher);
}

void batcher_put_back(struct batcher *batcher, struct batch_item *item)
{
    STAILQ_INSERT_HEAD(&batcher->waiting, item, link);
    batcher->count++;
    wake(batcher);
}

void batcher_done(struct batcher *batcher)
{
    BUG_ON(batcher->under_way == 0);
    batcher->under_way--;
    wake(batcher);
}

void batcher_hold(struct batcher *batcher, bool held)
{
    batcher->held = held;
    wake(batcher);
}

struct batch_item *batcher_take(struct batcher *batcher)
{
    struct batch_item *item = STAILQ_FIRST(&batcher->waiting);
    if (item) {
        STAILQ_REMOVE_HEAD(&batcher->waiting, link);
        batcher->count--;
    }
    return item;
}
