/* The first half of a PostgreSQL link's life: connecting and setting up. Waits for libpq's
 * handshake and the owner's scripts, each under a deadline; a login that cannot go better the next
 * time ends the link. */
#include "link/pg_link_internal.h"

#include "base/bug.h"
#include "base/mem.h"

#include <event2/event.h>
#include <stdlib.h>

#define CONNECT_MS 10000
#define STATEMENT_TIMEOUT "30s"

/* A login that will not go better the next time (class 28, no such database, no right to connect).
 */
static bool login_refused(const char *sqlstate)
{
    return pg_in_class(sqlstate, "28") || pg_in_class(sqlstate, "3D") ||
           strcmp(sqlstate, "42501") == 0;
}

/* ---- connecting --------------------------------------------- */

/* Whatever the database or the role has: statements that wait for a lock are to see what was committed meanwhile, so the isolation is
 * pinned. The `options` keyword of the URL goes behind ours, so that the URL wins. NULL: the URL cannot be
 * read. */
static char *session_options(const struct pg_link *link)
{
    PQconninfoOption *parsed = PQconninfoParse(link->url, NULL);
    if (!parsed)
        return NULL;
    const char *own = "";
    for (PQconninfoOption *o = parsed; o->keyword; o++) {
        if (strcmp(o->keyword, "options") == 0 && o->val)
            own = o->val;
    }
    char *text = mem_printf("-c statement_timeout=" STATEMENT_TIMEOUT
                            " -c idle_in_transaction_session_timeout=60s -c synchronous_commit=on"
                            " -c default_transaction_isolation=read\\ committed"
                            " -c jit=off -c search_path=pg_catalog %s %s",
                            link->session ? link->session : "", own);
    PQconninfoFree(parsed);
    return text;
}

static void no_notices(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

void pg_link_connect(struct pg_link *link)
{
    struct err err;
    pg_link_move(link, PG_CONNECTING);
    char *session = session_options(link);
    if (!session) {
        err_set(&err, ERR_CONFIG, "PostgreSQL: the URL cannot be read");
        pg_link_end(link, PG_REFUSED, &err);
        return;
    }
    /* What stands before dbname is a default, what stands behind it wins over the URL. */
    const char *const names[] = {
        "application_name", "keepalives",       "keepalives_idle", "keepalives_interval",
        "keepalives_count", "tcp_user_timeout", "gssencmode",      "target_session_attrs",
        "dbname",           "client_encoding",  "options",         NULL};
    const char *const values[] = {
        link->application_name, "1",       "10",   "5",     "3", "15000", "disable",
        "read-write",           link->url, "UTF8", session, NULL};
    link->conn = PQconnectStartParams(names, values, 1);
    free(session);
    if (!link->conn || PQstatus(link->conn) == CONNECTION_BAD) {
        pg_link_lost(link, NULL);
        return;
    }
    /* Only SQLSTATE in error texts, also in those of the login. */
    PQsetErrorVerbosity(link->conn, PQERRORS_SQLSTATE);
    PQsetNoticeReceiver(link->conn, no_notices, NULL);
    loop_timer_set(&link->timer, CONNECT_MS);
    pg_link_watch(link, EV_WRITE);
}

static void connect_failed(struct pg_link *link)
{
    char sqlstate[6] = "";
    struct err err;
    pg_find_sqlstate(PQerrorMessage(link->conn), sqlstate);
    if (PQconnectionNeedsPassword(link->conn)) {
        err_set(&err, ERR_AUTH, "PostgreSQL asks for a password");
    } else if (sqlstate[0] && login_refused(sqlstate)) {
        const char *what =
            pg_in_class(sqlstate, "3D") ? "the database does not exist" : "the login was refused";
        err_set(&err, ERR_AUTH, "PostgreSQL: %s (SQLSTATE %s)", what, sqlstate);
    } else {
        pg_link_lost(link, NULL);
        return;
    }
    pg_link_end(link, PG_REFUSED, &err);
}

/* Version and encoding, known without asking. */
static int check_server(const struct pg_link *link, struct err *err)
{
    int version = PQserverVersion(link->conn);
    if (version < 140000)
        return err_set(err, ERR_SCHEMA, "PostgreSQL %d is too old: 14 is needed", version / 10000);
    const char *encoding = PQparameterStatus(link->conn, "server_encoding");
    if (encoding && strcmp(encoding, "UTF8") != 0 && strcmp(encoding, "SQL_ASCII") != 0)
        return err_set(err, ERR_SCHEMA, "PostgreSQL: the database's encoding must be UTF8");
    return 0;
}

static void connected(struct pg_link *link)
{
    struct err err;
    if (check_server(link, &err)) {
        pg_link_end(link, PG_REFUSED, &err);
        return;
    }
    if (PQsetnonblocking(link->conn, 1)) {
        pg_link_lost(link, NULL);
        return;
    }
    pg_link_move(link, PG_SETTING_UP);
    loop_timer_set(&link->timer, CONNECT_MS);
    pg_link_watch(link, EV_READ);
    pg_link_enter(link);
    link->options.on_setup(link->options.arg);
    pg_link_leave(link);
}

void pg_link_connect_step(struct pg_link *link)
{
    pg_link_unwatch(link); /* the poll may close this socket and open another by the same number */
    switch (PQconnectPoll(link->conn)) {
    case PGRES_POLLING_READING:
        pg_link_watch(link, EV_READ);
        break;
    case PGRES_POLLING_WRITING:
    case PGRES_POLLING_ACTIVE:
        pg_link_watch(link, EV_WRITE);
        break;
    case PGRES_POLLING_OK:
        connected(link);
        break;
    case PGRES_POLLING_FAILED:
        connect_failed(link);
        break;
    }
}

/* ---- setting up: scripts ------------------------------------ */

void pg_link_script(struct pg_link *link, const char *sql, int64_t timeout_ms,
                    void (*done)(void *arg, const struct pg_answer *answer), void *arg)
{
    BUG_ON(link->state != PG_SETTING_UP || link->script.done);
    link->script.done = done;
    link->script.arg = arg;
    loop_timer_set(&link->timer, timeout_ms);
    if (!PQsendQuery(link->conn, sql))
        loop_timer_set(&link->timer, 0); /* the deadline ends it from the loop */
    else
        pg_link_watch(link, EV_READ | EV_WRITE);
}

void pg_link_script_step(struct pg_link *link)
{
    if (!PQconsumeInput(link->conn)) {
        pg_link_lost(link, NULL);
        return;
    }
    int flushed = PQflush(link->conn);
    if (flushed < 0) {
        pg_link_lost(link, NULL);
        return;
    }
    pg_link_watch(link, (short)(flushed ? EV_READ | EV_WRITE : EV_READ));
    while (link->script.done && !PQisBusy(link->conn)) {
        PGresult *result = PQgetResult(link->conn);
        if (result) {
            /* The last result counts, unless there was an error before. */
            if (link->answer && pg_is_error(link->answer)) {
                PQclear(result);
            } else {
                PQclear(link->answer);
                link->answer = result;
            }
            continue;
        }
        struct pg_answer answer;
        result = link->answer;
        link->answer = NULL;
        pg_read_answer(result, &answer);
        if (answer.err.code == ERR_OUTCOME_UNKNOWN) {
            PQclear(result);
            pg_link_lost(link, answer.err.text);
            return;
        }
        void (*done)(void *, const struct pg_answer *) = link->script.done;
        link->script.done = NULL;
        pg_link_enter(link);
        done(link->script.arg, &answer);
        PQclear(result);
        if (pg_link_leave(link) || link->state != PG_SETTING_UP)
            return;
    }
}

void pg_link_open(struct pg_link *link)
{
    BUG_ON(link->state != PG_SETTING_UP || link->script.done);
    if (!PQenterPipelineMode(link->conn)) {
        pg_link_lost(link, "pipeline mode refused");
        return;
    }
    pg_link_move(link, PG_UP);
    link->failures = 0;
    loop_timer_cancel(&link->timer);
    pg_link_watch(link, EV_READ);
    pg_link_enter(link);
    link->options.on_up(link->options.arg);
    pg_link_leave(link);
}

void pg_link_fail(struct pg_link *link, const struct err *err)
{
    if (link->state == PG_SETTING_UP)
        pg_link_end(link, PG_AWAY, err);
}

void pg_link_refuse(struct pg_link *link, const struct err *err)
{
    if (link->state == PG_SETTING_UP)
        pg_link_end(link, PG_REFUSED, err);
}
