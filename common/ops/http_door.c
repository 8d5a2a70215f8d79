#include "ops/http_door.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* The same address, `step` ports further. The caller's to free. */
static char *further(const char *listen, unsigned step)
{
    const char *colon = strrchr(listen, ':');
    int port = colon ? atoi(colon + 1) : 0;
    if (!port || step == 0)
        return mem_strdup(listen);
    return mem_printf("%.*s:%d", (int)(colon - listen), listen, port + (int)step);
}

/* At the first port that is to be had; starts the server where there is none yet. */
static int listen_first(struct http_door *door, struct loop *loop,
                        const struct http_server_options *options, struct err *err)
{
    for (unsigned i = 0; i < door->ports; i++) {
        char *listen = further(door->wanted, i);
        struct http_server_options there = options ? *options : (struct http_server_options){0};
        there.listen = listen;
        bool swap = i == 0 && !door->swapped;
        int failed = door->server ? http_server_move(door->server, listen, swap, err)
                                  : http_server_start(loop, &there, &door->server, err);
        free(listen);
        if (!failed)
            return 0;
        if (err->code != ERR_IO)
            break;
    }
    return -1;
}

static void hold(struct http_door *door)
{
    free(door->listen);
    door->listen = mem_strdup(door->wanted);
}

static int bind_wanted(void *arg, struct err *err)
{
    struct http_door *door = arg;
    bool failed = listen_first(door, NULL, NULL, err);
    door->swapped = failed;
    if (failed)
        return -1;
    hold(door);
    log_info("listening", LOG_WORD("front", "http"),
             LOG_INT("port", http_server_port(door->server)));
    return 0;
}

int http_door_open(struct http_door *door, struct loop *loop, struct health *health,
                   const struct http_server_options *options, unsigned ports, struct err *err)
{
    *door = (struct http_door){.wanted = mem_strdup(options->listen), .ports = ports};
    if (listen_first(door, loop, options, err)) {
        free(door->wanted);
        *door = (struct http_door){0};
        return -1;
    }
    hold(door);
    binding_init(&door->binding, loop, health, bind_wanted, door);
    return 0;
}

void http_door_move(struct http_door *door, const char *listen)
{
    if (strcmp(door->wanted, listen) == 0)
        return;
    free(door->wanted);
    door->wanted = mem_strdup(listen);
    door->swapped = false;
    if (strcmp(door->wanted, door->listen) == 0 && http_server_is_listening(door->server))
        binding_stop(&door->binding); /* back to where it never left */
    else
        binding_start(&door->binding, listen);
}

void http_door_stay(struct http_door *door)
{
    binding_stop(&door->binding);
}

void http_door_free(struct http_door *door)
{
    binding_done(&door->binding);
    http_server_free(door->server);
    free(door->listen);
    free(door->wanted);
}
