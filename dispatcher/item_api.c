#include "item_api.h"

#include "base/mem.h"
#include "queue_gauges.h"

#include <jansson.h>
#include <stdlib.h>

static void answer_json(struct http_request *request, int status, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    http_answer(request, status, "application/json", slice_text(text), NULL, 0);
    free(text);
}

/* ---- items ---- */

/* Questions about the depths of all partitions of the items that are asked for. */
struct item_question {
    struct http_front *front;
    struct http_request *request;
    struct production *production; /* a reference */
    bool list;
    bool failed; /* Redis did not answer */
    unsigned unanswered;
    size_t count;
    struct item_state {
        struct item_question *question;
        const struct item *item;
        struct queue_depth sum;
    } states[];
};

static void put_setting(void *arg, const char *section, const char *key, struct slice value,
                        bool is_text)
{
    json_t *object = arg;
    json_error_t error;
    json_t *setting = NULL;
    char path[32];
    snprintf(path, sizeof(path), "%s", section);
    for (char *name = path, *next; *name; name = next) { /* "priority.values" is two levels */
        next = name + strcspn(name, ".");
        if (*next)
            *next++ = '\0';
        json_t *inner = json_object_get(object, name);
        if (!inner) {
            inner = json_object();
            json_object_set_new(object, name, inner);
        }
        object = inner;
    }
    if (!is_text)
        setting = json_loadb(value.ptr, value.len, JSON_DECODE_ANY, &error);
    if (!setting)
        setting = json_stringn(value.ptr, value.len);
    json_object_set_new(object, key, setting ? setting : json_null());
}

static json_t *state_json(const struct item_state *state)
{
    static const char *const stage_words[] = {
        [FLEET_OPEN] = "open", [FLEET_CLOSING] = "closing", [FLEET_CLOSED] = "closed"};
    const struct http_front *front = state->question->front;
    const struct item *item = state->item;
    const struct queue_depth *sum = &state->sum;
    bool known = !state->question->failed;
    json_t *object = json_object();
    item_each_setting(item, put_setting, object);
    json_object_set_new(object, "version", json_integer(state->question->production->version));
    json_object_set_new(
        object, "queue",
        json_string(stage_words[fleet_shape(front->intake->fleet, item->id).stage]));
    int64_t depth = sum->waiting + sum->in_hand + sum->delayed;
    json_object_set_new(object, "depth", known ? json_integer(depth) : json_null());
    json_object_set_new(object, "in_flight", known ? json_integer(sum->in_hand) : json_null());
    json_object_set_new(object, "delayed", known ? json_integer(sum->delayed) : json_null());
    json_object_set_new(object, "dead_letters",
                        json_integer(queue_gauges_dead_letters(front->gauges, item)));
    return object;
}

static void answer_items(struct item_question *question)
{
    json_t *root = question->list ? json_object() : state_json(&question->states[0]);
    if (question->list) {
        json_t *list = json_array();
        for (size_t i = 0; i < question->count; i++)
            json_array_append_new(list, state_json(&question->states[i]));
        json_object_set_new(root, "version", json_integer(question->production->version));
        json_object_set_new(root, "items", list);
    }
    answer_json(question->request, 200, root);
    production_free(question->production);
    free(question);
}

static void end_call(struct item_question *question)
{
    if (--question->unanswered == 0)
        answer_items(question);
}

static void on_depth(void *arg, const struct err *err, const struct queue_depth *depth)
{
    struct item_state *state = arg;
    if (err->code == ERR_NONE) {
        state->sum.waiting += depth->waiting;
        state->sum.in_hand += depth->in_hand;
        state->sum.delayed += depth->delayed;
    } else {
        state->question->failed = true;
    }
    end_call(state->question);
}

static void ask(struct item_question *question, size_t index, const struct item *item)
{
    struct queue *queue = question->front->intake->queue;
    struct item_state *state = &question->states[index];
    *state = (struct item_state){.question = question, .item = item};
    for (int64_t n = 0; n < item->partitions; n++) {
        question->unanswered++;
        queue->ops->depth(queue, queue_name_of(item, (unsigned)n), on_depth, state);
    }
    /* What is still in the queue that it had before. */
    struct fleet_shape shape = {.stage = FLEET_OPEN};
    if (question->front->fleet)
        shape = fleet_shape(question->front->fleet, item->id);
    for (int64_t n = 0; shape.old && n < shape.old->partitions; n++) {
        if (shape.old->messaging_pattern == item->messaging_pattern && n < item->partitions)
            continue;
        question->unanswered++;
        queue->ops->depth(queue, queue_name_of(shape.old, (unsigned)n), on_depth, state);
    }
}

void item_api_get(struct http_front *front, struct http_request *request, const struct item *item)
{
    struct production *production = fleet_production(front->fleet);
    size_t count = item ? 1 : production->item_count;
    struct item_question *question =
        mem_alloc(sizeof(*question) + count * sizeof(question->states[0]));
    *question = (struct item_question){.front = front,
                                       .request = request,
                                       .production = production_ref(production),
                                       .list = !item,
                                       .count = count,
                                       .unanswered = 1};
    for (size_t i = 0; i < count; i++)
        ask(question, i, item ? item : &production->items[i]);
    end_call(question);
}

/* ---- reload ---- */

static json_t *errors_json(const struct diagnostics *diagnostics)
{
    json_t *list = json_array();
    for (size_t i = 0; i < diagnostics->count; i++) {
        const struct diagnostic *each = &diagnostics->list[i];
        json_t *object = json_object();
        if (each->warning)
            json_object_set_new(object, "warning", json_true());
        json_object_set_new(object, "line", json_integer((json_int_t)each->line));
        json_object_set_new(object, "message", json_string(each->message));
        json_array_append_new(list, object);
    }
    return list;
}

static void answer_refused(struct http_request *request, const struct fleet_reloaded *result)
{
    json_t *problem = json_object();
    json_object_set_new(problem, "type", json_string("about:blank"));
    json_object_set_new(problem, "title", json_string("Unprocessable Content"));
    json_object_set_new(problem, "status", json_integer(422));
    json_object_set_new(problem, "detail",
                        json_string("the production file is invalid; nothing was changed"));
    json_object_set_new(problem, "version", json_integer(result->version));
    json_object_set_new(problem, "errors", errors_json(result->diagnostics));
    char *text = json_dumps(problem, JSON_COMPACT);
    json_decref(problem);
    http_answer(request, 422, "application/problem+json", slice_text(text), NULL, 0);
    free(text);
}

static void on_reloaded(void *arg, const struct err *err, const struct fleet_reloaded *result)
{
    struct http_request *request = arg;
    if (err->code != ERR_NONE) {
        http_answer_problem(request, 503, err->text, NULL, 1);
        return;
    }
    if (result->refused) {
        answer_refused(request, result);
        return;
    }
    json_t *object = json_object();
    json_object_set_new(object, "version", json_integer(result->version));
    json_object_set_new(object, "changed", json_boolean(result->changed));
    if (result->restart_keys.len)
        json_object_set_new(object, "needs_restart",
                            json_stringn(result->restart_keys.ptr, result->restart_keys.len));
    answer_json(request, 200, object);
}

void item_api_reload(struct http_front *front, struct http_request *request)
{
    fleet_reload(front->fleet, on_reloaded, request);
}
