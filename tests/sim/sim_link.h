/* The network: a process's connection to a server. Calls go out in order, are carried out in order and answered in order, each after
 * a while.
 *
 *   sim_call ──▶ ARRIVING ──▶ begin ──▶ WORKING ──▶ execute ──▶ REPLYING ──▶ complete ──▶ freed
 *       │            └─────────┬──────────┘ └──────── the link breaks ─────┘
 *       │ down                 ▼
 *       ▼                 carried out or not; the client hears: outcome unknown
 *   REFUSED: unavailable
 *
 * The client notices a break a moment later, or only after seconds (half open). */
#ifndef HIE_SIM_LINK_H
#define HIE_SIM_LINK_H

#include "base/error.h"
#include "sim.h"

#include <sys/queue.h>

struct sim_link;
struct sim_call;

struct sim_call_ops {
    int64_t (*begin)(
        struct sim_call *); /* the server starts with it; how long it takes. NULL: no time */
    void (*execute)(struct sim_call *); /* the server does it, at once and as a whole */
    int64_t (*more)(
        struct sim_call
            *); /* its client goes on with the rest, which takes so long; 0: there is none. NULL: never */
    void (*complete)(struct sim_call *, const struct err *err); /* in the client */
    void (*free)(struct sim_call *);
};

struct sim_call {                /* embed it; what it needs of its client's memory was copied */
    TAILQ_ENTRY(sim_call) entry; /* in link->calls, while its client waits for it */
    const struct sim_call_ops *ops;
    struct sim_link *link; /* NULL: its client does not wait any more */
    enum { SIM_REFUSED, SIM_ARRIVING, SIM_WORKING, SIM_REPLYING, SIM_LOST } state;
    struct err refused; /* what the server answers instead; ERR_NONE: nothing */
    struct sim_event event;
};

struct sim_server {
    int64_t away_until_us;
    TAILQ_HEAD(sim_links, sim_link) links;
};

struct sim_link {
    TAILQ_ENTRY(sim_link) entry; /* in server->links */
    struct sim_server *server;
    struct loop *loop;     /* the client's */
    bool open;             /* bytes get through */
    bool up;               /* … as far as the client knows */
    bool dead;             /* its process is gone */
    int64_t away_until_us; /* cannot be opened before */
    int64_t arrive_us;     /* the last call arrives at */
    int64_t busy_us;       /* the server is busy with a call until */
    int64_t reply_us;      /* the last reply comes at */
    int64_t slow_until_us, slow_us;
    TAILQ_HEAD(, sim_call) calls;
    struct sim_event change; /* the client notices a break, or tries to connect */
    void (*on_up)(void *arg);
    void (*on_down)(void *arg, const struct err *err);
    void *arg;
};

void sim_server_init(struct sim_server *server);
/* All its links break. */
void sim_server_away(struct sim_server *server, int64_t until_us);

void sim_link_init(struct sim_link *link, struct sim_server *server, struct loop *loop,
                   void (*on_up)(void *arg), void (*on_down)(void *arg, const struct err *err),
                   void *arg);
/* Its process ends: ends what is under way as unknown, and what that submits; what was sent may be carried out. Returns whether there
 * was any. */
bool sim_link_end(struct sim_link *link);
void sim_link_done(struct sim_link *link); /* after sim_link_end */

/* Takes the call. */
void sim_link_call(struct sim_link *link, struct sim_call *call, const struct sim_call_ops *ops);
/* A message of the server's own to the client: complete follows, with an error when it was lost. */
void sim_link_tell(struct sim_link *link, struct sim_call *call, const struct sim_call_ops *ops);
void sim_link_cut(struct sim_link *link, int64_t until_us);
void sim_link_slow(struct sim_link *link, int64_t until_us, int64_t most_us);

#endif
