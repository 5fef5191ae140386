/* refusal.h: why a block or a transaction was refused, one code and one word each.
 *
 * Words are Bitcoin Core's where it has one; the parse errors, for which it only has sentences, are
 * ours. Functions of the proof return 0 (done), a positive enum sp_progress, or one of these. */
#ifndef SP_REFUSAL_H
#define SP_REFUSAL_H

enum sp_progress {
    SP_PROVED = 0,
    SP_MORE = 1,          /* all bytes so far are well formed; feed again when more have come */
    SP_TRAILER_WANTED = 2 /* the transaction count is known: give a trailer, then feed again */
};

#define SP_REFUSALS(REFUSAL)                                          \
    REFUSAL(SP_TRUNCATED, -101, "truncated")                          \
    REFUSAL(SP_TRAILING_BYTES, -102, "trailing-bytes")                \
    REFUSAL(SP_NON_CANONICAL_SIZE, -103, "non-canonical-size")        \
    REFUSAL(SP_SIZE_TOO_LARGE, -104, "size-too-large")                \
    REFUSAL(SP_SUPERFLUOUS_WITNESS, -105, "superfluous-witness")      \
    REFUSAL(SP_UNKNOWN_TX_FLAGS, -106, "unknown-tx-flags")            \
    REFUSAL(SP_BAD_EXTENSION, -107, "bad-extension")                  \
    REFUSAL(SP_BAD_TXNMRKLROOT, -120, "bad-txnmrklroot")              \
    REFUSAL(SP_BAD_TXNS_DUPLICATE, -121, "bad-txns-duplicate")        \
    REFUSAL(SP_BAD_WITNESS_NONCE_SIZE, -122, "bad-witness-nonce-size") \
    REFUSAL(SP_BAD_WITNESS_MERKLE_MATCH, -123, "bad-witness-merkle-match") \
    REFUSAL(SP_UNEXPECTED_WITNESS, -124, "unexpected-witness")        \
    REFUSAL(SP_BAD_BLK_LENGTH, -125, "bad-blk-length")                \
    REFUSAL(SP_BAD_BLK_WEIGHT, -126, "bad-blk-weight")                \
    REFUSAL(SP_BAD_CB_MISSING, -127, "bad-cb-missing")                \
    REFUSAL(SP_BAD_CB_MULTIPLE, -128, "bad-cb-multiple")              \
    REFUSAL(SP_BAD_CB_HEIGHT, -129, "bad-cb-height")                  \
    REFUSAL(SP_BAD_CB_LENGTH, -140, "bad-cb-length")                  \
    REFUSAL(SP_BAD_TXNS_VIN_EMPTY, -141, "bad-txns-vin-empty")        \
    REFUSAL(SP_BAD_TXNS_VOUT_EMPTY, -142, "bad-txns-vout-empty")      \
    REFUSAL(SP_BAD_TXNS_OVERSIZE, -143, "bad-txns-oversize")          \
    REFUSAL(SP_BAD_TXNS_VOUT_NEGATIVE, -144, "bad-txns-vout-negative") \
    REFUSAL(SP_BAD_TXNS_VOUT_TOOLARGE, -145, "bad-txns-vout-toolarge") \
    REFUSAL(SP_BAD_TXNS_TXOUTTOTAL_TOOLARGE, -146, "bad-txns-txouttotal-toolarge") \
    REFUSAL(SP_BAD_TXNS_INPUTS_DUPLICATE, -147, "bad-txns-inputs-duplicate") \
    REFUSAL(SP_BAD_TXNS_PREVOUT_NULL, -148, "bad-txns-prevout-null")  \
    REFUSAL(SP_NO_MEMORY, -190, "no-memory")

#define SP_REFUSAL_ENUM(name, code, word) name = code,
enum sp_refusal { SP_REFUSALS(SP_REFUSAL_ENUM) SP_REFUSAL_NONE = 0 };
#undef SP_REFUSAL_ENUM

/* sp_refusal_word: the stable word of a code; "unknown-refusal" for a number that is none. */
const char *sp_refusal_word(int code);

#endif /* SP_REFUSAL_H */
