/* The block's proof. Order of judgement follows Bitcoin Core: what could be the fault of this copy
 * alone (mutation) before what condemns the block's hash. */
#include "block.h"

#include <string.h>

#include "sha256.h"

enum block_phase { BLOCK_COUNT, BLOCK_TRAILER, BLOCK_TRANSACTIONS, BLOCK_TAIL };

#define TX_BYTES_MIN 10u /* version, two counts, lock time */
/* A transaction of which more has come is hashed before it is whole. */
#define STREAM_BYTES_MIN 2048u

static inline uint64_t pad8(uint64_t bytes) { return (bytes + 7) & ~UINT64_C(7); }

static inline void store_le32(uint8_t *data, uint32_t value) {
    for (int i = 0; i < 4; i++) data[i] = (uint8_t)(value >> (8 * i));
}

static int refuse(sp_block *block, int code, int mutated) {
    block->facts.mutated = (uint8_t)mutated;
    block->facts.refused_position = block->position;
    block->facts.refused_transaction = block->done;
    return code;
}

int sp_block_begin(sp_block *block, const sp_block_rules *rules, const uint8_t *raw, size_t total) {
    memset(block, 0, offsetof(sp_block, tx));
    block->rules = *rules;
    block->tx_rules = (sp_tx_rules){rules->money_max, rules->weight_max, rules->has_extension};
    block->raw = raw;
    block->total = total;
    block->position = SP_BLOCK_HEADER_BYTES;
    block->phase = BLOCK_COUNT;
    block->facts.coinbase_height = -1;
    block->waiting.count = block->waiting.message_count = 0;
    block->waiting.scratch_used = 0;
    sp_merkle_begin(&block->tree);
    sp_merkle_begin(&block->witness_tree);
    if (total > rules->bytes_max || total > UINT32_MAX) return refuse(block, SP_BAD_BLK_LENGTH, 1);
    return SP_PROVED;
}

uint64_t sp_block_trailer_bytes(uint64_t total, uint64_t tx_count) {
    return pad8(total) - total + pad8(4 * tx_count) + 32 * tx_count + SP_TRAILER_FOOTER_BYTES;
}

void sp_block_set_trailer(sp_block *block, uint8_t *trailer) {
    uint64_t count = block->facts.tx_count;
    uint8_t *offsets = trailer + (pad8(block->total) - block->total);
    uint8_t *txids = offsets + pad8(4 * count);
    uint8_t *footer = txids + 32 * count;
    memset(trailer, 0, (size_t)(offsets - trailer));
    memset(offsets + 4 * count, 0, (size_t)(pad8(4 * count) - 4 * count));
    store_le32(footer, (uint32_t)block->total);
    store_le32(footer + 4, (uint32_t)count);
    store_le32(footer + 8, SP_TRAILER_VERSION);
    store_le32(footer + 12, SP_TRAILER_MAGIC);
    block->offsets = offsets;
    block->txids = txids;
}

/* coinbase_height: what the script opens with, if it is a height as BIP34 wants it pushed (shortest
 * form, not negative); else -1. */
static int64_t coinbase_height(const uint8_t *script, size_t length) {
    if (length == 0) return -1;
    unsigned opcode = script[0];
    if (opcode == 0x00) return 0;
    if (opcode >= 0x51 && opcode <= 0x60) return (int64_t)opcode - 0x50;
    if (opcode > 5 || opcode >= length) return -1;
    int64_t height = 0;
    for (unsigned i = 0; i < opcode; i++) height |= (int64_t)script[1 + i] << (8 * i);
    unsigned top = script[opcode];
    if (top & 0x80) return -1;
    if (top == 0 && (opcode == 1 || !(script[opcode - 1] & 0x80))) return -1;
    return height > 16 ? height : -1;
}

static void fault(sp_block *block, int code) {
    if (code == 0 || block->fault != 0) return;
    block->fault = code;
    block->fault_at = block->done;
}

static void take_coinbase(sp_block *block, const sp_tx *tx) {
    sp_block_facts *facts = &block->facts;
    facts->coinbase_offset = tx->whole.offset;
    facts->coinbase_bytes = tx->whole.length;
    if (!sp_tx_is_coinbase(tx)) return;
    facts->coinbase_height =
        coinbase_height(block->raw + tx->script_sig.offset, tx->script_sig.length);
    if (tx->commitment == 0) return;
    facts->commitment_script_offset = tx->commitment_script.offset;
    facts->commitment_script_bytes = tx->commitment_script.length;
    block->commits = 1;
    memcpy(block->commitment, block->raw + tx->commitment, 32);
    block->nonce_ok = tx->first_item_count == 1 && tx->first_item.length == 32;
    if (block->nonce_ok) memcpy(block->nonce, block->raw + tx->first_item.offset, 32);
}

/* hash_waiting: the ids of all that wait, and their leaves. */
static void hash_waiting(sp_block *block) {
    static const uint8_t zeros[32];
    sp_block_waiting *waiting = &block->waiting;
    uint64_t first = block->done - waiting->count;
    sp_sha256d_messages(waiting->messages, waiting->message_count);
    for (unsigned i = 0; i < waiting->count; i++) {
        const uint8_t *txid = block->txids + 32 * (first + i);
        const uint8_t *wtxid = waiting->has_wtxid[i] ? waiting->wtxids[i] : txid;
        sp_merkle_push(&block->tree, txid);
        /* The coinbase's own is zeros, by BIP141. */
        if (block->commits) sp_merkle_push(&block->witness_tree, first + i > 0 ? wtxid : zeros);
    }
    waiting->count = waiting->message_count = 0;
    waiting->scratch_used = 0;
}

static int wants_wtxid(const sp_block *block) { return block->commits && block->done > 0; }

/* identify: have the ids of the transaction that is whole now hashed, soon or at once. */
static void identify(sp_block *block) {
    sp_block_waiting *waiting = &block->waiting;
    const sp_tx *tx = &block->tx;
    size_t base = sp_tx_base_bytes(tx);
    if (waiting->count == SP_BLOCK_WAITING_MAX ||
        (sp_tx_is_short(tx) && waiting->scratch_used + base > SP_BLOCK_SCRATCH_BYTES))
        hash_waiting(block);
    uint8_t *txid = block->txids + 32 * block->done;
    uint8_t *wtxid = wants_wtxid(block) ? waiting->wtxids[waiting->count] : NULL;
    waiting->has_wtxid[waiting->count++] = wtxid != NULL && tx->has_witness;
    if (sp_tx_is_short(tx) && block->hashing.id_from == 0) {
        waiting->message_count +=
            sp_tx_messages(tx, block->raw, waiting->scratch + waiting->scratch_used, txid, wtxid,
                           waiting->messages + waiting->message_count);
        waiting->scratch_used += base;
    } else {
        sp_tx_hashing_finish(&block->hashing, tx, block->raw, txid, wtxid);
    }
}

/* catch_up: hash what has come; more is being waited for. */
static void catch_up(sp_block *block, size_t have) {
    if (have - block->tx.whole.offset >= STREAM_BYTES_MIN)
        sp_tx_hashing_take(&block->hashing, &block->tx, block->raw, have, wants_wtxid(block));
    hash_waiting(block);
    sp_merkle_settle(&block->tree);
    if (block->commits) sp_merkle_settle(&block->witness_tree);
}

/* take_transaction: account for a whole transaction. */
static void take_transaction(sp_block *block) {
    sp_tx *tx = &block->tx;
    store_le32(block->offsets + 4 * block->done, (uint32_t)tx->whole.offset);
    if (block->done == 0) {
        take_coinbase(block, tx);
        if (!sp_tx_is_coinbase(tx)) fault(block, SP_BAD_CB_MISSING);
    } else if (sp_tx_is_coinbase(tx) && block->second_coinbase == 0) {
        block->second_coinbase = block->done;
    }
    fault(block, sp_tx_fault(tx, &block->tx_rules));
    identify(block);
    size_t base = sp_tx_base_bytes(tx);
    if (base == 64) block->has_small = 1;
    if (tx->has_witness) block->facts.has_witness = 1;
    if (tx->flags & SP_TX_HOGEX) block->has_hogex = 1;
    block->facts.base_bytes += base;
    block->facts.weight += 3 * base + sp_tx_total_bytes(tx);
    block->done++;
}

static int take_count(sp_block *block, size_t have) {
    size_t at = block->position;
    if (have < at) return block->total < at ? refuse(block, SP_TRUNCATED, 1) : SP_MORE;
    int result = sp_read_size(block->raw, &at, have, block->total, &block->facts.tx_count);
    if (result == SP_MORE) return SP_MORE;
    if (result != SP_PROVED) return refuse(block, result, 1);
    if (block->facts.tx_count * TX_BYTES_MIN > block->total - at)
        return refuse(block, SP_TRUNCATED, 1);
    block->facts.base_bytes = at;
    block->facts.weight = 4 * at;
    block->position = at;
    block->phase = BLOCK_TRAILER;
    return SP_PROVED;
}

static int take_transactions(sp_block *block, size_t have) {
    while (block->done < block->facts.tx_count) {
        sp_tx *tx = &block->tx;
        int result = sp_tx_feed(tx, &block->tx_rules, block->raw, have, block->total);
        block->position = tx->position;
        if (result == SP_MORE) {
            catch_up(block, have);
            return SP_MORE;
        }
        if (result != SP_PROVED) return refuse(block, result, 1);
        /* Flags are not part of what the header commits to, so this may be another's doing. */
        if (block->has_hogex) return refuse(block, SP_BAD_EXTENSION, 1);
        take_transaction(block);
        sp_tx_begin(tx, block->position);
        sp_tx_hashing_begin(&block->hashing);
    }
    hash_waiting(block);
    block->phase = BLOCK_TAIL;
    return SP_PROVED;
}

/* take_tail: what follows the last transaction: nothing, or after a HogEx an optional extension
 * block, of which only the first byte says whether it is there. */
static int take_tail(sp_block *block, size_t have) {
    size_t left = block->total - block->position;
    if (block->has_hogex && block->done >= 2) {
        if (left == 0) return refuse(block, SP_TRUNCATED, 1);
        if (have <= block->position) return SP_MORE;
        unsigned present = block->raw[block->position];
        if (present > 1 || (present == 0) != (left == 1)) return refuse(block, SP_BAD_EXTENSION, 1);
        block->facts.extension_bytes = left;
    } else if (left > 0) {
        return refuse(block, SP_TRAILING_BYTES, 1);
    }
    return have < block->total ? SP_MORE : SP_PROVED;
}

/* expects_commitment: whether segregated witness is in force for this block. Where neither the
 * chain nor the coinbase tells the height, a witness says so itself. */
static int expects_commitment(const sp_block *block) {
    int64_t height = block->rules.height;
    if (block->rules.segwit_height <= 0) return 1;
    if (height < 0) {
        const uint8_t *v = block->raw;
        uint32_t version = (uint32_t)v[0] | (uint32_t)v[1] << 8 | (uint32_t)v[2] << 16 |
                           (uint32_t)v[3] << 24;
        if (version >= 2 && version <= INT32_MAX) height = block->facts.coinbase_height;
    }
    if (height < 0) return block->facts.has_witness;
    return height >= block->rules.segwit_height;
}

/* judge_witness: CheckWitnessMalleation of Bitcoin Core. */
static int judge_witness(sp_block *block) {
    if (expects_commitment(block) && block->commits) {
        uint8_t pair[64];
        if (!block->nonce_ok) return SP_BAD_WITNESS_NONCE_SIZE;
        sp_merkle_finish(&block->witness_tree, pair);
        memcpy(pair + 32, block->nonce, 32);
        sp_sha256d_pairs(pair, pair, 1);
        return memcmp(pair, block->commitment, 32) == 0 ? 0 : SP_BAD_WITNESS_MERKLE_MATCH;
    }
    return block->facts.has_witness ? SP_UNEXPECTED_WITNESS : 0;
}

/* judge_mutation: IsBlockMutated of Bitcoin Core. */
static int judge_mutation(sp_block *block) {
    uint8_t root[32];
    sp_merkle_finish(&block->tree, root);
    if (memcmp(root, block->raw + 36, 32) != 0) return SP_BAD_TXNMRKLROOT;
    if (block->tree.mutated) return SP_BAD_TXNS_DUPLICATE;
    /* Without a coinbase, a 64-byte transaction may be an inner node of the tree in disguise. */
    if (block->fault == SP_BAD_CB_MISSING) return block->has_small ? SP_BAD_CB_MISSING : 0;
    return judge_witness(block);
}

/* judge: the verdict on a whole block. */
static int judge(sp_block *block) {
    const sp_block_rules *rules = &block->rules;
    sp_block_facts *facts = &block->facts;
    int code = judge_mutation(block);
    if (code != 0) return refuse(block, code, 1);
    if (facts->tx_count == 0 || facts->tx_count * 4 > rules->weight_max ||
        facts->base_bytes * 4 > rules->weight_max)
        return refuse(block, SP_BAD_BLK_LENGTH, 0);
    if (block->second_coinbase != 0 && block->fault != SP_BAD_CB_MISSING) {
        block->fault = SP_BAD_CB_MULTIPLE;
        block->fault_at = block->second_coinbase;
    }
    if (block->fault != 0) {
        refuse(block, block->fault, 0);
        facts->refused_transaction = block->fault_at;
        return block->fault;
    }
    if (rules->height >= 0 && rules->height >= rules->bip34_height &&
        facts->coinbase_height != rules->height)
        return refuse(block, SP_BAD_CB_HEIGHT, 0);
    if (facts->weight > rules->weight_max) return refuse(block, SP_BAD_BLK_WEIGHT, 0);
    return SP_PROVED;
}

int sp_block_feed(sp_block *block, size_t have) {
    int result = SP_PROVED;
    if (block->phase == BLOCK_COUNT) result = take_count(block, have);
    if (result == SP_PROVED && block->phase == BLOCK_TRAILER) {
        if (block->txids == NULL) return SP_TRAILER_WANTED;
        sp_tx_begin(&block->tx, block->position);
        sp_tx_hashing_begin(&block->hashing);
        block->phase = BLOCK_TRANSACTIONS;
    }
    if (result == SP_PROVED && block->phase == BLOCK_TRANSACTIONS)
        result = take_transactions(block, have);
    if (result == SP_PROVED) result = take_tail(block, have);
    return result == SP_PROVED ? judge(block) : result;
}
