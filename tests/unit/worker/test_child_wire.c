/* Frames between a worker and its child processes: what is put comes out, in pieces of any size; what is wrong is refused. */
#include "base/mem.h"
#include "child_wire.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static struct production *production;
static struct wire_out out;
static struct wire_in in;
static struct job job, got;

static const char yaml[] = "production: {name: test}\n"
                           "items:\n"
                           "  - {id: A, class: Echo, queue_type: unordered}\n"
                           "  - {id: B, class: Echo, queue_type: unordered}\n";

static void on_ended(struct job *ended, const struct err *error)
{
    (void)ended;
    (void)error;
}

static void give(struct job *to)
{
    job_init(to);
    to->item = &production->items[0];
    to->id = uuid_named(1, SLICE_LITERAL("job"));
    to->attempt = 3;
    to->body = body_of("the body", 8);
    to->content_type = SLICE_LITERAL("text/x");
    to->chain = SLICE_LITERAL("In");
    to->ended = on_ended;
    to->running = true;
}

static void setup(void)
{
    struct diagnostics diagnostics;
    production = production_parse(slice_text(yaml), &diagnostics);
    diagnostics_done(&diagnostics);
    ck_assert_ptr_nonnull(production);
    wire_out_init(&out);
    wire_in_init(&in);
    give(&job);
    job_init(&got);
}

static void teardown(void)
{
    wire_out_done(&out);
    wire_in_done(&in);
    job_clear(&job);
    job_clear(&got);
    production_free(production);
}

/* Everything that was put, as bytes. */
static struct buffer sent(void)
{
    struct buffer bytes;
    int fds[2], result;
    buffer_init(&bytes, 1u << 28);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    do {
        char piece[65536];
        ssize_t n;
        result = wire_out_flush(&out, fds[0]);
        ck_assert_int_ge(result, 0);
        while ((n = recv(fds[1], piece, sizeof(piece), MSG_DONTWAIT)) > 0)
            buffer_append(&bytes, piece, (size_t)n);
    } while (result == 0);
    ck_assert(wire_out_empty(&out));
    close(fds[0]);
    close(fds[1]);
    return bytes;
}

/* The one frame that was put; read in steps of `step` bytes. */
static struct wire_frame frame_by(size_t step)
{
    struct wire_frame frame;
    struct buffer bytes = sent();
    int result = 0;
    for (size_t at = 0; at < bytes.len; at += step) {
        ck_assert_int_eq(result, 0);
        struct slice piece =
            slice_of(bytes.data + at, step < bytes.len - at ? step : bytes.len - at);
        result = wire_in_take(&in, &piece, &frame);
        ck_assert_uint_eq(piece.len, 0);
    }
    ck_assert_int_eq(result, 1);
    buffer_done(&bytes);
    return frame;
}

static struct wire_frame the_frame(enum wire_type type)
{
    struct wire_frame frame = frame_by(1u << 28);
    ck_assert_int_eq(frame.type, type);
    return frame;
}

START_TEST(a_start)
{
    struct slice id, text;
    wire_put_start(&out, SLICE_LITERAL("A"), production->text);
    struct wire_frame frame = the_frame(WIRE_START);
    ck_assert_int_eq(wire_get_start(&frame, &id, &text), 0);
    ck_assert(slice_is(id, "A"));
    ck_assert(slice_is(text, yaml));
    free(frame.payload);
}
END_TEST

START_TEST(a_job_in_pieces_of_any_size)
{
    static const size_t steps[] = {1, 2, 3, 7, 8, 9, 1000};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        wire_put_job(&out, &job);
        struct wire_frame frame = frame_by(steps[i]);
        ck_assert_int_eq(wire_get_job(&frame, &got), 0);
        ck_assert(uuid_equal(got.id, job.id));
        ck_assert_int_eq(got.attempt, 3);
        ck_assert(slice_is(body_slice(got.body), "the body"));
        ck_assert(slice_is(got.content_type, "text/x"));
        ck_assert(slice_is(got.chain, "In"));
        free(frame.payload);
    }
}
END_TEST

START_TEST(a_large_body_is_not_copied_on_its_way_out)
{
    size_t len = 5 << 20;
    char *body = mem_alloc(len);
    memset(body, 'x', len);
    body[len - 1] = 'y';
    job.body = body_of(body, len);
    wire_put_job(&out, &job);
    ck_assert(wire_out_borrows(&out));
    ck_assert_uint_lt(out.small.len, 1000);
    struct wire_frame frame = the_frame(WIRE_JOB);
    ck_assert_int_eq(wire_get_job(&frame, &got), 0);
    ck_assert_uint_eq(got.body.len, len);
    ck_assert_mem_eq(got.body.ptr, body, len);
    free(frame.payload);
    free(body);
}
END_TEST

START_TEST(what_was_made)
{
    job_send(&job, &production->items[1], job.content_type, job.body);
    job_send(&job, &production->items[0], SLICE_LITERAL("text/y"), body_of("new", 3));
    job_done(&job, SLICE_LITERAL("text/z"), body_slice(job.body));
    ck_assert(wire_put_done(&out, &job));
    struct wire_frame frame = the_frame(WIRE_DONE);
    give(&got);
    ck_assert_int_eq(wire_get_done(&frame, production, &got), 0);
    ck_assert_ptr_eq(got.reply.ptr, got.body.ptr);
    ck_assert(slice_is(got.reply_content_type, "text/z"));
    ck_assert_uint_eq(got.sent_count, 2);
    ck_assert_ptr_eq(got.sent[0].target, &production->items[1]);
    ck_assert_ptr_eq(got.sent[0].body.ptr, got.body.ptr);
    ck_assert_ptr_eq(got.sent[0].content_type.ptr, got.content_type.ptr);
    ck_assert(slice_is(body_slice(got.sent[1].body), "new"));
    ck_assert(slice_is(got.sent[1].content_type, "text/y"));
}
END_TEST

/* Every frame cut anywhere, and with a byte more, is refused and leaves the job as it was. */
START_TEST(payloads_that_are_cut_or_too_long)
{
    job_send(&job, &production->items[1], job.content_type, body_of("new", 3));
    job_done(&job, SLICE_LITERAL("text/z"), SLICE_LITERAL("reply"));
    ck_assert(wire_put_done(&out, &job));
    struct wire_frame frame = the_frame(WIRE_DONE);
    give(&got);
    size_t whole = frame.len;
    frame.payload = mem_resize(frame.payload, whole + 1, 1);
    frame.payload[whole] = 0;
    for (size_t len = 0; len <= whole + 1; len++) {
        frame.len = len;
        if (len != whole)
            ck_assert_int_eq(wire_get_done(&frame, production, &got), -1);
        ck_assert_uint_eq(got.sent_count, 0);
        ck_assert_uint_eq(got.reply.len, 0);
    }
    free(frame.payload);
}
END_TEST

START_TEST(an_unknown_target_is_refused)
{
    struct item stranger = {.id = (char *)"Nobody"};
    job_send(&job, &stranger, job.content_type, job.body);
    job_done(&job, slice_of(NULL, 0), slice_of(NULL, 0));
    ck_assert(wire_put_done(&out, &job));
    struct wire_frame frame = the_frame(WIRE_DONE);
    give(&got);
    ck_assert_int_eq(wire_get_done(&frame, production, &got), -1);
    free(frame.payload);
}
END_TEST

/* No entry of a queue has room for it. */
START_TEST(a_content_type_that_is_too_long_is_refused)
{
    static const char type[META_CONTENT_TYPE_MAX + 1] = "text/x";
    job_send(&job, &production->items[1], slice_of(type, META_CONTENT_TYPE_MAX), job.body);
    job_done(&job, slice_of(NULL, 0), slice_of(NULL, 0));
    for (int more = 0; more <= 1; more++) {
        job.sent[0].content_type.len = META_CONTENT_TYPE_MAX + (size_t)more;
        ck_assert(wire_put_done(&out, &job));
        struct wire_frame frame = the_frame(WIRE_DONE);
        job_clear(&got);
        give(&got);
        ck_assert_int_eq(wire_get_done(&frame, production, &got), more ? -1 : 0);
        ck_assert_uint_eq(got.sent_count, more ? 0 : 1);
        if (more)
            free(frame.payload);
    }
}
END_TEST

START_TEST(the_end_of_another_message_is_refused)
{
    struct err err, error;
    err_set(&err, ERR_RECEIVER, "later");
    ck_assert(wire_put_done(&out, &job));
    struct wire_frame done = the_frame(WIRE_DONE);
    wire_put_failed(&out, job.id, &err);
    struct wire_frame failed = the_frame(WIRE_FAILED);
    give(&got);
    ck_assert_int_eq(wire_get_failed(&failed, &got, &error), 0);
    ck_assert_int_eq(error.code, ERR_RECEIVER);
    got.id = uuid_named(2, SLICE_LITERAL("another"));
    ck_assert_int_eq(wire_get_done(&done, production, &got), -1);
    ck_assert_int_eq(wire_get_failed(&failed, &got, &error), -1);
    free(done.payload);
    free(failed.payload);
}
END_TEST

START_TEST(errors_are_plain_text)
{
    struct err err, error;
    err_set(&err, ERR_IO, "a\r\nb\xc3\xa4 c");
    wire_put_refused(&out, &err);
    struct wire_frame frame = the_frame(WIRE_REFUSED);
    ck_assert_int_eq(wire_get_refused(&frame, &error), 0);
    ck_assert_str_eq(error.text, "a??b?? c");
    free(frame.payload);
    err.code = ERR_NONE; /* an error that is none */
    wire_put_refused(&out, &err);
    frame = the_frame(WIRE_REFUSED);
    ck_assert_int_eq(wire_get_refused(&frame, &error), -1);
    free(frame.payload);
}
END_TEST

START_TEST(heads_that_are_none)
{
    static const char heads[][8] = {
        {0},
        {WIRE_TYPE_END},
        {WIRE_JOB, 1},
        {WIRE_JOB, 0, 0, 1},
        {WIRE_JOB, 0, 0, 0, 1, 0, 0, 0x40}, /* one byte over WIRE_PAYLOAD_MAX */
        {WIRE_JOB, 0, 0, 0, (char)0xff, (char)0xff, (char)0xff, (char)0xff},
        {'M', 'S', 'H', '|', '^', '~', '\\', '&'},
    };
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        struct wire_frame frame;
        struct slice bytes = slice_of(heads[i], 8);
        wire_in_done(&in);
        ck_assert_int_eq(wire_in_take(&in, &bytes, &frame), -1);
    }
}
END_TEST

/* A head that promises a gigabyte costs what comes, not what it says. */
START_TEST(memory_follows_what_comes)
{
    static const char head[8] = {WIRE_JOB, 0, 0, 0, 0, 0, 0, 0x40};
    struct wire_frame frame;
    char bytes[1000] = {0};
    struct slice piece = slice_of(head, 8);
    ck_assert_int_eq(wire_in_take(&in, &piece, &frame), 0);
    piece = slice_of(bytes, sizeof(bytes));
    ck_assert_int_eq(wire_in_take(&in, &piece, &frame), 0);
    ck_assert_uint_le(in.capacity, 65536);
    size_t room;
    ck_assert_ptr_nonnull(wire_in_room(&in, &room));
    ck_assert_uint_le(room, 2 * 65536);
}
END_TEST

START_TEST(too_much_is_not_sent)
{
    size_t len = 600u << 20;
    char *large = malloc(len); /* never touched */
    if (!large)
        return;
    wire_put_ready(&out);
    job.brought = large;
    job_add_sent(&job, &production->items[0], slice_of(NULL, 0), body_of(large, len));
    job_add_sent(&job, &production->items[0], slice_of(NULL, 0), body_of(large, len));
    ck_assert(!wire_put_done(&out, &job));
    struct wire_frame frame = the_frame(WIRE_READY); /* what was put before stays whole */
    ck_assert_uint_eq(frame.len, 0);
    free(frame.payload);
}
END_TEST

START_TEST(the_chain_grows_and_is_cut_at_its_old_end)
{
    char text[META_CHAIN_MAX], chain[META_CHAIN_MAX + 1] = "";
    ck_assert_uint_eq(job_longer_chain(&job, text), 4);
    ck_assert_mem_eq(text, "In,A", 4);
    job.chain = slice_of(NULL, 0);
    ck_assert_uint_eq(job_longer_chain(&job, text), 1);
    for (int i = 0; strlen(chain) + 8 < sizeof(chain); i++)
        strcat(chain, i ? ",Item_x" : "Oldest");
    job.chain = slice_text(chain);
    ck_assert_uint_gt(job.chain.len + 2, META_CHAIN_MAX - 7);
    size_t len = job_longer_chain(&job, text);
    ck_assert_uint_le(len, META_CHAIN_MAX);
    ck_assert_mem_eq(text + len - 2, ",A", 2);
    memset(chain, 'x', META_CHAIN_MAX); /* one name that leaves no room */
    job.chain = slice_of(chain, META_CHAIN_MAX);
    ck_assert_uint_eq(job_longer_chain(&job, text), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("child wire");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_start);
    tcase_add_test(tests, a_job_in_pieces_of_any_size);
    tcase_add_test(tests, a_large_body_is_not_copied_on_its_way_out);
    tcase_add_test(tests, what_was_made);
    tcase_add_test(tests, payloads_that_are_cut_or_too_long);
    tcase_add_test(tests, an_unknown_target_is_refused);
    tcase_add_test(tests, a_content_type_that_is_too_long_is_refused);
    tcase_add_test(tests, the_end_of_another_message_is_refused);
    tcase_add_test(tests, errors_are_plain_text);
    tcase_add_test(tests, heads_that_are_none);
    tcase_add_test(tests, memory_follows_what_comes);
    tcase_add_test(tests, too_much_is_not_sent);
    tcase_add_test(tests, the_chain_grows_and_is_cut_at_its_old_end);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
