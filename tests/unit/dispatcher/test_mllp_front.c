/* The MLLP front with a fake store and queue, and real peers on the loopback. */
#include "mllp_front.h"

#include "fake_queue.h"
#include "fake_store.h"
#include "http_peer.h"
#include "run_loop.h"

#include <check.h>

#define VT "\x0b"
#define FS "\x1c\r"
#define MSH(more) VT "MSH|^~\\&|APP|FAC|R|F|20260101||ADT^A01|CTL1|P|2.5" more "\r"
#define APPLICATION_MAX 4096u

static const char yaml[] = "production: {name: test}\n"
                           "dispatcher: {mllp: [{listen: \"127.0.0.1:0\", item: Router}]}\n"
                           "items:\n"
                           "  - {id: Echo, class: Echo, queue_type: unordered}\n"
                           "  - {id: Router, class: HL7RoutingEngine, queue_type: unordered, "
                           "queue_size: 10000, settings: {default: [Echo]}}\n";

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct callers callers;
static struct mllp_front front;
static struct peer *peer;
static size_t accepted;

static void on_unqueued(void *arg)
{
    (void)arg;
}

static void setup(void)
{
    struct diagnostics diagnostics;
    struct err err;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    loop = loop_new();
    metrics = metrics_new();
    fake_store_init(&store);
    fake_queue_init(&queue);
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    callers_link_changed(&callers, true, true);
    intake_init(&intake, loop, production, &queue.queue, &store.store, metrics);
    intake.on_unqueued = on_unqueued;
    intake_link_changed(&intake, true, true);
    fake_store_end(&store); /* the gate's first questions */
    fake_queue_end(&queue);
    production->dispatcher.mllp[0].item = production_find(production, SLICE_LITERAL("Router"));
    production->dispatcher.mllp[0].duplicate_window_ms = 0; /* the same message many times */
    ck_assert_int_eq(mllp_front_start(&front, loop, &production->dispatcher.mllp[0], &intake,
                                      &callers, metrics, &err),
                     0);
    peer = peer_open(loop, stream_server_port(front.server));
    accepted = 0;
}

static void teardown(void)
{
    peer_close(peer);
    fake_store_end(&store);
    fake_queue_end(&queue);
    mllp_front_free(&front);
    callers_done(&callers);
    intake_done(&intake);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

/* Turns the loop; what is asked of the servers goes well. Messages end only when `all_ended`. */
static void serve(bool all_ended)
{
    static bool flags[STORE_BATCH_MAX];
    static const struct body no_keys[QUEUE_BATCH_MAX];
    struct store_record record = {.state = "completed", .finished_us = 1};
    struct fake_store_call *call;
    struct fake_queue_call *enqueue;
    for (size_t i = 0; i < STORE_BATCH_MAX; i++)
        flags[i] = all_ended;
    run_loop_turns(loop);
    while ((call = TAILQ_FIRST(&store.calls))) {
        TAILQ_REMOVE(&store.calls, call, link);
        if (call->op == FAKE_ACCEPT) {
            accepted += call->count;
            fake_store_answer(call, &fake_ok);
        } else if (call->op == FAKE_ENDED) {
            fake_store_answer_flags(call, &fake_ok, flags);
        } else if (call->op == FAKE_COUNTS) {
            ((store_counts_done *)call->done)(call->arg, &fake_ok, NULL, 0);
            free(call);
        } else if (call->op == FAKE_REPLY) {
            ((store_body_done *)call->done)(call->arg, &fake_ok, body_of(NULL, 0),
                                            slice_of(NULL, 0), false);
            free(call);
        } else {
            ck_assert_int_eq(call->op, FAKE_FIND);
            ((store_found *)call->done)(call->arg, &fake_ok, &record);
            free(call);
        }
    }
    while ((enqueue = TAILQ_FIRST(&queue.calls))) {
        TAILQ_REMOVE(&queue.calls, enqueue, link);
        if (enqueue->op == FAKE_ENQUEUE) {
            fake_queue_answer_depth(enqueue, &fake_ok, 0);
        } else if (enqueue->op == FAKE_READ_REPLIES) {
            fake_queue_answer_replies(enqueue, &fake_ok, no_keys);
        } else if (enqueue->op == FAKE_SLOTS) {
            fake_queue_answer_slots(enqueue, &fake_ok, enqueue->want, 0);
        } else {
            ck_assert_int_eq(enqueue->op, FAKE_DEPTH);
            ((queue_depth_done *)enqueue->done)(enqueue->arg, &fake_ok, &(struct queue_depth){0});
            free(enqueue);
        }
    }
}

#define SERVE_UNTIL(all_ended, condition)                                                          \
    do {                                                                                           \
        int64_t until_ms_ = clock_mono_ms() + PEER_WAIT_MS;                                        \
        while (!(condition)) {                                                                     \
            ck_assert_msg(clock_mono_ms() < until_ms_, "waited in vain: %s", #condition);          \
            serve(all_ended);                                                                      \
        }                                                                                          \
    } while (0)

static int64_t rejected(const char *item, const char *reason)
{
    struct buffer out;
    char wanted[128];
    int64_t count = 0;
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    for (const char *line = out.data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *end = strchrnul(line, '\n');
        char *copy = strndup(line, (size_t)(end - line));
        snprintf(wanted, sizeof(wanted), "item=\"%s\"", item);
        bool ours = strstr(copy, "hie_messages_rejected_total{") == copy && strstr(copy, wanted);
        snprintf(wanted, sizeof(wanted), "reason=\"%s\"", reason);
        if (ours && strstr(copy, wanted))
            count = atoll(strrchr(copy, ' '));
        free(copy);
    }
    buffer_done(&out);
    return count;
}

START_TEST(a_message_is_acknowledged)
{
    peer_send(peer, MSH("") "PID|1\r" FS);
    SERVE_UNTIL(false, peer_has(peer, "MSA|AA|CTL1"));
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
}
END_TEST

/* MSH-16 ER: nothing is written while all goes well, yet reading goes on as messages end. */
START_TEST(unwritten_application_acknowledgements_free_their_places)
{
    const char *message = MSH("|||NE|ER") FS;
    for (unsigned i = 0; i < APPLICATION_MAX + 200; i += 100) {
        for (unsigned j = 0; j < 100; j++)
            ck_assert_int_eq(send(peer->fd, message, strlen(message), MSG_NOSIGNAL),
                             (ssize_t)strlen(message));
        SERVE_UNTIL(false, accepted >= i + 100 || accepted >= APPLICATION_MAX);
    }
    for (int i = 0; i < 20; i++)
        serve(false);
    ck_assert_uint_lt(accepted, APPLICATION_MAX + 200); /* it is paused */
    SERVE_UNTIL(true, accepted >= APPLICATION_MAX + 200);
    ck_assert(!peer_ended(peer));
    ck_assert_uint_eq(peer->in.len, 0);
}
END_TEST

START_TEST(unfinished_frames_share_the_budget)
{
    char *half = malloc(200000);
    memset(half, 'x', 200000);
    intake.budget->bytes_max = 600000;
    peer_send(peer, MSH(""));
    peer_send_bytes(peer, half, 200000);
    wait_until(loop, intake.budget->bytes_in_hand >= 200000);
    struct peer *other = peer_open(loop, stream_server_port(front.server));
    peer_send(other, MSH(""));
    for (int i = 0; i < 5 && peer_try_send(other, half, 200000); i++)
        ;
    wait_until(loop, peer_has(other, "MSA|AR|CTL1") && peer_ended(other));
    ck_assert_int_eq(rejected("Router", "unavailable"), 1);
    peer_close(other);
    free(half);
    /* The first goes on. */
    peer_send(peer, FS);
    SERVE_UNTIL(false, peer_has(peer, "MSA|AA|CTL1"));
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
}
END_TEST

START_TEST(a_frame_that_stands_still_ends_its_connection)
{
    struct peer *idle = peer_open(loop, stream_server_port(front.server));
    front.partial_ms = 1;
    peer_send(peer, MSH("") "PID");
    wait_until(loop, intake.budget->bytes_in_hand > 0);
    wait_until(loop, peer_ended(peer));
    ck_assert_uint_eq(peer->in.len, 0); /* no answer to what was no message */
    ck_assert_uint_eq(intake.budget->bytes_in_hand, 0);
    ck_assert(!peer_ended(idle));
    peer_close(idle);
}
END_TEST

START_TEST(a_peer_that_goes_gives_its_bytes_back)
{
    struct peer *goes = peer_open(loop, stream_server_port(front.server));
    peer_send(goes, MSH("") "PID");
    wait_until(loop, intake.budget->bytes_in_hand > 0);
    peer_reset(goes);
    wait_until(loop, intake.budget->bytes_in_hand == 0);
}
END_TEST

START_TEST(a_batch_is_an_error_of_its_type)
{
    peer_send(peer, VT "BHS|^~\\&|A|F|R|F|20260101||||B1\rMSH|^~\\&|A\rBTS|1\r" FS);
    wait_until(loop, peer_has(peer, FS));
    ck_assert(peer_has(peer, "MSA|AE"));
    ck_assert(peer_has(peer, "200"));
    peer_send(peer, MSH("|||AL|NE") "MSH|^~\\&|A\r" FS);
    wait_until(loop, peer_has(peer, "MSA|CE"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mllp_front");
    TCase *cases = tcase_create("mllp_front");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_message_is_acknowledged);
    tcase_add_test(cases, unwritten_application_acknowledgements_free_their_places);
    tcase_add_test(cases, unfinished_frames_share_the_budget);
    tcase_add_test(cases, a_frame_that_stands_still_ends_its_connection);
    tcase_add_test(cases, a_peer_that_goes_gives_its_bytes_back);
    tcase_add_test(cases, a_batch_is_an_error_of_its_type);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
