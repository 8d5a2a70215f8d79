#include "queue/queue.h"

#include "base/bug.h"

#include <stdlib.h>

void queue_claimed_ref(struct queue_claimed *claimed)
{
    BUG_ON(claimed->references == 0);
    claimed->references++;
}

void queue_claimed_unref(struct queue_claimed *claimed)
{
    if (!claimed)
        return;
    BUG_ON(claimed->references == 0);
    if (--claimed->references > 0)
        return;
    if (claimed->release)
        claimed->release(claimed->replies);
    free(claimed->entries);
    free(claimed);
}

struct queue_name queue_name_of(const struct item *item, unsigned partition)
{
    return (struct queue_name){.item = item->id,
                               .pattern = (enum messaging_pattern)item->messaging_pattern,
                               .partition = partition,
                               .type = (enum queue_type)item->queue_type,
                               .ageing_ms = item->priority.ageing_ms};
}
