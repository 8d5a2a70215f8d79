/* Threads whose handlers block, and too few of them. */
#include "test_handler.h"

#include <sys/resource.h>
#include <sys/wait.h>

static void open_item(int index)
{
    struct err err;
    executor = executor_threads_new(&env, &production->items[index], &test_class, &err);
    ck_assert_ptr_nonnull(executor);
}

/* The thread that a "where" was answered from. */
static long thread_of(struct test_job *test)
{
    int pid;
    long thread;
    char text[200] = {0};
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_NONE);
    ck_assert_uint_lt(test->job.reply.len, sizeof(text));
    memcpy(text, test->job.reply.ptr, test->job.reply.len);
    ck_assert_int_eq(sscanf(text, "%d %ld", &pid, &thread), 2);
    test_job_free(test);
    return thread;
}

static int ticks;
static struct loop_timer ticker;

static void count_tick(void *arg)
{
    (void)arg;
    ticks++;
    loop_timer_set(&ticker, 5);
}

START_TEST(a_handler_that_blocks_blocks_nobody_else)
{
    open_item(0);
    struct test_job *blocked[3];
    loop_timer_init(&ticker, loop, count_tick, NULL);
    loop_timer_set(&ticker, 5);
    for (int i = 0; i < 3; i++)
        blocked[i] = test_start_job("block");
    thread_of(test_start_job("where"));
    ck_assert_int_eq(blocked[0]->ends + blocked[1]->ends + blocked[2]->ends, 0);
    for (int i = 0; i < 3; i++) {
        test_wait(blocked[i]);
        ck_assert(slice_is(blocked[i]->job.reply_content_type, "text/blocked"));
        test_job_free(blocked[i]);
    }
    ck_assert_int_gt(ticks, 3);
    loop_timer_done(&ticker);
}
END_TEST

START_TEST(the_late_end_of_a_blocked_one_counts)
{
    open_item(0);
    struct test_job *test = test_start_job("block");
    test_sleep_ms(50);
    ck_assert(executor->ops->cancel(executor, &test->job));
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_NONE);
    test_job_free(test);
    /* The request that came too late is not the next one's. */
    test = test_run("later");
    ck_assert_int_eq(test->error.code, ERR_NONE);
    test_job_free(test);
}
END_TEST

START_TEST(the_last_thread_is_used_first)
{
    open_item(0);
    long thread = thread_of(test_start_job("where"));
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(thread_of(test_start_job("where")), thread);
}
END_TEST

START_TEST(no_more_than_concurrency)
{
    enum { JOBS = 64 };
    open_item(0);
    struct test_job *tests[JOBS];
    long threads[JOBS];
    int count = 0;
    for (int i = 0; i < JOBS; i++)
        tests[i] = test_start_job("where");
    for (int i = 0; i < JOBS; i++) {
        long thread = thread_of(tests[i]);
        int at = 0;
        while (at < count && threads[at] != thread)
            at++;
        threads[at] = thread;
        count += at == count;
    }
    ck_assert_int_ge(count, 1);
    ck_assert_int_le(count, 4);
}
END_TEST

START_TEST(a_handler_that_does_not_open_shows_at_once)
{
    struct err err;
    ck_assert_ptr_null(executor_threads_new(&env, &production->items[2], &test_class, &err));
    ck_assert_int_eq(err.code, ERR_CONFIG);
    ck_assert_str_eq(err.text, "it does not open here");
}
END_TEST

static void forbid_descriptors(void)
{
    struct rlimit limit;
    int next = dup(STDERR_FILENO);
    close(next);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)next + 2;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(too_few_threads_take_turns)
{
    open_item(0);
    long thread = thread_of(test_start_job("where"));
    forbid_descriptors();
    struct test_job *tests[4];
    for (int i = 0; i < 4; i++)
        tests[i] = test_start_job("where");
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(thread_of(tests[i]), thread);
}
END_TEST

START_TEST(without_descriptors_there_is_no_executor)
{
    struct err err;
    executor = executor_loop_new(&env, &production->items[0], &test_class, &err);
    executor->ops->free(executor);
    executor = NULL;
    struct rlimit limit, before;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = dup(STDERR_FILENO);
    close(next);
    limit = before;
    for (rlim_t more = 0; more <= 4; more += 4) { /* none at all; its own eventfd, no thread's */
        limit.rlim_cur = (rlim_t)next + more;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_ptr_null(executor_threads_new(&env, &production->items[0], &test_class, &err));
        ck_assert_int_eq(err.code, ERR_IO);
    }
    setrlimit(RLIMIT_NOFILE, &before);
}
END_TEST

START_TEST(threads_without_a_job_leave_at_once)
{
    open_item(0);
    test_job_free(test_run("echo"));
    int64_t begin_ms = clock_mono_ms();
    while (!executor->ops->leave(executor))
        test_sleep_ms(1);
    ck_assert_int_lt(clock_mono_ms() - begin_ms, 1000);
}
END_TEST

START_TEST(a_thread_that_never_returns_ends_the_program)
{
    static const int exit_code = 7;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        env.exit_code = &exit_code;
        open_item(0);
        test_start_job("hang");
        test_sleep_ms(50);
        executor->ops->free(executor);
        _exit(1);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("executor threads");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, test_setup, test_teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_handler_that_blocks_blocks_nobody_else);
    tcase_add_test(tests, the_late_end_of_a_blocked_one_counts);
    tcase_add_test(tests, the_last_thread_is_used_first);
    tcase_add_test(tests, no_more_than_concurrency);
    tcase_add_test(tests, a_handler_that_does_not_open_shows_at_once);
    tcase_add_test(tests, too_few_threads_take_turns);
    tcase_add_test(tests, without_descriptors_there_is_no_executor);
    tcase_add_test(tests, threads_without_a_job_leave_at_once);
    tcase_add_test(tests, a_thread_that_never_returns_ends_the_program);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
