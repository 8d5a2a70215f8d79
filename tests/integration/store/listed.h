/* Unfinished messages as a test gets them: copies of what the store's completions lend. */
#ifndef HIE_TESTS_STORE_LISTED_H
#define HIE_TESTS_STORE_LISTED_H

#include "harness.h"

#define LISTED_MAX 64

struct listed {
    int calls;
    struct err err;
    size_t count;
    struct uuid ids[LISTED_MAX];
    int64_t seqs[LISTED_MAX], due_ms[LISTED_MAX];
    uint64_t body_lens[LISTED_MAX];
    size_t inline_lens[LISTED_MAX];
    char items[LISTED_MAX][20], keys[LISTED_MAX][20];
    int partitions[LISTED_MAX];
    int64_t versions[LISTED_MAX];
    int64_t next_seq;
    bool end;
};

static inline void on_rows(void *arg, const struct err *err, const struct store_unfinished *rows,
                           size_t count)
{
    struct listed *listed = arg;
    listed->calls++;
    listed->err = *err;
    listed->count = count;
    ck_assert_uint_le(count, LISTED_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct store_message *m = &rows[i].message;
        listed->ids[i] = m->id;
        listed->seqs[i] = m->seq;
        listed->due_ms[i] = m->due_ms;
        listed->body_lens[i] = rows[i].body_len;
        listed->partitions[i] = m->partition;
        listed->versions[i] = m->version;
        listed->inline_lens[i] = m->body.len;
        snprintf(listed->items[i], sizeof(listed->items[i]), "%s", m->item);
        snprintf(listed->keys[i], sizeof(listed->keys[i]), "%.*s", (int)m->ordering_key.len,
                 m->ordering_key.len ? m->ordering_key.ptr : "");
    }
}

static inline void on_page(void *arg, const struct err *err, const struct store_unfinished *rows,
                           size_t count, int64_t next_seq, bool end)
{
    struct listed *listed = arg;
    listed->next_seq = next_seq;
    listed->end = end;
    on_rows(arg, err, rows, count);
}

static inline struct listed page_of(struct fixture *f, int64_t after, size_t limit)
{
    struct listed listed = {0};
    CALL(f, listed, unfinished, after, limit, on_page);
    ck_assert_int_eq(listed.err.code, ERR_NONE);
    return listed;
}

#endif
