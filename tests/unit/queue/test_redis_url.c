/* redis:// URLs, good ones and wrong ones. */
#include "link/redis_url.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *text, *host, *port, *user, *password, *db;
} good[] = {
    {"redis://127.0.0.1", "127.0.0.1", "6379", "", "", "0"},
    {"redis://127.0.0.1:6380/", "127.0.0.1", "6380", "", "", "0"},
    {"redis://redis.svc.cluster.local:6379/15", "redis.svc.cluster.local", "6379", "", "", "15"},
    {"redis://:pass@h:1/0", "h", "1", "", "pass", "0"},
    {"redis://hie:p%40ss%2fw%3Ard@h", "h", "6379", "hie", "p@ss/w:rd", "0"},
    {"redis://hie:a:b@c@h", "h", "6379", "hie", "a:b@c", "0"},
    {"redis://[::1]:7000/2", "::1", "7000", "", "", "2"},
    {"redis://[fe80::1%25eth0]", "fe80::1%25eth0", "6379", "", "", "0"},
};

START_TEST(good_urls)
{
    struct redis_url url;
    struct err err = {.code = ERR_NONE};
    ck_assert_msg(redis_url_parse(good[_i].text, &url, &err) == 0, "%s: %s", good[_i].text,
                  err.text);
    ck_assert_str_eq(url.host, good[_i].host);
    ck_assert_str_eq(url.port, good[_i].port);
    ck_assert_str_eq(url.user, good[_i].user);
    ck_assert_str_eq(url.password, good[_i].password);
    ck_assert_str_eq(url.db, good[_i].db);
}
END_TEST

static const char *const bad[] = {
    "",
    "redis:",
    "http://h",
    "rediss://h",
    "redis://",
    "redis://:6379",
    "redis://h:0",
    "redis://h:65536",
    "redis://h:",
    "redis://h:6379x",
    "redis://h/x",
    "redis://h/-1",
    "redis://h/0?secret=1",
    "redis://h#secret",
    "redis://secret@h",
    "redis://u:secret%@h",
    "redis://u:secret%4@h",
    "redis://u:secret%zz@h",
    "redis://u:secret%00@h",
    "redis://u:secret/x@h",
    "redis://[::1",
    "redis://[::1]7",
    "redis://[]",
};

START_TEST(bad_urls)
{
    struct redis_url url = {.host = "untouched"};
    struct err err = {.code = ERR_NONE};
    ck_assert_msg(redis_url_parse(bad[_i], &url, &err) == -1, "%s", bad[_i]);
    ck_assert_int_eq(err.code, ERR_CONFIG);
    ck_assert_ptr_null(strstr(err.text, "secret"));
    ck_assert_str_eq(url.host, "untouched");
}
END_TEST

START_TEST(too_long)
{
    struct redis_url url;
    struct err err;
    char text[2048];
    snprintf(text, sizeof(text), "redis://:%0*d@h", 511, 7);
    ck_assert_int_eq(redis_url_parse(text, &url, &err), 0);
    snprintf(text, sizeof(text), "redis://:%0*d@h", 512, 7);
    ck_assert_int_eq(redis_url_parse(text, &url, &err), -1);
    snprintf(text, sizeof(text), "redis://%0*d:x@h", 128, 7);
    ck_assert_int_eq(redis_url_parse(text, &url, &err), -1);
    snprintf(text, sizeof(text), "redis://%0*d", 256, 7);
    ck_assert_int_eq(redis_url_parse(text, &url, &err), -1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redis url");
    TCase *tests = tcase_create("url");
    tcase_add_loop_test(tests, good_urls, 0, sizeof(good) / sizeof(good[0]));
    tcase_add_loop_test(tests, bad_urls, 0, sizeof(bad) / sizeof(bad[0]));
    tcase_add_test(tests, too_long);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
