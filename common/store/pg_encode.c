/* PostgreSQL's binary formats, network byte order throughout (the send and receive functions of its
 * types; the array format is array_recv's: dimensions, has-null flag, element type, length, lower
 * bound, then elements). */
#include "store/pg_encode.h"

#include "base/bug.h"

#define EPOCH_2000_US 946684800000000 /* 2000-01-01 in µs since 1970 */

static void put_u32_at(char *at, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        at[i] = (char)(number >> (24 - 8 * i));
}

static void put_u64_at(char *at, uint64_t number)
{
    put_u32_at(at, (uint32_t)(number >> 32));
    put_u32_at(at + 4, (uint32_t)number);
}

static uint64_t get_number(struct slice bytes)
{
    uint64_t number = 0;
    for (size_t i = 0; i < bytes.len; i++)
        number = number << 8 | (uint8_t)bytes.ptr[i];
    return number;
}

/* ---- elements ---- */

void pg_array_begin(struct pg_params *params, enum pg_type type, size_t count)
{
    char head[20];
    pg_param_begin(params);
    put_u32_at(head, count ? 1 : 0);
    put_u32_at(head + 4, 1); /* may hold NULL */
    put_u32_at(head + 8, (uint32_t)type);
    put_u32_at(head + 12, (uint32_t)count);
    put_u32_at(head + 16, 1);
    pg_param_put(params, head, count ? 20 : 12);
}

static void put_element(struct pg_params *params, const void *ptr, size_t len)
{
    char head[4];
    put_u32_at(head, (uint32_t)len);
    pg_param_put(params, head, 4);
    pg_param_put(params, ptr, len);
}

/* Small elements in one go: their length and their bytes. */
static void put_small(struct pg_params *params, const char *bytes, size_t len)
{
    char element[4 + 16];
    BUG_ON(len > 16);
    put_u32_at(element, (uint32_t)len);
    memcpy(element + 4, bytes, len);
    pg_param_put(params, element, 4 + len);
}

void pg_put_null(struct pg_params *params)
{
    pg_param_put(params, "\xff\xff\xff\xff", 4);
}

void pg_put_bool(struct pg_params *params, bool value)
{
    put_small(params, value ? "\1" : "\0", 1);
}

void pg_put_int2(struct pg_params *params, int value)
{
    char bytes[2] = {(char)(value >> 8), (char)value};
    put_small(params, bytes, 2);
}

void pg_put_int4(struct pg_params *params, int32_t value)
{
    char bytes[4];
    put_u32_at(bytes, (uint32_t)value);
    put_small(params, bytes, 4);
}

void pg_put_int8(struct pg_params *params, int64_t value)
{
    char bytes[8];
    put_u64_at(bytes, (uint64_t)value);
    put_small(params, bytes, 8);
}

void pg_put_time(struct pg_params *params, int64_t wall_us)
{
    if (wall_us)
        pg_put_int8(params, wall_us - EPOCH_2000_US);
    else
        pg_put_null(params);
}

void pg_put_uuid(struct pg_params *params, struct uuid id)
{
    put_small(params, (const char *)id.bytes, sizeof(id.bytes));
}

void pg_put_uuid_or_null(struct pg_params *params, struct uuid id)
{
    if (uuid_is_none(id))
        pg_put_null(params);
    else
        pg_put_uuid(params, id);
}

void pg_put_bytes(struct pg_params *params, struct slice bytes)
{
    if (bytes.len > PG_PARAMS_BYTES)
        params->failed = true;
    else
        put_element(params, bytes.ptr, bytes.len);
}

/* ---- text ---- */

/* The length of the well-formed UTF-8 sequence at `at` (Unicode 15, table 3-7), 0: there is none.
 */
static size_t utf8_len(const uint8_t *at, size_t left)
{
    uint8_t first = at[0], low = 0x80, high = 0xbf;
    size_t len = first < 0x80   ? 1
                 : first < 0xc2 ? 0
                 : first < 0xe0 ? 2
                 : first < 0xf0 ? 3
                 : first < 0xf5 ? 4
                                : 0;
    if (len < 2 || len > left)
        return len == 1;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

static void put_clean(struct pg_params *params, struct slice text, size_t max_chars)
{
    const uint8_t *at = (const uint8_t *)text.ptr;
    size_t from = 0, i = 0, chars = 0;
    while (i < text.len && chars < max_chars) {
        size_t len = at[i] ? utf8_len(at + i, text.len - i) : 0;
        if (len) {
            i += len;
            chars++;
            continue;
        }
        pg_param_put(params, text.ptr + from, i - from);
        if (at[i]) {
            pg_param_put(params, "?", 1);
            chars++;
        }
        from = ++i;
    }
    if (i > from)
        pg_param_put(params, text.ptr + from, i - from);
}

void pg_put_text(struct pg_params *params, struct slice text, size_t max_chars)
{
    size_t head = params->bytes.len;
    pg_param_put(params, "\0\0\0\0", 4);
    put_clean(params, text, max_chars);
    if (!params->failed)
        put_u32_at(params->bytes.data + head, (uint32_t)(params->bytes.len - head - 4));
}

void pg_put_text_or_null(struct pg_params *params, struct slice text, size_t max_chars)
{
    if (text.len)
        pg_put_text(params, text, max_chars);
    else
        pg_put_null(params);
}

/* ---- whole parameters ---- */

void pg_param_uuid(struct pg_params *params, struct uuid id)
{
    pg_param_begin(params);
    pg_param_put(params, id.bytes, sizeof(id.bytes));
    pg_param_end(params);
}

void pg_param_int8(struct pg_params *params, int64_t value)
{
    char bytes[8];
    put_u64_at(bytes, (uint64_t)value);
    pg_param_begin(params);
    pg_param_put(params, bytes, sizeof(bytes));
    pg_param_end(params);
}

void pg_param_text(struct pg_params *params, struct slice text, size_t max_chars)
{
    pg_param_begin(params);
    put_clean(params, text, max_chars);
    pg_param_end(params);
}

void pg_param_uuids(struct pg_params *params, const struct uuid *ids, size_t count)
{
    pg_array_begin(params, PG_UUID, count);
    for (size_t i = 0; i < count; i++)
        pg_put_uuid(params, ids[i]);
    pg_param_end(params);
}

/* ---- results ---- */

int64_t pg_get_int(const struct pg_result *result, size_t row, unsigned column)
{
    struct slice value = pg_result_value(result, row, column);
    uint64_t number = get_number(value);
    switch (value.len) {
    case 2:
        return (int16_t)number;
    case 4:
        return (int32_t)number;
    default:
        return (int64_t)number;
    }
}

bool pg_get_bool(const struct pg_result *result, size_t row, unsigned column)
{
    struct slice value = pg_result_value(result, row, column);
    return value.len == 1 && value.ptr[0];
}

int64_t pg_get_time(const struct pg_result *result, size_t row, unsigned column)
{
    if (pg_result_is_null(result, row, column))
        return 0;
    return pg_get_int(result, row, column) + EPOCH_2000_US;
}

struct uuid pg_get_uuid(const struct pg_result *result, size_t row, unsigned column)
{
    struct slice value = pg_result_value(result, row, column);
    struct uuid id = UUID_NONE;
    if (value.len == sizeof(id.bytes))
        memcpy(id.bytes, value.ptr, sizeof(id.bytes));
    return id;
}

struct slice pg_get_bytes(const struct pg_result *result, size_t row, unsigned column)
{
    return pg_result_value(result, row, column);
}

const char *pg_get_text(const struct pg_result *result, size_t row, unsigned column)
{
    return pg_result_value(result, row, column).ptr;
}

size_t pg_get_uuids(const struct pg_result *result, size_t row, unsigned column, struct uuid *ret,
                    size_t max)
{
    struct slice value = pg_result_value(result, row, column);
    if (value.len < 20)
        return 0;
    size_t count = (value.len - 20) / 20;
    if (count > max)
        count = max;
    for (size_t i = 0; i < count; i++)
        memcpy(ret[i].bytes, value.ptr + 20 + 20 * i + 4, sizeof(ret[i].bytes));
    return count;
}
