/* The fleet's side of a process with a fake store and queue: what it tells, what it follows, when it works. */
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
static char shapes[256]; /* "A closing, A closed, A open, " */
static bool settled, left;

static void on_production(void *arg)
{
    (void)arg;
    productions++;
}

static void on_shape(void *arg, const char *item_id)
{
    static const char *const words[] = {"open", "closing", "closed"};
    (void)arg;
    size_t len = strlen(shapes);
    snprintf(shapes + len, sizeof(shapes) - len, "%s %s, ", item_id,
             words[fleet_shape(fleet, item_id).stage]);
}

static bool is_settled(void *arg)
{
    (void)arg;
    return settled;
}

static bool has_left(void *arg, const char *item_id)
{
    (void)arg;
    (void)item_id;
    return left;
}

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

static void setup(void)
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
    productions = 0;
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
                                              .is_settled = is_settled,
                                              .on_shape = on_shape,
                                              .has_left = has_left});
}

static void teardown(void)
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

static struct fake_store_call *asked(enum fake_store_op op)
{
    RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0);
    return fake_store_take(&store, op);
}

/* The published form of a file. */
static void published(const char *file, struct buffer *out)
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
static void tell_production(struct fake_store_call *call, int64_t version, const char *file)
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

static void tell_standing(struct fake_store_call *call, int64_t version, int64_t step,
                          int64_t all_applied, const struct store_change *changes, size_t count)
{
    struct store_standing standing = {.version = version,
                                      .step = step,
                                      .all_applied = all_applied,
                                      .changes = changes,
                                      .count = count};
    ((store_attended *)call->done)(call->arg, &fake_ok, &standing);
    free(call);
}

static void lose(struct fake_store_call *call)
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
static void attend(int64_t told_version, int64_t told_step, int64_t version, int64_t step,
                   int64_t all_applied, const struct store_change *change)
{
    struct fake_store_call *call = asked(FAKE_ATTEND);
    ck_assert_str_eq(call->name, "me");
    ck_assert_int_eq(call->number, told_version);
    ck_assert_int_eq(call->step, told_step);
    ck_assert_int_gt(call->ttl_ms, 0);
    tell_standing(call, version, step, all_applied, change, change ? 1 : 0);
}

static void answer_older(const char *item, int64_t version, bool any)
{
    struct fake_store_call *call = asked(FAKE_OLDER);
    ck_assert_str_eq(call->name, item);
    ck_assert_int_eq(call->number, version);
    ((store_older_done *)call->done)(call->arg, &fake_ok, any);
    free(call);
}

static void answer_close(const char *item, int64_t below)
{
    struct fake_store_call *call = asked(FAKE_CLOSE_QUEUE);
    ck_assert_str_eq(call->name, item);
    ck_assert_int_eq(call->number, below);
    fake_store_answer(call, &fake_ok);
}

/* Joins at version 1, whatever it says. */
static void join(const char *file)
{
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 1, file);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet));
}

/* A gauge without labels, as /metrics has it. */
static int gauge(const char *name)
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

/* ---- joining ---- */

START_TEST(joins_and_publishes_first)
{
    ck_assert(!fleet_joined(fleet) && !health_ready(health));
    run_loop_turns(loop);
    ck_assert_uint_eq(fake_store_pending(&store), 0); /* the store is away */
    fleet_links_changed(fleet, false, true);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, -1);
    ck_assert_str_eq(call->name, "me");
    ck_assert_int_eq(memcmp(call->text.ptr, ITEMS A B, sizeof(ITEMS A B) - 1), 0);
    tell_production(call, 1, ITEMS A B);
    ck_assert(!fleet_joined(fleet)); /* it does not know yet whose queues are changing */
    ck_assert_int_eq(productions, 1);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet) && health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert_int_eq(gauge("hie_production_file_differs"), 0);
    ck_assert(fleet_route(fleet, "A", 0) ==
              production_find(fleet_production(fleet), slice_text("A")));
    ck_assert_ptr_null(fleet_route(fleet, "Unknown", 1));
}
END_TEST

START_TEST(the_fleets_version_goes_before_its_own_file)
{
    join(ITEMS A_FIFO B);
    const struct item *item = fleet_route(fleet, "A", 1);
    ck_assert_uint_eq(item->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(gauge("hie_production_file_differs"), 1);
    ck_assert(health_ready(health)); /* it says so, and works */
}
END_TEST

START_TEST(joins_when_the_store_answers)
{
    fleet_links_changed(fleet, true, true);
    lose(asked(FAKE_PUBLISH));
    ck_assert_int_eq(productions, 0);
    tell_production(asked(FAKE_PUBLISH), 3, ITEMS A B);
    lose(asked(FAKE_ATTEND));
    ck_assert(!fleet_joined(fleet));
    attend(3, 0, 3, 0, 3, NULL);
    ck_assert(fleet_joined(fleet));
}
END_TEST

START_TEST(a_version_that_it_cannot_use_keeps_it_out)
{
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 4, "items: [nonsense");
    ck_assert(!fleet_joined(fleet) && !health_ready(health));
    ck_assert_int_eq(productions, 0);
    tell_production(asked(FAKE_PUBLISH), 4, "items: [nonsense"); /* looks on */
    tell_production(asked(FAKE_PUBLISH), 5, ITEMS A);
    attend(5, 0, 5, 0, 5, NULL);
    ck_assert(fleet_joined(fleet) && health_ready(health));
}
END_TEST

/* Between its look at the production and its first attendance another was published, and an item is changing. */
START_TEST(joins_in_the_midst_of_a_change)
{
    struct store_change change = {.item = "A", .version = 7, .last_version = 8, .step = 12};
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 7, ITEMS A_FIFO B);
    attend(7, 0, 8, 13, 6, &change);
    ck_assert(!fleet_joined(fleet));
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 8);
    tell_production(call, 8, ITEMS A_FIFO);
    call = asked(FAKE_PRODUCTION_OF); /* whose queue is being finished */
    ck_assert_int_eq(call->number, 6);
    tell_production(call, 6, ITEMS A B);
    ck_assert(fleet_joined(fleet));
    struct fleet_shape shape = fleet_shape(fleet, "A");
    ck_assert_int_eq(shape.stage, FLEET_CLOSING);
    ck_assert_uint_eq(shape.old->queue_type, QUEUE_UNORDERED);
    ck_assert(fleet_route(fleet, "A", 6) == shape.old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 7));
    ck_assert_str_eq(shapes, "A closing, ");
    attend(8, 13, 8, 13, 8, NULL); /* at once: the others wait for its word */
    ck_assert_str_eq(shapes, "A closing, A open, ");
}
END_TEST

START_TEST(joins_where_an_old_version_is_gone_or_unreadable)
{
    struct store_change changes[] = {{.item = "A", .version = 5, .last_version = 5, .step = 2},
                                     {.item = "B", .version = 7, .last_version = 7, .step = 3}};
    fleet_links_changed(fleet, true, true);
    tell_production(asked(FAKE_PUBLISH), 7, ITEMS A_FIFO B);
    tell_standing(asked(FAKE_ATTEND), 7, 3, 7, changes, 2);
    tell_production(asked(FAKE_PRODUCTION_OF), 4, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 6, "nonsense");
    ck_assert(fleet_joined(fleet));
    ck_assert_int_eq(fleet_shape(fleet, "A").stage, FLEET_CLOSING);
    ck_assert_ptr_null(fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 1));
    ck_assert_ptr_null(fleet_route(fleet, "B", 1));
    attend(7, 3, 7, 3, 7, NULL); /* and does not look itself whether it is finished */
}
END_TEST

/* ---- changes ---- */

START_TEST(settings_change_at_once)
{
    join(ITEMS A B);
    attend(1, 0, 2, 0, 1, NULL);
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 2);
    tell_production(call, 2, ITEMS "  - {id: A, class: Echo, concurrency: 9}\n" B);
    ck_assert_int_eq(productions, 2);
    ck_assert_str_eq(shapes, "");
    ck_assert(!fleet_is_changing(fleet));
    ck_assert_int_eq(fleet_route(fleet, "A", 1)->concurrency, 9);
    settled = false; /* something of version 1 is still in hand */
    attend(1, 0, 2, 0, 1, NULL);
    settled = true;
    attend(2, 0, 2, 0, 2, NULL);
    ck_assert_int_eq(gauge("hie_production_version"), 2);
}
END_TEST

static void change_a(struct store_change *change)
{
    *change = (struct store_change){.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert_str_eq(shapes, "A closing, ");
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_UNORDERED);
}

START_TEST(a_queue_closes_and_opens)
{
    struct store_change change;
    change_a(&change);
    ck_assert(fleet_route(fleet, "A", 1) == fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 2));
    ck_assert_ptr_nonnull(fleet_route(fleet, "B", 2));
    attend(2, 1, 2, 1, 1, &change); /* another process has not applied it: nothing is looked for */
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, true);
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, false);
    answer_close("A", 2);
    change.closed = true;
    change.step = 2;
    attend(2, 1, 2, 2, 2, &change);
    ck_assert_str_eq(shapes, "A closing, A closed, ");
    ck_assert_ptr_null(fleet_route(fleet, "A", 1));
    left = false; /* a claim is under way */
    attend(2, 1, 2, 2, 2, &change);
    left = true;
    attend(2, 2, 2, 2, 2, &change);
    attend(2, 2, 2, 2, 2, NULL);
    ck_assert_str_eq(shapes, "A closing, A closed, A open, ");
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_FIFO);
    ck_assert_int_eq(gauge("hie_queues_changing"), 0);
}
END_TEST

START_TEST(a_look_that_fails_closes_nothing)
{
    struct store_change change;
    change_a(&change);
    attend(2, 1, 2, 1, 2, &change);
    struct fake_store_call *call = asked(FAKE_OLDER);
    attend(2, 1, 2, 1, 2, &change); /* one look at a time */
    ((store_older_done *)call->done)(call->arg, &(const struct err){.code = ERR_UNAVAILABLE},
                                     false);
    free(call);
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, false);
    call = asked(FAKE_CLOSE_QUEUE);
    fake_store_answer(call, &(const struct err){.code = ERR_OUTCOME_UNKNOWN});
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, false);
    answer_close("A", 2);
}
END_TEST

/* What has no rows is in the queue only. */
START_TEST(messages_without_rows_are_waited_for)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A_ALONE B);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    attend(2, 1, 2, 1, 2, &change);
    struct queue_depth depth = {.in_hand = 1};
    answer_older("A", 2, false);
    ck_assert(!fake_store_pending(&store));
    struct fake_queue_call *call = fake_queue_take(&queue, FAKE_DEPTH);
    ck_assert_str_eq(call->name.item, "A");
    ck_assert_int_eq(call->name.type, QUEUE_UNORDERED);
    ((queue_depth_done *)call->done)(call->arg, &fake_ok, &depth);
    free(call);
    attend(2, 1, 2, 1, 2, &change);
    answer_older("A", 2, false);
    depth.in_hand = 0;
    call = fake_queue_take(&queue, FAKE_DEPTH);
    ((queue_depth_done *)call->done)(call->arg, &fake_ok, &depth);
    free(call);
    answer_close("A", 2);
}
END_TEST

START_TEST(an_item_that_is_removed_finishes_first)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS B);
    ck_assert_ptr_nonnull(fleet_route(fleet, "A", 1)); /* what it had */
    ck_assert_ptr_null(fleet_route(fleet, "A", 2));
    attend(2, 1, 2, 1, 2, NULL);
    ck_assert_ptr_null(fleet_route(fleet, "A", 1)); /* it waits until the item is back */
}
END_TEST

/* Two in a row while it is closing: one after the other where something came in between, else at one go. */
START_TEST(two_reloads_in_a_row)
{
    struct store_change change;
    change_a(&change);
    change.last_version = 3;
    change.step = 2;
    attend(2, 1, 3, 2, 2, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 3, ITEMS A B);
    ck_assert_str_eq(shapes, "A closing, "); /* the same change is under way */
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_UNORDERED);
    answer_older("A", 2, false); /* not all know the second yet */
    answer_close("A", 2);
    attend(3, 2, 3, 2, 3, &change);
    answer_older("A", 2, false);
    answer_older("A", 3, true);
    answer_close("A", 2);
    attend(3, 2, 3, 2, 3, &change);
    answer_older("A", 2, false);
    answer_older("A", 3, false);
    answer_close("A", 3);
    /* It was closed below 2 by another process: the next change's turn. */
    change = (struct store_change){.item = "A", .version = 3, .last_version = 3, .step = 4};
    attend(3, 2, 3, 4, 3, &change);
    struct fake_store_call *call = asked(FAKE_PRODUCTION_OF);
    ck_assert_int_eq(call->number, 2);
    tell_production(call, 2, ITEMS A_FIFO B);
    ck_assert_str_eq(shapes, "A closing, A closing, ");
    ck_assert_uint_eq(fleet_shape(fleet, "A").old->queue_type, QUEUE_FIFO);
    ck_assert(fleet_route(fleet, "A", 2) == fleet_shape(fleet, "A").old);
    ck_assert_ptr_null(fleet_route(fleet, "A", 3));
}
END_TEST

START_TEST(a_version_that_it_cannot_use_leaves_it_as_it_was)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, "items: [nonsense");
    ck_assert(fleet_joined(fleet) && !health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert_ptr_nonnull(fleet_route(fleet, "A", 1));
    attend(1, 1, 2, 1, 1, &change); /* is not asked for again */
    attend(1, 1, 3, 2, 1, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 3, ITEMS B);
    ck_assert(health_ready(health));
    ck_assert_int_eq(fleet_production(fleet)->version, 3);
}
END_TEST

START_TEST(a_store_that_goes_away_in_between)
{
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    attend(1, 0, 2, 1, 1, &change);
    lose(asked(FAKE_PRODUCTION_OF));
    ck_assert_int_eq(fleet_production(fleet)->version, 1);
    ck_assert(!fleet_is_changing(fleet)); /* all of it is followed, or nothing */
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert(fleet_is_changing(fleet));
}
END_TEST

/* Silent for nearly as long as its membership lasts: it does not work until it has heard how things stand. */
START_TEST(who_was_silent_joins_anew)
{
    join(ITEMS A B);
    for (int i = 0; i < 12; i++) { /* each a second or so */
        if (!fleet_joined(fleet))
            break;
        lose(asked(FAKE_ATTEND));
    }
    ck_assert(!fleet_joined(fleet));
    struct reconciler_route route = fleet_reconciler_route(fleet);
    ck_assert_ptr_null(route.item(route.arg, "A", 1));
    struct fake_store_call *call = asked(FAKE_ATTEND);
    tell_standing(call, 5, 9, 5, NULL, 0); /* others have been through all of it */
    ck_assert(!fleet_joined(fleet));
    tell_production(asked(FAKE_PRODUCTION_OF), 5, ITEMS A_FIFO B);
    ck_assert(fleet_joined(fleet));
    ck_assert_str_eq(shapes, "");
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_FIFO);
}
END_TEST

START_TEST(another_database_begins_anew)
{
    join(ITEMS A_FIFO B);
    attend(1, 0, 0, 0, 0, NULL);
    ck_assert(!fleet_joined(fleet));
    tell_production(asked(FAKE_PUBLISH), 1, ITEMS A B);
    attend(1, 0, 1, 0, 1, NULL);
    ck_assert(fleet_joined(fleet));
    ck_assert_uint_eq(fleet_route(fleet, "A", 1)->queue_type, QUEUE_UNORDERED);
}
END_TEST

START_TEST(it_leaves)
{
    join(ITEMS A B);
    fleet_leave(fleet);
    struct fake_store_call *call = asked(FAKE_ATTEND);
    ck_assert_int_eq(call->ttl_ms, 0);
    lose(call);
}
END_TEST

/* ---- reload ---- */

struct reloaded {
    int calls;
    struct err err;
    bool refused, changed;
    int64_t version;
    size_t errors;
    char restart_keys[128], first[128];
};

static void on_reloaded(void *arg, const struct err *err, const struct fleet_reloaded *result)
{
    struct reloaded *reloaded = arg;
    reloaded->calls++;
    reloaded->err = *err;
    if (!result)
        return;
    reloaded->refused = result->refused;
    reloaded->changed = result->changed;
    reloaded->version = result->version;
    snprintf(reloaded->restart_keys, sizeof(reloaded->restart_keys), "%.*s",
             (int)result->restart_keys.len,
             result->restart_keys.len ? result->restart_keys.ptr : "");
    if (result->diagnostics) {
        reloaded->errors = result->diagnostics->error_count;
        snprintf(reloaded->first, sizeof(reloaded->first), "%s",
                 result->diagnostics->list[0].message);
    }
}

START_TEST(a_reload_publishes_and_is_in_force)
{
    struct reloaded reloaded = {0};
    struct store_change change = {.item = "A", .version = 2, .last_version = 2, .step = 1};
    join(ITEMS A B);
    write_file("worker: {drain_timeout: 7000, listen: '127.0.0.1:9999'}\n" ITEMS A_FIFO B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    ck_assert_int_eq(reloaded.calls, 0);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 1);
    ck_assert(slice_is(call->changed, "A"));
    struct store_production told = {.version = 2, .text = call->text, .hash = call->hash};
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    free(call);
    ck_assert_int_eq(reloaded.calls, 0);
    attend(1, 0, 2, 1, 1, &change);
    tell_production(asked(FAKE_PRODUCTION_OF), 2, ITEMS A_FIFO B);
    ck_assert_int_eq(reloaded.calls, 1);
    ck_assert_int_eq(reloaded.err.code, ERR_NONE);
    ck_assert(reloaded.changed && !reloaded.refused && reloaded.version == 2);
    ck_assert_ptr_nonnull(strstr(reloaded.restart_keys, "worker.listen"));
}
END_TEST

START_TEST(the_same_file_changes_nothing)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_uint_eq(call->changed.len, 0);
    tell_production(call, 1, ITEMS A B);
    ck_assert_int_eq(reloaded.calls, 1);
    ck_assert(!reloaded.changed && reloaded.version == 1);
    ck_assert_str_eq(reloaded.restart_keys, "");
}
END_TEST

/* Somebody else published meanwhile: what changes is seen against that. */
START_TEST(another_was_faster)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS A_FIFO B);
    fleet_reload(fleet, on_reloaded, &reloaded);
    tell_production(asked(FAKE_PUBLISH), 2, ITEMS A_FIFO);
    struct fake_store_call *call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 2);
    ck_assert_uint_eq(call->changed.len, 0); /* B is new */
    tell_production(call, 3, ITEMS "  - {id: C, class: Echo}\n");
    call = asked(FAKE_PUBLISH);
    ck_assert_int_eq(call->number, 3);
    ck_assert(slice_is(call->changed, "C"));
    tell_production(call, 4, ITEMS A_FIFO B);
    attend(1, 0, 4, 0, 1, NULL);
    tell_production(asked(FAKE_PRODUCTION_OF), 4, ITEMS A_FIFO B);
    ck_assert(reloaded.calls == 1 && reloaded.changed && reloaded.version == 4);
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS "  - {id: A, class: Echo, concurrency: 0}\n  - {id: A, class: None}\n");
    fleet_reload(fleet, on_reloaded, &reloaded);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 1);
    ck_assert(reloaded.refused && reloaded.version == 1 && reloaded.errors >= 2);
    ck_assert_ptr_nonnull(strstr(reloaded.first, "concurrency"));
    unlink(path);
    fleet_reload(fleet, on_reloaded, &reloaded);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 2);
    ck_assert(reloaded.refused && reloaded.errors == 1);
    ck_assert_ptr_nonnull(strstr(reloaded.first, "cannot be read"));
    ck_assert_int_eq(productions, 1);
}
END_TEST

START_TEST(a_reload_that_cannot_be)
{
    struct reloaded reloaded = {0}, second = {0};
    fleet_reload(fleet, on_reloaded, &reloaded);
    fleet_reload(fleet, on_reloaded, &second);
    ck_assert(second.calls == 1 && second.err.code == ERR_UNAVAILABLE);
    RUN_LOOP_UNTIL(loop, reloaded.calls == 1);
    ck_assert_int_eq(reloaded.err.code, ERR_UNAVAILABLE); /* the store is away */
    join(ITEMS A B);
    write_file(ITEMS A);
    fleet_reload(fleet, on_reloaded, &reloaded);
    lose(asked(FAKE_PUBLISH));
    ck_assert(reloaded.calls == 2 && reloaded.err.code == ERR_UNAVAILABLE);
    fleet_reload(fleet, on_reloaded, &reloaded);
    free(asked(FAKE_PUBLISH)); /* never answered: the process ends */
    fleet = fleet_free(fleet);
    ck_assert(reloaded.calls == 3 && reloaded.err.code == ERR_UNAVAILABLE);
}
END_TEST

/* It is published; that it is in force here is not waited for without end. */
START_TEST(a_reload_is_answered_in_bounded_time)
{
    struct reloaded reloaded = {0};
    join(ITEMS A B);
    write_file(ITEMS A);
    fleet_reload(fleet, on_reloaded, &reloaded);
    tell_production(asked(FAKE_PUBLISH), 2, ITEMS A);
    for (int i = 0; i < 12 && !reloaded.calls; i++) {
        RUN_LOOP_UNTIL(loop, fake_store_pending(&store) > 0 || reloaded.calls);
        if (fake_store_pending(&store))
            lose(fake_store_take(&store, FAKE_ATTEND));
    }
    ck_assert(reloaded.calls == 1 && reloaded.err.code == ERR_NONE && reloaded.version == 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fleet");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_test(all, joins_and_publishes_first);
    tcase_add_test(all, the_fleets_version_goes_before_its_own_file);
    tcase_add_test(all, joins_when_the_store_answers);
    tcase_add_test(all, a_version_that_it_cannot_use_keeps_it_out);
    tcase_add_test(all, joins_in_the_midst_of_a_change);
    tcase_add_test(all, joins_where_an_old_version_is_gone_or_unreadable);
    tcase_add_test(all, settings_change_at_once);
    tcase_add_test(all, a_queue_closes_and_opens);
    tcase_add_test(all, a_look_that_fails_closes_nothing);
    tcase_add_test(all, messages_without_rows_are_waited_for);
    tcase_add_test(all, an_item_that_is_removed_finishes_first);
    tcase_add_test(all, two_reloads_in_a_row);
    tcase_add_test(all, a_version_that_it_cannot_use_leaves_it_as_it_was);
    tcase_add_test(all, a_store_that_goes_away_in_between);
    tcase_add_test(all, who_was_silent_joins_anew);
    tcase_add_test(all, another_database_begins_anew);
    tcase_add_test(all, it_leaves);
    tcase_add_test(all, a_reload_publishes_and_is_in_force);
    tcase_add_test(all, the_same_file_changes_nothing);
    tcase_add_test(all, another_was_faster);
    tcase_add_test(all, what_is_wrong_is_refused);
    tcase_add_test(all, a_reload_that_cannot_be);
    tcase_add_test(all, a_reload_is_answered_in_bounded_time);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
