/* SHA-256 in the 8 lanes of AVX2, for processors without SHA extensions. */
#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#define SP_LANES 8
#define SP_TARGET __attribute__((target("avx2,bmi2")))
#define INLINE static inline SP_TARGET __attribute__((always_inline))

typedef __m256i vec;

INLINE vec add(vec x, vec y) { return _mm256_add_epi32(x, y); }
INLINE vec xor2(vec x, vec y) { return _mm256_xor_si256(x, y); }
INLINE vec xor3(vec x, vec y, vec z) { return xor2(xor2(x, y), z); }
INLINE vec choose(vec x, vec y, vec z) { return xor2(z, _mm256_and_si256(x, xor2(y, z))); }
INLINE vec majority(vec x, vec y, vec z) {
    return _mm256_or_si256(_mm256_and_si256(x, y), _mm256_and_si256(z, _mm256_or_si256(x, y)));
}

#define rotate_right(x, bits) \
    _mm256_or_si256(_mm256_srli_epi32(x, bits), _mm256_slli_epi32(x, 32 - (bits)))
#define shift_right(x, bits) _mm256_srli_epi32(x, bits)

INLINE vec broadcast(uint32_t word) { return _mm256_set1_epi32((int)word); }
INLINE vec load(const uint32_t *words) { return _mm256_load_si256((const vec *)(const void *)words); }
INLINE vec where_greater(vec a, vec b, vec x, vec y) {
    return _mm256_blendv_epi8(y, x, _mm256_cmpgt_epi32(a, b));
}

INLINE vec unpack_low_32(vec x, vec y) { return _mm256_unpacklo_epi32(x, y); }
INLINE vec unpack_high_32(vec x, vec y) { return _mm256_unpackhi_epi32(x, y); }
INLINE vec unpack_low_64(vec x, vec y) { return _mm256_unpacklo_epi64(x, y); }
INLINE vec unpack_high_64(vec x, vec y) { return _mm256_unpackhi_epi64(x, y); }

INLINE vec swap_bytes(vec x) {
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order));
}

INLINE __m128i chunk(const uint8_t *data) { return _mm_loadu_si128((const __m128i *)(const void *)data); }

INLINE vec gather(const uint8_t *const *data, size_t offset) {
    vec x = _mm256_castsi128_si256(chunk(data[0] + offset));
    return swap_bytes(_mm256_inserti128_si256(x, chunk(data[4] + offset), 1));
}

INLINE void scatter(uint8_t *out, vec x) {
    x = swap_bytes(x);
    _mm_storeu_si128((__m128i *)(void *)out, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(out + 128), _mm256_extracti128_si256(x, 1));
}

#include "sha256_lanes.h"

const sp_sha256_variant *sp_sha256_avx2(void) {
    static const sp_sha256_variant variant = {"avx2", NULL, pairs, messages, SP_LANES};
    return sp_x86_features() & SP_X86_AVX2 ? &variant : NULL;
}

#else

const sp_sha256_variant *sp_sha256_avx2(void) { return NULL; }

#endif
