/* Which partitions of fifo items this worker owns: it tells the store that it lives, and hears what is its share by now, once a second.
 * Leases are the store's: a worker that was silent for longer than LEASE_MS lost them, whatever it believes. So it starts nothing when
 * its last good question is that old. */
#ifndef HIE_OWNERSHIP_H
#define HIE_OWNERSHIP_H

#include "link/loop.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct worker;

struct ownership {
    struct worker *worker;
    struct store_share *shares; /* owned: one for each fifo lane that runs */
    size_t share_count;
    struct loop_timer timer;
    bool asking;
    bool stale;       /* there are other lanes, or other ones are open */
    int64_t asked_us; /* monotonic */
};

void ownership_init(struct ownership *ownership, struct worker *worker);
void ownership_done(struct ownership *ownership);
/* The store is back: asks at once. */
void ownership_nudge(struct ownership *ownership);
/* There are other lanes, other ones are open, or the fleet was joined. */
void ownership_refresh(struct ownership *ownership);
/* Tells the store that this worker leaves. */
void ownership_leave(struct ownership *ownership);

#endif
