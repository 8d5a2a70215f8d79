/* Whatever a child process writes, or its worker: frames are cut out of it, and payloads are read as both sides read them. What is
 * understood as the end of a job points into the payload or is the job's own. */
#include "base/bug.h"
#include "child_wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char yaml[] = "production: {name: fuzz}\n"
                           "items:\n"
                           "  - {id: A, class: Echo, queue_type: unordered}\n"
                           "  - {id: B, class: Echo, queue_type: unordered}\n";

static void check_place(const struct wire_frame *frame, const struct job *job, struct slice text)
{
    bool own = text.ptr == job->body.ptr || text.ptr == job->content_type.ptr;
    BUG_ON(text.len && !own &&
           (text.ptr < frame->payload || text.ptr + text.len > frame->payload + frame->len));
}

static void as_worker(struct wire_frame *frame, const struct production *production)
{
    struct job job;
    struct err error;
    job_init(&job);
    job.body = body_of("own body", 8);
    job.content_type = SLICE_LITERAL("own/type");
    if (frame->len >= sizeof(job.id.bytes))
        memcpy(job.id.bytes, frame->payload, sizeof(job.id.bytes)); /* or little would be reached */
    if (wire_get_refused(frame, &error) == 0)
        BUG_ON(error.code == ERR_NONE);
    if (wire_get_failed(frame, &job, &error) == 0)
        BUG_ON(error.code == ERR_NONE || strlen(error.text) >= sizeof(error.text));
    if (wire_get_done(frame, production, &job) == 0) {
        check_place(frame, &job, job.reply);
        check_place(frame, &job, job.reply_content_type);
        for (size_t i = 0; i < job.sent_count; i++) {
            check_place(frame, &job, body_slice(job.sent[i].body));
            check_place(frame, &job, job.sent[i].content_type);
            BUG_ON(job.sent[i].target->index >= production->item_count);
            BUG_ON(job.sent[i].content_type.len > META_CONTENT_TYPE_MAX);
        }
        frame->payload = NULL; /* the job's */
    }
    job_clear(&job);
}

static void as_child(const struct wire_frame *frame)
{
    struct slice id, text;
    struct job job;
    job_init(&job);
    if (wire_get_start(frame, &id, &text) == 0)
        BUG_ON(id.len + text.len > frame->len);
    if (wire_get_job(frame, &job) == 0)
        BUG_ON(job.attempt < 1 || job.body.len + job.chain.len > frame->len);
    job_clear(&job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct production *production;
    if (!production) {
        struct diagnostics diagnostics;
        production = production_parse(slice_text(yaml), &diagnostics);
        diagnostics_done(&diagnostics);
        BUG_ON(!production);
    }
    struct wire_in in;
    struct wire_frame frame;
    struct slice rest = slice_of(data, size);
    wire_in_init(&in);
    while (wire_in_take(&in, &rest, &frame) == 1) {
        as_child(&frame);
        as_worker(&frame, production);
        free(frame.payload);
    }
    wire_in_done(&in);
    return 0;
}
