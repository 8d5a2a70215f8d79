/* A fleet with a fake store and queue. */
#ifndef HIE_TESTS_FLEET_FIXTURE_H
#define HIE_TESTS_FLEET_FIXTURE_H

#include "store/fleet.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"

#include <check.h>
#include <stdio.h>
#include <unistd.h>

#define A "  - {id: A, class: Echo, queue_type: unordered}\n"
#define A_FIFO "  - {id: A, class: Echo, queue_type: fifo, partitions: 3}\n"
#define A_ALONE "  - {id: A, class: Echo, persistence: {mode: none}, queue_type: unordered}\n"
#define B "  - {id: B, class: Echo}\n"
#define ITEMS "items:\n"

static struct loop *loop;
static struct metrics *metrics;
static struct health *health;
static struct fake_store store;
static struct fake_queue queue;
static struct production *own;
static struct fleet *fleet;
static char path[64];
static int productions;  /* times that on_production was called */
static int sections;     /* … and on_section */
static char shapes[256]; /* "A closing, A closed, A open, " */
static bool settled, left;

static inline void on_production(void *arg)
{
    (void)arg;
    productions++;
}

static inline void on_section(void *arg)
{
    (void)arg;
    sections++;
}

static inline void on_shape(void *arg, const char *item_id)
{
    static const char *const words[] = {"open", "closing", "closed"};
    (void)arg;
    size_t len = strlen(shapes);
    snprintf(shapes + len, sizeof(shapes) - len, "%s %s, ", item_id,
             words[fleet_shape(fleet, item_id).stage]);
}

static inline bool is_settled(void *arg)
{
    (void)arg;
    return settled;
}

static inline bool has_left(void *arg, const char *item_id)
{
    (void)arg;
    (void)item_id;
    return left;
}

static inline void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

static inline void setup(void)
{
    struct diagnostics diagnostics;
    snprintf(path, sizeof(path), "/tmp/hie-fleet-%d.yaml", (int)getpid());
    write_file(ITEMS A B);
    own = production_load(path, &diagnostics);
    ck_assert_uint_eq(diagnostics.error_count, 0);
    diagnostics_done(&diagnostics);
    loop = loop_new();
    metrics = metrics_new();
    health = health_new(metrics);
    fake_store_init(&store);
    fake_queue_init(&queue);
    productions = sections = 0;
    shapes[0] = '\0';
    settled = left = true;
    fleet = fleet_new(&(struct fleet_options){.loop = loop,
                                              .queue = &queue.queue,
                                              .store = &store.store,
                                              .id = "me",
                                              .kind = "worker",
                                              .path = path,
                                              .own = own,
                                              .health = health,
                                              .metrics = metrics,
                                              .on_production = on_production,
                                              .on_section = on_section,
                                              .is_settled = is_settled,
                                              .on_shape = on_shape,
                                              .has_left = has_left});
}

static inline void teardown(void)
{
    fake_queue_end(&queue); /* its calls are answered when it is freed; the store's are not */
    while (!TAILQ_EMPTY(&store.calls)) {
        struct fake_store_call *call = TAILQ_FIRST(&store.calls);
        TAILQ_REMOVE(&store.calls, call, link);
        free(call);
    }
    fleet_free(fleet);
    production_free(own);
    health_free(health);
    metrics_free(metrics);
    loop_free(loop);
    unlink(path);
}

/* ---- what the store is asked, and answers ---- */

static inline struct fake_store_call *asked(enum fake_store_op op)
{
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    return fake_store_take(&store, op);
}

/* The published form of a file. */
static inline void published(const char *file, struct buffer *out)
{
    struct diagnostics diagnostics;
    struct production *production = production_parse(slice_text(file), &diagnostics);
    ck_assert_uint_eq(diagnostics.error_count, 0);
    diagnostics_done(&diagnostics);
    buffer_init(out, PRODUCTION_TEXT_MAX);
    production_publishable(production, slice_text(file), out);
    production_free(production);
}

/* The answer to publish and production_of. `file` NULL: there is no such version; not a file: what it says, as it is. */
static inline void tell_production(struct fake_store_call *call, int64_t version, const char *file)
{
    struct store_production told = {.version = file ? version : 0};
    struct buffer text;
    char hash[PRODUCTION_HASH_SIZE];
    buffer_init(&text, PRODUCTION_TEXT_MAX);
    if (file && strncmp(file, ITEMS, 7) == 0)
        published(file, &text);
    else if (file)
        buffer_append(&text, file, strlen(file));
    production_hash(buffer_slice(&text), hash);
    told.text = buffer_slice(&text);
    told.hash = slice_text(hash);
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    free(call);
    buffer_done(&text);
}

static inline void tell_standing(struct fake_store_call *call, int64_t version, int64_t step,
                                 int64_t all_applied, const struct store_change *changes,
                                 size_t count)
{
    struct store_standing standing = {.version = version,
                                      .step = step,
                                      .all_applied = all_applied,
                                      .changes = changes,
                                      .count = count};
    ((store_attended *)call->done)(call->arg, &fake_ok, &standing);
    free(call);
}

static inline void lose(struct fake_store_call *call)
{
    static const struct store_production none = {.version = 0};
    static const struct store_standing nowhere = {.version = 0};
    static const struct err away = {.code = ERR_UNAVAILABLE, .text = "away"};
    if (call->op == FAKE_ATTEND)
        ((store_attended *)call->done)(call->arg, &away, &nowhere);
    else
        ((store_production_done *)call->done)(call->arg, &away, &none);
    free(call);
}

/* An attendance that is answered. */
static inline void attend(int64_t told_version, int64_t told_step, int64_t version, int64_t step,
                          int64_t all_applied, const struct store_change *change)
{
    struct fake_store_call *call = asked(FAKE_ATTEND);
    ck_assert_str_eq(call->name, "me");
    ck_assert_int_eq(call->number, told_version);
    ck_assert_int_eq(call->step, told_step);
    ck_assert_int_gt(call->ttl_ms, 0);
    tell_standing(call, version, step, all_applied, change, change ? 1 : 0);
}

/* `seq` 0: there is none. */
static inline void answer_older(const char *item, int64_t version, int64_t seq)
{
    struct fake_store_call *call = asked(FAKE_OLDER);
    ck_assert_str_eq(call->name, item);
    ck_assert_int_eq(call->number, version);
    ((store_older_done *)call->done)(call->arg, &fake_ok, seq);
    free(call);
}

static inline void answer_depth(const char *item, struct queue_depth depth)
{
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_DEPTH);
    ck_assert_str_eq(call->name.item, item);
    ck_assert_int_eq(call->name.type, QUEUE_UNORDERED);
    ((queue_depth_done *)call->done)(call->arg, &fake_ok, &depth);
    free(call);
}

static inline void answer_empty(const char *item)
{
    answer_depth(item, (struct queue_depth){0});
}

static inline void answer_close(const char *item, int64_t below)
{
    struct fake_store_call *call = asked(FAKE_CLOSE_QUEUE);
    ck_assert_str_eq(call->name, item);
    ck_assert_int_eq(call->number, below);
    fake_store_answer(call, &fake_ok);
}

/* Joins at version 1, whatever it says. */
static inline void join(const char *file)
{
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 1, file);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet));
}

/* A gauge without labels, as /metrics has it. */
static inline int gauge(const char *name)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_print(metrics, &text);
    buffer_append_byte(&text, '\0');
    char line[96];
    snprintf(line, sizeof(line), "\n%s ", name);
    const char *at = strstr(text.data, line);
    ck_assert_msg(at != NULL, "there is no %s", name);
    int value = atoi(at + strlen(line));
    buffer_done(&text);
    return value;
}

static inline int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
