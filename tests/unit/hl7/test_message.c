/* Reading messages: segments, parts, MSH's numbering, "any", large bodies, and the summary. */
#include "hl7/message.h"

#include "hl7_test.h"

#include <stdio.h>

#define ADT                                                                                        \
    "MSH|^~\\&|APP^1.2^ISO|WEST|EHR|EAST|20260210123456||ADT^A01^ADT_A01|MSG1|P|2.5\r"             \
    "EVN|A01\r"                                                                                    \
    "PID|1||111^^^WEST&9.8&ISO^MR~222^^^NAT^NI||DOE^JANE|\"\"|19700101\r"                          \
    "OBX|1|NM|A||5\r"                                                                              \
    "OBX|2|NM|B||\r"                                                                               \
    "OBX|3|NM|C||7~8\r"                                                                            \
    "PIDX|no\r"                                                                                    \
    "ZZZ\r"

START_TEST(parts)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_assert_uint_eq(m.segment_count, 8);
    ck_assert_uint_eq(m.rest.len, 0);

    ck_value(&m, "PID-1", HL7_VALUE, "1");
    ck_value(&m, "PID-2", HL7_EMPTY, "");
    ck_value(&m, "PID-3", HL7_VALUE, "111^^^WEST&9.8&ISO^MR");
    ck_value(&m, "PID-3.1", HL7_VALUE, "111");
    ck_value(&m, "PID-3.2", HL7_EMPTY, "");
    ck_value(&m, "PID-3.4", HL7_VALUE, "WEST&9.8&ISO");
    ck_value(&m, "PID-3.4.1", HL7_VALUE, "WEST");
    ck_value(&m, "PID-3.4.3", HL7_VALUE, "ISO");
    ck_value(&m, "PID-3.4.4", HL7_ABSENT, "");
    ck_value(&m, "PID-3.5", HL7_VALUE, "MR");
    ck_value(&m, "PID-3.6", HL7_ABSENT, "");
    ck_value(&m, "PID-3[2].1", HL7_VALUE, "222");
    ck_value(&m, "PID-3[2].5", HL7_VALUE, "NI");
    ck_value(&m, "PID-3[3]", HL7_ABSENT, "");
    ck_value(&m, "PID-7", HL7_VALUE, "19700101");
    ck_value(&m, "PID-8", HL7_ABSENT, "");
    ck_value(&m, "EVN-1.1.1", HL7_VALUE, "A01");
    hl7_done(&m);
}
END_TEST

/* What is not divided is its own first part and has no second. */
START_TEST(undivided)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_value(&m, "PID-7.1", HL7_VALUE, "19700101");
    ck_value(&m, "PID-7.1.1", HL7_VALUE, "19700101");
    ck_value(&m, "PID-7.2", HL7_ABSENT, "");
    ck_value(&m, "PID-7.1.2", HL7_ABSENT, "");
    ck_value(&m, "PID-7[2]", HL7_ABSENT, "");
    ck_value(&m, "PID-2.1.1", HL7_EMPTY, "");
    ck_value(&m, "PID-2.2", HL7_ABSENT, "");
    hl7_done(&m);
}
END_TEST

START_TEST(absent_empty_deleted)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_value(&m, "PID-6", HL7_NULL, "\"\"");
    ck_value(&m, "PID-6.1", HL7_NULL, "\"\"");
    ck_value(&m, "PID-6.2", HL7_ABSENT, "");
    ck_value(&m, "PID-4", HL7_EMPTY, "");
    ck_value(&m, "PID-30", HL7_ABSENT, "");
    ck_value(&m, "PV1-2", HL7_ABSENT, "");
    ck_value(&m, "ZZZ-1", HL7_ABSENT, "");
    ck_value(&m, "OBX[2]-5", HL7_EMPTY, "");
    ck_assert(HL7_NULL > HL7_EMPTY && HL7_VALUE > HL7_EMPTY && HL7_ABSENT < HL7_EMPTY);
    hl7_done(&m);
}
END_TEST

START_TEST(header_numbers)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_value(&m, "MSH-1", HL7_VALUE, "|");
    ck_value(&m, "MSH-1.1.1", HL7_VALUE, "|");
    ck_value(&m, "MSH-2", HL7_VALUE, "^~\\&");
    ck_value(&m, "MSH-2.1", HL7_VALUE, "^~\\&");
    ck_value(&m, "MSH-2.2", HL7_ABSENT, "");
    ck_value(&m, "MSH-2[2]", HL7_ABSENT, "");
    ck_value(&m, "MSH-2[*]", HL7_VALUE, "^~\\&");
    ck_value(&m, "MSH-3", HL7_VALUE, "APP^1.2^ISO");
    ck_value(&m, "MSH-3.1", HL7_VALUE, "APP");
    ck_value(&m, "MSH-9.1", HL7_VALUE, "ADT");
    ck_value(&m, "MSH-9.2", HL7_VALUE, "A01");
    ck_value(&m, "MSH-10", HL7_VALUE, "MSG1");
    ck_value(&m, "MSH-12", HL7_VALUE, "2.5");
    ck_value(&m, "MSH-13", HL7_ABSENT, "");

    struct slice msh = hl7_segment(&m, 0), pid = hl7_segment(&m, 2);
    ck_slice(hl7_field(&m.separators, msh, 0).raw, "MSH");
    ck_slice(hl7_field(&m.separators, msh, 1).raw, "|");
    ck_slice(hl7_field(&m.separators, pid, 0).raw, "PID");
    ck_slice(hl7_field(&m.separators, pid, 3).raw, "111^^^WEST&9.8&ISO^MR~222^^^NAT^NI");
    ck_assert(hl7_segment_is(&m, 2, "PID") && !hl7_segment_is(&m, 6, "PID"));
    ck_assert(hl7_segment_is(&m, 7, "ZZZ"));
    hl7_done(&m);
}
END_TEST

START_TEST(occurrences)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_value(&m, "OBX-3", HL7_VALUE, "A");
    ck_value(&m, "OBX[2]-3", HL7_VALUE, "B");
    ck_value(&m, "OBX[3]-3", HL7_VALUE, "C");
    ck_value(&m, "OBX[4]-3", HL7_ABSENT, "");
    ck_value(&m, "PID[2]-1", HL7_ABSENT, ""); /* PIDX is another segment */
    hl7_done(&m);
}
END_TEST

/* All values of a path, joined by blanks. */
static const char *all(const struct hl7_message *m, const char *text)
{
    static char joined[256];
    struct hl7_path path;
    ck_assert_int_eq(hl7_path_parse(slice_text(text), &path, NULL), 0);
    struct hl7_each each = hl7_each(m, &path);
    struct hl7_value value;
    size_t len = 0, count = 0;
    joined[0] = '\0';
    while (hl7_each_next(&each, &value)) {
        ck_assert(value.presence != HL7_ABSENT);
        len += (size_t)snprintf(joined + len, sizeof(joined) - len, "%s%.*s", count++ ? " " : "",
                                (int)value.raw.len, value.raw.len ? value.raw.ptr : "");
    }
    ck_assert(!hl7_each_next(&each, &value));
    return joined;
}

START_TEST(any)
{
    struct hl7_message m = parse(SLICE_LITERAL(ADT));
    ck_assert_str_eq(all(&m, "PID-3[*].1"), "111 222");
    ck_assert_str_eq(all(&m, "PID-3[*].4.2"), "9.8");
    ck_assert_str_eq(all(&m, "PID-3.1"), "111");
    ck_assert_str_eq(all(&m, "PID-3[2].1"), "222");
    ck_assert_str_eq(all(&m, "OBX[*]-3"), "A B C");
    ck_assert_str_eq(all(&m, "OBX[*]-5"), "5  7");
    ck_assert_str_eq(all(&m, "OBX[*]-5[*]"), "5  7 8");
    ck_assert_str_eq(all(&m, "OBX[*]-5[2]"), "8");
    ck_assert_str_eq(all(&m, "OBX[3]-5[*]"), "7 8");
    ck_assert_str_eq(all(&m, "OBX[2]-3[*]"), "B");
    ck_assert_str_eq(all(&m, "OBX[4]-3[*]"), "");
    ck_assert_str_eq(all(&m, "PV1[*]-2[*]"), "");
    ck_assert_str_eq(all(&m, "MSH-2[*]"), "^~\\&");

    /* get: the first that is filled in, or else the first there is. */
    ck_value(&m, "OBX[*]-5[2]", HL7_VALUE, "8");
    ck_value(&m, "PID-3[*].4.2", HL7_VALUE, "9.8");
    ck_value(&m, "PID-4[*]", HL7_EMPTY, "");
    ck_value(&m, "PID-6[*]", HL7_NULL, "\"\"");
    ck_value(&m, "PV1[*]-2", HL7_ABSENT, "");
    hl7_done(&m);
}
END_TEST

START_TEST(repetitions_at_the_edges)
{
    struct hl7_message m = parse(SLICE_LITERAL("MSH|^~\\&|\rPID|~a~~b~\rPID|~"));
    ck_assert_str_eq(all(&m, "PID-1[*]"), " a  b ");
    ck_value(&m, "PID-1", HL7_EMPTY, "");
    ck_value(&m, "PID-1[5]", HL7_EMPTY, "");
    ck_value(&m, "PID-1[6]", HL7_ABSENT, "");
    ck_value(&m, "PID-1[*]", HL7_VALUE, "a");
    ck_value(&m, "PID[2]-1[2]", HL7_EMPTY, "");
    hl7_done(&m);
}
END_TEST

START_TEST(segment_ends)
{
    static const char *const bodies[] = {
        "MSH|^~\\&|A\rPID|1\rPV1|2\r",
        "MSH|^~\\&|A\nPID|1\nPV1|2\n",
        "MSH|^~\\&|A\r\nPID|1\r\nPV1|2\r\n",
        "MSH|^~\\&|A\rPID|1\nPV1|2\r\n",
        "MSH|^~\\&|A\nPID|1\r\nPV1|2",
        "MSH|^~\\&|A\n\r\n\n\rPID|1\r\r\r\nPV1|2\n\n\n",
        "\r\n\nMSH|^~\\&|A\rPID|1\rPV1|2",
        "\xef\xbb\xbfMSH|^~\\&|A\rPID|1\rPV1|2",
        " \t\r\n\xef\xbb\xbf\r\n MSH|^~\\&|A\rPID|1\rPV1|2",
        "MSH|^~\\&|A\rPID|1\rx\rab\rPV1|2",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct slice body = exact(slice_text(bodies[i]));
        struct hl7_message m = parse(body);
        ck_assert_msg(m.segment_count == 3, "%zu: %u segments", i, m.segment_count);
        ck_value(&m, "MSH-3", HL7_VALUE, "A");
        ck_value(&m, "PID-1", HL7_VALUE, "1");
        ck_value(&m, "PV1-1", HL7_VALUE, "2");
        ck_value(&m, "PV1-2", HL7_ABSENT, "");
        hl7_done(&m);
        free((char *)body.ptr);
    }
}
END_TEST

START_TEST(any_bytes)
{
    struct hl7_message m = parse(SLICE_LITERAL("MSH|^~\\&|A\0B\rPID|\0||\xff\xfe^\xe9\r\0\0\0|x"));
    ck_value(&m, "MSH-3", HL7_VALUE, "A\0B");
    ck_value(&m, "PID-1", HL7_VALUE, "\0");
    ck_value(&m, "PID-3.2", HL7_VALUE, "\xe9");
    ck_assert_uint_eq(m.segment_count, 3);
    hl7_done(&m);
}
END_TEST

START_TEST(other_separators)
{
    struct hl7_message m = parse(SLICE_LITERAL("MSH$%*@!$A%B$C\rPID$1%2!3*4|^~\\&"));
    ck_value(&m, "MSH-1", HL7_VALUE, "$");
    ck_value(&m, "MSH-2", HL7_VALUE, "%*@!");
    ck_value(&m, "MSH-3.2", HL7_VALUE, "B");
    ck_value(&m, "PID-1.2.2", HL7_VALUE, "3");
    ck_value(&m, "PID-1[2]", HL7_VALUE, "4|^~\\&");
    hl7_done(&m);

    /* Undeclared ones divide nothing, not even at NULs. */
    m = parse(SLICE_LITERAL("MSH|^\rPID|a\0b~c&d"));
    ck_value(&m, "PID-1.1.1", HL7_VALUE, "a\0b~c&d");
    ck_value(&m, "PID-1[2]", HL7_ABSENT, "");
    ck_value(&m, "PID-1.1.2", HL7_ABSENT, "");
    hl7_done(&m);
}
END_TEST

START_TEST(refused)
{
    static const struct {
        struct slice body;
        enum error_code code;
    } cases[] = {
        {{NULL, 0}, ERR_NOT_HL7},
        {{"\r\n \r", 4}, ERR_NOT_HL7},
        {{"\xef\xbb\xbf", 3}, ERR_NOT_HL7},
        {{"M", 1}, ERR_NOT_HL7},
        {{"MSH", 3}, ERR_NOT_HL7},
        {{"MSH\r", 4}, ERR_NOT_HL7},
        {{"MSH|", 4}, ERR_NOT_HL7},
        {{"MSH|\rPID|1", 10}, ERR_NOT_HL7},
        {{"PID|1\rMSH|^~\\&", 14}, ERR_NOT_HL7},
        {{"{\"a\": 1}", 8}, ERR_NOT_HL7},
        {{"\0MSH|^~\\&", 9}, ERR_NOT_HL7},
        {{"BHS|^~\\&\rMSH|^~\\&", 17}, ERR_NOT_HL7},
        {{"MSH|^^~\\|", 9}, ERR_INVALID},
        {{"MSHx^~\\&x", 9}, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice body = exact(cases[i].body);
        struct hl7_message m = {.segment_count = 4711};
        struct err err = {0};
        ck_assert_int_eq(hl7_parse(body, &m, &err), -1);
        ck_assert_msg(err.code == cases[i].code, "case %zu: %s", i, err.text);
        ck_assert_uint_eq(m.segment_count, 4711);
        free((char *)body.ptr);
    }
}
END_TEST

/* The first message alone is read; the others are the rest. */
START_TEST(several_messages)
{
    struct hl7_message m = parse(
        SLICE_LITERAL("MSH|^~\\&|A||||||ADT|1\rPID|1\r\nMSH|^~\\&|B||||||ADT|2\rPV1|1\rBTS|2"));
    ck_assert_uint_eq(m.segment_count, 2);
    ck_value(&m, "PV1-1", HL7_ABSENT, "");
    ck_value(&m, "MSH[2]-3", HL7_ABSENT, "");
    ck_slice(m.rest, "MSH|^~\\&|B||||||ADT|2\rPV1|1\rBTS|2");
    hl7_done(&m);

    m = parse(SLICE_LITERAL("MSH|^~\\&|A\nOBX|1|TX|||he said\nMSH is away\nMSH\nBTSX\nMSH-10 x"));
    ck_assert_uint_eq(m.rest.len, 0);
    ck_assert_uint_eq(m.segment_count, 6);
    hl7_done(&m);

    /* What only begins like a header is numbered like others. */
    m = parse(SLICE_LITERAL("MSH|^~\\&|A\rMSHello|a|b\rBHS|"));
    ck_slice(hl7_field(&m.separators, hl7_segment(&m, 1), 1).raw, "a");
    ck_slice(m.rest, "BHS|");
    hl7_done(&m);

    /* A second header with the same separator ends the message also when it is broken. */
    m = parse(SLICE_LITERAL("MSH|^~\\&|A\rMSH|^^^|B\rPID|1"));
    ck_value(&m, "PID-1", HL7_ABSENT, "");
    ck_slice(m.rest, "MSH|^^^|B\rPID|1");
    hl7_done(&m);

    /* One with other separators does so when they are sound. */
    m = parse(SLICE_LITERAL("MSH|^~\\&|A\rMSH#$%*@#B\rPID|1"));
    ck_slice(m.rest, "MSH#$%*@#B\rPID|1");
    hl7_done(&m);
}
END_TEST

/* More segments than the struct holds, around the edge. */
START_TEST(index_grows)
{
    for (unsigned count = HL7_SEGMENTS_INLINE - 2; count < HL7_SEGMENTS_INLINE * 12; count++) {
        struct buffer body;
        buffer_init(&body, 1 << 20);
        buffer_append_text(&body, "MSH|^~\\&|A\r");
        for (unsigned i = 1; i < count; i++)
            buffer_printf(&body, "OBX|%u\r", i);
        struct hl7_message m = parse(buffer_slice(&body));
        ck_assert_uint_eq(m.segment_count, count);
        ck_assert_int_eq(m.places != NULL, count > HL7_SEGMENTS_INLINE);
        struct hl7_message copy = m; /* it may be moved */
        memset(&m, 0x5a, sizeof(m));
        for (unsigned i = 1; i < count; i++) {
            struct hl7_path path = {.segment = "OBX", .occurrence = i, .field = 1, .repetition = 1};
            int64_t number = 0;
            ck_assert(slice_to_int(hl7_get(&copy, &path).raw, 0, 100000, &number));
            ck_assert_int_eq(number, i);
        }
        hl7_done(&copy);
        buffer_done(&body);
    }
}
END_TEST

START_TEST(twenty_megabytes)
{
    size_t size = 20u << 20;
    struct buffer body;
    buffer_init(&body, size + 1000);
    buffer_append_text(&body, "MSH|^~\\&|A||||||ORU^R01|1|P|2.5\rOBX|1|ED|PDF||^AP^^Base64^");
    buffer_reserve(&body, size);
    memset(body.data + body.len, 'Q', size);
    body.len += size;
    buffer_append_text(&body, "|after\rOBX|2|TX\n");
    struct hl7_message m = parse(buffer_slice(&body));
    ck_assert_uint_eq(m.segment_count, 3);
    ck_assert_uint_eq(hl7_get_text(&m, "OBX-5.5").raw.len, size);
    ck_value(&m, "OBX-6", HL7_VALUE, "after");
    ck_value(&m, "OBX[2]-1", HL7_VALUE, "2");
    hl7_done(&m);
    buffer_done(&body);
}
END_TEST

/* Each of these is quadratic for a reader that searches ahead for an end that is far away or not there. */
START_TEST(a_million_segments)
{
    static const char *const ends[] = {"\r", "\n", "\r\n"};
    uint32_t count = 1000000;
    for (size_t e = 0; e < 3; e++) {
        struct buffer body;
        buffer_init(&body, 64u << 20);
        buffer_append_text(&body, "MSH|^~\\&|A");
        buffer_append_text(&body, ends[e]);
        for (uint32_t i = 1; i < count; i++) {
            buffer_append_text(&body, "OBX|");
            buffer_append_uint(&body, i);
            buffer_append_text(&body, ends[e]);
        }
        struct hl7_message m = parse(buffer_slice(&body));
        ck_assert_uint_eq(m.segment_count, count);
        ck_value(&m, "OBX[999999]-1", HL7_VALUE, "999999");
        ck_value(&m, "OBX[1000000]-1", HL7_ABSENT, "");
        struct hl7_path path;
        ck_assert_int_eq(hl7_path_parse(SLICE_LITERAL("OBX[*]-1[*].1"), &path, NULL), 0);
        struct hl7_each each = hl7_each(&m, &path);
        struct hl7_value value;
        uint32_t seen = 0;
        while (hl7_each_next(&each, &value))
            seen++;
        ck_assert_uint_eq(seen, count - 1);
        hl7_done(&m);
        buffer_done(&body);
    }
}
END_TEST

START_TEST(a_million_repetitions)
{
    struct buffer body;
    buffer_init(&body, 8u << 20);
    buffer_append_text(&body, "MSH|^~\\&|A\rPID|");
    for (unsigned i = 0; i < 1000000; i++)
        buffer_append_text(&body, "a~");
    struct hl7_message m = parse(buffer_slice(&body));
    struct hl7_path path;
    ck_assert_int_eq(hl7_path_parse(SLICE_LITERAL("PID-1[*]"), &path, NULL), 0);
    struct hl7_each each = hl7_each(&m, &path);
    struct hl7_value value;
    unsigned seen = 0;
    while (hl7_each_next(&each, &value))
        seen++;
    ck_assert_uint_eq(seen, 1000001);
    hl7_done(&m);
    buffer_done(&body);
}
END_TEST

/* ---- summary ---- */

static struct hl7_summary summary(struct slice body)
{
    struct hl7_message m = parse(body);
    struct hl7_summary ret;
    memset(&ret, 'x', sizeof(ret));
    hl7_summary(&m, &ret);
    hl7_done(&m);
    return ret;
}

START_TEST(summaries)
{
    struct hl7_summary s = summary(SLICE_LITERAL(ADT));
    ck_assert_str_eq(s.control_id, "MSG1");
    ck_assert_str_eq(s.message_type, "ADT^A01");
    ck_assert_str_eq(s.sender, "APP@WEST");

    s = summary(SLICE_LITERAL("MSH|*~\\&|APP*x||||||ADT*A01*ADT_A01|a*b"));
    ck_assert_str_eq(s.message_type, "ADT^A01");
    ck_assert_str_eq(s.control_id, "a*b");
    ck_assert_str_eq(s.sender, "APP");

    s = summary(SLICE_LITERAL("MSH|^~\\&||WEST|||||ACK"));
    ck_assert_str_eq(s.message_type, "ACK");
    ck_assert_str_eq(s.control_id, "");
    ck_assert_str_eq(s.sender, "@WEST");

    s = summary(SLICE_LITERAL("MSH|^~\\&"));
    ck_assert_str_eq(s.message_type, "");
    ck_assert_str_eq(s.sender, "");
}
END_TEST

START_TEST(summaries_are_text)
{
    /* Latin-1, NUL, controls, overlong, surrogate, cut and too large sequences; good ones of two to four bytes */
    struct hl7_summary s = summary(SLICE_LITERAL(
        "MSH|^~\\&|J\xfcrgen\0\x01\x7f|\xc0\xaf\xed\xa0\x80|||||\xf4\x90\x80\x80^\xc2\x85|"
        "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xe2\x82"));
    ck_assert_str_eq(s.sender, "J?rgen???@?????");
    ck_assert_str_eq(s.message_type, "????^?");
    ck_assert_str_eq(s.control_id, "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 ??");
}
END_TEST

/* Whatever the length, at most 199 bytes and never half a character. */
START_TEST(summaries_are_bounded)
{
    for (unsigned ascii = 190; ascii < 204; ascii++) {
        struct buffer body;
        buffer_init(&body, 4096);
        buffer_append_text(&body, "MSH|^~\\&|APP||||||ADT^");
        for (unsigned i = 0; i < 300; i++)
            buffer_append_text(&body, "\xe2\x82\xac");
        buffer_append_text(&body, "|");
        for (unsigned i = 0; i < ascii; i++)
            buffer_append_byte(&body, 'a');
        buffer_append_text(&body, "\xe2\x82\xac");
        buffer_append_text(&body, "bcd");
        struct hl7_summary s = summary(buffer_slice(&body));
        ck_assert_uint_eq(strlen(s.control_id), ascii > 199    ? 199
                                                : ascii <= 193 ? ascii + 6
                                                : ascii <= 196 ? 199
                                                               : ascii);
        ck_assert_uint_eq(strlen(s.message_type), 4 + 195);
        buffer_done(&body);
    }
}
END_TEST

RUN_TESTS("hl7 message", parts, undivided, absent_empty_deleted, header_numbers, occurrences, any,
          repetitions_at_the_edges, segment_ends, any_bytes, other_separators, refused,
          several_messages, index_grows, twenty_megabytes, a_million_segments,
          a_million_repetitions, summaries, summaries_are_text, summaries_are_bounded)
