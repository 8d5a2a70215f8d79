/* The handler classes as the production file knows them: their names, what they need, and their settings, typed
 * and checked. The code that does a class's work is in worker/handlers/. */
#ifndef HIE_MODEL_ITEM_CLASS_H
#define HIE_MODEL_ITEM_CLASS_H

#include "base/bytes.h"
#include "hl7/path.h"
#include "hl7/template.h"

#include <stdbool.h>

struct item;

enum item_class_id { CLASS_HL7_ROUTING_ENGINE, CLASS_HTTP_SENDER, CLASS_FILE_WRITER, CLASS_ECHO, CLASS_COUNT };

struct item_class {
    enum item_class_id id;
    const char *name;
    bool needs_hl7; /* a body that is no HL7 is refused at the door */
    bool outbound;  /* has effects outside: its messages are `outbound`, others `internal` or `inbound` */
};

extern const struct item_class item_classes[CLASS_COUNT]; /* by enum item_class_id */

/* Frees what an item's settings hold outside the production's arena. */
void item_settings_done(struct item *item);

/* ---- HL7RoutingEngine ---- */

struct hl7_condition {
    struct hl7_path path;
    enum { CONDITION_ONE_OF, CONDITION_MATCHES, CONDITION_EXISTS } kind;
    struct slice *values; /* CONDITION_ONE_OF: one or more, owned */
    size_t value_count;
    void *pattern;        /* CONDITION_MATCHES: pcre2_code over bytes (no UTF), with match limits set by who matches */
    bool exists;          /* CONDITION_EXISTS: what must hold */
};

struct hl7_rule {
    char *name;
    struct hl7_condition *conditions; /* all must hold */
    size_t condition_count;
    const struct item **targets;
    size_t target_count;
};

struct hl7_routing_settings {
    struct hl7_rule *rules;
    size_t rule_count;
    const struct item **fallback; /* the `default` targets */
    size_t fallback_count;
};

/* ---- HTTPSender ---- */

struct http_sender_settings {
    char *url;
    char *method; /* POST or PUT */
    char **headers; /* "Name: value", NULL-terminated */
    int64_t timeout_ms;
    bool retry_status[600]; /* by status code: from `retry_on` */
};

/* ---- FileWriter ---- */

struct file_writer_settings {
    char *folder;
    struct hl7_template name; /* of HL7 paths and ${correlation_id}; rendered safely by the handler */
};

/* ---- Echo ---- */

struct echo_settings {
    int64_t delay_ms;
    int64_t fail_attempts;
    char *reject_matching; /* empty: none */
};

#endif
