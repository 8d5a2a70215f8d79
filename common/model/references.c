/* Owns what the file's names point at: every reference is looked up once all items are read, then
 * the routes between items are searched for circles. */
#include "model/reader.h"

#include "base/mem.h"
#include "model/diagnostics.h"

#include <stdlib.h>

void reference_add(struct reader *reader, const struct item **slot, struct slice id, size_t line,
                   const struct item *from)
{
    struct reference *reference = arena_alloc(reader->scratch, sizeof(*reference));
    *reference = (struct reference){.slot = slot, .id = id, .line = line, .from = from};
    STAILQ_INSERT_TAIL(&reader->references, reference, link);
}

static const char *nearest_id(const struct production *production, struct slice id)
{
    const char **words = mem_array(production->item_count + 1, sizeof(*words));
    size_t count = 0;
    for (size_t i = 0; i < production->item_count; i++) {
        if (production->items[i].id)
            words[count++] = production->items[i].id;
    }
    const char *nearest = nearest_word(id, words);
    free(words);
    return nearest;
}

#define NEAREST_SEARCHES_MAX 20 /* a hostile file has many dangling names and many items */

static void resolve_names(struct reader *reader)
{
    struct reference *reference;
    unsigned searches = 0;
    STAILQ_FOREACH(reference, &reader->references, link)
    {
        const struct item *item = production_find(reader->production, reference->id);
        *reference->slot = item;
        if (!item) {
            const char *near = searches++ < NEAREST_SEARCHES_MAX
                                   ? nearest_id(reader->production, reference->id)
                                   : NULL;
            diagnostics_error(reader->out, reference->line, "there is no item %s%s",
                              QUOTE(reference->id), did_you_mean(near).text);
        } else if (item == reference->from) {
            diagnostics_error(reader->out, reference->line, "item %s routes to itself",
                              QUOTE(reference->id));
        }
    }
}

/* ---- circles ---- */

struct graph {
    size_t *first;            /* edges of item i: first[i] to first[i + 1] */
    const struct item **edge; /* the target */
    size_t *next;             /* of a search: the edge to follow next */
    unsigned char *colour;    /* of a search: 0 new, 1 on the path, 2 done */
    const struct item **path;
    size_t path_len;
};

static void graph_init(struct graph *graph, const struct reader *reader)
{
    size_t items = reader->production->item_count, edges = 0;
    const struct reference *reference;
    *graph = (struct graph){.first = mem_array(items + 2, sizeof(size_t)),
                            .next = mem_array(items + 1, sizeof(size_t)),
                            .colour = mem_array(items + 1, 1),
                            .path = mem_array(items + 1, sizeof(*graph->path))};
    STAILQ_FOREACH(reference, &reader->references, link)
    {
        if (reference->from && *reference->slot && *reference->slot != reference->from) {
            graph->first[reference->from->index + 2]++;
            edges++;
        }
    }
    for (size_t i = 2; i < items + 2; i++)
        graph->first[i] += graph->first[i - 1];
    graph->edge = mem_array(edges + 1, sizeof(*graph->edge));
    /* Filling moves first[i + 1] from the start of item i's edges to their end. */
    STAILQ_FOREACH(reference, &reader->references, link)
    {
        if (reference->from && *reference->slot && *reference->slot != reference->from)
            graph->edge[graph->first[reference->from->index + 1]++] = *reference->slot;
    }
    for (size_t i = 0; i < items; i++)
        graph->next[i] = graph->first[i];
}

static void graph_done(struct graph *graph)
{
    free(graph->first);
    free(graph->edge);
    free(graph->next);
    free(graph->colour);
    free(graph->path);
}

static void warn_of_circle(struct reader *reader, const struct graph *graph,
                           const struct item *back_to)
{
    const size_t shown_max = 8;
    size_t start = 0;
    while (graph->path[start] != back_to)
        start++;
    struct buffer text;
    buffer_init(&text, 2048);
    for (size_t i = start; i < graph->path_len; i++) {
        if (i - start < shown_max)
            buffer_printf(&text, "%s → ", graph->path[i]->id);
        else if (i - start == shown_max)
            buffer_append_text(&text, "… → ");
    }
    diagnostics_warning(reader->out, back_to->line, "items route in a circle: %.*s%s",
                        (int)text.len, text.data, back_to->id);
    buffer_done(&text);
}

#define CIRCLES_MAX 100 /* of warnings: each costs the length of its path */

/* Depth first along an explicit path, since a chain may be as long as the file has items. */
static void search_from(struct reader *reader, struct graph *graph, const struct item *start,
                        unsigned *circles)
{
    graph->path[0] = start;
    graph->path_len = 1;
    graph->colour[start->index] = 1;
    while (graph->path_len) {
        const struct item *here = graph->path[graph->path_len - 1];
        if (graph->next[here->index] == graph->first[here->index + 1]) {
            graph->colour[here->index] = 2;
            graph->path_len--;
            continue;
        }
        const struct item *target = graph->edge[graph->next[here->index]++];
        if (graph->colour[target->index] == 0) {
            graph->colour[target->index] = 1;
            graph->path[graph->path_len++] = target;
        } else if (graph->colour[target->index] == 1 && (*circles)++ < CIRCLES_MAX) {
            warn_of_circle(reader, graph, target);
        }
    }
}

void references_resolve(struct reader *reader)
{
    if (reader->production->item_count == 0)
        return; /* reported; every name would dangle */
    resolve_names(reader);
    struct graph graph;
    graph_init(&graph, reader);
    unsigned circles = 0;
    for (size_t i = 0; i < reader->production->item_count; i++) {
        if (graph.colour[i] == 0)
            search_from(reader, &graph, &reader->production->items[i], &circles);
    }
    graph_done(&graph);
}
