#ifndef HIE_ITEM_API_H
#define HIE_ITEM_API_H

#include "http_front.h"

/* GET /v1/items (item NULL) and GET /v1/items/{id}: settings in force, and how things stand in the queue just now. */
void item_api_get(struct http_front *front, struct http_request *request, const struct item *item);
/* POST /v1/reload */
void item_api_reload(struct http_front *front, struct http_request *request);

#endif
