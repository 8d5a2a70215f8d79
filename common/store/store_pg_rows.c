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

static void put_partition(struct pg_params *params, const struct store_message *row)
{
    if (row->partition < 0)
        pg_put_null(params);
    else
        pg_put_int2(params, row->partition);
}

static void put_version(struct pg_params *params, const struct store_message *row)
{
    if (row->version == 0)
        pg_put_null(params);
    else
        pg_put_int8(params, row->version);
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
    {PG_TIMESTAMPTZ, put_due},   {PG_INT2, put_priority},     {PG_INT2, put_partition},
    {PG_INT8, put_version},      {PG_TEXT, put_ordering_key}, {PG_TEXT, put_control_id},
    {PG_TEXT, put_message_type}, {PG_TEXT, put_sender},       {PG_TEXT, put_content_type},
    {PG_BYTEA, put_meta},        {PG_BYTEA, put_body},
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

/* ---- dedup keys ---- */

static int compare_keys(const void *left, const void *right, void *arg)
{
    struct store_message *const *rows = arg;
    const struct store_message *a = rows[*(const size_t *)left], *b = rows[*(const size_t *)right];
    return memcmp(a->dedup_key.bytes, b->dedup_key.bytes, sizeof(a->dedup_key.bytes));
}

size_t store_sort_keys(struct store_message *const *rows, size_t count, size_t *order,
                       bool *ret_twins)
{
    size_t key_count = 0;
    *ret_twins = false;
    for (size_t i = 0; i < count; i++) {
        if (!uuid_is_none(rows[i]->dedup_key))
            order[key_count++] = i;
    }
    /* Two batches that meet in some keys take them in the same order. */
    qsort_r(order, key_count, sizeof(*order), compare_keys, (void *)rows);
    for (size_t i = 1; i < key_count; i++)
        *ret_twins |= compare_keys(&order[i - 1], &order[i], (void *)rows) == 0;
    return key_count;
}

static int64_t window_of(const struct store_message *row)
{
    return row->dedup_window_ms > STORE_DEDUP_MAX_MS ? STORE_DEDUP_MAX_MS : row->dedup_window_ms;
}

void store_put_keys(struct pg_params *params, struct store_message *const *rows, size_t count,
                    const size_t *order, size_t key_count, bool with_flags)
{
    pg_array_begin(params, PG_UUID, key_count);
    for (size_t i = 0; i < key_count; i++)
        pg_put_uuid(params, rows[order[i]]->id);
    pg_param_end(params);
    pg_array_begin(params, PG_UUID, key_count);
    for (size_t i = 0; i < key_count; i++)
        pg_put_uuid(params, rows[order[i]]->dedup_key);
    pg_param_end(params);
    pg_array_begin(params, PG_UUID, key_count);
    for (size_t i = 0; i < key_count; i++)
        pg_put_uuid(params, rows[order[i]]->dedup_fingerprint);
    pg_param_end(params);
    pg_array_begin(params, PG_INT8, key_count);
    for (size_t i = 0; i < key_count; i++)
        pg_put_int8(params, window_of(rows[order[i]]));
    pg_param_end(params);
    if (!with_flags)
        return;
    pg_array_begin(params, PG_BOOL, count);
    for (size_t i = 0; i < count; i++)
        pg_put_bool(params, !uuid_is_none(rows[i]->dedup_key));
    pg_param_end(params);
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

static bool is_forgotten(const struct store_outcome *row)
{
    return row->forget && row->end == STORE_COMPLETED;
}

/* A completed message has a reply, if an empty one. */
static void put_reply(struct pg_params *params, const struct store_outcome *row)
{
    if (!is_forgotten(row) && (row->reply.len || row->end == STORE_COMPLETED))
        pg_put_bytes(params, row->reply);
    else
        pg_put_null(params);
}

static void put_reply_type(struct pg_params *params, const struct store_outcome *row)
{
    if (is_forgotten(row))
        pg_put_null(params);
    else
        pg_put_text_or_null(params, row->reply_content_type, PG_TEXT_CHARS);
}

static void put_lease_token(struct pg_params *params, const struct store_outcome *row)
{
    pg_put_int8(params, row->lease_token);
}

static void put_forgotten(struct pg_params *params, const struct store_outcome *row)
{
    if (is_forgotten(row))
        pg_put_bool(params, true);
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

static const struct outcome_column lease_column[] = {{PG_INT8, put_lease_token}};
static const struct outcome_column forgotten_column[] = {{PG_BOOL, put_forgotten}};

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

const struct store_message *store_next_message(struct outcome_messages *walk,
                                               const struct store_outcome **ret_owner,
                                               struct store_message **ret_child)
{
    for (; walk->row < walk->count; walk->row++, walk->at = 0) {
        const struct store_outcome *row = walk->rows[walk->row];
        const struct store_message *own = is_forgotten(row) ? NULL : row->message;
        size_t own_count = own != NULL;
        if (walk->at == own_count + row->child_count)
            continue;
        *ret_owner = row;
        *ret_child = walk->at < own_count ? NULL : &row->children[walk->at - own_count];
        walk->at++;
        return *ret_child ? *ret_child : own;
    }
    return NULL;
}

/* In the order of the rows given, not of their ids: it is the order of their seq. */
static void put_outcome_messages(struct pg_params *params, struct store_outcome *const *rows,
                                 size_t count, bool with_owners)
{
    struct outcome_messages walk = {.rows = rows, .count = count};
    const struct store_outcome *owner;
    struct store_message *child;
    size_t message_count = 0, at = 0;
    while (store_next_message(&walk, &owner, &child))
        message_count++;
    struct store_message **messages = mem_array(message_count, sizeof(*messages));
    struct uuid *owners = mem_array(message_count, sizeof(*owners));
    walk = (struct outcome_messages){.rows = rows, .count = count};
    for (const struct store_message *m; (m = store_next_message(&walk, &owner, &child)); at++) {
        messages[at] = (struct store_message *)m; /* only read */
        owners[at] = owner->id;
    }
    store_put_messages(params, messages, message_count);
    if (with_owners)
        pg_param_uuids(params, owners, message_count);
    free(messages);
    free(owners);
}

enum settle_shape store_settle_shape(struct store_outcome *const *rows, size_t count)
{
    bool leased = false, rest = false, whole = false;
    for (size_t i = 0; i < count; i++) {
        leased |= rows[i]->lease_token != 0;
        rest |= rows[i]->end == STORE_RETRY || rows[i]->child_count;
        whole |= rows[i]->message || is_forgotten(rows[i]);
    }
    if (whole || (leased && rest))
        return SETTLE_WHOLE;
    return leased ? SETTLE_LEASED : rest ? SETTLE_REST : SETTLE_ENDS;
}

static int compare_rows(const void *left, const void *right, void *arg)
{
    struct store_outcome *const *rows = arg;
    size_t a = *(const size_t *)left, b = *(const size_t *)right;
    int by_id = memcmp(rows[a]->id.bytes, rows[b]->id.bytes, sizeof(rows[a]->id.bytes));
    return by_id ? by_id : a < b ? -1 : a > b;
}

void store_put_outcomes(struct pg_params *params, struct store_outcome *const *rows, size_t *order,
                        size_t count, enum settle_shape shape)
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
    if (shape == SETTLE_LEASED)
        put_columns(params, lease_column, 1, rows, order, count, false);
    if (shape == SETTLE_ENDS || shape == SETTLE_LEASED)
        return;
    put_columns(params, retry_columns, sizeof(retry_columns) / sizeof(retry_columns[0]), rows,
                order, count, true);
    put_outcome_messages(params, rows, count, shape == SETTLE_WHOLE);
    if (shape == SETTLE_REST)
        return;
    put_columns(params, lease_column, 1, rows, order, count, false);
    put_columns(params, lease_column, 1, rows, order, count, true);
    put_columns(params, forgotten_column, 1, rows, order, count, false);
}
