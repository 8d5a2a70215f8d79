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
        char *path; /* an HL7 path's text or NULL */
        struct hl7_path parsed;
        struct item_priority_value {
            struct slice value; /* compared after unescaping */
            int64_t priority;
        } * values;
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
        bool enabled, deadlock_detection;
        int64_t max_wait_time_ms;
    } blocking;
    void *settings; /* of the class, typed by it (model/item_class.h); NULL where it has none */
    size_t line;    /* in the production file */
    unsigned index; /* place in production.items */
};

struct mllp_listener {
    char *listen; /* "address:port" */
    char *item_id;
    const struct item *item;
    int64_t max_frame;
    int64_t duplicate_window_ms;
    bool insecure;
};

struct production {
    int64_t version; /* of the fleet, as published; 0: not published */
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
    struct item_entry *by_id; /* for production_find */
    struct slice text;        /* the YAML that it was parsed from: what child processes parse again */
    struct arena arena;       /* owns all of the above, but for what item_settings_done frees */
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

/* Reads and checks the file at `path`: YAML, ${NAME} and ${NAME:-default}, overrides by HIE_… variables, defaults.
 * All errors land in *ret_diagnostics (always initialised; free with diagnostics_done). NULL when there was
 * any error. The production is never changed after it was loaded. */
struct production *production_load(const char *path, struct diagnostics *ret_diagnostics);
struct production *production_parse(struct slice yaml, struct diagnostics *ret_diagnostics);
struct production *production_free(struct production *production);

/* ---- what an item says about a message (model/item_message.c) ---- */

struct hl7_message;
/* Its sender waits for the result. */
bool item_is_sync(const struct item *item);
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
