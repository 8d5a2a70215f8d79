#include "link/json_text.h"

#include <check.h>
#include <stdlib.h>

static const struct {
    const char *text;
    size_t len;
    const char *json;
} cases[] = {
    {"", 0, "\"\""},
    {"plain /", 7, "\"plain /\""},
    {"\"\\", 2, "\"\\\"\\\\\""},
    {"a\r\n\t\0\x1f\x7f", 7, "\"a\\u000d\\u000a\\u0009\\u0000\\u001f\\u007f\""},
    {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""},
    {"\xe4 \xc3", 3, "\"? ?\""},              /* Latin-1, cut off */
    {"\xc0\xaf\xe0\x80\xaf", 5, "\"?????\""}, /* overlong */
    {"\xed\xa0\x80", 3, "\"???\""},           /* a surrogate */
    {"\xf4\x90\x80\x80\xff", 5, "\"?????\""}, /* above U+10FFFF */
};

START_TEST(texts)
{
    struct buffer out;
    buffer_init(&out, 1000);
    char *exact = malloc(cases[_i].len + 1);
    memcpy(exact, cases[_i].text, cases[_i].len);
    exact =
        realloc(exact, cases[_i].len ? cases[_i].len : 1); /* so that a read past the end is seen */
    json_text_append(&out, slice_of(exact, cases[_i].len));
    ck_assert(slice_is(buffer_slice(&out), cases[_i].json));
    free(exact);
    buffer_done(&out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json text");
    TCase *tests = tcase_create("texts");
    tcase_add_loop_test(tests, texts, 0, sizeof(cases) / sizeof(cases[0]));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
