/* An address that a running process is to listen on, and that may be taken: tried until it is to be had.
 *
 *   IDLE ──binding_start──▶ tried ──bound──▶ IDLE
 *     ▲                      │  ▲
 *     │                      ▼  │ after 0.25 s, doubling up to 8 s
 *     └──binding_stop────── FAILING: said once in the log, and in /readyz until it is over
 *
 * It makes the process not unready: what listens already goes on. */
#ifndef HIE_OPS_BINDING_H
#define HIE_OPS_BINDING_H

#include "base/error.h"
#include "link/loop.h"
#include "ops/health.h"

struct binding {
    struct loop_timer again; /* pending: FAILING */
    struct health *health;
    char condition[96]; /* of readiness; empty: IDLE */
    int64_t wait_ms;
    int (*bind)(void *arg, struct err *err); /* 0: it listens now; -1 */
    void *arg;
};

void binding_init(struct binding *binding, struct loop *loop, struct health *health,
                  int (*bind)(void *arg, struct err *err), void *arg);
/* Tries at once; what was tried before is given up. */
void binding_start(struct binding *binding, const char *address);
/* It is not wanted any more. */
void binding_stop(struct binding *binding);
void binding_done(struct binding *binding);

#endif
