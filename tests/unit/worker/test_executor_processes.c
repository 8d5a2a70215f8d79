/* Child processes that die, hang, lie, refuse and outlive nobody. */
#include "test_handler.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>

static void open_item(int index)
{
    executor = executor_processes_new(&env, &production->items[index]);
}

static struct test_job *start_on(int index, const char *body)
{
    struct test_job *test = test_job_new(&production->items[index], body, strlen(body));
    executor->ops->start(executor, &test->job);
    return test;
}

/* The pid that a "where" was answered from. */
static pid_t run_where(void)
{
    struct test_job *test = test_run("where");
    ck_assert_int_eq(test->error.code, ERR_NONE);
    char text[200] = {0};
    ck_assert_uint_lt(test->job.reply.len, sizeof(text));
    memcpy(text, test->job.reply.ptr, test->job.reply.len);
    test_job_free(test);
    return (pid_t)atoi(text);
}

static bool metric_is(const char *name, int value)
{
    struct buffer out;
    char line[200];
    snprintf(line, sizeof(line), "%s{item=\"First\",pattern=\"async_reliable\"} %d\n", name, value);
    buffer_init(&out, 1u << 20);
    metrics_print(env.metrics, &out);
    buffer_append_byte(&out, '\0');
    bool found = strstr(out.data, line) != NULL;
    buffer_done(&out);
    return found;
}

/* Gone, or a zombie that nobody waits for. */
static bool is_gone(pid_t pid)
{
    char path[64], text[512] = {0};
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    const char *state = n > 0 ? strrchr(text, ')') : NULL;
    return !state || state[2] == 'Z' || state[2] == 'X';
}

static void wait_gone(pid_t pid)
{
    for (int i = 0; i < 1000 && !is_gone(pid); i++)
        test_sleep_ms(10);
    ck_assert(is_gone(pid));
}

static void ends_with(const char *body, enum error_code code, const char *text)
{
    struct test_job *test = test_run(body);
    ck_assert_int_eq(test->error.code, code);
    ck_assert_str_eq(test->error.text, text);
    ck_assert_uint_eq(test->job.sent_count, 0);
    ck_assert(!test->job.unstarted);
    test_job_free(test);
}

START_TEST(one_that_dies_takes_its_job_along)
{
    open_item(0);
    ends_with("kill", ERR_CRASHED, "its process ended by signal 9");
    ck_assert_int_eq(error_class_of(ERR_CRASHED), ERROR_RETRY);
    ends_with("exit", ERR_CRASHED, "its process ended with exit code 3");
    ends_with("echo", ERR_NONE, "");
    ck_assert(metric_is("hie_child_restarts_total", 2));
    ck_assert(metric_is("hie_children", 1));
}
END_TEST

START_TEST(others_are_untouched)
{
    open_item(0);
    struct test_job *waits[3];
    for (int i = 0; i < 3; i++)
        waits[i] = test_start_job("wait");
    ends_with("kill", ERR_CRASHED, "its process ended by signal 9");
    ends_with("echo", ERR_NONE, "");
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(waits[i]->ends, 0);
        executor->ops->cancel(executor, &waits[i]->job);
        test_wait(waits[i]);
        ck_assert_str_eq(waits[i]->error.text, "the handler gave up");
        test_job_free(waits[i]);
    }
}
END_TEST

START_TEST(what_they_say_is_believed_only_where_it_can_be)
{
    static const char *const lies[] = {"garbage", "ready", "foreign", "huge"};
    open_item(0);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        ends_with(lies[i], ERR_CRASHED, "its process sent what cannot be read");
        ends_with("echo", ERR_NONE, "");
    }
}
END_TEST

START_TEST(one_that_does_not_give_up_is_ended)
{
    open_item(0);
    pid_t pid = run_where();
    struct test_job *test = test_start_job("hang");
    run_loop_turns(loop);
    ck_assert(executor->ops->cancel(executor, &test->job));
    ck_assert_int_eq(test->ends, 0);
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_CANCELLED);
    ck_assert(is_gone(pid));
    test_job_free(test);
    ck_assert_int_ne(run_where(), pid);
}
END_TEST

START_TEST(an_idle_one_that_dies_costs_no_job)
{
    open_item(0);
    for (int i = 0; i < 3; i++) {
        pid_t pid = run_where();
        kill(pid, SIGKILL);
        if (i == 1)
            wait_gone(pid); /* dead, and the loop has not heard of it */
        if (i == 2) {
            wait_gone(pid);
            RUN_LOOP_UNTIL(loop, metric_is("hie_child_restarts_total", 3)); /* without any job */
        }
        if (i == 0)
            RUN_LOOP_UNTIL(loop, metric_is("hie_children", 0));
        ck_assert_int_ne(run_where(), pid);
    }
    ck_assert(metric_is("hie_child_restarts_total", 3));
}
END_TEST

START_TEST(they_are_as_many_as_are_busy_at_once)
{
    open_item(0);
    for (int i = 0; i < 20; i++)
        ends_with("echo", ERR_NONE, "");
    ck_assert(metric_is("hie_children", 1));
    struct test_job *tests[8];
    for (int i = 0; i < 8; i++)
        tests[i] = test_start_job("later");
    for (int i = 0; i < 8; i++) {
        test_wait(tests[i]);
        test_job_free(tests[i]);
    }
    ck_assert(metric_is("hie_children", 4));
}
END_TEST

/* A reload's: the new one is there before the old one goes. */
START_TEST(what_takes_its_place_keeps_its_series)
{
    open_item(0);
    ends_with("echo", ERR_NONE, "");
    struct executor *before = executor;
    open_item(0);
    ends_with("echo", ERR_NONE, "");
    ck_assert(metric_is("hie_children", 2));
    before->ops->retire(before);
    before->ops->free(before);
    ck_assert(metric_is("hie_children", 1));
}
END_TEST

START_TEST(a_crash_loop_is_slowed_and_is_over_with_a_good_end)
{
    open_item(0);
    int64_t begin_ms = clock_mono_ms();
    for (int i = 0; i < 4; i++)
        ends_with("kill", ERR_CRASHED, "its process ended by signal 9");
    ck_assert_int_ge(clock_mono_ms() - begin_ms, 100 + 200 + 400);
    ck_assert(health_ready(env.health)); /* shown, but nothing else suffers */
    ends_with("echo", ERR_NONE, "");
    begin_ms = clock_mono_ms();
    ends_with("kill", ERR_CRASHED, "its process ended by signal 9");
    ends_with("echo", ERR_NONE, "");
    ck_assert_int_lt(clock_mono_ms() - begin_ms, 800); /* 100 again, not 1600 */
}
END_TEST

START_TEST(one_that_refuses_pauses_its_lane)
{
    open_item(2);
    struct test_job *test = start_on(2, "echo");
    ck_assert(!executor->paused);
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_UNAVAILABLE);
    ck_assert_str_eq(test->error.text, "its child processes do not start: it does not open here");
    ck_assert(test->job.unstarted);
    ck_assert(executor->paused);
    ck_assert(health_ready(env.health));
    test_job_free(test);
}
END_TEST

START_TEST(they_start_again_when_they_can)
{
    char mark[] = "/tmp/hie-test-dies-XXXXXX";
    close(mkstemp(mark));
    setenv(TEST_DIES, mark, 1);
    open_item(3);
    RUN_LOOP_UNTIL(loop, executor->paused);
    unlink(mark);
    RUN_LOOP_UNTIL(loop, !executor->paused); /* by itself */
    struct test_job *test = start_on(3, "echo");
    test_wait(test);
    ck_assert_int_eq(test->error.code, ERR_NONE);
    test_job_free(test);
}
END_TEST

static bool never(const struct job *job)
{
    (void)job;
    return false;
}

START_TEST(what_waited_for_one_asks_before_it_starts)
{
    open_item(0);
    struct test_job *test = test_start_job("echo"); /* none is ready yet */
    test->job.may_start = never;
    test_wait(test);
    ck_assert(test->job.unstarted);
    ck_assert_int_eq(test->error.code, ERR_UNAVAILABLE);
    test_job_free(test);
    ends_with("echo", ERR_NONE, "");
}
END_TEST

START_TEST(it_is_named_by_its_item)
{
    open_item(0);
    char path[64], text[200] = {0};
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)run_where());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_gt(read(fd, text, sizeof(text) - 1), 0);
    close(fd);
    ck_assert_str_eq(text, "hie-worker: item First");
}
END_TEST

static int highest_fd(pid_t pid)
{
    char path[64];
    int highest = -1;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (atoi(entry->d_name) > highest)
            highest = atoi(entry->d_name);
    }
    closedir(dir);
    return highest;
}

START_TEST(it_gets_no_descriptor_of_its_worker)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD, 100); /* not close-on-exec, as some libraries' are */
    ck_assert_int_ge(fd, 100);
    open_item(0);
    ck_assert_int_lt(highest_fd(run_where()), 100);
    close(fd);
}
END_TEST

START_TEST(signals_to_the_group_are_its_workers_business)
{
    open_item(0);
    pid_t pid = run_where();
    kill(pid, SIGTERM);
    kill(pid, SIGINT);
    kill(pid, SIGHUP);
    test_sleep_ms(20);
    ck_assert_int_eq(run_where(), pid);
    executor->ops->free(executor);
    executor = NULL;
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), -1); /* left, and reaped */
}
END_TEST

/* A worker in a process of its own, with an idle child and one whose handler hangs; their pids. */
static pid_t start_worker(pid_t ret_pids[static 2])
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t worker = fork();
    if (worker == 0) {
        open_item(0);
        ret_pids[0] = run_where();
        struct test_job *test = test_start_job("hang");
        run_loop_turns(loop);
        ret_pids[1] = run_where(); /* another one: the first hangs */
        ssize_t n = write(fds[1], ret_pids, 2 * sizeof(*ret_pids));
        (void)n;
        (void)test;
        for (;;)
            pause();
    }
    ck_assert_int_eq(read(fds[0], ret_pids, 2 * sizeof(*ret_pids)), 2 * sizeof(*ret_pids));
    close(fds[0]);
    close(fds[1]);
    return worker;
}

START_TEST(they_die_with_their_worker)
{
    pid_t pids[2];
    pid_t worker = start_worker(pids);
    ck_assert_int_ne(pids[0], pids[1]);
    ck_assert(!is_gone(pids[0]) && !is_gone(pids[1]));
    kill(worker, SIGKILL);
    waitpid(worker, NULL, 0);
    wait_gone(pids[0]);
    wait_gone(pids[1]);
}
END_TEST

/* A reload's loop goes on meanwhile. */
START_TEST(leaving_waits_for_nobody)
{
    open_item(0);
    pid_t pid = run_where();
    kill(pid, SIGSTOP); /* it does not leave by itself */
    int64_t begin_ms = clock_mono_ms(), longest_ms = 0;
    for (bool gone = false; !gone && clock_mono_ms() - begin_ms < 20000; test_sleep_ms(5)) {
        int64_t called_ms = clock_mono_ms();
        gone = executor->ops->leave(executor);
        if (clock_mono_ms() - called_ms > longest_ms)
            longest_ms = clock_mono_ms() - called_ms;
        run_loop_turns(loop);
    }
    ck_assert(is_gone(pid));
    ck_assert_int_ge(clock_mono_ms() - begin_ms, 1000);
    ck_assert_int_lt(longest_ms, 500);
    ck_assert(metric_is("hie_children", 0));
}
END_TEST

START_TEST(freeing_kills_one_that_hangs)
{
    open_item(0);
    pid_t pid = run_where();
    struct test_job *test = test_start_job("hang");
    run_loop_turns(loop);
    executor->ops->free(executor);
    executor = NULL;
    ck_assert_int_eq(test->error.code, ERR_CANCELLED);
    ck_assert(is_gone(pid));
    test_job_free(test);
}
END_TEST

int main(int argc, char **argv)
{
    int code = test_handler_child(argc, argv);
    if (code >= 0)
        return code;
    Suite *suite = suite_create("executor processes");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, test_setup, test_teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, one_that_dies_takes_its_job_along);
    tcase_add_test(tests, others_are_untouched);
    tcase_add_test(tests, what_they_say_is_believed_only_where_it_can_be);
    tcase_add_test(tests, one_that_does_not_give_up_is_ended);
    tcase_add_test(tests, an_idle_one_that_dies_costs_no_job);
    tcase_add_test(tests, they_are_as_many_as_are_busy_at_once);
    tcase_add_test(tests, what_takes_its_place_keeps_its_series);
    tcase_add_test(tests, a_crash_loop_is_slowed_and_is_over_with_a_good_end);
    tcase_add_test(tests, one_that_refuses_pauses_its_lane);
    tcase_add_test(tests, they_start_again_when_they_can);
    tcase_add_test(tests, what_waited_for_one_asks_before_it_starts);
    tcase_add_test(tests, it_is_named_by_its_item);
    tcase_add_test(tests, it_gets_no_descriptor_of_its_worker);
    tcase_add_test(tests, signals_to_the_group_are_its_workers_business);
    tcase_add_test(tests, they_die_with_their_worker);
    tcase_add_test(tests, leaving_waits_for_nobody);
    tcase_add_test(tests, freeing_kills_one_that_hangs);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
