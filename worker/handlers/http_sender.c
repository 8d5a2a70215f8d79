/* HTTPSender: sends the body to a receiver as it is and replies the receiver's answer. It owns the
 * calls under way and waits for nothing but them; every call ends within the `timeout` of the
 * settings. A 2xx answer is success; an answer of retry_on, a timeout and a connection refused or
 * cut off are retried; any other answer is final. The receiver may see a message twice, so each
 * request carries its correlation id as Idempotency-Key. */
#include "handlers/classes.h"

#include "base/mem.h"
#include "link/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>

enum {
    ANSWER_MAX = 1024 * 1024, /* bytes of the receiver's answer that are kept */
    CONTENT_TYPE_MAX = 200,
    OWN_HEADERS = 4,
};

#define CHAIN_HEADER "X-Call-Chain: "

struct http_sender {
    struct http_client *http;
    const struct http_sender_settings *settings;
    size_t header_count; /* of the settings */
    /* set by the settings: then those are sent */
    bool has_content_type, has_key, has_correlation_id, has_chain;
    TAILQ_HEAD(, send_call) calls;
};

struct send_call {
    struct http_sender *sender;
    struct job *job;
    struct http_call *call;
    TAILQ_ENTRY(send_call) entry;
    char content_type[sizeof("Content-Type: ") + CONTENT_TYPE_MAX];
    char key[sizeof("Idempotency-Key: ") + UUID_TEXT_LEN];
    char correlation_id[sizeof("X-Correlation-ID: ") + UUID_TEXT_LEN];
    char chain[sizeof(CHAIN_HEADER) + META_CHAIN_MAX];
    const char *headers[]; /* NULL-terminated */
};

static bool header_is(const char *line, const char *name)
{
    size_t len = strlen(name);
    return strncasecmp(line, name, len) == 0 && (line[len] == ':' || line[len] == ';');
}

static int sender_open(const struct handler_env *env, const struct item *item, void **ret_state,
                       struct err *err)
{
    (void)err;
    struct http_sender *sender = mem_alloc(sizeof(*sender));
    sender->http = env->http;
    sender->settings = item->settings;
    TAILQ_INIT(&sender->calls);
    for (char **line = sender->settings->headers; line && *line; line++) {
        sender->header_count++;
        sender->has_content_type |= header_is(*line, "Content-Type");
        sender->has_key |= header_is(*line, "Idempotency-Key");
        sender->has_correlation_id |= header_is(*line, "X-Correlation-ID");
        sender->has_chain |= header_is(*line, "X-Call-Chain");
    }
    *ret_state = sender;
    return 0;
}

/* Whether a sender's content type may stand in a header line. */
static bool is_header_text(struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        if ((unsigned char)text.ptr[i] < 0x20 || text.ptr[i] == 0x7f)
            return false;
    }
    return text.len > 0 && text.len <= CONTENT_TYPE_MAX;
}

/* The items that the message went through, this one included, so that a receiver which is a fleet knows a call that comes back to
 * itself. A chain that a producer made up may hold anything: then it begins here. */
static void put_chain(struct send_call *call, const struct job *job)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-,";
    char *text = call->chain + sizeof(CHAIN_HEADER) - 1;
    memcpy(call->chain, CHAIN_HEADER, sizeof(CHAIN_HEADER));
    size_t len = job_longer_chain(job, text);
    text[len] = '\0';
    if (strspn(text, letters) != len)
        snprintf(text, META_CHAIN_MAX, "%s", job_item(job)->id);
}

static struct send_call *new_call(struct http_sender *sender, struct job *job)
{
    size_t n = 0, room = sender->header_count + OWN_HEADERS + 1;
    struct send_call *call = mem_alloc(sizeof(*call) + room * sizeof(*call->headers));
    call->sender = sender;
    call->job = job;
    for (size_t i = 0; i < sender->header_count; i++)
        call->headers[n++] = sender->settings->headers[i];

    struct slice type = job_content_type(job);
    if (!is_header_text(type))
        type = SLICE_LITERAL("application/octet-stream");
    char id[UUID_TEXT_LEN + 1];
    uuid_format(job_id(job), id);
    snprintf(call->content_type, sizeof(call->content_type), "Content-Type: %.*s", (int)type.len,
             type.ptr);
    snprintf(call->key, sizeof(call->key), "Idempotency-Key: %s", id);
    snprintf(call->correlation_id, sizeof(call->correlation_id), "X-Correlation-ID: %s", id);
    if (!sender->has_content_type)
        call->headers[n++] = call->content_type;
    if (!sender->has_key)
        call->headers[n++] = call->key;
    if (!sender->has_correlation_id)
        call->headers[n++] = call->correlation_id;
    put_chain(call, job);
    if (!sender->has_chain)
        call->headers[n++] = call->chain;
    TAILQ_INSERT_TAIL(&sender->calls, call, entry);
    job_set_data(job, call);
    return call;
}

/* Takes the job out of its call, which is gone then. */
static struct job *forget_call(struct send_call *call)
{
    struct job *job = call->job;
    TAILQ_REMOVE(&call->sender->calls, call, entry);
    free(call);
    job_set_data(job, NULL);
    return job;
}

static bool is_success(int status)
{
    return status >= 200 && status < 300;
}

static bool is_retried(const struct http_sender_settings *settings, int status)
{
    size_t count = sizeof(settings->retry_status) / sizeof(settings->retry_status[0]);
    return status >= 0 && (size_t)status < count && settings->retry_status[status];
}

static void on_answer(void *arg, const struct http_call_result *result)
{
    struct send_call *call = arg;
    const struct http_sender_settings *settings = call->sender->settings;
    struct job *job = forget_call(call);
    struct err err = result->err;
    if (err.code == ERR_TOO_LARGE && is_success(result->status)) {
        /* The receiver took it; to fail now would send it again or call it undelivered. */
        job_done(job, slice_of(NULL, 0), slice_of(NULL, 0));
        return;
    }
    if (err.code == ERR_NONE && is_success(result->status)) {
        job_done(job, result->content_type, result->body);
        return;
    }
    if (err.code == ERR_NONE || (err.code == ERR_TOO_LARGE && result->status > 0)) {
        bool retried = is_retried(settings, result->status);
        err_set(&err, retried ? ERR_RECEIVER : ERR_REJECTED, "receiver answered %d",
                result->status);
    }
    job_fail(job, &err);
}

static void sender_start(void *state, struct job *job)
{
    struct http_sender *sender = state;
    struct send_call *call = new_call(sender, job);
    const struct http_call_request request = {
        .method = sender->settings->method,
        .url = sender->settings->url,
        .headers = call->headers,
        .body = body_slice(job_body(job)),
        .timeout_ms = sender->settings->timeout_ms,
        .max_answer = ANSWER_MAX,
    };
    call->call = http_client_start(sender->http, &request, on_answer, call);
}

static void give_up(struct send_call *call)
{
    http_call_cancel(call->call);
    struct err err;
    err_set(&err, ERR_CANCELLED, "cancelled before the receiver answered");
    job_fail(forget_call(call), &err);
}

static void sender_cancel(void *state, struct job *job)
{
    (void)state;
    struct send_call *call = job_data(job);
    if (call)
        give_up(call);
}

static void sender_close(void *state)
{
    struct http_sender *sender = state;
    struct send_call *call;
    while ((call = TAILQ_FIRST(&sender->calls)))
        give_up(call);
    free(sender);
}

const struct handler_class http_sender_class = {
    .id = CLASS_HTTP_SENDER,
    .open = sender_open,
    .close = sender_close,
    .start = sender_start,
    .cancel = sender_cancel,
};
