/* A registry of series. Owns families by name and their series by label text; waits for nothing;
 * printing into a buffer that is too small is a bug of the caller. One thread only: counting takes
 * no lock. Format: Prometheus text exposition format 0.0.4. */
#include "ops/metrics.h"

#include "base/bug.h"
#include "base/mem.h"
#include "ops/process_stats.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <uthash.h>

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

static const char *const kind_words[] = {"counter", "gauge", "histogram"};

/* Upper bounds in microseconds, and as the `le` label has them. */
static const struct {
    int64_t us;
    const char *text;
} bounds[] = {
    {500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"}, {5000, "0.005"},
    {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},
    {250000, "0.25"}, {500000, "0.5"},  {1000000, "1"},   {2500000, "2.5"},
    {5000000, "5"},   {10000000, "10"}, {30000000, "30"}, {60000000, "60"},
};
enum { BOUNDS = sizeof(bounds) / sizeof(bounds[0]) };

struct metric {
    bool counts; /* a counter: `count` holds it, exactly; else `value` */
    int64_t count;
    double value;
};

struct histogram {
    uint64_t buckets[BOUNDS + 1]; /* not cumulative; the last one has no bound */
    uint64_t count;
    int64_t sum_us;
};

struct series {
    char *labels; /* `a="x",b="y"`, the key */
    struct metric metric;
    struct histogram *histogram; /* of a histogram's series */
    UT_hash_handle hh;
};

struct family {
    char *name; /* the key */
    char *help;
    enum kind kind;
    struct series *series;
    UT_hash_handle hh;
};

struct metrics {
    struct family *families;
};

struct metrics *metrics_new(void)
{
    return mem_alloc(sizeof(struct metrics));
}

static void free_family(struct family *family)
{
    struct series *series, *next;
    HASH_ITER(hh, family->series, series, next)
    {
        HASH_DEL(family->series, series);
        free(series->labels);
        free(series->histogram);
        free(series);
    }
    free(family->name);
    free(family->help);
    free(family);
}

struct metrics *metrics_free(struct metrics *metrics)
{
    struct family *family, *next;
    if (!metrics)
        return NULL;
    HASH_ITER(hh, metrics->families, family, next)
    {
        HASH_DEL(metrics->families, family);
        free_family(family);
    }
    free(metrics);
    return NULL;
}

/* ---- registration ---- */

static void append_escaped(struct buffer *out, const char *text, bool quoted)
{
    for (; *text; text++) {
        if (*text == '\\')
            buffer_append_text(out, "\\\\");
        else if (*text == '\n')
            buffer_append_text(out, "\\n");
        else if (*text == '"' && quoted)
            buffer_append_text(out, "\\\"");
        else
            buffer_append_byte(out, *text);
    }
}

static char *label_text(const struct metric_label *labels, size_t count)
{
    struct buffer out;
    buffer_init(&out, SIZE_MAX);
    for (size_t i = 0; i < count; i++) {
        if (i)
            buffer_append_byte(&out, ',');
        buffer_append_text(&out, labels[i].name);
        buffer_append_text(&out, "=\"");
        append_escaped(&out, labels[i].value, true);
        buffer_append_byte(&out, '"');
    }
    char *text = mem_strndup(out.data, out.len);
    buffer_done(&out);
    return text;
}

static struct family *find_family(struct metrics *metrics, const char *name, const char *help,
                                  enum kind kind)
{
    struct family *family;
    HASH_FIND_STR(metrics->families, name, family);
    if (!family) {
        family = mem_alloc(sizeof(*family));
        family->name = mem_strdup(name);
        family->help = mem_strdup(help ? help : "");
        family->kind = kind;
        HASH_ADD_KEYPTR(hh, metrics->families, family->name, strlen(family->name), family);
    }
    BUG_ON(family->kind != kind); /* one name, two meanings */
    return family;
}

static struct series *find_series(struct metrics *metrics, const char *name, const char *help,
                                  enum kind kind, const struct metric_label *labels,
                                  size_t label_count)
{
    struct family *family = find_family(metrics, name, help, kind);
    char *text = label_text(labels, label_count);
    struct series *series;
    HASH_FIND_STR(family->series, text, series);
    if (series) {
        free(text);
        return series;
    }
    series = mem_alloc(sizeof(*series));
    series->labels = text;
    series->metric.counts = kind == KIND_COUNTER;
    if (kind == KIND_HISTOGRAM)
        series->histogram = mem_alloc(sizeof(*series->histogram));
    HASH_ADD_KEYPTR(hh, family->series, series->labels, strlen(series->labels), series);
    return series;
}

struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *help,
                               const struct metric_label *labels, size_t label_count)
{
    return &find_series(metrics, name, help, KIND_COUNTER, labels, label_count)->metric;
}

struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *help,
                             const struct metric_label *labels, size_t label_count)
{
    return &find_series(metrics, name, help, KIND_GAUGE, labels, label_count)->metric;
}

struct histogram *metrics_histogram(struct metrics *metrics, const char *name, const char *help,
                                    const struct metric_label *labels, size_t label_count)
{
    return find_series(metrics, name, help, KIND_HISTOGRAM, labels, label_count)->histogram;
}

/* ---- counting ---- */

void metric_add(struct metric *metric, int64_t more)
{
    if (metric->counts)
        metric->count += more;
    else
        metric->value += (double)more;
}

void metric_set(struct metric *metric, double value)
{
    if (metric->counts)
        metric->count = (int64_t)value;
    else
        metric->value = value;
}

void histogram_observe(struct histogram *histogram, int64_t us)
{
    unsigned i = 0;
    if (us < 0) /* a clock of another machine runs ahead */
        us = 0;
    while (i < BOUNDS && us > bounds[i].us)
        i++;
    histogram->buckets[i]++;
    histogram->count++;
    histogram->sum_us += us;
}

int64_t histogram_quantile(const struct histogram *histogram, double q)
{
    if (histogram->count == 0)
        return 0;
    q = q < 0 ? 0 : q > 1 ? 1 : q;
    double rank = q * (double)histogram->count, below = 0;
    for (unsigned i = 0; i < BOUNDS; i++) {
        double here = (double)histogram->buckets[i];
        if (here > 0 && below + here >= rank) {
            double from = i ? (double)bounds[i - 1].us : 0, to = (double)bounds[i].us;
            return (int64_t)(from + (to - from) * (rank - below) / here);
        }
        below += here;
    }
    return bounds[BOUNDS - 1].us; /* beyond the last bound; how far is not known */
}

/* ---- printing ---- */

static void append_number(struct buffer *out, double value)
{
    if (isnan(value))
        buffer_append_text(out, "NaN");
    else if (isinf(value))
        buffer_append_text(out, value > 0 ? "+Inf" : "-Inf");
    else if (value > -1e15 && value < 1e15 && (double)(int64_t)value == value)
        buffer_printf(out, "%" PRId64, (int64_t)value);
    else
        buffer_printf(out, "%.15g", value);
}

/* name{labels,more} and a blank */
static void append_name(struct buffer *out, const char *name, const char *suffix,
                        const char *labels, const char *le)
{
    buffer_append_text(out, name);
    buffer_append_text(out, suffix);
    if (*labels || le) {
        buffer_append_byte(out, '{');
        buffer_append_text(out, labels);
        if (le) {
            buffer_append_text(out, *labels ? ",le=\"" : "le=\"");
            buffer_append_text(out, le);
            buffer_append_byte(out, '"');
        }
        buffer_append_byte(out, '}');
    }
    buffer_append_byte(out, ' ');
}

static void print_histogram(struct buffer *out, const char *name, const struct series *series)
{
    const struct histogram *histogram = series->histogram;
    uint64_t below = 0;
    for (unsigned i = 0; i <= BOUNDS; i++) {
        below += histogram->buckets[i];
        append_name(out, name, "_bucket", series->labels, i < BOUNDS ? bounds[i].text : "+Inf");
        buffer_append_uint(out, below);
        buffer_append_byte(out, '\n');
    }
    append_name(out, name, "_sum", series->labels, NULL);
    buffer_printf(out, "%" PRId64 ".%06" PRId64 "\n", histogram->sum_us / 1000000,
                  histogram->sum_us % 1000000);
    append_name(out, name, "_count", series->labels, NULL);
    buffer_append_uint(out, histogram->count);
    buffer_append_byte(out, '\n');
}

static void print_head(struct buffer *out, const char *name, const char *help, enum kind kind)
{
    buffer_append_text(out, "# HELP ");
    buffer_append_text(out, name);
    buffer_append_byte(out, ' ');
    append_escaped(out, help, false);
    buffer_append_text(out, "\n# TYPE ");
    buffer_append_text(out, name);
    buffer_append_byte(out, ' ');
    buffer_append_text(out, kind_words[kind]);
    buffer_append_byte(out, '\n');
}

static void print_family(struct buffer *out, const struct family *family)
{
    print_head(out, family->name, family->help, family->kind);
    for (const struct series *series = family->series; series; series = series->hh.next) {
        if (family->kind == KIND_HISTOGRAM) {
            print_histogram(out, family->name, series);
            continue;
        }
        append_name(out, family->name, "", series->labels, NULL);
        if (family->kind == KIND_COUNTER)
            buffer_printf(out, "%" PRId64, series->metric.count);
        else
            append_number(out, series->metric.value);
        buffer_append_byte(out, '\n');
    }
}

static void print_process(struct buffer *out)
{
    struct process_stats stats;
    process_stats_read(&stats);
    const struct {
        const char *name, *help;
        enum kind kind;
        double value;
    } rows[] = {
        {"process_cpu_seconds_total", "User and system CPU time.", KIND_COUNTER, stats.cpu_seconds},
        {"process_resident_memory_bytes", "Resident memory.", KIND_GAUGE, stats.resident_bytes},
        {"process_open_fds", "Open file descriptors.", KIND_GAUGE, stats.open_fds},
        {"process_max_fds", "Limit of open file descriptors.", KIND_GAUGE, stats.max_fds},
        {"process_start_time_seconds", "Start of the process, since 1970.", KIND_GAUGE,
         stats.start_seconds},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_head(out, rows[i].name, rows[i].help, rows[i].kind);
        append_name(out, rows[i].name, "", "", NULL);
        append_number(out, rows[i].value);
        buffer_append_byte(out, '\n');
    }
}

void metrics_print(struct metrics *metrics, struct buffer *out)
{
    print_process(out);
    for (const struct family *family = metrics->families; family; family = family->hh.next)
        print_family(out, family);
}
