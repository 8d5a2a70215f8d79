/* Acknowledgements: every version's form, what is echoed and what never is, their bound, batches and modes. */
#include "hl7/ack.h"

#include "hl7/mllp.h"
#include "hl7_test.h"

#define NOW 1770727985123 /* 2026-02-10 12:53:05.123 UTC */
#define TIME "20260210125305+0000"

static struct buffer ack_of(const struct hl7_message *request, struct hl7_ack ack)
{
    struct buffer out;
    buffer_init(&out, HL7_ACK_MAX);
    ack.wall_ms = NOW;
    if (!ack.control_id.len)
        ack.control_id = SLICE_LITERAL("ID7");
    ck_assert(hl7_ack_append(request, &ack, &out));
    ck_assert_uint_lt(out.len + MLLP_FRAMING_LEN, HL7_ACK_MAX);
    for (size_t i = 0; i < out.len; i++)
        ck_assert(out.data[i] != '\n' && out.data[i] != '\v' && out.data[i] != '\x1c');
    return out;
}

#define ck_ack(request_, ack_, literal)                                                            \
    do {                                                                                           \
        struct hl7_message m_ = parse(SLICE_LITERAL(request_));                                    \
        struct buffer out_ = ack_of(&m_, (struct hl7_ack)ack_);                                    \
        ck_slice(buffer_slice(&out_), literal);                                                    \
        buffer_done(&out_);                                                                        \
        hl7_done(&m_);                                                                             \
    } while (0)

#define ACK(...)                                                                                   \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

START_TEST(accepted)
{
    ck_ack("MSH|^~\\&|APP^1.2^ISO|WEST|EHR|EAST^9^L|20260101||ADT^A01^ADT_A01|MSG 1|P^T|2.5.1^USA|"
           "||AL|NE||UNICODE UTF-8\rPID|1|secret\r",
           ACK(.code = HL7_AA),
           "MSH|^~\\&|EHR|EAST^9^L|APP^1.2^ISO|WEST|" TIME
           "||ACK^A01^ACK|ID7|P^T|2.5.1^USA||||||UNICODE UTF-8\rMSA|AA|MSG 1\r");
    ck_ack("MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.3\r", ACK(.code = HL7_CA),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|ID7|P|2.3\rMSA|CA|1\r");
}
END_TEST

/* `ACK^event^ACK` from 2.4 on; ERR-1 and MSA-3 before 2.5, ERR-2 to ERR-8 from then on. */
START_TEST(versions)
{
    static const struct {
        const char *version, *type, *rest;
    } cases[] = {
        {"2.1", "ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        {"2.2", "ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        {"2.3", "ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        {"2.3.1", "ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        {"2.4", "ACK^R01^ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        {"2.5", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.5.1", "ACK^R01^ACK",
         "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.6", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.7", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.7.1", "ACK^R01^ACK",
         "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.8", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2.10", "ACK^R01^ACK",
         "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {" 2.3 ^x", "ACK", "MSA|AE|1|bad\rERR|^^^207&Application internal error&HL70357\r"},
        /* not said, or nothing that one can read: as 2.5, and echoed as it is */
        {"", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"x.y", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
        {"2", "ACK^R01^ACK", "MSA|AE|1\rERR|||207^Application internal error^HL70357|E||||bad\r"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buffer text;
        buffer_init(&text, 4096);
        buffer_printf(&text, "MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|%s\r", cases[i].version);
        struct hl7_message m = parse(buffer_slice(&text));
        struct buffer ack = ack_of(&m, (struct hl7_ack){.code = HL7_AE, .text = "bad"});
        struct buffer want;
        buffer_init(&want, 4096);
        buffer_printf(&want, "MSH|^~\\&|C|D|A|B|" TIME "||%s|ID7|P|%s\r%s", cases[i].type,
                      cases[i].version, cases[i].rest);
        ck_assert_msg(slice_equal(buffer_slice(&ack), buffer_slice(&want)), "%s: %.*s",
                      cases[i].version, (int)ack.len, ack.data);
        buffer_done(&want);
        buffer_done(&ack);
        buffer_done(&text);
        hl7_done(&m);
    }
}
END_TEST

START_TEST(locations)
{
    struct hl7_path p;
    ck_assert_int_eq(hl7_path_parse(SLICE_LITERAL("OBX[3]-5[2].4.1"), &p, NULL), 0);
    ck_ack("MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.6\r",
           ACK(.code = HL7_AE, .location = &p, .condition = HL7_TABLE_VALUE),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK^R01^ACK|ID7|P|2.6\rMSA|AE|1\r"
           "ERR||OBX^3^5^2^4^1|103^Table value not found^HL70357|E\r");
    ck_ack("MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.3\r",
           ACK(.code = HL7_CE, .location = &p, .condition = HL7_TABLE_VALUE),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|ID7|P|2.3\rMSA|CE|1\r"
           "ERR|OBX^3^5^103&Table value not found&HL70357\r");
    ck_assert_int_eq(hl7_path_parse(SLICE_LITERAL("PID[*]-3[*]"), &p, NULL), 0);
    ck_ack("MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.5\r",
           ACK(.code = HL7_AR, .location = &p, .condition = HL7_REQUIRED_FIELD, .text = ""),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK^R01^ACK|ID7|P|2.5\rMSA|AR|1\r"
           "ERR||PID^1^3^1|101^Required field missing^HL70357|E\r");
}
END_TEST

/* Every code of table 0357 has its words; a number that is none becomes 207. */
START_TEST(conditions)
{
    static const int codes[] = {100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 0, 999};
    struct hl7_message m = parse(SLICE_LITERAL("MSH|^~\\&|A||||||ORU^R01|1|P|2.5\r"));
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct buffer out = ack_of(
            &m, (struct hl7_ack){.code = HL7_AE, .condition = (enum hl7_condition_code)codes[i]});
        struct hl7_message ack = parse(buffer_slice(&out));
        int64_t said = 0;
        ck_assert(slice_to_int(hl7_get_text(&ack, "ERR-3.1").raw, 0, 999, &said));
        ck_assert_int_eq(said, codes[i] && codes[i] < 999 ? codes[i] : 207);
        ck_assert_uint_gt(hl7_get_text(&ack, "ERR-3.2").raw.len, 10);
        hl7_done(&ack);
        buffer_done(&out);
    }
    hl7_done(&m);
}
END_TEST

/* An accepting acknowledgement has no ERR, whatever the caller left in its fields. */
START_TEST(no_error_when_accepted)
{
    ck_ack("MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.5\r",
           ACK(.code = HL7_AA, .condition = HL7_INTERNAL, .text = "x"),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK^R01^ACK|ID7|P|2.5\rMSA|AA|1\r");
    ck_ack("MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.2\r", ACK(.code = HL7_CA, .text = "x"),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|ID7|P|2.2\rMSA|CA|1\r");
}
END_TEST

START_TEST(other_separators)
{
    ck_ack("MSH$%*@!$A%1$B$C$D!E$$$ORU%R01%x$1@F@2$P$2.5\r", ACK(.code = HL7_AE, .text = "a$b@c|d"),
           "MSH$%*@!$C$D!E$A%1$B$" TIME "$$ACK%R01%ACK$ID7$P$2.5\rMSA$AE$1@F@2\r"
           "ERR$$$207%Application internal error%HL70357$E$$$$a@F@b@E@c|d\r");
    ck_ack("MSH|^~\\&#|A||B||||ORU^R01|1|P|2.7\r", ACK(.code = HL7_AE, .text = "a#b"),
           "MSH|^~\\&#|B||A||" TIME "||ACK^R01^ACK|ID7|P|2.7\rMSA|AE|1\r"
           "ERR|||207^Application internal error^HL70357|E||||a\\P\\b\r");
    /* without an escape character our text loses what would divide it */
    ck_ack("MSH|^|A||B||||ORU^R01|1|P|2.3\r", ACK(.code = HL7_AE, .text = "a|b\\c"),
           "MSH|^|B||A||" TIME "||ACK|ID7|P|2.3\rMSA|AE|1|a b\\c\rERR|^^^207\r");
}
END_TEST

/* Separators that our own values hold. */
START_TEST(separators_of_ours)
{
    ck_ack("MSH+^~\\&+A++B++++ORU^R01+1+P+2.5\r", ACK(.code = HL7_AA),
           "MSH+^~\\&+B++A++20260210125305++ACK^R01^ACK+ID7+P+2.5\rMSA+AA+1\r");
    ck_ack("MSH|-.\\ |A||B||||ORU-R01|1|P|2-5\r",
           ACK(.code = HL7_AE, .text = "a b-c", .control_id = SLICE_LITERAL("1-2 3.4")),
           "MSH|-.\\ |B||A||" TIME "||ACK-R01-ACK|1x2x3x4|P|2-5\rMSA|AE|1\r"
           "ERR|||207-Application\\T\\internal\\T\\error-HL70357|E||||a\\T\\b\\S\\c\r");
}
END_TEST

START_TEST(little_in_the_request)
{
    ck_ack("MSH|^~\\&", ACK(.code = HL7_AA), "MSH|^~\\&|||||" TIME "||ACK|ID7||\rMSA|AA|\r");
    ck_ack("MSH|^~\\&|A|B\rPID", ACK(.code = HL7_AR, .text = "full"),
           "MSH|^~\\&|||A|B|" TIME "||ACK|ID7||\rMSA|AR|\r"
           "ERR|||207^Application internal error^HL70357|E||||full\r");
    ck_ack("MSH|^~\\&|A|B|C|D|||ADT|1|P|2.4\r", ACK(.code = HL7_AA),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|ID7|P|2.4\rMSA|AA|1\r");
}
END_TEST

START_TEST(unreadable_request)
{
    struct buffer out = ack_of(
        NULL,
        (struct hl7_ack){.code = HL7_AR, .text = "not HL7", .condition = HL7_SEGMENT_SEQUENCE});
    ck_slice(buffer_slice(&out), "MSH|^~\\&|||||" TIME "||ACK|ID7|P|2.5\rMSA|AR|\r"
                                 "ERR|||100^Segment sequence error^HL70357|E||||not HL7\r");
    buffer_done(&out);
    static const enum hl7_ack_code said[] = {HL7_AA, HL7_AE, HL7_AR, HL7_CA, HL7_CE, HL7_CR};
    static const char *const words[] = {"AR", "AE", "AR", "CR", "CE", "CR"};
    for (size_t i = 0; i < 6; i++) {
        out = ack_of(NULL, (struct hl7_ack){.code = said[i]});
        struct hl7_message ack = parse(buffer_slice(&out));
        ck_assert(slice_is(hl7_get_text(&ack, "MSA-1").raw, words[i]));
        hl7_done(&ack);
        buffer_done(&out);
    }
}
END_TEST

/* Nothing of the patient in it: only what MSH holds. */
START_TEST(no_patient_data)
{
    struct hl7_message m = parse(SLICE_LITERAL(
        "MSH|^~\\&|A|B|C|D||CANARY|ORU^R01|1|P|2.5||CANARY|||||CANARY\rPID|1||CANARY||CANARY\r"));
    struct buffer out = ack_of(&m, (struct hl7_ack){.code = HL7_AE, .text = "no"});
    ck_assert_ptr_null(memmem(out.data, out.len, "CANARY", 6));
    buffer_done(&out);
    hl7_done(&m);
}
END_TEST

START_TEST(our_own_parts)
{
    /* control id: cut at 20, nothing in it that could divide */
    ck_ack("MSH|^~\\&|A|B|C|D|||ADT|1|P|2.3\r",
           ACK(.code = HL7_AA, .control_id = SLICE_LITERAL("a|b^c\\d\r e~&0123456789")),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|axbxcxdxxexx01234567|P|2.3\rMSA|AA|1\r");
    /* text: other than printable ASCII becomes '?' */
    ck_ack("MSH|^~\\&|A|B|C|D|||ADT|1|P|2.3\r",
           ACK(.code = HL7_AR, .text = "a\rb\x0b\x1c\xc3\xa9|"),
           "MSH|^~\\&|C|D|A|B|" TIME "||ACK|ID7|P|2.3\rMSA|AR|1|a?b????\\F\\\r"
           "ERR|^^^207&Application internal error&HL70357\r");
}
END_TEST

/* Builds a request with fields of `len` bytes each. */
static struct buffer long_request(const char *version, size_t party, size_t id, size_t others)
{
    struct buffer b;
    buffer_init(&b, 1 << 20);
    buffer_append_text(&b, "MSH|^~\\&");
    for (int field = 3; field <= 18; field++) {
        size_t len = field <= 6 ? party : field == 10 ? id : others;
        buffer_append_byte(&b, '|');
        if (field == 12)
            buffer_printf(&b, "%s^", version);
        if (field == 9)
            buffer_append_text(&b, "ADT^");
        for (size_t i = 0; i < len; i++)
            buffer_append_byte(&b, (char)('a' + field % 26));
    }
    buffer_append_byte(&b, '\r');
    return b;
}

/* Under HL7_ACK_MAX whatever the lengths, and the largest that is echoed is echoed whole. */
START_TEST(bounded)
{
    static const size_t lengths[] = {0, 1, 64, 128, 440, 441, 1024, 1025};
    static const char *const spoken[] = {"2.1", "2.4", "2.5", "2.8"};
    size_t count = sizeof(lengths) / sizeof(lengths[0]), largest = 0;
    char text[2000];
    memset(text, '|', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    struct hl7_path location;
    ck_assert_int_eq(
        hl7_path_parse(SLICE_LITERAL("ZZZ[9999999]-999[99999].999.999"), &location, NULL), 0);
    for (size_t i = 0; i < count * count * count * 4; i++) {
        size_t id = lengths[i / 4 / count % count];
        struct buffer body =
            long_request(spoken[i % 4], lengths[i / 4 % count], id, lengths[i / 4 / count / count]);
        struct hl7_message m = parse(buffer_slice(&body));
        struct hl7_ack ack = {.code = HL7_CE,
                              .text = text,
                              .location = &location,
                              .control_id = SLICE_LITERAL("12345678901234567890")};
        struct buffer out = ack_of(&m, ack);
        largest = out.len > largest ? out.len : largest;
        struct hl7_message got = parse(buffer_slice(&out));
        struct slice echoed = hl7_get_text(&got, "MSA-2").raw;
        if (id <= 1024)
            ck_assert(slice_equal(echoed, hl7_get_text(&m, "MSH-10").raw));
        else
            ck_assert_uint_eq(echoed.len, 0);
        hl7_done(&got);
        buffer_done(&out);
        buffer_done(&body);
        hl7_done(&m);
    }
    ck_assert_uint_gt(largest, 3000); /* the sum of the bounds was tried */
}
END_TEST

START_TEST(long_parties)
{
    char whole[1000];
    memset(whole, 'x', sizeof(whole));
    memcpy(whole, "NAME^", 5);
    struct buffer body;
    buffer_init(&body, 8192);
    buffer_append_text(&body, "MSH|^~\\&|");
    buffer_append(&body, whole, 440);
    buffer_append_text(&body, "|");
    buffer_append(&body, whole, 441);
    buffer_append_text(&body, "|");
    buffer_append(&body, whole + 5, 441);
    buffer_append_text(&body, "|D|||ADT^A01|1|P|2.3\r");
    struct hl7_message m = parse(buffer_slice(&body));
    struct buffer out = ack_of(&m, (struct hl7_ack){.code = HL7_AA});
    struct hl7_message ack = parse(buffer_slice(&out));
    ck_assert_uint_eq(hl7_get_text(&ack, "MSH-5").raw.len, 440); /* whole */
    ck_value(&ack, "MSH-6", HL7_VALUE, "NAME");                  /* the first component alone */
    ck_value(&ack, "MSH-3", HL7_EMPTY, "");                      /* too long even so */
    ck_value(&ack, "MSH-4", HL7_VALUE, "D");
    hl7_done(&ack);
    buffer_done(&out);
    hl7_done(&m);
    buffer_done(&body);
}
END_TEST

/* Bytes that frame a message are never echoed: such a field is left out. */
START_TEST(framing_is_not_echoed)
{
    ck_ack("MSH|^~\\&|A\x0b|B\x1c|C^\x1c|D|||ADT^A\x0b|1|P\x0b|2.5||||||U\x1c\r",
           ACK(.code = HL7_AA), "MSH|^~\\&|C|D|||" TIME "||ACK|ID7||2.5\rMSA|AA|1\r");
    ck_ack("MSH|^~\\&|A||C|D|||ADT^A01|1\x1c"
           "2|P|2.5\r",
           ACK(.code = HL7_AA),
           "MSH|^~\\&|C|D|A||" TIME "||ACK^A01^ACK|ID7|P|2.5\rMSA|AA|\r"
           "ERR||MSH^1^10^1|102^Data type error^HL70357|W||||MSH-10 cannot be echoed\r");
    ck_ack("MSH|^~\\&|A||C|D|||ADT^A01|\x0b|P|2.3\r", ACK(.code = HL7_AR, .text = "full"),
           "MSH|^~\\&|C|D|A||" TIME "||ACK|ID7|P|2.3\rMSA|AR||MSH-10 cannot be echoed\r"
           "ERR|^^^207&Application internal error&HL70357\r");
    /* other bytes are as they were */
    ck_ack("MSH|^~\\&|\xe9||\0||||ADT^A01|\xff\0\x01|P|2.3\r", ACK(.code = HL7_AA),
           "MSH|^~\\&|\0||\xe9||" TIME "||ACK|ID7|P|2.3\rMSA|AA|\xff\0\x01\r");
}
END_TEST

START_TEST(no_room)
{
    struct hl7_message m = parse(SLICE_LITERAL("MSH|^~\\&|A||||||ADT|1|P|2.3\r"));
    struct hl7_batch batch;
    hl7_batch_init(&batch, SLICE_LITERAL(""));
    struct buffer out;
    buffer_init(&out, HL7_ACK_MAX);
    buffer_append_byte(&out, 'x');
    ck_assert(!hl7_ack_append(&m, &(struct hl7_ack){.code = HL7_AA}, &out));
    ck_assert(!hl7_ack_batch_begin(&batch, SLICE_LITERAL("1"), NOW, &out));
    ck_assert(!hl7_ack_batch_end(&batch, 1, &out));
    ck_slice(buffer_slice(&out), "x");
    buffer_done(&out);
    hl7_done(&m);
}
END_TEST

START_TEST(from_errors)
{
    static const struct {
        enum error_code error;
        enum hl7_ack_code original, enhanced;
        enum hl7_condition_code condition;
    } cases[] = {
        {ERR_NONE, HL7_AA, HL7_CA, HL7_CONDITION_NONE},
        {ERR_INVALID, HL7_AE, HL7_CE, HL7_DATA_TYPE},
        {ERR_NOT_HL7, HL7_AR, HL7_CR, HL7_SEGMENT_SEQUENCE},
        {ERR_UNROUTABLE, HL7_AE, HL7_CE, HL7_INTERNAL},
        {ERR_REJECTED, HL7_AE, HL7_CE, HL7_INTERNAL},
        {ERR_TOO_LARGE, HL7_AR, HL7_CR, HL7_INTERNAL},
        {ERR_NOT_FOUND, HL7_AR, HL7_CR, HL7_INTERNAL},
        {ERR_QUEUE_FULL, HL7_AR, HL7_CR, HL7_INTERNAL},
        {ERR_UNAVAILABLE, HL7_AR, HL7_CR, HL7_INTERNAL},
        {ERR_OUTCOME_UNKNOWN, HL7_AR, HL7_CR, HL7_INTERNAL},
        {ERR_TIMEOUT, HL7_AR, HL7_CR, HL7_INTERNAL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err;
        err_set(&err, cases[i].error, "why");
        struct hl7_ack ack = {.wall_ms = 5};
        hl7_ack_from_error(&err, false, &ack);
        ck_assert_int_eq(ack.code, cases[i].original);
        ck_assert_int_eq(ack.condition, cases[i].condition);
        ck_assert_int_eq(ack.wall_ms, 5);
        if (cases[i].error == ERR_NONE)
            ck_assert_ptr_null(ack.text);
        else
            ck_assert_str_eq(ack.text, "why");
        hl7_ack_from_error(&err, true, &ack);
        ck_assert_int_eq(ack.code, cases[i].enhanced);
        ck_assert_int_eq(hl7_ack_accepts(ack.code), cases[i].error == ERR_NONE);
    }
    struct err silent = {.code = ERR_QUEUE_FULL};
    struct hl7_ack ack;
    hl7_ack_from_error(&silent, false, &ack);
    ck_assert_str_eq(ack.text, "queue_full");
}
END_TEST

/* ---- batches ---- */

static struct buffer batch_ack(struct slice body, size_t *ret_count)
{
    struct hl7_batch batch;
    struct slice message;
    struct buffer acks, out;
    buffer_init(&acks, 1 << 20);
    buffer_init(&out, 1 << 20);
    *ret_count = 0;
    hl7_batch_init(&batch, body);
    while (hl7_batch_next(&batch, &message)) {
        struct hl7_message m = parse(message);
        struct hl7_ack ack = {.code = HL7_AA, .control_id = SLICE_LITERAL("ID7"), .wall_ms = NOW};
        ck_assert(hl7_ack_append(&m, &ack, &acks));
        hl7_done(&m);
        ++*ret_count;
    }
    ck_assert(hl7_ack_batch_begin(&batch, SLICE_LITERAL("B1"), NOW, &out));
    buffer_append(&out, acks.data, acks.len);
    ck_assert(hl7_ack_batch_end(&batch, *ret_count, &out));
    buffer_done(&acks);
    return out;
}

START_TEST(batches)
{
    size_t count;
    struct buffer out = batch_ack(
        SLICE_LITERAL("FHS|^~\\&|F\rBHS|^~\\&|A^1|B|C|D|||name||BATCH 9\r"
                      "MSH|^~\\&|A||||||ADT|1|P|2.3\rMSH#$%*@#A######ADT#2#P#2.3\rBTS|2\rFTS|1\r"),
        &count);
    ck_slice(buffer_slice(&out), "BHS|^~\\&|C|D|A^1|B|" TIME "||||B1|BATCH 9\r"
                                 "MSH|^~\\&|||A||" TIME "||ACK|ID7|P|2.3\rMSA|AA|1\r"
                                 "MSH#$%*@###A##" TIME "##ACK#ID7#P#2.3\rMSA#AA#2\r"
                                 "BTS|2\r");
    struct hl7_batch again;
    struct slice message;
    hl7_batch_init(&again, buffer_slice(&out));
    while (hl7_batch_next(&again, &message))
        ;
    ck_assert_uint_eq(again.message_count, count);
    ck_assert_uint_eq(again.count_mismatches, 0);
    buffer_done(&out);

    /* no header: the first message's sender and separators */
    out = batch_ack(SLICE_LITERAL("MSH$%*@!$A$B$C$D$$$ADT$1$P$2.3\r"
                                  "MSH|^~\\&|X||||||ADT|2|P|2.3\r"),
                    &count);
    ck_assert_uint_eq(count, 2);
    ck_assert_mem_eq(out.data, "BHS$%*@!$C$D$A$B$" TIME "$$$$B1\rMSH$",
                     sizeof("BHS$%*@!$C$D$A$B$" TIME "$$$$B1\rMSH$") - 1);
    ck_assert_mem_eq(out.data + out.len - 6, "BTS$2\r", 6);
    buffer_done(&out);

    /* nothing readable at all */
    out = batch_ack(SLICE_LITERAL("BHS|^^^|A\r"), &count);
    ck_slice(buffer_slice(&out), "BHS|^~\\&|||||" TIME "||||B1\rBTS|0\r");
    buffer_done(&out);
}
END_TEST

/* ---- modes ---- */

START_TEST(modes)
{
    static const struct {
        const char *fields; /* MSH-15|MSH-16 */
        bool enhanced;
        enum hl7_ack_when accept, application;
    } cases[] = {
        {"|", false, HL7_NE, HL7_AL},         {"", false, HL7_NE, HL7_AL},
        {"\"\"|\"\"", false, HL7_NE, HL7_AL}, {" | ", false, HL7_NE, HL7_AL},
        {"AL|NE", true, HL7_AL, HL7_NE},      {"NE|NE", true, HL7_NE, HL7_NE},
        {"ER|SU", true, HL7_ER, HL7_SU},      {"al|er", true, HL7_AL, HL7_ER},
        {"AL|", true, HL7_AL, HL7_NE},        {"|AL", true, HL7_NE, HL7_AL},
        {"AL", true, HL7_AL, HL7_NE},         {"XX|YY", true, HL7_AL, HL7_AL},
        {" SU |", true, HL7_SU, HL7_NE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buffer body;
        buffer_init(&body, 256);
        buffer_printf(&body, "MSH|^~\\&|A||||||ADT|1|P|2.5|||%s\r", cases[i].fields);
        struct hl7_message m = parse(buffer_slice(&body));
        struct hl7_ack_mode mode = hl7_ack_mode(&m);
        ck_assert_msg(mode.enhanced == cases[i].enhanced, "%s", cases[i].fields);
        ck_assert_int_eq(mode.accept, cases[i].accept);
        ck_assert_int_eq(mode.application, cases[i].application);
        hl7_done(&m);
        buffer_done(&body);
    }
    struct hl7_message m = parse(SLICE_LITERAL("MSH|^~\\&"));
    ck_assert(!hl7_ack_mode(&m).enhanced);
    hl7_done(&m);
}
END_TEST

START_TEST(wanted)
{
    static const enum hl7_ack_code codes[] = {HL7_AA, HL7_AE, HL7_AR, HL7_CA, HL7_CE, HL7_CR};
    for (size_t i = 0; i < 6; i++) {
        bool good = codes[i] == HL7_AA || codes[i] == HL7_CA;
        ck_assert(hl7_ack_wanted(HL7_AL, codes[i]));
        ck_assert(!hl7_ack_wanted(HL7_NE, codes[i]));
        ck_assert_int_eq(hl7_ack_wanted(HL7_SU, codes[i]), good);
        ck_assert_int_eq(hl7_ack_wanted(HL7_ER, codes[i]), !good);
    }
}
END_TEST

RUN_TESTS("hl7 ack", accepted, versions, locations, conditions, no_error_when_accepted,
          other_separators, separators_of_ours, little_in_the_request, unreadable_request,
          no_patient_data, our_own_parts, bounded, long_parties, framing_is_not_echoed, no_room,
          from_errors, batches, modes, wanted)
