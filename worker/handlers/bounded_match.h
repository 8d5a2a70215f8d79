/* Regular expressions on bytes that a sender chose: a search ends in bounded time and memory
 * whatever they are. */
#ifndef HIE_HANDLERS_BOUNDED_MATCH_H
#define HIE_HANDLERS_BOUNDED_MATCH_H

#include "base/bytes.h"

struct bounded_match; /* working memory for any number of searches, one after the other */

enum match_result { MATCH_NO, MATCH_YES, MATCH_TOO_EXPENSIVE };

struct bounded_match *bounded_match_new(void);
struct bounded_match *bounded_match_free(struct bounded_match *match); /* NULL */
/* Searches `text` for `pattern` (pcre2_code over bytes). To be bounded in long texts as well it
 * must have been compiled with PCRE2_USE_OFFSET_LIMIT; without it the limits hold for each place in
 * the text where a match may begin, not for all of them together. */
enum match_result bounded_match_search(struct bounded_match *match, const void *pattern,
                                       struct slice text);

#endif
