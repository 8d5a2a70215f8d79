/* Owns the table of handler classes: which there are, which are still to come, and which options
 * their settings have. */
#include "model/item_class.h"

#include "base/bug.h"
#include "model/diagnostics.h"
#include "model/reader.h"

const struct item_class item_classes[CLASS_COUNT] = {
    [CLASS_HL7_ROUTING_ENGINE] = {CLASS_HL7_ROUTING_ENGINE, "HL7RoutingEngine", .needs_hl7 = true},
    [CLASS_HTTP_SENDER] = {CLASS_HTTP_SENDER, "HTTPSender", .outbound = true},
    [CLASS_FILE_WRITER] = {CLASS_FILE_WRITER, "FileWriter", .outbound = true},
    [CLASS_ECHO] = {CLASS_ECHO, "Echo"},
};

static const struct {
    enum option_scope scope;
    size_t size;
} settings_of[CLASS_COUNT] = {
    [CLASS_HL7_ROUTING_ENGINE] = {SCOPE_ROUTING, sizeof(struct hl7_routing_settings)},
    [CLASS_HTTP_SENDER] = {SCOPE_HTTP_SENDER, sizeof(struct http_sender_settings)},
    [CLASS_FILE_WRITER] = {SCOPE_FILE_WRITER, sizeof(struct file_writer_settings)},
    [CLASS_ECHO] = {SCOPE_ECHO, sizeof(struct echo_settings)},
};

enum option_scope item_class_scope(const struct item_class *class)
{
    return settings_of[class->id].scope;
}

/* Named by the specification or the contract, not yet built. */
static const char *const classes_to_come[] = {
    "HL7Service", "HL7TransformService", "PDSLookupService", "RESTAPIGateway",
    "MLLPSender", "SQLWriter",           "LuaService",       NULL,
};

/* The class of that name; NULL when the reason was reported. */
static const struct item_class *find_class(struct reader *reader, struct slice name,
                                           struct slice shown, size_t line)
{
    const char *words[CLASS_COUNT + sizeof(classes_to_come) / sizeof(classes_to_come[0])];
    size_t count = 0;
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        if (slice_is(name, item_classes[i].name))
            return &item_classes[i];
        words[count++] = item_classes[i].name;
    }
    for (size_t i = 0; classes_to_come[i]; i++) {
        if (slice_is(name, classes_to_come[i])) {
            diagnostics_error(reader->out, line, "class %s is not yet supported",
                              classes_to_come[i]);
            return NULL;
        }
        words[count++] = classes_to_come[i];
    }
    words[count] = NULL;
    if (name.len && memmem(name.ptr, name.len, ".so:", 4))
        diagnostics_error(reader->out, line, "classes in shared objects (%s) are not yet supported",
                          QUOTE(shown));
    else
        diagnostics_error(reader->out, line, "unknown class %s%s", QUOTE(shown),
                          did_you_mean(nearest_word(name, words)).text);
    return NULL;
}

void item_class_read(struct reader *reader, const struct yaml_node *map)
{
    struct item *item = reader->item;
    const struct yaml_node *name = yaml_member(map, "class");
    const struct yaml_node *settings = yaml_member(map, "settings");
    struct scalar scalar;
    if (!name || !scalar_read(reader, "class", false, name, &scalar))
        return;
    item->class = find_class(reader, scalar.text, name->text, name->line);
    if (!item->class)
        return;
    struct object object;
    enum item_class_id id = item->class->id;
    item->settings = arena_alloc(reader->keep, settings_of[id].size);
    if (settings && settings->kind != YAML_MAP) {
        report_kind(reader, "settings", settings, "a mapping");
        return;
    }
    object_read(reader, &object, item_class_scope(item->class), item->settings, settings,
                settings ? settings->key_line : item->line);
    switch (id) {
    case CLASS_HL7_ROUTING_ENGINE:
        routing_settings_check(reader, &object);
        break;
    case CLASS_HTTP_SENDER:
        http_sender_settings_check(item->settings, &object);
        break;
    case CLASS_FILE_WRITER:
        file_writer_settings_check(item->settings, &object);
        break;
    case CLASS_ECHO:
    case CLASS_COUNT:
        break;
    }
}

void item_settings_done(struct item *item)
{
    if (!item->settings)
        return;
    if (item->class->id == CLASS_HL7_ROUTING_ENGINE)
        routing_settings_done(item->settings);
    else if (item->class->id == CLASS_FILE_WRITER)
        hl7_template_done(&((struct file_writer_settings *)item->settings)->name);
}
