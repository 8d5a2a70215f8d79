/* FileWriter with real files and threads: contents, names, collisions, repeats, and a disk that says no. */
#include "fake_job.h"

#include "handlers/classes.h"
#include "offload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 300, LIMIT_BYTES = 1 << 20 };

static const char ADT[] =
    "MSH|^~\\&|REG|WEST|HIE|HUB|20260210||ADT^A01|MSG00042|P|2.5\rPID|1||42\r";
static const char *const names[] = {"correlation_id", NULL};

static char root[] = "/tmp/hie-file-writer-XXXXXX";
static char folder[256];
static struct loop *loop;
static struct offload *offload;
static struct file_writer_settings settings;
static struct item item;
static void *state;

static void use(const char *folder_, const char *name)
{
    hl7_template_done(&settings.name);
    snprintf(folder, sizeof(folder), "%s/%s", root, folder_);
    settings.folder = folder;
    ck_assert_int_eq(hl7_template_parse(slice_text(name), names, &settings.name, NULL), 0);
}

static void setup(void)
{
    snprintf(root, sizeof(root), "/tmp/hie-file-writer-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    memset(&settings, 0, sizeof(settings));
    use("out", "${MSH-10}-${correlation_id}.hl7");
    loop = loop_new();
    offload = offload_new(loop, 2);
    item = (struct item){.id = (char *)"Writer", .settings = &settings};
    const struct handler_env env = {.loop = loop, .offload = offload};
    ck_assert_int_eq(file_writer_class.open(&env, &item, &state, NULL), 0);
}

static void sh(const char *command, const char *path)
{
    char line[512];
    snprintf(line, sizeof(line), "%s '%s'", command, path);
    int rc = system(line);
    ck_assert_int_eq(rc, 0);
}

static void teardown(void)
{
    if (state)
        file_writer_class.close(state);
    offload = offload_free(offload);
    loop = loop_free(loop);
    hl7_template_done(&settings.name);
    sh("rm -rf", root);
}

/* ---- looking at files ---- */

static const char *path_of(const char *name)
{
    static char path[600];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void ck_file(const char *name, const void *content, size_t len)
{
    FILE *file = fopen(path_of(name), "r");
    ck_assert_msg(file != NULL, "%s is not there", name);
    char *read = mem_alloc(len + 1);
    ck_assert_uint_eq(fread(read, 1, len + 1, file), len);
    ck_assert_mem_eq(read, content, len);
    free(read);
    fclose(file);
}

static void put_file(const char *name, const char *content)
{
    FILE *file = fopen(path_of(name), "w");
    ck_assert_ptr_nonnull(file);
    fputs(content, file);
    fclose(file);
}

/* Files in the folder, hidden ones too. */
static int file_count(void)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return -1;
    int count = -2; /* . and .. */
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* ---- writing ---- */

static struct job *start(const char *body, size_t len)
{
    struct job *job = fake_job_new(&item, slice_of(body, len));
    file_writer_class.start(state, job);
    return job;
}

static struct job *written(const char *body)
{
    struct job *job = start(body, strlen(body));
    fake_job_wait(loop, job);
    return job;
}

static void ck_io_error(struct job *job)
{
    ck_assert(!job->good);
    ck_assert_int_eq(job->error.code, ERR_IO);
    ck_assert_ptr_null(strstr(job->error.text, "MSG00042"));
    fake_job_free(job);
}

START_TEST(writes_the_body_and_replies_the_name)
{
    ck_assert_ptr_null(file_writer_class.immediate);
    struct job *job = start(ADT, strlen(ADT));
    ck_assert_int_eq(job->ends, 0);
    fake_job_wait(loop, job);
    ck_assert(job->good);
    char id[UUID_TEXT_LEN + 1], name[100];
    uuid_format(job->id, id);
    snprintf(name, sizeof(name), "MSG00042-%s.hl7", id);
    ck_assert_str_eq(job->reply, name);
    ck_assert_str_eq(job->reply_type, "text/plain");
    ck_file(name, ADT, strlen(ADT));
    ck_assert_int_eq(file_count(), 1);

    struct stat st;
    ck_assert_int_eq(stat(path_of(name), &st), 0);
    ck_assert_int_eq(st.st_mode & 0777 & ~0640, 0);
    fake_job_free(job);
}
END_TEST

START_TEST(bodies_of_any_bytes)
{
    use("out", "${MSH-10}_${correlation_id}");
    struct job *empty = start("", 0), *binary = start("\0\xff\n\r\0", 5);
    struct job *jobs[] = {empty, binary};
    fake_jobs_wait(loop, jobs, 2);
    ck_file(empty->reply, "", 0);
    ck_file(binary->reply, "\0\xff\n\r\0", 5);
    ck_assert_int_eq(binary->reply[0], '_'); /* no HL7: no MSH-10 */
    fake_job_free(empty);
    fake_job_free(binary);
}
END_TEST

START_TEST(a_large_body)
{
    size_t len = 20 << 20;
    char *body = mem_alloc(len);
    for (size_t i = 0; i < len; i++)
        body[i] = (char)(i * 7);
    struct job *job = start(body, len);
    fake_job_wait(loop, job);
    ck_assert(job->good);
    ck_file(job->reply, body, len);
    free(body);
    fake_job_free(job);
}
END_TEST

START_TEST(many_at_once)
{
    struct job *jobs[MANY];
    char body[64];
    for (int i = 0; i < MANY; i++) {
        snprintf(body, sizeof(body), "body %d", i);
        jobs[i] = start(body, strlen(body));
    }
    fake_jobs_wait(loop, jobs, MANY);
    ck_assert_int_eq(file_count(), MANY);
    for (int i = 0; i < MANY; i++) {
        snprintf(body, sizeof(body), "body %d", i);
        ck_assert(jobs[i]->good);
        ck_file(jobs[i]->reply, body, strlen(body));
        fake_job_free(jobs[i]);
    }
}
END_TEST

START_TEST(hostile_values_stay_in_the_folder)
{
    use("a/out", "${MSH-10}");
    static const char *const values[] = {"../../x", "/etc/x", "..", ".", "\\X2F\\x", "x\xff"};
    char body[128];
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        snprintf(body, sizeof(body), "MSH|^~\\&|A|B|C|D|2026||ADT^A01|%s|P|2.5\r", values[i]);
        struct job *job = written(body);
        ck_assert(job->good);
        ck_assert_ptr_null(strchr(job->reply, '/'));
        ck_file(job->reply, body, strlen(body));
        fake_job_free(job);
    }
    ck_assert_int_eq(file_count(), 6);
    snprintf(folder, sizeof(folder), "%s/a", root);
    ck_assert_int_eq(file_count(), 1);
    snprintf(folder, sizeof(folder), "%s", root);
    ck_assert_int_eq(file_count(), 1);
}
END_TEST

/* ---- repeats and collisions ---- */

START_TEST(a_repeat_writes_its_own_file_again)
{
    struct job *first = written(ADT), *again = fake_job_new(&item, slice_text(ADT));
    again->id = first->id;
    again->attempt = 2;
    put_file(first->reply, "half of i"); /* as if a broken disk had kept a part only */
    file_writer_class.start(state, again);
    fake_job_wait(loop, again);
    ck_assert_str_eq(again->reply, first->reply);
    ck_file(first->reply, ADT, strlen(ADT));
    ck_assert_int_eq(file_count(), 1);
    fake_job_free(first);
    fake_job_free(again);
}
END_TEST

START_TEST(the_same_content_under_the_same_name)
{
    use("out", "${MSH-10}.hl7");
    struct job *jobs[2] = {start(ADT, strlen(ADT)), start(ADT, strlen(ADT))};
    fake_jobs_wait(loop, jobs, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert_str_eq(jobs[i]->reply, "MSG00042.hl7");
        fake_job_free(jobs[i]);
    }
    ck_file("MSG00042.hl7", ADT, strlen(ADT));
    ck_assert_int_eq(file_count(), 1);
}
END_TEST

START_TEST(another_message_under_the_same_name)
{
    use("out", "${MSH-10}.hl7");
    static const char other[] =
        "MSH|^~\\&|REG|WEST|HIE|HUB|20260210||ADT^A01|MSG00042|P|2.5\rPID|1||43\r";
    struct job *first = written(ADT), *second = written(other);
    ck_assert_str_eq(first->reply, "MSG00042.hl7");
    char id[UUID_TEXT_LEN + 1], name[100];
    uuid_format(second->id, id);
    snprintf(name, sizeof(name), "MSG00042-%s.hl7", id);
    ck_assert_str_eq(second->reply, name);
    ck_file("MSG00042.hl7", ADT, strlen(ADT));
    ck_file(name, other, strlen(other));

    struct job *again = fake_job_new(&item, slice_text(other));
    again->id = second->id;
    file_writer_class.start(state, again);
    fake_job_wait(loop, again);
    ck_assert_str_eq(again->reply, name);
    ck_assert_int_eq(file_count(), 2);
    fake_job_free(first);
    fake_job_free(second);
    fake_job_free(again);
}
END_TEST

START_TEST(a_longer_and_a_shorter_file_in_the_way)
{
    use("out", "x");
    struct job *first = written("abc");
    put_file("x", "abcd");
    struct job *longer = written("abc");
    put_file("x", "ab");
    struct job *shorter = written("abc");
    put_file("x", "abd");
    struct job *differs = written("abc");
    ck_assert_str_ne(longer->reply, "x");
    ck_assert_str_ne(shorter->reply, "x");
    ck_assert_str_ne(differs->reply, "x");
    ck_file("x", "abd", 3);
    ck_assert_int_eq(file_count(), 4);
    fake_job_free(first);
    fake_job_free(longer);
    fake_job_free(shorter);
    fake_job_free(differs);
}
END_TEST

START_TEST(links_and_pipes_in_the_way)
{
    use("out", "x");
    fake_job_free(written("first"));
    char target[300];
    snprintf(target, sizeof(target), "%s/target", root);
    ck_assert_int_eq(unlink(path_of("x")), 0);
    ck_assert_int_eq(symlink(target, path_of("x")), 0);
    struct job *job = written("second");
    ck_assert_str_ne(job->reply, "x"); /* not through the link */
    ck_assert_int_eq(access(target, F_OK), -1);
    fake_job_free(job);

    ck_assert_int_eq(unlink(path_of("x")), 0);
    ck_assert_int_eq(mkfifo(path_of("x"), 0600), 0);
    job = written("third"); /* and does not wait for a reader */
    ck_assert(job->good);
    ck_assert_str_ne(job->reply, "x");
    fake_job_free(job);

    ck_assert_int_eq(unlink(path_of("x")), 0);
    ck_assert_int_eq(mkdir(path_of("x"), 0700), 0);
    job = written("fourth");
    ck_assert(job->good);
    fake_job_free(job);
}
END_TEST

START_TEST(two_writers_of_one_folder)
{
    use("out", "${MSH-10}.hl7");
    void *other;
    const struct handler_env env = {.loop = loop, .offload = offload};
    ck_assert_int_eq(file_writer_class.open(&env, &item, &other, NULL), 0);
    struct job *jobs[100];
    char body[128];
    for (int i = 0; i < 100; i++) {
        snprintf(body, sizeof(body), "MSH|^~\\&|A|B|C|D|2026||ADT^A01|%d|P|2.5\rPID|%d\r", i / 2,
                 i);
        jobs[i] = fake_job_new(&item, slice_text(body));
        file_writer_class.start(i % 2 ? other : state, jobs[i]);
    }
    fake_jobs_wait(loop, jobs, 100);
    for (int i = 0; i < 100; i++) {
        snprintf(body, sizeof(body), "MSH|^~\\&|A|B|C|D|2026||ADT^A01|%d|P|2.5\rPID|%d\r", i / 2,
                 i);
        ck_assert(jobs[i]->good);
        ck_file(jobs[i]->reply, body, strlen(body));
        fake_job_free(jobs[i]);
    }
    ck_assert_int_eq(file_count(), 100);
    file_writer_class.close(other);
}
END_TEST

/* ---- the folder ---- */

START_TEST(makes_the_folder_with_its_parents)
{
    use("a/b//c/", "x");
    fake_job_free(written("1"));
    struct stat st;
    for (int i = 0; i < 2; i++) {
        snprintf(folder, sizeof(folder), i ? "%s/a/b" : "%s/a", root);
        ck_assert_int_eq(stat(folder, &st), 0);
        ck_assert(S_ISDIR(st.st_mode));
        ck_assert_int_eq(st.st_mode & 0777 & ~0750, 0);
    }
    snprintf(folder, sizeof(folder), "%s/a/b/c", root);
    ck_file("x", "1", 1);
}
END_TEST

START_TEST(a_relative_folder_is_below_the_working_directory)
{
    ck_assert_int_eq(chdir(root), 0);
    char relative[] = "rel/ative";
    settings.folder = relative;
    fake_job_free(written(ADT));
    snprintf(folder, sizeof(folder), "%s/rel/ative", root);
    ck_assert_int_eq(file_count(), 1);
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

START_TEST(a_folder_that_vanishes_comes_back)
{
    fake_job_free(written(ADT));
    sh("rm -rf", folder);
    struct job *job = written(ADT);
    ck_assert(job->good);
    ck_file(job->reply, ADT, strlen(ADT));
    fake_job_free(job);
}
END_TEST

START_TEST(a_folder_that_is_a_file_is_retried)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/out", root);
    FILE *file = fopen(path, "w");
    fclose(file);
    ck_io_error(written(ADT));
    unlink(path);
    fake_job_free(written(ADT)); /* goes well once it is gone */
    ck_assert_int_eq(file_count(), 1);

    use("file/below", "x");
    snprintf(path, sizeof(path), "%s/file", root);
    file = fopen(path, "w");
    fclose(file);
    ck_io_error(written(ADT));
}
END_TEST

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
    Suite *suite = suite_create("file writer");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, writes_the_body_and_replies_the_name);
    tcase_add_test(tests, bodies_of_any_bytes);
    tcase_add_test(tests, a_large_body);
    tcase_add_test(tests, many_at_once);
    tcase_add_test(tests, hostile_values_stay_in_the_folder);
    tcase_add_test(tests, a_repeat_writes_its_own_file_again);
    tcase_add_test(tests, the_same_content_under_the_same_name);
    tcase_add_test(tests, another_message_under_the_same_name);
    tcase_add_test(tests, a_longer_and_a_shorter_file_in_the_way);
    tcase_add_test(tests, links_and_pipes_in_the_way);
    tcase_add_test(tests, two_writers_of_one_folder);
    tcase_add_test(tests, makes_the_folder_with_its_parents);
    tcase_add_test(tests, a_relative_folder_is_below_the_working_directory);
    tcase_add_test(tests, a_folder_that_vanishes_comes_back);
    tcase_add_test(tests, a_folder_that_is_a_file_is_retried);
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
