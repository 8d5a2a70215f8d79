/* FileWriter with real files and threads: contents, names, collisions, repeats, folders. */
#include "file_writer_fixture.h"

enum { MANY = 300 };

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
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
