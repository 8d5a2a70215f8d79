/* What the HL7 tests share: running a suite, and slices compared with their bytes shown on failure. */
#ifndef HIE_TESTS_UNIT_HL7_TEST_H
#define HIE_TESTS_UNIT_HL7_TEST_H

#include "base/bytes.h"
#include "hl7/message.h"

#include <check.h>
#include <stdlib.h>

/* The bytes must be exactly these; text may hold NULs when given as a literal. */
#define ck_slice(slice_, literal)                                                                  \
    do {                                                                                           \
        struct slice got_ = (slice_);                                                              \
        ck_assert_msg(slice_equal(got_, SLICE_LITERAL(literal)), "%s is \"%.*s\" (%zu), not %s",   \
                      #slice_, (int)(got_.len > 400 ? 400 : got_.len), got_.ptr ? got_.ptr : "",   \
                      got_.len, #literal);                                                         \
    } while (0)

#define ck_value(message, path, presence_, literal)                                                \
    do {                                                                                           \
        struct hl7_value value_ = hl7_get_text((message), (path));                                 \
        ck_assert_int_eq(value_.presence, (presence_));                                            \
        ck_slice(value_.raw, literal);                                                             \
    } while (0)

static inline struct hl7_message parse(struct slice body)
{
    struct hl7_message message;
    struct err err = {0};
    ck_assert_msg(hl7_parse(body, &message, &err) == 0, "%s", err.text);
    return message;
}

/* A copy of exactly that size on the heap, so that the sanitizer sees a read past the end. */
static inline struct slice exact(struct slice bytes)
{
    char *copy = malloc(bytes.len ? bytes.len : 1);
    ck_assert_ptr_nonnull(copy);
    if (bytes.len)
        memcpy(copy, bytes.ptr, bytes.len);
    return slice_of(copy, bytes.len);
}

static inline int run_tests(const char *name, const TTest *const *tests, size_t count)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 120);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    bool all = srunner_ntests_run(runner) == (int)count;
    srunner_free(runner);
    return failed == 0 && all ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define RUN_TESTS(name, ...)                                                                       \
    int main(void)                                                                                 \
    {                                                                                              \
        const TTest *const tests[] = {__VA_ARGS__};                                                \
        return run_tests(name, tests, sizeof(tests) / sizeof(tests[0]));                           \
    }

#endif
