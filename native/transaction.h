/* transaction.h: parses a transaction where it lies, resumable at every element.
 *
 * The bytes stand in one buffer that may still be filling: `have` of `total` bytes are there. The
 * parser keeps its place after the last whole element (an input, an output, a witness item), so that
 * feeding it in pieces costs no more than feeding it at once. It never allocates or recurses; every
 * count and length is checked against what can still come before it is believed. */
#ifndef SP_TRANSACTION_H
#define SP_TRANSACTION_H

#include <stddef.h>
#include <stdint.h>

#include "refusal.h"
#include "sha256.h"

#define SP_TX_SHORT_BYTES 4096u /* longer ones are hashed by themselves */
#define SP_SIZE_MAX 0x02000000u /* longest vector that Bitcoin's serialization allows */

enum sp_tx_flag {
    SP_TX_WITNESS = 1, /* BIP144 */
    SP_TX_HOGEX = 8    /* Litecoin: integrating transaction of an extension block (LIP2, LIP3) */
};

typedef struct sp_tx_rules {
    int64_t money_max;
    uint64_t weight_max;
    uint8_t has_extension; /* SP_TX_HOGEX is known on this chain */
} sp_tx_rules;

/* A piece of the buffer. */
typedef struct sp_span {
    size_t offset, length;
} sp_span;

typedef struct sp_tx {
    size_t position; /* first byte not yet taken */
    uint32_t phase;
    uint64_t left;       /* elements left in this phase */
    uint64_t items_left; /* witness items left of this input */

    sp_span whole;     /* as serialized; the length is set when done */
    sp_span body;      /* inputs and outputs with their counts */
    size_t witness_end;
    uint8_t flags;     /* enum sp_tx_flag */
    uint8_t has_witness; /* at least one witness item */
    uint8_t null_prevout; /* some input spends the null outpoint */
    uint64_t input_count, output_count;
    int64_t value_total;
    int value_fault; /* first output value out of range */

    sp_span script_sig;        /* of the first input */
    uint64_t first_item_count; /* witness items of the first input */
    sp_span first_item;        /* the first of them */
    size_t commitment;         /* offset of the last BIP141 commitment's 32 bytes; 0: none */
    sp_span commitment_script; /* the output script that holds it */
} sp_tx;

/* sp_tx_begin: a transaction whose first byte is at `offset`. */
void sp_tx_begin(sp_tx *tx, size_t offset);

/* sp_tx_feed: take what can be taken of raw[..have]. Returns SP_PROVED when the transaction is
 * whole (tx->position is the byte after it), SP_MORE, or a parse refusal. */
int sp_tx_feed(sp_tx *tx, const sp_tx_rules *rules, const uint8_t *raw, size_t have, size_t total);

int sp_tx_is_coinbase(const sp_tx *tx);

/* sp_tx_base_bytes: serialized length without witness and extension flags. */
size_t sp_tx_base_bytes(const sp_tx *tx);

/* sp_tx_total_bytes: serialized length with witness, without extension flags. */
size_t sp_tx_total_bytes(const sp_tx *tx);

/* sp_tx_fault: the first rule of Core's CheckTransaction that a whole transaction breaks, in its
 * order, except for duplicate inputs; 0 where it breaks none. */
int sp_tx_fault(const sp_tx *tx, const sp_tx_rules *rules);

/* sp_tx_is_short: whether a whole transaction is hashed by sp_tx_messages(). */
int sp_tx_is_short(const sp_tx *tx);

/* sp_tx_messages: the hashes to be made for the ids of a short transaction: one message for the txid,
 * and one for the wtxid where it has a witness and `wtxid` is not NULL. Returns how many.
 * `scratch`, of sp_tx_base_bytes(), is in use until they are hashed. */
unsigned sp_tx_messages(const sp_tx *tx, const uint8_t *raw, uint8_t *scratch, uint8_t *txid,
                        uint8_t *wtxid, sp_sha256_message messages[2]);

/* Txid and wtxid of a transaction that is still coming. */
typedef struct sp_tx_hashing {
    sp_sha256_stream id, witness_id;
    size_t id_from, witness_from; /* first byte not yet hashed; 0: not begun */
} sp_tx_hashing;

/* sp_tx_hashing_begin: nothing of it is hashed yet. */
void sp_tx_hashing_begin(sp_tx_hashing *hashing);

/* sp_tx_hashing_take: hash what is there, raw[..have], of a transaction that sp_tx_feed() answered
 * SP_MORE for, or whose last byte has come; with_witness: for the wtxid too. */
void sp_tx_hashing_take(sp_tx_hashing *hashing, const sp_tx *tx, const uint8_t *raw, size_t have,
                        int with_witness);

/* sp_tx_hashing_finish: the ids of the whole transaction; `wtxid` is NULL where it is not wanted. */
void sp_tx_hashing_finish(sp_tx_hashing *hashing, const sp_tx *tx, const uint8_t *raw,
                          uint8_t txid[32], uint8_t *wtxid);

/* sp_transaction_prove: one transaction that fills raw[..length], with every context-free rule.
 * Returns SP_PROVED with txid and wtxid filled, or a refusal. A coinbase is not refused.
 * Allocates 4 bytes an input while it looks for duplicates. */
int sp_transaction_prove(const uint8_t *raw, size_t length, const sp_tx_rules *rules,
                         uint8_t txid[32], uint8_t wtxid[32]);

/* sp_read_size: a CompactSize at *position, which moves past it. SP_PROVED, SP_MORE or a refusal. */
int sp_read_size(const uint8_t *raw, size_t *position, size_t have, size_t total, uint64_t *value);

#endif /* SP_TRANSACTION_H */
