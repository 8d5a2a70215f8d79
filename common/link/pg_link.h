/* One connection to PostgreSQL on the event loop: libpq without blocking, in pipeline mode.
 *
 *            ┌──────────────── lost, no answer, timed out ◀───────────────┐
 *            ▼                        ▲                ▲                  │
 *          away ──backoff over──▶ connecting ──▶ setting up ──open──▶ up ─┘
 *                                     │                │
 *                                     └── refused ─────┴──▶ refused (for good: login, database,
 * schema)
 *
 * Requests are single prepared statements; each is a transaction of its own. They go out in order
 * and are answered in order. When the connection is lost, those sent and unanswered end with
 * ERR_OUTCOME_UNKNOWN, the others with ERR_UNAVAILABLE, and so does what is sent while the link is
 * not up. Completions are never called from inside the call that submitted. Error texts hold
 * SQLSTATE and constraint name, never the server's words: those carry data. */
#ifndef HIE_LINK_PG_LINK_H
#define HIE_LINK_PG_LINK_H

#include "base/bytes.h"
#include "base/error.h"
#include "link/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct pg_link;
struct pg_result; /* libpq's */

#define PG_STATEMENTS_MAX 64
#define PG_PARAMS_MAX 48
#define PG_PARAMS_BYTES (768u << 20) /* of one request: the protocol ends at 1 GiB */

struct pg_statement {
    unsigned id; /* below PG_STATEMENTS_MAX, one for each statement */
    const char *sql;
};

/* The parameters of one request, in binary format, built behind each other in one buffer. */
struct pg_params {
    struct buffer bytes;
    unsigned count;
    struct {
        size_t start;
        int len; /* -1: NULL */
    } list[PG_PARAMS_MAX];
    bool failed; /* past the maximum, or out of memory */
};
/* Opens the next parameter; what is put until pg_param_end belongs to it. */
void pg_param_begin(struct pg_params *params);
void pg_param_put(struct pg_params *params, const void *ptr, size_t len);
void pg_param_end(struct pg_params *params);
void pg_param_null(struct pg_params *params);

struct pg_answer {
    struct err err;   /* ERR_NONE; ERR_INVALID: the data was refused; ERR_TOO_LARGE: not sent;
                         ERR_UNAVAILABLE: not done;   ERR_OUTCOME_UNKNOWN; ERR_SCHEMA: SQL, tables or
                         rights are wrong */
    char sqlstate[6]; /* "" when there is none */
    const struct pg_result
        *result; /* of the (last) statement; NULL on error; valid during the callback */
};

struct pg_request {
    const struct pg_statement *statement;
    /* Puts the parameters when the request is sent; it may run again only for a later submission.
     */
    void (*encode)(struct pg_request *request, struct pg_params *params);
    void (*done)(struct pg_request *request, const struct pg_answer *answer);
    /* the link's */
    TAILQ_ENTRY(pg_request) entry;
    int64_t sent_ms;
    bool too_large, preparing;
};

struct pg_link_options {
    const char *url; /* URI or keywords; what it says wins over the link's own settings */
    const char *application_name;
    const char *session; /* "-c name=value …" set for the session; may be NULL */
    /* Connected: run scripts, then pg_link_open, pg_link_refuse or pg_link_fail. */
    void (*on_setup)(void *arg);
    void (*on_up)(void *arg);
    /* Lost, or could not connect (called each time); it goes on trying by itself. */
    void (*on_down)(void *arg, const struct err *err);
    /* Refused for good: nothing more is tried. ERR_AUTH, ERR_SCHEMA or ERR_CONFIG. */
    void (*on_fatal)(void *arg, const struct err *err);
    void *arg;
};
/* Starts to connect at once, in the background. Texts are copied. */
struct pg_link *pg_link_new(struct loop *loop, const struct pg_link_options *options);
/* Requests that are under way end without their callback. May be called from inside a callback of
 * the link. */
struct pg_link *pg_link_free(struct pg_link *link);
bool pg_link_is_up(const struct pg_link *link);
/* Requests not yet answered. */
unsigned pg_link_pending(const struct pg_link *link);

/* Submits; the request is the caller's and must live until `done`. */
void pg_link_send(struct pg_link *link, struct pg_request *request);

/* Only while setting up, one at a time: SQL text without parameters, several statements allowed.
 * Answers with the last result, in text format. Past timeout_ms the connection is given up (and
 * `done` is told). */
void pg_link_script(struct pg_link *link, const char *sql, int64_t timeout_ms,
                    void (*done)(void *arg, const struct pg_answer *answer), void *arg);
/* Ends the set-up: requests may flow. */
void pg_link_open(struct pg_link *link);
/* Ends the set-up, to be tried again after the backoff. */
void pg_link_fail(struct pg_link *link, const struct err *err);
/* Ends the link for good with on_fatal. */
void pg_link_refuse(struct pg_link *link, const struct err *err);

/* ---- results ---- */
size_t pg_result_rows(const struct pg_result *result);
bool pg_result_is_null(const struct pg_result *result, size_t row, unsigned column);
struct slice pg_result_value(const struct pg_result *result, size_t row, unsigned column);

/* The class of an error of the server by its SQLSTATE (PostgreSQL, appendix A). */
enum error_code pg_error_code(const char *sqlstate);
/* The last SQLSTATE in a connection error's text that stands alone at a line's end; false: none. */
bool pg_find_sqlstate(const char *text, char ret[static 6]);

#endif
