/* The production: everything a production file says, checked and typed. The file's words are those of the
 * specification's ItemConfig and of the JSON Schema in schemas/production.schema.json. */
#ifndef HIE_MODEL_PRODUCTION_H
#define HIE_MODEL_PRODUCTION_H

#include "base/arena.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "hl7/path.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum messaging_pattern {
    PATTERN_ASYNC_RELIABLE,
    PATTERN_SYNC_RELIABLE,
    PATTERN_CONCURRENT_ASYNC,
    PATTERN_CONCURRENT_SYNC,
    PATTERN_COUNT,
};
enum queue_type { QUEUE_FIFO, QUEUE_PRIORITY, QUEUE_UNORDERED, QUEUE_LIFO, QUEUE_TYPE_COUNT };
enum execution_mode { MODE_ASYNC, MODE_MULTI_PROCESS, MODE_THREAD_POOL, MODE_COUNT };
enum persistence_mode {
    PERSIST_WAL_ONLY,
    PERSIST_STORE_ONLY,
    PERSIST_WAL_AND_STORE,
    PERSIST_NONE,
    PERSIST_COUNT,
};

extern const char *const messaging_pattern_words[PATTERN_COUNT + 1]; /* NULL-terminated */
extern const char *const queue_type_words[QUEUE_TYPE_COUNT + 1];
extern const char *const execution_mode_words[MODE_COUNT + 1];
extern const char *const persistence_mode_words[PERSIST_COUNT + 1];

struct item_class; /* model/item_class.h */
struct production;

struct item {
    char *id;
    const struct item_class *class;
    bool enabled;
    unsigned messaging_pattern; /* enum messaging_pattern */
    unsigned execution_mode;
    int64_t concurrency;
    unsigned queue_type;
    int64_t queue_size;
    int64_t timeout_ms;
    char *ordering_key;            /* an HL7 path's text or NULL */
    struct hl7_path ordering_path; /* what ordering_key says, where it is not NULL */
    int64_t partitions;            /* 1 for all but fifo */
    struct {
        char *path;             /* an HL7 path's text or NULL */
        struct hl7_path parsed; /* what path says, where it is not NULL */
        struct item_priority_value {
            struct slice value; /* compared after unescaping; NUL-terminated */
            int64_t priority;
        } * values; /* in the file's order */
        size_t value_count;
        int64_t fallback;  /* when no value holds, or there is no path */
        int64_t ageing_ms; /* waiting for so long counts as one level more; 0: never */
    } priority;
    int64_t idempotency_window_ms; /* of Idempotency-Key; 0: it is not minded */
    int64_t reply_ttl_ms;
    struct {
        int64_t max_attempts, backoff_ms, max_backoff_ms;
    } retry;
    struct {
        unsigned mode; /* enum persistence_mode: what the next two say together */
        bool wal_enabled, store_enabled, batch_writes;
        int64_t ack_timeout_ms, batch_size;
    } persistence;
    struct {
        bool enabled; /* senders wait: never in the async patterns */
        bool deadlock_detection;
        int64_t max_wait_time_ms;
    } blocking;
    struct {
        bool blocking_off, reply_ttl; /* the pattern does not decide */
    } given;                          /* by the file */
    void *settings; /* of the class, typed by it (model/item_class.h); NULL where it has none */
    size_t line;    /* in the production file */
    unsigned index; /* place in production.items */
    struct production *production; /* that it belongs to */
    uint64_t
        text_hash; /* of all that the file says of it; the same text under the same environment is the same item */
};

struct mllp_listener {
    char *listen; /* "address:port" */
    char *item_id;
    const struct item *item;
    int64_t max_frame;
    int64_t duplicate_window_ms;
    bool insecure;
};

/* The parts of a file that are each process's own to begin with: where it listens, and how it ends. */
enum production_section { SECTION_DISPATCHER, SECTION_WORKER, SECTION_COUNT };
extern const char *const production_section_words[SECTION_COUNT];

#define PRODUCTION_TEXT_MAX (4u * 1024u * 1024u) /* bytes of a file */
#define PRODUCTION_PUBLISHED_MAX                                                                   \
    (2u *                                                                                          \
     PRODUCTION_TEXT_MAX) /* … and of a line for each of its items, which are fewer than that */
#define PRODUCTION_HASH_SIZE 33u /* 32 hex digits and a NUL */

struct production {
    char *name;
    struct {
        char *url, *key_prefix;
    } redis;
    struct {
        char *url;
    } postgres;
    struct {
        char *http_listen;
        int64_t http_max_body;
        bool http_insecure;
        struct mllp_listener *mllp;
        size_t mllp_count;
    } dispatcher;
    struct {
        char *listen;
        int64_t drain_timeout_ms;
        bool insecure;
    } worker;
    struct item *items;
    size_t item_count;
    int64_t version; /* as published for the fleet; 0: not published. Set by who applies it */
    int64_t since[SECTION_COUNT]; /* as published: where each section began (model/published.c) */
    struct slice text;            /* what it was parsed from, for child processes */
    char hash[PRODUCTION_HASH_SIZE]; /* of it */
    struct item_entry *by_id;        /* for production_find */
    struct arena arena;  /* owns all of the above, but for what item_settings_done frees */
    unsigned references; /* beside the first owner's */
};

/* What is wrong with a file, in the order of its lines. */
struct diagnostic {
    size_t line; /* from 1; 0 for the file as a whole */
    bool warning;
    char *message;
};
struct diagnostics {
    struct diagnostic *list;
    size_t count, error_count;
};
void diagnostics_done(struct diagnostics *all);
/* Prints "file:line: message" lines ("file:line: warning: …" for warnings). */
void diagnostics_print(const struct diagnostics *all, const char *path);

/* The bytes of the file, at most PRODUCTION_TEXT_MAX; what a reload publishes. Waits for the file system. On success *ret_text was
 * initialised and is the caller's to free. -1 with ERR_CONFIG. */
int production_read(const char *path, struct buffer *ret_text, struct err *err);
/* The same bytes give the same hash, everywhere: of what the file says, before environment variables are put in. */
void production_hash(struct slice text, char ret[static PRODUCTION_HASH_SIZE]);
/* Reads and checks a file's text: YAML, ${NAME} and ${NAME:-default}, overrides by HIE_… variables, defaults; the variables are this
 * process's own. All errors land in *ret_diagnostics (always initialised; free with diagnostics_done). NULL when there was
 * any error. The production is never changed after it was loaded, but for `version`. */
struct production *production_parse(struct slice yaml, struct diagnostics *ret_diagnostics);
/* production_read and production_parse. */
struct production *production_load(const char *path, struct diagnostics *ret_diagnostics);
/* Another owner; each one ends with production_free, which returns NULL. */
struct production *production_ref(struct production *production);
struct production *production_free(struct production *production);
/* A reference on an item's production, for who keeps the item past a reload, and its end. Both take NULL. */
const struct item *item_hold(const struct item *item);
void item_release(const struct item *item);

/* ---- what is published for the fleet (model/published.c) ---- */

/* Appends the file's text and, as comments behind it, what shapes each item's queue, as this process's environment has it: processes with
 * other environments cannot disagree on queues. */
void production_publishable(const struct production *production, struct slice text,
                            struct buffer *out);
/* The same as production_parse, of such a text. */
struct production *production_parse_published(struct slice text,
                                              struct diagnostics *ret_diagnostics);
/* Appends the ids of the items of one such text whose queues are others in the next, or none, separated by commas. */
void production_changed_queues(struct slice before, struct slice after, struct buffer *out);
/* Appends the last line of such a text: which version each section goes back to. It counts for no hash: the same file is the same
 * whoever publishes it. */
void production_append_since(const int64_t since[static SECTION_COUNT], struct buffer *out);

/* ---- two productions side by side, for a reload (model/compare.c) ---- */

/* Messages accepted under one can be handled under the other: the same pattern, queue type, partitions and class, and of a
 * fifo the same rule of order and use of the WAL. Else what was accepted under the old one is finished first. */
bool item_same_queue(const struct item *a, const struct item *b);
/* The section says the same in both, however it is written. */
bool production_same_section(enum production_section section, const struct production *a,
                             const struct production *b);
/* A process that goes by `mine` follows the fleet from `before` to `next`, as published, in that section: it had what the fleet had, and so had who
 * published. */
bool production_follows(enum production_section section, const struct production *mine,
                        const struct production *before, const struct production *next);
/* Appends the keys that `next` sets otherwise and that a reload leaves as they are, "redis.url, postgres.url"; nothing when there
 * are none. */
void production_restart_keys(const struct production *running, const struct production *next,
                             struct buffer *out);

/* ---- an item's settings in force (model/settings.c) ---- */

/* One setting: `section` is "" or the keys around it, "retry", "priority.values", "settings"; `key` its YAML name. What is no text is
 * `true`, `false` or a decimal number: JSON as it stands. A text may have come from an environment variable: any bytes. */
typedef void item_setting(void *arg, const char *section, const char *key, struct slice value,
                          bool is_text);
/* Calls `each` in the order of the reference. Left out: what is a secret or not set, and lists and templates of the class's
 * settings. */
void item_each_setting(const struct item *item, item_setting *each, void *arg);

/* ---- what an item says about a message (model/item_message.c) ---- */

struct hl7_message;
/* Its sender waits for the result, unless the request says otherwise: a sync pattern whose blocking is not off. */
bool item_senders_wait(const struct item *item);
bool item_pattern_is_sync(unsigned messaging_pattern);
/* Messages without a key run side by side, in the order of their acceptance; in the reliable patterns they are of one key. */
bool item_is_fair(const struct item *item);
/* The priority by the item's rule; `message` NULL: it is no HL7. */
int item_priority(const struct item *item, const struct hl7_message *message);
#define ITEM_ORDERING_KEY_MAX 199u
/* A key as it is kept: printable ASCII of at most ITEM_ORDERING_KEY_MAX bytes as it is, anything else as a hash of it, so that it is
 * the same in Redis and PostgreSQL. Returns its length. */
size_t ordering_key_clean(struct slice key, char ret[static ITEM_ORDERING_KEY_MAX]);
/* The clean ordering key by the item's path, raw as it stands in the message. `message` NULL: it is no HL7. 0: it has none. */
size_t item_ordering_key(const struct item *item, const struct hl7_message *message,
                         char ret[static ITEM_ORDERING_KEY_MAX]);
/* The partition of a key: FNV-1a of its bytes, modulo `partitions`. A fair item's messages without a key are spread by `id`. */
unsigned item_partition(const struct item *item, struct slice key, struct uuid id);

/* NULL when there is none. O(1). */
const struct item *production_find(const struct production *production, struct slice id);

#endif
