#include "executor.h"

#include "base/bug.h"

struct executor *executor_new(const struct executor_env *env, const struct item *item,
                              struct err *err)
{
    const struct handler_class *handler = handler_class_of(item);
    switch ((enum execution_mode)item->execution_mode) {
    case MODE_ASYNC:
        return executor_loop_new(env, item, handler, err);
    case MODE_THREAD_POOL:
        return executor_threads_new(env, item, handler, err);
    case MODE_MULTI_PROCESS:
        return executor_processes_new(env, item);
    case MODE_COUNT:
        break;
    }
    BUG_ON(true);
    return NULL;
}
