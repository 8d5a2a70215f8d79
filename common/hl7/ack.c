/* Building acknowledgements: pure functions that append to the caller's buffer. They fail only when
 * that has no room; what a request holds never makes them fail, it is bounded or left out. */
#include "hl7/ack.h"

#include "base/bug.h"

#include <time.h>

/* What is echoed at most, in bytes; the sum with everything of ours stays under HL7_ACK_MAX. The
 * standard's own limits are lower: 227 for each of MSH-3 to MSH-6, 199 for MSH-10. */
#define PARTY_MAX                                                                                  \
    440u /* each of MSH-3 to MSH-6: if longer its first component alone, or else nothing */
#define CONTROL_ID_MAX 1024u
#define EVENT_MAX 32u
#define PROCESSING_ID_MAX 64u
#define VERSION_MAX 64u
#define CHARACTER_SET_MAX 128u
#define TEXT_MAX 400u /* our text, escaped */
#define OURS_MAX                                                                                   \
    500u /* names, separators, time, codes, words of table 0357, the note on MSH-10   \
                       */
_Static_assert(4 * PARTY_MAX + CONTROL_ID_MAX + EVENT_MAX + PROCESSING_ID_MAX + VERSION_MAX +
                       CHARACTER_SET_MAX + TEXT_MAX + OURS_MAX + 3 <
                   HL7_ACK_MAX,
               "an acknowledgement and its framing must stay under HL7_ACK_MAX");

#define VERSION(major, minor) ((major)*100 + (minor))

static const char CONTROL_ID_NOTE[] = "MSH-10 cannot be echoed";

const char *hl7_ack_word(enum hl7_ack_code code)
{
    static const char *const words[] = {"AA", "AE", "AR", "CA", "CE", "CR"};
    BUG_ON((unsigned)code > HL7_CR);
    return words[code];
}

bool hl7_ack_accepts(enum hl7_ack_code code)
{
    return code == HL7_AA || code == HL7_CA;
}

static const char *condition_words(enum hl7_condition_code condition)
{
    switch (condition) {
    case HL7_CONDITION_NONE:
        break;
    case HL7_SEGMENT_SEQUENCE:
        return "Segment sequence error";
    case HL7_REQUIRED_FIELD:
        return "Required field missing";
    case HL7_DATA_TYPE:
        return "Data type error";
    case HL7_TABLE_VALUE:
        return "Table value not found";
    case HL7_UNSUPPORTED_TYPE:
        return "Unsupported message type";
    case HL7_UNSUPPORTED_EVENT:
        return "Unsupported event code";
    case HL7_UNSUPPORTED_PROCESSING_ID:
        return "Unsupported processing id";
    case HL7_UNSUPPORTED_VERSION:
        return "Unsupported version id";
    case HL7_UNKNOWN_KEY:
        return "Unknown key identifier";
    case HL7_DUPLICATE_KEY:
        return "Duplicate key identifier";
    case HL7_RECORD_LOCKED:
        return "Application record locked";
    case HL7_INTERNAL:
        return "Application internal error";
    }
    return NULL;
}

/* ---- errors ---- */

void hl7_ack_from_error(const struct err *error, bool enhanced, struct hl7_ack *ret)
{
    enum hl7_ack_code code = HL7_AR;
    enum hl7_condition_code condition = HL7_INTERNAL;
    switch (error->code) {
    case ERR_NONE:
        code = HL7_AA;
        condition = HL7_CONDITION_NONE;
        break;
    case ERR_INVALID:
        code = HL7_AE;
        condition = HL7_DATA_TYPE;
        break;
    case ERR_NOT_HL7:
        condition = HL7_SEGMENT_SEQUENCE;
        break;
    case ERR_UNROUTABLE:
    case ERR_REJECTED:
        code = HL7_AE;
        break;
    default: /* refused, or not the message's fault: it may be sent again */
        break;
    }
    ret->code = enhanced ? code + (HL7_CA - HL7_AA) : code;
    ret->condition = condition;
    ret->text = code == HL7_AA ? NULL : error->text[0] ? error->text : error_word(error->code);
}

/* ---- reading the request ---- */

/* What an acknowledgement takes from its request. */
struct request {
    struct hl7_separators separators;
    struct slice header;   /* its MSH, FHS or BHS segment; empty: none */
    struct slice encoding; /* field 2 */
    int version;           /* VERSION(2, 5) also where the message does not say */
};

static bool has_framing(struct slice raw)
{
    return raw.len && (memchr(raw.ptr, '\v', raw.len) || memchr(raw.ptr, '\x1c', raw.len) ||
                       memchr(raw.ptr, '\r', raw.len) || memchr(raw.ptr, '\n', raw.len));
}

static bool can_echo(struct slice raw, size_t max)
{
    return raw.len <= max && !has_framing(raw);
}

static struct slice field(const struct request *request, unsigned number)
{
    if (!request->header.len)
        return slice_of(NULL, 0);
    return hl7_field(&request->separators, request->header, number).raw;
}

static struct slice component(const struct request *request, unsigned number, unsigned index)
{
    struct slice raw = field(request, number);
    for (;; index--) {
        const char *stop = raw.len ? memchr(raw.ptr, request->separators.component, raw.len) : NULL;
        size_t len = stop ? (size_t)(stop - raw.ptr) : raw.len;
        if (index == 1)
            return slice_of(raw.ptr, len);
        if (!stop)
            return slice_of(NULL, 0);
        raw = slice_of(stop + 1, raw.len - len - 1);
    }
}

/* "2.5.1" and "2.5^…" are VERSION(2, 5). */
static int version_of(struct slice id)
{
    int64_t major, minor;
    const char *dot = id.len ? memchr(id.ptr, '.', id.len) : NULL;
    if (!dot)
        return VERSION(2, 5);
    struct slice after = slice_of(dot + 1, id.len - (size_t)(dot + 1 - id.ptr));
    const char *end = after.len ? memchr(after.ptr, '.', after.len) : NULL;
    if (end)
        after.len = (size_t)(end - after.ptr);
    if (!slice_to_int(slice_of(id.ptr, (size_t)(dot - id.ptr)), 0, 99, &major) ||
        !slice_to_int(slice_trim(after), 0, 99, &minor))
        return VERSION(2, 5);
    return VERSION((int)major, (int)minor);
}

static struct request request_of(struct slice header)
{
    struct request request = {.separators = HL7_SEPARATORS_DEFAULT,
                              .encoding = SLICE_LITERAL("^~\\&"),
                              .version = VERSION(2, 5)};
    if (hl7_separators_parse(header, &request.separators, NULL))
        return request;
    request.header = header;
    request.encoding = field(&request, 2);
    request.version = version_of(slice_trim(component(&request, 12, 1)));
    return request;
}

/* ---- writing ---- */

static void put(struct buffer *out, struct slice bytes)
{
    buffer_append(out, bytes.ptr, bytes.len);
}

static void put_separators(const struct request *request, unsigned count, struct buffer *out)
{
    while (count--)
        buffer_append_byte(out, request->separators.field);
}

static void echo(struct slice raw, size_t max, struct buffer *out)
{
    if (can_echo(raw, max))
        put(out, raw);
}

/* A separator, then one of the fields 3 to 6. */
static void put_party(const struct request *request, unsigned number, struct buffer *out)
{
    struct slice whole = field(request, number);
    put_separators(request, 1, out);
    echo(can_echo(whole, PARTY_MAX) ? whole : component(request, number, 1), PARTY_MAX, out);
}

/* Whether a byte divides this message's fields. */
static bool separates(const struct request *request, char byte)
{
    return byte == request->separators.field ||
           memchr(request->encoding.ptr, byte, request->encoding.len) != NULL;
}

/* YYYYMMDDHHMMSS+0000: every version from 2.1 on reads it. The zone is left out where its sign is a separator. */
static void put_time(const struct request *request, int64_t wall_ms, struct buffer *out)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    char text[32];
    if (!gmtime_r(&seconds, &utc))
        return;
    size_t len = strftime(text, sizeof(text), "%Y%m%d%H%M%S", &utc);
    put(out, slice_of(text, len));
    if (!separates(request, '+'))
        buffer_append_text(out, "+0000");
}

/* Name, separators and the fields 3 to 7, which MSH and BHS share: sender and receiver swapped. */
static void put_header(const struct request *request, const char *name, int64_t wall_ms,
                       struct buffer *out)
{
    buffer_append_text(out, name);
    put_separators(request, 1, out);
    put(out, request->encoding);
    put_party(request, 5, out);
    put_party(request, 6, out);
    put_party(request, 3, out);
    put_party(request, 4, out);
    put_separators(request, 1, out);
    put_time(request, wall_ms, out);
}

/* Our own id: at most 20 bytes of printable ASCII; others, and separators, become 'x', which is never one. */
static void put_control_id(const struct request *request, struct slice id, struct buffer *out)
{
    for (size_t i = 0; i < id.len && i < HL7_ACK_CONTROL_ID_MAX; i++) {
        bool plain = id.ptr[i] > ' ' && id.ptr[i] < 0x7f && !separates(request, id.ptr[i]);
        buffer_append_byte(out, plain ? id.ptr[i] : 'x');
    }
}

static void put_type(const struct request *request, struct buffer *out)
{
    struct slice event = component(request, 9, 2);
    buffer_append_text(out, "ACK");
    if (request->version < VERSION(2, 4) || !event.len || !can_echo(event, EVENT_MAX))
        return;
    buffer_append_byte(out, request->separators.component);
    put(out, event);
    buffer_append_byte(out, request->separators.component);
    buffer_append_text(out, "ACK");
}

static void put_msh(const struct request *request, const struct hl7_ack *ack, struct buffer *out)
{
    put_header(request, "MSH", ack->wall_ms, out);
    put_separators(request, 2, out);
    put_type(request, out);
    put_separators(request, 1, out);
    put_control_id(request, ack->control_id, out);
    put_separators(request, 1, out);
    if (request->header.len)
        echo(field(request, 11), PROCESSING_ID_MAX, out);
    else
        buffer_append_byte(out, 'P');
    put_separators(request, 1, out);
    if (request->header.len)
        echo(field(request, 12), VERSION_MAX, out);
    else
        buffer_append_text(out, "2.5");
    struct slice character_set = field(request, 18);
    if (character_set.len && can_echo(character_set, CHARACTER_SET_MAX)) {
        put_separators(request, 6, out);
        put(out, character_set);
    }
    buffer_append_byte(out, '\r');
}

/* Our words: printable ASCII, escaped, cut at TEXT_MAX bytes between two characters. */
static void put_text(const struct request *request, const char *text, struct buffer *out)
{
    size_t limit = out->len + TEXT_MAX;
    for (; text && *text; text++) {
        size_t before = out->len;
        char c = *text >= ' ' && *text < 0x7f ? *text : '?';
        bool room = hl7_escape(&request->separators, slice_of(&c, 1), out);
        BUG_ON(!room);
        if (out->len > limit) {
            out->len = before;
            return;
        }
    }
}

/* `code`, the words and the table's name with `separator`, or the code alone without one. */
static void put_condition(const struct request *request, enum hl7_condition_code condition,
                          char separator, struct buffer *out)
{
    const char *words = condition_words(condition);
    if (!words) {
        condition = HL7_INTERNAL;
        words = condition_words(condition);
    }
    buffer_append_uint(out, condition);
    if (!separator)
        return;
    buffer_append_byte(out, separator);
    put_text(request, words, out);
    buffer_append_byte(out, separator);
    buffer_append_text(out, "HL70357");
}

/* segment^sequence^field, and from 2.5 on ^repetition^component^subcomponent as far as the path
 * goes */
static void put_location(const struct request *request, const struct hl7_path *path,
                         struct buffer *out)
{
    char separator = request->separators.component;
    bool erl = request->version >= VERSION(2, 5);
    buffer_append(out, path->segment, strlen(path->segment));
    uint32_t numbers[] = {path->occurrence, path->field, path->repetition, path->component,
                          path->subcomponent};
    size_t count = !erl ? 2 : path->subcomponent ? 5 : path->component ? 4 : 3;
    for (size_t i = 0; i < count; i++) {
        buffer_append_byte(out, separator);
        buffer_append_uint(out, numbers[i] ? numbers[i] : 1);
    }
}

/* ERR as of 2.5: ERR-2 location, ERR-3 code, ERR-4 severity, ERR-8 text. */
static void put_err(const struct request *request, const struct hl7_path *location,
                    enum hl7_condition_code condition, char severity, const char *text,
                    struct buffer *out)
{
    buffer_append_text(out, "ERR");
    put_separators(request, 2, out);
    if (location)
        put_location(request, location, out);
    put_separators(request, 1, out);
    put_condition(request, condition, request->separators.component, out);
    put_separators(request, 1, out);
    buffer_append_byte(out, severity);
    if (text && *text) {
        put_separators(request, 4, out);
        put_text(request, text, out);
    }
    buffer_append_byte(out, '\r');
}

/* ERR before 2.5: ERR-1 is segment^sequence^field^code. */
static void put_old_err(const struct request *request, const struct hl7_ack *ack,
                        struct buffer *out)
{
    char separator = request->separators.component;
    buffer_append_text(out, "ERR");
    put_separators(request, 1, out);
    if (ack->location)
        put_location(request, ack->location, out);
    else
        buffer_append(out, (const char[]){separator, separator}, 2);
    buffer_append_byte(out, separator);
    put_condition(request, ack->condition, request->separators.subcomponent, out);
    buffer_append_byte(out, '\r');
}

/* MSA and ERR. */
static void put_outcome(const struct request *request, const struct hl7_ack *ack,
                        struct buffer *out)
{
    bool error = !hl7_ack_accepts(ack->code), old = request->version < VERSION(2, 5);
    struct slice control_id = field(request, 10);
    bool echoed = request->header.len == 0 || can_echo(control_id, CONTROL_ID_MAX);
    const char *text = error ? ack->text : NULL;

    buffer_append_text(out, "MSA");
    put_separators(request, 1, out);
    buffer_append_text(out, hl7_ack_word(ack->code));
    put_separators(request, 1, out);
    if (echoed)
        put(out, control_id);
    if (old && (!echoed || (text && *text))) {
        put_separators(request, 1, out);
        put_text(request, echoed ? text : CONTROL_ID_NOTE, out);
    }
    buffer_append_byte(out, '\r');

    if (error && old)
        put_old_err(request, ack, out);
    else if (error)
        put_err(request, ack->location, ack->condition, 'E', text, out);
    if (!echoed && !old) {
        struct hl7_path msh10 = {.segment = "MSH", .occurrence = 1, .repetition = 1, .field = 10};
        put_err(request, &msh10, HL7_DATA_TYPE, 'W', CONTROL_ID_NOTE, out);
    }
}

static enum hl7_ack_code refusing(enum hl7_ack_code code)
{
    return code == HL7_AA ? HL7_AR : code == HL7_CA ? HL7_CR : code;
}

bool hl7_ack_append(const struct hl7_message *message, const struct hl7_ack *ack,
                    struct buffer *out)
{
    if (!buffer_try_reserve(out, HL7_ACK_MAX))
        return false;
    size_t before = out->len;
    struct hl7_ack said = *ack;
    if (!message)
        said.code = refusing(said.code);
    struct request request = request_of(message ? hl7_segment(message, 0) : slice_of(NULL, 0));
    put_msh(&request, &said, out);
    put_outcome(&request, &said, out);
    BUG_ON(out->len - before + 3 >= HL7_ACK_MAX);
    return true;
}

/* ---- batches ---- */

static struct request batch_request(const struct hl7_batch *batch)
{
    struct slice header = batch->batch_header.len ? batch->batch_header : batch->file_header;
    if (!header.len) {
        struct hl7_scan scan;
        hl7_scan_init(&scan, batch->first_message);
        if (!hl7_scan_next(&scan, &header))
            header = slice_of(NULL, 0);
    }
    return request_of(header);
}

bool hl7_ack_batch_begin(const struct hl7_batch *batch, struct slice control_id, int64_t wall_ms,
                         struct buffer *out)
{
    if (!buffer_try_reserve(out, HL7_ACK_MAX))
        return false;
    struct request request = batch_request(batch);
    put_header(&request, "BHS", wall_ms, out);
    put_separators(&request, 4, out);
    put_control_id(&request, control_id, out);
    /* BHS-12, the request's BHS-11. MSH-11 is something else. */
    if (request.header.len && request.header.ptr[0] != 'M') {
        put_separators(&request, 1, out);
        echo(field(&request, 11), CONTROL_ID_MAX, out);
    }
    buffer_append_byte(out, '\r');
    return true;
}

bool hl7_ack_batch_end(const struct hl7_batch *batch, size_t ack_count, struct buffer *out)
{
    if (!buffer_try_reserve(out, HL7_ACK_MAX))
        return false;
    struct request request = batch_request(batch);
    buffer_append_text(out, "BTS");
    put_separators(&request, 1, out);
    buffer_append_uint(out, ack_count);
    buffer_append_byte(out, '\r');
    return true;
}

/* ---- modes ---- */

static enum hl7_ack_when when_of(struct slice word)
{
    if (word.len == 0 || slice_is(word, "\"\"") || slice_is_nocase(word, "NE"))
        return HL7_NE;
    if (slice_is_nocase(word, "ER"))
        return HL7_ER;
    return slice_is_nocase(word, "SU") ? HL7_SU : HL7_AL;
}

struct hl7_ack_mode hl7_ack_mode(const struct hl7_message *message)
{
    struct slice header = hl7_segment(message, 0);
    struct slice accept = hl7_field(&message->separators, header, 15).raw;
    struct slice application = hl7_field(&message->separators, header, 16).raw;
    accept = slice_trim(accept);
    application = slice_trim(application);
    bool said = (accept.len && !slice_is(accept, "\"\"")) ||
                (application.len && !slice_is(application, "\"\""));
    if (!said)
        return (struct hl7_ack_mode){.enhanced = false, .accept = HL7_NE, .application = HL7_AL};
    return (struct hl7_ack_mode){
        .enhanced = true, .accept = when_of(accept), .application = when_of(application)};
}

bool hl7_ack_wanted(enum hl7_ack_when when, enum hl7_ack_code code)
{
    switch (when) {
    case HL7_NE:
        return false;
    case HL7_ER:
        return !hl7_ack_accepts(code);
    case HL7_SU:
        return hl7_ack_accepts(code);
    case HL7_AL:
        break;
    }
    return true;
}
