/* PostgreSQL's binary formats: parameters of one statement are mostly arrays, one element a row.
 * Owns nothing. What does not fit sets params->failed. */
#ifndef HIE_STORE_PG_ENCODE_H
#define HIE_STORE_PG_ENCODE_H

#include "base/bytes.h"
#include "base/uuid.h"
#include "link/pg_link.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Object ids of built-in types, fixed for ever (PostgreSQL's pg_type.dat). */
enum pg_type {
    PG_BOOL = 16,
    PG_BYTEA = 17,
    PG_INT8 = 20,
    PG_INT2 = 21,
    PG_INT4 = 23,
    PG_TEXT = 25,
    PG_TIMESTAMPTZ = 1184,
    PG_UUID = 2950,
};

#define PG_TEXT_CHARS 199   /* characters kept of a text column */
#define PG_ERROR_CHARS 1000 /* of an error */

/* Opens an array parameter of `count` elements; each is put by one pg_put_…, then pg_param_end. */
void pg_array_begin(struct pg_params *params, enum pg_type type, size_t count);

void pg_put_null(struct pg_params *params);
void pg_put_bool(struct pg_params *params, bool value);
void pg_put_int2(struct pg_params *params, int value);
void pg_put_int4(struct pg_params *params, int32_t value);
void pg_put_int8(struct pg_params *params, int64_t value);
void pg_put_time(struct pg_params *params, int64_t wall_us); /* 0: NULL */
void pg_put_uuid(struct pg_params *params, struct uuid id);
void pg_put_uuid_or_null(struct pg_params *params, struct uuid id); /* UUID_NONE: NULL */
void pg_put_bytes(struct pg_params *params, struct slice bytes);
/* Made valid UTF-8 (a wrong byte becomes '?'), without NUL, capped. */
void pg_put_text(struct pg_params *params, struct slice text, size_t max_chars);
void pg_put_text_or_null(struct pg_params *params, struct slice text,
                         size_t max_chars); /* empty: NULL */

/* Whole parameters. */
void pg_param_uuid(struct pg_params *params, struct uuid id);
void pg_param_int8(struct pg_params *params, int64_t value);
void pg_param_text(struct pg_params *params, struct slice text, size_t max_chars);
void pg_param_uuids(struct pg_params *params, const struct uuid *ids, size_t count);

/* Results in binary format; NULL gives 0, false, UUID_NONE, empty. */
int64_t pg_get_int(const struct pg_result *result, size_t row,
                   unsigned column); /* int2, int4, int8 */
bool pg_get_bool(const struct pg_result *result, size_t row, unsigned column);
int64_t pg_get_time(const struct pg_result *result, size_t row, unsigned column); /* wall µs */
struct uuid pg_get_uuid(const struct pg_result *result, size_t row, unsigned column);
struct slice pg_get_bytes(const struct pg_result *result, size_t row, unsigned column);
/* NUL-terminated by libpq. */
const char *pg_get_text(const struct pg_result *result, size_t row, unsigned column);
/* A one-dimensional uuid[]: points into the result at 20-byte elements, each 4 bytes of length and
 * the id. */
size_t pg_get_uuids(const struct pg_result *result, size_t row, unsigned column, struct uuid *ret,
                    size_t max);

#endif
