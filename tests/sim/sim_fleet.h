/* The fleet: simulated processes, what runs in them, and who sends to them. */
#ifndef HIE_SIM_FLEET_H
#define HIE_SIM_FLEET_H

#include "dispatcher/callers.h"
#include "dispatcher/intake.h"
#include "sim_queue.h"
#include "sim_store.h"
#include "store/fleet.h"
#include "store/reconciler.h"
#include "worker/worker.h"

/* The intake under one version of the production. */
struct sim_generation {
    STAILQ_ENTRY(sim_generation) link;
    struct intake intake;
};

struct sim_dispatcher {
    const char *name;
    struct loop *loop;
    struct metrics *metrics;
    struct queue *queue;
    struct store *store;
    struct health *health;
    struct fleet *fleet;
    struct reconciler *reconciler;
    struct callers callers;
    STAILQ_HEAD(, sim_generation) generations; /* the one in force first */
    bool queue_up, store_up;
};

struct sim_process {
    TAILQ_ENTRY(sim_process) entry;
    char name[16];
    bool is_worker;
    bool is_doomed; /* its end is set */
    bool is_draining;
    struct loop *loop;
    struct worker worker; /* one of the two */
    struct sim_dispatcher dispatcher;
    struct sim_queue *queue;
    struct sim_store *store;
    struct sim_event end;    /* SIGKILL */
    int64_t paused_us;       /* for how long, all in all */
    int64_t silent_until_us; /* paused, or without Redis */
};
TAILQ_HEAD(sim_processes, sim_process);
extern struct sim_processes sim_processes;

/* ---- sim_process.c ---- */
void sim_processes_init(const char *yaml);
struct production *sim_parse(void); /* the run's production, for one who owns it */
struct sim_process *sim_start_worker(void);
struct sim_process *sim_start_dispatcher(void);
/* Its links, while it starts. */
void sim_process_links(struct sim_queue *queue, struct sim_store *store);
struct sim_process *sim_process_of(const struct loop *loop);
/* Kills it, at once but not from inside itself. */
void sim_kill(struct sim_process *process);
void sim_pause(struct sim_process *process, int64_t for_us);
/* SIGTERM, a worker. */
void sim_drain(struct sim_process *process);
/* Removes those whose loop was stopped. */
void sim_reap(void);
/* Somebody asks a dispatcher to drive all dead letters again. */
void sim_redrive_all(void);
/* A live one, by chance; NULL: there is none. */
struct sim_process *sim_pick(bool is_worker);
size_t sim_live(bool is_worker);
bool sim_any_drains(void);
/* No worker has anything in hand. */
bool sim_workers_idle(void);
/* The worker knows that this entry is in its hand. */
bool sim_holds(const struct sim_process *process, int64_t number);
void sim_workers_say(void); /* what they have, in the trace */

/* ---- sim_executor.c: what handlers do ---- */

/* What a message makes of its handlers stands in its body. */
enum sim_kind {
    KIND_GOOD,
    KIND_FAILS_ONCE,
    KIND_FAILS,   /* always, in its first run */
    KIND_REFUSED, /* for good, in its first run */
    KIND_SLOW,
    KIND_STUCK,       /* the first time, until it is cancelled */
    KIND_KILLS,       /* its worker, the first time */
    KIND_PAUSES,      /* its worker, the first time, while it runs */
    KIND_POISONS_ROW, /* the database refuses its row for its data */
    KIND_POISONS_END, /* … its reply and its children */
};
size_t sim_body(char *ret, size_t size, enum sim_kind kind, unsigned key, unsigned number);
enum sim_kind sim_kind_of(struct body body);

/* ---- sim_senders.c ---- */

struct sim_traffic {
    unsigned count, keys;
    int64_t start_us, window_us;
    unsigned bad_one_in; /* messages that are not good */
};
void sim_senders_start(const struct production *production, const struct sim_traffic *traffic);
/* They go home: nothing is sent any more, no answer heard. */
void sim_senders_stop(void);
void sim_senders_done(void); /* when no process is left */
/* The dispatcher is gone: its callers see their connections end. */
void sim_senders_lost(const struct sim_process *process);
/* All have their answers. */
bool sim_senders_idle(void);
unsigned sim_senders_acknowledged(void);

/* ---- sim_faults.c ---- */
/* A worker sleeps, for a while or until its leases are long gone. */
void sim_fault_pause(struct sim_process *process);
void sim_faults_start(unsigned count, int64_t until_us);
void sim_faults_done(void);

#endif
