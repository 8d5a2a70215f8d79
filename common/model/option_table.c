/* Owns what a production file may say: one row a key. To build something that is marked here as not
 * yet supported, or to let a reload change what takes a restart, change its row (`unbuilt`, `restart`)
 * and nothing else in this folder. */
#include "model/item_class.h"
#include "model/option.h"
#include "model/production.h"
#include "model/reader.h"

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)
#define MINUTE INT64_C(60000)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

#define AT(type_, field) .offset = offsetof(struct type_, field)

const char *const messaging_pattern_words[] = {
    [PATTERN_ASYNC_RELIABLE] = "async_reliable",
    [PATTERN_SYNC_RELIABLE] = "sync_reliable",
    [PATTERN_CONCURRENT_ASYNC] = "concurrent_async",
    [PATTERN_CONCURRENT_SYNC] = "concurrent_sync",
    [PATTERN_COUNT] = NULL,
};
const char *const queue_type_words[] = {
    [QUEUE_FIFO] = "fifo", [QUEUE_PRIORITY] = "priority", [QUEUE_UNORDERED] = "unordered",
    [QUEUE_LIFO] = "lifo", [QUEUE_TYPE_COUNT] = NULL,
};
const char *const execution_mode_words[] = {
    [MODE_ASYNC] = "async",
    [MODE_MULTI_PROCESS] = "multi_process",
    [MODE_THREAD_POOL] = "thread_pool",
    [MODE_COUNT] = NULL,
};
const char *const persistence_mode_words[] = {
    [PERSIST_WAL_ONLY] = "wal_only",
    [PERSIST_STORE_ONLY] = "store_only",
    [PERSIST_WAL_AND_STORE] = "wal_and_store",
    [PERSIST_NONE] = "none",
    [PERSIST_COUNT] = NULL,
};
static const char *const method_words[] = {"POST", "PUT", NULL};

/* clang-format off */
const struct option options[] = {
    /* ---- the file ---- */
    {SCOPE_FILE, OPTION_SECTION, "production", .description = "The production: the whole configured set."},
    {SCOPE_FILE, OPTION_TEXT, "production.name", AT(production, name), .fallback = "hie", .min = 1, .max = 128,
     .description = "Its name, for people."},

    {SCOPE_FILE, OPTION_SECTION, "redis", .restart = true, .description = "Redis, which holds the queues."},
    {SCOPE_FILE, OPTION_URL, "redis.url", AT(production, redis.url), .fallback = "redis://127.0.0.1:6379/0",
     .url = URL_REDIS, .secret = true, .override = "HIE_REDIS_URL",
     .description = "Where Redis is: redis://[[user]:password@]host[:port][/database]."},
    {SCOPE_FILE, OPTION_TEXT, "redis.key_prefix", AT(production, redis.key_prefix), .fallback = "hie", .min = 1,
     .max = 64, .check = key_prefix_check,
     .description = "The first part of every key, for several fleets on one Redis."},

    {SCOPE_FILE, OPTION_SECTION, "postgres", .restart = true, .description = "PostgreSQL, which holds the truth."},
    {SCOPE_FILE, OPTION_URL, "postgres.url", AT(production, postgres.url),
     .fallback = "postgresql://hie@127.0.0.1:5432/hie", .url = URL_POSTGRES, .secret = true,
     .override = "HIE_POSTGRES_URL", .description = "Where PostgreSQL is, as a libpq connection URI."},

    {SCOPE_FILE, OPTION_SECTION, "dispatcher", .description = "The dispatcher, the door for senders."},
    {SCOPE_FILE, OPTION_SECTION, "dispatcher.http", .description = "Its HTTP listener."},
    {SCOPE_FILE, OPTION_ADDRESS, "dispatcher.http.listen", AT(production, dispatcher.http_listen),
     .fallback = "127.0.0.1:8080", .override = "HIE_HTTP_LISTEN",
     .description = "address:port for messages, management, metrics and the portal. Port 0 takes a free one."},
    {SCOPE_FILE, OPTION_SIZE, "dispatcher.http.max_body", AT(production, dispatcher.http_max_body),
     .fallback = "16MiB", .min = KIB, .max = 256 * MIB, .description = "The largest message; a larger one is answered 413."},
    {SCOPE_FILE, OPTION_BOOL, "dispatcher.http.insecure", AT(production, dispatcher.http_insecure),
     .fallback = "false", .description = "Allows an address that is not loopback without TLS and tokens."},
    {SCOPE_FILE, OPTION_SECTION, "dispatcher.http.tls", .unbuilt = true, .description = "TLS for this listener."},
    {SCOPE_FILE, OPTION_TEXT, "dispatcher.http.tls.cert", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the certificate chain, PEM."},
    {SCOPE_FILE, OPTION_TEXT, "dispatcher.http.tls.key", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of its private key, PEM."},
    {SCOPE_FILE, OPTION_TEXT, "dispatcher.http.tls.client_ca", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the authorities whose client certificates are asked for."},
    {SCOPE_FILE, OPTION_CUSTOM, "dispatcher.mllp", .shape = "list of listeners", .note = "none", .read = listeners_read,
     .description = "The MLLP listeners, each for one item."},
    {SCOPE_FILE, OPTION_CUSTOM, "dispatcher.auth", .shape = "mapping", .note = "none", .unbuilt = true,
     .description = "Bearer tokens with roles and items."},

    {SCOPE_FILE, OPTION_SECTION, "worker", .description = "The workers, which run the items."},
    {SCOPE_FILE, OPTION_ADDRESS, "worker.listen", AT(production, worker.listen), .fallback = "127.0.0.1:9090",
     .override = "HIE_WORKER_LISTEN", .description = "address:port of a worker's health checks and metrics. Port 0 takes a free one."},
    {SCOPE_FILE, OPTION_DURATION, "worker.drain_timeout", AT(production, worker.drain_timeout_ms), .fallback = "30000",
     .max = HOUR, .description = "How long a stopping worker may finish what it holds."},
    {SCOPE_FILE, OPTION_BOOL, "worker.insecure", AT(production, worker.insecure), .fallback = "false",
     .description = "Allows an address that is not loopback without TLS and tokens."},
    {SCOPE_FILE, OPTION_SECTION, "worker.tls", .unbuilt = true, .description = "TLS for this listener."},
    {SCOPE_FILE, OPTION_TEXT, "worker.tls.cert", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the certificate chain, PEM."},
    {SCOPE_FILE, OPTION_TEXT, "worker.tls.key", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of its private key, PEM."},
    {SCOPE_FILE, OPTION_TEXT, "worker.tls.client_ca", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the authorities whose client certificates are asked for."},

    {SCOPE_FILE, OPTION_CUSTOM, "items", .shape = "list of items", .required = true, .read = items_read,
     .description = "The components: at least one."},

    /* ---- one of dispatcher.mllp ---- */
    {SCOPE_LISTENER, OPTION_ADDRESS, "listen", AT(mllp_listener, listen), .required = true,
     .description = "address:port. Port 0 takes a free one."},
    {SCOPE_LISTENER, OPTION_CUSTOM, "item", .shape = "id of an item", .required = true,
     .description = "The item that gets what arrives here."},
    {SCOPE_LISTENER, OPTION_SIZE, "max_frame", AT(mllp_listener, max_frame), .fallback = "16MiB", .min = KIB,
     .max = 256 * MIB, .description = "The largest message; a larger one is refused and its connection closed."},
    {SCOPE_LISTENER, OPTION_DURATION, "duplicate_window", AT(mllp_listener, duplicate_window_ms), .fallback = "300000",
     .max = DAY, .description = "How long a repeat (same sender, MSH-10 and body) gets the first answer again. 0: off."},
    {SCOPE_LISTENER, OPTION_BOOL, "insecure", AT(mllp_listener, insecure), .fallback = "false",
     .description = "Allows an address that is not loopback without TLS."},
    {SCOPE_LISTENER, OPTION_SECTION, "tls", .unbuilt = true, .description = "TLS for this listener."},
    {SCOPE_LISTENER, OPTION_TEXT, "tls.cert", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the certificate chain, PEM."},
    {SCOPE_LISTENER, OPTION_TEXT, "tls.key", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of its private key, PEM."},
    {SCOPE_LISTENER, OPTION_TEXT, "tls.client_ca", .unbuilt = true, .min = 1, .max = 4096,
     .description = "File of the authorities whose client certificates are asked for."},

    /* ---- one of items ---- */
    {SCOPE_ITEM, OPTION_TEXT, "id", AT(item, id), .required = true, .min = 1, .max = 64, .check = item_id_check,
     .description = "Its name in URLs, keys and metrics: 1 to 64 of A-Z a-z 0-9 _ . -"},
    {SCOPE_ITEM, OPTION_CUSTOM, "class", .shape = "class", .required = true,
     .description = "The handler class that does its work."},
    {SCOPE_ITEM, OPTION_BOOL, "enabled", AT(item, enabled), .fallback = "true",
     .description = "Whether it accepts and handles messages. A disabled item is checked all the same."},
    {SCOPE_ITEM, OPTION_WORD, "messaging_pattern", AT(item, messaging_pattern), .fallback = "async_reliable",
     .words = messaging_pattern_words, .environment = "MESSAGING_PATTERN",
     .description = "Whether the sender waits for the result, and whether messages wait for each other."},
    {SCOPE_ITEM, OPTION_WORD, "execution_mode", AT(item, execution_mode), .fallback = "async",
     .words = execution_mode_words, .environment = "EXECUTION_MODE",
     .description = "Where a worker runs the handler: on its event loop, in child processes or in threads."},
    {SCOPE_ITEM, OPTION_INT, "concurrency", AT(item, concurrency), .fallback = "8", .min = 1, .max = 4096,
     .environment = "CONCURRENCY", .description = "Messages that one worker handles at once."},
    {SCOPE_ITEM, OPTION_WORD, "queue_type", AT(item, queue_type), .fallback = "fifo", .words = queue_type_words,
     .environment = "QUEUE_TYPE", .description = "The order in which waiting messages are handled."},
    {SCOPE_ITEM, OPTION_INT, "queue_size", AT(item, queue_size), .fallback = "10000", .min = 1, .max = 100000000,
     .description = "Accepted and unfinished messages; when they are that many, senders are told to come back later."},
    {SCOPE_ITEM, OPTION_DURATION, "timeout", AT(item, timeout_ms), .fallback = "30000", .min = 1, .max = DAY,
     .description = "The longest time that one attempt may take."},
    {SCOPE_ITEM, OPTION_TEXT, "ordering_key", AT(item, ordering_key), .note = "none", .min = 1, .max = 64,
     .check = one_value_check,
     .description = "fifo: the HL7 path whose value is the key. Messages of one key stay in strict order."},
    {SCOPE_ITEM, OPTION_INT, "partitions", AT(item, partitions), .note = "16 with an ordering_key, else 1", .min = 1,
     .max = 1024, .description = "fifo: into how many queues the keys are spread, for the whole fleet."},

    {SCOPE_ITEM, OPTION_SECTION, "priority", .description = "priority: what a message that comes without X-Priority gets, 9 first."},
    {SCOPE_ITEM, OPTION_TEXT, "priority.path", AT(item, priority.path), .note = "none", .min = 1, .max = 64,
     .check = one_value_check, .description = "The HL7 path whose value is looked up in values."},
    {SCOPE_ITEM, OPTION_CUSTOM, "priority.values", .shape = "mapping of text to 0–9", .note = "none",
     .read = priority_values_read, .description = "The priority by the value at path."},
    {SCOPE_ITEM, OPTION_INT, "priority.default", AT(item, priority.fallback), .fallback = "0", .max = 9,
     .description = "The priority of messages whose value is none of values."},
    {SCOPE_ITEM, OPTION_DURATION, "priority.ageing", AT(item, priority.ageing_ms), .fallback = "0", .max = DAY,
     .description = "Waiting that long counts as one level more, so that nothing starves. 0: it never does."},

    {SCOPE_ITEM, OPTION_DURATION, "idempotency_window", AT(item, idempotency_window_ms), .fallback = "86400000",
     .max = DAY, .description = "How long a repeat of an Idempotency-Key gets the first answer again. 0: the header is not minded."},
    {SCOPE_ITEM, OPTION_DURATION, "reply_ttl", AT(item, reply_ttl_ms), .note = "60000 for sync patterns, else 0",
     .max = DAY, .description = "How long the reply stays under its key in Redis. 0: it is not put there."},

    {SCOPE_ITEM, OPTION_SECTION, "retry", .description = "What happens after an attempt that may go better later."},
    {SCOPE_ITEM, OPTION_INT, "retry.max_attempts", AT(item, retry.max_attempts), .fallback = "5", .min = 1,
     .max = 1000, .description = "Attempts in all; after the last one the message is a dead letter."},
    {SCOPE_ITEM, OPTION_DURATION, "retry.backoff", AT(item, retry.backoff_ms), .fallback = "500", .max = HOUR,
     .description = "The wait before the second attempt; it doubles with each further one."},
    {SCOPE_ITEM, OPTION_DURATION, "retry.max_backoff", AT(item, retry.max_backoff_ms), .fallback = "60000", .max = DAY,
     .description = "The longest wait between two attempts; not below backoff."},

    {SCOPE_ITEM, OPTION_SECTION, "persistence", .description = "What is kept of a message, and when."},
    {SCOPE_ITEM, OPTION_WORD, "persistence.mode", AT(item, persistence.mode), .flat = "persistence_mode",
     .fallback = "wal_and_store", .words = persistence_mode_words,
     .description = "Sets wal_enabled and store_enabled where they are left out."},
    {SCOPE_ITEM, OPTION_BOOL, "persistence.wal_enabled", AT(item, persistence.wal_enabled), .flat = "wal_enabled",
     .note = "by mode: true",
     .description = "Write a message to the write-ahead log before its sender gets an answer."},
    {SCOPE_ITEM, OPTION_BOOL, "persistence.store_enabled", AT(item, persistence.store_enabled),
     .flat = "store_enabled", .note = "by mode: true",
     .description = "Keep messages and replies in the message store."},
    {SCOPE_ITEM, OPTION_DURATION, "persistence.ack_timeout", AT(item, persistence.ack_timeout_ms), .fallback = "5000",
     .min = 1, .max = 10 * MINUTE, .description = "How long a sender waits for the log's commit; past it the outcome is unknown."},
    {SCOPE_ITEM, OPTION_BOOL, "persistence.batch_writes", AT(item, persistence.batch_writes), .flat = "batch_writes",
     .fallback = "false", .description = "Gather writes of several messages before a commit."},
    {SCOPE_ITEM, OPTION_INT, "persistence.batch_size", AT(item, persistence.batch_size), .flat = "batch_size",
     .fallback = "100", .min = 1, .max = 10000, .description = "Messages in one commit at most."},

    {SCOPE_ITEM, OPTION_SECTION, "blocking", .description = "How senders wait in the sync patterns."},
    {SCOPE_ITEM, OPTION_BOOL, "blocking.enabled", AT(item, blocking.enabled), .flat = "blocking_enabled",
     .note = "true for sync patterns, else false", .description = "Let senders wait for the result."},
    {SCOPE_ITEM, OPTION_DURATION, "blocking.max_wait_time", AT(item, blocking.max_wait_time_ms),
     .flat = "blocking_timeout", .fallback = "30000", .min = 1, .max = HOUR,
     .description = "The longest time that a sender waits."},
    {SCOPE_ITEM, OPTION_BOOL, "blocking.deadlock_detection", AT(item, blocking.deadlock_detection),
     .fallback = "true", .description = "Refuse a call that would wait for itself."},
    {SCOPE_ITEM, OPTION_CUSTOM, "settings", .shape = "mapping", .note = "those of the class",
     .description = "What the class needs to know."},

    /* ---- settings of HL7RoutingEngine ---- */
    {SCOPE_ROUTING, OPTION_CUSTOM, "rules", .shape = "list of rules", .note = "none", .read = rules_read,
     .description = "Every rule that holds adds its targets; each target gets the message once, in the file's order."},
    {SCOPE_ROUTING, OPTION_CUSTOM, "default", .shape = "id of an item or list", .note = "none: a dead letter",
     .read = routing_default_read, .description = "The targets when no rule holds."},

    {SCOPE_RULE, OPTION_TEXT, "name", AT(hl7_rule, name), .note = "rule and its number", .min = 1, .max = 128,
     .description = "Its name, for people."},
    {SCOPE_RULE, OPTION_CUSTOM, "when", .shape = "mapping of HL7 path to condition", .note = "always holds",
     .read = rule_when_read, .description = "What must hold, all of it."},
    {SCOPE_RULE, OPTION_CUSTOM, "to", .shape = "id of an item or list", .required = true, .read = rule_to_read,
     .description = "The targets."},

    /* ---- settings of HTTPSender ---- */
    {SCOPE_HTTP_SENDER, OPTION_URL, "url", AT(http_sender_settings, url), .required = true, .url = URL_HTTP,
     .secret = true, .description = "The receiver, http or https."},
    {SCOPE_HTTP_SENDER, OPTION_TEXT, "method", AT(http_sender_settings, method), .fallback = "POST",
     .words = method_words, .description = "The request's method."},
    {SCOPE_HTTP_SENDER, OPTION_CUSTOM, "headers", .shape = "mapping of name to value", .note = "none",
     .secret = true, .read = headers_read, .description = "Further request headers."},
    {SCOPE_HTTP_SENDER, OPTION_DURATION, "timeout", AT(http_sender_settings, timeout_ms), .fallback = "5000",
     .min = 1, .max = HOUR, .description = "The longest time for the whole request."},
    {SCOPE_HTTP_SENDER, OPTION_CUSTOM, "retry_on", .shape = "status code, class such as 5xx, or list",
     .fallback = "[408, 425, 429, 5xx]", .read = retry_on_read,
     .description = "Answers after which the request is tried again; 2xx is done, any other a dead letter."},

    /* ---- settings of FileWriter ---- */
    {SCOPE_FILE_WRITER, OPTION_TEXT, "folder", AT(file_writer_settings, folder), .required = true, .min = 1,
     .max = 4000, .description = "Where the files go; a relative one lies below the worker's working directory."},
    {SCOPE_FILE_WRITER, OPTION_CUSTOM, "name", .shape = "template", .fallback = "${correlation_id}",
     .is_template = true, .read = file_name_read,
     .description = "The file's name, of text, HL7 paths as in ${MSH-10}, and ${correlation_id}."},

    /* ---- settings of Echo ---- */
    {SCOPE_ECHO, OPTION_DURATION, "delay", AT(echo_settings, delay_ms), .fallback = "0", .max = HOUR,
     .description = "The wait before the reply."},
    {SCOPE_ECHO, OPTION_INT, "fail_attempts", AT(echo_settings, fail_attempts), .fallback = "0", .max = 1000,
     .description = "How many first attempts of every message fail, to be tried again."},
    {SCOPE_ECHO, OPTION_TEXT, "reject_matching", AT(echo_settings, reject_matching), .fallback = "", .max = 1024,
     .description = "A message that holds this text becomes a dead letter. Empty: none."},
};
/* clang-format on */

const size_t option_count = sizeof(options) / sizeof(options[0]);
_Static_assert(sizeof(options) / sizeof(options[0]) <= OPTION_MAX, "raise OPTION_MAX");
