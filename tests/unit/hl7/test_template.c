/* Templates: compiling, what is refused, rendering and its bound. */
#include "hl7/template.h"

#include "hl7_test.h"

static const char *const names[] = {"correlation_id", "item", NULL};

static struct slice lookup(void *context, const char *name)
{
    (*(int *)context)++;
    return strcmp(name, "item") == 0 ? SLICE_LITERAL("ADT_${x}\0y") : SLICE_LITERAL("0190-abc");
}

static struct hl7_template compile(const char *text)
{
    struct hl7_template ret;
    struct err err = {0};
    ck_assert_msg(hl7_template_parse(slice_text(text), names, &ret, &err) == 0, "%s: %s", text,
                  err.text);
    return ret;
}

static const struct {
    const char *template_;
    struct slice with, without; /* a message */
} cases[] = {
    {"", {"", 0}, {"", 0}},
    {"plain", {"plain", 5}, {"plain", 5}},
    {"${MSH-10}-${correlation_id}.hl7", {"MSG1-0190-abc.hl7", 17}, {"-0190-abc.hl7", 13}},
    {"a$$b$$$$", {"a$b$$", 5}, {"a$b$$", 5}},
    {"$${MSH-10}", {"${MSH-10}", 9}, {"${MSH-10}", 9}},
    {"${PID-5.1}", {"O|B", 3}, {"", 0}},                            /* unescaped */
    {"${PID-5.2}.", {".", 1}, {".", 1}},                            /* absent */
    {"${PID-6}.", {".", 1}, {".", 1}},                              /* deleted */
    {"${PID-3[*].1}", {"77", 2}, {"", 0}},                          /* the first filled in */
    {"${MSH-2}${MSH-1}", {"^~\\&|", 5}, {"", 0}},                   /* never unescaped */
    {"}{${item}}", {"}{ADT_${x}\0y}", 13}, {"}{ADT_${x}\0y}", 13}}, /* values are no templates */
};

#define MESSAGE "MSH|^~\\&|A||||||ADT^A01|MSG1|P|2.5\rPID|||~77^x||O\\F\\B|\"\"\r"

START_TEST(rendered)
{
    struct hl7_message m = parse(SLICE_LITERAL(MESSAGE));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl7_template t = compile(cases[i].template_);
        struct buffer out;
        int calls = 0;
        buffer_init(&out, 100);
        buffer_append_text(&out, ">");
        ck_assert_int_eq(hl7_template_render(&t, &m, lookup, &calls, &out, NULL), 0);
        ck_assert_msg(slice_equal(slice_of(out.data + 1, out.len - 1), cases[i].with), "%s: %.*s",
                      cases[i].template_, (int)out.len, out.data);
        buffer_clear(&out);
        ck_assert_int_eq(hl7_template_render(&t, NULL, lookup, &calls, &out, NULL), 0);
        ck_assert_msg(slice_equal(buffer_slice(&out), cases[i].without), "%s: %.*s",
                      cases[i].template_, (int)out.len, out.data);
        buffer_done(&out);
        hl7_template_done(&t);
        ck_assert_uint_eq(t.part_count, 0);
    }
    hl7_done(&m);
}
END_TEST

/* With every maximum: all or nothing. */
START_TEST(bounded)
{
    struct hl7_message m = parse(SLICE_LITERAL(MESSAGE));
    struct hl7_template t = compile("x${PID-5}$$${MSH-10}${item}y"); /* xO|B$MSG1ADT_${x}\0yy */
    size_t need = 1 + 3 + 1 + 4 + 10 + 1;
    for (size_t max = 0; max <= need + 1; max++) {
        struct buffer out;
        struct err err = {0};
        int calls = 0;
        buffer_init(&out, max + 1);
        buffer_append_text(&out, ">");
        int rc = hl7_template_render(&t, &m, lookup, &calls, &out, &err);
        ck_assert_int_eq(rc, max >= need ? 0 : -1);
        ck_assert_uint_eq(out.len, max >= need ? need + 1 : 1);
        ck_assert_int_eq(err.code, max >= need ? ERR_NONE : ERR_TOO_LARGE);
        buffer_done(&out);
    }
    hl7_template_done(&t);
    hl7_done(&m);
}
END_TEST

START_TEST(refused)
{
    static const struct {
        const char *text, *reason;
    } wrong[] = {
        {"$", "write $$"},
        {"a$b", "write $$"},
        {"$$$", "write $$"},
        {"cost $5", "write $$"},
        {"${", "without '}'"},
        {"${MSH-10", "without '}'"},
        {"${}", "${} is no variable and no path"},
        {"${msh-10}", "${msh-10} is no variable and no path such as PID-3.1: expected a segment's"},
        {"${correlation-id}", "no variable"},
        {"${Correlation_id}", "no variable"},
        {"${MSH-10 }", "nothing more"},
        {"${MSH-0}", "from 1 to 999"},
        {"ok${PID-3}${nope}", "${nope}"},
        {"${${item}}", "no variable"},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct hl7_template ret = {.part_count = 77};
        struct err err = {0};
        ck_assert_msg(hl7_template_parse(slice_text(wrong[i].text), names, &ret, &err) == -1, "%s",
                      wrong[i].text);
        ck_assert_int_eq(err.code, ERR_INVALID);
        ck_assert_msg(strstr(err.text, wrong[i].reason), "%s: %s", wrong[i].text, err.text);
        ck_assert_uint_eq(ret.part_count, 77);
    }
    /* Names are only those allowed. */
    struct hl7_template ret;
    ck_assert_int_eq(hl7_template_parse(SLICE_LITERAL("${item}"), NULL, &ret, NULL), -1);
}
END_TEST

START_TEST(limits)
{
    char text[HL7_TEMPLATE_MAX + 1];
    struct hl7_template t;
    struct err err = {0};
    memset(text, 'a', sizeof(text));
    ck_assert_int_eq(hl7_template_parse(slice_of(text, HL7_TEMPLATE_MAX), NULL, &t, &err), 0);
    hl7_template_done(&t);
    ck_assert_int_eq(hl7_template_parse(slice_of(text, sizeof(text)), NULL, &t, &err), -1);
    ck_assert_ptr_nonnull(strstr(err.text, "longer than 4096"));

    memset(text, '$', sizeof(text));
    ck_assert_int_eq(hl7_template_parse(slice_of(text, 2 * HL7_TEMPLATE_PARTS_MAX), NULL, &t, &err),
                     0);
    hl7_template_done(&t);
    ck_assert_int_eq(
        hl7_template_parse(slice_of(text, 2 * HL7_TEMPLATE_PARTS_MAX + 2), names, &t, &err), -1);
    ck_assert_ptr_nonnull(strstr(err.text, "more than 256 parts"));
}
END_TEST

START_TEST(what_it_needs)
{
    struct hl7_template t = compile("${correlation_id}.bin");
    ck_assert(!hl7_template_has_paths(&t));
    hl7_template_done(&t);
    t = compile("${correlation_id}${MSH-10}");
    ck_assert(hl7_template_has_paths(&t));
    hl7_template_done(&t);

    struct hl7_template nothing = {0};
    struct buffer out;
    buffer_init(&out, 0);
    ck_assert_int_eq(hl7_template_render(&nothing, NULL, NULL, NULL, &out, NULL), 0);
    hl7_template_done(&nothing);
}
END_TEST

RUN_TESTS("hl7 template", rendered, bounded, refused, limits, what_it_needs)
