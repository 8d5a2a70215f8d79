/* An intake for tests of fronts: takes the place of dispatcher/intake.c when the test is linked. Keeps each request until the test
 * answers it, or refuses it when the test says so. */
#ifndef HIE_TESTS_FAKE_INTAKE_H
#define HIE_TESTS_FAKE_INTAKE_H

#include "base/clock.h"
#include "base/mem.h"
#include "intake.h"

#include <check.h>
#include <stdlib.h>
#include <sys/queue.h>

struct fake_intake_call {
    TAILQ_ENTRY(fake_intake_call) link;
    struct intake_request request; /* its texts are copies */
    struct uuid id;
    char *body, *key, *chain, *type;
};

static TAILQ_HEAD(fake_intake_list,
                  fake_intake_call) fake_intake_calls = TAILQ_HEAD_INITIALIZER(fake_intake_calls);
static struct err fake_intake_refusal; /* of what comes next; ERR_NONE: it is admitted */
static unsigned fake_intake_rejected[ERR_COUNT];

static inline char *fake_intake_copy(struct slice text)
{
    return mem_strndup(text.ptr, text.len);
}

int intake_accept(struct intake *intake, const struct intake_request *request, struct uuid *ret_id,
                  struct err *err)
{
    (void)intake;
    if (fake_intake_refusal.code != ERR_NONE) {
        *err = fake_intake_refusal;
        return -1;
    }
    struct fake_intake_call *call = mem_alloc(sizeof(*call));
    call->request = *request;
    call->id = uuid_new(clock_wall_ms());
    call->body = fake_intake_copy(body_slice(request->body));
    call->key = fake_intake_copy(request->ordering_key);
    call->chain = fake_intake_copy(request->chain);
    call->type = fake_intake_copy(request->content_type);
    TAILQ_INSERT_TAIL(&fake_intake_calls, call, link);
    *ret_id = call->id;
    return 0;
}

bool intake_hold(struct intake *intake, size_t *held, size_t now)
{
    if (now > *held && intake->budget->bytes_in_hand + (now - *held) > intake->budget->bytes_max)
        return false;
    intake->budget->bytes_in_hand += now - *held;
    *held = now;
    return true;
}

void intake_count_rejected(struct intake *intake, const struct item *item, enum error_code code)
{
    (void)intake;
    (void)item;
    fake_intake_rejected[code]++;
}

static inline void fake_intake_free(struct fake_intake_call *call)
{
    TAILQ_REMOVE(&fake_intake_calls, call, link);
    free(call->body);
    free(call->key);
    free(call->chain);
    free(call->type);
    free(call);
}

static inline size_t fake_intake_pending(void)
{
    size_t count = 0;
    struct fake_intake_call *call;
    TAILQ_FOREACH(call, &fake_intake_calls, link)
    count++;
    return count;
}

static inline struct fake_intake_call *fake_intake_last(void)
{
    return TAILQ_LAST(&fake_intake_calls, fake_intake_list);
}

/* Answers the oldest. `first`: it repeats that message; NULL: it does not. */
static inline void fake_intake_answer(enum error_code code, const struct uuid *first)
{
    struct fake_intake_call *call = TAILQ_FIRST(&fake_intake_calls);
    ck_assert_ptr_nonnull(call);
    struct err err = {.code = code};
    if (code != ERR_NONE)
        err_set(&err, code, "the intake said no");
    struct intake_request request = call->request;
    struct uuid id = first ? *first : call->id;
    fake_intake_free(call);
    request.answered(request.arg, id, first != NULL, &err);
}

static inline void fake_intake_end(void)
{
    while (!TAILQ_EMPTY(&fake_intake_calls))
        fake_intake_free(TAILQ_FIRST(&fake_intake_calls));
}

#endif
