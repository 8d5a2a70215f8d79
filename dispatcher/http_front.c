/* Routes of the HTTP front. */
#include "http_front.h"

#include "dead_letter_api.h"
#include "item_api.h"

#include <stdio.h>

void http_front_wrong_method(struct http_request *request, const char *allow)
{
    char body[128];
    struct http_header header = {"Allow", slice_text(allow)};
    int len =
        snprintf(body, sizeof(body),
                 "{\"type\":\"about:blank\",\"title\":\"Method Not Allowed\",\"status\":405}");
    http_answer(request, 405, "application/problem+json", slice_of(body, (size_t)len), &header, 1);
}

/* Cuts `prefix` off the front; false when it is not there. */
static bool cut(struct slice *path, const char *prefix)
{
    size_t len = strlen(prefix);
    if (path->len < len || memcmp(path->ptr, prefix, len) != 0)
        return false;
    *path = slice_of(path->ptr + len, path->len - len);
    return true;
}

/* What lies below /v1/items/. */
static void on_item_request(struct http_front *front, struct http_request *request,
                            struct slice path)
{
    const char *slash = memchr(path.ptr, '/', path.len);
    struct slice id = slice_of(path.ptr, slash ? (size_t)(slash - path.ptr) : path.len);
    struct slice rest = slice_of(path.ptr + id.len, path.len - id.len);
    if (slice_is(rest, "/messages")) {
        if (http_request_method(request) == HTTP_METHOD_POST)
            http_post_message(front, request, id);
        else
            http_front_wrong_method(request, "POST");
        return;
    }
    const struct item *item = production_find(front->production, id);
    enum http_method method = http_request_method(request);
    bool get = method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD;
    if (!item)
        http_answer_problem(request, 404, "there is no such item", NULL, 0);
    else if (rest.len == 0 && get)
        item_api_get(front, request, item);
    else if (rest.len == 0)
        http_front_wrong_method(request, "GET, HEAD");
    else if (!dead_letter_api(front, request, item, rest))
        http_answer_problem(request, 404, "there is nothing at this path", NULL, 0);
}

static void on_request(void *arg, struct http_request *request)
{
    struct http_front *front = arg;
    enum http_method method = http_request_method(request);
    struct slice path = http_request_path(request);
    if (health_handle(front->health, request))
        return;
    if (slice_is(path, "/v1/items")) {
        if (method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD)
            item_api_get(front, request, NULL);
        else
            http_front_wrong_method(request, "GET, HEAD");
        return;
    }
    if (slice_is(path, "/v1/reload")) {
        if (method == HTTP_METHOD_POST)
            item_api_reload(front, request);
        else
            http_front_wrong_method(request, "POST");
        return;
    }
    if (cut(&path, "/v1/items/")) {
        on_item_request(front, request, path);
        return;
    }
    if (cut(&path, "/v1/messages/")) {
        if (method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD)
            message_api_get(front, request, path);
        else
            http_front_wrong_method(request, "GET, HEAD");
        return;
    }
    http_answer_problem(request, 404, "there is nothing at this path", NULL, 0);
}

static void on_gone(void *arg, struct http_request *request)
{
    struct http_work *work = http_request_data(request);
    (void)arg;
    if (work)
        work->gone(work);
}

/* Decided before there is an item. */
static void on_refused(void *arg, int status)
{
    struct http_front *front = arg;
    if (status == 413)
        intake_count_rejected(front->intake, NULL, ERR_TOO_LARGE);
    else if (status == 503)
        intake_count_rejected(front->intake, NULL, ERR_UNAVAILABLE);
}

int http_front_start(struct http_front *front, struct loop *loop,
                     const struct production *production, struct intake *intake,
                     struct store *store, struct callers *callers, struct health *health,
                     struct err *err)
{
    *front = (struct http_front){.production = production,
                                 .intake = intake,
                                 .store = store,
                                 .callers = callers,
                                 .health = health,
                                 .loop = loop};
    TAILQ_INIT(&front->posts);
    struct http_server_options options = {
        .listen = production->dispatcher.http_listen,
        .max_body = (size_t)production->dispatcher.http_max_body,
        .on_request = on_request,
        .on_gone = on_gone,
        .on_refused = on_refused,
        .arg = front,
    };
    if (http_door_open(&front->door, loop, health, &options, 1, err))
        return -1;
    front->server = front->door.server;
    return 0;
}

void http_front_change(struct http_front *front, const struct production *section)
{
    http_server_set_max_body(front->server, (size_t)section->dispatcher.http_max_body);
    http_door_move(&front->door, section->dispatcher.http_listen);
}

void http_front_drain(struct http_front *front)
{
    http_door_stay(&front->door);
    http_server_drain(front->server);
}

bool http_front_idle(const struct http_front *front)
{
    return http_server_idle(front->server);
}

void http_front_free(struct http_front *front)
{
    http_post_free_all(front);
    http_door_free(&front->door);
}
