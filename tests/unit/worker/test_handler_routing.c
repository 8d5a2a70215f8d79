/* HL7RoutingEngine: rules, comparisons, targets, the acknowledgement, and what hostile bodies can do to it. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "fake_job.h"

#include "handlers/classes.h"
#include "hl7/message.h"

#include <pcre2.h>

enum { RULES_MAX = 4, CONDITIONS_MAX = 3 };

static struct loop *loop;
static struct item targets[4];
static const struct item *fallback[2];
static struct hl7_routing_settings settings;
static struct hl7_rule rules[RULES_MAX];
static struct hl7_condition conditions[RULES_MAX][CONDITIONS_MAX];
static const struct item *rule_targets[RULES_MAX][3];
static struct slice values[RULES_MAX][CONDITIONS_MAX][4];
static struct item item;
static void *state;

static const char ADT[] = "MSH|^~\\&|REG|WEST|HIE|HUB|20260210123456||ADT^A01|MSG00042|P|2.5\r"
                          "EVN|A01|20260210123456\r"
                          "PID|1||1234567890^^^MRN~99^^^SSN||DOE^JANE||19800101|F\r"
                          "PV1|1|I|\"\"|A\\T\\B\r"
                          "OBX|1|TX|C^1||first\r"
                          "OBX|2|TX|C^2||second\r";

static void setup(void)
{
    static const char *const ids[] = {"A", "B", "C", "D"};
    memset(rules, 0, sizeof(rules));
    memset(conditions, 0, sizeof(conditions));
    loop = loop_new();
    for (int i = 0; i < 4; i++)
        targets[i] = (struct item){.id = (char *)ids[i], .enabled = true};
    settings = (struct hl7_routing_settings){.rules = rules};
    item = (struct item){.id = (char *)"Router", .settings = &settings};
    state = NULL;
}

static void teardown(void)
{
    if (state)
        hl7_routing_engine_class.close(state);
    for (size_t r = 0; r < settings.rule_count; r++) {
        for (size_t c = 0; c < rules[r].condition_count; c++)
            pcre2_code_free(conditions[r][c].pattern);
    }
    loop = loop_free(loop);
}

/* ---- building rules ---- */

static struct hl7_rule *rule(const char *name, const struct item *first, const struct item *second)
{
    ck_assert_uint_lt(settings.rule_count, RULES_MAX);
    size_t r = settings.rule_count++;
    rules[r] = (struct hl7_rule){
        .name = (char *)name, .conditions = conditions[r], .targets = rule_targets[r]};
    if (first)
        rule_targets[r][rules[r].target_count++] = first;
    if (second)
        rule_targets[r][rules[r].target_count++] = second;
    return &rules[r];
}

static struct hl7_condition *condition(struct hl7_rule *to, const char *path)
{
    struct hl7_condition *added = &to->conditions[to->condition_count++];
    ck_assert_int_eq(hl7_path_parse(slice_text(path), &added->path, NULL), 0);
    return added;
}

static void is(struct hl7_rule *to, const char *path, const char *first, const char *second)
{
    size_t r = (size_t)(to - rules), c = to->condition_count;
    struct hl7_condition *added = condition(to, path);
    added->kind = CONDITION_ONE_OF;
    added->values = values[r][c];
    added->values[added->value_count++] = slice_text(first);
    if (second)
        added->values[added->value_count++] = slice_text(second);
}

static void matches(struct hl7_rule *to, const char *path, const char *pattern, uint32_t options)
{
    int error;
    PCRE2_SIZE at;
    struct hl7_condition *added = condition(to, path);
    added->kind = CONDITION_MATCHES;
    added->pattern =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    ck_assert_ptr_nonnull(added->pattern);
}

static void exists(struct hl7_rule *to, const char *path, bool wanted)
{
    struct hl7_condition *added = condition(to, path);
    added->kind = CONDITION_EXISTS;
    added->exists = wanted;
}

static struct job *route_bytes(struct slice body)
{
    const struct handler_env env = {.loop = loop};
    if (!state)
        ck_assert_int_eq(hl7_routing_engine_class.open(&env, &item, &state, NULL), 0);
    struct job *job = fake_job_new(&item, body);
    hl7_routing_engine_class.start(state, job);
    ck_assert_int_eq(job->ends, 1); /* immediate */
    return job;
}

static struct job *route(const char *body)
{
    return route_bytes(slice_text(body));
}

/* Whether the message went to exactly these items, in order: "AB". Frees the job. */
static void ck_sent(struct job *job, const char *ids)
{
    char sent[FAKE_SENDS_MAX + 1] = "";
    for (size_t i = 0; i < job->send_count; i++)
        sent[i] = job->sends[i].target->id[0];
    ck_assert_str_eq(sent, ids);
    ck_assert_int_eq(job->good, *ids != '\0');
    fake_job_free(job);
}

/* ---- conditions ---- */

START_TEST(one_of)
{
    struct hl7_rule *r = rule("r", &targets[0], NULL);
    is(r, "MSH-9.2", "A04", "A01");
    ck_sent(route(ADT), "A");
    rules[0].conditions[0].value_count = 1;
    ck_sent(route(ADT), "");
}
END_TEST

START_TEST(all_conditions_must_hold)
{
    struct hl7_rule *r = rule("r", &targets[0], NULL);
    is(r, "MSH-9.1", "ADT", NULL);
    is(r, "MSH-9.2", "A01", NULL);
    exists(r, "PV1-2", true);
    ck_sent(route(ADT), "A");
    is(rule("never", &targets[1], NULL), "MSH-9.1", "ORU", NULL);
    ck_sent(route(ADT), "A");
    conditions[0][2].exists = false;
    ck_sent(route(ADT), "");
}
END_TEST

START_TEST(a_rule_without_conditions_always_holds)
{
    rule("all", &targets[0], NULL);
    ck_sent(route(ADT), "A");
}
END_TEST

START_TEST(compared_after_unescaping)
{
    is(rule("r", &targets[0], NULL), "PV1-4", "A&B", NULL);
    is(rule("raw", &targets[1], NULL), "PV1-4", "A\\T\\B", NULL);
    matches(rule("m", &targets[2], NULL), "PV1-4", "^A&B$", PCRE2_USE_OFFSET_LIMIT);
    ck_sent(route(ADT), "AC");
}
END_TEST

START_TEST(other_separators)
{
    is(rule("r", &targets[0], NULL), "MSH-9.2", "A01", NULL);
    ck_sent(route("MSH!$*%@!X!X!X!X!20260101!!ADT$A01!1!P!2.3\r"), "A");
}
END_TEST

START_TEST(a_path_means_the_first_and_a_star_any)
{
    is(rule("first", &targets[0], NULL), "PID-3.1", "99", NULL);
    is(rule("any", &targets[1], NULL), "PID-3[*].1", "99", NULL);
    is(rule("second", &targets[2], NULL), "PID-3[2].1", "99", NULL);
    matches(rule("any segment", &targets[3], NULL), "OBX[*]-5", "^sec", PCRE2_USE_OFFSET_LIMIT);
    ck_sent(route(ADT), "BCD");
}
END_TEST

START_TEST(existence)
{
    exists(rule("filled in", &targets[0], NULL), "PV1-2", true);
    exists(rule("the delete mark", &targets[1], NULL), "PV1-3", true);
    exists(rule("empty", &targets[2], NULL), "PID-4", false);
    exists(rule("absent", &targets[3], NULL), "ZZZ-9", false);
    ck_sent(route(ADT), "ABCD");
    for (int i = 0; i < 4; i++)
        conditions[i][0].exists = !conditions[i][0].exists;
    ck_sent(route(ADT), "");
}
END_TEST

START_TEST(what_is_absent_compares_as_the_empty_text)
{
    is(rule("empty", &targets[0], NULL), "PID-4", "", NULL);
    is(rule("absent", &targets[1], NULL), "ZZZ[*]-9", "", NULL);
    matches(rule("pattern", &targets[2], NULL), "ZZZ-9", "^$", PCRE2_USE_OFFSET_LIMIT);
    is(rule("filled in", &targets[3], NULL), "PV1-2", "", NULL);
    ck_sent(route(ADT), "ABC");
}
END_TEST

START_TEST(patterns)
{
    matches(rule("ten digits", &targets[0], NULL), "PID-3.1", "^[0-9]{10}$", 0);
    matches(rule("part", &targets[1], NULL), "PID-5", "JA", PCRE2_USE_OFFSET_LIMIT);
    matches(rule("no", &targets[2], NULL), "PID-5", "^JA", PCRE2_USE_OFFSET_LIMIT);
    ck_sent(route(ADT), "AB");
}
END_TEST

/* ---- targets ---- */

START_TEST(every_rule_adds_and_each_target_gets_it_once)
{
    is(rule("1", &targets[2], &targets[0]), "MSH-9.1", "ADT", NULL);
    is(rule("2", &targets[1], NULL), "MSH-9.1", "ORU", NULL);
    is(rule("3", &targets[0], &targets[3]), "MSH-9.1", "ADT", NULL);
    targets[3].enabled = false; /* still accepts: its messages wait */
    ck_sent(route(ADT), "CAD");
    ck_sent(route(ADT), "CAD"); /* nothing is left of the message before */
}
END_TEST

START_TEST(sends_the_body_as_it_is)
{
    rule("all", &targets[0], &targets[1]);
    struct job *job = route(ADT);
    ck_assert_uint_eq(job->send_count, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert(job->sends[i].shared);
        ck_assert_uint_eq(job->sends[i].len, strlen(ADT));
        ck_assert_str_eq(job->sends[i].content_type, "application/hl7-v2");
    }
    ck_sent(job, "AB");
}
END_TEST

START_TEST(default_targets)
{
    fallback[0] = &targets[3];
    fallback[1] = &targets[3];
    settings.fallback = fallback;
    settings.fallback_count = 2;
    is(rule("r", &targets[0], NULL), "MSH-9.1", "ADT", NULL);
    ck_sent(route(ADT), "A");
    is(rules, "MSH-9.2", "A99", NULL);
    ck_sent(route(ADT), "D");
}
END_TEST

START_TEST(nobody_wants_it)
{
    is(rule("r", &targets[0], NULL), "MSH-9.1", "ORU", NULL);
    struct job *job = route(ADT);
    ck_assert_int_eq(job->error.code, ERR_UNROUTABLE);
    ck_assert_str_eq(job->error.text, "no rule holds and there is no default");
    ck_sent(job, "");
}
END_TEST

/* ---- the reply ---- */

START_TEST(replies_an_acknowledgement)
{
    rule("all", &targets[0], NULL);
    struct job *job = route(ADT);
    ck_assert_str_eq(job->reply_type, "application/hl7-v2");
    struct hl7_message ack;
    ck_assert_int_eq(hl7_parse(slice_of(job->reply, job->reply_len), &ack, NULL), 0);
    ck_assert(slice_is(hl7_get_text(&ack, "MSA-1").raw, "AA"));
    ck_assert(slice_is(hl7_get_text(&ack, "MSA-2").raw, "MSG00042"));
    ck_assert(slice_is(hl7_get_text(&ack, "MSH-9.1").raw, "ACK"));
    ck_assert(slice_is(hl7_get_text(&ack, "MSH-5").raw, "REG"));
    ck_assert_uint_gt(hl7_get_text(&ack, "MSH-10").raw.len, 0);
    hl7_done(&ack);
    ck_sent(job, "A");
}
END_TEST

/* ---- bodies that are none, and hostile ones ---- */

START_TEST(no_hl7)
{
    rule("all", &targets[0], NULL);
    static const char *const bodies[] = {"", "hello", "{\"MSH\":1}", "PID|1\rMSH|^~\\&|\r", "MSH"};
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct job *job = route(bodies[i]);
        ck_assert_int_eq(job->error.code, ERR_NOT_HL7);
        ck_sent(job, "");
    }
}
END_TEST

/* A message whose PID-5 is `len` times `byte`, then `end`. */
static struct job *route_long(char byte, size_t len, const char *end)
{
    static const char head[] = "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\rPID|1||||";
    char *body = mem_alloc(sizeof(head) + len + strlen(end) + 1);
    memcpy(body, head, sizeof(head) - 1);
    memset(body + sizeof(head) - 1, byte, len);
    strcpy(body + sizeof(head) - 1 + len, end);
    struct job *job = route(body);
    free(body);
    return job;
}

static void ck_too_expensive(struct job *job)
{
    ck_assert_int_eq(error_class_of(job->error.code), ERROR_REJECT);
    ck_assert_str_eq(job->error.text, "rule costly: pattern too expensive");
    ck_sent(job, ""); /* not even to the targets of rules that held */
}

START_TEST(a_pattern_that_explodes)
{
    rule("all", &targets[0], NULL);
    matches(rule("costly", &targets[1], NULL), "PID-5", "^(a+)+$", PCRE2_USE_OFFSET_LIMIT);
    ck_too_expensive(route_long('a', 40, "b")); /* 2^40 ways to fail */
    ck_sent(route_long('a', 40, ""), "AB");     /* the next one is not affected */
}
END_TEST

START_TEST(a_pattern_that_grows_with_the_square)
{
    rule("all", &targets[0], NULL);
    matches(rule("costly", &targets[1], NULL), "PID-5", "[ab]*[ac]*x",
            PCRE2_USE_OFFSET_LIMIT | PCRE2_NO_START_OPTIMIZE);
    ck_too_expensive(route_long('a', 1000000, "b"));
}
END_TEST

START_TEST(a_pattern_that_eats_memory)
{
    matches(rule("costly", &targets[1], NULL), "PID-5", "^(?:(a)|b)*$", PCRE2_USE_OFFSET_LIMIT);
    ck_too_expensive(route_long('a', 1000000, "c"));
}
END_TEST

START_TEST(an_honest_pattern_on_a_long_value)
{
    matches(rule("at its end", &targets[0], NULL), "PID-5", "needle$", PCRE2_USE_OFFSET_LIMIT);
    matches(rule("nowhere", &targets[1], NULL), "PID-5", "missing", PCRE2_USE_OFFSET_LIMIT);
    matches(rule("at its start", &targets[2], NULL), "PID-5", "^aaa", 0);
    matches(rule("over many places", &targets[3], NULL), "PID-5", "a{100}needle",
            PCRE2_USE_OFFSET_LIMIT);
    ck_sent(route_long('a', 20000, "needle"), "ACD");
}
END_TEST

START_TEST(a_long_value_full_of_escapes)
{
    char *text = mem_alloc(3 * 100000 + 2);
    for (int i = 0; i < 100000; i++)
        memcpy(text + 3 * i, "\\T\\", 3);
    is(rule("r", &targets[0], NULL), "PID-5", "x", NULL);
    exists(rule("there", &targets[1], NULL), "PID-5", true);
    ck_sent(route_long('x', 1, text), "B");
    free(text);
}
END_TEST

START_TEST(bytes_of_any_kind)
{
    static const char body[] = "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\rPID|1||\0\xff\xfe|x\r";
    is(rule("r", &targets[0], NULL), "PID-4", "x", NULL);
    matches(rule("nul", &targets[1], NULL), "PID-3", "^\\x00\\xff", 0);
    ck_sent(route_bytes(slice_of(body, sizeof(body) - 1)), "AB");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("routing");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, one_of);
    tcase_add_test(tests, all_conditions_must_hold);
    tcase_add_test(tests, a_rule_without_conditions_always_holds);
    tcase_add_test(tests, compared_after_unescaping);
    tcase_add_test(tests, other_separators);
    tcase_add_test(tests, a_path_means_the_first_and_a_star_any);
    tcase_add_test(tests, existence);
    tcase_add_test(tests, what_is_absent_compares_as_the_empty_text);
    tcase_add_test(tests, patterns);
    tcase_add_test(tests, every_rule_adds_and_each_target_gets_it_once);
    tcase_add_test(tests, sends_the_body_as_it_is);
    tcase_add_test(tests, default_targets);
    tcase_add_test(tests, nobody_wants_it);
    tcase_add_test(tests, replies_an_acknowledgement);
    tcase_add_test(tests, no_hl7);
    tcase_add_test(tests, a_pattern_that_explodes);
    tcase_add_test(tests, a_pattern_that_grows_with_the_square);
    tcase_add_test(tests, a_pattern_that_eats_memory);
    tcase_add_test(tests, an_honest_pattern_on_a_long_value);
    tcase_add_test(tests, a_long_value_full_of_escapes);
    tcase_add_test(tests, bytes_of_any_kind);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
