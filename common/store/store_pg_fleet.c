/* The fleet's production, and who runs by which version of it. Waits for the link of scans. */
#include "store/store_pg.h"

#define LOOK 5000 /* rows that one step of `older` looks at; in its SQL too */

/* clang-format off */
static const struct pg_statement publish_statement = {
    STATEMENT_PUBLISH, "SELECT version, hash, at, text FROM hie.publish($1::bytea, $2::bytea,"
                       " $3::text, $4::int8, $5::text[])"};
static const struct pg_statement production_of_statement = {
    STATEMENT_PRODUCTION_OF,
    "SELECT version, hash, at, text FROM hie.productions WHERE version = $1::int8"};
static const struct pg_statement attend_statement = {
    STATEMENT_ATTEND, "SELECT item, version, last_version, closed, step, all_applied"
                      " FROM hie.attend($1::text, $2::text, $3::int8, $4::int8, $5::int8)"};
static const struct pg_statement close_queue_statement = {
    STATEMENT_CLOSE_QUEUE, "SELECT hie.close_queue($1::text, $2::int8)"};
/* The line without an item stands for the page. A delayed message, or one that waits for a retry, keeps nobody waiting; of a fifo queue it
 * has its place. */
static const struct pg_statement older_statement = {
    STATEMENT_OLDER,
    "SELECT min(p.seq) FILTER (WHERE a.item = $2::text AND coalesce(a.version, 0) < $3::int8"
    " AND (a.partition IS NOT NULL OR coalesce(coalesce((SELECT t.due_at FROM hie.attempts t"
    " WHERE t.correlation_id = p.correlation_id AND t.run = p.run ORDER BY t.attempt DESC LIMIT 1),"
    " a.due_at) < now() + interval '5 seconds', true))),"
    " max(p.looked_at), max(p.last_seq) FROM hie.open_page($1::int8, 5000) p"
    " LEFT JOIN LATERAL (SELECT b.item, b.version, b.partition, b.due_at FROM hie.accepted b"
    " WHERE b.correlation_id = p.correlation_id LIMIT 1) a ON true"};
/* clang-format on */

struct fleet_op {
    struct store_op op;
    const char *name, *kind;                     /* copies */
    const struct store_publication *publication; /* borrowed */
    int64_t version, number;                     /* ttl_ms, after_seq */
    int64_t step;
    store_production_done *told;
    store_attended *attended;
    store_older_done *looked;
    store_done *closed;
    void *arg;
};

static struct fleet_op *new_fleet(struct store *store, const char *name, int64_t version, void *arg)
{
    struct fleet_op *op = store_op_new(store, sizeof(*op));
    op->name = arena_strdup(&op->op.arena, slice_text(name));
    op->version = version;
    op->arg = arg;
    return op;
}

/* ---- the production ---- */

static void put_whole(struct pg_params *params, struct slice bytes)
{
    pg_param_begin(params);
    pg_param_put(params, bytes.ptr, bytes.len);
    pg_param_end(params);
}

static void put_list(struct pg_params *params, struct slice list)
{
    size_t count = list.len > 0;
    for (size_t i = 0; i < list.len; i++)
        count += list.ptr[i] == ',';
    pg_array_begin(params, PG_TEXT, count);
    for (size_t i = 0; i < count; i++) {
        const char *comma = memchr(list.ptr, ',', list.len);
        size_t len = comma ? (size_t)(comma - list.ptr) : list.len;
        pg_put_text(params, slice_of(list.ptr, len), PG_TEXT_CHARS);
        len += comma != NULL;
        list = slice_of(list.ptr + len, list.len - len);
    }
    pg_param_end(params);
}

static void encode_publish(struct pg_request *request, struct pg_params *params)
{
    const struct store_publication *publication = ((const struct fleet_op *)request)->publication;
    put_whole(params, publication->text);
    put_whole(params, publication->hash);
    pg_param_text(params, slice_text(publication->by), PG_TEXT_CHARS);
    pg_param_int8(params, publication->base);
    put_list(params, publication->changed);
}

static void encode_production(struct pg_request *request, struct pg_params *params)
{
    pg_param_int8(params, ((const struct fleet_op *)request)->version);
}

static void on_told(struct pg_request *request, const struct pg_answer *answer)
{
    struct fleet_op *op = (struct fleet_op *)request;
    struct err err = store_err(answer);
    struct store_production production = {.version = 0};
    if (err.code == ERR_NONE && pg_result_rows(answer->result)) {
        production.version = pg_get_int(answer->result, 0, 0);
        production.hash = pg_get_bytes(answer->result, 0, 1);
        production.at_us = pg_get_time(answer->result, 0, 2);
        production.text = pg_get_bytes(answer->result, 0, 3);
    }
    store_op_detach(&op->op);
    op->told(op->arg, &err, &production);
    store_op_free(&op->op);
}

void store_pg_publish(struct store *store, const struct store_publication *publication,
                      store_production_done *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, NULL, 0, arg);
    op->publication = publication;
    op->told = done;
    store_op_send(&op->op, LINK_SCANS, &publish_statement, encode_publish, on_told);
}

void store_pg_production_of(struct store *store, int64_t version, store_production_done *done,
                            void *arg)
{
    struct fleet_op *op = new_fleet(store, NULL, version, arg);
    op->told = done;
    store_op_send(&op->op, LINK_SCANS, &production_of_statement, encode_production, on_told);
}

/* ---- who runs by it, and whose queues change ---- */

static void encode_attend(struct pg_request *request, struct pg_params *params)
{
    const struct fleet_op *op = (const struct fleet_op *)request;
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_text(params, slice_text(op->kind), PG_TEXT_CHARS);
    pg_param_int8(params, op->version);
    pg_param_int8(params, op->step);
    pg_param_int8(params, op->number);
}

static void read_change(const struct pg_result *result, size_t row, struct store_change *ret)
{
    ret->item = pg_get_text(result, row, 0);
    ret->version = pg_get_int(result, row, 1);
    ret->last_version = pg_get_int(result, row, 2);
    ret->closed = pg_get_bool(result, row, 3);
    ret->step = pg_get_int(result, row, 4);
}

static void on_attended(struct pg_request *request, const struct pg_answer *answer)
{
    struct fleet_op *op = (struct fleet_op *)request;
    struct err err = store_err(answer);
    struct store_standing standing = {.count = 0};
    if (err.code == ERR_NONE) {
        standing.version = pg_get_int(answer->result, 0, 1);
        standing.step = pg_get_int(answer->result, 0, 4);
        standing.all_applied = pg_get_int(answer->result, 0, 5);
        standing.count = pg_result_rows(answer->result) - 1; /* behind the fleet's own line */
        struct store_change *changes =
            arena_alloc(&op->op.arena, (standing.count + 1) * sizeof(*changes));
        for (size_t i = 0; i < standing.count; i++)
            read_change(answer->result, i + 1, &changes[i]);
        standing.changes = changes;
    }
    store_op_detach(&op->op);
    op->attended(op->arg, &err, &standing);
    store_op_free(&op->op);
}

void store_pg_attend(struct store *store, const char *id, const char *kind, int64_t version,
                     int64_t step, int64_t ttl_ms, store_attended *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, id, version, arg);
    op->kind = arena_strdup(&op->op.arena, slice_text(kind));
    op->step = step;
    op->number = ttl_ms;
    op->attended = done;
    store_op_send(&op->op, LINK_SCANS, &attend_statement, encode_attend, on_attended);
}

static void encode_close(struct pg_request *request, struct pg_params *params)
{
    const struct fleet_op *op = (const struct fleet_op *)request;
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_int8(params, op->version);
}

static void on_closed(struct pg_request *request, const struct pg_answer *answer)
{
    struct fleet_op *op = (struct fleet_op *)request;
    struct err err = store_err(answer);
    store_op_detach(&op->op);
    op->closed(op->arg, &err);
    store_op_free(&op->op);
}

void store_pg_close_queue(struct store *store, const char *item, int64_t below, store_done *done,
                          void *arg)
{
    struct fleet_op *op = new_fleet(store, item, below, arg);
    op->closed = done;
    store_op_send(&op->op, LINK_SCANS, &close_queue_statement, encode_close, on_closed);
}

static void encode_older(struct pg_request *request, struct pg_params *params)
{
    const struct fleet_op *op = (const struct fleet_op *)request;
    pg_param_int8(params, op->number);
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_int8(params, op->version);
}

/* Page by page until one is found. */
static void on_older(struct pg_request *request, const struct pg_answer *answer)
{
    struct fleet_op *op = (struct fleet_op *)request;
    struct err err = store_err(answer);
    int64_t seq = err.code == ERR_NONE ? pg_get_int(answer->result, 0, 0) : 0;
    if (err.code == ERR_NONE && !seq && pg_get_int(answer->result, 0, 1) == LOOK) {
        op->number = pg_get_int(answer->result, 0, 2);
        store_op_send(&op->op, LINK_SCANS, &older_statement, encode_older, on_older);
        return;
    }
    store_op_detach(&op->op);
    op->looked(op->arg, &err, seq);
    store_op_free(&op->op);
}

void store_pg_older(struct store *store, const char *item, int64_t version, int64_t after_seq,
                    store_older_done *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, item, version, arg);
    op->number = after_seq;
    op->looked = done;
    store_op_send(&op->op, LINK_SCANS, &older_statement, encode_older, on_older);
}
