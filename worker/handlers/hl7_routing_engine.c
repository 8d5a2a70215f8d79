/* HL7RoutingEngine: sends the body, unchanged, to the targets of every rule that holds, and replies
 * an HL7 acknowledgement. It does all of it inside start, waits for nothing and keeps nothing of a
 * message but scratch memory. It fails for good: the body is no HL7, no rule holds and there is no
 * default, or a pattern takes too long on a value. */
#include "handlers/classes.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "handlers/bounded_match.h"
#include "hl7/ack.h"
#include "hl7/message.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    SCRATCH_MAX = 1 << 30,
    SCRATCH_KEPT = 65536, /* bytes kept between messages: one large value must not stay for ever */
};

struct routing_engine {
    const struct hl7_routing_settings *settings;
    struct bounded_match *match;
    struct buffer scratch; /* an unescaped value */
    struct buffer ack;
    const struct item *
        *targets; /* of the message in hand, each once; room for all of the settings' */
    size_t target_count;
};

static bool routing_immediate(const struct item *item)
{
    (void)item;
    return true;
}

static int routing_open(const struct handler_env *env, const struct item *item, void **ret_state,
                        struct err *err)
{
    (void)env;
    (void)err;
    struct routing_engine *engine = mem_alloc(sizeof(*engine));
    engine->settings = item->settings;
    engine->match = bounded_match_new();
    buffer_init(&engine->scratch, SCRATCH_MAX);
    buffer_init(&engine->ack, HL7_ACK_MAX);
    size_t room = engine->settings->fallback_count;
    for (size_t i = 0; i < engine->settings->rule_count; i++)
        room += engine->settings->rules[i].target_count;
    engine->targets = mem_array(room + 1, sizeof(const struct item *));
    *ret_state = engine;
    return 0;
}

static void routing_close(void *state)
{
    struct routing_engine *engine = state;
    bounded_match_free(engine->match);
    buffer_done(&engine->scratch);
    buffer_done(&engine->ack);
    free(engine->targets);
    free(engine);
}

/* ---- rules: 1 holds, 0 does not, -1 with an error ---- */

static int is_one_of(const struct hl7_condition *condition, struct slice text)
{
    for (size_t i = 0; i < condition->value_count; i++) {
        if (slice_equal(condition->values[i], text))
            return 1;
    }
    return 0;
}

static int matches(struct routing_engine *engine, const struct hl7_condition *condition,
                   struct slice text, struct err *err)
{
    switch (bounded_match_search(engine->match, condition->pattern, text)) {
    case MATCH_YES:
        return 1;
    case MATCH_NO:
        return 0;
    case MATCH_TOO_EXPENSIVE:
        break;
    }
    return err_set(err, ERR_REJECTED, "pattern too expensive");
}

static int value_satisfies(struct routing_engine *engine, const struct hl7_condition *condition,
                           const struct hl7_message *message, struct hl7_value value,
                           struct err *err)
{
    struct slice text;
    if (!hl7_unescape(&message->separators, value.raw, &engine->scratch, &text))
        return err_set(err, ERR_UNAVAILABLE, "no memory for a value of %zu bytes", value.raw.len);
    return condition->kind == CONDITION_ONE_OF ? is_one_of(condition, text)
                                               : matches(engine, condition, text, err);
}

/* A path with [*] asks for any of its values; one that the message does not have is the empty text.
 */
static int condition_holds(struct routing_engine *engine, const struct hl7_condition *condition,
                           const struct hl7_message *message, struct err *err)
{
    if (condition->kind == CONDITION_EXISTS) {
        bool there = hl7_get(message, &condition->path).presence > HL7_EMPTY;
        return there == condition->exists;
    }
    struct hl7_value value = {.presence = HL7_ABSENT};
    struct hl7_each each = hl7_each(message, &condition->path);
    bool any = false;
    while (hl7_each_next(&each, &value)) {
        any = true;
        int result = value_satisfies(engine, condition, message, value, err);
        if (result != 0)
            return result;
    }
    value = (struct hl7_value){.presence = HL7_ABSENT};
    return any ? 0 : value_satisfies(engine, condition, message, value, err);
}

static int rule_holds(struct routing_engine *engine, const struct hl7_rule *rule,
                      const struct hl7_message *message, struct err *err)
{
    struct err reason;
    for (size_t i = 0; i < rule->condition_count; i++) {
        int result = condition_holds(engine, &rule->conditions[i], message, &reason);
        if (result < 0)
            return err_set(err, reason.code, "rule %.128s: %s", rule->name, reason.text);
        if (result == 0)
            return 0;
    }
    return 1;
}

/* ---- a message ---- */

static void add_targets(struct routing_engine *engine, const struct item *const *targets,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = 0;
        while (at < engine->target_count && engine->targets[at] != targets[i])
            at++;
        if (at == engine->target_count)
            engine->targets[engine->target_count++] = targets[i];
    }
}

/* All targets of the message, before anything is sent. 0, or -1. */
static int find_targets(struct routing_engine *engine, const struct hl7_message *message,
                        struct err *err)
{
    const struct hl7_routing_settings *settings = engine->settings;
    bool any = false;
    engine->target_count = 0;
    for (size_t i = 0; i < settings->rule_count; i++) {
        const struct hl7_rule *rule = &settings->rules[i];
        int result = rule_holds(engine, rule, message, err);
        if (result < 0)
            return -1;
        if (result == 0)
            continue;
        any = true;
        add_targets(engine, rule->targets, rule->target_count);
    }
    if (!any)
        add_targets(engine, settings->fallback, settings->fallback_count);
    if (engine->target_count == 0)
        return err_set(err, ERR_UNROUTABLE, "no rule holds and there is no default");
    return 0;
}

/* The acknowledgement's MSH-10: of the random part of the correlation id, so that a repeat makes
 * the same one. */
static struct slice control_id_of(struct uuid id, char ret_text[static HL7_ACK_CONTROL_ID_MAX + 1])
{
    const size_t digits = HL7_ACK_CONTROL_ID_MAX / 2;
    for (size_t i = 0; i < digits; i++)
        snprintf(ret_text + 2 * i, 3, "%02X", id.bytes[sizeof(id.bytes) - digits + i]);
    return slice_of(ret_text, 2 * digits);
}

static void send_and_reply(struct routing_engine *engine, const struct hl7_message *message,
                           struct job *job)
{
    char control_id[HL7_ACK_CONTROL_ID_MAX + 1];
    const struct hl7_ack ack = {
        .code = HL7_AA,
        .control_id = control_id_of(job_id(job), control_id),
        .wall_ms = clock_wall_ms(),
    };
    buffer_clear(&engine->ack);
    bool ok = hl7_ack_append(message, &ack, &engine->ack);
    BUG_ON(!ok); /* shorter than HL7_ACK_MAX by its contract */
    for (size_t i = 0; i < engine->target_count; i++)
        job_send(job, engine->targets[i], job_content_type(job), job_body(job));
    job_done(job, SLICE_LITERAL("application/hl7-v2"), buffer_slice(&engine->ack));
}

static void shrink_scratch(struct routing_engine *engine)
{
    if (engine->scratch.capacity > SCRATCH_KEPT)
        buffer_done(&engine->scratch);
}

static void routing_start(void *state, struct job *job)
{
    struct routing_engine *engine = state;
    struct hl7_message message;
    struct err err;
    if (hl7_parse(body_slice(job_body(job)), &message, &err) != 0) {
        job_fail(job, &err);
        return;
    }
    int result = find_targets(engine, &message, &err);
    shrink_scratch(engine);
    if (result == 0)
        send_and_reply(engine, &message, job);
    else
        job_fail(job, &err);
    hl7_done(&message);
}

const struct handler_class hl7_routing_engine_class = {
    .id = CLASS_HL7_ROUTING_ENGINE,
    .immediate = routing_immediate,
    .open = routing_open,
    .close = routing_close,
    .start = routing_start,
};
