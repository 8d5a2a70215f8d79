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

/* Without leading zeros the longer number is the larger one. */
static int compare_digits(const char *a, size_t a_len, const char *b, size_t b_len)
{
    if (a_len != b_len)
        return a_len < b_len ? -1 : 1;
    return memcmp(a, b, a_len);
}

int queue_entry_id_compare(const char *a, const char *b)
{
    size_t a_len = strcspn(a, "-"), b_len = strcspn(b, "-");
    int by_time = compare_digits(a, a_len, b, b_len);
    if (by_time)
        return by_time;
    return compare_digits(a + a_len, strlen(a + a_len), b + b_len, strlen(b + b_len));
}

struct queue_name queue_name_of(const struct item *item, unsigned partition)
{
    return (struct queue_name){.item = item->id,
                               .pattern = (enum messaging_pattern)item->messaging_pattern,
                               .partition = partition,
                               .type = (enum queue_type)item->queue_type,
                               .ageing_ms = item->priority.ageing_ms};
}
