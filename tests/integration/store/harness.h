/* What the store's integration tests share: one server for the program, a store on a fresh database for each test, and waiting for
 * completions by running the loop, 30 s at most. */
#ifndef HIE_TESTS_STORE_HARNESS_H
#define HIE_TESTS_STORE_HARNESS_H

#include "base/clock.h"
#include "base/mem.h"
#include "pg_server.h"
#include "store/store.h"

#include <check.h>

static struct pg_server server;

struct fixture {
    struct loop *loop;
    struct store *store;
    const char *database;
    char url[200];
    int ups, downs, fatals;
    struct err down, fatal;
};

/* ---- waiting ---- */

struct wait {
    struct loop *loop;
    bool over;
};

static inline void on_wait_over(void *arg)
{
    struct wait *wait = arg;
    wait->over = true;
    loop_stop(wait->loop);
}

/* Runs the loop until *flag rises above `above`; fails after 30 s. */
static inline void run_until(struct loop *loop, const int *flag, int above)
{
    struct wait wait = {.loop = loop};
    struct loop_timer deadline, tick;
    loop_timer_init(&deadline, loop, on_wait_over, &wait);
    loop_timer_set(&deadline, 30000);
    while (*flag <= above && !wait.over) {
        struct wait short_wait = {.loop = loop};
        loop_timer_init(&tick, loop, on_wait_over, &short_wait);
        loop_timer_set_us(&tick, 500);
        loop_run(loop);
        loop_timer_done(&tick);
    }
    loop_timer_done(&deadline);
    ck_assert_msg(*flag > above, "nothing happened in 30 s");
}

static inline void run_for_ms(struct loop *loop, int64_t ms)
{
    struct wait wait = {.loop = loop};
    struct loop_timer timer;
    loop_timer_init(&timer, loop, on_wait_over, &wait);
    loop_timer_set(&timer, ms);
    while (!wait.over)
        loop_run(loop);
    loop_timer_done(&timer);
}

/* ---- stores ---- */

static inline void on_up(void *arg)
{
    ((struct fixture *)arg)->ups++;
}

static inline void on_down(void *arg, const struct err *err)
{
    struct fixture *f = arg;
    f->downs++;
    f->down = *err;
}

static inline void on_fatal(void *arg, const struct err *err)
{
    struct fixture *f = arg;
    f->fatals++;
    f->fatal = *err;
}

static inline void open_on(struct fixture *f, struct loop *loop, const char *url)
{
    memset(f, 0, sizeof(*f));
    f->loop = loop;
    snprintf(f->url, sizeof(f->url), "%s", url);
    f->store = store_pg_new(f->loop, &(struct store_pg_options){.url = f->url,
                                                                .application_name = "hie-test",
                                                                .on_up = on_up,
                                                                .on_down = on_down,
                                                                .on_fatal = on_fatal,
                                                                .arg = f});
}

static inline void open_url(struct fixture *f, const char *url)
{
    open_on(f, loop_new(), url);
}

static inline void open_database(struct fixture *f, const char *database)
{
    open_url(f, pg_server_url(&server, database));
    f->database = database;
    run_until(f->loop, &f->ups, 0);
    ck_assert_int_eq(f->fatals, 0);
}

static inline void open_store(struct fixture *f)
{
    open_database(f, pg_server_database(&server));
}

/* Another store on the same loop and database; closed before the first one. */
static inline void open_beside(struct fixture *f, const struct fixture *first)
{
    open_on(f, first->loop, first->url);
    f->database = first->database;
    run_until(f->loop, &f->ups, 0);
}

static inline void close_beside(struct fixture *f)
{
    f->store->ops->free(f->store);
}

static inline void close_store(struct fixture *f)
{
    f->store->ops->free(f->store);
    loop_free(f->loop);
}

/* ---- calls that wait ---- */

struct answer {
    int calls;
    struct err err;
    int64_t number;
};

static inline void on_done(void *arg, const struct err *err)
{
    struct answer *answer = arg;
    answer->calls++;
    answer->err = *err;
}

static inline void on_number(void *arg, const struct err *err, int64_t number)
{
    struct answer *answer = arg;
    answer->calls++;
    answer->err = *err;
    answer->number = number;
}

#define CALL(f, answer, op, ...)                                                                   \
    do {                                                                                           \
        (f)->store->ops->op((f)->store, __VA_ARGS__, &(answer));                                   \
        ck_assert_int_eq((answer).calls, 0);                                                       \
        run_until((f)->loop, &(answer).calls, 0);                                                  \
    } while (0)

static inline enum error_code try_accept(struct fixture *f, struct store_message *const *rows,
                                         size_t count)
{
    struct answer answer = {0};
    CALL(f, answer, accept, rows, count, on_done);
    return answer.err.code;
}

static inline enum error_code try_adopt(struct fixture *f, struct store_message *const *rows,
                                        size_t count)
{
    struct answer answer = {0};
    CALL(f, answer, adopt, rows, count, on_done);
    return answer.err.code;
}

static inline enum error_code try_settle(struct fixture *f, struct store_outcome *const *rows,
                                         size_t count)
{
    struct answer answer = {0};
    CALL(f, answer, settle, rows, count, on_done);
    return answer.err.code;
}

static inline enum error_code try_claim(struct fixture *f, struct store_claim *rows, size_t count)
{
    struct answer answer = {0};
    CALL(f, answer, claim, "worker", rows, count, on_done);
    return answer.err.code;
}

static inline void accept_ok(struct fixture *f, struct store_message *const *rows, size_t count)
{
    ck_assert_int_eq(try_accept(f, rows, count), ERR_NONE);
}

static inline void settle_ok(struct fixture *f, struct store_outcome *const *rows, size_t count)
{
    ck_assert_int_eq(try_settle(f, rows, count), ERR_NONE);
}

static inline void claim_ok(struct fixture *f, struct store_claim *rows, size_t count)
{
    ck_assert_int_eq(try_claim(f, rows, count), ERR_NONE);
}

static inline int64_t mark_ok(struct fixture *f, int64_t token, int64_t low)
{
    struct answer answer = {0};
    CALL(f, answer, low_mark, token, low, on_number);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.number;
}

static inline int64_t lease_ok(struct fixture *f, const char *name, const char *holder,
                               int64_t ttl_ms)
{
    struct answer answer = {0};
    CALL(f, answer, lease, name, holder, ttl_ms, on_number);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.number;
}

struct flags {
    int calls;
    struct err err;
    size_t count;
    bool list[STORE_BATCH_MAX];
};

static inline void on_flags(void *arg, const struct err *err, const bool *flags)
{
    struct flags *answer = arg;
    answer->calls++;
    answer->err = *err;
    memcpy(answer->list, flags, answer->count * sizeof(*flags));
}

static inline bool is_known(struct fixture *f, struct uuid id)
{
    struct flags answer = {.count = 1};
    CALL(f, answer, known, &id, 1, on_flags);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.list[0];
}

static inline bool is_ended(struct fixture *f, struct uuid id)
{
    struct flags answer = {.count = 1};
    CALL(f, answer, ended, &id, 1, on_flags);
    ck_assert_int_eq(answer.err.code, ERR_NONE);
    return answer.list[0];
}

/* ---- rows ---- */

static inline struct store_message new_message(const char *item)
{
    return (struct store_message){
        .id = uuid_new(clock_wall_ms()),
        .item = item,
        .pattern = PATTERN_ASYNC_RELIABLE,
        .direction = DIRECTION_INBOUND,
        .received_us = clock_wall_us(),
        .partition = -1,
        .control_id = SLICE_LITERAL("MSG1"),
        .content_type = SLICE_LITERAL("text/plain"),
        .body = body_of("MSH|^~\\&|", 9),
    };
}

static inline struct store_outcome end_of(const struct store_message *message, enum store_end end,
                                          int attempt)
{
    return (struct store_outcome){
        .id = message->id,
        .run = 1,
        .attempt = attempt,
        .end = end,
        .item = message->item,
        .pattern = message->pattern,
        .worker = "worker",
        .started_us = clock_wall_us(),
        .finished_us = clock_wall_us(),
        .due_ms = end == STORE_RETRY ? clock_wall_ms() + 5000 : 0,
        .error = end == STORE_COMPLETED ? NULL : "the receiver said no",
        .reply = SLICE_LITERAL("MSA|AA"),
        .reply_content_type = SLICE_LITERAL("text/plain"),
    };
}

/* Accepts one message; settles one outcome and says whether it was recorded. */
static inline struct store_message accepted_message(struct fixture *f, const char *item)
{
    struct store_message message = new_message(item);
    struct store_message *row = &message;
    accept_ok(f, &row, 1);
    ck_assert_int_gt(message.seq, 0);
    return message;
}

static inline bool settle_one(struct fixture *f, struct store_outcome *outcome)
{
    settle_ok(f, &outcome, 1);
    return outcome->recorded;
}

static inline struct store_claim claim_one(struct fixture *f, struct uuid id, bool taken_over)
{
    struct store_claim claim = {.id = id, .taken_over = taken_over};
    claim_ok(f, &claim, 1);
    return claim;
}

/* ---- a connection beside the store's ---- */

static inline PGconn *connect_raw(const char *database)
{
    PGconn *conn = PQconnectdb(pg_server_url(&server, database));
    ck_assert_int_eq(PQstatus(conn), CONNECTION_OK);
    return conn;
}

static inline void run_raw(PGconn *conn, const char *format, ...)
{
    char sql[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(sql, sizeof(sql), format, args);
    va_end(args);
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    ck_assert_msg(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK, "%s: %s", sql,
                  PQerrorMessage(conn));
    PQclear(result);
}

/* Whether the server has written this in its log. */
static inline bool log_has(const char *text)
{
    char path[96], line[2048];
    bool found = false;
    snprintf(path, sizeof(path), "%s/log", server.dir);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    while (!found && fgets(line, sizeof(line), file))
        found = strstr(line, text) != NULL;
    fclose(file);
    return found;
}

static inline const char *id_text(struct uuid id)
{
    static char texts[4][UUID_TEXT_LEN + 1];
    static unsigned next;
    char *text = texts[next++ % 4];
    uuid_format(id, text);
    return text;
}

/* Runs the suite against one server; never forks, since the server is this process's child. */
static inline int run_suite(Suite *suite)
{
    signal(SIGPIPE, SIG_IGN);
    pg_server_start(&server);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    int run = srunner_ntests_run(runner);
    srunner_free(runner);
    pg_server_stop(&server);
    return failed || run == 0;
}

#endif
