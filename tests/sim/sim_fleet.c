/* sim_fleet [--seeds FROM:COUNT] [--seed N] [--trace]: simulated fleets, one for each seed. See README.md. */
#include "sim_run.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TWICE_EVERY 50  /* each so manieth seed runs twice: it must do the same */
#define FAILURES_MAX 10 /* then it stops */

static const char usage[] =
    "usage: sim_fleet [--seeds FROM:COUNT] [--seed N] [--trace]\n"
    "  --seeds FROM:COUNT  runs these seeds (default 1:1000; HIE_SIM_SEEDS is another count)\n"
    "  --seed N            runs one\n"
    "  --trace             prints all that happens to standard error\n";

struct totals {
    uint64_t runs, messages, events, faults[SIM_FAULT_COUNT];
    unsigned failures;
};

static void run(uint64_t seed, bool trace, struct totals *totals)
{
    unsigned acknowledged;
    sim_run(seed, trace, &acknowledged);
    uint64_t hash = sim.hash;
    totals->runs++;
    totals->messages += acknowledged;
    totals->events += sim.events;
    for (unsigned i = 0; i < SIM_FAULT_COUNT; i++)
        totals->faults[i] += sim.faults[i];
    if (sim.failure[0]) {
        totals->failures++;
        printf("FAILED seed %" PRIu64 " %s\n", seed, sim.failure);
    } else if (seed % TWICE_EVERY == 0) {
        sim_run(seed, false, &acknowledged);
        if (sim.hash != hash) {
            totals->failures++;
            printf("FAILED seed %" PRIu64 " does not do the same twice\n", seed);
        }
    }
    fflush(stdout);
}

/* A crash tells its seed, too. */
static void tell_seed(void)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "\nFAILED seed %" PRIu64 " crashed\n", sim.seed);
    if (write(STDERR_FILENO, text, (size_t)len) < 0)
        return;
}

static void on_crash(int number)
{
    signal(number, SIG_DFL);
    tell_seed();
}

void __asan_on_error(void); /* the sanitizer's */
void __asan_on_error(void)
{
    tell_seed();
}

static bool parse_seeds(const char *text, uint64_t *from, uint64_t *count)
{
    return sscanf(text, "%" SCNu64 ":%" SCNu64, from, count) == 2 && *count > 0;
}

int main(int argc, char **argv)
{
    const char *seeds = getenv("HIE_SIM_SEEDS");
    uint64_t from = 1, count = seeds && *seeds ? strtoull(seeds, NULL, 10) : 1000;
    bool trace = false;
    struct totals totals = {0};
    signal(SIGABRT, on_crash);
#ifndef __SANITIZE_ADDRESS__ /* which tells more */
    signal(SIGSEGV, on_crash);
#endif
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            from = strtoull(argv[++i], NULL, 10);
            count = 1;
        } else if (strcmp(argv[i], "--seeds") != 0 || i + 1 == argc ||
                   !parse_seeds(argv[++i], &from, &count)) {
            fputs(usage, stderr);
            return 2;
        }
    }
    for (uint64_t seed = from; seed < from + count && totals.failures < FAILURES_MAX; seed++)
        run(seed, trace, &totals);
    for (unsigned i = 0; i < SIM_FAULT_COUNT; i++)
        printf("%8" PRIu64 " %s\n", totals.faults[i], sim_fault_words[i]);
    printf("%" PRIu64 " runs, %" PRIu64 " messages acknowledged, %" PRIu64 " events, %u failed\n",
           totals.runs, totals.messages, totals.events, totals.failures);
    return totals.failures || totals.runs == 0 ? 1 : 0;
}
