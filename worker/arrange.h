/* Which lanes a worker has: one for each item of the production in force, one more for an item whose queue is changing and whose older
 * messages are being finished, and those that are over but for what they hold.
 *
 *   standing by ──its queue is open──▶ open ──replaced, removed──▶ retiring ──nothing in hand──▶ freed
 *
 * An item that a new version leaves as it was keeps its lane. A fifo lane opens when the one before it is gone, so that no key is
 * handled by two. */
#ifndef HIE_ARRANGE_H
#define HIE_ARRANGE_H

#include "base/error.h"

#include <stdbool.h>

struct worker;
struct lane;

/* The first lanes, standing by. 0, or -1 with ERR_CONFIG or ERR_IO: a handler cannot start. */
int arrange_init(struct worker *worker, struct err *err);
void arrange_done(struct worker *worker);
/* The production in force is another. */
void arrange_production(struct worker *worker);
/* An item's shape has moved on. */
void arrange_item(struct worker *worker, const char *item_id);
/* Nothing is being claimed from any lane of the item. */
bool arrange_has_left(struct worker *worker, const char *item_id);
/* Everything may have: also where there is no fleet to ask. */
void arrange_all(struct worker *worker);

#endif
