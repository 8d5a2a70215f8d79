/* One child process as its worker sees it: the same program, started for one item, that handles one job at a time.
 *
 *   STARTING ──READY──▶ IDLE ──job──▶ BUSY ──cancel──▶ CANCELLING
 *       │                 ▲            │ DONE, FAILED       │ the same, within the grace
 *       │                 └────────────┴────────────────────┘
 *       └── and all others: it died, it said what cannot be read, it took too long ──▶ ENDING ──reaped──▶ gone
 *
 * In ENDING it has been killed, if it was alive. The job that it had ends when it is reaped, so that nobody else handles the same
 * message at the same time; when the kernel keeps it for too long, before that. */
#ifndef HIE_CHILD_PROCESS_H
#define HIE_CHILD_PROCESS_H

#include "child_link.h"

#include <sys/queue.h>
#include <sys/types.h>

#define CHILD_FD 3 /* its end of the socket */
#define CHILD_ARGUMENT "--child"

enum child_state {
    CHILD_STARTING,
    CHILD_IDLE,
    CHILD_BUSY,
    CHILD_CANCELLING,
    CHILD_ENDING,
    CHILD_STATE_COUNT,
};

struct child_process;

/* What happened. Called on the loop; child_process_run may be called from inside but for `over`. */
struct child_events {
    /* It can take a job: its handler is open (job NULL), or its job has ended: well (error NULL) or not. */
    void (*free)(void *arg, struct child_process *child, struct job *job, const struct err *error);
    /* It died or was killed, and takes no more jobs; the job that it had ends by `over`. */
    void (*lost)(void *arg, struct child_process *child);
    /* `job` (NULL: it had none, or it ended before) ends with `why`. Once it is reaped it can be freed. */
    void (*over)(void *arg, struct child_process *child, struct job *job, const struct err *why);
};

struct child_process {
    TAILQ_ENTRY(child_process) entry, idle; /* its owner's */
    const struct child_events *events;
    void *arg;
    const struct item *item;
    const struct production *production;
    unsigned state;
    pid_t pid; /* -1: reaped */
    struct child_link link;
    struct job *job;        /* BUSY and CANCELLING, and in ENDING until it ends */
    struct loop_timer late; /* the deadline of STARTING, CANCELLING and ENDING */
    int64_t started_us;     /* monotonic */
    /* ENDING: */
    enum child_state lost_in; /* where it came from */
    bool expected;            /* we ended it, for taking too long over a job */
    struct err why;           /* as far as it is known before it is reaped */
};

/* NULL with ERR_UNAVAILABLE: no process can be started now. */
struct child_process *child_process_start(struct loop *loop, const struct item *item,
                                          const struct production *production,
                                          const struct child_events *events, void *arg,
                                          struct err *err);
/* Of an IDLE one. False: it is dead, as will show; it did not get the job. */
bool child_process_run(struct child_process *child, struct job *job);
/* Asks it to give up its job, and kills it when it does not. */
void child_process_cancel(struct child_process *child);
/* After SIGCHLD. */
void child_process_look(struct child_process *child);
/* Closes its socket: it leaves by itself. No more events; its job is the caller's. */
void child_process_dismiss(struct child_process *child);
/* Of one that is dismissed: is it gone? Kills it first, if asked. */
bool child_process_left(struct child_process *child, bool kill_it);
bool child_process_is_reaped(const struct child_process *child);
void child_process_free(struct child_process *child);

#endif
