/* SHA-256 by x86's SHA extensions.
 *
 * One stream is bound by the latency of sha256rnds2, twice its throughput on the processors that have
 * it, so wherever there are two inputs they run interleaved. Functions carry their own target attribute: the rest of the module stays
 * runnable on any x86-64, and sp_sha256_shani() answers NULL where the processor lacks SHA or SSE4.1. */
#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "x86.h"

#define SHANI __attribute__((target("sha,sse4.1,ssse3")))
#define SHANI_INLINE static inline SHANI __attribute__((always_inline))
#ifdef __clang__
#define UNROLL_16 _Pragma("unroll 16")
#else
#define UNROLL_16 _Pragma("GCC unroll 16")
#endif

/* The state as sha256rnds2 wants it: words A B E F and C D G H. */
typedef struct lane {
    __m128i abef, cdgh;
    __m128i w[4];
} lane;

SHANI_INLINE __m128i load_be(const uint8_t *data) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)data), swap);
}

SHANI_INLINE void load_state(lane *l, const uint32_t h[8]) {
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)h);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(h + 4));
    low = _mm_shuffle_epi32(low, 0xb1);
    high = _mm_shuffle_epi32(high, 0x1b);
    l->abef = _mm_alignr_epi8(low, high, 8);
    l->cdgh = _mm_blend_epi16(high, low, 0xf0);
}

SHANI_INLINE void split_state(const lane *l, __m128i *low, __m128i *high) {
    __m128i feba = _mm_shuffle_epi32(l->abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(l->cdgh, 0xb1);
    *low = _mm_blend_epi16(feba, dchg, 0xf0);
    *high = _mm_alignr_epi8(dchg, feba, 8);
}

/* four_rounds: rounds 4g to 4g+3 with the message words in w[g % 4]; also grows the schedule. The
 * caller unrolls over g, so that every branch and index here is a constant. */
SHANI_INLINE void four_rounds(lane *l, int g) {
    __m128i constants = _mm_loadu_si128((const __m128i *)(const void *)(sp_sha256_rounds + 4 * g));
    __m128i sum = _mm_add_epi32(l->w[g & 3], constants);
    l->cdgh = _mm_sha256rnds2_epu32(l->cdgh, l->abef, sum);
    if (g >= 3 && g < 15) {
        __m128i shifted = _mm_alignr_epi8(l->w[g & 3], l->w[(g + 3) & 3], 4);
        __m128i next = _mm_add_epi32(l->w[(g + 1) & 3], shifted);
        l->w[(g + 1) & 3] = _mm_sha256msg2_epu32(next, l->w[g & 3]);
    }
    l->abef = _mm_sha256rnds2_epu32(l->abef, l->cdgh, _mm_shuffle_epi32(sum, 0x0e));
    if (g >= 1 && g < 13) l->w[(g + 3) & 3] = _mm_sha256msg1_epu32(l->w[(g + 3) & 3], l->w[g & 3]);
}

SHANI_INLINE void load_message(lane *l, const uint8_t *data) {
    for (int i = 0; i < 4; i++) l->w[i] = load_be(data + 16 * i);
}

SHANI_INLINE void compress_one(lane *l) {
    __m128i abef = l->abef, cdgh = l->cdgh;
    UNROLL_16
    for (int g = 0; g < 16; g++) four_rounds(l, g);
    l->abef = _mm_add_epi32(l->abef, abef);
    l->cdgh = _mm_add_epi32(l->cdgh, cdgh);
}

SHANI_INLINE void compress_two(lane *x, lane *y) {
    __m128i x_abef = x->abef, x_cdgh = x->cdgh, y_abef = y->abef, y_cdgh = y->cdgh;
    UNROLL_16
    for (int g = 0; g < 16; g++) {
        four_rounds(x, g);
        four_rounds(y, g);
    }
    x->abef = _mm_add_epi32(x->abef, x_abef), x->cdgh = _mm_add_epi32(x->cdgh, x_cdgh);
    y->abef = _mm_add_epi32(y->abef, y_abef), y->cdgh = _mm_add_epi32(y->cdgh, y_cdgh);
}

/* padding_two: the second block of two 64-byte messages, whose message schedule is constant. */
SHANI_INLINE void padding_two(lane *x, lane *y) {
    __m128i x_abef = x->abef, x_cdgh = x->cdgh, y_abef = y->abef, y_cdgh = y->cdgh;
    UNROLL_16
    for (int g = 0; g < 16; g++) {
        const uint32_t *given = sp_sha256_padding_64_rounds + 4 * g;
        __m128i sum = _mm_loadu_si128((const __m128i *)(const void *)given);
        __m128i later = _mm_shuffle_epi32(sum, 0x0e);
        x->cdgh = _mm_sha256rnds2_epu32(x->cdgh, x->abef, sum);
        y->cdgh = _mm_sha256rnds2_epu32(y->cdgh, y->abef, sum);
        x->abef = _mm_sha256rnds2_epu32(x->abef, x->cdgh, later);
        y->abef = _mm_sha256rnds2_epu32(y->abef, y->cdgh, later);
    }
    x->abef = _mm_add_epi32(x->abef, x_abef), x->cdgh = _mm_add_epi32(x->cdgh, x_cdgh);
    y->abef = _mm_add_epi32(y->abef, y_abef), y->cdgh = _mm_add_epi32(y->cdgh, y_cdgh);
}

SHANI_INLINE void store_state(uint32_t h[8], const lane *l) {
    __m128i low, high;
    split_state(l, &low, &high);
    _mm_storeu_si128((__m128i *)(void *)h, low);
    _mm_storeu_si128((__m128i *)(void *)(h + 4), high);
}

SHANI static void transform(uint32_t h[8], const uint8_t *data, size_t blocks) {
    lane l;
    load_state(&l, h);
    for (; blocks > 0; blocks--, data += 64) {
        load_message(&l, data);
        compress_one(&l);
    }
    store_state(h, &l);
}

/* second_message: the first hash's 32 bytes, then the padding of a 32-byte message. */
SHANI_INLINE void second_message(lane *l) {
    split_state(l, &l->w[0], &l->w[1]);
    l->w[2] = _mm_set_epi32(0, 0, 0, (int)0x80000000u);
    l->w[3] = _mm_set_epi32(256, 0, 0, 0);
    load_state(l, sp_sha256_initial);
}

SHANI_INLINE void store_hash(uint8_t *out, const lane *l) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low, high;
    split_state(l, &low, &high);
    _mm_storeu_si128((__m128i *)(void *)out, _mm_shuffle_epi8(low, swap));
    _mm_storeu_si128((__m128i *)(void *)(out + 16), _mm_shuffle_epi8(high, swap));
}

/* finish_two: the second hash of two. */
SHANI_INLINE void finish_two(lane *x, lane *y) {
    second_message(x), second_message(y);
    compress_two(x, y);
}

SHANI static void pairs(uint8_t *out, const uint8_t *in, size_t count) {
    lane x, y;
    while (count > 0) {
        /* The last of an odd number goes through both lanes: one alone would be no quicker. */
        const uint8_t *other = count > 1 ? in + 64 : in;
        load_state(&x, sp_sha256_initial), load_state(&y, sp_sha256_initial);
        load_message(&x, in), load_message(&y, other);
        compress_two(&x, &y);
        padding_two(&x, &y);
        finish_two(&x, &y);
        store_hash(out, &x);
        if (count == 1) return;
        store_hash(out + 32, &y);
        count -= 2, in += 128, out += 64;
    }
}

SHANI static void messages(const sp_sha256_lane *lanes, size_t count) {
    const sp_sha256_lane *longer = &lanes[0], *other = &lanes[count - 1];
    if (longer->blocks < other->blocks) other = longer, longer = &lanes[count - 1];
    lane x, y;
    load_state(&x, sp_sha256_initial), load_state(&y, sp_sha256_initial);
    size_t block = 0;
    for (; block < other->blocks; block++) {
        load_message(&x, sp_sha256_block(longer, block));
        load_message(&y, sp_sha256_block(other, block));
        compress_two(&x, &y);
    }
    for (; block < longer->blocks; block++) {
        load_message(&x, sp_sha256_block(longer, block));
        compress_one(&x);
    }
    finish_two(&x, &y);
    store_hash(longer->out, &x);
    store_hash(other->out, &y);
}

const sp_sha256_variant *sp_sha256_shani(void) {
    static const sp_sha256_variant variant = {"sha-ni", transform, pairs, messages, 2};
    return sp_x86_features() & SP_X86_SHA ? &variant : NULL;
}

#else

const sp_sha256_variant *sp_sha256_shani(void) { return NULL; }

#endif
