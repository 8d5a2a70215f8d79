/* Owns the published form of a production: the file's text, then a comment line for each item with what shapes its queue.
 *
 *     #hie-queue <id> <messaging_pattern> <queue_type> <partitions> [<ordering_key>]
 *
 * Everything else is read by each process with its own environment. */
#include "model/production.h"

#include <inttypes.h>
#include <stdlib.h>

#define MARK "#hie-queue "

void production_publishable(const struct production *production, struct slice text,
                            struct buffer *out)
{
    buffer_append(out, text.ptr, text.len);
    if (text.len && text.ptr[text.len - 1] != '\n')
        buffer_append_byte(out, '\n');
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        buffer_printf(out, MARK "%s %s %s %" PRId64 "%s%s\n", item->id,
                      messaging_pattern_words[item->messaging_pattern],
                      queue_type_words[item->queue_type], item->partitions,
                      item->ordering_key ? " " : "", item->ordering_key ? item->ordering_key : "");
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
static void take_line(struct production *production, struct slice line)
{
    struct item shape = {0};
    struct err err;
    struct slice id = next_word(&line), pattern = next_word(&line), type = next_word(&line),
                 partitions = next_word(&line);
    struct item *item = (struct item *)production_find(production, id);
    if (!item || !find_word(pattern, messaging_pattern_words, &shape.messaging_pattern) ||
        !find_word(type, queue_type_words, &shape.queue_type) ||
        !slice_to_int(partitions, 1, 1024, &shape.partitions) ||
        (line.len && hl7_path_parse(line, &shape.ordering_path, &err)))
        return;
    bool was_sync = item_pattern_is_sync(item->messaging_pattern);
    bool is_sync = item_pattern_is_sync(shape.messaging_pattern);
    item->messaging_pattern = shape.messaging_pattern;
    item->queue_type = shape.queue_type;
    item->partitions = shape.partitions;
    item->ordering_path = shape.ordering_path;
    item->ordering_key = line.len ? arena_strdup(&production->arena, line) : NULL;
    if (was_sync != is_sync)
        item->blocking.enabled = is_sync;
}

struct production *production_parse_published(struct slice text,
                                              struct diagnostics *ret_diagnostics)
{
    struct production *production = production_parse(text, ret_diagnostics);
    while (production && text.len) {
        const char *end = memchr(text.ptr, '\n', text.len);
        size_t len = end ? (size_t)(end - text.ptr) : text.len;
        size_t mark = sizeof(MARK) - 1;
        if (len > mark && memcmp(text.ptr, MARK, mark) == 0)
            take_line(production, slice_of(text.ptr + mark, len - mark));
        len += end != NULL;
        text = slice_of(text.ptr + len, text.len - len);
    }
    return production;
}
