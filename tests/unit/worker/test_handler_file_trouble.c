/* FileWriter where the disk says no, and where jobs are cancelled and items closed at any moment. */
#include "file_writer_fixture.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { LIMIT_BYTES = 1 << 20 };

/* Runs in a child: a user without rights, a limit on file sizes. Its exit code is 0 when the write failed retryably and
 * left nothing. */
static void ck_fails_in_child(void (*restrict_child)(void))
{
    /* Threads do not survive a fork, and what they held stays locked: none may be there. */
    file_writer_class.close(state);
    state = NULL;
    offload = offload_free(offload);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        loop = loop_new();
        offload = offload_new(loop, 1);
        const struct handler_env env = {.loop = loop, .offload = offload};
        file_writer_class.open(&env, &item, &state, NULL);
        restrict_child();
        static char body[LIMIT_BYTES + 1];
        struct job *job = start(body, sizeof(body));
        fake_job_wait(loop, job);
        _exit(!job->good && job->error.code == ERR_IO ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_le(file_count(), 0);
}

static void become_nobody(void)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
        _exit(2);
}

START_TEST(a_folder_without_permission)
{
    ck_assert_int_eq(mkdir(folder, 0500), 0);
    ck_assert_int_eq(chmod(root, 0755), 0);
    ck_fails_in_child(become_nobody);
}
END_TEST

static void limit_files(void)
{
    const struct rlimit none = {.rlim_cur = LIMIT_BYTES, .rlim_max = LIMIT_BYTES};
    setrlimit(RLIMIT_FSIZE, &none); /* the signal must not end the process: threads block it */
}

START_TEST(a_file_size_limit)
{
    ck_fails_in_child(limit_files);
}
END_TEST

START_TEST(a_full_disk)
{
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    if (mount("tmpfs", folder, "tmpfs", 0, "size=64k") != 0) {
        fprintf(stderr, "a_full_disk: skipped, cannot mount a file system here (%s)\n",
                strerror(errno));
        return;
    }
    char *body = mem_alloc(48 << 10);
    struct job *fits = start(body, 48 << 10);
    fake_job_wait(loop, fits);
    struct job *full[2] = {start(body, 48 << 10), start(body, 48 << 10)};
    fake_jobs_wait(loop, full, 2);
    ck_assert(fits->good);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(full[i]->error.code, ERR_IO);
        ck_assert_ptr_nonnull(strstr(full[i]->error.text, strerror(ENOSPC)));
        fake_job_free(full[i]);
    }
    ck_assert_int_eq(file_count(), 1); /* no temporary file is left */
    ck_assert_int_eq(unlink(path_of(fits->reply)), 0);
    fake_job_free(fits);
    struct job *later = start(body, 48 << 10);
    fake_job_wait(loop, later);
    ck_assert(later->good);
    fake_job_free(later);
    free(body);
    ck_assert_int_eq(umount(folder), 0);
}
END_TEST

/* One file that cannot be written leaves the others of its batch alone. */
START_TEST(one_of_a_batch_fails)
{
    use("out", "${MSH-10}");
    static const char ours[] = "MSH|^~\\&|A|B|C|D|2026||ADT^A01|n|P|2.5\rPID|1\r";
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    struct job *blocked = fake_job_new(&item, SLICE_LITERAL("no HL7")); /* is called by its id */
    char id[UUID_TEXT_LEN + 1];
    uuid_format(blocked->id, id);
    ck_assert_int_eq(mkdir(path_of(id), 0700), 0); /* a folder cannot be replaced by a file */
    struct job *good = start(ours, strlen(ours));
    file_writer_class.start(state, blocked);
    struct job *jobs[] = {good, blocked};
    fake_jobs_wait(loop, jobs, 2);
    ck_assert(good->good);
    ck_assert_int_eq(blocked->error.code, ERR_IO);
    ck_assert_ptr_null(strstr(blocked->error.text, id));
    ck_assert_int_eq(file_count(), 2);
    fake_job_free(good);
    fake_job_free(blocked);
}
END_TEST

/* ---- leftovers of a crash ---- */

START_TEST(old_temporary_files_are_removed)
{
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    static const char *const old[] = {".hie-old-1-0.tmp", ".hie-new-1-0.tmp", ".hie-x",
                                      "plain.tmp"};
    for (int i = 0; i < 4; i++) {
        put_file(old[i], "half");
        const struct timespec long_ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
        if (i != 1)
            ck_assert_int_eq(utimensat(AT_FDCWD, path_of(old[i]), long_ago, 0), 0);
    }
    fake_job_free(written(ADT));
    ck_assert_int_eq(access(path_of(old[0]), F_OK), -1);
    for (int i = 1; i < 4; i++)
        ck_assert_int_eq(access(path_of(old[i]), F_OK), 0);
}
END_TEST

/* ---- cancel and close, at any moment ---- */

START_TEST(cancelled_before_its_batch)
{
    struct job *job = start(ADT, strlen(ADT)), *other = start(ADT, strlen(ADT));
    file_writer_class.cancel(state, job);
    ck_assert_int_eq(job->error.code, ERR_CANCELLED);
    file_writer_class.cancel(state, job);
    fake_job_wait(loop, other);
    ck_assert(other->good);
    ck_assert_int_eq(file_count(), 1);
    fake_job_free(job);
    fake_job_free(other);
}
END_TEST

/* Whatever the moment: one end, and a file if and only if it is good. */
START_TEST(cancelled_at_any_moment)
{
    for (int round = 0; round < 200; round++) {
        struct job *jobs[4];
        for (int i = 0; i < 4; i++)
            jobs[i] = start(ADT, strlen(ADT));
        struct loop_timer stop;
        loop_timer_init(&stop, loop, fake_wait_over, loop);
        loop_timer_set_us(&stop, (int64_t)random_below(3000));
        loop_run(loop);
        loop_timer_done(&stop);
        for (int i = 0; i < 4; i += 2)
            if (jobs[i]->ends == 0)
                file_writer_class.cancel(state, jobs[i]);
        fake_jobs_wait(loop, jobs, 4);
        int good = 0;
        for (int i = 0; i < 4; i++) {
            good += jobs[i]->good;
            if (!jobs[i]->good)
                ck_assert_int_eq(jobs[i]->error.code, ERR_CANCELLED);
            if (i % 2)
                ck_assert(jobs[i]->good);
            fake_job_free(jobs[i]);
        }
        ck_assert_int_eq(file_count(), good);
        sh("rm -rf", folder);
    }
}
END_TEST

START_TEST(closed_at_any_moment)
{
    for (int round = 0; round < 200; round++) {
        struct job *jobs[80]; /* more than a batch */
        for (int i = 0; i < 80; i++)
            jobs[i] = start(ADT, strlen(ADT));
        struct loop_timer stop;
        loop_timer_init(&stop, loop, fake_wait_over, loop);
        loop_timer_set_us(&stop, (int64_t)random_below(2000));
        loop_run(loop);
        loop_timer_done(&stop);
        file_writer_class.close(state);
        int good = 0;
        for (int i = 0; i < 80; i++) {
            ck_assert_int_eq(jobs[i]->ends, 1);
            good += jobs[i]->good;
            fake_job_free(jobs[i]);
        }
        ck_assert_int_eq(file_count() < 0 ? 0 : file_count(), good);
        sh("rm -rf", folder);
        const struct handler_env env = {.loop = loop, .offload = offload};
        ck_assert_int_eq(file_writer_class.open(&env, &item, &state, NULL), 0);
    }
    fake_idle(loop, 20); /* nothing comes late */
}
END_TEST

struct restart {
    struct job *next;
};

static void on_end_start_next(void *arg)
{
    struct restart *restart = arg;
    file_writer_class.start(state, restart->next);
}

START_TEST(an_end_may_start_the_next)
{
    struct restart restart = {.next = fake_job_new(&item, slice_text(ADT))};
    struct job *first = fake_job_new(&item, slice_text(ADT));
    first->on_end = on_end_start_next;
    first->arg = &restart;
    file_writer_class.start(state, first);
    fake_job_wait(loop, restart.next);
    ck_assert(first->good);
    ck_assert(restart.next->good);
    fake_job_free(first);
    fake_job_free(restart.next);
}
END_TEST

int main(void)
{
    umask(022);
    Suite *suite = suite_create("file writer in trouble");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_folder_without_permission);
    tcase_add_test(tests, a_file_size_limit);
    tcase_add_test(tests, a_full_disk);
    tcase_add_test(tests, one_of_a_batch_fails);
    tcase_add_test(tests, old_temporary_files_are_removed);
    tcase_add_test(tests, cancelled_before_its_batch);
    tcase_add_test(tests, cancelled_at_any_moment);
    tcase_add_test(tests, closed_at_any_moment);
    tcase_add_test(tests, an_end_may_start_the_next);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
