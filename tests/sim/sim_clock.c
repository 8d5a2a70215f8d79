/* base/clock.h from virtual time. The monotonic clock is the same for all and starts late enough that nothing looks back before
 * its start; the wall clock is that of the process that asks. */
#include "base/clock.h"

#include "sim.h"

#include <stdio.h>

int64_t clock_mono_us(void)
{
    return INT64_C(1000000) * SIM_SECOND + sim.now_us;
}

int64_t clock_mono_ms(void)
{
    return clock_mono_us() / SIM_MS;
}

int64_t clock_wall_us(void)
{
    return sim_wall_us();
}

int64_t clock_wall_ms(void)
{
    return sim_wall_us() / SIM_MS;
}

void clock_rfc3339(int64_t wall_us, char ret[static CLOCK_RFC3339_LEN + 1])
{
    snprintf(ret, CLOCK_RFC3339_LEN + 1, "%lld", (long long)wall_us); /* nobody reads it here */
}
