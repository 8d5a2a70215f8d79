#include "item_api.h"

#include "base/mem.h"
#include "json_answer.h"
#include "queue_gauges.h"
#include "queue_sum.h"

#include <stdlib.h>

/* ---- items ---- */

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

/* `depth` NULL: Redis did not tell. */
static json_t *item_json(const struct http_front *front, const struct item *item, int64_t version,
                         const struct queue_depth *depth)
{
    static const char *const stage_words[] = {
        [FLEET_OPEN] = "open", [FLEET_CLOSING] = "closing", [FLEET_CLOSED] = "closed"};
    enum fleet_stage stage = fleet_shape(front->fleet, item->id).stage;
    json_t *object = json_object();
    item_each_setting(item, put_setting, object);
    json_object_set_new(object, "version", json_integer(version));
    json_object_set_new(object, "queue", json_string(stage_words[stage]));
    int64_t whole = depth ? depth->waiting + depth->in_hand + depth->delayed : 0;
    json_object_set_new(object, "depth", depth ? json_integer(whole) : json_null());
    json_object_set_new(object, "in_flight", depth ? json_integer(depth->in_hand) : json_null());
    json_object_set_new(object, "delayed", depth ? json_integer(depth->delayed) : json_null());
    json_object_set_new(object, "dead_letters",
                        json_integer(queue_gauges_dead_letters(front->gauges, item)));
    return object;
}

/* As the gauges have them: however often it is asked, Redis is not. */
static void answer_list(struct http_front *front, struct http_request *request)
{
    const struct production *production = fleet_production(front->fleet);
    json_t *root = json_object(), *list = json_array();
    for (size_t i = 0; i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        struct queue_depth depth;
        bool known = queue_gauges_depth(front->gauges, item, &depth);
        json_array_append_new(list,
                              item_json(front, item, production->version, known ? &depth : NULL));
    }
    json_object_set_new(root, "version", json_integer(production->version));
    json_object_set_new(root, "items", list);
    json_answer(request, 200, root);
}

/* A question about one item, as it is just now. */
struct item_question {
    struct http_front *front;
    struct http_request *request;
    const struct item *item; /* held */
    unsigned unanswered;
    struct queue_sum now, before;
};

static void end_sum(void *arg)
{
    struct item_question *question = arg;
    const struct item *item = question->item;
    if (--question->unanswered > 0)
        return;
    struct queue_depth depth = queue_depth_add(question->now.depth, question->before.depth);
    bool known = !question->now.failed && !question->before.failed;
    json_answer(question->request, 200,
                item_json(question->front, item, item->production->version, known ? &depth : NULL));
    item_release(item);
    free(question);
}

void item_api_get(struct http_front *front, struct http_request *request, const struct item *item)
{
    if (!item) {
        answer_list(front, request);
        return;
    }
    struct queue *queue = front->intake->queue;
    struct queue_pair pair = queue_pair_of(front->fleet, item, item->id);
    struct item_question *question = mem_alloc(sizeof(*question));
    question->front = front;
    question->request = request;
    question->item = item_hold(item);
    question->unanswered = 1 + (pair.before != NULL);
    queue_sum_ask(&question->now, queue, item, pair.now_partitions, 0, end_sum, question);
    if (pair.before)
        queue_sum_ask(&question->before, queue, pair.before, pair.before_partitions,
                      pair.now_partitions, end_sum, question);
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
    json_answer_problem(request, 422, problem);
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
    json_answer(request, 200, object);
}

void item_api_reload(struct http_front *front, struct http_request *request)
{
    fleet_reload(front->fleet, on_reloaded, request);
}
