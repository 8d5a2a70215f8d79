/* The core of the simulation: one virtual time, one queue of events, one source of chance, one list of what went wrong.
 *
 * Everything that happens is an event. An event belongs to a simulated process's loop, and then waits while that process is paused, or
 * to the world: the network and the servers. Within one moment events happen in the order in which they were set. */
#ifndef HIE_SIM_H
#define HIE_SIM_H

#include "base/uuid.h"
#include "link/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_SECOND 1000000 /* times are microseconds of virtual time */
#define SIM_MS 1000

/* What can be done to the fleet, and how often it was. */
#define SIM_FAULTS(X)                                                                              \
    X(SIM_WORKER_KILLED, "worker killed")                                                          \
    X(SIM_WORKER_KILLED_BY_MESSAGE, "worker killed by a message")                                  \
    X(SIM_WORKER_PAUSED, "worker paused")                                                          \
    X(SIM_WORKER_ADDED, "worker added")                                                            \
    X(SIM_WORKER_DRAINED, "worker drained")                                                        \
    X(SIM_DISPATCHER_KILLED, "dispatcher killed")                                                  \
    X(SIM_DISPATCHER_PAUSED, "dispatcher paused")                                                  \
    X(SIM_CLOCK_JUMPED, "clock jumped")                                                            \
    X(SIM_REDIS_CUT, "redis link cut")                                                             \
    X(SIM_REDIS_SLOW, "redis link slow")                                                           \
    X(SIM_REDIS_AWAY, "redis away")                                                                \
    X(SIM_REDIS_FLUSHED, "redis flushed")                                                          \
    X(SIM_REDIS_LOST_WRITES, "redis lost its last writes")                                         \
    X(SIM_POSTGRES_CUT, "postgres link cut")                                                       \
    X(SIM_POSTGRES_SLOW, "postgres link slow")                                                     \
    X(SIM_POSTGRES_AWAY, "postgres away")                                                          \
    X(SIM_DONE_UNANSWERED, "call done, reply lost")                                                \
    X(SIM_DONE_LATE, "call done after its link broke")                                             \
    X(SIM_NOT_DONE, "call lost")                                                                   \
    X(SIM_ENTRY_DELETED, "entry deleted by a person")                                              \
    X(SIM_ROW_REFUSED, "row refused for its data")                                                 \
    X(SIM_RACE_LOST, "transaction lost a race")                                                    \
    X(SIM_BEGUN_AGAIN, "dead letter redriven")                                                     \
    X(SIM_ADMITTED_BLINDLY, "admitted with a link down")                                           \
    X(SIM_HANDLER_FAILED, "handler failed")                                                        \
    X(SIM_HANDLER_STUCK, "handler stuck")

enum sim_fault {
#define X(name, words) name,
    SIM_FAULTS(X)
#undef X
        SIM_FAULT_COUNT
};
extern const char *const sim_fault_words[SIM_FAULT_COUNT];

/* An event; embed it. */
struct sim_event {
    int64_t at_us;
    uint64_t order;
    struct loop *loop; /* NULL: the world's */
    void (*fire)(void *arg);
    void *arg;
    size_t place; /* in the queue, from 1; 0: not set */
};

struct sim {
    uint64_t seed;
    int64_t now_us;
    bool trace;
    uint64_t hash; /* of all that happened: the same seed gives the same hash */
    uint64_t events;
    char failure[1024]; /* the first one; empty: none */
    uint64_t faults[SIM_FAULT_COUNT];
    struct loop *running; /* whose event it is; NULL: the world's */
};
extern struct sim sim;

/* Begins a run: the time is 0, chance is the seed's. */
void sim_begin(uint64_t seed, bool trace);
/* Ends it: no event may be left. */
void sim_end(void);
/* Lets the next event happen. False: there is none before `until_us`, which is the time now. */
bool sim_step(int64_t until_us);

void sim_set(struct sim_event *event, struct loop *loop, int64_t at_us, void (*fire)(void *),
             void *arg); /* moves it when it is set already */
void sim_unset(struct sim_event *event);

/* ---- chance ---- */
bool sim_one_in(unsigned n);
int64_t sim_between(int64_t least, int64_t most);

/* ---- what is told ---- */
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_say(const char *format, ...) __attribute__((format(printf, 1, 2))); /* only in a trace */
void sim_count(enum sim_fault fault);
/* A short name for an id: its place among those that were named. */
const char *sim_name(struct uuid id);
void sim_mix(uint64_t number); /* into the hash */

/* ---- a process's loop (sim_loop.c) ---- */
void sim_loop_name(struct loop *loop, const char *name);
const char *sim_loop_name_of(const struct loop *loop);
void sim_loop_pause(struct loop *loop, int64_t until_us);
bool sim_loop_paused(const struct loop *loop);
int64_t sim_loop_paused_until(const struct loop *loop);
bool sim_loop_stopped(const struct loop *loop); /* loop_stop was called */
/* Its wall clock goes wrong by so much. */
void sim_loop_clock(struct loop *loop, int64_t offset_us);

/* The wall clock of the one who runs, of the servers when it is the world. */
int64_t sim_wall_us(void);

#endif
