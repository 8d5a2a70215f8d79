/* The metrics registry, its output read back by a parser of the text format. */
#include "ops/metrics.h"

#include <check.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct metrics *metrics;
static struct buffer out;

static void setup(void)
{
    metrics = metrics_new();
    buffer_init(&out, 1 << 20);
}

static void teardown(void)
{
    metrics = metrics_free(metrics);
    buffer_done(&out);
}

/* ---- a strict reader of exposition format 0.0.4 ---- */

struct sample {
    char name[128];
    char labels[512]; /* as printed, without braces */
    double value;
};

static struct sample samples[512];
static size_t sample_count;
static struct {
    char name[128], type[16], help[512];
} families[64];
static size_t family_count;

static bool name_byte(char byte, bool first)
{
    return byte == '_' || byte == ':' || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || (!first && byte >= '0' && byte <= '9');
}

static const char *read_name(const char *at, char *ret, size_t size)
{
    size_t len = 0;
    while (name_byte(at[len], len == 0))
        len++;
    ck_assert_uint_gt(len, 0);
    ck_assert_uint_lt(len, size);
    memcpy(ret, at, len);
    ret[len] = '\0';
    return at + len;
}

static const char *read_labels(const char *at)
{
    char name[128];
    for (;;) {
        at = read_name(at, name, sizeof(name));
        ck_assert(at[0] == '=' && at[1] == '"');
        for (at += 2; *at != '"'; at++) {
            ck_assert(*at && *at != '\n');
            if (*at == '\\') {
                at++;
                ck_assert(*at == '\\' || *at == '"' || *at == 'n');
            }
        }
        at++;
        if (*at == '}')
            return at;
        ck_assert_int_eq(*at, ',');
        at++;
    }
}

/* The family that a sample belongs to must be the last one announced. */
static void check_family(const char *name)
{
    ck_assert_uint_gt(family_count, 0);
    const char *family = families[family_count - 1].name, *type = families[family_count - 1].type;
    size_t len = strlen(family);
    ck_assert_msg(strncmp(name, family, len) == 0, "%s after %s", name, family);
    if (strcmp(type, "histogram") == 0)
        ck_assert(!strcmp(name + len, "_bucket") || !strcmp(name + len, "_sum") ||
                  !strcmp(name + len, "_count"));
    else
        ck_assert_str_eq(name + len, "");
}

static void read_line(const char *line)
{
    char name[128], *end;
    if (strncmp(line, "# HELP ", 7) == 0) {
        const char *rest = read_name(line + 7, name, sizeof(name));
        for (size_t i = 0; i < family_count; i++)
            ck_assert_str_ne(families[i].name, name); /* once for each family */
        snprintf(families[family_count].name, sizeof(name), "%s", name);
        ck_assert_int_eq(*rest, ' ');
        snprintf(families[family_count].help, sizeof(families[0].help), "%s", rest + 1);
        families[family_count++].type[0] = '\0';
        return;
    }
    if (strncmp(line, "# TYPE ", 7) == 0) {
        const char *rest = read_name(line + 7, name, sizeof(name));
        ck_assert_str_eq(name, families[family_count - 1].name);
        ck_assert_str_eq(families[family_count - 1].type, "");
        ck_assert(!strcmp(rest, " counter") || !strcmp(rest, " gauge") ||
                  !strcmp(rest, " histogram"));
        snprintf(families[family_count - 1].type, sizeof(families[0].type), "%s", rest + 1);
        return;
    }
    struct sample *sample = &samples[sample_count++];
    *sample = (struct sample){0};
    const char *at = read_name(line, sample->name, sizeof(sample->name));
    check_family(sample->name);
    if (*at == '{') {
        const char *labels = at + 1;
        at = read_labels(labels);
        snprintf(sample->labels, sizeof(sample->labels), "%.*s", (int)(at - labels), labels);
        at++;
    }
    ck_assert_int_eq(*at, ' ');
    sample->value = strtod(at + 1, &end);
    ck_assert_msg(*end == '\0' && end > at + 1, "%s", line);
}

static void print_and_read(void)
{
    sample_count = family_count = 0;
    buffer_clear(&out);
    metrics_print(metrics, &out);
    ck_assert_int_eq(out.data[out.len - 1], '\n');
    buffer_append_byte(&out, '\0');
    char *rest = out.data;
    for (char *line; (line = strsep(&rest, "\n")) && *line;)
        read_line(line);
    ck_assert_uint_gt(sample_count, 0);
}

static double value_of(const char *name, const char *labels)
{
    for (size_t i = 0; i < sample_count; i++) {
        if (strcmp(samples[i].name, name) == 0 && strcmp(samples[i].labels, labels) == 0)
            return samples[i].value;
    }
    ck_abort_msg("no %s{%s}", name, labels);
}

/* ---- tests ---- */

START_TEST(process_metrics)
{
    print_and_read();
    double memory = value_of("process_resident_memory_bytes", "");
    ck_assert(memory > 1 << 16 && memory < 1e13);
    ck_assert(value_of("process_open_fds", "") >= 3);
    ck_assert(value_of("process_max_fds", "") >= value_of("process_open_fds", ""));
    double start = value_of("process_start_time_seconds", "");
    ck_assert(fabs(start - (double)time(NULL)) < 86400);
    double before = value_of("process_cpu_seconds_total", "");
    for (volatile int i = 0; i < 200000000; i++) {
    }
    print_and_read();
    ck_assert(value_of("process_cpu_seconds_total", "") > before);
    ck_assert_uint_eq(family_count, 5);
}
END_TEST

START_TEST(open_descriptors_are_counted)
{
    print_and_read();
    double before = value_of("process_open_fds", "");
    FILE *files[3];
    for (int i = 0; i < 3; i++)
        files[i] = fopen("/dev/null", "r");
    print_and_read();
    ck_assert(value_of("process_open_fds", "") == before + 3);
    for (int i = 0; i < 3; i++)
        fclose(files[i]);
}
END_TEST

START_TEST(counters_and_gauges)
{
    const struct metric_label a[] = {{"item", "A"}, {"pattern", "async_reliable"}};
    const struct metric_label b[] = {{"item", "B"}, {"pattern", "async_reliable"}};
    struct metric *counter = metrics_counter(metrics, "hie_x_total", "Things.", a, 2);
    struct metric *gauge = metrics_gauge(metrics, "hie_depth", "Depth.", a, 2);
    struct metric *other = metrics_counter(metrics, "hie_x_total", "Other help.", b, 2);
    struct metric *bare = metrics_gauge(metrics, "hie_bare", "", NULL, 0);
    ck_assert_ptr_eq(counter, metrics_counter(metrics, "hie_x_total", NULL, a, 2));
    ck_assert_ptr_eq(bare, metrics_gauge(metrics, "hie_bare", "", NULL, 0));
    ck_assert_ptr_ne(counter, other);
    metric_add(counter, 1);
    metric_add(counter, 41);
    metric_add(other, ((int64_t)1 << 53) + 1); /* past what a double counts */
    metric_set(gauge, 7);
    metric_add(gauge, -2);
    metric_set(bare, 0.25);
    print_and_read();
    ck_assert(value_of("hie_x_total", "item=\"A\",pattern=\"async_reliable\"") == 42);
    ck_assert(value_of("hie_depth", "item=\"A\",pattern=\"async_reliable\"") == 5);
    ck_assert(value_of("hie_bare", "") == 0.25);
    ck_assert_ptr_nonnull(memmem(out.data, out.len, " 9007199254740993", 17));
    ck_assert_str_eq(families[5].name, "hie_x_total");
    ck_assert_str_eq(families[5].help, "Things.");
    ck_assert_str_eq(families[5].type, "counter");
    ck_assert_str_eq(families[6].type, "gauge");
}
END_TEST

START_TEST(numbers)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "hie_n 0\n"},        {-3, "hie_n -3\n"},         {0.001, "hie_n 0.001\n"},
                 {1e20, "hie_n 1e+20\n"}, {INFINITY, "hie_n +Inf\n"}, {-INFINITY, "hie_n -Inf\n"},
                 {NAN, "hie_n NaN\n"}};
    struct metric *gauge = metrics_gauge(metrics, "hie_n", "n", NULL, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        metric_set(gauge, cases[i].value);
        buffer_clear(&out);
        metrics_print(metrics, &out);
        ck_assert_msg(memmem(out.data, out.len, cases[i].text, strlen(cases[i].text)) != NULL, "%s",
                      cases[i].text);
    }
}
END_TEST

START_TEST(escaping)
{
    const struct metric_label nasty[] = {{"item", "a\"b\\c\nd}"}};
    metric_add(
        metrics_counter(metrics, "hie_y_total", "Back\\slash,\nnew line, \"quotes\".", nasty, 1),
        3);
    print_and_read();
    ck_assert(value_of("hie_y_total", "item=\"a\\\"b\\\\c\\nd}\"") == 3);
    ck_assert_str_eq(families[5].help, "Back\\\\slash,\\nnew line, \"quotes\".");
}
END_TEST

START_TEST(histograms)
{
    const struct metric_label labels[] = {{"item", "A"}};
    struct histogram *histogram = metrics_histogram(metrics, "hie_z_seconds", "Time.", labels, 1);
    metrics_histogram(metrics, "hie_z_seconds", "Time.", NULL, 0);
    static const int64_t times[] = {-5, 0, 500, 501, 1000, 60000000, 60000001, 3600000000};
    int64_t sum = 0;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        histogram_observe(histogram, times[i]);
        sum += times[i] > 0 ? times[i] : 0;
    }
    print_and_read();
    static const struct {
        const char *le;
        double count;
    } buckets[] = {{"0.0005", 3}, {"0.001", 5}, {"0.0025", 5}, {"1", 5},
                   {"30", 5},     {"60", 6},    {"+Inf", 8}};
    for (size_t i = 0; i < sizeof(buckets) / sizeof(buckets[0]); i++) {
        char text[64];
        snprintf(text, sizeof(text), "item=\"A\",le=\"%s\"", buckets[i].le);
        ck_assert(value_of("hie_z_seconds_bucket", text) == buckets[i].count);
    }
    ck_assert(value_of("hie_z_seconds_count", "item=\"A\"") == 8);
    ck_assert(fabs(value_of("hie_z_seconds_sum", "item=\"A\"") - (double)sum / 1e6) < 1e-9);
    ck_assert(value_of("hie_z_seconds_bucket", "le=\"+Inf\"") == 0);
    ck_assert(value_of("hie_z_seconds_sum", "") == 0);
    /* bounds rise and counts never fall */
    double last = -1, last_le = -1;
    for (size_t i = 0; i < sample_count; i++) {
        const char *le = strstr(samples[i].labels, "item=\"A\",le=\"");
        if (!le || strcmp(samples[i].name, "hie_z_seconds_bucket") != 0)
            continue;
        double bound = strtod(le + strlen("item=\"A\",le=\""), NULL);
        ck_assert(samples[i].value >= last && bound > last_le);
        last = samples[i].value;
        last_le = bound;
    }
    ck_assert(isinf(last_le));
}
END_TEST

START_TEST(quantiles)
{
    struct histogram *histogram = metrics_histogram(metrics, "hie_q_seconds", "Time.", NULL, 0);
    ck_assert_int_eq(histogram_quantile(histogram, 0.5), 0);
    for (int i = 0; i < 90; i++)
        histogram_observe(histogram, 1500); /* in (1, 2.5] ms */
    for (int i = 0; i < 10; i++)
        histogram_observe(histogram, 70000); /* in (50, 100] ms */
    ck_assert_int_eq(histogram_quantile(histogram, 0), 1000);
    ck_assert_int_eq(histogram_quantile(histogram, 0.45), 1750);
    ck_assert_int_eq(histogram_quantile(histogram, 0.9), 2500);
    ck_assert_int_eq(histogram_quantile(histogram, 0.95), 75000);
    ck_assert_int_eq(histogram_quantile(histogram, 1), 100000);
    ck_assert_int_eq(histogram_quantile(histogram, 7), 100000);
    for (int i = 0; i < 1000; i++)
        histogram_observe(histogram, 100000000);
    ck_assert_int_eq(histogram_quantile(histogram, 0.99), 60000000);
}
END_TEST

START_TEST(one_name_two_kinds_is_a_bug)
{
    metrics_counter(metrics, "hie_x", "", NULL, 0);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr)); /* its line of complaint */
    metrics_gauge(metrics, "hie_x", "", NULL, 0);
}
END_TEST

START_TEST(many_series)
{
    char name[16];
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "item-%d", i % 1000);
        const struct metric_label label = {"item", name};
        metric_add(metrics_counter(metrics, "hie_m_total", "Many.", &label, 1), i);
    }
    metrics_print(metrics, &out);
    ck_assert_ptr_nonnull(memmem(out.data, out.len, "hie_m_total{item=\"item-999\"} 2998\n", 34));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *tests = tcase_create("metrics");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, process_metrics);
    tcase_add_test(tests, open_descriptors_are_counted);
    tcase_add_test(tests, counters_and_gauges);
    tcase_add_test(tests, numbers);
    tcase_add_test(tests, escaping);
    tcase_add_test(tests, histograms);
    tcase_add_test(tests, quantiles);
    tcase_add_test_raise_signal(tests, one_name_two_kinds_is_a_bug, SIGABRT);
    tcase_add_test(tests, many_series);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
