/* Owns nothing, waits for nothing, cannot fail but for a buffer that its caller made too small. */
#include "link/json_text.h"

/* Length of the UTF-8 sequence at `at` (RFC 3629 section 4), 0 when there is none. */
static size_t utf8_len(const unsigned char *at, size_t left)
{
    static const struct {
        unsigned char first, last, second_min, second_max;
        size_t len;
    } rows[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (at[0] < rows[i].first || at[0] > rows[i].last)
            continue;
        if (left < rows[i].len)
            return 0;
        if (rows[i].len > 1 && (at[1] < rows[i].second_min || at[1] > rows[i].second_max))
            return 0;
        for (size_t j = 2; j < rows[i].len; j++) {
            if ((at[j] & 0xc0) != 0x80)
                return 0;
        }
        return rows[i].len;
    }
    return 0;
}

void json_text_append(struct buffer *out, struct slice text)
{
    buffer_append_byte(out, '"');
    for (size_t i = 0; i < text.len;) {
        unsigned char byte = (unsigned char)text.ptr[i];
        size_t len = utf8_len((const unsigned char *)text.ptr + i, text.len - i);
        if (len == 0)
            buffer_append_byte(out, '?');
        else if (byte == '"' || byte == '\\')
            buffer_append(out, (char[]){'\\', (char)byte}, 2);
        else if (byte < 0x20 || byte == 0x7f)
            buffer_printf(out, "\\u%04x", byte);
        else
            buffer_append(out, text.ptr + i, len);
        i += len ? len : 1;
    }
    buffer_append_byte(out, '"');
}
