/* An HTTP server whose address a reload can change: the new one is listened on before the old one is given up, and until it is to be had the
 * old one stays (binding.h). Open connections stay as they are. */
#ifndef HIE_OPS_HTTP_DOOR_H
#define HIE_OPS_HTTP_DOOR_H

#include "link/http_server.h"
#include "ops/binding.h"

struct http_door {
    struct http_server *server; /* the same one for life */
    struct binding binding;
    char *listen;   /* as the file has it: where it listens */
    char *wanted;   /* … and is to listen */
    bool swapped;   /* the old one was given up for it once, in vain */
    unsigned ports; /* tried from the configured one on: several processes on one machine */
};

/* 0, or -1 with ERR_CONFIG or ERR_IO: it cannot listen, and there is nothing to be freed. */
int http_door_open(struct http_door *door, struct loop *loop, struct health *health,
                   const struct http_server_options *options, unsigned ports, struct err *err);
void http_door_move(struct http_door *door, const char *listen);
/* It moves no more. */
void http_door_stay(struct http_door *door);
void http_door_free(struct http_door *door);

#endif
