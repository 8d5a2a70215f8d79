/* FileWriter: writes each message into a file of its own and replies the file's name. It owns the
 * messages until their file is on the disk, and waits for the disk in an offload thread:
 *
 *   start ──▶ waiting ──▶ batch (one under way at a time) ──▶ job_done, job_fail
 *               └─ cancel ─▶ job_fail
 *
 * Batches form by themselves: what arrives while one is under way makes the next, so the syncs are
 * shared under load and nothing waits for a timer. Failures of the file system are retried
 * (ERR_IO); a repeat finds or replaces its own file. */
#include "handlers/classes.h"

#include "base/mem.h"
#include "handlers/file_name.h"
#include "handlers/file_store.h"
#include "offload.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>

/* Files of one batch, and so descriptors held at once by an item. */
enum { BATCH_MAX = 64 };

struct file_job {
    struct job *job;
    struct uuid id;
    struct file_write write;
    bool in_batch;
    STAILQ_ENTRY(file_job) entry; /* in waiting */
};

struct file_writer {
    struct offload *offload;
    const struct file_writer_settings *settings;
    STAILQ_HEAD(, file_job) waiting;
    struct loop_task
        gather; /* so that all messages started in one turn of the loop share a batch */

    /* The batch: the thread's from submit to done. */
    struct offload_work work;
    struct file_job *batch[BATCH_MAX];
    size_t batch_count; /* 0: none is under way */
    bool swept;
};

static struct file_writer *writer_of(struct offload_work *work)
{
    return (struct file_writer *)((char *)work - offsetof(struct file_writer, work));
}

/* ---- in the thread ---- */

static void name_file(const struct hl7_template *template_, struct file_job *file)
{
    struct file_write *write = &file->write;
    write->own_name = file_name_render(template_, write->body, file->id, write->name);
    if (!write->own_name)
        file_name_with_id(write->name, file->id, write->second_name);
}

static void run_batch(struct offload_work *work)
{
    struct file_writer *writer = writer_of(work);
    struct file_write *writes[BATCH_MAX];
    if (!writer->swept)
        file_store_sweep(writer->settings->folder);
    writer->swept = true;
    for (size_t i = 0; i < writer->batch_count; i++) {
        name_file(&writer->settings->name, writer->batch[i]);
        writes[i] = &writer->batch[i]->write;
    }
    file_store_write(writer->settings->folder, writes, writer->batch_count);
}

/* ---- on the loop ---- */

/* Ends the job with the result of its write. */
static void end_file(struct file_job *file)
{
    struct job *job = file->job;
    struct err err = file->write.err;
    char name[FILE_NAME_SIZE];
    memcpy(name, file->write.name, sizeof(name));
    free(file);
    if (err.code == ERR_NONE)
        job_done(job, SLICE_LITERAL("text/plain"), slice_text(name));
    else
        job_fail(job, &err);
}

static void give_up(struct file_job *file)
{
    job_set_data(file->job, NULL);
    err_set(&file->write.err, ERR_CANCELLED, "cancelled before the file was written");
    end_file(file);
}

static void submit_batch(struct file_writer *writer)
{
    struct file_job *file;
    while (writer->batch_count < BATCH_MAX && (file = STAILQ_FIRST(&writer->waiting))) {
        STAILQ_REMOVE_HEAD(&writer->waiting, entry);
        file->in_batch = true;
        writer->batch[writer->batch_count++] = file;
    }
    if (writer->batch_count)
        offload_submit(writer->offload, &writer->work);
}

/* Takes the batch out of the writer, so that its jobs' ends may start new ones or cancel others. */
static size_t take_batch(struct file_writer *writer, struct file_job *ret_files[static BATCH_MAX])
{
    size_t count = writer->batch_count;
    for (size_t i = 0; i < count; i++) {
        ret_files[i] = writer->batch[i];
        job_set_data(ret_files[i]->job, NULL);
    }
    writer->batch_count = 0;
    return count;
}

static void on_batch_done(struct offload_work *work)
{
    struct file_writer *writer = writer_of(work);
    struct file_job *files[BATCH_MAX];
    size_t count = take_batch(writer, files);
    submit_batch(writer);
    for (size_t i = 0; i < count; i++)
        end_file(files[i]);
}

static void on_gather(void *arg)
{
    struct file_writer *writer = arg;
    if (writer->batch_count == 0)
        submit_batch(writer);
}

static int writer_open(const struct handler_env *env, const struct item *item, void **ret_state,
                       struct err *err)
{
    (void)err; /* the folder is looked at with each batch: it may come, go and come back */
    struct file_writer *writer = mem_alloc(sizeof(*writer));
    writer->offload = env->offload;
    writer->settings = item->settings;
    writer->work = (struct offload_work){.run = run_batch, .done = on_batch_done};
    STAILQ_INIT(&writer->waiting);
    loop_task_init(&writer->gather, env->loop, on_gather, writer);
    *ret_state = writer;
    return 0;
}

static void writer_start(void *state, struct job *job)
{
    struct file_writer *writer = state;
    struct file_job *file = mem_alloc(sizeof(*file));
    file->job = job;
    file->id = job_id(job);
    file->write.body = body_slice(job_body(job));
    char id[UUID_TEXT_LEN + 1];
    uuid_format(file->id, id);
    /* The random part keeps a stalled worker, whose attempt was taken over, off the file of its
     * successor. */
    snprintf(file->write.temporary, sizeof(file->write.temporary), ".hie-%s-%d-%08x.tmp", id,
             job_attempt(job), (unsigned)(random_u64() & 0xffffffffu));
    job_set_data(job, file);
    STAILQ_INSERT_TAIL(&writer->waiting, file, entry);
    if (writer->batch_count == 0)
        loop_task_set(&writer->gather);
}

/* A write under way cannot be taken from the kernel: it ends with its batch, without the file if
 * there is still time. */
static void writer_cancel(void *state, struct job *job)
{
    struct file_writer *writer = state;
    struct file_job *file = job_data(job);
    if (!file)
        return; /* its end is on the way */
    if (file->in_batch) {
        atomic_store(&file->write.cancelled, true);
        return;
    }
    STAILQ_REMOVE(&writer->waiting, file, file_job, entry);
    give_up(file);
}

static void writer_close(void *state)
{
    struct file_writer *writer = state;
    struct file_job *files[BATCH_MAX];
    bool ran = writer->batch_count && offload_withdraw(writer->offload, &writer->work);
    size_t count = take_batch(writer, files);
    for (size_t i = 0; i < count; i++) {
        if (ran)
            end_file(files[i]);
        else
            give_up(files[i]);
    }
    struct file_job *file;
    while ((file = STAILQ_FIRST(&writer->waiting))) {
        STAILQ_REMOVE_HEAD(&writer->waiting, entry);
        give_up(file);
    }
    loop_task_done(&writer->gather);
    free(writer);
}

const struct handler_class file_writer_class = {
    .id = CLASS_FILE_WRITER,
    .open = writer_open,
    .close = writer_close,
    .start = writer_start,
    .cancel = writer_cancel,
};
