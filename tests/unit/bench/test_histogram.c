/* The latency histogram against exact percentiles. */
#include "base/uuid.h"
#include "lib/histogram.h"

#include <check.h>
#include <stdlib.h>

static struct histogram h, other;

START_TEST(empty_and_small_values_are_exact)
{
    histogram_clear(&h);
    ck_assert_int_eq(histogram_percentile(&h, 50), 0);
    ck_assert_double_eq(histogram_mean(&h), 0);
    for (int i = 1; i <= 100; i++)
        histogram_record(&h, i);
    ck_assert_int_eq(histogram_percentile(&h, 0), 1);
    ck_assert_int_eq(histogram_percentile(&h, 1), 1);
    ck_assert_int_eq(histogram_percentile(&h, 50), 50);
    ck_assert_int_eq(histogram_percentile(&h, 99), 99);
    ck_assert_int_eq(histogram_percentile(&h, 99.5), 100);
    ck_assert_int_eq(histogram_percentile(&h, 100), 100);
    ck_assert_double_eq_tol(histogram_mean(&h), 50.5, 1e-9);
}
END_TEST

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(error_stays_within_a_step)
{
    enum { N = 20000 };
    static int64_t values[N];
    histogram_clear(&h);
    for (int i = 0; i < N; i++) {
        values[i] = (int64_t)random_below(UINT64_C(1) << (1 + random_below(36)));
        histogram_record(&h, values[i]);
    }
    qsort(values, N, sizeof(values[0]), by_value);
    static const double percents[] = {0.1, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.99};
    for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++) {
        int64_t exact = values[(int)(N * percents[i] / 100 + 0.999999) - 1];
        int64_t got = histogram_percentile(&h, percents[i]);
        ck_assert_msg(got >= exact && got <= exact + exact / 128 + 1, "p%g: %lld for %lld",
                      percents[i], (long long)got, (long long)exact);
    }
    ck_assert_int_eq(histogram_percentile(&h, 100), values[N - 1]);
    ck_assert_int_eq(h.max, values[N - 1]);
}
END_TEST

START_TEST(adding_equals_recording_together)
{
    static struct histogram both;
    histogram_clear(&h);
    histogram_clear(&other);
    histogram_clear(&both);
    for (int i = 0; i < 5000; i++) {
        int64_t value = (int64_t)random_below(1000000);
        histogram_record(i % 3 ? &h : &other, value);
        histogram_record(&both, value);
    }
    histogram_add(&h, &other);
    ck_assert_uint_eq(h.count, 5000);
    ck_assert_int_eq(h.max, both.max);
    ck_assert_mem_eq(h.slots, both.slots, sizeof(h.slots));
}
END_TEST

START_TEST(extremes_are_kept_in_range)
{
    histogram_clear(&h);
    histogram_record(&h, -5);
    histogram_record(&h, INT64_MAX);
    histogram_record(&h, INT64_MAX - 1);
    ck_assert_uint_eq(h.count, 3);
    ck_assert_int_eq(histogram_percentile(&h, 1), 0);
    ck_assert_int_eq(histogram_percentile(&h, 100), INT64_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("histogram");
    TCase *tcase = tcase_create("histogram");
    tcase_add_test(tcase, empty_and_small_values_are_exact);
    tcase_add_test(tcase, error_stays_within_a_step);
    tcase_add_test(tcase, adding_equals_recording_together);
    tcase_add_test(tcase, extremes_are_kept_in_range);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
