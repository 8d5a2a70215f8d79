/* Separators and escapes: pure functions over bytes; what fails is the declaration of separators,
 * or a result that passes the maximum of the buffer it goes to. */
#include "hl7/separators.h"

const struct hl7_separators HL7_SEPARATORS_DEFAULT = {
    .field = '|', .component = '^', .repetition = '~', .escape = '\\', .subcomponent = '&'};

static bool is_alnum(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool hl7_separator_allowed(char byte)
{
    return byte != '\0' && byte != '\r' && byte != '\n' && byte != '\v' && byte != '\x1c' &&
           !is_alnum(byte);
}

/* The bytes of field 2, up to the next field separator, the segment's end or one byte too many. */
static size_t encoding_len(struct slice header)
{
    size_t len = 0;
    while (len <= 5 && 4 + len < header.len) {
        char c = header.ptr[4 + len];
        if (c == header.ptr[3] || c == '\r' || c == '\n')
            break;
        len++;
    }
    return len;
}

int hl7_separators_parse(struct slice header, struct hl7_separators *ret, struct err *err)
{
    if (header.len < 3 || (memcmp(header.ptr, "MSH", 3) != 0 && memcmp(header.ptr, "FHS", 3) != 0 &&
                           memcmp(header.ptr, "BHS", 3) != 0))
        return err_set(err, ERR_NOT_HL7, "no MSH, FHS or BHS segment");
    if (header.len < 5)
        return err_set(err, ERR_NOT_HL7, "%.3s: too short to name the separators", header.ptr);
    if (!hl7_separator_allowed(header.ptr[3]))
        return err_set(err, ERR_INVALID, "%.3s-1: not a byte that can separate fields", header.ptr);

    size_t count = encoding_len(header);
    if (count == 0)
        return err_set(err, ERR_INVALID, "%.3s-2: no encoding characters", header.ptr);
    if (count > 5)
        return err_set(err, ERR_INVALID, "%.3s-2: more than five encoding characters", header.ptr);
    char encoding[5] = {0};
    memcpy(encoding, header.ptr + 4, count);
    for (size_t i = 0; i < count; i++) {
        if (!hl7_separator_allowed(encoding[i]))
            return err_set(err, ERR_INVALID, "%.3s-2: character %zu cannot be a separator",
                           header.ptr, i + 1);
        if (memchr(encoding, encoding[i], i))
            return err_set(err, ERR_INVALID, "%.3s-2: character %zu is there twice", header.ptr,
                           i + 1);
    }
    *ret = (struct hl7_separators){.field = header.ptr[3],
                                   .component = encoding[0],
                                   .repetition = encoding[1],
                                   .escape = encoding[2],
                                   .subcomponent = encoding[3],
                                   .truncation = encoding[4]};
    return 0;
}

/* ---- decoding ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

static bool is_hex(struct slice code)
{
    if (code.len < 3 || code.len % 2 == 0 || code.ptr[0] != 'X')
        return false;
    for (size_t i = 1; i < code.len; i++) {
        if (hex_digit(code.ptr[i]) < 0)
            return false;
    }
    return true;
}

static bool append_hex(struct slice code, struct buffer *out)
{
    if (!buffer_try_reserve(out, code.len / 2))
        return false;
    for (size_t i = 1; i < code.len; i += 2)
        out->data[out->len++] = (char)(hex_digit(code.ptr[i]) * 16 + hex_digit(code.ptr[i + 1]));
    return true;
}

/* What a sequence of one letter stands for: 0 when that is nothing, or a separator that is not
 * declared. */
static char letter_meaning(const struct hl7_separators *separators, char letter)
{
    switch (letter) {
    case 'F':
        return separators->field;
    case 'S':
        return separators->component;
    case 'T':
        return separators->subcomponent;
    case 'R':
        return separators->repetition;
    case 'E':
        return separators->escape;
    case 'P':
        return separators->truncation;
    default:
        return 0;
    }
}

/* Sequences that are known and kept as they are: sites' own ones, character sets, formatting
 * commands. */
static bool is_kept(struct slice code)
{
    static const char commands[][4] = {".sp", ".in", ".ti", ".sk", ".fi", ".nf", ".ce"};
    if (code.len >= 3 && code.ptr[0] == '.') {
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
            if (memcmp(code.ptr, commands[i], 3) == 0)
                return true;
        }
        return false;
    }
    if (code.len < 2 || (code.ptr[0] != 'Z' && code.ptr[0] != 'C' && code.ptr[0] != 'M'))
        return false;
    for (size_t i = 1; i < code.len; i++) {
        if (!is_alnum(code.ptr[i]))
            return false;
    }
    return true;
}

enum decoded { DECODED, NO_SEQUENCE, NO_ROOM };

/* Appends what stands between two escape characters; `whole` has them too. */
static enum decoded decode(const struct hl7_separators *separators, struct slice whole,
                           struct buffer *out)
{
    struct slice code = slice_of(whole.ptr + 1, whole.len - 2);
    bool room;
    if (code.len == 1 && (code.ptr[0] == 'H' || code.ptr[0] == 'N')) {
        room = true;
    } else if (code.len == 1 && letter_meaning(separators, code.ptr[0])) {
        char meaning = letter_meaning(separators, code.ptr[0]);
        room = buffer_try_append(out, &meaning, 1);
    } else if (slice_is(code, ".br")) {
        room = buffer_try_append(out, "\r", 1);
    } else if (is_hex(code)) {
        room = append_hex(code, out);
    } else if (is_kept(code)) {
        room = buffer_try_append(out, whole.ptr, whole.len);
    } else {
        return NO_SEQUENCE;
    }
    return room ? DECODED : NO_ROOM;
}

bool hl7_unescape_append(const struct hl7_separators *separators, struct slice raw,
                         struct buffer *out)
{
    size_t before = out->len;
    const char *at = raw.ptr, *end = raw.ptr ? raw.ptr + raw.len : NULL;
    char escape = separators->escape;
    const char *open = escape && at < end ? memchr(at, escape, (size_t)(end - at)) : NULL;
    while (open && open + 1 < end) {
        const char *close = memchr(open + 1, escape, (size_t)(end - open) - 1);
        if (!close)
            break;
        if (!buffer_try_append(out, at, (size_t)(open - at)))
            goto full;
        at = open;
        /* What is no sequence may be a stray escape character in front of one: its end is looked at
         * again as a start. */
        switch (decode(separators, slice_of(open, (size_t)(close - open) + 1), out)) {
        case DECODED:
            at = close + 1;
            open = at < end ? memchr(at, escape, (size_t)(end - at)) : NULL;
            break;
        case NO_SEQUENCE:
            open = close;
            break;
        case NO_ROOM:
            goto full;
        }
    }
    if (buffer_try_append(out, at, (size_t)(end - at)))
        return true;
full:
    out->len = before;
    return false;
}

bool hl7_unescape(const struct hl7_separators *separators, struct slice raw, struct buffer *scratch,
                  struct slice *ret)
{
    if (!separators->escape || !raw.len || !memchr(raw.ptr, separators->escape, raw.len)) {
        *ret = raw;
        return true;
    }
    buffer_clear(scratch);
    if (!hl7_unescape_append(separators, raw, scratch))
        return false;
    *ret = buffer_slice(scratch);
    return true;
}

/* ---- encoding ---- */

/* The letter that stands for a separator, 0 for other bytes. */
static char separator_letter(const struct hl7_separators *separators, char byte)
{
    if (byte == '\0')
        return 0; /* 0 in `separators` is an undeclared one */
    if (byte == separators->field)
        return 'F';
    if (byte == separators->component)
        return 'S';
    if (byte == separators->subcomponent)
        return 'T';
    if (byte == separators->repetition)
        return 'R';
    if (byte == separators->escape)
        return 'E';
    return byte == separators->truncation ? 'P' : 0;
}

static bool escape_byte(const struct hl7_separators *separators, char byte, struct buffer *out)
{
    static const char hex[] = "0123456789ABCDEF";
    char letter = separator_letter(separators, byte), escape = separators->escape;
    bool control = byte == '\0' || byte == '\r' || byte == '\n' || byte == '\v' || byte == '\x1c';
    if (!letter && !control)
        return buffer_try_append(out, &byte, 1);
    if (!escape)
        return buffer_try_append(out, " ", 1);
    if (letter)
        return buffer_try_append(out, (const char[]){escape, letter, escape}, 3);
    char code[] = {escape, 'X', hex[(byte >> 4) & 15], hex[byte & 15], escape};
    return buffer_try_append(out, code, sizeof(code));
}

bool hl7_escape(const struct hl7_separators *separators, struct slice text, struct buffer *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < text.len; i++) {
        if (!escape_byte(separators, text.ptr[i], out)) {
            out->len = before;
            return false;
        }
    }
    return true;
}
