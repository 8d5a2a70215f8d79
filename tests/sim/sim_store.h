/* store.h's calls over the simulated network to the fake PostgreSQL, by three connections as the real store has them. store_pg_new
 * makes one for the process that is being started. */
#ifndef HIE_SIM_STORE_H
#define HIE_SIM_STORE_H

#include "sim_postgres.h"

enum { SIM_COMMITS, SIM_LOOKUPS, SIM_SCANS, SIM_STORE_LINKS };

struct sim_store {
    struct store store; /* first */
    struct sim_link links[SIM_STORE_LINKS];
    struct store_pg_options options;
    bool up;
};

/* Its process ends; see sim_link_end. */
bool sim_store_end(struct sim_store *store);
void sim_store_done(struct sim_store *store);
/* Commits take up to so long from here on. */
void sim_store_commit_time(int64_t most_us);

#endif
