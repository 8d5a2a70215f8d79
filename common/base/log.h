/* The log: one logfmt or JSON line an event on standard error. It takes an event name and typed fields and has no
 * constructor for a body or a slice, so patient data has no way in. Libraries do not log: whoever
 * decides what to do about a thing does. */
#ifndef HIE_BASE_LOG_H
#define HIE_BASE_LOG_H

#include "base/error.h"
#include "base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

struct log_field {
    const char *name;
    enum { LOG_FIELD_WORD, LOG_FIELD_INT, LOG_FIELD_ID, LOG_FIELD_SECONDS } kind;
    const char *word;
    int64_t number;
    struct uuid id;
};

/* Words are ours or the production file's (item ids, states, host names), never a peer's bytes. */
#define LOG_WORD(name_, word_)                                                                     \
    ((struct log_field){.name = (name_), .kind = LOG_FIELD_WORD, .word = (word_)})
#define LOG_INT(name_, number_)                                                                    \
    ((struct log_field){.name = (name_), .kind = LOG_FIELD_INT, .number = (number_)})
#define LOG_ID(id_)                                                                                \
    ((struct log_field){.name = "correlation_id", .kind = LOG_FIELD_ID, .id = (id_)})
/* Microseconds, printed as seconds. */
#define LOG_SECONDS(name_, us_)                                                                    \
    ((struct log_field){.name = (name_), .kind = LOG_FIELD_SECONDS, .number = (us_)})
/* The two fields of an error. */
#define LOG_ERR(err_) LOG_WORD("error", error_word((err_)->code)), LOG_WORD("reason", (err_)->text)

void log_setup(enum log_level least, enum log_format format);
bool log_level_parse(const char *word, enum log_level *ret);
void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t count);

#define log_event(level, event, ...)                                                               \
    log_write((level), (event), (const struct log_field[]){{.name = NULL}, ##__VA_ARGS__} + 1,     \
              sizeof((const struct log_field[]){{.name = NULL}, ##__VA_ARGS__}) /                  \
                      sizeof(struct log_field) -                                                   \
                  1)
#define log_debug(event, ...) log_event(LOG_DEBUG, event, ##__VA_ARGS__)
#define log_info(event, ...) log_event(LOG_INFO, event, ##__VA_ARGS__)
#define log_warn(event, ...) log_event(LOG_WARN, event, ##__VA_ARGS__)
#define log_error(event, ...) log_event(LOG_ERROR, event, ##__VA_ARGS__)

#endif
