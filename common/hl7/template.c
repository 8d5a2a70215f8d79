/* Templates: compiled once, rendered for each message. A template owns its parts; rendering fails
 * only when the result has no room. */
#include "hl7/template.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

/* ---- compiling ---- */

static int add_part(struct hl7_template *template_, struct hl7_template_part part, struct err *err)
{
    if (template_->part_count == HL7_TEMPLATE_PARTS_MAX)
        return err_set(err, ERR_INVALID, "more than %d parts", HL7_TEMPLATE_PARTS_MAX);
    template_->parts = mem_resize(template_->parts, template_->part_count + 1, sizeof(part));
    template_->parts[template_->part_count++] = part;
    return 0;
}

static int add_text(struct hl7_template *template_, enum hl7_template_kind kind, struct slice text,
                    struct err *err)
{
    struct hl7_template_part part = {
        .kind = kind, .text = mem_strndup(text.ptr, text.len), .len = text.len};
    if (add_part(template_, part, err)) {
        free(part.text);
        return -1;
    }
    return 0;
}

static bool is_one_of(struct slice name, const char *const *names)
{
    for (; names && *names; names++) {
        if (slice_is(name, *names))
            return true;
    }
    return false;
}

/* What stands between the braces: a variable or a path. */
static int add_reference(struct hl7_template *template_, struct slice inside,
                         const char *const *names, struct err *err)
{
    if (is_one_of(inside, names))
        return add_text(template_, HL7_TEMPLATE_NAME, inside, err);
    struct hl7_template_part part = {.kind = HL7_TEMPLATE_PATH};
    struct err reason;
    if (hl7_path_parse(inside, &part.path, &reason))
        return err_set(err, ERR_INVALID, "${%.*s} is no variable and no path such as PID-3.1: %s",
                       inside.len > 40 ? 40 : (int)inside.len, inside.ptr, reason.text);
    return add_part(template_, part, err);
}

/* Compiles what begins with a dollar; *ret_used is its length. */
static int add_dollar(struct hl7_template *template_, struct slice text, const char *const *names,
                      size_t *ret_used, struct err *err)
{
    if (text.len >= 2 && text.ptr[1] == '$') {
        *ret_used = 2;
        return add_text(template_, HL7_TEMPLATE_LITERAL, slice_of("$", 1), err);
    }
    if (text.len < 2 || text.ptr[1] != '{')
        return err_set(err, ERR_INVALID, "a '$' that opens no ${…}: write $$ for a dollar");
    const char *close = memchr(text.ptr, '}', text.len);
    if (!close)
        return err_set(err, ERR_INVALID, "'${' without '}'");
    struct slice inside = slice_of(text.ptr + 2, (size_t)(close - text.ptr) - 2);
    *ret_used = inside.len + 3;
    return add_reference(template_, inside, names, err);
}

int hl7_template_parse(struct slice text, const char *const *names, struct hl7_template *ret,
                       struct err *err)
{
    if (text.len > HL7_TEMPLATE_MAX)
        return err_set(err, ERR_INVALID, "longer than %d bytes", HL7_TEMPLATE_MAX);
    struct hl7_template made = {0};
    for (size_t at = 0, used = 0; at < text.len; at += used) {
        struct slice left = slice_of(text.ptr + at, text.len - at);
        const char *dollar = memchr(left.ptr, '$', left.len);
        int rc;
        if (dollar == left.ptr) {
            rc = add_dollar(&made, left, names, &used, err);
        } else {
            used = dollar ? (size_t)(dollar - left.ptr) : left.len;
            rc = add_text(&made, HL7_TEMPLATE_LITERAL, slice_of(left.ptr, used), err);
        }
        if (rc) {
            hl7_template_done(&made);
            return -1;
        }
    }
    *ret = made;
    return 0;
}

void hl7_template_done(struct hl7_template *template_)
{
    for (size_t i = 0; i < template_->part_count; i++)
        free(template_->parts[i].text);
    free(template_->parts);
    *template_ = (struct hl7_template){0};
}

bool hl7_template_has_paths(const struct hl7_template *template_)
{
    for (size_t i = 0; i < template_->part_count; i++) {
        if (template_->parts[i].kind == HL7_TEMPLATE_PATH)
            return true;
    }
    return false;
}

/* ---- rendering ---- */

static bool render_path(const struct hl7_path *path, const struct hl7_message *message,
                        struct buffer *out)
{
    if (!message)
        return true;
    struct hl7_value value = hl7_get(message, path);
    if (value.presence != HL7_VALUE)
        return true;
    /* What MSH-1 and MSH-2 hold are the separators themselves. */
    if (path->field <= 2 && strcmp(path->segment, "MSH") == 0)
        return buffer_try_append(out, value.raw.ptr, value.raw.len);
    return hl7_unescape_append(&message->separators, value.raw, out);
}

int hl7_template_render(const struct hl7_template *template_, const struct hl7_message *message,
                        hl7_template_lookup lookup, void *context, struct buffer *out,
                        struct err *err)
{
    size_t before = out->len;
    for (size_t i = 0; i < template_->part_count; i++) {
        const struct hl7_template_part *part = &template_->parts[i];
        bool room = true;
        switch (part->kind) {
        case HL7_TEMPLATE_LITERAL:
            room = buffer_try_append(out, part->text, part->len);
            break;
        case HL7_TEMPLATE_PATH:
            room = render_path(&part->path, message, out);
            break;
        case HL7_TEMPLATE_NAME: {
            BUG_ON(!lookup);
            struct slice value = lookup(context, part->text);
            room = buffer_try_append(out, value.ptr, value.len);
            break;
        }
        }
        if (!room) {
            out->len = before;
            return err_set(err, ERR_TOO_LARGE, "a text made of message values passes %zu bytes",
                           out->max);
        }
    }
    return 0;
}
