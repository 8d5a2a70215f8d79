/* Where an item's handler runs, by its execution mode:
 *
 *   async          on the worker's loop                                          executor_loop.c
 *   thread_pool    in `concurrency` threads, each with a loop of its own         executor_threads.c
 *   multi_process  in `concurrency` child processes                              executor_processes.c
 *
 * The worker's main process alone claims, settles and renews, whatever the mode. An executor gets no more jobs at once than the item's
 * `concurrency` (async: as many as the lane starts). Called from the loop's thread; `job->ended` is called there too, inside
 * executor_start only for the mode async. */
#ifndef HIE_EXECUTOR_H
#define HIE_EXECUTOR_H

#include "job.h"

struct health;
struct metrics;

/* Of the worker. */
struct executor_env {
    struct handler_env handler;
    const struct production *production;
    struct health *health;
    struct metrics *metrics;
};

struct executor {
    const struct executor_ops *ops;
};

struct executor_ops {
    /* job->ended follows. */
    void (*start)(struct executor *, struct job *job);
    /* Asks a job that runs to give up: it ends with ERR_CANCELLED, or, where that comes first, with its own end. False: it
     * cannot be cancelled, its late end counts. */
    bool (*cancel)(struct executor *, struct job *job);
    /* Jobs that run end with ERR_CANCELLED first. */
    void (*free)(struct executor *);
};

/* NULL with ERR_CONFIG or ERR_IO. */
struct executor *executor_new(const struct executor_env *env, const struct item *item,
                              struct err *err);
struct executor *executor_loop_new(const struct executor_env *env, const struct item *item,
                                   struct err *err);

#endif
