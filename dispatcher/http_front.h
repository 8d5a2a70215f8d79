/* The HTTP front: intake of messages and what is asked about them. */
#ifndef HIE_HTTP_FRONT_H
#define HIE_HTTP_FRONT_H

#include "intake.h"
#include "link/http_server.h"
#include "ops/health.h"
#include "waiters.h"

struct http_front {
    const struct production *production;
    struct intake *intake;
    struct store *store;
    struct health *health;
    struct waiters *waiters;
    struct http_server *server;
    struct loop *loop;
};

/* 0, or -1 with ERR_CONFIG or ERR_IO: it cannot listen. */
int http_front_start(struct http_front *front, struct loop *loop,
                     const struct production *production, struct intake *intake,
                     struct store *store, struct waiters *waiters, struct health *health,
                     struct err *err);
void http_front_drain(struct http_front *front);
bool http_front_idle(const struct http_front *front);
void http_front_free(struct http_front *front);

/* GET /v1/messages/{id}[?wait=ms], …/request, …/reply: message_api.c. `rest` follows "/v1/messages/". */
void message_api_get(struct http_front *front, struct http_request *request, struct slice rest);
/* The caller of a request of ours hung up. */
void message_api_gone(struct http_front *front, struct http_request *request);

#endif
