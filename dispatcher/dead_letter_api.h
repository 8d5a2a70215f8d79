#ifndef HIE_DEAD_LETTER_API_H
#define HIE_DEAD_LETTER_API_H

#include "http_front.h"

/* Answers what lies below /v1/items/{id} (`rest`) about its dead letters; false: it is something else. */
bool dead_letter_api(struct http_front *front, struct http_request *request,
                     const struct item *item, struct slice rest);

#endif
