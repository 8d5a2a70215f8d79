/* Time. Monotonic for waiting and measuring, wall for what people and other machines read. */
#ifndef HIE_BASE_CLOCK_H
#define HIE_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t clock_mono_us(void);
int64_t clock_mono_ms(void);
int64_t clock_wall_us(void); /* since 1970 */
int64_t clock_wall_ms(void);

#define CLOCK_RFC3339_LEN 24
/* "2026-02-10T12:34:56.789Z" with its NUL: needs CLOCK_RFC3339_LEN + 1 bytes. */
void clock_rfc3339(int64_t wall_us, char ret[static CLOCK_RFC3339_LEN + 1]);

#endif
