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
    " SELECT nextval('hie.accepted_seq'), " MESSAGE_COLUMNS " FROM ("
#define GIVEN_MESSAGES                                                                             \
    MESSAGE_UNNEST("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14",      \
                   "15", "16", "17")

static const struct pg_statement accept_statement = {
    STATEMENT_ACCEPT,
    INSERT_MESSAGES GIVEN_MESSAGES ") u WHERE " WITH_XID " RETURNING correlation_id, seq"};
/* A row that is there already draws a seq in vain: seq has gaps. */
static const struct pg_statement adopt_statement = {
    STATEMENT_ADOPT, INSERT_MESSAGES GIVEN_MESSAGES ") u WHERE " WITH_XID
                     " ON CONFLICT DO NOTHING RETURNING correlation_id, seq"};

/* Nearly every key is a new one, so the first try writes its rows without ON CONFLICT, which costs more; one that is there sends
 * the batch to the careful statement. For windows that do not reach past the first hour of a day: in that hour each key is written
 * for yesterday too, so that one who began before midnight is met, and today's rows go back to midnight after it. */
#define SHORT_WINDOW_MS 3600000
static const struct pg_statement accept_keyed_statement = {
    STATEMENT_ACCEPT_KEYED,
    "WITH s AS (INSERT INTO hie.dedup_keys (day, key, fingerprint, correlation_id, expires_at)"
    " SELECT y.day, u.key, u.fingerprint, u.id, now() + u.window_ms * interval '1 millisecond'"
    " FROM (SELECT unnest($18::uuid[]) AS id, unnest($19::uuid[]) AS key,"
    " unnest($20::uuid[]) AS fingerprint, unnest($21::int8[]) AS window_ms) u,"
    " (SELECT hie.dedup_first_day() AS day UNION SELECT hie.dedup_day()) y) "
    INSERT_MESSAGES GIVEN_MESSAGES ") u WHERE " WITH_XID " RETURNING correlation_id, seq"};

/* Today's row of a key tells whose it is: the first one's while it has not expired, else ours. It waits for whoever writes the
 * same one. d: what we would write, which is yesterday's row while that holds. p: in the first hour, yesterday's row first.
 * s: today's. Answers what was written, then the keys that others have. */
#define KEY_TAKEN                                                                                  \
    " ON CONFLICT (key, day) DO UPDATE SET"                                                        \
    " correlation_id = CASE WHEN k.expires_at <= now() THEN excluded.correlation_id"               \
    " ELSE k.correlation_id END,"                                                                  \
    " fingerprint = CASE WHEN k.expires_at <= now() THEN excluded.fingerprint"                     \
    " ELSE k.fingerprint END,"                                                                     \
    " expires_at = CASE WHEN k.expires_at <= now() THEN excluded.expires_at"                       \
    " ELSE k.expires_at END RETURNING k.key, k.fingerprint, k.correlation_id, k.expires_at"
#define INSERT_KEYS "INSERT INTO hie.dedup_keys AS k (day, key, fingerprint, correlation_id, expires_at)"
static const struct pg_statement accept_careful_statement = {
    STATEMENT_ACCEPT_CAREFUL,
    "WITH d AS MATERIALIZED (SELECT u.key, coalesce(y.fingerprint, u.fingerprint) AS fingerprint,"
    " coalesce(y.correlation_id, u.id) AS id,"
    " coalesce(y.expires_at, now() + u.window_ms * interval '1 millisecond') AS expires_at"
    " FROM (SELECT unnest($18::uuid[]) AS id, unnest($19::uuid[]) AS key,"
    " unnest($20::uuid[]) AS fingerprint, unnest($21::int8[]) AS window_ms) u LEFT JOIN LATERAL"
    " (SELECT x.fingerprint, x.correlation_id, x.expires_at FROM hie.dedup_keys x"
    " WHERE x.key = u.key AND x.day = hie.dedup_first_day() - 1 AND x.expires_at > now() LIMIT 1) y"
    " ON true),"
    " p AS (" INSERT_KEYS " SELECT (SELECT hie.dedup_first_day()), d.key, d.fingerprint, d.id,"
    " d.expires_at FROM d WHERE (SELECT hie.dedup_first_day() <> hie.dedup_day())" KEY_TAKEN "),"
    " s AS (" INSERT_KEYS " SELECT (SELECT hie.dedup_day()), w.* FROM (SELECT * FROM p UNION ALL"
    " SELECT d.key, d.fingerprint, d.id, d.expires_at FROM d"
    " WHERE (SELECT hie.dedup_first_day() = hie.dedup_day())) w" KEY_TAKEN "),"
    " m AS (" INSERT_MESSAGES GIVEN_MESSAGES ", unnest($22::bool[]) AS keyed) u"
    " WHERE (NOT u.keyed OR (u.correlation_id IN (SELECT s.correlation_id FROM s)) IS TRUE)"
    " AND " WITH_XID " RETURNING correlation_id, seq)"
    " SELECT correlation_id, seq, NULL::uuid, NULL::uuid FROM m UNION ALL"
    " SELECT s.correlation_id, NULL, s.key, s.fingerprint FROM s"
    " WHERE (s.correlation_id IN (SELECT unnest($18::uuid[]))) IS NOT TRUE"};

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
/* The leases that are still theirs, all locked before the first row that needs one is written: who takes one waits for our commit, and
 * whom we wait for has taken it. In one order, as hie.disown does. */
#define LEASES(tokens)                                                                             \
    "l AS MATERIALIZED (SELECT p.token FROM hie.partition_leases p WHERE p.token = ANY (" tokens   \
    ") ORDER BY p.item, p.pattern, p.partition FOR KEY SHARE), "
#define HOLDS " AND (u.token = 0 OR (u.token IN (SELECT l.token FROM l)) IS TRUE)"
#define END_VALUES                                                                                 \
    "id, run, attempt, status, pattern, item, worker, started_at, at, error, reply_content_type,"  \
    " reply"
#define ENDS(more_columns, more_values, more_arrays, condition, conflict)                          \
    "e AS (INSERT INTO hie.ended (correlation_id, run, attempt, status, pattern, item, worker,"    \
    " started_at, at, error, reply_content_type, reply" more_columns ") SELECT " END_VALUES        \
    more_values " FROM (SELECT"                                                                    \
    " unnest($3::uuid[]) AS id, unnest($4::int4[]) AS run, unnest($5::int4[]) AS attempt,"         \
    " unnest($6::int2[]) AS status, unnest($7::int2[]) AS pattern, unnest($8::text[]) AS item,"    \
    " unnest($9::text[]) AS worker, unnest($10::timestamptz[]) AS started_at,"                     \
    " unnest($11::timestamptz[]) AS at, unnest($12::text[]) AS error,"                             \
    " unnest($13::text[]) AS reply_content_type, unnest($14::bytea[]) AS reply" more_arrays        \
    ") u WHERE " NOT_OVERTAKEN condition conflict " RETURNING correlation_id" more_columns ")"
#define RETRIES(more_arrays, condition)                                                            \
    ", r AS (INSERT INTO hie.attempts (kind, correlation_id, run, attempt, worker, started_at,"    \
    " at, due_at, error) SELECT 0, id, run, attempt, worker, started_at, at, due_at, error"        \
    " FROM (SELECT unnest($15::uuid[]) AS id, unnest($16::int4[]) AS run,"                         \
    " unnest($17::int4[]) AS attempt, unnest($18::text[]) AS worker,"                              \
    " unnest($19::timestamptz[]) AS started_at, unnest($20::timestamptz[]) AS at,"                 \
    " unnest($21::timestamptz[]) AS due_at, unnest($22::text[]) AS error" more_arrays ") u"        \
    " WHERE " NOT_OVERTAKEN " AND " NOT_ENDED condition                                            \
    " ON CONFLICT DO NOTHING RETURNING correlation_id)"
/* IS TRUE keeps it a hashed sub-plan: a join would not keep their order. */
#define MESSAGES(more_arrays, condition, conflict)                                                 \
    ", c AS (" INSERT_MESSAGES                                                                     \
    MESSAGE_UNNEST("23", "24", "25", "26", "27", "28", "29", "30", "31", "32", "33", "34", "35",   \
                   "36", "37", "38", "39")                                                         \
    more_arrays ") u WHERE " condition " AND " WITH_XID conflict " RETURNING correlation_id, seq)"
#define ALL_RESULTS                                                                                \
    " SELECT 0, correlation_id, 0::bigint FROM e UNION ALL SELECT 1, correlation_id, 0 FROM r"     \
    " UNION ALL SELECT 2, correlation_id, seq FROM c"

/* Whatever there is. $40: whose message or child a message is; $41, $42: the leases of ends and retries; $43: what is forgotten. */
#define WHOLE(conflict)                                                                            \
    "WITH " LEASES("$41::int8[] || $42::int8[]")                                                   \
    ENDS(", forgotten", ", forgotten",                                                             \
         ", unnest($41::int8[]) AS token, unnest($43::bool[]) AS forgotten", HOLDS, conflict)      \
    RETRIES(", unnest($42::int8[]) AS token", HOLDS)                                               \
    MESSAGES(", unnest($40::uuid[]) AS owner",                                                     \
             "((u.owner IN (SELECT e.correlation_id FROM e)) IS TRUE"                              \
             " OR (u.correlation_id IN (SELECT r.correlation_id FROM r)) IS TRUE)", conflict)      \
    ", f AS (DELETE FROM hie.accepted a USING (SELECT e.correlation_id AS id FROM e"               \
    " WHERE e.forgotten) g WHERE a.correlation_id = g.id AND a.correlation_id BETWEEN $1 AND $2)"  \
    ALL_RESULTS

/* An end hardly ever meets one that is there, so the first try does without ON CONFLICT, which costs more; when one does,
 * the careful statement follows. */
static const struct pg_statement settle_statements[] = {
    [SETTLE_ENDS] = {STATEMENT_SETTLE_ENDS, "WITH " ENDS("", "", "", "", "")
                     " SELECT 0, correlation_id, 0::bigint FROM e"},
    [SETTLE_LEASED] = {STATEMENT_SETTLE_LEASED, "WITH " LEASES("$15::int8[]")
                       ENDS("", "", ", unnest($15::int8[]) AS token", HOLDS, "")
                       " SELECT 0, correlation_id, 0::bigint FROM e"},
    [SETTLE_REST] = {STATEMENT_SETTLE_REST, "WITH " ENDS("", "", "", "", "") RETRIES("", "")
                     MESSAGES("", "(u.parent_id IN (SELECT e.correlation_id FROM e)) IS TRUE", "")
                     ALL_RESULTS},
    [SETTLE_WHOLE] = {STATEMENT_SETTLE_WHOLE, WHOLE("")},
};
static const struct pg_statement settle_careful_statement = {
    STATEMENT_SETTLE_CAREFUL, WHOLE(" ON CONFLICT DO NOTHING")};
/* clang-format on */

struct write_op {
    struct store_op op;
    enum { WRITE_ACCEPT, WRITE_ADOPT, WRITE_SETTLE } kind;
    struct store_message *const *messages;
    struct store_outcome *const *outcomes;
    size_t *order; /* of the outcomes, or of the messages with a key, in the range at hand */
    size_t key_count;
    bool long_window; /* of a key in the range at hand */
    struct {
        size_t from, to;
    } ranges[SPLIT_DEPTH]; /* to be written, the next one last */
    unsigned range_count;
    unsigned repeats;        /* of the range at hand */
    bool careful;            /* the range at hand met an end or a key that is there */
    bool written;            /* something is committed */
    enum settle_shape shape; /* of the range at hand */
    store_done *done;
    void *arg;
};

static void encode(struct pg_request *request, struct pg_params *params)
{
    struct write_op *op = (struct write_op *)request;
    size_t from = op->ranges[op->range_count - 1].from;
    size_t count = op->ranges[op->range_count - 1].to - from;
    if (op->kind == WRITE_SETTLE) {
        store_put_outcomes(params, op->outcomes + from, op->order, count, op->shape);
        return;
    }
    store_put_messages(params, op->messages + from, count);
    if (op->key_count)
        store_put_keys(params, op->messages + from, count, op->order, op->key_count,
                       op->careful || op->long_window);
}

static const struct pg_statement *choose_statement(struct write_op *op)
{
    size_t from = op->ranges[op->range_count - 1].from;
    size_t count = op->ranges[op->range_count - 1].to - from;
    switch (op->kind) {
    case WRITE_ACCEPT:
        return op->key_count == 0               ? &accept_statement
               : op->careful || op->long_window ? &accept_careful_statement
                                                : &accept_keyed_statement;
    case WRITE_ADOPT:
        return &adopt_statement;
    case WRITE_SETTLE:
        break;
    }
    op->shape = op->careful ? SETTLE_WHOLE : store_settle_shape(op->outcomes + from, count);
    return op->careful ? &settle_careful_statement : &settle_statements[op->shape];
}

static void on_answer(struct pg_request *request, const struct pg_answer *answer);

static void split(struct write_op *op);

static void send_range(struct write_op *op)
{
    bool twins = false;
    if (op->kind == WRITE_ACCEPT) {
        size_t from = op->ranges[op->range_count - 1].from, to = op->ranges[op->range_count - 1].to;
        op->key_count = store_sort_keys(op->messages + from, to - from, op->order, &twins);
        op->long_window = false;
        for (size_t i = 0; i < op->key_count; i++)
            op->long_window |= op->messages[from + op->order[i]]->dedup_window_ms > SHORT_WINDOW_MS;
    }
    if (twins) { /* one statement cannot write a key twice */
        split(op);
        return;
    }
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

/* A line for a key that another message has: its id, the key, that one's fingerprint. */
static void note_repeat(struct write_op *op, const struct pg_result *result, size_t line)
{
    size_t from = op->ranges[op->range_count - 1].from, low = 0, high = op->key_count;
    struct uuid key = pg_get_uuid(result, line, 2);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct store_message *row = op->messages[from + op->order[middle]];
        int order = memcmp(key.bytes, row->dedup_key.bytes, sizeof(key.bytes));
        if (order == 0) {
            row->repeats = pg_get_uuid(result, line, 0);
            row->repeats_otherwise =
                !uuid_equal(pg_get_uuid(result, line, 3), row->dedup_fingerprint);
            return;
        }
        low = order > 0 ? middle + 1 : low;
        high = order > 0 ? high : middle;
    }
    BUG_ON(true);
}

/* The answer's rows are a part of ours in the same order, then come the repeats. */
static void note_messages(struct write_op *op, const struct pg_result *result)
{
    size_t at = op->ranges[op->range_count - 1].from, to = op->ranges[op->range_count - 1].to;
    for (size_t r = 0; r < pg_result_rows(result); r++) {
        if (op->key_count && pg_result_is_null(result, r, 1)) {
            note_repeat(op, result, r);
            continue;
        }
        struct uuid id = pg_get_uuid(result, r, 0);
        while (at < to && !uuid_equal(op->messages[at]->id, id))
            at++;
        BUG_ON(at == to);
        op->messages[at++]->seq = pg_get_int(result, r, 1);
    }
}

static void note_child(struct outcome_messages *walk, struct uuid id, int64_t seq)
{
    const struct store_outcome *owner;
    struct store_message *child;
    const struct store_message *message;
    do {
        message = store_next_message(walk, &owner, &child);
    } while (message && !uuid_equal(message->id, id));
    BUG_ON(!message);
    if (child)
        child->seq = seq;
}

/* The answer: ends, retries, messages, each in the order in which they were put. */
static void note_outcomes(struct write_op *op, const struct pg_result *result)
{
    size_t from = op->ranges[op->range_count - 1].from;
    size_t count = op->ranges[op->range_count - 1].to - from;
    struct store_outcome *const *rows = op->outcomes + from;
    struct outcome_messages walk = {.rows = rows, .count = count};
    size_t at[2] = {0, 0};
    for (size_t r = 0; r < pg_result_rows(result); r++) {
        int64_t kind = pg_get_int(result, r, 0);
        struct uuid id = pg_get_uuid(result, r, 1);
        if (kind == 2) {
            note_child(&walk, id, pg_get_int(result, r, 2));
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

/* Another statement would go on where this one met what is there already. */
static bool may_be_careful(const struct write_op *op)
{
    return !op->careful && (op->kind == WRITE_SETTLE || (op->key_count && !op->long_window));
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
        if (may_be_careful(op) && strcmp(answer->sqlstate, "23505") == 0) {
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
    op->order = arena_alloc(&op->op.arena, (count ? count : 1) * sizeof(*op->order));
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
        rows[i]->repeats = UUID_NONE;
        rows[i]->repeats_otherwise = false;
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
