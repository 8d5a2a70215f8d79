/* Reading and writing paths: pure text. It fails on what is no path, and says where. */
#include "hl7/path.h"

#include <stdio.h>

struct reader {
    struct slice text;
    size_t at;
    struct err *err;
};

static bool more(const struct reader *r)
{
    return r->at < r->text.len;
}

static bool skip(struct reader *r, char c)
{
    if (!more(r) || r->text.ptr[r->at] != c)
        return false;
    r->at++;
    return true;
}

static int fail(const struct reader *r, const char *expected)
{
    if (!more(r))
        return err_set(r->err, ERR_INVALID, "expected %s at the end", expected);
    return err_set(r->err, ERR_INVALID, "expected %s at character %zu", expected, r->at + 1);
}

/* A number from 1 to max without leading zeros. */
static int read_number(struct reader *r, const char *what, uint32_t max, uint32_t *ret)
{
    size_t start = r->at;
    uint32_t number = 0;
    while (more(r) && r->text.ptr[r->at] >= '0' && r->text.ptr[r->at] <= '9') {
        if (number <= max)
            number = number * 10 + (uint32_t)(r->text.ptr[r->at] - '0');
        r->at++;
    }
    if (r->at == start)
        return fail(r, what);
    if (number < 1 || number > max || r->text.ptr[start] == '0')
        return err_set(r->err, ERR_INVALID, "%s at character %zu must be from 1 to %u", what,
                       start + 1, max);
    *ret = number;
    return 0;
}

/* `[3]`, `[*]`, or nothing: 1. */
static int read_index(struct reader *r, const char *what, uint32_t max, uint32_t *ret)
{
    *ret = 1;
    if (!skip(r, '['))
        return 0;
    if (skip(r, '*'))
        *ret = HL7_ANY;
    else if (read_number(r, what, max, ret))
        return -1;
    return skip(r, ']') ? 0 : fail(r, "']'");
}

static int read_segment(struct reader *r, char ret[4])
{
    for (; r->at < 3; r->at++) {
        char c = more(r) ? r->text.ptr[r->at] : '\0';
        bool letter = c >= 'A' && c <= 'Z', digit = c >= '0' && c <= '9';
        if (!letter && !(digit && r->at > 0))
            return fail(r, "a segment's name (three upper-case letters or digits, a letter first)");
        ret[r->at] = c;
    }
    ret[3] = '\0';
    return 0;
}

int hl7_path_parse(struct slice text, struct hl7_path *ret, struct err *err)
{
    struct reader r = {.text = text, .err = err};
    struct hl7_path path = {.occurrence = 1};
    uint32_t field, component = 0, subcomponent = 0;

    if (read_segment(&r, path.segment) ||
        read_index(&r, "a segment's number", HL7_OCCURRENCE_MAX, &path.occurrence))
        return -1;
    if (!skip(&r, '-'))
        return fail(&r, "'-' and a field's number");
    if (read_number(&r, "a field's number", HL7_FIELD_MAX, &field) ||
        read_index(&r, "a repetition's number", HL7_REPETITION_MAX, &path.repetition))
        return -1;
    if (skip(&r, '.')) {
        if (read_number(&r, "a component's number", HL7_COMPONENT_MAX, &component))
            return -1;
        if (skip(&r, '.') &&
            read_number(&r, "a subcomponent's number", HL7_COMPONENT_MAX, &subcomponent))
            return -1;
    }
    if (more(&r))
        return fail(&r, "nothing more");

    path.field = (uint16_t)field;
    path.component = (uint16_t)component;
    path.subcomponent = (uint16_t)subcomponent;
    *ret = path;
    return 0;
}

/* `[3]`, `[*]`, or nothing for 1. */
static void index_text(uint32_t index, char ret[static 16])
{
    ret[0] = '\0';
    if (index == HL7_ANY)
        snprintf(ret, 16, "[*]");
    else if (index != 1)
        snprintf(ret, 16, "[%u]", index);
}

void hl7_path_format(const struct hl7_path *path, char ret[static HL7_PATH_TEXT_SIZE])
{
    char occurrence[16], repetition[16], parts[16] = "";
    index_text(path->occurrence, occurrence);
    index_text(path->repetition, repetition);
    if (path->component && path->subcomponent)
        snprintf(parts, sizeof(parts), ".%u.%u", path->component, path->subcomponent);
    else if (path->component)
        snprintf(parts, sizeof(parts), ".%u", path->component);
    snprintf(ret, HL7_PATH_TEXT_SIZE, "%.3s%s-%u%s%s", path->segment, occurrence, path->field,
             repetition, parts);
}
