/* The small parts of the model: nearest words, quoting, order of diagnostics, environment, addresses, URLs, scalars. */
#include "production_data.h"

#include "model/address.h"
#include "model/diagnostics.h"
#include "model/environment.h"
#include "model/option.h"

static const char *const words[] = {"concurrency", "queue_size", "queue_type",
                                    "timeout",     "id",         NULL};

START_TEST(edit_distances)
{
    static const struct {
        const char *a, *b;
        unsigned distance;
    } cases[] = {
        {"", "", 0},      {"abc", "abc", 0},  {"abc", "ABC", 0},   {"abc", "abd", 1},
        {"abc", "ab", 1}, {"abc", "xabc", 1}, {"abcd", "acbd", 1}, {"kitten", "sitting", 3},
        {"", "abc", 3},   {"abc", "", 3},     {"ca", "abc", 3},    {"abcdef", "uvwxyz", 4},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(edit_distance(slice_text(cases[i].a), slice_text(cases[i].b), 3) ==
                          cases[i].distance,
                      "%s %s", cases[i].a, cases[i].b);
    char big[200];
    memset(big, 'a', sizeof(big));
    ck_assert_uint_eq(edit_distance(slice_of(big, 200), slice_of(big, 200), 3), 4);
}
END_TEST

START_TEST(nearest_words)
{
    ck_assert_str_eq(nearest_word(slice_text("concurency"), words), "concurrency");
    ck_assert_str_eq(nearest_word(slice_text("Queue_Tpye"), words), "queue_type");
    ck_assert_str_eq(nearest_word(slice_text("queue_size"), words), "queue_size");
    ck_assert_str_eq(nearest_word(slice_text("time"), words), "timeout");
    ck_assert_str_eq(nearest_word(slice_text("timeout_ms"), words), "timeout");
    ck_assert_ptr_null(nearest_word(slice_text("xy"), words));
    ck_assert_ptr_null(nearest_word(slice_text("something"), words));
    ck_assert_ptr_null(nearest_word(slice_text(""), words));
    ck_assert_str_eq(did_you_mean("a").text, "; did you mean `a`?");
    ck_assert_str_eq(did_you_mean(NULL).text, "");
}
END_TEST

START_TEST(quotes)
{
    ck_assert_str_eq(QUOTE(slice_text("a\x1b[2J\nb\x7f")), "`a?[2J?b?`");
    ck_assert_str_eq(QUOTE(slice_of("a\0b", 3)), "`a?b`");
    ck_assert_str_eq(QUOTE(slice_text("")), "``");
    char text[200];
    memset(text, 'a', sizeof(text));
    struct quoted quoted = quote(slice_of(text, 60));
    ck_assert_uint_eq(strlen(quoted.text), 62);
    memcpy(text + 59, "é", 2); /* not cut in the middle */
    quoted = quote(slice_of(text, 200));
    ck_assert_uint_eq(strlen(quoted.text), 1 + 59 + strlen("…`"));
    memset(text, '\x80', sizeof(text));
    quoted = quote(slice_of(text, 200));
    ck_assert_str_eq(quoted.text, "`…`");
}
END_TEST

START_TEST(sorting)
{
    struct diagnostics all = {0};
    diagnostics_error(&all, 5, "a");
    diagnostics_warning(&all, 2, "b");
    diagnostics_error(&all, 5, "c");
    diagnostics_error(&all, 0, "d");
    diagnostics_error(&all, 2, "e");
    diagnostics_sort(&all);
    char *text = diagnostics_text(&all);
    ck_assert_str_eq(text, "0: d\n2: warning: b\n2: e\n5: a\n5: c\n");
    ck_assert_uint_eq(all.count, 5);
    ck_assert_uint_eq(all.error_count, 4);
    free(text);
    diagnostics_done(&all);
    ck_assert_uint_eq(all.count, 0);
}
END_TEST

START_TEST(messages_are_printable)
{
    static const struct {
        const char *raw, *shown;
    } cases[] = {
        {"a\x1b[2J\n\x7f", "a?[2J??"},
        {"ä€𝄞 → …", "ä€𝄞 → …"},
        {"\xc2\x9b"
         "31m",
         "??31m"},     /* C1 */
        {"\xc3", "?"}, /* cut */
        {"\xe2\x82", "??"},
        {"\xf0\x9d\x84", "???"},
        {"\xc0\xaf\xe0\x80\xaf", "?????"}, /* overlong */
        {"\xed\xa0\x80", "???"},           /* surrogate */
        {"\xf4\x90\x80\x80\xff", "?????"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct diagnostics all = {0};
        diagnostics_error(&all, 1, "%s", cases[i].raw);
        ck_assert_str_eq(all.list[0].message, cases[i].shown);
        diagnostics_done(&all);
    }
}
END_TEST

/* ---- environment ---- */

static void expand_to(const char *text, const char *expected)
{
    struct arena arena;
    struct slice result;
    struct err err;
    bool replaced;
    arena_init(&arena);
    int failed = environment_expand(slice_text(text), &arena, &result, &replaced, &err);
    ck_assert_msg(!failed, "%s: %s", text, err.text);
    ck_assert_msg(slice_is(result, expected), "%s gives %.*s", text, (int)result.len, result.ptr);
    ck_assert_int_eq(result.ptr[result.len], '\0');
    arena_done(&arena);
}

static void expand_fails(const char *text, const char *reason)
{
    struct arena arena;
    struct slice result = {0};
    struct err err;
    bool replaced;
    arena_init(&arena);
    ck_assert_int_eq(environment_expand(slice_text(text), &arena, &result, &replaced, &err), -1);
    ck_assert_str_eq(err.text, reason);
    ck_assert_ptr_null(result.ptr);
    arena_done(&arena);
}

START_TEST(environment)
{
    expand_to("", "");
    expand_to("plain $5 $ {x} }", "plain $5 $ {x} }");
    expand_to("${HIE_TEST_NUMBER}", "12");
    expand_to("a${HIE_TEST_NUMBER}b${HIE_TEST_NUMBER}", "a12b12");
    expand_to("${HIE_TEST_UNSET:-x y:-z}", "x y:-z");
    expand_to("${HIE_TEST_UNSET:-}", "");
    expand_to("${HIE_TEST_EMPTY}", "");
    expand_to("${HIE_TEST_EMPTY:-x}", "x");
    expand_to("$${HIE_TEST_NUMBER}", "${HIE_TEST_NUMBER}");
    expand_to("$$${HIE_TEST_NUMBER}", "$${HIE_TEST_NUMBER}");
    expand_to("${HIE_TEST_TEXT}}", "a: [b}");
    setenv("HIE_TEST_TEXT", "${HIE_TEST_NUMBER}", 1);
    expand_to("${HIE_TEST_TEXT}", "${HIE_TEST_NUMBER}"); /* a value is not read again */
    clean_environment();
    static const char malformed[] = "malformed ${…}: expected ${NAME} or ${NAME:-default}";
    expand_fails("${}", malformed);
    expand_fails("${:-x}", malformed);
    expand_fails("${1A}", malformed);
    expand_fails("${A-B}", malformed);
    expand_fails("${A:B}", malformed);
    expand_fails("${A:}", malformed);
    expand_fails("${A", "malformed ${…}: there is no closing }");
    expand_fails("${HIE_TEST_UNSET:-${HIE_TEST_NUMBER}}",
                 "a ${…} cannot stand in the default of another");
    expand_fails("${HIE_TEST_UNSET}", "the environment variable HIE_TEST_UNSET is not set");
}
END_TEST

/* ---- addresses and URLs ---- */

START_TEST(addresses)
{
    static const struct {
        const char *text;
        int loopback; /* -1: refused */
    } cases[] = {
        {"127.0.0.1:8080", 1},
        {"127.255.0.1:0", 1},
        {"[::1]:65535", 1},
        {"0.0.0.0:80", 0},
        {"[::]:80", 0},
        {"[::ffff:127.0.0.1]:80", 1},
        {"10.0.0.1:80", 0},
        {"[fe80::1]:80", 0},
        {"128.0.0.1:1", 0},
        {"", -1},
        {":", -1},
        {":80", -1},
        {"127.0.0.1", -1},
        {"127.0.0.1:", -1},
        {"127.0.0.1:65536", -1},
        {"127.0.0.1:-1", -1},
        {"127.0.0.1: 80", -1},
        {"127.0.0.1:80x", -1},
        {"127.1:80", -1},
        {"localhost:80", -1},
        {"[::1]", -1},
        {"[::1]80", -1},
        {"[::1:80", -1},
        {"[]:80", -1},
        {"::1:80", -1},
        {"[127.0.0.1]:80", -1},
        {"[fe80::1%eth0]:80", -1},
        {"1.2.3.4.5:80", -1},
        {"http://127.0.0.1:80", -1},
        {" 127.0.0.1:80", -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool loopback = false;
        struct err err;
        int found = address_check(slice_text(cases[i].text), &loopback, &err) ? -1 : loopback;
        ck_assert_msg(found == cases[i].loopback, "%s: %d", cases[i].text, found);
    }
}
END_TEST

START_TEST(urls)
{
    static const struct {
        enum url_kind kind;
        const char *text;
        bool good;
    } cases[] = {
        {URL_HTTP, "http://a", true},
        {URL_HTTP, "https://a-b.c_d:8443/x?y=%20#z", true},
        {URL_HTTP, "http://u:p@[::1]:1/", true},
        {URL_HTTP, "http://a/x@y:z", true},
        {URL_HTTP, "http://", false},
        {URL_HTTP, "http:///x", false},
        {URL_HTTP, "HTTP://a", false},
        {URL_HTTP, "http://a:0/", false},
        {URL_HTTP, "http://a:/", false},
        {URL_HTTP, "http://a..b/", false},
        {URL_HTTP, "http://-a/", false},
        {URL_HTTP, "http://a b/", false},
        {URL_HTTP, "http://a/\n", false},
        {URL_HTTP, "http://a/%2", false},
        {URL_HTTP, "http://1.2.3/", false},
        {URL_HTTP, "file:///etc/passwd", false},
        {URL_REDIS, "redis://h", true},
        {URL_REDIS, "redis://h/", true},
        {URL_REDIS, "redis://:p%40@h:1/15", true},
        {URL_REDIS, "redis://u:p@[::1]/0", true},
        {URL_REDIS, "redis://u@h", false},
        {URL_REDIS, "redis://h/x", false},
        {URL_REDIS, "redis://h?db=1", false},
        {URL_REDIS, "redis://:a/b@h/0", false},
        {URL_REDIS, "rediss://h", false},
        {URL_POSTGRES, "postgresql://", true},
        {URL_POSTGRES, "postgresql:///db?host=/run/postgresql", true},
        {URL_POSTGRES, "postgres://u:p@h:5432/db", true},
        {URL_POSTGRES, "postgres://u@h1,h2:1/db", true},
        {URL_POSTGRES, "postgresql://%2Frun%2Fpg/db", true},
        {URL_POSTGRES, "postgresql://:5433/db", true},
        {URL_POSTGRES, "postgresql://h:x/db", false},
        {URL_POSTGRES, "postgresql://h1,:0/db", false},
        {URL_POSTGRES, "mysql://h/db", false},
        {URL_POSTGRES, "host=h", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err;
        bool good = url_check(cases[i].kind, slice_text(cases[i].text), &err) == 0;
        ck_assert_msg(good == cases[i].good, "%s", cases[i].text);
    }
}
END_TEST

/* ---- scalars ---- */

static void number_is(const struct option *option, const char *text, int64_t expected)
{
    struct option_value value = {.number = -77};
    struct err err;
    int failed = option_parse(option, slice_text(text), true, &value, &err);
    ck_assert_msg((failed != 0) == (expected == -77), "%s", text);
    ck_assert_msg(value.number == expected, "%s: %lld", text, (long long)value.number);
}

#define REFUSED (-77)

START_TEST(numbers)
{
    const struct option integer = {.type = OPTION_INT, .min = -5, .max = 100};
    number_is(&integer, "0", 0);
    number_is(&integer, "-5", -5);
    number_is(&integer, "100", 100);
    static const char *const bad[] = {
        "101", "-6",  "",    "-",  "+5", "05",  "-05",
        "1.0", "0x1", "1e1", " 1", "1 ", "1_0", "99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        number_is(&integer, bad[i], REFUSED);
}
END_TEST

START_TEST(durations)
{
    const struct option duration = {.type = OPTION_DURATION, .min = 0, .max = 100000};
    number_is(&duration, "0", 0);
    number_is(&duration, "30000.0", 30000);
    number_is(&duration, "30000.000", 30000);
    number_is(&duration, "100", 100);
    number_is(&duration, "30000.5", REFUSED);
    number_is(&duration, "30000.", REFUSED);
    number_is(&duration, ".0", REFUSED);
    number_is(&duration, "3e4", REFUSED);
    number_is(&duration, "-1", REFUSED);
    static const struct {
        const char *text, *write;
    } cases[] = {{"30s", "write 30000"}, {"5 ms", "write 5"}, {"1m", "write 60000"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct option_value value;
        struct err err;
        ck_assert_int_eq(option_parse(&duration, slice_text(cases[i].text), true, &value, &err),
                         -1);
        ck_assert_msg(strstr(err.text, cases[i].write) != NULL, "%s: %s", cases[i].text, err.text);
    }
    number_is(&duration, "1h", REFUSED); /* out of range, so nothing to write */
}
END_TEST

START_TEST(sizes)
{
    const struct option size = {.type = OPTION_SIZE, .min = 10, .max = INT64_C(1) << 40};
    number_is(&size, "10", 10);
    number_is(&size, "64KiB", 65536);
    number_is(&size, "16MiB", 16777216);
    number_is(&size, "2GiB", INT64_C(2) << 30);
    number_is(&size, "1024GiB", INT64_C(1) << 40);
    static const char *const bad[] = {"9",      "0KiB",   "KiB",     "16kib",
                                      "16K",    "16 MiB", "16MB",    "-1KiB",
                                      "1.5MiB", "",       "1025GiB", "9999999999999GiB"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        number_is(&size, bad[i], REFUSED);
}
END_TEST

int main(void)
{
    clean_environment();
    Suite *suite = suite_create("words");
    TCase *tests = tcase_create("words");
    tcase_add_test(tests, edit_distances);
    tcase_add_test(tests, nearest_words);
    tcase_add_test(tests, quotes);
    tcase_add_test(tests, sorting);
    tcase_add_test(tests, messages_are_printable);
    tcase_add_test(tests, environment);
    tcase_add_test(tests, addresses);
    tcase_add_test(tests, urls);
    tcase_add_test(tests, numbers);
    tcase_add_test(tests, durations);
    tcase_add_test(tests, sizes);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
