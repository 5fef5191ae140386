/* crc32c.c: CRC32C by SSE4.2 in three interleaved streams joined by PCLMUL, else by tables.
 *
 * Why three streams: the crc32 instruction gives one result a cycle but takes three to give it, so
 * one dependent chain uses a third of the unit. Three blocks of equal length run beside each other;
 * since a CRC is linear, crc(A B C) = shift(crc(A), |B|+|C|) ^ shift(crc(B), |C|) ^ crc(C), and a
 * shift by a fixed number of bytes is one carry-less multiplication by a constant and one crc32
 * instruction that reduces the product. The constants are computed at start, not copied. */
#include "crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t tables[8][256];

static void make_tables(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1u)));
        tables[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++)
            tables[table][byte] = (tables[table - 1][byte] >> 8) ^
                                  tables[0][tables[table - 1][byte] & 0xffu];
}

static uint32_t by_table(uint32_t state, const uint8_t *bytes, size_t length)
{
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        word ^= state;
        state = tables[7][word & 0xff] ^ tables[6][(word >> 8) & 0xff] ^
                tables[5][(word >> 16) & 0xff] ^ tables[4][(word >> 24) & 0xff] ^
                tables[3][(word >> 32) & 0xff] ^ tables[2][(word >> 40) & 0xff] ^
                tables[1][(word >> 48) & 0xff] ^ tables[0][word >> 56];
    }
    for (; length > 0; bytes++, length--)
        state = (state >> 8) ^ tables[0][(state ^ *bytes) & 0xffu];
    return state;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define HARDWARE __attribute__((target("sse4.2,pclmul")))
#define LONG_BYTES 2048u /* of each of three streams */
#define SHORT_BYTES 128u

static uint64_t shift_long[2], shift_short[2]; /* by one and by two blocks */

/* x^(8 bytes - 33) mod P, reflected, as the multiplier of shift(): a carry-less product of
 * reflected operands stands one bit low, and the reducing instruction multiplies by x^32. */
static uint64_t shift_constant(size_t bytes)
{
    uint32_t power = 0x80000000u; /* x^0, reflected */
    for (size_t step = 0; step < bytes * 8 - 33; step++)
        power = (power >> 1) ^ (POLYNOMIAL & (0u - (power & 1u)));
    return power;
}

HARDWARE static inline uint64_t shift(uint64_t state, uint64_t constant)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)state),
                                           _mm_cvtsi64_si128((long long)constant), 0);
    return _mm_crc32_u64(0, (unsigned long long)_mm_cvtsi128_si64(product));
}

static inline uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
}

HARDWARE static inline uint64_t three_streams(uint64_t state, const uint8_t *bytes, size_t block,
                                              const uint64_t *shifts)
{
    uint64_t second = 0, third = 0;
    for (size_t at = 0; at < block; at += 8) {
        state = _mm_crc32_u64(state, word_at(bytes + at));
        second = _mm_crc32_u64(second, word_at(bytes + block + at));
        third = _mm_crc32_u64(third, word_at(bytes + 2 * block + at));
    }
    return shift(state, shifts[1]) ^ shift(second, shifts[0]) ^ third;
}

HARDWARE static uint32_t by_hardware(uint32_t initial, const uint8_t *bytes, size_t length)
{
    uint64_t state = initial;
    for (; length >= 3 * LONG_BYTES; bytes += 3 * LONG_BYTES, length -= 3 * LONG_BYTES)
        state = three_streams(state, bytes, LONG_BYTES, shift_long);
    for (; length >= 3 * SHORT_BYTES; bytes += 3 * SHORT_BYTES, length -= 3 * SHORT_BYTES)
        state = three_streams(state, bytes, SHORT_BYTES, shift_short);
    for (; length >= 8; bytes += 8, length -= 8)
        state = _mm_crc32_u64(state, word_at(bytes));
    for (; length > 0; bytes++, length--)
        state = _mm_crc32_u8((uint32_t)state, *bytes);
    return (uint32_t)state;
}

static int have_hardware(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}
#else
static uint32_t by_hardware(uint32_t state, const uint8_t *bytes, size_t length)
{
    return by_table(state, bytes, length);
}
static int have_hardware(void) { return 0; }
#endif

static uint32_t (*chosen)(uint32_t, const uint8_t *, size_t) = by_table;

__attribute__((constructor)) static void choose(void)
{
    make_tables();
#if defined(__x86_64__)
    shift_long[0] = shift_constant(LONG_BYTES);
    shift_long[1] = shift_constant(2 * LONG_BYTES);
    shift_short[0] = shift_constant(SHORT_BYTES);
    shift_short[1] = shift_constant(2 * SHORT_BYTES);
#endif
    if (have_hardware())
        chosen = by_hardware;
}

uint32_t sp_crc32c(uint32_t crc, const void *bytes, size_t length)
{
    return ~chosen(~crc, (const uint8_t *)bytes, length);
}

uint32_t sp_crc32c_portable(uint32_t crc, const void *bytes, size_t length)
{
    return ~by_table(~crc, (const uint8_t *)bytes, length);
}

const char *sp_crc32c_method(void) { return chosen == by_table ? "table" : "sse4.2+pclmul"; }

int sp_crc32c_self_test(void)
{
    static const uint8_t digits[9] = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
    uint8_t bytes[8192 + 7];
    memset(bytes, 0, 32); /* RFC 3720 B.4: 32 bytes of zeros */
    if (sp_crc32c(0, digits, 9) != 0xe3069283u || sp_crc32c(0, bytes, 32) != 0x8a9136aau ||
        sp_crc32c_portable(0, digits, 9) != 0xe3069283u)
        return -1;
    uint32_t noise = 1;
    for (size_t at = 0; at < sizeof bytes; at++) {
        noise = noise * 1664525u + 1013904223u;
        bytes[at] = (uint8_t)(noise >> 24);
    }
    for (size_t length = 0; length <= sizeof bytes; length += 1 + length / 3)
        if (sp_crc32c(7, bytes, length) != sp_crc32c_portable(7, bytes, length))
            return -1;
    return sp_crc32c(sp_crc32c(0, bytes, 5000), bytes + 5000, 3199) == sp_crc32c(0, bytes, 8199)
               ? 0 : -1;
}
