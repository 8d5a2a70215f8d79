/* async: the handler runs on the worker's loop. */
#include "executor.h"

#include "base/mem.h"

#include <stdlib.h>

struct executor_loop {
    struct executor base; /* first */
    const struct handler_class *handler;
    void *state;
};

static struct executor_loop *of(struct executor *executor)
{
    return (struct executor_loop *)executor;
}

static void start(struct executor *executor, struct job *job)
{
    job->running = true;
    of(executor)->handler->start(of(executor)->state, job);
}

static bool cancel(struct executor *executor, struct job *job)
{
    struct executor_loop *loop = of(executor);
    if (!loop->handler->cancel)
        return false;
    loop->handler->cancel(loop->state, job);
    return true;
}

static void executor_loop_free(struct executor *executor)
{
    struct executor_loop *loop = of(executor);
    if (loop->handler->close && loop->state)
        loop->handler->close(loop->state); /* ends what it still runs */
    free(loop);
}

static const struct executor_ops ops = {
    .start = start, .cancel = cancel, .free = executor_loop_free};

struct executor *executor_loop_new(const struct executor_env *env, const struct item *item,
                                   const struct handler_class *handler, struct err *err)
{
    struct executor_loop *loop = mem_alloc(sizeof(*loop));
    loop->base.ops = &ops;
    loop->handler = handler;
    if (loop->handler->open && loop->handler->open(&env->handler, item, &loop->state, err)) {
        free(loop);
        return NULL;
    }
    return &loop->base;
}
