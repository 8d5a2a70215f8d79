#include "json_answer.h"

#include <stdlib.h>

static void answer(struct http_request *request, int status, const char *type, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    http_answer(request, status, type, slice_text(text), NULL, 0);
    free(text);
}

void json_answer(struct http_request *request, int status, json_t *json)
{
    answer(request, status, "application/json", json);
}

void json_answer_problem(struct http_request *request, int status, json_t *problem)
{
    answer(request, status, "application/problem+json", problem);
}
