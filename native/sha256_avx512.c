/* SHA-256 in the 16 lanes of AVX-512 (F for the words, BW to swap their bytes). The rotations and
 * three-way logic that SHA-256 is made of are single instructions here. */
#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#define SP_LANES 16
#define SP_TARGET __attribute__((target("avx512f,avx512bw")))
#define INLINE static inline SP_TARGET __attribute__((always_inline))

typedef __m512i vec;

INLINE vec add(vec x, vec y) { return _mm512_add_epi32(x, y); }

/* Bits of the tables: what comes of x, y, z = 111, 110, … 000. */
INLINE vec xor3(vec x, vec y, vec z) { return _mm512_ternarylogic_epi32(x, y, z, 0x96); }
INLINE vec choose(vec x, vec y, vec z) { return _mm512_ternarylogic_epi32(x, y, z, 0xca); }
INLINE vec majority(vec x, vec y, vec z) { return _mm512_ternarylogic_epi32(x, y, z, 0xe8); }

#define rotate_right(x, bits) _mm512_ror_epi32(x, bits)
#define shift_right(x, bits) _mm512_srli_epi32(x, bits)

INLINE vec broadcast(uint32_t word) { return _mm512_set1_epi32((int)word); }
INLINE vec load(const uint32_t *words) { return _mm512_load_si512(words); }
INLINE vec where_greater(vec a, vec b, vec x, vec y) {
    return _mm512_mask_mov_epi32(y, _mm512_cmpgt_epi32_mask(a, b), x);
}

INLINE vec unpack_low_32(vec x, vec y) { return _mm512_unpacklo_epi32(x, y); }
INLINE vec unpack_high_32(vec x, vec y) { return _mm512_unpackhi_epi32(x, y); }
INLINE vec unpack_low_64(vec x, vec y) { return _mm512_unpacklo_epi64(x, y); }
INLINE vec unpack_high_64(vec x, vec y) { return _mm512_unpackhi_epi64(x, y); }

INLINE vec swap_bytes(vec x) {
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order));
}

INLINE __m128i chunk(const uint8_t *data) { return _mm_loadu_si128((const __m128i *)(const void *)data); }

INLINE vec gather(const uint8_t *const *data, size_t offset) {
    vec x = _mm512_castsi128_si512(chunk(data[0] + offset));
    x = _mm512_inserti32x4(x, chunk(data[4] + offset), 1);
    x = _mm512_inserti32x4(x, chunk(data[8] + offset), 2);
    x = _mm512_inserti32x4(x, chunk(data[12] + offset), 3);
    return swap_bytes(x);
}

INLINE void scatter(uint8_t *out, vec x) {
    x = swap_bytes(x);
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_castsi512_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(out + 128), _mm512_extracti32x4_epi32(x, 1));
    _mm_storeu_si128((__m128i *)(void *)(out + 256), _mm512_extracti32x4_epi32(x, 2));
    _mm_storeu_si128((__m128i *)(void *)(out + 384), _mm512_extracti32x4_epi32(x, 3));
}

#include "sha256_lanes.h"

const sp_sha256_variant *sp_sha256_avx512(void) {
    static const sp_sha256_variant variant = {"avx512", NULL, pairs, messages, SP_LANES};
    return sp_x86_features() & SP_X86_AVX512 ? &variant : NULL;
}

#else

const sp_sha256_variant *sp_sha256_avx512(void) { return NULL; }

#endif
