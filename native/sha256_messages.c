/* SHA-256 of many messages at once: sorted by length, so that those in the lanes of one pass are alike. */
#include "sha256.h"

#include <string.h>

#define BATCH 64u
#define SHORT_BLOCKS_MAX 32u /* above, lanes as different as this have to be expected side by side */

/* prepare: what a lane folds: the message's whole blocks where they lie, then its padded tail. */
static void prepare(sp_sha256_lane *lane, const sp_sha256_message *message, uint8_t tail[128]) {
    size_t whole = message->length / 64, held = message->length % 64;
    size_t tail_blocks = held < 56 ? 1 : 2, end = 64 * tail_blocks;
    memset(tail, 0, end);
    if (held > 0) memcpy(tail, message->data + 64 * whole, held);
    tail[held] = 0x80;
    sp_sha256_store_length(tail + end, message->length);
    *lane = (sp_sha256_lane){message->data, whole, tail, whole + tail_blocks, message->out};
}

/* sort: by blocks, the long ones behind all short ones in any order; returns how many are short. */
static size_t sort(sp_sha256_lane *sorted, const sp_sha256_lane *lanes, size_t count) {
    uint8_t start[SHORT_BLOCKS_MAX + 3] = {0};
    for (size_t i = 0; i < count; i++) {
        size_t blocks = lanes[i].blocks;
        start[(blocks <= SHORT_BLOCKS_MAX ? blocks : SHORT_BLOCKS_MAX + 1) + 1]++;
    }
    for (size_t i = 1; i < sizeof start; i++) start[i] = (uint8_t)(start[i] + start[i - 1]);
    size_t short_count = start[SHORT_BLOCKS_MAX + 1];
    for (size_t i = 0; i < count; i++) {
        size_t blocks = lanes[i].blocks;
        sorted[start[blocks <= SHORT_BLOCKS_MAX ? blocks : SHORT_BLOCKS_MAX + 1]++] = lanes[i];
    }
    return short_count;
}

static void hash_batch(const sp_sha256_variant *wide, const sp_sha256_variant *narrow, size_t from,
                       const sp_sha256_message *messages, size_t count) {
    uint8_t tails[BATCH][128];
    sp_sha256_lane lanes[BATCH], sorted[BATCH];
    for (size_t i = 0; i < count; i++) prepare(&lanes[i], &messages[i], tails[i]);
    size_t short_count = sort(sorted, lanes, count), at = 0;
    while (at < short_count && short_count - at >= from) {
        size_t together = short_count - at < wide->lanes ? short_count - at : wide->lanes;
        wide->messages(sorted + at, together);
        at += together;
    }
    while (at < count) {
        size_t together = count - at < narrow->lanes ? count - at : narrow->lanes;
        narrow->messages(sorted + at, together);
        at += together;
    }
}

void sp_sha256d_messages_by(const sp_sha256_variant *wide, const sp_sha256_variant *narrow,
                            size_t from, const sp_sha256_message *messages, size_t count) {
    while (count > 0) {
        size_t batch = count < BATCH ? count : BATCH;
        hash_batch(wide, narrow, from, messages, batch);
        messages += batch, count -= batch;
    }
}
