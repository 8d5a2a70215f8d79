/* File names from message values: every name is a plain one inside the folder, whatever the message says. */
#include "handlers/file_name.h"

#include "base/mem.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static const char ID[] = "01234567-89ab-7def-8123-456789abcdef";
static const char *const names[] = {"correlation_id", NULL};

static struct uuid id_of(const char *text)
{
    struct uuid id;
    ck_assert(uuid_parse(slice_text(text), &id));
    return id;
}

/* The name for a body; it is checked to be safe. */
static const char *render(const char *pattern, struct slice body, bool *ret_own)
{
    static char name[FILE_NAME_SIZE];
    struct hl7_template template_;
    ck_assert_int_eq(hl7_template_parse(slice_text(pattern), names, &template_, NULL), 0);
    memset(name, 'X', sizeof(name));
    bool own = file_name_render(&template_, body, id_of(ID), name);
    hl7_template_done(&template_);
    if (ret_own)
        *ret_own = own;

    size_t len = strlen(name);
    ck_assert_uint_ge(len, 1);
    ck_assert_uint_le(len, FILE_NAME_MAX);
    ck_assert_int_ne(name[0], '.');
    ck_assert_uint_eq(strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                   "0123456789._-"),
                      len);
    ck_assert_int_eq(own, strstr(name, ID) != NULL);
    return name;
}

/* The name of a message whose MSH-10 is these bytes. */
static const char *named_bytes(const char *pattern, const void *value, size_t len)
{
    static const char head[] = "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|", tail[] = "|P|2.5\rPID|1\r";
    struct buffer body;
    buffer_init(&body, 1 << 24);
    buffer_append_text(&body, head);
    buffer_append(&body, value, len);
    buffer_append_text(&body, tail);
    const char *name = render(pattern, buffer_slice(&body), NULL);
    buffer_done(&body);
    return name;
}

static const char *named(const char *pattern, const char *value)
{
    return named_bytes(pattern, value, strlen(value));
}

START_TEST(the_usual)
{
    ck_assert_str_eq(named("${MSH-10}-${correlation_id}.hl7", "MSG00042"),
                     "MSG00042-01234567-89ab-7def-8123-456789abcdef.hl7");
    ck_assert_str_eq(named("${MSH-9.1}_${MSH-9.2}.${MSH-10}", "7"), "ADT_A01.7");
}
END_TEST

START_TEST(hostile_values)
{
    ck_assert_str_eq(named("${MSH-10}.hl7", "../../etc/passwd"), "_._.._etc_passwd.hl7");
    ck_assert_str_eq(named("${MSH-10}", ".."), "_.");
    ck_assert_str_eq(named("${MSH-10}", "."), "_");
    ck_assert_str_eq(named("${MSH-10}", "/"), "_");
    ck_assert_str_eq(named("${MSH-10}", ".bashrc"), "_bashrc");
    ck_assert_str_eq(named("${MSH-10}", "a b;$(rm)`x`\n"), "a_b___rm__x_");
    ck_assert_str_eq(named("${MSH-10}", "M\xc3\xbcller"), "M__ller");
    ck_assert_str_eq(named("${MSH-10}", "\\X2F\\etc"), "_etc"); /* an escaped slash */
    ck_assert_str_eq(named("${MSH-10}", "\\F\\\\E\\\\S\\"), "___");
    ck_assert_str_eq(named_bytes("${MSH-10}.hl7", "a\0b", 3), "a_b.hl7");
    ck_assert_str_eq(named_bytes("${MSH-10}.hl7", "\0\0", 2), "__.hl7");
}
END_TEST

START_TEST(a_folder_in_the_template_stays_a_name)
{
    ck_assert_str_eq(named("../${MSH-9.1}/${MSH-10}", "7"), "_._ADT_7");
}
END_TEST

START_TEST(missing_values)
{
    ck_assert_str_eq(named("${MSH-10}-x.hl7", ""), "-x.hl7");
    ck_assert_str_eq(named("${MSH-10}.hl7", ""), "_hl7");
    ck_assert_str_eq(named("${MSH-10}", ""), ID);
    ck_assert_str_eq(named("${ZZZ-1}", "x"), ID);
    ck_assert_str_eq(named("${MSH-10}", "\"\""), ID);
    ck_assert_str_eq(render("${MSH-10}-${correlation_id}.bin", SLICE_LITERAL("no HL7"), NULL),
                     "-01234567-89ab-7def-8123-456789abcdef.bin");
    ck_assert_str_eq(render("${MSH-10}", slice_of(NULL, 0), NULL), ID);
    ck_assert_str_eq(render("fixed.hl7", slice_of(NULL, 0), NULL), "fixed.hl7");
}
END_TEST

START_TEST(long_values_are_cut)
{
    char *value = mem_alloc(5000000);
    memset(value, 'v', 300);
    const char *name = named("${MSH-10}-${correlation_id}.hl7", value);
    ck_assert_uint_eq(strlen(name), FILE_NAME_VALUE_MAX + 1 + UUID_TEXT_LEN + 4);
    ck_assert_ptr_nonnull(strstr(name, ID));
    ck_assert_str_eq(name + strlen(name) - 4, ".hl7");

    memset(value, '/', 4999999);
    name = named("${MSH-10}.hl7", value);
    ck_assert_uint_eq(strlen(name), FILE_NAME_VALUE_MAX + 4);

    value[0] = '\0';
    for (int i = 0; i < 200; i++)
        strcat(value, "\\T\\");
    name = named("${MSH-10}.hl7", value);
    ck_assert_uint_le(strlen(name), FILE_NAME_VALUE_MAX + 4 + 2);
    free(value);
}
END_TEST

START_TEST(long_names_keep_id_and_extension)
{
    char value[61];
    memset(value, 'v', 60);
    value[60] = '\0';
    const char *four = "${MSH-10}${MSH-10}${MSH-10}${MSH-10}-${correlation_id}.hl7";
    const char *name = named(four, value);
    ck_assert_ptr_nonnull(strstr(name, ID));
    ck_assert_str_eq(name + strlen(name) - 4, ".hl7");
    /* Too long an "extension" is none. */
    named("${MSH-10}.${MSH-10}${MSH-10}${MSH-10}", value);
    char dots[61];
    memset(dots, '.', 60);
    dots[60] = '\0';
    named("${MSH-10}${MSH-10}${MSH-10}${MSH-10}", dots);
}
END_TEST

START_TEST(own_names)
{
    bool own;
    render("${correlation_id}", slice_of(NULL, 0), &own);
    ck_assert(own);
    render("x.hl7", slice_of(NULL, 0), &own);
    ck_assert(!own);
    /* Not because a template says so, but because the name does. */
    render("${MSH-10}", slice_of(NULL, 0), &own);
    ck_assert(own);
}
END_TEST

START_TEST(second_names)
{
    char name[FILE_NAME_SIZE];
    file_name_with_id("x.hl7", id_of(ID), name);
    ck_assert_str_eq(name, "x-01234567-89ab-7def-8123-456789abcdef.hl7");
    file_name_with_id("x", id_of(ID), name);
    ck_assert_str_eq(name, "x-01234567-89ab-7def-8123-456789abcdef");
    char longest[FILE_NAME_MAX + 1];
    memset(longest, 'n', FILE_NAME_MAX);
    longest[FILE_NAME_MAX] = '\0';
    file_name_with_id(longest, id_of(ID), name);
    ck_assert_uint_eq(strlen(name), FILE_NAME_MAX + 1 + UUID_TEXT_LEN);
}
END_TEST

/* Any bytes: whatever comes out is a safe name (render checks). */
START_TEST(random_values)
{
    for (int round = 0; round < 5000; round++) {
        unsigned char value[400];
        size_t len = random_below(sizeof(value));
        for (size_t i = 0; i < len; i++) {
            value[i] = (unsigned char)random_below(256);
            if (random_below(4) == 0)
                value[i] = "./\\\0"[random_below(4)];
        }
        named_bytes("${MSH-10}.${MSH-10.2}${MSH-11}.${correlation_id}${PID-1}", value, len);
        named_bytes("${MSH-10}${MSH-10}${MSH-10}${MSH-10}${MSH-10}.hl7", value, len);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("file names");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, the_usual);
    tcase_add_test(tests, hostile_values);
    tcase_add_test(tests, a_folder_in_the_template_stays_a_name);
    tcase_add_test(tests, missing_values);
    tcase_add_test(tests, long_values_are_cut);
    tcase_add_test(tests, long_names_keep_id_and_extension);
    tcase_add_test(tests, own_names);
    tcase_add_test(tests, second_names);
    tcase_add_test(tests, random_values);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
