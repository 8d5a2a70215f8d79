/* Owns what can be done with one row of the option table: find it, read a scalar by it, store, load
 * and print. Pure. */
#include "model/option.h"

#include "base/bug.h"
#include "model/diagnostics.h"

#include <inttypes.h>
#include <stdio.h>

const struct option *option_find(enum option_scope scope, struct slice path)
{
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope == scope && slice_is(path, options[i].path))
            return &options[i];
    }
    for (size_t i = 0; i < option_count; i++) {
        if (options[i].scope == scope && options[i].flat && slice_is(path, options[i].flat))
            return &options[i];
    }
    return NULL;
}

bool option_restarts(const struct option *option)
{
    const char *dot = strrchr(option->path, '.');
    if (option->restart)
        return true;
    if (dot)
        return option_restarts(
            option_find(option->scope, slice_of(option->path, (size_t)(dot - option->path))));
    return option->scope == SCOPE_LISTENER &&
           option_restarts(option_find(SCOPE_FILE, SLICE_LITERAL("dispatcher.mllp")));
}

const char *option_scope_words(enum option_scope scope)
{
    static const char *const words[SCOPE_COUNT] = {
        [SCOPE_FILE] = "the file",
        [SCOPE_LISTENER] = "an MLLP listener",
        [SCOPE_ITEM] = "an item",
        [SCOPE_ROUTING] = "settings of HL7RoutingEngine",
        [SCOPE_RULE] = "a rule",
        [SCOPE_HTTP_SENDER] = "settings of HTTPSender",
        [SCOPE_FILE_WRITER] = "settings of FileWriter",
        [SCOPE_ECHO] = "settings of Echo",
    };
    return words[scope];
}

bool option_is_text(const struct option *option)
{
    return option->type == OPTION_TEXT || option->type == OPTION_ADDRESS ||
           option->type == OPTION_URL;
}

/* 16777216 as 16MiB, 1000 as 1000. */
static void print_size(int64_t bytes, struct buffer *out)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    unsigned unit = 0;
    while (unit < 3 && bytes && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    buffer_printf(out, "%" PRId64 "%s", bytes, units[unit]);
}

static void print_words(const char *const *words, struct buffer *out)
{
    for (unsigned i = 0; words[i]; i++) {
        const char *before = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        buffer_printf(out, "%s%s", before, words[i]);
    }
}

/* ---- reading ---- */

/* A decimal number as JSON writes it: no sign but a minus, no leading zeros. */
static bool canonical_int(struct slice text, int64_t *ret)
{
    size_t digits = text.len && text.ptr[0] == '-' ? text.len - 1 : text.len;
    if (digits > 1 && text.ptr[text.len - digits] == '0')
        return false;
    return slice_to_int(text, INT64_MIN, INT64_MAX, ret);
}

/* Cuts ".0", ".00" … off. */
static struct slice without_zero_fraction(struct slice text)
{
    size_t len = text.len;
    while (len && text.ptr[len - 1] == '0')
        len--;
    if (len > 1 && len < text.len && text.ptr[len - 1] == '.')
        return slice_of(text.ptr, len - 1);
    return text;
}

static int parse_int(const struct option *option, struct slice text, int64_t *ret, struct err *err)
{
    int64_t number;
    if (!canonical_int(text, &number) || number < option->min || number > option->max)
        return err_set(err, ERR_CONFIG, "expected a whole number from %" PRId64 " to %" PRId64,
                       option->min, option->max);
    *ret = number;
    return 0;
}

/* The milliseconds of "30s", "1.5m" is none of ours; -1 when it is not a number and a unit. */
static int64_t with_unit(struct slice text)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1},    {"s", 1000},    {"sec", 1000},
                 {"m", 60000}, {"min", 60000}, {"h", 3600000}};
    size_t digits = 0;
    int64_t number;
    while (digits < text.len && text.ptr[digits] >= '0' && text.ptr[digits] <= '9')
        digits++;
    if (!slice_to_int(slice_of(text.ptr, digits), 0, INT64_C(1) << 40, &number))
        return -1;
    struct slice unit = slice_trim(slice_of(text.ptr + digits, text.len - digits));
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (slice_is_nocase(unit, units[i].name))
            return number * units[i].ms;
    }
    return -1;
}

static int parse_duration(const struct option *option, struct slice text, int64_t *ret,
                          struct err *err)
{
    int64_t number;
    if (canonical_int(without_zero_fraction(text), &number) && number >= option->min &&
        number <= option->max) {
        *ret = number;
        return 0;
    }
    number = with_unit(text);
    if (number >= option->min && number <= option->max)
        return err_set(err, ERR_CONFIG,
                       "durations are whole milliseconds without a unit; write %" PRId64, number);
    return err_set(err, ERR_CONFIG,
                   "expected milliseconds, a whole number from %" PRId64 " to %" PRId64,
                   option->min, option->max);
}

static int parse_size(const struct option *option, struct slice text, int64_t *ret, struct err *err)
{
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    struct slice digits = text;
    int64_t number, factor = 1;
    for (unsigned i = 0; i < 3; i++) {
        if (text.len > 3 && slice_is(slice_of(text.ptr + text.len - 3, 3), units[i])) {
            digits.len -= 3;
            factor = INT64_C(1) << (10 * (i + 1));
        }
    }
    if (canonical_int(digits, &number) && number >= 0 && number <= option->max / factor &&
        number * factor >= option->min) {
        *ret = number * factor;
        return 0;
    }
    struct buffer range;
    buffer_init(&range, 128);
    print_size(option->min, &range);
    buffer_append_text(&range, " to ");
    print_size(option->max, &range);
    err_set(err, ERR_CONFIG, "expected a size from %.*s: bytes, KiB, MiB or GiB", (int)range.len,
            range.data);
    buffer_done(&range);
    return -1;
}

static int parse_bool(struct slice text, int64_t *ret, struct err *err)
{
    if (slice_is(text, "true") || slice_is(text, "True") || slice_is(text, "TRUE"))
        *ret = true;
    else if (slice_is(text, "false") || slice_is(text, "False") || slice_is(text, "FALSE"))
        *ret = false;
    else
        return err_set(err, ERR_CONFIG, "expected true or false");
    return 0;
}

static int parse_word(const struct option *option, struct slice text, int64_t *ret, struct err *err)
{
    for (int64_t i = 0; option->words[i]; i++) {
        if (slice_is(text, option->words[i])) {
            *ret = i;
            return 0;
        }
    }
    struct buffer all;
    buffer_init(&all, 1024);
    print_words(option->words, &all);
    err_set(err, ERR_CONFIG, "expected %.*s%s", (int)all.len, all.data,
            did_you_mean(nearest_word(text, option->words)).text);
    buffer_done(&all);
    return -1;
}

static int parse_text(const struct option *option, struct slice text, struct err *err)
{
    int64_t ignored;
    if (option->words)
        return parse_word(option, text, &ignored, err);
    if (option->type == OPTION_ADDRESS) {
        bool loopback;
        return address_check(text, &loopback, err);
    }
    if (option->type == OPTION_URL)
        return url_check(option->url, text, err);
    if (text.len < (size_t)option->min || text.len > (size_t)option->max)
        return err_set(err, ERR_CONFIG, "expected %" PRId64 " to %" PRId64 " bytes of text",
                       option->min, option->max);
    return option->check ? option->check(text, err) : 0;
}

int option_parse(const struct option *option, struct slice text, bool plain,
                 struct option_value *ret_value, struct err *err)
{
    struct option_value value = {.text = text};
    int failed;
    bool quoted = !plain && (option->type == OPTION_BOOL || option->type == OPTION_INT ||
                             option->type == OPTION_DURATION);
    switch (option->type) {
    case OPTION_INT:
        failed = parse_int(option, text, &value.number, err);
        break;
    case OPTION_DURATION:
        failed = parse_duration(option, text, &value.number, err);
        break;
    case OPTION_SIZE:
        failed = parse_size(option, text, &value.number, err);
        break;
    case OPTION_BOOL:
        failed = parse_bool(text, &value.number, err);
        break;
    case OPTION_WORD:
        failed = parse_word(option, text, &value.number, err);
        break;
    case OPTION_TEXT:
    case OPTION_ADDRESS:
    case OPTION_URL:
        failed = parse_text(option, text, err);
        break;
    default:
        BUG_ON(option->type == OPTION_SECTION || option->type == OPTION_CUSTOM);
        return -1;
    }
    if (!failed && quoted)
        return err_set(err, ERR_CONFIG, "expected %s without quotes",
                       option->type == OPTION_BOOL ? "true or false" : "a number");
    if (!failed)
        *ret_value = value;
    return failed;
}

/* ---- storing ---- */

bool option_equal(const struct option *option, const struct option_value *a,
                  const struct option_value *b)
{
    return option_is_text(option) ? slice_equal(a->text, b->text) : a->number == b->number;
}

void option_store(const struct option *option, void *base, const struct option_value *value,
                  struct arena *arena)
{
    void *at = (char *)base + option->offset;
    if (option_is_text(option))
        *(char **)at = arena_strdup(arena, value->text);
    else if (option->type == OPTION_BOOL)
        *(bool *)at = value->number != 0;
    else if (option->type == OPTION_WORD)
        *(unsigned *)at = (unsigned)value->number;
    else
        *(int64_t *)at = value->number;
}

struct option_value option_load(const struct option *option, const void *base)
{
    const void *at = (const char *)base + option->offset;
    BUG_ON(option->type == OPTION_SECTION || option->type == OPTION_CUSTOM || option->unbuilt);
    if (option_is_text(option))
        return (struct option_value){.text = slice_text(*(char *const *)at)};
    if (option->type == OPTION_BOOL)
        return (struct option_value){.number = *(const bool *)at};
    if (option->type == OPTION_WORD)
        return (struct option_value){.number = *(const unsigned *)at};
    return (struct option_value){.number = *(const int64_t *)at};
}

/* ---- printing ---- */

void option_print(const struct option *option, const struct option_value *value, struct buffer *out)
{
    if (option_is_text(option))
        buffer_append(out, value->text.ptr, value->text.len);
    else if (option->type == OPTION_BOOL)
        buffer_append_text(out, value->number ? "true" : "false");
    else if (option->type == OPTION_WORD)
        buffer_append_text(out, option->words[value->number]);
    else if (option->type == OPTION_SIZE)
        print_size(value->number, out);
    else
        buffer_printf(out, "%" PRId64, value->number);
}

static void print_type(const struct option *option, struct buffer *out)
{
    static const char *const types[] = {
        [OPTION_SECTION] = "mapping",
        [OPTION_BOOL] = "true or false",
        [OPTION_ADDRESS] = "address:port",
        [OPTION_URL] = "URL",
        [OPTION_TEXT] = "text",
        [OPTION_INT] = "whole number",
        [OPTION_DURATION] = "milliseconds",
        [OPTION_SIZE] = "size",
    };
    if (option->type == OPTION_CUSTOM)
        buffer_append_text(out, option->shape);
    else if (option->words)
        print_words(option->words, out);
    else
        buffer_append_text(out, types[option->type]);
    if (option->type == OPTION_INT || option->type == OPTION_DURATION)
        buffer_printf(out, ", %" PRId64 "–%" PRId64, option->min, option->max);
    if (option->type == OPTION_SIZE) {
        buffer_append_text(out, ", ");
        print_size(option->min, out);
        buffer_append_text(out, "–");
        print_size(option->max, out);
    }
}

/* | key | also | type | default | reload | supported | meaning | */
void option_print_row(const struct option *option, struct buffer *out)
{
    buffer_printf(out, "| `%s` | ", option->path);
    if (option->flat)
        buffer_printf(out, "`%s`", option->flat);
    buffer_append_text(out, " | ");
    print_type(option, out);
    buffer_append_text(out, " | ");
    if (option->required)
        buffer_append_text(out, "**required**");
    else if (option->note)
        buffer_append_text(out, option->note);
    else if (option->fallback)
        buffer_printf(out, "`%s`", *option->fallback ? option->fallback : "\"\"");
    if (option->environment)
        buffer_printf(out, ", or $%s", option->environment);
    if (option->override)
        buffer_printf(out, "; $%s wins", option->override);
    buffer_printf(out, " | %s | %s | %s |\n", option_restarts(option) ? "no" : "yes",
                  option->unbuilt ? "not yet" : "yes", option->description);
}
