/* The keys by which the store knows a repeat of a message: 128 bits of SHA-256 each, so that nobody can find two that collide, and
 * nothing of a patient is in them. */
#ifndef HIE_REPEAT_KEY_H
#define HIE_REPEAT_KEY_H

#include "base/uuid.h"
#include "hl7/message.h"
#include "message/message.h"
#include "model/production.h"

struct repeat_key {
    struct uuid key;         /* of item, kind of key and key; UUID_NONE: it has none */
    struct uuid fingerprint; /* of the body */
};

/* HTTP: the same Idempotency-Key at the same item. */
struct repeat_key repeat_key_http(const struct item *item, struct slice idempotency_key,
                                  struct body body);
/* MLLP: the same sender (MSH-3, MSH-4), MSH-10 and body at the same item. Without MSH-10 there is no key. */
struct repeat_key repeat_key_mllp(const struct item *item, const struct hl7_message *message,
                                  struct body body);

#endif
