#include "listeners.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"

#include <stdlib.h>

#define REAP_MS 50

enum { DOOR_WAITING, DOOR_OPEN, DOOR_CLOSING, DOOR_STATES };
static const char *const door_words[] = {"waiting", "open", "closing"};
static const uint32_t door_moves[] = {
    [DOOR_WAITING] = STATE_BIT(DOOR_OPEN),
    [DOOR_OPEN] = STATE_BIT(DOOR_CLOSING),
    [DOOR_CLOSING] = 0,
};
static const struct state_table door_states = {"door", door_words, door_moves, DOOR_STATES};

struct door {
    TAILQ_ENTRY(door) link;
    struct listeners *listeners;
    unsigned state;
    struct production *section; /* a reference: it owns the listener */
    const struct mllp_listener *listener;
    struct binding binding;  /* WAITING */
    struct mllp_front front; /* OPEN and CLOSING */
};

/* ---- a door ---- */

static int open_door(void *arg, struct err *err)
{
    struct door *door = arg;
    const struct listeners_options *options = &door->listeners->options;
    if (mllp_front_start(&door->front, options->loop, door->listener, options->intake,
                         options->callers, options->metrics, err))
        return -1;
    state_move(&door_states, &door->state, DOOR_OPEN);
    log_info("listening", LOG_WORD("front", "mllp"), LOG_WORD("item", door->listener->item_id),
             LOG_INT("port", stream_server_port(door->front.server)));
    return 0;
}

static struct door *add_door(struct listeners *listeners, struct production *section,
                             const struct mllp_listener *listener)
{
    struct door *door = mem_alloc(sizeof(*door));
    door->listeners = listeners;
    door->state = DOOR_WAITING;
    door->section = production_ref(section);
    door->listener = listener;
    binding_init(&door->binding, listeners->options.loop, listeners->options.health, open_door,
                 door);
    TAILQ_INSERT_TAIL(&listeners->doors, door, link);
    return door;
}

static void free_door(struct door *door)
{
    TAILQ_REMOVE(&door->listeners->doors, door, link);
    if (door->state != DOOR_WAITING)
        mllp_front_free(&door->front);
    binding_done(&door->binding);
    production_free(door->section);
    free(door);
}

static void change_door(struct door *door, struct production *section,
                        const struct mllp_listener *listener)
{
    struct production *before = door->section;
    door->section = production_ref(section);
    door->listener = listener;
    if (door->state == DOOR_OPEN)
        mllp_front_change(&door->front, listener);
    production_free(before);
}

static void close_door(struct door *door)
{
    if (door->state == DOOR_WAITING) {
        free_door(door);
        return;
    }
    log_info("listener_closed", LOG_WORD("front", "mllp"),
             LOG_WORD("item", door->listener->item_id),
             LOG_INT("port", stream_server_port(door->front.server)));
    state_move(&door_states, &door->state, DOOR_CLOSING);
    loop_timer_set(&door->listeners->reap, REAP_MS);
    mllp_front_drain(&door->front);
}

static void on_reap(void *arg)
{
    struct listeners *listeners = arg;
    struct door *door, *next;
    bool left = false;
    for (door = TAILQ_FIRST(&listeners->doors); door; door = next) {
        next = TAILQ_NEXT(door, link);
        if (door->state != DOOR_CLOSING)
            continue;
        if (mllp_front_idle(&door->front))
            free_door(door);
        else
            left = true;
    }
    if (left)
        loop_timer_set(&listeners->reap, REAP_MS);
}

/* ---- the section ---- */

/* The listener of that address that no door has yet: there may be several with port 0. NULL: none. */
static const struct mllp_listener *take_listener(const struct production *section, bool *taken,
                                                 const char *listen)
{
    for (size_t i = 0; i < section->dispatcher.mllp_count; i++) {
        const struct mllp_listener *listener = &section->dispatcher.mllp[i];
        if (taken[i] || strcmp(listener->listen, listen) != 0)
            continue;
        taken[i] = true;
        return listener;
    }
    return NULL;
}

/* `taken` has one place for each listener of the section: those that have a door now. */
static void change_doors(struct listeners *listeners, struct production *section, bool *taken)
{
    struct door *door, *next;
    for (door = TAILQ_FIRST(&listeners->doors); door; door = next) {
        next = TAILQ_NEXT(door, link);
        if (door->state == DOOR_CLOSING)
            continue;
        const struct mllp_listener *listener =
            take_listener(section, taken, door->listener->listen);
        if (listener)
            change_door(door, section, listener);
        else
            close_door(door);
    }
}

static void tell_insecure(struct listeners *listeners, const char *name, bool insecure, bool *told)
{
    if (insecure && !*told)
        health_warn_insecure(listeners->options.health, name);
    else if (!insecure && *told)
        health_clear(listeners->options.health, name);
    *told = insecure;
}

static void tell_all_insecure(struct listeners *listeners, const struct production *section)
{
    bool mllp = false;
    for (size_t i = 0; i < section->dispatcher.mllp_count; i++)
        mllp = mllp || section->dispatcher.mllp[i].insecure;
    tell_insecure(listeners, "dispatcher.http.listen", section->dispatcher.http_insecure,
                  &listeners->http_insecure);
    tell_insecure(listeners, "dispatcher.mllp.listen", mllp, &listeners->mllp_insecure);
}

/* What goes gives its address to what comes. */
void listeners_change(struct listeners *listeners, struct production *section)
{
    size_t count = section->dispatcher.mllp_count;
    bool *taken = mem_array(count, sizeof(*taken));
    change_doors(listeners, section, taken);
    http_front_change(&listeners->http, section);
    for (size_t i = 0; i < count; i++) {
        const struct mllp_listener *listener = &section->dispatcher.mllp[i];
        if (!taken[i])
            binding_start(&add_door(listeners, section, listener)->binding, listener->listen);
    }
    free(taken);
    tell_all_insecure(listeners, section);
}

/* ---- life ---- */

static int start_http(struct listeners *listeners, const struct production *section,
                      struct err *err)
{
    const struct listeners_options *options = &listeners->options;
    if (http_front_start(&listeners->http, options->loop, section, options->intake, options->store,
                         options->callers, options->health, err))
        return -1;
    listeners->http.gauges = options->gauges;
    listeners->http.fleet = options->fleet;
    log_info("listening", LOG_WORD("front", "http"),
             LOG_INT("port", http_server_port(listeners->http.server)));
    return 0;
}

int listeners_start(struct listeners *listeners, const struct listeners_options *options,
                    struct production *section, struct err *err)
{
    *listeners = (struct listeners){.options = *options};
    TAILQ_INIT(&listeners->doors);
    loop_timer_init(&listeners->reap, options->loop, on_reap, listeners);
    if (start_http(listeners, section, err))
        return -1;
    for (size_t i = 0; i < section->dispatcher.mllp_count; i++) {
        if (open_door(add_door(listeners, section, &section->dispatcher.mllp[i]), err))
            return -1;
    }
    tell_all_insecure(listeners, section);
    return 0;
}

void listeners_serve(struct listeners *listeners, const struct production *production,
                     struct intake *intake)
{
    struct door *door;
    listeners->options.intake = listeners->http.intake = intake;
    listeners->http.production = production;
    TAILQ_FOREACH(door, &listeners->doors, link)
    {
        door->front.intake = intake;
    }
}

void listeners_drain(struct listeners *listeners)
{
    struct door *door, *next;
    for (door = TAILQ_FIRST(&listeners->doors); door; door = next) {
        next = TAILQ_NEXT(door, link);
        if (door->state != DOOR_CLOSING)
            close_door(door);
    }
    http_front_drain(&listeners->http);
}

bool listeners_idle(const struct listeners *listeners)
{
    const struct door *door;
    TAILQ_FOREACH(door, &listeners->doors, link)
    {
        if (!mllp_front_idle(&door->front))
            return false;
    }
    return http_front_idle(&listeners->http);
}

void listeners_free(struct listeners *listeners)
{
    struct door *door;
    if (!listeners->options.loop)
        return; /* it was not started */
    while ((door = TAILQ_FIRST(&listeners->doors)))
        free_door(door);
    if (listeners->http.server)
        http_front_free(&listeners->http);
    loop_timer_done(&listeners->reap);
}
