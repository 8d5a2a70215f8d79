/* The one table of everything a production file may say. It drives reading, defaults, printing, and
 * the checks that schemas/production.md and schemas/production.schema.json say the same. What
 * exists in the contract and is not built yet is marked here and nowhere else (`unbuilt`), and so is
 * what a reload leaves alone (`restart`). */
#ifndef HIE_MODEL_OPTION_H
#define HIE_MODEL_OPTION_H

#include "base/arena.h"
#include "base/bytes.h"
#include "base/error.h"
#include "model/address.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whose mapping a key stands in. */
enum option_scope {
    SCOPE_FILE,
    SCOPE_LISTENER,    /* one of dispatcher.mllp */
    SCOPE_ITEM,        /* one of items */
    SCOPE_ROUTING,     /* settings of HL7RoutingEngine */
    SCOPE_RULE,        /* one of its rules */
    SCOPE_HTTP_SENDER, /* settings of HTTPSender, and so on */
    SCOPE_FILE_WRITER,
    SCOPE_ECHO,
    SCOPE_COUNT,
};

enum option_type {
    OPTION_SECTION,  /* a mapping of further options, whose paths start with this one's and a dot */
    OPTION_TEXT,     /* char *; min and max are bytes */
    OPTION_BOOL,     /* bool */
    OPTION_INT,      /* int64_t */
    OPTION_DURATION, /* int64_t, ms */
    OPTION_SIZE,     /* int64_t, bytes: 16MiB, 64KiB, 1GiB or a plain number */
    OPTION_WORD,     /* unsigned, the index in `words` */
    OPTION_ADDRESS,  /* char * */
    OPTION_URL,      /* char * */
    OPTION_CUSTOM,   /* `read` does it, or, where that is NULL, the code that reads the scope */
};

struct reader;
struct object;
struct yaml_node;
struct option;
typedef void option_read(struct reader *reader, struct object *object, const struct option *option,
                         const struct yaml_node *value);
typedef int option_check(struct slice text, struct err *err);

struct option {
    enum option_scope scope;
    enum option_type type;
    const char *path;     /* "retry.backoff" in its scope */
    const char *flat;     /* a second name at the top of the scope; NULL: none */
    const char *shape;    /* OPTION_CUSTOM: its type in words */
    const char *fallback; /* the default as a file would write it; NULL: none, or see note */
    const char *note;     /* the default in words where other keys decide it */
    const char *const
        *words;   /* NULL-terminated; of OPTION_WORD, or all that an OPTION_TEXT may be */
    bool unbuilt; /* not yet supported */
    bool required;
    bool secret;      /* its value never stands in a message */
    bool is_template; /* ${…} in it is the template's own: no environment variables */
    bool restart; /* a reload leaves it, and all below it, as it was at start (option_restarts) */
    int64_t min, max;
    enum url_kind url;
    const char *override;    /* an environment variable that wins over the file */
    const char *environment; /* an environment variable that is the default */
    size_t offset;           /* of the value in the scope's struct */
    option_check *check;     /* of a text, beyond its length */
    option_read *read;
    const char *description;
};

#define OPTION_MAX 96
extern const struct option options[];
extern const size_t option_count;

/* A value of any of the types above CUSTOM. */
struct option_value {
    int64_t number;    /* BOOL, INT, DURATION, SIZE, WORD */
    struct slice text; /* TEXT, ADDRESS, URL; borrowed */
};

/* The option of that path; of that flat name when there is none. NULL: unknown. */
const struct option *option_find(enum option_scope scope, struct slice path);
/* Whether a new value takes a restart: the option or a section around it says so; a listener's options do as
 * dispatcher.mllp does. */
bool option_restarts(const struct option *option);
/* "an item", "settings of Echo", … */
const char *option_scope_words(enum option_scope scope);

/* Reads a scalar. `plain`: it may be a number or a boolean (it stood without quotes). 0, or -1 with
 * ERR_CONFIG and a text that says what was expected and does not repeat the value. */
int option_parse(const struct option *option, struct slice text, bool plain,
                 struct option_value *ret_value, struct err *err);
bool option_is_text(const struct option *option);
bool option_equal(const struct option *option, const struct option_value *a,
                  const struct option_value *b);
/* To and from the option's place in the scope's struct. Texts are copied into the arena. */
void option_store(const struct option *option, void *base, const struct option_value *value,
                  struct arena *arena);
struct option_value option_load(const struct option *option, const void *base);
/* Appends the value as a file would write it. */
void option_print(const struct option *option, const struct option_value *value,
                  struct buffer *out);
/* Appends the option's row of the reference table, with its newline. */
void option_print_row(const struct option *option, struct buffer *out);

#endif
