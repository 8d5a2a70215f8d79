/* Messages stamped out of a template: widths, places, sizes, and templates that are refused. */
#include "lib/stencil.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static struct stencil stencil;
static struct err err;

static char head_word[] = "head";

static void head(void *arg, size_t body_len, struct buffer *out)
{
    buffer_printf(out, "%s %zu;", (const char *)arg, body_len);
}

static int parse(const char *text, size_t size)
{
    struct stencil_wrap wrap = {.head = head, .arg = head_word, .tail = SLICE_LITERAL("<end>")};
    struct stencil_spread spread = {.patients = 7, .keys = 5};
    return stencil_parse(&stencil, slice_text(text), size, spread, "RUN00000", &wrap, &err);
}

static void stamped_is(uint64_t number, int64_t wall_s, const char *wanted)
{
    struct slice got = stencil_stamp(&stencil, number, wall_s);
    ck_assert_msg(slice_is(got, wanted), "%.*s\nwanted %s", (int)got.len, got.ptr, wanted);
}

START_TEST(fields_are_overwritten_in_place)
{
    ck_assert_int_eq(parse("MSH|{control}|{time}\nPID|{visit}\n", 0), 0);
    ck_assert_uint_eq(stencil.body_len, 55);
    stamped_is(0, 1700000000,
               "head 55;MSH|RUN00000000000000000|20231114221320\rPID|0000000000\r<end>");
    stamped_is(123456789012, 1700000001,
               "head 55;MSH|RUN00000123456789012|20231114221321\rPID|3456789012\r<end>");
    stamped_is(1, 1700000001,
               "head 55;MSH|RUN00000000000000001|20231114221321\rPID|0000000001\r<end>");
    stencil_done(&stencil);
}
END_TEST

START_TEST(pad_fills_to_the_size_and_moves_what_follows)
{
    ck_assert_int_eq(parse("{control}|{pad}|{visit}", 700), 0);
    ck_assert_uint_eq(stencil.body_len, 700);
    struct slice got = stencil_stamp(&stencil, 42, 0);
    ck_assert_uint_eq(got.len, strlen("head 700;") + 700 + strlen("<end>"));
    ck_assert_int_eq(memcmp(got.ptr + strlen("head 700;") + 689, "|0000000042<end>", 16), 0);
    ck_assert_ptr_null(memchr(got.ptr, '\r', got.len));
    stencil_done(&stencil);
    ck_assert_int_eq(parse("{control}{pad}", 3), 0); /* already longer */
    ck_assert_uint_eq(stencil.body_len, STENCIL_CONTROL_LEN);
    stencil_done(&stencil);
}
END_TEST

START_TEST(patients_repeat_and_are_all_used)
{
    ck_assert_int_eq(parse("{control}{patient}", 0), 0);
    unsigned seen[7] = {0};
    for (uint64_t i = 0; i < 700; i++) {
        struct slice got = stencil_stamp(&stencil, i, 0);
        int64_t patient = -1;
        ck_assert(slice_to_int(slice_of(got.ptr + strlen("head 30;") + 20, 10), 1000000000,
                               1000000006, &patient));
        seen[patient - 1000000000]++;
    }
    for (int i = 0; i < 7; i++)
        ck_assert_uint_ge(seen[i], 50);
    stencil_done(&stencil);
}
END_TEST

/* In the head, too, where the control id is the message's as well. */
START_TEST(keys_are_drawn_by_lot)
{
    static char keyed[] = "{key} {control}";
    struct stencil_wrap wrap = {.head = head, .arg = keyed};
    struct stencil_spread spread = {.keys = 64};
    unsigned seen[64] = {0}, repeats = 0;
    uint64_t last = 64;
    ck_assert_int_eq(stencil_parse(&stencil, SLICE_LITERAL("{key}{control}"), 0, spread, "RUN00000",
                                   &wrap, &err),
                     0);
    for (uint64_t i = 0; i < 6400; i++) {
        struct slice got = stencil_stamp(&stencil, i, 0);
        ck_assert_uint_eq(got.len, 4 + 1 + 20 + 4 + 24);
        ck_assert_int_eq(memcmp(got.ptr, got.ptr + 29, 4), 0);
        ck_assert_int_eq(memcmp(got.ptr + 5, got.ptr + 33, 20), 0);
        int64_t key = -1;
        ck_assert(slice_to_int(slice_of(got.ptr, 4), 0, 63, &key));
        repeats += last == (uint64_t)key;
        last = (uint64_t)key;
        seen[key]++;
    }
    for (int i = 0; i < 64; i++)
        ck_assert_uint_ge(seen[i], 50);
    ck_assert_uint_ge(repeats, 50);
    stencil_done(&stencil);
    wrap.arg = (char[]){"{pad}"};
    ck_assert_int_eq(
        stencil_parse(&stencil, SLICE_LITERAL("{control}"), 0, spread, "RUN00000", &wrap, &err),
        -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
}
END_TEST

START_TEST(bad_templates_are_refused)
{
    ck_assert_int_eq(parse("MSH|{time}", 0), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(parse("{control}{nonsense}", 0), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(parse("{control}", 100), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(parse("{control}{pad}", STENCIL_SIZE_MAX + 1), -1);
    ck_assert_int_eq(err.code, ERR_TOO_LARGE);
    struct buffer many;
    buffer_init(&many, 4096);
    for (int i = 0; i <= STENCIL_SLOTS; i++)
        buffer_append_text(&many, "{control}");
    buffer_append_byte(&many, '\0');
    ck_assert_int_eq(parse(many.data, 0), -1);
    buffer_done(&many);
    struct stencil_wrap wrap = {.head = NULL};
    ck_assert_int_eq(stencil_load(&stencil, "/nonexistent", 0, (struct stencil_spread){0},
                                  "RUN00000", &wrap, &err),
                     -1);
    ck_assert_int_eq(err.code, ERR_IO);
}
END_TEST

START_TEST(shipped_templates_have_the_size_asked_for)
{
    static const char *const files[] = {"adt_a01.hl7", "oru_r01.hl7"};
    for (size_t i = 0; i < 2; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/tests/data/bench/%s", HIE_SOURCE_DIR, files[i]);
        struct stencil_wrap wrap = {.head = NULL};
        ck_assert_msg(stencil_load(&stencil, path, 700, (struct stencil_spread){0}, "RUN00000",
                                   &wrap, &err) == 0,
                      "%s", err.text);
        struct slice got = stencil_stamp(&stencil, 5, 1700000000);
        ck_assert_uint_eq(got.len, 700);
        ck_assert_int_eq(memcmp(got.ptr, "MSH|^~\\&|", 9), 0);
        ck_assert_ptr_null(memchr(got.ptr, '{', got.len));
        ck_assert_ptr_nonnull(memmem(got.ptr, got.len, "|RUN00000000000000005|", 22));
        stencil_done(&stencil);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stencil");
    TCase *tcase = tcase_create("stencil");
    tcase_add_test(tcase, fields_are_overwritten_in_place);
    tcase_add_test(tcase, pad_fills_to_the_size_and_moves_what_follows);
    tcase_add_test(tcase, patients_repeat_and_are_all_used);
    tcase_add_test(tcase, keys_are_drawn_by_lot);
    tcase_add_test(tcase, bad_templates_are_refused);
    tcase_add_test(tcase, shipped_templates_have_the_size_asked_for);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
