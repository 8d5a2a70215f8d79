/* The binary parameters that PostgreSQL gets, byte by byte, and the cleaning of text. */
#include "store/pg_encode.h"
#include "store/store_pg.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static void start(struct pg_params *params, size_t max)
{
    memset(params, 0, sizeof(*params));
    buffer_init(&params->bytes, max);
}

static void expect(const struct pg_params *params, unsigned index, const char *bytes, size_t len)
{
    ck_assert(!params->failed);
    ck_assert_uint_lt(index, params->count);
    ck_assert_int_eq(params->list[index].len, (int)len);
    if (len)
        ck_assert_mem_eq(params->bytes.data + params->list[index].start, bytes, len);
}

START_TEST(test_arrays)
{
    struct pg_params params;
    start(&params, 1 << 20);
    pg_array_begin(&params, PG_INT4, 2);
    pg_put_int4(&params, -2);
    pg_put_null(&params);
    pg_param_end(&params);
    static const char numbers[] = "\0\0\0\1\0\0\0\1\0\0\0\27\0\0\0\2\0\0\0\1"
                                  "\0\0\0\4\377\377\377\376\377\377\377\377";
    expect(&params, 0, numbers, sizeof(numbers) - 1);
    pg_array_begin(&params, PG_TEXT, 0);
    pg_param_end(&params);
    static const char none[] = "\0\0\0\0\0\0\0\1\0\0\0\31";
    expect(&params, 1, none, sizeof(none) - 1);
    pg_array_begin(&params, PG_TIMESTAMPTZ, 2);
    pg_put_time(&params, 946684800000001);
    pg_put_time(&params, 0);
    pg_param_end(&params);
    static const char times[] = "\0\0\0\1\0\0\0\1\0\0\4\240\0\0\0\2\0\0\0\1"
                                "\0\0\0\10\0\0\0\0\0\0\0\1\377\377\377\377";
    expect(&params, 2, times, sizeof(times) - 1);
    pg_param_int8(&params, INT64_MIN);
    expect(&params, 3, "\200\0\0\0\0\0\0\0", 8);
    pg_param_null(&params);
    ck_assert_int_eq(params.list[4].len, -1);
    buffer_done(&params.bytes);
}
END_TEST

START_TEST(test_limits)
{
    struct pg_params params;
    start(&params, 64);
    pg_array_begin(&params, PG_BYTEA, 1);
    pg_put_bytes(&params, slice_of("0123456789012345678901234567890123456789", 40));
    ck_assert(!params.failed);
    pg_put_text(&params, SLICE_LITERAL("x"), 10);
    pg_put_uuid(&params, UUID_NONE);
    ck_assert(params.failed);
    buffer_done(&params.bytes);
}
END_TEST

static const struct {
    const char *in;
    size_t len;
    size_t max;
    const char *out;
} texts[] = {
    {"", 0, 9, ""},
    {"plain", 5, 9, "plain"},
    {"a\0b\0", 4, 9, "ab"},
    {"M\xc3\xbcller", 7, 9, "M\xc3\xbcller"},
    {"M\xfcller", 6, 9, "M?ller"},
    {"\xc3", 1, 9, "?"},
    {"\xc0\x80", 2, 9, "??"},           /* overlong */
    {"\xed\xa0\x80", 3, 9, "???"},      /* surrogate */
    {"\xf4\x90\x80\x80", 4, 9, "????"}, /* past U+10FFFF */
    {"\xe0\x80\x80x", 4, 9, "???x"},    /* overlong */
    {"\xf0\x9f\x98\x80!", 5, 9, "\xf0\x9f\x98\x80!"},
    {"\xe2\x82", 2, 9, "??"},                               /* cut off */
    {"\xc3\xbc\xc3\xbc\xc3\xbc", 6, 2, "\xc3\xbc\xc3\xbc"}, /* characters, not bytes */
    {"\xff\xff\xff", 3, 2, "??"},
    {"\0\0abc", 5, 2, "ab"},
};

START_TEST(test_text)
{
    struct pg_params params;
    start(&params, 1 << 20);
    pg_param_text(&params, slice_of(texts[_i].in, texts[_i].len), texts[_i].max);
    expect(&params, 0, texts[_i].out, strlen(texts[_i].out));
    pg_param_begin(&params);
    pg_put_text(&params, slice_of(texts[_i].in, texts[_i].len), texts[_i].max);
    pg_param_end(&params);
    char element[64];
    size_t len = strlen(texts[_i].out);
    memcpy(element, (char[4]){0, 0, 0, (char)len}, 4);
    memcpy(element + 4, texts[_i].out, len);
    expect(&params, 1, element, len + 4);
    buffer_done(&params.bytes);
}
END_TEST

START_TEST(test_messages)
{
    struct pg_params params;
    struct store_message a = {.item = "A", .due_ms = INT64_MAX, .received_us = 1, .priority = 9};
    struct store_message b = {.item = "B", .due_ms = -5, .received_us = 1};
    struct store_message *rows[] = {&a, &b};
    start(&params, 1 << 20);
    store_put_messages(&params, rows, 2);
    ck_assert_uint_eq(params.count, 17);
    ck_assert(!params.failed);
    buffer_done(&params.bytes);
}
END_TEST

START_TEST(test_outcome_order)
{
    struct pg_params params;
    struct store_outcome rows[4], *list[4];
    memset(rows, 0, sizeof(rows));
    for (int i = 0; i < 4; i++) {
        rows[i].item = "A";
        rows[i].id.bytes[0] = (uint8_t)(9 - i);
        list[i] = &rows[i];
    }
    rows[3].id = rows[1].id; /* the same id twice: the earlier row first */
    size_t order[4];
    start(&params, 1 << 20);
    store_put_outcomes(&params, list, order, 4, SETTLE_REST);
    ck_assert_uint_eq(params.count, 39);
    ck_assert_uint_eq(order[0], 2);
    ck_assert_uint_eq(order[1], 1);
    ck_assert_uint_eq(order[2], 3);
    ck_assert_uint_eq(order[3], 0);
    expect(&params, 0, (const char *)rows[2].id.bytes, 16);
    expect(&params, 1, (const char *)rows[0].id.bytes, 16);
    buffer_done(&params.bytes);
}
END_TEST

/* Which statement, and as many parameters as it has. */
START_TEST(test_shapes)
{
    struct pg_params params;
    struct store_message message = {.item = "A"}, child = {.item = "B"};
    struct store_outcome rows[2], *list[2] = {&rows[0], &rows[1]};
    size_t order[2];
    static const unsigned counts[] = {
        [SETTLE_ENDS] = 14, [SETTLE_LEASED] = 15, [SETTLE_REST] = 39, [SETTLE_WHOLE] = 43};
    for (unsigned bits = 0; bits < 32; bits++) {
        memset(rows, 0, sizeof(rows));
        rows[0].item = rows[1].item = "A";
        rows[1].lease_token = bits & 1 ? 7 : 0;
        rows[1].end = bits & 2 ? STORE_RETRY : STORE_COMPLETED;
        rows[0].children = bits & 4 ? &child : NULL;
        rows[0].child_count = bits & 4 ? 1 : 0;
        rows[0].message = bits & 8 ? &message : NULL;
        rows[1].forget = bits & 16;
        bool forgotten = rows[1].forget && rows[1].end == STORE_COMPLETED;
        enum settle_shape shape = store_settle_shape(list, 2);
        enum settle_shape expected = SETTLE_ENDS;
        if (bits & 8 || forgotten || (bits & 1 && bits & 6))
            expected = SETTLE_WHOLE;
        else if (bits & 6)
            expected = SETTLE_REST;
        else if (bits & 1)
            expected = SETTLE_LEASED;
        ck_assert_int_eq(shape, expected);
        start(&params, 1 << 20);
        store_put_outcomes(&params, list, order, 2, shape);
        ck_assert(!params.failed);
        ck_assert_uint_eq(params.count, counts[shape]);
        buffer_done(&params.bytes);
    }
}
END_TEST

/* Each outcome's own message, then its children; what is to be forgotten has none. */
START_TEST(test_outcome_messages)
{
    struct store_message own[3], children[2];
    struct store_outcome rows[4], *list[4];
    memset(rows, 0, sizeof(rows));
    for (int i = 0; i < 4; i++)
        list[i] = &rows[i];
    rows[0].message = &own[0];
    rows[1].message = &own[1];
    rows[1].children = children;
    rows[1].child_count = 2;
    rows[2].message = &own[2];
    rows[2].forget = true;
    struct outcome_messages walk = {.rows = list, .count = 4};
    const struct store_outcome *owner;
    struct store_message *child;
    ck_assert_ptr_eq(store_next_message(&walk, &owner, &child), &own[0]);
    ck_assert(owner == &rows[0] && !child);
    ck_assert_ptr_eq(store_next_message(&walk, &owner, &child), &own[1]);
    ck_assert(owner == &rows[1] && !child);
    ck_assert_ptr_eq(store_next_message(&walk, &owner, &child), &children[0]);
    ck_assert(owner == &rows[1] && child == &children[0]);
    ck_assert_ptr_eq(store_next_message(&walk, &owner, &child), &children[1]);
    ck_assert_ptr_null(store_next_message(&walk, &owner, &child));
    ck_assert_ptr_null(store_next_message(&walk, &owner, &child));
}
END_TEST

START_TEST(test_keys)
{
    struct pg_params params;
    struct store_message rows[4], *list[4];
    size_t order[4];
    bool twins;
    memset(rows, 0, sizeof(rows));
    for (int i = 0; i < 4; i++) {
        rows[i].dedup_key.bytes[0] = (uint8_t)(i == 1 ? 0 : 9 - i); /* the second has none */
        rows[i].dedup_window_ms = INT64_MAX;
        list[i] = &rows[i];
    }
    ck_assert_uint_eq(store_sort_keys(list, 4, order, &twins), 3);
    ck_assert(!twins);
    ck_assert(order[0] == 3 && order[1] == 2 && order[2] == 0);
    start(&params, 1 << 20);
    store_put_keys(&params, list, 4, order, 3, true);
    ck_assert_uint_eq(params.count, 5);
    /* The last window of three: capped to a day. */
    ck_assert_mem_eq(params.bytes.data + params.list[3].start + 20 + 2 * 12 + 4,
                     "\0\0\0\0\5\46\134\0", 8);
    rows[2].dedup_key = rows[0].dedup_key;
    store_sort_keys(list, 4, order, &twins);
    ck_assert(twins);
    buffer_done(&params.bytes);
}
END_TEST

START_TEST(test_errors)
{
    char sqlstate[6] = "";
    ck_assert(
        pg_find_sqlstate("connection to server at \"::1\", port 5432 failed: Connection refused\n"
                         "connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  28P01\n",
                         sqlstate));
    ck_assert_str_eq(sqlstate, "28P01");
    ck_assert(pg_find_sqlstate("FATAL:  53300", sqlstate));
    ck_assert_str_eq(sqlstate, "53300");
    ck_assert(!pg_find_sqlstate("", sqlstate));
    ck_assert(!pg_find_sqlstate("FATAL:  28P01 and more\n", sqlstate));
    ck_assert(
        !pg_find_sqlstate("at \"127.0.0.1\", port 5432 failed: Connection refused\n", sqlstate));
    ck_assert_str_eq(sqlstate, "53300");
    ck_assert_int_eq(pg_error_code("22021"), ERR_INVALID);
    ck_assert_int_eq(pg_error_code("23505"), ERR_INVALID);
    ck_assert_int_eq(pg_error_code("54000"), ERR_INVALID);
    ck_assert_int_eq(pg_error_code("42P01"), ERR_SCHEMA);
    ck_assert_int_eq(pg_error_code("53100"), ERR_UNAVAILABLE);
    ck_assert_int_eq(pg_error_code("40P01"), ERR_UNAVAILABLE);
    ck_assert_int_eq(pg_error_code("25006"), ERR_UNAVAILABLE);
}
END_TEST

START_TEST(test_id_ranges)
{
    struct uuid id = uuid_new(1234567890123);
    struct id_range same = id_range_same_time(id);
    struct uuid child = uuid_child(id, 1, 2, 3);
    ck_assert_int_le(memcmp(same.low.bytes, child.bytes, 16), 0);
    ck_assert_int_ge(memcmp(same.high.bytes, child.bytes, 16), 0);
    ck_assert_int_eq(uuid_wall_ms(same.low), 1234567890123);
    ck_assert_int_eq(uuid_wall_ms(same.high), 1234567890123);
    struct id_range range = {UUID_NONE, UUID_NONE};
    id_range_add(&range, same.high, true);
    ck_assert(uuid_equal(range.low, same.high) && uuid_equal(range.high, same.high));
    id_range_add(&range, same.low, false);
    id_range_add(&range, id, false);
    ck_assert(uuid_equal(range.low, same.low) && uuid_equal(range.high, same.high));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_encode");
    TCase *all = tcase_create("all");
    tcase_add_test(all, test_arrays);
    tcase_add_test(all, test_limits);
    tcase_add_loop_test(all, test_text, 0, sizeof(texts) / sizeof(texts[0]));
    tcase_add_test(all, test_messages);
    tcase_add_test(all, test_outcome_order);
    tcase_add_test(all, test_shapes);
    tcase_add_test(all, test_outcome_messages);
    tcase_add_test(all, test_keys);
    tcase_add_test(all, test_errors);
    tcase_add_test(all, test_id_ranges);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner), run = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || run == 0;
}
