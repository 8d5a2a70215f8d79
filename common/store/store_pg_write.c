/* Accept, adopt and settle: batches written by one statement each. Waits for the commit link. A batch refused for its data is
 * split in halves until the culprit alone is refused; the halves go one after the other, so that seq keeps the order of the
 * rows. A failure after a part was committed is told as an outcome unknown.
 *
 *   range ──written──▶ next range … done          range ──refused for data──▶ two halves (one row: its error)
 *     └──deadlock, end met twice──▶ once more       └──away──▶ done with the error */
#include "base/bug.h"
#include "base/mem.h"
#include "store/store_pg.h"

#include <string.h>

#define SPLIT_DEPTH 24 /* halving STORE_BATCH_MAX rows leaves fewer ranges open */
#define REPEATS_MAX 2

/* clang-format off */
/* A writer gets its transaction id before it draws a seq: hie.raise_low_mark relies on it. */
#define WITH_XID "(SELECT pg_current_xact_id()) IS NOT NULL"
#define INSERT_MESSAGES                                                                            \
    "INSERT INTO hie.accepted (seq, " MESSAGE_COLUMNS ")"                                          \
    " SELECT nextval('hie.accepted_seq'), u.* FROM ("                                              \
    MESSAGE_UNNEST("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14",      \
                   "15") ") u WHERE " WITH_XID

static const struct pg_statement accept_statement = {
    STATEMENT_ACCEPT, INSERT_MESSAGES " RETURNING correlation_id, seq"};
/* A row that is there already draws a seq in vain: seq has gaps. */
static const struct pg_statement adopt_statement = {
    STATEMENT_ADOPT, INSERT_MESSAGES " ON CONFLICT DO NOTHING RETURNING correlation_id, seq"};

/* No attempt with this number or a later one has ended in another way. Most batches have no attempt between their lowest and
 * highest id: asked once, that spares the probes of the single rows. */
#define NOT_OVERTAKEN                                                                              \
    "CASE WHEN (SELECT true FROM hie.attempts t WHERE t.correlation_id BETWEEN $1 AND $2 LIMIT 1)" \
    " THEN (SELECT true FROM hie.attempts t WHERE t.correlation_id = u.id AND t.run = u.run"       \
    " AND t.attempt >= u.attempt AND t.correlation_id BETWEEN $1 AND $2 LIMIT 1) IS NULL"          \
    " ELSE true END"
#define NOT_ENDED                                                                                  \
    "(SELECT true FROM hie.ended e WHERE e.correlation_id = u.id AND e.run = u.run"                \
    " AND e.correlation_id BETWEEN $1 AND $2) IS NULL"
#define ENDS(conflict)                                                                             \
    "WITH e AS (INSERT INTO hie.ended (correlation_id, run, attempt, status, pattern, item,"       \
    " worker, started_at, at, error, reply_content_type, reply) SELECT u.* FROM (SELECT"           \
    " unnest($3::uuid[]) AS id, unnest($4::int4[]) AS run, unnest($5::int4[]) AS attempt,"         \
    " unnest($6::int2[]), unnest($7::int2[]), unnest($8::text[]), unnest($9::text[]),"             \
    " unnest($10::timestamptz[]), unnest($11::timestamptz[]), unnest($12::text[]),"                \
    " unnest($13::text[]), unnest($14::bytea[])) u WHERE " NOT_OVERTAKEN conflict                  \
    " RETURNING correlation_id)"
#define RETRIES                                                                                    \
    ", r AS (INSERT INTO hie.attempts (kind, correlation_id, run, attempt, worker, started_at,"    \
    " at, due_at, error) SELECT 0, u.* FROM (SELECT"                                               \
    " unnest($15::uuid[]) AS id, unnest($16::int4[]) AS run, unnest($17::int4[]) AS attempt,"      \
    " unnest($18::text[]), unnest($19::timestamptz[]), unnest($20::timestamptz[]),"                \
    " unnest($21::timestamptz[]), unnest($22::text[])) u"                                          \
    " WHERE " NOT_OVERTAKEN " AND " NOT_ENDED " ON CONFLICT DO NOTHING RETURNING correlation_id)"
/* IS TRUE keeps it a hashed sub-plan: a join would not keep the children's order. */
#define CHILDREN(conflict)                                                                         \
    ", c AS (INSERT INTO hie.accepted (seq, " MESSAGE_COLUMNS ")"                                  \
    " SELECT nextval('hie.accepted_seq'), u.* FROM ("                                              \
    MESSAGE_UNNEST("23", "24", "25", "26", "27", "28", "29", "30", "31", "32", "33", "34", "35",   \
                   "36", "37")                                                                     \
    ") u WHERE (u.parent_id IN (SELECT e.correlation_id FROM e)) IS TRUE AND " WITH_XID conflict   \
    " RETURNING correlation_id, seq)"
#define ALL_RESULTS                                                                                \
    " SELECT 0, correlation_id, 0::bigint FROM e UNION ALL SELECT 1, correlation_id, 0 FROM r"     \
    " UNION ALL SELECT 2, correlation_id, seq FROM c"

/* An end hardly ever meets one that is there, so the first try does without ON CONFLICT, which costs more; when one does,
 * the careful statement follows. */
static const struct pg_statement settle_ends_statement = {
    STATEMENT_SETTLE_ENDS, ENDS("") " SELECT 0, correlation_id, 0::bigint FROM e"};
static const struct pg_statement settle_statement = {
    STATEMENT_SETTLE, ENDS("") RETRIES CHILDREN("") ALL_RESULTS};
static const struct pg_statement settle_careful_statement = {
    STATEMENT_SETTLE_CAREFUL,
    ENDS(" ON CONFLICT DO NOTHING") RETRIES CHILDREN(" ON CONFLICT DO NOTHING") ALL_RESULTS};
/* clang-format on */

struct write_op {
    struct store_op op;
    enum { WRITE_ACCEPT, WRITE_ADOPT, WRITE_SETTLE } kind;
    struct store_message *const *messages;
    struct store_outcome *const *outcomes;
    size_t *order; /* of the outcomes in the range at hand */
    struct {
        size_t from, to;
    } ranges[SPLIT_DEPTH]; /* to be written, the next one last */
    unsigned range_count;
    unsigned repeats; /* of the range at hand */
    bool careful;     /* the range at hand met an end that is there */
    bool with_rest;   /* it has retries or children */
    bool written;     /* something is committed */
    store_done *done;
    void *arg;
};

static void encode(struct pg_request *request, struct pg_params *params)
{
    struct write_op *op = (struct write_op *)request;
    size_t from = op->ranges[op->range_count - 1].from;
    size_t count = op->ranges[op->range_count - 1].to - from;
    if (op->kind == WRITE_SETTLE)
        store_put_outcomes(params, op->outcomes + from, op->order, count, op->with_rest);
    else
        store_put_messages(params, op->messages + from, count);
}

static bool has_rest(struct store_outcome *const *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (rows[i]->end == STORE_RETRY || rows[i]->child_count)
            return true;
    }
    return false;
}

static const struct pg_statement *choose_statement(struct write_op *op)
{
    if (op->kind == WRITE_ACCEPT)
        return &accept_statement;
    if (op->kind == WRITE_ADOPT)
        return &adopt_statement;
    size_t from = op->ranges[op->range_count - 1].from, to = op->ranges[op->range_count - 1].to;
    op->with_rest = op->careful || has_rest(op->outcomes + from, to - from);
    return op->careful     ? &settle_careful_statement
           : op->with_rest ? &settle_statement
                           : &settle_ends_statement;
}

static void on_answer(struct pg_request *request, const struct pg_answer *answer);

static void send_range(struct write_op *op)
{
    store_op_send(&op->op, LINK_COMMITS, choose_statement(op), encode, on_answer);
}

static void finish(struct write_op *op, const struct err *err)
{
    store_done *done = op->done;
    void *arg = op->arg;
    struct err told = *err;
    if (told.code != ERR_NONE && op->written)
        told.code = ERR_OUTCOME_UNKNOWN;
    store_op_free(&op->op);
    done(arg, &told);
}

static void next_range(struct write_op *op)
{
    op->range_count--;
    op->repeats = 0;
    op->careful = false;
    if (op->range_count)
        send_range(op);
    else
        finish(op, &(struct err){.code = ERR_NONE});
}

/* The answer's rows are a part of ours in the same order. */
static void note_messages(struct write_op *op, const struct pg_result *result)
{
    size_t at = op->ranges[op->range_count - 1].from, to = op->ranges[op->range_count - 1].to;
    size_t written = pg_result_rows(result);
    for (size_t r = 0; r < written; r++) {
        struct uuid id = pg_get_uuid(result, r, 0);
        while (at < to && !uuid_equal(op->messages[at]->id, id))
            at++;
        BUG_ON(at == to);
        op->messages[at++]->seq = pg_get_int(result, r, 1);
    }
}

/* The children of the range at hand, one after the other; NULL past the last. */
struct child_cursor {
    struct store_outcome *const *rows;
    size_t count, row, child;
};

static struct store_message *next_child(struct child_cursor *cursor)
{
    while (cursor->row < cursor->count && cursor->child == cursor->rows[cursor->row]->child_count) {
        cursor->row++;
        cursor->child = 0;
    }
    if (cursor->row == cursor->count)
        return NULL;
    return &cursor->rows[cursor->row]->children[cursor->child++];
}

static void note_child(struct child_cursor *cursor, struct uuid id, int64_t seq)
{
    struct store_message *child = next_child(cursor);
    while (child && !uuid_equal(child->id, id))
        child = next_child(cursor);
    BUG_ON(!child);
    child->seq = seq;
}

/* The answer: ends, retries, children, each in the order in which they were put. */
static void note_outcomes(struct write_op *op, const struct pg_result *result)
{
    size_t from = op->ranges[op->range_count - 1].from;
    size_t count = op->ranges[op->range_count - 1].to - from;
    struct store_outcome *const *rows = op->outcomes + from;
    struct child_cursor children = {.rows = rows, .count = count};
    size_t at[2] = {0, 0};
    for (size_t r = 0; r < pg_result_rows(result); r++) {
        int64_t kind = pg_get_int(result, r, 0);
        struct uuid id = pg_get_uuid(result, r, 1);
        if (kind == 2) {
            note_child(&children, id, pg_get_int(result, r, 2));
            continue;
        }
        while (at[kind] < count && (!uuid_equal(rows[op->order[at[kind]]]->id, id) ||
                                    (rows[op->order[at[kind]]]->end == STORE_RETRY) != (kind == 1)))
            at[kind]++;
        BUG_ON(at[kind] == count);
        rows[op->order[at[kind]++]]->recorded = true;
    }
}

static void refuse_row(struct write_op *op, size_t index)
{
    if (op->kind == WRITE_SETTLE)
        op->outcomes[index]->error_code = ERR_INVALID;
    else
        op->messages[index]->error = ERR_INVALID;
}

static void split(struct write_op *op)
{
    size_t from = op->ranges[op->range_count - 1].from, to = op->ranges[op->range_count - 1].to;
    if (to - from <= 1) {
        if (from < to)
            refuse_row(op, from);
        next_range(op);
        return;
    }
    size_t middle = from + (to - from) / 2;
    BUG_ON(op->range_count == SPLIT_DEPTH);
    op->ranges[op->range_count - 1].from = middle;
    op->ranges[op->range_count].from = from;
    op->ranges[op->range_count].to = middle;
    op->range_count++;
    op->repeats = 0;
    op->careful = false;
    send_range(op);
}

/* Lost against another transaction, and rolled back: worth another try at once. */
static bool lost_race(const char *sqlstate)
{
    return strcmp(sqlstate, "40P01") == 0 || strcmp(sqlstate, "40001") == 0;
}

static void on_answer(struct pg_request *request, const struct pg_answer *answer)
{
    struct write_op *op = (struct write_op *)request;
    switch (answer->err.code) {
    case ERR_NONE:
        op->written = true;
        if (op->kind == WRITE_SETTLE)
            note_outcomes(op, answer->result);
        else
            note_messages(op, answer->result);
        next_range(op);
        return;
    case ERR_INVALID:
    case ERR_TOO_LARGE:
        if (op->kind == WRITE_SETTLE && !op->careful && strcmp(answer->sqlstate, "23505") == 0) {
            op->careful = true;
            send_range(op);
        } else {
            split(op);
        }
        return;
    default:
        if (lost_race(answer->sqlstate) && op->repeats < REPEATS_MAX) {
            op->repeats++;
            send_range(op);
        } else {
            struct err err = store_err(answer);
            finish(op, &err);
        }
    }
}

static struct write_op *new_write(struct store *store, size_t count, store_done *done, void *arg)
{
    BUG_ON(count > STORE_BATCH_MAX);
    struct write_op *op = store_op_new(store, sizeof(*op));
    op->ranges[0].to = count;
    op->range_count = 1;
    op->done = done;
    op->arg = arg;
    return op;
}

static void write_messages(struct store *store, int kind, struct store_message *const *rows,
                           size_t count, store_done *done, void *arg)
{
    struct write_op *op = new_write(store, count, done, arg);
    op->kind = kind == WRITE_ACCEPT ? WRITE_ACCEPT : WRITE_ADOPT;
    op->messages = rows;
    for (size_t i = 0; i < count; i++) {
        rows[i]->seq = 0;
        rows[i]->error = ERR_NONE;
    }
    send_range(op);
}

void store_pg_accept(struct store *store, struct store_message *const *rows, size_t count,
                     store_done *done, void *arg)
{
    write_messages(store, WRITE_ACCEPT, rows, count, done, arg);
}

void store_pg_adopt(struct store *store, struct store_message *const *rows, size_t count,
                    store_done *done, void *arg)
{
    write_messages(store, WRITE_ADOPT, rows, count, done, arg);
}

void store_pg_settle(struct store *store, struct store_outcome *const *rows, size_t count,
                     store_done *done, void *arg)
{
    struct write_op *op = new_write(store, count, done, arg);
    op->kind = WRITE_SETTLE;
    op->outcomes = rows;
    op->order = arena_alloc(&op->op.arena, (count ? count : 1) * sizeof(*op->order));
    for (size_t i = 0; i < count; i++) {
        rows[i]->recorded = false;
        rows[i]->error_code = ERR_NONE;
        for (size_t j = 0; j < rows[i]->child_count; j++) {
            rows[i]->children[j].seq = 0;
            rows[i]->children[j].error = ERR_NONE;
        }
    }
    send_range(op);
}
