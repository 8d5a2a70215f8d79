/* Reading many: unfinished messages page by page, the unfinished children of messages, counts by item. Waits for the links of
 * look-ups and scans; each statement looks at a bounded number of rows, so that claims behind it do not wait long. */
#include "base/bug.h"
#include "base/mem.h"
#include "store/store_pg.h"

#include <stdlib.h>
#include <uthash.h>

#define COUNT_LOOK 5000 /* rows that one step of `counts` looks at; in its SQL too */

_Static_assert(MESSAGE_INLINE_MAX == 65536 && STORE_BATCH_BYTES == 33554432, "the SQL says so");

/* clang-format off */
/* Bounds by two parameters, so that partitions are pruned before the statement starts. */
#define BETWEEN(column, low, high) column " BETWEEN $" low " AND $" high
#define NOT_ENDED(low, high)                                                                       \
    "(SELECT true FROM hie.ended e WHERE e.correlation_id = a.correlation_id AND e.run = a.run"    \
    " AND " BETWEEN("e.correlation_id", low, high) ") IS NULL"
/* The latest retry's due time goes before the message's own. A large body stays behind, and so does what passes 32 MiB in
 * one answer: octet_length does not read it. */
#define WHOLE_COLUMNS(low, high)                                                                   \
    "r.correlation_id, r.item, r.pattern, r.received_at,"                                          \
    " coalesce((SELECT t.due_at FROM hie.attempts t WHERE t.correlation_id = r.correlation_id"     \
    " AND t.run = r.run AND " BETWEEN("t.correlation_id", low, high)                               \
    " ORDER BY t.attempt DESC LIMIT 1), r.due_at),"                                                \
    " r.seq, coalesce(r.partition, -1::int2), coalesce(r.version, 0), r.parent_id, r.direction, r.priority, r.ordering_key, r.control_id, r.message_type,"  \
    " r.sender, r.content_type, r.meta,"                                                           \
    " CASE WHEN octet_length(r.body) <= 65536"                                                     \
    " AND sum(least(octet_length(r.body), 65537)) OVER (ORDER BY r.seq) <= 33554432"               \
    " THEN r.body END, octet_length(r.body)"

/* $1 after seq, $2 rows at most, $3 rows to look at. The first line tells of the page alone. */
static const struct pg_statement unfinished_statement = {
    STATEMENT_UNFINISHED,
    "SELECT a.correlation_id, a.item, a.pattern, a.received_at,"
    " coalesce((SELECT t.due_at FROM hie.attempts t WHERE t.correlation_id = p.correlation_id"
    " AND t.run = p.run ORDER BY t.attempt DESC LIMIT 1), a.due_at), p.seq,"
    " coalesce(a.partition, -1::int2), coalesce(a.version, 0), p.looked_at, p.last_seq"
    " FROM (SELECT * FROM hie.open_page($1::int8, $3::int8::int4) o"
    " ORDER BY o.seq NULLS FIRST LIMIT $2::int8 + 1) p"
    " LEFT JOIN LATERAL (SELECT * FROM hie.accepted b WHERE b.correlation_id = p.correlation_id"
    " LIMIT 1) a ON true ORDER BY p.seq NULLS FIRST"};

/* $1, $2, $3: parents and the lowest and highest id of their children; $4, $5 bound them all. */
static const struct pg_statement children_statement = {
    STATEMENT_CHILDREN,
    "SELECT " WHOLE_COLUMNS("4", "5") " FROM (SELECT a.* FROM (SELECT c.*,"
    " " STORE_RUN("c.correlation_id", "4", "5") " AS run FROM"
    " (SELECT unnest($1::uuid[]) AS id, unnest($2::uuid[]) AS low, unnest($3::uuid[]) AS high) u,"
    " LATERAL (SELECT * FROM hie.accepted c WHERE c.correlation_id BETWEEN u.low AND u.high"
    " AND " BETWEEN("c.correlation_id", "4", "5") " AND c.parent_id = u.id OFFSET 0) c OFFSET 0) a"
    " WHERE " NOT_ENDED("4", "5") ") r ORDER BY r.seq"};

static const struct pg_statement fetch_statement = {
    STATEMENT_FETCH,
    "SELECT " WHOLE_COLUMNS("2", "3") " FROM (SELECT a.* FROM (SELECT c.*,"
    " " STORE_RUN("c.correlation_id", "2", "3") " AS run FROM (SELECT unnest($1::uuid[]) AS id) u,"
    " LATERAL (SELECT * FROM hie.accepted c WHERE c.correlation_id = u.id"
    " AND " BETWEEN("c.correlation_id", "2", "3") " LIMIT 1) c OFFSET 0) a"
    " WHERE " NOT_ENDED("2", "3") ") r ORDER BY r.seq"};

/* $1, $2: the last one that was counted. */
static const struct pg_statement count_dead_statement = {
    STATEMENT_COUNT_DEAD,
    "WITH p AS MATERIALIZED (SELECT o.item, o.correlation_id FROM hie.open_dead_letters o"
    " WHERE (o.item, o.correlation_id) > ($1::text, $2::uuid)"
    " ORDER BY o.item, o.correlation_id LIMIT 5000)"
    " SELECT p.item, count(*), (SELECT q.correlation_id FROM p q"
    " ORDER BY q.item DESC, q.correlation_id DESC LIMIT 1) FROM p GROUP BY p.item ORDER BY p.item"};

/* The line without an item stands for the page. */
static const struct pg_statement count_open_statement = {
    STATEMENT_COUNT_OPEN,
    "SELECT a.item, count(*), max(p.looked_at), max(p.last_seq) FROM hie.open_page($1::int8, 5000) p"
    " LEFT JOIN LATERAL (SELECT b.item FROM hie.accepted b"
    " WHERE b.correlation_id = p.correlation_id LIMIT 1) a ON true GROUP BY a.item"};
/* clang-format on */

/* ---- rows ---- */

struct rows_op {
    struct store_op op;
    int64_t after_seq;
    size_t limit;
    const struct uuid *ids; /* messages, or parents */
    size_t id_count;
    store_page *paged;
    store_rows *done;
    void *arg;
};

static void read_light(const struct pg_result *result, size_t row, struct store_unfinished *ret)
{
    struct store_message *m = &ret->message;
    *ret = (struct store_unfinished){0};
    m->id = pg_get_uuid(result, row, 0);
    m->item = pg_get_text(result, row, 1);
    m->pattern = (enum messaging_pattern)pg_get_int(result, row, 2);
    m->received_us = pg_get_time(result, row, 3);
    m->due_ms = pg_get_time(result, row, 4) / 1000;
    m->seq = pg_get_int(result, row, 5);
    m->partition = (int)pg_get_int(result, row, 6);
    m->version = pg_get_int(result, row, 7);
}

static void read_whole(const struct pg_result *result, size_t row, struct store_unfinished *ret)
{
    struct store_message *m = &ret->message;
    read_light(result, row, ret);
    m->parent = pg_get_uuid(result, row, 8);
    m->direction = (enum message_direction)pg_get_int(result, row, 9);
    m->priority = (int)pg_get_int(result, row, 10);
    m->ordering_key = pg_get_bytes(result, row, 11);
    m->control_id = pg_get_bytes(result, row, 12);
    m->message_type = pg_get_bytes(result, row, 13);
    m->sender = pg_get_bytes(result, row, 14);
    m->content_type = pg_get_bytes(result, row, 15);
    m->meta = pg_get_bytes(result, row, 16);
    struct slice body = pg_get_bytes(result, row, 17);
    m->body = body_of(body.ptr, body.len);
    ret->body_len = (uint64_t)pg_get_int(result, row, 18);
}

static void encode_unfinished(struct pg_request *request, struct pg_params *params)
{
    const struct rows_op *op = (const struct rows_op *)request;
    pg_param_int8(params, op->after_seq);
    pg_param_int8(params, (int64_t)op->limit);
    pg_param_int8(params, STORE_LOOK_MAX);
}

static void on_unfinished(struct pg_request *request, const struct pg_answer *answer)
{
    struct rows_op *op = (struct rows_op *)request;
    const struct pg_result *result = answer->result;
    struct err err = store_err(answer);
    struct store_unfinished *rows = NULL;
    int64_t next_seq = op->after_seq;
    bool end = false;
    size_t count = 0;
    if (err.code == ERR_NONE) {
        BUG_ON(pg_result_rows(result) == 0);
        count = pg_result_rows(result) - 1; /* behind the page's own line */
        rows = arena_alloc(&op->op.arena, (count + 1) * sizeof(*rows));
        for (size_t i = 0; i < count; i++)
            read_light(result, i + 1, &rows[i]);
        int64_t looked_at = pg_get_int(result, 0, 8);
        if (count == op->limit)
            next_seq = rows[count - 1].message.seq;
        else if (looked_at)
            next_seq = pg_get_int(result, 0, 9);
        end = count < op->limit && looked_at < STORE_LOOK_MAX;
    }
    store_op_detach(&op->op);
    op->paged(op->arg, &err, rows, count, next_seq, end);
    store_op_free(&op->op);
}

void store_pg_unfinished(struct store *store, int64_t after_seq, size_t limit, store_page *done,
                         void *arg)
{
    struct rows_op *op = store_op_new(store, sizeof(*op));
    BUG_ON(limit == 0);
    op->after_seq = after_seq;
    op->limit = limit > STORE_LOOK_MAX ? STORE_LOOK_MAX : limit;
    op->paged = done;
    op->arg = arg;
    store_op_send(&op->op, LINK_SCANS, &unfinished_statement, encode_unfinished, on_unfinished);
}

static void on_rows(struct pg_request *request, const struct pg_answer *answer)
{
    struct rows_op *op = (struct rows_op *)request;
    struct err err = store_err(answer);
    size_t count = err.code == ERR_NONE ? pg_result_rows(answer->result) : 0;
    struct store_unfinished *rows = arena_alloc(&op->op.arena, (count + 1) * sizeof(*rows));
    for (size_t i = 0; i < count; i++)
        read_whole(answer->result, i, &rows[i]);
    store_op_detach(&op->op);
    op->done(op->arg, &err, rows, count);
    store_op_free(&op->op);
}

static void ask_rows(struct store *store, enum store_link link,
                     const struct pg_statement *statement,
                     void (*encode)(struct pg_request *, struct pg_params *),
                     const struct uuid *ids, size_t count, store_rows *done, void *arg)
{
    BUG_ON(count > STORE_BATCH_MAX);
    struct rows_op *op = store_op_new(store, sizeof(*op));
    op->ids = ids;
    op->id_count = count;
    op->done = done;
    op->arg = arg;
    store_op_send(&op->op, link, statement, encode, on_rows);
}

static void encode_parents(struct pg_request *request, struct pg_params *params)
{
    const struct rows_op *op = (const struct rows_op *)request;
    struct id_range all = {UUID_NONE, UUID_NONE};
    pg_param_uuids(params, op->ids, op->id_count);
    pg_array_begin(params, PG_UUID, op->id_count);
    for (size_t i = 0; i < op->id_count; i++) {
        struct id_range range = id_range_same_time(op->ids[i]);
        pg_put_uuid(params, range.low);
        id_range_add(&all, range.low, i == 0);
        id_range_add(&all, range.high, false);
    }
    pg_param_end(params);
    pg_array_begin(params, PG_UUID, op->id_count);
    for (size_t i = 0; i < op->id_count; i++)
        pg_put_uuid(params, id_range_same_time(op->ids[i]).high);
    pg_param_end(params);
    pg_param_uuid(params, all.low);
    pg_param_uuid(params, all.high);
}

void store_pg_children(struct store *store, const struct uuid *parents, size_t count,
                       store_rows *done, void *arg)
{
    ask_rows(store, LINK_LOOKUPS, &children_statement, encode_parents, parents, count, done, arg);
}

static void encode_fetch(struct pg_request *request, struct pg_params *params)
{
    const struct rows_op *op = (const struct rows_op *)request;
    store_put_ids(params, op->ids, op->id_count);
}

void store_pg_fetch(struct store *store, const struct uuid *ids, size_t count, store_rows *done,
                    void *arg)
{
    ask_rows(store, LINK_SCANS, &fetch_statement, encode_fetch, ids, count, done, arg);
}

/* ---- counts, step by step ---- */

struct item_count {
    char *item;
    int64_t count;
    UT_hash_handle hh;
};

struct counts_op {
    struct store_op op;
    int64_t after_seq;      /* of the unfinished */
    const char *after_item; /* of the dead ones */
    struct uuid after_id;
    struct item_count *items; /* uthash by item; memory of the arena */
    store_counts_done *done;
    void *arg;
};

static struct item_count *count_of(struct counts_op *op, struct slice item)
{
    struct item_count *found = NULL;
    HASH_FIND(hh, op->items, item.ptr, item.len, found);
    if (found)
        return found;
    found = arena_alloc(&op->op.arena, sizeof(*found));
    found->item = arena_strdup(&op->op.arena, item);
    HASH_ADD_KEYPTR(hh, op->items, found->item, item.len, found);
    return found;
}

static void finish_counts(struct counts_op *op, const struct err *err)
{
    size_t count = HASH_COUNT(op->items), at = 0;
    struct store_count *counts = arena_alloc(&op->op.arena, (count ? count : 1) * sizeof(*counts));
    for (const struct item_count *i = op->items; i; i = i->hh.next)
        counts[at++] = (struct store_count){.item = i->item, .count = i->count};
    HASH_CLEAR(hh, op->items);
    store_op_detach(&op->op);
    op->done(op->arg, err, counts, err->code == ERR_NONE ? count : 0);
    store_op_free(&op->op);
}

static struct counts_op *new_counts(struct store *store, store_counts_done *done, void *arg)
{
    struct counts_op *op = store_op_new(store, sizeof(*op));
    op->after_item = "";
    op->done = done;
    op->arg = arg;
    return op;
}

static void encode_open(struct pg_request *request, struct pg_params *params)
{
    pg_param_int8(params, ((const struct counts_op *)request)->after_seq);
}

static void on_open(struct pg_request *request, const struct pg_answer *answer)
{
    struct counts_op *op = (struct counts_op *)request;
    struct err err = store_err(answer);
    if (err.code != ERR_NONE) {
        finish_counts(op, &err);
        return;
    }
    const struct pg_result *result = answer->result;
    for (size_t i = 0; i < pg_result_rows(result); i++) {
        if (!pg_result_is_null(result, i, 0))
            count_of(op, pg_get_bytes(result, i, 0))->count += pg_get_int(result, i, 1);
    }
    if (pg_get_int(result, 0, 2) < COUNT_LOOK) {
        finish_counts(op, &err);
        return;
    }
    op->after_seq = pg_get_int(result, 0, 3);
    store_op_send(&op->op, LINK_SCANS, &count_open_statement, encode_open, on_open);
}

void store_pg_counts(struct store *store, store_counts_done *done, void *arg)
{
    struct counts_op *op = new_counts(store, done, arg);
    store_op_send(&op->op, LINK_SCANS, &count_open_statement, encode_open, on_open);
}

static void encode_dead(struct pg_request *request, struct pg_params *params)
{
    const struct counts_op *op = (const struct counts_op *)request;
    pg_param_text(params, slice_text(op->after_item), PG_TEXT_CHARS);
    pg_param_uuid(params, op->after_id);
}

static void on_dead(struct pg_request *request, const struct pg_answer *answer)
{
    struct counts_op *op = (struct counts_op *)request;
    struct err err = store_err(answer);
    int64_t seen = 0;
    for (size_t i = 0; err.code == ERR_NONE && i < pg_result_rows(answer->result); i++) {
        struct item_count *item = count_of(op, pg_get_bytes(answer->result, i, 0));
        item->count += pg_get_int(answer->result, i, 1);
        seen += pg_get_int(answer->result, i, 1);
        op->after_item = item->item;
        op->after_id = pg_get_uuid(answer->result, i, 2);
    }
    if (seen < COUNT_LOOK)
        finish_counts(op, &err);
    else
        store_op_send(&op->op, LINK_SCANS, &count_dead_statement, encode_dead, on_dead);
}

void store_pg_dead_counts(struct store *store, store_counts_done *done, void *arg)
{
    struct counts_op *op = new_counts(store, done, arg);
    store_op_send(&op->op, LINK_SCANS, &count_dead_statement, encode_dead, on_dead);
}
