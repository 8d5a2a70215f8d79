/* A FileWriter on a folder of its own in /tmp, with real threads. Include it in one file of a program only. */
#ifndef HIE_FILE_WRITER_FIXTURE_H
#define HIE_FILE_WRITER_FIXTURE_H

#include "fake_job.h"

#include "handlers/classes.h"
#include "offload.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

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

static inline void use(const char *folder_, const char *name)
{
    hl7_template_done(&settings.name);
    snprintf(folder, sizeof(folder), "%s/%s", root, folder_);
    settings.folder = folder;
    ck_assert_int_eq(hl7_template_parse(slice_text(name), names, &settings.name, NULL), 0);
}

static inline void setup(void)
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

static inline void sh(const char *command, const char *path)
{
    char line[512];
    snprintf(line, sizeof(line), "%s '%s'", command, path);
    int rc = system(line);
    ck_assert_int_eq(rc, 0);
}

static inline void teardown(void)
{
    if (state)
        file_writer_class.close(state);
    offload = offload_free(offload);
    loop = loop_free(loop);
    hl7_template_done(&settings.name);
    sh("rm -rf", root);
}

/* ---- looking at files ---- */

static inline const char *path_of(const char *name)
{
    static char path[600];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static inline void ck_file(const char *name, const void *content, size_t len)
{
    FILE *file = fopen(path_of(name), "r");
    ck_assert_msg(file != NULL, "%s is not there", name);
    char *read = mem_alloc(len + 1);
    ck_assert_uint_eq(fread(read, 1, len + 1, file), len);
    ck_assert_mem_eq(read, content, len);
    free(read);
    fclose(file);
}

static inline void put_file(const char *name, const char *content)
{
    FILE *file = fopen(path_of(name), "w");
    ck_assert_ptr_nonnull(file);
    fputs(content, file);
    fclose(file);
}

/* Files in the folder, hidden ones too. */
static inline int file_count(void)
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

static inline struct job *start(const char *body, size_t len)
{
    struct job *job = fake_job_new(&item, slice_of(body, len));
    file_writer_class.start(state, job);
    return job;
}

static inline struct job *written(const char *body)
{
    struct job *job = start(body, strlen(body));
    fake_job_wait(loop, job);
    return job;
}

static inline void ck_io_error(struct job *job)
{
    ck_assert(!job->good);
    ck_assert_int_eq(job->error.code, ERR_IO);
    ck_assert_ptr_null(strstr(job->error.text, "MSG00042"));
    fake_job_free(job);
}

#endif
