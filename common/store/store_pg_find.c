/* One message by its id: its state, its body, its reply. Waits for the look-up link; index probes alone. */
#include "store/store_pg.h"

#include <string.h>

#define CHILDREN_TOLD_MAX 1000

/* clang-format off */
/* Of one that was forgotten there is the end alone. */
static const struct pg_statement find_statement = {
    STATEMENT_FIND,
    "SELECT a.parent_id, coalesce(a.item, e.item), hie.pattern_word(coalesce(a.pattern, e.pattern)),"
    " hie.direction_word(a.direction), coalesce(hie.status_word(e.status),"
    " CASE WHEN f.attempt IS NOT NULL THEN 'retrying' ELSE 'accepted' END),"
    " coalesce(e.attempt, t.attempt, 0), CASE WHEN e.status IS NULL THEN f.error ELSE e.error END,"
    " a.received_at, e.at, a.control_id, a.message_type, a.sender,"
    " ARRAY(SELECT c.correlation_id FROM hie.accepted c WHERE c.correlation_id BETWEEN $2 AND $3"
    " AND c.parent_id = $1 ORDER BY c.seq LIMIT 1000),"
    " coalesce(a.pattern, e.pattern), coalesce(a.partition, -1::int2)"
    " FROM (SELECT " STORE_RUN_OF("$1") " AS run OFFSET 0) r"
    " LEFT JOIN LATERAL (SELECT * FROM hie.accepted x WHERE x.correlation_id = $1 LIMIT 1) a ON true"
    " LEFT JOIN LATERAL (SELECT x.status, x.attempt, x.error, x.at, x.item, x.pattern FROM hie.ended x"
    " WHERE x.correlation_id = $1 AND x.run = r.run LIMIT 1) e ON true"
    " LEFT JOIN LATERAL (SELECT x.attempt FROM hie.attempts x"
    " WHERE x.correlation_id = $1 AND x.run = r.run ORDER BY x.attempt DESC LIMIT 1) t ON true"
    " LEFT JOIN LATERAL (SELECT x.attempt, x.error FROM hie.attempts x"
    " WHERE x.correlation_id = $1 AND x.run = r.run AND x.kind = 0 ORDER BY x.attempt DESC LIMIT 1) f"
    " ON true WHERE a.item IS NOT NULL OR e.item IS NOT NULL"};
static const struct pg_statement body_statement = {
    STATEMENT_BODY, "SELECT body, content_type FROM hie.accepted WHERE correlation_id = $1"};
static const struct pg_statement reply_statement = {
    STATEMENT_REPLY, "SELECT reply, reply_content_type FROM hie.ended WHERE correlation_id = $1"
                     " AND run = " STORE_RUN_OF("$1") " AND reply IS NOT NULL"};
/* clang-format on */

struct find_op {
    struct store_op op;
    struct uuid id;
    store_found *found;
    store_body_done *body_done;
    void *arg;
};

static const char *text_or_null(const struct pg_result *result, unsigned column)
{
    return pg_result_is_null(result, 0, column) ? NULL : pg_get_text(result, 0, column);
}

static void encode_find(struct pg_request *request, struct pg_params *params)
{
    const struct find_op *op = (const struct find_op *)request;
    struct id_range range = id_range_same_time(op->id);
    pg_param_uuid(params, op->id);
    pg_param_uuid(params, range.low);
    pg_param_uuid(params, range.high);
}

static void on_found(struct pg_request *request, const struct pg_answer *answer)
{
    struct find_op *op = (struct find_op *)request;
    const struct pg_result *result = answer->result;
    struct err err = store_err(answer);
    struct store_record record = {.id = op->id};
    bool known = err.code == ERR_NONE && pg_result_rows(result) == 1;
    if (known) {
        record.parent = pg_get_uuid(result, 0, 0);
        record.item = pg_get_text(result, 0, 1);
        record.pattern = pg_get_text(result, 0, 2);
        record.direction = pg_get_text(result, 0, 3);
        record.queue_pattern = (enum messaging_pattern)pg_get_int(result, 0, 13);
        record.partition = (int)pg_get_int(result, 0, 14);
        record.state = pg_get_text(result, 0, 4);
        record.attempts = (int)pg_get_int(result, 0, 5);
        record.error = text_or_null(result, 6);
        record.forgotten = pg_result_is_null(result, 0, 7);
        record.received_us =
            record.forgotten ? uuid_wall_ms(op->id) * 1000 : pg_get_time(result, 0, 7);
        record.finished_us = pg_get_time(result, 0, 8);
        record.control_id = pg_get_text(result, 0, 9);
        record.message_type = pg_get_text(result, 0, 10);
        record.sender = pg_get_text(result, 0, 11);
        struct uuid *children = arena_alloc(&op->op.arena, CHILDREN_TOLD_MAX * sizeof(*children));
        record.child_count = pg_get_uuids(result, 0, 12, children, CHILDREN_TOLD_MAX);
        record.children = children;
    }
    store_op_detach(&op->op);
    op->found(op->arg, &err, known ? &record : NULL);
    store_op_free(&op->op);
}

void store_pg_find(struct store *store, struct uuid id, store_found *done, void *arg)
{
    struct find_op *op = store_op_new(store, sizeof(*op));
    op->id = id;
    op->found = done;
    op->arg = arg;
    store_op_send(&op->op, LINK_LOOKUPS, &find_statement, encode_find, on_found);
}

static void encode_id(struct pg_request *request, struct pg_params *params)
{
    pg_param_uuid(params, ((const struct find_op *)request)->id);
}

static void on_body(struct pg_request *request, const struct pg_answer *answer)
{
    struct find_op *op = (struct find_op *)request;
    struct err err = store_err(answer);
    struct slice body = slice_of(NULL, 0), type = slice_of(NULL, 0);
    bool found = err.code == ERR_NONE && pg_result_rows(answer->result) == 1;
    if (found) {
        body = pg_get_bytes(answer->result, 0, 0);
        type = pg_get_bytes(answer->result, 0, 1);
    }
    store_op_detach(&op->op);
    op->body_done(op->arg, &err, body_of(body.ptr, body.len), type, found);
    store_op_free(&op->op);
}

static void ask_body(struct store *store, const struct pg_statement *statement, struct uuid id,
                     store_body_done *done, void *arg)
{
    struct find_op *op = store_op_new(store, sizeof(*op));
    op->id = id;
    op->body_done = done;
    op->arg = arg;
    store_op_send(&op->op, LINK_LOOKUPS, statement, encode_id, on_body);
}

void store_pg_body(struct store *store, struct uuid id, store_body_done *done, void *arg)
{
    ask_body(store, &body_statement, id, done, arg);
}

void store_pg_reply(struct store *store, struct uuid id, store_body_done *done, void *arg)
{
    ask_body(store, &reply_statement, id, done, arg);
}
