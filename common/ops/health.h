/* /healthz, /readyz and /metrics, the same for both programs.
 *
 *   /healthz  200: the loop makes progress, which answering at all is the proof of; it never looks at Redis or PostgreSQL
 *   /readyz   200 while every named condition holds and no drain has begun, else 503; the conditions in JSON
 *   /metrics  the registry as text
 */
#ifndef HIE_OPS_HEALTH_H
#define HIE_OPS_HEALTH_H

#include "link/http_server.h"
#include "ops/metrics.h"

struct health;

struct health *health_new(struct metrics *metrics); /* borrowed */
struct health *health_free(struct health *health);

/* A condition of readiness, known from its first mention on. The reason is ours and short (an error
 * text, no content); it is shown with conditions that hold, too (a warning such as "listens without
 * TLS"), and may be NULL. */
void health_set(struct health *health, const char *name, bool ok, const char *reason);
/* It is no condition any more. */
void health_clear(struct health *health, const char *name);
/* The same for a server we depend on; also kept as the gauge hie_<name>_up. */
void health_set_server(struct health *health, const char *name, bool up, const char *reason);
/* Says, here and in the log, that a listener is open to other machines without TLS and tokens, as the production file allows. */
void health_warn_insecure(struct health *health, const char *listener);
/* From here on "draining": never ready again. */
void health_drain(struct health *health);
bool health_ready(const struct health *health);
/* Called before /metrics is printed, to bring gauges up to date; may be NULL. */
void health_on_metrics(struct health *health, void (*refresh)(void *arg), void *arg);

/* Answers the request if its path is one of the three; false leaves it untouched. */
bool health_handle(struct health *health, struct http_request *request);

#endif
