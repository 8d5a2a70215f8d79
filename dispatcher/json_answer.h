/* Answers in JSON. */
#ifndef HIE_JSON_ANSWER_H
#define HIE_JSON_ANSWER_H

#include "link/http_server.h"

#include <jansson.h>

/* Takes `json`. */
void json_answer(struct http_request *request, int status, json_t *json);
/* The same as application/problem+json. */
void json_answer_problem(struct http_request *request, int status, json_t *problem);

#endif
