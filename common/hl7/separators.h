/* The separators that an HL7 v2 message declares, and the escape sequences made of them. */
#ifndef HIE_HL7_SEPARATORS_H
#define HIE_HL7_SEPARATORS_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>

/* A separator that the message does not declare is 0 and divides nothing. */
struct hl7_separators {
    char field, component, repetition, escape, subcomponent;
    char truncation; /* from version 2.7 on */
};

/* `|^~\&` */
extern const struct hl7_separators HL7_SEPARATORS_DEFAULT;

/* Whether a byte can be a separator: no letter, no digit, none of NUL CR LF VT FS. */
bool hl7_separator_allowed(char byte);

/* From the first bytes of an MSH, FHS or BHS segment. MSH-2 may name one to five separators. 0, or
 * -1 with ERR_NOT_HL7 (too short to say) or ERR_INVALID (twice the same, a letter or digit, or one
 * of NUL CR LF VT FS). */
int hl7_separators_parse(struct slice header, struct hl7_separators *ret, struct err *err);

/* ---- escapes (chapter 2, "Use of escape sequences in text fields") ---- */

/* Decodes `raw`: \F\ \S\ \T\ \R\ \E\ \P\ give the separators, \Xhh…\ bytes, \.br\ CR; \H\ and
 * \N\ (highlighting) vanish. \Zxx\ \Cxxyy\ \Mxxyyzz\, other formatting commands and whatever is no
 * escape sequence stay as they are: text is never transcoded. Without an escape character in it the
 * result is `raw` itself; else it lies in `scratch`, whose content it replaces. False when the
 * result is longer than scratch's maximum; *ret is untouched then. */
bool hl7_unescape(const struct hl7_separators *separators, struct slice raw, struct buffer *scratch,
                  struct slice *ret);
/* The same, appended to `out`. False when it does not fit; `out` is as before then. */
bool hl7_unescape_append(const struct hl7_separators *separators, struct slice raw,
                         struct buffer *out);
/* Encodes text as the content of a field, appended to `out`: separators and the bytes NUL CR LF VT
 * FS are escaped, or become blanks in a message without an escape character. hl7_unescape gives the
 * text back. False when it does not fit; `out` is as before then. */
bool hl7_escape(const struct hl7_separators *separators, struct slice text, struct buffer *out);

#endif
