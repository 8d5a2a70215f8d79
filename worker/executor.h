/* Where an item's handler runs, by its execution mode:
 *
 *   async          on the worker's loop                                          executor_loop.c
 *   thread_pool    in `concurrency` threads, each with a loop of its own         executor_threads.c
 *   multi_process  in `concurrency` child processes                              executor_processes.c
 *
 * The worker's main process alone claims, settles and renews, whatever the mode. An executor gets no more jobs at once than the item's
 * `concurrency` (async: as many as the lane starts). Called from the loop's thread; `job->ended` is called there too, inside
 * start only for the mode async. Every job that was started ends, by itself or by `free`; one that no handler could be had for ends
 * as `unstarted`. */
#ifndef HIE_EXECUTOR_H
#define HIE_EXECUTOR_H

#include "job.h"

struct health;
struct metrics;

/* Of the worker. The production outlives the executors that were made with it. */
struct executor_env {
    struct handler_env handler;
    const struct production *production;
    struct health *health;
    struct metrics *metrics;
    const int *exit_code; /* what the program ends with: see `free`; NULL: 0 */
};

struct executor {
    const struct executor_ops *ops;
    bool
        paused; /* it cannot run anything now, and looks after that itself: nothing should be claimed for it */
};

struct executor_ops {
    /* job->ended follows. */
    void (*start)(struct executor *, struct job *job);
    /* Asks a job to give up: it ends with ERR_CANCELLED, maybe inside this call, or with its own end, whichever comes first. How long
     * that may take is the mode's: async and thread_pool wait for the handler, whose thread may be blocked; a child process that
     * does not give up within a second is ended. False: its handler cannot be asked, its late end counts. */
    bool (*cancel)(struct executor *, struct job *job);
    /* Another one takes its place: it ends its jobs, and says nothing in readiness any more. NULL: it never does. */
    void (*retire)(struct executor *);
    /* Of one that has no jobs and gets no more: lets its threads and children go, without waiting for them. Called until they are
     * gone (true); then `free` has nothing to wait for. NULL: it has none. */
    bool (*leave)(struct executor *);
    /* Jobs that have not ended end with ERR_CANCELLED first, threads and children are waited for. A thread that is blocked in its handler cannot be ended, and what it works
     * on must not be freed under it: if there still is one after two seconds the whole program ends here, with
     * env->exit_code. So free an executor with such jobs at the end of the program only. */
    void (*free)(struct executor *);
};

/* NULL with ERR_CONFIG or ERR_IO. */
struct executor *executor_new(const struct executor_env *env, const struct item *item,
                              struct err *err);
/* The modes; executor_new takes the item's class. */
struct executor *executor_loop_new(const struct executor_env *env, const struct item *item,
                                   const struct handler_class *handler, struct err *err);
struct executor *executor_threads_new(const struct executor_env *env, const struct item *item,
                                      const struct handler_class *handler, struct err *err);
/* The children find the class themselves (child_main.h). Never NULL. */
struct executor *executor_processes_new(const struct executor_env *env, const struct item *item);

#endif
