/* Batches taken apart: what is one, its messages byte for byte, its counts. */
#include "hl7/batch.h"

#include "hl7_test.h"

#define M1 "MSH|^~\\&|A||||||ADT^A01|1|P|2.5\rPID|1\r"
#define M2 "MSH|^~\\&|A||||||ADT^A01|2|P|2.5\rPID|2\r"
#define M3 "MSH|^~\\&|A||||||ADT^A01|3|P|2.5\rPID|3\r"

START_TEST(is_batch)
{
    static const struct {
        const char *body;
        bool batch;
    } cases[] = {
        {M1, false},
        {M1 M2, true},
        {"FHS|^~\\&\rBHS|^~\\&\r" M1 "BTS|1\rFTS|1\r", true},
        {"BHS|^~\\&\r" M1, true},
        {M1 "BTS|1", true},
        {"FHS|^~\\&", true},
        {"\r\n\xef\xbb\xbf"
         "BHS|^~\\&\n" M1,
         true},
        {"", false},
        {"hello", false},
        {"PID|1\r" M1 M2, false},
        {M1 "MSH is away\r", false},
        {"MSH|^~\\&|A\nPID|1\nMSH|^~\\&|A\n", true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice body = exact(slice_text(cases[i].body));
        ck_assert_msg(hl7_is_batch(body) == cases[i].batch, "%s", cases[i].body);
        struct hl7_message m;
        if (hl7_parse(body, &m, NULL) == 0) {
            ck_assert_int_eq(m.rest.len > 0, cases[i].batch);
            hl7_done(&m);
        }
        free((char *)body.ptr);
    }
}
END_TEST

static void expect(struct hl7_batch *batch, const char *message)
{
    struct slice got;
    ck_assert(hl7_batch_next(batch, &got));
    ck_assert_msg(slice_is(got, message), "%.*s", (int)got.len, got.ptr);
}

static void expect_end(struct hl7_batch *batch)
{
    struct slice got = SLICE_LITERAL("untouched");
    ck_assert(!hl7_batch_next(batch, &got));
    ck_assert(!hl7_batch_next(batch, &got));
    ck_slice(got, "untouched");
}

START_TEST(whole_file)
{
    struct slice body = exact(SLICE_LITERAL("FHS|^~\\&|F\rBHS|^~\\&|G1\r" M1 M2
                                            "BTS|2|done\rBHS|^~\\&|G2\r" M3 "BTS|1\rFTS|2\r"));
    struct hl7_batch batch;
    hl7_batch_init(&batch, body);
    expect(&batch, M1);
    ck_slice(batch.file_header, "FHS|^~\\&|F");
    ck_slice(batch.batch_header, "BHS|^~\\&|G1");
    expect(&batch, M2);
    expect(&batch, M3);
    ck_slice(batch.batch_header, "BHS|^~\\&|G2");
    ck_slice(batch.first_message, M1);
    expect_end(&batch);
    ck_assert_uint_eq(batch.message_count, 3);
    ck_assert_uint_eq(batch.group_count, 2);
    ck_assert_uint_eq(batch.trailer_count, 3);
    ck_assert_uint_eq(batch.stray_count, 0);
    ck_assert_uint_eq(batch.count_mismatches, 0);
    ck_assert_int_eq(batch.declared_messages, 1);
    ck_assert_int_eq(batch.declared_groups, 2);
    free((char *)body.ptr);
}
END_TEST

START_TEST(without_headers)
{
    struct hl7_batch batch;
    hl7_batch_init(&batch, SLICE_LITERAL(M1 M2 M3));
    expect(&batch, M1);
    expect(&batch, M2);
    expect(&batch, M3);
    expect_end(&batch);
    ck_assert_int_eq(batch.declared_messages, -1);
    ck_assert_int_eq(batch.declared_groups, -1);
    ck_assert_uint_eq(batch.group_count, 0);

    /* A plain message passes through too. */
    hl7_batch_init(&batch, SLICE_LITERAL(M1));
    expect(&batch, M1);
    expect_end(&batch);
}
END_TEST

/* The bytes of a message are its own, with the end of its last segment and without blank lines after it. */
START_TEST(line_ends)
{
    struct hl7_batch batch;
    hl7_batch_init(&batch, SLICE_LITERAL("\n\nMSH|^~\\&|A\nPID|1\n\n\nMSH|^~\\&|B\r\nPID|2\r\n\r\n"
                                         "MSH|^~\\&|C\r\rPID|3\r\rBTS|3\nMSH|^~\\&|D\r\n\nPID|4"));
    expect(&batch, "MSH|^~\\&|A\nPID|1\n");
    expect(&batch, "MSH|^~\\&|B\r\nPID|2\r\n");
    expect(&batch, "MSH|^~\\&|C\r\rPID|3\r");
    expect(&batch, "MSH|^~\\&|D\r\n\nPID|4");
    expect_end(&batch);
    ck_assert_uint_eq(batch.count_mismatches, 0);
}
END_TEST

START_TEST(counts)
{
    static const struct {
        const char *body;
        size_t mismatches;
        int64_t messages, groups;
    } cases[] = {
        {"BHS|^~\\&\r" M1 "BTS|2\r", 1, 2, -1},
        {"BHS|^~\\&\r" M1 "BTS\r", 0, -1, -1},
        {"BHS|^~\\&\r" M1 "BTS|\r", 0, -1, -1},
        {"BHS|^~\\&\r" M1 "BTS| 1 |text\r", 0, 1, -1},
        {"BHS|^~\\&\r" M1 "BTS|99999999999999999999\r", 0, -1, -1},
        {"BHS|^~\\&\r" M1 "BTS|-1\r", 0, -1, -1},
        {"BHS|^~\\&\r" M1 "BTS|one\r", 0, -1, -1},
        {"BHS|^~\\&\r" M1 "BTS|0\rFTS|0\r", 2, 0, 0},
        {"FHS|^~\\&\rBHS|^~\\&\rBTS|0\rFTS|1\r", 0, 0, 1},
        {M1 M2 "BTS|2\r" M3 "BTS|2\r", 1, 2, -1},
        {"BHS#^~\\&\r" M1 "BTS#1\r", 0, 1, -1},
        {M1 "FTS|1\r", 1, -1, 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl7_batch batch;
        struct slice message;
        hl7_batch_init(&batch, slice_text(cases[i].body));
        while (hl7_batch_next(&batch, &message))
            ck_assert_uint_gt(message.len, 8);
        ck_assert_msg(batch.count_mismatches == cases[i].mismatches, "%s", cases[i].body);
        ck_assert_int_eq(batch.declared_messages, cases[i].messages);
        ck_assert_int_eq(batch.declared_groups, cases[i].groups);
    }
}
END_TEST

START_TEST(strays)
{
    struct hl7_batch batch;
    hl7_batch_init(&batch, SLICE_LITERAL("BHS|^~\\&\rNTE|1\rNTE|2\r" M1 "BTS|1\rNTE|3\r"));
    expect(&batch, M1);
    expect_end(&batch);
    ck_assert_uint_eq(batch.stray_count, 3);

    hl7_batch_init(&batch, SLICE_LITERAL("no HL7 at all\nand more"));
    expect_end(&batch);
    ck_assert_uint_eq(batch.stray_count, 2);
    hl7_batch_init(&batch, slice_of(NULL, 0));
    expect_end(&batch);
}
END_TEST

/* Broken headers stay messages of their own, so that they can be refused by themselves; other separators too. */
START_TEST(odd_headers)
{
    struct hl7_batch batch;
    hl7_batch_init(&batch, SLICE_LITERAL("MSH|^^^|A\rPID|1\rMSH|^~\\&|B\rPID|2\rMSH#$%*@#C\r"
                                         "PID#3\rMSH ^~\\& D\rPID 4\rMSH ^~\\& E\r"));
    expect(&batch, "MSH|^^^|A\rPID|1\r");
    expect(&batch, "MSH|^~\\&|B\rPID|2\r");
    expect(&batch, "MSH#$%*@#C\rPID#3\r");
    expect(&batch, "MSH ^~\\& D\rPID 4\r");
    expect(&batch, "MSH ^~\\& E\r");
    expect_end(&batch);
    ck_assert_uint_eq(batch.stray_count, 0);
}
END_TEST

/* Linear, whatever ends the lines: the next LF is not searched anew for every message. */
START_TEST(many)
{
    for (int lf = 0; lf < 2; lf++) {
        struct buffer body;
        buffer_init(&body, 16u << 20);
        buffer_append_text(&body, "FHS|^~\\&\rBHS|^~\\&\r");
        for (unsigned i = 0; i < 200000; i++)
            buffer_append_text(&body, lf ? "MSH|^~\\&|A\nPID|1\n" : "MSH|^~\\&|A\rPID|1\r");
        buffer_append_text(&body, "BTS|200000\rFTS|1");
        struct hl7_batch batch;
        struct slice message;
        hl7_batch_init(&batch, buffer_slice(&body));
        while (hl7_batch_next(&batch, &message))
            ck_assert_uint_eq(message.len, 17);
        ck_assert_uint_eq(batch.message_count, 200000);
        ck_assert_uint_eq(batch.count_mismatches, 0);
        buffer_done(&body);
    }
}
END_TEST

RUN_TESTS("hl7 batch", is_batch, whole_file, without_headers, line_ends, counts, strays,
          odd_headers, many)
