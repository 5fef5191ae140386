/* SHA-256: streams, single messages and merkle levels, over the variants chosen for them. */
#include "sha256.h"

#include <string.h>

void sp_sha256_begin(sp_sha256_stream *stream) {
    memcpy(stream->h, sp_sha256_initial, sizeof stream->h);
    stream->total = 0;
}

static void update(sp_sha256_transform *transform, sp_sha256_stream *stream, const uint8_t *data,
                   size_t length) {
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

static void finish(sp_sha256_transform *transform, sp_sha256_stream *stream, uint8_t out[32]) {
    size_t held = stream->total % 64;
    stream->pending[held++] = 0x80;
    if (held > 56) {
        memset(stream->pending + held, 0, 64 - held);
        transform(stream->h, stream->pending, 1);
        held = 0;
    }
    memset(stream->pending + held, 0, 56 - held);
    sp_sha256_store_length(stream->pending + 64, stream->total);
    transform(stream->h, stream->pending, 1);
    sp_sha256_store(out, stream->h);
}

/* once: a message that is whole: at most two calls of the transform. */
static void once(sp_sha256_transform *transform, uint8_t out[32], const uint8_t *data,
                 size_t length) {
    size_t whole = length / 64, held = length % 64, end = held < 56 ? 64 : 128;
    uint8_t tail[128] = {0};
    uint32_t h[8];
    memcpy(tail, data + 64 * whole, held);
    tail[held] = 0x80;
    sp_sha256_store_length(tail + end, length);
    memcpy(h, sp_sha256_initial, sizeof h);
    if (whole > 0) transform(h, data, whole);
    transform(h, tail, end / 64);
    sp_sha256_store(out, h);
}

void sp_sha256_update(sp_sha256_stream *stream, const uint8_t *data, size_t length) {
    update(sp_sha256_chosen()->stream->transform, stream, data, length);
}

void sp_sha256_finish(sp_sha256_stream *stream, uint8_t out[32]) {
    finish(sp_sha256_chosen()->stream->transform, stream, out);
}

void sp_sha256d_finish(sp_sha256_stream *stream, uint8_t out[32]) {
    sp_sha256_transform *transform = sp_sha256_chosen()->stream->transform;
    uint8_t first[32];
    finish(transform, stream, first);
    once(transform, out, first, sizeof first);
}

void sp_sha256(uint8_t out[32], const uint8_t *data, size_t length) {
    once(sp_sha256_chosen()->stream->transform, out, data, length);
}

void sp_sha256d(uint8_t out[32], const uint8_t *data, size_t length) {
    sp_sha256_transform *transform = sp_sha256_chosen()->stream->transform;
    uint8_t first[32];
    once(transform, first, data, length);
    once(transform, out, first, sizeof first);
}

void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count) {
    const sp_sha256_choice *choice = sp_sha256_chosen();
    size_t rest = count % choice->pairs[1]->lanes;
    if (rest >= choice->pairs_from) rest = 0;
    size_t wide = count - rest;
    if (wide > 0) choice->pairs[1]->pairs(out, in, wide);
    if (rest > 0) choice->pairs[0]->pairs(out + 32 * wide, in + 64 * wide, rest);
}

void sp_sha256d_messages(const sp_sha256_message *messages, size_t count) {
    const sp_sha256_choice *choice = sp_sha256_chosen();
    const sp_sha256_variant *few = choice->messages[0];
    const sp_sha256_variant *wide = count >= choice->messages_from ? choice->messages[1] : few;
    sp_sha256d_messages_by(wide, few, choice->messages_from, messages, count);
}
