/* The request header Prefer (RFC 7240): of its preferences we know `respond-async` and `wait`. */
#ifndef HIE_PREFER_H
#define HIE_PREFER_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stdint.h>

#define PREFER_WAIT_MAX_S 86400 /* more is taken for this */

struct prefer { /* zero: nothing is preferred */
    bool respond_async;
    bool has_wait;
    int64_t wait_s;
};

/* Adds one header's preferences; a request may have several headers. What is given twice counts the first time. What is malformed
 * or not known is skipped: a preference may be ignored, never refused. */
void prefer_read(struct slice header, struct prefer *prefer);

#endif
