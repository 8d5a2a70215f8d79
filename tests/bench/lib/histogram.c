#include "histogram.h"

#include <math.h>
#include <string.h>

#define STEPS (1u << HISTOGRAM_STEP_BITS)

/* Below 2 * STEPS a slot holds one value; above, each doubling has STEPS slots. */
static unsigned slot_of(uint64_t value)
{
    if (value < STEPS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;
    unsigned slot = (shift << HISTOGRAM_STEP_BITS) + (unsigned)(value >> shift);
    return slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1;
}

/* The largest value that falls into a slot. */
static uint64_t slot_top(unsigned slot)
{
    if (slot < 2 * STEPS)
        return slot;
    unsigned shift = (slot >> HISTOGRAM_STEP_BITS) - 1;
    uint64_t step = (slot & (STEPS - 1)) + STEPS;
    return ((step + 1) << shift) - 1;
}

void histogram_clear(struct histogram *h)
{
    memset(h, 0, sizeof(*h));
}

void histogram_record(struct histogram *h, int64_t value)
{
    if (value < 0)
        value = 0;
    h->slots[slot_of((uint64_t)value)]++;
    h->count++;
    h->sum += (double)value;
    if (value > h->max)
        h->max = value;
}

void histogram_add(struct histogram *h, const struct histogram *other)
{
    for (unsigned i = 0; i < HISTOGRAM_SLOTS; i++)
        h->slots[i] += other->slots[i];
    h->count += other->count;
    h->sum += other->sum;
    if (other->max > h->max)
        h->max = other->max;
}

int64_t histogram_percentile(const struct histogram *h, double percent)
{
    if (h->count == 0)
        return 0;
    uint64_t wanted = (uint64_t)ceil((double)h->count * percent / 100.0);
    if (wanted < 1)
        wanted = 1;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_SLOTS; i++) {
        seen += h->slots[i];
        if (seen >= wanted) {
            int64_t top = (int64_t)slot_top(i);
            return top < h->max && i + 1 < HISTOGRAM_SLOTS ? top : h->max;
        }
    }
    return h->max;
}

double histogram_mean(const struct histogram *h)
{
    return h->count ? h->sum / (double)h->count : 0;
}
