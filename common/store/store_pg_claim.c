/* Look-ups over a batch of ids: claims, and the flags known and ended. Waits for the look-up link. Each row is three index probes at
 * most (four where the batch has redriven ones), in the one or two partitions that the batch's range of ids leaves over. A batch with messages taken over goes through
 * hie.claim, which locks settles out while it counts. */
#include "base/bug.h"
#include "store/store_pg.h"

/* clang-format off */
/* Most batches have no attempt and no redriven message, many no end, anywhere between their lowest and highest id: asked once,
 * that spares the probes of the single rows. */
#define IN_RANGE(column) column " BETWEEN $2 AND $3"
#define SEQ                                                                                        \
    "(SELECT a.seq FROM hie.accepted a WHERE a.correlation_id = u.id"                              \
    " AND " IN_RANGE("a.correlation_id") ")"
#define ENDED                                                                                      \
    "CASE WHEN (SELECT true FROM hie.ended e WHERE " IN_RANGE("e.correlation_id") " LIMIT 1)"      \
    " THEN (SELECT true FROM hie.ended e WHERE e.correlation_id = u.id AND e.run = u.run"          \
    " AND " IN_RANGE("e.correlation_id") ") IS NOT NULL ELSE false END"
#define NEXT_ATTEMPT                                                                               \
    "CASE WHEN (SELECT true FROM hie.attempts t WHERE " IN_RANGE("t.correlation_id") " LIMIT 1)"   \
    " THEN coalesce((SELECT t.attempt FROM hie.attempts t WHERE t.correlation_id = u.id"           \
    " AND t.run = u.run AND " IN_RANGE("t.correlation_id")                                         \
    " ORDER BY t.attempt DESC LIMIT 1), 0) + 1 ELSE 1 END"
#define FROM_IDS                                                                                   \
    " FROM (SELECT v.id, " STORE_RUN("v.id", "2", "3") " AS run"                                   \
    " FROM (SELECT unnest($1::uuid[]) AS id) v OFFSET 0) u"

/* What was forgotten has its end alone. */
static const struct pg_statement known_statement = {
    STATEMENT_KNOWN,
    "SELECT coalesce(" SEQ ", (SELECT 0 FROM hie.ended e WHERE e.correlation_id = u.id"
    " AND " IN_RANGE("e.correlation_id") " LIMIT 1)) IS NOT NULL"
    " FROM (SELECT unnest($1::uuid[]) AS id) u"};
static const struct pg_statement ended_statement = {STATEMENT_ENDED, "SELECT " ENDED FROM_IDS};
static const struct pg_statement claim_statement = {
    STATEMENT_CLAIM, "SELECT " SEQ ", " ENDED ", u.run, " NEXT_ATTEMPT FROM_IDS};
static const struct pg_statement take_over_statement = {
    STATEMENT_TAKE_OVER, "SELECT seq, ended, run, attempt FROM hie.claim($1, $4, $2, $3, $5, $6)"};
/* clang-format on */

/* ---- flags ---- */

struct flags_op {
    struct store_op op;
    const struct uuid *ids;
    size_t count;
    store_ended *done;
    void *arg;
};

static void encode_flags(struct pg_request *request, struct pg_params *params)
{
    const struct flags_op *op = (const struct flags_op *)request;
    store_put_ids(params, op->ids, op->count);
}

static void on_flags(struct pg_request *request, const struct pg_answer *answer)
{
    struct flags_op *op = (struct flags_op *)request;
    struct err err = store_err(answer);
    bool flags[STORE_BATCH_MAX] = {false};
    if (err.code == ERR_NONE) {
        BUG_ON(pg_result_rows(answer->result) != op->count);
        for (size_t i = 0; i < op->count; i++)
            flags[i] = pg_get_bool(answer->result, i, 0);
    }
    store_ended *done = op->done;
    void *arg = op->arg;
    store_op_free(&op->op);
    done(arg, &err, flags);
}

static void ask_flags(struct store *store, const struct pg_statement *statement,
                      const struct uuid *ids, size_t count, store_ended *done, void *arg)
{
    BUG_ON(count > STORE_BATCH_MAX);
    struct flags_op *op = store_op_new(store, sizeof(*op));
    op->ids = ids;
    op->count = count;
    op->done = done;
    op->arg = arg;
    store_op_send(&op->op, LINK_LOOKUPS, statement, encode_flags, on_flags);
}

void store_pg_known(struct store *store, const struct uuid *ids, size_t count, store_ended *done,
                    void *arg)
{
    ask_flags(store, &known_statement, ids, count, done, arg);
}

void store_pg_ended(struct store *store, const struct uuid *ids, size_t count, store_ended *done,
                    void *arg)
{
    ask_flags(store, &ended_statement, ids, count, done, arg);
}

/* ---- claims ---- */

struct claim_op {
    struct store_op op;
    const char *worker;
    struct store_claim *rows;
    size_t count;
    bool take_over;
    store_done *done;
    void *arg;
};

static void encode_claim(struct pg_request *request, struct pg_params *params)
{
    const struct claim_op *op = (const struct claim_op *)request;
    struct id_range range = {UUID_NONE, UUID_NONE};
    pg_array_begin(params, PG_UUID, op->count);
    for (size_t i = 0; i < op->count; i++) {
        pg_put_uuid(params, op->rows[i].id);
        id_range_add(&range, op->rows[i].id, i == 0);
    }
    pg_param_end(params);
    pg_param_uuid(params, range.low);
    pg_param_uuid(params, range.high);
    if (!op->take_over)
        return;
    pg_array_begin(params, PG_BOOL, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_bool(params, op->rows[i].taken_over);
    pg_param_end(params);
    pg_param_text(params, slice_text(op->worker), PG_TEXT_CHARS);
    pg_array_begin(params, PG_INT8, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_int8(params, op->rows[i].lease_token);
    pg_param_end(params);
}

static void on_claim(struct pg_request *request, const struct pg_answer *answer)
{
    struct claim_op *op = (struct claim_op *)request;
    struct err err = store_err(answer);
    if (err.code == ERR_NONE) {
        BUG_ON(pg_result_rows(answer->result) != op->count);
        for (size_t i = 0; i < op->count; i++) {
            struct store_claim *row = &op->rows[i];
            row->seq = pg_get_int(answer->result, i, 0);
            row->ended = pg_get_bool(answer->result, i, 1);
            row->known = row->ended || !pg_result_is_null(answer->result, i, 0);
            row->run = (int)pg_get_int(answer->result, i, 2);
            row->attempt = (int)pg_get_int(answer->result, i, 3);
        }
    }
    store_done *done = op->done;
    void *arg = op->arg;
    store_op_free(&op->op);
    done(arg, &err);
}

void store_pg_claim(struct store *store, const char *worker, struct store_claim *rows, size_t count,
                    store_done *done, void *arg)
{
    BUG_ON(count > STORE_BATCH_MAX);
    struct claim_op *op = store_op_new(store, sizeof(*op));
    op->worker = worker;
    op->rows = rows;
    op->count = count;
    op->done = done;
    op->arg = arg;
    for (size_t i = 0; i < count; i++)
        op->take_over = op->take_over || rows[i].taken_over;
    store_op_send(&op->op, LINK_LOOKUPS, op->take_over ? &take_over_statement : &claim_statement,
                  encode_claim, on_claim);
}
