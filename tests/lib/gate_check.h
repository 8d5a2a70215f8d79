/* What always holds of a gate's books (gate.h). */
#ifndef HIE_TESTS_GATE_CHECK_H
#define HIE_TESTS_GATE_CHECK_H

#include "gate.h"

#include <check.h>

static inline void gate_check_item(const struct gate_item *gated)
{
    const struct gate_waiter *waiter;
    size_t waiting = 0;
    TAILQ_FOREACH(waiter, &gated->waiting, link)
    {
        waiting++;
    }
    ck_assert_uint_eq(waiting, gated->waiting_count);
    ck_assert(!waiting || (gated->asking && gated->free == 0 && gated->gate->queue_up));
    ck_assert_int_le(0, gated->sent);
    ck_assert_int_le(gated->sent, gated->on_way);
    ck_assert_int_le(gated->on_way, gated->since_asked);
    ck_assert_int_le(gated->since_asked, gated->since);
    ck_assert_int_le(0, gated->unqueued_asked);
    ck_assert_int_le(gated->unqueued_asked, gated->unqueued);
    ck_assert(gated->free >= 0 && gated->nobodys >= 0 && gated->depth >= 0 &&
              gated->unslotted >= 0 && gated->reported >= 0);
    ck_assert(gated->recorded >= -1 && gated->counted >= -1);
    ck_assert(!gated->settling || gated->counted >= 0);
    ck_assert_int_eq(gate_used(gated->gate, gated->item),
                     gated->depth + gated->on_way + gated->unqueued + gated->nobodys);
}

static inline void gate_check(const struct gate *gate)
{
    for (size_t i = 0; i < gate->production->item_count; i++)
        gate_check_item(&gate->items[i]);
}

#endif
