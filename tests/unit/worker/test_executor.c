/* What holds for every execution mode: the same jobs with the same results on the worker's loop, in threads, in child processes. */
#include "test_handler.h"

static void open_mode(enum execution_mode mode)
{
    struct err err;
    const struct item *item = &production->items[0];
    if (mode == MODE_ASYNC)
        executor = executor_loop_new(&env, item, &test_class, &err);
    else if (mode == MODE_THREAD_POOL)
        executor = executor_threads_new(&env, item, &test_class, &err);
    else
        executor = executor_processes_new(&env, item);
    ck_assert_ptr_nonnull(executor);
}

START_TEST(the_own_body_is_no_copy)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("echo");
    ck_assert_int_eq(test->error.code, ERR_NONE);
    ck_assert_ptr_eq(test->job.reply.ptr, test->body);
    ck_assert_uint_eq(test->job.reply.len, 4);
    ck_assert_ptr_eq(test->job.reply_content_type.ptr, test->job.content_type.ptr);
    test_job_free(test);
}
END_TEST

START_TEST(a_reply_of_its_own)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("copy this");
    ck_assert(slice_is(test->job.reply, "copy this"));
    ck_assert(test->job.reply.ptr != test->body);
    ck_assert(slice_is(test->job.reply_content_type, "text/copy"));
    test_job_free(test);
}
END_TEST

START_TEST(what_it_sends)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("send");
    ck_assert_uint_eq(test->job.sent_count, 3);
    const struct job_sent *sent = test->job.sent;
    ck_assert_ptr_eq(sent[0].target, &production->items[0]);
    ck_assert_ptr_eq(sent[0].body.ptr, test->body);
    ck_assert(slice_is(sent[0].content_type, "text/given"));
    ck_assert_ptr_eq(sent[1].target, &production->items[1]);
    ck_assert(slice_is(body_slice(sent[1].body), "other"));
    ck_assert(slice_is(sent[1].content_type, "text/other"));
    ck_assert_uint_eq(sent[2].body.len + sent[2].content_type.len, 0);
    ck_assert_uint_eq(test->job.reply.len + test->job.reply_content_type.len, 0);
    test_job_free(test);
}
END_TEST

START_TEST(what_it_is_given)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("where");
    int pid, attempt, jobs;
    long thread;
    char id[64], chain[64], type[64];
    ck_assert_uint_lt(test->job.reply.len, 200);
    char text[200] = {0};
    memcpy(text, test->job.reply.ptr, test->job.reply.len);
    ck_assert_int_eq(sscanf(text, "%d %ld %63s %d %63s %63s %d", &pid, &thread, id, &attempt, chain,
                            type, &jobs),
                     7);
    ck_assert_str_eq(id, "First");
    ck_assert_int_eq(attempt, 2);
    ck_assert_str_eq(chain, "Door,Router");
    ck_assert_str_eq(type, "text/given");
    ck_assert_int_eq(pid == getpid(), _i != MODE_MULTI_PROCESS);
    ck_assert_int_eq(thread == syscall(SYS_gettid), _i == MODE_ASYNC);
    test_job_free(test);
}
END_TEST

START_TEST(errors_come_as_they_are)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("fail");
    ck_assert_int_eq(test->error.code, ERR_REJECTED);
    ck_assert_int_eq(strncmp(test->error.text, "told to fail, ", 14), 0);
    test_job_free(test);
}
END_TEST

START_TEST(an_end_that_comes_later)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_run("later");
    ck_assert(slice_is(test->job.reply, "late"));
    test_job_free(test);
}
END_TEST

static char *large_body(const char *word)
{
    char *body = mem_alloc(LARGE);
    for (size_t i = 0; i < LARGE; i++)
        body[i] = (char)(i * 7 + i / 4096);
    memcpy(body, word, strlen(word));
    return body;
}

START_TEST(large_bodies)
{
    static const char *const words[] = {"echo", "copy"};
    open_mode((enum execution_mode)_i);
    for (size_t i = 0; i < 2; i++) {
        char *body = large_body(words[i]);
        struct test_job *test = test_job_new(&production->items[0], body, LARGE);
        executor->ops->start(executor, &test->job);
        test_wait(test);
        ck_assert_int_eq(test->error.code, ERR_NONE);
        ck_assert_uint_eq(test->job.reply.len, LARGE);
        ck_assert_int_eq(memcmp(test->job.reply.ptr, body, LARGE), 0);
        ck_assert_int_eq(test->job.reply.ptr == test->body, i == 0);
        test_job_free(test);
        free(body);
    }
}
END_TEST

/* `concurrency` at once, as a lane does it. */
START_TEST(a_thousand_jobs)
{
    enum { JOBS = 1000, AT_ONCE = 4 };
    open_mode((enum execution_mode)_i);
    static const char *const words[] = {"echo", "copy", "send", "fail"};
    struct test_job *running[AT_ONCE] = {0};
    int started = 0, ended = 0;
    while (ended < JOBS) {
        for (int i = 0; i < AT_ONCE; i++) {
            if (running[i] && running[i]->ends) {
                test_job_free(running[i]);
                running[i] = NULL;
                ended++;
            }
            if (!running[i] && started < JOBS)
                running[i] = test_start_job(words[started++ % 4]);
        }
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
    }
    ck_assert_int_eq(started, JOBS);
}
END_TEST

START_TEST(a_handler_gives_up)
{
    open_mode((enum execution_mode)_i);
    struct test_job *test = test_start_job("wait");
    if (_i != MODE_ASYNC) { /* once while it may be on its way only */
        ck_assert(executor->ops->cancel(executor, &test->job));
        test_wait(test);
        ck_assert_int_eq(test->error.code, ERR_CANCELLED);
        test_job_free(test);
        test = test_start_job("wait");
        RUN_LOOP_UNTIL(loop, test->job.ride != NULL); /* something runs it */
    }
    ck_assert_int_eq(test->ends, 0);
    ck_assert(executor->ops->cancel(executor, &test->job));
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_CANCELLED);
    ck_assert_str_eq(test->error.text, "the handler gave up");
    test_job_free(test);
    test = test_run("echo");
    ck_assert_int_eq(test->error.code, ERR_NONE);
    test_job_free(test);
}
END_TEST

START_TEST(freeing_ends_what_runs)
{
    open_mode((enum execution_mode)_i);
    struct test_job *tests[4];
    for (int i = 0; i < (_i == MODE_ASYNC ? 1 : 4); i++)
        tests[i] = test_start_job("wait");
    run_loop_turns(loop);
    executor->ops->free(executor);
    executor = NULL;
    for (int i = 0; i < (_i == MODE_ASYNC ? 1 : 4); i++) {
        ck_assert_int_eq(tests[i]->error.code, ERR_CANCELLED);
        test_job_free(tests[i]);
    }
}
END_TEST

/* More jobs than can run: they wait their turn, and can be taken back meanwhile. */
START_TEST(jobs_wait_for_their_turn)
{
    open_mode((enum execution_mode)_i);
    struct test_job *tests[12];
    for (int i = 0; i < 12; i++)
        tests[i] = test_start_job(i < 4 ? "wait" : "echo");
    ck_assert(executor->ops->cancel(executor, &tests[11]->job));
    ck_assert_int_eq(tests[11]->ends, 1);
    ck_assert_int_eq(tests[11]->error.code, ERR_CANCELLED);
    test_sleep_ms(20);
    run_loop_turns(loop);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(tests[i]->ends, 0);
        executor->ops->cancel(executor, &tests[i]->job);
    }
    for (int i = 0; i < 12; i++) {
        test_wait(tests[i]);
        ck_assert_int_eq(tests[i]->error.code, i >= 4 && i < 11 ? ERR_NONE : ERR_CANCELLED);
        test_job_free(tests[i]);
    }
}
END_TEST

int main(int argc, char **argv)
{
    int code = test_handler_child(argc, argv);
    if (code >= 0)
        return code;
    Suite *suite = suite_create("executor");
    TCase *tests = tcase_create("every mode");
    tcase_add_checked_fixture(tests, test_setup, test_teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, the_own_body_is_no_copy, 0, MODE_COUNT);
    tcase_add_loop_test(tests, a_reply_of_its_own, 0, MODE_COUNT);
    tcase_add_loop_test(tests, what_it_sends, 0, MODE_COUNT);
    tcase_add_loop_test(tests, what_it_is_given, 0, MODE_COUNT);
    tcase_add_loop_test(tests, errors_come_as_they_are, 0, MODE_COUNT);
    tcase_add_loop_test(tests, an_end_that_comes_later, 0, MODE_COUNT);
    tcase_add_loop_test(tests, large_bodies, 0, MODE_COUNT);
    tcase_add_loop_test(tests, a_thousand_jobs, 0, MODE_COUNT);
    tcase_add_loop_test(tests, a_handler_gives_up, 0, MODE_COUNT);
    tcase_add_loop_test(tests, freeing_ends_what_runs, 0, MODE_COUNT);
    tcase_add_loop_test(tests, jobs_wait_for_their_turn, 1, MODE_COUNT);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
