/* GET /v1/messages/{id}[?wait=ms], …/request, …/reply: what became of a message.
 *
 *   LOOKING ──ended──▶ answered
 *      │ │ └──unfinished, nobody waits──▶ ASKING the queue whether a worker holds it ──▶ answered
 *      │ │                                 └──no, and the item has another queue today: that, too
 *      │ └────unfinished and ?wait=──┐
 *      ▲                             ▼
 *      └──ended, or time is up── WAITING
 */
#include "http_front.h"

#include "base/clock.h"
#include "base/mem.h"
#include "json_answer.h"

#include <stdlib.h>

#define WAIT_MAX_MS 300000

struct question {
    struct http_work work; /* first: found again from it */
    struct caller caller;
    struct http_front *front;
    struct http_request *request;
    struct uuid id;
    int64_t wait_ms;
    bool gone;
    json_t *record;          /* owned; while the queue is asked */
    const struct item *item; /* … held; as it is today */
    struct queue_name queue; /* that is asked */
};

#define question_of_caller(caller_)                                                                \
    ((struct question *)((char *)(caller_)-offsetof(struct question, caller)))

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, json_string(text));
}

static void set_time(json_t *object, const char *name, int64_t wall_us)
{
    char text[CLOCK_RFC3339_LEN + 1];
    if (wall_us)
        clock_rfc3339(wall_us, text);
    json_object_set_new(object, name, wall_us ? json_string(text) : json_null());
}

static json_t *record_json(const struct store_record *record)
{
    char id[UUID_TEXT_LEN + 1];
    json_t *object = json_object();
    uuid_format(record->id, id);
    set_text(object, "correlation_id", id);
    if (!uuid_is_none(record->parent)) {
        uuid_format(record->parent, id);
        set_text(object, "parent_id", id);
    }
    set_text(object, "status", record->state);
    set_text(object, "item", record->item);
    set_text(object, "pattern", record->pattern);
    set_text(object, "direction", record->direction);
    json_object_set_new(object, "attempts", json_integer(record->attempts));
    set_time(object, "received_at", record->received_us);
    set_time(object, "finished_at", record->finished_us);
    json_object_set_new(object, "error", record->error ? json_string(record->error) : json_null());
    json_t *children = json_array();
    for (size_t i = 0; i < record->child_count; i++) {
        uuid_format(record->children[i], id);
        json_array_append_new(children, json_string(id));
    }
    json_object_set_new(object, "children", children);
    return object;
}

static void free_question(struct question *question)
{
    http_request_set_data(question->request, NULL);
    if (question->item)
        item_release(question->item);
    free(question);
}

static void answer_away(struct question *question)
{
    struct http_request *request = question->request;
    free_question(question);
    http_answer_problem(request, 503, "the database is away", NULL, 1);
}

static void answer_unknown(struct question *question)
{
    struct http_request *request = question->request;
    free_question(question);
    http_answer_problem(request, 404, "there is no such message", NULL, 0);
}

static void look(struct question *question);

static void on_waited(struct caller *caller, enum caller_outcome outcome,
                      const struct queue_reply *end)
{
    struct question *question = question_of_caller(caller);
    (void)outcome; /* it is told as things are */
    (void)end;
    question->wait_ms = 0;
    look(question);
}

static void answer_record(struct question *question)
{
    json_t *record = question->record;
    struct http_request *request = question->request;
    free_question(question);
    json_answer(request, 200, record);
}

static void on_held(void *arg, const struct err *err, const bool *held);

static void ask_queue(struct question *question)
{
    struct queue *queue = question->front->intake->queue;
    queue->ops->held(queue, question->queue, &question->id, 1, on_held, question);
}

/* It was accepted for the queue of that time; redriven, or moved after a reload, it is in today's. */
static void on_held(void *arg, const struct err *err, const bool *held)
{
    struct question *question = arg;
    const struct item *item = question->item;
    bool is_held = err->code == ERR_NONE && held[0], moved = false;
    if (question->queue.pattern != item->messaging_pattern) {
        question->queue.pattern = item->messaging_pattern;
        moved = true;
    }
    if (question->queue.partition >= (unsigned)item->partitions) {
        question->queue.partition = 0;
        moved = true;
    }
    if (moved && !is_held && err->code == ERR_NONE) {
        ask_queue(question);
        return;
    }
    if (is_held)
        json_object_set_new(question->record, "status", json_string("processing"));
    answer_record(question);
}

static void on_found(void *arg, const struct err *err, const struct store_record *record)
{
    struct question *question = arg;
    if (err->code != ERR_NONE) {
        answer_away(question);
        return;
    }
    if (!record) {
        answer_unknown(question);
        return;
    }
    const struct item *item =
        production_find(question->front->production, slice_text(record->item));
    if (question->wait_ms > 0 && !question->gone && record->finished_us == 0) {
        callers_add(question->front->callers, &question->caller, item, question->id,
                    question->wait_ms, CALLER_ENDS, on_waited);
        return;
    }
    question->record = record_json(record);
    if (record->finished_us || !item || !question->front->intake->queue_up) {
        answer_record(question);
        return;
    }
    question->item = item_hold(item);
    question->queue = queue_name_of(item, record->partition < 0 ? 0 : (unsigned)record->partition);
    question->queue.pattern = record->queue_pattern;
    ask_queue(question);
}

static void look(struct question *question)
{
    question->front->store->ops->find(question->front->store, question->id, on_found, question);
}

static void on_body(void *arg, const struct err *err, struct body body, struct slice content_type,
                    bool found)
{
    struct question *question = arg;
    if (err->code != ERR_NONE) {
        answer_away(question);
        return;
    }
    if (!found) {
        answer_unknown(question);
        return;
    }
    char type[256] = "application/octet-stream";
    if (content_type.len && content_type.len < sizeof(type)) {
        memcpy(type, content_type.ptr, content_type.len);
        type[content_type.len] = '\0';
    }
    char id[UUID_TEXT_LEN + 1];
    uuid_format(question->id, id);
    struct http_header header = {"X-Correlation-ID", slice_text(id)};
    struct http_request *request = question->request;
    free_question(question);
    http_answer(request, 200, type, body_slice(body), &header, 1);
}

static void on_gone(struct http_work *work)
{
    struct question *question = (struct question *)work;
    question->gone = true;
    if (caller_waits(&question->caller)) {
        callers_remove(question->front->callers, &question->caller);
        look(question); /* the answer is dropped, the request freed */
    }
}

void message_api_get(struct http_front *front, struct http_request *request, struct slice rest)
{
    struct uuid id;
    struct slice tail = slice_of(NULL, 0), value;
    int64_t wait_ms = 0;
    if (rest.len > UUID_TEXT_LEN) {
        tail = slice_of(rest.ptr + UUID_TEXT_LEN, rest.len - UUID_TEXT_LEN);
        rest.len = UUID_TEXT_LEN;
    }
    bool record = tail.len == 0, body = slice_is(tail, "/request"),
         reply = slice_is(tail, "/reply");
    if (!uuid_parse(rest, &id) || !(record || body || reply)) {
        http_answer_problem(request, 404, "there is no such message", NULL, 0);
        return;
    }
    if (http_request_query(request, "wait", &value) &&
        !slice_to_int(value, 0, WAIT_MAX_MS, &wait_ms)) {
        http_answer_problem(request, 400, "wait: milliseconds from 0 to 300000 are wanted", NULL,
                            0);
        return;
    }
    struct question *question = mem_alloc(sizeof(*question));
    *question = (struct question){
        .work = {on_gone}, .front = front, .request = request, .id = id, .wait_ms = wait_ms};
    http_request_set_data(request, question);
    if (record)
        look(question);
    else if (body)
        front->store->ops->body(front->store, id, on_body, question);
    else
        front->store->ops->reply(front->store, id, on_body, question);
}
