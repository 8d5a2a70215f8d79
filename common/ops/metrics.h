/* Counters, gauges and histograms in Prometheus' text format. All are labelled `item` and `pattern` where a series
 * belongs to an item. Registration is at start; counting is one addition and never allocates. */
#ifndef HIE_OPS_METRICS_H
#define HIE_OPS_METRICS_H

#include "base/bytes.h"

#include <stdint.h>

struct metrics; /* a registry */
struct metric;  /* one series: a counter or gauge */
struct histogram;

struct metrics *metrics_new(void);
struct metrics *metrics_free(struct metrics *metrics);

struct metric_label {
    const char *name, *value; /* values of ours or the production file's, escaped when printed */
};

/* The same name and labels give the same series again. `help` is kept by the first. */
struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *help,
                               const struct metric_label *labels, size_t label_count);
struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *help,
                             const struct metric_label *labels, size_t label_count);
/* Buckets of time from 0.5 ms to 60 s, observed in microseconds, printed in seconds. */
struct histogram *metrics_histogram(struct metrics *metrics, const char *name, const char *help,
                                    const struct metric_label *labels, size_t label_count);

void metric_add(struct metric *metric, int64_t more);
void metric_set(struct metric *metric, double value);
void histogram_observe(struct histogram *histogram, int64_t us);
/* The quantile q (0..1) in microseconds, estimated within its bucket; 0 when empty. */
int64_t histogram_quantile(const struct histogram *histogram, double q);

/* Appends process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds, process_start_time_seconds and then every
 * series, grouped by name with HELP and TYPE. */
void metrics_print(struct metrics *metrics, struct buffer *out);

#endif
