/* Text with HL7 values and named variables in it, such as `${MSH-10}-${correlation_id}.hl7`. `$$`
 * is a literal dollar; any other `$` must open a `${…}`. */
#ifndef HIE_HL7_TEMPLATE_H
#define HIE_HL7_TEMPLATE_H

#include "base/bytes.h"
#include "base/error.h"
#include "hl7/message.h"
#include "hl7/path.h"

#include <stddef.h>

#define HL7_TEMPLATE_MAX 4096 /* bytes of text */
#define HL7_TEMPLATE_PARTS_MAX 256

struct hl7_template_part {
    enum hl7_template_kind { HL7_TEMPLATE_LITERAL, HL7_TEMPLATE_PATH, HL7_TEMPLATE_NAME } kind;
    struct hl7_path path;
    char *text; /* LITERAL: the bytes; NAME: the name, NUL-terminated. Owned */
    size_t len; /* of text */
};

struct hl7_template {
    struct hl7_template_part *parts; /* owned */
    size_t part_count;
};

/* `names` (NULL-terminated, or NULL) are the variables that may be used. 0, or -1 with ERR_INVALID
 * and a text that names the part at fault. After 0 the caller ends with hl7_template_done; a zeroed
 * template is an empty text. */
int hl7_template_parse(struct slice text, const char *const *names, struct hl7_template *ret,
                       struct err *err);
void hl7_template_done(struct hl7_template *template_);

/* Whether any part is a path: such a template says nothing of a body that is not HL7. */
bool hl7_template_has_paths(const struct hl7_template *template_);

/* The value of one of the template's names; borrowed until the next call. */
typedef struct slice (*hl7_template_lookup)(void *context, const char *name);

/* Appends the text to `out`. Values of paths are unescaped; absent, empty and `""` ones, and all of
 * them without a message (NULL), give nothing. The bytes of a message are its sender's: who makes a
 * file name or a header of them checks them. 0, or -1 with ERR_TOO_LARGE when it passes the maximum
 * of `out`, which is then as before. */
int hl7_template_render(const struct hl7_template *template_, const struct hl7_message *message,
                        hl7_template_lookup lookup, void *context, struct buffer *out,
                        struct err *err);

#endif
