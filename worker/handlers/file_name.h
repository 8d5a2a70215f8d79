/* File names from message values, made safe: whatever the values hold, the result is one plain name
 * of the bytes [A-Za-z0-9._-] that neither leaves the folder nor hides in it. Pure. */
#ifndef HIE_HANDLERS_FILE_NAME_H
#define HIE_HANDLERS_FILE_NAME_H

#include "base/uuid.h"
#include "hl7/template.h"

#include <stdbool.h>

#define FILE_NAME_MAX 200      /* bytes of a name */
#define FILE_NAME_VALUE_MAX 64 /* bytes of one value in it */
#define FILE_NAME_SIZE 256     /* of any name below, with its NUL */

/* Renders `template_` for a message: every byte outside the set becomes '_', so does a leading dot;
 * values are cut at FILE_NAME_VALUE_MAX; absent values and all paths of a body that is not HL7 give
 * nothing; an empty name becomes the id. A name over FILE_NAME_MAX is cut and gets the id before
 * its extension. Returns whether the name holds the correlation id, and so can be no other
 * message's. */
bool file_name_render(const struct hl7_template *template_, struct slice body, struct uuid id,
                      char ret_name[static FILE_NAME_SIZE]);
/* `name` with "-<id>" before its extension; `name` has at most FILE_NAME_MAX bytes. */
void file_name_with_id(const char *name, struct uuid id, char ret_name[static FILE_NAME_SIZE]);

#endif
