/* What a simulated process does not have: listeners, an HTTP client, threads. They are asked for at its start and left alone. */
#include "base/bug.h"
#include "link/http_client.h"
#include "link/http_server.h"
#include "worker/offload.h"

int http_server_start(struct loop *loop, const struct http_server_options *options,
                      struct http_server **ret_server, struct err *err)
{
    (void)loop;
    (void)options;
    (void)err;
    *ret_server = NULL;
    return 0;
}

int http_server_move(struct http_server *server, const char *listen, bool swap, struct err *err)
{
    (void)server;
    (void)listen;
    (void)swap;
    (void)err;
    return 0;
}

bool http_server_is_listening(const struct http_server *server)
{
    (void)server;
    return true;
}

uint16_t http_server_port(const struct http_server *server)
{
    (void)server;
    return 0;
}

struct http_server *http_server_free(struct http_server *server)
{
    return server;
}

enum http_method http_request_method(const struct http_request *request)
{
    (void)request;
    return HTTP_METHOD_OTHER;
}

struct slice http_request_path(const struct http_request *request)
{
    (void)request;
    return slice_of(NULL, 0);
}

void http_answer(struct http_request *request, int status, const char *content_type,
                 struct slice body, const struct http_header *headers, size_t header_count)
{
    (void)request;
    (void)status;
    (void)content_type;
    (void)body;
    (void)headers;
    (void)header_count;
    BUG_ON(true);
}

void http_answer_problem(struct http_request *request, int status, const char *detail,
                         const char *correlation_id, int retry_after_s)
{
    (void)request;
    (void)status;
    (void)detail;
    (void)correlation_id;
    (void)retry_after_s;
    BUG_ON(true);
}

struct http_client *http_client_new(struct loop *loop)
{
    (void)loop;
    return NULL;
}

struct http_client *http_client_free(struct http_client *client)
{
    return client;
}

struct http_call *http_client_start(struct http_client *client,
                                    const struct http_call_request *request,
                                    void (*done)(void *arg, const struct http_call_result *result),
                                    void *arg)
{
    (void)client;
    (void)request;
    (void)done;
    (void)arg;
    BUG_ON(true);
}

void http_call_cancel(struct http_call *call)
{
    (void)call;
}

struct offload *offload_new(struct loop *loop, unsigned threads)
{
    (void)loop;
    (void)threads;
    return NULL;
}

struct offload *offload_free(struct offload *offload)
{
    return offload;
}

void offload_submit(struct offload *offload, struct offload_work *work)
{
    (void)offload;
    (void)work;
    BUG_ON(true);
}

bool offload_withdraw(struct offload *offload, struct offload_work *work)
{
    (void)offload;
    (void)work;
    return false;
}
