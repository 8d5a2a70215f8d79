/* Owns the published form of a production: the file's text, then a comment line for each item with what shapes its queue, and one for the
 * sections.
 *
 *     #hie-queue <id> <messaging_pattern> <queue_type> <partitions> <class> logged|unlogged [<ordering_key>]
 *     #hie-since <version> <version>
 *
 * Such lines in a file, of a version that somebody exported and edited, are left out.
 *
 * Everything else is read by each process with its own environment. Whether two versions have the same queues is a matter of these
 * lines alone, so that it can be said of a text that does not parse here.
 *
 * The last line has a version for `dispatcher` and one for `worker`: where the section began that this one was made from, step by step. It is
 * the text's own version where the publisher's section had been another than the fleet's (a dispatcher with a file of its own), else as in the
 * version before; 0, or no such line: the fleet's first. */
#include "model/production.h"

#include "base/mem.h"
#include "model/item_class.h"
#include "model/reader.h"

#include <inttypes.h>
#include <stdlib.h>

#define MARK "#hie-queue "
#define SINCE_MARK "#hie-since "

static const char *const log_words[] = {"unlogged", "logged", NULL}; /* by wal_enabled */

/* Takes a line off the text; its end is left out. */
static struct slice take_line(struct slice *text)
{
    const char *end = memchr(text->ptr, '\n', text->len);
    struct slice line = slice_of(text->ptr, end ? (size_t)(end - text->ptr) : text->len);
    size_t used = line.len + (end != NULL);
    *text = slice_of(text->ptr + used, text->len - used);
    return line;
}

static bool begins_with(struct slice line, struct slice mark)
{
    return line.len >= mark.len && memcmp(line.ptr, mark.ptr, mark.len) == 0;
}

void production_publishable(const struct production *production, struct slice text,
                            struct buffer *out)
{
    while (text.len) {
        struct slice line = take_line(&text);
        if (begins_with(line, SLICE_LITERAL(MARK)) || begins_with(line, SLICE_LITERAL(SINCE_MARK)))
            continue;
        buffer_append(out, line.ptr, line.len);
        buffer_append_byte(out, '\n');
    }
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        char order[HL7_PATH_TEXT_SIZE] = ""; /* however it is spelt */
        if (item->ordering_key)
            hl7_path_format(&item->ordering_path, order);
        buffer_printf(out, MARK "%s %s %s %" PRId64 " %s %s%s%s\n", item->id,
                      messaging_pattern_words[item->messaging_pattern],
                      queue_type_words[item->queue_type], item->partitions, item->class->name,
                      log_words[item->persistence.wal_enabled], item->ordering_key ? " " : "",
                      order);
    }
}

static struct slice next_word(struct slice *rest)
{
    const char *space = rest->len ? memchr(rest->ptr, ' ', rest->len) : NULL;
    struct slice word = slice_of(rest->ptr, space ? (size_t)(space - rest->ptr) : rest->len);
    size_t used = word.len + (space != NULL);
    *rest = slice_of(rest->ptr + used, rest->len - used);
    return word;
}

static bool find_word(struct slice text, const char *const *words, unsigned *ret)
{
    for (unsigned i = 0; words[i]; i++) {
        if (slice_is(text, words[i])) {
            *ret = i;
            return true;
        }
    }
    return false;
}

/* A line that is none of ours changes nothing. */
static void follow_line(struct production *production, struct slice line)
{
    struct item shape = {0};
    struct err err;
    unsigned logged;
    struct slice id = next_word(&line), pattern = next_word(&line), type = next_word(&line),
                 partitions = next_word(&line);
    (void)next_word(&line); /* the class is the file's to say */
    struct slice log = next_word(&line);
    struct item *item = (struct item *)production_find(production, id);
    if (!item || !find_word(pattern, messaging_pattern_words, &shape.messaging_pattern) ||
        !find_word(type, queue_type_words, &shape.queue_type) ||
        !slice_to_int(partitions, 1, 1024, &shape.partitions) ||
        !find_word(log, log_words, &logged) ||
        (line.len && hl7_path_parse(line, &shape.ordering_path, &err)))
        return;
    item->messaging_pattern = shape.messaging_pattern;
    item->queue_type = shape.queue_type;
    item->partitions = shape.partitions;
    if (shape.queue_type == QUEUE_FIFO)
        item->persistence.wal_enabled = logged;
    item->ordering_path = shape.ordering_path;
    item->ordering_key = line.len ? arena_strdup(&production->arena, line) : NULL;
    item_settle_pattern(item);
}

/* The next of our lines, behind the mark; false when there is none. */
static bool next_line(struct slice *text, struct slice *ret_line)
{
    while (text->len) {
        struct slice line = take_line(text);
        if (begins_with(line, SLICE_LITERAL(MARK))) {
            *ret_line = slice_of(line.ptr + sizeof(MARK) - 1, line.len - (sizeof(MARK) - 1));
            return true;
        }
    }
    return false;
}

/* ---- sections ---- */

void production_append_since(const int64_t since[static SECTION_COUNT], struct buffer *out)
{
    buffer_printf(out, SINCE_MARK "%" PRId64 " %" PRId64 "\n", since[SECTION_DISPATCHER],
                  since[SECTION_WORKER]);
}

/* The hash is that of what stands before the last line. */
static void take_since(struct production *production, struct slice text)
{
    size_t mark = sizeof(SINCE_MARK) - 1, len = text.len;
    if (len == 0 || text.ptr[len - 1] != '\n')
        return;
    const char *end = memrchr(text.ptr, '\n', len - 1);
    size_t start = end ? (size_t)(end - text.ptr) + 1 : 0;
    struct slice line = slice_of(text.ptr + start, len - 1 - start);
    if (line.len <= mark || memcmp(line.ptr, SINCE_MARK, mark) != 0)
        return;
    struct slice rest = slice_of(line.ptr + mark, line.len - mark);
    for (int i = 0; i < SECTION_COUNT; i++)
        slice_to_int(next_word(&rest), 0, INT64_MAX, &production->since[i]);
    production_hash(slice_of(text.ptr, start), production->hash);
}

struct production *production_parse_published(struct slice text,
                                              struct diagnostics *ret_diagnostics)
{
    struct production *production = production_parse(text, ret_diagnostics);
    struct slice line;
    if (!production)
        return NULL;
    take_since(production, text);
    while (next_line(&text, &line))
        follow_line(production, line);
    return production;
}

/* ---- which queues differ ---- */

struct shape {
    struct slice id, rest;
};

static int by_id(const void *left, const void *right)
{
    const struct shape *a = left, *b = right;
    size_t least = a->id.len < b->id.len ? a->id.len : b->id.len;
    int order = memcmp(a->id.ptr, b->id.ptr, least);
    return order ? order : (a->id.len > b->id.len) - (a->id.len < b->id.len);
}

/* All lines, by id; the caller's to free. */
static struct shape *read_shapes(struct slice text, size_t *ret_count)
{
    struct slice line, rest = text;
    size_t count = 0;
    while (next_line(&rest, &line))
        count++;
    struct shape *shapes = mem_array(count, sizeof(*shapes));
    for (size_t i = 0; i < count && next_line(&text, &line); i++) {
        shapes[i].id = next_word(&line);
        shapes[i].rest = line;
    }
    if (count)
        qsort(shapes, count, sizeof(*shapes), by_id);
    *ret_count = count;
    return shapes;
}

/* The type of queue is the second word of the rest; but for fifo neither the log nor the rule of order shapes anything. */
static struct slice what_counts(struct slice rest)
{
    struct slice all = rest;
    (void)next_word(&rest);
    if (slice_is(next_word(&rest), queue_type_words[QUEUE_FIFO]))
        return all;
    (void)next_word(&rest);
    (void)next_word(&rest);
    return slice_of(all.ptr, all.len - rest.len);
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return slice_equal(what_counts(a->rest), what_counts(b->rest));
}

void production_changed_queues(struct slice before, struct slice after, struct buffer *out)
{
    size_t old_count, new_count, at = 0;
    struct shape *old = read_shapes(before, &old_count), *new = read_shapes(after, &new_count);
    for (size_t i = 0; i < old_count; i++) {
        while (at < new_count && by_id(&new[at], &old[i]) < 0)
            at++;
        if (at < new_count && by_id(&new[at], &old[i]) == 0 && same_shape(&new[at], &old[i]))
            continue;
        if (out->len)
            buffer_append_byte(out, ',');
        buffer_append(out, old[i].id.ptr, old[i].id.len);
    }
    free(old);
    free(new);
}
