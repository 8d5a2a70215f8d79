/* Routes of the HTTP front, and POST /v1/items/{id}/messages: its headers are checked here, the rest is the intake's. */
#include "http_front.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define CONTENT_TYPE_MAX 255u
#define ORDERING_KEY_MAX 199u
#define TRACEPARENT_LEN 55u /* W3C Trace Context, version 00 */
#define RETRY_AFTER_S 1

static int status_of(enum error_code code)
{
    switch (code) {
    case ERR_NOT_FOUND:
        return 404;
    case ERR_TOO_LARGE:
        return 413;
    case ERR_NOT_HL7:
    case ERR_UNSUPPORTED: /* what the item cannot work with yet: a batch */
        return 422;
    case ERR_QUEUE_FULL:
        return 429;
    case ERR_UNAVAILABLE:
    case ERR_OUTCOME_UNKNOWN:
    case ERR_TIMEOUT:
        return 503;
    default:
        return 400;
    }
}

static void answer_error(struct http_request *request, const struct err *err, const char *id)
{
    int status = status_of(err->code);
    http_answer_problem(request, status, err->text, id,
                        status == 429 || status == 503 ? RETRY_AFTER_S : 0);
}

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    (void)repeats;
    struct http_request *request = arg;
    char text[UUID_TEXT_LEN + 1];
    uuid_format(id, text);
    if (error->code != ERR_NONE) {
        answer_error(request, error, error->code == ERR_OUTCOME_UNKNOWN ? text : NULL);
        return;
    }
    char body[96];
    int len =
        snprintf(body, sizeof(body), "{\"correlation_id\":\"%s\",\"status\":\"accepted\"}", text);
    struct http_header header = {"X-Correlation-ID", slice_text(text)};
    http_answer(request, 202, "application/json", slice_of(body, (size_t)len), &header, 1);
}

/* A header that is a whole number in [min, max]; absent leaves *ret. */
static int read_number(struct http_request *request, const char *name, int64_t min, int64_t max,
                       int64_t *ret, struct err *err)
{
    struct slice value;
    if (http_request_header(request, name, &value) && !slice_to_int(value, min, max, ret))
        return err_set(err, ERR_INVALID, "%s: a whole number from %lld to %lld is wanted", name,
                       (long long)min, (long long)max);
    return 0;
}

/* What a sender relies on is refused rather than ignored. */
static int refuse_unsupported(struct http_request *request, struct err *err)
{
    static const char *const names[] = {"X-Timeout", "X-Callback-URL", "Idempotency-Key"};
    struct slice value;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (http_request_header(request, names[i], &value))
            return err_set(err, ERR_INVALID, "%s is not yet supported", names[i]);
    }
    return 0;
}

static int read_headers(struct http_request *http, struct intake_request *request, struct err *err)
{
    int64_t priority = 0, delay = 0, timeout = 0,
            reply = 0; /* X-Timeout: its value is checked first */
    if (read_number(http, "X-Priority", 0, 9, &priority, err) ||
        read_number(http, "X-Delay", 0, INT32_MAX, &delay, err) ||
        read_number(http, "X-Timeout", 1, INT32_MAX, &timeout, err) ||
        read_number(http, "X-Reply-Key", 0, 1, &reply, err) || refuse_unsupported(http, err))
        return -1;
    request->priority = (int)priority;
    request->delay_ms = delay;
    request->reply = reply;
    if (http_request_header(http, "X-Ordering-Key", &request->ordering_key) &&
        (request->ordering_key.len == 0 || request->ordering_key.len > ORDERING_KEY_MAX))
        return err_set(err, ERR_INVALID, "X-Ordering-Key: 1 to %u bytes are wanted",
                       ORDERING_KEY_MAX);
    if (http_request_header(http, "Content-Type", &request->content_type) &&
        request->content_type.len > CONTENT_TYPE_MAX)
        return err_set(err, ERR_INVALID, "Content-Type: longer than %u bytes", CONTENT_TYPE_MAX);
    /* A broken traceparent is as none (W3C Trace Context section 3.2.2). */
    if (http_request_header(http, "traceparent", &request->traceparent) &&
        request->traceparent.len != TRACEPARENT_LEN)
        request->traceparent = slice_of(NULL, 0);
    return 0;
}

static void post_message(struct http_front *front, struct http_request *request,
                         struct slice item_id)
{
    struct slice body = http_request_body(request);
    struct intake_request intake = {.item = production_find(front->production, item_id),
                                    .body = body_of(body.ptr, body.len),
                                    .answered = on_answered,
                                    .arg = request};
    struct uuid id;
    struct err err;
    if (!intake.item) {
        err_set(&err, ERR_NOT_FOUND, "there is no such item");
        intake_count_rejected(front->intake, NULL, err.code);
        answer_error(request, &err, NULL);
    } else if (read_headers(request, &intake, &err)) {
        intake_count_rejected(front->intake, intake.item, err.code);
        answer_error(request, &err, NULL);
    } else if (intake_accept(front->intake, &intake, &id, &err)) {
        answer_error(request, &err, NULL);
    }
}

static void answer_wrong_method(struct http_request *request, const char *allow)
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

static void on_request(void *arg, struct http_request *request)
{
    struct http_front *front = arg;
    enum http_method method = http_request_method(request);
    struct slice path = http_request_path(request);
    if (health_handle(front->health, request))
        return;
    if (cut(&path, "/v1/items/")) {
        const char *slash = memchr(path.ptr, '/', path.len);
        size_t id_len = slash ? (size_t)(slash - path.ptr) : path.len;
        struct slice rest = slice_of(path.ptr + id_len, path.len - id_len);
        if (slice_is(rest, "/messages")) {
            if (method == HTTP_METHOD_POST)
                post_message(front, request, slice_of(path.ptr, id_len));
            else
                answer_wrong_method(request, "POST");
            return;
        }
    } else if (cut(&path, "/v1/messages/")) {
        if (method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD)
            message_api_get(front, request, path);
        else
            answer_wrong_method(request, "GET, HEAD");
        return;
    }
    http_answer_problem(request, 404, "there is nothing at this path", NULL, 0);
}

static void on_gone(void *arg, struct http_request *request)
{
    message_api_gone(arg, request);
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
                     struct store *store, struct waiters *waiters, struct health *health,
                     struct err *err)
{
    *front = (struct http_front){.production = production,
                                 .intake = intake,
                                 .store = store,
                                 .waiters = waiters,
                                 .health = health,
                                 .loop = loop};
    struct http_server_options options = {
        .listen = production->dispatcher.http_listen,
        .max_body = (size_t)production->dispatcher.http_max_body,
        .on_request = on_request,
        .on_gone = on_gone,
        .on_refused = on_refused,
        .arg = front,
    };
    return http_server_start(loop, &options, &front->server, err);
}

void http_front_drain(struct http_front *front)
{
    http_server_drain(front->server);
}

bool http_front_idle(const struct http_front *front)
{
    return http_server_idle(front->server);
}

void http_front_free(struct http_front *front)
{
    http_server_free(front->server);
}
