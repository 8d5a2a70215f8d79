/* fifo: whose a partition is, and what comes before the messages that its owner claimed. `earlier` waits for the look-up link, the
 * others for the one of scans. */
#include "base/bug.h"
#include "store/store_pg.h"

/* clang-format off */
/* The first line is for note_whole; its second number is the transaction id that is assigned next (a snapshot's xmax may be lower). What is unfinished is a straggler, or above the mark and its first run has
 * no end. $1 item, $2 pattern, $3 partitions, $4 after, $5 up to, $6 rows at most, $7 below
 * that version, INT64_MAX: any. The versions of stragglers are looked up one by one: they are few; $8 rows of each partition. */
static const struct pg_statement earlier_statement = {
    STATEMENT_EARLIER,
    "SELECT NULL::uuid, pg_snapshot_xmin(pg_current_snapshot())::text::int8,"
    " (SELECT n.xmax::text::int8 + age(n.xmax::xid)"
    " FROM (SELECT pg_snapshot_xmax(pg_current_snapshot()) AS xmax) n),"
    " CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM hie.accepted_seq q UNION ALL ("
    "SELECT x.correlation_id, p.partition, x.seq, 0 FROM (SELECT unnest($3::int2[]) AS partition,"
    " unnest($4::int8[]) AS after_seq, unnest($5::int8[]) AS upto_seq,"
    " unnest($7::int8[]) AS below_version, unnest($8::int8[]) AS most) p, LATERAL ("
    "(SELECT s.seq, s.correlation_id FROM hie.stragglers s"
    " WHERE s.item = $1::text AND s.pattern = $2::int8::int2 AND s.partition = p.partition"
    " AND s.seq > p.after_seq AND s.seq < p.upto_seq"
    " AND (SELECT true FROM hie.ended e WHERE e.correlation_id = s.correlation_id"
    " AND e.run = s.run) IS NULL AND (p.below_version = 9223372036854775807 OR coalesce((SELECT"
    " b.version FROM hie.accepted b WHERE b.correlation_id = s.correlation_id LIMIT 1), 0)"
    " < p.below_version) ORDER BY s.seq LIMIT p.most)"
    " UNION ALL "
    "(SELECT a.seq, a.correlation_id FROM hie.accepted a"
    " WHERE a.item = $1::text AND a.pattern = $2::int8::int2 AND a.partition = p.partition"
    " AND a.seq > greatest(p.after_seq, (SELECT m.low FROM hie.marks m WHERE m.name = 'low'))"
    " AND a.seq < p.upto_seq AND coalesce(a.version, 0) < p.below_version"
    " AND (SELECT true FROM hie.ended e"
    " WHERE e.correlation_id = a.correlation_id AND e.run = 1) IS NULL"
    " ORDER BY a.seq LIMIT p.most)) x ORDER BY x.seq LIMIT $6::int8)"};
static const struct pg_statement own_statement = {
    STATEMENT_OWN, "SELECT item, pattern, partition, token, wanted"
                   " FROM hie.own($1::text, $2::text[], $3::int2[], $4::int4[], $5::bool[], $6::int8)"};
static const struct pg_statement disown_statement = {
    STATEMENT_DISOWN, "SELECT hie.disown($1::text, $2::text[], $3::int2[], $4::int2[])"};
/* clang-format on */

/* ---- earlier ---- */

struct earlier_op {
    struct store_op op;
    const char *item;
    enum messaging_pattern pattern;
    const struct store_before *parts;
    size_t part_count, limit;
    store_earlier_done *done;
    void *arg;
};

static void encode_earlier(struct pg_request *request, struct pg_params *params)
{
    const struct earlier_op *op = (const struct earlier_op *)request;
    pg_param_text(params, slice_text(op->item), PG_TEXT_CHARS);
    pg_param_int8(params, (int64_t)op->pattern);
    pg_array_begin(params, PG_INT2, op->part_count);
    for (size_t i = 0; i < op->part_count; i++)
        pg_put_int2(params, (int)op->parts[i].partition);
    pg_param_end(params);
    pg_array_begin(params, PG_INT8, op->part_count);
    for (size_t i = 0; i < op->part_count; i++)
        pg_put_int8(params, op->parts[i].after_seq);
    pg_param_end(params);
    pg_array_begin(params, PG_INT8, op->part_count);
    for (size_t i = 0; i < op->part_count; i++)
        pg_put_int8(params, op->parts[i].upto_seq);
    pg_param_end(params);
    pg_param_int8(params, (int64_t)op->limit + 1);
    pg_array_begin(params, PG_INT8, op->part_count);
    for (size_t i = 0; i < op->part_count; i++)
        pg_put_int8(params, op->parts[i].below_version ? op->parts[i].below_version : INT64_MAX);
    pg_param_end(params);
    pg_array_begin(params, PG_INT8, op->part_count);
    for (size_t i = 0; i < op->part_count; i++)
        pg_put_int8(params, (int64_t)op->parts[i].most);
    pg_param_end(params);
}

/* A writer has its transaction id before it draws a seq. So all who drew up to the last value that one answer saw have lower ids than
 * the one that is assigned next when the next answer is made, and once a later snapshot has none of those open any more, it shows all
 * their rows. Each answer takes this one step further. */
static int64_t note_whole(struct store_whole *whole, int64_t xmin, int64_t next_xid, int64_t drawn)
{
    if (whole->closing_xid && xmin >= whole->closing_xid) {
        whole->seq = whole->closing_seq;
        whole->closing_xid = 0;
    }
    if (!whole->closing_xid) {
        whole->closing_xid = next_xid;
        whole->closing_seq = whole->drawn;
    }
    whole->drawn = drawn;
    return whole->seq;
}

static void on_earlier(struct pg_request *request, const struct pg_answer *answer)
{
    struct earlier_op *op = (struct earlier_op *)request;
    const struct pg_result *result = answer->result;
    struct err err = store_err(answer);
    size_t count = err.code == ERR_NONE ? pg_result_rows(result) - 1 : 0;
    int64_t whole_seq = 0;
    if (err.code == ERR_NONE)
        whole_seq = note_whole(&op->op.store->whole, pg_get_int(result, 0, 1),
                               pg_get_int(result, 0, 2), pg_get_int(result, 0, 3));
    bool full = count > op->limit;
    if (full)
        count = op->limit;
    struct store_earlier *rows = arena_alloc(&op->op.arena, (count + 1) * sizeof(*rows));
    for (size_t i = 0; i < count; i++) {
        rows[i].id = pg_get_uuid(result, i + 1, 0);
        rows[i].partition = (unsigned)pg_get_int(result, i + 1, 1);
        rows[i].seq = pg_get_int(result, i + 1, 2);
    }
    store_op_detach(&op->op);
    op->done(op->arg, &err, rows, count, full, whole_seq);
    store_op_free(&op->op);
}

void store_pg_earlier(struct store *store, const char *item, enum messaging_pattern pattern,
                      const struct store_before *parts, size_t part_count, size_t limit,
                      store_earlier_done *done, void *arg)
{
    BUG_ON(part_count > STORE_BATCH_MAX || limit > STORE_LOOK_MAX);
    struct earlier_op *op = store_op_new(store, sizeof(*op));
    op->item = item;
    op->pattern = pattern;
    op->parts = parts;
    op->part_count = part_count;
    op->limit = limit;
    op->done = done;
    op->arg = arg;
    store_op_send(&op->op, LINK_LOOKUPS, &earlier_statement, encode_earlier, on_earlier);
}

/* ---- owners ---- */

struct own_op {
    struct store_op op;
    const char *worker; /* a copy */
    const struct store_share *shares;
    const struct store_owned *owned;
    size_t count;
    int64_t ttl_ms;
    store_owned_done *done;
    store_done *disowned;
    void *arg;
};

static struct own_op *new_own(struct store *store, const char *worker, size_t count, void *arg)
{
    struct own_op *op = store_op_new(store, sizeof(*op));
    op->worker = arena_strdup(&op->op.arena, slice_text(worker));
    op->count = count;
    op->arg = arg;
    return op;
}

static void encode_own(struct pg_request *request, struct pg_params *params)
{
    const struct own_op *op = (const struct own_op *)request;
    pg_param_text(params, slice_text(op->worker), PG_TEXT_CHARS);
    pg_array_begin(params, PG_TEXT, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_text(params, slice_text(op->shares[i].item), PG_TEXT_CHARS);
    pg_param_end(params);
    pg_array_begin(params, PG_INT2, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_int2(params, (int)op->shares[i].pattern);
    pg_param_end(params);
    pg_array_begin(params, PG_INT4, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_int4(params, (int32_t)op->shares[i].partitions);
    pg_param_end(params);
    pg_array_begin(params, PG_BOOL, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_bool(params, op->shares[i].leaves);
    pg_param_end(params);
    pg_param_int8(params, op->ttl_ms);
}

static void on_owned(struct pg_request *request, const struct pg_answer *answer)
{
    struct own_op *op = (struct own_op *)request;
    struct err err = store_err(answer);
    size_t count = err.code == ERR_NONE ? pg_result_rows(answer->result) : 0;
    struct store_owned *owned = arena_alloc(&op->op.arena, (count + 1) * sizeof(*owned));
    for (size_t i = 0; i < count; i++) {
        owned[i].item = pg_get_text(answer->result, i, 0);
        owned[i].pattern = (enum messaging_pattern)pg_get_int(answer->result, i, 1);
        owned[i].partition = (unsigned)pg_get_int(answer->result, i, 2);
        owned[i].token = pg_get_int(answer->result, i, 3);
        owned[i].wanted = pg_get_bool(answer->result, i, 4);
    }
    store_op_detach(&op->op);
    op->done(op->arg, &err, owned, count);
    store_op_free(&op->op);
}

void store_pg_own(struct store *store, const char *worker, const struct store_share *shares,
                  size_t count, int64_t ttl_ms, store_owned_done *done, void *arg)
{
    struct own_op *op = new_own(store, worker, count, arg);
    op->shares = shares;
    op->ttl_ms = ttl_ms;
    op->done = done;
    store_op_send(&op->op, LINK_SCANS, &own_statement, encode_own, on_owned);
}

static void encode_disown(struct pg_request *request, struct pg_params *params)
{
    const struct own_op *op = (const struct own_op *)request;
    pg_param_text(params, slice_text(op->worker), PG_TEXT_CHARS);
    if (op->count == 0) {
        for (int i = 0; i < 3; i++)
            pg_param_null(params);
        return;
    }
    pg_array_begin(params, PG_TEXT, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_text(params, slice_text(op->owned[i].item), PG_TEXT_CHARS);
    pg_param_end(params);
    pg_array_begin(params, PG_INT2, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_int2(params, (int)op->owned[i].pattern);
    pg_param_end(params);
    pg_array_begin(params, PG_INT2, op->count);
    for (size_t i = 0; i < op->count; i++)
        pg_put_int2(params, (int)op->owned[i].partition);
    pg_param_end(params);
}

static void on_disowned(struct pg_request *request, const struct pg_answer *answer)
{
    struct own_op *op = (struct own_op *)request;
    struct err err = store_err(answer);
    store_op_detach(&op->op);
    op->disowned(op->arg, &err);
    store_op_free(&op->op);
}

void store_pg_disown(struct store *store, const char *worker, const struct store_owned *owned,
                     size_t count, store_done *done, void *arg)
{
    struct own_op *op = new_own(store, worker, count, arg);
    struct store_owned *copies = arena_alloc(&op->op.arena, (count + 1) * sizeof(*copies));
    for (size_t i = 0; i < count; i++) {
        copies[i] = owned[i];
        copies[i].item = arena_strdup(&op->op.arena, slice_text(owned[i].item));
    }
    op->owned = copies;
    op->disowned = done;
    store_op_send(&op->op, LINK_SCANS, &disown_statement, encode_disown, on_disowned);
}
