/* Replies built into their arena: in one piece, byte by byte, kept, and hostile ones. */
#include "link/redis_reply.h"

#include <check.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>

static struct redis_reply *reply;
static redisReader *reader;

static void setup(void)
{
    reply = redis_reply_new();
    reader = redis_reader_new(&reply);
    ck_assert_ptr_nonnull(reader);
}

static void teardown(void)
{
    redisReaderFree(reader);
    redis_reply_free(reply);
}

/* 1: complete, 0: not yet, -1: broken */
static int feed(const char *bytes, size_t len)
{
    void *complete = NULL;
    if (redisReaderFeed(reader, bytes, len) != REDIS_OK ||
        redisReaderGetReply(reader, &complete) != REDIS_OK)
        return -1;
    return complete != NULL;
}

static void check_text(const struct redis_value *value, enum redis_kind kind, const char *text)
{
    ck_assert_int_eq(value->kind, kind);
    ck_assert_msg(slice_is(value->text, text), "%.*s", (int)value->text.len, value->text.ptr);
}

static const char nested[] = "*7\r\n$3\r\nabc\r\n:-42\r\n$-1\r\n*-1\r\n*0\r\n+OK\r\n"
                             "*2\r\n$5\r\na\0\r\nb\r\n*1\r\n-WRONGTYPE secret\r\n";

static void check_nested(void)
{
    const struct redis_value *root = &reply->root;
    ck_assert_int_eq(root->kind, REDIS_KIND_LIST);
    ck_assert_uint_eq(root->count, 7);
    check_text(redis_item(root, 0), REDIS_KIND_TEXT, "abc");
    ck_assert_int_eq(redis_item(root, 1)->integer, -42);
    ck_assert_int_eq(redis_item(root, 2)->kind, REDIS_KIND_NIL);
    ck_assert_int_eq(redis_item(root, 3)->kind, REDIS_KIND_NIL);
    ck_assert_int_eq(redis_item(root, 4)->kind, REDIS_KIND_LIST);
    ck_assert_uint_eq(redis_item(root, 4)->count, 0);
    check_text(redis_item(root, 5), REDIS_KIND_STATUS, "OK");
    const struct redis_value *inner = redis_item(root, 6);
    ck_assert(slice_equal(redis_item(inner, 0)->text, slice_of("a\0\r\nb", 5)));
    const struct redis_value *error = redis_item(redis_item(inner, 1), 0);
    ck_assert(redis_error_is(error, "WRONGTYPE"));
    ck_assert_int_eq(redis_item(root, 7)->kind, REDIS_KIND_NIL);
    ck_assert_int_eq(redis_item(error, 0)->kind, REDIS_KIND_NIL);
}

START_TEST(in_one_piece_and_byte_by_byte)
{
    size_t len = sizeof(nested) - 1;
    ck_assert_int_eq(feed(nested, len), 1);
    check_nested();
    redis_reply_reset(reply);
    for (size_t i = 0; i + 1 < len; i++)
        ck_assert_int_eq(feed(nested + i, 1), 0);
    ck_assert_int_eq(feed(nested + len - 1, 1), 1);
    check_nested();
}
END_TEST

START_TEST(many_sizes_and_reuse)
{
    static char text[300000], command[300100];
    memset(text, 'x', sizeof(text));
    for (size_t len = 0; len < sizeof(text); len = len * 3 + 1) {
        int head = snprintf(command, sizeof(command), "*3\r\n:1\r\n$%zu\r\n", len);
        memcpy(command + head, text, len);
        memcpy(command + head + len, "\r\n:2\r\n", 6);
        ck_assert_int_eq(feed(command, (size_t)head + len + 6), 1);
        ck_assert_uint_eq(redis_item(&reply->root, 1)->text.len, len);
        ck_assert_int_eq(redis_item(&reply->root, 1)->text.ptr[len], '\0');
        ck_assert_int_eq(redis_item(&reply->root, 2)->integer, 2);
        redis_reply_reset(reply);
        ck_assert_int_eq(reply->root.kind, REDIS_KIND_NIL);
    }
}
END_TEST

START_TEST(a_thousand_entries)
{
    struct buffer bytes;
    buffer_init(&bytes, 1u << 24);
    buffer_printf(&bytes, "*1000\r\n");
    for (int i = 0; i < 1000; i++)
        buffer_printf(&bytes, "*2\r\n$4\r\n%04d\r\n*2\r\n$4\r\nbody\r\n$700\r\n%0700d\r\n", i, i);
    ck_assert_int_eq(feed(bytes.data, bytes.len), 1);
    for (int i = 0; i < 1000; i++) {
        char id[8];
        snprintf(id, sizeof(id), "%04d", i);
        const struct redis_value *entry = redis_item(&reply->root, (size_t)i);
        check_text(redis_item(entry, 0), REDIS_KIND_TEXT, id);
        ck_assert_uint_eq(redis_item(redis_item(entry, 1), 1)->text.len, 700);
    }
    buffer_done(&bytes);
}
END_TEST

START_TEST(hostile)
{
    static const char *const bad[] = {
        "*2000000000\r\n",
        "*1048577\r\n",
        "*-7\r\n",
        "?\r\n",
        "*1\r\n?",
        ":12x\r\n",
    };
    /* What must not be accepted as complete; whether it is an error or waits for more is hiredis's affair. */
    ck_assert_int_ne(feed(bad[_i], strlen(bad[_i])), 1);
}
END_TEST

START_TEST(error_texts)
{
    static const struct {
        const char *reply, *text;
        enum error_code code;
    } errors[] = {
        {"-WRONGTYPE Operation against CANARY\r\n", "redis answered WRONGTYPE",
         ERR_OUTCOME_UNKNOWN},
        {"-ERR CANARY script: hie1_x\r\n", "redis answered ERR", ERR_OUTCOME_UNKNOWN},
        {"-LOADING Redis is loading\r\n", "redis answered LOADING", ERR_UNAVAILABLE},
        {"-OOM command not allowed\r\n", "redis answered OOM", ERR_UNAVAILABLE},
        {"-CANARY1\r\n", "redis answered CANARY", ERR_OUTCOME_UNKNOWN},
        {"-canary\r\n", "redis answered an error", ERR_OUTCOME_UNKNOWN},
        {"-\r\n", "redis answered an error", ERR_OUTCOME_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct err err;
        ck_assert_int_eq(feed(errors[i].reply, strlen(errors[i].reply)), 1);
        redis_error_read(&reply->root, &err);
        ck_assert_str_eq(err.text, errors[i].text);
        ck_assert_int_eq(err.code, errors[i].code);
        redis_reply_reset(reply);
    }
}
END_TEST

START_TEST(kept_replies_chain)
{
    struct redis_reply *first;
    ck_assert_int_eq(feed("$5\r\nfirst\r\n", 11), 1);
    redis_reply_keep(reply);
    first = reply;
    reply = redis_reply_new();
    ck_assert_int_eq(feed("$6\r\nsecond\r\n", 12), 1);
    first->next = reply;
    check_text(&first->root, REDIS_KIND_TEXT, "first");
    check_text(&first->next->root, REDIS_KIND_TEXT, "second");
    reply = first; /* freed as a chain */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redis reply");
    TCase *tests = tcase_create("reply");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, in_one_piece_and_byte_by_byte);
    tcase_add_test(tests, many_sizes_and_reuse);
    tcase_add_test(tests, a_thousand_entries);
    tcase_add_loop_test(tests, hostile, 0, 6);
    tcase_add_test(tests, error_texts);
    tcase_add_test(tests, kept_replies_chain);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
