/* x86.h: what this x86-64 processor can do and the operating system lets it do. */
#ifndef SP_X86_H
#define SP_X86_H

enum sp_x86_feature {
    SP_X86_SHA = 1,    /* SHA extensions with SSSE3 and SSE4.1 */
    SP_X86_AVX2 = 2,   /* AVX2 and BMI2; the system keeps 256-bit registers */
    SP_X86_AVX512 = 4, /* AVX512F and BW; the system keeps 512-bit and mask registers */
};

/* sp_x86_features: enum sp_x86_feature, ored; 0 on any other processor. */
unsigned sp_x86_features(void);

#endif /* SP_X86_H */
