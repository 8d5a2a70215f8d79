/* The meta map: there and back, what other packers make, and what is refused. */
#include "message/message.h"

#include <check.h>
#include <msgpack.h>
#include <stdlib.h>

static struct buffer packed;

static void setup(void)
{
    buffer_init(&packed, 1u << 20);
}

static void teardown(void)
{
    buffer_done(&packed);
}

static void check_same(const struct meta *a, const struct meta *b)
{
    ck_assert(slice_equal(a->content_type, b->content_type));
    ck_assert(slice_equal(a->traceparent, b->traceparent));
    ck_assert(uuid_equal(a->parent, b->parent));
    ck_assert_int_eq(a->reply, b->reply);
    ck_assert_int_eq(a->in_wal, b->in_wal);
    ck_assert_int_eq(a->stored, b->stored);
}

static const struct meta whole = {
    .content_type = {"x-application/hl7-v2+er7; charset=utf-8", 39},
    .traceparent = {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 55},
    .parent = {{1, 0, 2, 255, 4, 5, 0x70, 7, 0x80, 9, 10, 11, 12, 13, 14, 15}},
    .reply = true,
    .in_wal = true,
    .stored = true,
};

START_TEST(there_and_back)
{
    for (unsigned bits = 0; bits < 64; bits++) {
        struct meta in = whole, out;
        if (!(bits & 1))
            in.content_type = (struct slice){0};
        if (!(bits & 2))
            in.traceparent = (struct slice){0};
        if (!(bits & 4))
            in.parent = UUID_NONE;
        in.reply = bits & 8;
        in.in_wal = bits & 16;
        in.stored = bits & 32;
        buffer_clear(&packed);
        meta_pack(&in, &packed);
        ck_assert_int_eq(meta_unpack(buffer_slice(&packed), &out, NULL), 0);
        check_same(&in, &out);
    }
}
END_TEST

/* An independent reader agrees. */
START_TEST(is_a_msgpack_map)
{
    meta_pack(&whole, &packed);
    msgpack_unpacked result;
    msgpack_unpacked_init(&result);
    size_t at = 0;
    ck_assert_int_eq(msgpack_unpack_next(&result, packed.data, packed.len, &at),
                     MSGPACK_UNPACK_SUCCESS);
    ck_assert_uint_eq(at, packed.len);
    ck_assert_int_eq(result.data.type, MSGPACK_OBJECT_MAP);
    ck_assert_uint_eq(result.data.via.map.size, 6);
    msgpack_unpacked_destroy(&result);
}
END_TEST

START_TEST(appends)
{
    struct meta out;
    buffer_append_text(&packed, "before");
    meta_pack(&whole, &packed);
    ck_assert_int_eq(meta_unpack(slice_of(packed.data + 6, packed.len - 6), &out, NULL), 0);
    check_same(&whole, &out);
}
END_TEST

START_TEST(overlong_texts_are_left_out)
{
    static char text[1025];
    memset(text, 'x', sizeof(text));
    struct meta in = {.content_type = {text, 1024}, .traceparent = {text, 1025}}, out;
    meta_pack(&in, &packed);
    ck_assert_int_eq(meta_unpack(buffer_slice(&packed), &out, NULL), 0);
    ck_assert_uint_eq(out.content_type.len, 1024);
    ck_assert_uint_eq(out.traceparent.len, 0);
}
END_TEST

#define BYTES(text)                                                                                \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }
#define REPLY "\xa5reply"

static const struct {
    struct slice bytes;
    bool reply;
} good[] = {
    {BYTES(""), false},
    {BYTES("\x80"), false},
    {BYTES("\x81" REPLY "\x01"), true},
    {BYTES("\x81" REPLY "\xc3"), true},
    {BYTES("\x81" REPLY "\xc2"), false},
    {BYTES("\x81" REPLY "\x00"), false},
    {BYTES("\x81" REPLY "\xcc\x01"), true},                      /* uint 8 */
    {BYTES("\x81" REPLY "\xd3\0\0\0\0\0\0\0\x01"), true},        /* int 64 */
    {BYTES("\xde\0\x01" REPLY "\x01"), true},                    /* map 16 */
    {BYTES("\xdf\0\0\0\x01" REPLY "\x01"), true},                /* map 32 */
    {BYTES("\x81\xd9\x05reply\x01"), true},                      /* str 8 */
    {BYTES("\x82\xa1x\xc0" REPLY "\x01"), true},                 /* unknown: nil */
    {BYTES("\x82\xa1x\x92\x01\x81\x01\x02" REPLY "\x01"), true}, /* nested */
    {BYTES("\x82\xa1x\xcb\0\0\0\0\0\0\0\0" REPLY "\x01"), true}, /* float 64 */
    {BYTES("\x82\xa1x\xc7\x02\x05zz" REPLY "\x01"), true},       /* ext 8 */
    {BYTES("\x82\xa1x\xd6\x05zzzz" REPLY "\x01"), true},         /* fixext 4 */
    {BYTES("\x82\x07\xc4\x01z" REPLY "\x01"), true},             /* a key that is a number */
    {BYTES("\x82" REPLY "\x00" REPLY "\x01"), true},             /* twice: the last counts */
};

START_TEST(what_other_packers_make)
{
    struct meta meta = {.stored = true};
    struct err err;
    ck_assert_msg(meta_unpack(good[_i].bytes, &meta, &err) == 0, "%d: %s", _i, err.text);
    ck_assert_int_eq(meta.reply, good[_i].reply);
    ck_assert(!meta.stored);
}
END_TEST

static const struct slice bad[] = {
    BYTES("\xc0"),
    BYTES("\x01"),
    BYTES("text"),
    BYTES("\x90"),
    BYTES("\xc1"),
    BYTES("\x81"),
    BYTES("\x81" REPLY),
    BYTES("\x81" REPLY "\x02"),
    BYTES("\x81" REPLY "\xff"),
    BYTES("\x81" REPLY "\xa1y"),
    BYTES("\x81" REPLY "\x01\x01"), /* bytes behind */
    BYTES("\x81\xa6parent\xc4\x0f"
          "0123456789abcde"), /* 15 bytes */
    BYTES("\x81\xa6parent\xb0"
          "0123456789abcdef"), /* text */
    BYTES("\x81\xac"
          "content_type\x01"),
    BYTES("\x81\xac"
          "content_type\xc4\x01x"),
    BYTES("\x81\xa1x\xc1"),
    BYTES("\x81\xa1x\xdb\xff\xff\xff\xff"), /* 4 GiB of text */
    BYTES("\x81\xa1x\xc6\xff\xff\xff\xffz"),
    BYTES("\x81\xa1x\xc9\xff\xff\xff\xff\x01z"),
    BYTES("\x81\xa1x\xdd\xff\xff\xff\xff"), /* four billion members */
    BYTES("\x81\xa1x\xdf\xff\xff\xff\xff"),
    BYTES("\xdf\xff\xff\xff\xff"),
    BYTES("\x81\xa1x\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01"), /* too deep */
};

START_TEST(what_is_refused)
{
    struct meta meta = {.stored = true};
    struct err err = {.code = ERR_NONE};
    ck_assert_msg(meta_unpack(bad[_i], &meta, &err) == -1, "%d", _i);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert(meta.stored); /* untouched */
}
END_TEST

START_TEST(every_cut_is_refused)
{
    struct meta meta;
    meta_pack(&whole, &packed);
    for (size_t len = 1; len < packed.len; len++)
        ck_assert_int_eq(meta_unpack(slice_of(packed.data, len), &meta, NULL), -1);
}
END_TEST

START_TEST(size_is_bounded)
{
    static char bytes[65536 + 8] = "\x81\xa1x\xc6\0\0\xff\xf8";
    struct meta meta;
    ck_assert_int_eq(meta_unpack(slice_of(bytes, 65536), &meta, NULL), 0);
    memcpy(bytes + 4, "\0\0\xff\xf9", 4);
    ck_assert_int_eq(meta_unpack(slice_of(bytes, 65537), &meta, NULL), -1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("message meta");
    TCase *tests = tcase_create("meta");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, there_and_back);
    tcase_add_test(tests, is_a_msgpack_map);
    tcase_add_test(tests, appends);
    tcase_add_test(tests, overlong_texts_are_left_out);
    tcase_add_loop_test(tests, what_other_packers_make, 0, sizeof(good) / sizeof(good[0]));
    tcase_add_loop_test(tests, what_is_refused, 0, sizeof(bad) / sizeof(bad[0]));
    tcase_add_test(tests, every_cut_is_refused);
    tcase_add_test(tests, size_is_bounded);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
