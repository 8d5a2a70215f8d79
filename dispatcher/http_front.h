/* The HTTP front: intake of messages and what is asked about them. */
#ifndef HIE_HTTP_FRONT_H
#define HIE_HTTP_FRONT_H

#include "callers.h"
#include "intake.h"
#include "ops/health.h"
#include "ops/http_door.h"

struct post; /* a message at the door: http_post.c */

struct http_front {
    const struct production *production;
    struct intake *intake;
    struct queue_gauges *gauges;
    struct fleet *fleet;
    struct store *store;
    struct health *health;
    struct callers *callers;
    struct http_server *server; /* the door's */
    struct http_door door;
    struct loop *loop;
    TAILQ_HEAD(, post) posts; /* all that are not over */
};

/* What stands behind a request that is not answered yet; the first member of a question or a post. */
struct http_work {
    void (*gone)(struct http_work *work); /* the caller hung up */
};

/* 0, or -1 with ERR_CONFIG or ERR_IO: it cannot listen. */
int http_front_start(struct http_front *front, struct loop *loop,
                     const struct production *production, struct intake *intake,
                     struct store *store, struct callers *callers, struct health *health,
                     struct err *err);
/* The `dispatcher` section says otherwise by now. */
void http_front_change(struct http_front *front, const struct production *section);
void http_front_drain(struct http_front *front);
bool http_front_idle(const struct http_front *front);
/* What the intake still holds of it is not answered any more: the intake goes next. */
void http_front_free(struct http_front *front);

/* 405, with the methods that are allowed. */
void http_front_wrong_method(struct http_request *request, const char *allow);

/* POST /v1/items/{id}/messages: http_post.c */
void http_post_message(struct http_front *front, struct http_request *request,
                       struct slice item_id);
void http_post_free_all(struct http_front *front);

/* GET /v1/messages/{id}[?wait=ms], …/request, …/reply: message_api.c. `rest` follows "/v1/messages/". */
void message_api_get(struct http_front *front, struct http_request *request, struct slice rest);

#endif
