/* Dead letters: the list, the next run, off the list. Waits for the link of scans. */
#include "base/bug.h"
#include "store/store_pg.h"

/* clang-format off */
/* $1 item, $2 after which one (NULL: from the newest on), $3 how many. */
static const struct pg_statement dead_letters_statement = {
    STATEMENT_DEAD_LETTERS,
    "SELECT o.correlation_id, o.run, e.attempt, hie.pattern_word(o.pattern), e.error, a.control_id,"
    " a.message_type, o.at, coalesce(a.received_at, hie.id_time(o.correlation_id))"
    " FROM (SELECT x.* FROM hie.open_dead_letters x"
    " WHERE x.item = $1::text AND (x.at, x.correlation_id) <"
    " (CASE WHEN $2::uuid IS NULL THEN 'infinity' ELSE"
    " coalesce((SELECT w.at FROM hie.open_dead_letters w"
    " WHERE w.item = $1::text AND w.correlation_id = $2::uuid),"
    " (SELECT b.at FROM hie.ended b"
    " WHERE b.correlation_id = $2::uuid AND b.status = 1 ORDER BY b.run DESC LIMIT 1)) END,"
    " coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
    " ORDER BY x.at DESC, x.correlation_id DESC LIMIT $3::int8) o"
    " LEFT JOIN LATERAL (SELECT * FROM hie.ended z WHERE z.correlation_id = o.correlation_id"
    " AND z.run = o.run LIMIT 1) e ON true"
    " LEFT JOIN LATERAL (SELECT * FROM hie.accepted y WHERE y.correlation_id = o.correlation_id"
    " LIMIT 1) a ON true ORDER BY o.at DESC, o.correlation_id DESC"};
static const struct pg_statement redrive_statement = {
    STATEMENT_REDRIVE,
    "SELECT correlation_id, done FROM hie.redrive($1::text, $2::uuid[], $3, $4::int8)"};
static const struct pg_statement dismiss_statement = {
    STATEMENT_DISMISS,
    "SELECT correlation_id, done FROM hie.dismiss($1::text, $2::uuid[], $3, $4::int8)"};
/* clang-format on */

struct dead_op {
    struct store_op op;
    const char *item; /* a copy */
    struct uuid before, after;
    const struct uuid *ids; /* NULL: the first behind `after` */
    size_t count;
    store_dead_letters_done *listed;
    store_handled_done *handled;
    void *arg;
};

static struct dead_op *new_dead(struct store *store, const char *item, size_t count, void *arg)
{
    struct dead_op *op = store_op_new(store, sizeof(*op));
    op->item = arena_strdup(&op->op.arena, slice_text(item));
    op->count = count;
    op->arg = arg;
    return op;
}

static void encode_list(struct pg_request *request, struct pg_params *params)
{
    const struct dead_op *op = (const struct dead_op *)request;
    pg_param_text(params, slice_text(op->item), PG_TEXT_CHARS);
    if (uuid_is_none(op->before))
        pg_param_null(params);
    else
        pg_param_uuid(params, op->before);
    pg_param_int8(params, (int64_t)op->count);
}

static void on_listed(struct pg_request *request, const struct pg_answer *answer)
{
    struct dead_op *op = (struct dead_op *)request;
    struct err err = store_err(answer);
    const struct pg_result *result = answer->result;
    size_t count = err.code == ERR_NONE ? pg_result_rows(result) : 0;
    struct store_dead_letter *rows = arena_alloc(&op->op.arena, (count + 1) * sizeof(*rows));
    for (size_t i = 0; i < count; i++) {
        rows[i].id = pg_get_uuid(result, i, 0);
        rows[i].run = (int)pg_get_int(result, i, 1);
        rows[i].attempts = (int)pg_get_int(result, i, 2);
        rows[i].pattern = pg_get_text(result, i, 3);
        rows[i].reason = pg_get_text(result, i, 4);
        rows[i].control_id = pg_get_text(result, i, 5);
        rows[i].message_type = pg_get_text(result, i, 6);
        rows[i].at_us = pg_get_time(result, i, 7);
        rows[i].received_us = pg_get_time(result, i, 8);
    }
    store_op_detach(&op->op);
    op->listed(op->arg, &err, rows, count);
    store_op_free(&op->op);
}

void store_pg_dead_letters(struct store *store, const char *item, struct uuid before, size_t limit,
                           store_dead_letters_done *done, void *arg)
{
    BUG_ON(limit > STORE_BATCH_MAX);
    struct dead_op *op = new_dead(store, item, limit, arg);
    op->before = before;
    op->listed = done;
    store_op_send(&op->op, LINK_SCANS, &dead_letters_statement, encode_list, on_listed);
}

static void encode_change(struct pg_request *request, struct pg_params *params)
{
    const struct dead_op *op = (const struct dead_op *)request;
    pg_param_text(params, slice_text(op->item), PG_TEXT_CHARS);
    if (op->ids)
        pg_param_uuids(params, op->ids, op->count);
    else
        pg_param_null(params);
    pg_param_uuid(params, op->after);
    pg_param_int8(params, (int64_t)op->count);
}

static void on_changed(struct pg_request *request, const struct pg_answer *answer)
{
    struct dead_op *op = (struct dead_op *)request;
    struct err err = store_err(answer);
    size_t count = err.code == ERR_NONE ? pg_result_rows(answer->result) : 0;
    struct uuid *ids = arena_alloc(&op->op.arena, (count + 1) * sizeof(*ids));
    struct store_handled handled = {.ids = ids, .next = UUID_NONE};
    for (size_t i = 0; i < count; i++) {
        struct uuid id = pg_get_uuid(answer->result, i, 0);
        if (pg_get_bool(answer->result, i, 1))
            ids[handled.count++] = id;
        else
            handled.left++;
        if (!op->ids && i + 1 == op->count)
            handled.next = id;
    }
    store_op_detach(&op->op);
    op->handled(op->arg, &err, &handled);
    store_op_free(&op->op);
}

static void change(struct store *store, const struct pg_statement *statement, const char *item,
                   const struct uuid *ids, size_t count, struct uuid after,
                   store_handled_done *done, void *arg)
{
    BUG_ON(count > STORE_BATCH_MAX);
    struct dead_op *op = new_dead(store, item, count, arg);
    op->ids = ids;
    op->after = after;
    op->handled = done;
    store_op_send(&op->op, LINK_SCANS, statement, encode_change, on_changed);
}

void store_pg_redrive(struct store *store, const char *item, const struct uuid *ids, size_t count,
                      struct uuid after, store_handled_done *done, void *arg)
{
    change(store, &redrive_statement, item, ids, count, after, done, arg);
}

void store_pg_dismiss(struct store *store, const char *item, const struct uuid *ids, size_t count,
                      struct uuid after, store_handled_done *done, void *arg)
{
    change(store, &dismiss_statement, item, ids, count, after, done, arg);
}
