/* Outbound HTTP: libcurl's multi interface on the event loop. Connections are kept alive and shared by all
 * requests of one client. */
#ifndef HIE_LINK_HTTP_CLIENT_H
#define HIE_LINK_HTTP_CLIENT_H

#include "base/bytes.h"
#include "base/error.h"
#include "link/loop.h"

struct http_client;
struct http_call;

struct http_client *http_client_new(struct loop *loop);
/* Outstanding calls end with ERR_CANCELLED, without their callback. */
struct http_client *http_client_free(struct http_client *client);

struct http_call_request {
    const char *method;         /* "POST", "PUT", "GET" */
    const char *url;            /* http or https only; redirects are not followed */
    const char *const *headers; /* "Name: value" lines, NULL-terminated; may be NULL */
    struct slice body;          /* borrowed until the call ends */
    int64_t timeout_ms;         /* for the whole call */
    size_t max_answer;          /* bytes of answer body kept; a longer answer ends the call with ERR_TOO_LARGE */
};

struct http_call_result {
    struct err err; /* code ERR_NONE when an answer came: ERR_TIMEOUT (sent, no answer in time), ERR_UNAVAILABLE (could not
                       connect, in time: nothing was sent), ERR_OUTCOME_UNKNOWN (cut off after sending),
                       ERR_TOO_LARGE, ERR_INVALID (bad URL or header) otherwise; texts name no content */
    int status;
    struct slice content_type; /* borrowed for the callback */
    struct slice body;
};

/* The callback comes exactly once, later, unless the call is cancelled. */
struct http_call *http_client_start(struct http_client *client, const struct http_call_request *request,
                                    void (*done)(void *arg, const struct http_call_result *result),
                                    void *arg);
/* Ends the call without its callback. */
void http_call_cancel(struct http_call *call);

#endif
