/* SHA-256 (FIPS 180-4) in plain C11, for processors without an instruction for it, and what all
 * variants are tested against. The constants are those of FIPS 180-4, 4.2.2 and 5.3.3. */
#include "sha256.h"

#include <string.h>

const uint32_t sp_sha256_initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

const uint32_t sp_sha256_rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

const uint32_t sp_sha256_padding_64_rounds[64] = {
    0xc28a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf374,
    0x649b69c1, 0xf0fe4786, 0x0fe1edc6, 0x240cf254, 0x4fe9346f, 0x6cc984be, 0x61b9411e, 0x16f988fa,
    0xf2c65152, 0xa88e5a6d, 0xb019fc65, 0xb9d99ec7, 0x9a1231c3, 0xe70eeaa0, 0xfdb1232b, 0xc7353eb0,
    0x3069bad5, 0xcb976d5f, 0x5a0f118f, 0xdc1eeefd, 0x0a35b689, 0xde0b7a04, 0x58f4ca9d, 0xe15d5b16,
    0x007f3e86, 0x37088980, 0xa507ea32, 0x6fab9537, 0x17406110, 0x0d8cd6f1, 0xcdaa3b6d, 0xc0bbbe37,
    0x83613bda, 0xdb48a363, 0x0b02e931, 0x6fd15ca7, 0x521afaca, 0x31338431, 0x6ed41a95, 0x6d437890,
    0xc39c91f2, 0x9eccabbd, 0xb5c9a0e6, 0x532fb63c, 0xd2c741c6, 0x07237ea3, 0xa4954b68, 0x4c191d76
};

static inline uint32_t rotate_right(uint32_t word, unsigned bits) {
    return (word >> bits) | (word << (32 - bits));
}

static inline uint32_t load_be32(const uint8_t *data) {
    uint32_t word;
    memcpy(&word, data, 4);
    return sp_sha256_big_endian(word);
}

/* The functions of FIPS 180-4, 4.1.2; choose and majority in the forms with fewest operations. */
#define BIG_SIGMA0(x) (rotate_right(x, 2) ^ rotate_right(x, 13) ^ rotate_right(x, 22))
#define BIG_SIGMA1(x) (rotate_right(x, 6) ^ rotate_right(x, 11) ^ rotate_right(x, 25))
#define SMALL_SIGMA0(x) (rotate_right(x, 7) ^ rotate_right(x, 18) ^ ((x) >> 3))
#define SMALL_SIGMA1(x) (rotate_right(x, 17) ^ rotate_right(x, 19) ^ ((x) >> 10))
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

/* One round; instead of moving eight words along, the next one names them shifted by one. */
#define ROUND(a, b, c, d, e, f, g, h, added)                            \
    do {                                                                \
        uint32_t t1 = (h) + BIG_SIGMA1(e) + CHOOSE(e, f, g) + (added);   \
        (d) += t1;                                                      \
        (h) = t1 + BIG_SIGMA0(a) + MAJORITY(a, b, c);                   \
    } while (0)

#define EIGHT_ROUNDS(ADDED, i)                       \
    do {                                             \
        ROUND(a, b, c, d, e, f, g, h, ADDED((i) + 0)); \
        ROUND(h, a, b, c, d, e, f, g, ADDED((i) + 1)); \
        ROUND(g, h, a, b, c, d, e, f, ADDED((i) + 2)); \
        ROUND(f, g, h, a, b, c, d, e, ADDED((i) + 3)); \
        ROUND(e, f, g, h, a, b, c, d, ADDED((i) + 4)); \
        ROUND(d, e, f, g, h, a, b, c, ADDED((i) + 5)); \
        ROUND(c, d, e, f, g, h, a, b, ADDED((i) + 6)); \
        ROUND(b, c, d, e, f, g, h, a, ADDED((i) + 7)); \
    } while (0)

#define GIVEN(i) (sp_sha256_rounds[i] + (w[i] = load_be32(data + 4 * (i))))
#define GROWN(i)                                                                    \
    (sp_sha256_rounds[round + (i)] +                                                \
     (w[i] += SMALL_SIGMA0(w[((i) + 1) & 15]) + w[((i) + 9) & 15] + SMALL_SIGMA1(w[((i) + 14) & 15])))
#define CONSTANT(i) sp_sha256_padding_64_rounds[round + (i)]

static void transform_one(uint32_t state[8], const uint8_t *data) {
    uint32_t w[16];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    EIGHT_ROUNDS(GIVEN, 0);
    EIGHT_ROUNDS(GIVEN, 8);
    for (unsigned round = 16; round < 64; round += 16) {
        EIGHT_ROUNDS(GROWN, 0);
        EIGHT_ROUNDS(GROWN, 8);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/* transform_padding_64: the second block of a 64-byte message, without its message schedule. */
static void transform_padding_64(uint32_t state[8]) {
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (unsigned round = 0; round < 64; round += 8) EIGHT_ROUNDS(CONSTANT, 0);
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void transform(uint32_t h[8], const uint8_t *data, size_t blocks) {
    for (; blocks > 0; blocks--, data += 64) transform_one(h, data);
}

/* second_hash: of the first hash in h, into `out`. */
static void second_hash(uint32_t h[8], uint8_t *out) {
    uint8_t middle[64] = {[32] = 0x80, [62] = 0x01};
    sp_sha256_store(middle, h);
    memcpy(h, sp_sha256_initial, 32);
    transform_one(h, middle);
    sp_sha256_store(out, h);
}

static void pairs(uint8_t *out, const uint8_t *in, size_t count) {
    for (; count > 0; count--, in += 64, out += 32) {
        uint32_t h[8];
        memcpy(h, sp_sha256_initial, sizeof h);
        transform_one(h, in);
        transform_padding_64(h);
        second_hash(h, out);
    }
}

static void messages(const sp_sha256_lane *lanes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t h[8];
        memcpy(h, sp_sha256_initial, sizeof h);
        transform(h, lanes[i].data, lanes[i].whole);
        transform(h, lanes[i].tail, lanes[i].blocks - lanes[i].whole);
        second_hash(h, lanes[i].out);
    }
}

const sp_sha256_variant *sp_sha256_portable(void) {
    static const sp_sha256_variant variant = {"portable", transform, pairs, messages, 1};
    return &variant;
}
