/* Runs the block and transaction proofs over recorded blocks and seeded damage to them, to be built
 * with sanitizers. Every buffer is exactly as long as what it holds, so that one byte too far is
 * seen. A block that comes in pieces must end as the same block that comes whole.
 *
 *   prove_driver ROUNDS SEED FILE...
 *
 * Prints how many verdicts of each word fell; exits 1 where pieces and whole disagree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "header_tree.h"
#include "sha256.h"

static uint64_t dice_state;

static uint64_t dice(uint64_t sides) { /* xorshift64* */
    dice_state ^= dice_state >> 12;
    dice_state ^= dice_state << 25;
    dice_state ^= dice_state >> 27;
    return (dice_state * UINT64_C(2685821657736338717)) % sides;
}

typedef struct bytes {
    uint8_t *data;
    size_t length;
} bytes;

static bytes exactly(const uint8_t *data, size_t length) {
    bytes copy = {malloc(length > 0 ? length : 1), length};
    if (copy.data == NULL) abort();
    if (length > 0) memcpy(copy.data, data, length);
    return copy;
}

static bytes read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    bytes whole = {NULL, (size_t)ftell(file)};
    rewind(file);
    whole.data = malloc(whole.length + 1);
    if (whole.data == NULL || fread(whole.data, 1, whole.length, file) != whole.length) exit(2);
    fclose(file);
    return whole;
}

static const sp_block_rules rules[] = {
    {4000000, 4000000, INT64_C(2100000000000000), -1, 227931, 481824, 0},
    {4000000, 4000000, INT64_C(8400000000000000), -1, 710000, 1201536, 1},
    {4000000, 4000000, INT64_C(2100000000000000), 100, 1, 0, 0},
};

/* The verdict on a block fed in pieces of up to `step` bytes. */
static int prove(const bytes *raw, const sp_block_rules *with, size_t step, sp_block *block) {
    uint8_t *trailer = NULL;
    size_t have = 0;
    int code = sp_block_begin(block, with, raw->data, raw->length);
    while (code == SP_PROVED || code == SP_MORE) {
        have += step < raw->length - have ? 1 + dice(step) : raw->length - have;
        if (have > raw->length) have = raw->length;
        code = sp_block_feed(block, have);
        if (code == SP_TRAILER_WANTED) {
            trailer = malloc(sp_block_trailer_bytes(raw->length, block->facts.tx_count));
            if (trailer == NULL) abort();
            sp_block_set_trailer(block, trailer);
            code = sp_block_feed(block, have);
        }
        if (code == SP_PROVED) break;
        if (have == raw->length && code == SP_MORE) abort();
    }
    free(trailer);
    return code;
}

static struct tally {
    int code;
    unsigned long count;
} tallies[64];

static void count(int code) {
    size_t i = 0;
    while (tallies[i].count != 0 && tallies[i].code != code) i++;
    tallies[i].code = code;
    tallies[i].count++;
}

static void try_block(const bytes *raw) {
    static sp_block whole, pieces;
    const sp_block_rules *with = &rules[dice(3)];
    int code = prove(raw, with, raw->length + 1, &whole);
    int again = prove(raw, with, 1 + dice(dice(8) == 0 ? 16 : 100000), &pieces);
    if (code != again || whole.facts.mutated != pieces.facts.mutated) {
        fprintf(stderr, "whole: %s, in pieces: %s\n", sp_refusal_word(code), sp_refusal_word(again));
        exit(1);
    }
    count(code);
}

static void try_transaction(const bytes *raw) {
    static const sp_tx_rules tx_rules = {INT64_C(2100000000000000), 4000000, 1};
    uint8_t txid[32], wtxid[32];
    if (raw->length <= 81) return;
    size_t at = 81 + dice(raw->length - 81), most = raw->length - at;
    bytes slice = exactly(raw->data + at, 1 + dice(most < 5000 ? most : 5000));
    sp_transaction_prove(slice.data, slice.length, &tx_rules, txid, wtxid);
    free(slice.data);
}

/* Has another SHA-256 of those that this processor runs do the hashing. */
static void change_hashing(void) {
    int count = 0;
    while (sp_sha256_variant_at(count) != NULL) count++;
    if (sp_sha256_force(sp_sha256_variant_at((int)dice((uint64_t)count))->name) != 0) abort();
}

/* A copy with one to four faults: bits, telling bytes, holes, repeats, cuts. */
static bytes damaged(const bytes *raw) {
    uint8_t *data = malloc(raw->length + 4096);
    size_t length = raw->length;
    if (data == NULL) abort();
    memcpy(data, raw->data, length);
    for (uint64_t faults = 1 + dice(4); faults > 0 && length > 90; faults--) {
        size_t at = 80 + dice(length - 80), span = 1 + dice(64);
        static const uint8_t telling[] = {0x00, 0x01, 0xfd, 0xfe, 0xff, 0x7f, 0x80, 0x08};
        switch (dice(5)) {
            case 0: data[at] ^= (uint8_t)(1u << dice(8)); break;
            case 1: data[at] = telling[dice(sizeof telling)]; break;
            case 2:
                if (at + span < length) {
                    memmove(data + at, data + at + span, length - at - span);
                    length -= span;
                }
                break;
            case 3:
                if (at + span < length && length + span < raw->length + 4096) {
                    memmove(data + at + span, data + at, length - at);
                    length += span;
                }
                break;
            default: length = dice(6) == 0 ? at : length; break;
        }
    }
    bytes copy = exactly(data, length);
    free(data);
    return copy;
}

/* A tree of random headers, every question asked about random nodes. */
static void try_headers(void) {
    uint8_t header[80] = {0}, work[32] = {1}, copied[80 * 4];
    const uint32_t times[3] = {1, 2, 3};
    sp_header_tree *tree = sp_headers_new(header, 7, work, times, 3, 5000);
    for (int i = 0; i < 6000; i++) {
        uint32_t nodes = sp_headers_count(tree), parent = (uint32_t)dice(nodes);
        if (dice(4) != 0) parent = nodes - 1;
        memcpy(header + 4, sp_headers_at(tree, parent)->hash, 32);
        for (int j = 36; j < 80; j++) header[j] = (uint8_t)dice(256);
        int64_t index = sp_headers_append(tree, header);
        if (index < 0) continue;
        uint32_t height = sp_headers_at(tree, (uint32_t)index)->height;
        int64_t above = sp_headers_ancestor(tree, (uint32_t)index, 7 + (uint32_t)dice(height - 6));
        if (above < 0) abort();
        if (sp_headers_fork(tree, (uint32_t)index, (uint32_t)above) != (uint32_t)above) abort();
        sp_headers_median_time(tree, (uint32_t)index);
        sp_headers_last_real(tree, (uint32_t)index, 100, 0);
        sp_headers_copy(tree, (uint32_t)index, height - 6 < 4 ? height - 6 : 4, copied);
        if (dice(500) == 0) sp_headers_condemn(tree, (uint32_t)dice(nodes));
        if (dice(500) == 0) sp_headers_absolve(tree, (uint32_t)dice(nodes));
    }
    sp_headers_free(tree);
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    unsigned long rounds = strtoul(argv[1], NULL, 10);
    dice_state = strtoull(argv[2], NULL, 10) | 1;
    for (int i = 3; i < argc; i++) {
        bytes file = read_file(argv[i]);
        bytes raw = exactly(file.data, file.length);
        free(file.data);
        try_block(&raw);
        for (unsigned long round = 0; round < rounds; round++) {
            bytes spoiled = damaged(&raw);
            if (round % 50 == 0) change_hashing();
            try_block(&spoiled);
            try_transaction(&spoiled);
            free(spoiled.data);
        }
        free(raw.data);
    }
    try_headers();
    for (size_t i = 0; tallies[i].count != 0; i++)
        printf("%s %lu\n", tallies[i].code == SP_PROVED ? "proved" : sp_refusal_word(tallies[i].code),
               tallies[i].count);
    return 0;
}
