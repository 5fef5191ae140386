/* block.h: proves a block's body while its bytes arrive.
 *
 * The block stands in one buffer that may still be filling. Each feed parses what has come, hashes
 * every whole transaction, and what there is of a long one, and grows both merkle trees, so that what
 * is left after the last byte depends on the last piece and not on the block; then the verdict falls.
 * The header's proof of work is not looked at here.
 *
 * What is proved: canonical serialization; merkle root without the duplication of CVE-2012-2459;
 * witness commitment and unexpected witnesses as Bitcoin Core's IsBlockMutated judges them; then the
 * context-free rules of CheckBlock and CheckTransaction except for signature operation counts and
 * duplicate inputs, the coinbase's height (BIP34) and the weight. Scripts, coins and lock times are
 * not: those make the difference to level `connected`. */
#ifndef SP_BLOCK_H
#define SP_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "merkle.h"
#include "refusal.h"
#include "transaction.h"

#define SP_BLOCK_HEADER_BYTES 80u
#define SP_TRAILER_FOOTER_BYTES 16u
#define SP_TRAILER_VERSION 1u
#define SP_TRAILER_MAGIC 0x58545053u /* "SPTX" */

typedef struct sp_block_rules {
    uint64_t bytes_max;
    uint64_t weight_max;
    int64_t money_max;
    int64_t height;        /* -1: not known; then the coinbase's own claim is believed */
    int64_t bip34_height;
    int64_t segwit_height;
    uint8_t has_extension; /* a HogEx may be followed by an extension block, which is not proved */
} sp_block_rules;

typedef struct sp_block_facts {
    uint64_t tx_count;
    uint64_t base_bytes;      /* without witnesses and extension */
    uint64_t weight;
    uint64_t extension_bytes; /* after the last transaction */
    int64_t coinbase_height;  /* BIP34, -1: none in proper form */
    uint64_t coinbase_offset, coinbase_bytes;
    uint64_t commitment_script_offset, commitment_script_bytes; /* 0: no commitment */
    uint64_t refused_position;    /* first byte not taken when it was refused */
    uint64_t refused_transaction; /* index of the transaction under way then */
    uint8_t has_witness;
    uint8_t mutated; /* refused: the fault may lie in this copy of the body alone */
} sp_block_facts;

#define SP_BLOCK_WAITING_MAX 32u
#define SP_BLOCK_SCRATCH_BYTES 16384u

/* Whole transactions that are hashed together, at the latest when all bytes that came are parsed. */
typedef struct sp_block_waiting {
    unsigned count, message_count;
    size_t scratch_used;
    sp_sha256_message messages[2 * SP_BLOCK_WAITING_MAX];
    uint8_t has_wtxid[SP_BLOCK_WAITING_MAX]; /* else it is the txid */
    uint8_t wtxids[SP_BLOCK_WAITING_MAX][32];
    uint8_t scratch[SP_BLOCK_SCRATCH_BYTES];
} sp_block_waiting;

typedef struct sp_block {
    sp_block_facts facts;
    sp_block_rules rules;
    sp_tx_rules tx_rules;
    const uint8_t *raw;
    size_t total;
    size_t position;
    uint8_t *offsets; /* within the caller's trailer */
    uint8_t *txids;
    uint64_t done; /* whole transactions */
    int phase;
    int fault;             /* first context-free rule broken, judged once the roots agree */
    uint64_t fault_at;     /* the transaction that broke it */
    uint64_t second_coinbase; /* index of a coinbase that is not the first transaction; 0: none */
    uint8_t commits, nonce_ok, has_small, has_hogex;
    uint8_t commitment[32], nonce[32];
    sp_tx tx;
    sp_tx_hashing hashing; /* of `tx`, once it is long */
    sp_block_waiting waiting;
    sp_merkle tree, witness_tree;
} sp_block;

/* sp_block_begin: a block of `total` bytes whose first byte is raw[0]. `raw` must stay where it is
 * until the verdict. Returns SP_PROVED, or SP_BAD_BLK_LENGTH above rules->bytes_max. */
int sp_block_begin(sp_block *block, const sp_block_rules *rules, const uint8_t *raw, size_t total);

/* sp_block_trailer_bytes: length of the trailer of a block of this size and transaction count. */
uint64_t sp_block_trailer_bytes(uint64_t total, uint64_t tx_count);

/* sp_block_set_trailer: where offsets and txids go (frames.BLOCK_FOOTER has the layout); of
 * sp_block_trailer_bytes(total, facts.tx_count) bytes, any alignment, the caller's own. */
void sp_block_set_trailer(sp_block *block, uint8_t *trailer);

/* sp_block_feed: take what can be taken of raw[..have]; `have` never shrinks. Returns SP_MORE,
 * SP_TRAILER_WANTED (set one, feed the same again), SP_PROVED once, or a refusal; after either of
 * the last two the block must not be fed again. */
int sp_block_feed(sp_block *block, size_t have);

#endif /* SP_BLOCK_H */
