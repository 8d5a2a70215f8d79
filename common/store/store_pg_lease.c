/* Leases by the database's clock, the low mark, and what is seen to by the hour: tables of the days to come and gone. Waits for
 * the link of scans. */
#include "store/store_pg.h"

/* One statement decides: the row lock puts those who want it in a line, and each looks at the row as the one before left it. */
static const struct pg_statement lease_statement = {
    STATEMENT_LEASE,
    "INSERT INTO hie.leases AS l (name, holder, token, expires_at)"
    " VALUES ($1::text, $2::text, nextval('hie.lease_token'),"
    " clock_timestamp() + $3::int8 * interval '1 millisecond')"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder,"
    " token = CASE WHEN l.holder = excluded.holder THEN l.token ELSE excluded.token END,"
    " expires_at = clock_timestamp() + $3::int8 * interval '1 millisecond'"
    " WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp() RETURNING token"};
static const struct pg_statement release_statement = {
    STATEMENT_RELEASE, "DELETE FROM hie.leases WHERE name = $1::text AND holder = $2::text"};
static const struct pg_statement mark_read_statement = {STATEMENT_MARK_READ,
                                                        "SELECT hie.low_mark()"};
static const struct pg_statement mark_raise_statement = {
    STATEMENT_MARK_RAISE, "SELECT hie.raise_low_mark($1::int8, $2::int8)"};
/* Each a transaction of its own: the locks of one are not held while another waits, and one that cannot have its locks keeps no
 * other from its work. */
static const struct pg_statement maintain_statements[] = {
    {STATEMENT_MAINTAIN, "SELECT hie.make_partitions((now() AT TIME ZONE 'UTC')::date - 1,"
                         " (now() AT TIME ZONE 'UTC')::date + 7)"},
    {STATEMENT_MAINTAIN_KEYS, "SELECT hie.make_dedup_partitions((now() AT TIME ZONE 'UTC')::date"
                              " - 1, (now() AT TIME ZONE 'UTC')::date + 7)"},
    {STATEMENT_DROP_KEYS, "SELECT hie.drop_dedup_partitions((now() AT TIME ZONE 'UTC')::date - 2)"},
    {STATEMENT_FORGET_GONE, "SELECT hie.forget_gone()"},
};
#define MAINTAIN_STEPS (sizeof(maintain_statements) / sizeof(maintain_statements[0]))

struct lease_op {
    struct store_op op;
    const char *name, *holder; /* copies */
    int64_t number, token;
    size_t step;       /* of maintain_statements */
    struct err failed; /* the first one that did */
    store_leased *leased;
    store_mark_done *marked;
    store_done *done;
    void *arg;
};

static struct lease_op *new_lease(struct store *store, const char *name, const char *holder,
                                  void *arg)
{
    struct lease_op *op = store_op_new(store, sizeof(*op));
    op->name = arena_strdup(&op->op.arena, slice_text(name));
    op->holder = arena_strdup(&op->op.arena, slice_text(holder));
    op->arg = arg;
    return op;
}

static void encode_names(struct pg_request *request, struct pg_params *params)
{
    const struct lease_op *op = (const struct lease_op *)request;
    pg_param_text(params, slice_text(op->name), PG_TEXT_CHARS);
    pg_param_text(params, slice_text(op->holder), PG_TEXT_CHARS);
}

static void encode_lease(struct pg_request *request, struct pg_params *params)
{
    encode_names(request, params);
    pg_param_int8(params, ((const struct lease_op *)request)->number);
}

static void encode_mark(struct pg_request *request, struct pg_params *params)
{
    const struct lease_op *op = (const struct lease_op *)request;
    if (op->number == 0)
        return;
    pg_param_int8(params, op->token);
    pg_param_int8(params, op->number);
}

static void encode_nothing(struct pg_request *request, struct pg_params *params)
{
    (void)request;
    (void)params;
}

static int64_t first_number(const struct pg_answer *answer)
{
    if (answer->err.code != ERR_NONE || pg_result_rows(answer->result) == 0)
        return 0;
    return pg_get_int(answer->result, 0, 0);
}

static void on_leased(struct pg_request *request, const struct pg_answer *answer)
{
    struct lease_op *op = (struct lease_op *)request;
    struct err err = store_err(answer);
    store_op_detach(&op->op);
    op->leased(op->arg, &err, first_number(answer));
    store_op_free(&op->op);
}

static void on_marked(struct pg_request *request, const struct pg_answer *answer)
{
    struct lease_op *op = (struct lease_op *)request;
    struct err err = store_err(answer);
    store_op_detach(&op->op);
    op->marked(op->arg, &err, first_number(answer));
    store_op_free(&op->op);
}

static void on_done(struct pg_request *request, const struct pg_answer *answer)
{
    struct lease_op *op = (struct lease_op *)request;
    struct err err = store_err(answer);
    store_op_detach(&op->op);
    op->done(op->arg, &err);
    store_op_free(&op->op);
}

void store_pg_lease(struct store *store, const char *name, const char *holder, int64_t ttl_ms,
                    store_leased *done, void *arg)
{
    struct lease_op *op = new_lease(store, name, holder, arg);
    op->number = ttl_ms;
    op->leased = done;
    store_op_send(&op->op, LINK_SCANS, &lease_statement, encode_lease, on_leased);
}

void store_pg_release(struct store *store, const char *name, const char *holder, store_done *done,
                      void *arg)
{
    struct lease_op *op = new_lease(store, name, holder, arg);
    op->done = done;
    store_op_send(&op->op, LINK_SCANS, &release_statement, encode_names, on_done);
}

void store_pg_low_mark(struct store *store, int64_t token, int64_t new_low, store_mark_done *done,
                       void *arg)
{
    struct lease_op *op = new_lease(store, NULL, NULL, arg);
    op->token = token;
    op->number = new_low;
    op->marked = done;
    store_op_send(&op->op, LINK_SCANS, new_low ? &mark_raise_statement : &mark_read_statement,
                  encode_mark, on_marked);
}

static void on_maintained(struct pg_request *request, const struct pg_answer *answer)
{
    struct lease_op *op = (struct lease_op *)request;
    if (op->failed.code == ERR_NONE)
        op->failed = store_err(answer);
    if (++op->step < MAINTAIN_STEPS) {
        store_op_send(&op->op, LINK_SCANS, &maintain_statements[op->step], encode_nothing,
                      on_maintained);
        return;
    }
    store_op_detach(&op->op);
    op->done(op->arg, &op->failed);
    store_op_free(&op->op);
}

void store_pg_maintain(struct store *store, store_done *done, void *arg)
{
    struct lease_op *op = new_lease(store, NULL, NULL, arg);
    op->done = done;
    store_op_send(&op->op, LINK_SCANS, &maintain_statements[0], encode_nothing, on_maintained);
}
