/* An intake over a fake store and queue, its answers kept by the number of the request. */
#ifndef HIE_TESTS_INTAKE_FIXTURE_H
#define HIE_TESTS_INTAKE_FIXTURE_H

#include "intake.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "gate_check.h"
#include "run_loop.h"

#include <check.h>
#include <stdio.h>

#define ANSWERS_MAX 64u

struct answer {
    bool told, repeats;
    struct uuid id;
    enum error_code code;
};

static const char hl7[] = "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL1|P|2.5\rPID|1||42\r";
static const struct err away = {.code = ERR_UNAVAILABLE}, lost = {.code = ERR_OUTCOME_UNKNOWN};

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct answer answers[ANSWERS_MAX];
static size_t request_count, answer_count, unqueued_count;
static enum error_code last_code; /* of the latest answer */

static void on_answered(void *arg, struct uuid id, bool repeats, const struct err *error)
{
    struct answer *answer = arg;
    ck_assert_msg(!answer->told, "answered twice");
    *answer = (struct answer){true, repeats, id, error->code};
    answer_count++;
    last_code = error->code;
}

static void on_unqueued(void *arg)
{
    (void)arg;
    unqueued_count++;
}

static struct item *item_of(const char *id)
{
    const struct item *item = production_find(production, slice_text(id));
    ck_assert_ptr_nonnull(item);
    return &production->items[item->index];
}

/* `adjust` changes items before the intake reads them. */
static void fixture_setup(const char *yaml, void (*adjust)(void))
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    if (adjust)
        adjust();
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    intake_init(&intake, loop, production, &queue.queue, &store.store, metrics);
    intake.on_unqueued = on_unqueued;
    intake_link_changed(&intake, true, true);
    fake_store_end(&store); /* the gate's first questions */
    fake_queue_end(&queue);
    request_count = answer_count = unqueued_count = 0;
    memset(answers, 0, sizeof(answers));
}

static inline void fixture_teardown(void)
{
    fake_store_end(&store);
    fake_queue_end(&queue);
    fake_store_end(&store); /* what the last completions asked */
    gate_check(&intake.gate);
    intake_done(&intake);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static inline int accept_request(struct intake_request request, struct err *err)
{
    struct uuid id;
    ck_assert_uint_lt(request_count, ANSWERS_MAX);
    request.answered = on_answered;
    request.arg = &answers[request_count];
    if (intake_accept(&intake, &request, &id, err))
        return -1;
    request_count++;
    return 0;
}

static inline int accept_body(const char *item, const char *body, struct err *err)
{
    return accept_request(
        (struct intake_request){.item = item_of(item), .body = body_of(body, strlen(body))}, err);
}

/* The slots of the calls under way are all there. */
static inline void grant_slots(void)
{
    struct fake_queue_call *call;
    while ((call = fake_queue_find(&queue, FAKE_SLOTS)))
        fake_queue_answer_slots(call, &fake_ok, call->want, 0);
    gate_check(&intake.gate);
}

static inline void take_requests(const char *item, size_t count)
{
    struct err err;
    for (size_t i = 0; i < count; i++)
        ck_assert_int_eq(accept_body(item, hl7, &err), 0);
    grant_slots();
    run_loop_turns(loop);
    grant_slots();
}

static inline bool is_enqueueing(void)
{
    struct fake_queue_call *call;
    TAILQ_FOREACH(call, &queue.calls, link)
    {
        if (call->op == FAKE_ENQUEUE)
            return true;
    }
    return false;
}

/* The next call of that kind, past the gate's counting. */
static inline struct fake_store_call *take_store(enum fake_store_op op)
{
    struct fake_store_call *call = TAILQ_FIRST(&store.calls);
    if (call && call->op == FAKE_COUNTS && op != FAKE_COUNTS) {
        TAILQ_REMOVE(&store.calls, call, link);
        ((store_counts_done *)call->done)(call->arg, &lost, NULL, 0);
        free(call);
    }
    return fake_store_take(&store, op);
}

/* `count` messages of the item, in a commit under way. */
static inline struct fake_store_call *accepted(const char *item, size_t count)
{
    take_requests(item, count);
    struct fake_store_call *call = take_store(FAKE_ACCEPT);
    ck_assert_uint_eq(call->count, count);
    return call;
}

/* Answers what is asked about slots until the condition holds. */
#define GRANT_UNTIL(condition) RUN_LOOP_UNTIL(loop, (grant_slots(), (condition)))

static inline int64_t counter_of(const char *name, const char *item)
{
    struct buffer out;
    char wanted[160];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted), "\n%s{item=\"%s\"", name, item);
    const char *line = strstr(out.data, wanted);
    const char *value = line ? strchr(line, '}') : NULL;
    int64_t count = value ? atoll(value + 1) : 0;
    buffer_done(&out);
    return count;
}

static inline int run_cases(const char *name, void (*add)(TCase *cases), void (*setup)(void),
                            void (*teardown)(void))
{
    Suite *suite = suite_create(name);
    TCase *cases = tcase_create("machine");
    tcase_set_timeout(cases, 30);
    tcase_add_checked_fixture(cases, setup, teardown);
    add(cases);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
