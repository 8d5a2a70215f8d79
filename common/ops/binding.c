#include "ops/binding.h"

#include "base/log.h"

#include <stdio.h>

#define WAIT_MS 250
#define WAIT_MAX_MS 8000

static void try_it(struct binding *binding)
{
    struct err err;
    if (binding->bind(binding->arg, &err) == 0) {
        binding_stop(binding);
        return;
    }
    if (binding->wait_ms == WAIT_MS)
        log_error("cannot_listen", LOG_ERR(&err));
    health_set(binding->health, binding->condition, true, err.text);
    loop_timer_set(&binding->again, binding->wait_ms);
    binding->wait_ms = binding->wait_ms * 2 < WAIT_MAX_MS ? binding->wait_ms * 2 : WAIT_MAX_MS;
}

static void on_again(void *arg)
{
    try_it(arg);
}

void binding_init(struct binding *binding, struct loop *loop, struct health *health,
                  int (*bind)(void *arg, struct err *err), void *arg)
{
    *binding = (struct binding){.health = health, .bind = bind, .arg = arg};
    loop_timer_init(&binding->again, loop, on_again, binding);
}

void binding_start(struct binding *binding, const char *address)
{
    binding_stop(binding);
    binding->wait_ms = WAIT_MS;
    snprintf(binding->condition, sizeof(binding->condition), "listen %.80s", address);
    try_it(binding);
}

void binding_stop(struct binding *binding)
{
    if (binding->condition[0])
        health_clear(binding->health, binding->condition);
    binding->condition[0] = '\0';
    loop_timer_cancel(&binding->again);
}

void binding_done(struct binding *binding)
{
    binding_stop(binding);
    loop_timer_done(&binding->again);
}
