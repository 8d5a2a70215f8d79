/* A histogram of latencies with logarithmic buckets: 128 steps to each doubling, so a value is
 * known to within 1/128 of itself, from 1 µs to 12 days in 34 KB. Recording is a few instructions
 * and never allocates. The idea is Gil Tene's HdrHistogram. */
#ifndef HIE_BENCH_HISTOGRAM_H
#define HIE_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_MAX_BITS 40
#define HISTOGRAM_SLOTS ((HISTOGRAM_MAX_BITS - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS)

struct histogram {
    uint64_t slots[HISTOGRAM_SLOTS];
    uint64_t count;
    int64_t max; /* exact */
    double sum;
};

void histogram_clear(struct histogram *h);
/* Negative values count as 0, values past the last slot as the last slot (max stays exact). */
void histogram_record(struct histogram *h, int64_t value);
void histogram_add(struct histogram *h, const struct histogram *other);
/* The smallest recorded value that at least `percent` of all values do not exceed, rounded up to
 * its slot's upper edge but never above max. 0 when empty. */
int64_t histogram_percentile(const struct histogram *h, double percent);
double histogram_mean(const struct histogram *h);

#endif
