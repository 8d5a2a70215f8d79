/* Owns those settings of HTTPSender and FileWriter that are more than a scalar: headers, retry_on,
 * the file name. */
#include "model/reader.h"

#include "base/bug.h"
#include "model/diagnostics.h"

#define HEADERS_MAX 64
#define RETRY_MIN 300 /* 1xx is no final answer and 2xx is done */
#define RETRY_MAX 599

/* RFC 9110 section 5.6.2: token. */
static bool header_name(struct slice name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              (c != '\0' && strchr("!#$%&'*+-.^_`|~", c))))
            return false;
    }
    return name.len > 0 && name.len <= 128;
}

/* RFC 9110 section 5.5: no control characters but the tab, so nobody can smuggle a line in. */
static bool header_value(struct slice value)
{
    for (size_t i = 0; i < value.len; i++) {
        unsigned char byte = (unsigned char)value.ptr[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7F)
            return false;
    }
    return value.len > 0 && value.len <= 8192;
}

/* What frames the request is the sender's own. */
static bool header_is_ours(struct slice name)
{
    static const char *const ours[] = {"Connection", "Content-Length",    "Expect",
                                       "Host",       "Transfer-Encoding", "Upgrade"};
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        if (slice_is_nocase(name, ours[i]))
            return true;
    }
    return false;
}

static char *join(struct arena *arena, struct slice name, struct slice value)
{
    char *line = arena_alloc(arena, name.len + 2 + value.len + 1);
    memcpy(line, name.ptr, name.len);
    memcpy(line + name.len, ": ", 2);
    memcpy(line + name.len + 2, value.ptr, value.len);
    return line;
}

static bool header_known(char **headers, size_t count, struct slice name)
{
    for (size_t i = 0; i < count; i++) {
        const char *colon = strchr(headers[i], ':');
        if (slice_is_nocase(slice_of(headers[i], (size_t)(colon - headers[i])), name.ptr))
            return true;
    }
    return false;
}

/* The header's line, or NULL when it was reported. Values may be secrets: no message shows one. */
static char *read_header(struct reader *reader, char **headers, size_t count,
                         const struct yaml_node *node)
{
    struct scalar scalar;
    if (!header_name(node->key)) {
        diagnostics_error(reader->out, node->key_line, "%s is no valid header name",
                          QUOTE(node->key));
        return NULL;
    }
    if (header_is_ours(node->key)) {
        diagnostics_error(reader->out, node->key_line, "header %s is set by the sender itself",
                          QUOTE(node->key));
        return NULL;
    }
    if (header_known(headers, count, node->key)) {
        diagnostics_error(reader->out, node->key_line, "header %s twice", QUOTE(node->key));
        return NULL;
    }
    if (!scalar_read(reader, node->key.ptr, false, node, &scalar))
        return NULL;
    struct slice value = slice_trim(scalar.text);
    if (!header_value(value)) {
        diagnostics_error(reader->out, node->line,
                          "the value of header %s is empty, too long or holds line breaks or "
                          "control characters",
                          QUOTE(node->key));
        return NULL;
    }
    return join(reader->keep, node->key, value);
}

void headers_read(struct reader *reader, struct object *object, const struct option *option,
                  const struct yaml_node *value)
{
    struct http_sender_settings *settings = object->base;
    if (value->kind != YAML_MAP) {
        report_kind(reader, option->path, value, "a mapping");
        return;
    }
    if (value->count > HEADERS_MAX) {
        diagnostics_error(reader->out, value->line, "more than %d headers", HEADERS_MAX);
        return;
    }
    char **headers = arena_alloc(reader->keep, (value->count + 1) * sizeof(*headers));
    size_t count = 0;
    for (const struct yaml_node *node = value->first; node; node = node->next) {
        if (node->kind == YAML_REFUSED)
            continue;
        char *line = read_header(reader, headers, count, node);
        if (line)
            headers[count++] = line;
    }
    settings->headers = headers;
}

/* "429", or "5xx" for a whole class. */
static bool status_range(struct slice text, int64_t *ret_first, int64_t *ret_last)
{
    if (slice_to_int(text, RETRY_MIN, RETRY_MAX, ret_first)) {
        *ret_last = *ret_first;
        return true;
    }
    if (text.len != 3 || !slice_is_nocase(slice_of(text.ptr + 1, 2), "xx") ||
        !slice_to_int(slice_of(text.ptr, 1), RETRY_MIN / 100, RETRY_MAX / 100, ret_first))
        return false;
    *ret_first *= 100;
    *ret_last = *ret_first + 99;
    return true;
}

static void retry_statuses(struct http_sender_settings *settings, int64_t first, int64_t last)
{
    for (int64_t status = first; status <= last; status++)
        settings->retry_status[status] = true;
}

void retry_on_read(struct reader *reader, struct object *object, const struct option *option,
                   const struct yaml_node *value)
{
    /* An empty list is a decision: no answer is worth a retry. */
    if (value->kind == YAML_LIST && value->count == 0)
        return;
    size_t count;
    const struct yaml_node *node = scalars_of(reader, option->path, value, &count);
    for (; node && count; node = node->next, count--) {
        struct scalar scalar;
        int64_t first, last;
        if (!scalar_read(reader, option->path, false, node, &scalar))
            continue;
        if (status_range(scalar.text, &first, &last))
            retry_statuses(object->base, first, last);
        else
            diagnostics_error(reader->out, node->line,
                              "`retry_on` is %s: expected a status code from %d to %d, or 3xx, "
                              "4xx, 5xx",
                              QUOTE(node->text), RETRY_MIN, RETRY_MAX);
    }
}

void http_sender_settings_check(struct http_sender_settings *settings, const struct object *object)
{
    static const struct {
        int first, last;
    } usual[] = {{408, 408}, {425, 425}, {429, 429}, {500, 599}}; /* the option's fallback */
    if (!settings->headers) {
        static char *none[1];
        settings->headers = none;
    }
    if (object_line(object, "retry_on"))
        return;
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        retry_statuses(settings, usual[i].first, usual[i].last);
}

static const char *const file_name_words[] = {"correlation_id", NULL};

void file_name_read(struct reader *reader, struct object *object, const struct option *option,
                    const struct yaml_node *value)
{
    struct file_writer_settings *settings = object->base;
    struct scalar scalar;
    struct err err;
    if (!scalar_read(reader, option->path, option->is_template, value, &scalar))
        return;
    hl7_template_done(&settings->name);
    if (scalar.text.len == 0)
        diagnostics_error(reader->out, value->line, "`name` is empty");
    else if (hl7_template_parse(scalar.text, file_name_words, &settings->name, &err))
        diagnostics_error(reader->out, value->line, "`name`: %s", err.text);
}

void file_writer_settings_check(struct file_writer_settings *settings, const struct object *object)
{
    struct err err;
    if (object_line(object, "name"))
        return;
    const struct option *option = option_find(SCOPE_FILE_WRITER, slice_text("name"));
    int failed =
        hl7_template_parse(slice_text(option->fallback), file_name_words, &settings->name, &err);
    BUG_ON(failed);
}
