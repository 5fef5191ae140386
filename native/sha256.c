/* SHA-256: the choice of a variant, its self-test, and streams over it. */
#include "sha256.h"

#include <pthread.h>
#include <string.h>

static const sp_sha256_variant *selected;
static pthread_once_t selected_once = PTHREAD_ONCE_INIT;

static inline void store_be32(uint8_t *data, uint32_t word) {
    data[0] = (uint8_t)(word >> 24);
    data[1] = (uint8_t)(word >> 16);
    data[2] = (uint8_t)(word >> 8);
    data[3] = (uint8_t)word;
}

/* fill: the self-test's message, byte i is 7 i + 3 modulo 251. */
static void fill(uint8_t *data, size_t length) {
    for (size_t i = 0; i < length; i++) data[i] = (uint8_t)((7 * i + 3) % 251);
}

/* Of fill(): the hash of 119 bytes (two blocks with the padding) and the double hashes of 5 inputs of
 * 64 bytes, which walk the interleaved path and its odd last input. Values from Python's hashlib. */
static const uint8_t expected_119[32] = {
    0xc6, 0xe0, 0xf4, 0x35, 0xdf, 0x5d, 0x7d, 0x26, 0x5b, 0xaa, 0xcc, 0xa3, 0x1e, 0x06, 0x02, 0xc0,
    0x0a, 0xa2, 0x2f, 0xa6, 0xd3, 0x81, 0x9a, 0xed, 0x66, 0x46, 0x49, 0x29, 0x4c, 0x74, 0x37, 0x56,
};
static const uint8_t expected_pairs[5][32] = {
    {
    0x7c, 0x40, 0x62, 0x3f, 0x75, 0x0b, 0xe7, 0x9d, 0xc2, 0x27, 0xc9, 0x19, 0x6e, 0xa5, 0xd8, 0x52,
    0x5f, 0x57, 0x43, 0x02, 0x20, 0x48, 0xe2, 0xbe, 0x96, 0x1b, 0xd2, 0x6c, 0x5b, 0x2b, 0xf5, 0x45,
    },
    {
    0xcf, 0xa8, 0x9a, 0x8d, 0x98, 0xbb, 0xe2, 0x46, 0x54, 0x22, 0x08, 0x78, 0xcb, 0x97, 0x9d, 0xf9,
    0x35, 0x66, 0x0d, 0x84, 0x1d, 0x21, 0x36, 0x3c, 0x39, 0xf6, 0x7f, 0x8c, 0x5b, 0x53, 0xf4, 0x46,
    },
    {
    0x11, 0xe0, 0x8a, 0x52, 0xb4, 0x37, 0x12, 0xed, 0x8e, 0x27, 0x94, 0x30, 0x15, 0xa9, 0x66, 0x36,
    0xa9, 0xd8, 0x1e, 0x5f, 0x54, 0xcd, 0x14, 0xfe, 0xf6, 0x06, 0x94, 0x3d, 0x90, 0x98, 0x1e, 0x81,
    },
    {
    0xbb, 0xb8, 0xca, 0x4d, 0x8f, 0x5a, 0x52, 0x95, 0x33, 0xfa, 0x21, 0x4f, 0x2b, 0xa6, 0xa4, 0xc6,
    0x23, 0x88, 0xea, 0xea, 0x2b, 0x08, 0x39, 0x3e, 0x59, 0x05, 0x70, 0xb3, 0x77, 0x9f, 0x0d, 0x7d,
    },
    {
    0x0e, 0xb9, 0x09, 0x38, 0x0c, 0x2e, 0x81, 0xf9, 0xfe, 0x77, 0x67, 0x1a, 0x5e, 0x18, 0x58, 0x54,
    0xe1, 0x61, 0x7f, 0x29, 0xc6, 0xd5, 0xba, 0x7a, 0xae, 0x35, 0x80, 0x3f, 0x94, 0xb6, 0xcc, 0xbb,
    },
};

static int passes_self_test(const sp_sha256_variant *variant) {
    uint8_t message[128], inputs[5 * 64], hashes[5 * 32], digest[32];
    fill(message, 119);
    message[119] = 0x80; /* 119 bytes and this one leave exactly the 64-bit length field */
    memset(message + 120, 0, 8);
    message[126] = (119 * 8) >> 8;
    message[127] = (119 * 8) & 0xff;
    uint32_t h[8];
    memcpy(h, sp_sha256_initial, sizeof h);
    variant->transform(h, message, 2);
    for (int i = 0; i < 8; i++) store_be32(digest + 4 * i, h[i]);
    if (memcmp(digest, expected_119, 32) != 0) return 0;

    fill(inputs, sizeof inputs);
    variant->pairs(hashes, inputs, 5);
    if (memcmp(hashes, expected_pairs, sizeof hashes) != 0) return 0;
    variant->pairs(inputs, inputs, 5); /* in place, as the merkle tree does it */
    return memcmp(inputs, expected_pairs, sizeof hashes) == 0;
}

const sp_sha256_variant *sp_sha256_variant_at(int index) {
    const sp_sha256_variant *best_first[] = {sp_sha256_shani(), sp_sha256_portable()};
    for (size_t i = 0; i < sizeof best_first / sizeof best_first[0]; i++)
        if (best_first[i] != NULL && index-- == 0) return best_first[i];
    return NULL;
}

static void select_variant(void) {
    const sp_sha256_variant *variant;
    for (int i = 0; (variant = sp_sha256_variant_at(i)) != NULL; i++) {
        if (passes_self_test(variant)) {
            selected = variant;
            return;
        }
    }
}

const sp_sha256_variant *sp_sha256_selected(void) {
    pthread_once(&selected_once, select_variant);
    return selected;
}

const char *sp_sha256_name(void) {
    const sp_sha256_variant *variant = sp_sha256_selected();
    return variant != NULL ? variant->name : NULL;
}

void sp_sha256_begin(sp_sha256_stream *stream) {
    memcpy(stream->h, sp_sha256_initial, sizeof stream->h);
    stream->total = 0;
}

void sp_sha256_update(sp_sha256_stream *stream, const uint8_t *data, size_t length) {
    sp_sha256_transform *transform = sp_sha256_selected()->transform;
    size_t held = stream->total % 64;
    stream->total += length;
    if (held > 0) {
        size_t taken = length < 64 - held ? length : 64 - held;
        memcpy(stream->pending + held, data, taken);
        data += taken, length -= taken;
        if (held + taken < 64) return;
        transform(stream->h, stream->pending, 1);
    }
    if (length >= 64) {
        transform(stream->h, data, length / 64);
        data += length & ~(size_t)63;
        length &= 63;
    }
    if (length > 0) memcpy(stream->pending, data, length);
}

void sp_sha256_finish(sp_sha256_stream *stream, uint8_t out[32]) {
    sp_sha256_transform *transform = sp_sha256_selected()->transform;
    uint64_t bits = stream->total * 8;
    size_t held = stream->total % 64;
    stream->pending[held++] = 0x80;
    if (held > 56) {
        memset(stream->pending + held, 0, 64 - held);
        transform(stream->h, stream->pending, 1);
        held = 0;
    }
    memset(stream->pending + held, 0, 56 - held);
    store_be32(stream->pending + 56, (uint32_t)(bits >> 32));
    store_be32(stream->pending + 60, (uint32_t)bits);
    transform(stream->h, stream->pending, 1);
    for (int i = 0; i < 8; i++) store_be32(out + 4 * i, stream->h[i]);
}

void sp_sha256d_finish(sp_sha256_stream *stream, uint8_t out[32]) {
    uint8_t first[32];
    sp_sha256_finish(stream, first);
    sp_sha256(out, first, sizeof first);
}

void sp_sha256(uint8_t out[32], const uint8_t *data, size_t length) {
    sp_sha256_stream stream;
    sp_sha256_begin(&stream);
    sp_sha256_update(&stream, data, length);
    sp_sha256_finish(&stream, out);
}

void sp_sha256d(uint8_t out[32], const uint8_t *data, size_t length) {
    sp_sha256_stream stream;
    sp_sha256_begin(&stream);
    sp_sha256_update(&stream, data, length);
    sp_sha256d_finish(&stream, out);
}

void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count) {
    sp_sha256_selected()->pairs(out, in, count);
}
