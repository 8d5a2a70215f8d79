/* Readiness as named conditions. Owns copies of names and reasons; waits for nothing; a program
 * that never names a condition is ready. */
#include "ops/health.h"

#include "base/log.h"
#include "base/mem.h"
#include "link/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>

enum {
    NAME_MAX_LEN = 96, /* an item's id and a word */
    REASON_MAX_LEN = 240,
    METRICS_MAX =
        256 << 20, /* bytes of /metrics: some ten thousand items with all their histograms */
};

struct condition {
    STAILQ_ENTRY(condition) entry; /* in health->conditions, in order of first mention */
    char name[NAME_MAX_LEN];
    char reason[REASON_MAX_LEN];
    bool ok;
};

struct health {
    STAILQ_HEAD(, condition) conditions;
    struct metrics *metrics;
    void (*refresh)(void *arg);
    void *refresh_arg;
    enum { HEALTH_RUNNING, HEALTH_DRAINING } state;
};

struct health *health_new(struct metrics *metrics)
{
    struct health *health = mem_alloc(sizeof(*health));
    STAILQ_INIT(&health->conditions);
    health->metrics = metrics;
    health->state = HEALTH_RUNNING;
    return health;
}

struct health *health_free(struct health *health)
{
    struct condition *condition;
    if (!health)
        return NULL;
    while ((condition = STAILQ_FIRST(&health->conditions))) {
        STAILQ_REMOVE_HEAD(&health->conditions, entry);
        free(condition);
    }
    free(health);
    return NULL;
}

static void copy_text(char *to, size_t size, const char *text)
{
    size_t len = text ? strnlen(text, size - 1) : 0;
    if (len)
        memcpy(to, text, len);
    to[len] = '\0';
}

static struct condition *find(struct health *health, const char *name)
{
    struct condition *condition;
    STAILQ_FOREACH(condition, &health->conditions, entry)
    {
        if (strncmp(condition->name, name, NAME_MAX_LEN - 1) == 0)
            break;
    }
    return condition;
}

void health_set(struct health *health, const char *name, bool ok, const char *reason)
{
    struct condition *condition = find(health, name);
    if (!condition) {
        condition = mem_alloc(sizeof(*condition));
        copy_text(condition->name, sizeof(condition->name), name);
        STAILQ_INSERT_TAIL(&health->conditions, condition, entry);
    }
    condition->ok = ok;
    copy_text(condition->reason, sizeof(condition->reason), reason);
}

void health_clear(struct health *health, const char *name)
{
    struct condition *condition = find(health, name);
    if (!condition)
        return;
    STAILQ_REMOVE(&health->conditions, condition, condition, entry);
    free(condition);
}

void health_set_server(struct health *health, const char *name, bool up, const char *reason)
{
    char metric_name[NAME_MAX_LEN + 16];
    snprintf(metric_name, sizeof(metric_name), "hie_%s_up", name);
    metric_set(
        metrics_gauge(health->metrics, metric_name, "1 while the server is there, else 0", NULL, 0),
        up ? 1 : 0);
    health_set(health, name, up, reason);
}

void health_warn_insecure(struct health *health, const char *listener)
{
    static const char reason[] = "insecure: open to other machines without TLS and access tokens";
    log_warn("insecure_listener", LOG_WORD("listener", listener), LOG_WORD("reason", reason));
    health_set(health, listener, true, reason);
}

void health_drain(struct health *health)
{
    health->state = HEALTH_DRAINING;
}

bool health_ready(const struct health *health)
{
    const struct condition *condition;
    STAILQ_FOREACH(condition, &health->conditions, entry)
    {
        if (!condition->ok)
            return false;
    }
    return health->state == HEALTH_RUNNING;
}

void health_on_metrics(struct health *health, void (*refresh)(void *arg), void *arg)
{
    health->refresh = refresh;
    health->refresh_arg = arg;
}

static void answer_healthz(struct http_request *request)
{
    http_answer(request, 200, "application/json", SLICE_LITERAL("{\"status\":\"ok\"}\n"), NULL, 0);
}

static void answer_readyz(struct health *health, struct http_request *request)
{
    const struct condition *condition;
    bool ready = health_ready(health), first = true;
    struct buffer out;
    buffer_init(&out, SIZE_MAX);
    buffer_append_text(&out, "{\"status\":");
    buffer_append_text(&out, health->state == HEALTH_DRAINING ? "\"draining\""
                             : ready                          ? "\"ready\""
                                                              : "\"not ready\"");
    buffer_append_text(&out, ",\"checks\":[");
    STAILQ_FOREACH(condition, &health->conditions, entry)
    {
        buffer_append_text(&out, first ? "{\"name\":" : ",{\"name\":");
        json_text_append(&out, slice_text(condition->name));
        buffer_append_text(&out, condition->ok ? ",\"ok\":true,\"reason\":"
                                               : ",\"ok\":false,\"reason\":");
        json_text_append(&out, slice_text(condition->reason));
        buffer_append_byte(&out, '}');
        first = false;
    }
    buffer_append_text(&out, "]}\n");
    struct http_header no_store = {.name = "Cache-Control", .value = SLICE_LITERAL("no-store")};
    http_answer(request, ready ? 200 : 503, "application/json", buffer_slice(&out), &no_store, 1);
    buffer_done(&out);
}

static void answer_metrics(struct health *health, struct http_request *request)
{
    struct buffer out;
    buffer_init(&out, METRICS_MAX);
    if (health->refresh)
        health->refresh(health->refresh_arg);
    metrics_print(health->metrics, &out);
    http_answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", buffer_slice(&out), NULL,
                0);
    buffer_done(&out);
}

static void answer_not_allowed(struct http_request *request)
{
    struct http_header allow = {.name = "Allow", .value = SLICE_LITERAL("GET, HEAD")};
    http_answer(
        request, 405, "application/problem+json",
        SLICE_LITERAL("{\"type\":\"about:blank\",\"title\":\"Method Not Allowed\",\"status\":405}"),
        &allow, 1);
}

bool health_handle(struct health *health, struct http_request *request)
{
    struct slice path = http_request_path(request);
    enum http_method method = http_request_method(request);
    bool healthz = slice_is(path, "/healthz"), readyz = slice_is(path, "/readyz");
    if (!healthz && !readyz && !slice_is(path, "/metrics"))
        return false;
    if (method != HTTP_METHOD_GET && method != HTTP_METHOD_HEAD)
        answer_not_allowed(request);
    else if (healthz)
        answer_healthz(request);
    else if (readyz)
        answer_readyz(health, request);
    else
        answer_metrics(health, request);
    return true;
}
