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

#endif
