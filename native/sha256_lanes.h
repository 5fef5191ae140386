/* sha256_lanes.h: SHA-256 in the lanes of a vector, one message each (the multi-buffer method of
 * Gueron and Krasnov, "Simultaneous hashing of multiple messages", 2012). The text of a variant: its
 * file says what a vector is and includes this once. What it has to define beforehand:
 *
 *   SP_LANES                   words in a vector: 4 for each chunk of 128 bits
 *   SP_TARGET                  the function attribute that names the instruction set
 *   vec                        the vector; then over it, each an inline function:
 *   add, rotate_right(x, bits), shift_right(x, bits), xor3, choose, majority
 *   broadcast(word), load(words)
 *   where_greater(a, b, x, y): words of x where a > b (signed), else of y
 *   unpack_low_32, unpack_high_32, unpack_low_64, unpack_high_64: of each chunk on its own
 *   gather(data, offset)       chunk c from data[4 * c] + offset, its words' bytes swapped
 *   scatter(out, x)            chunk c to out + 128 * c, its words' bytes swapped
 *
 * Without SP_LANES this header is empty. */
#ifdef SP_LANES

#define SP_INLINE static inline SP_TARGET __attribute__((always_inline))

/* Round i of sixteen: the words that it takes as a to h stand one place further along each time. */
#define SP_WORD(i, place) s[((place) - (i)) & 7]
#define SP_ROUND(i, added)                                                                       \
    do {                                                                                         \
        vec e = SP_WORD(i, 4), a = SP_WORD(i, 0);                                                \
        vec big1 = xor3(rotate_right(e, 6), rotate_right(e, 11), rotate_right(e, 25));           \
        vec big0 = xor3(rotate_right(a, 2), rotate_right(a, 13), rotate_right(a, 22));           \
        vec t1 = add(add(SP_WORD(i, 7), added), add(big1, choose(e, SP_WORD(i, 5), SP_WORD(i, 6)))); \
        SP_WORD(i, 3) = add(SP_WORD(i, 3), t1);                                                  \
        SP_WORD(i, 7) = add(t1, add(big0, majority(a, SP_WORD(i, 1), SP_WORD(i, 2))));           \
    } while (0)
#define SP_SIXTEEN(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define SP_GIVEN_ROUND(i) SP_ROUND(i, add(w[i], broadcast(constants[i])));
#define SP_CONSTANT_ROUND(i) SP_ROUND(i, broadcast(constants[i]));
#define SP_GROW(i)                                                                         \
    do {                                                                                   \
        vec x = w[((i) + 1) & 15], y = w[((i) + 14) & 15];                                 \
        vec small0 = xor3(rotate_right(x, 7), rotate_right(x, 18), shift_right(x, 3));     \
        vec small1 = xor3(rotate_right(y, 17), rotate_right(y, 19), shift_right(y, 10));   \
        w[i] = add(add(w[i], small0), add(w[((i) + 9) & 15], small1));                     \
    } while (0);
#define SP_GROWN_ROUND(i) SP_GROW(i) SP_GIVEN_ROUND(i)

/* compress: one block. Called, not copied into each caller: the
 * compiler takes its time over it. */
SP_TARGET __attribute__((noinline)) static void compress(vec state[8],
                                                                 const vec message[16]) {
    vec s[8], w[16];
    const uint32_t *constants = sp_sha256_rounds;
    for (int i = 0; i < 8; i++) s[i] = state[i];
    for (int i = 0; i < 16; i++) w[i] = message[i];
    SP_SIXTEEN(SP_GIVEN_ROUND)
    for (int group = 1; group < 4; group++) {
        constants += 16;
        SP_SIXTEEN(SP_GROWN_ROUND)
    }
    for (int i = 0; i < 8; i++) state[i] = add(state[i], s[i]);
}

/* compress_padding_64: the second block of 64-byte messages, whose message schedule is constant. */
SP_INLINE void compress_padding_64(vec state[8]) {
    vec s[8];
    for (int i = 0; i < 8; i++) s[i] = state[i];
    const uint32_t *constants = sp_sha256_padding_64_rounds;
    for (int group = 0; group < 4; group++, constants += 16) {
        SP_SIXTEEN(SP_CONSTANT_ROUND)
    }
    for (int i = 0; i < 8; i++) state[i] = add(state[i], s[i]);
}

/* transpose: of each chunk, four vectors of four words; it is its own inverse. */
SP_INLINE void transpose(vec out[4], const vec in[4]) {
    vec low01 = unpack_low_32(in[0], in[1]), high01 = unpack_high_32(in[0], in[1]);
    vec low23 = unpack_low_32(in[2], in[3]), high23 = unpack_high_32(in[2], in[3]);
    out[0] = unpack_low_64(low01, low23), out[1] = unpack_high_64(low01, low23);
    out[2] = unpack_low_64(high01, high23), out[3] = unpack_high_64(high01, high23);
}

/* load_message: lane 4 c + j is chunk c of the vector that gather() makes of data + j. */
SP_INLINE void load_message(vec w[16], const uint8_t *const *data) {
    for (int quarter = 0; quarter < 4; quarter++) {
        vec rows[4];
        for (int j = 0; j < 4; j++) rows[j] = gather(data + j, 16 * (size_t)quarter);
        transpose(w + 4 * quarter, rows);
    }
}

SP_INLINE void store_hashes(uint8_t *out, const vec state[8]) {
    for (int half = 0; half < 2; half++) {
        vec rows[4];
        transpose(rows, state + 4 * half);
        for (int j = 0; j < 4; j++) scatter(out + 32 * j + 16 * half, rows[j]);
    }
}

SP_INLINE void load_initial(vec state[8]) {
    for (int i = 0; i < 8; i++) state[i] = broadcast(sp_sha256_initial[i]);
}

/* second_hash: of the first hashes in `state`, whose message schedule they are with the padding. */
SP_INLINE void second_hash(vec state[8]) {
    vec w[16];
    for (int i = 0; i < 8; i++) w[i] = state[i];
    w[8] = broadcast(0x80000000u);
    for (int i = 9; i < 15; i++) w[i] = broadcast(0);
    w[15] = broadcast(256);
    load_initial(state);
    compress(state, w);
}

SP_TARGET static void hash_pairs(uint8_t *out, const uint8_t *const *data) {
    vec state[8], w[16];
    load_initial(state);
    load_message(w, data);
    compress(state, w);
    compress_padding_64(state);
    second_hash(state);
    store_hashes(out, state);
}

SP_TARGET static void messages(const sp_sha256_lane *lanes, size_t count) {
    _Alignas(64) uint32_t blocks[SP_LANES];
    uint8_t hashes[32 * SP_LANES];
    const uint8_t *data[SP_LANES];
    uint32_t least = UINT32_MAX, most = 0;
    vec state[8], w[16];
    for (size_t i = 0; i < SP_LANES; i++) {
        blocks[i] = (uint32_t)lanes[i < count ? i : 0].blocks;
        if (blocks[i] < least) least = blocks[i];
        if (blocks[i] > most) most = blocks[i];
    }
    load_initial(state);
    for (uint32_t block = 0; block < most; block++) {
        vec before[8];
        for (size_t i = 0; i < SP_LANES; i++)
            data[i] = sp_sha256_block(&lanes[i < count ? i : 0], block);
        for (int i = 0; i < 8; i++) before[i] = state[i];
        load_message(w, data);
        compress(state, w);
        if (block < least) continue;
        for (int i = 0; i < 8; i++)
            state[i] = where_greater(load(blocks), broadcast(block), state[i], before[i]);
    }
    second_hash(state);
    store_hashes(hashes, state);
    for (size_t i = 0; i < count; i++) memcpy(lanes[i].out, hashes + 32 * i, 32);
}

static void pairs(uint8_t *out, const uint8_t *in, size_t count) {
    const uint8_t *data[SP_LANES];
    for (; count >= SP_LANES; count -= SP_LANES, in += 64 * SP_LANES, out += 32 * SP_LANES) {
        for (size_t i = 0; i < SP_LANES; i++) data[i] = in + 64 * i;
        hash_pairs(out, data);
    }
    if (count == 0) return;
    uint8_t hashes[32 * SP_LANES];
    for (size_t i = 0; i < SP_LANES; i++) data[i] = in + 64 * (i < count ? i : count - 1);
    hash_pairs(hashes, data);
    memcpy(out, hashes, 32 * count);
}

#endif /* SP_LANES */
