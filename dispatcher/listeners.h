/* Where a dispatcher listens: its HTTP front and one MLLP front for each listener of the `dispatcher` section that it goes by, which a reload may
 * change at any time.
 *
 *   an MLLP door:
 *                 ┌── the address is taken, tried again ──┐
 *                 ▼                                       │
 *   added ──▶ WAITING ───────────────────────────────────▶┘
 *                │  └──bound──▶ OPEN ──its address is not in the section any more──▶ CLOSING ──idle──▶ freed
 *                │               │ ▲
 *                │               └─┘ changed: item, max_frame, duplicate_window; its connections stay
 *                └──not in the section any more──▶ freed
 *
 * A door is known by its address as the file has it. CLOSING it listens no more; each connection ends with the answers to what was accepted. A
 * drain closes all of them. */
#ifndef HIE_LISTENERS_H
#define HIE_LISTENERS_H

#include "http_front.h"
#include "mllp_front.h"

struct listeners_options {
    struct loop *loop;
    struct intake *intake;
    struct queue_gauges *gauges;
    struct callers *callers;
    struct fleet *fleet;
    struct store *store;
    struct health *health;
    struct metrics *metrics;
};

struct listeners {
    struct listeners_options options; /* intake: of the generation that serves now */
    struct http_front http;
    TAILQ_HEAD(, door) doors;          /* MLLP, in the order in which they came */
    struct loop_timer reap;            /* pending while a door is CLOSING */
    bool http_insecure, mllp_insecure; /* was warned of */
};

/* At a start an address that is taken is an error: 0, or -1 with ERR_CONFIG or ERR_IO. listeners_free either way. */
int listeners_start(struct listeners *listeners, const struct listeners_options *options,
                    struct production *section, struct err *err);
/* What the `dispatcher` section says by now. */
void listeners_change(struct listeners *listeners, struct production *section);
/* Another generation serves, by that production. */
void listeners_serve(struct listeners *listeners, const struct production *production,
                     struct intake *intake);
/* Nothing is listened on any more; listeners_change is over. */
void listeners_drain(struct listeners *listeners);
bool listeners_idle(const struct listeners *listeners);
/* What the intake still holds of them is not answered any more: the intake goes next. */
void listeners_free(struct listeners *listeners);

#endif
