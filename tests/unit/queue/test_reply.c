/* The publication of a reply: there and back, and what a stranger may publish. */
#include "queue/queue_reply.h"

#include <check.h>
#include <stdlib.h>

static struct buffer packed;
static char error[QUEUE_REPLY_ERROR_MAX];

static const struct queue_reply whole = {
    .id = {{1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, 16}},
    .status = "completed",
    .content_type = {"x-application/hl7-v2+er7", 24},
    .body = {"MSA|AA\0|", 8},
};

static void setup(void)
{
    buffer_init(&packed, 1u << 20);
}

static void teardown(void)
{
    buffer_done(&packed);
}

/* As the Function publishes it: the body stands behind the head. */
static bool there_and_back(const struct queue_reply *in, struct queue_reply *ret)
{
    buffer_clear(&packed);
    if (queue_reply_pack(in, &packed))
        buffer_append(&packed, in->body.ptr, in->body.len);
    return queue_reply_unpack(buffer_slice(&packed), error, ret);
}

START_TEST(completed)
{
    struct queue_reply out;
    ck_assert(there_and_back(&whole, &out));
    ck_assert(uuid_equal(out.id, whole.id));
    ck_assert_str_eq(out.status, "completed");
    ck_assert_ptr_null(out.error);
    ck_assert(slice_equal(out.content_type, whole.content_type));
    ck_assert(slice_equal(body_slice(out.body), body_slice(whole.body)));
    ck_assert(!out.left_out);
}
END_TEST

START_TEST(every_end)
{
    static const char *const ends[] = {"completed", "dead_lettered", "expired", "cancelled"};
    struct queue_reply in = {.id = whole.id, .status = ends[_i], .error = "receiver: 500"}, out;
    ck_assert(there_and_back(&in, &out));
    ck_assert_str_eq(out.status, ends[_i]);
    ck_assert_str_eq(out.error, "receiver: 500");
    ck_assert_uint_eq(out.body.len, 0);
    ck_assert(!out.left_out);
}
END_TEST

START_TEST(sizes)
{
    static const size_t lens[] = {0, 1, 255, 256, 65535, 65536, 65537, 1u << 19};
    char *bytes = calloc(1, 1u << 19);
    struct queue_reply in = whole, out;
    in.body = body_of(bytes, lens[_i]);
    ck_assert(there_and_back(&in, &out));
    ck_assert_int_eq(out.left_out, lens[_i] > MESSAGE_INLINE_MAX);
    ck_assert_uint_eq(out.body.len, out.left_out ? 0 : lens[_i]);
    in.left_out = true;
    ck_assert(there_and_back(&in, &out));
    ck_assert(out.left_out && out.body.len == 0);
    free(bytes);
}
END_TEST

START_TEST(longest_head_fits)
{
    char text[2000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    struct queue_reply in = whole, out;
    in.error = text;
    in.status = "dead_lettered";
    in.content_type = slice_of(text, META_CONTENT_TYPE_MAX);
    in.body = body_of("", 0);
    ck_assert(there_and_back(&in, &out));
    ck_assert_uint_le(packed.len, QUEUE_REPLY_HEAD_MAX);
    ck_assert_uint_eq(strlen(out.error), QUEUE_REPLY_ERROR_MAX - 1);
    ck_assert_uint_eq(out.content_type.len, META_CONTENT_TYPE_MAX);
    in.content_type.len++;
    ck_assert(there_and_back(&in, &out));
    ck_assert_uint_eq(out.content_type.len, 0);
}
END_TEST

#define BYTES(text)                                                                                \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }
#define CID                                                                                        \
    "\xa3"                                                                                         \
    "cid\xc4\x10"                                                                                  \
    "0123456789abcdef"
#define STATUS                                                                                     \
    "\xa6status\xa9"                                                                               \
    "completed"

static const struct slice good[] = {
    BYTES("\x82" CID STATUS),
    BYTES("\x83" CID STATUS "\xa3new\x93\x01\x02\x80"),
    BYTES("\x83" CID STATUS "\xa8left_out\xc3"),
    BYTES("\x83" STATUS "\xa4"
          "body\xc4\x01x" CID),
};

START_TEST(what_others_may_pack)
{
    struct queue_reply out;
    ck_assert(queue_reply_unpack(good[_i], error, &out));
}
END_TEST

static const struct slice bad[] = {
    BYTES(""),
    BYTES("\x80"),
    BYTES("text"),
    BYTES("\x81" CID),
    BYTES("\x81" STATUS),
    BYTES("\x82" CID "\xa6status\xa5wrong"),
    BYTES("\x82" CID "\xa6status\x01"),
    BYTES("\x82" STATUS "\xa3"
          "cid\xc4\x0f"
          "0123456789abcde"),
    BYTES("\x82" STATUS "\xa3"
          "cid\xa1x"),
    BYTES("\x82" CID STATUS "\x01"), /* bytes behind */
    BYTES("\x83" CID STATUS),        /* too few */
    BYTES("\x83" CID STATUS "\xa4"
          "body\xa1x"), /* a text */
    BYTES("\x83" CID STATUS "\xa4"
          "body\xc6\xff\xff\xff\xff"),
    BYTES("\x83" CID STATUS "\xa5"
          "error\x01"),
    BYTES("\x83" CID STATUS "\xa5"
          "error\xdb\x7f\xff\xff\xff"),
    BYTES("\x83" CID STATUS "\xac"
          "content_type\x05"),
    BYTES("\x83" CID STATUS "\xa8left_out\xa1x"),
    BYTES("\xdf\xff\xff\xff\xff" CID STATUS),
    BYTES("\x83" CID STATUS "\xa1x\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01"),
};

START_TEST(what_is_refused)
{
    struct queue_reply out;
    ck_assert(!queue_reply_unpack(bad[_i], error, &out));
}
END_TEST

/* Each cut and each flipped bit of a good one: refused or read, within its bytes (the sanitizers watch). */
START_TEST(mutations)
{
    struct queue_reply in = whole, out;
    size_t read = 0;
    in.error = "no";
    ck_assert(there_and_back(&in, &out));
    for (size_t len = 0; len < packed.len; len++) {
        char *exact = malloc(len + 1);
        memcpy(exact, packed.data, len);
        ck_assert(!queue_reply_unpack(slice_of(exact, len), error, &out));
        free(exact);
    }
    for (size_t bit = 0; bit < packed.len * 8; bit++) {
        packed.data[bit / 8] ^= (char)(1 << bit % 8);
        read += queue_reply_unpack(buffer_slice(&packed), error, &out);
        packed.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    ck_assert_uint_gt(read, 128); /* all of the id, for one */
}
END_TEST

START_TEST(too_large_is_refused)
{
    char *bytes = calloc(1, MESSAGE_INLINE_MAX + 8192);
    struct queue_reply out;
    ck_assert(there_and_back(&whole, &out));
    packed.data[0]++;
    memcpy(bytes, packed.data, packed.len);
    memcpy(bytes + packed.len, "\xa1z\xc6\x00\x01\x10\x00", 7); /* an unknown key of 68 KiB */
    ck_assert(!queue_reply_unpack(slice_of(bytes, packed.len + 7 + 0x11000), error, &out));
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue reply");
    TCase *tests = tcase_create("reply");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, completed);
    tcase_add_loop_test(tests, every_end, 0, 4);
    tcase_add_loop_test(tests, sizes, 0, 8);
    tcase_add_test(tests, longest_head_fits);
    tcase_add_loop_test(tests, what_others_may_pack, 0, (int)(sizeof(good) / sizeof(good[0])));
    tcase_add_loop_test(tests, what_is_refused, 0, (int)(sizeof(bad) / sizeof(bad[0])));
    tcase_add_test(tests, mutations);
    tcase_add_test(tests, too_large_is_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
