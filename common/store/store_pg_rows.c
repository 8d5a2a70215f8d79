/* Messages and outcomes as array parameters: one array a column, one element a row. */
#include "base/mem.h"
#include "store/store_pg.h"

#include <stdlib.h>

#define MAX_MS 253402300799000 /* the end of the year 9999 */

static int64_t ms_to_us(int64_t wall_ms)
{
    if (wall_ms <= 0)
        return 0;
    return (wall_ms > MAX_MS ? MAX_MS : wall_ms) * 1000;
}

typedef void put_message(struct pg_params *params, const struct store_message *row);

static void put_id(struct pg_params *params, const struct store_message *row)
{
    pg_put_uuid(params, row->id);
}

static void put_parent(struct pg_params *params, const struct store_message *row)
{
    pg_put_uuid_or_null(params, row->parent);
}

static void put_item(struct pg_params *params, const struct store_message *row)
{
    pg_put_text(params, slice_text(row->item), PG_TEXT_CHARS);
}

static void put_pattern(struct pg_params *params, const struct store_message *row)
{
    pg_put_int2(params, (int)row->pattern);
}

static void put_direction(struct pg_params *params, const struct store_message *row)
{
    pg_put_int2(params, (int)row->direction);
}

static void put_received(struct pg_params *params, const struct store_message *row)
{
    pg_put_time(params, row->received_us);
}

static void put_due(struct pg_params *params, const struct store_message *row)
{
    pg_put_time(params, ms_to_us(row->due_ms));
}

static void put_priority(struct pg_params *params, const struct store_message *row)
{
    pg_put_int2(params, row->priority);
}

static void put_ordering_key(struct pg_params *params, const struct store_message *row)
{
    pg_put_text_or_null(params, row->ordering_key, PG_TEXT_CHARS);
}

static void put_control_id(struct pg_params *params, const struct store_message *row)
{
    pg_put_text_or_null(params, row->control_id, PG_TEXT_CHARS);
}

static void put_message_type(struct pg_params *params, const struct store_message *row)
{
    pg_put_text_or_null(params, row->message_type, PG_TEXT_CHARS);
}

static void put_sender(struct pg_params *params, const struct store_message *row)
{
    pg_put_text_or_null(params, row->sender, PG_TEXT_CHARS);
}

static void put_content_type(struct pg_params *params, const struct store_message *row)
{
    pg_put_text_or_null(params, row->content_type, PG_TEXT_CHARS);
}

static void put_meta(struct pg_params *params, const struct store_message *row)
{
    if (row->meta.len)
        pg_put_bytes(params, row->meta);
    else
        pg_put_null(params);
}

static void put_body(struct pg_params *params, const struct store_message *row)
{
    pg_put_bytes(params, body_slice(row->body));
}

/* In the order of MESSAGE_COLUMNS. */
static const struct {
    enum pg_type type;
    put_message *put;
} message_columns[] = {
    {PG_UUID, put_id},           {PG_UUID, put_parent},       {PG_TEXT, put_item},
    {PG_INT2, put_pattern},      {PG_INT2, put_direction},    {PG_TIMESTAMPTZ, put_received},
    {PG_TIMESTAMPTZ, put_due},   {PG_INT2, put_priority},     {PG_TEXT, put_ordering_key},
    {PG_TEXT, put_control_id},   {PG_TEXT, put_message_type}, {PG_TEXT, put_sender},
    {PG_TEXT, put_content_type}, {PG_BYTEA, put_meta},        {PG_BYTEA, put_body},
};

void store_put_messages(struct pg_params *params, struct store_message *const *rows, size_t count)
{
    for (size_t c = 0; c < sizeof(message_columns) / sizeof(message_columns[0]); c++) {
        pg_array_begin(params, message_columns[c].type, count);
        for (size_t i = 0; i < count; i++)
            message_columns[c].put(params, rows[i]);
        pg_param_end(params);
    }
}

void store_put_ids(struct pg_params *params, const struct uuid *ids, size_t count)
{
    struct id_range range = {UUID_NONE, UUID_NONE};
    for (size_t i = 0; i < count; i++)
        id_range_add(&range, ids[i], i == 0);
    pg_param_uuids(params, ids, count);
    pg_param_uuid(params, range.low);
    pg_param_uuid(params, range.high);
}

/* ---- outcomes ---- */

typedef void put_outcome(struct pg_params *params, const struct store_outcome *row);

static void put_end_id(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_uuid(params, row->id);
}

static void put_run(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_int4(params, row->run);
}

static void put_attempt(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_int4(params, row->attempt);
}

static void put_status(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_int2(params, (int)row->end);
}

static void put_end_pattern(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_int2(params, (int)row->pattern);
}

static void put_end_item(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_text(params, slice_text(row->item), PG_TEXT_CHARS);
}

static void put_worker(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_text_or_null(params, slice_text(row->worker), PG_TEXT_CHARS);
}

static void put_started(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_time(params, row->started_us);
}

static void put_finished(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_time(params, row->finished_us);
}

static void put_retry_due(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_time(params, ms_to_us(row->due_ms));
}

static void put_error(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_text_or_null(params, slice_text(row->error), PG_ERROR_CHARS);
}

static void put_reply_type(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_text_or_null(params, row->reply_content_type, PG_TEXT_CHARS);
}

/* A completed message has a reply, if an empty one. */
static void put_reply(struct pg_params *params, const struct store_outcome *row)
{
    if (row->reply.len || row->end == STORE_COMPLETED)
        pg_put_bytes(params, row->reply);
    else
        pg_put_null(params);
}

struct outcome_column {
    enum pg_type type;
    put_outcome *put;
};
static const struct outcome_column end_columns[] = {
    {PG_UUID, put_end_id},          {PG_INT4, put_run},
    {PG_INT4, put_attempt},         {PG_INT2, put_status},
    {PG_INT2, put_end_pattern},     {PG_TEXT, put_end_item},
    {PG_TEXT, put_worker},          {PG_TIMESTAMPTZ, put_started},
    {PG_TIMESTAMPTZ, put_finished}, {PG_TEXT, put_error},
    {PG_TEXT, put_reply_type},      {PG_BYTEA, put_reply},
};
static const struct outcome_column retry_columns[] = {
    {PG_UUID, put_end_id},           {PG_INT4, put_run},
    {PG_INT4, put_attempt},          {PG_TEXT, put_worker},
    {PG_TIMESTAMPTZ, put_started},   {PG_TIMESTAMPTZ, put_finished},
    {PG_TIMESTAMPTZ, put_retry_due}, {PG_TEXT, put_error},
};

static void put_columns(struct pg_params *params, const struct outcome_column *columns,
                        size_t column_count, struct store_outcome *const *rows, const size_t *order,
                        size_t count, bool retries)
{
    size_t matching = 0;
    for (size_t i = 0; i < count; i++)
        matching += (rows[i]->end == STORE_RETRY) == retries;
    for (size_t c = 0; c < column_count; c++) {
        pg_array_begin(params, columns[c].type, matching);
        for (size_t i = 0; i < count; i++) {
            const struct store_outcome *row = rows[order[i]];
            if ((row->end == STORE_RETRY) == retries)
                columns[c].put(params, row);
        }
        pg_param_end(params);
    }
}

/* In the order of the rows given, not of their ids: it is the order of their seq. */
static void put_children(struct pg_params *params, struct store_outcome *const *rows, size_t count)
{
    size_t child_count = 0, at = 0;
    for (size_t i = 0; i < count; i++)
        child_count += rows[i]->child_count;
    struct store_message **children = mem_array(child_count, sizeof(*children));
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < rows[i]->child_count; j++)
            children[at++] = &rows[i]->children[j];
    }
    store_put_messages(params, children, child_count);
    free(children);
}

static int compare_rows(const void *left, const void *right, void *arg)
{
    struct store_outcome *const *rows = arg;
    size_t a = *(const size_t *)left, b = *(const size_t *)right;
    int by_id = memcmp(rows[a]->id.bytes, rows[b]->id.bytes, sizeof(rows[a]->id.bytes));
    return by_id ? by_id : a < b ? -1 : a > b;
}

void store_put_outcomes(struct pg_params *params, struct store_outcome *const *rows, size_t *order,
                        size_t count, bool with_rest)
{
    struct id_range range = {UUID_NONE, UUID_NONE};
    for (size_t i = 0; i < count; i++) {
        order[i] = i;
        id_range_add(&range, rows[i]->id, i == 0);
    }
    /* Two batches that meet in some ids take them in the same order, so neither waits for the other in a circle. */
    qsort_r(order, count, sizeof(*order), compare_rows, (void *)rows);
    pg_param_uuid(params, range.low);
    pg_param_uuid(params, range.high);
    put_columns(params, end_columns, sizeof(end_columns) / sizeof(end_columns[0]), rows, order,
                count, false);
    if (!with_rest)
        return;
    put_columns(params, retry_columns, sizeof(retry_columns) / sizeof(retry_columns[0]), rows,
                order, count, true);
    put_children(params, rows, count);
}
