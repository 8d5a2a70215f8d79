/* Echo: replies, fails and waits as its settings say; ends every job once, also when cancelled or closed. */
#include "fake_job.h"

#include "handlers/classes.h"

static struct loop *loop;
static struct echo_settings settings;
static struct item item;
static void *state;

static void setup(void)
{
    loop = loop_new();
    settings = (struct echo_settings){.reject_matching = (char *)""};
    item = (struct item){.id = (char *)"Echo", .settings = &settings};
    const struct handler_env env = {.loop = loop};
    ck_assert_int_eq(echo_class.open(&env, &item, &state, NULL), 0);
}

static void teardown(void)
{
    if (state)
        echo_class.close(state);
    loop = loop_free(loop);
}

static struct job *started(const char *text, int attempt)
{
    struct job *job = fake_job_new(&item, slice_text(text));
    job->attempt = attempt;
    echo_class.start(state, job);
    return job;
}

START_TEST(replies_the_body_with_its_content_type)
{
    struct job *job = fake_job_new(&item, slice_of("a\0b", 3));
    fake_job_content_type(job, "text/x-thing");
    echo_class.start(state, job);
    ck_assert(job->good);
    ck_assert_uint_eq(job->reply_len, 3);
    ck_assert_mem_eq(job->reply, "a\0b", 3);
    ck_assert_str_eq(job->reply_type, "text/x-thing");
    fake_job_free(job);

    job = started("", 1);
    ck_assert(job->good);
    ck_assert_uint_eq(job->reply_len, 0);
    fake_job_free(job);
}
END_TEST

START_TEST(is_immediate_without_delay_only)
{
    ck_assert(echo_class.immediate(&item));
    settings.delay_ms = 1;
    ck_assert(!echo_class.immediate(&item));
}
END_TEST

START_TEST(fails_retryably_on_the_first_attempts)
{
    settings.fail_attempts = 2;
    for (int attempt = 1; attempt <= 3; attempt++) {
        struct job *job = started("x", attempt);
        ck_assert_int_eq(job->good, attempt == 3);
        if (!job->good)
            ck_assert_int_eq(error_class_of(job->error.code), ERROR_RETRY);
        fake_job_free(job);
    }
}
END_TEST

START_TEST(rejects_matching_bodies_for_good)
{
    char text[] = "POISON";
    settings.reject_matching = text;
    settings.fail_attempts = 9; /* the text wins: it would fail for ever anyway */
    struct job *job = started("a POISON pill", 1);
    ck_assert_int_eq(error_class_of(job->error.code), ERROR_REJECT);
    ck_assert_ptr_null(strstr(job->error.text, "pill"));
    fake_job_free(job);

    settings.fail_attempts = 0;
    job = started("a POISO pill", 1);
    ck_assert(job->good);
    fake_job_free(job);

    job = fake_job_new(&item, slice_of("\0POISON", 7)); /* a NUL hides nothing */
    echo_class.start(state, job);
    ck_assert(!job->good);
    fake_job_free(job);

    settings.reject_matching = NULL;
    job = started("POISON", 1);
    ck_assert(job->good);
    fake_job_free(job);
}
END_TEST

START_TEST(waits_its_delay)
{
    settings.delay_ms = 20;
    int64_t began = clock_mono_ms();
    struct job *jobs[3] = {started("1", 1), started("2", 1), started("3", 1)};
    ck_assert_int_eq(jobs[0]->ends, 0);
    fake_jobs_wait(loop, jobs, 3);
    ck_assert_int_ge(clock_mono_ms() - began, 19);
    for (int i = 0; i < 3; i++) {
        ck_assert(jobs[i]->good);
        fake_job_free(jobs[i]);
    }
}
END_TEST

START_TEST(cancelled_while_it_waits)
{
    settings.delay_ms = 20;
    struct job *cancelled = started("1", 1), *other = started("2", 1);
    echo_class.cancel(state, cancelled);
    ck_assert_int_eq(cancelled->error.code, ERR_CANCELLED);
    echo_class.cancel(state, cancelled); /* too late: changes nothing */
    fake_job_wait(loop, other);
    ck_assert(other->good);
    fake_job_free(cancelled);
    fake_job_free(other);
}
END_TEST

START_TEST(closed_while_it_waits)
{
    settings.delay_ms = 60000;
    struct job *jobs[2] = {started("1", 1), started("2", 1)};
    echo_class.close(state);
    state = NULL;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(jobs[i]->error.code, ERR_CANCELLED);
        fake_job_free(jobs[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("echo");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, replies_the_body_with_its_content_type);
    tcase_add_test(tests, is_immediate_without_delay_only);
    tcase_add_test(tests, fails_retryably_on_the_first_attempts);
    tcase_add_test(tests, rejects_matching_bodies_for_good);
    tcase_add_test(tests, waits_its_delay);
    tcase_add_test(tests, cancelled_while_it_waits);
    tcase_add_test(tests, closed_while_it_waits);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
