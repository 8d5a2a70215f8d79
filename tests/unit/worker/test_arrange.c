/* Which lanes a worker has through reloads, with a real fleet over a fake store and queue. */
#include "arrange.h"

#include "base/log.h"
#include "fake_queue.h"
#include "fake_store.h"
#include "run_loop.h"
#include "worker.h"

#include <check.h>
#include <stdio.h>
#include <unistd.h>

#define B "  - {id: B, class: Echo, queue_type: unordered}\n"
#define PLAIN                                                                                      \
    "  - {id: A, class: Echo, queue_type: unordered, settings: {delay: 60000}, timeout: 90000}\n"
#define OTHERWISE "  - {id: A, class: Echo, queue_type: unordered, concurrency: 7}\n"
#define SLOWLY                                                                                     \
    "  - {id: A, class: Echo, queue_type: unordered, concurrency: 3, settings: {delay: 60000},\n"     \
    "     timeout: 90000}\n"
#define ROUTES                                                                                     \
    "  - {id: R, class: HL7RoutingEngine, queue_type: unordered, persistence: {mode: none},\n"        \
    "     settings: {default: A}}\n"
#define DISABLED "  - {id: A, class: Echo, queue_type: unordered, enabled: false}\n"
#define LIFO "  - {id: A, class: Echo, queue_type: lifo}\n"
#define FIFO "  - {id: A, class: Echo, queue_type: fifo, partitions: 2}\n"
#define FIFO_OTHERWISE "  - {id: A, class: Echo, queue_type: fifo, partitions: 2, concurrency: 7}\n"

static struct worker worker;
static struct fake_store store;
static struct fake_queue queue;
static struct production *own;
static char path[64];
static int64_t version;       /* that was published last */
static const char *texts[16]; /* by version */
static struct store_change changes[4];
static size_t change_count;
static int64_t step;

/* ---- the store, as far as the fleet is concerned ---- */

static void tell_production(struct fake_store_call *call, int64_t told_version)
{
    struct diagnostics diagnostics;
    struct buffer text;
    char hash[PRODUCTION_HASH_SIZE];
    const char *file = texts[told_version];
    ck_assert_ptr_nonnull(file);
    buffer_init(&text, PRODUCTION_TEXT_MAX);
    struct production *production = production_parse(slice_text(file), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    production_publishable(production, slice_text(file), &text);
    production_free(production);
    production_hash(buffer_slice(&text), hash);
    struct store_production told = {
        .version = told_version, .text = buffer_slice(&text), .hash = slice_text(hash)};
    ((store_production_done *)call->done)(call->arg, &fake_ok, &told);
    buffer_done(&text);
}

static void tell_standing(struct fake_store_call *call)
{
    struct store_standing standing = {.version = version,
                                      .step = step,
                                      .all_applied =
                                          version - 1, /* so that nothing is looked for */
                                      .changes = changes,
                                      .count = change_count};
    ((store_attended *)call->done)(call->arg, &fake_ok, &standing);
}

/* Of a fifo item: all that is asked for is granted. */
static void tell_owned(struct fake_store_call *call)
{
    struct store_owned owned[8];
    size_t count = 0;
    for (size_t i = 0; i < call->count; i++) {
        for (unsigned n = 0; n < call->shares[i].partitions; n++)
            owned[count++] = (struct store_owned){.item = call->shares[i].item,
                                                  .pattern = call->shares[i].pattern,
                                                  .partition = n,
                                                  .token = 100 + n};
    }
    ((store_owned_done *)call->done)(call->arg, &fake_ok, owned, count);
}

/* Answers what the fleet and the leases ask; leaves the rest to the test. */
static void answer_fleet(void)
{
    struct fake_store_call *call, *next;
    run_loop_turns(worker.loop);
    for (call = TAILQ_FIRST(&store.calls); call; call = next) {
        next = TAILQ_NEXT(call, link);
        bool ours = call->op == FAKE_PUBLISH || call->op == FAKE_PRODUCTION_OF ||
                    call->op == FAKE_ATTEND || call->op == FAKE_OWN || call->op == FAKE_DISOWN ||
                    call->op == FAKE_EARLIER;
        if (!ours)
            continue;
        TAILQ_REMOVE(&store.calls, call, link);
        if (call->op == FAKE_ATTEND)
            tell_standing(call);
        else if (call->op == FAKE_EARLIER)
            ((store_earlier_done *)call->done)(call->arg, &fake_ok, NULL, 0, false, 0);
        else if (call->op == FAKE_OWN)
            tell_owned(call);
        else if (call->op == FAKE_DISOWN)
            ((store_done *)call->done)(call->arg, &fake_ok);
        else
            tell_production(call, call->op == FAKE_PUBLISH ? version : call->number);
        free(call);
        next = TAILQ_FIRST(&store.calls);
    }
}

/* Claims that are under way are answered: there is nothing. */
static void answer_claims(void)
{
    struct fake_queue_call *call;
    run_loop_turns(worker.loop);
    while ((call = fake_queue_find(&queue, FAKE_QUEUE_CLAIM)) ||
           (call = fake_queue_find(&queue, FAKE_INHERIT)) ||
           (call = fake_queue_find(&queue, FAKE_TAKEOVER)))
        fake_queue_answer_claim(call, NULL, 0);
    while ((call = fake_queue_find(&queue, FAKE_PROMOTE))) {
        ((queue_promoted *)call->done)(call->arg, &fake_ok, 0, -1);
        free(call);
    }
}

#define ANSWER_ALL_UNTIL(condition)                                                                \
    do {                                                                                           \
        int64_t until_ms_ = clock_mono_ms() + 10000;                                               \
        while (!(condition) && clock_mono_ms() < until_ms_) {                                      \
            answer_claims();                                                                       \
            answer_fleet();                                                                        \
        }                                                                                          \
        ck_assert_msg((condition), "never came true: %s", #condition);                             \
    } while (0)

#define ANSWER_UNTIL(condition)                                                                    \
    do {                                                                                           \
        int64_t until_ms_ = clock_mono_ms() + 10000;                                               \
        while (!(condition) && clock_mono_ms() < until_ms_)                                        \
            answer_fleet();                                                                        \
        ck_assert_msg((condition), "never came true: %s", #condition);                             \
    } while (0)

static enum fleet_stage stage_of(const char *id)
{
    return fleet_shape(worker.fleet, id).stage;
}

/* Publishes the next version; `changes_a`: with it A's queue begins to change. */
static void publish(const char *text, bool changes_a)
{
    texts[++version] = text;
    if (changes_a && change_count == 0)
        changes[change_count++] = (struct store_change){.item = "A", .version = version};
    if (changes_a) {
        changes[0].last_version = version;
        changes[0].step = ++step;
    }
    ANSWER_UNTIL(fleet_production(worker.fleet)->version == version &&
                 (!changes_a || stage_of("A") != FLEET_OPEN));
}

static void close_a(void)
{
    changes[0].closed = true;
    changes[0].step = ++step;
    ANSWER_UNTIL(stage_of("A") == FLEET_CLOSED);
}

static void open_a(void)
{
    change_count = 0;
    ANSWER_UNTIL(stage_of("A") == FLEET_OPEN);
}

/* ---- set-up ---- */

static void on_production(void *arg)
{
    arrange_production(arg);
}

static bool is_settled(void *arg)
{
    (void)arg;
    return true;
}

static void on_shape(void *arg, const char *item_id)
{
    arrange_item(arg, item_id);
}

static bool has_left(void *arg, const char *item_id)
{
    return arrange_has_left(arg, item_id);
}

static void start_fleet(void)
{
    worker.fleet = fleet_new(&(struct fleet_options){.loop = worker.loop,
                                                     .queue = &queue.queue,
                                                     .store = &store.store,
                                                     .id = worker.id,
                                                     .kind = "worker",
                                                     .path = path,
                                                     .own = own,
                                                     .health = worker.health,
                                                     .metrics = worker.metrics,
                                                     .on_production = on_production,
                                                     .is_settled = is_settled,
                                                     .on_shape = on_shape,
                                                     .has_left = has_left,
                                                     .arg = &worker});
}

static void start_worker(void)
{
    struct err err;
    worker = (struct worker){.production = production_ref(own),
                             .id = "test",
                             .loop = loop_new(),
                             .metrics = metrics_new(),
                             .queue = &queue.queue,
                             .store = &store.store};
    worker.env.handler.loop = worker.loop;
    worker.health = health_new(worker.metrics);
    worker.look_up_trouble.what = "look_up";
    worker.settle_trouble.what = "settle";
    worker.publish_trouble.what = "publish";
    TAILQ_INIT(&worker.fetch_waiting);
    settler_init(&worker.settler, worker.loop, &store.store);
    ownership_init(&worker.ownership, &worker);
    start_fleet();
    worker.queue_up = worker.store_up = true;
    ck_assert_int_eq(arrange_init(&worker, &err), 0);
    settler_store_changed(&worker.settler, true);
    fleet_links_changed(worker.fleet, true, true);
}

static void setup(void)
{
    struct diagnostics diagnostics;
    snprintf(path, sizeof(path), "/tmp/hie-arrange-%d.yaml", (int)getpid());
    own = production_parse(SLICE_LITERAL("items:\n" PLAIN B), &diagnostics);
    ck_assert_uint_eq(diagnostics.error_count, 0);
    diagnostics_done(&diagnostics);
    fake_store_init(&store);
    fake_queue_init(&queue);
    change_count = 0;
    step = 0;
    version = 1;
    texts[1] = "items:\n" PLAIN B;
    start_worker();
    ANSWER_UNTIL(fleet_joined(worker.fleet));
}

static void teardown(void)
{
    worker.draining = worker.stopped = true;
    struct fake_store_call *call;
    fake_queue_end(&queue);
    while ((call = TAILQ_FIRST(&store.calls))) {
        TAILQ_REMOVE(&store.calls, call, link);
        free(call);
    }
    arrange_done(&worker);
    fleet_free(worker.fleet);
    ownership_done(&worker.ownership);
    settler_done(&worker.settler);
    health_free(worker.health);
    metrics_free(worker.metrics);
    loop_free(worker.loop);
    production_free(worker.production);
    production_free(own);
}

static size_t lanes_of(const char *id)
{
    size_t count = 0;
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker.all_lanes, in_worker)
    {
        count += strcmp(lane->item->id, id) == 0;
    }
    return count;
}

static struct lane *current(const char *id)
{
    return worker_lane(&worker, id);
}

/* Another lane of the item than today's, not retiring. */
static struct lane *other(const char *id)
{
    struct lane *lane;
    TAILQ_FOREACH(lane, &worker.all_lanes, in_worker)
    {
        if (strcmp(lane->item->id, id) == 0 && lane != current(id) && !lane->retiring)
            return lane;
    }
    return NULL;
}

/* Puts one message into the hand of an unordered lane, whose handler then runs. */
static void take_one(const char *id)
{
    struct uuid uuid = uuid_new(1);
    struct fake_queue_call *call, *found = NULL;
    lane_wake(current(id), 0);
    run_loop_turns(worker.loop);
    while ((call = fake_queue_find(&queue, FAKE_QUEUE_CLAIM))) {
        if (!found && strcmp(call->name.item, id) == 0)
            found = call;
        else
            fake_queue_answer_claim(call, NULL, 0);
    }
    ck_assert_ptr_nonnull(found);
    fake_queue_answer_claim(found, &uuid, 1);
    run_loop_turns(worker.loop);
    struct fake_store_call *look_up;
    TAILQ_FOREACH(look_up, &store.calls, link)
    {
        if (look_up->op == FAKE_CLAIM)
            break;
    }
    ck_assert_ptr_nonnull(look_up);
    TAILQ_REMOVE(&store.calls, look_up, link);
    look_up->claims[0].known = true;
    look_up->claims[0].run = look_up->claims[0].attempt = 1;
    fake_store_answer(look_up, &fake_ok);
    run_loop_turns(worker.loop);
    ck_assert_uint_eq(current(id)->running_count, 1);
}

/* ---- tests ---- */

START_TEST(an_item_left_as_it_was_keeps_its_lane)
{
    struct lane *a = current("A"), *b = current("B");
    ck_assert(a->open && b->open);
    publish("items:\n" OTHERWISE B, false);
    ck_assert_ptr_eq(current("B"), b);
    ck_assert_ptr_ne(current("A"), a);
    ck_assert_int_eq(current("A")->item->concurrency, 7);
    ck_assert(current("A")->open && a->retiring && !a->open);
    answer_claims();
    ANSWER_ALL_UNTIL(lanes_of("A") == 1);
}
END_TEST

START_TEST(a_lane_stays_for_what_it_holds)
{
    struct lane *a = current("A");
    take_one("A");
    publish("items:\n" OTHERWISE B, false);
    answer_claims();
    int64_t until_ms = clock_mono_ms() + 400;
    while (clock_mono_ms() < until_ms) {
        answer_claims();
        answer_fleet();
    }
    ck_assert_uint_eq(lanes_of("A"), 2);
    ck_assert_uint_eq(a->running_count, 1);
    publish("items:\n" B, true); /* the item is removed: that is finished, too */
    ck_assert_ptr_null(current("A"));
    ck_assert_uint_eq(a->running_count, 1);
    lane_give_up(a);
    ANSWER_UNTIL(fake_queue_find(&queue, FAKE_HAND_BACK) != NULL || a->held == 0 ||
                 a->running_count == 0);
}
END_TEST

static struct fake_queue_call *claim_for(const char *id)
{
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &queue.calls, link)
    {
        if (call->op == FAKE_QUEUE_CLAIM && strcmp(call->name.item, id) == 0)
            break;
    }
    return call;
}

static bool in_flight_of_a_is(int count)
{
    struct buffer out;
    char line[100];
    snprintf(line, sizeof(line), "hie_in_flight{item=\"A\",pattern=\"async_reliable\"} %d\n", count);
    buffer_init(&out, 1u << 20);
    metrics_print(worker.metrics, &out);
    buffer_append_byte(&out, '\0');
    bool found = strstr(out.data, line) != NULL;
    buffer_done(&out);
    return found;
}

START_TEST(in_flight_is_that_of_both_lanes)
{
    struct lane *a = current("A");
    take_one("A");
    publish("items:\n" SLOWLY B, false);
    answer_claims();
    take_one("A");
    ck_assert(in_flight_of_a_is(2));
    lane_give_up(a);
    ck_assert(in_flight_of_a_is(1));
}
END_TEST

START_TEST(concurrency_counts_what_the_lane_before_still_runs)
{
    struct lane *a = current("A");
    take_one("A");
    publish("items:\n" SLOWLY B, false);
    answer_claims(); /* of both lanes */
    ANSWER_UNTIL(claim_for("A"));
    ck_assert_uint_eq(claim_for("A")->count, 2);
    answer_claims();
    lane_give_up(a);
    run_loop_turns(worker.loop);
    ck_assert_uint_eq(a->running_count, 0);
    lane_wake(current("A"), 0);
    ANSWER_UNTIL(claim_for("A"));
    ck_assert_uint_eq(claim_for("A")->count, 3);
}
END_TEST

START_TEST(a_queue_that_changes)
{
    struct lane *plain = current("A");
    publish("items:\n" LIFO B, true);
    ck_assert_int_eq(stage_of("A"), FLEET_CLOSING);
    struct lane *lifo = current("A");
    ck_assert(other("A") == plain && plain->open && !lifo->open);
    ck_assert_int_eq(plain->below_version, 2);
    ck_assert_ptr_eq(worker_route(&worker, "A", 1), plain);
    ck_assert_ptr_null(worker_route(&worker, "A", 2));
    run_loop_turns(worker.loop); /* a claim is under way */
    lane_wake(plain, 0);
    run_loop_turns(worker.loop);
    ck_assert(!arrange_has_left(&worker, "A"));
    close_a();
    ck_assert(plain->retiring && !plain->open && !lifo->open);
    ck_assert_ptr_null(worker_route(&worker, "A", 1));
    ck_assert(!arrange_has_left(&worker, "A"));
    ANSWER_ALL_UNTIL(arrange_has_left(&worker, "A"));
    ANSWER_ALL_UNTIL(lanes_of("A") == 1);
    open_a();
    ck_assert(lifo->open && lifo->below_version == 0);
    ck_assert_ptr_eq(worker_route(&worker, "A", 1), lifo);
}
END_TEST

/* Lets R have one message; what it then does. */
static struct fake_queue_call *route_one(enum fake_queue_op op)
{
    struct uuid id = uuid_new(1);
    struct fake_queue_call *call;
    answer_claims();
    lane_wake(current("R"), 0);
    ANSWER_UNTIL(call = claim_for("R"));
    TAILQ_REMOVE(&queue.calls, call, link);
    fake_queue_answer_claim(call, &id, 1);
    run_loop_turns(worker.loop);
    return fake_queue_take(&queue, op);
}

START_TEST(what_has_no_row_waits_for_the_queue_it_goes_into)
{
    publish("items:\n" PLAIN ROUTES B, false);
    publish("items:\n" LIFO ROUTES B, true);
    struct fake_queue_call *retry = route_one(FAKE_RETRY);
    ck_assert_int_eq(retry->retries[0].attempts, 1);
    fake_queue_answer(retry, &fake_ok);
    close_a();
    fake_queue_answer(route_one(FAKE_RETRY), &fake_ok);
    open_a();
    struct fake_queue_call *enqueue = route_one(FAKE_ENQUEUE);
    ck_assert_int_eq(enqueue->name.type, QUEUE_LIFO);
    fake_queue_answer_depth(enqueue, &fake_ok, 1);
}
END_TEST

START_TEST(settings_of_a_queue_that_is_closing)
{
    publish("items:\n" LIFO B, true);
    struct lane *lifo = current("A"), *plain = other("A");
    publish("items:\n  - {id: A, class: Echo, queue_type: lifo, concurrency: 9}\n" B, false);
    ck_assert_ptr_ne(current("A"), lifo);
    ck_assert(lifo->retiring && other("A") == plain && plain->open && !current("A")->open);
    publish("items:\n" OTHERWISE B,
            true); /* back to the queue that is being finished, by the new settings */
    ck_assert(current("A")->open && current("A")->below_version == 2);
    ck_assert_int_eq(current("A")->item->concurrency, 7);
    ck_assert(plain->retiring);
}
END_TEST

/* It joined, or was restarted, in the midst: the lane of before is made anew. */
START_TEST(a_change_that_is_under_way)
{
    publish("items:\n" LIFO B, true);
    publish("items:\n" LIFO B "  - {id: C, class: Echo}\n", false);
    changes[0].version =
        3; /* the store moved on: now what came below 3 is finished, in the queue of 2 */
    changes[0].step = ++step;
    ANSWER_UNTIL(fleet_shape(worker.fleet, "A").version == 3);
    ck_assert(current("A")->open && current("A")->below_version == 3);
    ck_assert_ptr_eq(worker_route(&worker, "A", 2), current("A"));
    ck_assert_ptr_null(other("A"));
}
END_TEST

START_TEST(a_fifo_lane_opens_when_the_one_before_is_gone)
{
    publish("items:\n" FIFO B, true);
    close_a();
    answer_claims();
    open_a();
    ANSWER_ALL_UNTIL(lanes_of("A") == 1);
    struct lane *first = current("A");
    ANSWER_UNTIL(first->open && lane_has_parts(first));
    publish("items:\n" FIFO_OTHERWISE B, false);
    struct lane *second = current("A");
    ck_assert(first->retiring && !second->open);
    struct fake_queue_call *inherit = fake_queue_take(&queue, FAKE_INHERIT); /* which holds it up */
    answer_claims();
    answer_fleet();
    ck_assert(!second->open);
    fake_queue_answer_claim(inherit, NULL, 0);
    ANSWER_ALL_UNTIL(second->open && lane_has_parts(second));
    ck_assert_uint_eq(lanes_of("A"), 1);
}
END_TEST

START_TEST(a_removed_item_comes_back)
{
    publish("items:\n" B, true);
    ck_assert_str_eq(worker.item_names, "B");
    ck_assert(!current("A") && other("A")->open);
    close_a();
    open_a();
    ANSWER_ALL_UNTIL(lanes_of("A") == 0);
    publish("items:\n" LIFO B, false);
    ck_assert(current("A")->open);
    ck_assert_str_eq(worker.item_names, "A,B");
}
END_TEST

/* As many as a file may have: the list of their names, in the log and in heartbeats, is cut. */
START_TEST(items_without_number)
{
    struct buffer text;
    buffer_init(&text, 1u << 20);
    buffer_append_text(&text, "items:\n");
    for (int i = 0; i < 1100; i++)
        buffer_printf(&text, "  - {id: %064d, class: Echo, queue_type: unordered}\n", i);
    buffer_append_byte(&text, '\0');
    publish(text.data, false);
    size_t len = strlen(worker.item_names);
    ck_assert_uint_lt(len, 64 * 1024);
    ck_assert_str_eq(worker.item_names + len - 4, ",...");
    log_info("items", LOG_WORD("items", worker.item_names));
    publish("items:\n" PLAIN B, false);
    buffer_done(&text);
}
END_TEST

START_TEST(a_disabled_item_is_finished_once_its_next_one_is_enabled)
{
    publish("items:\n" DISABLED B, false);
    ck_assert(!current("A")->runs);
    publish("items:\n  - {id: A, class: Echo, queue_type: lifo, enabled: false}\n" B, true);
    ck_assert(other("A") && !other("A")->runs);
    publish("items:\n" LIFO B, false);
    ck_assert(other("A") && other("A")->runs && other("A")->open);
    ck_assert(current("A")->runs && !current("A")->open);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("arrange");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_set_timeout(all, 60);
    tcase_add_test(all, an_item_left_as_it_was_keeps_its_lane);
    tcase_add_test(all, a_lane_stays_for_what_it_holds);
    tcase_add_test(all, in_flight_is_that_of_both_lanes);
    tcase_add_test(all, concurrency_counts_what_the_lane_before_still_runs);
    tcase_add_test(all, a_queue_that_changes);
    tcase_add_test(all, what_has_no_row_waits_for_the_queue_it_goes_into);
    tcase_add_test(all, settings_of_a_queue_that_is_closing);
    tcase_add_test(all, a_change_that_is_under_way);
    tcase_add_test(all, a_fifo_lane_opens_when_the_one_before_is_gone);
    tcase_add_test(all, a_removed_item_comes_back);
    tcase_add_test(all, items_without_number);
    tcase_add_test(all, a_disabled_item_is_finished_once_its_next_one_is_enabled);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
