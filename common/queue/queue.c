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
