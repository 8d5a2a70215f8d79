/* POST /v1/items/{id}/messages: its headers are checked here, the rest is the intake's, and the callers'.
 *
 *                                 ┌──refused, not durable──▶ answered
 *     headers ──intake_accept──▶ IN INTAKE ──durable, nobody waits──▶ answered 202
 *                                 │     └──durable, it waits──▶ WAITING ──ended, time is up──▶ answered
 *                                 └──ended, while still in the intake──▶ answered; freed when the intake is done
 *
 * Whose time is up while still in the intake is answered when the intake answers, within ack_timeout: before that nobody knows whether
 * there is a message to ask for later, and under which id.
 *
 * A caller that hangs up does not wait any more: it is answered as one that never did, if it still listens (it may have ended
 * only its sending). Its message goes on. */
#include "http_front.h"

#include "base/clock.h"
#include "base/mem.h"
#include "call_chain.h"
#include "json_answer.h"
#include "prefer.h"
#include "repeat_key.h"
#include "traceparent.h"

#include <stdio.h>
#include <stdlib.h>

#define CONTENT_TYPE_MAX 255u
#define IDEMPOTENCY_KEY_MAX 255u
#define DAY_MS 86400000
#define RETRY_AFTER_S 1
#define HEADERS_MAX 3

struct post {
    struct http_work work; /* first: found again from it */
    struct caller caller;
    TAILQ_ENTRY(post) link;
    struct http_front *front;
    struct http_request *request; /* NULL: answered */
    const struct item *item;
    struct uuid id;
    bool in_intake;
    bool waits;         /* for the end, else it is answered once durable */
    bool late_is_error; /* 504 when the time is up, else 202 */
    bool replayed;      /* `id` is the first message of its Idempotency-Key */
    int64_t until_us;   /* monotonic */
    char applied[48];   /* Preference-Applied; empty: none */
};

#define post_of_caller(caller_) ((struct post *)((char *)(caller_)-offsetof(struct post, caller)))

/* What the headers say; what the intake's request borrows. */
struct posted {
    struct intake_request intake;
    struct prefer prefer;
    struct call_chain chain;
    int64_t timeout_ms; /* 0: none */
    char ordering_key[ITEM_ORDERING_KEY_MAX];
};

/* ---- answers ---- */

static int status_of(enum error_code code)
{
    switch (code) {
    case ERR_NOT_FOUND:
        return 404;
    case ERR_TOO_LARGE:
        return 413;
    case ERR_NOT_HL7:
    case ERR_KEY_REUSED:
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

/* RFC 9457 with the chain, this item at its end. */
static void answer_deadlock(struct http_request *request, const struct call_chain *chain,
                            const struct item *item)
{
    struct slice rest = call_chain_slice(chain), id;
    json_t *ids = json_array();
    while (call_chain_next(&rest, &id))
        json_array_append_new(ids, json_stringn(id.ptr, id.len));
    json_array_append_new(ids, json_string(item->id));
    json_t *problem =
        json_pack("{s:s, s:s, s:i, s:s, s:o}", "type", "about:blank", "title", "Loop Detected",
                  "status", 508, "detail", "the call would wait for itself", "chain", ids);
    json_answer_problem(request, 508, problem);
}

/* The request is out of the post's hand; to be answered. */
static struct http_request *take_request(struct post *post)
{
    struct http_request *request = post->request;
    http_request_set_data(request, NULL);
    post->request = NULL;
    return request;
}

static void free_when_over(struct post *post)
{
    if (post->request || post->in_intake)
        return;
    TAILQ_REMOVE(&post->front->posts, post, link);
    item_release(post->item);
    free(post);
}

static const struct http_header replayed_header = {"Idempotency-Replayed", SLICE_LITERAL("true")};

static size_t headers_of(const struct post *post, const char *id, struct http_header *ret)
{
    size_t count = 0;
    ret[count++] = (struct http_header){"X-Correlation-ID", slice_text(id)};
    if (post->applied[0])
        ret[count++] = (struct http_header){"Preference-Applied", slice_text(post->applied)};
    if (post->replayed)
        ret[count++] = replayed_header;
    return count;
}

static void answer_accepted(struct post *post)
{
    char id[UUID_TEXT_LEN + 1], body[96];
    struct http_header headers[HEADERS_MAX];
    uuid_format(post->id, id);
    size_t count = headers_of(post, id, headers);
    int len =
        snprintf(body, sizeof(body), "{\"correlation_id\":\"%s\",\"status\":\"accepted\"}", id);
    http_answer(take_request(post), 202, "application/json", slice_of(body, (size_t)len), headers,
                count);
}

static void answer_problem(struct post *post, int status, const char *detail, int retry_after_s)
{
    char id[UUID_TEXT_LEN + 1];
    uuid_format(post->id, id);
    http_answer_problem_with(take_request(post), status, detail, id, retry_after_s,
                             post->replayed ? &replayed_header : NULL);
}

static void answer_reply(struct post *post, const struct queue_reply *end)
{
    char id[UUID_TEXT_LEN + 1], type[CONTENT_TYPE_MAX + 1] = "application/octet-stream";
    struct http_header headers[HEADERS_MAX];
    uuid_format(post->id, id);
    size_t count = headers_of(post, id, headers);
    if (end->content_type.len && end->content_type.len < sizeof(type)) {
        memcpy(type, end->content_type.ptr, end->content_type.len);
        type[end->content_type.len] = '\0';
    }
    http_answer(take_request(post), 200, type, body_slice(end->body), headers, count);
}

static void answer_end(struct post *post, const struct queue_reply *end)
{
    if (strcmp(end->status, "completed") == 0 && end->left_out)
        answer_problem(post, 502, "it has completed, but its reply was not kept", 0);
    else if (strcmp(end->status, "completed") == 0)
        answer_reply(post, end);
    else if (strcmp(end->status, "expired") == 0)
        answer_problem(post, 504, "it expired before it was started", 0);
    else if (strcmp(end->status, "cancelled") == 0)
        answer_problem(post, 410, "it was cancelled", 0);
    else
        answer_problem(post, 502, end->error ? end->error : "the handler failed", 0);
}

static void answer_not_ended(struct post *post, enum caller_outcome outcome)
{
    if (!post->late_is_error) {
        answer_accepted(post);
    } else if (outcome == CALLER_LATE) {
        callers_count_late(post->front->callers, post->item);
        answer_problem(post, 504, "it has not ended in time; ask for the id later", 0);
    } else {
        answer_problem(post, 503, "this dispatcher stops; ask for the id later", RETRY_AFTER_S);
    }
}

/* ---- waiting ---- */

static void on_end(struct caller *caller, enum caller_outcome outcome,
                   const struct queue_reply *end)
{
    struct post *post = post_of_caller(caller);
    switch (outcome) {
    case CALLER_ENDED:
        answer_end(post, end);
        break;
    case CALLER_LATE:
    case CALLER_STOPPED:
        if (!post->in_intake)
            answer_not_ended(post, outcome);
        break;
    }
    free_when_over(post);
}

static void on_gone(struct http_work *work)
{
    struct post *post = (struct post *)work;
    post->waits = false;
    callers_remove(post->front->callers, &post->caller);
    if (post->in_intake)
        return;
    answer_accepted(post);
    free_when_over(post);
}

/* For the first message of its key; or its time was up in the intake, and it is told so at once. */
static void wait_anew(struct post *post)
{
    int64_t left_ms = (post->until_us - clock_mono_us()) / 1000;
    callers_remove(post->front->callers, &post->caller);
    callers_add(post->front->callers, &post->caller, post->item, post->id,
                left_ms > 0 ? left_ms : 0, CALLER_LOOKS, on_end);
}

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    struct post *post = arg;
    char text[UUID_TEXT_LEN + 1];
    post->in_intake = false;
    if (post->request && error->code != ERR_NONE) {
        callers_remove(post->front->callers, &post->caller);
        uuid_format(id, text);
        answer_error(take_request(post), error, error->code == ERR_OUTCOME_UNKNOWN ? text : NULL);
    } else if (post->request) {
        post->id = id;
        post->replayed = repeats;
        if (!post->waits)
            answer_accepted(post);
        else if (repeats || !caller_waits(&post->caller))
            wait_anew(post);
    }
    free_when_over(post);
}

/* ---- headers ---- */

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

static int read_numbers(struct http_request *http, struct posted *posted, struct err *err)
{
    struct intake_request *request = &posted->intake;
    int64_t priority = INTAKE_PRIORITY_BY_ITEM, reply = 0;
    struct slice value;
    if (read_number(http, "X-Priority", 0, 9, &priority, err) ||
        read_number(http, "X-Delay", 0, DAY_MS, &request->delay_ms, err) ||
        read_number(http, "X-Timeout", 1, DAY_MS, &posted->timeout_ms, err) ||
        read_number(http, "X-Reply-Key", 0, 1, &reply, err))
        return -1;
    if (request->item->queue_type == QUEUE_FIFO && http_request_header(http, "X-Delay", &value))
        return err_set(err, ERR_INVALID, "X-Delay: the item's queue is fifo, nothing is delayed");
    request->priority = (int)priority;
    request->reply = reply;
    if (posted->timeout_ms)
        request->deadline_ms = clock_wall_ms() + posted->timeout_ms;
    return 0;
}

static int read_texts(struct http_request *http, struct posted *posted, struct err *err)
{
    struct intake_request *request = &posted->intake;
    struct slice value;
    if (http_request_header(http, "X-Callback-URL", &value))
        return err_set(err, ERR_INVALID, "X-Callback-URL is not yet supported");
    if (http_request_header(http, "X-Ordering-Key", &value)) {
        if (value.len == 0 || value.len > ITEM_ORDERING_KEY_MAX)
            return err_set(err, ERR_INVALID, "X-Ordering-Key: 1 to %u bytes are wanted",
                           ITEM_ORDERING_KEY_MAX);
        request->ordering_key =
            slice_of(posted->ordering_key, ordering_key_clean(value, posted->ordering_key));
    }
    if (http_request_header(http, "Content-Type", &request->content_type) &&
        request->content_type.len > CONTENT_TYPE_MAX)
        return err_set(err, ERR_INVALID, "Content-Type: longer than %u bytes", CONTENT_TYPE_MAX);
    /* A broken traceparent is as none (W3C Trace Context section 3.2.2). */
    if (http_request_header(http, "traceparent", &request->traceparent) &&
        !traceparent_is_valid(request->traceparent))
        request->traceparent = slice_of(NULL, 0);
    return 0;
}

static int read_repeat_key(struct http_request *http, struct intake_request *request,
                           struct err *err)
{
    struct slice value;
    if (!http_request_header(http, "Idempotency-Key", &value))
        return 0;
    if (value.len == 0 || value.len > IDEMPOTENCY_KEY_MAX)
        return err_set(err, ERR_INVALID, "Idempotency-Key: 1 to %u bytes are wanted",
                       IDEMPOTENCY_KEY_MAX);
    if (request->item->idempotency_window_ms == 0)
        return 0;
    struct repeat_key key = repeat_key_http(request->item, value, request->body);
    request->dedup_key = key.key;
    request->dedup_fingerprint = key.fingerprint;
    request->dedup_window_ms = request->item->idempotency_window_ms;
    return 0;
}

static int read_lists(struct http_request *http, struct posted *posted, struct err *err)
{
    struct slice value;
    unsigned at = 0;
    while (http_request_next_header(http, "Prefer", &at, &value))
        prefer_read(value, &posted->prefer);
    for (at = 0; http_request_next_header(http, "X-Call-Chain", &at, &value);) {
        if (call_chain_read(value, &posted->chain, err))
            return -1;
    }
    posted->intake.chain = call_chain_slice(&posted->chain);
    return 0;
}

static int read_headers(struct http_request *http, struct posted *posted, struct err *err)
{
    return read_numbers(http, posted, err) || read_texts(http, posted, err) ||
                   read_lists(http, posted, err) || read_repeat_key(http, &posted->intake, err)
               ? -1
               : 0;
}

/* ---- the door ---- */

/* Whether it waits, for how long, what happens then, and which preferences that follows as they were given. */
static void decide_waiting(struct post *post, const struct posted *posted)
{
    const struct prefer *prefer = &posted->prefer;
    bool sync = item_senders_wait(post->item);
    int64_t wait_ms = post->item->blocking.max_wait_time_ms, preferred_ms = prefer->wait_s * 1000;
    if (posted->timeout_ms && posted->timeout_ms < wait_ms)
        wait_ms = posted->timeout_ms;
    bool wait_followed = prefer->has_wait && preferred_ms <= wait_ms;
    if (wait_followed)
        wait_ms = preferred_ms;
    bool at_once = prefer->has_wait ? prefer->wait_s == 0 : !sync || prefer->respond_async;
    post->waits = !at_once;
    post->late_is_error = post->waits && sync && !prefer->respond_async;
    post->until_us = clock_mono_us() + wait_ms * 1000;
    int len = snprintf(post->applied, sizeof(post->applied), "%s",
                       prefer->respond_async ? "respond-async" : "");
    if (wait_followed)
        snprintf(post->applied + len, sizeof(post->applied) - (size_t)len, "%swait=%lld",
                 len ? ", " : "", (long long)prefer->wait_s);
}

/* What would wait for itself, or for a server that is away. */
static int check_waiting(const struct post *post, const struct posted *posted, struct err *err)
{
    if (!post->late_is_error)
        return 0;
    if (post->item->blocking.deadlock_detection &&
        call_chain_has(&posted->chain, slice_text(post->item->id)))
        return err_set(err, ERR_DEADLOCK, "the call would wait for itself");
    if (!post->front->intake->queue_up)
        return err_set(err, ERR_UNAVAILABLE, "Redis is away: nobody can wait for a reply now");
    return 0;
}

static void refuse(struct post *post, const struct posted *posted, const struct err *err)
{
    struct http_request *request = take_request(post);
    if (err->code == ERR_DEADLOCK)
        answer_deadlock(request, &posted->chain, post->item);
    else
        answer_error(request, err, NULL);
    free_when_over(post);
}

static struct post *new_post(struct http_front *front, struct http_request *request,
                             const struct item *item)
{
    struct post *post = mem_alloc(sizeof(*post));
    *post = (struct post){
        .work = {on_gone}, .front = front, .request = request, .item = item_hold(item)};
    http_request_set_data(request, post);
    TAILQ_INSERT_TAIL(&front->posts, post, link);
    return post;
}

void http_post_message(struct http_front *front, struct http_request *request, struct slice item_id)
{
    struct slice body = http_request_body(request);
    const struct item *item = production_find(front->production, item_id);
    struct err err;
    if (!item) {
        err_set(&err, ERR_NOT_FOUND, "there is no such item");
        intake_count_rejected(front->intake, NULL, err.code);
        answer_error(request, &err, NULL);
        return;
    }
    struct post *post = new_post(front, request, item);
    struct posted posted = {.intake = {.item = item,
                                       .body = body_of(body.ptr, body.len),
                                       .answered = on_answered,
                                       .arg = post}};
    bool read = read_headers(request, &posted, &err) == 0;
    if (read)
        decide_waiting(post, &posted);
    posted.intake.wait = post->waits;
    if (!read || check_waiting(post, &posted, &err)) {
        intake_count_rejected(front->intake, item, err.code);
        refuse(post, &posted, &err);
        return;
    }
    if (intake_accept(front->intake, &posted.intake, &post->id, &err)) {
        refuse(post, &posted, &err);
        return;
    }
    post->in_intake = true;
    if (post->waits)
        callers_add(front->callers, &post->caller, item, post->id,
                    (post->until_us - clock_mono_us()) / 1000 + 1, CALLER_TOLD, on_end);
}

void http_post_free_all(struct http_front *front)
{
    struct post *post;
    while ((post = TAILQ_FIRST(&front->posts))) {
        callers_remove(front->callers, &post->caller);
        if (post->request)
            answer_problem(post, 503, "this dispatcher stops; ask for the id later", RETRY_AFTER_S);
        post->in_intake = false;
        free_when_over(post);
    }
}
