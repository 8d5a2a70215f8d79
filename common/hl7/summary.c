/* What the store keeps of a message: bounded, printable text. It cannot fail. */
#include "hl7/message.h"

struct text {
    char *at;
    size_t room; /* without the NUL */
};

/* The length of the UTF-8 sequence at `at` (Unicode 15, table 3-7), 0 when there is none. */
static size_t utf8_len(const unsigned char *at, size_t len)
{
    if (at[0] < 0x80)
        return 1;
    size_t need = at[0] >= 0xc2 && at[0] <= 0xdf   ? 2
                  : at[0] >= 0xe0 && at[0] <= 0xef ? 3
                  : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                   : 0;
    if (need == 0 || len < need)
        return 0;
    unsigned char low = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return need;
}

static void add(struct text *text, struct slice raw)
{
    const unsigned char *at = (const unsigned char *)raw.ptr;
    for (size_t left = raw.len; left;) {
        size_t len = utf8_len(at, left), step = len ? len : 1;
        bool printable =
            len > 1 ? !(at[0] == 0xc2 && at[1] < 0xa0) : len == 1 && at[0] >= 0x20 && at[0] != 0x7f;
        size_t put = printable ? len : 1;
        if (put > text->room) {
            text->room = 0; /* nothing may follow what has been cut */
            return;
        }
        if (printable)
            memcpy(text->at, at, len);
        else
            *text->at = '?';
        text->at += put;
        text->room -= put;
        at += step;
        left -= step;
    }
}

static struct slice get(const struct hl7_message *message, unsigned field, unsigned component)
{
    struct hl7_path path = {.segment = "MSH",
                            .occurrence = 1,
                            .repetition = 1,
                            .field = (uint16_t)field,
                            .component = (uint16_t)component};
    return hl7_get(message, &path).raw;
}

/* first, then the mark and second when there is a second */
static void join(char ret[static HL7_SUMMARY_SIZE], struct slice first, const char *mark,
                 struct slice second)
{
    struct text text = {ret, HL7_SUMMARY_SIZE - 1};
    add(&text, first);
    if (second.len) {
        add(&text, slice_text(mark));
        add(&text, second);
    }
    *text.at = '\0';
}

void hl7_summary(const struct hl7_message *message, struct hl7_summary *ret)
{
    struct slice none = {NULL, 0};
    join(ret->control_id, get(message, 10, 0), "", none);
    join(ret->message_type, get(message, 9, 1), "^", get(message, 9, 2));
    join(ret->sender, get(message, 3, 1), "@", get(message, 4, 1));
}
