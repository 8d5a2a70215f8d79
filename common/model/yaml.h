/* A YAML file as a tree that knows its lines. Only what a configuration needs: one document,
 * mappings with text keys, lists and scalars. Anchors, aliases, tags and duplicate keys are
 * refused, size, depth and number of nodes are bounded, so that no file can cost more than a few
 * times its length. */
#ifndef HIE_MODEL_YAML_H
#define HIE_MODEL_YAML_H

#include "base/arena.h"
#include "base/bytes.h"
#include "model/diagnostics.h"

#define YAML_BYTES_MAX PRODUCTION_PUBLISHED_MAX /* a file has its own, smaller bound */
#define YAML_NODES_MAX 100000u
#define YAML_DEPTH_MAX 32u

enum yaml_kind {
    YAML_SCALAR,
    YAML_LIST,
    YAML_MAP,
    YAML_REFUSED, /* an alias or the like, already reported: who reads it says nothing more */
};

struct yaml_node {
    enum yaml_kind kind;
    size_t line;                    /* from 1 */
    struct slice text;              /* YAML_SCALAR: NUL-terminated, holds no NUL */
    bool plain;                     /* YAML_SCALAR: written without quotes */
    size_t count;                   /* members of a list or a map */
    struct yaml_node *first, *last; /* members; those of a map are its values */
    struct yaml_node *next;         /* in the list or map that holds this node */
    struct slice key;               /* of a map's member, NUL-terminated */
    size_t key_line;
};

/* The root node, which lives in `arena`; NULL when the bytes are no YAML at all. Whatever is wrong
 * goes to `out`; a tree may come back although errors were found, with what could be read. */
struct yaml_node *yaml_tree_parse(struct slice bytes, struct arena *arena, struct diagnostics *out);

/* The member of that name; NULL when there is none or `map` is no map. Linear. */
const struct yaml_node *yaml_member(const struct yaml_node *map, const char *key);
/* A plain scalar that stands for "nothing": empty, ~ or null. */
bool yaml_is_null(const struct yaml_node *node);

#endif
