/* The settler: records how attempts ended, by group commit over all lanes of the worker. Each is conditional inside its
 * transaction; what was superseded records nothing. While the database is away what ended is kept, in bounded memory since
 * lanes claim nothing then, and recorded when it is back: repeating is safe. */
#ifndef HIE_SETTLER_H
#define HIE_SETTLER_H

#include "claim.h"
#include "link/batcher.h"
#include "link/loop.h"
#include "store/store.h"

struct settler {
    struct store *store;
    struct batcher batcher;
    struct loop_timer again;
    bool store_up;
};

void settler_init(struct settler *settler, struct loop *loop, struct store *store);
void settler_done(struct settler *settler);
void settler_store_changed(struct settler *settler, bool up);
/* claim->outcome is filled; lane_settled(claim) follows, later. */
void settler_add(struct settler *settler, struct claim *claim);

#endif
