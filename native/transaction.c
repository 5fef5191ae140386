/* The resumable transaction parser. Every step takes one whole element or nothing. */
#include "transaction.h"

#include <stdlib.h>
#include <string.h>

#include "sha256.h"

enum phase {
    PHASE_VERSION,
    PHASE_INPUT_COUNT,
    PHASE_FLAGS,
    PHASE_FLAGGED_INPUT_COUNT,
    PHASE_INPUT,
    PHASE_OUTPUT_COUNT,
    PHASE_OUTPUT,
    PHASE_WITNESS_COUNT,
    PHASE_WITNESS_ITEM,
    PHASE_EXTENSION,
    PHASE_LOCKTIME,
    PHASE_DONE
};

#define INPUT_BYTES_MIN 41u
#define OUTPUT_BYTES_MIN 9u

/* What a step sees: the bytes that are there and the bytes that may still come. */
typedef struct source {
    const uint8_t *raw;
    size_t have, total;
} source;

static inline int missing(const source *from, size_t end) {
    return end > from->total ? SP_TRUNCATED : SP_MORE;
}

static inline uint64_t load_le(const uint8_t *data, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) value |= (uint64_t)data[i] << (8 * i);
    return value;
}

static int read_size(const source *from, size_t *position, uint64_t *value) {
    size_t at = *position;
    if (at >= from->have) return missing(from, at + 1);
    unsigned first = from->raw[at];
    if (first < 0xfd) {
        *value = first;
        *position = at + 1;
        return SP_PROVED;
    }
    unsigned bytes = 2u << (first - 0xfd);
    if (bytes > from->have - at - 1) return missing(from, at + 1 + bytes);
    uint64_t size = load_le(from->raw + at + 1, bytes);
    static const uint64_t least[] = {0xfd, 0x10000, UINT64_C(0x100000000)};
    if (size < least[first - 0xfd]) return SP_NON_CANONICAL_SIZE;
    if (size > SP_SIZE_MAX) return SP_SIZE_TOO_LARGE;
    *value = size;
    *position = at + 1 + bytes;
    return SP_PROVED;
}

int sp_read_size(const uint8_t *raw, size_t *position, size_t have, size_t total, uint64_t *value) {
    const source from = {raw, have, total};
    return read_size(&from, position, value);
}

/* read_count: a CompactSize of elements of at least `bytes_min` each; more than can still come are
 * refused before the first of them is looked at. */
static int read_count(const source *from, size_t *position, size_t bytes_min, uint64_t *count) {
    size_t at = *position;
    int result = read_size(from, &at, count);
    if (result != SP_PROVED) return result;
    if (*count * bytes_min > from->total - at) return SP_TRUNCATED;
    *position = at;
    return SP_PROVED;
}

/* read_bytes: a CompactSize and as many bytes. */
static int read_bytes(const source *from, size_t *position, sp_span *bytes) {
    uint64_t length;
    size_t at = *position;
    int result = read_size(from, &at, &length);
    if (result != SP_PROVED) return result;
    if (length > from->have - at) return missing(from, at + length);
    *bytes = (sp_span){at, (size_t)length};
    *position = at + (size_t)length;
    return SP_PROVED;
}

static int skip(const source *from, size_t *position, size_t bytes) {
    if (bytes > from->have - *position) return missing(from, *position + bytes);
    *position += bytes;
    return SP_PROVED;
}

static void after_outputs(sp_tx *tx) {
    tx->body.length = tx->position - tx->body.offset;
    tx->witness_end = tx->position;
    tx->left = tx->input_count;
    if (tx->flags & SP_TX_WITNESS)
        tx->phase = PHASE_WITNESS_COUNT;
    else
        tx->phase = (tx->flags & SP_TX_HOGEX) ? PHASE_EXTENSION : PHASE_LOCKTIME;
}

static int take_version(sp_tx *tx, const source *from) {
    int result = skip(from, &tx->position, 4);
    if (result == SP_PROVED) tx->phase = PHASE_INPUT_COUNT;
    return result;
}

static int take_input_count(sp_tx *tx, const source *from) {
    int flagged = tx->phase == PHASE_FLAGGED_INPUT_COUNT;
    uint64_t count;
    size_t at = tx->position;
    int result = read_count(from, &at, INPUT_BYTES_MIN, &count);
    if (result != SP_PROVED) return result;
    tx->body.offset = tx->position;
    tx->position = at;
    tx->input_count = tx->left = count;
    if (count > 0)
        tx->phase = PHASE_INPUT;
    else
        tx->phase = flagged ? PHASE_OUTPUT_COUNT : PHASE_FLAGS;
    return SP_PROVED;
}

static int take_flags(sp_tx *tx, const sp_tx_rules *rules, const source *from) {
    size_t at = tx->position;
    int result = skip(from, &at, 1);
    if (result != SP_PROVED) return result;
    tx->flags = from->raw[tx->position];
    tx->position = at;
    if (tx->flags == 0) {
        /* No marker after all: no inputs, and this byte said no outputs. */
        after_outputs(tx);
        return SP_PROVED;
    }
    unsigned known = SP_TX_WITNESS | (rules->has_extension ? SP_TX_HOGEX : 0u);
    if (tx->flags & ~known) return SP_UNKNOWN_TX_FLAGS;
    tx->phase = PHASE_FLAGGED_INPUT_COUNT;
    return SP_PROVED;
}

static int is_null_outpoint(const uint8_t *outpoint) {
    static const uint8_t zeros[32];
    return load_le(outpoint + 32, 4) == 0xffffffffu && memcmp(outpoint, zeros, 32) == 0;
}

static int take_input(sp_tx *tx, const source *from) {
    size_t at = tx->position;
    sp_span script;
    int result = skip(from, &at, 36);
    if (result == SP_PROVED) result = read_bytes(from, &at, &script);
    if (result == SP_PROVED) result = skip(from, &at, 4);
    if (result != SP_PROVED) return result;
    if (is_null_outpoint(from->raw + tx->position)) tx->null_prevout = 1;
    if (tx->left == tx->input_count) tx->script_sig = script;
    tx->position = at;
    if (--tx->left == 0) tx->phase = PHASE_OUTPUT_COUNT;
    return SP_PROVED;
}

static int take_output_count(sp_tx *tx, const source *from) {
    uint64_t count;
    int result = read_count(from, &tx->position, OUTPUT_BYTES_MIN, &count);
    if (result != SP_PROVED) return result;
    tx->output_count = tx->left = count;
    tx->phase = PHASE_OUTPUT;
    if (count == 0) after_outputs(tx);
    return SP_PROVED;
}

static void count_value(sp_tx *tx, const sp_tx_rules *rules, int64_t value) {
    if (tx->value_fault != 0) return;
    if (value < 0)
        tx->value_fault = SP_BAD_TXNS_VOUT_NEGATIVE;
    else if (value > rules->money_max)
        tx->value_fault = SP_BAD_TXNS_VOUT_TOOLARGE;
    else if ((tx->value_total += value) > rules->money_max)
        tx->value_fault = SP_BAD_TXNS_TXOUTTOTAL_TOOLARGE;
}

static int take_output(sp_tx *tx, const sp_tx_rules *rules, const source *from) {
    static const uint8_t commitment[6] = {0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed};
    size_t at = tx->position;
    sp_span script;
    int result = skip(from, &at, 8);
    if (result == SP_PROVED) result = read_bytes(from, &at, &script);
    if (result != SP_PROVED) return result;
    count_value(tx, rules, (int64_t)load_le(from->raw + tx->position, 8));
    if (script.length >= 38 && memcmp(from->raw + script.offset, commitment, 6) == 0) {
        tx->commitment = script.offset + 6;
        tx->commitment_script = script;
    }
    tx->position = at;
    if (--tx->left == 0) after_outputs(tx);
    return SP_PROVED;
}

static int after_witness(sp_tx *tx) {
    if (!tx->has_witness) return SP_SUPERFLUOUS_WITNESS;
    tx->witness_end = tx->position;
    tx->phase = (tx->flags & SP_TX_HOGEX) ? PHASE_EXTENSION : PHASE_LOCKTIME;
    return SP_PROVED;
}

static int take_witness_count(sp_tx *tx, const source *from) {
    if (tx->left == 0) return after_witness(tx);
    int result = read_count(from, &tx->position, 1, &tx->items_left);
    if (result != SP_PROVED) return result;
    if (tx->items_left > 0) tx->has_witness = 1;
    if (tx->left == tx->input_count) tx->first_item_count = tx->items_left;
    tx->left--;
    if (tx->items_left > 0) tx->phase = PHASE_WITNESS_ITEM;
    return SP_PROVED;
}

static int take_witness_item(sp_tx *tx, const source *from) {
    sp_span item;
    int result = read_bytes(from, &tx->position, &item);
    if (result != SP_PROVED) return result;
    if (tx->left + 1 == tx->input_count && tx->items_left == tx->first_item_count)
        tx->first_item = item;
    if (--tx->items_left == 0) tx->phase = PHASE_WITNESS_COUNT;
    return SP_PROVED;
}

static int take_extension(sp_tx *tx, const source *from) {
    size_t at = tx->position;
    int result = skip(from, &at, 1);
    if (result != SP_PROVED) return result;
    /* Extension data of its own has no place in a block's transaction: the HogEx has none, and no
     * loose extension transaction is relayed by this engine. The HogEx must have an output. */
    if (from->raw[tx->position] != 0 || tx->output_count == 0) return SP_BAD_EXTENSION;
    tx->position = at;
    tx->phase = PHASE_LOCKTIME;
    return SP_PROVED;
}

static int take_locktime(sp_tx *tx, const source *from) {
    int result = skip(from, &tx->position, 4);
    if (result != SP_PROVED) return result;
    tx->whole.length = tx->position - tx->whole.offset;
    tx->phase = PHASE_DONE;
    return SP_PROVED;
}

static int take(sp_tx *tx, const sp_tx_rules *rules, const source *from) {
    switch (tx->phase) {
        case PHASE_VERSION: return take_version(tx, from);
        case PHASE_INPUT_COUNT:
        case PHASE_FLAGGED_INPUT_COUNT: return take_input_count(tx, from);
        case PHASE_FLAGS: return take_flags(tx, rules, from);
        case PHASE_INPUT: return take_input(tx, from);
        case PHASE_OUTPUT_COUNT: return take_output_count(tx, from);
        case PHASE_OUTPUT: return take_output(tx, rules, from);
        case PHASE_WITNESS_COUNT: return take_witness_count(tx, from);
        case PHASE_WITNESS_ITEM: return take_witness_item(tx, from);
        case PHASE_EXTENSION: return take_extension(tx, from);
        default: return take_locktime(tx, from);
    }
}

void sp_tx_begin(sp_tx *tx, size_t offset) {
    memset(tx, 0, sizeof *tx);
    tx->position = offset;
    tx->whole.offset = offset;
    tx->phase = PHASE_VERSION;
}

int sp_tx_feed(sp_tx *tx, const sp_tx_rules *rules, const uint8_t *raw, size_t have, size_t total) {
    const source from = {raw, have, total};
    /* Each step takes at least one byte or moves on a phase without elements: it ends. */
    while (tx->phase != PHASE_DONE) {
        int result = take(tx, rules, &from);
        if (result != SP_PROVED) return result;
    }
    return SP_PROVED;
}

int sp_tx_is_coinbase(const sp_tx *tx) { return tx->input_count == 1 && tx->null_prevout; }

size_t sp_tx_base_bytes(const sp_tx *tx) { return 4 + tx->body.length + 4; }

size_t sp_tx_total_bytes(const sp_tx *tx) {
    if (!tx->has_witness) return sp_tx_base_bytes(tx);
    return sp_tx_base_bytes(tx) + 2 + (tx->witness_end - tx->body.offset - tx->body.length);
}

int sp_tx_fault(const sp_tx *tx, const sp_tx_rules *rules) {
    if (tx->input_count == 0) return SP_BAD_TXNS_VIN_EMPTY;
    if (tx->output_count == 0) return SP_BAD_TXNS_VOUT_EMPTY;
    if (sp_tx_base_bytes(tx) * 4 > rules->weight_max) return SP_BAD_TXNS_OVERSIZE;
    if (tx->value_fault != 0) return tx->value_fault;
    if (sp_tx_is_coinbase(tx))
        return tx->script_sig.length < 2 || tx->script_sig.length > 100 ? SP_BAD_CB_LENGTH : 0;
    return tx->null_prevout ? SP_BAD_TXNS_PREVOUT_NULL : 0;
}

int sp_tx_is_short(const sp_tx *tx) {
    /* Where both flags are set, the wtxid's bytes do not stand in one piece. */
    if (tx->flags == (SP_TX_WITNESS | SP_TX_HOGEX)) return 0;
    return tx->whole.length <= SP_TX_SHORT_BYTES;
}

unsigned sp_tx_messages(const sp_tx *tx, const uint8_t *raw, uint8_t *scratch, uint8_t *txid,
                        uint8_t *wtxid, sp_sha256_message messages[2]) {
    const uint8_t *start = raw + tx->whole.offset;
    messages[0] = (sp_sha256_message){start, sp_tx_base_bytes(tx), txid};
    if (tx->flags != 0) {
        memcpy(scratch, start, 4);
        memcpy(scratch + 4, raw + tx->body.offset, tx->body.length);
        memcpy(scratch + 4 + tx->body.length, start + tx->whole.length - 4, 4);
        messages[0].data = scratch;
    }
    if (!tx->has_witness || wtxid == NULL) return 1;
    messages[1] = (sp_sha256_message){start, tx->whole.length, wtxid};
    return 2;
}

void sp_tx_hashing_begin(sp_tx_hashing *hashing) {
    hashing->id_from = 0;
    hashing->witness_from = 0;
}

/* take_up_to: hash from where `stream` stands up to `end`. */
static void take_up_to(sp_sha256_stream *stream, size_t *from, const uint8_t *raw, size_t end) {
    if (end <= *from) return;
    sp_sha256_update(stream, raw + *from, end - *from);
    *from = end;
}

void sp_tx_hashing_take(sp_tx_hashing *hashing, const sp_tx *tx, const uint8_t *raw, size_t have,
                        int with_witness) {
    static const uint8_t marker[2] = {0, SP_TX_WITNESS};
    if (tx->phase < PHASE_INPUT) return; /* where the body begins is not known yet */
    int in_body = tx->phase <= PHASE_OUTPUT;
    if (hashing->id_from == 0) {
        sp_sha256_begin(&hashing->id);
        sp_sha256_update(&hashing->id, raw + tx->whole.offset, 4);
        hashing->id_from = tx->body.offset;
    }
    take_up_to(&hashing->id, &hashing->id_from, raw,
               in_body ? have : tx->body.offset + tx->body.length);
    if (!with_witness || !(tx->flags & SP_TX_WITNESS)) return;
    if (hashing->witness_from == 0) {
        sp_sha256_begin(&hashing->witness_id);
        sp_sha256_update(&hashing->witness_id, raw + tx->whole.offset, 4);
        sp_sha256_update(&hashing->witness_id, marker, sizeof marker);
        hashing->witness_from = tx->body.offset;
    }
    take_up_to(&hashing->witness_id, &hashing->witness_from, raw,
               tx->phase <= PHASE_WITNESS_ITEM ? have : tx->witness_end);
}

void sp_tx_hashing_finish(sp_tx_hashing *hashing, const sp_tx *tx, const uint8_t *raw,
                          uint8_t txid[32], uint8_t *wtxid) {
    const uint8_t *locktime = raw + tx->whole.offset + tx->whole.length - 4;
    sp_tx_hashing_take(hashing, tx, raw, tx->position, wtxid != NULL);
    sp_sha256_update(&hashing->id, locktime, 4);
    sp_sha256d_finish(&hashing->id, txid);
    if (wtxid == NULL) return;
    if (!tx->has_witness) {
        memcpy(wtxid, txid, 32);
        return;
    }
    sp_sha256_update(&hashing->witness_id, locktime, 4);
    sp_sha256d_finish(&hashing->witness_id, wtxid);
}

/* sift: restore the heap below `root`; greatest outpoint on top. */
static void sift(const uint8_t *raw, uint32_t *heap, size_t root, size_t count) {
    uint32_t moved = heap[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && memcmp(raw + heap[child], raw + heap[child + 1], 36) < 0) child++;
        if (memcmp(raw + moved, raw + heap[child], 36) >= 0) break;
        heap[root] = heap[child];
    }
    heap[root] = moved;
}

/* has_equal: whether two of the outpoints at these offsets are the same. Heap sort: no recursion and
 * no worst case that a sender could aim at. */
static int has_equal(const uint8_t *raw, uint32_t *outpoints, size_t count) {
    for (size_t root = count / 2; root-- > 0;) sift(raw, outpoints, root, count);
    for (size_t end = count; end-- > 1;) {
        uint32_t greatest = outpoints[0];
        outpoints[0] = outpoints[end];
        outpoints[end] = greatest;
        sift(raw, outpoints, 0, end);
        if (memcmp(raw + outpoints[0], raw + greatest, 36) == 0) return 1;
    }
    return 0;
}

/* has_duplicate_inputs: 1, 0, or SP_NO_MEMORY. The transaction was parsed: lengths hold. */
static int has_duplicate_inputs(const sp_tx *tx, const uint8_t *raw, size_t length) {
    if (tx->input_count < 2) return 0;
    uint32_t *outpoints = malloc(tx->input_count * sizeof *outpoints);
    if (outpoints == NULL) return SP_NO_MEMORY;
    const source from = {raw, length, length};
    size_t at = tx->body.offset;
    uint64_t count;
    sp_span script;
    int result = read_size(&from, &at, &count);
    for (uint64_t i = 0; result == SP_PROVED && i < tx->input_count; i++) {
        outpoints[i] = (uint32_t)at;
        at += 36;
        result = read_bytes(&from, &at, &script);
        at += 4;
    }
    if (result == SP_PROVED) result = has_equal(raw, outpoints, tx->input_count);
    free(outpoints);
    return result;
}

/* identify: txid and wtxid of a whole transaction. */
static void identify(const sp_tx *tx, const uint8_t *raw, uint8_t txid[32], uint8_t wtxid[32]) {
    if (sp_tx_is_short(tx)) {
        uint8_t scratch[SP_TX_SHORT_BYTES];
        sp_sha256_message messages[2];
        sp_sha256d_messages(messages, sp_tx_messages(tx, raw, scratch, txid, wtxid, messages));
        if (!tx->has_witness) memcpy(wtxid, txid, 32);
    } else {
        sp_tx_hashing hashing;
        sp_tx_hashing_begin(&hashing);
        sp_tx_hashing_finish(&hashing, tx, raw, txid, wtxid);
    }
}

int sp_transaction_prove(const uint8_t *raw, size_t length, const sp_tx_rules *rules,
                         uint8_t txid[32], uint8_t wtxid[32]) {
    sp_tx tx;
    if (length > SP_SIZE_MAX) return SP_SIZE_TOO_LARGE;
    sp_tx_begin(&tx, 0);
    int result = sp_tx_feed(&tx, rules, raw, length, length);
    if (result != SP_PROVED) return result;
    if (tx.position != length) return SP_TRAILING_BYTES;
    result = sp_tx_fault(&tx, rules);
    if (result != 0 && result != SP_BAD_TXNS_PREVOUT_NULL && result != SP_BAD_CB_LENGTH)
        return result;
    /* Core looks for duplicates before it looks at null outpoints and the coinbase's script. */
    int duplicate = has_duplicate_inputs(&tx, raw, length);
    if (duplicate < 0) return duplicate;
    if (duplicate > 0) return SP_BAD_TXNS_INPUTS_DUPLICATE;
    if (result != 0) return result;
    identify(&tx, raw, txid, wtxid);
    return SP_PROVED;
}
