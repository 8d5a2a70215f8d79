/* What the tests of the model share: files of the source tree, the environment they assume. */
#ifndef HIE_TESTS_PRODUCTION_DATA_H
#define HIE_TESTS_PRODUCTION_DATA_H

#include "base/mem.h"
#include "model/production.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static inline char *file_text(const char *path, size_t *ret_len)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "cannot open %s", path);
    size_t size = 8u << 20;
    char *text = mem_alloc(size + 1);
    *ret_len = fread(text, 1, size, file);
    fclose(file);
    return text;
}

/* No variable of the caller's shell decides a test. */
static inline void clean_environment(void)
{
    static const char *const names[] = {"HIE_REDIS_URL",     "HIE_POSTGRES_URL",  "HIE_HTTP_LISTEN",
                                        "HIE_WORKER_LISTEN", "HIE_ORU_URL",       "CONCURRENCY",
                                        "EXECUTION_MODE",    "MESSAGING_PATTERN", "QUEUE_TYPE",
                                        "HIE_TEST_UNSET"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
    setenv("HIE_TEST_NUMBER", "12", 1);
    setenv("HIE_TEST_TEXT", "a: [b", 1);
    setenv("HIE_TEST_EMPTY", "", 1);
}

/* All diagnostics as "line: message" lines, to be freed. */
static inline char *diagnostics_text(const struct diagnostics *all)
{
    struct buffer text;
    buffer_init(&text, 1u << 24);
    for (size_t i = 0; i < all->count; i++)
        buffer_printf(&text, "%zu: %s%s\n", all->list[i].line,
                      all->list[i].warning ? "warning: " : "", all->list[i].message);
    buffer_append_byte(&text, '\0');
    return text.data;
}

#define DATA HIE_SOURCE_DIR "/tests/data/production/"

static inline struct production *parse(const char *yaml, char **ret_messages)
{
    struct diagnostics all;
    struct production *production = production_parse(slice_text(yaml), &all);
    ck_assert_int_eq(production == NULL, all.error_count != 0);
    *ret_messages = diagnostics_text(&all);
    diagnostics_done(&all);
    return production;
}

/* Expects exactly these diagnostics; NULL when there are errors among them. */
static inline struct production *expect(const char *yaml, const char *messages)
{
    char *found;
    struct production *production = parse(yaml, &found);
    ck_assert_str_eq(found, messages);
    free(found);
    return production;
}

static inline struct production *load(const char *path)
{
    struct diagnostics all;
    struct production *production = production_load(path, &all);
    char *text = diagnostics_text(&all);
    ck_assert_msg(production != NULL, "%s:\n%s", path, text);
    free(text);
    diagnostics_done(&all);
    return production;
}

static inline const struct item *find(const struct production *production, const char *id)
{
    const struct item *item = production_find(production, slice_text(id));
    ck_assert_msg(item != NULL, "no item %s", id);
    return item;
}

#endif
