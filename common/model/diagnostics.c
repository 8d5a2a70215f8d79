/* Owns the list of diagnostics while a production is loaded and the wording helpers of its
 * messages. Never waits, never fails. */
#include "model/diagnostics.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* Bytes of the well-formed UTF-8 character at `at` (RFC 3629), 0 for none and for control characters, which could
 * steer a terminal. */
static size_t printable_len(const unsigned char *at)
{
    if (at[0] < 0x80)
        return at[0] >= 0x20 && at[0] != 0x7F;
    size_t len = at[0] >= 0xF0 ? 4 : at[0] >= 0xE0 ? 3 : 2;
    if (at[0] < 0xC2 || at[0] > 0xF4)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    }
    bool control = at[0] == 0xC2 && at[1] < 0xA0;
    bool overlong = (at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xF0 && at[1] < 0x90);
    bool surrogate = at[0] == 0xED && at[1] > 0x9F;
    bool beyond = at[0] == 0xF4 && at[1] > 0x8F;
    return control || overlong || surrogate || beyond ? 0 : len;
}

/* A message is one line of valid UTF-8, whatever of the file it repeats and wherever that was cut. */
static void make_printable(char *text)
{
    while (*text) {
        size_t len = printable_len((unsigned char *)text);
        if (len == 0)
            *text = '?';
        text += len ? len : 1;
    }
}

__attribute__((format(printf, 4, 0))) static void
add(struct diagnostics *all, size_t line, bool warning, const char *format, va_list args)
{
    /* The list doubles at each power of two. */
    if ((all->count & (all->count - 1)) == 0)
        all->list = mem_resize(all->list, all->count ? all->count * 2 : 1, sizeof(*all->list));
    char text[1024];
    vsnprintf(text, sizeof(text), format, args);
    make_printable(text);
    all->list[all->count++] =
        (struct diagnostic){.line = line, .warning = warning, .message = mem_strdup(text)};
    all->error_count += !warning;
}

void diagnostics_error(struct diagnostics *all, size_t line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(all, line, false, format, args);
    va_end(args);
}

void diagnostics_warning(struct diagnostics *all, size_t line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(all, line, true, format, args);
    va_end(args);
}

struct placed {
    struct diagnostic diagnostic;
    size_t place;
};

static int by_line(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;
    if (a->diagnostic.line != b->diagnostic.line)
        return a->diagnostic.line < b->diagnostic.line ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

void diagnostics_sort(struct diagnostics *all)
{
    if (all->count < 2)
        return;
    struct placed *placed = mem_array(all->count, sizeof(*placed));
    for (size_t i = 0; i < all->count; i++)
        placed[i] = (struct placed){.diagnostic = all->list[i], .place = i};
    qsort(placed, all->count, sizeof(*placed), by_line);
    for (size_t i = 0; i < all->count; i++)
        all->list[i] = placed[i].diagnostic;
    free(placed);
}

void diagnostics_done(struct diagnostics *all)
{
    for (size_t i = 0; i < all->count; i++)
        free(all->list[i].message);
    free(all->list);
    *all = (struct diagnostics){0};
}

void diagnostics_print(const struct diagnostics *all, const char *path)
{
    for (size_t i = 0; i < all->count; i++) {
        const struct diagnostic *one = &all->list[i];
        const char *warning = one->warning ? "warning: " : "";
        if (one->line)
            fprintf(stderr, "%s:%zu: %s%s\n", path, one->line, warning, one->message);
        else
            fprintf(stderr, "%s: %s%s\n", path, warning, one->message);
    }
}

struct quoted quote(struct slice text)
{
    const size_t shown_max = 60;
    struct quoted ret;
    size_t shown = text.len, at = 0;
    if (shown > shown_max) {
        shown = shown_max;
        while (shown && ((unsigned char)text.ptr[shown] & 0xC0) == 0x80)
            shown--; /* not through the middle of a UTF-8 character */
    }
    ret.text[at++] = '`';
    for (size_t i = 0; i < shown; i++) {
        unsigned char byte = (unsigned char)text.ptr[i];
        ret.text[at++] = byte < 0x20 || byte == 0x7F ? '?' : (char)byte;
    }
    snprintf(ret.text + at, sizeof(ret.text) - at, "%s`", shown < text.len ? "…" : "");
    return ret;
}

#define WORD_MAX 48

unsigned edit_distance(struct slice a, struct slice b, unsigned limit)
{
    if (a.len > WORD_MAX || b.len > WORD_MAX || a.len > b.len + limit || b.len > a.len + limit)
        return limit + 1;
    /* Optimal string alignment (Damerau's edits, no substring edited twice), three rows of its
     * matrix. */
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b.len; j++)
        above[j] = before[j] = (unsigned)j;
    for (size_t i = 1; i <= a.len; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b.len; j++) {
            int left = tolower((unsigned char)a.ptr[i - 1]);
            int right = tolower((unsigned char)b.ptr[j - 1]);
            unsigned best = above[j - 1] + (left != right);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && left == tolower((unsigned char)b.ptr[j - 2]) &&
                tolower((unsigned char)a.ptr[i - 2]) == right && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        unsigned *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[b.len] <= limit ? above[b.len] : limit + 1;
}

static const char *least_distance(struct slice text, const char *const *words)
{
    /* Three edits turn any word of three letters into any other: allow fewer in short words. */
    unsigned limit = text.len <= 3 ? 1 : text.len <= 6 ? 2 : 3;
    const char *nearest = NULL;
    for (; *words; words++) {
        unsigned distance = edit_distance(text, slice_text(*words), limit);
        if (distance <= limit) {
            nearest = *words;
            if (distance == 0)
                break;
            limit = distance - 1;
        }
    }
    return nearest;
}

/* One begins with the other. */
static const char *prefix_word(struct slice text, const char *const *words)
{
    const size_t shortest = 3;
    for (; text.len >= shortest && *words; words++) {
        size_t len = strlen(*words) < text.len ? strlen(*words) : text.len;
        if (len >= shortest && strncasecmp(text.ptr, *words, len) == 0)
            return *words;
    }
    return NULL;
}

const char *nearest_word(struct slice text, const char *const *words)
{
    const char *nearest = least_distance(text, words);
    return nearest ? nearest : prefix_word(text, words);
}

struct quoted did_you_mean(const char *word)
{
    struct quoted ret = {.text = ""};
    if (word)
        snprintf(ret.text, sizeof(ret.text), "; did you mean `%.48s`?", word);
    return ret;
}
