#include "base/log.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <stdio.h>
#include <strings.h>
#include <unistd.h>

#define WORD_MAX 2048 /* a longer one, such as a list of all items, is cut */

static enum log_level least_level = LOG_INFO;
static enum log_format line_format = LOG_LOGFMT;
static const char *const level_words[] = {"debug", "info", "warn", "error"};

void log_setup(enum log_level least, enum log_format format)
{
    least_level = least;
    line_format = format;
}

bool log_level_parse(const char *word, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof(level_words) / sizeof(level_words[0]); i++) {
        if (strcasecmp(word, level_words[i]) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool is_plain(const char *word)
{
    for (const char *c = word; *c; c++) {
        if (*c <= ' ' || *c == '"' || *c == '=' || *c == '\\' || (unsigned char)*c >= 0x7f)
            return false;
    }
    return *word != '\0';
}

static void put_quoted(struct buffer *line, const char *word)
{
    buffer_append_byte(line, '"');
    for (const char *c = word; *c; c++) {
        if (*c == '"' || *c == '\\') {
            buffer_append_byte(line, '\\');
            buffer_append_byte(line, *c);
        } else if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f) {
            buffer_append_byte(line, '?');
        } else {
            buffer_append_byte(line, *c);
        }
    }
    buffer_append_byte(line, '"');
}

static void put_value(struct buffer *line, const struct log_field *field)
{
    char text[UUID_TEXT_LEN + 1], cut[WORD_MAX];
    switch (field->kind) {
    case LOG_FIELD_WORD: {
        const char *word = field->word ? field->word : "";
        if (strlen(word) >= sizeof(cut)) {
            snprintf(cut, sizeof(cut), "%.*s...", (int)sizeof(cut) - 4, word);
            word = cut;
        }
        if (line_format == LOG_LOGFMT && is_plain(word))
            buffer_append_text(line, word);
        else
            put_quoted(line, word);
        break;
    }
    case LOG_FIELD_INT:
        buffer_printf(line, "%lld", (long long)field->number);
        break;
    case LOG_FIELD_SECONDS:
        buffer_printf(line, "%.6f", (double)field->number / 1e6);
        break;
    case LOG_FIELD_ID:
        uuid_format(field->id, text);
        buffer_printf(line, line_format == LOG_JSON ? "\"%s\"" : "%s", text);
        break;
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t count)
{
    if (level < least_level)
        return;
    char at[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(clock_wall_us(), at);
    struct buffer line;
    buffer_init(&line, 64 * 1024);
    const char *head = line_format == LOG_JSON ? "{\"at\":\"%s\",\"level\":\"%s\",\"event\":\"%s\""
                                               : "at=%s level=%s event=%s";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    buffer_printf(&line, head, at, level_words[level], event);
#pragma GCC diagnostic pop
    for (size_t i = 0; i < count; i++) {
        buffer_printf(&line, line_format == LOG_JSON ? ",\"%s\":" : " %s=", fields[i].name);
        put_value(&line, &fields[i]);
    }
    buffer_append_text(&line, line_format == LOG_JSON ? "}\n" : "\n");
    ssize_t written = write(STDERR_FILENO, line.data, line.len); /* one write: lines stay whole */
    (void)written;
    buffer_done(&line);
}
