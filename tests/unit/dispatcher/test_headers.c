/* Headers that are lists, and the keys of repeats: pure functions. */
#include "call_chain.h"
#include "prefer.h"
#include "repeat_key.h"
#include "traceparent.h"

#include <check.h>
#include <stdlib.h>

static struct prefer read_prefer(const char *header)
{
    struct prefer prefer = {0};
    size_t len = strlen(header);
    char *exact = malloc(len ? len : 1); /* no byte behind it is readable */
    memcpy(exact, header, len);
    prefer_read(slice_of(exact, len), &prefer);
    free(exact);
    return prefer;
}

START_TEST(preferences_are_found_in_lists)
{
    static const struct {
        const char *header;
        bool respond_async, has_wait;
        int64_t wait_s;
    } cases[] = {
        {"", false, false, 0},
        {"respond-async", true, false, 0},
        {"Respond-Async", true, false, 0},
        {"wait=10", false, true, 10},
        {"WAIT = 10", false, true, 10},
        {"wait=\"10\"", false, true, 10},
        {"wait=0", false, true, 0},
        {"wait=007", false, true, 7},
        {"respond-async, wait=10", true, true, 10},
        {"wait=10 , respond-async", true, true, 10},
        {",,  , respond-async ,,", true, false, 0},
        {"wait=10, wait=20", false, true, 10}, /* the first counts */
        {"wait=x, wait=20", false, true, 20},
        {"respond-async; foo=bar; baz, wait=1", true, true, 1},
        {"respond-async;;", true, false, 0},
        {"wait=5; foo=\"a, b; wait=9\"", false, true, 5},
        {"foo=\"respond-async, wait=3\", wait=4", false, true, 4},
        {"foo=\"\\\", respond-async\", wait=4", false, true, 4},
        {"respond-async=\"\"", true, false, 0}, /* an empty value is none */
        {"handling=lenient, return=minimal, wait=2", false, true, 2},
        {"wait=99999999999999999999999", false, true, PREFER_WAIT_MAX_S},
        {"wait=86401", false, true, PREFER_WAIT_MAX_S},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct prefer prefer = read_prefer(cases[i].header);
        ck_assert_msg(prefer.respond_async == cases[i].respond_async &&
                          prefer.has_wait == cases[i].has_wait && prefer.wait_s == cases[i].wait_s,
                      "%s", cases[i].header);
    }
}
END_TEST

START_TEST(junk_is_ignored)
{
    static const char *const junk[] = {
        "respond-asynchronously",
        "respond-async=yes",
        "respond async",
        "respond-async x",
        "wait",
        "wait=",
        "wait=-1",
        "wait=+1",
        "wait=1.5",
        "wait=1s",
        "wait=\"",
        "wait=\"1",
        "wait=\"1\\",
        "wait==1",
        "wait=1=2",
        "=1",
        "\"wait\"=1",
        "wait=1;x=",
        "wait=1 2",
        ";wait=1",
        "x=\"unended, wait=1",
        "wait=\" 1\"",
        "wait=\x01"
        "1",
        "\xff\xfe",
        "x;respond-async",
        "wait;1",
        "respond-async;x=\"",
    };
    for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
        struct prefer prefer = read_prefer(junk[i]);
        ck_assert_msg(!prefer.respond_async && !prefer.has_wait, "%s", junk[i]);
    }
    ck_assert(read_prefer("wait=x y z\", respond-async").respond_async == false);
    ck_assert(read_prefer("@@@, respond-async").respond_async);
    struct prefer nul = {0};
    prefer_read(slice_of("wait\0=1,respond-async", 21), &nul);
    ck_assert(nul.respond_async && !nul.has_wait);
}
END_TEST

START_TEST(several_headers_add_up)
{
    struct prefer prefer = {0};
    prefer_read(SLICE_LITERAL("wait=3"), &prefer);
    prefer_read(SLICE_LITERAL("wait=9, respond-async"), &prefer);
    ck_assert(prefer.respond_async && prefer.wait_s == 3);
}
END_TEST

START_TEST(a_chain_is_ids_and_commas)
{
    struct call_chain chain = {.len = 0};
    struct err err;
    ck_assert_int_eq(call_chain_read(SLICE_LITERAL(" A ,,B.c-d_e,\t"), &chain, &err), 0);
    ck_assert_int_eq(call_chain_read(SLICE_LITERAL(""), &chain, &err), 0);
    ck_assert_int_eq(call_chain_read(SLICE_LITERAL("F"), &chain, &err), 0);
    ck_assert(slice_is(call_chain_slice(&chain), "A,B.c-d_e,F"));
    ck_assert(call_chain_has(&chain, SLICE_LITERAL("A")));
    ck_assert(call_chain_has(&chain, SLICE_LITERAL("F")));
    ck_assert(!call_chain_has(&chain, SLICE_LITERAL("B")));
    ck_assert(!call_chain_has(&chain, SLICE_LITERAL("A,B.c-d_e")));
    ck_assert(!call_chain_has(&(struct call_chain){.len = 0}, SLICE_LITERAL("A")));
}
END_TEST

START_TEST(what_is_no_chain_is_refused)
{
    char long_id[ITEM_ORDERING_KEY_MAX], fits[65];
    memset(long_id, 'a', sizeof(long_id));
    memset(fits, 'a', sizeof(fits));
    const struct slice bad[] = {
        SLICE_LITERAL("A B"),       SLICE_LITERAL("A,\"B\""), SLICE_LITERAL("A;B"),
        SLICE_LITERAL("{item}"),    SLICE_LITERAL("A\x01"),   SLICE_LITERAL("A\0B"),
        SLICE_LITERAL("M\xc3\xbc"), slice_of(fits, 65),       slice_of(long_id, sizeof(long_id)),
    };
    struct err err;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct call_chain chain = {.len = 0};
        ck_assert_int_eq(call_chain_read(bad[i], &chain, &err), -1);
        ck_assert_int_eq(err.code, ERR_INVALID);
    }
    struct call_chain chain = {.len = 0};
    ck_assert_int_eq(call_chain_read(slice_of(fits, 64), &chain, &err), 0);
}
END_TEST

START_TEST(a_chain_has_a_length)
{
    struct call_chain chain = {.len = 0};
    struct err err;
    /* 64 bytes and a comma each: the 16th ends at 1039. */
    char id[65];
    memset(id, 'a', 64);
    for (int i = 0; i < 15; i++)
        ck_assert_int_eq(call_chain_read(slice_of(id, 64), &chain, &err), 0);
    ck_assert_uint_eq(chain.len, 974);
    ck_assert_int_eq(call_chain_read(slice_of(id, 50), &chain, &err), -1);
    ck_assert_int_eq(call_chain_read(slice_of(id, 49), &chain, &err), 0);
    ck_assert_uint_eq(chain.len, META_CHAIN_MAX);
    ck_assert_int_eq(call_chain_read(SLICE_LITERAL("b"), &chain, &err), -1);
}
END_TEST

START_TEST(keys_of_repeats_do_not_collide)
{
    struct item first = {.id = (char[]){"AB"}}, second = {.id = (char[]){"A"}};
    struct body body = body_of("x", 1);
    struct repeat_key a = repeat_key_http(&first, SLICE_LITERAL("C"), body);
    struct repeat_key b = repeat_key_http(&second, SLICE_LITERAL("BC"), body);
    struct repeat_key c = repeat_key_http(&first, SLICE_LITERAL("C"), body_of("y", 1));
    ck_assert(!uuid_equal(a.key, b.key)); /* the same bytes, cut elsewhere */
    ck_assert(uuid_equal(a.key, c.key));
    ck_assert(!uuid_equal(a.fingerprint, c.fingerprint));
    struct hl7_message message;
    struct err err;
    struct slice text = SLICE_LITERAL("MSH|^~\\&|C|||||||1\r");
    ck_assert_int_eq(hl7_parse(text, &message, &err), 0);
    struct repeat_key d = repeat_key_mllp(&first, &message, body_of(text.ptr, text.len));
    ck_assert(!uuid_is_none(d.key) && !uuid_equal(d.key, a.key));
    hl7_done(&message);
    /* MSH-3 and MSH-4 are two: "C" and "" is not "" and "C". */
    struct slice moved = SLICE_LITERAL("MSH|^~\\&||C||||||1\r");
    ck_assert_int_eq(hl7_parse(moved, &message, &err), 0);
    struct repeat_key e = repeat_key_mllp(&first, &message, body_of(text.ptr, text.len));
    ck_assert(!uuid_equal(d.key, e.key));
    hl7_done(&message);
}
END_TEST

START_TEST(only_a_whole_traceparent_is_one)
{
    static const char good[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    static const char *const broken[] = {
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319cb7ad6b7169203331--01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Mueller^Anna, 55 bytes that are not what they should be",
    };
    ck_assert(traceparent_is_valid(slice_text(good)));
    ck_assert(traceparent_is_valid(
        SLICE_LITERAL("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff")));
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        ck_assert_msg(!traceparent_is_valid(slice_text(broken[i])), "%s", broken[i]);
    for (size_t len = 0; len < strlen(good); len++)
        ck_assert(!traceparent_is_valid(slice_of(good, len)));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("headers");
    TCase *cases = tcase_create("headers");
    tcase_add_test(cases, preferences_are_found_in_lists);
    tcase_add_test(cases, junk_is_ignored);
    tcase_add_test(cases, several_headers_add_up);
    tcase_add_test(cases, a_chain_is_ids_and_commas);
    tcase_add_test(cases, what_is_no_chain_is_refused);
    tcase_add_test(cases, a_chain_has_a_length);
    tcase_add_test(cases, keys_of_repeats_do_not_collide);
    tcase_add_test(cases, only_a_whole_traceparent_is_one);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
