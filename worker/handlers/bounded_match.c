/* PCRE2 with limits; see bounded_match.h. Its own limits hold for one place in the text where a
 * match may begin, so a long text is searched a stretch of such places at a time and the clock is
 * looked at between stretches. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "handlers/bounded_match.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"

#include <pcre2.h>
#include <stdlib.h>
#include <time.h>

enum {
    BACKTRACKS_MAX = 100000, /* from one place: a few milliseconds at the most */
    DEPTH_MAX = 50000,
    HEAP_MAX_KIB = 4096,
    STRETCH = 64,       /* places between two looks at the clock */
    SEARCH_MAX_MS = 200 /* for one text, of this thread's processor time */
};

struct bounded_match {
    pcre2_match_data *data;
    pcre2_match_context *whole, *stretch; /* the latter with an offset limit as well */
};

static pcre2_match_context *new_context(void)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    BUG_ON(!context);
    pcre2_set_match_limit(context, BACKTRACKS_MAX);
    pcre2_set_depth_limit(context, DEPTH_MAX);
    pcre2_set_heap_limit(context, HEAP_MAX_KIB);
    return context;
}

struct bounded_match *bounded_match_new(void)
{
    struct bounded_match *match = mem_alloc(sizeof(*match));
    match->data = pcre2_match_data_create(1, NULL);
    BUG_ON(!match->data);
    match->whole = new_context();
    match->stretch = new_context();
    return match;
}

struct bounded_match *bounded_match_free(struct bounded_match *match)
{
    if (match) {
        pcre2_match_context_free(match->stretch);
        pcre2_match_context_free(match->whole);
        pcre2_match_data_free(match->data);
        free(match);
    }
    return NULL;
}

static enum match_result result_of(int rc)
{
    if (rc >= 0)
        return MATCH_YES;
    /* Everything else is a limit or memory: the text asks too much of the pattern. */
    return rc == PCRE2_ERROR_NOMATCH ? MATCH_NO : MATCH_TOO_EXPENSIVE;
}

static bool goes_by_stretches(const pcre2_code *code, struct slice text)
{
    uint32_t options = 0;
    pcre2_pattern_info(code, PCRE2_INFO_ALLOPTIONS, &options);
    return text.len > STRETCH && (options & PCRE2_USE_OFFSET_LIMIT) && !(options & PCRE2_ANCHORED);
}

static int64_t processor_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The monotonic clock is cheap to read and decides nothing: on a busy machine time goes by without
 * any work. */
struct search_time {
    int64_t wall_until, processor_until;
};

static bool is_over(const struct search_time *time)
{
    return clock_mono_ms() >= time->wall_until && processor_ms() >= time->processor_until;
}

enum match_result bounded_match_search(struct bounded_match *match, const void *pattern,
                                       struct slice text)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)(text.ptr ? text.ptr : "");
    if (!goes_by_stretches(pattern, text))
        return result_of(pcre2_match(pattern, subject, text.len, 0, 0, match->data, match->whole));

    const struct search_time time = {clock_mono_ms() + SEARCH_MAX_MS,
                                     processor_ms() + SEARCH_MAX_MS};
    for (size_t at = 0; at <= text.len; at += STRETCH) {
        pcre2_set_offset_limit(match->stretch, at + STRETCH - 1);
        enum match_result result =
            result_of(pcre2_match(pattern, subject, text.len, at, 0, match->data, match->stretch));
        if (result != MATCH_NO)
            return result;
        if (is_over(&time))
            return MATCH_TOO_EXPENSIVE;
    }
    return MATCH_NO;
}
