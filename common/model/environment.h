/* Environment variables in the values of a production file:
 *
 *     ${NAME}            the variable's value; an unset variable is an error
 *     ${NAME:-default}   its value when it is set and not empty, else the default, which ends at the next } and
 *                        holds no ${ itself
 *     $${                a literal ${
 *
 * NAME is [A-Za-z_][A-Za-z0-9_]*. A dollar that no { follows is an ordinary character. Replacement happens in a value
 * that YAML has already read, so a variable cannot add keys or lists; what it holds is not read again. */
#ifndef HIE_MODEL_ENVIRONMENT_H
#define HIE_MODEL_ENVIRONMENT_H

#include "base/arena.h"
#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>

#define VALUE_BYTES_MAX (64u * 1024u) /* of a value, after replacement */

/* 0, or -1 with ERR_CONFIG. *ret_text is `text` itself when nothing was replaced, else a
 * NUL-terminated copy in `arena`; *ret_replaced says whether it held a ${…} (then messages show
 * `text`, not the value). */
int environment_expand(struct slice text, struct arena *arena, struct slice *ret_text,
                       bool *ret_replaced, struct err *err);

/* The variable's value, empty and NULL are the same: NULL. */
const char *environment_get(const char *name);

#endif
