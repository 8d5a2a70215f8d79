#include "executor.h"

struct executor *executor_new(const struct executor_env *env, const struct item *item,
                              struct err *err)
{
    return executor_loop_new(env, item, err);
}
