/* One run: a fleet, its traffic and its faults, all by the seed; then a time without faults in which everything must settle. */
#ifndef HIE_SIM_RUN_H
#define HIE_SIM_RUN_H

#include "sim.h"

/* sim.failure, sim.hash, sim.faults and *ret_acknowledged tell what came of it. */
void sim_run(uint64_t seed, bool trace, unsigned *ret_acknowledged);

#endif
