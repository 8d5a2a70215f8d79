/* State machines: the states' words, a table of allowed moves and one writer of the state. */
#ifndef HIE_BASE_STATE_H
#define HIE_BASE_STATE_H

#include "base/bug.h"

#include <stdint.h>

struct state_table {
    const char *machine;
    const char *const *words;
    const uint32_t *moves; /* moves[from] is a bit set of the states it may move to */
    unsigned count;        /* of states, at most 32 */
};

#define STATE_BIT(state) (1u << (state))

/* The only writer of a machine's state: a move that the table does not allow is a bug. */
static inline void state_move(const struct state_table *table, unsigned *state, unsigned to)
{
    BUG_ON(to >= table->count || !(table->moves[*state] & STATE_BIT(to)));
    *state = to;
}

#endif
