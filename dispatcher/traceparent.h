/* The header traceparent (W3C Trace Context section 3.2.2). */
#ifndef HIE_TRACEPARENT_H
#define HIE_TRACEPARENT_H

#include "base/bytes.h"

#include <stdbool.h>

/* version "-" trace id "-" parent id "-" flags, in lower-case hex, as version 00 has them; the ids not 0, the version not ff. A
 * receiver is to treat any other as none. */
bool traceparent_is_valid(struct slice value);

#endif
