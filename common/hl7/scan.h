/* The segments of an HL7 v2 body one after the other, whatever ends them: CR, LF or CRLF. Blank
 * lines, and a byte order mark or blanks before the first segment, are skipped. A whole scan looks
 * at each byte at most twice. */
#ifndef HIE_HL7_SCAN_H
#define HIE_HL7_SCAN_H

#include "base/bytes.h"

#include <stdbool.h>

struct hl7_scan {
    struct slice body; /* borrowed */
    size_t at;         /* start of the next line */
    size_t cr, lf;     /* the first CR and LF from `at` on, or body.len; stale once behind `at` */
};

void hl7_scan_init(struct hl7_scan *scan, struct slice body);
/* The next segment without its end; false when there is none. */
bool hl7_scan_next(struct hl7_scan *scan, struct slice *ret);

enum hl7_line {
    HL7_LINE_SEGMENT,
    HL7_LINE_MSH,
    HL7_LINE_FHS,
    HL7_LINE_BHS,
    HL7_LINE_BTS,
    HL7_LINE_FTS
};

/* What a line is: MSH, FHS, BHS, BTS and FTS begin or end a message, all others are segments of
 * one. `field` is the separator of the message before the line, or 0. Within a message such a name
 * only counts with that separator, or with what can be a header or trailer of its own, so that a
 * line of text such as "MSH is away" does not cut a message in two. */
enum hl7_line hl7_line_kind(struct slice line, char field);

#endif
