/* Any text as a path and as a template: a path formats to the same path, a template renders within its bound, the same
 * every time, and all or nothing. */
#include "base/bug.h"
#include "hl7/template.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char REQUEST[] = "MSH|^~\\&|APP^1|WEST|B|C|2026||ADT^A01|77|P|2.5\r"
                              "PID|1||111^^^W&1~222||A\\F\\B^\\X4142\\|\"\"\r"
                              "OBX|1|NM|a||5\rOBX|2|NM|b||6~7\r";

static const char *const names[] = {"correlation_id", "item", NULL};

static struct slice lookup(void *context, const char *name)
{
    (void)context;
    return slice_text(name);
}

static void check_path(struct slice text, const struct hl7_message *message)
{
    struct hl7_path path, again;
    struct err err = {0};
    char shortest[HL7_PATH_TEXT_SIZE];
    if (hl7_path_parse(text, &path, &err)) {
        BUG_ON(err.code != ERR_INVALID || !err.text[0]);
        return;
    }
    hl7_path_format(&path, shortest);
    BUG_ON(strlen(shortest) > text.len);
    BUG_ON(hl7_path_parse(slice_text(shortest), &again, &err));
    BUG_ON(memcmp(path.segment, again.segment, 4) != 0 || path.occurrence != again.occurrence ||
           path.field != again.field || path.repetition != again.repetition ||
           path.component != again.component || path.subcomponent != again.subcomponent);
    struct hl7_value a = hl7_get(message, &path), b = hl7_get(message, &again);
    BUG_ON(a.presence != b.presence || !slice_equal(a.raw, b.raw));
}

static void check_template(struct slice text, const struct hl7_message *message)
{
    struct hl7_template template_;
    struct err err = {0};
    if (hl7_template_parse(text, names, &template_, &err)) {
        BUG_ON(err.code != ERR_INVALID || !err.text[0]);
        return;
    }
    BUG_ON(template_.part_count > HL7_TEMPLATE_PARTS_MAX);
    struct buffer all, bounded;
    buffer_init(&all, 1 << 20);
    BUG_ON(hl7_template_render(&template_, message, lookup, NULL, &all, &err));
    for (size_t max = all.len > 3 ? all.len - 3 : 0; max <= all.len + 1; max++) {
        buffer_init(&bounded, max);
        int rc = hl7_template_render(&template_, message, lookup, NULL, &bounded, &err);
        BUG_ON((rc == 0) != (max >= all.len));
        BUG_ON(rc ? bounded.len != 0 || err.code != ERR_TOO_LARGE
                  : !slice_equal(buffer_slice(&bounded), buffer_slice(&all)));
        buffer_done(&bounded);
    }
    buffer_done(&all);
    buffer_init(&all, 1 << 20);
    BUG_ON(hl7_template_render(&template_, NULL, lookup, NULL, &all, &err));
    BUG_ON(!hl7_template_has_paths(&template_) && text.len && all.len == 0);
    buffer_done(&all);
    hl7_template_done(&template_);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hl7_message message;
    BUG_ON(hl7_parse(SLICE_LITERAL(REQUEST), &message, NULL));
    check_path(slice_of(data, size), &message);
    check_template(slice_of(data, size), &message);
    hl7_done(&message);
    return 0;
}
