#include "queue_sum.h"

struct queue_pair queue_pair_of(const struct fleet *fleet, const struct item *now,
                                const char *item_id)
{
    struct fleet_shape shape = {.stage = FLEET_OPEN};
    if (fleet)
        shape = fleet_shape(fleet, item_id);
    struct queue_pair pair = {.now = now, .now_partitions = now ? (unsigned)now->partitions : 0};
    if (!shape.old)
        return pair;
    unsigned partitions = (unsigned)shape.old->partitions;
    if (now && now->messaging_pattern == shape.old->messaging_pattern) {
        if (partitions > pair.now_partitions)
            pair.now_partitions = partitions;
    } else {
        pair.before = shape.old;
        pair.before_partitions = partitions;
    }
    return pair;
}

struct queue_depth queue_depth_add(struct queue_depth sum, struct queue_depth more)
{
    sum.waiting += more.waiting;
    sum.in_hand += more.in_hand;
    sum.delayed += more.delayed;
    if (more.oldest_at_ms > 0 && (sum.oldest_at_ms == 0 || more.oldest_at_ms < sum.oldest_at_ms))
        sum.oldest_at_ms = more.oldest_at_ms;
    return sum;
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct queue_sum_part *part = arg;
    struct queue_sum *sum = part->sum;
    if (err->code == ERR_NONE) {
        struct queue_depth more = *depth;
        if (part->without_delayed)
            more.delayed = 0;
        sum->depth = queue_depth_add(sum->depth, more);
    }
    sum->failed |= err->code != ERR_NONE;
    if (--sum->unanswered == 0)
        sum->done(sum->arg);
}

void queue_sum_ask(struct queue_sum *sum, struct queue *queue, const struct item *item,
                   unsigned partitions, unsigned shared, void (*done)(void *arg), void *arg)
{
    *sum = (struct queue_sum){.unanswered = partitions,
                              .parts = {{.sum = sum}, {.sum = sum, .without_delayed = true}},
                              .done = done,
                              .arg = arg};
    for (unsigned n = 0; n < partitions; n++)
        queue->ops->depth(queue, queue_name_of(item, n), on_depth, &sum->parts[n < shared]);
}
