#include "store/reconciler_split.h"

#include "base/bug.h"

/* The partition is the item's by its settings of today, or -1: the row was accepted under others. Messages of other types than fifo
 * have none, which is the first one in the queue. */
static int partition_of(const struct item *item, const struct store_message *message)
{
    if (message->pattern != (enum messaging_pattern)item->messaging_pattern)
        return -1;
    if (item->partitions == 1)
        return message->partition <= 0 ? 0 : -1;
    return message->partition < item->partitions ? message->partition : -1;
}

static void split_add(struct reconciler_split *split, size_t row,
                      const struct reconciler_queue *wanted)
{
    size_t i;
    for (i = 0; i < split->count; i++) {
        const struct reconciler_queue *queue = &split->queues[i];
        if (queue->name.item == wanted->name.item &&
            queue->name.partition == wanted->name.partition &&
            queue->name.pattern == wanted->name.pattern && queue->misfit == wanted->misfit &&
            queue->from.partition == wanted->from.partition &&
            queue->from.pattern == wanted->from.pattern)
            break;
    }
    if (i == split->count)
        split->queues[split->count++] = *wanted;
    split->queues[i].rows++;
    split->of[row] = (unsigned)i;
}

static void split_light(struct reconciler_split *split, const struct item *item, size_t row,
                        const struct store_message *message)
{
    int partition = partition_of(item, message);
    struct reconciler_queue queue = {
        .name = queue_name_of(item, partition < 0 ? 0 : (unsigned)partition),
        .misfit = partition < 0};
    split_add(split, row, &queue);
}

unsigned reconciler_partition(const struct item *item, const struct store_message *message)
{
    int partition = partition_of(item, message);
    if (partition >= 0)
        return (unsigned)partition;
    return item->queue_type == QUEUE_FIFO ? item_partition(item, message->ordering_key, message->id)
                                          : 0;
}

static void split_whole(struct reconciler_split *split, const struct item *item, size_t row,
                        const struct store_message *message)
{
    struct reconciler_queue queue = {.name =
                                         queue_name_of(item, reconciler_partition(item, message))};
    struct queue_name from = queue.name;
    from.pattern = message->pattern;
    from.partition = message->partition > 0 ? (unsigned)message->partition : 0;
    queue.misfit = from.pattern != queue.name.pattern || from.partition != queue.name.partition;
    if (queue.misfit)
        queue.from = from;
    split_add(split, row, &queue);
}

void reconciler_split(struct reconciler_split *split, const struct reconciler_route *route,
                      const struct store_unfinished *rows, size_t count, bool whole)
{
    BUG_ON(count > RECONCILER_PAGE_ROWS);
    split->count = 0;
    for (size_t i = 0; i < count; i++) {
        const struct store_message *message = &rows[i].message;
        const struct item *item = route->item(route->arg, message->item, message->version);
        bool left_out = whole && message->body.len == 0 && rows[i].body_len > 0 &&
                        rows[i].body_len <= MESSAGE_INLINE_MAX;
        split->of[i] = RECONCILER_NO_QUEUE;
        if (!item || left_out) /* of an answer that grew too large: the next round has it */
            continue;
        if (whole)
            split_whole(split, item, i, message);
        else
            split_light(split, item, i, message);
    }
}
