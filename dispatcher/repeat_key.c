#include "repeat_key.h"

#include "base/bug.h"

#include <openssl/evp.h>

#define SHA256_LEN 32u
#define PARTS_MAX 6u

/* SHA-256 over the parts, each behind its length, so that no two lists of parts read alike; its first 128 bits. */
static struct uuid hash_parts(const struct slice *parts, size_t count)
{
    unsigned char digest[SHA256_LEN];
    struct uuid ret;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    BUG_ON(!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1);
    for (size_t i = 0; i < count; i++) {
        uint64_t len = parts[i].len;
        unsigned char prefix[8];
        for (size_t j = 0; j < sizeof(prefix); j++)
            prefix[j] = (unsigned char)(len >> (56 - 8 * j));
        BUG_ON(EVP_DigestUpdate(context, prefix, sizeof(prefix)) != 1 ||
               (len && EVP_DigestUpdate(context, parts[i].ptr, parts[i].len) != 1));
    }
    BUG_ON(EVP_DigestFinal_ex(context, digest, NULL) != 1);
    EVP_MD_CTX_free(context);
    memcpy(ret.bytes, digest, sizeof(ret.bytes));
    return ret;
}

static struct uuid hash_body(struct body body)
{
    struct slice bytes = body_slice(body);
    return hash_parts(&bytes, 1);
}

struct repeat_key repeat_key_http(const struct item *item, struct slice idempotency_key,
                                  struct body body)
{
    struct slice parts[] = {SLICE_LITERAL("http"), slice_text(item->id), idempotency_key};
    return (struct repeat_key){.key = hash_parts(parts, 3), .fingerprint = hash_body(body)};
}

struct repeat_key repeat_key_mllp(const struct item *item, const struct hl7_message *message,
                                  struct body body)
{
    struct slice header = hl7_segment(message, 0);
    struct slice control_id = hl7_field(&message->separators, header, 10).raw;
    struct repeat_key ret = {.key = UUID_NONE};
    if (control_id.len == 0)
        return ret;
    ret.fingerprint = hash_body(body);
    struct slice parts[PARTS_MAX] = {
        SLICE_LITERAL("mllp"),
        slice_text(item->id),
        hl7_field(&message->separators, header, 3).raw,
        hl7_field(&message->separators, header, 4).raw,
        control_id,
        slice_of(ret.fingerprint.bytes, sizeof(ret.fingerprint.bytes)),
    };
    ret.key = hash_parts(parts, PARTS_MAX);
    return ret;
}
