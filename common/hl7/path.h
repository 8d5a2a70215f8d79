/* Where a value lies in an HL7 v2 message, compiled from text:
 *
 *     PID-3            field 3 of the first PID, its first repetition, raw
 *     PID-3.1          its component 1        PID-3.4.2   its component 4, subcomponent 2
 *     PID-3[2].1       repetition 2           OBX[3]-5    the third OBX
 *     PID-3[*].1       any repetition         OBX[*]-5    any OBX
 *
 * A part that the message does not divide is its own first and only part: PID-3.1 of a PID-3
 * without component separators is the whole field, PID-3.2 is then absent. So is PID-3.1.1 of a
 * component without subcomponents. PV1-2 is the field's repetition as it is, separators and escapes
 * included. MSH-1 is the field separator, MSH-2 the encoding characters, never divided; FHS and BHS
 * count the same way. */
#ifndef HIE_HL7_PATH_H
#define HIE_HL7_PATH_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdint.h>

/* In `occurrence` and `repetition`: any of them, written [*]. */
#define HL7_ANY 0

#define HL7_OCCURRENCE_MAX 9999999
#define HL7_REPETITION_MAX 99999
#define HL7_FIELD_MAX 999
#define HL7_COMPONENT_MAX 999

/* Plain data: copy it by value, nothing to free. */
struct hl7_path {
    char segment[4];       /* upper case, NUL-terminated */
    uint32_t occurrence;   /* of the segment, from 1, or HL7_ANY */
    uint32_t repetition;   /* of the field, from 1, or HL7_ANY */
    uint16_t field;        /* from 1 */
    uint16_t component;    /* from 1; 0: the whole repetition */
    uint16_t subcomponent; /* from 1; 0: the whole component */
};

/* 0, or -1 with ERR_INVALID and a text that says what is wrong at which character. Nothing but the
 * path may stand in `text`, no blanks either. */
int hl7_path_parse(struct slice text, struct hl7_path *ret, struct err *err);

/* Enough for the longest text of a path and its NUL. */
#define HL7_PATH_TEXT_SIZE 64
/* The shortest text that hl7_path_parse reads as `path`. */
void hl7_path_format(const struct hl7_path *path, char ret[static HL7_PATH_TEXT_SIZE]);

#endif
