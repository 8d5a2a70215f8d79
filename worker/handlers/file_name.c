/* Safe file names; see file_name.h. */
#include "handlers/file_name.h"

#include "base/bug.h"

#include <stdio.h>

enum {
    RAW_MAX = 4 * FILE_NAME_VALUE_MAX, /* of a value that is looked at: an escape is at most that
                                          much longer */
    EXTENSION_MAX = 16,                /* with its dot */
    RENDERED_MAX = HL7_TEMPLATE_MAX + HL7_TEMPLATE_PARTS_MAX * FILE_NAME_VALUE_MAX,
};

static bool is_safe(char byte)
{
    return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
           (byte >= '0' && byte <= '9') || byte == '.' || byte == '_' || byte == '-';
}

static void append_safe(struct buffer *out, struct slice text)
{
    for (size_t i = 0; i < text.len; i++)
        buffer_append_byte(out, is_safe(text.ptr[i]) ? text.ptr[i] : '_');
}

static void append_value(struct buffer *out, const struct hl7_message *message,
                         const struct hl7_path *path, struct buffer *scratch)
{
    struct hl7_value value = hl7_get(message, path);
    if (value.presence != HL7_VALUE)
        return;
    if (value.raw.len > RAW_MAX)
        value.raw.len = RAW_MAX;
    struct slice text = value.raw;
    bool ok = hl7_unescape(&message->separators, value.raw, scratch, &text);
    BUG_ON(!ok); /* decoded text is never longer */
    if (text.len > FILE_NAME_VALUE_MAX)
        text.len = FILE_NAME_VALUE_MAX;
    append_safe(out, text);
}

static void render(const struct hl7_template *template_, const struct hl7_message *message,
                   const char *id, struct buffer *out)
{
    struct buffer scratch;
    buffer_init(&scratch, RAW_MAX);
    for (size_t i = 0; i < template_->part_count; i++) {
        const struct hl7_template_part *part = &template_->parts[i];
        switch (part->kind) {
        case HL7_TEMPLATE_LITERAL:
            append_safe(out, slice_of(part->text, part->len));
            break;
        case HL7_TEMPLATE_PATH:
            if (message)
                append_value(out, message, &part->path, &scratch);
            break;
        case HL7_TEMPLATE_NAME: /* correlation_id is the only one */
            buffer_append_text(out, id);
            break;
        }
    }
    buffer_done(&scratch);
}

/* Where the extension begins: the last dot, if not at the start nor too far from the end; else the
 * end. */
static size_t extension_of(struct slice name)
{
    for (size_t i = name.len; i-- > 1;) {
        if (name.ptr[i] == '.' && name.len - i <= EXTENSION_MAX)
            return i;
    }
    return name.len;
}

static void with_id(struct slice name, size_t stem_max, const char *id,
                    char ret_name[static FILE_NAME_SIZE])
{
    size_t dot = extension_of(name);
    size_t stem_len = dot < stem_max ? dot : stem_max;
    int len = snprintf(ret_name, FILE_NAME_SIZE, "%.*s-%s%.*s", (int)stem_len, name.ptr, id,
                       (int)(name.len - dot), name.ptr + dot);
    BUG_ON(len < 0 || len >= FILE_NAME_SIZE);
}

bool file_name_render(const struct hl7_template *template_, struct slice body, struct uuid id,
                      char ret_name[static FILE_NAME_SIZE])
{
    char id_text[UUID_TEXT_LEN + 1];
    uuid_format(id, id_text);

    struct hl7_message message;
    bool is_hl7 = hl7_template_has_paths(template_) && hl7_parse(body, &message, NULL) == 0;
    struct buffer name;
    buffer_init(&name, RENDERED_MAX);
    render(template_, is_hl7 ? &message : NULL, id_text, &name);
    if (is_hl7)
        hl7_done(&message);

    if (name.len == 0)
        buffer_append_text(&name, id_text);
    if (name.data[0] == '.')
        name.data[0] = '_';
    if (name.len > FILE_NAME_MAX)
        with_id(buffer_slice(&name), FILE_NAME_MAX - UUID_TEXT_LEN - 1 - EXTENSION_MAX, id_text,
                ret_name);
    else
        snprintf(ret_name, FILE_NAME_SIZE, "%.*s", (int)name.len, name.data);
    buffer_done(&name);
    return strstr(ret_name, id_text) != NULL;
}

void file_name_with_id(const char *name, struct uuid id, char ret_name[static FILE_NAME_SIZE])
{
    char id_text[UUID_TEXT_LEN + 1];
    uuid_format(id, id_text);
    with_id(slice_text(name), FILE_NAME_MAX, id_text, ret_name);
}
