#define SP_PROVED 0
#define SP_MORE 1
#define SP_TRAILER_WANTED 2

const char *sp_refusal_word(int code);
int sp_merkle_root(const uint8_t *leaves, size_t count, uint8_t *root);

typedef struct sp_tx_rules {
    int64_t money_max;
    uint64_t weight_max;
    uint8_t has_extension;
} sp_tx_rules;

int sp_transaction_prove(const uint8_t *raw, size_t length, const sp_tx_rules *rules,
                         uint8_t *txid, uint8_t *wtxid);

typedef struct sp_block_rules {
    uint64_t bytes_max;
    uint64_t weight_max;
    int64_t money_max;
    int64_t height;
    int64_t bip34_height;
    int64_t segwit_height;
    uint8_t has_extension;
} sp_block_rules;

typedef struct sp_block_facts {
    uint64_t tx_count;
    uint64_t base_bytes;
    uint64_t weight;
    uint64_t extension_bytes;
    int64_t coinbase_height;
    uint64_t coinbase_offset, coinbase_bytes;
    uint64_t commitment_script_offset, commitment_script_bytes;
    uint64_t refused_position;
    uint64_t refused_transaction;
    uint8_t has_witness;
    uint8_t mutated;
} sp_block_facts;

typedef struct sp_block {
    sp_block_facts facts;
    ...;
} sp_block;

int sp_block_begin(sp_block *block, const sp_block_rules *rules, const uint8_t *raw, size_t total);
uint64_t sp_block_trailer_bytes(uint64_t total, uint64_t tx_count);
void sp_block_set_trailer(sp_block *block, uint8_t *trailer);
int sp_block_feed(sp_block *block, size_t have);
