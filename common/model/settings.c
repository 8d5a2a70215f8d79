/* Owns the telling of an item's settings in force, by the option table. Pure. */
#include "model/environment.h"
#include "model/reader.h"

#include <inttypes.h>
#include <stdio.h>

#define SECTION_LEN_MAX 64u

struct telling {
    const struct item *item;
    item_setting *each;
    void *arg;
    struct buffer text; /* of one value */
};

static void tell_value(struct telling *telling, const struct option *option, const void *base,
                       const char *section, const char *key)
{
    struct option_value value = option_load(option, base);
    bool is_text = option_is_text(option) || option->type == OPTION_WORD;
    if (option_is_text(option) && !value.text.ptr)
        return;
    buffer_clear(&telling->text);
    if (is_text)
        option_print(option, &value, &telling->text);
    else if (option->type == OPTION_BOOL)
        buffer_append_text(&telling->text, value.number ? "true" : "false");
    else
        buffer_printf(&telling->text, "%" PRId64, value.number);
    telling->each(telling->arg, section, key, buffer_slice(&telling->text), is_text);
}

static void tell_scope(struct telling *telling, enum option_scope scope, const void *base,
                       const char *around);

static void tell_priorities(struct telling *telling, const char *section)
{
    const struct item *item = telling->item;
    for (size_t i = 0; i < item->priority.value_count; i++) {
        const struct item_priority_value *value = &item->priority.values[i];
        buffer_clear(&telling->text);
        buffer_printf(&telling->text, "%" PRId64, value->priority);
        telling->each(telling->arg, section, value->value.ptr, buffer_slice(&telling->text), false);
    }
}

static void tell_custom(struct telling *telling, const struct option *option)
{
    const struct item *item = telling->item;
    if (strcmp(option->path, "class") == 0)
        telling->each(telling->arg, "", "class", slice_text(item->class->name), true);
    else if (strcmp(option->path, "priority.values") == 0)
        tell_priorities(telling, option->path);
    else if (strcmp(option->path, "settings") == 0)
        tell_scope(telling, item_class_scope(item->class), item->settings, "settings");
}

/* `around`: the section in which the scope as a whole stands. */
static void tell_scope(struct telling *telling, enum option_scope scope, const void *base,
                       const char *around)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        if (option->scope != scope || option->type == OPTION_SECTION || option->secret ||
            option->unbuilt)
            continue;
        if (option->type == OPTION_CUSTOM) {
            if (scope == SCOPE_ITEM)
                tell_custom(telling, option);
            continue;
        }
        const char *dot = strrchr(option->path, '.');
        char section[SECTION_LEN_MAX];
        snprintf(section, sizeof(section), "%s%s%.*s", around, *around && dot ? "." : "",
                 dot ? (int)(dot - option->path) : 0, option->path);
        tell_value(telling, option, base, section, dot ? dot + 1 : option->path);
    }
}

void item_each_setting(const struct item *item, item_setting *each, void *arg)
{
    struct telling telling = {.item = item, .each = each, .arg = arg};
    buffer_init(&telling.text, VALUE_BYTES_MAX);
    tell_scope(&telling, SCOPE_ITEM, item, "");
    buffer_done(&telling.text);
}
