/* Which variant of SHA-256 does what: tested first, then timed. */
#define _GNU_SOURCE /* clock_gettime */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "sha256.h"

#define VARIANTS_MAX 4
#define TIMINGS 3
#define MANY_PAIRS SP_SHA256_LANES_MAX
#define MANY_MESSAGES 20u
#define DATA_BYTES 8192u

typedef const sp_sha256_variant *get_variant(void);

/* The likely quickest first: others are given up after one timing far behind it. */
static const struct {
    const char *name;
    get_variant *get;
} known[VARIANTS_MAX] = {
    {"sha-ni", sp_sha256_shani},
    {"avx512", sp_sha256_avx512},
    {"avx2", sp_sha256_avx2},
    {"portable", sp_sha256_portable},
};

static sp_sha256_choice timed, in_use;
static int usable;
static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;

const char *sp_sha256_known_at(int index) {
    return index >= 0 && index < VARIANTS_MAX ? known[index].name : NULL;
}

const sp_sha256_variant *sp_sha256_variant_at(int index) {
    for (int i = 0; i < VARIANTS_MAX; i++) {
        const sp_sha256_variant *variant = known[i].get();
        if (variant != NULL && index-- == 0) return variant;
    }
    return NULL;
}

/* keeps_the_standard: the two-block example of FIPS 180-4 (NIST's paper of examples), once and, as
 * Python's hashlib says, twice; and Bitcoin's hash of 64 zeros. */
static int keeps_the_standard(const sp_sha256_variant *variant) {
    static const uint8_t example[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    static const uint32_t expected[8] = {0x248d6a61, 0xd20638b8, 0xe5c02693, 0x0c3e6039,
                                         0xa33ce459, 0x64ff2167, 0xf6ecedd4, 0x19db06c1};
    static const uint8_t expected_twice[32] = {
        0x0c, 0xff, 0xe1, 0x7f, 0x68, 0x95, 0x4d, 0xac, 0x3a, 0x84, 0xfb, 0x14, 0x58, 0xbd, 0x5e, 0xc9,
        0x92, 0x09, 0x44, 0x97, 0x49, 0xb2, 0xb3, 0x08, 0xb7, 0xcb, 0x55, 0x81, 0x2f, 0x95, 0x63, 0xaf};
    static const uint8_t zeros[64], expected_zeros[32] = {
        0xe2, 0xf6, 0x1c, 0x3f, 0x71, 0xd1, 0xde, 0xfd, 0x3f, 0xa9, 0x99, 0xdf, 0xa3, 0x69, 0x53, 0x75,
        0x5c, 0x69, 0x06, 0x89, 0x79, 0x99, 0x62, 0xb4, 0x8b, 0xeb, 0xd8, 0x36, 0x97, 0x4e, 0x8c, 0xf9};
    uint8_t padded[128] = {[56] = 0x80, [126] = 0x01, [127] = 0xc0}, out[32];
    memcpy(padded, example, 56);
    if (variant->transform != NULL) {
        uint32_t h[8];
        memcpy(h, sp_sha256_initial, sizeof h);
        variant->transform(h, padded, 2);
        if (memcmp(h, expected, sizeof h) != 0) return 0;
    }
    const sp_sha256_message message = {example, 56, out};
    sp_sha256d_messages_by(variant, variant, 1, &message, 1);
    if (memcmp(out, expected_twice, sizeof out) != 0) return 0;
    variant->pairs(out, zeros, 1);
    return memcmp(out, expected_zeros, sizeof out) == 0;
}

/* What tests and timings hash, and what the portable one makes of it: messages of all sorts of
 * lengths side by side, and a full set of lanes and one more of 64-byte inputs. */
enum { TESTED = SP_SHA256_LANES_MAX + 1 };
typedef struct trial {
    uint8_t data[DATA_BYTES];
    uint8_t messages[32 * TESTED], pairs[32 * TESTED];
} trial;

static void hash_messages(const sp_sha256_variant *variant, const trial *of, uint8_t *out) {
    sp_sha256_message messages[TESTED];
    for (size_t i = 0; i < TESTED; i++)
        messages[i] = (sp_sha256_message){of->data + i, 13 * i, out + 32 * i};
    sp_sha256d_messages_by(variant, variant, 1, messages, TESTED);
}

/* prepare: byte i is 7 i + 3 modulo 251, so that no two blocks are alike. */
static void prepare(trial *of, const sp_sha256_variant *portable) {
    for (size_t i = 0; i < DATA_BYTES; i++) of->data[i] = (uint8_t)((7 * i + 3) % 251);
    hash_messages(portable, of, of->messages);
    portable->pairs(of->pairs, of->data, TESTED);
}

/* agrees: with the portable one, in place where that is allowed. */
static int agrees(const sp_sha256_variant *variant, const trial *of) {
    uint8_t inside[64 * TESTED], out[32 * TESTED];
    hash_messages(variant, of, out);
    if (memcmp(out, of->messages, sizeof out) != 0) return 0;
    memcpy(inside, of->data, sizeof inside);
    variant->pairs(inside, inside, TESTED);
    return memcmp(inside, of->pairs, sizeof of->pairs) == 0;
}

enum shape { STREAM, FEW_PAIRS, MANY_PAIRS_SHAPE, FEW_MESSAGES, MANY_MESSAGES_SHAPE, SHAPES };

/* do_once: what is timed; messages are as long as small transactions. */
static void do_once(const sp_sha256_variant *variant, enum shape shape, const uint8_t *data) {
    static const uint16_t lengths[] = {222, 191, 370, 225, 250};
    sp_sha256_message messages[MANY_MESSAGES];
    uint8_t out[32 * MANY_MESSAGES];
    uint32_t h[8] = {0};
    unsigned count = shape == FEW_MESSAGES ? 2 : MANY_MESSAGES;
    switch (shape) {
        case STREAM: variant->transform(h, data, 16); return;
        case FEW_PAIRS: variant->pairs(out, data, 2); return;
        case MANY_PAIRS_SHAPE: variant->pairs(out, data, MANY_PAIRS); return;
        default:
            for (unsigned i = 0; i < count; i++)
                messages[i] = (sp_sha256_message){data + 384 * i, lengths[i % 5], out + 32 * i};
            sp_sha256d_messages_by(variant, variant, 1, messages, count);
    }
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* quickest: of the variants that can take part in this shape; its time, at least 1, in *ns. */
static const sp_sha256_variant *quickest(const sp_sha256_variant *const *of, enum shape shape,
                                         const uint8_t *data, uint64_t *ns) {
    const sp_sha256_variant *best = NULL;
    int is_wide = shape == MANY_PAIRS_SHAPE || shape == MANY_MESSAGES_SHAPE;
    *ns = UINT64_MAX;
    for (int i = 0; i < VARIANTS_MAX && of[i] != NULL; i++) {
        if (shape == STREAM && of[i]->transform == NULL) continue;
        /* One lane has nothing to gain where several have found work for all. */
        if (is_wide && of[i]->lanes == 1 && best != NULL) continue;
        for (int timing = 0; timing < TIMINGS; timing++) {
            uint64_t begun = now_ns();
            do_once(of[i], shape, data);
            uint64_t taken = now_ns() - begun + 1;
            if (taken < *ns) *ns = taken, best = of[i];
            if (taken / 2 > *ns) break;
        }
    }
    return best;
}

/* worth_from: how many inputs make one pass over all lanes of the wide variant, which took `wide_ns`,
 * quicker than the narrow one, which takes `narrow_ns` for two at a time. */
static size_t worth_from(uint64_t wide_ns, uint64_t narrow_ns, unsigned lanes) {
    uint64_t from = 2 * wide_ns / narrow_ns + 1;
    return from < lanes ? (size_t)from : lanes;
}

int sp_sha256_choose(sp_sha256_choice *choice) {
    const sp_sha256_variant *passed[VARIANTS_MAX] = {NULL};
    trial of;
    uint64_t ns, few_ns, many_ns;
    unsigned count = 0, lanes;
    if (!keeps_the_standard(sp_sha256_portable())) return -1;
    prepare(&of, sp_sha256_portable());
    for (int i = 0; i < VARIANTS_MAX; i++) {
        const sp_sha256_variant *variant = known[i].get();
        if (variant != NULL && keeps_the_standard(variant) && agrees(variant, &of))
            passed[count++] = variant;
    }
    choice->stream = quickest(passed, STREAM, of.data, &ns);
    choice->pairs[0] = quickest(passed, FEW_PAIRS, of.data, &few_ns);
    choice->pairs[1] = quickest(passed, MANY_PAIRS_SHAPE, of.data, &many_ns);
    lanes = choice->pairs[1]->lanes;
    choice->pairs_from = worth_from(many_ns * lanes / MANY_PAIRS, few_ns, lanes);
    choice->messages[0] = quickest(passed, FEW_MESSAGES, of.data, &few_ns);
    choice->messages[1] = quickest(passed, MANY_MESSAGES_SHAPE, of.data, &many_ns);
    lanes = choice->messages[1]->lanes;
    choice->messages_from = worth_from(many_ns * lanes / MANY_MESSAGES, few_ns, lanes);
    return 0;
}

static void choose_once(void) {
    usable = sp_sha256_choose(&timed) == 0;
    in_use = timed;
}

const sp_sha256_choice *sp_sha256_chosen(void) {
    pthread_once(&chosen_once, choose_once);
    return usable ? &in_use : NULL;
}

const char *sp_sha256_name(void) {
    const sp_sha256_choice *choice = sp_sha256_chosen();
    return choice != NULL ? choice->stream->name : NULL;
}

int sp_sha256_force(const char *name) {
    if (sp_sha256_chosen() == NULL) return -1;
    in_use = timed;
    if (name == NULL) return 0;
    trial of;
    prepare(&of, sp_sha256_portable());
    const sp_sha256_variant *variant;
    for (int i = 0; (variant = sp_sha256_variant_at(i)) != NULL; i++) {
        if (strcmp(variant->name, name) != 0) continue;
        if (!keeps_the_standard(variant) || !agrees(variant, &of)) return -1;
        if (variant->transform != NULL) in_use.stream = variant;
        in_use.pairs[0] = in_use.pairs[1] = in_use.messages[0] = in_use.messages[1] = variant;
        in_use.pairs_from = in_use.messages_from = 1;
        return 0;
    }
    return -1;
}
