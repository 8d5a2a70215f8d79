/* Answers in one piece, in every possible pair of pieces, byte by byte, and broken ones. */
#include "lib/answer.h"

#include <check.h>
#include <stdlib.h>

static struct {
    struct answer answers[8];
    char controls[8][32];
    size_t count;
    bool verdict;
} seen;

static bool on_answer(void *arg, const struct answer *answer)
{
    (void)arg;
    ck_assert_uint_lt(seen.count, 8);
    seen.answers[seen.count] = *answer;
    ck_assert_uint_lt(answer->control.len, 32);
    if (answer->control.len)
        memcpy(seen.controls[seen.count], answer->control.ptr, answer->control.len);
    seen.count++;
    return seen.verdict;
}

static struct answer_reader reader;
static bool replies;

static void begin(bool mllp)
{
    memset(&seen, 0, sizeof(seen));
    seen.verdict = true;
    answer_reader_init(&reader, mllp, replies, on_answer, NULL);
}

static bool whole(bool mllp, const char *text)
{
    begin(mllp);
    bool ok = answer_reader_feed(&reader, text, strlen(text));
    answer_reader_done(&reader);
    return ok;
}

/* Runs `check` after the text came in two pieces, cut at every place, and byte by byte. */
static void in_pieces(bool mllp, const char *text, void (*check)(void))
{
    size_t len = strlen(text);
    for (size_t cut = 0; cut <= len; cut++) {
        begin(mllp);
        ck_assert(answer_reader_feed(&reader, text, cut));
        ck_assert(answer_reader_feed(&reader, text + cut, len - cut));
        check();
        answer_reader_done(&reader);
    }
    begin(mllp);
    for (size_t i = 0; i < len; i++)
        ck_assert(answer_reader_feed(&reader, text + i, 1));
    check();
    answer_reader_done(&reader);
}

#define ID "0190b0c5-7d2e-7a11-8000-0123456789ab"

static void two_http_answers(void)
{
    ck_assert_uint_eq(seen.count, 2);
    ck_assert_str_eq(seen.answers[0].code, "202");
    ck_assert(seen.answers[0].accepted);
    ck_assert_str_eq(seen.answers[0].id, ID);
    ck_assert_str_eq(seen.answers[1].code, "429");
    ck_assert(!seen.answers[1].accepted);
    ck_assert_str_eq(seen.answers[1].id, "");
    ck_assert(!reader.closing);
}

START_TEST(http_answers)
{
    in_pieces(false,
              "HTTP/1.1 202 Accepted\r\nX-Correlation-ID-Not: 1\r\nx-correlation-id: " ID
              "\r\nContent-Length: 5\r\n\r\nhello"
              "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
              two_http_answers);
}
END_TEST

START_TEST(http_closing_and_broken)
{
    begin(false);
    const char *closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    ck_assert(answer_reader_feed(&reader, closing, strlen(closing)));
    ck_assert(reader.closing);
    answer_reader_done(&reader);
    ck_assert(!whole(false, "SSH-2.0-nonsense\r\n"));
    ck_assert(!whole(false, "HTTP/1.1 202 A\r\nContent-Length: x\r\n\r\n"));
    ck_assert(!whole(false,
                     "HTTP/1.1 202 A\r\nX-Correlation-ID: " ID ID "\r\nContent-Length: 0\r\n\r\n"));
    ck_assert_uint_eq(seen.count, 0);
}
END_TEST

#define FRAME(text) "\x0bMSH|^~\\&|A|B|C|D|2026||ACK|1|P|2.5\r" text "\r\x1c\r"

static void three_frames(void)
{
    ck_assert_uint_eq(seen.count, 3);
    ck_assert_str_eq(seen.answers[0].code, "AA");
    ck_assert(seen.answers[0].accepted);
    ck_assert_str_eq(seen.controls[0], "M1");
    ck_assert_str_eq(seen.answers[1].code, "AR");
    ck_assert(!seen.answers[1].accepted);
    ck_assert_str_eq(seen.controls[1], "M2");
    ck_assert_str_eq(seen.answers[2].code, "CA");
    ck_assert(seen.answers[2].accepted);
    ck_assert_str_eq(seen.controls[2], "M3");
}

START_TEST(mllp_answers)
{
    in_pieces(true,
              FRAME("MSA|AA|M1") FRAME("SFT|MSA|AA|X\rMSA|AR|M2|text\rERR|||207|E")
                  FRAME("MSA|CA|M3|"),
              three_frames);
}
END_TEST

START_TEST(mllp_broken)
{
    ck_assert(!whole(true, "x" FRAME("MSA|AA|M1")));
    ck_assert(!whole(true, FRAME("MSA|AA|M1") "x"));
    ck_assert_uint_eq(seen.count, 1);
    ck_assert(!whole(true, "\x0bPID|1\r\x1c\r"));
    ck_assert(!whole(true, "\x0bMSH|\x1cx"));
    ck_assert(!whole(true, FRAME("MSA|AAA|M1")));
    ck_assert_uint_eq(seen.count, 0);
    ck_assert(whole(true, FRAME("ZZZ|AA|M1"))); /* no MSA: an answer that accepts nothing */
    ck_assert_uint_eq(seen.count, 1);
    ck_assert_str_eq(seen.answers[0].code, "?");
    ck_assert(!seen.answers[0].accepted);
}
END_TEST

#define REPLY "MSH|^~\\&|A|B|C|D|2026||ADT^A01|M1|P|2.5\rPID|1"

static void only_the_first_is_a_reply(void)
{
    ck_assert_uint_eq(seen.count, 3);
    ck_assert(seen.answers[0].accepted);
    ck_assert_str_eq(seen.answers[0].code, reader.mllp ? "MSG" : "200");
    ck_assert_str_eq(seen.controls[0], "M1");
    ck_assert(!seen.answers[1].accepted);
    ck_assert(!seen.answers[2].accepted);
}

START_TEST(replies_are_messages)
{
    replies = true;
    in_pieces(true, "\x0b" REPLY "\r\x1c\r" FRAME("MSA|AA|M1") FRAME("MSA|AE|M1"),
              only_the_first_is_a_reply);
    in_pieces(false,
              "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n" REPLY
              "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
              "HTTP/1.1 202 Accepted\r\nContent-Length: 45\r\n\r\n" REPLY,
              only_the_first_is_a_reply);
    replies = false;
}
END_TEST

START_TEST(mllp_frame_without_end)
{
    char piece[4096];
    memset(piece, 'x', sizeof(piece));
    piece[0] = '\x0b';
    begin(true);
    size_t fed = 0;
    bool ok = true;
    while (ok && fed < 64 * ANSWER_FRAME_MAX) {
        ok = answer_reader_feed(&reader, piece, sizeof(piece));
        piece[0] = 'x';
        fed += sizeof(piece);
    }
    ck_assert(!ok);
    ck_assert_uint_le(fed, ANSWER_FRAME_MAX + 2 * sizeof(piece));
    answer_reader_done(&reader);
}
END_TEST

START_TEST(a_wrong_answer_ends_the_reading)
{
    begin(true);
    seen.verdict = false;
    const char *two = FRAME("MSA|AA|M1") FRAME("MSA|AA|M2");
    ck_assert(!answer_reader_feed(&reader, two, strlen(two)));
    ck_assert(!answer_reader_feed(&reader, two, strlen(two)));
    ck_assert_uint_eq(seen.count, 1);
    answer_reader_done(&reader);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("answer");
    TCase *tcase = tcase_create("answer");
    tcase_add_test(tcase, http_answers);
    tcase_add_test(tcase, http_closing_and_broken);
    tcase_add_test(tcase, mllp_answers);
    tcase_add_test(tcase, mllp_broken);
    tcase_add_test(tcase, replies_are_messages);
    tcase_add_test(tcase, mllp_frame_without_end);
    tcase_add_test(tcase, a_wrong_answer_ends_the_reading);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
