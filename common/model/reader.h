/* How the parts of the model read one production file together. Private to common/model. */
#ifndef HIE_MODEL_READER_H
#define HIE_MODEL_READER_H

#include "model/item_class.h"
#include "model/option.h"
#include "model/production.h"
#include "model/yaml.h"

#include <sys/queue.h>

/* A name that must be an item's id, looked up once all items are read. */
struct reference {
    STAILQ_ENTRY(reference) link;
    const struct item **slot;
    struct slice id;
    size_t line;
    const struct item *from; /* the routing item; NULL: a listener */
};

/* One load. */
struct reader {
    struct production *production;
    struct diagnostics *out;
    struct arena *keep;    /* the production's */
    struct arena *scratch; /* the tree and what is needed until the end of the load */
    struct item *item;     /* whose settings are being read */
    STAILQ_HEAD(reference_list, reference) references;
    size_t replaced_bytes;              /* of all values with environment variables in them */
    size_t pattern_bytes;               /* of all compiled regular expressions */
    bool variable_reported[OPTION_MAX]; /* by option: its variable's bad value was said already */
};

/* The mapping that is being read into the struct at `base`. */
struct object {
    enum option_scope scope;
    void *base;
    size_t line;
    struct {
        size_t line;          /* 0: left out */
        const char *key;      /* as written: path or flat name */
        const char *variable; /* an environment variable gave the value */
        bool bad;             /* reported; the default stands in its place */
    } given[OPTION_MAX];      /* by place in `options` */
};

/* Reads all keys of `map` (NULL: none) into `base` and puts defaults where none was given. */
void object_read(struct reader *reader, struct object *object, enum option_scope scope, void *base,
                 const struct yaml_node *map, size_t line);
/* Where the option of that path was given; 0: it was not, or it was bad. */
size_t object_line(const struct object *object, const char *path);
/* Whether it was given, and bad. */
bool object_bad(const struct object *object, const char *path);

/* A scalar after replacing environment variables. `name` is for messages. False when it was
 * reported. */
struct scalar {
    struct slice text;
    bool plain;    /* may be a number or a boolean */
    bool replaced; /* ${…} was replaced: messages show what the file says, not `text` */
};
bool scalar_read(struct reader *reader, const char *name, bool is_template,
                 const struct yaml_node *node, struct scalar *ret);
/* A list of scalars where a single one is allowed as well: the first node (follow ->next) and how
 * many; what is no scalar among them scalar_read reports. NULL when it was reported. */
const struct yaml_node *scalars_of(struct reader *reader, const char *name,
                                   const struct yaml_node *node, size_t *ret_count);
/* Says that the node is no `expected` or has no value. Silent
 * for one that was refused already. */
void report_kind(struct reader *reader, const char *name, const struct yaml_node *node,
                 const char *expected);

void reference_add(struct reader *reader, const struct item **slot, struct slice id, size_t line,
                   const struct item *from);
/* Fills all references; reports dangling ones and items that route to themselves or in a circle. */
void references_resolve(struct reader *reader);

/* Reads one member of `items`. */
void item_read(struct reader *reader, struct item *item, const struct yaml_node *node);
/* What follows from the pattern where the file does not say it. */
void item_settle_pattern(struct item *item);
/* Reads class and settings of reader->item from the item's mapping. */
void item_class_read(struct reader *reader, const struct yaml_node *map);
/* Whose options the settings of that class are. */
enum option_scope item_class_scope(const struct item_class *class);

/* ---- option_read and option_check functions, by the file that has them ---- */
option_read listeners_read, items_read;                                     /* production.c */
option_check item_id_check, key_prefix_check, one_value_check;              /* item.c */
option_read priority_values_read;                                           /* item.c */
option_read rules_read, rule_when_read, rule_to_read, routing_default_read; /* routing.c */
option_read headers_read, retry_on_read, file_name_read;                    /* senders.c */

void routing_settings_check(struct reader *reader, const struct object *object);
void routing_settings_done(struct hl7_routing_settings *settings);
void http_sender_settings_check(struct http_sender_settings *settings, const struct object *object);
void file_writer_settings_check(struct file_writer_settings *settings, const struct object *object);

#endif
