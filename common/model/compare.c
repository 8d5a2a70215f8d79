/* Owns what a reload asks of two productions: the same text, the same queue, what takes a restart, the same section. Pure. */
#include "base/uuid.h"
#include "model/option.h"
#include "model/production.h"

#include <stdio.h>

void production_hash(struct slice text, char ret[static PRODUCTION_HASH_SIZE])
{
    snprintf(ret, PRODUCTION_HASH_SIZE, "%016llx%016llx",
             (unsigned long long)hash_bytes(HASH_SEED, text.ptr, text.len),
             (unsigned long long)hash_bytes(0x9e3779b97f4a7c15u, text.ptr, text.len));
}

/* ---- queues ---- */

/* Its order is that of the rows, or of the stream where the WAL is off. */
static bool same_log(const struct item *a, const struct item *b)
{
    return a->queue_type != QUEUE_FIFO || a->persistence.wal_enabled == b->persistence.wal_enabled;
}

/* Written differently, PID-3 and PID-3[1] are the same. */
static bool same_path(const struct hl7_path *a, const struct hl7_path *b)
{
    char a_text[HL7_PATH_TEXT_SIZE], b_text[HL7_PATH_TEXT_SIZE];
    hl7_path_format(a, a_text);
    hl7_path_format(b, b_text);
    return strcmp(a_text, b_text) == 0;
}

static bool same_order(const struct item *a, const struct item *b)
{
    if (a->queue_type != QUEUE_FIFO)
        return true;
    if (!a->ordering_key || !b->ordering_key)
        return !a->ordering_key && !b->ordering_key;
    return same_path(&a->ordering_path, &b->ordering_path);
}

bool item_same_queue(const struct item *a, const struct item *b)
{
    return a->messaging_pattern == b->messaging_pattern && a->queue_type == b->queue_type &&
           a->partitions == b->partitions && a->class == b->class && same_log(a, b) &&
           same_order(a, b);
}

/* ---- what takes a restart ---- */

static bool is_value(const struct option *option)
{
    return option->type != OPTION_SECTION && option->type != OPTION_CUSTOM && !option->unbuilt;
}

static bool same_value(const struct option *option, const void *a, const void *b)
{
    struct option_value of_a = option_load(option, a), of_b = option_load(option, b);
    return option_equal(option, &of_a, &of_b);
}

void production_restart_keys(const struct production *running, const struct production *next,
                             struct buffer *out)
{
    const char *separator = "";
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        if (option->scope != SCOPE_FILE || !option_restarts(option) || !is_value(option) ||
            same_value(option, running, next))
            continue;
        buffer_printf(out, "%s%s", separator, option->path);
        separator = ", ";
    }
}

/* ---- sections ---- */

const char *const production_section_words[SECTION_COUNT] = {
    [SECTION_DISPATCHER] = "dispatcher",
    [SECTION_WORKER] = "worker",
};

static bool same_listener(const struct mllp_listener *a, const struct mllp_listener *b)
{
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope == SCOPE_LISTENER && is_value(&options[i]) &&
            !same_value(&options[i], a, b))
            return false;
    }
    return strcmp(a->item_id, b->item_id) == 0;
}

static bool same_listeners(const struct production *a, const struct production *b)
{
    if (a->dispatcher.mllp_count != b->dispatcher.mllp_count)
        return false;
    for (size_t i = 0; i < a->dispatcher.mllp_count; i++) {
        if (!same_listener(&a->dispatcher.mllp[i], &b->dispatcher.mllp[i]))
            return false;
    }
    return true;
}

static bool is_in(enum production_section section, const struct option *option)
{
    const char *word = production_section_words[section];
    size_t len = strlen(word);
    return option->scope == SCOPE_FILE && strncmp(option->path, word, len) == 0 &&
           option->path[len] == '.';
}

bool production_same_section(enum production_section section, const struct production *a,
                             const struct production *b)
{
    for (size_t i = 0; i < option_count; i++) {
        if (is_in(section, &options[i]) && is_value(&options[i]) && !same_value(&options[i], a, b))
            return false;
    }
    return section != SECTION_DISPATCHER || same_listeners(a, b);
}

bool production_follows(enum production_section section, const struct production *mine,
                        const struct production *before, const struct production *next)
{
    return production_same_section(section, mine, before) &&
           next->since[section] <= before->version;
}
