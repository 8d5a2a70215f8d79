/* The fleet's production, and who runs by which version of it. Waits for the link of scans. */
#include "store/store_pg.h"

#define LOOK 5000 /* rows that one step of `older` looks at; in its SQL too */

/* clang-format off */
static const struct pg_statement publish_statement = {
    STATEMENT_PUBLISH, "SELECT version, hash, at, text FROM hie.publish($1::bytea, $2::bytea,"
                       " $3::text, $4::int8 <> 0)"};
static const struct pg_statement production_statement = {
    STATEMENT_PRODUCTION,
    "SELECT version, hash, at, CASE WHEN version <> $1::int8 THEN text END FROM hie.productions"
    " ORDER BY version DESC LIMIT 1"};
static const struct pg_statement production_of_statement = {
    STATEMENT_PRODUCTION_OF,
    "SELECT version, hash, at, text FROM hie.productions WHERE version = $1::int8"};
/* The statement does not see its own row. */
static const struct pg_statement attend_statement = {
    STATEMENT_ATTEND,
    "WITH a AS (INSERT INTO hie.members (id, kind, version, expires_at) VALUES ($1::text, $2::text,"
    " $3::int8, clock_timestamp() + $4::int8 * interval '1 millisecond') ON CONFLICT (id)"
    " DO UPDATE SET kind = excluded.kind, version = excluded.version,"
    " expires_at = excluded.expires_at RETURNING version)"
    " SELECT least((SELECT a.version FROM a WHERE $4::int8 > 0), (SELECT min(m.version)"
    " FROM hie.members m WHERE m.id <> $1::text AND m.expires_at > now()))"};
/* The line without an item stands for the page. */
static const struct pg_statement older_statement = {
    STATEMENT_OLDER,
    "SELECT count(*) FILTER (WHERE a.item = $2::text AND coalesce(a.version, 0) < $3::int8),"
    " max(p.looked_at), max(p.last_seq) FROM hie.open_page($1::int8, 5000) p"
    " LEFT JOIN LATERAL (SELECT b.item, b.version FROM hie.accepted b"
    " WHERE b.correlation_id = p.correlation_id LIMIT 1) a ON true"};
/* clang-format on */

struct fleet_op {
    struct store_op op;
    const char *name, *kind; /* copies */
    struct slice text, hash; /* borrowed */
    bool only_first;
    int64_t version, number; /* ttl_ms, after_seq */
    store_production_done *told;
    store_attended *attended;
    store_older_done *looked;
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

static void encode_publish(struct pg_request *request, struct pg_params *params)
{
    const struct fleet_op *op = (const struct fleet_op *)request;
    put_whole(params, op->text);
    put_whole(params, op->hash);
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_int8(params, op->only_first);
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

void store_pg_publish(struct store *store, struct slice text, struct slice hash, const char *by,
                      bool only_first, store_production_done *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, by, 0, arg);
    op->text = text;
    op->hash = hash;
    op->only_first = only_first;
    op->told = done;
    store_op_send(&op->op, LINK_SCANS, &publish_statement, encode_publish, on_told);
}

void store_pg_production(struct store *store, int64_t known, store_production_done *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, NULL, known, arg);
    op->told = done;
    store_op_send(&op->op, LINK_SCANS, &production_statement, encode_production, on_told);
}

void store_pg_production_of(struct store *store, int64_t version, store_production_done *done,
                            void *arg)
{
    struct fleet_op *op = new_fleet(store, NULL, version, arg);
    op->told = done;
    store_op_send(&op->op, LINK_SCANS, &production_of_statement, encode_production, on_told);
}

/* ---- who runs by it ---- */

static void encode_attend(struct pg_request *request, struct pg_params *params)
{
    const struct fleet_op *op = (const struct fleet_op *)request;
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_text(params, slice_text(op->kind), PG_TEXT_CHARS);
    pg_param_int8(params, op->version);
    pg_param_int8(params, op->number);
}

static void on_attended(struct pg_request *request, const struct pg_answer *answer)
{
    struct fleet_op *op = (struct fleet_op *)request;
    struct err err = store_err(answer);
    int64_t lowest = err.code == ERR_NONE ? pg_get_int(answer->result, 0, 0) : 0;
    store_op_detach(&op->op);
    op->attended(op->arg, &err, lowest);
    store_op_free(&op->op);
}

void store_pg_attend(struct store *store, const char *id, const char *kind, int64_t version,
                     int64_t ttl_ms, store_attended *done, void *arg)
{
    struct fleet_op *op = new_fleet(store, id, version, arg);
    op->kind = arena_strdup(&op->op.arena, slice_text(kind));
    op->number = ttl_ms;
    op->attended = done;
    store_op_send(&op->op, LINK_SCANS, &attend_statement, encode_attend, on_attended);
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
    bool any = err.code == ERR_NONE && pg_get_int(answer->result, 0, 0) > 0;
    if (err.code == ERR_NONE && !any && pg_get_int(answer->result, 0, 1) == LOOK) {
        op->number = pg_get_int(answer->result, 0, 2);
        store_op_send(&op->op, LINK_SCANS, &older_statement, encode_older, on_older);
        return;
    }
    store_op_detach(&op->op);
    op->looked(op->arg, &err, any);
    store_op_free(&op->op);
}

void store_pg_older(struct store *store, const char *item, int64_t version, store_older_done *done,
                    void *arg)
{
    struct fleet_op *op = new_fleet(store, item, version, arg);
    op->looked = done;
    store_op_send(&op->op, LINK_SCANS, &older_statement, encode_older, on_older);
}
