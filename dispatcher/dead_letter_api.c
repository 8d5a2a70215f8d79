/* GET /v1/items/{id}/dead-letters, POST …/dead-letters/redrive, DELETE …/dead-letters: an item's dead letters, and what becomes of
 * them. A body {"ids": […]} names some; without one it is all. */
#include "dead_letter_api.h"

#include "base/clock.h"
#include "base/mem.h"
#include "json_answer.h"
#include "redrive.h"

#include <stdlib.h>

#define LIST_DEFAULT 100
#define LIST_MAX STORE_BATCH_MAX
#define BODY_MAX 65536u /* 512 ids take a third of it */

/* ---- the list ---- */

static void set_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, text ? json_string(text) : json_null());
}

static void set_id(json_t *object, const char *name, struct uuid id)
{
    char text[UUID_TEXT_LEN + 1];
    uuid_format(id, text);
    json_object_set_new(object, name, json_string(text));
}

static void set_time(json_t *object, const char *name, int64_t wall_us)
{
    char text[CLOCK_RFC3339_LEN + 1];
    clock_rfc3339(wall_us, text);
    json_object_set_new(object, name, json_string(text));
}

static json_t *letter_json(const struct store_dead_letter *letter)
{
    json_t *object = json_object();
    set_id(object, "correlation_id", letter->id);
    set_text(object, "pattern", letter->pattern);
    set_text(object, "reason", letter->reason);
    json_object_set_new(object, "attempts", json_integer(letter->attempts));
    json_object_set_new(object, "run", json_integer(letter->run));
    set_text(object, "control_id", letter->control_id);
    set_text(object, "message_type", letter->message_type);
    set_time(object, "received_at", letter->received_us);
    set_time(object, "at", letter->at_us);
    return object;
}

struct listing {
    struct http_request *request;
    size_t limit;
};

static void on_listed(void *arg, const struct err *err, const struct store_dead_letter *rows,
                      size_t count)
{
    struct listing listing = *(struct listing *)arg;
    free(arg);
    if (err->code != ERR_NONE) {
        http_answer_problem(listing.request, 503, "the database is away", NULL, 1);
        return;
    }
    json_t *list = json_array(), *object = json_object();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, letter_json(&rows[i]));
    json_object_set_new(object, "dead_letters", list);
    if (count == listing.limit)
        set_id(object, "cursor", rows[count - 1].id);
    json_answer(listing.request, 200, object);
}

static void list(struct http_front *front, struct http_request *request, const struct item *item)
{
    struct uuid before = UUID_NONE;
    struct slice value;
    int64_t limit = LIST_DEFAULT;
    if (http_request_query(request, "limit", &value) && !slice_to_int(value, 1, LIST_MAX, &limit)) {
        http_answer_problem(request, 400, "limit: a number from 1 to 512 is wanted", NULL, 0);
        return;
    }
    if (http_request_query(request, "cursor", &value) && !uuid_parse(value, &before)) {
        http_answer_problem(request, 400, "cursor: the one of an answer is wanted", NULL, 0);
        return;
    }
    struct listing *listing = mem_alloc(sizeof(*listing));
    *listing = (struct listing){.request = request, .limit = (size_t)limit};
    front->store->ops->dead_letters(front->store, item->id, before, (size_t)limit, on_listed,
                                    listing);
}

/* ---- redrive and delete ---- */

struct deed {
    struct http_request *request;
    const char *word; /* of the count in the answer */
};

static void on_redriven(void *arg, const struct err *err, size_t count, size_t left)
{
    struct deed deed = *(struct deed *)arg;
    free(arg);
    if (err->code != ERR_NONE) {
        http_answer_problem(deed.request, 503,
                            count ? "the database went away when a part was done"
                                  : "the database is away",
                            NULL, 1);
        return;
    }
    json_t *object = json_object();
    json_object_set_new(object, deed.word, json_integer((json_int_t)count));
    if (left)
        json_object_set_new(object, "left", json_integer((json_int_t)left));
    json_answer(deed.request, 200, object);
}

/* The ids of a body {"ids": […]}; an empty body names all (*ret_count 0, *ret_all). False: it is something else. */
static bool read_ids(struct slice body, struct uuid ids[static STORE_BATCH_MAX], size_t *ret_count,
                     bool *ret_all)
{
    json_error_t error;
    bool well = true;
    *ret_count = 0;
    *ret_all = body.len == 0;
    if (*ret_all)
        return true;
    if (body.len > BODY_MAX)
        return false;
    json_t *root = json_loadb(body.ptr, body.len, 0, &error);
    json_t *list = json_object_get(root, "ids");
    if (json_is_object(root) && json_object_size(root) == 0)
        *ret_all = true;
    else
        well = json_is_array(list) && json_object_size(root) == 1 &&
               json_array_size(list) <= STORE_BATCH_MAX;
    for (size_t i = 0; well && i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        well = text && uuid_parse(slice_text(text), &ids[(*ret_count)++]);
    }
    json_decref(root);
    return well;
}

static void redrive(struct http_front *front, struct http_request *request, const struct item *item,
                    bool dismiss)
{
    struct uuid ids[STORE_BATCH_MAX];
    size_t count;
    bool all;
    if (!read_ids(http_request_body(request), ids, &count, &all)) {
        http_answer_problem(
            request, 400,
            "the body is {\"ids\": [correlation ids]}, at most 512 of them, or empty for all", NULL,
            0);
        return;
    }
    struct deed *deed = mem_alloc(sizeof(*deed));
    *deed = (struct deed){.request = request, .word = dismiss ? "deleted" : "redriven"};
    if (!all && count == 0) {
        on_redriven(deed, &(const struct err){.code = ERR_NONE}, 0, 0);
        return;
    }
    redrive_start(&(struct redrive_request){.queue = front->intake->queue,
                                            .store = front->store,
                                            .fleet = front->fleet,
                                            .item = item,
                                            .dismiss = dismiss,
                                            .ids = all ? NULL : ids,
                                            .id_count = count,
                                            .done = on_redriven,
                                            .arg = deed});
}

bool dead_letter_api(struct http_front *front, struct http_request *request,
                     const struct item *item, struct slice rest)
{
    enum http_method method = http_request_method(request);
    bool get = method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD;
    if (slice_is(rest, "/dead-letters/redrive")) {
        if (method == HTTP_METHOD_POST)
            redrive(front, request, item, false);
        else
            http_front_wrong_method(request, "POST");
    } else if (slice_is(rest, "/dead-letters")) {
        if (get)
            list(front, request, item);
        else if (method == HTTP_METHOD_DELETE)
            redrive(front, request, item, true);
        else
            http_front_wrong_method(request, "GET, HEAD, DELETE");
    } else {
        return false;
    }
    return true;
}
