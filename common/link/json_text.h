/* JSON strings for the few objects that the link and ops folders write themselves. */
#ifndef HIE_LINK_JSON_TEXT_H
#define HIE_LINK_JSON_TEXT_H

#include "base/bytes.h"

/* Appends `text` in quotes, escaped as RFC 8259 section 7 asks; what is not UTF-8 becomes '?'.
 * Needs room for six bytes a byte and two. */
void json_text_append(struct buffer *out, struct slice text);

#endif
