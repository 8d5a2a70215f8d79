/* What the files of the PostgreSQL link share: pg_link.c (requests, events, the end),
 * pg_link_connect.c (connecting, setting up), pg_result.c (parameters, results, errors). */
#ifndef HIE_LINK_PG_LINK_INTERNAL_H
#define HIE_LINK_PG_LINK_INTERNAL_H

#include "link/pg_link.h"

#include <libpq-fe.h>

enum { PG_AWAY, PG_CONNECTING, PG_SETTING_UP, PG_UP, PG_REFUSED, PG_STATES };

TAILQ_HEAD(request_list, pg_request);

struct pg_link {
    struct loop *loop;
    struct pg_link_options options;
    char *url, *application_name, *session;
    unsigned state;
    PGconn *conn;
    struct event *socket;
    int fd;      /* that `socket` watches */
    short watch; /* what it watches for */
    struct loop_timer timer;
    struct loop_task task;
    unsigned failures; /* in a row */

    struct request_list waiting;     /* not sent */
    struct request_list in_flight;   /* sent, not answered; only in PG_UP */
    struct request_list turned_away; /* submitted while not up */
    unsigned in_flight_count, pending_count;
    uint64_t prepared; /* bit set of statement ids on this connection */
    struct pg_params params;
    PGresult *answer; /* of the head request or the script, until its sync */

    struct {
        void (*done)(void *arg, const struct pg_answer *answer);
        void *arg;
    } script;

    unsigned depth; /* callbacks of ours on the stack */
    bool freed;     /* by one of them */
};

/* pg_link.c. Callbacks run between enter and leave; leave is true when one of them freed the link:
 * nothing of it may be touched any more. */
void pg_link_enter(struct pg_link *link);
bool pg_link_leave(struct pg_link *link);
void pg_link_move(struct pg_link *link, unsigned to);
void pg_link_watch(struct pg_link *link, short what);
void pg_link_unwatch(struct pg_link *link);
/* Ends the connection; `to` is away or refused. Everybody who waits is told, our own state first.
 */
void pg_link_end(struct pg_link *link, unsigned to, const struct err *err);
/* Away, for this reason or (NULL) for libpq's. */
void pg_link_lost(struct pg_link *link, const char *why);

/* pg_link_connect.c */
void pg_link_connect(struct pg_link *link);
void pg_link_connect_step(struct pg_link *link);
void pg_link_script_step(struct pg_link *link);

/* pg_result.c */
bool pg_is_error(const PGresult *result);
bool pg_in_class(const char *sqlstate, const char *class);
/* What a result means. The severity FATAL ends the connection and may come after the commit. */
void pg_read_answer(const PGresult *result, struct pg_answer *ret_answer);

#endif
