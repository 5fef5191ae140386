/* SHA-256 (FIPS 180-4) in plain C11, for processors without an instruction for it. */
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

const uint8_t sp_sha256_padding_64[64] = {[0] = 0x80, [62] = 0x02};

static inline uint32_t rotate_right(uint32_t word, unsigned bits) {
    return (word >> bits) | (word << (32 - bits));
}

static inline uint32_t load_be32(const uint8_t *data) {
    return ((uint32_t)data[0] << 24) | ((uint32_t)data[1] << 16) | ((uint32_t)data[2] << 8) | data[3];
}

static inline void store_be32(uint8_t *data, uint32_t word) {
    data[0] = (uint8_t)(word >> 24);
    data[1] = (uint8_t)(word >> 16);
    data[2] = (uint8_t)(word >> 8);
    data[3] = (uint8_t)word;
}

static inline uint32_t small_sigma0(uint32_t x) {
    return rotate_right(x, 7) ^ rotate_right(x, 18) ^ (x >> 3);
}

static inline uint32_t small_sigma1(uint32_t x) {
    return rotate_right(x, 17) ^ rotate_right(x, 19) ^ (x >> 10);
}

static void transform_one(uint32_t h[8], const uint8_t *data) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) w[i] = load_be32(data + 4 * i);
    for (int i = 16; i < 64; i++)
        w[i] = small_sigma1(w[i - 2]) + w[i - 7] + small_sigma0(w[i - 15]) + w[i - 16];

    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
    for (int i = 0; i < 64; i++) {
        uint32_t big1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        uint32_t t1 = k + big1 + ((e & f) ^ (~e & g)) + sp_sha256_rounds[i] + w[i];
        uint32_t big0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        uint32_t t2 = big0 + ((a & b) ^ (a & c) ^ (b & c));
        k = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d;
    h[4] += e, h[5] += f, h[6] += g, h[7] += k;
}

static void transform(uint32_t h[8], const uint8_t *data, size_t blocks) {
    for (; blocks > 0; blocks--, data += 64) transform_one(h, data);
}

static void pairs(uint8_t *out, const uint8_t *in, size_t count) {
    uint8_t middle[64] = {[32] = 0x80, [62] = 0x01};
    for (; count > 0; count--, in += 64, out += 32) {
        uint32_t h[8];
        memcpy(h, sp_sha256_initial, sizeof h);
        transform_one(h, in);
        transform_one(h, sp_sha256_padding_64);
        for (int i = 0; i < 8; i++) store_be32(middle + 4 * i, h[i]);
        memcpy(h, sp_sha256_initial, sizeof h);
        transform_one(h, middle);
        for (int i = 0; i < 8; i++) store_be32(out + 4 * i, h[i]);
    }
}

const sp_sha256_variant *sp_sha256_portable(void) {
    static const sp_sha256_variant variant = {"portable", transform, pairs};
    return &variant;
}
