/* CPUID and XGETBV, as Intel's manual (volume 1, chapters 14.3 and 15.2) wants them asked. */
#include "x86.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <stdint.h>

#define ASKED 0x80000000u
#define BIT(n) (UINT32_C(1) << (n))

/* State that the system saves: XMM and YMM; opmask, and both halves of ZMM. */
#define KEEPS_YMM (BIT(1) | BIT(2))
#define KEEPS_ZMM (KEEPS_YMM | BIT(5) | BIT(6) | BIT(7))

static uint32_t kept_by_the_system(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static unsigned ask(void) {
    unsigned a, b, c, d, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    int has_sse = (c & BIT(9)) && (c & BIT(19)); /* SSSE3, SSE4.1 */
    int has_avx = (c & BIT(27)) && (c & BIT(28)); /* OSXSAVE, AVX */
    uint32_t kept = has_avx ? kept_by_the_system() : 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (has_sse && (b & BIT(29))) features |= SP_X86_SHA;
    int has_avx2 = (b & BIT(5)) && (b & BIT(8)); /* AVX2, BMI2 */
    if (has_avx2 && (kept & KEEPS_YMM) == KEEPS_YMM) features |= SP_X86_AVX2;
    int has_avx512 = (b & BIT(16)) && (b & BIT(30)); /* AVX512F, AVX512BW */
    if (has_avx512 && (kept & KEEPS_ZMM) == KEEPS_ZMM) features |= SP_X86_AVX512;
    return features;
}

unsigned sp_x86_features(void) {
    /* Asked once: under a hypervisor each CPUID costs microseconds. Whoever comes first asks; a
     * second that comes meanwhile gets the same answer, so that no order is needed. */
    static unsigned known;
    unsigned answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (answer == 0) {
        answer = ask() | ASKED;
        __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
    }
    return answer & ~ASKED;
}

#else

unsigned sp_x86_features(void) { return 0; }

#endif
