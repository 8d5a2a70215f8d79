/* Collecting what is wrong with a production file, and wording it: quoted text, nearest words. */
#ifndef HIE_MODEL_DIAGNOSTICS_H
#define HIE_MODEL_DIAGNOSTICS_H

#include "base/bytes.h"
#include "model/production.h"

void diagnostics_error(struct diagnostics *all, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void diagnostics_warning(struct diagnostics *all, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Into the order of lines; those of one line stay in the order in which they were found. */
void diagnostics_sort(struct diagnostics *all);

/* Text of the file for a message: "`text`", at most some 60 bytes of it, control bytes replaced. */
#define QUOTED_SIZE 80
struct quoted {
    char text[QUOTED_SIZE];
};
struct quoted quote(struct slice text);
#define QUOTE(slice_) (quote(slice_).text)

/* The word of `words` (NULL-terminated) that `text` most likely was to be: few edits away, or one begins the other; NULL when none
 * is near. */
const char *nearest_word(struct slice text, const char *const *words);
/* Edits (insert, delete, replace, swap of neighbours; case ignored) between the two; `limit` + 1
 * when there are more. */
unsigned edit_distance(struct slice a, struct slice b, unsigned limit);
/* "; did you mean `word`?" or nothing, for the end of a message. */
struct quoted did_you_mean(const char *word);

#endif
