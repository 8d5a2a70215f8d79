/* Owns one PGconn and its events. Waits for the socket and one timer, whose meaning is the state's:
 * backoff (away), deadline (connecting, setting up), watchdog (up). Fails by going away and coming
 * back; a refused login or schema ends it. */
#include "link/pg_link_internal.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/uuid.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 3000
#define ANSWER_MS 35000 /* above the server's own statement_timeout */
#define IN_FLIGHT_MAX 16
#define SCRATCH_KEEP (4u << 20) /* the parameter buffer keeps no more memory than this */

static const struct state_table states = {
    .machine = "pg_link",
    .words = (const char *const[]){"away", "connecting", "setting_up", "up", "refused"},
    .moves =
        (const uint32_t[]){
            [PG_AWAY] = STATE_BIT(PG_CONNECTING) | STATE_BIT(PG_REFUSED),
            [PG_CONNECTING] = STATE_BIT(PG_AWAY) | STATE_BIT(PG_SETTING_UP) | STATE_BIT(PG_REFUSED),
            [PG_SETTING_UP] = STATE_BIT(PG_AWAY) | STATE_BIT(PG_UP) | STATE_BIT(PG_REFUSED),
            [PG_UP] = STATE_BIT(PG_AWAY),
            [PG_REFUSED] = 0,
        },
    .count = PG_STATES,
};

static void pump(struct pg_link *link);
static void drain(struct pg_link *link);
static void on_socket(evutil_socket_t fd, short what, void *arg);

void pg_link_move(struct pg_link *link, unsigned to)
{
    state_move(&states, &link->state, to);
}

/* The first line of libpq's own text about a connection: host and system error, nothing of a
 * statement. */
static void connection_error(struct err *err, const PGconn *conn)
{
    const char *text = conn ? PQerrorMessage(conn) : "out of memory";
    int len = (int)strcspn(text, "\n");
    if (len == 0)
        err_set(err, ERR_UNAVAILABLE, "PostgreSQL: connection lost");
    else
        err_set(err, ERR_UNAVAILABLE, "PostgreSQL: %.*s", len > 180 ? 180 : len, text);
}

/* ---- the connection's end ----------------------------------- */

static void free_link(struct pg_link *link)
{
    free(link->url);
    free(link->application_name);
    free(link->session);
    free(link);
}

void pg_link_enter(struct pg_link *link)
{
    link->depth++;
}

/* True when a callback freed the link: nothing of it may be touched any more. */
bool pg_link_leave(struct pg_link *link)
{
    if (--link->depth > 0)
        return link->freed;
    if (!link->freed)
        return false;
    free_link(link);
    return true;
}

void pg_link_unwatch(struct pg_link *link)
{
    if (link->socket)
        event_free(link->socket);
    link->socket = NULL;
}

void pg_link_watch(struct pg_link *link, short what)
{
    int fd = PQsocket(link->conn);
    if (link->socket && link->fd == fd && link->watch == what)
        return;
    pg_link_unwatch(link);
    link->fd = fd;
    link->watch = what;
    if (fd < 0)
        return; /* the deadline ends this */
    link->socket =
        event_new(loop_base(link->loop), fd, (short)(what | EV_PERSIST), on_socket, link);
    BUG_ON(!link->socket);
    event_add(link->socket, NULL);
}

static void close_connection(struct pg_link *link)
{
    pg_link_unwatch(link);
    PQclear(link->answer);
    link->answer = NULL;
    PQfinish(link->conn);
    link->conn = NULL;
    link->prepared = 0;
    loop_timer_cancel(&link->timer);
}

static void move_all(struct request_list *from, struct request_list *to)
{
    TAILQ_CONCAT(to, from, entry);
}

static void complete_all(struct pg_link *link, struct request_list *list, const struct err *err)
{
    struct pg_answer answer = {.err = *err};
    while (!TAILQ_EMPTY(list)) {
        struct pg_request *request = TAILQ_FIRST(list);
        TAILQ_REMOVE(list, request, entry);
        link->pending_count--;
        if (!link->freed)
            request->done(request, &answer);
    }
}

static int64_t backoff_ms(unsigned failures)
{
    int64_t most = BACKOFF_MIN_MS;
    for (unsigned i = 1; i < failures && most < BACKOFF_MAX_MS; i++)
        most *= 2;
    if (most > BACKOFF_MAX_MS)
        most = BACKOFF_MAX_MS;
    return most / 2 + (int64_t)random_below((uint64_t)most / 2 + 1);
}

/* Ends the connection; `to` is away or refused. Everybody who waits is told, our own state first.
 */
void pg_link_end(struct pg_link *link, unsigned to, const struct err *err)
{
    struct request_list sent = TAILQ_HEAD_INITIALIZER(sent),
                        unsent = TAILQ_HEAD_INITIALIZER(unsent);
    move_all(&link->in_flight, &sent);
    move_all(&link->waiting, &unsent);
    link->in_flight_count = 0;
    void (*script_done)(void *, const struct pg_answer *) = link->script.done;
    void *script_arg = link->script.arg;
    link->script.done = NULL;
    close_connection(link);
    pg_link_move(link, to);
    if (to == PG_AWAY) {
        link->failures++;
        loop_timer_set(&link->timer, backoff_ms(link->failures));
    }

    struct err told = *err, unknown = *err, unsent_err = *err;
    unknown.code = ERR_OUTCOME_UNKNOWN;
    unsent_err.code = ERR_UNAVAILABLE;
    pg_link_enter(link);
    complete_all(link, &sent, &unknown);
    complete_all(link, &unsent, &unsent_err);
    if (script_done && !link->freed)
        script_done(script_arg, &(struct pg_answer){.err = unknown});
    if (!link->freed) {
        if (to == PG_REFUSED)
            link->options.on_fatal(link->options.arg, &told);
        else
            link->options.on_down(link->options.arg, &told);
    }
    pg_link_leave(link);
}

void pg_link_lost(struct pg_link *link, const char *why)
{
    struct err err;
    if (why)
        err_set(&err, ERR_UNAVAILABLE, "PostgreSQL: %s", why);
    else
        connection_error(&err, link->conn);
    pg_link_end(link, PG_AWAY, &err);
}

/* ---- up: requests ------------------------------------------- */

void pg_link_send(struct pg_link *link, struct pg_request *request)
{
    request->too_large = request->preparing = false;
    link->pending_count++;
    if (link->state == PG_UP)
        TAILQ_INSERT_TAIL(&link->waiting, request, entry);
    else
        TAILQ_INSERT_TAIL(&link->turned_away, request, entry);
    loop_task_set(&link->task);
}

static bool send_request(struct pg_link *link, struct pg_request *request)
{
    const struct pg_statement *statement = request->statement;
    const struct pg_params *params = &link->params;
    const char *values[PG_PARAMS_MAX];
    int formats[PG_PARAMS_MAX];
    char name[16];
    BUG_ON(statement->id >= PG_STATEMENTS_MAX);
    snprintf(name, sizeof(name), "s%u", statement->id);
    for (unsigned i = 0; i < params->count; i++) {
        const char *base = params->bytes.data ? params->bytes.data : "";
        values[i] = params->list[i].len < 0 ? NULL : base + params->list[i].start;
        formats[i] = 1;
    }
    int lens[PG_PARAMS_MAX];
    for (unsigned i = 0; i < params->count; i++)
        lens[i] = params->list[i].len;
    uint64_t bit = (uint64_t)1 << statement->id;
    if (!(link->prepared & bit)) {
        if (!PQsendPrepare(link->conn, name, statement->sql, 0, NULL))
            return false;
        link->prepared |= bit;
        request->preparing = true;
    }
    return PQsendQueryPrepared(link->conn, name, (int)params->count, values, lens, formats, 1) &&
           PQpipelineSync(link->conn);
}

static void arm_watchdog(struct pg_link *link)
{
    const struct pg_request *head = TAILQ_FIRST(&link->in_flight);
    if (head)
        loop_timer_set(&link->timer, head->sent_ms + ANSWER_MS - clock_mono_ms());
    else
        loop_timer_cancel(&link->timer);
}

/* Tells those that cannot be sent at all. False when a callback freed the link. */
static bool turn_away(struct pg_link *link)
{
    struct request_list list = TAILQ_HEAD_INITIALIZER(list);
    struct err err;
    move_all(&link->turned_away, &list);
    err_set(&err, ERR_UNAVAILABLE, "PostgreSQL is away");
    pg_link_enter(link);
    while (!TAILQ_EMPTY(&list)) {
        struct pg_request *request = TAILQ_FIRST(&list);
        struct pg_answer answer = {.err = err};
        TAILQ_REMOVE(&list, request, entry);
        link->pending_count--;
        if (request->too_large)
            err_set(&answer.err, ERR_TOO_LARGE, "PostgreSQL: the request is too large");
        if (!link->freed)
            request->done(request, &answer);
    }
    return !pg_link_leave(link);
}

static void encode(struct pg_link *link, struct pg_request *request)
{
    struct pg_params *params = &link->params;
    buffer_clear(&params->bytes);
    params->count = 0;
    params->failed = false;
    request->encode(request, params);
}

static void pump(struct pg_link *link)
{
    while (link->state == PG_UP && link->in_flight_count < IN_FLIGHT_MAX &&
           !TAILQ_EMPTY(&link->waiting)) {
        struct pg_request *request = TAILQ_FIRST(&link->waiting);
        TAILQ_REMOVE(&link->waiting, request, entry);
        encode(link, request);
        if (link->params.failed) {
            request->too_large = true;
            TAILQ_INSERT_TAIL(&link->turned_away, request, entry);
            loop_task_set(&link->task);
            continue;
        }
        request->sent_ms = clock_mono_ms();
        TAILQ_INSERT_TAIL(&link->in_flight, request, entry);
        link->in_flight_count++;
        bool sent = send_request(link, request);
        if (link->params.bytes.capacity > SCRATCH_KEEP)
            buffer_done(&link->params.bytes);
        if (!sent) {
            pg_link_lost(link, NULL);
            return;
        }
    }
    if (link->state != PG_UP)
        return;
    int flushed = PQflush(link->conn);
    if (flushed < 0) {
        pg_link_lost(link, NULL);
        return;
    }
    pg_link_watch(link, (short)(flushed ? EV_READ | EV_WRITE : EV_READ));
    arm_watchdog(link);
}

static void on_task(void *arg)
{
    struct pg_link *link = arg;
    pg_link_enter(link);
    bool there = turn_away(link);
    if (there)
        pump(link);
    /* A flush may have read answers that no further byte will announce. */
    if (there && !link->freed && link->state == PG_UP)
        drain(link);
    pg_link_leave(link);
}

/* An error that says this connection is of no use any more, though it stands: it came to a standby,
 * its prepared statements are gone or out of date. */
static bool connection_useless(const char *sqlstate)
{
    return strcmp(sqlstate, "25006") == 0 || strcmp(sqlstate, "26000") == 0 ||
           strcmp(sqlstate, "0A000") == 0;
}

/* The head request's sync came: it is over. */
static void complete_head(struct pg_link *link)
{
    struct pg_request *head = TAILQ_FIRST(&link->in_flight);
    PGresult *result = link->answer;
    struct pg_answer answer;
    BUG_ON(!head);
    link->answer = NULL;
    TAILQ_REMOVE(&link->in_flight, head, entry);
    link->in_flight_count--;
    link->pending_count--;
    pg_read_answer(result, &answer);
    if (answer.err.code == ERR_SCHEMA && connection_useless(answer.sqlstate))
        answer.err.code = ERR_UNAVAILABLE; /* the next connection prepares anew */
    if (head->preparing)                   /* it never got past that */
        link->prepared &= ~((uint64_t)1 << head->statement->id);
    bool useless = connection_useless(answer.sqlstate);
    head->done(head, &answer);
    PQclear(result);
    if (!link->freed && link->state == PG_UP && useless)
        pg_link_lost(link, "the connection is of no use any more");
}

/* Takes what has arrived. A request's results: the preparing's, the statement's, each ended by
 * NULL, then the sync. */
static void drain(struct pg_link *link)
{
    unsigned nulls = 0;
    pg_link_enter(link);
    while (!link->freed && link->state == PG_UP && link->in_flight_count && nulls < 2 &&
           !PQisBusy(link->conn)) {
        PGresult *result = PQgetResult(link->conn);
        if (!result) {
            nulls++;
            continue;
        }
        nulls = 0;
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            complete_head(link);
        } else if (link->answer && pg_is_error(link->answer)) {
            PQclear(result); /* what follows an error is its echo */
        } else {
            if (!pg_is_error(result))
                TAILQ_FIRST(&link->in_flight)->preparing = false;
            PQclear(link->answer);
            link->answer = result;
        }
    }
    if (!link->freed && link->state == PG_UP && PQstatus(link->conn) == CONNECTION_BAD)
        pg_link_lost(link, NULL);
    pg_link_leave(link);
}

static void go_on_with_requests(struct pg_link *link)
{
    bool alive = PQconsumeInput(link->conn);
    pg_link_enter(link);
    drain(link); /* also what came before the end */
    if (!link->freed && link->state == PG_UP) {
        if (alive)
            pump(link);
        else
            pg_link_lost(link, NULL);
    }
    pg_link_leave(link);
}

/* ---- events ------------------------------------------------- */

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct pg_link *link = arg;
    (void)fd;
    (void)what;
    switch (link->state) {
    case PG_CONNECTING:
        pg_link_connect_step(link);
        break;
    case PG_SETTING_UP:
        pg_link_script_step(link);
        break;
    case PG_UP:
        go_on_with_requests(link);
        break;
    case PG_AWAY:
    case PG_REFUSED:
        BUG_ON(true);
    }
}

static void on_timer(void *arg)
{
    struct pg_link *link = arg;
    switch (link->state) {
    case PG_AWAY:
        pg_link_connect(link);
        break;
    case PG_CONNECTING:
        pg_link_lost(link, "connecting took too long");
        break;
    case PG_SETTING_UP:
        pg_link_lost(link, PQstatus(link->conn) == CONNECTION_BAD ? "connection lost"
                                                                  : "setting up took too long");
        break;
    case PG_UP:
        pg_link_lost(link, "no answer in time");
        break;
    case PG_REFUSED:
        break;
    }
}

struct pg_link *pg_link_new(struct loop *loop, const struct pg_link_options *options)
{
    struct pg_link *link = mem_alloc(sizeof(*link));
    link->loop = loop;
    link->options = *options;
    link->url = mem_strdup(options->url);
    link->application_name = mem_strdup(options->application_name);
    link->session = mem_strdup(options->session);
    link->state = PG_AWAY;
    link->fd = -1;
    TAILQ_INIT(&link->waiting);
    TAILQ_INIT(&link->in_flight);
    TAILQ_INIT(&link->turned_away);
    buffer_init(&link->params.bytes, PG_PARAMS_BYTES);
    loop_timer_init(&link->timer, loop, on_timer, link);
    loop_task_init(&link->task, loop, on_task, link);
    loop_timer_set(&link->timer, 0);
    return link;
}

struct pg_link *pg_link_free(struct pg_link *link)
{
    if (!link)
        return NULL;
    close_connection(link);
    loop_timer_done(&link->timer);
    loop_task_done(&link->task);
    buffer_done(&link->params.bytes);
    link->freed = true;
    if (link->depth == 0)
        free_link(link);
    return NULL;
}

bool pg_link_is_up(const struct pg_link *link)
{
    return link->state == PG_UP;
}

unsigned pg_link_pending(const struct pg_link *link)
{
    return link->pending_count;
}
