/* POST …/messages with a fake intake, store and queue, and real peers on the loopback: what senders see. */
#include "http_front.h"

#include "fake_intake.h"
#include "fake_queue.h"
#include "fake_store.h"
#include "http_peer.h"
#include "run_loop.h"

#include <check.h>

static const char yaml[] = "production: {name: test}\n"
                           "dispatcher: {http: {listen: \"127.0.0.1:0\", max_body: 65536}}\n"
                           "items:\n"
                           "  - {id: Async, class: Echo, queue_type: unordered}\n"
                           "  - {id: Sync, class: Echo, queue_type: unordered}\n"
                           "  - {id: Fifo, class: Echo, queue_type: unordered}\n";
static const struct err ok = {.code = ERR_NONE};

static struct loop *loop;
static struct production *production;
static struct metrics *metrics;
static struct health *health;
static struct fake_store store;
static struct fake_queue queue;
static struct intake intake;
static struct callers callers;
static struct http_front front;
static struct peer *peer;
static struct answer answer;
static struct item *async_item, *sync_item;

static void set_links(bool queue_up, bool store_up)
{
    intake.queue_up = queue_up;
    intake.store_up = store_up;
    callers_link_changed(&callers, queue_up, store_up);
}

static void setup(void)
{
    struct diagnostics diagnostics;
    struct err err;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_print(&diagnostics, "test");
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    async_item = &production->items[0];
    sync_item = &production->items[1];
    for (size_t i = 0; i < 3; i++) {
        production->items[i].blocking.max_wait_time_ms = 30000;
        production->items[i].idempotency_window_ms = 60000;
    }
    sync_item->messaging_pattern = PATTERN_SYNC_RELIABLE;
    sync_item->blocking.enabled = true;
    sync_item->blocking.deadlock_detection = true;
    production->items[2].queue_type = QUEUE_FIFO;
    loop = loop_new();
    metrics = metrics_new();
    health = health_new(metrics);
    fake_store_init(&store);
    fake_queue_init(&queue);
    intake = (struct intake){.production = production,
                             .queue = &queue.queue,
                             .store = &store.store,
                             .own_budget = {.bytes_max = 1 << 20},
                             .budget = &intake.own_budget};
    callers_init(&callers, loop, production, &queue.queue, &store.store, metrics);
    set_links(true, true);
    ck_assert_int_eq(
        http_front_start(&front, loop, production, &intake, &store.store, &callers, health, &err),
        0);
    peer = peer_open(loop, http_server_port(front.server));
}

static void teardown(void)
{
    peer_close(peer);
    set_links(false, false);
    fake_store_end(&store);
    fake_queue_end(&queue);
    http_front_free(&front);
    fake_intake_end();
    callers_done(&callers);
    health_free(health);
    metrics_free(metrics);
    loop_free(loop);
    production_free(production);
}

static void send_post(struct peer *by, const char *item, const char *headers, const char *body)
{
    char request[4096];
    int len = snprintf(request, sizeof(request),
                       "POST /v1/items/%s/messages HTTP/1.1\r\nHost: x\r\n%sContent-Length: "
                       "%zu\r\n\r\n%s",
                       item, headers, strlen(body), body);
    ck_assert_int_lt(len, (int)sizeof(request));
    peer_send(by, request);
}

/* The request as the intake has it. */
static struct fake_intake_call *post(const char *item, const char *headers)
{
    size_t before = fake_intake_pending();
    send_post(peer, item, headers, "the body");
    wait_until(loop, fake_intake_pending() > before);
    return fake_intake_last();
}

static void publish(struct uuid id, const char *status, const char *error, const char *body)
{
    struct queue_reply reply = {.id = id,
                                .status = status,
                                .error = error,
                                .content_type = SLICE_LITERAL("text/reply"),
                                .body = body_of(body, strlen(body))};
    callers_replied(&callers, &reply);
}

static void expect_idle(void)
{
    ck_assert(TAILQ_EMPTY(&front.posts));
    ck_assert_uint_eq(callers.count, 0);
}

/* The next answer has this status and tells this id. */
static void expect_answer(int status, struct uuid id)
{
    char text[UUID_TEXT_LEN + 1], line[64];
    answer_done(&answer);
    peer_answer(peer, &answer);
    ck_assert_msg(answer.status == status, "%d expected, got %d %s", status, answer.status,
                  answer.body);
    uuid_format(id, text);
    snprintf(line, sizeof(line), "X-Correlation-ID: %s", text);
    ck_assert_msg(answer_has(&answer, line), "%s is not in %s", line, answer.head);
    if (status >= 400)
        ck_assert(answer_has(&answer, "Content-Type: application/problem+json"));
}

static void expect_header(const char *line)
{
    ck_assert_msg(answer_has(&answer, line), "%s is not in %s", line, answer.head);
}

static void expect_no_header(const char *name)
{
    char start[64];
    snprintf(start, sizeof(start), "\r\n%s:", name);
    ck_assert_ptr_null(strcasestr(answer.head, start));
}

static int64_t late_count(const char *item)
{
    struct buffer out;
    char wanted[96];
    buffer_init(&out, 1 << 20);
    metrics_print(metrics, &out);
    buffer_append_byte(&out, '\0');
    snprintf(wanted, sizeof(wanted), "\nhie_callers_late_total{item=\"%s\"", item);
    const char *line = strstr(out.data, wanted);
    ck_assert_ptr_nonnull(line);
    int64_t value = atoll(strchr(line + 1, '}') + 1);
    buffer_done(&out);
    return value;
}

/* ---- who does not wait ---- */

START_TEST(an_async_item_answers_once_durable)
{
    struct fake_intake_call *call = post("Async", "Content-Type: text/plain\r\n");
    struct uuid id = call->id;
    ck_assert_str_eq(call->body, "the body");
    ck_assert_str_eq(call->type, "text/plain");
    ck_assert(!call->request.wait);
    ck_assert_int_eq(call->request.priority, INTAKE_PRIORITY_BY_ITEM);
    ck_assert_int_eq(call->request.deadline_ms, 0);
    ck_assert(uuid_is_none(call->request.dedup_key));
    ck_assert_uint_eq(callers.count, 0);
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    ck_assert_ptr_nonnull(strstr(answer.body, "\"status\":\"accepted\""));
    expect_no_header("Preference-Applied");
    expect_no_header("Idempotency-Replayed");
    expect_idle();
}
END_TEST

START_TEST(a_sync_item_answers_at_once_when_asked_to)
{
    struct uuid id = post("Sync", "Prefer: respond-async\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    expect_header("Preference-Applied: respond-async");
    id = post("Sync", "Prefer: wait=0\r\n")->id;
    ck_assert(!fake_intake_last()->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    expect_header("Preference-Applied: wait=0");
    expect_idle();
}
END_TEST

START_TEST(a_sync_pattern_without_blocking_does_not_wait)
{
    sync_item->blocking.enabled = false;
    struct uuid id = post("Sync", "")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
}
END_TEST

/* ---- who waits ---- */

START_TEST(a_sync_item_answers_with_the_reply)
{
    struct fake_intake_call *call = post("Sync", "");
    struct uuid id = call->id;
    ck_assert(call->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    ck_assert_uint_eq(callers.count, 1);
    publish(id, "completed", NULL, "the reply");
    expect_answer(200, id);
    expect_header("Content-Type: text/reply");
    ck_assert_str_eq(answer.body, "the reply");
    expect_no_header("Preference-Applied");
    expect_idle();
}
END_TEST

START_TEST(a_reply_may_come_before_the_intake_is_done)
{
    struct uuid id = post("Sync", "")->id;
    publish(id, "completed", NULL, "early");
    expect_answer(200, id);
    ck_assert_uint_eq(callers.count, 0);
    struct uuid next = post("Sync", "")->id; /* on the same connection */
    fake_intake_answer(ERR_NONE, NULL);
    fake_intake_answer(ERR_NONE, NULL);
    publish(next, "completed", NULL, "in time");
    expect_answer(200, next);
    expect_idle();
}
END_TEST

START_TEST(other_ends_have_their_own_answers)
{
    static const struct {
        const char *status, *error, *detail;
        int answer;
    } cases[] = {
        {"dead_lettered", "the receiver said no", "the receiver said no", 502},
        {"dead_lettered", NULL, "the handler failed", 502},
        {"expired", NULL, "expired", 504},
        {"cancelled", NULL, "cancelled", 410},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct uuid id = post("Sync", "")->id;
        fake_intake_answer(ERR_NONE, NULL);
        publish(id, cases[i].status, cases[i].error, "");
        expect_answer(cases[i].answer, id);
        ck_assert_ptr_nonnull(strstr(answer.body, cases[i].detail));
        ck_assert_ptr_nonnull(strstr(answer.body, "\"correlation_id\":\""));
    }
    expect_idle();
}
END_TEST

START_TEST(a_reply_that_was_not_kept_is_no_empty_one)
{
    struct uuid id = post("Sync", "X-Timeout: 200\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    wait_until(loop, fake_store_pending(&store) > 0);
    fake_store_answer_flags(fake_store_take(&store, FAKE_ENDED), &ok, (const bool[]){true});
    struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
    ((store_found *)find->done)(find->arg, &ok, NULL);
    free(find);
    fake_queue_answer_replies(fake_queue_take(&queue, FAKE_READ_REPLIES), &ok, &(struct body){0});
    expect_answer(502, id);
    ck_assert_ptr_nonnull(strstr(answer.body, "not kept"));
}
END_TEST

START_TEST(a_key_alone_has_no_content_type)
{
    struct uuid id = post("Sync", "X-Timeout: 200\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    set_links(true, false);
    wait_until(loop, fake_queue_pending(&queue) > 0);
    fake_queue_answer_replies(fake_queue_take(&queue, FAKE_READ_REPLIES), &ok,
                              &(struct body){"x", 1});
    expect_answer(200, id);
    expect_header("Content-Type: application/octet-stream");
}
END_TEST

START_TEST(the_time_is_up_with_the_id)
{
    int64_t before_ms = clock_wall_ms();
    struct fake_intake_call *call = post("Sync", "X-Timeout: 100\r\n");
    struct uuid id = call->id;
    ck_assert_int_ge(call->request.deadline_ms, before_ms + 100);
    ck_assert_int_le(call->request.deadline_ms, clock_wall_ms() + 100);
    set_links(false, false); /* also with everything away */
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(504, id);
    ck_assert_int_eq(late_count("Sync"), 1);
    publish(id, "completed", NULL, "too late");
    expect_idle();
}
END_TEST

START_TEST(the_items_time_bounds_the_wait)
{
    sync_item->blocking.max_wait_time_ms = 100;
    struct uuid id = post("Sync", "Prefer: wait=60\r\nX-Timeout: 60000\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(504, id);
    expect_no_header("Preference-Applied");
    expect_idle();
}
END_TEST

/* A posted one whose time is up while the intake has it. */
static struct uuid late_in_intake(const char *headers)
{
    struct uuid id = post("Sync", headers)->id;
    wait_until(loop, callers.count == 0);
    for (int i = 0; i < 10; i++)
        turn(loop);
    ck_assert_int_eq(late_count("Sync"), 0);
    return id;
}

START_TEST(late_in_the_intake_is_told_when_there_is_a_message)
{
    struct uuid first = uuid_new(1000), id;
    sync_item->blocking.max_wait_time_ms = 60;
    id = late_in_intake("");
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(504, id);
    ck_assert_int_eq(late_count("Sync"), 1);
    post("Sync", "Idempotency-Key: k\r\n");
    wait_until(loop, callers.count == 0);
    fake_intake_answer(ERR_NONE, &first);
    expect_answer(504, first); /* its own id never exists */
    expect_header("Idempotency-Replayed: true");
    ck_assert_int_eq(late_count("Sync"), 2);
    id = post("Sync", "Prefer: respond-async, wait=0\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    expect_idle();
}
END_TEST

START_TEST(late_in_the_intake_and_refused_is_refused)
{
    sync_item->blocking.max_wait_time_ms = 60;
    late_in_intake("X-Timeout: 60\r\n");
    fake_intake_answer(ERR_QUEUE_FULL, NULL);
    peer_expect(peer, 429);
    struct uuid id = late_in_intake("");
    fake_intake_answer(ERR_OUTCOME_UNKNOWN, NULL);
    expect_answer(503, id);
    ck_assert_int_eq(late_count("Sync"), 0);
    expect_idle();
}
END_TEST

START_TEST(a_preferred_wait_that_ends_in_the_intake)
{
    struct uuid id = post("Async", "Prefer: wait=1\r\n")->id;
    wait_until(loop, callers.count == 0);
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    expect_idle();
}
END_TEST

START_TEST(a_preferred_wait_ends_with_an_error_or_202)
{
    struct uuid id = post("Sync", "Prefer: wait=1\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    set_links(false, false);
    expect_answer(504, id);
    set_links(true, false);
    id = post("Sync", "Prefer: respond-async, wait=1\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    set_links(false, false);
    expect_answer(202, id);
    expect_header("Preference-Applied: respond-async, wait=1");
    ck_assert_int_eq(late_count("Sync"), 1);
}
END_TEST

START_TEST(an_async_item_waits_when_asked_to)
{
    struct fake_intake_call *call = post("Async", "Prefer: wait=10\r\n");
    struct uuid id = call->id;
    ck_assert(call->request.wait);
    fake_intake_answer(ERR_NONE, NULL);
    publish(id, "completed", NULL, "the reply");
    expect_answer(200, id);
    expect_header("Preference-Applied: wait=10");
    ck_assert_str_eq(answer.body, "the reply");
    id = post("Async", "Prefer: foo;bar=1\r\nPrefer: wait=1, wait=30\r\n")->id;
    set_links(false, false);
    wait_until(loop, callers.count == 0); /* its time is up, but is it durable? */
    ck_assert_uint_eq(peer->in.len, 0);
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    expect_header("Preference-Applied: wait=1");
    ck_assert_int_eq(late_count("Async"), 0);
    expect_idle();
}
END_TEST

/* ---- refusals ---- */

START_TEST(the_intakes_errors_are_told)
{
    static const struct {
        enum error_code code;
        int status;
    } later[] = {{ERR_INVALID, 400}, {ERR_KEY_REUSED, 422}, {ERR_UNAVAILABLE, 503}},
      at_once[] = {{ERR_NOT_FOUND, 404},
                   {ERR_TOO_LARGE, 413},
                   {ERR_NOT_HL7, 422},
                   {ERR_QUEUE_FULL, 429},
                   {ERR_UNAVAILABLE, 503}};
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        post(i % 2 ? "Async" : "Sync", "");
        fake_intake_answer(later[i].code, NULL);
        peer_expect(peer, later[i].status);
        expect_idle();
    }
    for (size_t i = 0; i < sizeof(at_once) / sizeof(at_once[0]); i++) {
        err_set(&fake_intake_refusal, at_once[i].code, "no");
        send_post(peer, i % 2 ? "Async" : "Sync", "", "x");
        peer_expect(peer, at_once[i].status);
        expect_idle();
    }
    fake_intake_refusal.code = ERR_NONE;
    struct uuid id = post("Sync", "")->id;
    fake_intake_answer(ERR_OUTCOME_UNKNOWN, NULL);
    expect_answer(503, id);
    expect_header("Retry-After: 1");
    expect_idle();
}
END_TEST

START_TEST(without_redis_nobody_can_wait)
{
    set_links(false, true);
    send_post(peer, "Sync", "", "x");
    peer_expect(peer, 503);
    ck_assert_uint_eq(fake_intake_rejected[ERR_UNAVAILABLE], 1);
    ck_assert_uint_eq(fake_intake_pending(), 0);
    struct uuid id = post("Sync", "Prefer: respond-async\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
    id = post("Async", "")->id;
    fake_intake_answer(ERR_NONE, NULL);
    expect_answer(202, id);
}
END_TEST

START_TEST(bad_headers_are_refused)
{
    char key[400], chain[1400] = "X-Call-Chain: A";
    snprintf(key, sizeof(key), "Idempotency-Key: %0256d\r\n", 1);
    for (size_t i = strlen(chain); i < 1300; i += 2)
        memcpy(chain + i, ",A", 3);
    strcat(chain, "\r\n");
    const char *const bad[][2] = {
        {"Async", "X-Priority: 10\r\n"},
        {"Async", "X-Priority: -1\r\n"},
        {"Async", "X-Priority: high\r\n"},
        {"Async", "X-Delay: -1\r\n"},
        {"Async", "X-Delay: 31536000000\r\n"}, /* a year */
        {"Async", "X-Delay: 86400001\r\n"},
        {"Fifo", "X-Delay: 1000\r\n"},
        {"Fifo", "X-Delay: 0\r\n"},
        {"Async", "X-Timeout: 0\r\n"},
        {"Async", "X-Timeout: 86400001\r\n"},
        {"Async", "X-Timeout: 99999999999999999999\r\n"},
        {"Async", "X-Reply-Key: 2\r\n"},
        {"Async", "X-Ordering-Key: \r\n"},
        {"Async", "X-Callback-URL: http://x/\r\n"},
        {"Async", "Idempotency-Key: \r\n"},
        {"Async", key},
        {"Async", "X-Call-Chain: A,B C\r\n"},
        {"Async", "X-Call-Chain: A\r\nX-Call-Chain: <script>\r\n"},
        {"Async", chain},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        send_post(peer, bad[i][0], bad[i][1], "x");
        peer_expect(peer, 400);
        ck_assert_uint_eq(fake_intake_rejected[ERR_INVALID], i + 1);
    }
    char ordering[600];
    snprintf(ordering, sizeof(ordering), "X-Ordering-Key: %0200d\r\n", 1);
    send_post(peer, "Async", ordering, "x");
    peer_expect(peer, 400);
    ck_assert_uint_eq(fake_intake_pending(), 0);
    expect_idle();
}
END_TEST

START_TEST(headers_are_carried)
{
    struct fake_intake_call *call = post(
        "Async", "X-Priority: 9\r\nX-Delay: 86400000\r\nX-Reply-Key: 1\r\n"
                 "X-Ordering-Key: patient-1\r\nX-Call-Chain: A, B,,\r\nX-Call-Chain: C.d-e_f\r\n");
    ck_assert_int_eq(call->request.priority, 9);
    ck_assert_int_eq(call->request.delay_ms, 86400000);
    ck_assert(call->request.reply);
    ck_assert_str_eq(call->key, "patient-1");
    ck_assert_str_eq(call->chain, "A,B,C.d-e_f");
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    call = post("Async", "X-Ordering-Key: M\xfcller\r\n"); /* no text of every database */
    ck_assert_uint_eq(strlen(call->key), 33);
    ck_assert_int_eq(call->key[0], '~');
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
}
END_TEST

START_TEST(a_call_that_would_wait_for_itself_is_refused)
{
    send_post(peer, "Sync", "X-Call-Chain: Async,Sync,Fifo\r\n", "x");
    answer_done(&answer);
    peer_answer(peer, &answer);
    ck_assert_int_eq(answer.status, 508);
    expect_header("Content-Type: application/problem+json");
    ck_assert_ptr_nonnull(strstr(answer.body, "\"chain\":[\"Async\",\"Sync\",\"Fifo\",\"Sync\"]"));
    ck_assert_uint_eq(fake_intake_rejected[ERR_DEADLOCK], 1);
    ck_assert_uint_eq(fake_intake_pending(), 0);
    /* Who does not wait is in no danger, nor one whose own item is not among them. */
    post("Sync", "X-Call-Chain: Sync\r\nPrefer: respond-async\r\n");
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    post("Async", "X-Call-Chain: Async\r\n");
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    struct uuid id = post("Sync", "X-Call-Chain: Sync2,Syn\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    publish(id, "completed", NULL, "x");
    expect_answer(200, id);
    sync_item->blocking.deadlock_detection = false;
    id = post("Sync", "X-Call-Chain: Sync\r\n")->id;
    fake_intake_answer(ERR_NONE, NULL);
    publish(id, "completed", NULL, "x");
    expect_answer(200, id);
}
END_TEST

/* ---- repeats ---- */

START_TEST(a_key_is_a_hash_of_item_and_key)
{
    struct intake_request first = post("Async", "Idempotency-Key: one\r\n")->request;
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    struct intake_request other = post("Async", "Idempotency-Key: two\r\n")->request;
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    struct intake_request again = post("Async", "Idempotency-Key: one\r\n")->request;
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    struct intake_request elsewhere = post("Fifo", "Idempotency-Key: one\r\n")->request;
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
    ck_assert(!uuid_is_none(first.dedup_key));
    ck_assert_int_eq(first.dedup_window_ms, 60000);
    ck_assert(uuid_equal(first.dedup_key, again.dedup_key));
    ck_assert(uuid_equal(first.dedup_fingerprint, other.dedup_fingerprint));
    ck_assert(!uuid_equal(first.dedup_key, other.dedup_key));
    ck_assert(!uuid_equal(first.dedup_key, elsewhere.dedup_key));
    async_item->idempotency_window_ms = 0; /* not minded */
    ck_assert(uuid_is_none(post("Async", "Idempotency-Key: one\r\n")->request.dedup_key));
    fake_intake_answer(ERR_NONE, NULL);
    peer_expect(peer, 202);
}
END_TEST

START_TEST(a_repeat_gets_the_first_id)
{
    struct uuid first = uuid_new(1000);
    post("Async", "Idempotency-Key: one\r\n");
    fake_intake_answer(ERR_NONE, &first);
    expect_answer(202, first);
    expect_header("Idempotency-Replayed: true");
    expect_idle();
}
END_TEST

START_TEST(a_repeat_waits_for_the_first_ones_end)
{
    struct uuid first = uuid_new(1000);
    struct store_record record = {.state = "completed", .finished_us = 1};
    post("Sync", "Idempotency-Key: one\r\n");
    fake_intake_answer(ERR_NONE, &first);
    ck_assert_uint_eq(callers.count, 1);
    wait_until(loop, fake_store_pending(&store) > 0); /* it may have ended long ago */
    struct fake_store_call *ended = fake_store_take(&store, FAKE_ENDED);
    ck_assert(uuid_equal(ended->ids[0], first));
    fake_store_answer_flags(ended, &ok, (const bool[]){true});
    struct fake_store_call *find = fake_store_take(&store, FAKE_FIND);
    ((store_found *)find->done)(find->arg, &ok, &record);
    free(find);
    struct fake_store_call *reply = fake_store_take(&store, FAKE_REPLY);
    ((store_body_done *)reply->done)(reply->arg, &ok, body_of("stored", 6), SLICE_LITERAL("text/x"),
                                     true);
    free(reply);
    expect_answer(200, first);
    expect_header("Idempotency-Replayed: true");
    ck_assert_str_eq(answer.body, "stored");
    /* One that is still under way here, too. */
    post("Sync", "Idempotency-Key: one\r\n");
    fake_intake_answer(ERR_NONE, &first);
    publish(first, "completed", NULL, "just now");
    expect_answer(200, first);
    expect_idle();
}
END_TEST

/* ---- hang-ups ---- */

START_TEST(who_hangs_up_frees_its_place)
{
    struct peer *goes = peer_open(loop, http_server_port(front.server));
    send_post(goes, "Sync", "", "x");
    wait_until(loop, callers.count == 1);
    struct uuid id = fake_intake_last()->id;
    if (_i == 0) /* while it waits */
        fake_intake_answer(ERR_NONE, NULL);
    peer_reset(goes);
    wait_until(loop, callers.count == 0);
    if (_i == 1) /* while it is in the intake */
        fake_intake_answer(ERR_NONE, NULL);
    if (_i == 2)
        fake_intake_answer(ERR_UNAVAILABLE, NULL);
    expect_idle();
    publish(id, "completed", NULL, "to nobody"); /* the message went on */
}
END_TEST

START_TEST(who_only_ends_its_sending_gets_its_id)
{
    struct uuid id = post("Sync", "")->id;
    fake_intake_answer(ERR_NONE, NULL);
    ck_assert_int_eq(shutdown(peer->fd, SHUT_WR), 0);
    expect_answer(202, id);
    expect_idle();
}
END_TEST

START_TEST(gone_after_an_early_answer)
{
    struct uuid id = post("Sync", "")->id;
    publish(id, "completed", NULL, "early");
    expect_answer(200, id);
    ck_assert_int_eq(shutdown(peer->fd, SHUT_RDWR), 0);
    wait_until(loop, http_server_connections(front.server) == 0);
    fake_intake_answer(ERR_NONE, NULL);
    expect_idle();
}
END_TEST

/* ---- the dispatcher's end ---- */

START_TEST(a_drain_lets_callers_wait_and_a_stop_tells_them)
{
    struct peer *other = peer_open(loop, http_server_port(front.server));
    struct uuid id = post("Sync", "")->id;
    fake_intake_answer(ERR_NONE, NULL);
    send_post(other, "Async", "Prefer: wait=20\r\n", "x");
    wait_until(loop, fake_intake_pending() == 1);
    fake_intake_answer(ERR_NONE, NULL);
    http_front_drain(&front);
    callers_drain(&callers);
    for (int i = 0; i < 50; i++)
        turn(loop);
    ck_assert_uint_eq(callers.count, 2);
    callers_stop(&callers);
    expect_answer(503, id);
    peer_expect(other, 202);
    wait_until(loop, http_front_idle(&front));
    peer_close(other);
}
END_TEST

START_TEST(what_is_left_is_told_and_freed)
{
    struct peer *other = peer_open(loop, http_server_port(front.server));
    post("Sync", "");
    fake_intake_answer(ERR_NONE, NULL);
    send_post(other, "Async", "", "x");
    wait_until(loop, fake_intake_pending() == 1);
    http_post_free_all(&front);
    peer_expect(peer, 503);
    peer_expect(other, 503);
    peer_close(other);
    expect_idle();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http_post");
    TCase *cases = tcase_create("http_post");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, an_async_item_answers_once_durable);
    tcase_add_test(cases, a_sync_item_answers_at_once_when_asked_to);
    tcase_add_test(cases, a_sync_pattern_without_blocking_does_not_wait);
    tcase_add_test(cases, a_sync_item_answers_with_the_reply);
    tcase_add_test(cases, a_reply_may_come_before_the_intake_is_done);
    tcase_add_test(cases, other_ends_have_their_own_answers);
    tcase_add_test(cases, a_reply_that_was_not_kept_is_no_empty_one);
    tcase_add_test(cases, a_key_alone_has_no_content_type);
    tcase_add_test(cases, the_time_is_up_with_the_id);
    tcase_add_test(cases, the_items_time_bounds_the_wait);
    tcase_add_test(cases, late_in_the_intake_is_told_when_there_is_a_message);
    tcase_add_test(cases, late_in_the_intake_and_refused_is_refused);
    tcase_add_test(cases, a_preferred_wait_that_ends_in_the_intake);
    tcase_add_test(cases, a_preferred_wait_ends_with_an_error_or_202);
    tcase_add_test(cases, an_async_item_waits_when_asked_to);
    tcase_add_test(cases, the_intakes_errors_are_told);
    tcase_add_test(cases, without_redis_nobody_can_wait);
    tcase_add_test(cases, bad_headers_are_refused);
    tcase_add_test(cases, headers_are_carried);
    tcase_add_test(cases, a_call_that_would_wait_for_itself_is_refused);
    tcase_add_test(cases, a_key_is_a_hash_of_item_and_key);
    tcase_add_test(cases, a_repeat_gets_the_first_id);
    tcase_add_test(cases, a_repeat_waits_for_the_first_ones_end);
    tcase_add_loop_test(cases, who_hangs_up_frees_its_place, 0, 3);
    tcase_add_test(cases, who_only_ends_its_sending_gets_its_id);
    tcase_add_test(cases, gone_after_an_early_answer);
    tcase_add_test(cases, a_drain_lets_callers_wait_and_a_stop_tells_them);
    tcase_add_test(cases, what_is_left_is_told_and_freed);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
