/* Finding segments: no state but the place. It cannot fail. */
#include "hl7/scan.h"

#include "hl7/separators.h"

static size_t find(struct slice body, size_t at, char byte)
{
    const char *found = at < body.len ? memchr(body.ptr + at, byte, body.len - at) : NULL;
    return found ? (size_t)(found - body.ptr) : body.len;
}

static size_t skip_blanks(struct slice body, size_t at)
{
    while (at < body.len && (body.ptr[at] == ' ' || body.ptr[at] == '\t' || body.ptr[at] == '\r' ||
                             body.ptr[at] == '\n'))
        at++;
    return at;
}

void hl7_scan_init(struct hl7_scan *scan, struct slice body)
{
    static const char mark[] = "\xef\xbb\xbf";
    size_t at = skip_blanks(body, 0);
    if (body.len - at >= 3 && memcmp(body.ptr + at, mark, 3) == 0)
        at = skip_blanks(body, at + 3);
    *scan = (struct hl7_scan){
        .body = body, .at = at, .cr = find(body, at, '\r'), .lf = find(body, at, '\n')};
}

bool hl7_scan_next(struct hl7_scan *scan, struct slice *ret)
{
    while (scan->at < scan->body.len) {
        /* Each is searched again only once it lies behind: a body without any LF is searched for LF
         * once. */
        if (scan->cr < scan->at)
            scan->cr = find(scan->body, scan->at, '\r');
        if (scan->lf < scan->at)
            scan->lf = find(scan->body, scan->at, '\n');
        size_t start = scan->at, end = scan->cr < scan->lf ? scan->cr : scan->lf;
        scan->at = end < scan->body.len ? end + 1 : end;
        if (end > start) {
            *ret = slice_of(scan->body.ptr + start, end - start);
            return true;
        }
    }
    return false;
}

static bool is_header(struct slice line, char field)
{
    struct hl7_separators separators;
    if (line.len == 3)
        return false;
    return field ? line.ptr[3] == field || hl7_separators_parse(line, &separators, NULL) == 0
                 : hl7_separator_allowed(line.ptr[3]);
}

static bool is_trailer(struct slice line, char field)
{
    if (line.len == 3 || line.ptr[3] == field)
        return true;
    if (!hl7_separator_allowed(line.ptr[3]))
        return false;
    return line.len == 4 || line.ptr[4] == line.ptr[3] ||
           (line.ptr[4] >= '0' && line.ptr[4] <= '9');
}

enum hl7_line hl7_line_kind(struct slice line, char field)
{
    static const struct {
        char name[4];
        enum hl7_line kind;
        bool (*is)(struct slice line, char field);
    } names[] = {{"MSH", HL7_LINE_MSH, is_header},
                 {"FHS", HL7_LINE_FHS, is_header},
                 {"BHS", HL7_LINE_BHS, is_header},
                 {"BTS", HL7_LINE_BTS, is_trailer},
                 {"FTS", HL7_LINE_FTS, is_trailer}};

    /* The third letter tells most other segments apart. */
    if (line.len < 3 || (line.ptr[2] != 'H' && line.ptr[2] != 'S'))
        return HL7_LINE_SEGMENT;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (memcmp(line.ptr, names[i].name, 3) == 0)
            return names[i].is(line, field) ? names[i].kind : HL7_LINE_SEGMENT;
    }
    return HL7_LINE_SEGMENT;
}
