/* sha256.h: SHA-256 and Bitcoin's double SHA-256, by the best instruction set that the processor has.
 *
 * One C file per instruction set; the choice is made once, at first use, and only among variants
 * that pass a self-test with fixed vectors. All functions are safe to call from any thread. */
#ifndef SP_SHA256_H
#define SP_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* sp_sha256_transform: fold `blocks` consecutive 64-byte blocks into the state h. */
typedef void sp_sha256_transform(uint32_t h[8], const uint8_t *data, size_t blocks);

/* sp_sha256d_pairs_fn: double SHA-256 of `count` consecutive 64-byte inputs, 32 bytes out each.
 * `out` may be `in` itself: output i is written only after input i was read. */
typedef void sp_sha256d_pairs_fn(uint8_t *out, const uint8_t *in, size_t count);

typedef struct sp_sha256_variant {
    const char *name; /* "portable", "sha-ni" */
    sp_sha256_transform *transform;
    sp_sha256d_pairs_fn *pairs;
} sp_sha256_variant;

/* A hash under way. `total` counts bytes taken so far; `pending` holds those short of a block. */
typedef struct sp_sha256_stream {
    uint32_t h[8];
    uint64_t total;
    uint8_t pending[64];
} sp_sha256_stream;

extern const uint32_t sp_sha256_initial[8];
extern const uint32_t sp_sha256_rounds[64];

/* sp_sha256_padding_64: the second block of every 64-byte message (0x80, zeros, 512 bits). */
extern const uint8_t sp_sha256_padding_64[64];

/* sp_sha256_selected: the variant in use. The first call chooses and self-tests; NULL means that
 * no variant passed, so that this processor or build must not be trusted with a proof. */
const sp_sha256_variant *sp_sha256_selected(void);

/* sp_sha256_variant_at: the variants that this processor can run, best first, self-tested or not;
 * NULL past the last. For tests and benchmarks. */
const sp_sha256_variant *sp_sha256_variant_at(int index);

/* sp_sha256_name: the selected variant's name; NULL where the self-test failed. */
const char *sp_sha256_name(void);

void sp_sha256_begin(sp_sha256_stream *stream);
void sp_sha256_update(sp_sha256_stream *stream, const uint8_t *data, size_t length);
void sp_sha256_finish(sp_sha256_stream *stream, uint8_t out[32]);

/* sp_sha256d_finish: the SHA-256 of the stream's SHA-256. */
void sp_sha256d_finish(sp_sha256_stream *stream, uint8_t out[32]);

void sp_sha256(uint8_t out[32], const uint8_t *data, size_t length);
void sp_sha256d(uint8_t out[32], const uint8_t *data, size_t length);
void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count);

/* The variants; each is NULL where the processor or the build lacks it. */
const sp_sha256_variant *sp_sha256_portable(void);
const sp_sha256_variant *sp_sha256_shani(void);

#endif /* SP_SHA256_H */
