/* Reading a message: an index of its segments, and look-ups in them. It owns the index when that
 * has outgrown the struct, nothing else. It fails only in hl7_parse; a look-up always has an
 * answer. */
#include "hl7/message.h"

#include "base/bug.h"
#include "hl7/scan.h"

#include <stdlib.h>

/* ---- the index ---- */

struct index {
    struct hl7_segment_place *heap;
    uint32_t count, capacity;
    struct hl7_segment_place first[HL7_SEGMENTS_INLINE];
};

/* The index at most doubles and a segment takes at least four bytes of the body (three and its
 * end), so the heap stays under four times the body's size. */
static bool index_grow(struct index *index)
{
    uint32_t capacity = index->capacity ? index->capacity * 2 : 4 * HL7_SEGMENTS_INLINE;
    struct hl7_segment_place *heap = reallocarray(index->heap, capacity, sizeof(*heap));
    if (!heap)
        return false;
    if (!index->heap)
        memcpy(heap, index->first, sizeof(index->first));
    index->heap = heap;
    index->capacity = capacity;
    return true;
}

static bool index_add(struct index *index, struct hl7_segment_place place)
{
    if (index->count < HL7_SEGMENTS_INLINE) {
        index->first[index->count++] = place;
        return true;
    }
    if (index->count >= index->capacity && !index_grow(index))
        return false;
    index->heap[index->count++] = place;
    return true;
}

static inline const struct hl7_segment_place *places_of(const struct hl7_message *message)
{
    return message->places ? message->places : message->inline_places;
}

/* Indexes the segments up to the next header; *ret_rest is what begins there. */
static bool index_segments(struct hl7_scan *scan, char field, struct index *index,
                           struct slice *ret_rest)
{
    struct slice body = scan->body, line;
    *ret_rest = slice_of(body.ptr + body.len, 0);
    while (hl7_scan_next(scan, &line)) {
        uint32_t start = (uint32_t)(line.ptr - body.ptr);
        if (hl7_line_kind(line, field) != HL7_LINE_SEGMENT) {
            *ret_rest = slice_of(line.ptr, body.len - start);
            return true;
        }
        /* Shorter lines have no name to be found by. */
        if (line.len >= 3 &&
            !index_add(index, (struct hl7_segment_place){start, (uint32_t)line.len}))
            return false;
    }
    return true;
}

static int read_header(struct slice header, struct hl7_separators *ret, struct err *err)
{
    if (header.len < 3 || memcmp(header.ptr, "MSH", 3) != 0) {
        bool batch = hl7_line_kind(header, 0) != HL7_LINE_SEGMENT;
        return err_set(err, ERR_NOT_HL7,
                       batch ? "a batch, not one message" : "does not begin with an MSH segment");
    }
    return hl7_separators_parse(header, ret, err);
}

int hl7_parse(struct slice body, struct hl7_message *ret, struct err *err)
{
    if (body.len >= UINT32_MAX)
        return err_set(err, ERR_TOO_LARGE, "a message of 4 GiB or more");
    struct hl7_scan scan;
    struct slice header;
    struct hl7_separators separators;
    hl7_scan_init(&scan, body);
    if (!hl7_scan_next(&scan, &header))
        return err_set(err, ERR_NOT_HL7, "empty");
    if (read_header(header, &separators, err))
        return -1;

    struct index index;
    struct slice rest;
    index.heap = NULL;
    index.capacity = 0;
    index.count = 1;
    index.first[0] =
        (struct hl7_segment_place){(uint32_t)(header.ptr - body.ptr), (uint32_t)header.len};
    if (!index_segments(&scan, separators.field, &index, &rest)) {
        free(index.heap);
        return err_set(err, ERR_UNAVAILABLE, "no memory to index the segments");
    }

    ret->body = body;
    ret->rest = rest;
    ret->separators = separators;
    ret->segment_count = index.count;
    ret->places = index.heap;
    if (!index.heap)
        memcpy(ret->inline_places, index.first, index.count * sizeof(index.first[0]));
    return 0;
}

void hl7_done(struct hl7_message *message)
{
    free(message->places);
    message->places = NULL;
    message->segment_count = 0;
}

/* ---- parts ---- */

/* Part `number` (from 1) of what `separator` divides. */
static bool part_of(struct slice whole, char separator, unsigned number, struct slice *ret)
{
    const char *at = whole.ptr, *end = whole.ptr + whole.len;
    if (!separator) {
        *ret = whole;
        return number == 1;
    }
    for (;;) {
        const char *stop = at < end ? memchr(at, separator, (size_t)(end - at)) : NULL;
        if (--number == 0) {
            *ret = slice_of(at, (size_t)((stop ? stop : end) - at));
            return true;
        }
        if (!stop)
            return false;
        at = stop + 1;
    }
}

static struct hl7_value value_of(struct slice raw)
{
    bool null = raw.len == 2 && raw.ptr[0] == '"' && raw.ptr[1] == '"';
    return (struct hl7_value){raw, raw.len == 0 ? HL7_EMPTY : null ? HL7_NULL : HL7_VALUE};
}

static const struct hl7_value ABSENT = {{NULL, 0}, HL7_ABSENT};

/* Whether the field after the name is number 2, because number 1 is the separator itself. */
static bool is_header(const struct hl7_separators *separators, struct slice segment)
{
    if (segment.len < 4 || segment.ptr[3] != separators->field)
        return false;
    return memcmp(segment.ptr, "MSH", 3) == 0 || memcmp(segment.ptr, "FHS", 3) == 0 ||
           memcmp(segment.ptr, "BHS", 3) == 0;
}

static bool field_of(const struct hl7_separators *separators, struct slice segment, unsigned number,
                     struct slice *ret)
{
    if (segment.len < 3)
        return false;
    if (!is_header(separators, segment))
        return part_of(segment, separators->field, number + 1, ret);
    if (number != 1)
        return part_of(segment, separators->field, number ? number : 1, ret);
    *ret = slice_of(segment.ptr + 3, 1);
    return true;
}

/* MSH-1 and MSH-2 hold separators as they are. */
static bool is_declaration(const struct hl7_separators *separators, struct slice segment,
                           unsigned field)
{
    return field <= 2 && is_header(separators, segment);
}

/* The path's component and subcomponent of one repetition. */
static struct hl7_value in_repetition(const struct hl7_separators *separators,
                                      const struct hl7_path *path, struct slice repetition)
{
    struct slice found = repetition;
    if (path->component && !part_of(found, separators->component, path->component, &found))
        return ABSENT;
    if (path->component && path->subcomponent &&
        !part_of(found, separators->subcomponent, path->subcomponent, &found))
        return ABSENT;
    return value_of(found);
}

static struct hl7_value in_declaration(const struct hl7_path *path, struct slice field)
{
    bool first = path->repetition <= 1 && path->component <= 1 && path->subcomponent <= 1;
    return first ? value_of(field) : ABSENT;
}

/* The path's value in one segment; its repetition is a number. */
static struct hl7_value in_segment(const struct hl7_separators *separators,
                                   const struct hl7_path *path, struct slice segment)
{
    struct slice found;
    if (!field_of(separators, segment, path->field, &found))
        return ABSENT;
    if (is_declaration(separators, segment, path->field))
        return in_declaration(path, found);
    if (!part_of(found, separators->repetition, path->repetition, &found))
        return ABSENT;
    return in_repetition(separators, path, found);
}

/* ---- look-ups ---- */

struct slice hl7_segment(const struct hl7_message *message, uint32_t index)
{
    BUG_ON(index >= message->segment_count);
    struct hl7_segment_place place = places_of(message)[index];
    return slice_of(message->body.ptr + place.start, place.len);
}

static inline bool is_named(const struct hl7_message *message, struct hl7_segment_place place,
                            const char *name)
{
    const char *at = message->body.ptr + place.start;
    return at[0] == name[0] && at[1] == name[1] && at[2] == name[2] &&
           (place.len == 3 || at[3] == message->separators.field);
}

bool hl7_segment_is(const struct hl7_message *message, uint32_t index, const char *name)
{
    BUG_ON(index >= message->segment_count || strlen(name) != 3);
    return is_named(message, places_of(message)[index], name);
}

struct hl7_value hl7_field(const struct hl7_separators *separators, struct slice segment,
                           unsigned number)
{
    struct slice found;
    return field_of(separators, segment, number, &found) ? value_of(found) : ABSENT;
}

/* The index of the next segment from `from` on that the path names; segment_count: none. */
static uint32_t next_named(const struct hl7_message *message, const struct hl7_path *path,
                           uint32_t from)
{
    const struct hl7_segment_place *places = places_of(message);
    while (from < message->segment_count && !is_named(message, places[from], path->segment))
        from++;
    return from;
}

static struct hl7_value get_any(const struct hl7_message *message, const struct hl7_path *path)
{
    struct hl7_each each = hl7_each(message, path);
    struct hl7_value first = ABSENT, value;
    while (hl7_each_next(&each, &value)) {
        if (value.presence > HL7_EMPTY)
            return value;
        if (first.presence == HL7_ABSENT)
            first = value;
    }
    return first;
}

struct hl7_value hl7_get(const struct hl7_message *message, const struct hl7_path *path)
{
    if (path->occurrence == HL7_ANY || path->repetition == HL7_ANY)
        return get_any(message, path);
    uint32_t index = next_named(message, path, 0);
    for (uint32_t n = 1; n < path->occurrence && index < message->segment_count; n++)
        index = next_named(message, path, index + 1);
    if (index >= message->segment_count)
        return ABSENT;
    return in_segment(&message->separators, path, hl7_segment(message, index));
}

struct hl7_value hl7_get_text(const struct hl7_message *message, const char *path)
{
    struct hl7_path compiled;
    int rc = hl7_path_parse(slice_text(path), &compiled, NULL);
    BUG_ON(rc != 0);
    return hl7_get(message, &compiled);
}

/* ---- iteration ---- */

struct hl7_each hl7_each(const struct hl7_message *message, const struct hl7_path *path)
{
    return (struct hl7_each){.message = message, .path = path};
}

/* The next repetition of the field at hand. */
static struct slice take_repetition(struct hl7_each *each)
{
    struct slice field = each->field, one;
    part_of(field, each->message->separators.repetition, 1, &one);
    each->in_field = one.len < field.len;
    if (each->in_field)
        each->field = slice_of(field.ptr + one.len + 1, field.len - one.len - 1);
    return one;
}

/* The value in the next segment of the path's name, which may be absent; false: no such segment. */
static bool visit_segment(struct hl7_each *each, struct hl7_value *ret)
{
    const struct hl7_message *message = each->message;
    const struct hl7_path *path = each->path;
    do {
        if (path->occurrence != HL7_ANY && each->occurrence >= path->occurrence)
            return false;
        each->segment = next_named(message, path, each->segment);
        if (each->segment >= message->segment_count)
            return false;
        each->segment++;
        each->occurrence++;
    } while (path->occurrence != HL7_ANY && each->occurrence < path->occurrence);

    struct slice segment = hl7_segment(message, each->segment - 1);
    if (path->repetition != HL7_ANY || is_declaration(&message->separators, segment, path->field)) {
        *ret = in_segment(&message->separators, path, segment);
        return true;
    }
    each->in_field = field_of(&message->separators, segment, path->field, &each->field);
    *ret = ABSENT;
    return true;
}

bool hl7_each_next(struct hl7_each *each, struct hl7_value *ret)
{
    for (;;) {
        struct hl7_value value;
        if (each->in_field)
            value = in_repetition(&each->message->separators, each->path, take_repetition(each));
        else if (!visit_segment(each, &value))
            return false;
        if (value.presence != HL7_ABSENT) {
            *ret = value;
            return true;
        }
    }
}
