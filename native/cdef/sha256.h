const char *sp_sha256_name(void);
void sp_sha256(uint8_t *out, const uint8_t *data, size_t length);
void sp_sha256d(uint8_t *out, const uint8_t *data, size_t length);
void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count);

typedef struct sp_sha256_variant {
    const char *name;
    void (*transform)(uint32_t *h, const uint8_t *data, size_t blocks);
    void (*pairs)(uint8_t *out, const uint8_t *in, size_t count);
} sp_sha256_variant;

const sp_sha256_variant *sp_sha256_variant_at(int index);
