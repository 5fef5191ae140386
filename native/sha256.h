/* sha256.h: SHA-256 and Bitcoin's double SHA-256, by whatever this processor does quickest.
 *
 * One C file per instruction set. At first use those that this processor has are tested with fixed
 * vectors and against the portable one, then timed for some tens of microseconds, and for each shape
 * of work the quickest is taken: one long stream; few or many inputs of 64 bytes (levels of a merkle
 * tree); few or many short messages. All functions are safe to call from any thread. */
#ifndef SP_SHA256_H
#define SP_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SP_SHA256_LANES_MAX 16u

/* sp_sha256_transform: fold `blocks` consecutive 64-byte blocks into the state h. */
typedef void sp_sha256_transform(uint32_t h[8], const uint8_t *data, size_t blocks);

/* sp_sha256d_pairs_fn: double SHA-256 of `count` consecutive 64-byte inputs, 32 bytes out each.
 * `out` may be `in` itself: output i is written only after input i was read. */
typedef void sp_sha256d_pairs_fn(uint8_t *out, const uint8_t *in, size_t count);

/* A message in a lane: `whole` blocks at `data`, the others of its `blocks`, one or two, at `tail`;
 * the double hash goes to `out`. */
typedef struct sp_sha256_lane {
    const uint8_t *data;
    size_t whole;
    const uint8_t *tail;
    size_t blocks;
    uint8_t *out;
} sp_sha256_lane;

/* sp_sha256d_lanes: double SHA-256 of 1 to `lanes` messages side by side. It takes as long as the
 * longest of them: lengths should be alike. */
typedef void sp_sha256d_lanes(const sp_sha256_lane *lanes, size_t count);

typedef struct sp_sha256_variant {
    const char *name; /* "portable", "sha-ni", "avx2", "avx512" */
    sp_sha256_transform *transform; /* NULL: this set has no form of its own for one stream */
    sp_sha256d_pairs_fn *pairs;
    sp_sha256d_lanes *messages;
    unsigned lanes; /* at most SP_SHA256_LANES_MAX */
} sp_sha256_variant;

/* What is used for what. Of two, the first is for few inputs, the second for at least `.._from`. */
typedef struct sp_sha256_choice {
    const sp_sha256_variant *stream, *pairs[2], *messages[2];
    size_t pairs_from, messages_from;
} sp_sha256_choice;

/* A message to be hashed among others, and where its 32 bytes go. */
typedef struct sp_sha256_message {
    const uint8_t *data;
    size_t length;
    uint8_t *out;
} sp_sha256_message;

/* A hash under way. `total` counts bytes taken so far; `pending` holds those short of a block. */
typedef struct sp_sha256_stream {
    uint32_t h[8];
    uint64_t total;
    uint8_t pending[64];
} sp_sha256_stream;

extern const uint32_t sp_sha256_initial[8];
extern const uint32_t sp_sha256_rounds[64];

/* sp_sha256_padding_64_rounds: sp_sha256_rounds plus the message schedule of the second block of
 * every 64-byte message (0x80, zeros, 512 bits), which is the same for all of them. */
extern const uint32_t sp_sha256_padding_64_rounds[64];

/* sp_sha256_chosen: what is used. The first call tests and times; NULL means that no variant passed,
 * so that this processor or build must not be trusted with a proof. */
const sp_sha256_choice *sp_sha256_chosen(void);

/* sp_sha256_variant_at: the variants that this processor can run, tested or not, "portable" the
 * last; NULL past it. For tests and benchmarks. */
const sp_sha256_variant *sp_sha256_variant_at(int index);

/* sp_sha256_known_at: the names of all variants there are, whether this processor has them or not;
 * NULL past the last. */
const char *sp_sha256_known_at(int index);

/* sp_sha256_force: have one variant do all that it has a form for; NULL goes back to what the timing
 * said. Returns 0, or -1 where no variant of that name passed its test. For tests and benchmarks:
 * nothing else may be hashing meanwhile. */
int sp_sha256_force(const char *name);

/* sp_sha256_name: the variant that hashes streams; NULL where none passed its self-test. */
const char *sp_sha256_name(void);

/* sp_sha256_choose: test and time now and fill `choice`, as the first use does. Returns 0 or -1. */
int sp_sha256_choose(sp_sha256_choice *choice);

void sp_sha256_begin(sp_sha256_stream *stream);
void sp_sha256_update(sp_sha256_stream *stream, const uint8_t *data, size_t length);
void sp_sha256_finish(sp_sha256_stream *stream, uint8_t out[32]);

/* sp_sha256d_finish: the SHA-256 of the stream's SHA-256. */
void sp_sha256d_finish(sp_sha256_stream *stream, uint8_t out[32]);

void sp_sha256(uint8_t out[32], const uint8_t *data, size_t length);
void sp_sha256d(uint8_t out[32], const uint8_t *data, size_t length);
void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count);

/* sp_sha256d_messages: double SHA-256 of each of `count` messages, of any lengths. No output may lie
 * in a message. */
void sp_sha256d_messages(const sp_sha256_message *messages, size_t count);

/* sp_sha256d_messages_by: the same by `wide`, and by `narrow` what is long or left once fewer than
 * `from` are. */
void sp_sha256d_messages_by(const sp_sha256_variant *wide, const sp_sha256_variant *narrow,
                            size_t from, const sp_sha256_message *messages, size_t count);

/* The variants; each is NULL where the processor or the build lacks it. */
const sp_sha256_variant *sp_sha256_portable(void);
const sp_sha256_variant *sp_sha256_shani(void);
const sp_sha256_variant *sp_sha256_avx2(void);
const sp_sha256_variant *sp_sha256_avx512(void);

/* sp_sha256_block: where block `i` of a lane's message stands; past its end, the last one. */
static inline const uint8_t *sp_sha256_block(const sp_sha256_lane *lane, size_t i) {
    if (i < lane->whole) return lane->data + 64 * i;
    size_t in_tail = (i < lane->blocks ? i : lane->blocks - 1) - lane->whole;
    return lane->tail + 64 * in_tail;
}

/* Words of a message are big-endian. Spelled byte by byte, GCC makes dozens of shuffles of it. */
static inline uint32_t sp_sha256_big_endian(uint32_t word) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap32(word);
#else
    return word;
#endif
}

/* sp_sha256_store_length: a message's length in bits into the 8 bytes before `end`. */
static inline void sp_sha256_store_length(uint8_t *end, uint64_t bytes) {
    const uint32_t words[2] = {sp_sha256_big_endian((uint32_t)(bytes >> 29)),
                               sp_sha256_big_endian((uint32_t)(bytes << 3))};
    memcpy(end - 8, words, 8);
}

/* sp_sha256_store: the state as the 32 bytes of a hash. */
static inline void sp_sha256_store(uint8_t out[32], const uint32_t h[8]) {
    for (int i = 0; i < 8; i++) {
        uint32_t word = sp_sha256_big_endian(h[i]);
        memcpy(out + 4 * i, &word, 4);
    }
}

#endif /* SP_SHA256_H */
