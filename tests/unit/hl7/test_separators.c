/* The separators that a header declares, decoding and encoding of escapes. */
#include "hl7/separators.h"

#include "hl7_test.h"

START_TEST(declared)
{
    struct hl7_separators s;
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("MSH|^~\\&|A"), &s, NULL), 0);
    ck_assert_mem_eq(&s, &HL7_SEPARATORS_DEFAULT, sizeof(s));
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("MSH|^~\\&#|A"), &s, NULL), 0);
    ck_assert_int_eq(s.truncation, '#');
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("BHS$%*@!"), &s, NULL), 0);
    ck_assert_int_eq(s.field, '$');
    ck_assert_int_eq(s.component, '%');
    ck_assert_int_eq(s.repetition, '*');
    ck_assert_int_eq(s.escape, '@');
    ck_assert_int_eq(s.subcomponent, '!');
    ck_assert_int_eq(s.truncation, 0);
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("FHS\x01\x02\x03\xfe\xff"), &s, NULL), 0);
    ck_assert_int_eq(s.escape, '\xfe');
}
END_TEST

/* Those left out divide nothing. */
START_TEST(fewer)
{
    struct hl7_separators s;
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("MSH|^|A"), &s, NULL), 0);
    ck_assert_int_eq(s.component, '^');
    ck_assert_int_eq(s.repetition, 0);
    ck_assert_int_eq(s.escape, 0);
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("MSH|^~\r"), &s, NULL), 0);
    ck_assert_int_eq(s.repetition, '~');
    ck_assert_int_eq(s.escape, 0);
    ck_assert_int_eq(hl7_separators_parse(SLICE_LITERAL("MSH|^"), &s, NULL), 0);
}
END_TEST

/* Every byte in every place: only letters, digits, the framing and doubles are refused. */
START_TEST(every_byte)
{
    unsigned accepted = 0;
    for (int place = 3; place < 9; place++) {
        for (int c = 0; c < 256; c++) {
            char header[] = "MSH|^~\\&#|";
            bool twice = memchr(header + 3, c, 6) && header[place] != (char)c;
            header[place] = (char)c;
            bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
            bool framing = c == 0 || c == '\r' || c == '\n' || c == 0x0b || c == 0x1c;
            if (twice || (place > 4 && (c == '\r' || c == '\n')))
                continue; /* these end MSH-2 or repeat one: see below */
            struct hl7_separators s = {.field = 'x'};
            struct err err = {0};
            int rc = hl7_separators_parse(slice_of(header, 10), &s, &err);
            /* With another MSH-1 the '|' in place 9 is a sixth encoding character. */
            bool sixth = place == 3 && c != '|';
            ck_assert_msg((rc == 0) == !(alnum || framing || sixth), "byte %d at %d", c, place);
            if (rc) {
                ck_assert_int_eq(err.code, ERR_INVALID);
                ck_assert_int_eq(s.field, 'x');
            } else {
                accepted++;
            }
        }
    }
    ck_assert_uint_gt(accepted, 900);
}
END_TEST

START_TEST(refused)
{
    static const struct {
        struct slice header;
        enum error_code code;
    } cases[] = {
        {{"", 0}, ERR_NOT_HL7},
        {{"MS", 2}, ERR_NOT_HL7},
        {{"MSH", 3}, ERR_NOT_HL7},
        {{"MSH|", 4}, ERR_NOT_HL7},
        {{"PID|1|2", 7}, ERR_NOT_HL7},
        {{"msh|^~\\&", 8}, ERR_NOT_HL7},
        {{"MSH||^~\\&", 9}, ERR_INVALID},
        {{"MSH|\r^~\\&", 9}, ERR_INVALID},
        {{"MSH|^^\\&|", 9}, ERR_INVALID},
        {{"MSH|^~^&|", 9}, ERR_INVALID},
        {{"MSH|^~\\\\|", 9}, ERR_INVALID},
        {{"MSH|^~\\^|", 9}, ERR_INVALID},
        {{"MSH|^~\\&^|", 10}, ERR_INVALID},
        {{"MSH|^~\\&#$|", 11}, ERR_INVALID},
        {{"MSH|^~\\&#$", 10}, ERR_INVALID},
        {{"MSHA^~\\&|", 9}, ERR_INVALID},
        {{"MSH\r^~\\&|", 9}, ERR_INVALID},
        {{"MSH|^~\\7|", 9}, ERR_INVALID},
        {{"MSH|^\0\\&|", 9}, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct hl7_separators s = {.field = 'x'};
        struct err err = {0};
        struct slice header = exact(cases[i].header);
        ck_assert_int_eq(hl7_separators_parse(header, &s, &err), -1);
        ck_assert_msg(err.code == cases[i].code, "case %zu: %s", i, err.text);
        ck_assert_int_eq(s.field, 'x');
        free((char *)header.ptr);
    }
}
END_TEST

/* ---- decoding ---- */

static const struct hl7_separators WITH_TRUNCATION = {.field = '|',
                                                      .component = '^',
                                                      .repetition = '~',
                                                      .escape = '\\',
                                                      .subcomponent = '&',
                                                      .truncation = '#'};

static struct slice decode(const struct hl7_separators *separators, struct slice raw,
                           struct buffer *scratch)
{
    struct slice ret;
    ck_assert(hl7_unescape(separators, raw, scratch, &ret));
    return ret;
}

START_TEST(decoded)
{
    static const struct {
        const char *raw, *text;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f\\P\\g", "a|b^c&d~e\\f#g"},
        {"\\F\\", "|"},
        {"\\F\\\\F\\", "||"},
        {"one\\.br\\two", "one\rtwo"},
        {"\\H\\bold\\N\\ not", "bold not"},
        {"\\X41\\\\X4a4B\\", "AJK"},
        {"\\X0D0A\\", "\r\n"},
        {"\\X414\\", "\\X414\\"},   /* half a byte */
        {"\\X\\", "\\X\\"},         /* none */
        {"\\XGG\\", "\\XGG\\"},     /* no hex */
        {"\\x41\\", "\\x41\\"},     /* letters are upper case */
        {"\\Zab1\\", "\\Zab1\\"},   /* a site's own */
        {"\\C2842\\", "\\C2842\\"}, /* character sets stay */
        {"\\M244200\\", "\\M244200\\"},
        {"\\.sp2\\", "\\.sp2\\"}, /* formatting stays */
        {"\\.in+4\\x\\.ce\\", "\\.in+4\\x\\.ce\\"},
        {"\\.xx\\", "\\.xx\\"},
        {"\\Q\\", "\\Q\\"}, /* unknown */
        {"\\", "\\"},       /* alone */
        {"a\\", "a\\"},
        {"\\\\", "\\\\"}, /* empty */
        {"\\\\\\", "\\\\\\"},
        {"C:\\temp\\file", "C:\\temp\\file"},
        {"5\\ug and \\T\\", "5\\ug and &"}, /* a stray one does not spoil the next */
        {"\\Zx\\F\\", "\\Zx\\F\\"},         /* the end of a known one is not a start */
        {"\\F", "\\F"},
    };
    struct buffer scratch;
    buffer_init(&scratch, 1024);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice raw = exact(slice_text(cases[i].raw));
        struct slice text = decode(&WITH_TRUNCATION, raw, &scratch);
        ck_assert_msg(slice_is(text, cases[i].text), "%s became %.*s", cases[i].raw, (int)text.len,
                      text.ptr);
        free((char *)raw.ptr);
    }
    buffer_done(&scratch);
}
END_TEST

/* Other separators, other escape character, and separators that are not declared. */
START_TEST(decoded_otherwise)
{
    struct hl7_separators s = {.field = '$', .component = '%', .escape = '@'};
    struct buffer scratch;
    buffer_init(&scratch, 64);
    ck_slice(decode(&s, SLICE_LITERAL("a@F@b@S@\\F\\"), &scratch), "a$b%\\F\\");
    ck_slice(decode(&s, SLICE_LITERAL("@T@R@P@"), &scratch), "@T@R@P@");
    s.escape = 0;
    ck_slice(decode(&s, SLICE_LITERAL("a\\F\\@F@"), &scratch), "a\\F\\@F@");
    buffer_done(&scratch);
}
END_TEST

START_TEST(borrowed_without_escapes)
{
    struct slice raw = SLICE_LITERAL("no escapes, \0 and \xe9");
    struct buffer none;
    buffer_init(&none, 0);
    struct slice text = decode(&HL7_SEPARATORS_DEFAULT, raw, &none);
    ck_assert_ptr_eq(text.ptr, raw.ptr);
    ck_assert_uint_eq(text.len, raw.len);
    text = decode(&HL7_SEPARATORS_DEFAULT, slice_of(NULL, 0), &none);
    ck_assert_uint_eq(text.len, 0);
    buffer_done(&none);
}
END_TEST

/* With every maximum from 0 on: either all of it or nothing. */
START_TEST(decoding_is_bounded)
{
    struct slice raw = SLICE_LITERAL("ab\\F\\cd\\X414243\\\\Zx\\\\.br\\end");
    static const char all[] = "ab|cdABC\\Zx\\\rend";
    size_t need = sizeof(all) - 1;
    for (size_t max = 0; max <= need + 1; max++) {
        struct buffer out;
        buffer_init(&out, max + 2);
        buffer_append(&out, "><", 2);
        bool fits = hl7_unescape_append(&HL7_SEPARATORS_DEFAULT, raw, &out);
        ck_assert_int_eq(fits, max >= need);
        ck_assert_uint_eq(out.len, fits ? need + 2 : 2);
        ck_assert_mem_eq(out.data, "><", 2);
        if (fits)
            ck_assert_mem_eq(out.data + 2, all, need);
        buffer_done(&out);

        struct slice ret = SLICE_LITERAL("untouched");
        buffer_init(&out, max);
        ck_assert_int_eq(hl7_unescape(&HL7_SEPARATORS_DEFAULT, raw, &out, &ret), max >= need);
        ck_assert(max >= need || slice_is(ret, "untouched"));
        buffer_done(&out);
    }
}
END_TEST

/* ---- encoding ---- */

START_TEST(encoded)
{
    struct buffer out;
    buffer_init(&out, 256);
    ck_assert(hl7_escape(&WITH_TRUNCATION, SLICE_LITERAL("a|b^c&d~e\\f#g\r\n\v\x1c\0z"), &out));
    ck_slice(buffer_slice(&out),
             "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f\\P\\g\\X0D\\\\X0A\\\\X0B\\\\X1C\\\\X00\\z");
    buffer_clear(&out);
    ck_assert(hl7_escape(&HL7_SEPARATORS_DEFAULT, SLICE_LITERAL("#\t\xff"), &out));
    ck_slice(buffer_slice(&out), "#\t\xff");

    struct hl7_separators none = {.field = '|', .component = '^'};
    buffer_clear(&out);
    ck_assert(hl7_escape(&none, SLICE_LITERAL("a|b^c~\r\0d"), &out));
    ck_slice(buffer_slice(&out), "a b c~  d");
    buffer_done(&out);
}
END_TEST

/* Decoding gives every text of two bytes back. */
START_TEST(there_and_back)
{
    struct buffer out, scratch;
    buffer_init(&out, 64);
    buffer_init(&scratch, 64);
    for (int a = 0; a < 256; a++) {
        for (int b = 0; b < 256; b++) {
            char text[] = {(char)a, (char)b};
            buffer_clear(&out);
            ck_assert(hl7_escape(&WITH_TRUNCATION, slice_of(text, 2), &out));
            for (size_t i = 0; i < out.len; i++)
                ck_assert(!strchr("|^~&#\r\n\v\x1c", out.data[i]) && out.data[i]);
            struct slice back = decode(&WITH_TRUNCATION, buffer_slice(&out), &scratch);
            ck_assert(slice_equal(back, slice_of(text, 2)));
        }
    }
    buffer_done(&out);
    buffer_done(&scratch);
}
END_TEST

START_TEST(encoding_is_bounded)
{
    struct slice text = SLICE_LITERAL("a|\rb");
    for (size_t max = 0; max <= 10; max++) { /* a \F\ \X0D\ b: 10 bytes */
        struct buffer out;
        buffer_init(&out, max);
        ck_assert_int_eq(hl7_escape(&HL7_SEPARATORS_DEFAULT, text, &out), max == 10);
        ck_assert_uint_eq(out.len, max == 10 ? 10 : 0);
        buffer_done(&out);
    }
}
END_TEST

/* A megabyte of nothing but escape characters, and one of hex: the time is linear, or the suite's limit ends it. */
START_TEST(large)
{
    size_t len = 1 << 20;
    char *bytes = malloc(len);
    ck_assert_ptr_nonnull(bytes);
    struct buffer scratch;
    buffer_init(&scratch, len);
    memset(bytes, '\\', len);
    struct slice text = decode(&HL7_SEPARATORS_DEFAULT, slice_of(bytes, len), &scratch);
    ck_assert(slice_equal(text, slice_of(bytes, len)));
    memset(bytes, '4', len);
    bytes[0] = bytes[len - 1] = '\\';
    bytes[1] = 'X'; /* and 2^20 - 3 digits, an odd number */
    text = decode(&HL7_SEPARATORS_DEFAULT, slice_of(bytes, len), &scratch);
    ck_assert_uint_eq(text.len, len);
    text = decode(&HL7_SEPARATORS_DEFAULT, slice_of(bytes, len - 1), &scratch);
    ck_assert_uint_eq(text.len, len - 1); /* not closed */
    bytes[len - 2] = '\\';
    text = decode(&HL7_SEPARATORS_DEFAULT, slice_of(bytes, len - 1), &scratch);
    ck_assert_uint_eq(text.len, (len - 4) / 2);
    buffer_done(&scratch);
    free(bytes);
}
END_TEST

RUN_TESTS("hl7 separators", declared, fewer, every_byte, refused, decoded, decoded_otherwise,
          borrowed_without_escapes, decoding_is_bounded, encoded, there_and_back,
          encoding_is_bounded, large)
