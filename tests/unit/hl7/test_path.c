/* Paths: what is one, what is none and why, and their text form. */
#include "hl7/path.h"

#include "hl7_test.h"

static struct hl7_path path(const char *text)
{
    struct hl7_path ret;
    struct err err = {0};
    ck_assert_msg(hl7_path_parse(slice_text(text), &ret, &err) == 0, "%s: %s", text, err.text);
    return ret;
}

START_TEST(parts)
{
    struct hl7_path p = path("PID-3");
    ck_assert_str_eq(p.segment, "PID");
    ck_assert_uint_eq(p.occurrence, 1);
    ck_assert_uint_eq(p.field, 3);
    ck_assert_uint_eq(p.repetition, 1);
    ck_assert_uint_eq(p.component, 0);
    ck_assert_uint_eq(p.subcomponent, 0);

    p = path("OBX[12]-5[3].4.2");
    ck_assert_str_eq(p.segment, "OBX");
    ck_assert_uint_eq(p.occurrence, 12);
    ck_assert_uint_eq(p.field, 5);
    ck_assert_uint_eq(p.repetition, 3);
    ck_assert_uint_eq(p.component, 4);
    ck_assert_uint_eq(p.subcomponent, 2);

    p = path("Z01[*]-999[*].999");
    ck_assert_str_eq(p.segment, "Z01");
    ck_assert_uint_eq(p.occurrence, HL7_ANY);
    ck_assert_uint_eq(p.repetition, HL7_ANY);
    ck_assert_uint_eq(p.component, 999);
}
END_TEST

/* What is refused, and the words that say why. */
START_TEST(refused)
{
    static const struct {
        const char *text, *reason;
    } cases[] = {
        {"", "a segment's name"},
        {"PI", "a segment's name"},
        {"pid-3", "a segment's name (three upper-case letters or digits, a letter first) at "
                  "character 1"},
        {"1ID-3", "at character 1"},
        {"P D-3", "at character 2"},
        {"PID", "expected '-' and a field's number at the end"},
        {"PID3", "expected '-' and a field's number at character 4"},
        {"PIDX-3", "at character 4"},
        {"PID-", "expected a field's number at the end"},
        {"PID-x", "expected a field's number at character 5"},
        {"PID-0", "a field's number at character 5 must be from 1 to 999"},
        {"PID-03", "must be from 1 to 999"},
        {"PID-1000", "must be from 1 to 999"},
        {"PID-99999999999999999999999", "must be from 1 to 999"},
        {"PID-3.", "a component's number at the end"},
        {"PID-3.0", "a component's number"},
        {"PID-3.1.", "a subcomponent's number"},
        {"PID-3.1.1.1", "nothing more at character 10"},
        {"PID-3 ", "nothing more at character 6"},
        {" PID-3", "at character 1"},
        {"PID[-3", "a segment's number"},
        {"PID[]-3", "a segment's number"},
        {"PID[0]-3", "a segment's number at character 5 must be from 1"},
        {"PID[10000000]-3", "must be from 1 to 9999999"},
        {"PID[1-3", "']' at character 6"},
        {"PID[**]-3", "']'"},
        {"PID-3[100000]", "must be from 1 to 99999"},
        {"PID-3[-1]", "a repetition's number"},
        {"PID-3-1", "nothing more"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl7_path ret = {.field = 77};
        struct err err = {0};
        ck_assert_msg(hl7_path_parse(slice_text(cases[i].text), &ret, &err) == -1, "%s",
                      cases[i].text);
        ck_assert_int_eq(err.code, ERR_INVALID);
        ck_assert_msg(strstr(err.text, cases[i].reason), "%s: \"%s\" lacks \"%s\"", cases[i].text,
                      err.text, cases[i].reason);
        ck_assert_uint_eq(ret.field, 77);
    }
}
END_TEST

START_TEST(nul_is_no_end)
{
    struct hl7_path ret;
    ck_assert_int_eq(hl7_path_parse(slice_of("PID-3\0x", 7), &ret, NULL), -1);
    ck_assert_int_eq(hl7_path_parse(slice_of("PI\0-3", 5), &ret, NULL), -1);
    ck_assert_int_eq(hl7_path_parse(slice_of(NULL, 0), &ret, NULL), -1);
}
END_TEST

/* Formatting gives the shortest text, and that text the same path. */
START_TEST(format)
{
    static const struct {
        const char *text, *shortest;
    } cases[] = {
        {"PID-3", "PID-3"},
        {"PID[1]-3[1]", "PID-3"},
        {"OBX[2]-5[*].1.2", "OBX[2]-5[*].1.2"},
        {"OBX[*]-5.1", "OBX[*]-5.1"},
        {"ZZZ[9999999]-999[99999].999.999", "ZZZ[9999999]-999[99999].999.999"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl7_path p = path(cases[i].text);
        char text[HL7_PATH_TEXT_SIZE];
        hl7_path_format(&p, text);
        ck_assert_str_eq(text, cases[i].shortest);
        struct hl7_path again = path(text);
        ck_assert_str_eq(again.segment, p.segment);
        ck_assert_uint_eq(again.occurrence, p.occurrence);
        ck_assert_uint_eq(again.repetition, p.repetition);
        ck_assert_uint_eq(again.subcomponent, p.subcomponent);
    }
}
END_TEST

RUN_TESTS("hl7 path", parts, refused, nul_is_no_end, format)
