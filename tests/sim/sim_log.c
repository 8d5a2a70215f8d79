/* base/log.h: what the programs log stands in the trace, at its virtual time. */
#include "base/log.h"

#include "sim.h"

#include <stdio.h>

void log_setup(enum log_level least, enum log_format format)
{
    (void)least;
    (void)format;
}

bool log_level_parse(const char *word, enum log_level *ret)
{
    (void)word;
    (void)ret;
    return false;
}

static int print_field(const struct log_field *field, char *at, size_t room)
{
    switch (field->kind) {
    case LOG_FIELD_WORD:
        return snprintf(at, room, " %s=\"%s\"", field->name, field->word ? field->word : "");
    case LOG_FIELD_ID:
        return snprintf(at, room, " %s=%s", field->name, sim_name(field->id));
    case LOG_FIELD_INT:
    case LOG_FIELD_SECONDS:
        break;
    }
    return snprintf(at, room, " %s=%lld", field->name, (long long)field->number);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t count)
{
    static const char *const words[] = {"debug", "info", "warn", "error"};
    char text[700];
    size_t len = 0;
    if (!sim.trace)
        return;
    for (size_t i = 0; i < count && len < sizeof(text); i++)
        len += (size_t)print_field(&fields[i], text + len, sizeof(text) - len);
    sim_say("log %s %s%.*s", words[level], event, (int)(len < sizeof(text) ? len : sizeof(text)),
            count ? text : "");
}
