/* Names of processes. */
#include "ops/identity.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(a_name_says_where_it_runs)
{
    char host[IDENTITY_HOST_SIZE], name[IDENTITY_SIZE], start[IDENTITY_SIZE + 32];
    identity_host(host);
    identity_make("dispatcher-", name);
    int len = snprintf(start, sizeof(start), "dispatcher-%s-%d-", host, (int)getpid());
    ck_assert_int_eq(strncmp(name, start, (size_t)len), 0);
    ck_assert_uint_eq(strlen(name), (size_t)len + 16);
    ck_assert_uint_eq(
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"),
        strlen(name));
}
END_TEST

START_TEST(no_two_are_the_same)
{
    char names[100][IDENTITY_SIZE];
    for (int i = 0; i < 100; i++) {
        identity_make("", names[i]);
        for (int j = 0; j < i; j++)
            ck_assert_str_ne(names[i], names[j]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("identity");
    TCase *cases = tcase_create("identity");
    tcase_add_test(cases, a_name_says_where_it_runs);
    tcase_add_test(cases, no_two_are_the_same);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
